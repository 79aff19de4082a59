"""Headers that the application sets on a handshake, and which of them its response passes on."""

from __future__ import annotations

from collections.abc import Iterable

from webpy_socketio.engine.engineio.origins import CORS_PREFIX

__all__ = ["select_headers"]

#: What belongs to one connection, to a body that is not sent, or to the engine's own response.
_OWN = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"content-length", b"content-type", b"date"),
        *(b"content-encoding", b"content-range", b"content-disposition", b"content-language"),
        *(b"content-location", b"accept-ranges", b"etag", b"last-modified", b"expires"),
        *(b"cache-control", b"x-content-type-options"),
    )
)

#: Decided by the engine: which origins may connect, and the WebSocket handshake.
_OWN_PREFIXES = (CORS_PREFIX.encode(), b"sec-websocket-")


def select_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return the headers of the application's response that the handshake's response passes on."""
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if (lower := name.lower()) not in _OWN and not lower.startswith(_OWN_PREFIXES)
    ]
