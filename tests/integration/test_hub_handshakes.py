"""Handshakes that are served on the hub: the application passes on the first one only."""

from __future__ import annotations

import io
import logging
import re
import socket
from collections.abc import Callable
from typing import Any

import gevent.event
import pytest
import web

from tests import raw
from tests.conftest import Site, socket_of
from tests.engines import Http, eventually
from webpy_socketio import SocketIOServer, on_connect, socketio_urls
from webpy_socketio.application import SocketIOView
from webpy_socketio.engine.http.wsgi import RequestHandler

HANDSHAKE = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def accept(site: Site) -> None:
    """Let the application pass on a first handshake."""
    site.websocket().close()


def handshake(site: Site, *headers: str) -> int:
    return Http(site.port).request("GET", HANDSHAKE, *headers)[0]


class Index:
    def GET(self) -> str:
        return "a page"


class Page:
    def GET(self, path: str) -> str:
        return f"page of {path}"


class TestApplication:
    """When the application is called."""

    def test_application_without_processors_is_called_for_the_first_handshake(
        self, site: Site, slow: list[str]
    ) -> None:
        accept(site)
        assert len(slow) == 1
        site.connect().barrier()
        site.polling().connect()
        assert len(slow) == 1

    def test_processor_is_called_for_each_handshake(self, site: Site) -> None:
        accept(site)
        seen = []

        def processor(handle: Callable[[], Any]) -> Any:
            seen.append(web.ctx.path)
            if len(seen) > 1:
                raise web.forbidden()
            return handle()

        site.app.add_processor(processor)
        assert [handshake(site), handshake(site)] == [200, 403]
        assert seen == ["/socket.io/"] * 2

    def test_changed_urls_apply_to_the_next_handshake(self, site: Site) -> None:
        accept(site)
        site.app.mapping.insert(0, ("/socket.io/.*", Index))
        assert Http(site.port).request("GET", HANDSHAKE)[2] == b"a page"
        del site.app.mapping[0]
        assert handshake(site) == 200
        (entry,) = [list(entry) for entry in site.app.mapping]
        site.app.mapping[:] = [entry]
        assert handshake(site) == 200
        entry[1] = Page
        assert Http(site.port).request("GET", HANDSHAKE)[2] == b"page of "
        entry[1] = SocketIOView
        assert handshake(site) == 200
        site.app.init_mapping(("/", Index))
        assert handshake(site) == 404

    def test_wsgi_wrapper_is_called_for_each_handshake(self, site: Site) -> None:
        seen = []

        def wrapper(environ: dict[str, Any], start_response: Any) -> Any:
            seen.append(environ["PATH_INFO"])
            return wrapped(environ, start_response)

        accept(site)
        wrapped, site.server.application = site.server.application, wrapper
        assert [handshake(site) for _ in range(3)] == [200] * 3
        assert seen == ["/socket.io/"] * 3

    def test_subclass_of_the_view_is_called_for_each_handshake(
        self, serve: Callable[..., Site]
    ) -> None:
        seen = []

        class View(SocketIOView):
            def GET(self, path: str) -> Any:
                seen.append(path)
                return super().GET(path)

        site = serve((socketio_urls[0], View))
        assert [handshake(site) for _ in range(3)] == [200] * 3
        assert seen == [""] * 3

    def test_replaced_method_of_an_application_is_called(self, site: Site) -> None:
        accept(site)
        seen = []
        handle = site.app.handle

        def replacement() -> Any:
            seen.append(web.ctx.path)
            return handle()

        site.app.handle = replacement
        assert [handshake(site), handshake(site)] == [200, 200]
        assert seen == ["/socket.io/"] * 2

    def test_application_with_methods_of_its_own_is_called_for_each_handshake(self) -> None:
        seen = []

        class Application(web.application):
            def handle(self) -> Any:
                seen.append(web.ctx.path)
                return super().handle()

        application = Application(socketio_urls, {}, autoreload=False)
        server = SocketIOServer(
            ("127.0.0.1", 0), application.wsgifunc(), plugins=[], log=None, block_warning=None
        )
        server.start()
        try:
            for _ in range(3):
                assert Http(server.server_port).request("GET", HANDSHAKE)[0] == 200
        finally:
            server.stop()
        assert seen == ["/socket.io/"] * 3

    def test_other_paths_are_left_to_the_application(self, serve: Callable[..., Site]) -> None:
        site = serve(("/", Index))
        accept(site)
        query = HANDSHAKE.partition("?")[2]
        assert Http(site.port).request("GET", f"/?{query}")[2] == b"a page"
        assert Http(site.port).request("GET", f"/other/socket.io/?{query}")[0] == 404

    def test_request_with_an_encoded_session_id_may_wait(self, site: Site) -> None:
        accept(site)
        polling = site.polling()
        http = Http(site.port)
        http.send("GET", f"{HANDSHAKE}&s%69d={polling.sid}")
        session = site.server.engine.sessions[polling.sid]
        eventually(lambda: session.transport.waiting)  # type: ignore[union-attr]
        session.send("a")
        assert http.response()[2] == b"4a"

    def test_context_of_handlers_is_that_of_a_handshake_through_the_application(
        self, site: Site
    ) -> None:
        contexts = []

        @on_connect
        def handler(request: Any, socket: Any, context: Any) -> None:
            found = dict(web.ctx.__dict__)
            assert found.pop("env") is found.pop("environ") is request
            contexts.append(found)

        for _ in range(2):
            client = site.connect()
            client.barrier()
            environ = dict(socket_of(client).request)
            client.close()
            for name in ("HTTP_SEC_WEBSOCKET_KEY", "REMOTE_PORT"):
                del environ[name]
            contexts.append(environ)
        assert contexts[:2] == contexts[2:]
        assert contexts[0]["path"] == "/socket.io/"


