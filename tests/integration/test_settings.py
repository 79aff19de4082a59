"""Tests of the settings: sources and their precedence, validation, effects."""

from __future__ import annotations

import dataclasses
import http.client
import inspect
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import gevent.pywsgi
import gevent.ssl
import pytest
import web

from tests.conftest import Site
from webpy_socketio import (
    ConfigurationError,
    SettingsError,
    SocketIOServer,
    configure,
    configured,
)
from webpy_socketio.config.keywords import PyWSGIKeywords, ServerKeywords, SettingKeywords
from webpy_socketio.config.settings import SETTINGS, Settings
from webpy_socketio.config.sources import SettingsSources
from webpy_socketio.engine import EngineConfig
from webpy_socketio.runtime import default_runtime

resolve = default_runtime.sources.resolve

#: Hash of the password "changeit".
HASH = "$scrypt$ln=4,r=8,p=5$c2FsdCBvZiBhIHRlc3QhIQ$d/Cy/Ro0JZLfjLUUwcKYBHjJZmEyRAPDcWZ9zJXEqPs"

#: The documented defaults by name, without prefix.
DEFAULTS: dict[str, Any] = {
    "HOST": "127.0.0.1",
    "PORT": 8000,
    "PLUGINS": ["webpy_socketio.plugins.message_logger"],
    "MESSAGE_LOG_FORMAT": '%(REMOTE_ADDR)s - - [%(TIME)s] "Socket.IO %(TYPE)s: %(MESSAGE)s"',
    "TRANSPORTS": ["polling", "websocket"],
    "PING_INTERVAL": 25,
    "PING_TIMEOUT": 20,
    "UPGRADE_TIMEOUT": 10,
    "CONNECT_TIMEOUT": 45,
    "DRAIN_TIME": 3,
    "DRAIN_DELAY": 0.0,
    "HEALTH": False,
    "RECOVERY_TIME": 0,
    "RECOVERY_MESSAGES": 10_000,
    "RECOVERY_BYTES": 16 * 1024 * 1024,
    "RECOVERY_SKIP_GATES": False,
    "COMPRESSION": False,
    "PARSER": "json",
    "MAX_MESSAGE_SIZE": 1_000_000,
    "OUTBOX_BYTES": 4 * 1024 * 1024,
    "OUTBOX_PACKETS": 16_384,
    "WRITE_TIMEOUT": 20,
    "INBOX_EVENTS": 256,
    "MAX_NAMESPACES": 32,
    "MAX_SESSIONS": 20_000,
    "MAX_SESSIONS_PER_ADDRESS": None,
    "MAX_CONNECTIONS_PER_ADDRESS": None,
    "MAX_BODIES_SIZE": 256 * 1024 * 1024,
    "HEADER_TIMEOUT": 10,
    "BODY_TIMEOUT": 20,
    "IDLE_TIMEOUT": 75,
    "MAX_BODY_SIZE": 16 * 1024 * 1024,
    "BLOCK_WARNING": 1.0,
    "MAX_CHANNELS": 128,
    "MAX_CHANNEL_LENGTH": 255,
    "NAMESPACES": ["/"],
    "ALLOWED_ORIGINS": None,
    "TRUSTED_PROXIES": [],
    "ALLOWED_HOSTS": None,
    "PATH_PREFIX": "",
    "WORKER_TIMEOUT": 30,
    "MACHINE": "",
    "BACKPLANE": None,
    "BACKPLANE_PREFIX": "webpy_socketio",
    "PRESENCE_KEY": None,
    "PRESENCE_META": None,
    "PRESENCE_GRACE": 10,
    "HISTORY": None,
    "HISTORY_BYTES": 1_048_576,
    "HISTORY_TOTAL_BYTES": 67_108_864,
    "HISTORY_CHANNELS": 10_000,
    "METRICS_PORT": None,
    "METRICS_HOST": "127.0.0.1",
    "METRICS_REGISTRY": None,
    "OTEL_TRACER_PROVIDER": None,
    "RATE_LIMIT_MESSAGES": (20, 60),
    "RATE_LIMIT_SUBSCRIPTIONS": (5, 200),
    "RATE_LIMIT_KEY": None,
    "RATE_LIMIT_KEY_MESSAGES": (100, 300),
    "RATE_LIMIT_KEY_SUBSCRIPTIONS": (25, 1000),
    "RATE_LIMIT_KEY_CONNECTIONS": (2, 60),
    "RATE_LIMIT_REFUSALS": (1, 100),
    "RATE_LIMIT_PACKETS": (50, 200),
    "ADMIN_USERNAME": None,
    "ADMIN_PASSWORD": None,
    "ADMIN_READONLY": True,
    "ADMIN_MODE": "development",
}


