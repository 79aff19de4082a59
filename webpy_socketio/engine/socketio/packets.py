"""Encoding and decoding of Socket.IO packets as JSON (Socket.IO protocol v5, "Packet encoding").

The default parser, see `webpy_socketio.engine.socketio.parser`. Encoders are pure functions.
`Decoder` keeps a binary packet until its attachments have arrived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

import orjson

from webpy_socketio.engine.io import json
from webpy_socketio.engine.io.native import add_offset
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import ContentError, EncodeError, ProtocolError

__all__ = [
    "ACK",
    "BINARY",
    "CONNECT",
    "CONNECT_ERROR",
    "DISCONNECT",
    "DROPPABLE",
    "EVENT",
    "IS_VALID",
    "MAX_ATTACHMENTS",
    "NAME",
    "RESERVED_EVENTS",
    "Decoder",
    "Packet",
    "add_offset",
    "connect_payload",
    "decode_body",
    "decode_event",
    "encode_ack",
    "encode_connect",
    "encode_connect_error",
    "encode_disconnect",
    "encode_event",
    "ends_with_text",
    "event_body",
    "event_head",
    "event_name_error",
    "fill",
    "format_number",
    "from_json",
    "new_decoder",
    "read_event",
]

NAME: str = "json"
#: Clients send text; binary messages are attachments.
BINARY: bool = False

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR = 0, 1, 2, 3, 4
_BINARY_EVENT, _BINARY_ACK = 5, 6

#: Maximum number of attachments that a binary packet may announce.
MAX_ATTACHMENTS: Final = 10

#: Event names that the client library uses itself: neither side may send them.
RESERVED_EVENTS: Final = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)

#: Maximum number of lists and dicts in a binary packet, all of which are searched for placeholders.
_MAX_CONTAINERS: Final = 10_000

# <type>[<attachments>-][/<namespace>,][<acknowledgement id>][JSON]. Acknowledgement ids have at
# most 15 digits: JavaScript represents those integers exactly.
_HEAD = re.compile(r"([0-6])(?:([0-9]{1,3})-)?(?:(/[^,]{0,255})(?:,|$))?([0-9]{1,15})?")


class Packet(NamedTuple):
    """One Socket.IO packet with its attachments in place of the placeholders."""

    type: int
    namespace: str
    #: The payload: a list for an event or acknowledgement, a dict for a CONNECT, or None.
    data: Any
    #: The acknowledgement id, or None.
    id: int | None
    #: Set if the payload exceeds a limit; `data` is then None.
    error: ContentError | None = None


class Decoder:
    """Decodes the messages of one session; a binary packet is kept until it is complete."""

    __slots__ = ("_attachments", "_missing", "incomplete", "size")

    def __init__(self) -> None:
        #: Size of the last packet: characters of its text plus bytes of its attachments.
        self.size = 0
        #: The packet whose attachments are missing, or None.
        self.incomplete: Packet | None = None
        self._attachments: list[bytes] = []
        self._missing = 0

    def feed(self, data: str | bytes) -> Packet | None:
        """Decode one Engine.IO message.

        Returns:
            The packet, or None while attachments are missing. A packet that exceeds a content limit
            has an `error` instead of data.

        Raises:
            ProtocolError: The message is not valid at this point.
        """
        if isinstance(data, bytes):
            self.size += len(data)
            return self._add_attachment(data)
        self.size = len(data)
        if self.incomplete is not None:
            raise ProtocolError("text message received while an attachment was expected")
        packet, attachments = _decode(data)
        if not attachments:
            return packet
        self.incomplete, self._missing = packet, attachments
        return None

    def _add_attachment(self, data: bytes) -> Packet | None:
        if self.incomplete is None:
            raise ProtocolError("unexpected binary attachment")
        self._attachments.append(data)
        if len(self._attachments) < self._missing:
            return None
        packet, attachments = self.incomplete, self._attachments
        self.incomplete, self._attachments = None, []
        if packet.error is not None:
            return packet
        return Packet(packet.type, packet.namespace, fill(packet.data, attachments), packet.id)


def decode_event(body: str) -> list[Any] | None:
    """Decode the JSON of an event with at most `MAX_DEPTH` brackets.

    Returns:
        Name and arguments, or None unless this is text that needs no further care: `Decoder.feed`
        then returns them, or raises an error.
    """
    try:
        data = orjson.loads(body)
    except ValueError:
        return None
    if type(data) is list and data and type(data[0]) is str and data[0] not in RESERVED_EVENTS:
        return data
    return None


def new_decoder() -> Decoder:
    """Return the decoder of a new session."""
    return Decoder()


def _decode(text: str) -> tuple[Packet, int]:
    head = _HEAD.match(text)
    if head is None:
        raise ProtocolError("invalid Socket.IO packet")
    digit, announced, path, number = head.groups()
    kind = int(digit)
    binary = kind in (_BINARY_EVENT, _BINARY_ACK)
    if binary != (announced is not None):
        raise ProtocolError("attachment count does not match the Socket.IO packet type")
    attachments = int(announced) if binary else 0
    if attachments > MAX_ATTACHMENTS:
        raise ProtocolError(f"Socket.IO packet has more than {MAX_ATTACHMENTS} attachments")
    if binary:
        kind -= 3
    # Clients may append a query string to the namespace; it is ignored.
    namespace = "/" if path is None else path.partition("?")[0]
    identifier = None if number is None else int(number)
    rest = text[head.end() :]
    data: Any = None
    try:
        if rest:
            data = json.loads(rest)
        if attachments and rest.count("[") + rest.count("{") > _MAX_CONTAINERS:
            raise ContentError(
                f"binary message has more than {_MAX_CONTAINERS:,} lists and objects"
            )
    except ContentError as error:
        if kind not in DROPPABLE:
            raise ProtocolError("payload does not match the Socket.IO packet type") from None
        return Packet(kind, namespace, None, identifier, error), attachments
    if not IS_VALID[kind](data, identifier):
        raise ProtocolError("payload does not match the Socket.IO packet type")
    if kind == EVENT and type(data[0]) is not str:
        data[0] = format_number(data[0])
    return Packet(kind, namespace, data, identifier), attachments


#: Packet types that are dropped without closing the session if their payload exceeds a limit.
DROPPABLE = (CONNECT, EVENT, ACK)


def _is_event(data: Any, identifier: int | None) -> bool:
    return (
        isinstance(data, list)
        and len(data) > 0
        # As in Node, a number is a valid event name. `type` instead of isinstance excludes bool.
        and type(data[0]) in (str, int, float)
        and data[0] not in RESERVED_EVENTS
    )


def format_number(number: float) -> str:
    """Format a number as JavaScript's ``String`` does (ECMA-262, Number::toString)."""
    if number == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(float(number))).normalize().as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + int(exponent)  # digits before the decimal point
    if len(text) <= point <= 21:
        text = text.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{text}"
    else:
        fraction = f".{text[1:]}" if len(text) > 1 else ""
        text = f"{text[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text


