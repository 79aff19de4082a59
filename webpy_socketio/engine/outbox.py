"""What waits to be written to one client: in order, together, and never too much of it."""

from __future__ import annotations

from collections.abc import Callable

from webpy_socketio.engine.flusher import Flusher
from webpy_socketio.engine.packets import Message

__all__ = ["Outbox"]


class Outbox:
    """A bounded queue of messages that asks to be flushed once a turn.

    `flush` is what the flusher calls: it takes the messages and tells with `settle` what of them
    is not written yet. When a bound is passed, everything is dropped and `overflow` called, later
    in the turn: never inside `push`, so that whoever broadcasts may go through its recipients in
    peace.
    """

    __slots__ = (
        "_closed",
        "_count",
        "_flusher",
        "_max_bytes",
        "_max_packets",
        "_pending",
        "_scheduled",
        "_size",
        "_unsent",
        "flush",
        "measure",
        "overflow",
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
        self._pending: list[Message] = []
        self._size = 0
        self._count = 0
        self._unsent = 0
        self._scheduled = False
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._size + self._unsent

    def push(self, message: Message) -> None:
        """Append a message; ignored when the outbox is closed."""
        if self._closed:
            return
        self._pending.append(message)
        self._size += message.size
        self._count += message.count
        if not self._scheduled:
            self._scheduled = True
            self._flusher.schedule(self._flush)
        if self._size + self._unsent > self._max_bytes or self._count > self._max_packets:
            if self.measure is not None:
                self._unsent = self.measure()  # some of it may have left since
            if self._size + self._unsent <= self._max_bytes and self._count <= self._max_packets:
                return
            self.close()
            self._flusher.schedule(self.overflow)

    def take(self) -> list[Message]:
        """Remove and return everything that waits."""
        pending, self._pending = self._pending, []
        self._size = self._count = 0
        return pending

    def settle(self, unsent: int) -> None:
        """Tell how many bytes of what was taken are still to be written."""
        self._unsent = unsent

    def close(self) -> None:
        """Drop what waits and take nothing more."""
        self._closed = True
        self.take()

    def seal(self) -> None:
        """Take nothing more; what waits may still be flushed."""
        self._closed = True

    def _flush(self) -> None:
        self._scheduled = False
        self.flush()
