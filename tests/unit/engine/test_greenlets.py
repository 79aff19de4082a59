"""The greenlet pool: reused greenlets keep no state of earlier functions."""

from __future__ import annotations

import contextvars
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import pytest
from greenlet import getcurrent

from tests.conftest import Journal
from tests.engines import eventually
from webpy_socketio.engine.io import greenlets as module
from webpy_socketio.engine.io.greenlets import GreenletPool

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def workers() -> Iterator[GreenletPool]:
    workers = GreenletPool()
    yield workers
    workers.dispose()


def run(workers: GreenletPool, function: Callable[[], Any]) -> Any:
    """Run `function` in the pool, and return its result when the greenlet is idle again."""
    result = gevent.event.AsyncResult()
    workers.run(lambda: result.set(function()))
    value = result.get()
    gevent.idle()
    return value


def current() -> Any:
    """Return a weak reference to the current greenlet; a strong one would prevent its reuse."""
    return weakref.ref(getcurrent())


class TestGreenletPool:
    def test_run_consecutive_functions_reuses_the_greenlet(self, workers: GreenletPool) -> None:
        first = run(workers, current)
        assert run(workers, current) is first
        assert first() is not getcurrent()

    @pytest.mark.parametrize(
        "function",
        [
            lambda: gevent.sleep(0.001),
            lambda: gevent.spawn(gevent.sleep).join(),
            lambda: gevent.get_hub().threadpool.apply(int),
            lambda: logging.getLogger("test").error("logged"),
            lambda: gevent.with_timeout(1, gevent.sleep, 0.001),
            lambda: gevent.with_timeout(0.001, gevent.sleep, 1, timeout_value=None),
        ],
        ids=["sleep", "join", "thread", "log", "timeout that ended", "timeout that fired"],
    )
    def test_greenlet_with_nothing_pending_is_reused(
        self, workers: GreenletPool, function: Callable[[], Any]
    ) -> None:
        first = run(workers, lambda: (function(), current())[1])
        assert run(workers, current) is first

    def test_concurrent_functions_have_their_own_greenlets(
        self, workers: GreenletPool, journal: Journal
    ) -> None:
        release = gevent.event.Event()
        for number in range(50):
            workers.run(lambda n=number: (release.wait(), journal.append((n, getcurrent()))))
        gevent.idle()
        release.set()
        journal.wait(lambda journal: len(journal) == 50)
        assert len({worker for _, worker in journal}) == 50

    def test_idle_greenlet_does_not_reference_its_function(self, workers: GreenletPool) -> None:
        class Job:
            def __call__(self) -> Any:
                return getcurrent()

        kept = []
        for _ in range(2):  # the first one is the start argument of the greenlet
            job = Job()
            kept.append(weakref.ref(job))
            run(workers, job)
            del job
        gc.collect()
        assert [reference() for reference in kept] == [None, None]

    def test_run_returns_without_waiting(self, workers: GreenletPool, journal: Journal) -> None:
        workers.run(lambda: journal.append("run"))
        assert journal == []
        assert journal.wait(len) == ["run"]

    def test_functions_of_one_iteration_share_a_greenlet_in_their_order(
        self, workers: GreenletPool, journal: Journal
    ) -> None:
        for number in range(10):
            workers.run(lambda n=number: journal.append((n, current())))
        gevent.idle()
        assert [number for number, _ in journal] == list(range(10))
        assert len({worker for _, worker in journal}) == 1

    def test_function_behind_a_waiting_one_runs_in_another_greenlet(
        self, workers: GreenletPool, journal: Journal
    ) -> None:
        may_go_on = gevent.event.Event()
        workers.run(lambda: (may_go_on.wait(), journal.append("first")))
        workers.run(lambda: journal.append("second"))
        gevent.idle()
        assert journal == ["second"]
        may_go_on.set()
        gevent.idle()
        assert journal == ["second", "first"]

    def test_function_after_one_with_a_pending_timeout_runs_in_another_greenlet(
        self, workers: GreenletPool, journal: Journal
    ) -> None:
        def leave_timeout() -> None:
            journal.append(getcurrent())
            gevent.Timeout.start_new(60)

        workers.run(leave_timeout)
        workers.run(lambda: journal.append(getcurrent()))
        first, second = journal.wait(lambda journal: len(journal) == 2)
        assert second is not first

    def test_context_variables_are_reset_between_functions_of_one_iteration(
        self, workers: GreenletPool, journal: Journal
    ) -> None:
        workers.run(lambda: variable.set("mine"))
        workers.run(lambda: journal.append(variable.get()))
        assert journal.wait(len) == ["unset"]

    def test_failure_does_not_stop_the_next_function_of_an_iteration(
        self, workers: GreenletPool, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        workers.run(lambda: 1 / 0)
        workers.run(lambda: journal.append("next"))
        assert journal.wait(len) == ["next"]
        (record,) = caplog.records
        assert record.levelno == logging.ERROR

    def test_logging_handler_that_raises_does_not_stop_the_other_functions(
        self, workers: GreenletPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Raising(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise ValueError("the log cannot be written")

        logger = logging.getLogger("webpy_socketio.engine.io.greenlets")
        monkeypatch.setattr(logger, "handlers", [Raising()])
        monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *error: None)
        done: list[int] = []
        workers.run(lambda: 1 / 0)
        for number in range(3):
            workers.run(lambda n=number: done.append(n))
        eventually(lambda: len(done) == 3)
        assert done == [0, 1, 2]

    def test_functions_beyond_a_batch_run_after_other_callbacks(
        self, workers: GreenletPool, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "BATCH_SIZE", 2)
        for number in range(5):
            workers.run(lambda n=number: journal.append(n))
        gevent.get_hub().loop.run_callback(journal.append, "callback")
        gevent.idle()
        assert journal == [0, 1, "callback", 2, 3, 4]

    def test_function_scheduled_by_another_runs_after_callbacks_that_are_ready(
        self, workers: GreenletPool, journal: Journal
    ) -> None:
        workers.run(lambda: workers.run(lambda: journal.append("second")))
        gevent.get_hub().loop.run_callback(journal.append, "callback")
        gevent.idle()
        assert journal == ["callback", "second"]

    @pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(), gevent.GreenletExit()])
    def test_greenlet_of_failed_function_is_reused(
        self, workers: GreenletPool, caplog: pytest.LogCaptureFixture, error: BaseException
    ) -> None:
        def fail() -> None:
            raise error

        failed: list[Any] = []

        def note_and_fail() -> None:
            failed.append(current())
            fail()

        workers.run(note_and_fail)
        gevent.idle()
        assert run(workers, current) is failed[0]
        (record,) = caplog.records
        assert record.levelno == logging.ERROR

    def test_context_variables_are_reset_between_functions(self, workers: GreenletPool) -> None:
        run(workers, lambda: variable.set("mine"))
        assert run(workers, variable.get) == "unset"

    def test_greenlet_with_pending_timeout_is_not_reused(
        self, workers: GreenletPool, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = run(workers, lambda: (gevent.Timeout.start_new(0.2), current())[1])
        assert run(workers, lambda: (eventually(lambda: caplog.records), current())[1]) is not first
        (record,) = caplog.records
        assert "0.2 seconds" in record.getMessage()
        assert first() is None, "it ended when the timeout had fired"

    def test_dropped_greenlet_ends_when_unreferenced(self, workers: GreenletPool) -> None:
        pending: list[Any] = []
        first = run(workers, lambda: (pending.append(getcurrent().switch), current())[1])
        assert run(workers, current) is not first
        pending.clear()
        assert first() is None

    def test_greenlet_resumed_by_pending_switch_runs_nothing(
        self, workers: GreenletPool, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        pending: list[Any] = []
        run(workers, lambda: pending.append(getcurrent().switch))
        gevent.get_hub().loop.run_callback(pending.pop(), lambda: journal.append("run"))
        gevent.idle()
        assert run(workers, lambda: 1) == 1
        assert (journal, caplog.records) == ([], [])

    def test_idle_greenlets_are_limited(
        self, workers: GreenletPool, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_IDLE", 3)
        release = gevent.event.Event()
        greenlets: list[Any] = []
        for _ in range(10):
            workers.run(lambda: (greenlets.append(getcurrent()), release.wait()))
        gevent.idle()
        release.set()
        gevent.idle()
        assert sum(not worker.dead for worker in greenlets) == 3

    def test_dispose_ends_idle_greenlets(self) -> None:
        workers = GreenletPool()
        worker = run(workers, getcurrent)
        assert not worker.dead
        workers.dispose()
        gevent.idle()
        assert worker.dead
