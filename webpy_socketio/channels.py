"""Membership of channels, and the rules for channel names."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, Generic, TypeVar

from webpy_socketio.exceptions import ChannelError

__all__ = ["Channels", "check_name"]

T = TypeVar("T")
V = TypeVar("V")

_NO_CHANNELS: Collection[str] = ()
_NO_MEMBERS: Mapping[Any, Any] = {}


class Channels(Generic[T, V]):
    """The members of each channel, each with a value, and the channels of each member.

    All operations take constant time, or time proportional to their result. Reading creates no
    entries, and empty entries are removed.
    """

    def __init__(self) -> None:
        self._members: dict[str, dict[T, V]] = {}
        self._held: dict[T, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def members(self, channel: str) -> Mapping[T, V]:
        """Return the members of `channel` with their values, in the order of joining."""
        return self._members.get(channel, _NO_MEMBERS)

    def memberships(self) -> int:
        """Return the sum of the member counts of all channels."""
        return sum(map(len, self._members.values()))

    def channels_of(self, member: T) -> Collection[str]:
        """Return the channels of `member` in the order of joining."""
        return self._held.get(member, _NO_CHANNELS)

    def add(self, member: T, channel: str, value: V) -> bool:
        """Add `member` to `channel` with a value; return False if it is a member already."""
        channels = self._held.setdefault(member, {})
        if channel in channels:
            return False
        channels[channel] = None
        self._members.setdefault(channel, {})[member] = value
        return True

    def replace_value(self, member: T, value: V) -> None:
        """Replace the value of `member` in all its channels."""
        for channel in self.channels_of(member):
            self._members[channel][member] = value

    def remove(self, member: T, channel: str) -> bool:
        """Remove `member` from `channel`; return False if it is not a member."""
        channels = self._held.get(member)
        if channels is None or channel not in channels:
            return False
        del channels[channel]
        if not channels:
            del self._held[member]
        self._remove_from(channel, member)
        return True

    def remove_member(self, member: T) -> None:
        """Remove `member` from all channels, but keep its list of channels until `forget_member`.

        A closed connection receives no more messages, while its last handlers can still read its
        channels.
        """
        for channel in self.channels_of(member):
            self._remove_from(channel, member)

    def forget_member(self, member: T) -> None:
        """Discard the list of channels of a removed `member`."""
        self._held.pop(member, None)

    def _remove_from(self, channel: str, member: T) -> None:
        members = self._members.get(channel)
        if members is not None:
            members.pop(member, None)
            if not members:
                del self._members[channel]


def check_name(channel: Any, max_length: int) -> str:
    """Return `channel` if it is a valid channel name.

    A valid name is text of 1 to `max_length` characters without control characters, lone surrogates
    and U+FFFD. U+FFFD replaces a lone surrogate sent by a client: different names would become
    equal.

    Raises:
        ChannelError: The name is not valid.
    """
    if not isinstance(channel, str):
        raise ChannelError(f"a channel name must be text, not {type(channel).__name__}")
    if not 1 <= len(channel) <= max_length:
        raise ChannelError(
            f"a channel name must have 1 to {max_length} characters (SOCKETIO_MAX_CHANNEL_LENGTH)"
        )
    if "\ufffd" in channel:
        raise ChannelError("a channel name must not contain a lone surrogate or U+FFFD")
    if not channel.isprintable() and any(
        unicodedata.category(character) in ("Cc", "Cs") for character in channel
    ):
        raise ChannelError("a channel name must not contain control characters or lone surrogates")
    if channel == "__proto__":  # sets the prototype of an object in JavaScript
        raise ChannelError('the channel name "__proto__" is reserved')
    return channel
