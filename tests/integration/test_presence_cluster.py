"""Presence across real processes with a real Redis, including their failures.

A `Watcher` follows the events like the browser extension. The tests do not sleep for fixed times:
leases and grace periods are short, and the tests wait for their effects.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Journal, Site
from tests.faults import Link, Proxy
from tests.raw import WebSocket
from tests.redis_server import LONG_TIMEOUT, RedisServer
from tests.servers import ServerProcess, application_source
from webpy_socketio import BackplaneError, WrongContext, default_runtime
from webpy_socketio.plugins import presence
from webpy_socketio.plugins.presence import redis as presence_redis
from webpy_socketio.plugins.presence import tracker
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.redis import RedisStore
from webpy_socketio.plugins.presence.replica import MAX_WAITING, Replica, Verdict
from webpy_socketio.plugins.presence.store import Change, Channel, State

pytestmark = [
    pytest.mark.time_limit(90),  # the tests start up to five processes
    pytest.mark.usefixtures("long_redis_timeouts"),
]

PLUGIN = "webpy_socketio.plugins.presence"
ROOM = ("/", "room")
BASE = "webpy_socketio:1:presence"

#: Short intervals, but a long lease: a busy machine must not let it expire.
INTERVALS = Intervals(heartbeat=0.2, lease=30.0, sweep=0.1, reconcile=60.0, settle=0.3)
#: Intervals of processes that are killed or suspended; the others must not miss 15 heartbeats.
SHORT_LEASE = replace(INTERVALS, lease=3.0)
GRACE = 0.5

PROGRAM = application_source(
    f"""
from webpy_socketio.plugins import presence
from webpy_socketio.plugins.presence import tracker
from webpy_socketio.plugins.presence.periodic import Intervals

tracker.TIMEOUT = {LONG_TIMEOUT}
"""
    """
presence.INTERVALS = Intervals(**eval(os.environ["TIMES"]))
OPTIONS = {"plugins": ["webpy_socketio.plugins.presence"], "log": None}
OPTIONS["backplane"] = os.environ["BACKPLANE"]
OPTIONS["presence_grace"] = float(os.environ["GRACE"])
OPTIONS["presence_key"] = lambda request, socket, context: (socket.auth or {}).get("name")

if "DIES" in os.environ:  # when it has begun to sweep
    tracker.BATCH_SIZE = 1
    sweep = tracker.Tracker._sweep

    def sweep_half(self, redis):
        if sweep(self, redis):
            say("HALFWAY", self.id)
            os.kill(os.getpid(), 9)

    tracker.Tracker._sweep = sweep_half

def print_signal(name):
    def receiver(sender, key, channel, **extra):
        say(name, channel, key)
    getattr(presence, name).connect(receiver)

for name in ("joined", "updated", "left"):
    print_signal(name)

@on_event("node")
def ask(request, socket, context):
    return presence._running(default_runtime).store.tracker.id

@on_event("members")
def members(request, socket, context):
    try:
        return presence.members("room")
    except SocketIOError as error:
        return type(error).__name__
"""
)


class RemoteServer(ServerProcess):
    """A server in another process."""

    def connect(self, auth: str = "") -> WebSocket:
        client = WebSocket(self.port)
        client.connect(auth)
        return client

    def kill(self) -> None:
        self.process.popen.send_signal(signal.SIGKILL)
        self.process.popen.wait()

    def stop_and_read(self, *beginnings: str) -> list[str]:
        """Stop the process, and return the lines it has printed with these first words."""
        self.process.popen.send_signal(signal.SIGTERM)
        lines = []
        try:
            while True:
                lines.append(self.process.next_line())
        except AssertionError:
            return [line for line in lines if line.split()[0] in beginnings]


Run = Callable[..., RemoteServer]


@pytest.fixture
def run(redis: RedisServer, tmp_path: Path) -> Iterator[Run]:
    """Return a function that starts a server in another process."""
    started: list[RemoteServer] = []

    def start(intervals: Intervals = INTERVALS, grace: float = GRACE, **env: str) -> RemoteServer:
        words = {name: getattr(intervals, name) for name in Intervals.__dataclass_fields__}
        env |= {"BACKPLANE": redis.url, "TIMES": repr(words), "GRACE": str(grace)}
        started.append(RemoteServer(PROGRAM, tmp_path / str(len(started)), env))
        return started[-1]

    yield start
    for server in started:
        server.process.popen.send_signal(signal.SIGCONT)
        server.close()


@pytest.fixture
def here(redis: RedisServer, serve: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    """Start a server in this process."""
    monkeypatch.setattr(presence, "INTERVALS", INTERVALS)
    return serve(plugins=[PLUGIN], backplane=redis.url, presence_grace=GRACE, presence_key=by_name)


def by_name(request: Any, socket: Any, context: Any) -> Any:
    return (socket.auth or {}).get("name")


class Watcher:
    """A client that follows a channel's presence like the browser extension."""

    def __init__(self, server: Any, name: str | None = None, channel: str = "room") -> None:
        self.client: WebSocket = server.connect(json.dumps({"name": name}) if name else "")
        self.channel = channel
        self.epoch: str | None = None
        self.rev = 0
        self.members: dict[str, Any] = {}
        #: ("join", key), ("update", key) or ("leave", key) for each visible change.
        self.changes: list[tuple[str, str]] = []
        #: Keys of each state received.
        self.states: list[set[str]] = []
        assert self.client.call("__subscribe__", channel) == [{"ok": True}]
        while self.epoch is None:
            self.process_next()

    def process_next(self) -> None:
        """Process the next packet."""
        packet = self.client.receive()
        assert isinstance(packet, str)
        if packet.startswith("435"):
            (request,) = json.loads(packet[3:])
            if "epoch" in request:
                self._state(request)
            return
        assert packet.startswith("42"), packet
        event, what = json.loads(packet[2:])
        assert what["channel"] == self.channel
        if event == "presence_state":
            self._state(what)
        else:
            self._diff(what)

    def until(self, condition: Callable[[dict[str, Any]], Any]) -> Watcher:
        while not condition(self.members):
            self.process_next()
        return self

    def take_changes(self) -> list[tuple[str, str]]:
        """Return the visible changes since the last call."""
        changes, self.changes = self.changes, []
        return changes

    def _state(self, state: dict[str, Any]) -> None:
        self.states.append(set(state["members"]))
        if state["epoch"] == self.epoch and state["rev"] < self.rev:
            return
        self.epoch, self.rev = state["epoch"], state["rev"]
        self._replace(state["members"])

    def _diff(self, diff: dict[str, Any]) -> None:
        if diff["epoch"] == self.epoch and diff["rev"] <= self.rev:
            return
        if diff["epoch"] != self.epoch or diff["since"] > self.rev:
            self.client.emit("presence_state", self.channel, ack=5)
            return
        self.rev = diff["rev"]
        members = {**self.members, **diff["joins"], **diff["updates"]}
        for key in diff["leaves"]:
            members.pop(key, None)
        assert diff["count"] == len(members)
        self._replace(members)

    def _replace(self, members: dict[str, Any]) -> None:
        for key in [*members, *(self.members.keys() - members.keys())]:
            if key not in self.members:
                self.changes.append(("join", key))
            elif key not in members:
                self.changes.append(("leave", key))
            elif members[key] != self.members[key]:
                self.changes.append(("update", key))
        self.members = members


