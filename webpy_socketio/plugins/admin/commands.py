"""Commands of the Admin UI: emit, join, leave and disconnect."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gevent

from webpy_socketio import ChannelError, NoSocket, Refused, Runtime, Socket, SocketIOError

__all__ = ["Commands"]

logger = logging.getLogger("webpy_socketio.admin")

#: Sockets processed before other greenlets run.
_BATCH_SIZE = 64

#: Supported features of the UI; those with an M apply to all sockets of a channel.
_COMMANDS = ("EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT")


class _CommandError(Exception):
    """A command that cannot be executed; the text contains the reason."""


class _UnknownNamespace(_CommandError):
    """No socket of this process is in the namespace; one of another process may be."""


class OtherProcesses(Protocol):
    """The other processes of the cluster."""

    def command(self, mode: str, name: str, args: Sequence[Any]) -> tuple[int, list[str]]:
        """Execute a command there, and return the number of sockets, and errors."""


#: What another process does with a command: see `Commands.execute_for`.
BY_ID, ALL, COUNT = "by id", "all", "count"


class Commands:
    """Executes the commands of one server's admins."""

    def __init__(self, namespaces: Sequence[str], readonly: bool, runtime: Runtime) -> None:
        self._namespaces = namespaces
        self._runtime = runtime
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

    def execute(
        self, admin: str, name: str, args: list[Any], others: OtherProcesses | None = None
    ) -> dict[str, Any]:
        """Execute a command in all processes, and return the acknowledgement; may block in gates.

        The UI does not request acknowledgements, so errors are logged as well.

        Args:
            admin: Description of the admin, for the log.
            name: Name of the command.
            args: Its arguments, as sent by the UI.
            others: The other processes of the cluster; None without any.
        """
        errors: list[str] = []
        try:
            command = self._command(name, args)
            if others is None:
                count = command(*args)
            else:
                count, errors = self._execute_everywhere(command, name, args, others)
        except (_CommandError, SocketIOError) as error:
            count, errors = 0, [str(error)]
        if errors:
            reason = "; ".join(errors)  # a log record must not keep the frames of a traceback
            logger.warning("%s: command %.200r failed: %s", admin, [name, *args[:3]], reason)
            return {"ok": False, "error": reason}
        logger.info("%s: %.200r: %d sockets", admin, [name, *args[:3]], count)
        return {"ok": True, "sockets": count}

    def execute_for(self, mode: str, name: str, args: list[Any]) -> dict[str, Any]:
        """Execute a command of an admin of another process, and return the answer.

        Args:
            mode: ``BY_ID`` for the socket whose session id is the target, ``ALL`` for all sockets
                that match, ``COUNT`` to return only their number.
            name: Name of the command.
            args: Its arguments.
        """
        try:
            command = self._command(name, args)
            namespace, target = _target_of(name, args)
            if mode == COUNT:
                return {"sockets": len(self._targets(namespace, target))}
            if mode == BY_ID and self._find(namespace, target) is None:
                return {"sockets": 0}
            return {"sockets": command(*args)}
        except _UnknownNamespace:
            return {"sockets": 0}
        except (_CommandError, SocketIOError) as error:
            return {"sockets": 0, "error": str(error)}

    def _execute_everywhere(
        self,
        command: Callable[..., int],
        name: str,
        args: list[Any],
        others: OtherProcesses,
    ) -> tuple[int, list[str]]:
        namespace, target = _target_of(name, args)
        if isinstance(target, str) and target:
            if self._find(namespace, target) is not None:
                return command(*args), []
            # A session id has precedence over a channel of that name in any process.
            count, errors = others.command(BY_ID, name, args)
            if count or errors:
                return count, errors
        unknown: list[str] = []
        count = 0
        try:
            count = command(*args)
        except _UnknownNamespace as error:
            unknown = [str(error)]
        elsewhere, errors = others.command(COUNT if name == "emit" else ALL, name, args)
        if unknown and not elsewhere:
            return 0, unknown
        return count + elsewhere, errors

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
        one = self._find(namespace, target)
        if one is not None:
            one.emit(event, *args)
            return 1
        self._check_types(namespace, target)
        # In all processes.
        try:
            self._runtime.emit(event, *args, channel=target or None, namespace=namespace)
        except NoSocket:
            self._targets(namespace, target)  # raises if the namespace is unknown
            raise
        try:
            return len(self._targets(namespace, target))
        except _UnknownNamespace:  # its sockets are in other processes
            return 0

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
            targets = [
                socket for socket in self._runtime.sockets() if id(socket.request) in clients
            ]
        return self._apply(targets, lambda one: one.disconnect())

    # -- helpers

    def _targets(self, namespace: Any, target: Any) -> list[Socket]:
        """Return the sockets of this process that match a session id or channel, or all sockets."""
        self._check_types(namespace, target)
        candidates = self._runtime.sockets(namespace)
        if not candidates and namespace not in self._namespaces:
            raise _UnknownNamespace(f"unknown namespace {namespace!r}")
        if target is None or target == "":
            return candidates
        one = self._find(namespace, target)
        return (
            [one]
            if one is not None
            else [socket for socket in candidates if target in socket.channels]
        )

    @staticmethod
    def _check_types(namespace: Any, target: Any) -> None:
        if not isinstance(namespace, str):
            raise _CommandError(f"unknown namespace {namespace!r}")
        if target is not None and not isinstance(target, str):
            raise _CommandError("a session id or channel must be a string")

    def _find(self, namespace: Any, target: Any) -> Socket | None:
        """Return the socket of this process with a session id."""
        if not isinstance(namespace, str) or not isinstance(target, str):
            return None
        for socket in self._runtime.sockets(namespace):
            if socket.session_id == target:
                return socket
        return None

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


def _target_of(name: str, args: list[Any]) -> tuple[Any, Any]:
    """Return the namespace of a command, and the session id or channel that it concerns."""
    if name == "emit":
        return args[0], args[1]
    return args[0], args[2] if len(args) > 2 else None
