"""Write request bodies to temporary files, and report storage failures."""

from __future__ import annotations

import errno
import os
from typing import Any

from webpy_socketio.engine.http.parser import BadRequest

__all__ = ["Spool", "StorageFailure"]

#: Errors for lack of disk space, answered with 507; other errors are answered with 503.
_DISK_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class StorageFailure(BadRequest):
    """A request body cannot be stored, an error of the server."""

    def __init__(self, error: OSError) -> None:
        full = error.errno in _DISK_FULL
        # `tempfile` raises an OSError with its own text if no folder is writable.
        cause = os.strerror(error.errno) if error.errno is not None else str(error)
        if error.errno == errno.ENOENT:
            cause = error.strerror or cause
        super().__init__(
            "the body cannot be stored",
            "507 Insufficient Storage" if full else "503 Service Unavailable",
        )
        #: Cause and remedy for the log; the client gets no details about the server.
        self.report = (
            f"the body cannot be stored in a temporary file ({cause}): free space in its folder, "
            "or set TMPDIR to a writable folder"
        )


class Spool:
    """Writes a body to a file; if that fails, the rest of the body is discarded.

    The body must be read to its end even then. Closing the connection while the client sends would
    reset it, and the client would lose the response.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._failure: OSError | None = None

    def write(self, data: bytes) -> None:
        """Write `data`, unless an earlier write failed."""
        if self._failure is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._failure = error

    def finish(self) -> None:
        """Flush the file and rewind it for reading.

        Raises:
            StorageFailure: A part of the body was not stored.
        """
        if self._failure is None:
            try:
                self._file.seek(0)  # flushes the buffer
                return
            except OSError as error:
                self._failure = error
        raise StorageFailure(self._failure) from self._failure
