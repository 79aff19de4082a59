"""What an engine may be told: its limits and deadlines, each with the reason it exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from webpy_socketio.engine.forwarding.hosts import AllowedHosts
from webpy_socketio.engine.forwarding.proxies import TrustedProxies

__all__ = ["EngineConfig"]


@dataclass(frozen=True)
class EngineConfig:
    """Limits and deadlines of an `Engine`; seconds and bytes throughout."""

    #: Seconds between a pong and the next ping; the client is told.
    ping_interval: float = 25.0
    #: Seconds a client has for its pong, before it counts as gone; the client is told.
    ping_timeout: float = 20.0
    #: Seconds a WebSocket may take to replace long-polling once it is connected.
    upgrade_timeout: float = 10.0
    #: Seconds a client may stay without being connected to any namespace (Socket.IO only).
    connect_timeout: float = 45.0
    #: Bytes of the largest message, or long-polling body, taken from a client; the client is told.
    max_message_size: int = 1_000_000
    #: Bytes and packets that may wait for one client; a slower reader is closed.
    outbox_bytes: int = 4 * 1024 * 1024
    outbox_packets: int = 16_384
    #: Seconds without progress after which writing to a client is given up; progress is 100 bytes a
    #: second, acknowledged by its TCP.
    write_timeout: float = 20.0
    #: Sessions at once; further ones are answered with 503.
    max_sessions: int = 20_000
    #: Sessions at once of one address, or of one /64 of IPv6; further ones are answered with 429.
    #: None for 1,000, and no limit for loopback addresses: those are a local proxy's or a test's.
    max_sessions_per_address: int | None = None
    #: Connections at once of one address, or of one /64 of IPv6, WebSockets not included: those are
    #: sessions. Trusted proxies have no limit. Further ones are answered with 503. None for 2,000, and
    #: no limit for loopback addresses.
    max_connections_per_address: int | None = None
    #: Bytes of all request bodies that are held at once, in memory and in temporary files; a request
    #: that exceeds them is answered with 503.
    max_bodies_size: int = 256 * 1024 * 1024
    #: Seconds for the head of an HTTP request, and for a TLS handshake.
    header_timeout: float = 10.0
    #: Seconds without progress in a request's body; beyond them it has to bring 1,000 bytes each.
    body_timeout: float = 20.0
    #: Seconds a connection may rest between two HTTP requests.
    idle_timeout: float = 75.0
    #: Bytes of the body of a request to the application.
    max_body_size: int = 16 * 1024 * 1024
    #: Events of one connection that may wait for its handlers, before reading from it stops.
    inbox_events: int = 256
    #: Put in front of each session id: where several processes or machines share an address, it
    #: tells whose session it is. Letters, digits, and ``_ . -`` only.
    session_prefix: str = ""
    #: Put behind each session id, for the same purpose and in the same letters: the two do not know
    #: of each other.
    session_suffix: str = ""
    #: Transports that clients may use.
    transports: Sequence[str] = ("polling", "websocket")
    #: Socket.IO namespaces that exist.
    namespaces: Sequence[str] = ("/",)
    #: Origins (``scheme://host[:port]``) whose pages may connect; None for the same origin only,
    #: ``"*"`` among them for any. Requests without an Origin do not come from a browser's page.
    allowed_origins: Sequence[str] | None = None
    #: Addresses or networks of proxies, ``"unix"`` for those on a Unix socket, whose
    #: ``X-Forwarded-*`` and ``Forwarded`` describe the client.
    trusted_proxies: Sequence[str] = ()
    #: Hosts (``name[:port]``) that are served, of pages too; None for all. Others are answered 400.
    allowed_hosts: Sequence[str] | None = None
    #: Path below which the application is mounted, as a WSGI string, such as ``"/app"``.
    path_prefix: str = ""

    @cached_property
    def proxies(self) -> TrustedProxies:
        """The proxies of `trusted_proxies`."""
        return TrustedProxies(self.trusted_proxies)

    @cached_property
    def hosts(self) -> AllowedHosts:
        """The hosts of `allowed_hosts`."""
        return AllowedHosts(self.allowed_hosts)
