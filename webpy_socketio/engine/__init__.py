"""Engine.IO v4 and Socket.IO v5 on gevent; usable without web.py, channels or signals.

A raw Engine.IO server that echoes every message::

    from gevent import monkey; monkey.patch_all()
    from webpy_socketio.engine import Engine, EngineServer

    class Echo:
        def opened(self, session): ...
        def closed(self, session, reason): ...
        def message(self, session, data):
            session.send(data)

    EngineServer(("127.0.0.1", 3000), Engine(Echo())).serve_forever()
"""

from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.engineio.session import Receiver, Session
from webpy_socketio.engine.http.server import EngineServer
from webpy_socketio.engine.socketio.connection import Application, Connection
from webpy_socketio.engine.socketio.multiplexer import SocketIO
from webpy_socketio.engine.workers.handoff import PeerWorkers

__all__ = [
    "Application",
    "Connection",
    "Engine",
    "EngineConfig",
    "EngineServer",
    "PeerWorkers",
    "Receiver",
    "Session",
    "SocketIO",
]
