"""Several workers on one port: real processes, a real Redis, standard clients.

The kernel chooses the worker that accepts a connection; the tests must pass for every choice.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest

from tests import commands, load_clients, preloaded, raw
from tests.certificates import make_certificate
from tests.conftest import Journal
from tests.integration.test_js_client import APPLICATION_BODY
from tests.integration.test_js_client import Client as JsClient
from tests.integration.test_python_client import TRANSPORTS, Client
from tests.node_clients import JS, needs_stock_client
from tests.redis_server import RedisServer
from tests.servers import Process, Served, free_port, module_source

pytestmark = pytest.mark.time_limit(60)

BODY = """
OPTIONS = {
    "backplane": os.environ.get("BACKPLANE"),
    "plugins": os.environ.get("PLUGINS", "").split(),
    "presence_grace": 0.5,
    "worker_timeout": float(os.environ.get("WORKER_TIMEOUT", "30")),
}
urls = ("/pid", "Pid")

if OPTIONS["plugins"]:
    from webpy_socketio.plugins import presence
    from webpy_socketio.plugins.presence.periodic import Intervals

    presence.INTERVALS = Intervals(heartbeat=0.2, lease=1.0, sweep=0.1, reconcile=60.0)

class Pid:
    def GET(self):
        return str(os.getpid())

@on_event("pid")
def pid(request, socket, context):
    return os.getpid()

@on_event("echo")
def echo(request, socket, context, *args):
    return args

@on_message
def message(request, socket, context, message):
    socket.send_and_broadcast(message)

@on_event("say")
def tell(request, socket, context, message):
    socket.send_and_broadcast_channel(message, "room")

@on_event("members")
def members(request, socket, context):
    return sorted(presence.members("room"))

@on_event("slow")
def slow(request, socket, context, seconds):
    __import__("gevent").sleep(seconds)
    return "done"
"""

Serve = Callable[..., Served]


@contextlib.contextmanager
def serving(
    folder: Path,
    *options: str,
    source: str = module_source(BODY),
    fork: bool = True,
    **env: str,
) -> Iterator[Served]:
    """Run ``serve site:application`` with these options; stderr must stay empty."""
    (folder / "site_of_ours.py").write_text(source, encoding="utf-8")
    command = ["webpy_socketio", "serve", "site_of_ours:application", "--port", "0"]
    served = Served([*command, "--quiet", *options], folder, env, fork=fork)
    try:
        served.ready()
        yield served
    finally:
        served.close()


@pytest.fixture(scope="module", params=[2, 4])
def workers(
    request: pytest.FixtureRequest,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The requested number of workers, shared by several tests; four are new interpreters."""
    folder = tmp_path_factory.mktemp("workers")
    options = ("--workers", str(request.param))
    with serving(folder, *options, fork=request.param < 4, BACKPLANE=shared_redis.url) as served:
        served.count = request.param  # type: ignore[attr-defined]
        yield served
    assert served.errors == ""


@pytest.fixture
def two(shared_redis: RedisServer, tmp_path: Path) -> Iterator[Served]:
    """Two workers for one test, which may stop them."""
    env = {"BACKPLANE": shared_redis.url, "PLUGINS": "webpy_socketio.plugins.presence"}
    with serving(tmp_path, "--workers", "2", **env) as served:
        yield served
    load_clients.close_all()


def page(port: int) -> int:
    """Return the pid of the worker that accepts a new connection."""
    connection = raw.http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/pid")
    answer = int(connection.getresponse().read())
    connection.close()
    return answer


def one_in_each(served: Served, count: int, make: Callable[[], Any]) -> dict[int, Any]:
    """Create clients until each worker has one; return one per worker, by pid."""
    found: dict[int, Any] = {}
    while len(found) < count:
        client = make()
        (pid,) = client.call("pid")
        found.setdefault(pid, client)
    return found


def children(served: Served) -> set[int]:
    pid = served.process.popen.pid
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(word) for word in text.split()} | preloaded.workers(pid)


def until_gone(*pids: int) -> None:
    while any(Path(f"/proc/{pid}/stat").exists() for pid in pids):
        gevent.sleep(0.02)


