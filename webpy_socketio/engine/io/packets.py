"""Engine.IO packets: a type and its data (Engine.IO protocol v4, "Packet encoding").

An outgoing message is made once, as a `Message`, and referred to by everyone who gets it: it holds
the bytes of its WebSocket frames and of its long-polling payload, ready to be written.
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

#: What a client appends to its first ping and expects in the pong, on a WebSocket that is to
#: replace long-polling (Engine.IO protocol v4, "Upgrade").
PROBE = b"probe"

#: Precedes binary data that is sent as base64 text, on either transport.
BINARY_PREFIX = b"b"

#: Separates the packets of a long-polling payload (Engine.IO protocol v4, "HTTP long-polling").
SEPARATOR = b"\x1e"


class Message:
    """One or more packets that travel together, encoded once for all their recipients.

    `text` is a whole text packet (type and data), `attachments` are binary packets that follow it.
    """

    __slots__ = ("_base64_frames", "_payload", "attachments", "count", "frames", "size", "text")

    #: The packets as WebSocket frames, one after the other.
    frames: bytes
    #: How many packets.
    count: int
    #: Bytes of `frames`; what an outbox counts.
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
        """What is left of frames that were written in part, for the same WebSocket to write."""
        message = cls(None)
        message.frames = frames
        return message

    @property
    def payload(self) -> bytes:
        """The packets as long-polling has them; bytes become base64 behind a ``b``."""
        if self._payload is None:
            parts = [] if self.text is None else [self.text]
            parts += map(_encode_base64, self.attachments)
            self._payload = SEPARATOR.join(parts)
        return self._payload

    @property
    def base64_frames(self) -> bytes:
        """The packets as WebSocket text frames only, for a client that connected with ``b64=1``."""
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