def from_keywords(name: str, value: Any) -> Settings:
    return resolve({name.lower(): value}, {})


def from_web_config(name: str, value: Any) -> Settings:
    return resolve({}, {f"SOCKETIO_{name}": value})


def from_configure(name: str, value: Any) -> Settings:
    configure({f"SOCKETIO_{name}": value})
    return resolve({}, {})


SOURCES = (from_keywords, from_web_config, from_configure)


class TestDefaults:
    def test_defaults_match_the_documentation(self) -> None:
        assert {setting.name: setting.default for setting in SETTINGS} == DEFAULTS
        settings = resolve({}, {})
        assert {name: getattr(settings, name.lower()) for name in DEFAULTS} == DEFAULTS

    def test_every_default_is_valid_and_documented(self) -> None:
        for setting in SETTINGS:
            assert setting.check(setting.default) is None
            assert setting.doc

    def test_server_without_settings_uses_the_defaults(self, site: Site) -> None:
        opened = site.websocket().open
        assert {name: value for name, value in opened.items() if name != "sid"} == {
            "upgrades": [],
            "pingInterval": 25_000,
            "pingTimeout": 20_000,
            "maxPayload": 1_000_000,
        }
        config = site.server.engine.config
        assert (config.upgrade_timeout, config.connect_timeout) == (10, 45)
        assert (config.outbox_bytes, config.outbox_packets) == (4 * 1024 * 1024, 16_384)
        assert (config.write_timeout, config.inbox_events) == (20, 256)
        assert config.allowed_origins is None
        assert (tuple(config.trusted_proxies), config.allowed_hosts) == ((), None)

    def test_engine_without_settings_has_the_same_defaults(self) -> None:
        config = EngineConfig()
        names = [each.name.upper() for each in dataclasses.fields(config)]
        assert {name: getattr(config, name.lower()) for name in names} == {
            name: DEFAULTS[name] for name in names
        }


class TestObject:
    """The object that `resolve` returns."""

    def test_unknown_attribute_raises_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="there is no setting SOCKETIO_PORTS"):
            _ = resolve({}, {}).ports

    def test_setting_cannot_be_changed(self) -> None:
        settings: Any = resolve({}, {})
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.port = 80

    def test_list_changed_after_resolve_has_no_effect(self) -> None:
        namespaces = ["/"]
        settings = resolve({"namespaces": namespaces}, {})
        namespaces.append("/chat")
        assert settings.namespaces == ["/"]

    def test_default_list_is_not_shared(self) -> None:
        assert resolve({}, {}).plugins is not resolve({}, {}).plugins

    def test_repr_shows_all_settings_except_passwords(self) -> None:
        text = repr(resolve({"backplane": "redis://:secret@localhost", "admin_password": HASH}, {}))
        assert "backplane=...," in text
        assert "admin_password=...," in text
        assert "port=8000," in text
        assert "admin_username=None," in text
        assert "secret" not in text
        assert HASH not in text


class TestKeywords:
    """The keywords for type checkers are those that the server accepts."""

    def test_names_and_types_match_the_settings(self) -> None:
        assert get_type_hints(SettingKeywords) == {
            setting.name.lower(): setting.type for setting in SETTINGS
        }

    def test_all_keywords_are_optional(self) -> None:
        assert not ServerKeywords.__required_keys__

    def test_pywsgi_keywords_are_those_of_gevent(self) -> None:
        own = {"self", "listener", "application", "ssl_args"}
        pywsgi = set(inspect.signature(gevent.pywsgi.WSGIServer.__init__).parameters) - own
        tls = inspect.signature(gevent.ssl.SSLSocket.__init__).parameters
        assert pywsgi <= PyWSGIKeywords.__optional_keys__
        assert PyWSGIKeywords.__optional_keys__ - pywsgi <= {*tls, "ssl_context"}

    def test_server_keywords_are_those_of_settings_and_pywsgi(self) -> None:
        assert ServerKeywords.__optional_keys__ == (
            SettingKeywords.__optional_keys__ | PyWSGIKeywords.__optional_keys__
        )


