"""Admin plugin in several processes: a real Redis, and admins connected to any of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import Site, socket_of
from tests.integration.test_admin import CREDENTIALS, HASH, Admin, log_in, without_times
from tests.raw import connect
from tests.redis_server import SERVERS_TOPIC, RedisServer, extend_redis_timeouts
from tests.servers import ServerProcess, application_source
from webpy_socketio import Refused, emit_to_servers, on_subscribing
from webpy_socketio.plugins.admin import auth as admin_auth
from webpy_socketio.plugins.admin import cluster, remote, reporter, sink
from webpy_socketio.plugins.admin.remote import RemoteProcess
from webpy_socketio.plugins.admin.sink import ClusterSink

pytestmark = pytest.mark.time_limit(30)

BODY = """
OPTIONS = {
    "plugins": ["webpy_socketio.plugins.admin"],
    "backplane": os.environ["BACKPLANE"],
    "admin_username": "ann",
    "admin_password": os.environ["HASH"],
    "admin_readonly": os.environ.get("READONLY") == "yes",
    "namespaces": ["/", "/chat"],
    "log": None,
}

@on_message
def answer(request, socket, context, message):
    socket.send(message)

@on_subscribing(channel="staff")
def gate(request, socket, context, channel):
    raise Refused("for staff only")
