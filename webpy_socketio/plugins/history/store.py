"""Interface of a store: numbered messages of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

__all__ = [
    "Channel",
    "Entry",
    "Limits",
    "Listener",
    "Page",
    "Record",
    "Rule",
    "Store",
    "same_store",
]

#: Namespace and name.
Channel = tuple[str, str]


@dataclass(frozen=True)
class Rule:
    """Limits of the history of one channel."""

    #: Maximum number of messages.
    size: int
    #: Seconds after which a message is removed.
    ttl: float


@dataclass(frozen=True)
class Limits:
    """Limits of a store."""

    #: Maximum bytes of the messages of a channel.
    channel_bytes: int
    #: Maximum bytes of all messages.
    total_bytes: int
    #: Maximum number of channels.
    channels: int


class Record(NamedTuple):
    """A message as it is stored."""

    #: Id that is unique among all messages.
    id: str
    #: JSON array of the event's name and arguments; bytes are placeholders.
    body: bytes
    #: The bytes in the arguments.
    attachments: tuple[bytes, ...] = ()
    #: Session ids of sockets, and channels whose members, do not receive the message.
    excluded_sockets: tuple[str, ...] = ()
    excluded_channels: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that count towards the limits."""
        excluded = map(len, (*self.excluded_sockets, *self.excluded_channels))
        return len(self.body) + sum(map(len, self.attachments)) + sum(excluded) + len(self.id)


class Entry(NamedTuple):
    """A stored message."""

    #: Position in its epoch: 1 for the first message of the channel, without gaps.
    offset: int
    #: Unix time in seconds.
    time: float
    record: Record


class Page(NamedTuple):
    """Consecutive entries of a channel, and the position of its last message."""

    #: Identifies the numbering. It changes if the store has lost messages that it should have kept.
    epoch: str
    #: Offset of the last message, whether it is stored or not; 0 if there was none.
    tail: int
    entries: Sequence[Entry] = ()


class Listener(Protocol):
    """Receives the changes of a store in the hub's thread; must not block."""

    def on_change(self, channel: Channel) -> None:
        """Handle a new message or a new epoch of a watched channel."""

    def on_unrecorded(self, channel: Channel, record: Record) -> None:
        """Handle a message that was accepted by `Store.append` and could not be stored."""

    def on_reconnected(self) -> None:
        """Handle the return of the store: any channel may have changed."""


class Store(Protocol):
    """A store; for the hub's thread only."""

    #: Whether reading waits.
    waits: bool

    def append(self, channel: Channel, rule: Rule, record: Record) -> bool:
        """Store a message and return True, or return False if it cannot be stored."""

    def read(self, channel: Channel, after: int, limit: int) -> Page:
        """Return the first `limit` entries with a higher offset than `after`.

        Raises:
            BackplaneError: Redis did not reply in time.
        """

    def read_last(self, channel: Channel, limit: int) -> Page:
        """Return the last `limit` entries; otherwise like `read`."""

    def clear(self, channel: Channel) -> None:
        """Remove all entries of a channel, and start a new epoch; otherwise like `read`."""

    def watch(self, channel: Channel) -> None:
        """Report changes of a channel to the listener."""

    def unwatch(self, channel: Channel) -> None:
        """Stop reporting changes of a channel."""

    def close(self) -> None:
        """Close the store."""


def same_store(one: str, other: str) -> bool:
    """Return whether offsets of two epochs are comparable: only the run of Redis differs."""
    return one.partition(".")[0] == other.partition(".")[0]
