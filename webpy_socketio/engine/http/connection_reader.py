"""The buffered input of a connection."""

from __future__ import annotations

from typing import Any

__all__ = ["ConnectionReader"]

#: Bytes of one read.
_CHUNK = 16_384


class ConnectionReader:
    """Reads a socket like the file of ``socket.makefile``, whose buffer would take 8 KB.

    Args:
        sock: The socket; its timeout applies to each read.
        data: Bytes that were received before, and are read first.
    """

    __slots__ = ("_buffer", "_position", "_sock")

    #: Part of the interface of files; the end of a connection is an empty read.
    closed = False

    def __init__(self, sock: Any, data: bytes = b"") -> None:
        self._sock = sock
        self._buffer = data
        #: Bytes of the buffer that were read.
        self._position = 0

    @property
    def buffered(self) -> bytes:
        """The bytes that were received and not read."""
        return self._buffer[self._position :] if self._position else self._buffer

    def fill(self) -> bool:
        """Receive data if the buffer is empty; return False at the end of the connection."""
        if not self._buffer:
            self._buffer = self._sock.recv(_CHUNK)
        return self._buffer != b""

    def peek(self, size: int = 0, /) -> bytes:
        """Return the buffered bytes; wait for data if there are none. b"" at the end only."""
        self.fill()
        return self.buffered

    def add(self, data: bytes) -> None:
        """Append bytes that were received without this object."""
        self._buffer, self._position = self.buffered + data, 0

    def skip(self, size: int) -> None:
        """Read buffered bytes without returning them."""
        self._position += size
        if self._position >= len(self._buffer):
            self._buffer, self._position = b"", 0

    def read(self, size: int = -1, /) -> bytes:
        """Return `size` bytes, or less at the end of the connection."""
        blocks = []
        while size:
            block = self.read1(size)
            if not block:
                break
            blocks.append(block)
            size -= len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes with at most one read; b"" at the end only."""
        self.fill()
        end = len(self._buffer) if size < 0 else self._position + size
        block = self._buffer[self._position : end]
        self.skip(len(block))
        return block

    def readline(self, size: int = -1, /) -> bytes:
        """Return a line with its end, or less at the end or after `size` bytes."""
        blocks = []
        while size and self.fill():
            end = self._buffer.find(b"\n", self._position) + 1
            room = len(self._buffer) - self._position if not end else end - self._position
            block = self.read1(room if size < 0 else min(room, size))
            blocks.append(block)
            size -= len(block)
            if block.endswith(b"\n"):
                break
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def close(self) -> None:
        """Do nothing: the socket has another owner."""
