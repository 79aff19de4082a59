"""Virtual time: it only advances when a test requests it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from webpy_socketio.engine.io.clock import Clock

__all__ = ["VirtualClock"]


class VirtualClock(Clock):
    """A clock for tests that starts at 0."""

    __slots__ = ("_now", "_numbers", "_started")

    def __init__(self) -> None:
        self._now = 0.0
        self._numbers = itertools.count()
        self._started: dict[_Timer, tuple[float, int]] = {}

    def now(self) -> float:
        return self._now

    def timer(self, seconds: float) -> _Timer:
        return _Timer(self, seconds)

    @property
    def due(self) -> float | None:
        """When the next timer is due, or None if none runs."""
        return min(self._started.values())[0] if self._started else None

    def turn(self, until: float) -> Callable[[], None] | None:
        """Advance to the next timer, `until` at most, and return its callback, or None.

        Timers fire in order of their due time; timers of the same time in the order of their start.
        """
        due = self.due
        if due is None or due > until:
            self._now = max(self._now, until)
            return None
        self._now = max(self._now, due)
        timer = min(self._started, key=lambda timer: self._started[timer])
        del self._started[timer]
        return timer.call

    def _start(self, timer: _Timer, seconds: float) -> None:
        self._started[timer] = (self._now + max(0.0, seconds), next(self._numbers))

    def _stop(self, timer: _Timer) -> None:
        self._started.pop(timer, None)


class _Timer:
    __slots__ = ("_clock", "_seconds", "call")

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.call: Callable[[], None] | None = None

    def start(self, callback: Callable[..., Any], *args: Any, update: bool | None = None) -> None:
        self.call = lambda: callback(*args)
        self._clock._start(self, self._seconds)

    def stop(self) -> None:
        self._clock._stop(self)

    close = stop
