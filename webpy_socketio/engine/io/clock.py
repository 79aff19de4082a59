"""The clock and the timers of the engine, replaceable by tests.

The default clock uses the monotonic time and the timers of gevent. `webpy_socketio.testing`
replaces it by a clock with virtual time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent

__all__ = ["Clock", "Timer", "call_later", "current_clock", "monotonic", "replace_clock"]


class Timer(Protocol):
    """A one-shot timer with the interface of gevent's timers."""

    def start(self, callback: Callable[..., Any], *args: Any, update: bool | None = None) -> None:
        """Call `callback` once on the hub when the time has passed; it must not block."""

    def stop(self) -> None:
        """Cancel the call."""

    def close(self) -> None:
        """Stop the timer and free its resources."""


class Clock:
    """Monotonic time and gevent timers; changes of the system time have no effect."""

    __slots__ = ()

    def now(self) -> float:
        """Return seconds since an arbitrary point in time."""
        return time.monotonic()

    def timer(self, seconds: float) -> Timer:
        """Return a timer for `seconds`, which is not started yet."""
        timer: Timer = gevent.get_hub().loop.timer(seconds)
        return timer


_current = Clock()


def current_clock() -> Clock:
    """Return the clock that new servers use."""
    return _current


def replace_clock(clock: Clock) -> Clock:
    """Use `clock` for new servers; return the previous clock."""
    global _current
    previous, _current = _current, clock
    return previous


def monotonic() -> float:
    """Return seconds since an arbitrary point in time, as `time.monotonic`.

    In tests with a virtual clock this is the virtual time.
    """
    return _current.now()


def call_later(seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
    """Call a function later on the hub.

    Tests with a virtual clock run the call without waiting.

    Args:
        seconds: Delay in seconds.
        function: The function; it must not block.
        *args: Its arguments.

    Returns:
        A timer, whose ``close()`` cancels the call.
    """
    timer = _current.timer(seconds)
    # gevent caches the time at the start of an iteration; `update` refreshes it.
    timer.start(function, *args, update=True)
    return timer
