"""Send messages from anywhere: from pages, greenlets, other threads and other processes.

The functions raise `NoSocket` if there is no recipient, and `EncodeError` if the message cannot be
encoded. After a function has returned, the message is queued for every recipient.

With ``SOCKETIO_BACKPLANE``, recipients are the sockets of all processes, and processes without a
server may call these functions. Redis is queried for recipients only if this process has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from webpy_socketio.arguments import check_namespace
from webpy_socketio.backplane import Topic
from webpy_socketio.backplane.filters import NO_FILTER
from webpy_socketio.channels import check_name
from webpy_socketio.cluster import Cluster
from webpy_socketio.exceptions import CallerError, NoSocket
from webpy_socketio.registry import SocketRegistry
from webpy_socketio.socket import Socket
from webpy_socketio.targets import Recipient, Target, encode

__all__ = ["Emitter"]

T = TypeVar("T")


class Emitter:
    """Sends messages to the sockets of a runtime.

    All methods are safe to call from any greenlet and any thread.
    """

    def __init__(self, cluster: Cluster, registry: SocketRegistry[Socket]) -> None:
        self._cluster = cluster
        self._registry = registry
        self._everyone = Target(cluster)

    @property
    def everyone(self) -> Target:
        """All sockets of the namespace ``"/"``.

        Example:
            >>> everyone.namespace("/chat").emit("news", {"text": "hello"})
        """
        return self._everyone

    def to(self, *channels: str) -> Target:
        """Return the members of channels as a target.

        Args:
            *channels: Names of channels.

        Returns:
            The target, whose members are determined when it sends.

        Raises:
            CallerError: No channel was given.
            ChannelError: A name is not valid.

        Example:
            >>> to("room-1").emit("news", {"text": "hello"})
        """
        return self._everyone.to(*channels)

    def to_sockets(self, *sockets: str | Recipient) -> Target:
        """Return single sockets, of any process and any namespace, as a target.

        Args:
            *sockets: Session ids (`Socket.session_id`), sockets, and descriptions of sockets
                (`SocketInfo`).

        Returns:
            The target. Sockets that do not exist when it sends are ignored.

        Raises:
            CallerError: No socket was given, or an argument is neither text nor a socket.

        Example:
            >>> to_sockets(session_id).emit("private", {"text": "hello"})
        """
        return self._everyone.to_sockets(*sockets)

    def broadcast(self, message: Any, *, namespace: str = "/") -> None:
        """Send a message to all sockets.

        Args:
            message: JSON-serializable value, or ``bytes``.
            namespace: Socket.IO namespace.

        Raises:
            CallerError: `namespace` is not the name of a namespace.
            NoSocket: No socket is connected in any process.
            EncodeError: `message` cannot be represented as JSON, or is too large.
            BackplaneError: No socket of this process matches, and Redis did not answer.
        """
        self.emit("message", message, namespace=namespace)

    def broadcast_channel(self, message: Any, channel: str, *, namespace: str = "/") -> None:
        """Send a message to the subscribers of a channel.

        Args:
            message: JSON-serializable value, or ``bytes``.
            channel: Name of the channel.
            namespace: Socket.IO namespace.

        Raises:
            CallerError: `namespace` is not the name of a namespace.
            NoSocket: No socket is subscribed to `channel` in any process.
            EncodeError: `message` cannot be represented as JSON, or is too large.
            BackplaneError: No socket of this process matches, and Redis did not answer.
            ChannelError: `channel` is not a valid name.
        """
        self.emit("message", message, channel=channel, namespace=namespace)

    def emit(
        self,
        event: str,
        *args: Any,
        channel: str | None = None,
        namespace: str = "/",
        local: bool = False,
    ) -> None:
        """Send a custom event to all sockets, or to the subscribers of one channel.

        Processes without a server may call this if ``SOCKETIO_BACKPLANE`` is set.

        Args:
            event: Name of the event. Names of the client library ("connect", "disconnect", …) and
                of this package ("__subscribe__", …) are reserved.
            *args: JSON-serializable values; ``bytes`` are sent as binary attachments.
            channel: Send to the subscribers of this channel only.
            namespace: Socket.IO namespace.
            local: Send to the sockets of this process only.

        Raises:
            CallerError: `namespace` is not the name of a namespace.
            NoSocket: No socket is connected (or subscribed to `channel`) in any process.
            EncodeError: The event cannot be represented as JSON, is too large, or has a reserved
                name.
            ChannelError: `channel` is not a valid name.
            BackplaneError: No socket of this process matches, and Redis did not answer.

        Example:
            >>> emit("news", {"text": "hello"}, channel="room-1")
        """
        check_namespace(namespace)
        limits = self._cluster.limits()
        if channel is not None:
            check_name(channel, limits.max_channel_length)
        encoded = encode(self._registry.parser, namespace, event, args, limits.broadcast_bytes)
        found = self._registry.get(namespace)
        if found is not None and channel is None and found.sockets:
            found.send(encoded, local=local)
        elif found is not None and channel is not None and found.channels.members(channel):
            found.send(encoded, (channel,), local=local)
        else:
            topic = _topic(namespace, channel)
            excluded = NO_FILTER
            if channel is not None and self._registry.signals.published.receivers and not local:
                excluded = self._registry.run_on_hub(
                    self._registry.announce, encoded, namespace, (channel,), excluded
                )
            if local or not self._cluster.publish_and_count(encoded, topic, excluded):
                condition = (
                    "connected" if channel is None else f"subscribed to the channel {channel!r}"
                )
                raise NoSocket(f"no client is {condition}{self._cluster.explain_no_server()}")

    def send(self, session_id: str, message: Any) -> None:
        """Send a message to one socket.

        Args:
            session_id: ``socket.session.session_id`` of the recipient.
            message: JSON-serializable value, or ``bytes``.

        Raises:
            CallerError: `session_id` is not text.
            NoSocket: No socket with this id is connected in any process.
            EncodeError: `message` cannot be represented as JSON, or is too large.
            BackplaneError: The socket is not in this process, and Redis did not answer.
        """
        if not isinstance(session_id, str):
            raise CallerError(
                f"the session id of send() must be text, not {type(session_id).__name__}: pass "
                "socket.session.session_id, or call socket.send(message)"
            )
        socket = self._registry.find(session_id)
        if socket is not None and (socket.connected or socket.suspended):
            socket.send(message)
            return
        # The namespace is known to the receiving process only, which adds it to the packet.
        encoded = encode(
            self._registry.parser,
            "/",
            "message",
            (message,),
            self._cluster.limits().broadcast_bytes,
        )
        if self._cluster.publish_and_count(encoded, Topic.session(session_id)):
            return
        why = self._cluster.explain_no_server()
        raise NoSocket(f"no client is connected with the session id {session_id!r}{why}")

    def sockets(self, namespace: str | None = None) -> list[Socket]:
        """Return the sockets that are connected to this process, and suspended ones.

        The list is a copy; sockets in it may disconnect at any time.

        Args:
            namespace: Return the sockets of this namespace only. Default: of all namespaces.

        Returns:
            The sockets in the order of connecting, by namespace.

        Raises:
            CallerError: `namespace` is not the name of a namespace.
        """
        namespaces = (
            self._registry.namespaces()
            if namespace is None
            else [self._registry.get(check_namespace(namespace))]
        )
        # list() is atomic; iterating over the dict would fail when another thread changes it.
        return [
            socket
            for found in namespaces
            if found is not None
            for socket in list(found.sockets.values())
        ]

    def run_on_hub(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the thread of the sockets, and wait for its result.

        Protects state that receivers and other threads share, such as that of a plugin. A plain
        call if the current thread is that thread already.

        Args:
            function: The function; it may wait.
            *args: Its arguments.

        Returns:
            The result of the function. Its exceptions are raised by this method.
        """
        result: T = self._registry.run_on_hub(function, *args)
        return result


def _topic(namespace: str, channel: str | None) -> Topic:
    return (
        Topic.namespace_topic(namespace) if channel is None else Topic.channel(namespace, channel)
    )
