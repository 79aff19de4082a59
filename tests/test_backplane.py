"""Several processes, one behaviour: a real Redis, real processes, and what goes wrong between them.

``here`` is a server in this process, ``there`` one in another. What is published by one process
comes in the order in which it was published, whatever topic it is on: so ``end`` of `only` shows that
nothing else was on its way. What is lost, and told, in the middle of faults: ``test_delivery``.
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

from webpy_socketio import (
    BackplaneError,
    ConfigurationError,
    EncodeError,
    NoSocket,
    backplane,
    broadcast,
    broadcast_channel,
    connect_redis,
    emit,
    send,
)
from webpy_socketio.backplane import Topic, counts, gap, publisher, subscriber
from webpy_socketio.backplane.envelope import (
    Envelope,
    InvalidEnvelope,
    Mark,
    Packet,
    decode,
    encode,
)
from webpy_socketio.backplane.sequence import Groups, Positions, SequenceCounter, Verdict
from webpy_socketio.engine.socketio.packets import encode_event
from webpy_socketio.registry import registry

from .conftest import Journal, Site, socket_of
from .faults import Link, Proxy
from .raw import WebSocket
from .redis_server import UNHURRIED, RedisServer, unhurried
from .servers import ServerProcess, application_source

pytestmark = pytest.mark.patience(30)

#: Seconds after which a process with short timeouts takes its connections to Redis for dead.
SHORT_TIMEOUT = 0.9

THERE = application_source(
    f"""
from webpy_socketio.backplane import counts, gap, publisher, redis, subscriber

redis.TIMEOUT = subscriber.CONFIRM_TIMEOUT = {UNHURRIED}
if "SHORT_TIMEOUTS" in os.environ:
    publisher.PING_INTERVAL = subscriber.PING_INTERVAL = 0.3
    publisher.ANSWER_TIMEOUT = subscriber.READ_TIMEOUT = {SHORT_TIMEOUT}
"""
    """
OPTIONS = {"plugins": [], "log": None, "namespaces": ["/", "/chat"]}
OPTIONS["backplane"] = os.environ["BACKPLANE"]

@gap.connect
def told(sender, node, missed, **extra):
    say("GAP", missed)

