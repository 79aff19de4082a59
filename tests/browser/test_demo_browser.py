"""The demo in windows of headless Chromium."""

import re

import pytest

from tests.windows import (
    ROGUE,
    SENT_AWAY,
    expect,
    join,
    listen,
    log,
    message_box,
    messages,
    people,
    say,
    sent,
    sign_in,
    state,
    stop_clock,
    write_to,
)


def test_two_users_exchange_messages(windows):
    ann = windows.open(name="Ann")
    expect(log(ann)).to_have_text("You joined")
    bob = windows.open(name="Bob")
    expect(log(ann)).to_contain_text("Bob joined")
    for page in (ann, bob):
        expect(people(page)).to_have_text(["Ann", "Bob"])
        expect(page.locator("#count")).to_have_text("2")
    expect(bob.locator("#people .self")).to_contain_text("Bob")
    expect(log(bob)).to_have_text("You joined")  # Ann joined before: listed, but not logged

    say(ann, "Hello Bob")
    say(bob, "Hello Ann")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["Hello Bob", "Hello Ann"])
        expect(page.locator(".message .by .name")).to_have_text(["Ann", "Bob"])
        expect(page.locator(".message time").first).to_have_attribute("datetime", re.compile("Z$"))
    expect(ann.locator(".message.own > .text")).to_have_text(["Hello Bob"])
    expect(bob.locator(".message.own > .text")).to_have_text(["Hello Ann"])
    expect(message_box(ann)).to_have_value("")


def test_content_security_policy_allows_websocket(windows):
    page = windows.open("/")
    with page.expect_websocket() as opened:
        page.goto("/room/lobby")
    join(page, "Ann")
    with opened.value.expect_event("framereceived", lambda frame: "through it" in str(frame)):
        say(page, "through it")


def test_name_in_use_is_rejected_in_the_same_room(windows):
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


def test_leaving_releases_the_name(windows):
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