class TestSources:
    @pytest.mark.parametrize("source", SOURCES)
    def test_every_source_is_read(self, source: Callable[[str, Any], Settings]) -> None:
        assert source("PORT", 1234).port == 1234

    def test_sources_have_precedence(self) -> None:
        assert resolve({}, {"SOCKETIO_PORT": 1}).port == 1
        configure({"SOCKETIO_PORT": 2})
        assert resolve({}, {"SOCKETIO_PORT": 1}).port == 2
        assert resolve({"port": 3}, {"SOCKETIO_PORT": 1}).port == 3
        assert resolve({}, {"SOCKETIO_HOST": "::1"}).host == "::1"  # other settings are kept
        assert resolve({"port": 3}, {}).host == "127.0.0.1"

    def test_value_equal_to_the_default_has_precedence(self) -> None:
        configure({"SOCKETIO_MESSAGE_LOG_FORMAT": None})
        assert (
            resolve({}, {"SOCKETIO_MESSAGE_LOG_FORMAT": "%(MESSAGE)s"}).message_log_format is None
        )

    def test_server_reads_web_config(self, serve: Callable[..., Site]) -> None:
        web.config.SOCKETIO_PING_INTERVAL = 5
        assert serve().websocket().open["pingInterval"] == 5000
        assert serve(ping_interval=6).websocket().open["pingInterval"] == 6000

    def test_names_without_prefix_in_a_mapping_are_ignored(self) -> None:
        configure(
            {"DEBUG": True, "SOCKET_PORT": 5, "MY_SOCKETIO_PORT": 5, "__name__": "x", "so": 1}
        )
        assert resolve({}, {"debug": True, "port": 5}).port == 8000

    def test_names_without_prefix_in_a_module_are_ignored(self) -> None:
        module = ModuleType("settings")
        vars(module).update(PORT=5, HOST="x", socketio_urls=(), SOCKET_HOST="x", Socket=None)
        configure(module)
        assert resolve({}, vars(module)).port == 8000

    @pytest.mark.parametrize(
        "name",
        [
            *("SOCKETO_PORT", "SOCKET_IO_PORT", "SOCKETI0_PORT", "SOKETIO_PORT", "socketio_port"),
            *("SOCKETIO_PORTS", "SocketIO_PORT", "SOCKETIOPORT"),
        ],
    )
    def test_misspelt_prefix_is_rejected(self, name: str) -> None:
        module = ModuleType("settings")
        vars(module)[name] = 5
        for take in (
            lambda: configure({name: 5}),
            lambda: configure(module),
            lambda: resolve({}, {name: 5}),
        ):
            with pytest.raises(SettingsError, match="did you mean SOCKETIO_PORT"):
                take()

    @pytest.mark.parametrize("name", ["port", "PORT"])
    def test_setting_without_prefix_in_a_mapping_is_rejected(self, name: str) -> None:
        with pytest.raises(
            SettingsError, match=rf"configure\(\): {name} .* did you mean SOCKETIO_PORT"
        ):
            configure({name: 5})
        assert resolve({}, {}).port == 8000

    def test_rejected_configure_keeps_the_previous_settings(self) -> None:
        configure({"SOCKETIO_PORT": 8001})
        for wrong in ({"SOCKETIO_PORT": 8002, "PORT": 1}, {"SOCKETO_HOST": "", "SOCKETIO_PORT": 1}):
            with pytest.raises(SettingsError):
                configure(wrong)
        assert resolve({}, {}).port == 8001


