"""Token buckets by key, removed when they are full."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from webpy_socketio import call_later, monotonic

__all__ = ["MAX_KEYS", "Buckets"]

#: Maximum number of keys. Clients have as many as they have addresses; beyond it the least recently
#: used key is removed, and starts with a full bucket again.
MAX_KEYS = 65_536

#: Tolerance in seconds: sums of fractions are not exact.
_SLACK = 1e-6

#: Minimum seconds between two searches for full buckets.
_INTERVAL = 1.0


class Buckets:
    """Buckets with a capacity of `burst` tokens, refilled with `rate` tokens per second.

    Only the time at which a bucket will be full is stored. For the hub's thread only.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        #: Maximum seconds until the bucket is full while a token is available.
        self._max_delay = (burst - 1) / rate + _SLACK
        # Ordered by last use.
        self._full: dict[Hashable, float] = {}
        self._timer: Any = None

    def __len__(self) -> int:
        return len(self._full)

    def wait(self, key: Hashable, now: float) -> float:
        """Return the seconds until a token is available for `key`; 0 if one is."""
        return max(0.0, self._full.get(key, now) - now - self._max_delay)

    def take(self, key: Hashable, now: float) -> None:
        """Take the available token."""
        full = self._full.pop(key, now)
        self._full[key] = max(full, now) + self._interval
        if len(self._full) > MAX_KEYS:
            del self._full[next(iter(self._full))]
        if self._timer is None:
            self._schedule(_INTERVAL)

    def close(self) -> None:
        """Remove all buckets."""
        self._full.clear()
        self._cancel_timer()

    def _schedule(self, seconds: float) -> None:
        self._timer = call_later(max(_INTERVAL, seconds), self._remove_full)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _remove_full(self) -> None:
        self._cancel_timer()
        now = monotonic()
        # Ordered by last use: full buckets behind one that is not full remain, at most for the time
        # needed to fill a bucket.
        while self._full:
            key, full = next(iter(self._full.items()))
            if full > now:
                self._schedule(full - now)
                return
            del self._full[key]
