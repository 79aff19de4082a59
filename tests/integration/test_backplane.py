"""Backplane: delivery between real processes over a real Redis, and its behaviour during failures.

``here`` is a server in this process, ``there`` one in another process. Messages of one process
arrive in the order in which they were published, on whatever topic. The message ``end`` of
`receives_only` therefore shows that no other message was under way. Losses and gaps during failures
are tested in ``test_delivery``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import orjson
import pytest
from gevent.server import StreamServer

from tests.conftest import Journal, Site, socket_of
from tests.faults import Link, Proxy
from tests.raw import WebSocket, connect
from tests.redis_server import LONG_TIMEOUT, RedisServer, retry_until_reachable
from tests.servers import ServerProcess, application_source
from webpy_socketio import (
    BackplaneError,
    ConfigurationError,
    EncodeError,
    NoSocket,
    PubSub,
    broadcast,
    broadcast_channel,
    connect_redis,
    emit,
    get_stats,
    send,
    signals,
    to,
)
from webpy_socketio.backplane import Topic, new_counts, publisher, subscriber, warning_log
from webpy_socketio.backplane.envelope import (
    Envelope,
    InvalidEnvelope,
    Mark,
    Packet,
    decode,
    encode,
)
from webpy_socketio.backplane.filters import RecipientFilter
from webpy_socketio.backplane.sequence import Groups, Positions, SequenceCounter, Verdict
from webpy_socketio.engine.socketio.packets import encode_event
from webpy_socketio.runtime import default_runtime

pytestmark = [pytest.mark.time_limit(30), pytest.mark.usefixtures("gaps", "long_redis_timeouts")]

#: Seconds without a byte after which a process with short timeouts closes its connections.
SHORT_TIMEOUT = 0.9

#: Kinds of the topics that every process with a server subscribes to.
SERVER_TOPICS = ("servers", "node")

THERE = application_source(
    f"""
from webpy_socketio.backplane import publisher, redis, subscriber
from webpy_socketio.signals import gap

redis.TIMEOUT = subscriber.CONFIRM_TIMEOUT = {LONG_TIMEOUT}
if "SHORT_TIMEOUTS" in os.environ:
    publisher.PING_INTERVAL = 0.3
    publisher.ANSWER_TIMEOUT = subscriber.READ_TIMEOUT = {SHORT_TIMEOUT}
"""
    """
import re

TENANTS = re.compile("/tenant-[0-9]+$")
OPTIONS = {"plugins": [], "log": None, "namespaces": ["/", "/chat", TENANTS]}
OPTIONS["backplane"] = os.environ["BACKPLANE"]

@gap.connect
def report_gap(sender, node, missed, **extra):
    say("GAP", missed)

def say_dropped():
    say("DROPPED", get_stats().backplane["dropped"])

@on_event("run")
def run(request, socket, context, name, *args):
    function = getattr(socket, name[7:]) if name.startswith("socket.") else globals()[name]
    try:
        function(*args)
    except SocketIOError as error:
        return type(error).__name__
"""
)


@pytest.fixture(scope="module")
def there(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Start a server in another process."""
    env = {"BACKPLANE": shared_redis.url}
    server = ServerProcess(THERE, tmp_path_factory.mktemp("there"), env)
    yield server
    server.close()


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    """Return the shared Redis, after the subscriptions of the previous test have ended."""
    while shared_redis.topics():
        gevent.sleep(0.01)
    return shared_redis