class TestConfigure:
    def test_configure_with_a_module_name_imports_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "my_settings.py").write_text("SOCKETIO_PORT = 1234\nDEBUG = True\n")
        monkeypatch.syspath_prepend(tmp_path)
        configure("my_settings")
        monkeypatch.delitem(sys.modules, "my_settings")
        assert resolve({}, {}).port == 1234

    def test_configure_with_a_module_reads_it(self) -> None:
        module = ModuleType("settings")
        vars(module)["SOCKETIO_PORT"] = 1234
        configure(module)
        assert resolve({}, {}).port == 1234

    def test_configure_with_a_mapping_reads_it(self) -> None:
        configure({"SOCKETIO_PORT": 1234})
        assert resolve({}, {}).port == 1234

    def test_configured_without_a_server_returns_settings(self) -> None:
        web.config.SOCKETIO_PORT = 7000
        configure({"SOCKETIO_HOST": "localhost"})
        found = configured()
        assert (found.host, found.port, found.ping_interval) == ("localhost", 7000, 25)
        web.config.SOCKETIO_PORT = "7000"
        with pytest.raises(SettingsError, match="SOCKETIO_PORT"):
            configured()

    def test_configure_again_replaces_all_settings(self) -> None:
        configure({"SOCKETIO_PORT": 1234, "SOCKETIO_HOST": "::1"})
        configure({"SOCKETIO_PORT": 4321})
        settings = resolve({}, {})
        assert (settings.port, settings.host) == (4321, "127.0.0.1")

    def test_configure_with_an_invalid_value_keeps_the_previous_settings(self) -> None:
        configure({"SOCKETIO_PORT": 1234})
        with pytest.raises(SettingsError):
            configure({"SOCKETIO_PORT": "many"})
        assert resolve({}, {}).port == 1234

    def test_sources_are_independent(self) -> None:
        mine, others = SettingsSources(), SettingsSources()
        mine.configure({"SOCKETIO_PORT": 1234, "SOCKETIO_BACKPLANE": "redis://mine"})
        assert (mine.resolve({}, {}).port, others.resolve({}, {}).port) == (1234, 8000)
        assert resolve({}, {}).port == 8000
        assert mine.backplane({}) == ("redis://mine", "webpy_socketio")
        assert others.backplane({}) == (None, "webpy_socketio")
        assert [one.name for one in mine.given({})] == ["SOCKETIO_PORT", "SOCKETIO_BACKPLANE"]
        assert others.given({}) == []
        assert mine.changed({}, {}) == ["SOCKETIO_BACKPLANE", "SOCKETIO_PORT"]
        mine.reset()
        assert mine.resolve({}, {}).port == 8000

    def test_configure_with_a_missing_module_raises(self) -> None:
        with pytest.raises(SettingsError, match="no_such_settings"):
            configure("no_such_settings")

    def test_error_names_the_module(self) -> None:
        module = ModuleType("shop.settings")
        vars(module)["SOCKETIO_PROT"] = 1234
        with pytest.raises(SettingsError, match=r"shop\.settings: .*SOCKETIO_PROT"):
            configure(module)

    def test_server_uses_configured_settings(self, serve: Callable[..., Site]) -> None:
        configure({"SOCKETIO_PING_TIMEOUT": 3})
        assert serve().websocket().open["pingTimeout"] == 3000


class TestUnknown:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("SOCKETIO_PROT", "SOCKETIO_PORT"),
            ("SOCKETIO_PLUGIN", "SOCKETIO_PLUGINS"),
            ("SOCKETIO_PING_INTERVALL", "SOCKETIO_PING_INTERVAL"),
            ("SOCKETIO_MESSAGE_LOG", "SOCKETIO_MESSAGE_LOG_FORMAT"),
        ],
    )
    def test_misspelt_name_suggests_the_most_similar_one(self, name: str, near: str) -> None:
        for refuse in (
            lambda: configure({name: 1}),
            lambda: resolve({}, {name: 1}),
        ):
            with pytest.raises(SettingsError) as caught:
                refuse()
            assert f"there is no setting {name}; did you mean {near}?" in str(caught.value)

    def test_name_without_similar_setting_has_no_suggestion(self) -> None:
        with pytest.raises(SettingsError) as caught:
            configure({"SOCKETIO_ZZZZ": 1})
        assert "did you mean" not in str(caught.value)

    def test_unknown_setting_prevents_the_server_from_starting(self) -> None:
        web.config.SOCKETIO_PROT = 1
        app = web.application((), {}, autoreload=False)
        with pytest.raises(SettingsError, match=r"web\.config: .*SOCKETIO_PROT"):
            SocketIOServer(("127.0.0.1", 0), app.wsgifunc())

    def test_settings_error_is_a_configuration_and_value_error(self) -> None:
        assert issubclass(SettingsError, (ConfigurationError, ValueError))


