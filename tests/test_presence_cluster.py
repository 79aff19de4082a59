"""Presence of several processes: real ones, a real Redis, and what happens to them.

What clients are told is followed by a `Watcher` as the browser extension does it. Nothing here waits for
a time to pass: leases and graces are short, and what is awaited is what follows from them.
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
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webpy_socketio import BackplaneError, WrongContext
from webpy_socketio.plugins import presence
from webpy_socketio.plugins.presence import tracker
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.redis import RedisStore
from webpy_socketio.plugins.presence.replica import MAX_WAITING, Replica, Verdict
from webpy_socketio.plugins.presence.store import Change, Channel, State

from .conftest import Journal, Site
from .faults import Link, Proxy
from .raw import WebSocket
from .redis_server import LONG_TIMEOUT, RedisServer, extend_redis_timeouts
from .servers import ServerProcess, application_source

pytestmark = pytest.mark.patience(40)

PLUGIN = "webpy_socketio.plugins.presence"
ROOM = ("/", "room")
BASE = "webpy_socketio:1:presence"

#: Shortened, but for the lease: nobody is taken for dead because the machine is busy.
TIMES = Intervals(heartbeat=0.2, lease=30.0, sweep=0.1, reconcile=60.0, settle=0.3)
#: Of who is to die.
MORTAL = replace(TIMES, lease=1.5)
GRACE = 0.5

PROGRAM = application_source(
    f"""
from webpy_socketio.plugins import presence
from webpy_socketio.plugins.presence import node
from webpy_socketio.plugins.presence.chores import Intervals

node.TIMEOUT = {LONG_TIMEOUT}
"""
    """
presence.INTERVALS = Intervals(**eval(os.environ["TIMES"]))
OPTIONS = {"plugins": ["webpy_socketio.plugins.presence"], "log": None}
OPTIONS["backplane"] = os.environ["BACKPLANE"]
OPTIONS["presence_grace"] = float(os.environ["GRACE"])
OPTIONS["presence_key"] = lambda request, socket, context: (socket.auth or {}).get("name")

if "DIES" in os.environ:  # when it has begun to sweep
    node.BATCH_SIZE = 1
    sweep = node.Tracker._sweep

    def half(self, link):
        if sweep(self, link):
            say("HALFWAY", self.id)
            os.kill(os.getpid(), 9)

    node.Tracker._sweep = half

def tell(name):
    def receiver(sender, key, channel, **extra):
        say(name, channel, key)
    getattr(presence, name).connect(receiver)

for name in ("joined", "updated", "left"):
    tell(name)

@on_event("node")
def ask(request, socket, context):
    return presence._presence.store.node.id

@on_event("members")
def members(request, socket, context):
    try:
        return presence.members("room")
    except SocketIOError as error:
        return type(error).__name__
"""
)


class Far(ServerProcess):
    """A server in a process of its own."""

    def connect(self, auth: str = "") -> WebSocket:
        client = WebSocket(self.port)
        client.connect(auth)
        return client

    def kill(self) -> None:
        self.process.popen.send_signal(signal.SIGKILL)
        self.process.popen.wait()

    def said(self, *beginnings: str) -> list[str]:
        """What it said since, of lines that begin so; the process ends."""
        self.process.popen.send_signal(signal.SIGTERM)
        lines = []
        try:
            while True:
                lines.append(self.process.next_line())
        except AssertionError:
            return [line for line in lines if line.split()[0] in beginnings]


@pytest.fixture(autouse=True)
def _long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    extend_redis_timeouts(monkeypatch)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


Run = Callable[..., Far]


@pytest.fixture
def run(redis: RedisServer, tmp_path: Path) -> Iterator[Run]:
    """Start a server in another process."""
    started: list[Far] = []

    def start(times: Intervals = TIMES, grace: float = GRACE, **env: str) -> Far:
        words = {name: getattr(times, name) for name in Intervals.__dataclass_fields__}
        env |= {"BACKPLANE": redis.url, "TIMES": repr(words), "GRACE": str(grace)}
        started.append(Far(PROGRAM, tmp_path / str(len(started)), env))
        return started[-1]

    yield start
    for server in started:
        server.process.popen.send_signal(signal.SIGCONT)
        server.close()


@pytest.fixture
def here(redis: RedisServer, serve: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    """A server in this process."""
    monkeypatch.setattr(presence, "INTERVALS", TIMES)
    return serve(plugins=[PLUGIN], backplane=redis.url, presence_grace=GRACE, presence_key=by_name)


def by_name(request: Any, socket: Any, context: Any) -> Any:
    return (socket.auth or {}).get("name")


class Watcher:
    """A client that follows a channel's presence as the browser extension does."""

    def __init__(self, server: Any, name: str | None = None, channel: str = "room") -> None:
        self.client: WebSocket = server.connect(json.dumps({"name": name}) if name else "")
        self.channel = channel
        self.epoch: str | None = None
        self.rev = 0
        self.members: dict[str, Any] = {}
        #: ("join", key), ("update", key), ("leave", key): what its user saw.
        self.seen: list[tuple[str, str]] = []
        #: The keys of each whole state that was received.
        self.states: list[set[str]] = []
        assert self.client.call("__subscribe__", channel) == [{"ok": True}]
        while self.epoch is None:
            self.take()

    def take(self) -> None:
        """Take what comes next."""
        packet = self.client.receive()
        assert isinstance(packet, str)
        if packet.startswith("435"):
            (answer,) = json.loads(packet[3:])
            if "epoch" in answer:
                self._state(answer)
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
            self.take()
        return self

    def saw(self) -> list[tuple[str, str]]:
        """What was seen since the last time."""
        seen, self.seen = self.seen, []
        return seen

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
                self.seen.append(("join", key))
            elif key not in members:
                self.seen.append(("leave", key))
            elif members[key] != self.members[key]:
                self.seen.append(("update", key))
        self.members = members


