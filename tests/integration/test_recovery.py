"""Connection state recovery within one process: stages, gates, positions and bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
import web

from tests.conftest import Site, socket_of
from tests.raw import Closed
from tests.redis_server import RedisServer, extend_redis_timeouts
from webpy_socketio import (
    ConfigurationError,
    Disconnected,
    EncodeError,
    NoSocket,
    Refused,
    Runtime,
    Socket,
    SocketIOServer,
    everyone,
    memberships,
    on_connecting,
    send,
    socketio_urls,
)
from webpy_socketio.engine.io.packets import CLOSE, Message
from webpy_socketio.plugins import presence
from webpy_socketio.testing import Client, TestServer

TIME = 120

_CLOSE_PACKET = Message(CLOSE)


def stages(records: list[Any], client: Client) -> list[str]:
    """Return the names of the recorded stages of a client's socket."""
    return [record.stage for record in records if record.socket is client.socket]


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture(params=["json", "msgpack"])
def start(runtime: Runtime, request: pytest.FixtureRequest) -> Iterator[Callable[..., TestServer]]:
    servers = []

    def start(**keywords: Any) -> TestServer:
        values = {"plugins": [], "recovery_time": TIME, "runtime": runtime, **keywords}
        values.setdefault("parser", request.param)
        servers.append(TestServer(web.application(socketio_urls, {}), **values).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start: Callable[..., TestServer]) -> TestServer:
    return start()


