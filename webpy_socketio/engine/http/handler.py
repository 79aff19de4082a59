"""pywsgi's handler with a strict reader: framing, limits and deadlines of HTTP requests.

A request reaches the application whole, or not at all: its head is read within one deadline, its
body, bounded, before the application is called. What `webpy_socketio.engine.http.parser` refuses is
answered with a 4xx, once, and the connection is closed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import tempfile
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import gevent

from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.engineio.rejections import explain_host
from webpy_socketio.engine.forwarding.proxies import PEER_KEY, peer_of
from webpy_socketio.engine.http.body_timeout import BodyTimeout
from webpy_socketio.engine.http.closing import close_after
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

#: Bytes of a body that are kept in memory; larger ones go to a temporary file.
_MAX_BODY_IN_MEMORY = 262_144

#: Characters of a header's name that is remembered.
_SHORT = 64

#: Requests of one connection that are served before others have their turn.
_BATCH_SIZE = 8


class ConnectionHandedOff(Exception):
    """The connection is served by somebody else from now on."""


class HandOffRequested(Exception):
    """Thrown into a handler that waits for a request: the connection is to go elsewhere."""


class _Nothing:
    """What pywsgi is to read of a body that has been read already."""

    def _discard(self) -> None:
        """Nothing is left of it."""


def _cgi_name(header: str) -> str | None:
    """The environ's key for a header; None for one that would look like another one's there."""
    # Clients choose the names: long ones are not remembered.
    return (_make_cgi_name if len(header) <= _SHORT else _make_cgi_name.__wrapped__)(header)


@functools.lru_cache(256)
def _make_cgi_name(header: str) -> str | None:
    if "_" in header:
        return None
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + name


def _cgi_fields(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The environ's part that is made of headers (PEP 3333)."""
    fields: dict[str, str] = {}
    for name, value in headers:
        key = _cgi_name(name)
        if key is None:
            continue
        if key in fields:
            if key == "CONTENT_TYPE":
                continue
            value = f"{fields[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        fields[key] = value
    return fields


