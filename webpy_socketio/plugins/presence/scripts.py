"""Lua scripts of presence: their calls, and parsers for their results."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from webpy_socketio import (
    BackplaneError,
    NodeUnavailable,
    hash_tag,
    hash_tags,
    is_redis_cluster,
)
from webpy_socketio.plugins.presence.damage import log_damage
from webpy_socketio.plugins.presence.store import Change, Channel, Metas, State

__all__ = [
    "Answer",
    "Call",
    "Names",
    "Position",
    "Reading",
    "decode_channel",
    "encode_channel",
    "is_rejected",
    "parse_change",
    "parse_changes",
    "parse_state",
    "run_call",
    "run_calls",
    "unwrap_result",
]

_FOLDER = Path(__file__).parent / "lua"
_COMMON = (_FOLDER / "channel.lua").read_text(encoding="utf-8")

#: A Redis command.
Command = tuple[Any, ...]

#: Epoch and revision of a replica.
Position = tuple[str, int]

Answer = Any

#: Maximum bytes of a value read from Redis; larger than any key with its meta.
MAX_VALUE = 200_000

#: Seconds after its due time at which a leaving connection counts as damaged.
OVERDUE = 60.0

#: Maximum bytes of a published change: a key may have many connections.
MAX_DIFF = 16_000_000


class _Script:
    """A script with its SHA-1 digest, by which Redis caches it."""

    def __init__(self, noun: str, settings: str) -> None:
        text = settings + _COMMON + (_FOLDER / f"{noun}.lua").read_text(encoding="utf-8")
        self.text = text.encode()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


_NOUNS = ("connection", "node", "state")

_SCRIPTS = {noun: _Script(noun, "local PUBLISH, NUMSUB = 'PUBLISH', 'NUMSUB'\n") for noun in _NOUNS}

_CLUSTER_SCRIPTS = {
    noun: _Script(noun, "local PUBLISH, NUMSUB = 'SPUBLISH', 'SHARDNUMSUB'\n") for noun in _NOUNS
}


@dataclass(frozen=True)
class Call:
    """One call of a script."""

    script: _Script
    #: The prefix of all keys; in a Redis Cluster, another one with the same slot follows.
    keys: tuple[str, ...]
    arguments: tuple[Any, ...]

    def command(self, with_source: bool = False) -> Command:
        """Return an EVALSHA command, or EVAL with the source if it is not cached."""
        beginning = ("EVAL", self.script.text) if with_source else ("EVALSHA", self.script.digest)
        return (*beginning, len(self.keys), *self.keys, *self.arguments)


class Names:
    """Names of keys and topics, and calls of the scripts. Times are in seconds.

    In a Redis Cluster, channels are divided into parts, each with its keys in one slot. A part has
    all kinds of keys, also those of nodes. Otherwise there is one part.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.base = f"{prefix}:1:presence"
        self.is_cluster = is_redis_cluster(url)
        self._scripts = _CLUSTER_SCRIPTS if self.is_cluster else _SCRIPTS
        #: The parts, by the prefix of their keys.
        self.parts: tuple[str, ...] = (self.base,)
        if self.is_cluster:
            self.parts = tuple(f"{self.base}:{{{tag}}}" for tag in hash_tags())

    def part(self, channel: str) -> str:
        """Return the part of a channel, given its name in Redis."""
        return f"{self.base}:{{{hash_tag(channel)}}}" if self.is_cluster else self.base

    def of(self, noun: str, channel: str) -> str:
        """Return the name of a channel's key or topic; they are listed in ``lua/channel.lua``."""
        return f"{self.part(channel)}:{noun}:{channel}"

    def channel_of(self, topic: bytes) -> Channel:
        """Return the channel of a topic with changes."""
        # A hash tag contains no colon.
        return decode_channel(topic[len(self.base) :].partition(b":diffs:")[2])

    def node_key(self, part: str, node: str) -> str:
        """Return the key of a node's entries in a part."""
        return f"{part}:node:{node}"

    def control_topics(self) -> tuple[str, ...]:
        """Return the topics to which every process subscribes, one for each part."""
        return tuple(f"{part}:here" for part in self.parts)

    def join(self, node: str, channel: Channel, connection: str, key: str, meta: str) -> Call:
        name = encode_channel(channel)
        words = node, name, connection, key, meta, _fresh()
        return self._call("connection", self.part(name), "join", *words)

    def leave(
        self,
        channel: Channel,
        connection: str,
        grace: float,
        node: str = "",
        at_once: bool = False,
    ) -> Call:
        name = encode_channel(channel)
        words = name, connection, _ms(grace), _fresh(), node, int(at_once)
        return self._call("connection", self.part(name), "leave", *words)

    def read(self, channel: Channel, position: Position = ("", 0)) -> Call:
        name = encode_channel(channel)
        return self._call("state", self.part(name), "read", name, *position, _fresh())

    def count(self, channels: Iterable[Channel]) -> Call:
        """Return the call that counts the members of channels of one part."""
        names = list(map(encode_channel, channels))
        return self._call("state", self.part(names[0]), "count", *names)

    def repair(self, channel: Channel, items: Iterable[bytes]) -> Call:
        name = encode_channel(channel)
        return self._call("state", self.part(name), "repair", name, *items)

    def begin(self, part: str, run: str, remembered: str, settle: float, cold: float) -> Call:
        words = run, _fresh(), remembered, _ms(settle), _ms(cold)
        return self._call("node", part, "begin", *words)

    def enter(self, part: str, node: str, lease: float) -> Call:
        return self._call("node", part, "enter", node, _ms(lease))

    def renew(self, part: str, node: str, lease: float) -> Call:
        return self._call("node", part, "renew", node, _ms(lease))

    def finish(self, part: str, node: str) -> Call:
        return self._call("node", part, "finish", node)

    def sweep(self, part: str, node: str, grace: float, claim: float, batch: int) -> Call:
        words = node, _ms(grace), _ms(claim), batch, _fresh()
        return self._call("node", part, "sweep", *words)

    def load_commands(self) -> Iterable[Command]:
        """Return the commands that load the scripts; none in a cluster, where nodes come and go."""
        if self.is_cluster:
            return []
        return [("SCRIPT", "LOAD", script.text) for script in self._scripts.values()]

    def _call(self, noun: str, part: str, *arguments: Any) -> Call:
        keys = (part, f"{part}:") if self.is_cluster else (part,)
        return Call(self._scripts[noun], keys, arguments)


