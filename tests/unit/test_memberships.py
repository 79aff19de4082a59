"""Memberships of a socket as intervals of message numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from webpy_socketio import memberships
from webpy_socketio.memberships import Memberships


def held(found: Memberships, channel: str = "room", last: int = 20) -> list[int]:
    """Return the numbers of the messages that were sent while the channel was held."""
    is_held = found.index()
    return [number for number in range(1, last + 1) if is_held((channel,), number)]


def test_membership_begins_after_the_last_message_before_joining() -> None:
    found = Memberships()
    found.join("room", 17)
    assert held(found) == [18, 19, 20]


def test_membership_ends_with_the_last_message_before_leaving() -> None:
    found = Memberships()
    found.join("room", 2)
    found.leave("room", 4, 0)
    found.join("room", 17)
    assert held(found) == [3, 4, 18, 19, 20]
    assert held(found, "other") == []


def test_membership_without_messages_is_not_stored() -> None:
    found = Memberships()
    for _ in range(1000):
        found.join("room", 5)
        found.leave("room", 5, 0)
    assert len(found) == 0


def test_memberships_before_the_oldest_message_are_forgotten() -> None:
    found = Memberships()
    for number in range(0, 100, 2):
        found.join("room", number)
        found.leave("room", number + 1, number - 10)
    assert len(found) <= 12


def test_number_of_memberships_is_limited_and_raises_the_floor() -> None:
    found = Memberships()
    for number in range(memberships.MAX_ENDED + 10):
        found.join("room", number)
        found.leave("room", number + 1, 0)
    assert len(found) == memberships.MAX_ENDED
    assert found.floor == 10


@given(st.lists(st.sampled_from(["join a", "join b", "leave a", "leave b", "send"]), max_size=60))
def test_memberships_match_a_recorded_history(steps: list[str]) -> None:
    found, last = Memberships(), 0
    now: set[str] = set()
    history: dict[int, set[str]] = {}
    for step in steps:
        action, _, channel = step.partition(" ")
        if action == "send":
            last += 1
            history[last] = set(now)
        elif action == "join":
            found.join(channel, last)
            now.add(channel)
        else:
            found.leave(channel, last, 0)
            now.discard(channel)
    is_held = found.index()
    for number, channels in history.items():
        for channel in "ab":
            assert is_held((channel,), number) is (channel in channels)
        assert is_held(("a", "b"), number) is bool(channels)
