"""Send a final response without a connection reset."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import Any

import gevent

__all__ = ["respond_and_drain"]

#: Bytes that are read and discarded before the connection is closed.
_MAX_DRAINED = 1_048_576


def respond_and_drain(sock: Any, response: bytes) -> None:
    """Send a final response, shut down the sending side and discard what the client still sends.

    Closing a socket with unread bytes resets the connection, and the client would lose the
    response. Takes one second at most. The caller closes the socket.
    """
    with contextlib.suppress(OSError), gevent.Timeout(1.0, False):
        sock.sendall(response)
        sock.shutdown(stdlib_socket.SHUT_WR)
        drained = 0
        while drained < _MAX_DRAINED:
            data = sock.recv(65_536)
            if not data:
                break
            drained += len(data)
