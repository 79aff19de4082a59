"""Progress of a write, measured by the bytes that the TCP of the client has acknowledged."""

from __future__ import annotations

import contextlib
import fcntl
import socket as stdlib_socket
import struct
import termios
import time
from typing import Any

import gevent

__all__ = ["MIN_RATE", "Progress", "send_all"]

#: Bytes per second that a client must acknowledge, averaged over one write timeout. Without a
#: minimum, a client that reads one byte per timeout would occupy a connection for months.
MIN_RATE = 100.0

#: Option, size and offset of `tcpi_bytes_acked` in Linux's struct tcp_info (since Linux 4.1).
_TCP_INFO = getattr(stdlib_socket, "TCP_INFO", None)
_ACKED_OFFSET = 120
_ACKED_END = _ACKED_OFFSET + 8


class Progress:
    """Decides whether a client that reads slowly still makes progress.

    A socket becomes writable only when a third of its send buffer is free. The buffer can hold
    several megabytes, so a slow but steady reader may not free that much within one timeout.
    Therefore acknowledged bytes are counted. Where the system does not report them, accepted bytes
    are counted instead. On Unix sockets Linux reports them in steps of up to 64 KiB.
    """

    __slots__ = ("_accepted", "_acknowledged", "_queued", "_seconds", "_since", "_sock")

    def __init__(self, sock: Any, seconds: float) -> None:
        self._sock = sock
        self._seconds = seconds
        self._begin(time.monotonic())

    @property
    def remaining(self) -> float:
        """Seconds until the next check is due, never negative."""
        return max(0.0, self._since + self._seconds - time.monotonic())

    def accept(self, size: int) -> None:
        """Count `size` bytes that the kernel accepted."""
        self._accepted += size

    def check(self) -> None:
        """Raise `TimeoutError` if a check is due and too little was acknowledged since the last."""
        now = time.monotonic()
        elapsed = now - self._since
        if elapsed < self._seconds:
            return
        acknowledged = max(
            _acknowledged(self._sock) - self._acknowledged,
            self._accepted + self._queued - _queued(self._sock),
        )
        if acknowledged < MIN_RATE * elapsed:
            raise TimeoutError(
                f"the client acknowledged {max(acknowledged, 0)} bytes in {elapsed:.1f} s"
            )
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._since = now
        self._accepted = 0
        self._acknowledged = _acknowledged(self._sock)
        self._queued = _queued(self._sock)


def send_all(sock: Any, data: Any, seconds: float) -> None:
    """Send all of `data`, however long it takes while the client makes progress.

    Args:
        sock: A gevent socket without a timeout.
        data: Bytes, or an object that supports the buffer protocol.
        seconds: Write timeout; see `Progress`.

    Raises:
        TimeoutError: The client made no progress.
        OSError: The connection is lost.
    """
    progress = Progress(sock, seconds)
    view = memoryview(data)
    while view:
        sent = 0
        # gevent raises its timeout only while it waits, so no sent byte goes uncounted.
        with gevent.Timeout(max(progress.remaining, 0.001), False):
            sent = sock.send(view)
        view = view[sent:]
        progress.accept(sent)
        progress.check()


def _acknowledged(sock: Any) -> int:
    """Return the bytes that the peer has acknowledged; 0 if the system does not report them."""
    if _TCP_INFO is not None:
        with contextlib.suppress(OSError):
            info = sock.getsockopt(stdlib_socket.IPPROTO_TCP, _TCP_INFO, _ACKED_END)
            if len(info) == _ACKED_END:
                return int(struct.unpack_from("=Q", info, _ACKED_OFFSET)[0])
    return 0


def _queued(sock: Any) -> int:
    """Return the bytes in the send queue of the kernel; 0 if the system does not report them."""
    with contextlib.suppress(OSError):
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
    return 0
