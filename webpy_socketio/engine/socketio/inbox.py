"""What a connection still has to do: strictly in order, one thing at a time, never too much."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from sys import getrefcount
from typing import Any

import gevent
from greenlet import GreenletExit, getcurrent

from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.greenlets import GreenletPool

__all__ = ["Inbox"]

logger = logging.getLogger(__name__)

#: Jobs of one connection that are done before others have their turn.
_BATCH_SIZE = 64

Job = tuple[Callable[..., None], tuple[Any, ...], int]


class Inbox:
    """A queue of jobs that has a greenlet for as long as there are jobs.

    A connection without work costs no greenlet, and one whose handler waits makes no other wait.
    When `limit` jobs are queued, or jobs of `max_size` bytes, reading from the client stops until
    no more than half of that is left.
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
        #: Size of the job that is being done, or was done last.
        self.handling = 0
        self._jobs: deque[Job] = deque()
        self._greenlet: Any = None
        self._paused = False

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def current(self) -> bool:
        """Whether this greenlet is the one that does the jobs."""
        return self._greenlet is not None and self._greenlet is getcurrent()

    @property
    def busy(self) -> bool:
        """Whether a greenlet does jobs, or is about to."""
        return self._greenlet is not None

    def put(self, function: Callable[..., None], *args: Any, size: int = 0) -> None:
        """Have `function` called when everything before it is done; `size` is what it holds."""
        self._jobs.append((function, args, size))
        self._size += size
        if self._greenlet is None:
            self._greenlet = self._workers.run(self._work)
        if not self._paused and (len(self._jobs) >= self._limit or self._size >= self._max_size):
            self._paused = True
            self._session.pause()

    def interrupt(self) -> None:
        """Raise GreenletExit in the job that is running, if one is; the next one follows."""
        if self._greenlet is not None:
            gevent.get_hub().loop.run_callback(self._interrupt, self._greenlet)

    def _interrupt(self, greenlet: Any) -> None:
        if self._greenlet is greenlet:  # and not somebody else's by now
            greenlet.throw(GreenletExit)

    def _work(self) -> None:
        jobs = self._jobs
        done = 0
        worker = getcurrent()
        references = getrefcount(worker)
        while jobs:
            function, args, size = jobs.popleft()
            self._size -= size
            self.handling = size
            if self._paused and len(jobs) <= self._limit // 2 and self._size <= self._max_size // 2:
                self._paused = False
                self._session.resume()
            done += 1
            try:
                if not done % _BATCH_SIZE:
                    gevent.sleep(0)
                function(*args)
            except BaseException:  # whatever a handler did: the next job is to run
                logger.exception("a job of a connection failed")
            worker.gr_context = None  # context variables are the job's
            if jobs and getrefcount(worker) != references:
                # Perhaps a timeout that the job left running, which would be raised in the next.
                # What resumed the greenlet counts too: after waiting, this is the rule.
                self._greenlet = self._workers.run(self._work)
                return
        self._greenlet = None