#: Whether a payload and an acknowledgement id are valid for each packet type.
IS_VALID: dict[int, Callable[[Any, int | None], bool]] = {
    CONNECT: lambda data, identifier: (
        identifier is None and (data is None or isinstance(data, dict))
    ),
    DISCONNECT: lambda data, identifier: identifier is None and data is None,
    EVENT: _is_event,
    ACK: lambda data, identifier: identifier is not None and isinstance(data, list),
    CONNECT_ERROR: lambda data, identifier: False,  # sent by servers only
}


def _find_placeholders(value: Any) -> list[tuple[Any, Any, dict[str, Any]]]:
    """Return all placeholders below `value` as tuples (container, key, placeholder)."""
    found: list[tuple[Any, Any, dict[str, Any]]] = []
    stack: list[Any] = [value]
    while stack:
        container = stack.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, child in items:
            if isinstance(child, dict) and child.get("_placeholder") is True:
                found.append((container, key, child))
            elif isinstance(child, (dict, list)):
                stack.append(child)
    return found


def fill(data: Any, attachments: Sequence[bytes]) -> Any:
    """Replace the placeholders with the attachments; each must be used exactly once."""
    placeholders = _find_placeholders(data)
    numbers = [placeholder.get("num") for _, _, placeholder in placeholders]
    if any(type(number) is not int for number in numbers) or sorted(
        number for number in numbers if isinstance(number, int)
    ) != list(range(len(attachments))):
        raise ProtocolError("placeholders do not match the attachments")
    for container, key, placeholder in placeholders:
        container[key] = attachments[placeholder["num"]]
    return data


def encode_event(
    namespace: str, event: str, args: Sequence[Any], identifier: int | None = None
) -> Message:
    """Encode an event.

    Args:
        namespace: Name of the namespace.
        event: Name of the event.
        args: Arguments of the event.
        identifier: Acknowledgement id, or None if no acknowledgement is requested.

    Raises:
        EncodeError: The name is reserved or not a str, or an argument is not JSON-serializable.
    """
    if not isinstance(event, str) or event in RESERVED_EVENTS:
        raise event_name_error(event)
    return _encode_message(EVENT, namespace, [event, *args], identifier, 1)


