"""A session in memory, seen from the client's side: real transports, streams without sockets."""

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
    """Let every callback and greenlet that is ready run, and those that they made ready."""
    for _ in range(6):
        gevent.sleep(0)


class MemoryStream:
    """A connection without a socket: what is written arrives, unless it is `full`."""

    def __init__(self) -> None:
        self.arrived = b""
        self.ended = False
        self.full = False
        self._waiting = b""
        self._inbound = b""
        self._paused = False
        self._user: StreamUser | None = None

    # -- the transport's side

    def try_send(self, data: bytes) -> int:
        assert not self._waiting, "overtaking what waits"
        if self.full:
            raise BlockingIOError
        return len(data) - self.write(data)

    @property
    def unsent(self) -> int:
        return len(self._waiting)

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        self._user = user
        if first:
            user.data_received(first)

    def write(self, data: bytes) -> int:
        assert not self.ended, "written behind the end"
        self._waiting += data
        if not self.full:
            self._deliver()
        return len(self._waiting)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.send(b"")

    def close(self) -> None:
        self._user = None
        self.ended = not self._waiting

    def abort(self) -> None:
        self._user = None
        self._waiting = b""
        self.ended = True

    # -- the client's side

    def send(self, data: bytes) -> None:
        """Bytes come in, once somebody reads."""
        self._inbound += data
        while self._inbound and self._user is not None and not self._paused:
            data, self._inbound = self._inbound, b""
            self._user.data_received(data)

    def drain(self) -> None:
        """The client reads again."""
        self.full = False
        if self.unsent:
            self._deliver()
            if self._user is None:
                self.ended = True
            else:
                self._user.resume_writing()

    def break_off(self, reason: str) -> None:
        """The connection is lost."""
        user = self._user
        self.abort()
        if user is not None:
            user.connection_lost(reason)

    def _deliver(self) -> None:
        self.arrived += self._waiting
        self._waiting = b""


class Web:
    """A client's WebSocket."""

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
        """Messages, all in one piece."""
        frames = [
            Frame(Opcode.TEXT, item.encode())
            if isinstance(item, str)
            else Frame(Opcode.BINARY, item)
            for item in items
        ]
        self.stream.send(b"".join(frame.serialize(mask=True) for frame in frames))

    def goodbye(self) -> None:
        """A close frame."""
        self.stream.send(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))

    def read(self) -> list[Data]:
        """The messages that came; nothing is ever cut or mixed."""
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
    """An HTTP request of long-polling, on its way."""

    def __init__(self, engine: Engine, method: str, sid: str | None, body: bytes = b"") -> None:
        self._hung_up: Callable[[], None] | None = None
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
        """The packets of a response."""
        response = self.response
        if self.abandoned or response.status != "200 OK":
            return []
        return [
            base64.b64decode(packet[1:]) if packet[:1] == b"b" else packet.decode()
            for packet in response.body.split(SEPARATOR)
        ]

    def hang_up(self) -> bool:
        """Close the connection while the answer is waited for; False if it is not."""
        if self._hung_up is None:
            return False
        self.abandoned = True
        self._hung_up()
        return True

    @contextlib.contextmanager
    def _watch(self, hung_up: Callable[[], None]) -> Iterator[None]:
        self._hung_up = hung_up
        try:
            yield
        finally:
            self._hung_up = None


class Ledger:
    """A receiver that writes down what it is told of each session, and does what it is told."""

    def __init__(self) -> None:
        self.opens: list[Session] = []
        self.messages: list[Data] = []
        self.closes: list[str] = []

    def opened(self, session: Session) -> None:
        self.opens.append(session)

    def message(self, session: Session, data: Data) -> None:
        assert not self.closes, "a message behind the end"
        if data == "!close":
            session.close("forced close")
        elif data == "!fail":
            raise RuntimeError("as asked for")
        else:
            self.messages.append(data)

    def closed(self, session: Session, reason: str) -> None:
        self.closes.append(reason)


def environ(method: str, query: str, body: bytes = b"") -> dict[str, Any]:
    return {
        "REQUEST_METHOD": method,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
