"""What waits to be written to one client: in order, together, and never too much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from webpy_socketio.engine.io.flusher import Flusher
from webpy_socketio.engine.io.packets import Message

__all__ = ["Outbox", "Writer"]


class Writer(Protocol):
    """A transport, as an outbox sees it."""

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
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
        "_count",
        "_max_bytes",
        "_max_packets",
        "_size",
        "_transport",
        "closed",
        "flusher",
        "overflow",
        "pending",
        "try_send",
        "unsent",
    )

    def __init__(
        self,
        flusher: Flusher,
        max_bytes: int,
        max_packets: int,
        overflow: Callable[[], None],
    ) -> None:
        #: Where it asks to be flushed.
        self.flusher = flusher
        self._max_bytes = max_bytes
        self._max_packets = max_packets
        self.overflow = overflow
        self._transport: Writer | None = None
        #: Hands WebSocket frames to the kernel, and returns how many bytes it took: a shortcut for
        #: when nothing is `unsent`. None where there is none.
        self.try_send: Callable[[bytes], int] | None = None
        #: Bytes that were taken and are still to be written, as the transport told it last.
        self.unsent = 0
        #: The messages that wait, but for those that the flusher keeps; for the flusher only.
        self.pending: list[Message] = []
        self._size = 0
        self._count = 0
        #: Whether nothing more is taken.
        self.closed = False

    def __bool__(self) -> bool:
        self.flusher.distribute()
        return bool(self.pending)

    @property
    def size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        self.flusher.distribute()
        return self._size + self.unsent

    def push(self, message: Message) -> None:
        """Append a message; ignored when the outbox is closed."""
        # Every message comes through here: `Flusher.add` is written out, and `spill` asked for only
        # where it has something to do.
        flusher = self.flusher
        if flusher.pending_broadcasts:
            flusher.distribute()
        if self.closed:
            return
        pending = self.pending
        if not pending:
            dirty = flusher.dirty
            if not dirty:
                flusher.schedule_flush()
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
        if self.try_send is None or self.unsent:
            self._transport.flush()
            return
        pending = self.pending
        if pending:
            self.pending = []
            self._size = self._count = 0
            rest = self.hand_over(
                pending[0].frames
                if len(pending) == 1
                else b"".join([message.frames for message in pending])
            )
            if rest:
                self.put_back(rest)

    def hand_over(self, frames: bytes) -> bytes:
        """Give frames to the kernel by `direct`; returns what it did not take."""
        assert self.try_send is not None
        try:
            return frames[self.try_send(frames) :]
        except OSError:  # no room, or no connection any more; the transport will find out
            return frames

    def put_back(self, rest: bytes) -> None:
        """Leave to the transport what the kernel did not take."""
        assert self._transport is not None
        self.pending.append(Message.rest(rest))
        self._transport.flush()
        if self.unsent > self._max_bytes:
            self._check_bounds()

    def take(self) -> list[Message]:
        """Remove and return everything that waits."""
        self.flusher.distribute()
        pending = self.pending
        self.pending = []
        self._size = self._count = 0
        return pending

    def use(self, transport: Writer) -> None:
        """Let `transport` write from now on."""
        self._transport = transport
        self.try_send = transport.try_send
        self.unsent = transport.unsent()
        if self:
            self.flusher.add(self)

    def close(self) -> None:
        """Drop what waits and take nothing more."""
        self.take()
        self.closed = True

    def seal(self) -> None:
        """Take nothing more; what waits may still be flushed."""
        self.flusher.distribute()
        self.closed = True

    def _check_bounds(self) -> None:
        if self._transport is not None:
            self.unsent = self._transport.unsent()  # some of it may have left since
        if self.size > self._max_bytes or self._count > self._max_packets:
            self.close()
            self.flusher.call_after_flush(self.overflow)
