"""What networks do to connections: each fault on each transport, at each moment of its life.

Whatever happens, `disconnect` and `finish` come once, with the right reason, nothing is left
behind, and a client that is connected beside it notices nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from . import load_clients
from .conftest import Journal
from .faults import Fault, Link, Proxy
from .load_clients import CountedServer, Counts

pytestmark = [pytest.mark.patience(60), pytest.mark.torture]

#: Deadlines short enough to be waited for, long enough for those who answer.
OPTIONS = {
    "ping_interval": 0.2,
    "ping_timeout": 1.0,
    "upgrade_timeout": 0.3,
    "write_timeout": 0.5,
    "header_timeout": 2.0,
    "body_timeout": 2.0,
    "idle_timeout": 1.5,
}

#: How a connection is lost, and how that is told.
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
    """A server, a proxy in front of it, and a client that is connected beside the proxy."""

    def __init__(self, server: CountedServer) -> None:
        self.server = server
        self._told = len(server.endings())
        self.bystander = load_clients.WebSocket(server.port)
        self.bystander.subscribe("beside")
        self.before = server.counts()
        self.proxy = Proxy(server.port)

    @property
    def endings(self) -> list[list[str]]:
        """Who ended in this scene: ``[stage, session id, reason]``, in order."""
        return self.server.endings()[self._told :]

    def wait_for_endings(self, count: int) -> list[list[str]]:
        """Wait until so many stages have been told, and return all that were."""
        while len(endings := self.endings) < count:
            gevent.sleep(0.02)
        return endings

    def check_ended(self, session_id: str, reason: str) -> None:
        """Wait for `disconnect` and `finish` of a client; nothing else ended, nothing is left."""
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
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedServer]:
    with load_clients.running(tmp_path_factory.mktemp("impatient"), **OPTIONS) as server:
        server.warm_up()
        yield server


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedServer]:
    """A server that pings nobody as long as a test runs."""
    with load_clients.running(
        tmp_path_factory.mktemp("calm"), **{**OPTIONS, "ping_interval": 600.0}
    ) as server:
        server.warm_up()
        yield server


@contextmanager
def scene_of(server: CountedServer) -> Iterator[Scene]:
    scene = Scene(server)
    yield scene
    scene.proxy.close()
    load_clients.close_all()
    # The next scene has the same server: let this one's clients be gone.
    server.eventually(lambda counts: not counts["sessions"] + counts["sockets"])


@pytest.fixture
def scene(impatient: CountedServer) -> Iterator[Scene]:
    with scene_of(impatient) as scene:
        yield scene


@pytest.fixture
def at_rest(loss: str, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A scene in which a poll that waits goes on waiting.

    A heartbeat lets it go, and between two polls there is no connection that could be seen to be lost:
    what is told then is that the pong is missing. Only a black hole is noticed by nothing else.
    """
    name = "impatient" if loss == "black hole" else "calm"
    with scene_of(request.getfixturevalue(name)) as scene:
        yield scene


class TestLoss:
    """The network loses a connection that rests."""

    def test_of_a_websocket(self, scene: Scene, loss: str) -> None:
        fault, reason = LOSSES[loss]
        client = load_clients.WebSocket(scene.proxy.port)
        client.subscribe("a")
        fault(scene.proxy.link)
        scene.check_ended(client.id, reason)

    def test_of_a_waiting_poll(self, at_rest: Scene, loss: str) -> None:
        scene = at_rest
        fault, reason = LOSSES[loss]
        client = load_clients.Polling(scene.proxy.port)
        client.subscribe("a")
        scene.eventually(lambda counts: counts["waiting"])
        scene.proxy.everything(fault)
        scene.check_ended(client.id, reason)

    def test_of_a_websocket_that_took_over(self, scene: Scene, loss: str) -> None:
        fault, reason = LOSSES[loss]
        polling = load_clients.Polling(scene.proxy.port)
        client = polling.upgrade()
        client.subscribe("a")
        fault(scene.proxy.link)
        scene.check_ended(client.id, reason)


class TestMidMessage:
    """The network loses a connection in the middle of what the client says."""

    @pytest.mark.parametrize("passed", [1, 5, 20], ids=lambda count: f"after {count} bytes")
    def test_of_a_websocket(self, scene: Scene, loss: str, passed: int) -> None:
        fault, reason = LOSSES[loss]
        client = load_clients.WebSocket(scene.proxy.port)
        scene.proxy.link.cut_after(passed, fault)
        client.emit("echo", "x" * 1000)
        scene.proxy.link.cut.wait()
        scene.check_ended(client.id, reason)

    @pytest.mark.parametrize("passed", [1, 300], ids=["in its head", "in its body"])
    def test_of_a_post(self, at_rest: Scene, loss: str, passed: int) -> None:
        scene = at_rest
        fault, reason = LOSSES[loss]
        client = load_clients.Polling(scene.proxy.port)
        posts = scene.proxy.link
        posts.cut_after(passed, fault)
        sending = gevent.spawn(self.try_to_send, client)
        posts.cut.wait()
        if loss != "black hole":
            sending.join()
            if passed == 1:
                # Half a head says nothing of whose it is; the client gives up by itself.
                client.vanish()
            else:
                reason = "transport error"  # of half a body it is known, and what it said is lost
        else:
            scene.proxy.everything(fault)
        scene.check_ended(client.id, reason)

    @staticmethod
    def try_to_send(client: load_clients.Polling) -> None:
        with pytest.raises(load_clients.Gone):
            client.emit("echo", "x" * 1000)


