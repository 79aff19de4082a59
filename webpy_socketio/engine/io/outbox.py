"""Bounded queues of outgoing messages, flushed once per event-loop iteration.

The limits of a queue detect slow clients: the session is closed with "slow reader".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from webpy_socketio.engine.io.native import OutboxState, flush_all, send_to_all
from webpy_socketio.engine.io.packets import Message

__all__ = ["Flusher", "Outbox", "Writer"]

logger = logging.getLogger(__name__)

#: Bytes of the broadcasts of one iteration that the flusher keeps, if there is more than one.
#: Beyond this they are distributed to the outboxes, whose limits then apply.
MAX_PENDING_BROADCASTS = 65_536

#: `Outbox.pending` without messages. One object for all, which the native core recognizes.
_NO_MESSAGES: tuple[()] = ()

#: A broadcast: the message, its recipients, and one of them that does not receive it, or None.
Broadcast: TypeAlias = "tuple[Message, Sequence[Outbox], Outbox | None]"

#: A message that follows pending broadcasts: their number, the outbox, and the message.
Following: TypeAlias = "tuple[int, Outbox, Message]"


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
    frames in one `send` at the end of the iteration. Other messages are queued in the outboxes.

    A message that is pushed to one outbox while broadcasts are pending leaves them whole. The
    flusher notes how many broadcasts precede the message, and at the end of the iteration puts
    those that this outbox receives before it. The other recipients are not affected.

    A broadcast can skip one of its recipients, its sender. Broadcasts of several senders to the
    same recipients stay whole: only the senders get theirs through the outboxes.

    Call `distribute` before reading `Outbox.pending` or `Outbox.size`, if pending broadcasts count.
    """

    __slots__ = ("_loop", "_size", "dirty", "following", "pending_broadcasts")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._size = 0
        #: Outboxes to flush at the end of the iteration. Call `schedule_flush` when appending the
        #: first one; `add` does both.
        self.dirty: list[Outbox] = []
        #: Broadcasts of this iteration.
        self.pending_broadcasts: list[Broadcast] = []
        #: Messages pushed while broadcasts were pending; also the last ones in ``Outbox.pending``.
        self.following: list[Following] = []

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

    def broadcast(
        self, message: Message, outboxes: Sequence[Outbox], skip: Outbox | None = None
    ) -> None:
        """Append `message` to each of `outboxes` except `skip`.

        All of them must use this flusher. `outboxes` must not change afterwards: pass the same
        object for the same recipients, or an equal one, so that broadcasts are sent together.
        """
        if self.pending_broadcasts:
            self._size += message.size
            if self._size > MAX_PENDING_BROADCASTS:
                self.distribute()
        if not self.pending_broadcasts:
            self._size = message.size
            self.schedule_flush()
        self.pending_broadcasts.append((message, outboxes, skip))

    def distribute(self) -> None:
        """Move pending broadcasts to the outboxes of their recipients, in the order of sending."""
        broadcasts, self.pending_broadcasts = self.pending_broadcasts, []
        following, self.following = self.following, []
        self._distribute(broadcasts, following)

    @staticmethod
    def _distribute(broadcasts: Iterable[Broadcast], following: Sequence[Following]) -> None:
        # Messages of outboxes that were closed in the meantime are dropped already.
        following = [entry for entry in following if not entry[1].closed]
        for _, outbox, _ in reversed(following):
            outbox.pop()
        next_own = 0
        for number, (message, outboxes, skip) in enumerate(broadcasts, 1):
            for outbox in outboxes:
                if outbox is not skip:
                    outbox.push(message)
            while next_own < len(following) and following[next_own][0] == number:
                _, outbox, own = following[next_own]
                outbox.push(own)
                next_own += 1

    def silence(self) -> None:
        """Never write again: in a forked child the loop and connections belong to the parent."""
        self.__class__ = _SilencedFlusher

    def _flush(self) -> None:
        if self.pending_broadcasts:
            self._send_broadcasts()
        dirty, self.dirty = self.dirty, []
        for outbox, rest in flush_all(dirty):
            if self.following:  # a callback of this loop has sent messages after a broadcast
                self.distribute()
            try:
                if rest is None:
                    outbox.flush()
                else:
                    outbox.put_back(rest)
            except Exception:  # an error of one connection must not affect the others
                logger.exception("failed to flush an outbox")

    def _send_broadcasts(self) -> None:
        broadcasts = self.pending_broadcasts
        first, recipients, sender = broadcasts[0]
        later: list[Outbox] = []
        if len(broadcasts) == 1:
            messages, data = [first], first.frames
        else:
            senders = {skip for _, _, skip in broadcasts}
            # If all recipients are senders, none of them receives all broadcasts.
            if len(senders) >= len(recipients) > 1 or any(
                each != recipients for _, each, _ in broadcasts
            ):
                self.distribute()
                return
            messages = [message for message, _, _ in broadcasts]
            data = b"".join([message.frames for message in messages])
            if len(senders) > 1:  # a single sender receives none of them
                sender = None
                later = [outbox for outbox in recipients if outbox in senders]
                recipients = [outbox for outbox in recipients if outbox not in senders]
        following = self.following
        self.pending_broadcasts, self.following = [], []
        separated = {outbox for _, outbox, _ in following} if following else ()
        incomplete: list[tuple[Outbox, bytes]] = []
        for outbox, sent in send_to_all(list(recipients), data, sender):
            if sent >= 0:
                incomplete.append((outbox, data[sent:]))
            elif outbox in separated:
                later.append(outbox)
            else:
                for message in messages:
                    outbox.push(message)
        if later:
            self._distribute([(message, later, skip) for message, _, skip in broadcasts], following)
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


def _nothing() -> None:
    """Do nothing."""


