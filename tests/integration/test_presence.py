"""Presence plugin: members of a channel, signals, and the events sent to clients."""

from __future__ import annotations

import copy
import json
import logging
import random
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from tests.conftest import Journal, Site, socket_of
from tests.redis_server import extend_redis_timeouts
from webpy_socketio import (
    ChannelError,
    ConfigurationError,
    EncodeError,
    Runtime,
    on_connect,
    on_subscribe,
)
from webpy_socketio.plugins import presence
from webpy_socketio.plugins.presence import diffs
from webpy_socketio.plugins.presence.memory import MemoryStore
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.redis import RedisStore
from webpy_socketio.plugins.presence.store import Change, Channel, Listener, State, Store
from webpy_socketio.runtime import default_runtime

PLUGIN = "webpy_socketio.plugins.presence"
ROOM = ("/", "room")
OTHER = ("/", "other")

# -- stores

STORES = ["memory", "redis"]


class RecordingStore:
    """A store that records its changes."""

    def __init__(self, make: Callable[[Listener], Store]) -> None:
        self.changes = Journal()
        self.rev = 0
        self.store = make(self)

    # -- interface of the listener

    def on_local_change(self, change: Change) -> None:
        if change.channel == ROOM:
            self.rev = change.rev
        self.changes.append(change)

    def on_change(self, change: Change) -> None:
        pass

    def on_reset(self, channel: Channel) -> None:
        pass

    # -- helpers for tests

    def join(self, connection: str, key: str, **meta: Any) -> None:
        self.store.join(ROOM, connection, key, meta)

    def leave(self, connection: str, grace: float = 0.0) -> None:
        self.store.leave(ROOM, connection, grace)

    @property
    def state(self) -> State:
        """Return the state after all changes were reported."""
        state = self.store.fetch(ROOM)
        if self.store.lasting:  # MemoryStore reports at once
            self.changes.wait(lambda _: self.rev >= state.rev)
        return state

    @property
    def members(self) -> dict[str, Any]:
        return self.state.members

    def reported(self) -> list[tuple[str, Any, Any]]:
        """Return the changes reported since the last call."""
        assert self.state
        reported = [(change.key, change.before, change.after) for change in self.changes]
        self.changes.clear()
        return reported


@pytest.fixture(autouse=True)
def _no_receivers_left() -> Iterator[None]:
    yield
    for signal in (presence.joined, presence.updated, presence.left):
        signal._clear_state()


@pytest.fixture(params=STORES)
def make(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Listener], Store]:
    """Return a function that creates a store; in Redis, each with its own prefix."""
    if request.param == "memory":
        return MemoryStore
    extend_redis_timeouts(monkeypatch)
    url, prefix = request.getfixturevalue("shared_redis").url, secrets.token_hex(4)
    intervals = Intervals(sweep=0.02, settle=0.1)
    return lambda listener: RedisStore(url, prefix, listener, 10.0, intervals)


@pytest.fixture
def recording(make: Callable[[Listener], Store]) -> Iterator[RecordingStore]:
    recording = RecordingStore(make)
    yield recording
    recording.store.close()


