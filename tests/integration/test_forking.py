"""Processes started by handlers do not serve clients of the server."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests import load_clients, raw
from tests.integration.test_workers import until_gone
from tests.redis_server import RedisServer
from tests.servers import ServerProcess, application_source

pytestmark = pytest.mark.time_limit(60)

BODY = """
import gc, gevent, json, multiprocessing, signal, socket as network, subprocess, threading, time

OPTIONS = {"log": None, "plugins": [], "backplane": os.environ.get("BACKPLANE")}
children = []
providers = []

def trace():
    "Create what starts threads in every child, in a function that runs before `os.fork` returns."
    from opentelemetry.sdk.trace import TracerProvider
    providers.append(TracerProvider(shutdown_on_exit=False))

if "TRACED" in os.environ:
    trace()
hub = gevent.get_hub()
serving = []
os.register_at_fork(after_in_child=lambda: serving.append(gevent.get_hub() is hub))
if "FROZEN" in os.environ:
    gc.freeze()

@on_event("trace")
def create_provider(request, socket, context):
    trace()

def ask_child(function, *args, method="fork"):
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender, function, args))
    process.start()
    sender.close()
    children.append(process)
    return gevent.get_hub().threadpool.apply(receiver.recv)

def answer(sender, function, args):
    try:
        sender.send(function(*args))
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}")

@on_event("start")
def start(request, socket, context):
    "A child that lives until it is ended; returns its pid."
    def live():
        def forever():
            time.sleep(0.05)
            sender.send(os.getpid())
            while True:
                time.sleep(0.05)
        return forever()
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=live)
    process.start()
    children.append(process)
    return gevent.get_hub().threadpool.apply(receiver.recv)

@on_event("terminate")
def terminate(request, socket, context):
    children[-1].terminate()
    while children[-1].exitcode is None:
        time.sleep(0.01)
    return children[-1].exitcode

@on_event("use gevent")
def use(request, socket, context):
    return ask_child(use_gevent)

def use_gevent():
    time.sleep(0.01)
    found = [subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout]
    thread = threading.Thread(target=lambda: (time.sleep(0.01), found.append("thread")))
    thread.start()
    thread.join()
    found.append(gevent.get_hub().threadpool.apply(lambda: "pool"))
    found.append(network.getaddrinfo("127.0.0.1", 80)[0][4][0])
    return found

