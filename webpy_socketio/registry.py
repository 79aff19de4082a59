"""The open sockets and namespaces of this process."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey

from webpy_socketio import signals
from webpy_socketio.backplane import Backplane, Topic
from webpy_socketio.channels import Channels
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import read_event
from webpy_socketio.exceptions import ConfigurationError, WrongContext

if TYPE_CHECKING:
    from webpy_socketio.backplane.envelope import Envelope, Packet
    from webpy_socketio.socket import Socket

__all__ = [
    "ForkedRegistry",
    "Limits",
    "Namespace",
    "SocketRegistry",
    "registry",
    "send_sent_signal",
]

# Identifies threads; the function patched by gevent identifies greenlets.
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_allocate_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")


@dataclass(frozen=True)
class Limits:
    """Limits of one socket."""

    #: Maximum number of channels of a socket.
    max_channels: int = 128
    #: Maximum length of a channel name, in characters.
    max_channel_length: int = 255
    #: Maximum size of a message in bytes, that of an outbox.
    outbox_bytes: int = 4 * 1024 * 1024
    #: Maximum size of a broadcast in bytes; the backplane may have a lower limit.
    broadcast_bytes: int = 4 * 1024 * 1024


class Namespace:
    """The sockets and channels of one namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Sockets that accept messages, by public session id.
        self.sockets: dict[str, Socket] = {}
        self.channels: Channels[Socket] = Channels()

    def deliver(self, message: Message, sockets: Collection[Socket], skip: Socket | None) -> None:
        """Send an encoded message to sockets of this process.

        Does not wait, so `sockets` cannot change in the meantime.
        """
        outboxes = [socket.outbox for socket in sockets if socket is not skip]
        if outboxes:
            outboxes[0].flusher.broadcast(message, outboxes)
            if signals.sent.receivers:
                send_sent_signal(
                    self.name, message, [socket for socket in sockets if socket is not skip]
                )

    def broadcast(self, message: Message, skip: Socket | None = None, local: bool = False) -> None:
        """Send an encoded message to all sockets, in other processes too unless `local`."""
        self.deliver(message, self.sockets.values(), skip)
        if registry.backplane is not None and not local:
            registry.backplane.publish(message, Topic.namespace_topic(self.name), skip=_id_of(skip))

    def broadcast_channels(
        self,
        message: Message,
        names: Collection[str],
        skip: Socket | None = None,
        also: Socket | None = None,
        local: bool = False,
    ) -> None:
        """Send an encoded message to the members of channels, one copy to each socket.

        Members in other processes are included unless `local`. `also` receives the message whether
        it is a member or not.
        """
        recipients = self._members(names)
        if also is not None:
            recipients = {**dict.fromkeys(recipients), also: None}
        self.deliver(message, recipients, skip)
        if registry.backplane is not None and not local:
            topics = (Topic.channel(self.name, name) for name in names)
            registry.backplane.publish(message, *topics, skip=_id_of(skip))

    def receive(self, packet: Packet, envelope: Envelope, channel: str | None) -> None:
        """Deliver a message of another process to a channel, or to all sockets without one."""
        skip = None if envelope.skip is None else self.sockets.get(envelope.skip)
        recipients: Collection[Socket] = self.sockets.values()
        if channel is not None:
            recipients = self._members(envelope.channels or (channel,))
        if recipients:
            self.deliver(packet.message(self.name), recipients, skip)

    def _members(self, names: Collection[str]) -> Collection[Socket]:
        if len(names) == 1:
            (name,) = names
            return self.channels.members(name)
        recipients: dict[Socket, None] = {}
        for name in names:
            recipients.update(dict.fromkeys(self.channels.members(name)))
        return recipients

    # -- membership of channels

    def join(self, socket: Socket, channel: str, may_join: Callable[[], bool]) -> bool:
        """Add a socket to a channel if `may_join` allows it; return whether anything changed.

        May wait, see `SocketRegistry.change_subscribed`.
        """
        return registry.change_subscribed(
            (Topic.channel(self.name, channel),),
            lambda: may_join() and self.channels.add(socket, channel),
        )

    def leave(self, socket: Socket, channel: str) -> bool:
        """Remove a socket from a channel; return False if it is not a member."""
        left = self.channels.remove(socket, channel)
        if left and registry.backplane is not None:
            registry.backplane.unsubscribe(Topic.channel(self.name, channel))
        return left


