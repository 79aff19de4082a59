"""The demo in headless Chromium: people chat in real windows."""

import re
import shutil

import pytest

from .test_example import Chat

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


@pytest.fixture(autouse=True)
def _patience():
    """Instead of the one in conftest: `expect` has a limit of its own, and gevent's would end the
    driver in the middle of a switch.
    """


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def chat(tmp_path):
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

    def open(self, path="/room/lobby", name=None, context=None, **options):
        if context is None:
            context = self.chromium.new_context(base_url=self.url, **options)
            context.on("console", self._console)
            context.on("weberror", lambda error: self.complaints.append(str(error.error)))
            self.contexts.append(context)
        page = context.new_page()
        page.goto(path)
        if name is not None:
            join(page, name)
        return page

    def _console(self, message):
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


@pytest.fixture
def windows(chromium, chat):
    windows = Windows(chromium, chat.url)
    yield windows
    for context in windows.contexts:
        context.close()
    assert [text for text in windows.complaints if not SERVER_AWAY.search(text)] == []


def join(page, name):
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(message_box(page)).to_be_focused()


def sign_in(page):
    """On the login page, to which whoever is no admin was led."""
    page.get_by_label("Password").fill("let me in")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def message_box(page):
    return page.get_by_label("Message as")


def say(page, text):
    message_box(page).fill(text)
    page.get_by_role("button", name="Send").click()


def log(page):
    return page.get_by_role("log")


def people(page):
    return page.locator("#people .name")


def messages(page):
    return page.locator(".message > .text")


def test_two_people_chat(windows):
    ann = windows.open(name="Ann")
    expect(log(ann)).to_have_text("You joined")
    bob = windows.open(name="Bob")
    expect(log(ann)).to_contain_text("Bob joined")
    for page in (ann, bob):
        expect(people(page)).to_have_text(["Ann", "Bob"])
        expect(page.locator("#count")).to_have_text("2")
    expect(bob.locator("#people .self")).to_contain_text("Bob")
    expect(log(bob)).to_have_text("You joined")  # Ann was there before: on the list, not in the log

    say(ann, "Hello Bob")
    say(bob, "Hello Ann")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["Hello Bob", "Hello Ann"])
        expect(page.locator(".message .by .name")).to_have_text(["Ann", "Bob"])
        expect(page.locator(".message time").first).to_have_attribute("datetime", re.compile("Z$"))
    expect(ann.locator(".message.own > .text")).to_have_text(["Hello Bob"])
    expect(bob.locator(".message.own > .text")).to_have_text(["Hello Ann"])
    expect(message_box(ann)).to_have_value("")


def test_the_policy_of_the_page_lets_a_websocket_through(windows):
    page = windows.open("/")
    with page.expect_websocket() as opened:
        page.goto("/room/lobby")
    join(page, "Ann")
    with opened.value.expect_event("framereceived", lambda frame: "through it" in str(frame)):
        say(page, "through it")


def test_a_name_is_used_once_in_a_room(windows):
    windows.open(name="Ann")
    other = windows.open()
    expect(people(other)).to_have_text(["Ann"])
    for name in ("Ann", "ANN", " ann ", "A\N{ZERO WIDTH SPACE}nn"):
        other.get_by_label("Your name").fill(name)
        other.keyboard.press("Enter")
        expect(other.get_by_role("alert").first).to_have_text("That name is in use here.")
        expect(message_box(other)).to_be_hidden()
        other.locator("#join-error").evaluate("error => error.textContent = ''")
    join(other, "Anna")
    expect(people(other)).to_have_text(["Ann", "Anna"])
    windows.open("/room/kaffeeküche", name="Ann")  # another room, another Ann


