"""What the UI can do: emit, join, leave, disconnect; if it may."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gevent

from webpy_socketio import ChannelError, Refused, Socket, SocketIOError, emit, sockets

__all__ = ["Commands"]

logger = logging.getLogger("webpy_socketio.admin")

#: Sockets that are changed before others have their turn.
_BATCH_SIZE = 64

#: What of the UI's is offered: of single sockets, and of all in a channel.
_COMMANDS = ("EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT")


class _Mistake(Exception):
    """A command that cannot be carried out, and why."""


class Commands:
    """Takes the commands of one server's admins."""

    def __init__(self, namespaces: Sequence[str], readonly: bool) -> None:
        self._names = namespaces
        self._readonly = readonly
        self._commands: dict[str, Callable[..., int]] = {
            "emit": self._emit,
            "join": self._join,
            "leave": self._leave,
            "_disconnect": self._disconnect,
        }

    @property
    def features(self) -> list[str]:
        """What the UI is told that it can ask for."""
        return [] if self._readonly else list(_COMMANDS)

    def perform(self, who: str, name: str, args: list[Any]) -> dict[str, Any]:
        """Do what an admin asks; may wait, for gates. Returns the acknowledgement.

        (The UI asks for none: what went wrong is in the log as well.)
        """
        try:
            count = self._command(name, args)(*args)
        except (_Mistake, SocketIOError) as error:
            why = str(error)  # whoever keeps log records keeps no frames with it
            logger.warning("%s: %.200r was not done: %s", who, [name, *args[:3]], why)
            return {"ok": False, "error": why}
        logger.info("%s: %.200r: %d sockets", who, [name, *args[:3]], count)
        return {"ok": True, "sockets": count}

    def _command(self, name: str, args: list[Any]) -> Callable[..., int]:
        command = self._commands.get(name)
        if command is None:
            raise _Mistake("there is no such command")
        if self._readonly:
            raise _Mistake("SOCKETIO_ADMIN_READONLY is True, and nothing can be changed")
        try:
            inspect.signature(command).bind(*args)
        except TypeError as error:
            raise _Mistake(f"the command has other arguments: {error}") from None
        return command

    # -- the commands, as the reference has them: each returns how many sockets it concerned

    def _emit(self, namespace: Any, where: Any, event: Any, *args: Any) -> int:
        targets = self._targets(namespace, where)
        if isinstance(where, str) and [socket.session_id for socket in targets] == [where]:
            targets[0].emit(event, *args)
            return 1
        emit(event, *args, channel=where or None, namespace=namespace)  # in all processes
        return len(targets)

    def _join(self, namespace: Any, channel: Any, where: Any = None) -> int:
        return self._each(self._targets(namespace, where), lambda one: one.subscribe(channel))

    def _leave(self, namespace: Any, channel: Any, where: Any = None) -> int:
        # Without telling who: those who are in it.
        targets = self._targets(namespace, where or channel)
        return self._each(targets, lambda one: one.unsubscribe(channel))

    def _disconnect(self, namespace: Any, close: Any, where: Any = None) -> int:
        targets = self._targets(namespace, where)
        if close:  # the client, with its sockets in other namespaces
            clients = {id(socket.request) for socket in targets}
            targets = [socket for socket in sockets() if id(socket.request) in clients]
        return self._each(targets, lambda one: one.disconnect())

    # -- how

    def _targets(self, namespace: Any, where: Any) -> list[Socket]:
        """One socket by its id, the members of a channel, or everybody; of this process."""
        if namespace not in self._names:
            raise _Mistake(f"there is no namespace {namespace!r}")
        everybody = sockets(namespace)
        if where is None or where == "":
            return everybody
        if not isinstance(where, str):
            raise _Mistake("a session id or a channel is text")
        one = [socket for socket in everybody if socket.session_id == where]
        return one or [socket for socket in everybody if where in socket.channels]

    def _each(self, targets: list[Socket], change: Callable[[Socket], Any]) -> int:
        refused: list[str] = []
        count = 0
        for number, socket in enumerate(targets, 1):
            if not number % _BATCH_SIZE:
                gevent.sleep(0)
            try:
                count += change(socket) is not False
            except (Refused, ChannelError) as error:  # which may let the next one pass
                refused.append(str(error) or "refused")
        if refused:
            raise _Mistake(f"{len(refused)} of {len(targets)} may not: {refused[-1]}")
        return count
