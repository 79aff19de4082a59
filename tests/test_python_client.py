"""python-socketio's client against a real server: over each transport, and with the upgrade."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import requests
import socketio
import web
from engineio.payload import Payload

from webpy_socketio import (
    Refused,
    SocketIOServer,
    broadcast_channel,
    on_connect,
    on_connecting,
    on_event,
    on_message,
    socketio_urls,
)
from webpy_socketio.registry import registry

from .conftest import Journal, Site

TRANSPORTS = {
    "polling": ["polling"],
    "websocket": ["websocket"],
    "upgrade": ["polling", "websocket"],
}


class Client:
    """The client, with a journal of what it hears."""

    def __init__(self, transports: list[str], **keywords: Any) -> None:
        self.transports = transports
        self.http = requests.Session()
        self.http.trust_env = False  # no proxy stands between us
        keywords.setdefault("reconnection", False)
        self.io = socketio.Client(http_session=self.http, **keywords)
        self.heard = Journal()
        self.io.on("*", lambda event, *args: self.heard.append((event, *args)))
        for event in ("connect", "disconnect", "connect_error"):
            self.io.on(event, self._recorder(event))

    def _recorder(self, event: str) -> Callable[..., None]:
        return lambda *args: self.heard.append((event, *args))

    def connect(self, site: Site, **keywords: Any) -> Client:
        self.io.connect(site.url, transports=self.transports, socketio_path=site.path, **keywords)
        assert self.io.transport() == self.transports[-1]
        return self

    def close(self) -> None:
        self.io.shutdown()
        websocket = self.io.eio.ws
        if websocket is not None:
            websocket.shutdown()
        self.http.close()


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
    def test_it_connects_and_knows_its_public_id(self, site: Site, make: Make) -> None:
        client = make().connect(site)
        assert client.io.get_sid() in registry.namespace("/").sockets
        assert client.heard == [("connect",)]

    def test_auth(self, site: Site, make: Make) -> None:
        client = make().connect(site, auth={"token": "secret"})
        socket = registry.find(client.io.get_sid())
        assert socket is not None
        assert socket.auth == {"token": "secret"}

    def test_refused(self, site: Site, make: Make) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            raise Refused("members only")

        client = make()
        with pytest.raises(socketio.exceptions.ConnectionError):
            client.connect(site)
        assert ("connect_error", {"message": "members only"}) in client.heard

    def test_headers_and_cookies_arrive(self, site: Site, make: Make, journal: Journal) -> None:
        @on_connect
        def handler(request: Any, socket: Any, context: Any) -> None:
            journal.append((request["HTTP_X_NAME"], web.cookies().get("shop")))

        make().connect(site, headers={"X-Name": "Ann", "Cookie": "shop=corner"})
        assert journal == [("Ann", "corner")]


class TestMessages:
    def test_both_ways(self, site: Site, make: Make) -> None:
        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send(message)

        client = make().connect(site)
        messages = ["text", "žluťoučký 🐎", {"a": [1, None, True]}, 0, ""]
        for message in messages:
            client.io.send(message)
        client.heard.wait(lambda heard: len(heard) == 1 + len(messages))
        assert client.heard[1:] == [("message", message) for message in messages]

    def test_events_with_several_arguments(self, site: Site, make: Make) -> None:
        @on_event("add")
        def add(request: Any, socket: Any, context: Any, one: int, other: int) -> None:
            socket.emit("sum", one + other, "and more")

        client = make().connect(site)
        client.io.emit("add", (1, 2))
        client.heard.wait_for(("sum", 3, "and more"))

    def test_binary(self, site: Site, make: Make, journal: Journal) -> None:
        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)
            socket.send(message)

        client = make().connect(site)
        message = {"picture": b"\0\xff" * 5000, "parts": [b"", b"x"]}
        client.io.send(message)
        client.heard.wait_for(("message", message))
        assert journal == [message]

    def test_a_thousand_in_order(
        self, site: Site, make: Make, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The client takes no more than 16 packets at a time over long-polling, unless told to.
        monkeypatch.setattr(Payload, "max_decode_packets", 2000)

        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)
            socket.send(message)

        client = make().connect(site)
        for number in range(1000):
            client.io.send(number)
        client.heard.wait(lambda heard: len(heard) == 1001)
        assert journal == list(range(1000))
        assert client.heard[1:] == [("message", number) for number in range(1000)]


class TestAcknowledgements:
    def test_the_servers(self, site: Site, make: Make) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return {"one": 1, "pair": (1, "two"), "none": None}.get(message)

        client = make().connect(site)
        assert client.io.call("message", "one") == 1
        assert client.io.call("message", "pair") == (1, "two")
        assert client.io.call("message", "none") is None

    def test_the_clients(self, site: Site, make: Make) -> None:
        client = make()
        client.io.on("question", lambda *args: ("answer", list(args)))
        client.io.on("silence", lambda: None)
        client.connect(site)
        socket = registry.find(client.io.get_sid())
        assert socket is not None
        assert socket.call("question", 1, 2) == ["answer", [1, 2]]
        assert socket.call("silence") is None
        # Disconnecting before its last POST is answered, the client forgets to say so and waits.
        client.io.call("__unsubscribe__", "barrier")


class TestNamespaces:
    def test_two_at_once(self, serve: Callable[..., Site], make: Make) -> None:
        @on_message
        def where(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return socket.namespace

        site = serve(namespaces=["/", "/chat"])
        client = make().connect(site, namespaces=["/", "/chat"])
        assert client.io.call("message", namespace="/chat") == "/chat"
        assert client.io.call("message") == "/"
        assert client.io.get_sid("/") != client.io.get_sid("/chat")


class TestChannels:
    def test_subscribe_and_unsubscribe(self, site: Site, make: Make) -> None:
        client = make().connect(site)
        assert client.io.call("__subscribe__", "room") == {"ok": True}
        broadcast_channel("hello", "room")
        client.heard.wait_for(("message", "hello"))
        assert client.io.call("__unsubscribe__", "room") == {"ok": True}
        assert client.io.call("__channel__", ("room", "x"))["ok"] is False
        assert client.io.call("__subscribe__", "")["ok"] is False

    def test_two_clients_talk(self, site: Site, make: Make) -> None:
        @on_message(channel="^room$")
        def talk(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.broadcast_channel(message, "room")

        ann, bob = make().connect(site), make().connect(site)
        for client in (ann, bob):
            client.io.call("__subscribe__", "room")
        ann.io.call("__channel__", ("room", "hello from Ann"))
        bob.io.call("__channel__", ("room", "hello from Bob"))
        bob.heard.wait_for(("message", "hello from Ann"))
        ann.heard.wait_for(("message", "hello from Bob"))
        assert len(ann.heard) == len(bob.heard) == 2


class TestEnds:
    def test_the_client_leaves(self, site: Site, make: Make, stages: Journal) -> None:
        client = make().connect(site)
        client.io.disconnect()
        stages.wait(lambda stages: stages[-1][0] == "finish")
        assert stages[-1][1] in ("client namespace disconnect", "transport close")
        assert [name for name, _ in stages].count("disconnect") == 1

    def test_the_server_ends_it(self, site: Site, make: Make, stages: Journal) -> None:
        client = make().connect(site)
        socket = registry.find(client.io.get_sid())
        assert socket is not None
        socket.send("the last word")
        socket.disconnect()
        client.heard.wait(lambda heard: heard[-1][0] == "disconnect")
        assert ("message", "the last word") in client.heard
        stages.wait_for(("finish", "server namespace disconnect"))

    def test_heartbeats_keep_it(self, serve: Callable[..., Site], make: Make) -> None:
        site = serve(ping_interval=0.1, ping_timeout=0.5)
        client = make().connect(site)
        socket = registry.find(client.io.get_sid())
        assert socket is not None
        session = socket._connection.session
        heartbeat = site.server.engine._heartbeat
        first = heartbeat._since[session]
        while heartbeat._since[session] == first:  # until a pong was taken
            gevent.sleep(0.01)
        assert client.io.call("__unsubscribe__", "barrier") == {"ok": True}
        assert socket.connected

    @pytest.mark.patience(30)
    def test_after_a_restart_it_comes_back(self, make: Make, journal: Journal) -> None:
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
        client.heard.wait(lambda heard: any(event[0] == "disconnect" for event in heard))
        if old is not None:
            old.shutdown()  # which it leaves open
        second = start(port)
        try:
            journal.wait(lambda journal: len(journal) == 2)
            client.heard.wait(lambda heard: heard.count(("connect",)) == 2)
            assert journal[0] != journal[1]
            client.io.reconnection = False
            client.io.disconnect()
        finally:
            second.stop()


class TestManyPacketsAtOnce:
    """Its limit of 16 packets in a response, and what docs/troubleshooting.rst says about it."""

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
            client.disconnect()

    @pytest.mark.quoted("Unexpected packet from server, aborting")
    def test_with_more_than_16_packets_client_disconnects(
        self,
        connect: Callable[..., socketio.Client],
        journal: Journal,
        caplog: pytest.LogCaptureFixture,
        told: Callable[[str], None],
    ) -> None:
        client = connect("polling")
        client.on("disconnect", lambda reason: journal.append(reason))
        client.emit("many")
        journal.wait(len)
        told("\n".join(record.getMessage() for record in caplog.records))

    @pytest.mark.parametrize("remedy", ["websocket", "max_decode_packets"])
    def test_with_remedy_client_receives_all(
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
