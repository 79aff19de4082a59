"""A real Redis Cluster of three nodes: messages, failures of nodes, and slots that move.

``here`` is a server in this process, ``there`` one in another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest

from tests.conftest import Journal, Site
from tests.faults import Link, Proxy
from tests.history_client import HistoryClient
from tests.integration.test_recovery_cluster import Client, Course, Node
from tests.raw import WebSocket
from tests.redis_cluster import RedisCluster
from tests.redis_server import (
    LONG_TIMEOUT,
    RedisServer,
    extend_redis_timeouts,
    retry_until_reachable,
)
from tests.servers import ServerProcess, application_source, free_port
from webpy_socketio import (
    BackplaneError,
    NodeUnavailable,
    NoSocket,
    broadcast,
    broadcast_channel,
    connect_redis,
    default_runtime,
    everyone,
    hash_tag,
    send,
    to,
)
from webpy_socketio.backplane import cluster_publisher, cluster_pubsub
from webpy_socketio.backplane.addresses import Credentials, Host, RedisAddress
from webpy_socketio.backplane.cluster_map import ClusterMap
from webpy_socketio.plugins import history, presence
from webpy_socketio.plugins.presence.periodic import Intervals

pytestmark = [pytest.mark.time_limit(60), pytest.mark.usefixtures("gaps")]

#: Seconds between requests for the map of the cluster. Redirections and failures must be enough.
NEVER = 600.0

HISTORY = "webpy_socketio.plugins.history"
PRESENCE = "webpy_socketio.plugins.presence"
PRESENCE_TIMES = {"heartbeat": 0.3, "lease": 3.0, "sweep": 0.2, "settle": 0.5}

THERE = application_source(
    f"""
from webpy_socketio.backplane import cluster_publisher, cluster_pubsub, redis, subscriber
from webpy_socketio.signals import gap

redis.TIMEOUT = subscriber.CONFIRM_TIMEOUT = {LONG_TIMEOUT}
PRESENCE_TIMES = {PRESENCE_TIMES!r}
for module in (cluster_publisher, cluster_pubsub):
    module.REFRESH_INTERVAL = float(os.environ.get("REFRESH", {NEVER}))
"""
    """
from webpy_socketio.plugins import presence
from webpy_socketio.plugins.presence.periodic import Intervals

presence.INTERVALS = Intervals(**PRESENCE_TIMES)
OPTIONS = {"plugins": os.environ.get("PLUGINS", "").split(), "log": None}
OPTIONS["backplane"] = os.environ["BACKPLANE"]
OPTIONS |= eval(os.environ.get("OPTIONS", "{}"))

@gap.connect
def report_gap(sender, node, missed, **extra):
    say("GAP", missed)

@on_event("run")
def run(request, socket, context, name, *args):
    try:
        globals()[name](*args)
    except SocketIOError as error:
        return [type(error).__name__, str(error)]
