"""Validators of the settings of an engine.

A validator is a pure function. It returns None for a valid value, and otherwise a description of
valid values that completes the sentence "The setting must be ...".
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from webpy_socketio.engine.config.fields import Check

__all__ = [
    "addresses",
    "boolean",
    "hosts_or_none",
    "integer",
    "integer_or_none",
    "machine",
    "names",
    "origins",
    "parser",
    "path_prefix",
    "seconds",
    "short_duration",
    "transports",
]


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


def boolean(value: Any) -> str | None:
    """Check for a bool."""
    return None if isinstance(value, bool) else "True or False"


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


def parser(value: Any) -> str | None:
    """Check for the name of a parser."""
    return None if value in ("json", "msgpack") else '"json" or "msgpack"'


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
