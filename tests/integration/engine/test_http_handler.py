"""Requests on a real server: invalid ones get one 4xx and close the connection.

This applies to requests for the application too.
"""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import pytest

from tests import raw
from webpy_socketio.engine import Engine, EngineConfig, EngineServer
from webpy_socketio.engine.http.server import take_over_all


class Pages:
    """A WSGI application that records the bodies of its requests and returns them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        data = environ["wsgi.input"].read()
        self.bodies.append(data)
        assert environ.get("CONTENT_LENGTH", "0") == str(len(data))
        start_response("200 OK", [("Content-Length", str(len(data)))])
        return [data]


class IgnoringReceiver:
    def opened(self, session: Any) -> IgnoringReceiver:
        return self

    def message(self, data: Any) -> None: ...
    def closed(self, reason: str) -> None: ...


class Server:
    def __init__(self, **config: Any) -> None:
        self.pages = Pages()
        self.log = io.StringIO()
        engine = Engine(IgnoringReceiver(), EngineConfig(**config))
        self.server = EngineServer(
            ("127.0.0.1", 0), engine, self.pages, log=None, error_log=self.log
        )
        self.server.start()

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.server.server_port))
        raw.OPENED.append(sock)
        return sock

    def exchange(self, data: bytes) -> bytes:
        """Send `data`, and read until the server closes the connection."""
        sock = self.connect()
        sock.sendall(data)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while data := sock.recv(65_536):
        received += data
    return received


@pytest.fixture
def serve_pages() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**config: Any) -> Server:
        servers.append(Server(**config))
        return servers[-1]

    yield start
    for server in servers:
        server.server.stop()


@pytest.fixture
def pages(serve_pages: Callable[..., Server]) -> Server:
    return serve_pages()


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class TestRejections:
    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
            (POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello", b"400"),
            (POST + b"Content-Length: +5\r\n\r\nhello", b"400"),
            (POST + b"Transfer-Encoding: xchunked\r\n\r\n", b"400"),
            (POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n", b"400"),
            (POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", b"400"),
            (POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"400"),
            (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"400"),
            (
                POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
                b"400",
            ),
            (POST + b"Connection: Upgrade\r\nContent-Length: 3\r\n\r\nabc", b"400"),
            (POST + b"Content-Length: 99999999999999999999\r\n\r\n", b"413"),
            (b"GET / HTTP/1.1\r\n" + b"H: x\r\n" * 200 + b"\r\n", b"431"),
            (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"414"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", b"400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", b"400"),
            (b"GET / HTTP/1.1\r\n\r\n", b"400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        ],
    )
    def test_invalid_request_gets_one_response_and_is_closed(
        self, request_: bytes, status: bytes, pages: Server
    ) -> None:
        answer = pages.exchange(request_ + SMUGGLED)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"Connection: close" in answer
        assert pages.pages.bodies == []
        assert pages.log.getvalue() == ""

    def test_valid_requests_are_served_beside_invalid_ones(self, pages: Server) -> None:
        pages.exchange(b"junk\r\n\r\n")
        assert pages.exchange(SMUGGLED).startswith(b"HTTP/1.1 200")

    def test_body_above_page_limit_is_rejected(self, serve_pages: Callable[..., Server]) -> None:
        server = serve_pages(max_body_size=10)
        assert server.exchange(POST + b"Content-Length: 11\r\n\r\n").startswith(b"HTTP/1.1 413")
        whole = POST + b"Connection: close\r\nContent-Length: 10\r\n\r\n0123456789"
        assert server.exchange(whole).endswith(b"\r\n\r\n0123456789")


class TestHeads:
    @pytest.mark.parametrize("pause", [False, True])
    def test_leading_empty_line_is_ignored(self, pause: bool, pages: Server) -> None:
        """RFC 9112 §2.2; for a head that arrives at once and one that arrives in parts."""
        sock = pages.connect()
        sock.sendall(b"\r\nPOST / HTTP/1.1\r\nHost: x\r\n")
        if pause:
            gevent.sleep(0)
        sock.sendall(b"Content-Length: 2\r\nConnection: close\r\n\r\nhi")
        assert read_all(sock).startswith(b"HTTP/1.1 200")
        assert pages.pages.bodies == [b"hi"]

    def test_environ_has_the_entries_of_pep_3333(self) -> None:
        """PEP 3333, "environ Variables"."""
        seen: dict[str, Any] = {}

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            seen.update(environ)
            start_response("200 OK", [("Content-Length", "0")])
            return []

        server = EngineServer(("127.0.0.1", 0), Engine(IgnoringReceiver()), application, log=None)
        server.start()
        sock = socket.create_connection(("127.0.0.1", server.server_port))
        raw.OPENED.append(sock)
        sock.sendall(
            b"GET /caf%E9/a%2Fb?x=%20&y HTTP/1.1\r\nHost: x\r\nAccept: a\r\naccept:  b \r\n"
            b"Cookie: a=1\r\nCookie: b=2\r\nX-Name: true\r\nX_Name: false\r\n"
            b"Content-Type: text/plain\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"
        )
        assert read_all(sock).startswith(b"HTTP/1.1 200")
        server.stop()
        assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/caf\xe9/a/b", "x=%20&y")
        assert (seen["REQUEST_METHOD"], seen["SERVER_PROTOCOL"]) == ("GET", "HTTP/1.1")
        assert (seen["SCRIPT_NAME"], seen["REMOTE_ADDR"]) == ("", "127.0.0.1")
        assert seen["REMOTE_PORT"].isdigit()
        assert seen["HTTP_ACCEPT"] == "a,b"
        assert seen["HTTP_COOKIE"] == "a=1; b=2"
        # A name with an underscore could be confused with another header.
        assert seen["HTTP_X_NAME"] == "true"
        assert seen["CONTENT_TYPE"] == "text/plain"
        assert "CONTENT_LENGTH" not in seen
        assert "HTTP_CONTENT_TYPE" not in seen

    def test_http_1_0_keep_alive_is_confirmed(self) -> None:
        """In HTTP/1.0 both sides must agree to keep the connection open."""
        server = EngineServer(("127.0.0.1", 0), Engine(IgnoringReceiver()), log=None)
        server.start()
        sock = socket.create_connection(("127.0.0.1", server.server_port))
        raw.OPENED.append(sock)
        for _ in range(2):
            sock.sendall(
                b"GET /engine.io/?EIO=3 HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
            )
            head, _, body = sock.recv(65_536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400")
            assert b"Connection: keep-alive" in head
            assert f"Content-Length: {len(body)}".encode() in head
        server.stop()


class TestBodies:
    def test_body_with_connection_upgrade_of_a_proxy_is_read(self, pages: Server) -> None:
        # As nginx does when it is configured as in the documentation of Socket.IO.
        answer = pages.exchange(POST + b"Connection: upgrade\r\nContent-Length: 5\r\n\r\nhello")
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in answer
        assert pages.pages.bodies == [b"hello"]

    def test_chunked_body_is_decoded(self, pages: Server) -> None:
        chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
        answer = pages.exchange(chunked + SMUGGLED)
        assert pages.pages.bodies == [b"hello", b""]
        assert answer.count(b"HTTP/1.1 200") == 2

    def test_large_body_arrives_complete(self, pages: Server) -> None:
        data = bytes(range(256)) * 4096  # goes to a temporary file
        head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data)
        assert pages.exchange(head + data).endswith(data)

    def test_body_after_100_continue_is_read(self, pages: Server) -> None:
        sock = pages.connect()
        sock.sendall(
            POST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hi")
        assert read_all(sock).endswith(b"\r\n\r\nhi")

    def test_partially_buffered_body_is_read(self, pages: Server) -> None:
        sock = pages.connect()
        sock.sendall(POST + b"Content-Length: 5\r\n\r\nhello")
        sock.sendall(POST + b"Content-Length: 5\r\n\r\nwor")
        received = b""
        while not received.endswith(b"hello"):
            received += sock.recv(65_536)
        sock.sendall(b"ld" + POST + b"Connection: close\r\n\r\n")
        assert read_all(sock).count(b"200 OK") == 2
        assert pages.pages.bodies == [b"hello", b"world", b""]

    def test_pipelined_requests_have_their_own_headers(self, pages: Server) -> None:
        sock = pages.connect()
        sock.sendall(
            POST + b"Content-Length: 5\r\n\r\nhello"
            + POST + b"Content-Length: 2\r\n\r\nme"
            + POST + b"Content-Length: 2\r\n\r\nyo"
            + POST + b"Connection: close\r\n\r\n"
        )  # fmt: skip
        read_all(sock)
        assert pages.pages.bodies == [b"hello", b"me", b"yo", b""]

    @pytest.mark.parametrize("reset", [False, True])
    def test_incomplete_body_does_not_reach_the_application(
        self, reset: bool, pages: Server
    ) -> None:
        sock = pages.connect()
        sock.sendall(POST + b"Content-Length: 100\r\n\r\n0123456789")
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        else:
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock).startswith(b"HTTP/1.1 400")
        assert pages.exchange(SMUGGLED).startswith(b"HTTP/1.1 200")
        assert pages.pages.bodies == [b""]
        assert pages.log.getvalue() == ""


class TestExpect:
    EXPECTING = POST + b"Expect: 100-continue\r\n"

    @pytest.mark.parametrize("size", [b"5", b"5000000"])
    def test_client_that_never_sends_its_body_is_closed(
        self, size: bytes, serve_pages: Callable[..., Server]
    ) -> None:
        server = serve_pages(body_timeout=0.1)
        sock = server.connect()
        sock.sendall(self.EXPECTING + b"Content-Length: %s\r\n\r\n" % size)
        interim, _, answer = read_all(sock).partition(b"\r\n\r\n")
        assert interim == b"HTTP/1.1 100 Continue"
        assert answer.startswith(b"HTTP/1.1 408")
        assert server.pages.bodies == []

    def test_client_that_neither_reads_nor_sends_is_closed(
        self, serve_pages: Callable[..., Server]
    ) -> None:
        """The write timeout applies to the interim response too."""
        server = serve_pages(body_timeout=60.0, write_timeout=0.1)
        server.server.application = lambda environ, start: (start("200 OK", []), [b"x" * 5000])[1]
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.server.server_port))
        raw.OPENED.append(sock)
        get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        with contextlib.suppress(OSError):
            while True:  # until the server closes the connection
                sock.sendall(get * 100 + self.EXPECTING + b"Content-Length: 5\r\n\r\nhello")
        assert server.exchange(SMUGGLED).startswith(b"HTTP/1.1 200")

    def test_body_above_the_limit_is_rejected_without_100_continue(
        self, serve_pages: Callable[..., Server]
    ) -> None:
        server = serve_pages(max_body_size=10)
        answer = server.exchange(self.EXPECTING + b"Content-Length: 11\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413")

    def test_request_without_body_gets_no_interim_response(self, pages: Server) -> None:
        answer = pages.exchange(self.EXPECTING + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")

    @pytest.mark.parametrize("expectation", [b"200-ok", b"100-continue, other"])
    def test_other_expectation_is_answered_with_417(
        self, expectation: bytes, pages: Server
    ) -> None:
        answer = pages.exchange(POST + b"Expect: %s\r\n\r\n" % expectation)
        assert answer.startswith(b"HTTP/1.1 417")
        assert pages.pages.bodies == []

    @pytest.mark.parametrize("expectation", [b"100-continue", b"200-ok"])
    def test_http_1_0_expectation_is_ignored(self, expectation: bytes, pages: Server) -> None:
        head = POST.replace(b"1.1", b"1.0") + b"Expect: %s\r\n" % expectation
        answer = pages.exchange(head + b"Content-Length: 5\r\n\r\nhello")
        assert answer.startswith(b"HTTP/1.1 200")
        assert pages.pages.bodies == [b"hello"]


class TestTimeouts:
    def test_trickling_head_times_out(self, serve_pages: Callable[..., Server]) -> None:
        server = serve_pages(header_timeout=0.1)
        sock = server.connect()
        sock.sendall(b"GET / HT")
        assert read_all(sock).startswith(b"HTTP/1.1 408")

    def test_silent_connection_times_out(self, serve_pages: Callable[..., Server]) -> None:
        server = serve_pages(header_timeout=0.1)
        assert read_all(server.connect()) == b""

    def test_idle_keep_alive_connection_times_out(self, serve_pages: Callable[..., Server]) -> None:
        server = serve_pages(idle_timeout=0.1)
        sock = server.connect()
        sock.sendall(SMUGGLED.replace(b"Connection: close\r\n", b""))
        answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"HTTP/1.1") == 1

    def test_stalled_body_times_out(self, serve_pages: Callable[..., Server]) -> None:
        server = serve_pages(body_timeout=0.1)
        sock = server.connect()
        sock.sendall(POST + b"Content-Length: 100\r\n\r\n0123456789")
        assert read_all(sock).startswith(b"HTTP/1.1 408")
        assert server.pages.bodies == []

    def test_trickling_body_times_out(self, serve_pages: Callable[..., Server]) -> None:
        server = serve_pages(body_timeout=0.2)
        sock = server.connect()
        sock.sendall(POST + b"Content-Length: 100000\r\n\r\n")

        def trickle() -> None:
            try:
                while True:
                    sock.sendall(b"x")
                    gevent.sleep(0.05)  # slower than the minimum rate, but within the timeout
            except OSError:
                pass  # closed by the server

        trickling = gevent.spawn(trickle)
        answer = sock.recv(1000)
        trickling.kill()
        assert answer.startswith(b"HTTP/1.1 408")

    def test_body_with_fast_start_and_slow_end_times_out(
        self, serve_pages: Callable[..., Server]
    ) -> None:
        server = serve_pages(body_timeout=0.3)
        sock = server.connect()
        # At 1,000 bytes a second this would extend the deadline by ten minutes.
        sock.sendall(POST + b"Content-Length: 700000\r\n\r\n" + b"x" * 600_000)

        def trickle() -> None:
            try:
                while True:
                    sock.sendall(b"x")
                    gevent.sleep(0.05)
            except OSError:
                pass  # closed by the server

        trickling = gevent.spawn(trickle)
        answer = sock.recv(1000)
        trickling.kill()
        assert answer.startswith(b"HTTP/1.1 408")

    def test_body_at_minimum_rate_is_read_completely(
        self, serve_pages: Callable[..., Server]
    ) -> None:
        server = serve_pages(body_timeout=0.3)
        sock = server.connect()
        sock.sendall(POST + b"Connection: close\r\nContent-Length: 5000\r\n\r\n")
        for _ in range(20):
            sock.sendall(b"x" * 250)
            gevent.sleep(0.05)
        assert read_all(sock).startswith(b"HTTP/1.1 200")

    def test_slow_requests_do_not_delay_others(self, serve_pages: Callable[..., Server]) -> None:
        server = serve_pages(header_timeout=5.0)
        slow = [server.connect() for _ in range(200)]
        for sock in slow:
            sock.sendall(b"GET ")
        assert server.exchange(SMUGGLED).startswith(b"HTTP/1.1 200")


class TestConnectionClose:
    def test_connection_close_is_sent_and_performed(self, pages: Server) -> None:
        answer = pages.exchange(SMUGGLED)
        assert b"\r\nConnection: close\r\n" in answer


class TestSessions:
    def test_handshake_at_session_limit_gets_503(self, serve_pages: Callable[..., Server]) -> None:
        server = serve_pages(max_sessions=1)
        server.server.application = take_over_all("/engine.io/")
        first = raw.Polling(server.server.server_port, "/engine.io/")
        assert first.sid
        target = b"GET /engine.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n"
        assert server.exchange(target).startswith(b"HTTP/1.1 503")
