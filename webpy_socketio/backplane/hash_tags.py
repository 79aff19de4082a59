"""Hash tags: parts of the names of keys that choose their slot in a Redis Cluster.

Keys with the same tag, as in ``name:{tag}:rest``, are on one node, so that a script can use all of
them. A plugin that has keys for each channel divides the channels into a fixed number of parts, and
gives each part one tag and all the keys that it needs.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache

from webpy_socketio.backplane.addresses import is_cluster

__all__ = ["PARTS", "hash_tag", "hash_tags", "is_redis_cluster"]

#: Parts of the keys of a plugin, and so the largest number of nodes that share its work.
PARTS = 16

_SLOTS = 16_384


def is_redis_cluster(url: str) -> bool:
    """Return whether a Redis URL names a Redis Cluster.

    Args:
        url: Redis URL, as in ``SOCKETIO_BACKPLANE``.
    """
    return is_cluster(url)


@cache
def hash_tags() -> tuple[str, ...]:
    """Return 16 hash tags whose slots are distributed evenly, so that nodes share them.

    A plugin uses the tag in the names of the keys of one part of its channels.

    Returns:
        The same tags at each call, which are short texts of digits without braces.
    """
    found: dict[int, str] = {}
    number = 0
    while len(found) < PARTS:
        tag = str(number)
        found.setdefault(crc_hqx(tag.encode(), 0) % _SLOTS * PARTS // _SLOTS, tag)
        number += 1
    return tuple(found[part] for part in range(PARTS))


def hash_tag(name: str) -> str:
    """Return the hash tag of a channel, always the same one of `hash_tags`.

    Args:
        name: Any text that names the channel.

    Returns:
        The tag.
    """
    return hash_tags()[crc_hqx(name.encode("utf-8", "surrogatepass"), 0) % PARTS]
