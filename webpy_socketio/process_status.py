"""Process status: what ``webpy-socketio status`` shows of one process."""

from __future__ import annotations

import contextlib
import os
import platform
import socket as socket_module
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent

from webpy_socketio.backplane.addresses import parse_address
from webpy_socketio.backplane.commands import RedisCommands
from webpy_socketio.bus.signals import Signals
from webpy_socketio.engine import Engine
from webpy_socketio.engine.io.clock import Timer, call_later
from webpy_socketio.engine.io.native import NATIVE
from webpy_socketio.exceptions import BackplaneError
from webpy_socketio.registry import SocketRegistry
from webpy_socketio.stats import count
from webpy_socketio.version import __version__

__all__ = ["ProcessStatus", "ServerEntry"]

#: Seconds after the last request for which messages are counted.
LEASE = 10.0

#: Seconds to wait for Redis.
TIMEOUT = 0.5


@dataclass(frozen=True)
class ServerEntry:
    """A running server."""

    engine: Engine
    #: URL, or ``unix:`` and a path.
    address: str
    #: Name of the worker; None for a process without a supervisor.
    worker: int | None
    plugins: Sequence[str]
    #: Returns whether the server is stopping.
    is_draining: Callable[[], bool]
    #: ``SOCKETIO_BACKPLANE``.
    backplane: str | None


class ProcessStatus:
    """Describes the servers of one runtime; for the hub's thread only.

    Messages are counted only while the status is requested repeatedly, as counting needs receivers
    of two signals.

    Args:
        registry: Sockets of the runtime.
        signals: Signals of the runtime.
    """

    def __init__(self, registry: SocketRegistry[Any], signals: Signals) -> None:
        self._registry = registry
        self._signals = signals
        self._servers: list[ServerEntry] = []
        self._began = 0.0
        self._received = self._sent = 0
        self._lease: Timer | None = None
        self._commands: RedisCommands | None = None

    def add(self, server: ServerEntry) -> None:
        """Add a server that has started."""
        if not self._servers:
            self._began = time.time()
        self._servers.append(server)

    def remove(self, engine: Engine) -> None:
        """Remove a server that has stopped."""
        self._servers = [each for each in self._servers if each.engine is not engine]
        if not self._servers:
            self._end_lease()

    def reset_after_fork(self) -> None:
        """Discard the state of the parent process in a forked child."""
        self._servers = []
        self._lease = self._commands = None

    def describe(self) -> dict[str, Any]:
        """Return the status as a value for JSON; waits for Redis, at most two seconds."""
        self._renew_lease()
        found = count([each.engine for each in self._servers], self._registry)
        backplane = self._registry.backplane
        return {
            "version": __version__,
            "python": platform.python_version(),
            "gevent": gevent.__version__,
            "native": NATIVE,
            "host": socket_module.gethostname(),
            "pid": os.getpid(),
            "node": None if backplane is None else backplane.node,
            "worker": next((each.worker for each in self._servers), None),
            "addresses": sorted({each.address for each in self._servers}),
            "plugins": list(dict.fromkeys(name for each in self._servers for name in each.plugins)),
            "draining": any(each.is_draining() for each in self._servers),
            "started": round(self._began, 3),
            "uptime": round(time.time() - self._began, 3),
            # Of a clock that never goes back, for rates.
            "time": round(time.monotonic(), 6),
            "sessions": found.sessions,
            "sockets": self._by_namespace(found.sockets),
            "channels": self._by_namespace(found.channels),
            "memberships": self._by_namespace(found.memberships),
            "outbox_bytes": found.outbox_bytes,
            "messages": {"received": self._received, "sent": self._sent},
            "redis": self._describe_redis(found.backplane),
            "recovery": self._describe_recovery(found.suspended),
        }

    def _by_namespace(self, counts: dict[str, int]) -> dict[str, int]:
        """Sum the counts of namespaces that match a pattern: clients choose their names."""
        sums: Counter[str] = Counter()
        for name, number in counts.items():
            sums[name if name in self._registry.permanent else "other"] += number
        return dict(sums)

    # -- Redis

    def _describe_redis(self, counts: dict[str, int]) -> dict[str, Any] | None:
        backplane = self._registry.backplane
        url = next((each.backplane for each in self._servers if each.backplane), None)
        if backplane is None or url is None:
            return None
        return {
            "address": str(parse_address(url)).removeprefix("Redis at "),
            "connected": backplane.connected,
            "latency": self._measure_latency(url),
            **counts,
        }

    def _measure_latency(self, url: str) -> float | None:
        """Return the seconds that Redis needs for a PING, or None if it does not answer."""
        commands = self._commands
        if commands is None:
            commands = self._commands = RedisCommands(url)
            _ping(commands)  # opens the connection
        began = time.monotonic()
        return round(time.monotonic() - began, 6) if _ping(commands) else None

    def _describe_recovery(self, suspended: int) -> dict[str, Any] | None:
        recovery = self._registry.recovery
        if recovery is None:
            return None
        parked = None
        if recovery.moves is not None:
            with contextlib.suppress(BackplaneError):
                parked = recovery.moves.count_parked_bundles()
        return {"suspended": suspended, "parked_bundles": parked}

    # -- counting

    def _renew_lease(self) -> None:
        if self._lease is None:
            self._signals.handled.connect(self._on_handled)
            self._signals.sent.connect(self._on_sent)
        else:
            self._lease.close()
        self._lease = call_later(LEASE, self._end_lease)

    def _end_lease(self) -> None:
        if self._lease is None:
            return
        self._lease.close()
        self._lease = None
        self._signals.handled.disconnect(self._on_handled)
        self._signals.sent.disconnect(self._on_sent)
        if self._commands is not None:
            gevent.spawn(self._commands.stop)  # may wait, which a timer must not
            self._commands = None

    def _on_handled(self, sender: Any, stage: str, **values: Any) -> None:
        if stage == "message":
            self._received += 1

    def _on_sent(self, sender: str, sockets: list[Any], **extra: Any) -> None:
        self._sent += len(sockets)


def _ping(commands: RedisCommands) -> bool:
    try:
        commands.execute("PING", timeout=TIMEOUT)
    except BackplaneError:
        return False
    return True
