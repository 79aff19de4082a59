"""The plugin ``history`` with the store in memory: what is stored, for whom, and its limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import web

from tests.conftest import Journal
from webpy_socketio import (
    CallerError,
    ConfigurationError,
    NoSocket,
    Refused,
    Runtime,
    broadcast,
    broadcast_channel,
    default_runtime,
    emit,
    on_event,
    on_subscribing,
    send,
    signals,
    socketio_urls,
    to,
)
from webpy_socketio.plugins import history
from webpy_socketio.testing import Client, TestServer

PLUGIN = "webpy_socketio.plugins.history"
RULES = {"^room-": {"size": 5, "ttl": 60}}

app = web.application(socketio_urls, globals(), autoreload=False)


def start(**keywords: Any) -> TestServer:
    return TestServer(app, **{"plugins": [PLUGIN], "history": RULES, **keywords})


@pytest.fixture
def server() -> Iterator[TestServer]:
    with start() as server:
        yield server
    assert not history._installed


def follow(client: Client, channel: str = "room-1", limit: int = 50, since: Any = None) -> Any:
    """Subscribe with history like the extension, and return the ``history_start``."""
    wanted = {"channel": channel, "follow": True, "limit": limit}
    if since is not None:
        wanted["since"] = since
    assert client.call("history", wanted) == {"ok": True}
    client.subscribe(channel)
    return client.receive("history_start")


def texts(client: Client) -> list[Any]:
    """Return the first argument of each event, in order; those with history in parentheses."""
    return [
        (each.data[1][1] if isinstance(each.data, list) else None,)
        if each.event == "history_message"
        else each.data
        for each in client.received()
    ]


def stored(channel: str = "room-1", **keywords: Any) -> list[Any]:
    return [message["args"][0] for message in history.messages(channel, **keywords).messages]


def publish(*messages: Any, channel: str = "room-1") -> None:
    for message in messages:
        to(channel).send(message)


class TestStoring:
    def test_messages_to_channel_are_stored_with_event_and_arguments(
        self, server: TestServer
    ) -> None:
        @on_event("all ways")
        def all_ways(request: Any, socket: Any, context: Any) -> None:
            socket.broadcast_channel("others", "room-1")
            socket.send_and_broadcast_channel("all", "room-1")
            socket.to("room-1").emit("event", 1, {"two": b"\0"})

        client = server.connect()
        client.subscribe("room-1")
        broadcast_channel("function", "room-1")
        emit("custom", 7, channel="room-1")
        client.emit("all ways")
        found = history.messages("room-1")
        assert [(each["event"], each["args"]) for each in found.messages] == [
            ("message", ["function"]),
            ("custom", [7]),
            ("message", ["others"]),
            ("message", ["all"]),
            ("event", [1, {"two": b"\0"}]),
        ]
        assert [each["offset"] for each in found.messages] == [1, 2, 3, 4, 5]
        assert found.offset == 5
        assert found.recovered

    def test_other_messages_are_not_stored(self, server: TestServer) -> None:
        client = server.connect()
        client.subscribe("room-1")
        broadcast("everyone")
        send(client.socket.session_id, "one socket")
        to("room-1").volatile.send("volatile")
        to("room-1").local.send("local")
        broadcast_channel_to_hall()
        assert stored() == []
        assert stored("hall") == []

    def test_message_without_subscribers_is_stored(self, server: TestServer) -> None:
        with pytest.raises(NoSocket):
            broadcast_channel("one", "room-1")
        to("room-1").send("two")
        assert stored() == ["one", "two"]

    def test_message_to_several_channels_is_stored_in_each(self, server: TestServer) -> None:
        to("room-1", "hall", "room-2").send("hello")
        assert stored() == stored("room-2") == ["hello"]

    def test_namespaces_have_separate_histories(self, server: TestServer) -> None:
        publish("main")
        to("room-1").namespace("/other").send("other")
        assert stored() == ["main"]
        assert stored(namespace="/other") == ["other"]

    def test_runtimes_have_separate_histories(self, server: TestServer) -> None:
        other = Runtime()
        with TestServer(app, plugins=[PLUGIN], history=RULES, runtime=other):
            other.to("room-1").send("other")
            publish("default")
            assert stored() == ["default"]
            assert stored(runtime=other) == ["other"]

    def test_without_rules_nothing_is_stored(self) -> None:
        with TestServer(app, plugins=[PLUGIN]):
            publish("one")
            assert stored() == []

    def test_first_matching_rule_applies(self) -> None:
        rules = {"^room-1$": {"size": 1, "ttl": 60}, "^room-": {"size": 3, "ttl": 60}}
        with TestServer(app, plugins=[PLUGIN], history=rules):
            publish(1, 2, 3)
            publish(1, 2, 3, channel="room-2")
            assert stored() == [3]
            assert stored("room-2") == [1, 2, 3]


def broadcast_channel_to_hall() -> None:
    to("hall").send("no rule")


class TestLimits:
    def test_size_removes_oldest_messages(self, server: TestServer) -> None:
        publish(*range(8))
        assert stored() == [3, 4, 5, 6, 7]

    def test_ttl_removes_each_message_after_its_time(self, server: TestServer) -> None:
        publish("old")
        server.advance(30)
        publish("new")
        server.advance(30)
        assert stored() == ["new"]
        server.advance(30)
        assert stored() == []

    def test_bytes_of_channel_are_limited(self) -> None:
        with start(history_bytes=1024):
            publish("a" * 500, "b" * 400, "c" * 300)
            assert [text[0] for text in stored()] == ["b", "c"]

    def test_message_above_limit_of_bytes_is_delivered_and_leaves_a_gap(self) -> None:
        with start(history_bytes=1024) as server:
            client = server.connect()
            begin = follow(client)
            publish("x" * 2000)
            assert [len(each) for each in client.received("message")] == [2000]
            found = history.messages("room-1", since=(begin["epoch"], begin["offset"]))
            assert found.messages == []
            assert not found.recovered

    def test_total_bytes_remove_channels_without_recent_messages(self) -> None:
        with start(history_total_bytes=2000):
            for channel in ("room-1", "room-2", "room-1", "room-3"):
                publish("x" * 600, channel=channel)
            assert [len(stored(f"room-{n}")) for n in (1, 2, 3)] == [2, 0, 1]

    def test_number_of_channels_is_limited(self) -> None:
        with start(history_channels=2):
            for channel in ("room-1", "room-2", "room-1", "room-3"):
                publish("x", channel=channel)
            assert [len(stored(f"room-{n}")) for n in (1, 2, 3)] == [2, 0, 1]

    def test_position_of_removed_channel_is_not_recovered(self) -> None:
        with start(history_channels=1):
            publish("one")
            position = history.messages("room-1")
            publish("other", channel="room-2")
            publish("two", "three")
            found = history.messages("room-1", since=(position.epoch, position.offset))
            assert not found.recovered
            assert [each["args"] for each in found.messages] == [["two"], ["three"]]

    def test_position_in_idle_channel_is_recovered_after_ttl(self, server: TestServer) -> None:
        publish("one")
        position = history.messages("room-1")
        server.advance(3600)
        found = history.messages("room-1", since=(position.epoch, position.offset))
        assert found.recovered
        assert found.messages == []

    def test_position_in_channel_without_messages_is_recovered(self, server: TestServer) -> None:
        position = history.messages("room-1")
        publish("one", "two")
        found = history.messages("room-1", since=(position.epoch, position.offset))
        assert found.recovered
        assert len(found.messages) == 2

    def test_limits_of_messages_are_checked(self, server: TestServer) -> None:
        publish(1, 2, 3)
        assert stored(limit=2) == [2, 3]
        assert stored(limit=0) == []
        for limit in (-1, 10_001, True, "1"):
            with pytest.raises(CallerError):
                history.messages("room-1", limit=limit)  # type: ignore[arg-type]

    def test_messages_without_plugin_and_backplane_raise(self) -> None:
        default_runtime.configure({"SOCKETIO_HISTORY": RULES})
        with pytest.raises(ConfigurationError, match="SOCKETIO_PLUGINS"):
            history.messages("room-1")
        with pytest.raises(ConfigurationError, match="SOCKETIO_PLUGINS"):
            history.clear("room-1")


class TestFollowers:
    def test_last_messages_arrive_before_newer_ones(self, server: TestServer) -> None:
        publish(*range(4))
        client = server.connect()
        begin = follow(client, limit=2)
        publish("live")
        assert begin["recovered"] is True
        assert begin["offset"] == 2
        assert texts(client) == [(2,), (3,), ("live",)]

    def test_other_subscribers_receive_ordinary_events(self, server: TestServer) -> None:
        plain, client = server.connect(), server.connect()
        plain.subscribe("room-1")
        follow(client)
        publish("one")
        assert texts(plain) == ["one"]
        assert texts(client) == [("one",)]

    def test_messages_that_are_not_stored_arrive_as_ordinary_events(
        self, server: TestServer
    ) -> None:
        client = server.connect()
        follow(client)
        to("room-1").volatile.send("volatile")
        to("room-1").local.send("local")
        broadcast("everyone")
        assert texts(client) == ["volatile", "local", "everyone"]

    def test_sender_receives_position_without_event(self, server: TestServer) -> None:
        @on_event("say")
        def say(request: Any, socket: Any, context: Any) -> None:
            socket.broadcast_channel("hello", "room-1")

        ann, bob = server.connect(), server.connect()
        follow(ann)
        follow(bob)
        ann.emit("say")
        (position,) = ann.received("history_message")
        assert position["offset"] == 1
        assert texts(bob) == [("hello",)]

    def test_members_of_excluded_channel_do_not_receive_message(self, server: TestServer) -> None:
        early, late, other = server.connect(), server.connect(), server.connect()
        for client in (early, late):
            client.subscribe("muted")
        follow(early)
        to("room-1").except_("muted").send("secret")
        follow(late)
        follow(other)
        assert texts(early) == [(None,)]
        assert texts(late) == [(None,)]
        assert texts(other) == [("secret",)]
        asked = late.call("history", {"channel": "room-1"})
        assert asked["messages"] == []
        assert asked["offset"] == 1

    def test_bytes_arrive_as_bytes(self, server: TestServer) -> None:
        client = server.connect()
        publish({"data": b"\0\1"})
        follow(client)
        publish({"data": b"\2"})
        assert texts(client) == [({"data": b"\0\1"},), ({"data": b"\2"},)]

    def test_position_continues_after_reconnect(self, server: TestServer) -> None:
        client = server.connect()
        begin = follow(client)
        publish("one", "two")
        assert texts(client) == [("one",), ("two",)]
        client.abort()
        publish("three")
        client = server.connect()
        since = {"epoch": begin["epoch"], "offset": 1}
        assert follow(client, since=since) == {
            "channel": "room-1",
            "epoch": begin["epoch"],
            "offset": 1,
            "recovered": True,
        }
        assert texts(client) == [("two",), ("three",)]

    def test_position_that_left_the_store_is_not_recovered(self, server: TestServer) -> None:
        client = server.connect()
        begin = follow(client)
        client.abort()
        publish(*range(6))  # the store has 5
        client = server.connect()
        since = {"epoch": begin["epoch"], "offset": 0}
        assert follow(client, limit=3, since=since)["recovered"] is False
        assert texts(client) == [(3,), (4,), (5,)]

    def test_position_of_other_epoch_is_not_recovered(self, server: TestServer) -> None:
        client = server.connect()
        assert follow(client, since={"epoch": "other", "offset": 0})["recovered"] is False

    def test_clear_reports_gap_and_starts_epoch(self, server: TestServer) -> None:
        client = server.connect()
        begin = follow(client)
        publish("one")
        history.clear("room-1")
        assert stored() == []
        publish("two")
        assert client.receive("history_message")[1] == ["message", "one"]
        assert client.receive("history_gap")["epoch"] != begin["epoch"]
        assert client.receive("history_message")[1] == ["message", "two"]

    def test_unsubscribed_follower_receives_nothing_and_then_ordinary_events(
        self, server: TestServer
    ) -> None:
        client = server.connect()
        follow(client)
        client.unsubscribe("room-1")
        publish("one")
        client.subscribe("room-1")
        publish("two")
        assert texts(client) == ["two"]
        assert not default_runtime.feed("room-1")

    def test_subscribed_socket_follows_from_then_on(self, server: TestServer) -> None:
        client = server.connect()
        client.subscribe("room-1")
        publish("one")
        assert texts(client) == ["one"]
        client.call("history", {"channel": "room-1", "follow": True, "limit": 0})
        client.receive("history_start")
        publish("two")
        assert texts(client) == [("two",)]

    def test_withdrawn_request_leaves_ordinary_subscription(self, server: TestServer) -> None:
        client = server.connect()
        client.call("history", {"channel": "room-1", "follow": True})
        client.call("history", {"channel": "room-1", "follow": False})
        client.subscribe("room-1")
        publish("one")
        assert texts(client) == ["one"]

    def test_rejected_subscription_receives_no_message(self, server: TestServer) -> None:
        @on_subscribing
        def reject(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("no")

        client = server.connect()
        publish("secret")
        client.call("history", {"channel": "room-1", "follow": True, "limit": 5})
        client.ask("__subscribe__", "room-1")
        publish("secret")
        assert client.received() == []
        client.close()
        assert not default_runtime.feed("room-1")

    def test_requests_of_socket_are_limited(self) -> None:
        with start(max_channels=2) as server:
            client = server.connect()
            for number in (1, 2):
                follows = {"channel": f"room-{number}", "follow": True}
                assert client.call("history", follows) == {"ok": True}
            answer = client.call("history", {"channel": "room-3", "follow": True})
            assert answer == {"ok": False, "error": "too many channels"}

    def test_long_history_arrives_whole(self) -> None:
        rules = {"^room-": {"size": 2000, "ttl": 60}}
        with start(history=rules) as server:
            publish(*(f"{number} {'x' * 100}" for number in range(1500)))
            client = server.connect()
            follow(client, limit=2000)
            publish("live")
            received = texts(client)
            assert len(received) == 1501
            assert received[-1] == ("live",)


class TestEvent:
    """The event ``history`` of clients without the extension."""

    def test_subscriber_receives_messages(self, server: TestServer) -> None:
        client = server.connect()
        client.subscribe("room-1")
        publish("one", "two", "three")
        answer = client.call("history", {"channel": "room-1", "limit": 2})
        assert [each["args"] for each in answer["messages"]] == [["two"], ["three"]]
        assert (answer["ok"], answer["recovered"], answer["offset"]) == (True, True, 3)
        since = {"epoch": answer["epoch"], "offset": 1}
        answer = client.call("history", {"channel": "room-1", "since": since, "limit": 1})
        assert [each["args"] for each in answer["messages"]] == [["two"]]
        assert answer["offset"] == 2

    def test_socket_that_is_not_subscribed_receives_error(self, server: TestServer) -> None:
        publish("secret")
        assert server.connect().call("history", {"channel": "room-1"}) == {
            "ok": False,
            "error": "not subscribed to this channel",
        }

    @pytest.mark.parametrize(
        "value",
        [
            None,
            "room-1",
            {"channel": 7},
            {"channel": "room-1", "limit": -1},
            {"channel": "room-1", "limit": "5"},
            {"channel": "room-1", "since": 5},
            {"channel": "room-1", "since": {"epoch": "e" * 101, "offset": 1}},
            {"channel": "room-1", "since": {"epoch": "e", "offset": 2**53}},
            {"channel": "hall", "follow": True},
        ],
    )
    def test_invalid_request_receives_error(self, server: TestServer, value: Any) -> None:
        client = server.connect()
        client.subscribe("room-1")
        assert client.call("history", value)["ok"] is False

    def test_answer_is_limited_in_bytes(self) -> None:
        with start(history_bytes=4_000_000, max_message_size=2_000_000) as server:
            client = server.connect()
            client.subscribe("room-1")
            publish("a" * 300_000, "b" * 300_000, "c" * 100_000)
            answer = client.call("history", {"channel": "room-1"})
            assert [each["args"][0][0] for each in answer["messages"]] == ["b", "c"]


class TestPublished:
    """The signal `published` and feeds, on which the plugin is built."""

    def test_signal_is_sent_once_for_each_message_to_channels(self, journal: Journal) -> None:
        @signals.published.connect
        def receive(sender: Any, publication: Any, **extra: Any) -> None:
            journal.append((sender, publication.channels, publication.read()))

        with TestServer(app) as server:
            client = server.connect()
            client.subscribe("one")
            to("one", "two").emit("event", 1)
            with pytest.raises(NoSocket):
                broadcast_channel("no member", "two")
            to("three").namespace("/none").send("empty")
            to("one").local.send("local")
            broadcast("everyone")
        assert journal == [
            ("/", ("one", "two"), ["event", 1]),
            ("/", ("two",), ["message", "no member"]),
            ("/none", ("three",), ["message", "empty"]),
        ]

    def test_diverted_message_reaches_others_only(self) -> None:
        @signals.published.connect
        def receive(sender: Any, publication: Any, **extra: Any) -> None:
            publication.divert("one")
            assert publication.excluded_channels == ()

        with TestServer(app) as server:
            ann, bob = server.connect(), server.connect()
            for client in (ann, bob):
                client.subscribe("one")
            feed = default_runtime.feed("one")
            feed.add(ann.socket)
            assert ann.socket in feed
            to("one").send("hello")
            assert [ann.received("message"), bob.received("message")] == [[], ["hello"]]
            feed.send([ann.socket], "mine", {"a": 1}, b'["x"]')
            assert ann.receive("mine") == [{"a": 1}, ["x"]]
            feed.discard(ann.socket)
            to("one").send("again")
            assert ann.received("message") == ["again"]

    def test_failing_receiver_does_not_stop_message(self) -> None:
        @signals.published.connect
        def fail(sender: Any, **extra: Any) -> None:
            raise RuntimeError("broken")

        with TestServer(app) as server:
            client = server.connect()
            client.subscribe("one")
            with server.errors() as errors:
                to("one").send("hello")
                assert client.received("message") == ["hello"]
            assert [str(error) for error in errors] == ["broken"]
