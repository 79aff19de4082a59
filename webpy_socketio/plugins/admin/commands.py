"""Commands of the Admin UI: emit, join, leave and disconnect."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gevent

from webpy_socketio import ChannelError, Refused, Socket, SocketIOError, emit, sockets

__all__ = ["Commands"]

logger = logging.getLogger("webpy_socketio.admin")

#: Sockets processed before other greenlets run.
_BATCH_SIZE = 64

#: Supported features of the UI; those with an M apply to all sockets of a channel.
_COMMANDS = ("EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT")


class _CommandError(Exception):
    """A command that cannot be executed; the text contains the reason."""


class Commands:
    """Executes the commands of one server's admins."""

    def __init__(self, namespaces: Sequence[str], readonly: bool) -> None:
        self._namespaces = namespaces
        self._readonly = readonly
        self._commands: dict[str, Callable[..., int]] = {
            "emit": self._emit,
            "join": self._join,
            "leave": self._leave,
            "_disconnect": self._disconnect,
        }

    @property
    def features(self) -> list[str]:
        """Names of the features that the UI offers."""
        return [] if self._readonly else list(_COMMANDS)

    def execute(self, admin: str, name: str, args: list[Any]) -> dict[str, Any]:
        """Execute a command, and return the acknowledgement; may block in gates.

        The UI does not request acknowledgements, so errors are logged as well.
        """
        try:
            count = self._command(name, args)(*args)
        except (_CommandError, SocketIOError) as error:
            reason = str(error)  # a log record must not keep the frames of a traceback
            logger.warning("%s: command %.200r failed: %s", admin, [name, *args[:3]], reason)
            return {"ok": False, "error": reason}
        logger.info("%s: %.200r: %d sockets", admin, [name, *args[:3]], count)
        return {"ok": True, "sockets": count}

    def _command(self, name: str, args: list[Any]) -> Callable[..., int]:
        command = self._commands.get(name)
        if command is None:
            raise _CommandError("unknown command")
        if self._readonly:
            raise _CommandError("SOCKETIO_ADMIN_READONLY is True; set it to False to allow changes")
        try:
            inspect.signature(command).bind(*args)
        except TypeError as error:
            raise _CommandError(f"wrong arguments: {error}") from None
        return command

    # -- commands of the reference server; each returns the number of affected sockets

    def _emit(self, namespace: Any, target: Any, event: Any, *args: Any) -> int:
        targets = self._targets(namespace, target)
        if isinstance(target, str) and [socket.session_id for socket in targets] == [target]:
            targets[0].emit(event, *args)
            return 1
        emit(event, *args, channel=target or None, namespace=namespace)  # in all processes
        return len(targets)

    def _join(self, namespace: Any, channel: Any, target: Any = None) -> int:
        return self._apply(self._targets(namespace, target), lambda one: one.subscribe(channel))

    def _leave(self, namespace: Any, channel: Any, target: Any = None) -> int:
        # Without a target: all sockets in the channel.
        targets = self._targets(namespace, target or channel)
        return self._apply(targets, lambda one: one.unsubscribe(channel))

    def _disconnect(self, namespace: Any, close: Any, target: Any = None) -> int:
        targets = self._targets(namespace, target)
        if close:  # close the client, with its sockets in other namespaces
            clients = {id(socket.request) for socket in targets}
            targets = [socket for socket in sockets() if id(socket.request) in clients]
        return self._apply(targets, lambda one: one.disconnect())

    # -- helpers

    def _targets(self, namespace: Any, target: Any) -> list[Socket]:
        """Return the sockets of this process that match a session id or channel, or all sockets."""
        if namespace not in self._namespaces:
            raise _CommandError(f"unknown namespace {namespace!r}")
        candidates = sockets(namespace)
        if target is None or target == "":
            return candidates
        if not isinstance(target, str):
            raise _CommandError("a session id or channel must be a string")
        one = [socket for socket in candidates if socket.session_id == target]
        return one or [socket for socket in candidates if target in socket.channels]

    def _apply(self, targets: list[Socket], change: Callable[[Socket], Any]) -> int:
        refused: list[str] = []
        count = 0
        for number, socket in enumerate(targets, 1):
            if not number % _BATCH_SIZE:
                gevent.sleep(0)
            try:
                count += change(socket) is not False
            except (Refused, ChannelError) as error:  # another socket may be accepted
                refused.append(str(error) or "refused")
        if refused:
            raise _CommandError(
                f"{len(refused)} of {len(targets)} sockets rejected the change: {refused[-1]}"
            )
        return count
