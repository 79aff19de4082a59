"""The socket: one client, connected to one namespace.

All methods are safe to call from any greenlet and any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from webpy_socketio.acknowledgement import Acknowledgement, AckSender
from webpy_socketio.arguments import check_close, check_seconds
from webpy_socketio.backplane.filters import RecipientFilter
from webpy_socketio.bus.receivers import ResolvedReceivers
from webpy_socketio.bus.stages import Stage
from webpy_socketio.channels import check_name
from webpy_socketio.cluster import Cluster
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.engine.socketio.connection import AckReceiver, Connection
from webpy_socketio.exceptions import ChannelError, WrongContext
from webpy_socketio.registry import Limits, Namespace
from webpy_socketio.targets import Target, add_channels, encode
from webpy_socketio.volatile import VolatileSender

__all__ = ["SessionRef", "Socket"]


class Host(Protocol):
    """The part of the dispatcher that a socket uses."""

    cluster: Cluster
    notices: ThrottledLog

    def adopt(self, socket: Socket) -> None:
        """Take over a socket that a server of the same runtime has accepted."""

    def release_socket(self, socket: Socket) -> None:
        """Leave a socket to another server of the same runtime."""

    def end(self, socket: Socket, reason: str) -> None:
        """Send the last stages of a socket."""

    def enter_context(self, socket: Socket) -> None:
        """Prepare the greenlet of the socket for a handler."""

    def release(self) -> None:
        """Release the resources that handlers left in the greenlet."""

    def run_in_context(self, socket: Socket, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that runs receivers of the socket, from any greenlet."""


def _do_nothing() -> None:
    pass


def _may_join() -> bool:
    return True


@dataclass(frozen=True)
class SessionRef:
    """Reference to a socket, not to its Engine.IO session; the name is that of 2012."""

    #: Public id of the connection. It may be shared with other clients: it grants no access.
    session_id: str


