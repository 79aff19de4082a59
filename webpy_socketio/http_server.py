"""Serve a WSGI application on a separate port, with the limits of `SocketIOServer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent import socket

from webpy_socketio.config.keywords import PyWSGIKeywords
from webpy_socketio.config.settings import Settings
from webpy_socketio.engine.http.base_server import BaseServer
from webpy_socketio.exceptions import ListenError

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["HTTPServer"]


class HTTPServer(BaseServer):
    """Serves a WSGI application without Socket.IO on a separate port.

    For plugins whose pages must not be reachable through the main server, such as metrics. Requests
    have the limits and timeouts of `SocketIOServer`: ``SOCKETIO_HEADER_TIMEOUT``,
    ``SOCKETIO_MAX_BODY_SIZE`` and related settings.

    Args:
        listener: Address ``(host, port)``, or a listening `gevent.socket.socket`.
        application: The WSGI application.
        settings: The settings that the ``install`` function of a plugin receives.
        max_connections: Concurrent connections. Further connections wait until one is closed.
        **pywsgi: Further keywords of ``gevent.pywsgi.WSGIServer``.

    Example:
        >>> server = HTTPServer(("127.0.0.1", 9108), application, settings)
        >>> server.start()
    """

    def __init__(
        self,
        listener: Any,
        application: Any,
        settings: Settings,
        max_connections: int = 64,
        **pywsgi: Unpack[PyWSGIKeywords],
    ) -> None:
        super().__init__(listener, application, settings, spawn=max_connections, **pywsgi)

    @classmethod
    def listen(
        cls,
        host: str,
        port: int,
        application: Any,
        settings: Settings,
        *,
        purpose: str,
        remedy: str,
        **pywsgi: Unpack[PyWSGIKeywords],
    ) -> Self:
        """Listen on an address, and return a server for it that is not started yet.

        Args:
            host: Address of an interface; "" for all of IPv4.
            port: Port; 0 selects a free one.
            application: The WSGI application.
            settings: As for the constructor.
            purpose: What is served, for the error.
            remedy: What to change if the address is not available, for the error.
            **pywsgi: As for the constructor.

        Raises:
            ListenError: The address is not available.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ListenError(
                f"cannot listen for {purpose} on {host}:{port}: {error.strerror or error}; {remedy}"
            ) from error
        return cls(listener, application, settings, **pywsgi)
