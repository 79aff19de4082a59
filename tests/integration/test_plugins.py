"""Plugins: imported by name, installed when a server starts, uninstalled when it stops."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import web

from tests.conftest import Journal, Site
from webpy_socketio import (
    ConfigurationError,
    PluginError,
    Runtime,
    SettingsError,
    SocketIOServer,
    plugins,
    signals,
    sockets,
)
from webpy_socketio.plugins import admin, message_logger, metrics, presence, rate_limit

JOURNAL = """
from webpy_socketio import signals

calls = []

def receive(sender, message, **extra):
    calls.append(("message", message))

def install(settings):
    calls.append(("install", settings.ping_interval))
    signals.message.connect(receive)

def uninstall():
    calls.append(("uninstall",))
    signals.message.disconnect(receive)
"""

DECORATED = """
from webpy_socketio import on_message

@on_message
def answer(request, socket, context, message):
    return "from the plugin"
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write a module that can be imported; it is removed afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def wsgi() -> Any:
    return web.application((), {}, autoreload=False).wsgifunc()


Write = Callable[[str, str], None]


class TestLoading:
    def test_plugin_of_the_application_is_installed_like_a_bundled_one(
        self, write: Write, serve: Callable[..., Site]
    ) -> None:
        write("shop_plugin", JOURNAL)
        site = serve(plugins=["shop_plugin"], ping_interval=7)
        calls = importlib.import_module("shop_plugin").calls
        assert calls == [("install", 7)]
        site.connect().emit_and_wait("message", "hello")
        site.server.stop()
        assert calls == [("install", 7), ("message", "hello"), ("uninstall",)]
        assert not signals.message.receivers

    def test_exception_in_uninstall_is_logged_and_stops_no_other_plugin(
        self, write: Write, wsgi: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        write("first_plugin", JOURNAL)
        write("broken_plugin", "def uninstall(): raise OSError('the disk is full')\n")
        server = SocketIOServer(
            ("127.0.0.1", 0), wsgi, plugins=["first_plugin", "broken_plugin"], log=None
        )
        server.start()
        server.stop()
        server.stop()  # which would wait for the first one
        assert importlib.import_module("first_plugin").calls[-1] == ("uninstall",)
        (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
        assert record.getMessage() == "uninstalling the plugin 'broken_plugin' failed"
        assert "the disk is full" in caplog.text

    def test_plugin_without_install_is_imported(
        self, write: Write, serve: Callable[..., Site]
    ) -> None:
        write("decorating_plugin", DECORATED)
        site = serve(plugins=["decorating_plugin"])
        assert site.connect().call("message") == ["from the plugin"]

    def test_plugin_named_twice_is_installed_once(
        self, write: Write, serve: Callable[..., Site]
    ) -> None:
        write("shop_plugin", JOURNAL)
        serve(plugins=["shop_plugin", "shop_plugin"])
        assert len(importlib.import_module("shop_plugin").calls) == 1

    def test_plugins_are_installed_in_order_and_uninstalled_in_reverse(
        self, write: Write, serve: Callable[..., Site]
    ) -> None:
        write("log_of_plugins", "calls = []")
        for name in ("first_plugin", "second_plugin"):
            write(
                name,
                "from log_of_plugins import calls\n"
                "def install(settings): calls.append(('on', __name__))\n"
                "def uninstall(): calls.append(('off', __name__))\n",
            )
        serve(plugins=["second_plugin", "first_plugin"]).server.stop()
        assert importlib.import_module("log_of_plugins").calls == [
            ("on", "second_plugin"),
            ("on", "first_plugin"),
            ("off", "first_plugin"),
            ("off", "second_plugin"),
        ]

    def test_default_plugin_is_the_message_logger(self, wsgi: Any) -> None:
        server = SocketIOServer(("127.0.0.1", 0), wsgi, log=None)
        server.start()
        try:
            (receiver,) = signals.message.receivers_for(None)
            assert receiver.__module__ == message_logger.__name__
        finally:
            server.stop()
        assert not signals.message.receivers

    def test_server_runs_without_plugins(self, serve: Callable[..., Site]) -> None:
        site = serve(plugins=[])
        assert site.connect().call("__subscribe__", "room") == [{"ok": True}]
        assert not any(stage.receivers for stage in signals.STAGES)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("webpy_socketio.plugins.mesage_logger", "webpy_socketio.plugins.message_logger"),
            ("webpy_socketio.plugins.precense", "webpy_socketio.plugins.presence"),
            ("presence", "webpy_socketio.plugins.presence"),
            ("message_logger", "webpy_socketio.plugins.message_logger"),
        ],
    )
    def test_unknown_plugin_with_similar_name_suggests_it(
        self, name: str, near: str, wsgi: Any
    ) -> None:
        with pytest.raises(PluginError, match=repr(near)) as caught:
            SocketIOServer(("127.0.0.1", 0), wsgi, plugins=[name])
        assert repr(name) in str(caught.value)
        assert "SOCKETIO_PLUGINS" in str(caught.value)
        assert isinstance(caught.value, ConfigurationError)

    def test_unknown_plugin_without_similar_name_raises_plugin_error(self, wsgi: Any) -> None:
        with pytest.raises(PluginError, match="no_such_thing_at_all") as caught:
            SocketIOServer(("127.0.0.1", 0), wsgi, plugins=["no_such_thing_at_all"])
        assert "did you mean" not in str(caught.value)

    def test_plugin_with_missing_import_names_the_module(self, write: Write, wsgi: Any) -> None:
        write("needy_plugin", "import no_such_library")
        with pytest.raises(PluginError, match=r"needy_plugin.*no_such_library"):
            SocketIOServer(("127.0.0.1", 0), wsgi, plugins=["needy_plugin"])

    def test_exception_in_install_raises_plugin_error_with_its_name(
        self, write: Write, wsgi: Any
    ) -> None:
        write("shop_plugin", JOURNAL)
        write("broken_plugin", "def install(settings):\n    raise KeyError('the database')\n")
        server = SocketIOServer(("127.0.0.1", 0), wsgi, plugins=["shop_plugin", "broken_plugin"])
        with pytest.raises(PluginError, match=r"broken_plugin.*the database"):
            server.start()
        # The plugin that was installed before is uninstalled.
        assert importlib.import_module("shop_plugin").calls[-1] == ("uninstall",)
        assert not server.started

    def test_configuration_error_in_install_is_raised_unchanged(self, wsgi: Any) -> None:
        server = SocketIOServer(
            ("127.0.0.1", 0),
            wsgi,
            plugins=["webpy_socketio.plugins.message_logger"],
            message_log_format="%(TIME)",
        )
        with pytest.raises(SettingsError, match="SOCKETIO_MESSAGE_LOG_FORMAT"):
            server.start()


