"""Take-over marks: let a WSGI application pass a request on to the engine."""

from __future__ import annotations

from typing import Any

from greenlet import getcurrent

__all__ = ["ACCEPT_KEY", "MARK", "RAW_PATH", "TakeOverMark", "find_mark", "is_serving"]

#: Environ key that is present on this server. An application that sets it to True passes the
#: request on to the engine once its own response is complete.
ACCEPT_KEY = "webpy_socketio.take_over"

#: Environ key of the request's `TakeOverMark`.
MARK = "webpy_socketio.mark"

#: Environ key of the path as sent by the client, decoded, before WSGI wrappers changed PATH_INFO.
RAW_PATH = "webpy_socketio.raw_path"

#: The marks of the requests in progress, by greenlet.
_marks: dict[Any, TakeOverMark] = {}


class TakeOverMark:
    """The application's decision about one request.

    The environ contains the mark as a mutable object, because WSGI wrappers may pass a copy of the
    environ: a value set in the copy would be lost. If a wrapper builds a new environ, `find_mark`
    finds the mark by greenlet.
    """

    __slots__ = ("environ", "is_reached", "request")

    def __init__(self, request: dict[str, Any]) -> None:
        #: The environ created by the server.
        self.request = request
        #: The application's environ, once it has passed the request on.
        self.environ: dict[str, Any] | None = None
        #: Whether the application's urls routed the request to the view of `socketio_urls`.
        self.is_reached = False

    def __enter__(self) -> TakeOverMark:
        _marks[getcurrent()] = self
        return self

    def __exit__(self, *exception: object) -> None:
        _marks.pop(getcurrent(), None)
        self.request.pop(MARK, None)  # a reference cycle otherwise

    def take_over(self, environ: dict[str, Any]) -> None:
        """Pass the request on to the engine with the application's environ."""
        self.environ = environ

    def merged(self) -> dict[str, Any]:
        """Return the server's environ, updated with the application's."""
        environ = self.request
        if self.environ is not None and self.environ is not environ:
            environ = {**environ, **self.environ}
            environ.pop(MARK, None)  # a session keeps its environ; the mark refers to both
        return environ


def find_mark(environ: dict[str, Any]) -> TakeOverMark | None:
    """Return the mark of a request; None if the application does not run on this server."""
    mark: TakeOverMark | None = environ.get(MARK)
    if mark is None:
        mark = _marks.get(getcurrent())
        # An application may start a nested request, as web.py's `application.request` does.
        if mark is not None and not _is_same(mark.request, environ):
            mark = None
    return mark


def is_serving() -> bool:
    """Return whether an application of this process is handling a request."""
    return bool(_marks)


def _is_same(request: dict[str, Any], environ: dict[str, Any]) -> bool:
    query = environ.get("QUERY_STRING", "")
    path = environ.get("PATH_INFO", "")
    return bool(path and query == request["QUERY_STRING"] and request[RAW_PATH].endswith(path))
