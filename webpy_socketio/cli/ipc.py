"""Messages between a worker and its supervisor: lines of JSON, and the listening socket."""

from __future__ import annotations

import json
import socket as stdlib_socket
from collections.abc import Sequence
from typing import Any

from gevent import socket

from webpy_socketio.engine.workers.forking import close_in_child

__all__ = ["ControlChannel"]

_CHUNK = 65_536


class ControlChannel:
    """One end of the connection between a worker and its supervisor."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        close_in_child(sock)
        self._buffer = b""
        self._descriptors: list[int] = []

    def send(self, descriptors: Sequence[int] = (), **message: Any) -> None:
        """Send a message; it is dropped if the other end is closed."""
        line = json.dumps(message).encode() + b"\n"
        try:
            sent = stdlib_socket.send_fds(self.sock, [line], descriptors) if descriptors else 0
            self.sock.sendall(line[sent:])
        except OSError:
            return

    def receive(self) -> dict[str, Any] | None:
        """Wait for a message; return None once the other end is closed.

        The key ``descriptor`` holds a received descriptor.
        """
        while b"\n" not in self._buffer:
            try:
                data, descriptors, _, _ = stdlib_socket.recv_fds(self.sock, _CHUNK, 1)
            except OSError:
                data, descriptors = b"", []
            self._descriptors += descriptors
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if self._descriptors:
            message["descriptor"] = self._descriptors.pop(0)
        return message

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


def pair() -> tuple[Any, Any]:
    """Return two connected sockets, one for each end."""
    one, other = socket.socketpair()
    return one, other
