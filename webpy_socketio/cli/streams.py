"""Standard streams whose writes never fail: their reader may end before the server does."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

__all__ = ["make_tolerant"]


class _Tolerant(io.FileIO):
    """A file that drops what cannot be written."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:  # EPIPE: the reader has ended; EIO: the terminal is gone; ENOSPC
            written = None
        return len(data) if written is None else written


def make_tolerant() -> None:
    """Replace `sys.stdout` and `sys.stderr`, and open the descriptors 0 to 2 if they are closed.

    A closed descriptor would be reused for the next socket, and log lines sent to a client.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # returns the lowest free number: this one
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
    sys.stdout = _wrap(1, sys.stdout)
    sys.stderr = _wrap(2, sys.stderr)


def _wrap(descriptor: int, stream: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Tolerant(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=getattr(stream, "errors", None) or "backslashreplace",
        line_buffering=True,
        write_through=descriptor == 2,
    )
