"""Send the reason and data of a `Refused` to the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from webpy_socketio.engine.io import json
from webpy_socketio.exceptions import EncodeError, Refused
from webpy_socketio.socket import Socket

__all__ = ["error_object", "send_refusal"]


def error_object(reason: str, data: Any) -> dict[str, Any]:
    """Return the object that a client receives for a rejection."""
    return {"error": reason} if data is None else {"error": reason, "data": data}


def send_refusal(socket: Socket, refusal: Refused, send_reason: Callable[[str, Any], None]) -> None:
    """Send reason and data of a rejection, or a generic reason if they cannot be encoded."""
    data = None if refusal.data is None else _encodable_data(socket, refusal)
    try:
        send_reason(str(refusal) or "refused", data)
    except Exception as error:  # noqa: BLE001 - str() of it may raise anything
        _report(
            socket,
            refusal,
            'the text of a Refused cannot be sent to the client, which receives "refused": '
            f"{error}; the traceback above shows where it was raised: use a short text",
        )
        send_reason("refused", None)


def _encodable_data(socket: Socket, refusal: Refused) -> Any:
    """Return the data of a rejection, or None after reporting that it cannot be sent."""
    try:
        size = len(json.dumps(refusal.data))  # without bytes: a CONNECT_ERROR has no attachments
        if size > socket._limits.outbox_bytes:
            raise EncodeError(f"{size} bytes exceed the client's outbox (SOCKETIO_OUTBOX_BYTES)")
    except Exception as error:  # noqa: BLE001 - encoding may raise anything
        _report(
            socket,
            refusal,
            "the data of a Refused cannot be sent to the client, which receives the text only: "
            f"{error}; the traceback above shows where it was raised: use JSON types without "
            "bytes, or send less",
        )
        return None
    return refusal.data


def _report(socket: Socket, refusal: Refused, text: str) -> None:
    error = EncodeError(text)
    error.__cause__ = refusal  # its traceback shows the raising line
    socket._signals.report_error(socket, error, "sending a refusal")
