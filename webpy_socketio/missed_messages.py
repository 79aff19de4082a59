"""Missed messages: what a client that returns has not received yet.

`MissedMessages` finds them; `Recovery.complete` sends them.
"""

from __future__ import annotations

from collections.abc import Sequence

from webpy_socketio.carried_messages import Carried, CarriedMessage
from webpy_socketio.message_log import MessageLog
from webpy_socketio.recoverable import UNKNOWN_OFFSET, Recoverable

__all__ = ["MissedMessages"]


class MissedMessages:
    """Finds the messages that clients have missed.

    These are the carried messages of a socket that has moved here, and then those of this log.

    Args:
        log: The log of this process.
        epoch: Identifies the numbers of this log in offsets.
    """

    def __init__(self, log: MessageLog, epoch: str) -> None:
        self._log = log
        self._epoch = epoch

    def locate(
        self, socket: Recoverable, offset: object
    ) -> tuple[Sequence[CarriedMessage], int] | None:
        """Return the carried messages that a client has missed, and its position in this log.

        Returns:
            None if some messages are not retained.
        """
        self._log.trim()
        position = self._log.position(offset, socket.position)
        if position is None or position < socket.memberships.floor:
            return None
        carried: Sequence[CarriedMessage] = ()
        # A message of this log confirms all earlier ones.
        if socket.carried is not None and position <= socket.position:
            found = socket.carried.after(offset)
            if found is None:
                return None
            carried = found
        return carried, position

    def find(
        self, socket: Recoverable, offset: object
    ) -> tuple[Sequence[CarriedMessage], list[CarriedMessage]] | None:
        """Return the messages that a client has missed: carried ones, and those of this log.

        Returns:
            None if some messages are not retained.
        """
        found = self.locate(socket, offset)
        if found is None:
            return None
        carried, position = found
        return carried, self._after(socket, position)

    def carry(self, socket: Recoverable, offset: object) -> Carried | None:
        """Return what a client has missed, for another server; None if some are not retained.

        For `UNKNOWN_OFFSET` everything that it may have missed. If the log does not retain all of
        it, the client must return a later offset.
        """
        if offset is not UNKNOWN_OFFSET:
            missed = self.find(socket, offset)
            return None if missed is None else Carried([*missed[0], *missed[1]])
        carried, start = socket.carried or Carried(), None
        self._log.trim()
        oldest = max(self._log.discarded, socket.memberships.floor)
        if socket.position < oldest:
            carried, start = Carried(), (self._epoch, oldest)
        own = self._after(socket, max(socket.position, oldest))
        return Carried([*carried.messages, *own], start or carried.start)

    def _after(self, socket: Recoverable, position: int) -> list[CarriedMessage]:
        """Return the messages of this log after a position that are addressed to a socket."""
        excluded = socket.excluded
        return [
            CarriedMessage(self._epoch, number, message)
            for number, message in self._log.missed(position, socket)
            if number not in excluded
        ]
