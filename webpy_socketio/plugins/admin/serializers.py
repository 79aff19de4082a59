"""Serialization of sockets and events for admins, with limits and without secrets."""

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

#: Key in the handshake's environ under which the plugin stores its `Client`.
_CLIENT = "webpy_socketio.admin"

HIDDEN = "(hidden)"

#: Headers shown to admins. An allowlist, as proxies may add other headers with secrets.
_HEADERS = (
    *("ACCEPT_ENCODING", "ACCEPT_LANGUAGE", "CONNECTION", "FORWARDED", "HOST", "ORIGIN"),
    *("SEC_WEBSOCKET_EXTENSIONS", "SEC_WEBSOCKET_VERSION", "UPGRADE", "USER_AGENT", "VIA"),
    *("X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_FORWARDED_PROTO", "X_REAL_IP"),
)

#: Query parameters whose values are shown; of others only the names.
_QUERY = ("EIO", "transport")

#: Names of events and keys whose values are hidden.
_SECRET = re.compile(
    r"pass(word|wd|phrase|code)|secret|token|cookie|session|credential|(api|private).?key|csrf|jwt"
    r"|\bauth\b|authori[sz]|authenti",
    re.IGNORECASE,
)

#: Limits: characters of a value; values and characters of an event; nesting depth.
_MAX_TEXT, _MAX_VALUES, _MAX_CHARACTERS, _MAX_DEPTH = 200, 100, 2000, 6


@dataclass(frozen=True)
class Client:
    """An Engine.IO session, shared by its sockets in several namespaces."""

    #: Random name. (The reference server shows part of the secret session id.)
    label: str = field(default_factory=lambda: secrets.token_hex(6))
    #: Time of the connection, in seconds since the epoch.
    connected_at: float = field(default_factory=time.time)


def client_of(request: dict[str, Any]) -> Client:
    """Return the client that sent a handshake; created by the first call."""
    client = request.get(_CLIENT)
    if not isinstance(client, Client):
        client = request[_CLIENT] = Client()
    return client


def now() -> str:
    """Return the current time in the format of JavaScript's ``toISOString()``."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe_socket(socket: Socket) -> dict[str, Any]:
    """Return the UI's representation of a socket, without its context and auth."""
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
            "issued": round(client.connected_at * 1000),
            "secure": request.get("wsgi.url_scheme") == "https",
            "time": time.ctime(client.connected_at),
            "url": _cut(request.get("PATH_INFO", "")),
            "xdomain": "HTTP_ORIGIN" in request,
        },
        "rooms": list(socket.channels),
    }


def describe_event(event: str, args: Sequence[Any]) -> list[Any]:
    """Return an event's name and arguments, shortened and without secrets."""
    if _SECRET.search(event):
        return [_cut(event), *[HIDDEN] * min(len(args), 10)]
    return [_cut(event), *_Copier().items(args, 0)]


class _Copier:
    """Copies a value until the limits are reached."""

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
            if self._is_full:
                copies.append(f"... ({len(values) - len(copies)} more)")
                break
            copies.append(self.value(value, depth))
        return copies

    def _entries(self, value: dict[str, Any], depth: int) -> Any:
        if value.get("_placeholder") is True:
            return "(bytes)"
        copy: dict[str, Any] = {}
        for key, item in value.items():
            if self._is_full:
                copy["..."] = f"{len(value) - len(copy)} more"
                break
            copy[self._text(key)] = HIDDEN if _SECRET.search(key) else self.value(item, depth)
        return copy

    @property
    def _is_full(self) -> bool:
        return self._values <= 0 or self._characters <= 0

    def _text(self, text: str) -> str:
        text = _cut(text, min(_MAX_TEXT, max(0, self._characters)))
        self._characters -= len(text)
        return text


def _cut(text: str, length: int = _MAX_TEXT) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


def _query(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text[:2000], keep_blank_values=True)[:20]
