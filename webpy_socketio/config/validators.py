"""What a setting may be: each check says what a value has to be, or None if it is that.

Pure functions; what is wrong is told in words that follow "has to be".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "Check",
    "addresses",
    "function_or_none",
    "hosts_or_none",
    "integer",
    "machine",
    "mode",
    "names",
    "namespaces",
    "non_negative_seconds",
    "origins",
    "password_hash",
    "path_prefix",
    "port_or_none",
    "positive_seconds_or_none",
    "prefix",
    "rate",
    "redis",
    "registry_or_none",
    "seconds",
    "seconds_or_none",
    "short_duration",
    "text",
    "text_or_none",
    "transports",
    "whole_or_none",
    "yes_or_no",
]

#: What a value has to be, or None if nothing is wrong with it.
Check = Callable[[Any], "str | None"]


def seconds(value: Any) -> str | None:
    """Some time, of less than a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "a number of seconds"
    return None if 0 < value < 86_400 else "more than 0 and less than a day"


def short_duration(value: Any) -> str | None:
    """Some time, of an hour at most: elsewhere it is given in milliseconds."""
    wrong = seconds(value)
    if wrong is None and value > 3600:
        wrong = "an hour at most, in seconds (Socket.IO on Node.js has milliseconds)"
    return wrong


def non_negative_seconds(value: Any) -> str | None:
    """The same, or 0."""
    return None if value == 0 and not isinstance(value, bool) else seconds(value)


def seconds_or_none(value: Any) -> str | None:
    """The same, or None."""
    return None if value is None else non_negative_seconds(value)


def positive_seconds_or_none(value: Any) -> str | None:
    """Some time, but not 0, or None."""
    return None if value is None else seconds(value)


def integer(least: int, most: int = 2**31) -> Check:
    """A check for whole numbers between two."""

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            return f"a whole number from {least} to {most}"
        return None

    return check


def whole_or_none(least: int) -> Check:
    """A check for whole numbers from one on, or None."""
    check = integer(least)

    def check_or_none(value: Any) -> str | None:
        wrong = None if value is None else check(value)
        return None if wrong is None else f"None or {wrong}"

    return check_or_none


def text(value: Any) -> str | None:
    """Text."""
    return None if isinstance(value, str) else "text"


def text_or_none(value: Any) -> str | None:
    """Text, or None."""
    return None if value is None or isinstance(value, str) else "text, or None"


def function_or_none(value: Any) -> str | None:
    """A function of (request, socket, context), or None."""
    if value is None or callable(value):
        return None
    return "a function of (request, socket, context), or None"


def rate(value: Any) -> str | None:
    """A pair for a token bucket, or None."""
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


def port_or_none(value: Any) -> str | None:
    """A port, 0 among them, or None."""
    return None if value is None or integer(0, 65_535)(value) is None else "a port, or None"


def registry_or_none(value: Any) -> str | None:
    """What prometheus_client registers with, or None."""
    names = ("register", "unregister", "collect")
    fits = all(callable(getattr(value, name, None)) for name in names)
    if value is None or (fits and not isinstance(value, type)):
        return None
    return "a prometheus_client.CollectorRegistry, or None for its REGISTRY"


def names(value: Any) -> str | None:
    """A list of names."""
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return None
    return "a list of names"


def transports(value: Any) -> str | None:
    """One transport, or both."""
    if names(value) is None and value and set(value) <= {"polling", "websocket"}:
        return None
    return 'a list with "polling", "websocket" or both'


def namespaces(value: Any) -> str | None:
    """Namespaces as the protocol writes them."""
    if (
        names(value) is None
        and value
        and all(name.startswith("/") and "," not in name and "?" not in name for name in value)
    ):
        return None
    return 'a list of namespaces that begin with "/", without commas and question marks'


def origins(value: Any) -> str | None:
    """Origins as browsers and apps write them, or None."""
    if value is None:
        return None
    if names(value) is None and all(map(_is_origin, value)):
        return None
    return (
        'a list of origins like "https://example.com" or "capacitor://localhost", in ASCII and without '
        'a path (no patterns; "*" alone for any; "null" for pages without one), or None for the same origin'
    )


def _is_origin(value: str) -> bool:
    match = _ORIGIN.fullmatch(value)
    if match is None:
        return value in ("*", "null")
    scheme, host, port = match.groups()
    if not host and (port or scheme.lower() in ("http", "https", "ws", "wss")):
        return False
    return _is_address(host) and int(port or 0) <= 65_535


def _is_address(host: str) -> bool:
    """Return whether a host in brackets is an IPv6 address."""
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
    return True


_PATH_PREFIX = re.compile(r"(/[^/?#%\\\s\x00-\x1f\x7f]+)*")


def path_prefix(value: Any) -> str | None:
    """A path such as "/app", not percent-encoded, or nothing."""
    if isinstance(value, str) and _PATH_PREFIX.fullmatch(value) and value.isprintable():
        return None
    return 'a path like "/app", with a slash in front and none at the end, or ""'


