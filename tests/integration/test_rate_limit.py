"""Rate limit plugin: rejections, notifications, disconnects and the lifetime of buckets."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import raw
from tests.conftest import Journal, Site
from webpy_socketio import (
    Refused,
    Runtime,
    events,
    on_connect,
    on_connecting,
    on_event,
    on_message,
    on_receiving,
    on_subscribing,
    signals,
    socketio_urls,
)
from webpy_socketio.engine.io.clock import replace_clock
from webpy_socketio.plugins import rate_limit
from webpy_socketio.plugins.rate_limit import buckets as buckets_module
from webpy_socketio.plugins.rate_limit.buckets import Buckets
from webpy_socketio.runtime import default_runtime
from webpy_socketio.testing import Client, TestServer
from webpy_socketio.testing.clock import VirtualClock

PLUGIN = "webpy_socketio.plugins.rate_limit"

REFUSED = {"error": "rate limit"}


def by_address(request: Any, socket: Any, context: Any) -> str:
    return str(request["REMOTE_ADDR"])


@pytest.fixture
def start() -> Iterator[Callable[..., TestServer]]:
    """Start a server in virtual time: ``start(messages=(1, 3))``; other limits are off."""
    servers: list[TestServer] = []

    def start(key: Any = None, **limits: Any) -> TestServer:
        names = ["messages", "subscriptions", "refusals", "packets"]
        names += ["key_messages", "key_subscriptions", "key_connections"]
        values: dict[str, Any] = {f"rate_limit_{name}": None for name in names}
        values.update({f"rate_limit_{name}": limit for name, limit in limits.items()})
        app = web.application(socketio_urls, {}, autoreload=False)
        server = TestServer(app, plugins=[PLUGIN], rate_limit_key=key, **values).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


Start = Callable[..., TestServer]


@pytest.fixture(autouse=True)
def _handler() -> None:
    """Register a handler: messages without one are not acknowledged."""
    on_message(_acknowledge)


def _acknowledge(request: Any, socket: Any, context: Any, message: Any) -> None:
    pass


@pytest.fixture
def handled() -> list[Any]:
    """Record the messages that reached handlers."""
    handled: list[Any] = []

    @on_message
    def message(request: Any, socket: Any, context: Any, message: Any) -> str:
        handled.append(message)
        return "handled"

    @on_event("draw")
    def draw(request: Any, socket: Any, context: Any, *args: Any) -> str:
        handled.append(["draw", *args])
        return "drawn"

    return handled


def answers(client: Client, times: int) -> list[Any]:
    return [client.call("message", number) for number in range(times)]


def bucket_count() -> int:
    """Return the number of buckets."""
    return sum(map(len, rate_limit._installed[default_runtime]._buckets))


class TestMessages:
    def test_message_beyond_the_burst_is_rejected_and_acknowledged(
        self, start: Start, handled: list[Any]
    ) -> None:
        ann = start(messages=(1, 3)).connect()
        assert answers(ann, 5) == ["handled"] * 3 + [REFUSED] * 2
        ann.send("without an acknowledgement")
        assert handled == [0, 1, 2]

    def test_tokens_are_refilled_at_the_rate(self, start: Start, handled: list[Any]) -> None:
        server = start(messages=(2, 3))
        ann = server.connect()
        answers(ann, 4)
        server.advance(0.4)
        assert answers(ann, 1) == [REFUSED]
        server.advance(0.1)
        assert answers(ann, 2) == ["handled", REFUSED]
        server.advance(1)
        assert answers(ann, 3) == ["handled", "handled", REFUSED]
        server.advance(1000)
        assert answers(ann, 5) == ["handled"] * 3 + [REFUSED] * 2  # never more than the burst

    def test_messages_at_the_rate_are_never_rejected(
        self, start: Start, handled: list[Any]
    ) -> None:
        server = start(messages=(10, 1))
        ann = server.connect()
        for _ in range(100):
            assert ann.call("message") == "handled"
            server.advance(0.1)

    def test_every_kind_of_message_takes_a_token(self, start: Start, handled: list[Any]) -> None:
        ann = start(messages=(1, 3)).connect()
        ann.subscribe("room")
        assert ann.call("draw", 1, 2) == "drawn"
        assert ann.call("__channel__", "room", "hello") == "handled"
        ann.emit("no handler takes this")
        assert ann.call("draw") == REFUSED
        assert ann.call("__channel__", "room", "hello") == REFUSED
        assert handled == [["draw", 1, 2], "hello"]

    def test_each_socket_has_its_own_bucket(self, start: Start, handled: list[Any]) -> None:
        server = start(messages=(1, 2))
        ann, bob = server.connect(), server.connect()
        assert answers(ann, 3) == ["handled", "handled", REFUSED]
        assert answers(bob, 3) == ["handled", "handled", REFUSED]

    def test_rejection_skips_other_gates(self, start: Start, handled: list[Any]) -> None:
        asked: list[Any] = []

        @on_receiving
        def database(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            asked.append(message)

        ann = start(messages=(1, 2)).connect()
        answers(ann, 5)
        assert asked == [0, 1]

    def test_limit_of_none_accepts_everything(self, start: Start, handled: list[Any]) -> None:
        ann = start(messages=None).connect()
        assert answers(ann, 300) == ["handled"] * 300
        assert not signals.receiving.receivers
        assert not signals.subscribing.receivers


class TestNotifications:
    def test_first_rejection_is_notified_at_once(self, start: Start) -> None:
        ann = start(messages=(0.5, 2)).connect()
        answers(ann, 3)
        notification = {"what": "messages", "refused": 1, "retry": 2.0}
        assert ann.received() == [("rate_limit", notification)]

    def test_further_rejections_are_notified_once_per_second(self, start: Start) -> None:
        server = start(messages=(0.5, 1))
        ann = server.connect()
        answers(ann, 101)
        assert [data["refused"] for data in ann.received("rate_limit")] == [1]
        server.advance(0.99)
        assert ann.received() == []
        server.advance(0.01)
        notification = {"what": "messages", "refused": 99, "retry": 1.0}
        assert ann.received() == [("rate_limit", notification)]
        server.advance(10)
        assert ann.received() == []

    def test_notifications_of_a_flood_count_every_rejection(self, start: Start) -> None:
        server = start(messages=(1, 1))
        ann = server.connect()
        refused = 0
        for _ in range(100):
            refused += answers(ann, 3).count(REFUSED)
            server.advance(0.1)
        server.advance(5)
        counts = [data["refused"] for data in ann.received("rate_limit")]
        assert len(counts) <= 11
        assert sum(counts) == refused

    def test_message_after_retry_is_accepted(self, start: Start, handled: list[Any]) -> None:
        server = start(messages=(3, 2))
        ann = server.connect()
        answers(ann, 3)
        server.advance(ann.receive("rate_limit")["retry"])
        assert answers(ann, 2) == ["handled", REFUSED]

    def test_messages_and_subscriptions_are_notified_separately(self, start: Start) -> None:
        ann = start(messages=(1, 1), subscriptions=(1, 1)).connect()
        answers(ann, 2)
        ann.subscribe("one")
        with pytest.raises(Refused, match=r"^rate limit$"):
            ann.subscribe("two")
        assert [data["what"] for data in ann.received("rate_limit")] == [
            "messages",
            "subscriptions",
        ]

    def test_disconnected_socket_is_not_notified(self, start: Start) -> None:
        server = start(messages=(1, 1))
        ann = server.connect()
        answers(ann, 3)
        assert len(rate_limit._installed[default_runtime]._notifier) == 1
        ann.close()
        assert len(rate_limit._installed[default_runtime]._notifier) == 0
        server.advance(5)

    def test_uninstall_stops_notifications(self, start: Start) -> None:
        server = start(messages=(1, 1))
        ann = server.connect()
        answers(ann, 5)
        assert len(ann.received()) == 1
        rate_limit.uninstall(default_runtime)
        server.advance(5)
        assert ann.received() == []
        assert answers(ann, 5) == [None] * 5


class TestSubscriptions:
    def test_subscription_beyond_the_burst_is_rejected(self, start: Start) -> None:
        server = start(subscriptions=(1, 2))
        ann = server.connect()
        ann.subscribe("one")
        ann.subscribe("two")
        with pytest.raises(Refused, match=r"^rate limit$"):
            ann.subscribe("three")
        assert ann.socket.channels == ("one", "two")
        server.advance(1)
        ann.subscribe("three")

    def test_subscription_by_the_server_takes_no_token(self, start: Start) -> None:
        @on_event("join")
        def join(request: Any, socket: Any, context: Any, *channels: str) -> None:
            for channel in channels:
                socket.subscribe(channel)

        ann = start(subscriptions=(1, 1)).connect()
        ann.call("join", "one", "two", "three")
        ann.subscribe("four")
        assert len(ann.socket.channels) == 4

    def test_rejection_skips_other_gates(self, start: Start) -> None:
        asked: list[str] = []

        @on_subscribing
        def database(request: Any, socket: Any, context: Any, channel: str) -> None:
            asked.append(channel)

        ann = start(subscriptions=(1, 1)).connect()
        ann.subscribe("one")
        with pytest.raises(Refused):
            ann.subscribe("two")
        assert asked == ["one"]


class TestKeys:
    def test_sockets_with_the_same_key_share_a_bucket(
        self, start: Start, handled: list[Any]
    ) -> None:
        server = start(by_address, key_messages=(1, 3))
        ann, too = server.connect(address="10.0.0.1"), server.connect(address="10.0.0.1")
        bob = server.connect(address="10.0.0.2")
        assert answers(ann, 2) == ["handled"] * 2
        assert answers(too, 2) == ["handled", REFUSED]
        assert answers(ann, 1) == [REFUSED]
        assert answers(bob, 3) == ["handled"] * 3
        assert too.receive("rate_limit")["refused"] == 1

    def test_reconnect_with_the_same_key_keeps_the_bucket(
        self, start: Start, handled: list[Any]
    ) -> None:
        server = start(by_address, key_messages=(1, 2))
        ann = server.connect()
        answers(ann, 2)
        ann.close()
        assert answers(server.connect(), 1) == [REFUSED]

    def test_rejection_takes_no_token_from_either_bucket(
        self, start: Start, handled: list[Any]
    ) -> None:
        server = start(by_address, messages=(0.1, 2), key_messages=(1, 3))
        ann, too = server.connect(), server.connect()
        assert answers(ann, 5) == ["handled"] * 2 + [REFUSED] * 3
        assert answers(too, 2) == ["handled", REFUSED]
        server.advance(1)
        assert answers(too, 1) == ["handled"]

    def test_subscriptions_with_the_same_key_share_a_bucket(self, start: Start) -> None:
        server = start(by_address, key_subscriptions=(1, 1))
        ann, too = server.connect(), server.connect()
        ann.subscribe("one")
        with pytest.raises(Refused, match=r"^rate limit$"):
            too.subscribe("one")

    def test_key_of_none_has_no_limit_until_it_is_set(self, start: Start) -> None:
        @on_event("login")
        def login(request: Any, socket: Any, context: Any, name: str) -> None:
            context["name"] = name

        def by_name(request: Any, socket: Any, context: Any) -> Any:
            return context.get("name")

        server = start(by_name, key_messages=(1, 2))
        ann, too = server.connect(), server.connect()
        assert answers(ann, 10) == [None] * 10
        for client in (ann, too):
            client.call("login", "Ann")
        assert answers(ann, 1) + answers(too, 1) == [None, None]
        assert answers(ann, 1) + answers(too, 1) == [REFUSED, REFUSED]

    def test_key_function_is_called_once_for_each_socket(self, start: Start) -> None:
        asked: list[Any] = []

        def key(request: Any, socket: Any, context: Any) -> str:
            asked.append((socket, context, request["REMOTE_ADDR"]))
            return "key"

        ann = start(key, key_messages=(1, 2)).connect()
        answers(ann, 3)
        assert asked == [(ann.socket, ann.socket.context, "127.0.0.1")]

    @pytest.mark.parametrize("bad", ["raises", "no key at all"])
    def test_key_function_that_raises_rejects_and_sends_error(
        self, bad: str, start: Start, handled: list[Any]
    ) -> None:
        def key(request: Any, socket: Any, context: Any) -> Any:
            return {}["nothing"] if bad == "raises" else ["a list"]

        server = start(key, key_messages=(1, 2))
        ann = server.connect()
        with server.errors() as errors:
            assert ann.call("message") == {"error": "not allowed"}
        assert isinstance(errors[0], (KeyError, TypeError))
        assert handled == []


class TestConnections:
    def test_connection_attempts_with_the_same_key_are_limited(self, start: Start) -> None:
        server = start(by_address, key_connections=(0.5, 2))
        for _ in range(2):
            server.connect(address="10.0.0.1")
        with pytest.raises(Refused, match=r"^rate limit$"):
            server.connect(address="10.0.0.1")
        server.connect(address="10.0.0.2")
        server.advance(2)
        server.connect(address="10.0.0.1")

    def test_attempts_rejected_by_another_gate_take_tokens(self, start: Start) -> None:
        asked: list[Any] = []

        @on_connecting
        def password(request: Any, socket: Any, context: Any) -> None:
            asked.append(socket.auth)
            raise Refused("wrong password")

        server = start(by_address, key_connections=(1, 3))
        reasons = []
        for number in range(5):
            with pytest.raises(Refused) as caught:
                server.connect(auth={"password": number})
            reasons.append(str(caught.value))
        assert reasons == ["wrong password"] * 3 + ["rate limit"] * 2
        assert len(asked) == 3

    def test_connection_attempts_without_a_key_are_not_limited(
        self, start: Start, handled: list[Any]
    ) -> None:
        @on_connect
        def remember(request: Any, socket: Any, context: Any) -> None:
            context["name"] = "Ann"

        def by_name(request: Any, socket: Any, context: Any) -> Any:
            return context.get("name")

        server = start(by_name, key_connections=(1, 1), key_messages=(1, 1))
        ann, too = server.connect(), server.connect()
        assert answers(ann, 1) + answers(too, 1) == ["handled", REFUSED]


class TestRepeatedViolations:
    def test_client_beyond_the_limit_of_rejections_is_disconnected(
        self, start: Start, handled: list[Any]
    ) -> None:
        server = start(messages=(1, 2), refusals=(0.1, 3))
        ann, bob = server.connect(), server.connect()
        with server.record(signals.disconnect) as sent:
            for number in range(6):
                assert ann.connected, number
                ann.send(number)
        assert not ann.connected
        assert ann.reason == "io server disconnect"
        assert [record.reason for record in sent] == ["server namespace disconnect"]
        assert handled == [0, 1]
        assert bob.call("message", "still there") == "handled"

    def test_client_with_occasional_rejections_stays_connected(self, start: Start) -> None:
        server = start(messages=(10, 1), refusals=(1, 2))
        ann = server.connect()
        for _ in range(20):
            assert answers(ann, 2) == [None, REFUSED]
            server.advance(1)
        assert ann.connected

    def test_rejected_subscriptions_and_protocol_errors_count(self, start: Start) -> None:
        server = start(subscriptions=(1, 1), refusals=(0.1, 4))
        ann = server.connect()
        ann.subscribe("one")
        for channel in ("two", "three", "", "\n"):
            with pytest.raises(Refused):
                ann.subscribe(channel)
        assert ann.connected
        ann.emit("__channel__", "elsewhere", "hello")
        assert not ann.connected

    def test_handler_errors_do_not_count(self, start: Start) -> None:
        @on_message
        def broken(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.subscribe("")

        server = start(refusals=(0.1, 1))
        ann = server.connect()
        with server.errors():
            answers(ann, 5)
        assert ann.connected

    def test_refusal_limit_of_none_never_disconnects(self, start: Start) -> None:
        server = start(messages=(1, 1), refusals=None)
        ann = server.connect()
        answers(ann, 500)
        assert ann.connected


class TestMemory:
    def test_full_buckets_of_keys_are_removed(self, start: Start) -> None:
        server = start(by_address, key_messages=(1, 10), key_connections=(2, 4))
        for number in range(20):
            client = server.connect(address=f"10.0.0.{number}")
            answers(client, 4)
            client.close()
        assert bucket_count() == 40
        server.advance(2)
        assert bucket_count() == 20  # of connection attempts
        server.advance(2)
        assert bucket_count() == 0

    def test_bucket_in_use_is_kept(self, start: Start) -> None:
        server = start(by_address, key_messages=(1, 2))
        ann, bob = server.connect(address="10.0.0.1"), server.connect(address="10.0.0.2")
        answers(ann, 2)
        answers(bob, 2)
        for _ in range(5):
            server.advance(1)
            assert answers(ann, 2) == [None, REFUSED]
        assert bucket_count() == 1

    def test_full_buckets_of_disconnected_sockets_are_removed(self, start: Start) -> None:
        server = start(
            by_address,
            messages=(1, 100),
            subscriptions=(1, 100),
            key_messages=(1, 1),
            refusals=(1, 100),
        )
        ann = server.connect()
        ann.subscribe("one")
        answers(ann, 3)
        assert bucket_count() == 4
        ann.close()
        server.advance(10)
        assert bucket_count() == 0
        assert not rate_limit._installed[default_runtime]._keys

    def test_number_of_buckets_is_limited(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(buckets_module, "MAX_KEYS", 10)
        server = start(by_address, key_messages=(0.001, 5))
        visitors = [server.connect(address=f"10.0.0.{number}") for number in range(15)]
        for client in visitors:
            answers(client, 1)
        assert bucket_count() == 10

    def test_uninstall_removes_all_buckets(self, start: Start) -> None:
        server = start(by_address, messages=(1, 1), key_messages=(1, 100))
        answers(server.connect(), 3)
        server.stop()
        events.off(_acknowledge)
        assert not any(stage.receivers for stage in signals.STAGES)
        assert server._clock.due is None


def test_limit_of_messages_holds_for_a_client_with_a_namespace_for_each_message(
    serve: Callable[..., Site], handled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "MAX_NAMESPACES", 2)
    site = serve(
        plugins=[PLUGIN],
        namespaces=[re.compile("/[0-9]+$")],
        rate_limit_messages=(0.01, 4),
        rate_limit_packets=None,
    )
    client = site.websocket()
    outcomes = []
    for number in range(8):
        client.send(f"40/{number},")
        outcome = receive(client)[:2]
        if outcome == "40":
            client.send(f'42/{number},7["message",1]')
            outcome = "handled" if "handled" in receive(client) else "refused"
            client.send(f"41/{number},")
        outcomes.append(outcome)
    # Two namespaces with their own buckets; further ones share one of 4 tokens, 2 for each.
    assert outcomes == ["handled"] * 4 + ["44"] * 4


@pytest.mark.parametrize("transport", ["websocket", "polling"])
class TestRejoin:
    def test_limit_of_messages_holds_for_a_client_that_leaves_and_joins(
        self, transport: str, serve: Callable[..., Site], handled: list[Any]
    ) -> None:
        site = serve(plugins=[PLUGIN], rate_limit_messages=(0.01, 4), rate_limit_packets=None)
        client = getattr(site, transport)()
        replies = [join_and_leave(client, '42["message",1]') for _ in range(10)]
        # The first CONNECT is free; each further one takes a token like a message.
        assert replies == [["handled"], ["handled"], [REFUSED]] + ["rate limit"] * 7
        assert handled == [1, 1]

    def test_limit_of_subscriptions_holds_for_a_client_that_leaves_and_joins(
        self, transport: str, serve: Callable[..., Site]
    ) -> None:
        site = serve(
            plugins=[PLUGIN],
            rate_limit_messages=None,
            rate_limit_subscriptions=(0.01, 3),
            rate_limit_packets=None,
        )
        client = getattr(site, transport)()
        replies = [join_and_leave(client, '42["__subscribe__","room"]') for _ in range(5)]
        assert [reply[0]["ok"] for reply in replies] == [True] * 3 + [False] * 2

    def test_limit_of_refusals_holds_for_a_client_that_leaves_and_joins(
        self, transport: str, serve: Callable[..., Site], stages: Journal
    ) -> None:
        site = serve(
            plugins=[PLUGIN],
            rate_limit_messages=None,
            rate_limit_subscriptions=(0.01, 1),
            rate_limit_refusals=(0.01, 2),
            rate_limit_packets=None,
        )
        client = getattr(site, transport)()
        for _ in range(3):
            join_and_leave(client, '42["__subscribe__","room"]')
        client.send("40")
        receive(client)
        client.send('42["__subscribe__","room"]')
        stages.wait_for(("disconnect", "server namespace disconnect"))


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize(
    "packet",
    ["3", '431["never asked"]', "40/nowhere", '42/nowhere,["a"]', "41/nowhere", "40/chat"],
)
def test_packets_without_an_event_are_counted_and_their_client_closed(
    packet: str, transport: str, serve: Callable[..., Site], stages: Journal, handled: list[Any]
) -> None:
    limits = {"rate_limit_packets": (0.01, 20), "rate_limit_messages": (0.01, 500)}
    site = serve(plugins=[PLUGIN], namespaces=["/", "/chat"], **limits)
    client = getattr(site, transport)()
    client.connect()
    other = site.connect()
    flood(client, packet)
    stages.wait_for(("disconnect", "forced close"))
    assert other.call("message", 1) == ["handled"]


def test_pings_of_a_websocket_are_counted(serve: Callable[..., Site], stages: Journal) -> None:
    client = serve(plugins=[PLUGIN], rate_limit_packets=(0.01, 20)).connect()
    for _ in range(30):
        client.send_raw(b"\x89\x80\0\0\0\0")
    stages.wait_for(("disconnect", "forced close"))
    assert client.wait_closed() == 1008


def test_packets_within_the_limit_close_no_client(
    serve: Callable[..., Site], handled: list[Any]
) -> None:
    client = serve(plugins=[PLUGIN], rate_limit_packets=(0.01, 20)).connect()
    for _ in range(19):
        client.send("3")
    for _ in range(30):  # only packets without an event are counted here
        client.call("draw")
    client.send("3")
    assert client.wait_closed() == 1008


def flood(client: Any, packet: str) -> None:
    with contextlib.suppress(OSError, raw.Closed, AssertionError):
        for _ in range(40):
            client.send(packet)
            if packet == "40/chat":
                client.send("41/chat")


def receive(client: Any) -> str:
    """Return the next packet of the server, except for the plugin's events."""
    while True:
        packets = [client.receive()] if isinstance(client, raw.WebSocket) else client.poll()
        replies = [packet for packet in packets if not str(packet).startswith("42")]
        if replies:
            assert len(replies) == 1
            return str(replies[0])


