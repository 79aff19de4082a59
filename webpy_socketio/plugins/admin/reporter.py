"""What happens to the sockets of this process, told to whoever watches; bounded, every two seconds.

Receivers are connected with the first admin and gone with the last: while nobody watches, nothing is
looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from webpy_socketio import Socket, call_later, signals, sockets
from webpy_socketio.plugins.admin import serializers
from webpy_socketio.plugins.admin.stats import EventStats

__all__ = ["Admin", "Reporter"]

#: Seconds between two statistics; as the reference.
INTERVAL = 2.0

#: Between two of them: events that are told one by one, and of one broadcast; the rest is counted.
MAX_EVENTS, MAX_RECIPIENTS = 100, 10

#: The same for who comes, goes, joins and leaves. Beyond it the whole list is told anew.
MAX_CHANGES = 400

#: Sockets that are shown, and about how many bytes of them. Statistics count all.
MAX_SOCKETS, MAX_BYTES = 1000, 1_000_000


class Admin(Protocol):
    """Somebody who watches: a connection of the engine's."""

    def emit(self, event: str, *args: Any) -> None:
        """Send an event."""


class Reporter:
    """One server's; for the hub's thread. `verbose` is whether single sockets and events are told."""

    def __init__(self, namespaces: Sequence[str], verbose: bool, outbox_bytes: int) -> None:
        self._figures = EventStats(namespaces)
        self._verbose = verbose
        self._max_bytes = min(MAX_BYTES, outbox_bytes // 4)
        self._admins: dict[Admin, None] = {}
        self._timer: Any = None
        #: Which sockets are shown, each with the channels that are told.
        self._shown: dict[Socket, set[str]] = {}
        #: Those of them that were told to be on long-polling.
        self._polling: set[Socket] = set()
        self._bytes = 0
        #: Whether what was told is not what there is.
        self._stale = False
        self._changes = self._events = 0
        self._left_out: Counter[str] = Counter()
        self._receivers: tuple[tuple[signals.Stage, Callable[..., None]], ...] = (
            (signals.connect, self._connect),
            (signals.subscribe, self._subscribe),
            (signals.unsubscribe, self._unsubscribe),
            (signals.message, self._message),
            (signals.sent, self._sent),
            (signals.disconnect, self._disconnect),
        )

    # -- who watches

    def add(self, admin: Admin) -> None:
        """Tell somebody what there is, and from now on what happens."""
        if not self._admins:
            self._begin()
        self._admins[admin] = None
        # Without what is counted: that is told to all, in a moment.
        admin.emit("server_stats", {**self._figures.describe(sockets()), "aggregatedEvents": []})
        if self._verbose:
            if len(self._admins) > 1 and not self._stale:
                admin.emit("all_sockets", [serializers.describe_socket(one) for one in self._shown])
            else:
                self._tell_all()

    def remove(self, admin: Admin) -> None:
        """Tell somebody nothing any more."""
        if admin in self._admins:
            del self._admins[admin]
            if not self._admins:
                self._end()

    def _begin(self) -> None:
        for signal, receiver in self._receivers:
            signal.connect(receiver)
        self._timer = call_later(INTERVAL, self._tick)

    def _end(self) -> None:
        for signal, receiver in self._receivers:
            signal.disconnect(receiver)
        self._timer.close()
        self._timer = None
        self._forget()
        self._figures.clear()
        self._left_out.clear()
        self._changes = self._events = 0

    def _send(self, event: str, *args: Any) -> None:
        for admin in list(self._admins):
            admin.emit(event, *args)

    # -- every two seconds

    def _tick(self) -> None:
        self._timer = call_later(INTERVAL, self._tick)
        self._changes = self._events = 0
        figures = self._figures.describe(sockets())
        self._figures.clear()
        self._send("server_stats", figures)
        if not self._verbose:
            return
        if self._stale:
            self._tell_all()
        for socket in [one for one in self._polling if one.transport != "polling"]:
            self._polling.discard(socket)
            change = {"id": socket.session_id, "nsp": socket.namespace}
            self._send("socket_updated", {**change, "transport": socket.transport})
        left_out, self._left_out = self._left_out, Counter()
        for namespace, count in left_out.items():
            note = [f"({count} more events, which are not shown)"]
            self._send("event_sent", namespace, "-", note, serializers.now())

    # -- what is shown

    def _forget(self) -> None:
        self._shown.clear()
        self._polling.clear()
        self._bytes = 0
        self._stale = False

    def _tell_all(self) -> None:
        """Begin anew: the UI forgets what it knew."""
        self._forget()
        descriptions = []
        for socket in sockets():
            if self._full:
                break
            descriptions.append(self._show(socket))
        self._send("all_sockets", descriptions)

    @property
    def _full(self) -> bool:
        """Whether no more sockets are shown."""
        return len(self._shown) >= MAX_SOCKETS or self._bytes >= self._max_bytes

    def _show(self, socket: Socket) -> dict[str, Any]:
        """Have a socket shown from now on; returns its description."""
        description = serializers.describe_socket(socket)
        self._shown[socket] = set(description["rooms"])
        self._bytes += 1000 + sum(map(len, description["rooms"]))
        if description["transport"] == "polling":
            self._polling.add(socket)
        return description

    def _may_change(self) -> bool:
        """Whether a change may be told by itself."""
        self._changes += 1
        if self._changes > MAX_CHANGES:
            self._stale = True
        return not self._stale

    def _may_tell(self, namespace: str, count: int = 1) -> int:
        """How many of `count` events may be told."""
        allowed = min(count, MAX_RECIPIENTS, MAX_EVENTS - self._events)
        self._events += allowed
        if allowed < count:
            self._left_out[namespace] += count - allowed
        return allowed

    # -- receivers

    def _connect(self, sender: Socket, **extra: Any) -> None:
        self._figures.add("rawConnection")
        if self._verbose:
            self._introduce(sender)

    def _introduce(self, socket: Socket) -> bool:
        """Have a socket shown that may be new; whether what it does now is told by itself."""
        if socket in self._shown:
            return not self._stale
        if self._full or not socket.connected or not self._may_change():
            return False
        first = not self._shown
        description = self._show(socket)
        if first:
            # The UI chooses the namespace that it shows when it is given a list, if it is not empty.
            self._send("all_sockets", [description])
        self._send("socket_connected", description, serializers.now())
        return socket in self._shown  # unless the last admin could not take that, and is gone

    def _subscribe(self, sender: Socket, channel: str, **extra: Any) -> None:
        if not self._verbose or not self._introduce(sender):
            return
        told = self._shown[sender]
        if channel not in told and self._may_change():
            told.add(channel)
            self._bytes += len(channel)
            names = (sender.namespace, channel, sender.session_id)
            self._send("room_joined", *names, serializers.now())

    def _unsubscribe(self, sender: Socket, channel: str, **extra: Any) -> None:
        told = self._shown.get(sender)
        if told is not None and channel in told and self._may_change():
            told.discard(channel)
            self._bytes -= len(channel)
            self._tell_left(sender, channel)

    def _tell_left(self, socket: Socket, channel: str) -> None:
        self._send("room_left", socket.namespace, channel, socket.session_id, serializers.now())

    def _disconnect(self, sender: Socket, reason: str, **extra: Any) -> None:
        self._figures.add("rawDisconnection", detail=reason)
        if sender not in self._shown:
            return
        if self._full:  # there is room now for somebody who was not shown
            self._stale = True
        told = self._shown.pop(sender)
        self._bytes -= 1000 + sum(map(len, told))
        self._polling.discard(sender)
        if self._may_change():
            self._send(
                "socket_disconnected",
                sender.namespace,
                sender.session_id,
                reason,
                serializers.now(),
            )
            # Now, not at the end of each of its subscriptions: by then it is forgotten here.
            for channel in told:
                self._tell_left(sender, channel)

    def _message(
        self, sender: Socket, event: str, args: list[Any], channel: str | None, **extra: Any
    ) -> None:
        if channel is not None:  # as it came
            event, args = "__channel__", [channel, *args]
        self._figures.received(event, args)
        if self._verbose and self._introduce(sender) and self._may_tell(sender.namespace):
            told = serializers.describe_event(event, args)
            self._send(
                "event_received", sender.namespace, sender.session_id, told, serializers.now()
            )

    def _sent(
        self,
        sender: str,
        sockets: list[Socket],
        size: int,
        read: Callable[[], list[Any]],
        **extra: Any,
    ) -> None:
        self._figures.add("packetsOut", len(sockets))
        self._figures.add("bytesOut", size * len(sockets))
        if not self._verbose or self._stale:
            return
        if len(sockets) <= MAX_RECIPIENTS:  # in a handler that runs before ours, to a new one
            for socket in sockets:
                self._introduce(socket)
        known = [socket for socket in sockets if socket in self._shown]
        allowed = self._may_tell(sender, len(known))
        if allowed:
            event, *args = read()
            told, moment = serializers.describe_event(event, args), serializers.now()
            for socket in known[:allowed]:
                self._send("event_sent", sender, socket.session_id, told, moment)
