"""Late copies of broadcasts on several topics, which follow the first copy, for moved sessions.

For a backplane that keeps the order on each topic only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from webpy_socketio.backplane.envelope import Envelope
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.topic_cut import Kept, Positions, note_of

__all__ = ["LateCopies"]


class _Arrival:
    """A session that has moved here, or is moving."""

    __slots__ = ("kept", "order", "socket", "topics", "waiting")

    def __init__(self, socket: Any, order: int) -> None:
        self.socket = socket
        #: Number of broadcasts on several topics that have been received before it arrived.
        self.order = order
        #: Its topics when its old server has given it up.
        self.topics: Collection[Topic] = ()
        #: Broadcasts that the old server has kept.
        self.kept: Kept = ()
        #: Copies that have arrived before the old server has reported its positions; then None.
        self.waiting: list[tuple[Topic, Envelope]] | None = []

    def is_addressed(self, topic: Topic, envelope: Envelope) -> bool:
        """Return whether the copy on this topic decides, and was left by the old server."""
        note = note_of(0, topic, envelope)
        return note.find_topic(self.topics) == topic and not note.is_seen(
            self.topics, {}, self.kept
        )


class LateCopies:
    """Delivers late copies to sessions that have arrived after the first copy.

    A process delivers the first copy of a broadcast, and drops the others. A session that has moved
    here in between has not received the first one. Its old server leaves the broadcast to this one
    unless it has seen the copy on the topic that decides (`webpy_socketio.topic_cut.Note`). That
    copy arrives here as well, as this process was subscribed before.

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

    def expect(self, socket: Any, order: int) -> None:
        """Keep late copies for a socket that has just become a recipient of messages.

        Args:
            socket: The socket.
            order: Number of broadcasts on several topics that have been received before.
        """
        self._arrivals[socket] = _Arrival(socket, order)

    def arrived(
        self,
        socket: Any,
        topics: Collection[Topic],
        positions: Positions,
        kept: Kept = (),
    ) -> None:
        """Deliver the copies that the old server has not seen, from now on at once.

        Args:
            socket: The socket.
            topics: Topics of the session when the old server has given it up.
            positions: Those of the old server at that time.
            kept: Further broadcasts that the old server has seen.
        """
        arrival = self._arrivals[socket]
        waiting, arrival.waiting = arrival.waiting or (), None
        arrival.topics, arrival.kept = topics, kept
        for topic, envelope in waiting:
            if not note_of(0, topic, envelope).is_seen(topics, positions):
                self._deliver_to(arrival, topic, envelope)

    def discard(self, socket: Any) -> None:
        """Deliver no more copies to a socket."""
        self._arrivals.pop(socket, None)

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
