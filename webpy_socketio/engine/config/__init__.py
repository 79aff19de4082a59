"""Settings of an engine: limits, timeouts, transports, origins and proxies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from webpy_socketio.engine.config import validators
from webpy_socketio.engine.config.fields import Strings, setting
from webpy_socketio.engine.forwarding.hosts import AllowedHosts
from webpy_socketio.engine.forwarding.proxies import TrustedProxies

__all__ = ["EngineConfig"]


# Not comparable, because a list as value would prevent hashing.
@dataclass(frozen=True, kw_only=True, eq=False)
class EngineConfig:
    """Settings of an `Engine`. Durations are in seconds, sizes in bytes.

    Values are not validated here; the settings of a `SocketIOServer` are, by the validators of
    the fields.
    """

    transports: Strings = setting(
        ["polling", "websocket"],
        "Transports that clients may use; requests for another one get status 400.",
        validators.transports,
    )
    ping_interval: float = setting(
        25.0,
        "Seconds between a pong and the next ping; sent to clients in the handshake.",
        validators.short_duration,
    )
    ping_timeout: float = setting(
        20.0,
        "Seconds within which a client must answer a ping; afterwards its session is closed with "
        "``ping timeout``.",
        validators.short_duration,
    )
    upgrade_timeout: float = setting(
        10.0,
        "Seconds within which a WebSocket must replace long-polling; afterwards the WebSocket is "
        "closed and long-polling continues.",
        validators.short_duration,
    )
    connect_timeout: float = setting(
        45.0,
        "Seconds that a session may stay open without being connected to a namespace; afterwards "
        "it is closed with ``connect timeout``.",
        validators.short_duration,
    )
    max_message_size: int = setting(
        1_000_000,
        "Maximum size of a client's message or long-polling body in bytes; a larger one closes the "
        "session with ``parse error`` (status 413, or close code 1009).",
        validators.integer(1),
    )
    compression: bool = setting(
        False,
        "Whether WebSocket messages above 1,024 bytes are compressed for clients that offer "
        "permessage-deflate. Long-polling responses above 1,024 bytes are compressed for clients "
        "that accept it, regardless of this setting.",
        validators.boolean,
    )
    outbox_bytes: int = setting(
        4 * 1024 * 1024,
        "Maximum size of the messages queued for one client in bytes; beyond it the session is "
        "closed with ``slow reader``.",
        validators.integer(1024),
    )
    outbox_packets: int = setting(
        16_384,
        "Maximum number of packets queued for one client; beyond it the session is closed with "
        "``slow reader``.",
        validators.integer(16),
    )
    write_timeout: float = setting(
        20.0,
        "Seconds in which a client may read fewer than 100 bytes per second; afterwards its "
        "connection is closed with ``transport error``.",
        validators.seconds,
    )
    max_sessions: int = setting(
        20_000,
        "Maximum number of open sessions; further handshakes get status 503.",
        validators.integer(1),
    )
    max_sessions_per_address: int | None = setting(
        None,
        "Maximum number of open sessions of one IPv4 address or IPv6 /64 network; further "
        "handshakes get status 429. None for 1,000, and no limit for loopback addresses.",
        validators.integer_or_none(1),
    )
    max_connections_per_address: int | None = setting(
        None,
        "Maximum number of connections of one IPv4 address or IPv6 /64 network, without "
        "WebSockets; further ones get status 503. None for 2,000, and no limit for loopback "
        "addresses.",
        validators.integer_or_none(1),
    )
    max_bodies_size: int = setting(
        256 * 1024 * 1024,
        "Maximum total size of all request bodies, in memory and in temporary files, in bytes; "
        "further requests get status 503.",
        validators.integer(1),
    )
    header_timeout: float = setting(
        10.0,
        "Seconds within which the head of a request, or a TLS handshake, must arrive; afterwards "
        "the request gets status 408.",
        validators.seconds,
    )
    body_timeout: float = setting(
        20.0,
        "Seconds in which a request's body may arrive at less than 1,000 bytes per second; "
        "afterwards the request gets status 408 and its session is closed.",
        validators.seconds,
    )
    idle_timeout: float = setting(
        75.0,
        "Seconds that a connection may be idle between two requests; afterwards it is closed.",
        validators.seconds,
    )
    max_body_size: int = setting(
        16 * 1024 * 1024,
        "Maximum size of the body of a request to the application in bytes; a larger one gets "
        "status 413.",
        validators.integer(0),
    )
    inbox_events: int = setting(
        256,
        "Maximum number of events queued for the handlers of a connection; at this limit reading "
        "from the client stops until half of them are handled.",
        validators.integer(1),
    )
    max_namespaces: int = setting(
        32,
        "Maximum number of namespaces that a session may be connected to at a time; further "
        "connections are rejected with ``too many namespaces``.",
        validators.integer(1),
    )
    parser: Literal["json", "msgpack"] = setting(
        "json",
        'Encoding of packets, which must be that of the clients: ``"json"``, or ``"msgpack"`` for '
        "``socket.io-msgpack-parser``. All servers of a runtime must use the same.",
        validators.parser,
    )
    allowed_origins: Strings | None = setting(
        None,
        "Origins whose pages may connect in addition to the same origin; requests from others get "
        'status 403. ``"*"`` allows all.',
        validators.origins,
    )
    trusted_proxies: Strings = setting(
        [],
        "Addresses and networks of proxies whose ``X-Forwarded-*`` or ``Forwarded`` headers "
        'describe the client; ``"unix"`` for a proxy on a Unix socket.',
        validators.addresses,
    )
    allowed_hosts: Strings | None = setting(
        None,
        "Hosts that are served, with or without a port; requests for others get status 400. "
        '``"*.example.com"`` allows subdomains, and None all hosts.',
        validators.hosts_or_none,
    )
    path_prefix: str = setting(
        "",
        'Path below which the application is mounted, such as ``"/app"``.',
        validators.path_prefix,
    )
    machine: str = setting(
        "",
        "Name of this machine, appended to session ids so that a load balancer can route by it.",
        validators.machine,
    )

    @cached_property
    def proxies(self) -> TrustedProxies:
        """The parsed `trusted_proxies`."""
        return TrustedProxies(self.trusted_proxies)

    @cached_property
    def hosts(self) -> AllowedHosts:
        """The parsed `allowed_hosts`."""
        return AllowedHosts(self.allowed_hosts)

    @cached_property
    def wsgi_path_prefix(self) -> str:
        """The `path_prefix` as a WSGI string, which is decoded as Latin-1 (PEP 3333)."""
        return self.path_prefix.encode().decode("latin-1")

    @cached_property
    def session_suffix(self) -> str:
        """The suffix of each session id."""
        return f".{self.machine}" if self.machine else ""
