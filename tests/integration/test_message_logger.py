"""Message logger plugin: one physical line for any message."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import web

from tests.conftest import Site
from webpy_socketio import (
    Refused,
    Runtime,
    SettingsError,
    SocketIOServer,
    on_receiving,
    signals,
)
from webpy_socketio.plugins.message_logger import MessageLog

NAME = "webpy_socketio.message"
PLUGIN = "webpy_socketio.plugins.message_logger"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns the lines logged since its last call."""
    caplog.set_level(logging.INFO, NAME)

    def read() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if record.name == NAME]
        caplog.clear()
        return lines

    return read


Log = Callable[[], list[str]]


def logged(log: Log, message: Any, form: str = "%(MESSAGE)s", **environ: Any) -> str:
    """Return the line logged for a message."""
    MessageLog(form, Runtime()).on_message(None, environ, message, "message")
    (line,) = log()
    return line


class TestLines:
    def test_default_format(self, serve: Callable[..., Site], log: Log) -> None:
        client = serve(plugins=[PLUGIN]).connect()
        client.call("__subscribe__", "room")
        client.emit_and_wait("message", "hello")
        client.emit_and_wait("draw", 1, "two")
        client.emit_and_wait("__channel__", "room", "to the room")
        client.call("__unsubscribe__", "room")
        head = r'127\.0\.0\.1 - - \[\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d\] "Socket\.IO '
        lines = log()
        assert [re.sub(head, "", line) for line in lines] == [
            'subscribe: room"',
            'message: hello"',
            "draw: [1, 'two']\"",
            'message: to the room"',
            'unsubscribe: room"',
        ]
        assert all(re.match(head, line) for line in lines)

    def test_custom_format_uses_keys_of_the_environ(
        self, serve: Callable[..., Site], log: Log
    ) -> None:
        form = "%(HTTP_X_NAME)s %(REQUEST_METHOD)s %(TYPE)s=%(MESSAGE)s 100%%"
        client = serve(plugins=[PLUGIN], message_log_format=form).connect(X_Name="Ann")
        client.emit_and_wait("message", "hello")
        assert log() == ["Ann GET message=hello 100%"]

    def test_rejected_message_is_not_logged(self, serve: Callable[..., Site], log: Log) -> None:
        @on_receiving
        def polite(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            if message == "rude":
                raise Refused("be polite")

        client = serve(plugins=[PLUGIN], message_log_format="%(MESSAGE)s").connect()
        client.emit_and_wait("message", "rude")
        client.emit_and_wait("message", "hello")
        assert log() == ["hello"]

    def test_format_of_none_disables_the_log(self, serve: Callable[..., Site], log: Log) -> None:
        client = serve(plugins=[PLUGIN], message_log_format=None).connect()
        client.emit_and_wait("message", "hello")
        assert log() == []
        assert not signals.message.receivers

    def test_missing_key_is_formatted_as_dash(self, log: Log) -> None:
        assert logged(log, "hello", "%(HTTP_NOTHING)s %(REMOTE_USER)s %(MESSAGE)s") == "- - hello"

    def test_environ_does_not_override_the_keys_of_the_plugin(self, log: Log) -> None:
        assert logged(log, "hello", "%(TYPE)s %(MESSAGE)s", TYPE="x", MESSAGE="y") == (
            "message hello"
        )

    @pytest.mark.parametrize("level", [logging.WARNING, logging.CRITICAL])
    def test_disabled_logger_formats_nothing(
        self, level: int, serve: Callable[..., Site], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Loud(dict[str, Any]):
            def get(self, key: str, default: Any = None) -> Any:
                raise AssertionError("formatted")

        caplog.set_level(level, NAME)
        MessageLog("%(MESSAGE)s", Runtime()).on_message(None, Loud(), "hello", "message")
        assert not caplog.records


NASTY: dict[str, tuple[Any, str]] = {
    "a newline": ("a\nb", r"a\nb"),
    "every line end": ("a\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b", ""),
    "a forged line": ('x"\n10.0.0.1 - - "Socket.IO message: y', ""),
    "terminal escapes": ("\x1b[31mred\x1b[0m\x07", r"\x1b[31mred\x1b[0m\x07"),
    "C1 controls": ("\x9b31m", r"\x9b31m"),
    "NUL": ("a\0b", r"a\x00b"),
    "right to left": ("\u202eevil", r"\u202eevil"),
    "percent": ("100%", "100%"),
    "percent s": ("%s %d %n", "%s %d %n"),
    "a key": ("%(REMOTE_ADDR)s", "%(REMOTE_ADDR)s"),
    "braces": ("{} {0} $x", "{} {0} $x"),
    "a lone surrogate": ("a\ud800b", r"a\ud800b"),
    "binary": (b"\0\n\xff", r"b'\x00\n\xff'"),
    "binary inside": ({"a": [b"\n"]}, r"{'a': [b'\n']}"),
    "a newline inside": ({"a": "b\nc"}, r"{'a': 'b\nc'}"),
    "any script": ("žluťoučký 房间 👩!", "žluťoučký 房间 👩!"),
    "nothing": (None, "None"),
    "a number": (1.5, "1.5"),
}


class TestOneLine:
    @pytest.mark.parametrize(("message", "line"), NASTY.values(), ids=NASTY)
    def test_any_message_is_logged_on_one_line(self, message: Any, line: str, log: Log) -> None:
        found = logged(log, message)
        assert len(found.splitlines()) == 1
        assert found.isprintable()
        found.encode()
        if line:
            assert found == line

    @pytest.mark.parametrize(("message", "line"), NASTY.values(), ids=NASTY)
    def test_names_and_environ_are_escaped(self, message: Any, line: str, log: Log) -> None:
        text = message if isinstance(message, str) else repr(message)
        message_log = MessageLog("%(X)s %(TYPE)s %(MESSAGE)s", Runtime())
        message_log.on_message(None, {"X": text}, "x", text)
        message_log.on_subscribe(None, {"X": text}, text)
        message_log.on_unsubscribe(None, {"X": text}, text)
        lines = log()
        assert len(lines) == 3
        assert all(found.isprintable() for found in lines)

    def test_long_message_is_cut_with_its_length(self, log: Log) -> None:
        line = logged(log, "x" * 1_000_000)
        assert line == "x" * 1000 + "... (1000000 characters)"
        assert logged(log, "x" * 1000) == "x" * 1000
        assert logged(log, "x" * 1001) == "x" * 1000 + "... (1001 characters)"

    def test_long_message_of_control_characters_is_cut(self, log: Log) -> None:
        assert len(logged(log, "\x00" * 1_000_000)) < 5000

    def test_long_binary_message_is_cut(self, log: Log) -> None:
        assert logged(log, b"\0" * 1_000_000).endswith("... (4000003 characters)")

    def test_message_through_a_server_is_logged_on_one_line(
        self, serve: Callable[..., Site], log: Log
    ) -> None:
        client = serve(plugins=[PLUGIN], message_log_format="%(MESSAGE)s").connect()
        client.emit_and_wait("message", "a\nb")
        client.emit_and_wait("message", "x" * 900_000)
        client.send('451-["message",{"_placeholder":true,"num":0}]')
        client.send(b"\n")
        client.emit_and_wait("end")
        first, second, third, _ = log()
        assert first == r"a\nb"
        assert second.endswith("(900000 characters)")
        assert third == r"b'\n'"


class TestFormats:
    @pytest.mark.parametrize(
        "form",
        [
            *("%(TIME", "%(TIME)", "%(MESSAGE)d", "%(TYPE)f", "%", "100%", "%(MESSAGE)s %"),
            *("%s", "%r", "%d", "%s %s", "%(MESSAGE)s %s", "%(MESSAGE)y", "%*s"),
        ],
    )
    def test_invalid_format_raises_settings_error_at_start(
        self, form: str, serve: Callable[..., Site]
    ) -> None:
        with pytest.raises(SettingsError) as caught:
            serve(plugins=[PLUGIN], message_log_format=form)
        text = str(caught.value)
        assert "SOCKETIO_MESSAGE_LOG_FORMAT" in text
        assert repr(form) in text
        assert "%(NAME)s" in text
        assert not signals.message.receivers

    @pytest.mark.parametrize("form", ["", "plain text", "%(MESSAGE)20s", "%(MESSAGE)-5s|", "%%"])
    def test_valid_format_is_accepted(self, form: str, log: Log) -> None:
        assert logged(log, "x", form) == form % {"MESSAGE": "x"}

    def test_server_with_invalid_format_is_not_started(self, serve: Callable[..., Site]) -> None:
        app = web.application((), {}, autoreload=False)
        server = SocketIOServer(
            ("127.0.0.1", 0), app.wsgifunc(), plugins=[PLUGIN], message_log_format="%("
        )
        with pytest.raises(SettingsError):
            server.start()
        assert server.closed


class TestRuntimes:
    def test_each_runtime_has_its_own_format(self, serve: Callable[..., Site], log: Log) -> None:
        other, silent = Runtime(), Runtime()
        sites = [
            serve(plugins=[PLUGIN], message_log_format="first %(MESSAGE)s"),
            serve(plugins=[PLUGIN], message_log_format="other %(MESSAGE)s", runtime=other),
            serve(plugins=[PLUGIN], message_log_format=None, runtime=silent),
        ]
        clients = [site.connect() for site in sites]
        for client in clients:
            client.emit_and_wait("message", "hello")
        assert log() == ["first hello", "other hello"]
        sites[0].server.stop()
        clients[1].emit_and_wait("message", "still there")
        assert log() == ["other still there"]


class TestEventNames:
    def test_long_event_name_is_cut(
        self, serve: Callable[..., Site], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "webpy_socketio.message")
        client = serve(plugins=["webpy_socketio.plugins.message_logger"]).connect()
        client.emit("\x7f" * 100_000)
        client.barrier()
        (record,) = [record for record in caplog.records if "100000" in record.getMessage()]
        assert len(record.getMessage()) < 10_000
