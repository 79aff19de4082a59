"""One client in one namespace: what Socket.IO calls a socket, without anything on top."""

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
    """Who is told about Socket.IO connections.

    `connect`, `event` and `disconnected` run in the connection's greenlet, one after the other,
    and may wait; `closing` and `failed` are called where it happens and must not.
    """

    def connect(self, connection: Connection) -> None:
        """A client asks to connect: `accept` it, or `refuse` it."""

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        """The client emitted an event; with an `ack`, it wants it acknowledged under that number."""

    def closing(self, connection: Connection) -> None:
        """An accepted connection is gone; what it still has to do comes before `disconnected`."""

    def disconnected(self, connection: Connection, reason: str) -> None:
        """An accepted connection is over; exactly once, after everything else."""

    def failed(self, connection: Connection, error: ProtocolError | ContentError) -> None:
        """The client broke a rule: it is being closed, or for a `ContentError` its message is dropped."""


class Connection:
    """A Socket.IO connection, as the engine sees it."""

    __slots__ = (
        "_acks",
        "_asked",
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
        #: The public id, which other clients may know; the Engine.IO session's is a secret.
        self.id = secrets.token_urlsafe(15)
        self.session = multiplexer.session
        #: Who is told about it.
        self.application = application
        self.namespace = namespace
        #: What the client sent along with its CONNECT: a dict, or None.
        self.auth = auth
        #: Why the connection is over; None while it is not.
        self.reason: str | None = None
        #: Whether we ended it: what the client sent before it knew is not handled any more.
        self.kicked = False
        #: Room for the application's own.
        self.data: Any = None
        self.inbox = multiplexer.inbox(namespace)
        self._multiplexer = multiplexer
        self._state = CONNECTING
        self._asked = False
        self._acks: dict[int, AsyncResult] | None = None
        self._next_ack = 0

    @property
    def connected(self) -> bool:
        """Whether the client can be sent to."""
        return self._state is CONNECTED

    @property
    def deciding(self) -> bool:
        """Whether the application is deciding on the connection: a gate runs."""
        return self._asked and self._state is CONNECTING

    # -- the application's side

    def accept(self) -> bool:
        """Tell the client that it is connected; False if it has gone meanwhile."""
        if self._state is not CONNECTING:
            return False
        self._state = CONNECTED
        self._multiplexer.accepted()
        self.session.outbox.push(encode_connect(self.namespace, self.id))
        return True

    def refuse(self, reason: str) -> None:
        """Tell the client that it may not connect, and why. Raises `EncodeError`, undecided."""
        if self._state is CONNECTING:
            message = encode_connect_error(self.namespace, reason)
            if message.size > self._multiplexer.outbox_bytes:
                raise EncodeError(
                    f"{message.size} bytes are more than the client's outbox can take"
                )
            self._state = CLOSED
            self.session.outbox.push(message)
            self._multiplexer.remove(self)

    def send(self, message: Message) -> None:
        """Send an encoded message; nothing happens when the connection is over."""
        if self._state is CONNECTED:
            self.session.outbox.push(message)
        else:
            self.check_begun()

    def check_begun(self) -> None:
        """Raise `CallerError` before the connection is accepted: what is done then would be lost."""
        if self._state is CONNECTING:
            raise CallerError(
                "the client is not connected yet, as a gate is still to let it in: "
                "send, call and subscribe in @on_connect"
            )

    def emit(self, event: str, *args: Any) -> None:
        """Encode and send an event. Raises `EncodeError`."""
        self.send(encode_event(self.namespace, event, args))

    def acknowledge(self, number: int, args: Sequence[Any]) -> None:
        """Answer an event that asked for it. Raises `EncodeError`."""
        self.send(self.encode_acknowledgement(number, args))

    def encode_acknowledgement(self, number: int, args: Sequence[Any]) -> Message:
        """Encode the answer to an event, for `send`. Raises `EncodeError`."""
        message = encode_ack(self.namespace, number, args)
        if message.size > self._multiplexer.outbox_bytes:
            raise EncodeError(f"{message.size} bytes are more than the client's outbox can take")
        return message

    def call(self, event: str, args: Sequence[Any], timeout: float) -> list[Any]:
        """Emit an event and wait for the client's acknowledgement, at most `timeout` seconds.

        Raises `CallTimeout`, `Disconnected`, `EncodeError`, or `WrongContext` on the hub.
        """
        if gevent.getcurrent() is gevent.get_hub():
            raise WrongContext("call() waits for an answer, which cannot be done on gevent's hub")
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
        """End the connection from the server's side; the stock client does not come back by itself.

        With its last namespace the client's session ends.
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

    # -- the engine's side

    def begin(self, size: int) -> None:
        """Have the application asked when it is this connection's turn; `size` is the packet's."""
        self.inbox.put(self._handle_connect, size=size)

    def _handle_connect(self) -> None:
        if self._state is CONNECTING:  # and not gone again meanwhile
            self._asked = True
            self.application.connect(self)

    def receive_event(self, data: list[Any], ack: int | None, size: int) -> None:
        if self._state is CONNECTING:
            raise ProtocolError("an event before the connection was accepted")
        self.inbox.put(self._handle_event, data[0], data[1:], ack, size=size)

    def _handle_event(self, name: str, args: list[Any], ack: int | None) -> None:
        if not self.kicked:
            self.application.event(self, name, args, ack)

    def drop_event(self, error: ContentError, ack: int | None, size: int) -> None:
        """Answer an event that exceeds a limit with an error, and report it, when it is its turn."""
        if self._state is CONNECTING:
            raise ProtocolError("an event before the connection was accepted")
        self.inbox.put(self._handle_dropped, error, ack, size=size)

    def _handle_dropped(self, error: ContentError, ack: int | None) -> None:
        if self.kicked:
            return
        if ack is not None:
            self.acknowledge(ack, ({"error": str(error)},))
        self.application.failed(self, error)

    def receive_ack(self, number: int, args: list[Any]) -> None:
        # Not through the inbox: the handler that waits for it is what the inbox waits for.
        if self._acks is not None and number in self._acks:
            self._acks.pop(number).set(args)

    def fail_ack(self, number: int, failure: CallTimeout | ContentError) -> None:
        """Raise `failure` in the `call` that waits for this acknowledgement."""
        if self._acks is not None and number in self._acks:
            self._acks.pop(number).set_exception(failure)

    def close(self, reason: str) -> None:
        """The connection is over: tell the application, once, when all that came before is done."""
        if self._state is CLOSED:
            return
        accepted = self._state is CONNECTED
        self._state = CLOSED
        self.reason = reason
        if self._acks:
            for result in list(self._acks.values()):
                result.set_exception(Disconnected(f"the client is gone: {reason}"))
        if accepted:
            self.application.closing(self)
            self.inbox.put(self.application.disconnected, self, reason)
