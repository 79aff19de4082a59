"""Windows of headless Chromium for the tests of the demo, and actions of users."""

import re
import shutil

import pytest

from .demo import PASSWORD

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright, which drives the browser, is not installed"
)
expect = sync_api.expect

#: The browser; the first one has no windows of its own, and needs two thirds of the CPU time.
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))),
    None,
)
if CHROMIUM is None:
    pytest.skip("there is no chromium on this machine", allow_module_level=True)

#: Features of Chromium that the tests do without: two pages per window for suggestions in its
#: address bar, which need half of a window's CPU time, and those that Playwright disables.
DISABLED_FEATURES = [
    *("AimEnabled", "AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose"),
    *("HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay", "MediaRouter"),
    *("NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch"),
    *("ThirdPartyStoragePartitioning", "Translate", "WebUIOmniboxAimPopup", "WebUIOmniboxPopup"),
]
ARGUMENTS = [
    f"--disable-features={','.join(DISABLED_FEATURES)}",  # replaces Playwright's list
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
]
#: Chromium's own messages about an unreachable server; other console errors fail the test.
SERVER_AWAY = re.compile("net::ERR_|WebSocket connection to .* failed")

expect.set_options(timeout=30_000)  # upper limit; no test depends on its length


class Windows:
    """Opens windows, by default in separate browser contexts, and collects console errors."""

    def __init__(self, chromium, url):
        self.chromium = chromium
        self.url = url
        self.contexts = []
        self.errors = []
        #: Prefix of an error that the test may provoke.
        self.excused = None

    def open(self, path="/room/lobby", name=None, context=None, clock=False, **options):
        if context is None:
            context = self.chromium.new_context(base_url=self.url, **options)
            context.on("console", self._console)
            context.on("weberror", lambda error: self.errors.append(str(error.error)))
            self.contexts.append(context)
        page = context.new_page()
        if clock:  # a clock that the test controls
            page.clock.install()
        page.goto(path)
        if name is not None:
            join(page, name)
        return page

    def close(self):
        """Close all windows; fail if there were console errors."""
        for context in self.contexts:
            context.close()
        errors = [text for text in self.errors if not SERVER_AWAY.search(text)]
        if self.excused is not None:
            errors = [text for text in errors if not text.startswith(self.excused)]
        assert errors == [], errors

    def _console(self, message):
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)


class Visitors(Windows):
    """Windows that ignore the missing favicon, which Chromium requests."""

    def _console(self, message):
        if not message.location["url"].endswith("/favicon.ico"):
            super()._console(message)


def join(page, name):
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(message_box(page)).to_be_focused()


def sign_in(page):
    """Sign in on the login page."""
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


def waiting(page):
    return page.get_by_role("list", name="Waiting to be sent").get_by_role("listitem")


def drop_answers(page):
    """Make the page ignore acknowledgements, as if they were lost."""
    page.evaluate(
        "() => { window.onack = io.Socket.prototype.onack; io.Socket.prototype.onack = () => {}; }"
    )


def receive_answers(page):
    """End `drop_answers`."""
    page.evaluate("() => { io.Socket.prototype.onack = onack; }")


def write_to(page, name):
    """Address the next messages to this user only."""
    page.get_by_role("button", name=f"Private message to {name}").click()
    expect(message_box(page)).to_be_focused()


def stop_clock(page):
    """Stop the page's clock, after a few seconds that pass at once."""
    page.clock.pause_at(page.evaluate("Date.now() / 1000 + 10"))  # in seconds


#: Records the calls of `emit` as window.sent.
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
    """Return the arguments of one event that were sent since `listen`."""
    return [args for name, *args in page.evaluate("sent") if name == event]


#: The client script's warning to a page that sends after it was sent away.
SENT_AWAY = "webpy_socketio: packets are queued until the socket connects"

#: Another connection, whose page ignores the request to disconnect.
ROGUE = """async () => {
    window.rogue = new io.Socket({ reconnection: false });
    rogue.connect();
    await rogue.subscribe("room-lobby");
    await rogue.emitWithAck("join", "Bob");
}"""
