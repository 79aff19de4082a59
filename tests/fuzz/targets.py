"""Fuzz targets: functions of bytes that fail if a parser of client data fails.

Each target accepts the documented errors of its parser only, and checks the result. A saved case is
a file in ``cases/<target>/`` with the bytes that the target is called with.
"""

from __future__ import annotations

import base64
import io
import ipaddress
from collections.abc import Callable
from pathlib import Path

from webpy_socketio.channels import check_name
from webpy_socketio.engine.engineio.origins import Origins
from webpy_socketio.engine.engineio.payloads import decode_payload
from webpy_socketio.engine.engineio.rejections import explain_origin
from webpy_socketio.engine.engineio.requests import RequestError, read_query
from webpy_socketio.engine.forwarding.hosts import parse_host
from webpy_socketio.engine.forwarding.proxies import PEER_KEY, TrustedProxies
from webpy_socketio.engine.http.parser import BadRequest, parse_head, read_body, read_head
from webpy_socketio.engine.io import json
from webpy_socketio.engine.io.packets import MESSAGE, SEPARATOR, Message, decode_packet
from webpy_socketio.engine.socketio import msgpack
from webpy_socketio.engine.socketio.packets import (
    ACK,
    EVENT,
    MAX_ATTACHMENTS,
    Decoder,
    Packet,
    encode_ack,
    encode_event,
    event_body,
)
from webpy_socketio.engine.socketio.parser import as_json
from webpy_socketio.exceptions import ChannelError, ContentError, ProtocolError

CASES = Path(__file__).parent / "cases"

#: Maximum size of a body in bytes.
LIMIT = 100

_ORIGINS = Origins(["https://example.com", "http://localhost:8000", "app://shop", "null"])
_PROXIES = TrustedProxies(["10.0.0.0/8"])


def payloads(data: bytes) -> None:
    try:
        packets = list(decode_payload(data))
    except ProtocolError:
        return
    again = SEPARATOR.join(
        kind + item.encode() if isinstance(item, str) else b"b" + base64.b64encode(item)
        for kind, item in packets
    )
    assert list(decode_payload(again)) == packets
    # Line breaks and padding of base64 may differ.
    assert _normalize(again) == _normalize(data), "data was ignored"


def packets(data: bytes) -> None:
    try:
        kind, content = decode_packet(data)
    except (ProtocolError, UnicodeDecodeError):
        return
    if isinstance(content, str):
        assert kind + content.encode() == data
    else:
        assert kind == MESSAGE
        assert _normalize(b"b" + base64.b64encode(content)) == _normalize(data)


def _normalize(payload: bytes) -> list[bytes | int]:
    """Return the text packets of a payload, and the number of digits of its base64 packets."""
    return [
        len(packet.translate(None, b" \t\n\v\f\r=")) if packet[:1] == b"b" else packet
        for packet in payload.split(SEPARATOR)
    ]


def socketio_packets(data: bytes) -> None:
    """Decode messages joined by separators; those that start with ``b`` are attachments."""
    decoder = Decoder()
    for piece in data.split(SEPARATOR):
        item = piece[1:] if piece[:1] == b"b" else piece.decode("utf-8", "replace")
        try:
            packet = decoder.feed(item)
        except ProtocolError:
            return
        if packet is not None:
            _check_packet(packet)


def _check_packet(packet: Packet) -> None:
    if packet.error is not None:
        return
    assert packet.namespace.startswith("/")
    assert "," not in packet.namespace
    # Everything that a client can send, a handler can send to others.
    if packet.type == EVENT:
        message = encode_event(packet.namespace, packet.data[0], packet.data[1:], packet.id)
    elif packet.type == ACK and packet.id is not None:
        message = encode_ack(packet.namespace, packet.id, packet.data)
    else:
        assert packet.data is None or isinstance(packet.data, dict)
        return
    assert message.count <= 1 + MAX_ATTACHMENTS
    assert _receive(message) == packet


