"""Engine.IO packets: a type and its data (Engine.IO protocol v4, "Packet encoding").

An outgoing message is encoded once, as a `Message`, which all its recipients share. It contains the
bytes of its WebSocket frames and of its long-polling payload.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from webpy_socketio.engine.io.frames import BINARY, TEXT, encode

__all__ = [
    "BINARY_PREFIX",
    "CLOSE",
    "MESSAGE",
    "NOOP",
    "OPEN",
    "PING",
    "PONG",
    "PROBE",
    "UPGRADE",
    "Message",
]

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = (b"0", b"1", b"2", b"3", b"4", b"5", b"6")

#: Data of the ping and pong packets with which a client tests a WebSocket before an upgrade
#: (Engine.IO protocol v4, "Upgrade").
PROBE = b"probe"

#: Prefix of binary data that is sent as base64 text, on both transports.
BINARY_PREFIX = b"b"

#: Separates the packets of a long-polling payload (Engine.IO protocol v4, "HTTP long-polling").
SEPARATOR = b"\x1e"


class Message:
    """One text packet and its attachments, encoded once for all recipients.

    Args:
        text: The text packet, type and data; None if there is none.
        attachments: Data of the binary packets that follow it.
    """

    __slots__ = ("_base64_frames", "_payload", "attachments", "count", "frames", "size", "text")

    #: The packets as concatenated WebSocket frames.
    frames: bytes
    #: Number of packets.
    count: int
    #: Bytes of `frames`, which count towards the limit of an outbox.
    size: int
    text: bytes | None
    attachments: tuple[bytes, ...]

    def __init__(self, text: bytes | None, attachments: Sequence[bytes] = ()) -> None:
        frames = b"" if text is None else encode(TEXT, text)
        if attachments:
            frames = b"".join([frames, *[encode(BINARY, data) for data in attachments]])
        self.frames = frames
        self.count = len(attachments) + (text is not None)
        self.size = len(frames)
        self.text = text
        self.attachments = tuple(attachments)
        self._payload: bytes | None = None
        self._base64_frames: bytes | None = None

    @classmethod
    def rest(cls, frames: bytes) -> Message:
        """Return the unsent rest of frames, for the WebSocket that sent their beginning."""
        message = cls(None)
        message.frames = frames
        return message

    @property
    def payload(self) -> bytes:
        """The packets as a long-polling payload; binary data is base64 with the prefix ``b``."""
        if self._payload is None:
            parts = [] if self.text is None else [self.text]
            parts += map(_encode_base64, self.attachments)
            self._payload = SEPARATOR.join(parts)
        return self._payload

    @property
    def base64_frames(self) -> bytes:
        """The packets as text frames only, for clients that connected with ``b64=1``."""
        if not self.attachments:
            return self.frames
        if self._base64_frames is None:
            parts = [] if self.text is None else [self.text]
            parts += map(_encode_base64, self.attachments)
            self._base64_frames = b"".join([encode(TEXT, part) for part in parts])
        return self._base64_frames

    def __repr__(self) -> str:
        return f"<Message {self.text!r} +{len(self.attachments)}>"


def _encode_base64(data: bytes) -> bytes:
    return BINARY_PREFIX + base64.b64encode(data)
