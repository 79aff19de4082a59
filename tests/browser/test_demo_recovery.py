"""The demo while the network is off: afterwards everything is there, each message once."""

import pytest

from tests.network import Network
from tests.windows import (
    Windows,
    drop_answers,
    expect,
    join,
    log,
    message_box,
    messages,
    people,
    receive_answers,
    say,
    sign_in,
    state,
    waiting,
    write_to,
)


@pytest.fixture
def network(chat, tmp_path):
    network = Network(chat.port, tmp_path)
    yield network
    network.close()


@pytest.fixture
def away(chromium, network):
    """Windows behind the network that the test switches off."""
    windows = Windows(chromium, network.url)
    yield windows
    windows.close()


def test_page_continues_where_it_was_after_the_network_was_off(away, windows, network):
    ann, bob = away.open(name="Ann"), windows.open(name="Bob")
    admin = windows.open("/login")
    sign_in(admin)
    say(ann, "one")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["one"])
    ann.evaluate(
        """() => {
            window.recovered = [];
            const { onconnect } = io.Socket.prototype;
            io.Socket.prototype.onconnect = function (...args) {
                onconnect.apply(this, args);
                recovered.push(this.recovered, this.id);
            };
        }"""
    )

    network.swallow()
    say(ann, "sent into the tunnel")
    say(bob, "two")  # on its way to Ann
    expect(messages(bob)).to_have_text(["one", "two"])
    network.turn_off()
    expect(state(ann)).to_have_attribute("data-state", "waiting")
    expect(waiting(ann)).to_have_text(["sent into the tunnel"])
    say(ann, "written in the tunnel")
    say(bob, "three")
    write_to(bob, "Ann")
    say(bob, "for Ann only")
    expect(messages(bob)).to_have_text(["one", "two", "three", "for Ann only"])
    admin.goto("/sysmsg")
    admin.get_by_label("Message").fill("To everybody")
    admin.get_by_role("button", name="Send", exact=True).click()
    expect(admin.get_by_role("status")).to_have_text("Sent.")
    expect(people(bob)).to_have_text(["Ann", "Bob"])  # Ann is still here
    expect(messages(ann)).to_have_text(["one"])

    network.turn_on()
    expect(state(ann)).to_have_attribute("data-state", "online")
    own = ["sent into the tunnel", "written in the tunnel"]
    expect(messages(ann)).to_have_text(["one", "two", "three", "for Ann only", *own])
    expect(messages(bob)).to_have_text(["one", "two", "three", "for Ann only", *own])
    expect(ann.locator(".system .text")).to_have_text(["To everybody"])
    expect(ann.locator(".message.own > .text")).to_have_text(["one", *own])
    expect(waiting(ann)).to_have_count(0)
    expect(people(ann)).to_have_text(["Ann", "Bob"])
    expect(ann.locator("#me")).to_have_text("Ann")
    for page in (ann, bob):
        expect(log(page)).not_to_contain_text("left")
    assert ann.evaluate("recovered[0]") is True
    assert len(ann.evaluate("recovered")) == 2  # one connection


def test_user_who_leaves_while_the_network_is_off_has_left_afterwards(away, windows, network):
    ann, bob = away.open(name="Ann"), windows.open(name="Bob")
    expect(people(bob)).to_have_text(["Ann", "Bob"])
    network.turn_off()
    expect(state(ann)).to_have_attribute("data-state", "waiting")
    ann.get_by_role("button", name="Leave").click()
    expect(people(bob)).to_have_text(["Ann", "Bob"])
    network.turn_on()
    expect(people(bob)).to_have_text(["Bob"])
    join(ann, "Anna")
    expect(people(bob)).to_have_text(["Anna", "Bob"])


@pytest.mark.parametrize("private", [False, True], ids=["to all", "private"])
def test_message_without_an_answer_is_stored_once_after_a_restart(windows, chat, private):
    """The connection is not recovered; the server recognizes the token of the message."""
    ann, bob = windows.open(name="Ann"), windows.open(name="Bob")
    if private:
        write_to(ann, "Bob")
    drop_answers(ann)
    say(ann, "once")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["once"])
    chat.stop()
    expect(waiting(ann)).to_have_text(["once"])  # the page has no answer yet
    receive_answers(ann)
    chat.start()
    for page in (ann, bob):
        expect(state(page)).to_have_attribute("data-state", "online")
    expect(waiting(ann)).to_have_count(0)
    say(ann, "twice")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["once", "twice"])
    expect(message_box(ann)).to_be_focused()
