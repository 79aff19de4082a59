"""Refuses what comes too often: messages, subscriptions, attempts to connect, packets of any kind.

Switched on by naming it in ``SOCKETIO_PLUGINS``. Each limit is a pair, ``(rate, burst)``: a bucket of
``burst`` tokens, into which ``rate`` tokens a second fall; each message takes one. A client has its own
buckets in each namespace, which it keeps when it leaves the namespace and joins it again; joining again
takes a token as a message does. So has a key, whatever ``SOCKETIO_RATE_LIMIT_KEY(request, socket, context)``
says: an address, a user, a tenant. Its sockets share them. A key of None has no limits but those of its sockets.

What is refused runs no handler. Who asked for an acknowledgement gets ``{"error": "rate limit"}``; the
client gets an event ``rate_limit`` with ``what`` ("messages" or "subscriptions"), ``refused`` (how many
since it was told last) and ``retry`` (after how many seconds there is a token again): the first at once,
further ones once a second at most. Who is refused too often in spite of that is disconnected.

Packets that reach no handler, such as pongs and acknowledgements, are counted against
``SOCKETIO_RATE_LIMIT_PACKETS``; a client that exceeds it is closed. Only what clients do is counted: not the
subscriptions that the server makes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Hashable
from typing import Any

from webpy_socketio import Refused, Socket, monotonic, signals
from webpy_socketio.plugins.rate_limit.buckets import Buckets
from webpy_socketio.plugins.rate_limit.notifier import Notifier

__all__ = ["install", "uninstall"]

logger = logging.getLogger("webpy_socketio")

#: What a client is told: the text of a refusal.
REASON = "rate limit"

#: Seconds between two log lines of one kind.
LOG_INTERVAL = 60.0

#: Characters of a key that is kept as it is.
MAX_KEY = 64


#: Under this key of the handshake's environ is what the plugin knows of the client.
_CLIENT = "webpy_socketio.rate_limit"


class _Client:
    """One Engine.IO session, as a key of buckets."""

    __slots__ = ("joined",)

    def __init__(self) -> None:
        #: Namespaces that it has asked for, of those that exist.
        self.joined: set[str] = set()


def _client_of(request: dict[str, Any]) -> _Client:
    client = request.get(_CLIENT)
    if not isinstance(client, _Client):
        client = request[_CLIENT] = _Client()
    return client


class _Limits:
    """The plugin, while it is switched on."""

    def __init__(self, settings: Any) -> None:
        self._key: Callable[..., Hashable] | None = settings.rate_limit_key
        self._keys: dict[Socket, Hashable] = {}
        self._notices = Notifier()
        self._log_due: dict[str, float] = {}
        self._buckets: list[Buckets] = []
        make = self._make
        self._messages = make(settings.rate_limit_messages)
        self._subscriptions = make(settings.rate_limit_subscriptions)
        self._refusals = make(settings.rate_limit_refusals)
        self._packets = make(settings.rate_limit_packets)
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
        if self._key_connections is not None or self._messages is not None:
            self._receivers[signals.connecting] = self._connecting
        if self._packets is not None:
            self._receivers[signals.packet] = self._packet
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
        self._rejoin(_client_of(request), socket.namespace)
        if self._key is None or self._key_connections is None:
            return
        # Not the key that its messages will have: nobody has said yet who this is.
        key = _shorten(self._key(request, socket, context))
        if key is None:
            return
        now = monotonic()
        if self._key_connections.wait(key, now):
            raise Refused(REASON)
        self._key_connections.take(key, now)

    def _rejoin(self, client: _Client, namespace: str) -> None:
        """Count a client that comes to a namespace again: its handlers run, as for a message."""
        if namespace not in client.joined:
            client.joined.add(namespace)
        elif self._messages is not None:
            now = monotonic()
            if self._messages.wait((client, namespace), now):
                raise Refused(REASON)
            self._messages.take((client, namespace), now)

    def _receiving(self, sender: Any, socket: Socket, **extra: Any) -> None:
        self._pass(socket, "messages", self._messages, self._key_messages)

    def _subscribing(self, sender: Any, socket: Socket, by_client: bool, **extra: Any) -> None:
        if by_client:
            self._pass(socket, "subscriptions", self._subscriptions, self._key_subscriptions)

    def _pass(self, socket: Socket, what: str, own: Buckets | None, shared: Buckets | None) -> None:
        now = monotonic()
        key = None if shared is None else self._key_of(socket)
        bucket = (_client_of(socket.request), socket.namespace)
        wait = 0.0 if own is None else own.wait(bucket, now)
        if shared is not None and key is not None:
            wait = max(wait, shared.wait(key, now))
        if wait:
            self._notices.add(socket, what, now + wait)
            self._offended(socket, now)
            raise Refused(REASON)
        if own is not None:
            own.take(bucket, now)
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
        client = _client_of(socket.request)
        if self._refusals.wait(client, now):
            self._log("%s is disconnected: it exceeds SOCKETIO_RATE_LIMIT_REFUSALS", str(socket))
            socket.disconnect()
        else:
            self._refusals.take(client, now)

    def _packet(self, sender: Any, request: dict[str, Any], **extra: Any) -> None:
        if self._packets is None:
            return
        client, now = _client_of(request), monotonic()
        if self._packets.wait(client, now):
            self._log(
                "a client at %s is disconnected: it exceeds SOCKETIO_RATE_LIMIT_PACKETS",
                request.get("REMOTE_ADDR", "-"),
            )
            sender.close("forced close", 1008, REASON)
        else:
            self._packets.take(client, now)

    def _log(self, text: str, who: str) -> None:
        """Log a line, at most once a minute of each kind."""
        now = monotonic()
        if now >= self._log_due.get(text, now):
            self._log_due[text] = now + LOG_INTERVAL
            logger.info(text, who)

    def _finish(self, sender: Any, socket: Socket, **extra: Any) -> None:
        self._keys.pop(socket, None)
        self._notices.forget(socket)
        # Its buckets stay until they are full: the client may come to the namespace again.


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
