"""A file of a connection, preceded by bytes that another process has read."""

from __future__ import annotations

import io
from typing import Any

__all__ = ["prefixed_reader"]


class _PrefixedReader(io.RawIOBase):
    """Reads the given bytes first, then the connection."""

    def __init__(self, data: bytes, rest: Any) -> None:
        super().__init__()
        self._data = memoryview(data)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int | None:
        if not self._data:
            size: int | None = self._rest.readinto(room)
            return size
        size = min(len(room), len(self._data))
        room[:size] = self._data[:size]
        self._data = self._data[size:]
        return size

    def close(self) -> None:
        self._rest.close()
        super().close()


def prefixed_reader(sock: Any, data: bytes) -> io.BufferedReader:
    """Return a buffered file that reads `data`, then `sock`."""
    return io.BufferedReader(_PrefixedReader(data, sock.makefile("rb", 0)))
