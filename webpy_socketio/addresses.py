"""Addresses of listening sockets, as users read them and open them in a browser."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["is_wildcard", "location", "shown"]


def is_wildcard(address: Any) -> bool:
    """Whether a socket of this address listens on every address of the machine."""
    return isinstance(address, tuple) and address[0] in ("", "0.0.0.0", "::")


def location(address: Any, tls: bool = False) -> str:
    """Return where a server listens: the URL of its pages, or the path of a Unix socket.

    A wildcard address is shown as ``localhost``, which a browser can open.

    Args:
        address: What ``getsockname()`` of the listening socket returns.
        tls: Whether the server speaks TLS.

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
    """Return an address as text: ``127.0.0.1:8000``, ``[::1]:8000`` or a Unix socket's path."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    path = os.fsdecode(address)
    # Linux's abstract sockets have a name that begins with NUL; tools write "@" for it.
    return f"@{path[1:]}" if path.startswith("\0") else path
