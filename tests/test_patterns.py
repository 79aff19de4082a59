"""Handlers' patterns against names that clients choose: bounded work, and a word about slow ones."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from webpy_socketio import (
    events,
    on_event,
    on_message,
    on_subscribe,
    on_subscribing,
    patterns,
    receivers,
    signals,
)
from webpy_socketio.clients import clients
from webpy_socketio.patterns import REMEMBERED_MATCHES, ChannelPattern

from .conftest import Journal, Site

#: Each further "a" doubles the work of finding out that it does not match.
CATASTROPHE = "^(a+)+$"

#: How much of it is some tenths of a second: well above what is called slow, on any machine.
SLOW_NAME = "a" * 23 + "!"


def handler(*args: Any) -> None:
    pass


def pattern_of(function: Callable[..., Any]) -> Any:
    """The pattern that a function is bound by."""
    ((registered, (bound,)),) = (
        item for item in events._registered.values() if item[0] is function
    )
    assert registered is function
    return bound.pattern


def matches(function: Callable[..., Any]) -> int:
    """How often the regular expression of a function's pattern was really run."""
    return int(pattern_of(function).match.cache_info().misses)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said about patterns so far."""

    def read() -> list[str]:
        records = [record for record in caplog.records if record.name == patterns.__name__]
        assert all(record.levelno == logging.WARNING for record in records)
        return [record.getMessage() for record in records]

    return read


class TestWork:
    def test_a_name_that_is_too_long_is_tried_with_no_pattern(
        self, serve: Callable[..., Site]
    ) -> None:
        for decorator in (on_subscribing, on_subscribe, on_message):
            decorator(channel=CATASTROPHE)(handler)
        client = serve(max_channel_length=20).connect()
        for length in (20, 254, 100_000):
            (answer,) = client.call("__subscribe__", "a" * length + "!")
            assert answer == {
                "ok": False,
                "error": "a channel's name has 1 to 20 characters (SOCKETIO_MAX_CHANNEL_LENGTH)",
            }
            client.call("__channel__", "a" * length + "!", "hello")
        patterns = [bound.pattern for _, (bound,) in events._registered.values()]
        assert [pattern.match.cache_info().misses for pattern in patterns] == [0, 0, 0]

    def test_one_match_for_all_messages_to_a_channel(self, site: Site, journal: Journal) -> None:
        @on_message(channel=CATASTROPHE)
        def heard(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        client = site.connect()
        for name in ("aaa", "aaa!"):
            client.call("__subscribe__", name)
            for number in range(50):
                client.call("__channel__", name, number)
        assert matches(heard) == 2
        assert journal == list(range(50))

    def test_one_match_for_each_channel_that_is_held(self, site: Site, journal: Journal) -> None:
        @on_event("news", channel=CATASTROPHE)
        def heard(request: Any, socket: Any, context: Any) -> None:
            journal.append("news")

        client = site.connect()
        for name in ("x", "y", "z"):
            client.call("__subscribe__", name)
        for _ in range(50):
            client.call("news")
        assert matches(heard) == 3
        assert journal == []

    def test_coming_back_to_a_channel_is_no_new_work(self, site: Site) -> None:
        def heard(*args: Any) -> None:
            pass

        on_subscribing(channel=CATASTROPHE)(handler)
        on_message(channel=CATASTROPHE)(heard)
        client = site.connect()
        for _ in range(50):
            client.call("__subscribe__", "a!")
            client.call("message", "hello")
            client.call("__unsubscribe__", "a!")
        assert matches(handler) == matches(heard) == 1


class TestMemory:
    def test_the_names_of_which_a_pattern_knows_are_bounded(self) -> None:
        pattern = ChannelPattern(re.compile("^1"), "somebody")
        answers = [pattern.match(str(number)) for number in range(10 * REMEMBERED_MATCHES)]
        assert answers == [str(number).startswith("1") for number in range(len(answers))]
        assert pattern.match.cache_info().currsize == REMEMBERED_MATCHES

    def test_the_kinds_of_events_of_which_a_signal_knows_are_bounded(
        self, site: Site, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receivers, "MAX_KINDS", 10)
        signals.message.connect(lambda sender, event, **extra: journal.append(event))
        on_message(channel="^room-")(handler)
        client = site.connect()
        names = [f"event-{number}" for number in range(50)]
        for name in names:
            client.call("__subscribe__", name)
            client.call(name)
            client.call("__channel__", name, "hello")
        assert journal == [each for name in names for each in (name, "message")]
        found = clients.find(client.id)
        assert found is not None
        for memory in (signals.message._by_event, signals.message._by_channel):
            assert 0 < len(memory) <= 10
        assert len(found.choices or {}) <= 1, "only of events that a bound handler waits for"


class TestSlowOnes:
    def test_the_log_names_the_handler(
        self, site: Site, warnings: Callable[[], list[str]], journal: Journal
    ) -> None:
        @on_message(channel=CATASTROPHE)
        def careless(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        client = site.connect()
        client.call("__subscribe__", SLOW_NAME)
        client.call("__channel__", SLOW_NAME, "addressed")
        client.call("message", "to any that is held")
        (line,) = warnings()
        assert "@on_message(channel='^(a+)+$') on " in line
        assert "careless: " in line
        assert "a channel of 24 characters" in line
        assert SLOW_NAME not in line, "a client's text"
        assert journal == []

    def test_once_a_pattern(
        self, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patterns, "SLOW_MATCH", -math.inf)
        for decorator in (on_message, on_subscribe):
            decorator(channel="^x")(handler)
        for _, (bound,) in events._registered.values():
            assert bound.pattern.match("xy")
            assert not bound.pattern.match("yx")
        assert [line.partition("(")[0] for line in warnings()] == ["@on_message", "@on_subscribe"]

    def test_others_are_not_mentioned(
        self, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patterns, "SLOW_MATCH", math.inf)
        on_message(channel="^x")(handler)
        assert pattern_of(handler).match("xy")
        assert warnings() == []
