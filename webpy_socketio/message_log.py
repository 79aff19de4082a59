"""The message log: recent messages with their recipients, for clients that resume a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from webpy_socketio.backplane.filters import RecipientFilter
from webpy_socketio.engine.io.native import MessageRing
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio import packets
from webpy_socketio.engine.socketio.parser import Parser
from webpy_socketio.memberships import Memberships
from webpy_socketio.message_index import MessageIndex
from webpy_socketio.offsets import parse_offset

__all__ = ["MessageLog", "Recipient"]


class Recipient(Protocol):
    """The part of a recoverable socket that the log uses."""

    memberships: Memberships

    @property
    def session_id(self) -> str:
        """Public id of the socket."""

    @property
    def namespace(self) -> str:
        """Name of the Socket.IO namespace."""

    def is_in_feed(self, name: str) -> bool:
        """Return whether a plugin sends the messages of a channel to the socket."""


class MessageLog(MessageRing):
    """Numbers messages and retains them within bounds; independent of the number of recipients.

    The numbers have no gaps. An offset is the text that clients receive with a message and return
    when they resume: the epoch, a dot and the number.

    Args:
        epoch: Distinguishes the numbers of this log from those of other processes. Text without
            dots, and without characters that JSON escapes.
        seconds: Maximum age of retained messages.
        max_messages: Maximum number of retained messages.
        max_bytes: Maximum total size of retained messages.
        now: Returns the time in seconds.
        parser: The parser that has encoded the messages.
    """

    __slots__ = ("_add_offset", "_encoded_epoch", "_index", "_prefix", "_pruned", "_replayed")

    def __init__(
        self,
        epoch: str,
        seconds: float,
        max_messages: int,
        max_bytes: int,
        now: Callable[[], float],
        parser: Parser = packets,
    ) -> None:
        number = None if parser is packets else parser.add_offset
        super().__init__(epoch.encode(), seconds, max_messages, max_bytes, now, number)
        self._add_offset = parser.add_offset
        self._encoded_epoch = epoch.encode()
        self._prefix = f"{epoch}."
        #: Created and updated for clients that return only, so that broadcasts pay nothing.
        self._index = MessageIndex(0)
        #: Messages that were sent again, by number: clients that return at once share them.
        self._replayed: dict[int, Message] = {}
        #: Messages up to this number were removed from `_replayed`.
        self._pruned = 0

    def append(
        self,
        message: Message,
        namespace: str,
        channels: tuple[str, ...] | None = None,
        included: str | None = None,
        skipped: str | None = None,
        excluded: RecipientFilter | None = None,
    ) -> Message:
        """Assign the next number to a message, retain it, and return it with its offset.

        A broadcast calls `add` instead, which has no defaults.

        Args:
            message: The message.
            namespace: Name of the namespace of its recipients.
            channels: They are the members of these channels; None for all sockets.
            included: Id of a socket that receives the message whether it is a member or not.
            skipped: Id of a socket that does not receive it.
            excluded: Further sockets that do not receive it.
        """
        numbered: Message = self.add(message, namespace, channels, included, skipped, excluded)
        return numbered

    def add_last_offset(self, message: Message, namespace: str) -> Message:
        """Return a message with the offset of the last retained one; it is not retained itself."""
        return self._add_offset(namespace, message, self._encoded_epoch, self.last)

    def discard_all(self) -> None:
        """Discard all messages, because one of them may be missing.

        No earlier position is valid any more, not even that of the last message.
        """
        self._replayed.clear()
        self.clear()
        self._index = MessageIndex(self.last)

    def is_offset(self, text: object) -> bool:
        """Return whether a text has the form of an offset of this log."""
        return isinstance(text, str) and text.startswith(self._prefix)

    def position(self, offset: object, base: int) -> int | None:
        """Return the number up to which a client has received its messages.

        Args:
            offset: The value sent by the client. An offset of another log, or anything else,
                shows that the client has not received a message since `base`.
            base: Number up to which the client has received its messages in any case.

        Returns:
            The number; None if the offset is invalid, or messages after it are not retained.
        """
        number = base
        if self.is_offset(offset):
            found = parse_offset(offset)
            if found is None or f"{found[0]}." != self._prefix:
                return None
            number = max(base, found[1])
        return number if self.discarded <= number <= self.last else None

    def missed(self, position: int, recipient: Recipient) -> list[tuple[int, Message]]:
        """Return the messages to a socket after a position, oldest first, with their numbers.

        Takes time for these messages only, apart from messages that no client has requested yet.

        Args:
            position: Number that `position` has returned.
            recipient: The socket; its memberships must be known from `position` on.
        """
        session_id, namespace = recipient.session_id, recipient.namespace
        is_in_feed = recipient.is_in_feed
        memberships = recipient.memberships
        held = memberships.index()
        index = self._updated_index()
        found = []
        for number in index.find(position, namespace, memberships.channels(), session_id):
            frames, name, channels, included, skipped, excluded = self.at(number)
            if (
                name != namespace
                or session_id == skipped
                or not (channels is None or session_id == included or held(channels, number))
            ):
                continue
            if excluded is not None and (
                session_id in excluded.session_ids
                or held(excluded.channels, number)
                or any(is_in_feed(feed) and held((feed[1:],), number) for feed in excluded.channels)
            ):
                continue
            message = self._replayed.get(number)
            if message is None:
                message = self._replayed[number] = Message.of_frames(frames)
            found.append((number, message))
        return found

    def _updated_index(self) -> MessageIndex:
        """Return the index of all retained messages, and forget discarded ones."""
        index = self._index
        if self.discarded - index.first > max(len(self), 1000) or index.last < self.discarded:
            index = self._index = MessageIndex(self.discarded)
        for _, namespace, channels, included, _, _ in self.since(index.last):
            index.add(namespace, channels, included)
        if self._pruned < self.discarded:
            self._pruned = self.discarded
            for number in [number for number in self._replayed if number <= self.discarded]:
                del self._replayed[number]
        return index
