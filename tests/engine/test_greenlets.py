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
from webpy_socketio.engine.io import greenlets as module
from webpy_socketio.engine.io.greenlets import GreenletPool

from .conftest import eventually

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

    def test_run_returns_the_greenlet_without_waiting(
        self, workers: GreenletPool, journal: Journal
    ) -> None:
        worker = workers.run(lambda: journal.append(getcurrent()))
        assert journal == []
        assert journal.wait(len) == [worker]

    @pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(), gevent.GreenletExit()])
    def test_greenlet_of_failed_function_is_reused(
        self, workers: GreenletPool, caplog: pytest.LogCaptureFixture, error: BaseException
    ) -> None:
        def fail() -> None:
            raise error

        worker = weakref.ref(workers.run(fail))
        gevent.idle()
        assert run(workers, current) is worker
        (record,) = caplog.records
        assert record.levelno == logging.ERROR

    def test_context_variables_are_reset_between_functions(self, workers: GreenletPool) -> None:
        run(workers, lambda: variable.set("mine"))
        assert run(workers, variable.get) == "unset"

    def test_greenlet_with_pending_timeout_is_not_reused(
        self, workers: GreenletPool, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = run(workers, lambda: (gevent.Timeout.start_new(0.01), current())[1])
        assert run(workers, lambda: (eventually(lambda: caplog.records), current())[1]) is not first
        (record,) = caplog.records
        assert "0.01 seconds" in record.getMessage()
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
        greenlets = [workers.run(release.wait) for _ in range(10)]
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
