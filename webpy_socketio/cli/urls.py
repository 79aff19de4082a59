"""The URL mapping of an application, read without making a request."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import web

from webpy_socketio.application import SocketIOView

__all__ = ["Route", "routes", "shadowing_pattern"]

#: The path that clients request with the default resource.
_PATH = "/socket.io/"


class Route(NamedTuple):
    """A URL pattern of an application, and its target."""

    pattern: str
    target: str
    #: Whether the target is Socket.IO.
    socketio: bool


def routes(application: Any) -> list[Route]:
    """Return the URL patterns of a web.py application in matching order."""
    return [
        Route(_readable(pattern), _name(what), what is SocketIOView)
        for pattern, what in application.mapping
    ]


def shadowing_pattern(application: Any) -> str | None:
    """Return the pattern before ``socketio_urls`` that matches its requests, if there is one."""
    for pattern, what in application.mapping:
        if what is SocketIOView:
            return None
        if isinstance(what, web.application):
            taken = _PATH.startswith(pattern)
        else:
            taken = re.match(rf"^{pattern}\Z", _PATH) is not None
        if taken:
            return str(pattern)
    return None


def _readable(pattern: Any) -> str:
    return str(pattern).replace("(?:socket\\.io)", "socket.io")


def _name(what: Any) -> str:
    if what is SocketIOView:
        return "Socket.IO"
    if isinstance(what, web.application):
        return "another application"
    return what if isinstance(what, str) else str(getattr(what, "__qualname__", what))
