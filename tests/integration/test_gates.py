"""Gates: accept or reject connections, messages and subscriptions."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import pytest

from tests.conftest import Journal, Site, socket_of
from webpy_socketio import (
    Refused,
    on_connect,
    on_connecting,
    on_event,
    on_message,
    on_receiving,
    on_subscribing,
    signals,
)
from webpy_socketio.runtime import default_runtime

SECRET = "the password is 12345"


class TestConnectingGate:
    def test_gate_raising_refused_sends_connect_error_with_reason(
        self, site: Site, stages: Journal
    ) -> None:
        @on_connecting
        def reject(request: Any, socket: Any, context: Any) -> None:
            raise Refused("members only: žádný vstup")

        client = site.websocket()
        client.send("40")
        assert client.receive() == '44{"message":"members only: žádný vstup"}'
        client.send("1")
        client.wait_closed()
        assert stages == [("connecting", None)]
        assert not default_runtime.registry.namespace("/").sockets

    def test_gate_raising_refused_without_text_sends_generic_reason(self, site: Site) -> None:
        @on_connecting
        def reject(request: Any, socket: Any, context: Any) -> None:
            raise Refused

        client = site.websocket()
        client.send("40")
        assert client.receive() == '44{"message":"refused"}'

    def test_gate_raising_refused_over_polling_sends_connect_error(self, site: Site) -> None:
        @on_connecting
        def reject(request: Any, socket: Any, context: Any) -> None:
            raise Refused("no")

        client = site.polling()
        client.send("40")
        assert client.poll() == ['44{"message":"no"}']

    def test_gate_receives_the_auth_of_the_client(self, site: Site) -> None:
        @on_connecting
        def token(request: Any, socket: Any, context: Any) -> None:
            assert not socket.connected
            if (socket.auth or {}).get("token") != "right":
                raise Refused("wrong token")
            context["user"] = "Ann"

        @on_connect
        def welcome(request: Any, socket: Any, context: Any) -> None:
            socket.send(context["user"])

        client = site.websocket()
        client.send('40{"token":"wrong"}')
        assert client.receive() == '44{"message":"wrong token"}'
        client.connect('{"token":"right"}')  # same session
        assert client.event() == ["message", "Ann"]

    def test_gate_raising_another_exception_rejects_connection_without_details(
        self, site: Site, stages: Journal
    ) -> None:
        error = KeyError(SECRET)

        @on_connecting
        def broken(request: Any, socket: Any, context: Any) -> None:
            raise error

        client = site.websocket()
        client.send("40")
        assert client.receive() == '44{"message":"not allowed"}'
        assert stages == [("connecting", None), ("error", error)]

    @pytest.mark.parametrize("error", [gevent.GreenletExit(), gevent.Timeout(1), RecursionError()])
    def test_gate_raising_any_exception_rejects_connection(
        self, error: BaseException, site: Site, stages: Journal
    ) -> None:
        @on_connecting
        def broken(request: Any, socket: Any, context: Any) -> None:
            raise error

        client = site.websocket()
        client.send("40")
        assert client.receive() == '44{"message":"not allowed"}'
        assert stages == [("connecting", None), ("error", error)]

    @pytest.mark.parametrize("refusing", [0, 1, 2])
    def test_connection_is_rejected_if_any_gate_rejects(
        self, refusing: int, site: Site, journal: Journal
    ) -> None:
        def make(number: int) -> Callable[..., None]:
            def gate(sender: Any, **keywords: Any) -> None:
                journal.append(number)
                if number == refusing:
                    raise Refused(f"gate {number}")

            return gate

        for number in range(3):
            signals.connecting.connect(make(number), weak=False)
        client = site.websocket()
        client.send("40")
        assert client.receive() == f'44{{"message":"gate {refusing}"}}'
        assert journal == list(range(refusing + 1))

    @pytest.mark.parametrize("value", [None, True, 0, "", [], "no"])
    def test_gate_returning_a_value_accepts_connection(self, value: Any, site: Site) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> Any:
            return value

        assert site.connect().id

    def test_gate_returning_false_rejects_connection(self, site: Site, stages: Journal) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> bool:
            return False

        client = site.websocket()
        client.send("40")
        assert client.receive() == '44{"message":"not allowed"}'
        (error,) = (value for name, value in stages if name == "error")
        assert str(error) == 'a gate returned False; raise Refused("reason") to reject'

    def test_gate_rejecting_one_namespace_keeps_the_other(self, serve: Callable[..., Site]) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            if socket.namespace == "/staff":
                raise Refused("staff only")

        site = serve(namespaces=["/", "/staff"])
        client = site.connect()
        client.send("40/staff,")
        assert client.receive() == '44/staff,{"message":"staff only"}'
        client.barrier()

    def test_connect_packet_while_a_gate_waits_replaces_the_first(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        entered, let_in, passed = (gevent.event.Event() for _ in range(3))

        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            if socket.auth == {"slow": True}:
                entered.set()
                let_in.wait()
                passed.set()

        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return message

        site = serve(namespaces=["/", "/other"])
        client = site.websocket()
        client.connect(namespace="/other,")
        client.send('40{"slow":true}')
        entered.wait()
        client.send('40{"slow":false}')
        assert str(client.receive()).startswith("40{")
        let_in.set()
        passed.wait()
        assert client.call("message", "a") == ["a"]
        client.send('42/other,7["message","b"]')
        assert client.receive() == '43/other,7["b"]'
        assert [name for name, *_ in stages].count("connect") == 2
        assert "disconnect" not in [name for name, *_ in stages]

    def test_gates_of_different_clients_run_concurrently(self, site: Site) -> None:
        go = gevent.event.Event()

        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            if socket.auth == {"slow": True}:
                go.wait()

        slow = site.websocket()
        slow.send('40{"slow":true}')
        site.connect()
        go.set()
        packet = slow.receive()
        assert isinstance(packet, str)
        assert packet.startswith("40")


class TestSubscribingGate:
    def test_gate_raising_refused_rejects_subscription_with_reason(
        self, site: Site, stages: Journal
    ) -> None:
        @on_subscribing
        def reject(request: Any, socket: Any, context: Any, channel: str) -> None:
            assert channel not in socket.channels
            raise Refused(f"{channel} is private")

        client = site.connect()
        assert client.call("__subscribe__", "room") == [{"ok": False, "error": "room is private"}]
        assert default_runtime.registry.find(client.id).channels == ()  # type: ignore[union-attr]
        assert stages[2:] == [("subscribing", "room")]

    def test_gate_with_pattern_applies_to_matching_channels(self, site: Site) -> None:
        @on_subscribing(channel="staff")
        def staff(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("staff only")

        client = site.connect()
        denied = [{"ok": False, "error": "staff only"}]
        assert client.call("__subscribe__", "staff") == denied
        assert (
            client.call("__subscribe__", "staff-room") == denied
        )  # rather too much than too little
        assert client.call("__subscribe__", "not staff") == [{"ok": True}]

    def test_gate_raising_another_exception_rejects_subscription_without_details(
        self, site: Site, stages: Journal
    ) -> None:
        error = KeyError(SECRET)

        @on_subscribing
        def broken(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise error

        client = site.connect()
        assert client.call("__subscribe__", "room") == [{"ok": False, "error": "not allowed"}]
        assert stages[2:] == [("subscribing", "room"), ("error", error)]

    @pytest.mark.parametrize("error", [gevent.GreenletExit(), gevent.Timeout(1), RecursionError()])
    def test_gate_raising_any_exception_rejects_subscription(
        self, error: BaseException, site: Site, stages: Journal
    ) -> None:
        @on_subscribing
        def broken(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise error

        client = site.connect()
        assert client.call("__subscribe__", "room") == [{"ok": False, "error": "not allowed"}]
        assert stages.count(("error", error)) == 1

    def test_subscription_is_rejected_if_any_matching_gate_rejects(
        self, site: Site, journal: Journal
    ) -> None:
        @on_subscribing
        def everywhere(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(("everywhere", channel))

        @on_subscribing(channel="^staff-")
        def staff(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("staff only")

        client = site.connect()
        assert client.call("__subscribe__", "hall") == [{"ok": True}]
        assert client.call("__subscribe__", "staff-1") == [{"ok": False, "error": "staff only"}]
        assert journal == [("everywhere", "hall"), ("everywhere", "staff-1")]

    def test_gate_applies_to_subscriptions_by_the_server(self, site: Site) -> None:
        @on_subscribing(channel="^staff-")
        def staff(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("staff only")

        @on_subscribing(channel="^broken-")
        def broken(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise KeyError(SECRET)

        socket = default_runtime.registry.find(site.connect().id)
        assert socket is not None
        with pytest.raises(Refused, match=r"^staff only$"):
            socket.subscribe("staff-1")
        with pytest.raises(Refused, match=r"^not allowed$"):
            socket.subscribe("broken-1")
        assert socket.channels == ()
        assert socket.subscribe("hall") is True

    def test_gate_does_not_run_for_a_subscribed_channel(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        client.call("__subscribe__", "room")
        client.call("__subscribe__", "room")
        assert stages.count(("subscribing", "room")) == 1

    def test_client_disconnecting_while_the_gate_waits_is_not_subscribed(
        self, site: Site, stages: Journal
    ) -> None:
        go = gevent.event.Event()
        passed = Journal()

        @on_subscribing
        def wait(request: Any, socket: Any, context: Any, channel: str) -> None:
            passed.append("waiting")
            go.wait()

        client = site.connect()
        client.emit("__subscribe__", "room")
        passed.wait_for("waiting")
        client.send("1")
        client.wait_closed()
        go.set()
        stages.wait_for(("finish", "transport close"))
        assert not len(default_runtime.registry.namespace("/").channels)
        assert [name for name, _ in stages] == [
            "connecting",
            "connect",
            "subscribing",
            "disconnect",
            "finish",
        ]

    def test_concurrent_subscriptions_to_one_channel_change_it_once(
        self, site: Site, stages: Journal
    ) -> None:
        go = gevent.event.Event()

        @on_subscribing
        def wait(request: Any, socket: Any, context: Any, channel: str) -> None:
            go.wait()

        socket = default_runtime.registry.find(site.connect().id)
        assert socket is not None
        greenlets = [gevent.spawn(socket.subscribe, "room") for _ in range(3)]
        gevent.idle()
        go.set()
        gevent.joinall(greenlets)
        assert sorted(greenlet.get() for greenlet in greenlets) == [False, False, True]
        assert stages.count(("subscribe", "room")) == 1

    def test_channel_limit_applies_to_concurrent_subscriptions(
        self, serve: Callable[..., Site]
    ) -> None:
        go = gevent.event.Event()

        @on_subscribing
        def wait(request: Any, socket: Any, context: Any, channel: str) -> None:
            go.wait()

        site = serve(max_channels=2)
        socket = default_runtime.registry.find(site.connect().id)
        assert socket is not None
        greenlets = [gevent.spawn(socket.subscribe, f"room-{number}") for number in range(5)]
        gevent.idle()
        go.set()
        gevent.joinall(greenlets)
        assert [greenlet.successful() for greenlet in greenlets].count(True) == 2
        assert len(socket.channels) == 2


class TestReceivingGate:
    @pytest.fixture
    def handled(self) -> Journal:
        """Messages that reached the handlers."""
        journal = Journal()

        @on_message
        def message(request: Any, socket: Any, context: Any, message: Any) -> str:
            journal.append(message)
            return "handled"

        @on_event("draw")
        def draw(request: Any, socket: Any, context: Any, *args: Any) -> str:
            journal.append(["draw", *args])
            return "drawn"

        return journal

    def test_gate_raising_refused_rejects_message_with_reason(
        self, site: Site, handled: Journal
    ) -> None:
        @on_receiving
        def no_shouting(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            if message == "HELLO":
                raise Refused("no shouting")

        client = site.connect()
        assert client.call("message", "HELLO") == [{"error": "no shouting"}]
        assert client.call("message", "hello") == ["handled"]
        client.emit("message", "HELLO")  # no acknowledgement requested
        assert client.call("message", "after it") == ["handled"]
        assert handled == ["hello", "after it"]

    def test_gate_raising_refused_without_text_rejects_message_with_generic_reason(
        self, site: Site, handled: Journal
    ) -> None:
        @on_receiving
        def nothing(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            raise Refused

        assert site.connect().call("message", 1) == [{"error": "refused"}]

    def test_gate_raising_refused_over_polling_rejects_message(
        self, site: Site, handled: Journal
    ) -> None:
        @on_receiving
        def nothing(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            raise Refused("no")

        client = site.polling()
        client.connect()
        client.send('425["message","hello"]')
        assert client.poll() == ['435[{"error":"no"}]']
        assert handled == []

    def test_gate_applies_to_custom_events(self, site: Site, handled: Journal) -> None:
        @on_receiving
        def nothing(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            if event == "draw":
                raise Refused(f"{event} {message}")

        client = site.connect()
        assert client.call("draw", 1, 2) == [{"error": "draw [1, 2]"}]
        assert client.call("message", 1) == ["handled"]

    def test_receiving_gate_with_pattern_applies_to_matching_channels(
        self, site: Site, handled: Journal
    ) -> None:
        @on_receiving(channel="^staff")
        def staff(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            raise Refused("staff only")

        client = site.connect()
        assert client.call("message", "in none") == ["handled"]
        client.call("__subscribe__", "hall")
        client.call("__subscribe__", "staff-room")
        assert client.call("__channel__", "hall", "to the hall") == ["handled"]
        assert client.call("__channel__", "staff-room", 1) == [{"error": "staff only"}]
        assert client.call("message", "rather too much") == [{"error": "staff only"}]
        client.call("__unsubscribe__", "staff-room")
        assert client.call("message", "out of it") == ["handled"]
        assert handled == ["in none", "to the hall", "out of it"]

    def test_receiving_gate_does_not_apply_to_subscriptions(self, site: Site) -> None:
        @on_receiving
        def nothing(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            raise Refused("no")

        client = site.connect()
        assert client.call("__subscribe__", "room") == [{"ok": True}]
        assert client.call("__unsubscribe__", "room") == [{"ok": True}]

    def test_gate_raising_another_exception_rejects_message_without_details(
        self, site: Site, handled: Journal, stages: Journal
    ) -> None:
        error = KeyError(SECRET)

        @on_receiving
        def broken(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            raise error

        client = site.connect()
        assert client.call("message", "hello") == [{"error": "not allowed"}]
        assert handled == []
        assert stages[2:] == [("receiving", "hello"), ("error", error)]

    @pytest.mark.parametrize("error", [gevent.GreenletExit(), gevent.Timeout(1), RecursionError()])
    def test_gate_raising_any_exception_rejects_message(
        self, error: BaseException, site: Site, handled: Journal, stages: Journal
    ) -> None:
        @on_receiving
        def broken(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            raise error

        assert site.connect().call("message", "hello") == [{"error": "not allowed"}]
        assert stages.count(("error", error)) == 1
        assert handled == []

    def test_message_is_rejected_with_the_first_reason(self, site: Site, handled: Journal) -> None:
        asked: list[int] = []

        def make(number: int) -> Callable[..., None]:
            def gate(sender: Any, message: Any, **keywords: Any) -> None:
                asked.append(number)
                if number == message:
                    raise Refused(f"gate {number}")

            return gate

        for number in range(3):
            signals.receiving.connect(make(number))
        client = site.connect()
        assert client.call("message", 1) == [{"error": "gate 1"}]
        assert asked == [0, 1]
        assert client.call("message", 3) == ["handled"]

    def test_messages_stay_in_order_while_a_gate_waits(self, site: Site, handled: Journal) -> None:
        go = gevent.event.Event()

        @on_receiving
        def wait(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            if message == "slow":
                go.wait()

        client, other = site.connect(), site.connect()
        client.emit("message", "slow")
        client.emit("message", "quick")
        assert other.call("message", "other") == ["handled"]
        go.set()
        assert client.call("message", "last") == ["handled"]
        assert handled == ["other", "slow", "quick", "last"]

    def test_message_is_not_handled_after_disconnect_in_the_gate(
        self, site: Site, handled: Journal, stages: Journal
    ) -> None:
        @on_receiving
        def away(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            socket.disconnect()

        client = site.connect()
        client.emit("message", "hello", ack=1)
        assert client.receive() == "41"
        stages.wait_for(("finish", "server namespace disconnect"))
        assert handled == []

    def test_message_size_is_available_in_the_gate(self, site: Site, handled: Journal) -> None:
        sizes: list[int] = []

        @on_receiving
        def small(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            sizes.append(socket.message_size)
            if socket.message_size > 1000:
                raise Refused("too large")

        client = site.connect()
        client.send('421["message","x"]')
        assert client.receive() == '431["handled"]'
        assert client.call("message", "x" * 1000) == [{"error": "too large"}]
        client.send('451-2["message",{"_placeholder":true,"num":0}]')
        client.send(b"x" * 1000)
        assert client.receive() == '432[{"error":"too large"}]'
        text = '421["message","x"]'
        assert sizes[0] == len(text) - 1  # without the Engine.IO packet type
        assert sizes[2] == len('51-2["message",{"_placeholder":true,"num":0}]') + 1000


class TestByClientKeyword:
    def test_by_client_keyword_distinguishes_client_and_server_subscriptions(
        self, site: Site
    ) -> None:
        def gate(sender: Any, by_client: bool, **extra: Any) -> None:
            if by_client:
                raise Refused("the server decides")

        signals.subscribing.connect(gate)
        client = site.connect()
        assert client.call("__subscribe__", "team") == [
            {"ok": False, "error": "the server decides"}
        ]
        socket = default_runtime.registry.find(client.id)
        assert socket is not None
        assert socket.subscribe("team")

    def test_by_client_keyword_distinguishes_client_and_server_errors(
        self, site: Site, journal: Journal
    ) -> None:
        def error(sender: Any, exception: Any, by_client: bool, **extra: Any) -> None:
            journal.append((type(exception).__name__, by_client))

        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.subscribe("")

        signals.error.connect(error)
        client = site.connect()
        client.call("__subscribe__", "")
        client.call("message", 1)
        client.send("4not a packet")
        journal.wait(lambda journal: len(journal) == 3)
        assert journal == [
            ("ChannelError", True),
            ("ChannelError", False),
            ("ProtocolError", True),
        ]


class Unprintable:
    """An object whose text cannot be created."""

    def __str__(self) -> str:
        raise LookupError("no text")


#: Reasons that cannot be sent. The last one exceeds the outbox of `TestUnencodableRefusals`.
UNSPEAKABLE = [
    pytest.param("caf\ud800", id="surrogate"),
    pytest.param(Unprintable(), id="no text"),
    pytest.param("x" * 70_000, id="too large"),
]


@pytest.mark.parametrize("words", UNSPEAKABLE)
class TestUnencodableRefusals:
    """Reasons that cannot be encoded: the client receives a generic one, the log names the gate."""

    @pytest.fixture
    def site(self, serve: Callable[..., Site]) -> Site:
        return serve(outbox_bytes=65_536, max_message_size=30_000)

    @pytest.fixture
    def blamed(self, caplog: pytest.LogCaptureFixture, stages: Journal) -> Callable[[], None]:
        def check() -> None:
            (record,) = caplog.records
            assert record.levelname == "ERROR"
            assert record.getMessage().startswith("sending a refusal failed for <Socket ")
            assert "the text of a Refused cannot be sent" in caplog.text
            assert "use a short text" in caplog.text
            assert "in a_gate" in caplog.text  # with file and line
            assert [name for name, _ in stages].count("error") == 1
            caplog.clear()

        return check

    def test_unencodable_refusal_rejects_connection_with_generic_reason(
        self, words: Any, site: Site, blamed: Callable[[], None]
    ) -> None:
        @on_connecting
        def a_gate(request: Any, socket: Any, context: Any) -> None:
            if not socket.auth:
                raise Refused(words)

        client = site.websocket()
        client.send("40")
        assert client.receive() == '44{"message":"refused"}'
        blamed()
        client.connect('{"token":1}')  # same session

    def test_unencodable_refusal_rejects_message_with_generic_reason(
        self, words: Any, site: Site, blamed: Callable[[], None]
    ) -> None:
        @on_receiving
        def a_gate(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            if event == "message":
                raise Refused(words)

        client = site.connect()
        assert client.call("message", 1) == [{"error": "refused"}]
        blamed()
        client.barrier()

    def test_unencodable_refusal_rejects_subscription_with_generic_reason(
        self, words: Any, site: Site, blamed: Callable[[], None]
    ) -> None:
        @on_subscribing
        def a_gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused(words)

        client = site.connect()
        assert client.call("__subscribe__", "room") == [{"ok": False, "error": "refused"}]
        blamed()
        assert client.call("__unsubscribe__", "room") == [{"ok": True}]


class Peculiar(Refused):
    def __init__(self) -> None:
        """Do not call the method of the base class."""


class TestRefusalData:
    """`Refused` with data: sent next to the reason, absent if None."""

    @pytest.fixture
    def site(self, serve: Callable[..., Site]) -> Site:
        return serve(outbox_bytes=65_536, max_message_size=30_000)

    @pytest.fixture
    def reject(self) -> Callable[[Refused], None]:
        """Return a function that lets all gates raise an exception."""
        raised: list[Refused] = []

        @on_connecting
        def a_gate(request: Any, socket: Any, context: Any) -> None:
            if socket.auth is None:
                raise raised[-1]

        @on_subscribing
        def another_gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise raised[-1]

        @on_receiving
        def third_gate(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            raise raised[-1]

        return raised.append

    @staticmethod
    def answers(site: Site) -> list[Any]:
        client = site.websocket()
        client.send("40")
        reply = client.receive()
        assert isinstance(reply, str)
        client.connect('{"token":1}')
        (subscription,) = client.call("__subscribe__", "room")
        assert subscription.pop("ok") is False
        return [json.loads(reply.removeprefix("44")), subscription, *client.call("message", 1)]

    @pytest.mark.parametrize("data", [{"code": 401}, [1, None], "text", 0, False, ""])
    def test_refusal_with_data_sends_it(
        self, data: Any, site: Site, reject: Callable[[Refused], None]
    ) -> None:
        reject(Refused("no entry", data=data))
        expected = {"error": "no entry", "data": data}
        rejection = {"message": "no entry", "data": data}
        assert self.answers(site) == [rejection, expected, expected]

    @pytest.mark.parametrize("refusal", [Refused("no"), Refused("no", data=None)])
    def test_refusal_without_data_sends_no_key(
        self, refusal: Refused, site: Site, reject: Callable[[Refused], None]
    ) -> None:
        reject(refusal)
        assert self.answers(site) == [{"message": "no"}, {"error": "no"}, {"error": "no"}]

    def test_subclass_without_call_of_init_is_a_refusal(
        self, site: Site, reject: Callable[[Refused], None]
    ) -> None:
        reject(Peculiar())
        generic = {"error": "refused"}
        assert self.answers(site) == [{"message": "refused"}, generic, generic]

    @pytest.mark.quoted("the data of a Refused cannot be sent")
    @pytest.mark.parametrize(
        "data", [object(), float("nan"), b"bytes", {"a": [b"1"]}, "\ud800", "x" * 70_000]
    )
    def test_unencodable_data_is_reported_and_the_text_is_sent(
        self,
        data: Any,
        site: Site,
        stages: Journal,
        caplog: pytest.LogCaptureFixture,
        reject: Callable[[Refused], None],
        match_quote: Callable[[str], None],
    ) -> None:
        reject(Refused("no", data=data))
        assert self.answers(site) == [{"message": "no"}, {"error": "no"}, {"error": "no"}]
        assert [name for name, _ in stages].count("error") == 3
        assert len(caplog.records) == 3
        match_quote(caplog.text)
        assert caplog.text.count("the data of a Refused cannot be sent to the client") >= 3
        assert "use JSON types without bytes" in caplog.text
        assert "in a_gate" in caplog.text  # with file and line

    def test_refusal_of_the_servers_own_subscription_raises_with_data(
        self, serve: Callable[..., Site]
    ) -> None:
        @on_subscribing
        def a_gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("no", data={"code": 403})

        with pytest.raises(Refused) as refused:
            socket_of(serve().connect()).subscribe("room")
        assert refused.value.data == {"code": 403}
        assert pickle.loads(pickle.dumps(refused.value)).data == {"code": 403}