def some_function(request: Any, socket: Any, context: Any) -> str:
    return "key"


SECONDS = (
    [0.001, 1, 25.5, 86_399],
    [0, -1, "5", None, True, float("nan"), float("inf"), 86_400, [1]],
)


#: Valid and invalid values of durations that Socket.IO on Node.js has in milliseconds.
SHORT_DURATIONS = ([0.001, 1, 25.5, 3600], [0, "5", None, True, float("nan"), 3601, 10_000, 25_000])


RATES: tuple[list[Any], list[Any]] = (
    [None, (1, 1), [0.5, 10], (1_000_000, 1_000_000), (0.001, 86)],
    [
        *(5, "5", (), (5,), (5, 10, 15), (0, 5), (-1, 5), (5, 0), (5, 1.5), (True, 5), (5, True)),
        *(("5", 5), (float("inf"), 5), (float("nan"), 5), (0.001, 87), {5: 10}, (5, None), False),
    ],
)


class Provider:
    """A tracer provider, as the validator checks it."""

    def get_tracer(self) -> None: ...


class Registry:
    """The methods of a registry that the validator requires."""

    def register(self) -> None: ...

    def unregister(self) -> None: ...

    def collect(self) -> None: ...


def integers(least: int) -> tuple[list[Any], list[Any]]:
    return [least, least + 1, 100_000], [least - 1, -1, 1.5, "5", None, True, 2**31 + 1]


