"""MessagePack: packets as ``socket.io-msgpack-parser`` encodes them, and hostile messages."""

from __future__ import annotations

import datetime
import enum
import math
import struct
import tracemalloc
from dataclasses import dataclass
from typing import Any

import msgpack
import orjson
import pytest

from webpy_socketio.engine.io.json import MAX_DEPTH
from webpy_socketio.engine.io.msgpack import MAX_CONTAINERS
from webpy_socketio.engine.io.notepack import MAX_EXTENSIONS
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio import msgpack as parser
from webpy_socketio.engine.socketio import packets
from webpy_socketio.engine.socketio.packets import (
    ACK,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
    RESERVED_EVENTS,
    Packet,
)
from webpy_socketio.engine.socketio.parser import as_json, read_event
from webpy_socketio.exceptions import ContentError, EncodeError, ProtocolError

UNDEFINED = b"\xd4\x00\x00"


def date(milliseconds: int) -> bytes:
    return b"\xd7\x00" + struct.pack(">q", milliseconds)


def array_buffer(data: bytes) -> bytes:
    return b"\xc7" + bytes([len(data)]) + b"\x00" + data


def text(value: str) -> bytes:
    return bytes(msgpack.packb(value))


def event(*items: bytes, head: bytes = b"\x02") -> bytes:
    """Return an event "x" whose arguments are given as MessagePack."""
    data = b"\xdd" + struct.pack(">I", len(items) + 1) + text("x") + b"".join(items)
    return b"\x83" + text("type") + head + text("data") + data + text("nsp") + text("/")


def decode(data: bytes) -> Packet:
    return parser.new_decoder().feed(data)


def decode_fields(**fields: Any) -> Packet:
    return decode(msgpack.packb(fields))


def argument(data: bytes) -> Any:
    """Return the argument of an event whose only argument is given as MessagePack."""
    packet = decode(event(data))
    assert packet.error is None
    assert len(packet.data) == 2
    return packet.data[1]


def error_of(data: bytes) -> str:
    """Return why the event with an argument given as MessagePack is dropped."""
    packet = decode(event(data))
    assert (packet.type, packet.namespace, packet.data) == (EVENT, "/", None)
    assert isinstance(packet.error, ContentError)
    return str(packet.error)


def encoded(message: Message) -> Any:
    assert message.text is None
    (data,) = message.attachments
    return msgpack.unpackb(data)


