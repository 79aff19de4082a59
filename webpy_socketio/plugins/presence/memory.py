"""Presence of one process, kept in its memory."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from webpy_socketio import call_later
from webpy_socketio.plugins.presence.store import Change, Channel, Listener, Metas, State

__all__ = ["MemoryStore"]


@dataclass
class _Room:
    rev: int
    #: Key and meta of each connection, in the order of joining.
    connections: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    #: Connections of each key.
    keys: dict[str, dict[str, None]] = field(default_factory=dict)
    #: Timers of connections that have gone, but not yet for good.
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
    """The store of a process that is alone."""

    lasting = False

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        #: Tells one life of this store from the next: revisions begin anew with it.
        self.epoch = secrets.token_hex(8)
        self._rooms: dict[Channel, _Room] = {}
        #: No room that is made begins below this: a channel that was empty for a while does not
        #: give a revision twice.
        self._floor = 0

    def join(self, channel: Channel, connection: str, key: str, meta: dict[str, Any]) -> None:
        room = self._rooms.get(channel)
        if room is None:
            room = self._rooms[channel] = _Room(self._floor)
        known = room.connections.get(connection)
        if known == (key, meta):
            self._stay(room, connection)
            return
        if known is not None and known[0] != key:
            self._remove(channel, room, connection)
        before = room.metas(key)
        self._stay(room, connection)
        if connection not in room.connections:
            for other in list(room.keys.get(key, ())):
                if other in room.leaving:  # it is this one, come back
                    self._stay(room, other)
                    room.drop(other)
                    break
        room.put(connection, key, meta)
        self._tell(channel, room, key, before)
        self._rooms[channel] = room

    def leave(self, channel: Channel, connection: str, grace: float) -> None:
        room = self._rooms.get(channel)
        if room is None or connection not in room.connections or connection in room.leaving:
            return
        if grace > 0:
            room.leaving[connection] = call_later(grace, self._remove, channel, room, connection)
        else:
            self._remove(channel, room, connection)

    def knows(self, channel: Channel, connection: str) -> bool:
        room = self._rooms.get(channel)
        return room is not None and connection in room.connections

    def watch(self, channel: Channel, connection: str) -> None:
        pass  # everything is known here

    def owe(self, channel: Channel) -> None:
        pass

    def unwatch(self, channel: Channel, connection: str) -> None:
        pass

    def ask(self, channel: Channel) -> State:
        return self.state(channel)

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        rooms = map(self._rooms.get, channels)
        return [0 if room is None else len(room.keys) for room in rooms]

    def state(self, channel: Channel) -> State:
        room = self._rooms.get(channel)
        if room is None:
            return State(self.epoch, self._floor, {})
        return State(self.epoch, room.rev, {key: room.metas(key) for key in room.keys})

    def close(self) -> None:
        for room in self._rooms.values():
            for connection in list(room.leaving):
                self._stay(room, connection)
        self._rooms.clear()

    def _stay(self, room: _Room, connection: str) -> None:
        timer = room.leaving.pop(connection, None)
        if timer is not None:
            timer.stop()
            timer.close()

    def _remove(self, channel: Channel, room: _Room, connection: str) -> None:
        self._stay(room, connection)
        key, _ = room.connections[connection]
        before = room.metas(key)
        room.drop(connection)
        if not room.connections:
            del self._rooms[channel]
        self._tell(channel, room, key, before)

    def _tell(self, channel: Channel, room: _Room, key: str, before: Metas) -> None:
        after = room.metas(key)
        if after == before:
            return
        room.rev += 1
        self._floor = max(self._floor, room.rev)
        change = Change(channel, self.epoch, room.rev, key, before, after)
        self._listener.on_change(change)
        self._listener.on_local_change(change)
