"""What the log says of mistakes that a client repeats: each of them once in a while.

A client that is set up wrongly tries again every few seconds, and one that means harm as often as
it can. Neither is to fill the log, nor to write into it what it likes.
"""

from __future__ import annotations

import logging
from collections import Counter

from webpy_socketio.engine.io.clock import Clock

__all__ = ["ThrottledLog", "safe_repr"]

logger = logging.getLogger(__name__)

#: Seconds between two notices of one kind.
_INTERVAL = 60.0

#: Kinds that are counted apart; all further ones are one kind. An error's text may be a kind.
_MAX_KINDS = 200

#: Names of a kind that are told one by one; clients choose them.
_MAX_NAMES = 20

#: Characters of a client's text that are shown.
_MAX_SHOWN = 100


class ThrottledLog:
    """The notices of one server."""

    __slots__ = ("_clock", "_due", "_names", "_untold")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._untold: Counter[str] = Counter()
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
            kind: What is counted: a text of the server's, never of a client's; or an error, whose text
                is of the server up to its first colon.
            text: The line.
            level: Its level. Nothing is counted while `log` leaves the level out.
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
            self._untold[kind] += 1
            return
        self._due[kind] = now + _INTERVAL
        untold = self._untold.pop(kind, 0)
        more = f" (and {untold} more of this kind since the last time)" if untold else ""
        log.log(level, "%s%s", text, more, exc_info=exc_info)

    def once(self, kind: str, name: str, text: str, level: int = logging.WARNING) -> None:
        """Log `text` once for each name, and nothing more of a kind when there were many names."""
        key = f"{kind} {name[:_MAX_SHOWN]}"  # a client's word is not kept whole
        if key in self._names or self._names[kind] >= _MAX_NAMES:
            return
        self._names[key] = 1
        self._names[kind] += 1
        logger.log(level, "%s", text)


def safe_repr(text: str) -> str:
    """A client's text as a message may show it: in one line, in ASCII, not too long."""
    return ascii(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
