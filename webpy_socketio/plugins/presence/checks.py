"""Whether Redis may throw away what presence keeps in it: for ``webpy-socketio doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from webpy_socketio import BackplaneError, connect_redis

__all__ = ["examine"]

#: Seconds for Redis's answer.
_TIMEOUT = 3.0

_POLICY = b"maxmemory_policy:"


def examine(settings: Any) -> Iterator[tuple[str, str, str]]:
    """A finding, as ``(level, text, remedy)``; none where presence is kept in memory."""
    if settings.backplane is None:
        return
    try:
        link = connect_redis(settings.backplane, _TIMEOUT)
        (info,) = link.execute(("INFO", "memory"))
        link.close()
    except BackplaneError:
        return  # whoever examines Redis itself says so
    if isinstance(info, BackplaneError):
        return
    found = [line[len(_POLICY) :] for line in info.splitlines() if line.startswith(_POLICY)]
    policy = found[0].decode() if found else "unknown"
    if policy == "noeviction":
        yield "ok", "Redis throws nothing away (noeviction)", ""
    else:
        yield (
            "problem",
            f"Redis's maxmemory-policy is {policy}: when it is full, people vanish who are there",
            "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        )
