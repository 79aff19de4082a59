"""The SOCKETIO_* settings: names, defaults, what they may be, and where they come from.

The nearest wins: a keyword of `SocketIOServer` (lower case, without the prefix), then the module
given to `configure`, then ``web.config``, then the default. What is unknown or impossible is
refused when the server is made.
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

__all__ = ["SETTINGS", "Given", "Setting", "Settings", "configure", "given", "resolve"]

PREFIX = "SOCKETIO_"


@dataclass(frozen=True)
class Setting:
    """One setting: its name without the prefix, its default, what it is, and what it may be."""

    name: str
    default: Any
    doc: str
    check: validators.Check
    #: Whether its value may hold a password, and is not shown.
    secret: bool = False


class Given(NamedTuple):
    """A setting that somebody gave, for whoever wants to know where it comes from."""

    #: With its prefix.
    name: str
    #: As it may be shown to anybody.
    shown: str
    #: ``web.config``, or what `configure` was given.
    source: str
    #: Why it is refused, or None.
    wrong: str | None


class Settings:
    """Resolved settings, one attribute each: ``settings.ping_interval`` is SOCKETIO_PING_INTERVAL.

    Names that belong to a plugin of somebody else's are not here: a plugin reads its own where it
    likes.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:  # only for what is not there
        raise AttributeError(f"there is no setting {PREFIX}{name.upper()}")

    def __repr__(self) -> str:
        shown = {
            name: "..." if name.upper() in _SECRET and value is not None else value
            for name, value in self.__dict__.items()
        }
        return f"Settings({shown!r})"


