"""The server under test: its URL, and the rule that it must be this machine."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from gevent import socket

from webpy_socketio.exceptions import ConfigurationError

__all__ = ["Target", "find_target"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Target(NamedTuple):
    """A server, with its resolved address."""

    #: URL of Socket.IO, for reports.
    url: str
    #: URL of the WebSocket, with the query of the handshake.
    websocket_url: str
    #: Host name, for TLS.
    host: str
    is_tls: bool
    family: int
    #: The address for ``connect``. The name is resolved once, before it is checked.
    address: Any


def find_target(url: str, path: str = "/socket.io/", allow_remote: bool = False) -> Target:
    """Return the server at a URL.

    Args:
        url: Scheme, host and port, such as ``http://127.0.0.1:8000``.
        path: URL path of Socket.IO.
        allow_remote: Whether addresses other than loopback are allowed.

    Raises:
        ConfigurationError: The URL or the path is invalid, the host is unknown, or its address is
            not allowed.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"{url}: {error}; {_EXAMPLE}") from None
    host = parts.hostname
    if parts.scheme not in _DEFAULT_PORTS or not host or port == 0:
        raise ConfigurationError(f"{url} is not the URL of a server; {_EXAMPLE}")
    if parts.username is not None:
        raise ConfigurationError(
            'a URL with a password is not supported; use --header "Authorization: ..."'
        )
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{url} has a path; use the server's address, and name the path of Socket.IO with "
            "--path, such as --path /app/socket.io/"
        )
    if not re.fullmatch(r"/(?:[!-\"$-<>@-~]*/)?", path):
        raise ConfigurationError(
            f"--path {path} is not the path of Socket.IO; it must start and end with a slash, such "
            "as /socket.io/"
        )
    is_tls = parts.scheme in ("https", "wss")
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    family, address = _resolve(host, port, allow_remote)
    scheme, location = ("wss" if is_tls else "ws"), f"{parts.netloc}{path}"
    return Target(
        url=f"{'https' if is_tls else 'http'}://{location}",
        websocket_url=f"{scheme}://{location}?EIO=4&transport=websocket",
        host=host,
        is_tls=is_tls,
        family=family,
        address=address,
    )


_EXAMPLE = "use one like http://127.0.0.1:8000"


def _resolve(host: str, port: int, allow_remote: bool) -> tuple[int, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"the host {host} cannot be found: {error}") from None
    family, _, _, _, address = found[0]
    if not (allow_remote or _is_loopback(address[0])):
        where = host if host == address[0] else f"{host} ({address[0]})"
        raise ConfigurationError(
            f"{where} is not a loopback address: a load test may disturb "
            "the users of that server. Test a server on this machine, or add --allow-remote if "
            "you operate that server"
        )
    return family, address


def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)