#: Valid and invalid values of each setting.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "HOST": (["", "0.0.0.0", "::", "localhost"], [None, 5, b"localhost", ["localhost"]]),
    "PORT": ([0, 80, 65_535], [-1, 65_536, "8000", 80.0, None, True]),
    "PLUGINS": ([[], ["a"], ("a.b", "c")], ["a", None, [1], {"a": 1}, 5]),
    "MESSAGE_LOG_FORMAT": ([None, "", "%(MESSAGE)s"], [5, b"x", ["x"]]),
    "TRANSPORTS": (
        [["polling"], ["websocket"], ("websocket", "polling")],
        [[], "polling", ["flash"], ["polling", "xhr"], None, [1]],
    ),
    "PING_INTERVAL": SHORT_DURATIONS,
    "PING_TIMEOUT": SHORT_DURATIONS,
    "UPGRADE_TIMEOUT": SHORT_DURATIONS,
    "CONNECT_TIMEOUT": SHORT_DURATIONS,
    "WRITE_TIMEOUT": SECONDS,
    "MAX_MESSAGE_SIZE": integers(1),
    "COMPRESSION": ([True, False], [None, 0, 1, "yes"]),
    "OUTBOX_BYTES": integers(1024),
    "OUTBOX_PACKETS": integers(16),
    "INBOX_EVENTS": integers(1),
    "MAX_NAMESPACES": integers(1),
    "MAX_SESSIONS": integers(1),
    "MAX_SESSIONS_PER_ADDRESS": ([None, 1, 10**6], [0, -1, 1.5, "5", True]),
    "MAX_CONNECTIONS_PER_ADDRESS": ([None, 1, 10**6], [0, -1, 1.5, "5", True]),
    "MAX_BODIES_SIZE": integers(1),
    "HEADER_TIMEOUT": SECONDS,
    "BODY_TIMEOUT": SECONDS,
    "IDLE_TIMEOUT": SECONDS,
    "MAX_BODY_SIZE": integers(0),
    "MAX_CHANNELS": integers(0),
    "MAX_CHANNEL_LENGTH": integers(1),
    "NAMESPACES": (
        [["/"], ["/", "/chat"], ("/čaj",), ["/", re.compile("/a-[0-9]+$")], [re.compile("/a$")]],
        [
            *([], "/", ["chat"], ["/a,b"], ["/a?b"], [""], None, [1], re.compile("/a$")),
            *([re.compile("/a-")], [re.compile("/a|/b$")], [re.compile(b"/a$")], ["^/a$"]),
        ],
    ),
    "PARSER": (["json", "msgpack"], ["JSON", "", None, 1, ["msgpack"]]),
    "ALLOWED_ORIGINS": (
        [
            *(None, [], ["*"], ["https://example.com", "http://localhost:8080"], ["app://shop:1"]),
            *(["capacitor://localhost", "ionic://localhost", "tauri://localhost", "app://-"],),
            *(["chrome-extension://abc", "moz-extension://0-1", "file://", "null"], ["app://"]),
            *(["wss://example.com", "ws://[::1]:8000"], ("HTTPS://Example.com",)),
        ],
        [
            *("*", "https://example.com", ["example.com"], ["https://example.com/"], ["NULL"]),
            *(["https://example.com/path"], ["https://example.com:port"], [None], 5, [""]),
            *(
                ["wss://"],
                ["https://*.example.com"],
                ["https://b\u00fccher.example"],
                ["http://[::g]"],
            ),
            *(
                ["https://a:65536"],
                ["https://a@b"],
                ["://a"],
                ["app://a/"],
                ["file:///"],
                ["file:"],
            ),
            *(["capacitor"], ["null "], ["file://:80"], ["https://a b"], ["data:,x"]),
        ],
    ),
    "TRUSTED_PROXIES": (
        [[], ["127.0.0.1"], ["10.0.0.0/8", "::1", "fd00::/8"], ["unix"], ("unix", "127.0.0.1")],
        [
            *("127.0.0.1", ["localhost"], ["10.0.0.0/33"], None, [1], ["300.1.1.1"]),
            *("unix", ["unix:"], ["UNIX"], ["unix:/run/chat.sock"], [""], ["*"]),
        ],
    ),
    "ALLOWED_HOSTS": (
        [
            *(None, ["*"], ["example.com"], ["*.example.com", "localhost:8000"], ("127.0.0.1",)),
            *(["[::1]", "[::1]:8000"], ["my_host", "xn--bcher-kva.example"]),
        ],
        [
            *([], "example.com", ["https://example.com"], ["example.com/"], ["a.*"], ["*a"], [""]),
            *(
                ["::1"],
                ["[::g]"],
                ["a:b"],
                ["a:65536"],
                ["b\u00fccher.example"],
                [None],
                5,
                ["a b"],
            ),
            *([".example.com"], ["*."], [":80"], ["a@b"], ["*.*.a"]),
        ],
    ),
    "BACKPLANE": (
        [
            *(None, "redis://localhost", "redis://:secret@[::1]:6379/3", "redis://me:secret@redis"),
            *("rediss://localhost?ssl_ca_certs=/ca.pem", "unix:///run/redis.sock?db=1"),
            *("redis+sentinel://a,b:1/main", "rediss+sentinel://a/main/2"),
        ],
        [
            *("", "redis://", "localhost:6379", "http://localhost", "rediss://localhost?a=b", 5),
            *("unix://run/redis", "redis://host/name", "redis://host:port", "redis://host:0", [1]),
            *("redis://host?ssl_ca_certs=a", "redis://host#1", "redis+sentinel://a,b:1"),
            b"redis://host",
        ],
    ),
    "PATH_PREFIX": (
        ["", "/a", "/a/b", "/café"],
        ["a", "/", "/a/", "//a", "/a?b", "/a%20b", "/a b", "/a#", "/a\n", None, 5],
    ),
    "WORKER_TIMEOUT": ([None, 0.5, 30], [0, -1, "30", True, 86_400]),
    "MACHINE": (["", "a", "web-1_B"], ["a.b", "a/b", "a b", "ž", "x" * 65, None, 5]),
    "BACKPLANE_PREFIX": (["chat", "a:b", "a.b-c_1"], ["", "a*", "a b", "a/b", "x" * 65, None, 5]),
    "PRESENCE_KEY": ([None, some_function], ["session_id", 5]),
    "PRESENCE_META": ([None, some_function], [{}, "meta"]),
    "BLOCK_WARNING": ([None, 0, 0.5, 10], [-1, "1", True, False, 86_400]),
    "RECOVERY_TIME": ([0, 0.5, 120], [-1, None, "10", True, 86_400]),
    "RECOVERY_MESSAGES": ([1, 100_000], [0, -1, None, 1.5, True]),
    "RECOVERY_BYTES": ([1024, 2**30], [0, 1023, None, 1e6]),
    "RECOVERY_SKIP_GATES": ([True, False], [None, 1, "yes"]),
    "DRAIN_TIME": ([0, 0.5, 10], [-1, None, "10", True, False, 86_400]),
    "DRAIN_DELAY": ([0, 0.5, 10], [-1, None, "10", True, False, 86_400]),
    "HEALTH": ([True, False], [None, 1, "/health"]),
    "HISTORY": (
        [
            None,
            {},
            {"^room-": {"size": 100, "ttl": 3600}, "x": {"size": 10_000, "ttl": 0.5}},
        ],
        [
            "^room-",
            ["^room-"],
            {"^room-": 5},
            {"^room-": {"size": 5}},
            {"^room-": {"size": 5, "ttl": 5, "more": 1}},
            {"^room-": {"size": 0, "ttl": 5}},
            {"^room-": {"size": 10_001, "ttl": 5}},
            {"^room-": {"size": 5, "ttl": 0}},
            {"^room-": {"size": 5, "ttl": True}},
            {"^room-": {"size": 5, "ttl": 31 * 86_400}},
            {"(": {"size": 5, "ttl": 5}},
            {5: {"size": 5, "ttl": 5}},
        ],
    ),
    "HISTORY_BYTES": ([1024, 2**20], [0, 1023, None, "1024"]),
    "HISTORY_TOTAL_BYTES": ([1024, 2**30], [0, 1023, None, "1024"]),
    "HISTORY_CHANNELS": ([1, 10_000], [0, -1, None, "1"]),
    "PRESENCE_GRACE": ([0, 0.5, 10], [-1, None, "10", True, False, 86_400]),
    "METRICS_PORT": ([None, 0, 9108, 65_535], [-1, 65_536, "9108", True, ("", 9108)]),
    "METRICS_HOST": (["", "127.0.0.1", "::1"], [None, 5, ["127.0.0.1"]]),
    "METRICS_REGISTRY": ([None, Registry()], ["REGISTRY", 5, {}, Registry]),
    "OTEL_TRACER_PROVIDER": ([None, Provider()], ["PROVIDER", 5, {}, Provider]),
    "RATE_LIMIT_MESSAGES": RATES,
    "RATE_LIMIT_SUBSCRIPTIONS": RATES,
    "RATE_LIMIT_KEY": ([None, some_function], ["REMOTE_ADDR", 5]),
    "RATE_LIMIT_KEY_MESSAGES": RATES,
    "RATE_LIMIT_KEY_SUBSCRIPTIONS": RATES,
    "RATE_LIMIT_KEY_CONNECTIONS": RATES,
    "RATE_LIMIT_REFUSALS": RATES,
    "RATE_LIMIT_PACKETS": RATES,
    "ADMIN_USERNAME": ([None, "ann"], [5, b"ann"]),
    "ADMIN_PASSWORD": (
        [None, HASH],
        ["changeit", "$2b$10$heqvAkYMez.Va6Et2uXInOnkCT6", HASH + "$", HASH + "\n", HASH[:40], 5],
    ),
    "ADMIN_READONLY": ([True, False], [None, 0, 1, "yes"]),
    "ADMIN_MODE": (["development", "production"], [None, True, "test"]),
}


