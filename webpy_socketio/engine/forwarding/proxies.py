"""Trusted proxies, and the clients that they describe."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from webpy_socketio.engine.forwarding.forwarded import Description, describe
from webpy_socketio.engine.forwarding.hosts import DEFAULT_PORTS, parse_host

__all__ = ["PEER_KEY", "UNIX", "TrustedProxies", "peer_of"]

#: Key of the environ with the address of the connection, that of a proxy or the client.
PEER_KEY = "webpy_socketio.peer"

#: Stands for the address of a peer on a Unix socket, which has none.
UNIX = "unix"

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Decides which peers are trusted proxies, and reads their forwarded headers.

    Args:
        addresses: Addresses and networks (``"10.0.0.0/8"``); ``"unix"`` for every peer on a Unix
            socket.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        # Cached: a site has few proxies, and parsing an address takes 2 µs.
        self._is_trusted = functools.lru_cache(256)(self._find_network)
        self._unix = UNIX in addresses
        self._networks: list[_Network] = [
            _unmapped(ipaddress.ip_network(address, strict=False))
            for address in addresses
            if address != UNIX
        ]

    def trusts(self, peer: str) -> bool:
        """Return whether `peer`, an address or ``"unix"``, is a trusted proxy."""
        if peer == UNIX:
            return self._unix
        return bool(self._networks) and self._is_trusted(peer)

    def _find_network(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def describe(self, peer: str, fields: Mapping[str, str]) -> Description:
        """Return the description of the client in a request; empty if `peer` is not trusted."""
        return describe(fields, self.trusts) if self.trusts(peer) else Description()

    def client_fields(self, peer: str, fields: Mapping[str, str], scheme: str) -> dict[str, str]:
        """Return the entries of the environ that the forwarded headers of a trusted `peer` change.

        Args:
            peer: The address that the connection comes from, or ``"unix"``.
            fields: The headers of the request, by their keys in a WSGI environ.
            scheme: The scheme of the connection.
        """
        found = self.describe(peer, fields)
        changed = {}
        if found.scheme is not None:
            changed["wsgi.url_scheme"] = scheme = found.scheme
        if found.host is not None:
            changed["HTTP_HOST"] = found.host
        if changed:
            host = parse_host(found.host or fields.get("HTTP_HOST", ""))
            port = None if host is None else host.port
            changed["SERVER_PORT"] = str(DEFAULT_PORTS[scheme] if port is None else port)
        if found.address is not None:
            changed["REMOTE_ADDR"] = found.address
        return changed


def peer_of(address: Any) -> str:
    """Return the IP address of what ``accept`` returned; ``"unix"`` for a Unix socket."""
    if not isinstance(address, (tuple, list)):
        return UNIX
    # A socket that listens on every address has IPv4 clients as IPv6 (RFC 4291 §2.5.5.2).
    return str(address[0]).removeprefix("::ffff:")


def _unmapped(network: _Network) -> _Network:
    """Return the IPv4 network of an IPv4-mapped one, since peers are compared as IPv4."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
