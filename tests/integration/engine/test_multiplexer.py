"""Tests of the Socket.IO multiplexer: namespaces, protocol errors, acknowledgements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent.event
import pytest

from tests import raw
from tests.conftest import Journal
from tests.engines import eventually
from webpy_socketio.engine import Connection, Engine, EngineConfig, EngineServer, SocketIO
from webpy_socketio.engine.io import json
from webpy_socketio.engine.socketio.multiplexer import MAX_ABANDONED, MAX_AUTH, MAX_AUTH_MEMORY
from webpy_socketio.exceptions import CallTimeout, Disconnected, EncodeError, WrongContext

PATH = "/engine.io/"


class Application(Journal):
    """Records its callbacks; the auth payload decides whether a connection is accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[Connection] = []
        self.handlers: dict[str, Callable[..., None]] = {}

    def connect(self, connection: Connection) -> None:
        self.connections.append(connection)
        if connection.auth == {"wait": True}:
            self.append("waiting")
            self.may_accept.wait()
        if connection.auth == {"refuse": True}:
            connection.refuse("not you")
        elif connection.accept():
            self.append(("connect", connection.namespace))

    may_accept = gevent.event.Event()

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        self.append(("event", name, args))
        handler = self.handlers.get(name)
        if handler is not None:
            handler(connection, *args)
        if ack is not None:
            connection.acknowledge(ack, args)

    def closing(self, connection: Connection) -> None:
        self.append(("closing", connection.namespace))

    def disconnected(self, connection: Connection, reason: str) -> None:
        self.append(("disconnected", connection.namespace, reason))

    def failed(self, connection: Connection, error: Exception) -> None:
        self.append(("failed", connection.namespace))

    def endings(self) -> list[Any]:
        return [entry for entry in self if entry[0] == "disconnected"]


class Running:
    def __init__(self, **config: Any) -> None:
        self.application = Application()
        settings = EngineConfig(**config)
        self.socketio = SocketIO(self.application, settings, namespaces=("/", "/custom"))
        self.engine = Engine(self.socketio, settings)
        self.server = EngineServer(("127.0.0.1", 0), self.engine, log=None)
        self.server.start()

    def websocket(self) -> raw.WebSocket:
        return raw.WebSocket(self.server.server_port, PATH)

    def connect(self) -> raw.WebSocket:
        client = self.websocket()
        client.connect()
        return client

    @property
    def connection(self) -> Connection:
        return self.application.connections[-1]


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(**config: Any) -> Running:
        running.append(Running(**config))
        return running[-1]

    yield start
    for one in running:
        one.server.stop()
        one.socketio.dispose()
        assert not one.engine.sessions


@pytest.fixture
def server(run: Callable[..., Running]) -> Running:
    return run()


@pytest.fixture
def application(server: Running) -> Application:
    return server.application


