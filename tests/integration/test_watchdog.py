"""Code that blocks the event loop is named in the log; code that waits in gevent is not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey

from tests.commands import run_python
from tests.conftest import Site
from tests.integration.test_application import visit
from webpy_socketio import (
    on_connecting,
    on_error,
    on_message,
    on_subscribe,
    signals,
)
from webpy_socketio.watchdog import StallTimer, Watchdog

#: A native lock: acquiring it blocks the thread, including the event loop.
allocate_lock = monkey.get_original("_thread", "allocate_lock")
get_ident = monkey.get_original("_thread", "get_ident")

MatchQuote = Callable[[str], None]


class Warnings(logging.Handler):
    """Records warnings in the thread of the watchdog, and then unblocks the event loop."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self._lock = allocate_lock()
        self._lock.acquire()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self._lock.release()

    def block(self) -> None:
        """Block the event loop until a warning is logged."""
        assert self._lock.acquire(True, 30), "never warned"


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Warnings]:
    monkeypatch.setattr(Watchdog, "_due", 0.0)
    handler = Warnings()
    logger = logging.getLogger("webpy_socketio")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def site(serve: Callable[..., Site], warnings: Warnings) -> Site:
    return watched(serve, warnings)


def watched(
    serve: Callable[..., Site], warnings: Warnings, urls: Any = (), fvars: Any = None
) -> Site:
    site = serve(urls, {} if fvars is None else fvars, block_warning=0.1)
    while site.server._watchdog is None or site.server._watchdog.thread is None:
        gevent.idle()  # until the first iteration
    return site


def here(function: Any) -> str:
    return f"(test_watchdog.py:{function.__code__.co_firstlineno})"


