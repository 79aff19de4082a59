"""Where an application sends a request for Socket.IO, read from its urls; no request is made."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import web

from webpy_socketio.application import SocketIOView

__all__ = ["Route", "hiding", "routes"]

#: What the client asks for, with the resource that nobody has changed.
_PATH = "/socket.io/"


class Route(NamedTuple):
    """A pattern of an application's urls, and what answers."""

    pattern: str
    target: str
    #: Whether it is ours.
    socketio: bool


def routes(application: Any) -> list[Route]:
    """The urls of a web.py application, in the order in which they are tried."""
    return [
        Route(_readable(pattern), _name(what), what is SocketIOView)
        for pattern, what in application.mapping
    ]


def hiding(application: Any) -> str | None:
    """The pattern that takes Socket.IO's requests away, if one stands before ours."""
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
