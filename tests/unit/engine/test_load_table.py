"""The load table: overloaded workers leave new connections to their peers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from webpy_socketio.engine.workers.load import READ_TIMEOUT, LoadTable

Join = Callable[..., LoadTable]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def join(tmp_path: Path, listener: socket.socket, clock: Clock) -> Iterator[Join]:
    """Return the view of a worker: ``join(name)``."""
    made: list[LoadTable] = []

    def join(name: int, listener: socket.socket = listener) -> LoadTable:
        made.append(LoadTable(tmp_path, name, listener.fileno(), clock))
        return made[-1]

    yield join
    for load_table in made:
        load_table.leave()


class TestLoadTable:
    def test_single_worker_is_never_overloaded(self, join: Join) -> None:
        one = join(1)
        one.publish(0)
        assert not one.is_overloaded(1_000_000)

    def test_worker_above_the_average_is_overloaded(self, join: Join) -> None:
        one, two = join(1), join(2)
        two.publish(100)
        one.publish(200)
        two.publish(100)
        assert one.is_overloaded(200)
        assert not two.is_overloaded(100)
        two.update(200)  # visible immediately
        assert not one.is_overloaded(200)

    @pytest.mark.parametrize(("mine", "theirs"), [(3, 1), (50, 44), (1000, 900)])
    def test_worker_slightly_above_the_average_is_not_overloaded(
        self, join: Join, mine: int, theirs: int
    ) -> None:
        one, two = join(1), join(2)
        two.publish(theirs)
        one.publish(mine)
        assert not one.is_overloaded(mine)

    def test_worker_without_updates_is_ignored(self, join: Join, clock: Clock) -> None:
        """Such a worker has ended or is blocked."""
        one, two = join(1), join(2)
        two.publish(0)
        one.publish(100)
        clock.now += READ_TIMEOUT / 2
        assert one.is_overloaded(100)
        clock.now += READ_TIMEOUT / 2
        assert not one.is_overloaded(100)
        two.update(0)
        assert one.is_overloaded(100)

    def test_worker_that_leaves_is_ignored(self, join: Join) -> None:
        one, two = join(1), join(2)
        two.publish(0)
        one.publish(100)
        two.leave()
        assert not one.is_overloaded(100)

    def test_worker_with_another_listener_is_ignored(self, join: Join) -> None:
        one = join(1)
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            join(2, elsewhere).publish(0)
        one.publish(100)
        assert not one.is_overloaded(100)

    def test_duplicated_listener_is_the_same(self, join: Join, listener: socket.socket) -> None:
        one = join(1)
        with listener.dup() as copy:
            join(2, copy).publish(0)
        one.publish(100)
        assert one.is_overloaded(100)
