"""Front ends that import the client as ES modules, in headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.npm_projects import Project, requires_node
from tests.servers import Process, Served, ServerProcess, application_source, free_port
from tests.snippets import DOCS, Page
from tests.windows import Windows, expect

GUIDE = Page.read(DOCS / "how-to" / "front-ends.rst")


#: Added to the guide's program: two components that use one channel, and a button that unmounts
#: one of them.
TWO_ROOMS = """
import { useState } from "react";
import { socket } from "./socket";

const two = location.search === "?two";
Object.assign(window, { socket });

function Two() {
  const [count, setCount] = useState(2);
  return (
    <>
      {Array.from({ length: count }, (_, index) => <Room key={index} channel="room-1" />)}
      <button onClick={() => setCount(count - 1)}>Close one</button>
    </>
  );
}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The front end of the guide, built by Vite."""
    project = Project(tmp_path_factory.mktemp("project"))
    GUIDE.write_files(project.folder)
    main = project.folder / "src" / "main.tsx"
    root = "<Room channel={room} />"
    text = main.read_text()
    assert root in text
    main.write_text(TWO_ROOMS + text.replace(root, f"{{two ? <Two /> : {root}}}"))
    project.build()
    return project


Serve = Callable[[], Served]


@pytest.fixture
def serve(project: Project) -> Iterator[Serve]:
    """Start the program of the guide, always on the same port."""
    port = free_port()
    started: list[Served] = []

    def start() -> Served:
        command = ["webpy_socketio", "serve", "app:site", "--port", str(port), "--quiet"]
        started.append(Served(command, project.folder))
        started[-1].ready()
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def windows(chromium: Any) -> Iterator[Windows]:
    windows = Windows(chromium, "")
    yield windows
    windows.close()


def say_hello(page: Any) -> None:
    page.get_by_role("button", name="Say hello").click()


@requires_node
class TestGuide:
    def test_component_receives_messages_before_and_after_reconnection(
        self, serve: Serve, windows: Windows
    ) -> None:
        server = serve()
        windows.url = server.url
        pages = [windows.open("/") for _ in range(2)]
        for page in pages:
            expect(page.get_by_label("room-1")).to_have_attribute("aria-busy", "false")
        say_hello(pages[0])
        for page in pages:
            expect(page.get_by_role("listitem")).to_have_text(["Hello"])
        server.stop()
        pages[1].wait_for_function("() => !socket.connected")
        serve()
        # Sent before the connection or after it; in both cases after the renewed subscription.
        say_hello(pages[1])
        expect(pages[1].get_by_role("listitem")).to_have_text(["Hello", "Hello"])

    def test_component_shows_rejected_subscription(self, serve: Serve, windows: Windows) -> None:
        windows.url = serve().url
        page = windows.open("/?room=secret")
        expect(page.get_by_role("alert")).to_have_text("There is no such room.")

    def test_channel_is_kept_until_last_component_is_unmounted(
        self, serve: Serve, windows: Windows
    ) -> None:
        windows.url = serve().url
        page, other = windows.open("/?two"), windows.open("/")
        expect(page.get_by_label("room-1")).to_have_count(2)
        for room in [*page.get_by_label("room-1").all(), other.get_by_label("room-1")]:
            expect(room).to_have_attribute("aria-busy", "false")
        close = page.get_by_role("button", name="Close one")
        close.click()
        expect(page.get_by_label("room-1")).to_have_count(1)
        say_hello(other)
        expect(page.get_by_role("listitem")).to_have_text(["Hello"])
        close.click()
        page.wait_for_function("() => socket.channels.length === 0")

    def test_development_server_passes_connections_to_the_server(
        self, serve: Serve, windows: Windows, project: Project, tmp_path: Path
    ) -> None:
        server = serve()
        config = project.folder / "vite.config.ts"
        text = config.read_text()
        assert "8000" in text
        config.write_text(text.replace("8000", str(server.port)))
        port = str(free_port())
        command = project.command("vite/bin/vite.js", "--port", port, "--strictPort")
        vite = Process(command, tmp_path / "vite.log", cwd=project.folder)
        try:
            address = vite.wait_for("  ➜  Local:   ")
            windows.url = address.removesuffix("/static/")
            page = windows.open("/static/")
            expect(page.get_by_label("room-1")).to_have_attribute("aria-busy", "false")
            say_hello(page)
            expect(page.get_by_role("listitem")).to_have_text(["Hello"])
        finally:
            vite.kill()
            config.write_text(text)


PAGES_GUIDE = Page.read(DOCS / "how-to" / "pages.rst")

#: The modules of the guide: one imports from paths, the other one from names of the import map.
PATHS, NAMES = [text for text in PAGES_GUIDE.blocks("html") if "withChannels" in text]

APPLICATION = application_source(
    f"""
