"""Subscriptions to sharded Pub/Sub of a Redis Cluster: one connection to each node in use."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event

from webpy_socketio.backplane.addresses import Host, RedisAddress, parse_address
from webpy_socketio.backplane.cluster_map import ClusterMap, redirect_of, slot_of
from webpy_socketio.backplane.connection import check_files
from webpy_socketio.backplane.pubsub import PubSub
from webpy_socketio.backplane.subscriptions import (
    SUBSCRIBED,
    SUBSCRIBING,
    UNSUBSCRIBED,
    UNSUBSCRIBING,
    Changes,
)
from webpy_socketio.exceptions import BackplaneError

if TYPE_CHECKING:
    from webpy_socketio.backplane.connection import RedisConnection

__all__ = ["ClusterPubSub"]

logger = logging.getLogger("webpy_socketio")

#: Seconds between two requests for the map of the cluster: usually, and while a node fails. A node
#: that becomes a replica keeps its subscriptions: only the map shows it.
REFRESH_INTERVAL, RETRY_INTERVAL = 10.0, 0.5


class ClusterPubSub(PubSub):
    """The `PubSub` of a cluster. Each topic is subscribed on the node that owns its slot.

    A topic moves to another node when the map of the cluster changes, when a node redirects its
    subscription, and when a node ends its subscription, as its slot has moved. Messages may be
    missed meanwhile: `on_lost` is called before, and `on_resubscribed` when all topics that have
    moved to a node are in force there.
    """

    def _prepare(self, url: str | RedisAddress, effect: str) -> None:
        address = url if isinstance(url, RedisAddress) else parse_address(url)
        check_files(address)
        self._effect = effect
        self._map = ClusterMap(address)
        #: Version of the map by which topics are assigned.
        self._version = -1
        self._links: dict[Host, _NodePubSub] = {}
        #: The node of each requested topic; None while no node serves its slot.
        self._homes: dict[bytes, Host | None] = {}
        #: The nodes of topics whose end is not confirmed.
        self._ending: dict[bytes, Host] = {}
        #: Topics that were in force and are not in force again, by their node.
        self._lost: defaultdict[Host | None, set[bytes]] = defaultdict(set)
        self._stopped = False

    @property
    def connected(self) -> bool:
        return self._map.is_known and all(link.connected for link in self._links.values())

    @property
    def resubscribing(self) -> bool:
        return bool(self._lost)

    def subscribe(self, topic: bytes) -> None:
        if not isinstance(topic, bytes):
            raise TypeError(f"the topic is {topic!r}, but must be bytes: use topic.encode()")
        if topic in self._homes:
            return
        home = self._homes[topic] = self._map.owner(slot_of(topic))
        if home is None:
            self._wake.set()
        else:
            self._link(home).subscribe(topic)

    def unsubscribe(self, topic: bytes) -> None:
        if topic not in self._homes:
            return
        home = self._homes.pop(topic)
        if home is not None:
            link = self._link(home)
            if not link.is_unsubscribed(topic):
                self._ending[topic] = home
            link.unsubscribe(topic)
        self._restored(topic, home)

    def is_subscribed(self, topic: bytes) -> bool:
        home = self._homes.get(topic)
        return home is not None and self._link(home).is_subscribed(topic)

    def wait(self, topic: bytes, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while True:
            home = self._homes.get(topic, self._ending.get(topic))
            if home is None:
                return topic not in self._homes
            link = self._link(home)
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if not link.attempted.is_set():
                if gevent.getcurrent() is gevent.get_hub():
                    return False
                link.attempted.wait(left)
            done = link.wait(topic, max(0.0, deadline - time.monotonic()))
            if self._homes.get(topic, self._ending.get(topic, home)) == home:
                return done

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        for link in self._links.values():
            link.stop()

    # -- map of the cluster

    def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                self._map.refresh()
                self._outage.end(str(self._map), self._consequence)
                self._assign()
            except BackplaneError as error:
                self._outage.begin(error)
            except Exception:  # a bug must not stop the subscriptions
                logger.exception("assigning topics to the nodes of a Redis Cluster failed")
            self.attempted.set()
            is_settled = self.connected and None not in self._homes.values()
            if is_settled:
                self._wake.wait(REFRESH_INTERVAL)
            else:
                gevent.sleep(RETRY_INTERVAL)

    def _assign(self) -> None:
        """Move topics to the nodes that own their slots now."""
        if self._version == self._map.version and None not in self._homes.values():
            return
        self._version = self._map.version
        for topic, home in list(self._homes.items()):
            owner = self._map.owner(slot_of(topic))
            if owner is not None and owner != home:
                self._move(topic, home, owner)
        used = self._map.owners() | set(self._homes.values()) | set(self._ending.values())
        for host in self._links.keys() - used:
            self._links.pop(host).end(str(self._map), self._consequence)

    def _link(self, host: Host) -> _NodePubSub:
        link = self._links.get(host)
        if link is None:
            link = self._links[host] = _NodePubSub(self, host)
        return link

    def _move(self, topic: bytes, home: Host | None, owner: Host) -> None:
        """Move a topic to the node that owns its slot now."""
        if home is not None:
            link = self._link(home)
            if link.is_subscribed(topic):
                self._lose([topic])
            link.leave(topic)
        self._set_home(topic, owner)
        self._link(owner).subscribe(topic)

    def _set_home(self, topic: bytes, owner: Host | None) -> None:
        home, self._homes[topic] = self._homes[topic], owner
        if topic in self._lost.get(home, ()):
            self._discard_lost(topic, home)
            self._lost[owner].add(topic)

    def _lose(self, topics: Collection[bytes]) -> None:
        """Handle that messages on topics may be missed from now on."""
        for topic in topics:
            self._lost[self._homes[topic]].add(topic)
        self._call(self._on_lost, topics)

    # -- callbacks of nodes

    def on_message(self, topic: bytes, payload: bytes) -> None:
        """Handle a message."""
        self._on_message(topic, payload)

    def on_node_subscribed(self, host: Host, topic: bytes) -> None:
        """Handle that a subscription is in force on a node."""
        if self._homes.get(topic) == host:
            if self._ending.get(topic) == host:  # subscribed again before a command was sent
                del self._ending[topic]
            self._call(self._on_subscribed, topic)
            self._restored(topic, host)

    def on_node_unsubscribed(self, host: Host, topic: bytes) -> None:
        """Handle that a node has confirmed the end of a subscription."""
        if self._ending.get(topic) == host:
            del self._ending[topic]
            self._call(self._on_unsubscribed, topic)

    def on_node_lost(self, host: Host, topics: Collection[bytes]) -> None:
        """Handle that the connection to a node has ended."""
        self._wake.set()
        lost = []
        for topic in topics:
            if self._ending.get(topic) == host:
                del self._ending[topic]
            if self._homes.get(topic) == host:
                lost.append(topic)
        self._call(self._on_disconnected)
        self._lose(lost)

    def on_slot_moved(self, host: Host, topics: Collection[bytes], owner: Host | None) -> None:
        """Handle that a node does not serve topics any more.

        Args:
            host: The node.
            topics: Subscriptions that the node has ended or rejected.
            owner: The node to which it has redirected the subscription, if it has.
        """
        self._wake.set()
        link = self._link(host)
        own = [topic for topic in topics if self._homes.get(topic) == host]
        self._lose([topic for topic in own if link.is_subscribed(topic)])
        for topic in topics:
            link.forget(topic)
            self.on_node_unsubscribed(host, topic)
        for topic in own:
            self._set_home(topic, owner)
            if owner is not None:  # otherwise `_assign` follows
                self._map.move(slot_of(topic), owner)
                self._link(owner).subscribe(topic)

    def _restored(self, topic: bytes, host: Host | None) -> None:
        """Handle that a topic is in force again, or is not needed any more."""
        if topic in self._lost.get(host, ()):
            self._discard_lost(topic, host)
            if host not in self._lost:
                self._call(self._on_resubscribed)

    def _discard_lost(self, topic: bytes, host: Host | None) -> None:
        self._lost[host].discard(topic)
        if not self._lost[host]:
            del self._lost[host]


class _NodePubSub(PubSub):
    """The subscriptions on one node."""

    _message, _subscribed, _unsubscribed = b"smessage", b"ssubscribe", b"sunsubscribe"

    def __init__(self, owner: ClusterPubSub, host: Host) -> None:
        self._owner = owner
        self.host = host
        #: Topics of the SSUBSCRIBE commands without a reply.
        self._sent: deque[list[bytes]] = deque()
        super().__init__(
            owner._map.address(host),
            owner.on_message,
            on_subscribed=lambda topic: owner.on_node_subscribed(host, topic),
            on_unsubscribed=lambda topic: owner.on_node_unsubscribed(host, topic),
            on_lost=lambda topics: owner.on_node_lost(host, topics),
            effect=owner._effect,
            consequence=owner._consequence,
            timeout=owner.timeout,
        )

    def is_unsubscribed(self, topic: bytes) -> bool:
        """Return whether the node has no subscription to a topic."""
        subscription = self._subscriptions.get(topic)
        return subscription is None or subscription.state is UNSUBSCRIBED

    def leave(self, topic: bytes) -> None:
        """Unsubscribe from a topic that another node serves now."""
        if self.connected:
            self.unsubscribe(topic)
        else:
            self.forget(topic)

    def forget(self, topic: bytes) -> None:
        """Remove a topic without a command."""
        self._subscriptions.forget(topic)

    def end(self, address: str, consequence: str) -> None:
        """Stop, as the node owns no slots any more."""
        self._outage.end(address, consequence)
        self.stop()

    def _begin(self) -> None:
        self._sent.clear()
        super()._begin()

    def _send(self, connection: RedisConnection, changes: Changes) -> None:
        commands: list[Sequence[str | bytes]] = [
            ("SUNSUBSCRIBE", *topics) for topics in _by_slot(changes.unsubscribe)
        ]
        for topics in _by_slot(changes.subscribe):
            self._sent.append(topics)
            commands.append(("SSUBSCRIBE", *topics))
        if commands:
            connection.send_all(commands)

    def _read_reply(self, connection: RedisConnection) -> Any:
        while True:
            try:
                return connection.read()
            except BackplaneError as error:
                if connection.closed or not self._handle_redirect(error):
                    raise

    def _handle_redirect(self, error: BackplaneError) -> bool:
        """Handle the error reply to SSUBSCRIBE or SUNSUBSCRIBE; return False if it is another."""
        redirect = redirect_of(error, self.host)
        if redirect is None:
            return False
        if redirect.host is not None:
            topics = [each for each in self._subscriptions if slot_of(each) == redirect.slot]
            for topic in topics:
                if self._subscriptions[topic].state is UNSUBSCRIBING:
                    super()._confirm(topic, UNSUBSCRIBED)
        elif self._sent:
            topics = list(self._sent[0])
        else:
            return False
        pending = {t for t in topics if self._state(t) is SUBSCRIBING}
        # An earlier reply may have moved its topics already, as they have the same slot.
        if self._sent and redirect.slot in (-1, slot_of(self._sent[0][0])):
            self._sent.popleft()
        self._owner.on_slot_moved(self.host, pending, redirect.host)
        return True

    def _state(self, topic: bytes) -> str:
        subscription = self._subscriptions.get(topic)
        return UNSUBSCRIBED if subscription is None else subscription.state

    def _confirm(self, topic: bytes, state: str) -> None:
        known = self._state(topic)
        if state is SUBSCRIBED:
            if self._sent and topic in self._sent[0]:
                self._sent[0].remove(topic)
                if not self._sent[0]:
                    self._sent.popleft()
            if known is SUBSCRIBING:
                super()._confirm(topic, state)
        elif known is UNSUBSCRIBING:
            super()._confirm(topic, state)
        elif known is SUBSCRIBED:  # without a command: the slot has moved
            self._owner.on_slot_moved(self.host, [topic], None)


def _by_slot(topics: list[bytes]) -> list[list[bytes]]:
    """Return lists of topics; those of a command must have the same slot."""
    found: defaultdict[int, list[bytes]] = defaultdict(list)
    for topic in topics:
        found[slot_of(topic)].append(topic)
    return list(found.values())
