"""Validators of the settings above the engine, as in `webpy_socketio.engine.config.validators`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from webpy_socketio.backplane.addresses import URL_FORMS, parse_url
from webpy_socketio.bus.patterns import is_anchored
from webpy_socketio.engine.config.validators import integer, seconds

__all__ = [
    "function_or_none",
    "history_or_none",
    "mode",
    "namespaces",
    "non_negative_seconds",
    "password_hash",
    "port_or_none",
    "positive_seconds_or_none",
    "prefix",
    "rate",
    "redis",
    "registry_or_none",
    "seconds_or_none",
    "text",
    "text_or_none",
]


def non_negative_seconds(value: Any) -> str | None:
    """Check for a duration of less than a day, or 0."""
    return None if value == 0 and not isinstance(value, bool) else seconds(value)


def seconds_or_none(value: Any) -> str | None:
    """Check for a duration of less than a day, 0, or None."""
    return None if value is None else non_negative_seconds(value)


def positive_seconds_or_none(value: Any) -> str | None:
    """Check for a positive duration of less than a day, or None."""
    return None if value is None else seconds(value)


def text(value: Any) -> str | None:
    """Check for a str."""
    return None if isinstance(value, str) else "a str"


def text_or_none(value: Any) -> str | None:
    """Check for a str, or None."""
    return None if value is None or isinstance(value, str) else "a str, or None"


def namespaces(value: Any) -> str | None:
    """Check for a list of names of namespaces, and of patterns that match whole names."""
    if not isinstance(value, (list, tuple)) or not value:
        return _NAMESPACES
    for one in value:
        if isinstance(one, re.Pattern) and isinstance(one.pattern, str):
            if not is_anchored(one):
                return (
                    f"{_NAMESPACES}; {one.pattern!r} would also match longer names, as it does "
                    f"not end with $: use re.compile({one.pattern + '$'!r})"
                )
        elif not isinstance(one, str) or not one.startswith("/") or "," in one or "?" in one:
            return _NAMESPACES
    return None


_NAMESPACES = (
    'a list of namespaces that start with "/" and have no comma or question mark, and of compiled '
    r'patterns such as re.compile(r"/tenant-\d+$")'
)


def function_or_none(value: Any) -> str | None:
    """Check for a function of (request, socket, context), or None."""
    if value is None or callable(value):
        return None
    return "a function of (request, socket, context), or None"


def history_or_none(value: Any) -> str | None:
    """Check for sizes and durations of histories by pattern, or None."""
    if value is None:
        return None
    wanted = (
        'a dict of patterns, such as {"^room-": {"size": 100, "ttl": 3600}}, with a size of 1 to '
        "10,000 messages and a ttl of at most 30 days, or None"
    )
    if not isinstance(value, Mapping):
        return wanted
    for pattern, rule in value.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            return f"{wanted}: {pattern!r} is not a regular expression: {error}"
        if not isinstance(pattern, str) or not isinstance(rule, Mapping):
            return wanted
        if (
            set(rule) != {"size", "ttl"}
            or integer(1, 10_000)(rule["size"])
            or isinstance(rule["ttl"], bool)
            or not isinstance(rule["ttl"], (int, float))
            or not 0.001 <= rule["ttl"] <= 30 * 86_400
        ):
            return f"{wanted}: {pattern!r} has {dict(rule)!r}"
    return None


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


def tracer_provider_or_none(value: Any) -> str | None:
    """Check for a tracer provider of OpenTelemetry, or None."""
    is_provider = callable(getattr(value, "get_tracer", None))
    if value is None or (is_provider and not isinstance(value, type)):
        return None
    return "a TracerProvider of OpenTelemetry, or None for the global one"


def redis(value: Any) -> str | None:
    """Check for the URL of a Redis server, or None."""
    if value is None:
        return None
    wanted = f"None, or {URL_FORMS}"
    if not isinstance(value, str):
        return wanted
    try:
        parse_url(value)
    except ValueError as error:
        return f"{wanted}: {error}"
    return None


def password_hash(value: Any) -> str | None:
    """Check for a password hash with a limited cost, or None."""
    if value is None or (isinstance(value, str) and _SCRYPT.fullmatch(value)):
        return None
    return "the result of hash_password of the admin plugin, or None"


def mode(value: Any) -> str | None:
    """Check for a mode of the Admin UI."""
    return None if value in ("development", "production") else '"development" or "production"'


def prefix(value: Any) -> str | None:
    """Check for a prefix of names in Redis."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", value):
        return None
    return "1 to 64 letters, digits, and _ . : -"


#: A PHC string. The cost is limited, because a cost of 2**40 would block the process indefinitely.
_SCRYPT = re.compile(
    r"\$scrypt\$ln=(?:[1-9]|1[0-7]),r=(?:[1-9]|1[0-6]),p=(?:[1-9]|1[0-6])"
    r"\$[A-Za-z0-9+/]{16,86}\$[A-Za-z0-9+/]{22,86}"
)
