"""Channels: membership, names and delivery."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from tests.conftest import Journal, Site, socket_of
from webpy_socketio import (
    ChannelError,
    NoSocket,
    Socket,
    broadcast_channel,
    on_message,
    on_subscribe,
    on_unsubscribe,
    send,
    signals,
)
from webpy_socketio.channels import Channels, check_name
from webpy_socketio.runtime import default_runtime

OK = [{"ok": True}]


class TestMembership:
    """`Channels`, without sockets."""

    def test_add_and_remove_return_whether_anything_changed(self) -> None:
        channels: Channels[str, None] = Channels()
        assert channels.add("ann", "room", None) is True
        assert channels.add("ann", "room", None) is False
        assert channels.remove("ann", "room") is True
        assert channels.remove("ann", "room") is False
        assert channels.remove("bob", "room") is False

    def test_members_and_channels_are_in_the_order_of_joining(self) -> None:
        channels: Channels[str, None] = Channels()
        for member in ("c", "a", "b"):
            for channel in ("3", "1", "2"):
                channels.add(member, channel, None)
        assert list(channels.members("1")) == ["c", "a", "b"]
        assert list(channels.channels_of("a")) == ["3", "1", "2"]

    def test_reading_creates_no_entries(self) -> None:
        channels: Channels[str, None] = Channels()
        for number in range(1000):
            assert not channels.members(f"unknown {number}")
            assert not channels.channels_of(f"unknown {number}")
            channels.remove("other", f"unknown {number}")
            channels.remove_member(f"unknown {number}")
            channels.forget_member(f"unknown {number}")
        assert not channels._members
        assert not channels._held

    def test_empty_entries_are_removed(self) -> None:
        channels: Channels[str, None] = Channels()
        for number in range(1000):
            channels.add("ann", f"room {number}", None)
            channels.remove("ann", f"room {number}")
        assert len(channels) == 0
        assert not channels._members
        assert not channels._held

    def test_removed_member_keeps_its_channels_until_forgotten(self) -> None:
        channels: Channels[str, None] = Channels()
        channels.add("ann", "room", None)
        channels.add("ann", "hall", None)
        channels.add("bob", "room", None)
        channels.remove_member("ann")
        assert list(channels.members("room")) == ["bob"]
        assert not channels.members("hall")
        assert list(channels.channels_of("ann")) == ["room", "hall"]
        channels.forget_member("ann")
        assert not channels.channels_of("ann")
        assert len(channels) == 1

    def test_channels_match_a_simple_model(self) -> None:
        random_ = random.Random(1)
        channels: Channels[int] = Channels()
        model: set[tuple[int, str]] = set()
        for _ in range(5000):
            member, channel = random_.randrange(10), str(random_.randrange(10))
            pair = (member, channel)
            match random_.randrange(5):
                case 0 | 1 | 2:
                    assert channels.add(member, channel, None) is (pair not in model)
                    model.add(pair)
                case 3:
                    assert channels.remove(member, channel) is (pair in model)
                    model.discard(pair)
                case _:
                    channels.remove_member(member)
                    channels.forget_member(member)
                    model = {pair for pair in model if pair[0] != member}
            assert set(channels.channels_of(member)) == {c for m, c in model if m == member}
            assert set(channels.members(channel)) == {m for m, c in model if c == channel}
        assert len(channels) == len({channel for _, channel in model})


BAD_NAMES = {
    "empty": "",
    "256 characters": "x" * 256,
    "a number": 5,
    "nothing": None,
    "true": True,
    "a list": ["room"],
    "an object": {"room": 1},
    "NUL": "a\0b",
    "a newline": "a\nb",
    "a tab": "\t",
    "escape": "\x1b[31m",
    "delete": "a\x7f",
    "a C1 control": "a\x85",
    "__proto__": "__proto__",
}
GOOD_NAMES = {
    "one character": "x",
    "255 characters": "x" * 255,
    "255 wide characters": "𝄞" * 255,
    "any script": "комната 房间 غرفة",
    "punctuation": "room-1:*?[]{}/,.",
    "a space": " ",
    "no break space": "a\xa0b",
    "emoji with joiners": "👩‍👩‍👧",
    "an own word of JavaScript": "constructor",
    "a reserved event": "__subscribe__",
}


class TestNames:
    @pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
    def test_invalid_channel_name_raises(self, name: Any) -> None:
        with pytest.raises(ChannelError):
            check_name(name, 255)

    @pytest.mark.parametrize("name", ["\ud800", "a\udfffb", b"bytes"], ids=repr)
    def test_channel_name_that_json_cannot_contain_raises(self, name: Any) -> None:
        with pytest.raises(ChannelError):
            check_name(name, 255)

    @pytest.mark.parametrize("name", GOOD_NAMES.values(), ids=GOOD_NAMES)
    def test_valid_channel_name_is_accepted(self, name: str) -> None:
        assert check_name(name, 255) == name

    @pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
    def test_subscribe_with_invalid_name_is_rejected_and_keeps_the_connection(
        self, name: Any, site: Site, stages: Journal
    ) -> None:
        client = site.connect()
        for event in ("__subscribe__", "__unsubscribe__"):
            ((answer),) = client.call(event, name)
            assert answer["ok"] is False
            assert "name" in answer["error"]
        assert default_runtime.registry.find(client.id).channels == ()  # type: ignore[union-attr]
        assert client.call("__subscribe__", "good") == OK
        # Invalid data of a client is sent as "error".
        assert [name for name, _ in stages] == [
            *("connecting", "connect", "error", "error", "subscribing", "subscribe")
        ]

    @pytest.mark.parametrize("args", [(), ("a", "b")], ids=["none", "two"])
    def test_subscribe_with_several_names_is_rejected(
        self, args: tuple[str, ...], site: Site
    ) -> None:
        client = site.connect()
        ((answer),) = client.call("__subscribe__", *args)
        assert answer["ok"] is False

    @pytest.mark.parametrize("name", GOOD_NAMES.values(), ids=GOOD_NAMES)
    def test_subscribe_with_valid_name_is_acknowledged(self, name: str, site: Site) -> None:
        client = site.connect()
        assert client.call("__subscribe__", name) == OK
        broadcast_channel("hello", name)
        assert client.event() == ["message", "hello"]
        assert client.call("__unsubscribe__", name) == OK

    @pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
    def test_socket_methods_with_invalid_name_raise_channel_error(
        self, name: Any, site: Site
    ) -> None:
        socket = socket_of(site.connect())
        with pytest.raises(ChannelError):
            socket.subscribe(name)
        with pytest.raises(ChannelError):
            socket.unsubscribe(name)
        with pytest.raises(ChannelError):
            broadcast_channel("hello", 5 if name is None else name)
        with pytest.raises(ChannelError):
            socket.broadcast_channel("hello", 5 if name is None else name)

    def test_max_channel_length_setting_limits_the_name(self, serve: Callable[..., Site]) -> None:
        site = serve(max_channel_length=4)
        client = site.connect()
        assert client.call("__subscribe__", "four") == OK
        ((answer),) = client.call("__subscribe__", "fives")
        assert "1 to 4 characters" in answer["error"]
        with pytest.raises(ChannelError):
            broadcast_channel("hello", "fives")


class TestChannelLimit:
    @pytest.mark.quoted(
        "channel limit reached: a socket may subscribe to … channels (SOCKETIO_MAX_CHANNELS)"
    )
    def test_subscribe_beyond_the_limit_is_rejected_and_keeps_the_connection(
        self, site: Site, match_quote: Callable[[str], None]
    ) -> None:
        client = site.connect()
        for number in range(128):
            assert client.call("__subscribe__", f"room-{number}") == OK
        ((answer),) = client.call("__subscribe__", "one more")
        assert answer["ok"] is False
        assert "128" in answer["error"]
        match_quote(answer["error"])
        assert client.call("__subscribe__", "room-5") == OK  # a member already
        with pytest.raises(ChannelError, match="128"):
            socket_of(client).subscribe("one more")
        client.call("__unsubscribe__", "room-5")
        assert client.call("__subscribe__", "one more") == OK

    def test_repeated_connections_leave_no_members(self, site: Site) -> None:
        socket = socket_of(site.connect())
        channels = default_runtime.registry.namespace("/").channels
        for number in range(2000):
            assert socket.subscribe(f"room-{number}")
            assert socket.unsubscribe(f"room-{number}")
        assert len(channels) == 0
        assert not channels._held


class TestSubscribe:
    def test_subscribe_returns_whether_anything_changed(self, site: Site) -> None:
        socket = socket_of(site.connect())
        assert socket.subscribe("room") is True
        assert socket.subscribe("room") is False
        assert socket.channels == ("room",)
        assert socket.unsubscribe("room") is True
        assert socket.unsubscribe("room") is False
        assert socket.channels == ()

    def test_disconnected_socket_has_no_channels(self, site: Site) -> None:
        socket = socket_of(site.connect())
        socket.subscribe("room")
        socket.disconnect()
        assert socket.subscribe("late") is False
        assert socket.unsubscribe("room") is False
        assert not len(default_runtime.registry.namespace("/").channels)

    def test_repeated_subscribe_is_acknowledged_again(self, site: Site) -> None:
        client = site.connect()
        assert client.call("__subscribe__", "room") == OK
        assert client.call("__subscribe__", "room") == OK
        assert client.call("__unsubscribe__", "room") == OK
        assert client.call("__unsubscribe__", "room") == OK

    @pytest.mark.parametrize("is_observed", [False, True])
    def test_subscriptions_with_and_without_receivers_have_the_same_effects(
        self, is_observed: bool, serve: Callable[..., Site], journal: Journal
    ) -> None:
        if is_observed:
            for stage in (signals.subscribe, signals.unsubscribe):
                stage.connect(lambda sender, **extra: None)
        signals.error.connect(lambda sender, exception, **extra: journal.append(str(exception)))
        on_message(channel="^b")(lambda request, socket, context, message: socket.channels)
        client = serve(max_channels=2).connect()
        answers = [
            client.call(f"__{event}__", *names)[0]
            for event, *names in [
                *(("subscribe", "a"), ("subscribe", "a"), ("subscribe", "b")),
                *(("subscribe", "c"), ("subscribe", 1), ("subscribe", "a", "b"), ("subscribe",)),
                *(("unsubscribe", "a"), ("unsubscribe", "a"), ("unsubscribe", "")),
                ("subscribe", "c"),
            ]
        ]
        errors = [answer.get("error") for answer in answers]
        assert [answer["ok"] for answer in answers] == [error is None for error in errors]
        assert [error is None for error in errors] == [
            *(True, True, True, False, False, False, False, True, True, False, True)
        ]
        assert [error for error in errors if error] == list(journal)
        assert client.call("message", "") == ["b", "c"]

    def test_subscribe_is_acknowledged_before_messages_of_the_channel(self, site: Site) -> None:
        @on_subscribe
        def welcome(request: Any, socket: Any, context: Any, channel: str) -> None:
            socket.send_and_broadcast_channel("welcome", channel)

        client = site.connect()
        client.emit("__subscribe__", "room", ack=1)
        assert client.receive() == '431[{"ok":true}]'
        assert client.event() == ["message", "welcome"]

    def test_messages_arrive_only_between_subscribe_and_unsubscribe(self, site: Site) -> None:
        client, other = site.connect(), site.connect()
        socket, keeper = socket_of(client), socket_of(other)
        keeper.subscribe("room")
        broadcast_channel("before", "room")
        socket.subscribe("room")
        broadcast_channel("during", "room")
        socket.unsubscribe("room")
        broadcast_channel("after", "room")
        assert client.event() == ["message", "during"]
        client.barrier()
        assert [other.event()[1] for _ in range(3)] == ["before", "during", "after"]

    def test_unsubscribe_is_acknowledged_after_messages_of_the_channel(self, site: Site) -> None:
        @on_unsubscribe
        def farewell(request: Any, socket: Any, context: Any, channel: str) -> None:
            socket.broadcast_channel("a member left", channel)

        client, other = site.connect(), site.connect()
        for each in (client, other):
            each.call("__subscribe__", "room")
        client.emit("__unsubscribe__", "room", ack=1)
        assert client.receive() == '431[{"ok":true}]'
        assert other.event() == ["message", "a member left"]
        client.barrier()

    def test_subscribe_without_acknowledgement_takes_effect(self, site: Site) -> None:
        client = site.connect()
        client.emit("__subscribe__", "room")
        client.barrier()
        assert socket_of(client).channels == ("room",)


class TestChannelMessages:
    def test_message_to_channel_has_the_channel_keyword(self, site: Site, journal: Journal) -> None:
        @signals.message.connect
        def receiver(sender: Any, message: Any, channel: Any, event: str, **extra: Any) -> str:
            journal.append((event, channel, message))
            return "received"

        client = site.connect()
        client.call("__subscribe__", "room")
        client.call("__channel__", "room", "hello")
        client.call("__channel__", "room")
        client.call("__channel__", "room", 1, 2)
        client.call("message", "hello")
        assert journal == [
            ("message", "room", "hello"),
            ("message", "room", None),
            ("message", "room", [1, 2]),
            ("message", None, "hello"),
        ]

    @pytest.mark.parametrize("args", [("other", "x"), (), (5, "x"), (["room"], "x"), (None,)])
    def test_message_to_unsubscribed_channel_is_rejected(
        self, args: tuple[Any, ...], site: Site, stages: Journal
    ) -> None:
        client = site.connect()
        client.call("__subscribe__", "room")
        ((answer),) = client.call("__channel__", *args)
        assert answer == {
            "ok": False,
            "error": "the client sent a message to a channel that it is not subscribed to",
        }
        assert [name for name, _ in stages][4:] == ["error"]
        client.barrier()

    @pytest.mark.parametrize("name", ["__subscribe__", "__unsubscribe__", "__channel__"])
    def test_message_with_reserved_name_as_text_is_an_ordinary_message(
        self, name: str, site: Site, journal: Journal
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)
            socket.send(message)

        @signals.message.connect
        def never(sender: Any, event: str, **extra: Any) -> None:
            if event != "message":
                journal.append("the reserved event")

        client = site.connect()
        client.emit("message", name)
        assert client.event() == ["message", name]
        client.call(name, "room", "x")
        assert journal == [name]


class TestDelivery:
    def test_broadcast_to_overlapping_channels_sends_one_copy(self, site: Site) -> None:
        sender, other = site.connect(), site.connect()
        for channel in ("a", "b", "c"):
            socket_of(sender).subscribe(channel)
            socket_of(other).subscribe(channel)
        socket_of(sender).send_and_broadcast_channel("once")
        for client in (sender, other):
            assert client.event() == ["message", "once"]
            client.barrier()

    def test_subscribers_receive_messages_in_the_same_order(self, site: Site) -> None:
        receivers = [site.connect() for _ in range(5)]
        for receiver in receivers:
            socket_of(receiver).subscribe("room")

        def speak(name: int) -> None:
            for number in range(20):
                broadcast_channel([name, number], "room")
                gevent.idle()

        gevent.joinall([gevent.spawn(speak, name) for name in range(4)], raise_error=True)
        seen = [[receiver.event()[1] for _ in range(80)] for receiver in receivers]
        assert all(order == seen[0] for order in seen)
        for name in range(4):
            assert [number for who, number in seen[0] if who == name] == list(range(20))

    def test_broadcast_in_a_receiver_is_delivered(self, site: Site) -> None:
        @on_subscribe
        def joined(request: Any, socket: Any, context: Any, channel: str) -> None:
            broadcast_channel(
                f"{len(socket._namespace.channels.members(channel))} are here", channel
            )

        first, second = site.connect(), site.connect()
        first.call("__subscribe__", "room")
        assert first.event() == ["message", "1 are here"]
        second.call("__subscribe__", "room")
        assert first.event() == second.event() == ["message", "2 are here"]

    def test_broadcast_while_members_join_and_leave_is_delivered(self, site: Site) -> None:
        steady = site.connect()
        socket_of(steady).subscribe("room")
        sockets = [socket_of(site.connect()) for _ in range(5)]

        def come_and_go(socket: Socket) -> None:
            for _ in range(50):
                socket.subscribe("room")
                gevent.idle()
                socket.unsubscribe("room")

        def speak() -> None:
            for number in range(50):
                broadcast_channel(number, "room")
                gevent.idle()

        jobs = [gevent.spawn(come_and_go, socket) for socket in sockets]
        gevent.joinall([gevent.spawn(speak), *jobs], raise_error=True)
        assert [steady.event()[1] for _ in range(50)] == list(range(50))

    def test_subscribe_during_disconnect_leaves_no_member(
        self, site: Site, stages: Journal
    ) -> None:
        for _ in range(150):
            stages.clear()
            client = site.connect()
            socket = socket_of(client)
            client.send('42["__subscribe__","room"]')
            gevent.spawn(socket.subscribe, "hall")
            client.send("42" + '["__subscribe__","attic"]')
            client.vanish(reset=True)
            stages.wait(lambda stages: any(name == "finish" for name, _ in stages))
            came = [channel for name, channel in stages if name == "subscribe"]
            went = [channel for name, channel in stages if name == "unsubscribe"]
            assert sorted(came) == sorted(went)
            assert len(default_runtime.registry.namespace("/").channels) == 0
        assert not default_runtime.registry.namespace("/").channels._held
        assert not default_runtime.registry.namespace("/").sockets

    def test_channel_named_like_a_session_id_receives_none_of_its_messages(
        self, site: Site
    ) -> None:
        victim, spy = site.connect(), site.connect()
        for name in (victim.id, socket_of(victim)._connection.session.id):
            assert spy.call("__subscribe__", name) == OK
        send(victim.id, "private")
        socket_of(victim).send("private too")
        assert [victim.event()[1] for _ in range(2)] == ["private", "private too"]
        spy.barrier()
        with pytest.raises(NoSocket):
            send("a channel, not a session", "x")
