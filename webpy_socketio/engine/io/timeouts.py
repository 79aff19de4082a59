"""Timeouts of equal length that share one timer.

Items with the same timeout expire in the order in which they were added. A queue and one timer for
its head therefore replace a timer for each item. An item costs one dict entry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from webpy_socketio.engine.io.clock import Clock, Timer

__all__ = ["TimeoutQueue"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


class TimeoutQueue(Generic[T]):
    """Calls a function for each item when its timeout expires, unless the item was discarded.

    Args:
        clock: Clock and timers.
        seconds: Timeout of all items.
        on_due: Called with each expired item on the hub; it must not block.
    """

    def __init__(self, clock: Clock, seconds: float, on_due: Callable[[T], None]) -> None:
        self._seconds = seconds
        self._on_due = on_due
        self._due: dict[T, float] = {}
        self._clock = clock
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: T) -> bool:
        return item in self._due

    def add(self, item: T, since: float | None = None) -> None:
        """Add an item, or restart its timeout.

        Args:
            item: The item.
            since: Time of the clock at which the timeout starts; None for now. Must not decrease
                from call to call.
        """
        self._due.pop(item, None)
        self._due[item] = (self._clock.now() if since is None else since) + self._seconds
        if self._timer is None:
            self._start()

    def discard(self, item: T) -> None:
        """Remove an item; ignored if it is not in the queue."""
        # Keep the timer: finding a later head when it fires is cheaper than restarting it for each
        # of thousands of discarded items.
        self._due.pop(item, None)

    def due(self, item: T) -> float | None:
        """Return the time of the clock at which `item` expires; None if it is not in the queue."""
        return self._due.get(item)

    @property
    def oldest(self) -> T:
        """The item that expires next; the queue must not be empty."""
        return next(iter(self._due))

    def clear(self) -> None:
        """Remove all items and stop the timer."""
        self._due.clear()
        self._stop()

    def _start(self) -> None:
        head = next(iter(self._due.values()))
        self._timer = self._clock.timer(max(0.0, head - self._clock.now()))
        # gevent caches the time at the start of an iteration; `update` refreshes it.
        self._timer.start(self._fire, update=True)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _fire(self) -> None:
        self._stop()
        now = self._clock.now()
        while self._due:
            item, due = next(iter(self._due.items()))
            if due > now:
                break
            del self._due[item]
            try:
                self._on_due(item)
            except Exception:  # one failing callback must not block the rest
                logger.exception("the callback of a timeout failed")
        if self._due and self._timer is None:
            self._start()