"""


@pytest.fixture
def far(shared_redis: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
    """Another process."""
    env = {"BACKPLANE": shared_redis.url, "HASH": HASH}
    server = ServerProcess(application_source(BODY), tmp_path / "far", env)
    yield server
    if server.process.popen.poll() is None:
        server.process.popen.send_signal(signal.SIGCONT)
    server.close()
    assert "Traceback" not in server.errors


@pytest.fixture
def near(
    far: ServerProcess,
    shared_redis: RedisServer,
    serve: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    """A server in this process."""
    extend_redis_timeouts(monkeypatch)
    site = serve(
        plugins=["webpy_socketio.plugins.admin"],
        backplane=shared_redis.url,
        admin_username="ann",
        admin_password=HASH,
        admin_readonly=False,
        namespaces=["/", "/chat"],
    )
    shared_redis.wait_for_servers(2)
    return site


class OtherAdmin(Admin):
    """An admin that is connected to a server process."""

    def __init__(self, server: ServerProcess, auth: Any = CREDENTIALS) -> None:
        class Place:
            port, path = server.port, "/socket.io/"

        super().__init__(Place, auth)  # type: ignore[arg-type]


def wait_for_sockets(admin: Admin, *ids: str) -> dict[str, dict[str, Any]]:
    """Wait for a list with these sockets, and return it by their ids."""
    while True:
        found = {each["id"]: each for each in admin.until("all_sockets")[1]}
        if set(found) == set(ids):
            return found


def events(admin: Admin, count: int) -> list[list[Any]]:
    """Return the next events without statistics."""
    found: list[list[Any]] = []
    while len(found) < count:
        event = admin.next()
        if event[0] != "server_stats":
            found.append(event)
    return without_times(found)


class TestReports:
    @pytest.mark.parametrize("place", ["near", "far"])
    def test_admin_sees_all_processes_whichever_it_is_connected_to(
        self, place: str, near: Site, far: ServerProcess
    ) -> None:
        here, there = connect(near), connect(far)
        here.call("__subscribe__", "room-1")
        there.call("__subscribe__", "room-2")
        admin = Admin(near) if place == "near" else OtherAdmin(far)
        found = wait_for_sockets(admin, here.id, there.id)
        assert (found[here.id]["rooms"], found[there.id]["rooms"]) == (["room-1"], ["room-2"])
        pids: set[int] = set()
        while pids != {os.getpid(), far.process.popen.pid}:
            stats = admin.until("server_stats")[1]
            assert stats["clientsCount"] >= 1
            pids.add(stats["pid"])

    def test_changes_and_events_of_another_process_are_reported(
        self, near: Site, far: ServerProcess
    ) -> None:
        first, here = connect(far), connect(near)
        admin, _ = log_in(near)
        wait_for_sockets(admin, first.id, here.id)
        there = connect(far)
        there.call("__subscribe__", "room-1")
        there.emit("message", {"text": "hi", "password": "hidden-1"})
        assert there.event() == ["message", {"text": "hi", "password": "hidden-1"}]
        there.call("__unsubscribe__", "room-1")
        there.call("__subscribe__", "room-2")
        there.send("41")
        connected, *rest = events(admin, 8)
        assert (connected[0], connected[1]["id"]) == ("socket_connected", there.id)
        shown = {"text": "hi", "password": "(hidden)"}
        assert [event for event in rest if event[0] in ("event_sent", "event_received")] == [
            ["event_received", "/", there.id, ["message", shown]],
            ["event_sent", "/", there.id, ["message", shown]],
        ] or [event[0] for event in rest[1:3]] == ["event_sent", "event_received"]
        assert [event for event in rest if not event[0].startswith("event")] == [
            ["room_joined", "/", "room-1", there.id],
            ["room_left", "/", "room-1", there.id],
            ["room_joined", "/", "room-2", there.id],
            ["socket_disconnected", "/", there.id, "client namespace disconnect"],
            ["room_left", "/", "room-2", there.id],
        ]

    def test_first_socket_of_another_process_is_in_a_list(
        self, near: Site, far: ServerProcess
    ) -> None:
        """The UI selects a namespace when it receives the first list that is not empty."""
        admin, listed = log_in(near)
        assert listed == []
        while admin.until("server_stats")[1]["pid"] == os.getpid():
            pass
        there = connect(far)
        wait_for_sockets(admin, there.id)

    def test_second_admin_and_second_process_receive_the_state(
        self, near: Site, far: ServerProcess
    ) -> None:
        here, there = connect(near), connect(far)
        first = Admin(near)
        wait_for_sockets(first, here.id, there.id)
        second = Admin(near)
        wait_for_sockets(second, here.id, there.id)
        third = OtherAdmin(far)
        wait_for_sockets(third, here.id, there.id)


class TestLease:
    def test_killed_process_disappears_after_its_lease(
        self, near: Site, far: ServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster, "LEASE", 3.0)
        monkeypatch.setattr(cluster, "RENEWAL", 0.1)
        here, there = connect(near), connect(far)
        there.call("__subscribe__", "room-1")
        admin, _ = log_in(near)
        wait_for_sockets(admin, here.id, there.id)
        far.process.popen.kill()
        assert events(admin, 2) == [
            ["socket_disconnected", "/", there.id, "the process has ended"],
            ["room_left", "/", "room-1", there.id],
        ]

    def test_stopped_process_disappears_at_once(self, near: Site, far: ServerProcess) -> None:
        here, there = connect(near), connect(far)
        admin, _ = log_in(near)
        wait_for_sockets(admin, here.id, there.id)
        far.stop()
        assert events(admin, 1)[0][:3] == ["socket_disconnected", "/", there.id]

    def test_nothing_is_published_without_an_admin(
        self, near: Site, far: ServerProcess, shared_redis: RedisServer
    ) -> None:
        with (
            shared_redis.redis.Redis(port=shared_redis.port) as client,
            client.pubsub() as listening,
        ):
            listening.subscribe(SERVERS_TOPIC)

            def published() -> list[list[Any]]:
                """Exchange messages in both processes, and return what is published."""
                for server in (near, far):
                    one = connect(server)
                    one.call("__subscribe__", "room-1")
                    one.emit("message", "hi")
                    if server is far:
                        assert one.event() == ["message", "hi"]
                    one.call("__unsubscribe__", "room-1")
                    one.close()
                emit_to_servers("barrier")
                found: list[list[Any]] = []
                while True:
                    message = listening.get_message(timeout=None)
                    if message["type"] != "message":
                        continue
                    if b'["barrier"]' in message["data"]:
                        return found
                    data = message["data"]
                    found.append(orjson.loads(data[data.index(b'["webpy_socketio.admin"') :]))

            assert published() == []
            admin, _ = log_in(near)
            while admin.until("server_stats")[1]["pid"] == os.getpid():
                pass
            kinds = {event[1] for event in published()}
            assert {"session", "watch", "report"} <= kinds
            admin.client.send("41/admin,")
            while not {"unwatch", "end"} <= kinds:
                kinds |= {event[1] for event in published()}
            published()
            assert published() == []


class TestCommands:
    def test_commands_reach_sockets_of_any_process(self, near: Site, far: ServerProcess) -> None:
        here, there, other = connect(near), connect(far), connect(far)
        admin, _ = log_in(near)
        # One socket, by its id.
        joined = {"ok": True, "sockets": 1}
        assert admin.command("join", "/", "room-1", there.id)[0] == joined
        assert admin.command("emit", "/", there.id, "news", 1)[0] == joined
        assert there.event() == ["news", 1]
        # All members of a channel.
        assert admin.command("join", "/", "room-1", here.id)[0] == joined
        assert admin.command("emit", "/", "room-1", "news", 2)[0] == {"ok": True, "sockets": 2}
        assert there.event() == here.event() == ["news", 2]
        other.barrier()
        # All sockets.
        assert admin.command("join", "/", "room-2")[0] == {"ok": True, "sockets": 3}
        assert admin.command("leave", "/", "room-2", "room-1")[0] == {"ok": True, "sockets": 2}
        assert admin.command("leave", "/", "room-2")[0] == {"ok": True, "sockets": 1}
        assert socket_of(here).channels == ("room-1",)
        # Disconnecting.
        assert admin.command("_disconnect", "/", True, there.id)[0] == joined
        assert there.wait_closed() == 1000
        assert admin.command("_disconnect", "/", True)[0] == {"ok": True, "sockets": 2}
        assert here.wait_closed() == other.wait_closed() == 1000

    def test_channel_named_like_a_session_id_does_not_match_in_any_process(
        self, near: Site, far: ServerProcess
    ) -> None:
        victim, attacker, neighbour = connect(far), connect(near), connect(far)
        for client in (attacker, neighbour):
            client.call("__subscribe__", victim.id)
        admin, _ = log_in(near)
        assert admin.command("_disconnect", "/", True, victim.id)[0] == {"ok": True, "sockets": 1}
        assert victim.wait_closed() == 1000
        attacker.barrier()
        neighbour.barrier()

    def test_rejection_and_readonly_of_another_process_are_reported(
        self, near: Site, far: ServerProcess, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        there = connect(far)

        @on_subscribing(channel="staff")
        def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("for staff only")

        admin, _ = log_in(near)
        answer, _ = admin.command("join", "/", "staff")
        assert answer == {
            "ok": False,
            "error": "1 of 1 sockets rejected the change: for staff only",
        }
        env = {"BACKPLANE": shared_redis.url, "HASH": HASH, "READONLY": "yes"}
        readonly = ServerProcess(application_source(BODY), tmp_path / "readonly", env)
        try:
            protected = connect(readonly)
            answer, _ = admin.command("_disconnect", "/", True)
            assert "SOCKETIO_ADMIN_READONLY is True" in answer["error"]
            assert there.wait_closed() == 1000
            protected.barrier()
            reader = OtherAdmin(readonly)
            assert reader.command("_disconnect", "/", True)[0]["ok"] is False
        finally:
            readonly.close()

    def test_process_that_does_not_answer_is_reported(
        self, near: Site, far: ServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster, "COMMAND_TIMEOUT", 0.1)
        here = connect(near)
        admin, _ = log_in(near)
        os.kill(far.process.popen.pid, signal.SIGSTOP)
        answer, _ = admin.command("join", "/", "room-1")
        assert answer == {"ok": False, "error": "1 process did not answer within 0.1 s"}
        assert socket_of(here).channels == ("room-1",)


class TestSessions:
    def test_session_id_is_valid_in_all_processes(self, near: Site, far: ServerProcess) -> None:
        session = Admin(near).next()[1]
        # Reports of the other process show that it has received the session id.
        while (again := OtherAdmin(far, {"sessionId": session})).refusal is not None:
            pass
        assert again.next()[0] == "config"

    def test_forged_session_id_is_rejected(self, near: Site, far: ServerProcess) -> None:
        digest = admin_auth._digest("mine").hex()
        emit_to_servers(cluster.EVENT, "session", "me", digest, "0" * 64, 1000.0)
        session = Admin(near).next()[1]
        while OtherAdmin(far, {"sessionId": session}).refusal is not None:
            pass  # events of one process arrive in their order
        assert OtherAdmin(far, {"sessionId": "mine"}).refusal == "invalid credentials"


def describe(number: int) -> dict[str, Any]:
    return {"id": f"{number}", "nsp": "/", "rooms": ["x" * 200] * 5, "transport": "polling"}


class TestLimits:
    def test_long_list_is_sent_in_parts(self) -> None:
        sent: list[tuple[Any, ...]] = []
        one = ClusterSink("a", lambda *args: sent.append(args))
        one.emit("server_stats", {})
        one.emit("all_sockets", [describe(number) for number in range(1000)])
        one._flush()
        assert len(sent) > 3
        assert max(len(json.dumps(message)) for message in sent) < 2 * sink.MAX_BATCH
        process = RemoteProcess("a")
        for kind, _, number, batch in sent:
            assert kind == "report"
            process.receive(number, batch, [])
        assert len(process.descriptions(1000, 10**9)) == 1000
        assert len(process.descriptions(7, 10**9)) == 7
        assert len(process.descriptions(1000, 10_000)) < 10

    def test_missing_report_requests_a_list_a_limited_number_of_times(self) -> None:
        process = RemoteProcess("a")
        complete = [["list_begins"], ["list_part", [describe(1)]], ["list_ends"]]
        assert process.receive(5, complete, [])
        assert process.receive(6, [], [])
        answers = [process.receive(8 + 2 * turn, [], []) for turn in range(10)]
        assert answers == [False] * remote.MAX_REQUESTS + [True] * (10 - remote.MAX_REQUESTS)
        assert process.receive(40, complete, [])
        assert process.receive(41, [], [])

    def test_events_of_other_processes_are_limited_like_own_ones(
        self, near: Site, far: ServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here, there = connect(near), connect(far)
        admin, _ = log_in(near)
        wait_for_sockets(admin, here.id, there.id)
        monkeypatch.setattr(reporter, "MAX_EVENTS", 2)
        for number in range(20):
            there.emit("message", number)
            there.event()
        while True:
            event = admin.until("event_sent", "event_received")
            if event[2] == "-":
                assert "more events, not shown" in event[3][0]
                break

    def test_event_of_another_version_is_ignored(self, near: Site, far: ServerProcess) -> None:
        for args in ((), ("report",), ("report", "x", "y", [[]]), ("watch", "x", None), ("new",)):
            emit_to_servers(cluster.EVENT, *args)
        here, there = connect(near), connect(far)
        admin, _ = log_in(near)
        wait_for_sockets(admin, here.id, there.id)