class TestMidUpgrade:
    """The network loses a WebSocket that is to replace long-polling."""

    @pytest.fixture(params=["before the probe", "within the probe", "after the probe"])
    def candidate(self, request: pytest.FixtureRequest) -> Callable[[Scene, str, Fault], None]:
        """Let a WebSocket come as far as this, and then have it lost."""

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

    def test_polling_goes_on(
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

    def test_everything_is_lost_at_once(
        self, scene: Scene, candidate: Callable[[Scene, str, Fault], None], loss: str
    ) -> None:
        fault, _ = LOSSES[loss]
        client = load_clients.Polling(scene.proxy.port)
        candidate(scene, client.sid, fault)
        scene.proxy.everything(fault)
        scene.wait_for_endings(2)
        scene.check_nothing_left()
        reason = scene.endings[0][2]
        # The probe lets the poll go: the loss may be seen as its answer is written, or, between two
        # polls, not before the pong is missing.
        assert reason in (LOSSES[loss][1], "transport error", "ping timeout")
        assert scene.endings == [[stage, client.id, reason] for stage in ("disconnect", "finish")]


class TestHeldCloses:
    """One side closes, and the other one never hears of it."""

    def test_a_client_whose_end_is_not_heard(self, scene: Scene) -> None:
        client = load_clients.WebSocket(scene.proxy.port)
        scene.proxy.link.hold_closes()
        client.stop_reading()
        client.wire.close()
        scene.check_ended(client.id, "ping timeout")

    def test_a_client_that_never_ends_its_side(self, scene: Scene) -> None:
        client = load_clients.WebSocket(scene.proxy.port)
        before = scene.server.counts()["descriptors"]
        scene.proxy.link.hold_closes()
        client.emit("kick")
        scene.wait_for_endings(2)
        # The server's side goes, though the proxy keeps its own.
        scene.eventually(lambda counts: counts["descriptors"] < before)
        scene.check_ended(client.id, "server namespace disconnect")


class TestSlowLines:
    """Late and in pieces, but whole: nothing is lost, doubled or out of order."""

    @pytest.fixture(params=["a byte at a time", "late"])
    def line(self, scene: Scene, request: pytest.FixtureRequest) -> Proxy:
        if request.param == "late":
            scene.proxy.latency = 0.02
        else:
            scene.proxy.piece = 1
        return scene.proxy

    @pytest.mark.parametrize("transport", [load_clients.WebSocket, load_clients.Polling])
    def test_all_comes_in_order(self, scene: Scene, line: Proxy, transport: Any) -> None:
        heard = Journal()
        client = transport(line.port)
        client.heard = heard.append
        expected = [["message", f"{number} äß€ 😀"] for number in range(20)]
        for _, message in expected:
            client.emit("back", message)
        heard.wait(lambda heard: len(heard) >= len(expected))
        assert heard == expected
        client.send("41")
        scene.check_ended(client.id, "client namespace disconnect")

    def test_an_upgrade(self, scene: Scene, line: Proxy) -> None:
        polling = load_clients.Polling(line.port)
        client = polling.upgrade()
        assert client.call("echo", "there") == ["there"]
        client.goodbye()
        scene.check_ended(client.id, "transport close")


class TestUpgradeRaces:
    """While both sides send, a client goes over to a WebSocket."""

    @pytest.fixture
    def scene(self, tmp_path: Path) -> Iterator[Scene]:
        # With deadlines that a busy machine keeps.
        with load_clients.running(tmp_path) as server:
            server.warm_up()
            with scene_of(server) as scene:
                yield scene

    def test_numbered_messages_stay_in_order_over_500_upgrades(self, scene: Scene) -> None:
        count = 12

        def live(turn: int) -> list[int]:
            client: Any = load_clients.Polling(scene.server.port)
            sending = gevent.spawn(self.send_numbers, client, count)
            for _ in range(turn % 7):  # at another moment each time
                gevent.sleep(0)
            websocket = client.upgrade()
            sending.get()
            received: list[int] = websocket.call("numbers")[0]
            assert client.events == [["message", number] for number in range(count)]
            websocket.goodbye()
            return received

        assert load_clients.together(live, 500) == [list(range(count))] * 500
        endings = scene.wait_for_endings(1000)
        assert {reason for _, _, reason in endings} == {"transport close"}
        scene.check_nothing_left()

    @staticmethod
    def send_numbers(client: load_clients.Polling, count: int) -> None:
        for number in range(count):
            client.emit("number", number)
