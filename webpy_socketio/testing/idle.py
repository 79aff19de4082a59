"""When has everything happened? What still runs, where it waits, and whether it ever will go on."""

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

#: Seconds between two looks at what waits for the outside world, of which nobody tells the end.
_SLICE = 0.005

#: Whose frames are not the user's.
_OTHERS = tuple(
    f"{folder}/"
    for folder in (
        Path(__file__).parents[1],
        Path(str(web.__file__)).parent,
        Path(str(gevent.__file__)).parent,
    )
)


class StillRunning(AssertionError):
    """Something did not come to its end while the test waited for it; the text names it."""


class _Workers(GreenletPool):
    """The greenlets that handlers run in, and which of them are at work."""

    def __init__(self) -> None:
        super().__init__()
        self.busy: dict[Any, None] = {}

    def run(self, function: Callable[[], None]) -> Any:
        def watched() -> None:
            worker = getcurrent()
            self.busy[worker] = None
            try:
                function()
            finally:
                del self.busy[worker]

        return super().run(watched)


class IdleWaiter:
    """Runs gevent's loop until nothing moves; never longer than `timeout` real seconds.

    What is sent in memory is a callback of the loop, so an idle loop has delivered everything. What
    is left are handlers that wait. One that waits for a timer of gevent's, a socket or a thread has
    made a watcher active, and is waited for. When there is none beyond those that were there at the
    beginning, whoever waits waits for the test, and the test goes on.

    Raises `ConfigurationError` for gevent's other loop, libuv, which does not count like that.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.workers = _Workers()
        self._loop: Any = gevent.get_hub().loop
        if "libuv" in type(self._loop).__module__:
            raise ConfigurationError(
                "the testing kit needs gevent's libev loop, which tells when nothing moves: "
                "take GEVENT_LOOP out of the environment, or set it to libev-cext"
            )
        self._watchers = self._loop.activecnt

    @property
    def running(self) -> list[str]:
        """Where each handler is that has not come to its end."""
        return [place(worker) for worker in self.workers.busy]

    def settle(self) -> None:
        """Wait until nothing moves. Raises `StillRunning` if that takes too long."""
        if not self.wait(lambda: not self.workers.busy) and self._waits_outside():
            raise StillRunning(
                f"after {self.timeout} s these still run, and wait for a timer, a socket or a "
                f"thread:\n{indent(self.running)}\n"
                "Give TestServer(timeout=...) more seconds, or let them wait for an Event of the test's"
            )

    def wait(self, until: Callable[[], bool]) -> bool:
        """Wait until a condition holds; False if it does not when nothing moves any more."""
        deadline = time.monotonic() + self.timeout
        while True:
            self._run()
            if until():
                return True
            left = deadline - time.monotonic()
            if left <= 0 or not self._waits_outside():
                return False
            gevent.sleep(min(left, _SLICE))

    def _run(self) -> None:
        with gevent.Timeout(self.timeout, False):
            gevent.idle()
            return
        raise StillRunning(
            f"gevent's loop has not been idle for {self.timeout} s: something runs in a circle"
        )

    def _waits_outside(self) -> bool:
        return bool(self._loop.activecnt > self._watchers)


def place(greenlet: Any) -> str:
    """Where a greenlet waits: the outermost function that is the user's, and the innermost."""
    frames = [
        frame
        for frame in traceback.extract_stack(greenlet.gr_frame)
        if not frame.filename.startswith(_OTHERS)
    ]
    if not frames:
        return "a function of this package's"
    first, last = frames[0], frames[-1]
    where = f"{Path(last.filename).name}:{last.lineno}: {last.line}"
    return f"{first.name}, at {where}"


def indent(lines: list[str]) -> str:
    """Lines of a list in a message."""
    return "\n".join(f"    {line}" for line in lines) or "    nothing"
