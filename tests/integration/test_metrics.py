"""Metrics plugin: values of a scrape, and the limits on what clients can add."""

from __future__ import annotations

import http.client
import json
import re
import socket as stdlib_socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.threadpool
import prometheus_client
import pytest
import web
from prometheus_client.parser import text_string_to_metric_families

from tests.commands import run_python
from tests.conftest import Journal, Site, socket_of
from tests.engines import Http
from tests.servers import free_port
from webpy_socketio import (
    ConfigurationError,
    ListenError,
    Refused,
    Runtime,
    SocketIOServer,
    broadcast,
    on_connecting,
    on_event,
    on_message,
    on_receiving,
    on_subscribe,
    on_subscribing,
    signals,
)
from webpy_socketio.labels import MAX_LABELS
from webpy_socketio.plugins import metrics
from webpy_socketio.plugins.metrics.recorder import BUCKETS, Histogram
from webpy_socketio.runtime import default_runtime

PLUGIN = "webpy_socketio.plugins.metrics"

#: Maximum simultaneous connections to the endpoint.
MAX_CONNECTIONS = 64

#: Labels of a series without empty ones, which Prometheus ignores.
Key = frozenset[tuple[str, str]]


class Scrape(dict[str, dict[Key, float]]):
    """Samples of a scrape by name and labels."""

    def __init__(self, text: str) -> None:
        super().__init__()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = frozenset(item for item in sample.labels.items() if item[1])
                self.setdefault(sample.name, {})[key] = sample.value

    def of(self, name: str, **labels: str) -> float | None:
        """Return the value of one series."""
        return self.get(f"webpy_socketio_{name}", {}).get(frozenset(labels.items()))

    def all(self, name: str) -> dict[str, float]:
        """Return all series of a metric by their label values."""
        series = self.get(f"webpy_socketio_{name}", {})
        return {",".join(value for _, value in sorted(key)): series[key] for key in series}


