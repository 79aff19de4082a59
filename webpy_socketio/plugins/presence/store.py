"""Where presence is kept: what its stores have in common.

Every change of a channel has the next revision; a store tells each one, in order, with the
revision and what changed. It is kept in memory (`MemoryStore`) or, where there are several processes,
in Redis (`RedisStore`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Change", "Channel", "Listener", "Metas", "State", "Store"]

#: A namespace and a channel in it.
Channel = tuple[str, str]

#: What is told about a key: one dict for each of its connections, in the order of joining.
Metas = list[dict[str, Any]]


@dataclass(frozen=True)
class State:
    """Who is in a channel, and at which revision of it."""

    epoch: str
    rev: int
    members: dict[str, Metas]


@dataclass(frozen=True)
class Change:
    """One change of one key: it came if `before` is empty, and went if `after` is."""

    channel: Channel
    epoch: str
    #: The revision that this change made; it builds on the one before.
    rev: int
    key: str
    before: Metas
    after: Metas


class Listener(Protocol):
    """Whom a store tells, in the thread of the hub; nothing here may wait, but for `made`."""

    def on_local_change(self, change: Change) -> None:
        """A change that this process made: of all processes the only one that is told so.

        A shared store calls it from a greenlet of its own.
        """

    def on_change(self, change: Change) -> None:
        """The next change of a channel that is watched, whoever made it."""

    def on_reset(self, channel: Channel) -> None:
        """The state of a channel that is watched is known now, or is another one than was told."""


class Store(Protocol):
    """What presence asks of a store, in the thread of the hub. Only `ask` and `counts` may wait."""

    #: Whether it outlives the process: who is sent away because the server stops may come back.
    lasting: bool

    def join(self, channel: Channel, connection: str, key: str, meta: dict[str, Any]) -> None:
        """A connection is there under `key`; or its key or meta is another one now."""

    def leave(self, channel: Channel, connection: str, grace: float) -> None:
        """A connection has gone; it counts as there for `grace` seconds, or until its key is back."""

    def knows(self, channel: Channel, connection: str) -> bool:
        """Whether a connection of this process is there."""

    def watch(self, channel: Channel, connection: str) -> None:
        """A connection of this process is to be told of a channel's changes."""

    def unwatch(self, channel: Channel, connection: str) -> None:
        """It is not any more."""

    def state(self, channel: Channel) -> State | None:
        """Who is in a channel that is watched; None: not known, or perhaps incomplete, just now."""

    def owe(self, channel: Channel) -> None:
        """Call `Listener.renewed` once the state of a channel that is watched is known."""

    def ask(self, channel: Channel) -> State:
        """Who is there, all that this process did before included. Raises `BackplaneError`."""

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        """How many keys are in each, asked at once; otherwise as `ask`."""

    def close(self) -> None:
        """End, without telling."""
