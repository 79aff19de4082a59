"""Two workers on one listener accept connections evenly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent.socket
import pytest

from tests.engines import Running
from webpy_socketio.engine import PeerWorkers


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
                pair.append(run(**keywords))
        for worker in [*pair, *pair]:  # twice, so that each sees the other
            worker.server._publish_load()
        return pair

    @staticmethod
    def loads(pair: list[Running]) -> list[int]:
        return sorted(len(worker.engine.sessions) for worker in pair)

    def test_connections_are_distributed_evenly(self, pair: list[Running]) -> None:
        # A peer without CPU time misses connections; later ones compensate.
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
