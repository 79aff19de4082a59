"""Acknowledgements, both ways: a handler's return value, and what a client answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from webpy_socketio import (
    CallTimeout,
    Disconnected,
    EncodeError,
    WrongContext,
    on_event,
    on_message,
    signals,
)

from .conftest import Journal, Site, socket_of
from .parallel import stable_id

SECRET = "the password is 12345"
FAILED = [{"error": "internal error"}]


class TestReturnValues:
    @pytest.mark.parametrize(
        ("returned", "answer"),
        [
            ("text", ["text"]),
            (0, [0]),
            (False, [False]),
            ("", [""]),
            ([], [[]]),
            ([1, 2], [[1, 2]]),
            ({"a": [1]}, [{"a": [1]}]),
            ((1, "two"), [1, "two"]),
            ((), []),
            ((None,), [None]),
            (None, []),
        ],
        ids=stable_id,
    )
    def test_what_a_handler_returns_is_the_answer(
        self, returned: Any, answer: list[Any], site: Site
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return returned

        @on_event("custom")
        def custom(request: Any, socket: Any, context: Any) -> Any:
            return returned

        client = site.connect()
        assert client.call("message", "hello") == answer
        assert client.call("custom") == answer

    def test_the_first_that_is_not_none_counts(self, site: Site) -> None:
        for value in (None, False, "late"):

            def receiver(sender: Any, value: Any = value, **keywords: Any) -> Any:
                return value

            signals.message.connect(receiver, weak=False)
        assert site.connect().call("message") == [False]

    def test_nobody_handles_it(self, site: Site) -> None:
        assert site.connect().call("unknown", 1) == []

    def test_not_asked_for_nothing_is_sent(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return message

        client = site.connect()
        client.emit("message", "without")
        assert client.call("message", "with") == ["with"]

    def test_each_is_answered_under_its_number(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return message

        client = site.connect()
        for number in (0, 999_999_999_999_999, 5, 5):
            client.emit("message", number, ack=number)
            assert client.receive() == f"43{number}[{number}]"

    def test_binary(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return {"data": b"\0\xff", "more": [b""]}

        client = site.connect()
        client.emit("message", ack=3)
        head = client.receive()
        assert isinstance(head, str)
        assert head.startswith("462-3")
        assert json.loads(head[5:]) == [
            {
                "data": {"_placeholder": True, "num": 0},
                "more": [{"_placeholder": True, "num": 1}],
            }
        ]
        assert [client.receive(), client.receive()] == [b"\0\xff", b""]

    def test_a_message_to_a_channel_is_answered_by_its_handlers(self, site: Site) -> None:
        @on_message(channel="^room$")
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return f"got {message}"

        client = site.connect()
        client.call("__subscribe__", "room")
        assert client.call("__channel__", "room", "it") == ["got it"]


class TestFailures:
    def test_nothing_of_an_exception_is_told(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            raise KeyError(SECRET)

        assert site.connect().call("message") == FAILED

    def test_also_if_another_handler_returned_something(self, site: Site) -> None:
        @on_message
        def good(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return "fine"

        @on_message
        def bad(request: Any, socket: Any, context: Any, message: Any) -> Any:
            raise KeyError(SECRET)

        assert site.connect().call("message") == FAILED

    @pytest.mark.parametrize(
        "value",
        [object(), float("nan"), float("inf"), {1, 2}, {("a", "tuple"): 1}, 2**70, "\ud800"],
        ids=stable_id,
    )
    def test_a_value_that_cannot_be_sent(self, value: Any, site: Site, stages: Journal) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return value

        client = site.connect()
        assert client.call("message") == FAILED
        (error,) = [error for name, error in stages if name == "error"]
        assert isinstance(error, EncodeError)
        assert client.call("unknown") == []

    def test_a_value_that_cannot_even_be_looked_at(self, site: Site, stages: Journal) -> None:
        class Unbound:
            """As a proxy is of something that is not there now."""

            def __getattribute__(self, name: str) -> Any:
                raise RuntimeError(SECRET)

        @on_message
        def answer(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return {"who": Unbound()} if message else "fine"

        client = site.connect()
        assert client.call("message", 1) == FAILED
        assert stages[-1][0] == "error"
        assert client.call("message", 0) == ["fine"]

    def test_a_client_that_goes_before_the_answer(self, site: Site, stages: Journal) -> None:
        go = gevent.event.Event()
        begun = Journal()

        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            begun.append("begun")
            go.wait()
            return "too late"

        client = site.connect()
        client.emit("message", ack=1)
        begun.wait_for("begun")
        client.send("1")
        client.wait_closed()
        go.set()
        stages.wait_for(("finish", "transport close"))
        assert not [error for name, error in stages if name == "error"]


class TestCall:
    @pytest.mark.parametrize(
        ("answer", "value"),
        [
            ('["yes"]', "yes"),
            ("[]", None),
            ("[null]", None),
            ("[0]", 0),
            ("[[1]]", [1]),
            ('[1,"two"]', [1, "two"]),
        ],
    )
    def test_it_returns_what_the_client_answers(self, answer: str, value: Any, site: Site) -> None:
        client = site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question", 1, "two")
        packet = client.receive()
        assert packet == '420["question",1,"two"]'
        client.send(f"430{answer}")
        assert waiting.get() == value

    def test_from_a_handler_of_the_same_client(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return socket.call("really", message).upper()

        client = site.connect()
        client.emit("message", "x", ack=9)
        assert client.receive() == '420["really","x"]'
        client.send('430["yes"]')
        assert client.receive() == '439["YES"]'

    def test_several_at_once_get_each_their_own(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        waiting = [gevent.spawn(socket.call, "question", number) for number in range(3)]
        packets = [client.receive() for _ in waiting]
        assert packets == [f'42{number}["question",{number}]' for number in range(3)]
        for number in (2, 0, 1):
            client.send(f'43{number}["answer {number}"]')
        assert [each.get() for each in waiting] == ["answer 0", "answer 1", "answer 2"]

    def test_binary_both_ways(self, site: Site) -> None:
        client = site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question", b"\1")
        assert client.receive() == '451-0["question",{"_placeholder":true,"num":0}]'
        assert client.receive() == b"\1"
        client.send('461-0[{"_placeholder":true,"num":0}]')
        client.send(b"\2\3")
        assert waiting.get() == b"\2\3"

    def test_no_answer_in_time(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        with pytest.raises(CallTimeout, match=r"'question' within 0\.01 s"):
            socket.call("question", timeout=0.01)
        client.receive()
        client.send('430["too late"]')
        assert client.call("unknown") == []  # and the late answer harms nobody

    def test_the_callers_own_timeout_stays_its_own(self, site: Site) -> None:
        socket = socket_of(site.connect())
        with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.01) as mine:
            socket.call("question", timeout=5)
        assert caught.value is mine

    def test_the_client_goes_meanwhile(self, site: Site) -> None:
        client = site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question")
        client.receive()
        client.send("1")
        with pytest.raises(Disconnected, match="transport close"):
            waiting.get()

    def test_the_server_stops_meanwhile(self, site: Site) -> None:
        client = site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question")
        client.receive()
        site.server.stop()
        with pytest.raises(Disconnected, match="server shutting down"):
            waiting.get()

    def test_the_client_is_gone_already(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        socket.disconnect()
        with pytest.raises(Disconnected):
            socket.call("question")

    def test_a_value_that_cannot_be_sent(self, site: Site) -> None:
        client = site.connect()
        with pytest.raises(EncodeError):
            socket_of(client).call("question", object())
        assert client.call("unknown") == []

    def test_where_nothing_may_wait(self, site: Site) -> None:
        socket = socket_of(site.connect())
        raised = Journal()

        def on_the_hub() -> None:
            try:
                socket.call("question")
            except WrongContext as error:
                raised.append(error)

        gevent.get_hub().loop.run_callback(on_the_hub)
        (error,) = raised.wait(len)
        assert "hub" in str(error)

    def test_answers_nobody_asked_for_are_ignored(self, site: Site) -> None:
        client = site.connect()
        for packet in ("430[1]", "43999[1]", "430[]"):
            client.send(packet)
        assert client.call("unknown") == []


class TestTooLarge:
    def test_one_above_the_outbox_is_an_error_and_the_connection_kept(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        @on_message
        def large(request: Any, socket: Any, context: Any, message: Any) -> str:
            return "x" * 20_000

        client = serve(outbox_bytes=10_000).connect()
        assert client.call("message", "x") == [{"error": "internal error"}]
        assert stages[-1][0] == "error"
        assert isinstance(stages[-1][1], EncodeError)