@pytest.mark.time_limit(60)
class TestWarning:
    @pytest.mark.quoted("no client was served for … s")
    def test_warning_names_the_handler_and_the_line(
        self, site: Site, warnings: Warnings, match_quote: MatchQuote
    ) -> None:
        @on_message
        def careless(request: Any, socket: Any, context: Any, message: Any) -> str:
            warnings.block()  # on a separate line
            return "done"

        assert site.connect().call("message", 1) == ["done"]
        (text,) = warnings.texts
        match_quote(text)
        assert f"a receiver of 'message', {careless.__qualname__} {here(careless)}, blocks" in text
        assert "threadpool.apply(function, args)" in text
        assert "    warnings.block()  # on a separate line\n" in text
        assert text.count("\n") < 15

    def test_warning_names_a_gate_receiver(self, site: Site, warnings: Warnings) -> None:
        @on_connecting
        def careless(request: Any, socket: Any, context: Any) -> None:
            warnings.block()

        assert site.connect()
        assert f"a receiver of 'connecting', {careless.__qualname__} {here(careless)}," in "".join(
            warnings.texts
        )

    def test_warning_names_a_receiver(self, site: Site, warnings: Warnings) -> None:
        def careless(sender: Any, **extra: Any) -> None:
            warnings.block()

        signals.connect.connect(careless)
        site.connect().barrier()
        assert f"'connect', {careless.__qualname__} {here(careless)}," in "".join(warnings.texts)

    def test_warning_names_an_error_receiver(self, site: Site, warnings: Warnings) -> None:
        @on_error
        def careless(request: Any, socket: Any, context: Any, exception: Any) -> None:
            warnings.block()

        site.connect().call("__channel__", "nowhere", 1)
        assert f"'error', {careless.__qualname__} {here(careless)}," in "".join(warnings.texts)

    def test_warning_names_the_innermost_receiver(self, site: Site, warnings: Warnings) -> None:
        @on_message
        def outer(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.subscribe("room")

        @on_subscribe
        def inner(request: Any, socket: Any, context: Any, channel: Any) -> None:
            warnings.block()

        site.connect().call("message")
        (text,) = warnings.texts
        assert f"a receiver of 'subscribe', {inner.__qualname__}" in text
        assert outer.__qualname__ not in text

    def test_warning_names_a_page(self, serve: Callable[..., Site], warnings: Warnings) -> None:
        class Page:
            def GET(self, name: str) -> str:
                warnings.block()
                return "at last"

        site = watched(serve, warnings, ("/page/(.*)", "page"), {"page": Page})
        assert visit(site.port, "/page/slow%22?secret=1").body == b"at last"
        (text,) = warnings.texts
        assert "because the page GET '/page/slow%22' blocks" in text
        assert "secret" not in text

    def test_warning_names_other_code(self, site: Site, warnings: Warnings) -> None:
        def background() -> None:
            warnings.block()

        gevent.spawn(background).join()
        (text,) = warnings.texts
        assert "because block (" in text
        assert "in background\n" in text

    def test_warning_is_logged_for_computations(self, site: Site, warnings: Warnings) -> None:
        @on_message
        def computes(request: Any, socket: Any, context: Any, message: Any) -> None:
            while not warnings.texts:
                pass

        site.connect().call("message")
        assert computes.__qualname__ in "".join(warnings.texts)

    def test_warning_is_logged_once_a_minute(
        self, warnings: Warnings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, other = Watchdog(1.0), Watchdog(1.0)  # two servers of one loop
        for watchdog in (one, other):
            watchdog._watched = get_ident()
        one._log_block(1.5)
        one._log_block(1.5)
        other._log_block(1.5)
        assert len(warnings.texts) == 1
        monkeypatch.setattr(Watchdog, "_due", 0.0)
        warnings.block()
        other._log_block(1.5)
        assert len(warnings.texts) == 2


@pytest.mark.time_limit(60)
class TestNoWarning:
    def test_handler_waiting_in_gevent_is_not_logged(
        self, serve: Callable[..., Site], warnings: Warnings
    ) -> None:
        begun, go = gevent.event.Event(), gevent.event.Event()

        @on_message
        def waits(request: Any, socket: Any, context: Any, message: Any) -> None:
            begun.set()
            go.wait()

        site = serve(block_warning=1.0)
        client = site.connect()
        client.emit("message", ack=1)
        begun.wait()
        watchdog = site.server._watchdog
        assert watchdog is not None
        marks = set()
        while len(marks) < 7:  # longer than the limit
            marks.add(watchdog._last_turn)
            gevent.sleep(watchdog._period / 2)
        go.set()
        assert client.receive() == "431[]"
        assert warnings.texts == []

    @pytest.mark.parametrize("seconds", [None, 0])
    def test_block_warning_none_starts_no_watchdog(
        self, seconds: Any, serve: Callable[..., Site]
    ) -> None:
        assert serve(block_warning=seconds).server._watchdog is None

    def test_thread_ends_when_the_server_stops(self, site: Site) -> None:
        watchdog = site.server._watchdog
        assert watchdog is not None
        while watchdog.thread not in sys._current_frames():
            gevent.sleep(0.01)  # wait for the thread to start
        site.server.stop()
        while watchdog.thread in sys._current_frames():
            gevent.sleep(0.01)
        watchdog.stop()  # a second time

    def test_block_before_the_first_iteration_is_not_logged(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(block_warning=0.1)
        assert site.server._watchdog is not None
        assert site.server._watchdog.thread is None


class TestStallTimer:
    """Arguments are (last turn, now, CPU time of the process); the period is 1 s."""

    def update(self, *times: tuple[float, float, float]) -> list[float]:
        stall_timer = StallTimer(1.0)
        stall_timer._since = stall_timer._checked = stall_timer._cpu_time = 0.0
        return [stall_timer.update(*each) for each in times]

    def test_stall_timer_with_moving_time_returns_the_remainder(self) -> None:
        assert self.update((1, 1, 0), (2, 2, 0), (3, 3.5, 0)) == [0, 0, 0.5]

    def test_stall_timer_with_standing_time_returns_the_duration(self) -> None:
        assert self.update((1, 1, 0), (1, 2, 0), (1, 3, 0)) == [0, 1, 2]

    def test_stall_timer_excludes_time_of_a_stopped_process(self) -> None:
        assert self.update((1, 1, 0), (1, 3600, 0.1), (1, 3601, 0.1)) == [0, 0, 1]

    def test_stall_timer_includes_time_with_the_gil_held(self) -> None:
        assert self.update((1, 1, 0), (1, 11, 9.8)) == [0, 10]


PROGRAM = """
from gevent import monkey; monkey.patch_all()
import logging, os, sys
import gevent, web
from webpy_socketio import SocketIOServer, socketio_urls

app = web.application(socketio_urls, {}, autoreload=False)
server = SocketIOServer(("127.0.0.1", 0), app.wsgifunc(), log=None, block_warning=0.2)
server.start()
watchdog = server._watchdog
while watchdog.thread is None:
    gevent.idle()
"""

FORKED = """
lock = monkey.get_original("_thread", "allocate_lock")()
lock.acquire()

class Release(logging.Handler):
    def emit(self, record):
        sys.stdout.write(f"{os.getpid() == parent} {record.getMessage()}\\n")
        sys.stdout.flush()
        lock.release()

logging.getLogger("webpy_socketio").addHandler(Release())

def blocks():
    if not lock.acquire(True, 30):
        os._exit(3)

parent = os.getpid()
child = os.fork()
if child == 0:
    # It serves no clients, so it may block: this is five times the limit.
    os._exit(3 if lock.acquire(True, 1) else 0)
_, status = os.waitpid(child, 0)
blocks()
server.stop()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.time_limit(90)
class TestProcess:
    def test_watchdog_does_not_keep_the_program_running(self, tmp_path: Path) -> None:
        assert run_python("-c", PROGRAM, cwd=tmp_path) == (0, "", "")

    def test_forked_child_is_not_watched(self, tmp_path: Path) -> None:
        done = run_python("-c", PROGRAM + FORKED, cwd=tmp_path)
        assert done.status == 0, done.err
        logged = [line for line in done.out.splitlines() if "no client was served" in line]
        assert [line.split()[0] for line in logged] == ["True"]
        assert all("blocks (" in line for line in logged)