class TestClients:
    @pytest.mark.parametrize("transports", TRANSPORTS)
    def test_python_clients_share_channels_and_presence(
        self, workers: Served, transports: str
    ) -> None:
        made = [Client(TRANSPORTS[transports]) for _ in range(6)]
        try:
            for client in made:
                client.io.connect(workers.url, transports=client.transports)
                assert client.io.transport() == client.transports[-1]
            for number, client in enumerate(made):
                for turn in range(10):
                    answer = client.io.call("echo", (number, turn), timeout=30)
                    assert tuple(answer) == (number, turn)
            made[0].io.send("to all of you")
            for client in made:
                client.received.wait_for(("message", "to all of you"))
        finally:
            for client in made:
                client.close()

    @pytest.mark.parametrize("kind", [load_clients.Polling, load_clients.WebSocket])
    def test_workers_share_clients_and_broadcast_to_all(self, workers: Served, kind: Any) -> None:
        count: int = workers.count  # type: ignore[attr-defined]
        clients = one_in_each(workers, count, lambda: kind(workers.port))
        received = Journal()
        for pid, client in clients.items():
            client.heard = lambda event, pid=pid: received.append((pid, event[1]))
        for pid, client in clients.items():
            client.emit("message", f"from {pid}")
        received.wait_for(*[(to, f"from {pid}") for to in clients for pid in clients])
        assert len(received) == count * count
        load_clients.close_all()

    def test_upgrade_loses_no_messages(self, workers: Served) -> None:
        """Any worker may accept the requests of polling and of the WebSocket."""
        for _ in range(20):
            polling = load_clients.Polling(workers.port)
            polling.emit("message", "before")
            websocket = polling.upgrade()
            assert websocket.call("echo", "after") == ["after"]
            # Messages of clients of other rounds may have arrived as well.
            assert ["message", "before"] in websocket.events
        load_clients.close_all()

    def test_many_polling_sessions_share_workers(self, workers: Served) -> None:
        count = load_clients.scaled(500, 100)
        clients = load_clients.together(lambda number: load_clients.Polling(workers.port), count)

        def talk(number: int) -> Any:
            return [clients[number].call("echo", number, turn) for turn in range(3)]

        assert load_clients.together(talk, count) == [
            [[number, turn] for turn in range(3)] for number in range(count)
        ]
        pids = collections.Counter(
            pid
            for (pid,) in load_clients.together(lambda number: clients[number].call("pid"), count)
        )
        assert len(pids) == workers.count  # type: ignore[attr-defined]
        load_clients.close_all()


