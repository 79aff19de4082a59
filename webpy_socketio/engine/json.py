"""Strict JSON, both ways: what one side may send, the other can read.

JSON has no NaN and no Infinity, UTF-8 no lone surrogates, and a nest of brackets is a cheap way to
hurt whoever walks it; orjson refuses most of this by itself, the rest is refused here.
"""

from __future__ import annotations

import gc
import math
from enum import Enum
from typing import Any

import orjson

from webpy_socketio.exceptions import EncodeError, ProtocolError

__all__ = ["MAX_DEPTH", "dumps", "loads"]

#: Levels of nesting accepted from a client. orjson reads 1,024 but writes only 254: without a bound
#: of our own, a message could be received that no handler would be able to pass on.
MAX_DEPTH = 128

#: Lists and dicts in a text from which on Python's garbage collector rests while it is read. It would
#: run hundreds of times over what is being made, and several times over all that the process holds
#: (measured: 75 ms instead of 20 for a megabyte of lists, with nothing else in the process), while
#: everybody waits; and what JSON makes has no cycles.
_MANY = 10_000

#: What orjson writes.
_WRITABLE_DEPTH = 254


def loads(text: str) -> Any:
    """Decode what a client sent; raise `ProtocolError` if it is not strict JSON."""
    brackets = text.count("[") + text.count("{")
    collecting = brackets > _MANY and gc.isenabled()
    if collecting:
        gc.disable()
    try:
        value = orjson.loads(text)
    except ValueError as error:
        raise ProtocolError(f"malformed JSON: {error}") from None
    finally:
        if collecting:
            gc.enable()
    # Counting brackets is cheap, and nearly always enough. To see how deep they go is left to
    # orjson, which gives up at a depth of its own, in a hundredth of the time that walking takes.
    if brackets > MAX_DEPTH:
        nested = value
        for _ in range(_WRITABLE_DEPTH - MAX_DEPTH):
            nested = [nested]
        try:
            orjson.dumps(nested)
        except TypeError:
            raise ProtocolError(f"JSON nested deeper than {MAX_DEPTH} levels") from None
    return value


def dumps(value: Any, attachments: list[bytes] | None = None) -> bytes:
    """Encode a value; bytes are moved to `attachments` and leave a placeholder behind.

    Raises `EncodeError` at whoever wants to send what JSON cannot hold, before anything is sent.
    """

    def default(unknown: Any) -> Any:
        if attachments is not None and isinstance(unknown, (bytes, bytearray, memoryview)):
            attachments.append(bytes(unknown))
            return {"_placeholder": True, "num": len(attachments) - 1}
        raise TypeError(f"{type(unknown).__name__} is not a type that JSON can hold")

    try:
        text = orjson.dumps(value, default)
    except TypeError as error:
        if "Dict key must be str" not in str(error):
            raise EncodeError(_explain(error)) from None
        if attachments:
            attachments.clear()
        try:
            text = orjson.dumps(value, default, orjson.OPT_NON_STR_KEYS)
        except TypeError as again:
            raise EncodeError(_explain(again)) from None
    # orjson writes NaN and the infinities as null, which would reach the client as a lie.
    if b"null" in text and _has_unreal_number(value):
        raise EncodeError(
            "cannot send NaN or Infinity: JSON has no such numbers; send None or text"
        )
    # Only in a binary packet is a placeholder read as one; a look-alike in it would be swapped for
    # somebody else's attachment (Socket.IO protocol, "Sample encoding: binary event").
    if attachments and text.count(b'"_placeholder":true') != len(attachments):
        raise EncodeError('cannot send a dict with "_placeholder" together with bytes')
    return text


def _explain(error: TypeError) -> str:
    cause = error.__cause__
    return f"cannot send this value: {cause if isinstance(cause, TypeError) else error}"


def _has_unreal_number(value: Any) -> bool:
    stack = [value]
    while stack:
        current = stack.pop()
        if isinstance(current, float):
            if not math.isfinite(current):
                return True
        elif isinstance(current, dict):
            stack.extend(current.values())
            stack.extend(key for key in current if isinstance(key, float))
        elif isinstance(current, (list, tuple)):
            stack.extend(current)
        elif isinstance(current, Enum):  # orjson encodes these by itself, and dataclasses
            stack.append(current.value)
        elif hasattr(current, "__dataclass_fields__"):
            stack.extend(getattr(current, name, None) for name in current.__dataclass_fields__)
    return False
