"""WebSocket data frames (RFC 6455 §5.2): encoding, and a fast path for short incoming text frames.

All other incoming frames are parsed by the `websockets` library. Measured: 1 µs a frame here and
6 µs there, of the 45 µs of a message with an acknowledgement.
"""

from __future__ import annotations

import struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # `websockets` is installed without its C extension
    from websockets.utils import apply_mask

__all__ = ["BINARY", "TEXT", "encode", "size_on_the_wire", "whole_text"]

_FIN, _MASKED = 0x80, 0x80
TEXT, BINARY = 0x1, 0x2

#: Bytes of the longest payload whose length fits into the second byte of the header.
_MAX_SHORT = 125

#: Bytes of a client's frame before a short payload: two, and the masking key.
_HEAD = 6


def encode(opcode: int, data: bytes) -> bytes:
    """Return a final, unmasked frame."""
    size = len(data)
    if size <= _MAX_SHORT:
        return bytes((_FIN | opcode, size)) + data
    if size <= 0xFFFF:
        return struct.pack("!BBH", _FIN | opcode, 126, size) + data
    return struct.pack("!BBQ", _FIN | opcode, 127, size) + data


def whole_text(data: bytes, max_size: int) -> bytes | None:
    """Return the payload if `data` is exactly one short, final, masked text frame.

    Returns None for everything else, and for payloads of more than `max_size` bytes.
    """
    size = len(data) - _HEAD
    if (
        not 0 <= size <= _MAX_SHORT
        or size > max_size
        or data[0] != _FIN | TEXT
        or data[1] != _MASKED | size
    ):
        return None
    return apply_mask(data[_HEAD:], data[2:_HEAD])


def size_on_the_wire(size: int) -> int:
    """Return the bytes of a client's frame with `size` bytes of payload (shortest header)."""
    return size + (_HEAD if size <= _MAX_SHORT else _HEAD + 2 if size <= 0xFFFF else _HEAD + 8)
