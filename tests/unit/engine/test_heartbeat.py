"""Tests of the heartbeat: pings at an interval, and ping timeouts."""

from __future__ import annotations

import pytest

from tests.conftest import Journal
from tests.engines import RecordedSession, Recorder
from tests.unit.engine.test_session import FakeEngine, MemoryTransport
from webpy_socketio.engine.engineio.heartbeat import Heartbeat
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.clock import Clock
from webpy_socketio.engine.io.packets import PING


def make_session(journal: Journal, name: str = "transport") -> Session:
    session = Session(name, {}, FakeEngine(Journal()), 1000, 10)
    session.attach(RecordedSession(Recorder(), session))
    session.use(MemoryTransport(session, name, journal))
    return session


def make_heartbeat(interval: float, timeout: float) -> Heartbeat:
    return Heartbeat(Clock(), interval, timeout)


class TestPings:
    def test_session_is_pinged_after_the_interval(self, journal: Journal) -> None:
        heartbeat = make_heartbeat(0.005, 3600)
        heartbeat.add(make_session(journal))
        assert journal == []
        journal.wait_for(("transport", [PING]))
        heartbeat.clear()

    def test_session_is_pinged_again_only_after_its_pong(self, journal: Journal) -> None:
        heartbeat = make_heartbeat(0.005, 3600)
        silent, answering = make_session(journal, "silent"), make_session(journal, "answering")
        heartbeat.add(silent)
        heartbeat.add(answering)
        for count in (1, 2, 3):
            journal.wait(lambda j, n=count: j.count(("answering", [PING])) == n)
            heartbeat.pong(answering)
        assert journal.count(("silent", [PING])) == 1
        heartbeat.clear()

    def test_unexpected_pongs_have_no_effect(self, journal: Journal) -> None:
        heartbeat = make_heartbeat(0.005, 3600)
        session = make_session(journal)
        heartbeat.add(session)
        due = heartbeat._idle.due(session)
        for _ in range(1000):
            heartbeat.pong(session)
        assert heartbeat._idle.due(session) == due
        journal.wait_for(("transport", [PING]))
        for _ in range(1000):
            heartbeat.pong(session)
        journal.wait(lambda journal: len(journal) == 2)
        assert journal == [("transport", [PING])] * 2
        heartbeat.clear()


class TestTimeout:
    def test_session_without_pong_is_closed(self, journal: Journal) -> None:
        heartbeat = make_heartbeat(0.005, 0.005)
        session = make_session(journal)
        heartbeat.add(session)
        assert session.receiver.wait_closed() == "ping timeout"
        assert ("transport", [PING]) in journal

    def test_paused_session_without_pong_stays_open(self, journal: Journal) -> None:
        heartbeat = make_heartbeat(0.001, 0.001)
        paused, other = make_session(journal, "paused"), make_session(journal, "other")
        paused.pause()
        heartbeat.add(paused)
        heartbeat.add(other)
        other.receiver.wait_closed()
        assert paused.open
        paused.resume()
        assert paused.receiver.wait_closed() == "ping timeout"

    def test_resumed_session_gets_a_new_timeout(self, journal: Journal) -> None:
        heartbeat = make_heartbeat(0.001, 3600)
        session = make_session(journal)
        heartbeat.add(session)
        journal.wait_for(("transport", [PING]))
        heartbeat._since[session] -= 4000  # longer ago than the timeout
        assert heartbeat.has_timed_out(session)
        session.pause()
        session.resume()
        assert not heartbeat.has_timed_out(session)
        heartbeat.clear()

    def test_discarded_session_is_neither_pinged_nor_closed(self, journal: Journal) -> None:
        heartbeat = make_heartbeat(0.001, 0.001)
        session, other = make_session(journal, "gone"), make_session(journal, "other")
        heartbeat.add(session)
        heartbeat.add(other)
        heartbeat.discard(session)
        other.receiver.wait_closed()
        assert session.open
        assert ("gone", [PING]) not in journal

    def test_cleared_heartbeat_closes_no_session(self, journal: Journal) -> None:
        cleared, running = make_heartbeat(0.001, 0.001), make_heartbeat(0.002, 0.002)
        session, other = make_session(journal), make_session(journal, "other")
        cleared.add(session)
        running.add(other)
        cleared.clear()
        other.receiver.wait_closed()
        assert session.open


class TestHasTimedOut:
    """The timeout of a late client, before its timer has fired."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        return now

    def test_has_timed_out_is_true_after_interval_and_timeout(
        self, clock: list[float], journal: Journal
    ) -> None:
        heartbeat = make_heartbeat(25, 20)
        session = make_session(journal)
        heartbeat.add(session)
        assert not heartbeat.has_timed_out(session)
        clock[0] += 44.9
        assert not heartbeat.has_timed_out(session)
        clock[0] += 0.1
        assert heartbeat.has_timed_out(session)
        session.pause()
        assert not heartbeat.has_timed_out(session)
        heartbeat.clear()

    def test_has_timed_out_of_an_unknown_session_is_false(self, journal: Journal) -> None:
        assert not make_heartbeat(0, 0).has_timed_out(make_session(journal))
