"""Notifier: sends ``rate_limit`` events to clients at a limited rate."""

from __future__ import annotations

import math
from typing import Any

from webpy_socketio import Socket, call_later, monotonic

__all__ = ["INTERVAL", "Notifier"]

#: Seconds between two events of a socket about the same limit.
INTERVAL = 1.0


class _Notice:
    """Pending notification of one socket about one limit."""

    __slots__ = ("available_at", "refused", "timer")

    def __init__(self) -> None:
        self.refused = 0
        self.available_at = 0.0
        self.timer: Any = None


class Notifier:
    """Sends ``rate_limit`` events: the first at once, later ones combined after `INTERVAL`."""

    def __init__(self) -> None:
        self._notices: dict[Socket, dict[str, _Notice]] = {}

    def __len__(self) -> int:
        return len(self._notices)

    def add(self, socket: Socket, limit_name: str, available_at: float) -> None:
        """Report a rejection; `available_at` is the time at which a token is available."""
        notices = self._notices.setdefault(socket, {})
        notice = notices.get(limit_name)
        if notice is None:
            notice = notices[limit_name] = _Notice()
        notice.refused += 1
        notice.available_at = available_at
        if notice.timer is None:
            self._send(socket, limit_name, notice)

    def remove(self, socket: Socket) -> None:
        """Discard the notifications of a closed socket."""
        for notice in self._notices.pop(socket, {}).values():
            notice.timer.close()

    def close(self) -> None:
        """Discard all notifications."""
        for socket in list(self._notices):
            self.remove(socket)

    def _send(self, socket: Socket, limit_name: str, notice: _Notice) -> None:
        if notice.timer is not None:
            notice.timer.close()
        if not notice.refused:
            notices = self._notices[socket]
            del notices[limit_name]
            if not notices:
                del self._notices[socket]
            return
        # Rounded up, so that a client that waits exactly so long is accepted.
        retry = math.ceil(max(0.0, notice.available_at - monotonic()) * 1000) / 1000
        socket.emit("rate_limit", {"what": limit_name, "refused": notice.refused, "retry": retry})
        notice.refused = 0
        notice.timer = call_later(INTERVAL, self._send, socket, limit_name, notice)
