"""The WebSocket transport: frames by the `websockets` library, bytes by a `Stream`.

RFC 6455 through the library's Sans-I/O protocol; what it leaves to its user is done here: UTF-8
across fragments, a cap on fragments, and the upgrade of Engine.IO protocol v4.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side, State

from webpy_socketio.engine.engineio.payloads import decode_packet
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.frames import size_on_the_wire, whole_text
from webpy_socketio.engine.io.packets import MESSAGE, PING, PONG, PROBE, UPGRADE, Message
from webpy_socketio.engine.io.streams import Stream
from webpy_socketio.exceptions import ProtocolError

__all__ = ["WebSocket"]

#: Pieces a message may come in. The library bounds a message's bytes, not its fragments: a million
#: empty ones would be kept.
MAX_FRAGMENTS = 1024


# The library logs each connection at INFO; its debug log is not for production either.
_quiet = logging.getLogger(__name__)
_quiet.setLevel(logging.WARNING)


class WebSocket:
    """One WebSocket: a session's transport, or a candidate that wants to become it.

    A message has at most `max_size` bytes; beyond `outbox_bytes`, unread pongs end it.
    `upgraded` is called when a candidate has shown that it works and the client says so; `probed`
    when the probe arrives; `dropped` if it is lost before. With `base64`, bytes are sent as base64
    in text frames.
    """

    __slots__ = (
        "_base64",
        "_candidate",
        "_closing",
        "_dropped",
        "_fragments",
        "_max_size",
        "_opcode",
        "_outbox",
        "_outbox_bytes",
        "_probed",
        "_protocol",
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
        self._protocol = Protocol(Side.SERVER, max_size=max_size, logger=_quiet)
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
        # Bytes that the library has not made a frame of; frames that are longer than they had to be
        # count too, which is no harm: zero always means that the next byte begins a frame.
        self._unparsed = 0

    def answer(self, response: bytes) -> None:
        """Complete the handshake; what the session has to say at once goes with it."""
        messages = [] if self._candidate else self._outbox.take()
        self._write(response + self._join(messages))

    def start(self, first: bytes = b"") -> None:
        """Begin to read; `first` came right behind the handshake."""
        self._stream.start(self, first)

    # -- what the session asks of its transport

    @property
    def try_send(self) -> Callable[[bytes], int] | None:
        # Frames that are written directly are the same for all recipients of a broadcast.
        return None if self._base64 else self._stream.try_send

    def flush(self) -> None:
        outbox = self._outbox
        # While the kernel is full, messages wait in the outbox, where they are counted.
        if not outbox.unsent and outbox:
            self._write(self._join(outbox.take()))

    def close(self, code: int, reason: str) -> None:
        if self._closing:
            return
        self._closing = True
        if self._session.transport is self:
            # Whatever waits goes before the goodbye; the stream keeps what the kernel cannot take.
            waiting = self._outbox.take()
            if waiting:
                self._write(self._join(waiting))
        with contextlib.suppress(InvalidState):  # the client was quicker
            # A control frame has 125 bytes, two of them for the code (RFC 6455, 5.5).
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

    # -- what the stream tells

    def data_received(self, data: bytes) -> None:
        protocol = self._protocol
        try:
            if not self._unparsed and not self._fragments:
                text = whole_text(data, self._max_size)
                if text is not None:
                    self._receive_text(text)
                    return
            self._unparsed += len(data)
            protocol.receive_data(data)
            for frame in protocol.events_received():
                if isinstance(frame, Frame):
                    self._unparsed -= size_on_the_wire(len(frame.data))
                    self._take(frame)
                if self._closing:
                    return
        except ProtocolError as error:
            self.give_up("parse error", error.close_code)
            return
        if protocol.state is not State.OPEN:
            self._end_by_protocol()
        elif protocol.writes:
            self._write_protocol()
            if self._stream.unsent > self._outbox_bytes:  # pings, and nobody reads the pongs
                self.give_up("slow reader", 1008)
                self.abort()

    def resume_writing(self) -> None:
        if not self._candidate:  # whose session's messages are another transport's to write
            self._outbox.unsent = 0
            self.flush()

    def connection_lost(self, reason: str) -> None:
        self._closing = True
        self.give_up(reason, 1006)

    def give_up(self, reason: str, code: int) -> None:
        """End this WebSocket; and with it the session, unless it was only a candidate."""
        if self._candidate:
            self.close(code, "")
            if self._dropped is not None:
                self._dropped(self._session)
        else:
            self._session.close(reason, code)

    def _end_by_protocol(self) -> None:
        """The other side closed, or broke the rules: the library has written our answer."""
        self._closing = True
        if not self._candidate:
            self._outbox.close()  # nobody reads it any more
        close = self._protocol.close_rcvd
        if close is not None and self._fragments:
            # The library takes a goodbye between fragments for an error. It is none: control frames
            # may come there, and the code is echoed as ever (RFC 6455, 5.4 and 5.5.1).
            self._protocol.data_to_send()
            data = b"" if close.code == CloseCode.NO_STATUS_RCVD else close.serialize()
            self._write(Frame(Opcode.CLOSE, data).serialize(mask=False))
        self._write_protocol()
        self._stream.close()
        self.give_up("parse error" if close is None else "transport close", 1000)

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
        if not self._candidate:  # whose session's messages are another transport's to write
            self._outbox.unsent = unsent

    # -- frames to packets

    def _take(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            self._receive_text(bytes(frame.data))
        elif opcode is Opcode.BINARY and frame.fin:
            self._receive_binary(bytes(frame.data))
        elif opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._take_fragment(frame)
        elif not self._candidate:
            self._session.count()

    def _take_fragment(self, frame: Frame) -> None:
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
            raise ProtocolError("a message before the upgrade was completed")
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
            raise ProtocolError("not the way a WebSocket is probed")


def _not_utf8() -> ProtocolError:
    error = ProtocolError("text that is not UTF-8")
    error.close_code = 1007
    return error


def _too_many_fragments() -> ProtocolError:
    error = ProtocolError(f"a message in more than {MAX_FRAGMENTS} fragments")
    error.close_code = 1009
    return error