class HTTPHandler(ResponseHandler):
    """Reads requests so that nobody can read them differently.

    Subclasses say with `body_limit` how large a body may be, and hear with `broken_off` of one that
    did not come to its end.
    """

    # pywsgi's, which says nothing about their types.
    rfile: Any
    requestline: Any
    command: Any
    path: Any
    headers: Any
    content_length: Any

    _served = 0
    _head: bytes
    #: Bytes behind the head that are there already.
    _behind = 0
    #: The head of the request, or of the one before.
    _parsed: Head | None = None
    #: The headers of that head and the client's address as WSGI has them, and of which they were made.
    _fields: tuple[dict[str, str], Any] = ({}, None)
    #: The address for the access log: the client's, once a request was read.
    remote_address = ""
    _failure: BadRequest | None
    _body: Any
    _body_size: int | None
    #: Bytes of the body that are counted as held.
    _held_size = 0

    def __init__(self, sock: Any, address: Any, server: Any, rfile: Any = None) -> None:
        super().__init__(sock, address, server, rfile)
        #: The address that the connection comes from, in its plain form; ``"unix"`` if it has none.
        self.peer = peer_of(address)
        if isinstance(address, bytes):  # an abstract name; only text can be handed to other workers
            self.client_address = ""

    @property
    def config(self) -> EngineConfig:
        """Where the limits and deadlines are."""
        config: EngineConfig = self.server.config
        return config

    def body_limit(self, path: str) -> int:
        """Bytes that the body of a request for `path` may have."""
        return self.config.max_body_size

    def explain(self, failure: BadRequest) -> tuple[str, str, bytes]:
        """The status, the content type and the body of the answer to a request that is refused."""
        return failure.status, "text/plain", f"{failure.status}: {failure}\n".encode()

    def body_announced(self) -> None:
        """The request for `self.path` is about to bring its body."""

    def body_aborted(self, reason: str) -> None:
        """The body of the request for `self.path` did not come to its end, or is refused."""

    def route(self, head: Head) -> None:
        """Where there are peers: raise `Elsewhere` if the request is theirs to answer."""

    def hand_off(self) -> None:
        """Where there are peers: the connection rests, and we are about to end."""

    # -- what pywsgi calls, in its order

    def read_requestline(self) -> str:
        """Read the whole head; what is wrong with it is told by `read_request`."""
        self._failure = None
        self.remote_address = self.peer
        # The first request has to come soon; a connection that is kept alive may rest.
        patience = self.config.idle_timeout if self._served else self.config.header_timeout
        self._served += 1
        if not self._served % _BATCH_SIZE:
            gevent.sleep(0)  # gevent reads without a pause what is there already
        resting = self.server.resting
        moving = False
        if resting is not None:
            resting[self] = gevent.getcurrent()
        try:
            with gevent.Timeout(patience, False):
                if not self.rfile.peek(1):
                    return ""
                patience = 0
        except HandOffRequested:
            moving = True
        finally:
            if resting is not None:
                resting.pop(self, None)
        if moving:
            self.hand_off()  # which waits, and is not to be told again meanwhile
        if patience:
            return ""
        taken = take_head(self.rfile)
        if taken is not None:
            head, self._behind = taken
        else:
            self._behind = 0
            try:
                with gevent.Timeout(
                    self.config.header_timeout, BadRequest("a head too slow", "408 Request Timeout")
                ):
                    head = read_head(self.rfile)
            except BadRequest as failure:
                self._failure = failure
                return "* *"
        self._head = head
        return head.partition(b"\r\n")[0].decode("latin-1")

    def read_request(self, raw_requestline: str) -> bool:
        """Take the head, and read the body."""
        self.requestline = ""
        if self._failure is not None:
            raise self._failure
        self._parsed = head = parse_head(self._head, self._parsed)
        # For the access log, where a byte above ASCII may be a control character of a terminal.
        self.requestline = raw_requestline.encode("ascii", "backslashreplace").decode()
        self.command, self.path = head.method, head.target
        self.request_version = "HTTP/" + head.version
        self.close_connection = head.close
        self.headers = head.headers
        if self._fields[1] is not head.headers:
            self._fields = self._read_fields(head.headers), head.headers
        self.remote_address = self._fields[0]["REMOTE_ADDR"]
        if self.server.peers is not None:
            self.route(head)
        try:
            self._read_body(head)
            if head.suspicious and self.read_ahead():
                raise BadRequest("a request behind one that asked for an upgrade")
        except (BadRequest, OSError) as error:
            self._release_body()
            theirs = isinstance(error, BadRequest)
            theirs = theirs and not isinstance(error, (StorageFailure, Truncated))
            self.body_aborted("parse error" if theirs else "transport error")
            raise
        return True

    def read_ahead(self) -> bytes:
        """What the client sent behind its request, as far as it is there already."""
        self.socket.settimeout(0)
        try:
            return bytes(self.rfile.peek())
        except OSError:
            return b""  # reset meanwhile; whoever writes will find out
        finally:
            self.socket.settimeout(None)

    def get_environ(self) -> dict[str, Any]:
        """The request as WSGI has it (PEP 3333), made of a head that was parsed already.

        pywsgi would look through all headers once for each one that it wants.
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
            # Framing is the connection's business: what follows sees a body of known size.
            environ["CONTENT_LENGTH"] = str(self._body_size)
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ["wsgi.input"] = self._body
        environ["wsgi.input_terminated"] = True
        self.wsgi_input = _Nothing()
        return environ

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        """Answer what cannot be served; a client that has gone is not answered."""
        notices = self.server.notices
        if not isinstance(ex, BadRequest):
            if isinstance(ex, (OSError, ConnectionHandedOff)):
                return None
            notices.throttled(ex, "a request could not be read", logging.ERROR, logger, ex)
            ex = BadRequest("not readable")
        text = f"rejected a request of {self.remote_address}: {ex}"
        notices.throttled(ex, text, logging.INFO, logger)
        if isinstance(ex, StorageFailure):
            text = f"{self.requestline}: answered {ex.status}, {ex.report}"
            notices.throttled("body storage", text, logging.ERROR)
        status, content_type, body = self.explain(ex)
        answer = (
            f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        close_after(self.socket, answer.encode() + body)
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
        """Return the line of the access log, with the client's address instead of its proxy's."""
        peer, self.client_address = self.client_address, self.remote_address
        try:
            return str(super().format_request())
        finally:
            self.client_address = peer

    # -- how

    def _read_fields(self, headers: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Return what the environ has of the headers and of the client behind trusted proxies.

        Raises `BadRequest` if the host is not one of the allowed ones.
        """
        fields = _cgi_fields(headers)
        peer = self.peer
        fields[PEER_KEY] = fields["REMOTE_ADDR"] = peer
        config = self.config
        scheme = self.server.environ["wsgi.url_scheme"]
        if config.trusted_proxies:
            fields.update(config.proxies.client_fields(peer, fields, scheme))
        if fields["REMOTE_ADDR"] is peer and isinstance(self.client_address, tuple):
            fields["REMOTE_PORT"] = str(self.client_address[1])
        if config.allowed_hosts is not None:
            host = fields.get("HTTP_HOST", "")
            if not config.hosts.allows(host, fields.get("wsgi.url_scheme", scheme)):
                self.remote_address = fields["REMOTE_ADDR"]
                self.server.notices.throttled("host", explain_host(host, peer))
                raise BadRequest("this host is not served here")
        return fields

    def _hold(self, size: int) -> None:
        """Count bytes of the body until it is released; raises `BadRequest` if they are too many."""
        bodies = self.server.bodies
        if not bodies.take(size):
            self.server.notices.throttled(
                "bodies",
                f"rejected a request of {self.remote_address} with a body: all bodies together have "
                f"{bodies.limit} bytes (SOCKETIO_MAX_BODIES_SIZE)",
            )
            raise BadRequest("more bodies than the server can hold", "503 Service Unavailable")
        self._held_size += size

    def _release_body(self) -> None:
        with contextlib.suppress(OSError):  # it may be the file that could not be written
            self._body.close()
        self.server.bodies.give_back(self._held_size)
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
        if head.length is not None and head.length <= self._behind:
            self._body_size = head.length  # it is there: nothing to wait for
            self._body = io.BytesIO(self.rfile.read(head.length))
            return
        if head.expects:
            self._sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.length is None or head.length > _MAX_BODY_IN_MEMORY:
            self._body = tempfile.SpooledTemporaryFile(_MAX_BODY_IN_MEMORY)  # noqa: SIM115 - the request's
        patience = BodyTimeout(self.config.body_timeout)
        spool = Spool(self._body)

        def progress(size: int) -> None:
            self._hold(size)
            patience.progress(size)

        try:
            self._body_size = read_body(self.rfile, head.length, limit, spool, progress)
        finally:
            patience.close()
        spool.finish()
