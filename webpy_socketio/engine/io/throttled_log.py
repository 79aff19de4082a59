"""Rate-limited log lines for errors that clients can repeat.

A misconfigured client retries every few seconds, an attacker as often as possible. Neither may fill
the log, or write arbitrary text to it.
"""

from __future__ import annotations

import logging
from collections import Counter

from webpy_socketio.engine.io.clock import Clock

__all__ = ["ThrottledLog", "safe_repr"]

logger = logging.getLogger(__name__)

#: Seconds between two lines of one kind.
_INTERVAL = 60.0

#: Distinct kinds; further ones share the kind "other".
_MAX_KINDS = 200

#: Names of one kind that are logged by `once`; clients choose the names.
_MAX_NAMES = 20

#: Characters of client text in a line.
_MAX_SHOWN = 100


class ThrottledLog:
    """The throttled log lines of one server.

    Args:
        clock: Clock for the intervals.
    """

    __slots__ = ("_clock", "_due", "_names", "_suppressed")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()
        self._names: Counter[str] = Counter()

    def throttled(
        self,
        kind: str | BaseException,
        text: str,
        level: int = logging.WARNING,
        log: logging.Logger = logger,
        exc_info: BaseException | None = None,
    ) -> None:
        """Log `text` at most once a minute for each kind, with the number of lines left out.

        Args:
            kind: The kind, a constant text that contains nothing from a client; or an error, whose
                type and text up to the first colon are the kind.
            text: The line.
            level: Level of the line. While `log` has the level disabled, nothing is counted.
            log: The logger.
            exc_info: An exception whose traceback is logged.
        """
        if not log.isEnabledFor(level):
            return
        now = self._clock.now()
        if not isinstance(kind, str):
            kind = f"{type(kind).__name__} {str(kind).partition(':')[0][:_MAX_SHOWN]}"
        if kind not in self._due and len(self._due) >= _MAX_KINDS:
            kind = "other"
        if now < self._due.get(kind, now):
            self._suppressed[kind] += 1
            return
        self._due[kind] = now + _INTERVAL
        suppressed = self._suppressed.pop(kind, 0)
        more = f" ({suppressed} similar lines suppressed)" if suppressed else ""
        log.log(level, "%s%s", text, more, exc_info=exc_info)

    def once(self, kind: str, name: str, text: str, level: int = logging.WARNING) -> None:
        """Log `text` once for each name, and for at most 20 names of a kind."""
        key = f"{kind} {name[:_MAX_SHOWN]}"  # limits the memory for text of clients
        if key in self._names or self._names[kind] >= _MAX_NAMES:
            return
        self._names[key] = 1
        self._names[kind] += 1
        logger.log(level, "%s", text)


def safe_repr(text: str) -> str:
    """Return text of a client as one quoted line of ASCII, cut after 100 characters."""
    return ascii(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
