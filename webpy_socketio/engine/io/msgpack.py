"""Strict MessagePack: only values of JSON, and ``bytes``.

Other values are rejected in both directions, because clients with another parser and other
processes could not receive them. Dates, `undefined` and ``ArrayBuffer`` of JavaScript clients are
returned as text, None and bytes.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson
from msgpack import Packer, StackError, Unpacker, UnpackException, unpackb

from webpy_socketio.engine.io import json
from webpy_socketio.engine.io.notepack import (
    AmbiguousExtensionError,
    fixed_extensions,
    invalid_extension,
    read_extension,
)
from webpy_socketio.exceptions import ContentError, ProtocolError

__all__ = ["MAX_CONTAINERS", "PROTO", "check_content", "dumps", "loads"]

#: Maximum number of lists and dicts in a message. An empty one takes 64 bytes of memory for one
#: byte.
MAX_CONTAINERS: Final = 100_000

#: Size in bytes of a message above which the garbage collector is disabled while decoding, as for
#: JSON.
_GC_THRESHOLD: Final = 10_000

#: Size in bytes up to which counting the bytes that may begin a list or dict is faster than
#: measuring the depth.
_COUNTED: Final = 1_000

#: The first bytes of all lists and dicts.
_CONTAINERS: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])

#: Size in bytes up to which a message with wrong lengths of lists needs less than a megabyte.
_SMALL: Final = 512

#: First bytes of NaN and the infinities as doubles and as single precision numbers.
_NON_FINITE: Final = (b"\xcb\x7f", b"\xcb\xff", b"\xca\x7f", b"\xca\xff")

#: The key that JavaScript clients do not read as a key: it replaces the object's prototype.
PROTO: Final = "__proto__"


def loads(data: bytes) -> Any:
    """Decode MessagePack, with the extensions of notepack.io.

    Raises:
        ProtocolError: `data` is not valid MessagePack.
        ContentError: A key or an extension is not supported.
    """
    if len(data) > _SMALL and (b"\xdc" in data or b"\xdd" in data):
        _check_lengths(data)
    count = None
    if len(data) > MAX_CONTAINERS and _count_heads(data) > MAX_CONTAINERS:
        count = _ContainerCount()
    collecting = len(data) > _GC_THRESHOLD and gc.isenabled()
    if collecting:
        gc.disable()
    try:
        try:
            return _unpack(data, read_extension, count)
        except AmbiguousExtensionError:
            read_next = partial(read_extension, fixed=fixed_extensions(data))
            return _unpack(data, read_next, None if count is None else _ContainerCount())
    except ContentError:
        raise
    except StackError:
        raise ProtocolError("MessagePack nested too deeply to be read") from None
    except ValueError as error:
        if "map key" in str(error):
            raise _invalid_key() from None
        raise ProtocolError(f"malformed MessagePack: {error}") from None
    finally:
        if collecting:
            gc.enable()


def _unpack(
    data: bytes,
    extension: Callable[[int, bytes], Any],
    count: Callable[[Any], Any] | None,
) -> Any:
    return unpackb(
        data,
        raw=False,
        strict_map_key=True,
        ext_hook=extension,
        object_hook=count,
        list_hook=count,
    )


class _ContainerCount:
    """Counts lists and dicts while they are decoded."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, container: Any) -> Any:
        self._count += 1
        if self._count > MAX_CONTAINERS:
            raise ContentError(f"message has more than {MAX_CONTAINERS:,} lists and objects")
        return container


def _count_heads(data: bytes) -> int:
    """Return the number of bytes that begin a list or dict, or are in text or bytes."""
    return len(data) - len(data.translate(None, _CONTAINERS))


def _check_lengths(data: bytes) -> None:
    """Check that a message is complete, without creating its values.

    The decoder allocates a list before it reads the items, so nested lists that announce more items
    than there are would need gigabytes.
    """
    unpacker = Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    try:
        unpacker.skip()
    except StackError:
        raise ProtocolError("MessagePack nested too deeply to be read") from None
    except (ValueError, UnpackException):
        raise ProtocolError("malformed MessagePack: incomplete, or an invalid type") from None


def check_content(payload: Any, data: bytes) -> None:
    """Reject what JSON cannot represent, and replace NaN and the infinities by None.

    Encoding as JSON checks depth, keys and types, and is many times faster than a walk in Python.

    Raises:
        ContentError: The payload exceeds a limit, or has a value that JSON and bytes do not have.
    """
    try:
        if _may_be_deep(data):
            text = json.check_depth(payload, _replace_bytes)
        else:
            text = orjson.dumps(payload, _replace_bytes)
    except TypeError as error:
        if isinstance(error.__cause__, ContentError):
            raise error.__cause__ from None
        raise _invalid_key() from None
    if (
        (b"null" in text and any(first in data for first in _NON_FINITE))
        or b"__proto__" in text
        or b'"_placeholder":true' in text
    ):
        _walk(payload)


def _may_be_deep(data: bytes) -> bool:
    size = len(data)
    return size > json.MAX_DEPTH and (size > _COUNTED or _count_heads(data) > json.MAX_DEPTH)


def _replace_bytes(value: Any) -> str:
    if not isinstance(value, bytes):  # the type of timestamps, which the library reads itself
        raise invalid_extension(-1)
    return ""


def _walk(payload: Any) -> None:
    has_bytes = has_placeholder = False
    stack = [payload]
    while stack:
        container = stack.pop()
        items: Any
        if type(container) is dict:
            # Clients that receive the key would replace the prototype of the object.
            if PROTO in container:
                raise ContentError(f'an object has the key "{PROTO}"')
            has_placeholder = has_placeholder or container.get("_placeholder") is True
            items = container.items()
        else:
            items = enumerate(container)
        for key, child in items:
            if type(child) is float:
                if not math.isfinite(child):
                    container[key] = None  # as JSON.stringify does
            elif type(child) is dict or type(child) is list:
                stack.append(child)
            elif type(child) is bytes:
                has_bytes = True
    # As in JSON, neither could be sent to others.
    if has_bytes and has_placeholder:
        raise ContentError('an object has the key "_placeholder", in a message with bytes')


def _invalid_key() -> ContentError:
    return ContentError("an object has a key that is not a string")


def dumps(value: Any) -> bytes:
    """Encode a value that has plain values of JSON, tuples and bytes only.

    Raises:
        TypeError: A value has another type.
    """
    # A packer must not be shared: a finalizer or another thread could use it within a call. The
    # default buffer of 256 KiB doubles the time of a short message.
    packed: bytes = Packer(buf_size=1024, strict_types=True, default=_to_list).pack(value)
    return packed


def _to_list(value: Any) -> Any:
    if type(value) is tuple:
        return list(value)
    raise TypeError