NAMESPACED = """
import web

from webpy_socketio import Refused

calls = []

class Room:
    def connect(self, connection):
        calls.append(("web", dict(web.ctx.__dict__)))
        if connection.auth == {"name": "Eve"}:
            raise Refused("not you")
        if connection.auth == {"name": "Bug"}:
            raise KeyError("the details")
        connection.accept()

    def event(self, connection, name, args, ack):
        calls.append((name, args))
        if name == "bug":
            raise KeyError("the details")
        connection.emit("echo", *args)
        connection.acknowledge(ack, ("done",))

    def closing(self, connection):
        calls.append("closing")

    def disconnected(self, connection, reason):
        calls.append(reason)

    def failed(self, connection, error):
        calls.append("failed")

def namespaces(settings):
    return {settings.message_log_format: Room()}
"""


class TestNamespaces:
    """Namespaces of plugins, whose clients are separate from those of the application."""

    @pytest.fixture
    def site(self, write: Write, serve: Callable[..., Site]) -> Site:
        write("room_plugin", NAMESPACED)
        return serve(plugins=["room_plugin"], message_log_format="/room")

    @pytest.fixture
    def calls(self, site: Site) -> Any:
        return importlib.import_module("room_plugin").calls

    def test_plugin_namespace_events_reach_the_plugin_only(
        self, site: Site, calls: Any, stages: Journal
    ) -> None:
        client = site.websocket()
        client.connect(namespace="/room,")
        client.send('42/room,1["__subscribe__","here"]')
        assert client.receive() == '42/room,["echo","here"]'
        assert client.receive() == '43/room,1["done"]'
        client.send("41/room,")
        client.send("40")  # handled after it
        client.receive()
        client.barrier()
        assert calls == [
            ("web", {}),
            ("__subscribe__", ["here"]),
            "closing",
            "client namespace disconnect",
        ]
        assert {name for name, _ in stages} == {"connecting", "connect"}
        assert [socket.namespace for socket in sockets()] == ["/"]

    def test_plugin_namespace_handler_has_no_web_ctx_of_others(
        self, site: Site, calls: Any
    ) -> None:
        visitor = site.connect(Cookie="session=1")
        visitor.barrier()  # runs in a reused greenlet
        client = site.websocket()
        client.connect(namespace="/room,")
        assert calls == [("web", {})]

    def test_plugin_namespace_rejects_with_reason_and_hides_exceptions(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = site.websocket()
        client.send('40/room,{"name":"Eve"}')
        assert client.receive() == '44/room,{"message":"not you"}'
        client.send('40/room,{"name":"Bug"}')
        assert client.receive() == '44/room,{"message":"not allowed"}'
        client.connect(namespace="/room,")
        client.send('42/room,1["bug"]')
        assert client.receive() == '43/room,1[{"error":"internal error"}]'
        assert caplog.text.count("the plugin of the namespace /room failed") == 2

    def test_plugin_namespace_exists_only_on_servers_with_the_plugin(
        self, site: Site, serve: Callable[..., Site]
    ) -> None:
        other = serve().websocket()
        other.send("40/room,")
        assert other.receive() == '44/room,{"message":"Invalid namespace"}'

    def test_plugin_namespace_that_exists_raises_plugin_error(
        self, write: Write, wsgi: Any
    ) -> None:
        write("room_plugin", NAMESPACED)
        with pytest.raises(PluginError, match=r"room_plugin.*'/'.*SOCKETIO_NAMESPACES"):
            SocketIOServer(("127.0.0.1", 0), wsgi, plugins=["room_plugin"], message_log_format="/")

    def test_exception_in_namespaces_raises_plugin_error_at_start(
        self, write: Write, wsgi: Any
    ) -> None:
        write("broken_plugin", "def namespaces(settings):\n    raise KeyError('the database')\n")
        with pytest.raises(PluginError, match=r"broken_plugin.*the database"):
            SocketIOServer(("127.0.0.1", 0), wsgi, plugins=["broken_plugin"])


class TestBundled:
    @pytest.mark.parametrize("plugin", [admin, message_logger, metrics, presence, rate_limit])
    def test_bundled_plugins_have_the_documented_functions(self, plugin: Any) -> None:
        assert callable(plugin.install)
        assert callable(plugin.uninstall)
        plugin.uninstall(Runtime())  # without install
        assert f"`{plugin.__name__}`" in (plugins.__doc__ or "")


class TestTwoServers:
    def test_plugin_of_two_servers_is_uninstalled_with_the_last(
        self, serve: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "counted.py").write_text(
            "calls = []\n"
            "def install(settings): calls.append('install')\n"
            "def uninstall(): calls.append('uninstall')\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        first, second = serve(plugins=["counted"]), serve(plugins=["counted"])
        calls = importlib.import_module("counted").calls
        first.server.stop()
        assert calls == ["install"]
        second.server.stop()
        assert calls == ["install", "uninstall"]
