"""Detached connection: placeholder for the lost connection of a session that has moved here."""

from __future__ import annotations

from webpy_socketio.engine.engine import find_flusher
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.clock import Clock, current_clock
from webpy_socketio.engine.io.greenlets import GreenletPool
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.engine.socketio.connection import Application, Connection
from webpy_socketio.engine.socketio.inbox import Inbox
from webpy_socketio.engine.socketio.parser import Parser

__all__ = ["DetachedHost"]

#: Queued jobs of one socket; nothing reads from the client.
_MAX_JOBS = 1000


class DetachedHost:
    """Creates closed connections, which only run queued jobs; for the hub's thread only."""

    def __init__(self, parser: Parser) -> None:
        self.parser = parser
        self.clock: Clock = current_clock()
        self.flusher = find_flusher()
        self.notices = ThrottledLog(self.clock)
        self._workers = GreenletPool()

    def create(
        self, application: Application, namespace: str, session_id: str, reason: str
    ) -> Connection:
        """Return a closed connection.

        Args:
            application: Receives no callbacks of this connection.
            namespace: Name of the namespace.
            session_id: Public id.
            reason: Why the connection was lost.
        """
        session = Session("", {}, self, 0, 0)
        session.reason = reason
        session.outbox.closed = True
        connection = Connection(_Sessions(self, session), application, namespace, None)
        connection.id = session_id
        connection.close(reason)
        return connection

    def new_inbox(self, session: Session) -> Inbox:
        """Return an inbox for a session."""
        return Inbox(session, self._workers, _MAX_JOBS, _MAX_JOBS)

    def dispose(self) -> None:
        """End the idle greenlets."""
        self._workers.dispose()

    # -- the host of a closed session

    def pong(self, session: Session) -> None:
        """Do nothing: the session is closed."""

    def count(self, session: Session) -> None:
        """Do nothing: the session is closed."""

    def session_closed(self, session: Session) -> None:
        """Do nothing: the session is closed already."""


class _Sessions:
    """The host of one closed connection."""

    def __init__(self, host: DetachedHost, session: Session) -> None:
        self.session = session
        self.parser = host.parser
        self.clock = host.clock
        self._host = host

    def inbox(self, namespace: str) -> Inbox:
        """Return a new inbox."""
        return self._host.new_inbox(self.session)

    def accepted(self) -> None:
        """Do nothing: the connection is never accepted."""

    def remove(self, connection: Connection) -> None:
        """Do nothing: there is no list of connections."""

    def close_if_unused(self) -> None:
        """Do nothing: the session is closed."""

    def disconnect_all(self) -> None:
        """Do nothing: the session is closed."""
