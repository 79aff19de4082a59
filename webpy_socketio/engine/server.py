"""A server for the engine: gevent's pywsgi with the engine beside a WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gevent.pywsgi import WSGIServer

from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.handler import TAKE_OVER, RequestHandler

__all__ = ["EngineServer", "take_over_all"]

StartResponse = Callable[..., Any]


def take_over_all(path: str) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    """A WSGI application that leaves every request for `path` to the engine; the rest is 404."""

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == path:
            environ[TAKE_OVER] = True
            start_response("200 OK", [])
            return []
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"Not found\n"]

    return application


class EngineServer(WSGIServer):
    """Serves an `Engine`, and beside it `application` if one is given.

    An application that is given decides which sessions may begin: it sets
    ``environ["webpy_socketio.take_over"]`` to True. Further keywords are pywsgi's.
    """

    handler_class = RequestHandler

    def __init__(
        self, listener: Any, engine: Engine, application: Any = None, **pywsgi: Any
    ) -> None:
        self.engine = engine
        super().__init__(listener, application or take_over_all(engine.path), **pywsgi)

    def stop(self, timeout: float | None = None) -> None:
        """Stop listening, close every session, and forget them."""
        self.close()
        self.engine.close()
        self.engine.wait_answered(self.stop_timeout if timeout is None else timeout)
        self.engine.dispose()
