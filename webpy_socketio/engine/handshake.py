"""The WebSocket handshake (RFC 6455, 4.2): checked by the `websockets` library, answered by us.

The library would like to read it from the wire. The server has read it already, so it is given the
headers that matter.
"""

from __future__ import annotations

from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from webpy_socketio.exceptions import ProtocolError

__all__ = ["check"]

#: Checks handshakes. It is nobody's connection, so it never changes.
_negotiator = ServerProtocol()

_HEADERS = {
    "HTTP_" + name.upper().replace("-", "_"): name
    for name in ("Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
}


def check(environ: dict[str, Any]) -> Response:
    """The answer to a handshake: a refusal, unless its ``status_code`` is 101.

    What the library does not see it cannot negotiate: no extension is ever accepted, as compression
    would hide the size of a message until it is unpacked. Raises `ProtocolError` for what is not
    HTTP/1.1.
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
