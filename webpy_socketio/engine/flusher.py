"""One flush a turn: what is sent in one turn of the event loop is written together at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

__all__ = ["Flusher"]

logger = logging.getLogger(__name__)


class Flusher:
    """Calls what was scheduled, once, when everything that runs in this turn has run."""

    __slots__ = ("_loop", "_scheduled")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._scheduled: list[Callable[[], None]] = []

    def schedule(self, flush: Callable[[], None]) -> None:
        """Have `flush` called at the end of the turn. It runs on the hub and must not wait."""
        if not self._scheduled:
            # Callbacks run in the order they were asked for: greenlets that are ready now run, and
            # send, before this one does.
            self._loop.run_callback(self._run)
        self._scheduled.append(flush)

    def _run(self) -> None:
        scheduled, self._scheduled = self._scheduled, []
        for flush in scheduled:
            try:
                flush()
            except Exception:  # one connection's trouble is not to reach the others
                logger.exception("a flush failed")
