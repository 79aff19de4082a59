"""Validators of settings.

A validator is a pure function. It returns None for a valid value, and otherwise a description of
valid values that completes the sentence "The setting must be ...".
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
    "boolean",
    "function_or_none",
    "hosts_or_none",
    "integer",
    "integer_or_none",
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
]

#: Returns None for a valid value, otherwise a description of valid values.
Check = Callable[[Any], "str | None"]


def seconds(value: Any) -> str | None:
    """Check for a positive duration of less than a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "a number of seconds"
    return None if 0 < value < 86_400 else "more than 0 and less than a day"


def short_duration(value: Any) -> str | None:
    """Check for a positive duration of at most an hour, which detects milliseconds."""
    wrong = seconds(value)
    if wrong is None and value > 3600:
        wrong = "at most an hour, in seconds (Socket.IO on Node.js uses milliseconds)"
    return wrong


def non_negative_seconds(value: Any) -> str | None:
    """Check for a duration of less than a day, or 0."""
    return None if value == 0 and not isinstance(value, bool) else seconds(value)


def seconds_or_none(value: Any) -> str | None:
    """Check for a duration of less than a day, 0, or None."""
    return None if value is None else non_negative_seconds(value)


def positive_seconds_or_none(value: Any) -> str | None:
    """Check for a positive duration of less than a day, or None."""
    return None if value is None else seconds(value)


def integer(minimum: int, maximum: int = 2**31) -> Check:
    """Return a check for integers in a range."""

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            return f"an integer from {minimum} to {maximum}"
        return None

    return check


def integer_or_none(minimum: int) -> Check:
    """Return a check for integers from `minimum`, or None."""
    check = integer(minimum)

    def check_or_none(value: Any) -> str | None:
        wrong = None if value is None else check(value)
        return None if wrong is None else f"None or {wrong}"

    return check_or_none


def text(value: Any) -> str | None:
    """Check for a str."""
    return None if isinstance(value, str) else "a str"


def text_or_none(value: Any) -> str | None:
    """Check for a str, or None."""
    return None if value is None or isinstance(value, str) else "a str, or None"


def function_or_none(value: Any) -> str | None:
    """Check for a function of (request, socket, context), or None."""
    if value is None or callable(value):
        return None
    return "a function of (request, socket, context), or None"


def rate(value: Any) -> str | None:
    """Check for a rate and a burst of a token bucket, or None."""
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
    return "(rate per second, burst) with a bucket that refills within a day, or None for no limit"


def port_or_none(value: Any) -> str | None:
    """Check for a port, including 0, or None."""
    return None if value is None or integer(0, 65_535)(value) is None else "a port, or None"


def registry_or_none(value: Any) -> str | None:
    """Check for a registry of prometheus_client, or None."""
    names = ("register", "unregister", "collect")
    is_registry = all(callable(getattr(value, name, None)) for name in names)
    if value is None or (is_registry and not isinstance(value, type)):
        return None
    return "a prometheus_client.CollectorRegistry, or None for its REGISTRY"


def names(value: Any) -> str | None:
    """Check for a list of names."""
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return None
    return "a list of names"


def transports(value: Any) -> str | None:
    """Check for a list of one or both transports."""
    if names(value) is None and value and set(value) <= {"polling", "websocket"}:
        return None
    return 'a list with "polling", "websocket" or both'


def namespaces(value: Any) -> str | None:
    """Check for a list of valid namespaces."""
    if (
        names(value) is None
        and value
        and all(name.startswith("/") and "," not in name and "?" not in name for name in value)
    ):
        return None
    return 'a list of namespaces that start with "/" and have no comma or question mark'


