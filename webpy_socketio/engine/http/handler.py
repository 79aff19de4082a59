"""The request half of the HTTP handler: strict parsing, size limits and timeouts.

The application receives complete requests only: the head is read within one deadline, and the
body, limited in size, before the application is called. A request that
`webpy_socketio.engine.http.parser` rejects is answered with one 4xx, and the connection is closed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from typing import Any
from urllib.parse import unquote

import gevent

from webpy_socketio.engine.engineio.rejections import explain_host
from webpy_socketio.engine.forwarding.proxies import PEER_KEY, peer_of
from webpy_socketio.engine.http.body_timeout import BodyTimeout
from webpy_socketio.engine.http.closing import respond_and_drain
from webpy_socketio.engine.http.connection_reader import ConnectionReader
from webpy_socketio.engine.http.parser import (
    BadRequest,
    Head,
    Truncated,
    parse_head,
    read_body,
    read_head,
    take_head,
    too_large,
)
from webpy_socketio.engine.http.response import ResponseHandler
from webpy_socketio.engine.http.spool import Spool, StorageFailure

__all__ = ["ConnectionHandedOff", "HTTPHandler", "HandOffRequested"]

logger = logging.getLogger(__name__)

#: Maximum bytes of a body in memory; a larger one is stored in a temporary file.
_MAX_BODY_IN_MEMORY = 262_144

#: Requests of one connection served before its greenlet yields to others.
_BATCH_SIZE = 8


class ConnectionHandedOff(Exception):
    """The connection was handed off to another worker."""


class HandOffRequested(Exception):
    """Raised in the greenlet of an idle handler, which then hands off its connection."""


class _ConsumedInput:
    """Replaces `gevent.pywsgi.Input`, whose rest pywsgi discards: the body was read already."""

    def _discard(self) -> None:
        """Do nothing."""


def _cgi_fields(head: Head) -> dict[str, str]:
    """Return the environ entries of headers (PEP 3333)."""
    fields: dict[str, str] = {}
    for (_, value), key in zip(head.headers, head.keys, strict=True):
        if key is None:
            continue
        if key in fields:
            if key == "CONTENT_TYPE":
                continue
            value = f"{fields[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        fields[key] = value
    return fields


class HTTPHandler(ResponseHandler):
    """Reads requests, and rejects ambiguous ones to prevent request smuggling.

    Subclasses override `body_limit`, `explain`, `route` and `hand_off`, and the notifications
    `body_announced` and `body_aborted`.
    """

    # Attributes of pywsgi, which has no type annotations.
    rfile: Any
    requestline: Any
    command: Any
    path: Any
    headers: Any
    content_length: Any

    #: Requests of this connection so far.
    _served = 0
    _head: bytes
    #: Bytes in the read buffer after the head.
    _buffered = 0
    #: The parsed head of this request, or of the previous one.
    _parsed: Head | None = None
    #: Environ entries of the headers and the client address, and the headers they were made from.
    _fields: tuple[dict[str, str], Any] = ({}, None)
    #: The address for the access log: that of the client after a request has been read.
    remote_address = ""
    _failure: BadRequest | None
    _body: Any
    _body_size: int | None
    #: Bytes of the body that are taken from the quota of the server.
    _held_size = 0

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        super().__init__(sock, address, server, rfile or ConnectionReader(sock))
        #: The address of the peer in its plain form; ``"unix"`` for a Unix socket.
        self.peer = peer_of(address)
        if isinstance(address, bytes):  # an abstract name; a hand-off sends the address as JSON
            self.client_address = ""

    def body_limit(self, path: str) -> int:
        """Return the largest body, in bytes, of a request for `path`."""
        return self.config.max_body_size

    def explain(self, failure: BadRequest) -> tuple[str, str, bytes]:
        """Return the status, content type and body of the response to a rejected request."""
        return failure.status, "text/plain", f"{failure.status}: {failure}\n".encode()

    def body_announced(self) -> None:
        """Handle the start of a body; called before the body of a request is read."""

    def body_aborted(self, reason: str) -> None:
        """Handle the end of a body that is incomplete or rejected."""

    def route(self, head: Head) -> None:
        """Raise `ConnectionHandedOff` if the request belongs to a peer; called only with peers."""

    def hand_off(self) -> None:
        """Hand off an idle connection, since this worker stops; called only with peers."""

    # -- methods of pywsgi, in the order of their calls

    def read_requestline(self) -> str:
        """Read the head; an error is stored, and raised by `read_request`."""
        self._failure = None
        self.remote_address = self.peer
        # The first request must arrive soon; a keep-alive connection may be idle longer.
        timeout = self.config.idle_timeout if self._served else self.config.header_timeout
        self._served += 1
        if not self._served % _BATCH_SIZE:
            gevent.sleep(0)  # gevent does not yield while data is available
        idle_handlers = self.server.idle_handlers
        hand_off = False
        if idle_handlers is not None:
            idle_handlers[self] = gevent.getcurrent()
        try:
            arrived = self.wait_for_request(timeout)
        except HandOffRequested:
            arrived = False
            hand_off = True
        finally:
            if idle_handlers is not None:
                idle_handlers.pop(self, None)
        if hand_off:
            self.hand_off()  # may wait; a second request is impossible, as the handler is not idle
        if not arrived:
            return ""
        taken = take_head(self.rfile)
        if taken is not None:
            head, self._buffered = taken
        else:
            self._buffered = 0
            try:
                with gevent.Timeout(
                    self.config.header_timeout,
                    BadRequest("the request head arrives too slowly", "408 Request Timeout"),
                ):
                    head = read_head(self.rfile)
            except BadRequest as failure:
                self._failure = failure
                return "* *"
        self._head = head
        return head.partition(b"\r\n")[0].decode("latin-1")

    def wait_for_request(self, timeout: float) -> bool:
        """Wait until data has arrived; return False after `timeout` seconds, or at the end."""
        if self.read_ahead():
            return True
        with gevent.Timeout(timeout, False):
            return bool(self.rfile.fill())
        return False

    def read_request(self, raw_requestline: str) -> bool:
        """Parse the head and read the body."""
        self.requestline = ""
        if self._failure is not None:
            raise self._failure
        head = parse_head(self._head, self._parsed)
        # For the access log: bytes above ASCII may be control characters of a terminal.
        self.requestline = raw_requestline.encode("ascii", "backslashreplace").decode()
        fields = self._read_fields(head)
        self.remote_address = fields["REMOTE_ADDR"]
        if not self._is_host_allowed(fields):
            self.server.notices.throttled(
                "host", explain_host(fields.get("HTTP_HOST", ""), self.peer)
            )
            raise BadRequest("this host is not served here")
        self._accept_head(head, fields)
        if self.server.peers is not None:
            self.route(head)
        try:
            self._read_body(head)
            if head.suspicious and self.read_ahead():
                raise BadRequest("data follows a request with 'Connection: upgrade' and a body")
        except (BadRequest, OSError) as error:
            self._release_body()
            is_client_error = isinstance(error, BadRequest) and not isinstance(
                error, (StorageFailure, Truncated)
            )
            self.body_aborted("parse error" if is_client_error else "transport error")
            raise
        return True

    def read_on_hub(self, data: bytes) -> Head | None:
        """Read a request without a body like `read_request`, without waiting.

        Args:
            data: The complete head.

        Returns:
            The head; None if it is not valid. `read_request` then reports why.
        """
        self._failure = None
        self.remote_address = self.peer
        try:
            head = parse_head(data, self._parsed)
        except BadRequest:
            return None
        fields = self._read_fields(head)
        if not self._is_host_allowed(fields):
            return None
        self._head = data
        self._accept_head(head, fields)
        self._body, self._body_size = io.BytesIO(), None
        return head

    def read_ahead(self) -> bytes:
        """Return the bytes after the request that have arrived already, without consuming them."""
        self.socket.settimeout(0)
        try:
            return bytes(self.rfile.peek())
        except OSError:
            return b""  # reset; the next write fails
        finally:
            self.socket.settimeout(None)

    def get_environ(self) -> dict[str, Any]:
        """Return the WSGI environ (PEP 3333), made from the parsed head.

        The method of pywsgi searches all headers once for each entry.
        """
        environ: dict[str, Any] = self.server.get_environ()
        path, _, query = self.path.partition("?")
        environ["REQUEST_METHOD"] = self.command
        environ["SCRIPT_NAME"] = ""
        environ["PATH_INFO"] = unquote(path, "latin-1") if "%" in path else path
        environ["QUERY_STRING"] = query
        environ["SERVER_PROTOCOL"] = self.request_version
        environ.update(self._fields[0])
        if self._body_size is not None:
            # The body is complete: pass its size to the application instead of the framing.
            environ["CONTENT_LENGTH"] = str(self._body_size)
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ["wsgi.input"] = self._body
        environ["wsgi.input_terminated"] = True
        self.wsgi_input = _ConsumedInput()
        return environ

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        """Respond to an invalid request; send nothing if the client has disconnected."""
        notices = self.server.notices
        if not isinstance(ex, BadRequest):
            if isinstance(ex, (OSError, ConnectionHandedOff)):
                return None
            notices.throttled(ex, "failed to read a request", logging.ERROR, logger, ex)
            ex = BadRequest("the request cannot be read")
        text = f"rejected a request from {self.remote_address}: {ex}"
        notices.throttled(ex, text, logging.INFO, logger)
        if isinstance(ex, StorageFailure):
            text = f"{self.requestline}: answered {ex.status}, {ex.report}"
            notices.throttled("body storage", text, logging.ERROR)
        status, content_type, body = self.explain(ex)
        response = (
            f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        respond_and_drain(self.socket, response.encode() + body)
        self.status = self._orig_status = status
        self.response_length = len(body)
        self.log_request()
        return None

    def handle_one_response(self) -> None:
        try:
            super().handle_one_response()
        finally:
            self._release_body()

    def format_request(self) -> str:
        """Return the line of the access log, with the address of the client, not of its proxy."""
        peer, self.client_address = self.client_address, self.remote_address
        try:
            return str(super().format_request())
        finally:
            self.client_address = peer

    # -- helpers

    def _read_fields(self, head: Head) -> dict[str, str]:
        """Return the environ entries of the headers, and of the client behind trusted proxies."""
        if self._fields[1] is head.headers:
            return self._fields[0]
        fields = _cgi_fields(head)
        peer = self.peer
        fields[PEER_KEY] = fields["REMOTE_ADDR"] = peer
        config = self.config
        scheme = self.server.environ["wsgi.url_scheme"]
        if config.trusted_proxies:
            fields.update(config.proxies.client_fields(peer, fields, scheme))
        if fields["REMOTE_ADDR"] is peer and isinstance(self.client_address, tuple):
            fields["REMOTE_PORT"] = str(self.client_address[1])
        return fields

    def _is_host_allowed(self, fields: dict[str, str]) -> bool:
        """Return whether the host of a request is one of SOCKETIO_ALLOWED_HOSTS."""
        config = self.config
        if config.allowed_hosts is None or fields is self._fields[0]:
            return True
        scheme = fields.get("wsgi.url_scheme") or self.server.environ["wsgi.url_scheme"]
        return config.hosts.allows(fields.get("HTTP_HOST", ""), scheme)

    def _accept_head(self, head: Head, fields: dict[str, str]) -> None:
        """Store a head that has passed all checks."""
        self._parsed = head
        self.command, self.path = head.method, head.target
        self.request_version = "HTTP/" + head.version
        self.close_connection = head.close
        self.headers = head.headers
        self._fields = fields, head.headers
        self.remote_address = fields["REMOTE_ADDR"]

    def _hold(self, size: int) -> None:
        """Take bytes of the body from the quota; raise `BadRequest` if it is exhausted."""
        bodies = self.server.bodies
        if not bodies.acquire(size):
            self.server.notices.throttled(
                "bodies",
                f"rejected a request from {self.remote_address} with a body: all request bodies "
                f"together have reached {bodies.limit} bytes (SOCKETIO_MAX_BODIES_SIZE)",
            )
            raise BadRequest("the server holds too many request bodies", "503 Service Unavailable")
        self._held_size += size

    def _release_body(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes, which fails on a full disk
            self._body.close()
        self.server.bodies.release(self._held_size)
        self._held_size = 0

    def _read_body(self, head: Head) -> None:
        self._body_size = None
        self._body = io.BytesIO()
        self.content_length = None
        self.body_announced()
        if not head.has_body:
            return
        limit = self.body_limit(head.target)
        if head.length is not None and head.length > limit:
            raise too_large(limit)
        if head.length is not None and head.length <= self._buffered:
            self._body_size = head.length  # buffered completely: no deadline needed
            self._body = io.BytesIO(self.rfile.read(head.length))
            return
        if head.expects_continue:
            self._sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.length is None or head.length > _MAX_BODY_IN_MEMORY:
            self._body = tempfile.SpooledTemporaryFile(_MAX_BODY_IN_MEMORY)  # noqa: SIM115 - closed with the request
        deadline = BodyTimeout(self.config.body_timeout)
        spool = Spool(self._body)

        def progress(size: int) -> None:
            self._hold(size)
            deadline.progress(size)

        try:
            self._body_size = read_body(self.rfile, head.length, limit, spool, progress)
        finally:
            deadline.close()
        spool.finish()
