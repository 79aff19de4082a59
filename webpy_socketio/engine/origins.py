"""Which pages may connect: the same origin, unless the settings say more.

A WebSocket is not bound by the browser's same-origin policy, and long-polling carries cookies:
without this check, any page a visitor opens could talk to the server in the visitor's name
(cross-site WebSocket hijacking; RFC 6454 for what an origin is, RFC 6455, 10.2).
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Origins"]

_PORTS = {"http": 80, "https": 443}

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Origins:
    """Decides about the ``Origin`` of a request.

    `allowed` are the origins allowed besides the request's own, or None; ``"*"`` allows any.
    `trusted_proxies` are addresses or networks whose ``X-Forwarded-Proto`` and
    ``X-Forwarded-Host`` are believed when the request's own origin is told.
    """

    def __init__(self, allowed: Sequence[str] | None, trusted_proxies: Sequence[str]) -> None:
        self._any = allowed is not None and "*" in allowed
        self._allowed = {_normalize(origin) for origin in allowed or () if origin != "*"}
        self._networks: list[_Network] = [
            ipaddress.ip_network(address, strict=False) for address in trusted_proxies
        ]

    def allow(self, environ: dict[str, Any]) -> bool:
        """Whether the request may be served. Without an Origin it is not a page that asks."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return True
        if origin == "null":  # sandboxed frames, local files: anybody can be null
            return False
        normal = _normalize(origin)
        if normal is None:
            return False
        return self._any or normal in self._allowed or normal == self.own(environ)

    def cors(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """The CORS headers for a response: none unless an allowed page of another origin asks."""
        origin = self.cross(environ)
        if origin is None or not self.allow(environ):
            return []
        headers = [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Vary", "Origin"),
        ]
        if environ["REQUEST_METHOD"] == "OPTIONS":
            headers += [
                ("Access-Control-Allow-Methods", "GET, POST"),
                ("Access-Control-Allow-Headers", "Content-Type"),
                ("Access-Control-Max-Age", "600"),
            ]
        return headers

    def cross(self, environ: dict[str, Any]) -> str | None:
        """The origin of an allowed request from another origin: it needs CORS headers."""
        origin: str | None = environ.get("HTTP_ORIGIN")
        if origin is None or _normalize(origin) == self.own(environ):
            return None
        return origin

    def own(self, environ: dict[str, Any]) -> tuple[str, str, int] | None:
        """The origin that the request was sent to."""
        scheme = environ.get("wsgi.url_scheme", "http")
        host = environ.get("HTTP_HOST", "")
        if self._trusts(environ.get("REMOTE_ADDR", "")):
            # Proxies append: the last value is the one that the nearest, the trusted one, wrote.
            scheme = _last(environ.get("HTTP_X_FORWARDED_PROTO")) or scheme
            host = _last(environ.get("HTTP_X_FORWARDED_HOST")) or host
        return _normalize(f"{scheme}://{host}")

    def _trusts(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False  # a Unix socket has no address
        return any(parsed in network for network in self._networks)


def _last(header: str | None) -> str:
    return (header or "").rpartition(",")[2].strip()


#: Characters of an origin; a host's name has 253 at most.
_LONGEST = 512


def _normalize(origin: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin; None if it is not one."""
    return None if len(origin) > _LONGEST else _parse(origin)


@functools.lru_cache(256)  # a site has a few, and each request of a page names one
def _parse(origin: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    # Nothing but scheme, host and port: "http://ours@evil" or a path is not an origin.
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    scheme = parts.scheme.lower()
    if port is None:
        port = _PORTS.get(scheme)
    return None if port is None else (scheme, parts.hostname.lower(), port)
