"""Requests that are served on the hub, without a greenlet.

A connection begins without a greenlet. It gets one for the first request that the hub cannot serve:
any but a handshake or a request of an open session (`hub_requests`). It keeps that greenlet.

Later requests are served on the hub only if they are plain: each repeats an earlier one of its
connection, which has passed all checks of the HTTP server and the engine. Only the timestamp in the
query and the value of ``Content-Length`` may differ. A request must have arrived completely, and a
POST must be short. All other requests are left to the greenlet.

Measured: a POST and a GET take a quarter to a third of the CPU time, as they need no greenlet
switch, no timer and no environ.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gevent
from gevent.ssl import SSLSocket
from greenlet import getcurrent

from webpy_socketio.engine.engineio.encodings import compress_body
from webpy_socketio.engine.engineio.polling import Packets, Polling
from webpy_socketio.engine.engineio.requests import Response
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.http import hub_requests
from webpy_socketio.engine.http.parser import Head
from webpy_socketio.engine.io.dates import http_date
from webpy_socketio.engine.io.deflate import THRESHOLD
from webpy_socketio.engine.io.packets import SEPARATOR
from webpy_socketio.exceptions import ProtocolError

__all__ = ["HubConnection"]

logger = logging.getLogger(__name__)

_READ = 1

_FAILED = "a request failed on the hub"

#: Bytes of one read.
_CHUNK = 16_384

#: Packets of a body that are handled on the hub; more are left to the greenlet, which can wait.
_MAX_PACKETS = 16

#: The timestamp that the stock client adds to the query against caches.
_TIMESTAMP = re.compile(rb"&t=[0-9A-Za-z._-]{0,64}(?=[& ])")

#: The value of Content-Length among headers that the parser has accepted.
_LENGTH = re.compile(rb"(?:\A|\r\n)[Cc]ontent-[Ll]ength:[ ]?([0-9]{1,7})(?=\r\n|\Z)")

#: Stands for no result, as None is one.
_NOTHING = object()

#: Bytes of the longest request line; longer ones are left to the greenlet.
_MAX_LINE = 2048


class _Template(NamedTuple):
    """A request that has passed all checks; a plain one is equal to it."""

    #: The request line without timestamp.
    line: bytes
    #: The headers without the value of Content-Length.
    block: bytes
    session: Session
    transport: Polling
    #: Address of the client, for the access log.
    address: str
    #: The Accept-Encoding header.
    accepted: str | None
    #: Headers of the response that depend on the request's.
    cors: list[tuple[str, str]]
    #: The last headers of a plain response, and the empty line.
    end: bytes


class HubConnection:
    """Serves the requests of one connection that need no greenlet.

    Args:
        handler: The `RequestHandler` of the connection.
    """

    __slots__ = (
        *("_active", "_answered", "_engine", "_get", "_greenlet", "_handler", "_is_alone"),
        *("_left", "_loop", "_pending", "_post", "_reader", "_result", "_server", "_sock"),
        *("_timeout", "_timer", "_watcher"),
    )

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._server = handler.server
        self._engine = handler.server.engine
        self._loop = handler.server.loop
        self._reader = handler.rfile
        # The plain C socket: non-blocking, without the frames of gevent's.
        self._sock: Any = handler.socket._sock
        #: The last GET and POST that have passed all checks, until they are repeated.
        self._answered: dict[str, tuple[bytes, Head, dict[str, Any]]] = {}
        self._get: _Template | None = None
        self._post: _Template | None = None
        #: The GET that waits for messages.
        self._pending: _Template | None = None
        #: What the greenlet must do: a function to call, False to close, or None for nothing.
        self._result: Any = None
        #: The greenlet in `wait`.
        self._greenlet: Any = None
        #: Whether the connection has no greenlet.
        self._is_alone = False
        #: The result of `_wait` in the greenlet that is starting.
        self._left: Any = _NOTHING
        self._watcher: Any = None
        self._timer: Any = None
        self._timeout = 0.0
        #: Time of the last response.
        self._active = 0.0

    @staticmethod
    def supports(handler: Any) -> bool:
        """Return whether the connection can be served on the hub: not with TLS."""
        return not isinstance(handler.socket, SSLSocket) and hasattr(handler.socket, "_sock")

    def learn(self, line: bytes, head: Head, environ: dict[str, Any]) -> None:
        """Remember a request that has passed all checks, to recognize its repetitions."""
        if head.version != "1.1" or head.close or head.expects_continue or head.length is None:
            return
        self._answered[head.method] = line, head, environ
        if head.method == "POST":
            self._post = None
        else:
            self._get = None

    def _make_template(self, method: str) -> _Template | None:
        """Return the template of the last request with this method."""
        answered = self._answered.pop(method, None)
        if answered is None:
            return None
        line, head, environ = answered
        session = self._engine.session_of(environ)
        if session is None or not isinstance(session.transport, Polling):
            return None
        block = head.block
        if method == "POST":
            # The parser has accepted one Content-Length; without it, the headers contain none.
            block, count = _LENGTH.subn(b"", block, 1)
            if not count:
                return None
        elif head.has_body:
            return None
        cors = self._engine.origins.cors(environ)
        headers = Response("").all_headers()[2:] + cors
        end = "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
        return _Template(
            _TIMESTAMP.sub(b"", line, 1),
            block,
            session,
            session.transport,
            environ["REMOTE_ADDR"],
            environ.get("HTTP_ACCEPT_ENCODING"),
            cors,
            end + b"\r\n",
        )

    def begin(self, timeout: float) -> None:
        """Serve requests on the hub, and start the greenlet for the first of another kind.

        Args:
            timeout: Seconds within which the first request must arrive.
        """
        self._is_alone = True
        self._timeout = timeout
        self._active = time.monotonic()
        if self._server.idle_handlers is not None:
            self._server.idle_handlers[self._handler] = self
        self._read()  # the request has often arrived with the connection
        if self._is_alone:
            self._watch()

    def throw(self, exception: BaseException) -> None:
        """Raise `exception` in the greenlet, which is started for it."""
        self._resume(exception)

    def wait(self, timeout: float) -> bool:
        """Serve plain requests until another one arrives.

        Args:
            timeout: Seconds for which the connection may be idle.

        Returns:
            Whether a request has arrived; False if the connection must be closed.
        """
        self._timeout = timeout
        idle_handlers = self._server.idle_handlers
        while True:
            result, self._left = self._left, _NOTHING
            if result is _NOTHING:
                result = self._wait()
            if isinstance(result, BaseException):
                raise result
            if not callable(result):
                return bool(result)
            # While the greenlet writes a response, the connection must not be handed off.
            if idle_handlers is not None:
                idle_handlers.pop(self._handler, None)
            if not result():
                return False
            self._timeout = self._server.config.idle_timeout
            if idle_handlers is not None:
                idle_handlers[self._handler] = getcurrent()

    def _wait(self) -> Any:
        self._greenlet = getcurrent()
        self._result = None
        self._active = time.monotonic()
        self._watch()
        if self._reader.buffered:
            self._loop.run_callback(self._serve_buffered)
        try:
            return gevent.get_hub().switch()
        finally:
            self._greenlet = None  # `Isolation` counts references to the greenlet
            self._unwatch()
            if self._pending is not None:  # the greenlet was killed
                self._pending.transport.cancel_poll()
                self._pending = None
                self._engine.end_response()

    def _watch(self) -> None:
        self._watcher = self._loop.io(self._sock.fileno(), _READ)
        self._watcher.start(self._read)
        self._start_timer(self._timeout)

    def _unwatch(self) -> None:
        if self._watcher is not None:
            for watcher in (self._watcher, self._timer):
                watcher.stop()
                watcher.close()
            self._watcher = None

    # -- callbacks on the hub

    def _read(self) -> None:
        if self._reader.buffered:
            # Served first: a client must not fill the buffer faster than it is served.
            if self._pending is not None:
                self._watcher.stop()
            return
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""  # reset
        if self._pending is not None:
            self._watcher.stop()
            if data:
                self._reader.add(data)
            else:
                self._pending.transport.connection_lost()
        elif not data:
            self._resume(False)
        else:
            self._serve(data)

    def _serve_buffered(self) -> None:
        if (self._greenlet is not None or self._is_alone) and self._pending is None:
            data = self._reader.buffered
            self._reader.skip(len(data))
            if data:
                self._serve(data)

    def _serve(self, data: bytes) -> None:
        """Serve the request at the beginning of `data`, or leave it to the greenlet."""
        try:
            used = self._handle(data)
        except Exception:
            logger.exception(_FAILED)
            self._resume(False)
            return
        if used < len(data):
            self._reader.add(data[used:])
        if not used:
            self._resume(True)
        else:
            self._set_timeout(self._server.config.idle_timeout)
            self._continue()

    def _continue(self) -> None:
        """Resume the greenlet if a response requires it; otherwise serve the next request."""
        if self._result is not None:
            self._resume(self._result)
        elif self._pending is None and self._reader.buffered:
            self._loop.run_callback(self._serve_buffered)

    def _resume(self, result: Any) -> None:
        greenlet = self._greenlet
        if greenlet is not None:
            greenlet.switch(result)
        elif self._is_alone:
            self.leave()
            if result is False:
                self._server.close_connection(self._handler)
            else:
                self._left = result
                self._server.start_greenlet(self._handler)

    def leave(self) -> None:
        """Stop serving the connection, which has no greenlet."""
        self._is_alone = False
        self._unwatch()
        if self._server.idle_handlers is not None:
            self._server.idle_handlers.pop(self._handler, None)

    def _start_timer(self, seconds: float) -> None:
        self._timer = self._loop.timer(seconds)
        self._timer.start(self._check_idle)

    def _set_timeout(self, seconds: float) -> None:
        is_shorter = seconds < self._timeout
        self._timeout = seconds
        if is_shorter and self._watcher is not None:
            self._timer.stop()
            self._timer.close()
            self._start_timer(seconds)

    def _check_idle(self) -> None:
        idle = 0.0 if self._pending is not None else time.monotonic() - self._active
        if idle >= self._timeout:
            self._resume(False)
        else:
            self._timer.close()
            self._start_timer(self._timeout - idle)

    # -- requests

    def _handle(self, data: bytes) -> int:
        """Handle a request; return its size in bytes, or 0 if it must be left to the greenlet."""
        used = self._handle_plain(data)
        if used or not self._is_alone:
            return used
        served = hub_requests.serve(self._handler, self, data)
        return self._handle_plain(data) if served is None else served

    def _handle_plain(self, data: bytes) -> int:
        """Handle a plain request; return its size in bytes, or 0 if it is not plain."""
        line_end = data.find(b"\r\n")
        end = data.find(b"\r\n\r\n", line_end)
        if not 0 < line_end < end or line_end > _MAX_LINE:
            return 0
        line, block = data[:line_end], data[line_end + 2 : end]
        end += 4
        if line.startswith(b"GET "):
            template = self._get = self._get or self._make_template("GET")
            if template is None or block != template.block:
                return 0
            return end if _is_same(line, template.line) and self._poll(line, template) else 0
        template = self._post = self._post or self._make_template("POST")
        match = _LENGTH.search(block)
        if (
            not line.startswith(b"POST ")  # a timestamp may be in the method
            or template is None
            or match is None
            or block[: match.start()] + block[match.end() :] != template.block
            or not _is_same(line, template.line)
        ):
            return 0
        size = end + int(match[1])
        return size if size <= len(data) and self._receive(line, template, data[end:size]) else 0

    def _poll(self, line: bytes, template: _Template) -> bool:
        """Handle a GET; return False if it must be handled by the greenlet."""
        engine, session, transport = self._engine, template.session, template.transport
        if (
            not engine.may_continue(session, transport)
            or transport.waiting
            or engine.has_timed_out(session)
        ):
            return False
        self._begin_log(line, template)
        payload = transport.begin_poll(self._schedule_answer)
        if payload is not None:
            engine.poll_answered(session, transport)
            self._answer(template, payload)
        else:
            self._pending = template
            engine.begin_response()
            if self._server.idle_handlers is not None:
                self._server.idle_handlers.pop(self._handler, None)
        return True

    def _schedule_answer(self) -> None:
        self._loop.run_callback(self._answer_pending)

    def _answer_pending(self) -> None:
        template, self._pending = self._pending, None
        if template is None:
            return
        try:
            payload = template.transport.end_poll()
            self._engine.poll_answered(template.session, template.transport)
            self._answer(template, payload)
        except Exception:
            logger.exception(_FAILED)
            self._result = False
        if self._server.idle_handlers is not None:
            self._server.idle_handlers[self._handler] = self._greenlet or self
        if not self._watcher.active:
            self._watcher.start(self._read)
        self._continue()
        self._engine.end_response()

    def _receive(self, line: bytes, template: _Template, body: bytes) -> bool:
        """Handle a POST; return False if it must be handled by the greenlet."""
        engine, session, transport = self._engine, template.session, template.transport
        if (
            not engine.may_continue(session, transport)
            or not session.open
            or transport.receiving
            or transport.paused
            or len(body) > engine.config.max_message_size
            or body.count(SEPARATOR) >= _MAX_PACKETS
        ):
            return False
        self._begin_log(line, template)
        try:
            rest = transport.begin_receive(body)
        except ProtocolError as error:
            self._result = partial(self._refuse, engine.refuse_post(error), template)
            return True
        if rest is None:
            self._answer(template, b"ok", is_get=False)
        else:
            self._result = partial(self._receive_rest, template, rest)
        return True

    def _receive_rest(self, template: _Template, rest: Packets) -> bool:
        """Handle the packets of a POST that follow one that paused reading."""

        def receive() -> None:
            response = Response("200 OK", b"ok")
            try:
                template.transport.end_receive(rest)
            except ProtocolError as error:
                response = self._engine.refuse_post(error)
            self._handler.answer_plain(response, template.cors)

        return self._wait_for(receive, template, False) and not self._handler.close_connection

    # -- responses

    def send(self, data: bytes, is_last: bool) -> None:
        """Send a response of the handler, or leave the rest of it to the greenlet."""
        self._active = time.monotonic()
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:  # the client is gone
            self._result = False
            return
        if sent < len(data):
            self._result = partial(self._handler.send_rest, data[sent:])
        elif is_last:
            self._result = False

    def call_in_greenlet(self, function: Callable[[], bool]) -> None:
        """Call a function that sends the response to the current request, and may wait.

        It returns whether the connection stays open.
        """
        self._result = function

    def _answer(self, template: _Template, payload: bytes, is_get: bool = True) -> None:
        """Write a response, or leave it to the greenlet if this may wait."""
        self._active = time.monotonic()
        if len(payload) > THRESHOLD:
            self._result = partial(self._answer_compressed, template, payload)
            return
        # A client must not reuse a connection of a server that stops.
        is_last = self._engine.stopping and self._server.peers is None
        data = b"".join(
            (
                b"HTTP/1.1 200 OK\r\nDate: ",
                http_date(),
                b"\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: %d\r\n"
                % len(payload),
                b"Connection: close\r\n" if is_last else b"",
                template.end,
                payload,
            )
        )
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:  # the client is gone: the messages are lost
            if is_get:
                template.session.close("transport error")
            data, sent, is_last = b"", 0, True
        if sent < len(data):
            self._result = partial(self._send_rest, template, data, sent, is_get, is_last)
        elif self._server.keeps_log:
            self._result = partial(self._log, len(data), is_last)
        elif is_last:
            self._result = False

    def _send_rest(
        self, template: _Template, data: bytes, sent: int, is_get: bool, is_last: bool
    ) -> bool:
        send = partial(self._handler._sendall, data[sent:])
        is_last = not self._wait_for(send, template, is_get) or is_last
        return self._log(len(data), is_last) if self._server.keeps_log else not is_last

    def _log(self, size: int, is_last: bool) -> bool:
        """Write the line of the access log, in the greenlet: writing may wait."""
        self._handler.log_plain(size)
        return not is_last

    def _answer_compressed(self, template: _Template, payload: bytes) -> bool:
        def answer() -> None:
            body, headers = compress_body(payload, template.accepted)
            response = Response("200 OK", body, headers=[*headers, *template.cors])
            self._handler.answer_plain(response)

        return self._wait_for(answer, template, True) and not self._handler.close_connection

    def _refuse(self, response: Response, template: _Template) -> bool:
        answer = partial(self._handler.answer_plain, response, template.cors)
        return self._wait_for(answer, template, False) and not self._handler.close_connection

    def _wait_for(self, send: Callable[[], None], template: _Template, is_get: bool) -> bool:
        """Run a function that sends a response and may wait; return whether it succeeded."""
        try:
            with self._engine.answering():
                send()
        except OSError:
            if is_get:
                template.session.close("transport error")
            return False
        return True

    def _begin_log(self, line: bytes, template: _Template) -> None:
        if self._server.keeps_log:
            self._handler.begin_log(line, template.address)


def _is_same(line: bytes, known: bytes) -> bool:
    """Return whether a request line is the known one, apart from its timestamp."""
    return line == known or _TIMESTAMP.sub(b"", line, 1) == known
