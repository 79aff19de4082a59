"""Host names: parsing of ``host[:port]``, and the names that a server accepts.

Checking ``Host`` prevents DNS rebinding. A page whose name resolves to this machine has the same
origin as the server; only its ``Host`` header differs.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["DEFAULT_PORTS", "AllowedHosts", "Host", "parse_host"]

#: Default ports by scheme, which browsers omit.
DEFAULT_PORTS = {"http": 80, "https": 443}

#: Characters of a host and a port. A DNS name has at most 253.
_MAX_LENGTH = 300

# RFC 3986 §3.2.2, without user information; the port may be empty (§3.2.3).
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+;=%-]*)(?::([0-9]{0,5}))?")


class Host(NamedTuple):
    """A normalized host and port."""

    #: In lower case, without a trailing dot; an IPv6 address in brackets, in its short form.
    name: str
    #: None if none is given.
    port: int | None


def parse_host(text: str) -> Host | None:
    """Return the host and port of ``host[:port]``, or None if `text` is malformed."""
    return _parse(text) if len(text) <= _MAX_LENGTH else None


@functools.lru_cache(256)  # most requests use one of a few hosts
def _parse(text: str) -> Host | None:
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    name, digits = match[1].lower().removesuffix("."), match[2]
    port = int(digits) if digits else None
    if port is not None and port > 65_535:
        return None
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1])}]"
        except ValueError:
            return None
    return Host(name, port)


class AllowedHosts:
    """Decides which values of ``Host`` a server accepts.

    An entry without a port allows every port of that host. ``"*.example.com"`` allows every
    subdomain of example.com, but not example.com itself; ``"*"`` allows every host.

    Args:
        allowed: The entries; None allows every request, also without a ``Host`` header.
    """

    __slots__ = ("_any", "_domains", "_hosts")

    def __init__(self, allowed: Sequence[str] | None) -> None:
        self._any = allowed is None or "*" in allowed
        self._hosts: set[Host] = set()
        self._domains: set[tuple[str, int | None]] = set()
        for entry in allowed or ():
            host = parse_host(entry.removeprefix("*."))
            if host is None or not host.name:
                continue
            if entry.startswith("*."):
                self._domains.add(("." + host.name, host.port))
            else:
                self._hosts.add(host)

    def allows(self, host: str, scheme: str = "http") -> bool:
        """Return whether a request with this ``Host`` may be served.

        Args:
            host: Value of the header; empty if the request has none.
            scheme: ``"http"`` or ``"https"``, for the port of a `host` without one.
        """
        if self._any:
            return True
        parsed = parse_host(host)
        if parsed is None or not parsed.name:
            return False
        name, port = parsed
        port = DEFAULT_PORTS.get(scheme) if port is None else port
        return (
            Host(name, None) in self._hosts
            or Host(name, port) in self._hosts
            or any(name.endswith(end) and only in (None, port) for end, only in self._domains)
        )
