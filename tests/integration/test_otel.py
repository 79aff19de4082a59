"""Traces of the plugin ``otel``, read from the in-memory exporter of OpenTelemetry's SDK."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests import raw
from tests.commands import run_python
from tests.conftest import Site, socket_of
from tests.snippets import DOCS, Page
from webpy_socketio import (
    Refused,
    on_connecting,
    on_event,
    on_message,
    on_receiving,
    on_subscribe,
    on_subscribing,
)
from webpy_socketio.exceptions import SettingsError
from webpy_socketio.plugins import otel
from webpy_socketio.runtime import default_runtime

PLUGIN = "webpy_socketio.plugins.otel"

#: Of the specification of W3C Trace Context.
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


class Traced:
    """A server whose spans are exported to memory."""

    def __init__(self, serve: Callable[..., Site], provider: TracerProvider) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = provider
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.site = serve(plugins=[PLUGIN], otel_tracer_provider=self.provider)

    def spans(self, name: str) -> list[Any]:
        """Return the finished spans of a name."""
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> Any:
        """Return the only finished span of a name."""
        names = [span.name for span in self.exporter.get_finished_spans()]
        assert names.count(name) == 1, names
        return self.spans(name)[0]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """A provider of the SDK without its functions for child processes, see `tests.conftest`."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "register_at_fork", lambda **functions: None)
        return TracerProvider(shutdown_on_exit=False)


@pytest.fixture
def traced(serve: Callable[..., Site], provider: TracerProvider) -> Traced:
    return Traced(serve, provider)


def subscribe(client: raw.WebSocket, channel: str) -> Any:
    return client.call("__subscribe__", channel)