def test_leaving_gives_the_name_back(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    expect(people(ann)).to_have_text(["Ann", "Bob"])
    bob.get_by_role("button", name="Leave").click()
    expect(bob.get_by_label("Your name")).to_be_focused()
    expect(message_box(bob)).to_be_hidden()
    expect(log(bob)).to_contain_text("You left")
    expect(log(ann)).to_contain_text("Bob left")
    expect(people(ann)).to_have_text(["Ann"])
    say(ann, "He still looks on")
    expect(messages(bob)).to_have_text(["He still looks on"])
    windows.open(name="Bob")


def test_a_closed_window_leaves(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    expect(people(ann)).to_have_text(["Ann", "Bob"])
    bob.close()
    expect(log(ann)).to_contain_text("Bob left")
    expect(people(ann)).to_have_text(["Ann"])


def test_the_list_of_rooms_counts_people(windows):
    windows.open(name="Ann")
    windows.open(name="Bob")
    rooms = windows.open("/")
    expect(rooms.get_by_role("link", name="Lobby")).to_contain_text("2 here")
    expect(rooms.get_by_role("link", name="Kaffeeküche")).to_contain_text("empty")


def test_a_system_message_reaches_one_room_or_all(windows):
    lobby, kitchen = windows.open(name="Ann"), windows.open("/room/kaffeeküche")
    expect(kitchen.locator("#room")).to_have_attribute("data-state", "online")
    form = windows.open("/sysmsg")
    sign_in(form)

    form.get_by_label("To").select_option("Lobby")
    form.get_by_label("Message").fill("Only <b>here</b>")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("status")).to_have_text("Sent.")
    form.get_by_label("To").select_option("All rooms")
    form.get_by_label("Message").fill("For everybody")
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("status")).to_have_text("Sent.")

    expect(lobby.locator(".system .text")).to_have_text(["Only <b>here</b>", "For everybody"])
    expect(kitchen.locator(".system .text")).to_have_text(["For everybody"])


def test_after_a_restart_open_pages_come_back_by_themselves(windows, chat):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    looking = windows.open()
    expect(people(looking)).to_have_text(["Ann", "Bob"])
    say(ann, "Before")
    for page in (ann, bob, looking):
        expect(messages(page)).to_have_text(["Before"])
    message_box(bob).fill("Not sent yet")

    chat.stop()
    for page in (ann, bob, looking):
        expect(page.locator("#state")).to_have_text(re.compile("Connection lost|cannot be reached"))
    chat.start()

    for page in (ann, bob, looking):
        expect(page.locator("#room")).to_have_attribute("data-state", "online")
        expect(page.locator("#state")).to_have_text("Connected")
        expect(people(page)).to_have_text(["Ann", "Bob"])
    expect(message_box(bob)).to_have_value("Not sent yet")
    bob.get_by_role("button", name="Send").click()
    expect(messages(ann)).to_have_text(["Before", "Not sent yet"])
    say(ann, "After")
    expect(messages(bob)).to_have_text(["Before", "Not sent yet", "After"])
    expect(messages(looking)).to_have_text(["Before", "Not sent yet", "After"])
    expect(ann.locator(".message.own > .text")).to_have_text(["Before", "After"])
    for page in (ann, bob):
        expect(log(page)).not_to_contain_text("left")


def test_a_name_taken_in_the_meantime_is_told_and_another_can_be_chosen(windows, chat):
    ann = windows.open(name="Ann")
    ann.context.route("**/socket.io/**", lambda route: route.abort())
    chat.stop()
    chat.start()
    other = windows.open(name="Ann")
    ann.context.unroute("**/socket.io/**")
    expect(ann.locator("#join-error")).to_have_text("That name is in use here.")
    expect(people(ann)).to_have_text(["Ann"])
    join(ann, "Ann the first")
    expect(people(other)).to_have_text(["Ann", "Ann the first"])


def test_a_reload_does_not_meet_its_own_ghost(windows):
    ann = windows.open(name="Ann")
    ann.reload()
    join(ann, "Ann")
    expect(people(ann)).to_have_text(["Ann"])


def test_two_tabs_of_one_browser_are_one_person(windows):
    bob = windows.open(name="Bob")
    ann = windows.open(name="Ann")
    second = windows.open(name="Ann", context=ann.context)
    expect(people(second)).to_have_text(["Ann", "Bob"])
    expect(bob.locator("#count")).to_have_text("2")
    say(ann, "From my first tab")
    expect(second.locator(".message.own > .text")).to_have_text(["From my first tab"])
    ann.get_by_role("button", name="Leave").click()
    expect(log(ann)).to_contain_text("You left")
    say(second, "Still here")
    expect(messages(bob)).to_have_text(["From my first tab", "Still here"])
    expect(people(bob)).to_have_text(["Ann", "Bob"])
    second.get_by_role("button", name="Leave").click()
    expect(people(bob)).to_have_text(["Bob"])
    assert log(bob).inner_text().count("Ann left") == 1


ODD_TEXTS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "&lt;b&gt; %s ${7*7} {{7*7}}",
    "مرحبا، كيف حالك؟ (123)",
    "\N{RIGHT-TO-LEFT OVERRIDE}drawkcab",
    "👩\N{ZERO WIDTH JOINER}👩\N{ZERO WIDTH JOINER}👧 🏳️\N{ZERO WIDTH JOINER}🌈",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 नमस्ते ქართული",
    "__proto__",
    "x" * 2000,
]


