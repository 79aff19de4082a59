"""Lua scripts of presence: their calls, and parsers for their results."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from webpy_socketio import BackplaneError
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
    "load_commands",
    "parse_change",
    "parse_changes",
    "parse_state",
    "run_call",
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

    def __init__(self, noun: str) -> None:
        text = _COMMON + (_FOLDER / f"{noun}.lua").read_text(encoding="utf-8")
        self.text = text.encode()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


_SCRIPTS = {noun: _Script(noun) for noun in ("connection", "node", "state")}


@dataclass(frozen=True)
class Call:
    """One call of a script."""

    script: _Script
    base: str
    arguments: tuple[Any, ...]

    def command(self, with_source: bool = False) -> Command:
        """Return an EVALSHA command, or EVAL with the source if it is not cached."""
        beginning = ("EVAL", self.script.text) if with_source else ("EVALSHA", self.script.digest)
        return (*beginning, 1, self.base, *self.arguments)


class Names:
    """Names of keys and topics, and calls of the scripts. Times are in seconds."""

    def __init__(self, prefix: str) -> None:
        self.base = f"{prefix}:1:presence"

    def of(self, noun: str, what: str) -> str:
        """Return the name of a key or topic; they are listed in ``lua/channel.lua``."""
        return f"{self.base}:{noun}:{what}"

    def control_topic(self) -> str:
        """Return the topic to which every process subscribes."""
        return f"{self.base}:here"

    def join(self, node: str, channel: Channel, connection: str, key: str, meta: str) -> Call:
        name = encode_channel(channel)
        return self._call("connection", "join", node, name, connection, key, meta, _fresh())

    def leave(self, channel: Channel, connection: str, grace: float) -> Call:
        name = encode_channel(channel)
        return self._call("connection", "leave", name, connection, _ms(grace), _fresh())

    def read(self, channel: Channel, position: Position = ("", 0)) -> Call:
        return self._call("state", "read", encode_channel(channel), *position, _fresh())

    def count(self, channels: Iterable[Channel]) -> Call:
        return self._call("state", "count", *map(encode_channel, channels))

    def repair(self, channel: Channel, items: Iterable[bytes]) -> Call:
        return self._call("state", "repair", encode_channel(channel), *items)

    def begin(self, run: str, remembered: str, settle: float, cold: float) -> Call:
        return self._call("node", "begin", run, _fresh(), remembered, _ms(settle), _ms(cold))

    def enter(self, node: str, lease: float) -> Call:
        return self._call("node", "enter", node, _ms(lease))

    def renew(self, node: str, lease: float) -> Call:
        return self._call("node", "renew", node, _ms(lease))

    def finish(self, node: str) -> Call:
        return self._call("node", "finish", node)

    def sweep(self, node: str, grace: float, claim: float, batch: int) -> Call:
        return self._call("node", "sweep", node, _ms(grace), _ms(claim), batch, _fresh())

    def _call(self, noun: str, *arguments: Any) -> Call:
        return Call(_SCRIPTS[noun], self.base, arguments)


def load_commands() -> Iterable[Command]:
    """Return the commands that load the scripts."""
    return [("SCRIPT", "LOAD", script.text) for script in _SCRIPTS.values()]


def run_call(redis: Any, call: Call) -> Answer:
    """Call a script and return its result.

    Raises:
        BackplaneError: The connection or the script failed.
    """
    (answer,) = redis.execute(call.command())
    if isinstance(answer, BackplaneError):  # most likely NOSCRIPT
        (answer,) = redis.execute(call.command(with_source=True))
    if isinstance(answer, BackplaneError):
        raise answer
    return unwrap_result(answer)


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
