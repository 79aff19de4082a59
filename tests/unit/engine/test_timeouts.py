"""The timeout queue: items expire once and in order, unless they are discarded."""

from __future__ import annotations

import logging
import time

import gevent
import pytest

from tests.conftest import Journal
from webpy_socketio.engine.io.clock import Clock, Timer
from webpy_socketio.engine.io.timeouts import TimeoutQueue


class CountingClock(Clock):
    """A clock that counts its timers."""

    def __init__(self) -> None:
        self.timers = 0

    def timer(self, seconds: float) -> Timer:
        self.timers += 1
        return super().timer(seconds)


@pytest.fixture
def clock() -> CountingClock:
    return CountingClock()


class TestTimeoutQueue:
    def test_items_expire_in_the_order_of_adding(
        self, clock: CountingClock, journal: Journal
    ) -> None:
        deadlines = TimeoutQueue[str](clock, 0.01, journal.append)
        for item in "abc":
            deadlines.add(item)
        journal.wait_for("c")
        assert journal == ["a", "b", "c"]
        assert len(deadlines) == 0

    def test_item_does_not_expire_early(self, clock: CountingClock, journal: Journal) -> None:
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

    def test_discarded_item_does_not_expire(self, clock: CountingClock, journal: Journal) -> None:
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

    def test_item_added_again_restarts_its_timeout(
        self, clock: CountingClock, journal: Journal
    ) -> None:
        deadlines = TimeoutQueue[str](clock, 0.01, journal.append)
        deadlines.add("a")
        deadlines.add("b")
        deadlines.add("a")
        journal.wait_for("a")
        assert journal == ["b", "a"]

    def test_since_is_the_start_of_the_timeout(
        self, clock: CountingClock, journal: Journal
    ) -> None:
        deadlines = TimeoutQueue[str](clock, 3600, journal.append)
        deadlines.add("a", since=time.monotonic() - 3600)
        deadlines.add("b")
        journal.wait_for("a")
        assert journal == ["a"]
        assert (deadlines.due("b") or 0) > time.monotonic()
        assert deadlines.due("a") is None
        deadlines.clear()

    def test_items_share_one_timer(self, clock: CountingClock, journal: Journal) -> None:
        deadlines = TimeoutQueue[int](clock, 3600, journal.append)
        for number in range(5000):
            deadlines.add(number)
        for number in range(5000):
            deadlines.discard(number)
        deadlines.add(1)
        assert clock.timers == 1
        deadlines.clear()

    def test_clear_removes_all_items(self, clock: CountingClock, journal: Journal) -> None:
        cleared = TimeoutQueue[str](clock, 0.001, journal.append)
        later = TimeoutQueue[str](clock, 0.01, journal.append)
        cleared.add("cleared")
        later.add("later")
        cleared.clear()
        assert len(cleared) == 0
        journal.wait_for("later")
        assert journal == ["later"]

    def test_callback_may_add_the_item_again(self, clock: CountingClock, journal: Journal) -> None:
        def again(item: str) -> None:
            journal.append(item)
            if len(journal) < 3:
                deadlines.add(item)

        deadlines = TimeoutQueue[str](clock, 0.001, again)
        deadlines.add("a")
        journal.wait(lambda journal: len(journal) == 3)
        assert journal == ["a", "a", "a"]

    def test_callback_may_discard_other_items(self, clock: CountingClock, journal: Journal) -> None:
        def only_one(item: str) -> None:
            journal.append(item)
            deadlines.discard("b")

        deadlines = TimeoutQueue[str](clock, 0.001, only_one)
        for item in "abc":
            deadlines.add(item)
        journal.wait_for("c")
        assert journal == ["a", "c"]

    def test_failing_callback_does_not_block_the_rest(
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

    def test_change_of_the_system_time_has_no_effect(
        self, clock: CountingClock, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deadlines = TimeoutQueue[str](clock, 0.01, journal.append)
        deadlines.add("a")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        deadlines.add("b")
        journal.wait_for("b")
        assert journal == ["a", "b"]
