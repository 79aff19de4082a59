"""The decorators: which events a handler receives, and with which arguments."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import webpy_socketio
from tests.conftest import Journal, Site
from webpy_socketio import (
    EventError,
    events,
    on_connect,
    on_connecting,
    on_disconnect,
    on_error,
    on_event,
    on_finish,
    on_message,
    on_receiving,
    on_resume,
    on_subscribe,
    on_subscribing,
    on_suspend,
    on_unsubscribe,
    signals,
)
from webpy_socketio.events import off
from webpy_socketio.runtime import default_runtime

#: Decorator, name of its stage, and arguments of its handlers.
DECORATORS: dict[Any, tuple[str, ...]] = {
    on_connecting: ("request", "socket", "context"),
    on_connect: ("request", "socket", "context"),
    on_receiving: ("request", "socket", "context", "event", "message"),
    on_message: ("request", "socket", "context", "message"),
    on_subscribing: ("request", "socket", "context", "channel"),
    on_subscribe: ("request", "socket", "context", "channel"),
    on_unsubscribe: ("request", "socket", "context", "channel"),
    on_error: ("request", "socket", "context", "exception"),
    on_suspend: ("request", "socket", "context"),
    on_resume: ("request", "socket", "context", "missed"),
    on_disconnect: ("request", "socket", "context"),
    on_finish: ("request", "socket", "context"),
}
BINDABLE = [each for each in DECORATORS if each not in (on_connecting, on_connect)]

#: Without those of recovery, which is off by default; see test_recovery.py.
OF_EVERY_LIFE = [each for each in DECORATORS if each not in (on_suspend, on_resume)]

every_decorator_of_a_life = pytest.mark.parametrize(
    "decorator", OF_EVERY_LIFE, ids=lambda each: each.__name__
)
every_decorator = pytest.mark.parametrize("decorator", DECORATORS, ids=lambda each: each.__name__)
every_bindable = pytest.mark.parametrize("decorator", BINDABLE, ids=lambda each: each.__name__)


def live(site: Site, *channels: str) -> None:
    """Open and close a connection that passes all stages, with `channels`."""
    client = site.connect()
    for channel in channels:
        client.call("__subscribe__", channel)
    client.emit_and_wait("message", "hello")
    client.emit_and_wait("__channel__", "not subscribed", "an error")
    for channel in channels:
        client.call("__unsubscribe__", channel)
    for channel in channels:
        client.call("__subscribe__", channel)
    socket = default_runtime.registry.find(client.id)
    assert socket is not None
    client.send("1")
    client.wait_closed()
    site.server.stop()


class TestArguments:
    @every_decorator_of_a_life
    def test_handler_of_each_stage_receives_the_documented_arguments(
        self, decorator: Any, site: Site, journal: Journal
    ) -> None:
        sent: list[dict[str, Any]] = []

        def receiver(sender: Any, **keywords: Any) -> None:
            sent.append(keywords)

        stage = getattr(signals, decorator.__name__.removeprefix("on_"))
        stage.connect(receiver)

        @decorator
        def handler(*args: Any) -> None:
            journal.append(args)

        live(site, "room")
        assert journal
        assert len(journal) == len(sent)
        for args, keywords in zip(journal, sent, strict=True):
            assert args == tuple(keywords[name] for name in DECORATORS[decorator])

    def test_request_argument_is_the_environ_of_the_handshake(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(request)

        site.connect(X_Name="Ann").emit_and_wait("message", 1)
        (request,) = journal
        assert request["HTTP_X_NAME"] == "Ann"
        assert request["PATH_INFO"] == "/socket.io/"
        assert request["REMOTE_ADDR"] == "127.0.0.1"

    def test_message_argument_is_one_value_or_a_list_or_none(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        client = site.connect()
        client.emit_and_wait("message")
        client.emit_and_wait("message", "one")
        client.emit_and_wait("message", ["a", "list"])
        client.emit_and_wait("message", {"a": 1})
        client.emit_and_wait("message", 1, 2)
        assert journal == [None, "one", ["a", "list"], {"a": 1}, [1, 2]]

    def test_custom_event_handler_receives_positional_arguments(
        self, site: Site, journal: Journal
    ) -> None:
        @on_event("add")
        def add(request: Any, socket: Any, context: Any, one: int, other: int) -> int:
            return one + other

        @on_event("none")
        def none(request: Any, socket: Any, context: Any) -> str:
            return "no arguments"

        client = site.connect()
        assert client.call("add", 1, 2) == [3]
        assert client.call("none") == ["no arguments"]
        assert client.call("add", 1) == [{"error": "internal error"}]  # the handler requires two


class TestDecorators:
    @every_decorator
    @pytest.mark.parametrize("form", ["bare", "called"])
    def test_decorator_returns_the_function(self, decorator: Any, form: str) -> None:
        def handler(*args: Any) -> str:
            """Its docstring."""
            return "as before"

        before = dict(vars(handler))
        decorated = decorator(handler) if form == "bare" else decorator()(handler)
        assert decorated is handler
        assert vars(handler) == before
        assert handler() == "as before"

    @every_bindable
    def test_decorator_with_channel_returns_the_function(self, decorator: Any) -> None:
        def handler(*args: Any) -> None:
            """Do nothing."""

        assert decorator(channel="^room-")(handler) is handler
        assert on_event("x", channel="^room-")(handler) is handler

    def test_decorators_are_public(self) -> None:
        for name in events.__all__:
            assert getattr(webpy_socketio, name) is getattr(events, name)
            assert name in webpy_socketio.__all__
        others = {"on_event", "off", "registered_handlers"}
        assert {decorator.__name__ for decorator in DECORATORS} | others == set(events.__all__)

    def test_every_stage_has_a_decorator(self) -> None:
        assert [each.__name__ for each in DECORATORS] == [
            f"on_{stage.name}" for stage in signals.STAGES
        ]
        assert repr(on_message) == "<decorator on_message>"

    def test_handlers_and_receivers_run_in_the_order_of_connection(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message
        def first(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append("first")

        def second(sender: Any, **keywords: Any) -> None:
            journal.append("second")

        signals.message.connect(second)

        @on_event("message")
        def third(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append("third")

        site.connect().emit_and_wait("message", 1)
        assert journal == ["first", "second", "third"]

    def test_decorator_accepts_methods_and_callables(self, site: Site, journal: Journal) -> None:
        class Room:
            def message(self, request: Any, socket: Any, context: Any, message: Any) -> None:
                journal.append("method")

            def __call__(self, request: Any, socket: Any, context: Any, message: Any) -> None:
                journal.append("object")

        on_message(Room().message)  # strongly referenced by the signal only
        on_message(Room())
        site.connect().emit_and_wait("message", 1)
        assert journal == ["method", "object"]


class TestUnboundHandlers:
    @pytest.mark.parametrize("channels", [(), ("room",), ("room", "other")])
    def test_unbound_handler_receives_events_with_and_without_channels(
        self, channels: tuple[str, ...], site: Site, journal: Journal
    ) -> None:
        def record(name: str) -> Callable[..., None]:
            def handler(request: Any, socket: Any, context: Any, *own: Any) -> None:
                journal.append(name)

            return handler

        for decorator in DECORATORS:
            decorator(record(decorator.__name__))
        live(site, *channels)
        count = len(channels)
        assert journal == [
            *("on_connecting", "on_connect"),
            *["on_subscribing", "on_subscribe"] * count,
            *("on_receiving", "on_message", "on_error"),
            *["on_unsubscribe"] * count,
            *["on_subscribing", "on_subscribe"] * count,
            "on_disconnect",
            *["on_unsubscribe"] * count,
            "on_finish",
        ]

    def test_message_handler_does_not_receive_custom_events(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message
        def message(*args: Any) -> None:
            journal.append("message")

        @on_event("custom")
        def custom(*args: Any) -> None:
            journal.append("custom")

        client = site.connect()
        client.emit_and_wait("custom")
        client.emit_and_wait("message")
        client.emit_and_wait("unknown")
        assert journal == ["custom", "message"]


class TestBoundHandlers:
    @pytest.mark.parametrize("decorator", [on_subscribing, on_subscribe, on_unsubscribe])
    def test_pattern_of_channel_stage_matches_the_channel_of_the_event(
        self, decorator: Any, site: Site, journal: Journal
    ) -> None:
        @decorator(channel="^room-")
        def handler(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(channel)

        client = site.connect()
        for channel in ("other", "room-1", "my room-2", "room-3"):
            client.call("__subscribe__", channel)
        for channel in ("other", "room-1", "my room-2", "room-3"):
            client.call("__unsubscribe__", channel)
        assert journal == ["room-1", "room-3"]

    @pytest.mark.parametrize("decorator", [on_error, on_disconnect, on_finish])
    @pytest.mark.parametrize(
        ("channels", "times"), [((), 0), (("other",), 0), (("room-1",), 1), (("x", "room-1"), 1)]
    )
    def test_pattern_of_other_stage_matches_any_channel_of_the_socket(
        self, decorator: Any, channels: tuple[str, ...], times: int, site: Site, journal: Journal
    ) -> None:
        @decorator(channel="^room-")
        def handler(*args: Any) -> None:
            journal.append("called")

        live(site, *channels)
        assert journal == ["called"] * times

    def test_pattern_matches_message_without_channel_by_any_channel_of_the_socket(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message(channel="^room-")
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        client = site.connect()
        client.emit_and_wait("message", "in none")
        client.call("__subscribe__", "other")
        client.emit_and_wait("message", "in another")
        client.call("__subscribe__", "room-1")
        client.emit_and_wait("message", "in a room")
        client.call("__unsubscribe__", "room-1")
        client.emit_and_wait("message", "in another again")
        assert journal == ["in a room"]

    def test_pattern_matches_message_to_channel_by_that_channel_only(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message(channel="^room-")
        def room(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(("room", message))

        @on_message(channel="^hall$")
        def hall(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(("hall", message))

        @on_message
        def anything(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(("any", message))

        client = site.connect()
        for channel in ("room-1", "hall"):
            client.call("__subscribe__", channel)
        client.emit_and_wait("__channel__", "room-1", "to the room")
        client.emit_and_wait("__channel__", "hall", "to the hall")
        assert journal == [
            ("room", "to the room"),
            ("any", "to the room"),
            ("hall", "to the hall"),
            ("any", "to the hall"),
        ]

    def test_handler_runs_once_if_several_channels_match(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message(channel="^room-")
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        @on_disconnect(channel="^room-")
        def gone(request: Any, socket: Any, context: Any) -> None:
            journal.append("gone")

        client = site.connect()
        for number in range(5):
            client.call("__subscribe__", f"room-{number}")
        client.emit_and_wait("message", "hello")
        client.send("41")
        journal.wait_for("gone")
        assert journal == ["hello", "gone"]

    def test_pattern_matches_from_the_start_like_re_match(
        self, site: Site, journal: Journal
    ) -> None:
        @on_subscribe(channel="room")
        def handler(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(channel)

        client = site.connect()
        for channel in ("room", "rooms", "my room", "ROOM"):
            client.call("__subscribe__", channel)
        assert journal == ["room", "rooms"]

    def test_compiled_pattern_keeps_its_flags(self, site: Site, journal: Journal) -> None:
        @on_subscribe(channel=re.compile("room$", re.IGNORECASE))
        def handler(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(channel)

        client = site.connect()
        for channel in ("room", "ROOM", "rooms"):
            client.call("__subscribe__", channel)
        assert journal == ["room", "ROOM"]

    def test_on_event_with_channel_filters_by_channel(self, site: Site, journal: Journal) -> None:
        @on_event("draw", channel="^board$")
        def draw(request: Any, socket: Any, context: Any, *args: Any) -> None:
            journal.append(args)

        client = site.connect()
        client.emit_and_wait("draw", 1)
        client.call("__subscribe__", "board")
        client.emit_and_wait("draw", 2, 3)
        assert journal == [(2, 3)]

    def test_empty_pattern_matches_only_sockets_with_channels(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message(channel="")
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        client = site.connect()
        client.emit_and_wait("message", "in none")
        client.call("__subscribe__", "any")
        client.emit_and_wait("message", "in one")
        assert journal == ["in one"]


def named_handler(*args: Any) -> None:
    """A handler whose name appears in errors."""


class TestErrors:
    @pytest.mark.parametrize("decorator", [on_connect, on_connecting])
    def test_channel_on_connect_stages_raises_event_error(self, decorator: Any) -> None:
        with pytest.raises(EventError, match="named_handler") as caught:
            decorator(channel="^room-")(named_handler)
        assert f"@{decorator.__name__}(channel=" in str(caught.value)
        assert "on_subscribe" in str(caught.value)  # the remedy

    @every_bindable
    @pytest.mark.parametrize("pattern", ["(", "*", "[a", 5, b"bytes", ["list"]])
    def test_invalid_pattern_raises_event_error(self, decorator: Any, pattern: Any) -> None:
        with pytest.raises(EventError, match="named_handler") as caught:
            decorator(channel=pattern)(named_handler)
        assert repr(pattern) in str(caught.value)
        assert decorator.__name__ in str(caught.value)

    @every_decorator
    def test_coroutine_function_raises_event_error(self, decorator: Any) -> None:
        async def coroutine(*args: Any) -> None:
            """Do nothing."""

        with pytest.raises(
            EventError, match=r"coroutine \(test_events.py:\d+\) is a coroutine function"
        ):
            decorator(coroutine)

    @every_decorator
    @pytest.mark.parametrize("value", ["^room-", 5, re.compile("^room-")])
    def test_decorating_a_non_function_raises_event_error(self, decorator: Any, value: Any) -> None:
        with pytest.raises(EventError, match="channel="):
            decorator(value)

    def test_on_event_without_name_raises_event_error(self) -> None:
        with pytest.raises(EventError, match="name"):
            on_event(named_handler)  # type: ignore[arg-type]

    def test_failed_decoration_registers_nothing(self) -> None:
        with pytest.raises(EventError):
            on_message(channel="(")(named_handler)
        assert not signals.message.receivers


MODULE = """
from webpy_socketio import on_message, on_event, on_disconnect

