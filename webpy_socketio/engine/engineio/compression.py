"""Compression of WebSocket messages: permessage-deflate (RFC 7692).

Neither side uses the context of earlier messages: the server compresses a broadcast once for all
recipients, and an idle connection has no zlib state.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from typing import Any

from websockets.exceptions import NegotiationError, PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.protocol import Protocol
from websockets.typing import ExtensionName, ExtensionParameter

from webpy_socketio.engine.engineio.websocket import WebSocket
from webpy_socketio.engine.io.frames import size_on_the_wire
from webpy_socketio.engine.io.packets import Message

__all__ = ["CompressedWebSocket", "DeflateFactory", "Inflater"]

#: End of each compressed message, which senders remove (RFC 7692 §7.2.2).
_EMPTY_BLOCK = b"\x00\x00\xff\xff"

#: Bytes of a frame that are decompressed before the limits are checked.
_SLICE = 16_384

#: CPU seconds in which a frame must be decompressed, for each started megabyte of the limit of a
#: message. Text needs a tenth of it. Blocks without content need 150 ms for a megabyte and produce
#: nothing, so a limit of the size does not stop them.
_TIME_PER_MEGABYTE = 0.05


class DeflateFactory(ServerPerMessageDeflateFactory):
    """Negotiates permessage-deflate without context takeover and with a window of 32 KB.

    The client is required to reset its context too (RFC 7692 §7.1.1.2). An offer that limits the
    window of the server is declined: its client could not read the frames that all recipients of a
    broadcast share.
    """

    def __init__(self) -> None:
        super().__init__(server_no_context_takeover=True, client_no_context_takeover=True)

    def process_request_params(
        self,
        params: Sequence[ExtensionParameter],
        accepted_extensions: Sequence[Extension],
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Return the parameters of the response.

        Raises:
            NegotiationError: The offer is invalid or cannot be accepted. The next one is tried.
        """
        response, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits < zlib.MAX_WBITS:
            raise NegotiationError("the window of the server cannot be limited")
        return response, extension


class Inflater(Extension):
    """Decompresses the frames of one client within the limits of a message.

    Args:
        max_size: Maximum size of a message in bytes, decompressed.
        max_time: CPU seconds in which a frame must be decompressed; None for 50 ms for each
            started megabyte of `max_size`.
    """

    name = ExtensionName("permessage-deflate")

    def __init__(self, max_size: int, max_time: float | None = None) -> None:
        self._max_size = max_size
        self._max_time = _max_time(max_size) if max_time is None else max_time
        #: Size of the message in progress so far.
        self._size = 0
        #: State of the message in progress; None unless it is compressed.
        self._decompressor: Any = None
        #: Bytes by which frames have grown since the last call of `take_growth`.
        self._growth = 0

    def take_growth(self) -> int:
        """Return the difference between the sizes of frames after and before decompression."""
        growth, self._growth = self._growth, 0
        return growth

    def encode(self, frame: Frame) -> Frame:
        """Return the frame unchanged: the protocol sends control frames only."""
        return frame

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Return the frame, decompressed.

        Raises:
            PayloadTooBig: The message exceeds a limit (close code 1009).
            ProtocolError: The data or a reserved bit is invalid (close code 1002).
        """
        if frame.opcode in CTRL_OPCODES:
            return frame  # the caller rejects RSV1
        data = bytes(frame.data)
        if frame.opcode is not Opcode.CONT:
            self._size = 0
            compressed = frame.rsv1
            self._decompressor = zlib.decompressobj(-zlib.MAX_WBITS) if compressed else None
        elif frame.rsv1:
            raise ProtocolError("RSV1 is set in a continuation frame")
        if self._decompressor is not None:
            content = self._inflate(data, frame.fin)
            self._growth += size_on_the_wire(len(content)) - size_on_the_wire(len(data))
            data = content
        self._size += len(data)
        if self._size > self._max_size:
            raise PayloadTooBig(None, self._max_size)
        if frame.fin:
            self._decompressor = None
        return Frame(frame.opcode, data, frame.fin, False, frame.rsv2, frame.rsv3)

    def _inflate(self, data: bytes, is_last: bool) -> bytes:
        """Return the content of a frame, at most one byte more than the message may have."""
        decompressor = self._decompressor
        if decompressor.eof:  # a final block has ended the message (§7.2.3.4)
            return b""
        room = self._max_size - self._size + 1
        deadline = time.thread_time() + self._max_time if len(data) > _SLICE else None
        if is_last:
            data += _EMPTY_BLOCK
        blocks = []
        try:
            for start in range(0, len(data), _SLICE):
                block = decompressor.decompress(data[start : start + _SLICE], room)
                blocks.append(block)
                room -= len(block)
                if not room or decompressor.eof:
                    break
                if deadline is not None and time.thread_time() > deadline:
                    raise PayloadTooBig(None, self._max_size)
        except zlib.error as error:
            raise ProtocolError("a compressed message is invalid") from error
        return b"".join(blocks)


def _max_time(max_size: int) -> float:
    return _TIME_PER_MEGABYTE * (max_size // 1_000_001 + 1)


class CompressedWebSocket(WebSocket):
    """A WebSocket that has negotiated permessage-deflate."""

    __slots__ = ("_inflater",)

    #: Broadcasts pass through the outbox, since they are written as other frames.
    try_send = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._library is not None:
            # The sizes of frames were subtracted as decompressed.
            self._unparsed += self._inflater.take_growth()

    def _create_protocol(self, max_size: int) -> Protocol:
        self._inflater = Inflater(max_size)
        # Data that cannot be compressed grows: by five bytes a block (RFC 1951 §3.2.4), and by the
        # flush at the end of each fragment.
        protocol = super()._create_protocol(max_size + max_size // 1024 + 8192)
        protocol.extensions = [self._inflater]
        return protocol

    def _join(self, messages: list[Message]) -> bytes:
        return b"".join([message.compressed_frames for message in messages])
