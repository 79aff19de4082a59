"""What an admin is shown of a socket or an event: enough to know it by, no secrets, never much."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qsl

from webpy_socketio import Socket

__all__ = ["client_of", "describe_event", "describe_socket", "now"]

#: Under this key of the handshake's environ is what the plugin knows of the client.
_CLIENT = "webpy_socketio.admin"

HIDDEN = "(hidden)"

#: Headers that are shown. A list of those to hide would not have the next proxy's.
_HEADERS = (
    *("ACCEPT_ENCODING", "ACCEPT_LANGUAGE", "CONNECTION", "FORWARDED", "HOST", "ORIGIN"),
    *("SEC_WEBSOCKET_EXTENSIONS", "SEC_WEBSOCKET_VERSION", "UPGRADE", "USER_AGENT", "VIA"),
    *("X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_FORWARDED_PROTO", "X_REAL_IP"),
)

#: The same for the query, of whose other parameters only the names are.
_QUERY = ("EIO", "transport")

#: Names in a message, and of events, whose values are not shown.
_SECRET = re.compile(
    r"pass(word|wd|phrase|code)|secret|token|cookie|session|credential|(api|private).?key|csrf|jwt"
    r"|\bauth\b|authori[sz]|authenti",
    re.IGNORECASE,
)

#: Characters of a value, values and characters of an event, and how deep.
_MAX_TEXT, _MAX_VALUES, _MAX_CHARACTERS, _MAX_DEPTH = 200, 100, 2000, 6


@dataclass(frozen=True)
class Client:
    """A client: the sockets of one session, one for each namespace, are the same one's."""

    #: A name for it. (The reference shows a part of its secret session id.)
    label: str = field(default_factory=lambda: secrets.token_hex(6))
    #: Seconds since the epoch.
    since: float = field(default_factory=time.time)


def client_of(request: dict[str, Any]) -> Client:
    """Who sent a handshake; known from the first call on."""
    client = request.get(_CLIENT)
    if not isinstance(client, Client):
        client = request[_CLIENT] = Client()
    return client


def now() -> str:
    """A timestamp, as JavaScript writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe_socket(socket: Socket) -> dict[str, Any]:
    """A socket as the UI wants it; neither its context nor its auth is in it."""
    request = socket.request
    client = client_of(request)
    return {
        "id": socket.session_id,
        "clientId": client.label,
        "transport": socket.transport,
        "nsp": socket.namespace,
        "data": {},
        "handshake": {
            "address": request.get("REMOTE_ADDR", "-"),
            "headers": {
                name.replace("_", "-").lower(): _cut(request["HTTP_" + name])
                for name in _HEADERS
                if "HTTP_" + name in request
            },
            "query": {
                _cut(name): _cut(value) if name in _QUERY else HIDDEN
                for name, value in _query(request.get("QUERY_STRING", ""))
            },
            "issued": round(client.since * 1000),
            "secure": request.get("wsgi.url_scheme") == "https",
            "time": time.ctime(client.since),
            "url": _cut(request.get("PATH_INFO", "")),
            "xdomain": "HTTP_ORIGIN" in request,
        },
        "rooms": list(socket.channels),
    }


def describe_event(event: str, args: Sequence[Any]) -> list[Any]:
    """An event's name and its arguments; cut, and without what is called like a secret."""
    if _SECRET.search(event):
        return [_cut(event), *[HIDDEN] * min(len(args), 10)]
    return [_cut(event), *_Sketch().items(args, 0)]


class _Sketch:
    """A copy of a value that may be large, as long as there is room."""

    def __init__(self) -> None:
        self._values = _MAX_VALUES
        self._characters = _MAX_CHARACTERS

    def value(self, value: Any, depth: int) -> Any:
        self._values -= 1
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, (bytes, bytearray, memoryview)):
            return f"({len(value)} bytes)"
        if depth >= _MAX_DEPTH:
            return "..."
        if isinstance(value, dict):
            return self._entries(value, depth + 1)
        return self.items(value, depth + 1)

    def items(self, values: Sequence[Any], depth: int) -> list[Any]:
        copies: list[Any] = []
        for value in values:
            if self._full:
                copies.append(f"... ({len(values) - len(copies)} more)")
                break
            copies.append(self.value(value, depth))
        return copies

    def _entries(self, value: dict[str, Any], depth: int) -> Any:
        if value.get("_placeholder") is True:
            return "(bytes)"
        copy: dict[str, Any] = {}
        for key, item in value.items():
            if self._full:
                copy["..."] = f"{len(value) - len(copy)} more"
                break
            copy[self._text(key)] = HIDDEN if _SECRET.search(key) else self.value(item, depth)
        return copy

    @property
    def _full(self) -> bool:
        return self._values <= 0 or self._characters <= 0

    def _text(self, text: str) -> str:
        text = _cut(text, min(_MAX_TEXT, max(0, self._characters)))
        self._characters -= len(text)
        return text


def _cut(text: str, length: int = _MAX_TEXT) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


def _query(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text[:2000], keep_blank_values=True)[:20]
