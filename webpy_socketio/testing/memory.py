"""In memory: a server, and what it takes for a socket and for a stream of bytes."""

from __future__ import annotations

import contextlib
import io
import socket as stdlib_socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent

from webpy_socketio.engine.engine import Engine, Upgrade
from webpy_socketio.engine.http.wsgi import RequestHandler
from webpy_socketio.engine.io.greenlets import GreenletPool
from webpy_socketio.engine.io.streams import CHUNK, StreamUser
from webpy_socketio.server import SocketIOServer

__all__ = ["HOST", "MemoryHandler", "MemoryServer", "MemorySocket", "MemoryStream"]

#: The host that requests are for.
HOST = "localhost"


class MemorySocket:
    """One HTTP request, whole, and room for its answer; what pywsgi's handler asks of a socket."""

    family = stdlib_socket.AF_UNIX

    def __init__(self, request: bytes, stream: MemoryStream | None = None) -> None:
        self._request = request
        #: Where a WebSocket begins, if the request asks for one.
        self.stream = stream
        #: What the server wrote.
        self.answer = bytearray()

    def makefile(self, mode: str, size: int) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._request))

    def sendall(self, data: bytes) -> None:
        self.answer += data

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def settimeout(self, seconds: float | None) -> None:
        """Nothing is waited for."""

    def recv(self, size: int) -> bytes:
        return b""

    def shutdown(self, how: int) -> None:
        """The answer is complete."""

    def close(self) -> None:
        """The same."""


class MemoryHandler(RequestHandler):
    """The server's handler of requests, on memory instead of descriptors."""

    def begin_websocket(self, engine: Engine, upgrade: Upgrade, sock: Any, first: bytes) -> None:
        upgrade.start(sock.stream, first)

    @contextlib.contextmanager
    def _watch(self, hung_up: Callable[[], None]) -> Iterator[None]:
        yield  # nobody hangs up here


class MemoryServer(SocketIOServer):
    """The real server, which listens nowhere; handlers run in the greenlets of `workers`."""

    handler_class = MemoryHandler

    def __init__(
        self, application: Any, resource: str, workers: GreenletPool, settings: Any
    ) -> None:
        super().__init__(
            (HOST, 80),
            application,
            resource,
            environ={"SERVER_NAME": HOST, "SERVER_PORT": "80"},
            log=None,
            **settings,
        )
        self._socketio.workers = workers

    def init_socket(self) -> None:
        """There is none."""

    def start_accepting(self) -> None:
        """Nobody comes that way."""


class MemoryStream:
    """A WebSocket's bytes, both ways; `Stream` towards the server.

    Nothing is handed over at once: each piece is a callback of the loop, as if it had travelled.
    `heard` gets what the server wrote, `ended` is called when it closed.
    """

    def __init__(self, heard: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._run: Callable[..., Any] = gevent.get_hub().loop.run_callback
        self._heard = heard
        self._ended = ended
        self._user: StreamUser | None = None
        self._coming = bytearray()
        self._hung_up = False
        self._paused = False
        self._closed = False
        #: Whether the network swallows everything from now on.
        self.silent = False

    # -- the server's side

    @property
    def unsent(self) -> int:
        return 0

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
        return self._hand_over

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        self._user = user
        self._coming[:0] = first
        self._run(self._deliver)

    def write(self, data: bytes) -> int:
        self._hand_over(data)
        return 0

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._run(self._deliver)

    def close(self) -> None:
        self._user = None
        if not self._closed:
            self._closed = True
            self._run(self._tell, self._ended)

    abort = close

    def _hand_over(self, data: bytes) -> int:
        if not self._closed:
            self._run(self._tell, self._heard, data)
        return len(data)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        if not self.silent:
            function(*args)

    # -- the client's side

    def send(self, data: bytes) -> None:
        """Bytes for the server."""
        self._coming += data
        self._run(self._deliver)

    def hang_up(self) -> None:
        """Nothing more will come."""
        self._hung_up = True
        self._run(self._deliver)

    def _deliver(self) -> None:
        user = self._user
        if user is None or self._paused or self.silent:
            return
        if self._coming:
            piece = bytes(self._coming[:CHUNK])
            del self._coming[:CHUNK]
            user.data_received(piece)
            self._run(self._deliver)
        elif self._hung_up:
            self._user, self._closed = None, True
            user.connection_lost("transport close")
