"""Opening a connection to Redis, for each kind of address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from webpy_socketio.backplane.addresses import Kind, RedisAddress
from webpy_socketio.backplane.cluster_connection import ClusterConnection
from webpy_socketio.backplane.connection import RedisConnection, check_files
from webpy_socketio.backplane.sentinel import open_master

__all__ = ["AnyConnection", "check_files", "open_connection"]

#: A connection to one server, or to the nodes of a cluster.
AnyConnection: TypeAlias = RedisConnection | ClusterConnection

_OPENERS: Mapping[Kind, Callable[[RedisAddress, float], AnyConnection]] = {
    Kind.SERVER: RedisConnection,
    Kind.UNIX_SOCKET: RedisConnection,
    Kind.SENTINEL: open_master,
    Kind.CLUSTER: ClusterConnection,
}


def open_connection(address: RedisAddress, timeout: float) -> AnyConnection:
    """Open a new connection; blocks.

    Args:
        address: Parsed URL, see `webpy_socketio.backplane.addresses.parse_address`.
        timeout: Longest wait for a reply, in seconds.

    Raises:
        BackplaneError: Redis is unreachable.
    """
    return _OPENERS[address.kind](address, timeout)
