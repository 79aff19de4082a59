"""Log lines about a lost and restored connection to Redis."""

from __future__ import annotations

import logging
import time

from webpy_socketio.exceptions import BackplaneError

__all__ = ["Outage"]

logger = logging.getLogger("webpy_socketio")


class Outage:
    """Logs the loss of a connection once, and its return at the same level.

    `effect` describes what does not work meanwhile; it is the second half of the log line.
    """

    def __init__(self, effect: str) -> None:
        self._effect = effect
        self._began: float | None = None

    def begin(self, error: BackplaneError) -> None:
        """Log the loss, unless it is logged already."""
        if self._began is None:
            self._began = time.monotonic()
            logger.warning("%s; %s", str(error), self._effect)

    def end(self, address: str, consequence: str) -> None:
        """Log the return with the address, the duration and the consequence."""
        if self._began is not None:
            seconds = time.monotonic() - self._began
            self._began = None
            logger.warning("reconnected to %s after %.1f s; %s", address, seconds, consequence)
