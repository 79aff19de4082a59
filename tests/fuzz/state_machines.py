"""Clients of a session in memory: real transports on streams without sockets."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from websockets.frames import Frame, Opcode

from webpy_socketio.engine import Engine, Session
from webpy_socketio.engine.engine import Upgrade
from webpy_socketio.engine.engineio.requests import Response
from webpy_socketio.engine.io.packets import SEPARATOR
from webpy_socketio.engine.io.streams import StreamUser

Data = str | bytes


def settle() -> None:
    """Run all callbacks and greenlets that are ready, and those that they schedule."""
    for _ in range(6):
        gevent.sleep(0)


class MemoryStream:
    """A stream without a socket that delivers written data unless it is `full`."""

    def __init__(self) -> None:
        self.arrived = b""
        self.closed = False
        self.full = False
        self._unsent = b""
        self._inbound = b""
        self._paused = False
        self._user: StreamUser | None = None

    # -- called by the transport

    def try_send(self, data: bytes) -> int:
        assert not self._unsent, "sent before unsent data"
        if self.full:
            raise BlockingIOError
        return len(data) - self.write(data)

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        self._user = user
        if first:
            user.data_received(first)

    def write(self, data: bytes) -> int:
        assert not self.closed, "written after the stream was closed"
        self._unsent += data
        if not self.full:
            self._deliver()
        return len(self._unsent)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.send(b"")

    def close(self) -> None:
        self._user = None
        self.closed = not self._unsent

    end = close

    def abort(self) -> None:
        self._user = None
        self._unsent = b""
        self.closed = True

    # -- called by the client

    def send(self, data: bytes) -> None:
        """Deliver bytes to the transport once it is reading."""
        self._inbound += data
        while self._inbound and self._user is not None and not self._paused:
            data, self._inbound = self._inbound, b""
            self._user.data_received(data)

    def drain(self) -> None:
        """Resume reading by the client."""
        self.full = False
        if self.unsent:
            self._deliver()
            if self._user is None:
                self.closed = True
            else:
                self._user.resume_writing()

    def lose(self, reason: str) -> None:
        """Lose the connection."""
        user = self._user
        self.abort()
        if user is not None:
            user.connection_lost(reason)

    def _deliver(self) -> None:
        self.arrived += self._unsent
        self._unsent = b""


class MemoryWebSocket:
    """The client side of a WebSocket."""

    def __init__(self, engine: Engine, sid: str | None) -> None:
        self.stream = MemoryStream()
        query = "EIO=4&transport=websocket" + (f"&sid={sid}" if sid else "")
        upgrade = engine.upgrade(
            environ("GET", query)
            | {
                "HTTP_CONNECTION": "Upgrade",
                "HTTP_UPGRADE": "websocket",
                "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
                "HTTP_SEC_WEBSOCKET_VERSION": "13",
            }
        )
        assert isinstance(upgrade, Upgrade)
        upgrade.start(self.stream, b"")
        head, end, self.stream.arrived = self.stream.arrived.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert end

    def send(self, *items: Data) -> None:
        """Send messages in one segment."""
        frames = [
            Frame(Opcode.TEXT, item.encode())
            if isinstance(item, str)
            else Frame(Opcode.BINARY, item)
            for item in items
        ]
        self.stream.send(b"".join(frame.serialize(mask=True) for frame in frames))

    def send_close(self) -> None:
        """Send a close frame."""
        self.stream.send(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))

    def read(self) -> list[Data]:
        """Return the messages received so far, and check that all frames are complete."""
        items: list[Data] = []
        data = self.stream.arrived
        while data:
            opcode, length, start = data[0] & 0x0F, data[1], 2
            assert length < 126, "the messages of these tests are small"
            body = data[start : start + length]
            assert len(body) == length
            assert opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PONG)
            if opcode in (Opcode.TEXT, Opcode.BINARY):
                items.append(body.decode() if opcode == Opcode.TEXT else body)
            data = data[start + length :]
        self.stream.arrived = b""
        return items


class Request:
    """A long-polling request in progress."""

    def __init__(self, engine: Engine, method: str, sid: str | None, body: bytes = b"") -> None:
        self._on_close: Callable[[], None] | None = None
        self.abandoned = False
        query = "EIO=4&transport=polling" + (f"&sid={sid}" if sid else "")
        self._greenlet = gevent.spawn(engine.respond, environ(method, query, body), self._watch)
        settle()

    @property
    def done(self) -> bool:
        return bool(self._greenlet.dead)

    @property
    def response(self) -> Response:
        return self._greenlet.get(block=False)  # type: ignore[no-any-return]

    def packets(self) -> list[Data]:
        """Return the packets of the response."""
        response = self.response
        if self.abandoned or response.status != "200 OK":
            return []
        return [
            base64.b64decode(packet[1:]) if packet[:1] == b"b" else packet.decode()
            for packet in response.body.split(SEPARATOR)
        ]

    def close_connection(self) -> bool:
        """Close the connection of a waiting request; return False if it is not waiting."""
        if self._on_close is None:
            return False
        self.abandoned = True
        self._on_close()
        return True

    @contextlib.contextmanager
    def _watch(self, on_close: Callable[[], None]) -> Iterator[None]:
        self._on_close = on_close
        try:
            yield
        finally:
            self._on_close = None


class RecordingReceiver:
    """The application and receiver of one session, which records its calls.

    The messages "!close" and "!fail" are commands.
    """

    def __init__(self) -> None:
        self.opens: list[Session] = []
        self.messages: list[Data] = []
        self.closes: list[str] = []

    def opened(self, session: Session) -> RecordingReceiver:
        self.opens.append(session)
        return self

    def message(self, data: Data) -> None:
        assert not self.closes, "a message after the end"
        if data == "!close":
            self.opens[0].close("forced close")
        elif data == "!fail":
            raise RuntimeError("requested by the test")
        else:
            self.messages.append(data)

    def closed(self, reason: str) -> None:
        self.closes.append(reason)


def environ(method: str, query: str, body: bytes = b"") -> dict[str, Any]:
    return {
        "REQUEST_METHOD": method,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
