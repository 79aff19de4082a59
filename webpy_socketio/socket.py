"""The socket: one client, connected to one namespace.

All methods are safe to call from any greenlet and any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from webpy_socketio import signals
from webpy_socketio.acknowledgement import Acknowledgement
from webpy_socketio.bus.receivers import ResolvedReceivers
from webpy_socketio.channels import check_name
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.engine.socketio.packets import encode_event
from webpy_socketio.exceptions import ChannelError, EncodeError, WrongContext
from webpy_socketio.registry import Limits, Namespace, registry, send_sent_signal
from webpy_socketio.signals import Stage

__all__ = ["RESERVED_EVENTS", "SessionRef", "Socket", "encode"]

#: Event names of the protocol extension for channels; not available for messages.
RESERVED_EVENTS = frozenset(("__subscribe__", "__unsubscribe__", "__channel__"))


class Host(Protocol):
    """The part of the dispatcher that a socket uses."""

    notices: ThrottledLog

    def enter_context(self, socket: Socket) -> None:
        """Prepare the greenlet of the socket for a handler."""

    def release(self) -> None:
        """Release the resources that handlers left in the greenlet."""

    def run_in_context(self, socket: Socket, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that runs receivers of the socket, from any greenlet."""


def _do_nothing() -> None:
    pass


@dataclass(frozen=True)
class SessionRef:
    """Reference to a socket, not to its Engine.IO session; the name is that of 2012."""

    #: Public id of the connection. It may be shared with other clients: it grants no access.
    session_id: str


