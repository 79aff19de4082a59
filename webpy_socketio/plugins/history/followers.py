"""Followers: the sockets of a process that receive a channel from the store, in its order.

A follower is excluded from the ordinary copies of stored messages (`webpy_socketio.Feed`). It
receives each message after the one before it: first from the store, then live.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent

from webpy_socketio import BackplaneError, Feed, Socket
from webpy_socketio.plugins.history.store import (
    Channel,
    Entry,
    Page,
    Record,
    Store,
    same_store,
)

__all__ = ["Followers", "Position", "Request"]

logger = logging.getLogger("webpy_socketio")

#: Epoch and offset of a message.
Position = tuple[str, int]

#: Entries read at once.
PAGE_SIZE = 100

#: Bytes sent to a follower before the next check whether the client reads them.
CHUNK = 16_384

#: Seconds between two checks whether a client has read the messages it was sent.
DRAIN_INTERVAL = 0.02

#: Seconds until the next attempt after Redis did not reply.
RETRY_INTERVAL = 0.5


@dataclass(frozen=True)
class Request:
    """What a client wants to receive before newer messages."""

    #: Maximum number of messages if there is no valid position.
    limit: int
    #: The last message that the client has received, or None.
    since: Position | None = None


class Followers:
    """The followers of one channel in this process; for the hub's thread only."""

    def __init__(self, channel: Channel, store: Store, feed: Feed[Socket]) -> None:
        self._channel = channel
        self._store = store
        self._feed = feed
        #: Last message that the live followers have received; None if it is unknown.
        self._position: Position | None = None
        #: Followers that have received all messages up to `_position`.
        self._live: dict[Socket, None] = {}
        #: Offsets up to which live followers have received more than `_position`.
        self._ahead: dict[Socket, int] = {}
        #: Followers that receive earlier messages, with their greenlets.
        self._joining: dict[Socket, Any] = {}
        #: Those of them that wait until the store is available.
        self._waiting: set[Socket] = set()
        self._reading = False
        self._again = False
        store.watch(channel)

    @property
    def is_empty(self) -> bool:
        """Whether there are no followers."""
        return not self._live and not self._joining

    def close(self) -> None:
        """Remove all followers."""
        for socket in (*self._live, *self._joining):
            self.remove(socket)
        self._store.unwatch(self._channel)

    def add(self, socket: Socket, request: Request) -> None:
        """Send the requested messages to a subscribed socket, and then newer ones."""
        self.remove(socket)
        self._joining[socket] = gevent.spawn(self._join, socket, request)

    def add_silently(self, socket: Socket) -> None:
        """Send newer messages to a socket whose client has kept its position."""
        self.remove(socket)
        self._joining[socket] = gevent.spawn(self._join_silently, socket)

    def remove(self, socket: Socket) -> None:
        """Remove a follower, if it is one."""
        self._live.pop(socket, None)
        self._ahead.pop(socket, None)
        greenlet = self._joining.pop(socket, None)
        if greenlet is not None and greenlet is not gevent.getcurrent():
            greenlet.kill(block=False)

    # -- earlier messages

    def _join(self, socket: Socket, request: Request) -> None:
        try:
            page, recovered = self._first_page(socket, request)
        except BackplaneError as error:
            logger.warning(
                "history of channel %r is not available: %s", self._channel[1], str(error)
            )
            self._send([socket], "history_start", {"recovered": False})
            page = self._wait_for_store(socket, request)
            offset = _offset_before(page)
            self._send_gap([socket], page.epoch, offset)
        else:
            offset = _offset_before(page)
            if recovered and request.since is not None:
                offset = request.since[1]
            start = {"epoch": page.epoch, "offset": offset, "recovered": recovered}
            self._send([socket], "history_start", start)
        try:
            self._catch_up(socket, page, offset)
        except BackplaneError:  # logged by the store
            self._send([socket], "history_gap", {})
            self._make_live(socket)

    def _join_silently(self, socket: Socket) -> None:
        try:
            page = self._load(socket, self._store.read_last, 0)
            self._catch_up(socket, page, page.tail)
        except BackplaneError:  # logged by the store; the next message shows the gap
            self._make_live(socket)

    def _wait_for_store(self, socket: Socket, request: Request) -> Page:
        """Return the last messages once the store is available."""
        self._waiting.add(socket)
        try:
            while True:
                self._sleep(socket, RETRY_INTERVAL)
                with contextlib.suppress(BackplaneError):
                    return self._load(socket, self._store.read_last, request.limit)
        finally:
            self._waiting.discard(socket)

    def _first_page(self, socket: Socket, request: Request) -> tuple[Page, bool]:
        if request.since is not None:
            epoch, offset = request.since
            page = self._load(socket, self._store.read, offset, PAGE_SIZE)
            if page.epoch == epoch and _is_complete(page, offset):
                return page, True
        last = self._load(socket, self._store.read_last, request.limit)
        return last, request.since is None

    def _load(self, socket: Socket, read: Callable[..., Page], *args: int) -> Page:
        """Read messages, and end the greenlet if the socket was removed meanwhile."""
        try:
            return read(self._channel, *args)
        finally:
            self._check(socket)

    def _sleep(self, socket: Socket, seconds: float) -> None:
        gevent.sleep(seconds)
        self._check(socket)

    def _check(self, socket: Socket) -> None:
        """End the current greenlet unless it is the one that sends earlier messages to a socket.

        A greenlet that was killed runs once more if its event occurred before, and another one may
        have started for the socket.
        """
        if self._joining.get(socket) is not gevent.getcurrent():
            raise gevent.GreenletExit

    def _catch_up(self, socket: Socket, page: Page, offset: int) -> None:
        """Send pages from `offset` on, until the socket has what the live followers have."""
        unsent = 0
        while socket in self._joining:
            live = self._position if self._live else None
            if live is not None and live[0] != page.epoch:  # the live followers receive it first
                self.wake()
                if self._store.waits:
                    self._sleep(socket, DRAIN_INTERVAL)
                else:
                    live = None
            for entry in page.entries:
                if live is not None and live[0] == page.epoch and entry.offset > live[1]:
                    break
                if entry.offset <= offset:
                    continue
                if entry.offset != offset + 1:
                    self._send_gap([socket], page.epoch, entry.offset - 1)
                self._deliver([socket], page.epoch, entry)
                offset = entry.offset
                unsent += entry.record.size
                if unsent > CHUNK:  # live followers may receive messages meanwhile
                    unsent = 0
                    self._wait_until_sent(socket)
            if not self._live:
                if offset >= page.tail or (not page.entries):
                    if page.tail > offset:
                        self._send_gap([socket], page.epoch, page.tail)
                    self._position = (page.epoch, max(offset, page.tail))
                    self._make_live(socket)
                    self.wake()
                    return
            elif self._position is not None and self._position[0] == page.epoch:
                if offset >= self._position[1]:
                    if offset > self._position[1]:
                        self._ahead[socket] = offset
                    self._make_live(socket)
                    return
                # The messages were removed. A page that is older than the position only lacks them.
                if not page.entries and page.tail >= self._position[1]:
                    offset = self._position[1]
                    self._send_gap([socket], page.epoch, offset)
                    continue
            elif self._position is None:
                self._position = (page.epoch, offset)
                self._make_live(socket)
                self.wake()
                return
            self._wait_until_sent(socket)
            known = page.epoch
            page = self._load(socket, self._store.read, offset, PAGE_SIZE)
            if page.epoch != known:
                offset = offset if same_store(page.epoch, known) else 0
                offset = min(offset, page.tail)
                self._send_gap([socket], page.epoch, offset)
                page = self._load(socket, self._store.read, offset, PAGE_SIZE)

    def _wait_until_sent(self, socket: Socket) -> None:
        """Wait until the client has read the messages: many of them would exceed its outbox."""
        self._sleep(socket, 0)
        while socket.outbox.is_congested:
            self._sleep(socket, DRAIN_INTERVAL)

    def _make_live(self, socket: Socket) -> None:
        if socket in self._joining:
            del self._joining[socket]
            self._live[socket] = None

    # -- new messages

    def wake(self) -> None:
        """Send new messages of the store to the live followers."""
        if self._reading:
            self._again = True
            return
        if not self._live:
            return
        self._reading = True
        if self._store.waits:
            gevent.spawn(self._read)
        else:
            self._read()

    def _read(self) -> None:
        try:
            while self._live:
                self._again = False
                after = 0 if self._position is None else self._position[1]
                page = self._store.read(self._channel, after, PAGE_SIZE)
                more = self._advance(page)
                if not more and not self._again:
                    return
        except BackplaneError:
            self._retry_later()
        finally:
            self._reading = False

    def _advance(self, page: Page) -> bool:
        """Deliver a page that was read from the position; return whether there may be more."""
        live = list(self._live)
        if self._position is None:
            self._position = (page.epoch, page.tail)
            self._send_gap(live, *self._position)
            return False
        epoch, offset = self._position
        if page.epoch != epoch:
            kept = same_store(epoch, page.epoch)
            self._position = (page.epoch, min(offset, page.tail) if kept else 0)
            self._ahead.clear()
            self._send_gap(live, *self._position)
            return True
        for entry in page.entries:
            if entry.offset <= offset:
                continue
            if entry.offset != offset + 1:
                self._send_gap(live, epoch, entry.offset - 1)
            offset = entry.offset
            self._position = (epoch, offset)
            recipients = list(self._live)
            if self._ahead:
                recipients = [each for each in recipients if self._ahead.get(each, 0) < offset]
                self._ahead = {each: to for each, to in self._ahead.items() if to > offset}
            self._deliver(recipients, epoch, entry)
        if not page.entries and page.tail > offset:  # messages that are not stored, or not any more
            self._position = (epoch, page.tail)
            self._send_gap(live, *self._position)
        return bool(page.entries) and page.tail > offset

    def deliver_unrecorded(self, record: Record) -> None:
        """Send a message that could not be stored; it has no position."""
        self._deliver_record([*self._live, *self._waiting], {"id": record.id}, record)

    def _retry_later(self) -> None:
        gevent.spawn_later(RETRY_INTERVAL, self.wake)

    # -- events

    def _deliver(self, sockets: Sequence[Socket], epoch: str, entry: Entry) -> None:
        record = entry.record
        self._deliver_record(
            sockets, {"epoch": epoch, "offset": entry.offset, "id": record.id}, record
        )

    def _deliver_record(
        self, sockets: Sequence[Socket], value: dict[str, Any], record: Record
    ) -> None:
        skipped: list[Socket] = []
        if record.excluded_sockets or record.excluded_channels:
            is_excluded = exclusion(record)
            skipped = [socket for socket in sockets if is_excluded(socket)]
            sockets = [socket for socket in sockets if not is_excluded(socket)]
        self._send(sockets, "history_message", value, record.body, record.attachments)
        if skipped:
            self._send(skipped, "history_message", value)

    def _send_gap(self, sockets: Sequence[Socket], epoch: str, offset: int) -> None:
        self._send(sockets, "history_gap", {"epoch": epoch, "offset": offset})

    def _send(
        self, sockets: Sequence[Socket], event: str, value: dict[str, Any], *content: Any
    ) -> None:
        if sockets:
            self._feed.send(sockets, event, {"channel": self._channel[1], **value}, *content)


def exclusion(record: Record) -> Callable[[Socket], bool]:
    """Return a function that returns whether a message was not addressed to a socket."""
    sockets, channels = set(record.excluded_sockets), set(record.excluded_channels)
    return lambda socket: (
        socket.session_id in sockets
        or (bool(channels) and not channels.isdisjoint(socket.channels))
    )


def _offset_before(page: Page) -> int:
    """Return the offset before the first entry of the last messages."""
    return page.entries[0].offset - 1 if page.entries else page.tail


def _is_complete(page: Page, offset: int) -> bool:
    """Return whether nothing is missing after `offset`."""
    if not page.entries:
        return page.tail == offset
    offsets = [entry.offset for entry in page.entries]
    return offsets == list(range(offset + 1, offset + 1 + len(offsets)))
