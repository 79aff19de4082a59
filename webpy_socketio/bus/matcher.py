"""Match a text that a client chose against a regular expression, within a time limit.

The standard library's ``re`` cannot be stopped: ``^(a|a)*$`` doubles its work with each character of
a name, and blocks every client meanwhile. The package ``regex`` stops at a time limit.

The two differ for characters outside ASCII: ``regex`` follows a newer Unicode version, and counts
combining marks as word characters. Expressions that ``re`` matches in linear time therefore stay with ``re``.
"""

from __future__ import annotations

import re
import time
import warnings

import regex

__all__ = ["TIME_LIMIT", "Budget", "Matcher"]

#: Seconds of CPU time that one match may take. The process does nothing else meanwhile.
TIME_LIMIT = 0.05

#: The limit of a pattern whose budget is spent. An ordinary match takes less than 0.01 ms.
SPENT_LIMIT = 0.001

#: Seconds of matches that ran out of time, of one pattern, until its limit falls to `SPENT_LIMIT`.
BUDGET = 0.1

#: Seconds that the budget regains in one second.
REFILL_RATE = 0.01

#: Characters that repeat, or make optional, what is in front of them.
_QUANTIFIERS = "*+?{"

#: An escape, which stays, or a brace that ``re`` reads as text: for ``regex``, ``{e}`` permits errors.
_BRACE = re.compile(r"\\N\{[^}]*\}|\\.|\{(?!(?:\d+(?:,\d*)?|,\d*)\})", re.DOTALL)

_FLAGS = (
    (re.ASCII, regex.ASCII),
    (re.IGNORECASE, regex.IGNORECASE),
    (re.MULTILINE, regex.MULTILINE),
    (re.DOTALL, regex.DOTALL),
    (re.VERBOSE, regex.VERBOSE),
)


class Matcher:
    """A regular expression that is matched from the start of a text."""

    __slots__ = ("_limited", "_linear", "_standard")

    def __init__(self, standard: re.Pattern[str]) -> None:
        self._standard = standard
        self._linear = _is_linear(standard.pattern)
        self._limited = None if self._linear else _compile_limited(standard)

    @property
    def is_bounded(self) -> bool:
        """Whether a match always ends: by its linear work, or at the time limit."""
        return self._linear or self._limited is not None

    def match(self, text: str, seconds: float) -> bool:
        """Return whether the expression matches; raise `TimeoutError` after `seconds` of CPU time."""
        if self._limited is None:
            return self._standard.match(text) is not None
        return self._limited.match(text, timeout=seconds) is not None


class Budget:
    """The time that a pattern may lose to matches that run out of time.

    Without it, a client could block the process for `TIME_LIMIT` with each further name.
    """

    __slots__ = ("_left", "_since")

    def __init__(self) -> None:
        self._left = BUDGET
        self._since = time.monotonic()

    @property
    def limit(self) -> float:
        """Seconds that the next match may take."""
        now = time.monotonic()
        self._left = min(BUDGET, self._left + (now - self._since) * REFILL_RATE)
        self._since = now
        return max(SPENT_LIMIT, min(TIME_LIMIT, self._left))

    def spend(self, seconds: float) -> None:
        """Count a match that ran out of time after `seconds`."""
        self._left = max(0.0, self._left - seconds)


def _is_linear(pattern: str) -> bool:
    """Return whether the work of a match is at most proportional to the length of the text."""
    repeats = sum(pattern.count(quantifier) for quantifier in _QUANTIFIERS)
    groups = pattern.count("(")
    return (repeats == 0 and groups <= 1) or (repeats == 1 and groups == 0)


def _compile_limited(standard: re.Pattern[str]) -> regex.Pattern[str] | None:
    """Compile the same expression with ``regex``; None if it would mean something else there."""
    if "[:" in standard.pattern:  # a set's ordinary characters for re, a POSIX class for regex
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
