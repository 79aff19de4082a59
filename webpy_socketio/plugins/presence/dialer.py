"""Connecting to Redis from a greenlet that may be ended at any moment."""

from __future__ import annotations

from typing import Any

from webpy_socketio import connect_redis

__all__ = ["Connector"]


class Connector:
    """Opens the connections of one greenlet; without a byte for `silence` seconds one counts as dead."""

    def __init__(self, url: str, silence: float) -> None:
        self._url = url
        self._silence = silence
        self._opening = False

    def open(self) -> Any:
        """A new connection; waits, and raises `BackplaneError`."""
        self._opening = True
        try:
            return connect_redis(self._url, self._silence)
        finally:
            self._opening = False

    def end(self, greenlet: Any) -> None:
        """End the greenlet, unless it is connecting: it would leave a socket behind.

        Such a one has to find out by itself that it is to end.
        """
        if not self._opening:
            greenlet.kill()
