"""Counts of sessions, sockets and channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from webpy_socketio.backplane import new_counts
from webpy_socketio.engine import Engine
from webpy_socketio.registry import SocketRegistry

__all__ = ["Stats", "count"]


@dataclass(frozen=True)
class Stats:
    """Counts of a runtime at one moment."""

    #: Open Engine.IO sessions, by transport.
    sessions: dict[str, int]
    #: Connected sockets, by namespace.
    sockets: dict[str, int]
    #: Channels that have members, by namespace.
    channels: dict[str, int]
    #: Sum of the member counts of all channels, by namespace.
    memberships: dict[str, int]
    #: Bytes in all outboxes.
    outbox_bytes: int
    #: Problems between processes since the backplane was opened by the first server to start:
    #: ``"dropped"`` messages that were not published because Redis was unreachable or too slow,
    #: ``"ignored"`` invalid messages on its topics, and ``"gaps"`` (the signal ``gap``).
    backplane: dict[str, int]
    #: Suspended sockets, which wait for their clients (``SOCKETIO_RECOVERY_TIME``).
    suspended: int = 0
    #: Whether Redis is connected; None without ``SOCKETIO_BACKPLANE``.
    backplane_connected: bool | None = None


def count(engines: Iterable[Engine], registry: SocketRegistry[Any]) -> Stats:
    """Count sessions, sockets and channels; call in the thread of the sockets."""
    sessions = Counter(polling=0, websocket=0)
    outbox_bytes = 0
    for engine in engines:
        for session in engine.sessions.values():
            # A closed session remains until its client has received the close.
            if session.open and session.transport is not None:
                sessions[session.transport.name] += 1
                outbox_bytes += session.outbox.size
    namespaces = registry.namespaces()
    backplane = registry.backplane
    return Stats(
        sessions=dict(sessions),
        sockets={namespace.name: len(namespace.sockets) for namespace in namespaces},
        channels={namespace.name: len(namespace.channels) for namespace in namespaces},
        memberships={namespace.name: namespace.channels.memberships() for namespace in namespaces},
        outbox_bytes=outbox_bytes,
        backplane=dict(new_counts() if backplane is None else backplane.counts),
        suspended=0 if registry.recovery is None else len(registry.recovery.suspensions),
        backplane_connected=None if backplane is None else backplane.connected,
    )
