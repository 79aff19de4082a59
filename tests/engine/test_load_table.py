"""Who has more than its part leaves what comes to the others; and nobody is left waiting for it."""

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
    """A worker's view: ``join(name)``."""
    made: list[LoadTable] = []

    def join(name: int, listener: socket.socket = listener) -> LoadTable:
        made.append(LoadTable(tmp_path, name, listener.fileno(), clock))
        return made[-1]

    yield join
    for shares in made:
        shares.leave()


class TestShares:
    def test_alone_nobody_has_more(self, join: Join) -> None:
        one = join(1)
        one.publish(0)
        assert not one.is_overloaded(1_000_000)

    def test_who_has_more_than_the_others(self, join: Join) -> None:
        one, two = join(1), join(2)
        two.publish(100)
        one.publish(200)
        two.publish(100)
        assert one.is_overloaded(200)
        assert not two.is_overloaded(100)
        two.update(200)  # and is heard at once
        assert not one.is_overloaded(200)

    @pytest.mark.parametrize(("mine", "theirs"), [(3, 1), (50, 44), (1000, 900)])
    def test_a_little_more_is_nothing(self, join: Join, mine: int, theirs: int) -> None:
        one, two = join(1), join(2)
        two.publish(theirs)
        one.publish(mine)
        assert not one.is_overloaded(mine)

    def test_one_that_says_nothing_is_not_waited_for(self, join: Join, clock: Clock) -> None:
        """It is dead, or stands still."""
        one, two = join(1), join(2)
        two.publish(0)
        one.publish(100)
        clock.now += READ_TIMEOUT / 2
        assert one.is_overloaded(100)
        clock.now += READ_TIMEOUT / 2
        assert not one.is_overloaded(100)
        two.update(0)
        assert one.is_overloaded(100)

    def test_one_that_leaves_is_not_waited_for(self, join: Join) -> None:
        one, two = join(1), join(2)
        two.publish(0)
        one.publish(100)
        two.leave()
        assert not one.is_overloaded(100)

    def test_one_of_another_address_is_none_of_ours(self, join: Join) -> None:
        one = join(1)
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            join(2, elsewhere).publish(0)
        one.publish(100)
        assert not one.is_overloaded(100)

    def test_a_copy_of_the_listening_socket_is_the_same(
        self, join: Join, listener: socket.socket
    ) -> None:
        one = join(1)
        with listener.dup() as copy:
            join(2, copy).publish(0)
        one.publish(100)
        assert one.is_overloaded(100)


class TestAccepting:
    @pytest.fixture
    def pair(self, run: Callable[..., Running], tmp_path: Path) -> list[Running]:
        """Two workers in one loop, which asks both of them about each connection."""
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
        for worker in [*pair, *pair]:  # each knows of the other then
            worker.server._publish_load()
        return pair

    @staticmethod
    def loads(pair: list[Running]) -> list[int]:
        return sorted(len(worker.engine.sessions) for worker in pair)

    def test_connections_are_spread(self, pair: list[Running]) -> None:
        for _ in range(40):
            pair[0].websocket()
        fewer, more = self.loads(pair)
        assert fewer + more == 40
        assert more <= 40 / 2 * 1.125 + 2

    def test_nobody_waits_for_one_that_does_not_accept(self, pair: list[Running]) -> None:
        pair[1].server.stop_accepting()
        for _ in range(20):
            pair[0].websocket()
        assert self.loads(pair) == [0, 20]

    def test_one_that_stops_is_not_waited_for(self, pair: list[Running]) -> None:
        pair[1].server.close()
        for _ in range(20):
            pair[0].websocket()
        shares = pair[0].server._load_table
        assert shares is not None
        assert not shares.is_overloaded(20)
