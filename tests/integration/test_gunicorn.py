"""gunicorn with the worker class, as a real process."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent
import pytest

from tests import load_clients, raw
from tests.integration.test_python_client import TRANSPORTS, Client
from tests.integration.test_workers import BODY, Visitor, children, one_in_each, page, until_gone
from tests.redis_server import RedisServer
from tests.servers import Served, module_source

pytest.importorskip("gunicorn", reason="gunicorn is not installed")

pytestmark = pytest.mark.time_limit(60)

#: A WSGI application for gunicorn.
WSGI = "\nwsgi = application.wsgifunc()\n"

WORKER = "webpy_socketio.gunicorn.Worker"


class Gunicorn(Served):
    """A gunicorn process, which prints its address on stderr."""

    def ready(self) -> None:
        while not (found := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self.errors)):
            assert self.process.popen.poll() is None, self.errors
            gevent.sleep(0.05)
        self.port = int(found[1])


Start = Callable[..., Gunicorn]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Gunicorn] = []

    def start(*options: str, source: str = module_source(BODY), **env: str) -> Gunicorn:
        (tmp_path / "site_of_ours.py").write_text(source + WSGI, encoding="utf-8")
        command = ["gunicorn", "-k", WORKER, "-b", "127.0.0.1:0", *options]
        # gunicorn's control socket is in HOME.
        env = {"HOME": str(tmp_path), **env}
        served = Gunicorn([*command, "site_of_ours:wsgi"], tmp_path, env)
        started.append(served)
        served.ready()
        return served

    yield start
    for served in started:
        served.close()
    load_clients.close_all()


def fails(tmp_path: Path, *options: str, **env: str) -> str:
    (tmp_path / "site_of_ours.py").write_text(module_source(BODY) + WSGI, encoding="utf-8")
    found = subprocess.run(
        [
            *(sys.executable, "-m", "gunicorn", "-k", WORKER, "-b", "127.0.0.1:0", *options),
            "site_of_ours:wsgi",
        ],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode != 0, found
    return found.stderr


class TestSingleWorker:
    @pytest.mark.parametrize("transports", TRANSPORTS)
    def test_gunicorn_serves_pages_and_sockets_until_stopped(
        self, start: Start, transports: str
    ) -> None:
        served = start()
        assert page(served.port) in children(served)
        client = Client(TRANSPORTS[transports])
        client.io.connect(served.url, transports=client.transports)
        assert client.io.transport() == client.transports[-1]
        assert client.io.call("echo", (1, 2), timeout=30) == (1, 2)
        client.close()
        told = load_clients.WebSocket(served.port)
        served.stop()
        assert told.closed.get() == 1001
        assert "Traceback" not in served.errors
        assert not list(Path("/tmp").glob(f"webpy_socketio-*/{served.process.popen.pid}"))

    def test_access_log_is_written_by_gunicorn(self, start: Start, tmp_path: Path) -> None:
        log = tmp_path / "access.log"
        options = ["--access-logfile", str(log), "--access-logformat", "%(m)s %(r)s %(s)s %(b)s"]
        served = start(*options)
        page(served.port)
        polling = raw.Polling(served.port)
        with raw.socket.create_connection(("127.0.0.1", served.port)) as sock:
            sock.sendall(b"nonsense\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 400"
        served.stop()
        lines = log.read_text().splitlines()
        assert re.fullmatch(r"GET GET /pid HTTP/1\.1 200 \d+", lines[0])
        assert lines[1].startswith("GET GET /socket.io/?EIO=4&transport=polling HTTP/1.1 200 ")
        assert re.fullmatch(r"- - - - 400 \d+", lines[2])
        assert polling.sid
        assert "Traceback" not in served.errors


class TestWorkers:
    def test_workers_share_sessions_and_channels(
        self, start: Start, shared_redis: RedisServer
    ) -> None:
        served = start("-w", "2", BACKPLANE=shared_redis.url)
        clients = one_in_each(served, 2, lambda: load_clients.Polling(served.port))
        first, second = clients.values()
        for number in range(20):
            assert first.call("echo", number) == [number]
        first.emit("message", "to both")
        second.call("echo", "barrier")
        while ["message", "to both"] not in second.events:
            gevent.sleep(0.01)
        served.stop()
        assert "Traceback" not in served.errors

    @pytest.mark.parametrize("start_time", [0.0, 5.0])
    def test_hup_rejects_no_request(
        self, start: Start, shared_redis: RedisServer, tmp_path: Path, start_time: float
    ) -> None:
        """The new workers may take long to import the application."""
        delay = tmp_path / "delay"
        delay.write_text("0.0")
        source = module_source(BODY) + "\n__import__('time').sleep(float(open('delay').read()))\n"
        # Requests wait for the new workers for half of this time.
        options = ("-w", "2", "--graceful-timeout", "120")
        served = start(*options, source=source, BACKPLANE=shared_redis.url)
        page(served.port)
        while len(children(served)) < 2:
            gevent.sleep(0.05)
        before = children(served)
        visitors = [Visitor(served.port) for _ in range(3)]
        while not all(visitor.count for visitor in visitors):
            gevent.sleep(0.01)
        delay.write_text(str(start_time))
        served.signal(signal.SIGHUP)
        until_gone(*before)
        for visitor in visitors:
            visitor.stop()
        assert page(served.port) not in before

    def test_master_replaces_blocked_worker(self, start: Start, shared_redis: RedisServer) -> None:
        """An idle worker keeps sending heartbeats, and is not replaced."""
        source = module_source(BODY) + (
            "\n@on_event('hang')\n"
            "def hang(request, socket, context):\n"
            "    from gevent.monkey import get_original\n"
            "    get_original('time', 'sleep')(60)\n"
        )
        served = start("-w", "2", "--timeout", "3", source=source, BACKPLANE=shared_redis.url)
        clients = one_in_each(served, 2, lambda: load_clients.WebSocket(served.port))
        (victim, hanging), (other, idle) = clients.items()
        hanging.emit("hang")
        until_gone(victim)
        assert other in children(served)
        assert idle.call("echo", 1) == [1]
        assert served.errors.count("WORKER TIMEOUT") == 1
        one_in_each(served, 2, lambda: load_clients.WebSocket(served.port))  # after its replacement

    def test_workers_without_backplane_are_rejected(self, tmp_path: Path) -> None:
        assert "2 workers need SOCKETIO_BACKPLANE" in fails(tmp_path, "-w", "2")


#: An application that returns the client's address, behind a proxy on a Unix socket.
BEHIND_UNIX = (
    module_source(BODY + 'OPTIONS["trusted_proxies"] = ["unix"]\n')
    + """