def connect_client(server: Any, name: str, channel: str = "room") -> WebSocket:
    """Connect a client that subscribes and does nothing else."""
    client: WebSocket = server.connect(json.dumps({"name": name}))
    assert client.call("__subscribe__", channel) == [{"ok": True}]
    return client


def request(client: WebSocket, event: str) -> Any:
    """Return the acknowledgement of an event, ignoring other packets."""
    client.emit(event, ack=9)
    while True:
        packet = client.receive()
        assert isinstance(packet, str)
        if packet.startswith("439"):
            return json.loads(packet[3:])[0]


def are_exactly(*names: str) -> Callable[[dict[str, Any]], bool]:
    return lambda members: set(members) == set(names)


class TestProcesses:
    def test_members_of_all_processes_are_visible_in_each(self, here: Site, run: Run) -> None:
        there = run()
        ann = Watcher(here, "Ann").until(are_exactly("Ann"))
        bob = Watcher(there, "Bob").until(are_exactly("Ann", "Bob"))
        ann.until(are_exactly("Ann", "Bob"))
        assert presence.members("room") == {"Ann": [{}], "Bob": [{}]}
        assert presence.count("room") == 2
        assert presence.members("other") == {}
        assert presence.count("other") == 0
        eve = Watcher(there, "Eve", "other").until(are_exactly("Eve"))
        bob.client.send("41")
        ann.until(are_exactly("Ann"))
        eve.client.send("41")
        assert ann.take_changes() == [("join", "Ann"), ("join", "Bob"), ("leave", "Bob")]

    def test_each_client_receives_each_diff_once(self, here: Site, run: Run) -> None:
        there = run()
        ann, bob = Watcher(here, "Ann").until(are_exactly("Ann")), Watcher(there)
        bob.until(are_exactly("Ann"))
        diffs: list[Any] = []
        for number in range(3):
            one = connect_client(there, f"key {number}")
            for watcher in (ann, bob):
                packet = None
                while not (packet and f"key {number}" in packet):
                    packet = str(watcher.client.receive())
                    if '"Ann":' not in packet:
                        diffs.append((watcher, json.loads(packet[2:])[1]["rev"]))
            one.send("41")
            for watcher in (ann, bob):
                packet = None
                while not (packet and f'"leaves":{{"key {number}"' in packet):
                    packet = str(watcher.client.receive())
                    diffs.append((watcher, json.loads(packet[2:])[1]["rev"]))
        assert len(diffs) == len(set(diffs)) == 12

    def test_connections_of_a_key_in_several_processes_are_one_member(
        self, here: Site, run: Run
    ) -> None:
        servers = [here, run(), run()]
        watcher = Watcher(here)
        tabs = []
        for number, server in enumerate(servers, 1):
            tabs.append(connect_client(server, "Ann"))
            watcher.until(lambda members, n=number: len(members.get("Ann", ())) == n)
        for number, tab in enumerate(tabs, 1):
            tab.send("41")
            watcher.until(lambda members, n=3 - number: len(members.get("Ann", ())) == n)
        assert watcher.take_changes() == [
            *(("join", "Ann"), ("update", "Ann"), ("update", "Ann")),
            *(("update", "Ann"), ("update", "Ann"), ("leave", "Ann")),
        ]

    def test_reconnect_to_another_process_within_grace_reports_no_change(
        self, here: Site, run: Run
    ) -> None:
        there = run(grace=60.0)
        watcher = Watcher(here)
        ann = connect_client(there, "Ann")
        watcher.until(are_exactly("Ann"))
        ann.vanish()
        leaving = f"{BASE}:leaving"
        store: Any = presence._running(default_runtime).store
        while not store.tracker.fetch(_Raw("ZCARD", leaving)):
            pass
        again = connect_client(here, "Ann")
        bob = connect_client(there, "Bob")
        watcher.until(are_exactly("Ann", "Bob"))
        again.send("41")
        bob.send("41")
        watcher.until(are_exactly())
        changes = watcher.take_changes()
        assert changes[:2] == [("join", "Ann"), ("join", "Bob")]
        assert sorted(changes[2:]) == [("leave", "Ann"), ("leave", "Bob")]

    def test_each_change_is_signalled_in_one_process(
        self, here: Site, run: Run, journal: Journal
    ) -> None:
        there = run()

        def record(sender: Any, key: str, metas: Any, **extra: Any) -> None:
            journal.append(key)

        for stage in (presence.joined, presence.left):
            stage.connect(record)
        watcher = Watcher(here)
        one, two = connect_client(here, "Ann"), connect_client(there, "Bob")
        watcher.until(are_exactly("Ann", "Bob"))
        one.send("41")
        two.send("41")
        watcher.until(are_exactly())
        assert journal.wait(lambda journal: len(journal) == 2) == ["Ann", "Ann"]
        assert there.stop_and_read("joined", "left") == ["joined room Bob", "left room Bob"]
        for stage in (presence.joined, presence.left):
            stage.disconnect(record)

    def test_clients_of_a_stopped_server_keep_their_grace(self, here: Site, run: Run) -> None:
        there = run(grace=60.0)
        watcher = Watcher(here)
        connect_client(there, "Ann")
        watcher.until(are_exactly("Ann"))
        there.stop()
        assert presence.members("room") == {"Ann": [{}]}
        again = connect_client(here, "Ann")
        again.send("41")
        watcher.until(are_exactly())
        assert watcher.take_changes() == [("join", "Ann"), ("leave", "Ann")]


class _Raw:
    """A plain command in the place of a script call."""

    def __init__(self, *words: Any) -> None:
        self._words = words

    def command(self, with_source: bool = False) -> Any:
        return self._words


