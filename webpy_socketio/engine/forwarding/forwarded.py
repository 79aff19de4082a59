"""Headers in which proxies describe the client: ``X-Forwarded-*``, and ``Forwarded`` (RFC 7239).

The nearest proxy adds the last value; the client may forge earlier ones. Values are read from the
right while the proxy that added them is trusted:

- ``X-Forwarded-Proto``, ``-Host`` and ``-Port``: the last value. These lists cannot be compared
  with each other, because a proxy may append to one and not to another.
- ``X-Forwarded-For``: the rightmost address that does not belong to a trusted proxy; if all do, the
  leftmost one. Addresses before a malformed value are ignored.
- ``Forwarded``: the element selected in the same way by its ``for``. Its scheme, host and address
  are used together. Read only if a request has no ``X-Forwarded-*``, since proxies that send those
  often pass on a ``Forwarded`` header of the client.

A malformed value counts as absent. The functions keep no state.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from webpy_socketio.engine.forwarding.hosts import DEFAULT_PORTS, parse_host

__all__ = ["Description", "describe"]

#: Schemes in forwarded headers, and the schemes of the origin and URL they stand for.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

#: Maximum number of elements read from the end of ``X-Forwarded-For``. A ``Forwarded`` with more
#: elements or more parameters is malformed. A chain of proxies is shorter.
_MAX_ELEMENTS = 32
_MAX_PARAMETERS = 256

_TOKEN = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# RFC 7239 §4. White space around the separators is accepted, and hosts with a port that lack
# quotes.
_PAIR = re.compile(rf"[ \t]*(?:([{_TOKEN}]+)=([{_TOKEN}:\[\]]+|{_QUOTED})[ \t]*)?([;,]|$)")
_ESCAPED = re.compile(r"\\(.)")
# An address, and the port that some proxies add to it. IPv6 has brackets if a port follows.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9A-Za-z._-]+)?|([0-9A-Fa-f:.]+)")

#: Function that returns whether an address is that of a trusted proxy.
IsTrusted = Callable[[str], bool]


class Description(NamedTuple):
    """The client as trusted proxies describe it; None for missing values."""

    #: ``"http"`` or ``"https"``.
    scheme: str | None = None
    #: In the format of the ``Host`` header.
    host: str | None = None
    #: An IP address.
    address: str | None = None
    #: The headers that `scheme` and `host` were taken from, for the log.
    sources: tuple[str, ...] = ()


def describe(fields: Mapping[str, str], is_trusted: IsTrusted) -> Description:
    """Return the description of the client by trusted proxies.

    Args:
        fields: The headers of a request whose peer is trusted, by their keys in a WSGI environ.
        is_trusted: Returns whether an address is that of a trusted proxy.
    """
    if not any(key in fields for key in _X_FORWARDED):
        forwarded = fields.get("HTTP_FORWARDED")
        return Description() if forwarded is None else _from_forwarded(forwarded, is_trusted)
    sources = []
    proto = _last(fields, "HTTP_X_FORWARDED_PROTO")
    if proto.lower() in _SCHEMES:
        sources.append(f"X-Forwarded-Proto: {proto}")
    host: str | None = _last(fields, "HTTP_X_FORWARDED_HOST")
    if _is_host(host):
        sources.append(f"X-Forwarded-Host: {host}")
    else:
        host = None
    port = _find_port(fields)
    if port is not None:
        named = parse_host(fields.get("HTTP_HOST", "") if host is None else host)
        if named is not None and named.name and named.port is None:
            host = f"{named.name}:{port}"
            sources.append(f"X-Forwarded-Port: {port}")
    address = _find_address(fields.get("HTTP_X_FORWARDED_FOR", ""), is_trusted)
    return Description(_SCHEMES.get(proto.lower()), host, address, tuple(sources))


_X_FORWARDED = tuple(f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "HOST", "PORT"))


def _last(fields: Mapping[str, str], key: str) -> str:
    return fields.get(key, "").rpartition(",")[2].strip(" \t")


def _is_host(text: str | None) -> bool:
    parsed = parse_host(text or "")
    return parsed is not None and bool(parsed.name)


def _find_port(fields: Mapping[str, str]) -> int | None:
    """Return the port that clients connect to, if it is not a default one.

    Behind two proxies, 80 with https is usual, and 443 with http is seen for WebSockets: both stand
    for the default port of the scheme.
    """
    text = _last(fields, "HTTP_X_FORWARDED_PORT")
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    port = int(text)
    return None if port in DEFAULT_PORTS.values() or not 0 < port <= 65_535 else port


def _find_address(header: str, is_trusted: IsTrusted) -> str | None:
    found = None
    for node in reversed(header.rsplit(",", _MAX_ELEMENTS)[-_MAX_ELEMENTS:]):
        address = _parse_node(node.strip(" \t"))
        if address is None:
            break
        found = address
        if not is_trusted(address):
            break
    return found


def _parse_node(text: str) -> str | None:
    """Return the IP address in ``for=``, or None if it is not a valid address."""
    match = _NODE.fullmatch(text)
    if match is None:
        return None
    try:
        address = ipaddress.ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(address if mapped is None else mapped)


def _from_forwarded(header: str, is_trusted: IsTrusted) -> Description:
    elements = _parse_forwarded(header)
    if not elements:
        return Description()
    found = None
    for chosen in reversed(elements):
        address = _parse_node(chosen.get("for", ""))
        if address is None:
            break
        found = address
        if not is_trusted(address):
            break
    sources = []
    proto = chosen.get("proto", "")
    if proto.lower() in _SCHEMES:
        sources.append(f"Forwarded: proto={proto}")
    host = chosen.get("host")
    if _is_host(host):
        sources.append(f"Forwarded: host={host}")
    else:
        host = None
    return Description(_SCHEMES.get(proto.lower()), host, found, tuple(sources))


def _parse_forwarded(header: str) -> list[dict[str, str]]:
    """Return the parameters of each element, or nothing if any element is malformed."""
    if header.count(",") >= _MAX_ELEMENTS or header.count(";") >= _MAX_PARAMETERS:
        return []
    elements: list[dict[str, str]] = [{}]
    position = 0
    while True:
        match = _PAIR.match(header, position)
        if match is None:
            return []
        name, value, separator = match.groups()
        if name is not None:
            if name.lower() in elements[-1]:  # each at most once (RFC 7239 §4)
                return []
            if value.startswith('"'):
                value = _ESCAPED.sub(r"\1", value[1:-1])
            elements[-1][name.lower()] = value
        if not separator:
            return elements
        if separator == ",":
            elements.append({})
        position = match.end()
