"""The inbox: a bounded queue that runs a connection's handlers one at a time and in order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from sys import getrefcount
from typing import Any

import gevent
from greenlet import GreenletExit, getcurrent

from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.greenlets import GreenletPool

__all__ = ["Inbox"]

logger = logging.getLogger(__name__)

#: Jobs of one connection that run before yielding to other greenlets.
_BATCH_SIZE = 64

Job = tuple[Callable[..., None], tuple[Any, ...], int]

#: In place of the greenlet of an inbox whose jobs have not begun.
_SCHEDULED = object()


class Inbox:
    """A queue of jobs, run by one greenlet that exists only while there are jobs.

    An idle connection needs no greenlet, and a blocking handler delays its own connection only.

    Args:
        session: Session whose reading is paused while the queue is full, until it is half empty.
        workers: Pool of greenlets that run the jobs.
        limit: Number of queued jobs that pauses reading.
        max_size: Total size of queued jobs that pauses reading, in bytes.
    """

    __slots__ = (
        "_greenlet",
        "_jobs",
        "_limit",
        "_max_size",
        "_paused",
        "_session",
        "_size",
        "_workers",
        "handling",
    )

    def __init__(self, session: Session, workers: GreenletPool, limit: int, max_size: int) -> None:
        self._session = session
        self._workers = workers
        self._limit = limit
        self._max_size = max_size
        self._size = 0
        #: Size of the current job, or of the last one, in bytes.
        self.handling = 0
        # Not a deque: an empty one takes 760 bytes. The limit keeps `pop(0)` fast.
        self._jobs: list[Job] = []
        self._greenlet: Any = None
        self._paused = False

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def current(self) -> bool:
        """Whether the calling greenlet runs the jobs."""
        return self._greenlet is getcurrent()

    @property
    def busy(self) -> bool:
        """Whether a greenlet is running jobs or is scheduled to."""
        return self._greenlet is not None

    def put(self, function: Callable[..., None], *args: Any, size: int = 0) -> None:
        """Queue a call of `function`; `size` is the size of its arguments in bytes."""
        self.append((function, args, size))

    def append(self, job: Job) -> None:
        """Queue a function with its arguments and their size in bytes, as `put` does."""
        size = job[2]
        self._jobs.append(job)
        self._size += size
        if self._greenlet is None:
            self._greenlet = _SCHEDULED
            self._workers.run(self._work)
        if not self._paused and (len(self._jobs) >= self._limit or self._size >= self._max_size):
            self._paused = True
            self._session.pause()

    def interrupt(self) -> None:
        """Raise `GreenletExit` in the current job, if there is one; the next job then runs."""
        if self._greenlet is not None:
            gevent.get_hub().loop.run_callback(self._interrupt, self._greenlet)

    def _interrupt(self, greenlet: Any) -> None:
        current = self._greenlet
        # By now, the pool may run other jobs in that greenlet.
        if current is not None and current is not _SCHEDULED and greenlet in (current, _SCHEDULED):
            current.throw(GreenletExit)

    def _work(self) -> None:
        jobs = self._jobs
        count = 0
        self._greenlet = worker = getcurrent()
        references = getrefcount(worker)
        while jobs:
            function, args, size = jobs.pop(0)
            self._size -= size
            self.handling = size
            if self._paused and len(jobs) <= self._limit // 2 and self._size <= self._max_size // 2:
                self._paused = False
                self._session.resume()
            count += 1
            try:
                if not count % _BATCH_SIZE:
                    gevent.sleep(0)
                function(*args)
            except BaseException:  # GreenletExit and timeouts too: the next job must run
                logger.exception("a queued job of a connection raised an exception")
            if not jobs:  # the pool resets the context variables
                continue
            worker.gr_context = None  # each job has its own context variables
            if getrefcount(worker) != references:
                # The job may have left a gevent.Timeout running, which would be raised in the next
                # job. Another greenlet therefore continues. Whatever resumed this greenlet also
                # holds a reference, so that a job that blocked usually takes this branch.
                self._greenlet = _SCHEDULED
                self._workers.run(self._work)
                break
        else:
            self._greenlet = None
        # A traceback kept by a log handler keeps this frame, whose variables must not reference the
        # greenlet: the pool counts references before it reuses one.
        worker = None
