"""The twin in pure Python of the native core; see `webpy_socketio.engine.io.native`."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from webpy_socketio.engine.io.frames import BINARY, TEXT, encode, whole_text

__all__ = [
    "Frames",
    "MessageRing",
    "OutboxState",
    "add_offset",
    "close_sender",
    "encode",
    "flush_all",
    "open_sender",
    "read_events",
    "send_to_all",
]

#: An event of the namespace "/" without attachments. Acknowledgement ids have at most 15 digits:
#: JavaScript represents those integers exactly.
_EVENT = re.compile(rb"42(0|[1-9][0-9]{0,14})?\[")

_NO_EVENTS: tuple[list[tuple[str, int | None, int]], int] = ([], 0)


class Frames:
    """The WebSocket frames of a text packet and its attachments.

    Args:
        text: The text packet; None if there is none.
        attachments: Data of the binary packets that follow it.
    """

    __slots__ = ("attachments", "count", "frames", "size", "text")

    def __init__(self, text: bytes | None, attachments: Sequence[bytes] = ()) -> None:
        frames = b"" if text is None else encode(TEXT, text)
        if attachments:
            frames = b"".join([frames, *[encode(BINARY, data) for data in attachments]])
        self.frames = frames
        self.count = len(attachments) + (text is not None)
        self.size = len(frames)
        self.text = text
        self.attachments = tuple(attachments)


def add_offset(namespace: str | None, message: Any, epoch: bytes, number: int) -> Any:
    """Return an event with an offset as last argument (connection state recovery).

    Args:
        namespace: Name of the namespace.
        message: An event in JSON without acknowledgement id, an instance of a subclass of `Frames`.
        epoch: First part of the offset, without characters that JSON escapes.
        number: Second part, after a dot.
    """
    return type(message)(b'%b,"%b.%d"]' % (message.text[:-1], epoch, number), message.attachments)


def read_events(
    data: bytes, max_size: int, max_brackets: int
) -> tuple[list[tuple[str, int | None, int]], int]:
    """Return the plain events at the beginning of received bytes, and the size of their frames.

    A plain event is a complete, final, masked text frame with an event of the namespace "/" without
    attachments. This twin reads a single short frame; the native core reads all sizes and numbers.

    Args:
        data: Bytes received on a WebSocket, from the beginning of a frame.
        max_size: Maximum size of a payload in bytes.
        max_brackets: Maximum number of opening brackets and braces in the body.

    Returns:
        For each event its JSON, its acknowledgement id or None, and the characters of its Socket.IO
        packet; and the number of bytes that they take. All other bytes are left to the caller.
    """
    # Whether it begins with "42" is checked before it is unmasked: other packets cost little more.
    if len(data) < 9 or data[6] ^ data[2] != 0x34 or data[7] ^ data[3] != 0x32:
        return _NO_EVENTS
    packet = whole_text(data, max_size)
    if packet is None:
        return _NO_EVENTS
    head = _EVENT.match(packet)
    if head is None:
        return _NO_EVENTS
    start = head.end() - 1
    if len(packet) > max_brackets and packet.count(b"[") + packet.count(b"{") > max_brackets:
        return _NO_EVENTS
    try:
        body = packet[start:].decode()
    except UnicodeDecodeError:
        return _NO_EVENTS
    number = head[1]
    return [(body, None if number is None else int(number), start - 1 + len(body))], len(data)


class MessageRing:
    """Retained messages with their recipients, within bounds.

    The numbers of messages have no gaps. The recipients are rules instead of a list: a namespace,
    names of channels (None for all sockets), the id of a socket that receives the message in any
    case, the id of a socket that does not receive it, and a filter or None.

    Args:
        epoch: First part of offsets.
        max_age: Maximum age of retained messages in seconds.
        max_count: Maximum number of retained messages.
        max_size: Maximum total size of retained messages in bytes.
        now: Returns the time in seconds.
        number: Adds an offset, as `add_offset` does; None for `add_offset`.
    """

    __slots__ = (
        *("_entries", "_epoch", "_max_age", "_max_count", "_max_size", "_now", "_number"),
        *("discarded", "last", "size"),
    )

    def __init__(
        self,
        epoch: bytes,
        max_age: float,
        max_count: int,
        max_size: int,
        now: Callable[[], float],
        number: Callable[..., Any] | None,
    ) -> None:
        #: Number of the last message; 0 before the first.
        self.last = 0
        #: Number of the last message that is no longer retained.
        self.discarded = 0
        #: Total size of the retained messages in bytes.
        self.size = 0
        self._epoch = epoch
        self._max_age = max_age
        self._max_count = max_count
        self._max_size = max_size
        self._now = now
        self._number = number or add_offset
        #: Frames, time and recipients. Plain tuples of plain values: the garbage collector ignores
        #: them.
        self._entries: deque[tuple[Any, ...]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        message: Any,
        namespace: str,
        channels: tuple[str, ...] | None,
        included: str | None,
        skipped: str | None,
        excluded: Any,
        /,
    ) -> Any:
        """Assign the next number to a message, retain it, and return it with its offset."""
        # The hot path of every broadcast: `_discard` is called for more than one message only.
        last = self.last + 1
        numbered = self._number(namespace, message, self._epoch, last)
        size = self.size + numbered.size
        now = self._now()
        self.last = last  # after all that may fail: the numbers have no gaps
        entries = self._entries
        entries.append((numbered.frames, now, namespace, channels, included, skipped, excluded))
        if last - self.discarded > self._max_count:
            size -= len(entries.popleft()[0])
            self.discarded += 1
        self.size = size
        if size > self._max_size or entries[0][1] < now - self._max_age:
            self._discard(now)
        return numbered

    def skip(self) -> None:
        """Use a number without a message."""
        now = self._now()
        self.last += 1
        self._entries.append((b"", now, None, None, None, None, None))
        self._discard(now)

    def trim(self) -> None:
        """Discard the oldest messages beyond the bounds."""
        self._discard(self._now())

    def clear(self) -> None:
        """Discard all messages and the last number: no position is valid."""
        self._entries.clear()
        self.size = 0
        self.last += 1
        self.discarded = self.last

    def since(self, position: int, /) -> list[tuple[Any, ...]]:
        """Return the frames and the recipients of the messages after a position."""
        found = list(islice(reversed(self._entries), max(0, self.last - position)))
        found.reverse()
        return [(entry[0], *entry[2:]) for entry in found]

    def at(self, number: int, /) -> tuple[Any, ...]:
        """Return the frames and the recipients of a message. Raises `IndexError` if discarded."""
        if not self.discarded < number <= self.last:
            raise IndexError("the message is not retained")
        entry = self._entries[number - self.discarded - 1]
        return (entry[0], *entry[2:])

    def _discard(self, now: float) -> None:
        entries = self._entries
        while entries and (
            len(entries) > self._max_count
            or entries[0][1] < now - self._max_age
            or self.size > self._max_size
        ):
            self.discarded += 1
            self.size -= len(entries.popleft()[0])


class OutboxState:
    """The state of an outbox that decides whether frames may be sent directly."""

    __slots__ = ("closed", "pending", "pending_count", "pending_size", "try_send", "unsent")

    #: Passes frames to the kernel and returns the number of accepted bytes; None if unsupported.
    try_send: Callable[[bytes], int] | None
    #: Queued messages; the empty tuple instead of an empty list.
    pending: Sequence[Any]
    #: Bytes taken from the outbox and not sent yet.
    unsent: int
    #: Whether further messages are ignored.
    closed: bool
    #: Bytes of the queued messages.
    pending_size: int
    #: Packets of the queued messages.
    pending_count: int


def open_sender(sock: Any) -> Callable[[bytes], int]:
    """Return a function that sends bytes to a non-blocking socket, as `socket.send` does."""
    send: Callable[[bytes], int] = sock.send
    return send


def close_sender(sender: Callable[[bytes], int]) -> None:
    """Never send again with `sender`; call it before closing the socket.

    Another connection may get the same descriptor. A socket of Python forgets its own, so there is
    nothing to do here.
    """


def send_to_all(
    recipients: list[Any], data: bytes, skip: OutboxState | None
) -> Iterable[tuple[Any, int]]:
    """Send frames to the outboxes of a list, except `skip`.

    Nothing is sent to outboxes that are closed, whose transport does not support it, or that have
    queued or unsent data.

    Returns:
        The outboxes that have not accepted all bytes, with the number of accepted bytes, or -1 if
        nothing was tried. Errors count as 0 bytes: the transport detects a lost connection.
    """
    incomplete = []
    size = len(data)
    for outbox in recipients:
        if outbox is skip:
            continue
        try_send = outbox.try_send
        if try_send is None or outbox.unsent or outbox.pending or outbox.closed:
            incomplete.append((outbox, -1))
            continue
        try:
            sent = try_send(data)
        except OSError:
            sent = 0
        if sent < size:
            incomplete.append((outbox, sent))
    return incomplete


def flush_all(outboxes: list[Any]) -> list[tuple[Any, bytes | None]]:
    """Send the queued messages of outboxes, each with one call of its `try_send`.

    Returns:
        The outboxes that are left to the caller, in any order, each with the frames that were not
        accepted. They are None if nothing was tried: the transport does not support it, or has
        unsent data. Errors count as 0 bytes: the transport detects a lost connection.
    """
    left: list[tuple[Any, bytes | None]] = []
    for outbox in outboxes:
        try_send = outbox.try_send
        if try_send is None or outbox.unsent:
            left.append((outbox, None))
            continue
        pending = outbox.pending
        if not pending:
            continue
        outbox.pending = ()
        outbox.pending_size = outbox.pending_count = 0
        frames = b"".join([message.frames for message in pending])
        try:
            rest = frames[try_send(frames) :]
        except OSError:
            rest = frames
        if rest:
            left.append((outbox, rest))
    return left
