"""Check for ``webpy-socketio doctor``: whether Redis may evict the keys of presence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from webpy_socketio import BackplaneError, ConfigurationError, connect_redis

__all__ = ["examine"]

#: Seconds for Redis to reply.
_TIMEOUT = 3.0

_POLICY = b"maxmemory_policy:"


def examine(settings: Any) -> Iterator[tuple[str, str, str]]:
    """Yield findings as ``(level, text, remedy)``; none without a backplane.

    Args:
        settings: Settings of the server.
    """
    if settings.backplane is None:
        return
    try:
        redis = connect_redis(settings.backplane, _TIMEOUT)
        (info,) = redis.execute(("INFO", "memory"))
        redis.close()
    except (BackplaneError, ConfigurationError):
        return  # reported by the check of Redis itself
    if isinstance(info, BackplaneError):
        return
    found = [line[len(_POLICY) :] for line in info.splitlines() if line.startswith(_POLICY)]
    policy = found[0].decode() if found else "unknown"
    if policy == "noeviction":
        yield "ok", "Redis does not evict keys (maxmemory-policy noeviction)", ""
    else:
        yield (
            "problem",
            f"Redis's maxmemory-policy is {policy}: when it is full, it evicts presence keys and "
            "members disappear",
            "run CONFIG SET maxmemory-policy noeviction, and set it in redis.conf",
        )
