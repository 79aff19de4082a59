"""A shared-memory table of the load of each worker, to balance accepted connections.

The kernel passes a connection to the first worker that calls ``accept``. With fewer processors than
workers, this is the running worker, which accepts all waiting connections. So each worker publishes
its load, and compares it with the others before it accepts a connection.
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

#: Entry of a worker: its name, its load, the time of its last update, and the listener's inode.
_ENTRY = struct.Struct("!IIdQ")

#: Number of entries. Names are never reused and few workers run at once, so entries do not collide.
_ENTRIES = 128

#: Seconds without an update after which a worker is considered ended or blocked.
READ_TIMEOUT = 2.5

#: A worker is overloaded if its load exceeds the average by this factor plus this margin. Smaller
#: differences are ignored: with connections that come and go, they change too fast to act on.
_OVERLOAD_FACTOR, _OVERLOAD_MARGIN = 1.125, 2.0


class LoadTable:
    """One worker's view of the load table, a file in a private folder.

    Args:
        folder: The folder that the workers share; no other user may have access to it.
        name: Number of this worker, as in `PeerWorkers`.
        listener: Descriptor of the listening socket; only workers with the same one are compared.
        clock: Monotonic time in seconds, the same for all workers.
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
        self._offset = name % _ENTRIES * _ENTRY.size
        self._others: list[int] = []
        self._path = folder / "load"
        self._open()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            size = _ENTRY.size * _ENTRIES
            os.ftruncate(descriptor, size)  # keeps existing entries
            self._table = mmap.mmap(descriptor, size)
            self._file = os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def ensure(self) -> None:
        """Reopen the file if it was removed by a cleaner of temporary files."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(self._path), self._file):
                    return
            previous = self._table
            self._open()
            # Copy the entries of the others, until they open the new file too.
            for offset in range(0, _ENTRY.size * _ENTRIES, _ENTRY.size):
                part = slice(offset, offset + _ENTRY.size)
                if not any(self._table[part]):
                    self._table[part] = previous[part]
            previous.close()

    def publish(self, load: int) -> None:
        """Update the load and find other workers; call this several times per `READ_TIMEOUT`."""
        self.update(load)
        now = self._clock()
        self._others = [
            offset
            for offset in range(0, _ENTRY.size * _ENTRIES, _ENTRY.size)
            if offset != self._offset and self._load(offset, now) is not None
        ]

    def update(self, load: int) -> None:
        """Update the load of this worker."""
        _ENTRY.pack_into(self._table, self._offset, self._name, load, self._clock(), self._listener)

    def is_alive(self, name: int) -> bool:
        """Return whether the worker of that name has updated its entry within `READ_TIMEOUT`."""
        if self._table.closed:
            return False
        found, _, updated, _ = _ENTRY.unpack_from(self._table, name % _ENTRIES * _ENTRY.size)
        return bool(found == name and self._clock() - updated < READ_TIMEOUT)

    def is_overloaded(self, load: int) -> bool:
        """Return whether `load` would be more than the fair share of this worker."""
        now = self._clock()
        loads = [load]
        loads += [
            found for offset in self._others if (found := self._load(offset, now)) is not None
        ]
        return load > sum(loads) / len(loads) * _OVERLOAD_FACTOR + _OVERLOAD_MARGIN

    def leave(self) -> None:
        """Remove the entry of this worker, which accepts no more connections."""
        if not self._table.closed:
            self._table[self._offset : self._offset + _ENTRY.size] = bytes(_ENTRY.size)
            self._table.close()

    def _load(self, offset: int, now: float) -> int | None:
        name, load, updated, listener = _ENTRY.unpack_from(self._table, offset)
        is_current = name and listener == self._listener and now - updated < READ_TIMEOUT
        return int(load) if is_current else None
