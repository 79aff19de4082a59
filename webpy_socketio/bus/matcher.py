"""Match names of channels and namespaces against a regular expression, with a time limit.

Clients choose these names. `NamePattern` is the caller, for the patterns of handlers and of
``SOCKETIO_NAMESPACES``.

The standard library's ``re`` cannot be interrupted: the time of ``^(a|a)*$`` doubles with each
character of a name and blocks all clients. The package ``regex`` supports a timeout.

The two differ outside ASCII: ``regex`` follows a newer Unicode version and counts combining marks
as word characters. Expressions that ``re`` matches in linear time therefore stay with ``re``.
"""

from __future__ import annotations

import re
import time
import warnings

import regex

__all__ = ["TIME_LIMIT", "Budget", "Matcher"]

#: Maximum seconds of CPU time of one match. The process does nothing else meanwhile.
TIME_LIMIT = 0.05

#: Limit in seconds once the budget of a pattern is spent. An ordinary match takes less than 0.01
#: ms.
SPENT_LIMIT = 0.001

#: Total seconds of timed-out matches of one pattern before its limit falls to `SPENT_LIMIT`.
BUDGET = 0.1

#: Seconds of budget regained per second.
REFILL_RATE = 0.01

#: Characters that repeat the preceding element or make it optional.
_QUANTIFIERS = "*+?{"

#: An escape, which is kept, or a brace that is text for ``re``; for ``regex``, ``{e}`` permits
#: errors.
_BRACE = re.compile(r"\\N\{[^}]*\}|\\.|\{(?!(?:\d+(?:,\d*)?|,\d*)\})", re.DOTALL)

_FLAGS = (
    (re.ASCII, regex.ASCII),
    (re.IGNORECASE, regex.IGNORECASE),
    (re.MULTILINE, regex.MULTILINE),
    (re.DOTALL, regex.DOTALL),
    (re.VERBOSE, regex.VERBOSE),
)


class Matcher:
    """A regular expression, matched from the start of a text."""

    __slots__ = ("_limited", "_linear", "_standard")

    def __init__(self, standard: re.Pattern[str]) -> None:
        self._standard = standard
        self._linear = _is_linear(standard.pattern)
        self._limited = None if self._linear else _compile_limited(standard)

    @property
    def is_bounded(self) -> bool:
        """Whether the time of a match is limited: linear, or ended by the time limit."""
        return self._linear or self._limited is not None

    def match(self, text: str, seconds: float) -> bool:
        """Return whether the expression matches.

        Raises:
            TimeoutError: The match took `seconds` of CPU time.
        """
        if self._limited is None:
            return self._standard.match(text) is not None
        return self._limited.match(text, timeout=seconds) is not None


class Budget:
    """The time budget of a pattern for timed-out matches.

    Without it, a client could block the process for `TIME_LIMIT` with each new name.
    """

    __slots__ = ("_left", "_since")

    def __init__(self) -> None:
        self._left = BUDGET
        self._since = time.monotonic()

    @property
    def limit(self) -> float:
        """Maximum seconds of the next match."""
        now = time.monotonic()
        self._left = min(BUDGET, self._left + (now - self._since) * REFILL_RATE)
        self._since = now
        return max(SPENT_LIMIT, min(TIME_LIMIT, self._left))

    def spend(self, seconds: float) -> None:
        """Subtract a match that timed out after `seconds`."""
        self._left = max(0.0, self._left - seconds)


def _is_linear(pattern: str) -> bool:
    """Return whether the time of a match is at most proportional to the length of the text."""
    repeats = sum(pattern.count(quantifier) for quantifier in _QUANTIFIERS)
    groups = pattern.count("(")
    return (repeats == 0 and groups <= 1) or (repeats == 1 and groups == 0)


def _compile_limited(standard: re.Pattern[str]) -> regex.Pattern[str] | None:
    """Compile the expression with ``regex``; return None if its meaning would differ."""
    if "[:" in standard.pattern:  # plain characters of a set for re, a POSIX class for regex
        return None
    flags = regex.V0
    for theirs, ours in _FLAGS:
        if standard.flags & theirs:
            flags |= ours
    text = _BRACE.sub(_escape_brace, standard.pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # re.compile has warned already
            return regex.compile(text, flags)
    except regex.error:
        return None


def _escape_brace(found: re.Match[str]) -> str:
    return r"\{" if found[0] == "{" else found[0]
