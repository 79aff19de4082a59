"""python-socketio's client against a real server: over each transport, and with the upgrade."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
import socketio
import web
from engineio.payload import Payload

from tests.conftest import Journal, Site
from tests.python_clients import close_client, disconnect_client
from tests.servers import Process, ServerProcess, application_source
from tests.snippets import DOCS, Page
from webpy_socketio import (
    Refused,
    SocketIOServer,
    broadcast_channel,
    on_connect,
    on_connecting,
    on_event,
    on_message,
    on_receiving,
    on_subscribing,
    socketio_urls,
    to_sockets,
)
from webpy_socketio.runtime import default_runtime

TRANSPORTS = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}


class Client:
    """The client, and a journal of the events that it receives."""

    def __init__(self, transports: list[str], **keywords: Any) -> None:
        self.transports = transports
        self.http = requests.Session()
        self.http.trust_env = False  # no proxy
        keywords.setdefault("reconnection", False)
        self.io = socketio.Client(http_session=self.http, **keywords)
        self.received = Journal()
        self.io.on("*", lambda event, *args: self.received.append((event, *args)))
        for event in ("connect", "disconnect", "connect_error"):
            self.io.on(event, self._recorder(event))

    def _recorder(self, event: str) -> Callable[..., None]:
        return lambda *args: self.received.append((event, *args))

    def connect(self, site: Site, **keywords: Any) -> Client:
        self.io.connect(site.url, transports=self.transports, socketio_path=site.path, **keywords)
        assert self.io.transport() == self.transports[-1]
        return self

    def close(self) -> None:
        close_client(self.io)


@pytest.fixture(params=TRANSPORTS)
def transports(request: pytest.FixtureRequest) -> list[str]:
    return TRANSPORTS[request.param]


@pytest.fixture
def make(transports: list[str]) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(**keywords: Any) -> Client:
        client = Client(transports, **keywords)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


Make = Callable[..., Client]


class TestConnecting:
    def test_connect_yields_public_id(self, site: Site, make: Make) -> None:
        client = make().connect(site)
        assert client.io.get_sid() in default_runtime.registry.namespace("/").sockets
        assert client.received == [("connect",)]

    def test_auth_reaches_socket(self, site: Site, make: Make) -> None:
        client = make().connect(site, auth={"token": "secret"})
        socket = default_runtime.registry.find(client.io.get_sid())
        assert socket is not None
        assert socket.auth == {"token": "secret"}

    def test_gate_raising_refused_rejects_connection(self, site: Site, make: Make) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            raise Refused("members only")

        client = make()
        with pytest.raises(socketio.exceptions.ConnectionError):
            client.connect(site)
        assert ("connect_error", {"message": "members only"}) in client.received

    def test_headers_and_cookies_reach_handler(
        self, site: Site, make: Make, journal: Journal
    ) -> None:
        @on_connect
        def handler(request: Any, socket: Any, context: Any) -> None:
            journal.append((request["HTTP_X_NAME"], web.cookies().get("shop")))

        make().connect(site, headers={"X-Name": "Ann", "Cookie": "shop=corner"})
        assert journal == [("Ann", "corner")]


class TestMessages:
    def test_messages_arrive_in_both_directions(self, site: Site, make: Make) -> None:
        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send(message)

        client = make().connect(site)
        messages = ["text", "žluťoučký 🐎", {"a": [1, None, True]}, 0, ""]
        for message in messages:
            client.io.send(message)
        client.received.wait(lambda received: len(received) == 1 + len(messages))
        assert client.received[1:] == [("message", message) for message in messages]

    def test_event_with_several_arguments_reaches_handler(self, site: Site, make: Make) -> None:
        @on_event("add")
        def add(request: Any, socket: Any, context: Any, one: int, other: int) -> None:
            socket.emit("sum", one + other, "and more")

        client = make().connect(site)
        client.io.emit("add", (1, 2))
        client.received.wait_for(("sum", 3, "and more"))

    def test_binary_message_arrives_in_both_directions(
        self, site: Site, make: Make, journal: Journal
    ) -> None:
        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)
            socket.send(message)

        client = make().connect(site)
        message = {"picture": b"\0\xff" * 5000, "parts": [b"", b"x"]}
        client.io.send(message)
        client.received.wait_for(("message", message))
        assert journal == [message]

    def test_thousand_messages_keep_their_order(
        self, site: Site, make: Make, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # By default, the client accepts at most 16 packets per long-polling response.
        monkeypatch.setattr(Payload, "max_decode_packets", 2000)

        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)
            socket.send(message)

        client = make().connect(site)
        for number in range(1000):
            client.io.send(number)
        client.received.wait(lambda received: len(received) == 1001)
        assert journal == list(range(1000))
        assert client.received[1:] == [("message", number) for number in range(1000)]


class TestAcknowledgements:
    def test_handler_result_is_acknowledged(self, site: Site, make: Make) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return {"one": 1, "pair": (1, "two"), "none": None}.get(message)

        client = make().connect(site)
        assert client.io.call("message", "one") == 1
        assert client.io.call("message", "pair") == (1, "two")
        assert client.io.call("message", "none") is None

    def test_call_returns_acknowledgement_of_client(self, site: Site, make: Make) -> None:
        client = make()
        client.io.on("question", lambda *args: ("answer", list(args)))
        client.io.on("silence", lambda: None)
        client.connect(site)
        socket = default_runtime.registry.find(client.io.get_sid())
        assert socket is not None
        assert socket.call("question", 1, 2) == ["answer", [1, 2]]
        assert socket.call("silence") is None
        # A client that disconnects before its last POST is answered sends no packet and waits.
        client.io.call("__unsubscribe__", "barrier")


class TestNamespaces:
    def test_client_in_two_namespaces_has_two_sockets(
        self, serve: Callable[..., Site], make: Make
    ) -> None:
        @on_message
        def where(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return socket.namespace

        site = serve(namespaces=["/", "/chat"])
        client = make().connect(site, namespaces=["/", "/chat"])
        assert client.io.call("message", namespace="/chat") == "/chat"
        assert client.io.call("message") == "/"
        assert client.io.get_sid("/") != client.io.get_sid("/chat")


class TestTargets:
    def test_socket_is_addressed_by_its_id(self, site: Site, make: Make) -> None:
        ann, bob = make().connect(site), make().connect(site)
        ann.io.on("ask", lambda *args: list(args))
        target = to_sockets(ann.io.get_sid())
        target.emit("private", b"1", {"two": 2})
        ann.received.wait_for(("private", b"1", {"two": 2}))
        assert target.call("ask", 1, 2) == [[1, 2]]
        target.disconnect()
        ann.received.wait(lambda received: received[-1][0] == "disconnect")
        assert bob.received == [("connect",)]


class TestChannels:
    def test_subscribed_client_receives_channel_messages(self, site: Site, make: Make) -> None:
        client = make().connect(site)
        assert client.io.call("__subscribe__", "room") == {"ok": True}
        broadcast_channel("hello", "room")
        client.received.wait_for(("message", "hello"))
        assert client.io.call("__unsubscribe__", "room") == {"ok": True}
        assert client.io.call("__channel__", ("room", "x"))["ok"] is False
        assert client.io.call("__subscribe__", "")["ok"] is False

    def test_subscribers_receive_messages_of_each_other(self, site: Site, make: Make) -> None:
        @on_message(channel="^room$")
        def talk(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.broadcast_channel(message, "room")

        ann, bob = make().connect(site), make().connect(site)
        for client in (ann, bob):
            client.io.call("__subscribe__", "room")
        ann.io.call("__channel__", ("room", "hello from Ann"))
        bob.io.call("__channel__", ("room", "hello from Bob"))
        bob.received.wait_for(("message", "hello from Ann"))
        ann.received.wait_for(("message", "hello from Bob"))
        assert len(ann.received) == len(bob.received) == 2


WIRE = Page.read(DOCS / "reference" / "wire.rst")


def documented(text: str) -> str:
    """Return a text that the page on the protocol contains, after checking that it does."""
    assert f"``{text}``" in re.sub(r"\s+", " ", WIRE.text)
    return text


def rejected(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}


class TestProtocolPage:
    """The acknowledgements and the example of docs/reference/wire.rst."""

    def test_rejected_subscription_is_acknowledged_with_documented_error(
        self, serve: Callable[..., Site], make: Make
    ) -> None:
        @on_subscribing(channel="^gate-")
        def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            reasons: dict[str, Exception] = {
                "gate-reason": Refused("members only"),
                "gate-empty": Refused(),
                "gate-failing": ValueError("secret"),
            }
            raise reasons[channel]

        client = make().connect(serve(max_channels=1))
        for event in ("__subscribe__", "__unsubscribe__"):
            for arguments in (7, None, ("a", "b")):
                beginning = documented("a channel name must be text, not ...")[:-3]
                assert client.io.call(event, arguments)["error"].startswith(beginning)
            for name, error in {
                "": "a channel name must have 1 to 255 characters ...",
                "x" * 256: "a channel name must have 1 to 255 characters ...",
                "a\n": "a channel name must not contain ...",
                "a\ufffd": "a channel name must not contain ...",
                "__proto__": 'the channel name "__proto__" is reserved',
            }.items():
                answer = client.io.call(event, name)
                assert answer == rejected(answer["error"])
                assert answer["error"].startswith(documented(error).removesuffix("..."))
        assert client.io.call("__subscribe__", "gate-reason") == rejected("members only")
        assert client.io.call("__subscribe__", "gate-empty") == rejected(documented("refused"))
        assert client.io.call("__subscribe__", "gate-failing") == rejected(
            documented("not allowed")
        )
        assert client.io.call("__subscribe__", "one") == {"ok": True}
        assert client.io.call("__subscribe__", "one") == {"ok": True}
        beginning = documented("channel limit reached: ...")[:-3]
        assert client.io.call("__subscribe__", "two")["error"].startswith(beginning)
        assert client.io.call("__unsubscribe__", "two") == {"ok": True}

    def test_rejected_message_is_acknowledged_with_documented_error(
        self, site: Site, make: Make
    ) -> None:
        @on_receiving
        def gate(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            if message == "refused":
                raise Refused("too loud")
            if message == "failing":
                raise ValueError("secret")

        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            if message == "raise":
                raise ValueError("secret")
            return "delivered"

        client = make().connect(site)
        answer = client.io.call("__channel__", ("room", "hello"))
        documented(f'{{"ok": false, "error": "{answer["error"]}"}}')
        assert answer["ok"] is False
        client.io.call("__subscribe__", "room")
        for message, expected in {
            "hello": "delivered",
            "refused": {"error": "too loud"},
            "failing": {"error": "not allowed"},
            "raise": {"error": "internal error"},
        }.items():
            assert client.io.call("__channel__", ("room", message)) == expected
            if message in ("failing", "raise"):
                documented(f'{{"error": "{expected["error"]}"}}')  # type: ignore[index]

    def test_requests_are_handled_in_order_without_waiting(self, site: Site, make: Make) -> None:
        @on_subscribing
        def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            gevent.sleep(0)  # the later events wait for it

        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return message

        client = make().connect(site)
        answers = Journal()
        client.io.emit("__subscribe__", "room", callback=answers.append)
        client.io.emit("__channel__", ("room", "first"), callback=answers.append)
        client.io.emit("__unsubscribe__", "room", callback=answers.append)
        client.io.emit("__channel__", ("room", "second"), callback=answers.append)
        answers.wait(lambda answers: len(answers) == 4)
        # The client runs callbacks in threads, in any order.
        assert answers.count({"ok": True}) == 2
        assert "first" in answers
        assert "second" not in answers


@pytest.mark.time_limit(60)
def test_example_of_the_protocol_page_subscribes_again_after_reconnection(tmp_path: Path) -> None:
    server = ServerProcess(
        application_source(
            """
