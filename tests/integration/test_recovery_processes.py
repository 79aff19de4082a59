"""Connection state recovery between real processes: kills, stops, starts and rolling restarts."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from tests import raw
from tests.integration.test_workers import children
from tests.recovery_client import RecoveringClient
from tests.redis_server import RedisServer
from tests.servers import Served, ServerProcess, application_source, module_source

pytestmark = pytest.mark.time_limit(90)

BODY = """
OPTIONS = {"backplane": os.environ["BACKPLANE"], "recovery_time": 60, "drain_time": 0.5}
OPTIONS["plugins"] = []

from webpy_socketio import adopted_sessions
adopted_sessions.TIMEOUT = 20.0

@on_event("remember")
def remember(request, socket, context, value):
    context["value"] = value

@on_event("recall")
def recall(request, socket, context):
    return context.get("value")

@on_event("pid")
def pid(request, socket, context):
    return os.getpid()

@on_event("say")
def say_to_room(request, socket, context, message):
    socket.to("room").send(message)

@on_finish
def finish(request, socket, context):
    say("FINISH", context.get("value"))
"""


@pytest.fixture
def start(redis: RedisServer, tmp_path: Path) -> Iterator[Callable[[str], ServerProcess]]:
    with contextlib.ExitStack() as stack:

        def start(name: str) -> ServerProcess:
            server = ServerProcess(
                application_source(BODY), tmp_path / name, {"BACKPLANE": redis.url}
            )
            stack.callback(server.close)
            return server

        yield start


def connect(server: ServerProcess | Served, value: str) -> RecoveringClient:
    """Return a client in a channel whose socket remembers a value."""
    client = RecoveringClient(server)
    client.subscribe("room")
    client.raw.emit_and_wait("remember", value)
    return client


def recalls(client: RecoveringClient, value: str) -> bool:
    return bool(client.raw.call("recall") == [value])


def test_client_of_a_killed_process_gets_a_new_connection(
    start: Callable[[str], ServerProcess],
) -> None:
    one, two = start("one"), start("two")
    client = connect(one, "Ann")
    one.process.popen.kill()
    one.process.wait()
    assert not client.resume(two)
    assert client.raw.call("recall") == []


def test_client_of_a_killed_process_that_had_moved_resumes(
    start: Callable[[str], ServerProcess],
) -> None:
    one, two, three = (start(name) for name in ("one", "two", "three"))
    client = connect(one, "Ann")
    client.raw.vanish()
    assert client.resume(two)
    one.process.popen.kill()
    client.raw.vanish()
    assert client.resume(three)
    assert recalls(client, "Ann")


def test_clients_of_a_process_that_stops_resume_elsewhere(
    start: Callable[[str], ServerProcess],
) -> None:
    one, two = start("one"), start("two")
    lost, connected, sender = connect(one, "lost"), connect(one, "connected"), connect(two, "x")
    lost.raw.vanish()
    sender.raw.emit("say", "before the stop")
    assert connected.messages(1) == ["before the stop"]
    one.stop()
    sender.raw.emit("say", "after the stop")
    for client, messages in ((lost, ["before the stop"]), (connected, [])):
        assert client.resume(two)
        assert client.messages(len(messages) + 1) == [*messages, "after the stop"]
    assert recalls(lost, "lost")
    assert recalls(connected, "connected")
    assert "Traceback" not in one.errors + two.errors


def test_all_processes_stop_and_start_again(start: Callable[[str], ServerProcess]) -> None:
    one, two = start("one"), start("two")
    clients = [connect(one, "0"), connect(two, "1")]
    clients[0].raw.vanish()
    clients[1].raw.emit("say", "missed")
    clients[1].barrier()
    for server in (one, two):
        server.process.popen.send_signal(signal.SIGTERM)
    for server in (one, two):
        assert server.process.wait() == 0
    one.start()
    for number, client in enumerate(clients):
        assert client.resume(one)
        assert client.messages(1 - number) == ["missed"][number:]
        assert recalls(client, str(number))


@pytest.fixture
def workers(redis: RedisServer, tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "workers"
    folder.mkdir()
    (folder / "site_of_ours.py").write_text(module_source(BODY), encoding="utf-8")
    command = ["webpy_socketio", "serve", "site_of_ours:application", "--port", "0", "--quiet"]
    served = Served([*command, "--workers", "2"], folder, {"BACKPLANE": redis.url})
    try:
        served.ready()
        yield served
    finally:
        served.close()


def test_rolling_restart_of_workers_recovers_all_clients(workers: Served) -> None:
    clients = [connect(workers, str(number)) for number in range(20)]
    before = children(workers)
    for client in clients[:5]:
        client.raw.vanish()
    workers.signal(signal.SIGHUP)
    recovered = []

    def follow(client: RecoveringClient) -> None:
        while True:  # a client may reconnect to a worker that is about to be replaced as well
            with contextlib.suppress(raw.Closed):
                while True:
                    client.raw.receive()
            recovered.append(client.resume(workers))

    followers = [gevent.spawn(follow, client) for client in clients[5:]]
    while children(workers) & before:
        gevent.sleep(0.05)
    while len(recovered) < 15:
        gevent.sleep(0.05)
    gevent.killall(followers)
    recovered += [client.resume(workers) for client in clients[:5]]
    assert all(recovered), f"{recovered}\n{workers.errors}"
    assert len(recovered) >= 20
    for number, client in enumerate(clients):
        assert recalls(client, str(number))
    clients[0].raw.emit("say", "to all")
    for client in clients[1:]:
        assert client.messages(1) == ["to all"]