def origins(value: Any) -> str | None:
    """Check for a list of origins, or None."""
    if value is None:
        return None
    if names(value) is None and all(map(_is_origin, value)):
        return None
    return (
        'a list of origins like "https://example.com" or "capacitor://localhost", in ASCII and '
        'without a path (no patterns; "*" for all; "null" for pages without an origin), or None '
        "for the same origin"
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
    """Return whether a host is a valid IPv6 address, if it is in brackets."""
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
    return True


_PATH_PREFIX = re.compile(r"(/[^/?#%\\\s\x00-\x1f\x7f]+)*")


def path_prefix(value: Any) -> str | None:
    """Check for a path such as "/app" that is not percent-encoded, or an empty str."""
    if isinstance(value, str) and _PATH_PREFIX.fullmatch(value) and value.isprintable():
        return None
    return 'a path like "/app", with a leading and no trailing slash, or ""'


def addresses(value: Any) -> str | None:
    """Check for a list of IP addresses, networks or "unix"."""
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
    """Check for a list of hosts with or without a port, or None."""
    if value is None or (names(value) is None and value and all(map(_is_host, value))):
        return None
    return (
        'a list of hosts like "example.com", "*.example.com", "127.0.0.1:8000" or "[::1]", in '
        'ASCII and without a scheme ("*" for all), or None for all'
    )


def _is_host(value: str) -> bool:
    match = _HOST.fullmatch(value)
    return value == "*" or (
        match is not None and _is_address(match[1]) and int(match[2] or 0) <= 65_535
    )


def redis(value: Any) -> str | None:
    """Check for the URL of a Redis server, or None."""
    if value is None:
        return None
    cause = _explain_redis_url(value) if isinstance(value, str) else ""
    if cause is None:
        return None
    wanted = 'None, or "redis://[[name]:password@]host[:port][/database]"'
    return f"{wanted}: {cause}" if cause else wanted


def _explain_redis_url(url: str) -> str | None:
    """Return why a URL is invalid, or None. The text must not contain the URL with its password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme != "redis":
        return _REDIS_SCHEMES.get(scheme.lower(), "it must start with redis://")
    credentials, at, location = rest.rpartition("@")
    if re.search(r"[/?#\[\]\s\x00-\x1f\x7f]", credentials):
        return _UNESCAPED
    if re.search(r"[\s\x00-\x1f\x7f]", location):
        return "there is a space or a control character after the password"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "host or port is invalid" if at else f"host or port is invalid; {_UNESCAPED}"
    if not host or port == 0:
        return "the host is missing" if not host else "the port must be from 1 to 65535"
    if "?" in location or "#" in location:
        return "options after ? and # are not supported"
    database = parts.path.removeprefix("/")
    if database and not (database.isascii() and database.isdecimal()):
        return "the database after the host must be a number"
    return None


_UNESCAPED = (
    "special characters in a name or password must be percent-encoded, # as %23, / as %2F, @ as "
    '%40, for example by urllib.parse.quote(password, safe="")'
)

_NO_UNIX_SOCKET = "is not supported; let Redis listen on 127.0.0.1 and use redis://"
_NO_SENTINEL = "Sentinel is not supported; use redis:// with an address that follows the master"

#: Explanations for URL schemes that other clients of Redis support.
_REDIS_SCHEMES = {
    "rediss": (
        "TLS (rediss://) is not supported; use redis:// in a private network or through a tunnel"
    ),
    "unix": f"a Unix socket (unix://) {_NO_UNIX_SOCKET}",
    "redis+unix": f"a Unix socket {_NO_UNIX_SOCKET}",
    "redis+socket": f"a Unix socket {_NO_UNIX_SOCKET}",
    "redis+sentinel": _NO_SENTINEL,
    "redis-sentinel": _NO_SENTINEL,
    "sentinel": _NO_SENTINEL,
    "redis+cluster": (
        "Redis Cluster is not supported; use redis:// with the address of a single server"
    ),
    "valkey": "Valkey is supported with the scheme redis://",
}


def password_hash(value: Any) -> str | None:
    """Check for a password hash with a limited cost, or None."""
    if value is None or (isinstance(value, str) and _SCRYPT.fullmatch(value)):
        return None
    return "the result of hash_password of the admin plugin, or None"


def mode(value: Any) -> str | None:
    """Check for a mode of the Admin UI."""
    return None if value in ("development", "production") else '"development" or "production"'


def boolean(value: Any) -> str | None:
    """Check for a bool."""
    return None if isinstance(value, bool) else "True or False"


def prefix(value: Any) -> str | None:
    """Check for a prefix of names in Redis."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", value):
        return None
    return "1 to 64 letters, digits, and _ . : -"


def machine(value: Any) -> str | None:
    """Check for a name that may be part of a session id, or an empty str."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{0,64}", value):
        return None
    return "up to 64 letters, digits, and _ -"


#: Scheme, host and port of an origin.
_ORIGIN = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]*)(?::([0-9]{1,5}))?"
)

#: A host with an optional port; "*." in front matches subdomains.
_HOST = re.compile(
    r"(\[[0-9A-Fa-f:.]+\]|(?:\*\.)?[0-9A-Za-z_~-][0-9A-Za-z._~-]*)(?::([0-9]{1,5}))?"
)

#: A PHC string. The cost is limited, because a cost of 2**40 would block the process indefinitely.
_SCRYPT = re.compile(
    r"\$scrypt\$ln=(?:[1-9]|1[0-7]),r=(?:[1-9]|1[0-6]),p=(?:[1-9]|1[0-6])"
    r"\$[A-Za-z0-9+/]{16,86}\$[A-Za-z0-9+/]{22,86}"
)
