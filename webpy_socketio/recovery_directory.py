"""Recovery directory: which server holds a session that has moved, as keys in Redis."""

from __future__ import annotations

import hashlib

from webpy_socketio.backplane.commands import RedisCommands
from webpy_socketio.engine.io.clock import call_later

__all__ = ["PARKED", "RecoveryDirectory", "digest"]

#: Seconds after which an entry expires, unless its server writes it again.
LIFETIME = 600

#: In place of a server: the session is parked in Redis.
PARKED = "parked"


def digest(pid: str) -> str:
    """Return a name of a session for keys and logs: its pid is a secret of the client."""
    return hashlib.sha256(pid.encode()).hexdigest()[:32]


class RecoveryDirectory:
    """The sessions that are not held by the server in their pid; for the hub's thread only.

    Args:
        commands: Executes the commands.
        prefix: ``SOCKETIO_BACKPLANE_PREFIX``.
        node: This server.
    """

    def __init__(self, commands: RedisCommands, prefix: str, node: str) -> None:
        self._commands = commands
        self._prefix = f"{prefix}:1:recovery:session:"
        self._node = node
        #: The sessions that this server holds.
        self._own: set[str] = set()
        self._timer = call_later(LIFETIME / 2, self._refresh)

    def find(self, pid: str, timeout: float) -> str | None:
        """Return the server that holds a session, or None if it has not moved.

        Raises:
            BackplaneError: Redis did not reply within `timeout` seconds.
        """
        reply = self._commands.execute("GET", self._key(pid), timeout=timeout)
        return reply.decode("ascii", "replace") if isinstance(reply, bytes) else None

    def park(self, pid: str) -> None:
        """Write that a session is parked in Redis; does not block."""
        self._own.discard(pid)
        self._write(pid, PARKED)

    def unpark(self, pid: str) -> None:
        """Remove the entry of `park`, because the session has ended; does not block."""
        self._commands.put("DEL", self._key(pid))

    def flush(self, timeout: float) -> None:
        """Wait until all entries are written.

        Raises:
            BackplaneError: Redis did not reply within `timeout` seconds.
        """
        self._commands.execute("PING", timeout=timeout)

    def add(self, pid: str) -> None:
        """Write that this server holds a session; does not block."""
        self._own.add(pid)
        self._write(pid, self._node)

    def discard(self, pid: str) -> None:
        """Remove a session that has ended; ignored if this server has not added it."""
        if pid in self._own:
            self._own.remove(pid)
            self._commands.put("DEL", self._key(pid))

    def release(self, pid: str) -> None:
        """Forget a session that another server holds now, which has written its entry."""
        self._own.discard(pid)

    def close(self) -> None:
        """Stop the timer; entries of this server expire."""
        self._timer.close()

    def _key(self, pid: str) -> str:
        return self._prefix + digest(pid)

    def _write(self, pid: str, value: str) -> None:
        self._commands.put("SET", self._key(pid), value, "EX", LIFETIME)

    def _refresh(self) -> None:
        self._timer = call_later(LIFETIME / 2, self._refresh)
        for pid in self._own:
            self._write(pid, self._node)
