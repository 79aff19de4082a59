"""What a node does again and again, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Intervals", "PeriodicTask"]


@dataclass(frozen=True)
class Intervals:
    """Seconds between two renewals, of a lease, between two sweeps (at most) and two comparisons."""

    heartbeat: float = 5.0
    lease: float = 15.0
    sweep: float = 1.0
    reconcile: float = 60.0
    #: After Redis lost data: how long surviving processes have to register again. Reconnecting takes
    #: three seconds at most.
    settle: float = 5.0

    def longest(self, grace: float) -> float:
        """Until everybody knows that a process was killed."""
        return self.lease + self.sweep + grace


class PeriodicTask:
    """What is done again and again."""

    def __init__(self, seconds: Callable[[], float], run: Callable[[Any], bool | None]) -> None:
        self.due = 0.0
        self._seconds = seconds
        self._run = run

    def run(self, link: Any) -> None:
        """Do it; at once again, after what else there is to do, if it says that it is not done."""
        now = time.monotonic()
        self.due = now if self._run(link) else now + self._seconds()
