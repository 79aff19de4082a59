"""The JavaScript of the documentation, in headless Chromium."""

from __future__ import annotations

import pytest

from .servers import ServerProcess, application_source
from .snippets import ROOT, Page, all_pages
from .windows import Windows, _chromium, _own_patience, expect

__all__ = ["_chromium", "_own_patience"]  # fixtures

PAGES = {path.relative_to(ROOT).as_posix(): Page.read(path) for path in all_pages()}

#: What a page's snippets may use without saying where it comes from.
BEFORE = "const show = (what) => shown.push(what);"

#: Run when all others have.
AFTER = """
if (!socket.connected) await new Promise((done) => socket.once("connect", done));
await socket.emitWithAck("barrier");
"""

SOURCE = application_source(
    """
OPTIONS = {
    "plugins": ["webpy_socketio.plugins.presence"],
    "presence_key": lambda request, socket, context: "Ann",
}
urls = ("/", "page", "/favicon.ico", "icon")

class page:
    def GET(self):
        web.header("Content-Type", "text/html; charset=utf-8")
        return f"<head>{socketio_scripts()}</head>"

class icon:
    def GET(self):
        raise web.HTTPError("204 No Content")

@on_connecting
def gate(request, socket, context):
    if "refused" in web.cookies():
        raise Refused("log in first")

@on_event("barrier")
def barrier(request, socket, context):
    return True

@on_message(channel="^(table|room)-")
def delivered(request, socket, context, message):
    return {"ok": True}
"""
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ServerProcess(SOURCE, tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def windows(chromium, server):
    windows = Windows(chromium, server.url)
    yield windows
    windows.close()


def script(name):
    """The loose JavaScript of a page, one after the other in one function."""
    blocks = "\n".join(block.text for block in PAGES[name].loose("javascript"))
    return "async () => {\nwindow.shown = [];\n" + BEFORE + blocks + AFTER + "return shown;\n}"


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.loose("javascript")])
def test_it_runs(name, windows):
    windows.open("/").evaluate(script(name))


def test_presence_shows_who_is_here(windows):
    page = windows.open("/")
    page.evaluate(script("docs/guides/presence.rst"))
    page.wait_for_function("shown.length > 1")
    assert page.evaluate("shown.slice(0, 2)") == [["Ann"], 1]


def test_who_is_refused_goes_to_the_login(windows):
    page = windows.open("/?before")
    page.context.add_cookies([{"name": "refused", "value": "1", "url": windows.url}])
    blocks = PAGES["docs/guides/authorization.rst"].blocks("javascript")
    page.evaluate("() => {\n" + blocks[0] + "\n}")
    expect(page).to_have_url(f"{windows.url}/")
