"""Addresses of listening sockets as text and as URLs."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["is_wildcard", "location", "shown"]


def is_wildcard(address: Any) -> bool:
    """Return whether a socket bound to `address` accepts connections on all local addresses."""
    return isinstance(address, tuple) and address[0] in ("", "0.0.0.0", "::")


def location(address: Any, tls: bool = False) -> str:
    """Return the URL of a listening socket, or ``unix:`` and the path of a Unix socket.

    A wildcard address is shown as ``localhost``, which a browser can open.

    Args:
        address: The result of ``getsockname()``.
        tls: Whether the server uses TLS.

    Example:
        >>> location(("127.0.0.1", 8000))
        'http://127.0.0.1:8000/'
    """
    if not isinstance(address, tuple):
        return f"unix:{shown(address)}"
    scheme = "https" if tls else "http"
    name = f"localhost:{address[1]}" if is_wildcard(address) else shown(address)
    return f"{scheme}://{name}/"


def shown(address: Any) -> str:
    """Format an address: ``127.0.0.1:8000``, ``[::1]:8000`` or the path of a Unix socket."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    path = os.fsdecode(address)
    # The name of a Linux abstract socket begins with NUL; tools display it as "@".
    return f"@{path[1:]}" if path.startswith("\0") else path
