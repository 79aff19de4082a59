"""Dispatch of requests between the engine and the application beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from tests.engines import Http, RecordedSession, Recorder, Running
from webpy_socketio.engine.http.wsgi import ACCEPT_KEY

POLLING = "/engine.io/?EIO=4&transport=polling"


class Site:
    """An application with a page and a gate for new sessions, which records its calls."""

    def __init__(self, accepts: bool = True) -> None:
        self.accepts = accepts
        self.requests: list[str] = []
        self.completed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        assert environ[ACCEPT_KEY] is False
        if environ["PATH_INFO"] == "/engine.io/" and self.accepts:
            return self.gate(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"not", b" you"]

    def gate(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[ACCEPT_KEY] = True
        start_response("200 OK", [("Set-Cookie", "seen=1"), ("X-Page", "1")])
        yield b""
        yield b"never shown"
        self.completed += 1


class TestApplication:
    def test_application_accepts_and_rejects_new_sessions(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(application=Site(accepts=False))
        status, _, body = running.http().request("GET", POLLING)
        assert (status, body) == (403, b"not you")
        assert running.websocket().status == 403
        assert running.receiver == []

    def test_application_completes_before_the_session_opens(
        self, run: Callable[..., Running]
    ) -> None:
        site = Site()

        class Watching(Recorder):
            def opened(self, session: Any) -> Any:
                self.append(("completed", site.completed))
                return RecordedSession(self, session)

        running = run(Watching(), site)
        running.polling()
        running.websocket()
        assert running.receiver[:2] == [("completed", 1), ("completed", 2)]

    def test_handshake_with_headers_of_the_application_passes_them_on(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(application=Site())
        _, headers, body = running.http().request("GET", POLLING)
        assert headers["Set-Cookie"] == "seen=1"
        assert headers["X-Page"] == "1"
        assert body.startswith(b"0{")
        http = running.http()
        http.send(
            "GET",
            "/engine.io/?EIO=4&transport=websocket",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        assert b"\r\nset-cookie: seen=1\r\n" in http.sock.recv(65_536).lower()

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_handshake_passes_on_only_headers_that_describe_no_body_or_connection(
        self, transport: str, run: Callable[..., Running]
    ) -> None:
        passed = [
            *(("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Tenant", "caf\xe9")),
            *(("Vary", "Cookie"), ("Server", "ours"), ("Strict-Transport-Security", "max-age=1")),
            *(("Access-Control-Expose-Headers", "X-Tenant"), ("Retry-After", "5")),
        ]
        kept = [
            *(("Content-Type", "text/html"), ("content-length", "2"), ("Content-Encoding", "br")),
            *(("ETag", "x"), ("Last-Modified", "x"), ("Cache-Control", "public"), ("Date", "x")),
            *(("Keep-Alive", "x"), ("Trailer", "x"), ("TE", "x"), ("Upgrade", "h2c")),
            *(("Proxy-Connection", "x"), ("Sec-WebSocket-Accept", "x")),
            *(("Sec-WebSocket-Extensions", "permessage-deflate"), ("X-Content-Type-Options", "x")),
            *(("access-control-allow-origin", "*"), ("Access-Control-Allow-Credentials", "x")),
        ]

        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            environ[ACCEPT_KEY] = True
            start_response("200 OK", passed + kept)
            return [b""]

        http = run(application=application).http()
        upgrade = [
            *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        http.send(
            *("GET", f"/engine.io/?EIO=4&transport={transport}"),
            *(upgrade if transport == "websocket" else []),
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += http.sock.recv(1)
        lines = [tuple(line.split(": ", 1)) for line in head.decode("latin-1").split("\r\n")[1:-2]]
        assert [line for line in passed if line not in lines] == []
        assert [line for line in kept if line in lines] == []
        names = [name.lower() for name, _ in lines]
        assert [name for name in names if names.count(name) > 1 and name != "set-cookie"] == []

    def test_application_is_not_called_for_existing_sessions(
        self, run: Callable[..., Running]
    ) -> None:
        site = Site()
        running = run(Recorder(echo=True), site)
        client = running.polling()
        client.send("4a")
        assert client.poll() == ["4a"]
        running.websocket(f"&sid={client.sid}")
        assert site.requests == ["GET /engine.io/"]

    def test_application_serves_its_own_pages(self, run: Callable[..., Running]) -> None:
        site = Site()
        running = run(application=site)
        sid = running.polling().sid
        status, _, body = running.http().request("GET", f"/page?sid={sid}")
        assert (status, body) == (403, b"not you")
        assert site.requests[-1] == "GET /page"

    def test_iterable_of_the_application_is_closed(self, run: Callable[..., Running]) -> None:
        class Closing(list[bytes]):
            closed = 0

            def close(self) -> None:
                type(self).closed += 1

        def application(environ: dict[str, Any], start_response: Any) -> Closing:
            environ[ACCEPT_KEY] = environ["PATH_INFO"] == "/engine.io/"
            start_response("200 OK", [("Content-Length", "2")])
            return Closing([b"hi"])

        running = run(application=application)
        running.polling()
        assert running.http().request("GET", "/")[2] == b"hi"
        assert Closing.closed == 2

    def test_application_error_opens_no_session(
        self, run: Callable[..., Running], capfd: pytest.CaptureFixture[str]
    ) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            raise ZeroDivisionError

        running = run(application=application)
        assert running.http().request("GET", POLLING)[0] == 500
        assert running.receiver == []
        assert "ZeroDivisionError" in capfd.readouterr().err


class TestConnection:
    def test_other_path_gets_404(self, server: Running) -> None:
        assert server.http().request("GET", "/")[0] == 404
        assert server.http().request("GET", "/engine.io")[0] == 404
        assert server.http().request("GET", "/engine.io/more?EIO=4&transport=polling")[0] == 404

    @pytest.mark.parametrize("target", [POLLING, "/"])
    def test_response_before_close_has_connection_close(self, server: Running, target: str) -> None:
        http = server.http()
        _, headers, _ = http.request("GET", target, "Connection: close")
        assert headers["Connection"] == "close"
        assert http.read_to_end() == b""

    def test_pipelined_requests_are_answered_in_order(self, server: Running) -> None:
        http = server.http()
        first = f"GET {POLLING} HTTP/1.1\r\nHost: a\r\n\r\n"
        last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        http.sock.sendall((first * 2 + last).encode())
        answer = http.read_to_end()
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.index(b"404") > answer.rindex(b"200 OK")
        assert len(server.engine.sessions) == 2

    def test_head_request_gets_no_body(self, server: Running) -> None:
        http = server.http()
        http.send("HEAD", POLLING)
        http.send("HEAD", "/", "Connection: close")
        first, second, rest = http.read_to_end().split(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 400 ")
        assert second.startswith(b"HTTP/1.1 404 ")
        assert rest == b""

    def test_head_request_for_a_page_of_unknown_length_gets_no_body(
        self, run: Callable[..., Running]
    ) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"one"
            yield b"two"

        http = run(application=application).http()
        http.send("HEAD", "/")
        http.send("GET", "/", "Connection: close")
        head, _, rest = http.read_to_end().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert rest.startswith(b"HTTP/1.1 200 ")
        assert rest.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")

    def test_ipv4_client_of_an_ipv6_server_has_an_ipv4_address(
        self, run: Callable[..., Running]
    ) -> None:
        running = run()
        raw_environ: dict[str, Any] = {}
        handler = running.server.handler_class

        class Mapped(handler):  # type: ignore[misc, valid-type]
            def __init__(self, sock: Any, address: Any, server: Any) -> None:
                super().__init__(sock, ("::ffff:192.0.2.1", 1, 0, 0), server)

            def get_environ(self) -> dict[str, Any]:
                raw_environ.update(super().get_environ())
                return raw_environ

        running.server.handler_class = Mapped
        running.polling()
        assert raw_environ["REMOTE_ADDR"] == "192.0.2.1"

    def test_undeliverable_response_closes_the_session(self, run: Callable[..., Running]) -> None:
        running = run(write_timeout=0.05, outbox_bytes=64 << 20)
        sid = running.polling().sid
        running.session.send("x" * (16 << 20))
        http: Http = running.http()
        http.send("GET", f"{POLLING}&sid={sid}")  # and never read
        assert running.receiver.wait_closed() == "transport error"