def join_and_leave(client: Any, event: str) -> Any:
    """Join the namespace, send an event and leave; return the acknowledgement or the rejection."""
    client.send("40")
    reply = receive(client)
    if reply.startswith("44"):
        return json.loads(reply[2:])["message"]
    client.send(event.replace("42", "427"))
    reply = receive(client)
    client.send("41")
    assert reply.startswith("437")
    return json.loads(reply[3:])


class TestBuckets:
    @pytest.mark.time_limit(60)
    @settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        rate=st.sampled_from([0.25, 1, 8]),
        burst=st.integers(1, 6),
        pauses=st.lists(st.integers(0, 40)),
    )
    def test_buckets_behave_like_a_token_bucket(
        self, rate: float, burst: int, pauses: list[int]
    ) -> None:
        before = replace_clock(VirtualClock())
        buckets = Buckets(rate, burst)
        now, eighths = 1000.0, burst * 8  # in eighths of a token, so that sums are exact
        for pause in pauses:
            now += pause / 8 / rate
            eighths = min(burst * 8, eighths + pause)
            wait = buckets.wait("key", now)
            assert wait == pytest.approx(max(0, 8 - eighths) / 8 / rate, abs=1e-5)
            if not wait:
                buckets.take("key", now)
                eighths -= 8
        buckets.close()
        replace_clock(before)

    @pytest.mark.parametrize("rate", [0.3, 3, 7, 10, 30, 49.9])
    def test_sums_of_fractions_cost_no_token(self, rate: float) -> None:
        before = replace_clock(VirtualClock())
        buckets = Buckets(rate, 500)
        passed = 0
        while buckets.wait("key", 123_456.789) == 0:
            buckets.take("key", 123_456.789)
            passed += 1
        assert passed == 500
        buckets.close()
        replace_clock(before)


