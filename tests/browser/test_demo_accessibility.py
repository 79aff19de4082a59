"""Accessibility of the demo: keyboard, screen reader, dark mode, small screens."""

import re
from pathlib import Path

import pytest

from tests.demo import PAGES
from tests.windows import (
    expect,
    join,
    log,
    message_box,
    messages,
    say,
    sign_in,
    state,
    write_to,
)

AXE = Path(__file__).parents[1] / "js" / "node_modules" / "axe-core" / "axe.min.js"


def test_chat_is_usable_by_keyboard(windows):
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


def test_pages_fit_a_small_phone(windows):
    phone = {"viewport": {"width": 320, "height": 560}}
    room = windows.open(name="W" * 40, **phone)
    say(room, "x" * 2000)
    expect(messages(room)).to_have_count(1)
    admin = windows.open("/login", **phone)
    sign_in(admin)
    pages = [windows.open(path, context=admin.context) for path in PAGES]
    for page in (room, admin, *pages, windows.open("/room/admins", **phone)):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(FITS)
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            brightness = sum(int(part) for part in re.findall(r"\d+", background)) / 3
            assert (brightness > 128) == (scheme == "light")


FITS = "document.documentElement.scrollWidth <= innerWidth"

PHONE = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}


def test_room_fits_a_phone(windows):
    ann, bob = windows.open(name="Ann", **PHONE), windows.open(name="Bob", **PHONE)
    assert ann.evaluate(FITS)
    write_to(ann, "Bob")
    say(ann, "https://example.com/" + "long" * 100)
    expect(messages(bob)).to_have_count(1)
    for page in (ann, bob, windows.open(**PHONE), windows.open("/room/admins", **PHONE)):
        assert page.evaluate(FITS)
        expect(page.get_by_role("heading", level=1)).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("resizes", [True, False], ids=["page resized", "page covered"])
def test_input_stays_above_the_on_screen_keyboard(windows, resizes):
    """Some browsers shrink the page for the on-screen keyboard, others cover its lower half."""
    ann, bob = windows.open(name="Ann", **PHONE), windows.open(name="Bob", **PHONE)
    for number in range(8):
        say(bob, f"number {number}")
        expect(messages(ann)).to_have_count(number + 1)
    write_to(ann, "Bob")
    left = 340
    if resizes:
        ann.set_viewport_size({"width": 360, "height": left})
    else:
        ann.evaluate(
            """(height) => {
                Object.defineProperty(visualViewport, "height", { get: () => height });
                visualViewport.dispatchEvent(new Event("resize"));
            }""",
            left,
        )
    for part in (message_box(ann), ann.get_by_role("button", name="Send", exact=True)):
        box = part.bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= left
    expect(messages(ann).last).to_be_in_viewport(ratio=1)  # and not hidden by the edge of the log
    assert ann.evaluate(FITS)


def test_axe_finds_no_violations(windows):
    if not AXE.exists():
        pytest.skip("axe-core is not installed: run npm ci in tests/js (make test does)")
    options = {"reduced_motion": "reduce"}
    bob = windows.open(name="Bob", **options)
    refused = windows.open("/room/admins", context=bob.context)
    expect(state(refused)).to_have_attribute("data-state", "refused")
    check(refused)
    for path in ("/", "/login", "/room/nowhere"):
        check(windows.open(path, context=bob.context))
    check(bob)

    ann = windows.open("/login", **options)
    ann.get_by_label("Password").fill("wrong")
    ann.keyboard.press("Enter")
    expect(ann.get_by_role("alert")).to_be_visible()
    check(ann)
    sign_in(ann)
    check(windows.open("/sysmsg", context=ann.context))
    ann.goto("/room/lobby")
    check(ann)
    join(ann, "Ann")
    say(ann, "Hello")
    expect(messages(ann)).to_have_count(1)
    message_box(bob).press_sequentially("Hm")
    expect(ann.locator("#typing")).to_have_text("Bob is typing…")
    write_to(bob, "Ann")
    say(bob, "psst")
    expect(messages(ann)).to_have_count(2)
    write_to(ann, "Bob")
    check(ann)
    ann.context.set_offline(True)
    say(ann, "Later")
    expect(ann.get_by_role("list", name="Waiting to be sent")).to_be_visible()
    check(ann)
    ann.context.set_offline(False)
    expect(state(ann)).to_have_attribute("data-state", "online")
    ann.on("dialog", lambda dialog: dialog.accept())
    ann.get_by_role("button", name="Send away Bob").click()
    expect(state(bob)).to_have_attribute("data-state", "stopped")
    check(bob)
    windows.errors.clear()  # Chromium itself logs the 403 and 404


