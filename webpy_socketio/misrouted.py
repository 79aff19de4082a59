"""Explain in the log why the application answered a request meant for Socket.IO.

Browsers show only "xhr poll error", or that ``io`` is not defined.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio.engine.engineio.takeover import TakeOverMark, find_mark
from webpy_socketio.engine.io.throttled_log import ThrottledLog, safe_repr

__all__ = ["log_misrouted"]


def log_misrouted(environ: dict[str, Any], code: int, path: str, notices: ThrottledLog) -> None:
    """Log the cause if the application answered a request that was meant for the engine.

    Args:
        environ: WSGI environ of the request.
        code: Status code of the application's response.
        path: Path of the engine.
        notices: Log that throttles repeated lines.
    """
    requested: str = environ["PATH_INFO"]
    mark: TakeOverMark | None = find_mark(environ)
    reached = mark is not None and mark.is_reached
    if code == 404 and requested.startswith(path) and not reached:
        notices.throttled(
            "no urls",
            f"the application answered 404 to a request for {safe_repr(requested)}: its urls lack "
            'socketio_urls. Add them before the application is made: urls = ("/", "index") + '
            "socketio_urls",
        )
    elif code == 404 and requested != path and _speaks_engineio(environ):
        notices.throttled(
            "wrong path",
            f"a client requested Socket.IO at {safe_repr(requested)}, but this server has it at "
            f'{path}: use io({{path: "{path}"}}) in the client, or SocketIOServer(..., '
            'resource="...")' + _explain_prefix(requested, path),
        )
    elif code < 300 and requested == path and not reached and _speaks_engineio(environ):
        notices.throttled(
            "hidden urls",
            f"a page of the application answered a request for {path}: an earlier pattern of its "
            'urls matches it. Put socketio_urls in front: urls = socketio_urls + ("/(.*)", "page")',
        )


def _explain_prefix(requested: str, path: str) -> str:
    if not requested.endswith(path):
        return ""
    prefix = safe_repr(requested[: -len(path)])
    return f"; if the application is mounted below a path: SOCKETIO_PATH_PREFIX = {prefix}"


def _speaks_engineio(environ: dict[str, Any]) -> bool:
    return "EIO=" in environ.get("QUERY_STRING", "")
