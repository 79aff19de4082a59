"""The Socket.IO connection: one client in one namespace, below the public `Socket`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import gevent
from gevent.event import AsyncResult

from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import (
    encode_ack,
    encode_connect,
    encode_connect_error,
    encode_disconnect,
    encode_event,
)
from webpy_socketio.exceptions import (
    CallerError,
    CallTimeout,
    ContentError,
    Disconnected,
    EncodeError,
    ProtocolError,
    WrongContext,
)

if TYPE_CHECKING:
    from webpy_socketio.engine.socketio.multiplexer import Multiplexer

__all__ = ["Application", "Connection"]

CONNECTING, CONNECTED, CLOSED = "connecting", "connected", "closed"


class Application(Protocol):
    """Callbacks of Socket.IO connections.

    `connect`, `event` and `disconnected` run one after another in the connection's greenlet and may
    block. `closing` and `failed` run in the greenlet of their cause and must not block.
    """

    def connect(self, connection: Connection) -> None:
        """Decide on a CONNECT: call `Connection.accept` or `Connection.refuse`."""

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        """Handle an event; `ack` is its acknowledgement id, or None."""

    def closing(self, connection: Connection) -> None:
        """Handle the end of an accepted connection, before its queued jobs have run."""

    def disconnected(self, connection: Connection, reason: str) -> None:
        """Handle the end of an accepted connection, after its queued jobs. Called exactly once."""

    def failed(self, connection: Connection, error: ProtocolError | ContentError) -> None:
        """Handle an error of the client.

        A `ProtocolError` closes the session. A `ContentError` only drops the message.
        """


class Connection:
    """One client in one namespace.

    Not thread-safe: use it in the thread of the engine's hub only.
    """

    __slots__ = (
        "_acks",
        "_gate_started",
        "_multiplexer",
        "_next_ack",
        "_state",
        "application",
        "auth",
        "data",
        "id",
        "inbox",
        "kicked",
        "namespace",
        "reason",
        "session",
    )

    def __init__(
        self, multiplexer: Multiplexer, application: Application, namespace: str, auth: Any
    ) -> None:
        #: Public id, which other clients may see. The id of the Engine.IO session is secret.
        self.id = secrets.token_urlsafe(15)
        self.session = multiplexer.session
        #: Receives the callbacks of the connection.
        self.application = application
        self.namespace = namespace
        #: The auth payload of the CONNECT: a dict, or None.
        self.auth = auth
        #: Why the connection was closed; None while it is open.
        self.reason: str | None = None
        #: Whether the server closed the connection; queued events are then discarded.
        self.kicked = False
        #: For use by the application.
        self.data: Any = None
        self.inbox = multiplexer.inbox(namespace)
        self._multiplexer = multiplexer
        self._state = CONNECTING
        self._gate_started = False
        self._acks: dict[int, AsyncResult] | None = None
        self._next_ack = 0

    @property
    def connected(self) -> bool:
        """Whether the connection is accepted and open."""
        return self._state is CONNECTED

    @property
    def deciding(self) -> bool:
        """Whether `Application.connect` is running and has not decided yet."""
        return self._gate_started and self._state is CONNECTING

    # -- called by the application

    def accept(self) -> bool:
        """Accept the connection; return False if it was closed in the meantime."""
        if self._state is not CONNECTING:
            return False
        self._state = CONNECTED
        self._multiplexer.accepted()
        self.session.outbox.push(encode_connect(self.namespace, self.id))
        return True

    def refuse(self, reason: str) -> None:
        """Reject the connection.

        Args:
            reason: Text sent to the client.

        Raises:
            EncodeError: The reason cannot be sent. The connection is still undecided.
        """
        if self._state is CONNECTING:
            message = encode_connect_error(self.namespace, reason)
            if message.size > self._multiplexer.outbox_bytes:
                raise EncodeError(
                    f"reason of {message.size} bytes exceeds the client's outbox "
                    "(SOCKETIO_OUTBOX_BYTES)"
                )
            self._state = CLOSED
            self.session.outbox.push(message)
            self._multiplexer.remove(self)

    def send(self, message: Message) -> None:
        """Queue an encoded message; has no effect if the connection is closed."""
        if self._state is CONNECTED:
            self.session.outbox.push(message)
        else:
            self.check_begun()

    def check_begun(self) -> None:
        """Raise `CallerError` if the connection is not accepted yet: messages would be lost."""
        if self._state is CONNECTING:
            raise CallerError(
                "the client is not connected yet, because its connecting gate has not returned: "
                "send, call and subscribe in @on_connect"
            )

    def emit(self, event: str, *args: Any) -> None:
        """Encode and send an event. Raises `EncodeError`."""
        self.send(encode_event(self.namespace, event, args))

    def acknowledge(self, number: int, args: Sequence[Any]) -> None:
        """Send the acknowledgement with id `number`. Raises `EncodeError`."""
        self.send(self.encode_acknowledgement(number, args))

    def encode_acknowledgement(self, number: int, args: Sequence[Any]) -> Message:
        """Encode the acknowledgement with id `number`. Raises `EncodeError`."""
        message = encode_ack(self.namespace, number, args)
        if message.size > self._multiplexer.outbox_bytes:
            raise EncodeError(
                f"acknowledgement of {message.size} bytes exceeds the client's outbox "
                "(SOCKETIO_OUTBOX_BYTES)"
            )
        return message

    def call(self, event: str, args: Sequence[Any], timeout: float) -> list[Any]:
        """Emit an event and wait for the client's acknowledgement.

        Args:
            event: Name of the event.
            args: Arguments of the event.
            timeout: Seconds to wait.

        Returns:
            The arguments of the acknowledgement.

        Raises:
            CallTimeout: The client did not acknowledge in time.
            ContentError: The acknowledgement exceeds a content limit.
            Disconnected: The connection is closed, or was closed while waiting.
            EncodeError: The event cannot be encoded.
            WrongContext: Called on gevent's hub, which must not block.
        """
        if gevent.getcurrent() is gevent.get_hub():
            raise WrongContext(
                "call() waits for an acknowledgement and cannot run on gevent's hub: use a greenlet"
            )
        number = self._next_ack
        message = encode_event(self.namespace, event, args, number)
        if self._state is not CONNECTED:
            self.check_begun()
            raise Disconnected("the client is not connected")
        self._next_ack += 1
        if self._acks is None:
            self._acks = {}
        self._acks[number] = result = AsyncResult()
        self.send(message)
        timer = self._multiplexer.clock.timer(timeout)
        failure = CallTimeout(f"no acknowledgement of {event!r} within {timeout} s")
        timer.start(self.fail_ack, number, failure, update=True)
        try:
            answer: list[Any] = result.get()
        finally:
            timer.close()
            self._acks.pop(number, None)
        return answer

    def disconnect(self) -> None:
        """Close the connection; the client does not reconnect automatically.

        The session is closed with its last connection.
        """
        if self._state is CLOSED:
            return
        if self._state is CONNECTING:
            self.refuse("disconnected")
            return
        self.kicked = True
        self.session.outbox.push(encode_disconnect(self.namespace))
        self._multiplexer.remove(self)
        self.close("server namespace disconnect")
        self._multiplexer.close_if_unused()

    # -- called by the multiplexer

    def begin(self, size: int) -> None:
        """Queue the call of `Application.connect`; `size` is that of the CONNECT in bytes."""
        self.inbox.put(self._handle_connect, size=size)

    def _handle_connect(self) -> None:
        if self._state is CONNECTING:  # not closed in the meantime
            self._gate_started = True
            self.application.connect(self)

    def receive_event(self, data: list[Any], ack: int | None, size: int) -> None:
        if self._state is CONNECTING:
            raise ProtocolError("event received before the connection was accepted")
        self.inbox.put(self._handle_event, data[0], data[1:], ack, size=size)

    def _handle_event(self, name: str, args: list[Any], ack: int | None) -> None:
        if not self.kicked:
            self.application.event(self, name, args, ack)

    def drop_event(self, error: ContentError, ack: int | None, size: int) -> None:
        """Queue the rejection of an event that exceeds a content limit."""
        if self._state is CONNECTING:
            raise ProtocolError("event received before the connection was accepted")
        self.inbox.put(self._handle_dropped, error, ack, size=size)

    def _handle_dropped(self, error: ContentError, ack: int | None) -> None:
        if self.kicked:
            return
        if ack is not None:
            self.acknowledge(ack, ({"error": str(error)},))
        self.application.failed(self, error)

    def receive_ack(self, number: int, args: list[Any]) -> None:
        # Bypasses the inbox, whose current job may be the handler that waits in `call`.
        if self._acks is not None and number in self._acks:
            self._acks.pop(number).set(args)

    def fail_ack(self, number: int, failure: CallTimeout | ContentError) -> None:
        """Raise `failure` in the `call` that waits for the acknowledgement with id `number`."""
        if self._acks is not None and number in self._acks:
            self._acks.pop(number).set_exception(failure)

    def close(self, reason: str) -> None:
        """Close the connection; the application is notified once, after the queued jobs."""
        if self._state is CLOSED:
            return
        accepted = self._state is CONNECTED
        self._state = CLOSED
        self.reason = reason
        if self._acks:
            for result in list(self._acks.values()):
                result.set_exception(Disconnected(f"the client disconnected: {reason}"))
        if accepted:
            self.application.closing(self)
            self.inbox.put(self.application.disconnected, self, reason)
