"""The Socket.IO connection: one client in one namespace, below the public `Socket`."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gevent
from gevent.event import AsyncResult

from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.clock import Clock, Timer
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.inbox import Inbox
from webpy_socketio.engine.socketio.parser import Parser
from webpy_socketio.exceptions import (
    CallerError,
    CallTimeout,
    ContentError,
    Disconnected,
    EncodeError,
    ProtocolError,
    WrongContext,
)

__all__ = ["CONFIRMATION", "AckReceiver", "Application", "Connection", "ConnectionHost"]

#: Arguments of the acknowledgement of a subscription and of its end. It is encoded once for each
#: number, as most clients use the same few.
CONFIRMATION: Sequence[Any] = ({"ok": True},)

#: Encoded confirmations that are kept. Clients choose numbers and namespaces.
MAX_CONFIRMATIONS = 1024

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


class AckReceiver(Protocol):
    """Receives the acknowledgement of an event, or the reason why there is none."""

    def set(self, args: list[Any]) -> object:
        """Handle the arguments of the acknowledgement; must not block."""

    def set_exception(self, exception: BaseException) -> object:
        """Handle a failure; must not block."""


class ConnectionHost(Protocol):
    """The multiplexer as seen by its connections."""

    @property
    def session(self) -> Session:
        """The session of the connections."""

    @property
    def parser(self) -> Parser:
        """The parser of the server."""

    @property
    def clock(self) -> Clock:
        """The clock for timeouts."""

    def inbox(self, namespace: str) -> Inbox:
        """Return the inbox of a namespace."""

    def accepted(self) -> None:
        """Handle that a connection was accepted."""

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection."""

    def close_if_unused(self) -> None:
        """Close the session if it has no connections left."""

    def disconnect_all(self) -> None:
        """Disconnect all connections of the session, and close it."""


