"""Sequence numbers of envelopes, and the detection of gaps and duplicates."""

from __future__ import annotations

import secrets
from typing import NamedTuple, TypeVar

from webpy_socketio.backplane.envelope import Envelope, Mark
from webpy_socketio.backplane.topics import Topic

__all__ = ["Groups", "Positions", "SequenceCounter", "Verdict"]

K = TypeVar("K")
V = TypeVar("V")

#: Topics whose last number a sender keeps. The least recently used topic is discarded, and a new
#: sequence starts when it is used again.
MAX_TOPICS = 10_000

#: Nodes whose last number a receiver keeps for each topic; every cron job is a node.
MAX_NODES = 256


class SequenceCounter:
    """Sequence numbers of one process, one sequence for each topic.

    The numbers continue after a reconnect, so that lost messages are visible as a gap.
    """

    def __init__(self) -> None:
        #: New for each start: a restarted process starts new sequences.
        self.node = secrets.token_hex(8)
        self._last: dict[Topic, tuple[int, int]] = {}
        self._epochs = 0
        self._groups = 0

    def next(self, topic: Topic) -> Mark:
        """Return the mark of the next envelope on a topic."""
        last = self._last.get(topic)
        if last is None:
            self._epochs += 1
            last = (self._epochs, 0)
        epoch, number = last
        _remember(self._last, topic, (epoch, number + 1), MAX_TOPICS)
        return Mark(self.node, epoch, number + 1)

    def next_group(self) -> int:
        """Return the number of the next broadcast that is published on several topics."""
        self._groups += 1
        return self._groups


class Verdict(NamedTuple):
    """Result of checking an envelope's sequence number."""

    #: Whether the envelope is not a duplicate.
    fresh: bool
    #: Whether envelopes before it are missing.
    gap: bool = False
    #: Number of missing envelopes; None if unknown.
    missed: int | None = 0


class Positions:
    """Last received sequence numbers of one topic, by node."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def check(self, envelope: Envelope) -> Verdict:
        """Check the next envelope, and store its number."""
        node, epoch, number = envelope.mark
        last = self._last.get(node)
        if last is not None and (epoch, number) <= last:
            _remember(self._last, node, last, MAX_NODES)
            return Verdict(False)
        _remember(self._last, node, (epoch, number), MAX_NODES)
        if last is None:
            # The first envelope received from this node. One without a packet reports a loss, which
            # may have happened before the subscription.
            lost = envelope.packet is None
            return Verdict(True, lost, None if lost else 0)
        missed = number - 1 - (last[1] if epoch == last[0] else 0)
        return Verdict(True, missed > 0, missed)


class Groups:
    """Detects further copies of a broadcast that was published on several topics."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def is_new(self, envelope: Envelope) -> bool:
        """Return whether the broadcast is received for the first time."""
        if envelope.group is None:
            return True
        # Group numbers of a process increase: the last one is enough.
        node = envelope.mark.node
        last = self._last.get(node, 0)
        _remember(self._last, node, max(last, envelope.group), MAX_NODES)
        return envelope.group > last


def _remember(memory: dict[K, V], key: K, value: V, limit: int) -> None:
    """Store as the most recent entry, and discard the oldest one above `limit`."""
    memory.pop(key, None)
    if len(memory) >= limit:
        del memory[next(iter(memory))]
    memory[key] = value
