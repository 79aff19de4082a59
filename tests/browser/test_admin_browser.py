"""The official Admin UI from npm in headless Chromium, served from another origin."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgpack
import pytest

from tests import raw
from tests.redis_server import RedisServer
from tests.servers import Process, ServerProcess, application_source
from tests.windows import expect
from webpy_socketio.plugins.admin import hash_password

UI = Path(__file__).parents[1] / "js/node_modules/@socket.io/admin-ui/ui/dist"
if not UI.is_dir():
    pytest.skip("the Admin UI is not installed: make test does it", allow_module_level=True)

APPLICATION = application_source(
    """
OPTIONS = {
    "plugins": ["webpy_socketio.plugins.admin"],
    "admin_username": "ann",
    "admin_password": os.environ["HASH"],
    "admin_readonly": os.environ.get("READONLY") == "yes",
    "allowed_origins": [os.environ["ORIGIN"]],
    "namespaces": ["/", "/chat"],
    "backplane": os.environ.get("BACKPLANE"),
    "parser": os.environ.get("PARSER", "json"),
    "ping_interval": 600,
    "log": None,
}

@on_message
def answer(request, socket, context, message):
    socket.send({"you said": message})
    return "received"

@on_disconnect
def gone(request, socket, context):
    say("GONE", socket.session_id)
"""
)


class AdminUI:
    """The UI on one port, the application on another, and an admin's browser page."""

    def __init__(self, folder, browser, **env):
        self.folder = folder
        files = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"]
        self.files = Process([*files, "--directory", str(UI)], folder / "ui.log")
        line = self.files.wait_for("Serving HTTP on 127.0.0.1 port ")
        self.origin = f"http://127.0.0.1:{line.split()[0]}"
        self.env = {"HASH": hash_password("open sesame", ln=8), "ORIGIN": self.origin, **env}
        self.server = ServerProcess(APPLICATION, folder / "server", self.env)
        self.context = browser.new_context(
            base_url=self.origin, viewport={"width": 1400, "height": 1000}
        )
        # The UI loads fonts from other servers, but works without them.
        self.context.route(
            lambda url: not url.startswith("http://127.0.0.1:"), lambda route: route.abort()
        )
        self.faults = []
        self.context.on("weberror", lambda error: self.faults.append(str(error.error)))
        self.page = self.context.new_page()

    def connect_client(self):
        """Connect a client of the application."""
        client = raw.WebSocket(self.server.port)
        client.connect()
        return client

    def log_in(self, password="open sesame", parser=None):
        self.page.goto("/")
        self.page.get_by_label("Server URL").fill(self.server.url)
        self.page.get_by_label("Username").fill("ann")
        self.page.get_by_label("Password").fill(password)
        if parser is not None:
            self.page.get_by_text("Advanced options").click()
            self.page.get_by_role("button", name="Parser").click()
            self.page.get_by_role("option", name=parser).click()
        self.page.get_by_role("button", name="Connect").click()

    def go(self, where):
        self.page.get_by_role("navigation").get_by_role("link", name=where).click()
        # The previous page fades out; it is gone when this is the only heading.
        expect(self.page.locator(".v-breadcrumbs")).to_have_text([where])

    def row(self, text):
        return self.page.locator("tbody tr").filter(has_text=text)

    def screenshot(self, name):
        """Take a screenshot for a visual check."""
        if "SCREENSHOTS" in os.environ:
            self.page.wait_for_timeout(800)  # until the page has faded in
            self.page.screenshot(path=str(Path(os.environ["SCREENSHOTS"]) / f"{name}.png"))

    def close(self):
        self.context.close()
        self.files.kill()
        self.server.close()
        assert "Traceback" not in self.server.errors
        assert self.faults == []


@pytest.fixture
def ui(tmp_path, chromium):
    started = []

    def build(**env):
        started.append(AdminUI(tmp_path, chromium, **env))
        return started[-1]

    yield build
    for one in started:
        one.close()


