"""Encoding and decoding of Socket.IO packets (Socket.IO protocol v5, "Packet encoding").

Encoders are pure functions. `Decoder` keeps a binary packet until its attachments have arrived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

import orjson

from webpy_socketio.engine.io import json
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import ContentError, EncodeError, ProtocolError

__all__ = [
    "ACK",
    "CONNECT",
    "CONNECT_ERROR",
    "DISCONNECT",
    "EVENT",
    "MAX_ATTACHMENTS",
    "RESERVED_EVENTS",
    "Decoder",
    "Packet",
    "encode_ack",
    "encode_connect",
    "encode_connect_error",
    "encode_disconnect",
    "encode_event",
    "event_head",
    "read_event",
]

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

    __slots__ = ("_attachments", "_missing", "_packet", "size")

    def __init__(self) -> None:
        #: Size of the last packet: characters of its text plus bytes of its attachments.
        self.size = 0
        self._packet: Packet | None = None
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
        if self._packet is not None:
            raise ProtocolError("text message received while an attachment was expected")
        packet, attachments = _decode(data)
        if not attachments:
            return packet
        self._packet, self._missing = packet, attachments
        return None

    def _add_attachment(self, data: bytes) -> Packet | None:
        if self._packet is None:
            raise ProtocolError("unexpected binary attachment")
        self._attachments.append(data)
        if len(self._attachments) < self._missing:
            return None
        packet, attachments = self._packet, self._attachments
        self._packet, self._attachments = None, []
        if packet.error is not None:
            return packet
        return Packet(packet.type, packet.namespace, _fill(packet.data, attachments), packet.id)


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
        if kind not in _DROPPABLE:
            raise ProtocolError("payload does not match the Socket.IO packet type") from None
        return Packet(kind, namespace, None, identifier, error), attachments
    if not _IS_VALID[kind](data, identifier):
        raise ProtocolError("payload does not match the Socket.IO packet type")
    if kind == EVENT and type(data[0]) is not str:
        data[0] = _format_number(data[0])
    return Packet(kind, namespace, data, identifier), attachments


#: Packet types that are dropped without closing the session if their payload exceeds a limit.
_DROPPABLE = (CONNECT, EVENT, ACK)


def _is_event(data: Any, identifier: int | None) -> bool:
    return (
        isinstance(data, list)
        and len(data) > 0
        # As in Node, a number is a valid event name. `type` instead of isinstance excludes bool.
        and type(data[0]) in (str, int, float)
        and data[0] not in RESERVED_EVENTS
    )


def _format_number(number: float) -> str:
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
_IS_VALID: dict[int, Callable[[Any, int | None], bool]] = {
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


def _fill(data: Any, attachments: list[bytes]) -> Any:
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
    if not isinstance(event, str):
        raise EncodeError(f"event name must be a str, not {type(event).__name__}")
    if event in RESERVED_EVENTS:
        raise EncodeError(
            f'event name "{event}" is reserved by Socket.IO clients: choose another name'
        )
    return _encode_message(EVENT, namespace, [event, *args], identifier, 1)


def event_head(namespace: str, attachments: int) -> bytes:
    """Return the part before the JSON of an event without acknowledgement id."""
    return _head(EVENT, namespace, attachments, None)


def read_event(namespace: str, message: Message) -> list[Any]:
    """Return name and arguments of an event encoded by `encode_event`; bytes stay placeholders."""
    text = message.text or b""
    # Search after the namespace, which may contain a bracket but no comma.
    start = 0 if namespace == "/" else text.index(b",")
    event: list[Any] = orjson.loads(text[text.index(b"[", start) :])
    return event


def encode_ack(namespace: str, identifier: int, args: Sequence[Any]) -> Message:
    """Encode the acknowledgement of an event. Raises `EncodeError`."""
    return _encode_message(ACK, namespace, list(args), identifier, 0)


def encode_connect(namespace: str, session_id: str) -> Message:
    """Encode the response to an accepted CONNECT."""
    return _encode_message(CONNECT, namespace, {"sid": session_id}, None)


def encode_connect_error(namespace: str, reason: str) -> Message:
    """Encode the response to a rejected CONNECT. Raises `EncodeError`."""
    return _encode_message(CONNECT_ERROR, namespace, {"message": reason}, None)


def encode_disconnect(namespace: str) -> Message:
    """Encode the end of a namespace; clients do not reconnect automatically after it."""
    return Message(_head(DISCONNECT, namespace, 0, None))


def _head(kind: int, namespace: str, attachments: int, identifier: int | None) -> bytes:
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
    return Message(_head(kind, namespace, len(attachments), identifier) + body, attachments)
