"""Requested and confirmed subscriptions to topics of Redis Pub/Sub."""

from __future__ import annotations

from typing import NamedTuple

import gevent.event

__all__ = [
    *("SUBSCRIBED", "SUBSCRIBING", "UNSUBSCRIBED", "UNSUBSCRIBING"),
    *("Changes", "Subscription", "Subscriptions"),
]

UNSUBSCRIBED, SUBSCRIBING, SUBSCRIBED, UNSUBSCRIBING = (
    "unsubscribed",
    "subscribing",
    "subscribed",
    "unsubscribing",
)


class Subscription:
    """Subscription to one topic, with at most one pending command."""

    __slots__ = ("_changed", "state", "topic", "wanted")

    def __init__(self, topic: bytes) -> None:
        self.topic = topic
        self.wanted = False
        self.state = UNSUBSCRIBED
        self._changed: gevent.event.Event | None = None

    @property
    def settled(self) -> bool:
        """Whether Redis has confirmed the requested state."""
        return self.state is (SUBSCRIBED if self.wanted else UNSUBSCRIBED)

    def set_state(self, state: str) -> None:
        """Store the state and wake the greenlets that wait for a change."""
        self.state = state
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def wait_for_change(self) -> None:
        """Wait for the next call of `set_state`."""
        if self._changed is None:
            self._changed = gevent.event.Event()
        self._changed.wait()


class Changes(NamedTuple):
    """Topics to subscribe, to unsubscribe, and to leave subscribed."""

    subscribe: list[bytes]
    unsubscribe: list[bytes]
    #: Unsubscribed and subscribed again before a command was sent.
    renewed: list[bytes]


class Subscriptions(dict[bytes, Subscription]):
    """Subscriptions by topic: those that are requested, in force or being changed."""

    def __init__(self) -> None:
        super().__init__()
        #: Subscriptions whose state may differ from the requested one.
        self._dirty: dict[Subscription, None] = {}

    def add(self, topic: bytes) -> bool:
        """Request a subscription; return False if it is requested already."""
        subscription = self.get(topic)
        if subscription is None:
            subscription = self[topic] = Subscription(topic)
        if subscription.wanted:
            return False
        subscription.wanted = True
        self._dirty[subscription] = None
        return True

    def discard(self, topic: bytes) -> bool:
        """Request the end of a subscription; return False if there is none."""
        subscription = self.get(topic)
        if subscription is None or not subscription.wanted:
            return False
        subscription.wanted = False
        if subscription.state is UNSUBSCRIBED:  # the SUBSCRIBE was not sent
            del self[topic]
            self._dirty.pop(subscription, None)
            subscription.set_state(UNSUBSCRIBED)
        else:
            self._dirty[subscription] = None
        return True

    def forget(self, topic: bytes) -> None:
        """Remove a subscription that is in force on no connection."""
        subscription = self.pop(topic, None)
        if subscription is not None:
            self._dirty.pop(subscription, None)
            subscription.wanted = False
            subscription.set_state(UNSUBSCRIBED)

    def pending(self, topic: bytes) -> Subscription | None:
        """Return the subscription unless Redis has confirmed the requested state."""
        subscription = self.get(topic)
        return None if subscription is None or subscription.settled else subscription

    def take_changes(self) -> Changes:
        """Return the topics whose commands must be sent now."""
        changes = Changes([], [], [])
        dirty, self._dirty = self._dirty, {}
        for subscription in dirty:
            if subscription.wanted and subscription.state is UNSUBSCRIBED:
                subscription.state = SUBSCRIBING
                changes.subscribe.append(subscription.topic)
            elif subscription.wanted and subscription.state is SUBSCRIBED:
                changes.renewed.append(subscription.topic)
            elif not subscription.wanted and subscription.state is SUBSCRIBED:
                subscription.state = UNSUBSCRIBING
                changes.unsubscribe.append(subscription.topic)
        return changes

    def confirm(self, topic: bytes, state: str) -> bool:
        """Store a state that Redis has confirmed; return whether it is the requested one."""
        subscription = self[topic]
        subscription.set_state(state)
        if not subscription.settled:
            self._dirty[subscription] = None
            return False
        self._dirty.pop(subscription, None)
        if state is UNSUBSCRIBED:
            del self[topic]
        return True

    def reset(self) -> None:
        """Discard all confirmations after a connection has ended; requests remain."""
        for subscription in list(self.values()):
            subscription.set_state(UNSUBSCRIBED)
            if not subscription.wanted:
                del self[subscription.topic]
        self._dirty = dict.fromkeys(self.values())