def test_odd_texts_and_names_arrive_as_they_are(windows):
    ann = windows.open(name="</p><img src=x onerror=alert(1)>")
    bob = windows.open(name="__proto__")
    fatima = windows.open(name="فاطمة 🌷")
    for page in (ann, bob, fatima):
        expect(people(page)).to_have_count(3)
    for number, text in enumerate(ODD_TEXTS, start=1):
        say(fatima, text)
        for page in (ann, bob, fatima):
            expect(messages(page)).to_have_count(number)
    for page in (ann, bob, fatima):
        assert messages(page).all_text_contents() == ODD_TEXTS
        assert page.locator("#room img, #room script").count() == 0
    arabic = messages(bob).nth(ODD_TEXTS.index("مرحبا، كيف حالك؟ (123)"))
    assert arabic.evaluate("text => getComputedStyle(text).direction") == "rtl"


def test_what_is_too_long_is_told_and_kept(windows):
    ann = windows.open()
    ann.get_by_label("Your name").evaluate("field => field.removeAttribute('maxlength')")
    ann.get_by_label("Your name").fill("n" * 41)
    ann.get_by_role("button", name="Join").click()
    expect(ann.locator("#join-error")).to_have_text(
        "A name has at most 40 characters; this one has 41."
    )
    join(ann, "n" * 40)
    message_box(ann).evaluate("field => field.removeAttribute('maxlength')")
    say(ann, "m" * 2001)
    expect(ann.locator("#say-error")).to_have_text(
        "A message has at most 2000 characters; this one has 2001."
    )
    expect(message_box(ann)).to_have_value("m" * 2001)
    say(ann, "short")
    expect(messages(ann)).to_have_text(["short"])
    expect(ann.locator("#say-error")).to_have_text("")


def test_the_server_checks_what_the_page_does_not(windows):
    page = windows.open()
    answers = page.evaluate(
        """async () => {
            const socket = new io.Socket();
            socket.connect();
            const ask = (...args) => socket.emitWithAck(...args);
            const answers = [
                await socket.subscribe("nowhere"),
                await socket.subscribe("room-nowhere"),
                await socket.subscribe("room-lobby"),
                await socket.subscribe("room-kaffeeküche"),
                await ask("message", "too early"),
                await ask("join", 7),
                await ask("join", "\u200b"),
                await ask("join", "Ann\u0007"),
                await ask("message", {html: "<b>"}),
                await ask("message", " \\n "),
                await ask("message", "fine"),
                await ask("leave"),
                await ask("message", "too late"),
            ];
            socket.disconnect();
            return answers.map((answer) => answer.ok ? answer.name ?? "ok" : answer.error);
        }"""
    )
    assert answers == [
        "There is no such room.",
        "There is no such room.",
        "ok",
        "One room at a time.",
        "Join first.",
        "A name needs at least one character.",
        "A name needs at least one character.",
        "Ann",
        "A message needs at least one character.",
        "A message needs at least one character.",
        "ok",
        "ok",
        "Join first.",
    ]
    expect(messages(page)).to_have_text(["fine"])


def test_the_keyboard_is_enough(windows):
    ann = windows.open()
    expect(ann.get_by_label("Your name")).to_be_focused()
    ann.keyboard.type("Ann")
    ann.keyboard.press("Enter")
    expect(message_box(ann)).to_be_focused()
    ann.keyboard.press("Enter")  # nothing to send
    ann.keyboard.type("one")
    ann.keyboard.press("Shift+Enter")
    ann.keyboard.type("two")
    ann.keyboard.press("Enter")
    expect(messages(ann)).to_have_count(1)
    assert messages(ann).text_content() == "one\ntwo"
    expect(message_box(ann)).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_small_phone_by_day_and_by_night(windows, scheme):
    phone = {"viewport": {"width": 320, "height": 560}, "color_scheme": scheme}
    room = windows.open(name="W" * 40, **phone)
    say(room, "x" * 2000)
    expect(messages(room)).to_have_count(1)
    for page in (room, windows.open("/", **phone), windows.open("/sysmsg", **phone)):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", background)) / 3
        assert (brightness > 128) == (scheme == "light")


def test_no_room_no_chat(windows):
    page = windows.open("/room/nowhere")
    expect(page.get_by_role("heading")).to_have_text("Not Found")
    windows.complaints.clear()  # the browser complains about the 404 itself
    page.get_by_role("link", name="All rooms").click()
    page.get_by_label("Name").fill("Nowhere <else>")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("heading", name="Nowhere <else>")).to_be_visible()
    join(page, "Ann")
