"""The open sockets, by namespace; how one enters, and how its end is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey

from webpy_socketio import signals
from webpy_socketio.channels import Channels
from webpy_socketio.engine.packets import Message
from webpy_socketio.exceptions import ConfigurationError

if TYPE_CHECKING:
    from webpy_socketio.socket import Socket

__all__ = ["Clients", "Limits", "Namespace", "clients"]

# The thread's own number: the patched function tells greenlets apart, not threads.
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_allocate_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")


@dataclass(frozen=True)
class Limits:
    """What one socket may do."""

    #: Channels it may hold.
    max_channels: int = 128
    #: Characters of a channel's name.
    max_channel_length: int = 255
    #: Bytes that an outbox can take; what is larger could reach nobody.
    outbox_bytes: int = 4 * 1024 * 1024


class Namespace:
    """One namespace's sockets and channels."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Sockets that can be sent to, by public session id.
        self.sockets: dict[str, Socket] = {}
        self.channels: Channels[Socket] = Channels()

    def deliver(self, message: Message, sockets: Iterable[Socket], skip: Socket | None) -> None:
        """Send one encoded message to many; nothing here waits, so nobody comes or goes meanwhile."""
        outboxes = [socket.outbox for socket in sockets if socket is not skip]
        if outboxes:
            outboxes[0].flusher.broadcast(message, outboxes)

    def deliver_to(self, message: Message, channel: str | None) -> None:
        """Send one encoded message to a channel, or to everybody."""
        sockets = self.sockets.values() if channel is None else self.channels.members(channel)
        self.deliver(message, sockets, None)


class Clients:
    """Every open socket of the process, whichever server it came in by."""

    def __init__(self) -> None:
        self._namespaces: dict[str, Namespace] = {}
        self._thread: int | None = None
        self._loop: Any = None
        #: Limits for messages that come from no socket.
        self.limits = Limits()

    # -- where they live

    def attach(self, limits: Limits) -> None:
        """Let this thread's hub be the one that the sockets live on."""
        here = _get_ident()
        if self._thread not in (None, here) and any(
            namespace.sockets for namespace in self._namespaces.values()
        ):
            raise ConfigurationError(
                "a server is running in another thread already; run them in the same one"
            )
        self._thread = here
        self._loop = gevent.get_hub().loop
        self.limits = limits

    @property
    def here(self) -> bool:
        """Whether this is the thread that the sockets live in."""
        return self._thread is None or _get_ident() == self._thread

    def soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Call `function`, which must not wait: at once, or from another thread soon."""
        if self.here:
            function(*args)
        else:
            self._loop.run_callback_threadsafe(function, *args)

    def wait_for(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function`, which may wait, and return or raise what it does; from any thread."""
        if self.here:
            return function(*args)
        done = _allocate_lock()
        done.acquire()
        result: list[Any] = [None, None]

        def run() -> None:
            try:
                result[0] = function(*args)
            except BaseException as exception:  # noqa: BLE001 - raised again where it is awaited
                result[1] = exception
            finally:
                done.release()

        self._loop.run_callback_threadsafe(gevent.spawn_raw, run)
        done.acquire()
        if result[1] is not None:
            raise result[1]
        return result[0]

    # -- who they are

    def get(self, name: str) -> Namespace | None:
        """The namespace of that name, if any socket was ever in it."""
        return self._namespaces.get(name)

    def namespace(self, name: str) -> Namespace:
        """The namespace of that name; made if it is new."""
        namespace = self._namespaces.get(name)
        if namespace is None:
            namespace = self._namespaces[name] = Namespace(name)
        return namespace

    def namespaces(self) -> list[Namespace]:
        """Every namespace that a socket was ever in."""
        return list(self._namespaces.values())

    def find(self, session_id: str) -> Socket | None:
        """The socket with that public session id, in whichever namespace."""
        for namespace in self.namespaces():  # another thread's iterator would not bear a new one
            socket = namespace.sockets.get(session_id)
            if socket is not None:
                return socket
        return None

    def add(self, socket: Socket) -> None:
        """A socket is established."""
        socket.space.sockets[socket.session_id] = socket

    def withdraw(self, socket: Socket) -> None:
        """A socket cannot be sent to any more; its end is still to be told."""
        socket.space.sockets.pop(socket.session_id, None)
        socket.space.channels.withdraw(socket)

    def end(self, socket: Socket, reason: str) -> None:
        """Tell the end of a socket that was withdrawn, in its order.

        `disconnect`, then `unsubscribe` for each channel, then `finish`. The channels are held
        until after that: patterns still match, and a handler can still tell the channel.
        """
        channels = socket.space.channels
        signals.emit(signals.disconnect, socket, reason=reason)
        for channel in list(channels.held(socket)):
            signals.emit(signals.unsubscribe, socket, channel=channel, reason=reason)
        signals.emit(signals.finish, socket, reason=reason)
        channels.forget(socket)


#: The process's own.
clients = Clients()
