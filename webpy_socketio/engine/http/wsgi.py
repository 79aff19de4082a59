"""The HTTP side of the engine, on gevent's pywsgi.

A request is taken over from the WSGI application that marked it as the engine's, or answered
without it when its session lives in the engine already. After a WebSocket's handshake the
connection leaves the request's greenlet altogether, unless it is a TLS one.
"""

from __future__ import annotations

import _socket
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import gevent
from gevent.ssl import SSLSocket
from greenlet import getcurrent

from webpy_socketio.engine.engine import Engine, Upgrade, sid_in
from webpy_socketio.engine.engineio.polling import Polling
from webpy_socketio.engine.engineio.requests import QUERY_TOO_LONG, Response
from webpy_socketio.engine.engineio.takeover import ACCEPT_KEY, MARK, RAW_PATH, TakeOverMark
from webpy_socketio.engine.http.handler import ConnectionHandedOff, HTTPHandler
from webpy_socketio.engine.http.headers import select_headers
from webpy_socketio.engine.http.parser import BadRequest, Head
from webpy_socketio.engine.io.isolation import Isolation
from webpy_socketio.engine.io.streams import TCPStream
from webpy_socketio.engine.io.tls import TLSStream
from webpy_socketio.engine.workers.handoff import PeerWorkers, unregister_fd
from webpy_socketio.engine.workers.relay import relay

__all__ = ["ACCEPT_KEY", "RequestHandler"]

_READ = 1


