r"""Envelopes: the JSON messages that processes exchange through Redis.

An envelope contains an encoded packet and its sequence number::

    {"v": 1, "node": "5f2c...", "epoch": 3, "number": 17,        sender and sequence number
     "text": "42[\"message\",\"hello\"]", "attachments": [],       the packet; attachments as base64
     "skip": "...",                                              session id to leave out
     "group": 4, "channels": ["a", "b"]}                         one broadcast on several topics

Without ``text``, an envelope only reports the last sequence number. Anything else raises
`InvalidEnvelope`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import orjson

from webpy_socketio.backplane.topics import CHANNEL, SESSION, VERSION, Topic
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import event_head

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

#: Maximum bytes of a received envelope. A message of 1 MB grows by a third as base64, and again by
#: the number of its quotes and backslashes.
MAX_ENVELOPE = 4_000_000


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
    """An encoded event without its namespace: only the receiver knows a session's namespace."""

    body: bytes
    attachments: list[bytes]

    def message(self, namespace: str) -> Message:
        """Return the message for a socket in that namespace."""
        return Message(event_head(namespace, len(self.attachments)) + self.body, self.attachments)


class Envelope(NamedTuple):
    """A received envelope."""

    mark: Mark
    packet: Packet | None
    skip: str | None = None
    group: int | None = None
    channels: tuple[str, ...] = ()


def envelope_prefix(node: str) -> bytes:
    """Return the first bytes of a node's envelopes, to recognise own envelopes without decoding."""
    return b'{"v":%d,"node":"%b",' % (VERSION, node.encode())


def encode(
    mark: Mark,
    message: Message | None,
    skip: str | None = None,
    group: int | None = None,
    channels: Sequence[str] = (),
) -> bytes:
    """Encode an envelope; the message is not encoded again."""
    # The order must match `envelope_prefix`.
    fields: dict[str, Any] = {"v": VERSION, "node": mark.node, "epoch": mark.epoch}
    fields["number"] = mark.number
    if message is not None and message.text is not None:
        fields["text"] = message.text.decode()
        fields["attachments"] = [base64.b64encode(data).decode() for data in message.attachments]
    if skip is not None:
        fields["skip"] = skip
    if group is not None:
        fields["group"], fields["channels"] = group, list(channels)
    return orjson.dumps(fields)


def decode(payload: bytes, topic: Topic) -> Envelope:
    """Decode an envelope received on a topic.

    Raises:
        InvalidEnvelope: The payload is not an envelope for this topic.
    """
    if len(payload) > MAX_ENVELOPE:
        raise InvalidEnvelope(f"{len(payload)} bytes")
    try:
        fields = orjson.loads(payload)
    except ValueError as error:
        raise InvalidEnvelope(f"not JSON: {error}") from None
    if not isinstance(fields, dict) or fields.get("v") != VERSION:
        raise InvalidEnvelope("not an envelope of this version")
    node, epoch, number = (fields.get(name) for name in ("node", "epoch", "number"))
    if not isinstance(node, str) or not _is_count(epoch) or not _is_count(number):
        raise InvalidEnvelope("node, epoch or number is missing or of the wrong type")
    skip, group, channels = fields.get("skip"), fields.get("group"), fields.get("channels", [])
    if not (skip is None or isinstance(skip, str)) or not (group is None or _is_count(group)):
        raise InvalidEnvelope("a field of the wrong type")
    if not isinstance(channels, list) or not all(isinstance(name, str) for name in channels):
        raise InvalidEnvelope("channels that are not a list of strings")
    if (group is None) != (not channels) or (channels and topic.kind != CHANNEL):
        raise InvalidEnvelope("channels without a group")
    return Envelope(Mark(node, epoch, number), _packet(fields, topic), skip, group, tuple(channels))


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _packet(fields: dict[str, Any], topic: Topic) -> Packet | None:
    text, encoded = fields.get("text"), fields.get("attachments", [])
    if text is None:
        return None
    if not isinstance(text, str) or not isinstance(encoded, list):
        raise InvalidEnvelope("a packet of the wrong type")
    try:
        attachments = [base64.b64decode(item, validate=True) for item in encoded]
    except (TypeError, ValueError):
        raise InvalidEnvelope("attachments that are not base64") from None
    # Only events of the topic's namespace may reach a client: one malformed character would close
    # its session.
    head = event_head("/" if topic.kind == SESSION else topic.namespace, len(attachments))
    packet = text.encode()
    if not packet.startswith(head + b"["):
        raise InvalidEnvelope("not an event of the topic's namespace")
    return Packet(packet[len(head) :], attachments)
