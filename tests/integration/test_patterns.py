"""Channel patterns and names chosen by clients: limited work, and warnings about slow patterns."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Journal, Site
from webpy_socketio import (
    handlers,
    on_event,
    on_message,
    on_subscribe,
    on_subscribing,
    signals,
)
from webpy_socketio.bus import patterns, receivers
from webpy_socketio.bus.matcher import TIME_LIMIT
from webpy_socketio.bus.patterns import REMEMBERED_MATCHES, NamePattern, compile_channel
from webpy_socketio.runtime import default_runtime

#: Each further "a" doubles the work of finding out that it does not match.
CATASTROPHE = "^(a|a)*$"

#: More than a day of work without a time limit.
SLOW_NAME = "a" * 60 + "!"


def handler(*args: Any) -> None:
    pass


def pattern() -> NamePattern:
    """A pattern that times out for `SLOW_NAME`."""
    made = compile_channel(CATASTROPHE, "@on_receiving", "gate")
    assert made is not None
    return made


def pattern_of(function: Callable[..., Any]) -> Any:
    """Return the channel pattern of a function."""
    ((registered, (bound,)),) = (
        item for item in default_runtime.events._registered.values() if item[0] is function
    )
    assert registered is function
    return bound.pattern


def matches(function: Callable[..., Any]) -> int:
    """Count the matches of the regular expression of a function's pattern."""
    return int(pattern_of(function).match.cache_info().misses)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the warnings about patterns so far."""

    def read() -> list[str]:
        records = [record for record in caplog.records if record.name == patterns.__name__]
        assert all(record.levelno == logging.WARNING for record in records)
        return [record.getMessage() for record in records]

    return read


class TestMatchCounts:
    def test_name_above_the_length_limit_is_not_matched(self, serve: Callable[..., Site]) -> None:
        for decorator in (on_subscribing, on_subscribe, on_message):
            decorator(channel=CATASTROPHE)(handler)
        client = serve(max_channel_length=20).connect()
        for length in (20, 254, 100_000):
            (answer,) = client.call("__subscribe__", "a" * length + "!")
            assert answer == {
                "ok": False,
                "error": "a channel name must have 1 to 20 characters "
                "(SOCKETIO_MAX_CHANNEL_LENGTH)",
            }
            client.call("__channel__", "a" * length + "!", "hello")
        patterns = [bound.pattern for _, (bound,) in default_runtime.events._registered.values()]
        assert [pattern.match.cache_info().misses for pattern in patterns] == [0, 0, 0]

    def test_messages_to_one_channel_match_a_pattern_once(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message(channel=CATASTROPHE)
        def heard(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        client = site.connect()
        for name in ("aaa", "aaa!"):
            client.call("__subscribe__", name)
            for number in range(50):
                client.emit("__channel__", name, number)
        client.barrier()
        assert matches(heard) == 2
        assert journal == list(range(50))

    def test_each_channel_of_a_socket_matches_a_pattern_once(
        self, site: Site, journal: Journal
    ) -> None:
        @on_event("news", channel=CATASTROPHE)
        def heard(request: Any, socket: Any, context: Any) -> None:
            journal.append("news")

        client = site.connect()
        for name in ("x", "y", "z"):
            client.call("__subscribe__", name)
        for _ in range(50):
            client.emit("news")
        client.barrier()
        assert matches(heard) == 3
        assert journal == []

    def test_resubscribing_to_a_channel_uses_the_cached_match(self, site: Site) -> None:
        def heard(*args: Any) -> None:
            pass

        on_subscribing(channel=CATASTROPHE)(handler)
        on_message(channel=CATASTROPHE)(heard)
        client = site.connect()
        for _ in range(50):
            client.call("__subscribe__", "a!")
            client.emit("message", "hello")
            client.call("__unsubscribe__", "a!")
        assert matches(handler) == matches(heard) == 1


class TestCacheSizes:
    def test_cached_names_of_a_pattern_are_limited(self) -> None:
        pattern = NamePattern(re.compile("^1"), "a handler")
        answers = [pattern.match(str(number)) for number in range(10 * REMEMBERED_MATCHES)]
        assert answers == [str(number).startswith("1") for number in range(len(answers))]
        assert pattern.match.cache_info().currsize == REMEMBERED_MATCHES

    def test_cached_events_of_a_signal_are_limited(
        self, site: Site, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receivers, "MAX_CHANNELS", 10)
        signals.message.connect(lambda sender, event, **extra: journal.append(event))
        on_message(channel="^room-")(handler)
        client = site.connect()
        names = [f"event-{number}" for number in range(50)]
        for name in names:
            client.call("__subscribe__", name)
            client.emit(name)
            client.emit("__channel__", name, "hello")
        client.barrier()
        assert journal == [each for name in names for each in (name, "message")]
        found = default_runtime.registry.find(client.id)
        assert found is not None
        for memory in (signals.message._by_event, signals.message._by_channel):
            assert 0 < len(memory) <= 10
        assert len(found.receiver_cache or {}) <= 1, "only of events that a bound handler waits for"


class TestTimeLimit:
    def test_timed_out_pattern_skips_handler_and_logs_its_name(
        self, site: Site, warnings: Callable[[], list[str]], journal: Journal
    ) -> None:
        @on_message(channel=CATASTROPHE)
        def careless(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        @on_message(channel="^a")
        def careful(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append("careful")

        client = site.connect()
        client.call("__subscribe__", SLOW_NAME)
        client.call("__channel__", SLOW_NAME, "addressed")
        client.call("message", "to any that is held")
        (line,) = warnings()
        assert "@on_message(channel='^(a|a)*$') on " in line
        assert "careless: " in line
        assert "a channel of 61 characters was stopped after" in line
        assert SLOW_NAME not in line, "a client's text"
        assert journal == ["careful", "careful"]

    @pytest.mark.parametrize("compiled", [False, True])
    def test_timed_out_pattern_rejects_subscription(
        self, compiled: bool, site: Site, warnings: Callable[[], list[str]], stages: Journal
    ) -> None:
        on_subscribing(channel=re.compile(CATASTROPHE) if compiled else CATASTROPHE)(handler)
        client = site.connect()
        for _ in range(2):
            (answer,) = client.call("__subscribe__", SLOW_NAME)
            assert answer == {"ok": False, "error": "not allowed"}
        assert client.call("__subscribe__", "aaa") == [{"ok": True}]
        assert len(warnings()) == 1
        assert [value for name, value in stages if name == "subscribe"] == ["aaa"]

    def test_timed_out_pattern_rejects_message_of_a_subscribed_socket(
        self, site: Site, journal: Journal
    ) -> None:
        signals.receiving.connect(handlers.Handler(handler, signals.receiving, pattern(), None))
        on_message(lambda request, socket, context, message: journal.append(message))
        client = site.connect()
        client.call("message", "before")
        client.call("__subscribe__", SLOW_NAME)
        assert client.call("message", "while held") == [{"error": "not allowed"}]
        client.call("__unsubscribe__", SLOW_NAME)
        client.call("message", "after")
        assert journal == ["before", "after"]

    @pytest.mark.parametrize("slow", [CATASTROPHE, "^(a|aa)+$", "^((a)|(?:a))+[^a]$"])
    def test_further_names_have_a_lower_time_limit(self, slow: str) -> None:
        pattern = compile_channel(slow, "@on_message", "handler")
        assert pattern is not None
        assert pattern._budget.limit == TIME_LIMIT
        for number in range(10):
            assert pattern.match(f"{SLOW_NAME}{number}!") is None
        assert pattern._budget.limit < TIME_LIMIT / 5

    def test_spent_budget_still_matches_other_names(self) -> None:
        pattern = compile_channel(CATASTROPHE, "@on_subscribing", "gate")
        assert pattern is not None
        for number in range(20):
            assert pattern.match(f"{SLOW_NAME}{number}") is None
        assert pattern.match("a" * 200) is True
        assert pattern.match("b") is False

    def test_slow_pattern_is_logged_once_a_minute(self, warnings: Callable[[], list[str]]) -> None:
        first, second = pattern(), pattern()
        for number in range(5):
            first.match(f"{SLOW_NAME}{number}")
            second.match(f"{SLOW_NAME}{number}")
        assert len(warnings()) == 2

    def test_pattern_without_time_limit_is_logged_at_registration(
        self, warnings: Callable[[], list[str]]
    ) -> None:
        with pytest.warns(FutureWarning, match="set"):
            on_message(channel="^([[:x]+|y)*$")(handler)
        assert ["cannot be limited" in line for line in warnings()] == [True]

    def test_fast_patterns_are_not_logged(self, warnings: Callable[[], list[str]]) -> None:
        on_message(channel="^x")(handler)
        assert pattern_of(handler).match("xy")
        assert warnings() == []
