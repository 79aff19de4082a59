"""What waits to be written to one client: in order, together, and never too much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from webpy_socketio.engine.flusher import Flusher
from webpy_socketio.engine.packets import Message

__all__ = ["Outbox", "Writer"]


class Writer(Protocol):
    """A transport, as an outbox sees it."""

    @property
    def direct(self) -> Callable[[bytes], int] | None:
        """Hands frames to the kernel, as long as nothing is unsent; None if it cannot."""

    def flush(self) -> None:
        """Write what the outbox holds, as far as there is room."""

    def unsent(self) -> int:
        """Bytes that were taken from the outbox and have not left yet."""


class Outbox:
    """A bounded queue of messages that asks to be flushed at the end of the turn.

    It asks when it gets its first message. Its transport's flush takes the messages and tells in
    `unsent` how many bytes of them are still to be written; one that cannot take them at that
    moment flushes by itself when it can.

    When a bound is passed, everything is dropped and `overflow` called, later in the turn: never
    inside `push`, so that whoever broadcasts may go through its recipients in peace.
    """

    __slots__ = (
        "_closed",
        "_count",
        "_flusher",
        "_max_bytes",
        "_max_packets",
        "_pending",
        "_size",
        "_transport",
        "direct",
        "overflow",
        "unsent",
    )

    def __init__(
        self,
        flusher: Flusher,
        max_bytes: int,
        max_packets: int,
        overflow: Callable[[], None],
    ) -> None:
        self._flusher = flusher
        self._max_bytes = max_bytes
        self._max_packets = max_packets
        self.overflow = overflow
        self._transport: Writer | None = None
        #: Hands WebSocket frames to the kernel, and returns how many bytes it took: a shortcut for
        #: when nothing is `unsent`. None where there is none.
        self.direct: Callable[[bytes], int] | None = None
        #: Bytes that were taken and are still to be written, as the transport told it last.
        self.unsent = 0
        self._pending: list[Message] = []
        self._size = 0
        self._count = 0
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._size + self.unsent

    def push(self, message: Message) -> None:
        """Append a message; ignored when the outbox is closed."""
        # Every recipient of a broadcast comes through here: `Flusher.add` is written out.
        if self._closed:
            return
        pending = self._pending
        if not pending:
            dirty = self._flusher.dirty
            if not dirty:
                self._flusher.wake()
            dirty.append(self)
        pending.append(message)
        self._size = size = self._size + message.size
        self._count = count = self._count + message.count
        if size + self.unsent > self._max_bytes or count > self._max_packets:
            self._check_bounds()

    def flush(self) -> None:
        """Write what waits, as far as there is room."""
        if self._transport is None:
            return
        direct, pending = self.direct, self._pending
        if direct is None or self.unsent:
            self._transport.flush()
            return
        # And through here: the transport has nothing to say where all can be written at once.
        if len(pending) == 1:
            data = pending[0].frames
        elif pending:
            data = b"".join([message.frames for message in pending])
        else:
            return
        self._pending = []
        self._size = self._count = 0
        try:
            sent = direct(data)
        except OSError:  # no room, or no connection any more; the transport knows what to do
            sent = 0
        if sent < len(data):
            self._pending.append(Message.rest(data[sent:]))
            self._transport.flush()

    def take(self) -> list[Message]:
        """Remove and return everything that waits."""
        pending = self._pending
        self._pending = []
        self._size = self._count = 0
        return pending

    def use(self, transport: Writer) -> None:
        """Let `transport` write from now on."""
        self._transport = transport
        self.direct = transport.direct
        self.unsent = transport.unsent()
        if self._pending:
            self._flusher.add(self)

    def close(self) -> None:
        """Drop what waits and take nothing more."""
        self._closed = True
        self.take()

    def seal(self) -> None:
        """Take nothing more; what waits may still be flushed."""
        self._closed = True

    def _check_bounds(self) -> None:
        if self._transport is not None:
            self.unsent = self._transport.unsent()  # some of it may have left since
        if self.size > self._max_bytes or self._count > self._max_packets:
            self.close()
            self._flusher.later(self.overflow)