class Socket:
    """A connected client.

    Handlers receive it as their second argument. Sockets are hashable and compare by identity.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_host",
        "_limits",
        "_namespace",
        "_pending_signals",
        "answering",
        "context",
        "in_message",
        "outbox",
        "receiver_cache",
        "request",
        "web_context",
    )

    def __init__(
        self, connection: Connection, namespace: Namespace, limits: Limits, host: Host
    ) -> None:
        #: WSGI environ of the handshake.
        self.request: dict[str, Any] = connection.session.environ
        #: Data of the application; lives as long as the connection.
        self.context: dict[str, Any] = {}
        #: Sockets and channels of the namespace; internal.
        self._namespace = namespace
        self.outbox = connection.session.outbox
        #: Content of `web.ctx` while a handler runs.
        self.web_context: dict[str, Any] | None = None
        #: Cache of the handlers for its events; see `OrderedSignal.resolve`.
        self.receiver_cache: dict[Any, tuple[int, ResolvedReceivers]] | None = None
        #: Whether handlers of a message are running.
        self.in_message = False
        #: Id of the requested acknowledgement, or the deferred acknowledgement.
        self.answering: int | Acknowledgement | None = None
        self._connection = connection
        self._limits = limits
        self._host = host
        self._pending_signals = 0

    def __repr__(self) -> str:
        return f"<Socket {self.session_id} from {self.request.get('REMOTE_ADDR', '-')}>"

    # -- properties

    @property
    def session_id(self) -> str:
        """Public id of the connection, for `webpy_socketio.send`."""
        return self._connection.id

    @property
    def session(self) -> SessionRef:
        """Reference to the session, whose ``session_id`` is the public id."""
        return SessionRef(self._connection.id)

    @property
    def namespace(self) -> str:
        """Name of the Socket.IO namespace."""
        return self._namespace.name

    @property
    def connected(self) -> bool:
        """Whether the client is connected."""
        return self._connection.connected

    @property
    def transport(self) -> str:
        """Current transport, "polling" or "websocket"."""
        transport = self._connection.session.transport
        return "" if transport is None else transport.name

    @property
    def auth(self) -> Any:
        """The ``auth`` value of the client's CONNECT packet: a dict, or None."""
        return self._connection.auth

    @property
    def message_size(self) -> int:
        """Size of the message being handled, in characters of text plus bytes of attachments.

        Measured as received, including the name of the event and JSON syntax.
        """
        return self._connection.inbox.handling

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the subscribed channels, in the order of subscribing."""
        return tuple(self._namespace.channels.channels_of(self))

    @property
    def notices(self) -> ThrottledLog:
        """Throttled log of invalid data from clients; internal."""
        return self._host.notices

    # -- send to this client

    def send(self, message: Any) -> None:
        """Send a message to this client. Has no effect after the client has disconnected.

        Args:
            message: JSON-serializable value, or ``bytes``.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
        """
        self.emit("message", message)

    def emit(self, event: str, *args: Any) -> None:
        """Send a custom event to this client. Has no effect after the client has disconnected.

        Args:
            event: Name of the event.
            *args: JSON-serializable values; ``bytes`` are sent as binary attachments.

        Raises:
            EncodeError: An argument cannot be represented as JSON, or the event is too large.

        Example:
            >>> socket.emit("progress", 40, "percent")
        """
        message = self._encode(event, args)
        if signals.sent.receivers:
            registry.call_soon(self._send_with_signal, message)
        else:
            registry.call_soon(self._connection.send, message)

    def call(self, event: str, *args: Any, timeout: float = 10.0) -> Any:
        """Send an event and wait for the acknowledgement of the client.

        Args:
            event: Name of the event.
            *args: JSON-serializable values; ``bytes`` are sent as binary attachments.
            timeout: Longest wait, in seconds.

        Returns:
            The argument of the acknowledgement. Without arguments it is None, with several a list.

        Raises:
            CallTimeout: The client did not acknowledge in time.
            Disconnected: The connection closed before the acknowledgement.
            EncodeError: An argument cannot be represented as JSON, or the event is too large.
            WrongContext: Called on the hub of gevent, which must not wait.

        Example:
            >>> name = socket.call("ask", "What is your name?", timeout=60)
        """
        message = self._encode(event, args)  # raises EncodeError in the calling thread
        if signals.sent.receivers:
            registry.call_soon(self._send_sent_signal, message)
        answer = registry.run_on_hub(self._connection.call, event, args, timeout)
        return answer[0] if len(answer) == 1 else answer or None

    def withhold_acknowledgement(self) -> Acknowledgement:
        """Defer the acknowledgement of the event being handled.

        For handlers of messages and custom events. Their return values are not sent; call the
        returned object with the answer, once, from any greenlet or thread. All handlers of one
        event share one object. If a handler raises, the client receives an error after all handlers
        have run, unless the event was acknowledged before.

        Returns:
            The deferred acknowledgement. It has no effect if the client did not request one.

        Raises:
            WrongContext: Called outside a handler of a message, or in another greenlet.

        Example:
            >>> @on_event("convert")
            ... def convert(request, socket, context, name):
            ...     acknowledge = socket.withhold_acknowledgement()
            ...     gevent.spawn(lambda: acknowledge(slow_conversion(name)))
        """
        if not (self.in_message and self.handling):
            raise WrongContext(
                "withhold_acknowledgement() must be called in a handler of a message or custom "
                "event, in the greenlet of the handler; pass the returned object to other "
                "greenlets and threads"
            )
        if not isinstance(self.answering, Acknowledgement):
            self.answering = Acknowledgement(self._connection, self.answering)
        return self.answering

    def disconnect(self) -> None:
        """Close the connection after sending queued messages.

        The stock client does not reconnect automatically after this.
        """
        registry.call_soon(self._connection.disconnect)

    # -- send to other clients

    def broadcast(self, message: Any) -> None:
        """Send a message to all other sockets of the namespace.

        Args:
            message: JSON-serializable value, or ``bytes``.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
        """
        self._broadcast(message, self)

    def send_and_broadcast(self, message: Any) -> None:
        """Send a message to all sockets of the namespace, including this one.

        Args:
            message: JSON-serializable value, or ``bytes``.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
        """
        self._broadcast(message, None)

    def broadcast_channel(self, message: Any, channel: str | None = None) -> None:
        """Send a message to all other subscribers of a channel.

        Args:
            message: JSON-serializable value, or ``bytes``.
            channel: Name of the channel. Default: all channels that this socket is subscribed
                to; each recipient receives one copy.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
            ChannelError: `channel` is not a valid name.
        """
        self._broadcast_channel(message, channel, self)

    def send_and_broadcast_channel(self, message: Any, channel: str | None = None) -> None:
        """Send a message to all subscribers of a channel and to this socket.

        This socket receives it even if it is not subscribed.

        Args:
            message: JSON-serializable value, or ``bytes``.
            channel: Name of the channel. Default: all channels that this socket is subscribed
                to; each recipient receives one copy.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
            ChannelError: `channel` is not a valid name.
        """
        self._broadcast_channel(message, channel, None)

    # -- channels

    def subscribe(self, channel: str) -> bool:
        """Subscribe to a channel.

        Runs the `subscribing` gate first. When called outside the handlers of this socket, the
        method returns once the socket is subscribed; receivers of `subscribe` run after the events
        that are already queued.

        Args:
            channel: Name of the channel.

        Returns:
            True if the socket is newly subscribed, False if it was subscribed or has disconnected.

        Raises:
            Refused: A gate rejected the subscription.
            ChannelError: The name is not valid, or the socket has reached
                ``SOCKETIO_MAX_CHANNELS``.
        """
        return bool(registry.run_on_hub(self._host.run_in_context, self, self._subscribe, channel))

    def unsubscribe(self, channel: str) -> bool:
        """Unsubscribe from a channel.

        Args:
            channel: Name of the channel.

        Returns:
            True if the socket was subscribed.

        Raises:
            ChannelError: The name is not valid.
        """
        return bool(
            registry.run_on_hub(
                self._host.run_in_context, self, self.unsubscribe_for_client, channel
            )
        )

    # -- for the dispatcher

    def subscribe_for_client(self, channel: Any, on_subscribed: Callable[[], None]) -> bool:
        """Subscribe; call `on_subscribed` as soon as the socket is a member, before any message."""
        return self._subscribe(channel, on_subscribed, by_client=True)

    def unsubscribe_for_client(
        self, channel: Any, on_unsubscribed: Callable[[], None] = _do_nothing
    ) -> bool:
        """Unsubscribe; call `on_unsubscribed` before the handlers of `unsubscribe`."""
        check_name(channel, self._limits.max_channel_length)
        # A closed connection keeps its list of channels only for its last handlers.
        changed = self.connected and self._namespace.leave(self, channel)
        on_unsubscribed()
        if changed:
            self.receiver_cache = None
            self._send_signal(signals.unsubscribe, channel=channel, reason=None)
        return changed

    @property
    def handling(self) -> bool:
        """Whether the current greenlet is running a handler of this socket."""
        return self._connection.inbox.current

    def interrupt(self) -> None:
        """Raise GreenletExit in the running handler and discard queued events; for shutdown."""
        self._connection.kicked = True
        self._connection.inbox.interrupt()

    # -- implementation

    def _subscribe(
        self, channel: Any, on_subscribed: Callable[[], None] = _do_nothing, by_client: bool = False
    ) -> bool:
        check_name(channel, self._limits.max_channel_length)
        if not self.connected:
            self._connection.check_begun()
            return False
        channels = self._namespace.channels
        if channel in channels.channels_of(self):
            on_subscribed()
            return False
        self._check_channel_limit()
        signals.check_gate(signals.subscribing, self, channel=channel, by_client=by_client)
        changed = self._namespace.join(self, channel, partial(self._may_join, channel))
        if not self.connected:
            return False
        on_subscribed()
        if changed:
            self.receiver_cache = None
            self._send_signal(signals.subscribe, channel=channel)
        return changed

    def _send_with_signal(self, message: Message) -> None:
        self._connection.send(message)
        self._send_sent_signal(message)

    def _send_sent_signal(self, message: Message) -> None:
        if self.connected:
            send_sent_signal(self._namespace.name, message, [self])

    def _send_signal(self, stage: Stage, **keywords: Any) -> None:
        """Send a signal at once, or queue it if called outside the handlers of this socket.

        Events of a connection are handled one at a time. Waiting here could deadlock if the
        running handler waits for the calling greenlet.
        """
        inbox = self._connection.inbox
        if inbox.current and not self._pending_signals:
            signals.emit(stage, self, **keywords)
        else:  # keeps the order of queued signals
            self._pending_signals += 1
            inbox.put(self._send_signal_in_order, stage, keywords)

    def _send_signal_in_order(self, stage: Stage, keywords: dict[str, Any]) -> None:
        self._pending_signals -= 1
        self._host.enter_context(self)
        try:
            signals.emit(stage, self, **keywords)
        finally:
            self._host.release()

    def _may_join(self, channel: str) -> bool:
        # While the gate was waiting, the client may have disconnected or subscribed again.
        if not self.connected:
            return False
        if channel not in self._namespace.channels.channels_of(self):
            self._check_channel_limit()
        return True

    def _check_channel_limit(self) -> None:
        limit = self._limits.max_channels
        if len(self._namespace.channels.channels_of(self)) >= limit:
            raise ChannelError(
                f"channel limit reached: a socket may subscribe to {limit} channels "
                "(SOCKETIO_MAX_CHANNELS)"
            )

    def _broadcast(self, message: Any, skip: Socket | None) -> None:
        encoded = self._encode("message", (message,), self._limits.broadcast_bytes)
        registry.call_soon(self._namespace.broadcast, encoded, skip)

    def _broadcast_channel(self, message: Any, channel: str | None, skip: Socket | None) -> None:
        if channel is not None:
            check_name(channel, self._limits.max_channel_length)
        encoded = self._encode("message", (message,), self._limits.broadcast_bytes)
        registry.call_soon(self._deliver_channel, encoded, channel, skip)

    def _deliver_channel(self, message: Message, channel: str | None, skip: Socket | None) -> None:
        names = self._namespace.channels.channels_of(self) if channel is None else (channel,)
        also = self if skip is None and self.connected else None
        self._namespace.broadcast_channels(message, names, skip, also)

    def _encode(self, event: str, args: tuple[Any, ...], max_bytes: int | None = None) -> Message:
        limit = self._limits.outbox_bytes if max_bytes is None else max_bytes
        return encode(self._namespace.name, event, args, limit)


def encode(namespace: str, event: str, args: tuple[Any, ...], max_bytes: int) -> Message:
    """Encode an event for sending.

    Raises:
        EncodeError: The event cannot be represented as JSON, is too large, or has a reserved name.
    """
    if not isinstance(event, str):
        raise EncodeError(f"the name of an event must be text, not {type(event).__name__}")
    if event in RESERVED_EVENTS:
        raise EncodeError(f'"{event}" is reserved: choose another name for the event')
    message = encode_event(namespace, event, args)
    if message.size > max_bytes:
        raise EncodeError(
            f"a message of {message.size} bytes exceeds the limit of {max_bytes} bytes"
        )
    return message
