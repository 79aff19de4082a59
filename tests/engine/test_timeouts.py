"""Many deadlines, one timer: each falls due once, in order, unless it was discarded."""

from __future__ import annotations

import logging
import time

import gevent
import pytest

from tests.conftest import Journal
from webpy_socketio.engine.io.clock import Clock, Timer
from webpy_socketio.engine.io.timeouts import TimeoutQueue


class CountingClock(Clock):
    """How many timers it was asked for."""

    def __init__(self) -> None:
        self.timers = 0

    def timer(self, seconds: float) -> Timer:
        self.timers += 1
        return super().timer(seconds)


@pytest.fixture
def clock() -> CountingClock:
    return CountingClock()


class TestDeadlines:
    def test_items_fall_due_in_the_order_they_were_added(
        self, clock: CountingClock, journal: Journal
    ) -> None:
        deadlines = TimeoutQueue[str](clock, 0.01, journal.append)
        for item in "abc":
            deadlines.add(item)
        journal.wait_for("c")
        assert journal == ["a", "b", "c"]
        assert len(deadlines) == 0

    def test_none_falls_due_before_its_time(self, clock: CountingClock, journal: Journal) -> None:
        due: dict[str, float] = {}
        late: list[float] = []
        deadlines = TimeoutQueue[str](
            clock,
            0.01,
            lambda item: (late.append(time.monotonic() - due[item]), journal.append(item)),
        )
        for item in "abc":
            deadlines.add(item)
            due[item] = deadlines.due(item) or 0.0
            gevent.sleep(0)
        journal.wait_for("c")
        assert min(late) >= 0.0

    def test_one_that_was_discarded_does_not(self, clock: CountingClock, journal: Journal) -> None:
        deadlines = TimeoutQueue[str](clock, 0.01, journal.append)
        for item in "abc":
            deadlines.add(item)
        deadlines.discard("a")
        deadlines.discard("b")
        deadlines.discard("never there")
        assert "a" not in deadlines
        assert "c" in deadlines
        journal.wait_for("c")
        assert journal == ["c"]

    def test_one_that_is_added_again_starts_anew(
        self, clock: CountingClock, journal: Journal
    ) -> None:
        deadlines = TimeoutQueue[str](clock, 0.01, journal.append)
        deadlines.add("a")
        deadlines.add("b")
        deadlines.add("a")
        journal.wait_for("a")
        assert journal == ["b", "a"]

    def test_since_counts_from_then(self, clock: CountingClock, journal: Journal) -> None:
        deadlines = TimeoutQueue[str](clock, 3600, journal.append)
        deadlines.add("a", since=time.monotonic() - 3600)
        deadlines.add("b")
        journal.wait_for("a")
        assert journal == ["a"]
        assert (deadlines.due("b") or 0) > time.monotonic()
        assert deadlines.due("a") is None
        deadlines.clear()

    def test_thousands_share_one_timer(self, clock: CountingClock, journal: Journal) -> None:
        deadlines = TimeoutQueue[int](clock, 3600, journal.append)
        for number in range(5000):
            deadlines.add(number)
        for number in range(5000):
            deadlines.discard(number)
        deadlines.add(1)
        assert clock.timers == 1
        deadlines.clear()

    def test_clear_forgets_everything(self, clock: CountingClock, journal: Journal) -> None:
        cleared = TimeoutQueue[str](clock, 0.001, journal.append)
        later = TimeoutQueue[str](clock, 0.01, journal.append)
        cleared.add("cleared")
        later.add("later")
        cleared.clear()
        assert len(cleared) == 0
        journal.wait_for("later")
        assert journal == ["later"]

    def test_a_callback_may_add_again(self, clock: CountingClock, journal: Journal) -> None:
        def again(item: str) -> None:
            journal.append(item)
            if len(journal) < 3:
                deadlines.add(item)

        deadlines = TimeoutQueue[str](clock, 0.001, again)
        deadlines.add("a")
        journal.wait(lambda journal: len(journal) == 3)
        assert journal == ["a", "a", "a"]

    def test_a_callback_may_discard_others(self, clock: CountingClock, journal: Journal) -> None:
        def only_one(item: str) -> None:
            journal.append(item)
            deadlines.discard("b")

        deadlines = TimeoutQueue[str](clock, 0.001, only_one)
        for item in "abc":
            deadlines.add(item)
        journal.wait_for("c")
        assert journal == ["a", "c"]

    def test_one_that_fails_stops_no_other(
        self, clock: CountingClock, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail_first(item: str) -> None:
            if item == "a":
                raise ZeroDivisionError
            journal.append(item)

        deadlines = TimeoutQueue[str](clock, 0.001, fail_first)
        deadlines.add("a")
        deadlines.add("b")
        journal.wait_for("b")
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None

    def test_a_jump_of_the_clock_means_nothing(
        self, clock: CountingClock, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deadlines = TimeoutQueue[str](clock, 0.01, journal.append)
        deadlines.add("a")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        deadlines.add("b")
        journal.wait_for("b")
        assert journal == ["a", "b"]
