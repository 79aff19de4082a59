"""What processes know about messages on topics without a common order."""

from __future__ import annotations

import json
from typing import Any

import gevent

from webpy_socketio import topic_markers
from webpy_socketio.backplane import sequence
from webpy_socketio.backplane.envelope import Envelope, Mark, Packet
from webpy_socketio.backplane.sequence import RecentGroups, Verdict
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.late_copies import LateCopies
from webpy_socketio.topic_cut import Seen, TopicCut
from webpy_socketio.topic_markers import END, TopicMarkers

ROOM, HALL = Topic.channel("/", "room"), Topic.channel("/", "hall")
PACKET = Packet(b"[]", [])


def single(node: str | None, number: int) -> Envelope:
    return Envelope(None if node is None else Mark(node, 1, number), PACKET)


def copy(group: int, room: int, hall: int) -> Envelope:
    """Return a copy of a broadcast to both channels, with its number on each."""
    return Envelope(
        Mark("third", 1, hall),
        PACKET,
        group=group,
        channels=("room", "hall"),
        marks=((1, room), (1, hall)),
    )


class TestRecentGroups:
    def test_copies_are_recognized_in_any_order(self) -> None:
        groups = RecentGroups()
        for group in (2, 1, 3):
            assert groups.check(copy(group, 1, 1)).fresh
        for group, order in ((1, 2), (2, 1), (3, 3)):
            assert groups.check(copy(group, 1, 1)) == Verdict(False, order=order)

    def test_copy_that_is_too_late_is_reported_as_missing(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(sequence, "MAX_GROUPS", 2)
        groups = RecentGroups()
        for group in (2, 3, 4):
            assert groups.check(copy(group, 1, 1)).fresh
        assert groups.check(copy(1, 1, 1)) == Verdict(False, True, None)
        assert groups.check(copy(4, 1, 1)) == Verdict(False, order=3)


class TestTopicMarkers:
    def test_markers_of_an_awaited_cut_are_kept(self, monkeypatch: Any) -> None:
        def marker(cut: str) -> Envelope:
            return Envelope(Mark("old", 1, 1), None, cut=(cut, END))

        monkeypatch.setattr(topic_markers, "MAX_CUTS", 2)
        markers = TopicMarkers()
        waiting = gevent.spawn(markers.wait, ("own", END), [ROOM, HALL], 10.0)
        gevent.sleep(0)
        markers.receive(ROOM, marker("own"))
        for number in range(5):
            markers.receive(ROOM, marker(f"of other servers {number}"))
        markers.receive(HALL, marker("own"))
        gevent.sleep(0)
        assert waiting.value is True


class TestTopicCut:
    def test_messages_up_to_the_positions_of_the_old_server_are_excluded(self) -> None:
        cut = TopicCut()
        for number in (1, 2, 3):
            cut.received(10 + number, ROOM, single("third", number))
        cut.received(20, HALL, single("third", 1))
        cut.sent(30, [ROOM], [Mark("new", 1, 1)])
        cut.sent(31, [ROOM], [Mark("new", 1, 2)])
        positions = {ROOM: {"third": [1, 2], "new": [1, 1]}}
        assert cut.excluded({ROOM}, Seen(positions)) == {11, 12, 30}

    def test_first_topic_of_the_session_decides_about_a_broadcast_on_several(self) -> None:
        cut = TopicCut()
        cut.received(1, HALL, copy(1, 5, 7))
        seen_in_hall = {ROOM: {"third": [1, 4]}, HALL: {"third": [1, 7]}}
        assert cut.excluded({ROOM, HALL}, Seen(seen_in_hall)) == set()
        assert cut.excluded({HALL}, Seen(seen_in_hall)) == {1}
        seen_in_room = {ROOM: {"third": [1, 5]}, HALL: {"third": [1, 6]}}
        assert cut.excluded({ROOM, HALL}, Seen(seen_in_room)) == {1}
        assert cut.excluded({HALL}, Seen(seen_in_room)) == set()

    def test_event_of_an_emitter_makes_a_cut_of_its_topics_unknown(self) -> None:
        cut = TopicCut()
        cut.received(1, HALL, single(None, 0))
        assert cut.excluded({HALL}, Seen()) is None
        assert cut.excluded({ROOM}, Seen()) == set()


class TestSeen:
    def test_latest_number_of_all_servers_counts(self) -> None:
        seen = Seen({ROOM: {"third": [1, 5], "new": [2, 1]}}, {("third", HALL, 1, 7)})
        earlier = Seen({ROOM: {"third": (1, 6), "new": (1, 9), "old": (1, 1)}, HALL: {"a": (1, 1)}})
        assert seen.with_earlier(Seen()) == seen
        assert seen.with_earlier(earlier) == Seen(
            {ROOM: {"third": (1, 6), "new": [2, 1], "old": (1, 1)}, HALL: {"a": (1, 1)}},
            {("third", HALL, 1, 7)},
        )

    def test_what_the_last_server_has_seen_is_left_out(self) -> None:
        positions = {ROOM: {"third": [1, 5], "new": [1, 1]}, HALL: {"third": [1, 1]}}
        kept = {("third", ROOM, 1, 7), ("third", HALL, 1, 7), ("third", ROOM, 1, 2)}
        seen = Seen(positions, kept)
        assert seen.not_in({ROOM: {"third": (1, 5)}}, {ROOM}) == Seen(
            {ROOM: {"new": [1, 1]}}, {("third", ROOM, 1, 7)}
        )
        assert seen.not_in(positions, {ROOM, HALL}).positions == {}

    def test_from_json_reads_the_value_of_to_json(self) -> None:
        seen = Seen({ROOM: {"third": [1, 5]}}, {("third", HALL, 1, 7), (None, ROOM, 1, 2)})
        assert Seen.from_json(json.loads(json.dumps(seen.to_json()))) == seen
        assert Seen.from_json(Seen().to_json()) == Seen({}, set())


class Session:
    """A socket that records which numbers in the room it receives."""

    channels: tuple[str, ...] = ("room", "hall")

    def __init__(self, session_id: str = "session") -> None:
        self.session_id = session_id
        self.received: list[int] = []


class TestLateCopies:
    def start(self) -> tuple[LateCopies, list[Any]]:
        gaps: list[Any] = []

        def deliver(socket: Session, envelope: Envelope) -> None:
            assert (envelope.group, envelope.channels, envelope.marks) == (None, (), ())
            assert envelope.mark is not None
            socket.received.append(envelope.mark.number)

        return LateCopies(deliver, lambda *args: gaps.append(args)), gaps

    def receive(self, late: LateCopies, group: int, order: int, topic: Topic = ROOM) -> None:
        envelope = copy(group, group, group)
        late.receive(topic, envelope, order)

    def test_session_receives_copies_of_broadcasts_before_its_arrival_only(self) -> None:
        late, gaps = self.start()
        old, new = Session(), Session()
        late.expect(old, 1)
        late.expect(new, 3)
        for session in (old, new):
            late.arrived(session, {ROOM, HALL}, Seen())
        for order in (1, 2, 3, 4):
            self.receive(late, order, order)
        assert (old.received, new.received, gaps) == ([1], [1, 2, 3], [])
        late.discard(new)
        self.receive(late, 1, 1)
        assert (old.received, new.received) == ([1, 1], [1, 2, 3])

    def test_first_topic_of_the_session_decides_about_a_copy(self) -> None:
        late, _ = self.start()
        both, one, left = Session(), Session(), Session()
        for session, topics in ((both, {ROOM, HALL}), (one, {HALL}), (left, {ROOM})):
            late.expect(session, 1)
            late.arrived(session, topics, Seen())
        left.channels = ("hall",)
        self.receive(late, 1, 1, HALL)
        assert (both.received, one.received) == ([], [1])
        self.receive(late, 1, 1, ROOM)
        assert (both.received, one.received, left.received) == ([1], [1], [])

    def test_copies_that_the_old_server_has_seen_are_dropped(self) -> None:
        late, _ = self.start()
        session = Session()
        late.expect(session, 9)
        for number in (1, 2, 3):
            self.receive(late, number, number)
        assert session.received == []
        late.arrived(session, {ROOM, HALL}, Seen({ROOM: {"third": [1, 2]}}))
        assert session.received == [3]

    def test_copies_that_the_old_server_has_kept_are_dropped(self) -> None:
        late, _ = self.start()
        session, kept = Session(), {("third", ROOM, 1, number) for number in (1, 3)}
        late.expect(session, 9)
        for number in (1, 2):
            self.receive(late, number, number)
        late.arrived(session, {ROOM, HALL}, Seen(kept=kept))
        for number in (3, 4):
            self.receive(late, number, number)
        assert session.received == [2, 4]
        cut = TopicCut()
        for number in (1, 2):
            cut.received(10 + number, HALL, copy(number, number, number))
        assert cut.excluded({ROOM, HALL}, Seen(kept=kept)) == {11}

    def test_sessions_that_have_received_a_broadcast_before_are_found(self) -> None:
        late, _ = self.start()
        positions = {ROOM: {"third": [1, 4]}, HALL: {"third": [1, 9]}}
        sessions = {
            "both": ({ROOM, HALL}, Seen(positions)),
            "hall": ({HALL}, Seen(positions)),
            "kept": ({ROOM}, Seen(kept={("third", ROOM, 1, 6)})),
            "none": (set(), Seen(positions)),
        }
        known = {}
        for name in sessions:
            known[name] = Session(name)
            late.expect(known[name], 0)
            assert late.find_received(HALL, copy(1, 6, 9)) == []
        for name, (topics, seen) in sessions.items():
            late.arrived(known[name], topics, seen)

        def find(room: int, hall: int) -> list[str]:
            return sorted(late.find_received(HALL, copy(1, room, hall)))

        assert find(4, 9) == ["both", "hall"]
        assert find(5, 9) == ["hall"]
        assert find(6, 10) == ["kept"]
        assert find(7, 10) == []
        late.discard(known["hall"])
        assert find(4, 9) == ["both"]
        for session in known.values():
            late.discard(session)
        assert find(4, 9) == []
        assert not late._seen

    def test_copy_without_numbers_reports_a_gap(self) -> None:
        late, gaps = self.start()
        session = Session()
        late.expect(session, 1)
        late.arrived(session, {ROOM, HALL}, Seen())
        late.receive(ROOM, copy(1, 1, 1)._replace(marks=()), 1)
        assert (session.received, gaps) == ([], [(None, None, ROOM)])
