"""Dispatch HTTP requests to the engine or to the WSGI application.

Requests of existing sessions go to the engine directly. Handshakes are passed to the application,
which accepts them by a mark in the environ. After a WebSocket handshake the connection is detached
from the request's greenlet, unless it uses TLS.
"""

from __future__ import annotations

import _socket
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import gevent
from gevent.ssl import SSLSocket
from greenlet import getcurrent

from webpy_socketio.engine.engine import Engine, Upgrade, sid_in
from webpy_socketio.engine.engineio import handshake
from webpy_socketio.engine.engineio.polling import Polling
from webpy_socketio.engine.engineio.requests import QUERY_TOO_LONG, Response
from webpy_socketio.engine.engineio.takeover import ACCEPT_KEY, MARK, RAW_PATH, TakeOverMark
from webpy_socketio.engine.http.handler import ConnectionHandedOff, HTTPHandler
from webpy_socketio.engine.http.headers import select_headers
from webpy_socketio.engine.http.hub_connection import HubConnection
from webpy_socketio.engine.http.parser import BadRequest, Head
from webpy_socketio.engine.http.protocols import EngineHTTPServer
from webpy_socketio.engine.io.isolation import Isolation
from webpy_socketio.engine.io.streams import CHUNK, TCPStream
from webpy_socketio.engine.io.tls import TLSStream
from webpy_socketio.engine.workers.handoff import unregister_fd
from webpy_socketio.engine.workers.relay import relay

__all__ = ["ACCEPT_KEY", "RequestHandler"]

_READ = 1


