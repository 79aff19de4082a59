"""What Redis does for us at one stroke: the scripts in ``lua/``, how they are called, what they answer."""

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
    "Place",
    "Reading",
    "changes_of",
    "channel_of",
    "loading",
    "parse_change",
    "parse_state",
    "result_of",
    "run_call",
    "text_of",
]

_FOLDER = Path(__file__).parent / "lua"
_COMMON = (_FOLDER / "channel.lua").read_text(encoding="utf-8")

#: A command for Redis.
Words = tuple[Any, ...]

#: Where a replica is: epoch and revision.
Place = tuple[str, int]

Answer = Any

#: Bytes of a value in Redis that is read: more than any key with its meta has.
MAX_VALUE = 200_000

#: Seconds after which it is checked that one that has left is really going to be removed.
OVERDUE = 60.0

#: Bytes of a published change: a key may have many connections.
MAX_DIFF = 16_000_000


class _Script:
    """A script: known to Redis by its digest, if it has seen it."""

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

    def words(self, whole: bool = False) -> Words:
        """As a command: by the script's digest or, where Redis does not know that, its `whole` text."""
        beginning = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.digest)
        return (*beginning, 1, self.base, *self.arguments)


class Names:
    """Names of presence's own in Redis, and the calls that know them. Times are in seconds."""

    def __init__(self, prefix: str) -> None:
        self.base = f"{prefix}:1:presence"

    def of(self, noun: str, what: str) -> str:
        """The name of a key or topic; ``lua/channel.lua`` has the list."""
        return f"{self.base}:{noun}:{what}"

    def here(self) -> str:
        """The topic that each process subscribes to."""
        return f"{self.base}:here"

    def join(self, node: str, channel: Channel, connection: str, key: str, meta: str) -> Call:
        where = text_of(channel)
        return self._call("connection", "join", node, where, connection, key, meta, _fresh())

    def leave(self, channel: Channel, connection: str, grace: float) -> Call:
        where = text_of(channel)
        return self._call("connection", "leave", where, connection, _ms(grace), _fresh())

    def read(self, channel: Channel, place: Place = ("", 0)) -> Call:
        return self._call("state", "read", text_of(channel), *place, _fresh())

    def count(self, channels: Iterable[Channel]) -> Call:
        return self._call("state", "count", *map(text_of, channels))

    def repair(self, channel: Channel, items: Iterable[bytes]) -> Call:
        return self._call("state", "repair", text_of(channel), *items)

    def begin(self, run: str, remembered: str, settle: float, cold: float) -> Call:
        return self._call("node", "begin", run, _fresh(), remembered, _ms(settle), _ms(cold))

    def enter(self, node: str, lease: float) -> Call:
        return self._call("node", "enter", node, _ms(lease))

    def renew(self, node: str, lease: float) -> Call:
        return self._call("node", "renew", node, _ms(lease))

    def finish(self, node: str) -> Call:
        return self._call("node", "finish", node)

    def sweep(self, node: str, grace: float, claim: float, portion: int) -> Call:
        return self._call("node", "sweep", node, _ms(grace), _ms(claim), portion, _fresh())

    def _call(self, noun: str, *arguments: Any) -> Call:
        return Call(_SCRIPTS[noun], self.base, arguments)


def loading() -> Iterable[Words]:
    """The commands that make Redis know the scripts."""
    return [("SCRIPT", "LOAD", script.text) for script in _SCRIPTS.values()]


def run_call(link: Any, call: Call) -> Answer:
    """Make one call now, and return its answer; raises `BackplaneError`."""
    (answer,) = link.execute(call.words())
    if isinstance(answer, BackplaneError):  # NOSCRIPT, most likely
        (answer,) = link.execute(call.words(whole=True))
    if isinstance(answer, BackplaneError):
        raise answer
    return result_of(answer)


def result_of(answer: Answer) -> Answer:
    """What a script returned; keys that it found damaged are logged."""
    if isinstance(answer, list) and answer[:1] == [b"damaged"]:
        for key in answer[2]:
            log_damage(key.decode(errors="replace"), "a value of the wrong type or form")
        return answer[1]
    return answer


def text_of(channel: Channel) -> str:
    """A channel's name in Redis; a namespace has no comma."""
    return ",".join(channel)


def parse_change(channel: Channel, diff: bytes) -> Change:
    """Read a change as it was published; raises `ValueError` for anything else."""
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


def changes_of(answer: Answer) -> list[Change]:
    """The changes that a script has made."""
    changes = []
    for where, diff in zip(answer[::2], answer[1::2], strict=True):
        try:
            changes.append(parse_change(channel_of(where), diff))
        except ValueError as error:
            log_damage(where.decode(errors="replace"), f"a change ({error})")
    return changes


@dataclass(frozen=True)
class Reading:
    """A whole state as it is in Redis."""

    state: State
    #: Seconds after which it is complete, as processes register again; 0: it is.
    unsettled: float
    #: Keys and connections that cannot be read, and those that should have left long ago.
    damaged: list[bytes]


def parse_state(answer: Answer, pause: Any = None) -> Reading:
    """Read a whole state; `pause` is called now and then, as a large one takes a while."""
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


def channel_of(text: bytes) -> Channel:
    """The channel of that name in Redis."""
    namespace, _, name = text.decode().partition(",")
    return namespace, name


def _fresh() -> str:
    return secrets.token_hex(8)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
