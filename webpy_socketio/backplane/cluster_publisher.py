"""Publisher of a Redis Cluster: one `Publisher` for each node that owns topics in use."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from typing import Any

import gevent
import gevent.event

from webpy_socketio.backplane.addresses import Host, parse_address
from webpy_socketio.backplane.cluster_map import ClusterMap, redirect_of, slot_of
from webpy_socketio.backplane.connection import RedisConnection, check_files
from webpy_socketio.backplane.outage import Outage
from webpy_socketio.backplane.publisher import OutgoingMessage, Publisher
from webpy_socketio.backplane.sequence import SequenceCounter
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.exceptions import BackplaneError, NodeUnavailable

__all__ = ["ClusterPublisher"]

logger = logging.getLogger("webpy_socketio")

#: Seconds between two requests for the map of the cluster: usually, and while a node fails.
REFRESH_INTERVAL, RETRY_INTERVAL = 10.0, 0.5

#: Redirections of a message after which it is dropped, and seconds before further ones.
MAX_REDIRECTS, REDIRECT_PAUSE = 40, 0.05

#: Topics in slots that no node serves, whose receivers must learn about lost messages later.
MAX_UNSERVED = 16_384

#: Seconds in which the first connection to a node is awaited.
CONNECT_TIMEOUT = 1.0


class ClusterPublisher:
    """Publishes messages on the nodes that own their topics; for the hub's thread only.

    Messages on one topic are published in the order of `put`, also when its slot moves: messages
    that wait for the old node move to the new one together, and not while others are under way. A
    node that is unreachable does not affect messages for others.
    """

    def __init__(
        self, url: str, prefix: str, sequence: SequenceCounter, counts: Counter[str]
    ) -> None:
        #: Set after the first attempt to read the map of the cluster.
        self.attempted = gevent.event.Event()
        #: Reason why the map of the cluster is unknown.
        self.error: BackplaneError | None = None
        address = parse_address(url)
        check_files(address)
        self.prefix = prefix
        self.sequence = sequence
        self.counts = counts
        self.map = ClusterMap(address)
        self._publishers: dict[Host, _NodePublisher] = {}
        #: The node on which messages of a slot are published; it changes between two batches.
        self._routes: dict[int, Host] = {}
        #: Messages from before the map was known.
        self._early: deque[OutgoingMessage] = deque()
        self._unserved: dict[Topic, None] = {}
        self._stopping = False
        self._wake = gevent.event.Event()
        self._outage = Outage("messages to other processes are dropped")
        self._greenlet = gevent.spawn(self._run)

    @property
    def connected(self) -> bool:
        """Whether the map is known, and all nodes in use can be reached."""
        return self.map.is_known and all(each.connected for each in self._publishers.values())

    def check_connected(self, topic: Topic) -> None:
        """Raise `BackplaneError` if a message on the topic cannot be sent now."""
        if not self.map.is_known:
            raise self.error or BackplaneError("the Redis Cluster has not replied yet")
        self._publisher_of(topic).check_connected(topic)

    def wait_until_attempted(self, topic: Topic) -> None:
        """Wait until the first attempt to connect to the node of a topic; a second at most."""
        if not self.map.is_known or gevent.getcurrent() is gevent.get_hub():
            return
        with contextlib.suppress(NodeUnavailable):  # `check_connected` raises it as well
            publisher = self._publisher_of(topic)
            if not publisher.attempted.wait(CONNECT_TIMEOUT):
                publisher.attempted.set()  # further callers do not wait

    def _publisher_of(self, topic: Topic) -> _NodePublisher:
        """Return the publisher for a topic; raise `NodeUnavailable` if no node serves it."""
        address = topic.address(self.prefix)
        host = self.map.owner_of(address)
        return self._publisher(self._routes.get(slot_of(address), host))

    def put(self, outgoing: OutgoingMessage) -> None:
        """Queue a message; drop it if the queue of its node is full."""
        slot = slot_of(outgoing.topic.address(self.prefix))
        host = self._routes.get(slot)
        if host is None:
            host = self.map.owner(slot)
            if host is None:
                self._put_unserved(outgoing, slot)
                return
            self._routes[slot] = host
        self._publisher(host).put(outgoing)

    def stop(self, timeout: float) -> None:
        """Send queued messages for at most `timeout` seconds, then stop."""
        self._stopping = True
        self._wake.set()
        stopping = [gevent.spawn(each.stop, timeout) for each in self._publishers.values()]
        gevent.joinall(stopping)

    def redirect(self, publisher: _NodePublisher, rejected: list[OutgoingMessage]) -> None:
        """Publish messages on the nodes that own their topics now.

        Call between two batches.

        Args:
            publisher: A node; messages wait in its queue.
            rejected: Messages that it has redirected. They precede those of the queue.
        """
        for slot, host in list(self._routes.items()):
            if host == publisher.host and self.map.owner(slot) not in (None, host):
                del self._routes[slot]
        for outgoing in [*rejected, *publisher.take_all()]:
            outgoing.redirects += 1
            self.put(outgoing)
        for topic in publisher.take_lost_topics():
            self._publish_marker(topic)

    def refresh_soon(self) -> None:
        """Request the map of the cluster."""
        self._wake.set()

    def _publisher(self, host: Host) -> _NodePublisher:
        publisher = self._publishers.get(host)
        if publisher is None:
            publisher = self._publishers[host] = _NodePublisher(self, host)
        return publisher

    def _put_unserved(self, outgoing: OutgoingMessage, slot: int) -> None:
        """Keep a message from before the map was known; otherwise drop it."""
        is_early = not self.map.is_known and not self.attempted.is_set()
        if is_early and outgoing.result is None and len(self._early) < MAX_UNSERVED:
            self._early.append(outgoing)
            return
        if outgoing.message is not None:
            self.counts["dropped"] += 1
        self.drop_topic(outgoing.topic)
        if outgoing.result is not None:
            error = self.error or NodeUnavailable(f"no node of {self.map} serves slot {slot}")
            outgoing.result.set_exception(error)

    def drop_topic(self, topic: Topic) -> None:
        """Notify the receivers of a topic about lost messages when its slot is served again."""
        if len(self._unserved) < MAX_UNSERVED:
            self._unserved[topic] = None
        self._wake.set()

    def _publish_marker(self, topic: Topic) -> None:
        self.put(OutgoingMessage(topic, self.sequence.next(topic), None))

    # -- map of the cluster

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.map.refresh()
                self.error = None
                self._outage.end(str(self.map), "messages to other processes are sent again")
                self._update()
            except BackplaneError as error:
                self.error = error
                self._outage.begin(error)
            except Exception:  # a bug must not stop the publisher
                logger.exception("assigning topics to the nodes of a Redis Cluster failed")
            self.attempted.set()
            self._flush_early()
            if self.connected and not self._unserved:
                self._wake.wait(REFRESH_INTERVAL)
            else:
                gevent.sleep(RETRY_INTERVAL)

    def _update(self) -> None:
        """Apply the map of the cluster."""
        for publisher in list(self._publishers.values()):
            publisher.redirect_soon()
        owners = self.map.owners()
        for host in [host for host in self._publishers if host not in owners]:
            if host not in self._routes.values():
                publisher = self._publishers.pop(host)
                publisher.end(str(self.map))
        unserved, self._unserved = self._unserved, {}
        for topic in unserved:
            if self.map.owner(slot_of(topic.address(self.prefix))) is None:
                self._unserved[topic] = None
            else:
                self._publish_marker(topic)

    def _flush_early(self) -> None:
        early, self._early = self._early, deque()
        for outgoing in early:
            self.put(outgoing)


class _NodePublisher(Publisher):
    """The publisher of one node."""

    def __init__(self, owner: ClusterPublisher, host: Host) -> None:
        self._owner = owner
        self.host = host
        self._is_sending = False
        self._is_outdated = False
        self._rejected: list[OutgoingMessage] = []
        super().__init__(owner.map.address(host), owner.prefix, owner.sequence, owner.counts)

    def redirect_soon(self) -> None:
        """Redirect messages whose slot has moved, now or after the current batch."""
        if self._is_sending:
            self._is_outdated = True
        else:
            self._owner.redirect(self, [])

    def take_all(self) -> list[OutgoingMessage]:
        """Remove and return the queued messages of slots that another node owns."""
        owner = self._owner
        kept: deque[OutgoingMessage] = deque()
        taken = []
        for outgoing in self._queue:
            slot = slot_of(outgoing.topic.address(owner.prefix))
            if owner.map.owner(slot) in (None, self.host):
                kept.append(outgoing)
            else:
                taken.append(outgoing)
                self._bytes -= outgoing.size
        self._queue = kept
        return taken

    def take_lost_topics(self) -> list[Topic]:
        """Remove and return the topics with losses that another node owns."""
        owner = self._owner
        taken = [
            topic
            for topic in self._lost_topics
            if owner.map.owner(slot_of(topic.address(owner.prefix))) not in (None, self.host)
        ]
        for topic in taken:
            del self._lost_topics[topic]
        return taken

    def end(self, address: str) -> None:
        """Stop, as the node owns no slots any more."""
        self._outage.end(address, f"{self._dropped} messages to other processes were dropped")
        self._stopping = True
        self._wake.set()

    def _send(self, connection: RedisConnection, batch: list[OutgoingMessage]) -> None:
        self._is_sending = True
        try:
            super()._send(connection, batch)
        finally:
            self._is_sending = False
            rejected, self._rejected = self._rejected, []
            if rejected or self._is_outdated:
                self._is_outdated = False
                self._owner.redirect(self, rejected)
        if rejected:
            self._owner.refresh_soon()
            if any(outgoing.redirects > 1 for outgoing in rejected):
                gevent.sleep(REDIRECT_PAUSE)

    def _publish(self, connection: RedisConnection, batch: list[OutgoingMessage]) -> list[Any]:
        return connection.publish_sharded([self._encode(outgoing) for outgoing in batch])

    def _set_results(self, batch: list[OutgoingMessage], results: list[Any]) -> None:
        own: list[OutgoingMessage] = []
        own_results: list[Any] = []
        for outgoing, result in zip(batch, results, strict=False):
            redirect = redirect_of(result, self.host)
            if redirect is None:
                own.append(outgoing)
                own_results.append(result)
            elif redirect.host is not None and outgoing.redirects < MAX_REDIRECTS:
                self._owner.map.move(redirect.slot, redirect.host)
                self._rejected.append(outgoing)
            else:
                self._drop_unserved(outgoing, result)
        super()._set_results(own, own_results)

    def _drop_unserved(self, outgoing: OutgoingMessage, error: BackplaneError) -> None:
        if outgoing.message is not None:
            self._drop(outgoing, NodeUnavailable(str(error)))
            self._lost_topics.pop(outgoing.topic, None)
        self._owner.drop_topic(outgoing.topic)

    def _fail_waiting(self, error: BackplaneError) -> None:
        super()._fail_waiting(error)
        self._owner.refresh_soon()
