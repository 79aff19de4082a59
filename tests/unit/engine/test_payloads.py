"""Tests of long-polling payloads: round trips, invalid packets, base64."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webpy_socketio.engine.engineio.payloads import decode_payload, encode_payload
from webpy_socketio.engine.io.packets import MESSAGE, PONG, Message
from webpy_socketio.exceptions import ProtocolError

TEXTS = st.text(max_size=30).filter(lambda text: "\x1e" not in text)

quickly = settings(max_examples=100, deadline=None, database=None)


class TestRoundTrip:
    @given(st.lists(TEXTS | st.binary(max_size=30), min_size=1, max_size=8))
    @quickly
    def test_encoded_messages_decode_to_the_same_data(self, data: list[str | bytes]) -> None:
        body = encode_payload(
            Message(None, [item]) if isinstance(item, bytes) else Message(MESSAGE + item.encode())
            for item in data
        )
        assert list(decode_payload(body)) == [(MESSAGE, item) for item in data]

    def test_encode_payload_without_messages_is_empty(self) -> None:
        assert encode_payload([]) == b""

    def test_decode_payload_of_five_thousand_packets_returns_all(self) -> None:
        body = b"\x1e".join(b"4%d" % number for number in range(5000))
        assert [data for _, data in decode_payload(body)] == [str(n) for n in range(5000)]


class TestStrictness:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\x1e",
            b"abc",
            b"7",
            b"9",
            b" 4a",
            b"\xff",
            b"4\xff",
            b"4\xed\xa0\x80",
            b"b!!!!",
            b"bA",
            b"bYWJjZ",
            b"bYQ==YQ==",
            b"bY!Q=",
            b"bYQ\0=",
            b"b\xff\xff\xff\xff",
        ],
        ids=repr,
    )
    def test_decode_payload_invalid_packet_raises_protocol_error(self, body: bytes) -> None:
        with pytest.raises(ProtocolError):
            list(decode_payload(body))

    @pytest.mark.parametrize(
        ("text", "data"),
        [
            ("", b""),
            ("YQ", b"a"),
            ("YQ=", b"a"),
            ("YQ====", b"a"),
            ("YWI", b"ab"),
            ("YWJj\n", b"abc"),
            ("YW\r\nJj\r\n", b"abc"),
            (" \tY W\fJ\vj ", b"abc"),
            ("YQ\n=\n=", b"a"),
            ("-_-_", b"\xfb\xff\xbf"),
            ("-_+/", b"\xfb\xff\xbf"),
            ("_w", b"\xff"),
        ],
        ids=repr,
    )
    def test_decode_payload_base64_variant_returns_bytes(self, text: str, data: bytes) -> None:
        body = b"4a\x1eb" + text.encode() + b"\x1e4b"
        assert list(decode_payload(body)) == [(MESSAGE, "a"), (MESSAGE, data), (MESSAGE, "b")]

    def test_decode_payload_yields_packets_before_an_invalid_one(self) -> None:
        packets = decode_payload(b"4a\x1e3\x1eabc\x1e4b")
        assert next(packets) == (MESSAGE, "a")
        assert next(packets) == (PONG, "")
        with pytest.raises(ProtocolError):
            next(packets)

    @pytest.mark.parametrize("body", [b"\x1e" * 100_000, b"4\x1e" * 50_000], ids=["1e", "4"])
    def test_decode_payload_of_separators_uses_little_memory(self, body: bytes) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(ProtocolError):
                for _ in decode_payload(body):
                    pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 100_000

    @given(st.binary(max_size=50) | st.text("0123456b\x1e=AQY{", max_size=30).map(str.encode))
    @quickly
    def test_decode_payload_arbitrary_bytes_raises_protocol_error_only(self, body: bytes) -> None:
        packets: list[Any] = []
        with contextlib.suppress(ProtocolError):
            packets.extend(decode_payload(body))
        assert len(packets) <= body.count(b"\x1e") + 1
