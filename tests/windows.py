"""Real windows for the tests of the demo: headless Chromium, and what people do in it."""

import re
import shutil

import pytest

from .test_example import PASSWORD, Chat

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright, which drives the browser, is not installed"
)
expect = sync_api.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no chromium on this machine", allow_module_level=True)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
]
#: What Chromium says by itself when a server is away; everything else on a console is a fault.
SERVER_AWAY = re.compile("net::ERR_|WebSocket connection to .* failed")

expect.set_options(timeout=30_000)  # until what never happens fails; no test depends on its length


@pytest.fixture(autouse=True, name="_patience")
def _own_patience():
    """Instead of the one in conftest: `expect` has a limit of its own, and gevent's would end the
    driver in the middle of a switch.
    """


@pytest.fixture(scope="module", name="chromium")
def _chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(name="chat")
def _chat(tmp_path):
    chat = Chat(tmp_path)
    yield chat
    chat.stop()


class Windows:
    """Opens windows, each in a browser of its own unless told, and listens to their consoles."""

    def __init__(self, chromium, url):
        self.chromium = chromium
        self.url = url
        self.contexts = []
        self.complaints = []
        #: The beginning of a complaint that the test provokes, and that may come or not.
        self.excused = None

    def open(self, path="/room/lobby", name=None, context=None, clock=False, **options):
        if context is None:
            context = self.chromium.new_context(base_url=self.url, **options)
            context.on("console", self._console)
            context.on("weberror", lambda error: self.complaints.append(str(error.error)))
            self.contexts.append(context)
        page = context.new_page()
        if clock:  # one that the test may stop and turn
            page.clock.install()
        page.goto(path)
        if name is not None:
            join(page, name)
        return page

    def close(self):
        """Close them all; none of them may have complained."""
        for context in self.contexts:
            context.close()
        complaints = [text for text in self.complaints if not SERVER_AWAY.search(text)]
        if self.excused is not None:
            complaints = [text for text in complaints if not text.startswith(self.excused)]
        assert complaints == [], complaints

    def _console(self, message):
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


@pytest.fixture(name="windows")
def _windows(chromium, chat):
    windows = Windows(chromium, chat.url)
    yield windows
    windows.close()


def join(page, name):
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(message_box(page)).to_be_focused()


def sign_in(page):
    """On the login page, to which whoever is no admin was led."""
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def message_box(page):
    return page.get_by_label("Message as")


def say(page, text):
    message_box(page).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def log(page):
    return page.get_by_role("log")


def people(page):
    return page.locator("#people .name")


def messages(page):
    return page.locator(".message > .text")


def state(page):
    return page.locator("#room")


def write_to(page, name):
    """From now on what this one says is for that person only."""
    page.get_by_role("button", name=f"Private message to {name}").click()
    expect(message_box(page)).to_be_focused()


def stop_clock(page):
    """From now on time passes only as the test says; some seconds pass at once, none of which count."""
    page.clock.pause_at(page.evaluate("Date.now() / 1000 + 10"))  # in seconds


#: A page's own view of the client: what it sends by `emit`, as window.sent.
LISTEN = """() => {
    window.sent = [];
    const emit = io.Socket.prototype.emit;
    io.Socket.prototype.emit = function (...args) {
        sent.push(args.filter((arg) => typeof arg !== "function"));
        return emit.apply(this, args);
    };
}"""


def listen(page):
    page.evaluate(LISTEN)


def sent(page, event):
    """What was sent of one event, since `listen`."""
    return [args for name, *args in page.evaluate("sent") if name == event]


#: What the client script says to a page that goes on when it was sent away.
SENT_AWAY = "webpy_socketio: packets are queued until the socket connects"

#: A connection more, whose page does not go when it is told to.
ROGUE = """async () => {
    window.rogue = new io.Socket({ reconnection: false });
    rogue.connect();
    await rogue.subscribe("room-lobby");
    await rogue.emitWithAck("join", "Bob");
}"""
