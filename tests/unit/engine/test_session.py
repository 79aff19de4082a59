"""Tests of the session, with transports in memory."""

from __future__ import annotations

import gevent
import pytest

from tests.conftest import Journal
from tests.engines import RecordedSession, Recorder
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.clock import Clock
from webpy_socketio.engine.io.outbox import Flusher
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.exceptions import MessageTooBig, ProtocolError


class FakeEngine:
    """The methods of an engine that a session calls."""

    def __init__(self, journal: Journal) -> None:
        self.flusher = Flusher(gevent.get_hub().loop)
        self.clock = Clock()
        self.notices = ThrottledLog(self.clock)
        self.journal = journal

    def pong(self, session: Session) -> None:
        self.journal.append("pong")

    def count(self, session: Session) -> None:
        pass

    def session_closed(self, session: Session) -> None:
        self.journal.append(("left", session.reason))


class MemoryTransport:
    """A transport that records its calls in a journal."""

    try_send = None

    def __init__(self, session: Session, name: str, journal: Journal) -> None:
        self.session = session
        self.name = name
        self.journal = journal

    def flush(self) -> None:
        payloads = [message.payload for message in self.session.outbox.take()]
        if payloads:
            self.journal.append((self.name, payloads))

    def close(self, code: int, reason: str) -> None:
        self.flush()
        self.journal.append((self.name, "close", code, reason))

    def unsent(self) -> int:
        return 0

    def abort(self) -> None:
        self.journal.append((self.name, "abort"))

    def pause(self) -> None:
        self.journal.append((self.name, "pause"))

    def resume(self) -> None:
        self.journal.append((self.name, "resume"))


class RejectingReceiver(Recorder):
    """A receiver that rejects every message."""

    def message(self, session: Session, data: str | bytes) -> None:
        raise MessageTooBig("too big")


@pytest.fixture
def receiver() -> Recorder:
    return Recorder()


@pytest.fixture
def session(journal: Journal, receiver: Recorder) -> Session:
    session = Session("sid", {"key": "value"}, FakeEngine(journal), 1000, 10)
    session.attach(RecordedSession(receiver, session))
    return session


@pytest.fixture
def first(session: Session, journal: Journal) -> MemoryTransport:
    transport = MemoryTransport(session, "first", journal)
    session.use(transport)
    return transport


class TestSending:
    def test_send_writes_text_and_bytes_to_the_transport(
        self, session: Session, first: MemoryTransport, journal: Journal
    ) -> None:
        session.send("a")
        session.send(b"b")
        journal.wait_for(("first", [b"4a", b"bYg=="]))
        assert journal == [("first", [b"4a", b"bYg=="])]

    def test_send_without_transport_is_queued(self, session: Session, journal: Journal) -> None:
        session.send("a")
        gevent.sleep(0)
        session.use(MemoryTransport(session, "first", journal))
        session.send("b")
        journal.wait_for(("first", [b"4a", b"4b"]))
        assert journal == [("first", [b"4a", b"4b"])]

    def test_use_another_transport_continues_with_queued_messages(
        self, session: Session, first: MemoryTransport, journal: Journal
    ) -> None:
        session.send("a")
        journal.wait_for(("first", [b"4a"]))
        session.send("b")
        session.use(MemoryTransport(session, "second", journal))
        session.send("c")
        journal.wait_for(("second", [b"4b", b"4c"]))
        assert journal == [("first", [b"4a"]), ("second", [b"4b", b"4c"])]

    def test_send_after_close_has_no_effect(
        self, session: Session, first: MemoryTransport, journal: Journal
    ) -> None:
        session.send("a")
        session.close("enough")
        session.send("b")
        gevent.idle()
        assert journal == [("left", "enough"), ("first", [b"4a"]), ("first", "close", 1000, "")]

    def test_outbox_overflow_closes_the_session_and_aborts_the_transport(
        self, session: Session, first: MemoryTransport, receiver: Recorder, journal: Journal
    ) -> None:
        for _ in range(11):
            session.send("a")
        journal.wait_for(("first", "abort"))
        assert receiver.endings == ["slow reader"]
        assert ("first", "close", 1008, "reading too slowly") in journal
        assert not any(b"4a" in entry[1] for entry in journal if isinstance(entry[1], list))


