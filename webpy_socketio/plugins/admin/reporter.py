"""Reporter: sends sockets and events to connected admins, with limits.

It reports those of this process, and relays what other processes have reported.

Its receivers are connected while at least one admin is connected; otherwise it costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from webpy_socketio import Runtime, Socket, call_later
from webpy_socketio.plugins.admin import serializers
from webpy_socketio.plugins.admin.stats import MAX_NAMESPACES, EventStats
from webpy_socketio.signals import Stage

__all__ = ["Admin", "Reporter"]

#: Seconds between two messages with statistics, as in the reference server.
INTERVAL = 2.0

#: Limits of one interval: events reported individually, and recipients reported of one broadcast.
#: Further ones are counted.
MAX_EVENTS, MAX_RECIPIENTS = 100, 10

#: Limit of one interval for connects, disconnects, joins and leaves. Beyond it the whole list is
#: sent at its end.
MAX_CHANGES = 400

#: Maximum number of listed sockets, and their approximate bytes. Statistics include all sockets.
MAX_SOCKETS, MAX_BYTES = 1000, 1_000_000

#: Seconds for which changes are collected before the whole list is sent.
REFRESH_DELAY = 0.1


class Admin(Protocol):
    """Connection of an admin."""

    def emit(self, event: str, *args: Any) -> None:
        """Send an event."""


class Reporter:
    """Reports the state of one server; for the hub's thread only.

    `verbose` enables reports of individual sockets and events.
    """

    def __init__(
        self, namespaces: Sequence[str], verbose: bool, outbox_bytes: int, runtime: Runtime
    ) -> None:
        self._sockets = runtime.sockets
        self._stats = EventStats(namespaces)
        self._verbose = verbose
        self._max_bytes = min(MAX_BYTES, outbox_bytes // 4)
        self._admins: dict[Admin, None] = {}
        self._timer: Any = None
        self._refresh_timer: Any = None
        #: Returns sockets of other processes, within a limit of sockets and of bytes.
        self.find_remote: Callable[[int, int], list[dict[str, Any]]] = lambda limit, size: []
        #: Whether the whole list was sent again in this interval.
        self._has_refreshed = False
        #: Listed sockets, each with the channels that were reported.
        self._listed: dict[Socket, set[str]] = {}
        #: Listed sockets that were reported with the transport polling.
        self._polling: set[Socket] = set()
        self._bytes = 0
        #: Whether the list of the UI is outdated and must be sent again.
        self._stale = False
        self._changes = self._events = 0
        self._skipped: Counter[str] = Counter()
        signals = runtime.signals
        self._receivers: tuple[tuple[Stage, Callable[..., None]], ...] = (
            (signals.connect, self._connect),
            (signals.subscribe, self._subscribe),
            (signals.unsubscribe, self._unsubscribe),
            (signals.message, self._message),
            (signals.sent, self._sent),
            (signals.disconnect, self._disconnect),
            (signals.release, self._release),
            (signals.resume, self._resume),
        )

    # -- admins

    def add(self, admin: Admin) -> None:
        """Send the current state to an admin, and all changes from now on."""
        if not self._admins:
            self._begin()
        self._admins[admin] = None
        self.resend(admin)

    def resend(self, admin: Admin) -> None:
        """Send the current state to an admin."""
        # Without the counters: they are sent to all admins at the end of the interval.
        stats = self._stats.describe(self._sockets())
        admin.emit("server_stats", {**stats, "aggregatedEvents": []})
        if self._verbose:
            if len(self._admins) > 1 and not self._stale:
                listed = [serializers.describe_socket(one) for one in self._listed]
                admin.emit("all_sockets", listed + self._remote())
            else:
                self._send_list()

    def remove(self, admin: Admin) -> None:
        """Stop reporting to an admin."""
        if admin in self._admins:
            del self._admins[admin]
            if not self._admins:
                self._end()

    @property
    def has_admins(self) -> bool:
        """Whether an admin is connected."""
        return bool(self._admins)

    def _begin(self) -> None:
        for signal, receiver in self._receivers:
            signal.connect(receiver)
        self._timer = call_later(INTERVAL, self._tick)

    def _end(self) -> None:
        for signal, receiver in self._receivers:
            signal.disconnect(receiver)
        self._timer.close()
        self._timer = None
        if self._refresh_timer is not None:
            self._refresh_timer.close()
            self._refresh_timer = None
        self._has_refreshed = False
        self._clear_list()
        self._stats.clear()
        self._skipped.clear()
        self._changes = self._events = 0

    def _send(self, event: str, *args: Any) -> None:
        for admin in list(self._admins):
            admin.emit(event, *args)

    # -- interval

    def _tick(self) -> None:
        self._timer = call_later(INTERVAL, self._tick)
        self._changes = self._events = 0
        self._has_refreshed = False
        stats = self._stats.describe(self._sockets())
        self._stats.clear()
        self._send("server_stats", stats)
        if not self._verbose:
            return
        if self._stale:
            self._send_list()
        for socket in [one for one in self._polling if one.transport != "polling"]:
            self._polling.discard(socket)
            change = {"id": socket.session_id, "nsp": socket.namespace}
            self._send("socket_updated", {**change, "transport": socket.transport})
        skipped, self._skipped = self._skipped, Counter()
        for namespace, count in skipped.items():
            note = [f"({count} more events, not shown)"]
            self._send("event_sent", namespace, "-", note, serializers.now())

    # -- list of sockets

    def _clear_list(self) -> None:
        self._listed.clear()
        self._polling.clear()
        self._bytes = 0
        self._stale = False

    def _send_list(self) -> None:
        """Send the whole list, which replaces that of the UI."""
        self._clear_list()
        descriptions = []
        for socket in self._sockets():
            if self._is_full:
                break
            descriptions.append(self._add_to_list(socket))
        self._send("all_sockets", descriptions + self._remote())

    def _remote(self) -> list[dict[str, Any]]:
        return self.find_remote(MAX_SOCKETS, self._max_bytes)

    @property
    def _is_full(self) -> bool:
        """Whether no more sockets can be listed."""
        return len(self._listed) >= MAX_SOCKETS or self._bytes >= self._max_bytes

    def _add_to_list(self, socket: Socket) -> dict[str, Any]:
        """Add a socket to the list, and return its description."""
        description = serializers.describe_socket(socket)
        self._listed[socket] = set(description["rooms"])
        self._bytes += 1000 + sum(map(len, description["rooms"]))
        if description["transport"] == "polling":
            self._polling.add(socket)
        return description

    def _admit_change(self) -> bool:
        """Count a change, and return whether to report it individually."""
        self._changes += 1
        if self._changes > MAX_CHANGES:
            self._stale = True
        return not self._stale

    def _admit_events(self, namespace: str, count: int = 1) -> int:
        """Return how many of `count` events to report individually."""
        allowed = min(count, MAX_RECIPIENTS, MAX_EVENTS - self._events)
        self._events += allowed
        if allowed < count and (namespace in self._skipped or len(self._skipped) < MAX_NAMESPACES):
            self._skipped[namespace] += count - allowed
        return allowed

    # -- other processes

    def refresh(self) -> None:
        """Send the list again, soon, but once in an interval at most."""
        if not self._verbose or not self._admins:
            return
        if self._has_refreshed:
            self._stale = True
        elif self._refresh_timer is None:
            self._refresh_timer = call_later(REFRESH_DELAY, self._send_refreshed)

    def _send_refreshed(self) -> None:
        self._refresh_timer = None
        self._has_refreshed = True
        self._send_list()

    def relay(self, event: str, args: list[Any]) -> None:
        """Send statistics of another process."""
        self._send(event, *args)

    def relay_connected(self, description: dict[str, Any], timestamp: str) -> None:
        """Report a socket that has connected to another process."""
        if not self._listed and len(self.find_remote(2, MAX_BYTES)) < 2:
            self.refresh()  # the first socket must be in a list, see `_ensure_listed`
        else:
            self.relay_change("socket_connected", [description, timestamp])

    def relay_change(self, event: str, args: list[Any]) -> None:
        """Report a change in another process, unless the list will be sent again."""
        if self._verbose and self._refresh_timer is None and self._admit_change():
            self._send(event, *args)

    def relay_event(self, namespace: str, event: str, args: list[Any]) -> None:
        """Report an event that another process has sent or received."""
        if self._verbose and self._admit_events(namespace):
            self._send(event, *args)

    # -- receivers

    def _connect(self, sender: Socket, **extra: Any) -> None:
        self._stats.add("rawConnection")
        if self._verbose:
            self._ensure_listed(sender)

    def _ensure_listed(self, socket: Socket) -> bool:
        """List a socket if it is new; return whether to report its changes individually."""
        if socket in self._listed:
            return not self._stale
        if self._is_full or not socket.connected or not self._admit_change():
            return False
        first = not self._listed and not self._remote()
        description = self._add_to_list(socket)
        if first:
            # The UI selects a namespace when it receives the first list that is not empty.
            self._send("all_sockets", [description])
        self._send("socket_connected", description, serializers.now())
        return socket in self._listed  # False if sending removed the last admin

    def _subscribe(self, sender: Socket, channel: str, **extra: Any) -> None:
        if not self._verbose or not self._ensure_listed(sender):
            return
        reported = self._listed[sender]
        if channel not in reported and self._admit_change():
            reported.add(channel)
            self._bytes += len(channel)
            names = (sender.namespace, channel, sender.session_id)
            self._send("room_joined", *names, serializers.now())

    def _unsubscribe(self, sender: Socket, channel: str, **extra: Any) -> None:
        reported = self._listed.get(sender)
        if reported is not None and channel in reported and self._admit_change():
            reported.discard(channel)
            self._bytes -= len(channel)
            self._send_room_left(sender, channel)

    def _send_room_left(self, socket: Socket, channel: str) -> None:
        self._send("room_left", socket.namespace, channel, socket.session_id, serializers.now())

    def _resume(self, sender: Socket, **extra: Any) -> None:
        if self._verbose:  # it may have moved here from another process
            self._ensure_listed(sender)

    def _release(self, sender: Socket, **extra: Any) -> None:
        self._remove_from_list(sender, "moved to another process")

    def _disconnect(self, sender: Socket, reason: str, **extra: Any) -> None:
        self._stats.add("rawDisconnection", detail=reason)
        self._remove_from_list(sender, reason)

    def _remove_from_list(self, sender: Socket, reason: str) -> None:
        if sender not in self._listed:
            return
        if self._is_full:  # an unlisted socket can be listed now
            self._stale = True
        reported = self._listed.pop(sender)
        self._bytes -= 1000 + sum(map(len, reported))
        self._polling.discard(sender)
        if self._admit_change():
            self._send(
                "socket_disconnected",
                sender.namespace,
                sender.session_id,
                reason,
                serializers.now(),
            )
            # Not on unsubscribe, which follows when the socket is no longer listed.
            for channel in reported:
                self._send_room_left(sender, channel)

    def _message(
        self, sender: Socket, event: str, args: list[Any], channel: str | None, **extra: Any
    ) -> None:
        if channel is not None:  # restore the event as it was received
            event, args = "__channel__", [channel, *args]
        self._stats.received(event, args)
        if self._verbose and self._ensure_listed(sender) and self._admit_events(sender.namespace):
            reported = serializers.describe_event(event, args)
            self._send(
                "event_received", sender.namespace, sender.session_id, reported, serializers.now()
            )

    def _sent(
        self,
        sender: str,
        sockets: list[Socket],
        size: int,
        read: Callable[[], list[Any]],
        **extra: Any,
    ) -> None:
        self._stats.add("packetsOut", len(sockets))
        self._stats.add("bytesOut", size * len(sockets))
        if not self._verbose or self._stale:
            return
        if len(sockets) <= MAX_RECIPIENTS:
            # A handler that runs earlier may send to a socket that is not listed yet.
            for socket in sockets:
                self._ensure_listed(socket)
        known = [socket for socket in sockets if socket in self._listed]
        allowed = self._admit_events(sender, len(known))
        if allowed:
            event, *args = read()
            reported, timestamp = serializers.describe_event(event, args), serializers.now()
            for socket in known[:allowed]:
                self._send("event_sent", sender, socket.session_id, reported, timestamp)
