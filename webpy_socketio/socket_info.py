"""Descriptions of sockets that can be sent to other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

import orjson

from webpy_socketio.engine.io import json
from webpy_socketio.exceptions import EncodeError

__all__ = ["Handshake", "SocketInfo", "describe", "read"]

#: Bytes of JSON of one socket's context. Values beyond it are left out.
MAX_CONTEXT = 64 * 1024


@dataclass(frozen=True)
class Handshake:
    """The request that opened a connection."""

    #: Address of the client, ``REMOTE_ADDR``.
    address: str
    #: Headers by name in lower case, such as ``"user-agent"``. Cookies are among them.
    headers: Mapping[str, str]
    #: Parameters of the query; of equal names the last.
    query: Mapping[str, str]
    #: Time of the handshake, in seconds since the epoch.
    time: float
    #: Whether the client used TLS, as far as the server and trusted proxies report it.
    secure: bool


@dataclass(frozen=True)
class SocketInfo:
    """A socket of any process at the time of `Target.sockets`."""

    #: Public id, ``socket.session.session_id``.
    id: str
    #: Name of the namespace.
    namespace: str
    #: Names of the subscribed channels.
    channels: tuple[str, ...]
    handshake: Handshake
    #: Transport, "polling" or "websocket".
    transport: str
    #: The values of the context that JSON can represent.
    context: Mapping[str, Any]
    #: Keys of the context whose values are left out: JSON cannot represent them, or they would
    #: exceed 64 KiB.
    omitted: tuple[str, ...] = ()

    @property
    def session_id(self) -> str:
        """The public id, so that `Target.except_` accepts the description."""
        return self.id


class _Socket(Protocol):
    request: dict[str, Any]
    context: dict[str, Any]

    @property
    def session_id(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def transport(self) -> str: ...


def describe(socket: _Socket, opened_at: float) -> dict[str, Any]:
    """Return the description of a socket as a value for JSON."""
    environ = socket.request
    context, omitted = _view(socket.context)
    return {
        "id": socket.session_id,
        "namespace": socket.namespace,
        "channels": list(socket.channels),
        "handshake": {
            "address": _text(environ.get("REMOTE_ADDR", "")),
            "headers": {
                name[5:].replace("_", "-").lower(): _text(value)
                for name, value in environ.items()
                if name.startswith("HTTP_") and isinstance(value, str)
            },
            "query": {
                _text(name): _text(value)
                for name, value in parse_qsl(environ.get("QUERY_STRING", ""), True)
            },
            "time": opened_at,
            "secure": environ.get("wsgi.url_scheme") == "https",
        },
        "transport": socket.transport,
        "context": context,
        "omitted": omitted,
    }


def read(value: dict[str, Any]) -> SocketInfo:
    """Return the description that `describe` made."""
    return SocketInfo(
        value["id"],
        value["namespace"],
        tuple(value["channels"]),
        Handshake(**value["handshake"]),
        value["transport"],
        value["context"],
        tuple(value["omitted"]),
    )


def _view(context: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return copies of the values that JSON can represent, and the keys of the others."""
    view: dict[str, Any] = {}
    omitted: list[str] = []
    size = 0
    for key, value in list(context.items()):
        try:
            if not isinstance(key, str):
                raise EncodeError("the key is not text")
            encoded = json.dumps([key, value])
            if size + len(encoded) > MAX_CONTEXT:
                raise EncodeError("too large")
        except EncodeError:
            omitted.append(_text(str(key))[:100])
        else:
            size += len(encoded)
            view[key] = orjson.loads(encoded)[1]
    return view, omitted


def _text(value: str) -> str:
    """Replace lone surrogates, which JSON cannot represent."""
    return value.encode("utf-8", "replace").decode()
