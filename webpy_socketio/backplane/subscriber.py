"""Subscriber: the topics of this process, and the messages received on them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection

from webpy_socketio.backplane import GapCallback
from webpy_socketio.backplane.addresses import is_cluster
from webpy_socketio.backplane.envelope import Envelope, InvalidEnvelope, decode, envelope_prefix
from webpy_socketio.backplane.pubsub import PubSub
from webpy_socketio.backplane.sequence import Groups, Positions, RecentGroups
from webpy_socketio.backplane.topics import SERVERS, Topic
from webpy_socketio.backplane.warning_log import WarningLog
from webpy_socketio.exceptions import BackplaneError

__all__ = ["Subscriber"]

logger = logging.getLogger("webpy_socketio")

#: Seconds without a byte after which the connection is lost. A network may drop an idle connection
#: without notice.
READ_TIMEOUT = 15.0

#: Seconds to wait for Redis to confirm a subscription.
CONFIRM_TIMEOUT = 1.0


class _Subscription:
    """A topic with sockets of this process."""

    __slots__ = ("positions", "references", "topic", "unconfirmed")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        #: Number of references.
        self.references = 0
        #: Whether `wait` returned before Redis had confirmed the subscription.
        self.unconfirmed = False
        self.positions = Positions()


class Subscriber:
    """Subscribes to topics and delivers their messages; for the hub's thread only.

    `on_gap` is called when messages are missing. `on_copy` is called with further copies of a
    broadcast on topics that are not ordered, which are not delivered, and the number of such
    broadcasts up to the first copy. Neither may block, like `deliver`.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        node: str,
        deliver: Callable[[Topic, Envelope], None],
        on_gap: GapCallback,
        counts: Counter[str],
        on_copy: Callable[[Topic, Envelope, int], None],
    ) -> None:
        self._prefix = prefix
        self._own_prefix = envelope_prefix(node)
        self._deliver = deliver
        self._on_gap = on_gap
        self._on_copy = on_copy
        self._counts = counts
        self._subscriptions: dict[bytes, _Subscription] = {}
        self._groups = RecentGroups() if is_cluster(url) else Groups()
        self._warnings = WarningLog()
        self._pubsub = PubSub(
            url,
            self._on_message,
            on_subscribed=self._on_subscribed,
            on_unsubscribed=self._on_unsubscribed,
            on_resubscribed=self._report_gap,
            on_lost=self._on_lost,
            timeout=READ_TIMEOUT,
        )
        #: Set after the first attempt to connect.
        self.attempted = self._pubsub.attempted

    @property
    def received_groups(self) -> int:
        """Number of received broadcasts on several topics, if they are not ordered."""
        return self._groups.count

    @property
    def connected(self) -> bool:
        """Whether the connection to Redis is open."""
        return self._pubsub.connected

    def subscribe(self, topic: Topic) -> None:
        """Add a reference to a topic."""
        address = topic.address(self._prefix)
        subscription = self._subscriptions.get(address)
        if subscription is None:
            subscription = self._subscriptions[address] = _Subscription(topic)
            self._pubsub.subscribe(address)
        subscription.references += 1

    def unsubscribe(self, topic: Topic) -> None:
        """Remove a reference to a topic."""
        address = topic.address(self._prefix)
        subscription = self._subscriptions[address]
        subscription.references -= 1
        if not subscription.references:
            del self._subscriptions[address]
            self._pubsub.unsubscribe(address)

    def retire(self, topics: Collection[Topic]) -> None:
        """Unsubscribe from topics, but deliver their messages until Redis confirms.

        The references remain: `unsubscribe` must follow.

        Raises:
            BackplaneError: Redis has not confirmed in time.
        """
        addresses = [topic.address(self._prefix) for topic in topics]
        for address in addresses:
            self._pubsub.unsubscribe(address)
        for address in addresses:
            if not self._pubsub.wait(address, CONFIRM_TIMEOUT):
                raise BackplaneError("Redis has not confirmed the end of subscriptions")

    def wait(self, topic: Topic) -> None:
        """Wait up to `CONFIRM_TIMEOUT` until Redis confirms; return at once if disconnected."""
        address = topic.address(self._prefix)
        if not self._pubsub.wait(address, CONFIRM_TIMEOUT) and address in self._subscriptions:
            self._subscriptions[address].unconfirmed = True

    def wait_until_settled(self, topic: Topic) -> None:
        """Wait until the state of a topic is the requested one, for `CONFIRM_TIMEOUT` at most."""
        self._pubsub.wait(topic.address(self._prefix), CONFIRM_TIMEOUT)

    def is_subscribed(self, topic: Topic) -> bool:
        """Return whether messages on the topic reach this process."""
        return self._pubsub.is_subscribed(topic.address(self._prefix))

    def positions(self, topic: Topic) -> dict[str, tuple[int, int]]:
        """Return epoch and number of the last message of each node on a topic."""
        subscription = self._subscriptions.get(topic.address(self._prefix))
        return {} if subscription is None else subscription.positions.to_dict()

    def stop(self) -> None:
        """Stop the greenlets and close the connection."""
        self._pubsub.stop()

    def _report_gap(
        self, node: str | None = None, missed: int | None = None, topic: Topic | None = None
    ) -> None:
        self._counts["gaps"] += 1
        self._on_gap(node, missed, topic)

    # -- callbacks of the connection

    def _on_lost(self, addresses: Collection[bytes]) -> None:
        for address in addresses:
            subscription = self._subscriptions.get(address)
            if subscription is not None:
                subscription.positions = Positions()

    def _on_subscribed(self, address: bytes) -> None:
        subscription = self._subscriptions[address]
        if subscription.unconfirmed:
            subscription.unconfirmed = False
            if not self._pubsub.resubscribing:  # otherwise one gap covers all topics
                self._report_gap(topic=subscription.topic)

    def _on_unsubscribed(self, address: bytes) -> None:
        subscription = self._subscriptions.get(address)
        if subscription is not None:  # subscribed again in the meantime
            subscription.positions = Positions()

    def _on_message(self, address: bytes, payload: bytes) -> None:
        subscription = self._subscriptions.get(address)
        if subscription is None:
            return
        topic = subscription.topic
        is_own = payload.startswith(self._own_prefix)
        # Redis counts this process as a recipient of its own request.
        if is_own and topic.kind != SERVERS:
            return
        try:
            envelope = decode(payload, topic)
        except InvalidEnvelope as error:
            self._counts["ignored"] += 1
            self._warnings.warn("ignored an invalid message on topic %r: %s", address, str(error))
            return
        if is_own:
            self._deliver(topic, envelope)
            return
        verdict = subscription.positions.check(envelope)
        if verdict.gap and envelope.mark is not None:
            self._report_gap(envelope.mark.node, verdict.missed, topic)
        if not verdict.fresh or (envelope.packet is None and envelope.cut is None):
            return
        if envelope.group is not None:
            copy = self._groups.check(envelope)
            if copy.gap and envelope.mark is not None:
                self._report_gap(envelope.mark.node, copy.missed, topic)
            if not copy.fresh:
                if copy.order is not None:
                    self._on_copy(topic, envelope, copy.order)
                return
        self._deliver(topic, envelope)
