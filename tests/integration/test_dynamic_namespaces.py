"""Namespaces that match a pattern of SOCKETIO_NAMESPACES: created on first use, then forgotten."""

from __future__ import annotations

import gc
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent.event
import pytest
from prometheus_client import CollectorRegistry

from tests import raw
from tests.conftest import Journal, Site
from tests.load_clients import scaled
from webpy_socketio import (
    NoSocket,
    Refused,
    Socket,
    broadcast,
    get_stats,
    on_connect,
    on_connecting,
    on_disconnect,
    on_event,
    on_finish,
    on_message,
    signals,
    sockets,
)
from webpy_socketio.bus.patterns import REMEMBERED_MATCHES
from webpy_socketio.bus.receivers import MAX_CHANNELS
from webpy_socketio.namespaces import MAX_LENGTH, AllowedNamespaces
from webpy_socketio.plugins import metrics, presence
from webpy_socketio.runtime import default_runtime
from webpy_socketio.testing import TestServer as Server

Serve = Callable[..., Site]

registry = default_runtime.registry

TENANTS = re.compile(r"/tenant-[0-9]+$")

PLUGIN = """
class Room:
    def connect(self, connection):
        connection.accept()
        connection.emit("plugin")

    def event(self, connection, name, args, ack):
        pass

    def closing(self, connection):
        pass

    def disconnected(self, connection, reason):
        pass

    def failed(self, connection, error):
        pass

def namespaces(settings):
    return {"/tenant-0": Room()}
"""


@pytest.fixture
def site(serve: Serve) -> Site:
    return serve(namespaces=["/", TENANTS])


def enter(client: raw.WebSocket, namespace: str) -> str:
    """Connect a raw client to a namespace; return the server's answer."""
    client.send(f"40{namespace},")
    return str(client.receive())


def leave(client: raw.WebSocket, namespace: str) -> None:
    """Disconnect from a namespace, and wait until the server has read it."""
    client.send(f"41{namespace},")
    barrier(client)


def barrier(client: raw.WebSocket) -> None:
    """Wait until the server has read all packets of the client."""
    client.send("40/unknown,")
    assert client.receive() == '44/unknown,{"message":"Invalid namespace"}'


def receive_reply(client: raw.WebSocket) -> str:
    """Return the next packet that is not an event."""
    while True:
        packet = str(client.receive())
        if not packet.startswith("42"):
            return packet


def socket_in(namespace: str) -> Socket:
    (socket,) = sockets(namespace)
    return socket


class TestAllowedNamespaces:
    def test_names_and_patterns_are_allowed(self) -> None:
        allowed = AllowedNamespaces(["/", TENANTS, re.compile("/a|/b$|/c$")])
        for name in ("/", "/tenant-1", "/tenant-22", "/b"):
            assert name in allowed
        for name in ("", "tenant-1", "/tenant-", "/tenant-1/x", "/x/tenant-1", "/chat", None, 1):
            assert name not in allowed
        assert repr(allowed) == repr(["/", TENANTS, re.compile("/a|/b$|/c$")])
        assert allowed.names == {"/"}

    @pytest.mark.parametrize("name", ["/a\n", "/a\x00", "/a\u2028", "/a\u202e"])
    def test_name_with_unsafe_characters_matches_no_pattern(self, name: str) -> None:
        assert name not in AllowedNamespaces([re.compile("/[^ ]*$", re.MULTILINE)])

    def test_length_of_a_matched_name_is_limited(self) -> None:
        allowed = AllowedNamespaces([re.compile("/a*$")])
        assert "/" + "a" * (MAX_LENGTH - 1) in allowed
        assert "/" + "a" * MAX_LENGTH not in allowed

    def test_pattern_that_times_out_matches_nothing(self) -> None:
        assert "/" + "a" * 60 + "!" not in AllowedNamespaces([re.compile("/(a|a)*$")])


