"""The WebSocket transport: RFC 6455 by the `websockets` library, on top of a `Stream`.

The library's Sans-I/O protocol parses and serializes frames. This module joins fragments, limits
their number, checks UTF-8, and implements the upgrade of Engine.IO protocol v4.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from websockets.exceptions import InvalidState
from websockets.exceptions import ProtocolError as LibraryError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side, State

from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.frames import (
    CLOSE,
    encode,
    short_frame,
    size_on_the_wire,
    whole_text,
)
from webpy_socketio.engine.io.json import MAX_DEPTH
from webpy_socketio.engine.io.native import read_events
from webpy_socketio.engine.io.packets import (
    MESSAGE,
    PING,
    PONG,
    PROBE,
    UPGRADE,
    Message,
    decode_packet,
)
from webpy_socketio.engine.io.streams import Stream
from webpy_socketio.exceptions import ProtocolError

__all__ = ["WebSocket"]

#: Maximum number of fragments of a message. The library limits the bytes of a message only, so it
#: would store a million empty fragments.
MAX_FRAGMENTS = 1024


# The library logs every connection at INFO, and frames at DEBUG.
_quiet = logging.getLogger(__name__)
_quiet.setLevel(logging.WARNING)


class WebSocket:
    """The transport of a session, or a candidate that is being probed to replace long-polling.

    Args:
        session: The session.
        stream: The stream of the connection.
        max_size: Maximum size of a message in bytes; a larger one closes with code 1009.
        outbox_bytes: Maximum size of unwritten pongs in bytes; more close the WebSocket with 1008.
        probed: Called when the probe of a candidate arrives.
        upgraded: Called when the client completes the upgrade. Given for candidates only.
        dropped: Called when a candidate is lost before its upgrade.
        base64: Send binary messages as base64 in text frames.
    """

    __slots__ = (
        "_base64",
        "_candidate",
        "_closing",
        "_dropped",
        "_fragments",
        "_library",
        "_max_size",
        "_opcode",
        "_outbox",
        "_outbox_bytes",
        "_probed",
        "_session",
        "_stream",
        "_unparsed",
        "_upgraded",
    )

    name = "websocket"

    def __init__(
        self,
        session: Session,
        stream: Stream,
        max_size: int,
        outbox_bytes: int,
        probed: Callable[[Session], None] | None = None,
        upgraded: Callable[[Session, WebSocket], None] | None = None,
        dropped: Callable[[Session], None] | None = None,
        base64: bool = False,
    ) -> None:
        self._session = session
        self._outbox = session.outbox
        self._stream = stream
        #: The protocol of the library, created when it is first needed: it takes 1 KB.
        self._library: Protocol | None = None
        self._max_size = max_size
        self._outbox_bytes = outbox_bytes
        self._probed = probed
        self._upgraded = upgraded
        self._dropped = dropped
        self._base64 = base64
        self._candidate = upgraded is not None
        self._fragments: list[bytes] = []
        self._opcode = Opcode.TEXT
        self._closing = False
        # Bytes of incomplete frames in the library. Frames with an overlong length field leave a
        # remainder, which is harmless: 0 still implies that the next byte starts a frame.
        self._unparsed = 0

    @property
    def _protocol(self) -> Protocol:
        if self._library is None:
            self._library = self._create_protocol(self._max_size)
        return self._library

    def _create_protocol(self, max_size: int) -> Protocol:
        return Protocol(Side.SERVER, max_size=max_size, logger=_quiet)

    def answer(self, response: bytes) -> None:
        """Write the handshake response, followed by the messages that are already queued."""
        messages = [] if self._candidate else self._outbox.take()
        self._write(response + self._join(messages))

    def start(self, first: bytes = b"") -> None:
        """Start reading; `first` are bytes received after the handshake."""
        self._stream.start(self, first)

    # -- Transport: called by the session and its outbox

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
        # Broadcasts write the same frames to all recipients, which excludes base64.
        return None if self._base64 else self._stream.try_send

    def flush(self) -> None:
        outbox = self._outbox
        # While the kernel's buffer is full, messages stay in the outbox, which limits their size.
        if not outbox.unsent and outbox:
            self._write(self._join(outbox.take()))

    def close(self, code: int, reason: str) -> None:
        if self._closing:
            return
        self._closing = True
        if self._session.transport is self:
            messages = self._outbox.take()
            if messages:
                self._write(self._join(messages))
        with contextlib.suppress(InvalidState):  # the client has already sent a close frame
            # A control frame has at most 125 bytes, two of them for the code (RFC 6455 §5.5).
            self._protocol.send_close(code, reason.encode()[:123].decode(errors="ignore"))
        self._write_protocol()
        self._stream.close()

    def abort(self) -> None:
        self._closing = True
        self._stream.abort()

    def unsent(self) -> int:
        return self._stream.unsent

    def pause(self) -> None:
        self._stream.pause()

    def resume(self) -> None:
        self._stream.resume()

    # -- called by the stream

    def data_received(self, data: bytes) -> None:
        try:
            if not self._unparsed and not self._fragments:
                if self._session.reads_events and not self._candidate:
                    # A depth beyond the limit needs more brackets than that.
                    events, size = read_events(data, self._max_size, MAX_DEPTH)
                    for event in events:
                        self._session.receive_event(*event)
                        if self._closing:
                            return
                    if size == len(data):
                        return
                    if size:
                        data = data[size:]
                text = whole_text(data, self._max_size)
                if text is not None:
                    self._receive_text(text)
                    return
                if self._library is None:
                    data = self._receive_short_frames(data)
                    if not data or self._closing:
                        return
            self._unparsed += len(data)
            protocol = self._protocol
            protocol.receive_data(data)
            for frame in protocol.events_received():
                if isinstance(frame, Frame):
                    self._unparsed -= size_on_the_wire(len(frame.data))
                    self._receive_frame(frame)
                if self._closing:
                    return
        except ProtocolError as error:
            self.give_up("parse error", error.close_code)
            return
        if protocol.state is not State.OPEN:
            self._handle_close()
        elif protocol.writes:
            self._write_protocol()
            if self._stream.unsent > self._outbox_bytes:  # the client does not read the pongs
                self.give_up("slow reader", 1008)
                self.abort()

    def resume_writing(self) -> None:
        if not self._candidate:  # the session's messages are still written by long-polling
            self._outbox.unsent = 0
            self.flush()

    def connection_lost(self, reason: str) -> None:
        self._closing = True
        self.give_up(reason, 1006)
        self._release()

    def _release(self) -> None:
        """Release this WebSocket after its stream was closed."""
        if self._session.transport is self and not self._session.open:
            self._session.transport_ended()

    def give_up(self, reason: str, code: int) -> None:
        """Close this WebSocket, and its session unless this is only a candidate."""
        if self._candidate:
            self.close(code, "")
            if self._dropped is not None:
                self._dropped(self._session)
        else:
            self._session.close(reason, code)

    def _handle_close(self) -> None:
        """Handle a close frame or protocol error; the library has already queued the response."""
        self._closing = True
        if not self._candidate:
            self._outbox.close()
        close = self._protocol.close_rcvd
        if close is not None and self._fragments:
            # The library treats a close frame between fragments as an error. It is valid, and its
            # code is echoed (RFC 6455 §5.4 and §5.5.1).
            self._protocol.data_to_send()
            data = b"" if close.code == CloseCode.NO_STATUS_RCVD else close.serialize()
            self._write(Frame(Opcode.CLOSE, data).serialize(mask=False))
        self._write_protocol()
        self._end(None if close is None else close.code)

    def _join(self, messages: list[Message]) -> bytes:
        if self._base64:
            return b"".join([message.base64_frames for message in messages])
        return b"".join([message.frames for message in messages])

    def _write_protocol(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data:
            self._write(data)

    def _write(self, data: bytes) -> None:
        unsent = self._stream.write(data)
        if not self._candidate:  # the session's messages are still written by long-polling
            self._outbox.unsent = unsent

    # -- frames to packets

    def _receive_short_frames(self, data: bytes) -> bytes:
        """Handle short frames without the library; return the data that it must parse."""
        start = 0
        while (frame := short_frame(data, start, self._max_size)) is not None:
            opcode, payload, end = frame
            if opcode == CLOSE:
                try:
                    close = Close.parse(payload)
                except (UnicodeDecodeError, LibraryError):
                    break
                self._answer_close(close.code, payload)
                return b""
            self._receive_text(payload)
            if self._closing:
                return b""
            start = end
        return data[start:]

    def _answer_close(self, code: int, payload: bytes) -> None:
        """Echo a close frame, as the library does, and close."""
        self._closing = True
        if not self._candidate:
            self._session.count()
            self._outbox.close()
        self._write(encode(CLOSE, payload))
        self._end(code)

    def _end(self, code: int | None) -> None:
        """Close after the close frame of the client, or after a protocol error (None)."""
        if code is None:
            self._stream.close()
        else:
            self._stream.end()
        is_paused = self._candidate and self._probed is None
        if code == CloseCode.GOING_AWAY:
            # The page was closed (RFC 6455 §7.4.1), even if its session still uses long-polling.
            self._session.client_left = True
        self.give_up("parse error" if code is None else "transport close", 1000)
        if code == CloseCode.GOING_AWAY and is_paused:
            # After the probe the client has no GET in progress, whose end would close the session.
            self._session.close("transport close")
        self._release()

    def _receive_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            self._receive_text(bytes(frame.data))
        elif opcode is Opcode.BINARY and frame.fin:
            self._receive_binary(bytes(frame.data))
        elif opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._receive_fragment(frame)
        elif not self._candidate:
            self._session.count()

    def _receive_fragment(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._opcode = frame.opcode
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > MAX_FRAGMENTS:
            raise _too_many_fragments()
        if not frame.fin:
            return
        data = b"".join(self._fragments)
        self._fragments = []
        if self._opcode is Opcode.TEXT:
            self._receive_text(data)
        else:
            self._receive_binary(data)

    def _receive_text(self, data: bytes) -> None:
        try:
            kind, content = decode_packet(data)
        except UnicodeDecodeError:
            raise _not_utf8() from None
        if self._candidate:
            self._receive_as_candidate(kind, content)
        else:
            self._session.receive(kind, content)

    def _receive_binary(self, data: bytes) -> None:
        if self._candidate:
            raise ProtocolError("message received before the upgrade was completed")
        self._session.receive(MESSAGE, data)

    def _receive_as_candidate(self, kind: bytes, content: str | bytes) -> None:
        if kind == PING and content == PROBE.decode() and self._probed is not None:
            self._write(Message(PONG + PROBE).frames)
            self._probed(self._session)
            self._probed = None
        elif kind == UPGRADE and self._probed is None and self._upgraded is not None:
            self._candidate = False
            self._upgraded(self._session, self)
        else:
            raise ProtocolError("unexpected packet while probing the WebSocket")


def _not_utf8() -> ProtocolError:
    error = ProtocolError("text message is not valid UTF-8")
    error.close_code = 1007
    return error


def _too_many_fragments() -> ProtocolError:
    error = ProtocolError(f"message has more than {MAX_FRAGMENTS} fragments")
    error.close_code = 1009
    return error
