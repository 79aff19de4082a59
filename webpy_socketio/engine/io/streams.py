"""Bytes in, bytes out, and nobody waits: how a connection's socket is held.

`TCPStream` costs no greenlet: callbacks on the hub read when there is something to read and write
when there is room. `webpy_socketio.engine.io.tls` has the other way, for TLS sockets. Both have one
writer, themselves: no frame is ever cut by another one.
"""

from __future__ import annotations

import logging
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any, Protocol

from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.progress import Progress
from webpy_socketio.engine.io.throttled_log import ThrottledLog

__all__ = ["CHUNK", "Stream", "StreamUser", "TCPStream", "reason_for"]

logger = logging.getLogger(__name__)

#: Lost connections belong to no engine here.
_notices = ThrottledLog(current_clock())

_READ, _WRITE = 1, 2

#: Bytes taken from the kernel at once. Reading stops between two of these, not within one; and what
#: is in one is parsed at a stretch, a thousand of the smallest events.
CHUNK = 16_384


class StreamUser(Protocol):
    """Who is told what happens; nothing of this may wait."""

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""

    def resume_writing(self) -> None:
        """Everything written has left; there is room again."""

    def connection_lost(self, reason: str) -> None:
        """The connection is gone (once, and not after `Stream.close`)."""


class Stream(Protocol):
    """A connection's bytes."""

    @property
    def unsent(self) -> int:
        """Bytes that were written but have not left yet."""

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
        """Hands bytes to the kernel, as long as nothing is unsent; None if it cannot be done so."""

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        """Begin to read; `first` are bytes that were read already."""

    def write(self, data: bytes) -> int:
        """Send, now or when there is room; returns `unsent`, and `drained` follows if that is not 0."""

    def pause(self) -> None:
        """Stop reading: the kernel's buffers fill, and TCP holds the sender back."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """End the connection when everything written has left; nobody is told."""

    def abort(self) -> None:
        """End the connection at once; nobody is told."""


class TCPStream:
    """A connected TCP or Unix socket, read and written from the hub.

    `sock` is a non-blocking socket of the standard library's C type, not gevent's: nothing here
    waits. Without progress for `write_timeout` seconds, writing is given up.
    """

    __slots__ = (
        "_closing",
        "_loop",
        "_paused",
        "_progress",
        "_reader",
        "_sock",
        "_stall",
        "_unsent",
        "_user",
        "_write_timeout",
        "_writer",
    )

    def __init__(self, sock: Any, loop: Any, write_timeout: float) -> None:
        self._sock = sock
        self._loop = loop
        self._write_timeout = write_timeout
        self._reader = loop.io(sock.fileno(), _READ)
        self._writer: Any = None
        self._stall: Any = None
        #: Progress of what is unsent.
        self._progress: Progress | None = None
        self._unsent = b""
        self._user: StreamUser | None = None
        self._paused = False
        self._closing = False

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
        send: Callable[[bytes], int] | None = None if self._sock is None else self._sock.send
        return send

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        if self._closing:
            return
        if self._sock is None:  # lost before there was anybody to be told
            user.connection_lost("transport close")
            return
        self._user = user
        if not self._paused:
            self._reader.start(self._readable)
        if first:
            self._deliver(first)

    def write(self, data: bytes) -> int:
        if self._unsent:
            self._unsent += data
            return len(self._unsent)
        if self._sock is None:
            return 0
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._lose(error)
            return 0
        if sent < len(data):
            self._unsent = data[sent:]
            self._writer = self._loop.io(self._sock.fileno(), _WRITE)
            self._writer.start(self._writable)
            self._progress = Progress(self._sock, self._write_timeout)
            self._set_deadline(self._write_timeout)
        return len(self._unsent)

    def pause(self) -> None:
        self._paused = True
        if self._sock is not None:
            self._reader.stop()

    def resume(self) -> None:
        self._paused = False
        if self._sock is not None and self._user is not None and not self._closing:
            self._reader.start(self._readable)

    def close(self) -> None:
        if self._sock is None or self._closing:
            return
        self._closing = True
        self._user = None
        if self._unsent:
            self._reader.stop()
        else:
            self._shut_down()

    def abort(self) -> None:
        self._user = None
        if self._sock is None:
            return
        for watcher in (self._reader, self._writer, self._stall):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._writer = self._stall = self._progress = None
        self._unsent = b""
        sock, self._sock = self._sock, None
        sock.close()

    def _shut_down(self) -> None:
        """Say that no more will come, and wait a little for the other side to say the same.

        To close while unread bytes are there resets the connection, and takes what we sent last,
        the reason why, out of the receiver's hands (RFC 6455, 7.1.1).
        """
        try:
            self._sock.shutdown(stdlib_socket.SHUT_WR)
        except OSError:
            self.abort()
            return
        self._reader.stop()
        self._reader.start(self._discard)
        self._set_deadline(min(1.0, self._write_timeout))

    def _discard(self) -> None:
        try:
            if self._sock.recv(CHUNK):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass  # reset by the other side, which is an end as well
        self.abort()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._deliver(data)
        else:
            self._lose(None)

    def _deliver(self, data: bytes) -> None:
        user = self._user
        if user is not None:
            user.data_received(data)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            if self._progress is not None:
                self._progress.accept(sent)
            return
        self._writer.stop()
        self._writer.close()
        self._writer = self._progress = None
        self._stall.stop()
        if self._closing:
            self._shut_down()
        elif self._user is not None:
            self._user.resume_writing()

    def _set_deadline(self, seconds: float) -> None:
        if self._stall is not None:
            self._stall.stop()
            self._stall.close()
        self._stall = self._loop.timer(seconds)
        self._stall.start(self._check_progress)

    def _check_progress(self) -> None:
        if self._progress is None:  # closing: the client has not closed its side in time
            self._lose(TimeoutError("the client did not close its side"))
            return
        try:
            self._progress.check()
        except TimeoutError as error:
            self._lose(error)
        else:
            self._set_deadline(max(0.001, self._progress.remaining))

    def _lose(self, error: OSError | None) -> None:
        user = self._user
        self.abort()
        if user is not None:
            user.connection_lost(reason_for(error))


def reason_for(error: OSError | None) -> str:
    """The Socket.IO words for how a connection was lost."""
    if error is None or isinstance(error, ConnectionResetError):
        return "transport close"
    _notices.throttled(
        f"lost: {error.strerror}", f"connection lost: {error}", logging.DEBUG, logger
    )
    return "transport error"
