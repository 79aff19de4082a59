r"""Envelopes: the messages that processes exchange through Redis.

An envelope is a header, which is JSON on one line, followed by the event and its attachments::

    {"v": 1, "node": "5f2c...", "epoch": 3, "number": 17,    sender and sequence number
     "attachments": [3],                                     bytes of each attachment
     "skip": ["..."],                                        session ids to exclude
     "skip_channels": ["muted"],                             channels whose members are excluded
     "volatile": true,                                       not to clients with unsent data
     "group": 4, "channels": ["a", "b"],                     one broadcast on several topics
     "marks": [[1, 17], [3, 5]],                             its epoch and number on each of them
     "cut": ["9d1c...", "start"],                            marker, for a session that moves
     "request": {"kind": "call", "id": 7, ...},              request to all servers, or to a node
     "answer": {"id": 7, "last": true}}                      answer to a request
    \n["message",{"_placeholder":true,"num":0}]              the event as JSON
    \x00\x01\x02                                             the attachments

Without an event, an envelope only reports the last sequence number. Without ``node``, ``epoch`` and
``number``, its sender is an emitter, which numbers nothing. Anything else raises `InvalidEnvelope`.

The format is public and versioned: ``docs/reference/backplane.rst``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import orjson

from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.requests import Answer, Request, decode_answer, decode_request
from webpy_socketio.backplane.topics import CHANNEL, NODE, SERVERS, VERSION, Topic
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio import packets
from webpy_socketio.engine.socketio.packets import Decoder, event_body, event_head
from webpy_socketio.engine.socketio.parser import Parser, as_json
from webpy_socketio.exceptions import ProtocolError

__all__ = [
    "MAX_ENVELOPE",
    "Envelope",
    "InvalidEnvelope",
    "Mark",
    "Packet",
    "decode",
    "encode",
    "envelope_prefix",
]

#: Number of fields of a header that contains a version and a mark only.
_MARKED = 4

#: Maximum bytes of a received envelope: a message of 1 MB, and a header with the names of channels.
MAX_ENVELOPE = 2_000_000


class InvalidEnvelope(ValueError):
    """A message received on a topic is not an envelope; the text contains the reason."""


class Mark(NamedTuple):
    """Sequence number of an envelope, among those that one process publishes on one topic."""

    node: str
    #: Number of the sequence; a process starts a new one when it has discarded the last number.
    epoch: int
    #: Starts at 1; without gaps.
    number: int


class Packet(NamedTuple):
    """An encoded event without its namespace: only the receiver can determine that of a session."""

    body: bytes
    attachments: list[bytes]

    def message(
        self, namespace: str, parser: Parser = packets, identifier: int | None = None
    ) -> Message:
        """Return the message for a socket in that namespace, with an acknowledgement id or None."""
        return parser.from_json(namespace, self.body, self.attachments, identifier)


class Envelope(NamedTuple):
    """A received envelope."""

    #: None for an emitter, which does not number its envelopes.
    mark: Mark | None
    packet: Packet | None
    recipients: RecipientFilter = NO_FILTER
    group: int | None = None
    channels: tuple[str, ...] = ()
    #: Set on the topic of all servers, and for a request on that of a node.
    request: Request | None = None
    #: Set on the topic of a node.
    answer: Answer | None = None
    #: Epoch and number on the topic of each channel, if the backplane does not keep their order.
    marks: tuple[tuple[int, int], ...] = ()
    #: Id and kind of a marker, which has no event.
    cut: tuple[str, str] | None = None


def envelope_prefix(node: str) -> bytes:
    """Return the first bytes of a node's envelopes, to recognise own envelopes without decoding."""
    return b'{"v":%d,"node":"%b",' % (VERSION, node.encode())


def encode(
    topic: Topic,
    mark: Mark,
    message: Message | None,
    recipients: RecipientFilter = NO_FILTER,
    group: int | None = None,
    channels: Sequence[str] = (),
    header: Mapping[str, Any] | None = None,
) -> bytes:
    """Encode an envelope; a message that is JSON is not encoded again.

    `header` contains further fields of the header, for requests and answers.
    """
    if recipients is NO_FILTER and group is None and header is None and message is not None:
        message = as_json(message)
        if not message.attachments:  # the usual case: without a dict
            return b'{"v":%d,"node":"%b","epoch":%d,"number":%d}\n%b' % (
                *(VERSION, mark.node.encode(), mark.epoch, mark.number),
                event_body(_namespace(topic), message),
            )
    # The order must match `envelope_prefix`.
    fields: dict[str, Any] = {"v": VERSION, "node": mark.node, "epoch": mark.epoch}
    fields["number"] = mark.number
    if recipients is not NO_FILTER:
        fields |= _encode_filter(recipients)
    if group is not None:
        fields["group"], fields["channels"] = group, list(channels)
    if header is not None:
        fields |= header
    if message is None:
        return orjson.dumps(fields)
    message = as_json(message)
    if message.attachments:
        fields["attachments"] = [len(data) for data in message.attachments]
    body = event_body(_namespace(topic), message)
    return b"".join((orjson.dumps(fields), b"\n", body, *message.attachments))