def acknowledgement(client: raw.WebSocket) -> Any:
    """Send a message; return its acknowledgement, which may follow an event ``rate_limit``."""
    client.emit("message", 1, ack=7)
    while True:
        packet = client.receive()
        assert isinstance(packet, str)
        if packet.startswith("437"):
            return json.loads(packet[3:])


class TestRuntimes:
    def test_each_runtime_has_its_own_limits(self, serve: Callable[..., Site]) -> None:
        other = Runtime()
        other.events.on_message(_acknowledge)
        keywords: dict[str, Any] = {"plugins": [PLUGIN], "rate_limit_key": by_address}
        first = serve(**keywords, rate_limit_messages=(0.001, 2), rate_limit_key_messages=None)
        second = serve(
            **keywords,
            rate_limit_messages=None,
            rate_limit_key_messages=(0.001, 3),
            runtime=other,
        )
        ann, bob = first.connect(), second.connect()
        assert [acknowledgement(ann) for _ in range(3)] == [[], [], [REFUSED]]
        assert [acknowledgement(bob) for _ in range(4)] == [[], [], [], [REFUSED]]
        first.server.stop()
        assert acknowledgement(bob) == [REFUSED]


class TestRealServer:
    """Limits over a real connection; the buckets are not refilled during a test."""

    @pytest.fixture
    def site(self, serve: Callable[..., Site]) -> Site:
        return serve(
            plugins=[PLUGIN],
            rate_limit_messages=(0.001, 3),
            rate_limit_subscriptions=(0.001, 1),
            rate_limit_key=lambda request, socket, context: request.get("HTTP_X_USER"),
            rate_limit_key_messages=(0.001, 5),
            rate_limit_key_connections=(0.001, 2),
            rate_limit_refusals=(0.001, 2),
        )

    def test_messages_beyond_the_limit_are_rejected(self, site: Site, handled: list[Any]) -> None:
        client, other = site.connect(), site.connect()
        assert [client.call("message", number) for number in range(3)] == [["handled"]] * 3
        client.emit("message", 3, ack=4)
        event, notification = client.event()
        assert (event, notification["what"], notification["refused"]) == (
            "rate_limit",
            "messages",
            1,
        )
        assert 0 < notification["retry"] <= 1000
        assert client.receive() == '434[{"error":"rate limit"}]'
        assert other.call("message", "other") == ["handled"]
        assert handled == [0, 1, 2, "other"]

    def test_subscriptions_beyond_the_limit_are_rejected(self, site: Site) -> None:
        client = site.connect()
        assert client.call("__subscribe__", "one") == [{"ok": True}]
        client.emit("__subscribe__", "two", ack=4)
        assert client.event()[1]["what"] == "subscriptions"
        assert client.receive() == '434[{"ok":false,"error":"rate limit"}]'

    def test_flood_ends_with_a_disconnect(
        self, site: Site, handled: list[Any], stages: Journal
    ) -> None:
        client, other = site.connect(), site.connect()
        for number in range(100):
            client.emit("message", number)
        stages.wait_for(("finish", "server namespace disconnect"))
        client.wait_closed()
        assert handled == [0, 1, 2]
        assert other.call("message", "other") == ["handled"]
        assert default_runtime.registry.find(client.id) is None

    def test_sockets_with_the_same_key_are_limited_together(
        self, site: Site, handled: list[Any]
    ) -> None:
        first, second = site.connect(X_User="ann"), site.connect(X_User="ann")
        third = site.websocket(X_User="ann")
        third.send("40")
        assert third.receive() == '44{"message":"rate limit"}'
        assert [first.call("message", 0) for _ in range(3)] == [["handled"]] * 3
        assert [second.call("message", 0) for _ in range(2)] == [["handled"]] * 2
        second.emit("message", 0, ack=4)
        assert second.event()[0] == "rate_limit"
        assert second.receive() == '434[{"error":"rate limit"}]'
        assert site.connect(X_User="bob").call("message", 0) == ["handled"]

    def test_limits_apply_over_polling(self, site: Site, handled: list[Any]) -> None:
        client = site.polling()
        client.connect()
        client.send(*(f'42{number}["message",0]' for number in range(4)))
        packets: list[str] = []
        while len(packets) < 5:
            packets += client.poll()
        assert packets[:3] == [f'43{number}["handled"]' for number in range(3)]
        assert packets[3].startswith('42["rate_limit",')
        assert packets[4] == '433[{"error":"rate limit"}]'
