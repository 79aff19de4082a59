"""Who is in a channel: under which key, with what told about them, from how many connections.

Switched on by naming it in ``SOCKETIO_PLUGINS``. A socket that subscribes is then present under
``SOCKETIO_PRESENCE_KEY(request, socket, context)``, by default its session id, with what
``SOCKETIO_PRESENCE_META`` returns; a key of None leaves it out, until `track` names it::

    from webpy_socketio.plugins import presence

    presence.track(socket, "room-1", "Ann", {"status": "typing"})
    presence.members("room-1")              # {"Ann": [{"status": "typing"}]}

A key with several connections, a person with several tabs, is one member with several metas. A
client that vanishes counts as there for ``SOCKETIO_PRESENCE_GRACE`` seconds; coming back under the
same key within them, it never left.

The signals `joined`, `updated` and `left` are sent with keywords ``channel``, ``namespace``,
``key`` and ``metas``; their receivers must not wait. What clients are told is in
`webpy_socketio.plugins.presence.diffs`.

With ``SOCKETIO_BACKPLANE`` presence is that of all processes, kept in Redis. Each change is then
signalled in one of them only: where it was made, which for the sockets of a process that died is the
one that noticed. `members`, `count` and `counts` may be called in a process without a server too.
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
updated = signals.Stage("updated", "A key's connections, or what is told about them, changed.")
left = signals.Stage("left", "A key's last connection left a channel.")

#: Bytes of a key and its meta, as JSON: everybody in the channel is told of it at every change.
MAX_BYTES = 65_536

#: In Redis: of leases, sweeps and comparisons. Shorter only in tests.
INTERVALS = Intervals()

#: Ends of which the client knows: it meant to go, or was sent away. All others may be accidents.
_CLEAN = (None, "client namespace disconnect", "server namespace disconnect")

#: After this one clients come back, if not to this process.
_STOPPED = "server shutting down"


class _Presence:
    """The plugin, while it is switched on."""

    def __init__(self, settings: Any) -> None:
        self.store: Store = _open(settings, self)
        self._feed = DiffBroadcaster(self.store.state, self.store.owe)
        self._key: Callable[..., Any] | None = settings.presence_key
        self._meta: Callable[..., Any] | None = settings.presence_meta
        self._grace: float = settings.presence_grace
        self._receivers: dict[Signal, Callable[..., Any]] = {
            signals.subscribe: self._subscribe,
            signals.unsubscribe: self._unsubscribe,
        }
        for stage, receiver in self._receivers.items():
            stage.connect(receiver, weak=False)
        self._answer = on_event("presence_state")(self._tell_state)

    def close(self) -> None:
        off(self._answer)
        for stage, receiver in self._receivers.items():
            stage.disconnect(receiver)
        self._feed.close()
        self.store.close()

    def _subscribe(
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
        # A handler that ran before may have tracked it already, and knows better.
        known = self.store.knows((socket.namespace, channel), socket.session_id)
        if key is not None and not known:
            meta = {} if self._meta is None else self._meta(request, socket, context)
            self.track(socket, channel, key, meta)
        state = self.store.state((socket.namespace, channel))
        if state is None:
            self.store.owe((socket.namespace, channel))
        else:
            socket.emit("presence_state", describe(channel, state))

    def _unsubscribe(
        self, sender: Any, socket: Socket, channel: str, reason: str | None = None, **extra: Any
    ) -> None:
        clean = reason in _CLEAN or (reason == _STOPPED and not self.store.lasting)
        where = (socket.namespace, channel)
        self.store.leave(where, socket.session_id, 0.0 if clean else self._grace)
        self.store.unwatch(where, socket.session_id)

    def _tell_state(
        self, request: dict[str, Any], socket: Socket, context: dict[str, Any], *args: Any
    ) -> dict[str, Any]:
        """Answer a client that missed a diff and asks for the state again."""
        channel = args[0] if len(args) == 1 else None
        if not isinstance(channel, str) or channel not in socket.channels:
            return {"ok": False, "error": "not subscribed to this channel"}
        state = self.store.state((socket.namespace, channel))
        if state is None:
            self.store.owe((socket.namespace, channel))
            return {"ok": False, "error": "not known yet: it will be told"}
        return describe(channel, state)

    def track(self, socket: Socket, channel: str, key: str, meta: dict[str, Any]) -> None:
        if not isinstance(key, str) or not isinstance(meta, dict):
            raise TypeError("a presence key is a str, and its meta a dict")
        if channel not in socket.channels:
            raise ChannelError(f"the socket is not subscribed to {channel!r}: subscribe it first")
        if socket.connected:
            told = _copy(key, meta)
            self.store.join((socket.namespace, channel), socket.session_id, key, told)

    def on_change(self, change: Change) -> None:
        self._feed.add(change)

    def on_reset(self, channel: Channel) -> None:
        self._feed.renew(channel)

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
            except Exception:  # as with the stages: one receiver does not stop another
                logger.exception("a receiver of a presence signal failed")


def _open(settings: Any, listener: Listener) -> Store:
    if settings.backplane is None:
        return MemoryStore(listener)
    place = (settings.backplane, settings.backplane_prefix)
    return RedisStore(*place, listener, settings.presence_grace, INTERVALS)


def _copy(key: str, meta: dict[str, Any]) -> dict[str, Any]:
    """What clients will be told: a copy, as the caller may go on changing his own."""
    try:
        text = json.dumps([key, meta], ensure_ascii=False, allow_nan=False)
        size = len(text.encode())  # no lone surrogates
    except (TypeError, ValueError) as error:
        raise EncodeError(f"clients cannot be told of {key!r}: {error}") from None
    if size > MAX_BYTES:
        raise EncodeError(f"key and meta have {size} bytes, where {MAX_BYTES} are the limit")
    copy: dict[str, Any] = json.loads(text)[1]
    return copy


_presence: _Presence | None = None


def install(settings: Any) -> None:
    """Begin; called when the server starts."""
    global _presence
    _presence = _Presence(settings)


def uninstall() -> None:
    """End, and forget everybody; called when the server has stopped."""
    global _presence
    if _presence is not None:
        _presence.close()
        _presence = None


def members(channel: str, *, namespace: str = "/") -> dict[str, Metas]:
    """Who is in a channel: for each key, one meta a connection, in the order of joining.

    Where there are several processes, in all of them: it is asked of Redis, and what this process did
    before is counted. Raises `BackplaneError` if Redis does not answer within a second, as what was
    so a while ago would look like the truth.
    """
    if _presence is None:
        return _reader().ask((namespace, channel)).members
    state: State = run_on_hub(_presence.store.ask, (namespace, channel))
    return state.members


def count(channel: str, *, namespace: str = "/") -> int:
    """How many keys are in a channel; otherwise as `members`, and cheaper."""
    return counts([channel], namespace=namespace)[channel]


def counts(channels: Iterable[str], *, namespace: str = "/") -> dict[str, int]:
    """How many keys are in each of many channels: Redis is asked once for all of them."""
    names = list(channels)
    places = [(namespace, name) for name in names]
    if _presence is None:
        return dict(zip(names, _reader().counts(places), strict=True))
    return dict(zip(names, run_on_hub(_presence.store.counts, places), strict=True))


def track(socket: Socket, channel: str, key: str, meta: dict[str, Any] | None = None) -> None:
    """Let a subscribed socket be present in `channel` under `key`; or change its key or meta.

    Clients see `meta`: leave secrets out. Raises `ChannelError` if the socket is not subscribed,
    and `EncodeError` if JSON cannot hold the meta, or it is larger than 65,536 bytes.
    """
    run_on_hub(_running().track, socket, channel, key, {} if meta is None else meta)


def untrack(socket: Socket, channel: str) -> None:
    """Let a socket be present no more, while it stays subscribed."""
    run_on_hub(_running().store.leave, (socket.namespace, channel), socket.session_id, 0.0)


def _running() -> _Presence:
    if _presence is None:
        raise ConfigurationError(f"presence is not switched on: {_REMEDY}")
    return _presence


def _reader() -> PresenceReader:
    """Whom to ask in a process in which presence is not switched on."""
    settings = configured()
    if settings.backplane is None:
        raise ConfigurationError(
            f"presence is not switched on: {_REMEDY}; or, to ask from elsewhere, set SOCKETIO_BACKPLANE"
        )
    return PresenceReader(settings.backplane, settings.backplane_prefix, settings.presence_grace)


_REMEDY = (
    "name webpy_socketio.plugins.presence in SOCKETIO_PLUGINS, and start the server in this process"
)
