"""Long-polling payloads: several packets in one HTTP body (Engine.IO protocol v4, "Payload")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from webpy_socketio.engine.io.packets import SEPARATOR, Message, decode_packet
from webpy_socketio.exceptions import ProtocolError

__all__ = ["decode_payload", "encode_payload"]


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
