"""The open sockets, by namespace; how one enters, and how its end is told."""

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

__all__ = ["ForkedClients", "Limits", "Namespace", "SocketRegistry", "registry", "send_sent_signal"]

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
    #: Bytes of a message to many, which may have to travel to other processes.
    broadcast_bytes: int = 4 * 1024 * 1024


class Namespace:
    """One namespace's sockets and channels."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Sockets that can be sent to, by public session id.
        self.sockets: dict[str, Socket] = {}
        self.channels: Channels[Socket] = Channels()

    def deliver(self, message: Message, sockets: Collection[Socket], skip: Socket | None) -> None:
        """Send one encoded message to many; nothing here waits, so nobody comes or goes meanwhile."""
        outboxes = [socket.outbox for socket in sockets if socket is not skip]
        if outboxes:
            outboxes[0].flusher.broadcast(message, outboxes)
            if signals.sent.receivers:
                send_sent_signal(self.name, message, [one for one in sockets if one is not skip])

    def broadcast(self, message: Message, skip: Socket | None = None, local: bool = False) -> None:
        """Send one encoded message to everybody: here and, unless only `local`, elsewhere."""
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
        """Send one encoded message to the members of channels, one copy each.

        To those here and, unless only `local`, elsewhere. `also` gets it whether it is one of them or
        not.
        """
        recipients = self._members(names)
        if also is not None:
            recipients = {**dict.fromkeys(recipients), also: None}
        self.deliver(message, recipients, skip)
        if registry.backplane is not None and not local:
            topics = (Topic.channel(self.name, name) for name in names)
            registry.backplane.publish(message, *topics, skip=_id_of(skip))

    def receive(self, packet: Packet, envelope: Envelope, channel: str | None) -> None:
        """Deliver what another process sent to a channel, or to everybody."""
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

    # -- who is in which channel

    def join(self, socket: Socket, channel: str, may_join: Callable[[], bool]) -> bool:
        """Put a socket into a channel, if `may_join` still allows it; False if nothing changed.

        May wait, see `Clients.enter`.
        """
        return registry.enter(
            (Topic.channel(self.name, channel),),
            lambda: may_join() and self.channels.add(socket, channel),
        )

    def leave(self, socket: Socket, channel: str) -> bool:
        """Take a socket out of a channel; False if it is not there."""
        left = self.channels.remove(socket, channel)
        if left and registry.backplane is not None:
            registry.backplane.unsubscribe(Topic.channel(self.name, channel))
        return left


class SocketRegistry:
    """Every open socket of the process, whichever server it came in by."""

    def __init__(self) -> None:
        self._namespaces: dict[str, Namespace] = {}
        self._thread: int | None = None
        self._loop: Any = None
        #: Limits for messages that come from no socket.
        self.limits = Limits()
        #: The way to other processes; None if there are none.
        self.backplane: Backplane | None = None
        #: In a process forked from one that serves: what belongs to the parent.
        self._parents: list[Any] = []

    # -- where they live

    def attach(self, limits: Limits) -> None:
        """Let this thread's hub be the one that the sockets live on."""
        self.__class__ = SocketRegistry
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
    def on_hub_thread(self) -> bool:
        """Whether this is the thread that the sockets live in."""
        return self._thread is None or _get_ident() == self._thread

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Call `function`, which must not wait: at once, or from another thread soon."""
        if self.on_hub_thread:
            function(*args)
        else:
            self._loop.run_callback_threadsafe(function, *args)

    def run_on_hub(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function`, which may wait, and return or raise what it does; from any thread."""
        if self.on_hub_thread:
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

        self._loop.run_callback_threadsafe(gevent.spawn, run)
        done.acquire()
        if result[1] is not None:
            raise result[1]
        return result[0]

    def abandon(self) -> None:
        """Forget all sockets without a signal, in a forked process: they are its parent's."""
        self._parents += [self._namespaces, self.backplane]
        self._namespaces = {}
        self.backplane = None
        self._thread = self._loop = None
        self.__class__ = ForkedClients

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

    def add(self, socket: Socket, accept: Callable[[], bool]) -> bool:
        """Let a socket in, if `accept` does; then it can be sent to, from other processes too.

        May wait, see `enter`.
        """
        return self.enter(_topics_of(socket), lambda: accept() and self._add(socket))

    def enter(self, topics: Collection[Topic], change: Callable[[], bool]) -> bool:
        """Make a change after which somebody here is to hear of topics; returns what it returns.

        Where there are other processes this waits until what they send there comes here: a second at
        most, and not at all while they cannot be reached. Nothing is heard of them if nothing changed.
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
        """A socket cannot be sent to any more; its end is still to be told."""
        space = socket._namespace
        known = space.sockets.pop(socket.session_id, None)
        space.channels.hide(socket)
        if known is not None and self.backplane is not None:
            held = space.channels.held(socket)
            channels = [Topic.channel(space.name, channel) for channel in held]
            self.backplane.unsubscribe(*_topics_of(socket), *channels)

    def receive(self, topic: Topic, envelope: Envelope) -> None:
        """Deliver what another process sent."""
        packet = envelope.packet
        if packet is None:
            return
        if topic.namespace:
            space = self.get(topic.namespace)
            if space is not None:
                space.receive(packet, envelope, topic.name or None)
        else:
            socket = self.find(topic.name)
            if socket is not None:
                socket._namespace.deliver(packet.message(socket._namespace.name), (socket,), None)

    def emit_disconnect(self, socket: Socket, reason: str) -> None:
        """Tell the end of a socket that was withdrawn, in its order.

        `disconnect`, then `unsubscribe` for each channel, then `finish`. The channels are held
        until after that: patterns still match, and a handler can still tell the channel.
        """
        channels = socket._namespace.channels
        signals.emit(signals.disconnect, socket, reason=reason)
        for channel in list(channels.held(socket)):
            signals.emit(signals.unsubscribe, socket, channel=channel, reason=reason)
        signals.emit(signals.finish, socket, reason=reason)
        channels.forget(socket)


class ForkedClients(SocketRegistry):
    """The clients of a forked process, until it starts a server of its own: none.

    A class of its own, so that the check costs nothing in a process that serves.
    """

    def soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Raise `WrongContext`: `function` is about a socket of the parent's."""
        raise WrongContext(_FORKED)

    def wait_for(self, function: Callable[..., Any], *args: Any) -> Any:
        """Raise `WrongContext` likewise."""
        raise WrongContext(_FORKED)


_FORKED = (
    "this process was forked from a server: sockets and plugins belong to the server, and cannot be "
    "used here. Return the result to the server, or set SOCKETIO_BACKPLANE and call broadcast(), "
    "broadcast_channel() or send()"
)


def send_sent_signal(namespace: str, message: Message, sockets: list[Socket]) -> None:
    """Send the signal `sent`; for those who checked that it has receivers."""
    read = partial(read_event, namespace, message)
    signals.send_robust(signals.sent, namespace, sockets=sockets, size=message.size, read=read)


def _id_of(socket: Socket | None) -> str | None:
    return None if socket is None else socket.session_id


def _topics_of(socket: Socket) -> tuple[Topic, Topic]:
    return Topic.namespace_topic(socket._namespace.name), Topic.session(socket.session_id)


#: The process's own.
registry = SocketRegistry()
