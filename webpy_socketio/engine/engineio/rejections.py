"""Texts of log messages for requests that are rejected because of their ``Origin`` or ``Host``.

Each names the compared values, the headers they come from, and the setting that allows the request.
The responses are sent by ``Engine._check_origin`` and `HTTPHandler`.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio.engine.engineio.origins import Origin, Origins, parse_origin
from webpy_socketio.engine.forwarding.hosts import parse_host
from webpy_socketio.engine.forwarding.proxies import PEER_KEY, UNIX, TrustedProxies
from webpy_socketio.engine.io.throttled_log import safe_repr

__all__ = ["explain_host", "explain_origin"]

#: Maximum number of expected origins in a message.
_MAX_SHOWN = 5


def explain_origin(environ: dict[str, Any], origins: Origins, proxies: TrustedProxies) -> str:
    """Return why `origins` rejects a request, and how to allow it."""
    text: str = environ["HTTP_ORIGIN"]
    own = origins.own(environ)
    expected = [_safe(origin) for origin in (own, *origins.named) if origin is not None]
    shown = " or ".join(expected[:_MAX_SHOWN]) or "the origin in a valid Host"
    peer = str(environ.get(PEER_KEY, ""))
    source = _source(environ, peer, proxies)
    remedy = _remedy(environ, text, own, peer, proxies)
    return f"rejected Origin {safe_repr(text)} (expected {shown}; {source}): {remedy}"


def _source(environ: dict[str, Any], peer: str, proxies: TrustedProxies) -> str:
    """Return which headers the expected origin was taken from."""
    text = environ.get("HTTP_HOST", "")
    host = parse_host(text)
    # HTTP_HOST already contains the forwarded port, if there is one.
    name = text if host is None else host.name
    sources = list(proxies.describe(peer, {**environ, "HTTP_HOST": name}).sources)
    if not any(source.startswith(("X-Forwarded-Host:", "Forwarded: host")) for source in sources):
        sources.append(f"Host: {text}")
    shown = ", ".join(safe_repr(source)[1:-1] for source in sources)
    return f"from {shown}" + (f" of trusted proxy {peer}" if proxies.trusts(peer) else "")


def _remedy(
    environ: dict[str, Any],
    text: str,
    own: Origin | None,
    peer: str,
    proxies: TrustedProxies,
) -> str:
    origin = parse_origin(text)
    if origin is None:
        return "this is not an origin (scheme://host[:port]); browsers do not send it"
    allow = f'SOCKETIO_ALLOWED_ORIGINS = ["{_safe(origin)}"]'
    if not origin.scheme:
        return (
            "the page has no origin (a local file, or a sandboxed frame of any site); serve it "
            f"over HTTP, or allow all such pages: {allow}"
        )
    if origin.scheme not in ("http", "https"):
        return f"to allow this app: {allow}"
    if peer and not proxies.trusts(peer) and _is_forwarded(environ):
        if _forwarded_origin(environ, peer) == origin:
            return (
                f"the forwarded headers of {peer} match, but it is not a trusted proxy; if it is "
                f'your proxy: SOCKETIO_TRUSTED_PROXIES = ["{peer}"]'
            )
        return (
            f"the forwarded headers of {peer} are ignored, because it is not in "
            f"SOCKETIO_TRUSTED_PROXIES, and they name another origin; to allow the page: {allow}"
        )
    if own is not None and own.host == origin.host:
        proxy = "" if proxies.trusts(peer) else f', with SOCKETIO_TRUSTED_PROXIES = ["{peer}"]'
        return (
            "a proxy in front must pass Host and the browser's scheme as X-Forwarded-Proto"
            f"{proxy}; without a proxy, allow the page: {allow}"
        )
    return f"io() without an address connects to the page's own server; to allow the page: {allow}"


def _is_forwarded(environ: dict[str, Any]) -> bool:
    return any(
        key in environ
        for key in ("HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED")
    )


def _forwarded_origin(environ: dict[str, Any], peer: str) -> Origin | None:
    """Return the origin in the forwarded headers of an untrusted peer."""
    claimed = TrustedProxies([peer]).describe(peer, environ)
    scheme = claimed.scheme or environ.get("wsgi.url_scheme", "http")
    return parse_origin(f"{scheme}://{claimed.host or environ.get('HTTP_HOST', '')}")


def _safe(origin: Origin) -> str:
    return safe_repr(str(origin))[1:-1]  # a client may have chosen it


def explain_host(host: str, peer: str) -> str:
    """Return why a request with this ``Host`` is rejected, and how to allow it."""
    where = "over a Unix socket" if peer == UNIX else f"from {peer}"
    return (
        f"rejected Host {safe_repr(host)} of a request {where}: "
        "add it to SOCKETIO_ALLOWED_HOSTS to allow it"
    )
