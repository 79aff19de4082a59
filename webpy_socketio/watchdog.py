"""Detect and log code that blocks the event loop.

gevent runs all greenlets in one thread. While a handler computes, or waits in a call that gevent
has not patched, no client is served. A timer of the loop records the time periodically; a native
thread checks the age of that record. Only if it is too old are the frames of the blocked thread
inspected, so messages have no overhead.

Code that holds the GIL while it blocks, such as a regular expression, stops the watchdog thread
too: the block is reported after its end, or not at all. (Channel patterns have a separate warning,
see `bus.patterns`.)
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, ClassVar

import gevent
from gevent import monkey

from webpy_socketio.bus.introspection import describe
from webpy_socketio.bus.patterns import NamePattern
from webpy_socketio.bus.signals import Signals
from webpy_socketio.engine.http.wsgi import RequestHandler
from webpy_socketio.engine.io.throttled_log import safe_repr

__all__ = ["Watchdog", "describe_running"]

logger = logging.getLogger("webpy_socketio")

# Native threads, not patched by gevent.
_start_new_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
_allocate_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")

#: Checks per period after which a block is reported.
_CHECKS_PER_PERIOD = 4

#: Minimum seconds between two warnings of a process.
_LOG_INTERVAL = 60.0

#: Maximum number of stack frames in the log, innermost first.
_MAX_FRAMES = 12


class Watchdog:
    """Warns when the event loop of this thread has been blocked for `seconds`."""

    #: Time of the next permitted warning; several servers may share a loop.
    _due: ClassVar[float] = 0.0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._period = seconds / _CHECKS_PER_PERIOD
        self._timer: Any = None
        self._watched = 0
        self._last_turn = 0.0
        self._end: Any = None
        #: Identifier of the watchdog thread, once it runs.
        self.thread: int | None = None

    def start(self) -> None:
        """Watch the loop of this thread, starting with its next iteration."""
        self._watched = _get_ident()
        # ref=False: the timer does not keep an otherwise finished program running.
        self._timer = gevent.get_hub().loop.timer(0.0, self._period, ref=False)
        self._timer.start(self._record_time)

    def stop(self) -> None:
        """Stop watching; the thread ends immediately."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        if self._end is not None:
            self._end.release()
            self._end = None

    def _record_time(self) -> None:
        self._last_turn = time.monotonic()
        if self._end is None:
            self._end = _allocate_lock()
            self._end.acquire()
            self.thread = _start_new_thread(self._watch, (self._end,))

    # -- watchdog thread

    def _watch(self, end: Any) -> None:
        logged = 0.0  # value of `last_turn` that was logged last
        stall_timer = StallTimer(self._period)
        while not end.acquire(True, self._period):
            last_turn = self._last_turn
            stalled_for = stall_timer.update(last_turn, time.monotonic(), time.process_time())
            if stalled_for > self._seconds + self._period and last_turn != logged:
                logged = last_turn
                self._log_block(stalled_for)

    def _log_block(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._watched)
        now = time.monotonic()
        if frame is None or now < Watchdog._due:
            return
        Watchdog._due = now + _LOG_INTERVAL
        what, stack = describe_running(frame)
        logger.warning(
            "no client was served for %.1f s, because %s blocks the event loop. Only calls that "
            "gevent has patched may wait (time.sleep, sockets, subprocesses); run computations and "
            "blocking C libraries in a thread: gevent.get_hub().threadpool.apply(function, args). "
            "Stack of the blocking call:\n%s",
            seconds,
            what,
            "".join(traceback.StackSummary.extract(reversed(stack)).format()).rstrip(),
        )


class StallTimer:
    """Measures how long the loop has not run, except while the whole process was stopped.

    A suspended process or machine is not the fault of a handler, nor is a system so busy that the
    watchdog thread was late too. If the process used CPU time meanwhile, some code held the GIL and
    the time counts.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._since = self._checked = time.monotonic()
        self._cpu_time = time.process_time()

    def update(self, last_turn: float, now: float, cpu_time: float) -> float:
        """Return the seconds since `last_turn`; `cpu_time` is the CPU time of the process."""
        elapsed, self._checked = now - self._checked, now
        busy, self._cpu_time = cpu_time - self._cpu_time, cpu_time
        if elapsed > 2 * self._period and busy < elapsed / 2:
            self._since = now
        return now - max(last_turn, self._since)


def describe_running(frame: FrameType) -> tuple[str, list[tuple[FrameType, int]]]:
    """Return what the thread at `frame` is running, and the frames from there outwards."""
    stack: list[tuple[FrameType, int]] = []
    for each, line in traceback.walk_stack(frame):
        stack.append((each, line))
        description = _DESCRIPTIONS.get(each.f_code)
        if description is not None:
            return description(each.f_locals), stack[:_MAX_FRAMES]
    what = f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return what, stack[:_MAX_FRAMES]


def _describe_receiver(stage: str, values: dict[str, Any]) -> str:
    return f"a receiver of {stage!r}, {describe(values.get('receiver'))},"


def _describe_page(values: dict[str, Any]) -> str:
    handler: RequestHandler = values["self"]
    return f"the page {handler.command} {safe_repr(handler.path.partition('?')[0])}"


#: Functions that call application code, and how to describe the call from their variables.
_DESCRIPTIONS: dict[CodeType, Callable[[dict[str, Any]], str]] = {
    Signals.emit.__code__: lambda values: _describe_receiver(values["stage"].name, values),
    Signals.emit_message.__code__: lambda values: _describe_receiver("message", values),
    Signals._run_gate.__code__: lambda values: _describe_receiver(values["gate"].name, values),
    Signals._send_handled.__code__: lambda values: _describe_receiver("handled", values),
    Signals.report_error.__code__: lambda values: _describe_receiver("error", values),
    NamePattern._match.__code__: lambda values: (
        f"the pattern of {values['self'].description}, in which a repetition contains a repetition,"
    ),
    RequestHandler.run_application.__code__: _describe_page,
}