class Outbox(OutboxState):
    """A bounded queue of the messages to one client, flushed at the end of the iteration.

    The first message adds the outbox to its flusher. `flush` passes the messages to `try_send`, or
    the transport takes them; its `unsent` is the number of bytes that are not sent yet. The
    transport flushes the rest when the socket is writable, or at the next poll.

    When a limit is exceeded, the client is too slow: all messages are dropped, and `overflow` is
    called later on the hub. The session then closes with "slow reader". `overflow` is never called
    inside `push`, so a broadcast can iterate over its recipients.

    Args:
        flusher: Flusher of the event loop.
        max_bytes: Limit of the queued and unsent bytes.
        max_packets: Limit of the queued packets.
        overflow: Called once when a limit is exceeded.
    """

    __slots__ = (
        "_max_packets",
        "_transport",
        "flusher",
        "max_bytes",
        "overflow",
    )

    #: Queued messages, without those of ``flusher.pending_broadcasts``; for the flusher only. The
    #: empty tuple while there are none.
    pending: list[Message] | tuple[()]

    def __init__(
        self,
        flusher: Flusher,
        max_bytes: int,
        max_packets: int,
        overflow: Callable[[], None],
    ) -> None:
        self.flusher = flusher
        #: Limit of the queued and unsent bytes.
        self.max_bytes = max_bytes
        self._max_packets = max_packets
        self.overflow = overflow
        self._transport: Writer | None = None
        #: Passes WebSocket frames to the kernel and returns the number of accepted bytes; for use
        #: only while `unsent` is 0. None if the transport does not support it.
        self.try_send = None
        #: Bytes taken from the outbox and not sent yet, as last reported by the transport.
        self.unsent = 0
        self.pending = _NO_MESSAGES
        self.pending_size = 0
        self.pending_count = 0
        #: Whether further messages are ignored.
        self.closed = False

    def __bool__(self) -> bool:
        """Whether messages are queued, besides pending broadcasts."""
        return bool(self.pending)

    @property
    def size(self) -> int:
        """Bytes that the kernel has not accepted yet, without those of pending broadcasts."""
        return self.pending_size + self.unsent

    @property
    def is_congested(self) -> bool:
        """Whether data could not be sent: the client reads slowly, or has not polled yet."""
        return self.unsent > 0 or (self.try_send is None and bool(self.pending))

    def has_room(self, messages: Sequence[Message]) -> bool:
        """Return whether messages, and a short packet, can be appended within the limits."""
        size = self.size + sum(message.size for message in messages) + 1024
        count = self.pending_count + sum(message.count for message in messages) + 1
        return size <= self.max_bytes and count <= self._max_packets

    def push(self, message: Message) -> None:
        """Append a message; ignored when the outbox is closed."""
        # The hot path of every message: `Flusher.add` is inlined.
        if self.closed:
            return
        flusher = self.flusher
        pending = self.pending
        if pending:
            pending.append(message)
        else:
            self.pending = [message]
            dirty = flusher.dirty
            if not dirty:
                flusher.schedule_flush()
            dirty.append(self)
        if flusher.pending_broadcasts:
            flusher.following.append((len(flusher.pending_broadcasts), self, message))
        self.pending_size = size = self.pending_size + message.size
        self.pending_count = count = self.pending_count + message.count
        if size + self.unsent > self.max_bytes or count > self._max_packets:
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
            self.pending = _NO_MESSAGES
            self.pending_size = self.pending_count = 0
            frames = (
                pending[0].frames
                if len(pending) == 1
                else b"".join([message.frames for message in pending])
            )
            try:
                rest = frames[self.try_send(frames) :]
            except OSError:  # buffer full, or connection lost: the transport detects which
                rest = frames
            if rest:
                self.put_back(rest)

    def put_back(self, rest: bytes) -> None:
        """Leave frames that the kernel did not accept to the transport."""
        if self._transport is None:  # released by the callbacks of another outbox
            return
        # First, since the callbacks of a lost connection may have sent to this outbox.
        self.pending = [Message.rest(rest), *self.pending]
        self._transport.flush()
        if self.unsent > self.max_bytes:
            self._check_limits()

    def pop(self) -> None:
        """Remove the last queued message; for the flusher only."""
        assert self.pending
        message = self.pending.pop()
        self.pending_size -= message.size
        self.pending_count -= message.count

    def take(self) -> list[Message]:
        """Remove and return all queued messages, with the pending broadcasts."""
        self.flusher.distribute()
        pending = self.pending
        self.pending = _NO_MESSAGES
        self.pending_size = self.pending_count = 0
        return pending or []

    def use(self, transport: Writer) -> None:
        """Write to `transport` from now on."""
        self._transport = transport
        self.try_send = transport.try_send
        self.unsent = transport.unsent()
        if self:
            self.flusher.add(self)

    def close(self) -> None:
        """Drop queued messages and pending broadcasts, and ignore further ones."""
        # Pending broadcasts stay whole: the flusher skips closed outboxes.
        self.closed = True
        self.pending = _NO_MESSAGES
        self.pending_size = self.pending_count = 0

    def release(self) -> None:
        """Release the transport of a closed outbox."""
        self._transport = self.try_send = None

    def seal(self) -> None:
        """Ignore further messages; queued ones and pending broadcasts are still flushed."""
        if not self.closed:
            self.flusher.distribute()
            self.closed = True
        self.overflow = _nothing  # a reference cycle otherwise

    def _check_limits(self) -> None:
        if self._transport is not None:
            self.unsent = self._transport.unsent()  # some may have been sent since
        if self.size > self.max_bytes or self.pending_count > self._max_packets:
            self.close()
            self.flusher.call_after_flush(self.overflow)
