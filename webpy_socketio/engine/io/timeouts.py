"""Many deadlines of one length, one timer.

Everything that waits for the same number of seconds falls due in the order it began to wait: a
queue and one timer for its head do what a timer for each would, at the cost of a dict entry.
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
    """Calls `on_due` for each item `seconds` after it was added, unless it was discarded before.

    `on_due` is called on the hub: it must not wait. Times are those of `clock`, monotonic.
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
        """Let `item` fall due after the set time, from now or from `since`, a time of the clock.

        An item that is waiting already starts anew. Times given for `since` must not go backwards.
        """
        self._due.pop(item, None)
        self._due[item] = (self._clock.now() if since is None else since) + self._seconds
        if self._timer is None:
            self._start()

    def discard(self, item: T) -> None:
        """Forget `item`, if it is waiting."""
        # The timer is left as it is: it will find a later head, which is cheaper than to set it
        # anew for each of the thousands that are discarded in time.
        self._due.pop(item, None)

    def due(self, item: T) -> float | None:
        """The clock's time at which `item` falls due, or None if it is not waiting."""
        return self._due.get(item)

    def clear(self) -> None:
        """Forget everything and stop the timer."""
        self._due.clear()
        self._stop()

    def _start(self) -> None:
        head = next(iter(self._due.values()))
        self._timer = self._clock.timer(max(0.0, head - self._clock.now()))
        # gevent's loop keeps its own idea of now, from when the turn began: have it look again.
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
            except Exception:  # one item's trouble is not to keep the others waiting for ever
                logger.exception("a deadline's callback failed")
        if self._due and self._timer is None:
            self._start()