class TestFailures:
    def test_members_of_a_killed_process_leave_once(
        self, here: Site, run: Run, redis: RedisServer
    ) -> None:
        there = run(SHORT_LEASE)
        watcher = Watcher(here)
        connect_client(there, "Ann")
        connect_client(there, "Bob")
        watcher.until(are_exactly("Ann", "Bob"))
        there.kill()
        watcher.until(are_exactly())
        # No ended node remains, and no member has left twice.
        assert redis.ask("KEYS", f"{BASE}:node:*") == []
        assert redis.ask("ZCARD", f"{BASE}:nodes") == 1
        assert sorted(watcher.take_changes()) == [
            *(("join", "Ann"), ("join", "Bob"), ("leave", "Ann"), ("leave", "Bob")),
        ]
        assert _leaves(redis) == ["Ann", "Bob"]

    def test_longest_time_until_a_death_is_reported(self) -> None:
        assert Intervals().longest(grace=10.0) == 26.0
        assert Intervals().heartbeat * 2 < Intervals().lease

    def test_suspended_process_joins_again_with_a_new_node(self, run: Run) -> None:
        here, there = run(), run(SHORT_LEASE)
        watcher = Watcher(here)
        ann = connect_client(there, "Ann")
        watcher.until(are_exactly("Ann"))
        before = request(ann, "node")
        there.process.popen.send_signal(signal.SIGSTOP)
        watcher.until(are_exactly())
        there.process.popen.send_signal(signal.SIGCONT)
        watcher.until(are_exactly("Ann"))
        assert watcher.take_changes() == [("join", "Ann"), ("leave", "Ann"), ("join", "Ann")]
        assert request(ann, "node") != before
        ann.send("41")
        watcher.until(are_exactly())
        assert here.stop_and_read("left") == ["left room Ann"]
        assert there.stop_and_read("joined", "left") == [
            "joined room Ann",
            "joined room Ann",
            "left room Ann",
        ]

    def test_process_suspended_within_grace_reports_no_change(
        self, run: Run, redis: RedisServer
    ) -> None:
        here, there = run(grace=60.0), run(SHORT_LEASE, grace=60.0)
        watcher = Watcher(here)
        ann = connect_client(there, "Ann")
        watcher.until(are_exactly("Ann"))
        before = request(ann, "node")
        there.process.popen.send_signal(signal.SIGSTOP)
        while not redis.ask("ZCARD", f"{BASE}:leaving"):
            gevent.sleep(0.01)
        there.process.popen.send_signal(signal.SIGCONT)
        while redis.ask("ZCARD", f"{BASE}:leaving"):
            gevent.sleep(0.01)
        assert request(ann, "node") != before
        connect_client(here, "end")
        watcher.until(are_exactly("Ann", "end"))
        assert watcher.take_changes() == [("join", "Ann"), ("join", "end")]

    def test_sweep_of_a_killed_sweeper_is_completed_by_another(
        self, run: Run, redis: RedisServer
    ) -> None:
        victim = run(SHORT_LEASE)
        names = [f"key {number}" for number in range(6)]
        for name in names:
            connect_client(victim, name)
        sweeper = run(SHORT_LEASE, DIES="1")
        victim.kill()
        winner = sweeper.wait_for("HALFWAY")
        for claim in redis.ask("KEYS", f"{BASE}:claim:*"):  # unless it has expired
            assert redis.ask("GET", claim) in (winner.encode(), None)
        sweeper.process.popen.wait()
        assert redis.ask("ZCARD", f"{BASE}:leaving") < 6  # the others have not been taken over yet
        last = run()
        Watcher(last).until(are_exactly())
        assert _leaves(redis) == names
        while redis.ask("ZCARD", f"{BASE}:nodes") > 1:
            gevent.sleep(0.01)
        assert sorted(last.stop_and_read("left")) == [f"left room {name}" for name in names]

    def test_dead_node_is_swept_by_one_process(self, run: Run, redis: RedisServer) -> None:
        victim, others = run(SHORT_LEASE), [run() for _ in range(3)]
        names = [f"key {number}" for number in range(20)]
        for name in names:
            connect_client(victim, name)
        watcher = Watcher(others[0]).until(are_exactly(*names))
        victim.kill()
        watcher.until(are_exactly())
        assert _leaves(redis) == sorted(names)
        reported = [line for other in others for line in other.stop_and_read("left")]
        assert sorted(reported) == sorted(f"left room {name}" for name in names)

    @pytest.mark.parametrize("persistent", [True, False], ids=["with its data", "without its data"])
    def test_restart_of_redis_starts_a_new_epoch_with_all_members(
        self, persistent: bool, run: Run, redis: RedisServer
    ) -> None:
        if persistent:
            redis.keep()
        here, there = run(), run()
        watcher = Watcher(here)
        ann, gone = connect_client(there, "Ann"), connect_client(there, "gone")
        watcher.until(are_exactly("Ann", "gone"))
        epoch = watcher.epoch
        redis.stop()
        gone.send("41")  # cannot be reported yet
        new = connect_client(here, "new")
        assert request(ann, "members") == "BackplaneError"
        redis.start()
        watcher.until(lambda members: watcher.epoch != epoch and are_exactly("Ann", "new")(members))
        assert request(ann, "members") == {"Ann": [{}], "new": [{}]}
        for one in (ann, new):
            one.send("41")
        watcher.until(are_exactly())
        assert ("leave", "Ann") in watcher.take_changes()
        # Ann was present all the time: no second join is signalled.
        assert there.stop_and_read("joined").count("joined room Ann") == 1
        assert here.stop_and_read("joined") == ["joined room new"]

    def test_flush_of_redis_restores_all_members(
        self, here: Site, run: Run, redis: RedisServer
    ) -> None:
        there = run()
        watcher = Watcher(here, "Bob")
        connect_client(there, "Ann")
        watcher.until(are_exactly("Ann", "Bob"))
        epoch = watcher.epoch
        redis.ask("FLUSHALL")
        connect_client(there, "Eve")
        watcher.until(
            lambda members: watcher.epoch != epoch and are_exactly("Ann", "Bob", "Eve")(members)
        )
        while presence.count("room") < 3:
            pass
        assert presence.members("room") == {"Ann": [{}], "Bob": [{}], "Eve": [{}]}

    @pytest.mark.parametrize("which", ["normal", "pubsub"])
    def test_killed_redis_connections_lose_no_change(
        self, which: str, here: Site, run: Run, redis: RedisServer
    ) -> None:
        there = run()
        watcher = Watcher(here)
        one = connect_client(there, "Ann")
        watcher.until(are_exactly("Ann"))
        epoch = watcher.epoch
        for _ in range(3):
            redis.ask("CLIENT", "KILL", "TYPE", which, "SKIPME", "yes")
            connect_client(there, "Bob").send("41")
        one.send("41")
        connect_client(there, "end")
        watcher.until(are_exactly("end"))
        assert watcher.epoch == epoch
        assert watcher.take_changes().count(("leave", "Ann")) == 1

    def test_subscribe_during_an_outage_does_not_wait(
        self, redis: RedisServer, serve: Callable[..., Site], stages: Journal
    ) -> None:
        redis.stop()
        site = serve(plugins=[PLUGIN], backplane=redis.url, presence_key=by_name)
        ann = connect_client(site, "Ann")
        for function in (presence.members, presence.count):
            with pytest.raises(BackplaneError, match=str(redis.port)):
                function("room")
        ann.emit("presence_state", "room", ack=5)
        assert ann.receive() == '435[{"ok":false,"error":"not known yet: presence_state follows"}]'
        redis.start()
        event, state = ann.event()
        assert (event, state["members"]) == ("presence_state", {"Ann": [{}]})
        assert ("subscribe", "room") in stages

    def test_members_with_suspended_redis_raises_after_timeout(
        self, here: Site, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann = Watcher(here, "Ann").until(are_exactly("Ann"))
        monkeypatch.setattr(tracker, "TIMEOUT", 1.0)
        monkeypatch.setattr("webpy_socketio.backplane.subscriber.CONFIRM_TIMEOUT", 1.0)
        assert redis.process is not None
        redis.process.popen.send_signal(signal.SIGSTOP)
        bob = here.connect('{"name": "Bob"}')
        with pytest.raises(BackplaneError, match=r"1\.0 s"):
            presence.members("room")
        redis.process.popen.send_signal(signal.SIGCONT)
        bob.emit("__subscribe__", "room")
        ann.until(are_exactly("Ann", "Bob"))

    def test_silently_dropped_connections_are_replaced(
        self,
        redis: RedisServer,
        run: Run,
        serve: Callable[..., Site],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tracker, "READ_TIMEOUT", 0.5)
        monkeypatch.setattr("webpy_socketio.plugins.presence.redis.PUBSUB_TIMEOUT", 0.5)
        proxy = Proxy(redis.port)
        site = serve(
            plugins=[PLUGIN], backplane=f"redis://127.0.0.1:{proxy.port}", presence_key=by_name
        )
        there = run()
        ann = Watcher(site, "Ann").until(are_exactly("Ann"))
        proxy.everything(Link.black_hole)
        connect_client(there, "Bob")
        ann.until(are_exactly("Ann", "Bob"))
        site.server.stop()
        proxy.close()


def _leaves(redis: RedisServer) -> list[str]:
    """Return the keys of all published leaves, with repetitions."""
    entries = redis.ask("XRANGE", f"{BASE}:diffs:/,room", "-", "+")
    diffs = [json.loads(fields[b"diff"]) for _, fields in entries]
    return sorted(diff["key"] for diff in diffs if not diff["after"])


class TestLostData:
    """After a loss of data in Redis, no state lacks members that are present."""

    #: The test must send its requests, and start another process, before the end of this period.
    INTERVALS = replace(INTERVALS, settle=8.0)
    NAMES = frozenset({"Ann", "Bob", "Joe"})

    def end_first_period(self, redis: RedisServer) -> None:
        """End the period of a new Redis soon, so that the servers of a test do not wait for it."""
        RecordingStore(redis.url, "webpy_socketio", INTERVALS).store.close()

    @pytest.mark.parametrize("how", ["restarted", "restarted with old data", "emptied"])
    def test_state_after_redis_lost_data_has_all_members(
        self, how: str, run: Run, redis: RedisServer
    ) -> None:
        self.end_first_period(redis)
        servers = [run(self.INTERVALS, grace=60.0) for _ in range(3)]
        watchers = [Watcher(servers[0], "Ann").until(are_exactly("Ann"))]
        if how == "restarted with old data":
            redis.ask("SAVE")
        watchers += [Watcher(servers[1], "Bob"), Watcher(servers[2], "Joe")]
        for watcher in watchers:
            watcher.until(are_exactly(*self.NAMES)).states.clear()
        epoch = watchers[0].epoch
        asker = servers[0].connect()
        bystander = servers[1].connect()
        slow = servers[2].process.popen
        slow.send_signal(signal.SIGSTOP)  # it registers last
        if how == "emptied":
            redis.ask("FLUSHALL")
        else:
            redis.stop()
            redis.start()
        topic = f"{BASE}:diffs:/,room"
        while (
            redis.ask("ZCARD", f"{BASE}:nodes") < 2 or redis.ask("PUBSUB", "NUMSUB", topic)[1] < 2
        ):
            gevent.sleep(0.01)
        late = gevent.spawn(Watcher, servers[0], "late")
        new = gevent.spawn(lambda: Watcher(run(self.INTERVALS, grace=60.0), "new"))
        reader = gevent.spawn(TestPresenceReader().ask, "plain", redis.url)
        for client in (asker, bystander):
            # The name of an exception until the server has connected to Redis again.
            while isinstance(found := request(client, "members"), str):
                gevent.sleep(0.01)
            assert set(found) >= self.NAMES
        slow.send_signal(signal.SIGCONT)
        for watcher in (*watchers, late.get(), new.get()):
            watcher.until(are_exactly(*self.NAMES, "late", "new"))
            assert watcher.epoch != epoch
            assert watcher.states
            assert all(names >= self.NAMES for names in watcher.states)
            assert not {("leave", name) for name in self.NAMES} & set(watcher.take_changes())
        assert all(name in reader.get()[0] for name in self.NAMES)
        for server in servers:
            assert server.stop_and_read("left") == []

    def test_first_start_on_an_empty_redis_waits_only_if_redis_has_just_started(
        self, redis: RedisServer, make_store: MakeStore
    ) -> None:
        one = make_store(replace(INTERVALS, settle=2.0))
        one.store.join(ROOM, "0", "Ann", {})
        assert one.store.fetch(ROOM).members == {"Ann": [{}]}
        assert redis.ask("INFO", "server")["uptime_in_seconds"] >= 1
        two = RecordingStore(redis.url, secrets.token_hex(4), replace(INTERVALS, settle=1.0))
        life = f"{two.store._names.base}:life"
        while not redis.ask("EXISTS", life):
            gevent.sleep(0.01)
        assert redis.ask("GET", life).endswith(b":0")
        two.store.close()

    def test_subscriber_during_an_outage_gets_the_state_afterwards(
        self, run: Run, redis: RedisServer
    ) -> None:
        redis.keep()
        self.end_first_period(redis)
        here, there = (run(replace(INTERVALS, settle=5.0)) for _ in range(2))
        watchers = [Watcher(here, "Ann"), Watcher(there, "Bob")]
        for watcher in watchers:
            watcher.until(are_exactly("Ann", "Bob")).states.clear()
        redis.stop()
        late = gevent.spawn(Watcher, here, "late")
        connect_client(there, "Joe")
        redis.start()
        assert late.get().states[0] == {"Ann", "Bob", "Joe", "late"}
        for watcher in (*watchers, late.get()):
            watcher.until(are_exactly("Ann", "Bob", "Joe", "late"))
            assert all(names >= {"Ann", "Bob"} for names in watcher.states)


class RecordingStore:
    """A store in Redis, with its own node, that records its changes."""

    def __init__(self, url: str, prefix: str, intervals: Intervals, grace: float = 10.0) -> None:
        self.reported = Journal()
        self.replayed: dict[str, Any] = {}
        self.changed = gevent.event.Event()
        self.store = RedisStore(url, prefix, self, grace, intervals)

    def on_local_change(self, change: Change) -> None:
        self.reported.append(change)

    def on_change(self, change: Change) -> None:
        assert self.replayed.get(change.key, []) == change.before
        self.replayed[change.key] = change.after
        if not change.after:
            del self.replayed[change.key]
        self.changed.set()

    def on_reset(self, channel: Channel) -> None:
        state = self.store.state(channel)
        assert state is not None
        self.replayed = dict(state.members)
        self.changed.set()

    def wait(self, condition: Callable[[State], bool]) -> None:
        """Wait until a condition on the replica is true."""
        while (state := self.store.state(ROOM)) is None or not condition(state):
            self.changed.clear()
            self.changed.wait()
        assert self.replayed == state.members


@pytest.fixture
def make_store(redis: RedisServer) -> Iterator[Callable[..., RecordingStore]]:
    """Return a function that creates stores with a common prefix, each with its own node."""
    stores: list[RecordingStore] = []
    prefix = secrets.token_hex(4)

    def make(
        intervals: Intervals = INTERVALS, grace: float = 10.0, url: str = redis.url
    ) -> RecordingStore:
        stores.append(RecordingStore(url, prefix, intervals, grace))
        return stores[-1]

    yield make
    for one in stores:
        one.store.close()


MakeStore = Callable[..., RecordingStore]


class TestRevisions:
    STEP = st.tuples(
        st.integers(0, 1),  # node
        st.integers(0, 4),  # connection
        st.sampled_from(["join a", "join b", "meta", "leave", "vanish"]),
    )

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(steps=st.lists(STEP, max_size=30))
    def test_replayed_diffs_equal_the_state_at_every_revision(
        self, steps: list[tuple[int, int, str]], redis: RedisServer
    ) -> None:
        prefix = secrets.token_hex(4)
        nodes = [RecordingStore(redis.url, prefix, Intervals(), grace=60.0) for _ in range(2)]
        for one in nodes:
            one.store.watch(ROOM, "watcher")
        states = {0: {}}
        for number, (which, connection, what) in enumerate(steps):
            store, name = nodes[which].store, f"{which}.{connection}"
            match what.split():
                case ["join", key]:
                    store.join(ROOM, name, key, {})
                case ["meta"]:
                    store.join(ROOM, name, "a", {"n": number})
                case _:
                    store.leave(ROOM, name, 60.0 if what == "vanish" else 0.0)
            state = store.fetch(ROOM)
            states[state.rev] = state.members
        entries = redis.ask("XRANGE", f"{prefix}:1:presence:diffs:/,room", "-", "+")
        replayed: dict[str, Any] = {}
        for rev, (_, fields) in enumerate(entries, 1):
            diff = json.loads(fields[b"diff"])
            assert diff["rev"] == rev
            assert replayed.get(diff["key"], []) == diff["before"]
            replayed[diff["key"]] = diff["after"]
            if not diff["after"]:
                del replayed[diff["key"]]
            assert states.get(rev, replayed) == replayed
        for one in nodes:
            one.wait(lambda state: state.rev == len(entries))
            one.store.close()

    def test_missed_changes_are_read_from_the_stream(
        self, make_store: MakeStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = make_store(), make_store()
        one.store.watch(ROOM, "watcher")
        two.store.join(ROOM, "0", "Ann", {})
        one.wait(lambda state: state.rev == 1)
        renewals = []
        monkeypatch.setattr(one, "on_reset", renewals.append)
        for number in range(20):
            redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
            two.store.join(ROOM, "0", "Ann", {"n": number})
            one.wait(lambda state, rev=number + 2: state.rev == rev)
        assert renewals == []  # diffs only

    def test_channel_watched_again_at_once_is_read_again(self, make_store: MakeStore) -> None:
        one = make_store()
        one.store.watch(ROOM, "first")
        one.store.join(ROOM, "0", "Ann", {})
        one.wait(lambda state: state.rev == 1)
        one.store.unwatch(ROOM, "first")
        one.store.watch(ROOM, "second")  # before UNSUBSCRIBE was sent
        assert one.store.state(ROOM) is None
        one.wait(lambda state: state.rev == 1)

    def test_too_many_missed_changes_are_replaced_by_the_state(
        self, make_store: MakeStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = make_store(), make_store()
        one.store.watch(ROOM, "watcher")
        two.store.join(ROOM, "0", "Ann", {})
        one.wait(lambda state: state.rev == 1)
        one.store._pubsub.unsubscribe(one.store._topic(ROOM))
        while redis.ask("PUBSUB", "NUMSUB", one.store._topic(ROOM))[1]:
            gevent.sleep(0.01)
        for number in range(1000):
            two.store.join(ROOM, "0", "Ann", {"n": number})
        two.store.fetch(ROOM)
        assert redis.ask("XLEN", one.store._topic(ROOM)) < 500  # the stream is limited
        one.store._pubsub.subscribe(one.store._topic(ROOM))
        one.wait(lambda state: state.rev == 1001)
        assert one.replayed == {"Ann": [{"n": 999}]}

    def test_keys_of_an_empty_channel_expire(
        self, make_store: MakeStore, redis: RedisServer
    ) -> None:
        one = make_store()
        position = one.store._names.of("position", "/,room")
        one.store.join(ROOM, "1", "Ann", {})
        assert one.store.counts([ROOM]) == [1]
        assert redis.ask("TTL", position) == -1
        one.store.leave(ROOM, "1", 0.0)
        assert one.store.counts([ROOM]) == [0]
        for key in (position, one.store._topic(ROOM)):
            assert 0 < redis.ask("TTL", key) <= 3600
        one.store.join(ROOM, "1", "Ann", {})
        assert one.store.fetch(ROOM).rev == 3
        for key in (position, one.store._topic(ROOM)):
            assert redis.ask("TTL", key) == -1

    def test_reading_creates_no_keys(self, make_store: MakeStore, redis: RedisServer) -> None:
        one = make_store()
        one.store.watch(("/", "empty"), "watcher")
        for number in range(50):
            assert one.store.fetch(("/", f"room {number}")) == State("", 0, {})
        assert len(redis.ask("KEYS", "*")) == 2  # the node's lease and the run id of Redis


class TestIdle:
    def test_no_write_for_a_connection_that_changes_nothing(
        self, make_store: MakeStore, redis: RedisServer
    ) -> None:
        one = make_store(
            Intervals(heartbeat=0.1, lease=30.0, sweep=0.05, reconcile=0.2, settle=0.1)
        )
        other = make_store(
            Intervals(heartbeat=0.1, lease=30.0, sweep=0.05, reconcile=0.2, settle=0.1)
        )
        other.store.watch(ROOM, "watcher")
        for number in range(100):
            one.store.join(ROOM, str(number), f"key {number}", {"n": number})
        other.wait(lambda state: len(state.members) == 100)
        assert one.store.fetch(ROOM)
        heartbeats = 0
        written: set[str] = set()
        with redis.redis.Redis(port=redis.port) as link, link.monitor() as monitor:
            while heartbeats < 20:
                command = monitor.next_command()["command"]
                words = command.split()
                if words[0] == "ZADD" and words[1].endswith(":nodes"):
                    heartbeats += 1
                elif words[0] not in _READS:
                    written.add(command)
        assert written == set()


#: Commands that read or run scripts.
_READS = {
    *("EVALSHA", "TIME", "GET", "ZSCORE", "ZRANGEBYSCORE", "HMGET", "SSCAN", "XRANGE", "EXISTS"),
    *("PING", "HGETALL"),
}


class TestRepair:
    """Periodic comparison of a node's local entries with Redis; more frequent than by default."""

    QUICK = replace(INTERVALS, reconcile=0.1, settle=0.1)

    @pytest.mark.parametrize("nouns", [["connections"], ["keys"], ["keys", "connections"]])
    def test_lost_entries_are_restored(
        self, nouns: list[str], make_store: MakeStore, redis: RedisServer
    ) -> None:
        one = make_store(self.QUICK)
        for number in range(3):
            one.store.join(ROOM, str(number), f"key {number}", {})
        assert one.store.counts([ROOM]) == [3]
        names = one.store._names
        redis.ask("DEL", *(names.of(noun, "/,room") for noun in nouns))
        expected = {f"key {number}": [{}] for number in range(3)}
        while one.store.fetch(ROOM).members != expected:
            pass

    def test_extra_entries_are_removed(self, make_store: MakeStore, redis: RedisServer) -> None:
        one = make_store(self.QUICK)
        one.store.watch(ROOM, "watcher")
        one.store.join(ROOM, "1", "Ann", {})
        one.store.join(ROOM, "2", "ghost", {})
        one.wait(lambda state: len(state.members) == 2)
        del one.store._local[ROOM, "2"]
        one.wait(lambda state: set(state.members) == {"Ann"})

    def test_leaving_entries_are_kept_until_due(
        self, make_store: MakeStore, redis: RedisServer
    ) -> None:
        one = make_store(self.QUICK)
        one.store.join(ROOM, "1", "Ann", {})
        one.store.leave(ROOM, "1", 60.0)
        before = _calls(redis, "sscan")
        while _calls(redis, "sscan") < before + 3:
            gevent.sleep(0.01)
        assert one.store.fetch(ROOM).members == {"Ann": [{}]}

    def test_entry_that_starts_leaving_during_a_comparison_is_kept(
        self, make_store: MakeStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = make_store(self.QUICK)
        one.store.join(ROOM, "1", "Ann", {})
        assert one.store.fetch(ROOM).members == {"Ann": [{}]}
        original, compared = presence_redis.extra, gevent.event.Event()

        def extra(*args: Any) -> set[Any]:
            found = set(original(*args))
            if one.store.is_present(ROOM, "1"):
                one.store.leave(ROOM, "1", 60.0)
            elif not compared.is_set() and not found:
                compared.set()
            return found

        monkeypatch.setattr(presence_redis, "extra", extra)
        assert compared.wait(30)
        assert one.store.fetch(ROOM).members == {"Ann": [{}]}

    def test_silently_missed_change_is_found_by_comparison(self, make_store: MakeStore) -> None:
        one, two = make_store(self.QUICK), make_store()
        one.store.watch(ROOM, "watcher")
        two.store.join(ROOM, "1", "Ann", {})
        one.wait(lambda state: state.rev == 1)
        original, one.store._pubsub._on_message = (
            one.store._pubsub._on_message,
            lambda *message: None,
        )
        two.store.join(ROOM, "2", "Bob", {})
        one.wait(lambda state: state.rev == 2)
        one.store._pubsub._on_message = original

    def test_full_task_queue_is_replaced_by_a_comparison(
        self,
        make_store: MakeStore,
        redis: RedisServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        monkeypatch.setattr(tracker, "MAX_WAITING", 5)
        one = make_store()
        one.store.join(ROOM, "first", "first", {})
        assert one.store.fetch(ROOM)
        redis.stop()
        one.store.leave(ROOM, "first", 0.0)
        for number in range(50):
            one.store.join(ROOM, str(number), f"key {number}", {})
            assert len(one.store.tracker._tasks) <= 5
        redis.start()
        monkeypatch.undo()
        one.reported.wait(lambda reported: len(reported) == 51)
        assert len(one.store.fetch(ROOM).members) == 50
        assert "compared" in caplog.text

    def test_flushed_scripts_are_loaded_again(
        self, make_store: MakeStore, redis: RedisServer
    ) -> None:
        one = make_store()
        for number in range(10):
            one.store.join(ROOM, str(number), f"key {number}", {})
            assert one.store.counts([ROOM]) == [number + 1]
            redis.ask("SCRIPT", "FLUSH")

    @pytest.mark.parametrize(
        ("noun", "what"),
        [
            *(("keys", "/,room"), ("connections", "/,room"), ("position", "/,room")),
            *(("diffs", "/,room"), ("node", ""), ("nodes", None), ("leaving", None)),
            ("life", None),
        ],
    )
    @pytest.mark.parametrize("kind", ["string", "list", "stream"])
    def test_key_of_the_wrong_type_is_replaced_and_logged_once(
        self,
        noun: str,
        what: str | None,
        kind: str,
        make_store: MakeStore,
        redis: RedisServer,
        caplog: Any,
    ) -> None:
        one, two = make_store(self.QUICK), make_store(self.QUICK)
        two.store.watch(ROOM, "watcher")
        one.store.join(ROOM, "1", "Ann", {})
        one.store.leave(ROOM, "1", 60.0)
        one.store.join(ROOM, "2", "Bob", {})
        one.store.join(("/", "other"), "2", "Bob", {})
        two.wait(lambda state: set(state.members) == {"Ann", "Bob"})
        what = one.store.tracker.id if what == "" else what
        key = f"{one.store._names.base}:{noun}" + (f":{what}" if what else "")
        command = {
            "string": ("SET", key, "of another kind"),
            "list": ("RPUSH", key, "of another kind"),
            "stream": ("XADD", key, f"{2**60}-0", "of another", "kind"),
        }[kind]
        replace_it = "redis.call('DEL', ARGV[2]); return redis.call(unpack(ARGV))"
        redis.ask("EVAL", replace_it, 0, *command)
        one.store.join(ROOM, "3", "Eve", {})
        one.store.join(("/", "other"), "3", "Eve", {})
        two.wait(lambda state: {"Bob", "Eve"} <= set(state.members))
        while not {"Bob", "Eve"} <= set(one.store.fetch(ROOM).members):
            gevent.sleep(0.01)
        while set(one.store.fetch(("/", "other")).members) != {"Bob", "Eve"}:
            gevent.sleep(0.01)
        one.store.leave(ROOM, "2", 0.0)
        two.wait(lambda state: "Bob" not in state.members)
        while redis.ask("SCARD", f"{one.store._names.base}:node:{one.store.tracker.id}") != 3:
            gevent.sleep(0.01)
        assert len([record for record in caplog.records if repr(key) in record.message]) <= 1
        assert "reconnected" not in caplog.text

    @pytest.mark.parametrize(
        "value",
        [
            *(b"", b"junk", b"\xff\xfe", b"\n\n\n", b"node\n0\n{\nAnn", b"node\n0\n[]\nAnn"),
            *(b"node\nsoon\n{}\nAnn", b"node\n0\n{]}\nAnn", b"node\n0\n{NaN}\nAnn"),
            *(b'node\n0\n{"a":"\\ud800"}\nAnn', b'node\n0\n{"a":"\xff"}\nAnn', b"x" * 5_000_000),
            b'node\n0\n{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}\nAnn",
            *(
                b'node\n0\n{"a":"' + b"x" * 1_000_000 + b'"}\nAnn',
                b"node\n" + b"9" * 400 + b"\n{}\nAnn",
            ),
        ],
        ids=lambda value: repr(value[:30]),
    )
    def test_malformed_member_is_removed_and_restored(
        self, value: bytes, make_store: MakeStore, redis: RedisServer, caplog: Any
    ) -> None:
        one, two = make_store(self.QUICK), make_store(self.QUICK)
        two.store.watch(ROOM, "watcher")
        for number, name in enumerate(("Ann", "Bob")):
            one.store.join(ROOM, str(number), name, {})
        two.wait(lambda state: len(state.members) == 2)
        connections, keys = (
            one.store._names.of(noun, "/,room") for noun in ("connections", "keys")
        )
        redis.ask("HSET", connections, "0", value)
        redis.ask("HSET", connections, "stray", value, b"\xff", value)
        redis.ask("HSET", keys, "stray", "stray", b"\xff", "0", value[:500], "0\nstray")
        one.store.join(ROOM, "2", "Eve", {})
        expected = {"Ann": [{}], "Bob": [{}], "Eve": [{}]}
        two.wait(lambda state: "Eve" in state.members)
        while two.store.fetch(ROOM).members != expected or two.store.counts([ROOM]) != [3]:
            gevent.sleep(0.01)
        while redis.ask("HLEN", connections) != 3:  # the repair follows the reply
            gevent.sleep(0.01)
        two.wait(lambda state: state.members == expected)
        assert "skipped or removed" in caplog.text
        assert "SOCKETIO_BACKPLANE_PREFIX" in caplog.text
        assert len(caplog.records) < 10
        assert "reconnected" not in caplog.text

    def test_malformed_messages_are_ignored(
        self, make_store: MakeStore, redis: RedisServer, caplog: Any
    ) -> None:
        one, two = make_store(), make_store()
        two.store.watch(ROOM, "watcher")
        one.store.join(ROOM, "0", "Ann", {})
        two.wait(lambda state: set(state.members) == {"Ann"})
        topic = one.store._topic(ROOM)
        epoch = one.store.fetch(ROOM).epoch
        good = {"epoch": epoch, "rev": 2, "key": "Eve", "before": [], "after": [{}]}
        wrong: list[Any] = [b"", b"\x80", b"null", b"[]", b"5", b"[" * 100_000, b"x" * 1_000_000]
        for name, values in {
            "epoch": (None, 5, []),
            "rev": (None, "2", True, 2.5, 10**30),
            "key": (None, 5, ["a"]),
            "before": (None, {}, [5], "[]"),
            "after": (None, {}, [5], [[]]),
        }.items():
            wrong += [json.dumps({**good, name: value}).encode() for value in values]
            wrong.append(json.dumps({key: good[key] for key in good if key != name}).encode())
        for message in wrong:
            redis.ask("PUBLISH", topic, message)
            redis.ask("PUBLISH", f"{one.store._names.base}:here", message)
        # Valid, but not the next revision: the state is read.
        redis.ask("PUBLISH", topic, json.dumps({**good, "rev": 2**62}))
        one.store.join(ROOM, "1", "Bob", {})
        two.wait(lambda state: set(state.members) == {"Ann", "Bob"})
        assert (
            len([record for record in caplog.records if "published message" in record.message]) == 1
        )
        assert "failed; it reconnects" not in caplog.text

    def test_malformed_entries_of_sets_and_stream_are_skipped(
        self, run: Run, make_store: MakeStore, redis: RedisServer, caplog: Any
    ) -> None:
        one, two = make_store(self.QUICK), make_store(self.QUICK)
        two.store.watch(ROOM, "watcher")
        one.store.join(ROOM, "0", "Ann", {})
        two.wait(lambda state: set(state.members) == {"Ann"})
        names = one.store._names
        for item in (b"", b"junk", b"\xff\n\xff", b"a\nb\nc", b"x" * 1_000_000):
            redis.ask("ZADD", f"{names.base}:leaving", 1, item)
            redis.ask("ZADD", f"{names.base}:nodes", 1, item)
            redis.ask("SADD", names.of("node", one.store.tracker.id), item)
            redis.ask("SADD", names.of("node", "dead"), item)
        redis.ask("ZADD", f"{names.base}:nodes", 1, "dead")
        redis.ask("XADD", names.of("diffs", "/,room"), "5-0", "other", "junk")
        redis.ask("HSET", names.of("position", "/,room"), "epoch", '"', "rev", "many")
        one.store.leave(ROOM, "0", 0.2)
        one.store.join(ROOM, "1", "Bob", {})
        two.wait(lambda state: set(state.members) == {"Bob"})
        while redis.ask("ZCARD", f"{names.base}:nodes") != 2 or redis.ask(
            "EXISTS", names.of("node", "dead")
        ):
            gevent.sleep(0.01)
        while redis.ask("SCARD", names.of("node", one.store.tracker.id)) != 1:
            gevent.sleep(0.01)
        assert redis.ask("ZCARD", f"{names.base}:leaving") == 0
        assert "reconnected" not in caplog.text


def _calls(redis: RedisServer, command: str) -> int:
    calls: int = redis.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]
    return calls


class TestSignals:
    def test_receivers_may_block(
        self, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = make_store()
        ready = gevent.event.Event()
        reported: list[str] = []

        def on_local_change(change: Change) -> None:
            ready.wait()
            reported.append(change.key)

        monkeypatch.setattr(one, "on_local_change", on_local_change)
        for name in "abc":
            one.store.join(ROOM, name, name, {})
        assert one.store.counts([ROOM]) == [3]
        ready.set()
        while len(reported) < 3:
            gevent.sleep(0)
        assert reported == ["a", "b", "c"]

    def test_changes_for_slow_receivers_are_dropped_and_logged(
        self, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        monkeypatch.setattr("webpy_socketio.plugins.presence.redis.MAX_PENDING", 3)
        one = make_store()
        ready = gevent.event.Event()
        monkeypatch.setattr(one, "on_local_change", lambda change: ready.wait())
        for number in range(10):
            one.store.join(ROOM, str(number), str(number), {})
        assert one.store.counts([ROOM]) == [10]
        assert len(one.store._pending) <= 3
        ready.set()
        assert [record for record in caplog.text.splitlines() if "are dropped" in record][1:] == []
        assert "are dropped" in caplog.text

    def test_fetch_on_the_hub_raises_wrong_context(self, make_store: MakeStore) -> None:
        one = make_store()
        raised = gevent.event.AsyncResult()

        def ask() -> None:
            try:
                one.store.fetch(ROOM)
            except WrongContext as error:
                raised.set(str(error))

        gevent.get_hub().loop.run_callback(ask)
        assert "hub" in raised.get()


class TestReplica:
    @staticmethod
    def change(rev: int, epoch: str = "e", after: Any = ({},)) -> Change:
        return Change(ROOM, epoch, rev, f"key {rev}", [], list(after))

    def current(self) -> Replica:
        replica = Replica()
        assert replica.replace(State("e", 5, {}))
        assert replica.sync([]) == ([], False)
        return replica

    def test_apply_of_the_next_change_returns_applied(self) -> None:
        replica = self.current()
        verdicts = [replica.apply(self.change(rev)) for rev in (6, 6, 5, 7)]
        assert verdicts == [Verdict.APPLIED, Verdict.DUPLICATE, Verdict.DUPLICATE, Verdict.APPLIED]
        assert replica.state == State("e", 7, {"key 6": [{}], "key 7": [{}]})

    @pytest.mark.parametrize(("rev", "epoch"), [(7, "e"), (6, "f"), (1, "f")])
    def test_apply_of_another_change_returns_gap(self, rev: int, epoch: str) -> None:
        replica = self.current()
        assert replica.apply(self.change(rev, epoch)) is Verdict.GAP
        assert replica.apply(self.change(8)) is Verdict.BUFFERED
        assert replica.state.rev == 5

    def test_sync_applies_buffered_changes(self) -> None:
        replica = self.current()
        replica.apply(self.change(7))
        for rev in (8, 9):
            replica.apply(self.change(rev))
        missed = [self.change(rev) for rev in (6, 7, 8)]
        assert replica.sync(missed) == ([*missed, self.change(9)], False)

    def test_sync_with_a_gap_in_buffered_changes_reports_it(self) -> None:
        replica = self.current()
        replica.invalidate()
        for rev in (8, 10):
            replica.apply(self.change(rev))
        assert replica.sync([self.change(6), self.change(7)])[1]
        assert replica.state.rev == 8
        # A change of an old epoch does not prevent recovery.
        replica.apply(self.change(3, "old"))
        assert replica.sync([self.change(9), self.change(10)])[1]
        assert replica.sync([]) == ([], False)

    def test_sync_after_a_full_buffer_reports_a_gap(self) -> None:
        replica = self.current()
        replica.invalidate()
        for rev in range(6, 8 + MAX_WAITING):
            replica.apply(self.change(rev))
        news, gap = replica.sync([])
        assert (len(news), gap) == (MAX_WAITING, True)

    def test_replace_with_an_older_state_is_ignored(self) -> None:
        replica = self.current()
        assert not replica.replace(State("e", 4, {"old": [{}]}))
        assert replica.replace(State("f", 1, {"new": [{}]}))

    def test_apply_of_a_leave_removes_the_member(self) -> None:
        replica = self.current()
        replica.apply(self.change(6))
        replica.apply(Change(ROOM, "e", 7, "key 6", [{}], []))
        assert replica.members == {}


READER = f"""
import sys
if "patched" in sys.argv:
    from gevent import monkey; monkey.patch_all()
from webpy_socketio import *
from webpy_socketio.plugins import presence
from webpy_socketio.plugins.presence import redis
redis.TIMEOUT = redis.READ_TIMEOUT = {LONG_TIMEOUT}
if len(sys.argv) > 2:
    configure({{"SOCKETIO_BACKPLANE": sys.argv[2], "SOCKETIO_PRESENCE_GRACE": 0}})
try:
    print(presence.members("room"), presence.count("room"))
except SocketIOError as error:
    print(type(error).__name__)
try:
    presence.track(None, "room", "Ann")
except CallerError:
    print("no socket")
"""


class TestPresenceReader:
    """A process without a server."""

    def ask(self, *args: str) -> list[str]:
        command = [sys.executable, "-W", "error", "-c", READER, *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    @pytest.mark.parametrize("how", ["patched", "plain"])
    def test_reader_returns_members(self, how: str, here: Site, redis: RedisServer) -> None:
        Watcher(here, "Ann").until(are_exactly("Ann"))
        assert self.ask(how, redis.url) == ["{'Ann': [{}]} 1", "no socket"]

    def test_reader_sweeps_dead_nodes(self, run: Run, redis: RedisServer) -> None:
        there = run(SHORT_LEASE, grace=0.1)
        Watcher(there, "Ann").until(are_exactly("Ann"))
        there.kill()
        while self.ask("plain", redis.url) != ["{} 0", "no socket"]:
            pass

    def test_reader_during_an_outage_raises_backplane_error(self, redis: RedisServer) -> None:
        redis.stop()
        assert self.ask("plain", redis.url) == ["BackplaneError", "no socket"]

    def test_reader_without_backplane_raises_configuration_error(self) -> None:
        assert self.ask("plain") == ["ConfigurationError", "no socket"]

    def test_server_without_backplane_does_not_import_redis(self) -> None:
        program = (
            "from gevent import monkey; monkey.patch_all()\n"
            "import sys, web\n"
            "from webpy_socketio import *\n"
            "app = web.application(socketio_urls, {}).wsgifunc()\n"
            f"server = SocketIOServer(('127.0.0.1', 0), app, plugins=[{PLUGIN!r}], log=None)\n"
            "server.start()\n"
            "server.stop()\n"
            "print([name for name in sys.modules if name.split('.')[0] == 'redis'])\n"
        )
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
