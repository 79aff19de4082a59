"""The Engine.IO server without I/O: opens sessions and routes requests to them.

Requests are WSGI environs. Reading them from a connection is the task of the HTTP server.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import gevent
import gevent.event

from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.engineio import handshake
from webpy_socketio.engine.engineio.compression import CompressedWebSocket
from webpy_socketio.engine.engineio.encodings import compress_body
from webpy_socketio.engine.engineio.heartbeat import Heartbeat
from webpy_socketio.engine.engineio.origins import Origins
from webpy_socketio.engine.engineio.polling import Polling, Watch
from webpy_socketio.engine.engineio.rejections import explain_origin
from webpy_socketio.engine.engineio.requests import (
    Query,
    RequestError,
    Response,
    check_encoding,
    read_post_body,
    read_query,
)
from webpy_socketio.engine.engineio.session import EngineApplication, Session
from webpy_socketio.engine.engineio.takeover import RAW_PATH
from webpy_socketio.engine.engineio.upgrades import Upgrades
from webpy_socketio.engine.engineio.websocket import WebSocket
from webpy_socketio.engine.io import json
from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.outbox import Flusher
from webpy_socketio.engine.io.packets import OPEN, Message
from webpy_socketio.engine.io.quotas import AddressQuota
from webpy_socketio.engine.io.streams import Stream
from webpy_socketio.engine.io.throttled_log import ThrottledLog, safe_repr
from webpy_socketio.engine.io.timeouts import TimeoutQueue
from webpy_socketio.engine.workers import forking
from webpy_socketio.exceptions import MessageTooBig, ProtocolError

__all__ = ["Engine", "Upgrade", "find_flusher", "sid_in"]


class Engine:
    """The sessions of one Engine.IO v4 server, with their transports and timeouts.

    Not thread-safe: all methods must be called in the thread of the hub that created the engine.

    Args:
        application: Returns the receiver of each session.
        config: Limits and timeouts; the defaults of `EngineConfig` if None.
        path: URL path at which the engine is served, with leading and trailing slash.
    """

    def __init__(
        self,
        application: EngineApplication,
        config: EngineConfig | None = None,
        path: str = "/engine.io/",
    ) -> None:
        self.config = config = config or EngineConfig()
        self.path = path
        #: Prefix of each session id, which identifies this worker among its peers; set by the
        #: server.
        self.session_prefix = ""
        self.sessions: dict[str, Session] = {}
        self.origins = Origins(config.allowed_origins)
        self.loop: Any = gevent.get_hub().loop
        self.clock = current_clock()
        #: Throttled log of requests from misconfigured clients.
        self.notices = ThrottledLog(self.clock)
        self.flusher = find_flusher()
        self.application = application
        #: Called for each packet that carries no event (see `Session.count`); must not block.
        self.packet_received: Callable[[Session], None] | None = None
        self._heartbeat = Heartbeat(self.clock, config.ping_interval, config.ping_timeout)
        self.upgrades = Upgrades(self.clock, config.upgrade_timeout)
        #: Closed polling sessions whose close packet is kept for the client's next GET.
        self._lingering = TimeoutQueue[Session](
            self.clock, config.upgrade_timeout, self._end_session
        )
        self._addresses = AddressQuota(config.max_sessions_per_address, MAX_SESSIONS_PER_ADDRESS)
        self._stopping = False
        self._pending_responses = 0
        self._all_responded = gevent.event.Event()
        self._all_responded.set()

    # -- SessionHost: called by sessions

    def pong(self, session: Session) -> None:
        self._heartbeat.pong(session)

    def confirm_positions(self, position: Callable[[], int] | None) -> None:
        """Store in `Session.confirmed` which messages a client has received; see `Heartbeat`.

        Args:
            position: Returns the number of the last message; None stores nothing.
        """
        self._heartbeat.position = position

    def count(self, session: Session) -> None:
        if self.packet_received is not None:
            self.packet_received(session)

    def session_closed(self, session: Session) -> None:
        self._heartbeat.discard(session)
        self.upgrades.discard(session)
        if isinstance(session.transport, Polling) and session.transport.awaits_poll:
            self._lingering.add(session)
        else:
            self._remove_session(session)

    def _remove_session(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        self._addresses.remove(session)

    def _end_session(self, session: Session) -> None:
        """Remove a closed polling session whose last packet was delivered, or is not awaited."""
        self._remove_session(session)
        session.transport_ended()

    # -- requests

    def has_session(self, environ: dict[str, Any]) -> bool:
        """Return whether the engine responds to a request without calling the application.

        This is the case for requests of its sessions, and for CORS preflights. Browsers send
        preflights without cookies and custom headers, so the application could only reject them.
        """
        query = environ.get("QUERY_STRING", "")
        if not self.serves(environ.get(RAW_PATH) or environ["PATH_INFO"], query):
            return False
        if (
            environ["REQUEST_METHOD"] == "OPTIONS"
            and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        ):
            return True
        return bool(self.sessions) and sid_in(query) in self.sessions

    def serves(self, path: str, query: str) -> bool:
        """Return whether a request for `path` (decoded) belongs to the engine.

        The path may start with the prefix below which the application is mounted. A WSGI wrapper
        may map any other path to the engine, so the path of a session's handshake also matches.
        """
        if path.endswith(self.path):
            return True
        session = self.sessions.get(sid_in(query))
        return session is not None and session.environ.get(RAW_PATH) == path

    def respond(self, environ: dict[str, Any], watch: Watch) -> Response:
        """Respond to a long-polling request; a GET blocks until there is something to send.

        Args:
            environ: The WSGI environ of the request.
            watch: Detects that the client closes its connection while the GET waits.
        """
        try:
            self._check_origin(environ)
            if environ["REQUEST_METHOD"] == "OPTIONS":
                return self._with_cors(environ, Response("204 No Content"))
            query = read_query(environ, self.config.transports)
            if query.transport != "polling":
                raise RequestError(3, "Bad request: WebSocket handshake was expected", close=True)
            if query.sid is None:
                response = self._open_polling(environ)
            else:
                response = self._continue_polling(environ, query, watch)
        except RequestError as error:
            response = self._refuse(error)
        return self._with_cors(environ, response)

    def upgrade(
        self, environ: dict[str, Any], headers: Sequence[tuple[str, str]] = ()
    ) -> Upgrade | Response:
        """Check a WebSocket handshake.

        Args:
            environ: The WSGI environ of the request.
            headers: Headers added to the 101 response.

        Returns:
            An `Upgrade` to start with the connection's stream, or the response that rejects it.
        """
        try:
            self._check_origin(environ)
            query = read_query(environ, self.config.transports)
            if query.transport != "websocket":
                raise RequestError(3, "Bad request: transport=websocket is required")
            if environ["REQUEST_METHOD"] != "GET":
                raise RequestError(
                    2, "Bad handshake method: a WebSocket handshake is a GET", _NOT_ALLOWED, True
                )
            session = None if query.sid is None else self._find(query.sid)
            if session is None:
                self._check_open(environ)
            try:
                # Messages with base64 have frames of their own, which are not compressed.
                compression = self.config.compression and not query.base64
                answer = handshake.check(environ, compression)
            except ProtocolError as error:
                raise RequestError(3, f"Bad request: {error}") from None
            if not isinstance(answer, handshake.Accepted):
                return Response(
                    f"{answer.status_code} {answer.reason_phrase}",
                    bytes(answer.body or b""),
                    headers=[
                        (name, value)
                        for name, value in answer.headers.raw_items()
                        if name in ("Upgrade", "Sec-WebSocket-Version")
                    ],
                    close=True,
                )
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
            response = answer.head + lines.encode("latin-1") + b"\r\n"
            return Upgrade(self, environ, session, response, query.base64, answer.compressed)
        except RequestError as error:
            return self._with_cors(environ, self._refuse(error))

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Mark a response of the engine as pending until it is written; see `wait_answered`."""
        self.begin_response()
        try:
            yield
        finally:
            self.end_response()

    def begin_response(self) -> None:
        """Mark a response as pending until `end_response` is called."""
        self._pending_responses += 1
        self._all_responded.clear()

    def end_response(self) -> None:
        """Mark a response as written, or as impossible."""
        self._pending_responses -= 1
        if not self._pending_responses:
            self._all_responded.set()

    def wait_answered(self, timeout: float) -> bool:
        """Wait until all responses are written; return False after `timeout` seconds."""
        return bool(self._all_responded.wait(timeout))

    def begin_post(self, query: str) -> Polling | None:
        """Register a POST whose head has arrived, and return the transport of its session.

        A second POST at the same time closes the session, because the order of the two is unknown.
        """
        session = self.sessions.get(sid_in(query))
        transport = None if session is None else session.transport
        if session is None or not isinstance(transport, Polling):
            return None
        if transport.receiving:
            session.reject("transport error")
            return None
        transport.arriving = True
        return transport

    def abort_post(self, query: str, reason: str) -> None:
        """Close the session of a POST whose body is incomplete or too large: packets are lost."""
        session = self.sessions.get(sid_in(query))
        if session is None:
            return
        if reason == "parse error":
            session.reject()
        else:
            session.close(reason)

    def session_of(self, environ: dict[str, Any]) -> Session | None:
        """Return the session that a long-polling request has addressed, if it is open."""
        sid = sid_in(environ["QUERY_STRING"])
        # The parsed query decides. It differs if the parameter is percent-encoded.
        is_unambiguous = read_query(environ, self.config.transports).sid == sid
        session = self.sessions.get(sid) if is_unambiguous else None
        return session if session is not None and session.open else None

    def may_repeat(self, environ: dict[str, Any]) -> bool:
        """Return whether a long-polling request of an open session passes all checks."""
        try:
            query = read_query(environ, self.config.transports)
            check_encoding(environ)
        except RequestError:
            return False
        return query.transport == "polling" and self.origins.allow(environ)

    def may_continue(self, session: Session, transport: Polling) -> bool:
        """Return whether a repetition of an earlier request of the session may be handled."""
        return (
            session.transport is transport
            and self.sessions.get(session.id) is session
            and not self._stopping
        )

    def has_timed_out(self, session: Session) -> bool:
        """Return whether a session has exceeded the ping timeout."""
        return self._heartbeat.has_timed_out(session)

    def response_failed(self, environ: dict[str, Any]) -> None:
        """Close the session of a GET whose response could not be written: its messages are lost."""
        session = self.sessions.get(sid_in(environ.get("QUERY_STRING", "")))
        if session is not None and environ["REQUEST_METHOD"] == "GET":
            session.close("transport error")

    @property
    def stopping(self) -> bool:
        """Whether new sessions are rejected."""
        return self._stopping

    def drain(
        self, seconds: float, force: gevent.event.Event, reason: str = "server shutting down"
    ) -> None:
        """Reject new sessions and close the open ones in batches; blocks until done.

        The sessions are closed in random order, which spreads their reconnections over time.

        Args:
            seconds: Maximum duration; shorter if there are few sessions.
            force: Stops the draining when set; the remaining sessions stay open.
            reason: Reason given to clients and receivers.
        """
        self._stopping = True
        sessions = [session for session in self.sessions.values() if session.open]
        random.shuffle(sessions)
        deadline = time.monotonic() + seconds
        batch = (
            max(_MIN_BATCH, math.ceil(len(sessions) * _BATCH_INTERVAL / seconds)) if seconds else 0
        )
        while sessions and time.monotonic() < deadline:
            for session in sessions[-batch:]:
                session.close(reason, 1001, reason)
            del sessions[-batch:]
            if sessions and force.wait(_BATCH_INTERVAL * random.uniform(0.5, 1.5)):
                break

    def close(self, reason: str = "server shutting down") -> None:
        """Reject new sessions and close the open ones; clients may reconnect to another server."""
        self._stopping = True
        for session in list(self.sessions.values()):
            session.close(reason, 1001, reason)

    def dispose(self) -> None:
        """Remove the sessions that remain after `close`, and stop all timers."""
        self.sessions.clear()
        self._addresses.clear()
        self._heartbeat.clear()
        self.upgrades.clear()
        self._lingering.clear()

    # -- new sessions

    def open(self, environ: dict[str, Any]) -> Session:
        """Create and register a session without a transport."""
        environ = dict(environ)
        environ["wsgi.input"] = _NO_INPUT
        secret = secrets.token_urlsafe(18)  # 144 bits: cannot be guessed
        session = Session(
            self.session_prefix + secret + self.config.session_suffix,
            environ,
            self,
            self.config.outbox_bytes,
            self.config.outbox_packets,
        )
        self.sessions[session.id] = session
        self._addresses.add(session, environ.get("REMOTE_ADDR", ""))
        return session

    def begin(self, session: Session, upgrades: list[str]) -> bytes:
        """Start the heartbeat and return the open packet (Engine.IO protocol v4, "Handshake")."""
        config = self.config
        handshake = {
            "sid": session.id,
            "upgrades": upgrades,
            "pingInterval": round(config.ping_interval * 1000),
            "pingTimeout": round(config.ping_timeout * 1000),
            "maxPayload": config.max_message_size,
        }
        self._heartbeat.add(session)
        return OPEN + json.dumps(handshake)

    def _open_polling(self, environ: dict[str, Any]) -> Response:
        if environ["REQUEST_METHOD"] != "GET":
            raise RequestError(2, "Bad handshake method: the handshake is a GET")
        self._check_open(environ)
        session = self.open(environ)
        session.use(Polling(session))
        upgrades = [name for name in self.config.transports if name == "websocket"]
        handshake = self.begin(session, upgrades)
        session.attach(self.application.opened(session))
        return Response("200 OK", handshake)

    def _continue_polling(self, environ: dict[str, Any], query: Query, watch: Watch) -> Response:
        method = environ["REQUEST_METHOD"]
        session = self._find(query.sid or "")
        transport = session.transport
        if not isinstance(transport, Polling):
            raise RequestError(3, "Bad request: this session uses a WebSocket")
        try:
            if method == "GET":
                if self.has_timed_out(session):
                    session.close("ping timeout")
                    self._remove_session(session)
                    raise RequestError(1, "Session ID unknown: closed by ping timeout")
                payload = self._poll(session, transport, watch)
                body, headers = compress_body(payload, environ.get("HTTP_ACCEPT_ENCODING"))
                return Response("200 OK", body, headers=headers)
            if method == "POST":
                if not session.open:
                    raise RequestError(1, "Session ID unknown: the session is closed")
                check_encoding(environ)
                transport.receive(read_post_body(environ, self.config.max_message_size))
                return Response("200 OK", b"ok")
        except RequestError:
            session.reject()
            raise
        except MessageTooBig as error:
            session.reject()
            raise RequestError(
                3, f"Payload too large: {error}", "413 Payload Too Large", True
            ) from None
        except (ProtocolError, OSError) as error:
            # OSError: the body ended early. Its packets are lost, so the session cannot go on.
            if isinstance(error, ProtocolError):
                session.reject()
            else:
                session.close("transport error")
            raise _bad_request(error) from None
        raise RequestError(3, "Bad request: only GET and POST are allowed")

    def _poll(self, session: Session, transport: Polling, watch: Watch) -> bytes:
        payload = transport.poll(watch)
        self.poll_answered(session, transport)
        return payload

    def poll_answered(self, session: Session, transport: Polling) -> None:
        """Remove a closed session whose client has received the last packet."""
        if not session.open and not transport.is_closing:
            self._lingering.discard(session)
            self._end_session(session)

    # -- checks

    def _find(self, sid: str) -> Session:
        session = self.sessions.get(sid)
        if session is None:
            raise RequestError(
                1,
                "Session ID unknown",
                hint="rejected a request with an unknown session id: expected after a restart. "
                "With several processes, the proxy must route all requests of a client to one of "
                "them",
                expected=True,
            )
        return session

    def _check_open(self, environ: dict[str, Any]) -> None:
        if self._stopping:
            raise RequestError(3, "The server is stopping", "503 Service Unavailable", True)
        if len(self.sessions) >= self.config.max_sessions:
            raise RequestError(
                3,
                "The server is full",
                "503 Service Unavailable",
                True,
                hint=f"rejected a session: the limit of {self.config.max_sessions} is reached "
                "(SOCKETIO_MAX_SESSIONS)",
            )
        address = environ.get("REMOTE_ADDR", "")
        if not self._addresses.has_room(address):
            raise RequestError(
                3,
                "Too many sessions from this address",
                "429 Too Many Requests",
                True,
                hint=f"rejected a session from {safe_repr(address)}: the limit of "
                f"{self._addresses.limit} sessions per address is reached "
                "(SOCKETIO_MAX_SESSIONS_PER_ADDRESS). If it is a proxy, add it to "
                "SOCKETIO_TRUSTED_PROXIES, so that the addresses of its clients are counted",
            )

    def _check_origin(self, environ: dict[str, Any]) -> None:
        if not self.origins.allow(environ):
            raise RequestError(
                4,
                "Forbidden: this origin is not allowed",
                "403 Forbidden",
                close=True,
                hint=explain_origin(environ, self.origins, self.config.proxies),
            )

    def _refuse(self, error: RequestError) -> Response:
        if error.hint is not None:
            level = logging.INFO if error.expected else logging.WARNING
            self.notices.throttled(str(error), error.hint, level)
        return error.response

    def refuse_post(self, error: ProtocolError) -> Response:
        """Return the response to a POST whose packets are invalid."""
        return self._refuse(_bad_request(error))

    def _with_cors(self, environ: dict[str, Any], response: Response) -> Response:
        cors = self.origins.cors(environ)
        return replace(response, headers=[*response.headers, *cors]) if cors else response


