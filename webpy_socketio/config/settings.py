"""The SOCKETIO_* settings: their names, defaults, documentation and sources.

The first source with a value wins:

1. keywords of `SocketIOServer`, in lower case and without prefix
2. the module or mapping passed to `configure`
3. ``web.config``
4. the default

Unknown names and invalid values raise `SettingsError` when the server is created.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from webpy_socketio.config import validators
from webpy_socketio.exceptions import SettingsError

__all__ = ["SETTINGS", "GivenSetting", "Setting", "Settings", "configure", "given", "resolve"]

PREFIX = "SOCKETIO_"


@dataclass(frozen=True)
class Setting:
    """The definition of one setting."""

    #: Without the prefix.
    name: str
    default: Any
    #: Description with units and the effect of limits, in reStructuredText.
    doc: str
    check: validators.Check
    #: Whether the value may contain a password and must not be shown.
    secret: bool = False


class GivenSetting(NamedTuple):
    """A setting that has a value in ``web.config`` or was passed to `configure`."""

    #: With the prefix.
    name: str
    #: Text of the value, without passwords.
    shown: str
    #: ``web.config``, or the name of the module passed to `configure`.
    source: str
    #: Why the value is invalid, or None.
    wrong: str | None


class Settings:
    """Resolved settings as attributes: ``settings.ping_interval`` is SOCKETIO_PING_INTERVAL.

    Settings of third-party plugins are not included; plugins read those themselves.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:  # called for missing attributes only
        raise AttributeError(f"there is no setting {PREFIX}{name.upper()}")

    def __repr__(self) -> str:
        shown = {
            name: "..." if name.upper() in _SECRET and value is not None else value
            for name, value in self.__dict__.items()
        }
        return f"Settings({shown!r})"


