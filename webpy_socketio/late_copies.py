"""Late copies of broadcasts on several topics, for sessions that have moved here.

For a backplane that keeps the order on each topic only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from webpy_socketio.backplane.envelope import Envelope
from webpy_socketio.backplane.topics import CHANNEL, Topic
from webpy_socketio.topic_cut import Note, Seen, note_of

__all__ = ["LateCopies"]


class _Arrival:
    """A session that has moved here, or is moving."""

    __slots__ = ("order", "seen", "socket", "topics", "waiting")

    def __init__(self, socket: Any, order: int) -> None:
        self.socket = socket
        #: Number of broadcasts on several topics that have been received before it arrived.
        self.order = order
        #: Its topics when its old server has given it up.
        self.topics: Collection[Topic] = ()
        #: What its earlier servers have seen.
        self.seen = Seen()
        #: Copies that have arrived before the old server has reported its positions; then None.
        self.waiting: list[tuple[Topic, Envelope]] | None = []

    def is_addressed(self, topic: Topic, envelope: Envelope) -> bool:
        """Return whether the copy on this topic decides, and was left by the old server."""
        note = note_of(0, topic, envelope)
        return note.find_topic(self.topics) == topic and not note.is_seen(self.topics, self.seen)

    def has_received(self, note: Note) -> bool:
        """Return whether the session has received a broadcast on an earlier server."""
        return note.is_seen(self.topics, self.seen) is True


class _SeenTopic:
    """A topic on which the earlier servers of sessions have seen messages."""

    __slots__ = ("arrivals", "last")

    def __init__(self) -> None:
        self.arrivals: dict[Any, _Arrival] = {}
        #: For each node the last message that was seen for any session.
        self.last: dict[str | None, tuple[int, ...]] = {}

    def add(self, node: str | None, last: Sequence[int]) -> None:
        self.last[node] = max(tuple(last), self.last.get(node, ()))


class LateCopies:
    """Decides about late copies for sessions that have moved here.

    A process delivers the first copy of a broadcast, and drops the others. A session that has moved
    here in between has not received the first one. Its old server leaves the broadcast to this one
    unless it has seen the copy on the topic that decides (`webpy_socketio.topic_cut.Note`). That
    copy arrives here as well, as this process was subscribed before.

    The first copy that arrives here may itself be late: the session has received the broadcast on
    its old server, and this process was not subscribed to the topic of that copy.

    For the hub's thread only.

    Args:
        deliver: Called with a socket and the envelope of a message for it.
        report_gap: Called with the node that has sent a copy, the number of missing messages and
            the topic, if it is unknown whether the copy is missing.
    """

    def __init__(
        self,
        deliver: Callable[[Any, Envelope], None],
        report_gap: Callable[[str | None, int | None, Topic | None], None],
    ) -> None:
        self._deliver = deliver
        self._report_gap = report_gap
        #: By socket, in the order of arrival.
        self._arrivals: dict[Any, _Arrival] = {}
        #: The topics on which a first copy may be late.
        self._seen: dict[Topic, _SeenTopic] = {}

    def expect(self, socket: Any, order: int) -> None:
        """Keep late copies for a socket that has just become a recipient of messages.

        Args:
            socket: The socket.
            order: Number of broadcasts on several topics that have been received before.
        """
        self._arrivals[socket] = _Arrival(socket, order)

    def arrived(self, socket: Any, topics: Collection[Topic], seen: Seen) -> None:
        """Deliver the waiting copies that the old server has not seen, and later ones at once.

        Args:
            socket: The socket.
            topics: Topics of the session when the old server has given it up.
            seen: What its earlier servers had seen at that time.
        """
        arrival = self._arrivals[socket]
        waiting, arrival.waiting = arrival.waiting or (), None
        arrival.topics, arrival.seen = topics, seen.not_in({}, _on_channels(topics))
        for topic, lasts in arrival.seen.positions.items():
            for node, last in lasts.items():
                self._add_seen(topic, arrival).add(node, last)
        for sender, topic, *last in arrival.seen.kept:
            self._add_seen(topic, arrival).add(sender, last)
        for topic, envelope in waiting:
            self._deliver_to(arrival, topic, envelope)

    def _add_seen(self, topic: Topic, arrival: _Arrival) -> _SeenTopic:
        seen = self._seen.get(topic)
        if seen is None:
            seen = self._seen[topic] = _SeenTopic()
        seen.arrivals[arrival.socket] = arrival
        return seen

    def seen(self, socket: Any) -> Seen:
        """Return what the earlier servers of a session have seen; nothing if it has not moved."""
        arrival = self._arrivals.get(socket)
        return Seen() if arrival is None else arrival.seen

    def discard(self, socket: Any) -> None:
        """Deliver no more copies to a socket."""
        arrival = self._arrivals.pop(socket, None)
        for topic in () if arrival is None else arrival.topics:
            seen = self._seen.get(topic)
            if seen is not None:
                seen.arrivals.pop(socket, None)
                if not seen.arrivals:
                    del self._seen[topic]

    def find_received(self, topic: Topic, envelope: Envelope) -> list[str]:
        """Return the ids of the sessions that have received a broadcast on an earlier server.

        Args:
            topic: The topic of the first copy that has arrived here.
            envelope: The copy.
        """
        found: list[str] = []
        if not self._seen:
            return found
        note = note_of(0, topic, envelope)
        for each, mark in note.marks.items():
            seen = self._seen.get(each)
            if seen is None or mark > seen.last.get(note.node, ()):
                continue
            found += [
                arrival.socket.session_id
                for arrival in seen.arrivals.values()
                if note.find_topic(arrival.topics) == each and arrival.has_received(note)
            ]
        return found

    def receive(self, topic: Topic, envelope: Envelope, order: int) -> None:
        """Handle a further copy of a broadcast.

        Args:
            topic: Its topic.
            envelope: The copy.
            order: Number of the broadcast, among those on several topics that were received.
        """
        if envelope.recipients.volatile:
            return
        found = []
        for arrival in reversed(self._arrivals.values()):
            if arrival.order < order:
                break
            found.append(arrival)
        for arrival in found:
            if arrival.waiting is None:
                self._deliver_to(arrival, topic, envelope)
            else:
                arrival.waiting.append((topic, envelope))

    def _deliver_to(self, arrival: _Arrival, topic: Topic, envelope: Envelope) -> None:
        if not envelope.marks:  # of a process that does not number its copies on all topics
            if topic in arrival.topics:
                self._report_gap(None, None, topic)
        elif arrival.is_addressed(topic, envelope) and topic.name in arrival.socket.channels:
            # As a message on this topic only.
            self._deliver(arrival.socket, envelope._replace(group=None, channels=(), marks=()))


def _on_channels(topics: Collection[Topic]) -> Collection[Topic]:
    """Return the topics of channels: only these have broadcasts on several topics."""
    return {topic for topic in topics if topic.kind == CHANNEL}
