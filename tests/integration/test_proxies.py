"""Servers behind proxies, nginx among them: pages, handlers and logs see the client."""

from __future__ import annotations

import http.client
import logging
import socket as stdlib_socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.socket
import pytest
import socketio
import web

from tests.certificates import trusting
from tests.conftest import Journal, Site
from tests.integration.test_application import HANDSHAKE, visit
from tests.nginx import Nginx, running_nginx
from tests.python_clients import close_client
from tests.raw import WebSocket
from tests.snippets import DOCS, Page
from webpy_socketio import SocketIOServer, on_connect, on_event, socketio_urls

Serve = Callable[..., Site]

#: Headers that nginx sends with the configuration in docs/how-to/deployment.rst.
NGINX = {
    "Host": "chat.example",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "chat.example",
    "X_Forwarded_For": "203.0.113.9",
}


class Redirect:
    def GET(self) -> str:
        raise web.seeother("/there")


class RequestInfo:
    def GET(self) -> str:
        ctx = web.ctx
        return f"{ctx.home} {ctx.protocol} {ctx.host} {ctx.ip} {ctx.env['webpy_socketio.peer']}"


PAGES = ("/redirect", "Redirect", "/look", "RequestInfo")


class TestPages:
    def test_page_behind_a_trusted_proxy_sees_the_client(self, serve: Serve) -> None:
        site = serve(PAGES, globals(), trusted_proxies=["127.0.0.1"])
        answer = visit(site.port, "/look", **NGINX)
        expected = b"https://chat.example https chat.example 203.0.113.9 127.0.0.1"
        assert answer.body == expected
        redirect = visit(site.port, "/redirect", **NGINX)
        assert (redirect.status, redirect.headers["Location"]) == (
            303,
            "https://chat.example/there",
        )

    def test_page_behind_another_proxy_sees_its_peer(self, serve: Serve) -> None:
        site = serve(PAGES, globals())
        answer = visit(site.port, "/look", **NGINX)
        assert answer.body == b"http://chat.example http chat.example 127.0.0.1 127.0.0.1"
        redirect = visit(site.port, "/redirect", **NGINX)
        assert redirect.headers["Location"] == "http://chat.example/there"


