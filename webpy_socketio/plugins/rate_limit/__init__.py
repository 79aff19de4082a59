"""Rate limits for messages, subscriptions, connection attempts and packets of clients.

Add the plugin to ``SOCKETIO_PLUGINS``. A limit is a pair ``(rate, burst)``: a token bucket that
holds ``burst`` tokens and is refilled with ``rate`` tokens per second. Each message takes one
token.

A client has its own buckets in each namespace. It keeps them when it leaves the namespace and joins
it again, and each further join takes a token of the message limit. After a client's first 64
namespaces, all further ones share buckets, and each join takes a token.

The sockets of a key, the result of ``SOCKETIO_RATE_LIMIT_KEY(request, socket, context)``, share
further buckets: of an address, a user or a tenant. A key of None has no shared limit.

Handlers are not called for rejected messages. The acknowledgement of a rejected message is
``{"error": "rate limit"}``. The client also receives an event ``rate_limit``, at once for the first
rejection and then at most once per second, with these fields:

- ``what``: "messages" or "subscriptions";
- ``refused``: number of rejections since the last event;
- ``retry``: seconds until a token is available.

A client that exceeds ``SOCKETIO_RATE_LIMIT_REFUSALS`` is disconnected. Packets that reach no
handler, such as pongs and acknowledgements, count against ``SOCKETIO_RATE_LIMIT_PACKETS``; a client
that exceeds it is closed. Subscriptions made by the server do not count.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Hashable
from typing import Any

from webpy_socketio import Refused, Runtime, Socket, monotonic
from webpy_socketio.plugins.rate_limit.buckets import Buckets
from webpy_socketio.plugins.rate_limit.notifier import Notifier
from webpy_socketio.signals import Stage

__all__ = ["install", "uninstall"]

logger = logging.getLogger("webpy_socketio")

#: Reason of a rejection, as sent to the client.
REASON = "rate limit"

#: Seconds between two log lines with the same text.
LOG_INTERVAL = 60.0

#: Maximum characters of a key; longer ones are replaced by their digest.
MAX_KEY = 64


#: Maximum number of namespaces in which a client has its own buckets. Clients may choose the names.
MAX_NAMESPACES = 64

#: Key in the handshake's environ under which the plugin stores its `_Client`.
_CLIENT = "webpy_socketio.rate_limit"


class _Client:
    """An Engine.IO session, used as a key of buckets."""

    __slots__ = ("joined",)

    def __init__(self) -> None:
        #: Namespaces that the client has tried to join, and has its own buckets in.
        self.joined: set[str] = set()

    def bucket(self, namespace: str) -> tuple[_Client, str | None]:
        """Return the key of the client's bucket in a namespace."""
        return self, namespace if namespace in self.joined else None


def _client_of(request: dict[str, Any]) -> _Client:
    client = request.get(_CLIENT)
    if not isinstance(client, _Client):
        client = request[_CLIENT] = _Client()
    return client