def addresses(value: Any) -> str | None:
    """Addresses, networks of them, or a Unix socket."""
    wanted = 'a list of addresses, networks or "unix"'
    if names(value) is not None:
        return wanted
    try:
        for address in value:
            if address != "unix":
                ipaddress.ip_network(address, strict=False)
    except ValueError as error:
        return f"{wanted}: {error}"
    return None


def hosts_or_none(value: Any) -> str | None:
    """Hosts with or without a port, or None."""
    if value is None or (names(value) is None and value and all(map(_is_host, value))):
        return None
    return (
        'a list of hosts like "example.com", "*.example.com", "127.0.0.1:8000" or "[::1]", in ASCII and '
        'without a scheme ("*" alone for any), or None for any'
    )


def _is_host(value: str) -> bool:
    match = _HOST.fullmatch(value)
    return value == "*" or (
        match is not None and _is_address(match[1]) and int(match[2] or 0) <= 65_535
    )


def redis(value: Any) -> str | None:
    """Where a Redis is, or None."""
    if value is None:
        return None
    cause = _wrong_with_redis(value) if isinstance(value, str) else ""
    if cause is None:
        return None
    wanted = 'None, or "redis://[[name]:password@]host[:port][/database]"'
    return f"{wanted}: {cause}" if cause else wanted


def _wrong_with_redis(url: str) -> str | None:
    """Return the cause and the remedy, or None. Never quotes the URL: it may have a password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != "redis":
        return _REDIS_SCHEMES.get(scheme.lower(), "it has to begin with redis://")
    credentials, at, place = rest.rpartition("@")
    if re.search(r"[/?#\[\]\s\x00-\x1f\x7f]", credentials):
        return _UNESCAPED
    if re.search(r"[\s\x00-\x1f\x7f]", place):
        return "there is a space or a control character behind the password"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "host or port cannot be read" if at else f"host or port cannot be read; {_UNESCAPED}"
    if not host or port == 0:
        return "the host is missing" if not host else "a port is a number from 1 to 65535"
    if "?" in place or "#" in place:
        return "options behind ? and # are not supported"
    database = parts.path.removeprefix("/")
    if database and not (database.isascii() and database.isdecimal()):
        return "the database behind the host is a number"
    return None


_UNESCAPED = (
    "a name or password with special characters has to be percent-encoded, # as %23, / as %2F, @ as "
    '%40, for example by urllib.parse.quote(password, safe="")'
)

#: Valid elsewhere: what to do about each.
_REDIS_SCHEMES = {
    "rediss": "TLS (rediss://) is not supported; use redis:// in a private network or through a tunnel",
    "unix": "a Unix socket (unix://) is not supported; let Redis listen on 127.0.0.1 and use redis://",
    "redis+unix": "a Unix socket is not supported; let Redis listen on 127.0.0.1 and use redis://",
    "redis+socket": "a Unix socket is not supported; let Redis listen on 127.0.0.1 and use redis://",
    "redis+sentinel": "Sentinel is not supported; give redis:// with an address that follows the master",
    "redis-sentinel": "Sentinel is not supported; give redis:// with an address that follows the master",
    "sentinel": "Sentinel is not supported; give redis:// with an address that follows the master",
    "redis+cluster": "Redis Cluster is not supported; give redis:// with the address of one Redis",
    "valkey": "Valkey is supported under redis://",
}


def password_hash(value: Any) -> str | None:
    """A hash whose cost is bounded, or None."""
    if value is None or (isinstance(value, str) and _SCRYPT.fullmatch(value)):
        return None
    return "what the admin plugin's hash_password returned, or None"


def mode(value: Any) -> str | None:
    """How much the Admin UI shows."""
    return None if value in ("development", "production") else '"development" or "production"'


def yes_or_no(value: Any) -> str | None:
    """True or False."""
    return None if isinstance(value, bool) else "True or False"


def prefix(value: Any) -> str | None:
    """The beginning of names in Redis."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", value):
        return None
    return "1 to 64 letters, digits, and _ . : -"


def machine(value: Any) -> str | None:
    """A name that may stand in a session id, or none."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{0,64}", value):
        return None
    return "up to 64 letters, digits, and _ -"


#: Scheme, host and port of an origin.
_ORIGIN = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]*)(?::([0-9]{1,5}))?"
)

#: A host and its port; "*." in front for subdomains.
_HOST = re.compile(
    r"(\[[0-9A-Fa-f:.]+\]|(?:\*\.)?[0-9A-Za-z_~-][0-9A-Za-z._~-]*)(?::([0-9]{1,5}))?"
)

#: A PHC string; the cost is bounded, as who asks for 2**40 would wait for ever.
_SCRYPT = re.compile(
    r"\$scrypt\$ln=(?:[1-9]|1[0-7]),r=(?:[1-9]|1[0-6]),p=(?:[1-9]|1[0-6])"
    r"\$[A-Za-z0-9+/]{16,86}\$[A-Za-z0-9+/]{22,86}"
)
