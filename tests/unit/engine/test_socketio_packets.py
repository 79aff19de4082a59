"""Tests of the Socket.IO packet encoder and decoder."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.test_json import ANYTHING, VALUES, quickly
from webpy_socketio.engine.engineio.payloads import decode_payload
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import (
    ACK,
    CONNECT,
    DISCONNECT,
    EVENT,
    MAX_ATTACHMENTS,
    RESERVED_EVENTS,
    Decoder,
    Packet,
    encode_ack,
    encode_connect,
    encode_connect_error,
    encode_disconnect,
    encode_event,
)
from webpy_socketio.exceptions import EncodeError, ProtocolError

NAMESPACES = st.just("/") | st.text("abc/-_é", max_size=10).map(lambda name: "/" + name)
EVENTS = st.text(max_size=10).filter(lambda name: name not in RESERVED_EVENTS)
#: Arguments with bytes at any depth, without dicts in the form of placeholders.
ARGUMENTS = st.lists(
    VALUES | st.binary(max_size=10) | st.dictionaries(st.text(max_size=3), st.binary(max_size=5)),
    max_size=4,
)


def decode(*data: str | bytes) -> Packet:
    """Decode `data` and return the packet, which only the last item completes."""
    decoder = Decoder()
    for item in data[:-1]:
        assert decoder.feed(item) is None
    packet = decoder.feed(data[-1])
    assert packet is not None
    return packet


def transfer(message: Message) -> list[str | bytes]:
    """Encode and decode `message` as a long-polling payload, and return its parts."""
    return [data for _, data in decode_payload(message.payload)]


class TestRoundTrip:
    @given(NAMESPACES, EVENTS, ARGUMENTS, st.none() | st.integers(0, 10**15 - 1))
    @quickly
    def test_event_decodes_to_the_same_packet(
        self, namespace: str, event: str, args: list[Any], identifier: int | None
    ) -> None:
        message = encode_event(namespace, event, args, identifier)
        if message.count > 1 + MAX_ATTACHMENTS:
            return
        assert decode(*transfer(message)) == Packet(EVENT, namespace, [event, *args], identifier)

    @given(NAMESPACES, st.integers(0, 10**15 - 1), ARGUMENTS)
    @quickly
    def test_acknowledgement_decodes_to_the_same_packet(
        self, namespace: str, identifier: int, args: list[Any]
    ) -> None:
        message = encode_ack(namespace, identifier, args)
        if message.count > 1 + MAX_ATTACHMENTS:
            return
        assert decode(*transfer(message)) == Packet(ACK, namespace, args, identifier)


class TestDecoding:
    @pytest.mark.parametrize(
        ("text", "packet"),
        [
            ("0", Packet(CONNECT, "/", None, None)),
            ('0{"token":"x"}', Packet(CONNECT, "/", {"token": "x"}, None)),
            ("0/admin,", Packet(CONNECT, "/admin", None, None)),
            ("0/admin", Packet(CONNECT, "/admin", None, None)),
            ('0/admin?a=1,{"b":2}', Packet(CONNECT, "/admin", {"b": 2}, None)),
            ("1", Packet(DISCONNECT, "/", None, None)),
            ("1/admin,", Packet(DISCONNECT, "/admin", None, None)),
            ('2["a"]', Packet(EVENT, "/", ["a"], None)),
            ('212["a",1]', Packet(EVENT, "/", ["a", 1], 12)),
            ('2/admin,456["a"]', Packet(EVENT, "/admin", ["a"], 456)),
            ("3456[]", Packet(ACK, "/", [], 456)),
            ('3/admin,456["b"]', Packet(ACK, "/admin", ["b"], 456)),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_decoder_examples_of_the_protocol_return_packets(
        self, text: str, packet: Packet
    ) -> None:
        assert decode(text) == packet

    def test_decoder_attachments_replace_placeholders_by_number(self) -> None:
        text = '52-/x,7["a",{"_placeholder":true,"num":1},{"k":[{"num":0,"_placeholder":true}]}]'
        assert decode(text, b"zero", b"one") == Packet(
            EVENT, "/x", ["a", b"one", {"k": [b"zero"]}], 7
        )

    def test_decoder_binary_acknowledgement_returns_packet(self) -> None:
        assert decode('61-5[{"_placeholder":true,"num":0}]', b"x") == Packet(ACK, "/", [b"x"], 5)

    def test_decoder_after_attachments_decodes_the_next_packet(self) -> None:
        decoder = Decoder()
        for content in (b"1", b"2"):
            assert decoder.feed('51-["a",{"_placeholder":true,"num":0}]') is None
            packet = decoder.feed(content)
            assert packet is not None
            assert packet.data == ["a", content]
        assert decoder.feed('2["b"]') == Packet(EVENT, "/", ["b"], None)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "abc",
            "7",
            "9",
            "-1",
            "2",
            "2{}",
            "2[]",
            '2["a"',
            '2["a"]x',
            "2[null]",
            '2[["a"]]',
            "2null",
            '2"a"',
            '2["a",NaN]',
            '2["\ud800"]',
            "2" + "[" * 100_000,
            '21234567890123456["a"]',
            '2٣["a"]',
            '2/a["b"]',
            f'2/{"n" * 300},["a"]',
            "0[]",
            '0"x"',
            "01{}",
            "0null1",
            "1{}",
            "11",
            "3[]",
            "3",
            "31",
            "31{}",
            "4",
            '4{"message":"x"}',
            "5",
            '5["a"]',
            '5-["a"]',
            '5x-["a"]',
            '51["a"]',
            '21-["a",{"_placeholder":true,"num":0}]',
            "01-{}",
            f'5{MAX_ATTACHMENTS + 1}-["a"]',
            '59999-["a"]',
            "51-",
            "51-{}",
            "61-[]",
        ],
        ids=lambda text: ascii(text[:24]),
    )
    def test_decoder_invalid_packet_raises_protocol_error(self, text: str) -> None:
        with pytest.raises(ProtocolError):
            Decoder().feed(text)

    @pytest.mark.parametrize("name", sorted(RESERVED_EVENTS))
    def test_decoder_reserved_event_raises_protocol_error(self, name: str) -> None:
        with pytest.raises(ProtocolError):
            Decoder().feed(f'2["{name}"]')

    @pytest.mark.parametrize(
        "text",
        [
            '2["a",{"_placeholder":true,"num":0}]',
            '2["a",[{"k":{"_placeholder":true,"num":0}}]]',
            '2["a",{"\\u005fplaceholder":true,"num":0}]',
            '31[{"_placeholder":true,"num":0}]',
            '0{"a":{"_placeholder":true,"num":0}}',
            '50-["a",{"_placeholder":true,"num":0}]',
        ],
    )
    def test_decoder_placeholder_without_attachments_is_data(self, text: str) -> None:
        packet = Decoder().feed(text)
        assert packet is not None
        assert "'_placeholder': True" in str(packet.data)

    def test_decoder_placeholder_that_is_not_true_is_data(self) -> None:
        data = ["a", "_placeholder", {"_placeholder": False}, {"_placeholder": 1}]
        assert (
            decode('2["a","_placeholder",{"_placeholder":false},{"_placeholder":1}]').data == data
        )

    @pytest.mark.parametrize(
        ("count", "numbers"),
        [
            (1, ["1"]),
            (1, ["-1"]),
            (1, ['"0"']),
            (1, ["0.0"]),
            (1, ["false"]),
            (1, ["null"]),
            (1, ["[]"]),
            (1, ["1e30"]),
            (2, ["0", "0"]),
            (2, ["0", "false"]),
            (1, ["0", "0"]),
            (2, ["0"]),
            (1, []),
        ],
    )
    def test_decoder_mismatching_placeholders_raise_protocol_error(
        self, count: int, numbers: list[str]
    ) -> None:
        decoder = Decoder()
        places = "".join(f',{{"_placeholder":true,"num":{number}}}' for number in numbers)
        decoder.feed(f'5{count}-["a"{places}]')
        for _ in range(count - 1):
            assert decoder.feed(b"x") is None
        with pytest.raises(ProtocolError, match="placeholders"):
            decoder.feed(b"x")

    def test_decoder_placeholder_without_number_raises_protocol_error(self) -> None:
        decoder = Decoder()
        decoder.feed('51-["a",{"_placeholder":true}]')
        with pytest.raises(ProtocolError):
            decoder.feed(b"x")

    def test_decoder_unexpected_attachment_raises_protocol_error(self) -> None:
        with pytest.raises(ProtocolError):
            Decoder().feed(b"x")

    def test_decoder_text_before_attachments_raises_protocol_error(self) -> None:
        decoder = Decoder()
        decoder.feed('51-["a",{"_placeholder":true,"num":0}]')
        with pytest.raises(ProtocolError):
            decoder.feed('2["b"]')

    @given(st.text(max_size=30) | st.from_regex(r"\A[0-6]([0-9]{1,3}-)?(/[a-z]*,)?[0-9]*.{0,20}"))
    @quickly
    def test_decoder_arbitrary_text_raises_protocol_error_only(self, text: str) -> None:
        with contextlib.suppress(ProtocolError):
            packet = Decoder().feed(text)
            assert packet is None or packet.namespace.startswith("/")

    @given(
        st.lists(
            st.binary(max_size=3)
            | st.builds(
                lambda count, numbers: (
                    f'5{count}-["a"'
                    + "".join(f',{{"_placeholder":true,"num":{n}}}' for n in numbers)
                    + "]"
                ),
                st.integers(0, 3),
                st.lists(st.sampled_from(["0", "1", "2", "-1", "null", "0.5"]), max_size=3),
            ),
            max_size=6,
        )
    )
    @settings(max_examples=150, deadline=None, database=None)
    def test_decoder_arbitrary_attachments_raise_protocol_error_only(
        self, items: list[str | bytes]
    ) -> None:
        decoder = Decoder()
        with contextlib.suppress(ProtocolError):
            for item in items:
                packet = decoder.feed(item)
                assert packet is None or packet.data[0] == "a"


class TestEncoding:
    @pytest.mark.parametrize(
        ("message", "payload"),
        [
            (encode_event("/", "a", [1]), b'42["a",1]'),
            (encode_event("/x", "a", [], 3), b'42/x,3["a"]'),
            (encode_event("/", "a", [b"\1"]), b'451-["a",{"_placeholder":true,"num":0}]\x1ebAQ=='),
            (encode_ack("/x", 0, [None]), b"43/x,0[null]"),
            (encode_connect("/", "id"), b'40{"sid":"id"}'),
            (encode_connect_error("/x", "no"), b'44/x,{"message":"no"}'),
            (encode_disconnect("/"), b"41"),
            (encode_disconnect("/x"), b"41/x,"),
        ],
    )
    def test_encoders_return_payloads_of_the_protocol(
        self, message: Message, payload: bytes
    ) -> None:
        assert message.payload == payload

    @pytest.mark.parametrize("name", [*sorted(RESERVED_EVENTS), 1, None, b"a"])
    def test_encode_event_invalid_name_raises_encode_error(self, name: Any) -> None:
        with pytest.raises(EncodeError):
            encode_event("/", name, [])

    @given(ANYTHING)
    @quickly
    def test_nothing_but_an_encode_error_escapes(self, value: Any) -> None:
        with contextlib.suppress(EncodeError):
            message = encode_event("/", "a", [value])
            assert message.payload.startswith((b'42["a",', b"45"))
