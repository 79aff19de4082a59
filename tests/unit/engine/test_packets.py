"""A message is encoded once, for both transports."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from webpy_socketio.engine.io import packets
from webpy_socketio.engine.io.packets import MESSAGE, Message, decode_packet


def read_frames(data: bytes) -> list[tuple[Opcode, bytes]]:
    """Return the frames as a client parses them."""
    client = Protocol(CLIENT, state=OPEN, max_size=None)
    client.receive_data(data)
    frames = client.events_received()
    assert client.parser_exc is None
    assert all(isinstance(frame, Frame) and frame.fin for frame in frames)
    return [(frame.opcode, bytes(frame.data)) for frame in frames if isinstance(frame, Frame)]


class TestMessage:
    @given(
        st.none() | st.text(max_size=300).map(str.encode),
        st.lists(st.binary(max_size=300), max_size=4),
    )
    @settings(max_examples=60, deadline=None, database=None)
    def test_frames_and_payload_have_the_same_content(
        self, text: bytes | None, attachments: list[bytes]
    ) -> None:
        message = Message(text, attachments)
        expected = [] if text is None else [(Opcode.TEXT, text)]
        expected += [(Opcode.BINARY, data) for data in attachments]
        assert read_frames(message.frames) == expected
        assert message.count == len(expected)
        assert message.size == len(message.frames)
        parts = [] if text is None else [text]
        parts += [b"b" + base64.b64encode(data) for data in attachments]
        assert message.payload == packets.SEPARATOR.join(parts)

    @given(
        st.none() | st.text(max_size=300).map(str.encode),
        st.lists(st.binary(max_size=300), max_size=4),
    )
    @settings(max_examples=60, deadline=None, database=None)
    def test_base64_frames_are_the_payload_as_text(
        self, text: bytes | None, attachments: list[bytes]
    ) -> None:
        message = Message(text, attachments)
        frames = read_frames(message.base64_frames)
        assert all(opcode is Opcode.TEXT for opcode, _ in frames)
        assert packets.SEPARATOR.join(data for _, data in frames) == message.payload

    def test_frame_lengths_at_the_boundaries(self) -> None:
        for length in (0, 125, 126, 65_535, 65_536):
            data = b"x" * length
            assert read_frames(Message(data).frames) == [(Opcode.TEXT, data)]

    def test_encoded_payload_is_cached(self) -> None:
        message = Message(b"4hello", [b"\0"])
        assert message.payload is message.payload
        assert message.frames is message.frames
        assert message.base64_frames is message.base64_frames
        text = Message(b"4hello")
        assert text.base64_frames is text.frames

    def test_repr_shows_text_and_attachments(self) -> None:
        assert repr(Message(b"4hi", [b"a", b"b"])) == "<Message b'4hi' +2>"


class TestPacketTypes:
    def test_packet_types_match_the_protocol(self) -> None:
        names = ("OPEN", "CLOSE", "PING", "PONG", "MESSAGE", "UPGRADE", "NOOP")
        assert [getattr(packets, name) for name in names] == [b"%d" % n for n in range(7)]


class TestDecodePacket:
    def test_decode_packet_returns_type_and_text(self) -> None:
        assert decode_packet("4grüße".encode()) == (MESSAGE, "grüße")

    def test_decode_packet_base64_prefix_returns_bytes(self) -> None:
        assert decode_packet(b"bYQ==") == (MESSAGE, b"a")

    def test_decode_packet_base64_not_utf8_raises_unicode_error(self) -> None:
        with pytest.raises(UnicodeDecodeError):
            decode_packet(b"bYQ\xff")