"""
)


@pytest.fixture(autouse=True)
def _long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    extend_redis_timeouts(monkeypatch)
    # Requests whose replies a test holds must not time out on a busy machine.
    monkeypatch.setattr("webpy_socketio.backplane.publisher.ANSWER_TIMEOUT", LONG_TIMEOUT)
    refresh_every(NEVER, monkeypatch)


def refresh_every(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cluster_publisher, cluster_pubsub):
        monkeypatch.setattr(module, "REFRESH_INTERVAL", seconds)


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> RedisCluster:
    """Return the shared cluster, after the subscriptions of the previous test have ended."""
    while shared_cluster.topics():
        gevent.sleep(0.01)
    return shared_cluster


@pytest.fixture(scope="module")
def there(
    shared_cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Start a server in another process."""
    server = ServerProcess(
        THERE, tmp_path_factory.mktemp("there"), {"BACKPLANE": shared_cluster.url}
    )
    yield server
    server.close()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """Yield a cluster that belongs to one test and is not started yet."""
    cluster = RedisCluster(tmp_path)
    yield cluster
    cluster.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Return a function that starts a server in another process."""
    started: list[ServerProcess] = []

    def run(cluster: RedisCluster, **env: str) -> ServerProcess:
        folder = tmp_path / f"there-{len(started)}"
        started.append(ServerProcess(THERE, folder, {"BACKPLANE": cluster.url, **env}))
        return started[-1]

    yield run
    for server in started:
        server.close()


@pytest.fixture
def here(cluster: RedisCluster, serve: Callable[..., Site]) -> Site:
    """Start a server in this process."""
    return serve(backplane=cluster.url)


def topic_of(channel: str) -> str:
    return f"webpy_socketio:1:channel:/,{channel}"


def channels_of_all_nodes(cluster: RedisCluster) -> dict[Any, str]:
    """Return a channel for each node, whose topic the node owns."""
    found: dict[Any, str] = {}
    number = 0
    while len(found) < len(cluster.running):
        number += 1
        found.setdefault(cluster.owner(topic_of(f"room-{number}")), f"room-{number}")
    return found


def connect(server: Any, *channels: str) -> WebSocket:
    client = WebSocket(server.port)
    client.connect()
    for channel in channels:
        client.emit("__subscribe__", channel, ack=7)
        while (packet := client.receive()) != '437[{"ok":true}]':
            assert "presence_state" in packet or "presence_diff" in packet
    return client


def broadcast_until_error(channel: str) -> None:
    """Broadcast to a channel until this raises `BackplaneError`."""
    while True:
        with contextlib.suppress(NoSocket):
            broadcast_channel("lost", channel)


def receives_only(client: WebSocket, *messages: Any) -> None:
    """Assert that a client of another process receives these messages, in any order, and no other.

    The message "end" arrives on the topic of the namespace, which is not ordered with others.
    """
    received = [client.event()[1] for _ in messages]
    assert sorted(map(json.dumps, received)) == sorted(map(json.dumps, messages))
    broadcast("end")
    assert client.event() == ["message", "end"]


class TestDelivery:
    def test_topics_are_distributed_to_the_nodes_of_their_slots(
        self, cluster: RedisCluster, here: Site
    ) -> None:
        rooms = channels_of_all_nodes(cluster)
        connect(here, *rooms.values())
        for node, room in rooms.items():
            assert topic_of(room) in node.ask("PUBSUB", "SHARDCHANNELS")
            others = [topic_of(other) for other in rooms.values() if other != room]
            assert not set(others) & set(node.ask("PUBSUB", "SHARDCHANNELS"))
        assert cluster.nodes[0].ask("PUBSUB", "CHANNELS") == []

    def test_messages_reach_another_process_once_and_in_order(
        self, cluster: RedisCluster, here: Site, there: ServerProcess, gaps: Journal
    ) -> None:
        rooms = list(channels_of_all_nodes(cluster).values())
        far = connect(there, *rooms)
        for number in range(200):
            for room in rooms:
                broadcast_channel([room, number], room)
        received: dict[str, list[int]] = {room: [] for room in rooms}
        for _ in range(200 * len(rooms)):
            room, number = far.event()[1]
            received[room].append(number)
        assert all(numbers == list(range(200)) for numbers in received.values())
        receives_only(far)
        assert gaps == []

    def test_broadcast_to_channels_of_several_nodes_is_received_once(
        self, cluster: RedisCluster, here: Site, there: ServerProcess
    ) -> None:
        rooms = list(channels_of_all_nodes(cluster).values())
        one, all_rooms, near = connect(there, rooms[0]), connect(there, *rooms), connect(here)
        for number in range(50):
            to(*rooms).send(number)
        to(*rooms[1:]).send("others")
        # Copies of different nodes may overtake each other.
        receives_only(one, *range(50))
        receives_only(all_rooms, *range(50), "others")
        assert [near.event()[1] for _ in range(2)] == ["end", "end"]

    def test_broadcast_that_is_overtaken_on_another_node_is_not_taken_for_a_copy(
        self, cluster: RedisCluster, here: Site, there: ServerProcess
    ) -> None:
        slow, fast = cluster.nodes[:2]
        owners: dict[Any, list[str]] = {slow: [], fast: []}
        for number in range(1000):
            owners.get(cluster.owner(topic_of(f"room-{number}")), []).append(f"room-{number}")
            if all(len(rooms) >= 2 for rooms in owners.values()):
                break
        far = connect(there, owners[slow][0], owners[fast][0])
        to(*owners[slow][:2]).send("before")
        assert far.event()[1] == "before"
        assert slow.process is not None
        slow.process.popen.send_signal(signal.SIGSTOP)
        try:
            to(*owners[slow][:2]).send("first")
            to(*owners[fast][:2]).send("second")
            assert far.event()[1] == "second"
        finally:
            slow.process.popen.send_signal(signal.SIGCONT)
        assert far.event()[1] == "first"

    def test_send_reaches_a_socket_of_another_process(
        self, here: Site, there: ServerProcess
    ) -> None:
        far = connect(there)
        send(far.id, "you")
        receives_only(far, "you")
        near = connect(here, "room")
        far.emit("run", "send", near.id, "me")
        far.emit("run", "broadcast_channel", "all", "room")
        assert sorted([near.event()[1], near.event()[1]]) == ["all", "me"]

    def test_message_without_recipient_raises_no_socket(
        self, cluster: RedisCluster, here: Site
    ) -> None:
        for room in channels_of_all_nodes(cluster).values():
            with pytest.raises(NoSocket):
                broadcast_channel("hello", room)
        connect(here)
        with pytest.raises(NoSocket):
            send("unknown", "hello")

    def test_call_collects_the_answers_of_all_processes(
        self, here: Site, there: ServerProcess
    ) -> None:
        connect(there)
        connect(here)
        assert len(everyone.sockets()) == 2

    def test_process_without_server_reaches_all_sockets(
        self, cluster: RedisCluster, there: ServerProcess
    ) -> None:
        rooms = list(channels_of_all_nodes(cluster).values())
        far = connect(there, *rooms)
        program = f"""