class TestConnecting:
    def test_public_id_differs_from_the_session_id(
        self, server: Running, application: Application
    ) -> None:
        client = server.connect()
        assert client.id == server.connection.id != client.open["sid"]
        assert len(client.id) >= 16

    def test_refused_client_receives_the_reason_and_may_retry(
        self, server: Running, application: Application
    ) -> None:
        client = server.websocket()
        client.send('40{"refuse":true}')
        assert client.receive() == '44{"message":"not you"}'
        client.connect()
        client.send('42["again"]')
        application.wait_for(("event", "again", []))
        assert application == [("connect", "/"), ("event", "again", [])]

    def test_unknown_namespace_is_rejected_and_others_stay_connected(self, server: Running) -> None:
        client = server.connect()
        client.send("40/nowhere,")
        assert client.receive() == '44/nowhere,{"message":"Invalid namespace"}'
        assert client.call("still here") == []

    def test_event_before_accept_closes_the_session(
        self, server: Running, application: Application
    ) -> None:
        application.may_accept = gevent.event.Event()
        client = server.websocket()
        client.send('40{"wait":true}')
        application.wait_for("waiting")
        client.send('42["early"]')
        assert client.wait_closed() == 1002
        application.may_accept.set()
        eventually(lambda: not server.connection.inbox)
        assert application == ["waiting", ("failed", "/")]

    def start_connect(self, server: Running) -> raw.WebSocket:
        """Return a client that is connected to /custom, and whose gate for / is running."""
        application = server.application
        application.may_accept = gevent.event.Event()
        client = server.websocket()
        client.connect(namespace="/custom,")
        client.send('40{"wait":true}')
        application.wait_for("waiting")
        return client

    def test_second_connect_during_a_gate_replaces_the_first(
        self, server: Running, application: Application
    ) -> None:
        client = self.start_connect(server)
        client.send('40{"attempt":2}')
        reply = client.receive()
        assert isinstance(reply, str)
        assert server.connection.auth == {"attempt": 2}
        assert reply == f'40{{"sid":"{server.connection.id}"}}'
        assert client.call("echo", 1) == [1]
        # The gate of the first CONNECT returns too late.
        application.may_accept.set()
        client.send('42/custom,7["other namespace"]')
        assert client.receive() == "43/custom,7[]"
        assert [entry for entry in application if entry[0] in ("connect", "disconnected")] == [
            ("connect", "/custom"),
            ("connect", "/"),
        ]

    def test_refused_second_connect_keeps_other_namespaces(
        self, server: Running, application: Application
    ) -> None:
        client = self.start_connect(server)
        client.send('40{"refuse":true}')
        assert client.receive() == '44{"message":"not you"}'
        application.may_accept.set()
        client.connect()
        client.send("41")
        client.send('42/custom,8["still there"]')
        assert client.receive() == "43/custom,8[]"
        application.wait_for(("disconnected", "/", "client namespace disconnect"))
        assert len(application.endings()) == 1

    def test_many_connects_during_gates_run_a_limited_number_of_gates(
        self, server: Running, application: Application
    ) -> None:
        client = self.start_connect(server)
        for count in range(2, MAX_ABANDONED + 2):
            client.send('40{"wait":true}')
            application.wait(lambda journal, count=count: journal.count("waiting") == count)
        for _ in range(50):
            client.send('40{"wait":true}')
        client.send('40{"attempt":"last"}')
        client.send('42/custom,7["other namespace"]')
        assert client.receive() == "43/custom,7[]"
        assert application.count("waiting") == MAX_ABANDONED + 1
        application.may_accept.set()
        reply = client.receive()
        assert server.connection.auth == {"attempt": "last"}
        assert reply == f'40{{"sid":"{server.connection.id}"}}'
        assert client.call("echo", 1) == [1]
        assert application.endings() == []

    @pytest.mark.parametrize("attempts", [1, 3])
    def test_client_disconnecting_during_gates_leaves_no_connection(
        self, server: Running, application: Application, attempts: int
    ) -> None:
        client = self.start_connect(server)
        for count in range(2, attempts + 1):
            client.send('40{"wait":true}')
            application.wait(lambda journal, count=count: journal.count("waiting") == count)
        client.vanish()
        eventually(lambda: not server.engine.sessions)
        application.may_accept.set()
        eventually(lambda: not any(each.inbox.busy for each in application.connections))
        assert [entry[1] for entry in application.endings()] == ["/custom"]

    def test_second_connect_of_a_connected_namespace_closes_the_session(
        self, server: Running, application: Application
    ) -> None:
        client = server.connect()
        client.send("40")
        assert client.wait_closed() is not None
        assert ("failed", "/") in application

    def test_client_disconnecting_before_accept_causes_no_callbacks(
        self, server: Running, application: Application
    ) -> None:
        application.may_accept = gevent.event.Event()
        client = server.websocket()
        client.send('40{"wait":true}')
        application.wait_for("waiting")
        client.vanish()
        eventually(lambda: not server.engine.sessions)
        application.may_accept.set()
        eventually(lambda: not server.connection.inbox)
        assert application == ["waiting"]

    def test_session_without_namespace_is_closed_after_the_connect_timeout(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(connect_timeout=0.02)
        connected = running.connect()
        idle = running.websocket()
        idle.send("40/nowhere,")
        assert idle.wait_closed() == 1000
        assert connected.call("still here") == []
        connected.send("41")
        assert connected.wait_closed() == 1000

    def test_closed_session_has_no_timeouts(self, server: Running) -> None:
        unconnected, incomplete = server.websocket(), server.connect()
        incomplete.send('451-["event",{"_placeholder":true,"num":0}]')
        eventually(lambda: len(server.socketio._incomplete) == 1)
        assert len(server.socketio._unconnected) == 1
        for session in list(server.engine.sessions.values()):
            session.close("enough")
        assert len(server.socketio._unconnected) == len(server.socketio._incomplete) == 0
        unconnected.wait_closed()
        incomplete.wait_closed()

    def test_repeatedly_refused_client_is_closed_after_the_connect_timeout(
        self, run: Callable[..., Running]
    ) -> None:
        server = run(connect_timeout=0.3)
        client = server.websocket()
        refusals = 0
        try:
            while True:
                client.send('40{"refuse":true}')
                assert client.receive() == '44{"message":"not you"}'
                refusals += 1
        except (raw.Closed, OSError):
            assert refusals > 1

    def test_missing_attachments_close_the_session_after_a_timeout(
        self, run: Callable[..., Running]
    ) -> None:
        server = run(ping_interval=0.05, ping_timeout=2.0)  # longer than the machine may be busy
        client = server.websocket()
        client.connect()
        client.send('452-["event",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
        client.send(b"one of two")
        assert client.wait_closed() == 1002
        server.application.wait_for(("disconnected", "/", "parse error"))

    def test_completed_attachments_stop_the_timeout(self, run: Callable[..., Running]) -> None:
        server = run()
        client = server.websocket()
        client.connect()
        client.send('451-["event",{"_placeholder":true,"num":0}]')
        client.send(b"all of it")
        server.application.wait_for(("event", "event", [b"all of it"]))
        assert len(server.socketio._incomplete) == 0


class TestRules:
    @pytest.mark.parametrize(
        "packet",
        ["40", "42", "42{}", '42["connect"]', '42["disconnect"]', "44{}", "45", "4abc", b"lone"],
        ids=repr,
    )
    def test_protocol_error_closes_the_session_and_calls_failed(
        self, server: Running, application: Application, packet: str | bytes
    ) -> None:
        other = server.connect()
        client = server.connect()
        client.send(packet)
        assert client.wait_closed() == 1002
        application.wait_for(("disconnected", "/", "parse error"))
        assert application[2:] == [
            ("failed", "/"),
            ("closing", "/"),
            ("disconnected", "/", "parse error"),
        ]
        assert other.call("still here") == []

    def test_auth_payload_above_the_limit_closes_the_session(
        self, server: Running, application: Application
    ) -> None:
        def auth(size: int) -> str:
            return '{"a":"'.ljust(size - len('0"}'), "x") + '"}'  # the packet type 0 counts too

        server.websocket().connect(auth(MAX_AUTH))
        client = server.websocket()
        client.send("40" + auth(MAX_AUTH + 1))
        assert client.wait_closed() == 1002
        assert application == [("connect", "/")]

    @pytest.mark.parametrize("item", ["{}", '{"":{}}', "[]", '"\U0001f600"', "1.5"])
    def test_auth_payload_above_the_memory_limit_closes_the_session(
        self, item: str, server: Running, application: Application
    ) -> None:
        def auth(count: int) -> str:
            return '{"a":[' + ",".join([item] * count) + "]}"

        server.websocket().connect(auth(100))
        client = server.websocket()
        client.send("40" + auth(65_000 // (len(item) + 1)))
        assert client.wait_closed() == 1002
        assert application == [("connect", "/")]
        assert json.memory_of(application.connections[0].auth, 10**9) < MAX_AUTH_MEMORY

    @pytest.mark.parametrize("packet", ['42["a"]', "431[]", "41", "451-[]", b"lone"], ids=repr)
    def test_packet_before_connect_closes_the_session(
        self, server: Running, application: Application, packet: str | bytes
    ) -> None:
        client = server.websocket()
        client.send(packet)
        assert client.wait_closed() == 1002
        assert application == []

    def test_packet_for_a_namespace_just_closed_is_ignored(
        self, server: Running, application: Application
    ) -> None:
        client = server.connect()
        client.connect(namespace="/custom,")
        server.connection.disconnect()
        client.send('42/custom,["late"]')
        assert client.receive() == "41/custom,"
        assert client.call("still here") == []
        assert ("event", "late", []) not in application

    def test_client_with_another_parser_is_rejected_and_logged(
        self, server: Running, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            client = server.websocket()
            client.send(b"\x84\xa4type\x00")  # a CONNECT in MessagePack
            assert client.wait_closed() is not None
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert "Load socket.io.min.js" in record.getMessage()


class TestClosing:
    def test_disconnect_by_the_client_closes_one_namespace(
        self, server: Running, application: Application
    ) -> None:
        client = server.connect()
        client.connect(namespace="/custom,")
        client.send("41/custom,")
        application.wait_for(("disconnected", "/custom", "client namespace disconnect"))
        assert client.call("still here") == []
        assert len(application.endings()) == 1

    def test_lost_session_closes_all_namespaces(
        self, server: Running, application: Application
    ) -> None:
        client = server.connect()
        client.connect(namespace="/custom,")
        client.vanish()
        application.wait(lambda journal: len(application.endings()) == 2)
        assert application.endings() == [
            ("disconnected", "/", "transport close"),
            ("disconnected", "/custom", "transport close"),
        ]

    def test_disconnect_of_the_last_namespace_closes_the_session(
        self, server: Running, application: Application
    ) -> None:
        client = server.connect()
        server.connection.disconnect()
        server.connection.disconnect()
        assert client.receive() == "41"
        assert client.wait_closed() == 1000
        application.wait_for(("disconnected", "/", "server namespace disconnect"))
        assert len(application.endings()) == 1

    @pytest.mark.parametrize("own", ["/", "/custom"])
    def test_disconnect_with_close_ends_all_connections_of_the_session_once(
        self, server: Running, application: Application, own: str
    ) -> None:
        client, other = server.connect(), server.connect()
        client.connect(namespace="/custom,")
        connections = {"/": application.connections[0], "/custom": server.connection}
        connections["/custom"].emit("last")
        for _ in range(2):
            connections[own].disconnect(close=True)
        assert client.receive() == '42/custom,["last"]'
        assert {client.receive(), client.receive()} == {"41", "41/custom,"}
        assert client.wait_closed() == 1000
        reason = "server namespace disconnect"
        application.wait_for(("disconnected", "/", reason), ("disconnected", "/custom", reason))
        assert len(application.endings()) == 2
        assert other.call("still here") == []

    def test_disconnect_with_close_rejects_a_connection_whose_gate_is_running(
        self, server: Running, application: Application
    ) -> None:
        application.may_accept = gevent.event.Event()
        client = server.websocket()
        client.send('40{"wait":true}')
        application.wait_for("waiting")
        server.connection.disconnect(close=True)
        assert client.receive() == '44{"message":"disconnected"}'
        assert client.wait_closed() == 1000
        application.may_accept.set()
        assert application.endings() == []

    def test_disconnect_with_close_has_no_effect_on_a_closed_connection(
        self, server: Running, application: Application
    ) -> None:
        client = server.connect()
        client.connect(namespace="/custom,")
        client.send("41/custom,")
        application.wait(lambda journal: application.endings())
        application.connections[-1].disconnect(close=True)
        assert client.call("still here") == []

    def test_events_before_a_disconnect_are_handled_first(
        self, server: Running, application: Application
    ) -> None:
        client = server.connect()
        for number in range(100):
            client.emit("n", number)
        client.send("41")
        application.wait(lambda journal: application.endings())
        numbers = [entry[2][0] for entry in application if entry[0] == "event"]
        assert numbers == list(range(100))
        assert application[-1] == ("disconnected", "/", "client namespace disconnect")

    def test_events_after_a_disconnect_by_the_server_are_discarded(
        self, server: Running, application: Application
    ) -> None:
        application.handlers["kick"] = lambda connection: connection.disconnect()
        client = server.connect()
        for event in ("kick", "late"):  # in one segment, so that the inbox contains both
            client._protocol.send_text(f'42["{event}"]'.encode())
        client._flush()
        application.wait(lambda journal: application.endings())
        assert ("event", "late", []) not in application

    def test_emit_on_a_closed_connection_has_no_effect(self, server: Running) -> None:
        client = server.connect()
        connection = server.connection
        connection.disconnect()
        connection.emit("late")
        assert not connection.connected
        assert connection.reason == "server namespace disconnect"
        assert client.receive() == "41"
        assert client.wait_closed() == 1000


class TestBackpressure:
    def test_full_inbox_pauses_reading(self, run: Callable[..., Running]) -> None:
        running = run(inbox_events=10)
        may_go_on = gevent.event.Event()
        running.application.handlers["wait"] = lambda connection: may_go_on.wait()
        client = running.connect()
        client.emit("wait")
        sending = gevent.spawn(lambda: [client.emit("n", "x" * 1000) for _ in range(20_000)])
        eventually(lambda: running.connection.session.paused)
        for _ in range(20):
            gevent.idle()
        assert not sending.ready(), "TCP holds the sender back"
        assert len(running.connection.inbox) < 200
        may_go_on.set()
        sending.get()
        running.application.wait(lambda journal: len(journal) == 20_002)


class TestAcknowledgements:
    def test_event_with_acknowledgement_is_acknowledged(self, server: Running) -> None:
        assert server.connect().call("echo", 1, "two") == [1, "two"]

    def test_call_returns_the_arguments_of_the_acknowledgement(self, server: Running) -> None:
        client = server.connect()
        call = gevent.spawn(server.connection.call, "question", [1], 10)
        packet = client.receive()
        assert packet == '420["question",1]'
        client.send('430["answer"]')
        assert call.get() == ["answer"]

    def test_call_within_a_handler_returns_the_acknowledgement(
        self, server: Running, journal: Journal
    ) -> None:
        server.application.handlers["ask"] = lambda connection: journal.append(
            connection.call("question", [], 10)
        )
        client = server.connect()
        client.emit("ask")
        assert client.receive() == '420["question"]'
        client.send("430[true]")
        journal.wait_for([True])

    def test_concurrent_calls_return_their_own_acknowledgements(self, server: Running) -> None:
        client = server.connect()
        calls = [gevent.spawn(server.connection.call, "q", [n], 10) for n in range(5)]
        packets = [client.receive() for _ in calls]
        assert packets == [f'42{n}["q",{n}]' for n in range(5)]
        for number in reversed(range(5)):
            client.send(f"43{number}[{number}]")
        assert [call.get() for call in calls] == [[n] for n in range(5)]

    def test_unexpected_acknowledgements_are_ignored(self, server: Running) -> None:
        client = server.connect()
        client.send("4399[1]")
        call = gevent.spawn(server.connection.call, "q", [], 10)
        assert client.receive() == '420["q"]'
        client.send("430[1]")
        client.send("430[2]")
        assert call.get() == [1]
        assert client.call("still here") == []

    def test_call_without_acknowledgement_raises_call_timeout(self, server: Running) -> None:
        server.connect()
        with pytest.raises(CallTimeout):
            server.connection.call("q", [], 0.001)
        assert not server.connection._acks

    def test_call_within_a_gevent_timeout_raises_that_timeout(self, server: Running) -> None:
        server.connect()
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
            server.connection.call("q", [], 10)
        assert not server.connection._acks

    def test_call_of_a_disconnected_client_raises_disconnected(self, server: Running) -> None:
        client = server.connect()
        calls = [gevent.spawn(self.call, server.connection) for _ in range(3)]
        for _ in calls:
            client.receive()
        client.vanish()
        assert [call.get() for call in calls] == [Disconnected] * 3
        assert self.call(server.connection) is Disconnected

    def call(self, connection: Connection) -> type[BaseException]:
        with pytest.raises(Disconnected) as caught:
            connection.call("q", [], 10)
        return caught.type

    def test_unserializable_arguments_raise_encode_error(self, server: Running) -> None:
        client = server.connect()
        with pytest.raises(EncodeError):
            server.connection.call("q", [float("nan")], 10)
        with pytest.raises(EncodeError):
            server.connection.emit("q", object())
        server.connection.emit("next")
        assert client.event() == ["next"]

    def test_call_on_the_hub_raises_wrong_context(self, server: Running, journal: Journal) -> None:
        server.connect()

        def call() -> None:
            try:
                server.connection.call("q", [], 10)
            except WrongContext as error:
                journal.append(error)

        gevent.get_hub().loop.run_callback(call)
        journal.wait(len)
        assert isinstance(journal[0], WrongContext)
