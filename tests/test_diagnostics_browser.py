"""What a page gets wrong, and what its console says: in headless Chromium, with a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .servers import ServerProcess, application_source
from .windows import ARGUMENTS, CHROMIUM, sync_api

quoted = pytest.mark.quoted

#: Pages: with all scripts; without the extension, without the client, without both; with a policy.
APPLICATION = application_source(
    """
from gevent.pywsgi import WSGIServer

OPTIONS = {"resource": "rt", "namespaces": ["/", "/known"]}
BOTH = socketio_scripts(resource="rt")
CLIENT, EXTENSION = BOTH.splitlines()
HEADS = {
    "all": BOTH,
    "client": CLIENT,
    "extension": EXTENSION,
    "none": "",
    "policy": BOTH,
}

class page:
    def GET(self, name):
        web.header("Content-Type", "text/html; charset=utf-8")
        if name == "policy":
            web.header("Content-Security-Policy", "connect-src 'none'")
        return f"<!doctype html><title>{name}</title>{HEADS.get(name, '')}"

class other:
    def GET(self):
        return str(elsewhere.server_port)

urls = ("/other", "other", "/page/(.*)", "page")

@on_event("hello")
def hello(request, socket, context):
    return "hello"

# The same application on a server that is not ours.
elsewhere = WSGIServer(
    ("127.0.0.1", 0), web.application(urls + socketio_urls, globals()).wsgifunc(), log=None
)
elsewhere.start()
"""
)


@pytest.fixture(autouse=True)
def _patience() -> None:
    """Instead of the one in conftest, which would end the driver in the middle of a switch."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(APPLICATION, tmp_path_factory.mktemp("server"))
    yield server
    server.close()
    assert "Traceback" not in server.errors


class Window:
    """A page and its console."""

    def __init__(self, context: Any, url: str) -> None:
        self.context = context
        self.url = url
        self.page = context.new_page()

    def open(self, name: str) -> Any:
        """Open one of the pages."""
        return self.page.goto(f"{self.url}/page/{name}")

    def says(self, script: str) -> str:
        """What the extension says in the console after a script has run."""
        with self.page.expect_console_message(
            lambda message: message.text.startswith("webpy_socketio: ")
        ) as message:
            self.page.evaluate(script)
        assert message.value.type == "error"
        return str(message.value.text)

    def fails(self, script: str) -> str:
        """The error that a page's own script ends with."""
        with self.page.expect_event("pageerror") as error:
            self.page.evaluate(f"setTimeout(() => {{ {script} }})")
        return str(error.value)


@pytest.fixture
def window(chromium: Any, server: ServerProcess) -> Iterator[Window]:
    context = chromium.new_context()
    yield Window(context, server.url)
    context.close()


Told = Callable[[str], None]

#: So that nothing is tried again.
ONCE = "reconnection: false"


