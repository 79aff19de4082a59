"""The Engine.IO session: one client's connection, independent of its current transport.

Sans-I/O: transports pass packets to `Session.receive` and write the messages of the outbox.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from webpy_socketio.engine.io.clock import Clock
from webpy_socketio.engine.io.outbox import Flusher, Outbox, Writer
from webpy_socketio.engine.io.packets import CLOSE, MESSAGE, PONG, Message
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.exceptions import ProtocolError

__all__ = [
    "EngineApplication",
    "EventReceiver",
    "Receiver",
    "Session",
    "SessionHost",
    "Transport",
]

logger = logging.getLogger(__name__)


_RECEIVER_FAILED = "session closed because its receiver raised an exception"


class EngineApplication(Protocol):
    """The application of an engine, which creates the receiver of each session."""

    def opened(self, session: Session) -> Receiver:
        """Handle a completed handshake and return the receiver of the session.

        Runs on the hub or in a request's greenlet and must not block.
        """


class Receiver(Protocol):
    """Callbacks of one session.

    They run on the hub or in a request's greenlet and must not block.
    """

    def message(self, data: str | bytes) -> None:
        """Handle a message of the client. Raising `ProtocolError` closes the session."""

    def closed(self, reason: str) -> None:
        """Handle the end of the session. Called exactly once."""


class EventReceiver(Receiver, Protocol):
    """A receiver for which a transport may read plain Socket.IO events itself.

    A plain event belongs to the namespace "/" and has no attachments.
    """

    #: Whether `event` may be called instead of `message`.
    reads_events: bool

    def event(self, body: str, identifier: int | None, size: int) -> None:
        """Handle a plain event as `message` handles its text.

        Args:
            body: The JSON, which begins with a bracket.
            identifier: The acknowledgement id, or None.
            size: Characters of the whole packet.
        """


class Transport(Writer, Protocol):
    """Reads and writes the packets of a session."""

    name: str

    def close(self, code: int, reason: str) -> None:
        """Write the queued messages and a close packet or frame, then close."""

    def abort(self) -> None:
        """Close immediately and discard unwritten messages."""

    def pause(self) -> None:
        """Stop reading from the client."""

    def resume(self) -> None:
        """Continue reading from the client."""


class SessionHost(Protocol):
    """The engine as seen by its sessions."""

    flusher: Flusher
    clock: Clock
    notices: ThrottledLog

    def pong(self, session: Session) -> None:
        """Handle a pong of the client."""

    def count(self, session: Session) -> None:
        """Count a packet without an event; may close the session."""

    def session_closed(self, session: Session) -> None:
        """Release what belongs to a closed session."""


class Session:
    """One client's Engine.IO connection.

    Sessions are created by an `Engine`. Applications send with `send` and close with `close`. Not
    thread-safe: use it in the thread of the engine's hub only.
    """

    __slots__ = (
        "_host",
        "_pauses",
        "client_left",
        "confirmed",
        "environ",
        "id",
        "opened_at",
        "outbox",
        "reads_events",
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
        outbox_bytes: int,
        outbox_packets: int,
    ) -> None:
        #: Secret that authenticates the client's requests. Must not be shown to other clients.
        self.id = session_id
        #: The WSGI environ of the handshake.
        self.environ = environ
        #: Time of the handshake, in seconds since the epoch.
        self.opened_at = time.time()
        #: Why the session was closed; None while it is open.
        self.reason: str | None = None
        #: Whether the client closed the session, or its page; a lost connection leaves it False.
        self.client_left = False
        #: Position that the client has confirmed by a pong; see `Heartbeat.position`.
        self.confirmed = 0
        #: Whether the session was closed because of a protocol error of the client.
        self.rejected = False
        #: Receives the client's messages; set by `attach`.
        self.receiver: Receiver = _NO_RECEIVER
        #: Whether the receiver is an `EventReceiver`, so that `receive_event` may be called.
        self.reads_events = False
        self.outbox = Outbox(host.flusher, outbox_bytes, outbox_packets, self._on_overflow)
        self.transport: Transport | None = None
        #: A WebSocket that is being probed to replace long-polling.
        self.upgrading: Transport | None = None
        #: Clock time at which reading resumed after the last pause.
        self.resumed = float("-inf")
        self._host = host
        self._pauses = 0

    @property
    def open(self) -> bool:
        """Whether the session is open."""
        return self.reason is None

    @property
    def paused(self) -> bool:
        """Whether reading from the client is paused."""
        return self._pauses > 0

    def attach(self, receiver: Receiver) -> None:
        """Deliver the client's messages to `receiver`; called once, before reading starts."""
        self.receiver = receiver
        self.reads_events = getattr(receiver, "reads_events", False)
        if self.reason is not None:  # closed by `EngineApplication.opened`
            self._end_receiver(self.reason)

    def send(self, data: str | bytes) -> None:
        """Queue a message for the client; has no effect if the session is closed."""
        if isinstance(data, str):
            self.outbox.push(Message(MESSAGE + data.encode()))
        else:
            self.outbox.push(Message(None, [data]))

    def use(self, transport: Transport) -> None:
        """Make `transport` the transport of the session."""
        self.transport = transport
        self.upgrading = None
        self.outbox.use(transport)
        if self.paused:
            transport.pause()

    def count(self) -> bool:
        """Count a packet without an event; return False if the session was closed for it."""
        self._host.count(self)
        return self.reason is None

    def receive(self, kind: bytes, data: str | bytes) -> None:
        """Handle one packet of the client; an error closes this session only.

        Raises:
            ProtocolError: The packet is invalid. The session is already closed.
        """
        if self.reason is not None:
            return
        try:
            if kind == MESSAGE:
                self.receiver.message(data)
            elif not self.count():
                return
            elif kind == PONG:
                self._host.pong(self)
            elif kind == CLOSE:
                self.client_left = True
                self.close("transport close")
            else:
                raise ProtocolError("unexpected Engine.IO packet type")
        except ProtocolError as error:
            self._reject_after(error)
            raise
        except Exception:
            logger.exception(_RECEIVER_FAILED)
            self.close("forced close", 1011)  # continuing would silently skip this message

    def receive_event(self, body: str, identifier: int | None, size: int) -> None:
        """Handle a plain event, as `receive` does; see `EventReceiver`.

        Call only if `reads_events` is set.

        Raises:
            ProtocolError: The event is invalid. The session is already closed.
        """
        if self.reason is not None:
            return
        receiver: EventReceiver = self.receiver  # type: ignore[assignment]
        try:
            receiver.event(body, identifier, size)
        except ProtocolError as error:
            self._reject_after(error)
            raise
        except Exception:
            logger.exception(_RECEIVER_FAILED)
            self.close("forced close", 1011)  # continuing would silently skip this message

    def _reject_after(self, error: ProtocolError) -> None:
        text = f"session closed after a protocol error: {error}"
        self._host.notices.throttled(error, text, logging.INFO, logger)
        self.reject(code=error.close_code)

    def close(self, reason: str, code: int = 1000, note: str = "") -> None:
        """Close the session after delivering the queued messages.

        Only the first call has an effect.

        Args:
            reason: Disconnect reason of Socket.IO, passed to the receiver.
            code: WebSocket close code (RFC 6455 §7.4).
            note: Text of the WebSocket close frame.
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
        self._end_receiver(reason)

    def _end_receiver(self, reason: str) -> None:
        # Without reference cycles, the memory of a session is freed at once.
        receiver, self.receiver = self.receiver, _NO_RECEIVER
        receiver.closed(reason)

    def transport_ended(self) -> None:
        """Release the transport of a closed session, of which only the name remains."""
        self.outbox.release()
        if self.transport is not None:
            self.transport = _ENDED[self.transport.name]

    def reject(
        self, reason: str = "parse error", code: int = ProtocolError.close_code, note: str = ""
    ) -> None:
        """Close the session because of a protocol error of the client; see `close`."""
        if self.reason is None:
            self.rejected = True
            self.close(reason, code, note)

    def pause(self) -> None:
        """Pause reading from the client until `resume` is called equally often."""
        self._pauses += 1
        if self._pauses == 1 and self.transport is not None:
            self.transport.pause()

    def resume(self) -> None:
        """Undo one `pause`."""
        self._pauses -= 1
        if self._pauses == 0:
            self.resumed = self._host.clock.now()
            if self.transport is not None:
                self.transport.resume()

    def _on_overflow(self) -> None:
        self.close("slow reader", 1008, "reading too slowly")
        if self.transport is not None:
            self.transport.abort()  # the client would never read a close frame behind the backlog


class _NoReceiver:
    """The receiver of a session while `EngineApplication.opened` runs, and of a closed session."""

    def message(self, data: str | bytes) -> None:
        raise AssertionError("a message was read before the session was opened")

    def closed(self, reason: str) -> None:
        """Do nothing: `Session.attach` calls the receiver."""


_NO_RECEIVER = _NoReceiver()


class _EndedTransport:
    """Replaces the transport of a closed session."""

    try_send = None

    def __init__(self, name: str) -> None:
        self.name = name

    def flush(self) -> None:
        """Do nothing."""

    def unsent(self) -> int:
        return 0

    def close(self, code: int, reason: str) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""

    def pause(self) -> None:
        """Do nothing."""

    def resume(self) -> None:
        """Do nothing."""


_ENDED = {name: _EndedTransport(name) for name in ("polling", "websocket")}