def get(port: int, path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def scrape(runtime: Runtime = default_runtime) -> Scrape:
    """Scrape the registry like Prometheus."""
    port = metrics.port(runtime=runtime)
    assert port is not None
    status, text = get(port)
    assert status == 200
    return Scrape(text)


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    """Start a server with a metrics endpoint."""
    return serve(plugins=[PLUGIN], metrics_port=0, namespaces=["/", "/staff"])


class TestCounts:
    def test_connections_and_disconnects_are_counted(self, site: Site, stages: Journal) -> None:
        first, second = site.connect(), site.connect()
        second.connect(namespace="/staff,")
        polling = site.polling()
        polling.connect()
        stages.wait(lambda stages: stages.count(("connect", None)) == 4)
        found = scrape()
        assert found.all("connections_total") == {"/": 3, "/staff": 1}
        # Namespaces of servers that ran earlier in this process remain with zero values.
        assert {name: count for name, count in found.all("sockets").items() if count} == {
            "/": 3,
            "/staff": 1,
        }
        assert found.all("sessions") == {"polling": 1, "websocket": 2}
        assert found.all("disconnects_total") == {}
        first.vanish()
        polling.send("41")
        stages.wait_for(("finish", "transport close"), ("finish", "client namespace disconnect"))
        found = scrape()
        assert found.all("connections_total") == {"/": 3, "/staff": 1}
        assert {name: count for name, count in found.all("sockets").items() if count} == {
            "/": 1,
            "/staff": 1,
        }
        assert found.all("disconnects_total") == {
            "client namespace disconnect": 1,
            "transport close": 1,
        }

    def test_label_of_namespaces_that_match_a_pattern_is_other(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        tenants = re.compile("/tenant-[0-9]+$")
        site = serve(plugins=[PLUGIN], metrics_port=0, namespaces=["/", tenants])
        client = site.connect()
        for number in range(3):
            client.connect(namespace=f"/tenant-{number},")
            broadcast("hello", namespace=f"/tenant-{number}")
            client.receive()
        found = scrape()
        for name in ("connections_total", "sockets"):
            counts = {label: count for label, count in found.all(name).items() if count}
            assert counts == {"/": 1, "other": 3}
        assert found.all("sent_messages_total") == {"other": 3}

    def test_messages_are_counted_by_event(self, site: Site) -> None:
        @on_message
        def message(request: Any, socket: Any, context: Any, message: Any) -> None: ...

        @on_event("draw")
        def draw(request: Any, socket: Any, context: Any, *args: Any) -> None: ...

        client = site.connect()
        for event in ("message", "draw", "message", "unhandled"):
            client.emit_and_wait(event)
        assert scrape().all("messages_total") == {"message": 2, "draw": 1, "other": 1}

    def test_handler_registered_later_has_its_own_label(self, site: Site) -> None:
        client = site.connect()
        client.emit_and_wait("draw")

        @on_event("draw", channel="^room-")
        def draw(request: Any, socket: Any, context: Any, *args: Any) -> None: ...

        client.emit_and_wait("draw")
        client.call("__subscribe__", "room-1")
        found = scrape()
        assert found.all("messages_total") == {"other": 1, "draw": 1}
        assert found.all("subscriptions_total") == {"^room-": 1}

    def test_received_bytes_are_counted(self, site: Site) -> None:
        client = site.connect()
        client.send('421["message","x"]')
        client.send('451-["message",{"_placeholder":true,"num":0}]')
        client.send(b"x" * 1000)
        client.call("__subscribe__", "room")  # not a message
        text = '21["message","x"]' + '51-["message",{"_placeholder":true,"num":0}]'
        assert scrape().of("received_bytes_total") == len(text) + 1000

    def test_sent_messages_and_bytes_are_counted(self, site: Site) -> None:
        one, two = site.connect(), site.connect()
        staff = site.websocket()
        staff.connect(namespace="/staff,")
        for client in (one, two):
            client.call("__subscribe__", "room")  # an acknowledgement is not an event
        assert scrape().all("sent_messages_total") == {}
        assert scrape().of("sent_bytes_total") == 0
        size = len('42["message","xxx"]') + 2  # and the header of a short frame
        socket_of(one).send("xxx")
        found = scrape()
        assert found.all("sent_messages_total") == {"/": 1}
        assert found.of("sent_bytes_total") == size
        socket_of(one).broadcast("xxx")
        socket_of(one).send_and_broadcast_channel("xxx")
        broadcast("xxx", namespace="/staff")
        found = scrape()
        assert found.all("sent_messages_total") == {"/": 4, "/staff": 1}
        assert found.of("sent_bytes_total") == 5 * size + len("/staff,")
        socket_of(one).emit("draw", b"x" * 100)
        text = '451-["draw",{"_placeholder":true,"num":0}]'
        assert scrape().of("sent_bytes_total") == (
            5 * size + len("/staff,") + len(text) + 2 + 100 + 2
        )
        two.vanish()
        socket_of(one).send("x" * 1000)
        assert scrape().of("sent_messages_total", namespace="/") == 6

    def test_handler_durations_are_measured(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        client.emit_and_wait("message", 1)
        client.call("__subscribe__", "room")
        client.call("__subscribe__", "")  # an error, for which no series is kept
        client.vanish()
        stages.wait_for(("finish", "transport close"))
        found = scrape().get("webpy_socketio_handler_seconds_count", {})
        others = (signals.error, signals.suspend, signals.resume)
        assert {dict(key)["stage"] for key in found} == {
            stage.name for stage in signals.STAGES if stage not in others
        }

    def test_uninstall_disconnects_the_receiver_of_sent(self, serve: Callable[..., Site]) -> None:
        assert not signals.sent.receivers
        site = serve(plugins=[PLUGIN])
        assert signals.sent.receivers
        site.server.stop()
        assert not signals.sent.receivers

    def test_subscriptions_are_counted_by_pattern(self, site: Site, stages: Journal) -> None:
        @on_message(channel="^room-")
        def room(request: Any, socket: Any, context: Any, message: Any) -> None: ...

        @on_subscribe(channel="^room-1$")
        def first_room(request: Any, socket: Any, context: Any, channel: str) -> None: ...

        @on_subscribe(channel="^hall")
        def hall(request: Any, socket: Any, context: Any, channel: str) -> None: ...

        client = site.connect()
        for channel in ("room-1", "room-2", "hall", "elsewhere"):
            client.call("__subscribe__", channel)
        client.call("__subscribe__", "hall")
        client.call("__unsubscribe__", "room-1")
        for channel in ("room-2", "hall", "elsewhere"):
            client.emit_and_wait("__channel__", channel, "hello")
        client.emit_and_wait("message", "to no channel")
        found = scrape()
        assert found.all("subscriptions_total") == {"^room-": 2, "^hall": 1, "other": 1}
        assert found.all("unsubscriptions_total") == {"^room-": 1}
        assert found["webpy_socketio_messages_total"] == {
            frozenset({("event", "message"), ("channel", "^room-")}): 1,
            frozenset({("event", "message"), ("channel", "^hall")}): 1,
            frozenset({("event", "message"), ("channel", "other")}): 1,
            frozenset({("event", "message")}): 1,
        }
        assert (found.of("channels", namespace="/"), found.of("memberships", namespace="/")) == (
            3,
            3,
        )
        client.vanish()
        stages.wait_for(("finish", "transport close"))
        found = scrape()
        assert found.all("unsubscriptions_total") == {"^room-": 2, "^hall": 1, "other": 1}
        assert found.of("memberships", namespace="/") == 0

    def test_rejections_are_counted_by_gate(self, site: Site) -> None:
        @on_connecting
        def token(request: Any, socket: Any, context: Any) -> None:
            if socket.auth is None:
                raise Refused("who are you?")

        @on_receiving
        def polite(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            if message == "rude":
                raise Refused("be polite")

        @on_subscribing
        def broken(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise KeyError(channel)

        assert scrape().all("refused_total") == {"connecting": 0, "receiving": 0, "subscribing": 0}
        rejected = site.websocket()
        for _ in range(3):
            rejected.send("40")
            rejected.receive()
        client = site.connect("{}")
        client.emit_and_wait("message", "rude")
        client.emit_and_wait("message", "rude")
        client.emit_and_wait("message", "hello")
        client.call("__subscribe__", "room")
        found = scrape()
        assert found.all("refused_total") == {"connecting": 3, "receiving": 2, "subscribing": 1}
        assert found.all("connections_total") == {"/": 1}
        assert found.all("messages_total") == {"message": 3}  # including rejected messages
        assert found.of("handler_seconds_count", stage="message", event="message") == 1
        assert found.of("handler_seconds_count", stage="receiving") == 3
        assert found.all("errors_total") == {"KeyError,handler": 1}

    def test_errors_are_counted_by_fault(self, site: Site) -> None:
        @on_message
        def broken(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise ValueError(message)

        client = site.connect()
        for number in range(3):
            client.emit_and_wait("message", f"text {number}")
        client.call("__subscribe__", "")
        client.send("4not a packet")
        client.wait_closed()
        assert scrape().all("errors_total") == {
            "ValueError,handler": 3,
            "ChannelError,client": 1,
            "ProtocolError,client": 1,
        }

    @pytest.mark.time_limit(60)
    def test_outbox_bytes_of_a_slow_reader_are_reported(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        site = serve(plugins=[PLUGIN], metrics_port=0, outbox_bytes=1_000_000)
        socket = socket_of(site.connect())
        assert scrape().of("outbox_bytes") == 0
        socket.send("x" * 99_000)
        waiting = []
        while socket.connected:  # until the kernel's buffers are full
            socket.send("x" * 99_000)
            gevent.sleep(0)
            waiting.append(scrape().of("outbox_bytes"))
        stages.wait_for(("finish", "slow reader"))
        assert scrape().all("disconnects_total") == {"slow reader": 1}
        assert max(value for value in waiting if value is not None) > 0

    def test_backplane_counts_are_reported(self, serve: Callable[..., Site]) -> None:
        serve(plugins=[PLUGIN], metrics_port=0, backplane=f"redis://127.0.0.1:{free_port()}")
        assert scrape().all("backplane_problems_total").keys() == {"dropped", "ignored", "gaps"}
        assert default_runtime.registry.backplane is not None
        default_runtime.registry.backplane.counts["dropped"] += 7
        assert scrape().of("backplane_problems_total", kind="dropped") == 7


class TestDurations:
    def test_durations_are_separate_for_stages_and_events(
        self, site: Site, stages: Journal
    ) -> None:
        @on_event("draw")
        def draw(request: Any, socket: Any, context: Any, *args: Any) -> None:
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:  # gevent's timers may be slightly early
                gevent.sleep(0.002)

        client = site.connect()
        client.call("__subscribe__", "room")
        client.emit_and_wait("draw")
        client.emit_and_wait("draw")
        client.emit_and_wait("x" * 1000)
        client.vanish()
        stages.wait_for(("finish", "transport close"))
        found = scrape()
        counts = found["webpy_socketio_handler_seconds_count"]
        assert counts == {
            frozenset({("stage", name)}): 1
            for name in (
                *("connecting", "connect", "subscribing", "subscribe"),
                *("disconnect", "unsubscribe", "finish"),
            )
        } | {
            frozenset({("stage", "message"), ("event", "draw")}): 2,
            frozenset({("stage", "message"), ("event", "other")}): 1,
            frozenset({("stage", "receiving")}): 3,  # the receivers of the fixture
        }
        drawn = {"stage": "message", "event": "draw"}
        seconds = found.of("handler_seconds_sum", **drawn)
        assert seconds is not None
        assert seconds >= 0.004
        assert found.of("handler_seconds_bucket", le="0.001", **drawn) == 0
        assert found.of("handler_seconds_bucket", le="+Inf", **drawn) == 2

    def test_buckets_are_cumulative_with_inclusive_bounds(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        for seconds in (0.0001, 0.0001001, 0.3, 0.5, 11, 100):
            for receiver in signals.handled.receivers_for(socket):
                receiver(socket, stage="made up", seconds=seconds, refused=None)
        found = scrape()
        buckets = {
            bound: found.of("handler_seconds_bucket", stage="made up", le=bound)
            for bound in ("0.0001", "0.00025", "0.25", "0.5", "10.0", "+Inf")
        }
        assert buckets == {
            "0.0001": 1,
            "0.00025": 2,
            "0.25": 2,
            "0.5": 4,
            "10.0": 4,
            "+Inf": 6,
        }
        assert found.of("handler_seconds_sum", stage="made up") == pytest.approx(111.8002001)

    def test_histogram_counts_values_above_the_last_bound(self) -> None:
        histogram = Histogram()
        for bound in (*BUCKETS, float("inf")):
            histogram.add(bound)
        assert histogram.counts == [1] * (len(BUCKETS) + 1)


@pytest.mark.time_limit(60)
class TestCardinality:
    def test_client_names_create_no_series(self, site: Site) -> None:
        @on_message(channel="^room-")
        def room(request: Any, socket: Any, context: Any, message: Any) -> None: ...

        def series() -> set[tuple[str, Key]]:
            return {(name, key) for name, of in scrape().items() for key in of}

        def annoy(client: Any, number: int) -> None:
            client.emit_and_wait(f"event {number}", f"message {number}")
            for channel in (f"room-{number}", f"elsewhere-{number}"):
                client.call("__subscribe__", channel)
                client.emit_and_wait("__channel__", channel, number)
                client.call("__unsubscribe__", channel)
            client.emit_and_wait("__channel__", f"not held {number}", number)
            client.call("__subscribe__", "x" * (300 + number))

        client = site.connect(X_Name="0")
        annoy(client, 0)
        before = series()
        for number in range(1, 300):
            annoy(client, number)
        assert {name for name, _ in series() ^ before if name.startswith("webpy_")} == set()
        assert scrape().of("messages_total", event="other") == 300

    def test_handlers_beyond_the_limit_create_no_series(self, site: Site) -> None:
        def make(name: str) -> None:
            def handler(*args: Any) -> None: ...

            handler.__qualname__ = name
            on_event(name, channel=f"^{name}$")(handler)

        for number in range(2 * MAX_LABELS):
            make(f"made-{number}")
        client = site.connect()
        for number in range(2 * MAX_LABELS):
            client.emit_and_wait(f"made-{number}")
            client.call("__subscribe__", f"made-{number}")
            client.call("__unsubscribe__", f"made-{number}")
        found = scrape()
        for name in ("messages_total", "subscriptions_total"):
            assert MAX_LABELS <= len(found.all(name)) <= MAX_LABELS + 1
            assert sum(found.all(name).values()) == 2 * MAX_LABELS

    def test_exceptions_beyond_the_limit_create_no_series(self, site: Site) -> None:
        @on_message
        def broken(request: Any, socket: Any, context: Any, number: int) -> None:
            raise type(f"Error{number}", (Exception,), {})

        client = site.connect()
        for number in range(MAX_LABELS + 50):
            client.emit_and_wait("message", number)
        assert scrape().all("errors_total")["other,handler"] == 50


class TestRegistration:
    def test_metrics_without_port_are_in_the_registry_only(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(plugins=[PLUGIN])
        assert metrics.port() is None
        site.connect().emit_and_wait("message")
        text = prometheus_client.generate_latest().decode()
        assert Scrape(text).all("messages_total") == {"message": 1}
        for path in ("/metrics", "/socket.io/metrics"):
            assert get(site.port, path)[0] == 404
        site.server.stop()
        assert "webpy_socketio" not in prometheus_client.generate_latest().decode()

    def test_metrics_registry_setting_replaces_the_default_registry(
        self, serve: Callable[..., Site]
    ) -> None:
        registry = prometheus_client.CollectorRegistry()
        mine = prometheus_client.Counter("mine", "My own.", registry=registry)
        site = serve(plugins=[PLUGIN], metrics_registry=registry, metrics_port=0)
        site.connect()
        mine.inc(5)
        found = scrape()
        assert found["mine_total"] == {frozenset(): 5}
        assert found.all("connections_total") == {"/": 1}
        assert "webpy_socketio" not in prometheus_client.generate_latest().decode()

    def test_endpoint_listens_on_loopback_by_default(
        self, site: Site, serve: Callable[..., Site]
    ) -> None:
        endpoint = metrics._installed[default_runtime].endpoint
        assert endpoint.server_host == "127.0.0.1"
        assert metrics.port() != site.port
        site.server.stop()
        serve(plugins=[PLUGIN], metrics_port=0, metrics_host="")
        assert scrape().all("connections_total") == {}
        endpoint = metrics._installed[default_runtime].endpoint
        assert endpoint.server_host == "0.0.0.0"

    def test_endpoint_rejects_a_host_outside_the_setting(
        self, serve: Callable[..., Site], caplog: pytest.LogCaptureFixture
    ) -> None:
        serve(plugins=[PLUGIN], metrics_port=0, allowed_hosts=["prometheus.example"])
        port = metrics.port()
        assert port is not None
        for host, status in (("evil.example", 400), (f"prometheus.example:{port}", 200)):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/metrics", headers={"Host": host})
            response = connection.getresponse()
            assert (response.status, b"webpy_socketio" in response.read()) == (
                status,
                status == 200,
            )
            connection.close()
        assert "rejected Host 'evil.example' of a request from 127.0.0.1" in caplog.text

    def test_endpoint_closes_with_the_server(self, site: Site) -> None:
        port = metrics.port()
        assert port is not None
        lingering = http.client.HTTPConnection("127.0.0.1", port)
        lingering.request("GET", "/metrics")
        lingering.getresponse().read()
        site.server.stop()
        assert metrics.port() is None
        assert not signals.handled.receivers
        assert not signals.error.receivers
        with pytest.raises(ConnectionRefusedError):
            get(port)
        lingering.close()

    def test_endpoint_on_a_used_port_raises_listen_error_and_unregisters(
        self, serve: Callable[..., Site]
    ) -> None:
        with stdlib_socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            app = web.application((), {}, autoreload=False)
            server = SocketIOServer(
                ("127.0.0.1", 0), app.wsgifunc(), plugins=[PLUGIN], metrics_port=port
            )
            with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port}.*SOCKETIO_METRICS_PORT"):
                server.start()
        assert not server.started
        assert not signals.handled.receivers
        serve(plugins=[PLUGIN], metrics_port=0)  # nothing remains in the registry

    def test_counters_start_at_zero_after_a_restart(self, serve: Callable[..., Site]) -> None:
        site = serve(plugins=[PLUGIN], metrics_port=0)
        site.connect().emit_and_wait("message")
        site.server.stop()
        serve(plugins=[PLUGIN], metrics_port=0)
        assert scrape().all("messages_total") == {}

    def test_two_servers_of_a_process_are_counted_together(
        self, serve: Callable[..., Site]
    ) -> None:
        first = serve(plugins=[PLUGIN], metrics_port=0)
        second = serve(plugins=[PLUGIN], metrics_port=0)
        clients = [first.connect(), second.connect()]
        assert scrape().all("connections_total") == {"/": 2}
        assert len(clients) == 2

    def test_scrape_from_another_thread(self, site: Site) -> None:
        client = site.connect()
        pool = gevent.threadpool.ThreadPool(1)
        text = pool.apply(prometheus_client.generate_latest).decode()
        pool.kill()
        assert Scrape(text).all("sockets")["/"] == 1
        assert client.id

    def test_rate_limit_rejections_are_counted(self, serve: Callable[..., Site]) -> None:
        site = serve(
            plugins=[PLUGIN, "webpy_socketio.plugins.rate_limit"],
            metrics_port=0,
            rate_limit_messages=(0.001, 3),
        )
        client = site.connect()
        for _ in range(4):
            client.emit("message")
        client.emit("message", ack=1)
        assert client.event()[0] == "rate_limit"
        assert client.receive() == '431[{"error":"rate limit"}]'
        found = scrape()
        assert found.all("messages_total") == {"message": 5}
        assert found.of("refused_total", gate="receiving") == 2
        assert found.of("handler_seconds_count", stage="message", event="message") == 3


@pytest.mark.time_limit(60)
class TestRuntimes:
    def test_each_runtime_has_its_own_metrics(self, serve: Callable[..., Site]) -> None:
        other = Runtime()
        registry = prometheus_client.CollectorRegistry()
        first = serve(plugins=[PLUGIN], metrics_port=0)
        second = serve(plugins=[PLUGIN], metrics_port=0, metrics_registry=registry, runtime=other)

        @other.events.on_event("draw")
        def draw(request: Any, socket: Any, context: Any) -> None:
            pass

        on_message(lambda request, socket, context, message: None)
        ann, bob, eve = first.connect(), second.connect(), second.connect()
        ann.call("message", "hello")
        bob.call("draw")
        eve.call("__subscribe__", "room")
        other.broadcast("hello")
        found = scrape()
        assert found.all("connections_total") == {"/": 1}
        assert found.all("messages_total") == {"message": 1}
        assert found.all("sessions") == {"polling": 0, "websocket": 1}
        assert found.all("sent_messages_total") == {}
        found = scrape(other)
        assert found.all("connections_total") == {"/": 2}
        assert found.all("messages_total") == {"draw": 1}
        assert found.all("sessions") == {"polling": 0, "websocket": 2}
        assert found.all("sent_messages_total") == {"/": 2}
        assert found.all("memberships") == {"/": 1}
        first.server.stop()
        assert metrics.port() is None
        assert scrape(other).all("connections_total") == {"/": 2}

    def test_registry_of_another_runtime_is_rejected(self, serve: Callable[..., Site]) -> None:
        registry = prometheus_client.CollectorRegistry()  # does not detect duplicates itself
        first = serve(plugins=[PLUGIN], metrics_registry=registry)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="SOCKETIO_METRICS_REGISTRY"):
                serve(plugins=[PLUGIN], metrics_registry=registry, runtime=Runtime())
        first.server.stop()
        serve(plugins=[PLUGIN], metrics_registry=registry, runtime=Runtime())


class TestEndpointLimits:
    """The endpoint has the limits and timeouts of the site."""

    @pytest.fixture
    def connect(self, serve: Callable[..., Site]) -> Callable[..., Http]:
        def start(**settings: Any) -> Http:
            serve(plugins=[PLUGIN], metrics_port=0, **settings)
            port = metrics.port()
            assert port is not None
            return Http(port)

        return start

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", b"400"),
            (
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                b"400",
            ),
            (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"H: x\r\n" * 200 + b"\r\n", b"431"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", b"413"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhello", b"408"),
            (
                b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
                b"100 Continue\r\n\r\nHTTP/1.1 408",
            ),
            (b"GET / HTTP/1.1\r\nHo", b"408"),
        ],
    )
    def test_bad_or_slow_request_is_rejected_and_closed(
        self, request_: bytes, status: bytes, connect: Callable[..., Http]
    ) -> None:
        client = connect(header_timeout=0.1, body_timeout=0.1, max_body_size=10)
        client.sock.sendall(request_)
        assert client.read_to_end().startswith(b"HTTP/1.1 " + status)
        assert get(client.port)[0] == 200

    def test_silent_connection_is_closed(self, connect: Callable[..., Http]) -> None:
        assert connect(header_timeout=0.1).read_to_end() == b""

    def test_idle_connection_is_closed(self, connect: Callable[..., Http]) -> None:
        client = connect(idle_timeout=0.1)
        assert client.request("GET", "/metrics")[0] == 200
        assert client.read_to_end() == b""

    def test_connection_beyond_the_limit_waits_until_another_one_closes(
        self, connect: Callable[..., Http]
    ) -> None:
        first = connect()
        assert first.request("GET", "/metrics")[0] == 200
        others = [Http(first.port) for _ in range(MAX_CONNECTIONS - 1)]
        for client in others:
            assert client.request("GET", "/metrics")[0] == 200
        waiting = gevent.spawn(get, first.port)
        for _ in range(20):
            gevent.idle()
        assert not waiting.ready()
        first.sock.close()
        assert waiting.get()[0] == 200


class TestLibrary:
    SERVER = """\
from gevent import monkey; monkey.patch_all()
import json, sys
import web
from webpy_socketio import ConfigurationError, SocketIOServer, socketio_urls
app = web.application(socketio_urls, {}, autoreload=False)
"""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[[str], Any]:
        def run(program: str) -> Any:
            done = run_python("-W", "error", "-c", self.SERVER + program, cwd=tmp_path)
            assert done.status == 0, done.err
            return json.loads(done.out)

        return run

    def test_prometheus_client_is_imported_by_the_plugin_only(
        self, run: Callable[[str], Any]
    ) -> None:
        found = run(
            "SocketIOServer(('127.0.0.1', 0), app.wsgifunc(), plugins=[]).start()\n"
            "import webpy_socketio.plugins.metrics\n"
            "print(json.dumps('prometheus_client' in sys.modules))\n"
        )
        assert found is False

    def test_missing_prometheus_client_raises_error_with_remedy(
        self, run: Callable[[str], Any]
    ) -> None:
        found = run(
            "sys.modules['prometheus_client'] = None\n"
            f"server = SocketIOServer(('127.0.0.1', 0), app.wsgifunc(), plugins=['{PLUGIN}'])\n"
            "try:\n    server.start()\n"
            "except ConfigurationError as error:\n    print(json.dumps(str(error)))\n"
        )
        assert 'pip install "webpy_socketio[metrics]"' in found
        assert "prometheus_client" in found
