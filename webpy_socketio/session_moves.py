"""Session moves: everything that sessions need to move between the servers of a cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent

from webpy_socketio.adopted_sessions import AdoptedSessions, AdoptingHost, Readiness
from webpy_socketio.backplane import Backplane, Topic
from webpy_socketio.backplane.commands import RedisCommands
from webpy_socketio.config.settings import Settings
from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.exceptions import BackplaneError
from webpy_socketio.late_copies import LateCopies
from webpy_socketio.move_decisions import MoveDecisions
from webpy_socketio.parked_sessions import ParkedSessions
from webpy_socketio.recovery import Recovery
from webpy_socketio.recovery_directory import RecoveryDirectory
from webpy_socketio.registry import SocketRegistry
from webpy_socketio.released_sessions import ReleasedSessions
from webpy_socketio.server_requests import ServerRequests
from webpy_socketio.session_handover import SessionHandover
from webpy_socketio.topic_markers import TopicMarkers

__all__ = ["SessionMoves"]

logger = logging.getLogger("webpy_socketio")

#: Seconds in which a server that starts adopts parked sessions.
START_TIMEOUT = 5.0

#: Seconds for one command of Redis at the start.
COMMAND_TIMEOUT = 1.0

#: Seconds between two looks at the servers that park sessions.
PARKING_INTERVAL = 0.05

#: Seconds in which sessions that move to a server that stops arrive, twice.
SETTLE_TIMEOUT = 0.5


class SessionMoves:
    """Moves sessions from and to other servers; one for each runtime with a backplane.

    Args:
        recovery: Recovery of the runtime.
        registry: Sockets of the runtime.
        requests: Requests of the runtime.
        backplane: Its open backplane.
        settings: Settings of the servers.
    """

    def __init__(
        self,
        recovery: Recovery,
        registry: SocketRegistry[Any],
        requests: ServerRequests,
        backplane: Backplane,
        settings: Settings,
    ) -> None:
        recovery.node = backplane.node
        self._commands = RedisCommands(settings.backplane or "")
        prefix = settings.backplane_prefix
        self._directory = RecoveryDirectory(self._commands, prefix, backplane.node)
        markers = TopicMarkers()
        if not backplane.is_ordered:
            registry.receive_marker = markers.receive
            backplane.on_published = recovery.published
            recovery.late_copies = LateCopies(registry.receive_for, registry.report_gap)
            backplane.on_copy = recovery.late_copies.receive
        decisions = MoveDecisions(self._commands, prefix, backplane.node)
        self._backplane = backplane
        self._parked = parked = ParkedSessions(
            *(self._commands, decisions, prefix, settings.parser, backplane.node)
        )
        self._registry = registry
        self._adopted = AdoptedSessions(
            *(recovery, registry, requests, self._directory, parked, decisions),
            lambda pid: self._released.returned(pid),
            lambda pid: self._released.find_new_server(pid),
            markers,
        )
        self._released = ReleasedSessions(
            *(recovery, registry, requests, self._directory, decisions, self._adopted.wait),
            markers,
        )
        self._handover = SessionHandover(
            *(recovery, registry, requests, self._released, self._adopted),
            *(self._directory, parked),
        )

    def fetch(self, pid: str, connection: Connection, offset: object) -> None:
        """Move a session to this server if another one holds it; blocks for a second at most."""
        self._adopted.fetch(pid, connection, offset)

    def start_adopting(self, host: AdoptingHost) -> None:
        """Adopt the sessions of servers that have stopped, and those of servers that will stop."""
        self._adopted.hosts.append(host)
        self._adopted.readiness = Readiness.RUNNING
        until = time.monotonic() + START_TIMEOUT
        try:
            # A server that is about to park sessions either finds this one, or is waited for.
            self._backplane.wait(Topic.servers())
            is_expected = True
            while is_expected:
                is_expected = self._parked.is_being_filled(COMMAND_TIMEOUT)
                self._adopted.adopt_parked(host, until)
                if time.monotonic() > until:
                    break
                if is_expected:
                    gevent.sleep(PARKING_INTERVAL)
        except BackplaneError as error:
            logger.warning(
                "clients may be unable to resume sessions of a server that has stopped: %s",
                str(error),
            )

    def stop_adopting(self, host: AdoptingHost) -> None:
        """Adopt no more sessions, because a server stops."""
        adopted = self._adopted
        if host in adopted.hosts:
            adopted.hosts.remove(host)
            if not adopted.hosts:  # sessions of other servers that stop may still arrive
                adopted.last_host, adopted.readiness = host, Readiness.DRAINING

    def settle(self) -> None:
        """Wait until the sessions that are moving here have arrived; a second at most."""
        self._adopted.settle(SETTLE_TIMEOUT)

    def hand_over(self, find: Callable[[], Sequence[Any]], timeout: float) -> None:
        """Leave suspended sockets to other servers; those that cannot move stay suspended."""
        if self._adopted.hosts:  # another server of this process
            for socket in find():
                socket.move_to(self._adopted.hosts[0])
        else:
            self._handover.run(find, timeout)

    def count_parked_bundles(self) -> int:
        """Return the number of bundles with sessions of servers that have stopped.

        Raises:
            BackplaneError: Redis did not reply in time.
        """
        return self._parked.count_bundles()

    @property
    def released(self) -> int:
        """Number of sessions that have left this server."""
        return self._released.count

    def session_ended(self, pid: str) -> None:
        """Handle the end of a session, or of the possibility to resume it."""
        self._directory.discard(pid)

    def close(self) -> None:
        """Stop handling requests of other servers."""
        self._registry.receive_marker = self._backplane.on_copy = None
        self._released.close()
        self._adopted.close()
        self._directory.close()
        self._commands.stop()
