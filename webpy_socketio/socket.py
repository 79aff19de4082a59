"""What handlers hold: one client, in one namespace.

Every method may be called from any greenlet and any thread.
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

#: The names of our own additions to the protocol; nobody's messages go by them.
RESERVED_EVENTS = frozenset(("__subscribe__", "__unsubscribe__", "__channel__"))


class Host(Protocol):
    """What a socket needs of the dispatcher that made it."""

    notices: ThrottledLog

    def enter_context(self, socket: Socket) -> None:
        """Get the greenlet, the socket's own, ready for a handler."""

    def release(self) -> None:
        """Release what handlers left in the greenlet."""

    def run_in_context(self, socket: Socket, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that runs receivers of the socket, from whichever greenlet."""


def _ignore() -> None:
    pass


@dataclass(frozen=True)
class SessionRef:
    """What `send(session_id, message)` needs to find a socket again."""

    #: The public id of the connection: others may know it, it gives no power over it.
    session_id: str


class Socket:
    """A connected client.

    Handlers get it as their second argument. It is a key like any other object, and equal to
    itself only.
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
        self, connection: Connection, space: Namespace, limits: Limits, host: Host
    ) -> None:
        #: The handshake's WSGI environ.
        self.request: dict[str, Any] = connection.session.environ
        #: Room for handlers to remember things, for as long as the connection lives.
        self.context: dict[str, Any] = {}
        #: The namespace's sockets and channels; for the package's own use.
        self._namespace = space
        self.outbox = connection.session.outbox
        #: What `web.ctx` is to be while a handler runs.
        self.web_context: dict[str, Any] | None = None
        #: Which handlers get its events, as signals found out; see `Ordered.choose`.
        self.receiver_cache: dict[Any, tuple[int, ResolvedReceivers]] | None = None
        #: Whether handlers of a message run.
        self.in_message = False
        #: The number under which its acknowledgement is asked, or the withheld acknowledgement.
        self.answering: int | Acknowledgement | None = None
        self._connection = connection
        self._limits = limits
        self._host = host
        self._pending_signals = 0

    def __repr__(self) -> str:
        return f"<Socket {self.session_id} from {self.request.get('REMOTE_ADDR', '-')}>"

    # -- who it is

    @property
    def session_id(self) -> str:
        """The public id: what `webpy_socketio.send` takes."""
        return self._connection.id

    @property
    def session(self) -> SessionRef:
        """``socket.session.session_id`` is the public id."""
        return SessionRef(self._connection.id)

    @property
    def namespace(self) -> str:
        """The Socket.IO namespace it is connected to."""
        return self._namespace.name

    @property
    def connected(self) -> bool:
        """Whether the client is there."""
        return self._connection.connected

    @property
    def transport(self) -> str:
        """What carries it at the moment: "polling" or "websocket"."""
        transport = self._connection.session.transport
        return "" if transport is None else transport.name

    @property
    def auth(self) -> Any:
        """What the client sent along with its connect request: a dict, or None."""
        return self._connection.auth

    @property
    def message_size(self) -> int:
        """Of the message that its handlers run for: characters of the text, bytes of attachments.

        As it came: the event's name and what JSON needs are counted too.
        """
        return self._connection.inbox.handling

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels it holds, in the order of subscribing."""
        return tuple(self._namespace.channels.channels_of(self))

    @property
    def notices(self) -> ThrottledLog:
        """Where the package logs what a client did wrong; for its own use."""
        return self._host.notices

    # -- to this client

    def send(self, message: Any) -> None:
        """Send a message to this client; nothing happens if it is gone. Raises `EncodeError`."""
        self.emit("message", message)

    def emit(self, event: str, *args: Any) -> None:
        """Send a custom event to this client. Raises `EncodeError`."""
        message = self._encode(event, args)
        if signals.sent.receivers:
            registry.call_soon(self._send_with_signal, message)
        else:
            registry.call_soon(self._connection.send, message)

    def call(self, event: str, *args: Any, timeout: float = 10.0) -> Any:
        """Send an event and wait, `timeout` seconds at most, until the client acknowledges it.

        Returns what it answered: None, a value, or a list of several. Raises `CallTimeout`,
        `Disconnected`, or `EncodeError`.
        """
        message = self._encode(event, args)  # the caller's mistakes first, in the caller's thread
        if signals.sent.receivers:
            registry.call_soon(self._send_sent_signal, message)
        answer = registry.run_on_hub(self._connection.call, event, args, timeout)
        return answer[0] if len(answer) == 1 else answer or None

    def withhold_acknowledgement(self) -> Acknowledgement:
        """Withhold the acknowledgement of the event that is being handled, to give it later.

        For handlers of messages and custom events. What they return is not sent then; the object
        returned here is called with the answer, once, from any greenlet or thread. All handlers of
        one event share one object. If one of them raises, the client gets an error at once.

        Returns:
            The acknowledgement, also if the client did not ask for one; it is ignored then.

        Raises:
            WrongContext: Called elsewhere than in a handler of a message, in its own greenlet.

        Example:
            >>> @on_event("convert")
            ... def convert(request, socket, context, name):
            ...     acknowledge = socket.withhold_acknowledgement()
            ...     gevent.spawn(lambda: acknowledge(slow_conversion(name)))

        """
        if not (self.in_message and self.handling):
            raise WrongContext(
                "withhold_acknowledgement() is called in a handler of a message or custom event, in "
                "the greenlet that runs it; give what it returns to other greenlets and threads"
            )
        if not isinstance(self.answering, Acknowledgement):
            self.answering = Acknowledgement(self._connection, self.answering)
        return self.answering

    def disconnect(self) -> None:
        """End the connection; what was sent before still arrives.

        The stock client does not come back by itself after this.
        """
        registry.call_soon(self._connection.disconnect)

    # -- to others

    def broadcast(self, message: Any) -> None:
        """Send a message to all other sockets. Raises `EncodeError`."""
        self._broadcast(message, self)

    def send_and_broadcast(self, message: Any) -> None:
        """Send a message to all sockets, this one included. Raises `EncodeError`."""
        self._broadcast(message, None)

    def broadcast_channel(self, message: Any, channel: str | None = None) -> None:
        """Send a message to all other subscribers of `channel`.

        Without a channel: of every channel that this socket is subscribed to, one copy each.
        Raises `EncodeError` or `ChannelError`.
        """
        self._broadcast_channel(message, channel, self)

    def send_and_broadcast_channel(self, message: Any, channel: str | None = None) -> None:
        """The same as `broadcast_channel`, and to this socket too.

        This one gets it whether it is subscribed or not.
        """
        self._broadcast_channel(message, channel, None)

    # -- channels

    def subscribe(self, channel: str) -> bool:
        """Subscribe to a channel; returns True if the socket was not subscribed before.

        Asks the `subscribing` gate first and raises `Refused` if that denies it. Raises
        `ChannelError` for a bad name, or for one channel too many. Called from elsewhere than one
        of this socket's handlers, it returns when the socket is in the channel; the receivers of
        `subscribe` run when it is their turn.
        """
        return bool(registry.run_on_hub(self._host.run_in_context, self, self._subscribe, channel))

    def unsubscribe(self, channel: str) -> bool:
        """Unsubscribe from a channel; returns True if the socket was subscribed."""
        return bool(
            registry.run_on_hub(
                self._host.run_in_context, self, self.unsubscribe_for_client, channel
            )
        )

    # -- for the dispatcher

    def subscribe_for_client(self, channel: Any, begun: Callable[[], None]) -> bool:
        """Subscribe; `begun` is called when membership begins, before anybody else can know."""
        return self._subscribe(channel, begun, by_client=True)

    def unsubscribe_for_client(self, channel: Any, ended: Callable[[], None] = _ignore) -> bool:
        """Unsubscribe; `ended` is called when membership has ended, before handlers hear of it."""
        check_name(channel, self._limits.max_channel_length)
        # After the end of a connection its channels are held for its last handlers, not for these.
        changed = self.connected and self._namespace.leave(self, channel)
        ended()
        if changed:
            self.receiver_cache = None
            self._send_signal(signals.unsubscribe, channel=channel, reason=None)
        return changed

    @property
    def handling(self) -> bool:
        """Whether this greenlet is the one of this socket's handlers."""
        return self._connection.inbox.current

    def interrupt(self) -> None:
        """The server stops: raise GreenletExit in the handler that runs, and drop what is queued."""
        self._connection.kicked = True
        self._connection.inbox.interrupt()

    # -- how

    def _subscribe(
        self, channel: Any, begun: Callable[[], None] = _ignore, by_client: bool = False
    ) -> bool:
        check_name(channel, self._limits.max_channel_length)
        if not self.connected:
            self._connection.check_begun()
            return False
        channels = self._namespace.channels
        if channel in channels.channels_of(self):
            begun()
            return False
        self._check_channel_limit()
        signals.check_gate(signals.subscribing, self, channel=channel, by_client=by_client)
        changed = self._namespace.join(self, channel, partial(self._may_join, channel))
        if not self.connected:
            return False
        begun()
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
        """Send a signal now, or, from somebody else's greenlet, when it is this socket's turn.

        One thing at a time happens to a connection; to wait here until it is its turn could be to
        wait for somebody who waits for us.
        """
        inbox = self._connection.inbox
        if inbox.current and not self._pending_signals:
            signals.emit(stage, self, **keywords)
        else:  # nor before what waits to be told: that happened earlier
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
        # The gate may have waited: the client may have gone meanwhile, or been quicker.
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
    """Encode an event of ours; raises `EncodeError` for what cannot or may not be sent."""
    if not isinstance(event, str):
        raise EncodeError(f"an event's name comes first and is text, not {type(event).__name__}")
    if event in RESERVED_EVENTS:
        raise EncodeError(f'"{event}" is reserved: choose another name for the event')
    message = encode_event(namespace, event, args)
    if message.size > max_bytes:
        raise EncodeError(f"a message of {message.size} bytes, where {max_bytes} are the limit")
    return message
