"""The time that the supervisor gives to a worker that stops."""

from __future__ import annotations

import time
from typing import Any

import gevent
import gevent.event

from webpy_socketio.cli import supervisor


class Worker:
    """The part of a worker on which the supervisor waits."""

    def __init__(self, released_at: float) -> None:
        self.ended = gevent.event.Event()
        self.released_at = released_at


def wait_for_end(worker: Any) -> Any:
    """Wait for a worker in a greenlet; its time is over."""
    job = gevent.spawn(supervisor._wait_for_end, worker, time.monotonic())
    gevent.sleep(0)
    return job


def test_worker_whose_sessions_move_has_more_time() -> None:
    worker = Worker(released_at=time.monotonic())
    job = wait_for_end(worker)
    assert not job.ready()
    worker.ended.set()
    assert job.get() is True


def test_worker_without_moving_sessions_has_no_more_time() -> None:
    assert wait_for_end(Worker(released_at=0.0)).get() is False
