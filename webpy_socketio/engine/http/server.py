"""A server for the engine: gevent's pywsgi with the engine beside a WSGI application."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import gevent.ssl

from webpy_socketio.engine.engine import Engine
from webpy_socketio.engine.engineio.takeover import ACCEPT_KEY
from webpy_socketio.engine.forwarding.proxies import peer_of
from webpy_socketio.engine.http.base_server import BaseServer
from webpy_socketio.engine.http.handler import HandOffRequested
from webpy_socketio.engine.http.wsgi import RequestHandler
from webpy_socketio.engine.workers import forking
from webpy_socketio.engine.workers.handoff import HandedConnection, PeerWorkers, unregister_fd
from webpy_socketio.engine.workers.load import READ_TIMEOUT, LoadTable
from webpy_socketio.engine.workers.prefixed_reader import prefixed_reader

__all__ = ["EngineServer", "take_over_all"]

StartResponse = Callable[..., Any]

logger = logging.getLogger(__name__)

#: Seconds for which a worker with more than its part leaves who waits to the others. If nobody takes it
#: meanwhile, it does; so it is the longest time that this costs a client.
_YIELD_DELAY = 0.001

#: Connections that it accepts then without asking again: the others have no time.
_ACCEPT_BURST = 4


def take_over_all(path: str) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    """A WSGI application that leaves every request for `path` to the engine; the rest is 404."""

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == path:
            environ[ACCEPT_KEY] = True
            start_response("200 OK", [])
            return []
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"Not found\n"]

    return application


class EngineServer(BaseServer):
    """Serves an `Engine`, and beside it `application` if one is given.

    An application that is given decides which sessions may begin: it sets
    ``environ["webpy_socketio.take_over"]`` to True. Further keywords are pywsgi's.

    With `peers` it is one of several workers that share a listening socket; its engine's
    ``session_prefix`` has to be theirs.
    """

    handler_class = RequestHandler

    #: Connections that may wait to be accepted, if the system lets so many. Of those beyond it each tries
    #: again after a second or more; gevent's 128 are not enough when all clients come back at once.
    backlog = 2048

    #: Seconds for which one that stops waits for a younger peer to give its connections to.
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
        #: Handlers that wait for a request, and their greenlets; None where nobody asks.
        self.resting: dict[RequestHandler, Any] | None = None
        #: Handlers that have a connection, those that wait among them; where somebody asks.
        self.handling: set[RequestHandler] = set()
        self._load_table: LoadTable | None = None
        self._is_watched = False
        #: Connections that we accept whatever the others have.
        self._accepted_in_burst = 0
        if peers is not None:
            if engine.config.session_prefix != peers.prefix:
                raise ValueError("the engine's session_prefix has to be that of its peers")
            self.resting = {}
            # pywsgi then accepts one connection a turn, so that they are spread over the workers.
            pywsgi["environ"] = {**pywsgi.get("environ", {}), "wsgi.multiprocess": True}
        if "certfile" in pywsgi and not pywsgi.keys() & {"ssl_context", "ssl_version"}:
            pywsgi["ssl_context"] = _tls_context(pywsgi)
        application = application or take_over_all(engine.path)
        super().__init__(listener, application, engine.config, engine.notices, **pywsgi)

    def log_unmatched(self, environ: dict[str, Any], code: int) -> None:
        """The application answered a request with `code` that may have been meant for the engine."""

    def start(self) -> None:
        if self.peers is not None and not self.started:
            self.peers.start(self.serve)  # before there is a session that they may ask for
            self.init_socket()
            self._load_table = LoadTable(self.peers.folder, self.peers.name, self.socket.fileno())
            self.peers.is_alive = self._load_table.is_alive
            self._telling = self.loop.timer(0.0, READ_TIMEOUT / 5, ref=False)
            self._telling.start(self._publish_load)
        super().start()
        if not self._is_watched:
            self._is_watched = True
            forking.watch(self.loop)

    @property
    def _load(self) -> int:
        return len(self.engine.sessions) + len(self.handling)

    def _publish_load(self) -> None:
        if self._load_table is not None:
            self._load_table.publish(self._load)
            self._load_table.ensure()
        if self.peers is not None:
            self.peers.ensure()

    def close(self) -> None:
        """Accept nothing more; what was accepted is served."""
        if self.peers is not None and hasattr(self, "socket"):
            unregister_fd(self.loop, self.socket.fileno())  # the other workers listen on it still
        if self._load_table is not None:
            self._telling.stop()
            self._telling.close()
            self._load_table.leave()
            self._load_table = None
        super().close()

    def handle(self, sock: Any, address: Any) -> None:
        if self.peers is None:
            super().handle(sock, address)
        else:
            self._handle_counted(self.handler_class(sock, address, self))

    def serve(self, visit: HandedConnection) -> None:
        """Serve a connection that a peer accepted."""
        sock, peer = visit.sock, peer_of(visit.address)
        if not self.engine.config.proxies.trusts(peer):
            if not self._addresses.has_room(peer):
                self._reject(sock, peer)
                return
            self._addresses.add(sock, peer)
        try:
            rfile = prefixed_reader(sock, visit.data)
            self._handle_counted(self.handler_class(sock, visit.address, self, rfile))
        finally:
            self._addresses.remove(sock)

    def _handle_counted(self, handler: RequestHandler) -> None:
        self.handling.add(handler)
        try:
            handler.handle()
        finally:
            self.handling.discard(handler)

    def leave_peers(self, timeout: float) -> None:
        """Take nothing more from them, and give them the connections that were accepted.

        Those that rest go at once, the others when what they do is done, within `timeout` seconds.
        """
        if self.peers is None or self.resting is None:
            return
        self.peers.stop()
        until = time.monotonic() + max(timeout, self.move_timeout + 1.0)
        gevent.sleep(0)  # what was accepted a moment ago has its handler now
        while self.handling and time.monotonic() < until:
            for handler in list(self.resting):
                self.loop.run_callback(self._hand_off, handler)
            gevent.sleep(0.01)

    def _hand_off(self, handler: RequestHandler) -> None:
        assert self.resting is not None
        if handler in self.resting:  # and has not heard of a request meanwhile
            self.resting[handler].throw(HandOffRequested())

    def do_read(self) -> Any:
        """Accept a connection, or wait a little.

        A worker with more than its share waits, so that another worker accepts the connection.
        """
        if self._load_table is not None:
            load = self._load + 1
            if self._accepted_in_burst:
                self._accepted_in_burst -= 1
            elif self._load_table.is_overloaded(load):
                self._pause(_YIELD_DELAY, self._accept_remaining)
                return None
            self._load_table.update(load)
        accepted = super().do_read()
        if accepted is None:  # another one was faster, and has time
            self._accepted_in_burst = 0
        return accepted

    def _accept_remaining(self) -> None:
        self._start_accepting_if_started()
        self._accepted_in_burst = _ACCEPT_BURST
        self._do_read()

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        try:
            with gevent.Timeout(self.engine.config.header_timeout, TimeoutError("too slow")):
                sock = self.wrap_socket(client_socket, **self.ssl_args)
        except OSError as error:  # most often somebody who does not speak TLS, or not ours
            text = f"a TLS handshake failed: {error}"
            self.engine.notices.throttled("TLS handshake", text, logging.DEBUG, logger)
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
        until = time.monotonic() + (self.stop_timeout if timeout is None else timeout)
        self.engine.wait_answered(until - time.monotonic())
        self.leave_peers(until - time.monotonic())
        self.dispose()

    def dispose(self) -> None:
        """Forget what is left of the sessions; the last step of `stop`."""
        self.engine.dispose()
        if self._is_watched:
            self._is_watched = False
            forking.unwatch(self.loop)


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