class TestHandlers:
    @pytest.fixture
    def site(self, serve: Serve) -> Site:
        return serve(
            trusted_proxies=["127.0.0.1"],
            plugins=["webpy_socketio.plugins.message_logger", "webpy_socketio.plugins.rate_limit"],
            rate_limit_key=lambda request, socket, context: request["REMOTE_ADDR"],
            rate_limit_key_connections=(0.001, 1),
        )

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_handler_behind_a_trusted_proxy_sees_the_client(
        self, transport: str, site: Site, journal: Journal
    ) -> None:
        @on_connect
        def connected(request: Any, socket: Any, context: Any) -> None:
            journal.append((request["REMOTE_ADDR"], web.ctx.ip, web.ctx.home, str(socket)[-17:]))

        headers = {name: value for name, value in NGINX.items() if name != "Host"}
        client = getattr(site, transport)(**headers)
        client.connect()
        address = "203.0.113.9"
        assert journal == [(address, address, "https://chat.example", f"from {address}>")]

    def test_rate_limit_by_address_distinguishes_clients_of_a_proxy(self, site: Site) -> None:
        site.connect(X_Forwarded_For="203.0.113.1")
        site.connect(X_Forwarded_For="203.0.113.2")
        late = site.websocket(X_Forwarded_For="6.6.6.6, 203.0.113.1")
        late.send("40")
        assert late.receive() == '44{"message":"rate limit"}'

    def test_message_log_names_the_client(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        on_event("message")(lambda *args: None)
        with caplog.at_level(logging.INFO, "webpy_socketio.message"):
            site.connect(X_Forwarded_For="203.0.113.9").call("message", "hello")
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith("203.0.113.9 - - [")


class TestOrigins:
    """Origins of pages that connect by polling and by WebSocket."""

    @pytest.mark.parametrize(
        ("headers", "origin", "status"),
        [
            ({"X_Forwarded_Proto": "wss"}, "https://chat.example", 101),
            ({"X_Forwarded_Proto": "WS"}, "http://chat.example", 101),
            ({"X_Forwarded_Proto": "http, https"}, "https://chat.example", 101),
            ({"X_Forwarded_Proto": "https, http"}, "https://chat.example", 403),
            ({"X_Forwarded_Proto": "https"}, "wss://chat.example", 101),
            ({"X_Forwarded_Proto": "https"}, "ws://chat.example", 403),
            (
                {"X_Forwarded_Proto": "https", "X_Forwarded_Port": "8443"},
                *("https://chat.example:8443", 101),
            ),
            (
                {"X_Forwarded_Host": "evil.example, [2001:db8::1]:81"},
                "http://[2001:db8::1]:81",
                101,
            ),
            ({"X_Forwarded_Host": "evil.example, chat.example"}, "http://evil.example", 403),
            ({"Forwarded": "for=_x;proto=https;host=shop.example"}, "https://shop.example", 101),
            ({"Forwarded": "proto=https;host=evil, for=203.0.113.9"}, "https://evil", 403),
        ],
    )
    def test_origin_is_compared_with_the_forwarded_host(
        self, headers: dict[str, str], origin: str, status: int, serve: Serve
    ) -> None:
        site = serve(trusted_proxies=["127.0.0.1"])
        headers = {"Host": "chat.example", "Origin": origin, **headers}
        if "X_Forwarded_Host" not in headers and "Forwarded" not in headers:
            headers["X_Forwarded_Host"] = "chat.example"
        assert visit(site.port, HANDSHAKE, **headers).status == (200 if status == 101 else 403)
        assert site.websocket(**{k: v for k, v in headers.items() if k != "Host"}).status == status


def log_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    caplog.clear()
    return lines


class TestRefusals:
    """The log line of a rejected origin names the compared values."""

    @pytest.mark.parametrize(
        ("headers", "source"),
        [
            ({}, "from Host: chat.example of trusted proxy 127.0.0.1"),
            (
                {"X_Forwarded_Proto": "https, http"},
                "expected http://chat.example; from X-Forwarded-Proto: http, Host: chat.example of",
            ),
            (
                {"X_Forwarded_Proto": "WSS", "X_Forwarded_Host": "a.example, b.example:81"},
                "https://b.example:81; from X-Forwarded-Proto: WSS, "
                "X-Forwarded-Host: b.example:81 of",
            ),
            (
                {"X_Forwarded_Port": "8443"},
                "expected http://chat.example:8443; "
                "from X-Forwarded-Port: 8443, Host: chat.example",
            ),
            (
                {"Forwarded": "for=1.2.3.4;proto=https;host=a.example"},
                "https://a.example; from Forwarded: proto=https, Forwarded: host=a.example of",
            ),
        ],
    )
    def test_refusal_names_the_value_of_the_header(
        self,
        headers: dict[str, str],
        source: str,
        serve: Serve,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        site = serve(trusted_proxies=["127.0.0.1"])
        headers = {"Host": "chat.example", "Origin": "https://other.example", **headers}
        assert visit(site.port, HANDSHAKE, **headers).status == 403
        (line,) = log_lines(caplog)
        assert source in line

    def test_refusal_over_an_untrusted_unix_socket_names_the_setting(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with unix_server(tmp_path / "chat.sock"):
            assert ask_unix(tmp_path / "chat.sock", HANDSHAKE, Origin="https://chat.example") == 403
        (line,) = log_lines(caplog)
        assert 'SOCKETIO_TRUSTED_PROXIES = ["unix"]' in line


class unix_server:  # noqa: N801 - used like a function
    """A server on a Unix socket."""

    def __init__(self, path: Path, **keywords: Any) -> None:
        listener = gevent.socket.socket(stdlib_socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(10)
        app = web.application((*PAGES, *socketio_urls), globals(), autoreload=False)
        keywords = {"plugins": [], "log": None, "block_warning": None, **keywords}
        self.server = SocketIOServer(listener, app.wsgifunc(), **keywords)

    def __enter__(self) -> SocketIOServer:
        self.server.start()
        return self.server

    def __exit__(self, *exception: object) -> None:
        self.server.stop()


def ask_unix(path: Path, target: str, **headers: str) -> int:
    """Return the status of a request in the form that nginx sends to a Unix socket."""
    connection = http.client.HTTPConnection("chat.example")
    connection.sock = stdlib_socket.socket(stdlib_socket.AF_UNIX)
    try:
        connection.sock.connect(str(path))
        named = {name.replace("_", "-"): value for name, value in {**NGINX, **headers}.items()}
        connection.request("GET", target, headers=named)
        return connection.getresponse().status
    finally:
        connection.close()


class TestNginx:
    """The directives of docs/how-to/deployment.rst, in a real nginx."""

    @pytest.fixture(params=["tcp", "unix"])
    def nginx(
        self, request: pytest.FixtureRequest, tmp_path: Path, serve: Serve, journal: Journal
    ) -> Iterator[Nginx]:
        @on_event("look")
        def look(request: Any, socket: Any, context: Any) -> list[str]:
            return [request["REMOTE_ADDR"], web.ctx.home, request["webpy_socketio.peer"]]

        directives = Page.read(DOCS / "how-to" / "deployment.rst").blocks("nginx")[0]
        folder = tmp_path / "nginx"
        folder.mkdir()
        if request.param == "unix":
            # Workers of nginx run as another user, without access to the folders of pytest.
            with tempfile.TemporaryDirectory() as public:
                Path(public).chmod(0o755)
                path = Path(public) / "chat.sock"
                with (
                    unix_server(path, trusted_proxies=["unix"]),
                    running_nginx(directives, {"127.0.0.1:8000": path}, folder) as nginx,
                ):
                    path.chmod(0o777)
                    yield nginx
        else:
            site = serve(PAGES, globals(), trusted_proxies=["127.0.0.1"])
            with running_nginx(directives, {"127.0.0.1:8000": site.port}, folder) as nginx:
                yield nginx

    @pytest.mark.time_limit(30)
    @pytest.mark.parametrize("transports", [["polling"], ["websocket"]], ids="".join)
    def test_client_connects_and_handlers_see_it(self, transports: list[str], nginx: Nginx) -> None:
        url = f"https://localhost:{nginx.port}"
        client = socketio.Client(http_session=trusting(nginx.certificate))
        origin = {} if "websocket" in transports else {"Origin": url}
        client.connect(url, origin, transports=transports)
        try:
            address, home, peer = client.call("look")
            assert (address, home) == ("127.0.0.1", url)
            assert peer in ("127.0.0.1", "unix")
        finally:
            close_client(client)

    def test_redirect_of_a_page_keeps_the_scheme(self, nginx: Nginx) -> None:
        context = ssl.create_default_context(cafile=str(nginx.certificate))
        connection = http.client.HTTPSConnection("localhost", nginx.port, context=context)
        forged = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil.example"}
        forged |= {"X-Forwarded-Port": "1", "Forwarded": "for=6.6.6.6;host=evil.example"}
        try:
            connection.request("GET", "/redirect", headers=forged)
            response = connection.getresponse()
            assert response.headers["Location"] == f"https://localhost:{nginx.port}/there"
            response.read()
            connection.request("GET", "/look", headers=forged)
            home, protocol, host, address, _ = connection.getresponse().read().decode().split()
            assert home == f"https://localhost:{nginx.port}"
            assert (protocol, host, address) == (
                "https",
                home.removeprefix("https://"),
                "127.0.0.1",
            )
        finally:
            connection.close()


class TestAllowedHosts:
    def test_host_outside_the_setting_is_refused_everywhere(self, serve: Serve) -> None:
        site = serve(PAGES, globals(), allowed_hosts=["chat.example"])
        for path in ("/look", HANDSHAKE, "/socket.io/socket.io.min.js"):
            assert visit(site.port, path).status == 400
            assert visit(site.port, path, Host="chat.example:8000").status == 200
        assert site.websocket().status == 400
        assert WebSocket(site.port, headers={"Origin": site.url}, handshake=False).status == 400