def msgpack_packets(data: bytes) -> None:
    """Decode one message as MessagePack."""
    try:
        packet = msgpack.new_decoder().feed(data)
    except ProtocolError:
        return
    if packet.error is not None:
        return
    assert packet.namespace.startswith("/")
    if packet.type == EVENT:
        message = msgpack.encode_event(packet.namespace, packet.data[0], packet.data[1:], packet.id)
    elif packet.type == ACK and packet.id is not None:
        message = msgpack.encode_ack(packet.namespace, packet.id, packet.data)
    else:
        assert packet.data is None or isinstance(packet.data, dict)
        return
    assert message.text is None
    assert msgpack.new_decoder().feed(message.attachments[0]) == packet
    # Other processes receive the event as JSON.
    if packet.type == EVENT:
        event = as_json(message)
        body = event_body(packet.namespace, event)
        again = msgpack.from_json(packet.namespace, body, event.attachments)
        assert msgpack.new_decoder().feed(again.attachments[0]) == packet._replace(id=None)


def _receive(message: Message) -> Packet | None:
    decoder = Decoder()
    packet = None
    for _, item in decode_payload(message.payload):
        packet = decoder.feed(item)
    return packet


def json_texts(data: bytes) -> None:
    try:
        value = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ContentError, ProtocolError):
        return
    assert json.loads(json.dumps(value).decode()) == value


def heads(data: bytes) -> None:
    file = io.BytesIO(data)
    try:
        read = read_head(file)
        if not read:
            return
        head = parse_head(read)
    except BadRequest as error:
        _check_status(error.status, 400, 414, 417, 431)
        return
    assert head.target.startswith("/") or (head.target, head.method) == ("*", "OPTIONS")
    assert head.length is None or 0 <= head.length <= 10**18
    assert not any(character in head.target for character in "\0\r\n \t")
    names = [name.lower() for name, _ in head.headers]
    for name, value in head.headers:
        assert name.isascii()
        assert not set(name) & set("\0\r\n\t :")
        assert not set(value) & set("\0\r\n")
        assert value == value.strip(" \t")
    # Another parser must find the same end of the body (request smuggling).
    assert names.count("content-length") + names.count("transfer-encoding") <= 1
    assert names.count("host") <= 1


def _check_status(status: str, *allowed: int) -> None:
    assert int(status[:4]) in allowed


def bodies(data: bytes) -> None:
    """Read a body; the first byte is its length, or 128 and above for a chunked body."""
    length = data[0] if data and data[0] < 128 else None
    file, into = io.BufferedReader(io.BytesIO(data[1:])), io.BytesIO()  # type: ignore[arg-type]
    pieces: list[int] = []
    try:
        size = read_body(file, length, LIMIT, into, pieces.append)
    except BadRequest:
        assert len(into.getvalue()) <= LIMIT
        return
    assert size == len(into.getvalue()) == sum(pieces) <= LIMIT
    assert length is None or size == length


def queries(data: bytes) -> None:
    try:
        query = read_query({"QUERY_STRING": data.decode("latin-1")}, ["polling", "websocket"])
    except RequestError as error:
        _check_status(error.response.status, 400)
        return
    assert query.transport in ("polling", "websocket")