def test_closing_the_window_leaves_the_room(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    expect(people(ann)).to_have_text(["Ann", "Bob"])
    bob.close()
    expect(log(ann)).to_contain_text("Bob left")
    expect(people(ann)).to_have_text(["Ann"])


def test_list_of_rooms_counts_users(windows):
    windows.open(name="Ann")
    windows.open(name="Bob")
    rooms = windows.open("/")
    expect(rooms.get_by_role("link", name="Lobby")).to_contain_text("2 here")
    expect(rooms.get_by_role("link", name="Kaffeeküche")).to_contain_text("empty")


def test_system_message_reaches_one_room_or_all(windows):
    lobby, kitchen = windows.open(name="Ann"), windows.open("/room/kaffeeküche")
    expect(kitchen.locator("#room")).to_have_attribute("data-state", "online")
    sneak = windows.open("/")
    sneak.evaluate(
        """async () => {
            const csrf = document.querySelector("[name=csrf]").value;
            const body = new URLSearchParams({csrf, text: "Sneaky", room: ""});
            await fetch("/sysmsg", {method: "POST", body});
        }"""
    )
    form = windows.open("/sysmsg")
    sign_in(form)

    form.get_by_label("To").select_option("Lobby")
    form.get_by_label("Message").fill("Only <b>here</b>")
    form.get_by_role("button", name="Send", exact=True).click()
    expect(form.get_by_role("status")).to_have_text("Sent.")
    form.get_by_label("To").select_option("All rooms")
    form.get_by_label("Message").fill("For everybody")
    form.get_by_role("button", name="Send", exact=True).click()
    expect(form.get_by_role("status")).to_have_text("Sent.")

    expect(lobby.locator(".system .text")).to_have_text(["Only <b>here</b>", "For everybody"])
    expect(kitchen.locator(".system .text")).to_have_text(["For everybody"])


def test_reload_keeps_the_name(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    say(bob, "Before")
    expect(messages(ann)).to_have_text(["Before"])
    ann.reload()
    expect(message_box(ann)).to_be_focused()
    expect(people(ann)).to_have_text(["Ann", "Bob"])
    expect(log(ann).locator("p").last).to_have_text("You joined")  # below the history
    say(ann, "Still Ann")
    expect(messages(bob)).to_have_text(["Before", "Still Ann"])
    expect(log(bob)).not_to_contain_text("left")


def test_reload_after_leaving_asks_for_a_name(windows):
    ann = windows.open(name="Ann")
    ann.get_by_role("button", name="Leave").click()
    ann.reload()
    expect(state(ann)).to_have_attribute("data-state", "online")
    expect(ann.get_by_label("Your name")).to_be_focused()
    expect(people(ann)).to_have_count(0)


def test_reload_in_another_room_asks_for_a_name(windows):
    ann = windows.open(name="Ann")
    ann.goto("/room/kaffeeküche")
    expect(state(ann)).to_have_attribute("data-state", "online")
    expect(ann.get_by_label("Your name")).to_be_visible()


def test_tabs_of_one_browser_are_one_user(windows):
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
    expect(log(bob)).to_contain_text("Ann left")
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


def test_unusual_texts_and_names_arrive_unchanged(windows):
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
        # An Arabic name does not change the direction of adjacent text.
        isolated = "nodes => nodes.map((node) => getComputedStyle(node).unicodeBidi)"
        assert set(page.locator(".name").evaluate_all(isolated)) == {"isolate"}
    arabic = messages(bob).nth(ODD_TEXTS.index("مرحبا، كيف حالك؟ (123)"))
    assert arabic.evaluate("text => getComputedStyle(text).direction") == "rtl"


def test_too_long_input_is_reported_and_kept(windows):
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
    # Text entered before the answer arrives is kept.
    message_box(ann).evaluate(
        """field => {
            field.value = "m".repeat(2001);
            field.form.requestSubmit();
            field.value = "the next one";
        }"""
    )
    expect(ann.locator("#say-error")).to_contain_text("at most 2000 characters")
    expect(message_box(ann)).to_have_value("the next one")


def test_server_validates_input(windows):
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
                await ask("private", document.getElementById("room").dataset.who, "psst"),
                await ask("leave"),
                await ask("private", "somebody", "psst"),
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
        "That is you.",
        "ok",
        "Join first.",
        "Join first.",
    ]
    expect(messages(page)).to_have_text(["fine"])


def test_missing_room_shows_no_chat(windows):
    page = windows.open("/room/nowhere")
    expect(page.get_by_role("heading")).to_have_text("Not Found")
    windows.errors.clear()  # Chromium itself logs the 404
    page.get_by_role("link", name="All rooms").click()
    page.get_by_label("Name").fill("Nowhere <else>")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("heading", name="Nowhere <else>")).to_be_visible()
    join(page, "Ann")


# -- presence


def test_list_of_users_counts_tabs(windows):
    ann = windows.open(name="Ann")
    bob = windows.open(name="Bob")
    second = windows.open(name="Bob", context=bob.context)
    item = ann.get_by_role("listitem").filter(has_text="Bob")
    expect(item).to_contain_text("2 tabs")
    second.close()
    expect(item).not_to_contain_text("tabs")
    assert log(ann).inner_text().count("Bob") == 1  # further tabs are not logged


def test_users_joining_together_are_logged_together(windows):
    ann = windows.open(name="Ann", clock=True)
    windows.open(name="Bob")
    expect(log(ann)).to_contain_text("Bob joined")
    stop_clock(ann)
    expect(people(ann)).to_have_text(["Ann", "Bob"])
    for name in ("Cleo", "Dora", "Eve", "Finn"):
        windows.open(name=name)
        expect(people(ann).last).to_have_text(name)
        ann.clock.run_for(200)
    # The first one is logged at once, the others after a second.
    expect(log(ann).locator("p").last).to_have_text("Cleo joined")
    ann.clock.run_for(1_000)
    expect(log(ann).locator("p").last).to_have_text("Dora, Eve and Finn joined")


