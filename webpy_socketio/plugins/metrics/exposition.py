"""Collector and HTTP endpoint for Prometheus; the only module that imports prometheus_client."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import prometheus_client
from gevent import socket
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from webpy_socketio import HTTPServer, ListenError, get_stats
from webpy_socketio.plugins.metrics.recorder import BUCKETS, Histogram, Recorder

__all__ = ["Collector", "Endpoint", "default_registry"]

logger = logging.getLogger("webpy_socketio")

#: Upper bounds in the text format, and the one of the last bucket.
_BOUNDS = [*map(str, BUCKETS), "+Inf"]

_PREFIX = "webpy_socketio_"


def default_registry() -> Any:
    """Return the default registry of the process."""
    return prometheus_client.REGISTRY


class Collector:
    """Converts the recorded numbers to metrics when the registry is scraped."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def collect(self) -> Iterator[Any]:
        """Yield all metric families with their current values."""
        yield from self._gauges()
        yield from self._counters()
        yield self._durations()

    def _gauges(self) -> Iterator[Any]:
        now = get_stats()
        yield _gauge("sessions", "Open Engine.IO sessions.", "transport", now.sessions)
        yield _gauge("sockets", "Connected sockets.", "namespace", now.sockets)
        yield _gauge(
            "channels", "Channels with at least one subscriber.", "namespace", now.channels
        )
        yield _gauge("memberships", "Subscriptions of all channels.", "namespace", now.memberships)
        yield GaugeMetricFamily(
            _PREFIX + "outbox_bytes", "Bytes queued in outboxes.", now.outbox_bytes
        )
        yield _counter(
            "backplane_problems",
            "Events of webpy_socketio.backplane.counts.",
            "kind",
            now.backplane,
        )

    def _counters(self) -> Iterator[Any]:
        recorder = self._recorder
        yield _counter("connections", "Accepted connections.", "namespace", recorder.connections)
        yield _counter("disconnects", "Ended connections.", "reason", recorder.disconnects)
        messages = CounterMetricFamily(
            _PREFIX + "messages", "Received messages.", labels=("event", "channel")
        )
        for labels, count in list(recorder.messages.items()):
            messages.add_metric(labels, count)
        yield messages
        yield CounterMetricFamily(
            _PREFIX + "received_bytes",
            "Size of received messages: characters of text, bytes of attachments.",
            recorder.received,
        )
        yield _counter(
            "sent_messages", "Sent events, counted for each recipient.", "namespace", recorder.sent
        )
        yield CounterMetricFamily(
            _PREFIX + "sent_bytes", "Size of sent events as WebSocket frames.", recorder.sent_bytes
        )
        yield _counter("subscriptions", "Subscriptions started.", "channel", recorder.subscriptions)
        yield _counter(
            "unsubscriptions", "Subscriptions ended.", "channel", recorder.unsubscriptions
        )
        yield _counter("refused", "Rejections by gates.", "gate", recorder.refused)
        errors = CounterMetricFamily(
            _PREFIX + "errors", "Errors of handlers and clients.", labels=("fault", "exception")
        )
        for labels, count in list(recorder.errors.items()):
            errors.add_metric(labels, count)
        yield errors

    def _durations(self) -> Any:
        family = HistogramMetricFamily(
            _PREFIX + "handler_seconds",
            "Duration of all receivers of a signal, including waits.",
            labels=("stage", "event"),
        )
        for labels, histogram in list(self._recorder.durations.items()):
            family.add_metric(labels, *_buckets_of(histogram))
        return family


def _buckets_of(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    counts = itertools.accumulate(histogram.counts)
    return list(zip(_BOUNDS, counts, strict=True)), histogram.seconds


def _gauge(name: str, text: str, label: str, values: Mapping[str, int]) -> Any:
    return _fill(GaugeMetricFamily(_PREFIX + name, text, labels=(label,)), values)


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> Any:
    return _fill(CounterMetricFamily(_PREFIX + name, text, labels=(label,)), values)


def _fill(family: Any, values: Mapping[str, int]) -> Any:
    items: Iterable[tuple[str, int]] = list(values.items())
    for label, value in items:
        family.add_metric((label,), value)
    return family


class Endpoint:
    """HTTP server for scrapes only, without pages, sessions and proxies.

    Raises `ListenError` if the address is not available.
    """

    def __init__(self, settings: Any, registry: Any) -> None:
        host, port = settings.metrics_host, settings.metrics_port
        try:
            listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
            )
        except OSError as error:
            raise ListenError(
                f"cannot listen for metrics on {host}:{port}: {error.strerror or error}; change "
                "SOCKETIO_METRICS_PORT or SOCKETIO_METRICS_HOST: each process needs its own address"
            ) from error
        show = prometheus_client.make_wsgi_app(registry)
        self._server = HTTPServer(listener, show, settings, log=None, error_log=logger)
        self._server.start()
        #: Port of the listener.
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Close the listener without waiting for pending responses."""
        self._server.stop(timeout=0)
