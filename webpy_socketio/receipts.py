"""Receipts: which numbered messages of a client have arrived, and the answers to them.

The extension of the client numbers its messages. After a loss it repeats those that the server has
not confirmed, and requests the answers that it has not received.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from webpy_socketio.engine.io.clock import Clock, Timer
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.engine.socketio.packets import RESERVED_EVENTS, format_number
from webpy_socketio.exceptions import ContentError

__all__ = ["NUMBERED", "RECEIVED", "Receipts", "read_numbered"]

#: Event of the client with the arguments: number, name and arguments of the numbered event.
NUMBERED: Final = "__numbered__"

#: Event of the server with the arguments: number of the last message that has arrived, and the id
#: of an acknowledgement that is not available, if there is one.
RECEIVED: Final = "__received__"

#: Largest number: JavaScript represents integers up to it exactly.
MAX_NUMBER: Final = 2**53 - 1

#: Messages that are confirmed at once, and seconds after which fewer are confirmed.
BATCH_SIZE: Final = 64
INTERVAL: Final = 1.0

#: Maximum number of recent answers of a socket that are kept, and their total size in bytes.
MAX_ANSWERS: Final = 64
MAX_ANSWER_BYTES: Final = 65_536


def read_numbered(args: list[Any]) -> tuple[int, str | None, list[Any]]:
    """Return number, name and arguments of a numbered event; the name is None if it has none.

    Raises:
        ContentError: The arguments are not those of a numbered event.
    """
    number = args[0] if args else None
    # `type` instead of isinstance excludes bool.
    if type(number) is not int or not 0 < number <= MAX_NUMBER:
        raise ContentError(
            f"the number of a message must be an integer from 1 to 2**53 - 1, not {number!r:.100}; "
            "the message was dropped"
        )
    if len(args) == 1:
        return number, None, []
    name = args[1]
    if type(name) in (int, float):
        name = format_number(name)
    if type(name) is not str or name == NUMBERED or name in RESERVED_EVENTS:
        raise ContentError(
            f"a numbered message needs the name of an event, not {name!r:.100}; the message was "
            "dropped"
        )
    return number, name, args[2:]


class Receiver(Protocol):
    """The part of a socket that its receipts use."""

    #: Number of the last numbered message that has arrived; 0 before the first.
    received: int

    @property
    def connection(self) -> Connection:
        """The current connection, or the last one."""


class Receipts:
    """Confirms the numbered messages of one client, and keeps recent answers.

    Sends the answers in place of a connection: those of an event that has arrived before a loss
    reach the client afterwards. For the hub's thread only.
    """

    __slots__ = (
        *("_answers", "_clock", "_is_closed", "_size", "_socket", "_timer", "_timers"),
        *("_unconfirmed", "is_answering"),
    )

    def __init__(self, socket: Receiver, clock: Clock) -> None:
        #: Whether an event is handled whose answer is kept.
        self.is_answering = False
        self._socket = socket
        self._clock = clock
        #: Answers by acknowledgement id, oldest first; None before the answer.
        self._answers: dict[int, Message | None] = {}
        self._size = 0
        #: Messages that have arrived since the last confirmation.
        self._unconfirmed = 0
        #: Running timer of the next confirmation.
        self._timer: Timer | None = None
        #: Running timers of `call_later`.
        self._timers: set[Timer] = set()
        self._is_closed = False

    # -- messages

    def begin(self, number: int, ack: int | None) -> None:
        """Record the arrival of a message, immediately before it is handled."""
        self._socket.received = number
        self._unconfirmed += 1
        if ack is not None:
            self._record(ack, None)
            self.is_answering = True

    def finish(self, ack: int | None) -> None:
        """Confirm a handled message, now or together with later ones."""
        self.is_answering = False
        if ack is not None and self._answers.get(ack) is not None:
            self._unconfirmed = 0  # an answer confirms its message and the earlier ones
        elif self._unconfirmed >= BATCH_SIZE:
            self._confirm()
        elif self._timer is None:
            self._timer = self._socket.connection.call_later(INTERVAL, self._on_timer)

    def repeat(self, ack: int | None) -> None:
        """Send the answer to a message again, or report that it is not available."""
        if ack is None:
            return
        connection = self._socket.connection
        if ack not in self._answers:
            connection.emit(RECEIVED, self._socket.received, ack)
            return
        message = self._answers[ack]
        if message is not None:  # otherwise it follows
            connection.send(message)

    def resumed(self) -> None:
        """Forget the confirmation that was due: the answer to the CONNECT contains it."""
        self._unconfirmed = 0
        self._timer = None  # stopped with the old connection

    def to_json(self) -> list[Any]:
        """Return the answers as JSON, for another server; deferred ones are not available there."""
        return [
            [ack, None if message.text is None else b64encode(message.text).decode()]
            + [b64encode(data).decode() for data in message.attachments]
            for ack, message in self._answers.items()
            if message is not None
        ]

    def restore(self, answers: list[Any]) -> None:
        """Restore the answers that `to_json` of another server has returned."""
        for ack, text, *attachments in answers:
            content = None if text is None else b64decode(text)
            self._record(ack, Message(content, [b64decode(data) for data in attachments]))

    def close(self) -> None:
        """Stop the timers and discard the answers, because the client is gone."""
        self._is_closed = True
        for timer in list(self._timers):
            self.cancel(timer)
        self._answers.clear()

    def _on_timer(self) -> None:
        self._timer = None
        self._confirm()

    def _confirm(self) -> None:
        connection = self._socket.connection
        if self._unconfirmed and connection.connected:
            self._unconfirmed = 0
            connection.emit(RECEIVED, self._socket.received)

    # -- in place of a connection, see `AckSender`

    @property
    def kicked(self) -> bool:
        """Whether the server closed the connection."""
        return self._socket.connection.kicked

    def acknowledge(self, number: int, args: Sequence[Any]) -> None:
        """Send the acknowledgement with id `number`. Raises `EncodeError`."""
        self.send_acknowledgement(number, self.encode_acknowledgement(number, args))

    def encode_acknowledgement(self, number: int, args: Sequence[Any]) -> Message:
        """Encode the acknowledgement with id `number`. Raises `EncodeError`."""
        return self._socket.connection.encode_acknowledgement(number, args)

    def send_acknowledgement(self, number: int, message: Message) -> None:
        """Keep an encoded acknowledgement, and send it if the client is connected."""
        if not self._is_closed:
            self._record(number, message)
        if self._socket.connection.connected:
            self._socket.connection.send(message)

    def call_later(self, seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
        """Call a function on the hub after a delay, also during a loss of the connection."""
        timer = self._clock.timer(seconds)
        if not self._is_closed:
            self._timers.add(timer)
            timer.start(self._run_timer, timer, function, args, update=True)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Cancel a timer of `call_later`; has no effect if it has fired."""
        self._timers.discard(timer)
        timer.close()

    def _run_timer(self, timer: Timer, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.cancel(timer)
        function(*args)

    def _record(self, ack: int, message: Message | None) -> None:
        answers = self._answers
        self._forget(ack)
        if message is not None:
            if message.size > MAX_ANSWER_BYTES:
                return
            self._size += message.size
        answers[ack] = message
        while len(answers) > MAX_ANSWERS or self._size > MAX_ANSWER_BYTES:
            self._forget(next(iter(answers)))

    def _forget(self, ack: int) -> None:
        message = self._answers.pop(ack, None)
        if message is not None:
            self._size -= message.size
