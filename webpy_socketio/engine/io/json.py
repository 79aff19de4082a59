"""Strict JSON: values that the other side could not decode are rejected in both directions.

JSON has no NaN and no Infinity, UTF-8 no lone surrogates, and deep nesting is a cheap attack on
recursive code. orjson rejects most of this; the rest is rejected here.
"""

from __future__ import annotations

import gc
import math
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import orjson

from webpy_socketio.exceptions import ContentError, EncodeError, ProtocolError

__all__ = ["MAX_DEPTH", "check_depth", "dumps", "loads", "memory_of"]

#: Levels of nesting accepted from a client. orjson reads 1,024 levels but writes 254 only; without
#: this limit a handler could receive a message that it cannot send.
MAX_DEPTH = 128

#: Number of lists and dicts in a text above which the garbage collector is disabled while decoding.
#: It would run hundreds of times and block the event loop (measured: 75 ms instead of 20 for a
#: megabyte of lists in an otherwise empty process). Decoded JSON has no cycles.
_GC_THRESHOLD = 10_000

#: Characters of a key in an error.
_MAX_KEY = 40

#: Levels of nesting that orjson writes.
_WRITABLE_DEPTH = 254

#: The escape of a lone surrogate: a high one that no low one follows, or a low one after no high
#: one. The text must not contain escaped backslashes.
_LONE_SURROGATE = re.compile(
    r"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)


def loads(text: str) -> Any:
    """Decode JSON sent by a client.

    The escape of a lone surrogate, which JavaScript writes for text cut inside an emoji, is decoded
    as U+FFFD.

    Raises:
        ProtocolError: `text` is not JSON (RFC 8259).
        ContentError: `text` is JSON, but nested too deeply, or a number exceeds the
            range of doubles.
    """
    brackets = text.count("[") + text.count("{")
    collecting = brackets > _GC_THRESHOLD and gc.isenabled()
    if collecting:
        gc.disable()
    try:
        value = orjson.loads(text)
    except ValueError as error:
        value = _loads_leniently(text, error)
    finally:
        if collecting:
            gc.enable()
    # Counting brackets is cheap and nearly always sufficient. Otherwise the depth is measured by
    # encoding with orjson, which has a depth limit: a hundred times faster than a walk in Python.
    if brackets > MAX_DEPTH:
        check_depth(value)
    return value


def check_depth(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as JSON, in nested lists, if it has at most `MAX_DEPTH` levels.

    Args:
        value: A value decoded from the message of a client.
        default: Returns a replacement for values that are not JSON.

    Raises:
        ContentError: The value is nested too deeply.
        TypeError: A key is not a str, or `default` raised an error, which is the cause.
    """
    nested = value
    for _ in range(_WRITABLE_DEPTH - MAX_DEPTH):
        nested = [nested]
    try:
        return orjson.dumps(nested, default)
    except TypeError as error:
        if "ecursion limit" in str(error):
            raise _too_deep() from None
        raise


def _loads_leniently(text: str, error: ValueError) -> Any:
    """Decode JSON that orjson rejected with `error`, or raise the error for the client."""
    repaired = _replace_lone_surrogates(text)
    if repaired != text:
        try:
            return orjson.loads(repaired)
        except ValueError as again:
            error = again
    # orjson stops at a limit, so the rest may or may not be JSON; unbalanced brackets prove that it
    # is not.
    if _has_balanced_brackets(repaired):
        if "depth limit" in str(error) or "ecursion limit" in str(error):
            raise _too_deep() from None
        if "number is infinity" in str(error):
            raise ContentError("a number beyond the range of a double") from None
    raise ProtocolError(f"malformed JSON: {error}") from None


def _replace_lone_surrogates(text: str) -> str:
    if "\\ud" not in text and "\\uD" not in text:
        return text
    # Respell escaped backslashes, so that every remaining backslash begins an escape.
    plain = text.replace("\\\\", "\\u005c")
    replaced = _LONE_SURROGATE.sub(r"\\ufffd", plain)
    return text if replaced == plain else replaced


def _has_balanced_brackets(text: str) -> bool:
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    return outside.count("[") == outside.count("]") and outside.count("{") == outside.count("}")


def _too_deep() -> ContentError:
    return ContentError(f"nested deeper than {MAX_DEPTH} levels")


def memory_of(value: Any, limit: int) -> int:
    """Return the bytes of memory of a decoded value; counting stops above `limit`.

    A value takes up to 40 times as many bytes as its text: an empty dict takes 64.
    """
    total = 0
    stack = [value]
    while stack and total <= limit:
        current = stack.pop()
        total += sys.getsizeof(current)
        if isinstance(current, dict):
            stack += current
            stack += current.values()
        elif isinstance(current, list):
            stack += current
    return total


def dumps(
    value: Any, attachments: list[bytes] | None = None, arguments: int | None = None
) -> bytes:
    """Encode a value as JSON.

    Args:
        value: The value.
        attachments: Receives ``bytes`` of the value, which are replaced by placeholders. None
            rejects them.
        arguments: Index in the list `value` from which on its elements are arguments of the caller,
            for the text of errors.

    Raises:
        EncodeError: JSON cannot represent a part of the value. The text names the part.
    """
    try:
        text = orjson.dumps(value)
    except TypeError:
        text = _dumps_carefully(value, attachments, arguments)
    # orjson silently writes NaN and the infinities as null.
    # `in` would first try to convert its operand to an integer (measured: 160 ns against 100).
    if text.find(b"null") >= 0 and _has_non_finite_number(value):
        where = _find(value, _has_non_finite_number, arguments)
        raise EncodeError(
            f"cannot send NaN or Infinity{where and f' in {where}'}: JSON has no such numbers; "
            "send None or text"
        )
    return text


def _dumps_carefully(value: Any, attachments: list[bytes] | None, arguments: int | None) -> bytes:
    """Encode a value with bytes or with keys that are not text, or raise `EncodeError`."""

    def default(unknown: Any) -> Any:
        if attachments is not None and isinstance(unknown, (bytes, bytearray, memoryview)):
            attachments.append(bytes(unknown))
            return {"_placeholder": True, "num": len(attachments) - 1}
        raise TypeError(f"{type(unknown).__name__} is not a type that JSON can represent")

    try:
        text = orjson.dumps(value, default)
    except TypeError as error:
        if "Dict key must be str" not in str(error):
            raise EncodeError(_explain(error, value, default, arguments)) from None
        if attachments:
            attachments.clear()
        try:
            text = orjson.dumps(value, default, orjson.OPT_NON_STR_KEYS)
        except TypeError as again:
            raise EncodeError(_explain(again, value, default, arguments)) from None
    # Clients interpret placeholders in binary packets only. A dict that resembles one would be
    # replaced by another attachment (Socket.IO protocol, "Sample encoding: binary event").
    if attachments and text.count(b'"_placeholder":true') != len(attachments):
        raise EncodeError('cannot send a dict with "_placeholder" together with bytes')
    return text


#: Error texts of orjson, and the texts that replace them.
_ERROR_TEXTS = {
    "Dict key must a type serializable with OPT_NON_STR_KEYS": (
        "a dict key is not text and cannot be written as text"
    ),
    "Recursion limit reached": "it is nested too deeply or contains itself",
}


def _explain(
    error: TypeError, value: Any, default: Callable[[Any], Any], arguments: int | None
) -> str:
    def cannot_be_sent(part: Any) -> bool:
        try:
            orjson.dumps(part, default, orjson.OPT_NON_STR_KEYS)
        except TypeError:
            return True
        return False

    cause = str(error.__cause__ if isinstance(error.__cause__, TypeError) else error)
    cause = _ERROR_TEXTS.get(cause, cause)
    where = _find(value, cannot_be_sent, arguments)
    return f"cannot send this value: {where and f'in {where}, '}{cause}"


def _find(value: Any, wrong: Callable[[Any], bool], arguments: int | None) -> str:
    """Return the path of the first wrong part as a Python expression; "" for the value itself.

    Only the containers of the wrong part are walked; orjson checks everything else.
    """
    path = ""
    for depth in range(_WRITABLE_DEPTH):
        found = next((each for each in _children(value) if wrong(each[1])), None)
        if found is None:
            return path
        key, child = found
        if depth or arguments is None:
            path = f"{path or 'value'}[{ascii(key)[:_MAX_KEY]}]"
        elif len(value) > arguments + 1:
            path = f"args[{key - arguments}]"
        value = child
    return ""  # nested too deeply, or in a cycle


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif hasattr(value, "__dataclass_fields__"):
        yield from ((name, getattr(value, name, None)) for name in value.__dataclass_fields__)


def _has_non_finite_number(value: Any) -> bool:
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
        elif isinstance(current, Enum):  # orjson encodes enums and dataclasses natively
            stack.append(current.value)
        elif hasattr(current, "__dataclass_fields__"):
            stack.extend(getattr(current, name, None) for name in current.__dataclass_fields__)
    return False
