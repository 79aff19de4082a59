"""The origin check: only pages of the same origin may connect, unless settings allow others.

The same-origin policy of browsers does not cover WebSockets, and long-polling requests carry
cookies. Without this check, every page that a user opens could connect with the user's cookies
(cross-site WebSocket hijacking, RFC 6455 §10.2). RFC 6454 defines an origin.

`Origins` only decides. ``Engine._check_origin`` rejects with status 403, and logs a text of
`webpy_socketio.engine.engineio.rejections`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from webpy_socketio.engine.forwarding.hosts import DEFAULT_PORTS, parse_host

__all__ = ["CORS_PREFIX", "ORIGINS_KEY", "Origin", "Origins", "parse_origin"]

#: Environ key of the server's `Origins`, for applications that send CORS headers.
ORIGINS_KEY = "webpy_socketio.origins"

#: Prefix of the CORS response headers, in lower case.
CORS_PREFIX = "access-control-allow-"

#: Maximum length of an origin in characters; a host name has at most 253.
_MAX_LENGTH = 512

#: Maximum number of header names that a preflight may request, and the pattern of each.
_MAX_HEADERS = 64
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

#: Schemes that native clients send in ``Origin``, and the equivalents that browsers send.
_WEB_SCHEMES = {"ws": "http", "wss": "https"}


class Origin(NamedTuple):
    """An origin, normalized for comparison."""

    #: Lower case; empty for ``null``.
    scheme: str
    #: Lower case; empty for ``file://``.
    host: str
    #: The default port of the scheme if none is given; None if the scheme has no default.
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

    ``ws`` and ``wss`` are converted to ``http`` and ``https``, because native clients send the URL
    that they connect to. Apps and extensions have other schemes, such as ``capacitor://localhost``.
    """
    return None if len(text) > _MAX_LENGTH else _parse(text)


@functools.lru_cache(256)  # every cross-origin request has the header; most sites have few origins
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
    """Checks the ``Origin`` of requests and returns CORS headers.

    Args:
        allowed: Origins allowed in addition to the request's own, or None. ``"*"`` allows all
            origins, including apps, ``file://`` and ``null``.
    """

    def __init__(self, allowed: Sequence[str] | None) -> None:
        self.any = allowed is not None and "*" in allowed
        #: The allowed origins without ``"*"``, in the given order.
        self.named = [origin for origin in map(parse_origin, allowed or ()) if origin is not None]
        self._allowed = frozenset(self.named)

    def allow(self, environ: dict[str, Any]) -> bool:
        """Return whether a request is allowed; requests without ``Origin`` are not from a page."""
        text = environ.get("HTTP_ORIGIN")
        if text is None:
            return True
        origin = parse_origin(text)
        return origin is not None and (
            self.any or origin in self._allowed or origin == self.own(environ)
        )

    def own(self, environ: dict[str, Any]) -> Origin | None:
        """Return the origin of the server as addressed by the request, or None if invalid."""
        scheme = environ.get("wsgi.url_scheme", "http")
        return parse_origin(f"{scheme}://{environ.get('HTTP_HOST', '')}")

    def cross(self, environ: dict[str, Any]) -> str | None:
        """Return the ``Origin`` header of a cross-origin request, otherwise None."""
        text: str | None = environ.get("HTTP_ORIGIN")
        if text is None or parse_origin(text) == self.own(environ):
            return None
        return text

    def cors(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """Return the CORS headers of a response; empty for the own origin and rejected origins."""
        text = self.cross(environ)
        if text is None or not self.allow(environ):
            return []
        headers = [
            # Browsers reject "*" for requests with cookies (Fetch §3.3.5).
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
    """Return the header names requested by a preflight, without malformed ones."""
    wanted = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").split(",", _MAX_HEADERS)
    names = [name.strip(" \t") for name in wanted[:_MAX_HEADERS]]
    return ", ".join(filter(_HEADER.fullmatch, names)) or "Content-Type"
