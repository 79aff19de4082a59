"""Memberships: which channels a socket held at the time of each retained message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

__all__ = ["Memberships"]

#: Maximum number of ended memberships of a socket. Beyond it the oldest is discarded, and with it
#: the possibility to resume from before its end.
MAX_ENDED = 4096


class Memberships:
    """The channels of one socket as intervals of message numbers."""

    __slots__ = ("_ended", "_since", "floor")

    def __init__(self) -> None:
        #: Number below which memberships are unknown.
        self.floor = 0
        #: Channels that are held, with the number of the last message before joining.
        self._since: dict[str, int] = {}
        #: Ended memberships in the order of their ends: channel, number of the last message before
        #: joining, and of the last one before leaving.
        #: None before the first, because an empty deque takes 600 bytes.
        self._ended: deque[tuple[str, int, int]] | None = None

    def __len__(self) -> int:
        return len(self._ended or ())

    def join(self, channel: str, last: int) -> None:
        """Record that the socket joins a channel after the message with number `last`."""
        self._since.setdefault(channel, last)

    def leave(self, channel: str, last: int, discarded: int) -> None:
        """Record that the socket leaves a channel after the message with number `last`.

        Memberships that ended before the message with number `discarded` are forgotten.
        """
        since = self._since.pop(channel, None)
        ended = self._ended
        if since is not None and since < last:
            if ended is None:
                ended = self._ended = deque()
            ended.append((channel, since, last))
        while ended and (ended[0][2] <= discarded or len(ended) > MAX_ENDED):
            self.floor = max(self.floor, ended.popleft()[2])

    def channels(self) -> set[str]:
        """Return the channels that the socket holds or has held."""
        return {*self._since, *(channel for channel, _, _ in self._ended or ())}

    def index(self) -> Callable[[Collection[str], int], bool]:
        """Return a function: whether a channel of several was held at a message's number."""
        intervals: dict[str, list[tuple[int, int | None]]] = {}
        for channel, since, until in self._ended or ():
            intervals.setdefault(channel, []).append((since, until))
        for channel, since in self._since.items():
            intervals.setdefault(channel, []).append((since, None))

        def held(channels: Collection[str], number: int) -> bool:
            for channel in channels:
                for since, until in intervals.get(channel, ()):
                    if since < number and (until is None or number <= until):
                        return True
            return False

        return held