def _bad_request(error: Exception) -> RequestError:
    return RequestError(3, f"Bad request: {error}", close=True)


#: Flushers by hub. The engines of a hub share one, as a broadcast may reach sessions of each.
_flushers: WeakKeyDictionary[Any, Flusher] = WeakKeyDictionary()


def find_flusher() -> Flusher:
    """Return the flusher of the current hub."""
    hub = gevent.get_hub()
    flusher = _flushers.get(hub)
    if flusher is None:
        flusher = _flushers[hub] = Flusher(hub.loop)
    return flusher


def _silence_flushers() -> None:
    for flusher in list(_flushers.values()):
        flusher.silence()


forking.call_in_child(_silence_flushers)


class Upgrade:
    """An accepted WebSocket handshake, started with the stream of its connection."""

    def __init__(
        self,
        engine: Engine,
        environ: dict[str, Any],
        session: Session | None,
        answer: bytes,
        base64: bool = False,
        compressed: bool = False,
    ) -> None:
        self._engine = engine
        self._environ = environ
        self._session = session
        #: The HTTP response with its headers, encoded.
        self.answer = answer
        self._base64 = base64
        #: Whether permessage-deflate was negotiated.
        self.compressed = compressed

    def start(self, stream: Stream, first: bytes) -> None:
        """Write the handshake response and start reading frames.

        Args:
            stream: The stream of the connection.
            first: Bytes that were received after the request's head.
        """
        engine = self._engine
        limits = (engine.config.max_message_size, engine.config.outbox_bytes)
        websocket_class = CompressedWebSocket if self.compressed else WebSocket
        if self._session is None:
            session = engine.open(self._environ)
            websocket = websocket_class(session, stream, *limits, base64=self._base64)
            session.use(websocket)
            session.outbox.push(Message(engine.begin(session, [])))
            websocket.answer(self.answer)
            session.attach(engine.application.opened(session))
        else:
            session = self._session
            upgrades = engine.upgrades
            websocket = websocket_class(
                session,
                stream,
                *limits,
                upgrades.probed,
                upgrades.completed,
                upgrades.dropped,
                base64=self._base64,
            )
            websocket.answer(self.answer)
            if not upgrades.begin(session, websocket):
                # The handshake is completed first: only a close frame can carry the reason.
                websocket.close(1008, "the session already has a WebSocket")
                return
        websocket.start(first)


#: Draining: minimum number of sessions closed together, and seconds between two batches.
_MIN_BATCH = 100
_BATCH_INTERVAL = 0.1

#: Default of SOCKETIO_MAX_SESSIONS_PER_ADDRESS for addresses other than loopback.
MAX_SESSIONS_PER_ADDRESS = 1000

_NOT_ALLOWED = "405 Method Not Allowed"

#: Replaces `wsgi.input` in the environ of a session: the original keeps the request's socket alive.
_NO_INPUT = io.BytesIO()


def sid_in(query: str) -> str:
    """Return the session id in a query string, or "". Clients never percent-encode it."""
    for part in query.split("&"):
        if part.startswith("sid="):
            return str(part[4:])
    return ""