def rejection(source: Callable[[str, Any], Settings], name: str, value: Any) -> str:
    """Return the error of a value, or "accepted"."""
    try:
        source(name, value)
    except SettingsError as error:
        return str(error)
    finally:
        default_runtime.sources.reset()
    return "accepted"


class TestValues:
    def test_every_setting_has_test_values(self) -> None:
        assert VALUES.keys() == DEFAULTS.keys()

    @pytest.mark.parametrize("name", VALUES)
    def test_valid_values_are_accepted(self, name: str) -> None:
        for value in VALUES[name][0]:
            assert getattr(from_keywords(name, value), name.lower()) == value

    @pytest.mark.parametrize("name", VALUES)
    def test_invalid_values_are_rejected_with_name_and_value(self, name: str) -> None:
        secret = name in ("BACKPLANE", "ADMIN_PASSWORD")  # may contain a password
        wrong = []
        for source, value in itertools.product(SOURCES, VALUES[name][1]):
            shown = name.lower() if source is from_keywords else f"SOCKETIO_{name}"
            given = "<hidden>" if secret else repr(value)
            error = rejection(source, name, value)
            if f"{shown} is {given}, but must be " not in error:
                wrong.append((source.__name__, value, error))
        assert wrong == []

    @pytest.mark.parametrize(
        ("url", "remedy"),
        [
            ("redis://:p@ss/word#@host", "percent-encoded"),
            ("redis://:se/cret@host:6379", "percent-encoded"),
            ("redis://:se#cret@host", "percent-encoded"),
            ("redis://me:se?cret@host/0", "percent-encoded"),
            ("redis://:se[cret@host", "percent-encoded"),
            ("redis://:se cret@host", "percent-encoded"),
            ("redis://:se\ncret@host", "percent-encoded"),
            ("redis://host:secret", "percent-encoded"),
            ("redis://:secret@host\n", "control character"),
            ("redis://:secret@host:port", "host or port"),
            ("redis://:secret@host:99999", "host or port"),
            ("redis://:secret@", "host is missing"),
            ("redis://:secret@host:0", "1 to 65535"),
            ("redis://:secret@host?ssl_ca_certs=1", "options"),
            ("redis://:secret@host/name", "database"),
            ("REDIS://:secret@host", "start with redis://"),
            ("//:secret@host", "start with redis://"),
            ("unix://:secret@run/redis.sock?db=1", "start with a slash"),
            ("redis+unix:///run/redis.sock", "unix:///path"),
            ("redis+sentinel://:secret@host:26379", "name of the master"),
            ("redis-sentinel://host", "redis+sentinel://host:26379/service"),
            ("redis+cluster://:secret@host/1", "no databases but 0"),
            ("redis-cluster://host", "redis+cluster://host:6379"),
            ("redis://:secret@host,other", "redis+cluster://host:6379"),
            ("valkey://:secret@host", "redis://"),
        ],
    )
    def test_backplane_url_that_is_rejected_names_cause_and_remedy(
        self, url: str, remedy: str
    ) -> None:
        with pytest.raises(SettingsError) as caught:
            from_keywords("BACKPLANE", url)
        assert remedy in str(caught.value)
        assert "cret" not in str(caught.value)

    @pytest.mark.parametrize(
        "url", ["redis://:p%40ss%2Fword%23@host", "redis://:p@ss:word@host", "redis://:100%sure@h"]
    )
    def test_backplane_url_with_encoded_or_harmless_characters_is_accepted(self, url: str) -> None:
        assert from_keywords("BACKPLANE", url).backplane == url


