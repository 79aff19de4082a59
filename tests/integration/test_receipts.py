"""Numbered messages of clients: confirmation, repetitions, answers, and invalid numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import pytest
import web

from tests.conftest import Site, socket_of
from tests.raw import WebSocket
from webpy_socketio import (
    Refused,
    Socket,
    on_error,
    on_event,
    on_message,
    on_receiving,
    on_suspend,
    receipts,
    socketio_urls,
)
from webpy_socketio.testing import TestServer

TIME = 120


@pytest.fixture
def seen() -> list[Any]:
    """The values of the event "add", as they are handled."""
    values: list[Any] = []

    @on_event("add")
    def add(request: Any, socket: Socket, context: Any, value: Any) -> int:
        values.append(value)
        return len(values)

    return values


@pytest.fixture
def errors() -> list[str]:
    """The texts of errors that clients have caused."""
    texts: list[str] = []

    @on_error
    def record(request: Any, socket: Socket, context: Any, exception: Exception) -> None:
        texts.append(f"{type(exception).__name__}: {exception}")

    return texts


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    return serve(recovery_time=TIME)


def numbered(client: WebSocket, number: Any, *event: Any, ack: int | None = None) -> None:
    """Send a numbered event."""
    client.emit("__numbered__", number, *event, ack=ack)


def lose(client: WebSocket) -> None:
    """Lose the connection, and wait until the socket is suspended."""
    socket = socket_of(client)
    client.vanish(reset=True)
    while not socket.suspended:
        gevent.sleep(0.001)


def resume(site: Site, pid: str) -> tuple[WebSocket, dict[str, Any]]:
    """Return a connection that resumes a socket, and the answer to its CONNECT."""
    client = site.websocket()
    return client, client.connect(json.dumps({"pid": pid}))


class TestNumbers:
    def test_message_is_handled_once_and_as_without_a_number(
        self, site: Site, seen: list[Any]
    ) -> None:
        client = site.connect()
        numbered(client, 1, "add", "one")
        numbered(client, 2, "add", "two")
        for number in (1, 2, 1):
            numbered(client, number, "add", "repeated")
        numbered(client, 3, "add", "three")
        client.barrier()
        assert seen == ["one", "two", "three"]

    def test_answer_to_connect_contains_the_last_number(self, site: Site, seen: list[Any]) -> None:
        client = site.websocket()
        reply = client.connect()
        assert reply["received"] == 0
        numbered(client, 1, "add", "one")
        numbered(client, 2, "add", "two")
        client.barrier()
        lose(client)
        client, reply = resume(site, reply["pid"])
        assert reply["received"] == 2
        numbered(client, 2, "add", "two")
        numbered(client, 3, "add", "three")
        client.barrier()
        assert seen == ["one", "two", "three"]

    def test_messages_in_the_queue_of_a_lost_connection_count_as_received(
        self, site: Site, seen: list[Any]
    ) -> None:
        proceed = gevent.event.Event()

        @on_event("wait")
        def wait(request: Any, socket: Socket, context: Any) -> None:
            proceed.wait()

        client = site.websocket()
        reply = client.connect()
        numbered(client, 1, "wait")
        numbered(client, 2, "add", "two")
        while not socket_of(client)._connection.inbox:
            gevent.sleep(0.001)
        lose(client)
        gevent.get_hub().loop.run_callback(proceed.set)
        client, reply = resume(site, reply["pid"])
        assert reply["received"] == 2
        assert seen == ["two"]

    def test_new_connection_starts_at_zero(self, site: Site, seen: list[Any]) -> None:
        client = site.websocket()
        reply = client.connect()
        numbered(client, 7, "add", "one")
        client.barrier()
        lose(client)
        client, reply = resume(site, f"{reply['pid']}x")
        assert reply["received"] == 0
        numbered(client, 1, "add", "two")
        client.barrier()
        assert seen == ["one", "two"]

    def test_reply_without_recovery_has_no_number(self, serve: Callable[..., Site]) -> None:
        assert set(serve().websocket().connect()) == {"sid"}

    def test_channels_and_subscriptions_can_be_numbered(self, site: Site) -> None:
        received = []

        @on_message(channel="^room$")
        def record(request: Any, socket: Socket, context: Any, message: Any) -> str:
            received.append(message)
            return "delivered"

        client = site.connect()
        numbered(client, 1, "__subscribe__", "room", ack=1)
        assert client.receive() == '431[{"ok":true}]'
        numbered(client, 2, "__channel__", "room", "hello", ack=2)
        assert client.receive() == '432["delivered"]'
        numbered(client, 3, "__unsubscribe__", "room", ack=3)
        assert client.receive() == '433[{"ok":true}]'
        assert received == ["hello"]

    def test_refused_message_counts_as_received(self, site: Site, seen: list[Any]) -> None:
        @on_receiving
        def gate(request: Any, socket: Socket, context: Any, event: str, message: Any) -> None:
            if message == "bad":
                raise Refused("no")

        client = site.connect()
        numbered(client, 1, "add", "bad", ack=1)
        assert client.receive() == '431[{"error":"no"}]'
        numbered(client, 1, "add", "good")
        numbered(client, 2, "add", "better")
        client.barrier()
        assert seen == ["better"]


class TestConfirmation:
    def test_one_event_confirms_a_batch(self, site: Site, seen: list[Any]) -> None:
        client = site.connect()
        for number in range(1, 2 * receipts.BATCH_SIZE + 1):
            numbered(client, number, "add", number)
        assert client.event() == ["__received__", receipts.BATCH_SIZE]
        assert client.event() == ["__received__", 2 * receipts.BATCH_SIZE]

    def test_fewer_messages_are_confirmed_after_an_interval(self) -> None:
        with TestServer(web.application(socketio_urls, {}), plugins=[], recovery_time=TIME) as kit:
            client = kit.connect()
            packets = []
            receive = client._websocket._on_message
            client._websocket._on_message = lambda data: (packets.append(data), receive(data))[1]
            client.send("one")
            client.send("two")
            kit.advance(receipts.INTERVAL / 2)
            assert packets == []
            kit.advance(receipts.INTERVAL)
            assert packets == ['2["__received__",2]']
            kit.advance(10 * receipts.INTERVAL)
            assert len(packets) == 1
            assert client.received() == []

    def test_answer_replaces_a_confirmation(self, site: Site, seen: list[Any]) -> None:
        client = site.connect()
        socket: Any = socket_of(client)
        for number in range(1, receipts.BATCH_SIZE):
            numbered(client, number, "add", number, ack=number)
            assert client.receive() == f"43{number}[{number}]"
        client.barrier()
        assert socket.receipts._timer is None
        numbered(client, receipts.BATCH_SIZE, "add", "unanswered")
        client.barrier()  # not confirmed at once: a batch begins
        assert socket.receipts._timer is not None


class TestAnswers:
    def test_known_answer_is_sent_again_without_running_the_handler(
        self, site: Site, seen: list[Any]
    ) -> None:
        client = site.websocket()
        reply = client.connect()
        numbered(client, 1, "add", "one", ack=5)
        assert client.receive() == "435[1]"
        lose(client)
        client, _ = resume(site, reply["pid"])
        numbered(client, 1, ack=5)  # without the event
        assert client.receive() == "435[1]"
        numbered(client, 1, "add", "one", ack=5)  # with it
        assert client.receive() == "435[1]"
        assert seen == ["one"]

    def test_unknown_answer_is_reported(self, site: Site, seen: list[Any]) -> None:
        client = site.connect()
        last = receipts.MAX_ANSWERS + 1
        for number in range(1, last + 1):
            numbered(client, number, "add", number, ack=number)
            client.receive()
        numbered(client, 1, ack=1)
        assert client.event() == ["__received__", last, 1]
        numbered(client, 2, ack=2)
        assert client.receive() == "432[2]"

    def test_large_answer_is_not_kept(self, site: Site) -> None:
        @on_event("large")
        def large(request: Any, socket: Socket, context: Any) -> str:
            return "x" * receipts.MAX_ANSWER_BYTES

        @on_event("half")
        def half(request: Any, socket: Socket, context: Any) -> str:
            return "x" * (receipts.MAX_ANSWER_BYTES // 2)

        client = site.connect()
        for number, event in enumerate(["large", "half", "half"], 1):
            numbered(client, number, event, ack=number)
            client.receive()
        for number in (1, 2):
            numbered(client, number, ack=number)
            assert client.event() == ["__received__", 3, number]
        numbered(client, 3, ack=3)
        assert str(client.receive()).startswith("433")

    def test_deferred_answer_reaches_the_resumed_connection(self, site: Site) -> None:
        acknowledgements = []

        @on_event("later")
        def later(request: Any, socket: Socket, context: Any) -> None:
            acknowledgements.append(socket.withhold_acknowledgement())

        client = site.websocket()
        reply = client.connect()
        numbered(client, 1, "later", ack=1)
        numbered(client, 2, "later", ack=2)
        client.barrier()
        lose(client)
        acknowledgements[0]("while it is lost")
        client, _ = resume(site, reply["pid"])
        numbered(client, 1, ack=1)
        assert client.receive() == '431["while it is lost"]'
        numbered(client, 2, ack=2)  # the answer follows
        client.barrier()
        acknowledgements[1]("afterwards")
        assert client.receive() == '432["afterwards"]'

    def test_timeout_of_a_deferred_answer_continues_during_a_loss(self) -> None:
        @on_event("later")
        def later(request: Any, socket: Socket, context: Any) -> None:
            socket.withhold_acknowledgement(timeout=20)

        app = web.application(socketio_urls, {})
        with TestServer(app, plugins=[], recovery_time=TIME) as kit:
            client = kit.connect()
            answer = client.ask("later")
            client.lose()
            kit.advance(21)
            assert client.resume()
            assert answer.value == {"error": "timeout"}

    def test_end_of_the_socket_stops_timers_and_discards_answers(self) -> None:
        @on_event("later")
        def later(request: Any, socket: Socket, context: Any) -> None:
            context["acknowledge"] = socket.withhold_acknowledgement(timeout=20)

        app = web.application(socketio_urls, {})
        with TestServer(app, plugins=[], recovery_time=TIME) as kit:
            client = kit.connect()
            client.ask("later")
            socket: Any = client.socket
            client.lose()
            kit.advance(TIME + 1)
            assert not socket.suspended
            assert not socket.receipts._timers
            assert not socket.receipts._answers

    def test_answer_deferred_after_the_end_starts_no_timer(self, site: Site) -> None:
        sockets: list[Any] = []

        @on_event("later")
        def later(request: Any, socket: Socket, context: Any) -> None:
            socket.disconnect()
            while socket.connected:
                gevent.sleep(0)
            socket.withhold_acknowledgement(timeout=20)
            sockets.append(socket)

        client = site.connect()
        numbered(client, 1, "later", ack=1)
        client.wait_closed()
        while not sockets:
            gevent.sleep(0.001)
        assert not sockets[0].receipts._timers

    def test_answer_of_a_message_without_a_number_is_not_kept(self, site: Site) -> None:
        suspended = gevent.event.Event()

        @on_event("later")
        def later(request: Any, socket: Socket, context: Any) -> None:
            context["acknowledge"] = socket.withhold_acknowledgement()

        @on_suspend
        def answer(request: Any, socket: Socket, context: Any) -> None:
            context["acknowledge"]("lost")
            suspended.set()

        client = site.websocket()
        reply = client.connect()
        client.emit("later", ack=1)
        client.barrier()
        lose(client)
        suspended.wait()
        client, _ = resume(site, reply["pid"])
        client.barrier()


NUMBER = "the number of a message must be an integer from 1 to 2**53 - 1, not"


class TestInvalid:
    """Invalid numbers cost the client its message, and nothing else."""

    @pytest.mark.parametrize(
        "number",
        ["1", -1, 0, 1.0, 1.5, 2**53, 10**30, True, None, [], {"number": 1}],
        ids=lambda number: f"{type(number).__name__} {number!r:.20}",
    )
    def test_invalid_number_drops_the_message(
        self, site: Site, seen: list[Any], errors: list[str], number: Any
    ) -> None:
        client = site.connect()
        numbered(client, 1, "add", "one")
        numbered(client, number, "add", "wrong")
        numbered(client, number, "add", "wrong", ack=1)
        (answer,) = json.loads(str(client.receive()).removeprefix("431"))
        assert answer["error"].startswith(NUMBER)
        numbered(client, 2, "add", "two")
        client.barrier()
        assert seen == ["one", "two"]
        assert len(errors) == 2
        assert all(text.startswith(f"ContentError: {NUMBER}") for text in errors)

    def test_gap_is_accepted(self, site: Site, seen: list[Any], errors: list[str]) -> None:
        """A client may drop messages, as when their acknowledgements time out."""
        client = site.websocket()
        reply = client.connect()
        numbered(client, 5, "add", "one")
        numbered(client, 4, "add", "dropped")
        numbered(client, 2**53 - 1, "add", "two")
        numbered(client, 6, "add", "dropped")
        client.barrier()
        assert (seen, errors) == (["one", "two"], [])
        lose(client)
        client, reply = resume(site, reply["pid"])
        assert reply["received"] == 2**53 - 1

    @pytest.mark.parametrize(
        "event",
        [
            ["__numbered__", 2, "add", "nested"],
            ["connect"],
            ["disconnecting", 1],
            [None],
            [["add"]],
            [{"add": 1}],
            [True],
        ],
        ids=lambda event: f"{event[0]!r}",
    )
    def test_invalid_name_drops_the_message(
        self, site: Site, seen: list[Any], errors: list[str], event: list[Any]
    ) -> None:
        client = site.connect()
        numbered(client, 1, *event)
        numbered(client, 1, "add", "one")
        client.barrier()
        assert seen == ["one"]
        (text,) = errors
        assert text.startswith("ContentError: a numbered message needs the name of an event, not")

    def test_number_as_name_of_an_event_is_text(self, site: Site) -> None:
        @on_event("7")
        def seven(request: Any, socket: Socket, context: Any) -> str:
            return "handled"

        client = site.connect()
        numbered(client, 1, 7, ack=1)
        assert client.receive() == '431["handled"]'

    def test_request_for_the_answer_to_a_message_that_has_not_arrived(
        self, site: Site, errors: list[str]
    ) -> None:
        client = site.connect()
        numbered(client, 3, ack=1)
        text = "the client requested the answer to message 3, which has not arrived"
        assert client.receive() == f'431[{{"error":"{text}"}}]'
        client.barrier()
        assert errors == [f"ContentError: {text}"]

    def test_event_without_arguments(self, site: Site, errors: list[str]) -> None:
        client = site.connect()
        client.emit("__numbered__")
        client.barrier()
        assert errors == [f"ContentError: {NUMBER} None; the message was dropped"]

    def test_numbered_message_without_recovery(
        self, serve: Callable[..., Site], seen: list[Any], errors: list[str]
    ) -> None:
        client = serve().connect()
        numbered(client, 1, "add", "one", ack=1)
        assert "SOCKETIO_RECOVERY_TIME is 0" in str(client.receive())
        client.barrier()
        assert seen == []
        assert len(errors) == 1

    def test_answers_of_another_client_are_not_available(self, site: Site, seen: list[Any]) -> None:
        client, other = site.connect(), site.connect()
        numbered(client, 1, "add", "secret", ack=1)
        client.receive()
        numbered(other, 1, "add", "own", ack=2)
        other.receive()
        numbered(other, 1, ack=1)
        assert other.event() == ["__received__", 1, 1]

    def test_repetitions_are_counted_as_packets(self, site: Site) -> None:
        from webpy_socketio import signals

        counted = []

        @signals.packet.connect
        def count(sender: Any, **extra: Any) -> None:
            counted.append(sender)

        client = site.connect()
        numbered(client, 1, "message", "one")
        client.barrier()
        before = len(counted)
        for _ in range(3):
            numbered(client, 1, "message", "one")
        client.barrier()
        assert len(counted) == before + 3


class TestKit:
    """Test clients send messages around a loss as the extension does."""

    @pytest.fixture(params=["json", "msgpack"])
    def kit(self, request: pytest.FixtureRequest) -> Iterator[TestServer]:
        app = web.application(socketio_urls, {})
        options = {"plugins": [], "recovery_time": TIME, "parser": request.param}
        with TestServer(app, **options) as kit:
            yield kit

    def test_messages_sent_while_lost_arrive_after_the_resume(self, kit: TestServer) -> None:
        values = []

        @on_event("add")
        def add(request: Any, socket: Socket, context: Any, value: Any) -> int:
            values.append(value)
            return len(values)

        client = kit.connect()
        client.emit("add", b"before")
        client.lose()
        client.emit("add", "one")
        answer = client.ask("add", "two")
        assert values == [b"before"]
        assert client.resume()
        assert values == [b"before", "one", "two"]
        assert answer.value == 3

    def test_answer_that_is_given_while_lost_arrives_after_the_resume(
        self, kit: TestServer
    ) -> None:
        acknowledgements = []

        @on_event("later")
        def later(request: Any, socket: Socket, context: Any) -> None:
            acknowledgements.append(socket.withhold_acknowledgement())

        client = kit.connect()
        answer = client.ask("later")
        client.lose()
        acknowledgements[0]("late")
        assert client.resume()
        assert answer.value == "late"

    def test_closed_client_cannot_send(self, kit: TestServer) -> None:
        client = kit.connect()
        client.lose()
        client.resume()
        client.close()
        with pytest.raises(AssertionError, match="cannot send"):
            client.send("x")