def test_admin_logs_in_sees_sockets_and_disconnects_one(ui):
    ui = ui()
    visitor, other = ui.connect_client(), ui.connect_client()
    visitor.call("__subscribe__", "room-1")
    page = ui.page

    ui.log_in("open barley")
    expect(page.get_by_text("Invalid credentials")).to_be_visible()
    page.get_by_label("Password").fill("open sesame")
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_label("Password")).not_to_be_visible()
    ui.screenshot("dashboard")

    ui.go("Sockets")
    for client in (visitor, other):
        expect(ui.row(client.id)).to_contain_text("127.0.0.1")
        expect(ui.row(client.id)).to_contain_text("WebSocket")
    third = ui.connect_client()  # reported without a reload
    expect(ui.row(third.id)).to_be_visible()
    ui.screenshot("sockets")

    ui.go("Rooms")
    expect(ui.row("room-1").locator("td").nth(2)).to_have_text("1")
    other.call("__subscribe__", "room-1")
    expect(ui.row("room-1").locator("td").nth(2)).to_have_text("2")
    ui.screenshot("rooms")

    ui.go("Events")
    visitor.emit("message", {"text": "hello from a visitor", "token": "a secret"}, ack=7)
    received = ui.row("Event received")
    expect(received).to_contain_text("message")
    expect(ui.row("Event sent")).to_contain_text("message")
    received.get_by_role("button").click()
    expect(page.locator("pre")).to_contain_text("hello from a visitor")
    expect(page.locator("pre")).not_to_contain_text("a secret")
    ui.screenshot("events")

    ui.go("Sockets")
    ui.row(visitor.id).click()
    expect(page.get_by_text("Initial HTTP request")).to_be_visible()
    expect(page.locator(".v-breadcrumbs")).to_have_count(1)
    expect(page.get_by_text(visitor.id, exact=True)).to_be_visible()
    ui.screenshot("socket")
    page.get_by_label("Join a room").fill("room-2")
    page.locator("main form button[type=submit]").click()
    expect(ui.row("room-2")).to_be_visible()
    visitor.emit("__unsubscribe__", "barrier", ack=8)
    while visitor.receive() != '438[{"ok":true}]':
        pass

    ui.go("Sockets")
    ui.row(other.id).get_by_role("button").click()
    assert ui.server.wait_for("GONE ") == other.id
    # The click also counts as one on the row: the UI opens the page of the socket.
    expect(page.get_by_text("disconnected", exact=True).first).to_be_visible()
    ui.go("Sockets")
    expect(ui.row(other.id)).to_have_count(0)
    expect(ui.row(visitor.id)).to_be_visible()

    ui.go("Servers")
    expect(ui.row(str(ui.server.process.popen.pid))).to_contain_text("2")
    ui.screenshot("servers")


def test_reload_keeps_the_session_and_restart_requires_the_password(ui):
    ui = ui(READONLY="yes")
    visitor = ui.connect_client()
    ui.log_in()
    ui.go("Sockets")
    expect(ui.row(visitor.id)).to_be_visible()
    expect(ui.row(visitor.id).get_by_role("button")).to_have_count(0)  # read-only
    ui.page.reload()
    expect(ui.row(visitor.id)).to_be_visible()
    ui.server.restart()
    ui.page.reload()
    expect(ui.page.get_by_label("Password")).to_be_visible()


def test_admin_with_msgpack_parser_sees_events(ui):
    ui = ui(PARSER="msgpack")
    ui.log_in(parser="MessagePack parser")
    expect(ui.page.get_by_label("Password")).not_to_be_visible()
    visitor = raw.WebSocket(ui.server.port)
    visitor.send(msgpack.packb({"type": 0, "nsp": "/"}))
    socket_id = msgpack.unpackb(visitor.receive())["data"]["sid"]
    ui.go("Sockets")
    expect(ui.row(socket_id)).to_contain_text("WebSocket")
    ui.go("Events")
    visitor.send(msgpack.packb({"type": 2, "nsp": "/", "data": ["message", {"a": b"\x00"}]}))
    expect(ui.row("Event received")).to_contain_text("message")
    expect(ui.row("Event sent")).to_contain_text("message")


def test_admin_sees_and_disconnects_sockets_of_another_process(ui, tmp_path):
    redis = RedisServer(tmp_path).start()
    other = None
    try:
        ui = ui(BACKPLANE=redis.url)
        other = ServerProcess(APPLICATION, tmp_path / "other", ui.env)
        far = raw.WebSocket(other.port)
        far.connect()
        ui.log_in()
        ui.go("Servers")
        for server in (ui.server, other):
            expect(ui.row(str(server.process.popen.pid))).to_be_visible()
        ui.go("Sockets")
        expect(ui.row(far.id)).to_be_visible()
        near = ui.connect_client()
        expect(ui.row(near.id)).to_be_visible()
        ui.screenshot("cluster")
        ui.row(far.id).get_by_role("button").click()
        assert other.wait_for("GONE ") == far.id
        ui.go("Sockets")
        expect(ui.row(far.id)).to_have_count(0)
        expect(ui.row(near.id)).to_be_visible()
    finally:
        if other is not None:
            other.close()
        ui.server.stop()
        redis.stop()
