"""The message log: numbers, bounds, positions and recipients."""

from __future__ import annotations

from typing import Any

import pytest

from webpy_socketio.backplane.filters import RecipientFilter
from webpy_socketio.engine.socketio import msgpack, packets
from webpy_socketio.engine.socketio.packets import encode_event
from webpy_socketio.engine.socketio.parser import as_json, read_event
from webpy_socketio.memberships import Memberships
from webpy_socketio.message_log import MessageLog


class Socket:
    """A recipient; it holds the channel "held"."""

    session_id = "me"

    def __init__(self, namespace: str = "/") -> None:
        self.namespace = namespace
        self.memberships = Memberships()
        self.memberships.join("held", 0)

    def is_in_feed(self, name: str) -> bool:
        return name == "+held"


class Time:
    """A clock that a test sets."""

    now = 0.0


def log_of(count: int, time: Time | None = None, **bounds: Any) -> MessageLog:
    """Return a log to which messages with the numbers from 1 were appended, one per second."""
    time = time or Time()
    values = {"seconds": 1000, "max_messages": 1000, "max_bytes": 1_000_000, **bounds}
    log = MessageLog("epoch", **values, now=lambda: time.now)
    for number in range(1, count + 1):
        time.now = number
        log.append(encode_event("/", "n", [number]), "/")
    return log


def numbers(log: MessageLog, position: int = 0) -> list[int]:
    """Return the numbers of the messages after a position, which are also their arguments."""
    found = log.missed(position, Socket())
    assert [read_event("/", message)[1] for _, message in found] == [number for number, _ in found]
    return [number for number, _ in found]