class TestStore:
    def test_first_connection_joins_further_update_and_last_leaves(
        self, recording: RecordingStore
    ) -> None:
        recording.join("1", "Ann", tab=1)
        recording.join("2", "Ann", tab=2)
        recording.leave("1")
        recording.leave("2")
        assert recording.reported() == [
            ("Ann", [], [{"tab": 1}]),
            ("Ann", [{"tab": 1}], [{"tab": 1}, {"tab": 2}]),
            ("Ann", [{"tab": 1}, {"tab": 2}], [{"tab": 2}]),
            ("Ann", [{"tab": 2}], []),
        ]
        assert recording.members == {}

    def test_every_change_increments_the_revision(self, recording: RecordingStore) -> None:
        for number in range(5):
            recording.join(str(number), f"key {number}")
        recording.leave("3")
        state = recording.state
        revisions = [change.rev for change in recording.changes]
        assert revisions == list(range(revisions[0], revisions[0] + 6))
        assert state.rev == revisions[-1]
        assert {change.epoch for change in recording.changes} == {state.epoch}

    def test_empty_channel_does_not_reuse_revisions(self, recording: RecordingStore) -> None:
        for _ in range(3):
            recording.join("1", "Ann")
            recording.leave("1")
        state = recording.state
        revisions = [change.rev for change in recording.changes]
        assert len(revisions) == 6
        assert revisions == sorted(set(revisions))
        assert state.rev == revisions[-1]

    def test_repeated_join_reports_no_change(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann", a=1)
        recording.reported()
        recording.join("1", "Ann", a=1)
        recording.leave("unknown")
        recording.store.leave(OTHER, "1", 0.0)
        assert recording.reported() == []

    def test_changed_meta_is_an_update(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann", a=1)
        recording.join("2", "Ann")
        recording.reported()
        recording.join("1", "Ann", a=2)
        assert recording.reported() == [("Ann", [{"a": 1}, {}], [{"a": 2}, {}])]

    def test_changed_key_is_a_leave_and_a_join(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        recording.reported()
        recording.join("1", "Bob")
        assert recording.reported() == [("Ann", [{}], []), ("Bob", [], [{}])]
        assert recording.members == {"Bob": [{}]}
        assert recording.state.rev == 3

    def test_channels_are_independent(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        recording.store.join(OTHER, "1", "Ann", {})
        recording.store.join(("/chat", "room"), "1", "Bob", {})
        recording.leave("1")
        assert recording.members == {}
        assert recording.store.fetch(OTHER).members == {"Ann": [{}]}
        assert recording.store.fetch(("/chat", "room")).members == {"Bob": [{}]}
        assert recording.store.counts([ROOM, OTHER]) == [0, 1]

    def test_counts_of_many_channels(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        recording.join("2", "Ann")
        recording.join("3", "Bob")
        recording.store.join(OTHER, "1", "Ann", {})
        empty = [("/", f"empty {number}") for number in range(9_000)]
        assert recording.store.counts([ROOM, *empty, OTHER]) == [2, *[0] * 9_000, 1]
        assert recording.store.counts([]) == []

    def test_leave_with_grace_keeps_the_member(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        recording.reported()
        recording.leave("1", 60)
        assert recording.members == {"Ann": [{}]}
        assert recording.reported() == []

    def test_leave_after_grace_removes_the_member(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        recording.reported()
        recording.leave("1", 0.02)
        recording.changes.wait(len)
        assert recording.reported() == [("Ann", [{}], [])]
        assert recording.members == {}

    def test_rejoin_with_the_same_key_replaces_the_leaving_connection(
        self, recording: RecordingStore
    ) -> None:
        recording.join("1", "Ann", name="A")
        recording.reported()
        recording.leave("1", 60)
        recording.join("2", "Ann", name="A")
        assert recording.reported() == []
        assert recording.members == {"Ann": [{"name": "A"}]}
        recording.leave("2")
        assert recording.reported() == [("Ann", [{"name": "A"}], [])]

    def test_rejoin_replaces_one_leaving_connection_only(self, recording: RecordingStore) -> None:
        for connection in ("1", "2"):
            recording.join(connection, "Ann")
        for connection in ("1", "2"):
            recording.leave(connection, 60)
        recording.join("3", "Ann")
        assert len(recording.members["Ann"]) == 2

    def test_join_with_another_key_replaces_no_leaving_connection(
        self, recording: RecordingStore
    ) -> None:
        recording.join("1", "Ann")
        recording.leave("1", 60)
        recording.join("2", "Bob")
        assert recording.members == {"Ann": [{}], "Bob": [{}]}

    def test_repeated_leave_reports_one_change(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        recording.reported()
        recording.leave("1", 0.01)
        recording.leave("1", 60)
        recording.changes.wait(len)
        recording.leave("1")
        assert recording.state
        assert recording.reported() == [("Ann", [{}], [])]

    def test_update_replaces_no_leaving_connection(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        recording.join("2", "Ann")
        recording.leave("1", 60)
        recording.join("2", "Ann", typing=True)
        assert recording.members == {"Ann": [{}, {"typing": True}]}

    def test_is_present_for_connections_of_this_store_only(self, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        assert recording.store.is_present(ROOM, "1")
        assert not recording.store.is_present(OTHER, "1")
        recording.leave("1", 0.0)
        assert not recording.store.is_present(ROOM, "1")

    @pytest.mark.parametrize("key", ["", "a\nb", "\0", "žluť", '/:,\\"', "x" * 1000])
    def test_key_may_be_any_text(self, key: str, recording: RecordingStore) -> None:
        recording.join("1", key, text="\n\0\\ž\u2028", nothing={}, none=[], big=2**60, half=0.1)
        recording.join("2", key + "\n")
        meta = {"text": "\n\0\\ž\u2028", "nothing": {}, "none": [], "big": 2**60, "half": 0.1}
        assert recording.members == {key: [meta], key + "\n": [{}]}
        assert recording.reported() == [(key, [], [meta]), (key + "\n", [], [{}])]
        recording.leave("1")
        assert recording.members == {key + "\n": [{}]}

    @pytest.mark.parametrize("name", ["a:b", "a,b", "*", "/,room", "room "])
    def test_channel_names_do_not_collide(self, name: str, recording: RecordingStore) -> None:
        recording.join("1", "Ann")
        recording.store.join(("/", name), "1", "Bob", {})
        assert recording.members == {"Ann": [{}]}
        assert recording.store.fetch(("/", name)).members == {"Bob": [{}]}

    def test_close_reports_no_changes(self) -> None:
        recording = RecordingStore(MemoryStore)
        recording.join("1", "Ann")
        recording.join("2", "Bob")
        recording.leave("1", 0.001)
        recording.reported()
        recording.store.close()
        assert recording.reported() == []
        assert recording.members == {}

    def test_each_memory_store_has_its_own_epoch(self) -> None:
        assert len({RecordingStore(MemoryStore).state.epoch for _ in range(10)}) == 10

    def test_replayed_changes_equal_the_state_at_every_revision(
        self, recording: RecordingStore
    ) -> None:
        random_ = random.Random(2)
        replayed: dict[str, Any] = {}
        rev = recording.state.rev
        for _ in range(2000):
            connection = str(random_.randrange(8))
            if random_.random() < 0.6:
                recording.join(connection, random_.choice("abc"), v=random_.randrange(3))
            else:
                recording.leave(connection, random_.choice([0.0, 60.0]))
            state = recording.state
            for change in recording.changes:
                assert change.rev > rev
                rev = change.rev
                assert replayed.get(change.key, []) == change.before
                replayed[change.key] = change.after
                if not change.after:
                    del replayed[change.key]
            recording.changes.clear()
            assert (state.rev, state.members) == (rev, replayed)


# -- clients


class Viewer:
    """A client that maintains the presence of a channel as documented."""

    def __init__(self, site: Site, name: str | None = None, channel: str = "room") -> None:
        self.client = site.connect(json.dumps({"name": name}) if name else "")
        self.channel = channel
        assert self.client.call("__subscribe__", channel) == [{"ok": True}]
        event, self.state = self.client.event()
        assert event == "presence_state"
        self.members: dict[str, Any] = self.state["members"]
        self.rev: int = self.state["rev"]

    def diff(self) -> dict[str, Any]:
        """Return the next diff, after applying it if it is the next one."""
        event, diff = self.client.event()
        assert event == "presence_diff"
        assert diff["channel"] == self.channel
        assert diff["epoch"] == self.state["epoch"]
        if diff["rev"] > self.rev:
            assert diff["since"] <= self.rev, "a gap"
            self.members.update(diff["joins"])
            self.members.update(diff["updates"])
            for key in diff["leaves"]:
                self.members.pop(key, None)
            self.rev = diff["rev"]
            assert diff["count"] == len(self.members)
        result: dict[str, Any] = diff
        return result

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Apply diffs until `condition` is true for the members."""
        while not condition(self.members):
            self.diff()
        return self.members

    def ask(self) -> Any:
        """Request the state, as after a gap; apply the diffs that arrive before it."""
        self.client.emit("presence_state", self.channel, ack=5)
        while True:
            packet = self.client.receive()
            assert isinstance(packet, str)
            if packet.startswith("435"):
                return json.loads(packet[3:])[0]


def by_name(request: Any, socket: Any, context: Any) -> str | None:
    name: str | None = (socket.auth or {}).get("name")
    return name


Serve = Callable[..., Site]


class TestPlugin:
    def test_default_key_is_the_session_id(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN])
        viewer = Viewer(site)
        assert viewer.state == {
            "channel": "room",
            "epoch": viewer.state["epoch"],
            "rev": 1,
            "count": 1,
            "members": {viewer.client.id: [{}]},
        }
        assert presence.members("room") == {viewer.client.id: [{}]}
        assert presence.count("room") == 1

    def test_key_and_meta_are_returned_by_the_settings(self, serve: Serve) -> None:
        @on_connect
        def connected(request: Any, socket: Any, context: Any) -> None:
            context["seat"] = 7

        def meta(request: Any, socket: Any, context: Any) -> dict[str, Any]:
            return {"from": request["REMOTE_ADDR"], "seat": context["seat"]}

        site = serve(plugins=[PLUGIN], presence_key=by_name, presence_meta=meta)
        viewer = Viewer(site, "Ann")
        assert viewer.members == {"Ann": [{"from": "127.0.0.1", "seat": 7}]}

    def test_socket_with_key_none_is_not_a_member_but_receives_events(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name)
        viewer = Viewer(site)
        assert (viewer.members, viewer.state["count"]) == ({}, 0)
        Viewer(site, "Ann")
        viewer.until(lambda members: members == {"Ann": [{}]})
        presence.track(socket_of(viewer.client), "room", "Eve", {"late": True})
        viewer.until(lambda members: members == {"Ann": [{}], "Eve": [{"late": True}]})

    def test_key_with_several_connections_is_one_member(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name)
        viewer = Viewer(site, "Bob")
        assert viewer.diff()["joins"] == {"Bob": [{}]}
        tabs = [Viewer(site, "Ann").client]
        assert viewer.diff()["joins"] == {"Ann": [{}]}
        tabs.append(Viewer(site, "Ann").client)
        diff = viewer.diff()
        assert (diff["joins"], diff["updates"], diff["leaves"]) == ({}, {"Ann": [{}, {}]}, {})
        assert presence.count("room") == 2
        tabs.pop().send("41")
        assert viewer.diff()["updates"] == {"Ann": [{}]}
        tabs.pop().send("41")
        diff = viewer.diff()
        assert (diff["joins"], diff["updates"], diff["leaves"]) == ({}, {}, {"Ann": [{}]})
        assert presence.members("room") == {"Bob": [{}]}

    def test_track_changes_key_and_meta(self, serve: Serve) -> None:
        viewer = Viewer(serve(plugins=[PLUGIN]))
        socket = socket_of(viewer.client)
        presence.track(socket, "room", "Ann", {"status": "typing"})
        viewer.until(lambda members: members == {"Ann": [{"status": "typing"}]})
        presence.track(socket, "room", "Ann")
        viewer.until(lambda members: members == {"Ann": [{}]})

    def test_track_copies_the_meta(self, serve: Serve) -> None:
        viewer = Viewer(serve(plugins=[PLUGIN]))
        meta: dict[str, Any] = {"status": {"now": "reading"}}
        presence.track(socket_of(viewer.client), "room", "Ann", meta)
        viewer.until(lambda members: members == {"Ann": [{"status": {"now": "reading"}}]})
        meta["status"]["now"] = "typing"
        presence.track(socket_of(viewer.client), "room", "Ann", meta)
        viewer.until(lambda members: members == {"Ann": [{"status": {"now": "typing"}}]})

    def test_untrack_removes_the_member_and_keeps_the_subscription(self, serve: Serve) -> None:
        viewer = Viewer(serve(plugins=[PLUGIN]))
        socket = socket_of(viewer.client)
        presence.untrack(socket, "room")
        presence.untrack(socket, "room")
        viewer.until(lambda members: members == {})
        assert socket.channels == ("room",)
        assert presence.count("room") == 0

    def test_namespaces_are_independent(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN], namespaces=["/", "/chat"])
        client = site.connect()
        other = client.connect(namespace="/chat,")["sid"]
        default_runtime.registry.find(other).subscribe("room")  # type: ignore[union-attr]
        assert presence.members("room") == {}
        assert presence.members("room", namespace="/chat") == {other: [{}]}
        packet = client.receive()
        assert isinstance(packet, str)
        assert packet.startswith('42/chat,["presence_state"')

    def test_state_is_sent_before_events_of_subscribe_handlers(self, serve: Serve) -> None:
        @on_subscribe
        def welcome(request: Any, socket: Any, context: Any, channel: str) -> None:
            socket.send(sorted(presence.members(channel)))

        # Registered before the plugin was installed, so it runs first.
        client = serve(plugins=[PLUGIN], presence_key=by_name).connect('{"name":"Ann"}')
        client.call("__subscribe__", "room")
        assert {client.event()[0], client.event()[0]} == {"message", "presence_state"}

    def test_uninstall_leaves_no_receivers_and_no_state(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN])
        Viewer(site)
        site.server.stop()
        with pytest.raises(ConfigurationError, match=r"webpy_socketio\.plugins\.presence"):
            presence.members("room")
        site = serve(plugins=[])
        client = site.connect()
        client.call("__subscribe__", "room")
        client.barrier()
        with pytest.raises(ConfigurationError, match="SOCKETIO_PLUGINS"):
            presence.track(socket_of(client), "room", "Ann")

    def test_restart_starts_a_new_epoch(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN])
        first = Viewer(site).state["epoch"]
        site.server.stop()
        assert Viewer(serve(plugins=[PLUGIN])).state["epoch"] != first


class TestErrors:
    def test_track_without_subscription_raises_channel_error(self, serve: Serve) -> None:
        client = serve(plugins=[PLUGIN]).connect()
        with pytest.raises(ChannelError, match="'room'"):
            presence.track(socket_of(client), "room", "Ann")

    @pytest.mark.parametrize(("key", "meta"), [(5, {}), (None, {}), ("Ann", "meta"), ("Ann", [1])])
    def test_track_with_invalid_types_raises_type_error(
        self, key: Any, meta: Any, serve: Serve
    ) -> None:
        viewer = Viewer(serve(plugins=[PLUGIN]))
        with pytest.raises(TypeError):
            presence.track(socket_of(viewer.client), "room", key, meta)

    @pytest.mark.parametrize(
        ("key", "meta"),
        [
            ("Ann", {"x": object()}),
            ("Ann", {"x": float("nan")}),
            ("Ann", {"x": b"bytes"}),
            ("Ann", {"x": "\ud800"}),
            ("Ann", {"x": "ž" * 33_000}),
            ("ž" * 33_000, {}),
            ("\udfff", {}),
        ],
    )
    def test_track_with_unserializable_meta_raises_encode_error(
        self, key: str, meta: Any, serve: Serve
    ) -> None:
        viewer = Viewer(serve(plugins=[PLUGIN]))
        before = presence.members("room")
        with pytest.raises(EncodeError):
            presence.track(socket_of(viewer.client), "room", key, meta)
        assert presence.members("room") == before

    def test_key_function_that_raises_sends_error(self, serve: Serve, stages: Journal) -> None:
        def key(request: Any, socket: Any, context: Any) -> str:
            raise ZeroDivisionError

        client = serve(plugins=[PLUGIN], presence_key=key).connect()
        assert client.call("__subscribe__", "room") == [{"ok": True}]
        stages.wait(lambda stages: stages[-1][0] == "error")
        assert presence.members("room") == {}

    def test_track_after_disconnect_is_ignored(self, serve: Serve, stages: Journal) -> None:
        socket = socket_of(Viewer(serve(plugins=[PLUGIN])).client)
        socket.disconnect()
        presence.track(socket, "room", "ghost")
        assert "ghost" not in presence.members("room")
        stages.wait_for(("finish", "server namespace disconnect"))
        assert presence.members("room") == {}


class TestEvents:
    def test_diff_contains_its_base_revision(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name)
        viewer = Viewer(site, "Ann")
        first = viewer.diff()
        assert first == {
            "channel": "room",
            "epoch": viewer.state["epoch"],
            "since": 0,
            "rev": 1,
            "count": 1,
            "joins": {"Ann": [{}]},
            "updates": {},
            "leaves": {},
        }
        Viewer(site, "Bob")
        second = viewer.diff()
        assert (second["since"], second["rev"], second["count"]) == (1, 2, 2)

    def test_changes_are_combined_into_one_diff(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name)
        viewer = Viewer(site)
        socket = socket_of(viewer.client)
        for number in range(50):
            presence.track(socket, "room", "Ann", {"number": number})
        diff = viewer.diff()
        assert diff["joins"] == {"Ann": [{"number": 49}]}
        assert (diff["rev"] - diff["since"], diff["updates"]) == (50, {})
        viewer.client.barrier()

    def test_key_that_joins_and_leaves_in_a_batch_is_reported_as_leave(self, serve: Serve) -> None:
        viewer = Viewer(serve(plugins=[PLUGIN], presence_key=by_name))
        socket = socket_of(viewer.client)
        presence.track(socket, "room", "Ann")
        presence.untrack(socket, "room")
        diff = viewer.diff()
        assert (diff["joins"], diff["leaves"]) == ({}, {"Ann": []})

    def test_replayed_diffs_equal_the_state(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name, presence_grace=0)
        viewer = Viewer(site)
        sockets = [socket_of(site.connect()) for _ in range(6)]
        random_ = random.Random(3)
        for number in range(400):
            socket = random_.choice(sockets)
            match random_.randrange(4):
                case 0:
                    socket.subscribe("room")
                case 1:
                    socket.unsubscribe("room")
                case 2 if "room" in socket.channels:
                    presence.untrack(socket, "room")
                case _ if "room" in socket.channels:
                    key = random_.choice(["Ann", "Bob", "Eve"])
                    presence.track(socket, "room", key, {"number": number})
                case _:
                    pass
            if number % 40 == 39:
                viewer.diff()  # waits for a batch
        state = copy.deepcopy(presence.members("room"))
        expected = presence._running(default_runtime).store.fetch(ROOM).rev
        while viewer.rev < expected:
            viewer.diff()
        assert viewer.members == state

    def test_presence_state_request_returns_the_state(self, serve: Serve) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name)
        viewer = Viewer(site, "Ann")
        Viewer(site, "Bob")
        assert viewer.ask() == {
            "channel": "room",
            "epoch": viewer.state["epoch"],
            "rev": 2,
            "count": 2,
            "members": {"Ann": [{}], "Bob": [{}]},
        }

    @pytest.mark.parametrize("args", [("other",), (), (5,), (None,), ("room", "x"), ([],)])
    def test_presence_state_request_without_subscription_is_rejected(
        self, args: tuple[Any, ...], serve: Serve
    ) -> None:
        site = serve(plugins=[PLUGIN])
        Viewer(site, channel="other")
        client = site.connect()
        ((answer),) = client.call("presence_state", *args)
        assert answer == {"ok": False, "error": "not subscribed to this channel"}

    def test_events_of_a_large_channel_contain_the_count_only(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert diffs.CROWD == 200
        monkeypatch.setattr(diffs, "CROWD", 2)
        site = serve(plugins=[PLUGIN], presence_key=by_name)
        viewer = Viewer(site, "Ann")
        viewer.diff()
        Viewer(site, "Bob")
        assert viewer.diff()["joins"] == {"Bob": [{}]}
        third = site.connect('{"name":"Eve"}')
        third.call("__subscribe__", "room")
        _, state = third.event()
        assert state.keys() == {"channel", "epoch", "rev", "count"}
        assert state["count"] == 3
        _, diff = viewer.client.event()
        assert diff.keys() == {"channel", "epoch", "since", "rev", "count"}
        assert diff["count"] == 3
        assert viewer.ask().keys() == state.keys()

    def test_channel_with_200_members_is_not_large(self, serve: Serve) -> None:
        viewer = Viewer(serve(plugins=[PLUGIN]))
        store = presence._running(default_runtime).store
        for number in range(199):
            store.join(ROOM, f"connection {number}", f"key {number}", {})
        assert len(viewer.ask()["members"]) == 200
        store.join(ROOM, "one more", "one more", {})
        state = viewer.ask()
        assert (state["count"], "members" in state) == (201, False)


class TestDisconnects:
    @pytest.mark.parametrize("how", ["__unsubscribe__", "41", "server disconnect", "server side"])
    def test_clean_disconnect_leaves_at_once(self, how: str, serve: Serve, stages: Journal) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name, presence_grace=60)
        viewer, other = Viewer(site), Viewer(site, "Ann")
        socket = socket_of(other.client)
        match how:
            case "41":
                other.client.send("41")
            case "server disconnect":
                socket.disconnect()
            case "server side":
                socket.unsubscribe("room")
            case _:
                other.client.emit(how, "room")
        stages.wait_for(("unsubscribe", "room"))
        assert presence.members("room") == {}
        while viewer.diff()["leaves"].keys() != {"Ann"}:
            pass

    @pytest.mark.parametrize("grace", [0.05, 60.0], ids="grace {}".format)
    @pytest.mark.parametrize("how", ["vanish", "reset", "close", "engine packet 1"])
    def test_unclean_disconnect_leaves_after_grace(
        self, how: str, grace: float, serve: Serve, stages: Journal
    ) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name, presence_grace=grace)
        viewer, other = Viewer(site), Viewer(site, "Ann")
        viewer.until(lambda members: "Ann" in members)
        match how:
            case "vanish":
                other.client.vanish()
            case "reset":
                other.client.vanish(reset=True)
            case "close":
                other.client.close()
            case _:
                other.client.send("1")
        stages.wait_for(("finish", "transport close"))
        if grace == 60.0:
            assert presence.members("room") == {"Ann": [{}]}
        else:
            viewer.until(lambda members: "Ann" not in members)
            assert presence.members("room") == {}

    def test_reconnect_within_grace_reports_no_change(self, serve: Serve, stages: Journal) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name, presence_grace=60)
        viewer = Viewer(site, "Bob")
        Viewer(site, "Ann").client.vanish()
        stages.wait_for(("finish", "transport close"))
        again = Viewer(site, "Ann")
        assert again.members == {"Bob": [{}], "Ann": [{}]}
        assert again.state["rev"] == 2  # unchanged
        viewer.until(lambda members: "Ann" in members)
        assert viewer.rev == 2
        again.client.send("41")
        viewer.until(lambda members: "Ann" not in members)

    def test_grace_of_zero_leaves_at_once(self, serve: Serve, stages: Journal) -> None:
        site = serve(plugins=[PLUGIN], presence_grace=0)
        Viewer(site).client.vanish()
        stages.wait_for(("finish", "transport close"))
        assert presence.members("room") == {}

    def test_ping_timeout_is_an_unclean_disconnect(self, serve: Serve, stages: Journal) -> None:
        site = serve(
            plugins=[PLUGIN],
            presence_key=by_name,
            presence_grace=60,
            ping_interval=0.1,
            ping_timeout=1.0,
        )
        Viewer(site, "Ann")  # which stops reading and answering
        stages.wait_for(("finish", "ping timeout"))
        assert presence.members("room") == {"Ann": [{}]}


class TestSignals:
    def test_each_change_sends_one_signal(self, serve: Serve, journal: Journal) -> None:
        def record(name: str) -> Callable[..., None]:
            def receiver(sender: Any, **keywords: Any) -> None:
                assert sender is default_runtime
                journal.append((name, keywords))

            return receiver

        receivers = [record(name) for name in ("joined", "updated", "left")]
        for signal, receiver in zip(
            (presence.joined, presence.updated, presence.left), receivers, strict=True
        ):
            signal.connect(receiver)
        site = serve(plugins=[PLUGIN], presence_key=by_name)
        socket = socket_of(Viewer(site, "Ann").client)
        presence.track(socket, "room", "Ann", {"a": 1})
        socket.unsubscribe("room")
        assert journal == [
            (name, {"channel": "room", "namespace": "/", "key": "Ann", "metas": metas})
            for name, metas in [("joined", [{}]), ("updated", [{"a": 1}]), ("left", [{"a": 1}])]
        ]

    def test_failing_receiver_is_logged_and_stops_no_other(
        self, serve: Serve, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        def bad(sender: Any, **keywords: Any) -> None:
            raise ValueError("bad")

        def good(sender: Any, key: str, **keywords: Any) -> None:
            journal.append(key)

        presence.joined.connect(bad)
        presence.joined.connect(good)
        Viewer(serve(plugins=[PLUGIN], presence_key=by_name), "Ann")
        assert journal == ["Ann"]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]

    def test_members_and_counts_from_another_thread(self, serve: Serve) -> None:
        viewer = Viewer(serve(plugins=[PLUGIN], presence_key=by_name), "Ann")
        found = gevent.get_hub().threadpool.spawn(presence.members, "room").get()
        assert found == {"Ann": [{}]} == viewer.members
        counts = gevent.get_hub().threadpool.spawn(presence.counts, ("room", "other")).get()
        assert counts == {"room": 1, "other": 0}


class TestRuntimes:
    def test_members_of_each_runtime_are_separate(self, serve: Serve) -> None:
        other = Runtime()
        first = serve(plugins=[PLUGIN], presence_key=by_name)
        second = serve(
            plugins=[PLUGIN],
            presence_key=lambda request, socket, context: socket.auth["name"].upper(),
            presence_meta=lambda request, socket, context: {"tab": 1},
            runtime=other,
        )
        ann, bob = Viewer(first, "Ann"), Viewer(second, "Bob")
        assert presence.members("room") == {"Ann": [{}]}
        assert presence.members("room", runtime=other) == {"BOB": [{"tab": 1}]}
        Viewer(second, "Eve")
        assert (presence.count("room"), presence.count("room", runtime=other)) == (1, 2)
        assert presence.counts(["room", "x"], runtime=other) == {"room": 2, "x": 0}
        assert bob.until(lambda members: len(members) == 2).keys() == {"BOB", "EVE"}
        assert ann.ask()["members"] == {"Ann": [{}]}
        first.server.stop()
        assert presence.count("room", runtime=other) == 2
        with pytest.raises(ConfigurationError):
            presence.members("room")

    def test_socket_is_tracked_in_its_runtime(self, serve: Serve) -> None:
        other = Runtime()
        first = serve(plugins=[PLUGIN], presence_key=lambda *args: None)
        second = serve(plugins=[PLUGIN], presence_key=lambda *args: None, runtime=other)
        Viewer(first), Viewer(second)
        (socket,) = other.sockets()
        presence.track(socket, "room", "Bob", {"status": "typing"})
        assert presence.members("room") == {}
        assert presence.members("room", runtime=other) == {"Bob": [{"status": "typing"}]}
        presence.untrack(socket, "room")
        assert presence.members("room", runtime=other) == {}

    def test_track_without_presence_in_its_runtime_raises(self, serve: Serve) -> None:
        other = Runtime()
        serve(plugins=[PLUGIN])
        serve(runtime=other).connect().call("__subscribe__", "room")
        (socket,) = other.sockets()
        with pytest.raises(ConfigurationError, match="presence is not installed"):
            presence.track(socket, "room", "Bob")

    def test_sender_of_signals_is_the_runtime(self, serve: Serve, journal: Journal) -> None:
        other = Runtime()

        def receiver(sender: Any, key: str, **extra: Any) -> None:
            journal.append((sender, key))

        presence.joined.connect(receiver, sender=other)
        Viewer(serve(plugins=[PLUGIN], presence_key=by_name), "Ann")
        Viewer(serve(plugins=[PLUGIN], presence_key=by_name, runtime=other), "Bob")
        assert journal == [(other, "Bob")]


class TestTracking:
    def test_track_and_untrack_from_another_thread(self, serve: Callable[..., Site]) -> None:
        site = serve(plugins=[PLUGIN], presence_key=by_name)
        viewer = Viewer(site)
        socket = socket_of(viewer.client)
        pool = gevent.get_hub().threadpool
        pool.apply(presence.track, (socket, "room", "Ann"))
        assert viewer.until(lambda members: "Ann" in members) == {"Ann": [{}]}
        assert pool.apply(presence.members, ("room",)) == {"Ann": [{}]}
        pool.apply(presence.untrack, (socket, "room"))
        assert viewer.until(lambda members: not members) == {}

    def test_track_by_an_earlier_handler_takes_precedence(self, serve: Callable[..., Site]) -> None:
        @on_subscribe
        def track(request: Any, socket: Any, context: Any, channel: str) -> None:
            presence.track(socket, channel, "Ann")

        viewer = Viewer(serve(plugins=[PLUGIN]))
        assert viewer.members == {"Ann": [{}]}
