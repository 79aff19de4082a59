"""Tests of network faults: each fault on each transport and in each phase of a connection.

In all cases, `disconnect` and `finish` are sent once and with the right reason, all resources are
released, and another client is not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests import load_clients
from tests.conftest import Journal
from tests.faults import Fault, Link, Proxy
from tests.load_clients import CountedServer, Counts, scaled

pytestmark = [pytest.mark.time_limit(60), pytest.mark.torture]

#: Timeouts that are short enough for tests, and long enough for responding clients.
OPTIONS = {
    "ping_interval": 0.2,
    "ping_timeout": 1.0,
    "upgrade_timeout": 0.3,
    "write_timeout": 0.5,
    "header_timeout": 2.0,
    "body_timeout": 2.0,
    "idle_timeout": 1.5,
}

#: Ways to lose a connection, with the fault and the resulting disconnect reason.
LOSSES = {
    "black hole": (Link.black_hole, "ping timeout"),
    "reset": (Link.reset, "transport close"),
    "close": (Link.close, "transport close"),
}


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Scene:
    """A server, a proxy in front of it, and a bystander that is connected without the proxy."""

    def __init__(self, server: CountedServer) -> None:
        self.server = server
        self._previous_endings = len(server.endings())
        self.bystander = load_clients.WebSocket(server.port)
        self.bystander.subscribe("beside")
        self.before = server.counts()
        self.proxy = Proxy(server.port)

    @property
    def endings(self) -> list[list[str]]:
        """The ended sockets of this scene as ``[stage, session id, reason]``, in order."""
        return self.server.endings()[self._previous_endings :]

    def wait_for_endings(self, count: int) -> list[list[str]]:
        """Wait for `count` endings, and return all."""
        while len(endings := self.endings) < count:
            gevent.sleep(0.02)
        return endings

    def check_ended(self, session_id: str, reason: str) -> None:
        """Wait for `disconnect` and `finish` of a client, and check that nothing else ended."""
        self.wait_for_endings(2)
        self.check_nothing_left()
        assert self.endings == [["disconnect", session_id, reason], ["finish", session_id, reason]]

    def check_nothing_left(self) -> None:
        self.proxy.close()
        self.server.settle(self.before)
        assert self.bystander.call("echo", 1) == [1]
        assert not self.bystander.closed.ready()

    def eventually(self, condition: Callable[[Counts], Any]) -> None:
        self.server.eventually(condition)


@pytest.fixture(scope="module")
def short_timeouts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedServer]:
    with load_clients.running(tmp_path_factory.mktemp("short_timeouts"), **OPTIONS) as server:
        server.warm_up()
        yield server


@pytest.fixture(scope="module")
def long_ping_interval(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedServer]:
    """A server whose ping interval is longer than a test."""
    with load_clients.running(
        tmp_path_factory.mktemp("long_ping_interval"), **{**OPTIONS, "ping_interval": 600.0}
    ) as server:
        server.warm_up()
        yield server


@contextmanager
def scene_of(server: CountedServer) -> Iterator[Scene]:
    scene = Scene(server)
    yield scene
    scene.proxy.close()
    load_clients.close_all()
    # The next scene uses the same server: wait until the clients of this one are gone.
    server.eventually(lambda counts: not counts["sessions"] + counts["sockets"])


@pytest.fixture
def scene(short_timeouts: CountedServer) -> Iterator[Scene]:
    with scene_of(short_timeouts) as scene:
        yield scene


@pytest.fixture
def idle_scene(loss: str, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A scene in which a waiting GET is not ended by a ping.

    Between two GETs there is no connection whose loss the server could detect, so the reason would
    be "ping timeout". A black hole is detected by ping timeout only, so it needs short timeouts.
    """
    name = "short_timeouts" if loss == "black hole" else "long_ping_interval"
    with scene_of(request.getfixturevalue(name)) as scene:
        yield scene