SETTINGS = (
    Setting(
        "HOST", "127.0.0.1", "Address to listen on; empty for all interfaces.", validators.text
    ),
    Setting(
        "PORT",
        8000,
        "Port to listen on; 0 for a free port chosen by the system.",
        validators.integer(0, 65_535),
    ),
    Setting(
        "PLUGINS",
        ["webpy_socketio.plugins.message_logger"],
        "Plugins to install, as dotted module names, in this order.",
        validators.names,
    ),
    Setting(
        "MESSAGE_LOG_FORMAT",
        '%(REMOTE_ADDR)s - - [%(TIME)s] "Socket.IO %(TYPE)s: %(MESSAGE)s"',
        "Format of a line of the message log; None disables the log.",
        validators.text_or_none,
    ),
    Setting(
        "TRANSPORTS",
        ["polling", "websocket"],
        "Transports that clients may use; requests for another one get status 400.",
        validators.transports,
    ),
    Setting(
        "PING_INTERVAL",
        25.0,
        "Seconds between a pong and the next ping; sent to clients in the handshake.",
        validators.short_duration,
    ),
    Setting(
        "PING_TIMEOUT",
        20.0,
        "Seconds within which a client must answer a ping; afterwards its session is closed with "
        "``ping timeout``.",
        validators.short_duration,
    ),
    Setting(
        "UPGRADE_TIMEOUT",
        10.0,
        "Seconds within which a WebSocket must replace long-polling; afterwards the WebSocket is "
        "closed and long-polling continues.",
        validators.short_duration,
    ),
    Setting(
        "CONNECT_TIMEOUT",
        45.0,
        "Seconds that a session may stay open without being connected to a namespace; afterwards "
        "it is closed with ``connect timeout``.",
        validators.short_duration,
    ),
    Setting(
        "MAX_MESSAGE_SIZE",
        1_000_000,
        "Maximum size of a client's message or long-polling body in bytes; a larger one closes the "
        "session with ``parse error`` (status 413, or close code 1009).",
        validators.integer(1),
    ),
    Setting(
        "OUTBOX_BYTES",
        4 * 1024 * 1024,
        "Maximum size of the messages queued for one client in bytes; beyond it the session is "
        "closed with ``slow reader``.",
        validators.integer(1024),
    ),
    Setting(
        "OUTBOX_PACKETS",
        16_384,
        "Maximum number of packets queued for one client; beyond it the session is closed with "
        "``slow reader``.",
        validators.integer(16),
    ),
    Setting(
        "WRITE_TIMEOUT",
        20.0,
        "Seconds in which a client may read fewer than 100 bytes per second; afterwards its "
        "connection is closed with ``transport error``.",
        validators.seconds,
    ),
    Setting(
        "MAX_SESSIONS",
        20_000,
        "Maximum number of open sessions; further handshakes get status 503.",
        validators.integer(1),
    ),
    Setting(
        "MAX_SESSIONS_PER_ADDRESS",
        None,
        "Maximum number of open sessions of one IPv4 address or IPv6 /64 network; further "
        "handshakes get status 429. None for 1,000, and no limit for loopback addresses.",
        validators.integer_or_none(1),
    ),
    Setting(
        "MAX_CONNECTIONS_PER_ADDRESS",
        None,
        "Maximum number of connections of one IPv4 address or IPv6 /64 network, without "
        "WebSockets; further ones get status 503. None for 2,000, and no limit for loopback "
        "addresses.",
        validators.integer_or_none(1),
    ),
    Setting(
        "MAX_BODIES_SIZE",
        256 * 1024 * 1024,
        "Maximum total size of all request bodies, in memory and in temporary files, in bytes; "
        "further requests get status 503.",
        validators.integer(1),
    ),
    Setting(
        "HEADER_TIMEOUT",
        10.0,
        "Seconds within which the head of a request, or a TLS handshake, must arrive; afterwards "
        "the request gets status 408.",
        validators.seconds,
    ),
    Setting(
        "BODY_TIMEOUT",
        20.0,
        "Seconds in which a request's body may arrive at less than 1,000 bytes per second; "
        "afterwards the request gets status 408 and its session is closed.",
        validators.seconds,
    ),
    Setting(
        "IDLE_TIMEOUT",
        75.0,
        "Seconds that a connection may be idle between two requests; afterwards it is closed.",
        validators.seconds,
    ),
    Setting(
        "MAX_BODY_SIZE",
        16 * 1024 * 1024,
        "Maximum size of the body of a request to the application in bytes; a larger one gets "
        "status 413.",
        validators.integer(0),
    ),
    Setting(
        "INBOX_EVENTS",
        256,
        "Maximum number of events queued for the handlers of a connection; at this limit reading "
        "from the client stops until half of them are handled.",
        validators.integer(1),
    ),
    Setting(
        "BLOCK_WARNING",
        1.0,
        "Seconds that a handler may block the event loop; afterwards a warning in the log names "
        "it. None or 0 disables the warning.",
        validators.seconds_or_none,
    ),
    Setting(
        "DRAIN_TIME",
        3.0,
        "Seconds over which sessions are closed when the server stops, so that clients do not "
        "reconnect all at once; 0 closes them at once.",
        validators.non_negative_seconds,
    ),
    Setting(
        "MAX_CHANNELS",
        128,
        "Maximum number of channels that a socket may subscribe to; further subscriptions are "
        "rejected.",
        validators.integer(0),
    ),
    Setting(
        "MAX_CHANNEL_LENGTH",
        255,
        "Maximum length of a channel name in characters; subscriptions to a longer one are "
        "rejected.",
        validators.integer(1),
    ),
    Setting(
        "NAMESPACES",
        ["/"],
        "Socket.IO namespaces of the application; clients cannot connect to others.",
        validators.namespaces,
    ),
    Setting(
        "ALLOWED_ORIGINS",
        None,
        "Origins whose pages may connect in addition to the same origin; requests from others get "
        'status 403. ``"*"`` allows all.',
        validators.origins,
    ),
    Setting(
        "TRUSTED_PROXIES",
        [],
        "Addresses and networks of proxies whose ``X-Forwarded-*`` or ``Forwarded`` headers "
        'describe the client; ``"unix"`` for a proxy on a Unix socket.',
        validators.addresses,
    ),
    Setting(
        "ALLOWED_HOSTS",
        None,
        "Hosts that are served, with or without a port; requests for others get status 400. "
        '``"*.example.com"`` allows subdomains, and None all hosts.',
        validators.hosts_or_none,
    ),
    Setting(
        "PATH_PREFIX",
        "",
        'Path below which the application is mounted, such as ``"/app"``.',
        validators.path_prefix,
    ),
    Setting(
        "WORKER_TIMEOUT",
        30.0,
        "Seconds that the event loop of a worker may be blocked; afterwards the worker is "
        "replaced. None disables the check.",
        validators.positive_seconds_or_none,
    ),
    Setting(
        "MACHINE",
        "",
        "Name of this machine, appended to session ids so that a load balancer can route by it.",
        validators.machine,
    ),
    Setting(
        "BACKPLANE",
        None,
        "URL of the Redis server that connects several processes; None for a single process.",
        validators.redis,
        True,
    ),
    Setting(
        "BACKPLANE_PREFIX",
        "webpy_socketio",
        "Prefix of all names in Redis; must be different for each application.",
        validators.prefix,
    ),
    Setting(
        "PRESENCE_KEY",
        None,
        "presence: function that returns the key under which a socket is present; None for its "
        "session id.",
        validators.function_or_none,
    ),
    Setting(
        "PRESENCE_META",
        None,
        "presence: function that returns the metadata of a socket, a dict that other clients "
        "receive; None for an empty one.",
        validators.function_or_none,
    ),
    Setting(
        "PRESENCE_GRACE",
        10.0,
        "presence: seconds within which a lost client may reconnect before it is reported as "
        "having left.",
        validators.non_negative_seconds,
    ),
    Setting(
        "METRICS_PORT",
        None,
        "metrics: port of the Prometheus endpoint; 0 for a free port, None for no endpoint.",
        validators.port_or_none,
    ),
    Setting(
        "METRICS_HOST",
        "127.0.0.1",
        "metrics: address of the Prometheus endpoint; empty for all interfaces.",
        validators.text,
    ),
    Setting(
        "METRICS_REGISTRY",
        None,
        "metrics: registry of prometheus_client; None for ``prometheus_client.REGISTRY``.",
        validators.registry_or_none,
    ),
    Setting(
        "RATE_LIMIT_MESSAGES",
        (20, 60),
        "rate_limit: messages of a socket per second, and in a burst; further ones are rejected. "
        "None for no limit, as in the following settings.",
        validators.rate,
    ),
    Setting(
        "RATE_LIMIT_SUBSCRIPTIONS",
        (5, 200),
        "rate_limit: subscriptions of a socket per second, and in a burst; further ones are "
        "rejected.",
        validators.rate,
    ),
    Setting(
        "RATE_LIMIT_PACKETS",
        (50, 200),
        "rate_limit: packets without an event, such as pongs, of a session per second, and in a "
        "burst; beyond them the session is closed.",
        validators.rate,
    ),
    Setting(
        "RATE_LIMIT_KEY",
        None,
        "rate_limit: function that returns the key whose sockets share limits, such as a user or "
        "an address; None for no limits by key.",
        validators.function_or_none,
    ),
    Setting(
        "RATE_LIMIT_KEY_MESSAGES",
        (100, 300),
        "rate_limit: messages of all sockets of a key per second, and in a burst; further ones are "
        "rejected.",
        validators.rate,
    ),
    Setting(
        "RATE_LIMIT_KEY_SUBSCRIPTIONS",
        (25, 1000),
        "rate_limit: subscriptions of all sockets of a key per second, and in a burst; further "
        "ones are rejected.",
        validators.rate,
    ),
    Setting(
        "RATE_LIMIT_KEY_CONNECTIONS",
        (2, 60),
        "rate_limit: connection attempts of a key per second, and in a burst; further ones are "
        "rejected.",
        validators.rate,
    ),
    Setting(
        "RATE_LIMIT_REFUSALS",
        (1, 100),
        "rate_limit: rejections of a socket per second, and in a burst; beyond them the socket is "
        "disconnected.",
        validators.rate,
    ),
    Setting("ADMIN_USERNAME", None, "admin: user name for the Admin UI.", validators.text_or_none),
    Setting(
        "ADMIN_PASSWORD",
        None,
        "admin: password for the Admin UI, as returned by ``hash_password``.",
        validators.password_hash,
        True,
    ),
    Setting(
        "ADMIN_READONLY",
        True,
        "admin: whether the Admin UI cannot change subscriptions or disconnect sockets.",
        validators.boolean,
    ),
    Setting(
        "ADMIN_MODE",
        "development",
        'admin: ``"production"`` restricts the Admin UI to statistics.',
        validators.mode,
    ),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_SECRET = frozenset(setting.name for setting in SETTINGS if setting.secret)

#: Minimum similarity of a misspelt name: SOCKETO_PORT is one, while SOCKET_PORT may be valid
#: elsewhere.
_MIN_SIMILARITY = 0.92

#: The settings of the last `configure` call.
_configured: dict[str, Any] = {}

#: The name of the module passed to `configure`.
_configured_by = "configure()"


def configure(source: str | ModuleType | Mapping[str, Any]) -> None:
    """Read settings from a module or mapping.

    Replaces the settings of an earlier call. Call it before creating the server.

    Args:
        source: A module, its dotted name, or a mapping. Names without the prefix ``SOCKETIO_`` are
            ignored in modules.

    Raises:
        SettingsError: The module cannot be imported, or a name or value is invalid.

    Example:
        >>> configure({"SOCKETIO_PORT": 8001})
    """
    if isinstance(source, str):
        hint = f"; its name is {source[:-3]!r}, without .py" if source.endswith(".py") else ""
        try:
            source = importlib.import_module(source)
        except ImportError as error:
            raise SettingsError(
                f"the settings module {source!r} cannot be imported: {error}{hint}"
            ) from error
    global _configured_by
    given = source if isinstance(source, Mapping) else vars(source)
    found = _select(given)
    name: str = getattr(source, "__name__", "configure()")
    _check(found, name)
    _check_prefix(given, name, bare=given is source)
    _configured_by = name
    _configured.clear()
    _configured.update(found)


def resolve(keywords: Mapping[str, Any], web_config: Mapping[str, Any]) -> Settings:
    """Combine all sources.

    Args:
        keywords: Settings passed to the server, in lower case and without prefix.
        web_config: The contents of ``web.config``.

    Raises:
        SettingsError: A name or value is invalid.
    """
    from_web = _select(web_config)
    _check(from_web, "web.config")
    _check_prefix(web_config, "web.config")
    from_keywords = {name.upper(): value for name, value in keywords.items()}
    _check(from_keywords, "SocketIOServer()", keyword=True)
    values = {setting.name: setting.default for setting in SETTINGS}
    for source in (from_web, _configured, from_keywords):
        values.update(source)
    return Settings({name.lower(): value for name, value in values.items()})


def snapshot(web_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in ``web.config`` and of `configure`, for a later `changed`."""
    return {**_select(web_config), **_configured}


def changed(before: Mapping[str, Any], web_config: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that have changed since a `snapshot`."""
    now = snapshot(web_config)
    missing = object()
    return sorted(
        PREFIX + name
        for name in before.keys() | now.keys()
        if before.get(name, missing) != now.get(name, missing)
    )


def given(web_config: Mapping[str, Any]) -> list[GivenSetting]:
    """Return all settings in ``web.config`` and of `configure`, including invalid ones.

    If both have the same name, the later item in the list is in effect.
    """
    return [
        GivenSetting(PREFIX + name, _show(name, value), source, _wrong(name, value, PREFIX + name))
        for given, source in ((_select(web_config), "web.config"), (_configured, _configured_by))
        for name, value in given.items()
    ]


def backplane(web_config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return SOCKETIO_BACKPLANE and its prefix, unchecked, for processes without a server."""
    url, prefix = _BY_NAME["BACKPLANE"], _BY_NAME["BACKPLANE_PREFIX"]
    found = [
        _configured.get(setting.name, web_config.get(PREFIX + setting.name, setting.default))
        for setting in (url, prefix)
    ]
    return found[0], found[1]


def is_setting(keyword: str) -> bool:
    """Return whether a keyword of the server is a setting."""
    return keyword.islower() and keyword.upper() in _BY_NAME


def suggest(keyword: str, others: list[str]) -> str:
    """Return a hint with the most similar keyword, or an empty string."""
    known = [setting.name.lower() for setting in SETTINGS] + others
    near = difflib.get_close_matches(keyword, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _select(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name[len(PREFIX) :]: value
        for name, value in given.items()
        if isinstance(name, str) and name.startswith(PREFIX)
    }


def _check(given: Mapping[str, Any], source: str, keyword: bool = False) -> None:
    for name, value in given.items():
        wrong = _wrong(name, value, name.lower() if keyword else PREFIX + name)
        if wrong is not None:
            raise SettingsError(f"{source}: {wrong}")


def _check_prefix(given: Mapping[str, Any], source: str, bare: bool = False) -> None:
    """Reject names with a misspelt prefix, and in a `bare` mapping also names without prefix.

    Modules may contain names that are unrelated to this package.
    """
    for name in given:
        if not isinstance(name, str) or name.startswith(PREFIX):
            continue
        if name.upper().startswith("SO"):
            near = difflib.get_close_matches(
                name.upper(), map(PREFIX.__add__, _BY_NAME), 1, _MIN_SIMILARITY
            )
        else:
            near = [PREFIX + name.upper()] if bare and name.upper() in _BY_NAME else []
        if near:
            raise SettingsError(f"{source}: {name} is not a setting; did you mean {near[0]}?")


def _wrong(name: str, value: Any, written: str) -> str | None:
    setting = _BY_NAME.get(name)
    if setting is None:
        near = difflib.get_close_matches(name, _BY_NAME, 1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        return f"there is no setting {written}{hint}"
    wrong = setting.check(value)
    if wrong is None:
        return None
    shown = "<hidden>" if setting.secret else repr(value)
    return f"{written} is {shown}, but must be {wrong}"


def _show(name: str, value: Any) -> str:
    if name in _SECRET and value is not None:
        return "..."
    return getattr(value, "__qualname__", None) or repr(value)
