"""The stream of a TLS connection, with the interface of `TCPStream`.

Reads and writes of TLS depend on each other and may block, so greenlets perform them.
"""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import Any

import gevent
import gevent.event

from webpy_socketio.engine.io.progress import Progress
from webpy_socketio.engine.io.streams import CHUNK, StreamUser, reason_for

__all__ = ["TLSStream"]


class TLSStream:
    """A gevent TLS socket, read by one greenlet and written by another.

    The request handler that accepted the connection calls `run` in its greenlet and closes the
    socket afterwards.

    Args:
        sock: The TLS socket.
        write_timeout: Seconds without progress after which the connection is lost (see `Progress`).
    """

    def __init__(self, sock: Any, write_timeout: float) -> None:
        self._sock = sock
        self._sock.settimeout(None)
        self._write_timeout = write_timeout
        self._unsent = b""
        self._user: StreamUser | None = None
        self._may_read = gevent.event.Event()
        self._may_read.set()
        self._may_write = gevent.event.Event()
        self._closing = False
        self._closed = False
        self._ended = gevent.event.Event()
        gevent.spawn(self._write_all)

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    @property
    def try_send(self) -> None:
        return None  # writing to a TLS socket may block

    def start(self, user: StreamUser, first: bytes = b"") -> None:
        if self._closing:
            return
        self._user = user
        if first:
            user.data_received(first)

    def run(self) -> None:
        """Read until the connection is closed or lost."""
        reader = gevent.spawn(self._read_all)
        self._ended.wait()
        reader.kill()
        if self._closing and not self._unsent:
            self._linger()

    def _linger(self) -> None:
        """Shut down the sending side and wait for the peer (see `TCPStream._shut_down`)."""
        with contextlib.suppress(OSError), gevent.Timeout(min(1.0, self._write_timeout), False):
            self._sock.shutdown(stdlib_socket.SHUT_WR)
            while self._sock.recv(CHUNK):
                pass

    def write(self, data: bytes) -> int:
        if not self._closed and not self._closing:
            self._unsent += data
            self._may_write.set()
        return len(self._unsent)

    def pause(self) -> None:
        self._may_read.clear()

    def resume(self) -> None:
        self._may_read.set()

    def close(self) -> None:
        self._closing = True
        self._user = None
        self._may_write.set()

    end = close

    def abort(self) -> None:
        self._user = None
        self._closed = True
        self._may_write.set()
        self._ended.set()

    def _read_all(self) -> None:
        error: OSError | None = None
        try:
            while not self._closed:
                data = self._sock.recv(CHUNK)
                if not data:
                    break
                self._may_read.wait()
                if self._user is not None:
                    self._user.data_received(data)
                gevent.sleep(0)  # gevent does not yield while data is available
        except OSError as exception:
            error = exception
        self._lose(error)

    def _write_all(self) -> None:
        try:
            while not self._closed:
                self._may_write.wait()
                self._may_write.clear()
                progress = None
                while self._unsent and not self._closed:
                    sent = 0
                    if progress is None:
                        progress = Progress(self._sock, self._write_timeout)
                    with gevent.Timeout(max(0.001, progress.remaining), False):
                        sent = self._sock.send(self._unsent[:CHUNK])
                    self._unsent = self._unsent[sent:]
                    progress.accept(sent)
                    progress.check()
                if self._closing:
                    self.abort()
                elif self._user is not None and not self._closed:
                    self._user.resume_writing()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError | None) -> None:
        user = self._user
        self.abort()
        if user is not None:
            user.connection_lost(reason_for(error))
