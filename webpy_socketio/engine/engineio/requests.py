"""HTTP on its way in and out: what a request asks of Engine.IO, and how it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from webpy_socketio.engine.io import json
from webpy_socketio.exceptions import MessageTooBig, ProtocolError

__all__ = ["QUERY_TOO_LONG", "Query", "RequestError", "Response", "read_body", "read_query"]

#: A query longer than this is no client's of ours.
_MAX_QUERY = 4096

#: What there is; a server may be told to do with less.
_TRANSPORTS = ("polling", "websocket")


@dataclass(frozen=True)
class Response:
    """A whole HTTP response."""

    status: str
    body: bytes = b""
    content_type: str = "text/plain; charset=UTF-8"
    headers: Sequence[tuple[str, str]] = ()
    #: Whether the connection ends with it.
    close: bool = False

    def all_headers(self) -> list[tuple[str, str]]:
        """All headers that are the response's own, and not the connection's."""
        return [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *self.headers,
        ]


class Query(NamedTuple):
    """What the query string of an Engine.IO request says (protocol v4, "HTTP long-polling")."""

    transport: str
    sid: str | None
    #: Whether the client receives bytes as base64 text on a WebSocket too (``forceBase64``).
    base64: bool = False


class RequestError(Exception):
    """The request is not one of Engine.IO's; `response` says why, and reflects nothing of it.

    The codes in it are those of the reference implementation, which clients show as they are.
    """

    def __init__(
        self,
        code: int,
        message: str,
        status: str = "400 Bad Request",
        close: bool = False,
        hint: str | None = None,
        usual: bool = False,
    ) -> None:
        super().__init__(message)
        #: Whether it happens where nothing is wrong, too.
        self.usual = usual
        #: What the log is to say, for whoever runs the server; it may name what the client sent.
        self.hint = hint
        body = json.dumps({"code": code, "message": message})
        self.response = Response(status, body, "application/json", close=close)


_TOO_LONG = "Bad request: the query is too long"

#: The answer to a query that is too long even for HTTP.
QUERY_TOO_LONG = RequestError(3, _TOO_LONG, close=True).response


def read_query(environ: dict[str, Any], transports: Sequence[str]) -> Query:
    """Read and check the query string; raise `RequestError` if it is not acceptable."""
    text = environ.get("QUERY_STRING", "")
    if len(text) > _MAX_QUERY:
        raise RequestError(3, _TOO_LONG)
    found: dict[str, str] = {}
    for name, value in _split(text):
        if name in ("EIO", "transport", "sid", "j", "b64"):
            if name in found:
                raise RequestError(3, "Bad request: a parameter is given twice")
            found[name] = value
    version = found.get("EIO")
    if version != "4":
        if version in ("1", "2", "3"):
            raise RequestError(
                5,
                "Unsupported protocol version: this server speaks Engine.IO protocol 4; "
                "use socket.io-client 3 or 4",
                hint=f"an old client asked for Engine.IO protocol {version}, and 4 is spoken here: load "
                "socket.io-client 3 or 4, as socketio_scripts() does; in Python, python-socketio 5",
            )
        raise RequestError(
            5,
            "Unsupported protocol version: EIO=4 is required",
            hint="a client asked for no Engine.IO protocol (no EIO=4 in the query): a plain WebSocket or "
            "fetch() cannot talk to this server; use socket.io-client 4, as socketio_scripts() does",
        )
    if "j" in found:
        raise RequestError(3, "JSONP is not spoken here; use socket.io-client 4 with CORS")
    transport = found.get("transport")
    if transport is None or transport not in transports:
        raise RequestError(0, "Transport unknown", hint=_explain_transport(transport, transports))
    # Any value counts, "0" too: so does Node.
    return Query(transport, found.get("sid"), bool(found.get("b64")))


def _explain_transport(transport: str | None, transports: Sequence[str]) -> str | None:
    if transport not in _TRANSPORTS:
        return None
    return (
        f"a client asked for the transport {transport}, which SOCKETIO_TRANSPORTS leaves out: tell it, "
        f"io({{transports: {list(transports)}}})"
    )


def _split(query: str) -> list[tuple[str, str]]:
    if "%" in query or "+" in query:
        return parse_qsl(query, keep_blank_values=True)
    pairs = [pair.partition("=") for pair in query.split("&")]
    return [(name, value) for name, _, value in pairs]


def read_body(environ: dict[str, Any], max_size: int) -> bytes:
    """Read a POST's body, which a limit bounds; raise `MessageTooBig` before reading too much."""
    declared = environ.get("CONTENT_LENGTH")
    if declared is not None and declared != "":
        # Digits only: int() would take "+5", "1_0" and spaces.
        if not (declared.isascii() and declared.isdigit()):
            raise ProtocolError("a Content-Length that is not a number")
        if len(declared) > 15 or int(declared) > max_size:
            raise MessageTooBig(f"a body above {max_size} bytes")
    body: bytes = environ["wsgi.input"].read(max_size + 1)
    if len(body) > max_size:
        raise MessageTooBig(f"a body above {max_size} bytes")
    return body
