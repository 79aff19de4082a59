"""WebSockets that want to replace long-polling, while they are tried.

Engine.IO protocol v4, "Upgrade": the candidate is probed; then long-polling falls silent, and the
client either changes over or goes on as before.
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
    """The candidates of all sessions; one that takes longer than `seconds` is dropped."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._pending = TimeoutQueue[WebSocket](clock, seconds, _drop)

    def begin(self, session: Session, websocket: WebSocket) -> bool:
        """Let `websocket` try to take `session` over; False if there is nothing to take over."""
        if not isinstance(session.transport, Polling) or session.upgrading or not session.open:
            return False
        session.upgrading = websocket
        self._pending.add(websocket)
        return True

    def probed(self, session: Session) -> None:
        """The WebSocket works: long-polling is to fall silent."""
        if isinstance(session.transport, Polling):
            session.transport.probed(True)

    def completed(self, session: Session, websocket: WebSocket) -> None:
        """The client changes over to the WebSocket."""
        self._pending.discard(websocket)
        polling = session.transport
        if isinstance(polling, Polling) and polling.receiving:
            # What is left of the POST would come between what comes by the WebSocket.
            raise ProtocolError("an upgrade in the middle of a POST")
        session.use(websocket)
        if isinstance(polling, Polling):
            polling.replaced()

    def dropped(self, session: Session) -> None:
        """The WebSocket is gone; long-polling goes on."""
        self.discard(session)
        session.upgrading = None
        if isinstance(session.transport, Polling):
            session.transport.probed(False)

    def discard(self, session: Session) -> None:
        """The session is over, and with it what was tried."""
        if isinstance(session.upgrading, WebSocket):
            self._pending.discard(session.upgrading)

    def clear(self) -> None:
        """Stop the timer."""
        self._pending.clear()


def _drop(websocket: WebSocket) -> None:
    websocket.give_up("transport error", 1008)
