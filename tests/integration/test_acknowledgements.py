"""Acknowledgements in both directions: return values of handlers, and `Socket.call`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import web

from tests.conftest import Journal, Site, socket_of
from tests.parallel import stable_id
from webpy_socketio import (
    AcknowledgementError,
    CallerError,
    CallTimeout,
    Disconnected,
    EncodeError,
    WrongContext,
    on_connect,
    on_event,
    on_message,
    on_subscribe,
    signals,
    socketio_urls,
)
from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.testing import TestServer

SECRET = "the password is 12345"
TIMED_OUT = {"error": "timeout"}
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
    def test_acknowledgement_is_the_return_value_of_the_handler(
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

    def test_acknowledgement_is_the_first_return_value_that_is_not_none(self, site: Site) -> None:
        for value in (None, False, "late"):

            def receiver(sender: Any, value: Any = value, **keywords: Any) -> Any:
                return value

            signals.message.connect(receiver, weak=False)
        assert site.connect().call("message") == [False]

    def test_event_without_handler_is_not_acknowledged(self, site: Site) -> None:
        on_message(lambda request, socket, context, message: "of another event")
        on_event("bound", channel="^room$")(lambda request, socket, context: "of a channel")
        client = site.connect()
        client.send('421["unknown"]')
        client.send('422["bound"]')
        client.barrier()  # the acknowledgement is the next packet

    def test_event_observed_by_plugins_only_is_not_acknowledged(
        self, serve: Callable[..., Site]
    ) -> None:
        signals.message.connect(lambda sender, **extra: None)
        plugins = ["message_logger", "metrics", "presence"]
        client = serve(
            plugins=[f"webpy_socketio.plugins.{name}" for name in plugins], message_log_format=None
        ).connect()
        client.send('421["unknown"]')
        client.barrier()

    def test_event_of_a_receiver_that_returns_a_value_is_acknowledged(self, site: Site) -> None:
        @signals.message.connect
        def receiver(sender: Any, event: str, **extra: Any) -> Any:
            return () if event == "mine" else None

        client = site.connect()
        assert client.call("mine") == []
        client.send('421["other"]')
        client.barrier()

    def test_event_of_a_receiver_that_fails_is_acknowledged_with_an_error(self, site: Site) -> None:
        signals.message.connect(lambda sender, **extra: 1 / 0)
        assert site.connect().call("any") == FAILED

    def test_event_without_acknowledgement_id_is_not_acknowledged(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return message

        client = site.connect()
        client.emit("message", "without")
        assert client.call("message", "with") == ["with"]

    def test_acknowledgements_keep_the_ids_of_their_events(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return message

        client = site.connect()
        for number in (0, 999_999_999_999_999, 5, 5):
            client.emit("message", number, ack=number)
            assert client.receive() == f"43{number}[{number}]"

    def test_acknowledgement_with_bytes_has_attachments(self, site: Site) -> None:
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

    def test_message_to_channel_is_acknowledged_by_its_handlers(self, site: Site) -> None:
        @on_message(channel="^room$")
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return f"got {message}"

        client = site.connect()
        client.call("__subscribe__", "room")
        assert client.call("__channel__", "room", "it") == ["got it"]


class TestFailures:
    def test_exception_of_handler_sends_internal_error_without_details(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            raise KeyError(SECRET)

        assert site.connect().call("message") == FAILED

    def test_exception_of_one_handler_overrides_return_value_of_another(self, site: Site) -> None:
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
    def test_return_value_that_json_rejects_sends_internal_error(
        self, value: Any, site: Site, stages: Journal
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return value

        client = site.connect()
        assert client.call("message") == FAILED
        (error,) = [error for name, error in stages if name == "error"]
        assert isinstance(error, EncodeError)
        client.barrier()

    def test_return_value_whose_attributes_raise_sends_internal_error(
        self, site: Site, stages: Journal
    ) -> None:
        class Unbound:
            """An object that raises on every attribute access, like an unbound proxy."""

            def __getattribute__(self, name: str) -> Any:
                raise RuntimeError(SECRET)

        @on_message
        def answer(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return {"who": Unbound()} if message else "fine"

        client = site.connect()
        assert client.call("message", 1) == FAILED
        assert stages[-1][0] == "error"
        assert client.call("message", 0) == ["fine"]

    def test_client_disconnecting_before_the_acknowledgement_causes_no_error(
        self, site: Site, stages: Journal
    ) -> None:
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


class TestDeferredAcknowledgements:
    """`Socket.withhold_acknowledgement`: acknowledge later, once, from anywhere."""

    @pytest.fixture
    def withheld(self) -> Journal:
        """The deferred acknowledgements of the handler of "later"."""
        withheld = Journal()

        @on_event("later")
        def later(request: Any, socket: Any, context: Any, *args: Any) -> str:
            withheld.append(socket.withhold_acknowledgement())
            return "ignored"

        return withheld

    @pytest.mark.parametrize(
        ("args", "answer"),
        [((), "[]"), (("done",), '["done"]'), ((1, {"a": None}), '[1,{"a":null}]')],
    )
    def test_deferred_acknowledgement_called_later_is_sent(
        self, site: Site, withheld: Journal, args: tuple[Any, ...], answer: str
    ) -> None:
        client = site.connect()
        client.send('425["later"]')
        client.barrier()
        (acknowledge,) = withheld
        assert acknowledge.requested
        assert not acknowledge.given
        acknowledge(*args)
        assert acknowledge.given
        assert client.receive() == f"435{answer}"

    def test_deferred_acknowledgement_called_in_the_handler_is_sent_at_once(
        self, site: Site
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.withhold_acknowledgement()("first")
            socket.send("second")

        client = site.connect()
        client.send('425["message",1]')
        assert client.receive() == '435["first"]'
        assert client.event() == ["message", "second"]

    def test_deferred_acknowledgement_with_bytes_is_sent(
        self, site: Site, withheld: Journal
    ) -> None:
        client = site.connect()
        client.send('425["later"]')
        withheld.wait(len)[0](b"x")
        assert [client.receive(), client.receive()] == [
            '461-5[{"_placeholder":true,"num":0}]',
            b"x",
        ]

    def test_deferred_acknowledgement_called_in_a_thread_is_sent(
        self, site: Site, withheld: Journal
    ) -> None:
        client = site.connect()
        client.send('425["later"]')
        acknowledge = withheld.wait(len)[0]
        gevent.get_hub().threadpool.apply(acknowledge, ("from a thread",))
        assert client.receive() == '435["from a thread"]'

    def test_deferred_acknowledgements_in_another_order_keep_their_ids(
        self, site: Site, withheld: Journal
    ) -> None:
        client = site.connect()
        for number in (5, 6):
            client.send(f'42{number}["later"]')
        first, second = withheld.wait(lambda withheld: len(withheld) == 2)
        second("second")
        first("first")
        assert [client.receive(), client.receive()] == ['436["second"]', '435["first"]']

    def test_second_call_raises_acknowledgement_error(self, site: Site, withheld: Journal) -> None:
        client = site.connect()
        client.send('425["later"]')
        acknowledge = withheld.wait(len)[0]
        acknowledge("once")
        with pytest.raises(AcknowledgementError):
            acknowledge("twice")
        assert client.receive() == '435["once"]'
        client.barrier()

    def test_calls_of_many_threads_send_one_acknowledgement(
        self, site: Site, withheld: Journal
    ) -> None:
        client = site.connect()
        client.send('425["later"]')
        acknowledge = withheld.wait(len)[0]

        def call(number: int) -> bool:
            try:
                acknowledge(number)
            except AcknowledgementError:
                return False
            return True

        assert sum(gevent.get_hub().threadpool.map(call, range(20))) == 1
        assert str(client.receive()).startswith("435[")
        client.barrier()

    def test_call_with_unencodable_value_raises_and_can_be_repeated(
        self, site: Site, withheld: Journal
    ) -> None:
        client = site.connect()
        client.send('425["later"]')
        acknowledge = withheld.wait(len)[0]
        with pytest.raises(EncodeError):
            acknowledge(float("nan"))
        acknowledge("a number")
        assert client.receive() == '435["a number"]'

    def test_call_without_requested_acknowledgement_sends_nothing(
        self, site: Site, withheld: Journal
    ) -> None:
        client = site.connect()
        client.emit("later")
        acknowledge = withheld.wait(len)[0]
        assert not acknowledge.requested
        acknowledge("nothing")
        with pytest.raises(AcknowledgementError):
            acknowledge("nothing")
        client.barrier()

    def test_call_after_disconnect_has_no_effect(
        self, site: Site, withheld: Journal, stages: Journal
    ) -> None:
        client = site.connect()
        client.send('425["later"]')
        acknowledge = withheld.wait(len)[0]
        client.send("41")
        stages.wait_for(("finish", "client namespace disconnect"))
        client.send("40")  # another connection to the same namespace
        client.receive()
        acknowledge("too late")
        client.barrier()

    def test_handlers_of_one_event_share_the_acknowledgement(
        self, site: Site, withheld: Journal
    ) -> None:
        @on_event("later")
        def second(request: Any, socket: Any, context: Any) -> None:
            withheld.append(socket.withhold_acknowledgement())

        client = site.connect()
        client.send('425["later"]')
        one, other = withheld.wait(lambda withheld: len(withheld) == 2)
        assert one is other

    def test_exception_of_handler_sends_error_and_disables_later_calls(
        self, site: Site, withheld: Journal
    ) -> None:
        @on_event("later")
        def bad(request: Any, socket: Any, context: Any) -> None:
            raise ValueError(SECRET)

        client = site.connect()
        assert client.call("later") == FAILED
        withheld[0]("too late")
        client.barrier()

    def test_exception_after_the_acknowledgement_sends_nothing(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.withhold_acknowledgement()("answer")
            raise ValueError(SECRET)

        client = site.connect()
        assert client.call("message", 1) == ["answer"]
        client.barrier()

    def test_event_after_a_deferred_one_is_acknowledged_with_its_return_value(
        self, site: Site, withheld: Journal
    ) -> None:
        on_message(lambda request, socket, context, message: "mine")
        client = site.connect()
        client.send('425["later"]')
        assert client.call("message", 1) == ["mine"]

    def test_withhold_outside_a_message_handler_raises_wrong_context(
        self, site: Site, withheld: Journal, journal: Journal
    ) -> None:
        def withhold(request: Any, socket: Any, *rest: Any) -> None:
            try:
                socket.withhold_acknowledgement()
            except WrongContext as error:
                journal.append(error)

        on_connect(lambda request, socket, context: withhold(request, socket))
        on_subscribe(lambda request, socket, context, channel: withhold(request, socket))
        on_message(lambda request, socket, context, message: gevent.spawn(withhold, 0, socket))
        client = site.connect()
        client.call("__subscribe__", "room")
        client.emit("message", 1)
        withhold({}, socket_of(client))
        journal.wait(lambda journal: len(journal) == 4)


class TestCalls:
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
    def test_call_returns_the_acknowledgement_of_the_client(
        self, answer: str, value: Any, site: Site
    ) -> None:
        client = site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question", 1, "two")
        packet = client.receive()
        assert packet == '420["question",1,"two"]'
        client.send(f"430{answer}")
        assert waiting.get() == value

    def test_call_in_a_handler_of_the_same_client_returns(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return socket.call("really", message).upper()

        client = site.connect()
        client.emit("message", "x", ack=9)
        assert client.receive() == '420["really","x"]'
        client.send('430["yes"]')
        assert client.receive() == '439["YES"]'

    def test_concurrent_calls_return_their_own_acknowledgements(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        waiting = [gevent.spawn(socket.call, "question", number) for number in range(3)]
        packets = [client.receive() for _ in waiting]
        assert packets == [f'42{number}["question",{number}]' for number in range(3)]
        for number in (2, 0, 1):
            client.send(f'43{number}["answer {number}"]')
        assert [each.get() for each in waiting] == ["answer 0", "answer 1", "answer 2"]

    def test_call_with_bytes_returns_bytes(self, site: Site) -> None:
        client = site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question", b"\1")
        assert client.receive() == '451-0["question",{"_placeholder":true,"num":0}]'
        assert client.receive() == b"\1"
        client.send('461-0[{"_placeholder":true,"num":0}]')
        client.send(b"\2\3")
        assert waiting.get() == b"\2\3"

    def test_call_without_acknowledgement_raises_call_timeout(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        with pytest.raises(CallTimeout, match=r"'question' within 0\.01 s"):
            socket.call("question", timeout=0.01)
        client.receive()
        client.send('430["too late"]')
        client.barrier()  # the late acknowledgement is ignored

    def test_call_within_gevent_timeout_raises_that_timeout(self, site: Site) -> None:
        socket = socket_of(site.connect())
        with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.01) as mine:
            socket.call("question", timeout=5)
        assert caught.value is mine

    def test_call_raises_disconnected_when_the_client_disconnects(self, site: Site) -> None:
        client = site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question")
        client.receive()
        client.send("1")
        with pytest.raises(Disconnected, match="transport close"):
            waiting.get()

    def test_call_raises_disconnected_when_the_server_stops(self, site: Site) -> None:
        client = site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question")
        client.receive()
        site.server.stop()
        with pytest.raises(Disconnected, match="server shutting down"):
            waiting.get()

    def test_call_after_disconnect_raises_disconnected(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        socket.disconnect()
        with pytest.raises(Disconnected):
            socket.call("question")

    def test_call_with_unencodable_value_raises_encode_error(self, site: Site) -> None:
        client = site.connect()
        with pytest.raises(EncodeError):
            socket_of(client).call("question", object())
        client.barrier()

    @pytest.mark.parametrize("timeout", [0, -1, None, "1", float("nan"), float("inf"), True])
    def test_call_with_invalid_timeout_raises_caller_error_and_sends_nothing(
        self, timeout: Any, site: Site
    ) -> None:
        client = site.connect()
        with pytest.raises(CallerError, match=r"timeout of call\(\) must be a positive number"):
            socket_of(client).call("question", timeout=timeout)
        client.barrier()

    def test_call_on_the_hub_raises_wrong_context(self, site: Site) -> None:
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

    def test_acknowledgement_with_unknown_id_is_ignored(self, site: Site) -> None:
        client = site.connect()
        for packet in ("430[1]", "43999[1]", "430[]"):
            client.send(packet)
        client.barrier()


class TestSizeLimit:
    def test_return_value_larger_than_the_outbox_is_an_error_and_keeps_the_connection(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        @on_message
        def large(request: Any, socket: Any, context: Any, message: Any) -> str:
            return "x" * 20_000

        client = serve(outbox_bytes=10_000).connect()
        assert client.call("message", "x") == [{"error": "internal error"}]
        assert stages[-1][0] == "error"
        assert isinstance(stages[-1][1], EncodeError)


class TestTimeouts:
    """`Socket.withhold_acknowledgement` with a timeout, in virtual time."""

    @pytest.fixture
    def server(self) -> Iterator[TestServer]:
        with TestServer(web.application(socketio_urls, {})) as server:
            yield server

    @pytest.fixture
    def withheld(self) -> list[Any]:
        """The deferred acknowledgements of the handler of "later", which receives the timeout."""
        withheld: list[Any] = []

        @on_event("later")
        def later(request: Any, socket: Any, context: Any, timeout: Any) -> None:
            withheld.append(socket.withhold_acknowledgement(timeout=timeout))

        return withheld

    @pytest.fixture
    def timers(self, monkeypatch: pytest.MonkeyPatch) -> set[Any]:
        """The timers of connections that run."""
        running: set[Any] = set()
        call_later, cancel = Connection.call_later, Connection.cancel

        def record_call(connection: Connection, *args: Any) -> Any:
            timer = call_later(connection, *args)
            running.add(timer)
            return timer

        def record_cancel(connection: Connection, timer: Any) -> None:
            running.discard(timer)
            cancel(connection, timer)

        monkeypatch.setattr(Connection, "call_later", record_call)
        monkeypatch.setattr(Connection, "cancel", record_cancel)
        return running

    def test_timeout_sends_an_error_once_and_later_calls_raise(
        self, server: TestServer, withheld: list[Any], timers: set[Any]
    ) -> None:
        client = server.connect()
        answer = client.ask("later", 10)
        assert len(timers) == 1
        server.advance(9.9)
        assert not answer.there
        assert not withheld[0].given
        server.advance(0.2)
        assert answer.value == TIMED_OUT
        assert withheld[0].given
        for _ in range(2):
            with pytest.raises(AcknowledgementError, match=r"after 10 s, the timeout of withhold"):
                withheld[0]("too late")
        server.advance(100)
        assert answer.value == TIMED_OUT
        assert not timers

    def test_call_before_the_timeout_cancels_it(
        self, server: TestServer, withheld: list[Any], timers: set[Any]
    ) -> None:
        answer = server.connect().ask("later", 0.5)
        withheld[0]("in time")
        assert not timers
        server.advance(1)
        assert answer.value == "in time"
        with pytest.raises(AcknowledgementError, match="call the acknowledgement once"):
            withheld[0]("twice")

    def test_call_in_a_thread_cancels_the_timeout(
        self, server: TestServer, withheld: list[Any], timers: set[Any]
    ) -> None:
        answer = server.connect().ask("later", 10)
        gevent.get_hub().threadpool.apply(withheld[0], ("from a thread",))
        assert answer.value == "from a thread"
        assert not timers

    @pytest.mark.parametrize("end", ["disconnect", "close", "kick"])
    def test_end_of_the_connection_cancels_the_timeout(
        self, end: str, server: TestServer, withheld: list[Any], timers: set[Any]
    ) -> None:
        client = server.connect()
        for _ in range(3):
            client.ask("later", 10)
        client.ask("later", None)
        assert len(timers) == 3
        client.socket.disconnect() if end == "kick" else getattr(client, end)()
        server.settle()
        assert not timers
        server.advance(20)
        for acknowledge in withheld:
            assert not acknowledge.given
            acknowledge("too late")  # no effect, as without a timeout

    def test_exception_of_a_handler_cancels_the_timeout(
        self, site: Site, withheld: list[Any], timers: set[Any]
    ) -> None:
        @on_event("later")
        def bad(request: Any, socket: Any, context: Any, timeout: Any) -> None:
            raise ValueError(SECRET)

        assert site.connect().call("later", 1000) == FAILED
        assert not timers
        withheld[0]("too late")

    def test_without_timeout_or_request_no_timer_is_started(
        self, server: TestServer, withheld: list[Any], timers: set[Any]
    ) -> None:
        client = server.connect()
        client.ask("later", None)
        client.emit("later", 10)
        assert not timers
        server.advance(20)
        assert [acknowledge.given for acknowledge in withheld] == [False, False]

    @pytest.mark.parametrize(("seconds", "due"), [(30, 30), (5, 5), (None, 10)])
    def test_last_timeout_of_several_handlers_replaces_earlier_ones(
        self,
        seconds: float | None,
        due: float,
        server: TestServer,
        withheld: list[Any],
        timers: set[Any],
    ) -> None:
        @on_event("later")
        def second(request: Any, socket: Any, context: Any, timeout: Any) -> None:
            socket.withhold_acknowledgement(seconds)

        answer = server.connect().ask("later", 10)
        assert len(timers) == 1
        server.advance(due - 0.1)
        assert not answer.there
        server.advance(0.2)
        assert answer.value == TIMED_OUT
        assert not timers

    def test_handler_that_outlives_its_connection_starts_no_timer(self, server: TestServer) -> None:
        withheld = []

        @on_event("later")
        def later(request: Any, socket: Any, context: Any) -> None:
            socket.disconnect()
            withheld.append(socket.withhold_acknowledgement(10))

        client = server.connect()
        client.ask("later")
        assert not client.connected
        server.advance(20)
        assert not withheld[0].given

    @pytest.mark.parametrize("timeout", [0, -1, "10", float("nan"), float("inf"), True])
    def test_invalid_timeout_raises_caller_error(
        self, timeout: Any, site: Site, journal: Journal
    ) -> None:
        @on_event("later")
        def later(request: Any, socket: Any, context: Any) -> None:
            try:
                socket.withhold_acknowledgement(timeout)
            except CallerError as error:
                journal.append(str(error))

        site.connect().emit_and_wait("later")
        (text,) = journal
        assert "must be a positive number of seconds" in text
        assert repr(timeout) in text

    def test_timeout_of_a_real_clock_sends_an_error(self, site: Site, withheld: list[Any]) -> None:
        assert site.connect().call("later", 0.01) == [TIMED_OUT]
