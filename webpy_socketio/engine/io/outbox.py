"""Bounded queues of outgoing messages, flushed once per event-loop iteration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from webpy_socketio.engine.io.packets import Message

__all__ = ["Flusher", "Outbox", "Writer"]

logger = logging.getLogger(__name__)

#: Bytes of the broadcasts of one iteration that the flusher keeps, if there is more than one.
#: Beyond this they are distributed to the outboxes, whose limits then apply.
MAX_PENDING_BROADCASTS = 65_536


class Writer(Protocol):
    """The transport of an outbox."""

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
        """Function that passes frames to the kernel while nothing is unsent, or None."""

    def flush(self) -> None:
        """Write the messages of the outbox as far as the socket accepts them."""

    def unsent(self) -> int:
        """Return the bytes taken from the outbox that are not sent yet."""


class Flusher:
    """Writes the messages queued during one event-loop iteration at its end.

    Broadcasts are kept in `pending_broadcasts` with their recipients instead of being copied to
    every outbox. If all of them have the same recipients, those with nothing else queued get the
    frames in one `send` at the end of the iteration. Other messages go through the outboxes.

    Call `distribute` before accessing `Outbox.pending`, so that messages keep their order.
    """

    __slots__ = ("_loop", "_size", "dirty", "pending_broadcasts")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._size = 0
        #: Outboxes to flush at the end of the iteration. Call `schedule_flush` when appending the
        #: first one; `add` does both.
        self.dirty: list[Outbox] = []
        #: Broadcasts of this iteration with their recipients.
        self.pending_broadcasts: list[tuple[Message, Sequence[Outbox]]] = []

    def add(self, outbox: Outbox) -> None:
        """Flush `outbox` at the end of the iteration."""
        if not self.dirty:
            self.schedule_flush()
        self.dirty.append(outbox)

    def schedule_flush(self) -> None:
        """Schedule a flush for the end of the current iteration."""
        # Callbacks run in FIFO order: greenlets that are ready now run and send before the flush.
        self._loop.run_callback(self._flush)

    def call_after_flush(self, function: Callable[[], None]) -> None:
        """Call `function` on the hub, after a flush that is already scheduled."""
        self._loop.run_callback(function)

    def broadcast(self, message: Message, outboxes: Sequence[Outbox]) -> None:
        """Append `message` to each of `outboxes`, which must all use this flusher."""
        if self.pending_broadcasts:
            self._size += message.size
            if self._size > MAX_PENDING_BROADCASTS:
                self.distribute()
        if not self.pending_broadcasts:
            self._size = message.size
            self.schedule_flush()
        self.pending_broadcasts.append((message, outboxes))

    def distribute(self) -> None:
        """Move pending broadcasts to the outboxes of their recipients."""
        broadcasts, self.pending_broadcasts = self.pending_broadcasts, []
        for message, outboxes in broadcasts:
            for outbox in outboxes:
                outbox.push(message)

    def silence(self) -> None:
        """Never write again: in a forked child the loop and connections belong to the parent."""
        self.__class__ = _SilencedFlusher

    def _flush(self) -> None:
        if self.pending_broadcasts:
            self._send_broadcasts()
        dirty, self.dirty = self.dirty, []
        for outbox in dirty:
            try:
                outbox.flush()
            except Exception:  # an error of one connection must not affect the others
                logger.exception("failed to flush an outbox")

    def _send_broadcasts(self) -> None:
        recipients = self.pending_broadcasts[0][1]
        if any(outboxes != recipients for _, outboxes in self.pending_broadcasts):
            self.distribute()
            return
        messages = [message for message, _ in self.pending_broadcasts]
        self.pending_broadcasts = []
        data = b"".join([message.frames for message in messages])
        incomplete: list[tuple[Outbox, bytes]] = []
        size = len(data)
        for outbox in recipients:  # `Outbox.send_now` is inlined: a tenth of a broadcast
            try_send = outbox.try_send
            if try_send is None or outbox.unsent or outbox.pending or outbox.closed:
                for message in messages:
                    outbox.push(message)
                continue
            try:
                sent = try_send(data)
            except OSError:
                sent = 0
            if sent < size:
                incomplete.append((outbox, data[sent:]))
        # Last, since this may detect a lost connection, whose callbacks may send.
        for outbox, rest in incomplete:
            try:
                outbox.put_back(rest)
            except Exception:
                logger.exception("failed to flush an outbox")


class _SilencedFlusher(Flusher):
    """Replaces the class of a flusher, so that serving processes need no check."""

    __slots__ = ()

    def schedule_flush(self) -> None:
        """Do nothing."""

    def call_after_flush(self, function: Callable[[], None]) -> None:
        """Do nothing."""


class Outbox:
    """A bounded queue of the messages to one client, flushed at the end of the iteration.

    The first message adds the outbox to its flusher. `flush` passes the messages to `try_send`, or
    the transport takes them; its `unsent` is the number of bytes that are not sent yet. The
    transport flushes the rest when the socket is writable, or at the next poll.

    When a limit is exceeded, all messages are dropped and `overflow` is called later on the hub. It
    is never called inside `push`, so a broadcast can iterate over its recipients.

    Args:
        flusher: Flusher of the event loop.
        max_bytes: Limit of the queued and unsent bytes.
        max_packets: Limit of the queued packets.
        overflow: Called once when a limit is exceeded.
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
        self.flusher = flusher
        self._max_bytes = max_bytes
        self._max_packets = max_packets
        self.overflow = overflow
        self._transport: Writer | None = None
        #: Passes WebSocket frames to the kernel and returns the number of accepted bytes; for use
        #: only while `unsent` is 0. None if the transport does not support it.
        self.try_send: Callable[[bytes], int] | None = None
        #: Bytes taken from the outbox and not sent yet, as last reported by the transport.
        self.unsent = 0
        #: Queued messages, without those in ``flusher.pending_broadcasts``; for the flusher only.
        self.pending: list[Message] = []
        self._size = 0
        self._count = 0
        #: Whether further messages are ignored.
        self.closed = False

    def __bool__(self) -> bool:
        self.flusher.distribute()
        return bool(self.pending)

    @property
    def size(self) -> int:
        """Bytes that the kernel has not accepted yet."""
        self.flusher.distribute()
        return self._size + self.unsent

    def push(self, message: Message) -> None:
        """Append a message; ignored when the outbox is closed."""
        # The hot path of every message: `Flusher.add` is inlined, and `distribute` is called only
        # if there is something to distribute.
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
            self._check_limits()

    def flush(self) -> None:
        """Write queued messages as far as the socket accepts them."""
        if self._transport is None:
            return
        if self.try_send is None or self.unsent:
            self._transport.flush()
            return
        pending = self.pending
        if pending:
            self.pending = []
            self._size = self._count = 0
            rest = self.send_now(
                pending[0].frames
                if len(pending) == 1
                else b"".join([message.frames for message in pending])
            )
            if rest:
                self.put_back(rest)

    def send_now(self, frames: bytes) -> bytes:
        """Pass frames to the kernel with `try_send`; return what it did not accept."""
        assert self.try_send is not None
        try:
            return frames[self.try_send(frames) :]
        except OSError:  # buffer full, or connection lost: the transport detects which
            return frames

    def put_back(self, rest: bytes) -> None:
        """Leave frames that the kernel did not accept to the transport."""
        assert self._transport is not None
        self.pending.append(Message.rest(rest))
        self._transport.flush()
        if self.unsent > self._max_bytes:
            self._check_limits()

    def take(self) -> list[Message]:
        """Remove and return all queued messages."""
        self.flusher.distribute()
        pending = self.pending
        self.pending = []
        self._size = self._count = 0
        return pending

    def use(self, transport: Writer) -> None:
        """Write to `transport` from now on."""
        self._transport = transport
        self.try_send = transport.try_send
        self.unsent = transport.unsent()
        if self:
            self.flusher.add(self)

    def close(self) -> None:
        """Drop queued messages and ignore further ones."""
        self.take()
        self.closed = True

    def seal(self) -> None:
        """Ignore further messages; queued ones are still flushed."""
        self.flusher.distribute()
        self.closed = True

    def _check_limits(self) -> None:
        if self._transport is not None:
            self.unsent = self._transport.unsent()  # some may have been sent since
        if self.size > self._max_bytes or self._count > self._max_packets:
            self.close()
            self.flusher.call_after_flush(self.overflow)
