"""The WebSocket handshake (RFC 6455 §4.2), checked by the `websockets` library.

The HTTP server has already parsed the request, so the library gets the relevant headers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from webpy_socketio.exceptions import ProtocolError

__all__ = ["check"]


def _select_first(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    # Browsers fail a connection if none of their subprotocols is selected (RFC 6455 §4.1). Some
    # applications pass a token as subprotocol, because browsers cannot set other headers. Node's
    # `ws` also selects the first one.
    return offered[0] if offered else None


#: Shared by all handshakes: `accept` does not change its state.
_negotiator = ServerProtocol(select_subprotocol=_select_first)

_HEADERS = {
    "HTTP_" + name.upper().replace("-", "_"): name
    for name in (
        "Connection",
        "Upgrade",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
    )
}


def check(environ: dict[str, Any]) -> Response:
    """Check a handshake and return the response to it.

    The first of the offered subprotocols is selected. Extensions are not negotiated: with
    compression, the size of a message is unknown until it is decompressed.

    Returns:
        A response with ``status_code`` 101, or one that rejects the handshake.

    Raises:
        ProtocolError: The request is not valid HTTP/1.1.
    """
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        raise ProtocolError("WebSocket handshake requires HTTP/1.1")
    headers = Headers()
    for key, name in _HEADERS.items():
        value = environ.get(key)
        if value is not None:
            if not value.isprintable():
                raise ProtocolError("WebSocket handshake has an invalid header")
            headers[name] = value
    return _negotiator.accept(Request("/", headers))
