"""One flush a turn: what is sent in one turn of the event loop is written together at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from webpy_socketio.engine.io.outbox import Outbox
    from webpy_socketio.engine.io.packets import Message

__all__ = ["Flusher"]

logger = logging.getLogger(__name__)

#: Bytes of a turn's broadcasts that are kept whole, if there is more than one. Beyond that each
#: outbox gets its own, and its bounds count.
MAX_PENDING_BROADCASTS = 65_536


class Flusher:
    """Flushes, once, what has something to write when all that runs in this turn has run.

    A broadcast is kept whole until then, its recipients beside it: to each that has nothing else
    to be written it goes straight from here, without a visit to the outbox. Whoever looks into an
    outbox, or appends to one, calls `spill` before.
    """

    __slots__ = ("_loop", "_size", "dirty", "pending_broadcasts")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._size = 0
        #: Outboxes to be flushed at the end of the turn. Whoever appends the first one calls `wake`;
        #: `add` does both.
        self.dirty: list[Outbox] = []
        #: The broadcasts of this turn.
        self.pending_broadcasts: list[tuple[Message, Sequence[Outbox]]] = []

    def add(self, outbox: Outbox) -> None:
        """Have `outbox` flushed at the end of the turn."""
        if not self.dirty:
            self.schedule_flush()
        self.dirty.append(outbox)

    def schedule_flush(self) -> None:
        """See to it that the turn ends with a flush."""
        # Callbacks run in the order they were asked for: greenlets that are ready now run, and
        # send, before this one does.
        self._loop.run_callback(self._flush)

    def call_after_flush(self, function: Callable[[], None]) -> None:
        """Have `function` called on the hub, behind all that is asked for already."""
        self._loop.run_callback(function)

    def broadcast(self, message: Message, outboxes: Sequence[Outbox]) -> None:
        """Append `message` to every one of `outboxes`, all of this flusher's."""
        if self.pending_broadcasts:
            self._size += message.size
            if self._size > MAX_PENDING_BROADCASTS:
                self.distribute()
        if not self.pending_broadcasts:
            self._size = message.size
            self.schedule_flush()
        self.pending_broadcasts.append((message, outboxes))

    def distribute(self) -> None:
        """Let every recipient have its part of what was kept whole."""
        whole, self.pending_broadcasts = self.pending_broadcasts, []
        for message, outboxes in whole:
            for outbox in outboxes:
                outbox.push(message)

    def silence(self) -> None:
        """Never write again: the loop and the connections are those of a parent process."""
        self.__class__ = _Silenced

    def _flush(self) -> None:
        if self.pending_broadcasts:
            self._send_broadcasts()
        dirty, self.dirty = self.dirty, []
        for outbox in dirty:
            try:
                outbox.flush()
            except Exception:  # one connection's trouble is not to reach the others
                logger.exception("a flush failed")

    def _send_broadcasts(self) -> None:
        recipients = self.pending_broadcasts[0][1]
        if any(outboxes != recipients for _, outboxes in self.pending_broadcasts):
            self.distribute()
            return
        messages = [message for message, _ in self.pending_broadcasts]
        self.pending_broadcasts = []
        data = b"".join([message.frames for message in messages])
        behind: list[tuple[Outbox, bytes]] = []
        size = len(data)
        for outbox in recipients:  # `Outbox.hand_over` is written out: a tenth of a broadcast
            direct = outbox.try_send
            if direct is None or outbox.unsent or outbox.pending or outbox.closed:
                for message in messages:
                    outbox.push(message)
                continue
            try:
                sent = direct(data)
            except OSError:
                sent = 0
            if sent < size:
                behind.append((outbox, data[sent:]))
        # Last, since a connection may turn out to be lost here, and whoever is told may send.
        for outbox, rest in behind:
            try:
                outbox.put_back(rest)
            except Exception:
                logger.exception("a flush failed")


class _Silenced(Flusher):
    """A class of its own, so that the check costs nothing in a process that serves."""

    __slots__ = ()

    def wake(self) -> None:
        """Do nothing."""

    def later(self, function: Callable[[], None]) -> None:
        """Do nothing."""