#: Names that are rejected while Ann is in the room, with the reason.
CONFUSABLE_NAMES = {
    "Admin": "That name is reserved.",
    "System\N{ZERO WIDTH SPACE} message": "That name is reserved.",
    "\N{CYRILLIC CAPITAL LETTER A}nn": "That name mixes alphabets whose letters look alike.",
    "An\N{HANGUL FILLER}n": "That name is in use here.",
}


def test_confusable_names_are_rejected(windows):
    windows.open(name="Ann")
    other = windows.open()
    expect(people(other)).to_have_text(["Ann"])
    for name, message in CONFUSABLE_NAMES.items():
        other.get_by_label("Your name").fill(name)
        other.keyboard.press("Enter")
        expect(other.locator("#join-error")).to_have_text(message)
        other.locator("#join-error").evaluate("error => error.textContent = ''")


# -- typing indicators


#: Counts received typing indicators as window.notes, on a separate connection.
HEAR = """async () => {
    window.notes = 0;
    const socket = new io.Socket();
    socket.on("typing", (name, who, on) => (notes += on));
    socket.connect();
    await socket.subscribe("room-lobby");
}"""

#: Fills the log with many lines.
FILL = """async (count) => {
    const { addEvent } = await import("/static/log.js");
    for (let i = 0; i < count; i++) addEvent(["Bob"], `event ${i}`);
}"""


def typing(page):
    return page.locator("#typing")


def test_typing_note_is_shown_until_text_is_sent_or_cleared(windows):
    ann, bob, cleo = (windows.open(name=name) for name in ("Ann", "Bob", "Cleo"))
    message_box(ann).press_sequentially("Hel")
    expect(typing(bob)).to_have_text("Ann is typing…")
    message_box(cleo).press_sequentially("Me too")
    expect(typing(bob)).to_have_text("Ann and Cleo are typing…")
    expect(typing(ann)).to_have_text("Cleo is typing…")  # not the own note
    ann.keyboard.press("Enter")
    expect(typing(bob)).to_have_text("Cleo is typing…")
    message_box(cleo).fill("")
    expect(typing(bob)).to_have_text("")
    expect(messages(windows.open())).to_have_text(["Hel"])  # notes are not stored


def test_typing_note_expires_and_is_repeated(windows):
    ann, bob = windows.open(name="Ann", clock=True), windows.open(name="Bob", clock=True)
    listen(ann)
    stop_clock(ann)
    message_box(ann).press_sequentially("A long story")
    expect(typing(bob)).to_have_text("Ann is typing…")
    assert sent(ann, "typing") == [[True]]
    ann.clock.run_for(2_000)
    message_box(ann).press_sequentially(" goes on")
    assert sent(ann, "typing") == [[True], [True]]
    bob.clock.fast_forward(6_000)
    expect(typing(bob)).to_have_text("")


def test_private_message_sends_no_typing_note(windows):
    ann, bob, cleo = (windows.open(name=name) for name in ("Ann", "Bob", "Cleo"))
    listen(ann)
    write_to(ann, "Bob")
    message_box(ann).press_sequentially("psst")
    ann.keyboard.press("Enter")
    expect(messages(bob)).to_have_text(["psst"])
    assert sent(ann, "typing") == []
    expect(typing(cleo)).to_have_text("")