@on_event("contend")
def contend(request, socket, context):
    "A lock that greenlets of the server waited for is used by threads of the child."
    lock = threading.Lock()
    def hold():
        with lock:
            time.sleep(0.01)
    def threads():
        started = [threading.Thread(target=hold) for _ in range(3)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        return "done"
    return [threads(), ask_child(threads)]

@on_event("send")
def sends(request, socket, context):
    return ask_child(socket.send, "from the child")

@on_event("broadcast")
def broadcasts(request, socket, context):
    return ask_child(broadcast, "from the child")

@on_event("sleep")
def sleeps(request, socket, context):
    time.sleep(0.3)
    say("woke", os.getpid())

@on_event("fork")
def fork(request, socket, context, how):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if how == "wait":
        gevent.event.Event().wait()
    if how == "exit":
        sys.exit(7)
    if how == "raise":
        raise ZeroDivisionError
    if how == "work":
        os._exit(5 if use_gevent() else 1)
    return "never sent"

@on_event("fork in thread")
def fork_in_thread(request, socket, context, has_hub):
    "gevent's own `os.fork` needs the hub of the main thread."
    fork, waitpid = monkey.get_original("os", ["fork", "waitpid"])
    def run():
        if has_hub:
            time.sleep(0.001)
        pid = fork()
        if pid:
            return os.waitstatus_to_exitcode(waitpid(pid, 0)[1])
        thread = threading.Thread(target=time.sleep, args=(0.001,))
        thread.start()
        thread.join()
        os._exit(5)
    return gevent.get_hub().threadpool.apply(run)

@on_event("run")
def run(request, socket, context):
    return subprocess.run(["cat"], input="through", capture_output=True, text=True).stdout

@on_event("at fork")
def at_fork(request, socket, context):
    return ask_child(lambda: serving)

@on_event("pid")
def pid(request, socket, context):
    return os.getpid()

@on_message
def to_all(request, socket, context, message):
    socket.send_and_broadcast(message)

@on_disconnect
def gone(request, socket, context):
    say("gone", os.getpid())
"""

Start = Callable[..., ServerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[ServerProcess] = []

    def start(**env: str) -> ServerProcess:
        servers.append(ServerProcess(application_source(BODY), tmp_path / str(len(servers)), env))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
    load_clients.close_all()


@pytest.fixture
def server(start: Start) -> ServerProcess:
    return start()


@pytest.fixture
def child(server: ServerProcess) -> Iterator[int]:
    """A child process started by a handler."""
    (pid,) = load_clients.WebSocket(server.port).call("start")
    yield pid
    if Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGKILL)


def sockets_of(pid: int) -> set[str]:
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return {link for link in links if link.startswith("socket:")}


class TestChild:
    @pytest.mark.parametrize("kind", [load_clients.WebSocket, load_clients.Polling])
    def test_server_handles_messages_while_a_child_runs(
        self, server: ServerProcess, child: int, kind: Any
    ) -> None:
        clients = [kind(server.port) for _ in range(4)]
        pids = {client.call("pid")[0] for _ in range(50) for client in clients}
        assert pids == {server.process.popen.pid}
        assert server.errors == ""

    def test_child_does_not_serve_existing_connections(self, server: ServerProcess) -> None:
        clients = [kind(server.port) for kind in (load_clients.WebSocket, load_clients.Polling) * 3]
        (child,) = clients[0].call("start")
        for _ in range(50):
            for client in clients:
                assert client.call("pid") == [server.process.popen.pid]
        os.kill(child, signal.SIGKILL)

    def test_child_shares_no_socket_with_the_server(self, server: ServerProcess) -> None:
        resting = [load_clients.WebSocket(server.port), load_clients.Polling(server.port)]
        idle = socket.create_connection(("127.0.0.1", server.port))
        (child,) = resting[0].call("start")
        assert sockets_of(server.process.popen.pid)
        assert not sockets_of(child) & sockets_of(server.process.popen.pid)
        os.kill(child, signal.SIGKILL)
        idle.close()

    def test_address_and_connections_are_free_after_the_server_was_killed(
        self, server: ServerProcess, child: int
    ) -> None:
        client = raw.WebSocket(server.port)
        server.process.popen.kill()
        server.process.popen.wait()
        assert client.wait_closed() is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        assert Path(f"/proc/{child}").exists()

    def test_handler_waiting_during_fork_continues_in_the_server_only(
        self, server: ServerProcess
    ) -> None:
        sleeper = load_clients.WebSocket(server.port)
        waiting = gevent.spawn(sleeper.call, "sleep")
        (child,) = load_clients.WebSocket(server.port).call("start")
        waiting.get()
        assert server.wait_for("woke") == str(server.process.popen.pid)
        os.kill(child, signal.SIGKILL)
        sleeper.goodbye()
        while True:  # read all further lines, which must not come from the child
            name, _, pid = server.process.next_line().partition(" ")
            assert pid == str(server.process.popen.pid)
            if name == "gone":
                break

    def test_child_can_wait_and_use_threads_and_subprocesses(self, server: ServerProcess) -> None:
        client = load_clients.WebSocket(server.port)
        assert client.call("use gevent") == [["hello\n", "thread", "pool", "127.0.0.1"]]
        assert client.call("contend") == [["done", "done"]]
        assert client.call("run") == ["through"]
        assert server.errors == ""

    def test_child_is_ended_by_terminate(self, server: ServerProcess) -> None:
        client = load_clients.WebSocket(server.port)
        client.call("start")
        assert client.call("terminate") == [-signal.SIGTERM]
        assert client.call("pid") == [server.process.popen.pid]

    @pytest.mark.parametrize(
        ("how", "status", "text"),
        [
            ("return", 1, "ends. End a process made by os.fork() with os._exit()"),
            ("wait", 1, "ends. End a process made by os.fork() with os._exit()"),
            ("exit", 7, ""),
            ("raise", 1, "ZeroDivisionError"),
        ],
    )
    def test_forked_handler_that_does_not_exit_ends_without_serving(
        self, server: ServerProcess, how: str, status: int, text: str
    ) -> None:
        client = load_clients.WebSocket(server.port)
        assert client.call("fork", how) == [status]
        assert text in server.errors
        assert client.call("pid") == [server.process.popen.pid]

    def test_server_stops_with_its_handlers_after_a_child(
        self, server: ServerProcess, child: int
    ) -> None:
        client = load_clients.WebSocket(server.port)
        server.process.popen.terminate()
        assert client.closed.get() == 1001
        assert Path(f"/proc/{child}").exists()
        os.kill(child, signal.SIGKILL)  # multiprocessing would wait for its children at exit
        assert server.process.popen.wait() == 0
        until_gone(child)


class TestAtForkFunctions:
    """Functions that a library registers with `os.register_at_fork` and that start threads."""

    @pytest.fixture(params=["before", "after"])
    def traced(self, start: Start, request: pytest.FixtureRequest) -> ServerProcess:
        """A server with a tracer provider, created before or after the server."""
        if request.param == "before":
            return start(TRACED="1")
        server = start()
        assert load_clients.WebSocket(server.port).call("trace") == []
        return server

    @pytest.mark.parametrize("env", [{}, {"FROZEN": "1"}])
    def test_function_registered_before_the_server_runs_in_a_detached_child(
        self, start: Start, env: dict[str, str]
    ) -> None:
        client = load_clients.WebSocket(start(**env).port)
        assert client.call("at fork") == [[False]]

    @pytest.mark.parametrize(
        ("call", "answer"),
        [
            (("run",), "through"),
            (("fork", "work"), 5),
            (("fork in thread", False), 5),
            (("fork in thread", True), 5),
            (("use gevent",), ["hello\n", "thread", "pool", "127.0.0.1"]),
        ],
        ids=["subprocess", "os", "thread", "thread-with-hub", "multiprocessing"],
    )
    def test_child_handles_no_message_when_a_library_starts_threads_in_it(
        self, traced: ServerProcess, call: tuple[Any, ...], answer: Any
    ) -> None:
        done = gevent.event.Event()

        def pids(number: int) -> set[int]:
            client = (load_clients.WebSocket, load_clients.Polling)[number % 2](traced.port)
            found = set()
            while not done.is_set():
                found.update(client.call("pid"))
            return found

        senders = [gevent.spawn(pids, number) for number in range(6)]
        client = load_clients.WebSocket(traced.port)
        for _ in range(3):
            assert client.call(*call) == [answer]
        done.set()
        gevent.joinall(senders, raise_error=True)
        for sender in senders:
            assert sender.value == {traced.process.popen.pid}
        assert traced.errors == ""


class TestEmitting:
    def test_socket_of_the_server_raises_in_the_child(self, server: ServerProcess) -> None:
        (said,) = load_clients.WebSocket(server.port).call("send")
        assert said.startswith("WrongContext: this process was forked from a server")
        assert "SOCKETIO_BACKPLANE" in said

    def test_broadcast_without_backplane_raises_in_the_child(self, server: ServerProcess) -> None:
        (said,) = load_clients.WebSocket(server.port).call("broadcast")
        assert said.startswith("NoSocket: ")
        assert "forked from a server" in said
        assert "SOCKETIO_BACKPLANE" in said

    def test_broadcast_with_backplane_reaches_all_clients_once(
        self, start: Start, tmp_path: Path
    ) -> None:
        redis = RedisServer(tmp_path).start()
        try:
            servers = [start(BACKPLANE=redis.url) for _ in range(2)]
            clients = [load_clients.WebSocket(server.port) for server in servers]
            (child,) = clients[0].call("start")
            assert clients[0].call("broadcast") == []
            for _ in range(20):
                clients[1].emit("message", "of another process")
            clients[1].emit("message", "last")
            for client in clients:
                while ["message", "last"] not in client.events:
                    gevent.sleep(0.01)
                assert client.events.count(["message", "from the child"]) == 1
                assert client.events.count(["message", "of another process"]) == 20
            os.kill(child, signal.SIGKILL)
            for server in servers:
                server.stop()
                assert server.errors == ""
        finally:
            redis.stop()
