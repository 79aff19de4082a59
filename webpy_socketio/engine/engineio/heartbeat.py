"""The heartbeat: a ping per interval, and a timeout for the pong (Engine.IO v4, "Heartbeat").

All sessions have the same interval and timeout. Two queues are therefore enough: sessions that wait
for their next ping, and sessions whose pong is pending.
"""

from __future__ import annotations

from collections.abc import Callable

from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.clock import Clock
from webpy_socketio.engine.io.packets import PING, Message
from webpy_socketio.engine.io.timeouts import TimeoutQueue

__all__ = ["Heartbeat"]

_PING = Message(PING)


class Heartbeat:
    """Pings sessions, and closes them with "ping timeout" if they do not respond.

    Args:
        clock: Clock that runs the timers.
        interval: Seconds between a pong and the next ping.
        timeout: Seconds within which the pong must arrive.
    """

    def __init__(self, clock: Clock, interval: float, timeout: float) -> None:
        self._clock = clock
        self._interval = interval
        self._timeout = timeout
        self._idle = TimeoutQueue[Session](clock, interval, self._ping)
        self._pending = TimeoutQueue[Session](clock, timeout, self._on_timeout)
        self._since: dict[Session, float] = {}
        #: Returns the number of the last message, or None if messages are not numbered. A pong
        #: confirms the messages before its ping: transports deliver in order.
        self.position: Callable[[], int] | None = None
        #: Positions of the pending pings.
        self._positions: dict[Session, int] = {}

    def add(self, session: Session) -> None:
        """Schedule the first or next ping of `session`, one interval from now."""
        self._since[session] = self._clock.now()
        self._idle.add(session)

    def pong(self, session: Session) -> None:
        """Handle a pong; a pong without a pending ping has no effect."""
        if session in self._pending:
            self._pending.discard(session)
            if self._positions:
                session.confirmed = self._positions.pop(session, session.confirmed)
            self.add(session)

    def discard(self, session: Session) -> None:
        """Stop the heartbeat of `session`."""
        self._since.pop(session, None)
        self._positions.pop(session, None)
        self._idle.discard(session)
        self._pending.discard(session)

    def has_timed_out(self, session: Session) -> bool:
        """Return whether the session has timed out, even if its timer has not fired yet.

        A late poll is rejected, although a blocked event loop may delay the timer.
        """
        since = self._since.get(session)
        if since is None or self._reading_was_paused(session):
            return False
        return self._clock.now() - since >= self._interval + self._timeout

    def clear(self) -> None:
        """Remove all sessions and stop the timers."""
        self._since.clear()
        self._positions.clear()
        self._idle.clear()
        self._pending.clear()

    def _ping(self, session: Session) -> None:
        if self.position is not None:
            self._positions[session] = self.position()
        session.outbox.push(_PING)
        self._pending.add(session)

    def _on_timeout(self, session: Session) -> None:
        if self._reading_was_paused(session):
            self._pending.add(session)
        else:
            session.close("ping timeout")

    def _reading_was_paused(self, session: Session) -> bool:
        """Return whether the server paused reading: the pong may be queued behind other data."""
        return session.paused or self._clock.now() - session.resumed < self._timeout
