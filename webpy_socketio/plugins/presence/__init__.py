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
``key`` and ``metas``. Without a backplane their receivers must not block. The events sent to
clients are described in `webpy_socketio.plugins.presence.diffs`.

With ``SOCKETIO_BACKPLANE``, presence covers all processes and is stored in Redis. Each change is
then signalled in one process only: where it was made or, for the sockets of a dead process, where
its death was detected. `members`, `count` and `counts` also work in processes without a
server.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

from blinker import Signal

from webpy_socketio import (
    ChannelError,
    ConfigurationError,
    EncodeError,
    Socket,
    configured,
    off,
    on_event,
    run_on_hub,
    signals,
)
from webpy_socketio.plugins.presence.checks import examine
from webpy_socketio.plugins.presence.diffs import DiffBroadcaster, describe
from webpy_socketio.plugins.presence.memory import MemoryStore
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.redis import PresenceReader, RedisStore
from webpy_socketio.plugins.presence.store import (
    Change,
    Channel,
    Listener,
    Metas,
    State,
    Store,
)

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

logger = logging.getLogger("webpy_socketio")

joined = signals.Stage("joined", "A key has its first connection in a channel.")
updated = signals.Stage("updated", "A key's connections or metas changed.")
left = signals.Stage("left", "A key's last connection left a channel.")

#: Maximum bytes of a key and its meta as JSON: every change is sent to all subscribers.
MAX_BYTES = 65_536

#: Intervals of leases, sweeps and comparisons in Redis; replaced in tests only.
INTERVALS = Intervals()

#: Reasons of a clean disconnect, requested by the client or the server. Other disconnects may be
#: accidental.
_CLEAN = (None, "client namespace disconnect", "server namespace disconnect")

#: Clients reconnect after this reason, possibly to another process.
_STOPPED = "server shutting down"


class _Presence:
    """State of the plugin while it is installed."""

    def __init__(self, settings: Any) -> None:
        self.store: Store = _open(settings, self)
        self._broadcaster = DiffBroadcaster(self.store.state, self.store.request_reset)
        self._key: Callable[..., Any] | None = settings.presence_key
        self._meta: Callable[..., Any] | None = settings.presence_meta
        self._grace: float = settings.presence_grace
        self._receivers: dict[Signal, Callable[..., Any]] = {
            signals.subscribe: self._on_subscribe,
            signals.unsubscribe: self._on_unsubscribe,
        }
        for stage, receiver in self._receivers.items():
            stage.connect(receiver, weak=False)
        self._state_handler = on_event("presence_state")(self._on_state_request)

    def close(self) -> None:
        off(self._state_handler)
        for stage, receiver in self._receivers.items():
            stage.disconnect(receiver)
        self._broadcaster.close()
        self.store.close()

    def _on_subscribe(
        self,
        sender: Any,
        request: dict[str, Any],
        socket: Socket,
        context: dict[str, Any],
        channel: str,
        **extra: Any,
    ) -> None:
        self.store.watch((socket.namespace, channel), socket.session_id)
        key = socket.session_id if self._key is None else self._key(request, socket, context)
        # A handler that ran earlier may have called `track`; its key takes precedence.
        known = self.store.is_present((socket.namespace, channel), socket.session_id)
        if key is not None and not known:
            meta = {} if self._meta is None else self._meta(request, socket, context)
            self.track(socket, channel, key, meta)
        state = self.store.state((socket.namespace, channel))
        if state is None:
            self.store.request_reset((socket.namespace, channel))
        else:
            socket.emit("presence_state", describe(channel, state))

    def _on_unsubscribe(
        self, sender: Any, socket: Socket, channel: str, reason: str | None = None, **extra: Any
    ) -> None:
        clean = reason in _CLEAN or (reason == _STOPPED and not self.store.lasting)
        target = (socket.namespace, channel)
        self.store.leave(target, socket.session_id, 0.0 if clean else self._grace)
        self.store.unwatch(target, socket.session_id)

    def _on_state_request(
        self, request: dict[str, Any], socket: Socket, context: dict[str, Any], *args: Any
    ) -> dict[str, Any]:
        """Answer the event ``presence_state`` of a client that missed a diff."""
        channel = args[0] if len(args) == 1 else None
        if not isinstance(channel, str) or channel not in socket.channels:
            return {"ok": False, "error": "not subscribed to this channel"}
        state = self.store.state((socket.namespace, channel))
        if state is None:
            self.store.request_reset((socket.namespace, channel))
            return {"ok": False, "error": "not known yet: presence_state follows"}
        return describe(channel, state)

    def track(self, socket: Socket, channel: str, key: str, meta: dict[str, Any]) -> None:
        if not isinstance(key, str) or not isinstance(meta, dict):
            raise TypeError("a presence key must be a str, and its meta a dict")
        if channel not in socket.channels:
            raise ChannelError(
                f"the socket is not subscribed to {channel!r}: call socket.subscribe() first"
            )
        if socket.connected:
            payload = _serialize(key, meta)
            self.store.join((socket.namespace, channel), socket.session_id, key, payload)

    def on_change(self, change: Change) -> None:
        self._broadcaster.add(change)

    def on_reset(self, channel: Channel) -> None:
        self._broadcaster.send_state(channel)

    def on_local_change(self, change: Change) -> None:
        namespace, channel = change.channel
        signal = updated if change.before and change.after else joined if change.after else left
        for receiver in signal.receivers_for(self.store):
            try:
                receiver(
                    self.store,
                    channel=channel,
                    namespace=namespace,
                    key=change.key,
                    metas=change.after or change.before,
                )
            except Exception:  # as with stages: one receiver must not stop another
                logger.exception("a receiver of a presence signal raised")


