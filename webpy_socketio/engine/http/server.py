"""Serve an `Engine` and, beside it, a WSGI application."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import gevent.ssl

from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.engineio.requests import Response
from webpy_socketio.engine.engineio.takeover import ACCEPT_KEY
from webpy_socketio.engine.http.base_server import BaseServer
from webpy_socketio.engine.http.connection_reader import ConnectionReader
from webpy_socketio.engine.http.handler import HandOffRequested
from webpy_socketio.engine.http.wsgi import RequestHandler
from webpy_socketio.engine.workers import forking
from webpy_socketio.engine.workers.handoff import HandedConnection, PeerWorkers, unregister_fd
from webpy_socketio.engine.workers.load import READ_TIMEOUT, LoadTable

__all__ = ["EngineServer", "take_over_all"]

StartResponse = Callable[..., Any]

logger = logging.getLogger(__name__)

#: Seconds for which an overloaded worker leaves new connections to its peers. If no peer accepts
#: them, it does, so this is the longest delay for a client.
_YIELD_DELAY = 0.001

#: Connections that it then accepts without checking again: all peers are busy.
_ACCEPT_BURST = 4


def take_over_all(path: str) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    """Return a WSGI application that accepts every session at `path` and answers 404 elsewhere."""

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == path:
            environ[ACCEPT_KEY] = True
            start_response("200 OK", [])
            return []
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"Not found\n"]

    return application


class EngineServer(BaseServer):
    """Server for an `Engine` and, optionally, a WSGI application.

    Args:
        listener: An address, or a listening gevent socket.
        engine: The engine.
        application: A WSGI application. It accepts a new session by setting
            ``environ["webpy_socketio.take_over"]`` to True. None accepts every session.
        peers: The other workers on the same listening socket. Session ids then start with
            ``peers.prefix``.
        **pywsgi: Further keyword arguments of `gevent.pywsgi.WSGIServer`.
    """

    handler_class = RequestHandler

    #: Connections that may wait to be accepted, limited by the system (somaxconn). Clients beyond
    #: it retry after a second or more; the 128 of gevent are too few when all clients reconnect at
    #: once.
    backlog = 2048

    #: Seconds for which a stopping worker waits for a newer peer to hand its connections to.
    move_timeout = 0.5

    def __init__(
        self,
        listener: Any,
        engine: Engine,
        application: Any = None,
        peers: PeerWorkers | None = None,
        **pywsgi: Any,
    ) -> None:
        self.engine = engine
        self.peers = peers
        #: Handlers of idle keep-alive connections and their greenlets; None without peers.
        self.idle_handlers: dict[RequestHandler, Any] | None = None
        #: Handlers of all connections, idle ones included; empty without peers.
        self.handlers: set[RequestHandler] = set()
        self._load_table: LoadTable | None = None
        self._is_watched = False
        #: Connections that are accepted without checking the load of the peers.
        self._accepted_in_burst = 0
        if peers is not None:
            engine.session_prefix = peers.prefix
            self.idle_handlers = {}
            # pywsgi then accepts one connection per loop iteration, which spreads them over the
            # workers.
            pywsgi["environ"] = {**pywsgi.get("environ", {}), "wsgi.multiprocess": True}
        if "certfile" in pywsgi and not pywsgi.keys() & {"ssl_context", "ssl_version"}:
            pywsgi["ssl_context"] = _tls_context(pywsgi)
        application = application or take_over_all(engine.path)
        super().__init__(listener, application, engine.config, engine.notices, **pywsgi)

    def respond_early(self, environ: dict[str, Any]) -> Response | None:
        """Return a response that needs neither the application nor a session, or None."""
        return None

    def learn_route(self, environ: dict[str, Any]) -> None:
        """Learn from the environ of a handshake that the application has passed on."""

    def find_route(self, environ: dict[str, Any]) -> bool:
        """Return whether the application would pass on a handshake, without calling it.

        True also adds to the environ what the application would add.
        """
        return False

    def log_unmatched(self, environ: dict[str, Any], code: int) -> None:
        """Log a request that the application answered but that may be meant for the engine."""

    def start(self) -> None:
        if self.peers is not None and not self.started:
            self.peers.start(self.serve)  # before a session exists that a peer may need
            self.init_socket()
            self._load_table = LoadTable(self.peers.folder, self.peers.name, self.socket.fileno())
            self.peers.is_alive = self._load_table.is_alive
            self._publish_timer = self.loop.timer(0.0, READ_TIMEOUT / 5, ref=False)
            self._publish_timer.start(self._publish_load)
        super().start()
        if not self._is_watched:
            self._is_watched = True
            forking.watch(self.loop)

    @property
    def _load(self) -> int:
        return len(self.engine.sessions) + len(self.handlers)

    def _publish_load(self) -> None:
        if self._load_table is not None:
            self._load_table.publish(self._load)
            self._load_table.ensure()
        if self.peers is not None:
            self.peers.ensure()

    def close(self) -> None:
        """Stop accepting connections; those already accepted are served."""
        if self.peers is not None and hasattr(self, "socket"):
            unregister_fd(self.loop, self.socket.fileno())  # the other workers still listen on it
        if self._load_table is not None:
            self._publish_timer.stop()
            self._publish_timer.close()
            self._load_table.leave()
            self._load_table = None
        super().close()

    def do_handle(self, sock: Any, address: Any) -> None:
        if self.ssl_enabled or self.pool is not None or self._spawn is None:
            super().do_handle(sock, address)
        elif self.admit(sock, address):
            self.loop.run_callback(self._begin, sock, address)

    def _begin(self, sock: Any, address: Any) -> None:
        try:
            handler = self.handler_class(sock, address, self)
        except OSError:  # some systems report a reset here
            self.do_close(sock)
            return
        if self.peers is not None:
            self.handlers.add(handler)
        handler.begin()

    def start_greenlet(self, handler: RequestHandler) -> None:
        self._spawn(self._run_in_greenlet, handler)

    def _run_in_greenlet(self, handler: RequestHandler) -> None:
        sock = handler.socket
        try:
            if self.peers is None:
                handler.handle()
            else:
                self._run_handler(handler)
        finally:
            self.do_close(sock)

    def close_connection(self, handler: RequestHandler) -> None:
        self.handlers.discard(handler)
        if handler.socket is not None:
            handler.abandon()

    def handle(self, sock: Any, address: Any) -> None:
        if self.peers is None:
            super().handle(sock, address)
        else:
            self._run_handler(self.handler_class(sock, address, self))

    def serve(self, connection: HandedConnection) -> None:
        """Serve a connection that a peer accepted and handed off."""
        sock = connection.sock
        if not self.admit(sock, connection.address):
            return
        try:
            rfile = ConnectionReader(sock, connection.data)
            self._run_handler(self.handler_class(sock, connection.address, self, rfile))
        finally:
            self.release(sock)

    def _run_handler(self, handler: RequestHandler) -> None:
        self.handlers.add(handler)
        try:
            handler.handle()
        finally:
            self.handlers.discard(handler)

    def leave_peers(self, timeout: float) -> None:
        """Stop receiving connections from peers, and hand off the accepted ones to them.

        Idle connections are handed off at once, the others after their current request, within
        `timeout` seconds. While a newer worker is starting, requests wait for it; the time begins
        when it serves, or after `move_timeout`.
        """
        if self.peers is None or self.idle_handlers is None:
            return
        self.peers.stop()
        now = time.monotonic()
        deadline, latest_start = now + timeout, now + self.move_timeout
        gevent.sleep(0)  # let connections that were just accepted get their handlers
        while self.handlers:
            now = time.monotonic()
            if now < latest_start and self.peers.may_be_replaced():
                deadline = max(deadline, now + timeout)
            if now > deadline:
                break
            for handler in list(self.idle_handlers):
                self.loop.run_callback(self._hand_off, handler)
            gevent.sleep(0.01)

    def _hand_off(self, handler: RequestHandler) -> None:
        assert self.idle_handlers is not None
        if handler in self.idle_handlers:  # no request has arrived meanwhile
            self.idle_handlers[handler].throw(HandOffRequested())

    def do_read(self) -> Any:
        """Accept a connection; an overloaded worker pauses first, so that a peer can accept it."""
        if self._load_table is not None:
            load = self._load + 1
            if self._accepted_in_burst:
                self._accepted_in_burst -= 1
            elif self._load_table.is_overloaded(load):
                self._pause(_YIELD_DELAY, self._accept_remaining)
                return None
            self._load_table.update(load)
        accepted = super().do_read()
        if accepted is None:  # a peer accepted it, so not all of them are busy
            self._accepted_in_burst = 0
        return accepted

    def _accept_remaining(self) -> None:
        self._start_accepting_if_started()
        self._accepted_in_burst = _ACCEPT_BURST
        self._do_read()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        try:
            with gevent.Timeout(self.engine.config.header_timeout, TimeoutError("timed out")):
                sock = self.wrap_socket(client_socket, **self.ssl_args)
        except (
            OSError
        ) as error:  # most often a client without TLS, or without a common version or cipher
            text = f"TLS handshake failed: {error}"
            self.engine.notices.throttled("TLS handshake", text, logging.DEBUG, logger)
            client_socket.close()
            return
        try:
            self.handle(sock, address)
        finally:
            sock.close()

    def stop(self, timeout: float | None = None) -> None:
        """Stop listening, close every session, and free all resources.

        Args:
            timeout: Seconds for pending responses and hand-offs; None for ``stop_timeout``.
        """
        self.close()
        self.engine.close()
        deadline = time.monotonic() + (self.stop_timeout if timeout is None else timeout)
        self.engine.wait_answered(deadline - time.monotonic())
        self.leave_peers(deadline - time.monotonic())
        self.dispose()

    def dispose(self) -> None:
        """Discard the remaining sessions; the last step of `stop`."""
        self.engine.dispose()
        if self._is_watched:
            self._is_watched = False
            forking.unwatch(self.loop)


def _tls_context(pywsgi: dict[str, Any]) -> Any:
    """Make an `SSLContext` of the TLS keywords of pywsgi, and remove them.

    gevent makes one for each connection, which reads the files each time, and with a protocol
    constant that the standard library deprecates.
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