class TestFaultsOfTheReference:
    """Faults of connection state recovery in Socket.IO on Node, which must not occur here."""

    def test_client_without_an_event_recovers(self, server: TestServer, runtime: Runtime) -> None:
        # socketio/socket.io#4888 and #5538
        client = server.connect()
        client.lose()
        runtime.broadcast("missed")
        assert client.resume()
        assert client.received("message") == ["missed"]

    def test_idle_client_recovers_after_the_retention(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        # socketio/socket.io#5282
        client, busy = server.connect(), server.connect()
        busy.subscribe("room")
        runtime.broadcast("the last event of the client")
        for _ in range(100):
            server.advance(30)
            runtime.broadcast_channel("other", "room")
        assert len(runtime.registry.recovery.log) < 50
        client.lose()
        server.advance(TIME - 1)
        assert client.resume()
        assert client.received("message") == ["the last event of the client"]

    def test_client_that_is_lost_again_receives_each_message_once(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        # socketio/socket.io#5419
        client = server.connect()
        for number in range(5):
            client.lose()
            runtime.broadcast(number)
            assert client.resume()
        client.lose()
        assert client.resume()
        assert client.received("message") == [0, 1, 2, 3, 4]

    def test_client_recovers_before_the_server_has_detected_the_loss(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        # socketio/socket.io-redis-streams-adapter#26
        client = server.connect()
        socket = client.socket
        client.abort()
        runtime.broadcast("missed")
        assert socket.connected
        with server.record() as records:
            assert client.resume()
        assert client.socket is socket
        assert client.received("message") == ["missed"]
        assert stages(records, client) == ["suspend", "connecting", "resume"]


class TestResume:
    def test_socket_keeps_id_channels_and_context(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        client = server.connect()
        client.subscribe("room-1")
        socket, session_id = client.socket, client.id
        socket.context["name"] = "Ann"
        client.lose()
        assert (socket.connected, socket.suspended) == (False, True)
        assert socket.channels == ("room-1",)
        assert client.resume()
        assert (socket.connected, socket.suspended) == (True, False)
        assert (client.id, client.socket) == (session_id, socket)
        assert (socket.channels, socket.context) == (("room-1",), {"name": "Ann"})
        runtime.broadcast_channel("newer", "room-1")
        assert client.received("message") == ["newer"]

    def test_missed_messages_come_in_order_and_before_newer_ones(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        client = server.connect()
        client.subscribe("room")
        client.lose()
        runtime.broadcast(1)
        runtime.broadcast_channel(2, "room")
        runtime.send(client.id, 3)
        client.socket.emit("custom", 4, {"four": b"4"})
        runtime.to("other").send("not held")
        runtime.everyone.except_(client.socket).send("excluded")
        runtime.everyone.volatile.send("volatile")
        client.socket.volatile.send("volatile")

        @runtime.events.on_resume
        def on_resume(request: Any, socket: Socket, context: Any, missed: int) -> None:
            socket.send(f"{missed} missed")

        client.resume()
        assert [event.data for event in client.received()] == [
            *(1, 2, 3),
            [4, {"four": b"4"}],
            "4 missed",
        ]

    def test_only_messages_of_held_channels_are_sent_again(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        client = server.connect()
        client.subscribe("left")
        client.lose()
        runtime.broadcast_channel("before leaving", "left")
        runtime.to("joined").send("before joining")
        assert client.socket.unsubscribe("left")
        assert client.socket.subscribe("joined")
        runtime.to("left").send("after leaving")
        runtime.broadcast_channel("after joining", "joined")
        client.resume()
        assert client.received("message") == ["before leaving", "after joining"]

    def test_messages_of_other_threads_are_numbered_in_the_order_of_delivery(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        client = server.connect()
        client.lose()

        def send_all() -> None:
            for number in range(50):
                runtime.broadcast(number)

        gevent.get_hub().threadpool.apply(send_all)
        client.resume()
        assert client.received("message") == list(range(50))

    def test_suspended_socket_fails_calls_and_retains_messages(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        client = server.connect()
        client.lose()
        with pytest.raises(Disconnected, match="has not resumed"):
            client.socket.call("ask")

    def test_call_that_waits_fails_when_the_connection_is_lost(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        client = server.connect()
        call = gevent.spawn(client.socket.call, "ask")
        server.settle()
        client.lose()
        assert isinstance(call.get(block=True) if call.successful() else call.exception, Exception)
        assert isinstance(call.exception, Disconnected)

    def test_resume_waits_for_the_running_handler(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        order = []
        finished = gevent.event.Event()

        @runtime.events.on_event("slow")
        def slow(request: Any, socket: Socket, context: Any) -> None:
            finished.wait()
            order.append("handler")

        @runtime.events.on_resume
        def on_resume(request: Any, socket: Socket, context: Any, missed: int) -> None:
            order.append("resume")

        client = server.connect()
        client.emit("slow")
        client.lose()
        gevent.get_hub().loop.timer(0.02).start(finished.set)
        assert client.resume()
        assert order == ["handler", "resume"]

    def test_auth_of_handlers_has_no_secret(self, server: TestServer, runtime: Runtime) -> None:
        seen = []
        runtime.signals.connecting.connect(lambda sender, auth, **extra: seen.append(auth))
        client = server.connect(auth={"name": "Ann"})
        other = server.connect()
        for each in (client, other):
            each.lose()
            each.resume()
        assert seen == [{"name": "Ann"}, None, {"name": "Ann"}, None]
        assert client.socket.auth == {"name": "Ann"}

    def test_sent_signal_has_no_suspended_sockets_and_no_offset(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        seen = []

        @runtime.signals.sent.connect
        def sent(sender: Any, sockets: Any, read: Any, **extra: Any) -> None:
            seen.append((sockets, read()))

        one, other = server.connect(), server.connect()
        one.lose()
        runtime.broadcast("text")
        assert seen == [([other.socket], ["message", "text"])]


class TestHandlers:
    def test_handlers_receive_the_documented_arguments(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        calls: list[tuple[Any, ...]] = []

        @runtime.events.on_suspend(channel="^room-")
        def on_suspend(*args: Any) -> None:
            calls.append(args)

        @runtime.events.on_resume(channel="^room-")
        def on_resume(*args: Any) -> None:
            calls.append(args)

        client = server.connect()
        client.subscribe("room-1")
        request = client.socket.request
        client.lose()
        runtime.broadcast("missed")
        client.resume()
        socket = client.socket
        assert calls == [
            (request, socket, socket.context),
            (socket.request, socket, socket.context, 1),
        ]


class TestEnd:
    def test_stages_of_the_end_follow_when_the_time_is_over(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        with server.record() as records:
            client = server.connect()
            client.subscribe("room")
            client.lose()
            server.advance(TIME - 1)
            assert client.socket.suspended
            server.advance(2)
            assert not client.socket.suspended
        assert stages(records, client)[-4:] == ["suspend", "disconnect", "unsubscribe", "finish"]
        assert records[-1].reason == "transport close"
        with pytest.raises(NoSocket):
            runtime.send(client.id, "late")
        old = client.id
        assert not client.resume()
        assert client.id != old

    @pytest.mark.parametrize(
        "end",
        [
            Client.disconnect,
            Client.close,
            lambda client: client.socket.disconnect(),
            lambda client: client._websocket.send(_CLOSE_PACKET),
        ],
        ids=["DISCONNECT", "close code 1001", "server", "Engine.IO close packet"],
    )
    def test_client_that_is_known_to_be_gone_is_not_suspended(
        self, server: TestServer, end: Callable[[Client], None]
    ) -> None:
        with server.record() as records:
            client = server.connect()
            end(client)
            server.settle()
        assert stages(records, client) == ["connecting", "connect", "disconnect", "finish"]

    def test_disconnect_ends_a_suspended_socket(self, server: TestServer) -> None:
        client = server.connect()
        client.lose()
        with server.record() as records:
            client.socket.disconnect()
        assert [record.stage for record in records] == ["disconnect", "finish"]
        assert not client.resume()

    def test_stop_ends_suspended_sockets_with_all_stages(
        self, start: Callable[..., TestServer], runtime: Runtime
    ) -> None:
        seen: list[Any] = []
        for stage in (runtime.signals.disconnect, runtime.signals.finish):
            stage.connect(lambda sender, reason, **extra: seen.append(reason))
        server = start()
        server.connect().lose()
        server.stop()
        assert seen == ["server shutting down"] * 2
        assert runtime.registry.recovery is None

    def test_error_of_the_client_ends_its_socket(self, start: Callable[..., TestServer]) -> None:
        server = start()
        client = server.connect()
        client._websocket._protocol.send_text(b"4not a packet")
        client._websocket._flush()
        server.settle()
        assert not client.socket.suspended


class TestGates:
    @pytest.fixture
    def allowed(self, runtime: Runtime) -> list[bool]:
        allowed = [True]

        @runtime.events.on_connecting
        def gate(request: Any, socket: Socket, context: Any) -> None:
            if not allowed[0]:
                raise Refused("logged out")

        return allowed

    def test_refused_resume_ends_the_socket(self, server: TestServer, allowed: list[bool]) -> None:
        client = server.connect()
        client.lose()
        allowed[0] = False
        with server.record() as records, pytest.raises(Refused, match="logged out"):
            client.resume()
        assert [record.stage for record in records] == ["disconnect", "finish"]
        assert not client.socket.suspended

    def test_gates_are_skipped_with_the_setting(
        self, start: Callable[..., TestServer], allowed: list[bool]
    ) -> None:
        server = start(recovery_skip_gates=True)
        client = server.connect()
        client.lose()
        allowed[0] = False
        assert client.resume()

    def test_gate_receives_the_new_handshake(self, server: TestServer, runtime: Runtime) -> None:
        client = server.connect()
        client.lose()
        client.browser.headers = {"X-Place": "tunnel"}
        client.resume()
        assert client.socket.request["HTTP_X_PLACE"] == "tunnel"


class TestSecret:
    def test_pid_is_secret_and_differs_from_the_session_id(self, server: TestServer) -> None:
        client, other = server.connect(), server.connect()
        assert client._pid is not None
        assert len(client._pid) >= 22, "128 bits as base64"
        assert len({client._pid, client.id, other._pid, other.id}) == 4

    @pytest.mark.parametrize("pid", ["wrong", "", None, 7, ["list"], {"a": 1}])
    def test_wrong_pid_gets_a_new_connection(self, server: TestServer, pid: Any) -> None:
        client = server.connect()
        other = server.connect(auth={"pid": pid, "offset": "x"})
        assert client.connected
        assert client.socket.connected
        assert other.id != client.id
        assert other.socket.auth is None

    def test_pid_of_another_namespace_gets_a_new_connection(
        self, start: Callable[..., TestServer]
    ) -> None:
        server = start(namespaces=["/", "/admin"])
        client = server.connect()
        client.lose()
        other = server.connect("/admin", auth={"pid": client._pid})
        assert other.id != client.id
        assert client.resume()

    def test_pid_of_an_ended_socket_gets_a_new_connection(self, server: TestServer) -> None:
        client = server.connect()
        pid = client._pid
        client.disconnect()
        assert server.connect(auth={"pid": pid}).id != client.id

    def test_newer_connection_takes_over_and_the_older_one_is_closed(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        older = server.connect()
        newer = server.connect(auth={"pid": older._pid})
        assert newer.socket is older.socket
        assert newer.id == older.id
        assert (older.connected, older.reason) == (False, "io server disconnect")
        runtime.broadcast("text")
        assert older.received() == []
        assert newer.received("message") == ["text"]

    @pytest.mark.parametrize("offset", ["{}999", "{}-1", "{}x"])
    def test_forged_offset_gets_a_new_connection(
        self, server: TestServer, runtime: Runtime, offset: str
    ) -> None:
        client = server.connect()
        prefix = runtime.registry.recovery.log._prefix
        client.lose()
        client._offset = offset.format(prefix)
        assert not client.resume()


class TestBounds:
    def test_position_that_has_left_the_log_gets_a_new_connection(
        self, start: Callable[..., TestServer], runtime: Runtime
    ) -> None:
        server = start(recovery_messages=3)
        client = server.connect()
        with server.record() as records:
            client.lose()
            for number in range(4):
                runtime.send(client.id, number)
            socket = client.socket
            assert not client.resume()
        assert [record.stage for record in records if record.socket is socket] == [
            *("suspend", "disconnect", "finish"),
        ]
        assert client.received() == []

    def test_unknown_memberships_get_a_new_connection(
        self, server: TestServer, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memberships, "MAX_ENDED", 2)
        client = server.connect()
        client.lose()
        for number in range(3):
            client.socket.subscribe("room")
            runtime.broadcast_channel(number, "room")
            client.socket.unsubscribe("room")
        assert not client.resume()

    def test_messages_beyond_the_size_of_an_outbox_get_a_new_connection(
        self, start: Callable[..., TestServer], runtime: Runtime
    ) -> None:
        server = start(outbox_bytes=10_000)
        client = server.connect()
        client.lose()
        for _ in range(3):
            runtime.broadcast("x" * 4000)
        assert not client.resume()
        assert client.connected

    def test_message_of_the_maximum_size_is_delivered(
        self, start: Callable[..., TestServer], runtime: Runtime
    ) -> None:
        server = start(outbox_bytes=10_000, parser="json")
        client = server.connect()
        text = "x" * (10_000 - 64 - len('42["message",""]') - 4)
        client.socket.send(text)
        assert client.received("message") == [text]
        for function in (client.socket.send, runtime.broadcast):
            with pytest.raises(EncodeError):
                function(text + 20 * "x")  # without the offset, it would fit

    def test_suspended_sockets_of_an_address_are_limited(
        self, start: Callable[..., TestServer], runtime: Runtime
    ) -> None:
        server = start(max_sessions_per_address=2)
        clients = []
        for _ in range(4):
            clients.append(server.connect(address="192.0.2.1"))
            clients[-1].lose()
        assert [client.socket.suspended for client in clients] == [True, True, False, False]

    def test_suspended_sockets_are_limited(
        self, start: Callable[..., TestServer], runtime: Runtime
    ) -> None:
        server = start(max_sessions=2)
        clients = []
        for _ in range(4):
            clients.append(server.connect())
            clients[-1].lose()
        assert [client.socket.suspended for client in clients] == [False, False, True, True]

    def test_log_does_not_depend_on_the_number_of_recipients(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        clients = [server.connect() for _ in range(20)]
        runtime.broadcast("text")
        assert len(runtime.registry.recovery.log) == 1
        assert all(client.received("message") == ["text"] for client in clients)


class TestPresence:
    def test_suspended_member_stays_present(
        self, start: Callable[..., TestServer], runtime: Runtime
    ) -> None:
        server = start(plugins=["webpy_socketio.plugins.presence"], presence_grace=10)
        client = server.connect()
        client.subscribe("room")
        client.lose()
        server.advance(TIME - 1)
        assert presence.count("room", runtime=runtime) == 1
        server.advance(2)
        assert presence.count("room", runtime=runtime) == 0


class TestHistory:
    @pytest.fixture
    def server(self, start: Callable[..., TestServer]) -> TestServer:
        rules = {"^room-": {"size": 100, "ttl": 60}}
        return start(plugins=["webpy_socketio.plugins.history"], history=rules)

    def test_follower_receives_missed_messages_from_the_history_only(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        follower, other = server.connect(), server.connect()
        other.subscribe("room-1")
        wanted = {"channel": "room-1", "follow": True, "limit": 10}
        follower.call("history", wanted)
        follower.subscribe("room-1")
        start = follower.receive("history_start")
        for client in (follower, other):
            client.lose()
        runtime.broadcast_channel("missed", "room-1")
        assert other.resume()
        assert other.received("message") == ["missed"]
        assert follower.resume()
        assert follower.received() == []
        since = {"epoch": start["epoch"], "offset": start["offset"]}
        follower.call("history", {**wanted, "since": since})
        runtime.broadcast_channel("newer", "room-1")
        assert follower.received("message") == []
        assert [args[1] for args in follower.received("history_message")] == [
            ["message", "missed"],
            ["message", "newer"],
        ]


class TestTargets:
    def test_call_of_a_target_does_not_wait_for_suspended_sockets(
        self, server: TestServer, runtime: Runtime
    ) -> None:
        one, other = server.connect(), server.connect()
        one.on("ask", answer="yes")
        other.lose()
        assert runtime.everyone.call("ask") == ["yes"]


class TestWire:
    """What raw clients of a real server receive."""

    @pytest.fixture
    def site(self) -> Iterator[Site]:
        site = Site((), {}, recovery_time=TIME)
        yield site
        site.server.stop()

    def test_events_without_acknowledgement_have_an_offset(self, site: Site) -> None:
        client = site.websocket()
        reply = client.connect()
        assert set(reply) == {"sid", "pid", "received"}
        socket = socket_of(client)
        socket.emit("event", 1)
        event, one, offset = client.event()
        assert (event, one) == ("event", 1)
        assert isinstance(offset, str)
        gevent.spawn(socket.call, "ask", "text")
        packet = client.receive()
        assert packet == '420["ask","text"]'
        client.send("430[]")

    def test_volatile_event_has_an_offset_only_after_text(self, site: Site) -> None:
        client = site.connect()
        everyone.send("first")
        *_, offset = client.event()
        everyone.volatile.emit("typing", {"name": "Ann"})
        assert client.event() == ["typing", {"name": "Ann"}]
        everyone.volatile.emit("typing", "Ann")
        # The stock client would store the text "Ann" as offset.
        assert client.event() == ["typing", "Ann", offset]
        socket_of(client).volatile.send("Ann")
        assert client.event() == ["message", "Ann", offset]

    def test_abnormal_close_is_recovered_and_keeps_the_offset(self, site: Site) -> None:
        client = site.websocket()
        reply = client.connect()
        send(client.id, "received")
        *_, offset = client.event()
        socket = socket_of(client)
        client.vanish(reset=True)
        while not socket.suspended:
            gevent.sleep(0.001)
        send(client.id, "missed")
        again = site.websocket()
        assert again.connect(json.dumps({"pid": reply["pid"], "offset": offset})) == reply
        *missed, new_offset = again.event()
        assert missed == ["message", "missed"]
        assert new_offset != offset
        again.barrier()

    def test_older_websocket_is_closed_by_the_newer_one(self, site: Site) -> None:
        older = site.websocket()
        reply = older.connect()
        newer = site.websocket()
        assert newer.connect(json.dumps({"pid": reply["pid"]})) == reply
        assert older.receive() == "41"
        with pytest.raises(Closed):
            older.receive()

    def test_newer_resume_wins_while_the_gate_of_the_older_one_runs(self, site: Site) -> None:
        client = site.websocket()
        reply = client.connect()
        runs, proceed = gevent.event.Event(), gevent.event.Event()

        @on_connecting
        def gate(request: Any, socket: Socket, context: Any) -> None:
            if not runs.is_set():
                runs.set()
                proceed.wait()

        auth = json.dumps({"pid": reply["pid"]})
        older, newer = site.websocket(), site.websocket()
        older.send(f"40{auth}")
        runs.wait()
        assert newer.connect(auth) == reply
        proceed.set()
        assert "resumed by another connection" in str(older.receive())
        newer.barrier()

    def test_pong_to_an_earlier_ping_does_not_confirm_missed_messages(self) -> None:
        site = Site((), {}, recovery_time=TIME, ping_interval=0.05)
        client = site.websocket()
        reply = client.connect()
        auth = json.dumps({"pid": reply["pid"]})
        socket = socket_of(client)
        client.vanish()
        while not socket.suspended:
            gevent.sleep(0.001)
        socket.send("missed")
        again = site.websocket()
        assert again.receive(pings=True) == "2"
        again.send(f"40{auth}")
        again.send("3")
        assert str(again.receive()).startswith("40")
        again.vanish()  # before it has handled the event
        third = site.websocket()
        assert third.connect(auth) == reply
        assert third.event()[:2] == ["message", "missed"]
        site.server.stop()

    def test_polling_client_recovers(self, site: Site) -> None:
        client = site.polling()
        client.send("40")
        reply = json.loads(client.poll()[0][2:])
        again = site.polling()
        again.send("40" + json.dumps({"pid": reply["pid"]}))
        assert json.loads(again.poll()[0][2:]) == reply


class TestProcesses:
    """Two runtimes with a backplane, as two processes."""

    @pytest.fixture
    def sites(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Site]]:
        redis = RedisServer(tmp_path).start()
        extend_redis_timeouts(monkeypatch)
        options = {"backplane": redis.url, "recovery_time": TIME}
        sites = [Site((), {}, **options), Site((), {}, **options, runtime=Runtime())]
        yield sites
        for site in sites:
            site.server.stop()
        redis.stop()

    def test_messages_of_other_processes_are_retained(self, sites: list[Site]) -> None:
        near, far = sites
        client = near.websocket()
        reply = client.connect()
        client.call("__subscribe__", "room")
        socket = socket_of(client)
        client.vanish()
        while not socket.suspended:
            gevent.sleep(0.001)
        number = near.server.runtime.registry.recovery.last_number
        for step, function in enumerate(
            (
                lambda: far.server.runtime.broadcast("all"),
                lambda: far.server.runtime.broadcast_channel("channel", "room"),
                lambda: far.server.runtime.send(client.id, "one"),
            ),
            1,
        ):
            function()
            while number() < step:
                gevent.sleep(0.001)
        again = near.websocket()
        assert again.connect(json.dumps({"pid": reply["pid"]})) == reply
        assert [again.event()[1] for _ in range(3)] == ["all", "channel", "one"]


class TestOff:
    def test_wire_is_unchanged_without_recovery(self, site: Site) -> None:
        client = site.websocket()
        assert set(client.connect('{"pid": "x", "offset": "y"}')) == {"sid"}
        socket = socket_of(client)
        assert type(socket) is Socket
        assert socket.auth == {"pid": "x", "offset": "y"}
        assert not socket.suspended
        socket.send("text")
        assert client.event() == ["message", "text"]


class TestServers:
    def test_servers_of_a_runtime_must_have_the_same_settings(self, site: Site) -> None:
        app = web.application(socketio_urls, {}).wsgifunc()
        other = SocketIOServer(("127.0.0.1", 0), app, plugins=[], recovery_time=TIME)
        with pytest.raises(ConfigurationError, match="SOCKETIO_RECOVERY"):
            other.start()

    def test_client_resumes_on_another_server_of_the_runtime(self) -> None:
        one, other = (Site((), {}, recovery_time=TIME) for _ in range(2))
        client = one.websocket()
        reply = client.connect()
        again = other.websocket()
        assert again.connect(json.dumps({"pid": reply["pid"]})) == reply
        again.barrier()
        assert not one.server._dispatcher._open
        one.server.stop()
        send(again.id, "text")
        assert again.event()[:2] == ["message", "text"]
        other.server.stop()
