"""The namespaces that clients of a server may connect to: names, and patterns of names."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from webpy_socketio.bus.patterns import NamePattern

__all__ = ["MAX_LENGTH", "AllowedNamespaces"]

#: Maximum length of the name of a namespace that a pattern may match, in characters.
MAX_LENGTH = 255


class AllowedNamespaces(Container[str]):
    """The value of ``SOCKETIO_NAMESPACES``; ``name in allowed`` decides about a client's CONNECT.

    Clients choose the names that patterns are matched against. A match has a time limit, and a name
    is rejected if it has more than 255 characters or one that is not printable: ``$`` also matches
    before a trailing newline.
    """

    def __init__(self, allowed: Iterable[str | re.Pattern[str]]) -> None:
        self._allowed = list(allowed)
        #: The namespaces that are listed by name; they exist without clients.
        self.names = frozenset(one for one in self._allowed if isinstance(one, str))
        self._patterns = tuple(
            NamePattern(one, f"SOCKETIO_NAMESPACES, {one!r}", "namespace")
            for one in self._allowed
            if isinstance(one, re.Pattern)
        )

    def __contains__(self, name: object) -> bool:
        if name in self.names:
            return True
        if not self._patterns or not isinstance(name, str):
            return False
        if len(name) > MAX_LENGTH or not name.isprintable():
            return False
        return any(pattern.match(name) for pattern in self._patterns)

    def __repr__(self) -> str:
        return repr(self._allowed)
