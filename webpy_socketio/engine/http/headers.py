"""Headers of the application that the response to a handshake includes."""

from __future__ import annotations

from collections.abc import Iterable

from webpy_socketio.engine.engineio.origins import CORS_PREFIX

__all__ = ["select_headers"]

#: Headers of one connection, of a body that is not sent, or of the engine's own response.
_EXCLUDED = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"content-length", b"content-type", b"date"),
        *(b"content-encoding", b"content-range", b"content-disposition", b"content-language"),
        *(b"content-location", b"accept-ranges", b"etag", b"last-modified", b"expires"),
        *(b"cache-control", b"x-content-type-options"),
    )
)

#: Headers that the engine sets: CORS and the WebSocket handshake.
_EXCLUDED_PREFIXES = (CORS_PREFIX.encode(), b"sec-websocket-")


def select_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return the headers of the application that the response to a handshake includes."""
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if (lower := name.lower()) not in _EXCLUDED and not lower.startswith(_EXCLUDED_PREFIXES)
    ]
