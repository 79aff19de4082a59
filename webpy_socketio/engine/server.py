"""A server for the engine: gevent's pywsgi with the engine beside a WSGI application."""

from __future__ import annotations

import errno
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

#: What ``accept`` fails with when the process or the machine has no room for another connection.
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

#: Seconds for which nobody is accepted then.
_REST = 0.5


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
        #: Whether requests are logged: ``log=None`` is not to cost anything.
        self.keeps_log = pywsgi.get("log", "default") is not None
        if "certfile" in pywsgi and not pywsgi.keys() & {"ssl_context", "ssl_version"}:
            pywsgi["ssl_context"] = _tls_context(pywsgi)
        super().__init__(listener, application or take_over_all(engine.path), **pywsgi)

    def passed_by(self, environ: dict[str, Any], code: int) -> None:
        """The application answered a request with `code` that may have been meant for the engine."""

    def do_read(self) -> Any:
        """Accept a connection; without room for one, wait a little, as gevent does, but quietly."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            logger.warning("cannot accept connections for now: %s", error.strerror)
        # gevent's own way to wait: `stop_accepting` stops the timer as well.
        self.stop_accepting()
        self._timer = self.loop.timer(_REST)
        self._timer.start(self._start_accepting_if_started)
        return None

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
