"""The Lua script of history: its calls, and the form of records in Redis."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from webpy_socketio import BackplaneError, hash_tag, hash_tags, is_redis_cluster
from webpy_socketio.plugins.history.memory import KEEP_POSITION
from webpy_socketio.plugins.history.store import Channel, Entry, Limits, Page, Record, Rule

__all__ = [
    "Call",
    "Names",
    "command",
    "decode_record",
    "encode_record",
    "parse_page",
    "parse_run",
    "run_call",
]

_TEXT = (Path(__file__).parent / "lua" / "history.lua").read_bytes()

#: Channels of one part that are kept in any case, in a Redis Cluster.
_MIN_CHANNELS = 100


class _Script:
    """The script with its SHA-1 digest, by which Redis caches it."""

    def __init__(self, publish: str) -> None:
        self.text = f"local PUBLISH = '{publish}'\n".encode() + _TEXT
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


_SCRIPT, _CLUSTER_SCRIPT = _Script("PUBLISH"), _Script("SPUBLISH")


class Call(NamedTuple):
    """A call of the script without the run of Redis."""

    script: _Script
    #: The prefix of the keys; in a Redis Cluster, another one with the same slot follows.
    keys: tuple[str, ...]
    command: str
    arguments: tuple[Any, ...]


class Names:
    """Names of keys and topics, and calls of the script."""

    def __init__(self, url: str, prefix: str, limits: Limits) -> None:
        self._base = f"{prefix}:1:history"
        self.is_cluster = is_redis_cluster(url)
        if self.is_cluster:
            parts = len(hash_tags())
            limits = replace(
                limits,
                total_bytes=max(limits.channel_bytes, limits.total_bytes // parts),
                channels=max(min(limits.channels, _MIN_CHANNELS), limits.channels // parts),
            )
        self._limits = limits

    def topic(self, channel: Channel) -> bytes:
        """Return the topic on which changes of a channel are published."""
        return f"{self._prefix(channel)}:log:{','.join(channel)}".encode()

    def channel(self, topic: bytes) -> Channel:
        """Return the channel of a topic."""
        # A hash tag contains no colon.
        text = topic.decode()[len(self._base) :].partition(":log:")[2]
        namespace, _, name = text.partition(",")
        return namespace, name

    def append(self, channel: Channel, rule: Rule, record: bytes) -> Call:
        limits = self._limits
        numbers = (rule.size, _ms(rule.ttl), limits.channel_bytes, limits.total_bytes)
        return self._call("append", channel, *numbers, limits.channels, _ms(KEEP_POSITION), record)

    def read(self, channel: Channel, after: int, limit: int, ttl: float) -> Call:
        return self._call("read", channel, after, limit, _ms(ttl))

    def read_last(self, channel: Channel, limit: int, ttl: float) -> Call:
        return self._call("last", channel, limit, _ms(ttl))

    def clear(self, channel: Channel) -> Call:
        return self._call("clear", channel)

    def _call(self, command: str, channel: Channel, *arguments: Any) -> Call:
        base = self._prefix(channel)
        name = ",".join(channel)
        if self.is_cluster:
            return Call(_CLUSTER_SCRIPT, (base, f"{base}:"), command, (name, *arguments))
        return Call(_SCRIPT, (base,), command, (name, *arguments))

    def _prefix(self, channel: Channel) -> str:
        """Return the prefix of the keys of a channel."""
        return f"{self._base}:{{{hash_tag(','.join(channel))}}}" if self.is_cluster else self._base


def command(call: Call, run: str, with_source: bool = False) -> tuple[Any, ...]:
    """Return the Redis command of a call."""
    script, keys, name, arguments = call
    beginning = ("EVAL", script.text) if with_source else ("EVALSHA", script.digest)
    return (*beginning, len(keys), *keys, name, run, secrets.token_hex(8), *arguments)


def run_call(redis: Any, call: Call) -> Any:
    """Call the script and return its result.

    Raises:
        BackplaneError: The connection or the script failed.
    """
    run = parse_run(redis.server_info(call.keys[0]))
    (answer,) = redis.execute(command(call, run))
    if isinstance(answer, BackplaneError):  # most likely NOSCRIPT
        (answer,) = redis.execute(command(call, run, with_source=True))
    if isinstance(answer, BackplaneError):
        raise answer
    return answer


def parse_page(answer: Any) -> Page:
    """Return the page that a call has returned; invalid records are skipped."""
    epoch, tail, found = answer
    entries = []
    for offset, time, data in found:
        try:
            entries.append(Entry(offset, time / 1000, decode_record(data)))
        except (ValueError, KeyError, TypeError):  # written by another program: a gap
            continue
    return Page(epoch.decode(), tail, entries)


def encode_record(record: Record) -> bytes:
    """Return a record as Redis stores it: a JSON header, a line feed, the event, attachments."""
    header: dict[str, Any] = {"id": record.id}
    if record.attachments:
        header["attachments"] = [len(data) for data in record.attachments]
    if record.excluded_sockets:
        header["skip"] = record.excluded_sockets
    if record.excluded_channels:
        header["skip_channels"] = record.excluded_channels
    return b"".join([orjson.dumps(header), b"\n", record.body, *record.attachments])


def decode_record(data: bytes) -> Record:
    """Return a record that Redis has stored.

    Raises:
        ValueError: The record is malformed.
        KeyError: A field is missing.
        TypeError: A field has the wrong type.
    """
    text, _, rest = data.partition(b"\n")
    header = orjson.loads(text)
    sizes = header.get("attachments", [])
    body, rest = _split(rest, len(rest) - sum(sizes))
    event = orjson.loads(body)
    if not isinstance(event, list) or not event or not isinstance(event[0], str):
        raise ValueError("not an event")
    attachments = []
    for size in sizes:
        attachment, rest = _split(rest, size)
        attachments.append(attachment)
    return Record(
        str(header["id"]),
        body,
        tuple(attachments),
        tuple(map(str, header.get("skip", ()))),
        tuple(map(str, header.get("skip_channels", ()))),
    )


def _split(data: bytes, size: int) -> tuple[bytes, bytes]:
    if not 0 <= size <= len(data):
        raise ValueError("wrong size of an attachment")
    return data[:size], data[size:]


def parse_run(info: bytes) -> str:
    """Return the beginning of Redis's run id, from INFO."""
    for line in info.decode(errors="replace").splitlines():
        if line.startswith("run_id:"):
            return line[len("run_id:") :][:16]
    return ""


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