class TestNumbers:
    @pytest.mark.parametrize("parser", [packets, msgpack], ids=lambda parser: str(parser.NAME))
    @pytest.mark.parametrize("namespace", ["/", "/chat[1]"])
    @pytest.mark.parametrize(
        "args",
        [
            *([], [1], ["text"], [b"bytes", {"key": [b"more"]}]),
            *([0] * count for count in (13, 14, 15, 70_000)),
        ],
        ids=lambda args: str(args)[:10],
    )
    def test_append_returns_the_message_with_its_offset(
        self, parser: Any, namespace: str, args: list[Any]
    ) -> None:
        log = MessageLog("epoch", 1000, 1000, 1_000_000, lambda: 5, parser)
        message = parser.encode_event(namespace, "event", args)
        numbered = log.append(message, namespace)
        before, after = as_json(message), as_json(numbered)
        assert read_event(namespace, after) == [*read_event(namespace, before), "epoch.1"]
        assert after.attachments == before.attachments
        ((_, replayed),) = log.missed(0, Socket(namespace))
        for name in ("attachments", "count", "frames", "payload", "size", "text"):
            assert getattr(replayed, name) == getattr(numbered, name)
        assert parser.ends_with_text(message) is (not args or args[-1] == "text")

    def test_missed_returns_the_messages_after_a_position(self) -> None:
        log = log_of(5)
        assert numbers(log) == [1, 2, 3, 4, 5]
        assert numbers(log, 3) == [4, 5]
        assert numbers(log, 5) == []

    def test_missed_reads_only_the_messages_of_the_socket(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = log_of(0)
        for number in range(1, 1001):
            log.append(encode_event("/", "n", [number]), "/", ("other",))
        log.append(encode_event("/", "n", [1001]), "/", ("held", "other"))
        assert numbers(log) == [1001]
        read: list[int] = []
        at = MessageLog.at
        monkeypatch.setattr(MessageLog, "at", lambda log, n: read.append(n) or at(log, n))
        assert numbers(log) == [1001]
        assert read == [1001]

    def test_missed_returns_later_messages_and_forgets_discarded_ones(self) -> None:
        log = log_of(5000, max_messages=1500)
        assert numbers(log, 4990) == list(range(4991, 5001))
        for number in range(5001, 9001):
            log.append(encode_event("/", "n", [number]), "/")
        assert numbers(log, 8990) == list(range(8991, 9001))
        assert log._index.first == 7500
        log.discard_all()
        log.append(encode_event("/", "n", [9002]), "/")
        assert numbers(log, 9001) == [9002]


class TestBounds:
    def test_messages_beyond_the_maximum_are_discarded(self) -> None:
        log = log_of(10, max_messages=3)
        assert (numbers(log, 7), log.discarded, len(log)) == ([8, 9, 10], 7, 3)

    def test_messages_beyond_the_maximum_age_are_discarded(self) -> None:
        time = Time()
        log = log_of(10, time, seconds=4)
        assert numbers(log, 5) == [6, 7, 8, 9, 10]
        time.now = 100
        log.trim()
        assert (numbers(log, 10), log.discarded, log.size) == ([], 10, 0)

    def test_messages_beyond_the_maximum_size_are_discarded(self) -> None:
        size = log_of(1).size
        log = log_of(9, max_bytes=2 * size)
        assert numbers(log, 7) == [8, 9]
        assert log.size == 2 * size
        log.append(encode_event("/", "n", ["x" * 1000]), "/")
        assert (numbers(log, 10), log.discarded, log.size) == ([], 10, 0)


class TestPositions:
    @pytest.mark.parametrize("offset", [None, "", 7, "other.7", "epoch", {"a": 1}, "text"])
    def test_position_of_a_foreign_offset_is_the_base(self, offset: Any) -> None:
        assert log_of(5).position(offset, base=3) == 3

    @pytest.mark.parametrize(("offset", "position"), [(1, 3), (3, 3), (4, 4), (5, 5)])
    def test_position_is_the_later_of_offset_and_base(self, offset: int, position: int) -> None:
        assert log_of(5).position(f"epoch.{offset}", base=3) == position

    @pytest.mark.parametrize("text", ["6", "", "-1", "1.5", " 4", "٤", "9" * 5000])
    def test_position_of_an_invalid_offset_is_none(self, text: str) -> None:
        assert log_of(5).position(f"epoch.{text}", base=3) is None

    def test_position_that_has_left_the_log_is_none(self) -> None:
        log = log_of(10, max_messages=3)
        assert log.position(None, base=6) is None
        assert log.position(None, base=7) == 7
        assert log.position("epoch.8", base=1) == 8


class TestRecipients:
    @pytest.mark.parametrize(
        ("recipients", "is_recipient"),
        [
            ({}, True),
            ({"channels": ("held", "other")}, True),
            ({"channels": ("other",)}, False),
            ({"channels": ()}, False),
            ({"channels": (), "included": "me"}, True),
            ({"channels": ("other",), "included": "me"}, True),
            ({"channels": (), "included": "other"}, False),
            ({"skipped": "me"}, False),
            ({"skipped": "other"}, True),
            ({"excluded": RecipientFilter(("me",))}, False),
            ({"excluded": RecipientFilter((), ("held",))}, False),
            ({"excluded": RecipientFilter((), ("+held",))}, False),
            ({"excluded": RecipientFilter((), ("+other",))}, True),
            ({"excluded": RecipientFilter(("you",), ("other",))}, True),
        ],
        ids=str,
    )
    def test_message_is_missed_by_its_recipients_only(
        self, recipients: dict[str, Any], is_recipient: bool
    ) -> None:
        log = log_of(0)
        log.append(encode_event("/", "n", [1]), "/", **recipients)
        log.append(encode_event("/", "n", [2]), "/other", **recipients)
        assert numbers(log) == [1] * is_recipient

    def test_clients_share_a_message_until_it_is_discarded(self) -> None:
        log = log_of(1, max_messages=2)
        (_, first), (_, second) = [log.missed(0, Socket())[0] for _ in range(2)]
        assert second is first
        for number in (2, 3):
            log.append(encode_event("/", "n", [number]), "/")
        assert numbers(log, 1) == [2, 3]
        assert len(log._replayed) == 2
