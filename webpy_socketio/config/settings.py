"""All SOCKETIO_* settings, with those inherited from the engine: types, defaults, validators.

A setting also needs a keyword in `webpy_socketio.config.keywords`, two entries in
``tests/integration/test_settings.py`` and a place in ``docs/reference/settings.rst``. The section
"Where to find things" of ``CONTRIBUTING.rst`` has the steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from webpy_socketio.config import validators
from webpy_socketio.engine.config import EngineConfig
from webpy_socketio.engine.config.fields import Setting, Strings, setting, settings_of
from webpy_socketio.engine.config.validators import boolean, integer, names

__all__ = [
    "PREFIX",
    "SETTINGS",
    "HistoryRules",
    "Namespaces",
    "Rate",
    "Setting",
    "Settings",
    "SocketFunction",
]

PREFIX = "SOCKETIO_"

#: A rate per second and a burst; None for no limit.
Rate = tuple[float, int] | list[float] | None

#: Names of namespaces, and patterns of names. Separate types of lists, as lists are invariant.
Namespaces = (
    list[str]
    | list[re.Pattern[str]]
    | list[str | re.Pattern[str]]
    | tuple[str | re.Pattern[str], ...]
)

#: A function of (request, socket, context).
SocketFunction = Callable[[dict[str, Any], Any, dict[str, Any]], Any]

#: Pattern of channels to ``size`` and ``ttl``.
HistoryRules = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings(EngineConfig):
    """Resolved settings: ``settings.ping_interval`` is SOCKETIO_PING_INTERVAL.

    The settings of the engine are inherited. Settings of third-party plugins are not included;
    plugins read those themselves.
    """

    host: str = setting(
        "127.0.0.1",
        "Address to listen on; empty for all interfaces.",
        validators.text,
    )
    port: int = setting(
        8000,
        "Port to listen on; 0 for a free port chosen by the system.",
        integer(0, 65_535),
    )
    plugins: Strings = setting(
        ["webpy_socketio.plugins.message_logger"],
        "Plugins to install, as dotted module names, in this order.",
        names,
    )
    message_log_format: str | None = setting(
        '%(REMOTE_ADDR)s - - [%(TIME)s] "Socket.IO %(TYPE)s: %(MESSAGE)s"',
        "Format of a line of the message log; None disables the log.",
        validators.text_or_none,
    )
    block_warning: float | None = setting(
        1.0,
        "Seconds that a handler may block the event loop; afterwards a warning in the log names "
        "it. None or 0 disables the warning.",
        validators.seconds_or_none,
    )
    drain_time: float = setting(
        3.0,
        "Seconds over which sessions are closed when the server stops, so that clients do not "
        "reconnect all at once; 0 closes them at once.",
        validators.non_negative_seconds,
    )
    drain_delay: float = setting(
        0.0,
        "Seconds for which a server that stops still accepts connections while its readiness is "
        "``draining``, so that load balancers stop using it first; 0 stops accepting at once.",
        validators.non_negative_seconds,
    )
    health: bool = setting(
        False,
        "Whether ``/socket.io/health`` and ``/socket.io/health/live`` answer health checks.",
        boolean,
    )
    max_channels: int = setting(
        128,
        "Maximum number of channels that a socket may subscribe to; further subscriptions are "
        "rejected.",
        integer(0),
    )
    max_channel_length: int = setting(
        255,
        "Maximum length of a channel name in characters; subscriptions to a longer one are "
        "rejected.",
        integer(1),
    )
    namespaces: Namespaces = setting(
        ["/"],
        "Socket.IO namespaces that clients may connect to: names, and compiled patterns that end "
        "with ``$``, for namespaces that exist while clients are connected; other namespaces are "
        "rejected with ``Invalid namespace``.",
        validators.namespaces,
    )
    worker_timeout: float | None = setting(
        30.0,
        "Seconds that the event loop of a worker may be blocked; afterwards the worker is "
        "replaced. None disables the check.",
        validators.positive_seconds_or_none,
    )
    recovery_time: float = setting(
        0.0,
        "Seconds within which a client that has lost its connection may resume it, with its "
        "session id, its channels and all missed messages; 0 disables recovery.",
        validators.non_negative_seconds,
    )
    recovery_messages: int = setting(
        10_000,
        "Maximum number of messages retained for recovery; a client that missed older ones gets a "
        "new connection.",
        integer(1),
    )
    recovery_bytes: int = setting(
        16 * 1024 * 1024,
        "Maximum total size of the messages retained for recovery in bytes; a client that missed "
        "older ones gets a new connection.",
        integer(1024),
    )
    recovery_skip_gates: bool = setting(
        False,
        "Whether a connection is resumed without running the ``connecting`` gate again.",
        boolean,
    )
    backplane: str | None = setting(
        None,
        "URL of the Redis that connects several processes: ``redis://``, ``unix://``, "
        "``redis+sentinel://`` or ``redis+cluster://``, with ``rediss`` in place of ``redis`` for "
        "TLS; None for a single process.",
        validators.redis,
        secret=True,
    )
    backplane_prefix: str = setting(
        "webpy_socketio",
        "Prefix of all names in Redis; must be different for each application.",
        validators.prefix,
    )
    presence_key: SocketFunction | None = setting(
        None,
        "presence: function that returns the key under which a socket is present; None for its "
        "session id.",
        validators.function_or_none,
    )
    presence_meta: SocketFunction | None = setting(
        None,
        "presence: function that returns the metadata of a socket, a dict that other clients "
        "receive; None for an empty one.",
        validators.function_or_none,
    )
    presence_grace: float = setting(
        10.0,
        "presence: seconds within which a lost client may reconnect before it is reported as "
        "having left.",
        validators.non_negative_seconds,
    )
    history: HistoryRules | None = setting(
        None,
        "history: for each pattern of channels, how many messages are stored (``size``) and for "
        "how many seconds (``ttl``); the first pattern that matches applies. None to store none.",
        validators.history_or_none,
    )
    history_bytes: int = setting(
        1_048_576,
        "history: maximum bytes of the stored messages of a channel; the oldest ones are removed.",
        integer(1_024),
    )
    history_total_bytes: int = setting(
        67_108_864,
        "history: maximum bytes of all stored messages; the history of the channels without "
        "recent messages is removed.",
        integer(1_024),
    )
    history_channels: int = setting(
        10_000,
        "history: maximum number of channels with a history; that of the channels without recent "
        "messages is removed.",
        integer(1),
    )
    metrics_port: int | None = setting(
        None,
        "metrics: port of the Prometheus endpoint; 0 for a free port, None for no endpoint.",
        validators.port_or_none,
    )
    metrics_host: str = setting(
        "127.0.0.1",
        "metrics: address of the Prometheus endpoint; empty for all interfaces.",
        validators.text,
    )
    metrics_registry: Any = setting(
        None,
        "metrics: registry of prometheus_client; None for ``prometheus_client.REGISTRY``.",
        validators.registry_or_none,
    )
    otel_tracer_provider: Any = setting(
        None,
        "otel: tracer provider of OpenTelemetry; None for the global one.",
        validators.tracer_provider_or_none,
    )
    rate_limit_messages: Rate = setting(
        (20, 60),
        "rate_limit: messages of a socket per second, and in a burst; further ones are rejected. "
        "None for no limit, as in the following settings.",
        validators.rate,
    )
    rate_limit_subscriptions: Rate = setting(
        (5, 200),
        "rate_limit: subscriptions of a socket per second, and in a burst; further ones are "
        "rejected.",
        validators.rate,
    )
    rate_limit_packets: Rate = setting(
        (50, 200),
        "rate_limit: packets without an event, such as pongs, of a session per second, and in a "
        "burst; beyond them the session is closed.",
        validators.rate,
    )
    rate_limit_key: SocketFunction | None = setting(
        None,
        "rate_limit: function that returns the key whose sockets share limits, such as a user or "
        "an address; None for no limits by key.",
        validators.function_or_none,
    )
    rate_limit_key_messages: Rate = setting(
        (100, 300),
        "rate_limit: messages of all sockets of a key per second, and in a burst; further ones are "
        "rejected.",
        validators.rate,
    )
    rate_limit_key_subscriptions: Rate = setting(
        (25, 1000),
        "rate_limit: subscriptions of all sockets of a key per second, and in a burst; further "
        "ones are rejected.",
        validators.rate,
    )
    rate_limit_key_connections: Rate = setting(
        (2, 60),
        "rate_limit: connection attempts of a key per second, and in a burst; further ones are "
        "rejected.",
        validators.rate,
    )
    rate_limit_refusals: Rate = setting(
        (1, 100),
        "rate_limit: rejections of a socket per second, and in a burst; beyond them the socket is "
        "disconnected.",
        validators.rate,
    )
    admin_username: str | None = setting(
        None,
        "admin: user name for the Admin UI.",
        validators.text_or_none,
    )
    admin_password: str | None = setting(
        None,
        "admin: password for the Admin UI, as returned by ``hash_password``.",
        validators.password_hash,
        secret=True,
    )
    admin_readonly: bool = setting(
        True,
        "admin: whether the Admin UI cannot change subscriptions or disconnect sockets.",
        boolean,
    )
    admin_mode: Literal["development", "production"] = setting(
        "development",
        'admin: ``"production"`` restricts the Admin UI to statistics.',
        validators.mode,
    )

    if not TYPE_CHECKING:  # type checkers must report missing attributes

        def __getattr__(self, name: str) -> NoReturn:  # called for missing attributes only
            raise AttributeError(f"there is no setting {PREFIX}{name.upper()}")

    def __repr__(self) -> str:
        shown = []
        for each in SETTINGS:
            value = getattr(self, each.name.lower())
            text = "..." if each.secret and value is not None else repr(value)
            shown.append(f"{each.name.lower()}={text}")
        return f"Settings({', '.join(shown)})"


#: The definitions of all settings; those of the engine first.
SETTINGS = settings_of(Settings)