@on_message(channel="^room-")
def talk(request, socket, context, message):
    socket.send_and_broadcast_channel(message)
    return "delivered"
"""
        ),
        tmp_path / "server",
    )
    program = tmp_path / "room_client.py"
    text = WIRE.files()["room_client.py"]
    assert "8000" in text
    program.write_text(text.replace("8000", str(server.port)))
    # No proxy may be used for the address of the server.
    client = Process([sys.executable, str(program)], tmp_path / "client.log", {"NO_PROXY": "*"})
    try:
        # The client calls each function in a thread of its own, so lines may be mixed.
        output = ""
        for text in ("subscribed", "received", "hello", "acknowledged", "delivered"):
            while text not in output:
                output += client.next_line()
        server.restart()
        while "subscribed" not in client.next_line():
            pass
    finally:
        client.kill()
        server.close()


class TestDisconnection:
    def test_client_disconnect_finishes_once(self, site: Site, make: Make, stages: Journal) -> None:
        client = make().connect(site)
        disconnect_client(client.io)
        stages.wait(lambda stages: stages[-1][0] == "finish")
        assert stages[-1][1] in ("client namespace disconnect", "transport close")
        assert [name for name, _ in stages].count("disconnect") == 1

    def test_server_disconnect_delivers_last_message(
        self, site: Site, make: Make, stages: Journal
    ) -> None:
        client = make().connect(site)
        socket = default_runtime.registry.find(client.io.get_sid())
        assert socket is not None
        socket.send("goodbye")
        socket.disconnect()
        client.received.wait(lambda received: received[-1][0] == "disconnect")
        assert ("message", "goodbye") in client.received
        stages.wait_for(("finish", "server namespace disconnect"))

    def test_heartbeats_keep_connection_open(self, serve: Callable[..., Site], make: Make) -> None:
        site = serve(ping_interval=0.1, ping_timeout=5.0)
        client = make().connect(site)
        socket = default_runtime.registry.find(client.io.get_sid())
        assert socket is not None
        session = socket._connection.session
        heartbeat = site.server.engine._heartbeat
        first = heartbeat._since[session]
        while heartbeat._since[session] == first:  # until a pong was received
            gevent.sleep(0.01)
        assert client.io.call("__unsubscribe__", "barrier") == {"ok": True}
        assert socket.connected

    @pytest.mark.time_limit(30)
    def test_client_reconnects_after_restart(self, make: Make, journal: Journal) -> None:
        @on_connect
        def handler(request: Any, socket: Any, context: Any) -> None:
            journal.append(socket.session_id)

        app = web.application(socketio_urls, {}, autoreload=False)

        def start(port: int) -> SocketIOServer:
            server = SocketIOServer(("127.0.0.1", port), app.wsgifunc(), plugins=[], log=None)
            server.start()
            return server

        first = start(0)
        client = make(reconnection=True, reconnection_delay=0.05, randomization_factor=0)
        client.io.connect(f"http://127.0.0.1:{first.server_port}", transports=client.transports)
        port = first.server_port
        old = client.io.eio.ws
        first.stop()
        client.received.wait(lambda received: any(event[0] == "disconnect" for event in received))
        if old is not None:
            old.shutdown()  # the client leaves it open
        second = start(port)
        try:
            journal.wait(lambda journal: len(journal) == 2)
            client.received.wait(lambda received: received.count(("connect",)) == 2)
            assert journal[0] != journal[1]
            client.io.reconnection = False
            disconnect_client(client.io)
        finally:
            second.stop()


class TestManyPacketsAtOnce:
    """The limit of 16 packets in a response; see docs/reference/troubleshooting.rst."""

    COUNT = 40

    @pytest.fixture
    def connect(self, site: Site) -> Iterator[Callable[..., socketio.Client]]:
        clients: list[socketio.Client] = []

        @on_event("many")
        def many(request: Any, socket: Any, context: Any) -> None:
            for number in range(self.COUNT):
                socket.emit("number", number)

        def connect(*transports: str) -> socketio.Client:
            client = socketio.Client(
                reconnection=False, engineio_logger=logging.getLogger("python client")
            )
            client.connect(site.url, transports=list(transports))
            clients.append(client)
            return client

        yield connect
        for client in clients:
            close_client(client)

    @pytest.mark.quoted("Unexpected packet from server, aborting")
    def test_client_disconnects_after_more_than_16_packets(
        self,
        connect: Callable[..., socketio.Client],
        journal: Journal,
        caplog: pytest.LogCaptureFixture,
        match_quote: Callable[[str], None],
    ) -> None:
        client = connect("polling")
        client.on("disconnect", lambda reason: journal.append(reason))
        client.emit("many")
        journal.wait(len)
        match_quote("\n".join(record.getMessage() for record in caplog.records))

    @pytest.mark.parametrize("remedy", ["websocket", "max_decode_packets"])
    def test_client_with_remedy_receives_all(
        self,
        remedy: str,
        connect: Callable[..., socketio.Client],
        journal: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if remedy == "max_decode_packets":
            monkeypatch.setattr(Payload, "max_decode_packets", 5000)
        client = connect("websocket" if remedy == "websocket" else "polling")
        client.on("number", journal.append)
        client.emit("many")
        journal.wait(lambda numbers: len(numbers) == self.COUNT)
        assert journal == list(range(self.COUNT))
