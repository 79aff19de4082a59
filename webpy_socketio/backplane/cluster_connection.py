"""Connection to a Redis Cluster: one connection to each node that is used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from webpy_socketio.backplane.addresses import Host, RedisAddress
from webpy_socketio.backplane.cluster_map import ClusterMap, redirect_of
from webpy_socketio.backplane.connection import RedisConnection
from webpy_socketio.exceptions import BackplaneError, NodeUnavailable

__all__ = ["ClusterConnection"]

#: Attempts to find the node of a command.
MAX_ATTEMPTS = 5

#: Seconds after a failure during which commands for a node fail at once.
PAUSE = 1.0

Command = Sequence[Any]


class ClusterConnection:
    """Executes commands on the nodes that own their keys; in place of a `RedisConnection`.

    The key of a command is its first one. Commands with the same key are executed in their order. A
    node that fails does not affect commands for others: the reply to its commands is
    `NodeUnavailable`. Connections to nodes are opened when they are needed, and replaced after a
    failure.

    Args:
        address: Address of the cluster.
        timeout: Longest wait for a reply, in seconds.

    Raises:
        BackplaneError: No node can be reached.
    """

    def __init__(self, address: RedisAddress, timeout: float) -> None:
        self._map = ClusterMap(address)
        self._timeout = timeout
        self._connections: dict[Host, RedisConnection] = {}
        #: The reply of each connected node to INFO.
        self._infos: dict[Host, bytes] = {}
        #: When a node may be used again after a failure, and the failure.
        self._failures: dict[Host, tuple[float, NodeUnavailable]] = {}
        self.closed = False
        #: For messages.
        self.address = str(self._map)
        self._map.refresh()

    def execute(self, *commands: Command) -> list[Any]:
        """Execute commands, and return the reply to each.

        A command that a node rejects has a `BackplaneError` in place of its reply, and
        `NodeUnavailable` if its node cannot be reached, or does not serve its slot now; the node
        may have executed it.

        Raises:
            BackplaneError: The connection is closed, or no node can be reached.
        """
        if self.closed:
            raise BackplaneError(f"the connection to {self.address} is closed")
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for _ in range(MAX_ATTEMPTS):
            by_node: dict[Host, list[int]] = {}
            for index in left:
                try:
                    by_node.setdefault(self._node_of(commands[index]), []).append(index)
                except NodeUnavailable as error:
                    replies[index] = error
            left = []
            for node, indexes in by_node.items():
                left += self._execute_on(node, commands, indexes, replies)
            if not left:
                break
            left.sort()
        return replies

    def publish(self, envelopes: Sequence[tuple[bytes, bytes]]) -> list[int | BackplaneError]:
        """Publish (topic, envelope) pairs; return the number of receivers of each."""
        return self.execute(*(("SPUBLISH", *envelope) for envelope in envelopes))

    def publish_together(
        self, groups: Sequence[Sequence[tuple[bytes, bytes]]]
    ) -> list[int | BackplaneError]:
        """Publish groups of (topic, envelope) pairs; the pairs of a group are not atomic."""
        return self.publish([pair for group in groups for pair in group])

    def server_info(self, key: str) -> bytes:
        """Return the section ``server`` of INFO of the node that owns a key.

        It was read when the connection to the node was opened.

        Raises:
            NodeUnavailable: The node cannot be reached.
        """
        node = self._map.owner_of(key.encode())
        self._open(node)
        return self._infos[node]

    def open_subscribed(self, topic: bytes) -> RedisConnection:
        """Close the connections, and return a new one that is subscribed to a topic.

        Raises:
            BackplaneError: The node that owns the topic cannot be used.
        """
        self.close()
        connection = RedisConnection(self._map.address(self._map.owner_of(topic)), self._timeout)
        try:
            connection.send("SSUBSCRIBE", topic)
            connection.read()  # the confirmation
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self) -> None:
        """Close the connections that were closed by their nodes while they were idle."""
        for node, connection in list(self._connections.items()):
            try:
                connection.check()
            except BackplaneError:
                self._discard(node)

    def ping(self) -> None:
        """Send a PING to the connected nodes, and wait for the replies."""
        for node, connection in list(self._connections.items()):
            try:
                connection.ping()
            except BackplaneError as error:
                self._fail(node, error)

    def close(self) -> None:
        """Close the connections."""
        self.closed = True
        for node in list(self._connections):
            self._discard(node)

    def _node_of(self, command: Command) -> Host:
        key = _key_of(command)
        if key is not None:
            return self._map.owner_of(key)
        connected = next(iter(self._connections), None)
        return connected or min(self._map.owners(), key=str)

    def _execute_on(
        self, node: Host, commands: Sequence[Command], indexes: list[int], replies: list[Any]
    ) -> list[int]:
        """Execute some commands on a node, and return those that belong to another one."""
        try:
            connection = self._open(node)
        except NodeUnavailable as error:
            for index in indexes:
                replies[index] = error
            return []
        try:
            found = connection.execute(*(commands[index] for index in indexes))
        except BackplaneError as error:
            failure = self._fail(node, error)
            found = [*connection.replies, *[failure] * (len(indexes) - len(connection.replies))]
        moved = []
        is_outdated = False
        for index, reply in zip(indexes, found, strict=True):
            redirect = redirect_of(reply, node)
            if redirect is None:
                replies[index] = reply
            elif redirect.host is None:
                is_outdated = True
                replies[index] = _unavailable(reply)
            elif redirect.is_once:
                replies[index] = self._ask(redirect.host, commands[index])
            else:
                is_outdated = True
                self._map.move(redirect.slot, redirect.host)
                replies[index] = _unavailable(reply)  # unless another attempt succeeds
                moved.append(index)
        if is_outdated:
            self._refresh(node)
        return moved

    def _ask(self, node: Host, command: Command) -> Any:
        """Execute a command on the node to which its slot is moving."""
        try:
            connection = self._open(node)
            _, reply = connection.execute(("ASKING",), command)
        except NodeUnavailable as error:
            return error
        except BackplaneError as error:
            return self._fail(node, error)
        return reply if redirect_of(reply, node) is None else _unavailable(reply)

    def _open(self, node: Host) -> RedisConnection:
        connection = self._connections.get(node)
        if connection is not None and not connection.closed:
            return connection
        until, failure = self._failures.get(node, (0.0, None))
        if failure is not None and time.monotonic() < until:
            raise failure
        try:
            connection = RedisConnection(self._map.address(node), self._timeout)
            self._connections[node] = connection
            (info,) = connection.execute(("INFO", "server"))
        except BackplaneError as error:
            raise self._fail(node, error) from error
        self._infos[node] = b"" if isinstance(info, BackplaneError) else info
        self._failures.pop(node, None)
        return connection

    def _fail(self, node: Host, error: BackplaneError) -> NodeUnavailable:
        """Handle that a node has failed; raise `BackplaneError` if no node can be reached."""
        failure = NodeUnavailable(str(error))
        self._discard(node)
        self._failures[node] = time.monotonic() + PAUSE, failure
        self._refresh(node)
        return failure

    def _refresh(self, node: Host) -> None:
        try:
            self._map.refresh(avoid=node)
        except BackplaneError:
            self.close()
            raise

    def _discard(self, node: Host) -> None:
        connection = self._connections.pop(node, None)
        self._infos.pop(node, None)
        if connection is not None:
            connection.close()


def _key_of(command: Command) -> bytes | None:
    """Return the first key of a command, or None if it has none."""
    name = command[0]
    if name in ("EVAL", "EVALSHA"):
        return _bytes(command[3]) if int(command[2]) else None
    if name in ("PING", "INFO", "SCRIPT", "TIME", "CONFIG", "CLUSTER") or len(command) < 2:
        return None
    return _bytes(command[1])


def _bytes(word: Any) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def _unavailable(reply: Any) -> NodeUnavailable:
    return NodeUnavailable(str(reply))
