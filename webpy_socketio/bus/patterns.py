"""Patterns of channels and namespaces: regular expressions with a cache and a time limit."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable
from typing import TypeAlias

from webpy_socketio.bus.matcher import TIME_LIMIT, Budget, Matcher
from webpy_socketio.exceptions import EventError

__all__ = ["NamePattern", "Pattern", "compile_channel", "compile_namespace", "is_anchored"]

logger = logging.getLogger(__name__)

#: A regular expression as text, or compiled.
Pattern: TypeAlias = "str | re.Pattern[str]"

#: Maximum number of cached results of a pattern. Clients choose the names, so the cache is limited.
REMEMBERED_MATCHES = 256

#: Minimum seconds between two log lines about one pattern.
LOG_INTERVAL = 60.0


class NamePattern:
    """A pattern of channels or namespaces, with a time limit and a bounded cache."""

    __slots__ = ("_budget", "_due", "_kind", "_matcher", "description", "match", "regex")

    #: Return whether the pattern matches the start of a name; None if it timed out.
    match: Callable[[str], bool | None]

    def __init__(self, regex: re.Pattern[str], description: str, kind: str = "channel") -> None:
        self.regex = regex
        self._kind = kind
        #: Description: the decorator with its pattern, and the function.
        self.description = description
        self._matcher = Matcher(regex)
        self._budget = Budget()
        self._due = 0.0
        self.match = functools.lru_cache(REMEMBERED_MATCHES)(self._match)
        if not self._matcher.is_bounded:
            logger.warning(
                "%s: the time of a match cannot be limited, because the package regex does not "
                "accept this pattern; a client may block the server. Avoid [: in sets, and "
                "simplify it",
                description,
            )

    def _match(self, name: str) -> bool | None:
        limit = self._budget.limit
        began = time.thread_time()  # CPU time: other processes do not count
        try:
            found = self._matcher.match(name, limit)
        except TimeoutError:
            self._budget.spend(limit)
            self._log("was stopped after", name, limit)
            return None
        seconds = time.thread_time() - began
        if seconds > TIME_LIMIT:  # only possible without a time limit
            self._log("took", name, seconds)
        return found

    def _log(self, what: str, name: str, seconds: float) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LOG_INTERVAL
        logger.warning(
            "%s: matching a %s of %d characters %s %d ms; when a pattern times out, handlers "
            "are skipped, and gates and SOCKETIO_NAMESPACES reject. Avoid repetitions inside "
            "repetitions; for channels, reduce SOCKETIO_MAX_CHANNEL_LENGTH",
            self.description,
            self._kind,
            len(name),
            what,
            seconds * 1000,
        )


def compile_channel(channel: Pattern | None, used: str, name: str) -> NamePattern | None:
    """Compile the pattern of the decorator `used` on the function `name`.

    Raises:
        EventError: `channel` is not a regular expression.
    """
    if channel is None:
        return None
    description = f"{used}(channel={channel!r}) on {name}"
    try:
        pattern = re.compile(channel) if isinstance(channel, (str, re.Pattern)) else channel
    except re.error as error:
        raise EventError(f"{description}: not a regular expression: {error}") from None
    if not isinstance(pattern, re.Pattern) or not isinstance(pattern.pattern, str):
        raise EventError(
            f"{description}: not a regular expression: use text or a compiled pattern; for "
            'several channels "^(one|two)$"'
        )
    return NamePattern(pattern, description)


def compile_namespace(namespace: Pattern | None, used: str, name: str) -> NamePattern | str | None:
    """Check the namespace of the decorator `used` on the function `name`; compile a pattern.

    Raises:
        EventError: `namespace` is neither the name of a namespace nor a compiled pattern, or the
            pattern does not end with ``$``.
    """
    if namespace is None:
        return None
    description = f"{used}(namespace={namespace!r}) on {name}"
    if isinstance(namespace, str):
        if not namespace.startswith("/"):
            raise EventError(
                f"{description}: the name of a namespace starts with a slash: "
                f'"/{namespace.lstrip("^/")}"; pass a pattern as re.compile(…)'
            )
        return namespace
    if not isinstance(namespace, re.Pattern) or not isinstance(namespace.pattern, str):
        raise EventError(
            f'{description}: not a namespace: use a name such as "/chat", or a compiled pattern'
        )
    if not is_anchored(namespace):
        raise EventError(
            f"{description}: the pattern would also match longer names, as it does not end with $: "
            f"use re.compile({namespace.pattern + '$'!r})"
        )
    return NamePattern(namespace, description, "namespace")


#: A part of a pattern: an escaped character, a set, or any other character.
_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


def is_anchored(pattern: re.Pattern[str]) -> bool:
    r"""Return whether all alternatives of a pattern end with ``$`` or ``\Z``.

    Only then does it match whole names, and no longer ones.
    """
    depth, last = 0, ""
    for part in [*_PART.findall(pattern.pattern), "|"]:
        if part == "|" and depth == 0 and last not in ("$", r"\Z"):
            return False
        depth += (part == "(") - (part == ")")
        last = part
    return True
