"""Storage of a request's body: in memory, then in a temporary file that a full disk can refuse."""

from __future__ import annotations

import errno
import os
from typing import Any

from webpy_socketio.engine.http.parser import BadRequest

__all__ = ["Spool", "StorageFailure"]

#: Errors that mean that there is no room, rather than that the folder or the system is broken.
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class StorageFailure(BadRequest):
    """The body of a request cannot be stored, through no fault of the client."""

    def __init__(self, error: OSError) -> None:
        full = error.errno in _NO_ROOM
        # `tempfile` uses an OSError of its own text if it finds no folder that can be written.
        cause = os.strerror(error.errno) if error.errno is not None else str(error)
        if error.errno == errno.ENOENT:
            cause = error.strerror or cause
        super().__init__(
            "the body cannot be stored",
            "507 Insufficient Storage" if full else "503 Service Unavailable",
        )
        #: For the log: the client does not learn what the server's disk is like.
        self.report = (
            f"the body cannot be stored in a temporary file ({cause}): free space in its folder, "
            "or set TMPDIR to a folder that can be written"
        )


class Spool:
    """Writes a body to a file, and discards the rest of the body once that fails.

    The body is read to its end all the same: a client that is still sending does not read the
    answer, and a connection that is closed meanwhile is reset, which discards the answer.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._failure: OSError | None = None

    def write(self, data: bytes) -> None:
        """Write `data`, unless an earlier part failed."""
        if self._failure is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._failure = error

    def finish(self) -> None:
        """Make the file ready to be read from its beginning.

        Raises:
            StorageFailure: A part of the body was not stored.

        """
        if self._failure is None:
            try:
                self._file.seek(0)  # which writes what is still buffered
                return
            except OSError as error:
                self._failure = error
        raise StorageFailure(self._failure) from self._failure
