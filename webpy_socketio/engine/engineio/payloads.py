"""Long-polling payloads: several packets in one HTTP body (Engine.IO protocol v4, "Payload").

Also decodes single text packets, which WebSocket messages contain.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator

from webpy_socketio.engine.io.packets import (
    BINARY_PREFIX,
    CLOSE,
    MESSAGE,
    NOOP,
    OPEN,
    PING,
    PONG,
    SEPARATOR,
    UPGRADE,
    Message,
)
from webpy_socketio.exceptions import ProtocolError

__all__ = ["decode_packet", "decode_payload", "encode_payload"]

_KNOWN_TYPES = frozenset((OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP))

#: Maps the URL-safe alphabet of base64 to the standard one (RFC 4648 §5).
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\n\v\f\r"


def encode_payload(messages: Iterable[Message]) -> bytes:
    """Encode messages as one HTTP body."""
    return SEPARATOR.join([message.payload for message in messages])


def decode_payload(body: bytes) -> Iterator[tuple[bytes, bytes | str]]:
    """Yield the type and data of each packet in a body; see `decode_packet`.

    The body is decoded lazily, so a body of a million separators costs no more than one packet.

    Raises:
        ProtocolError: The next packet is invalid.
    """
    start = 0
    while True:
        end = body.find(SEPARATOR, start)
        packet = body[start:] if end < 0 else body[start:end]
        try:
            yield decode_packet(packet)
        except UnicodeDecodeError:
            raise ProtocolError("text packet is not valid UTF-8") from None
        if end < 0:
            return
        start = end + 1


def decode_packet(packet: bytes) -> tuple[bytes, bytes | str]:
    """Split one text packet into type and data.

    A ``b`` packet is returned as a message whose data is bytes.

    Raises:
        UnicodeDecodeError: The packet is not valid UTF-8. Each transport has its own close code.
        ProtocolError: The packet has an unknown type or invalid base64.
    """
    text = packet.decode()
    kind = packet[:1]
    if kind not in _KNOWN_TYPES:
        if kind == BINARY_PREFIX:
            return MESSAGE, _decode_base64(packet[1:])
        raise ProtocolError("unknown Engine.IO packet type")
    return kind, text[1:]


def _decode_base64(data: bytes) -> bytes:
    """Decode base64 of either alphabet, with or without line breaks and padding.

    Node's ``Buffer.from(data, "base64")`` accepts the same. The Java client breaks lines every 76
    characters. Unlike in Node, other characters and truncated data are errors.
    """
    try:
        if len(data) % 4 == 0:  # Python 3.10 accepts some other lengths
            return base64.b64decode(data, validate=True)
    except binascii.Error:
        pass
    digits = data.translate(_STANDARD_ALPHABET, _WHITESPACE).rstrip(b"=")
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        raise ProtocolError("binary packet is not valid base64") from None
