"""Timers for applications and plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webpy_socketio.engine.io import clock
from webpy_socketio.engine.io.clock import Timer
from webpy_socketio.thread_locals import run_released

__all__ = ["call_later"]


def call_later(seconds: float, function: Callable[..., Any], *args: Any) -> Timer:
    """Call `function` on the hub in `seconds`, where it must not wait.

    What web.py keeps for a greenlet, such as a database connection, is released when `function`
    returns, as after a handler. Context variables that it sets end with it.

    Args:
        seconds: Delay. In a test, seconds of virtual time.
        function: Called once. An exception is printed by gevent and stops no other timer.
        args: Arguments of `function`.

    Returns:
        The timer; its ``close()`` cancels the call.

    """
    return clock.call_later(seconds, run_released, function, *args)
