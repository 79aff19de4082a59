"""Slow readers: those that make progress are served, the others are closed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import gevent
import pytest

from tests import raw
from tests.conftest import Journal
from tests.engines import Running, trust_all

#: Bytes that exceed the buffers of a connection.
MUCH = b"0123456789abcdef" * 500_000

#: Seconds without progress.
WRITE_TIMEOUT = 0.5

#: For tests in which the reader makes no progress, or too little.
short_timeout = pytest.mark.parametrize("write_timeout", [0.1])

POLLING = "/engine.io/?EIO=4&transport=polling"


class Pages:
    """Pages of `MUCH` bytes, made in each way of WSGI; `journal` gets "closed" at their end."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self.journal = journal
        path.write_bytes(MUCH)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Length", str(len(MUCH)))])
        kind = environ["PATH_INFO"]
        if kind == "/write":
            with contextlib.suppress(OSError):
                write(MUCH)
            self.journal.append("closed")
            return []
        if kind == "/file":
            return FileWrapper(self.Watched(self, self.path))
        return self.Body(self, [MUCH] if kind == "/block" else self.pieces())

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, len(MUCH), 10_000):
            yield MUCH[start : start + 10_000]

    class Body:
        def __init__(self, pages: Pages, blocks: Iterable[bytes]) -> None:
            self.pages = pages
            self.blocks = blocks

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.blocks)

        def close(self) -> None:
            self.pages.journal.append("closed")

    class Watched:
        def __init__(self, pages: Pages, path: Path) -> None:
            self.pages = pages
            self.file = path.open("rb")
            self.read = self.file.read

        def close(self) -> None:
            self.file.close()
            self.pages.journal.append("closed")


class Reader:
    """A client with a small receive buffer."""

    def __init__(self, port: int, tls: bool) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.connect(("127.0.0.1", port))
        self.sock: Any = trust_all().wrap_socket(sock) if tls else sock
        raw.OPENED.append(self.sock)

    def send(self, request: str) -> None:
        self.sock.sendall(f"{request} HTTP/1.1\r\nHost: a\r\n".encode() + b"\r\n")

    def read(self, size: int, slowly: int = 15) -> bytes:
        """Read `size` bytes, the first `slowly` blocks at ten per write timeout."""
        received = bytearray()
        while len(received) < size:
            if slowly:
                slowly -= 1
                gevent.sleep(WRITE_TIMEOUT / 10)
            data = self.sock.recv(8192 if slowly else 65_536)
            if not data:
                break
            received += data
        return bytes(received)


@pytest.fixture
def write_timeout() -> float:
    return WRITE_TIMEOUT


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def serve(
    request: pytest.FixtureRequest,
    run: Callable[..., Running],
    certificate: Path,
    tmp_path: Path,
    journal: Journal,
    write_timeout: float,
) -> tuple[Running, Callable[[], Reader]]:
    pywsgi = {"certfile": str(certificate)} if request.param else {}
    pages = Pages(tmp_path / "much", journal)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/engine.io/":
            environ["webpy_socketio.take_over"] = True
            start_response("200 OK", [])
            return []
        return pages(environ, start_response)

    server = run(None, application, write_timeout=write_timeout, pywsgi=pywsgi)
    return server, lambda: Reader(server.port, request.param)


Serve = tuple[Running, Callable[[], Reader]]


class TestPages:
    @pytest.mark.parametrize("kind", ["block", "pieces", "write", "file"])
    def test_reader_that_makes_progress_gets_everything(self, kind: str, serve: Serve) -> None:
        _, connect = serve
        reader = connect()
        reader.send(f"GET /{kind}")
        received = reader.read(len(MUCH))
        head, _, body = received.partition(b"\r\n\r\n")
        body += reader.read(len(MUCH) - len(body), slowly=0)
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert body == MUCH

    @short_timeout
    @pytest.mark.parametrize("kind", ["block", "pieces", "write", "file"])
    def test_reader_that_stops_is_closed(self, kind: str, serve: Serve, journal: Journal) -> None:
        _, connect = serve
        reader = connect()
        reader.send(f"GET /{kind}")
        reader.sock.recv(1000)
        journal.wait_for("closed")
        assert len(reader.read(len(MUCH), slowly=0)) < len(MUCH)

    @short_timeout
    def test_reader_of_single_bytes_is_closed(
        self, serve: Serve, journal: Journal, write_timeout: float
    ) -> None:
        _, connect = serve
        reader = connect()
        reader.send("GET /pieces")
        while "closed" not in journal:
            reader.sock.recv(1)
            gevent.sleep(write_timeout / 2)


class TestSessions:
    def handshake(self, connect: Callable[[], Reader]) -> tuple[Reader, str]:
        reader = connect()
        reader.send(f"GET {POLLING}")
        answer = reader.sock.recv(65_536)
        return reader, answer.partition(b'"sid":"')[2].partition(b'"')[0].decode()

    def test_poll_of_a_reader_that_makes_progress_is_answered_whole(self, serve: Serve) -> None:
        server, connect = serve
        reader, sid = self.handshake(connect)
        message = MUCH[:4_000_000].decode()
        server.session.send(message)
        reader.send(f"GET {POLLING}&sid={sid}")
        head, _, body = reader.read(len(message)).partition(b"\r\n\r\n")
        body += reader.read(len(message) + 1 - len(body), slowly=0)
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert body.decode() == "4" + message

    @short_timeout
    def test_poll_of_a_reader_that_stops_closes_its_session(self, serve: Serve) -> None:
        server, connect = serve
        reader, sid = self.handshake(connect)
        server.session.send(MUCH[:4_000_000].decode())
        reader.send(f"GET {POLLING}&sid={sid}")
        assert server.receiver.wait_closed() == "transport error"

    def test_websocket_of_a_reader_that_makes_progress_lives(self, serve: Serve) -> None:
        server, connect = serve
        reader = self.upgrade(connect)
        message = MUCH[:4_000_000].decode()
        server.session.send(message)
        received = reader.read(4_000_000)
        assert server.receiver.endings == []
        assert received.endswith(message[-16:].encode()) or reader.read(11)

    @short_timeout
    def test_websocket_of_a_reader_that_stops_is_closed(self, serve: Serve) -> None:
        server, connect = serve
        self.upgrade(connect)
        server.session.send(MUCH[:4_000_000].decode())
        assert server.receiver.wait_closed() == "transport error"

    def upgrade(self, connect: Callable[[], Reader]) -> Reader:
        reader = connect()
        reader.send(
            "GET /engine.io/?EIO=4&transport=websocket HTTP/1.1\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Rest:"
        )
        received = b""
        while b"pingInterval" not in received:
            received += reader.sock.recv(65_536)
        return reader
