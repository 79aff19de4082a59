"""Quotas of a resource, for all clients together or for each address."""

from __future__ import annotations

import functools
import ipaddress
from collections import Counter
from collections.abc import Hashable

__all__ = ["AddressQuota", "Quota", "network_of"]

#: Bits of an IPv6 network prefix. A customer gets a /64 or more and can use all its addresses
#: (RFC 6177).
_IPV6_PREFIX = 64

#: Characters of the longest address with a zone; longer text is not an address.
_MAX_ADDRESS = 64


class Quota:
    """A limited amount that all clients share."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def acquire(self, amount: int) -> bool:
        """Acquire `amount`; return False, acquiring nothing, if less is available."""
        if self.used + amount > self.limit:
            return False
        self.used += amount
        return True

    def release(self, amount: int) -> None:
        """Release an acquired amount."""
        self.used -= amount


class AddressQuota:
    """Limits the owners, such as sessions, of each address.

    The addresses of an IPv6 /64 share a limit. Owners without an address, as on a Unix socket, are
    not counted.

    Args:
        limit: Owners of one address. None means `default`, without a limit for loopback addresses.
        default: The limit if `limit` is None.
    """

    __slots__ = ("_counts", "_owners", "_spares_loopback", "limit")

    def __init__(self, limit: int | None, default: int) -> None:
        self.limit = default if limit is None else limit
        self._spares_loopback = limit is None
        self._counts: Counter[str] = Counter()
        self._owners: dict[Hashable, str] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def has_room(self, address: str) -> bool:
        """Return whether the address is below its limit."""
        network = self._network_of(address)
        return network is None or self._counts.get(network, 0) < self.limit

    def add(self, owner: Hashable, address: str) -> None:
        """Count an owner until it is removed."""
        network = self._network_of(address)
        if network is not None and owner not in self._owners:
            self._owners[owner] = network
            self._counts[network] += 1

    def remove(self, owner: Hashable) -> None:
        """Stop counting an owner; ignored if it is not counted."""
        network = self._owners.pop(owner, None)
        if network is not None:
            self._counts[network] -= 1
            if not self._counts[network]:
                del self._counts[network]

    def _network_of(self, address: str) -> str | None:
        network = network_of(address)
        if self._spares_loopback and network is not None:
            return None if network == "::1" or network.startswith("127.") else network
        return network

    def clear(self) -> None:
        """Remove all owners."""
        self._owners.clear()
        self._counts.clear()


def network_of(address: str) -> str | None:
    """Return the key under which an address is counted: itself or its IPv6 /64; None if invalid."""
    return _parse(address) if len(address) <= _MAX_ADDRESS else None


@functools.lru_cache(1024)
def _parse(address: str) -> str | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return str(parsed)
    number = int(parsed) >> (128 - _IPV6_PREFIX) << (128 - _IPV6_PREFIX)
    return f"{ipaddress.IPv6Address(number)}/{_IPV6_PREFIX}"
