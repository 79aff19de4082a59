"""Queue of the events that arrived at a client."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["EventQueue", "Received", "plain"]


class Received(NamedTuple):
    """A received event; equal to the tuple of its fields."""

    event: str
    #: The argument; a list if there are several, None if there are none.
    data: Any


class EventQueue:
    """Events in the order of arrival; as a name, None matches any event."""

    def __init__(self) -> None:
        #: All events that arrived.
        self.history: list[Received] = []
        self._queue: list[Received] = []

    def put(self, event: str, args: list[Any]) -> None:
        """Append an event."""
        received = Received(event, plain(args))
        self.history.append(received)
        self._queue.append(received)

    def has(self, event: str | None) -> bool:
        """Return whether the queue contains such an event."""
        return any(event in (None, item.event) for item in self._queue)

    def take(self, event: str | None) -> Received:
        """Remove and return the first such event."""
        place = next(i for i, item in enumerate(self._queue) if event in (None, item.event))
        return self._queue.pop(place)

    def take_all(self, event: str | None) -> list[Received]:
        """Remove and return all such events."""
        found = [item for item in self._queue if event in (None, item.event)]
        self._queue = [item for item in self._queue if event not in (None, item.event)]
        return found


def plain(args: list[Any]) -> Any:
    """Return arguments as handlers receive a message: one value, a list of several, or None."""
    return args[0] if len(args) == 1 else args or None
