"""The server for the official Socket.IO protocol test suite.

``python tests/conformance/socketio_server.py [PORT [WORKERS]]`` (default 3000; 0 for a free port).
Prints ``PORT <port>``.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from typing import Any

from announce import start

from webpy_socketio.engine import (
    Connection,
    Engine,
    EngineConfig,
    EngineServer,
    PeerWorkers,
    SocketIO,
)

CONFIG = EngineConfig(
    ping_interval=0.3,
    ping_timeout=0.2,
    connect_timeout=1.0,
    max_message_size=1_000_000,
    allowed_origins=["*"],
)


class Conformance:
    """Sends the auth payload back to the client, and responds to two events."""

    def connect(self, connection: Connection) -> None:
        connection.accept()
        connection.emit("auth", connection.auth or {})

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        if name == "message":
            connection.emit("message-back", *args)
        elif name == "message-with-ack" and ack is not None:
            connection.acknowledge(ack, args)

    def closing(self, connection: Connection) -> None:
        pass

    def disconnected(self, connection: Connection, reason: str) -> None:
        pass

    def failed(self, connection: Connection, error: Exception) -> None:
        pass


def make(listener: Any, config: EngineConfig, peers: PeerWorkers | None) -> EngineServer:
    socketio = SocketIO(Conformance(), config, namespaces=("/", "/custom"))
    engine = Engine(socketio, config, "/socket.io/")
    return EngineServer(listener, engine, peers=peers, log=None)


if __name__ == "__main__":
    start(make, CONFIG)
