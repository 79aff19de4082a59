"""The server that the official Engine.IO protocol test suite expects: an echo, and no Socket.IO.

``python tests/conformance/engine_server.py [PORT]`` (3000; 0 picks one). Prints ``PORT <port>``.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys

from announce import run

from webpy_socketio.engine import Engine, EngineConfig, EngineServer, Session

CONFIG = EngineConfig(
    ping_interval=0.3, ping_timeout=0.2, max_message_size=1_000_000, allowed_origins=["*"]
)


class Echo:
    """Sends every message back with its type."""

    def opened(self, session: Session) -> None:
        pass

    def message(self, session: Session, data: str | bytes) -> None:
        session.send(data)

    def closed(self, session: Session, reason: str) -> None:
        pass


def main(port: int = 3000) -> None:
    server = EngineServer(("127.0.0.1", port), Engine(Echo(), CONFIG, "/engine.io/"), log=None)
    run(server)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