class TestDecoding:
    def test_decoder_event_returns_packet(self) -> None:
        # As socket.io-client sends it: with options, and without an id.
        packet = decode_fields(type=2, data=["x", {"a": [1]}], options={"compress": True}, nsp="/n")
        assert packet == Packet(EVENT, "/n", ["x", {"a": [1]}], None)

    @pytest.mark.parametrize("auth", [UNDEFINED, b"\xc0", b"\x81\xa1a\x01"])
    def test_decoder_connect_returns_auth(self, auth: bytes) -> None:
        data = b"\x83" + text("type") + b"\x00" + text("data") + auth + text("nsp") + text("/")
        expected = {"a": 1} if auth == b"\x81\xa1a\x01" else None
        assert decode(data) == Packet(CONNECT, "/", expected, None)

    def test_decoder_ack_and_disconnect_return_packets(self) -> None:
        assert decode_fields(type=3, data=[1], id=7, nsp="/") == Packet(ACK, "/", [1], 7)
        assert decode_fields(type=1, nsp="/") == Packet(DISCONNECT, "/", None, None)

    def test_decoder_namespace_with_query_ignores_query(self) -> None:
        assert decode_fields(type=0, nsp="/chat?token=x").namespace == "/chat"

    def test_decoder_size_is_size_of_last_message(self) -> None:
        decoder = parser.new_decoder()
        data = event(b"\x01")
        decoder.feed(data)
        assert decoder.size == len(data)

    def test_decoder_numeric_event_name_becomes_text(self) -> None:
        assert decode_fields(type=2, data=[1.5], nsp="/").data == ["1.5"]

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"\xcf" + b"\xff" * 8, 2**64 - 1),
            (b"\xd3\x80" + bytes(7), -(2**63)),
            (b"\xca\x3f\x80\x00\x00", 1.0),
            (b"\xc4\x02\x00\xff", b"\x00\xff"),
            (b"\x91\x81\xa1a\xc4\x01\x01", [{"a": b"\x01"}]),
            (UNDEFINED, None),
            (date(0), "1970-01-01T00:00:00.000Z"),
            (date(-1), "1969-12-31T23:59:59.999Z"),
            (date(1_767_225_600_123), "2026-01-01T00:00:00.123Z"),
            (array_buffer(b""), b""),
            (array_buffer(b"abc"), b"abc"),
            (b"\x92" + UNDEFINED + array_buffer(b"\x00"), [None, b"\x00"]),
            (b"\x92" + array_buffer(bytes(8)) + date(0), [bytes(8), "1970-01-01T00:00:00.000Z"]),
            (b"\xc8\x00\x08\x00" + bytes(8), bytes(8)),
            (b"\xc9\x00\x00\x00\x01\x00\x05", b"\x05"),
            # The extensions are values here, not a part of text or bytes.
            (b"\x92\xc4\x03\xd4\x00\x00" + array_buffer(b"\x07"), [UNDEFINED, b"\x07"]),
            (b"\x82\xa1a" + date(0) + b"\xa3\xc7\x01\x00\x01"[:1] + b"abc\x01", {
                "a": "1970-01-01T00:00:00.000Z", "abc": 1}),
        ],
    )  # fmt: skip
    def test_decoder_value_returns_json_or_bytes(self, data: bytes, expected: Any) -> None:
        assert argument(data) == expected

    def test_decoder_every_format_is_scanned(self) -> None:
        """Between ambiguous extensions, each other format must be skipped exactly."""
        values = [
            *(0, 127, -1, 200, 40_000, 2**31, 2**40, -100, -1000, -40_000, -(2**40), 1.5),
            *("", "a" * 31, "a" * 200, "a" * 300, "a" * 70_000, b"", b"a" * 300, b"a" * 70_000),
            *(None, True, False, [], [1] * 20, [1] * 70_000, {}, {str(n): n for n in range(20)}),
        ]
        single = b"\xca\x3f\x80\x00\x00"
        long = b"\xc8\x01\x2c\x00" + bytes(300), b"\xc9\x00\x00\x01\x2c\x00" + bytes(300)
        for value in (*(msgpack.packb(value) for value in values), single, *long):
            # 70,000 numbers exceed the values that are scanned.
            if len(value) > 140_000:
                continue
            data = b"\x93" + array_buffer(bytes(8)) + value + date(0)
            packet = decode(event(data))
            if packet.error is not None:
                assert "values" in str(packet.error)
                assert value[:1] in (b"\xdc", b"\xdd")
            else:
                assert packet.data[1][0] == bytes(8)
                assert packet.data[1][2] == "1970-01-01T00:00:00.000Z"

    @pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
    @pytest.mark.parametrize("form", [b"\xca", b"\xcb"])
    def test_decoder_non_finite_number_becomes_none(self, number: str, form: bytes) -> None:
        data = form + struct.pack({b"\xca": ">f", b"\xcb": ">d"}[form], float(number))
        assert argument(b"\x93\x01" + data + b"\x81\xa1a" + data) == [1, None, {"a": None}]


MALFORMED = {
    "empty": b"",
    "truncated": event(b"\x01")[:-1],
    "truncated text": b"\xdb\xff\xff\xff\xffabc",
    "truncated bytes": b"\xc6\xff\xff\xff\xff",
    "truncated list": b"\xdd\xff\xff\xff\xff",
    "truncated map": b"\xdf\xff\xff\xff\xff",
    "unused type": event(b"\xc1"),
    "data after the packet": event(b"\x01") + b"\xc0",
    "data after a packet that would be dropped": event(b"\x81\x01\x01") + b"\xc0",
    "invalid UTF-8": event(b"\xa1\xff"),
    "surrogates": event(b"\xa3\xed\xa0\x80"),
    "invalid timestamp": event(b"\xc7\x03\xffabc"),
    "not a map": b"\x93\x02\xa1/\x90",
    "100,000 levels": event(b"\x91" * 100_000 + b"\xc0"),
    "100,000 levels of maps": event(b"\x81\xa1a" * 100_000 + b"\xc0"),
    "100,000 levels without an end": b"\x91" * 100_000,
}

