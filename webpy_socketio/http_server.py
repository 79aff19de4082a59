"""`HTTPServer`: a WSGI application on a port of its own, with the limits of `SocketIOServer`."""

from __future__ import annotations

from typing import Any

from webpy_socketio.config.settings import Settings
from webpy_socketio.engine.http.base_server import BaseServer
from webpy_socketio.server import engine_config

__all__ = ["HTTPServer"]


class HTTPServer(BaseServer):
    """Serve a WSGI application, without Socket.IO, on a port of its own.

    For plugins that show something which must not be reached through the site, such as metrics.
    Requests have the limits and deadlines of `SocketIOServer`: ``SOCKETIO_HEADER_TIMEOUT``,
    ``SOCKETIO_MAX_BODY_SIZE`` and their relatives.

    Example:
        >>> server = HTTPServer(("127.0.0.1", 9108), application, settings)
        >>> server.start()

    Args:
        listener: An address, ``(host, port)``, or a listening socket of gevent's.
        application: The WSGI application.
        settings: The settings that a plugin's ``install`` receives.
        max_connections: Connections at once. Further ones wait until one of them is closed.
        pywsgi: Further keywords of gevent's ``pywsgi.WSGIServer``.

    """

    def __init__(
        self,
        listener: Any,
        application: Any,
        settings: Settings,
        max_connections: int = 64,
        **pywsgi: Any,
    ) -> None:
        super().__init__(
            listener, application, engine_config(settings), spawn=max_connections, **pywsgi
        )
