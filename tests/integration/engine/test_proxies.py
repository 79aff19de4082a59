"""Trusted proxies: what the application sees of the client behind them, on a real server."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.socket
import pytest

from tests import raw
from tests.engines import Http, Running, eventually
from webpy_socketio.engine.config.validators import addresses
from webpy_socketio.engine.forwarding.proxies import TrustedProxies
from webpy_socketio.engine.http.wsgi import ACCEPT_KEY

POLLING = "/engine.io/?EIO=4&transport=polling"

#: The compared keys of the environ.
KEYS = ("wsgi.url_scheme", "HTTP_HOST", "REMOTE_ADDR", "SERVER_PORT", "webpy_socketio.peer")


class Application:
    """An application that records each environ and accepts every session."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.environs.append(environ)
        environ[ACCEPT_KEY] = environ["PATH_INFO"] == "/engine.io/"
        start_response("200 OK", [("Content-Length", "0")])
        return []

    def seen(self) -> tuple[Any, ...]:
        """The compared values of the last request."""
        return tuple(self.environs[-1].get(key) for key in KEYS)


class TestTrust:
    @pytest.mark.parametrize(
        ("trusted", "peers", "others"),
        [
            ([], [], ["127.0.0.1", "unix", ""]),
            (["unix"], ["unix"], ["127.0.0.1", "", "UNIX"]),
            (["10.0.0.0/8", "::1"], ["10.1.2.3", "::1"], ["11.0.0.1", "::2", "unix", "x", ""]),
            (["192.0.2.9/24"], ["192.0.2.1"], ["192.0.3.1"]),
            (["::ffff:10.0.0.1", "::ffff:10.1.0.0/112"], ["10.0.0.1", "10.1.2.3"], ["10.0.0.2"]),
            (["0.0.0.0/0"], ["6.6.6.6"], ["::1", "unix"]),
            (["fe80::/10"], ["fe80::1%eth0"], ["fd00::1"]),
        ],
    )
    def test_only_the_named_peers_are_trusted(
        self, trusted: list[str], peers: list[str], others: list[str]
    ) -> None:
        assert addresses(trusted) is None
        proxies = TrustedProxies(trusted)
        assert [peer for peer in peers if not proxies.trusts(peer)] == []
        assert [peer for peer in others if proxies.trusts(peer)] == []


