"""Subscriptions to Redis Pub/Sub over one connection, which is replaced after a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event

from webpy_socketio.backplane.addresses import RedisAddress, is_cluster
from webpy_socketio.backplane.connector import (
    RedisConnector,
    import_opening,
    reconnect_delays,
)
from webpy_socketio.backplane.outage import Outage
from webpy_socketio.backplane.subscriptions import (
    SUBSCRIBED,
    UNSUBSCRIBED,
    Changes,
    Subscriptions,
)
from webpy_socketio.exceptions import BackplaneError

if TYPE_CHECKING:
    from webpy_socketio.backplane.connection import RedisConnection

__all__ = ["PubSub"]

logger = logging.getLogger("webpy_socketio")

#: Messages read before other greenlets run: reading data that is already there does not yield.
BATCH_SIZE = 64

#: PING sent after the SUBSCRIBE commands of a new connection. Its reply shows that they are in
#: force.
_RESUBSCRIBED = b"resubscribed"


class PubSub:
    """Subscriptions to topics of Redis Pub/Sub, over a separate connection.

    Redis may be unreachable at the start or at any later time. The connection is opened again with
    increasing delays of up to 2.5 seconds, and all topics are subscribed again. The loss and the
    return of Redis are logged.

    Topics are names of Redis Pub/Sub channels, as bytes. Delivery is at most once: Redis stores no
    messages. `on_subscribed`, `on_resubscribed` and `on_disconnected` report when messages may have
    been missed. Callbacks must not block. An exception in a callback is logged.

    In a Redis Cluster, topics are those of sharded Pub/Sub: each is subscribed on the node that
    serves its hash slot, over one connection to each node. A node that is unreachable does not
    affect the topics of others.

    Use a `PubSub` in the thread of the sockets only (see `run_on_hub`).

    Args:
        url: Redis URL, as in ``SOCKETIO_BACKPLANE``.
        on_message: Called with the topic and the payload of each message. Messages that Redis sent
            before an `unsubscribe` may follow it.
        on_subscribed: Called with a topic when its subscription is in force: after the first
            `subscribe`, after each that follows an `unsubscribe`, and after each reconnection.
            Messages sent before may have been missed.
        on_unsubscribed: Called with a topic when Redis has confirmed an `unsubscribe`.
        on_resubscribed: Called without arguments once all topics are subscribed again on a new
            connection.
        on_disconnected: Called without arguments when a connection has ended, also by `stop`.
        on_lost: Called with the topics whose messages may be lost until `on_subscribed` is called
            for them: those of a connection that has ended, or, in a Redis Cluster, of a slot that
            has moved.
        effect: End of the log line about a lost connection: what does not work meanwhile.
        consequence: End of the log line about a restored connection: what may have been missed.
        timeout: Seconds without a byte after which the connection is lost. A PING is sent after two
            thirds of it without changes of subscriptions.

    Raises:
        ConfigurationError: The URL is invalid, or the library ``redis`` is not installed.
        ValueError: The timeout is not positive.

    Example:
        Clear a cache when another program publishes on ``prices``, and after an outage::

            def install(settings):
                global pubsub
                pubsub = PubSub(
                    settings.backplane,
                    on_message=lambda topic, payload: cache.clear(),
                    on_subscribed=lambda topic: cache.clear(),
                    effect="prices are outdated",
                    consequence="prices are read again",
                )
                pubsub.subscribe(b"prices")

            def uninstall():
                pubsub.stop()
    """

    #: Names of published messages, and of confirmations.
    _message, _subscribed, _unsubscribed = b"message", b"subscribe", b"unsubscribe"

    def __new__(cls, url: str | RedisAddress, *args: Any, **keywords: Any) -> PubSub:
        """Return a `PubSub`, or the subclass for a Redis Cluster."""
        if cls is PubSub and isinstance(url, str) and is_cluster(url):
            import_opening()
            from webpy_socketio.backplane.cluster_pubsub import ClusterPubSub

            cls = ClusterPubSub
        return object.__new__(cls)

    def __init__(
        self,
        url: str | RedisAddress,
        on_message: Callable[[bytes, bytes], None],
        *,
        on_subscribed: Callable[[bytes], None] | None = None,
        on_unsubscribed: Callable[[bytes], None] | None = None,
        on_resubscribed: Callable[[], None] | None = None,
        on_disconnected: Callable[[], None] | None = None,
        on_lost: Callable[[Collection[bytes]], None] | None = None,
        effect: str = "messages of other processes are missed",
        consequence: str = "an unknown number of messages of other processes may be missing",
        timeout: float = 15.0,
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout!r}, but must be greater than 0 seconds")
        #: Set after the first attempt to connect.
        self.attempted = gevent.event.Event()
        #: The timeout of the next connection.
        self.timeout = timeout
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_unsubscribed = on_unsubscribed
        self._on_resubscribed = on_resubscribed
        self._on_disconnected = on_disconnected
        self._on_lost = on_lost
        self._consequence = consequence
        self._wake = gevent.event.Event()
        self._outage = Outage(effect)
        self._prepare(url, effect)
        self._greenlet = gevent.spawn(self._run)

    def _prepare(self, url: str | RedisAddress, effect: str) -> None:
        """Create what depends on the kind of address."""
        self._connector = RedisConnector(url)
        self._subscriptions = Subscriptions()
        self._connected = self._resubscribing = False
        #: Set when waiting for Redis timed out: no further caller waits until it replies again.
        self._unresponsive = False
        self._delays = reconnect_delays()

    @property
    def connected(self) -> bool:
        """Whether the connection to Redis is open; in a cluster, those to all nodes in use."""
        return self._connected

    @property
    def resubscribing(self) -> bool:
        """Whether topics that were in force before a failure are not in force again yet."""
        return self._resubscribing

    def subscribe(self, topic: bytes) -> None:
        """Subscribe to a topic; does not block.

        It has no effect if the topic is already subscribed, or its subscription is pending.

        Args:
            topic: Name of the Redis Pub/Sub channel. Patterns are not supported.

        Raises:
            TypeError: The topic is not bytes.
        """
        if not isinstance(topic, bytes):
            raise TypeError(f"the topic is {topic!r}, but must be bytes: use topic.encode()")
        if self._subscriptions.add(topic):
            self._wake.set()

    def unsubscribe(self, topic: bytes) -> None:
        """Unsubscribe from a topic; does not block, and does nothing if it is not subscribed.

        Args:
            topic: Name of the Redis Pub/Sub channel.
        """
        if self._subscriptions.discard(topic):
            self._wake.set()

    def is_subscribed(self, topic: bytes) -> bool:
        """Return whether a subscription is in force, as Redis has confirmed.

        Args:
            topic: Name of the Redis Pub/Sub channel.
        """
        subscription = self._subscriptions.get(topic)
        return subscription is not None and subscription.state is SUBSCRIBED

    def wait(self, topic: bytes, timeout: float) -> bool:
        """Wait until Redis has confirmed the last `subscribe` or `unsubscribe` of a topic.

        Returns False at once without a connection, and on gevent's hub. After a wait that timed
        out, it does so until Redis confirms a change again.

        Args:
            topic: Name of the Redis Pub/Sub channel.
            timeout: Longest wait, in seconds.

        Returns:
            Whether Redis has confirmed it.
        """
        if self._subscriptions.pending(topic) is None:
            return True
        on_hub = gevent.getcurrent() is gevent.get_hub()
        if not self.connected or self._unresponsive or on_hub:
            return False
        with gevent.Timeout(timeout, False):
            while pending := self._subscriptions.pending(topic):
                if not self.connected:
                    return False
                pending.wait_for_change()
            return True
        self._unresponsive = True
        return False

    def stop(self) -> None:
        """Close the connection, and stop the greenlets of this object."""
        self._connector.end(self._greenlet)

    # -- connection

    def _run(self) -> None:
        while not self._connector.ended:
            connection = writer = None
            try:
                timeout = self.timeout
                connection = self._connector.open(timeout)
                self._begin()
                self.attempted.set()
                writer = gevent.spawn(self._write, connection, timeout * 2 / 3)
                self._read(connection)
            except BackplaneError as error:
                if not self._connector.ended:
                    self._outage.begin(error)
            except Exception:  # a bug must not stop the subscriptions
                logger.exception("reading messages from Redis failed; the connection is replaced")
            finally:
                if connection is not None:
                    connection.close()
                if writer is not None:
                    writer.kill()
                if self.connected:
                    self._finish()
            self.attempted.set()
            if not self._connector.ended:
                gevent.sleep(next(self._delays))

    def _begin(self) -> None:
        self._connected, self._unresponsive = True, False
        self._resubscribing = bool(self._subscriptions)

    def _finish(self) -> None:
        self._connected = self._resubscribing = False
        lost = list(self._subscriptions)
        self._subscriptions.reset()
        self._call(self._on_disconnected)
        self._call(self._on_lost, lost)

    def _write(self, connection: RedisConnection, ping_interval: float) -> None:
        try:
            self._send_changes(connection)
            connection.send("PING", _RESUBSCRIBED)
            while True:
                if self._wake.wait(ping_interval):
                    self._send_changes(connection)
                elif not connection.has_data():
                    # Writing to a connection that Redis has closed would discard unread data.
                    connection.send("PING")
        except BackplaneError:
            pass  # the reader drains the connection, fails and logs the error

    def _send_changes(self, connection: RedisConnection) -> None:
        self._wake.clear()
        changes = self._subscriptions.take_changes()
        for topic in changes.renewed:  # Redis has nothing to confirm
            self._call(self._on_subscribed, topic)
        self._send(connection, changes)

    def _send(self, connection: RedisConnection, changes: Changes) -> None:
        connection.unsubscribe(changes.unsubscribe)
        connection.subscribe(changes.subscribe)

    # -- received data

    def _read(self, connection: RedisConnection) -> None:
        count = 0
        while True:
            reply = self._read_reply(connection)
            kind = reply[0] if isinstance(reply, list) else None
            if kind == self._message:
                try:
                    self._on_message(reply[1], reply[2])
                except Exception:  # a message that fails must not stop the others
                    logger.exception("handling a message on topic %r failed", reply[1])
                count += 1
                if count % BATCH_SIZE == 0:
                    gevent.sleep(0)
            elif kind == self._subscribed:
                self._confirm(reply[1], SUBSCRIBED)
            elif kind == self._unsubscribed:
                self._confirm(reply[1], UNSUBSCRIBED)
            elif reply in (_RESUBSCRIBED, [b"pong", _RESUBSCRIBED]):
                self._resubscribed(connection.address)

    def _read_reply(self, connection: RedisConnection) -> Any:
        return connection.read()

    def _confirm(self, topic: bytes, state: str) -> None:
        self._unresponsive = False
        is_wanted = self._subscriptions.confirm(topic, state)
        if not is_wanted:
            self._wake.set()
        if state is UNSUBSCRIBED:
            self._call(self._on_unsubscribed, topic)
        elif is_wanted:
            self._call(self._on_subscribed, topic)

    def _resubscribed(self, address: str) -> None:
        """Report that all subscriptions of a new connection are in force."""
        self._delays = reconnect_delays()
        if self.resubscribing:
            self._outage.end(address, self._consequence)
            self._call(self._on_resubscribed)
            self._resubscribing = False
        else:
            self._outage.end(address, "nothing was missed, as no topic was subscribed")

    def _call(self, callback: Callable[..., None] | None, *args: Any) -> None:
        if callback is not None:
            try:
                callback(*args)
            except Exception:  # a callback that fails must not stop the others
                logger.exception("a callback of Redis Pub/Sub, %r, failed", callback)
