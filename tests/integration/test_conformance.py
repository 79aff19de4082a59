"""Tests of the servers in `tests/conformance` with the checks of the official protocol suites.

The suites themselves require Node.js; these tests repeat them with raw clients.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests import raw
from tests.raw import Closed, Polling, WebSocket

SERVERS = Path(__file__).parents[1] / "conformance"
ENGINE, SOCKETIO = "/engine.io/", "/socket.io/"


def serve(name: str, workers: int) -> Iterator[int]:
    """Run a server in its own process and yield its port; output on stderr is an error."""
    process = subprocess.Popen(
        [sys.executable, SERVERS / name, "0", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=SERVERS.parent.parent,
        env={"PYTHONPATH": str(SERVERS.parent.parent)},
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().removeprefix("PORT "))
        assert process.poll() is None, "the server has exited"
    finally:
        process.terminate()
        _, errors = process.communicate()
    assert errors == ""


#: One process, or two that share a port.
workers = {"params": [1, 2], "ids": ["alone", "two workers"]}


@pytest.fixture(scope="module", **workers)
def engine(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the Engine.IO server and return its port."""
    yield from serve("engine_server.py", request.param)


@pytest.fixture(scope="module", **workers)
def socketio(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the Socket.IO server and return its port."""
    yield from serve("socketio_server.py", request.param)


@pytest.fixture(scope="module")
def engine_client() -> Iterator[int]:
    """Run the server for the suite of engine.io-client and return its port."""
    yield from serve("engine_client_server.py", 1)


@pytest.fixture(scope="module")
def socketio_client() -> Iterator[int]:
    """Run the server for the suite of socket.io-client and return its port."""
    yield from serve("socketio_client_server.py", 1)


def request(
    port: int, method: str, query: str, body: bytes | None = None, path: str = ENGINE
) -> tuple[int, str]:
    """Send one request and return its status and body."""
    connection = raw.http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request(method, f"{path}?{query}", body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def start_poll(client: Polling) -> gevent.Greenlet:
    """Send a GET, and return a greenlet that reads its response."""
    connection = raw.socket.create_connection(("127.0.0.1", client.port))
    raw.OPENED.append(connection)
    head = f"GET {client.path}?{client.query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode())

    def read() -> str:
        answer = b""
        while data := connection.recv(65_536):
            answer += data
        return answer.partition(b"\r\n\r\n")[2].decode()

    return gevent.spawn(read)


class TestEngineHandshake:
    def test_polling_handshake_opens_a_session(self, engine: int) -> None:
        status, body = request(engine, "GET", "EIO=4&transport=polling")
        assert status == 200
        assert re.fullmatch(
            r'0\{"sid":"[\w.-]+","upgrades":\["websocket"\],'
            r'"pingInterval":300,"pingTimeout":200,"maxPayload":1000000\}',
            body,
        )

    def test_websocket_handshake_opens_a_session(self, engine: int) -> None:
        client = WebSocket(engine, ENGINE)
        sid = client.open.pop("sid")
        assert isinstance(sid, str)
        assert client.open == {
            "upgrades": [],
            "pingInterval": 300,
            "pingTimeout": 200,
            "maxPayload": 1000000,
        }

    @pytest.mark.parametrize(
        "query",
        [
            "transport=polling",
            "EIO=abc&transport=polling",
            "EIO=4",
            "EIO=4&transport=abc",
        ],
    )
    def test_invalid_query_is_rejected(self, engine: int, query: str) -> None:
        assert request(engine, "GET", query)[0] == 400
        assert WebSocket(engine, ENGINE, query).status == 400

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    def test_handshake_with_another_method_is_rejected(self, engine: int, method: str) -> None:
        assert request(engine, method, "EIO=4&transport=polling", b"4a")[0] == 400


class TestEngineMessages:
    def test_polling_echoes_messages(self, engine: int) -> None:
        client = Polling(engine, ENGINE)
        assert client.send("4hello") == (200, "ok")
        assert client.poll() == ["4hello"]
        assert client.send("4test1", "4test2", "4test3") == (200, "ok")
        received: list[str] = []
        while len(received) < 3:
            received += client.poll()
        assert received == ["4test1", "4test2", "4test3"]

    def test_polling_echoes_binary_messages(self, engine: int) -> None:
        client = Polling(engine, ENGINE)
        assert client.send("bAQIDBA==") == (200, "ok")
        assert client.poll() == ["bAQIDBA=="]

    @pytest.mark.parametrize("body", [b"abc", b"", b"2"])
    def test_polling_rejects_invalid_packets(self, engine: int, body: bytes) -> None:
        client = Polling(engine, ENGINE)
        assert client.request("POST", body)[0] == 400
        assert client.request("GET")[0] == 400

    def test_overlapping_gets_close_the_session(self, engine: int) -> None:
        client = Polling(engine, ENGINE)
        answers = [start_poll(client), start_poll(client)]
        assert "1" in [poll.get() for poll in answers]
        assert client.request("GET")[0] == 400

    def test_websocket_echoes_text_and_binary_messages(self, engine: int) -> None:
        client = WebSocket(engine, ENGINE)
        client.send("4hello")
        assert client.receive() == "4hello"
        client.send(b"\1\2\3\4")
        assert client.receive() == b"\1\2\3\4"

    def test_websocket_invalid_packet_closes(self, engine: int) -> None:
        client = WebSocket(engine, ENGINE)
        client.send("abc")
        assert client.wait_closed() is not None


class TestEngineHeartbeat:
    def test_polling_is_pinged(self, engine: int) -> None:
        client = Polling(engine, ENGINE)
        for _ in range(3):
            assert client.poll() == ["2"]
            assert client.send("3") == (200, "ok")

    def test_websocket_is_pinged(self, engine: int) -> None:
        client = WebSocket(engine, ENGINE)
        for _ in range(3):
            assert client.receive(pings=True) == "2"
            client.send("3")

    def test_client_without_pong_is_closed(self, engine: int) -> None:
        polling = Polling(engine, ENGINE)
        client = WebSocket(engine, ENGINE)
        assert client.receive(pings=True) == "2"
        with pytest.raises(Closed):
            client.receive(pings=True)
        # The polling client has an earlier session and never polled: it has timed out as well.
        assert polling.request("GET")[0] == 400


class TestEngineClose:
    def test_polling_close_by_the_client_ends_the_poll(self, engine: int) -> None:
        client = Polling(engine, ENGINE)
        poll = start_poll(client)
        assert client.send("1") == (200, "ok")
        assert poll.get() in ("6", "6\x1e1")
        assert client.request("GET")[0] == 400

    def test_websocket_close_by_the_client_closes(self, engine: int) -> None:
        client = WebSocket(engine, ENGINE)
        client.send("1")
        assert client.wait_closed() is not None


class TestEngineUpgrade:
    def test_upgrade_moves_the_session_to_the_websocket(self, engine: int) -> None:
        polling = Polling(engine, ENGINE)
        client = WebSocket(engine, ENGINE, f"EIO=4&transport=websocket&sid={polling.sid}")
        poll = start_poll(polling)
        client.send("2probe")
        assert client.receive() == "3probe"
        assert poll.get() == "6"
        assert polling.poll() == ["6"]
        client.send("5")
        client.send("4hello")
        assert client.receive() == "4hello"
        assert polling.request("GET")[0] == 400

    def test_second_websocket_is_closed(self, engine: int) -> None:
        client = WebSocket(engine, ENGINE)
        sid = client.open["sid"]
        second = WebSocket(engine, ENGINE, f"EIO=4&transport=websocket&sid={sid}")
        assert second.status == 101
        assert second.wait_closed() is not None
        client.send("4hello")
        assert client.receive() == "4hello"


def connect(port: int) -> WebSocket:
    """Return a client of the main namespace that has received its "auth" event."""
    client = WebSocket(port, SOCKETIO)
    client.connect()
    assert client.event() == ["auth", {}]
    return client


class TestSocketIOConnect:
    def test_connect_returns_sid_and_passes_auth(self, socketio: int) -> None:
        client = WebSocket(socketio, SOCKETIO)
        payload = client.connect()
        assert set(payload) == {"sid"}
        assert payload["sid"] != client.open["sid"], "the Engine.IO id is a secret"
        assert client.event() == ["auth", {}]
        client = WebSocket(socketio, SOCKETIO)
        client.connect('{"token":"123"}')
        assert client.event() == ["auth", {"token": "123"}]

    def test_connect_to_a_namespace(self, socketio: int) -> None:
        client = WebSocket(socketio, SOCKETIO)
        assert set(client.connect(namespace="/custom,")) == {"sid"}
        assert client.receive() == '42/custom,["auth",{}]'
        client.connect('{"token":"abc"}')
        assert client.event() == ["auth", {"token": "abc"}]

    @pytest.mark.parametrize("auth", ["", '{"token":"123"}'])
    def test_connect_to_an_unknown_namespace_is_rejected(self, socketio: int, auth: str) -> None:
        client = WebSocket(socketio, SOCKETIO)
        client.send(f"40/random,{auth}")
        assert client.receive() == '44/random,{"message":"Invalid namespace"}'

    def test_polling_handshake_opens_a_session(self, socketio: int) -> None:
        client = Polling(socketio, SOCKETIO)
        client.connect()
        assert client.send('42["message",1]') == (200, "ok")
        received: list[str] = []
        while '42["message-back",1]' not in received:
            received += client.poll()
        assert received[-1] == '42["message-back",1]'

    def test_session_without_connect_is_closed(self, socketio: int) -> None:
        client = WebSocket(socketio, SOCKETIO)
        assert client.wait_closed() is not None

    def test_packet_before_connect_closes_the_session(self, socketio: int) -> None:
        client = WebSocket(socketio, SOCKETIO)
        client.send('42["message"]')
        assert client.wait_closed() is not None

    def test_second_connect_closes_the_session(self, socketio: int) -> None:
        client = connect(socketio)
        client.send("40")
        assert client.wait_closed() is not None


class TestSocketIOMessages:
    def test_event_is_answered_with_an_event(self, socketio: int) -> None:
        client = connect(socketio)
        args: list[Any] = [1, "2", {"3": [True]}, None, "ü"]
        client.emit("message", *args)
        assert client.event() == ["message-back", *args]

    def test_event_json_has_no_spaces(self, socketio: int) -> None:
        client = connect(socketio)
        client.send('42["message",1,"2",{"3":[true]}]')
        assert client.receive() == '42["message-back",1,"2",{"3":[true]}]'

    def test_binary_event_is_answered_with_a_binary_event(self, socketio: int) -> None:
        client = connect(socketio)
        places = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
        client.send(f'452-["message",{places}]')
        client.send(b"\1\2\3")
        client.send(b"\4\5\6")
        reply = client.receive()
        assert isinstance(reply, str)
        assert reply == f'452-["message-back",{places}]'
        assert [client.receive(), client.receive()] == [b"\1\2\3", b"\4\5\6"]

    def test_acknowledgement_contains_the_arguments(self, socketio: int) -> None:
        client = connect(socketio)
        client.send('42456["message-with-ack",1,"2",{"3":[false]}]')
        assert client.receive() == '43456[1,"2",{"3":[false]}]'

    def test_binary_acknowledgement_contains_the_arguments(self, socketio: int) -> None:
        client = connect(socketio)
        client.send('451-789["message-with-ack",{"_placeholder":true,"num":0}]')
        client.send(b"\1\2\3")
        assert client.receive() == '461-789[{"_placeholder":true,"num":0}]'
        assert client.receive() == b"\1\2\3"

    @pytest.mark.parametrize(
        "packet", ["4abc", "42{}", '42["a"', "45", "42abc", "42[]", "4", b"lone", '42["connect"]']
    )
    def test_invalid_packet_closes_the_session(self, socketio: int, packet: str | bytes) -> None:
        client = connect(socketio)
        client.send(packet)
        assert client.wait_closed() is not None


class TestSocketIODisconnect:
    def test_disconnect_from_a_namespace_keeps_the_other(self, socketio: int) -> None:
        client = connect(socketio)
        client.connect(namespace="/custom,")
        assert client.receive() == '42/custom,["auth",{}]'
        client.send("41/custom,")
        client.send('42["message","message to main namespace"]')
        assert client.event() == ["message-back", "message to main namespace"]

    def test_disconnect_from_the_last_namespace_allows_another_connect(self, socketio: int) -> None:
        client = connect(socketio)
        client.send("41")
        client.connect()
        assert client.event() == ["auth", {}]


class TestSocketIOUpgrade:
    def test_upgrade_keeps_events_in_order(self, socketio: int) -> None:
        polling = Polling(socketio, SOCKETIO)
        polling.send("40")
        packets = polling.poll()
        assert json.loads(packets[0][2:]).keys() == {"sid"}
        query = f"EIO=4&transport=websocket&sid={polling.sid}"
        client = WebSocket(socketio, SOCKETIO, query)
        client.send("2probe")
        while client.receive() != "3probe":
            pass
        assert polling.poll() == ["6"]
        client.send("5")
        client.send('42["message","over"]')
        received = [*packets[1:], client.receive()]
        while received[-1] != '42["message-back","over"]':
            received.append(client.receive())
        assert received == ['42["auth",{}]', '42["message-back","over"]']


class TestEngineClientServer:
    def test_server_greets_and_echoes(self, engine_client: int) -> None:
        client = WebSocket(engine_client, ENGINE)
        assert client.open["pingInterval"] == 500
        assert client.open["maxPayload"] == 100
        assert client.receive() == "4hi"
        client.send("4give binary")
        assert client.receive() == bytes(range(5))
        client.send("4cash money €€€")
        assert client.receive() == "4cash money €€€"

    def test_server_sends_the_headers_of_a_post(self, engine_client: int) -> None:
        client = Polling(engine_client, ENGINE, headers={"Cookie": "1=1; 2=2"})
        assert client.poll() == ["4hi"]
        client.send("4sendHeaders")
        (packet,) = client.poll()
        assert json.loads(packet[1:])["cookie"] == "1=1; 2=2"

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_server_rejects_by_query(self, engine_client: int, transport: str) -> None:
        query = f"EIO=4&transport={transport}&deny=1"
        assert request(engine_client, "GET", query) == (403, '{"code":4,"message":"Forbidden"}')


class TestSocketIOClientServer:
    def test_server_answers_events(self, socketio_client: int) -> None:
        client = WebSocket(socketio_client, SOCKETIO)
        client.connect()
        assert client.call("echo", None) == [None]
        assert client.call("getId") == [client.id]
        client.emit("doge")
        packet = str(client.receive())
        # The offset follows, as recovery is enabled.
        assert packet.startswith('451-["doge",{"_placeholder":true,"num":0},"')
        assert client.receive() == b"asdfasdf"

    def test_server_shows_query_and_auth(self, socketio_client: int) -> None:
        client = WebSocket(socketio_client, SOCKETIO, "EIO=4&transport=websocket&a=b%26c")
        client.connect('{"token":1}', "/abc,")
        name, handshake, _offset = client.event()
        assert name == "handshake"
        assert handshake["query"]["a"] == "b&c"
        assert handshake["auth"] == {"token": 1}

    def test_server_rejects_a_namespace(self, socketio_client: int) -> None:
        client = WebSocket(socketio_client, SOCKETIO)
        client.send("40/no,")
        assert client.receive() == '44/no,{"message":"Auth failed (custom namespace)"}'


class TestSuites:
    def test_exceptions_are_named_with_a_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(SERVERS))
        from client_suites import SUITES, exceptions

        text = (SERVERS / "README.rst").read_text()
        titles = exceptions()
        assert titles
        assert len(titles) == len(set(titles))
        terms = re.findall(r"^``.*``$", text.partition("\nExceptions\n")[2], re.MULTILINE)
        assert terms == [f"``{title}``" for title in titles]
        for suite in SUITES.values():
            assert (SERVERS / suite.server).is_file()
            assert f"``{suite.server}``" in text
