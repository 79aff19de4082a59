"""Take-over marks: how a WSGI application leaves a request to the engine."""

from __future__ import annotations

from typing import Any

from greenlet import getcurrent

__all__ = ["ACCEPT_KEY", "MARK", "RAW_PATH", "TakeOverMark", "find_mark", "is_serving"]

#: Environ key. Its presence tells the application that it runs on this server. An application that
#: sets it to True leaves the request to the engine, once its response is complete.
ACCEPT_KEY = "webpy_socketio.take_over"

#: Environ key of the request's `Mark`.
MARK = "webpy_socketio.mark"

#: Environ key of the decoded path as the client sent it, before any WSGI wrapper changed PATH_INFO.
RAW_PATH = "webpy_socketio.raw_path"

#: The marks of the requests that applications are handling, by greenlet.
_marks: dict[Any, TakeOverMark] = {}


class TakeOverMark:
    """What the application decided about one request.

    The environ holds the mark itself, so that a WSGI wrapper may pass a copy of the environ: a value
    set in the copy would be lost. For a wrapper that builds a new environ, `find_mark` looks the mark
    up by greenlet.
    """

    __slots__ = ("environ", "is_reached", "request")

    def __init__(self, request: dict[str, Any]) -> None:
        #: The environ as the server made it.
        self.request = request
        #: The application's environ, once it has left the request to the engine.
        self.environ: dict[str, Any] | None = None
        #: Whether the application's urls led to the view behind `socketio_urls`.
        self.is_reached = False

    def __enter__(self) -> TakeOverMark:
        _marks[getcurrent()] = self
        return self

    def __exit__(self, *exception: object) -> None:
        _marks.pop(getcurrent(), None)
        self.request.pop(MARK, None)  # a reference cycle otherwise

    def take_over(self, environ: dict[str, Any]) -> None:
        """Leave the request to the engine; `environ` is the application's."""
        self.environ = environ

    def merged(self) -> dict[str, Any]:
        """Return the environ for the engine: the application's, completed by the server's."""
        environ = self.request
        if self.environ is not None and self.environ is not environ:
            environ = {**environ, **self.environ}
            environ.pop(MARK, None)  # a session keeps its environ, and must not keep both
        return environ


def find_mark(environ: dict[str, Any]) -> TakeOverMark | None:
    """Return the mark of a request; None if the application does not run on this server."""
    mark: TakeOverMark | None = environ.get(MARK)
    if mark is None:
        mark = _marks.get(getcurrent())
        # An application may call itself within a request, as web.py's `application.request` does.
        if mark is not None and not _is_same(mark.request, environ):
            mark = None
    return mark


def is_serving() -> bool:
    """Return whether a server of this process is waiting for its application's response."""
    return bool(_marks)


def _is_same(request: dict[str, Any], environ: dict[str, Any]) -> bool:
    query = environ.get("QUERY_STRING", "")
    path = environ.get("PATH_INFO", "")
    return bool(path and query == request["QUERY_STRING"] and request[RAW_PATH].endswith(path))
