"""Is the client still there? A ping at a steady interval, and a deadline for the pong.

Engine.IO protocol v4, "Heartbeat". All sessions share the interval, so two queues serve them all:
who is to be pinged next, and whose pong is awaited.
"""

from __future__ import annotations

from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.clock import Clock
from webpy_socketio.engine.io.packets import PING, Message
from webpy_socketio.engine.io.timeouts import TimeoutQueue

__all__ = ["Heartbeat"]

_PING = Message(PING)


class Heartbeat:
    """Pings sessions and closes those that do not answer, with reason "ping timeout"."""

    def __init__(self, clock: Clock, interval: float, timeout: float) -> None:
        self._clock = clock
        self._interval = interval
        self._timeout = timeout
        self._resting = TimeoutQueue[Session](clock, interval, self._ping)
        self._awaited = TimeoutQueue[Session](clock, timeout, self._give_up)
        self._since: dict[Session, float] = {}

    def add(self, session: Session) -> None:
        """Begin with `session`, which was heard of just now."""
        self._since[session] = self._clock.now()
        self._resting.add(session)

    def pong(self, session: Session) -> None:
        """The client answered. A pong that nobody asked for changes nothing."""
        if session in self._awaited:
            self._awaited.discard(session)
            self.add(session)

    def discard(self, session: Session) -> None:
        """Forget `session`."""
        self._since.pop(session, None)
        self._resting.discard(session)
        self._awaited.discard(session)

    def check(self, session: Session) -> bool:
        """Whether the deadline of `session` has passed, its timer notwithstanding.

        A client that polls late is told that it is late, even if the timer has still to run.
        """
        since = self._since.get(session)
        if since is None or self._excused(session):
            return False
        return self._clock.now() - since >= self._interval + self._timeout

    def clear(self) -> None:
        """Forget all sessions and stop the timers."""
        self._since.clear()
        self._resting.clear()
        self._awaited.clear()

    def _ping(self, session: Session) -> None:
        session.outbox.push(_PING)
        self._awaited.add(session)

    def _give_up(self, session: Session) -> None:
        if self._excused(session):
            self._awaited.add(session)
        else:
            session.close("ping timeout")

    def _excused(self, session: Session) -> bool:
        """Whether we were the ones who did not read: the pong may wait behind all the rest."""
        return session.paused or self._clock.now() - session.resumed < self._timeout
