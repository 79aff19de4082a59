"""What waits to be written to one client: in order, together, and never too much of it."""

from __future__ import annotations

from collections.abc import Callable

from webpy_socketio.engine.flusher import Flusher
from webpy_socketio.engine.packets import Message

__all__ = ["Outbox"]


class Outbox:
    """A bounded queue of messages that asks to be flushed at the end of the turn.

    It asks when it gets its first message. `flush` takes the messages and tells in `unsent` how
    many bytes of them are still to be written; a transport that cannot take them at that moment
    flushes by itself when it can.

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
        "flush",
        "measure",
        "overflow",
        "unsent",
    )

    def __init__(
        self,
        flusher: Flusher,
        max_bytes: int,
        max_packets: int,
        flush: Callable[[], None],
        overflow: Callable[[], None],
    ) -> None:
        self._flusher = flusher
        self._max_bytes = max_bytes
        self._max_packets = max_packets
        self.flush = flush
        self.overflow = overflow
        #: Tells how many bytes of what was taken are still to be written.
        self.measure: Callable[[], int] | None = None
        #: The same, as the transport told it when it last took something.
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

    def take(self) -> list[Message]:
        """Remove and return everything that waits."""
        pending = self._pending
        self._pending = []
        self._size = self._count = 0
        return pending

    def close(self) -> None:
        """Drop what waits and take nothing more."""
        self._closed = True
        self.take()

    def seal(self) -> None:
        """Take nothing more; what waits may still be flushed."""
        self._closed = True

    def _check_bounds(self) -> None:
        if self.measure is not None:
            self.unsent = self.measure()  # some of it may have left since
        if self.size > self._max_bytes or self._count > self._max_packets:
            self.close()
            self._flusher.later(self.overflow)
