"""The SOCKETIO_* settings: names, defaults, what they may be, and where they come from.

The nearest wins: a keyword of `SocketIOServer` (lower case, without the prefix), then the module
given to `configure`, then ``web.config``, then the default. What is unknown or impossible is
refused when the server is made.
"""

from __future__ import annotations

import difflib
import importlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from webpy_socketio.exceptions import SettingsError

__all__ = ["SETTINGS", "Given", "Setting", "Settings", "configure", "given", "resolve"]

PREFIX = "SOCKETIO_"

#: What is wrong with a value, or None if nothing is.
Check = Callable[[Any], "str | None"]


@dataclass(frozen=True)
class Setting:
    """One setting: its name without the prefix, its default, what it is, and what it may be."""

    name: str
    default: Any
    doc: str
    check: Check
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

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:  # only for what is not there
        raise AttributeError(f"there is no setting {PREFIX}{name.upper()}")

    def __repr__(self) -> str:
        shown = {
            name: "..." if name.upper() in _SECRET and value is not None else value
            for name, value in self.__dict__.items()
        }
        return f"Settings({shown!r})"


def _seconds(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "a number of seconds"
    return None if 0 < value < 86_400 else "more than 0 and less than a day"


def _few_seconds(value: Any) -> str | None:
    wrong = _seconds(value)
    if wrong is None and value > 3600:
        wrong = "an hour at most, in seconds (Socket.IO on Node.js has milliseconds)"
    return wrong


def _seconds_or_none_at_all(value: Any) -> str | None:
    return None if value == 0 and not isinstance(value, bool) else _seconds(value)


def _seconds_or_none(value: Any) -> str | None:
    return None if value is None else _seconds_or_none_at_all(value)


def _whole(least: int, most: int = 2**31) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            return f"a whole number from {least} to {most}"
        return None

    return check


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else "text"


def _text_or_none(value: Any) -> str | None:
    return None if value is None or isinstance(value, str) else "text, or None"


def _function_or_none(value: Any) -> str | None:
    if value is None or callable(value):
        return None
    return "a function of (request, socket, context), or None"


def _rate(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and len(value) == 2:
        rate, burst = value
        if not any(isinstance(number, bool) for number in value) and (
            isinstance(rate, (int, float))
            and 0 < rate <= 1_000_000
            and isinstance(burst, int)
            and 1 <= burst <= 1_000_000
            and burst / rate < 86_400
        ):
            return None
    return "(how many a second, how many at once), whole again within a day, or None for no limit"


def _port_or_none(value: Any) -> str | None:
    return None if value is None or _whole(0, 65_535)(value) is None else "a port, or None"


def _registry_or_none(value: Any) -> str | None:
    names = ("register", "unregister", "collect")
    fits = all(callable(getattr(value, name, None)) for name in names)
    if value is None or (fits and not isinstance(value, type)):
        return None
    return "a prometheus_client.CollectorRegistry, or None for its REGISTRY"


def _names(value: Any) -> str | None:
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return None
    return "a list of names"


def _transports(value: Any) -> str | None:
    if _names(value) is None and value and set(value) <= {"polling", "websocket"}:
        return None
    return 'a list with "polling", "websocket" or both'


def _namespaces(value: Any) -> str | None:
    if (
        _names(value) is None
        and value
        and all(name.startswith("/") and "," not in name and "?" not in name for name in value)
    ):
        return None
    return 'a list of namespaces that begin with "/", without commas and question marks'


def _origins(value: Any) -> str | None:
    if value is None:
        return None
    if _names(value) is None and all(map(_is_origin, value)):
        return None
    return (
        'a list of origins like "https://example.com" (no patterns; "*" alone for any), or None for '
        "the same origin"
    )


def _is_origin(value: str) -> bool:
    if "*" in value:  # any, or nobody: there are no patterns
        return value == "*"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname and not parts.path and not parts.query) and (
        port is not None or parts.scheme in ("http", "https")
    )


def _addresses(value: Any) -> str | None:
    if _names(value) is None:
        try:
            for address in value:
                ipaddress.ip_network(address, strict=False)
        except ValueError as error:
            return f"a list of addresses or networks: {error}"
        return None
    return "a list of addresses or networks"


def _redis(value: Any) -> str | None:
    wanted = 'None, or "redis://[[name]:password@]host[:port][/database]"'
    if value is None:
        return None
    if not isinstance(value, str):
        return wanted
    try:
        parts = urlsplit(value)
        good = parts.scheme == "redis" and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        return wanted
    rest = parts.path.removeprefix("/")
    good = good and not parts.query and not parts.fragment and (not rest or rest.isdecimal())
    return None if good else wanted


def _password_hash(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and _SCRYPT.fullmatch(value)):
        return None
    return "what the admin plugin's hash_password returned, or None"


def _mode(value: Any) -> str | None:
    return None if value in ("development", "production") else '"development" or "production"'


def _yes_or_no(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _prefix(value: Any) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", value):
        return None
    return "1 to 64 letters, digits, and _ . : -"


def _machine(value: Any) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{0,64}", value):
        return None
    return "up to 64 letters, digits, and _ -"


#: A PHC string; the cost is bounded, as who asks for 2**40 would wait for ever.
_SCRYPT = re.compile(
    r"\$scrypt\$ln=(?:[1-9]|1[0-7]),r=(?:[1-9]|1[0-6]),p=(?:[1-9]|1[0-6])"
    r"\$[A-Za-z0-9+/]{16,86}\$[A-Za-z0-9+/]{22,86}"
)

SETTINGS = (
    Setting("HOST", "127.0.0.1", "address to listen on; empty for all", _text),
    Setting("PORT", 8000, "port to listen on; 0 for a free one", _whole(0, 65_535)),
    Setting("PLUGINS", ["webpy_socketio.plugins.message_logger"], "dotted names", _names),
    Setting(
        "MESSAGE_LOG_FORMAT",
        '%(REMOTE_ADDR)s - - [%(TIME)s] "Socket.IO %(TYPE)s: %(MESSAGE)s"',
        "a line of the message log; None turns it off",
        _text_or_none,
    ),
    Setting("TRANSPORTS", ["polling", "websocket"], "transports that may be used", _transports),
    Setting("PING_INTERVAL", 25.0, "seconds between a pong and the next ping", _few_seconds),
    Setting("PING_TIMEOUT", 20.0, "seconds a client has for its pong", _few_seconds),
    Setting("UPGRADE_TIMEOUT", 10.0, "seconds a WebSocket has to replace polling", _few_seconds),
    Setting("CONNECT_TIMEOUT", 45.0, "seconds a client may stay without a namespace", _few_seconds),
    Setting("MAX_MESSAGE_SIZE", 1_000_000, "bytes of a client's message or body", _whole(1)),
    Setting("OUTBOX_BYTES", 4 * 1024 * 1024, "bytes that may wait for a client", _whole(1024)),
    Setting("OUTBOX_PACKETS", 16_384, "packets that may wait for a client", _whole(16)),
    Setting("WRITE_TIMEOUT", 20.0, "seconds without progress in writing", _seconds),
    Setting("MAX_SESSIONS", 20_000, "sessions at once", _whole(1)),
    Setting("HEADER_TIMEOUT", 10.0, "seconds for the head of a request", _seconds),
    Setting("BODY_TIMEOUT", 20.0, "seconds without progress in a request's body", _seconds),
    Setting("IDLE_TIMEOUT", 75.0, "seconds between two requests of a connection", _seconds),
    Setting("MAX_BODY_SIZE", 16 * 1024 * 1024, "bytes of a body for a page", _whole(0)),
    Setting("INBOX_EVENTS", 256, "events that may wait for a connection's handlers", _whole(1)),
    Setting(
        "BLOCK_WARNING",
        1.0,
        "seconds that something may block the loop, unnoticed; None for ever",
        _seconds_or_none,
    ),
    Setting(
        "DRAIN_TIME",
        3.0,
        "seconds over which clients are told, when the server stops; 0 for all at once",
        _seconds_or_none_at_all,
    ),
    Setting("MAX_CHANNELS", 128, "channels a socket may hold", _whole(0)),
    Setting("MAX_CHANNEL_LENGTH", 255, "characters of a channel's name", _whole(1)),
    Setting("NAMESPACES", ["/"], "Socket.IO namespaces that exist", _namespaces),
    Setting("ALLOWED_ORIGINS", None, "origins whose pages may connect, besides our own", _origins),
    Setting("TRUSTED_PROXIES", [], "proxies whose X-Forwarded headers are believed", _addresses),
    Setting("MACHINE", "", "name of this machine, at the end of its session ids", _machine),
    Setting("BACKPLANE", None, "where other processes are reached: redis://...", _redis, True),
    Setting("BACKPLANE_PREFIX", "webpy_socketio", "of names in Redis; one each", _prefix),
    Setting("PRESENCE_KEY", None, "presence: who a socket is; None for its id", _function_or_none),
    Setting("PRESENCE_META", None, "presence: what others see of it, a dict", _function_or_none),
    Setting(
        "PRESENCE_GRACE",
        10.0,
        "presence: seconds a lost client has to come back before it has left",
        _seconds_or_none_at_all,
    ),
    Setting("METRICS_PORT", None, "metrics: port of the endpoint; None for none", _port_or_none),
    Setting("METRICS_HOST", "127.0.0.1", "metrics: its address; empty for all", _text),
    Setting("METRICS_REGISTRY", None, "metrics: where they are; None: REGISTRY", _registry_or_none),
    Setting("RATE_LIMIT_MESSAGES", (20, 60), "rate_limit: messages of a socket", _rate),
    Setting("RATE_LIMIT_SUBSCRIPTIONS", (5, 200), "rate_limit: subscriptions of a socket", _rate),
    Setting("RATE_LIMIT_KEY", None, "rate_limit: whose sockets share limits", _function_or_none),
    Setting("RATE_LIMIT_KEY_MESSAGES", (100, 300), "rate_limit: messages of a key", _rate),
    Setting("RATE_LIMIT_KEY_SUBSCRIPTIONS", (25, 1000), "rate_limit: the same", _rate),
    Setting("RATE_LIMIT_KEY_CONNECTIONS", (2, 60), "rate_limit: attempts to connect", _rate),
    Setting("RATE_LIMIT_REFUSALS", (1, 100), "rate_limit: beyond them it is disconnected", _rate),
    Setting("ADMIN_USERNAME", None, "admin: who may in", _text_or_none),
    Setting("ADMIN_PASSWORD", None, "admin: the hash of a password", _password_hash, True),
    Setting("ADMIN_READONLY", True, "admin: whether it can only look", _yes_or_no),
    Setting("ADMIN_MODE", "development", 'admin: "production" shows numbers only', _mode),
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
    values = source if isinstance(source, Mapping) else vars(source)
    found = _select(values)
    name: str = getattr(source, "__name__", "configure()")
    _check(found, name)
    _check_prefix(values, name, bare=values is source)
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
    values = {setting.name: setting.default for setting in SETTINGS}
    for source in (from_web, _configured, near):
        values.update(source)
    return Settings({name.lower(): value for name, value in values.items()})


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
        for values, source in ((_select(web_config), "web.config"), (_configured, _configured_by))
        for name, value in values.items()
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


def _select(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name[len(PREFIX) :]: value
        for name, value in values.items()
        if isinstance(name, str) and name.startswith(PREFIX)
    }


def _check(values: Mapping[str, Any], source: str, keyword: bool = False) -> None:
    for name, value in values.items():
        wrong = _wrong(name, value, name.lower() if keyword else PREFIX + name)
        if wrong is not None:
            raise SettingsError(f"{source}: {wrong}")


def _check_prefix(values: Mapping[str, Any], source: str, bare: bool = False) -> None:
    """Refuse names that miss our prefix by a letter or two; or altogether, if they are `bare`.

    A module has other names too, and they are its own: only what is given to `configure` as a mapping
    is for nobody else.
    """
    for name in values:
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
