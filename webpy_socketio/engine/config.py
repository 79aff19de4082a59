"""Settings of an engine: limits, timeouts, transports, origins and proxies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from webpy_socketio.engine.forwarding.hosts import AllowedHosts
from webpy_socketio.engine.forwarding.proxies import TrustedProxies

__all__ = ["EngineConfig"]


@dataclass(frozen=True)
class EngineConfig:
    """Settings of an `Engine`. Durations are in seconds, sizes in bytes."""

    #: Seconds between a pong and the next ping; sent to the client in the handshake.
    ping_interval: float = 25.0
    #: Seconds to wait for a pong before the session is closed; sent to the client in the handshake.
    ping_timeout: float = 20.0
    #: Seconds to complete an upgrade from long-polling once the WebSocket is connected.
    upgrade_timeout: float = 10.0
    #: Seconds after which a session that is connected to no namespace is closed (Socket.IO only).
    connect_timeout: float = 45.0
    #: Bytes of the largest message or long-polling body; sent to the client in the handshake.
    max_message_size: int = 1_000_000
    #: Bytes and packets in the outbox of one session; beyond either limit the session is closed.
    outbox_bytes: int = 4 * 1024 * 1024
    outbox_packets: int = 16_384
    #: Seconds without progress after which a write fails. Progress is 100 bytes a second,
    #: acknowledged by the TCP of the client.
    write_timeout: float = 20.0
    #: Concurrent sessions; further handshakes are answered with 503.
    max_sessions: int = 20_000
    #: Concurrent sessions of one IPv4 address or IPv6 /64; further handshakes are answered with
    #: 429. None means 1,000, without a limit for loopback addresses (local proxies and tests).
    max_sessions_per_address: int | None = None
    #: Concurrent connections of one IPv4 address or IPv6 /64; further ones are answered with 503.
    #: WebSockets count as sessions instead, and trusted proxies have no limit. None means 2,000,
    #: without a limit for loopback addresses.
    max_connections_per_address: int | None = None
    #: Bytes of all request bodies held concurrently, in memory and in temporary files; a request
    #: that exceeds the limit is answered with 503.
    max_bodies_size: int = 256 * 1024 * 1024
    #: Seconds to receive the head of an HTTP request, and to complete a TLS handshake.
    header_timeout: float = 10.0
    #: Seconds to receive a request body; each 1,000 bytes received extend the deadline by a second.
    body_timeout: float = 20.0
    #: Seconds after which an idle keep-alive connection is closed.
    idle_timeout: float = 75.0
    #: Bytes of the largest body of a request to the application; beyond it the answer is 413.
    max_body_size: int = 16 * 1024 * 1024
    #: Events of one connection waiting for handlers; at this limit reading from it pauses.
    inbox_events: int = 256
    #: Prefix of each session id, which identifies the process when several share an address.
    #: Letters, digits, and ``_ . -`` only.
    session_prefix: str = ""
    #: Suffix of each session id, for the same purpose, with the same characters; the two are
    #: independent.
    session_suffix: str = ""
    #: Transports that clients may use.
    transports: Sequence[str] = ("polling", "websocket")
    #: Socket.IO namespaces that accept connections.
    namespaces: Sequence[str] = ("/",)
    #: Origins (``scheme://host[:port]``) whose pages may connect. None allows the same origin only,
    #: ``"*"`` allows every origin. Requests without an Origin header are always allowed.
    allowed_origins: Sequence[str] | None = None
    #: Addresses or networks of proxies whose ``X-Forwarded-*`` and ``Forwarded`` headers are
    #: trusted; ``"unix"`` for those on a Unix socket.
    trusted_proxies: Sequence[str] = ()
    #: Hosts (``name[:port]``) that are served, pages included; others are answered with 400. None
    #: allows every host.
    allowed_hosts: Sequence[str] | None = None
    #: Path under which the application is mounted, as a WSGI string, such as ``"/app"``.
    path_prefix: str = ""

    @cached_property
    def proxies(self) -> TrustedProxies:
        """The parsed `trusted_proxies`."""
        return TrustedProxies(self.trusted_proxies)

    @cached_property
    def hosts(self) -> AllowedHosts:
        """The parsed `allowed_hosts`."""
        return AllowedHosts(self.allowed_hosts)