class TestMessages:
    def test_message_is_span_linked_to_handshake(self, traced: Traced) -> None:
        @on_message
        def receive(request: Any, socket: Any, context: Any, message: Any) -> None: ...

        client = traced.site.connect(traceparent=TRACEPARENT)
        client.emit_and_wait("message", "hello")
        connect, message = traced.span("connect /"), traced.span("process message")
        assert f"{connect.context.trace_id:032x}" == TRACE
        assert f"{connect.parent.span_id:016x}" == SPAN
        assert connect.kind is trace.SpanKind.SERVER
        assert message.parent is None
        assert f"{message.context.trace_id:032x}" != TRACE
        (link,) = message.links
        assert f"{link.context.trace_id:032x}" == TRACE
        assert f"{link.context.span_id:016x}" == SPAN
        assert message.kind is trace.SpanKind.CONSUMER
        assert message.status.is_ok

    def test_message_without_traceparent_is_linked_to_connection(self, traced: Traced) -> None:
        client = traced.site.connect()
        client.emit_and_wait("message", "hello")
        (link,) = traced.span("process message").links
        assert link.context == traced.span("connect /").context

    @pytest.mark.parametrize("header", ["", "00-0-0-00", "x" * 3000, "00-" + "g" * 60])
    def test_invalid_traceparent_is_ignored(self, traced: Traced, header: str) -> None:
        traced.site.connect(traceparent=header).emit_and_wait("message", "hello")
        assert traced.span("connect /").parent is None

    def test_channel_is_named_by_pattern_and_never_by_name(self, traced: Traced) -> None:
        @on_message(channel="^room-")
        def receive(request: Any, socket: Any, context: Any, message: Any) -> None: ...

        client = traced.site.connect()
        for channel in ("room-secret", "unknown-secret"):
            assert subscribe(client, channel) == [{"ok": True}]
            client.emit_and_wait("__channel__", channel, "hello")
        client.emit_and_wait("event-secret")
        span = traced.span("process ^room-")
        assert span.attributes["messaging.destination.template"] == "^room-"
        assert span.attributes["webpy_socketio.event"] == "message"
        assert span.attributes["messaging.message.body.size"] > 0
        assert traced.spans("subscribe ^room-")
        assert len(traced.spans("process other")) == 2
        exported = "".join(span.to_json() for span in traced.exporter.get_finished_spans())
        assert "secret" not in exported

    def test_span_is_current_in_handler(self, traced: Traced) -> None:
        @on_event("query")
        def query(request: Any, socket: Any, context: Any) -> None:
            with traced.provider.get_tracer("library").start_as_current_span("SELECT"):
                pass

        client = traced.site.connect()
        assert client.call("query") == []
        assert traced.span("SELECT").parent == traced.span("process query").context

    def test_span_is_not_current_after_handlers(self, traced: Traced) -> None:
        go = gevent.event.Event()
        current = []

        @on_receiving
        def gate(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            current.append(trace.get_current_span().get_span_context().is_valid)

        @on_event("wait")
        def wait(request: Any, socket: Any, context: Any) -> None:
            go.wait()

        client = traced.site.connect()
        for _ in range(3):
            client.emit("wait")
        socket = socket_of(client)
        while len(socket._connection.inbox) < 2:  # handled by one greenlet
            gevent.sleep(0)
        go.set()
        client.barrier()
        assert current == [False] * 3

    def test_subscription_by_handler_is_child_of_its_message(self, traced: Traced) -> None:
        @on_event("join")
        def join(request: Any, socket: Any, context: Any) -> None:
            socket.subscribe("room-1")

        @on_subscribe(channel="^room-")
        def joined(request: Any, socket: Any, context: Any, channel: str) -> None: ...

        traced.site.connect().call("join")
        assert traced.span("subscribe ^room-").parent == traced.span("process join").context

    def test_failed_handler_is_recorded(
        self, traced: Traced, caplog: pytest.LogCaptureFixture
    ) -> None:
        @on_event("fail")
        def fail(request: Any, socket: Any, context: Any) -> None:
            raise ValueError("no")

        traced.site.connect().call("fail")
        span = traced.span("process fail")
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.attributes["error.type"] == "ValueError"
        (event,) = span.events
        assert event.attributes["exception.message"] == "no"

    def test_rejections_are_spans(self, traced: Traced) -> None:
        @on_connecting
        def connecting(request: Any, socket: Any, context: Any) -> None:
            if "HTTP_X_BAD" in request:
                raise Refused("members only")

        @on_receiving
        def receiving(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            raise Refused("muted")

        @on_subscribing(channel="^room-")
        def subscribing(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("full")

        client = traced.site.connect()
        client.call("message", "hello")
        subscribe(client, "room-1")
        other = traced.site.websocket(traceparent=TRACEPARENT, **{"X-Bad": "1"})
        other.send("40")
        other.receive()
        for name, reason in (
            ("connecting /", "members only"),
            ("process message", "muted"),
            ("subscribe ^room-", "full"),
        ):
            span = traced.span(name)
            assert span.attributes["webpy_socketio.rejected"] == reason
            assert span.status.status_code is trace.StatusCode.ERROR
            assert span.start_time <= span.end_time
        assert f"{traced.span('connecting /').context.trace_id:032x}" == TRACE

    def test_request_id_is_attribute(self, traced: Traced) -> None:
        client = traced.site.connect(**{"X-Request-ID": "abc-1"})
        client.emit_and_wait("message", "hello")
        for name in ("connect /", "process message"):
            assert traced.span(name).attributes["webpy_socketio.request_id"] == "abc-1"


#: A message through the plugin, with the modules of the guide.
PROGRAM = """
from gevent import monkey; monkey.patch_all()
import settings, traces, web, webpy_socketio
from webpy_socketio.testing import TestServer
app = web.application(webpy_socketio.socketio_urls, {}, autoreload=False)
with TestServer(app, plugins=settings.SOCKETIO_PLUGINS) as server:
    server.connect().send("hello")
traces.provider.shutdown()
"""


class TestGuide:
    @pytest.mark.time_limit(60)
    def test_modules_of_guide_export_spans(self, tmp_path: Path) -> None:
        Page.read(DOCS / "how-to" / "tracing.rst").write_files(tmp_path)
        done = run_python("-c", PROGRAM, cwd=tmp_path)
        assert done.status == 0, done.err
        assert re.findall(r'"name": "(.+)"', done.out) == ["connect /", "process message"]
        assert '"service.name": "chat"' in done.out


class TestPlugin:
    def test_nothing_remains_after_connections(self, traced: Traced) -> None:
        client = traced.site.connect()
        client.emit_and_wait("message", "hello")
        tracer = otel._installed[default_runtime]
        assert len(tracer._origins) == 1
        traced.site.server.stop()
        assert tracer._origins == tracer._active == {}
        assert otel._installed == {}

    def test_handler_continues_when_exporter_fails(
        self, traced: Traced, caplog: pytest.LogCaptureFixture
    ) -> None:
        def export(spans: Any) -> Any:
            raise ConnectionError("no collector")

        traced.exporter.export = export  # type: ignore[method-assign]

        @on_event("ping")
        def answer(request: Any, socket: Any, context: Any) -> str:
            return "pong"

        assert traced.site.connect().call("ping") == ["pong"]

    def test_api_without_sdk_traces_nothing(self, serve: Callable[..., Site]) -> None:
        client = serve(plugins=[PLUGIN]).connect(traceparent=TRACEPARENT)
        client.emit_and_wait("message", "hello")

    def test_invalid_provider_is_rejected(self, serve: Callable[..., Site]) -> None:
        with pytest.raises(SettingsError, match="a TracerProvider of OpenTelemetry"):
            serve(plugins=[PLUGIN], otel_tracer_provider=TracerProvider)

    @pytest.mark.time_limit(60)
    def test_missing_opentelemetry_raises_error_with_remedy(self, tmp_path: Path) -> None:
        program = (
            "from gevent import monkey; monkey.patch_all()\n"
            "import sys; sys.modules['opentelemetry'] = None\n"
            "import webpy_socketio\n"
            "from webpy_socketio.plugins import otel\n"
            "otel.install(None, webpy_socketio.default_runtime)\n"
        )
        done = run_python("-c", program, cwd=tmp_path)
        assert 'pip install "webpy_socketio[otel]"' in done.err