def client(server: Any, name: str, channel: str = "room") -> WebSocket:
    """One that only is there."""
    client: WebSocket = server.connect(json.dumps({"name": name}))
    assert client.call("__subscribe__", channel) == [{"ok": True}]
    return client


def answer(client: WebSocket, event: str) -> Any:
    """What an event is answered, whatever else comes before that."""
    client.emit(event, ack=9)
    while True:
        packet = client.receive()
        assert isinstance(packet, str)
        if packet.startswith("439"):
            return json.loads(packet[3:])[0]


def only(*names: str) -> Callable[[dict[str, Any]], bool]:
    return lambda members: set(members) == set(names)


class TestProcesses:
    def test_everybody_sees_everybody(self, here: Site, run: Run) -> None:
        there = run()
        ann = Watcher(here, "Ann").until(only("Ann"))
        bob = Watcher(there, "Bob").until(only("Ann", "Bob"))
        ann.until(only("Ann", "Bob"))
        assert presence.members("room") == {"Ann": [{}], "Bob": [{}]}
        assert presence.count("room") == 2
        assert presence.members("other") == {}
        assert presence.count("other") == 0
        eve = Watcher(there, "Eve", "other").until(only("Eve"))
        bob.client.send("41")
        ann.until(only("Ann"))
        eve.client.send("41")
        assert ann.saw() == [("join", "Ann"), ("join", "Bob"), ("leave", "Bob")]

    def test_each_process_tells_its_own_clients_once(self, here: Site, run: Run) -> None:
        there = run()
        ann, bob = Watcher(here, "Ann").until(only("Ann")), Watcher(there)
        bob.until(only("Ann"))
        diffs: list[Any] = []
        for number in range(3):
            one = client(there, f"key {number}")
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

    def test_three_tabs_closed_one_by_one(self, here: Site, run: Run) -> None:
        servers = [here, run(), run()]
        watcher = Watcher(here)
        tabs = []
        for number, server in enumerate(servers, 1):
            tabs.append(client(server, "Ann"))
            watcher.until(lambda members, n=number: len(members.get("Ann", ())) == n)
        for number, tab in enumerate(tabs, 1):
            tab.send("41")
            watcher.until(lambda members, n=3 - number: len(members.get("Ann", ())) == n)
        assert watcher.saw() == [
            *(("join", "Ann"), ("update", "Ann"), ("update", "Ann")),
            *(("update", "Ann"), ("update", "Ann"), ("leave", "Ann")),
        ]

    def test_coming_back_elsewhere_within_the_grace(self, here: Site, run: Run) -> None:
        there = run(grace=60.0)
        watcher = Watcher(here)
        ann = client(there, "Ann")
        watcher.until(only("Ann"))
        ann.vanish()
        leaving = f"{BASE}:leaving"
        while not presence._running().store.node.ask(_Raw("ZCARD", leaving)):  # type: ignore[attr-defined]
            pass
        again = client(here, "Ann")
        bob = client(there, "Bob")
        watcher.until(only("Ann", "Bob"))
        again.send("41")
        bob.send("41")
        watcher.until(only())
        seen = watcher.saw()
        assert seen[:2] == [("join", "Ann"), ("join", "Bob")]
        assert sorted(seen[2:]) == [("leave", "Ann"), ("leave", "Bob")]

    def test_each_change_is_signalled_once_in_all_processes(
        self, here: Site, run: Run, journal: Journal
    ) -> None:
        there = run()

        def record(sender: Any, key: str, metas: Any, **extra: Any) -> None:
            journal.append(key)

        for stage in (presence.joined, presence.left):
            stage.connect(record)
        watcher = Watcher(here)
        one, two = client(here, "Ann"), client(there, "Bob")
        watcher.until(only("Ann", "Bob"))
        one.send("41")
        two.send("41")
        watcher.until(only())
        assert journal.wait(lambda journal: len(journal) == 2) == ["Ann", "Ann"]
        assert there.said("joined", "left") == ["joined room Bob", "left room Bob"]
        for stage in (presence.joined, presence.left):
            stage.disconnect(record)

    def test_a_server_that_stops_gives_its_clients_time_to_come_back(
        self, here: Site, run: Run
    ) -> None:
        there = run(grace=60.0)
        watcher = Watcher(here)
        client(there, "Ann")
        watcher.until(only("Ann"))
        there.stop()
        assert presence.members("room") == {"Ann": [{}]}
        again = client(here, "Ann")
        again.send("41")
        watcher.until(only())
        assert watcher.saw() == [("join", "Ann"), ("leave", "Ann")]


