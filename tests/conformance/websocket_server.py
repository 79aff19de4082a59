"""The WebSocket echo server for Autobahn's cases, without Engine.IO.

``python tests/conformance/websocket_server.py [PORT]`` (default 3000; 0 for a free port). Prints
``PORT <port>``.

It uses the engine's HTTP parser, handshake, frames, compression, UTF-8 checks, limits and closing.
Incoming text gets a packet type, which outgoing text does not have.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from collections.abc import Sequence
from typing import Any

from announce import start

from webpy_socketio.engine import Engine, EngineConfig, EngineServer, PeerWorkers, Session
from webpy_socketio.engine.engine import Upgrade
from webpy_socketio.engine.engineio.compression import CompressedWebSocket
from webpy_socketio.engine.engineio.requests import Response
from webpy_socketio.engine.engineio.websocket import WebSocket
from webpy_socketio.engine.io.packets import MESSAGE, Message
from webpy_socketio.engine.io.streams import Stream


class Untyped(WebSocket):
    """A WebSocket that treats all text as messages."""

    __slots__ = ()

    def _receive_text(self, data: bytes) -> None:
        super()._receive_text(MESSAGE + data)


class UntypedCompressed(Untyped, CompressedWebSocket):
    """The same, with permessage-deflate."""

    __slots__ = ()


class Echo:
    """Echoes every message unchanged."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def message(self, data: str | bytes) -> None:
        if isinstance(data, str):
            self._session.outbox.push(Message(data.encode()))
        else:
            self._session.send(data)

    def closed(self, reason: str) -> None:
        pass


class EchoApplication:
    """Creates an `Echo` for each session."""

    def opened(self, session: Session) -> Echo:
        return Echo(session)


class EchoUpgrade(Upgrade):
    """An accepted handshake that sends no open packet."""

    def start(self, stream: Stream, first: bytes) -> None:
        session = self._engine.open(self._environ)
        config = self._engine.config
        untyped = UntypedCompressed if self.compressed else Untyped
        websocket = untyped(session, stream, config.max_message_size, config.outbox_bytes)
        session.use(websocket)
        websocket.answer(self.answer)
        session.attach(self._engine.application.opened(session))
        websocket.start(first)


class EchoEngine(Engine):
    """An engine that opens a new session for every WebSocket."""

    def upgrade(
        self, environ: dict[str, Any], headers: Sequence[tuple[str, str]] = ()
    ) -> Upgrade | Response:
        environ = {**environ, "QUERY_STRING": "EIO=4&transport=websocket"}
        upgrade = super().upgrade(environ, headers)
        if isinstance(upgrade, Upgrade):
            return EchoUpgrade(self, environ, None, upgrade.answer, compressed=upgrade.compressed)
        return upgrade


def make(listener: Any, config: EngineConfig, peers: PeerWorkers | None) -> EngineServer:
    engine = EchoEngine(EchoApplication(), config, "/")
    return EngineServer(listener, engine, peers=peers, log=None)


if __name__ == "__main__":
    start(make, EngineConfig(compression=True))
