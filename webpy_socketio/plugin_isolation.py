"""A namespace that a plugin brings: its clients are the plugin's, and nobody else hears of them.

No signal is sent for them, so no handler, gate or other plugin is called; they are in no channel, and
no broadcast reaches them. The plugin's application is one of the engine's, as
`webpy_socketio.engine.Application` describes it.
"""

from __future__ import annotations

import logging
from typing import Any

from webpy_socketio.engine import Application, Connection
from webpy_socketio.exceptions import ContentError, ProtocolError, Refused
from webpy_socketio.thread_locals import release

__all__ = ["IsolatedApplication"]

logger = logging.getLogger("webpy_socketio")


class IsolatedApplication:
    """A plugin's application, with what the dispatcher does for everybody else's handlers.

    `Refused` refuses a connection; whatever else it raises is logged, and told as an error without
    a word of what it was.
    """

    def __init__(self, namespace: str, application: Application) -> None:
        self._namespace = namespace
        self._application = application

    def connect(self, connection: Connection) -> None:
        try:
            try:
                self._application.connect(connection)
            except Refused as refusal:
                connection.refuse(str(refusal) or "refused")
        except Exception:  # noqa: BLE001 - the plugin's own code
            self._log("connect")
            connection.refuse("not allowed")
        finally:
            release()

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        try:
            self._application.event(connection, name, args, ack)
        except Exception:  # noqa: BLE001 - the plugin's own code
            self._log(f"event {name!r}")
            if ack is not None:
                connection.acknowledge(ack, ({"error": "internal error"},))
        finally:
            release()

    def closing(self, connection: Connection) -> None:
        self._application.closing(connection)

    def disconnected(self, connection: Connection, reason: str) -> None:
        try:
            self._application.disconnected(connection, reason)
        finally:
            release()

    def failed(self, connection: Connection, error: ProtocolError | ContentError) -> None:
        self._application.failed(connection, error)

    def _log(self, what: str) -> None:
        logger.exception("the plugin of the namespace %s failed: %s", self._namespace, what)