class RequestHandler(HTTPHandler):
    """Handler for an engine beside a WSGI application."""

    server: EngineHTTPServer
    #: The WSGI environ of the request; pywsgi has no type annotations.
    environ: Any

    #: Transport of the session to which the current POST belongs, until it is handled.
    _posted: Polling | None = None

    #: Serves requests on the hub; None with TLS.
    _hub_connection: HubConnection | None = None

    #: Detects timeouts left pending in this greenlet; set by the first request of the application.
    _isolation: Isolation | None = None

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        super().__init__(sock, address, server, rfile)
        sock.settimeout(None)  # reset the timeout of the TLS handshake
        if sock.family in (_socket.AF_INET, _socket.AF_INET6):
            # Most responses and frames are small: Nagle's algorithm would delay the second of two
            # until the first is acknowledged, up to 40 ms.
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)

    def begin(self) -> None:
        """Serve the connection on the hub until a request needs a greenlet. Not for TLS."""
        self._hub_connection = HubConnection(self)
        self._hub_connection.begin(self.config.header_timeout)

    def handle(self) -> None:
        try:
            super().handle()
        finally:
            self._hub_connection = None  # a reference cycle otherwise

    def body_limit(self, path: str) -> int:
        return (
            self.config.max_message_size if self._is_engine_path(path) else super().body_limit(path)
        )

    def explain(self, failure: BadRequest) -> tuple[str, str, bytes]:
        # A request line beyond the limit of HTTP gets the same response as other too long queries.
        path, query, _ = failure.line.partition(b" ")[2].partition(b"?")
        if query and path.endswith(self.server.engine.path.encode()):
            return QUERY_TOO_LONG.status, QUERY_TOO_LONG.content_type, QUERY_TOO_LONG.body
        return super().explain(failure)

    def body_announced(self) -> None:
        if self.command == "POST" and self._is_engine_path(self.path):
            self._posted = self.server.engine.begin_post(self.path.partition("?")[2])

    def body_aborted(self, reason: str) -> None:
        self._post_received()
        self.server.engine.abort_post(self.path.partition("?")[2], reason)

    def wait_for_request(self, timeout: float) -> bool:
        if self._hub_connection is None:
            return super().wait_for_request(timeout)
        return self._hub_connection.wait(timeout)

    def route(self, head: Head) -> None:
        """Hand off the connection to the peer that owns the session of the request.

        While this worker stops, requests without a session are handed off to a newer worker.
        """
        peers = self.server.peers
        assert peers is not None
        name = None
        # For every path: a WSGI wrapper may change it after the request is routed.
        if "sid=" in head.target and ("EIO=" in head.target or self._is_engine_path(head.target)):
            sid = sid_in(head.target.partition("?")[2])
            if sid.startswith(peers.prefix):
                return
            name = peers.owner(sid)
        if name is not None:
            if self._send_connection(name, self._head + self.read_ahead()):
                raise ConnectionHandedOff
        elif self.server.engine.stopping and self._send_to_newer_worker(
            self._head + self.read_ahead()
        ):
            raise ConnectionHandedOff

    def hand_off(self) -> None:
        self._send_to_newer_worker(self.read_ahead())

    def _hand_off_handshake(self) -> bool:
        """Hand off a handshake that was routed before this worker began to stop.

        The application, and the check after it, may have waited in between.
        """
        if self.server.peers is None or self.command != "GET":
            return False
        if not self._send_to_newer_worker(self._head + self.read_ahead()):
            return False
        self.headers_sent = self.close_connection = True
        return True

    def _send_to_newer_worker(self, data: bytes) -> bool:
        if isinstance(self.socket, SSLSocket):
            return False  # relaying would keep this worker from stopping
        peers = self.server.peers
        assert peers is not None
        deadline = time.monotonic() + self.server.move_timeout
        while True:
            may_be_replaced = peers.may_be_replaced()  # before the look at those that serve
            if any(self._send_connection(name, data) for name in peers.newer_workers()):
                return True
            if not may_be_replaced or time.monotonic() > deadline:
                return False
            gevent.sleep(0.02)  # it may still be starting

    def _send_connection(self, name: int, data: bytes) -> bool:
        """Hand off the connection; return False if the peer did not accept it."""
        peers = self.server.peers
        assert peers is not None
        sock = self.socket
        if isinstance(sock, SSLSocket):
            with peers.relay(name, self.client_address, data) as link:
                if link is None:
                    return False
                self.server.handlers.discard(self)
                relay(sock, link, self.config.write_timeout)
                sock.close()
        else:
            if not peers.send_connection(name, sock, self.client_address, data):
                return False
            unregister_fd(self.server.loop, sock.fileno())
            # Close immediately: gevent may defer the close to the next loop iteration. Until then,
            # the client would not notice that the peer closes the connection.
            _socket.socket(fileno=sock.detach()).close()
        self.socket = None  # otherwise pywsgi would drain and close it
        return True

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ[RAW_PATH] = environ["PATH_INFO"]
        self.mount(environ, self.config.wsgi_path_prefix)
        return environ

    def mount(self, environ: dict[str, Any], prefix: str) -> None:
        """Move `prefix`, a WSGI string, from PATH_INFO to SCRIPT_NAME (PEP 3333).

        A proxy may have removed the prefix from the path already.
        """
        if prefix:
            environ["SCRIPT_NAME"] = prefix
            path = environ["PATH_INFO"]
            if path == prefix or path.startswith(prefix + "/"):
                environ["PATH_INFO"] = path[len(prefix) :] or "/"

    def run_application(self) -> None:
        engine: Engine = self.server.engine
        environ: dict[str, Any] = self.environ
        early = self.server.respond_early(environ)
        if early is not None:
            self._answer(early, [])
            return
        headers: list[tuple[str, str]] = []
        if not engine.has_session(environ):
            # The application decides about new sessions only. Each later request would load and
            # save a web session, and overwrite changes that pages make meanwhile.
            mark = TakeOverMark(environ)
            environ[ACCEPT_KEY] = False
            environ[MARK] = mark
            with engine.answering(), mark:
                if not self._run_wsgi(mark):
                    return
            environ = mark.merged()
            headers = select_headers(self.response_headers)
            self.server.learn_route(environ)
            if engine.stopping and self._hand_off_handshake():
                return
        self._run_engine(engine, environ, headers)

    def finalize_headers(self) -> None:
        self._check_isolation()
        super().finalize_headers()

    def _run_wsgi(self, mark: TakeOverMark) -> bool:
        """Run the application; return True if it completed and left the request to the engine."""
        environ = self.environ
        may_be_engine = "EIO=" in environ["QUERY_STRING"] or environ["PATH_INFO"].endswith(
            self.server.engine.path
        )
        result: Any = None
        is_last = "HTTP_UPGRADE" in self.environ
        if self._isolation is None and not (self.close_connection or is_last):
            self._isolation = Isolation()
        try:
            result = self.application(environ, self.start_response)
            if may_be_engine:
                # A generator runs, and sets the mark, only when its first block is requested.
                iterator = iter(result)
                first = next(iterator, b"")
                accepted = mark.environ is not None or environ.get(ACCEPT_KEY) is True
                if accepted and self.code == 200:
                    for _ in iterator:  # run it to its end, for the processors of web.py
                        pass
                    return True
                # Not for pages whose query resembles a handshake: an allowed origin may connect,
                # but not read pages.
                if self.status and environ[RAW_PATH].endswith(self.server.engine.path):
                    self._add_cors_headers()
                self.result = itertools.chain([first], iterator)
            else:
                self.result = result
            self.process_result()
            self._log_if_misrouted()
            return False
        finally:
            close = getattr(result, "close", None)
            self.result = None
            if close is not None:
                close()
            getcurrent().gr_context = None  # context variables end with the request
            self._check_isolation()

    def _check_isolation(self) -> None:
        """Close the connection if a `gevent.Timeout` of the page is still pending.

        It would be raised in the next request. A new greenlet for each request would prevent that
        too, but cost as much as the request itself.
        """
        # The check may wait, and a stopping server sets `close_connection` meanwhile.
        if (
            not self.close_connection
            and self._isolation is not None
            and self._isolation.is_pending()
        ):
            self.close_connection = True

    def _add_cors_headers(self) -> None:
        """Add CORS headers, so that allowed origins can read why a handshake is rejected."""
        if self.code < 400:
            return
        names = {name.lower() for name, _ in self.response_headers}
        if b"access-control-allow-origin" not in names:
            self.response_headers += [
                (name.encode(), value.encode("latin-1"))
                for name, value in self.server.engine.origins.cors(self.environ)
            ]

    def _log_if_misrouted(self) -> None:
        environ = self.environ
        path: str = self.server.engine.path
        if path in environ["PATH_INFO"] or "EIO=" in environ["QUERY_STRING"]:
            self.server.log_unmatched(environ, self.code)

    def _run_engine(
        self, engine: Engine, environ: dict[str, Any], headers: list[tuple[str, str]]
    ) -> None:
        if not handshake.is_requested(environ):
            with engine.answering():
                response = engine.respond(environ, self._watch_for_disconnect)
                self._post_received()  # before the response: the client may then send the next
                self._answer(response, headers)
            repeatable = response.status == "200 OK" and "sid=" in environ["QUERY_STRING"]
            if repeatable and not self.close_connection:
                self.learn(environ)
            return
        upgrade = engine.upgrade(environ, headers)
        if isinstance(upgrade, Upgrade):
            self.start_websocket(engine, upgrade)
        else:
            self._answer(upgrade, headers)

    def _is_engine_path(self, target: str) -> bool:
        """Return whether a request target is that of the engine, also if it is percent-encoded."""
        engine: Engine = self.server.engine
        path, _, query = target.partition("?")
        return engine.serves(unquote(path, "latin-1"), query)

    def _post_received(self) -> None:
        posted, self._posted = self._posted, None
        if posted is not None:
            posted.arriving = False

    def _answer(self, response: Response, headers: list[tuple[str, str]]) -> None:
        # A client must not reuse a connection of a server that stops.
        stopping = self.server.peers is None and self.server.engine.stopping
        self.close_connection = self.close_connection or response.close or stopping
        try:
            self.answer(response.status, response.all_headers() + headers, response.body)
        except OSError:  # disconnected, or not reading
            self.server.engine.response_failed(self.environ)
            self.close_connection = True

    def learn(self, environ: dict[str, Any]) -> None:
        """Serve repetitions of this request on the hub."""
        if self._hub_connection is None and HubConnection.supports(self):
            self._hub_connection = HubConnection(self)
        if self._hub_connection is not None:
            assert self._parsed is not None
            self._hub_connection.learn(self._head.partition(b"\r\n")[0], self._parsed, environ)

    # -- called by `HubConnection` and `hub_requests`

    def answer_late(self, response: Response) -> bool:
        """Send the response to a request of the hub; return whether the connection stays open."""
        self.response_length = 0
        with self.server.engine.answering():
            self._answer(response, [])
        self.time_finish = time.time()
        self.log_request()
        return not self.close_connection

    def release(self) -> None:
        """Stop serving the connection, whose socket gets another owner."""
        self._hub_connection = None  # a reference cycle otherwise
        self.server.release(self.socket)

    def abandon(self) -> None:
        """Close the connection."""
        self.release()
        sock, self.socket = self.socket, None
        with contextlib.suppress(OSError):
            # Closing a socket with unread bytes would reset the connection.
            sock._sock.recv(CHUNK)
        sock.close()

    def send_rest(self, data: bytes) -> bool:
        """Send the rest of a response of the hub; return whether the connection stays open."""
        try:
            self._sendall(data)
        except OSError:
            return False
        return not self.close_connection

    def answer_plain(self, response: Response, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Write the response to a request of `HubConnection`; raises `OSError` if it fails."""
        self.command, self.request_version = "POST", "HTTP/1.1"
        self.response_length = 0
        stopping = self.server.peers is None and self.server.engine.stopping
        self.close_connection = response.close or stopping
        self.answer(response.status, [*response.all_headers(), *headers], response.body)
        self.time_finish = time.time()
        self.log_request()

    def begin_log(self, line: bytes, address: str) -> None:
        """Store what the access log needs of a request of `HubConnection`."""
        self.time_start = time.time()
        self.requestline = line.decode("ascii", "backslashreplace")
        self.remote_address = address

    def log_plain(self, size: int) -> None:
        """Write the line of the access log for a response of `HubConnection`."""
        self.status = self._orig_status = "200 OK"
        self.response_length = size
        self.time_finish = time.time()
        self.log_request()

    def start_websocket(self, engine: Engine, upgrade: Upgrade) -> None:
        """Leave the connection to a WebSocket."""
        self.status = self._orig_status = "101 Switching Protocols"  # for the access log
        self.server.handlers.discard(self)
        self.close_connection = True
        self.headers_sent = True
        first_bytes = self.rfile.buffered
        sock = self.socket
        self.socket = None  # otherwise pywsgi would drain and close it
        self.begin_websocket(engine, upgrade, sock, first_bytes)

    def begin_websocket(
        self, engine: Engine, upgrade: Upgrade, sock: Any, first_bytes: bytes
    ) -> None:
        """Start the WebSocket on the socket of the request, which it then owns."""
        timeout = engine.config.write_timeout
        if isinstance(sock, SSLSocket):
            tls = TLSStream(sock, timeout)
            upgrade.start(tls, first_bytes)
            tls.run()
            sock.close()
        else:
            # A plain C socket, without the watchers of gevent.
            raw = _socket.socket(sock.family, sock.type, sock.proto, sock.detach())
            raw.setblocking(False)
            upgrade.start(TCPStream(raw, engine.loop, timeout), first_bytes)

    @contextlib.contextmanager
    def _watch_for_disconnect(self, on_disconnect: Callable[[], None]) -> Iterator[None]:
        """Call `on_disconnect` if the client closes the connection before the response."""
        watcher = self.server.loop.io(self.socket.fileno(), _READ)

        def check() -> None:
            try:
                descriptor = os.dup(self.socket.fileno())
            except OSError:  # no descriptor left; the heartbeat detects the loss later
                watcher.stop()
                return
            # A plain C socket: that of gevent would wait, and a TLS socket cannot peek.
            with contextlib.closing(_socket.socket(fileno=descriptor)) as peeker:
                peeker.setblocking(False)
                try:
                    data = peeker.recv(1, _socket.MSG_PEEK)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
            watcher.stop()
            if not data:
                on_disconnect()

        watcher.start(check)
        try:
            yield
        finally:
            watcher.stop()
            watcher.close()
