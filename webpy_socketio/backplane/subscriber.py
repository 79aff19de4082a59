"""Subscriber: one connection to Redis, with one greenlet that reads and one that writes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from webpy_socketio.backplane import Warnings, counts, send_gap
from webpy_socketio.backplane.connection import Connector, RedisConnection, reconnect_delays
from webpy_socketio.backplane.envelope import Envelope, InvalidEnvelope, decode, envelope_prefix
from webpy_socketio.backplane.outage import Outage
from webpy_socketio.backplane.sequence import Groups, Positions
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.exceptions import BackplaneError

__all__ = ["Subscriber"]

logger = logging.getLogger("webpy_socketio")

#: Seconds between two PINGs, and seconds without a byte after which the connection is dead. A
#: network may drop an idle connection without notice.
PING_INTERVAL = 10.0
READ_TIMEOUT = 15.0

#: Seconds to wait for Redis to confirm a subscription.
CONFIRM_TIMEOUT = 1.0

#: Messages read before other greenlets run: reading data that is already there does not yield.
BATCH_SIZE = 64

_UNSUBSCRIBED, _SUBSCRIBING, _SUBSCRIBED, _UNSUBSCRIBING = (
    "unsubscribed",
    "subscribing",
    "subscribed",
    "unsubscribing",
)

#: PING sent after the SUBSCRIBE commands of a new connection. Its reply shows that they are in
#: force.
_RESUBSCRIBED = b"resubscribed"


class _Subscription:
    """Subscription to one topic, with at most one pending command."""

    __slots__ = ("address", "changed", "positions", "references", "state", "topic", "unconfirmed")

    def __init__(self, topic: Topic, address: bytes) -> None:
        self.topic = topic
        self.address = address
        #: Number of references.
        self.references = 0
        self.state = _UNSUBSCRIBED
        #: Whether `wait` returned before Redis had confirmed the subscription.
        self.unconfirmed = False
        self.changed: gevent.event.Event | None = None
        self.positions = Positions()

    def set_state(self, state: str) -> None:
        """Store the state and wake the greenlets that wait for it."""
        self.state = state
        if self.changed is not None:
            self.changed.set()
            self.changed = None


class Subscriber:
    """Subscribes to topics and delivers their messages; for the hub's thread only."""

    def __init__(
        self, url: str, prefix: str, node: str, deliver: Callable[[Topic, Envelope], None]
    ) -> None:
        #: Set after the first attempt to connect.
        self.attempted = gevent.event.Event()
        self._connector = Connector(url)
        self._prefix = prefix
        self._own_prefix = envelope_prefix(node)
        self._deliver = deliver
        self._topics: dict[Topic, _Subscription] = {}
        self._by_address: dict[bytes, _Subscription] = {}
        self._dirty: dict[_Subscription, None] = {}
        self._wake = gevent.event.Event()
        self._connected = False
        #: Set when waiting for Redis timed out: no further caller waits until it replies again.
        self._unresponsive = False
        #: Whether messages may have been missed while there was no connection.
        self._missed = False
        self._groups = Groups()
        self._warnings = Warnings()
        self._outage_log = Outage("messages of other processes are missed")
        self._greenlet = gevent.spawn(self._run)

    def subscribe(self, topic: Topic) -> None:
        """Add a reference to a topic."""
        subscription = self._topics.get(topic)
        if subscription is None:
            subscription = _Subscription(topic, topic.address(self._prefix))
            self._topics[topic] = self._by_address[subscription.address] = subscription
        subscription.references += 1
        if subscription.references == 1:
            self._request_change(subscription)

    def unsubscribe(self, topic: Topic) -> None:
        """Remove a reference to a topic."""
        subscription = self._topics[topic]
        subscription.references -= 1
        if not subscription.references:
            if self._connected:
                self._request_change(subscription)
            else:
                self._remove(subscription)

    def wait(self, topic: Topic) -> None:
        """Wait up to `CONFIRM_TIMEOUT` until Redis confirms; return at once if disconnected."""
        subscription = self._topics[topic]
        if not self._wait_for_state(subscription, _SUBSCRIBED):
            subscription.unconfirmed = True

    def wait_until_settled(self, topic: Topic) -> None:
        """Wait until the state of a topic is the requested one, for `CONFIRM_TIMEOUT` at most."""
        subscription = self._topics.get(topic)
        if subscription is not None:
            self._wait_for_state(
                subscription, _SUBSCRIBED if subscription.references else _UNSUBSCRIBED
            )

    def is_subscribed(self, topic: Topic) -> bool:
        """Return whether messages on the topic reach this process."""
        subscription = self._topics.get(topic)
        return subscription is not None and subscription.state is _SUBSCRIBED

    def stop(self) -> None:
        """Stop the greenlets and close the connection."""
        self._connector.end(self._greenlet)

    # -- requested subscriptions

    def _request_change(self, subscription: _Subscription) -> None:
        self._dirty[subscription] = None
        self._wake.set()

    def _wait_for_state(self, subscription: _Subscription, state: str) -> bool:
        if subscription.state is state:
            return True
        on_hub = gevent.getcurrent() is gevent.get_hub()
        if not self._connected or self._unresponsive or on_hub:
            return False
        with gevent.Timeout(CONFIRM_TIMEOUT, False):
            while self._connected and subscription.state is not state:
                if subscription.changed is None:
                    subscription.changed = gevent.event.Event()
                subscription.changed.wait()
            return subscription.state is state
        self._unresponsive = True
        return False

    def _remove(self, subscription: _Subscription) -> None:
        del self._topics[subscription.topic]
        del self._by_address[subscription.address]
        self._dirty.pop(subscription, None)

    # -- connection

    def _run(self) -> None:
        delays = reconnect_delays()
        while not self._connector.ended:
            connection = writer = None
            try:
                connection = self._connector.open(READ_TIMEOUT)
                delays = reconnect_delays()
                self._on_connected()
                self.attempted.set()
                writer = gevent.spawn(self._write, connection)
                self._read(connection)
            except BackplaneError as error:
                if not self._connector.ended:
                    self._outage_log.begin(error)
            except Exception:  # a bug must not stop the subscriber
                logger.exception("the subscriber of the backplane failed; it reconnects")
            finally:
                if connection is not None:
                    connection.close()
                if writer is not None:
                    writer.kill()
                self._on_disconnected()
            self.attempted.set()
            if not self._connector.ended:
                gevent.sleep(next(delays))

    def _on_connected(self) -> None:
        self._connected, self._unresponsive = True, False
        self._missed = bool(self._topics)
        self._dirty = dict.fromkeys(self._topics.values())

    def _on_disconnected(self) -> None:
        self._connected = False
        self._groups = Groups()
        for subscription in list(self._topics.values()):
            subscription.positions = Positions()
            subscription.set_state(_UNSUBSCRIBED)
            if not subscription.references:
                self._remove(subscription)
        self._dirty.clear()

    def _write(self, connection: RedisConnection) -> None:
        try:
            self._send_changes(connection)
            connection.send("PING", _RESUBSCRIBED)
            while True:
                if self._wake.wait(PING_INTERVAL):
                    self._send_changes(connection)
                elif not connection.has_data():
                    # Writing to a connection that Redis has closed would discard unread data.
                    connection.send("PING")
        except BackplaneError:
            pass  # the reader drains the connection, fails and logs the error

    def _send_changes(self, connection: RedisConnection) -> None:
        self._wake.clear()
        dirty, self._dirty = self._dirty, {}
        wanted: list[bytes] = []
        unwanted: list[bytes] = []
        for subscription in dirty:
            if subscription.references and subscription.state is _UNSUBSCRIBED:
                subscription.state = _SUBSCRIBING
                wanted.append(subscription.address)
            elif not subscription.references and subscription.state is _SUBSCRIBED:
                subscription.state = _UNSUBSCRIBING
                unwanted.append(subscription.address)
            elif not subscription.references and subscription.state is _UNSUBSCRIBED:
                self._remove(subscription)  # unsubscribed before the command was sent
        connection.unsubscribe(unwanted)
        connection.subscribe(wanted)

    # -- received data

    def _read(self, connection: RedisConnection) -> None:
        count = 0
        while True:
            reply = connection.read()
            kind = reply[0] if isinstance(reply, list) else None
            if kind == b"message":
                self._on_message(reply[1], reply[2])
                count += 1
                if count % BATCH_SIZE == 0:
                    gevent.sleep(0)
            elif kind == b"subscribe" or kind == b"unsubscribe":
                self._on_confirmed(reply[1], _SUBSCRIBED if kind == b"subscribe" else _UNSUBSCRIBED)
            elif reply in (_RESUBSCRIBED, [b"pong", _RESUBSCRIBED]):
                self._on_resubscribed(connection.address)

    def _on_resubscribed(self, address: str) -> None:
        """Report that all subscriptions of a new connection are in force."""
        if self._missed:
            self._outage_log.end(
                address, "an unknown number of messages of other processes may be missing"
            )
            send_gap(self)
            self._missed = False
        else:
            self._outage_log.end(address, "nothing was missed, as no socket was connected")

    def _on_confirmed(self, address: bytes, state: str) -> None:
        self._unresponsive = False
        subscription = self._by_address[address]
        subscription.set_state(state)
        if state is _SUBSCRIBED and subscription.unconfirmed:
            subscription.unconfirmed = False
            if not self._missed:
                send_gap(self, topic=subscription.topic)
        if state is _UNSUBSCRIBED:
            subscription.positions = Positions()
            if not subscription.references:
                self._remove(subscription)
        if bool(subscription.references) != (state is _SUBSCRIBED):
            self._request_change(subscription)

    def _on_message(self, address: bytes, payload: Any) -> None:
        subscription = self._by_address.get(address)
        if subscription is None or payload.startswith(self._own_prefix):
            return
        topic = subscription.topic
        try:
            envelope = decode(payload, topic)
        except InvalidEnvelope as error:
            counts["ignored"] += 1
            self._warnings.warn("ignored an invalid message on topic %r: %s", address, str(error))
            return
        verdict = subscription.positions.check(envelope)
        if verdict.gap:
            send_gap(self, envelope.mark.node, verdict.missed, topic)
        if verdict.fresh and envelope.packet is not None and self._groups.is_new(envelope):
            try:
                self._deliver(topic, envelope)
            except Exception:  # a message that fails must not stop the others
                logger.exception("delivering a message of another process failed")
