"""Health checks for load balancers and service managers (``SOCKETIO_HEALTH``).

Both are answered before the application runs and without a session, in constant time. A full server
answers too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webpy_socketio.backplane import Backplane
from webpy_socketio.engine.engineio.requests import Response
from webpy_socketio.engine.io import json

__all__ = ["HealthChecks"]


class HealthChecks:
    """Responses at ``/socket.io/health`` (readiness) and ``/socket.io/health/live`` (liveness).

    Args:
        path: Path of readiness, such as ``/socket.io/health``.
        is_draining: Returns whether the server is stopping.
        backplane: Returns the backplane, or None without one.
    """

    def __init__(
        self,
        path: str,
        is_draining: Callable[[], bool],
        backplane: Callable[[], Backplane | None],
    ) -> None:
        self._ready_path = path
        self._live_path = f"{path}/live"
        self._is_draining = is_draining
        self._backplane = backplane

    def respond(self, environ: dict[str, Any]) -> Response | None:
        """Return the response to a health check, or None for another request."""
        path = environ["PATH_INFO"]
        if path not in (self._ready_path, self._live_path):
            return None
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            body = {"error": "a health check is a GET or HEAD request"}
            return _response("405 Method Not Allowed", body, ("Allow", "GET, HEAD"))
        if path == self._live_path:
            return _response("200 OK", {"status": "alive"})
        is_draining = self._is_draining()
        body = {"status": "draining" if is_draining else "ready"}
        backplane = self._backplane()
        if backplane is not None:
            # Without effect on the status: all processes share Redis, so a load balancer would
            # remove all of them, and local clients would lose a server that still serves them.
            body["backplane"] = "connected" if backplane.connected else "unreachable"
        return _response("503 Service Unavailable" if is_draining else "200 OK", body)


def _response(status: str, body: dict[str, str], *headers: tuple[str, str]) -> Response:
    return Response(status, json.dumps(body), "application/json", headers)