SETTINGS = (
    Setting("HOST", "127.0.0.1", "address to listen on; empty for all", validators.text),
    Setting("PORT", 8000, "port to listen on; 0 for a free one", validators.integer(0, 65_535)),
    Setting("PLUGINS", ["webpy_socketio.plugins.message_logger"], "dotted names", validators.names),
    Setting(
        "MESSAGE_LOG_FORMAT",
        '%(REMOTE_ADDR)s - - [%(TIME)s] "Socket.IO %(TYPE)s: %(MESSAGE)s"',
        "a line of the message log; None turns it off",
        validators.text_or_none,
    ),
    Setting(
        "TRANSPORTS", ["polling", "websocket"], "transports that may be used", validators.transports
    ),
    Setting(
        "PING_INTERVAL", 25.0, "seconds between a pong and the next ping", validators.short_duration
    ),
    Setting("PING_TIMEOUT", 20.0, "seconds a client has for its pong", validators.short_duration),
    Setting(
        "UPGRADE_TIMEOUT",
        10.0,
        "seconds a WebSocket has to replace polling",
        validators.short_duration,
    ),
    Setting(
        "CONNECT_TIMEOUT",
        45.0,
        "seconds a client may stay without a namespace",
        validators.short_duration,
    ),
    Setting(
        "MAX_MESSAGE_SIZE", 1_000_000, "bytes of a client's message or body", validators.integer(1)
    ),
    Setting(
        "OUTBOX_BYTES",
        4 * 1024 * 1024,
        "bytes that may wait for a client",
        validators.integer(1024),
    ),
    Setting("OUTBOX_PACKETS", 16_384, "packets that may wait for a client", validators.integer(16)),
    Setting("WRITE_TIMEOUT", 20.0, "seconds without progress in writing", validators.seconds),
    Setting("MAX_SESSIONS", 20_000, "sessions at once", validators.integer(1)),
    Setting(
        "MAX_SESSIONS_PER_ADDRESS",
        None,
        "sessions at once of one address or IPv6 /64; None for 1,000, loopback without limit",
        validators.whole_or_none(1),
    ),
    Setting(
        "MAX_CONNECTIONS_PER_ADDRESS",
        None,
        "connections at once of one address or IPv6 /64, besides WebSockets; None for 2,000, loopback "
        "without limit",
        validators.whole_or_none(1),
    ),
    Setting(
        "MAX_BODIES_SIZE",
        256 * 1024 * 1024,
        "bytes of all request bodies at once, in memory and in temporary files",
        validators.integer(1),
    ),
    Setting("HEADER_TIMEOUT", 10.0, "seconds for the head of a request", validators.seconds),
    Setting(
        "BODY_TIMEOUT", 20.0, "seconds without progress in a request's body", validators.seconds
    ),
    Setting(
        "IDLE_TIMEOUT", 75.0, "seconds between two requests of a connection", validators.seconds
    ),
    Setting("MAX_BODY_SIZE", 16 * 1024 * 1024, "bytes of a body for a page", validators.integer(0)),
    Setting(
        "INBOX_EVENTS",
        256,
        "events that may wait for a connection's handlers",
        validators.integer(1),
    ),
    Setting(
        "BLOCK_WARNING",
        1.0,
        "seconds that something may block the loop, unnoticed; None for ever",
        validators.seconds_or_none,
    ),
    Setting(
        "DRAIN_TIME",
        3.0,
        "seconds over which clients are told, when the server stops; 0 for all at once",
        validators.non_negative_seconds,
    ),
    Setting("MAX_CHANNELS", 128, "channels a socket may hold", validators.integer(0)),
    Setting("MAX_CHANNEL_LENGTH", 255, "characters of a channel's name", validators.integer(1)),
    Setting("NAMESPACES", ["/"], "Socket.IO namespaces that exist", validators.namespaces),
    Setting(
        "ALLOWED_ORIGINS",
        None,
        "origins whose pages may connect, besides our own",
        validators.origins,
    ),
    Setting(
        "TRUSTED_PROXIES",
        [],
        "addresses and networks of proxies whose ``X-Forwarded-...`` headers, or ``Forwarded``, describe the "
        'client; ``"unix"`` for a proxy on a Unix socket',
        validators.addresses,
    ),
    Setting(
        "ALLOWED_HOSTS",
        None,
        'hosts that are served, with or without a port; ``"*.example.com"`` for subdomains; None for all',
        validators.hosts_or_none,
    ),
    Setting(
        "PATH_PREFIX", "", "path below which the application is mounted", validators.path_prefix
    ),
    Setting(
        "WORKER_TIMEOUT",
        30.0,
        "seconds after which a worker whose event loop stands still is replaced; None for never",
        validators.positive_seconds_or_none,
    ),
    Setting(
        "MACHINE", "", "name of this machine, at the end of its session ids", validators.machine
    ),
    Setting(
        "BACKPLANE", None, "where other processes are reached: redis://...", validators.redis, True
    ),
    Setting("BACKPLANE_PREFIX", "webpy_socketio", "of names in Redis; one each", validators.prefix),
    Setting(
        "PRESENCE_KEY",
        None,
        "presence: who a socket is; None for its id",
        validators.function_or_none,
    ),
    Setting(
        "PRESENCE_META",
        None,
        "presence: what others see of it, a dict",
        validators.function_or_none,
    ),
    Setting(
        "PRESENCE_GRACE",
        10.0,
        "presence: seconds a lost client has to come back before it has left",
        validators.non_negative_seconds,
    ),
    Setting(
        "METRICS_PORT",
        None,
        "metrics: port of the endpoint; None for none",
        validators.port_or_none,
    ),
    Setting("METRICS_HOST", "127.0.0.1", "metrics: its address; empty for all", validators.text),
    Setting(
        "METRICS_REGISTRY",
        None,
        "metrics: where they are; None: REGISTRY",
        validators.registry_or_none,
    ),
    Setting("RATE_LIMIT_MESSAGES", (20, 60), "rate_limit: messages of a socket", validators.rate),
    Setting(
        "RATE_LIMIT_SUBSCRIPTIONS",
        (5, 200),
        "rate_limit: subscriptions of a socket",
        validators.rate,
    ),
    Setting(
        "RATE_LIMIT_PACKETS",
        (50, 200),
        "rate_limit: packets without an event, of a client",
        validators.rate,
    ),
    Setting(
        "RATE_LIMIT_KEY",
        None,
        "rate_limit: whose sockets share limits",
        validators.function_or_none,
    ),
    Setting(
        "RATE_LIMIT_KEY_MESSAGES", (100, 300), "rate_limit: messages of a key", validators.rate
    ),
    Setting("RATE_LIMIT_KEY_SUBSCRIPTIONS", (25, 1000), "rate_limit: the same", validators.rate),
    Setting(
        "RATE_LIMIT_KEY_CONNECTIONS", (2, 60), "rate_limit: attempts to connect", validators.rate
    ),
    Setting(
        "RATE_LIMIT_REFUSALS",
        (1, 100),
        "rate_limit: beyond them it is disconnected",
        validators.rate,
    ),
    Setting("ADMIN_USERNAME", None, "admin: who may in", validators.text_or_none),
    Setting(
        "ADMIN_PASSWORD", None, "admin: the hash of a password", validators.password_hash, True
    ),
    Setting("ADMIN_READONLY", True, "admin: whether it can only look", validators.yes_or_no),
    Setting("ADMIN_MODE", "development", 'admin: "production" shows numbers only', validators.mode),
)

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_SECRET = frozenset(setting.name for setting in SETTINGS if setting.secret)

