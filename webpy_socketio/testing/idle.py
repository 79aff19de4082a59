"""Detection of idleness: which handlers still run, and whether they can continue."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import web
from greenlet import getcurrent

from webpy_socketio.engine.io.greenlets import GreenletPool
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["IdleWaiter", "StillRunning", "place"]

#: Seconds between two checks of handlers that wait for a timer, a socket or a thread.
_POLL_INTERVAL = 0.005

#: Folders whose frames are not the application's.
_LIBRARIES = tuple(
    f"{folder}/"
    for folder in (
        Path(__file__).parents[1],
        Path(str(web.__file__)).parent,
        Path(str(gevent.__file__)).parent,
    )
)


class StillRunning(AssertionError):
    """A handler or request did not finish within the timeout; the text names it."""


class _Workers(GreenletPool):
    """The greenlets that run handlers, and which of them are busy."""

    def __init__(self) -> None:
        super().__init__()
        self.busy: dict[Any, None] = {}

    def run(self, function: Callable[[], None]) -> None:
        def watched() -> None:
            worker = getcurrent()
            self.busy[worker] = None
            try:
                function()
            finally:
                del self.busy[worker]

        super().run(watched)


class IdleWaiter:
    """Runs gevent's loop until it is idle, for at most `timeout` real seconds.

    Data sent in memory is a loop callback, so an idle loop has delivered everything. Handlers may
    still wait. A handler that waits for a gevent timer, a socket or a thread has an active watcher,
    and is waited for. If there are no more active watchers than at the start, the remaining
    handlers wait for the test, which continues.

    Raises:
        ConfigurationError: gevent runs on libuv, which does not count active watchers.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.workers = _Workers()
        self._loop: Any = gevent.get_hub().loop
        if "libuv" in type(self._loop).__module__:
            raise ConfigurationError(
                "webpy_socketio.testing requires gevent's libev loop, which counts active "
                "watchers: unset GEVENT_LOOP, or set it to libev-cext"
            )
        self._watchers = self._loop.activecnt

    @property
    def running(self) -> list[str]:
        """Where each unfinished handler waits."""
        return [place(worker) for worker in self.workers.busy]

    def settle(self) -> None:
        """Wait until the loop is idle; raise `StillRunning` after the timeout."""
        if not self.wait(lambda: not self.workers.busy) and self._waits_outside():
            raise StillRunning(
                f"after {self.timeout} s, these handlers still wait for a timer, a socket or a "
                f"thread:\n{indent(self.running)}\n"
                "Increase TestServer(timeout=...), or let them wait for an Event of the test"
            )

    def wait(self, until: Callable[[], bool]) -> bool:
        """Wait until a condition holds; return False if the loop is idle and it does not."""
        deadline = time.monotonic() + self.timeout
        while True:
            self._run()
            if until():
                return True
            left = deadline - time.monotonic()
            if left <= 0 or not self._waits_outside():
                return False
            gevent.sleep(min(left, _POLL_INTERVAL))

    def _run(self) -> None:
        with gevent.Timeout(self.timeout, False):
            gevent.idle()
            return
        raise StillRunning(
            f"gevent's loop has not been idle for {self.timeout} s: a greenlet or a callback "
            "repeats endlessly"
        )

    def _waits_outside(self) -> bool:
        return bool(self._loop.activecnt > self._watchers)


def place(greenlet: Any) -> str:
    """Return where a greenlet waits: the application's outermost and innermost frame."""
    frames = [
        frame
        for frame in traceback.extract_stack(greenlet.gr_frame)
        if not frame.filename.startswith(_LIBRARIES)
    ]
    if not frames:
        return "a function of webpy_socketio"
    first, last = frames[0], frames[-1]
    where = f"{Path(last.filename).name}:{last.lineno}: {last.line}"
    return f"{first.name}, at {where}"


def indent(lines: list[str]) -> str:
    """Format the lines of a list in a message."""
    return "\n".join(f"    {line}" for line in lines) or "    nothing"
