"""Connection state recovery between processes: moves of sessions, over a real Redis.

Most tests use two or three runtimes in this process, each with a server, as processes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import ANY

import gevent
import gevent.event
import pytest
import web
from gevent.lock import BoundedSemaphore, Semaphore

from tests.conftest import Site
from tests.faults import Fault, Link, Proxy
from tests.recovery_client import RecoveringClient
from tests.redis_server import LONG_TIMEOUT, RedisServer, extend_redis_timeouts
from webpy_socketio import (
    Runtime,
    Socket,
    adopted_sessions,
    move_decisions,
    parked_sessions,
    released_sessions,
    session_handover,
    session_moves,
    socketio_urls,
)
from webpy_socketio.adopted_sessions import ADOPT, Offer, Readiness
from webpy_socketio.backplane.commands import RedisCommands
from webpy_socketio.exceptions import BackplaneError
from webpy_socketio.plugins import presence
from webpy_socketio.plugins.admin.reporter import Reporter
from webpy_socketio.recoverable_socket import RecoverableSocket
from webpy_socketio.recovery_directory import digest
from webpy_socketio.released_sessions import CLAIM, CONFIRM
from webpy_socketio.testing import TestServer

pytestmark = [pytest.mark.time_limit(60), pytest.mark.usefixtures("long_redis_timeouts")]

TIME = 120


class Node(Site):
    """A server with a runtime of its own, as a process."""

    def __init__(self, redis: RedisServer, **options: Any) -> None:
        values = {"backplane": redis.url, "recovery_time": TIME, **options}
        self.runtime = Runtime()
        self.stages: list[str] = []
        for stage in self.runtime.signals.stages:
            stage.connect(self._recorder(stage.name))
        super().__init__((), {}, runtime=self.runtime, **values)

    def _recorder(self, name: str) -> Callable[..., None]:
        return lambda sender, **extra: self.stages.append(name)

    @property
    def recovery(self) -> Any:
        return self.runtime.registry.recovery

    @property
    def id(self) -> str:
        assert self.runtime.registry.backplane is not None
        return self.runtime.registry.backplane.node

    def find(self, client: Client) -> Any:
        """Return the socket of a client, or None if it is not here."""
        return self.runtime.registry.find(client.id)


class Client(RecoveringClient):
    """A client that knows its server."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.node = node

    def lose(self, reset: bool = True) -> None:
        """Lose the connection, and wait until the server has detected it."""
        socket = self.node.find(self)
        self.raw.vanish(reset)
        while not socket.suspended:
            gevent.sleep(0.001)

    def resume(self, server: Node) -> bool:  # type: ignore[override]
        self.node = server
        return super().resume(server)


@pytest.fixture
def start(redis: RedisServer) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(**options: Any) -> Node:
        nodes.append(Node(redis, **options))
        return nodes[-1]

    yield start
    for node in nodes:
        node.server.stop()


@pytest.fixture
def nodes(start: Callable[..., Node]) -> list[Node]:
    return [start() for _ in range(3)]


def settle(*nodes: Node) -> None:
    """Wait until all servers have received what all servers have published."""
    for node in nodes:
        node.runtime.emit_to_servers("settle", timeout=LONG_TIMEOUT)


