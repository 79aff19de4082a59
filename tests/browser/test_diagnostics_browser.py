"""Messages in the browser's console about common mistakes of pages, in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers import ServerProcess, application_source

quoted = pytest.mark.quoted

#: Pages with all scripts, the client only, the extension only, no script, and a strict policy.
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
        return str(foreign.server_port)

urls = ("/other", "other", "/page/(.*)", "page")

@on_event("hello")
def hello(request, socket, context):
    return "hello"

# The same application on a plain WSGI server.
foreign = WSGIServer(
    ("127.0.0.1", 0), web.application(urls + socketio_urls, globals()).wsgifunc(), log=None
)
foreign.start()
"""
)


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

    def console_message(self, script: str) -> str:
        """Run a script, and return the message of the extension in the console."""
        with self.page.expect_console_message(
            lambda message: message.text.startswith("webpy_socketio: ")
        ) as message:
            self.page.evaluate(script)
        assert message.value.type == "error"
        return str(message.value.text)

    def page_error(self, script: str) -> str:
        """Run a script, and return its uncaught error."""
        with self.page.expect_event("pageerror") as error:
            self.page.evaluate(f"setTimeout(() => {{ {script} }})")
        return str(error.value)


@pytest.fixture
def window(chromium: Any, server: ServerProcess) -> Iterator[Window]:
    context = chromium.new_context()
    yield Window(context, server.url)
    context.close()


MatchQuote = Callable[[str], None]

#: Disables retries.
ONCE = "reconnection: false"


class TestConsole:
    @quoted("the server has no Socket.IO at …, but the server of this page has it at …")
    def test_wrong_path_is_explained(self, window: Window, match_quote: MatchQuote) -> None:
        window.open("all")
        text = window.console_message(f"io({{ {ONCE} }}); 0")
        match_quote(text)
        assert text.endswith(
            'at /socket.io, but the server of this page has it at /rt: io({path: "/rt"})'
        )

    @quoted("the server has no Socket.IO at …: add socketio_urls to its urls")
    def test_server_without_socketio_is_explained(
        self, window: Window, match_quote: MatchQuote
    ) -> None:
        window.open("all")
        window.page.route("**/rt/?*", lambda route: route.fulfill(status=404, body="not found"))
        match_quote(window.console_message(f"new io.Socket({{ {ONCE} }}).connect(); 0"))

    @quoted("the response at … is not Socket.IO")
    def test_page_at_the_path_is_explained(self, window: Window, match_quote: MatchQuote) -> None:
        window.open("all")
        match_quote(window.console_message(f"io({{path: '/page/x', {ONCE} }}); 0"))

    @quoted("the server has no namespace …")
    def test_unknown_namespace_is_explained(self, window: Window, match_quote: MatchQuote) -> None:
        window.open("all")
        text = window.console_message(f"io('/unknown', {{path: '/rt', {ONCE} }}); 0")
        match_quote(text)
        assert 'no namespace "/unknown"' in text

    @quoted("the server rejected this page (403)")
    def test_rejected_origin_is_explained(
        self, window: Window, server: ServerProcess, match_quote: MatchQuote
    ) -> None:
        window.open("all")
        window.page.route(
            "**/rt/?*",
            lambda route: route.fulfill(
                response=route.fetch(
                    headers={**route.request.headers, "origin": "https://chat.example"}
                )
            ),
        )
        text = window.console_message(f"new io.Socket({{ {ONCE} }}).connect(); 0")
        match_quote(text)
        assert (
            "Forbidden: this origin is not allowed; "
            "the log of the server names the setting to change"
        ) in text
        assert "rejected Origin 'https://chat.example' (expected" in server.errors

    @quoted("Socket.IO needs its own server")
    def test_foreign_wsgi_server_is_explained(
        self, window: Window, match_quote: MatchQuote
    ) -> None:
        port = window.page.goto(f"{window.url}/other").text()
        window.page.goto(f"http://127.0.0.1:{port}/page/all")
        match_quote(window.console_message(f"io({{ {ONCE} }}); 0"))

    @quoted("a page loaded over https cannot connect to …")
    def test_mixed_content_is_explained(self, window: Window, match_quote: MatchQuote) -> None:
        # The browser loads the https page from the test server.
        window.page.route(
            "https://page.example/**",
            lambda route: route.fulfill(
                response=route.fetch(
                    url=route.request.url.replace("https://page.example", window.url)
                )
            ),
        )
        window.page.goto("https://page.example/page/all")
        match_quote(window.console_message(f"io('http://chat.example', {{ {ONCE} }}); 0"))

    @quoted("the Content-Security-Policy of the page blocks the connection")
    def test_content_security_policy_is_explained(
        self, window: Window, match_quote: MatchQuote
    ) -> None:
        window.open("policy")
        match_quote(window.console_message(f"new io.Socket({{ {ONCE} }}).connect(); 0"))

    @quoted("packets are queued until the socket connects: call connect()")
    @pytest.mark.parametrize("what", ["send('hello')", "subscribe('room-1')"])
    def test_missing_connect_call_is_explained(
        self, what: str, window: Window, match_quote: MatchQuote
    ) -> None:
        window.page.clock.install()
        window.open("all")
        window.page.evaluate(f"socket = new io.Socket(); socket.{what}; 0")
        with window.page.expect_console_message() as message:
            window.page.clock.fast_forward(5001)
        match_quote(message.value.text)

    def test_repeated_failure_is_explained_once(self, window: Window) -> None:
        window.open("all")
        messages: list[str] = []
        window.page.on("console", lambda message: messages.append(message.text))
        window.page.evaluate(
            """() => new Promise((resolve) => {
                const options = {reconnectionDelay: 1, reconnectionDelayMax: 1};
                const socket = io({path: "/nowhere", ...options});
                let times = 0;
                socket.on("connect_error", () => {
                    if (++times === 3) resolve(socket.disconnect());
                });
            })"""
        )
        assert len([text for text in messages if text.startswith("webpy_socketio: ")]) == 1

    def test_success_and_unreachable_server_log_nothing(self, window: Window) -> None:
        window.open("all")
        messages: list[str] = []
        window.page.on("console", lambda message: messages.append(message.text))
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
        assert [text for text in messages if text.startswith("webpy_socketio: ")] == []

    def test_listener_of_the_page_receives_original_error(self, window: Window) -> None:
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
    def test_missing_client_is_explained(self, window: Window, match_quote: MatchQuote) -> None:
        window.open("none")
        match_quote(window.page_error("io()"))

    @quoted("Cannot read properties of undefined (reading …)")
    @quoted("socket.subscribe is not a function")
    @quoted("socket.presence is not a function")
    def test_missing_extension_is_explained(self, window: Window, match_quote: MatchQuote) -> None:
        window.open("client")
        match_quote(window.page_error("new io.Socket()"))
        match_quote(
            window.page_error("const socket = io({autoConnect: false}); socket.subscribe('room-1')")
        )
        match_quote(
            window.page_error("const socket = io({autoConnect: false}); socket.presence('room-1')")
        )

    @quoted("webpy_socketio.js needs the Socket.IO client 4")
    def test_extension_before_client_is_explained(
        self, window: Window, match_quote: MatchQuote
    ) -> None:
        with window.page.expect_event("pageerror") as error:
            window.open("extension")
        match_quote(str(error.value))