INVALID: dict[str, dict[str, Any]] = {
    "no type": {"nsp": "/"},
    "boolean type": {"type": True, "nsp": "/", "data": ["x"]},
    "floating-point type": {"type": 2.0, "nsp": "/", "data": ["x"]},
    "unknown type": {"type": 5, "nsp": "/", "data": ["x"]},
    "negative type": {"type": -1, "nsp": "/"},
    "CONNECT_ERROR": {"type": CONNECT_ERROR, "nsp": "/", "data": {"message": "x"}},
    "no namespace": {"type": 2, "data": ["x"]},
    "relative namespace": {"type": 2, "nsp": "chat", "data": ["x"]},
    "namespace with comma": {"type": 0, "nsp": "/a,b"},
    "long namespace": {"type": 0, "nsp": "/" + "a" * 256},
    "binary namespace": {"type": 0, "nsp": b"/"},
    "negative id": {"type": 2, "nsp": "/", "data": ["x"], "id": -1},
    "huge id": {"type": 2, "nsp": "/", "data": ["x"], "id": 10**15},
    "boolean id": {"type": 2, "nsp": "/", "data": ["x"], "id": True},
    "textual id": {"type": 2, "nsp": "/", "data": ["x"], "id": "1"},
    "auth that is no map": {"type": 0, "nsp": "/", "data": ["x"]},
    "CONNECT with an id": {"type": 0, "nsp": "/", "id": 1},
    "DISCONNECT with data": {"type": 1, "nsp": "/", "data": ["x"]},
    "event without data": {"type": 2, "nsp": "/"},
    "event without a name": {"type": 2, "nsp": "/", "data": []},
    "event that is a map": {"type": 2, "nsp": "/", "data": {"x": 1}},
    "event with a name of bytes": {"type": 2, "nsp": "/", "data": [b"x"]},
    "event with a name that is NaN": {"type": 2, "nsp": "/", "data": [math.nan]},
    "ack without an id": {"type": 3, "nsp": "/", "data": []},
    **{name: {"type": 2, "nsp": "/", "data": [name]} for name in sorted(RESERVED_EVENTS)},
}


