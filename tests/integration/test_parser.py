"""SOCKETIO_PARSER: servers with MessagePack, and the clients and processes around them.

The scenarios of ``test_js_client`` run with ``socket.io-msgpack-parser`` too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import requests
import socketio
import web

from tests.commands import run_python
from tests.conftest import Journal, Site
from tests.python_clients import close_client, disconnect_client
from tests.raw import WebSocket
from tests.redis_server import RedisServer, extend_redis_timeouts
from webpy_socketio import (
    ConfigurationError,
    Refused,
    SettingsError,
    SocketIOServer,
    broadcast,
    on_connecting,
    on_error,
    on_event,
    on_message,
    signals,
    socketio_urls,
)
from webpy_socketio.engine.socketio import msgpack as parser
from webpy_socketio.plugins import message_logger
from webpy_socketio.runtime import Runtime, default_runtime
from webpy_socketio.testing import TestServer

MESSAGE_LOGGER = message_logger.__name__


class Client:
    """A raw client that sends and receives packets as MessagePack."""

    def __init__(self, site: Site, namespace: str = "/", auth: Any = None) -> None:
        self.raw: WebSocket = site.websocket()
        self.namespace = namespace
        packet = {} if auth is None else {"data": auth}
        self.answer = self.exchange(type=0, **packet)

    def send(self, **packet: Any) -> None:
        self.raw.send(msgpack.packb({"nsp": self.namespace, **packet}))

    def exchange(self, **packet: Any) -> Any:
        self.send(**packet)
        return self.receive()

    def receive(self) -> Any:
        data = self.raw.receive()
        assert isinstance(data, bytes)
        return msgpack.unpackb(data)

    def call(self, *data: Any) -> Any:
        answer = self.exchange(type=2, data=list(data), id=9)
        assert (answer["type"], answer["id"]) == (3, 9)
        return answer["data"]


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    return serve(parser="msgpack", namespaces=["/", "/chat"])


class TestSetting:
    def test_unknown_parser_is_rejected(self, serve: Callable[..., Site]) -> None:
        with pytest.raises(SettingsError, match='must be "json" or "msgpack"'):
            serve(parser="xml")

    def test_missing_library_raises_error_with_remedy(self, tmp_path: Path) -> None:
        program = (
            "from gevent import monkey; monkey.patch_all()\n"
            "import sys; sys.modules['msgpack'] = None\n"
            "import web\n"
            "from webpy_socketio import *\n"
            "app = web.application(socketio_urls, globals()).wsgifunc()\n"
            "SocketIOServer(('127.0.0.1', 0), app)\n"  # not needed for JSON
            "try:\n"
            "    SocketIOServer(('127.0.0.1', 0), app, parser='msgpack')\n"
            "except ConfigurationError as error:\n"
            "    sys.stdout.write(str(error))\n"
        )
        done = run_python("-c", program, cwd=tmp_path)
        assert done.status == 0, done.err
        assert 'pip install "webpy_socketio[msgpack]"' in done.out
        assert 'SOCKETIO_PARSER = "msgpack"' in done.out

    def test_servers_of_one_runtime_with_different_parsers_are_rejected(
        self, site: Site, serve: Callable[..., Site]
    ) -> None:
        other = SocketIOServer(("127.0.0.1", 0), site.app.wsgifunc(), plugins=[], log=None)
        with pytest.raises(ConfigurationError, match=r"SOCKETIO_PARSER.*runtime=Runtime\(\)"):
            other.start()
        serve(parser="msgpack")
        serve(runtime=Runtime())
        assert default_runtime.registry.parser is parser


class TestClients:
    def test_connect_is_answered_as_messagepack(self, site: Site) -> None:
        client = Client(site)
        assert client.answer == {
            "type": 0,
            "nsp": "/",
            "data": {"sid": client.answer["data"]["sid"]},
        }
        assert default_runtime.registry.find(client.answer["data"]["sid"]) is not None

    def test_values_arrive_in_both_directions(self, site: Site, journal: Journal) -> None:
        @on_event("echo")
        def echo(request: Any, socket: Any, context: Any, value: Any) -> Any:
            journal.append(value)
            return value

        value = {"a": [b"\x00", {"b": b"\xff" * 70_000}], "c": [1.5, -1, None, True, "é"]}
        assert Client(site).call("echo", value) == [value]
        assert journal == [value]

    def test_namespaces_share_a_session(self, site: Site) -> None:
        client = Client(site)
        client.namespace = "/chat"
        assert client.exchange(type=0)["nsp"] == "/chat"
        client.namespace = "/other"
        assert client.exchange(type=0) == {
            "type": 4,
            "nsp": "/other",
            "data": {"message": "Invalid namespace"},
        }

    def test_gate_raising_refused_sends_connect_error_with_data(self, site: Site) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            raise Refused("no", data={"code": socket.auth["code"]})

        answer = Client(site, auth={"code": 7}).answer
        assert answer == {"type": 4, "nsp": "/", "data": {"message": "no", "data": {"code": 7}}}

    def test_server_disconnect_has_no_data(self, site: Site) -> None:
        @on_message
        def end(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.disconnect()

        assert Client(site).exchange(type=2, data=["message", 1]) == {"type": 1, "nsp": "/"}

    def test_packets_of_long_polling_are_base64(self, site: Site) -> None:
        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return message

        polling = site.polling()
        for packet in (
            {"type": 0, "nsp": "/"},
            {"type": 2, "nsp": "/", "data": ["message", b"a"], "id": 0},
        ):
            polling.send("b" + base64.b64encode(msgpack.packb(packet)).decode())
            (answer,) = polling.poll()
            assert answer.startswith("b")
        found = msgpack.unpackb(base64.b64decode(answer[1:]))
        assert found == {"type": 3, "nsp": "/", "data": [b"a"], "id": 0}

    def test_broadcast_is_encoded_once(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        clients = [Client(site) for _ in range(3)]
        encoded = Journal()
        encode = parser.encode_event
        monkeypatch.setattr(
            parser, "encode_event", lambda *args: encoded.append(args) or encode(*args)
        )
        broadcast({"a": b"b"})
        for client in clients:
            assert client.receive()["data"] == ["message", {"a": b"b"}]
        assert len(encoded) == 1


class TestErrors:
    @pytest.fixture
    def errors(self, journal: Journal) -> Journal:
        @on_error
        def error(request: Any, socket: Any, context: Any, exception: Exception) -> None:
            journal.append(type(exception).__name__)

        return journal

    def test_malformed_message_closes_the_session(self, site: Site, errors: Journal) -> None:
        client = Client(site)
        client.raw.send(b"\x83\xa4type\x02")
        assert client.raw.wait_closed() is not None
        errors.wait_for("ProtocolError")

    def test_message_over_a_content_limit_is_dropped(self, site: Site, errors: Journal) -> None:
        @on_event("x")
        def handle(request: Any, socket: Any, context: Any, value: Any = None) -> str:
            return "handled"

        client = Client(site)
        (answer,) = client.call("x", {1: 2})
        assert "key that is not a string" in answer["error"]
        assert errors == ["ContentError"]
        assert client.call("x") == ["handled"]

    @pytest.mark.quoted("rejected a client whose first packet is binary")
    def test_client_with_msgpack_is_rejected_by_json_and_logged(
        self,
        serve: Callable[..., Site],
        match_quote: Callable[[str], None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        client = serve().websocket()
        client.send(msgpack.packb({"type": 0, "nsp": "/"}))
        assert client.wait_closed() is not None
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        match_quote(record.getMessage())
        assert 'SOCKETIO_PARSER to "msgpack"' in record.getMessage()

    @pytest.mark.quoted(
        'rejected a client whose first packet is text, because SOCKETIO_PARSER is "msgpack"'
    )
    def test_client_with_json_is_rejected_by_msgpack_and_logged(
        self,
        site: Site,
        match_quote: Callable[[str], None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        for _ in range(2):
            client = site.websocket()
            client.send("40")
            assert client.wait_closed() is not None
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        match_quote(record.getMessage())
        assert "socket.io.msgpack.min.js" in record.getMessage()


class TestPlugins:
    def test_sent_signal_reads_the_event(self, site: Site, journal: Journal) -> None:
        def receive(sender: Any, sockets: Any, size: int, read: Any, **extra: Any) -> None:
            journal.append((len(sockets), size > 0, read()))

        signals.sent.connect(receive)
        client = Client(site)
        broadcast(["a", b"b"])
        assert client.receive()["data"] == ["message", ["a", b"b"]]
        placeholder = {"_placeholder": True, "num": 0}
        assert journal == [(1, True, ["message", ["a", placeholder]])]

    def test_message_logger_logs_messages(
        self, serve: Callable[..., Site], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "webpy_socketio.message")

        @on_message
        def handle(request: Any, socket: Any, context: Any, message: Any) -> None: ...

        client = Client(serve(parser="msgpack", plugins=[MESSAGE_LOGGER]))
        client.call("message", {"a": "b"})
        assert any("{'a': 'b'}" in line for line in caplog.messages)


class TestKit:
    @pytest.mark.parametrize("name", ["json", "msgpack"])
    def test_testing_kit_uses_the_parser_of_the_server(self, name: Any) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            if socket.auth != {"name": "Ann"}:
                raise Refused("no", data=1)

        @on_event("ask")
        def ask(request: Any, socket: Any, context: Any, value: Any) -> None:
            socket.send(socket.call("question", value))

        app = web.application(socketio_urls, {}, autoreload=False)
        with TestServer(app, parser=name, plugins=[], namespaces=["/", "/n"]) as server:
            with pytest.raises(Refused, match="no") as refused:
                server.connect("/n")
            assert refused.value.data == 1
            for namespace in ("/", "/n"):
                client = server.connect(namespace, auth={"name": "Ann"})
                client.on("question", answer=lambda value: [value, b"\x00"])
                client.emit("ask", b"a")
                assert client.receive("message") == [b"a", b"\x00"]
                client.subscribe("room")
                client.disconnect()


class TestPythonClient:
    @pytest.fixture(params=["polling", "websocket"])
    def client(self, request: pytest.FixtureRequest, site: Site) -> Iterator[socketio.Client]:
        http = requests.Session()
        http.trust_env = False
        client = socketio.Client(serializer="msgpack", http_session=http, reconnection=False)
        client.transports = [request.param]
        yield client
        close_client(client)

    def test_python_socketio_exchanges_messages(
        self, client: socketio.Client, site: Site, journal: Journal
    ) -> None:
        @on_event("ask")
        def ask(request: Any, socket: Any, context: Any, value: Any) -> Any:
            socket.send(socket.call("question", value))
            return {"value": value}

        client.on("question", lambda value: [value, b"\x01"])
        client.on("message", journal.append)
        client.connect(
            site.url,
            transports=client.transports,
            socketio_path=site.path,
            namespaces=["/", "/chat"],
        )
        assert client.call("ask", {"a": b"\x00"}, namespace="/") == {"value": {"a": b"\x00"}}
        journal.wait_for([{"a": b"\x00"}, b"\x01"])
        disconnect_client(client)


class TestOtherProcesses:
    @pytest.mark.parametrize("names", [("msgpack", "msgpack"), ("msgpack", "json")])
    def test_messages_reach_other_processes_with_either_parser(
        self,
        shared_redis: RedisServer,
        serve: Callable[..., Site],
        names: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Two runtimes are connected as two processes are."""
        extend_redis_timeouts(monkeypatch)
        runtimes = [Runtime(), Runtime()]
        sites = [
            serve(parser=name, backplane=shared_redis.url, runtime=runtime)
            for name, runtime in zip(names, runtimes, strict=True)
        ]
        clients: list[Any] = [
            Client(site) if name == "msgpack" else site.connect()
            for name, site in zip(names, sites, strict=True)
        ]

        for sender in runtimes:
            sender.broadcast({"a": [b"\x00", "é"]})
            for client in clients:
                if isinstance(client, Client):
                    assert client.receive()["data"] == ["message", {"a": [b"\x00", "é"]}]
                else:
                    placeholder = '{"_placeholder":true,"num":0}'
                    assert client.receive() == f'451-["message",{{"a":[{placeholder},"é"]}}]'
                    assert client.receive() == b"\x00"