class RequestHandler(HTTPHandler):
    """pywsgi's handler, with an engine beside the application."""

    #: The session's transport whose POST this is, until it is handled.
    _posted: Polling | None = None

    #: Of the connection's greenlet, from its first request for the application on.
    _isolation: Isolation | None = None

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        super().__init__(sock, address, server, rfile)
        sock.settimeout(None)  # the one of the TLS handshake
        if sock.family in (_socket.AF_INET, _socket.AF_INET6):
            # Small answers and frames are the rule here; Nagle's algorithm holds the second of two
            # back until the first is acknowledged, 40 ms later.
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)

    def body_limit(self, path: str) -> int:
        return (
            self.config.max_message_size if self._is_engine_path(path) else super().body_limit(path)
        )

    def explain(self, failure: BadRequest) -> tuple[str, str, bytes]:
        # One of ours that is too long even for HTTP is told so as all the others are.
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

    def route(self, head: Head) -> None:
        """Give the connection to the peer that holds the session which the request names.

        And whatever is no session's, once we are about to end, to a younger one.
        """
        peers: PeerWorkers = self.server.peers
        name = None
        # Whatever the path: a WSGI wrapper may change it, and only after the request is routed.
        if "sid=" in head.target and ("EIO=" in head.target or self._is_engine_path(head.target)):
            sid = sid_in(head.target.partition("?")[2])
            if sid.startswith(peers.prefix):
                return
            name = peers.owner(sid)
        if name is not None:
            if self._send_connection(name, self._head + self.read_ahead()):
                raise ConnectionHandedOff
        elif self.server.engine.stopping and self._send_to_younger_worker(
            self._head + self.read_ahead()
        ):
            raise ConnectionHandedOff

    def hand_off(self) -> None:
        self._send_to_younger_worker(self.read_ahead())

    def _send_to_younger_worker(self, data: bytes) -> bool:
        if isinstance(self.socket, SSLSocket):
            return False  # we would have to stay, to pass its bytes on
        until = time.monotonic() + self.server.move_timeout
        while True:
            if any(self._send_connection(name, data) for name in self.server.peers.younger()):
                return True
            if time.monotonic() > until:
                return False
            gevent.sleep(0.02)  # it may be starting still

    def _send_connection(self, name: int, data: bytes) -> bool:
        """Give the connection away; False if nobody took it, and it is to be served here."""
        peers: PeerWorkers = self.server.peers
        sock = self.socket
        if isinstance(sock, SSLSocket):
            with peers.relay(name, self.client_address, data) as link:
                if link is None:
                    return False
                self.server.handling.discard(self)
                relay(sock, link, self.config.write_timeout)
                sock.close()
        else:
            if not peers.send_connection(name, sock, self.client_address, data):
                return False
            unregister_fd(self.server.loop, sock.fileno())
            # At once: gevent's own ways to close may wait for the loop's next turn, and until then
            # the client would not hear that its new host closes.
            _socket.socket(fileno=sock.detach()).close()
        self.socket = None  # pywsgi reads from a socket that it closes; this one it is to leave
        return True

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ[RAW_PATH] = environ["PATH_INFO"]
        self.mount(environ, self.config.path_prefix)
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
        headers: list[tuple[str, str]] = []
        if not engine.has_session(environ):
            # A new session is the application's to allow; its later requests are not shown to
            # it: they would load and save a web session each, over what pages save meanwhile.
            mark = TakeOverMark(environ)
            environ[ACCEPT_KEY] = False
            environ[MARK] = mark
            with engine.answering(), mark:
                if not self._run_wsgi(mark):
                    return
            environ = mark.merged()
            headers = select_headers(self.response_headers)
        self._run_engine(engine, environ, headers)

    def finalize_headers(self) -> None:
        self._check_isolation()
        super().finalize_headers()

    def _run_wsgi(self, mark: TakeOverMark) -> bool:
        """Run the application; return True if it completed and left the request to the engine."""
        environ = self.environ
        may_be_ours = "EIO=" in environ["QUERY_STRING"] or environ["PATH_INFO"].endswith(
            self.server.engine.path
        )
        result: Any = None
        leaves = "HTTP_UPGRADE" in self.environ  # after it no request follows
        if self._isolation is None and not (self.close_connection or leaves):
            self._isolation = Isolation()
        try:
            result = self.application(environ, self.start_response)
            if may_be_ours:
                # A generator does nothing, and marks nothing, before its first piece is asked for.
                iterator = iter(result)
                first = next(iterator, b"")
                taken = mark.environ is not None or environ.get(ACCEPT_KEY) is True
                if taken and self.code == 200:
                    for _ in iterator:  # to its end: processors have work to do there
                        pass
                    return True
                # Not for a page whose query looks like a handshake's: an allowed origin may
                # connect, but not read the site.
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
            getcurrent().gr_context = None  # context variables are the request's
            self._check_isolation()

    def _check_isolation(self) -> None:
        """Close the connection if the page left a timeout that would be raised in the next request.

        A request of its own greenlet each would cost as much as answering it.
        """
        # The check may wait, and a server that stops sets `close_connection` meanwhile.
        if (
            not self.close_connection
            and self._isolation is not None
            and self._isolation.is_pending()
        ):
            self.close_connection = True

    def _add_cors_headers(self) -> None:
        """Let a page of an allowed origin read why the application rejects its handshake."""
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
        if "websocket" not in environ.get("HTTP_UPGRADE", "").lower():
            with engine.answering():
                response = engine.respond(environ, self._watch)
                self._post_received()  # the client may send the next one as soon as it is answered
                self._answer(response, headers)
            return
        upgrade = engine.upgrade(environ, headers)
        if isinstance(upgrade, Upgrade):
            self._hand_over(engine, upgrade)
        else:
            self._answer(upgrade, headers)

    def _is_engine_path(self, target: str) -> bool:
        """Whether a request is the engine's, however its path is written."""
        engine: Engine = self.server.engine
        path, _, query = target.partition("?")
        return engine.serves(unquote(path, "latin-1"), query)

    def _post_received(self) -> None:
        posted, self._posted = self._posted, None
        if posted is not None:
            posted.arriving = False

    def _answer(self, response: Response, headers: list[tuple[str, str]]) -> None:
        # A client that keeps connections alive would come back to a server that has stopped.
        stopping = self.server.peers is None and self.server.engine.stopping
        self.close_connection = self.close_connection or response.close or stopping
        try:
            self.answer(response.status, response.all_headers() + headers, response.body)
        except OSError:  # gone, or not reading: nothing to tell anybody but the session
            self.server.engine.response_failed(self.environ)
            self.close_connection = True

    def _hand_over(self, engine: Engine, upgrade: Upgrade) -> None:
        self.status = self._orig_status = "101 Switching Protocols"  # for the access log
        self.server.handling.discard(self)
        self.close_connection = True
        self.headers_sent = True
        first = self.read_ahead()
        sock = self.socket
        self.socket = None  # pywsgi reads from a socket that it closes; this one it is to leave
        self.begin_websocket(engine, upgrade, sock, first)

    def begin_websocket(self, engine: Engine, upgrade: Upgrade, sock: Any, first: bytes) -> None:
        """Let a WebSocket begin on the request's socket, which is ours from now on."""
        timeout = engine.config.write_timeout
        if isinstance(sock, SSLSocket):
            tls = TLSStream(sock, timeout)
            upgrade.start(tls, first)
            tls.run()
            sock.close()
        else:
            # A plain C socket: gevent's would bring its watchers, and a way to wait.
            raw = _socket.socket(fileno=sock.detach())
            raw.setblocking(False)
            upgrade.start(TCPStream(raw, engine.loop, timeout), first)

    @contextlib.contextmanager
    def _watch(self, hung_up: Callable[[], None]) -> Iterator[None]:
        """Call `hung_up` if the client closes its connection while it waits for an answer."""
        watcher = self.server.loop.io(self.socket.fileno(), _READ)

        def look() -> None:
            try:
                descriptor = os.dup(self.socket.fileno())
            except OSError:  # none is left; the heartbeat will find out
                watcher.stop()
                return
            # Not gevent's socket, which would wait; nor the TLS one, which cannot peek.
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
                hung_up()

        watcher.start(look)
        try:
            yield
        finally:
            watcher.stop()
            watcher.close()
