"""The demo during interruptions: its state is shown, and messages arrive exactly once."""

import re

import pytest

from tests.windows import (
    drop_answers,
    expect,
    join,
    listen,
    log,
    message_box,
    messages,
    people,
    receive_answers,
    say,
    sent,
    state,
    stop_clock,
    waiting,
    write_to,
)


def test_open_pages_reconnect_after_restart(windows, chat):
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
    bob.get_by_role("button", name="Send", exact=True).click()
    expect(messages(ann)).to_have_text(["Before", "Not sent yet"])
    say(ann, "After")
    expect(messages(bob)).to_have_text(["Before", "Not sent yet", "After"])
    expect(messages(looking)).to_have_text(["Before", "Not sent yet", "After"])
    expect(ann.locator(".message.own > .text")).to_have_text(["Before", "After"])
    for page in (ann, bob):
        expect(log(page)).not_to_contain_text("left")


def test_name_taken_during_outage_can_be_changed(windows, chat):
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


def test_offline_page_loses_no_messages(windows):
    ann, bob, cleo = (windows.open(name=name) for name in ("Ann", "Bob", "Cleo"))
    say(ann, "one")
    for page in (ann, bob, cleo):
        expect(messages(page)).to_have_text(["one"])

    ann.context.set_offline(True)
    expect(ann.get_by_role("status")).to_have_text("You are offline. Your messages are sent later.")
    expect(ann.get_by_role("button", name="Try now")).to_be_hidden()
    cleo.context.set_offline(True)
    expect(state(cleo)).to_have_attribute("data-state", "offline")
    say(bob, "two")
    say(ann, "four")
    write_to(ann, "Bob")
    say(ann, "only for Bob")
    expect(waiting(ann)).to_have_text(["four", "only for Bob"])
    expect(messages(bob)).to_have_text(["one", "two"])
    say(bob, "three")
    expect(messages(bob)).to_have_text(["one", "two", "three"])
    for page in (ann, cleo):
        expect(messages(page)).to_have_text(["one"])
    cleo.context.set_offline(False)
    expect(messages(cleo)).to_have_text(["one", "two", "three"])

    ann.context.set_offline(False)
    expect(state(ann)).to_have_attribute("data-state", "online")
    for page in (ann, bob):
        expect(page.locator(".message:not(.private) > .text")).to_have_text(
            ["one", "two", "three", "four"]
        )
        expect(page.locator(".private .text")).to_have_text(["only for Bob"])
    expect(waiting(ann)).to_have_count(0)
    expect(messages(cleo)).to_have_text(["one", "two", "three", "four"])


@pytest.mark.parametrize("private", [False, True], ids=["to all", "private"])
def test_message_repeated_after_lost_answer_is_stored_once(windows, private):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    if private:
        write_to(ann, "Bob")
    drop_answers(ann)
    say(ann, "once")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["once"])
    ann.context.set_offline(True)
    expect(waiting(ann)).to_have_text(["once"])  # the page has no answer yet
    receive_answers(ann)
    listen(ann)
    ann.context.set_offline(False)
    expect(state(ann)).to_have_attribute("data-state", "online")
    say(ann, "twice")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["once", "twice"])
    # Only the second message: the connection is recovered, and the first one is answered.
    assert len(sent(ann, "private" if private else "message")) == 1
    expect(ann.locator("#say-error")).to_have_text("")


def test_missing_message_is_detected_and_fetched(windows):
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    bob.evaluate(
        """() => {
            const onevent = io.Socket.prototype.onevent;
            window.lost = false;
            io.Socket.prototype.onevent = function (packet) {
                if (packet.data[0] !== "message" || lost) return onevent.call(this, packet);
                lost = true;
            };
        }"""
    )
    say(ann, "lost")
    bob.wait_for_function("() => lost")
    say(ann, "found")
    expect(messages(bob)).to_have_text(["lost", "found"])


def test_history_is_shown_and_not_announced(windows):
    ann = windows.open(name="Ann")
    for number in range(3):
        say(ann, f"number {number}")
        expect(messages(ann)).to_have_count(number + 1)
    late = windows.open()
    expect(messages(late)).to_have_text(["number 0", "number 1", "number 2"])
    late.context.close()
    windows.contexts.remove(late.context)

    # The log becomes a live region once the history is shown.
    slow = windows.open(java_script_enabled=False)
    expect(log(slow)).to_have_attribute("aria-live", "off")
    expect(log(ann)).to_have_attribute("aria-live", "polite")


def test_reconnection_is_shown_and_can_be_triggered(windows, chat):
    ann = windows.open(name="Ann", clock=True)
    stop_clock(ann)
    chat.stop()
    expect(state(ann)).to_have_attribute("data-state", "waiting")
    expect(ann.locator(".connection")).to_contain_text("Connection lost. Reconnecting in 1 s")
    expect(ann.get_by_role("status")).to_have_text(
        "Connection lost. Reconnecting"
    )  # without the countdown
    ann.get_by_role("button", name="Try now").click()
    ann.clock.resume()
    expect(ann.locator(".connection")).to_contain_text(
        re.compile(r"The server cannot be reached. Trying again in \d s")
    )
    say(ann, "Anybody?")
    chat.start()
    ann.get_by_role("button", name="Try now").focus()
    ann.keyboard.press("Enter")
    expect(ann.get_by_role("status")).to_have_text("Connected")
    expect(ann.get_by_role("button", name="Try now")).to_be_hidden()
    expect(message_box(ann)).to_be_focused()  # when the button is hidden
    expect(messages(ann)).to_have_text(["Anybody?"])