class TestErrors:
    @pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
    def test_decoder_malformed_message_raises_protocol_error(self, data: bytes) -> None:
        with pytest.raises(ProtocolError):
            decode(data)

    @pytest.mark.parametrize("fields", INVALID.values(), ids=INVALID)
    def test_decoder_invalid_packet_raises_protocol_error(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ProtocolError):
            decode_fields(**fields)

    def test_decoder_text_raises_protocol_error(self) -> None:
        with pytest.raises(ProtocolError, match=r"socket\.io-msgpack-parser"):
            parser.new_decoder().feed('2["x"]')

    @pytest.mark.parametrize("level", [b"\x91", b"\x81\xa1a"])
    def test_decoder_deep_event_is_dropped(self, level: bytes) -> None:
        fits = MAX_DEPTH - 2  # the list of arguments, and the innermost empty list
        assert argument(level * fits + b"\x90")
        assert "nested deeper" in error_of(level * (fits + 1) + b"\x90")
        assert "nested deeper" in error_of(level * 300 + b"\x90")
        assert "nested deeper" in error_of(
            b"\x92" + b"\xd9\xff" + b"a" * 255 + level * 900 + b"\x90"
        )

    @pytest.mark.parametrize(
        "key", [b"\x01", b"\xc0", b"\xc4\x01a", b"\x90", b"\xcb" + bytes(8), UNDEFINED]
    )
    def test_decoder_key_that_is_no_string_drops_event(self, key: bytes) -> None:
        assert "key that is not a string" in error_of(b"\x81" + key + b"\x01")

    @pytest.mark.parametrize(
        "data",
        [
            b"\xd4\x05\x00",
            b"\xc7\x02\x01ab",
            b"\xd6\xff" + bytes(4),  # the timestamps of MessagePack
            b"\xd7\xff" + bytes(8),
            b"\xc7\x0c\xff" + bytes(12),
        ],
    )
    def test_decoder_other_extension_drops_event(self, data: bytes) -> None:
        assert "extension type" in error_of(data)

    @pytest.mark.parametrize("milliseconds", [2**63 - 1, -(2**63), 253_402_300_800_000])
    def test_decoder_date_outside_of_years_drops_event(self, milliseconds: int) -> None:
        assert "years" in error_of(date(milliseconds))

    def test_decoder_prototype_key_drops_event(self) -> None:
        assert "__proto__" in error_of(msgpack.packb([{"a": {"__proto__": {"admin": True}}}]))
        assert argument(msgpack.packb(["__proto__"])) == ["__proto__"]

    def test_decoder_placeholder_with_bytes_drops_event(self) -> None:
        placeholder = {"_placeholder": True, "num": 0}
        assert "_placeholder" in error_of(msgpack.packb([placeholder, b"a"]))
        assert argument(msgpack.packb([placeholder])) == [placeholder]

    def test_decoder_too_many_containers_drops_event(self) -> None:
        fits = MAX_CONTAINERS - 3  # the packet, the list of arguments, and the list
        assert len(argument(b"\xdd" + struct.pack(">I", fits) + b"\x80" * fits)) == fits
        limit = fits + 1
        assert "lists and objects" in error_of(b"\xdd" + struct.pack(">I", limit) + b"\x80" * limit)

    def test_decoder_bytes_like_containers_are_not_counted(self) -> None:
        data = b"\x80" * (MAX_CONTAINERS * 2)
        assert argument(msgpack.packb([data, "é"])) == [data, "é"]

    def test_decoder_too_many_dates_drops_event(self) -> None:
        head = b"\xdd" + struct.pack(">I", MAX_EXTENSIONS)
        assert len(argument(head + date(0) * MAX_EXTENSIONS)) == MAX_EXTENSIONS
        head = b"\xdd" + struct.pack(">I", MAX_EXTENSIONS + 1)
        assert "dates" in error_of(head + date(0) * MAX_EXTENSIONS + UNDEFINED)

    def test_decoder_scan_limit_drops_event(self) -> None:
        data = b"\xdd\x00\x01\x00\x02" + b"\x01" * 65_536 + array_buffer(bytes(8)) + date(0)
        assert "values" in error_of(data)

    def test_decoder_dropped_event_keeps_id(self) -> None:
        data = msgpack.packb({"id": 3, "data": ["x", {1: 2}], "nsp": "/n", "type": 2})
        packet = decode(data)
        assert (packet.type, packet.namespace, packet.id) == (EVENT, "/n", 3)
        assert packet.error is not None

    def test_decoder_connect_over_a_limit_is_rejected(self) -> None:
        packet = decode_fields(type=0, data={"__proto__": 1}, nsp="/")
        assert packet.type == CONNECT
        assert packet.error is not None
        with pytest.raises(ProtocolError):
            decode_fields(type=1, data={"__proto__": 1}, nsp="/")

    def test_decoder_unsupported_key_of_packet_raises_protocol_error(self) -> None:
        """The packet itself has no limits of content: the type is unknown."""
        with pytest.raises(ProtocolError):
            decode(msgpack.packb({1: 2, "nsp": "/"}))

    def test_decoder_duplicate_keys_uses_last_value(self) -> None:
        """As in JavaScript, also if the data is dropped."""
        two = b"\x84" + text("type") + b"\x00" + event(b"\x01")[1:]
        assert decode(two).type == EVENT
        dropped = b"\x84" + text("type") + b"\x00" + event(b"\x81\x01\x01")[1:]
        assert decode(dropped).type == EVENT
        assert argument(b"\x82\xa1a\x01\xa1a\x02") == {"a": 2}

    @pytest.mark.parametrize("count", [b"\xdc\xff\xff", b"\xdd\x00\x0f\x42\x40"])
    def test_decoder_wrong_lengths_of_lists_allocates_little(self, count: bytes) -> None:
        """Each level announces as many items as the message has bytes: 8 GB for a megabyte."""
        data = event(count * 1_000 + b"\xc0" * 1_000_000)
        tracemalloc.start()
        try:
            with pytest.raises(ProtocolError):
                decode(data)
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()


class Color(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


@dataclass
class Point:
    x: int
    y: Any


NORMALIZED: list[tuple[Any, Any]] = [
    ((1, (2,)), [1, [2]]),
    ({1: 2}, {"1": 2}),
    ({None: 1}, {"null": 1}),
    (Color.RED, "red"),
    (Text("a"), "a"),
    (Point(1, b"\x00"), {"x": 1, "y": b"\x00"}),
    (datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), "2026-01-01T00:00:00+00:00"),
    ([b"a", bytearray(b"b"), memoryview(b"c")], [b"a", b"b", b"c"]),
    ([memoryview(b"abcd")[::2]], [b"ac"]),
    ([None, "null"], [None, "null"]),
    (2**64 - 1, 2**64 - 1),
]


