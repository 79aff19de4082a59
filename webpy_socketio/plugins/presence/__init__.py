"""Presence: the members of a channel, with their metadata and connections.

Add the plugin to ``SOCKETIO_PLUGINS``. A socket that subscribes to a channel becomes a member under
the key ``SOCKETIO_PRESENCE_KEY(request, socket, context)``, by default its session id.
``SOCKETIO_PRESENCE_META`` returns its metadata. A socket with a key of None is not a member until
`track` is called::

    from webpy_socketio.plugins import presence

    presence.track(socket, "room-1", "Ann", {"status": "typing"})
    presence.members("room-1")              # {"Ann": [{"status": "typing"}]}

A key with several connections, such as a user with several tabs, is one member with several metas.
After an unclean disconnect, a connection remains a member for ``SOCKETIO_PRESENCE_GRACE`` seconds.
If a connection with the same key joins in that time, no change is reported.

The signals `joined`, `updated` and `left` are sent with the keywords ``channel``, ``namespace``,
``key`` and ``metas``; the sender is the runtime. Without a backplane their receivers must not
block. The events sent to clients are described in `webpy_socketio.plugins.presence.diffs`.

With ``SOCKETIO_BACKPLANE``, presence covers all processes and is stored in Redis. Each change is
then signalled in one process only: where it was made or, for the sockets of a failed process, where
the failure was detected. `members`, `count` and `counts` also work in processes without a server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from webpy_socketio import ConfigurationError, Runtime, Socket, default_runtime
from webpy_socketio.plugins.presence.checks import examine
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.redis import PresenceReader
from webpy_socketio.plugins.presence.runtime_presence import Presence, joined, left, updated
from webpy_socketio.plugins.presence.store import Metas, State

__all__ = [
    "count",
    "counts",
    "examine",
    "install",
    "joined",
    "left",
    "members",
    "track",
    "uninstall",
    "untrack",
    "updated",
]

#: Intervals of leases, sweeps and comparisons in Redis; replaced in tests only.
INTERVALS = Intervals()

#: The presence of each runtime in which the plugin is installed.
_installed: dict[Runtime, Presence] = {}


def install(settings: Any, runtime: Runtime) -> None:
    """Connect to the signals and open the store; called when the server starts.

    Args:
        settings: Settings of the server.
        runtime: Runtime of the server, whose sockets become members.
    """
    _installed[runtime] = Presence(settings, runtime, INTERVALS)


def uninstall(runtime: Runtime) -> None:
    """Disconnect from the signals and close the store; called after the server has stopped."""
    presence = _installed.pop(runtime, None)
    if presence is not None:
        presence.close()


def members(
    channel: str, *, namespace: str = "/", runtime: Runtime = default_runtime
) -> dict[str, Metas]:
    """Return the members of a channel, with one meta for each connection in the order of joining.

    With several processes, the members of all processes are read from Redis, after all pending
    changes of this process. May be called in any greenlet or thread, but with a backplane not on
    the hub.

    Args:
        channel: Name of the channel.
        namespace: Socket.IO namespace.
        runtime: Runtime of the members.

    Raises:
        BackplaneError: Redis did not reply within a second; no outdated result is returned.
        ConfigurationError: Neither this plugin nor a backplane is configured in this process.
    """
    presence = _installed.get(runtime)
    if presence is None:
        return _reader(runtime).fetch((namespace, channel)).members
    state: State = runtime.run_on_hub(presence.store.fetch, (namespace, channel))
    return state.members


def count(channel: str, *, namespace: str = "/", runtime: Runtime = default_runtime) -> int:
    """Return the number of keys in a channel; cheaper than `members`.

    Args:
        channel: Name of the channel.
        namespace: Socket.IO namespace.
        runtime: Runtime of the members.

    Raises:
        BackplaneError: Redis did not reply within a second.
    """
    return counts([channel], namespace=namespace, runtime=runtime)[channel]


def counts(
    channels: Iterable[str], *, namespace: str = "/", runtime: Runtime = default_runtime
) -> dict[str, int]:
    """Return the number of keys in each of several channels, with one request to Redis.

    Args:
        channels: Names of the channels.
        namespace: Socket.IO namespace.
        runtime: Runtime of the members.

    Raises:
        BackplaneError: Redis did not reply within a second.
    """
    names = list(channels)
    targets = [(namespace, name) for name in names]
    presence = _installed.get(runtime)
    if presence is None:
        return dict(zip(names, _reader(runtime).counts(targets), strict=True))
    return dict(zip(names, runtime.run_on_hub(presence.store.counts, targets), strict=True))


def track(socket: Socket, channel: str, key: str, meta: dict[str, Any] | None = None) -> None:
    """Make a subscribed socket a member of `channel`, or change its key or meta.

    May be called in any greenlet or thread. Ignored if the socket has disconnected.

    Args:
        socket: A socket that is subscribed to the channel.
        channel: Name of the channel.
        key: Key of the member, such as the name of a user.
        meta: JSON object that is sent to all subscribers: must not contain secrets.

    Raises:
        ChannelError: The socket is not subscribed to the channel.
        EncodeError: Key and meta cannot be represented as JSON, or exceed 65,536 bytes.
    """
    runtime = Runtime.of(socket)
    track = _running(runtime).track
    runtime.run_on_hub(track, socket, channel, key, {} if meta is None else meta)


def untrack(socket: Socket, channel: str) -> None:
    """Remove a socket from the members of `channel`; it remains subscribed."""
    runtime = Runtime.of(socket)
    leave = _running(runtime).store.leave
    runtime.run_on_hub(leave, (socket.namespace, channel), socket.session_id, 0.0)


def _running(runtime: Runtime) -> Presence:
    presence = _installed.get(runtime)
    if presence is None:
        raise ConfigurationError(f"presence is not installed: {_REMEDY}")
    return presence


def _reader(runtime: Runtime) -> PresenceReader:
    """Return the reader for processes in which the plugin is not installed."""
    settings = runtime.configured()
    if settings.backplane is None:
        raise ConfigurationError(
            f"presence is not installed: {_REMEDY}; or set SOCKETIO_BACKPLANE to read from other "
            "processes"
        )
    return PresenceReader(settings.backplane, settings.backplane_prefix, settings.presence_grace)


_REMEDY = (
    "add webpy_socketio.plugins.presence to SOCKETIO_PLUGINS, and start the server in this process"
)