@pytest.fixture
def here(redis: RedisServer, serve: Callable[..., Site]) -> Site:
    """Start a server in this process."""
    tenants = re.compile("/tenant-[0-9]+$")
    return serve(backplane=redis.url, namespaces=["/", "/chat", tenants])


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Yield a Redis that belongs to one test and is not started yet."""
    server = RedisServer(tmp_path)
    yield server
    server.stop()


def receives_only(client: WebSocket, *messages: Any) -> None:
    """Assert that a remote client receives these messages and no other."""
    broadcast("end")
    for message in (*messages, "end"):
        assert client.event() == ["message", message]


def broadcast_to_empty_channel() -> None:
    """Broadcast to an empty channel, which requires a reply of Redis."""
    with pytest.raises(NoSocket):
        broadcast_channel("hello", "empty")


class TestDelivery:
    def test_broadcast_reaches_other_processes_and_is_not_delivered_twice(
        self, here: Site, there: ServerProcess
    ) -> None:
        far = connect(there)
        broadcast({"local": "none"})
        near = connect(here)
        broadcast({"local": "one"})
        receives_only(far, {"local": "none"}, {"local": "one"})
        far.emit("run", "send", near.id, "last")
        # Redis returns the messages published by this process before that; they are not delivered
        # again.
        assert [near.event()[1] for _ in range(3)] == [{"local": "one"}, "end", "last"]

    def test_copies_of_a_broadcast_are_published_together(
        self,
        here: Site,
        there: ServerProcess,
        redis: RedisServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # A session that moves between two servers must not find one copy before its move and
        # another one after it.
        monkeypatch.setattr(publisher, "BATCH", 1)
        far = connect(there, "room")
        with redis.redis.Redis(port=redis.port) as link, link.monitor() as monitor:
            to("room", "hall").send("one")
            assert far.event() == ["message", "one"]
            sent = []
            while len(sent) < 2:
                command = monitor.next_command()
                if command["command"].startswith("PUBLISH"):
                    sent.append(command["client_type"])
        assert sent == ["lua", "lua"]

    def test_broadcast_channel_reaches_subscribers_in_other_processes(
        self, here: Site, there: ServerProcess
    ) -> None:
        inside, outside = connect(there, "room"), connect(there)
        broadcast_channel("one", "room")
        near = connect(here, "room")
        broadcast_channel("two", "room")
        receives_only(outside)
        receives_only(inside, "one", "two", "end")
        assert near.event() == ["message", "two"]

    def test_message_sent_by_a_receiver_of_sent_is_second_in_all_processes(
        self, here: Site, there: ServerProcess
    ) -> None:
        # A message is published before it is sent to the sockets of this process.
        near, far = connect(here), connect(there)

        def follow(sender: Any, read: Callable[[], list[Any]], **extra: Any) -> None:
            if read() == ["message", "first"]:
                broadcast("second")

        with signals.sent.connected_to(follow):
            broadcast("first")
        receives_only(far, "first", "second")
        assert [near.event()[1] for _ in range(2)] == ["first", "second"]

    def test_broadcast_reaches_a_dynamic_namespace_of_another_process_only(
        self, here: Site, there: ServerProcess, redis: RedisServer
    ) -> None:
        far = WebSocket(there.port)
        far.connect(namespace="/tenant-7,")
        far.send('42/tenant-7,1["__subscribe__","room"]')
        far.receive()
        with pytest.raises(NoSocket):
            broadcast("elsewhere", namespace="/tenant-8")
        broadcast("one", namespace="/tenant-7")
        broadcast_channel("two", "room", namespace="/tenant-7")
        assert far.receive() == '42/tenant-7,["message","one"]'
        assert far.receive() == '42/tenant-7,["message","two"]'
        assert default_runtime.registry.get("/tenant-7") is None
        near = here.websocket()
        near.connect(namespace="/tenant-7,")
        far.send('42/tenant-7,["run","socket.broadcast","three"]')
        assert near.receive() == '42/tenant-7,["message","three"]'
        near.send("41/tenant-7,")
        while default_runtime.registry.get("/tenant-7") is not None:
            gevent.sleep(0.01)
        broadcast("four", namespace="/tenant-7")
        assert far.receive() == '42/tenant-7,["message","four"]'
        far.send("41/tenant-7,")
        while redis.topics():
            gevent.sleep(0.01)

    def test_emit_with_local_reaches_this_process_only(
        self, here: Site, there: ServerProcess
    ) -> None:
        far, near = connect(there, "room", "other room"), connect(here, "room")
        far.connect(namespace="/chat,")
        emit("tick", 1, local=True)
        emit("tick", 2, channel="room", local=True)
        assert [near.event(), near.event()] == [["tick", 1], ["tick", 2]]
        with pytest.raises(NoSocket):
            emit("tick", 3, channel="other room", local=True)
        with pytest.raises(NoSocket):
            emit("tick", 4, namespace="/chat", local=True)
        receives_only(far)

    def test_emit_with_bytes_reaches_other_processes_with_attachments(
        self, here: Site, there: ServerProcess
    ) -> None:
        far = connect(there, "room")
        emit("tick", 1, b"\2\0\xff")
        emit("tock", "ž", channel="room")
        assert far.receive() == '451-["tick",1,{"_placeholder":true,"num":0}]'
        assert far.receive() == b"\2\0\xff"
        assert far.event() == ["tock", "ž"]

    def test_send_reaches_a_socket_in_another_process(
        self, here: Site, there: ServerProcess
    ) -> None:
        far, other = connect(there), connect(there)
        send(far.id, "you")
        receives_only(other)
        receives_only(far, "you", "end")

    def test_send_to_a_remote_socket_uses_its_namespace(
        self, here: Site, there: ServerProcess
    ) -> None:
        far = connect(there)
        chat = far.connect(namespace="/chat,")["sid"]
        send(chat, "one")
        send(chat, b"two")
        broadcast("three", namespace="/chat")
        assert far.receive() == '42/chat,["message","one"]'
        assert far.receive() == '451-/chat,["message",{"_placeholder":true,"num":0}]'
        assert far.receive() == b"two"
        assert far.receive() == '42/chat,["message","three"]'
        receives_only(far)

    def test_socket_broadcasts_reach_other_processes_once(
        self, here: Site, there: ServerProcess
    ) -> None:
        near, far, outside = connect(here, "room"), connect(there, "room"), connect(there)
        socket = socket_of(near)
        socket.broadcast(1)
        socket.send_and_broadcast(2)
        socket.broadcast_channel(3, "room")
        socket.send_and_broadcast_channel(4, "room")
        socket.broadcast_channel(5)
        receives_only(far, 1, 2, 3, 4, 5)
        receives_only(outside, 1, 2, "end")
        assert [near.event()[1] for _ in range(4)] == [2, 4, "end", "end"]

    def test_messages_of_another_process_reach_this_one(
        self, here: Site, there: ServerProcess
    ) -> None:
        near, far = connect(here, "room"), connect(there, "room")
        assert far.call("run", "socket.broadcast", 1) == []
        assert far.call("run", "socket.broadcast_channel", 2) == []
        assert far.call("run", "send", near.id, 3) == []
        far.emit("run", "broadcast", 4)
        assert [near.event()[1] for _ in range(4)] == [1, 2, 3, 4]

    def test_subscriber_of_several_channels_receives_one_copy(
        self, here: Site, there: ServerProcess
    ) -> None:
        near = connect(here, "a", "b", "c")
        both, second, none = connect(there, "a", "b"), connect(there, "b"), connect(there, "d")
        socket_of(near).broadcast_channel("first")
        socket_of(near).broadcast_channel("second")
        receives_only(none)
        receives_only(both, "first", "second", "end")
        receives_only(second, "first", "second", "end", "end")

    def test_message_of_another_process_is_not_encoded_again(
        self, here: Site, there: ServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        near, far = connect(here), connect(there)

        def encode_again(*args: Any) -> None:
            raise AssertionError

        monkeypatch.setattr("webpy_socketio.engine.socketio.packets._encode_message", encode_again)
        far.emit("run", "socket.broadcast", "hello")
        assert near.event() == ["message", "hello"]

    def test_skipped_session_receives_no_copy_from_another_process(
        self, here: Site, redis: RedisServer
    ) -> None:
        first, second = connect(here), connect(here)
        message = encode_event("/", "message", ("hello",))
        topic = Topic.namespace_topic("/")
        skipping = encode(topic, Mark("other", 1, 1), message, RecipientFilter((first.id,)))
        address = topic.address("webpy_socketio")
        redis.ask("PUBLISH", address, skipping)
        redis.ask("PUBLISH", address, skipping)  # a duplicate is not delivered
        redis.ask("PUBLISH", address, encode(topic, Mark("other", 1, 2), message))
        assert [second.event()[1], first.event()[1]] == ["hello", "hello"]
        assert second.event() == ["message", "hello"]
        second.barrier()
        first.barrier()


class TestNoRecipient:
    def test_message_without_recipient_in_the_cluster_raises_no_socket(
        self, here: Site, there: ServerProcess
    ) -> None:
        for function, args in (
            (broadcast, ("hello",)),
            (broadcast_channel, ("hello", "room")),
            (send, ("some id", "hello")),
            (send, ("\ud800", "hello")),
        ):
            with pytest.raises(NoSocket):
                function(*args)
        far = connect(there, "room")
        with pytest.raises(NoSocket):
            broadcast_channel("hello", "other room")
        with pytest.raises(NoSocket):
            broadcast("hello", namespace="/chat")
        receives_only(far)
        assert far.call("run", "broadcast_channel", "hello", "other room") == ["NoSocket"]

    def test_own_subscription_is_not_counted_as_recipient(self, here: Site) -> None:
        near = connect(here)
        for number in range(20):  # commands that are still queued must not be counted either
            room = f"room {number}"
            assert near.call("__subscribe__", room) == [{"ok": True}]
            assert near.call("__unsubscribe__", room) == [{"ok": True}]
            with pytest.raises(NoSocket):
                broadcast_channel("hello", room)

    def test_topic_without_sockets_is_not_counted_as_recipient(
        self, here: Site, redis: RedisServer
    ) -> None:
        default_runtime.registry.backplane.subscribe(Topic.channel("/", "room"))  # type: ignore[union-attr]
        with pytest.raises(NoSocket):
            broadcast_channel("hello", "room")
        default_runtime.registry.backplane.unsubscribe(Topic.channel("/", "room"))  # type: ignore[union-attr]


class TestTopicNames:
    @pytest.mark.parametrize(
        "name",
        ["*", "r*", "?oom", "[r]oom", ",room", "/chat,room", ":", "all:/,", "x:1:channel:/,room"],
    )
    def test_channel_name_with_special_characters_addresses_only_itself(
        self, name: str, here: Site, there: ServerProcess
    ) -> None:
        other, room = connect(there, name), connect(there, "room")
        broadcast_channel("for the room", "room")
        broadcast_channel("for the other name", name)
        send(room.id, "for one")
        with pytest.raises(NoSocket):
            broadcast_channel("for the other name", f"{name}{name}")
        receives_only(other, "for the other name")
        receives_only(room, "for the room", "for one", "end")

    def test_channel_name_cannot_address_a_session(self, here: Site, there: ServerProcess) -> None:
        victim = connect(there)
        for name in (victim.id, f"session:,{victim.id}", f",{victim.id}"):
            spy = connect(there, name)
            send(victim.id, "secret")
            receives_only(spy)
            spy.close()
        for _ in range(3):
            assert [victim.event()[1], victim.event()[1]] == ["secret", "end"]

    def test_address_is_unique_for_each_topic(self) -> None:
        names = ["", "a", "a,b", "/", "/,a", "/a,b", "*", ":"]
        topics = [Topic.channel(space, name) for space in ("/", "/a", "/:") for name in names]
        topics += [Topic.session(name) for name in names]
        topics += [Topic.namespace_topic(space) for space in ("/", "/a", "/:")]
        assert len({topic.address("p") for topic in topics}) == len(topics)


class TestSubscriptions:
    def test_subscribe_returns_after_redis_confirmed(
        self, here: Site, there: ServerProcess
    ) -> None:
        far = connect(there)
        for number in range(100):
            assert far.call("__subscribe__", f"room {number}") == [{"ok": True}]
            broadcast_channel(number, f"room {number}")
            assert far.event() == ["message", number]

    def test_connect_returns_after_redis_confirmed(self, here: Site, there: ServerProcess) -> None:
        for number in range(20):
            far = connect(there)
            send(far.id, number)
            assert far.event() == ["message", number]
            far.close()

    def test_subscribe_waits_for_a_slow_redis(
        self, own_redis: RedisServer, serve: Callable[..., Site]
    ) -> None:
        proxy = Proxy(own_redis.start().port)
        site = serve(backplane=f"redis://127.0.0.1:{proxy.port}", backplane_prefix="p")
        proxy.latency = 0.05
        client = site.connect()
        assert own_redis.topics() == {"p:1:all:/,", f"p:1:session:,{client.id}"}
        assert client.call("__subscribe__", "room") == [{"ok": True}]
        assert "p:1:channel:/,room" in own_redis.topics()
        socket_of(client).subscribe("other")
        assert "p:1:channel:/,other" in own_redis.topics()
        proxy.close()

    def test_topic_is_subscribed_from_first_to_last_socket(
        self, own_redis: RedisServer, serve: Callable[..., Site]
    ) -> None:
        site = serve(backplane=own_redis.start().url, backplane_prefix="mine")

        def wait_for(*names: str) -> None:
            while own_redis.topics() != {f"mine:1:{name}" for name in names}:
                gevent.sleep(0.01)

        assert own_redis.topics() == set()
        first, second = site.connect(), site.connect()
        sessions = [f"session:,{client.id}" for client in (first, second)]
        assert len(own_redis.topics()) == 3
        for client in (first, second):
            client.call("__subscribe__", "room")
            wait_for("all:/,", "channel:/,room", *sessions)
        first.call("__unsubscribe__", "room")
        first.call("__subscribe__", "other")
        wait_for("all:/,", "channel:/,room", "channel:/,other", *sessions)
        second.vanish()
        wait_for("all:/,", "channel:/,other", sessions[0])
        first.vanish()
        wait_for()
        assert own_redis.ask("PUBSUB", "NUMPAT") == 0

    def test_rejected_subscription_leaves_no_topic(
        self, own_redis: RedisServer, serve: Callable[..., Site]
    ) -> None:
        site = serve(backplane=own_redis.start().url, max_channels=0)
        client = site.connect()
        assert client.call("__subscribe__", "room")[0]["ok"] is False
        assert not any("room" in topic for topic in own_redis.topics())

    def test_concurrent_or_aborted_subscription_leaves_no_topic(
        self, own_redis: RedisServer, serve: Callable[..., Site]
    ) -> None:
        proxy = Proxy(own_redis.start().port)
        site = serve(backplane=f"redis://127.0.0.1:{proxy.port}")
        proxy.latency = 0.01
        client, other = site.connect(), site.websocket()
        socket = socket_of(client)
        both = [gevent.spawn(socket.subscribe, "room") for _ in range(2)]
        assert sorted(task.get() for task in both) == [False, True]
        assert socket.unsubscribe("room")
        client.emit("__subscribe__", "another room")
        other.send("40")
        for one in (client, other):  # while the server waits for Redis
            one.vanish()
        known = default_runtime.registry.backplane._subscriber._pubsub._subscriptions  # type: ignore[union-attr]
        while site.server.engine.sessions or len(known) > len(SERVER_TOPICS):
            gevent.sleep(0.01)
        assert own_redis.topics() == set()
        proxy.close()

    def test_unsubscribe_during_an_outage_discards_the_topic(
        self, own_redis: RedisServer, serve: Callable[..., Site]
    ) -> None:
        client = serve(backplane=own_redis.url).connect()
        for number in range(10):
            assert client.call("__subscribe__", f"room {number}") == [{"ok": True}]
            assert client.call("__unsubscribe__", f"room {number}") == [{"ok": True}]
        backplane = default_runtime.registry.backplane
        count = 2 + len(SERVER_TOPICS)
        assert len(backplane._subscriber._subscriptions) == count  # type: ignore[union-attr]
        assert len(backplane._subscriber._pubsub._subscriptions) == count  # type: ignore[union-attr]

    def test_messages_sent_while_unsubscribed_cause_no_gap(
        self, here: Site, there: ServerProcess, gaps: Journal
    ) -> None:
        near, far = connect(here, "room"), connect(there, "room")
        far.emit("run", "broadcast_channel", 1, "room")
        assert [near.event(), far.event()] == [["message", 1]] * 2
        assert near.call("__unsubscribe__", "room") == [{"ok": True}]
        topic = Topic.channel("/", "room")
        while default_runtime.registry.backplane._subscriber.is_subscribed(topic):  # type: ignore[union-attr]
            gevent.sleep(0.01)
        far.emit("run", "broadcast_channel", 2, "room")
        assert far.event() == ["message", 2]  # possibly before it is in Redis
        assert far.call("run", "send", near.id, "behind it") == []
        assert near.event() == ["message", "behind it"]
        assert near.call("__subscribe__", "room") == [{"ok": True}]
        far.emit("run", "broadcast_channel", 3, "room")
        assert near.event() == ["message", 3]
        assert gaps == []

    def test_subscribe_and_unsubscribe_faster_than_redis_ends_subscribed(
        self, here: Site, there: ServerProcess
    ) -> None:
        near, far = connect(here), connect(there)
        socket = socket_of(near)
        for _ in range(50):
            socket.subscribe("room")
            socket.unsubscribe("room")
        socket.subscribe("room")
        far.emit("run", "broadcast_channel", "hello", "room")
        assert near.event() == ["message", "hello"]


LARGE = b"1" * 2_000_000


def envelope(body: bytes, **fields: Any) -> bytes:
    """Return an envelope as another program encodes it."""
    return orjson.dumps({"v": 1, **fields}) + b"\n" + body


class TestEnvelope:
    ROOM = Topic.channel("/", "room")

    @pytest.mark.parametrize("args", [("hello",), (), ({"a": [b"1", b""]},), ('č\x00"\\',)])
    @pytest.mark.parametrize("namespace", ["/", "/chat"])
    def test_decode_returns_the_encoded_message(
        self, namespace: str, args: tuple[Any, ...]
    ) -> None:
        message = encode_event(namespace, "message", args)
        topic = Topic.channel(namespace, "room")
        excluded = RecipientFilter(("me", "you"), ("muted",), True)
        found = decode(encode(topic, Mark("n", 1, 2), message, excluded, 3, ["room", "b"]), topic)
        assert found.packet is not None
        again = found.packet.message(namespace)
        assert (again.frames, again.payload) == (message.frames, message.payload)
        assert found[0] == Mark("n", 1, 2)
        assert found[2:] == (excluded, 3, ("room", "b"), None, None, (), None)

    @pytest.mark.parametrize(
        "payload",
        [
            *(b"", b"hello", b"\x80\x04N.", b"[]", b"null", b'"42[]"', b"\xff", b"{" * 5000),
            *(
                envelope(b'["a"]', **{"node": "n", "epoch": 1, "number": 1, **fields})
                for fields in (
                    *({"v": 2}, {"v": None}, {"node": 5}, {"node": None}, {"epoch": 0}),
                    *({"number": -1}, {"number": True}, {"number": 1.5}, {"number": None}),
                    *({"attachments": 5}, {"attachments": ["AA=="]}, {"attachments": [-1]}),
                    *({"attachments": [1]}, {"attachments": [2000]}, {"attachments": [True]}),
                    *({"skip": "id"}, {"skip_channels": [5]}, {"volatile": 1}),
                    *({"group": 1}, {"group": "1"}, {"channels": ["a"]}),
                    *({"group": 1, "channels": "ab"}, {"group": 1, "channels": [1]}),
                )
            ),
            *(
                envelope(body, node="n", epoch=1, number=1)
                for body in (b"", b"1", b'["a"', b'"a"]', b'2["a"]', b'["\xff"]', b"[%b]" % LARGE)
            ),
        ],
        ids=lambda payload: repr(payload[:90]),
    )
    def test_decode_of_another_payload_raises_invalid_envelope(self, payload: bytes) -> None:
        with pytest.raises(InvalidEnvelope):
            decode(payload, self.ROOM)

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"v":1}',
            envelope(b'["a"]', group=1, channels=["a"]),
            *map(envelope, (b"[]", b"[nonsense]", b'["a"] ["b"]', b"[{}]", b'["connect"]')),
            envelope(b'["a",%b1%b]' % (b"[" * 200, b"]" * 200)),
            envelope(b'["a"]!', attachments=[1]),
            envelope(b'["a",{"_placeholder":true,"num":1}]!', attachments=[1]),
            envelope(b'["a",{"_placeholder":true,"num":0}]!' + b"!" * 10, attachments=[1] * 11),
        ],
        ids=lambda payload: repr(payload[:90]),
    )
    def test_decode_of_an_invalid_event_of_an_emitter_raises_invalid_envelope(
        self, payload: bytes
    ) -> None:
        with pytest.raises(InvalidEnvelope):
            decode(payload, self.ROOM)

    def test_decode_ignores_unknown_fields_of_the_header(self) -> None:
        found = decode(envelope(b'["a"]', future=[1]), self.ROOM)
        assert found.packet == Packet(b'["a"]', [])

    def test_invalid_messages_on_a_topic_are_counted_and_logged_once(
        self,
        here: Site,
        there: ServerProcess,
        redis: RedisServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        monkeypatch.setattr(warning_log.WarningLog, "interval", 1000.0)
        near, far = connect(here, "room"), connect(there)
        for _ in range(100):
            redis.ask("PUBLISH", self.ROOM.address("webpy_socketio"), b"\x80\x04poison")
        far.emit("run", "broadcast_channel", "hello", "room")
        assert near.event() == ["message", "hello"]
        assert get_stats().backplane == {"dropped": 0, "ignored": 100, "gaps": 0}
        assert len([record for record in caplog.records if "ignored" in record.message]) == 1

    def test_message_above_a_megabyte_raises_encode_error(
        self, here: Site, there: ServerProcess
    ) -> None:
        near, far = connect(here, "room"), connect(there, "room")
        large = "x" * 1_000_000
        socket = socket_of(near)
        for function, args in (
            (broadcast, (large,)),
            (broadcast_channel, (large, "room")),
            (emit, ("event", large)),
            (send, (far.id, large)),
            (socket.broadcast, (large,)),
            (socket.send_and_broadcast_channel, (large,)),
        ):
            with pytest.raises(EncodeError):
                function(*args)
        socket.send(large)  # stays in this process
        assert near.event() == ["message", large]
        broadcast("\\" * 490_000)
        assert far.event() == ["message", "\\" * 490_000]


class TestPositions:
    """Detection of gaps and duplicates by sequence number."""

    @staticmethod
    def check(positions: Positions, number: int, epoch: int = 1, lost: bool = False) -> Verdict:
        packet = None if lost else Packet(b"[]", [])
        return positions.check(Envelope(Mark("n", epoch, number), packet))

    def test_check_in_order_reports_no_gap(self) -> None:
        positions = Positions()
        for number in (5, 6, 7):
            assert self.check(positions, number) == Verdict(True)

    def test_check_after_missing_numbers_reports_a_gap(self) -> None:
        positions = Positions()
        self.check(positions, 5)
        assert self.check(positions, 8) == Verdict(True, True, 2)
        assert self.check(positions, 9) == Verdict(True)

    def test_check_of_a_duplicate_is_not_fresh(self) -> None:
        positions = Positions()
        self.check(positions, 5)
        for number in (5, 4):
            assert not self.check(positions, number).fresh
        assert self.check(positions, 6) == Verdict(True)

    def test_check_of_a_new_epoch_starts_at_one(self) -> None:
        positions = Positions()
        self.check(positions, 5)
        assert self.check(positions, 1, 2) == Verdict(True)
        assert self.check(positions, 3, 3) == Verdict(True, True, 2)
        assert not self.check(positions, 9, 2).fresh

    def test_check_of_a_marker_of_a_new_node_reports_an_unknown_gap(self) -> None:
        assert self.check(Positions(), 7, lost=True) == Verdict(True, True, None)

    def test_check_of_an_envelope_without_number_reports_no_gap(self) -> None:
        positions = Positions()
        self.check(positions, 5)
        for _ in range(2):
            assert positions.check(Envelope(None, Packet(b"[]", []))) == Verdict(True)
        assert self.check(positions, 6) == Verdict(True)

    def test_sequence_of_a_discarded_topic_starts_a_new_epoch(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webpy_socketio.backplane.sequence.MAX_TOPICS", 2)
        sequence = SequenceCounter()
        a, b, c = (Topic.session(name) for name in "abc")
        marks = [sequence.next(topic)[1:] for topic in (a, b, a, c, b, b)]
        assert marks == [(1, 1), (2, 1), (1, 2), (3, 1), (4, 1), (4, 2)]

    def test_positions_and_groups_keep_a_limited_number_of_nodes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webpy_socketio.backplane.sequence.MAX_NODES", 10)
        positions, groups = Positions(), Groups()
        for node in range(100):
            envelope = Envelope(Mark(str(node), 1, 1), None, None, 1, ("a",))
            positions.check(envelope)
            assert groups.check(envelope).fresh
            assert not groups.check(envelope).fresh
        assert len(positions._last) == len(groups._last) == 10


STANDALONE = """
import sys
if "patched" in sys.argv:
    from gevent import monkey; monkey.patch_all()
