"""The engine: all sessions, how they begin, and which request belongs to which.

It answers Engine.IO requests, given as WSGI environs; where the bytes come from is the server's
business.
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
from webpy_socketio.engine.engineio.heartbeat import Heartbeat
from webpy_socketio.engine.engineio.origins import Origins
from webpy_socketio.engine.engineio.polling import Polling, Watch
from webpy_socketio.engine.engineio.rejections import explain_origin
from webpy_socketio.engine.engineio.requests import (
    Query,
    RequestError,
    Response,
    read_body,
    read_query,
)
from webpy_socketio.engine.engineio.session import Receiver, Session
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

__all__ = ["Engine", "Upgrade", "sid_in"]


class Engine:
    """An Engine.IO v4 server without the server: sessions, transports, deadlines.

    `receiver` is told about every session; `path` is where the engine is served, with slashes
    around it.
    """

    def __init__(
        self, receiver: Receiver, config: EngineConfig | None = None, path: str = "/engine.io/"
    ) -> None:
        self.config = config = config or EngineConfig()
        self.path = path
        self.sessions: dict[str, Session] = {}
        self.origins = Origins(config.allowed_origins)
        self.loop: Any = gevent.get_hub().loop
        self.clock = current_clock()
        #: What is told of clients that are set up wrongly.
        self.notices = ThrottledLog(self.clock)
        self.flusher = _flusher()
        self.receiver = receiver
        #: Called for each packet that carries no event; see `count`. It must not wait.
        self.packet_received: Callable[[Session], None] | None = None
        self._heartbeat = Heartbeat(self.clock, config.ping_interval, config.ping_timeout)
        self.upgrades = Upgrades(self.clock, config.upgrade_timeout)
        #: Closed polling sessions whose client has still to be told; for as long as a poll may
        #: reasonably be on its way.
        self._lingering = TimeoutQueue[Session](self.clock, config.upgrade_timeout, self._forget)
        self._addresses = AddressQuota(config.max_sessions_per_address, MAX_SESSIONS_PER_ADDRESS)
        self._stopping = False
        self._answering = 0
        self._answered = gevent.event.Event()
        self._answered.set()

    # -- what a session asks of its engine

    def pong(self, session: Session) -> None:
        self._heartbeat.pong(session)

    def count(self, session: Session) -> None:
        if self.packet_received is not None:
            self.packet_received(session)

    def session_closed(self, session: Session) -> None:
        self._heartbeat.discard(session)
        self.upgrades.discard(session)
        if isinstance(session.transport, Polling) and session.transport.awaits_poll:
            self._lingering.add(session)
        else:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        self._addresses.remove(session)

    # -- requests

    def has_session(self, environ: dict[str, Any]) -> bool:
        """Return whether the engine answers a request without the application.

        Those are the requests of its sessions, and preflights: a browser sends them without cookies
        and without the headers they ask for, so the application could only reject them.
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
        """Return whether a request for `path`, decoded, is the engine's.

        A path below which the application is mounted may come first. A WSGI wrapper may also map any
        other path to the engine: a session's requests have the path at which it began.
        """
        if path.endswith(self.path):
            return True
        session = self.sessions.get(sid_in(query))
        return session is not None and session.environ.get(RAW_PATH) == path

    def respond(self, environ: dict[str, Any], watch: Watch) -> Response:
        """Answer a long-polling request; may wait, for as long as there is nothing to send.

        `watch` tells while it waits whether the client hangs up.
        """
        try:
            self._check_origin(environ)
            if environ["REQUEST_METHOD"] == "OPTIONS":
                return self._with_cors(environ, Response("204 No Content"))
            query = read_query(environ, self.config.transports)
            if query.transport != "polling":
                raise RequestError(3, "Bad request: a WebSocket handshake was expected", close=True)
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
        """Answer a WebSocket handshake: an `Upgrade` to be started with a stream, or a refusal.

        `headers` are added to the answer.
        """
        try:
            self._check_origin(environ)
            query = read_query(environ, self.config.transports)
            if query.transport != "websocket":
                raise RequestError(3, "Bad request: transport=websocket is required")
            if environ["REQUEST_METHOD"] != "GET":
                raise RequestError(
                    2, "Bad handshake method: a WebSocket begins with a GET", _NOT_ALLOWED, True
                )
            session = None if query.sid is None else self._find(query.sid)
            if session is None:
                self._check_open(environ)
            try:
                answer = handshake.check(environ)
            except ProtocolError as error:
                raise RequestError(3, f"Bad request: {error}") from None
            if answer.status_code != 101:
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
            response = answer.serialize()[:-2] + lines.encode("latin-1") + b"\r\n"
            return Upgrade(self, environ, session, response, query.base64)
        except RequestError as error:
            return self._with_cors(environ, self._refuse(error))

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """While an answer of the engine's is waited for and written."""
        self._answering += 1
        self._answered.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if not self._answering:
                self._answered.set()

    def wait_answered(self, timeout: float) -> bool:
        """Wait until every answer is written; False if some are not after `timeout` seconds."""
        return bool(self._answered.wait(timeout))

    def begin_post(self, query: str) -> Polling | None:
        """A POST begins to come in; returns the transport that it is for.

        Two of them at once close their session: nobody can tell which one was to be read first.
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
        """A request came with half a body, or too much: what it was to say is lost, so is all."""
        session = self.sessions.get(sid_in(query))
        if session is None:
            return
        if reason == "parse error":
            session.reject()
        else:
            session.close(reason)

    def response_failed(self, environ: dict[str, Any]) -> None:
        """An answer could not be written; if messages were in it, they are lost, and so is all."""
        session = self.sessions.get(sid_in(environ.get("QUERY_STRING", "")))
        if session is not None and environ["REQUEST_METHOD"] == "GET":
            session.close("transport error")

    @property
    def stopping(self) -> bool:
        """Whether no new sessions are taken."""
        return self._stopping

    def drain(
        self, seconds: float, force: gevent.event.Event, reason: str = "server shutting down"
    ) -> None:
        """Take no new sessions, and close those that are there little by little; waits.

        It takes `seconds` at most, less with few sessions, and none from when `hurry` is set. Their
        order is random, so that those who came together do not come back together.
        """
        self._stopping = True
        sessions = [session for session in self.sessions.values() if session.open]
        random.shuffle(sessions)
        until = time.monotonic() + seconds
        batch = max(_MIN_BATCH, math.ceil(len(sessions) * _INTERVAL / seconds)) if seconds else 0
        while sessions and time.monotonic() < until:
            for session in sessions[-batch:]:
                session.close(reason, 1001, reason)
            del sessions[-batch:]
            if sessions and force.wait(_INTERVAL * random.uniform(0.5, 1.5)):
                break

    def close(self, reason: str = "server shutting down") -> None:
        """Take no new sessions and close those that are there; clients may come back elsewhere."""
        self._stopping = True
        for session in list(self.sessions.values()):
            session.close(reason, 1001, reason)

    def dispose(self) -> None:
        """Forget what is left after `close`, and stop every timer."""
        self.sessions.clear()
        self._addresses.clear()
        self._heartbeat.clear()
        self.upgrades.clear()
        self._lingering.clear()

    # -- how a session begins

    def open(self, environ: dict[str, Any]) -> Session:
        """Begin a session that no transport carries yet."""
        environ = dict(environ)
        environ["wsgi.input"] = _NO_INPUT
        secret = secrets.token_urlsafe(18)  # 144 bits: not to be guessed
        session = Session(
            self.config.session_prefix + secret + self.config.session_suffix,
            environ,
            self,
            self.receiver,
            self.config.outbox_bytes,
            self.config.outbox_packets,
        )
        self.sessions[session.id] = session
        self._addresses.add(session, environ.get("REMOTE_ADDR", ""))
        return session

    def begin(self, session: Session, upgrades: list[str]) -> bytes:
        """Start the session's life; return the handshake packet (protocol v4, "Handshake")."""
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
            raise RequestError(2, "Bad handshake method: a session begins with a GET")
        self._check_open(environ)
        session = self.open(environ)
        session.use(Polling(session))
        upgrades = [name for name in self.config.transports if name == "websocket"]
        handshake = self.begin(session, upgrades)
        self.receiver.opened(session)
        return Response("200 OK", handshake)

    def _continue_polling(self, environ: dict[str, Any], query: Query, watch: Watch) -> Response:
        method = environ["REQUEST_METHOD"]
        session = self._find(query.sid or "")
        transport = session.transport
        if not isinstance(transport, Polling):
            raise RequestError(3, "Bad request: this session is carried by a WebSocket")
        try:
            if method == "GET":
                if self._heartbeat.check(session):
                    session.close("ping timeout")
                    self._forget(session)
                    raise RequestError(1, "Session ID unknown: it did not answer a ping in time")
                return Response("200 OK", self._poll(session, transport, watch))
            if method == "POST":
                if not session.open:
                    raise RequestError(1, "Session ID unknown: it is closed")
                transport.receive(read_body(environ, self.config.max_message_size))
                return Response("200 OK", b"ok")
        except MessageTooBig as error:
            session.reject()
            raise RequestError(
                3, f"Payload too large: {error}", "413 Payload Too Large", True
            ) from None
        except (ProtocolError, OSError) as error:
            # An OSError is a body that ended early: what it was to say is lost, so is the session.
            if isinstance(error, ProtocolError):
                session.reject()
            else:
                session.close("transport error")
            raise RequestError(3, f"Bad request: {error}", close=True) from None
        raise RequestError(3, "Bad request: only GET and POST are used")

    def _poll(self, session: Session, transport: Polling, watch: Watch) -> bytes:
        payload = transport.poll(watch)
        if not session.open:
            self._lingering.discard(session)
            self._forget(session)
        return payload

    # -- checks

    def _find(self, sid: str) -> Session:
        session = self.sessions.get(sid)
        if session is None:
            raise RequestError(
                1,
                "Session ID unknown",
                hint="a client came with a session that is not here: after a restart that is as it should "
                "be; with several processes, the proxy has to send a client's requests to one of them",
                usual=True,
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
                hint=f"refused a client: SOCKETIO_MAX_SESSIONS is {self.config.max_sessions}",
            )
        address = environ.get("REMOTE_ADDR", "")
        if not self._addresses.has_room(address):
            raise RequestError(
                3,
                "Too many sessions of this address",
                "429 Too Many Requests",
                True,
                hint=f"rejected a session of {safe_repr(address)}: the address has "
                f"{self._addresses.limit} (SOCKETIO_MAX_SESSIONS_PER_ADDRESS). If it is a proxy, add it to "
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
            level = logging.INFO if error.usual else logging.WARNING
            self.notices.throttled(str(error), error.hint, level)
        return error.response

    def _with_cors(self, environ: dict[str, Any], response: Response) -> Response:
        cors = self.origins.cors(environ)
        return replace(response, headers=[*response.headers, *cors]) if cors else response


#: A broadcast may reach the sessions of several engines: those of one hub share a flusher.
_flushers: WeakKeyDictionary[Any, Flusher] = WeakKeyDictionary()


def _flusher() -> Flusher:
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
    """A WebSocket handshake that was accepted: give it the connection's stream."""

    def __init__(
        self,
        engine: Engine,
        environ: dict[str, Any],
        session: Session | None,
        answer: bytes,
        base64: bool = False,
    ) -> None:
        self._engine = engine
        self._environ = environ
        self._session = session
        #: The HTTP response, headers and all.
        self.answer = answer
        self._base64 = base64

    def start(self, stream: Stream, first: bytes) -> None:
        """Answer the handshake on `stream` and begin; `first` came right behind the request."""
        engine = self._engine
        limits = (engine.config.max_message_size, engine.config.outbox_bytes)
        if self._session is None:
            session = engine.open(self._environ)
            websocket = WebSocket(session, stream, *limits, base64=self._base64)
            session.use(websocket)
            session.outbox.push(Message(engine.begin(session, [])))
            websocket.answer(self.answer)
            engine.receiver.opened(session)
        else:
            session = self._session
            upgrades = engine.upgrades
            websocket = WebSocket(
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
                # Answered, so that the client learns in its own words that it comes too late.
                websocket.close(1008, "this session has its WebSocket already")
                return
        websocket.start(first)


#: Sessions that are closed at once, at least, and the seconds between those and the next.
_MIN_BATCH = 100
_INTERVAL = 0.1

#: Sessions of one address, where the settings have no number.
MAX_SESSIONS_PER_ADDRESS = 1000

_NOT_ALLOWED = "405 Method Not Allowed"

#: Stands in for the body of a handshake, which would keep the request's socket alive.
_NO_INPUT = io.BytesIO()


def sid_in(query: str) -> str:
    """The session id in a query string, as the stock client writes it: never percent-encoded."""
    for part in query.split("&"):
        if part.startswith("sid="):
            return str(part[4:])
    return ""