@pytest.fixture(scope="module")
def js_workers(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Run two workers with the application of `test_js_client`."""
    body = APPLICATION_BODY + '\nOPTIONS["backplane"] = os.environ["BACKPLANE"]\n'
    folder = tmp_path_factory.mktemp("js")
    env = {"BACKPLANE": shared_redis.url}
    with serving(folder, "--workers", "2", source=module_source(body), **env) as served:
        yield served


@needs_stock_client
class TestJavaScript:
    """The scenarios of `test_js_client`, against workers."""

    @pytest.mark.parametrize(
        ("scenario", "transports"),
        [
            *[("messages", each) for each in ("polling", "websocket", "polling,websocket")],
            *[("upgrade", "polling,websocket"), ("channels", "polling"), ("binary", "polling")],
            *[("presence", "polling,websocket"), ("early", "polling")],
        ],
    )
    def test_javascript_scenario_completes(
        self, js_workers: Served, tmp_path: Path, scenario: str, transports: str
    ) -> None:
        command = ["node", str(JS / "client.mjs"), scenario, js_workers.url, transports, "node"]
        client = JsClient(Process(command, tmp_path / "client.log"))
        steps = []
        try:
            while (step := json.loads(client.process.next_line()))["step"] != "end":
                steps.append(step)
            assert client.process.wait() == 0, client.process.errors
        finally:
            client.process.kill()
        assert client.process.errors == ""
        assert steps
        if scenario == "upgrade":
            order = steps[-1]
            assert order["server"] == order["sent"] == order["received"]

    @pytest.mark.parametrize("transports", ["polling", "websocket", "polling,websocket"])
    def test_javascript_client_reconnects_after_restart(
        self, js_workers: Served, tmp_path: Path, transports: str
    ) -> None:
        command = ["node", str(JS / "client.mjs"), "cleanup", js_workers.url, transports, "node"]
        client = JsClient(Process(command, tmp_path / "client.log"))
        try:
            assert client.step("ready") == {}
            before = children(js_workers)
            js_workers.signal(signal.SIGHUP)
            assert client.step("where") == {"answer": [["room-1"]], "channels": ["room-1"]}
            client.end()
            until_gone(*before)
            while len(children(js_workers)) != 2:
                gevent.sleep(0.02)
        finally:
            client.process.kill()


class TestBacklog:
    def test_connection_waits_in_backlog_while_workers_are_busy(self, two: Served) -> None:
        pids = children(two)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            there = raw.crowd(two.port)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        for sock in there:
            sock.sendall(b"GET /pid HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert {sock.recv(12) for sock in there} == {b"HTTP/1.1 200"}


@pytest.mark.torture
@pytest.mark.time_limit(120)
@pytest.mark.usefixtures("_many_descriptors")
class TestStopping:
    def test_stop_notifies_clients_of_all_workers(self, two: Served) -> None:
        many, polling = load_clients.scaled(2000, 400), load_clients.scaled(500, 100)
        clients = load_clients.together(lambda number: load_clients.WebSocket(two.port), many)
        polls = load_clients.together(lambda number: load_clients.Polling(two.port), polling)
        two.stop()  # with status 0
        reasons = collections.Counter(client.closed.get() for client in (*clients, *polls))
        assert reasons == {1001: many, "1": polling}
        assert two.errors == ""


class TestCrash:
    def test_killed_worker_is_replaced(self, two: Served) -> None:
        """Its clients reconnect, other clients are unaffected, and its presence is removed."""
        before = children(two)
        stock = Client(["polling"], reconnection=True, reconnection_delay=0.05)
        stock.io.connect(two.url, transports=["polling"])
        victim = stock.io.call("pid", timeout=30)
        there = one_in_each(two, 2, lambda: load_clients.Polling(two.port))
        stranded = there.pop(victim)
        ((other, kept),) = there.items()
        for client in (stranded, kept):
            client.subscribe("room")
        assert len(kept.call("members")[0]) == 2
        again = 2
        os.kill(victim, signal.SIGKILL)
        stranded.closed.wait()
        assert kept.call("echo", "still here") == ["still here"]
        stock.received.wait(lambda received: received.count(("connect",)) == again)
        assert stock.io.call("echo", "back", timeout=30) == "back"
        stock.close()
        with pytest.raises(load_clients.Gone):
            stranded.call("echo", "stranded")  # the session is lost
        while len(kept.call("members")[0]) > 1:
            gevent.sleep(0.05)
        while len(after := children(two)) < 2 or victim in after:
            gevent.sleep(0.02)
        assert other in after
        assert after != before
        one_in_each(two, 2, lambda: load_clients.WebSocket(two.port))
        assert "was killed by SIGKILL" in two.errors

    def test_session_of_a_killed_worker_is_unknown(self, two: Served) -> None:
        there = one_in_each(two, 2, lambda: load_clients.Polling(two.port))
        victim, stranded = next(iter(there.items()))
        sid = stranded.sid
        os.kill(victim, signal.SIGKILL)
        stranded.closed.wait()
        for _ in range(5):
            connection = raw.http.client.HTTPConnection("127.0.0.1", two.port)
            connection.request("GET", f"/socket.io/?EIO=4&transport=polling&sid={sid}")
            response = connection.getresponse()
            assert response.status == 400
            assert json.loads(response.read())["code"] == 1
            connection.close()

    def test_workers_end_with_their_supervisor(self, two: Served) -> None:
        """No worker keeps running."""
        pids = children(two)
        client = load_clients.WebSocket(two.port)
        two.signal(signal.SIGKILL)
        assert client.closed.get() == 1001
        until_gone(*pids)


class Visitor:
    """A client that requests pages and opens sessions on one connection as fast as possible."""

    def __init__(self, port: int) -> None:
        self.pids: set[int] = set()
        self.count = 0
        self._port = port
        self._over = False
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        self._over = True
        self._greenlet.get()

    def _run(self) -> None:
        wire = load_clients._Wire(self._port)
        while not self._over:
            wire.write(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
            status, body = self._response(wire)
            assert status == 200
            self.pids.add(int(body))
            wire.request("GET", "transport=polling")
            status, body = wire.response()
            assert status == 200, body
            sid = json.loads(body[1:])["sid"]
            wire.request("POST", f"transport=polling&sid={sid}", body=b"1")
            status, body = wire.response()
            if status != 200:  # its worker closed it before its own close
                assert json.loads(body)["code"] == 1
            self.count += 1
            gevent.sleep(0.01)
        wire.close()

    @staticmethod
    def _response(wire: Any) -> tuple[int, bytes]:
        head = wire.read_until(b"\r\n\r\n").lower()
        status = int(head.split()[1])
        if b"content-length:" in head:
            return status, wire.read(int(head.partition(b"content-length:")[2].split()[0]))
        body = b""
        while size := int(wire.read_until(b"\r\n"), 16):
            body += wire.read(size)
            wire.read(2)
        wire.read(2)
        return status, body


class TestRestart:
    def test_restart_under_traffic_rejects_no_request(self, two: Served) -> None:
        """No request is rejected, and only disconnected clients miss messages of a channel."""
        before = children(two)
        visitors = [Visitor(two.port) for _ in range(4)]
        # Not over long-polling: after a close packet the Python client does not reconnect, unlike
        # the JavaScript client (below).
        stock = [
            Client(TRANSPORTS[name], reconnection=True, reconnection_delay=0.05)
            for name in ("websocket", "upgrade")
        ]
        connections: list[list[list[Any]]] = [[] for _ in stock]
        websockets: list[Any] = []  # which the client forgets without closing them
        for received, client in zip(connections, stock, strict=True):

            def connected(client: Client = client, received: list[list[Any]] = received) -> None:
                # After this acknowledgement, no message may be missed.
                client.io.call("__subscribe__", "room", timeout=30)
                received.append([])
                websockets.append(client.io.eio.ws)

            def on_message(number: int, received: list[list[Any]] = received) -> None:
                if received:
                    received[-1].append(number)

            client.io.on("connect", connected)
            client.io.on("message", on_message)
            client.io.connect(two.url, transports=client.transports)
        sending = True
        sent_count = [0]

        def send() -> None:
            client = load_clients.WebSocket(two.port)
            while sending:
                try:
                    assert client.call("say", sent_count[0]) is not None
                    sent_count[0] += 1
                except load_clients.Gone:
                    client = load_clients.WebSocket(two.port)
                gevent.sleep(0.005)

        sender = gevent.spawn(send)
        two.signal(signal.SIGHUP)
        while before & children(two) or len(children(two)) != 2:
            gevent.sleep(0.02)
        for received, client in zip(connections, stock, strict=True):
            while len(received) < 2 or len(received[-1]) < 5:  # reconnected, and receiving again
                gevent.sleep(0.02)
            del client
        sending = False
        sender.get()
        for visitor in visitors:
            visitor.stop()
            assert visitor.pids & children(two), "the visitor continued with the new workers"
        for received in connections:
            for numbers in received:
                assert numbers == sorted(set(numbers)), "in order, and once"
                if numbers:
                    missing = set(range(numbers[0], numbers[-1])) - set(numbers)
                    assert not missing, "no gap in a connection"
        for client in stock:
            client.close()
        for websocket in filter(None, websockets):
            websocket.shutdown()

    def test_restart_lets_handlers_finish(self, two: Served) -> None:
        clients = one_in_each(two, 2, lambda: load_clients.WebSocket(two.port))
        asked = [gevent.spawn(client.call, "slow", 1.0) for client in clients.values()]
        for client in clients.values():
            assert client.call("echo", 1) == [1] or True
        two.signal(signal.SIGHUP)
        for client in clients.values():
            assert client.closed.get() == 1001
        for each in asked:
            with contextlib.suppress(load_clients.Gone):
                each.get()
        until_gone(*clients)
        assert "GreenletExit" not in two.errors

    def test_restart_with_broken_application_keeps_old_workers(self, two: Served) -> None:
        before = children(two)
        (two.folder / "site_of_ours.py").write_text("import nothing_of_this_name\n")
        client = load_clients.WebSocket(two.port)
        two.signal(signal.SIGHUP)
        while "could not be started" not in two.errors:
            gevent.sleep(0.05)
        assert children(two) == before
        assert client.call("echo", 1) == [1]
        assert "nothing_of_this_name" in two.errors


def startup_error(folder: Path, *options: str, source: str | None = None, **env: str) -> str:
    """Return the message of ``serve`` when it fails with exit status 1."""
    (folder / "site_of_ours.py").write_text(source or module_source(BODY), encoding="utf-8")
    words = ("serve", "site_of_ours:application", *options)
    found = commands.run(*words, cwd=folder, strict=False, **env)
    assert found.status == 1, found
    assert found.out == ""
    return found.err


class TestStartup:
    def test_banner_names_address_plugins_and_workers(
        self, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        env = {"BACKPLANE": shared_redis.url, "PLUGINS": "webpy_socketio.plugins.presence"}
        with serving(tmp_path, "--workers", "2", **env) as served:
            text = [served.process.next_line().strip() for _ in range(3)]
            assert text == ["plugins: presence", "workers: 2", "Ctrl-C stops it"]
            served.signal(signal.SIGINT)
            assert served.process.wait() == 0
        assert served.errors == ""

    def test_serve_without_workers_needs_no_backplane(self, tmp_path: Path) -> None:
        with serving(tmp_path) as served:
            assert page(served.port) == served.process.popen.pid
            assert load_clients.Polling(served.port).sid.count(".") == 0
            load_clients.close_all()
        assert served.errors == ""

    def test_settings_option_overrides_application(self, tmp_path: Path) -> None:
        (tmp_path / "production.py").write_text('SOCKETIO_PLUGINS = []\nSOCKETIO_HOST = "::1"\n')
        source = "import web\nfrom webpy_socketio import *\n"
        source += "application = web.application(socketio_urls, globals())\n"
        with serving(tmp_path, "--settings", "production", source=source) as served:
            assert served.process.next_line().strip() == "plugins: none"
            with socket.create_connection(("::1", served.port)):
                pass

    @pytest.mark.parametrize(
        ("source", "failure"),
        [
            (None, "--workers 4 needs SOCKETIO_BACKPLANE"),
            ("import nothing_of_this_name", "the module cannot be imported: ModuleNotFoundError"),
            ("1 / 0", "the module cannot be imported: ZeroDivisionError"),
            ("web.config.SOCKETIO_PROT = 1", "there is no setting SOCKETIO_PROT"),
        ],
        ids=["no backplane", "missing module", "exception", "wrong setting"],
    )
    def test_failure_of_all_workers_is_printed_once(
        self, source: str | None, failure: str, tmp_path: Path
    ) -> None:
        if source is not None and source.startswith("web."):
            source = f"{module_source(BODY)}{source}\n"
        text = startup_error(tmp_path, "--workers", "4", source=source)
        assert text.count(failure) == 1
        assert text.count("Traceback") <= 1
        assert "no worker could be started" in text

    def test_warning_at_start_is_logged_once(
        self, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        source = module_source(BODY) + (
            "\n@on_event('echo')\n"
            "def echo(request, socket, context, *args):\n"
            "    return args\n"
            "import logging.config\n"
            "logging.config.dictConfig({'version': 1})\n"
        )
        options = ("--workers", "4")
        with serving(tmp_path, *options, source=source, BACKPLANE=shared_redis.url) as served:
            assert len(children(served)) == 4
        assert served.errors.count("disabled the logger webpy_socketio") == 1
        assert served.errors.count("use a different name for each handler") == 1

    def test_workers_need_a_backplane(self, tmp_path: Path) -> None:
        assert "--workers 2 needs SOCKETIO_BACKPLANE" in startup_error(tmp_path, "--workers", "2")

    def test_missing_module_is_reported(self, tmp_path: Path) -> None:
        text = startup_error(tmp_path, "--workers", "2", source="import nothing_of_this_name")
        assert "nothing_of_this_name" in text
        assert "no worker could be started" in text

    def test_address_in_use_is_reported(self, shared_redis: RedisServer, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            text = startup_error(
                tmp_path, "--workers", "2", "--port", port, BACKPLANE=shared_redis.url
            )
        assert "another program is listening there" in text
        assert "Traceback" not in text

    @pytest.mark.parametrize("options", [["--workers", "0"], ["--keyfile", "key.pem"]])
    def test_invalid_options_are_rejected(self, tmp_path: Path, options: list[str]) -> None:
        assert startup_error(tmp_path, *options).startswith("webpy-socketio: --")

    def test_repeatedly_ending_worker_is_replaced_with_growing_delay(
        self, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        """The delays between replacements grow, and the other workers serve."""
        source = module_source(BODY) + (
            "\nimport pathlib, gevent\n"
            "def dies():\n"
            "    pathlib.Path('deaths').open('a').write('x'); os._exit(7)\n"
            "if pathlib.Path('deadly').exists(): gevent.spawn_later(0.1, dies)\n"
        )
        env = {"BACKPLANE": shared_redis.url}
        with serving(tmp_path, "--workers", "2", source=source, **env) as served:
            (tmp_path / "deadly").touch()
            victim = page(served.port)
            os.kill(victim, signal.SIGKILL)
            while "the worker is replaced in 2 s" not in served.errors:
                assert page(served.port)
                gevent.sleep(0.05)
            assert "ended with status 7" in served.errors
            assert len((tmp_path / "deaths").read_text()) == 2
            (tmp_path / "deadly").unlink()
            while len(children(served)) < 2:
                gevent.sleep(0.05)


class TestTLS:
    def test_tls_serves_polling_and_upgrades(
        self, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        certificate, key = make_certificate(tmp_path)
        options = ["--workers", "2", "--certfile", str(certificate), "--keyfile", str(key)]
        with serving(tmp_path, *options, BACKPLANE=shared_redis.url) as served:
            url = f"https://localhost:{served.port}"
            for transports in TRANSPORTS.values():
                for number in range(6):
                    client = Client(transports)
                    client.http.verify = str(certificate)
                    client.io.connect(url, transports=transports)
                    assert client.io.transport() == transports[-1]
                    assert client.io.call("echo", number, timeout=30) == number
                    client.close()
        assert served.errors == ""


class TestReload:
    def test_reload_restarts_after_changes_and_keeps_workers_on_errors(
        self, tmp_path: Path
    ) -> None:
        helper = tmp_path / "helper_of_ours.py"
        helper.write_text("WORD = 'one'\n")
        source = (
            module_source(BODY)
            + "\nimport helper_of_ours\n"
            + "class Pid:\n    def GET(self):\n        return helper_of_ours.WORD\n"
        )
        with serving(tmp_path, "--reload", source=source) as served:
            self.until(served, "one")
            helper.write_text("WORD = 'second'\n")
            self.until(served, "second")
            helper.write_text("WORD = \n")
            while "SyntaxError" not in served.errors or "continues" not in served.errors:
                gevent.sleep(0.05)
            self.until(served, "second")
            helper.write_text("WORD = 'the third'\n")
            self.until(served, "the third")
            client = load_clients.WebSocket(served.port)
            helper.write_text("WORD = 'number four'\n")
            assert client.closed.get() == 1001, "a browser comes back by itself"
            self.until(served, "number four")
            load_clients.close_all()

    def test_reload_waits_for_application_that_cannot_be_imported(self, tmp_path: Path) -> None:
        site = tmp_path / "site_of_ours.py"
        site.write_text("import helper_of_ours\n" + module_source(BODY))
        command = ["webpy_socketio", "serve", "site_of_ours:application", "--port", "0", "--reload"]
        served = Served(command, tmp_path)
        try:
            while "helper_of_ours" not in served.errors:
                gevent.sleep(0.05)
            (tmp_path / "helper_of_ours.py").write_text("")
            served.ready()
            assert page(served.port)
        finally:
            served.close()

    @staticmethod
    def until(served: Served, word: str) -> None:
        """Wait until the page has this text; it must be served all the time."""
        while True:
            connection = raw.http.client.HTTPConnection("127.0.0.1", served.port)
            connection.request("GET", "/pid")
            text = connection.getresponse().read().decode()
            connection.close()
            if text == word:
                return
            gevent.sleep(0.05)


def folder_of(pid: int) -> Path:
    """Return the folder of a worker's hand-off sockets, from its open files."""
    paths = {}
    for line in Path("/proc/net/unix").read_text().splitlines():
        _, _, _, _, _, _, inode, *path = line.split()
        if path and "webpy_socketio-" in path[0]:
            paths[f"socket:[{inode}]"] = Path(path[0])
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            if (name := str(file.readlink())) in paths:
                return paths[name].parent
    raise AssertionError(f"worker {pid} has no hand-off socket")


class TestHandOffSockets:
    @pytest.mark.parametrize("what", ["folder", "sockets"])
    def test_removed_hand_off_sockets_are_recreated(
        self, shared_redis: RedisServer, tmp_path: Path, what: str
    ) -> None:
        with serving(tmp_path, "--workers", "2", BACKPLANE=shared_redis.url) as served:
            clients = one_in_each(served, 2, lambda: RawClient(served.port))
            folder = folder_of(next(iter(clients)))
            for _ in range(2):
                if what == "folder":
                    shutil.rmtree(folder)
                else:
                    for path in folder.iterdir():
                        path.unlink()
                for _ in range(20):
                    for pid, client in clients.items():
                        assert client.call("pid") == [pid]
            while not (folder / "load").exists():
                gevent.sleep(0.05)
            one_in_each(served, 2, lambda: RawClient(served.port))
            assert "was removed; recreated it" in served.errors
            served.stop()
            assert not folder.exists()

    def test_sockets_are_bound_under_their_final_names(self, two: Served) -> None:
        """Cleaners of temporary files keep sockets that the kernel lists under their names."""
        folder = folder_of(next(iter(children(two))))
        bound = Path("/proc/net/unix").read_text()
        sockets = [path for path in folder.iterdir() if path.is_socket()]
        assert len(sockets) == 5  # for hand-offs, and status sockets of workers and supervisor
        assert all(str(path) in bound for path in sockets)

    def test_two_supervisors_are_independent(
        self, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        env = {"BACKPLANE": shared_redis.url}
        folders = [tmp_path / name for name in ("a", "b")]
        for folder in folders:
            folder.mkdir()
        with serving(folders[0], "--workers", "2", **env) as one:
            clients = one_in_each(one, 2, lambda: RawClient(one.port))
            with serving(folders[1], "--workers", "2", **env) as other:
                killed = folder_of(next(iter(children(other))))
                assert killed != folder_of(next(iter(clients)))
                pids = children(other)
                for pid in (other.process.popen.pid, *pids):
                    os.kill(pid, signal.SIGKILL)
                other.process.wait()
            with serving(folders[1], "--workers", "2", **env) as other:
                assert not killed.exists()
                one_in_each(other, 2, lambda: RawClient(other.port))
                for pid, client in clients.items():
                    assert client.call("pid") == [pid]


class RawClient:
    """A long-polling client that opens a connection for each request."""

    def __init__(self, port: int) -> None:
        self._polling = raw.Polling(port)
        self._polling.connect()

    def call(self, event: str) -> Any:
        assert self._polling.send(f'421["{event}"]') == (200, "ok")
        (packet,) = self._polling.poll()
        return json.loads(packet[3:])


class TestStall:
    BLOCK = """
@on_event("block")
def block(request, socket, context):
    from gevent.monkey import get_original
    get_original("time", "sleep")(600)
"""

    @pytest.mark.parametrize("how", ["block", "stop"])
    def test_worker_with_blocked_loop_is_replaced(
        self, shared_redis: RedisServer, tmp_path: Path, how: str
    ) -> None:
        source = module_source(BODY + self.BLOCK)
        env = {"BACKPLANE": shared_redis.url, "WORKER_TIMEOUT": "2"}
        with serving(tmp_path, "--workers", "2", source=source, **env) as served:
            clients = one_in_each(served, 2, lambda: load_clients.WebSocket(served.port))
            (victim, stranded), (other, kept) = clients.items()
            if how == "block":
                stranded.emit("block")
            else:
                os.kill(victim, signal.SIGSTOP)
            until_gone(victim)
            assert kept.call("pid") == [other]
            while len(children(served)) < 2 or victim in children(served):
                gevent.sleep(0.05)
            one_in_each(served, 2, lambda: load_clients.WebSocket(served.port))
            cause = "a handler blocks its event loop" if how == "block" else "it is stopped"
            assert f"(pid {victim}) is replaced: {cause}" in served.errors
            assert "SOCKETIO_WORKER_TIMEOUT" in served.errors
            if how == "block":
                assert "in block" in served.errors, "the stack of the handler"
            assert f"(pid {other})" not in served.errors
        load_clients.close_all()

    def test_worker_that_imports_slowly_is_not_replaced(
        self, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        source = (
            "from gevent.monkey import get_original\n"
            "get_original('time', 'sleep')(3)\n" + module_source(BODY)
        )
        env = {"BACKPLANE": shared_redis.url, "WORKER_TIMEOUT": "1"}
        with serving(tmp_path, "--workers", "2", source=source, **env) as served:
            assert page(served.port)
        assert "is replaced" not in served.errors

    def test_suspended_processes_are_not_replaced(
        self, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        """All processes stop and continue, as after a suspension of the machine."""
        env = {"BACKPLANE": shared_redis.url, "WORKER_TIMEOUT": "4"}
        with serving(tmp_path, "--workers", "2", **env) as served:
            before = children(served)
            pids = [served.process.popen.pid, *before]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            gevent.sleep(6)  # longer than the timeout, whose duration is tested
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert {page(served.port) for _ in range(20)} <= before
            gevent.sleep(2)
            assert children(served) == before
        assert "is replaced" not in served.errors


class TestStreams:
    @pytest.mark.parametrize("how", ["broken pipe", "closed"])
    def test_supervisor_without_stderr_replaces_workers(
        self, shared_redis: RedisServer, tmp_path: Path, how: str
    ) -> None:
        source = (
            module_source(BODY) + "\nimport logging\nlogging.basicConfig(level=logging.DEBUG)\n"
        )
        (tmp_path / "site_of_ours.py").write_text(source)
        port = free_port()
        command = [sys.executable, "-m", "webpy_socketio", "serve", "site_of_ours:application"]
        command += ["--port", str(port), "--workers", "2"]
        reader, writer = os.pipe()
        os.close(reader)
        shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"] if how == "closed" else []
        popen = subprocess.Popen(
            [*shell, *command],
            cwd=tmp_path,
            env={**os.environ, "BACKPLANE": shared_redis.url},
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        served = SilentSupervisor(popen, port)
        try:
            for _ in range(2):
                victim = served.page()
                os.kill(victim, signal.SIGKILL)
                while (found := served.page()) == victim:
                    pass
                assert found != victim
                while len(children(served)) < 2 or victim in children(served):
                    gevent.sleep(0.05)
            client = load_clients.WebSocket(port)
            assert client.call("echo", 1) == [1]
            popen.terminate()
            assert popen.wait() == 0
        finally:
            popen.kill()
            popen.wait()
            load_clients.close_all()


class SilentSupervisor:
    """A supervisor without output, as an argument for `children`."""

    def __init__(self, popen: Any, port: int) -> None:
        self.process = self
        self.popen = popen
        self._port = port

    def page(self) -> int:
        """Return the pid of a worker once one serves."""
        while True:
            assert self.popen.poll() is None
            with contextlib.suppress(OSError, raw.http.client.HTTPException):
                return page(self._port)
            gevent.sleep(0.05)
