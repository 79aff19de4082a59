"""Encoding and decoding of Socket.IO packets as MessagePack, as ``socket.io-msgpack-parser`` does.

A packet is one binary message: a map with the keys ``type``, ``data``, ``nsp`` and ``id``. Other
keys are ignored. Values are those of JSON, and ``bytes``: handlers receive the same with both
parsers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import orjson
from msgpack import Packer, Unpacker, UnpackException, unpackb

from webpy_socketio.engine.io import json, msgpack
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import (
    ACK,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    DROPPABLE,
    EVENT,
    IS_VALID,
    RESERVED_EVENTS,
    Packet,
    connect_payload,
    event_name_error,
    fill,
    format_number,
)
from webpy_socketio.engine.socketio.packets import encode_event as encode_json_event
from webpy_socketio.exceptions import ContentError, EncodeError, ProtocolError

__all__ = [
    "BINARY",
    "NAME",
    "Decoder",
    "add_offset",
    "encode_ack",
    "encode_connect",
    "encode_connect_error",
    "encode_disconnect",
    "encode_event",
    "ends_with_text",
    "from_json",
    "new_decoder",
    "to_json",
]

NAME: str = "msgpack"
#: Clients send binary messages only.
BINARY: bool = True

_NAMESPACE = re.compile(r"/[^,]{0,255}")
#: Acknowledgement ids have at most 15 digits, as in JSON.
_MAX_ID: Final = 10**15


class Decoder:
    """Decodes the messages of one session."""

    __slots__ = ("size",)

    #: Packets have no attachments.
    incomplete: Packet | None = None

    def __init__(self) -> None:
        #: Size of the last packet in bytes.
        self.size = 0

    def feed(self, data: str | bytes) -> Packet:
        """Decode one Engine.IO message.

        Returns:
            The packet. One that exceeds a content limit has an `error` instead of data.

        Raises:
            ProtocolError: The message is not a Socket.IO packet.
        """
        self.size = len(data)
        if isinstance(data, str):
            raise ProtocolError("text message received: socket.io-msgpack-parser sends binary ones")
        failure: ContentError | None = None
        payload: Any = None
        try:
            fields = msgpack.loads(data)
            if type(fields) is not dict:
                raise ProtocolError("MessagePack value is not a map")
            payload = fields.get("data")
            if type(payload) is list or type(payload) is dict:
                msgpack.check_content(payload, data)
        except ContentError as error:
            failure, payload = error, None
            fields = _unpack_head(data)
        kind, namespace, identifier = fields.get("type"), fields.get("nsp"), fields.get("id")
        if type(kind) is not int or not CONNECT <= kind <= CONNECT_ERROR:
            raise ProtocolError("invalid Socket.IO packet type")
        if type(namespace) is not str or _NAMESPACE.fullmatch(namespace) is None:
            raise ProtocolError("invalid Socket.IO namespace")
        if identifier is not None and (
            type(identifier) is not int or not 0 <= identifier < _MAX_ID
        ):
            raise ProtocolError("invalid acknowledgement id")
        # Clients may append a query string to the namespace; it is ignored.
        namespace = namespace.partition("?")[0]
        if failure is not None:
            if kind not in DROPPABLE:
                raise ProtocolError("payload does not match the Socket.IO packet type")
            return Packet(kind, namespace, None, identifier, failure)
        if not IS_VALID[kind](payload, identifier):
            raise ProtocolError("payload does not match the Socket.IO packet type")
        if kind == EVENT and type(payload[0]) is not str:
            payload[0] = format_number(payload[0])
        return Packet(kind, namespace, payload, identifier)


def new_decoder() -> Decoder:
    """Return the decoder of a new session."""
    return Decoder()


# -- decoding


def _unpack_head(data: bytes) -> dict[str, Any]:
    """Return the fields of a packet except its data, which was rejected."""
    unpacker = Unpacker(max_buffer_size=len(data), ext_hook=lambda code, payload: None)
    unpacker.feed(data)
    fields = {}
    try:
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            if key in ("type", "nsp", "id"):
                fields[key] = unpacker.unpack()
            else:
                unpacker.skip()
    except (ValueError, UnpackException) as error:
        raise ProtocolError(f"malformed MessagePack: {error}") from None
    if unpacker.tell() != len(data):
        raise ProtocolError("malformed MessagePack: data after the packet")
    return fields


# -- encoding


def encode_event(
    namespace: str, event: str, args: Sequence[Any], identifier: int | None = None
) -> Message:
    """Encode an event; see `webpy_socketio.engine.socketio.packets.encode_event`."""
    if not isinstance(event, str) or event in RESERVED_EVENTS:
        raise event_name_error(event)
    return _encode(EVENT, namespace, [event, *args], identifier, 1)


def encode_ack(namespace: str, identifier: int, args: Sequence[Any]) -> Message:
    """Encode the acknowledgement of an event. Raises `EncodeError`."""
    return _encode(ACK, namespace, list(args), identifier, 0)


def add_offset(namespace: str, message: Message, epoch: bytes, number: int) -> Message:
    """Return an event with an offset as last argument (connection state recovery).

    Args:
        namespace: Name of the namespace.
        message: An event encoded by `encode_event`, without acknowledgement id.
        epoch: First part of the offset.
        number: Second part, after a dot.
    """
    (packet,) = message.attachments
    # The array of name and arguments is between two parts that are known.
    end = len(packet) - _tail_size(namespace)
    first = packet[_DATA_AT]
    if _FIXARRAY <= first < _FIXARRAY_END:
        head, items = _ARRAY_HEADS[first - _FIXARRAY], packet[_DATA_AT + 1 : end]
    else:
        unpacker = Unpacker()
        unpacker.feed(packet[_DATA_AT : _DATA_AT + _MAX_ARRAY_HEAD])
        head = Packer().pack_array_header(unpacker.read_array_header() + 1)
        items = packet[_DATA_AT + unpacker.tell() : end]
    offset = msgpack.dumps((b"%b.%d" % (epoch, number)).decode())
    return Message(None, (b"".join((packet[:_DATA_AT], head, items, offset, packet[end:])),))


@lru_cache(maxsize=64)
def _tail_size(namespace: str) -> int:
    """Return the bytes of an event after its data."""
    return len(msgpack.dumps(namespace)) + len(_NSP)


#: The key that follows the data of an event, and the place of the data.
_NSP: Final = msgpack.dumps("nsp")
_DATA_AT: Final = 1 + len(msgpack.dumps("type")) + 1 + len(msgpack.dumps("data"))
#: The first bytes of arrays with less than 15 elements, and the heads of arrays with one more.
_FIXARRAY, _FIXARRAY_END = 0x90, 0x9F
_ARRAY_HEADS: Final = tuple(bytes((first + 1,)) for first in range(_FIXARRAY, _FIXARRAY_END))
#: Maximum size of the head of an array in bytes.
_MAX_ARRAY_HEAD: Final = 5


def ends_with_text(message: Message) -> bool:
    """Return whether the last argument of an event is text, or the event has no arguments."""
    return isinstance(unpackb(message.attachments[0], raw=False)["data"][-1], str)


def encode_connect(
    namespace: str, session_id: str, pid: str | None = None, received: int = 0
) -> Message:
    """Encode the response to an accepted CONNECT, as in JSON."""
    return _pack(CONNECT, namespace, connect_payload(session_id, pid, received))


def encode_connect_error(namespace: str, reason: str, data: Any = None) -> Message:
    """Encode the response to a rejected CONNECT, without bytes as in JSON. Raises `EncodeError`.

    Data of None is omitted.
    """
    payload = {"message": reason} if data is None else {"message": reason, "data": data}
    return _pack(CONNECT_ERROR, namespace, _normalize(payload, None, None))


def encode_disconnect(namespace: str) -> Message:
    """Encode the end of a namespace; clients do not reconnect automatically after it."""
    # Without the key "data": socket.io-msgpack-parser rejects a value of null.
    return Message(None, [msgpack.dumps({"type": DISCONNECT, "nsp": namespace})])


def _encode(
    kind: int, namespace: str, data: list[Any], identifier: int | None, arguments: int
) -> Message:
    try:
        # orjson checks types and keys faster than they can be normalized.
        text = orjson.dumps(data, _accept_bytes)
        if not any(word in text for word in _SPECIAL):
            return _pack(kind, namespace, data, identifier)
    except (TypeError, ValueError, BufferError):
        pass
    return _pack(kind, namespace, _normalize(data, [], arguments), identifier)


#: Words in JSON that may stand for a value that cannot be sent.
_SPECIAL: Final = (b"__proto__", b"_placeholder", b"null")


def _accept_bytes(value: Any) -> str:
    if type(value) in (bytes, bytearray):
        return ""
    raise TypeError


def _normalize(data: Any, attachments: list[bytes] | None, arguments: int | None) -> Any:
    """Return data as its recipients receive it, with values of JSON and bytes only.

    By encoding and decoding JSON, whose rules and errors are those of the other parser.
    """
    text = json.dumps(data, attachments, arguments)
    plain = orjson.loads(text)
    if attachments:
        fill(plain, attachments)
    if b"__proto__" in text and _has_proto(plain):
        raise EncodeError(
            f'cannot send a dict with the key "{msgpack.PROTO}": clients with the parser "msgpack" '
            "would replace the prototype of the object. Rename the key"
        )
    return plain


def _has_proto(value: Any) -> bool:
    stack = [value]
    while stack:
        current = stack.pop()
        if isinstance(current, dict):
            if msgpack.PROTO in current:
                return True
            stack.extend(current.values())
        elif isinstance(current, list):
            stack.extend(current)
    return False


def _pack(kind: int, namespace: str, data: Any, identifier: int | None = None) -> Message:
    packet = {"type": kind, "data": data, "nsp": namespace}
    if identifier is not None:
        packet["id"] = identifier
    return Message(None, [msgpack.dumps(packet)])


# -- messages of other processes, which are JSON


def to_json(message: Message) -> Message:
    """Return an event encoded by `encode_event` as JSON."""
    packet = unpackb(message.attachments[0], raw=False)
    event, *args = packet["data"]
    return encode_json_event(packet["nsp"], event, args)


def from_json(
    namespace: str, body: bytes, attachments: Sequence[bytes], identifier: int | None = None
) -> Message:
    """Return an event of another process, JSON with placeholders and attachments, for sending.

    Raises:
        ProtocolError: The placeholders do not match the attachments.
    """
    event = orjson.loads(body)
    if attachments:
        fill(event, attachments)
    return _pack(EVENT, namespace, event, identifier)
