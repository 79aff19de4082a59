"""Backplane interface: how a broadcast reaches the sockets of other processes.

Without ``SOCKETIO_BACKPLANE`` this package is unused: a single process needs no backplane. With
``"redis://..."``, broadcasts reach every process with the same Redis server and the same
``SOCKETIO_BACKPLANE_PREFIX``; see `webpy_socketio.backplane.redis`.

The signal `gap` reports that messages of other processes may be missing in this process::

    from webpy_socketio.backplane import gap

    @gap.connect
    def refetch(sender, node, missed, **extra):
        ...

A backplane does not know sockets. The registry subscribes to topics (`Backplane.subscribe`), and
the backplane calls its `deliver` callback for each message published on one of them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any, Protocol

import gevent

from webpy_socketio.backplane.topics import Topic
from webpy_socketio.bus.receivers import OrderedSignal
from webpy_socketio.engine.io.packets import Message

__all__ = ["MAX_BYTES", "Backplane", "Topic", "Warnings", "counts", "gap", "send_gap"]

logger = logging.getLogger("webpy_socketio")

#: Bytes of a message that may be published. Redis buffers published messages for each subscriber,
#: and disconnects a subscriber whose buffer reaches 32 MB.
MAX_BYTES = 1_000_000

#: Sent when messages of other processes are missing or may be missing.
#:
#: Its keywords are ``node``, the process that sent them; ``missed``, their number; and ``topic``,
#: their `Topic`. All three are None after this process lost its connection to Redis, because the
#: loss cannot be counted. Receivers run in a new greenlet and may block.
gap = OrderedSignal("Messages of other processes are missing or may be missing.")

#: Counters of events since the process started.
#:
#: ``"dropped"`` counts messages that were not published because Redis was unreachable or too slow,
#: ``"ignored"`` invalid messages received on a topic, and ``"gaps"`` signals sent.
counts: Counter[str] = Counter()


class Backplane(Protocol):
    """Interface that the registry uses to reach other processes; for the hub's thread only."""

    def subscribe(self, *topics: Topic) -> None:
        """Add a reference to each topic, and subscribe to new ones; does not block."""

    def unsubscribe(self, *topics: Topic) -> None:
        """Remove a reference to each topic; the last one ends the subscription; does not block."""

    def wait(self, *topics: Topic) -> None:
        """Wait until Redis has confirmed the subscriptions, or return if waiting is impossible."""

    def publish(self, message: Message, *topics: Topic, skip: str | None = None) -> None:
        """Send one copy to each other process subscribed to any of the topics; does not block.

        `skip` is the session id of a socket that must not receive the message.
        """

    def publish_and_count(self, message: Message, topic: Topic) -> bool:
        """Publish, wait for the reply, and return whether another process received the message.

        Raises:
            BackplaneError: Redis is unreachable or did not reply in time.
        """

    def stop(self) -> None:
        """Send queued messages for at most one second, then close the connections."""


class Warnings:
    """Warning log with at most one line per `interval`; further warnings are counted."""

    #: Seconds between two log lines.
    interval = 10.0

    def __init__(self) -> None:
        self._next = 0.0
        self._suppressed = 0

    def warn(self, text: str, *args: Any) -> None:
        """Log a warning, or count it for the next log line."""
        now = time.monotonic()
        if now < self._next:
            self._suppressed += 1
            return
        more = f" (and {self._suppressed} more warnings)" if self._suppressed else ""
        self._next, self._suppressed = now + self.interval, 0
        logger.warning(text + more, *args)


def send_gap(
    sender: Any, node: str | None = None, missed: int | None = None, topic: Topic | None = None
) -> None:
    """Send `gap` from a new greenlet, so that its receivers cannot delay messages."""
    counts["gaps"] += 1
    gevent.spawn(_send_gap, sender, node, missed, topic)


def _send_gap(sender: Any, node: str | None, missed: int | None, topic: Topic | None) -> None:
    for receiver in gap.receivers_for(sender):
        try:
            receiver(sender, node=node, missed=missed, topic=topic)
        except Exception:
            logger.exception("receiver %r of the signal 'gap' failed", receiver)