class TestLoss:
    """The network loses an idle connection."""

    def test_lost_websocket_ends_the_session(self, scene: Scene, loss: str) -> None:
        fault, reason = LOSSES[loss]
        client = load_clients.WebSocket(scene.proxy.port)
        client.subscribe("a")
        fault(scene.proxy.link)
        scene.check_ended(client.id, reason)

    def test_lost_waiting_poll_ends_the_session(self, idle_scene: Scene, loss: str) -> None:
        scene = idle_scene
        fault, reason = LOSSES[loss]
        client = load_clients.Polling(scene.proxy.port)
        client.subscribe("a")
        scene.eventually(lambda counts: counts["waiting"])
        scene.proxy.everything(fault)
        scene.check_ended(client.id, reason)

    def test_lost_upgraded_websocket_ends_the_session(self, scene: Scene, loss: str) -> None:
        fault, reason = LOSSES[loss]
        polling = load_clients.Polling(scene.proxy.port)
        client = polling.upgrade()
        client.subscribe("a")
        fault(scene.proxy.link)
        scene.check_ended(client.id, reason)


class TestMidMessage:
    """The network loses a connection in the middle of a message of the client."""

    @pytest.mark.parametrize("passed", [1, 5, 20], ids=lambda count: f"after {count} bytes")
    def test_lost_websocket_ends_the_session(self, scene: Scene, loss: str, passed: int) -> None:
        fault, reason = LOSSES[loss]
        client = load_clients.WebSocket(scene.proxy.port)
        scene.proxy.link.cut_after(passed, fault)
        client.emit("echo", "x" * 1000)
        scene.proxy.link.cut.wait()
        scene.check_ended(client.id, reason)

    @pytest.mark.parametrize("passed", [1, 300], ids=["in its head", "in its body"])
    def test_lost_post_ends_the_session(self, idle_scene: Scene, loss: str, passed: int) -> None:
        scene = idle_scene
        fault, reason = LOSSES[loss]
        client = load_clients.Polling(scene.proxy.port)
        posts = scene.proxy.link
        posts.cut_after(passed, fault)
        sending = gevent.spawn(self.send_to_lost_connection, client)
        posts.cut.wait()
        if loss != "black hole":
            sending.join()
            if passed == 1:
                # An incomplete head does not identify the session, so the client must close.
                client.vanish()
            else:
                reason = "transport error"  # an incomplete body: its packets are lost
        else:
            scene.proxy.everything(fault)
        scene.check_ended(client.id, reason)

    @staticmethod
    def send_to_lost_connection(client: load_clients.Polling) -> None:
        with pytest.raises(load_clients.Gone):
            client.emit("echo", "x" * 1000)


class TestMidUpgrade:
    """The network loses a WebSocket before its upgrade is completed."""

    @pytest.fixture(params=["before the probe", "within the probe", "after the probe"])
    def candidate(self, request: pytest.FixtureRequest) -> Callable[[Scene, str, Fault], None]:
        """Return a function that loses a candidate in this phase of the upgrade."""

        def lose(scene: Scene, sid: str, fault: Fault) -> None:
            websocket = load_clients.WebSocket(scene.proxy.port, sid)
            link = scene.proxy.link
            if request.param == "within the probe":
                link.cut_after(8, fault)
                websocket.send("2probe")
                link.cut.wait()
            else:
                if request.param == "after the probe":
                    websocket.probe()
                fault(link)
            websocket.wire.close()

        return lose

    def test_lost_candidate_resumes_polling(
        self, scene: Scene, candidate: Callable[[Scene, str, Fault], None], loss: str
    ) -> None:
        fault, _ = LOSSES[loss]
        client = load_clients.Polling(scene.server.port)
        candidate(scene, client.sid, fault)
        scene.eventually(lambda counts: not counts["upgrading"])
        assert client.call("echo", "still here") == ["still here"]
        assert scene.endings == []
        again = client.upgrade()
        assert again.call("echo", "now there") == ["now there"]
        again.goodbye()
        scene.check_ended(client.id, "transport close")

    def test_lost_connections_during_an_upgrade_end_the_session(
        self, scene: Scene, candidate: Callable[[Scene, str, Fault], None], loss: str
    ) -> None:
        fault, _ = LOSSES[loss]
        client = load_clients.Polling(scene.proxy.port)
        candidate(scene, client.sid, fault)
        scene.proxy.everything(fault)
        scene.wait_for_endings(2)
        scene.check_nothing_left()
        reason = scene.endings[0][2]
        # The probe ends the waiting GET: the loss is detected when its response is written, or
        # between two GETs by ping timeout.
        assert reason in (LOSSES[loss][1], "transport error", "ping timeout")
        assert scene.endings == [[stage, client.id, reason] for stage in ("disconnect", "finish")]