class Connection:
    """One client in one namespace.

    Not thread-safe: use it in the thread of the engine's hub only.
    """

    __slots__ = (
        "_acks",
        "_gate_started",
        "_host",
        "_next_ack",
        "_parser",
        "_state",
        "_timers",
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
        self, host: ConnectionHost, application: Application, namespace: str, auth: Any
    ) -> None:
        #: Public id, which other clients may see. The id of the Engine.IO session is secret.
        self.id = secrets.token_urlsafe(15)
        self.session = host.session
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
        self.inbox = host.inbox(namespace)
        self._host = host
        self._parser = host.parser
        self._state = CONNECTING
        self._gate_started = False
        self._acks: dict[int, AckReceiver] | None = None
        self._next_ack = 0
        #: Running timers of `call_later`; None before the first.
        self._timers: set[Timer] | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection is accepted and open."""
        return self._state is CONNECTED

    @property
    def deciding(self) -> bool:
        """Whether `Application.connect` is running and has not decided yet."""
        return self._gate_started and self._state is CONNECTING

    # -- called by the application

    def accept(self, pid: str | None = None, received: int = 0) -> bool:
        """Accept the connection; return False if it was closed in the meantime.

        Args:
            pid: Secret with which the client can resume the connection; None without recovery.
            received: Number of the last numbered message of the client; sent with the secret.
        """
        if self._state is not CONNECTING:
            return False
        self._state = CONNECTED
        self._host.accepted()
        self.session.outbox.push(
            self._parser.encode_connect(self.namespace, self.id, pid, received)
        )
        return True

    def refuse(self, reason: str, data: Any = None) -> None:
        """Reject the connection.

        Args:
            reason: Text sent to the client.
            data: Value sent with it, JSON without bytes; None sends nothing.

        Raises:
            EncodeError: Reason or data cannot be sent. The connection is still undecided.
        """
        if self._state is CONNECTING:
            message = self._parser.encode_connect_error(self.namespace, reason, data)
            if message.size > self.session.outbox.max_bytes:
                raise EncodeError(
                    f"reason of {message.size} bytes exceeds the client's outbox "
                    "(SOCKETIO_OUTBOX_BYTES)"
                )
            self._state = CLOSED
            self.session.outbox.push(message)
            self._host.remove(self)

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
        self.send(self._parser.encode_event(self.namespace, event, args))

    def acknowledge(self, number: int, args: Sequence[Any]) -> None:
        """Send the acknowledgement with id `number`. Raises `EncodeError`."""
        message = self.encode_acknowledgement(number, args)
        if self._state is CONNECTED:
            self.session.outbox.push(message)
        else:
            self.check_begun()

    def send_acknowledgement(self, number: int, message: Message) -> None:
        """Send the encoded acknowledgement with id `number`; see `AckSender`."""
        self.send(message)

    def encode_acknowledgement(self, number: int, args: Sequence[Any]) -> Message:
        """Encode the acknowledgement with id `number`. Raises `EncodeError`."""
        parser: Any = self._parser  # hashable, which its protocol does not say
        if args is CONFIRMATION:
            message = _encode_confirmation(parser, self.namespace, number)
        else:
            message = parser.encode_ack(self.namespace, number, args)
        if message.size > self.session.outbox.max_bytes:
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
        message = self._parser.encode_event(self.namespace, event, args, number)
        if self._state is not CONNECTED:
            self.check_begun()
            raise Disconnected("the client is not connected")
        self._next_ack += 1
        result = AsyncResult()
        self.expect_ack(number, result)
        self.send(message)
        timer = self._host.clock.timer(timeout)
        failure = CallTimeout(f"no acknowledgement of {event!r} within {timeout} s")
        timer.start(self.fail_ack, number, failure, update=True)
        try:
            answer: list[Any] = result.get()
        finally:
            timer.close()
            self.forget_ack(number)
        return answer

    def expect_ack(self, number: int, receiver: AckReceiver) -> None:
        """Pass the acknowledgement with id `number` to a receiver, until it is forgotten."""
        if self._acks is None:
            self._acks = {}
        self._acks[number] = receiver

    def forget_ack(self, number: int) -> None:
        """Ignore the acknowledgement with id `number`."""
        if self._acks is not None:
            self._acks.pop(number, None)

    def call_later(self, seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
        """Call a function on the hub after a delay, unless the connection closes before.

        Args:
            seconds: Delay in seconds.
            function: The function; it must not block. Not called if the connection is closed.
            *args: Its arguments.

        Returns:
            The timer, to be cancelled with `cancel`.
        """
        timer = self._host.clock.timer(seconds)
        if self._state is not CLOSED:
            if self._timers is None:
                self._timers = set()
            self._timers.add(timer)
            timer.start(self._run_timer, timer, function, args, update=True)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Cancel a timer of `call_later`; has no effect if it has fired."""
        if self._timers is not None:
            self._timers.discard(timer)
        timer.close()

    def _run_timer(self, timer: Timer, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.cancel(timer)
        function(*args)

    def disconnect(self, close: bool = False) -> None:
        """Close the connection; the client does not reconnect automatically.

        The session is closed with its last connection. With `close`, it is closed with all of them.
        """
        if self._state is CLOSED:
            return
        if close:
            self._host.disconnect_all()
            return
        if self._state is CONNECTING:
            self.refuse("disconnected")
            return
        self.kicked = True
        self.session.outbox.push(self._parser.encode_disconnect(self.namespace))
        self._host.remove(self)
        self.close("server namespace disconnect")
        self._host.close_if_unused()

    def supersede(self) -> None:
        """Close an accepted connection, because its client has resumed it on another session.

        The reason is that of a loss. The client on this session, if there still is one, receives a
        DISCONNECT and does not reconnect automatically.
        """
        self.session.outbox.push(self._parser.encode_disconnect(self.namespace))
        self._host.remove(self)
        self.close("transport close")
        self._host.close_if_unused()

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
        self.inbox.append((self._handle_event, (data[0], data[1:], ack), size))

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
            receivers, self._acks = self._acks, None
            for receiver in receivers.values():
                receiver.set_exception(Disconnected(f"the client disconnected: {reason}"))
        for timer in list(self._timers or ()):
            self.cancel(timer)
        if accepted:
            self.application.closing(self)
            self.inbox.put(self.application.disconnected, self, reason)


@functools.lru_cache(MAX_CONFIRMATIONS)
def _encode_confirmation(parser: Parser, namespace: str, number: int) -> Message:
    return parser.encode_ack(namespace, number, CONFIRMATION)
