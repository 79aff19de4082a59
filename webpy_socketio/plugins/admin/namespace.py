"""Namespace ``/admin``: connections and commands of admins."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from webpy_socketio import ProtocolError, Refused, Runtime
from webpy_socketio.plugins.admin.auth import Authenticator
from webpy_socketio.plugins.admin.cluster import AdminCluster, cluster_of
from webpy_socketio.plugins.admin.commands import Commands
from webpy_socketio.plugins.admin.reporter import Admin, Reporter

__all__ = ["AdminNamespace"]

logger = logging.getLogger("webpy_socketio.admin")


class Connection(Admin, Protocol):
    """Connection of the engine; the part that this plugin uses."""

    #: Authentication data sent by the client.
    auth: Any
    #: Engine.IO session; its ``environ`` is that of the handshake.
    session: Any

    def accept(self) -> bool:
        """Accept the connection; return False if the client has disconnected."""

    def acknowledge(self, number: int, args: tuple[Any, ...]) -> None:
        """Send the acknowledgement of a command."""


#: Seconds between two log lines with the same text.
LOG_INTERVAL = 60.0


class AdminNamespace:
    """Application of the namespace for one server."""

    def __init__(self, settings: Any, runtime: Runtime) -> None:
        self._runtime = runtime
        self._authenticator = Authenticator(
            settings.admin_username, settings.admin_password, time.monotonic
        )
        self._authenticator.find_cluster = self._find_cluster
        verbose = settings.admin_mode == "development"
        names = tuple(name for name in settings.namespaces if isinstance(name, str))
        self._log_due: dict[str, float] = {}
        self._reporter = Reporter(names, verbose, settings.outbox_bytes, runtime)
        self._commands = Commands(names, settings.admin_readonly, runtime)
        self._features = [*self._commands.features, "AGGREGATED_EVENTS"]
        if verbose:
            self._features.append("ALL_EVENTS")

    def connect(self, connection: Connection) -> None:
        """Check the credentials, without keeping them, and send the first state."""
        auth, connection.auth = connection.auth, None
        try:
            session = self._authenticator.authenticate(auth, _address(connection))
        except Refused as refusal:
            self._log(
                logging.WARNING,
                "the login of an admin from %s was rejected: %s",
                connection,
                refusal,
            )
            raise
        if not connection.accept():
            return
        logger.info("an admin from %s connected", _address(connection))
        if session is not None:
            connection.emit("session", session)
        connection.emit("config", {"supportedFeatures": self._features})
        cluster = cluster_of(self._runtime)
        if cluster is not None:
            self._reporter.find_remote = cluster.descriptions
        self._reporter.add(connection)
        if cluster is not None and self._reporter.has_admins:
            cluster.watch(self._reporter)

    def _find_cluster(self) -> AdminCluster | None:
        return cluster_of(self._runtime)

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        answer = self._commands.execute(
            f"an admin from {_address(connection)}", name, args, cluster_of(self._runtime)
        )
        if ack is not None:
            connection.acknowledge(ack, (answer,))

    def closing(self, connection: Connection) -> None:
        self._reporter.remove(connection)
        cluster = cluster_of(self._runtime)
        if cluster is not None and not self._reporter.has_admins:
            cluster.unwatch(self._reporter)

    def disconnected(self, connection: Connection, reason: str) -> None:
        logger.info("an admin from %s disconnected: %s", _address(connection), reason)

    def failed(self, connection: Connection, error: ProtocolError) -> None:
        self._log(logging.INFO, "an admin from %s violated the protocol: %s", connection, error)

    def _log(self, level: int, text: str, connection: Connection, cause: Exception) -> None:
        """Log a line, at most once per `LOG_INTERVAL` for each text."""
        now = time.monotonic()
        if now >= self._log_due.get(text, now):
            self._log_due[text] = now + LOG_INTERVAL
            logger.log(level, text, _address(connection), str(cause))


def _address(connection: Connection) -> str:
    return str(connection.session.environ.get("REMOTE_ADDR", "-"))