def origins(data: bytes) -> None:
    """Check an origin; the lines are the values of headers, empty for a missing header."""
    keys = (
        *("HTTP_ORIGIN", "HTTP_HOST", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO"),
        *("HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED"),
    )
    lines = zip(keys, data.decode("latin-1").split("\n"), strict=False)
    environ = {key: line for key, line in lines if line}
    environ |= {"REMOTE_ADDR": "10.1.2.3", PEER_KEY: "10.1.2.3", "REQUEST_METHOD": "OPTIONS"}
    changed = _PROXIES.client_fields("10.1.2.3", environ, "http")
    assert ipaddress.ip_address(changed.get("REMOTE_ADDR", "10.1.2.3"))
    assert changed.get("wsgi.url_scheme", "http") in ("http", "https")
    assert 0 <= int(changed.get("SERVER_PORT", "80")) <= 65_535
    assert parse_host(changed.get("HTTP_HOST", "a")) is not None
    environ |= changed
    if "HTTP_ORIGIN" in environ:
        text = explain_origin(environ, _ORIGINS, _PROXIES)
        assert text.isascii()
        assert text.isprintable()
    headers = dict(_ORIGINS.cors(environ))
    assert headers.get("Access-Control-Allow-Origin") in (None, environ.get("HTTP_ORIGIN"))
    assert not headers or _ORIGINS.allow(environ)


def channel_names(data: bytes) -> None:
    name = data.decode("utf-8", "surrogateescape")
    try:
        assert check_name(name, 255) == name
    except ChannelError:
        return
    assert 1 <= len(name) <= 255
    assert name == name.encode().decode(), "it can be sent"
    assert not set(name) & {chr(code) for code in range(32)}


#: Targets by the name of their folder of cases.
TARGETS: dict[str, Callable[[bytes], None]] = {
    "payloads": payloads,
    "packets": packets,
    "socketio_packets": socketio_packets,
    "msgpack_packets": msgpack_packets,
    "json": json_texts,
    "heads": heads,
    "bodies": bodies,
    "queries": queries,
    "origins": origins,
    "channel_names": channel_names,
}

#: Words with a meaning to the parsers, which random bytes would rarely contain.
WORDS = [
    *(b"\x1e", b"b", b"0", b"1", b"2probe", b"3", b"4", b"5", b"6", b"="),
    *(
        b"40",
        b"41",
        b"42",
        b"43",
        b"44",
        b"45",
        b"46",
        b"51-",
        b"461-",
        b"11-",
        b"/custom,",
        b"?a=b",
    ),
    *(b'{"_placeholder":true,"num":0}', b'"_placeholder"', b'"\\u005fplaceholder"', b'"num":1'),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b",",
        b":",
        b"null",
        b"true",
        b"NaN",
        b"1e400",
        b"-0",
        b"\\ud800",
    ),
    *(b'"connect"', b'["a"]', b'["message",', b"9007199254740993", b"18446744073709551616"),
    *(b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n", b"\r", b"\n", b"http://a/", b"OPTIONS * "),
    *(b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: upgrade\r\n"),
    *(
        b"Expect: 100-continue\r\n",
        b"0\r\n\r\n",
        b"5\r\n",
        b";a=b",
        b"FFFFFFFFFFFFFFFF",
        b"0x5",
        b"+5",
    ),
    *(b"EIO=4", b"&", b"transport=polling", b"transport=websocket", b"sid=", b"%0d%0a", b"j=0"),
    *(
        b"http://",
        b"https://example.com",
        b"localhost:8000",
        b"null",
        b"@",
        b"[::1]",
        b'for="[::1]:1"',
        b"proto=WSS",
        b"wss",
        b"10.0.0.2, ",
        b"::ffff:1.2.3.4",
        b"unknown",
        b":99999",
        b"//",
    ),
    *(
        b"__proto__",
        b"\xa9__proto__\x01",
        b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\x92\xa1x",
        b"\xa2id\x01",
        b"\xd4\x00\x00",
        b"\xc7\x01\x00a",
        b"\xd7\x00\x00\x00\x01\x99\x00\x00\x00\x00",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
        b"\xc4\x01a",
        b"\xdd\x00\x00\x00\x02",
        b"\xdf\x00\x00\x00\x01",
        b"\x91\x91",
        b"\x81\xa1a",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc0\x80",
        b"\x00",
        b"\x7f",
        b"\xc2\x85",
    ),
]


def cases(target: str) -> list[Path]:
    """Return the saved cases of a target."""
    return sorted(path for path in (CASES / target).iterdir() if path.is_file())