def run_call(redis: Any, call: Call) -> Answer:
    """Call a script and return its result.

    Raises:
        BackplaneError: The connection or the script failed.
    """
    (answer,) = run_calls(redis, [call])
    if isinstance(answer, BackplaneError):
        raise answer
    return answer


def run_calls(redis: Any, calls: Sequence[Call]) -> list[Answer]:
    """Call scripts and return their results, or a `BackplaneError` for each that failed.

    Raises:
        BackplaneError: The connection failed.
    """
    answers = redis.execute(*(call.command() for call in calls))
    rejected = [number for number, answer in enumerate(answers) if is_rejected(answer)]
    if rejected:  # most likely NOSCRIPT
        again = redis.execute(*(calls[number].command(with_source=True) for number in rejected))
        for number, answer in zip(rejected, again, strict=True):
            answers[number] = answer
    return [unwrap_result(answer) for answer in answers]


def is_rejected(answer: Answer) -> bool:
    """Return whether Redis has rejected a call, and a repetition may succeed at once."""
    return isinstance(answer, BackplaneError) and not isinstance(answer, NodeUnavailable)


def unwrap_result(answer: Answer) -> Answer:
    """Return the result of a script, after logging the keys that it found damaged."""
    if isinstance(answer, list) and answer[:1] == [b"damaged"]:
        for key in answer[2]:
            log_damage(key.decode(errors="replace"), "a value of the wrong type or form")
        return answer[1]
    return answer


def encode_channel(channel: Channel) -> str:
    """Return the name of a channel in Redis; a namespace contains no comma."""
    return ",".join(channel)


def parse_change(channel: Channel, diff: bytes) -> Change:
    """Parse a published change.

    Raises:
        ValueError: The message is malformed.
    """
    if len(diff) > MAX_DIFF:
        raise ValueError(f"{len(diff)} bytes")
    fields = orjson.loads(diff)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    epoch, rev, key = map(fields.get, ("epoch", "rev", "key"))
    if not (isinstance(epoch, str) and isinstance(key, str) and type(rev) is int):
        raise ValueError("a field is missing or of the wrong type")
    return Change(channel, epoch, rev, key, _metas(fields, "before"), _metas(fields, "after"))


def _metas(fields: dict[str, Any], name: str) -> Metas:
    metas = fields.get(name)
    if not isinstance(metas, list) or not all(isinstance(meta, dict) for meta in metas):
        raise ValueError(f"{name!r} is missing or of the wrong type")
    return metas


def parse_changes(answer: Answer) -> list[Change]:
    """Return the changes made by a script."""
    changes = []
    for name, diff in zip(answer[::2], answer[1::2], strict=True):
        try:
            changes.append(parse_change(decode_channel(name), diff))
        except ValueError as error:
            log_damage(name.decode(errors="replace"), f"a change ({error})")
    return changes


@dataclass(frozen=True)
class Reading:
    """A channel's whole state as read from Redis."""

    state: State
    #: Seconds until all processes had time to register again; 0 if the state is complete.
    unsettled: float
    #: Keys and connections that are malformed or long overdue.
    damaged: list[bytes]


def parse_state(answer: Answer, pause: Any = None) -> Reading:
    """Parse a whole state; `pause` is called regularly, as a large state takes long."""
    epoch, rev, keys, connections, unsettled = answer
    found: dict[bytes, tuple[bytes, dict[str, Any]]] = {}
    damaged: list[bytes] = []
    overdue = (time.time() - OVERDUE) * 1000
    for number, (connection, value) in enumerate(_pairs(connections)):
        try:
            due, key, meta = _parse_connection(value)
            found[connection] = key, meta
            if 0 < due < overdue:
                damaged.append(connection)
        except ValueError:
            damaged.append(connection)
        if pause is not None and number % 500 == 499:
            pause()
    members: dict[str, Metas] = {}
    for key, text in _pairs(keys):
        metas = [
            found[connection][1]
            for connection in text.split(b"\n")
            if connection in found and found[connection][0] == key
        ]
        try:
            if not metas:
                raise ValueError("no connection has this key")
            members[key.decode()] = metas
        except ValueError:
            damaged.append(key)
    return Reading(State(epoch.decode(), rev, members), unsettled / 1000, damaged)


def _parse_connection(value: bytes) -> tuple[int, bytes, dict[str, Any]]:
    if len(value) > MAX_VALUE:
        raise ValueError(f"{len(value)} bytes")
    _, due, text, key = value.split(b"\n", 3)
    meta: Any = orjson.loads(text)
    if not isinstance(meta, dict):
        raise ValueError("not an object")
    return int(due), key, meta


def _pairs(flat: list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def decode_channel(text: bytes) -> Channel:
    """Return the channel with this name in Redis."""
    namespace, _, name = text.decode().partition(",")
    return namespace, name


def _fresh() -> str:
    return secrets.token_hex(8)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
