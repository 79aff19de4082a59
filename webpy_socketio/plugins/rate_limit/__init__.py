"""Refuses what comes too often: messages, subscriptions, attempts to connect.

Switched on by naming it in ``SOCKETIO_PLUGINS``. Each limit is a pair, ``(rate, burst)``: a bucket of
``burst`` tokens, into which ``rate`` tokens a second fall; each message takes one. A socket has its own
buckets, and so has a key, whatever ``SOCKETIO_RATE_LIMIT_KEY(request, socket, context)`` says: an address,
a user, a tenant. Its sockets share them. A key of None has no limits but those of its sockets.

What is refused runs no handler. Who asked for an acknowledgement gets ``{"error": "rate limit"}``; the
client gets an event ``rate_limit`` with ``what`` ("messages" or "subscriptions"), ``refused`` (how many
since it was told last) and ``retry`` (after how many seconds there is a token again): the first at once,
further ones once a second at most. Who is refused too often in spite of that is disconnected.

Only what clients do is counted: not the subscriptions that the server makes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Hashable
from typing import Any

from webpy_socketio import Refused, Socket, monotonic, signals
from webpy_socketio.plugins.rate_limit.buckets import Buckets
from webpy_socketio.plugins.rate_limit.notices import Notices

__all__ = ["install", "uninstall"]

logger = logging.getLogger("webpy_socketio")

#: What a client is told: the text of a refusal.
REASON = "rate limit"

#: Characters of a key that is kept as it is.
MAX_KEY = 64


class _Limits:
    """The plugin, while it is switched on."""

    def __init__(self, settings: Any) -> None:
        self._key: Callable[..., Hashable] | None = settings.rate_limit_key
        self._keys: dict[Socket, Hashable] = {}
        self._notices = Notices()
        self._buckets: list[Buckets] = []
        make = self._make
        self._messages = make(settings.rate_limit_messages)
        self._subscriptions = make(settings.rate_limit_subscriptions)
        self._refusals = make(settings.rate_limit_refusals)
        if self._key is None:
            self._key_messages = self._key_subscriptions = self._key_connections = None
        else:
            self._key_messages = make(settings.rate_limit_key_messages)
            self._key_subscriptions = make(settings.rate_limit_key_subscriptions)
            self._key_connections = make(settings.rate_limit_key_connections)
        self._receivers: dict[signals.Stage, Callable[..., Any]] = {
            signals.error: self._error,
            signals.finish: self._finish,
        }
        if self._key_connections is not None:
            self._receivers[signals.connecting] = self._connecting
        if self._messages is not None or self._key_messages is not None:
            self._receivers[signals.receiving] = self._receiving
        if self._subscriptions is not None or self._key_subscriptions is not None:
            self._receivers[signals.subscribing] = self._subscribing
        for stage, receiver in self._receivers.items():
            # First: what another gate would ask a database is not asked for what is refused.
            stage.connect(receiver, first=True)

    def close(self) -> None:
        for stage, receiver in self._receivers.items():
            stage.disconnect(receiver)
        self._notices.close()
        for buckets in self._buckets:
            buckets.close()

    def _make(self, limit: tuple[float, int] | None) -> Buckets | None:
        if limit is None:
            return None
        buckets = Buckets(*limit)
        self._buckets.append(buckets)
        return buckets

    # -- the gates

    def _connecting(
        self, sender: Any, request: Any, socket: Socket, context: Any, **extra: Any
    ) -> None:
        assert self._key is not None
        assert self._key_connections is not None
        # Not the key that its messages will have: nobody has said yet who this is.
        key = _shorten(self._key(request, socket, context))
        if key is None:
            return
        now = monotonic()
        if self._key_connections.wait(key, now):
            raise Refused(REASON)
        self._key_connections.take(key, now)

    def _receiving(self, sender: Any, socket: Socket, **extra: Any) -> None:
        self._pass(socket, "messages", self._messages, self._key_messages)

    def _subscribing(self, sender: Any, socket: Socket, by_client: bool, **extra: Any) -> None:
        if by_client:
            self._pass(socket, "subscriptions", self._subscriptions, self._key_subscriptions)

    def _pass(self, socket: Socket, what: str, own: Buckets | None, shared: Buckets | None) -> None:
        now = monotonic()
        key = None if shared is None else self._key_of(socket)
        wait = 0.0 if own is None else own.wait(socket, now)
        if shared is not None and key is not None:
            wait = max(wait, shared.wait(key, now))
        if wait:
            self._notices.add(socket, what, now + wait)
            self._offended(socket, now)
            raise Refused(REASON)
        if own is not None:
            own.take(socket, now)
        if shared is not None and key is not None:
            shared.take(key, now)

    def _key_of(self, socket: Socket) -> Hashable:
        """Its key; asked again as long as there is none, as a handler may still find out who it is."""
        key = self._keys.get(socket)
        if key is None and self._key is not None:
            key = _shorten(self._key(socket.request, socket, socket.context))
            if key is not None:
                self._keys[socket] = key
        return key

    # -- who does not stop

    def _error(self, sender: Any, socket: Socket, by_client: bool, **extra: Any) -> None:
        """A broken rule costs as much as a refusal, and passes no gate."""
        if by_client and socket.connected:
            self._offended(socket, monotonic())

    def _offended(self, socket: Socket, now: float) -> None:
        if self._refusals is None:
            return
        if self._refusals.wait(socket, now):
            logger.info("%s is disconnected: it goes on in spite of the rate limit", str(socket))
            socket.disconnect()
        else:
            self._refusals.take(socket, now)

    def _finish(self, sender: Any, socket: Socket, **extra: Any) -> None:
        self._keys.pop(socket, None)
        self._notices.forget(socket)
        for buckets in (self._messages, self._subscriptions, self._refusals):
            if buckets is not None:
                buckets.discard(socket)


def _shorten(key: Hashable) -> Hashable:
    """Replace long text by its digest: a key may be a header, which clients choose."""
    if isinstance(key, tuple):
        return tuple(map(_shorten, key))
    if isinstance(key, (str, bytes)) and len(key) > MAX_KEY:
        data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
        return hashlib.sha256(data).digest()
    return key


_limits: _Limits | None = None


def install(settings: Any) -> None:
    """Begin; called when the server starts."""
    global _limits
    _limits = _Limits(settings)


def uninstall() -> None:
    """End; called when the server has stopped."""
    global _limits
    if _limits is not None:
        _limits.close()
        _limits = None
