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

from webpy_socketio.engine.notices import quoted

__all__ = ["Origins"]

_PORTS = {"http": 80, "https": 443}

#: Expected origins that a message names.
_SHOWN = 5

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

    def explain(self, environ: dict[str, Any]) -> str:
        """Why a request is not allowed, and what would mend it: for the log only."""
        origin: str = environ["HTTP_ORIGIN"]
        own = self.own(environ)
        allowed = [_written(each) for each in (own, *self._allowed) if each is not None]
        expected = " or ".join(allowed[:_SHOWN]) or "nothing that has a Host"
        remedy = self._remedy(environ, _normalize(origin), own)
        return f"refused a page of {quoted(origin)}, expected {expected}: {remedy}"

    def _remedy(
        self,
        environ: dict[str, Any],
        origin: tuple[str, str, int] | None,
        own: tuple[str, str, int] | None,
    ) -> str:
        if origin is None and environ["HTTP_ORIGIN"] != "null":
            return "that is no origin, and no browser's"
        if origin is None:
            return (
                "a page from a file or in a sandboxed frame is of no origin; let a server serve it"
            )
        allow = f'SOCKETIO_ALLOWED_ORIGINS = ["{_written(origin)}"]'
        peer = environ.get("REMOTE_ADDR", "")
        told = "HTTP_X_FORWARDED_PROTO" in environ or "HTTP_X_FORWARDED_HOST" in environ
        if told and peer and not self._trusts(peer):
            if self._forwarded(environ) == origin:
                return (
                    f"X-Forwarded-Proto and -Host say so, but {peer} is not trusted; if that is your "
                    f'proxy: SOCKETIO_TRUSTED_PROXIES = ["{peer}"]'
                )
            return (
                f"X-Forwarded-Proto and -Host of {peer}, which is not trusted, say something else; if "
                f"pages of this origin may connect: {allow}"
            )
        if own is not None and own[1] == origin[1]:
            return (
                "if a proxy is in front, it has to keep Host and to send X-Forwarded-Proto, and its "
                f"address has to be in SOCKETIO_TRUSTED_PROXIES; if not, and its pages may connect: {allow}"
            )
        return (
            "io() without an address connects to where the page came from; if pages of this origin may "
            f"connect: {allow}"
        )

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
        if self._trusts(environ.get("REMOTE_ADDR", "")):
            return self._forwarded(environ)
        scheme = environ.get("wsgi.url_scheme", "http")
        return _normalize(f"{scheme}://{environ.get('HTTP_HOST', '')}")

    def _forwarded(self, environ: dict[str, Any]) -> tuple[str, str, int] | None:
        # Proxies append: the last value is the one that the nearest, the trusted one, wrote.
        scheme = _last(environ.get("HTTP_X_FORWARDED_PROTO")) or environ.get(
            "wsgi.url_scheme", "http"
        )
        host = _last(environ.get("HTTP_X_FORWARDED_HOST")) or environ.get("HTTP_HOST", "")
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


def _written(origin: tuple[str, str, int]) -> str:
    scheme, host, port = origin
    host = f"[{host}]" if ":" in host else host
    text = f"{scheme}://{host}" if _PORTS.get(scheme) == port else f"{scheme}://{host}:{port}"
    return quoted(text)[1:-1]  # for it may be a client's


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
