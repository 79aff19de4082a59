"""The deadline for receiving a request body."""

from __future__ import annotations

import time
from typing import Any

import gevent

from webpy_socketio.engine.http.parser import BadRequest

__all__ = ["BodyTimeout"]

#: Bytes that extend the deadline by one second.
_MIN_RATE = 1000.0


class BodyTimeout:
    """Deadline of one request body, extended by each block received.

    The deadline is at most `seconds` ahead, so a fast start does not allow a slow end. When it
    passes, `BadRequest` is raised in the greenlet that created the object.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._blocks = 0
        self._greenlet: Any = gevent.getcurrent()
        # One timer for the whole body: it is restarted only when it fires before the deadline.
        self._timer: Any = gevent.get_hub().loop.timer(seconds)
        self._timer.start(self._check)

    def progress(self, size: int) -> None:
        """Extend the deadline after `size` bytes; raise `BadRequest` if it has passed."""
        self._blocks += 1
        if not self._blocks % 32:
            gevent.sleep(0)  # gevent does not yield while data is available
        now = time.monotonic()
        self._deadline = min(self._deadline + size / _MIN_RATE, now + self._seconds)
        if now > self._deadline:
            raise _too_slow()

    def close(self) -> None:
        """Stop the timer: the body is complete."""
        self._timer.stop()
        self._timer.close()

    def _check(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            self._greenlet.throw(_too_slow())
            return
        self._timer.close()
        self._timer = gevent.get_hub().loop.timer(remaining)
        self._timer.start(self._check)


def _too_slow() -> BadRequest:
    return BadRequest("the body arrives too slowly", "408 Request Timeout")
