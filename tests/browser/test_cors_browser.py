"""A page of another origin in headless Chromium: preflights, credentials and client scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers import ServerProcess, application_source

#: Serves the page.
PAGES = application_source(
    """
class page:
    def GET(self):
        web.header("Content-Type", "text/html; charset=utf-8")
        return "<!doctype html><title>a page</title>"

urls = ("/", "page")
"""
)

#: Serves Socket.IO to clients with a token in a header.
SERVER = application_source(
    """
OPTIONS = {"allowed_origins": os.environ["ALLOWED"].split()}

def authorized(handler):
    web.header("X-Tenant", "north")
    web.header("Access-Control-Expose-Headers", "X-Tenant")
    if web.ctx.path == "/socket.io/" and web.ctx.env.get("HTTP_AUTHORIZATION") != "Bearer secret":
        raise web.unauthorized()
    return handler()

@on_event("origin")
def origin(request, socket, context):
    return request["HTTP_ORIGIN"]
"""
).replace(
    "server = SocketIOServer", "application.add_processor(authorized)\nserver = SocketIOServer"
)

#: Loads the client's script, connects with headers of the page's own, and calls a handler.
CONNECT = """([url, crossorigin]) => new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = `${url}/socket.io/socket.io.min.js`;
    if (crossorigin) script.crossOrigin = crossorigin;
    script.onerror = () => resolve("script blocked");
    script.onload = () => {
        const socket = io(url, {
            transports: ["polling"],
            withCredentials: true,
            reconnection: false,
            extraHeaders: { Authorization: "Bearer secret", "X-Other": "1" },
        });
        socket.on("connect_error", (error) => resolve(error.message));
        socket.emit("origin", resolve);
    };
    document.head.append(script);
})"""

#: What a page can read of a handshake's response.
HANDSHAKE = """([url, token]) => fetch(`${url}/socket.io/?EIO=4&transport=polling`, {
    credentials: "include",
    headers: token ? { Authorization: token } : {},
}).then(
    (response) => [response.status, response.headers.get("X-Tenant")],
    (error) => error.name,
)"""

Open = Callable[[str], tuple[Any, str, str]]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(PAGES, tmp_path_factory.mktemp("pages"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def serve(
    pages: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], ServerProcess]]:
    """Return the server that allows these origins, where {} is the page's; started once."""
    servers: dict[str, ServerProcess] = {}

    def serve(allowed: str) -> ServerProcess:
        if allowed not in servers:
            env = {"ALLOWED": allowed.format(pages.url)}
            servers[allowed] = ServerProcess(SERVER, tmp_path_factory.mktemp("server"), env)
        return servers[allowed]

    yield serve
    for server in servers.values():
        server.close()


@pytest.fixture
def open_page(
    chromium: Any, pages: ServerProcess, serve: Callable[[str], ServerProcess]
) -> Iterator[Open]:
    """Open a page for a server with these allowed origins.

    Returns the page, its origin, and the address of the server.
    """
    context = chromium.new_context()

    def start(allowed: str) -> tuple[Any, str, str]:
        page = context.new_page()
        page.goto(pages.url)
        return page, pages.url, serve(allowed).url

    yield start
    context.close()


@pytest.mark.parametrize("allowed", ["{}", "*"], ids=["named", "any"])
@pytest.mark.parametrize("crossorigin", ["", "anonymous", "use-credentials"])
def test_allowed_page_loads_the_script_and_connects_with_its_own_headers(
    allowed: str, crossorigin: str, open_page: Open
) -> None:
    page, origin, url = open_page(allowed)
    assert page.evaluate(CONNECT, [url, crossorigin]) == origin


def test_allowed_page_reads_headers_and_refusals_of_the_application(open_page: Open) -> None:
    page, _, url = open_page("{}")
    assert page.evaluate(HANDSHAKE, [url, "Bearer secret"]) == [200, "north"]
    assert page.evaluate(HANDSHAKE, [url, "Bearer wrong"]) == [401, "north"]
    assert page.evaluate(HANDSHAKE, [url, ""]) == [401, "north"]


def test_other_page_reads_nothing_and_does_not_connect(open_page: Open) -> None:
    page, _, url = open_page("https://elsewhere.example")
    assert page.evaluate(CONNECT, [url, "anonymous"]) == "script blocked"
    assert page.evaluate(CONNECT, [url, ""]) == "xhr poll error"
    assert page.evaluate(HANDSHAKE, [url, "Bearer secret"]) == "TypeError"


def test_sandboxed_frame_connects_only_if_null_is_allowed(open_page: Open) -> None:
    for allowed, expected in (("null", "null"), ("{}", "xhr poll error")):
        page, _, url = open_page(allowed)
        page.evaluate(
            """() => new Promise((resolve) => {
                const frame = document.createElement("iframe");
                frame.sandbox = "allow-scripts";
                frame.srcdoc = "<title>sandboxed</title>";
                frame.onload = resolve;
                document.body.append(frame);
            })"""
        )
        assert page.frames[-1].evaluate(CONNECT, [url, ""]) == expected
