"""The open sockets and namespaces of this process."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import gevent
from gevent import monkey

from webpy_socketio.backplane import Backplane, Topic
from webpy_socketio.backplane.envelope import Envelope, Packet
from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.topics import CHANNEL, NODE, SERVERS, SESSION
from webpy_socketio.bus.signals import Signals, SignalSender, send_robust
from webpy_socketio.channels import Channels
from webpy_socketio.engine.io.outbox import Outbox
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio import packets
from webpy_socketio.engine.socketio.packets import event_body
from webpy_socketio.engine.socketio.parser import Parser, as_json, read_event
from webpy_socketio.exceptions import ConfigurationError, WrongContext
from webpy_socketio.publication import Publication

__all__ = [
    "ForkedRegistry",
    "Limits",
    "Member",
    "Namespace",
    "SocketRegistry",
    "filter_of",
    "topics_of",
    "topics_of_socket",
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


class Member(SignalSender, Protocol):
    """The part of a socket that the registry uses."""

    outbox: Outbox

    @property
    def session_id(self) -> str:
        """Public id of the connection."""

    @property
    def connected(self) -> bool:
        """Whether the client is connected."""


M = TypeVar("M", bound=Member)


class Namespace(Generic[M]):
    """The sockets and channels of one namespace.

    Sockets refer to it from the connecting gate to the end of the stage ``finish``. There is one
    object for each name, see `SocketRegistry.acquire`.
    """

    def __init__(self, name: str, registry: SocketRegistry[M]) -> None:
        self.name = name
        self.registry = registry
        #: Sockets that accept messages, by public session id.
        self.sockets: dict[str, M] = {}
        #: The members of channels, with their outboxes.
        self.channels: Channels[M, Outbox] = Channels()
        #: Number of sockets that are connecting, connected, or in their last stages.
        self.users = 0
        #: Sockets of each `Feed`, by the name under which they are excluded.
        self.feeds: dict[str, dict[M, None]] = {}
        self._sent = registry.signals.sent
        self._published = registry.signals.published

    def send(
        self,
        message: Message,
        channels: Collection[str] | None = None,
        skip: M | None = None,
        also: M | None = None,
        local: bool = False,
        excluded: RecipientFilter = NO_FILTER,
    ) -> None:
        """Send an encoded message to sockets, one copy to each; safe to call from any thread.

        Sockets in other processes are included unless `local`.

        Args:
            message: The message; it is shared by all recipients.
            channels: Recipients are the members of these channels. None selects all sockets.
            skip: Socket that does not receive the message; costs less than `excluded`.
            also: Socket that receives the message whether it is a member of `channels` or not.
            local: Send to the sockets of this process only.
            excluded: Sockets that do not receive the message; not together with `skip`.
        """
        registry = self.registry
        if not registry.on_hub_thread:
            registry.call_soon(self.send, message, channels, skip, also, local, excluded)
            return
        if channels and self._published.receivers and not local:
            skip, excluded = self._announce(message, channels, skip, excluded)
        # Before the delivery, so that Redis has the message while the local sends still run.
        if registry.backplane is not None and not local:
            topics = topics_of(self.name, channels)
            registry.backplane.publish(message, *topics, recipients=filter_of(skip, excluded))
        self.deliver(message, self._recipients(channels, also, excluded), skip)

    def _recipients(
        self, channels: Collection[str] | None, also: M | None, excluded: RecipientFilter
    ) -> Collection[M]:
        """Return the recipients of `send` in this process, with the skipped one."""
        recipients: Collection[M] = self.sockets.values()
        if channels is not None:
            recipients = members = self.members(channels)
            if also is not None and also not in members and also.connected:
                recipients = {**members, also: also.outbox}
        return recipients if excluded is NO_FILTER else self._without(recipients, excluded)

    def _announce(
        self,
        message: Message,
        channels: Collection[str],
        skip: M | None,
        excluded: RecipientFilter,
    ) -> tuple[M | None, RecipientFilter]:
        """Send the signal `published`; return `skip` and `excluded` as its receivers change them.

        Call only if the signal has receivers.
        """
        known = filter_of(skip, excluded)
        changed = self.registry.announce(message, self.name, channels, known)
        return (skip, excluded) if changed is known else (None, changed)

    def deliver(self, message: Message, sockets: Collection[M], skip: M | None = None) -> None:
        """Send an encoded message to sockets of this process, except `skip`.

        Does not wait, so `sockets` cannot change in the meantime.
        """
        # Members of a channel come with their outboxes. Copying these takes 1 µs for 500 members;
        # reading an attribute of each takes 10 µs.
        if isinstance(sockets, dict):
            outboxes = list(sockets.values())
        else:
            outboxes = [socket.outbox for socket in sockets]
        if not outboxes or (len(outboxes) == 1 and skip in sockets):
            return
        # With the skipped one: the lists of several senders in one channel are then equal.
        outboxes[0].flusher.broadcast(message, outboxes, None if skip is None else skip.outbox)
        if self._sent.receivers:
            self.send_sent_signal(message, [socket for socket in sockets if socket is not skip])

    def send_sent_signal(self, message: Message, sockets: list[M]) -> None:
        """Send the signal `sent`; call only if it has receivers."""
        read = partial(read_event, self.name, message)
        send_robust(self._sent, self.name, sockets=sockets, size=message.size, read=read)

    def receive(self, packet: Packet, envelope: Envelope, channel: str | None) -> None:
        """Deliver a message of another process to a channel, or to all sockets without one."""
        recipients: Collection[M] = self.sockets.values()
        if channel is not None:
            recipients = self.members(envelope.channels or (channel,))
        skip = None
        if envelope.recipients.is_one_session:
            skip = self.sockets.get(envelope.recipients.session_ids[0])
        elif envelope.recipients is not NO_FILTER:
            recipients = self._without(recipients, envelope.recipients)
        if recipients:
            self.deliver(self.read_message(packet, envelope, channel), recipients, skip)

    def read_message(self, packet: Packet, envelope: Envelope, channel: str | None) -> Message:
        """Return a message of another process as it is delivered here."""
        return packet.message(self.name, self.registry.parser)

    def receive_for(self, socket: M, packet: Packet, envelope: Envelope) -> None:
        """Deliver a message of another process to one socket."""
        self.send_to(socket, packet.message(self.name, self.registry.parser), envelope.recipients)

    def send_to(self, socket: M, message: Message, excluded: RecipientFilter) -> None:
        """Send an encoded message to one socket of this process, unless a filter excludes it."""
        if not self.accepts(socket, excluded):
            return
        if excluded.volatile:
            self.deliver_volatile(socket, message)
        else:
            self.deliver_to(socket, message)

    def deliver_to(self, socket: M, message: Message) -> None:
        """Send an encoded message to one socket of this process."""
        self.deliver(message, (socket,))

    def deliver_volatile(self, socket: M, message: Message) -> None:
        """Send an encoded volatile event to one socket of this process, without unsent data."""
        self.deliver(message, (socket,))

    def select(self, channels: Collection[str] | None, excluded: RecipientFilter) -> list[M]:
        """Return the members of channels, or all sockets, without those that a filter excludes."""
        recipients = self.sockets.values() if channels is None else self.members(channels)
        return list(recipients) if excluded is NO_FILTER else self._without(recipients, excluded)

    def _without(self, recipients: Collection[M], excluded: RecipientFilter) -> list[M]:
        """Return the recipients that a filter does not exclude."""
        out: set[M | None] = {self.sockets.get(each) for each in excluded.session_ids}
        out.update(self.members(excluded.channels))
        for name in excluded.channels:
            if name in self.feeds:  # its sockets that are not subscribed receive other copies
                members = self.channels.members(name[1:])
                out.update(socket for socket in self.feeds[name] if socket in members)
        return [
            socket
            for socket in recipients
            if socket not in out and not (excluded.volatile and socket.outbox.is_congested)
        ]

    def accepts(self, socket: M, excluded: RecipientFilter) -> bool:
        """Return whether a filter does not exclude a socket."""
        return excluded is NO_FILTER or bool(self._without((socket,), excluded))

    def members(self, names: Collection[str]) -> Mapping[M, Outbox]:
        """Return the members of channels, each once, with their outboxes."""
        if len(names) == 1:
            (name,) = names
            return self.channels.members(name)
        recipients: dict[M, Outbox] = {}
        for name in names:
            recipients.update(self.channels.members(name))
        return recipients

    # -- membership of channels

    def join(self, socket: M, channel: str, may_join: Callable[[], bool]) -> bool:
        """Add a socket to a channel if `may_join` allows it; return whether anything changed.

        May wait, see `SocketRegistry.change_subscribed`.
        """
        if self.registry.backplane is None:
            return may_join() and self.channels.add(socket, channel, socket.outbox)
        return self.registry.change_subscribed(
            (Topic.channel(self.name, channel),),
            lambda: may_join() and self.channels.add(socket, channel, socket.outbox),
        )

    def leave(self, socket: M, channel: str) -> bool:
        """Remove a socket from a channel; return False if it is not a member."""
        left = self.channels.remove(socket, channel)
        if left and self.registry.backplane is not None:
            self.registry.backplane.unsubscribe(Topic.channel(self.name, channel))
        return left


class SocketRegistry(Generic[M]):
    """All open sockets of a runtime, whichever of its servers accepted them."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        #: The runtime; untyped, as its module imports this one.
        self.owner: Any = None
        self._namespaces: dict[str, Namespace[M]] = {}
        self._namespace_class: type[Namespace[M]] = Namespace
        #: Recovery of lost connections, or None; untyped, as its module imports this one.
        self.recovery: Any = None
        #: Names in SOCKETIO_NAMESPACES: these namespaces are not forgotten when they are empty.
        self.permanent: frozenset[str] = frozenset()
        #: Forgotten namespaces that a finished socket still refers to.
        self._forgotten: weakref.WeakValueDictionary[str, Namespace[M]] = (
            weakref.WeakValueDictionary()
        )
        #: The sockets of all namespaces, each with its namespace, by public session id.
        self._sockets: dict[str, tuple[Namespace[M], M]] = {}
        self._thread: int | None = None
        self._loop: Any = None
        #: Limits of messages that are not sent by a socket.
        self.limits = Limits()
        #: The parser of all servers.
        self.parser: Parser = packets
        #: The backplane to other processes, or None.
        self.backplane: Backplane | None = None
        #: Handles requests and answers of other servers; set by `ServerRequests`.
        self.receive_request: Callable[[Envelope], None] = _ignore
        #: Handles markers, for a backplane that is not ordered; set by `SessionMoves`.
        self.receive_marker: Callable[[Topic, Envelope], None] | None = None
        #: In a forked process: objects of the parent, kept so that their destructors do not run.
        self._inherited: list[Any] = []

    # -- threads

    def attach(self, limits: Limits, permanent: Iterable[str] = ()) -> None:
        """Use the hub of the current thread for all sockets.

        Args:
            limits: Limits of messages that are not sent by a socket.
            permanent: Namespaces that are kept when they are empty.

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
        self.permanent |= frozenset(permanent)

    def detach(self) -> None:
        """Forget all namespaces without sockets, after the last server has stopped."""
        self.permanent = frozenset()
        for namespace in self.namespaces():
            self._forget_unused(namespace)

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
        self._inherited += [self._namespaces, self._sockets, self.backplane, self.recovery]
        self._namespaces = {}
        self._namespace_class = Namespace
        self._sockets = {}
        self._forgotten = weakref.WeakValueDictionary()
        self.backplane = self.recovery = None
        self._thread = self._loop = None
        self.__class__ = ForkedRegistry

    # -- sockets and namespaces

    def get(self, name: str) -> Namespace[M] | None:
        """Return a namespace, or None if it does not exist; see `acquire`."""
        return self._namespaces.get(name)

    def namespace(self, name: str) -> Namespace[M]:
        """Return a namespace; create it on first use."""
        namespace = self._namespaces.get(name)
        if namespace is None:
            # While a finished socket refers to a forgotten object, the object is used again:
            # broadcasts of that socket must reach the sockets that have connected since.
            namespace = self._forgotten.pop(name, None) or self._namespace_class(name, self)
            self._namespaces[name] = namespace
        return namespace

    def use_namespaces(self, namespace_class: type[Namespace[M]]) -> None:
        """Set the class of all namespaces; there must be no sockets."""
        self._namespace_class = namespace_class
        for namespace in [*self._namespaces.values(), *self._forgotten.values()]:
            namespace.__class__ = namespace_class

    def acquire(self, name: str) -> Namespace[M]:
        """Return the namespace for a socket that is connecting; call `release` once at its end.

        Clients may choose the names. A namespace that is not permanent is therefore forgotten with
        its last socket. It cannot be forgotten while another socket is connecting.
        """
        namespace = self.namespace(name)
        namespace.users += 1
        return namespace

    def release(self, namespace: Namespace[M]) -> None:
        """Forget a namespace if its last socket was rejected or has finished."""
        namespace.users -= 1
        self._forget_unused(namespace)

    def _forget_unused(self, namespace: Namespace[M]) -> None:
        if not namespace.users and namespace.name not in self.permanent:
            self._namespaces.pop(namespace.name, None)
            self._forgotten[namespace.name] = namespace

    def namespaces(self) -> list[Namespace[M]]:
        """Return all namespaces: those with sockets, and permanent ones that have had sockets."""
        return list(self._namespaces.values())

    def send(
        self,
        message: Message,
        namespace: str,
        channels: Collection[str] | None,
        local: bool,
        excluded: RecipientFilter,
    ) -> None:
        """Send an encoded message to sockets of a namespace; see `Namespace.send`."""
        if self.recovery is not None and not self.on_hub_thread:
            self.call_soon(self.send, message, namespace, channels, local, excluded)
            return
        found = self._namespaces.get(namespace)
        if found is not None:
            skip = None
            if excluded is not NO_FILTER and excluded.is_one_session:
                skip = found.sockets.get(excluded.session_ids[0])
            if skip is not None:
                excluded = NO_FILTER
            found.send(message, channels, skip, None, local, excluded)
            return
        if local:
            return
        if channels and self.signals.published.receivers:
            excluded = self.run_on_hub(self.announce, message, namespace, channels, excluded)
        if self.backplane is not None:
            topics = topics_of(namespace, channels)
            publish = partial(self.backplane.publish, recipients=excluded)
            self.call_soon(publish, message, *topics)

    def send_to_socket(
        self, message: Message, session_id: str, local: bool, excluded: RecipientFilter
    ) -> None:
        """Send an event, encoded for the namespace ``"/"``, to one socket of any namespace."""
        if not self.on_hub_thread:
            self.call_soon(self.send_to_socket, message, session_id, local, excluded)
            return
        found = self._sockets.get(session_id)
        if found is not None:
            found[0].send_to(found[1], self._for_namespace(message, found[0].name), excluded)
        elif self.backplane is not None and not local:
            self.backplane.publish(message, Topic.session(session_id), recipients=excluded)

    def _for_namespace(self, message: Message, name: str) -> Message:
        """Return an event, encoded for the namespace ``"/"``, for a socket of another one."""
        if name == "/":
            return message
        message = as_json(message)
        packet = Packet(event_body("/", message), list(message.attachments))
        return packet.message(name, self.parser)

    def publish_and_count(
        self, message: Message, topic: Topic, excluded: RecipientFilter = NO_FILTER
    ) -> bool:
        """Send to a topic without recipients here; return whether there is a recipient now.

        With recovery. While this waits for the topic, a suspended socket may move here, whose old
        server does not receive the message any more.
        """
        backplane: Any = self.backplane
        backplane.wait_until_settled(topic)
        if topic.kind == SESSION:
            found = self._sockets.get(topic.name)
            if found is not None:
                found[0].deliver_to(found[1], self._for_namespace(message, found[0].name))
                return True
        namespace = self.get(topic.namespace)
        channels = (topic.name,) if topic.kind == CHANNEL else None
        if namespace is not None and namespace.select(channels, excluded):
            namespace.send(message, channels, local=True, excluded=excluded)
            backplane.publish(message, topic, recipients=excluded)
            return True
        return bool(backplane.publish_and_count(message, topic, excluded))

    def announce(
        self,
        message: Message,
        namespace: str,
        channels: Collection[str],
        excluded: RecipientFilter,
    ) -> RecipientFilter:
        """Send the signal `published`, and return the recipients to exclude.

        Call only if the signal has receivers.
        """
        publication = Publication(namespace, tuple(channels), message, excluded)
        send_robust(self.signals.published, namespace, publication=publication)
        return publication.excluded

    def find(self, session_id: str) -> M | None:
        """Return the socket with a public session id in any namespace, or None."""
        found = self._sockets.get(session_id)
        return None if found is None else found[1]

    def select(
        self,
        name: str,
        channels: Collection[str] | None,
        session_ids: Collection[str],
        excluded: RecipientFilter,
    ) -> list[M]:
        """Return the members of channels of a namespace, and single sockets of any namespace."""
        namespace = self.get(name)
        found = [] if namespace is None else namespace.select(channels, excluded)
        if not session_ids:
            return found
        selected = dict.fromkeys(found)
        for session_id in session_ids:
            of_id = self._sockets.get(session_id)
            if of_id is not None and of_id[0].accepts(of_id[1], excluded):
                selected[of_id[1]] = None
        return list(selected)

    def add(self, namespace: Namespace[M], socket: M, accept: Callable[[], bool]) -> bool:
        """Add a socket if `accept` returns True; messages of all processes can then be sent to it.

        May wait, see `change_subscribed`.
        """

        def add() -> bool:
            if not accept():
                return False
            self.insert(namespace, socket)
            return True

        return self.change_subscribed(topics_of_socket(namespace.name, socket.session_id), add)

    def insert(self, namespace: Namespace[M], socket: M) -> None:
        """Add a socket whose topics are subscribed."""
        namespace.sockets[socket.session_id] = socket
        self._sockets[socket.session_id] = namespace, socket

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

    def remove(self, namespace: Namespace[M], socket: M) -> None:
        """Stop delivering to a socket; call `emit_disconnect` afterwards."""
        known = namespace.sockets.pop(socket.session_id, None)
        self._sockets.pop(socket.session_id, None)
        namespace.channels.remove_member(socket)
        if known is not None and self.backplane is not None:
            joined = namespace.channels.channels_of(socket)
            topics = topics_of_socket(namespace.name, socket.session_id, joined)
            self.backplane.unsubscribe(*topics)

    def receive(self, topic: Topic, envelope: Envelope) -> None:
        """Deliver a message of another process."""
        packet = envelope.packet
        if packet is None:
            if self.receive_marker is not None:
                self.receive_marker(topic, envelope)
            return
        if topic.namespace:
            namespace = self.get(topic.namespace)
            if namespace is not None:
                namespace.receive(packet, envelope, topic.name or None)
        elif topic.kind != SESSION:
            self.receive_request(envelope)
        else:
            found = self._sockets.get(topic.name)
            if found is not None:
                namespace, socket = found
                namespace.receive_for(socket, packet, envelope)

    def receive_for(self, socket: M, envelope: Envelope) -> None:
        """Deliver a message of another process to one socket, if it is here."""
        found = self._sockets.get(socket.session_id)
        if envelope.packet is not None and found is not None and found[1] is socket:
            found[0].receive_for(socket, envelope.packet, envelope)

    def report_gap(self, node: str | None, missed: int | None, topic: Topic | None) -> None:
        """Send the signal ``gap`` from a new greenlet, as its receivers may wait."""
        if self.recovery is not None and (topic is None or topic.kind not in (SERVERS, NODE)):
            # A client that resumes must not miss one of these messages without notice.
            self.recovery.log.discard_all()
        gap = self.signals.gap
        if gap.receivers:
            keywords = {"node": node, "missed": missed, "topic": topic}
            gevent.spawn(send_robust, gap, self.backplane, **keywords)

    def emit_disconnect(self, namespace: Namespace[M], socket: M, reason: str) -> None:
        """Send the final signals of a removed socket.

        `disconnect`, then `unsubscribe` for each channel, then `finish`. The socket keeps its list
        of channels until the end, so that patterns match and handlers can read it.
        """
        signals, channels = self.signals, namespace.channels
        signals.emit(signals.disconnect, socket, reason=reason)
        for channel in list(channels.channels_of(socket)):
            signals.emit(signals.unsubscribe, socket, channel=channel, reason=reason)
        signals.emit(signals.finish, socket, reason=reason)
        channels.forget_member(socket)


class ForkedRegistry(SocketRegistry[M]):
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


def _ignore(envelope: Envelope) -> None:
    """Ignore a request of another server."""


def filter_of(skip: Member | None, excluded: RecipientFilter) -> RecipientFilter:
    """Return the filter that excludes a socket, or `excluded` without one."""
    return excluded if skip is None else RecipientFilter((skip.session_id,))


def topics_of(namespace: str, channels: Collection[str] | None) -> tuple[Topic, ...]:
    """Return the topics of channels, or that of all sockets of a namespace if they are None."""
    if channels is None:
        return (Topic.namespace_topic(namespace),)
    return tuple(Topic.channel(namespace, channel) for channel in channels)


def topics_of_socket(
    namespace: str, session_id: str, channels: Collection[str] = ()
) -> tuple[Topic, ...]:
    """Return the topics to which the process of a socket in some channels is subscribed."""
    own = Topic.namespace_topic(namespace), Topic.session(session_id)
    return *own, *topics_of(namespace, channels)
