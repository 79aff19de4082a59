"""A server for the engine: gevent's pywsgi with the engine beside a WSGI application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import gevent.ssl
from gevent.pywsgi import WSGIServer

from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.handler import TAKE_OVER, RequestHandler

__all__ = ["EngineServer", "take_over_all"]

StartResponse = Callable[..., Any]

logger = logging.getLogger(__name__)


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
        if "certfile" in pywsgi and not pywsgi.keys() & {"ssl_context", "ssl_version"}:
            pywsgi["ssl_context"] = _tls_context(pywsgi)
        super().__init__(listener, application or take_over_all(engine.path), **pywsgi)

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        try:
            with gevent.Timeout(self.engine.config.header_timeout, TimeoutError("too slow")):
                sock = self.wrap_socket(client_socket, **self.ssl_args)
        except OSError as error:  # most often somebody who does not speak TLS, or not ours
            logger.debug("a TLS handshake failed: %s", error)
            client_socket.close()
            return
        try:
            self.handle(sock, address)
        finally:
            sock.close()

    def stop(self, timeout: float | None = None) -> None:
        """Stop listening, close every session, and forget them."""
        self.close()
        self.engine.close()
        self.engine.wait_answered(self.stop_timeout if timeout is None else timeout)
        self.engine.dispose()


def _tls_context(pywsgi: dict[str, Any]) -> Any:
    """Make a context of pywsgi's TLS keywords, which are taken out.

    gevent would make one for each connection, and read the files each time; and one of a kind that
    the standard library deprecates.
    """
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pywsgi.pop("certfile"), pywsgi.pop("keyfile", None))
    if (ca_certs := pywsgi.pop("ca_certs", None)) is not None:
        context.load_verify_locations(ca_certs)
    if (cert_reqs := pywsgi.pop("cert_reqs", None)) is not None:
        context.verify_mode = cert_reqs
    if (ciphers := pywsgi.pop("ciphers", None)) is not None:
        context.set_ciphers(ciphers)
    return context
