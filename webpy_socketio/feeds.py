"""Feed: subscribers of a channel that receive its messages from a plugin."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Generic, TypeVar

from webpy_socketio.engine.io import json
from webpy_socketio.publication import feed_name
from webpy_socketio.registry import Member, SocketRegistry

__all__ = ["Feed"]

M = TypeVar("M", bound=Member)


class Feed(Generic[M]):
    """Sockets of this process that a plugin sends the messages of one channel to.

    `Runtime.feed` returns it. The server does not send a message to the sockets of a feed if the
    plugin has called `Publication.divert`; it does send all other messages to them. A socket may be
    added before it subscribes. For the thread of the sockets only (see `run_on_hub`).

    Example:
        >>> feed = runtime.feed("room-1")
        >>> feed.add(socket)
    """

    __slots__ = ("_channel", "_name", "_namespace")

    def __init__(self, registry: SocketRegistry[M], namespace: str, channel: str) -> None:
        self._namespace = registry.namespace(namespace)
        self._channel = channel
        self._name = feed_name(channel)

    def __contains__(self, socket: M) -> bool:
        return socket in self._namespace.feeds.get(self._name, ())

    def __len__(self) -> int:
        return len(self._namespace.feeds.get(self._name, ()))

    def add(self, socket: M) -> None:
        """Add a socket.

        Args:
            socket: A socket of the namespace, subscribed to the channel or not.
        """
        self._namespace.feeds.setdefault(self._name, {})[socket] = None

    def discard(self, socket: M) -> None:
        """Remove a socket, if it is in the feed. Required when it unsubscribes or disconnects.

        Args:
            socket: The socket.
        """
        sockets = self._namespace.feeds.get(self._name)
        if sockets is not None:
            sockets.pop(socket, None)
            if not sockets:
                del self._namespace.feeds[self._name]

    def send(
        self,
        sockets: Collection[M],
        event: str,
        value: Any,
        body: bytes | None = None,
        attachments: Sequence[bytes] = (),
    ) -> None:
        """Send an event to those sockets that are subscribed, encoded once.

        Args:
            sockets: The recipients; those that are not subscribed are skipped.
            event: Name of the event.
            value: Its first argument, JSON without bytes.
            body: Its second argument as encoded JSON, such as `Publication.body`.
            attachments: Bytes in the second argument, in the order of their placeholders.
        """
        members = self._namespace.channels.members(self._channel)
        recipients = [socket for socket in sockets if socket in members]
        if not recipients:
            return
        text = json.dumps([event, value])
        if body is not None:
            text = text[:-1] + b"," + body + b"]"
        namespace = self._namespace
        message = namespace.registry.parser.from_json(namespace.name, text, attachments)
        namespace.deliver(message, recipients)