def decode(payload: bytes, topic: Topic) -> Envelope:
    """Decode an envelope received on a topic.

    Raises:
        InvalidEnvelope: The payload is not an envelope for this topic.
    """
    if len(payload) > MAX_ENVELOPE:
        raise InvalidEnvelope(f"{len(payload)} bytes, more than {MAX_ENVELOPE}: send less")
    end = payload.find(b"\n")
    try:
        fields = orjson.loads(payload if end < 0 else payload[:end])
    except ValueError as error:
        raise InvalidEnvelope(f"the header is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidEnvelope("the header is not a JSON object")
    if fields.get("v") != VERSION:
        raise InvalidEnvelope(
            f'"v" is {fields.get("v")!r:.20}, but this process reads version {VERSION} of the '
            "envelope: change the sender, or run the same webpy_socketio in all processes"
        )
    mark = _mark(fields)
    is_for_server = topic.kind in (SERVERS, NODE)
    if len(fields) == _MARKED and mark is not None and not is_for_server:  # the usual case
        return Envelope(mark, None if end < 0 else _packet(payload, end + 1, None))
    recipients = _decode_filter(fields)
    group, channels = fields.get("group"), _strings(fields, "channels")
    if not (group is None or _is_count(group)):
        raise InvalidEnvelope('"group" is not a positive integer')
    if (group is None) != (not channels) or (channels and topic.kind != CHANNEL):
        raise InvalidEnvelope('"channels" without "group", or on a topic of another kind')
    if mark is None and group is not None:
        raise InvalidEnvelope('"group" without "node", "epoch" and "number"')
    packet = None if end < 0 else _packet(payload, end + 1, fields.get("attachments", []))
    if is_for_server:
        return _decode_for_server(topic, fields, Envelope(mark, packet, recipients))
    if mark is None:
        _check_foreign(packet)
    marks, cut = _decode_marks(fields, len(channels)), _decode_cut(fields)
    return Envelope(mark, packet, recipients, group, channels, marks=marks, cut=cut)


def _decode_marks(fields: dict[str, Any], count: int) -> tuple[tuple[int, int], ...]:
    if "marks" not in fields:
        return ()
    marks = fields["marks"]
    if not isinstance(marks, list) or len(marks) != count:
        raise InvalidEnvelope('"marks" is not a list with an item for each channel')
    for each in marks:
        if not isinstance(each, list) or len(each) != 2 or not all(map(_is_count, each)):
            raise InvalidEnvelope('"marks" is not a list of epochs and numbers')
    return tuple((epoch, number) for epoch, number in marks)


def _decode_cut(fields: dict[str, Any]) -> tuple[str, str] | None:
    if "cut" not in fields:
        return None
    cut = _strings(fields, "cut")
    if len(cut) != 2:
        raise InvalidEnvelope('"cut" is not a list of two strings')
    return cut[0], cut[1]


def _decode_for_server(topic: Topic, fields: dict[str, Any], envelope: Envelope) -> Envelope:
    """Return an envelope with its request or answer."""
    if envelope.mark is None:
        raise InvalidEnvelope("an emitter cannot send requests and answers to servers")
    if envelope.packet is None:  # only a number
        return envelope
    try:
        if topic.kind == SERVERS or "request" in fields:
            return envelope._replace(request=decode_request(fields.get("request")))
        return envelope._replace(answer=decode_answer(fields.get("answer")))
    except ValueError as error:
        raise InvalidEnvelope(str(error)) from None


def _namespace(topic: Topic) -> str:
    return topic.namespace or "/"


def _encode_filter(recipients: RecipientFilter) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if recipients.session_ids:
        fields["skip"] = list(recipients.session_ids)
    if recipients.channels:
        fields["skip_channels"] = list(recipients.channels)
    if recipients.volatile:
        fields["volatile"] = True
    return fields


def _decode_filter(fields: dict[str, Any]) -> RecipientFilter:
    volatile = fields.get("volatile", False)
    if not isinstance(volatile, bool):
        raise InvalidEnvelope('"volatile" is neither true nor false')
    found = RecipientFilter(_strings(fields, "skip"), _strings(fields, "skip_channels"), volatile)
    return NO_FILTER if found == NO_FILTER else found


def _strings(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    if name not in fields:
        return ()
    value = fields[name]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidEnvelope(f'"{name}" is not a list of strings')
    return tuple(value)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _mark(fields: dict[str, Any]) -> Mark | None:
    node, epoch, number = fields.get("node"), fields.get("epoch"), fields.get("number")
    if node is None and epoch is None and number is None:
        return None
    if not isinstance(node, str) or not _is_count(epoch) or not _is_count(number):
        raise InvalidEnvelope(
            '"node", "epoch" or "number" is missing or of the wrong type: an emitter omits all '
            "three"
        )
    return Mark(node, epoch, number)


def _packet(payload: bytes, start: int, sizes: Any) -> Packet:
    """Return the event, which begins at `start`, and its attachments, which follow it."""
    attachments: list[bytes] = []
    end = len(payload)
    if sizes:
        if not isinstance(sizes, list) or not all(type(n) is int and n >= 0 for n in sizes):
            raise InvalidEnvelope('"attachments" is not a list of sizes in bytes')
        position = end = end - sum(sizes)
        for size in sizes:
            attachments.append(payload[position : position + size])
            position += size
    # A negative `end` would count from the end of the payload.
    body = payload[start : max(end, start)]
    if not body.startswith(b"[") or not body.endswith(b"]"):
        raise InvalidEnvelope("the event is not a JSON array, or a size of an attachment is wrong")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise InvalidEnvelope(f"the event is not UTF-8: {error}") from None
    return Packet(body, attachments)


def _check_foreign(packet: Packet | None) -> None:
    """Check the event of an emitter completely: an invalid one would close its recipients."""
    if packet is None:
        raise InvalidEnvelope("there is no event after the header: separate them with a newline")
    decoder = Decoder()
    try:
        head = event_head("/", len(packet.attachments))[1:]  # without the type of Engine.IO
        found = decoder.feed((head + packet.body).decode())
        for data in packet.attachments:
            found = decoder.feed(data)
    except ProtocolError as error:
        raise InvalidEnvelope(f"the event is invalid: {error}") from None
    if found is not None and found.error is not None:
        raise InvalidEnvelope(f"the event is invalid: {found.error}")
