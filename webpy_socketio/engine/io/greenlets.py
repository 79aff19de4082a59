"""A pool of greenlets for handlers.

Idle connections have no greenlet. Creating one for each message costs several times as much as the
message itself (measured: 31 µs against 4), so idle greenlets are reused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from sys import getrefcount
from typing import Any

import gevent
from greenlet import GreenletExit, getcurrent, greenlet

from webpy_socketio.engine.io.isolation import UNREFERENCED, log_late

__all__ = ["GreenletPool"]

logger = logging.getLogger(__name__)

#: Idle greenlets that are kept, of about 16 KB each.
MAX_IDLE = 256


class GreenletPool:
    """An unbounded pool of greenlets: a function never waits for a free greenlet."""

    __slots__ = ("_hub", "_idle")

    def __init__(self) -> None:
        self._hub: Any = gevent.get_hub()
        self._idle: list[Any] = []

    def run(self, function: Callable[[], None]) -> Any:
        """Schedule `function` in a greenlet of the pool, and return the greenlet."""
        # A list, which the worker empties: a greenlet references its start arguments until it ends.
        task = [self, function]
        while self._idle:
            worker = self._idle.pop()
            if getrefcount(worker) == UNREFERENCED:
                break
            # A timeout or another switch is pending for this greenlet, left by an earlier function.
            # Drop it; it ends when nothing refers to it.
        else:
            worker = greenlet(self._work, self._hub)
        self._hub.loop.run_callback(worker.switch, task)
        return worker

    def dispose(self) -> None:
        """End all idle greenlets."""
        while self._idle:
            self._hub.loop.run_callback(self._idle.pop().throw)

    def _work(self, task: list[Any]) -> None:
        # No variable of this frame may reference its own greenlet; `run` counts references.
        while True:
            # A pending switch of an earlier function may resume this greenlet with any value.
            if type(task) is list and len(task) == 2 and task[0] is self:
                function = task.pop()
                try:
                    function()
                except BaseException:
                    logger.exception("a function in the greenlet pool failed")
                del function
                if len(self._idle) >= MAX_IDLE:
                    return
                getcurrent().gr_context = None  # context variables end with the function
                self._idle.append(getcurrent())
            try:
                task = self._hub.switch()
            except GreenletExit:
                if getcurrent() in self._idle:
                    self._idle.remove(getcurrent())
                return
            except BaseException as exception:  # noqa: BLE001 - raised after the function returned
                task = []
                log_late(exception)
                if getcurrent() not in self._idle:
                    return
