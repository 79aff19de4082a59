"""The clock: gevent's, unless another one was put in its place."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conftest import Journal
from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.io.clock import Clock, call_later, current_clock, replace_clock
from webpy_socketio.engine.socketio.multiplexer import SocketIO

from .conftest import Recorder


class Standing(Clock):
    """One that stands still."""

    def now(self) -> float:
        return 0.0


@pytest.fixture
def standing() -> Iterator[Clock]:
    clock = Standing()
    before = replace_clock(clock)
    yield clock
    assert replace_clock(before) is clock


class TestClock:
    def test_it_is_the_monotonic_time(self) -> None:
        before = time.monotonic()
        assert before <= current_clock().now() <= time.monotonic()

    def test_what_is_called_later_may_be_taken_back(self, journal: Journal) -> None:
        call_later(0.001, journal.append, "taken back").close()
        call_later(0.002, journal.append, "called")
        journal.wait_for("called")
        assert journal == ["called"]

    def test_an_engine_keeps_the_one_it_was_made_with(self, standing: Clock) -> None:
        engine = Engine(Recorder(), EngineConfig())
        before = replace_clock(Clock())
        try:
            assert engine.clock is standing
            assert Engine(Recorder(), EngineConfig()).clock is not standing
        finally:
            replace_clock(before)

    def test_so_does_what_speaks_socketio(self, standing: Clock) -> None:
        socketio = SocketIO(None)  # type: ignore[arg-type]
        assert socketio.clock is standing
        socketio.dispose()
