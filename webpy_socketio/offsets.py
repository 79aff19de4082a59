"""Offsets: positions in a message log, as the text that clients receive and return."""

from __future__ import annotations

__all__ = ["MAX_LENGTH", "Position", "parse_offset"]

#: Epoch of a message log, and a number in it.
Position = tuple[str, int]

#: Characters of the longest offset.
MAX_LENGTH = 64

#: Digits of the largest number that is parsed.
_MAX_DIGITS = 18


def parse_offset(offset: object) -> Position | None:
    """Return the epoch and the number of an offset; None if it is not one."""
    if not isinstance(offset, str) or len(offset) > MAX_LENGTH:
        return None
    epoch, _, digits = offset.rpartition(".")
    if not (epoch and digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS):
        return None
    return epoch, int(digits)
