"""The Engine.IO echo server for the official Engine.IO protocol test suite.

``python tests/conformance/engine_server.py [PORT [WORKERS]]`` (default 3000; 0 for a free port).
Prints ``PORT <port>``.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from typing import Any

from announce import start

from webpy_socketio.engine import Engine, EngineConfig, EngineServer, PeerWorkers, Session

CONFIG = EngineConfig(
    ping_interval=0.3, ping_timeout=0.2, max_message_size=1_000_000, allowed_origins=["*"]
)


class Echo:
    """Echoes every message with its type."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def message(self, data: str | bytes) -> None:
        self._session.send(data)

    def closed(self, reason: str) -> None:
        pass


class EchoApplication:
    """Creates an `Echo` for each session."""

    def opened(self, session: Session) -> Echo:
        return Echo(session)


def make(listener: Any, config: EngineConfig, peers: PeerWorkers | None) -> EngineServer:
    engine = Engine(EchoApplication(), config, "/engine.io/")
    return EngineServer(listener, engine, peers=peers, log=None)


if __name__ == "__main__":
    start(make, CONFIG)
