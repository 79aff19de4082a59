"""Engine.IO packets: a type and its data (Engine.IO protocol v4, "Packet encoding").

An outgoing message is encoded once, as a `Message`, which all its recipients share. It contains the
bytes of its WebSocket frames and of its long-polling payload.
"""

from __future__ import annotations

import base64
import binascii

from webpy_socketio.engine.io.deflate import THRESHOLD, deflate
from webpy_socketio.engine.io.frames import BINARY, COMPRESSED, TEXT, split
from webpy_socketio.engine.io.native import Frames, encode
from webpy_socketio.exceptions import ProtocolError

__all__ = [
    "BINARY_PREFIX",
    "CLOSE",
    "MESSAGE",
    "NOOP",
    "OPEN",
    "PING",
    "PONG",
    "PROBE",
    "SEPARATOR",
    "UPGRADE",
    "Message",
    "decode_packet",
]

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = (b"0", b"1", b"2", b"3", b"4", b"5", b"6")

#: Data of the ping and pong packets with which a client tests a WebSocket before an upgrade
#: (Engine.IO protocol v4, "Upgrade").
PROBE = b"probe"

#: Prefix of binary data that is sent as base64 text, on both transports.
BINARY_PREFIX = b"b"

#: Separates the packets of a long-polling payload (Engine.IO protocol v4, "HTTP long-polling").
SEPARATOR = b"\x1e"

_KNOWN_TYPES = frozenset((OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP))

#: Maps the URL-safe alphabet of base64 to the standard one (RFC 4648 §5).
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\n\v\f\r"


class Message(Frames):
    """One text packet and its attachments, encoded once for all recipients.

    Args:
        text: The text packet, type and data; None if there is none.
        attachments: Data of the binary packets that follow it.
    """

    # Set on first use: most messages need none of them, and creating them must not cost more.
    __slots__ = ("_base64_frames", "_compressed_frames", "_payload")

    _payload: bytes
    _base64_frames: bytes
    _compressed_frames: bytes

    @classmethod
    def rest(cls, frames: bytes) -> Message:
        """Return the unsent rest of frames, for the WebSocket that sent their beginning."""
        message = cls(None)
        message.frames = frames
        return message

    @classmethod
    def of_frames(cls, frames: bytes) -> Message:
        """Return the message with these `frames`."""
        (kind, first), *rest = split(frames)
        if kind == BINARY:
            return cls(None, [first, *[data for _, data in rest]])
        return cls(first, [data for _, data in rest])

    @property
    def payload(self) -> bytes:
        """The packets as a long-polling payload; binary data is base64 with the prefix ``b``."""
        try:
            return self._payload
        except AttributeError:
            pass
        parts = [] if self.text is None else [self.text]
        parts += map(_encode_base64, self.attachments)
        self._payload = SEPARATOR.join(parts)
        return self._payload

    @property
    def base64_frames(self) -> bytes:
        """The packets as text frames only, for clients that connected with ``b64=1``."""
        if not self.attachments:
            return self.frames
        try:
            return self._base64_frames
        except AttributeError:
            pass
        parts = [] if self.text is None else [self.text]
        parts += map(_encode_base64, self.attachments)
        self._base64_frames = b"".join([encode(TEXT, part) for part in parts])
        return self._base64_frames

    @property
    def compressed_frames(self) -> bytes:
        """The packets as frames for clients that negotiated permessage-deflate.

        Compressed once for all recipients. Packets that are short, or do not become smaller, are
        not compressed.
        """
        try:
            return self._compressed_frames
        except AttributeError:
            pass
        frames = self.frames
        if self.size > THRESHOLD:
            parts = [] if self.text is None else [_encode_compressed(TEXT, self.text)]
            parts += [_encode_compressed(BINARY, data) for data in self.attachments]
            frames = b"".join(parts)
        self._compressed_frames = frames
        return frames

    def __repr__(self) -> str:
        return f"<Message {self.text!r} +{len(self.attachments)}>"


def _encode_compressed(opcode: int, data: bytes) -> bytes:
    compressed = deflate(data)
    return encode(opcode, data) if compressed is None else encode(COMPRESSED | opcode, compressed)


def _encode_base64(data: bytes) -> bytes:
    return BINARY_PREFIX + base64.b64encode(data)


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
