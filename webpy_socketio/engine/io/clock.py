"""What time it is, and a timer: whatever waits for its time to come asks a clock.

There is one, gevent's, until a test puts another in its place, on which an hour passes at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent

__all__ = ["Clock", "Timer", "call_later", "current_clock", "monotonic", "replace_clock"]


class Timer(Protocol):
    """What a clock gives; gevent's timers are like this."""

    def start(self, callback: Callable[..., Any], *args: Any, update: bool | None = None) -> None:
        """Call `callback` on the hub, once, when the time has come: it must not wait."""

    def stop(self) -> None:
        """Do not call it any more."""

    def close(self) -> None:
        """Stop, and free what it holds."""


class Clock:
    """The machine's: monotonic, so that a jump of its date means nothing."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def timer(self, seconds: float) -> Timer:
        """A timer that is still to be started."""
        timer: Timer = gevent.get_hub().loop.timer(seconds)
        return timer


_current = Clock()


def current_clock() -> Clock:
    """The clock that servers are made with."""
    return _current


def replace_clock(clock: Clock) -> Clock:
    """Let servers be made with `clock` from now on; returns the one before."""
    global _current
    before, _current = _current, clock
    return before


def monotonic() -> float:
    """Seconds since some moment, as `time.monotonic`; in a test, virtual time, as `call_later`."""
    return _current.now()


def call_later(seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
    """Call `function` on the hub in `seconds`, where it must not wait; its ``close()`` takes it back.

    For plugins, and for handlers whose tests are not to wait: in a test, virtual time.
    """
    timer = _current.timer(seconds)
    # gevent's loop keeps its own idea of now, from when the turn began: have it look again.
    timer.start(function, *args, update=True)
    return timer