def say_dropped():
    say("DROPPED", counts["dropped"])

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
def lasting_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def there(
    lasting_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server in another process."""
    env = {"BACKPLANE": lasting_redis.url}
    server = ServerProcess(THERE, tmp_path_factory.mktemp("there"), env)
    yield server
    server.close()


@pytest.fixture
def redis(lasting_redis: RedisServer) -> RedisServer:
    """A Redis that stays, when nobody of the test before listens any more."""
    while lasting_redis.topics():
        gevent.sleep(0.01)
    return lasting_redis


@pytest.fixture
def here(redis: RedisServer, serve: Callable[..., Site]) -> Site:
    """A server in this process."""
    return serve(backplane=redis.url, namespaces=["/", "/chat"])


@pytest.fixture
def frail(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, which may do to it what it likes; not started yet."""
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    unhurried(monkeypatch)


@pytest.fixture(autouse=True)
def gaps() -> Iterator[Journal]:
    """How much was missed, of each gap in this process."""
    journal = Journal()

    def told(sender: Any, missed: int | None, **extra: Any) -> None:
        journal.append(missed)

    gap.connect(told)
    yield journal
    gap.disconnect(told)


def connect(server: ServerProcess, *channels: str) -> WebSocket:
    client = WebSocket(server.port)
    client.connect()
    for channel in channels:
        assert client.call("__subscribe__", channel) == [{"ok": True}]
    return client


def local(site: Site, *channels: str) -> WebSocket:
    client = site.connect()
    for channel in channels:
        assert client.call("__subscribe__", channel) == [{"ok": True}]
    return client


def only(client: WebSocket, *messages: Any) -> None:
    """A client elsewhere gets these messages of ours, and no other."""
    broadcast("end")
    for message in (*messages, "end"):
        assert client.event() == ["message", message]


def broadcast_channel_reaches_nobody() -> None:
    """Ask Redis, which has to be back for it."""
    with pytest.raises(NoSocket):
        broadcast_channel("hello", "empty")


def until_reached(function: Callable[..., Any], *args: Any) -> None:
    """Call it until Redis is back."""
    while True:
        try:
            return function(*args)
        except BackplaneError:
            gevent.sleep(0.01)


class TestReach:
    def test_broadcast(self, here: Site, there: ServerProcess) -> None:
        far = connect(there)
        broadcast({"nobody": "here"})
        near = local(here)
        broadcast({"somebody": "here"})
        only(far, {"nobody": "here"}, {"somebody": "here"})
        far.emit("run", "send", near.id, "last")
        # What we published ourselves comes back from Redis before that, and is not delivered again.
        assert [near.event()[1] for _ in range(3)] == [{"somebody": "here"}, "end", "last"]

    def test_broadcast_channel(self, here: Site, there: ServerProcess) -> None:
        inside, outside = connect(there, "room"), connect(there)
        broadcast_channel("one", "room")
        near = local(here, "room")
        broadcast_channel("two", "room")
        only(outside)
        only(inside, "one", "two", "end")
        assert near.event() == ["message", "two"]

    def test_only_here(self, here: Site, there: ServerProcess) -> None:
        far, near = connect(there, "room", "other room"), local(here, "room")
        far.connect(namespace="/chat,")
        emit("tick", 1, local=True)
        emit("tick", 2, channel="room", local=True)
        assert [near.event(), near.event()] == [["tick", 1], ["tick", 2]]
        with pytest.raises(NoSocket):
            emit("tick", 3, channel="other room", local=True)
        with pytest.raises(NoSocket):
            emit("tick", 4, namespace="/chat", local=True)
        only(far)

    def test_emit_with_bytes(self, here: Site, there: ServerProcess) -> None:
        far = connect(there, "room")
        emit("tick", 1, b"\2\0\xff")
        emit("tock", "ž", channel="room")
        assert far.receive() == '451-["tick",1,{"_placeholder":true,"num":0}]'
        assert far.receive() == b"\2\0\xff"
        assert far.event() == ["tock", "ž"]

    def test_send(self, here: Site, there: ServerProcess) -> None:
        far, other = connect(there), connect(there)
        send(far.id, "you")
        only(other)
        only(far, "you", "end")

    def test_send_to_another_namespace(self, here: Site, there: ServerProcess) -> None:
        far = connect(there)
        chat = far.connect(namespace="/chat,")["sid"]
        send(chat, "one")
        send(chat, b"two")
        broadcast("three", namespace="/chat")
        assert far.receive() == '42/chat,["message","one"]'
        assert far.receive() == '451-/chat,["message",{"_placeholder":true,"num":0}]'
        assert far.receive() == b"two"
        assert far.receive() == '42/chat,["message","three"]'
        only(far)

    def test_what_sockets_broadcast(self, here: Site, there: ServerProcess) -> None:
        near, far, outside = local(here, "room"), connect(there, "room"), connect(there)
        socket = socket_of(near)
        socket.broadcast(1)
        socket.send_and_broadcast(2)
        socket.broadcast_channel(3, "room")
        socket.send_and_broadcast_channel(4, "room")
        socket.broadcast_channel(5)
        only(far, 1, 2, 3, 4, 5)
        only(outside, 1, 2, "end")
        assert [near.event()[1] for _ in range(4)] == [2, 4, "end", "end"]

    def test_the_other_way_round(self, here: Site, there: ServerProcess) -> None:
        near, far = local(here, "room"), connect(there, "room")
        assert far.call("run", "socket.broadcast", 1) == []
        assert far.call("run", "socket.broadcast_channel", 2) == []
        assert far.call("run", "send", near.id, 3) == []
        far.emit("run", "broadcast", 4)
        assert [near.event()[1] for _ in range(4)] == [1, 2, 3, 4]

    def test_one_copy_for_who_is_in_several_channels(
        self, here: Site, there: ServerProcess
    ) -> None:
        near = local(here, "a", "b", "c")
        both, second, none = connect(there, "a", "b"), connect(there, "b"), connect(there, "d")
        socket_of(near).broadcast_channel("first")
        socket_of(near).broadcast_channel("second")
        only(none)
        only(both, "first", "second", "end")
        only(second, "first", "second", "end", "end")

    def test_it_is_not_encoded_again(
        self, here: Site, there: ServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        near, far = local(here), connect(there)

        def encode_again(*args: Any) -> None:
            raise AssertionError

        monkeypatch.setattr("webpy_socketio.engine.socketio.packets._encode_message", encode_again)
        far.emit("run", "socket.broadcast", "hello")
        assert near.event() == ["message", "hello"]

    def test_the_skipped_one_is_skipped_elsewhere_too(self, here: Site, redis: RedisServer) -> None:
        first, second = local(here), local(here)
        message = encode_event("/", "message", ("hello",))
        envelope = encode(Mark("stranger", 1, 1), message, skip=first.id)
        address = Topic.namespace_topic("/").address("webpy_socketio")
        redis.ask("PUBLISH", address, envelope)
        redis.ask("PUBLISH", address, envelope)  # nobody gets anything twice
        redis.ask("PUBLISH", address, encode(Mark("stranger", 1, 2), message))
        assert [second.event()[1], first.event()[1]] == ["hello", "hello"]
        assert second.event() == ["message", "hello"]
        second.barrier()
        first.barrier()


class TestNobody:
    def test_in_the_whole_cluster(self, here: Site, there: ServerProcess) -> None:
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
        only(far)
        assert far.call("run", "broadcast_channel", "hello", "other room") == ["NoSocket"]

    def test_we_do_not_count_ourselves(self, here: Site) -> None:
        near = local(here)
        for number in range(20):  # what Redis still has to do must not be counted either
            room = f"room {number}"
            assert near.call("__subscribe__", room) == [{"ok": True}]
            assert near.call("__unsubscribe__", room) == [{"ok": True}]
            with pytest.raises(NoSocket):
                broadcast_channel("hello", room)

    def test_who_is_about_to_subscribe_is_not_there(self, here: Site, redis: RedisServer) -> None:
        registry.backplane.subscribe(Topic.channel("/", "room"))  # type: ignore[union-attr]
        with pytest.raises(NoSocket):
            broadcast_channel("hello", "room")
        registry.backplane.unsubscribe(Topic.channel("/", "room"))  # type: ignore[union-attr]


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["*", "r*", "?oom", "[r]oom", ",room", "/chat,room", ":", "all:/,", "x:1:channel:/,room"],
    )
    def test_a_clever_one_is_a_name(self, name: str, here: Site, there: ServerProcess) -> None:
        clever, room = connect(there, name), connect(there, "room")
        broadcast_channel("for the room", "room")
        broadcast_channel("for the clever", name)
        send(room.id, "for one")
        with pytest.raises(NoSocket):
            broadcast_channel("for the clever", f"{name}{name}")
        only(clever, "for the clever")
        only(room, "for the room", "for one", "end")

    def test_no_session_is_reached_by_a_channel(self, here: Site, there: ServerProcess) -> None:
        victim = connect(there)
        for name in (victim.id, f"session:,{victim.id}", f",{victim.id}"):
            spy = connect(there, name)
            send(victim.id, "secret")
            only(spy)
            spy.close()
        for _ in range(3):
            assert [victim.event()[1], victim.event()[1]] == ["secret", "end"]

    def test_every_topic_has_another_address(self) -> None:
        names = ["", "a", "a,b", "/", "/,a", "/a,b", "*", ":"]
        topics = [Topic.channel(space, name) for space in ("/", "/a", "/:") for name in names]
        topics += [Topic.session(name) for name in names]
        topics += [Topic.namespace_topic(space) for space in ("/", "/a", "/:")]
        assert len({topic.address("p") for topic in topics}) == len(topics)


class TestSubscribing:
    def test_nothing_is_missed_after_it_returned(self, here: Site, there: ServerProcess) -> None:
        far = connect(there)
        for number in range(100):
            assert far.call("__subscribe__", f"room {number}") == [{"ok": True}]
            broadcast_channel(number, f"room {number}")
            assert far.event() == ["message", number]

    def test_nothing_is_missed_after_connecting(self, here: Site, there: ServerProcess) -> None:
        for number in range(20):
            far = connect(there)
            send(far.id, number)
            assert far.event() == ["message", number]
            far.close()

    def test_redis_is_waited_for(self, frail: RedisServer, serve: Callable[..., Site]) -> None:
        proxy = Proxy(frail.start().port)
        site = serve(backplane=f"redis://127.0.0.1:{proxy.port}", backplane_prefix="p")
        proxy.latency = 0.05
        client = site.connect()
        assert frail.topics() == {"p:1:all:/,", f"p:1:session:,{client.id}"}
        assert client.call("__subscribe__", "room") == [{"ok": True}]
        assert "p:1:channel:/,room" in frail.topics()
        socket_of(client).subscribe("other")
        assert "p:1:channel:/,other" in frail.topics()
        proxy.close()

    def test_first_in_subscribes_and_last_out_unsubscribes(
        self, frail: RedisServer, serve: Callable[..., Site]
    ) -> None:
        site = serve(backplane=frail.start().url, backplane_prefix="mine")

        def wait_for(*names: str) -> None:
            while frail.topics() != {f"mine:1:{name}" for name in names}:
                gevent.sleep(0.01)

        assert frail.topics() == set()
        first, second = site.connect(), site.connect()
        sessions = [f"session:,{client.id}" for client in (first, second)]
        assert len(frail.topics()) == 3
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
        assert frail.ask("PUBSUB", "NUMPAT") == 0

    def test_what_a_gate_denied_leaves_nothing(
        self, frail: RedisServer, serve: Callable[..., Site]
    ) -> None:
        site = serve(backplane=frail.start().url, max_channels=0)
        client = site.connect()
        assert client.call("__subscribe__", "room")[0]["ok"] is False
        assert not any("room" in topic for topic in frail.topics())

    def test_who_was_quicker_or_went_leaves_nothing(
        self, frail: RedisServer, serve: Callable[..., Site]
    ) -> None:
        proxy = Proxy(frail.start().port)
        site = serve(backplane=f"redis://127.0.0.1:{proxy.port}")
        proxy.latency = 0.01
        client, other = site.connect(), site.websocket()
        socket = socket_of(client)
        both = [gevent.spawn(socket.subscribe, "room") for _ in range(2)]
        assert sorted(task.get() for task in both) == [False, True]
        assert socket.unsubscribe("room")
        client.emit("__subscribe__", "another room")
        other.send("40")
        for one in (client, other):  # while Redis is waited for
            one.vanish()
        known = registry.backplane._subscriber._topics  # type: ignore[union-attr]
        while site.server.engine.sessions or known:
            gevent.sleep(0.01)
        assert frail.topics() == set()
        proxy.close()

    def test_nothing_is_kept_while_redis_is_away(
        self, frail: RedisServer, serve: Callable[..., Site]
    ) -> None:
        client = serve(backplane=frail.url).connect()
        for number in range(10):
            assert client.call("__subscribe__", f"room {number}") == [{"ok": True}]
            assert client.call("__unsubscribe__", f"room {number}") == [{"ok": True}]
        assert len(registry.backplane._subscriber._topics) == 2  # type: ignore[union-attr]

    def test_what_was_said_while_nobody_was_in_is_not_missed(
        self, here: Site, there: ServerProcess, gaps: Journal
    ) -> None:
        near, far = local(here, "room"), connect(there, "room")
        far.emit("run", "broadcast_channel", 1, "room")
        assert [near.event(), far.event()] == [["message", 1]] * 2
        assert near.call("__unsubscribe__", "room") == [{"ok": True}]
        topic = Topic.channel("/", "room")
        while registry.backplane._subscriber.is_subscribed(topic):  # type: ignore[union-attr]
            gevent.sleep(0.01)
        far.emit("run", "broadcast_channel", 2, "room")
        assert far.event() == ["message", 2]  # which may be before it is in Redis
        assert far.call("run", "send", near.id, "behind it") == []
        assert near.event() == ["message", "behind it"]
        assert near.call("__subscribe__", "room") == [{"ok": True}]
        far.emit("run", "broadcast_channel", 3, "room")
        assert near.event() == ["message", 3]
        assert gaps == []

    def test_in_and_out_faster_than_redis(self, here: Site, there: ServerProcess) -> None:
        near, far = local(here), connect(there)
        socket = socket_of(near)
        for _ in range(50):
            socket.subscribe("room")
            socket.unsubscribe("room")
        socket.subscribe("room")
        far.emit("run", "broadcast_channel", "hello", "room")
        assert near.event() == ["message", "hello"]


class TestEnvelope:
    ROOM = Topic.channel("/", "room")

    @pytest.mark.parametrize("args", [("hello",), (), ({"a": [b"1", b""]},), ('č\x00"\\',)])
    @pytest.mark.parametrize("namespace", ["/", "/chat"])
    def test_there_and_back(self, namespace: str, args: tuple[Any, ...]) -> None:
        message = encode_event(namespace, "message", args)
        topic = Topic.channel(namespace, "room")
        found = decode(encode(Mark("n", 1, 2), message, "me", 3, ["room", "b"]), topic)
        assert found.packet is not None
        again = found.packet.message(namespace)
        assert (again.frames, again.payload) == (message.frames, message.payload)
        assert found[0] == Mark("n", 1, 2)
        assert found[2:] == ("me", 3, ("room", "b"))

    @pytest.mark.parametrize(
        "payload",
        [
            *(b"", b"hello", b"\x80\x04N.", b"[]", b"null", b'"42[]"', b"\xff", b"{" * 5000),
            *(
                orjson.dumps(
                    {"v": 1, "node": "n", "epoch": 1, "number": 1, "text": '42["a"]', **fields}
                )
                for fields in (
                    *({"v": 2}, {"v": None}, {"node": 5}, {"node": None}, {"epoch": 0}),
                    *({"number": -1}, {"number": True}, {"number": 1.5}, {"text": 5}),
                    *(
                        {"text": "1"},
                        {"text": "41"},
                        {"text": '42/chat,["a"]'},
                        {"text": '43["a"]'},
                    ),
                    *({"text": "42"}, {"text": '451-["a"]'}, {"attachments": ["AA=="]}),
                    *({"attachments": "AA=="}, {"attachments": [5]}, {"attachments": ["*"]}),
                    *({"skip": 5}, {"group": 1}, {"group": "1"}, {"channels": ["a"]}),
                    *({"group": 1, "channels": "ab"}, {"group": 1, "channels": [1]}),
                )
            ),
            orjson.dumps({"v": 1, "node": "n", "epoch": 1, "number": 1, "text": "x" * 5_000_000}),
        ],
        ids=lambda payload: repr(payload[:90]),
    )
    def test_whatever_else_is_foreign(self, payload: bytes) -> None:
        with pytest.raises(InvalidEnvelope):
            decode(payload, self.ROOM)

    def test_a_poisoned_topic(
        self,
        here: Site,
        there: ServerProcess,
        redis: RedisServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        monkeypatch.setattr(backplane.Warnings, "interval", 1000.0)
        near, far = local(here, "room"), connect(there)
        before = counts["ignored"]
        for _ in range(100):
            redis.ask("PUBLISH", self.ROOM.address("webpy_socketio"), b"\x80\x04poison")
        far.emit("run", "broadcast_channel", "hello", "room")
        assert near.event() == ["message", "hello"]
        assert counts["ignored"] == before + 100
        assert len([record for record in caplog.records if "ignored" in record.message]) == 1

    def test_a_message_above_a_megabyte(self, here: Site, there: ServerProcess) -> None:
        near, far = local(here, "room"), connect(there, "room")
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
        socket.send(large)  # it stays in this process
        assert near.event() == ["message", large]
        broadcast("\\" * 490_000)
        assert far.event() == ["message", "\\" * 490_000]


class TestNumbers:
    """What a receiver can tell from them."""

    @staticmethod
    def judge(positions: Positions, number: int, epoch: int = 1, lost: bool = False) -> Verdict:
        packet = None if lost else Packet(b"[]", [])
        return positions.judge(Envelope(Mark("n", epoch, number), packet))

    def test_in_order(self) -> None:
        positions = Positions()
        for number in (5, 6, 7):
            assert self.judge(positions, number) == Verdict(True)

    def test_a_gap(self) -> None:
        positions = Positions()
        self.judge(positions, 5)
        assert self.judge(positions, 8) == Verdict(True, True, 2)
        assert self.judge(positions, 9) == Verdict(True)

    def test_once_more(self) -> None:
        positions = Positions()
        self.judge(positions, 5)
        for number in (5, 4):
            assert not self.judge(positions, number).fresh
        assert self.judge(positions, 6) == Verdict(True)

    def test_a_new_row(self) -> None:
        positions = Positions()
        self.judge(positions, 5)
        assert self.judge(positions, 1, 2) == Verdict(True)
        assert self.judge(positions, 3, 3) == Verdict(True, True, 2)
        assert not self.judge(positions, 9, 2).fresh

    def test_a_mark_of_who_was_not_heard_before(self) -> None:
        assert self.judge(Positions(), 7, lost=True) == Verdict(True, True, None)

    def test_rows_of_a_sender(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("webpy_socketio.backplane.sequence.MAX_TOPICS", 2)
        numbering = SequenceCounter()
        a, b, c = (Topic.session(name) for name in "abc")
        marks = [numbering.next(topic)[1:] for topic in (a, b, a, c, b, b)]
        assert marks == [(1, 1), (2, 1), (1, 2), (3, 1), (4, 1), (4, 2)]

    def test_memories_have_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("webpy_socketio.backplane.sequence.MAX_NODES", 10)
        positions, groups = Positions(), Groups()
        for node in range(100):
            envelope = Envelope(Mark(str(node), 1, 1), None, None, 1, ("a",))
            positions.judge(envelope)
            assert groups.is_new(envelope)
            assert not groups.is_new(envelope)
        assert len(positions._last) == len(groups._last) == 10


ALONE = """
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


class Alone:
    """A process without sockets and without a server."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", ALONE, *args],
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
def alone(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[RedisServer], Alone]]:
    """Start one, which uses that Redis."""
    started: list[Alone] = []

    def start(redis: RedisServer) -> Alone:
        started.append(Alone(tmp_path, redis.url, request.param))
        return started[-1]

    yield start
    for process in started:
        process.close()


class TestWithoutSockets:
    def test_it_reaches_everybody(
        self, alone: Callable[[RedisServer], Alone], redis: RedisServer, there: ServerProcess
    ) -> None:
        run = alone(redis)
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

    def test_redis_is_away_and_comes_back(
        self,
        alone: Callable[[RedisServer], Alone],
        frail: RedisServer,
        serve: Callable[..., Site],
    ) -> None:
        run = alone(frail)
        assert run('broadcast("hello")') == "BackplaneError"
        near = local(serve(backplane=frail.start().url))
        assert run('broadcast("one")') == "sent"
        frail.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert run('broadcast("two")') == "sent"  # that it had been closed was to be seen
        assert [near.event()[1], near.event()[1]] == ["one", "two"]
        frail.stop()
        assert run('broadcast("hello")') == "BackplaneError"


def connecting(port: int) -> int:
    """How many wait for a port to answer."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum((each[2][-4:], each[3]) == (f"{port:04X}", "02") for each in fields)


class TestFaults:
    """Local delivery is never lost or held up; what else is missing is told."""

    @pytest.fixture
    def far(self, frail: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
        """A server in another process, on a Redis that runs."""
        frail.start()
        server = ServerProcess(THERE, tmp_path / "far", {"BACKPLANE": frail.url})
        yield server
        server.close()

    def test_redis_is_away_from_the_start(
        self, frail: RedisServer, tmp_path: Path, serve: Callable[..., Site], gaps: Journal
    ) -> None:
        far = ServerProcess(THERE, tmp_path / "far", {"BACKPLANE": frail.url})
        site = serve(backplane=frail.url)
        with pytest.raises(BackplaneError, match=str(frail.port)):
            broadcast("nobody is here")
        near, other, distant = local(site, "room"), local(site, "room"), connect(far, "room")
        with pytest.raises(BackplaneError):
            send("some id", "hello")
        assert distant.call("run", "send", "some id", "hello") == ["BackplaneError"]
        broadcast_channel("here", "room")
        socket_of(near).broadcast_channel("others", "room")
        assert near.event() == ["message", "here"]
        assert [other.event()[1], other.event()[1]] == ["here", "others"]
        frail.start()
        gaps.wait_for(None)
        assert far.wait_for("GAP") == "None"
        # What waited for Redis went out; whether before `far` was back is nobody's promise.
        until_reached(send, distant.id, "again")
        while distant.event() != ["message", "again"]:
            pass
        far.stop()

    @pytest.mark.parametrize("how", ["client kill", "restart"])
    def test_what_is_heard_breaks_off(
        self,
        how: str,
        frail: RedisServer,
        far: ServerProcess,
        serve: Callable[..., Site],
        gaps: Journal,
    ) -> None:
        site = serve(backplane=frail.url)
        near, distant = local(site, "room"), connect(far, "room")
        if how == "restart":
            frail.stop()
            frail.start()
        else:
            frail.ask("CLIENT", "KILL", "TYPE", "pubsub")
        gaps.wait_for(None)
        assert far.wait_for("GAP") == "None"
        until_reached(send, distant.id, "one")
        broadcast_channel("two", "room")
        assert [distant.event()[1] for _ in range(2)] == ["one", "two"]
        assert near.event() == ["message", "two"]
        while distant.call("run", "send", near.id, "three"):  # "BackplaneError": not back yet
            pass
        assert near.event() == ["message", "three"]

    def test_an_idle_publisher_is_cut_off_and_nothing_is_lost(
        self, frail: RedisServer, serve: Callable[..., Site], far: ServerProcess, gaps: Journal
    ) -> None:
        local(serve(backplane=frail.url))
        distant = connect(far)
        for number in range(5):
            broadcast(number)
            assert distant.event() == ["message", number]
            frail.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        broadcast("end")
        assert distant.event() == ["message", "end"]
        assert gaps == []

    def test_a_connection_that_is_dead_without_a_word(
        self,
        frail: RedisServer,
        serve: Callable[..., Site],
        far: ServerProcess,
        gaps: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for module in (publisher, subscriber):
            monkeypatch.setattr(module, "PING_INTERVAL", 0.1)
        monkeypatch.setattr(subscriber, "READ_TIMEOUT", 0.5)
        monkeypatch.setattr(publisher, "ANSWER_TIMEOUT", 0.5)
        proxy = Proxy(frail.port)
        near = local(serve(backplane=f"redis://127.0.0.1:{proxy.port}"), "room")
        assert len(proxy.links) == 2
        # Those that come after these two may not be taken for dead by mistake.
        monkeypatch.setattr(subscriber, "READ_TIMEOUT", 15.0)
        monkeypatch.setattr(publisher, "ANSWER_TIMEOUT", 15.0)
        proxy.everything(Link.black_hole)
        gaps.wait_for(None)
        distant = connect(far, "room")
        distant.emit("run", "broadcast_channel", "hello", "room")
        assert distant.event() == ["message", "hello"]
        assert near.event() == ["message", "hello"]
        until_reached(send, distant.id, "and back")
        proxy.close()

    def test_a_connection_on_which_nothing_happens_lives_on(
        self,
        frail: RedisServer,
        serve: Callable[..., Site],
        gaps: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for module in (publisher, subscriber):
            monkeypatch.setattr(module, "PING_INTERVAL", 0.1)
        monkeypatch.setattr(subscriber, "READ_TIMEOUT", 2.0)
        local(serve(backplane=frail.start().url))
        pings = 0
        while pings < 60:  # of two connections: longer than silence is borne
            gevent.sleep(0.1)
            pings = frail.ask("INFO", "commandstats")["cmdstat_ping"]["calls"]
        assert gaps == []

    def test_what_was_under_way_is_not_sent_again(self) -> None:
        seen: list[bytes] = []

        def answer(sock: Any, address: Any) -> None:
            """A Redis that breaks off when something is published."""
            while data := sock.recv(65_536):
                if b"PUBLISH" in data:
                    seen.append(data)
                    return
                sock.sendall(b"+OK\r\n" * (data.count(b"\r\n*") + 1))

        server = StreamServer(("127.0.0.1", 0), answer)
        server.start()
        numbering = SequenceCounter()
        sender = publisher.Publisher(f"redis://127.0.0.1:{server.server_port}", "p", numbering)
        topic, message = Topic.namespace_topic("/"), encode_event("/", "message", ("hello",))
        before = counts["dropped"]
        sender.put(publisher.OutgoingMessage(topic, numbering.next(topic), message))
        while len(seen) < 3:  # the others are the marks of the loss
            gevent.sleep(0.01)
        sender.stop(0)
        server.stop()
        assert [b"hello" in data for data in seen[:3]] == [True, False, False]
        assert counts["dropped"] == before + 1

    def test_too_much_waits(
        self,
        frail: RedisServer,
        serve: Callable[..., Site],
        far: ServerProcess,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        near = local(serve(backplane=frail.url))
        distant = connect(far)
        broadcast("first")
        assert distant.event() == ["message", "first"]
        monkeypatch.setattr(publisher, "MAX_WAITING", 5)
        before = counts["dropped"]
        for number in range(20):  # in one go: the publisher has no turn
            broadcast(number)
        assert counts["dropped"] == before + 15
        assert [near.event()[1] for _ in range(21)] == ["first", *range(20)]
        assert [distant.event()[1] for _ in range(5)] == list(range(5))
        while far.wait_for("GAP") == "None":  # that of its start
            pass
        assert "did not get to other processes" in caplog.text

    def test_reconnection_to_redis_is_logged_at_the_level_of_its_loss(
        self,
        frail: RedisServer,
        serve: Callable[..., Site],
        gaps: Journal,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        frail.start()
        near = local(serve(backplane=frail.url))
        monkeypatch.setattr(publisher, "MAX_WAITING", 5)
        frail.stop()
        broadcast("under way")  # by the connection that has just ended
        while registry.backplane._publisher.connected:  # type: ignore[union-attr]
            gevent.sleep(0.01)
        before = counts["dropped"]
        for number in range(12):
            broadcast(number)
        dropped = counts["dropped"] - before
        assert dropped in (7, 8)  # the one before may wait too
        frail.start()
        gaps.wait_for(None)
        until_reached(send, near.id, "again")
        until_reached(broadcast_channel_reaches_nobody)
        lost, back = (
            [record for record in caplog.records if text in record.message]
            for text in ("cannot be reached", "reconnected to")
        )
        assert [record.levelname for record in (*lost, *back)] == ["WARNING"] * 4
        where = rf"reconnected to Redis at 127\.0\.0\.1:{frail.port} after \d+\.\d s; "
        texts = sorted((record.message for record in back), key=lambda text: "dropped" not in text)
        assert re.fullmatch(where + r"\d+ messages to other processes were dropped", texts[0])
        assert int(texts[0].split("; ")[1].split()[0]) >= dropped
        assert re.fullmatch(where + "an unknown number of messages .* may be missing", texts[1])

    def test_the_last_message_is_lost_and_it_is_told(
        self, frail: RedisServer, serve: Callable[..., Site], gaps: Journal
    ) -> None:
        frail.start()
        local(serve(backplane=frail.url))
        topic = Topic.namespace_topic("/")
        numbering = SequenceCounter()
        sender = publisher.Publisher(frail.url, "webpy_socketio", numbering)
        sender.tried.wait()
        message = encode_event("/", "message", ("hello",))
        sender.put(publisher.OutgoingMessage(topic, numbering.next(topic), message))
        lost = publisher.OutgoingMessage(topic, numbering.next(topic), message)
        sender._drop(lost, BackplaneError("for the test"))
        sender.stop(5)
        gaps.wait(len)
        assert gaps == [1]

    def test_the_server_stops_while_redis_is_away(
        self, frail: RedisServer, serve: Callable[..., Site]
    ) -> None:
        frail.start()
        site = serve(backplane=frail.url)
        near = local(site)
        frail.stop()
        before = counts["dropped"]
        broadcast("hello")
        assert near.event() == ["message", "hello"]
        site.server.stop()
        assert counts["dropped"] == before + 1

    @pytest.mark.parametrize("part", ["publisher", "subscriber"])
    def test_who_is_connecting_when_the_server_stops_leaves_no_socket(
        self, part: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would be told of as a ResourceWarning, in whatever runs then."""
        monkeypatch.setattr("webpy_socketio.backplane.connection.CONNECT_TIMEOUT", 0.5)
        with contextlib.ExitStack() as stack:
            deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            port = deaf.getsockname()[1]
            for _ in range(3):  # its queue is full, and the next one gets no answer
                waiting = stack.enter_context(gevent.socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            before = connecting(port)
            url = f"redis://127.0.0.1:{port}"
            one: Any
            if part == "publisher":
                one = publisher.Publisher(url, "p", SequenceCounter())
            else:
                one = subscriber.Subscriber(url, "p", "n", lambda topic, envelope: None)
            while connecting(port) == before:
                gevent.sleep(0.01)
            one.stop(0) if part == "publisher" else one.stop()
            gc.collect()
            one._greenlet.join()

    def test_who_waits_in_vain_does_so_once(
        self,
        frail: RedisServer,
        serve: Callable[..., Site],
        gaps: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        frail.start()
        site = serve(backplane=frail.url)
        near = local(site)
        monkeypatch.setattr(subscriber, "CONFIRM_TIMEOUT", 1.0)
        assert frail.process is not None
        frail.process.popen.send_signal(19)  # SIGSTOP
        for number in range(30):  # which would be 30 s
            assert near.call("__subscribe__", f"room {number}") == [{"ok": True}]
        broadcast_channel("hello", "room 1")
        assert near.event() == ["message", "hello"]
        frail.process.popen.send_signal(18)
        gaps.wait(lambda gaps: len(gaps) == 30)  # each may have missed something

    def test_a_receiver_that_fails(
        self, frail: RedisServer, serve: Callable[..., Site], gaps: Journal, caplog: Any
    ) -> None:
        def failing(sender: Any, **extra: Any) -> None:
            raise ZeroDivisionError

        gap.connect(failing)
        backplane.send_gap(None, "node", 5)
        gaps.wait_for(5)
        backplane.send_gap(None, "node", 6)
        gaps.wait_for(6)
        gap.disconnect(failing)
        assert "ZeroDivisionError" in caplog.text


def pause(server: ServerProcess) -> None:
    server.process.popen.send_signal(signal.SIGSTOP)


def resume(server: ServerProcess) -> None:
    server.process.popen.send_signal(signal.SIGCONT)


def wait_until_silent(redis: RedisServer, kind: str, seconds: int = 3) -> None:
    """Wait until a connection of that kind has sent Redis nothing for so long."""
    while not any(int(each["idle"]) >= seconds for each in redis.ask("CLIENT LIST", "TYPE", kind)):
        gevent.sleep(0.05)


class TestStandstill:
    """A process that stood still for longer than its timeouts reads what has arrived meanwhile."""

    @pytest.fixture
    def far(self, frail: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
        frail.start()
        env = {"BACKPLANE": frail.url, "SHORT_TIMEOUTS": "1"}
        server = ServerProcess(THERE, tmp_path / "far", env)
        yield server
        resume(server)
        server.close()

    def test_subscriber_after_a_standstill_delivers_everything_without_a_gap(
        self, frail: RedisServer, far: ServerProcess, serve: Callable[..., Site]
    ) -> None:
        serve(backplane=frail.url)
        distant = connect(far)
        for _ in range(2):
            pause(far)
            for number in range(100):
                broadcast(number)
            wait_until_silent(frail, "pubsub")
            resume(far)
            assert [distant.event()[1] for _ in range(100)] == list(range(100))
        assert distant.call("run", "say", "END") == []
        assert far.process.next_line() == "END"

    def test_subscriber_cut_off_during_a_standstill_delivers_what_was_sent_before_the_gap(
        self, frail: RedisServer, far: ServerProcess, serve: Callable[..., Site]
    ) -> None:
        serve(backplane=frail.url)
        distant = connect(far)
        pause(far)
        for number in range(100):
            broadcast(number)
        wait_until_silent(frail, "pubsub")
        frail.ask("CLIENT", "KILL", "TYPE", "pubsub")
        with pytest.raises(NoSocket):
            broadcast("missed")
        resume(far)
        assert [distant.event()[1] for _ in range(100)] == list(range(100))
        assert far.process.next_line() == "GAP None"

    def test_subscriber_whose_buffer_overflowed_delivers_an_unbroken_beginning(
        self, frail: RedisServer, far: ServerProcess, serve: Callable[..., Site]
    ) -> None:
        serve(backplane=frail.url)
        distant = connect(far)
        frail.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0")
        pause(far)
        number = 0
        while frail.ask("CLIENT LIST", "TYPE", "pubsub"):
            broadcast([number, "x" * 10_000])
            number += 1
            gevent.sleep(0.001)
        gevent.sleep(SHORT_TIMEOUT)  # nothing shows to others that its timers are due
        resume(far)
        assert far.process.next_line() == "GAP None"
        distant.emit("run", "say", "END", ack=7)
        received = []
        while (packet := str(distant.receive())).startswith("42"):
            received.append(json.loads(packet[2:])[1][0])
        assert received == list(range(len(received)))
        assert len(received) * 10_000 > 100_000, number

    def test_publisher_after_a_standstill_reads_the_answers(
        self, frail: RedisServer, far: ServerProcess
    ) -> None:
        distant = connect(far)
        assert frail.process is not None
        frail.process.popen.send_signal(signal.SIGSTOP)
        for number in range(10):
            distant.emit("run", "broadcast", number)
            assert distant.event() == ["message", number]
        assert distant.call("run", "say", "written") == []  # its publisher had its turn before that
        pause(far)
        frail.process.popen.send_signal(signal.SIGCONT)
        wait_until_silent(frail, "normal")
        resume(far)
        distant.emit("run", "say_dropped")
        assert far.wait_for("DROPPED") == "0"


class TestLink:
    """What plugins get of the way to Redis."""

    def test_what_is_asked_is_answered(self, redis: RedisServer) -> None:
        link = connect_redis(redis.url, 5.0)
        refused, *others = link.execute(("NONSENSE",), ("ECHO", "ž"), ("ECHO", 5))
        assert isinstance(refused, BackplaneError)
        assert "NONSENSE" in str(refused)
        assert others == ["ž".encode(), b"5"]
        assert link.execute() == []
        link.close()
        with pytest.raises(BackplaneError, match=str(redis.port)):
            link.execute(("PING",))

    def test_it_never_comes_back(self, redis: RedisServer) -> None:
        link = connect_redis(redis.url, 5.0)
        redis.ask("CLIENT", "KILL", "ID", *link.execute(("CLIENT", "ID")))
        for _ in range(2):
            with pytest.raises(BackplaneError, match=str(redis.port)):
                link.execute(("PING",))

    def test_link_with_a_wrong_password_raises_an_error_with_the_remedy(
        self, frail: RedisServer
    ) -> None:
        frail.start().ask("CONFIG", "SET", "requirepass", "p%23@ss")
        with pytest.raises(BackplaneError, match="percent-encoded"):
            connect_redis(f"redis://:p%23@ss@127.0.0.1:{frail.port}", 5.0)
        link = connect_redis(f"redis://:p%2523%40ss@127.0.0.1:{frail.port}", 5.0)
        assert link.execute(("PING",)) == [b"PONG"]
        link.close()

    def test_nobody_is_there(self, frail: RedisServer) -> None:
        with pytest.raises(BackplaneError, match=str(frail.port)):
            connect_redis(frail.url, 5.0)


class TestSetting:
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

    def test_without_it_nothing_is_imported(self) -> None:
        program = (
            "OPTIONS = {}\n"
            + self.SERVER
            + (
                "server.start()\n"
                "try:\n    broadcast('hello')\nexcept NoSocket:\n    pass\n"
                "server.stop()\n"
                "names = ('link', 'redis', 'publisher', 'subscriber')\n"
                "names = ['redis', *(f'webpy_socketio.backplane.{name}' for name in names)]\n"
                "print([name for name in names if name in sys.modules])\n"
            )
        )
        assert self.run(program) == "[]"

    def test_without_the_library_it_says_what_to_do(self) -> None:
        program = (
            "OPTIONS = {'backplane': 'redis://localhost'}\n"
            + self.SERVER
            + (
                "sys.modules['redis'] = None\n"
                "try:\n    server.start()\nexcept ConfigurationError as error:\n    print(error)\n"
            )
        )
        assert 'pip install "webpy_socketio[redis]"' in self.run(program)

    def test_two_servers_of_a_process_share_it(
        self, redis: RedisServer, serve: Callable[..., Site]
    ) -> None:
        first, second = serve(backplane=redis.url), serve(backplane=redis.url)
        with pytest.raises(ConfigurationError, match="BACKPLANE"):
            serve()
        first.server.stop()
        assert registry.backplane is not None
        second.server.stop()
        assert registry.backplane is None

    def test_what_waits_is_sent_before_the_end(
        self, redis: RedisServer, serve: Callable[..., Site], there: ServerProcess
    ) -> None:
        site, far = serve(backplane=redis.url), connect(there)
        socket = socket_of(local(site))
        for number in range(200):
            socket.broadcast(number)
        site.server.stop()
        assert [far.event()[1] for _ in range(200)] == list(range(200))
