"""The deadline of a request's body, extended by each piece that arrives."""

from __future__ import annotations

import time
from typing import Any

import gevent

from webpy_socketio.engine.http.parser import BadRequest

__all__ = ["BodyTimeout"]

#: Bytes that extend the deadline of a body by one second.
_LEAST_RATE = 1000.0


class BodyTimeout:
    """The deadline of a body: `seconds` after its start, extended by each piece that arrives.

    The deadline is never more than `seconds` ahead, so a fast start earns no time for a slow end. A
    body that is too late raises `BadRequest` in the greenlet that reads.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._pieces = 0
        self._greenlet: Any = gevent.getcurrent()
        # One timer for the whole body, which looks when it fires whether anything came meanwhile.
        self._timer: Any = gevent.get_hub().loop.timer(seconds)
        self._timer.start(self._look)

    def progress(self, size: int) -> None:
        """`size` bytes came; raises `BadRequest` if they took too long."""
        self._pieces += 1
        if not self._pieces % 32:
            gevent.sleep(0)  # gevent reads without a pause what is there already
        now = time.monotonic()
        self._until = min(self._until + size / _LEAST_RATE, now + self._seconds)
        if now > self._until:
            raise _too_slow()

    def close(self) -> None:
        """The body is there."""
        self._timer.stop()
        self._timer.close()

    def _look(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            self._greenlet.throw(_too_slow())
            return
        self._timer.close()
        self._timer = gevent.get_hub().loop.timer(left)
        self._timer.start(self._look)


def _too_slow() -> BadRequest:
    return BadRequest("a body too slow", "408 Request Timeout")
