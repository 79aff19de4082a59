"""Presence of a single process, stored in memory."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from webpy_socketio import call_later
from webpy_socketio.plugins.presence.store import Change, Channel, Listener, Metas, State

__all__ = ["MemoryStore"]


@dataclass
class _Channel:
    rev: int
    #: Key and meta of each connection, in the order of joining.
    connections: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    #: Connections of each key.
    keys: dict[str, dict[str, None]] = field(default_factory=dict)
    #: Timers of connections in their grace period.
    leaving: dict[str, Any] = field(default_factory=dict)

    def metas(self, key: str) -> Metas:
        return [self.connections[connection][1] for connection in self.keys.get(key, ())]

    def put(self, connection: str, key: str, meta: dict[str, Any]) -> None:
        self.connections[connection] = (key, meta)
        self.keys.setdefault(key, {})[connection] = None

    def drop(self, connection: str) -> None:
        key, _ = self.connections.pop(connection)
        del self.keys[key][connection]
        if not self.keys[key]:
            del self.keys[key]


class MemoryStore:
    """Store of a single process."""

    lasting = False

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        #: New for each store, as revisions start again.
        self.epoch = secrets.token_hex(8)
        self._channels: dict[Channel, _Channel] = {}
        #: Lowest revision for new entries: a channel that was empty must not use a revision twice.
        self._floor = 0

    def join(self, channel: Channel, connection: str, key: str, meta: dict[str, Any]) -> None:
        entry = self._channels.get(channel)
        if entry is None:
            entry = self._channels[channel] = _Channel(self._floor)
        known = entry.connections.get(connection)
        if known == (key, meta):
            self._cancel_leave(entry, connection)
            return
        if known is not None and known[0] != key:
            self._remove(channel, entry, connection)
        before = entry.metas(key)
        self._cancel_leave(entry, connection)
        if connection not in entry.connections:
            for other in list(entry.keys.get(key, ())):
                if other in entry.leaving:  # the same client has reconnected
                    self._cancel_leave(entry, other)
                    entry.drop(other)
                    break
        entry.put(connection, key, meta)
        self._notify(channel, entry, key, before)
        self._channels[channel] = entry

    def leave(self, channel: Channel, connection: str, grace: float) -> None:
        entry = self._channels.get(channel)
        if entry is None or connection not in entry.connections or connection in entry.leaving:
            return
        if grace > 0:
            entry.leaving[connection] = call_later(grace, self._remove, channel, entry, connection)
        else:
            self._remove(channel, entry, connection)

    def release(self, channel: Channel, connection: str, seconds: float) -> None:
        return None  # sessions move between processes with a backplane only

    def adopt(self, channel: Channel, connection: str, key: str, meta: str) -> None:
        self.join(channel, connection, key, json.loads(meta))

    def is_present(self, channel: Channel, connection: str) -> bool:
        entry = self._channels.get(channel)
        return entry is not None and connection in entry.connections

    def watch(self, channel: Channel, connection: str) -> None:
        pass  # the state is always known

    def request_reset(self, channel: Channel) -> None:
        pass

    def unwatch(self, channel: Channel, connection: str) -> None:
        pass

    def fetch(self, channel: Channel) -> State:
        return self.state(channel)

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        entries = map(self._channels.get, channels)
        return [0 if entry is None else len(entry.keys) for entry in entries]

    def state(self, channel: Channel) -> State:
        entry = self._channels.get(channel)
        if entry is None:
            return State(self.epoch, self._floor, {})
        return State(self.epoch, entry.rev, {key: entry.metas(key) for key in entry.keys})

    def close(self) -> None:
        for entry in self._channels.values():
            for connection in list(entry.leaving):
                self._cancel_leave(entry, connection)
        self._channels.clear()

    def _cancel_leave(self, entry: _Channel, connection: str) -> None:
        timer = entry.leaving.pop(connection, None)
        if timer is not None:
            timer.stop()
            timer.close()

    def _remove(self, channel: Channel, entry: _Channel, connection: str) -> None:
        self._cancel_leave(entry, connection)
        key, _ = entry.connections[connection]
        before = entry.metas(key)
        entry.drop(connection)
        if not entry.connections:
            del self._channels[channel]
        self._notify(channel, entry, key, before)

    def _notify(self, channel: Channel, entry: _Channel, key: str, before: Metas) -> None:
        after = entry.metas(key)
        if after == before:
            return
        entry.rev += 1
        self._floor = max(self._floor, entry.rev)
        change = Change(channel, self.epoch, entry.rev, key, before, after)
        self._listener.on_change(change)
        self._listener.on_local_change(change)
