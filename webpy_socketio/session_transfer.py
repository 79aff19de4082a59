"""Session transfer: sessions of recoverable sockets in a form that other processes can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from webpy_socketio.carried_messages import Carried, CarriedMessage
from webpy_socketio.engine.io.packets import Message

__all__ = ["NotPortable", "TransferredSession", "decode", "encode", "portable_environ", "to_json"]

#: Values of these types are written as they are; others of orjson, such as dates, would be text.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


#: Headers that do not move: they contain passwords, and are needed by the handshake only. Cookies
#: move, because handlers of the last stages may need the user's session.
CREDENTIALS = frozenset(("HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION"))


class NotPortable(ValueError):
    """A session cannot be read by another process; the text contains the reason."""


@dataclass
class TransferredSession:
    """The state of one recoverable socket."""

    pid: str
    session_id: str
    namespace: str
    #: In the order of joining.
    channels: list[str]
    context: dict[str, Any]
    #: Text values of the WSGI environ of the handshake.
    environ: dict[str, str]
    auth: Any
    #: Reason of the loss.
    reason: str
    #: Seconds until the session ends.
    remaining: float
    #: Number of the last numbered message of the client.
    received: int
    #: Recent answers to numbered messages, see `Receipts.to_json`.
    answers: list[Any]
    carried: Carried
    #: What receivers of the signal `release` have added.
    state: dict[str, Any] = field(default_factory=dict)
    #: What its earlier servers have seen, see `webpy_socketio.topic_cut.Seen.to_json`.
    seen: list[Any] = field(default_factory=lambda: [[], []])


def encode(sessions: Iterable[TransferredSession]) -> bytes:
    """Encode sessions; a message of several sessions is written once.

    The result is a line of JSON, followed by the texts and attachments of the messages.
    """
    indexes: dict[int, int] = {}
    messages: list[tuple[str, int, int | None, list[int]]] = []
    parts: list[bytes] = []
    fields = []
    for session in sessions:
        missed = []
        for epoch, number, message in session.carried.messages:
            index = indexes.get(id(message))
            if index is None:
                index = indexes[id(message)] = len(messages)
                size = None if message.text is None else len(message.text)
                messages.append((epoch, number, size, [len(data) for data in message.attachments]))
                parts += [message.text or b"", *message.attachments]
            missed.append(index)
        values = {name: getattr(session, name) for name in _FIELDS}
        fields.append({**values, "missed": missed, "start": session.carried.start})
    header = orjson.dumps({"sessions": fields, "messages": messages}, option=_OPTIONS)
    return b"".join((header, b"\n", *parts))


_FIELDS = (
    *("pid", "session_id", "namespace", "channels", "context", "environ", "auth", "reason"),
    *("remaining", "received", "answers", "state", "seen"),
)


def decode(data: bytes) -> list[TransferredSession]:
    """Decode sessions encoded by `encode`.

    Raises:
        ValueError: The data was not encoded by `encode`.
    """
    end = data.index(b"\n")
    try:
        header = orjson.loads(data[:end])
        position = end + 1
        messages = []
        for epoch, number, size, sizes in header["messages"]:
            text = None if size is None else data[position : position + size]
            position += size or 0
            attachments = []
            for length in sizes:
                attachments.append(data[position : position + length])
                position += length
            messages.append(CarriedMessage(epoch, number, Message(text, attachments)))
        if position != len(data):  # a part of the answer was dropped
            raise ValueError(f"not a transferred session: {len(data)} bytes instead of {position}")
        sessions = []
        for fields in header["sessions"]:
            start = fields["start"]
            carried = Carried(
                [messages[index] for index in fields["missed"]],
                None if start is None else (start[0], start[1]),
            )
            values = {name: fields[name] for name in _FIELDS}
            sessions.append(TransferredSession(carried=carried, **values))
    except (LookupError, TypeError) as error:
        raise ValueError(f"not a transferred session: {error!r}") from error
    return sessions


def to_json(values: Mapping[str, Any], exactly: bool = True) -> dict[str, Any]:
    """Return a copy of a dict, as another process reads it.

    Args:
        values: The dict.
        exactly: Whether tuples are rejected, which become lists, and whatever else changes.

    Raises:
        NotPortable: A value would not be the same there; the text names its key.
    """
    copy: dict[str, Any] = {}
    for key, value in values.items():
        try:
            copied = orjson.loads(orjson.dumps({key: value}, option=_OPTIONS))
        except (ValueError, TypeError, RecursionError) as error:
            raise NotPortable(f"{key!r} is not JSON: {error}") from error
        if exactly and copied != {key: value}:
            raise NotPortable(
                f"{key!r} is a {type(value).__name__} that JSON cannot represent exactly"
            )
        copy.update(copied)
    return copy


def portable_environ(environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of a WSGI environ that other processes can use, without `CREDENTIALS`."""
    return {
        name: value
        for name, value in environ.items()
        if type(value) is str and name not in CREDENTIALS and not _has_surrogates(value)
    }


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
