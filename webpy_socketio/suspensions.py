"""Suspensions: the suspended sockets of a runtime, their time, and their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from webpy_socketio.config.settings import Settings
from webpy_socketio.engine.engine import MAX_SESSIONS_PER_ADDRESS
from webpy_socketio.engine.io.clock import Clock, Timer
from webpy_socketio.engine.io.quotas import AddressQuota
from webpy_socketio.engine.io.timeouts import TimeoutQueue

__all__ = ["Suspensions"]

T = TypeVar("T")


class Suspensions(Generic[T]):
    """Sockets that end when their time is over, or when there are too many.

    Args:
        clock: Clock and timers.
        settings: Settings of the servers.
        end: Ends a suspended socket.
    """

    def __init__(self, clock: Clock, settings: Settings, end: Callable[[T], None]) -> None:
        self._clock = clock
        self._end = end
        self._time = settings.recovery_time
        self._lost = TimeoutQueue[T](clock, settings.recovery_time, end)
        #: Timers of sockets with less time than the others.
        self._moved: dict[T, tuple[Timer, float]] = {}
        self._limit = settings.max_sessions
        self._addresses = AddressQuota(settings.max_sessions_per_address, MAX_SESSIONS_PER_ADDRESS)

    def __len__(self) -> int:
        return len(self._lost) + len(self._moved)

    def has_room(self, address: str) -> bool:
        """Return whether an address is below its limit."""
        return self._addresses.has_room(address)

    def add(self, socket: T, address: str, remaining: float | None = None) -> None:
        """Add a socket, and end the oldest one beyond the limit.

        Args:
            socket: The socket.
            address: Address of its client.
            remaining: Seconds until it ends; None for all of the time.
        """
        if remaining is None:
            self._lost.add(socket)
        else:
            timer = self._clock.timer(max(0.0, remaining))
            self._moved[socket] = timer, self._clock.now() + remaining
            timer.start(self._end, socket, update=True)
        self._addresses.add(socket, address)
        if len(self) > self._limit:
            self._end(self._lost.oldest if len(self._lost) else next(iter(self._moved)))

    def remove(self, socket: T) -> None:
        """Remove a socket; ignored if it is not suspended."""
        self._lost.discard(socket)
        self._addresses.remove(socket)
        timer, _ = self._moved.pop(socket, (None, 0.0))
        if timer is not None:
            timer.close()

    def remaining(self, socket: T) -> float:
        """Return the seconds until a suspended socket ends."""
        due = self._moved[socket][1] if socket in self._moved else self._lost.due(socket)
        return self._time if due is None else max(0.0, due - self._clock.now())

    def clear(self) -> None:
        """Stop the timers."""
        self._lost.clear()
        for timer, _ in self._moved.values():
            timer.close()
        self._moved.clear()