class TestAdmission:
    def test_client_connects_to_matching_namespaces_only(self, site: Site) -> None:
        client = site.websocket()
        assert enter(client, "/tenant-1").startswith('40/tenant-1,{"sid":')
        for name in ("/tenant-", "/tenant-1x", "/tenant-1\n", "/chat"):
            assert enter(client, name) == f'44{name},{{"message":"Invalid namespace"}}'
        assert enter(client, "/tenant-2?token=1").startswith("40/tenant-2,")
        assert [socket.namespace for socket in sockets()] == ["/tenant-1", "/tenant-2"]

    def test_too_long_name_is_a_parse_error(self, site: Site) -> None:
        client = site.websocket()
        client.send("40/tenant-" + "1" * 300 + ",")
        client.wait_closed()

    def test_default_namespace_is_not_needed(self, serve: Serve) -> None:
        client = serve(namespaces=[TENANTS]).websocket()
        assert enter(client, "/tenant-1").startswith("40/tenant-1,")
        client.send("40")
        assert client.receive() == '44{"message":"Invalid namespace"}'

    def test_pattern_never_matches_the_namespace_of_a_plugin(
        self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: Journal
    ) -> None:
        (tmp_path / "tenant_plugin.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        client = serve(plugins=["tenant_plugin"], namespaces=[TENANTS]).websocket()
        assert enter(client, "/tenant-0").startswith("40/tenant-0,")
        assert client.receive() == '42/tenant-0,["plugin"]'
        assert (stages, sockets()) == ([], [])

    def test_testing_kit_connects_to_dynamic_namespaces(self) -> None:
        @on_message(namespace=TENANTS)
        def message(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send_and_broadcast([socket.namespace, message])

        import web

        from webpy_socketio import socketio_urls

        application = web.application(socketio_urls, {}).wsgifunc()
        with Server(application, namespaces=[TENANTS]) as server:
            one, other = server.connect("/tenant-1"), server.connect("/tenant-2")
            one.send("hello")
            assert one.receive("message") == ["/tenant-1", "hello"]
            assert other.received() == []
            with pytest.raises(Refused, match="Invalid namespace"):
                server.connect("/tenant-x")


class TestHandlers:
    def test_pattern_of_a_handler_selects_dynamic_namespaces(self, site: Site) -> None:
        @on_event("where", namespace=TENANTS)
        def where(request: Any, socket: Any, context: Any) -> str:
            return str(socket.namespace)

        client = site.websocket()
        for name in ("/tenant-1", "/tenant-2"):
            enter(client, name)
            client.send(f'42{name},7["where"]')
            assert client.receive() == f'43{name},7["{name}"]'

    def test_all_stages_carry_the_name_of_the_namespace(
        self, serve: Serve, journal: Journal
    ) -> None:
        site = serve(namespaces=[TENANTS], recovery_time=60.0)

        @on_message
        def fail(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise ValueError(message)

        for stage in (*signals.STAGES, signals.handled):
            stage.connect(
                lambda sender, namespace, name=stage.name, **extra: journal.append(
                    (name, namespace)
                )
            )
        lost = site.websocket()
        pid = lost.connect(namespace="/tenant-1,")["pid"]
        lost.vanish()
        journal.wait_for(("suspend", "/tenant-1"))
        client = site.websocket()
        client.connect(f'{{"pid":"{pid}"}}', namespace="/tenant-1,")
        client.send('42/tenant-1,1["__subscribe__","room"]')
        client.receive()
        client.send('42/tenant-1,["message","hello"]')
        client.send("41/tenant-1,")
        journal.wait_for(("finish", "/tenant-1"))
        assert {name for name, _ in journal} >= {stage.name for stage in signals.STAGES}
        assert {namespace for _, namespace in journal} == {"/tenant-1"}


def test_listed_names_are_forgotten_with_the_last_server(serve: Serve) -> None:
    first, second = serve(namespaces=["/first"]), serve(namespaces=["/second"])
    for site, name in ((first, "/first"), (second, "/second")):
        client = site.websocket()
        enter(client, name)
        client.close()
        site.server.stop()
        expected = {"/first", "/second"} if site is first else set()
        assert default_runtime.listed_namespaces() == expected
        assert {space.name for space in registry.namespaces()} <= expected


class TestNumberOfNamespaces:
    """SOCKETIO_MAX_NAMESPACES limits the namespaces of a session."""

    def test_further_namespace_is_rejected_until_another_is_left(self, serve: Serve) -> None:
        client = serve(namespaces=[TENANTS], max_namespaces=3).websocket()
        for number in range(3):
            assert enter(client, f"/tenant-{number}").startswith("40")
        full = '44/tenant-3,{"message":"too many namespaces"}'
        assert enter(client, "/tenant-3") == full
        leave(client, "/tenant-1")
        assert enter(client, "/tenant-3").startswith("40")
        assert enter(client, "/tenant-4").endswith('"too many namespaces"}')

    def test_running_handler_of_a_closed_connection_counts(self, serve: Serve) -> None:
        resume = gevent.event.Event()

        @on_disconnect
        def wait(request: Any, socket: Any, context: Any) -> None:
            resume.wait()

        client = serve(namespaces=[TENANTS], max_namespaces=2).websocket()
        for number in range(2):
            enter(client, f"/tenant-{number}")
            leave(client, f"/tenant-{number}")
        assert enter(client, "/tenant-2").endswith('"too many namespaces"}')
        client.send("40/tenant-1,")  # its inbox exists; the gate runs after the handler
        resume.set()
        assert str(client.receive()).startswith("40/tenant-1,")

    def test_left_namespaces_are_not_kept_in_the_session(self, serve: Serve) -> None:
        site = serve(namespaces=[TENANTS], max_namespaces=4)
        client = site.websocket()
        for number in range(50):
            assert enter(client, f"/tenant-{number}").startswith("40")
            leave(client, f"/tenant-{number}")
        (session,) = site.server.engine.sessions.values()
        assert len(session.receiver._inboxes) <= 4
        assert not session.receiver._connections


class TestForgetting:
    def test_namespace_is_forgotten_with_its_last_socket(self, site: Site, stages: Journal) -> None:
        clients = [site.websocket() for _ in range(2)]
        for client in clients:
            enter(client, "/tenant-1")
        space = registry.get("/tenant-1")
        assert space is not None
        assert space.users == 2
        clients[0].send("41/tenant-1,")
        stages.wait(lambda stages: stages.count(("finish", "client namespace disconnect")) == 1)
        assert registry.get("/tenant-1") is space
        assert get_stats().sockets["/tenant-1"] == 1
        clients[1].vanish()
        stages.wait_for(("finish", "transport close"))
        assert registry.get("/tenant-1") is None
        assert "/tenant-1" not in get_stats().sockets
        with pytest.raises(NoSocket):
            broadcast("hello", namespace="/tenant-1")

    def test_listed_namespace_is_kept(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        client.send("41")
        stages.wait_for(("finish", "client namespace disconnect"))
        assert get_stats().sockets["/"] == 0

    @pytest.mark.parametrize("error", [Refused("no"), ValueError("broken")])
    def test_namespace_of_a_rejected_socket_is_forgotten(
        self, site: Site, error: Exception
    ) -> None:
        @on_connecting
        def reject(request: Any, socket: Any, context: Any) -> None:
            assert registry.get("/tenant-1") is not None
            raise error

        client = site.websocket()
        assert enter(client, "/tenant-1").startswith("44/tenant-1,")
        barrier(client)
        assert registry.get("/tenant-1") is None

    def test_namespace_of_a_client_that_left_during_its_gate_is_forgotten(
        self, site: Site, journal: Journal
    ) -> None:
        resume = gevent.event.Event()

        @on_connecting
        def wait(request: Any, socket: Any, context: Any) -> None:
            journal.append("gate")
            resume.wait()
            journal.append("decided")

        client = site.websocket()
        client.send("40/tenant-1,")
        journal.wait_for("gate")
        leave(client, "/tenant-1")
        assert registry.get("/tenant-1") is not None
        resume.set()
        journal.wait_for("decided")
        client.send("40/tenant-2,")  # its gate runs in another greenlet, after this one
        client.receive()
        assert registry.get("/tenant-1") is None

    def test_socket_in_its_gate_keeps_the_namespace_that_the_last_one_leaves(
        self, site: Site, journal: Journal, stages: Journal
    ) -> None:
        resume = gevent.event.Event()

        @on_connecting
        def wait(request: Any, socket: Any, context: Any) -> None:
            if sockets("/tenant-1"):
                journal.append("gate")
                resume.wait()

        last, newcomer = site.websocket(), site.websocket()
        enter(last, "/tenant-1")
        newcomer.send("40/tenant-1,")
        journal.wait_for("gate")
        last.send("41/tenant-1,")
        journal.wait_for(("finish", "client namespace disconnect"))
        resume.set()
        assert str(newcomer.receive()).startswith("40/tenant-1,")
        self.check_reachable(newcomer)

    def test_socket_connecting_during_the_last_stages_of_another_is_reachable(
        self, site: Site, journal: Journal
    ) -> None:
        resume = gevent.event.Event()

        @on_finish
        def wait(request: Any, socket: Any, context: Any) -> None:
            journal.append("finish")
            resume.wait()
            journal.append("finished")

        last, newcomer = site.websocket(), site.websocket()
        enter(last, "/tenant-1")
        last.send("41/tenant-1,")
        journal.wait_for("finish")
        assert enter(newcomer, "/tenant-1").startswith("40/tenant-1,")
        resume.set()
        journal.wait_for("finished")
        barrier(newcomer)
        self.check_reachable(newcomer)

    def test_finished_socket_broadcasts_to_those_that_have_connected_since(
        self, site: Site, journal: Journal
    ) -> None:
        @on_finish
        def finish(request: Any, socket: Any, context: Any) -> None:
            journal.append("finish")

        first, second = site.websocket(), site.websocket()
        enter(first, "/tenant-1")
        kept = socket_in("/tenant-1")
        leave(first, "/tenant-1")
        journal.wait_for("finish")
        assert registry.get("/tenant-1") is None
        enter(second, "/tenant-1")
        kept.broadcast("late")
        assert second.receive() == '42/tenant-1,["message","late"]'
        assert socket_in("/tenant-1")._namespace is kept._namespace

    @staticmethod
    def check_reachable(client: raw.WebSocket) -> None:
        """Check that the only client of /tenant-1 is in the namespace that the registry knows."""
        assert socket_in("/tenant-1")._namespace is registry.get("/tenant-1")
        broadcast("hello", namespace="/tenant-1")
        assert client.receive() == '42/tenant-1,["message","hello"]'


#: Tenants in the test below that are connected at a time.
AT_A_TIME = 500


@pytest.mark.torture
@pytest.mark.time_limit(600)  # a slow machine takes ten times as long
def test_tenants_that_come_and_go_leave_nothing(serve: Serve) -> None:
    count = scaled(100_000, 2000)
    left_by_other_tests = set(registry._forgotten)
    plugins = [f"webpy_socketio.plugins.{name}" for name in ("presence", "metrics")]
    site = serve(
        namespaces=["/", TENANTS],
        max_namespaces=AT_A_TIME,
        ping_interval=3600,
        plugins=plugins,
        metrics_registry=CollectorRegistry(),
    )
    finished, all_finished = 0, gevent.event.Event()

    @on_connect(namespace=TENANTS)
    def connect(request: Any, socket: Socket, context: Any) -> None:
        socket.subscribe(f"room-{socket.namespace}")

    @on_message(channel="^room-", namespace=TENANTS)
    def message(request: Any, socket: Any, context: Any, message: Any) -> str:
        return str(socket.namespace)

    @on_finish
    def finish(request: Any, socket: Any, context: Any) -> None:
        nonlocal finished
        finished += 1
        if finished % AT_A_TIME == 0:
            all_finished.set()

    client = site.websocket()
    for first in range(0, count, AT_A_TIME):
        names = [f"/tenant-{number}" for number in range(first, first + AT_A_TIME)]
        for name in names:
            client.send(f"40{name},")
        for _ in names:
            assert receive_reply(client).startswith("40/tenant-")
        for name in names:
            client.send(f'42{name},1["__channel__","room-{name}","hello"]')
        for name in names:
            assert receive_reply(client) == f'43{name},1["{name}"]'
        for name in names:
            client.send(f"41{name},")
        all_finished.wait()
        all_finished.clear()
    assert finished == count
    (session,) = site.server.engine.sessions.values()
    assert len(session.receiver._inboxes) <= AT_A_TIME  # type: ignore[attr-defined]
    client.close()
    while site.server.engine.sessions:
        gevent.sleep(0.01)
    del session
    gc.collect()
    assert not [space for space in registry.namespaces() if TENANTS.match(space.name)]
    assert set(registry._forgotten) <= left_by_other_tests
    assert not registry._sockets
    for stage in signals.STAGES:
        assert len(stage._by_channel) <= MAX_CHANNELS
        assert len(stage._by_event) <= 4
    (pattern,) = site.server._namespaces._patterns
    assert pattern.match.cache_info().currsize <= REMEMBERED_MATCHES  # type: ignore[attr-defined]
    recorder = metrics._installed[default_runtime]._recorder
    assert set(recorder.connections) == {"other"}
    assert set(recorder.sent) <= {"other"}
    assert presence._installed[default_runtime].store._channels == {}