OPTIONS = {{"plugins": []}}
PATHS, NAMES = {PATHS!r}, {NAMES!r}
"""
    """
NONCE = "r4nd0m"
PAGES = {
    "paths": lambda: PATHS,
    "names": lambda: socketio_import_map() + NAMES,
    "blocked": lambda: socketio_import_map() + NAMES,
    "policy": lambda: (
        socketio_import_map(NONCE) + NAMES.replace("<script", f"<script nonce={NONCE}")
    ),
}
urls = ("/favicon.ico", "icon", "/(paths|names|policy|blocked)", "page")

class icon:
    def GET(self):
        raise web.HTTPError("204 No Content")

class page:
    def GET(self, name):
        web.header("Content-Type", "text/html; charset=utf-8")
        if name == "blocked":
            web.header("Content-Security-Policy", "connect-src 'none'")
        if name == "policy":
            policy = f"default-src 'self'; script-src 'self' 'nonce-{NONCE}'"
            web.header("Content-Security-Policy", policy)
        return f"<!doctype html><title>{name}</title>{PAGES[name]()}"

@on_message(channel="^room-")
def echo(request, socket, context, message):
    socket.send_and_broadcast_channel(message)
"""
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(APPLICATION, tmp_path_factory.mktemp("server"))
    yield server
    server.close()
    assert "Traceback" not in server.errors


class TestModules:
    @pytest.mark.parametrize("name", ["paths", "names", "policy"])
    def test_module_of_the_guide_receives_message_of_its_channel(
        self, name: str, server: ServerProcess, chromium: Any
    ) -> None:
        context = chromium.new_context(base_url=server.url)
        page = context.new_page()
        with page.expect_console_message() as message:
            page.goto(f"/{name}")
        assert (message.value.type, message.value.text) == ("log", "hello")
        assert page.evaluate("[typeof io, typeof withChannels]") == ["undefined", "undefined"]
        context.close()

    def test_modules_of_the_import_map_have_a_version(
        self, server: ServerProcess, chromium: Any
    ) -> None:
        context = chromium.new_context(base_url=server.url)
        page = context.new_page()
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        with page.expect_console_message():
            page.goto("/names")
        modules = [url for url in requested if re.search(r"\.m?js\b", url)]
        assert len(modules) == 2
        for url in modules:
            assert re.search(r"\.m?js\?v=[0-9a-f]{16}$", url)
        context.close()

    def test_failed_connection_of_a_module_is_explained(
        self, server: ServerProcess, chromium: Any
    ) -> None:
        context = chromium.new_context(base_url=server.url)
        page = context.new_page()
        with page.expect_console_message():
            page.goto("/paths")
        with page.expect_console_message(
            lambda message: message.text.startswith("webpy_socketio: ")
        ) as message:
            page.evaluate(
                """async () => {
                    const { io } = await import("/socket.io/socket.io.esm.min.js");
                    const { withChannels } = await import("/socket.io/webpy_socketio.mjs");
                    withChannels(io("/unknown", { reconnection: false }));
                }"""
            )
        assert 'the server has no namespace "/unknown"' in message.value.text
        context.close()

    def test_blocked_connection_of_a_module_is_explained(
        self, server: ServerProcess, chromium: Any
    ) -> None:
        context = chromium.new_context(base_url=server.url)
        page = context.new_page()
        with page.expect_console_message(
            lambda message: message.text.startswith("webpy_socketio: ")
        ) as message:
            page.goto("/blocked")
        assert "blocks the connection: add connect-src 'self'" in message.value.text
        context.close()
