"""Send a last answer on a connection and end it."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import Any

import gevent

__all__ = ["close_after"]

#: Bytes that are read from a connection that is being closed, so that its end can be read.
_MAX_DRAINED = 1_048_576


def close_after(sock: Any, answer: bytes) -> None:
    """Send a last answer, and let the client read it: closing over unread bytes resets.

    Takes one second at most. The caller closes the socket.
    """
    with contextlib.suppress(OSError), gevent.Timeout(1.0, False):
        sock.sendall(answer)
        sock.shutdown(stdlib_socket.SHUT_WR)
        drained = 0
        while drained < _MAX_DRAINED:
            data = sock.recv(65_536)
            if not data:
                break
            drained += len(data)
