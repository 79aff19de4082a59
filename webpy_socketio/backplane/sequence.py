"""Numbers on what is sent, and what they tell whoever receives it: pure data."""

from __future__ import annotations

import secrets
from typing import NamedTuple, TypeVar

from webpy_socketio.backplane.envelope import Envelope, Mark
from webpy_socketio.backplane.topics import Topic

__all__ = ["Groups", "Positions", "SequenceCounter", "Verdict"]

K = TypeVar("K")
V = TypeVar("V")

#: Topics of which a sender remembers the last number. Of one that is forgotten, with the topic that
#: was used longest ago going first, a new row begins.
MAX_TOPICS = 10_000

#: Nodes of which a topic's receiver remembers the last number: each cron job is a node of its own.
MAX_NODES = 256


class SequenceCounter:
    """The numbers of one process, topic by topic.

    They go on when the connection to Redis is a new one: what was lost on the way is a gap in them.
    """

    def __init__(self) -> None:
        #: Fresh for each start: a process that comes back begins new rows.
        self.node = secrets.token_hex(8)
        self._last: dict[Topic, tuple[int, int]] = {}
        self._epochs = 0
        self._groups = 0

    def next(self, topic: Topic) -> Mark:
        """The mark of the next envelope on a topic."""
        last = self._last.get(topic)
        if last is None:
            self._epochs += 1
            last = (self._epochs, 0)
        epoch, number = last
        _keep(self._last, topic, (epoch, number + 1), MAX_TOPICS)
        return Mark(self.node, epoch, number + 1)

    def next_group(self) -> int:
        """The number of the next broadcast that goes to several topics."""
        self._groups += 1
        return self._groups


class Verdict(NamedTuple):
    """What an envelope's mark tells."""

    #: Whether it has not been here before.
    fresh: bool
    #: Whether others should have come before it.
    gap: bool = False
    #: How many; None if nobody can tell.
    missed: int | None = 0


class Positions:
    """How far a receiver is in the rows of one topic."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def judge(self, envelope: Envelope) -> Verdict:
        """Take the next envelope."""
        node, epoch, number = envelope.mark
        last = self._last.get(node)
        if last is not None and (epoch, number) <= last:
            _keep(self._last, node, last, MAX_NODES)
            return Verdict(False)
        _keep(self._last, node, (epoch, number), MAX_NODES)
        if last is None:
            # The first of this node that is heard here; one without a packet is sent because of a
            # loss, and nobody can tell if that was before we began to listen.
            lost = envelope.packet is None
            return Verdict(True, lost, None if lost else 0)
        missed = number - 1 - (last[1] if epoch == last[0] else 0)
        return Verdict(True, missed > 0, missed)


class Groups:
    """Which broadcasts that go to several topics have been here: one copy each."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def is_new(self, envelope: Envelope) -> bool:
        """Whether it comes for the first time."""
        if envelope.group is None:
            return True
        # A process sends one after the other: the last number of each is enough.
        node = envelope.mark.node
        last = self._last.get(node, 0)
        _keep(self._last, node, max(last, envelope.group), MAX_NODES)
        return envelope.group > last


def _keep(memory: dict[K, V], key: K, value: V, limit: int) -> None:
    """Remember as the newest; the one that was used longest ago goes when there are too many."""
    memory.pop(key, None)
    if len(memory) >= limit:
        del memory[next(iter(memory))]
    memory[key] = value