class TestEffect:
    """Effects of settings that have no tests elsewhere."""

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_transports_rejects_the_other_transport(
        self, transport: str, serve: Callable[..., Site]
    ) -> None:
        site = serve(transports=["websocket" if transport == "polling" else "polling"])
        if transport == "polling":
            connection = http.client.HTTPConnection("127.0.0.1", site.port)
            connection.request("GET", "/socket.io/?EIO=4&transport=polling")
            response = connection.getresponse()
            assert (response.status, b"ransport" in response.read()) == (400, True)
            connection.close()
            site.connect().barrier()
        else:
            assert site.websocket().status == 400
            assert site.polling().open["upgrades"] == []

    def test_namespaces_rejects_other_namespaces(self, serve: Callable[..., Site]) -> None:
        client = serve(namespaces=["/chat"]).websocket()
        client.send("40")
        assert client.receive() == '44{"message":"Invalid namespace"}'
        assert client.connect(namespace="/chat,")

    def test_allowed_origins_rejects_other_origins(self, serve: Callable[..., Site]) -> None:
        site = serve()
        assert site.websocket(Origin=site.url).status == 101
        assert site.websocket(Origin="http://evil.example").status == 403
        assert site.websocket(Origin="null").status == 403
        site = serve(allowed_origins=["http://friend.example"])
        assert site.websocket(Origin="http://friend.example").status == 101
        assert site.websocket(Origin="http://evil.example").status == 403