def check(page):
    """Check a page with axe-core, dark and narrow, light and wide; it must find nothing."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(AXE.read_text(encoding="utf-8"))
    for scheme, width in (("dark", 320), ("light", 1200)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 700})
        found = page.evaluate("axe.run().then((results) => results.violations)")
        assert [(it["id"], [node["html"] for node in it["nodes"]]) for it in found] == [], page.url


FOCUSED = r"""() => {
    const node = document.activeElement, style = getComputedStyle(node);
    const name = node.id || node.ariaLabel || node.textContent.trim().split("\n")[0];
    return [name, style.outlineStyle, parseFloat(style.outlineWidth)];
}"""


def test_tab_reaches_every_control_with_visible_focus(windows):
    windows.open(name="Bob")
    ann = windows.open("/login")
    sign_in(ann)
    ann.goto("/room/lobby")
    join(ann, "Ann")
    expect(ann.get_by_role("listitem")).to_have_count(2)
    ann.locator(".skip").focus()
    reached = []
    while "Send" not in reached:
        ann.keyboard.press("Tab")
        name, style, width = ann.evaluate(FOCUSED)
        assert (style, width >= 2) == ("solid", True), name
        reached.append(name)
        assert len(reached) < 30, reached
    assert reached == [
        *("Chat", "Rooms", "System message", "Sign out", "leave"),
        *("Here now 2", "Private message to Bob", "Send away Bob", "log", "text", "Send"),
    ]


def test_private_message_is_sent_by_keyboard(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    expect(ann.get_by_role("listitem")).to_have_count(2)
    for _ in range(2):
        ann.keyboard.press("Shift+Tab")
    expect(ann.get_by_role("button", name="Private message to Bob")).to_be_focused()
    windows.open(name="Abe")  # a joining user must not move the focus
    expect(ann.get_by_role("listitem")).to_have_count(3)
    expect(ann.get_by_role("button", name="Private message to Bob")).to_be_focused()
    ann.keyboard.press("Enter")
    ann.keyboard.type("psst")
    ann.keyboard.press("Enter")
    ann.keyboard.press("Escape")
    ann.keyboard.type("Hello")
    ann.keyboard.press("Enter")
    expect(messages(bob)).to_have_text(["psst", "Hello"])
    expect(bob.locator(".private .text")).to_have_text(["psst"])


def test_focus_moves_to_input_when_focused_user_leaves(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    button = ann.get_by_role("button", name="Private message to Bob")
    button.focus()
    bob.get_by_role("button", name="Leave").click()
    expect(button).to_have_count(0)
    expect(message_box(ann)).to_be_focused()


def test_skip_link_leads_to_the_content(windows):
    page = windows.open("/")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)[:2] == ["Skip to the content", "solid"]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Lobby")).to_be_focused()


def test_live_regions_announce_messages_and_state(windows):
    ann = windows.open(name="Ann")
    bob = windows.open(name="Bob")
    expect(log(ann)).to_contain_text("Bob joined")
    say(bob, "Hello")
    expect(messages(ann)).to_have_count(1)
    expect(ann.get_by_role("main")).to_match_aria_snapshot(
        """
        - heading "Lobby" [level=1]
        - status: Connected
        - button "Leave"
        - region "Here now 2":
          - heading "Here now 2" [level=2]
          - list:
            - listitem: Ann (you)
            - listitem:
              - button "Private message to Bob"
        - log "Messages":
          - paragraph: You joined
          - paragraph: Bob joined
          - paragraph: /Bob/
          - paragraph: Hello
        - text: Message as Ann
        - textbox "Message as Ann"
        - button "Send"
        """
    )
    live = ann.evaluate(
        "[...document.querySelectorAll('[role=log], [role=status], [role=alert], [aria-live]')]"
        ".map(node => node.id)"
    )
    # The list of users, typing indicators and the countdown would interrupt too often.
    assert live == ["state", "log", "join-error", "say-error"]


def test_reduced_motion_disables_animations(windows):
    ann = windows.open(name="Ann")
    say(ann, "Hello")
    for motion, animation in (("reduce", "none"), ("no-preference", "appear")):
        ann.emulate_media(reduced_motion=motion)
        expect(ann.locator(".message")).to_have_css("animation-name", animation)