from webpy_socketio import *
configure({"SOCKETIO_BACKPLANE": sys.argv[1], "SOCKETIO_MAX_CHANNEL_LENGTH": 300})

def attempt(function):
    try:
        function()
        print("sent", flush=True)
    except SocketIOError as error:
        print(type(error).__name__, flush=True)

for line in sys.stdin:
    eval(line)
"""


class Standalone:
    """A process without sockets and without a server."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", STANDALONE, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, call: str) -> str:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(f"attempt(lambda: {call})\n")
        self._popen.stdin.flush()
        return self._popen.stdout.readline().strip()

    def close(self) -> None:
        self._popen.communicate()


@pytest.fixture(params=["patched", "plain"])
def standalone(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[RedisServer], Standalone]]:
    """Return a function that starts a process which uses a given Redis."""
    started: list[Standalone] = []

    def start(redis: RedisServer) -> Standalone:
        started.append(Standalone(tmp_path, redis.url, request.param))
        return started[-1]

    yield start
    for process in started:
        process.close()


class TestRedisSender:
    def test_process_without_server_reaches_all_sockets(
        self,
        standalone: Callable[[RedisServer], Standalone],
        redis: RedisServer,
        there: ServerProcess,
    ) -> None:
        run = standalone(redis)
        assert run('broadcast("hello")') == "NoSocket"
        far = connect(there, "room", "x" * 255)
        assert run('broadcast("one")') == "sent"
        assert run('broadcast_channel("two", "room")') == "sent"
        assert run(f'send("{far.id}", "three")') == "sent"
        assert run('emit("four", b"4", channel="room")') == "sent"
        assert [far.event()[1] for _ in range(3)] == ["one", "two", "three"]
        assert far.receive() == '451-["four",{"_placeholder":true,"num":0}]'
        assert far.receive() == b"4"
        assert run('broadcast_channel("hello", "elsewhere")') == "NoSocket"
        assert run('broadcast_channel("hello", "x" * 300)') == "NoSocket"
        assert run('broadcast_channel("hello", "x" * 301)') == "ChannelError"
        assert run('broadcast("x" * 1_000_000)') == "EncodeError"
        assert run("broadcast(object())") == "EncodeError"

    def test_process_without_server_raises_during_an_outage_and_recovers(
        self,
        standalone: Callable[[RedisServer], Standalone],
        own_redis: RedisServer,
        serve: Callable[..., Site],
    ) -> None:
        run = standalone(own_redis)
        assert run('broadcast("hello")') == "BackplaneError"
        near = connect(serve(backplane=own_redis.start().url))
        assert run('broadcast("one")') == "sent"
        own_redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert run('broadcast("two")') == "sent"  # the close was detected before publishing
        assert [near.event()[1], near.event()[1]] == ["one", "two"]
        own_redis.stop()
        assert run('broadcast("hello")') == "BackplaneError"


