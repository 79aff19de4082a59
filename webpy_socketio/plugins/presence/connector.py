"""Connections to Redis for a greenlet that may be killed at any time."""

from __future__ import annotations

from typing import Any

from webpy_socketio import connect_redis

__all__ = ["Connector"]


class Connector:
    """Opens connections for one greenlet; `timeout` is in seconds without a byte."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._opening = False

    def open(self) -> Any:
        """Open a new connection; blocks.

        Raises:
            BackplaneError: Redis is unreachable.
        """
        self._opening = True
        try:
            return connect_redis(self._url, self._timeout)
        finally:
            self._opening = False

    def end(self, greenlet: Any) -> None:
        """Kill the greenlet, unless it is connecting, which would leak a socket.

        A greenlet that is connecting must check afterwards whether it was stopped.
        """
        if not self._opening:
            greenlet.kill()
