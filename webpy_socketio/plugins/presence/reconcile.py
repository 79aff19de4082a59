"""Comparison of a node's entries in Redis with its local presence.

It repairs the entries of a running process. Those of a crashed one are removed by the sweep, in
`webpy_socketio.plugins.presence.tracker`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from webpy_socketio import BackplaneError, NodeUnavailable
from webpy_socketio.plugins.presence.damage import log_damage
from webpy_socketio.plugins.presence.scripts import Names, decode_channel, encode_channel
from webpy_socketio.plugins.presence.store import Channel

__all__ = ["Item", "LocalEntry", "extra", "missing"]

#: Entries read at once.
BATCH_SIZE = 500

#: A channel and a connection in it.
Item = tuple[Channel, str]


@dataclass(slots=True, eq=False)
class LocalEntry:
    """Key and meta (as JSON) of a connection of this process."""

    key: str
    meta: str
    #: Whether Redis has confirmed the entry.
    joined: bool = False
    #: Whether to send no signal when it joins again, as it has been present all the time.
    quiet: bool = False


def missing(
    redis: Any, names: Names, node: str, local: Mapping[Item, LocalEntry]
) -> Iterator[Item]:
    """Yield items that are missing or outdated in Redis; reads in batches."""
    channels: defaultdict[Channel, list[str]] = defaultdict(list)
    for channel, connection in local:
        channels[channel].append(connection)
    for channel, connections in channels.items():
        name_of_channel = encode_channel(channel)
        for start in range(0, len(connections), BATCH_SIZE):
            batch = connections[start : start + BATCH_SIZE]
            keys = [entry.key if (entry := local.get((channel, name))) else "" for name in batch]
            answers = redis.execute(
                ("HMGET", names.of("connections", name_of_channel), *batch),
                ("HMGET", names.of("keys", name_of_channel), *keys),
            )
            # An error replaces a key of the wrong type; joining replaces the key.
            values, lists = (
                [None] * len(batch) if isinstance(answer, BackplaneError) else answer
                for answer in answers
            )
            for connection, value, listed in zip(batch, values, lists, strict=True):
                entry = local.get((channel, connection))
                if entry is None:
                    continue
                wanted = f"{node}\n0\n{entry.meta}\n{entry.key}".encode()
                if value == wanted and connection.encode() in (listed or b"").split(b"\n"):
                    entry.quiet = False
                else:
                    yield channel, connection


def extra(redis: Any, names: Names, node: str) -> Iterator[Item]:
    """Yield all items that Redis has registered for a node; reads in batches."""
    for part in names.parts:
        yield from _extra(redis, names.node_key(part, node))


def _extra(redis: Any, key: str) -> Iterator[Item]:
    cursor: Any = 0
    while True:
        (answer,) = redis.execute(("SSCAN", key, cursor, "COUNT", BATCH_SIZE))
        if isinstance(answer, NodeUnavailable):
            return
        if isinstance(answer, BackplaneError):  # wrong type: the next join replaces the key
            log_damage(key, f"a value ({answer})")
            redis.execute(("DEL", key))
            return
        cursor, items = answer
        for item in items:
            try:
                connection, channel = item.split(b"\n")
                yield decode_channel(channel), connection.decode()
            except ValueError:
                log_damage(key, f"a member such as {item[:80]!r}")
                redis.execute(("SREM", key, item))
        if int(cursor) == 0:
            return
