"""Channel patterns: regular expressions with a cache and a time limit."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable

from webpy_socketio.bus.matcher import TIME_LIMIT, Budget, Matcher
from webpy_socketio.exceptions import EventError
from webpy_socketio.handler_types import Pattern

__all__ = ["ChannelPattern", "compile_channel"]

logger = logging.getLogger(__name__)

#: Maximum number of cached results of a pattern. Clients choose the names, so the cache is limited.
REMEMBERED_MATCHES = 256

#: Minimum seconds between two log lines about one pattern.
LOG_INTERVAL = 60.0


class ChannelPattern:
    """The channel pattern of a handler, with a time limit and a bounded cache."""

    __slots__ = ("_budget", "_due", "_matcher", "description", "match", "regex")

    #: Return whether the pattern matches the start of a channel name; None if it timed out.
    match: Callable[[str], bool | None]

    def __init__(self, regex: re.Pattern[str], description: str) -> None:
        self.regex = regex
        #: Description: the decorator with its pattern, and the function.
        self.description = description
        self._matcher = Matcher(regex)
        self._budget = Budget()
        self._due = 0.0
        self.match = functools.lru_cache(REMEMBERED_MATCHES)(self._match)
        if not self._matcher.is_bounded:
            logger.warning(
                "%s: the time of a match cannot be limited, because the package regex does not "
                "accept this pattern; a channel name may block the server. Avoid [: in sets, and "
                "simplify it",
                description,
            )

    def _match(self, channel: str) -> bool | None:
        limit = self._budget.limit
        began = time.thread_time()  # CPU time: other processes do not count
        try:
            found = self._matcher.match(channel, limit)
        except TimeoutError:
            self._budget.spend(limit)
            self._log("was stopped after", channel, limit)
            return None
        seconds = time.thread_time() - began
        if seconds > TIME_LIMIT:  # only possible without a time limit
            self._log("took", channel, seconds)
        return found

    def _log(self, what: str, channel: str, seconds: float) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LOG_INTERVAL
        logger.warning(
            "%s: matching a channel of %d characters %s %d ms; when a pattern times out, handlers "
            "are skipped and gates reject. Avoid repetitions inside repetitions, or reduce "
            "SOCKETIO_MAX_CHANNEL_LENGTH",
            self.description,
            len(channel),
            what,
            seconds * 1000,
        )


def compile_channel(channel: Pattern | None, used: str, name: str) -> ChannelPattern | None:
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
    return ChannelPattern(pattern, description)
