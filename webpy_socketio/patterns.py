"""What a handler's ``channel=`` becomes: an expression that remembers its answers."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable

from webpy_socketio.exceptions import EventError
from webpy_socketio.handlers import Pattern

__all__ = ["ChannelPattern", "compile_channel"]

logger = logging.getLogger(__name__)

#: Seconds of work that one match may take; nothing else happens in the process meanwhile.
SLOW_MATCH = 0.05

#: Channels for which a pattern's answer is remembered. Clients choose the names, so not all.
REMEMBERED_MATCHES = 256


class ChannelPattern:
    """A handler's pattern, which remembers its answers and tells, once, if it is a slow one.

    A regular expression's work may double with each character of the name that a client gives.
    """

    __slots__ = ("_told", "match", "regex", "whose")

    #: Whether the pattern matches a channel's name from its start.
    match: Callable[[str], bool]

    def __init__(self, regex: re.Pattern[str], whose: str) -> None:
        self.regex = regex
        #: The decorator with its pattern, and its function.
        self.whose = whose
        self._told = False
        self.match = functools.lru_cache(REMEMBERED_MATCHES)(self._match)

    def _match(self, channel: str) -> bool:
        # The thread's own time: that the machine is busy is not the pattern's fault.
        began = time.thread_time()
        found = self.regex.match(channel) is not None
        seconds = time.thread_time() - began
        if seconds > SLOW_MATCH and not self._told:
            self._told = True
            logger.warning(
                "%s: matching a channel of %d characters took %d ms, and every client waited; "
                "avoid repetitions inside repetitions, or shorten SOCKETIO_MAX_CHANNEL_LENGTH",
                self.whose,
                len(channel),
                seconds * 1000,
            )
        return found


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