class SocketRegistry:
    """All open sockets of the process, whichever server accepted them."""

    def __init__(self) -> None:
        self._namespaces: dict[str, Namespace] = {}
        self._thread: int | None = None
        self._loop: Any = None
        #: Limits of messages that are not sent by a socket.
        self.limits = Limits()
        #: The backplane to other processes, or None.
        self.backplane: Backplane | None = None
        #: In a forked process: objects of the parent, kept so that their destructors do not run.
        self._inherited: list[Any] = []

    # -- threads

    def attach(self, limits: Limits) -> None:
        """Use the hub of the current thread for all sockets.

        Raises:
            ConfigurationError: A server with open sockets runs in another thread.
        """
        self.__class__ = SocketRegistry
        current = _get_ident()
        if self._thread not in (None, current) and any(
            namespace.sockets for namespace in self._namespaces.values()
        ):
            raise ConfigurationError(
                "a server is running in another thread already; run all servers in one thread"
            )
        self._thread = current
        self._loop = gevent.get_hub().loop
        self.limits = limits

    @property
    def on_hub_thread(self) -> bool:
        """Whether the current thread is the one of the sockets."""
        return self._thread is None or _get_ident() == self._thread

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Call `function`, which must not wait: at once, or soon if called from another thread."""
        if self.on_hub_thread:
            function(*args)
        else:
            self._loop.run_callback_threadsafe(function, *args)

    def run_on_hub(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function`, which may wait, in the thread of the sockets; return its result."""
        if self.on_hub_thread:
            return function(*args)
        done = _allocate_lock()
        done.acquire()
        result: list[Any] = [None, None]

        def run() -> None:
            try:
                result[0] = function(*args)
            except BaseException as exception:  # noqa: BLE001 - raised again below
                result[1] = exception
            finally:
                done.release()

        self._loop.run_callback_threadsafe(gevent.spawn, run)
        done.acquire()
        if result[1] is not None:
            raise result[1]
        return result[0]

    def reset_after_fork(self) -> None:
        """Discard all sockets without signals in a forked process; they belong to the parent."""
        self._inherited += [self._namespaces, self.backplane]
        self._namespaces = {}
        self.backplane = None
        self._thread = self._loop = None
        self.__class__ = ForkedRegistry

    # -- sockets and namespaces

    def get(self, name: str) -> Namespace | None:
        """Return a namespace, or None if no socket has ever connected to it."""
        return self._namespaces.get(name)

    def namespace(self, name: str) -> Namespace:
        """Return a namespace; create it on first use."""
        namespace = self._namespaces.get(name)
        if namespace is None:
            namespace = self._namespaces[name] = Namespace(name)
        return namespace

    def namespaces(self) -> list[Namespace]:
        """Return all namespaces that a socket has ever connected to."""
        return list(self._namespaces.values())

    def find(self, session_id: str) -> Socket | None:
        """Return the socket with a public session id in any namespace, or None."""
        for namespace in self.namespaces():  # a copy: another thread may add one
            socket = namespace.sockets.get(session_id)
            if socket is not None:
                return socket
        return None

    def add(self, socket: Socket, accept: Callable[[], bool]) -> bool:
        """Add a socket if `accept` returns True; messages of all processes can then be sent to it.

        May wait, see `change_subscribed`.
        """
        return self.change_subscribed(_topics_of(socket), lambda: accept() and self._add(socket))

    def change_subscribed(self, topics: Collection[Topic], change: Callable[[], bool]) -> bool:
        """Subscribe to topics of the backplane, then call `change` and return its result.

        With a backplane, this waits until messages of other processes arrive here: one second at
        most, and not at all while Redis is unreachable. The subscription is undone if `change`
        returns False.
        """
        backplane = self.backplane
        if backplane is None:
            return change()
        backplane.subscribe(*topics)
        changed = False
        try:
            backplane.wait(*topics)
            changed = change()
        finally:
            if not changed:
                backplane.unsubscribe(*topics)
        return changed

    def _add(self, socket: Socket) -> bool:
        socket._namespace.sockets[socket.session_id] = socket
        return True

    def remove(self, socket: Socket) -> None:
        """Stop delivering to a socket; call `emit_disconnect` afterwards."""
        namespace = socket._namespace
        known = namespace.sockets.pop(socket.session_id, None)
        namespace.channels.remove_member(socket)
        if known is not None and self.backplane is not None:
            joined = namespace.channels.channels_of(socket)
            channels = [Topic.channel(namespace.name, channel) for channel in joined]
            self.backplane.unsubscribe(*_topics_of(socket), *channels)

    def receive(self, topic: Topic, envelope: Envelope) -> None:
        """Deliver a message of another process."""
        packet = envelope.packet
        if packet is None:
            return
        if topic.namespace:
            namespace = self.get(topic.namespace)
            if namespace is not None:
                namespace.receive(packet, envelope, topic.name or None)
        else:
            socket = self.find(topic.name)
            if socket is not None:
                socket._namespace.deliver(packet.message(socket._namespace.name), (socket,), None)

    def emit_disconnect(self, socket: Socket, reason: str) -> None:
        """Send the final signals of a removed socket.

        `disconnect`, then `unsubscribe` for each channel, then `finish`. The socket keeps its list
        of channels until the end, so that patterns match and handlers can read it.
        """
        channels = socket._namespace.channels
        signals.emit(signals.disconnect, socket, reason=reason)
        for channel in list(channels.channels_of(socket)):
            signals.emit(signals.unsubscribe, socket, channel=channel, reason=reason)
        signals.emit(signals.finish, socket, reason=reason)
        channels.forget_member(socket)


class ForkedRegistry(SocketRegistry):
    """The registry of a forked process, which has no sockets until it starts a server.

    A subclass, so that processes with a server do not pay for the check.
    """

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Raise `WrongContext`: `function` uses a socket of the parent process."""
        raise WrongContext(_FORKED_ERROR)

    def run_on_hub(self, function: Callable[..., Any], *args: Any) -> Any:
        """Raise `WrongContext`: `function` uses a socket of the parent process."""
        raise WrongContext(_FORKED_ERROR)


_FORKED_ERROR = (
    "this process was forked from a server: sockets and plugins belong to the server, and cannot "
    "be used here. Return the result to the server, or set SOCKETIO_BACKPLANE and call "
    "broadcast(), broadcast_channel() or send()"
)


def send_sent_signal(namespace: str, message: Message, sockets: list[Socket]) -> None:
    """Send the signal `sent`; call only if it has receivers."""
    read = partial(read_event, namespace, message)
    signals.send_robust(signals.sent, namespace, sockets=sockets, size=message.size, read=read)


def _id_of(socket: Socket | None) -> str | None:
    return None if socket is None else socket.session_id


def _topics_of(socket: Socket) -> tuple[Topic, Topic]:
    return Topic.namespace_topic(socket._namespace.name), Topic.session(socket.session_id)


#: The registry of this process.
registry = SocketRegistry()