class Pid:
    def GET(self):
        if "redirect" in web.input():
            raise web.seeother("/there")
        ctx = web.ctx
        return f"{ctx.home} {ctx.ip} {ctx.env['webpy_socketio.peer']} {os.getpid()}"
"""
)


class TestUnixSocket:
    """``-b unix:...`` behind a proxy."""

    HEADERS: ClassVar[dict[str, str]] = {
        "Host": "chat.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "6.6.6.6, 203.0.113.9",
    }

    def ask(self, path: Path, method: str, target: str, body: bytes | None = None) -> Any:
        """Send a request as a proxy; return the response and its body."""
        connection = http.client.HTTPConnection("chat.example")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(path))
            origin = {"Origin": "https://chat.example"}
            connection.request(method, target, body, {**self.HEADERS, **origin})
            response = connection.getresponse()
            return response, response.read().decode()
        finally:
            connection.close()

    def test_page_sees_client_address_of_the_proxy_header(
        self, start: Start, tmp_path: Path
    ) -> None:
        path, log = tmp_path / "chat.sock", tmp_path / "access.log"
        served = start(
            *("-b", f"unix:{path}", "--access-logfile", str(log), "--access-logformat", "%(h)s"),
            source=BEHIND_UNIX,
        )
        assert self.ask(path, "GET", "/pid")[1].split()[:3] == [
            *("https://chat.example", "203.0.113.9", "unix"),
        ]
        response, _ = self.ask(path, "GET", "/pid?redirect=1")
        assert response.headers["Location"] == "https://chat.example/there"
        # TCP peers are not trusted: their headers are ignored.
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("GET", "/pid", headers=self.HEADERS)
        assert connection.getresponse().read().decode().split()[:3] == [
            *("http://chat.example", "127.0.0.1", "127.0.0.1"),
        ]
        connection.close()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"nonsense\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 400"
        served.stop()
        assert log.read_text().split() == ["203.0.113.9", "203.0.113.9", "127.0.0.1", "unix"]
        assert "Traceback" not in served.errors

    def test_session_is_reached_from_every_worker(
        self, start: Start, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        path = tmp_path / "chat.sock"
        served = start(
            *("-b", f"unix:{path}", "-w", "2"), source=BEHIND_UNIX, BACKPLANE=shared_redis.url
        )
        target = "/socket.io/?EIO=4&transport=polling"
        for number in range(10):
            _, opened = self.ask(path, "GET", target)
            sid = json.loads(opened[1:])["sid"]
            session = f"{target}&sid={sid}"
            assert self.ask(path, "POST", session, b"40")[1] == "ok"
            assert self.ask(path, "GET", session)[1].startswith("40")
            assert self.ask(path, "POST", session, f'421["echo",{number}]'.encode())[1] == "ok"
            assert self.ask(path, "GET", session)[1] == f"431[{number}]"
        served.stop()
        assert "Traceback" not in served.errors


class TestPatching:
    def test_preload_app_without_patching_is_rejected(self, tmp_path: Path) -> None:
        assert "preload_app imports the application before" in fails(tmp_path, "--preload")

    def test_preload_app_in_patched_master_is_accepted(self, start: Start, tmp_path: Path) -> None:
        configuration = tmp_path / "gunicorn.conf.py"
        configuration.write_text("from gevent import monkey\nmonkey.patch_all()\n")
        served = start("--preload", "-c", str(configuration))
        client = load_clients.WebSocket(served.port)
        assert client.call("echo", 1) == [1]

    def test_web_ctx_is_local_to_each_request(self, start: Start) -> None:
        source = module_source(BODY) + (
            "\nclass Pid:\n"
            "    def GET(self):\n"
            "        mine = web.input().n\n"
            "        __import__('gevent').sleep(0.1)\n"
            "        return json.dumps([mine, web.input().n, web.ctx.query])\n"
            "import json\n"
        )
        served = start(source=source)

        def ask(number: int) -> Any:
            connection = raw.http.client.HTTPConnection("127.0.0.1", served.port)
            connection.request("GET", f"/pid?n={number}")
            answer = json.loads(connection.getresponse().read())
            connection.close()
            return answer

        assert load_clients.together(ask, 20) == [[str(n), str(n), f"?n={n}"] for n in range(20)]


class TestScriptName:
    SOURCE = module_source(BODY).replace(
        'urls = ("/pid", "Pid")',
        """urls = ("/pid", "Pid", "/", "Index")

