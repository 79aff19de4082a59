"""The WebSocket handshake (RFC 6455, 4.2): checked by the `websockets` library, answered by us.

The library would like to read it from the wire. The server has read it already, so it is given the
headers that matter.
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
    # Browsers fail a connection whose subprotocols are all declined (RFC 6455, 4.1). Some
    # applications pass a token this way, as browsers cannot set other headers. Node's `ws` selects
    # the first one too.
    return offered[0] if offered else None


#: Checks handshakes. It is nobody's connection, so it never changes.
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
    """The answer to a handshake: a refusal, unless its ``status_code`` is 101.

    What the library does not see it cannot negotiate: no extension is ever accepted, as compression
    would hide the size of a message until it is unpacked. Of the subprotocols that the client
    offers, the first one is accepted. Raises `ProtocolError` for what is not HTTP/1.1.
    """
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        raise ProtocolError("a handshake that is not HTTP/1.1")
    headers = Headers()
    for key, name in _HEADERS.items():
        value = environ.get(key)
        if value is not None:
            if not value.isprintable():
                raise ProtocolError("a header that is not HTTP")
            headers[name] = value
    return _negotiator.accept(Request("/", headers))