from webpy_socketio import *
configure({{"SOCKETIO_BACKPLANE": {cluster.url!r}}})
for room in {rooms!r}:
    broadcast_channel(room, room)
to(*{rooms!r}).send("all")
print(len(everyone.sockets()))
"""
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert (run.stdout.strip(), run.stderr) == ("1", "")
        received = [far.event()[1] for _ in range(len(rooms) + 1)]
        assert sorted(received) == sorted([*rooms, "all"])


class TestSlots:
    def test_slot_that_moves_loses_nothing_silently_and_keeps_the_order(
        self, cluster: RedisCluster, here: Site, there: ServerProcess
    ) -> None:
        source, target, *_ = rooms = channels_of_all_nodes(cluster)
        moving, other = rooms[source], rooms[target]
        far = connect(there, moving, other)
        stop = gevent.event.Event()

        def publish() -> int:
            number = 0
            while not stop.is_set():
                # The new owner of a slot has no subscriber at first.
                with contextlib.suppress(NoSocket):
                    broadcast_channel(["moving", number], moving)
                broadcast_channel(["other", number], other)
                number += 1
                gevent.sleep(0.001)
            return number

        publishing = gevent.spawn(publish)
        received: dict[str, list[int]] = {"moving": [], "other": []}

        def receive_until(last: int) -> None:
            while not received["moving"] or received["moving"][-1] < last:
                kind, number = far.event()[1]
                received[kind].append(number)

        receive_until(20)
        gevent.get_hub().threadpool.apply(cluster.move_slot, (topic_of(moving), target))
        there.process.wait_for("GAP None")
        while topic_of(moving) not in target.ask("PUBSUB", "SHARDCHANNELS"):
            gevent.sleep(0.01)
        assert topic_of(moving) not in source.ask("PUBSUB", "SHARDCHANNELS")
        receive_until(received["moving"][-1] + 20)
        stop.set()
        count = publishing.get()
        receive_until(count - 1)
        while len(received["other"]) < count:
            received["other"].append(far.event()[1][1])
        assert received["moving"] == sorted(set(received["moving"]))
        assert received["other"] == list(range(count))

    def test_subscription_in_a_slot_that_has_moved_is_redirected(
        self, cluster: RedisCluster, here: Site, there: ServerProcess
    ) -> None:
        source, target, *_ = rooms = channels_of_all_nodes(cluster)
        room = rooms[source]
        connect(here), connect(there)  # both have read the map
        gevent.get_hub().threadpool.apply(cluster.move_slot, (topic_of(room), target))
        far, near = connect(there, room), connect(here, room)
        broadcast_channel("hello", room)
        assert [far.event()[1], near.event()[1]] == ["hello", "hello"]
        far.emit("run", "broadcast_channel", "back", room)
        assert [far.event()[1], near.event()[1]] == ["back", "back"]


class TestFailures:
    def test_node_that_ends_affects_only_its_topics_and_recovers(
        self,
        own_cluster: RedisCluster,
        serve: Callable[..., Site],
        start: Callable[..., ServerProcess],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        cluster = own_cluster.start()
        there = start(cluster)
        here = serve(backplane=cluster.url)
        rooms = channels_of_all_nodes(cluster)
        namespace_node = cluster.owner("webpy_socketio:1:all:/,")
        lost = next(node for node in rooms if node is not namespace_node)
        kept = next(room for node, room in rooms.items() if node is not lost)
        far = connect(there, *rooms.values())
        lost.stop()
        while True:
            try:
                broadcast_channel("without recipient", "x" + rooms[lost])
            except NoSocket:
                break  # its slot is served by another node
            except BackplaneError:
                continue
        with pytest.raises(BackplaneError, match=f"127.0.0.1:{lost.port}"):
            broadcast_until_error(rooms[lost])
        for number in range(100):
            broadcast_channel(number, kept)
            assert far.event() == ["message", number]
        near = connect(here, kept, rooms[lost])
        far.emit("run", "broadcast_channel", "back", kept)
        assert near.event() == far.event() == ["message", "back"]
        lost.start()
        there.process.wait_for("GAP None")
        cluster.wait_until_agreed()
        while topic_of(rooms[lost]) not in lost.ask("PUBSUB", "SHARDCHANNELS"):
            gevent.sleep(0.01)
        while int(lost.ask("PUBSUB", "SHARDNUMSUB", topic_of(rooms[lost]))[1]) < 2:
            gevent.sleep(0.01)
        broadcast_channel("again", rooms[lost])
        while far.event() != ["message", "again"]:
            pass
        assert f"Redis at 127.0.0.1:{lost.port} is unreachable" in caplog.text
        assert f"reconnected to Redis at 127.0.0.1:{lost.port}" in caplog.text

    def test_promoted_replica_serves_the_topics_of_its_master(
        self,
        own_cluster: RedisCluster,
        serve: Callable[..., Site],
        start: Callable[..., ServerProcess],
    ) -> None:
        cluster = own_cluster.start()
        serve(backplane=cluster.url)
        there = start(cluster)
        rooms = channels_of_all_nodes(cluster)
        master, room = next(iter(rooms.items()))
        replica = cluster.add_replica(master)
        far = connect(there, room)
        broadcast_channel("before", room)
        assert far.event() == ["message", "before"]
        master.stop()
        there.process.wait_for("GAP None")
        cluster.wait_for(lambda: replica.ask("ROLE")[0] == "master")
        assert topic_of(room) in replica.ask("PUBSUB", "SHARDCHANNELS")
        retry_until_reachable(broadcast_channel, "after", room)
        while far.event() != ["message", "after"]:
            pass

    def test_master_that_becomes_a_replica_is_replaced(
        self,
        own_cluster: RedisCluster,
        serve: Callable[..., Site],
        start: Callable[..., ServerProcess],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        refresh_every(0.2, monkeypatch)
        cluster = own_cluster.start()
        serve(backplane=cluster.url)
        there = start(cluster, REFRESH="0.2")
        master, room = next(iter(channels_of_all_nodes(cluster).items()))
        replica = cluster.add_replica(master)
        far = connect(there, room)
        replica.ask("CLUSTER", "FAILOVER")
        there.process.wait_for("GAP None")
        while topic_of(room) not in replica.ask("PUBSUB", "SHARDCHANNELS"):
            gevent.sleep(0.01)
        assert replica.ask("ROLE")[0] == "master"
        while True:
            try:
                retry_until_reachable(broadcast_channel, "after", room)
                break
            except NoSocket:  # the old master counts its own subscribers only
                gevent.sleep(0.01)
        while far.event() != ["message", "after"]:
            pass

    def test_cluster_that_cannot_be_reached_raises_an_error_with_its_addresses(
        self, serve: Callable[..., Site]
    ) -> None:
        port = free_port()
        site = serve(backplane=f"redis+cluster://name:secret@127.0.0.1:{port}")
        connect(site)
        with pytest.raises(BackplaneError, match=rf"127\.0\.0\.1:{port}") as found:
            broadcast_channel("hello", "room")
        assert "secret" not in str(found.value)

    def test_single_redis_raises_an_error_with_the_remedy(
        self, tmp_path: Path, serve: Callable[..., Site]
    ) -> None:
        redis = RedisServer(tmp_path).start()
        try:
            serve(backplane=redis.url.replace("redis://", "redis+cluster://"))
            with pytest.raises(BackplaneError, match="needs nodes of a Redis Cluster"):
                broadcast_channel("hello", "room")
        finally:
            redis.stop()


class TestPresence:
    @pytest.fixture(autouse=True)
    def _intervals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(presence, "INTERVALS", Intervals(**PRESENCE_TIMES))

    def test_members_of_all_processes_are_known_and_leave_with_a_killed_process(
        self,
        cluster: RedisCluster,
        serve: Callable[..., Site],
        start: Callable[..., ServerProcess],
    ) -> None:
        rooms = list(channels_of_all_nodes(cluster).values())
        here = serve(backplane=cluster.url, plugins=[PRESENCE], presence_grace=0.2)
        there = start(cluster, PLUGINS=PRESENCE)
        near, far = connect(here, *rooms), connect(there, *rooms)
        for room in rooms:
            while set(presence.members(room)) != {near.id, far.id}:
                gevent.sleep(0.02)
        assert presence.counts(rooms) == dict.fromkeys(rooms, 2)
        used = {node.port for node in cluster.nodes if node.ask("DBSIZE")}
        assert len(used) == len(cluster.nodes)
        there.process.popen.kill()
        for room in rooms:
            while set(presence.members(room)) != {near.id}:
                gevent.sleep(0.02)

    def test_presence_survives_a_slot_that_moves_and_a_node_that_restarts_empty(
        self, own_cluster: RedisCluster, serve: Callable[..., Site]
    ) -> None:
        cluster = own_cluster.start()
        rooms = [f"room-{number}" for number in range(20)]
        here = serve(backplane=cluster.url, plugins=[PRESENCE], presence_grace=0.2)
        near = connect(here, *rooms)
        store = presence._running(default_runtime).store
        part = store._names.part("/,room-0")  # type: ignore[attr-defined]
        source = cluster.owner(part)
        target = next(node for node in cluster.nodes if node is not source)
        gevent.get_hub().threadpool.apply(cluster.move_slot, (part, target))
        other = connect(here, *rooms)

        def wait_for_both() -> None:
            for room in rooms:
                while True:
                    with contextlib.suppress(BackplaneError):
                        if set(presence.members(room)) == {near.id, other.id}:
                            break
                    gevent.sleep(0.05)

        wait_for_both()
        target.stop()
        target.start()
        wait_for_both()

    def test_presence_is_compared_after_a_node_that_keeps_its_data_was_unavailable(
        self,
        cluster: RedisCluster,
        serve: Callable[..., Site],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        times = {**PRESENCE_TIMES, "lease": LONG_TIMEOUT, "reconcile": NEVER}
        monkeypatch.setattr(presence, "INTERVALS", Intervals(**times))
        proxies: list[Proxy] = []
        url = TestRecovery.delay(cluster, 0, proxies, monkeypatch, 0.0)
        here = serve(backplane=url, plugins=[PRESENCE])
        store: Any = presence._running(default_runtime).store
        rooms = [f"room-{number}" for number in range(100)]
        owners = {room: cluster.owner(store._names.part(f"/,{room}")) for room in rooms}
        room = next(room for room in rooms if owners[room] is not cluster.owner(topic_of(room)))
        near = connect(here, room)
        while set(presence.members(room)) != {near.id}:
            gevent.sleep(0.02)
        proxy = proxies[cluster.nodes.index(owners[room])]
        proxy.is_refusing = True
        proxy.everything(Link.reset)
        other = connect(here, room)
        while store._names.part(f"/,{room}") not in store.tracker._missing or store.tracker._tasks:
            gevent.sleep(0.02)
        proxy.is_refusing = False
        while True:
            with contextlib.suppress(BackplaneError):
                if set(presence.members(room)) == {near.id, other.id}:
                    break
            gevent.sleep(0.02)


class TestHistory:
    def test_stored_messages_are_received_once_and_in_order_by_any_process(
        self,
        cluster: RedisCluster,
        serve: Callable[..., Site],
        start: Callable[..., ServerProcess],
    ) -> None:
        rules = {"^room-": {"size": 20, "ttl": 3600}}
        rooms = [f"room-{number}" for number in range(12)]
        serve(backplane=cluster.url, plugins=[HISTORY], history=rules)
        there = start(cluster, PLUGINS=HISTORY, OPTIONS=repr({"history": rules}))
        client = HistoryClient(there.port)
        for number in range(5):
            for room in rooms:
                default_runtime.to(room).send(f"{room} {number}")
        for room in rooms:
            client.subscribe(room, 20)
            default_runtime.to(room).send(f"{room} 5")
            client.wait_for(room, f"{room} 5")
        for room in rooms:
            wanted = [f"{room} {number}" for number in range(6)]
            found = history.messages(room).messages
            assert [message["args"][0] for message in found] == wanted
            assert [
                args[0] for _, *args in client.events if args[0].startswith(f"{room} ")
            ] == wanted
        assert client.gaps == []

    def test_messages_of_channels_on_other_nodes_are_stored_while_a_node_is_away(
        self, own_cluster: RedisCluster, serve: Callable[..., Site]
    ) -> None:
        cluster = own_cluster.start()
        rules = {"^room-": {"size": 20, "ttl": 3600}}
        serve(backplane=cluster.url, plugins=[HISTORY], history=rules)
        base = "webpy_socketio:1:history"
        rooms: dict[Any, str] = {}
        for number in range(100):
            tag = hash_tag(f"/,room-{number}")
            rooms.setdefault(cluster.owner(f"{base}:{{{tag}}}"), f"room-{number}")
        lost, *kept = cluster.nodes
        lost.stop()
        for room in rooms.values():
            default_runtime.to(room).send("one")
        for node in kept:
            while not stored(rooms[node]):
                gevent.sleep(0.02)
        with pytest.raises(BackplaneError):
            history.messages(rooms[lost])
        lost.start()
        cluster.wait_until_agreed()
        while True:
            with contextlib.suppress(BackplaneError):
                default_runtime.to(rooms[lost]).send("two")
                if "two" in stored(rooms[lost]):
                    break
            gevent.sleep(0.05)


def stored(channel: str) -> list[Any]:
    return [message["args"][0] for message in history.messages(channel).messages]


class TestClusterConnection:
    def test_commands_are_executed_by_the_owners_of_their_keys_also_while_slots_move(
        self, cluster: RedisCluster
    ) -> None:
        connection = connect_redis(cluster.url, LONG_TIMEOUT)
        keys = [f"key-{number}" for number in range(50)]
        try:
            assert connection.execute(*(("SET", key, key) for key in keys)) == [b"OK"] * 50
            source = cluster.owner(keys[0])
            target = next(node for node in cluster.nodes if node is not source)
            slot = source.ask("CLUSTER", "KEYSLOT", keys[0])
            # The new key of a slot that is moving belongs to the new owner, which needs ASKING.
            new = f"{{{keys[0]}}}new"
            target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
            source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
            replies = connection.execute(("SET", new, "new"), ("GET", keys[0]), ("GET", new))
            assert replies == [b"OK", keys[0].encode(), b"new"]
            (reply,) = connection.execute(("EVAL", "return 1", 2, new, f"{{{keys[0]}}}none"))
            assert isinstance(reply, NodeUnavailable)
            cluster.move_slot(keys[0], target)
            found = connection.execute(*(("GET", key) for key in keys))
            assert found == [key.encode() for key in keys]
        finally:
            connection.close()

    def test_node_that_fails_replaces_only_the_replies_to_its_commands(
        self, own_cluster: RedisCluster
    ) -> None:
        cluster = own_cluster.start()
        connection = connect_redis(cluster.url, LONG_TIMEOUT)
        keys = [f"key-{number}" for number in range(30)]
        try:
            connection.execute(*(("SET", key, key) for key in keys))
            lost = cluster.nodes[1]
            owners = [cluster.owner(key) for key in keys]
            lost.stop()
            found = connection.execute(*(("GET", key) for key in keys))
            for key, owner, reply in zip(keys, owners, found, strict=True):
                if owner is lost:
                    assert isinstance(reply, NodeUnavailable)
                else:
                    assert reply == key.encode()
        finally:
            connection.close()


class ClusterCourse(Course):
    """A course over a cluster, which keeps the order of messages on each topic only."""

    def senders(self) -> list[Node | None]:
        return [*self.nodes]

    def name(self, sender: str, whom: str) -> str:
        return "several" if whom == "room" else f"{sender} {whom}"

    def send_to_room(self, node: Node, args: list[Any]) -> None:
        # Copies on the topics of several nodes overtake each other, and each other's successors.
        others = self.random.sample(["hall", "other-1", "other-2"], self.random.randint(1, 3))
        names = self.random.sample(["room", *others], len(others) + 1)
        node.runtime.to(*names).emit("message", args)

    def change(self) -> None:
        with self.sending:
            self.read_rest()
        super().change()

    def read_all(self) -> None:
        self.read_rest()
        super().read_all()

    def read_rest(self) -> None:
        """Read all that was sent: `settle` has no order with messages on other topics."""
        while len(self.received) < self.sent:
            self.add(str(self.client.raw.receive()))

    def count(self) -> dict[str, list[int]]:
        received: dict[str, list[int]] = defaultdict(list)
        for name, number in self.received:
            received[name].append(number)
        received["several"].sort()
        return dict(received)


class TestRecovery:
    """Sessions that move between servers over a cluster."""

    @pytest.fixture(params=[False, True], ids=["at once", "delayed"])
    def nodes(
        self, request: pytest.FixtureRequest, cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[list[Node]]:
        proxies: list[Proxy] = []
        urls = [cluster.url] * 3
        if request.param:
            urls = [self.delay(cluster, number, proxies, monkeypatch) for number in range(3)]
        nodes = [self.start(cluster, url) for url in urls]
        yield nodes
        for proxy in proxies:
            proxy.latency = 0.0
        for node in nodes:
            node.server.stop()

    @staticmethod
    def delay(
        cluster: RedisCluster,
        number: int,
        proxies: list[Proxy],
        monkeypatch: pytest.MonkeyPatch,
        seconds: float = 0.002,
    ) -> str:
        """Return a URL whose connections to the nodes have different latencies."""
        by_port: dict[int, int] = {}
        for index, node in enumerate(cluster.nodes):
            proxies.append(Proxy(node.port))
            proxies[-1].latency = (number + index) % 3 * seconds
            by_port[node.port] = proxies[-1].port
        original = ClusterMap.address

        def address(self: ClusterMap, host: Host) -> RedisAddress:
            found = original(self, host)
            if self._address.credentials.username != f"server{number}":
                return found
            port = by_port.get(host.port, host.port)
            return replace(found, hosts=(Host(host.name, port),), credentials=Credentials())

        monkeypatch.setattr(ClusterMap, "address", address)
        return cluster.url.replace("://", f"://server{number}:any@")

    @staticmethod
    def start(cluster: RedisCluster, backplane: str = "") -> Node:
        return Node(cluster, backplane=backplane or cluster.url)  # type: ignore[arg-type]

    @pytest.mark.parametrize("with_restarts", [False, True], ids=["moves", "restarts"])
    @pytest.mark.parametrize("seed", range(int(os.environ.get("COURSES", "1"))))
    def test_each_message_is_received_once_and_in_order(
        self, cluster: RedisCluster, nodes: list[Node], seed: int, with_restarts: bool
    ) -> None:
        def start(**options: Any) -> Node:
            nodes.append(self.start(cluster, **options))
            return nodes[-1]

        # Other sockets of the servers receive copies that the client does not receive.
        for node in nodes:
            connect(node, "hall", "other-1" if node is nodes[0] else "other-2")
        course = ClusterCourse(seed, nodes, cluster, start)  # type: ignore[arg-type]
        course.run(40, with_restarts)
        expected = {name: numbers for name, numbers in course.expected.items() if numbers}
        assert course.count() == expected

    @pytest.mark.parametrize("near", [False, True], ids=["", "new server has a copy"])
    @pytest.mark.parametrize("far", [False, True], ids=["", "old server has a copy"])
    def test_copy_that_arrives_after_a_move_is_received_once(
        self,
        cluster: RedisCluster,
        monkeypatch: pytest.MonkeyPatch,
        near: bool,
        far: bool,
    ) -> None:
        one, two = self.start(cluster), self.start(cluster)
        proxies: list[Proxy] = []
        three = self.start(cluster, self.delay(cluster, 0, proxies, monkeypatch, 0.0))
        try:
            late, early = list(channels_of_all_nodes(cluster).values())[:2]
            client = Client(one)
            client.subscribe(late)
            others = [connect(server, early) for server, has in ((one, far), (two, near)) if has]
            three.runtime.to(late, early).send("before")
            # Waits for the reply of Redis, and for that to the message before it: a message whose
            # reply is lost would be published again.
            three.runtime.broadcast_channel("sync", late)
            assert client.messages(2) == ["before", "sync"]
            assert [other.event()[1] for other in others] == ["before"] * len(others)
            index = cluster.nodes.index(cluster.owner(topic_of(late)))
            held = proxies[index].links
            for link in held:
                link.black_hole()
            three.runtime.to(late, early).send("several")
            assert [other.event()[1] for other in others] == ["several"] * len(others)
            client.lose()
            assert client.resume(two)
            for link in held:
                link.release()
            assert client.messages(1) == ["several"]
            two.runtime.broadcast("end")
            assert client.messages(1) == ["end"]
            client.lose()
            assert client.resume(one)
            client.barrier()
        finally:
            for server in (one, two, three):
                server.server.stop()

    @pytest.mark.parametrize("moves", [1, 2], ids=["moved", "moved twice"])
    @pytest.mark.parametrize("is_missed", [False, True], ids=["received", "missed"])
    def test_first_copy_that_arrives_after_a_move_is_not_received_again(
        self, cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch, is_missed: bool, moves: int
    ) -> None:
        one, two, between = (self.start(cluster) for _ in range(3))
        proxies: list[Proxy] = []
        three = self.start(cluster, self.delay(cluster, 0, proxies, monkeypatch, 0.0))
        try:
            late, early = list(channels_of_all_nodes(cluster).values())[:2]
            client, other, near = Client(one), connect(one, early), connect(two, late)
            client.subscribe(early)
            three.runtime.to(late, early).send("before")
            # Redis then has replied to all earlier messages, as in the test above.
            three.runtime.broadcast_channel("sync", late)
            assert client.messages(1) == [other.event()[1]] == ["before"]
            assert [near.event()[1] for _ in range(2)] == ["before", "sync"]
            held = proxies[cluster.nodes.index(cluster.owner(topic_of(late)))].links
            for link in held:
                link.black_hole()
            if is_missed:
                client.lose()
            three.runtime.to(late, early).send("several")
            assert other.event()[1] == "several"
            if not is_missed:
                assert client.messages(1) == ["several"]
            # These servers subscribe to a topic whose copy has passed, and have no other copy.
            for server in (between, two)[-moves:]:
                assert client.resume(server)
                if is_missed and server is (between, two)[-moves]:
                    assert client.messages(1) == ["several"]
            for link in held:
                link.release()
            assert near.event()[1] == "several"
            client.barrier()
        finally:
            for server in (one, two, between, three):
                server.server.stop()

    def test_session_that_joins_a_channel_after_a_broadcast_to_it_receives_the_broadcast(
        self, cluster: RedisCluster
    ) -> None:
        one, two, three = (self.start(cluster) for _ in range(3))
        try:
            client, other = Client(one), connect(two, "held")
            client.subscribe("held")
            client.lose()
            three.runtime.to("joined", "held").send("several")
            assert other.event()[1] == "several"
            while not one.recovery.recent_groups:
                gevent.sleep(0.001)
            assert one.find(client).subscribe("joined")
            assert client.resume(two)
            assert client.messages(1) == ["several"]
            client.barrier()
        finally:
            for server in (one, two, three):
                server.server.stop()

    @staticmethod
    def hold(
        cluster: RedisCluster, proxies: list[Proxy], one: Node, two: Node
    ) -> tuple[Client, str, Proxy]:
        """Choose a node of the cluster that a test can hold while a session moves.

        The two servers exchange requests and answers on other nodes, and the topic of the session
        is on another one as well.

        Returns:
            A client of the first server, a channel of the node, and the proxy of the node.
        """
        rooms = channels_of_all_nodes(cluster)
        while True:
            client = Client(one)
            topics = f"node:,{one.id}", f"node:,{two.id}", f"session:,{client.id}"
            used = [cluster.owner(f"webpy_socketio:1:{topic}") for topic in topics]
            node = next((node for node in rooms if node not in used), None)
            if node is not None:
                return client, rooms[node], proxies[cluster.nodes.index(node)]

    def test_old_server_waits_for_the_messages_before_the_markers(
        self, cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxies: list[Proxy] = []
        one = self.start(cluster, self.delay(cluster, 0, proxies, monkeypatch, 0.0))
        two, three = self.start(cluster), self.start(cluster)
        try:
            client, room, proxy = self.hold(cluster, proxies, one, two)
            other = connect(two, room)
            client.subscribe(room)
            three.runtime.to(room).send("before")
            assert [client.messages(1), other.event()[1]] == [["before"], "before"]
            client.lose()
            markers = one.recovery.moves._released._markers
            original = markers.wait

            def release_and_wait(*args: Any) -> bool:
                gevent.spawn(proxy.everything, Link.release)
                return bool(original(*args))

            proxy.everything(Link.black_hole)
            three.runtime.to(room).send("late")
            assert other.event()[1] == "late"
            with monkeypatch.context() as patch:
                patch.setattr(markers, "wait", release_and_wait)
                assert client.resume(two)
            assert client.messages(1) == ["late"]
        finally:
            for each in proxies:
                each.everything(Link.release)
            for server in (one, two, three):
                server.server.stop()

    def test_new_server_waits_for_the_messages_before_the_markers(
        self, cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxies: list[Proxy] = []
        two = self.start(cluster, self.delay(cluster, 0, proxies, monkeypatch, 0.0))
        one, three = self.start(cluster), self.start(cluster)
        try:
            client, room, proxy = self.hold(cluster, proxies, one, two)
            others = [connect(server, room) for server in (one, two)]
            client.subscribe(room)
            three.runtime.to(room).send("before")
            assert client.messages(1) == ["before"]
            assert [other.event()[1] for other in others] == ["before"] * 2
            client.lose()
            backplane: Any = two.runtime.registry.backplane
            publish_markers = backplane.publish_markers
            markers = two.recovery.moves._adopted._markers
            wait = markers.wait

            def hold_and_publish(*args: Any) -> None:
                proxy.everything(Link.hold_replies)
                three.runtime.to(room).send("late")
                assert others[0].event()[1] == "late"
                publish_markers(*args)

            def release_and_wait(*args: Any) -> bool:
                gevent.spawn(proxy.everything, Link.release)
                return bool(wait(*args))

            # For the move only: the servers move the session again when they stop.
            with monkeypatch.context() as patch:
                patch.setattr(backplane, "publish_markers", hold_and_publish)
                patch.setattr(markers, "wait", release_and_wait)
                assert client.resume(two)
            assert client.messages(1) == ["late"]
            assert others[1].event()[1] == "late"
            client.barrier()
        finally:
            for each in proxies:
                each.everything(Link.release)
            for server in (one, two, three):
                server.server.stop()

    def test_session_that_arrives_while_a_sender_waits_for_a_connection_receives_its_message(
        self, cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = self.start(cluster), self.start(cluster)
        try:
            client = Client(one)
            client.lose()
            backplane: Any = two.runtime.registry.backplane
            original = backplane._publisher.wait_until_attempted
            waits = gevent.event.Event()

            def wait(topic: Any) -> None:
                original(topic)
                waits.set()
                while topic.kind == "session" and not getattr(two.find(client), "connected", False):
                    gevent.sleep(0.001)

            monkeypatch.setattr(backplane._publisher, "wait_until_attempted", wait)
            sending = gevent.spawn(two.runtime.send, client.id, "hello")
            waits.wait()
            assert client.resume(two)
            sending.get()
            assert client.messages(1) == ["hello"]
        finally:
            one.server.stop()
            two.server.stop()

    def test_sessions_of_stopped_servers_are_resumed_on_a_new_one(
        self, cluster: RedisCluster
    ) -> None:
        old = self.start(cluster)
        clients = [Client(old) for _ in range(5)]
        for client in clients:
            client.subscribe("room")
        old.runtime.broadcast_channel("missed", "room")
        old.server.stop()
        new = self.start(cluster)
        try:
            for client in clients:
                assert client.resume(new)
                assert client.raw.event()[:2] == ["message", "missed"]
        finally:
            new.server.stop()
