"""Sequence numbers of envelopes, and the detection of gaps and duplicates."""

from __future__ import annotations

import secrets
from typing import NamedTuple, TypeVar

from webpy_socketio.backplane.envelope import Envelope, Mark
from webpy_socketio.backplane.topics import Topic

__all__ = ["Groups", "Positions", "RecentGroups", "SequenceCounter", "Verdict"]

K = TypeVar("K")
V = TypeVar("V")

#: Topics whose last number a sender keeps. The least recently used topic is discarded, and a new
#: sequence starts when it is used again.
MAX_TOPICS = 10_000

#: Nodes whose last number a receiver keeps for each topic; every cron job is a node.
MAX_NODES = 256

#: Groups that a receiver in a cluster keeps for each node: a copy may follow the first one after
#: this number of other broadcasts on several topics.
MAX_GROUPS = 4096


class SequenceCounter:
    """Sequence numbers of one process, one sequence for each topic.

    The numbers continue after a reconnect, so that lost messages are visible as a gap.
    """

    def __init__(self) -> None:
        #: New for each start: a restarted process starts new sequences.
        self.node = secrets.token_hex(8)
        #: Epoch and last number of each topic, the most recently used last.
        self._last: dict[Topic, list[int]] = {}
        self._epochs = 0
        self._groups = 0

    def next(self, topic: Topic) -> Mark:
        """Return the mark of the next envelope on a topic."""
        last = self._last.pop(topic, None)
        if last is None:
            self._epochs += 1
            last = [self._epochs, 0]
        last[1] += 1
        _remember(self._last, topic, last, MAX_TOPICS)
        return Mark(self.node, *last)

    def last(self, topic: Topic) -> tuple[int, int] | None:
        """Return epoch and number of the last envelope on a topic, or None if there is none."""
        last = self._last.get(topic)
        return None if last is None else (last[0], last[1])

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
    #: For a further copy of a broadcast on several topics: the number of such broadcasts that were
    #: received up to its first copy, if it is known.
    order: int | None = None


#: The verdict of the next number.
_NEXT = Verdict(True)


class Positions:
    """Last received sequence numbers of one topic, by node."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def to_dict(self) -> dict[str, tuple[int, int]]:
        """Return epoch and number of the last envelope of each node."""
        return dict(self._last)

    def check(self, envelope: Envelope) -> Verdict:
        """Check the next envelope, and store its number."""
        if envelope.mark is None:
            return _NEXT
        node, epoch, number = envelope.mark
        last = self._last.get(node)
        if last is not None and (epoch, number) <= last:
            _remember(self._last, node, last, MAX_NODES)
            return Verdict(False)
        _remember(self._last, node, (epoch, number), MAX_NODES)
        if last is None:
            # The first envelope received from this node. One without a packet reports a loss, which
            # may have happened before the subscription; unless it is a marker.
            lost = envelope.packet is None and envelope.cut is None
            return Verdict(True, lost, None if lost else 0)
        missed = number - 1 - (last[1] if epoch == last[0] else 0)
        return Verdict(True, True, missed) if missed > 0 else _NEXT


class Groups:
    """Detects further copies of a broadcast that was published on several topics."""

    __slots__ = ("_last", "count")

    def __init__(self) -> None:
        #: Not counted: messages arrive in order, and the first copy is that of all recipients.
        self.count = 0
        self._last: dict[str, int] = {}

    def check(self, envelope: Envelope) -> Verdict:
        """Return whether the broadcast is received for the first time."""
        if envelope.group is None or envelope.mark is None:
            return _NEXT
        # Group numbers of a process increase: the last one is enough.
        node = envelope.mark.node
        last = self._last.get(node, 0)
        _remember(self._last, node, max(last, envelope.group), MAX_NODES)
        return _NEXT if envelope.group > last else Verdict(False)


class RecentGroups:
    """Detects further copies of a broadcast whose copies arrive by different nodes of a cluster.

    Each node keeps the order, but a copy may be later than copies of later broadcasts.
    """

    __slots__ = ("_recent", "count")

    def __init__(self) -> None:
        #: Number of broadcasts that were received.
        self.count = 0
        #: For each node the numbers of the last groups with the count at their first copies, and
        #: the number up to which all have left.
        self._recent: dict[str, tuple[dict[int, int], list[int]]] = {}

    def check(self, envelope: Envelope) -> Verdict:
        """Return whether the broadcast is received for the first time.

        It counts as missing if it is too late to know that.
        """
        group = envelope.group
        if group is None or envelope.mark is None:
            return _NEXT
        node = envelope.mark.node
        numbers, discarded = self._recent.get(node) or ({}, [0])
        _remember(self._recent, node, (numbers, discarded), MAX_NODES)
        if group in numbers:
            return Verdict(False, order=numbers[group])
        if group <= discarded[0]:
            return Verdict(False, True, None)
        self.count += 1
        numbers[group] = self.count
        if len(numbers) > MAX_GROUPS:
            oldest = next(iter(numbers))
            del numbers[oldest]
            discarded[0] = max(discarded[0], oldest)
        return _NEXT


def _remember(memory: dict[K, V], key: K, value: V, limit: int) -> None:
    """Store as the most recent entry, and discard the oldest one above `limit`."""
    memory.pop(key, None)
    if len(memory) >= limit:
        del memory[next(iter(memory))]
    memory[key] = value
