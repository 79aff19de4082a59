"""Interfaces of presence stores: `MemoryStore` for one process, `RedisStore` for several.

Every change of a channel has the next revision. A store reports each change in order, with its
revision and the metas before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Change", "Channel", "Listener", "Metas", "State", "Store"]

#: Namespace and name of a channel.
Channel = tuple[str, str]

#: Metadata of a key: one dict for each connection, in the order of joining.
Metas = list[dict[str, Any]]


@dataclass(frozen=True)
class State:
    """Members of a channel at a revision."""

    epoch: str
    rev: int
    members: dict[str, Metas]


@dataclass(frozen=True)
class Change:
    """Change of one key: `before` is empty if it joined, `after` is empty if it left."""

    channel: Channel
    epoch: str
    #: Revision created by this change; based on the previous one.
    rev: int
    key: str
    before: Metas
    after: Metas


class Listener(Protocol):
    """Receives the changes of a store in the hub's thread; only `on_local_change` may block."""

    def on_local_change(self, change: Change) -> None:
        """Handle a change made by this process; reported in no other process.

        Shared stores call it from a separate greenlet.
        """

    def on_change(self, change: Change) -> None:
        """Handle the next change of a watched channel, made by any process."""

    def on_reset(self, channel: Channel) -> None:
        """Handle a state of a watched channel that is newly known or not based on the last one."""


class Store(Protocol):
    """A store; for the hub's thread only. Only `fetch` and `counts` may block."""

    #: Whether the store outlives the process, so that clients may return after a shutdown.
    lasting: bool

    def join(self, channel: Channel, connection: str, key: str, meta: dict[str, Any]) -> None:
        """Add a connection under `key`, or change its key or meta."""

    def leave(self, channel: Channel, connection: str, grace: float) -> None:
        """Remove a connection after `grace` seconds, unless its key returns before."""

    def release(self, channel: Channel, connection: str, seconds: float) -> tuple[str, str] | None:
        """Leave a connection to the process to which its session moves.

        Without `adopt` there, it is removed after `seconds`.

        Returns:
            Key and meta (as JSON) for `adopt` there; None if the connection is not present.
        """

    def adopt(self, channel: Channel, connection: str, key: str, meta: str) -> None:
        """Take over a connection that another process has released; this is not a change."""

    def is_present(self, channel: Channel, connection: str) -> bool:
        """Return whether a connection of this process is present."""

    def watch(self, channel: Channel, connection: str) -> None:
        """Report changes of a channel to the listener, for a connection of this process."""

    def unwatch(self, channel: Channel, connection: str) -> None:
        """Stop reporting changes of a channel for a connection."""

    def state(self, channel: Channel) -> State | None:
        """Return the state of a watched channel, or None if it may be incomplete."""

    def request_reset(self, channel: Channel) -> None:
        """Call `Listener.on_reset` once the state of a watched channel is known."""

    def fetch(self, channel: Channel) -> State:
        """Return the state after all previous changes of this process.

        Raises:
            BackplaneError: Redis did not reply in time.
        """

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        """Return the number of keys in each channel; otherwise like `fetch`."""

    def close(self) -> None:
        """Close the store without reporting changes."""
