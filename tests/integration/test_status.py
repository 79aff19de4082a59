"""The command ``status``, with real servers, workers and Redis."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.server import StreamServer

from tests import raw
from tests.conftest import Site
from tests.integration.test_workers import children
from tests.recovery_client import RecoveringClient
from tests.redis_server import RedisServer
from tests.servers import Process, Served, ServerProcess, application_source, module_source
from webpy_socketio import __version__, process_status, signals
from webpy_socketio.cli import main, running_servers, status
from webpy_socketio.runtime import default_runtime

pytestmark = pytest.mark.time_limit(60)

BODY = """
OPTIONS = {
    "backplane": os.environ.get("BACKPLANE"),
    "recovery_time": float(os.environ.get("RECOVERY", "0")),
    "namespaces": ["/", "/chat"],
    "plugins": os.environ.get("PLUGINS", "").split(),
    "worker_timeout": None,
    "drain_time": 0,
}

@on_message
def message(request, socket, context, message):
    socket.send(message)
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A temporary folder for the servers of a test, with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="status"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(status, "INTERVAL", 0.1)
    # Servers that other tests run at the same time.
    monkeypatch.setattr(running_servers, "_places", lambda: [folder])
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def run_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start a program that calls ``serve_forever()``."""
    started: list[ServerProcess] = []

    def run(**env: str) -> ServerProcess:
        place = tmp_path / str(len(started))
        # TMPDIR is read once in the process that is forked.
        source = application_source(BODY).replace(
            "OPTIONS = {\n",
            "import tempfile; tempfile.tempdir = os.environ['TMPDIR']\nOPTIONS = {\n",
        )
        started.append(ServerProcess(source, place, {**env, "TMPDIR": os.environ["TMPDIR"]}))
        return started[-1]

    yield run
    for server in started:
        server.close()


class Result:
    """The outcome of the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        capsys.readouterr()
        self.status = main(["status", *words])
        self.out, self.error = capsys.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        assert (self.status, self.error) == (0, "")
        found: dict[str, Any] = json.loads(self.out)
        return found


Ask = Callable[..., Result]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    return lambda *words: Result(capsys, *words)