class TestResponses:
    """Responses on the hub are those of the greenlet."""

    @pytest.mark.parametrize("headers", [(), WEBSOCKET], ids=["polling", "websocket"])
    def test_accepted_handshake_has_the_same_response(
        self, headers: tuple[str, ...], site: Site, slow: list[str]
    ) -> None:
        transport = "websocket" if headers else "polling"
        found = []
        for _ in range(2):
            http = Http(site.port)
            http.send("GET", f"/socket.io/?EIO=4&transport={transport}", *headers)
            data = b""
            while b"maxPayload" not in data:
                data += http.sock.recv(4096)
            found.append(re.sub(rb'Date: [^\r]*|"sid":"[^"]*"', b"", data))
            http.sock.close()
        assert found[0] == found[1]
        assert len(slow) == 1

    @pytest.mark.parametrize(
        ("query", "headers", "status"),
        [
            ("EIO=3&transport=polling", (), 400),
            ("EIO=4&transport=polling", ("Origin: https://elsewhere.example",), 403),
            ("EIO=4&transport=websocket", (), 400),
            ("EIO=4&transport=websocket", ("Upgrade: websocket",), 426),
            ("EIO=4&transport=websocket", (*WEBSOCKET[:2], "Sec-WebSocket-Version: 12"), 400),
        ],
        ids=["connection", "origin", "protocol", "upgrade", "version"],
    )
    def test_rejected_handshake_has_the_same_response(
        self, query: str, headers: tuple[str, ...], status: int, site: Site
    ) -> None:
        found = [Http(site.port).request("GET", f"/socket.io/?{query}", *headers)]
        accept(site)
        found.append(Http(site.port).request("GET", f"/socket.io/?{query}", *headers))
        for one in found:
            del one[1]["Date"]
        assert found[0][0] == found[1][0] == status
        assert found[0][1].items() == found[1][1].items()
        assert found[0][2] == found[1][2]

    def test_rejections_are_logged_once(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        accept(site)
        Http(site.port).request("GET", HANDSHAKE, "Origin: https://elsewhere.example")
        found = [one for one in caplog.records if "elsewhere.example" in one.getMessage()]
        assert len(found) == 1

    def test_full_server_rejects_and_closes(self, serve: Callable[..., Site]) -> None:
        site = serve(max_sessions=1)
        accept(site)
        eventually(lambda: not site.server.engine.sessions)
        site.websocket()
        http = Http(site.port)
        status, headers, _ = http.request("GET", HANDSHAKE)
        assert (status, headers["Connection"]) == (503, "close")
        assert http.sock.recv(1) == b""

    def test_host_that_is_not_allowed_is_rejected(
        self, serve: Callable[..., Site], caplog: pytest.LogCaptureFixture
    ) -> None:
        site = serve(allowed_hosts=["127.0.0.1"])
        accept(site)
        caplog.set_level(logging.INFO)
        http = Http(site.port)
        http.sock.sendall(f"GET {HANDSHAKE} HTTP/1.1\r\nHost: other.example\r\n\r\n".encode())
        assert http.response()[0] == 400
        found = [one for one in caplog.records if "other.example" in one.getMessage()]
        assert len(found) == 1

    def test_connection_close_is_answered_and_closed(self, site: Site) -> None:
        accept(site)
        http = Http(site.port)
        status, headers, _ = http.request("GET", HANDSHAKE, "Connection: close")
        assert (status, headers["Connection"]) == (200, "close")
        assert http.sock.recv(1) == b""

    def test_page_follows_a_handshake_on_the_same_connection(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(("/", Index))
        accept(site)
        http = Http(site.port)
        end = f"HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n"
        http.sock.sendall(f"GET {HANDSHAKE} {end}GET / {end}".encode())
        data = b""
        while b"a page" not in data:
            data += http.sock.recv(4096)
        assert data.count(b"HTTP/1.1 200 OK") == 2

    def test_client_that_reads_late_receives_all_responses(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        accept(site)
        begin = RequestHandler.begin

        def begin_with_small_buffer(self: RequestHandler) -> None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            begin(self)

        monkeypatch.setattr(RequestHandler, "begin", begin_with_small_buffer)
        http = Http(site.port)
        http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        request = f"GET {HANDSHAKE} HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n\r\n".encode()
        blocked = gevent.event.Event()
        send_rest = RequestHandler.send_rest

        def send_rest_recorded(self: RequestHandler, data: bytes) -> bool:
            blocked.set()
            return send_rest(self, data)

        monkeypatch.setattr(RequestHandler, "send_rest", send_rest_recorded)
        while not blocked.is_set():
            http.sock.sendall(request)
            gevent.sleep(0)
        sessions = len(site.server.engine.sessions)
        data = b""
        while data.count(b"maxPayload") < sessions:
            data += http.sock.recv(4096)

    def test_frames_that_arrive_with_the_handshake_are_received(self, site: Site) -> None:
        accept(site)
        http = Http(site.port)
        lines = "\r\n".join((f"Host: 127.0.0.1:{site.port}", *WEBSOCKET))
        connect = b"\x81\x82\0\0\0\x0040"
        head = f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n{lines}\r\n\r\n"
        http.sock.sendall(head.encode() + connect)
        data = b""
        while b"40{" not in data:
            data += http.sock.recv(4096)

    def test_proxy_headers_apply(self, serve: Callable[..., Site], slow: list[str]) -> None:
        site = serve(trusted_proxies=["127.0.0.1"])
        accept(site)
        client = site.connect(**{"X-Forwarded-For": "192.0.2.7"})
        assert socket_of(client).request["REMOTE_ADDR"] == "192.0.2.7"
        assert len(slow) == 1


class TestConnections:
    def test_access_log_has_a_line_for_each_handshake(self, slow: list[str]) -> None:
        log = io.StringIO()
        application = web.application(socketio_urls, {}, autoreload=False)
        server = SocketIOServer(
            ("127.0.0.1", 0), application.wsgifunc(), plugins=[], log=log, block_warning=None
        )
        server.start()
        try:
            for transport in (raw.WebSocket, raw.WebSocket, raw.Polling):
                transport(server.server_port, "/socket.io/")
            eventually(lambda: log.getvalue().count("\n") == 3)
        finally:
            server.stop()
        found = re.findall(r'"GET /socket.io/\S*transport=(\w+)\S* HTTP/1.1" (\d+)', log.getvalue())
        assert found == [("websocket", "101"), ("websocket", "101"), ("polling", "200")]
        assert len(slow) == 1

    def test_handshakes_do_not_use_up_the_limit_of_connections(
        self, serve: Callable[..., Site]
    ) -> None:
        """WebSockets count as sessions; see SOCKETIO_MAX_SESSIONS_PER_ADDRESS."""
        site = serve(max_connections_per_address=2)
        for _ in range(5):
            site.connect().barrier()
        for _ in range(5):
            http = Http(site.port)
            assert http.request("GET", HANDSHAKE)[0] == 200
            http.sock.close()
            eventually(lambda: not len(site.server._addresses))

    def test_new_connections_are_rejected_while_the_server_stops(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(max_connections_per_address=9)  # also counts connections of this address
        accept(site)
        http = Http(site.port)
        eventually(lambda: len(site.server._addresses))
        site.server.engine.close()
        assert http.request("GET", HANDSHAKE)[0] == 503
