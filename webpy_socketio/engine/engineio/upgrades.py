"""Upgrades from long-polling to a WebSocket (Engine.IO protocol v4, "Upgrade").

The client probes the WebSocket. Long-polling then pauses until the client completes the upgrade, or
resumes if the WebSocket is lost.
"""

from __future__ import annotations

from webpy_socketio.engine.engineio.polling import Polling
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.engineio.websocket import WebSocket
from webpy_socketio.engine.io.clock import Clock
from webpy_socketio.engine.io.timeouts import TimeoutQueue
from webpy_socketio.exceptions import ProtocolError

__all__ = ["Upgrades"]


class Upgrades:
    """The pending upgrades of all sessions.

    Args:
        clock: Clock that runs the timer.
        timeout: Seconds after which a WebSocket that has not completed its upgrade is closed.
    """

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._pending = TimeoutQueue[WebSocket](clock, timeout, _on_timeout)

    def begin(self, session: Session, websocket: WebSocket) -> bool:
        """Start an upgrade; return False if the session is closed, upgrading or not polling."""
        if not isinstance(session.transport, Polling) or session.upgrading or not session.open:
            return False
        session.upgrading = websocket
        self._pending.add(websocket)
        return True

    def probed(self, session: Session) -> None:
        """Pause long-polling, because the WebSocket has been probed."""
        if isinstance(session.transport, Polling):
            session.transport.set_probed(True)

    def completed(self, session: Session, websocket: WebSocket) -> None:
        """Make the WebSocket the session's transport.

        Raises:
            ProtocolError: A POST is in progress. Its packets would mix with those of the WebSocket.
        """
        self._pending.discard(websocket)
        polling = session.transport
        if isinstance(polling, Polling) and polling.receiving:
            raise ProtocolError("upgrade completed while a POST was in progress")
        session.use(websocket)
        if isinstance(polling, Polling):
            polling.end_for_upgrade()

    def dropped(self, session: Session) -> None:
        """Resume long-polling, because the WebSocket was lost before the upgrade."""
        self.discard(session)
        session.upgrading = None
        if isinstance(session.transport, Polling):
            session.transport.set_probed(False)

    def discard(self, session: Session) -> None:
        """Stop the timeout of the session's pending upgrade, if there is one."""
        if isinstance(session.upgrading, WebSocket):
            self._pending.discard(session.upgrading)

    def clear(self) -> None:
        """Remove all pending upgrades and stop the timer."""
        self._pending.clear()


def _on_timeout(websocket: WebSocket) -> None:
    websocket.give_up("transport error", 1008)