def _open(settings: Any, listener: Listener) -> Store:
    if settings.backplane is None:
        return MemoryStore(listener)
    location = (settings.backplane, settings.backplane_prefix)
    return RedisStore(*location, listener, settings.presence_grace, INTERVALS)


def _serialize(key: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the meta as sent to clients: the caller may modify the original."""
    try:
        text = json.dumps([key, meta], ensure_ascii=False, allow_nan=False)
        size = len(text.encode())  # rejects lone surrogates
    except (TypeError, ValueError) as error:
        raise EncodeError(
            f"key {key!r} and its meta cannot be represented as JSON: {error}"
        ) from None
    if size > MAX_BYTES:
        raise EncodeError(f"key and meta have {size} bytes; the limit is {MAX_BYTES}")
    copy: dict[str, Any] = json.loads(text)[1]
    return copy


_presence: _Presence | None = None


def install(settings: Any) -> None:
    """Connect to the signals and open the store; called when the server starts.

    Args:
        settings: Settings of the server.
    """
    global _presence
    _presence = _Presence(settings)


def uninstall() -> None:
    """Disconnect from the signals and close the store; called after the server has stopped."""
    global _presence
    if _presence is not None:
        _presence.close()
        _presence = None


def members(channel: str, *, namespace: str = "/") -> dict[str, Metas]:
    """Return the members of a channel, with one meta for each connection in the order of joining.

    With several processes, the members of all processes are read from Redis, after all pending
    changes of this process. May be called in any greenlet or thread, but with a backplane not on
    the hub.

    Args:
        channel: Name of the channel.
        namespace: Socket.IO namespace.

    Raises:
        BackplaneError: Redis did not reply within a second; no outdated result is returned.
        ConfigurationError: Neither this plugin nor a backplane is configured in this process.
    """
    if _presence is None:
        return _reader().fetch((namespace, channel)).members
    state: State = run_on_hub(_presence.store.fetch, (namespace, channel))
    return state.members


def count(channel: str, *, namespace: str = "/") -> int:
    """Return the number of keys in a channel; cheaper than `members`.

    Args:
        channel: Name of the channel.
        namespace: Socket.IO namespace.

    Raises:
        BackplaneError: Redis did not reply within a second.
    """
    return counts([channel], namespace=namespace)[channel]


def counts(channels: Iterable[str], *, namespace: str = "/") -> dict[str, int]:
    """Return the number of keys in each of several channels, with one request to Redis.

    Args:
        channels: Names of the channels.
        namespace: Socket.IO namespace.

    Raises:
        BackplaneError: Redis did not reply within a second.
    """
    names = list(channels)
    targets = [(namespace, name) for name in names]
    if _presence is None:
        return dict(zip(names, _reader().counts(targets), strict=True))
    return dict(zip(names, run_on_hub(_presence.store.counts, targets), strict=True))


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
    run_on_hub(_running().track, socket, channel, key, {} if meta is None else meta)


def untrack(socket: Socket, channel: str) -> None:
    """Remove a socket from the members of `channel`; it remains subscribed."""
    run_on_hub(_running().store.leave, (socket.namespace, channel), socket.session_id, 0.0)


def _running() -> _Presence:
    if _presence is None:
        raise ConfigurationError(f"presence is not installed: {_REMEDY}")
    return _presence


def _reader() -> PresenceReader:
    """Return the reader for processes in which the plugin is not installed."""
    settings = configured()
    if settings.backplane is None:
        raise ConfigurationError(
            f"presence is not installed: {_REMEDY}; or set SOCKETIO_BACKPLANE to read from other "
            "processes"
        )
    return PresenceReader(settings.backplane, settings.backplane_prefix, settings.presence_grace)


_REMEDY = (
    "add webpy_socketio.plugins.presence to SOCKETIO_PLUGINS, and start the server in this process"
)
