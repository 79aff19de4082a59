"""The load table: overloaded workers leave new connections to their peers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.socket
import pytest

from webpy_socketio.engine import PeerWorkers
from webpy_socketio.engine.workers.load import READ_TIMEOUT, LoadTable

from .conftest import Running

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
        """Such a worker is dead or blocked."""
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


class TestAccept:
    @pytest.fixture
    def pair(self, run: Callable[..., Running], tmp_path: Path) -> list[Running]:
        """Two workers in one loop, which both see each connection."""
        tmp_path.chmod(0o700)
        listener = gevent.socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        pair = []
        with listener:
            for name in (1, 2):
                peers = PeerWorkers(tmp_path, name)
                keywords: dict[str, Any] = {"pywsgi": {"peers": peers}}
                keywords["listener"] = listener.dup()
                pair.append(run(session_prefix=peers.prefix, **keywords))
        for worker in [*pair, *pair]:  # twice, so that each sees the other
            worker.server._publish_load()
        return pair

    @staticmethod
    def loads(pair: list[Running]) -> list[int]:
        return sorted(len(worker.engine.sessions) for worker in pair)

    def test_connections_are_distributed_evenly(self, pair: list[Running]) -> None:
        # A peer that the machine keeps waiting misses connections; further ones make up for it.
        for total in (40, 80, 120):
            for _ in range(40):
                pair[0].websocket()
            fewer, more = self.loads(pair)
            assert fewer + more == total
            if more <= total / 2 * 1.125 + 2:
                return
        raise AssertionError(f"{fewer} and {more} connections")

    def test_connections_are_accepted_if_the_peer_does_not_accept(
        self, pair: list[Running]
    ) -> None:
        pair[1].server.stop_accepting()
        for _ in range(20):
            pair[0].websocket()
        assert self.loads(pair) == [0, 20]

    def test_connections_are_accepted_after_the_peer_stops(self, pair: list[Running]) -> None:
        pair[1].server.close()
        for _ in range(20):
            pair[0].websocket()
        load_table = pair[0].server._load_table
        assert load_table is not None
        assert not load_table.is_overloaded(20)