@on_message
def message(request, socket, context, message):
    context.setdefault("called", []).append((__name__, "message"))

@on_message(channel="^room-")
def bound(request, socket, context, message):
    context.setdefault("called", []).append((__name__, "bound"))

@on_event("called")
def called(request, socket, context):
    return context.pop("called", [])
"""


class TestReimports:
    def load(self, path: Path, name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_file_imported_under_two_names_registers_once(self, site: Site, tmp_path: Path) -> None:
        path = tmp_path / "app.py"
        path.write_text(MODULE)
        self.load(path, "first")
        self.load(path, "second")
        client = site.connect()
        client.call("__subscribe__", "room-1")
        client.emit_and_wait("message", 1)
        assert client.call("called") == [[["second", "message"], ["second", "bound"]]]

    def test_other_file_with_the_same_names_registers_too(self, site: Site, tmp_path: Path) -> None:
        for name in ("first", "second"):
            path = tmp_path / f"{name}.py"
            path.write_text(MODULE.replace('"called"', f'"called by {name}"'))
            self.load(path, name)
        client = site.connect()
        client.emit_and_wait("message", 1)
        assert client.call("called by first") == [[["first", "message"]]]
        assert client.call("called by second") == [[["second", "message"]]]

    def test_main_script_imported_by_name_registers_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site
    ) -> None:
        # Like the reloader of web.py: the script runs as __main__ and is imported once more.
        path = tmp_path / "main_app.py"
        path.write_text(MODULE)
        self.load(path, "__main__")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.import_module("main_app")
        monkeypatch.delitem(sys.modules, "main_app")
        client = site.connect()
        client.emit_and_wait("message", 1)
        assert client.call("called") == [[["main_app", "message"]]]

    def test_decorating_twice_registers_once(self, site: Site, journal: Journal) -> None:
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        on_message(handler)
        on_message(handler)
        on_message(channel="^a")(handler)
        on_message(channel="^a")(handler)
        client = site.connect()
        client.emit_and_wait("message", 1)
        assert journal == [1]

    def test_stacked_decorators_register_each_pattern(self, site: Site, journal: Journal) -> None:
        @on_subscribe
        @on_message(channel="^a")
        @on_message(channel="^b")
        def handler(request: Any, socket: Any, context: Any, value: Any) -> None:
            journal.append(value)

        client = site.connect()
        client.call("__subscribe__", "a")
        client.emit_and_wait("message", 1)
        client.call("__subscribe__", "b")
        client.emit_and_wait("message", 2)
        assert journal == ["a", 1, "b", 2, 2]

    def test_function_decorated_for_several_events_handles_each(self, site: Site) -> None:
        @on_event("one")
        @on_event("two")
        def handler(request: Any, socket: Any, context: Any) -> str:
            return "called"

        client = site.connect()
        assert client.call("one") == ["called"]
        assert client.call("two") == ["called"]


class TestOff:
    def test_off_removes_all_registrations(self, site: Site, journal: Journal) -> None:
        @on_message
        @on_message(channel="^a")
        @on_event("custom")
        def handler(*args: Any) -> None:
            journal.append("handler")

        @on_message
        def other(*args: Any) -> None:
            journal.append("other")

        client = site.connect()
        client.call("__subscribe__", "a")
        off(handler)
        client.emit_and_wait("message", 1)
        client.emit_and_wait("custom")
        assert journal == ["other"]

    def test_function_can_be_registered_again_after_off(self, site: Site, journal: Journal) -> None:
        @on_message
        def handler(*args: Any) -> None:
            journal.append("handler")

        off(handler)
        off(handler)
        on_message(handler)
        site.connect().emit_and_wait("message", 1)
        assert journal == ["handler"]


class TestRegisteredHandlers:
    """`registered_handlers`, which plugins use for labels."""

    def test_registered_handlers_are_in_order_with_stage_event_and_pattern(self) -> None:
        def handler(*args: Any) -> None: ...

        before = events.registered_handlers()
        on_message(handler)
        on_event("draw", channel="^room-")(handler)
        on_subscribe(channel=re.compile("^hall"))(handler)
        found = events.registered_handlers()[len(before) :]
        assert [(each.stage, each.event, each.function) for each in found] == [
            (signals.message, "message", handler),
            (signals.message, "draw", handler),
            (signals.subscribe, None, handler),
        ]
        patterns = [each.pattern for each in found]
        assert patterns[0] is None
        assert patterns[1] is not None
        assert (patterns[1].regex.pattern, patterns[1].match("room-1")) == ("^room-", True)
        assert patterns[2] is not None
        assert (patterns[2].regex.pattern, patterns[2].match("a hall")) == ("^hall", False)

    def test_registered_handlers_returns_the_same_tuple_until_a_change(self) -> None:
        def handler(*args: Any) -> None: ...

        def other(*args: Any) -> None: ...

        on_message(handler)
        found = events.registered_handlers()
        assert events.registered_handlers() is found
        on_message(other)
        more = events.registered_handlers()
        assert len(more) == len(found) + 1
        off(other)
        assert events.registered_handlers() == found
