"""Keywords of `SocketIOServer`, written out for type checkers and editors.

``tests/integration/test_settings.py`` compares them with the fields of `Settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from webpy_socketio.config.settings import HistoryRules, Namespaces, Rate, SocketFunction
from webpy_socketio.engine.config.fields import Strings

__all__ = ["PyWSGIKeywords", "ServerKeywords", "SettingKeywords"]


class SettingKeywords(TypedDict, total=False):
    """All settings, in lower case and without prefix."""

    host: str
    port: int
    plugins: Strings
    message_log_format: str | None
    transports: Strings
    ping_interval: float
    ping_timeout: float
    upgrade_timeout: float
    connect_timeout: float
    max_message_size: int
    compression: bool
    outbox_bytes: int
    outbox_packets: int
    write_timeout: float
    max_sessions: int
    max_sessions_per_address: int | None
    max_connections_per_address: int | None
    max_bodies_size: int
    header_timeout: float
    body_timeout: float
    idle_timeout: float
    max_body_size: int
    inbox_events: int
    max_namespaces: int
    block_warning: float | None
    drain_time: float
    drain_delay: float
    health: bool
    max_channels: int
    max_channel_length: int
    namespaces: Namespaces
    parser: Literal["json", "msgpack"]
    allowed_origins: Strings | None
    trusted_proxies: Strings
    allowed_hosts: Strings | None
    path_prefix: str
    worker_timeout: float | None
    machine: str
    recovery_time: float
    recovery_messages: int
    recovery_bytes: int
    recovery_skip_gates: bool
    backplane: str | None
    backplane_prefix: str
    presence_key: SocketFunction | None
    presence_meta: SocketFunction | None
    presence_grace: float
    history: HistoryRules | None
    history_bytes: int
    history_total_bytes: int
    history_channels: int
    metrics_port: int | None
    metrics_host: str
    metrics_registry: Any
    otel_tracer_provider: Any
    rate_limit_messages: Rate
    rate_limit_subscriptions: Rate
    rate_limit_packets: Rate
    rate_limit_key: SocketFunction | None
    rate_limit_key_messages: Rate
    rate_limit_key_subscriptions: Rate
    rate_limit_key_connections: Rate
    rate_limit_refusals: Rate
    admin_username: str | None
    admin_password: str | None
    admin_readonly: bool
    admin_mode: Literal["development", "production"]


class PyWSGIKeywords(TypedDict, total=False):
    """Keywords of pywsgi's server, and TLS keywords that it passes on."""

    backlog: int | None
    environ: Mapping[str, Any] | None
    error_log: Any
    handler_class: type[Any] | None
    log: Any
    spawn: Any
    ca_certs: str | None
    cert_reqs: int
    certfile: str | None
    ciphers: str | None
    do_handshake_on_connect: bool
    keyfile: str | None
    server_side: bool
    ssl_context: Any
    ssl_version: int
    suppress_ragged_eofs: bool


class ServerKeywords(SettingKeywords, PyWSGIKeywords, total=False):
    """All keywords of `SocketIOServer` beside its named parameters."""
