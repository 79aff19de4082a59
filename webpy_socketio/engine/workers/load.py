"""How much each of several workers has to do, in memory that they share: who has more than its part
leaves what comes next to the others.

The kernel gives a connection to whichever worker asks first, and that is the one that is running: with
fewer processors than workers, one after the other takes all that has come meanwhile. So each tells
what it holds, and before it accepts looks at what the others told.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["READ_TIMEOUT", "LoadTable"]

#: A worker's place: its name, what it has, when it said so, and the listening socket's number.
_PLACE = struct.Struct("!IIdQ")

#: Places. Names are never used again, and few workers live at once: they have one each.
_PLACES = 128

#: Seconds after which one that said nothing is dead, or stands still: it is not waited for.
READ_TIMEOUT = 2.5

#: Who has so much more than the average has more than its part. So little is left alone as nobody
#: would feel it, and where connections come and go, those who wait would be others each moment.
_MORE, _MARGIN = 1.125, 2.0


class LoadTable:
    """One worker's view of the table, a file in `folder`, which has to be theirs alone.

    `name` is the worker's, as `PeerWorkers` has it; only those who share the listening socket with the
    descriptor `listener` are compared with.
    """

    def __init__(
        self,
        folder: Path,
        name: int,
        listener: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._listener = os.fstat(listener).st_ino
        self._clock = clock
        self._place = name % _PLACES * _PLACE.size
        self._others: list[int] = []
        self._path = folder / "shares"
        self._open()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            size = _PLACE.size * _PLACES
            os.ftruncate(descriptor, size)  # which leaves what is there
            self._table = mmap.mmap(descriptor, size)
            self._file = os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def ensure(self) -> None:
        """Open the file anew if it was removed, by a cleaner of temporary files."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(self._path), self._file):
                    return
            before = self._table
            self._open()
            # What the others said last, until they open the new file as well.
            for place in range(0, _PLACE.size * _PLACES, _PLACE.size):
                part = slice(place, place + _PLACE.size)
                if not any(self._table[part]):
                    self._table[part] = before[part]
            before.close()

    def publish(self, load: int) -> None:
        """Say what we have, and find out who else is there: a few times in `READ_TIMEOUT`."""
        self.update(load)
        now = self._clock()
        self._others = [
            place
            for place in range(0, _PLACE.size * _PLACES, _PLACE.size)
            if place != self._place and self._load(place, now) is not None
        ]

    def update(self, load: int) -> None:
        """Say what we have."""
        _PLACE.pack_into(self._table, self._place, self._name, load, self._clock(), self._listener)

    def is_alive(self, name: int) -> bool:
        """Return whether the worker of that name has said anything lately."""
        if self._table.closed:
            return False
        found, _, told, _ = _PLACE.unpack_from(self._table, name % _PLACES * _PLACE.size)
        return bool(found == name and self._clock() - told < READ_TIMEOUT)

    def is_overloaded(self, load: int) -> bool:
        """Whether that would be more than our part of what all of us have."""
        now = self._clock()
        loads = [load]
        loads += [found for place in self._others if (found := self._load(place, now)) is not None]
        return load > sum(loads) / len(loads) * _MORE + _MARGIN

    def leave(self) -> None:
        """We accept nothing any more: others need not wait for us."""
        if not self._table.closed:
            self._table[self._place : self._place + _PLACE.size] = bytes(_PLACE.size)
            self._table.close()

    def _load(self, place: int, now: float) -> int | None:
        name, load, told, listener = _PLACE.unpack_from(self._table, place)
        there = name and listener == self._listener and now - told < READ_TIMEOUT
        return int(load) if there else None