class TestOneProcess:
    def test_process_without_supervisor_is_shown(
        self, run_server: Callable[..., ServerProcess], ask: Ask
    ) -> None:
        server = run_server()
        client = raw.WebSocket(server.port)
        client.connect()
        client.call("__subscribe__", "room")
        found = ask("--json").json
        assert found["supervisor"] is None
        (process,) = found["processes"]
        assert process["pid"] == server.process.popen.pid
        assert process["version"] == found["version"] == __version__
        assert process["addresses"] == [f"{server.url}/"]
        assert process["sessions"] == {"polling": 0, "websocket": 1}
        assert process["sockets"]["/"] == process["channels"]["/"] == 1
        assert (process["redis"], process["recovery"], process["draining"]) == (None, None, False)
        assert found["totals"]["sessions"] == found["totals"]["sockets"] == 1
        shown = ask().out
        for text in (f"address: {server.url}/", f"webpy_socketio {__version__}", "serving"):
            assert text in shown

    def test_rates_are_measured_between_two_samples(
        self,
        run_server: Callable[..., ServerProcess],
        ask: Ask,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        client = raw.WebSocket(run_server().port)
        client.connect()
        sleep = gevent.sleep

        def exchange(seconds: float) -> None:
            """Send messages between the samples."""
            for number in range(20):
                client.emit("message", number)
                assert client.event() == ["message", number]
            sleep(seconds)

        monkeypatch.setattr(gevent, "sleep", exchange)
        (process,) = ask("--json").json["processes"]
        assert process["rates"]["received"] > 0
        assert process["rates"]["sent"] == process["rates"]["received"]

    def test_messages_are_counted_during_the_lease_only(
        self, serve: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process_status, "LEASE", 0.01)
        serve()
        assert not signals.sent.receivers
        default_runtime.status.describe()
        assert signals.sent.receivers
        assert signals.handled.receivers
        while signals.sent.receivers or signals.handled.receivers:
            gevent.sleep(0.01)

    def test_namespaces_that_clients_name_are_counted_together(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(namespaces=["/", re.compile("/room-.*$")])
        for number in range(3):
            site.websocket().connect(namespace=f"/room-{number},")
        found = default_runtime.status.describe()
        assert found["sockets"]["other"] == 3
        assert set(found["sockets"]) <= {"/", "other"}

    def test_folder_is_removed_when_the_server_stops(
        self, run_server: Callable[..., ServerProcess], folder: Path, ask: Ask
    ) -> None:
        server = run_server()
        (path,) = folder.iterdir()
        assert [each.name for each in path.iterdir()] == ["status-0"]
        server.stop()
        assert list(folder.iterdir()) == []
        assert "no server of this user runs" in ask().error

    def test_unusable_temporary_folder_does_not_prevent_serving(
        self, run_server: Callable[..., ServerProcess], folder: Path
    ) -> None:
        os.environ["TMPDIR"] = str(folder / "missing")  # restored by the fixture
        server = run_server()
        raw.WebSocket(server.port).connect()
        assert "Traceback" not in server.errors


class TestSelection:
    def test_no_server_is_an_error(self, ask: Ask, folder: Path) -> None:
        found = ask()
        assert found.status == 1
        assert str(folder) in found.error
        assert "--folder" in found.error

    def test_several_servers_are_listed(
        self, run_server: Callable[..., ServerProcess], ask: Ask, folder: Path
    ) -> None:
        servers = [run_server(), run_server()]
        found = ask()
        assert found.status == 1
        for server in servers:
            assert f"{server.url}/, pid {server.process.popen.pid}" in found.error
        path = next(folder.iterdir())
        (process,) = ask("--json", "--folder", str(path)).json["processes"]
        assert process["pid"] in {server.process.popen.pid for server in servers}
        servers[0].process.popen.kill()
        servers[0].process.wait()
        # The folder of a killed server is ignored; a temporary folder can be named as well.
        (process,) = ask("--json", "--folder", str(folder)).json["processes"]
        assert process["pid"] == servers[1].process.popen.pid

    @pytest.mark.parametrize(
        ("sent", "error"),
        [
            (b'{"format": 2}\n', "another version of webpy_socketio"),
            (b'{"format": 1, "size": 2}\n{', "closed the connection during its answer"),
            (b'{"format": 1, "size": 1}\n{', "is not JSON"),
            (b'{"format": 1, "size": 0, "error": "\\u001b[2Jfailed"}\n', "?[2Jfailed"),
        ],
    )
    def test_unusable_answer_is_an_error(
        self, ask: Ask, folder: Path, sent: bytes, error: str
    ) -> None:
        path = folder / "webpy_socketio-newer"
        path.mkdir(mode=0o700)

        def answer(link: Any, address: Any) -> None:
            link.recv(100)
            link.sendall(sent)
            link.close()

        sock = gevent.socket.socket(gevent.socket.AF_UNIX)
        sock.bind(str(path / "status-0"))
        sock.listen()
        server = StreamServer(sock, answer)
        server.start()
        try:
            found = ask()
        finally:
            server.stop()
            sock.close()
        assert found.status == 1
        assert error in found.error

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as another user")
    @pytest.mark.parametrize("mode", [0o700, 0o755])
    def test_server_of_another_user_is_an_error(
        self, run_server: Callable[..., ServerProcess], folder: Path, mode: int
    ) -> None:
        run_server()
        folder.chmod(0o755)
        (own,) = folder.iterdir()
        for path in own.iterdir():
            path.chmod(0o777)
        own.chmod(mode)
        code = (
            "from gevent import monkey; monkey.patch_all()\n"
            "import os, sys; from webpy_socketio.cli import _parser, main\n"
            "_parser()\n"  # import everything while it is readable
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            f"sys.exit(main(['status', '--folder', {str(folder)!r}]))"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert found.returncode == 1
        assert "no permission" in found.stderr
        assert f"user {os.geteuid()}" in found.stderr

    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (("--folder", "x", "--backplane", "redis://127.0.0.1"), "remove one of them"),
            (("--metrics", "--json"), "--metrics can be combined with --folder only"),
            (("--backplane", "http://127.0.0.1"), "SOCKETIO_BACKPLANE"),
            (("--backplane", "redis://:secret@127.0.0.1:1"), "127.0.0.1:1 cannot be queried"),
        ],
    )
    def test_invalid_options_are_errors(self, words: tuple[str, ...], error: str, ask: Ask) -> None:
        found = ask(*words)
        assert found.status == 1
        assert error in found.error
        assert "secret" not in found.error


class TestCluster:
    def test_all_servers_of_a_cluster_are_shown(
        self, run_server: Callable[..., ServerProcess], redis: RedisServer, ask: Ask
    ) -> None:
        assert "no server is connected" in ask("--backplane", redis.url).error
        servers = [run_server(BACKPLANE=redis.url, RECOVERY="60") for _ in range(2)]
        lost = RecoveringClient(servers[0])
        lost.raw.vanish()
        redis.ask("HSET", "webpy_socketio:1:recovery:parked:json", "1", "x")
        while True:
            found = ask("--json", "--backplane", redis.url).json
            if sum(each["recovery"]["suspended"] for each in found["processes"]) == 1:
                break
        assert [each["pid"] for each in found["processes"]] == sorted(
            server.process.popen.pid for server in servers
        )
        for process in found["processes"]:
            assert process["redis"]["address"] == f"127.0.0.1:{redis.port}"
            assert process["redis"]["connected"]
            assert process["redis"]["latency"] > 0
            assert process["recovery"]["parked_bundles"] == 1
        shown = ask("--backplane", redis.url, "--backplane-prefix", "webpy_socketio").out
        assert "2 of 2 connected" in shown
        assert "1 parked bundles" in shown
        assert "no server is connected" in (
            ask("--backplane", redis.url, "--backplane-prefix", "other").error
        )

    def test_unreachable_redis_is_shown(
        self,
        run_server: Callable[..., ServerProcess],
        redis: RedisServer,
        ask: Ask,
        folder: Path,
    ) -> None:
        run_server(BACKPLANE=redis.url)
        redis.stop()
        while (found := ask("--json").json["processes"][0]["redis"])["connected"]:
            pass
        assert found["latency"] is None
        assert "unreachable" in ask().out


@pytest.fixture
def workers(tmp_path: Path, redis: RedisServer, folder: Path) -> Iterator[Served]:
    (tmp_path / "site_of_ours.py").write_text(module_source(BODY), encoding="utf-8")
    command = ["webpy_socketio", "serve", "site_of_ours:application", "--port", "0"]
    env = {"BACKPLANE": redis.url, "PLUGINS": "webpy_socketio.plugins.metrics"}
    served = Served([*command, "--quiet", "--workers", "2"], tmp_path, env)
    try:
        served.ready()
        yield served
    finally:
        served.close()


class TestWorkers:
    @pytest.mark.time_limit(120)
    def test_workers_are_shown_with_those_that_do_not_answer(
        self, workers: Served, ask: Ask
    ) -> None:
        found = ask("--json").json
        pids = children(workers)
        assert found["supervisor"]["pid"] == workers.process.popen.pid
        assert found["supervisor"]["application"] == "site_of_ours:application"
        assert {each["pid"] for each in found["processes"]} == pids
        assert [each["worker"] for each in found["processes"]] == [1, 2]
        assert found["silent"] == []
        metrics = ask("--metrics").out
        assert 'webpy_socketio_outbox_bytes{worker="2"} 0' in metrics
        stopped = min(pids)
        os.kill(stopped, signal.SIGSTOP)
        try:
            found = ask("--json").json
            assert {each["pid"] for each in found["processes"]} == pids - {stopped}
            (silent,) = found["silent"]
            assert silent["pid"] == stopped
            assert "no answer within" in silent["error"]
        finally:
            os.kill(stopped, signal.SIGCONT)

        # The installed command repeats until Ctrl-C.
        command = [sys.executable, "-m", "webpy_socketio", "status", "--watch"]
        watching = Process(command, workers.folder / "watch.log")
        try:
            for _ in range(2):
                watching.wait_for("worker ")
            watching.popen.send_signal(signal.SIGINT)
            assert watching.wait() == 0
            assert watching.errors == ""
        finally:
            watching.kill()
