"""Store of a single process, in memory."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from itertools import islice

from webpy_socketio import monotonic
from webpy_socketio.plugins.history.store import (
    Channel,
    Entry,
    Limits,
    Listener,
    Page,
    Record,
    Rule,
)

__all__ = ["MemoryStore"]

#: Seconds after the expiry of its last message for which a channel keeps its position: a client
#: that reconnects meanwhile has missed nothing.
KEEP_POSITION = 86_400.0


class _Log:
    """The messages of one channel."""

    __slots__ = ("bytes", "entries", "epoch", "expiries", "tail", "ttl", "used")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.tail = 0
        self.bytes = 0
        self.entries: deque[Entry] = deque()
        #: Time of each entry by the clock of timers, when it expires.
        self.expiries: deque[float] = deque()
        self.ttl = 0.0
        #: When the last message was stored.
        self.used = 0.0

    def remove_first(self) -> int:
        """Remove the oldest entry and return its size in bytes."""
        self.expiries.popleft()
        size = self.entries.popleft().record.size
        self.bytes -= size
        return size


class MemoryStore:
    """Store of a single process."""

    waits = False

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self._listener = listener
        self._limits = limits
        self._id = secrets.token_hex(8)
        #: Number of channels that were removed. A new channel has this number in its epoch: a
        #: position in a channel without messages stays valid until then.
        self._removed = 0
        #: In the order of their last messages.
        self._logs: OrderedDict[Channel, _Log] = OrderedDict()
        self._bytes = 0
        self._watched: set[Channel] = set()

    def append(self, channel: Channel, rule: Rule, record: Record) -> bool:
        now = monotonic()
        log = self._logs.get(channel)
        if log is None:
            log = self._logs[channel] = _Log(self._epoch())
        self._logs.move_to_end(channel)
        log.used, log.ttl = now, rule.ttl
        log.tail += 1
        size = record.size
        stored = size <= min(self._limits.channel_bytes, self._limits.total_bytes)
        if stored:
            log.entries.append(Entry(log.tail, time.time(), record))
            log.expiries.append(now + rule.ttl)
            log.bytes += size
            self._bytes += size
        self._remove_expired(log, now)
        while len(log.entries) > rule.size or log.bytes > self._limits.channel_bytes:
            self._bytes -= log.remove_first()
        self._evict(now)
        if stored:
            self._notify(channel)
        return stored

    def read(self, channel: Channel, after: int, limit: int) -> Page:
        log = self._log(channel)
        if log is None:
            return Page(self._epoch(), 0)
        first = log.entries[0].offset if log.entries else 0
        entries = log.entries
        if after - first + 1 <= len(entries) // 2:
            found = (entry for entry in entries if entry.offset > after)
            return Page(log.epoch, log.tail, list(islice(found, limit)))
        newer = []
        for entry in reversed(entries):
            if entry.offset <= after:
                break
            newer.append(entry)
        return Page(log.epoch, log.tail, newer[::-1][:limit])

    def read_last(self, channel: Channel, limit: int) -> Page:
        log = self._log(channel)
        if log is None:
            return Page(self._epoch(), 0)
        last = list(islice(reversed(log.entries), limit))
        return Page(log.epoch, log.tail, last[::-1])

    def clear(self, channel: Channel) -> None:
        if channel in self._logs:
            self._remove(channel)

    def watch(self, channel: Channel) -> None:
        self._watched.add(channel)

    def unwatch(self, channel: Channel) -> None:
        self._watched.discard(channel)

    def close(self) -> None:
        self._logs.clear()

    def _epoch(self) -> str:
        return f"{self._id}-{self._removed}"

    def _log(self, channel: Channel) -> _Log | None:
        log = self._logs.get(channel)
        if log is not None:
            self._remove_expired(log, monotonic())
        return log

    def _remove_expired(self, log: _Log, now: float) -> None:
        while log.expiries and log.expiries[0] <= now:
            self._bytes -= log.remove_first()

    def _evict(self, now: float) -> None:
        """Remove the channels without recent messages, up to the limits."""
        while True:
            channel, log = next(iter(self._logs.items()))
            outdated = log.used + log.ttl + KEEP_POSITION < now
            full = self._bytes > self._limits.total_bytes or len(self._logs) > self._limits.channels
            if not outdated and not (full and len(self._logs) > 1):
                return
            self._remove(channel)

    def _remove(self, channel: Channel) -> None:
        self._removed += 1
        self._bytes -= self._logs.pop(channel).bytes
        self._notify(channel)

    def _notify(self, channel: Channel) -> None:
        if channel in self._watched:
            self._listener.on_change(channel)
