"""Non-blocking byte streams of detached connections.

`TCPStream` needs no greenlet: callbacks on the hub read and write when the socket is ready. For TLS
sockets see `webpy_socketio.engine.io.tls`. The stream is the only writer of its socket, so frames
are never interleaved.
"""

from __future__ import annotations

import logging
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any, Protocol

from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.native import close_sender, open_sender
from webpy_socketio.engine.io.progress import Progress
from webpy_socketio.engine.io.throttled_log import ThrottledLog

__all__ = ["CHUNK", "Stream", "StreamUser", "TCPStream", "reason_for"]

logger = logging.getLogger(__name__)

# Module-level, as a stream has no reference to an engine.
_notices = ThrottledLog(current_clock())

_READ, _WRITE = 1, 2

#: Bytes of one read. A chunk is parsed without yielding (up to a thousand of the smallest events),
#: and `pause` takes effect after it.
CHUNK = 16_384


class StreamUser(Protocol):
    """Callbacks of a stream, called on the hub or its greenlets; they must not block."""

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""

    def resume_writing(self) -> None:
        """Continue writing: all written data has been sent."""

    def connection_lost(self, reason: str) -> None:
        """Handle the loss of the connection; not called after `close` or `abort`."""


class Stream(Protocol):
    """A connected byte stream."""

    @property
    def unsent(self) -> int:
        """Written bytes that are not sent yet."""

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
        """Function that sends bytes while nothing is unsent; None if unsupported."""

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        """Start reading. `first` are bytes that were read before, which are delivered first."""

    def write(self, data: bytes) -> int:
        """Send or queue `data`; return `unsent`. Unless 0, `resume_writing` is called later."""

    def pause(self) -> None:
        """Stop reading, so that TCP flow control stops the sender."""

    def resume(self) -> None:
        """Continue reading."""

    def close(self) -> None:
        """Close the connection when all written data is sent, without further callbacks."""

    def end(self) -> None:
        """Close like `close`, after a message after which the peer sends nothing more."""

    def abort(self) -> None:
        """Close the connection immediately, without further callbacks."""


class TCPStream:
    """A connected TCP or Unix socket, read and written by callbacks on the hub.

    Args:
        sock: A non-blocking socket of the C type ``_socket.socket``, not a gevent socket.
        loop: The event loop.
        write_timeout: Seconds without progress after which the connection is lost (see `Progress`).
    """

    __slots__ = (
        "_closing",
        "_loop",
        "_paused",
        "_progress",
        "_reader",
        "_send",
        "_sock",
        "_stall",
        "_unsent",
        "_user",
        "_write_timeout",
        "_writer",
    )

    def __init__(self, sock: Any, loop: Any, write_timeout: float) -> None:
        self._sock = sock
        #: Sends to the socket while it is open.
        self._send = open_sender(sock)
        self._loop = loop
        self._write_timeout = write_timeout
        self._reader = loop.io(sock.fileno(), _READ)
        self._writer: Any = None
        self._stall: Any = None
        #: Progress of the unsent data.
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
        return None if self._sock is None else self._send

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        if self._closing:
            return
        if self._sock is None:  # lost before `start`
            user.connection_lost("transport close")
            return
        self._user = user
        if not self._paused:
            self._reader.start(self._readable)
        if first:
            user.data_received(first)

    def write(self, data: bytes) -> int:
        if self._unsent:
            self._unsent += data
            return len(self._unsent)
        if self._sock is None:
            return 0
        try:
            sent = self._send(data)
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

    def end(self) -> None:
        if self._sock is None or self._closing or self._unsent or self._has_data():
            self.close()
        else:
            self.abort()  # the peer loses nothing, see `_shut_down`

    def _has_data(self) -> bool:
        try:
            return bool(self._sock.recv(1, stdlib_socket.MSG_PEEK))
        except OSError:
            return False

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
        close_sender(self._send)  # before the descriptor can become that of another connection
        sock.close()

    def _shut_down(self) -> None:
        """Shut down the sending side and wait up to a second for the peer to close.

        Closing a socket with unread bytes resets the connection, and the peer may lose the close
        frame with its reason (RFC 6455 §7.1.1).
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
            pass  # reset by the peer
        self.abort()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:
            self._lose(None)
        elif self._user is not None:
            self._user.data_received(data)

    def _writable(self) -> None:
        try:
            sent = self._send(self._unsent)
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
        if self._progress is None:  # the peer has not closed its side in time
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
    """Return the Socket.IO disconnect reason of a lost connection, and log its error."""
    if error is None or isinstance(error, ConnectionResetError):
        return "transport close"
    _notices.throttled(
        f"lost: {error.strerror}", f"connection lost: {error}", logging.DEBUG, logger
    )
    return "transport error"
