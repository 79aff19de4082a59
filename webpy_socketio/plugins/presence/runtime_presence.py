"""Presence in one runtime, and its signals."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable
from typing import Any

from blinker import Signal

from webpy_socketio import ChannelError, EncodeError, Runtime, Socket
from webpy_socketio.plugins.presence.diffs import DiffBroadcaster, describe
from webpy_socketio.plugins.presence.memory import MemoryStore
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.redis import RedisStore
from webpy_socketio.plugins.presence.store import Change, Channel, Listener, Store
from webpy_socketio.signals import Stage

__all__ = ["Presence", "joined", "left", "updated"]

logger = logging.getLogger("webpy_socketio")

joined = Stage("joined", "A key has its first connection in a channel.")
updated = Stage("updated", "A key's connections or metas changed.")
left = Stage("left", "A key's last connection left a channel.")

#: Maximum bytes of a key and its meta as JSON: every change is sent to all subscribers.
MAX_BYTES = 65_536

#: Reasons of a clean disconnect, requested by the client or the server. Other disconnects may be
#: accidental.
_CLEAN = (None, "client namespace disconnect", "server namespace disconnect")

#: Clients reconnect after this reason, possibly to another process.
_STOPPED = "server shutting down"


class Presence:
    """Presence in one runtime: its receivers, its store, and the changes sent to clients."""

    def __init__(self, settings: Any, runtime: Runtime, intervals: Intervals) -> None:
        self._runtime = runtime
        self.store: Store = _open(settings, self, intervals)
        self._broadcaster = DiffBroadcaster(runtime, self.store.state, self.store.request_reset)
        self._key: Callable[..., Any] | None = settings.presence_key
        self._meta: Callable[..., Any] | None = settings.presence_meta
        # With recovery, a lost client remains a member while it may resume its connection.
        self._grace: float = 0.0 if settings.recovery_time else settings.presence_grace
        #: Sockets of other processes that have moved here, and have not resumed yet.
        self._adopted: weakref.WeakSet[Socket] = weakref.WeakSet()
        self._receivers: dict[Signal, Callable[..., Any]] = {
            runtime.signals.subscribe: self._on_subscribe,
            runtime.signals.unsubscribe: self._on_unsubscribe,
            runtime.signals.release: self._on_release,
            runtime.signals.adopt: self._on_adopt,
            runtime.signals.resume: self._on_resume,
        }
        for stage, receiver in self._receivers.items():
            stage.connect(receiver, weak=False)
        self._state_handler = runtime.events.on_event("presence_state")(self._on_state_request)

    def close(self) -> None:
        """Disconnect from the signals, and close the store."""
        self._runtime.events.off(self._state_handler)
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
        self._send_state(socket, channel)

    def _on_unsubscribe(
        self, sender: Any, socket: Socket, channel: str, reason: str | None = None, **extra: Any
    ) -> None:
        clean = reason in _CLEAN or (reason == _STOPPED and not self.store.lasting)
        target = (socket.namespace, channel)
        self.store.leave(target, socket.session_id, 0.0 if clean else self._grace)
        self.store.unwatch(target, socket.session_id)

    def _on_release(
        self, sender: Any, socket: Socket, state: dict[str, Any], remaining: float, **extra: Any
    ) -> None:
        """Leave the connections of a socket to the process to which it moves."""
        released = {}
        for channel in socket.channels:
            target = (socket.namespace, channel)
            released[channel] = self.store.release(target, socket.session_id, remaining)
            self.store.unwatch(target, socket.session_id)
        state["presence"] = released

    def _on_adopt(self, sender: Any, socket: Socket, state: dict[str, Any], **extra: Any) -> None:
        released = state.get("presence") or {}
        for channel in socket.channels:
            target = (socket.namespace, channel)
            self.store.watch(target, socket.session_id)
            entry = released.get(channel)
            if entry is not None:
                self.store.adopt(target, socket.session_id, *entry)
        self._adopted.add(socket)

    def _on_resume(self, sender: Any, socket: Socket, **extra: Any) -> None:
        """Send the states to a client that has moved here: it may have missed diffs."""
        if socket in self._adopted:
            self._adopted.discard(socket)
            for channel in socket.channels:
                self._send_state(socket, channel)

    def _send_state(self, socket: Socket, channel: str) -> None:
        state = self.store.state((socket.namespace, channel))
        if state is None:
            self.store.request_reset((socket.namespace, channel))
        else:
            socket.emit("presence_state", describe(channel, state))

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
        """Make a subscribed socket a member, or change its key or meta."""
        if not isinstance(key, str) or not isinstance(meta, dict):
            raise TypeError("a presence key must be a str, and its meta a dict")
        if channel not in socket.channels:
            raise ChannelError(
                f"the socket is not subscribed to {channel!r}: call socket.subscribe() first"
            )
        if socket.connected or socket.suspended:
            payload = _serialize(key, meta)
            self.store.join((socket.namespace, channel), socket.session_id, key, payload)

    def on_change(self, change: Change) -> None:
        self._broadcaster.add(change)

    def on_reset(self, channel: Channel) -> None:
        self._broadcaster.send_state(channel)

    def on_local_change(self, change: Change) -> None:
        namespace, channel = change.channel
        signal = updated if change.before and change.after else joined if change.after else left
        for receiver in signal.receivers_for(self._runtime):
            try:
                receiver(
                    self._runtime,
                    channel=channel,
                    namespace=namespace,
                    key=change.key,
                    metas=change.after or change.before,
                )
            except Exception:  # as with stages: one receiver must not stop another
                logger.exception("a receiver of a presence signal raised")


def _open(settings: Any, listener: Listener, intervals: Intervals) -> Store:
    if settings.backplane is None:
        return MemoryStore(listener)
    location = (settings.backplane, settings.backplane_prefix)
    return RedisStore(*location, listener, settings.presence_grace, intervals)


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
