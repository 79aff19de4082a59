"""Tests for handlers: several clients, the real server, no port, no sleeping.

::

    from webpy_socketio.testing import TestServer

    def test_a_room_hears_what_is_said_in_it():
        with TestServer(app) as server:
            ann, bob = server.connect(), server.connect()
            ann.subscribe("room-1")
            bob.subscribe("room-1")
            ann.send("hello")
            assert bob.receive("message") == "hello"
            assert bob.received() == []

The application, its processors and sessions, handlers, gates, plugins and the engine are what they
are in production; in memory are only the connections, and time is virtual: `TestServer.advance`.
Whatever a test does returns when everything that it caused has happened, and raises what a handler
raised. It works in any test framework, and needs gevent's patches before web.py is imported.
"""

from webpy_socketio.testing.acks import Ack, HandshakeRefused
from webpy_socketio.testing.browser import Browser
from webpy_socketio.testing.client import Client
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
