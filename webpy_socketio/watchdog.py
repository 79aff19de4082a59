"""Notices that something blocks the loop, and says in the log what it is.

gevent runs everything in one thread. While a handler computes, or waits in a way that gevent has not
patched, nobody else is served. A timer of the loop's leaves a mark while it turns; a thread of the
system's, which does not need the loop, looks how old the mark is. Only when it is too old is anything
asked, and it is asked of the blocked thread's frames: a message costs nothing.

What keeps Python's lock while it blocks, as a regular expression does, keeps this thread waiting too: it
is told when it is over, or not at all. (Patterns have a warning of their own, in `events`.)
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, ClassVar

import gevent
from gevent import monkey

from webpy_socketio import signals
from webpy_socketio.bus.introspection import describe
from webpy_socketio.bus.patterns import ChannelPattern
from webpy_socketio.engine.http.wsgi import RequestHandler
from webpy_socketio.engine.io.throttled_log import safe_repr

__all__ = ["Watchdog", "running"]

logger = logging.getLogger("webpy_socketio")

# The system's own, not gevent's.
_start_new_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
_allocate_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")

#: Looks in the time after which a block is told.
_CHECKS_PER_PERIOD = 4

#: Seconds between two warnings of a process.
_LOG_INTERVAL = 60.0

#: Frames of a stack that are shown, the innermost ones.
_MAX_FRAMES = 12


class Watchdog:
    """Warns when the loop of this thread has not turned for `seconds`."""

    #: When this process may warn again; several servers may share a loop.
    _due: ClassVar[float] = 0.0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._period = seconds / _CHECKS_PER_PERIOD
        self._timer: Any = None
        self._watched = 0
        self._mark = 0.0
        self._process: int | None = None
        self._end: Any = None
        #: The thread's own number, once there is one.
        self.thread: int | None = None

    def start(self) -> None:
        """Watch the loop of this thread, from its next turn on."""
        self._watched = _get_ident()
        # Without a reference: it does not keep a program running that has nothing else to do.
        self._timer = gevent.get_hub().loop.timer(0.0, self._period, ref=False)
        self._timer.start(self._turned)

    def stop(self) -> None:
        """Watch no more; the thread ends by itself, at once."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        if self._end is not None and self._process == os.getpid():
            self._end.release()
            self._end = None

    def _turned(self) -> None:
        self._mark = time.monotonic()
        process = os.getpid()
        if self._process != process:
            # The first turn, or the first one of a forked child, which has no thread of its parent's.
            self._process = process
            self._end = _allocate_lock()
            self._end.acquire()
            self.thread = _start_new_thread(self._watch, (self._end,))

    # -- in the thread

    def _watch(self, end: Any) -> None:
        told = 0.0  # the mark of which it was told
        awake = StallTimer(self._period)
        while not end.acquire(True, self._period):
            mark = self._mark
            stands = awake.look(mark, time.monotonic(), time.process_time())
            if stands > self._seconds + self._period and mark != told:
                told = mark
                self._log_block(stands)

    def _log_block(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._watched)
        now = time.monotonic()
        if frame is None or now < Watchdog._due:
            return
        Watchdog._due = now + _LOG_INTERVAL
        what, stack = running(frame)
        logger.warning(
            "nobody was served for %.1f s, as %s blocks the event loop. Waiting is fine where gevent has "
            "patched it (time.sleep, sockets, subprocesses); give what computes, or waits in a library of "
            "C, to a thread: gevent.get_hub().threadpool.apply(function, args). It is here:\n%s",
            seconds,
            what,
            "".join(traceback.StackSummary.extract(reversed(stack)).format()).rstrip(),
        )


class StallTimer:
    """For how long a mark has stood, without the time in which the whole process did not run.

    A process that was stopped, or a machine that slept, is no handler's fault. Nor is one that had so
    much else to do that this thread was late as well; unless the process worked meanwhile, as then
    somebody held Python's lock.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._since = self._seen = time.monotonic()
        self._worked = time.process_time()

    def look(self, mark: float, now: float, worked: float) -> float:
        """Seconds for which `mark` has stood; `worked` is the CPU time of the process."""
        elapsed, self._seen = now - self._seen, now
        busy, self._worked = worked - self._worked, worked
        if elapsed > 2 * self._period and busy < elapsed / 2:
            self._since = now
        return now - max(mark, self._since)


def running(frame: FrameType) -> tuple[str, list[tuple[FrameType, int]]]:
    """What a thread that is at `frame` is doing, for whom, and the frames from there on outwards."""
    stack: list[tuple[FrameType, int]] = []
    for each, line in traceback.walk_stack(frame):
        stack.append((each, line))
        explain = _EXPLAINED.get(each.f_code)
        if explain is not None:
            return explain(each.f_locals), stack[:_MAX_FRAMES]
    what = f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return what, stack[:_MAX_FRAMES]


def _receiver(stage: str, values: dict[str, Any]) -> str:
    return f"a receiver of {stage!r}, {describe(values.get('receiver'))},"


def _page(values: dict[str, Any]) -> str:
    handler: RequestHandler = values["self"]
    return f"the page {handler.command} {safe_repr(handler.path.partition('?')[0])}"


#: Functions that call the user's, and what their variables tell.
_EXPLAINED: dict[CodeType, Callable[[dict[str, Any]], str]] = {
    signals.emit.__code__: lambda values: _receiver(values["stage"].name, values),
    signals._run_gate.__code__: lambda values: _receiver(values["gate"].name, values),
    signals._send_handled.__code__: lambda values: _receiver("handled", values),
    signals.report_error.__code__: lambda values: _receiver("error", values),
    ChannelPattern._match.__code__: lambda values: (
        f"the pattern of {values['self'].whose}, which should repeat nothing that repeats,"
    ),
    RequestHandler.run_application.__code__: _page,
}