class TestHeldCloses:
    """One side closes, and the other does not receive the FIN."""

    def test_unnoticed_close_of_the_client_ends_with_ping_timeout(self, scene: Scene) -> None:
        client = load_clients.WebSocket(scene.proxy.port)
        scene.proxy.link.hold_closes()
        client.stop_reading()
        client.wire.close()
        scene.check_ended(client.id, "ping timeout")

    def test_close_by_the_server_without_response_releases_the_socket(self, scene: Scene) -> None:
        client = load_clients.WebSocket(scene.proxy.port)
        before = scene.server.counts()["descriptors"]
        scene.proxy.link.hold_closes()
        client.emit("kick")
        scene.wait_for_endings(2)
        # The server closes its side although the proxy keeps the other one open.
        scene.eventually(lambda counts: counts["descriptors"] < before)
        scene.check_ended(client.id, "server namespace disconnect")


class TestSlowNetworks:
    """Delayed and fragmented data arrives completely and in order."""

    @pytest.fixture(params=["a byte at a time", "late"])
    def slow_proxy(self, scene: Scene, request: pytest.FixtureRequest) -> Proxy:
        if request.param == "late":
            scene.proxy.latency = 0.02
        else:
            scene.proxy.piece = 1
        return scene.proxy

    @pytest.mark.parametrize("transport", [load_clients.WebSocket, load_clients.Polling])
    def test_messages_over_a_slow_network_arrive_in_order(
        self, scene: Scene, slow_proxy: Proxy, transport: Any
    ) -> None:
        events = Journal()
        client = transport(slow_proxy.port)
        client.heard = events.append
        expected = [["message", f"{number} äß€ 😀"] for number in range(20)]
        for _, message in expected:
            client.emit("back", message)
        events.wait(lambda events: len(events) >= len(expected))
        assert events == expected
        client.send("41")
        scene.check_ended(client.id, "client namespace disconnect")

    def test_upgrade_over_a_slow_network_succeeds(self, scene: Scene, slow_proxy: Proxy) -> None:
        polling = load_clients.Polling(slow_proxy.port)
        client = polling.upgrade()
        assert client.call("echo", "there") == ["there"]
        client.goodbye()
        scene.check_ended(client.id, "transport close")


class TestUpgradeRaces:
    """A client upgrades to a WebSocket while both sides are sending."""

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Iterator[Scene]:
        # With the default timeouts, for busy machines.
        with load_clients.running(tmp_path) as server:
            server.warm_up()
            with scene_of(server) as scene:
                yield scene

    def test_numbered_messages_stay_in_order_over_many_upgrades(self, scene: Scene) -> None:
        count, upgrades = 12, scaled(500, 100)

        def live(turn: int) -> list[int]:
            client: Any = load_clients.Polling(scene.server.port)
            sending = gevent.spawn(self.send_numbers, client, count)
            for _ in range(turn % 7):  # varies the moment of the upgrade
                gevent.sleep(0)
            websocket = client.upgrade()
            sending.get()
            received: list[int] = websocket.call("numbers")[0]
            assert client.events == [["message", number] for number in range(count)]
            websocket.goodbye()
            return received

        assert load_clients.together(live, upgrades) == [list(range(count))] * upgrades
        endings = scene.wait_for_endings(2 * upgrades)
        assert {reason for _, _, reason in endings} == {"transport close"}
        scene.check_nothing_left()

    @staticmethod
    def send_numbers(client: load_clients.Polling, count: int) -> None:
        for number in range(count):
            client.emit("number", number)