def test_frequent_typing_notes_are_throttled(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    bob.evaluate(HEAR)
    ann.evaluate(ROGUE.replace("Bob", "Ann"))
    for _ in range(2):
        ann.evaluate("async () => { for (let i = 0; i < 20; i++) rogue.emit('typing', true); }")
        ann.evaluate("rogue.emitWithAck('message', 'a barrier')")
    ann.evaluate("rogue.disconnect()")
    expect(messages(bob)).to_have_count(2)
    assert 0 < bob.evaluate("notes") < 20  # one per second, on any machine


# -- the log


def test_log_does_not_scroll_while_older_lines_are_read(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    for page in (ann, bob):
        page.evaluate(FILL, 60)
        expect(log(page)).to_contain_text("event 59")
    top = "document.getElementById('log').scrollTop"
    assert ann.evaluate(top) > 0
    ann.evaluate(f"async () => {{ {top} = 0; await new Promise(requestAnimationFrame); }}")
    say(bob, "Hello")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["Hello"])
    assert ann.evaluate(top) == 0
    expect(messages(ann)).not_to_be_in_viewport()
    expect(messages(bob)).to_be_in_viewport()
    say(ann, "Hello to you")  # own messages always scroll to the end
    expect(messages(ann).last).to_be_in_viewport()


def test_log_removes_old_lines(windows):
    ann = windows.open(name="Ann")
    ann.evaluate(FILL, 600)
    expect(log(ann)).to_contain_text("event 599")
    assert ann.evaluate("document.getElementById('log').childElementCount") == 500
    say(ann, "Still here")
    expect(messages(ann)).to_have_text(["Still here"])


def test_line_breaks_are_kept(windows):
    ann = windows.open(name="Ann")
    say(ann, "one\ntwo  words")
    expect(messages(ann)).to_have_css("white-space-collapse", "preserve")
    assert messages(ann).evaluate("node => node.innerText") == "one\ntwo  words"


def test_enter_during_composition_sends_nothing(windows):
    """Enter selects characters in Japanese and Chinese input methods."""
    ann = windows.open(name="Ann")
    message_box(ann).fill("kan")
    press = """(node, isComposing) => node.dispatchEvent(
        new KeyboardEvent(
            "keydown", {key: "Enter", isComposing, bubbles: true, cancelable: true}))"""
    message_box(ann).evaluate(press, True)
    expect(message_box(ann)).to_have_value("kan")
    message_box(ann).evaluate(press, False)
    expect(messages(ann)).to_have_text(["kan"])
    expect(message_box(ann)).to_have_value("")


# -- private messages


def test_private_message_reaches_all_tabs_of_one_user_only(windows):
    ann, bob, cleo = (windows.open(name=name) for name in ("Ann", "Bob", "Cleo"))
    bobs = [bob, windows.open(name="Bob", context=bob.context)]
    anns = [ann, windows.open(name="Ann", context=ann.context)]
    expect(cleo.get_by_role("listitem").filter(has_text="tabs")).to_have_count(2)

    write_to(ann, "Bob")
    expect(ann.locator("#to")).to_contain_text("Private, to Bob only")
    say(ann, "Only <b>you</b>")
    ann.keyboard.press("Escape")
    expect(ann.locator("#to")).to_be_hidden()
    say(ann, "All of you")
    for page in (*anns, *bobs):
        expect(messages(page)).to_have_text(["Only <b>you</b>", "All of you"])
    for page in bobs:
        expect(page.locator(".private .by")).to_contain_text("Private from Ann")
    for page in anns:
        expect(page.locator(".private.own .by")).to_contain_text("Private to Bob")
    expect(messages(cleo)).to_have_text(["All of you"])
    expect(messages(windows.open(context=bob.context))).to_have_text(["All of you"])  # not kept


def test_undeliverable_private_message_is_reported_and_kept(windows, chat):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    write_to(ann, "Bob")
    # After a lost connection, presence still lists the user, but no message can arrive.
    bob.context.close()
    windows.contexts.remove(bob.context)
    while "unsubscribe" not in chat.process.next_line():
        pass
    say(ann, "Are you there?")
    expect(ann.locator("#say-error")).to_have_text(
        "They have just left; your message was not delivered."
    )
    expect(message_box(ann)).to_have_value("Are you there?")
    expect(people(ann)).to_have_text(["Ann"])
    say(ann, "And now?")
    expect(ann.locator("#say-error")).to_have_text(
        "They have just left; your message was not delivered."
    )
    ann.get_by_role("button", name="To all").click()
    say(ann, "Fine")
    expect(messages(ann)).to_have_text(["Fine"])


# -- admins


def test_admins_room_shows_reason_and_login(windows):
    page = windows.open("/room/admins")
    expect(page.get_by_role("status")).to_have_text("Only admins may enter this room.")
    expect(page.get_by_label("Your name")).to_be_hidden()
    page.get_by_role("link", name="Sign in").click()
    sign_in(page)
    expect(page.get_by_role("heading", name="Admins")).to_be_visible()
    join(page, "Ann")
    expect(page.get_by_role("listitem")).to_have_text("Ann(you)admin")
    say(page, "Among us")

    stranger = windows.open()
    answers = stranger.evaluate(
        """async () => {
            const socket = new io.Socket();
            socket.connect();
            const answers = [
                await socket.subscribe("admin-admins"), await socket.subscribe("room-admins")];
            // No handler takes this event before a room is entered, so it is not acknowledged.
            let acknowledged = false;
            socket.emit("history", 0, () => { acknowledged = true; });
            await socket.subscribe("room-lobby");
            answers.push(acknowledged);
            answers.push(await socket.emitWithAck("history", 0));
            answers.push(await socket.emitWithAck("send away", "somebody"));
            socket.disconnect();
            return answers;
        }"""
    )
    assert answers == [
        {"ok": False, "error": "Only admins may enter this room."},
        {"ok": False, "error": "There is no such room."},
        False,
        {"ok": True, "messages": []},
        {"ok": False, "error": "Only admins may do that."},
    ]


def test_admin_sends_user_away(windows):
    admin, bob, cleo = windows.open("/login"), windows.open(name="Bob"), windows.open(name="Cleo")
    sign_in(admin)
    admin.goto("/room/lobby")
    join(admin, "Ann")
    second = windows.open(name="Bob", context=bob.context)
    expect(cleo.get_by_role("button", name="Send away")).to_have_count(0)

    # Admins have no button for other admins, and the server rejects the event.
    admin.evaluate(ROGUE.replace("Bob", "Ann"))
    answer = admin.evaluate(
        'rogue.emitWithAck("send away", document.getElementById("room").dataset.who)'
    )
    assert answer == {"ok": False, "error": "Admins do not send each other away."}
    admin.evaluate("rogue.disconnect()")

    windows.excused = SENT_AWAY
    bob.evaluate(ROGUE)

    questions = []
    admin.on("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    admin.get_by_role("button", name="Send away Bob").click()
    for page in (bob, second):
        expect(page.get_by_role("status")).to_have_text("An admin has sent you away.")
    bob.wait_for_function("() => !rogue.connected")
    assert questions == ["Send Bob away for a minute?"]
    expect(people(cleo)).to_have_text(["Ann", "Cleo"])
    bob.get_by_role("button", name="Try now").click()
    expect(bob.get_by_role("status")).to_have_text(re.compile(r"You may come back in \d+ s\.$"))
    expect(state(bob)).to_have_attribute("data-state", "stopped")


def test_logout_disconnects_the_admins_pages(windows):
    inside = windows.open("/login?to=admins")
    sign_in(inside)
    join(inside, "Ann")
    outside = windows.open("/", context=inside.context)
    outside.get_by_role("button", name="Sign out").click()
    expect(outside.get_by_role("link", name="Admin", exact=True)).to_be_visible()
    expect(inside.get_by_role("status")).to_have_text("You have signed out.")
    inside.get_by_role("button", name="Try now").click()
    expect(inside.get_by_role("status")).to_have_text("Only admins may enter this room.")


def test_form_cannot_be_sent_before_the_script_runs(windows):
    page = windows.open(java_script_enabled=False)
    expect(page.get_by_role("button", name="Join")).to_be_disabled()


# -- links, times, order


#: Messages, each with the texts of its links or their number.
LINKS = [
    ("see https://example.com/a?b=c#d.", ["https://example.com/a?b=c#d"]),
    ("(http://example.com/a_(b)) and HTTP://EXAMPLE.COM!", 2),
    ('<https://example.com/>, "https://example.org"', 2),
    ("https://example.com/<script>alert(1)</script>", ["https://example.com/"]),
    ('https://example.com/"onmouseover="alert(1)', ["https://example.com/"]),
    ("javascript:alert(1) data:text/html,x ftp://example.com www.example.com", []),
    ("https:// http://[ nothttps://example.com/x", ["https://example.com/x"]),
    ("https://example.com/\N{RIGHT-TO-LEFT OVERRIDE}moc.live", ["https://example.com/"]),
]


def test_addresses_in_messages_are_safe_links(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    for number, (text, links) in enumerate(LINKS):
        say(ann, text)
        expect(messages(bob)).to_have_count(number + 1)
        message = messages(bob).last
        assert message.text_content() == text
        found = message.locator("a")
        addresses = found.evaluate_all("links => links.map((link) => link.textContent)")
        assert addresses == links if isinstance(links, list) else len(addresses) == links, text
        for link in found.all():
            expect(link).to_have_attribute("rel", "noopener noreferrer")
            assert re.match("https?://", link.evaluate("link => link.href"))
            assert link.evaluate("link => link.getAttributeNames().sort()") == [
                *("class", "href", "rel", "target")
            ]
        assert bob.locator("#room script").count() == 0


def test_links_in_private_and_system_messages_are_links(windows):
    ann, bob = windows.open("/login"), windows.open(name="Bob")
    sign_in(ann)
    ann.goto("/room/lobby")
    join(ann, "Ann")
    write_to(ann, "Bob")
    say(ann, "https://example.com/private")
    ann.goto("/sysmsg")
    ann.get_by_label("Message").fill("https://example.com/system")
    ann.get_by_role("button", name="Send", exact=True).click()
    for name in ("private", "system"):
        link = bob.get_by_role("link", name=f"https://example.com/{name}")
        expect(link).to_have_attribute("rel", "noopener noreferrer")


#: Evaluates `clock` for 9:05 in the morning.
FIVE_PAST_NINE = """async () => {
    const { clock } = await import("/static/parts.js");
    return clock(new Date(2026, 0, 2, 9, 5) / 1000).textContent.replaceAll("\\u202f", " ");
}"""


@pytest.mark.parametrize(
    ("locale", "expected"),
    [("en-US", "9:05 AM"), ("en-GB", "9:05"), ("de-DE", "9:05"), ("ar-EG", "٩:٠٥ ص")],
)
def test_time_has_no_leading_zero(windows, locale, expected):
    page = windows.open(locale=locale)
    assert page.evaluate(FIVE_PAST_NINE) == expected


def log_texts(page):
    return log(page).locator(".event, .message > .text").all_text_contents()


def test_joined_line_precedes_the_first_message(windows):
    """Even if joining users are gathered at the moment."""
    ann = windows.open(name="Ann", clock=True)
    stop_clock(ann)
    for name in ("Bob", "Cleo", "Dora"):
        page = windows.open(name=name)
        say(page, f"I am {name}")
        expect(messages(ann).last).to_have_text(f"I am {name}")
    ann.clock.run_for(10_000)
    assert log_texts(ann) == [
        *("You joined", "Bob joined", "I am Bob", "Cleo joined", "I am Cleo"),
        *("Dora joined", "I am Dora"),
    ]


#: Delays `presence_diff` events after messages, as may happen with another process.
DELAY_PRESENCE = """() => {
    window.delayed = [];
    const onevent = io.Socket.prototype.onevent;
    io.Socket.prototype.onevent = function (packet) {
        if (packet.data[0] !== "presence_diff") return onevent.call(this, packet);
        delayed.push(() => onevent.call(this, packet));
    };
}"""


def test_joined_line_precedes_message_that_arrives_before_presence(windows):
    ann = windows.open(name="Ann")
    ann.evaluate(DELAY_PRESENCE)
    bob = windows.open(name="Bob")
    say(bob, "Hello")
    expect(messages(ann)).to_have_text(["Hello"])
    ann.wait_for_function("() => delayed.length > 0")
    ann.evaluate("delayed.splice(0).forEach((deliver) => deliver())")
    expect(people(ann)).to_have_text(["Ann", "Bob"])
    assert log_texts(ann) == ["You joined", "Bob joined", "Hello"]


def test_message_after_left_line_is_no_return(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    expect(log(ann)).to_contain_text("Bob joined")
    ann.evaluate(DELAY_PRESENCE.replace('!== "presence_diff"', '!== "message"'))
    say(bob, "Bye")
    bob.get_by_role("button", name="Leave").click()
    expect(log(ann)).to_contain_text("Bob left")
    ann.evaluate("delayed.splice(0).forEach((deliver) => deliver())")
    expect(messages(ann)).to_have_text(["Bye"])
    assert log_texts(ann) == ["You joined", "Bob joined", "Bob left", "Bye"]


def test_old_messages_precede_joined_line(windows):
    bob = windows.open(name="Bob")
    say(bob, "Before")
    expect(messages(bob)).to_have_count(1)
    ann = windows.open()
    join(ann, "Ann")
    assert log_texts(ann) == ["Before", "You joined"]


# -- hints, rejected and disabled pages


def test_hint_about_private_messages_is_shown_while_other_users_are_present(windows):
    ann = windows.open(name="Ann")
    hint = ann.get_by_text("Select a name to write to one person only.")
    expect(hint).to_be_hidden()
    bob = windows.open(name="Bob")
    expect(hint).to_be_visible()
    write_to(ann, "Bob")
    expect(hint).to_be_hidden()
    ann.get_by_role("button", name="To all").click()
    expect(hint).to_be_visible()
    bob.get_by_role("button", name="Leave").click()
    expect(hint).to_be_hidden()


def test_rejected_room_is_a_centered_card(windows):
    page = windows.open("/room/admins")
    expect(state(page)).to_have_attribute("data-state", "refused")
    for width in (1200, 360):
        page.set_viewport_size({"width": width, "height": 640})
        card = page.locator(".head").bounding_box()
        assert abs(card["x"] + card["width"] / 2 - width / 2) <= 1
        assert card["width"] < min(width, 500)
        assert 200 < card["y"] + card["height"] / 2 < 440
        button = page.get_by_role("link", name="Sign in")
        assert button.bounding_box()["height"] >= 40
        expect(page.get_by_role("link", name="All rooms")).to_be_visible()
        try_now = page.get_by_role("button", name="Try now")
        for part in (log(page), page.locator("#people"), try_now):
            expect(part).to_be_hidden()


def test_page_is_disabled_after_being_sent_away(windows):
    admin, bob = windows.open("/login"), windows.open(name="Bob")
    sign_in(admin)
    admin.goto("/room/lobby")
    join(admin, "Ann")
    message_box(bob).fill("Not sent")
    windows.excused = SENT_AWAY
    admin.on("dialog", lambda dialog: dialog.accept())
    admin.get_by_role("button", name="Send away Bob").click()
    expect(state(bob)).to_have_attribute("data-state", "stopped")
    expect(message_box(bob)).to_be_disabled()
    expect(message_box(bob)).to_have_value("Not sent")
    expect(bob.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    expect(bob.get_by_role("button", name="Leave")).to_be_hidden()
    expect(bob.locator("#people")).to_have_attribute("inert", "")
    expect(bob.get_by_role("button", name="Try now")).to_be_focused()
    expect(people(admin)).to_have_text(["Ann"])


def test_page_is_enabled_when_return_is_allowed(windows):
    bob = windows.open(name="Bob")
    signed = windows.open("/login", context=bob.context)
    sign_in(signed)
    signed.get_by_role("button", name="Sign out").click()
    expect(state(bob)).to_have_attribute("data-state", "stopped")
    expect(message_box(bob)).to_be_disabled()
    bob.get_by_role("button", name="Try now").click()
    expect(state(bob)).to_have_attribute("data-state", "online")
    expect(message_box(bob)).to_be_enabled()
    say(bob, "Back")
    expect(messages(bob)).to_have_text(["Back"])
