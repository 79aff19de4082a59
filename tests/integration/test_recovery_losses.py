"""The loss checker with clients that recover: no message is missing or doubled."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

import gevent
import pytest

from tests.conftest import Site
from tests.recovery_check import LOSSES, CheckedClient, Feed, subscribe_to_room
from webpy_socketio import default_runtime, on_connect

pytestmark = pytest.mark.time_limit(120)

#: Clients, and forced reconnects of all of them together.
CLIENTS, RECONNECTS = 20, int(os.environ.get("RECONNECTS", "1000"))


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    on_connect(subscribe_to_room)
    return serve(recovery_time=60, max_sessions_per_address=None, ping_interval=60)


@pytest.fixture
def clients(site: Site) -> Iterator[list[CheckedClient]]:
    clients = [CheckedClient(site.port, number) for number in range(CLIENTS)]
    yield clients
    for client in clients:
        client.close()


@pytest.mark.slow
def test_forced_reconnects_under_load_lose_and_double_nothing(
    clients: list[CheckedClient],
) -> None:
    feed = Feed(default_runtime)
    feed.session_ids = [client.sid for client in clients]
    ways = sorted(LOSSES)

    def run(client: CheckedClient) -> None:
        choices = random.Random(client.number)
        for number in range(-(-RECONNECTS // CLIENTS)):
            way = ways[(number + client.number) % len(ways)]
            client.lose(way, feed, choices)
            client.read(choices.randrange(1, 6))
            if number % 3 == 2:  # otherwise clients would fall behind until the log ends
                client.catch_up(feed.round)

    feed.start()
    gevent.joinall([gevent.spawn(run, client) for client in clients], raise_error=True)
    feed.stop()
    readers = [gevent.spawn(client.read_until, feed.round) for client in clients]
    gevent.joinall(readers, raise_error=True)
    assert [violation for client in clients for violation in client.wrong] == []
    assert sum(client.fresh for client in clients) == 0
    assert sum(client.recovered for client in clients) >= RECONNECTS