class Socket:
    """A connected client.

    Handlers receive it as their second argument. Sockets are hashable and compare by identity. In a
    process that was forked from the server, methods raise `WrongContext`.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_exclusion",
        "_host",
        "_limits",
        "_namespace",
        "_pending_signals",
        "_registry",
        "_signals",
        "answering",
        "context",
        "in_message",
        "namespace",
        "outbox",
        "receiver_cache",
        "request",
        "web_context",
    )

    def __init__(
        self, connection: Connection, namespace: Namespace[Socket], limits: Limits, host: Host
    ) -> None:
        #: WSGI environ of the handshake.
        self.request: dict[str, Any] = connection.session.environ
        #: Data of the application; lives as long as the connection.
        self.context: dict[str, Any] = {}
        #: Name of the Socket.IO namespace.
        self.namespace: str = namespace.name
        #: Sockets and channels of the namespace; internal.
        self._namespace = namespace
        self._registry = namespace.registry
        self._signals = namespace.registry.signals
        self.outbox = connection.session.outbox
        #: Content of `web.ctx` while a handler runs.
        self.web_context: dict[str, Any] | None = None
        #: Cache of the handlers for its events; see `OrderedSignal.resolve`.
        self.receiver_cache: dict[Any, tuple[Any, ResolvedReceivers]] | None = None
        #: Whether handlers of a message are running.
        self.in_message = False
        #: Id of the requested acknowledgement, or the deferred acknowledgement.
        self.answering: int | Acknowledgement | None = None
        self._connection = connection
        self._limits = limits
        self._host = host
        self._pending_signals = 0
        #: The filter of its targets, created on first use.
        self._exclusion: RecipientFilter | None = None

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
    def connected(self) -> bool:
        """Whether the client is connected."""
        return self._connection.connected

    @property
    def suspended(self) -> bool:
        """Whether the connection was lost and the client may resume it.

        Only with ``SOCKETIO_RECOVERY_TIME``. The socket keeps its channels and its context, and
        messages to it are retained; `connected` is False.
        """
        return False

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

    @property
    def owner(self) -> Any:
        """The runtime; internal, use `Runtime.of`."""
        return self._registry.owner

    # -- send to this client

    def send(self, message: Any) -> None:
        """Send a message to this client. Has no effect after the client has disconnected.

        Args:
            message: JSON-serializable value, or ``bytes``.

        Raises:
            CallerError: The `connecting` gate of this socket has not returned yet.
            EncodeError: `message` cannot be represented as JSON, or is too large.
        """
        self.emit("message", message)

    def emit(self, event: str, *args: Any) -> None:
        """Send a custom event to this client. Has no effect after the client has disconnected.

        Args:
            event: Name of the event.
            *args: JSON-serializable values; ``bytes`` are sent as binary attachments.

        Raises:
            CallerError: The `connecting` gate of this socket has not returned yet.
            EncodeError: An argument cannot be represented as JSON, the event is too large, or its
                name is reserved.

        Example:
            >>> socket.emit("progress", 40, "percent")
        """
        message = self._encode(event, args)
        if self._signals.sent.receivers:
            self._registry.call_soon(self._send_with_signal, message)
        else:
            self._registry.call_soon(self._connection.send, message)

    @property
    def volatile(self) -> VolatileSender:
        """Sends events that are dropped while this client has unsent data.

        Example:
            >>> socket.volatile.emit("position", 12, 7)
        """
        return VolatileSender(self)

    def call(self, event: str, *args: Any, timeout: float = 10.0) -> Any:
        """Send an event and wait for the acknowledgement of the client.

        Args:
            event: Name of the event.
            *args: JSON-serializable values; ``bytes`` are sent as binary attachments.
            timeout: Longest wait, in seconds.

        Returns:
            The argument of the acknowledgement. Without arguments it is None, with several a list.

        Raises:
            CallerError: The `connecting` gate of this socket has not returned yet, or `timeout` is
                not a positive number.
            CallTimeout: The client did not acknowledge in time.
            ContentError: The acknowledgement exceeds a content limit.
            Disconnected: The client is not connected, or disconnected during the call.
            EncodeError: An argument cannot be represented as JSON, the event is too large, or its
                name is reserved.
            WrongContext: Called on the hub of gevent, which must not wait.

        Example:
            >>> name = socket.call("ask", "What is your name?", timeout=60)
        """
        check_seconds("call", timeout)
        message = self._encode(event, args)  # raises EncodeError in the calling thread
        if self._signals.sent.receivers:
            self._registry.call_soon(self._send_sent_signal, message)
        answer = self._registry.run_on_hub(self._connection.call, event, args, timeout)
        return answer[0] if len(answer) == 1 else answer or None

    def withhold_acknowledgement(self, timeout: float | None = None) -> Acknowledgement:
        """Defer the acknowledgement of the event being handled.

        For handlers of messages and custom events. Their return values are not sent; call the
        returned object with the answer, once, from any greenlet or thread. All handlers of one
        event share one object. If a handler raises, the client receives an error after all handlers
        have run, unless the event was acknowledged before.

        Args:
            timeout: Seconds until the client receives ``{"error": "timeout"}`` if the event was not
                acknowledged before. None waits without a limit, or keeps the timeout that another
                handler of the event has set; the last timeout replaces an earlier one.

        Returns:
            The deferred acknowledgement. It has no effect if the client did not request one.

        Raises:
            CallerError: `timeout` is not a positive number.
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
            self.answering = Acknowledgement(self.ack_sender, self._registry, self.answering)
        if timeout is not None:
            self.answering.set_timeout(timeout)
        return self.answering

    def disconnect(self, close: bool = False) -> None:
        """Close the connection after sending queued messages.

        The reason is "server namespace disconnect". The stock client does not reconnect
        automatically after this. Has no effect after the client has disconnected.

        Args:
            close: Close the session, with the client's connections to all namespaces. Each of them
                ends with the same reason.

        Raises:
            CallerError: `close` is not a bool.
        """
        self._registry.call_soon(self._connection.disconnect, check_close(close))

    # -- send to other clients

    @property
    def others(self) -> Target:
        """All other sockets of the namespace.

        Example:
            >>> socket.others.volatile.emit("position", 12, 7)
        """
        return self._target(None)

    def to(self, *channels: str) -> Target:
        """Return the other members of channels as a target.

        Args:
            *channels: Names of channels.

        Returns:
            The target, without this socket.

        Raises:
            CallerError: No channel was given.
            ChannelError: A name is not valid.

        Example:
            >>> socket.to("room-1", "room-2").emit("news", {"text": "hello"})
        """
        return self._target(add_channels((), channels, self._limits.max_channel_length))

    def broadcast(self, message: Any) -> None:
        """Send a message to all other sockets of the namespace.

        Args:
            message: JSON-serializable value, or ``bytes``.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
        """
        self._namespace.send(self._encode_broadcast(message), skip=self)

    def send_and_broadcast(self, message: Any) -> None:
        """Send a message to all sockets of the namespace, including this one.

        Args:
            message: JSON-serializable value, or ``bytes``.

        Raises:
            EncodeError: `message` cannot be represented as JSON, or is too large.
        """
        self._namespace.send(self._encode_broadcast(message))

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
        channels = self.channels if channel is None else (self._check_name(channel),)
        self._namespace.send(self._encode_broadcast(message), channels, skip=self)

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
        channels = self.channels if channel is None else (self._check_name(channel),)
        self._namespace.send(self._encode_broadcast(message), channels, also=self)

    # -- channels

    def subscribe(self, channel: str) -> bool:
        """Subscribe to a channel.

        Runs the `subscribing` gate first. Outside the handlers of this socket, the method returns
        once the socket is subscribed, and receivers of `subscribe` run after the queued events.

        Args:
            channel: Name of the channel.

        Returns:
            True if the socket is newly subscribed, False if it was subscribed or has disconnected.

        Raises:
            CallerError: The `connecting` gate of this socket has not returned yet.
            ChannelError: The name is not valid, or the socket has reached
                ``SOCKETIO_MAX_CHANNELS``.
            Refused: A gate rejected the subscription.
        """
        return bool(
            self._registry.run_on_hub(self._host.run_in_context, self, self._subscribe, channel)
        )

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
            self._registry.run_on_hub(
                self._host.run_in_context, self, self.unsubscribe_for_client, channel
            )
        )

    def emit_volatile(self, event: str, args: tuple[Any, ...]) -> None:
        """Send an event, unless the client has unsent data; used by `volatile`."""
        self._registry.call_soon(self._send_volatile, self._encode(event, args))

    # -- for the dispatcher

    def accept(self) -> bool:
        """Accept the connection; return False if it was closed in the meantime."""
        return self._connection.accept()

    def release_connection(self) -> None:
        """End the reference of the connection to this socket, so that both are freed at once."""
        self._connection.data = None

    @property
    def ack_sender(self) -> AckSender:
        """Sends the acknowledgement of the event that is handled."""
        return self._connection

    def is_lost_with(self, connection: Connection) -> bool:
        """Return whether the end of `connection` has suspended the socket."""
        return False

    def subscribe_for_client(self, channel: Any, on_subscribed: Callable[[], None]) -> bool:
        """Subscribe; call `on_subscribed` as soon as the socket is a member, before any message."""
        return self._subscribe(channel, on_subscribed, by_client=True)

    def unsubscribe_for_client(
        self, channel: Any, on_unsubscribed: Callable[[], None] = _do_nothing
    ) -> bool:
        """Unsubscribe; call `on_unsubscribed` before the handlers of `unsubscribe`."""
        self._check_name(channel)
        # A closed connection keeps its list of channels only for its last handlers.
        changed = self._is_open and self._namespace.leave(self, channel)
        on_unsubscribed()
        if changed:
            self.receiver_cache = None
            self._send_signal(self._signals.unsubscribe, {"channel": channel, "reason": None})
        return changed

    def join_unobserved(self, channel: Any) -> None:
        """Subscribe, while no receiver would run and no backplane is connected."""
        name = self._check_name(channel)
        held = self._namespace.channels.channels_of(self)
        if name in held or not self._is_open:
            return
        self._check_channel_limit(len(held))
        self._namespace.join(self, name, _may_join)
        self.receiver_cache = None

    def leave_unobserved(self, channel: Any) -> None:
        """Unsubscribe, while no receiver would run."""
        name = self._check_name(channel)
        if self._is_open and self._namespace.leave(self, name):
            self.receiver_cache = None

    # -- for requests of servers

    @property
    def opened_at(self) -> float:
        """Time of the handshake, in seconds since the epoch."""
        return self._connection.session.opened_at

    def expect_acknowledgement(self, number: int, receiver: AckReceiver) -> None:
        """Pass the acknowledgement with an id to a receiver."""
        self._connection.expect_ack(number, receiver)

    def forget_acknowledgement(self, number: int) -> None:
        """Ignore the acknowledgement with an id."""
        self._connection.forget_ack(number)

    def report_error(self, exception: Exception, what: str) -> None:
        """Send an exception as ``error``; `what` describes the failed component."""
        self._host.run_in_context(self, self._signals.report_error, self, exception, what)

    # -- for the dispatcher

    @property
    def _is_open(self) -> bool:
        """Whether the socket can subscribe and unsubscribe."""
        return self._connection.connected

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
        self._check_name(channel)
        if not self._is_open:
            self._connection.check_begun()
            return False
        held = self._namespace.channels.channels_of(self)
        if channel in held:
            on_subscribed()
            return False
        self._check_channel_limit(len(held))
        signals = self._signals
        if signals.is_observed(signals.subscribing):
            signals.check_gate(signals.subscribing, self, channel=channel, by_client=by_client)
        changed = self._namespace.join(self, channel, partial(self._may_join, channel))
        if not self._is_open:
            return False
        on_subscribed()
        if changed:
            self.receiver_cache = None
            self._send_signal(signals.subscribe, {"channel": channel})
        return changed

    def _send_volatile(self, message: Message) -> None:
        if self.outbox.is_congested:
            return
        if self._signals.sent.receivers:
            self._send_with_signal(message)
        else:
            self._connection.send(message)

    def _send_with_signal(self, message: Message) -> None:
        self._connection.send(message)
        self._send_sent_signal(message)

    def _send_sent_signal(self, message: Message) -> None:
        if self.connected:
            self._namespace.send_sent_signal(message, [self])

    def _send_signal(self, stage: Stage, keywords: dict[str, Any]) -> None:
        """Send a signal at once, or queue it if called outside the handlers of this socket.

        Events of a connection are handled one at a time. Waiting here could deadlock if the
        running handler waits for the calling greenlet.
        """
        inbox = self._connection.inbox
        if inbox.current and not self._pending_signals:
            signals = self._signals
            if signals.handled.receivers or not stage.is_idle():
                signals.emit(stage, self, **keywords)
        else:  # keeps the order of queued signals
            self._pending_signals += 1
            inbox.put(self._send_signal_in_order, stage, keywords)

    def _send_signal_in_order(self, stage: Stage, keywords: dict[str, Any]) -> None:
        self._pending_signals -= 1
        self._host.enter_context(self)
        try:
            self._signals.emit(stage, self, **keywords)
        finally:
            self._host.release()

    def _may_join(self, channel: str) -> bool:
        # While the gate was waiting, the client may have disconnected or subscribed again.
        if not self._is_open:
            return False
        held = self._namespace.channels.channels_of(self)
        if channel not in held:
            self._check_channel_limit(len(held))
        return True

    def _check_channel_limit(self, count: int) -> None:
        limit = self._limits.max_channels
        if count >= limit:
            raise ChannelError(
                f"channel limit reached: a socket may subscribe to {limit} channels "
                "(SOCKETIO_MAX_CHANNELS)"
            )

    def _check_name(self, channel: Any) -> str:
        return check_name(channel, self._limits.max_channel_length)

    def _target(self, channels: tuple[str, ...] | None) -> Target:
        """Return a target without this socket: members of channels, or all sockets."""
        excluded = self._exclusion
        if excluded is None:
            excluded = self._exclusion = RecipientFilter((self._connection.id,))
        return Target(self._host.cluster, self._namespace.name, channels, excluded)

    def _encode(self, event: str, args: tuple[Any, ...]) -> Message:
        return encode(
            self._registry.parser, self._namespace.name, event, args, self._limits.outbox_bytes
        )

    def _encode_broadcast(self, message: Any) -> Message:
        limit = self._limits.broadcast_bytes
        return encode(self._registry.parser, self._namespace.name, "message", (message,), limit)