#: How alike a name is that can only be a setting: SOCKETO_PORT is, SOCKET_PORT may be somebody else's.
_TYPO = 0.92

#: What `configure` was given last.
_configured: dict[str, Any] = {}

#: What that is called.
_configured_by = "configure()"


def configure(source: str | ModuleType | Mapping[str, Any]) -> None:
    """Take the SOCKETIO_* names of a settings module: its dotted name, itself, or a mapping.

    Replaces what an earlier call took. Raises `SettingsError` if the module cannot be imported, or
    for a name or value that is not acceptable.
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
    """Combine all sources, the nearest winning; raises `SettingsError`.

    `keywords` are those of the server, in lower case.
    """
    from_web = _select(web_config)
    _check(from_web, "web.config")
    _check_prefix(web_config, "web.config")
    near = {name.upper(): value for name, value in keywords.items()}
    _check(near, "SocketIOServer()", keyword=True)
    given = {setting.name: setting.default for setting in SETTINGS}
    for source in (from_web, _configured, near):
        given.update(source)
    return Settings({name.lower(): value for name, value in given.items()})


def snapshot(web_config: Mapping[str, Any]) -> dict[str, Any]:
    """What `resolve` reads besides keywords, to see later what was set too late."""
    return {**_select(web_config), **_configured}


def changed(before: Mapping[str, Any], web_config: Mapping[str, Any]) -> list[str]:
    """The names of settings that were set since a `snapshot`."""
    now = snapshot(web_config)
    nothing = object()
    return sorted(
        PREFIX + name
        for name in before.keys() | now.keys()
        if before.get(name, nothing) != now.get(name, nothing)
    )


def given(web_config: Mapping[str, Any]) -> list[Given]:
    """What was given, good or not, besides keywords; of one name the last one counts."""
    return [
        Given(PREFIX + name, _show(name, value), source, _wrong(name, value, PREFIX + name))
        for given, source in ((_select(web_config), "web.config"), (_configured, _configured_by))
        for name, value in given.items()
    ]


def backplane(web_config: Mapping[str, Any]) -> tuple[Any, Any]:
    """SOCKETIO_BACKPLANE and its prefix, unchecked, for a process in which no server resolves them."""
    url, prefix = _BY_NAME["BACKPLANE"], _BY_NAME["BACKPLANE_PREFIX"]
    found = [
        _configured.get(setting.name, web_config.get(PREFIX + setting.name, setting.default))
        for setting in (url, prefix)
    ]
    return found[0], found[1]


def is_setting(keyword: str) -> bool:
    """Whether a keyword of the server is a setting."""
    return keyword.islower() and keyword.upper() in _BY_NAME


def suggest(keyword: str, others: list[str]) -> str:
    """A hint for a misspelt keyword, or nothing."""
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
    """Refuse names that miss our prefix by a letter or two; or altogether, if they are `bare`.

    A module has other names too, and they are its own: only what is given to `configure` as a mapping
    is for nobody else.
    """
    for name in given:
        if not isinstance(name, str) or name.startswith(PREFIX):
            continue
        if name.upper().startswith("SO"):
            near = difflib.get_close_matches(name.upper(), map(PREFIX.__add__, _BY_NAME), 1, _TYPO)
        else:
            near = [PREFIX + name.upper()] if bare and name.upper() in _BY_NAME else []
        if near:
            raise SettingsError(f"{source}: {name} is no setting; did you mean {near[0]}?")


def _wrong(name: str, value: Any, written: str) -> str | None:
    setting = _BY_NAME.get(name)
    if setting is None:
        near = difflib.get_close_matches(name, _BY_NAME, 1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        return f"there is no setting {written}{hint}"
    wrong = setting.check(value)
    if wrong is None:
        return None
    shown = "something else" if setting.secret else repr(value)
    return f"{written} is {shown}, but has to be {wrong}"


def _show(name: str, value: Any) -> str:
    if name in _SECRET and value is not None:
        return "..."
    return getattr(value, "__qualname__", None) or repr(value)
