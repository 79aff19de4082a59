"""In-memory replacements of a listening server, sockets and streams."""

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
from webpy_socketio.runtime import Runtime
from webpy_socketio.server import SocketIOServer

__all__ = ["HOST", "MemoryHandler", "MemoryServer", "MemorySocket", "MemoryStream"]

#: The Host of all requests.
HOST = "localhost"


class MemorySocket:
    """A complete HTTP request and a buffer for its response, as a socket for pywsgi's handler."""

    family = stdlib_socket.AF_UNIX

    def __init__(self, request: bytes, stream: MemoryStream | None = None) -> None:
        self._request = io.BytesIO(request)
        #: The stream of a WebSocket, for upgrade requests.
        self.stream = stream
        #: The response.
        self.answer = bytearray()

    def sendall(self, data: bytes) -> None:
        self.answer += data

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def settimeout(self, seconds: float | None) -> None:
        """Ignore the timeout; reads never block."""

    def recv(self, size: int) -> bytes:
        return self._request.read(size)

    def shutdown(self, how: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MemoryHandler(RequestHandler):
    """The request handler, without file descriptors."""

    def begin_websocket(self, engine: Engine, upgrade: Upgrade, sock: Any, first: bytes) -> None:
        upgrade.start(sock.stream, first)

    @contextlib.contextmanager
    def _watch(self, hung_up: Callable[[], None]) -> Iterator[None]:
        yield  # these clients do not hang up during a request


class MemoryServer(SocketIOServer):
    """The real server without a listener; handlers run in the greenlets of `workers`."""

    handler_class = MemoryHandler

    def __init__(
        self,
        application: Any,
        resource: str,
        workers: GreenletPool,
        settings: Any,
        runtime: Runtime,
    ) -> None:
        super().__init__(
            (HOST, 80),
            application,
            resource,
            environ={"SERVER_NAME": HOST, "SERVER_PORT": "80"},
            log=None,
            runtime=runtime,
            **settings,
        )
        self._socketio.workers = workers

    def init_socket(self) -> None:
        """Create no listener."""

    def start_accepting(self) -> None:
        """Accept no connections."""


class MemoryStream:
    """Both directions of a WebSocket's bytes; implements `Stream` for the server.

    Nothing is delivered synchronously: each piece is a loop callback, as if from the network.
    `on_data` is called with what the server wrote, `on_close` when the server closed the stream.
    """

    def __init__(self, on_data: Callable[[bytes], None], on_close: Callable[[], None]) -> None:
        self._run: Callable[..., Any] = gevent.get_hub().loop.run_callback
        self._on_data = on_data
        self._on_close = on_close
        self._user: StreamUser | None = None
        self._incoming = bytearray()
        self._hung_up = False
        self._paused = False
        self._closed = False
        #: Whether all data is dropped, in both directions.
        self.silent = False

    # -- server side

    @property
    def unsent(self) -> int:
        return 0

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
        return self._send_to_client

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        self._user = user
        self._incoming[:0] = first
        self._run(self._deliver)

    def write(self, data: bytes) -> int:
        self._send_to_client(data)
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
            self._run(self._notify, self._on_close)

    abort = end = close

    def _send_to_client(self, data: bytes) -> int:
        if not self._closed:
            self._run(self._notify, self._on_data, data)
        return len(data)

    def _notify(self, function: Callable[..., None], *args: Any) -> None:
        if not self.silent:
            function(*args)

    # -- client side

    def send(self, data: bytes) -> None:
        """Send bytes to the server."""
        self._incoming += data
        self._run(self._deliver)

    def hang_up(self) -> None:
        """End the stream after the bytes sent so far."""
        self._hung_up = True
        self._run(self._deliver)

    def _deliver(self) -> None:
        user = self._user
        if user is None or self._paused or self.silent:
            return
        if self._incoming:
            piece = bytes(self._incoming[:CHUNK])
            del self._incoming[:CHUNK]
            user.data_received(piece)
            self._run(self._deliver)
        elif self._hung_up:
            self._user, self._closed = None, True
            user.connection_lost("transport close")
