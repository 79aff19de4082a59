"""Execute the JavaScript and the programs of the documentation in headless Chromium."""

from __future__ import annotations

import pytest

from tests.servers import Served, ServerProcess, application_source
from tests.snippets import ROOT, Page, all_pages
from tests.windows import Visitors, Windows, expect

PAGES = {path.relative_to(ROOT).as_posix(): Page.read(path) for path in all_pages()}

#: Defines a function that snippets use without definition.
PROLOGUE = "const show = (what) => shown.push(what);"

#: Runs after all snippets of a page.
EPILOGUE = """
if (!socket.connected) await new Promise((done) => socket.once("connect", done));
await socket.emitWithAck("barrier");
"""

SOURCE = application_source(
    """
import re

OPTIONS = {
    "namespaces": ["/", re.compile("/tenant-[0-9]+$")],
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

@on_event("order")
def order(request, socket, context, items):
    return {"number": 1}

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
    """Return a function with all JavaScript blocks without caption of a page."""
    blocks = "\n".join(block.text for block in PAGES[name].uncaptioned("javascript"))
    return "async () => {\nwindow.shown = [];\n" + PROLOGUE + blocks + EPILOGUE + "return shown;\n}"


@pytest.mark.parametrize(
    "name", [name for name, page in PAGES.items() if page.uncaptioned("javascript")]
)
def test_javascript_snippets_run(name, windows):
    windows.open("/").evaluate(script(name))


def test_presence_lists_members(windows):
    page = windows.open("/")
    page.evaluate(script("docs/how-to/presence.rst"))
    page.wait_for_function("shown.length > 1")
    assert page.evaluate("shown.slice(0, 2)") == [["Ann"], 1]


def test_rejected_client_is_redirected_to_login(windows):
    page = windows.open("/?before")
    page.context.add_cookies([{"name": "refused", "value": "1", "url": windows.url}])
    blocks = PAGES["docs/how-to/authorization.rst"].blocks("javascript")
    page.evaluate("() => {\n" + blocks[0] + "\n}")
    expect(page).to_have_url(f"{windows.url}/")


@pytest.mark.parametrize("name", ["docs/index.rst", "docs/start/quickstart.rst"])
def test_first_program_sends_messages_to_both_windows(name, chromium, tmp_path):
    (tmp_path / "chat.py").write_text(PAGES[name].files()["chat.py"])
    served = Served(["webpy_socketio", "serve", "chat:app", "--port", "0", "--quiet"], tmp_path)
    served.ready()
    windows = Visitors(chromium, f"http://127.0.0.1:{served.port}")
    try:
        pages = [windows.open("/"), windows.open("/")]
        for page in pages:
            page.wait_for_function("() => socket.channels.includes('room-1')")
        pages[0].get_by_label("Message").fill("Hello")
        pages[0].keyboard.press("Enter")
        for page in pages:
            expect(page.get_by_role("listitem")).to_have_text(["Hello"])
    finally:
        windows.close()
        served.close()
