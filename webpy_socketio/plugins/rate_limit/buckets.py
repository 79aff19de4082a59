"""Token buckets, one for each key, that are forgotten when they are full again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from webpy_socketio import call_later, monotonic

__all__ = ["MAX_KEYS", "Buckets"]

#: Keys that are remembered at once. Clients may have as many as they have addresses; beyond this, who
#: was heard of longest ago is forgotten, and begins with a full bucket again.
MAX_KEYS = 65_536

#: Seconds of which nothing is made: sums of fractions are not exact.
_SLACK = 1e-6

#: Seconds from one look for what can be forgotten to the next, at least.
_INTERVAL = 1.0


class Buckets:
    """Buckets of `burst` tokens each, into which `rate` tokens a second fall.

    Of a bucket only the moment is kept at which it will be full. For the hub only.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        #: How far away the moment of being full may be while there is still a token.
        self._reach = (burst - 1) / rate + _SLACK
        # In the order in which they were last taken from.
        self._full: dict[Hashable, float] = {}
        self._timer: Any = None

    def __len__(self) -> int:
        return len(self._full)

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds until there is a token for `key`; 0 if there is one."""
        return max(0.0, self._full.get(key, now) - now - self._reach)

    def take(self, key: Hashable, now: float) -> None:
        """Take the token that is there."""
        full = self._full.pop(key, now)
        self._full[key] = max(full, now) + self._interval
        if len(self._full) > MAX_KEYS:
            del self._full[next(iter(self._full))]
        if self._timer is None:
            self._look_later(_INTERVAL)

    def close(self) -> None:
        """Forget all."""
        self._full.clear()
        self._stop()

    def _look_later(self, seconds: float) -> None:
        self._timer = call_later(max(_INTERVAL, seconds), self._look)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _look(self) -> None:
        self._stop()
        now = monotonic()
        # The first is who was heard of longest ago. Behind one that is not full yet there may be others
        # that are; they stay for as long as it takes to fill a bucket, at most.
        while self._full:
            key, full = next(iter(self._full.items()))
            if full > now:
                self._look_later(full - now)
                return
            del self._full[key]
