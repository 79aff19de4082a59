"""Extension types of ``notepack.io`` 2, the MessagePack library of JavaScript clients.

Type 0 is `undefined` (format fixext 1), a date (fixext 8), or an ``ArrayBuffer`` (ext 8, 16 and
32). The library ``msgpack`` does not return the format; the first byte is read if it decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice, repeat
from typing import Any, Final

from webpy_socketio.exceptions import ContentError

__all__ = [
    "MAX_EXTENSIONS",
    "AmbiguousExtensionError",
    "fixed_extensions",
    "invalid_extension",
    "read_extension",
]

#: Maximum number of dates and `undefined` in a message, each of which takes 4 µs.
MAX_EXTENSIONS: Final = 10_000

#: Maximum number of values before an ambiguous extension, which are scanned in Python; 15 ms.
_MAX_SCANNED: Final = 50_000

#: In UTC.
_EPOCH = datetime(1970, 1, 1)


class AmbiguousExtensionError(Exception):
    """The size of an extension does not tell its type: the first byte must be read."""


def read_extension(code: int, payload: bytes, fixed: Iterator[bool] | None = None) -> Any:
    """Return the value of an extension.

    Args:
        code: The type.
        payload: The data.
        fixed: For each extension of 1 or 8 bytes, whether it has the format fixext.
    """
    if code != 0:
        raise invalid_extension(code)
    if len(payload) not in (1, 8):
        return payload
    if fixed is None:
        raise AmbiguousExtensionError
    is_fixed = next(fixed, None)
    if is_fixed is None:
        raise ContentError(f"message has more than {MAX_EXTENSIONS:,} dates and undefined values")
    if not is_fixed:
        return payload
    return None if len(payload) == 1 else _format_date(payload)


def _format_date(payload: bytes) -> str:
    """Format the milliseconds since 1970 as JavaScript's ``toJSON`` does."""
    try:
        date = _EPOCH + timedelta(milliseconds=int.from_bytes(payload, "big", signed=True))
    except OverflowError:
        raise ContentError("a date is not in the years 1 to 9999") from None
    return f"{date.isoformat(timespec='milliseconds')}Z"


#: Formats other than fixext in which an extension of 1 or 8 bytes may be.
_AMBIGUOUS = re.compile(
    rb"\xc7[\x01\x08]\x00|\xc8\x00[\x01\x08]\x00|\xc9\x00\x00\x00[\x01\x08]\x00"
)


def fixed_extensions(data: bytes) -> Iterator[bool]:
    """Return for each extension of type 0 with 1 or 8 bytes whether its format is fixext."""
    if _AMBIGUOUS.search(data):
        return islice(_scan(data), MAX_EXTENSIONS)
    return repeat(True, MAX_EXTENSIONS)


def _scan(data: bytes) -> Iterator[bool]:
    position = scanned = 0
    while position < len(data):
        scanned += 1
        if scanned > _MAX_SCANNED:
            raise ContentError(
                f"message with dates and ArrayBuffers of 8 bytes has more than {_MAX_SCANNED:,} "
                "values"
            )
        first = data[position]
        size, length = _FORMATS[first]
        if length:
            size += int.from_bytes(data[position + 1 : position + 1 + length], "big")
        if first in (0xD4, 0xD7):
            if data[position + 1] == 0:
                yield True
        elif 0xC7 <= first <= 0xC9:
            head = length + 2
            if data[position + head - 1] == 0 and size - head in (1, 8):
                yield False
        position += size


def _formats() -> list[tuple[int, int]]:
    """Return for each first byte the size of the value and of its length, without its items."""
    formats = [(1, 0)] * 256
    formats[0xA0:0xC0] = [(1 + length, 0) for length in range(32)]  # fixstr
    for first, length in ((0xC4, 1), (0xC5, 2), (0xC6, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4)):
        formats[first] = (1 + length, length)  # bin and str
    for first, length in ((0xC7, 1), (0xC8, 2), (0xC9, 4)):
        formats[first] = (2 + length, length)  # ext
    for first, size in ((0xCA, 4), (0xCB, 8), (0xDC, 2), (0xDD, 4), (0xDE, 2), (0xDF, 4)):
        formats[first] = (1 + size, 0)  # float, array and map
    for exponent in range(4):
        formats[0xCC + exponent] = formats[0xD0 + exponent] = (1 + 2**exponent, 0)  # uint, int
    for exponent in range(5):
        formats[0xD4 + exponent] = (2 + 2**exponent, 0)  # fixext
    return formats


_FORMATS = _formats()


def invalid_extension(code: int) -> ContentError:
    """Return the error for an extension type that is not supported."""
    return ContentError(f"MessagePack extension type {code} is not supported")