class TestConsole:
    @quoted("the server has no Socket.IO at …, but the server of this page has it at …")
    def test_another_path_than_the_pages(self, window: Window, told: Told) -> None:
        window.open("all")
        text = window.says(f"io({{ {ONCE} }}); 0")
        told(text)
        assert text.endswith(
            'at /socket.io, but the server of this page has it at /rt: io({path: "/rt"})'
        )

    @quoted("the server has no Socket.IO at …: add socketio_urls to its urls")
    def test_a_server_without_socketio(self, window: Window, told: Told) -> None:
        window.open("all")
        window.page.route("**/rt/?*", lambda route: route.fulfill(status=404, body="not found"))
        told(window.says(f"new io.Socket({{ {ONCE} }}).connect(); 0"))

    @quoted("the response at … is not Socket.IO")
    def test_a_page_that_answers_instead(self, window: Window, told: Told) -> None:
        window.open("all")
        told(window.says(f"io({{path: '/page/x', {ONCE} }}); 0"))

    @quoted("the server has no namespace …")
    def test_a_namespace_that_does_not_exist(self, window: Window, told: Told) -> None:
        window.open("all")
        text = window.says(f"io('/unknown', {{path: '/rt', {ONCE} }}); 0")
        told(text)
        assert 'no namespace "/unknown"' in text

    @quoted("the server rejected this page (403)")
    def test_another_origin(self, window: Window, server: ServerProcess, told: Told) -> None:
        window.open("all")
        window.page.route(
            "**/rt/?*",
            lambda route: route.fulfill(
                response=route.fetch(
                    headers={**route.request.headers, "origin": "https://chat.example"}
                )
            ),
        )
        text = window.says(f"new io.Socket({{ {ONCE} }}).connect(); 0")
        told(text)
        assert (
            "Forbidden: this origin is not allowed; the log of the server names the setting to change"
            in text
        )
        assert "rejected Origin 'https://chat.example' (expected" in server.errors

    @quoted("Socket.IO needs its own server")
    def test_a_server_that_is_not_ours(self, window: Window, told: Told) -> None:
        port = window.page.goto(f"{window.url}/other").text()
        window.page.goto(f"http://127.0.0.1:{port}/page/all")
        told(window.says(f"io({{ {ONCE} }}); 0"))

    @quoted("a page loaded over https cannot connect to …")
    def test_mixed_content(self, window: Window, told: Told) -> None:
        # A page from https, by way of the browser: what it asks for is taken from our server.
        window.page.route(
            "https://page.example/**",
            lambda route: route.fulfill(
                response=route.fetch(
                    url=route.request.url.replace("https://page.example", window.url)
                )
            ),
        )
        window.page.goto("https://page.example/page/all")
        told(window.says(f"io('http://chat.example', {{ {ONCE} }}); 0"))

    @quoted("the Content-Security-Policy of the page blocks the connection")
    def test_a_policy(self, window: Window, told: Told) -> None:
        window.open("policy")
        told(window.says(f"new io.Socket({{ {ONCE} }}).connect(); 0"))

    @quoted("packets are queued until the socket connects: call connect()")
    @pytest.mark.parametrize("what", ["send('hello')", "subscribe('room-1')"])
    def test_connect_forgotten(self, what: str, window: Window, told: Told) -> None:
        window.page.clock.install()
        window.open("all")
        window.page.evaluate(f"socket = new io.Socket(); socket.{what}; 0")
        with window.page.expect_console_message() as message:
            window.page.clock.fast_forward(5001)
        told(message.value.text)

    def test_once_however_often_it_is_tried(self, window: Window) -> None:
        window.open("all")
        said: list[str] = []
        window.page.on("console", lambda message: said.append(message.text))
        window.page.evaluate(
            """() => new Promise((resolve) => {
                const socket = io({path: "/nowhere", reconnectionDelay: 1, reconnectionDelayMax: 1});
                let times = 0;
                socket.on("connect_error", () => { if (++times === 3) resolve(socket.disconnect()); });
            })"""
        )
        assert len([text for text in said if text.startswith("webpy_socketio: ")]) == 1

    def test_nothing_when_all_is_well_or_the_server_is_away(self, window: Window) -> None:
        window.open("all")
        said: list[str] = []
        window.page.on("console", lambda message: said.append(message.text))
        answer = window.page.evaluate(
            """async () => {
                const socket = new io.Socket("/known");
                socket.connect();
                const answer = await socket.emitWithAck("hello");
                socket.disconnect();
                return answer;
            }"""
        )
        assert answer == "hello"
        window.page.route("**/rt/?*", lambda route: route.abort())
        window.page.evaluate(
            """() => new Promise((resolve) => {
                const socket = new io.Socket({reconnection: false});
                socket.on("connect_error", resolve);
                socket.connect();
            }).then(() => 0)"""
        )
        assert [text for text in said if text.startswith("webpy_socketio: ")] == []

    def test_a_pages_own_listener_hears_what_it_always_did(self, window: Window) -> None:
        window.open("all")
        reason = window.page.evaluate(
            """() => new Promise((resolve) => {
                io({path: "/nowhere", reconnection: false})
                    .on("connect_error", (error) => resolve(error.message));
            })"""
        )
        assert reason == "xhr poll error"


class TestScripts:
    @quoted("io is not defined")
    def test_no_client(self, window: Window, told: Told) -> None:
        window.open("none")
        told(window.fails("io()"))

    @quoted("Cannot read properties of undefined (reading …)")
    @quoted("socket.subscribe is not a function")
    @quoted("socket.presence is not a function")
    def test_no_extension(self, window: Window, told: Told) -> None:
        window.open("client")
        told(window.fails("new io.Socket()"))
        told(window.fails("const socket = io({autoConnect: false}); socket.subscribe('room-1')"))
        told(window.fails("const socket = io({autoConnect: false}); socket.presence('room-1')"))

    @quoted("webpy_socketio.js needs the Socket.IO client 4")
    def test_no_client_before_the_extension(self, window: Window, told: Told) -> None:
        with window.page.expect_event("pageerror") as error:
            window.open("extension")
        told(str(error.value))
