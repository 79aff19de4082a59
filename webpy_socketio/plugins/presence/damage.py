"""Log lines about invalid values in Redis."""

from __future__ import annotations

import logging
import time

__all__ = ["log_damage"]

logger = logging.getLogger("webpy_socketio")

#: Seconds between two log lines about a key, and maximum number of keys with a recent log line.
INTERVAL = 60.0
MAX_KEYS = 256

_due: dict[str, float] = {}


def log_damage(key: str, what: str) -> None:
    """Log that a value was skipped or removed, at most once per `INTERVAL` for each key."""
    now = time.monotonic()
    if _due.get(key, now) > now:
        return
    _due.pop(key, None)
    if len(_due) >= MAX_KEYS:
        del _due[next(iter(_due))]
    _due[key] = now + INTERVAL
    logger.warning(
        "presence: %s in Redis at %.200r was skipped or removed; missing entries are restored "
        "within a minute. If this repeats, another program uses these keys: change its keys, or "
        "SOCKETIO_BACKPLANE_PREFIX",
        what,
        key,
    )
