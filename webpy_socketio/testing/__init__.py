"""Test kit for handlers: several clients, the real server, no port, no sleeping.

::

    from webpy_socketio.testing import TestServer

    def test_message_reaches_subscribers_of_its_room():
        with TestServer(app) as server:
            ann, bob = server.connect(), server.connect()
            ann.subscribe("room-1")
            bob.subscribe("room-1")
            ann.send("hello")
            assert bob.receive("message") == "hello"
            assert bob.received() == []

The application, its processors and sessions, handlers, gates, plugins and the engine are the same
as in production. Only connections are in memory, and time is virtual: see `TestServer.advance`.

Each call returns once all its effects have happened, and raises the errors of handlers. The kit
works with any test framework, and requires that gevent patches before web.py is imported.
"""

from webpy_socketio.testing.acks import Ack, HandshakeRefused
from webpy_socketio.testing.client import Browser, Client
from webpy_socketio.testing.events import Received
from webpy_socketio.testing.idle import StillRunning
from webpy_socketio.testing.records import Record
from webpy_socketio.testing.response import Response
from webpy_socketio.testing.server import TestServer

__all__ = [
    "Ack",
    "Browser",
    "Client",
    "HandshakeRefused",
    "Received",
    "Record",
    "Response",
    "StillRunning",
    "TestServer",
]
