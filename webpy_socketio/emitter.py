"""Send messages from anywhere: from pages, greenlets, other threads and other processes.

All functions raise `NoSocket` if there is no recipient, and `EncodeError` if the message cannot be
encoded. After a function has returned, the message is queued for every recipient.

With ``SOCKETIO_BACKPLANE``, recipients are the sockets of all processes, and processes without a
server may call these functions. Redis is queried for recipients only if this process has none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from webpy_socketio import cluster
from webpy_socketio.backplane import Topic
from webpy_socketio.channels import check_name
from webpy_socketio.exceptions import CallerError, NoSocket
from webpy_socketio.registry import registry
from webpy_socketio.socket import Socket, encode

__all__ = ["broadcast", "broadcast_channel", "emit", "run_on_hub", "send", "sockets"]

T = TypeVar("T")


def broadcast(message: Any, *, namespace: str = "/") -> None:
    """Send a message to all sockets.

    Safe to call from any greenlet and any thread.

    Args:
        message: JSON-serializable value, or ``bytes``.
        namespace: Socket.IO namespace.

    Raises:
        NoSocket: No socket is connected in any process.
        EncodeError: `message` cannot be represented as JSON, or is too large.
        BackplaneError: No socket of this process matches, and Redis did not answer.
    """
    emit("message", message, namespace=namespace)


def broadcast_channel(message: Any, channel: str, *, namespace: str = "/") -> None:
    """Send a message to the subscribers of a channel.

    Safe to call from any greenlet and any thread.

    Args:
        message: JSON-serializable value, or ``bytes``.
        channel: Name of the channel.
        namespace: Socket.IO namespace.

    Raises:
        NoSocket: No socket is subscribed to `channel` in any process.
        EncodeError: `message` cannot be represented as JSON, or is too large.
        BackplaneError: No socket of this process matches, and Redis did not answer.
        ChannelError: `channel` is not a valid name.
    """
    emit("message", message, channel=channel, namespace=namespace)


def emit(
    event: str,
    *args: Any,
    channel: str | None = None,
    namespace: str = "/",
    local: bool = False,
) -> None:
    """Send a custom event to all sockets, or to the subscribers of one channel.

    Safe to call from any greenlet and any thread, and from processes without a server when
    ``SOCKETIO_BACKPLANE`` is set.

    Args:
        event: Name of the event. Names of the client library ("connect", "disconnect", …) and of
            this package ("__subscribe__", …) are reserved.
        *args: JSON-serializable values; ``bytes`` are sent as binary attachments.
        channel: Send to the subscribers of this channel only.
        namespace: Socket.IO namespace.
        local: Send to the sockets of this process only.

    Raises:
        NoSocket: No socket is connected (or subscribed to `channel`) in any process.
        EncodeError: The event cannot be represented as JSON, or is too large.
        ChannelError: `channel` is not a valid name.
        BackplaneError: No socket of this process matches, and Redis did not answer.

    Example:
        >>> emit("news", {"text": "hello"}, channel="room-1")
    """
    limits = cluster.limits()
    if channel is not None:
        check_name(channel, limits.max_channel_length)
    encoded = encode(namespace, event, args, limits.broadcast_bytes)
    found = registry.get(namespace)
    if found is not None and channel is None and found.sockets:
        registry.call_soon(partial(found.broadcast, encoded, local=local))
    elif found is not None and channel is not None and found.channels.members(channel):
        registry.call_soon(partial(found.broadcast_channels, encoded, (channel,), local=local))
    else:
        topic = _topic(namespace, channel)
        if local or not cluster.publish_and_count(encoded, topic):
            condition = "connected" if channel is None else f"subscribed to the channel {channel!r}"
            raise NoSocket(f"no client is {condition}{_explain_no_server()}")


def _topic(namespace: str, channel: str | None) -> Topic:
    return (
        Topic.namespace_topic(namespace) if channel is None else Topic.channel(namespace, channel)
    )


def run_on_hub(function: Callable[..., T], *args: Any) -> T:
    """Call a function in the thread of the sockets, and wait for its result.

    Protects state that receivers and other threads share, such as that of a plugin. A plain call if
    the current thread is that thread already.

    Args:
        function: The function; it may wait.
        *args: Its arguments.

    Returns:
        The result of the function. Its exceptions are raised here.
    """
    result: T = registry.run_on_hub(function, *args)
    return result


def sockets(namespace: str | None = None) -> list[Socket]:
    """Return the sockets that are connected to this process.

    The list is a copy; sockets in it may disconnect at any time.

    Args:
        namespace: Return the sockets of this namespace only. Default: of all namespaces.
    """
    namespaces = registry.namespaces() if namespace is None else [registry.get(namespace)]
    # list() is atomic; iterating over the dict would fail when another thread changes it.
    return [
        socket
        for found in namespaces
        if found is not None
        for socket in list(found.sockets.values())
    ]


def send(session_id: str, message: Any) -> None:
    """Send a message to one socket.

    Safe to call from any greenlet and any thread.

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
    socket = registry.find(session_id)
    if socket is not None and socket.connected:
        socket.send(message)
        return
    # The namespace is known to the receiving process only, which adds it to the packet.
    encoded = encode("/", "message", (message,), cluster.limits().broadcast_bytes)
    if cluster.publish_and_count(encoded, Topic.session(session_id)):
        return
    raise NoSocket(
        f"no client is connected with the session id {session_id!r}{_explain_no_server()}"
    )


def _explain_no_server() -> str:
    if cluster.serving():
        return ""
    if cluster.is_forked():
        return (
            ": this process was forked from a server and cannot use the connections of its "
            "parent; to reach those clients, set SOCKETIO_BACKPLANE"
        )
    return (
        ": no SocketIOServer runs in this process; to reach the clients of another process, set "
        "the same SOCKETIO_BACKPLANE in both"
    )
