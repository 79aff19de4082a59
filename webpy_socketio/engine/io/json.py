"""Strict JSON, both ways: what one side may send, the other can read.

JSON has no NaN and no Infinity, UTF-8 no lone surrogates, and a nest of brackets is a cheap way to
hurt whoever walks it; orjson refuses most of this by itself, the rest is refused here.
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

__all__ = ["MAX_DEPTH", "dumps", "loads", "memory_of"]

#: Levels of nesting accepted from a client. orjson reads 1,024 but writes only 254: without a bound
#: of our own, a message could be received that no handler would be able to pass on.
MAX_DEPTH = 128

#: Lists and dicts in a text from which on Python's garbage collector rests while it is read. It would
#: run hundreds of times over what is being made, and several times over all that the process holds
#: (measured: 75 ms instead of 20 for a megabyte of lists, with nothing else in the process), while
#: everybody waits; and what JSON makes has no cycles.
_MANY = 10_000

#: Characters of a key that an error shows.
_MAX_KEY = 40

#: What orjson writes.
_WRITABLE_DEPTH = 254

#: The escape of half a surrogate pair: a high half that no low half follows, or a low half that
#: follows no high half. The text must contain no escaped backslash.
_LONE_SURROGATE = re.compile(
    r"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)


def loads(text: str) -> Any:
    """Decode JSON sent by a client.

    The escape of half a surrogate pair, which JavaScript writes for text cut inside an emoji, is
    decoded as U+FFFD.

    Raises:
        ProtocolError: `text` is not JSON (RFC 8259).
        ContentError: `text` is JSON, but nested too deeply, or has a number that no double holds.

    """
    brackets = text.count("[") + text.count("{")
    collecting = brackets > _MANY and gc.isenabled()
    if collecting:
        gc.disable()
    try:
        value = orjson.loads(text)
    except ValueError as error:
        value = _loads_leniently(text, error)
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
            raise _too_deep() from None
    return value


def _loads_leniently(text: str, error: ValueError) -> Any:
    """Decode JSON that orjson rejected with `error`, or raise the error for the client."""
    repaired = _replace_lone_surrogates(text)
    if repaired != text:
        try:
            return orjson.loads(repaired)
        except ValueError as again:
            error = again
    # At a limit orjson stops reading, so whether the rest is JSON is unknown; brackets that do not
    # balance prove that it is not.
    if _has_balanced_brackets(repaired):
        if "depth limit" in str(error) or "ecursion limit" in str(error):
            raise _too_deep() from None
        if "number is infinity" in str(error):
            raise ContentError("a number beyond the range of a double") from None
    raise ProtocolError(f"malformed JSON: {error}") from None


def _replace_lone_surrogates(text: str) -> str:
    if "\\ud" not in text and "\\uD" not in text:
        return text
    # An escaped backslash gets its other spelling: every backslash left then begins an escape.
    plain = text.replace("\\\\", "\\u005c")
    replaced = _LONE_SURROGATE.sub(r"\\ufffd", plain)
    return text if replaced == plain else replaced


def _has_balanced_brackets(text: str) -> bool:
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    return outside.count("[") == outside.count("]") and outside.count("{") == outside.count("}")


def _too_deep() -> ContentError:
    return ContentError(f"JSON nested deeper than {MAX_DEPTH} levels")


def memory_of(value: Any, limit: int) -> int:
    """Return the bytes that a decoded value takes in memory; the count stops above `limit`.

    A value takes up to 40 times as many bytes as its text has characters: an empty dict takes 64.
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
    """Encode a value; bytes are moved to `attachments` and leave a placeholder behind.

    Raises `EncodeError` at whoever wants to send what JSON cannot hold, before anything is sent. It
    says where in the value that is; `arguments` is where in a list the caller's own ones begin.
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
            raise EncodeError(_explain(error, value, default, arguments)) from None
        if attachments:
            attachments.clear()
        try:
            text = orjson.dumps(value, default, orjson.OPT_NON_STR_KEYS)
        except TypeError as again:
            raise EncodeError(_explain(again, value, default, arguments)) from None
    # orjson writes NaN and the infinities as null, which would reach the client as a lie.
    if b"null" in text and _has_unreal_number(value):
        where = _find(value, _has_unreal_number, arguments)
        raise EncodeError(
            f"cannot send NaN or Infinity{where and f' in {where}'}: JSON has no such numbers; send None "
            "or text"
        )
    # Only in a binary packet is a placeholder read as one; a look-alike in it would be swapped for
    # somebody else's attachment (Socket.IO protocol, "Sample encoding: binary event").
    if attachments and text.count(b'"_placeholder":true') != len(attachments):
        raise EncodeError('cannot send a dict with "_placeholder" together with bytes')
    return text


#: What orjson says, and what is meant.
_PLAINLY = {
    "Dict key must a type serializable with OPT_NON_STR_KEYS": (
        "a key of the dict is neither text nor something that JSON could write as text"
    ),
    "Recursion limit reached": "it is nested too deeply, or holds itself",
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
    cause = _PLAINLY.get(cause, cause)
    where = _find(value, cannot_be_sent, arguments)
    return f"cannot send this value: {where and f'in {where}, '}{cause}"


def _find(value: Any, wrong: Callable[[Any], bool], arguments: int | None) -> str:
    """Where in a value the first wrong part is, as Python writes it; "" for the value itself.

    Whatever is beside it is looked at by orjson, and only what it is in is walked through.
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
    return ""  # it is nested too deeply, or in a circle


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif hasattr(value, "__dataclass_fields__"):
        yield from ((name, getattr(value, name, None)) for name in value.__dataclass_fields__)


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
