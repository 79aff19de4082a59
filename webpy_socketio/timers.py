"""Timers for applications and plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webpy_socketio.engine.io import clock
from webpy_socketio.engine.io.clock import Timer
from webpy_socketio.thread_locals import run_released

__all__ = ["call_later"]


def call_later(seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
    """Call a function on the hub after a delay; it must not wait.

    When it returns, the thread-locals of web.py (such as database connections) are released, as
    after a handler. Changes of context variables are limited to the call.

    Args:
        seconds: Delay in seconds; in tests, seconds of virtual time.
        function: Called once. gevent prints its exception; other timers are not affected.
        *args: Arguments of `function`.

    Returns:
        The timer; ``close()`` cancels the call.
    """
    return clock.call_later(seconds, run_released, function, *args)
