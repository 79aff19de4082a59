"""Isolate the namespaces of plugins from the application.

No signals are sent for clients of such a namespace, so no handlers, gates or other plugins are
called. The clients are in no channel and receive no broadcasts. The plugin implements
`webpy_socketio.engine.Application`.
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
    """The application of a plugin's namespace, with the error handling of the dispatcher.

    `Refused` rejects a connection. Other exceptions are logged, and the client receives an error
    without details.
    """

    def __init__(self, namespace: str, application: Application) -> None:
        self._namespace = namespace
        self._application = application

    def connect(self, connection: Connection) -> None:
        try:
            try:
                self._application.connect(connection)
            except Refused as refusal:
                connection.refuse(str(refusal) or "refused", refusal.data)
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
