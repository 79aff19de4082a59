"""Remote process: what another process of the cluster has reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from webpy_socketio.plugins.admin import serializers
from webpy_socketio.plugins.admin.reporter import MAX_SOCKETS, Reporter

__all__ = ["RemoteProcess"]

#: Requests for a complete list without an answer.
MAX_REQUESTS = 5


class RemoteProcess:
    """The listed sockets of another process, for the admins of this one.

    Args:
        process: Id of the process.
    """

    def __init__(self, process: str) -> None:
        self.id = process
        #: Time at which it is forgotten, unless it reports again.
        self.expires = 0.0
        #: Descriptions of its sockets by their ids.
        self._sockets: dict[str, dict[str, Any]] = {}
        #: The list that is being received; None outside of one.
        self._new: dict[str, dict[str, Any]] | None = None
        #: Number of the next report; None until a complete list has arrived.
        self._next: int | None = None
        #: Requests for a list since the last one arrived.
        self._requests = 0

    def descriptions(self, limit: int, max_bytes: int) -> list[dict[str, Any]]:
        """Return descriptions, as many as the limits allow."""
        found = []
        size = 0
        for description in list(self._sockets.values())[:limit]:
            size += 1000 + sum(map(len, description["rooms"]))
            if size > max_bytes:
                break
            found.append(description)
        return found

    def receive(self, number: int, events: list[Any], reporters: Sequence[Reporter]) -> bool:
        """Handle a report; return False if earlier ones are missing, and a list is needed."""
        if number != self._next:
            self._next = self._new = None  # reports are missing
        for event in events:
            if event[0] == "list_begins":
                self._next, self._requests = number, 0
            self._handle(event, reporters)
        if self._next is not None:
            self._next = number + 1
            return True
        # A process in production mode has no list, so requests are limited.
        self._requests += 1
        return self._requests > MAX_REQUESTS

    def close(self, reason: str, reporters: Sequence[Reporter]) -> None:
        """Remove all sockets of a process that has ended."""
        for description in list(self._sockets.values()):
            self._disconnected(description["nsp"], description["id"], reason, None, reporters)

    def _handle(self, event: list[Any], reporters: Sequence[Reporter]) -> None:
        name, *args = event
        if name == "list_begins":
            self._new = {}
        elif name == "list_part" and self._new is not None:
            left = MAX_SOCKETS - len(self._new)
            self._new.update((each["id"], {"rooms": [], **each}) for each in args[0][:left])
        elif name == "list_ends" and self._new is not None:
            has_changed, self._sockets, self._new = self._sockets != self._new, self._new, None
            if has_changed:
                for reporter in reporters:
                    reporter.refresh()
        elif name == "server_stats":
            for reporter in reporters:
                reporter.relay(name, args)
        elif name == "socket_connected":
            self._connected(args[0], args[1], reporters)
        elif name == "socket_updated":
            if args[0]["id"] in self._sockets:
                self._sockets[args[0]["id"]]["transport"] = args[0]["transport"]
                self._relay_change(name, args, reporters)
        elif name in ("room_joined", "room_left"):
            self._change_room(name, args, reporters)
        elif name == "socket_disconnected":
            namespace, socket_id, reason, timestamp = args
            self._disconnected(namespace, socket_id, reason, timestamp, reporters)
        elif name in ("event_received", "event_sent"):
            for reporter in reporters:
                reporter.relay_event(args[0], name, args)

    def _connected(self, description: Any, timestamp: str, reporters: Sequence[Reporter]) -> None:
        if len(self._sockets) >= MAX_SOCKETS:
            return
        self._sockets[description["id"]] = description
        for reporter in reporters:
            reporter.relay_connected(description, timestamp)

    def _change_room(self, name: str, args: list[Any], reporters: Sequence[Reporter]) -> None:
        _, channel, socket_id, _ = args
        found = self._sockets.get(socket_id)
        if found is None:
            return
        rooms = found["rooms"]
        if name == "room_joined" and channel not in rooms:
            rooms.append(channel)
        elif name == "room_left" and channel in rooms:
            rooms.remove(channel)
        else:
            return
        self._relay_change(name, args, reporters)

    def _disconnected(
        self,
        namespace: str,
        socket_id: str,
        reason: str,
        timestamp: str | None,
        reporters: Sequence[Reporter],
    ) -> None:
        found = self._sockets.pop(socket_id, None)
        if found is None:
            return
        timestamp = timestamp or serializers.now()
        args = [namespace, socket_id, reason, timestamp]
        self._relay_change("socket_disconnected", args, reporters)
        for channel in found["rooms"]:
            args = [namespace, channel, socket_id, timestamp]
            self._relay_change("room_left", args, reporters)

    @staticmethod
    def _relay_change(name: str, args: list[Any], reporters: Sequence[Reporter]) -> None:
        for reporter in reporters:
            reporter.relay_change(name, args)
