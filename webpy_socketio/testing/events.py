"""What arrived at a client, and what of it the test has taken."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["EventQueue", "Received", "plain"]


class Received(NamedTuple):
    """An event as it arrived; equal to the plain pair of both."""

    event: str
    #: The argument; a list of several, None without any.
    data: Any


class EventQueue:
    """Events in the order they arrived; an event of None stands for any."""

    def __init__(self) -> None:
        #: All that ever arrived.
        self.history: list[Received] = []
        self._left: list[Received] = []

    def put(self, event: str, args: list[Any]) -> None:
        """An event arrived."""
        received = Received(event, plain(args))
        self.history.append(received)
        self._left.append(received)

    def has(self, event: str | None) -> bool:
        """Whether there is one to take."""
        return any(event in (None, item.event) for item in self._left)

    def take(self, event: str | None) -> Received:
        """Take the first."""
        place = next(i for i, item in enumerate(self._left) if event in (None, item.event))
        return self._left.pop(place)

    def take_all(self, event: str | None) -> list[Received]:
        """Take all."""
        found = [item for item in self._left if event in (None, item.event)]
        self._left = [item for item in self._left if event not in (None, item.event)]
        return found


def plain(args: list[Any]) -> Any:
    """Arguments as handlers get a message: one as it is, several as a list, none as None."""
    return args[0] if len(args) == 1 else args or None