def pending_connections(port: int) -> int:
    """Return the number of pending connection attempts to a port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum((each[2][-4:], each[3]) == (f"{port:04X}", "02") for each in fields)


class TestFailures:
    """Failures never lose or delay local delivery, and cause a gap for all other losses."""

    @pytest.fixture
    def far(self, own_redis: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
        """Start a server in another process, with a running Redis."""
        own_redis.start()
        server = ServerProcess(THERE, tmp_path / "far", {"BACKPLANE": own_redis.url})
        yield server
        server.close()

    def test_server_started_during_an_outage_delivers_locally(
        self, own_redis: RedisServer, tmp_path: Path, serve: Callable[..., Site], gaps: Journal
    ) -> None:
        far = ServerProcess(THERE, tmp_path / "far", {"BACKPLANE": own_redis.url})
        site = serve(backplane=own_redis.url)
        with pytest.raises(BackplaneError, match=str(own_redis.port)):
            broadcast("no recipient")
        near, other, distant = (
            connect(site, "room"),
            connect(site, "room"),
            connect(far, "room"),
        )
        with pytest.raises(BackplaneError):
            send("some id", "hello")
        assert distant.call("run", "send", "some id", "hello") == ["BackplaneError"]
        broadcast_channel("here", "room")
        socket_of(near).broadcast_channel("others", "room")
        assert near.event() == ["message", "here"]
        assert [other.event()[1], other.event()[1]] == ["here", "others"]
        own_redis.start()
        gaps.wait_for(None)
        assert far.wait_for("GAP") == "None"
        # Queued messages were published; whether the other server had subscribed by then is
        # undefined.
        retry_until_reachable(send, distant.id, "again")
        while distant.event() != ["message", "again"]:
            pass
        far.stop()
        assert gaps == [None]  # for all topics

    @pytest.mark.parametrize("how", ["client kill", "restart"])
    def test_subscriber_after_an_outage_signals_a_gap_and_delivers_again(
        self,
        how: str,
        own_redis: RedisServer,
        far: ServerProcess,
        serve: Callable[..., Site],
        gaps: Journal,
    ) -> None:
        site = serve(backplane=own_redis.url)
        near, distant = connect(site, "room"), connect(far, "room")
        if how == "restart":
            own_redis.stop()
            own_redis.start()
        else:
            own_redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
        gaps.wait_for(None)
        assert far.wait_for("GAP") == "None"
        retry_until_reachable(send, distant.id, "one")
        broadcast_channel("two", "room")
        assert [distant.event()[1] for _ in range(2)] == ["one", "two"]
        assert near.event() == ["message", "two"]
        while distant.call(
            "run", "send", near.id, "three"
        ):  # "BackplaneError": not reconnected yet
            pass
        assert near.event() == ["message", "three"]

    def test_idle_publisher_reconnects_without_loss(
        self, own_redis: RedisServer, serve: Callable[..., Site], far: ServerProcess, gaps: Journal
    ) -> None:
        connect(serve(backplane=own_redis.url))
        distant = connect(far)
        for number in range(5):
            broadcast(number)
            assert distant.event() == ["message", number]
            own_redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        broadcast("end")
        assert distant.event() == ["message", "end"]
        assert gaps == []

    def test_silently_dropped_connection_is_detected_by_timeout(
        self,
        own_redis: RedisServer,
        serve: Callable[..., Site],
        far: ServerProcess,
        gaps: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(publisher, "PING_INTERVAL", 0.1)
        monkeypatch.setattr(subscriber, "READ_TIMEOUT", 0.5)
        monkeypatch.setattr(publisher, "ANSWER_TIMEOUT", 0.5)
        proxy = Proxy(own_redis.port)
        near = connect(serve(backplane=f"redis://127.0.0.1:{proxy.port}"), "room")
        assert len(proxy.links) == 2
        # The connections opened after these two must not time out by mistake.
        default_runtime.registry.backplane._subscriber._pubsub.timeout = 15.0  # type: ignore[union-attr]
        monkeypatch.setattr(publisher, "ANSWER_TIMEOUT", 15.0)
        proxy.everything(Link.black_hole)
        gaps.wait_for(None)
        distant = connect(far, "room")
        distant.emit("run", "broadcast_channel", "hello", "room")
        assert distant.event() == ["message", "hello"]
        assert near.event() == ["message", "hello"]
        retry_until_reachable(send, distant.id, "and back")
        proxy.close()

    def test_idle_connection_is_kept_alive_by_pings(
        self,
        own_redis: RedisServer,
        serve: Callable[..., Site],
        gaps: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(publisher, "PING_INTERVAL", 0.1)
        monkeypatch.setattr(subscriber, "READ_TIMEOUT", 2.0)
        connect(serve(backplane=own_redis.start().url))
        pings = 0
        while pings < 60:  # on two connections: longer than the read timeout
            gevent.sleep(0.1)
            pings = own_redis.ask("INFO", "commandstats")["cmdstat_ping"]["calls"]
        assert gaps == []

    def test_publisher_does_not_resend_a_message_under_way(self) -> None:
        seen: list[bytes] = []

        def answer(sock: Any, address: Any) -> None:
            """Close the connection when a message is published."""
            while data := sock.recv(65_536):
                if b"PUBLISH" in data:
                    seen.append(data)
                    return
                sock.sendall(b"+OK\r\n" * (data.count(b"\r\n*") + 1))

        server = StreamServer(("127.0.0.1", 0), answer)
        server.start()
        sequence = SequenceCounter()
        counts = new_counts()
        url = f"redis://127.0.0.1:{server.server_port}"
        sender = publisher.Publisher(url, "p", sequence, counts)
        topic, message = Topic.namespace_topic("/"), encode_event("/", "message", ("hello",))
        sender.put(publisher.OutgoingMessage(topic, sequence.next(topic), message))
        while len(seen) < 3:  # the others are markers of the loss
            gevent.sleep(0.01)
        sender.stop(0)
        server.stop()
        assert [b"hello" in data for data in seen[:3]] == [True, False, False]
        assert counts["dropped"] == 1

    def test_publisher_with_full_queue_drops_messages_and_logs(
        self,
        own_redis: RedisServer,
        serve: Callable[..., Site],
        far: ServerProcess,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        near = connect(serve(backplane=own_redis.url))
        distant = connect(far)
        broadcast("first")
        assert distant.event() == ["message", "first"]
        monkeypatch.setattr(publisher, "MAX_WAITING", 5)
        for number in range(20):  # without yielding to the publisher
            broadcast(number)
        assert get_stats().backplane["dropped"] == 15
        assert [near.event()[1] for _ in range(21)] == ["first", *range(20)]
        assert [distant.event()[1] for _ in range(5)] == list(range(5))
        while far.wait_for("GAP") == "None":  # the gap of its start
            pass
        assert "a message to other processes was dropped" in caplog.text

    def test_reconnection_to_redis_is_logged_at_the_level_of_its_loss(
        self,
        own_redis: RedisServer,
        serve: Callable[..., Site],
        gaps: Journal,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        own_redis.start()
        near = connect(serve(backplane=own_redis.url))
        monkeypatch.setattr(publisher, "MAX_WAITING", 5)
        own_redis.stop()
        broadcast("under way")  # on the connection that has just ended
        while default_runtime.registry.backplane._publisher.connected:  # type: ignore[union-attr]
            gevent.sleep(0.01)
        before = get_stats().backplane["dropped"]
        for number in range(12):
            broadcast(number)
        dropped = get_stats().backplane["dropped"] - before
        assert dropped in (7, 8)  # the previous message may be queued, too
        own_redis.start()
        gaps.wait_for(None)
        retry_until_reachable(send, near.id, "again")
        retry_until_reachable(broadcast_to_empty_channel)
        lost, back = (
            [record for record in caplog.records if text in record.message]
            for text in ("is unreachable", "reconnected to")
        )
        assert [record.levelname for record in (*lost, *back)] == ["WARNING"] * 4
        where = rf"reconnected to Redis at 127\.0\.0\.1:{own_redis.port} after \d+\.\d s; "
        texts = sorted((record.message for record in back), key=lambda text: "dropped" not in text)
        assert re.fullmatch(where + r"\d+ messages to other processes were dropped", texts[0])
        assert int(texts[0].split("; ")[1].split()[0]) >= dropped
        assert re.fullmatch(where + "an unknown number of messages .* may be missing", texts[1])

    def test_loss_of_the_last_message_is_reported_by_a_marker(
        self, own_redis: RedisServer, serve: Callable[..., Site], gaps: Journal
    ) -> None:
        own_redis.start()
        connect(serve(backplane=own_redis.url))
        topic = Topic.namespace_topic("/")
        sequence = SequenceCounter()
        sender = publisher.Publisher(own_redis.url, "webpy_socketio", sequence, new_counts())
        sender.attempted.wait()
        message = encode_event("/", "message", ("hello",))
        sender.put(publisher.OutgoingMessage(topic, sequence.next(topic), message))
        lost = publisher.OutgoingMessage(topic, sequence.next(topic), message)
        sender._drop(lost, BackplaneError("for the test"))
        sender.stop(5)
        gaps.wait(len)
        assert gaps == [1]

    def test_stop_during_an_outage_counts_queued_messages_as_dropped(
        self, own_redis: RedisServer, serve: Callable[..., Site]
    ) -> None:
        own_redis.start()
        site = serve(backplane=own_redis.url)
        near = connect(site)
        own_redis.stop()
        backplane = default_runtime.registry.backplane
        assert backplane is not None
        broadcast("hello")
        assert near.event() == ["message", "hello"]
        site.server.stop()
        assert backplane.counts["dropped"] == 1

    @pytest.mark.parametrize("part", ["publisher", "pubsub"])
    def test_stop_while_connecting_leaks_no_socket(
        self, part: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A leaked socket would cause a ResourceWarning in a later test."""
        monkeypatch.setattr("webpy_socketio.backplane.connection.CONNECT_TIMEOUT", 0.5)
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            port = listener.getsockname()[1]
            for _ in range(3):  # the backlog is full, and the next connection gets no reply
                waiting = stack.enter_context(gevent.socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            before = pending_connections(port)
            url = f"redis://127.0.0.1:{port}"
            one: Any
            if part == "publisher":
                one = publisher.Publisher(url, "p", SequenceCounter(), new_counts())
            else:
                one = PubSub(url, lambda topic, payload: None)
            while pending_connections(port) == before:
                gevent.sleep(0.01)
            one.stop(0) if part == "publisher" else one.stop()
            gc.collect()
            one._greenlet.join()

    def test_subscribe_with_unresponsive_redis_waits_once(
        self,
        own_redis: RedisServer,
        serve: Callable[..., Site],
        gaps: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        own_redis.start()
        site = serve(backplane=own_redis.url)
        near = connect(site)
        monkeypatch.setattr(subscriber, "CONFIRM_TIMEOUT", 1.0)
        assert own_redis.process is not None
        own_redis.process.popen.send_signal(19)  # SIGSTOP
        for number in range(30):  # would take 30 s with a wait each
            assert near.call("__subscribe__", f"room {number}") == [{"ok": True}]
        broadcast_channel("hello", "room 1")
        assert near.event() == ["message", "hello"]
        own_redis.process.popen.send_signal(18)
        gaps.wait(lambda gaps: len(gaps) == 30)  # each subscription may have missed a message

    def test_failing_gap_receiver_does_not_stop_others(self, gaps: Journal, caplog: Any) -> None:
        def failing(sender: Any, **extra: Any) -> None:
            raise ZeroDivisionError

        signals.gap.connect(failing, first=True)
        default_runtime.registry.report_gap("node", 5, None)
        gaps.wait_for(5)
        assert "ZeroDivisionError" in caplog.text


def pause(server: ServerProcess) -> None:
    server.process.popen.send_signal(signal.SIGSTOP)


def resume(server: ServerProcess) -> None:
    server.process.popen.send_signal(signal.SIGCONT)


def wait_until_silent(redis: RedisServer, kind: str, seconds: int = 3) -> None:
    """Wait until a connection of that kind has been idle for so many seconds."""
    while not any(int(each["idle"]) >= seconds for each in redis.ask("CLIENT LIST", "TYPE", kind)):
        gevent.sleep(0.05)


class TestSuspension:
    """A process suspended for longer than its timeouts reads the data that arrived meanwhile."""

    @pytest.fixture
    def far(self, own_redis: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
        own_redis.start()
        env = {"BACKPLANE": own_redis.url, "SHORT_TIMEOUTS": "1"}
        server = ServerProcess(THERE, tmp_path / "far", env)
        yield server
        resume(server)
        server.close()

    def test_subscriber_after_suspension_delivers_everything_without_a_gap(
        self, own_redis: RedisServer, far: ServerProcess, serve: Callable[..., Site]
    ) -> None:
        serve(backplane=own_redis.url)
        distant = connect(far)
        for _ in range(2):
            pause(far)
            for number in range(100):
                broadcast(number)
            wait_until_silent(own_redis, "pubsub")
            resume(far)
            assert [distant.event()[1] for _ in range(100)] == list(range(100))
        assert distant.call("run", "say", "END") == []
        assert far.process.next_line() == "END"

    def test_subscriber_disconnected_during_suspension_delivers_buffered_messages_first(
        self, own_redis: RedisServer, far: ServerProcess, serve: Callable[..., Site]
    ) -> None:
        serve(backplane=own_redis.url)
        distant = connect(far)
        pause(far)
        for number in range(100):
            broadcast(number)
        wait_until_silent(own_redis, "pubsub")
        own_redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
        with pytest.raises(NoSocket):
            broadcast("missed")
        resume(far)
        assert [distant.event()[1] for _ in range(100)] == list(range(100))
        assert far.process.next_line() == "GAP None"

    def test_subscriber_with_overflowed_buffer_delivers_messages_in_order_until_the_gap(
        self, own_redis: RedisServer, far: ServerProcess, serve: Callable[..., Site]
    ) -> None:
        serve(backplane=own_redis.url)
        distant = connect(far)
        own_redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0")
        pause(far)
        number = 0
        while len(own_redis.ask("CLIENT LIST", "TYPE", "pubsub")) > 1:  # this process is one
            broadcast([number, "x" * 10_000])
            number += 1
            gevent.sleep(0.001)
        gevent.sleep(SHORT_TIMEOUT)  # its expired timers cannot be observed from here
        resume(far)
        assert far.process.next_line() == "GAP None"
        distant.emit("run", "say", "END", ack=7)
        received = []
        while (packet := str(distant.receive())).startswith("42"):
            received.append(json.loads(packet[2:])[1][0])
        assert received == list(range(len(received)))
        assert len(received) * 10_000 > 100_000, number

    def test_publisher_after_suspension_reads_the_replies(
        self, own_redis: RedisServer, far: ServerProcess
    ) -> None:
        distant = connect(far)
        assert own_redis.process is not None
        own_redis.process.popen.send_signal(signal.SIGSTOP)
        for number in range(10):
            distant.emit("run", "broadcast", number)
            assert distant.event() == ["message", number]
        assert distant.call("run", "say", "written") == []  # its publisher has run before that
        pause(far)
        own_redis.process.popen.send_signal(signal.SIGCONT)
        wait_until_silent(own_redis, "normal")
        resume(far)
        distant.emit("run", "say_dropped")
        assert far.wait_for("DROPPED") == "0"


class TestRedisConnection:
    """The connection to Redis that plugins use."""

    def test_execute_returns_replies_and_errors_in_order(self, redis: RedisServer) -> None:
        connection = connect_redis(redis.url, 5.0)
        refused, *others = connection.execute(("NONSENSE",), ("ECHO", "ž"), ("ECHO", 5))
        assert isinstance(refused, BackplaneError)
        assert "NONSENSE" in str(refused)
        assert others == ["ž".encode(), b"5"]
        assert connection.execute() == []
        connection.close()
        with pytest.raises(BackplaneError, match=str(redis.port)):
            connection.execute(("PING",))

    def test_closed_connection_does_not_reconnect(self, redis: RedisServer) -> None:
        connection = connect_redis(redis.url, 5.0)
        redis.ask("CLIENT", "KILL", "ID", *connection.execute(("CLIENT", "ID")))
        for _ in range(2):
            with pytest.raises(BackplaneError, match=str(redis.port)):
                connection.execute(("PING",))

    def test_connect_with_a_wrong_password_raises_error_with_remedy(
        self, own_redis: RedisServer
    ) -> None:
        own_redis.start().ask("CONFIG", "SET", "requirepass", "p%23@ss")
        with pytest.raises(BackplaneError, match="percent-encoded"):
            connect_redis(f"redis://:p%23@ss@127.0.0.1:{own_redis.port}", 5.0)
        connection = connect_redis(f"redis://:p%2523%40ss@127.0.0.1:{own_redis.port}", 5.0)
        assert connection.execute(("PING",)) == [b"PONG"]
        connection.close()

    def test_connect_to_a_closed_port_raises_error_with_address(
        self, own_redis: RedisServer
    ) -> None:
        with pytest.raises(BackplaneError, match=str(own_redis.port)):
            connect_redis(own_redis.url, 5.0)


class TestBackplaneSetting:
    def run(self, program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    SERVER = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, web\n"
        "from webpy_socketio import *\n"
        "app = web.application(socketio_urls, {}).wsgifunc()\n"
        "server = SocketIOServer(('127.0.0.1', 0), app, plugins=[], log=None, **OPTIONS)\n"
    )

    def test_server_without_backplane_does_not_import_redis(self) -> None:
        program = (
            "OPTIONS = {}\n"
            + self.SERVER
            + (
                "server.start()\n"
                "try:\n    broadcast('hello')\nexcept NoSocket:\n    pass\n"
                "server.stop()\n"
                "names = ('connection', 'redis', 'publisher', 'subscriber')\n"
                "names = ['redis', *(f'webpy_socketio.backplane.{name}' for name in names)]\n"
                "print([name for name in names if name in sys.modules])\n"
            )
        )
        assert self.run(program) == "[]"

    def test_missing_redis_library_raises_error_with_remedy(self) -> None:
        program = (
            "OPTIONS = {'backplane': 'redis://localhost'}\n"
            + self.SERVER
            + (
                "sys.modules['redis'] = None\n"
                "try:\n    server.start()\nexcept ConfigurationError as error:\n    print(error)\n"
            )
        )
        assert 'pip install "webpy_socketio[redis]"' in self.run(program)

    def test_two_servers_of_a_process_share_the_backplane(
        self, redis: RedisServer, serve: Callable[..., Site]
    ) -> None:
        first, second = serve(backplane=redis.url), serve(backplane=redis.url)
        with pytest.raises(ConfigurationError, match="BACKPLANE"):
            serve()
        first.server.stop()
        assert default_runtime.registry.backplane is not None
        second.server.stop()
        assert default_runtime.registry.backplane is None

    def test_stop_publishes_queued_messages(
        self, redis: RedisServer, serve: Callable[..., Site], there: ServerProcess
    ) -> None:
        site, far = serve(backplane=redis.url), connect(there)
        socket = socket_of(connect(site))
        for number in range(200):
            socket.broadcast(number)
        site.server.stop()
        assert [far.event()[1] for _ in range(200)] == list(range(200))