class TestEncoding:
    def test_encode_event_has_fields_of_the_javascript_parser(self) -> None:
        message = parser.encode_event("/n", "x", [1, {"a": b"\x00"}], 3)
        fields = {"type": 2, "data": ["x", 1, {"a": b"\x00"}], "nsp": "/n", "id": 3}
        assert encoded(message) == fields
        assert encoded(parser.encode_event("/", "x", ())) == {"type": 2, "data": ["x"], "nsp": "/"}

    def test_encode_other_packets_has_fields_of_the_javascript_parser(self) -> None:
        ack = {"type": 3, "data": [1], "nsp": "/", "id": 0}
        assert encoded(parser.encode_ack("/", 0, (1,))) == ack
        connect = {"type": 0, "data": {"sid": "abc"}, "nsp": "/"}
        assert encoded(parser.encode_connect("/", "abc")) == connect
        assert encoded(parser.encode_disconnect("/n")) == {"type": 1, "nsp": "/n"}
        error = {"type": 4, "data": {"message": "no", "data": [1]}, "nsp": "/"}
        assert encoded(parser.encode_connect_error("/", "no", (1,))) == error
        del error["data"]["data"]  # type: ignore[attr-defined]
        assert encoded(parser.encode_connect_error("/", "no")) == error

    @pytest.mark.parametrize(("value", "expected"), NORMALIZED)
    def test_encode_event_value_is_encoded_as_in_json(self, value: Any, expected: Any) -> None:
        message = parser.encode_event("/", "x", [value])
        assert encoded(message)["data"] == ["x", expected]
        json_message = packets.encode_event("/", "x", [value])
        assert as_json(message).text == json_message.text
        assert as_json(message).attachments == json_message.attachments

    @pytest.mark.parametrize(
        ("event_name", "args"),
        [
            ("connect", ()),
            (1, ()),
            ("x", (math.nan,)),
            ("x", ({"a": math.inf},)),
            ("x", (object(),)),
            ("x", (2**64,)),
            ("x", ("\ud800",)),
            ("x", ({b"a": 1},)),
            ("x", ({"_placeholder": True, "num": 0}, b"a")),
        ],
    )
    def test_encode_event_invalid_value_raises_as_in_json(
        self, event_name: Any, args: tuple[Any, ...]
    ) -> None:
        with pytest.raises(EncodeError) as json_error:
            packets.encode_event("/", event_name, args)
        with pytest.raises(EncodeError) as error:
            parser.encode_event("/", event_name, args)
        assert str(error.value) == str(json_error.value)

    def test_encode_prototype_key_raises_encode_error(self) -> None:
        for args in ([{"__proto__": 1}], [[{"a": {"__proto__": {}}}]]):
            with pytest.raises(EncodeError, match="__proto__"):
                parser.encode_event("/", "x", args)
            with pytest.raises(EncodeError, match="__proto__"):
                parser.encode_ack("/", 1, args)
        assert parser.encode_event("/", "__proto__", ["__proto__"])

    def test_encode_connect_error_with_bytes_raises_encode_error(self) -> None:
        with pytest.raises(EncodeError):
            parser.encode_connect_error("/", "no", b"a")

    def test_encode_event_is_one_binary_packet(self) -> None:
        message = parser.encode_event("/", "x", [b"a", b"b"])
        assert message.count == 1
        assert message.payload[:1] == b"b"


class TestOtherProcesses:
    def test_as_json_message_of_json_is_returned_unchanged(self) -> None:
        message = packets.encode_event("/", "x", [1])
        assert as_json(message) is message

    def test_from_json_event_of_other_process_is_encoded(self) -> None:
        sent = packets.encode_event("/", "x", [b"a", {"b": [b"c"]}])
        body = packets.event_body("/", sent)
        message = parser.from_json("/n", body, list(sent.attachments))
        assert encoded(message) == {"type": 2, "data": ["x", b"a", {"b": [b"c"]}], "nsp": "/n"}

    def test_read_event_bytes_are_placeholders(self) -> None:
        """A receiver of `sent` sees the same with both parsers."""
        args = ["a", b"b"]
        expected = read_event("/n", packets.encode_event("/n", "x", args))
        assert read_event("/n", parser.encode_event("/n", "x", args)) == expected
        assert orjson.dumps(expected)
