"""Carried messages: those that a client missed on other servers, before its session moved here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from webpy_socketio.engine.io.packets import Message
from webpy_socketio.offsets import Position, parse_offset

__all__ = ["Carried", "CarriedMessage"]


class CarriedMessage(NamedTuple):
    """A message with the log that has numbered it."""

    epoch: str
    number: int
    #: With its offset.
    message: Message


class Carried:
    """Messages of other logs that a client has not confirmed yet, in the order of sending.

    Args:
        messages: The messages.
        start: Position from which they are complete, if it may be later than that of the client;
            None if they are complete in any case.
    """

    __slots__ = ("messages", "start")

    def __init__(self, messages: Iterable[CarriedMessage] = (), start: Position | None = None):
        self.messages = list(messages)
        self.start = start

    def __bool__(self) -> bool:
        """Whether there are messages, or some may be missing."""
        return bool(self.messages) or self.start is not None

    def after(self, offset: object) -> Sequence[CarriedMessage] | None:
        """Return the messages that follow the one with an offset; all if it is not one of them.

        Returns:
            The messages; None if some before them are not retained.
        """
        position = parse_offset(offset)
        for index in range(len(self.messages) - 1, -1, -1):
            epoch, number, _ = self.messages[index]
            if position is not None and epoch == position[0] and number <= position[1]:
                return self.messages[index + 1 :]
        if self.start is not None and (
            position is None or position[0] != self.start[0] or position[1] < self.start[1]
        ):
            return None
        return self.messages
