"""What Redis holds of a node, compared with what the node wants it to hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from webpy_socketio import BackplaneError
from webpy_socketio.plugins.presence.damage import log_damage
from webpy_socketio.plugins.presence.scripts import Names, channel_of, text_of
from webpy_socketio.plugins.presence.store import Channel

__all__ = ["Held", "Item", "extra", "missing"]

#: Entries that are read at once.
BATCH_SIZE = 500

#: A connection in a channel.
Item = tuple[Channel, str]


@dataclass(slots=True, eq=False)
class Held:
    """A connection of this process: its key, its meta as JSON."""

    key: str
    meta: str
    #: Whether Redis has it, as far as is known.
    joined: bool = False
    #: Whether it is to be joined again without a signal, as it was there all the time.
    quiet: bool = False


def missing(link: Any, names: Names, node: str, here: Mapping[Item, Held]) -> Iterator[Item]:
    """Yield what is not in Redis as it is to be there; reads it in portions."""
    channels: defaultdict[Channel, list[str]] = defaultdict(list)
    for channel, connection in here:
        channels[channel].append(connection)
    for channel, connections in channels.items():
        where = text_of(channel)
        for start in range(0, len(connections), BATCH_SIZE):
            portion = connections[start : start + BATCH_SIZE]
            keys = [held.key if (held := here.get((channel, name))) else "" for name in portion]
            answers = link.execute(
                ("HMGET", names.of("connections", where), *portion),
                ("HMGET", names.of("keys", where), *keys),
            )
            # In place of one of them is a key of the wrong type, which joining replaces.
            values, lists = (
                [None] * len(portion) if isinstance(answer, BackplaneError) else answer
                for answer in answers
            )
            for connection, value, listed in zip(portion, values, lists, strict=True):
                held = here.get((channel, connection))
                if held is None:
                    continue
                wanted = f"{node}\n0\n{held.meta}\n{held.key}".encode()
                if value == wanted and connection.encode() in (listed or b"").split(b"\n"):
                    held.quiet = False
                else:
                    yield channel, connection


def extra(link: Any, names: Names, node: str) -> Iterator[Item]:
    """Yield all that Redis has registered for a node; reads it in portions."""
    cursor: Any = 0
    while True:
        key = names.of("node", node)
        (answer,) = link.execute(("SSCAN", key, cursor, "COUNT", BATCH_SIZE))
        if isinstance(answer, BackplaneError):  # of the wrong type, which the next join replaces
            log_damage(key, f"a value ({answer})")
            link.execute(("DEL", key))
            return
        cursor, items = answer
        for item in items:
            try:
                connection, channel = item.split(b"\n")
                yield channel_of(channel), connection.decode()
            except ValueError:
                log_damage(key, f"a member such as {item[:80]!r}")
                link.execute(("SREM", key, item))
        if int(cursor) == 0:
            return
