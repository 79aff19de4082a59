"""Move decisions: which server keeps a session, if a message between two servers was lost.

A server that gives up a session does not know whether its answer has arrived. Redis decides: the
first server that writes the key of the move keeps the session. A command whose reply was lost can
be repeated without another effect.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import gevent

from webpy_socketio.backplane.commands import RedisCommands
from webpy_socketio.exceptions import BackplaneError

__all__ = ["MoveDecisions"]

#: Seconds for which a server tries to reach Redis for a decision.
DECISION_TIME = 60.0

#: Seconds for which a decision is kept, longer than `DECISION_TIME`.
LIFETIME = 600

#: Seconds between two attempts, and the shortest time for one.
_INTERVAL = 0.1


class MoveDecisions:
    """Decides which server keeps sessions; for the hub's thread only.

    Args:
        commands: Executes the commands.
        prefix: ``SOCKETIO_BACKPLANE_PREFIX``.
        node: This server.
    """

    def __init__(self, commands: RedisCommands, prefix: str, node: str) -> None:
        self._commands = commands
        self._prefix = f"{prefix}:1:recovery:decision:"
        self._node = node

    def decide(
        self, names: Sequence[str], seconds: float | None = None, lifetime: int = LIFETIME
    ) -> list[bool]:
        """Return for each name whether this server was the first one that called this.

        Args:
            names: Names of moves, or of bundles of parked sessions.
            seconds: Longest wait for Redis; None for `DECISION_TIME`.
            lifetime: Seconds for which the decision is kept.

        Raises:
            BackplaneError: Redis did not reply in time. Another call may still decide.
        """
        until = time.monotonic() + (DECISION_TIME if seconds is None else seconds)
        while True:
            try:
                latest = max(until, time.monotonic() + _INTERVAL)
                return self._try_to_decide(names, latest, lifetime)
            except BackplaneError:
                if time.monotonic() + 2 * _INTERVAL > until:  # the pause, and another attempt
                    raise
                gevent.sleep(_INTERVAL)

    def _try_to_decide(self, names: Sequence[str], until: float, lifetime: int) -> list[bool]:
        results = []
        for name in names:
            key = self._prefix + name
            self._commands.put("SET", key, self._node, "NX", "EX", lifetime)
            results.append(self._commands.put("GET", key))
        decided = []
        for result in results:
            try:
                owner = result.get(timeout=max(0.0, until - time.monotonic()))
            except gevent.Timeout:
                raise BackplaneError("Redis did not reply in time") from None
            if not isinstance(owner, bytes):
                raise BackplaneError("Redis has not stored a decision")
            decided.append(owner == self._node.encode())
        return decided
