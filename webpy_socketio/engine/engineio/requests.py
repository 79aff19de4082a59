"""Engine.IO requests and responses: query string, POST body, and error responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from webpy_socketio.engine.io import json
from webpy_socketio.exceptions import MessageTooBig, ProtocolError

__all__ = [
    "QUERY_TOO_LONG",
    "Query",
    "RequestError",
    "Response",
    "check_encoding",
    "read_post_body",
    "read_query",
]

#: Maximum length of a query string in characters.
_MAX_QUERY = 4096

#: All transports. SOCKETIO_TRANSPORTS may allow one of them only.
_TRANSPORTS = ("polling", "websocket")


@dataclass(frozen=True)
class Response:
    """An HTTP response with its complete body."""

    status: str
    body: bytes = b""
    content_type: str = "text/plain; charset=UTF-8"
    headers: Sequence[tuple[str, str]] = ()
    #: Whether the connection is closed after the response.
    close: bool = False

    def all_headers(self) -> list[tuple[str, str]]:
        """Return all headers except ``Connection`` and ``Date``, which the HTTP server adds."""
        return [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *self.headers,
        ]


class Query(NamedTuple):
    """The parameters of an Engine.IO request (protocol v4, "HTTP long-polling")."""

    transport: str
    sid: str | None
    #: Whether binary messages are sent as base64 on a WebSocket as well (``forceBase64``).
    base64: bool = False


class RequestError(Exception):
    """An invalid Engine.IO request, with the response that rejects it.

    The response never contains text of the request.

    Args:
        code: Error code of the reference implementation, reported by clients.
        message: Reason sent to the client.
        status: HTTP status.
        close: Whether the connection is closed after the response.
        hint: Line for the log, or None. It may contain text of the request.
        expected: Whether the error also occurs in normal operation; it is then logged as INFO.
    """

    def __init__(
        self,
        code: int,
        message: str,
        status: str = "400 Bad Request",
        close: bool = False,
        hint: str | None = None,
        expected: bool = False,
    ) -> None:
        super().__init__(message)
        self.expected = expected
        self.hint = hint
        body = json.dumps({"code": code, "message": message})
        self.response = Response(status, body, "application/json", close=close)


_TOO_LONG = "Bad request: the query is too long"

#: The response to a query that exceeds the length limit of the HTTP parser.
QUERY_TOO_LONG = RequestError(3, _TOO_LONG, close=True).response


def read_query(environ: dict[str, Any], transports: Sequence[str]) -> Query:
    """Parse and check the query string.

    Args:
        environ: The WSGI environ of the request.
        transports: The transports that clients may use.

    Raises:
        RequestError: A parameter is missing, repeated or not supported.
    """
    text = environ.get("QUERY_STRING", "")
    if len(text) > _MAX_QUERY:
        raise RequestError(3, _TOO_LONG)
    found: dict[str, str] = {}
    for name, value in _split(text):
        if name in ("EIO", "transport", "sid", "j", "b64"):
            if name in found:
                raise RequestError(3, "Bad request: a parameter is repeated")
            found[name] = value
    version = found.get("EIO")
    if version != "4":
        if version in ("1", "2", "3"):
            raise RequestError(
                5,
                "Unsupported protocol version: this server supports Engine.IO protocol 4; "
                "use socket.io-client 3 or 4",
                hint=f"rejected a client with Engine.IO protocol {version} (supported: 4): load "
                "socket.io-client 3 or 4, as socketio_scripts() does; in Python, python-socketio 5",
            )
        raise RequestError(
            5,
            "Unsupported protocol version: EIO=4 is required",
            hint="rejected a request without Engine.IO protocol version (no EIO=4 in the query): a "
            "plain WebSocket or fetch() is not supported; use socket.io-client 4, as "
            "socketio_scripts() does",
        )
    if "j" in found:
        raise RequestError(3, "JSONP is not supported; use socket.io-client 4 with CORS")
    transport = found.get("transport")
    if transport is None or transport not in transports:
        raise RequestError(0, "Transport unknown", hint=_explain_transport(transport, transports))
    # As in Node, any value enables base64, even "0".
    return Query(transport, found.get("sid"), bool(found.get("b64")))


def _explain_transport(transport: str | None, transports: Sequence[str]) -> str | None:
    if transport not in _TRANSPORTS:
        return None
    return (
        f"rejected transport {transport}, which SOCKETIO_TRANSPORTS does not allow: add it there, "
        f"or configure the client: io({{transports: {list(transports)}}})"
    )


def _split(query: str) -> list[tuple[str, str]]:
    if "%" in query or "+" in query:
        return parse_qsl(query, keep_blank_values=True)
    pairs = [pair.partition("=") for pair in query.split("&")]
    return [(name, value) for name, _, value in pairs]


def check_encoding(environ: dict[str, Any]) -> None:
    """Check that the body of a POST is not compressed, as its size would then be unknown.

    Raises:
        RequestError: The request has a ``Content-Encoding`` (RFC 9110 §15.5.16).
    """
    if environ.get("HTTP_CONTENT_ENCODING", "").strip(" \t").lower() not in ("", "identity"):
        raise RequestError(
            3,
            "Content-Encoding is not supported: send packets uncompressed",
            "415 Unsupported Media Type",
            True,
        )


def read_post_body(environ: dict[str, Any], max_size: int) -> bytes:
    """Read the body of a POST.

    Args:
        environ: The WSGI environ of the request.
        max_size: Maximum size in bytes; at most one byte more is read.

    Raises:
        MessageTooBig: The body exceeds `max_size`.
        ProtocolError: ``Content-Length`` is malformed.
    """
    declared = environ.get("CONTENT_LENGTH")
    if declared is not None and declared != "":
        # Digits only: int() also accepts "+5", "1_0" and spaces.
        if not (declared.isascii() and declared.isdigit()):
            raise ProtocolError("Content-Length is not a number")
        if len(declared) > 15 or int(declared) > max_size:
            raise MessageTooBig(f"body exceeds {max_size} bytes")
    body: bytes = environ["wsgi.input"].read(max_size + 1)
    if len(body) > max_size:
        raise MessageTooBig(f"body exceeds {max_size} bytes")
    return body
