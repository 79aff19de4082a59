"""Sending from anywhere: a page's handler, a greenlet, another thread.

Each function raises `NoSocket` if nobody is there to receive, and `EncodeError` if the message
cannot be sent; once it returns, the message is on its way to everybody who was there.

With ``SOCKETIO_BACKPLANE`` that is everybody in all processes, and a process without any server may
call them too. Whether somebody is there is asked of Redis only when nobody is in this process;
`BackplaneError` is raised if it does not answer.
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
    """Send a message to every socket."""
    emit("message", message, namespace=namespace)


def broadcast_channel(message: Any, channel: str, *, namespace: str = "/") -> None:
    """Send a message to every subscriber of a channel. Raises `ChannelError` for a bad name."""
    emit("message", message, channel=channel, namespace=namespace)


def emit(
    event: str,
    *args: Any,
    channel: str | None = None,
    namespace: str = "/",
    local: bool = False,
) -> None:
    """Send a custom event to every socket or, with `channel`, to every subscriber of it.

    With `local` only to those of this process, for what other processes tell theirs by themselves.
    """
    limits = cluster.limits()
    if channel is not None:
        check_name(channel, limits.max_channel_length)
    encoded = encode(namespace, event, args, limits.broadcast_bytes)
    space = registry.get(namespace)
    if space is not None and channel is None and space.sockets:
        registry.call_soon(partial(space.broadcast, encoded, local=local))
    elif space is not None and channel is not None and space.channels.members(channel):
        registry.call_soon(partial(space.broadcast_channels, encoded, (channel,), local=local))
    else:
        topic = _topic(namespace, channel)
        if local or not cluster.publish_and_count(encoded, topic):
            whom = "connected" if channel is None else f"subscribed to the channel {channel!r}"
            raise NoSocket(f"no client is {whom}{_why()}")


def _topic(namespace: str, channel: str | None) -> Topic:
    return (
        Topic.namespace_topic(namespace) if channel is None else Topic.channel(namespace, channel)
    )


def run_on_hub(function: Callable[..., T], *args: Any) -> T:
    """Call `function` in the thread that the sockets live in; return or raise what it does.

    For plugins and others with state of their own that receivers and other threads share. In that
    thread already, it is a plain call.
    """
    result: T = registry.run_on_hub(function, *args)
    return result


def sockets(namespace: str | None = None) -> list[Socket]:
    """The sockets that are connected to this process: of one namespace, or of all.

    The list is yours. Some of them may be gone when you look at them.
    """
    spaces = registry.namespaces() if namespace is None else [registry.get(namespace)]
    # One step each: another thread's loop over a dict would not bear a change.
    return [
        socket for space in spaces if space is not None for socket in list(space.sockets.values())
    ]


def send(session_id: str, message: Any) -> None:
    """Send a message to one socket, named by its ``socket.session.session_id``."""
    if not isinstance(session_id, str):
        raise CallerError(
            f"send() takes a session id first, which is text, not {type(session_id).__name__}: "
            "socket.session.session_id; with a socket at hand, socket.send(message)"
        )
    socket = registry.find(session_id)
    if socket is not None and socket.connected:
        socket.send(message)
        return
    # Nobody here knows its namespace; whoever delivers it puts that in front.
    encoded = encode("/", "message", (message,), cluster.limits().broadcast_bytes)
    if cluster.publish_and_count(encoded, Topic.session(session_id)):
        return
    raise NoSocket(f"no client is connected with the session id {session_id!r}{_why()}")


def _why() -> str:
    if cluster.serving():
        return ""
    if cluster.is_forked():
        return (
            ": this process was forked from a server, whose clients are not its own; to reach them, set "
            "SOCKETIO_BACKPLANE"
        )
    return (
        ": no SocketIOServer runs in this process; to reach the clients of another one, give both "
        "the same SOCKETIO_BACKPLANE"
    )
