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
`webpy_socketio.plugins.presence.feed`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from blinker import Signal

from webpy_socketio import (
    ChannelError,
    ConfigurationError,
    EncodeError,
    Socket,
    run_on_hub,
    signals,
)
from webpy_socketio.plugins.presence.feed import Feed, describe
from webpy_socketio.plugins.presence.store import Change, MemoryStore, Metas, State, Store

__all__ = [
    "count",
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

#: Ends of which the client knows: it meant to go, or was sent away. All others may be accidents.
_CLEAN = (
    None,
    "client namespace disconnect",
    "server namespace disconnect",
    "server shutting down",
)


class _Presence:
    """The plugin, while it is switched on."""

    def __init__(self, settings: Any) -> None:
        self.store: Store = MemoryStore(self._changed)
        self._feed = Feed(lambda channel: len(self.store.state(channel).members))
        self._key: Callable[..., Any] | None = settings.presence_key
        self._meta: Callable[..., Any] | None = settings.presence_meta
        self._grace: float = settings.presence_grace
        self._receivers: dict[Signal, Callable[..., Any]] = {
            signals.subscribe: self._subscribe,
            signals.unsubscribe: self._unsubscribe,
            signals.message: self._message,
        }
        for stage, receiver in self._receivers.items():
            stage.connect(receiver, weak=False)

    def close(self) -> None:
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
        key = socket.session_id if self._key is None else self._key(request, socket, context)
        # A handler that ran before may have tracked it already, and knows better.
        known = self.store.knows((socket.namespace, channel), socket.session_id)
        if key is not None and not known:
            meta = {} if self._meta is None else self._meta(request, socket, context)
            self.track(socket, channel, key, meta)
        socket.emit("presence_state", self._describe(socket, channel))

    def _unsubscribe(
        self, sender: Any, socket: Socket, channel: str, reason: str | None = None, **extra: Any
    ) -> None:
        grace = 0.0 if reason in _CLEAN else self._grace
        self.store.leave((socket.namespace, channel), socket.session_id, grace)

    def _message(
        self, sender: Any, socket: Socket, event: str, args: list[Any], **extra: Any
    ) -> dict[str, Any] | None:
        """Answer a client that missed a diff and asks for the state again."""
        if event != "presence_state":
            return None
        channel = args[0] if len(args) == 1 else None
        if not isinstance(channel, str) or channel not in socket.channels:
            return {"ok": False, "error": "not subscribed to this channel"}
        return self._describe(socket, channel)

    def _describe(self, socket: Socket, channel: str) -> dict[str, Any]:
        return describe(channel, self.store.state((socket.namespace, channel)))

    def track(self, socket: Socket, channel: str, key: str, meta: dict[str, Any]) -> None:
        if not isinstance(key, str) or not isinstance(meta, dict):
            raise TypeError("a presence key is a str, and its meta a dict")
        if channel not in socket.channels:
            raise ChannelError(f"the socket is not subscribed to {channel!r}: subscribe it first")
        if socket.connected:
            told = _copy(key, meta)
            self.store.join((socket.namespace, channel), socket.session_id, key, told)

    def _changed(self, change: Change) -> None:
        self._feed.add(change)
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


def _copy(key: str, meta: dict[str, Any]) -> dict[str, Any]:
    """What clients will be told: a copy, as the caller may go on changing his own."""
    try:
        text = json.dumps([key, meta], ensure_ascii=False, allow_nan=False)
        text.encode()  # no lone surrogates
    except (TypeError, ValueError) as error:
        raise EncodeError(f"clients cannot be told of {key!r}: {error}") from None
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
    """Who is in a channel: for each key, one meta a connection, in the order of joining."""
    state: State = run_on_hub(_running().store.state, (namespace, channel))
    return state.members


def count(channel: str, *, namespace: str = "/") -> int:
    """How many keys are in a channel."""
    return len(members(channel, namespace=namespace))


def track(socket: Socket, channel: str, key: str, meta: dict[str, Any] | None = None) -> None:
    """Let a subscribed socket be present in `channel` under `key`; or change its key or meta.

    Clients see `meta`: leave secrets out. Raises `ChannelError` if the socket is not subscribed,
    and `EncodeError` if JSON cannot hold the meta.
    """
    run_on_hub(_running().track, socket, channel, key, {} if meta is None else meta)


def untrack(socket: Socket, channel: str) -> None:
    """Let a socket be present no more, while it stays subscribed."""
    run_on_hub(_running().store.leave, (socket.namespace, channel), socket.session_id, 0.0)


def _running() -> _Presence:
    if _presence is None:
        raise ConfigurationError(
            "presence is not switched on: name webpy_socketio.plugins.presence in SOCKETIO_PLUGINS, "
            "and start the server"
        )
    return _presence
