"""How other processes hear of a broadcast: the interface, and what every backplane has in common.

Without ``SOCKETIO_BACKPLANE`` there is none, and nothing here does anything: one process needs
nothing. With ``"redis://..."`` the same functions reach every process that uses the same Redis and
``SOCKETIO_BACKPLANE_PREFIX``; see `webpy_socketio.backplane.redis`.

The signal `gap` tells that messages of other processes may be missing here::

    from webpy_socketio.backplane import gap

    @gap.connect
    def refetch(sender, node, missed, **extra):
        ...

A backplane knows nothing of sockets: it is told which topics somebody here wants to hear of
(`Backplane.hold`), and calls what it was given when something arrives on one.
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

#: Bytes of a message that may go to other processes. What is published waits in a buffer for each
#: of them, and Redis cuts a subscriber off whose buffer holds 32 MB.
MAX_BYTES = 1_000_000

#: Sent when messages of other processes are missing, or may be: ``node`` is the process that sent
#: them, and ``missed`` how many; ``topic`` is where, a `Topic`. After an outage of our own all three
#: are None: nobody can tell. Each time in a greenlet of its own; receivers may wait.
gap = OrderedSignal("Messages of other processes are missing, or may be.")

#: Since the process began: ``"dropped"``, what could not be published, as Redis was away for too
#: long or too slow; ``"ignored"``, what came on a topic and is none of ours; ``"gaps"`` signalled.
counts: Counter[str] = Counter()


class Backplane(Protocol):
    """What sockets need of the way to other processes; for the thread that they live in."""

    def subscribe(self, *topics: Topic) -> None:
        """Somebody here wants to hear of these; each call counts, and never waits."""

    def unsubscribe(self, *topics: Topic) -> None:
        """Take back what `hold` did; the last one out ends the subscription."""

    def wait(self, *topics: Topic) -> None:
        """Return once nothing can be missed on these, or when it cannot be waited for."""

    def publish(self, message: Message, *topics: Topic, skip: str | None = None) -> None:
        """Send to whoever holds one of the topics elsewhere, one copy each; never waits.

        `skip` is the session id of the one that is to be left out.
        """

    def publish_and_count(self, message: Message, topic: Topic) -> bool:
        """The same, and wait for the answer: whether anybody is there.

        Raises `BackplaneError` if there is no way to tell.
        """

    def stop(self) -> None:
        """Send what waits, for a second at most, and end."""


class Warnings:
    """A log that what happens a thousand times a second does not fill."""

    #: Seconds from one line to the next.
    interval = 10.0

    def __init__(self) -> None:
        self._next = 0.0
        self._untold = 0

    def warn(self, text: str, *args: Any) -> None:
        """Log a warning, or count it for the next one."""
        now = time.monotonic()
        if now < self._next:
            self._untold += 1
            return
        more = f" (and {self._untold} more like it)" if self._untold else ""
        self._next, self._untold = now + self.interval, 0
        logger.warning(text + more, *args)


def send_gap(
    sender: Any, node: str | None = None, missed: int | None = None, topic: Topic | None = None
) -> None:
    """Send `gap`, from a greenlet of its own: nothing that a receiver does holds messages up."""
    counts["gaps"] += 1
    gevent.spawn(_send_gap, sender, node, missed, topic)


def _send_gap(sender: Any, node: str | None, missed: int | None, topic: Topic | None) -> None:
    for receiver in gap.receivers_for(sender):
        try:
            receiver(sender, node=node, missed=missed, topic=topic)
        except Exception:
            logger.exception("a receiver of 'gap', %r, failed", receiver)
