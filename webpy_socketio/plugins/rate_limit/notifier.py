"""Telling clients that something was refused: at once, and then not too often."""

from __future__ import annotations

import math
from typing import Any

from webpy_socketio import Socket, call_later, monotonic

__all__ = ["INTERVAL", "Notifier"]

#: Seconds from one event about the same thing to the next.
INTERVAL = 1.0


class _Notice:
    """What one socket is to be told about one kind of refusals."""

    __slots__ = ("again", "refused", "timer")

    def __init__(self) -> None:
        self.refused = 0
        self.again = 0.0
        self.timer: Any = None


class Notifier:
    """Sends ``rate_limit`` events: the first at once, those of the next second together at its end."""

    def __init__(self) -> None:
        self._of: dict[Socket, dict[str, _Notice]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add(self, socket: Socket, what: str, again: float) -> None:
        """Something was refused; `again` is the moment from which it would not be."""
        notices = self._of.setdefault(socket, {})
        notice = notices.get(what)
        if notice is None:
            notice = notices[what] = _Notice()
        notice.refused += 1
        notice.again = again
        if notice.timer is None:
            self._tell(socket, what, notice)

    def forget(self, socket: Socket) -> None:
        """A socket is gone."""
        for notice in self._of.pop(socket, {}).values():
            notice.timer.close()

    def close(self) -> None:
        """Tell nobody any more."""
        for socket in list(self._of):
            self.forget(socket)

    def _tell(self, socket: Socket, what: str, notice: _Notice) -> None:
        if notice.timer is not None:
            notice.timer.close()
        if not notice.refused:
            notices = self._of[socket]
            del notices[what]
            if not notices:
                del self._of[socket]
            return
        # Rounded up: who comes back at this very moment is not to be too early.
        retry = math.ceil(max(0.0, notice.again - monotonic()) * 1000) / 1000
        socket.emit("rate_limit", {"what": what, "refused": notice.refused, "retry": retry})
        notice.refused = 0
        notice.timer = call_later(INTERVAL, self._tell, socket, what, notice)