class Index:
    def GET(self):
        return str(socketio_scripts())
""",
    )

    @pytest.mark.parametrize("path", ["/team/", "/"])
    def test_environment_variable_mounts_the_application(self, start: Start, path: str) -> None:
        served = start(source=self.SOURCE, SCRIPT_NAME="/team")
        assert 'data-path="/team/socket.io"' in self.get(served, path)
        self.talk(served, path)

    def test_header_of_a_trusted_proxy_mounts_the_application(self, start: Start) -> None:
        served = start(source=self.SOURCE)
        for path in ("/team/", "/"):
            assert 'data-path="/team/socket.io"' in self.get(served, path, SCRIPT_NAME="/team")
            self.talk(served, path, SCRIPT_NAME="/team")

    @pytest.mark.parametrize(
        "options", [["--forwarded-allow-ips", "10.0.0.1"], ["--forwarder-headers", "PATH_INFO"]]
    )
    def test_header_of_another_client_is_ignored(self, start: Start, options: list[str]) -> None:
        served = start(*options, source=self.SOURCE)
        assert 'data-path="/socket.io"' in self.get(served, "/", SCRIPT_NAME="/team")

    @staticmethod
    def get(served: Gunicorn, path: str, data: bytes | None = None, **headers: str) -> str:
        connection = raw.http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("GET" if data is None else "POST", path, data, headers)
        response = connection.getresponse()
        assert response.status == 200
        body = response.read().decode()
        connection.close()
        return body

    def talk(self, served: Gunicorn, path: str, **headers: str) -> None:
        query = path + "socket.io/?EIO=4&transport=polling"
        query += "&sid=" + json.loads(self.get(served, query, **headers)[1:])["sid"]
        assert self.get(served, query, b"40", **headers) == "ok"
        assert self.get(served, query, **headers).startswith("40{")
        assert self.get(served, query, b'421["echo","hello"]', **headers) == "ok"
        assert self.get(served, query, **headers) == '431["hello"]'
