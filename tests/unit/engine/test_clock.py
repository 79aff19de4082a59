"""The clock of the engine and its replacement."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conftest import Journal
from tests.engines import Recorder
from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.io.clock import Clock, call_later, current_clock, replace_clock
from webpy_socketio.engine.socketio.multiplexer import SocketIO


class StoppedClock(Clock):
    """A clock whose time does not advance."""

    def now(self) -> float:
        return 0.0


@pytest.fixture
def stopped_clock() -> Iterator[Clock]:
    clock = StoppedClock()
    before = replace_clock(clock)
    yield clock
    assert replace_clock(before) is clock


class TestClock:
    def test_default_clock_returns_monotonic_time(self) -> None:
        before = time.monotonic()
        assert before <= current_clock().now() <= time.monotonic()

    def test_call_later_after_close_is_not_called(self, journal: Journal) -> None:
        call_later(0.001, journal.append, "cancelled").close()
        call_later(0.002, journal.append, "called")
        journal.wait_for("called")
        assert journal == ["called"]

    def test_engine_keeps_the_clock_of_its_creation(self, stopped_clock: Clock) -> None:
        engine = Engine(Recorder(), EngineConfig())
        before = replace_clock(Clock())
        try:
            assert engine.clock is stopped_clock
            assert Engine(Recorder(), EngineConfig()).clock is not stopped_clock
        finally:
            replace_clock(before)

    def test_socketio_uses_the_clock_of_its_creation(self, stopped_clock: Clock) -> None:
        socketio = SocketIO(None)  # type: ignore[arg-type]
        assert socketio.clock is stopped_clock
        socketio.dispose()
