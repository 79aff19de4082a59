r"""What travels between processes: a packet as it was encoded once, and where it stands in a row.

An envelope is JSON::

    {"v": 1, "node": "5f2c...", "epoch": 3, "number": 17,        who sent it, and its number
     "text": "42[\"message\",\"hello\"]", "attachments": [],       the packet; bytes as base64
     "skip": "...",                                              a session id to be left out
     "group": 4, "channels": ["a", "b"]}                         one broadcast on several topics

Without ``text`` it only says which number has been reached. Whatever is not one is `Foreign`.
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
    "beginning",
    "decode",
    "encode",
]

#: Bytes of an envelope that is read. A message of 1 MB grows by a third as base64, and by as much
#: again as it has quotes and backslashes.
MAX_ENVELOPE = 4_000_000


class InvalidEnvelope(ValueError):
    """What came on a topic is not an envelope; the text says why."""


class Mark(NamedTuple):
    """Where an envelope stands in the row of what one process sends to one topic."""

    node: str
    #: Which row; a process begins a new one when it has forgotten where the last one was.
    epoch: int
    #: From 1 on, without a gap.
    number: int


class Packet(NamedTuple):
    """An event, encoded but for the namespace in front of it: a session's is not known elsewhere."""

    body: bytes
    attachments: list[bytes]

    def message(self, namespace: str) -> Message:
        """The message for a socket in that namespace."""
        return Message(event_head(namespace, len(self.attachments)) + self.body, self.attachments)


class Envelope(NamedTuple):
    """One that has arrived."""

    mark: Mark
    packet: Packet | None
    skip: str | None = None
    group: int | None = None
    channels: tuple[str, ...] = ()


def beginning(node: str) -> bytes:
    """What every envelope of a node begins with: our own are known without being read."""
    return b'{"v":%d,"node":"%b",' % (VERSION, node.encode())


def encode(
    mark: Mark,
    message: Message | None,
    skip: str | None = None,
    group: int | None = None,
    channels: Sequence[str] = (),
) -> bytes:
    """Make an envelope; the message is not encoded again."""
    # The order is that of `beginning`.
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
    """Read what came on a topic; raises `Foreign`."""
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
        raise InvalidEnvelope("no mark")
    skip, group, channels = fields.get("skip"), fields.get("group"), fields.get("channels", [])
    if not (skip is None or isinstance(skip, str)) or not (group is None or _is_count(group)):
        raise InvalidEnvelope("a field of the wrong type")
    if not isinstance(channels, list) or not all(isinstance(name, str) for name in channels):
        raise InvalidEnvelope("channels that are none")
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
    # An event, of this topic's namespace: nothing else may reach a client from here, as its session
    # would be closed by one character.
    head = event_head("/" if topic.kind == SESSION else topic.namespace, len(attachments))
    packet = text.encode()
    if not packet.startswith(head + b"["):
        raise InvalidEnvelope("not an event of the topic's namespace")
    return Packet(packet[len(head) :], attachments)