class TestReceiving:
    def test_receive_message_calls_the_receiver(self, session: Session, receiver: Recorder) -> None:
        session.receive(b"4", "a")
        session.receive(b"4", b"b")
        assert receiver.messages == ["a", b"b"]

    def test_receive_pong_calls_the_host(self, session: Session, journal: Journal) -> None:
        session.receive(b"3", "")
        assert journal == ["pong"]

    def test_receive_close_packet_closes_the_session(
        self, session: Session, receiver: Recorder
    ) -> None:
        session.receive(b"1", "")
        assert receiver == [("closed", "transport close")]

    @pytest.mark.parametrize("kind", [b"0", b"2", b"5", b"6"])
    def test_receive_server_packet_raises_protocol_error(
        self, session: Session, first: MemoryTransport, receiver: Recorder, kind: bytes
    ) -> None:
        with pytest.raises(ProtocolError):
            session.receive(kind, "")
        assert receiver.endings == ["parse error"]

    def test_protocol_error_of_the_receiver_closes_with_its_code(self, journal: Journal) -> None:
        receiver = RejectingReceiver()
        session = Session("sid", {}, FakeEngine(journal), 1000, 10)
        session.attach(RecordedSession(receiver, session))
        session.use(MemoryTransport(session, "first", journal))
        with pytest.raises(MessageTooBig):
            session.receive(b"4", "a")
        assert receiver.endings == ["parse error"]
        assert ("first", "close", 1009, "") in journal

    def test_receive_after_close_has_no_effect(self, session: Session, receiver: Recorder) -> None:
        session.close("enough")
        session.receive(b"4", "late")
        session.receive(b"2", "late and wrong")
        assert receiver == [("closed", "enough")]


class TestClosing:
    def test_close_twice_keeps_the_first_reason(
        self, session: Session, first: MemoryTransport, receiver: Recorder, journal: Journal
    ) -> None:
        assert session.open
        session.close("one", 1001, "note")
        session.close("two")
        assert not session.open
        assert session.reason == "one"
        assert receiver == [("closed", "one")]
        assert journal == [("left", "one"), ("first", "close", 1001, "note")]

    def test_close_within_closed_calls_the_receiver_once(self, journal: Journal) -> None:
        class Closing(Recorder):
            def closed(self, session: Session, reason: str) -> None:
                super().closed(session, reason)
                session.close("again")

        receiver = Closing()
        session = Session("sid", {}, FakeEngine(journal), 1000, 10)
        session.attach(RecordedSession(receiver, session))
        session.close("once")
        assert receiver == [("closed", "once")]

    def test_close_closes_the_upgrading_transport(
        self, session: Session, first: MemoryTransport, journal: Journal
    ) -> None:
        session.upgrading = MemoryTransport(session, "candidate", journal)
        session.close("enough")
        assert ("candidate", "close", 1000, "") in journal
        assert session.upgrading is None


class TestPausing:
    def test_resume_after_equally_many_pauses_resumes_the_transport(
        self, session: Session, first: MemoryTransport, journal: Journal
    ) -> None:
        session.pause()
        session.pause()
        session.resume()
        assert session.paused
        assert journal == [("first", "pause")]
        session.resume()
        assert not session.paused
        assert journal == [("first", "pause"), ("first", "resume")]

    def test_use_while_paused_pauses_the_new_transport(
        self, session: Session, journal: Journal
    ) -> None:
        session.pause()
        session.use(MemoryTransport(session, "second", journal))
        assert journal == [("second", "pause")]


class TestReceiver:
    def test_receiver_attached_to_a_closed_session_is_notified_once(
        self, journal: Journal, receiver: Recorder
    ) -> None:
        session = Session("sid", {}, FakeEngine(journal), 1000, 10)
        session.close("full")
        assert receiver == []
        session.attach(RecordedSession(receiver, session))
        session.close("again")
        assert receiver == [("closed", "full")]

    def test_each_session_has_its_own_receiver(self, journal: Journal) -> None:
        first, second = (Session("sid", {}, FakeEngine(journal), 1000, 10) for _ in range(2))
        receivers = Recorder(), Recorder()
        for session, receiver in zip((first, second), receivers, strict=True):
            session.attach(RecordedSession(receiver, session))
        first.receive(b"4", "a")
        second.receive(b"4", "b")
        assert [receiver.messages for receiver in receivers] == [["a"], ["b"]]
