"""Servers with different runtimes in one process: nothing is shared."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import pytest

from tests.conftest import Journal, Site, gets
from webpy_socketio import (
    CallerError,
    ConfigurationError,
    NoSocket,
    PluginError,
    Runtime,
    SettingsError,
    broadcast,
    default_runtime,
    events,
    on_message,
    signals,
    sockets,
)

Serve = Callable[..., Site]


@pytest.fixture
def other() -> Runtime:
    return Runtime()


@pytest.fixture
def plugin() -> Iterator[Callable[..., str]]:
    """Create a plugin module with the given functions; returns its name."""
    names: list[str] = []

    def create(**functions: Callable[..., Any]) -> str:
        name = f"plugin_of_test_runtime_{len(names)}"
        module = types.ModuleType(name)
        vars(module).update(functions)
        sys.modules[name] = module
        names.append(name)
        return name

    yield create
    for name in names:
        del sys.modules[name]


class TestSockets:
    def test_broadcast_reaches_only_sockets_of_its_runtime(
        self, serve: Serve, other: Runtime
    ) -> None:
        first, second = serve().connect(), serve(runtime=other).connect()
        broadcast("first")
        other.broadcast("second")
        gets(first, "first")
        gets(second, "second")

    def test_broadcast_without_a_socket_of_its_runtime_raises(
        self, serve: Serve, other: Runtime
    ) -> None:
        serve().connect()
        with pytest.raises(NoSocket):
            other.broadcast("hello")

    def test_send_finds_only_sockets_of_its_runtime(self, serve: Serve, other: Runtime) -> None:
        client = serve(runtime=other).connect()
        with pytest.raises(NoSocket):
            default_runtime.send(client.id, "default")
        other.send(client.id, "other")
        gets(client, "other")

    def test_channels_of_the_same_name_are_separate(self, serve: Serve, other: Runtime) -> None:
        first, second = serve().connect(), serve(runtime=other).connect()
        for found in (*sockets(), *other.sockets()):
            assert found.subscribe("room")
        other.broadcast_channel("second", "room")
        gets(first)
        gets(second, "second")

    def test_sockets_and_stats_count_those_of_the_runtime(
        self, serve: Serve, other: Runtime
    ) -> None:
        client = serve(runtime=other).connect()
        assert [found.session_id for found in other.sockets()] == [client.id]
        assert sockets() == []
        assert other.get_stats().sessions["websocket"] == 1
        assert default_runtime.get_stats().sessions["websocket"] == 0

    def test_limits_of_messages_are_those_of_the_runtime(
        self, serve: Serve, other: Runtime
    ) -> None:
        serve(outbox_bytes=2048, runtime=other).connect()
        serve().connect()
        with pytest.raises(ValueError, match="exceeds the limit of 2048 bytes"):
            other.broadcast("x" * 4096)
        broadcast("x" * 4096)

    def test_of_returns_the_runtime_of_a_socket(self, serve: Serve, other: Runtime) -> None:
        found: list[Runtime] = []

        def connected(request: Any, socket: Any, context: Any) -> None:
            found.append(Runtime.of(socket))

        events.on_connect(connected)
        other.events.on_connect(connected)
        client = serve().connect()
        serve(runtime=other).connect()
        assert found == [default_runtime, other]
        (socket,) = sockets()
        client.vanish()
        assert Runtime.of(socket) is default_runtime

    @pytest.mark.parametrize("value", [None, "session id", Runtime()])
    def test_of_another_type_raises_caller_error(self, value: Any) -> None:
        with pytest.raises(CallerError, match=f"a socket is required, not {type(value).__name__}"):
            Runtime.of(value)

    def test_servers_of_one_runtime_share_sockets(self, serve: Serve, other: Runtime) -> None:
        first, second = serve(runtime=other).connect(), serve(runtime=other).connect()
        other.broadcast("both")
        gets(first, "both")
        gets(second, "both")


class TestHandlers:
    def test_handlers_receive_only_events_of_their_runtime(
        self, serve: Serve, other: Runtime, journal: Journal
    ) -> None:
        @on_message
        def message(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(("default", message))

        @other.events.on_message
        def other_message(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(("other", message))

        first, second = serve().connect(), serve(runtime=other).connect()
        first.call("message", "one")
        second.call("message", "two")
        assert journal == [("default", "one"), ("other", "two")]
        assert [handler.function for handler in events.registered_handlers()] == [message]

    def test_signals_are_sent_only_for_sockets_of_their_runtime(
        self, serve: Serve, other: Runtime, stages: Journal
    ) -> None:
        seen: list[str] = []
        other.signals.connect.connect(lambda sender, **extra: seen.append(sender.session_id))
        client = serve(runtime=other).connect()
        assert (seen, stages) == ([client.id], [])

    def test_exception_is_sent_to_the_error_signal_of_the_runtime(
        self, serve: Serve, other: Runtime, stages: Journal
    ) -> None:
        failures: list[str] = []

        @other.events.on_message
        def fail(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise OSError("disk full")

        @other.events.on_error
        def failed(request: Any, socket: Any, context: Any, exception: BaseException) -> None:
            failures.append(str(exception))

        serve(runtime=other).connect().call("message", "hello")
        assert (failures, stages) == (["disk full"], [])

    def test_module_names_are_those_of_the_default_runtime(self) -> None:
        assert signals.message is default_runtime.signals.message
        assert signals.STAGES is default_runtime.signals.stages
        assert events.on_message is default_runtime.events.on_message


class TestPlugins:
    def test_plugin_is_installed_once_in_each_runtime(
        self, serve: Serve, other: Runtime, plugin: Callable[..., str]
    ) -> None:
        calls: list[tuple[str, int, Runtime]] = []

        def install(settings: Any, runtime: Runtime) -> None:
            calls.append(("install", settings.max_channels, runtime))

        def uninstall(runtime: Runtime) -> None:
            calls.append(("uninstall", 0, runtime))

        name = plugin(install=install, uninstall=uninstall)
        sites = [
            serve(plugins=[name], max_channels=1),
            serve(plugins=[name], max_channels=2, runtime=other),
            serve(plugins=[name], max_channels=3, runtime=other),
        ]
        for site in sites:
            site.server.stop()
        assert calls == [
            ("install", 1, default_runtime),
            ("install", 2, other),
            ("uninstall", 0, default_runtime),
            ("uninstall", 0, other),
        ]

    def test_plugin_without_runtime_is_rejected_by_another_runtime(
        self, serve: Serve, other: Runtime, plugin: Callable[..., str]
    ) -> None:
        name = plugin(install=lambda settings: None)
        serve(plugins=[name])
        with pytest.raises(PluginError, match="serves the default runtime only"):
            serve(plugins=[name], runtime=other)


class TestServer:
    def test_servers_of_one_runtime_must_share_the_backplane(
        self, serve: Serve, other: Runtime
    ) -> None:
        serve()
        url = "redis://127.0.0.1:1"
        with pytest.raises(ConfigurationError, match=r"runtime=Runtime\(\)"):
            serve(backplane=url)
        serve(backplane=url, runtime=other)

    def test_runtimes_serve_in_different_threads(self, serve: Serve, other: Runtime) -> None:
        first = serve().connect()
        loop = gevent.get_hub().loop
        started = gevent.event.AsyncResult()

        def run() -> None:
            site = Site((), {}, runtime=other)
            is_stopping = gevent.event.Event()
            stop = functools.partial(gevent.get_hub().loop.run_callback_threadsafe, is_stopping.set)
            loop.run_callback_threadsafe(started.set, (site, stop))
            is_stopping.wait()
            site.server.stop()
            gevent.get_hub().destroy(destroy_loop=True)

        thread = gevent.get_hub().threadpool.spawn(run)
        site, stop = started.get()
        second = site.connect()
        broadcast("first")
        other.broadcast("second")
        gets(first, "first")
        gets(second, "second")
        stop()
        thread.get()

    def test_runtime_of_another_type_is_rejected(self, serve: Serve) -> None:
        with pytest.raises(SettingsError, match="runtime must be a Runtime, not str"):
            serve(runtime="other")
