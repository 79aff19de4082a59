"""One Engine.IO session: what a connection is, whichever transport carries it at the moment.

No I/O here: packets come in by `Session.receive`, messages go out through the outbox, and a
transport, long-polling or WebSocket, does the rest.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from webpy_socketio.engine.io.outbox import Outbox, Writer
from webpy_socketio.engine.io.packets import CLOSE, MESSAGE, PONG, Message
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.exceptions import ProtocolError

if TYPE_CHECKING:
    from webpy_socketio.engine.io.clock import Clock
    from webpy_socketio.engine.io.outbox import Flusher

__all__ = ["Receiver", "Session", "SessionHost", "Transport"]

logger = logging.getLogger(__name__)


class Receiver(Protocol):
    """Who is told about a session. Called on the hub or in a request's greenlet: must not wait."""

    def opened(self, session: Session) -> None:
        """The handshake is done."""

    def message(self, session: Session, data: str | bytes) -> None:
        """The client sent a message. A `ProtocolError` raised here closes the session."""

    def closed(self, session: Session, reason: str) -> None:
        """The session is over; exactly once."""


class Transport(Writer, Protocol):
    """What carries a session's packets."""

    name: str

    def close(self, code: int, reason: str) -> None:
        """Say goodbye, once everything is written, and end."""

    def abort(self) -> None:
        """End at once, whatever is not written yet."""

    def pause(self) -> None:
        """Take nothing more from the client for now."""

    def resume(self) -> None:
        """Go on."""


class SessionHost(Protocol):
    """What a session needs of the engine it lives in."""

    flusher: Flusher
    clock: Clock
    notices: ThrottledLog

    def pong(self, session: Session) -> None:
        """The client is alive."""

    def count(self, session: Session) -> None:
        """A packet that carries no event came; the session may be closed for it."""

    def session_closed(self, session: Session) -> None:
        """The session is over."""


class Session:
    """One client's Engine.IO connection.

    Made by an `Engine`; an application sends with `send` and `send_bytes`, ends it with `close`,
    and may keep what it likes in `data`.
    """

    __slots__ = (
        "_host",
        "_pauses",
        "data",
        "environ",
        "id",
        "outbox",
        "reason",
        "receiver",
        "rejected",
        "resumed",
        "transport",
        "upgrading",
    )

    def __init__(
        self,
        session_id: str,
        environ: dict[str, Any],
        host: SessionHost,
        receiver: Receiver,
        outbox_bytes: int,
        outbox_packets: int,
    ) -> None:
        #: The secret that ties a client's requests together; not for other clients' eyes.
        self.id = session_id
        #: The WSGI environ of the handshake.
        self.environ = environ
        #: Why the session is over; None while it is open.
        self.reason: str | None = None
        #: Whether the session ended because the client broke the protocol.
        self.rejected = False
        #: Who receives what the client sends.
        self.receiver = receiver
        #: Room for the application's own.
        self.data: Any = None
        self.outbox = Outbox(host.flusher, outbox_bytes, outbox_packets, self._overflowed)
        self.transport: Transport | None = None
        #: A WebSocket that is to replace long-polling, while it is being tried.
        self.upgrading: Transport | None = None
        #: The clock's time since which we read again, after the last pause.
        self.resumed = float("-inf")
        self._host = host
        self._pauses = 0

    @property
    def open(self) -> bool:
        """Whether the session is alive."""
        return self.reason is None

    @property
    def paused(self) -> bool:
        """Whether reading from the client has been stopped."""
        return self._pauses > 0

    def send(self, data: str | bytes) -> None:
        """Send a message; nothing happens if the session is over."""
        if isinstance(data, str):
            self.outbox.push(Message(MESSAGE + data.encode()))
        else:
            self.outbox.push(Message(None, [data]))

    def use(self, transport: Transport) -> None:
        """Let `transport` carry the session from now on."""
        self.transport = transport
        self.upgrading = None
        self.outbox.use(transport)
        if self.paused:
            transport.pause()

    def count(self) -> bool:
        """Count a packet that carries no event; return False if it is one too many."""
        self._host.count(self)
        return self.reason is None

    def receive(self, kind: bytes, data: str | bytes) -> None:
        """Take one packet from the client; whatever is wrong with it closes this session only."""
        if self.reason is not None:
            return
        try:
            if kind == MESSAGE:
                self.receiver.message(self, data)
            elif not self.count():
                return
            elif kind == PONG:
                self._host.pong(self)
            elif kind == CLOSE:
                self.close("transport close")
            else:
                raise ProtocolError("a packet that only the server sends, or out of place")
        except ProtocolError as error:
            self._host.notices.throttled(error, f"closing a session: {error}", logging.INFO, logger)
            self.reject(code=error.close_code)
            raise
        except Exception:
            # To go on would leave a gap: this message was not handled.
            logger.exception("a receiver failed; its session is closed")
            self.close("forced close", 1011)

    def close(self, reason: str, code: int = 1000, note: str = "") -> None:
        """End the session: what waits is still delivered, then the transport closes.

        `reason` is for the receiver (Socket.IO's words for it); `code` and `note` are for a
        WebSocket's close frame. Only the first call counts.
        """
        if self.reason is not None:
            return
        self.reason = reason
        self.outbox.seal()
        self._host.session_closed(self)
        if self.transport is not None:
            self.transport.close(code, note)
        if self.upgrading is not None:
            self.upgrading.close(code, note)
            self.upgrading = None
        self.receiver.closed(self, reason)

    def reject(
        self, reason: str = "parse error", code: int = ProtocolError.close_code, note: str = ""
    ) -> None:
        """End the session because the client broke the protocol; see `close`."""
        if self.reason is None:
            self.rejected = True
            self.close(reason, code, note)

    def pause(self) -> None:
        """Stop reading from the client until as many `resume` followed."""
        self._pauses += 1
        if self._pauses == 1 and self.transport is not None:
            self.transport.pause()

    def resume(self) -> None:
        """Take one `pause` back."""
        self._pauses -= 1
        if self._pauses == 0:
            self.resumed = self._host.clock.now()
            if self.transport is not None:
                self.transport.resume()

    def _overflowed(self) -> None:
        self.close("slow reader", 1008, "reading too slowly")
        if self.transport is not None:
            self.transport.abort()  # it does not read: a goodbye behind all the rest helps nobody