class TestEnviron:
    @pytest.fixture
    def application(self) -> Application:
        return Application()

    @pytest.mark.parametrize(
        ("headers", "seen"),
        [
            ([], ("http", "{own}", "127.0.0.1", "{port}")),
            (["X-Forwarded-Proto: https"], ("https", "{own}", "127.0.0.1", "{port}")),
            (
                ["X-Forwarded-Proto: wss", "X-Forwarded-Host: chat.example"],
                ("https", "chat.example", "127.0.0.1", "443"),
            ),
            (["X-Forwarded-Host: chat.example"], ("http", "chat.example", "127.0.0.1", "80")),
            (
                ["X-Forwarded-Host: chat.example", "X-Forwarded-Port: 8443"],
                ("http", "chat.example:8443", "127.0.0.1", "8443"),
            ),
            (["X-Forwarded-For: 203.0.113.9"], ("http", "{own}", "203.0.113.9", "{port}")),
            (
                ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.9, 10.0.0.2"],
                ("http", "{own}", "203.0.113.9", "{port}"),
            ),
            (
                ["X-Forwarded-Proto: http", "X-Forwarded-Proto: https", "X-Forwarded-Host: a,b"],
                ("https", "b", "127.0.0.1", "443"),
            ),
            (
                ['Forwarded: for="[2001:db8::1]";proto=https;host=chat.example'],
                ("https", "chat.example", "2001:db8::1", "443"),
            ),
            (
                ["Forwarded: for=6.6.6.6", "Forwarded: for=203.0.113.9;host=a.example:81"],
                ("http", "a.example:81", "203.0.113.9", "81"),
            ),
            (
                ["X-Forwarded-Proto: ftp", "X-Forwarded-Host: a/b", "X-Forwarded-For: unknown"],
                ("http", "{own}", "127.0.0.1", "{port}"),
            ),
            (['Forwarded: for="unclosed'], ("http", "{own}", "127.0.0.1", "{port}")),
        ],
    )
    def test_environ_behind_a_trusted_proxy_is_the_clients(
        self,
        headers: list[str],
        seen: tuple[str, ...],
        application: Application,
        run: Callable[..., Running],
    ) -> None:
        running = run(application=application, trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
        own = f"127.0.0.1:{running.port}"
        expected = tuple(value.format(own=own, port=running.port) for value in seen)
        for target in ("/page", POLLING):
            assert running.http().request("GET", target, *headers)[0] == 200
            assert application.seen() == (*expected, "127.0.0.1")
        environ = running.session.environ
        assert tuple(environ[key] for key in KEYS) == (*expected, "127.0.0.1")
        assert ("REMOTE_PORT" in environ) == (expected[2] == "127.0.0.1")

    @pytest.mark.parametrize("trusted", [[], ["192.0.2.1", "unix"]], ids=str)
    def test_environ_of_another_peer_ignores_the_headers(
        self, trusted: list[str], application: Application, run: Callable[..., Running]
    ) -> None:
        running = run(application=application, trusted_proxies=trusted)
        running.http().request(
            *("GET", "/", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https"),
            *("X-Forwarded-Host: evil.example", "X-Forwarded-Port: 1", "Forwarded: for=6.6.6.6"),
        )
        own = f"127.0.0.1:{running.port}"
        assert application.seen() == ("http", own, "127.0.0.1", str(running.port), "127.0.0.1")

    def test_clients_that_share_a_proxys_connection_are_distinguished(
        self, application: Application, run: Callable[..., Running]
    ) -> None:
        http = run(application=application, trusted_proxies=["127.0.0.1"]).http()
        for address in ("203.0.113.1", "203.0.113.2", "203.0.113.1"):
            http.request("GET", "/", f"X-Forwarded-For: {address}")
            assert application.seen()[2] == address
        http.request("GET", "/")
        assert application.seen()[2] == "127.0.0.1"

    def test_access_log_names_the_client(
        self, application: Application, run: Callable[..., Running]
    ) -> None:
        running = run(application=application, trusted_proxies=["127.0.0.1"])
        running.server.log, running.server.keeps_log = io.StringIO(), True
        http = running.http()
        http.request("GET", "/one", "X-Forwarded-For: 203.0.113.1")
        http.request("GET", "/two")
        http.sock.sendall(b"nonsense\r\n\r\n")
        http.read_to_end()
        eventually(lambda: running.server.log.getvalue().count("\n") == 3)
        lines = [line.split(" ") for line in running.server.log.getvalue().splitlines()]
        assert [line[0] for line in lines] == ["203.0.113.1", "127.0.0.1", "127.0.0.1"]


class TestUnixSocket:
    """A proxy that connects to a Unix socket, which has no address."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        return str(tmp_path / "chat.sock")

    @pytest.fixture
    def listener(self, path: str) -> Iterator[Any]:
        listener = gevent.socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(10)
        yield listener
        listener.close()

    def connect(self, path: str, bound: str | None = None) -> Http:
        """An HTTP connection to the socket."""
        http = Http.__new__(Http)
        http.port, http.sock = 0, socket.socket(socket.AF_UNIX)
        raw.OPENED.append(http.sock)
        if bound is not None:
            http.sock.bind(bound)
        http.sock.connect(path)
        return http

    @pytest.mark.parametrize("trusted", [[], ["127.0.0.1", "0.0.0.0/0", "::/0"], ["unix"]], ids=str)
    @pytest.mark.parametrize("bound", [None, "\0of-the-proxy"], ids=["unnamed", "abstract"])
    def test_peer_is_trusted_if_the_setting_names_unix(
        self,
        trusted: list[str],
        bound: str | None,
        path: str,
        listener: Any,
        run: Callable[..., Running],
    ) -> None:
        application = Application()
        running = run(application=application, listener=listener, trusted_proxies=trusted)
        http = self.connect(path, bound)
        headers = ["X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9"]
        assert http.request("GET", "/", *headers)[0] == 200
        believed = "unix" in trusted
        assert application.seen() == (
            "https" if believed else "http",
            "127.0.0.1:0",
            "203.0.113.9" if believed else "unix",
            application.environs[-1]["SERVER_PORT"],
            "unix",
        )
        origin = "Origin: https://127.0.0.1:0"
        assert http.request("GET", POLLING, origin, *headers)[0] == (200 if believed else 403)
        assert len(running.engine.sessions) == int(believed)

    def test_request_without_forwarded_headers_has_an_address(
        self, path: str, listener: Any, run: Callable[..., Running]
    ) -> None:
        application = Application()
        run(application=application, listener=listener, trusted_proxies=["unix"])
        self.connect(path).request("GET", "/")
        assert application.environs[-1]["REMOTE_ADDR"] == "unix"

    def test_refusal_of_an_unreadable_request_names_the_socket(
        self,
        path: str,
        listener: Any,
        run: Callable[..., Running],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        run(listener=listener)
        http = self.connect(path)
        with caplog.at_level("INFO"):
            http.sock.sendall(b"nonsense\r\n\r\n")
            assert http.read_to_end().startswith(b"HTTP/1.1 400 ")
        assert "unix" in caplog.text
