"""Periodic tasks of a node, and their intervals."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Intervals", "PeriodicTask"]


@dataclass(frozen=True)
class Intervals:
    """Intervals in seconds between heartbeats, sweeps (at most) and comparisons."""

    heartbeat: float = 5.0
    #: Duration of a lease.
    lease: float = 15.0
    sweep: float = 1.0
    reconcile: float = 60.0
    #: Time for surviving processes to register again after Redis lost data. Reconnecting takes at
    #: most three seconds.
    settle: float = 5.0

    def longest(self, grace: float) -> float:
        """Return the maximum seconds until the death of a process is reported."""
        return self.lease + self.sweep + grace


class PeriodicTask:
    """A task that runs periodically."""

    def __init__(self, seconds: Callable[[], float], run: Callable[[Any], bool | None]) -> None:
        self.due = 0.0
        self._seconds = seconds
        self._run = run

    def run(self, redis: Any) -> None:
        """Run the task; it is due again at once if it returns True (more to do)."""
        now = time.monotonic()
        self.due = now if self._run(redis) else now + self._seconds()
