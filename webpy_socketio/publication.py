"""Publication: a message that is about to be sent to channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from webpy_socketio.backplane.filters import RecipientFilter
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import event_body, read_event
from webpy_socketio.engine.socketio.parser import as_json

__all__ = ["Publication", "feed_name"]


class Publication:
    """A message to channels, before it is sent.

    Attributes:
        namespace: Name of the namespace.
        channels: Names of the channels.
        size: Bytes on the wire for one recipient.
    """

    __slots__ = ("_message", "channels", "excluded", "namespace", "size")

    def __init__(
        self,
        namespace: str,
        channels: Sequence[str],
        message: Message,
        excluded: RecipientFilter,
    ) -> None:
        self.namespace = namespace
        self.channels = tuple(channels)
        self.size = message.size
        #: Excluded recipients, with those of `divert`; internal.
        self.excluded = excluded
        self._message = message

    @property
    def is_volatile(self) -> bool:
        """Whether clients with unsent data do not receive the message."""
        return self.excluded.volatile

    @property
    def excluded_sockets(self) -> tuple[str, ...]:
        """Session ids of sockets that do not receive the message."""
        return self.excluded.session_ids

    @property
    def excluded_channels(self) -> tuple[str, ...]:
        """Channels whose members do not receive the message."""
        return tuple(name for name in self.excluded.channels if name[:1] != _MARK)

    @property
    def body(self) -> bytes:
        """JSON array of the event's name and arguments; bytes are placeholders."""
        return event_body(self.namespace, self._as_json())

    @property
    def attachments(self) -> tuple[bytes, ...]:
        """The bytes in the arguments, in the order of their placeholders."""
        return tuple(self._as_json().attachments)

    def read(self) -> list[Any]:
        """Return the event's name and arguments; bytes are placeholders."""
        return read_event(self.namespace, self._as_json())

    def _as_json(self) -> Message:
        self._message = as_json(self._message)  # the server sends its own reference
        return self._message

    def divert(self, channel: str) -> None:
        """Do not send the message to the feed of a channel, in any process.

        For a plugin that delivers the message to the sockets of its `Feed`.

        Args:
            channel: One of `channels`.
        """
        excluded = (*self.excluded.channels, feed_name(channel))
        self.excluded = self.excluded._replace(channels=excluded)


#: First character of names that no channel can have.
_MARK = "\x1f"


def feed_name(channel: str) -> str:
    """Return the name under which the sockets of a feed are excluded from a message."""
    return _MARK + channel
