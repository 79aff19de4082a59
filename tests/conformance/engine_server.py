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

    def opened(self, session: Session) -> None:
        pass

    def message(self, session: Session, data: str | bytes) -> None:
        session.send(data)

    def closed(self, session: Session, reason: str) -> None:
        pass


def make(listener: Any, config: EngineConfig, peers: PeerWorkers | None) -> EngineServer:
    engine = Engine(Echo(), config, "/engine.io/")
    return EngineServer(listener, engine, peers=peers, log=None)


if __name__ == "__main__":
    start(make, CONFIG)