def lose_replies(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, *command: str, times: int = 1
) -> list[Any]:
    """Make calls of a method fail after Redis has executed their commands.

    Returns:
        The arguments of the calls that have failed.
    """
    function, failed = getattr(target, name), []

    def execute(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        if args[: len(command)] == command and len(failed) < times:
            failed.append(args)
            raise BackplaneError("the connection failed before the reply")
        return result

    monkeypatch.setattr(target, name, execute)
    return failed


class FakeClock:
    """A clock that tests advance, in place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class TestMove:
    def test_session_moves_to_another_server(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.subscribe("room-1")
        one.find(client).context["name"] = "Ann"
        session_id = client.id
        client.lose()
        assert client.resume(two)
        socket = two.find(client)
        assert client.id == session_id
        assert (socket.channels, socket.context) == (("room-1",), {"name": "Ann"})
        assert socket.connected
        assert one.find(client) is None
        client.barrier()
        settle(*nodes)
        assert one.stages == ["connecting", "connect", "subscribing", "subscribe", "suspend"]
        assert two.stages == ["connecting", "resume"]
        assert not one.server._dispatcher._open

    def test_move_is_logged_without_the_secret(
        self, nodes: list[Node], caplog: pytest.LogCaptureFixture
    ) -> None:
        one, two, _ = nodes
        caplog.set_level(logging.DEBUG, "webpy_socketio")
        client = Client(one)
        client.lose()
        assert client.resume(two)
        name = digest(client.pid)
        for line in (
            f"claim of session {name} by {two.id}: claim",
            f"claim of session {name} on {one.id}: claim",
            f"move of session {name} to {two.id}: moved",
            f"move of session {name} from {one.id}: moved",
        ):
            assert line in caplog.messages
        assert client.pid.partition(".")[0] not in caplog.text

    def test_missed_messages_of_every_sender_follow_once_and_in_order(
        self, nodes: list[Node], redis: RedisServer
    ) -> None:
        one, two, three = nodes
        client = Client(one)
        client.subscribe("room")
        one.find(client).emit("before", "received")
        assert client.event() == ["before", "received"]
        client.lose()
        expected = []
        for name, node in zip(("one", "two", "three"), nodes, strict=True):
            node.runtime.broadcast(f"{name} to all")
            node.runtime.broadcast_channel(f"{name} to the channel", "room")
            node.runtime.send(client.id, f"{name} to the socket")
            node.runtime.to("other").send("not addressed")
            node.runtime.everyone.except_("room").send("excluded")
            settle(node)
            expected += [f"{name} to {whom}" for whom in ("all", "the channel", "the socket")]
        topic = "webpy_socketio:1:channel:/,room"
        redis.ask("PUBLISH", topic, '{"v":1}\n["message","emitter to the channel"]')
        settle(*nodes)
        assert client.resume(two)
        assert client.messages(10) == [*expected, "emitter to the channel"]
        three.runtime.broadcast_channel("newer", "room")
        assert client.event() == ["message", "newer"]
        client.barrier()

    def test_session_moves_before_its_server_has_detected_the_loss(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        old = client.raw
        one.runtime.broadcast("sent to the old connection")
        settle(one)
        assert client.resume(two)
        assert client.messages(1) == ["sent to the old connection"]
        assert old.event()[1] == "sent to the old connection"
        assert old.receive() == "41"
        client.barrier()

    def test_client_that_is_lost_again_receives_each_message_once(self, nodes: list[Node]) -> None:
        client = Client(nodes[0])
        received = []
        for number in range(9):
            client.lose()
            node = nodes[(number + 1) % 3]
            nodes[number % 3].runtime.broadcast(number)
            settle(*nodes)
            assert client.resume(node)
            received += client.messages(1)
            client.barrier()
        assert received == list(range(9))

    def test_messages_that_were_not_received_are_sent_again(self, nodes: list[Node]) -> None:
        one, two, three = nodes
        client = Client(one)
        client.lose()
        for number in range(3):
            one.runtime.broadcast(number)
        settle(*nodes)
        assert client.resume(two)
        assert client.messages(1) == [0]
        two.runtime.broadcast(3)
        client.lose()  # before it has read the other ones
        two.runtime.broadcast(4)
        settle(*nodes)
        assert client.resume(three)
        assert client.messages(2) == [1, 2]
        three.runtime.broadcast(5)
        client.lose()
        assert client.resume(three)  # an offset of the first server
        assert client.messages(3) == [3, 4, 5]
        client.lose()
        settle(*nodes)
        one.runtime.broadcast(6)
        assert client.resume(one)  # an offset of the third server
        assert client.messages(1) == [6]
        client.lose()
        assert client.resume(one)
        client.barrier()

    def test_volatile_event_confirms_the_messages_before_it(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        one.runtime.broadcast("missed")
        settle(one, two)
        assert client.resume(two)
        assert client.messages(1) == ["missed"]
        two.runtime.everyone.volatile.send("volatile")
        assert client.messages(1) == ["volatile"]
        client.lose()
        assert client.resume(two)
        client.barrier()

    def test_offset_of_the_first_server_is_valid_after_a_return_to_it(
        self, nodes: list[Node]
    ) -> None:
        one, two, _ = nodes
        client = Client(one)
        one.runtime.broadcast(0)
        one.runtime.broadcast(1)
        assert client.messages(1) == [0]  # the offset of the first message
        client.lose()
        assert client.resume(two)
        client.lose()
        for number in range(2, 5):
            one.runtime.broadcast(number)
        settle(*nodes)
        assert client.resume(one)
        assert client.messages(4) == [1, 2, 3, 4]
        client.barrier()

    def test_server_that_was_left_is_asked_after_its_end(
        self, start: Callable[..., Node], nodes: list[Node]
    ) -> None:
        one, two, three = nodes
        client = Client(one)
        client.lose()
        assert client.resume(two)
        client.lose()
        settle(two)
        one.server.stop()
        two.runtime.broadcast("missed")
        assert client.resume(three)
        assert client.messages(1) == ["missed"]

    def test_claim_is_redirected_while_the_directory_is_not_written(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, three = nodes
        client = Client(one)
        client.lose()
        monkeypatch.setattr(two.recovery.moves._directory, "add", lambda pid: None)
        assert client.resume(two)
        client.lose()
        assert client.resume(three)

    def test_handler_that_runs_delays_the_move(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        order: list[str] = []
        runs, proceed = gevent.event.Event(), gevent.event.Event()

        @one.runtime.events.on_event("slow")
        def slow(request: Any, socket: Socket, context: Any) -> None:
            runs.set()
            proceed.wait()
            context["done"] = True
            order.append("handler")

        @two.runtime.events.on_resume
        def on_resume(request: Any, socket: Socket, context: Any, missed: int) -> None:
            order.append(f"resume {context}")

        client = Client(one)
        client.raw.emit("slow")
        runs.wait()
        client.raw.vanish()
        gevent.get_hub().loop.timer(0.05).start(proceed.set)
        assert client.resume(two)
        client.barrier()
        assert order == ["handler", "resume {'done': True}"]

    def test_handler_that_runs_longer_than_a_move_may_take_delays_it(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, _ = nodes
        runs, proceed = gevent.event.Event(), gevent.event.Event()

        @one.runtime.events.on_event("slow")
        def slow(request: Any, socket: Socket, context: Any) -> None:
            runs.set()
            proceed.wait()
            context["done"] = True

        client, other = Client(one), Client(one)
        client.raw.emit("slow")
        runs.wait()
        client.raw.vanish()
        moves: list[str] = []
        fetch = two.recovery.moves._adopted._fetch_in_time

        def count(*args: Any) -> None:
            moves.append(args[0])
            if len(moves) == 5:
                assert other.resume(two), "a client that waits must not delay others"
                proceed.set()
            fetch(*args)

        monkeypatch.setattr(two.recovery.moves._adopted, "_fetch_in_time", count)
        assert client.resume(two)
        assert two.find(client).context == {"done": True}
        assert moves.count(client.pid) >= 4

    def test_handler_that_ends_when_the_wait_for_it_ends_does_not_prevent_the_move(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        take_over, claims = one.recovery.take_over, []

        def be_late_once(claim: Any, timeout: float | None = None) -> bool:
            claims.append(claim)
            return take_over(claim, timeout) and len(claims) > 1

        monkeypatch.setattr(one.recovery, "take_over", be_late_once)
        assert client.resume(two)
        assert len(claims) == 2

    def test_newer_client_wins_while_a_handler_runs(self, nodes: list[Node]) -> None:
        one, two, three = nodes
        runs, proceed = gevent.event.Event(), gevent.event.Event()

        @one.runtime.events.on_event("slow")
        def slow(request: Any, socket: Socket, context: Any) -> None:
            runs.set()
            proceed.wait()

        client = Client(one)
        client.raw.emit("slow")
        runs.wait()
        client.raw.vanish()
        auth = json.dumps({"pid": client.pid})
        older, newer = two.websocket(), three.websocket()
        older.send(f"40{auth}")
        while one.find(client).claim is None:
            gevent.sleep(0.001)
        newer.send(f"40{auth}")
        assert "resumed by another connection" in str(older.receive())
        proceed.set()
        assert client.id in str(newer.receive())

    def test_credentials_of_the_handshake_do_not_move(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        socket = one.find(client)
        socket.request.update(HTTP_AUTHORIZATION="Basic YTpi", HTTP_COOKIE="session=1")
        one.server.stop()
        moved = two.find(client) or nodes[2].find(client)
        assert moved.request["HTTP_COOKIE"] == "session=1"
        assert "HTTP_AUTHORIZATION" not in moved.request

    def test_channels_that_change_during_the_claim_move_with_the_session(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, three = nodes
        client = Client(one)
        client.subscribe("left")
        client.lose()
        socket = one.find(client)
        backplane = two.runtime.registry.backplane
        wait = backplane.wait
        changes = [lambda: socket.subscribe("joined"), lambda: socket.unsubscribe("left")]

        def change_and_wait(*topics: Any) -> None:
            if changes:
                changes.pop(0)()
            wait(*topics)

        monkeypatch.setattr(backplane, "wait", change_and_wait)
        assert client.resume(two)
        assert two.find(client).channels == ("joined",)
        three.runtime.to("left").send("not held")
        three.runtime.broadcast_channel("held", "joined")
        assert client.messages(1) == ["held"]

    @pytest.mark.parametrize("step", ["_decide", "_request"])
    def test_subscription_of_all_sockets_during_a_move_remains(
        self, nodes: list[Node], step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, three = nodes
        client = Client(one)
        client.subscribe("room")
        client.lose()
        adopted = two.recovery.moves._adopted
        proceed = getattr(adopted, step)

        def subscribe(*args: Any) -> Any:
            three.runtime.everyone.subscribe("joined")
            settle(three)
            return proceed(*args)

        monkeypatch.setattr(adopted, step, subscribe)
        assert client.resume(two)
        assert sorted(two.find(client).channels) == ["joined", "room"]
        one.runtime.broadcast_channel("held", "joined")
        assert client.messages(1) == ["held"]

    @pytest.mark.parametrize("step", ["_decide", "_request"])
    def test_disconnect_of_all_sockets_during_a_move_ends_the_session_once(
        self, nodes: list[Node], step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, three = nodes
        client = Client(one)
        client.subscribe("room")
        client.lose()
        adopted = two.recovery.moves._adopted
        proceed = getattr(adopted, step)

        def disconnect(*args: Any) -> Any:
            three.runtime.everyone.disconnect()
            settle(three)
            return proceed(*args)

        monkeypatch.setattr(adopted, step, disconnect)
        assert not client.resume(two)
        settle(*nodes)
        last = ["disconnect", "unsubscribe", "finish"]
        ended = [stage for node in nodes for stage in node.stages if stage in last]
        assert ended == last
        client.raw.vanish()
        two.find(client).disconnect()
        assert two.runtime.registry.namespace("/").users == len(two.server._dispatcher._open)

    def test_time_of_a_session_is_over_once(self, start: Callable[..., Node]) -> None:
        one, two = (start(recovery_time=3) for _ in range(2))
        client = Client(one)
        client.subscribe("room")
        client.lose()
        assert client.resume(two)
        client.lose()
        while "finish" not in two.stages:
            gevent.sleep(0.01)
        assert [stage for stage in one.stages if stage in ("disconnect", "finish")] == []
        assert two.stages[-3:] == ["disconnect", "unsubscribe", "finish"]
        assert not client.resume(one)

    @pytest.mark.parametrize("parser", ["json", "msgpack"])
    def test_messages_with_bytes_move(self, redis: RedisServer, parser: str) -> None:
        one, two = (
            TestServer(
                web.application(socketio_urls, {}),
                runtime=Runtime(),
                plugins=[],
                backplane=redis.url,
                recovery_time=TIME,
                parser=parser,
                namespaces=["/", "/chat"],
            ).start()
            for _ in range(2)
        )
        client = one.connect("/chat")
        client.lose()
        one._runtime.broadcast({"data": b"one"}, namespace="/chat")
        two._runtime.broadcast({"data": b"two"}, namespace="/chat")
        one._runtime.emit_to_servers("settle", timeout=LONG_TIMEOUT)
        two._runtime.emit_to_servers("settle", timeout=LONG_TIMEOUT)
        client._server = two
        client.browser = two.browser()
        assert client.resume()
        assert client.received("message") == [{"data": b"one"}, {"data": b"two"}]
        for server in (two, one):  # each restores the clock of its start
            server.stop()


class TestNewConnection:
    """What prevents a recovery."""

    def test_context_that_is_not_json(
        self, nodes: list[Node], caplog: pytest.LogCaptureFixture
    ) -> None:
        one, two, _ = nodes
        client = Client(one)
        one.find(client).context.update(name="Ann", place={1, 2})
        client.lose()
        assert not client.resume(two)
        settle(*nodes)
        assert [record.getMessage() for record in caplog.records if "place" in record.message] == [
            record.getMessage() for record in caplog.records if record.levelname == "WARNING"
        ]
        assert len([record for record in caplog.records if "place" in record.message]) == 1
        assert one.stages[-2:] == ["disconnect", "finish"]
        client.lose()
        assert client.resume(two), "the new one is recoverable"

    def test_gate_that_rejects_ends_the_socket_once(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()

        @two.runtime.events.on_connecting
        def gate(request: Any, socket: Socket, context: Any) -> bool:
            return False

        raw = two.websocket()
        raw.send("40" + json.dumps({"pid": client.pid}))
        assert str(raw.receive()).startswith("44")
        while "finish" not in two.stages:
            gevent.sleep(0.001)
        settle(*nodes)
        assert one.stages == ["connecting", "connect", "suspend"]
        assert two.stages == ["connecting", "error", "disconnect", "finish"]

    @pytest.mark.parametrize(
        "pid",
        ["", "x" * 32 + ".", "x" * 32 + "." + "0" * 16, "x" * 32 + ".servers", "y" * 60_000],
        ids=["empty", "no node", "dead node", "no such form", "oversized"],
    )
    def test_forged_pid(self, nodes: list[Node], pid: str) -> None:
        one, two, _ = nodes
        client = Client(one)
        raw = two.websocket()
        reply = raw.connect(json.dumps({"pid": pid, "offset": "x.1"}))
        assert reply["sid"] != client.id
        client.barrier()

    def test_guessed_secret_of_a_known_node(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        node = client.pid.rpartition(".")[2]
        assert node == one.id
        reply = two.websocket().connect(json.dumps({"pid": f"{'x' * 32}.{node}"}))
        assert reply["sid"] != client.id
        client.barrier()

    @pytest.mark.parametrize(
        "offset",
        ["", "x", "x.", ".1", "x.-1", "x." + "9" * 30, "z" * 60_000, 7, None, ["x"]],
        ids=lambda offset: repr(offset)[:12],
    )
    def test_forged_offset_is_ignored(self, nodes: list[Node], offset: Any) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        one.runtime.broadcast("missed")
        settle(one)
        client.offset = offset
        assert client.resume(two)
        assert client.messages(1) == ["missed"]

    def test_offset_of_the_future(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        client.offset = f"{one.recovery.epoch}.99"
        assert not client.resume(two)

    def test_pid_of_another_namespace(self, start: Callable[..., Node]) -> None:
        one, two = (start(namespaces=["/", "/chat"]) for _ in range(2))
        client = Client(one)
        raw = two.websocket()
        raw.send("40/chat," + json.dumps({"pid": client.pid}))
        assert client.id not in str(raw.receive())
        client.barrier()

    def test_gap_in_the_messages_of_other_servers(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        one.runtime.registry.report_gap("another node", 1, None)
        assert not client.resume(two)


class TestOutage:
    """Redis is unreachable at some point of a move: a new connection, and last stages once."""

    @pytest.fixture
    def proxy(self, redis: RedisServer) -> Iterator[Proxy]:
        """A proxy between the second server and Redis."""
        proxy = Proxy(redis.port)
        yield proxy
        proxy.close()

    @pytest.fixture
    def pair(
        self, start: Callable[..., Node], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> list[Node]:
        monkeypatch.setattr(released_sessions, "CONFIRM_TIMEOUT", 0.5)
        for name in ("TIMEOUT", "CONFIRM_TIMEOUT"):
            monkeypatch.setattr(adopted_sessions, name, 1.0)
        return [start(), start(backplane=f"redis://127.0.0.1:{proxy.port}")]

    @pytest.mark.parametrize(
        "fault", [Link.black_hole, Link.reset], ids=["no answer", "connection reset"]
    )
    def test_before_the_move(
        self,
        pair: list[Node],
        proxy: Proxy,
        fault: Fault,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        one, two = pair
        client = Client(one)
        client.lose()
        proxy.everything(fault)
        extend_redis_timeouts(monkeypatch, 1.0)
        assert not client.resume(two)
        assert one.runtime.registry.find(client.id) is None
        assert "could not resume" in caplog.text

    @pytest.mark.parametrize("step", ["_request", "_decide"])
    def test_between_two_steps(
        self, pair: list[Node], proxy: Proxy, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = pair
        monkeypatch.setattr(move_decisions, "DECISION_TIME", 1.0)
        client = Client(one)
        client.lose()
        adopted = two.recovery.moves._adopted
        proceed = getattr(adopted, step)

        def fail(*args: Any) -> Any:
            proxy.everything(Link.black_hole)
            extend_redis_timeouts(monkeypatch, 1.0)
            return proceed(*args)

        monkeypatch.setattr(adopted, step, fail)
        assert not client.resume(two)
        assert two.find(client) is not None
        if step == "_decide":
            while "finish" not in one.stages:
                gevent.sleep(0.01)
        else:
            (socket,) = one.server._dispatcher._open
            assert socket.suspended
        while len(two.server._dispatcher._open) > 1:
            gevent.sleep(0.01)
        assert "finish" not in two.stages

    def test_lost_reply_to_a_decision_leaves_the_session_to_one_server(
        self, pair: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = pair
        client = Client(one)
        client.lose()
        decisions = two.recovery.moves._adopted._decisions
        lose_replies(monkeypatch, decisions, "_try_to_decide")
        assert client.resume(two)
        two.find(client).disconnect()
        while "finish" not in two.stages:
            gevent.sleep(0.01)
        assert "finish" not in one.stages

    def test_session_is_left_to_the_other_server_without_a_confirmation(
        self, pair: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = pair
        client = Client(one)
        client.lose()
        asked: list[Any] = []
        monkeypatch.setitem(
            one.runtime.cluster.requests._handlers,
            CONFIRM,
            (lambda incoming, reply: asked.append(incoming), False),
        )
        assert client.resume(two)
        while one.server._dispatcher._open:  # until it has asked Redis
            gevent.sleep(0.01)
        assert asked
        assert "finish" not in one.stages
        two.find(client).disconnect()
        while "finish" not in two.stages:
            gevent.sleep(0.01)

    def test_server_that_does_not_answer_delays_clients_once(
        self, pair: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = pair
        clients = [Client(one) for _ in range(4)]
        for client in clients:
            client.lose()
        requests, asked = one.runtime.cluster.requests, []
        monkeypatch.setitem(
            requests._handlers, CLAIM, (lambda incoming, reply: asked.append(incoming), True)
        )
        two.recovery.moves._adopted._limit = BoundedSemaphore(1)
        jobs = [gevent.spawn(client.resume, two) for client in clients]
        assert [job.get() for job in jobs] == [False] * 4
        assert len(asked) == 1


class TestClaims:
    def test_newer_claim_wins(self, nodes: list[Node]) -> None:
        one, two, three = nodes
        client = Client(one)
        client.lose()
        runs, proceed = gevent.event.Event(), gevent.event.Event()

        @two.runtime.events.on_connecting
        def gate(request: Any, socket: Socket, context: Any) -> None:
            runs.set()
            proceed.wait()

        older = two.websocket()
        auth = json.dumps({"pid": client.pid})
        older.send(f"40{auth}")
        runs.wait()
        assert client.resume(three)
        proceed.set()
        assert "resumed by another connection" in str(older.receive())
        client.barrier()

    def test_servers_that_claim_at_once_give_one_connection(self, nodes: list[Node]) -> None:
        one, *others = nodes
        client = Client(one)
        for _ in range(10):
            client.lose()
            raws = [node.websocket() for node in others]
            for raw in raws:
                raw.send("40" + json.dumps({"pid": client.pid}))
            replies = [str(raw.receive()) for raw in raws]
            resumed = [index for index, reply in enumerate(replies) if client.pid in reply]
            assert resumed, replies
            client.raw, client.node = raws[resumed[-1]], others[resumed[-1]]
            if len(resumed) == 2:  # one after the other: the older one was closed
                alive = [index for index, node in enumerate(others) if node.find(client)]
                assert len(alive) == 1
                client.raw, client.node = raws[alive[0]], others[alive[0]]
            client.barrier()

    def test_superseded_claim_passes_no_gate(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        adopted = two.recovery.moves._adopted
        request = adopted._request

        def claim_again(*args: Any) -> Any:
            assert one.recovery.moves._released.offer(one.find(client), None)
            return request(*args)

        monkeypatch.setattr(adopted, "_request", claim_again)
        older = two.websocket()
        older.send("40" + json.dumps({"pid": client.pid}))
        assert "resumed by another connection" in str(older.receive())
        settle(two)
        assert two.stages == []

    def test_newer_claim_of_the_same_server_wins(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        older, newer = two.websocket(), two.websocket()
        auth = json.dumps({"pid": client.pid})
        older.send(f"40{auth}")
        newer.send(f"40{auth}")
        replies = sorted(str(raw.receive())[:2] for raw in (older, newer))
        assert replies in (["40", "40"], ["40", "44"])

    def test_client_continues_when_the_move_that_it_waited_for_has_failed(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        adopted, waits = two.recovery.moves._adopted, gevent.event.Event()
        wait, request = adopted.wait, adopted._request

        def wait_and_report(*args: Any) -> None:
            waits.set()
            wait(*args)

        def request_late(*args: Any) -> Any:
            waits.wait()
            return request(*args)

        monkeypatch.setattr(adopted, "wait", wait_and_report)
        monkeypatch.setattr(adopted, "_request", request_late)
        host, until = two.server._dispatcher, time.monotonic() + LONG_TIMEOUT
        replaced = Offer(client.pid, "/", 0, client.id, ())
        move = gevent.spawn(adopted.adopt, one.id, [replaced], host, until)
        while client.pid not in adopted._moving:
            gevent.sleep(0.001)
        assert client.resume(two)
        assert move.get() == ["changed"]

    def test_client_continues_when_its_older_connection_has_given_up(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        adopted, waits = two.recovery.moves._adopted, gevent.event.Event()
        wait, fetch = adopted.wait, adopted._fetch_in_time

        def wait_and_report(*args: Any) -> None:
            waits.set()
            wait(*args)

        def give_up(pid: str, node: str, connection: Any, *args: Any) -> None:
            monkeypatch.setattr(adopted, "_fetch_in_time", fetch)
            older.vanish(reset=True)
            waits.wait()
            while connection.deciding:
                gevent.sleep(0.001)
            fetch(pid, node, connection, *args)

        monkeypatch.setattr(adopted, "wait", wait_and_report)
        monkeypatch.setattr(adopted, "_fetch_in_time", give_up)
        older = two.websocket()
        older.send("40" + json.dumps({"pid": client.pid}))
        while client.pid not in adopted._fetching:
            gevent.sleep(0.001)
        assert client.resume(two)

    def test_session_does_not_move_to_a_connection_that_was_closed_after_the_claim(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Otherwise it could arrive on a server that has left its own sessions and stops."""
        one, two, three = nodes
        client = Client(one)
        client.lose()
        adopted = two.recovery.moves._adopted
        fetch, claim = adopted._fetch, adopted._claim
        connections: list[Any] = []

        def remember(pid: str, node: str, connection: Any, *args: Any) -> None:
            connections.append(connection)
            fetch(pid, node, connection, *args)

        def close_after_claim(*args: Any) -> Any:
            answer = claim(*args)
            raw.vanish(reset=True)
            while connections[0].deciding:
                gevent.sleep(0.001)
            return answer

        monkeypatch.setattr(adopted, "_fetch", remember)
        monkeypatch.setattr(adopted, "_claim", close_after_claim)
        raw = two.websocket()
        raw.send("40" + json.dumps({"pid": client.pid}))
        while not connections or adopted._fetching:
            gevent.sleep(0.001)
        assert two.find(client) is None
        assert one.find(client).suspended
        assert client.resume(three)


class TestStop:
    """A server stops: its sessions move to other servers, or wait in Redis."""

    def test_suspended_session_moves_to_another_server(self, nodes: list[Node]) -> None:
        one, two, three = nodes
        client = Client(one)
        client.subscribe("room")
        one.find(client).context["name"] = "Ann"
        one.find(client).emit("before", "received")
        client.event()
        client.lose()
        one.runtime.broadcast("before the stop")
        settle(*nodes)
        one.server.stop()
        assert "finish" not in one.stages
        three.runtime.broadcast_channel("after the stop", "room")
        settle(two, three)
        assert client.resume(three)
        assert client.messages(2) == ["before the stop", "after the stop"]
        assert three.find(client).context == {"name": "Ann"}
        client.barrier()
        assert three.stages == ["connecting", "resume"]

    def test_session_that_moved_elsewhere_after_a_claim_is_claimed_there(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, three = nodes
        client = Client(one)
        client.lose()
        adopted = two.recovery.moves._adopted
        request = adopted._request

        def move_elsewhere(*args: Any) -> Any:
            monkeypatch.setattr(adopted, "_request", request)
            one.recovery.moves._handover._offer_to(three.id, [one.find(client)])
            assert three.find(client) is not None
            return request(*args)

        monkeypatch.setattr(adopted, "_request", move_elsewhere)
        assert client.resume(two)
        assert three.find(client) is None

    @pytest.mark.parametrize("has_moved", [False, True], ids=["offered", "moved"])
    def test_session_that_was_offered_elsewhere_during_a_claim_is_claimed_again(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch, has_moved: bool
    ) -> None:
        one, two, three = nodes
        client = Client(one)
        client.lose()
        take_over, moves = one.recovery.take_over, one.recovery.moves
        monkeypatch.setattr(three.recovery.moves._directory, "add", lambda pid: None)

        def offer_meanwhile(*args: Any) -> bool:
            monkeypatch.setattr(one.recovery, "take_over", take_over)
            has_ended = take_over(*args)
            if has_moved:
                moves._handover._offer_to(three.id, [one.find(client)])
                assert three.find(client) is not None
            else:
                assert moves._released.offer(one.find(client))
            return bool(has_ended)

        monkeypatch.setattr(one.recovery, "take_over", offer_meanwhile)
        assert client.resume(two)

    def test_offer_does_not_replace_the_claim_of_a_client(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client has claimed the session after the server has selected it for an offer."""
        one, two, three = nodes
        client = Client(one)
        client.lose()
        adopted, handover = two.recovery.moves._adopted, one.recovery.moves._handover
        request, requests = adopted._request, []
        monkeypatch.setattr(handover, "_late", math.inf)

        def offer_before(*args: Any) -> Any:
            requests.append(args)
            handover._offer_to(three.id, [one.find(client)])
            return request(*args)

        monkeypatch.setattr(adopted, "_request", offer_before)
        assert client.resume(two)
        assert len(requests) == 1

    def test_server_that_stops_waits_for_the_confirmation_of_a_move(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, _ = nodes
        monkeypatch.setattr(released_sessions, "CONFIRM_TIMEOUT", LONG_TIMEOUT)
        client = Client(one)
        client.lose()
        released, adopted = one.recovery.moves._released, two.recovery.moves._adopted
        decide, expire, proceed = adopted._decide, released.expire, gevent.event.Event()
        is_given_up = gevent.event.Event()

        def monotonic() -> float:
            proceed.set()
            return time.monotonic()

        def expire_and_report() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(released_sessions, "monotonic", monotonic)  # the wait has begun
                expire()
            proceed.set()

        def decide_late(*args: Any) -> Any:
            is_given_up.set()
            proceed.wait()
            return decide(*args)

        monkeypatch.setattr(released, "expire", expire_and_report)
        monkeypatch.setattr(adopted, "_decide", decide_late)
        resuming = gevent.spawn(client.resume, two)
        is_given_up.wait()
        one.server.stop()
        assert resuming.get()
        assert "finish" not in one.stages

    def test_connected_client_is_closed_and_resumes(self, nodes: list[Node]) -> None:
        one, two, _ = nodes
        clients = [Client(one) for _ in range(5)]
        one.server.stop()
        for number, client in enumerate(clients):
            client.raw.wait_closed()
            two.runtime.broadcast(number)
            assert client.resume(two)
            assert client.messages(number + 1) == list(range(number + 1))
        assert "disconnect" not in one.stages

    def test_adopted_session_keeps_its_time_and_ends_once(self, start: Callable[..., Node]) -> None:
        one, two = start(), start()
        client = Client(one)
        client.subscribe("room")
        address = []

        @two.runtime.events.on_disconnect
        def on_disconnect(request: Any, socket: Socket, context: Any) -> None:
            address.append((web.ctx.ip, request["REMOTE_ADDR"], socket.channels))

        client.lose()
        one.recovery.suspensions.remaining = lambda socket: 0.01
        one.server.stop()
        while "finish" not in two.stages:
            gevent.sleep(0.01)
        assert two.stages == ["disconnect", "unsubscribe", "finish"]
        assert one.stages[-1] == "suspend"
        assert address == [("127.0.0.1", "127.0.0.1", ("room",))]
        assert not client.resume(two)

    def test_all_servers_stop_and_one_starts(
        self, start: Callable[..., Node], nodes: list[Node]
    ) -> None:
        clients = [Client(node) for node in nodes]
        for number, client in enumerate(clients):
            client.subscribe("room")
            nodes[number].find(client).context["number"] = number
        clients[0].lose()
        nodes[0].runtime.broadcast("missed by the lost one")
        for client in clients[1:]:
            client.event()
        gevent.joinall([gevent.spawn(node.server.stop) for node in nodes], raise_error=True)
        assert [stage for node in nodes for stage in node.stages if stage == "finish"] == []
        again = start()
        assert len(again.runtime.sockets()) == 3
        again.runtime.broadcast_channel("newer", "room")
        for number, client in enumerate(clients):
            assert client.resume(again)
            assert again.find(client).context == {"number": number}
            expected = ["missed by the lost one", "newer"] if number == 0 else ["newer"]
            assert client.messages(len(expected)) == expected
            client.barrier()

    def test_parked_session_contains_what_its_senders_count_as_received(
        self, start: Callable[..., Node], redis: RedisServer
    ) -> None:
        one = start()
        client = Client(one)
        client.lose()
        counted = []
        topics = [f"webpy_socketio:1:session:,{client.id}", "webpy_socketio:1:all:/,"]

        def publish() -> None:
            for number in range(10_000):
                envelope = f'{{"v":1}}\n["message",{number}]'
                if not redis.ask("PUBLISH", topics[number % 2], envelope):
                    return
                counted.append(number)

        publisher = gevent.spawn(publish)
        while len(counted) < 20:
            gevent.sleep(0)
        one.server.stop()
        publisher.get()
        again = start()
        assert client.resume(again)
        assert client.messages(len(counted)) == counted
        client.barrier()

    def test_parked_session_that_cannot_be_restored_does_not_affect_others(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(socket: RecoverableSocket, session: Any, offered: Any) -> None:
            if session.session_id == clients[0].id:
                raise ValueError("not restored")
            restore(socket, session, offered)

        restore = RecoverableSocket.restore
        one = start()
        clients = [Client(one), Client(one)]
        for client in clients:
            client.lose()
        one.server.stop()
        monkeypatch.setattr(RecoverableSocket, "restore", fail)
        again = start()
        assert [socket.session_id for socket in again.runtime.sockets()] == [clients[1].id]
        monkeypatch.setattr(adopted_sessions, "TIMEOUT", 1.0)  # as no server has the other session
        assert [client.resume(again) for client in clients] == [False, True]

    def test_parked_bundle_with_unknown_contents_does_not_prevent_the_start(
        self, start: Callable[..., Node], redis: RedisServer
    ) -> None:
        one = start()
        client = Client(one)
        client.lose()
        key = one.recovery.moves._parked._key
        one.server.stop()
        (bundle,) = redis.ask("HVALS", key)
        unknown = bundle.replace(b'"channels":[]', b'"channels":7')
        assert unknown != bundle
        redis.ask("HSET", key, "unknown", unknown)
        again = start()
        assert client.resume(again)

    def test_parked_bundle_with_an_unknown_session_leaves_nothing_behind(
        self, start: Callable[..., Node], redis: RedisServer
    ) -> None:
        one = start()
        clients = [Client(one) for _ in range(3)]
        for name, client in zip(("a", "b", "c"), clients, strict=True):
            client.subscribe(name)
            client.lose()
        key = one.recovery.moves._parked._key
        one.server.stop()
        ((number, bundle),) = redis.ask("HGETALL", key).items()
        unknown = bundle.replace(b'"channels":["b"]', b'"channels":["b",{}]')
        assert unknown != bundle
        redis.ask("HSET", key, number, unknown)
        again = start()
        assert again.runtime.sockets() == []
        while redis.topics():
            gevent.sleep(0.01)

    def test_time_of_a_parked_session_is_over(self, start: Callable[..., Node]) -> None:
        one = start()
        client = Client(one)
        client.lose()
        one.recovery.suspensions.remaining = lambda socket: 0.01
        one.server.stop()
        assert "finish" not in one.stages
        again = start()
        while "finish" not in again.stages:
            gevent.sleep(0.01)
        assert again.stages == ["disconnect", "finish"]
        assert not client.resume(again)

    def test_parked_session_is_not_lost_if_redis_replies_late(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = start()
        client = Client(one)
        client.lose()
        one.server.stop()
        monkeypatch.setattr(session_moves, "START_TIMEOUT", 0.001)
        again = start()
        assert client.resume(again)

    def test_session_is_found_that_was_parked_while_another_server_ran(
        self, nodes: list[Node]
    ) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.lose()
        for node in nodes:  # as if all of them were about to stop
            node.recovery.moves.stop_adopting(node.server._dispatcher)
        one.server.stop()
        assert client.resume(two)

    def test_session_moves_to_a_server_that_stops_later(
        self, start: Callable[..., Node], redis: RedisServer
    ) -> None:
        one, two = start(), start()
        client = Client(one)
        client.lose()
        two.recovery.moves.stop_adopting(two.server._dispatcher)  # it closes its connections
        one.server.stop()
        topic = "webpy_socketio:1:all:/,"
        assert redis.ask("PUBLISH", topic, '{"v":1}\n["message","between the stops"]') == 1
        two.server.stop()
        again = start()
        assert client.resume(again)
        assert client.messages(1) == ["between the stops"]

    def test_servers_that_stop_at_once_lose_no_counted_message(
        self, start: Callable[..., Node], nodes: list[Node], redis: RedisServer
    ) -> None:
        clients = [Client(node) for node in nodes]
        for client in clients:
            client.lose()
        counted = []

        def publish() -> None:
            for number in range(100_000):
                envelope = f'{{"v":1}}\n["message",{number}]'
                if not redis.ask("PUBLISH", "webpy_socketio:1:all:/,", envelope):
                    return
                counted.append(number)

        publisher = gevent.spawn(publish)
        while len(counted) < 20:
            gevent.sleep(0)
        gevent.joinall([gevent.spawn(node.server.stop) for node in nodes], raise_error=True)
        publisher.get()
        again = start()
        for client in clients:
            assert client.resume(again)
            assert client.messages(len(counted)) == counted
            client.barrier()

    def test_server_that_starts_waits_for_one_that_parks(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = start()
        client = Client(one)
        client.lose()
        parked = one.recovery.moves._handover._parked
        push = parked.push
        starting: list[Any] = []

        def start_and_push(*args: Any) -> None:
            starting.append(gevent.spawn(start))
            assert not starting[0].join(0.2)
            assert not starting[0].ready(), "it must wait"
            push(*args)

        monkeypatch.setattr(parked, "push", start_and_push)
        one.server.stop()
        again = starting[0].get()
        assert again.find(client) is not None
        assert client.resume(again)

    def test_lost_reply_to_a_parked_bundle_repeats_nothing(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = start()
        client = Client(one)
        client.lose()
        moves = one.recovery.moves
        failed = lose_replies(monkeypatch, moves._commands, "execute", "HSET", moves._parked._key)
        one.server.stop()
        assert failed
        again = start()
        assert len(again.runtime.sockets()) == 1
        assert client.resume(again)

    def test_attempts_to_park_sessions_have_time_for_a_reply(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_handover, "PARK_TIMEOUT", 0.35)
        one = start()
        client = Client(one)
        client.lose()
        moves = one.recovery.moves
        timeouts: list[float] = []
        execute = moves._commands.execute

        def fail(*command: Any, timeout: float) -> Any:
            if command[:2] != ("HSET", moves._parked._key):
                return execute(*command, timeout=timeout)
            timeouts.append(timeout)
            raise BackplaneError("Redis is unreachable")

        monkeypatch.setattr(moves._commands, "execute", fail)
        one.server.stop()
        assert len(timeouts) > 1
        assert min(timeouts) >= parked_sessions._INTERVAL

    def test_bundle_that_a_server_could_not_confirm_is_not_taken(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_handover, "PARK_TIMEOUT", 0.3)
        one = start()
        client = Client(one)
        client.lose()
        moves = one.recovery.moves
        command = ("HSET", moves._parked._key)
        assert not lose_replies(monkeypatch, moves._commands, "execute", *command, times=1000)
        one.server.stop()
        assert one.stages[-2:] == ["disconnect", "finish"]
        again = start()
        assert again.runtime.sockets() == []
        assert not client.resume(again)

    @pytest.mark.parametrize("command", ["HGET", "HKEYS"])
    def test_bundle_whose_reply_was_lost_is_read_again(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        one = start()
        client = Client(one)
        client.lose()
        one.server.stop()
        with monkeypatch.context() as patch:
            failed = lose_replies(patch, RedisCommands, "execute", ANY, command)
            again = start()
        assert failed
        assert again.runtime.sockets() == []
        assert client.resume(again)

    def test_bundle_is_taken_by_one_of_several_servers(self, start: Callable[..., Node]) -> None:
        one = start()
        clients = [Client(one) for _ in range(5)]
        for client in clients:
            client.lose()
        one.server.stop()
        jobs = [gevent.spawn(start) for _ in range(3)]
        others = [job.get() for job in jobs]
        found = [node.find(client) for client in clients for node in others]
        assert sum(socket is not None for socket in found) == len(clients)
        for client in clients:
            assert client.resume(others[0])
        assert not [stage for node in others for stage in node.stages if stage == "finish"]

    def test_handover_takes_as_long_as_the_other_server_needs(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The clock of the handover advances with each request only."""
        clock = FakeClock()
        monkeypatch.setattr(session_handover, "time", clock)
        monkeypatch.setattr(session_handover, "STALL_TIME", LONG_TIMEOUT)
        monkeypatch.setattr(session_handover, "FIRST_CHUNK", 4)
        one, two = start(), start()
        clients = [Client(one) for _ in range(12)]
        for client in clients:
            client.lose()
        handlers = two.runtime.cluster.requests._handlers
        adopt, chunks = handlers[ADOPT][0], []

        def adopt_slowly(incoming: Any, reply: Any) -> None:
            clock.now += 0.9 * LONG_TIMEOUT
            chunks.append(incoming)
            adopt(incoming, reply)

        monkeypatch.setitem(handlers, ADOPT, (adopt_slowly, True))
        one.server.stop()
        assert all(two.find(client) for client in clients)
        assert len(chunks) == 8  # of 4, 2, 1, 1, 1, 1, 1 and 1 sessions
        assert "finish" not in one.stages

    def test_handover_ends_without_progress(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = FakeClock()
        monkeypatch.setattr(session_handover, "time", clock)
        monkeypatch.setattr(session_handover, "PAUSE", 0.0)
        one, two = start(), start()
        client = Client(one)
        client.lose()

        def refuse(incoming: Any, reply: Any) -> None:
            clock.now += session_handover.STALL_TIME / 2
            reply.finish(has_failed=True)

        monkeypatch.setitem(two.runtime.cluster.requests._handlers, ADOPT, (refuse, True))
        one.server.stop()
        assert one.stages[-2:] == ["disconnect", "finish"]
        assert not client.resume(two)

    def test_session_stays_in_a_process_with_another_server(
        self, start: Callable[..., Node]
    ) -> None:
        one = start()
        other = Site(
            (),
            {},
            runtime=one.runtime,
            backplane=one.server.settings.backplane,
            recovery_time=TIME,
        )
        client = Client(one)
        socket = one.find(client)
        client.lose()
        one.server.stop()
        assert socket.suspended
        assert RecoveringClient.resume(client, other)
        assert one.find(client) is socket
        other.server.stop()

    def test_redis_is_unreachable(
        self, start: Callable[..., Node], redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = Proxy(redis.port)
        one = start(backplane=f"redis://127.0.0.1:{proxy.port}")
        client = Client(one)
        client.lose()
        proxy.everything(Link.black_hole)
        extend_redis_timeouts(monkeypatch, 1.0)
        one.server.stop()
        assert one.stages[-2:] == ["disconnect", "finish"]
        proxy.close()

    def test_redis_fails_after_some_sessions_are_parked(
        self, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_handover, "BUNDLE", 1)
        one = start()
        clients = [Client(one), Client(one)]
        for client in clients:
            client.lose()
        parked = one.recovery.moves._handover._parked
        push = parked.push

        def push_once(sessions: Any, until: float) -> None:
            push(sessions, until)
            monkeypatch.setattr(parked, "push", fail)

        def fail(sessions: Any, until: float) -> None:
            raise BackplaneError("Redis did not reply")

        monkeypatch.setattr(parked, "push", push_once)
        one.server.stop()
        assert one.stages.count("finish") == 1
        again = start()
        assert sorted(client.resume(again) for client in clients) == [False, True]

    def test_session_cannot_move_while_it_is_parked(
        self, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two, _ = nodes
        client = Client(one)
        client.subscribe("room")
        client.lose()
        for node in nodes[1:]:  # as if they had handed over their sessions
            node.recovery.moves._adopted.readiness = Readiness.NONE
        parked = one.recovery.moves._handover._parked
        push, resumed = parked.push, []

        def push_later(sessions: Any, until: float) -> None:
            resumed.append(gevent.spawn(client.resume, two))
            settle(two)  # the claim has arrived
            gevent.sleep(0.1)
            push(sessions, until)

        monkeypatch.setattr(parked, "push", push_later)
        one.server.stop()
        assert resumed[0].get()
        settle(*nodes[1:])
        assert not two.recovery.moves._handover._parked._commands.execute(
            "EXISTS", parked._key, timeout=LONG_TIMEOUT
        )

    def test_offset_that_has_left_the_log_is_not_recovered(
        self, start: Callable[..., Node]
    ) -> None:
        one, two = (start(recovery_messages=2) for _ in range(2))
        client, other = Client(one), Client(one)
        for number in range(5):
            one.runtime.broadcast(number)
        assert other.messages(5) == list(range(5))
        client.lose()
        other.lose()
        one.server.stop()
        assert other.resume(two)
        assert not client.resume(two)


class Course:
    """Random sends, joins, leaves, losses and resumes, and what a client must have received."""

    def __init__(
        self, seed: int, nodes: list[Node], redis: RedisServer, start: Callable[..., Node]
    ) -> None:
        self.random = random.Random(seed)
        self.nodes = list(nodes)
        self.start = start
        self.redis = redis
        # Sends of a server without clients take another path.
        self.others = [node.connect() for node in nodes if self.random.random() < 0.5]
        self.client = Client(nodes[0])
        self.sent = 0
        self.expected: dict[str, list[int]] = defaultdict(list)
        self.received: list[tuple[str, int]] = []
        self.is_member = False
        self.finished = False
        self.sending = Semaphore()

    def run(self, steps: int, with_restarts: bool) -> None:
        sender = gevent.spawn(self.send_all)
        try:
            self._act(sender, steps, with_restarts)
        finally:
            self.finished = True
        sender.get()
        settle(*self.nodes)
        self.read_all()

    def _act(self, sender: Any, steps: int, with_restarts: bool) -> None:
        actions = [self.move, self.move, self.change, self.read]
        if with_restarts:
            actions.append(self.restart)
        for _ in range(steps):
            assert not sender.dead, "sending has failed"
            self.random.choice(actions)()
            gevent.sleep(self.random.choice([0, 0, 0.001, 0.005]))

    def send_all(self) -> None:
        while not self.finished:
            for _ in range(self.random.randint(1, 4)):
                with self.sending:
                    self.send()
            gevent.sleep(self.random.choice([0, 0, 0.0005, 0.002]))

    def send(self) -> None:
        self.sent += 1
        number, whom = self.sent, self.random.choice(["all", "room", "socket"])
        node = self.random.choice(self.senders())
        if whom == "room" and not self.is_member:
            whom = "all"
        name = self.name("emitter" if node is None else node.id, whom)
        args = [name, number]
        self.expected[name].append(number)
        if node is None:
            where = {
                "all": "all:/,",
                "room": "channel:/,room",
                "socket": f"session:,{self.client.id}",
            }
            body = json.dumps(["message", args])
            self.publish(f"webpy_socketio:1:{where[whom]}", '{"v":1}\n' + body)
        elif whom == "all":
            node.runtime.broadcast(args)
        elif whom == "room":
            self.send_to_room(node, args)
        else:
            node.runtime.send(self.client.id, args)

    def send_to_room(self, node: Node, args: list[Any]) -> None:
        node.runtime.broadcast_channel(args, "room")

    def senders(self) -> list[Node | None]:
        """Return all senders; None is an emitter."""
        return [*self.nodes, None]

    def name(self, sender: str, whom: str) -> str:
        """Return the name of an order of messages."""
        return sender

    def publish(self, topic: str, envelope: str) -> None:
        assert self.redis.ask("PUBLISH", topic, envelope), f"no server receives {topic}"

    def move(self) -> None:
        if self.random.random() < 0.5:
            self.read()
        if self.random.random() < 0.5:
            self.client.lose(self.random.random() < 0.5)
        else:
            self.client.raw.vanish(self.random.random() < 0.5)
        gevent.sleep(self.random.choice([0, 0, 0.001, 0.003]))
        assert self.client.resume(self.random.choice(self.nodes)), "nothing prevents the recovery"

    def restart(self) -> None:
        """Stop a server and start another one, while the others send and receive."""
        with self.sending:  # a server that stops sends nothing
            node = self.nodes.pop(self.random.randrange(len(self.nodes)))
        if self.random.random() < 0.5:
            self.client.raw.vanish()
        node.server.stop()
        self.nodes.append(self.start(backplane=node.server.settings.backplane))
        if self.client.node is node or self.client.raw.sock.fileno() < 0:
            assert self.client.resume(self.random.choice(self.nodes))

    def change(self) -> None:
        """Join or leave the channel, while nothing is sent to it."""
        with self.sending:
            was_member, self.is_member = self.is_member, False
        settle(*self.nodes)
        event = "__unsubscribe__" if was_member else "__subscribe__"
        self.client.raw.emit(event, "room", ack=7)
        while (packet := str(self.client.raw.receive())) != '437[{"ok":true}]':
            self.add(packet)
        self.is_member = not was_member

    def read(self) -> None:
        """Read some of what the client has been sent."""
        for _ in range(self.random.randint(0, 5)):
            if len(self.received) >= self.sent:
                return
            self.add(str(self.client.raw.receive()))

    def read_all(self) -> None:
        self.client.raw.emit("__unsubscribe__", "barrier", ack=8)
        while (packet := str(self.client.raw.receive())) != '438[{"ok":true}]':
            self.add(packet)

    def add(self, packet: str) -> None:
        assert packet.startswith("42["), packet
        _, (name, number), self.client.offset = json.loads(packet[2:])
        self.received.append((name, number))


class TestCourses:
    """Random courses: each message once, in the order of its sender."""

    @pytest.fixture(params=[0.0, 0.001], ids=["at once", "delayed"])
    def nodes(
        self, request: pytest.FixtureRequest, redis: RedisServer, start: Callable[..., Node]
    ) -> Iterator[list[Node]]:
        proxies = [Proxy(redis.port) for _ in range(3)]
        for proxy, factor in zip(proxies, (1, 3, 0), strict=True):
            proxy.latency = factor * request.param
        yield [start(backplane=f"redis://127.0.0.1:{proxy.port}") for proxy in proxies]
        for proxy in proxies:
            proxy.latency = 0.0

    @pytest.mark.parametrize("with_restarts", [False, True], ids=["moves", "restarts"])
    @pytest.mark.parametrize("seed", range(int(os.environ.get("COURSES", "2"))))
    def test_each_message_is_received_once_and_in_order(
        self,
        nodes: list[Node],
        redis: RedisServer,
        start: Callable[..., Node],
        seed: int,
        with_restarts: bool,
    ) -> None:
        course = Course(seed, nodes, redis, start)
        course.run(40, with_restarts)
        received: dict[str, list[int]] = defaultdict(list)
        for name, number in course.received:
            received[name].append(number)
        assert received == course.expected


class TestPlugins:
    def test_presence_sees_neither_leave_nor_join(self, start: Callable[..., Node]) -> None:
        options = {"plugins": ["webpy_socketio.plugins.presence"], "presence_grace": 1}
        one, two = (start(**options) for _ in range(2))
        seen: list[Any] = []
        for signal in (presence.joined, presence.left, presence.updated):
            signal.connect(lambda sender, signal=signal, **values: seen.append(signal), weak=False)
        client, watcher = Client(one), Client(two)
        client.subscribe("room")
        watcher.subscribe("room")
        presence.track(one.find(client), "room", "Ann", {"status": "typing"})

        def members(node: Node) -> Any:
            return presence.members("room", runtime=node.runtime)

        before = members(two)
        assert before["Ann"] == [{"status": "typing"}]
        while len(seen) < 4:  # two joins by session id, a leave, and a join as Ann
            gevent.sleep(0.01)
        seen.clear()
        client.lose()
        assert client.resume(two)
        name, state = client.event()
        assert (name, state["members"]) == ("presence_state", before)
        assert members(one) == members(two) == before
        one.server.stop()
        assert members(two) == before
        assert seen == []
        two.find(client).disconnect()
        while not seen:
            gevent.sleep(0.01)
        assert seen == [presence.left]
        assert "Ann" not in members(two)

    def test_admins_see_a_socket_on_one_server(self, start: Callable[..., Node]) -> None:
        class Admin:
            def __init__(self) -> None:
                self.listed: set[str] = set()

            def emit(self, event: str, *args: Any) -> None:
                if event == "all_sockets":
                    self.listed = {socket["id"] for socket in args[0]}
                elif event == "socket_connected":
                    self.listed.add(args[0]["id"])
                elif event == "socket_disconnected":
                    self.listed.discard(args[1])

        nodes = [start() for _ in range(2)]
        admins = [Admin(), Admin()]
        for node, admin in zip(nodes, admins, strict=True):
            Reporter(["/"], True, 1_000_000, node.runtime).add(admin)
        client, other = Client(nodes[0]), Client(nodes[1])
        client.lose()
        assert client.resume(nodes[1])
        client.barrier()
        assert [admin.listed for admin in admins] == [set(), {client.id, other.id}]

    def test_follower_of_a_history_receives_each_message_once(
        self, start: Callable[..., Node]
    ) -> None:
        options = {
            "plugins": ["webpy_socketio.plugins.history"],
            "history": {"^room-": {"size": 10, "ttl": 60}},
        }
        one, two = (start(**options) for _ in range(2))
        client, other = Client(one), Client(two)
        other.subscribe("room-1")
        wanted = {"channel": "room-1", "limit": 10, "follow": True}
        assert client.raw.call("history", wanted) == [{"ok": True}]
        client.raw.emit("__subscribe__", "room-1", ack=1)
        packets = sorted([str(client.raw.receive()), str(client.raw.receive())])
        start_event = json.loads(packets[0][2:])
        since = {"epoch": start_event[1]["epoch"], "offset": start_event[1]["offset"]}
        client.lose()
        one.runtime.broadcast_channel("missed", "room-1")
        settle(one, two)
        assert client.resume(two)
        two.runtime.broadcast_channel("newer", "room-1")
        client.raw.emit("history", {**wanted, "since": since}, ack=2)
        found = []
        while "newer" not in str(found) or "432" not in str(found) or "missed" not in str(found):
            found.append(str(client.raw.receive()))
        assert not [packet for packet in found if packet.startswith('42["message"')]
        assert other.messages(2) == ["missed", "newer"]


def test_numbered_messages_and_their_answers_move(nodes: list[Node]) -> None:
    one, two, _ = nodes
    seen: list[Any] = []

    @one.runtime.events.on_event("add")
    def add(request: Any, socket: Socket, context: Any, value: Any) -> Any:
        seen.append(value)
        return value

    @one.runtime.events.on_event("reverse")
    def reverse(request: Any, socket: Socket, context: Any, value: bytes) -> bytes:
        return value[::-1]

    @one.runtime.events.on_event("later")
    def later(request: Any, socket: Socket, context: Any) -> None:
        socket.withhold_acknowledgement()

    two.runtime.events.on_event("add")(add)
    client = Client(one)
    client.raw.emit("__numbered__", 1, "add", "one", ack=1)
    client.raw.send('451-2["__numbered__",2,"reverse",{"_placeholder":true,"num":0}]')
    client.raw.send(b"abc")
    client.raw.emit("__numbered__", 3, "later", ack=3)
    binary_answer = '461-2[{"_placeholder":true,"num":0}]', b"cba"
    assert [client.raw.receive() for _ in range(3)] == ['431["one"]', *binary_answer]
    client.barrier()
    client.lose()
    client.raw = two.websocket()
    reply = client.raw.connect(json.dumps({"pid": client.pid}))
    assert (reply["pid"], reply["received"]) == (client.pid, 3)
    for number in (1, 2, 3):
        client.raw.emit("__numbered__", number, ack=number)
    assert [client.raw.receive() for _ in range(3)] == ['431["one"]', *binary_answer]
    assert client.raw.event() == ["__received__", 3, 3]  # was deferred by a handler of the server
    client.raw.emit("__numbered__", 3, "add", "repeated")
    client.raw.emit("__numbered__", 4, "add", "two")
    client.barrier()
    assert seen == ["one", "two"]
