"""Engine.IO v4 and Socket.IO v5 on gevent; usable without web.py, channels or signals.

A raw Engine.IO server that echoes every message::

    from gevent import monkey; monkey.patch_all()
    from webpy_socketio.engine import Engine, EngineServer

    class Echo:
        def __init__(self, session):
            self.session = session
        def message(self, data):
            self.session.send(data)
        def closed(self, reason): ...

    class EchoServer:
        def opened(self, session):
            return Echo(session)

    EngineServer(("127.0.0.1", 3000), Engine(EchoServer())).serve_forever()
"""

from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.engineio.session import EngineApplication, Receiver, Session
from webpy_socketio.engine.http.server import EngineServer
from webpy_socketio.engine.io.native import NATIVE
from webpy_socketio.engine.socketio.connection import Application, Connection
from webpy_socketio.engine.socketio.multiplexer import SocketIO
from webpy_socketio.engine.workers.handoff import PeerWorkers

__all__ = [
    "NATIVE",
    "Application",
    "Connection",
    "Engine",
    "EngineApplication",
    "EngineConfig",
    "EngineServer",
    "PeerWorkers",
    "Receiver",
    "Session",
    "SocketIO",
]
