"""The WebSocket handshake (RFC 6455 §4.2).

Handshakes as browsers and the usual clients send them are answered directly. All others are checked
by the `websockets` library, which gets the relevant headers only, as the HTTP server has already
parsed the request (measured: 3 µs here, 40 µs there, of the 300 µs of a connection).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from webpy_socketio.engine.engineio.compression import DeflateFactory
from webpy_socketio.engine.io.dates import http_date
from webpy_socketio.exceptions import ProtocolError

__all__ = ["Accepted", "check", "is_requested"]


class Accepted(NamedTuple):
    """The response that accepts a handshake."""

    #: Status line and headers, encoded, without the empty line at the end.
    head: bytes
    #: Whether permessage-deflate was negotiated.
    compressed: bool


def _select_first(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    # Browsers fail a connection if none of their subprotocols is selected (RFC 6455 §4.1). Some
    # applications pass a token as subprotocol, because browsers cannot set other headers. Node's
    # `ws` also selects the first one.
    return offered[0] if offered else None


#: Shared by all handshakes: `accept` does not change their state.
_negotiator = ServerProtocol(select_subprotocol=_select_first)
_deflate_negotiator = ServerProtocol(
    select_subprotocol=_select_first, extensions=[DeflateFactory()]
)

#: Characters of the longest ``Sec-WebSocket-Extensions`` that is read. Longer ones are declined:
#: parsing 60,000 characters takes 70 ms.
_MAX_OFFERS = 1024

_HEADERS = {
    "HTTP_" + name.upper().replace("-", "_"): name
    for name in (
        "Connection",
        "Upgrade",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
    )
}


#: Values of headers in plain handshakes, and the pattern of a key: 16 bytes in base64.
_CONNECTIONS = frozenset(("Upgrade", "upgrade", "keep-alive, Upgrade"))  # the last: Firefox
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

#: Appended to the key (RFC 6455 §4.2.2).
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def _answer_plain(environ: dict[str, Any], compression: bool) -> bytes | None:
    """Return the head of the response to a plain handshake; None if the library must check it."""
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "")
    if (
        environ.get("HTTP_CONNECTION") not in _CONNECTIONS
        or environ.get("HTTP_UPGRADE") != "websocket"
        or environ.get("HTTP_SEC_WEBSOCKET_VERSION") != "13"
        or _KEY.fullmatch(key) is None
        or "HTTP_SEC_WEBSOCKET_PROTOCOL" in environ
    ):
        return None
    offers = environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS")
    if offers is not None and (compression or not offers.isprintable()):
        return None
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nDate: %b\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"
        % (http_date(), binascii.b2a_base64(digest, newline=False))
    )


def is_requested(environ: dict[str, Any]) -> bool:
    """Return whether a request is a WebSocket handshake, valid or not."""
    return "websocket" in environ.get("HTTP_UPGRADE", "").lower()


def check(environ: dict[str, Any], compression: bool = False) -> Accepted | Response:
    """Check a handshake and return the response to it.

    The first of the offered subprotocols is selected.

    Args:
        environ: The WSGI environ of the request.
        compression: Whether permessage-deflate may be negotiated; the response then has the header
            ``Sec-WebSocket-Extensions`` if the client offers it acceptably.

    Returns:
        An `Accepted`, or the response that rejects the handshake.

    Raises:
        ProtocolError: The request is not valid HTTP/1.1.
    """
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        raise ProtocolError("WebSocket handshake requires HTTP/1.1")
    head = _answer_plain(environ, compression)
    if head is not None:
        return Accepted(head, False)
    headers = Headers()
    for key, name in _HEADERS.items():
        value = environ.get(key)
        if value is not None:
            if not value.isprintable():
                raise ProtocolError("WebSocket handshake has an invalid header")
            headers[name] = value
    offers = headers.get("Sec-WebSocket-Extensions", "")
    negotiator = _deflate_negotiator if compression and len(offers) <= _MAX_OFFERS else _negotiator
    answer = negotiator.accept(Request("/", headers))
    if answer.status_code != 101:
        return answer
    return Accepted(answer.serialize()[:-2], "Sec-WebSocket-Extensions" in answer.headers)
