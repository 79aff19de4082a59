"""The pattern of a handler's ``channel=``: a regular expression that remembers its answers."""

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

#: Channels for which a pattern's answer is remembered. Clients choose the names, so not all.
REMEMBERED_MATCHES = 256

#: Seconds between two log lines about one pattern.
LOG_INTERVAL = 60.0


class ChannelPattern:
    """A handler's pattern, with a time limit and a bounded memory of its answers."""

    __slots__ = ("_budget", "_due", "_matcher", "match", "regex", "whose")

    #: Whether the pattern matches a channel's name from its start; None if it ran out of time.
    match: Callable[[str], bool | None]

    def __init__(self, regex: re.Pattern[str], whose: str) -> None:
        self.regex = regex
        #: The decorator with its pattern, and its function.
        self.whose = whose
        self._matcher = Matcher(regex)
        self._budget = Budget()
        self._due = 0.0
        self.match = functools.lru_cache(REMEMBERED_MATCHES)(self._match)
        if not self._matcher.is_bounded:
            logger.warning(
                "%s: matching cannot be limited in time, because the package regex does not accept "
                "this pattern; a channel's name may block the server. Avoid [: in sets, and simplify it",
                whose,
            )

    def _match(self, channel: str) -> bool | None:
        limit = self._budget.limit
        began = time.thread_time()  # not the clock: other processes may use the processor
        try:
            found = self._matcher.match(channel, limit)
        except TimeoutError:
            self._budget.spend(limit)
            self._log("was stopped after", channel, limit)
            return None
        seconds = time.thread_time() - began
        if seconds > TIME_LIMIT:  # only where the match has no limit
            self._log("took", channel, seconds)
        return found

    def _log(self, what: str, channel: str, seconds: float) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LOG_INTERVAL
        logger.warning(
            "%s: matching a channel of %d characters %s %d ms; handlers are skipped and gates deny "
            "where a pattern runs out of time. Avoid repetitions inside repetitions, or shorten "
            "SOCKETIO_MAX_CHANNEL_LENGTH",
            self.whose,
            len(channel),
            what,
            seconds * 1000,
        )


def compile_channel(channel: Pattern | None, used: str, name: str) -> ChannelPattern | None:
    """The pattern of a decorator, `used` on the function `name`; raises `EventError`."""
    if channel is None:
        return None
    whose = f"{used}(channel={channel!r}) on {name}"
    try:
        pattern = re.compile(channel) if isinstance(channel, (str, re.Pattern)) else channel
    except re.error as error:
        raise EventError(f"{whose}: not a regular expression: {error}") from None
    if not isinstance(pattern, re.Pattern) or not isinstance(pattern.pattern, str):
        raise EventError(
            f"{whose}: not a regular expression: it is text or a compiled one, for several channels "
            '"^(one|two)$"'
        )
    return ChannelPattern(pattern, whose)
