"""How long a request's body is waited for, piece by piece."""

from __future__ import annotations

import time
from typing import Any

import gevent

from webpy_socketio.engine.http import BadRequest

__all__ = ["Patience"]

#: Bytes a second that a body has to bring, on average, to be waited for beyond its first seconds.
_LEAST_RATE = 1000.0


class Patience:
    """The deadline of a body: seconds without progress, and a least rate beyond them.

    A large body may take longer than a small one; one that trickles may not. What is too late
    raises `BadRequest` in the greenlet that reads.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._latest = time.monotonic()
        self._until = self._latest + seconds
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
        self._latest = time.monotonic()
        self._until += size / _LEAST_RATE
        if self._latest > self._until:
            raise _too_slow()

    def close(self) -> None:
        """The body is there."""
        self._timer.stop()
        self._timer.close()

    def _look(self) -> None:
        left = self._latest + self._seconds - time.monotonic()
        if left <= 0:
            self._greenlet.throw(_too_slow())
            return
        self._timer.close()
        self._timer = gevent.get_hub().loop.timer(left)
        self._timer.start(self._look)


def _too_slow() -> BadRequest:
    return BadRequest("a body too slow", "408 Request Timeout")
