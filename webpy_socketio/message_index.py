"""Index of the message log: the messages of each channel, for clients that return."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

__all__ = ["MessageIndex"]


class MessageIndex:
    """The numbers of messages by their recipients.

    Clients that return at once would otherwise each read all messages since their loss.

    Args:
        first: Number of the last message that is not part of the index.
    """

    __slots__ = ("_included", "_numbers", "first", "last")

    def __init__(self, first: int) -> None:
        #: Number of the last message before the index.
        self.first = first
        #: Number of the last message in the index.
        self.last = first
        #: Ascending numbers by namespace and channel; the channel is None for all sockets.
        self._numbers: dict[tuple[str, str | None], list[int]] = {}
        #: The same by namespace and id of a socket that receives the message in any case.
        self._included: dict[tuple[str, str], list[int]] = {}

    def add(self, namespace: str, channels: tuple[str, ...] | None, included: str | None) -> None:
        """Add the next message."""
        self.last = number = self.last + 1
        for channel in (None,) if channels is None else channels:
            self._numbers.setdefault((namespace, channel), []).append(number)
        if included is not None:
            self._included.setdefault((namespace, included), []).append(number)

    def find(
        self, position: int, namespace: str, channels: Iterable[str], session_id: str
    ) -> list[int]:
        """Return the numbers after a position of messages to channels, a socket, or all sockets."""
        lists = [self._numbers.get((namespace, channel)) for channel in (None, *channels)]
        lists.append(self._included.get((namespace, session_id)))
        found = [each[bisect_right(each, position) :] for each in lists if each is not None]
        found = [each for each in found if each]
        return found[0] if len(found) == 1 else sorted({n for each in found for n in each})
