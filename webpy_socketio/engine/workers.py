"""Greenlets to run handlers in, used again and again.

A connection without work has none. To make a greenlet for each message costs several times what
the message costs otherwise (measured: 31 µs against 4), so those that are done wait for the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from greenlet import GreenletExit, getcurrent, greenlet

__all__ = ["Workers"]

logger = logging.getLogger(__name__)

#: Idle greenlets that are kept; a stack of Python's each, 16 KB.
MAX_IDLE = 256


class Workers:
    """A pool without an upper bound: work never waits for a greenlet, only greenlets for work."""

    __slots__ = ("_hub", "_idle")

    def __init__(self) -> None:
        self._hub: Any = gevent.get_hub()
        self._idle: list[Any] = []

    def run(self, function: Callable[[], None]) -> Any:
        """Have `function` run soon in a greenlet, which is returned."""
        if self._idle:
            worker = self._idle.pop()
            self._hub.loop.run_callback(worker.switch, function)
        else:
            # In a list, which is emptied: a greenlet keeps what it was started with until its end.
            worker = greenlet(self._work, self._hub)
            self._hub.loop.run_callback(worker.switch, [function])
        return worker

    def dispose(self) -> None:
        """End the greenlets that are idle."""
        while self._idle:
            self._hub.loop.run_callback(self._idle.pop().throw)

    def _work(self, first: list[Callable[[], None]]) -> None:
        worker: Any = getcurrent()
        function: Callable[[], None] | None = first.pop()
        while True:
            if function is not None:
                try:
                    function()
                except BaseException:
                    logger.exception("a worker's function failed")
                function = None
                if len(self._idle) >= MAX_IDLE:
                    return
                # What one connection's handlers put into context variables is not the next one's.
                worker.gr_context = None
                self._idle.append(worker)
            try:
                function = self._hub.switch()
            except GreenletExit:
                if worker in self._idle:
                    self._idle.remove(worker)
                return
            except BaseException:  # noqa: BLE001 - a timeout that a handler started and forgot
                logger.warning("a handler left a timer running that fired after its end")
