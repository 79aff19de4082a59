"""Which pages may connect: the same origin, unless the settings allow more.

A WebSocket is not bound by the browser's same-origin policy, and long-polling carries cookies:
without this check, any page a visitor opens could talk to the server in the visitor's name
(cross-site WebSocket hijacking; RFC 6454 for what an origin is, RFC 6455 §10.2).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from webpy_socketio.engine.forwarding.hosts import DEFAULT_PORTS, parse_host

__all__ = ["CORS_PREFIX", "ORIGINS_KEY", "Origin", "Origins", "parse_origin"]

#: Key of the environ: the `Origins` of the server, for an application that answers with CORS headers.
ORIGINS_KEY = "webpy_socketio.origins"

#: How the names of headers begin that decide which origins may read a response.
CORS_PREFIX = "access-control-allow-"

#: Characters of an origin; a host's name has 253 at most.
_MAX_LENGTH = 512

#: Names of headers that a preflight may ask for, and characters of each.
_MAX_HEADERS = 64
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

#: Schemes of the protocol that native clients put into ``Origin``, and those that browsers do.
_WEB_SCHEMES = {"ws": "http", "wss": "https"}


class Origin(NamedTuple):
    """An origin, as origins are compared."""

    #: In lower case; empty for ``null``.
    scheme: str
    #: In lower case; empty for ``file://``.
    host: str
    #: None for a scheme of an app, unless one is given.
    port: int | None

    def __str__(self) -> str:
        if not self.scheme:
            return "null"
        default = self.port == DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{self.host}" + ("" if default else f":{self.port}")


#: The origin of sandboxed frames, of ``data:`` URLs and of some local files (RFC 6454 §7.1).
_NULL = Origin("", "", None)


def parse_origin(text: str) -> Origin | None:
    """Return the origin in an ``Origin`` header, or None if it is malformed.

    ``ws`` and ``wss`` count as ``http`` and ``https``: native clients send the address that they
    connect to. Other schemes are those of apps and extensions, such as ``capacitor://localhost``.
    """
    return None if len(text) > _MAX_LENGTH else _parse(text)


@functools.lru_cache(256)  # a site has a few, and each request of a page names one
def _parse(text: str) -> Origin | None:
    if text == "null":
        return _NULL
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    host = parse_host(rest)
    if not separator or _SCHEME.fullmatch(scheme) is None or host is None:
        return None
    scheme = _WEB_SCHEMES.get(scheme, scheme)
    default = DEFAULT_PORTS.get(scheme)
    if not host.name and (default is not None or host.port is not None):
        return None
    return Origin(scheme, host.name, default if host.port is None else host.port)


class Origins:
    """Decides about the ``Origin`` of a request.

    Args:
        allowed: Origins allowed besides the request's own, or None. ``"*"`` allows every origin:
            apps, ``file://`` and ``null`` too.
    """

    def __init__(self, allowed: Sequence[str] | None) -> None:
        self.any = allowed is not None and "*" in allowed
        #: Those that are named, in their order.
        self.named = [origin for origin in map(parse_origin, allowed or ()) if origin is not None]
        self._allowed = frozenset(self.named)

    def allow(self, environ: dict[str, Any]) -> bool:
        """Return whether a request may be served; one without an Origin is not a page's."""
        text = environ.get("HTTP_ORIGIN")
        if text is None:
            return True
        origin = parse_origin(text)
        return origin is not None and (
            self.any or origin in self._allowed or origin == self.own(environ)
        )

    def own(self, environ: dict[str, Any]) -> Origin | None:
        """Return the origin that the request was sent to."""
        scheme = environ.get("wsgi.url_scheme", "http")
        return parse_origin(f"{scheme}://{environ.get('HTTP_HOST', '')}")

    def cross(self, environ: dict[str, Any]) -> str | None:
        """Return the ``Origin`` of a request from another origin: its response needs CORS headers."""
        text: str | None = environ.get("HTTP_ORIGIN")
        if text is None or parse_origin(text) == self.own(environ):
            return None
        return text

    def cors(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """Return the CORS headers for a response: none unless it is for an allowed other origin."""
        text = self.cross(environ)
        if text is None or not self.allow(environ):
            return []
        headers = [
            # Never "*", which browsers do not accept together with cookies (Fetch §3.3.5).
            ("Access-Control-Allow-Origin", text),
            ("Access-Control-Allow-Credentials", "true"),
            ("Vary", "Origin"),
        ]
        if environ["REQUEST_METHOD"] == "OPTIONS":
            headers += [
                ("Access-Control-Allow-Methods", "GET, POST"),
                ("Access-Control-Allow-Headers", _requested_headers(environ)),
                ("Access-Control-Max-Age", "600"),
            ]
            private = environ.get("HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK") == "true"
            if private and parse_origin(text) in self._allowed:
                headers.append(("Access-Control-Allow-Private-Network", "true"))
        return headers


def _requested_headers(environ: dict[str, Any]) -> str:
    """Return the header names that a preflight asks for, without what is not a name."""
    wanted = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").split(",", _MAX_HEADERS)
    names = [name.strip(" \t") for name in wanted[:_MAX_HEADERS]]
    return ", ".join(filter(_HEADER.fullmatch, names)) or "Content-Type"