class _Raw:
    """A plain command, where a call is expected."""

    def __init__(self, *words: Any) -> None:
        self._words = words

    def words(self, whole: bool = False) -> Any:
        return self._words


class TestFaults:
    def test_kill_9(self, here: Site, run: Run, redis: RedisServer) -> None:
        there = run(MORTAL)
        watcher = Watcher(here)
        client(there, "Ann")
        client(there, "Bob")
        watcher.until(only("Ann", "Bob"))
        there.kill()
        watcher.until(only())
        # Nothing more to be swept, and nobody left twice.
        assert redis.ask("KEYS", f"{BASE}:node:*") == []
        assert redis.ask("ZCARD", f"{BASE}:nodes") == 1
        assert sorted(watcher.saw()) == [
            *(("join", "Ann"), ("join", "Bob"), ("leave", "Ann"), ("leave", "Bob")),
        ]
        assert _leaves(redis) == ["Ann", "Bob"]

    def test_the_longest_time_until_everybody_knows(self) -> None:
        assert Intervals().longest(grace=10.0) == 26.0
        assert Intervals().heartbeat * 2 < Intervals().lease

    def test_a_process_that_stood_still(self, run: Run) -> None:
        here, there = run(), run(MORTAL)
        watcher = Watcher(here)
        ann = client(there, "Ann")
        watcher.until(only("Ann"))
        before = answer(ann, "node")
        there.process.popen.send_signal(signal.SIGSTOP)
        watcher.until(only())
        there.process.popen.send_signal(signal.SIGCONT)
        watcher.until(only("Ann"))
        assert watcher.saw() == [("join", "Ann"), ("leave", "Ann"), ("join", "Ann")]
        assert answer(ann, "node") != before
        ann.send("41")
        watcher.until(only())
        assert here.said("left") == ["left room Ann"]
        assert there.said("joined", "left") == [
            "joined room Ann",
            "joined room Ann",
            "left room Ann",
        ]

    def test_a_process_that_comes_back_within_the_grace(self, run: Run, redis: RedisServer) -> None:
        here, there = run(grace=60.0), run(MORTAL, grace=60.0)
        watcher = Watcher(here)
        ann = client(there, "Ann")
        watcher.until(only("Ann"))
        before = answer(ann, "node")
        there.process.popen.send_signal(signal.SIGSTOP)
        while not redis.ask("ZCARD", f"{BASE}:leaving"):
            gevent.sleep(0.01)
        there.process.popen.send_signal(signal.SIGCONT)
        while redis.ask("ZCARD", f"{BASE}:leaving"):
            gevent.sleep(0.01)
        assert answer(ann, "node") != before
        client(here, "end")
        watcher.until(only("Ann", "end"))
        assert watcher.saw() == [("join", "Ann"), ("join", "end")]

    def test_the_sweeper_dies_half_way(self, run: Run, redis: RedisServer) -> None:
        victim = run(MORTAL)
        names = [f"key {number}" for number in range(6)]
        for name in names:
            client(victim, name)
        sweeper = run(MORTAL, DIES="1")
        victim.kill()
        winner = sweeper.wait_for("HALFWAY")
        for claim in redis.ask("KEYS", f"{BASE}:claim:*"):  # until it runs out
            assert redis.ask("GET", claim) in (winner.encode(), None)
        sweeper.process.popen.wait()
        assert redis.ask("ZCARD", f"{BASE}:leaving") < 6  # the others are still to be taken over
        last = run()
        Watcher(last).until(only())
        assert _leaves(redis) == names
        while redis.ask("ZCARD", f"{BASE}:nodes") > 1:
            gevent.sleep(0.01)
        assert sorted(last.said("left")) == [f"left room {name}" for name in names]

    def test_exactly_one_sweeps(self, run: Run, redis: RedisServer) -> None:
        victim, others = run(MORTAL), [run() for _ in range(3)]
        names = [f"key {number}" for number in range(20)]
        for name in names:
            client(victim, name)
        watcher = Watcher(others[0]).until(only(*names))
        victim.kill()
        watcher.until(only())
        assert _leaves(redis) == sorted(names)
        told = [line for other in others for line in other.said("left")]
        assert sorted(told) == sorted(f"left room {name}" for name in names)

    @pytest.mark.parametrize("kept", [True, False], ids=["with its data", "without its data"])
    def test_redis_is_restarted(self, kept: bool, run: Run, redis: RedisServer) -> None:
        if kept:
            redis.keep()
        here, there = run(), run()
        watcher = Watcher(here)
        ann, gone = client(there, "Ann"), client(there, "gone")
        watcher.until(only("Ann", "gone"))
        epoch = watcher.epoch
        redis.stop()
        gone.send("41")  # while nobody can be told
        new = client(here, "new")
        assert answer(ann, "members") == "BackplaneError"
        redis.start()
        watcher.until(lambda members: watcher.epoch != epoch and only("Ann", "new")(members))
        assert answer(ann, "members") == {"Ann": [{}], "new": [{}]}
        for one in (ann, new):
            one.send("41")
        watcher.until(only())
        assert ("leave", "Ann") in watcher.saw()
        # Ann was there all the time: nobody is told that she came once more.
        assert there.said("joined").count("joined room Ann") == 1
        assert here.said("joined") == ["joined room new"]

    def test_redis_is_emptied_while_it_runs(self, here: Site, run: Run, redis: RedisServer) -> None:
        there = run()
        watcher = Watcher(here, "Bob")
        client(there, "Ann")
        watcher.until(only("Ann", "Bob"))
        epoch = watcher.epoch
        redis.ask("FLUSHALL")
        client(there, "Eve")
        watcher.until(lambda members: watcher.epoch != epoch and only("Ann", "Bob", "Eve")(members))
        while presence.count("room") < 3:
            pass
        assert presence.members("room") == {"Ann": [{}], "Bob": [{}], "Eve": [{}]}

    @pytest.mark.parametrize("which", ["normal", "pubsub"])
    def test_client_kill(self, which: str, here: Site, run: Run, redis: RedisServer) -> None:
        there = run()
        watcher = Watcher(here)
        one = client(there, "Ann")
        watcher.until(only("Ann"))
        epoch = watcher.epoch
        for _ in range(3):
            redis.ask("CLIENT", "KILL", "TYPE", which, "SKIPME", "yes")
            client(there, "Bob").send("41")
        one.send("41")
        client(there, "end")
        watcher.until(only("end"))
        assert watcher.epoch == epoch
        assert watcher.saw().count(("leave", "Ann")) == 1

    def test_while_redis_is_away_nothing_waits_for_it(
        self, redis: RedisServer, serve: Callable[..., Site], stages: Journal
    ) -> None:
        redis.stop()
        site = serve(plugins=[PLUGIN], backplane=redis.url, presence_key=by_name)
        ann = client(site, "Ann")
        for function in (presence.members, presence.count):
            with pytest.raises(BackplaneError, match=str(redis.port)):
                function("room")
        ann.emit("presence_state", "room", ack=5)
        assert ann.receive() == '435[{"ok":false,"error":"not known yet: it will be told"}]'
        redis.start()
        event, state = ann.event()
        assert (event, state["members"]) == ("presence_state", {"Ann": [{}]})
        assert ("subscribe", "room") in stages

    def test_redis_stands_still(
        self, here: Site, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann = Watcher(here, "Ann").until(only("Ann"))
        monkeypatch.setattr(tracker, "TIMEOUT", 1.0)
        monkeypatch.setattr("webpy_socketio.backplane.subscriber.CONFIRM_TIMEOUT", 1.0)
        assert redis.process is not None
        redis.process.popen.send_signal(signal.SIGSTOP)
        bob = here.connect('{"name": "Bob"}')
        with pytest.raises(BackplaneError, match=r"1\.0 s"):
            presence.members("room")
        redis.process.popen.send_signal(signal.SIGCONT)
        bob.emit("__subscribe__", "room")
        ann.until(only("Ann", "Bob"))

    def test_connections_that_are_dead_without_a_word(
        self,
        redis: RedisServer,
        run: Run,
        serve: Callable[..., Site],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tracker, "READ_TIMEOUT", 0.5)
        monkeypatch.setattr("webpy_socketio.plugins.presence.pubsub.READ_TIMEOUT", 0.5)
        monkeypatch.setattr("webpy_socketio.plugins.presence.pubsub.PING_INTERVAL", 0.1)
        proxy = Proxy(redis.port)
        site = serve(
            plugins=[PLUGIN], backplane=f"redis://127.0.0.1:{proxy.port}", presence_key=by_name
        )
        there = run()
        ann = Watcher(site, "Ann").until(only("Ann"))
        proxy.everything(Link.black_hole)
        client(there, "Bob")
        ann.until(only("Ann", "Bob"))
        site.server.stop()
        proxy.close()


def _leaves(redis: RedisServer) -> list[str]:
    """Who has left the room, as often as it was told."""
    entries = redis.ask("XRANGE", f"{BASE}:diffs:/,room", "-", "+")
    diffs = [json.loads(fields[b"diff"]) for _, fields in entries]
    return sorted(diff["key"] for diff in diffs if not diff["after"])


class TestLostData:
    """After Redis lost data no client and no caller gets a list that lacks members who are there."""

    TIMES = replace(TIMES, settle=4.0)
    NAMES = frozenset({"Ann", "Bob", "Joe"})

    @pytest.mark.parametrize("how", ["restarted", "restarted with old data", "emptied"])
    def test_state_after_redis_lost_data_has_all_members(
        self, how: str, run: Run, redis: RedisServer
    ) -> None:
        servers = [run(self.TIMES, grace=60.0) for _ in range(3)]
        watchers = [Watcher(servers[0], "Ann").until(only("Ann"))]
        if how == "restarted with old data":
            redis.ask("SAVE")
        watchers += [Watcher(servers[1], "Bob"), Watcher(servers[2], "Joe")]
        for watcher in watchers:
            watcher.until(only(*self.NAMES)).states.clear()
        epoch = watchers[0].epoch
        asker = servers[0].connect()
        bystander = servers[1].connect()
        slow = servers[2].process.popen
        slow.send_signal(signal.SIGSTOP)  # it comes back last
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
        new = gevent.spawn(lambda: Watcher(run(self.TIMES, grace=60.0), "new"))
        stranger = gevent.spawn(TestStranger().ask, "plain", redis.url)
        for client in (asker, bystander):
            assert set(answer(client, "members")) >= self.NAMES
        slow.send_signal(signal.SIGCONT)
        for watcher in (*watchers, late.get(), new.get()):
            watcher.until(only(*self.NAMES, "late", "new"))
            assert watcher.epoch != epoch
            assert watcher.states
            assert all(names >= self.NAMES for names in watcher.states)
            assert not {("leave", name) for name in self.NAMES} & set(watcher.saw())
        assert all(name in stranger.get()[0] for name in self.NAMES)
        for server in servers:
            assert server.said("left") == []

    def test_first_start_on_an_empty_redis_waits_only_if_redis_has_just_started(
        self, redis: RedisServer, keep: Keep
    ) -> None:
        one = keep(replace(TIMES, settle=2.0))
        one.store.join(ROOM, "0", "Ann", {})
        assert one.store.ask(ROOM).members == {"Ann": [{}]}
        assert redis.ask("INFO", "server")["uptime_in_seconds"] >= 1
        two = Kept(redis.url, secrets.token_hex(4), replace(TIMES, settle=1.0))
        life = f"{two.store._names.base}:life"
        while not redis.ask("EXISTS", life):
            gevent.sleep(0.01)
        assert redis.ask("GET", life).endswith(b":0")
        two.store.close()

    def test_subscriber_during_an_outage_gets_the_state_afterwards(
        self, run: Run, redis: RedisServer
    ) -> None:
        redis.keep()
        here, there = (run(replace(TIMES, settle=2.0)) for _ in range(2))
        watchers = [Watcher(here, "Ann"), Watcher(there, "Bob")]
        for watcher in watchers:
            watcher.until(only("Ann", "Bob")).states.clear()
        redis.stop()
        late = gevent.spawn(Watcher, here, "late")
        client(there, "Joe")
        redis.start()
        assert late.get().states[0] == {"Ann", "Bob", "Joe", "late"}
        for watcher in (*watchers, late.get()):
            watcher.until(only("Ann", "Bob", "Joe", "late"))
            assert all(names >= {"Ann", "Bob"} for names in watcher.states)


class Kept:
    """A store in Redis, a node of its own, and what it told."""

    def __init__(self, url: str, prefix: str, times: Intervals, grace: float = 10.0) -> None:
        self.told = Journal()
        self.replayed: dict[str, Any] = {}
        self.moved = gevent.event.Event()
        self.store = RedisStore(url, prefix, self, grace, times)

    def on_local_change(self, change: Change) -> None:
        self.told.append(change)

    def on_change(self, change: Change) -> None:
        assert self.replayed.get(change.key, []) == change.before
        self.replayed[change.key] = change.after
        if not change.after:
            del self.replayed[change.key]
        self.moved.set()

    def on_reset(self, channel: Channel) -> None:
        state = self.store.state(channel)
        assert state is not None
        self.replayed = dict(state.members)
        self.moved.set()

    def wait(self, condition: Callable[[State], bool]) -> None:
        """Until what it knows of the room without asking is so."""
        while (state := self.store.state(ROOM)) is None or not condition(state):
            self.moved.clear()
            self.moved.wait()
        assert self.replayed == state.members


@pytest.fixture
def keep(redis: RedisServer) -> Iterator[Callable[..., Kept]]:
    """Make a store of an application of its own; another one of the same is another node."""
    kept: list[Kept] = []
    prefix = secrets.token_hex(4)

    def make(times: Intervals = TIMES, grace: float = 10.0, url: str = redis.url) -> Kept:
        kept.append(Kept(url, prefix, times, grace))
        return kept[-1]

    yield make
    for one in kept:
        one.store.close()


Keep = Callable[..., Kept]


class TestRevisions:
    STEP = st.tuples(
        st.integers(0, 1),  # which node
        st.integers(0, 4),  # which connection
        st.sampled_from(["join a", "join b", "meta", "leave", "vanish"]),
    )

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(steps=st.lists(STEP, max_size=30))
    def test_the_diffs_replayed_are_the_state_at_every_revision(
        self, steps: list[tuple[int, int, str]], redis: RedisServer
    ) -> None:
        prefix = secrets.token_hex(4)
        nodes = [Kept(redis.url, prefix, Intervals(), grace=60.0) for _ in range(2)]
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
            state = store.ask(ROOM)
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

    def test_who_missed_some_catches_up_by_the_stream(
        self, keep: Keep, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webpy_socketio.plugins.presence.pubsub.INTERVAL", 0.01)
        one, two = keep(), keep()
        one.store.watch(ROOM, "watcher")
        two.store.join(ROOM, "0", "Ann", {})
        one.wait(lambda state: state.rev == 1)
        renewals = []
        monkeypatch.setattr(one, "on_reset", renewals.append)
        for number in range(20):
            redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
            two.store.join(ROOM, "0", "Ann", {"n": number})
            one.wait(lambda state, rev=number + 2: state.rev == rev)
        assert renewals == []  # nothing but diffs

    def test_who_missed_too_many_gets_the_state(
        self, keep: Keep, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = keep(), keep()
        one.store.watch(ROOM, "watcher")
        two.store.join(ROOM, "0", "Ann", {})
        one.wait(lambda state: state.rev == 1)
        one.store._ear.unsubscribe(one.store._topic(ROOM))
        while redis.ask("PUBSUB", "NUMSUB", one.store._topic(ROOM))[1]:
            gevent.sleep(0.01)
        for number in range(1000):
            two.store.join(ROOM, "0", "Ann", {"n": number})
        two.store.ask(ROOM)
        assert redis.ask("XLEN", one.store._topic(ROOM)) < 500  # the stream has a limit
        one.store._ear.subscribe(one.store._topic(ROOM))
        one.wait(lambda state: state.rev == 1001)
        assert one.replayed == {"Ann": [{"n": 999}]}

    def test_an_empty_channel_is_forgotten_in_the_end(self, keep: Keep, redis: RedisServer) -> None:
        one = keep()
        position = one.store._names.of("position", "/,room")
        one.store.join(ROOM, "1", "Ann", {})
        assert one.store.counts([ROOM]) == [1]
        assert redis.ask("TTL", position) == -1
        one.store.leave(ROOM, "1", 0.0)
        assert one.store.counts([ROOM]) == [0]
        for key in (position, one.store._topic(ROOM)):
            assert 0 < redis.ask("TTL", key) <= 3600
        one.store.join(ROOM, "1", "Ann", {})
        assert one.store.ask(ROOM).rev == 3
        for key in (position, one.store._topic(ROOM)):
            assert redis.ask("TTL", key) == -1

    def test_reading_makes_nothing(self, keep: Keep, redis: RedisServer) -> None:
        one = keep()
        one.store.watch(("/", "nobody"), "watcher")
        for number in range(50):
            assert one.store.ask(("/", f"room {number}")) == State("", 0, {})
        assert len(redis.ask("KEYS", "*")) == 2  # the node's lease, and Redis's life


class TestRest:
    def test_no_write_for_a_connection_that_changes_nothing(
        self, keep: Keep, redis: RedisServer
    ) -> None:
        one = keep(Intervals(heartbeat=0.1, lease=30.0, sweep=0.05, reconcile=0.2, settle=0.1))
        other = keep(Intervals(heartbeat=0.1, lease=30.0, sweep=0.05, reconcile=0.2, settle=0.1))
        other.store.watch(ROOM, "watcher")
        for number in range(100):
            one.store.join(ROOM, str(number), f"key {number}", {"n": number})
        other.wait(lambda state: len(state.members) == 100)
        assert one.store.ask(ROOM)
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


#: What reads, and what runs scripts.
_READS = {
    *("EVALSHA", "TIME", "GET", "ZSCORE", "ZRANGEBYSCORE", "HMGET", "SSCAN", "XRANGE", "EXISTS"),
    *("PING", "HGETALL"),
}


class TestRepair:
    """Once a minute, here more often: what a node holds, and what Redis holds."""

    QUICK = replace(TIMES, reconcile=0.1, settle=0.1)

    @pytest.mark.parametrize("nouns", [["connections"], ["keys"], ["keys", "connections"]])
    def test_what_redis_lost(self, nouns: list[str], keep: Keep, redis: RedisServer) -> None:
        one = keep(self.QUICK)
        for number in range(3):
            one.store.join(ROOM, str(number), f"key {number}", {})
        assert one.store.counts([ROOM]) == [3]
        names = one.store._names
        redis.ask("DEL", *(names.of(noun, "/,room") for noun in nouns))
        expected = {f"key {number}": [{}] for number in range(3)}
        while one.store.ask(ROOM).members != expected:
            pass

    def test_what_redis_did_not_lose(self, keep: Keep, redis: RedisServer) -> None:
        one = keep(self.QUICK)
        one.store.watch(ROOM, "watcher")
        one.store.join(ROOM, "1", "Ann", {})
        one.store.join(ROOM, "2", "ghost", {})
        one.wait(lambda state: len(state.members) == 2)
        del one.store._here[ROOM, "2"]
        one.wait(lambda state: set(state.members) == {"Ann"})

    def test_who_waits_to_leave_is_not_hurried(self, keep: Keep, redis: RedisServer) -> None:
        one = keep(self.QUICK)
        one.store.join(ROOM, "1", "Ann", {})
        one.store.leave(ROOM, "1", 60.0)
        before = _calls(redis, "sscan")
        while _calls(redis, "sscan") < before + 3:
            gevent.sleep(0.01)
        assert one.store.ask(ROOM).members == {"Ann": [{}]}

    def test_what_was_missed_without_a_trace(self, keep: Keep) -> None:
        one, two = keep(self.QUICK), keep()
        one.store.watch(ROOM, "watcher")
        two.store.join(ROOM, "1", "Ann", {})
        one.wait(lambda state: state.rev == 1)
        hear, one.store._ear._heard = one.store._ear._heard, lambda *message: None
        two.store.join(ROOM, "2", "Bob", {})
        one.wait(lambda state: state.rev == 2)
        one.store._ear._heard = hear

    def test_too_much_waits_while_redis_is_away(
        self, keep: Keep, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        monkeypatch.setattr(tracker, "MAX_WAITING", 5)
        one = keep()
        one.store.join(ROOM, "first", "first", {})
        assert one.store.ask(ROOM)
        redis.stop()
        one.store.leave(ROOM, "first", 0.0)
        for number in range(50):
            one.store.join(ROOM, str(number), f"key {number}", {})
            assert len(one.store.node._tasks) <= 5
        redis.start()
        monkeypatch.undo()
        one.told.wait(lambda told: len(told) == 51)
        assert len(one.store.ask(ROOM).members) == 50
        assert "compared" in caplog.text

    def test_redis_forgets_the_scripts(self, keep: Keep, redis: RedisServer) -> None:
        one = keep()
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
        self, noun: str, what: str | None, kind: str, keep: Keep, redis: RedisServer, caplog: Any
    ) -> None:
        one, two = keep(self.QUICK), keep(self.QUICK)
        two.store.watch(ROOM, "watcher")
        one.store.join(ROOM, "1", "Ann", {})
        one.store.leave(ROOM, "1", 60.0)
        one.store.join(ROOM, "2", "Bob", {})
        one.store.join(("/", "other"), "2", "Bob", {})
        two.wait(lambda state: set(state.members) == {"Ann", "Bob"})
        what = one.store.node.id if what == "" else what
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
        while not {"Bob", "Eve"} <= set(one.store.ask(ROOM).members):
            gevent.sleep(0.01)
        while set(one.store.ask(("/", "other")).members) != {"Bob", "Eve"}:
            gevent.sleep(0.01)
        one.store.leave(ROOM, "2", 0.0)
        two.wait(lambda state: "Bob" not in state.members)
        while redis.ask("SCARD", f"{one.store._names.base}:node:{one.store.node.id}") != 3:
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
    def test_member_that_is_malformed_is_removed_and_written_again(
        self, value: bytes, keep: Keep, redis: RedisServer, caplog: Any
    ) -> None:
        one, two = keep(self.QUICK), keep(self.QUICK)
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
        while two.store.ask(ROOM).members != expected or two.store.counts([ROOM]) != [3]:
            gevent.sleep(0.01)
        while redis.ask("HLEN", connections) != 3:  # the repair follows the answer
            gevent.sleep(0.01)
        two.wait(lambda state: state.members == expected)
        assert "skipped or removed" in caplog.text
        assert "SOCKETIO_BACKPLANE_PREFIX" in caplog.text
        assert len(caplog.records) < 10
        assert "reconnected" not in caplog.text

    def test_published_messages_that_are_malformed_are_ignored(
        self, keep: Keep, redis: RedisServer, caplog: Any
    ) -> None:
        one, two = keep(), keep()
        two.store.watch(ROOM, "watcher")
        one.store.join(ROOM, "0", "Ann", {})
        two.wait(lambda state: set(state.members) == {"Ann"})
        topic = one.store._topic(ROOM)
        epoch = one.store.ask(ROOM).epoch
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
        # Well-formed, but not the next one: the state is read.
        redis.ask("PUBLISH", topic, json.dumps({**good, "rev": 2**62}))
        one.store.join(ROOM, "1", "Bob", {})
        two.wait(lambda state: set(state.members) == {"Ann", "Bob"})
        assert (
            len([record for record in caplog.records if "published message" in record.message]) == 1
        )
        assert "could not be read" not in caplog.text

    def test_entries_that_are_malformed_in_sets_and_stream_stop_nothing(
        self, run: Run, keep: Keep, redis: RedisServer, caplog: Any
    ) -> None:
        one, two = keep(self.QUICK), keep(self.QUICK)
        two.store.watch(ROOM, "watcher")
        one.store.join(ROOM, "0", "Ann", {})
        two.wait(lambda state: set(state.members) == {"Ann"})
        names = one.store._names
        for item in (b"", b"junk", b"\xff\n\xff", b"a\nb\nc", b"x" * 1_000_000):
            redis.ask("ZADD", f"{names.base}:leaving", 1, item)
            redis.ask("ZADD", f"{names.base}:nodes", 1, item)
            redis.ask("SADD", names.of("node", one.store.node.id), item)
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
        while redis.ask("SCARD", names.of("node", one.store.node.id)) != 1:
            gevent.sleep(0.01)
        assert redis.ask("ZCARD", f"{names.base}:leaving") == 0
        assert "reconnected" not in caplog.text


def _calls(redis: RedisServer, command: str) -> int:
    calls: int = redis.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]
    return calls


class TestSignals:
    def test_receivers_may_wait(self, keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
        one = keep()
        ready = gevent.event.Event()
        told: list[str] = []

        def made(change: Change) -> None:
            ready.wait()
            told.append(change.key)

        monkeypatch.setattr(one, "made", made)
        for name in "abc":
            one.store.join(ROOM, name, name, {})
        assert one.store.counts([ROOM]) == [3]
        ready.set()
        while len(told) < 3:
            gevent.sleep(0)
        assert told == ["a", "b", "c"]

    def test_slow_ones_are_not_waited_for_without_end(
        self, keep: Keep, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        monkeypatch.setattr("webpy_socketio.plugins.presence.redis.MAX_PENDING", 3)
        one = keep()
        ready = gevent.event.Event()
        monkeypatch.setattr(one, "made", lambda change: ready.wait())
        for number in range(10):
            one.store.join(ROOM, str(number), str(number), {})
        assert one.store.counts([ROOM]) == [10]
        assert len(one.store._pending) <= 3
        ready.set()
        assert [record for record in caplog.text.splitlines() if "left out" in record][1:] == []
        assert "left out" in caplog.text

    def test_the_hub_cannot_wait(self, keep: Keep) -> None:
        one = keep()
        raised = gevent.event.AsyncResult()

        def ask() -> None:
            try:
                one.store.ask(ROOM)
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

    def test_the_next_one_is_news(self) -> None:
        replica = self.current()
        verdicts = [replica.apply(self.change(rev)) for rev in (6, 6, 5, 7)]
        assert verdicts == [Verdict.APPLIED, Verdict.DUPLICATE, Verdict.DUPLICATE, Verdict.APPLIED]
        assert replica.state == State("e", 7, {"key 6": [{}], "key 7": [{}]})

    @pytest.mark.parametrize(("rev", "epoch"), [(7, "e"), (6, "f"), (1, "f")])
    def test_anything_else_is_a_gap(self, rev: int, epoch: str) -> None:
        replica = self.current()
        assert replica.apply(self.change(rev, epoch)) is Verdict.GAP
        assert replica.apply(self.change(8)) is Verdict.BUFFERED
        assert replica.state.rev == 5

    def test_what_was_heard_meanwhile_is_not_lost(self) -> None:
        replica = self.current()
        replica.apply(self.change(7))
        for rev in (8, 9):
            replica.apply(self.change(rev))
        missed = [self.change(rev) for rev in (6, 7, 8)]
        assert replica.sync(missed) == ([*missed, self.change(9)], False)

    def test_a_gap_in_what_was_heard_meanwhile(self) -> None:
        replica = self.current()
        replica.invalidate()
        for rev in (8, 10):
            replica.apply(self.change(rev))
        assert replica.sync([self.change(6), self.change(7)])[1]
        assert replica.state.rev == 8
        # A stray one of an epoch that is over ends as well.
        replica.apply(self.change(3, "old"))
        assert replica.sync([self.change(9), self.change(10)])[1]
        assert replica.sync([]) == ([], False)

    def test_more_than_can_wait_is_a_gap(self) -> None:
        replica = self.current()
        replica.invalidate()
        for rev in range(6, 8 + MAX_WAITING):
            replica.apply(self.change(rev))
        news, gap = replica.sync([])
        assert (len(news), gap) == (MAX_WAITING, True)

    def test_an_answer_that_was_overtaken(self) -> None:
        replica = self.current()
        assert not replica.replace(State("e", 4, {"old": [{}]}))
        assert replica.replace(State("f", 1, {"new": [{}]}))

    def test_who_left_is_gone(self) -> None:
        replica = self.current()
        replica.apply(self.change(6))
        replica.apply(Change(ROOM, "e", 7, "key 6", [{}], []))
        assert replica.members == {}


STRANGER = """
import sys
if "patched" in sys.argv:
    from gevent import monkey; monkey.patch_all()
from webpy_socketio import *
from webpy_socketio.plugins import presence
if len(sys.argv) > 2:
    configure({"SOCKETIO_BACKPLANE": sys.argv[2], "SOCKETIO_PRESENCE_GRACE": 0})
try:
    print(presence.members("room"), presence.count("room"))
except SocketIOError as error:
    print(type(error).__name__)
try:
    presence.track(None, "room", "Ann")
except ConfigurationError:
    print("no server")
"""


class TestStranger:
    """A process without a server."""

    def ask(self, *args: str) -> list[str]:
        command = [sys.executable, "-W", "error", "-c", STRANGER, *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    @pytest.mark.parametrize("how", ["patched", "plain"])
    def test_it_may_ask(self, how: str, here: Site, redis: RedisServer) -> None:
        Watcher(here, "Ann").until(only("Ann"))
        assert self.ask(how, redis.url) == ["{'Ann': [{}]} 1", "no server"]

    def test_the_dead_do_not_count(self, run: Run, redis: RedisServer) -> None:
        there = run(MORTAL, grace=0.1)
        Watcher(there, "Ann").until(only("Ann"))
        there.kill()
        while self.ask("plain", redis.url) != ["{} 0", "no server"]:
            pass

    def test_redis_is_away(self, redis: RedisServer) -> None:
        redis.stop()
        assert self.ask("plain", redis.url) == ["BackplaneError", "no server"]

    def test_there_is_no_redis(self) -> None:
        assert self.ask("plain") == ["ConfigurationError", "no server"]

    def test_without_the_setting_nothing_of_redis_is_imported(self) -> None:
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
