"""Rate-limited warnings about messages of other processes."""

from __future__ import annotations

import logging
import time
from typing import Any

__all__ = ["WarningLog"]

logger = logging.getLogger("webpy_socketio")


class WarningLog:
    """Warning log with at most one line per `interval`; further warnings are counted."""

    #: Seconds between two log lines.
    interval = 10.0

    def __init__(self) -> None:
        self._next = 0.0
        self._suppressed = 0

    def warn(self, text: str, *args: Any) -> None:
        """Log a warning, or count it for the next log line."""
        now = time.monotonic()
        if now < self._next:
            self._suppressed += 1
            return
        more = f" (and {self._suppressed} more warnings)" if self._suppressed else ""
        self._next, self._suppressed = now + self.interval, 0
        logger.warning(text + more, *args)
