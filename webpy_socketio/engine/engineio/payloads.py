"""Long-polling payloads: several packets in one HTTP body (Engine.IO protocol v4, "Payload")."""

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

#: Maps the URL-safe alphabet of base64 to the standard one (RFC 4648, 5).
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\n\v\f\r"


def encode_payload(messages: Iterable[Message]) -> bytes:
    """Join messages into one HTTP body."""
    return SEPARATOR.join([message.payload for message in messages])


def decode_payload(body: bytes) -> Iterator[tuple[bytes, bytes | str]]:
    """Yield the packets of a body one by one, as `decode_packet` does for text.

    Lazy, so that a body of a million separators costs no more than its first bad packet. Raises
    `ProtocolError` when it reaches a packet that is not one.
    """
    start = 0
    while True:
        end = body.find(SEPARATOR, start)
        packet = body[start:] if end < 0 else body[start:end]
        try:
            yield decode_packet(packet)
        except UnicodeDecodeError:
            raise ProtocolError("a text packet that is not UTF-8") from None
        if end < 0:
            return
        start = end + 1


def decode_packet(packet: bytes) -> tuple[bytes, bytes | str]:
    """Split one text packet into its type and its data; a ``b`` packet is a message of bytes.

    Raises `UnicodeDecodeError` if it is not UTF-8, for the transport to say so in its own words,
    and `ProtocolError` if it is no packet.
    """
    text = packet.decode()
    kind = packet[:1]
    if kind not in _KNOWN_TYPES:
        if kind == BINARY_PREFIX:
            return MESSAGE, _decode_base64(packet[1:])
        raise ProtocolError("not an Engine.IO packet")
    return kind, text[1:]


def _decode_base64(data: bytes) -> bytes:
    """Decode base64 of either alphabet, with or without line breaks and padding.

    Node's ``Buffer.from(data, "base64")`` accepts the same; the Java client breaks lines every 76
    characters. Unlike there, other characters and truncated data are errors.
    """
    try:
        if len(data) % 4 == 0:  # Python 3.10 would accept some other lengths
            return base64.b64decode(data, validate=True)
    except binascii.Error:
        pass
    digits = data.translate(_STANDARD_ALPHABET, _WHITESPACE).rstrip(b"=")
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        raise ProtocolError("a binary packet that is not base64") from None
