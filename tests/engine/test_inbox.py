"""A connection's work: strictly in order, one thing at a time, and reading stops when it piles up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import gevent
import gevent.event
import pytest

from tests.conftest import Journal
from webpy_socketio.engine.io.greenlets import GreenletPool
from webpy_socketio.engine.socketio.inbox import Inbox


class Reading:
    """The part of a session that an inbox knows."""

    def __init__(self) -> None:
        self.changes: list[str] = []

    def pause(self) -> None:
        self.changes.append("pause")

    def resume(self) -> None:
        self.changes.append("resume")


@pytest.fixture
def reading() -> Reading:
    return Reading()


@pytest.fixture
def make_inbox(reading: Reading) -> Iterator[Callable[[int], Inbox]]:
    workers = GreenletPool()
    yield lambda limit: Inbox(reading, workers, limit, 1_000_000)  # type: ignore[arg-type]
    workers.dispose()


@pytest.fixture
def inbox(make_inbox: Callable[[int], Inbox]) -> Inbox:
    return make_inbox(4)


class TestOrder:
    def test_jobs_run_in_the_order_they_were_put(self, inbox: Inbox, journal: Journal) -> None:
        for number in range(10):
            inbox.put(journal.append, number)
        assert journal == []
        journal.wait_for(9)
        assert journal == list(range(10))

    def test_a_job_that_waits_holds_back_the_next(self, inbox: Inbox, journal: Journal) -> None:
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

    def test_another_inbox_does_not_wait_with_it(
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

    def test_a_job_may_put_another(self, inbox: Inbox, journal: Journal) -> None:
        inbox.put(lambda: inbox.put(journal.append, "second"))
        inbox.put(journal.append, "first")
        journal.wait_for("second")
        assert journal == ["first", "second"]


class TestFailures:
    @pytest.mark.parametrize(
        "error", [ZeroDivisionError(), gevent.GreenletExit(), gevent.Timeout(1), SystemExit(1)]
    )
    def test_the_next_job_runs_whatever_the_last_one_did(
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

    def test_interrupt_ends_the_job_that_runs_and_no_other(
        self, inbox: Inbox, journal: Journal
    ) -> None:
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

    def test_interrupt_without_a_job_does_nothing(self, inbox: Inbox, journal: Journal) -> None:
        inbox.interrupt()
        inbox.put(journal.append, "first")
        journal.wait_for("first")
        gevent.idle()
        inbox.interrupt()
        inbox.put(journal.append, "second")
        journal.wait_for("second")
        assert journal == ["first", "second"]

    def test_interrupt_of_a_job_that_has_yet_to_begin_loses_no_other(
        self, inbox: Inbox, journal: Journal
    ) -> None:
        inbox.put(gevent.event.Event().wait)
        inbox.put(journal.append, "next")
        inbox.interrupt()
        journal.wait_for("next")
        assert len(inbox) == 0


class TestBound:
    def test_reading_stops_at_the_limit_and_goes_on_at_half_of_it(
        self, inbox: Inbox, reading: Reading, journal: Journal
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
        # Seven were there; the fifth began when two were left.
        assert seen == [["pause"]] * 4 + [["pause", "resume"]] * 2

    def test_it_stops_again_when_it_fills_again(
        self, inbox: Inbox, reading: Reading, journal: Journal
    ) -> None:
        for turn in range(3):
            for number in range(5):
                inbox.put(journal.append, (turn, number))
            journal.wait_for((turn, 4))
        assert reading.changes == ["pause", "resume"] * 3

    def test_a_limit_of_one_works(
        self, make_inbox: Callable[[int], Inbox], reading: Reading, journal: Journal
    ) -> None:
        make_inbox(1).put(journal.append, "a")
        assert reading.changes == ["pause"]
        journal.wait_for("a")
        assert reading.changes == ["pause", "resume"]
