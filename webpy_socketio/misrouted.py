"""Requests that were meant for Socket.IO and that the application answered by itself: why, in the log.

A browser shows no more of them than "xhr poll error", or that ``io`` is not defined.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio.engine.engineio.takeover import TakeOverMark, find_mark
from webpy_socketio.engine.io.throttled_log import ThrottledLog, safe_repr

__all__ = ["log_misrouted"]


def log_misrouted(environ: dict[str, Any], code: int, path: str, notices: ThrottledLog) -> None:
    """Log what is wrong if a request that the application answered with `code` was for the engine.

    `path` is the engine's.
    """
    asked: str = environ["PATH_INFO"]
    mark: TakeOverMark | None = find_mark(environ)
    reached = mark is not None and mark.is_reached
    if code == 404 and asked.startswith(path) and not reached:
        notices.throttled(
            "no urls",
            f"the application answered 404 to a request for {safe_repr(asked)}: its urls lack socketio_urls. "
            'Add them before the application is made: urls = ("/", "index") + socketio_urls',
        )
    elif code == 404 and asked != path and _speaks_engineio(environ):
        notices.throttled(
            "wrong path",
            f"a client asked for Socket.IO at {safe_repr(asked)}, and it is at {path} here: tell the client, "
            f'io({{path: "{path}"}}), or the server, SocketIOServer(..., resource="...")'
            + _explain_prefix(asked, path),
        )
    elif code < 300 and asked == path and not reached and _speaks_engineio(environ):
        notices.throttled(
            "hidden urls",
            f"a page of the application's answered a request for {path}: an earlier pattern of its urls "
            'matches it. Put socketio_urls in front: urls = socketio_urls + ("/(.*)", "page")',
        )


def _explain_prefix(asked: str, path: str) -> str:
    if not asked.endswith(path):
        return ""
    prefix = safe_repr(asked[: -len(path)])
    return f"; if the application is mounted below a path: SOCKETIO_PATH_PREFIX = {prefix}"


def _speaks_engineio(environ: dict[str, Any]) -> bool:
    return "EIO=" in environ.get("QUERY_STRING", "")