class _Limits:
    """State of the plugin in one runtime."""

    def __init__(self, settings: Any, runtime: Runtime) -> None:
        self._key: Callable[..., Hashable] | None = settings.rate_limit_key
        self._keys: dict[Socket, Hashable] = {}
        self._notifier = Notifier()
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
        signals = runtime.signals
        self._receivers: dict[Stage, Callable[..., Any]] = {
            signals.error: self._on_error,
            signals.finish: self._on_finish,
            signals.release: self._on_finish,
        }
        own = self._messages is not None or self._subscriptions is not None
        if own or self._key_connections is not None:
            self._receivers[signals.connecting] = self._on_connecting
        if self._packets is not None:
            self._receivers[signals.packet] = self._on_packet
        if self._messages is not None or self._key_messages is not None:
            self._receivers[signals.receiving] = self._on_receiving
        if self._subscriptions is not None or self._key_subscriptions is not None:
            self._receivers[signals.subscribing] = self._on_subscribing
        for stage, receiver in self._receivers.items():
            # First: other gates may query a database, which is not needed for a rejected message.
            stage.connect(receiver, first=True)

    def close(self) -> None:
        for stage, receiver in self._receivers.items():
            stage.disconnect(receiver)
        self._notifier.close()
        for buckets in self._buckets:
            buckets.close()

    def _make(self, limit: tuple[float, int] | None) -> Buckets | None:
        if limit is None:
            return None
        buckets = Buckets(*limit)
        self._buckets.append(buckets)
        return buckets

    # -- gates

    def _on_connecting(
        self, sender: Any, request: Any, socket: Socket, context: Any, **extra: Any
    ) -> None:
        self._count_rejoin(_client_of(request), socket.namespace)
        if self._key is None or self._key_connections is None:
            return
        # Not stored as the key of its messages: the user is not authenticated yet.
        key = _shorten(self._key(request, socket, context))
        if key is None:
            return
        now = monotonic()
        if self._key_connections.wait(key, now):
            raise Refused(REASON)
        self._key_connections.take(key, now)

    def _count_rejoin(self, client: _Client, namespace: str) -> None:
        """Count a further join of a namespace like a message, as handlers are called."""
        if namespace not in client.joined and len(client.joined) < MAX_NAMESPACES:
            client.joined.add(namespace)
        elif self._messages is not None:
            bucket, now = client.bucket(namespace), monotonic()
            if self._messages.wait(bucket, now):
                raise Refused(REASON)
            self._messages.take(bucket, now)

    def _on_receiving(self, sender: Any, socket: Socket, **extra: Any) -> None:
        self._check(socket, "messages", self._messages, self._key_messages)

    def _on_subscribing(self, sender: Any, socket: Socket, by_client: bool, **extra: Any) -> None:
        if by_client:
            self._check(socket, "subscriptions", self._subscriptions, self._key_subscriptions)

    def _check(
        self, socket: Socket, limit_name: str, own: Buckets | None, shared: Buckets | None
    ) -> None:
        now = monotonic()
        key = None if shared is None else self._key_of(socket)
        bucket = _client_of(socket.request).bucket(socket.namespace)
        wait = 0.0 if own is None else own.wait(bucket, now)
        if shared is not None and key is not None:
            wait = max(wait, shared.wait(key, now))
        if wait:
            self._notifier.add(socket, limit_name, now + wait)
            self._count_refusal(socket, now)
            raise Refused(REASON)
        if own is not None:
            own.take(bucket, now)
        if shared is not None and key is not None:
            shared.take(key, now)

    def _key_of(self, socket: Socket) -> Hashable:
        """Return the key of a socket; not cached while None, as handlers may set the user later."""
        key = self._keys.get(socket)
        if key is None and self._key is not None:
            key = _shorten(self._key(socket.request, socket, socket.context))
            if key is not None:
                self._keys[socket] = key
        return key

    # -- repeated violations

    def _on_error(self, sender: Any, socket: Socket, by_client: bool, **extra: Any) -> None:
        """Count a protocol error like a rejection: it passes no gate."""
        if by_client and socket.connected:
            self._count_refusal(socket, monotonic())

    def _count_refusal(self, socket: Socket, now: float) -> None:
        if self._refusals is None:
            return
        client = _client_of(socket.request)
        if self._refusals.wait(client, now):
            self._log("%s is disconnected: it exceeded SOCKETIO_RATE_LIMIT_REFUSALS", str(socket))
            socket.disconnect()
        else:
            self._refusals.take(client, now)

    def _on_packet(self, sender: Any, request: dict[str, Any], **extra: Any) -> None:
        if self._packets is None:
            return
        client, now = _client_of(request), monotonic()
        if self._packets.wait(client, now):
            self._log(
                "a client at %s is disconnected: it exceeded SOCKETIO_RATE_LIMIT_PACKETS",
                request.get("REMOTE_ADDR", "-"),
            )
            sender.close("forced close", 1008, REASON)
        else:
            self._packets.take(client, now)

    def _log(self, text: str, client: str) -> None:
        """Log a line, at most once per `LOG_INTERVAL` for each text."""
        now = monotonic()
        if now >= self._log_due.get(text, now):
            self._log_due[text] = now + LOG_INTERVAL
            logger.info(text, client)

    def _on_finish(self, sender: Any, socket: Socket, **extra: Any) -> None:
        self._keys.pop(socket, None)
        self._notifier.remove(socket)
        # The buckets remain until they are full: the client may join the namespace again.


def _shorten(key: Hashable) -> Hashable:
    """Replace long text by its digest: a key may be a header that the client chose."""
    if isinstance(key, tuple):
        return tuple(map(_shorten, key))
    if isinstance(key, (str, bytes)) and len(key) > MAX_KEY:
        data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
        return hashlib.sha256(data).digest()
    return key


#: The limits of each runtime in which the plugin is installed.
_installed: dict[Runtime, _Limits] = {}


def install(settings: Any, runtime: Runtime) -> None:
    """Connect to the signals; called when the server starts.

    Args:
        settings: Settings of the server; the limits are read once.
        runtime: Runtime of the server, whose clients are limited.
    """
    _installed[runtime] = _Limits(settings, runtime)


def uninstall(runtime: Runtime) -> None:
    """Disconnect from the signals; called after the server has stopped."""
    limits = _installed.pop(runtime, None)
    if limits is not None:
        limits.close()
