"""Topic cut: which messages the old server of a moving session has seen, topic by topic.

In place of `webpy_socketio.message_cut`, for a backplane that keeps the order on each topic only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from webpy_socketio.backplane.envelope import Envelope, Mark
from webpy_socketio.backplane.topics import Topic

__all__ = ["Kept", "Note", "Positions", "Seen", "TopicCut", "note_of"]

#: For each topic the epoch and number of the last message of each node.
Positions = Mapping[Topic, Mapping[str, Sequence[int]]]


#: Broadcasts that the old server has not seen on the topic that decides, but keeps: node, topic,
#: epoch and number.
Kept = Collection[tuple[str | None, Topic, int, int]]


class Seen(NamedTuple):
    """Messages on the topics of a session that its earlier servers have seen."""

    positions: Positions = MappingProxyType({})
    #: Broadcasts that they have kept.
    kept: Kept = ()

    def with_earlier(self, earlier: Seen) -> Seen:
        """Return what a server and its predecessors have seen together."""
        if not earlier.positions and not earlier.kept:
            return self
        positions = dict(self.positions)
        for topic, lasts in earlier.positions.items():
            known = positions.get(topic, {})
            later = {
                node: last
                for node, last in lasts.items()
                if node not in known or tuple(last) > tuple(known[node])
            }
            if later:
                positions[topic] = {**known, **later}
        return Seen(positions, {*self.kept, *earlier.kept})

    def not_in(self, positions: Positions, topics: Collection[Topic]) -> Seen:
        """Return the part on these topics that a server with these positions has not seen."""

        def is_missing(node: str | None, topic: Topic, last: Sequence[int]) -> bool:
            known = positions.get(topic, {}).get(node or "")
            return topic in topics and (known is None or tuple(last) > tuple(known))

        found: dict[Topic, dict[str, Sequence[int]]] = {}
        for topic, lasts in self.positions.items():
            left = {node: last for node, last in lasts.items() if is_missing(node, topic, last)}
            if left:
                found[topic] = left
        return Seen(found, {each for each in self.kept if is_missing(each[0], each[1], each[2:])})

    def to_json(self) -> list[Any]:
        """Return a value for another process."""
        positions = [[list(topic), dict(lasts)] for topic, lasts in self.positions.items()]
        return [positions, [[node, list(topic), *last] for node, topic, *last in self.kept]]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Seen:
        """Return the object for a value of `to_json`.

        Raises:
            ValueError, TypeError: The value was not returned by `to_json`.
        """
        positions, kept = value
        return cls(
            {Topic(*topic): lasts for topic, lasts in positions},
            {(node, Topic(*topic), epoch, number) for node, topic, epoch, number in kept},
        )


class Note(NamedTuple):
    """A message of this process's log, and its place on its topics."""

    #: Its number in the log.
    number: int
    #: None for an emitter, which does not number its messages.
    node: str | None
    #: Epoch and number on each topic on which it was published.
    marks: Mapping[Topic, tuple[int, int]]

    def is_seen(self, topics: Collection[Topic], seen: Seen) -> bool | None:
        """Return whether the servers of `seen` have seen the message.

        A broadcast on several topics has a place on each. The first one that concerns the session
        decides: the old and the new server are both subscribed to it.

        Args:
            topics: Topics of the session.
            seen: What the servers have received and sent.

        Returns:
            None if the message is not addressed to the session, by its topics.
        """
        topic = self.find_topic(topics)
        if topic is None:
            return None
        if (self.node, topic, *self.marks[topic]) in seen.kept:
            return True
        last = seen.positions.get(topic, {}).get(self.node or "")
        return last is not None and self.marks[topic] <= tuple(last)

    def find_topic(self, topics: Collection[Topic]) -> Topic | None:
        """Return the first of its topics that is among these, or None."""
        return next((topic for topic in self.marks if topic in topics), None)


def note_of(number: int, topic: Topic, envelope: Envelope) -> Note:
    """Return the note of a message that was received on a topic."""
    if envelope.mark is None or (envelope.group is not None and not envelope.marks):
        return Note(number, None, {topic: (0, 0)})
    if envelope.group is None:
        return Note(
            number, envelope.mark.node, {topic: (envelope.mark.epoch, envelope.mark.number)}
        )
    marks = zip(envelope.channels, envelope.marks, strict=True)
    return Note(
        number, envelope.mark.node, {topic._replace(name=name): mark for name, mark in marks}
    )


class TopicCut:
    """Collects messages while sessions move here.

    The new server publishes a marker on each topic of the sessions. The old one releases them after
    it has received all markers: it has then seen all messages before. It answers with its
    positions, and publishes a second marker on each topic: the new server has received all messages
    that the old one has seen when these have arrived.
    """

    def __init__(self) -> None:
        self._notes: list[Note] = []

    def received(self, number: int, topic: Topic, envelope: Envelope) -> None:
        """Handle a message of another process."""
        self._notes.append(note_of(number, topic, envelope))

    def sent(self, number: int, topics: Sequence[Topic], marks: Sequence[Mark]) -> None:
        """Handle a message of this process."""
        found = {
            topic: (mark.epoch, mark.number) for topic, mark in zip(topics, marks, strict=True)
        }
        self._notes.append(Note(number, marks[0].node, found))

    def excluded(self, topics: Collection[Topic], seen: Seen) -> set[int] | None:
        """Return the numbers of messages that the earlier servers of a session have seen.

        Args:
            topics: Topics of the session.
            seen: What they had seen when the old server gave up the session.

        Returns:
            None if it is unknown, as an emitter has sent one of them.
        """
        numbers = set()
        for note in self._notes:
            is_seen = note.is_seen(topics, seen)
            if is_seen is not None and note.node is None:
                return None
            if is_seen:
                numbers.add(note.number)
        return numbers
