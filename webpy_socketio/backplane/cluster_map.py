"""Map of a Redis Cluster: which node owns each hash slot, as far as it is known."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

from redis.cluster import parse_cluster_slots
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from webpy_socketio.backplane.addresses import Host, RedisAddress
from webpy_socketio.backplane.connection import RedisConnection
from webpy_socketio.exceptions import BackplaneError, NodeUnavailable

__all__ = ["ClusterMap", "Redirect", "redirect_of", "slot_of"]

#: Seconds for a node to reply to a request for the map.
TIMEOUT = 2.0

#: Seconds between two requests for the map.
MIN_INTERVAL = 0.1

SLOTS = REDIS_CLUSTER_HASH_SLOTS


class Redirect(NamedTuple):
    """Redirection in the error reply of a node that does not serve a slot."""

    #: The node that serves it; None if the slot is not served now.
    host: Host | None
    slot: int = -1
    #: Whether only this command is redirected, as the slot is moving.
    is_once: bool = False


def slot_of(key: bytes) -> int:
    """Return the hash slot of a key or topic."""
    slot: int = key_slot(key)
    return slot


def redirect_of(reply: object, asked: Host) -> Redirect | None:
    """Return the redirection in a reply, or None if the reply is none.

    Args:
        reply: A reply of `RedisConnection.execute`.
        asked: The node that sent the reply; a reply without a host means this node.
    """
    cause = reply.__cause__ if isinstance(reply, BackplaneError) else None
    if isinstance(cause, AskError) and 0 <= cause.slot_id < SLOTS:
        host = Host(cause.host or asked.name, cause.port)
        return Redirect(host, cause.slot_id, not isinstance(cause, MovedError))
    if isinstance(cause, (ClusterDownError, TryAgainError)):
        return Redirect(None)
    return None


class ClusterMap:
    """The owner of each slot of a cluster. Threads may share it.

    Args:
        address: Address of the cluster.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        #: Nodes to query: those of the URL, and those that were found; the last one that replied
        #: comes first.
        self._hosts: list[Host] = list(self._address.hosts)
        self._owners: list[Host | None] = [None] * SLOTS
        self._lock = threading.Lock()
        self._refreshed_at = 0.0
        #: Number of changes.
        self.version = 0

    def __str__(self) -> str:
        return str(self._address)

    @property
    def is_known(self) -> bool:
        """Whether a node has replied."""
        return self._refreshed_at > 0

    def owner(self, slot: int) -> Host | None:
        """Return the node that serves a slot, or None."""
        return self._owners[slot]

    def owner_of(self, key: bytes) -> Host:
        """Return the node that serves a key or topic.

        Raises:
            NodeUnavailable: No node serves its slot.
        """
        slot = slot_of(key)
        host = self._owners[slot]
        if host is None:
            raise NodeUnavailable(f"no node of {self} serves the hash slot {slot}")
        return host

    def owners(self) -> set[Host]:
        """Return the nodes that serve slots."""
        return {host for host in self._owners if host is not None}

    def address(self, host: Host) -> RedisAddress:
        """Return the address of a node."""
        return self._address.server(host)

    def move(self, slot: int, host: Host) -> None:
        """Change the owner of a slot, as a node has redirected a command."""
        if self._owners[slot] != host:
            self._owners[slot] = host
            self.version += 1

    def refresh(self, avoid: Host | None = None) -> None:
        """Request the map from one node after another until one replies; blocks.

        Does nothing if another call has done so a moment ago.

        Args:
            avoid: Node that is queried last.

        Raises:
            BackplaneError: No node has replied.
        """
        with self._lock:
            if time.monotonic() < self._refreshed_at + MIN_INTERVAL:
                return
            hosts = sorted(self._hosts, key=lambda host: host == avoid)
            errors = []
            for host in hosts:
                try:
                    self._request(host)
                    return
                except BackplaneError as error:
                    errors.append(str(error))
            raise BackplaneError(f"no node of {self} can be used: {'; '.join(errors)}")

    def _request(self, host: Host) -> None:
        connection = RedisConnection(self.address(host), TIMEOUT)
        try:
            (reply,) = connection.execute(("CLUSTER", "SLOTS"))
        finally:
            connection.close()
        if isinstance(reply, BackplaneError):
            raise BackplaneError(f"{reply}; SOCKETIO_BACKPLANE needs nodes of a Redis Cluster")
        try:
            owners = _parse_owners(reply, host)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise BackplaneError(
                f"Redis at {host} sent an invalid reply to CLUSTER SLOTS: {error}"
            ) from error
        if not any(owners):
            raise BackplaneError(f"Redis at {host} knows no node that serves slots")
        if owners != self._owners:
            self._owners = owners
            self.version += 1
        found = dict.fromkeys([host, *self.owners(), *self._address.hosts])
        self._hosts = list(found)
        self._refreshed_at = time.monotonic()


def _parse_owners(reply: Any, asked: Host) -> list[Host | None]:
    """Return the owner of each slot, from a reply to CLUSTER SLOTS."""
    owners: list[Host | None] = [None] * SLOTS
    for (start, end), servers in parse_cluster_slots(reply, current_host=asked.name).items():
        name, port = servers["primary"]
        if not 0 <= start <= end < SLOTS:
            raise ValueError(f"there are no slots from {start} to {end}")
        owner = Host(asked.name if name == "?" else name, int(port))
        owners[start : end + 1] = [owner] * (end + 1 - start)
    return owners
