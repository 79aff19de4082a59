"""Matching with a time limit returns the results of the standard library."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.load_clients import scaled
from webpy_socketio.bus.matcher import BUDGET, SPENT_LIMIT, TIME_LIMIT, Budget, Matcher

#: Expressions that handlers may use; most are matched by the package ``regex``.
EXPRESSIONS = [
    "^room-",
    r"^room-\d+$",
    "^(one|two)$",
    r"^(?:user|team)-[a-z0-9]+(?:-[a-z0-9]+)*$",
    r"^(?P<kind>\w+)-(?P=kind)$",
    "^(?!private-).*",
    "(?i)^ROOM-[a-c]+(x|y)?$",
    "(?x) ^ room - \\d+ (?: a | b )* # a comment with {e} and (",
    "^(a+)+$",
    "(a*?b??)+c{2,3}$",
    "a{,2}b(c)*",
    "^(x{e}|x{i<=2})+",
    "(room){}-+",
    "([a&&b]|[ab~~c])+",
    "(?=.*b)a.*c",
    "(?<=a)b|a(b)*",
    "(a)?(?(1)b|c)*",
    r"(?:\.|[*+?{])+",
    r"(?:\Aa|b\Z)+",
    r"(?:^|\b)a\B.*",
]

TEXTS = st.text(st.sampled_from("abcxyoRrm-0123 .{}e<=i:*+?&~") | st.characters(codec="ascii"))


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(text=TEXTS)
@settings(max_examples=scaled(200, 40))
def test_matcher_matches_like_re(expression: str, text: str) -> None:
    standard = compiled(expression)
    assert Matcher(standard).match(text[:40], 10.0) == bool(standard.match(text[:40]))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_matcher_matches_common_names_like_re(expression: str) -> None:
    standard = compiled(expression)
    matcher = Matcher(standard)
    for text in ("room-1", "room-1 b", "one", "aab", "x{e}x{e}", "room{}-", "*+"):
        assert matcher.match(text, 10.0) == bool(standard.match(text)), text


@pytest.mark.parametrize("flag", [re.ASCII, re.IGNORECASE, re.MULTILINE, re.DOTALL, re.VERBOSE])
@pytest.mark.parametrize(
    "text", ["ab", "AB", "a\nb", "a b", "\N{LATIN SMALL LETTER E WITH ACUTE}b"]
)
def test_matcher_keeps_the_flags_of_a_compiled_pattern(flag: Any, text: str) -> None:
    standard = re.compile(r"(?:\w|.)+? b$|(?:\w)+b", flag)
    assert Matcher(standard).match(text, 10.0) == bool(standard.match(text))


@pytest.mark.parametrize("expression", ["^room-", r"^\w+", "^(one|two)$", "^a{2}"])
def test_matcher_uses_re_for_linear_expressions(expression: str) -> None:
    combining = "a\N{COMBINING ACUTE ACCENT}" * 40
    matcher = Matcher(re.compile(expression + "|^x"))
    assert matcher.is_bounded
    assert matcher.match(combining, 0.0) == bool(re.match(expression, combining))


@pytest.mark.parametrize(
    "expression",
    ["^(a|a)*$", "(a|aa)*?$", "^((a)|(?:a))+[^a]$"],
)
def test_matcher_raises_timeout_error_after_its_time_limit(expression: str) -> None:
    with pytest.raises(TimeoutError):
        Matcher(re.compile(expression)).match("a" * 200 + "!!", 0.01)


def test_budget_falls_to_its_minimum_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("webpy_socketio.bus.matcher.time.monotonic", lambda: now[0])
    budget = Budget()
    assert budget.limit == TIME_LIMIT
    for _ in range(5):
        budget.spend(budget.limit)
    assert budget.limit == SPENT_LIMIT
    now[0] += 3600
    assert budget.limit == TIME_LIMIT
    budget.spend(BUDGET - TIME_LIMIT / 2)
    assert budget.limit == pytest.approx(TIME_LIMIT / 2)


def compiled(expression: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "&&" in a set
        return re.compile(expression)
