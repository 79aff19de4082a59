"""The attributes of servers that HTTP handlers use.

pywsgi has no type annotations; with these protocols mypy checks the names.
"""

from __future__ import annotations

from typing import Any, Protocol

from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.engineio.requests import Response
from webpy_socketio.engine.io.quotas import Quota
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.engine.workers.handoff import PeerWorkers

__all__ = ["EngineHTTPServer", "HTTPServer"]


class HTTPServer(Protocol):
    """A `BaseServer`, as its handlers use it."""

    config: EngineConfig
    bodies: Quota
    notices: ThrottledLog
    keeps_log: bool
    peers: PeerWorkers | None
    idle_handlers: dict[Any, Any] | None
    environ: dict[str, Any]

    def get_environ(self) -> dict[str, Any]:
        """Return a copy of the environ that all requests share."""


class EngineHTTPServer(HTTPServer, Protocol):
    """An `EngineServer`, as its handlers use it."""

    engine: Engine
    handlers: set[Any]
    loop: Any
    move_timeout: float

    def respond_early(self, environ: dict[str, Any]) -> Response | None:
        """Return a response that needs neither the application nor a session."""

    def learn_route(self, environ: dict[str, Any]) -> None:
        """Learn from a handshake that the application has passed on."""

    def find_route(self, environ: dict[str, Any]) -> bool:
        """Return whether the application would pass on a handshake, without calling it."""

    def start_greenlet(self, handler: Any) -> None:
        """Start the greenlet of a connection that was served on the hub."""

    def close_connection(self, handler: Any) -> None:
        """Close a connection that was served on the hub."""

    def release(self, sock: Any) -> None:
        """Stop counting a connection."""

    def log_unmatched(self, environ: dict[str, Any], code: int) -> None:
        """Log a request that the application answered but that may be meant for the engine."""