def event_name_error(event: Any) -> EncodeError:
    """Return the error for an event name that is reserved or not a str."""
    if not isinstance(event, str):
        return EncodeError(f"event name must be a str, not {type(event).__name__}")
    return EncodeError(
        f'event name "{event}" is reserved by Socket.IO clients: choose another name'
    )


def event_head(namespace: str, attachments: int, identifier: int | None = None) -> bytes:
    """Return the part of an event before its JSON."""
    return _head(EVENT, namespace, attachments, identifier)


def event_body(namespace: str, message: Message) -> bytes:
    """Return the JSON of an event encoded by `encode_event`; bytes stay placeholders."""
    text = message.text or b""
    # Search after the namespace, which may contain a bracket but no comma.
    start = 0 if namespace == "/" else text.index(b",")
    return text[text.index(b"[", start) :]


def from_json(
    namespace: str, body: bytes, attachments: Sequence[bytes], identifier: int | None = None
) -> Message:
    """Return an event of another process, JSON with placeholders and attachments, for sending."""
    return Message(event_head(namespace, len(attachments), identifier) + body, attachments)


def read_event(namespace: str, message: Message) -> list[Any]:
    """Return name and arguments of an event encoded by `encode_event`; bytes stay placeholders."""
    event: list[Any] = orjson.loads(event_body(namespace, message))
    return event


def decode_body(body: bytes, attachments: Sequence[bytes]) -> list[Any]:
    """Decode a body that this package has encoded, with the attachments in their places.

    Raises:
        ProtocolError: The placeholders do not match the attachments.
        ValueError: The body is not JSON.
    """
    data: list[Any] = orjson.loads(body)
    if attachments:
        fill(data, list(attachments))
    return data


def encode_ack(namespace: str, identifier: int, args: Sequence[Any]) -> Message:
    """Encode the acknowledgement of an event. Raises `EncodeError`."""
    return _encode_message(ACK, namespace, list(args), identifier, 0)


def ends_with_text(message: Message) -> bool:
    """Return whether the last argument of an event is text, or the event has no arguments."""
    return (message.text or b"").endswith(b'"]')


def encode_connect(
    namespace: str, session_id: str, pid: str | None = None, received: int = 0
) -> Message:
    """Encode the response to an accepted CONNECT.

    Args:
        namespace: Name of the namespace.
        session_id: Public id of the connection.
        pid: Secret that resumes the connection; None without recovery.
        received: Number of the last numbered message of the client. Sent with the secret only: it
            shows that the server supports such messages.
    """
    return _encode_message(CONNECT, namespace, connect_payload(session_id, pid, received), None)


def connect_payload(session_id: str, pid: str | None, received: int) -> dict[str, Any]:
    """Return the payload of the response to an accepted CONNECT."""
    if pid is None:
        return {"sid": session_id}
    return {"sid": session_id, "pid": pid, "received": received}


def encode_connect_error(namespace: str, reason: str, data: Any = None) -> Message:
    """Encode the response to a rejected CONNECT, which cannot contain bytes. Raises `EncodeError`.

    Data of None is omitted.
    """
    payload = {"message": reason} if data is None else {"message": reason, "data": data}
    return Message(_head(CONNECT_ERROR, namespace, 0, None) + json.dumps(payload))


def encode_disconnect(namespace: str) -> Message:
    """Encode the end of a namespace; clients do not reconnect automatically after it."""
    return Message(_head(DISCONNECT, namespace, 0, None))


#: Heads of most packets by type: in the namespace "/", without attachments and id.
_PLAIN_HEADS: Final = (b"40", b"41", b"42", b"43", b"44")


def _head(kind: int, namespace: str, attachments: int, identifier: int | None) -> bytes:
    if identifier is None and not attachments and namespace == "/":
        return _PLAIN_HEADS[kind]
    head = f"4{kind + 3}{attachments}-" if attachments else f"4{kind}"
    if namespace != "/":
        head += namespace + ","
    if identifier is not None:
        head += str(identifier)
    return head.encode()


def _encode_message(
    kind: int,
    namespace: str,
    data: Any,
    identifier: int | None,
    arguments: int | None = None,
) -> Message:
    attachments: list[bytes] = []
    body = json.dumps(data, attachments, arguments)
    if identifier is not None and not attachments and namespace == "/":
        return Message(b"4%d%d%b" % (kind, identifier, body))
    return Message(_head(kind, namespace, len(attachments), identifier) + body, attachments)
