"""The namespace /admin: who comes in, what they are told, what they ask."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from webpy_socketio import ProtocolError, Refused
from webpy_socketio.plugins.admin.auth import Authenticator
from webpy_socketio.plugins.admin.commands import Commands
from webpy_socketio.plugins.admin.reporter import Admin, Reporter

__all__ = ["AdminNamespace"]

logger = logging.getLogger("webpy_socketio.admin")


class Connection(Admin, Protocol):
    """One of the engine's, as far as it is needed here."""

    #: What the client sent along.
    auth: Any
    #: Its ``environ`` is the handshake's.
    session: Any

    def accept(self) -> bool:
        """Let it in; False if it has gone."""

    def acknowledge(self, number: int, args: tuple[Any, ...]) -> None:
        """Answer a command that asked for it."""


#: Seconds between two log lines of one kind.
LOG_INTERVAL = 60.0


class AdminNamespace:
    """The application of the namespace; one for each server."""

    def __init__(self, settings: Any) -> None:
        self._lock = Authenticator(settings.admin_username, settings.admin_password, time.monotonic)
        verbose = settings.admin_mode == "development"
        names = tuple(settings.namespaces)
        self._log_due: dict[str, float] = {}
        self._watch = Reporter(names, verbose, settings.outbox_bytes)
        self._desk = Commands(names, settings.admin_readonly)
        self._features = [*self._desk.features, "AGGREGATED_EVENTS"]
        if verbose:
            self._features.append("ALL_EVENTS")

    def connect(self, connection: Connection) -> None:
        """Look at the credentials, which are kept no longer than that."""
        auth, connection.auth = connection.auth, None
        try:
            session = self._lock.open(auth, _address(connection))
        except Refused as refusal:
            self._log(logging.WARNING, "%s was not let in: %s", connection, refusal)
            raise
        if not connection.accept():
            return
        logger.info("an admin from %s is here", _address(connection))
        if session is not None:
            connection.emit("session", session)
        connection.emit("config", {"supportedFeatures": self._features})
        self._watch.add(connection)

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        answer = self._desk.perform(f"an admin from {_address(connection)}", name, args)
        if ack is not None:
            connection.acknowledge(ack, (answer,))

    def closing(self, connection: Connection) -> None:
        self._watch.remove(connection)

    def disconnected(self, connection: Connection, reason: str) -> None:
        logger.info("an admin from %s is gone: %s", _address(connection), reason)

    def failed(self, connection: Connection, error: ProtocolError) -> None:
        self._log(logging.INFO, "an admin from %s broke a rule: %s", connection, error)

    def _log(self, level: int, text: str, connection: Connection, why: Exception) -> None:
        """Log a line, at most once a minute of each kind."""
        now = time.monotonic()
        if now >= self._log_due.get(text, now):
            self._log_due[text] = now + LOG_INTERVAL
            logger.log(level, text, _address(connection), str(why))


def _address(connection: Connection) -> str:
    return str(connection.session.environ.get("REMOTE_ADDR", "-"))
