"""Tests of the inbox: job order, failing jobs, and backpressure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import gevent
import gevent.event
import pytest

from tests.conftest import Journal
from webpy_socketio.engine.io.greenlets import GreenletPool
from webpy_socketio.engine.socketio.inbox import Inbox


class FakeSession:
    """The methods of a session that an inbox calls."""

    def __init__(self) -> None:
        self.changes: list[str] = []

    def pause(self) -> None:
        self.changes.append("pause")

    def resume(self) -> None:
        self.changes.append("resume")


@pytest.fixture
def reading() -> FakeSession:
    return FakeSession()


@pytest.fixture
def make_inbox(reading: FakeSession) -> Iterator[Callable[[int], Inbox]]:
    workers = GreenletPool()
    yield lambda limit: Inbox(reading, workers, limit, 1_000_000)  # type: ignore[arg-type]
    workers.dispose()


@pytest.fixture
def inbox(make_inbox: Callable[[int], Inbox]) -> Inbox:
    return make_inbox(4)


class TestOrder:
    def test_jobs_run_in_fifo_order(self, inbox: Inbox, journal: Journal) -> None:
        for number in range(10):
            inbox.put(journal.append, number)
        assert journal == []
        journal.wait_for(9)
        assert journal == list(range(10))

    def test_blocking_job_delays_the_next(self, inbox: Inbox, journal: Journal) -> None:
        may_go_on = gevent.event.Event()

        def wait() -> None:
            journal.append("begin")
            may_go_on.wait()
            journal.append("end")

        inbox.put(wait)
        inbox.put(journal.append, "next")
        journal.wait_for("begin")
        gevent.idle()
        assert journal == ["begin"]
        may_go_on.set()
        journal.wait_for("next")
        assert journal == ["begin", "end", "next"]

    def test_blocking_job_does_not_delay_another_inbox(
        self, inbox: Inbox, make_inbox: Callable[[int], Inbox], journal: Journal
    ) -> None:
        may_go_on = gevent.event.Event()
        inbox.put(may_go_on.wait)
        inbox.put(journal.append, "slow")
        make_inbox(4).put(journal.append, "quick")
        journal.wait_for("quick")
        assert journal == ["quick"]
        may_go_on.set()
        journal.wait_for("slow")

    def test_job_putting_another_job_runs_it_later(self, inbox: Inbox, journal: Journal) -> None:
        inbox.put(lambda: inbox.put(journal.append, "second"))
        inbox.put(journal.append, "first")
        journal.wait_for("second")
        assert journal == ["first", "second"]


class TestFailures:
    @pytest.mark.parametrize(
        "error", [ZeroDivisionError(), gevent.GreenletExit(), gevent.Timeout(1), SystemExit(1)]
    )
    def test_job_raising_an_exception_does_not_stop_the_next(
        self,
        inbox: Inbox,
        journal: Journal,
        caplog: pytest.LogCaptureFixture,
        error: BaseException,
    ) -> None:
        def fail() -> None:
            raise error

        inbox.put(fail)
        inbox.put(journal.append, "next")
        journal.wait_for("next")
        (record,) = caplog.records
        assert record.levelno == logging.ERROR

    def test_interrupt_ends_the_current_job_only(self, inbox: Inbox, journal: Journal) -> None:
        def wait() -> None:
            journal.append("begin")
            try:
                gevent.event.Event().wait()
            except gevent.GreenletExit:
                journal.append("interrupted")

        inbox.put(wait)
        inbox.put(journal.append, "next")
        journal.wait_for("begin")
        inbox.interrupt()
        journal.wait_for("next")
        assert journal == ["begin", "interrupted", "next"]

    def test_interrupt_without_a_job_has_no_effect(self, inbox: Inbox, journal: Journal) -> None:
        inbox.interrupt()
        inbox.put(journal.append, "first")
        journal.wait_for("first")
        gevent.idle()
        inbox.interrupt()
        inbox.put(journal.append, "second")
        journal.wait_for("second")
        assert journal == ["first", "second"]

    def test_interrupt_before_the_first_job_starts_keeps_the_next(
        self, inbox: Inbox, journal: Journal
    ) -> None:
        inbox.put(gevent.event.Event().wait)
        inbox.put(journal.append, "next")
        inbox.interrupt()
        journal.wait_for("next")
        assert len(inbox) == 0


class TestLimit:
    def test_inbox_at_its_limit_pauses_reading_until_half_empty(
        self, inbox: Inbox, reading: FakeSession, journal: Journal
    ) -> None:
        seen: list[list[str]] = []
        for _ in range(3):
            inbox.put(lambda: seen.append(list(reading.changes)))
        assert reading.changes == []
        for _ in range(3):
            inbox.put(lambda: seen.append(list(reading.changes)))
        assert reading.changes == ["pause"]
        assert len(inbox) == 6
        inbox.put(journal.append, "last")
        journal.wait_for("last")
        assert reading.changes == ["pause", "resume"]
        # Of seven jobs, the fifth starts when two are left.
        assert seen == [["pause"]] * 4 + [["pause", "resume"]] * 2

    def test_inbox_filled_again_pauses_reading_again(
        self, inbox: Inbox, reading: FakeSession, journal: Journal
    ) -> None:
        for turn in range(3):
            for number in range(5):
                inbox.put(journal.append, (turn, number))
            journal.wait_for((turn, 4))
        assert reading.changes == ["pause", "resume"] * 3

    def test_inbox_with_a_limit_of_one_pauses_and_resumes_reading(
        self, make_inbox: Callable[[int], Inbox], reading: FakeSession, journal: Journal
    ) -> None:
        make_inbox(1).put(journal.append, "a")
        assert reading.changes == ["pause"]
        journal.wait_for("a")
        assert reading.changes == ["pause", "resume"]
