"""The packets that a client does not have in common with the server: CONNECT and CONNECT_ERROR."""

from __future__ import annotations

import json
from typing import Any

from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import CONNECT, CONNECT_ERROR
from webpy_socketio.engine.socketio.parser import Parser

__all__ = ["encode_connect", "read_connect_error"]


def encode_connect(parser: Parser, namespace: str, auth: dict[str, Any] | None) -> Message:
    """Encode the CONNECT of a client."""
    if parser.BINARY:
        import msgpack

        packet: dict[str, Any] = {"type": CONNECT, "nsp": namespace}
        if auth is not None:
            packet["data"] = auth
        return Message(None, [msgpack.packb(packet)])
    data = "" if auth is None else json.dumps(auth)
    return Message(f"4{CONNECT}{_prefix(namespace)}{data}".encode())


def read_connect_error(parser: Parser, namespace: str, data: str | bytes) -> dict[str, Any] | None:
    """Return the payload of a CONNECT_ERROR for a namespace, or None for another message."""
    payload: dict[str, Any] | None = None
    if isinstance(data, str):
        start = f"{CONNECT_ERROR}{_prefix(namespace)}"
        if data.startswith(start):
            payload = json.loads(data[len(start) :])
    elif parser.BINARY:
        import msgpack

        packet = msgpack.unpackb(data)
        if packet["type"] == CONNECT_ERROR and packet["nsp"] == namespace:
            payload = packet["data"]
    return payload


def _prefix(namespace: str) -> str:
    return "" if namespace == "/" else f"{namespace},"
