"""README.rst is true: its snippets run, and do what it says."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import socketio
import web

from webpy_socketio.backplane import send_gap
from webpy_socketio.config import settings
from webpy_socketio.plugins import metrics
from webpy_socketio.registry import registry
from webpy_socketio.testing import Client, TestServer

from .certificates import trusting
from .conftest import Journal, Site
from .nginx import Nginx, free_port, running_nginx
from .raw import WebSocket
from .snippets import ROOT, Page

README = Page.read(ROOT / "README.rst")

METRICS = "webpy_socketio.plugins.metrics"
RATE_LIMIT = "webpy_socketio.plugins.rate_limit"

PROGRAM, *SNIPPETS = README.blocks("python")

#: A file of its own, not to be run in one module with the others.
(TEST_FILE,) = (block for block in SNIPPETS if block.startswith("# test_chat.py"))


def snippet(word: str) -> str:
    """The one snippet that has `word` in it."""
    (found,) = (block for block in SNIPPETS if word in block)
    return found


class TestProgram:
    """The first snippet is a whole program."""

    @pytest.mark.patience(30)
    def test_it_talks_to_a_client(self, tmp_path: Path, journal: Journal) -> None:
        port = free_port()
        (tmp_path / "chat.py").write_text(PROGRAM.replace("8000", str(port)))
        program = subprocess.Popen(
            [sys.executable, "chat.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stderr=subprocess.DEVNULL,
        )
        client = socketio.Client()
        try:
            while True:  # until it listens
                try:
                    client.connect(f"http://127.0.0.1:{port}")
                    break
                except socketio.exceptions.ConnectionError:
                    assert program.poll() is None
            client.on("message", journal.append)
            assert client.call("__subscribe__", "room-1") == {"ok": True}
            client.send("hello")
            journal.wait_for("hello")
            assert journal == ["hello"]  # once, although web.py's reloader imports it twice
        finally:
            client.disconnect()
            program.terminate()
        assert program.wait() == 0


class TestTestFile:
    """The test of the first program is a whole file."""

    @pytest.mark.patience(30)
    def test_it_passes(self, tmp_path: Path) -> None:
        (tmp_path / "chat.py").write_text(PROGRAM)
        (tmp_path / "test_chat.py").write_text(TEST_FILE)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "3 passed" in done.stdout, done.stdout + done.stderr

    def test_every_name_is_there(self) -> None:
        section = README.text.partition("Testing your handlers\n")[2].partition("\n\n\n")[0]
        told = set(
            re.findall(r"``(?:server\.|client\.|with server\.)?([a-z]+)(?:\(.*?\).*?)?``", section)
        )
        client = {name for name in vars(Client) if not name.startswith("_")}
        assert {"send", "receive", "received", "vanish"} <= told & client
        mine = {"connect", "browser", "advance", "record", "errors", "settle"}
        assert mine <= told & set(vars(TestServer))


@pytest.fixture
def names(serve: Callable[..., Site], tmp_path: Path, monkeypatch: Any) -> dict[str, Any]:
    """The names of all snippets, executed in their order in one module, and a running server."""
    (tmp_path / "shouting.py").write_text(snippet("shouting.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    application = web.application((), {}, autoreload=False)
    names: dict[str, Any] = {"web": web, "app": application, "__name__": "readme"}
    README.run(names, PROGRAM, TEST_FILE)
    settings._configured.clear()
    web.config.pop("SOCKETIO_PORT", None)
    names["site"] = serve(
        plugins=["shouting", *names["SOCKETIO_PLUGINS"], METRICS, RATE_LIMIT],
        presence_key=names["SOCKETIO_PRESENCE_KEY"],
        rate_limit_messages=names["SOCKETIO_RATE_LIMIT_MESSAGES"],
        rate_limit_key=names["SOCKETIO_RATE_LIMIT_KEY"],
        rate_limit_key_connections=names["SOCKETIO_RATE_LIMIT_KEY_CONNECTIONS"],
        metrics_port=0,
        trusted_proxies=names["SOCKETIO_TRUSTED_PROXIES"],
    )
    return names


def connect(names: dict[str, Any], **headers: str) -> WebSocket:
    client: WebSocket = names["site"].connect('{"token":"secret"}', **headers)
    return client


def subscribe(client: WebSocket, channel: str) -> None:
    """Subscribe, and read what the handlers and plugins say about it."""
    assert client.call("__subscribe__", channel) == [{"ok": True}]
    assert client.event()[0] == "presence_state"


class TestSnippets:
    def test_a_template_includes_the_scripts(self, names: dict[str, Any]) -> None:
        lookup = names["lookup"]
        lookup.put_string("page", README.blocks("html")[0])
        page = lookup.get_template("page").render()
        assert page.count("<script src=") == 3
        assert "<script" in names["head"]

    def test_events(self, names: dict[str, Any]) -> None:
        client = connect(names, Cookie="name=Ann")
        client.emit("message", "hello", ack=1)
        assert client.event() == ["message", {"to": "Ann", "text": "hello"}]
        assert client.receive() == '431["received"]'

    def test_a_pool_of_threads(self, names: dict[str, Any]) -> None:
        assert connect(names).call("factor", 6) == [[1, 2, 3, 6]]

    def test_channels(self, names: dict[str, Any]) -> None:
        client = connect(names)
        subscribe(client, "room-1")
        client.emit("move", 7, ack=1)
        assert client.event()[0] == "presence_state"
        assert client.receive() == "431[true]"

    def test_out_of_band(self, names: dict[str, Any]) -> None:
        assert names["announce"]("anyone?") == "nobody is there to receive it"
        client = connect(names)
        subscribe(client, "room-1")
        assert names["announce"]("news") == "sent"
        names["announce_to"](client.id, "room-1", "more")
        assert [client.event() for _ in range(4)] == [
            ["message", {"text": "news"}],
            ["message", {"text": "more"}],
            ["message", {"text": "more"}],
            ["news", "more"],
        ]

    def test_binding(self, names: dict[str, Any]) -> None:
        first, second = connect(names), connect(names)
        subscribe(first, "room-1")
        subscribe(second, "room-1")
        assert first.event() == ["message", {"joined": second.id}]

    def test_signals(self, names: dict[str, Any]) -> None:
        client = connect(names)
        client.emit("message", "x", ack=1)
        assert client.event()[0] == "message"
        assert client.receive().startswith("431")
        assert names["seen"]["message"] == 1

    def test_gates(self, names: dict[str, Any]) -> None:
        stranger = names["site"].websocket()
        stranger.send("40")
        assert stranger.receive() == '44{"message":"who are you?"}'
        client = connect(names)
        refused = [{"ok": False, "error": "for staff only"}]
        assert client.call("__subscribe__", "staff-room") == refused
        socket = registry.find(client.id)
        assert socket is not None
        socket.context["staff"] = True
        subscribe(client, "staff-room")
        long = "x" * 3000
        assert client.call("__channel__", "staff-room", long) == [{"error": "too long"}]

    def test_settings(self, names: dict[str, Any]) -> None:
        assert names["server"].settings.port == 8002
        assert names["server"].settings.ping_interval == 10

    def test_plugins(self, names: dict[str, Any]) -> None:
        client = connect(names)
        client.emit("message", "HELLO")
        assert client.event() == ["message", {"to": "stranger", "text": "HELLO"}]
        assert client.event() == ["message", "no need to shout"]

    def test_presence(self, names: dict[str, Any]) -> None:
        client = connect(names)
        subscribe(client, "room-1")
        assert names["names"]("room-1") == ["stranger"]
        client.emit("call me", "Ann")
        diff = client.event()
        assert diff[0] == "presence_diff"
        assert names["names"]("room-1") == ["Ann"]

    def test_metrics(self, names: dict[str, Any]) -> None:
        assert settings.resolve({"metrics_port": names["SOCKETIO_METRICS_PORT"]}, {})
        connect(names)
        port = metrics.port()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            shown = response.read().decode()
        section = README.text.partition("\nMetrics\n---")[2].partition("\nRate limits\n---")[0]
        told = set(re.findall(r"^``([a-z_]+)``", section, re.MULTILINE)) - {"webpy_socketio_"}
        told |= set(re.findall(r"^``\w+``, ``([a-z_]+)``", section, re.MULTILINE))
        families = set(re.findall(r"^# TYPE webpy_socketio_(\S+)", shown, re.MULTILINE))
        assert told == families

    def test_rate_limits(self, names: dict[str, Any]) -> None:
        client = connect(names)
        for number in range(31):
            client.emit("nobody's", number)
        event, told = client.event()
        assert (event, told["what"], told["refused"]) == ("rate_limit", "messages", 1)
        for _ in range(19):
            connect(names)
        late = names["site"].websocket()
        late.send('40{"token":"secret"}')
        assert late.receive() == '44{"message":"rate limit"}'

    def test_the_admin_ui(self, serve: Callable[..., Site], names: dict[str, Any]) -> None:
        plugins = ["webpy_socketio.plugins.admin"]
        keys = [key for key in names if key.startswith("SOCKETIO_ADMIN_")]
        own = {key.removeprefix("SOCKETIO_").lower(): names[key] for key in keys}
        client = serve(plugins=plugins, **own).websocket()
        client.send('40/admin,{"username":"ann","password":"a guess"}')
        assert client.receive() == '44/admin,{"message":"invalid credentials"}'

    def test_several_processes(self, names: dict[str, Any]) -> None:
        assert settings.resolve({"backplane": names["SOCKETIO_BACKPLANE"]}, {})
        send_gap(None, "node", 3)
        gevent.sleep(0)
        assert names["outages"] == [3]

    def test_every_setting_is_in_the_table(self) -> None:
        table = README.text.partition("\nsetting  ")[2].partition("\n\n\n")[0]
        names = set(re.findall(r"``SOCKETIO_([A-Z_]+[A-Z])``", table))
        names |= {
            f"RATE_LIMIT_{rest}"
            for rest in re.findall(r"^\.\.\. ``([A-Z_]+)``", table, re.MULTILINE)
        }
        assert names >= {setting.name for setting in settings.SETTINGS}


class TestNginx:
    """The directives are those of a real nginx."""

    @pytest.fixture
    def nginx(self, tmp_path: Path, serve: Callable[..., Site]) -> Iterator[Nginx]:
        site = serve(trusted_proxies=["127.0.0.1"])
        (directives,) = README.blocks("nginx")
        with running_nginx(directives, {"127.0.0.1:8000": site.port}, tmp_path) as nginx:
            yield nginx

    @pytest.mark.patience(30)
    @pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
    def test_both_transports_pass(self, transports: list[str], nginx: Nginx) -> None:
        port = nginx.port
        client = socketio.Client(http_session=trusting(nginx.certificate))
        # A WebSocket of this client's says by itself where it comes from, as a browser does.
        origin = {} if "websocket" in transports else {"Origin": f"https://localhost:{port}"}
        client.connect(f"https://localhost:{port}", origin, transports=transports)
        try:
            assert client.call("__subscribe__", "room-1") == {"ok": True}
        finally:
            client.disconnect()

    def test_another_origin_does_not(self, nginx: Nginx) -> None:
        port = nginx.port
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as sock:
            sock.sendall(
                f"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost:{port}\r\n"
                f"Origin: http://localhost:{port}\r\nConnection: close\r\n\r\n".encode()
            )
            assert sock.recv(1000).startswith(b"HTTP/1.1 403")
