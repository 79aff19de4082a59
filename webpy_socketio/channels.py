"""Who is in which channel: pure data, and the rules for a channel's name."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import Any, Generic, TypeVar

from webpy_socketio.exceptions import ChannelError

__all__ = ["Channels", "check_name"]

T = TypeVar("T")

_EMPTY: Collection[Any] = ()


class Channels(Generic[T]):
    """Members of channels, and the channels that a member holds.

    Joining, leaving and looking up cost what is asked for: nothing depends on how many channels or
    members there are. Nothing is made by reading, and nothing empty is kept.
    """

    def __init__(self) -> None:
        self._members: dict[str, dict[T, None]] = {}
        self._held: dict[T, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def members(self, channel: str) -> Collection[T]:
        """Who is in `channel`, in the order of joining."""
        return self._members.get(channel, _EMPTY)

    def memberships(self) -> int:
        """How many members all channels have together."""
        return sum(map(len, self._members.values()))

    def held(self, member: T) -> Collection[str]:
        """The channels that `member` holds, in the order of joining."""
        return self._held.get(member, _EMPTY)

    def add(self, member: T, channel: str) -> bool:
        """Put `member` into `channel`; False if it is there already."""
        held = self._held.setdefault(member, {})
        if channel in held:
            return False
        held[channel] = None
        self._members.setdefault(channel, {})[member] = None
        return True

    def remove(self, member: T, channel: str) -> bool:
        """Take `member` out of `channel`; False if it is not there."""
        held = self._held.get(member)
        if held is None or channel not in held:
            return False
        del held[channel]
        if not held:
            del self._held[member]
        self._remove_from(channel, member)
        return True

    def hide(self, member: T) -> None:
        """Take `member` out of all its channels, but let it hold them until `forget`.

        So a connection that is gone gets nothing more, while its handlers can still tell where it
        was.
        """
        for channel in self.held(member):
            self._remove_from(channel, member)

    def forget(self, member: T) -> None:
        """Let `member`, which was withdrawn, hold nothing."""
        self._held.pop(member, None)

    def _remove_from(self, channel: str, member: T) -> None:
        members = self._members.get(channel)
        if members is not None:
            members.pop(member, None)
            if not members:
                del self._members[channel]


def check_name(channel: Any, max_length: int) -> str:
    """Return `channel` if it may be a channel's name; raise `ChannelError` if not.

    A name is text of 1 to `max_length` characters, without control characters and lone surrogates,
    and without U+FFFD: it replaces a lone surrogate that a client sent, so different names would
    become one.
    """
    if not isinstance(channel, str):
        raise ChannelError(f"a channel's name is text, not {type(channel).__name__}")
    if not 1 <= len(channel) <= max_length:
        raise ChannelError(
            f"a channel's name has 1 to {max_length} characters (SOCKETIO_MAX_CHANNEL_LENGTH)"
        )
    if "\ufffd" in channel:
        raise ChannelError("a channel's name cannot contain a lone surrogate or U+FFFD")
    if not channel.isprintable() and any(
        unicodedata.category(character) in ("Cc", "Cs") for character in channel
    ):
        raise ChannelError("a channel's name has no control characters and no lone surrogates")
    if channel == "__proto__":  # an innocent key here, but not in the objects of a browser
        raise ChannelError("this name is reserved")
    return channel
