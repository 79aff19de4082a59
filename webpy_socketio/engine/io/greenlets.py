"""Greenlets to run handlers in, used again and again.

A connection without work has none. To make a greenlet for each message costs several times what
the message costs otherwise (measured: 31 µs against 4), so those that are done wait for the next.
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

#: Idle greenlets that are kept; a stack of Python's each, 16 KB.
MAX_IDLE = 256


class GreenletPool:
    """A pool without an upper bound: work never waits for a greenlet, only greenlets for work."""

    __slots__ = ("_hub", "_idle")

    def __init__(self) -> None:
        self._hub: Any = gevent.get_hub()
        self._idle: list[Any] = []

    def run(self, function: Callable[[], None]) -> Any:
        """Have `function` run soon in a greenlet, which is returned."""
        # A list is emptied by the worker: a greenlet keeps what it was started with until its end.
        task = [self, function]
        while self._idle:
            worker = self._idle.pop()
            if getrefcount(worker) == UNREFERENCED:
                break
            # Something is pending for it, such as a timeout that an earlier function left running.
            # It is set aside, and ends when nothing refers to it.
        else:
            worker = greenlet(self._work, self._hub)
        self._hub.loop.run_callback(worker.switch, task)
        return worker

    def dispose(self) -> None:
        """End the greenlets that are idle."""
        while self._idle:
            self._hub.loop.run_callback(self._idle.pop().throw)

    def _work(self, task: list[Any]) -> None:
        # No variable of this frame may refer to its greenlet: see `run`.
        while True:
            # What an earlier function left pending may switch to this greenlet, with anything.
            if type(task) is list and len(task) == 2 and task[0] is self:
                function = task.pop()
                try:
                    function()
                except BaseException:
                    logger.exception("a worker's function failed")
                del function
                if len(self._idle) >= MAX_IDLE:
                    return
                getcurrent().gr_context = None  # context variables are the function's
                self._idle.append(getcurrent())
            try:
                task = self._hub.switch()
            except GreenletExit:
                if getcurrent() in self._idle:
                    self._idle.remove(getcurrent())
                return
            except BaseException as exception:  # noqa: BLE001 - whatever it is, it comes too late
                task = []
                log_late(exception)
                if getcurrent() not in self._idle:
                    return
