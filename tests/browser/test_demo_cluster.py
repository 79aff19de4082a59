"""The demo as two processes that share Redis, the database and the sessions."""

import pytest

from tests.demo import Chat, example
from tests.redis_server import RedisServer
from tests.windows import (
    ROGUE,
    SENT_AWAY,
    Windows,
    expect,
    join,
    log,
    message_box,
    messages,
    people,
    say,
    sign_in,
    write_to,
)


@pytest.fixture
def redis(tmp_path):
    server = RedisServer(tmp_path).start()
    server.keep()  # including presence, after the restart
    yield server
    server.stop()


@pytest.fixture
def sites(tmp_path, redis, chromium):
    """Windows on each of the two processes."""
    env = {"BACKPLANE": redis.url, "CHAT_DATA": str(tmp_path / "data")}
    chats = [Chat(tmp_path / name, **env) for name in ("one", "other")]
    sites = [Windows(chromium, chat.url) for chat in chats]
    yield sites
    for windows in sites:
        windows.close()
    for chat in chats:
        chat.stop()


def test_users_of_two_processes_share_rooms(sites):
    one, other = sites
    ann, bob = one.open("/login"), other.open(name="Bob")
    sign_in(ann)
    ann.goto("/room/lobby")
    join(ann, "Ann")
    second = one.open(name="Cleo")
    for page in (ann, bob, second):
        expect(people(page)).to_have_text(["Ann", "Bob", "Cleo"])
    expect(log(bob)).to_contain_text("Ann joined")
    expect(other.open("/").get_by_role("link", name="Lobby")).to_contain_text("3 here")

    message_box(bob).press_sequentially("Hel")
    expect(ann.locator("#typing")).to_have_text("Bob is typing…")
    say(bob, "Hello")
    expect(messages(ann)).to_have_text(["Hello"])
    say(ann, "Hello Bob")
    write_to(bob, "Ann")
    say(bob, "psst")
    for page in (ann, bob):
        expect(messages(page)).to_have_text(["Hello", "Hello Bob", "psst"])
    expect(messages(second)).to_have_text(["Hello", "Hello Bob"])
    expect(messages(other.open())).to_have_text(["Hello", "Hello Bob"])

    stranger = other.open()
    stranger.get_by_label("Your name").fill("Ann")
    stranger.keyboard.press("Enter")
    expect(stranger.locator("#join-error")).to_have_text("That name is in use here.")

    other.excused = SENT_AWAY
    bob.evaluate(ROGUE)
    # The admin's session is valid in both processes, and sending away affects both.
    ann.on("dialog", lambda dialog: dialog.accept())
    ann.get_by_role("button", name="Send away Bob").click()
    expect(bob.get_by_role("status")).to_have_text("An admin has sent you away.")
    bob.evaluate("() => { rogue.emit('message', 'Ha'); }")  # must not be received, see below
    bob.wait_for_function("() => !rogue.connected")
    expect(people(ann)).to_have_text(["Ann", "Cleo"])
    expect(messages(second)).to_have_text(["Hello", "Hello Bob"])
    ann.goto(f"{other.url}/sysmsg")
    ann.get_by_label("Message").fill("To everybody")
    ann.get_by_role("button", name="Send", exact=True).click()
    expect(ann.get_by_role("status")).to_have_text("Sent.")
    expect(second.locator(".system .text")).to_have_text(["To everybody"])


def test_messages_missed_by_redis_are_fetched(sites, redis, tmp_path):
    bob = sites[1].open(name="Bob")
    say(bob, "Hello")
    expect(messages(bob)).to_have_text(["Hello"])
    # Sent by a process that is cut off, and no later message reveals the gap.
    keep = 'messages.keep("room-lobby", "eve", "Eve", "Where is everybody?", None)'
    example(tmp_path / "data", f"import messages; {keep}")
    redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
    expect(messages(bob)).to_have_text(["Hello", "Where is everybody?"])


def test_presence_is_unavailable_without_redis(sites, redis):
    one, other = sites
    ann, bob = one.open(name="Ann"), other.open()
    redis.stop()
    say(ann, "Talking goes on")
    expect(messages(ann)).to_have_text(["Talking goes on"])
    rooms = one.open("/")
    expect(rooms.get_by_text("The number of users is currently unavailable.")).to_be_visible()
    expect(rooms.get_by_role("link", name="Lobby")).not_to_contain_text("here")
    bob.get_by_label("Your name").fill("Ann")
    bob.keyboard.press("Enter")
    expect(bob.locator("#join-error")).to_have_text(
        "The list of users is unavailable. Try again soon."
    )
    redis.start()
    while bob.locator("#join-error").text_content() != "That name is in use here.":
        bob.get_by_role("button", name="Join").click()
    say(ann, "And again")
    expect(messages(bob)).to_have_text(["Talking goes on", "And again"])
