"""Collector and HTTP endpoint for Prometheus; the only module that imports prometheus_client."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import prometheus_client
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from webpy_socketio import HTTPServer, Runtime
from webpy_socketio.plugins.metrics.recorder import BUCKETS, Histogram, Recorder

__all__ = ["Collector", "as_text", "default_registry", "serve"]

logger = logging.getLogger("webpy_socketio")

#: Upper bounds in the text format, and the one of the last bucket.
_BOUNDS = [*map(str, BUCKETS), "+Inf"]

_PREFIX = "webpy_socketio_"


def default_registry() -> Any:
    """Return the default registry of the process."""
    return prometheus_client.REGISTRY


def as_text(registry: Any) -> bytes:
    """Return all metrics of a registry in the text format of Prometheus."""
    text: bytes = prometheus_client.generate_latest(registry)
    return text


class Collector:
    """Converts the recorded numbers to metrics when the registry is scraped."""

    def __init__(self, recorder: Recorder, runtime: Runtime) -> None:
        self._recorder = recorder
        self._runtime = runtime

    def collect(self) -> Iterator[Any]:
        """Yield all metric families with their current values."""
        yield from self._gauges()
        yield from self._counters()
        yield self._durations()

    def _gauges(self) -> Iterator[Any]:
        now = self._runtime.get_stats()
        yield _gauge("sessions", "Open Engine.IO sessions.", "transport", now.sessions)
        for name, doc, counts in (
            ("sockets", "Connected sockets.", now.sockets),
            ("channels", "Channels with at least one subscriber.", now.channels),
            ("memberships", "Subscriptions of all channels.", now.memberships),
        ):
            yield _gauge(name, doc, "namespace", self._by_label(counts))
        yield GaugeMetricFamily(
            _PREFIX + "outbox_bytes", "Bytes queued in outboxes.", now.outbox_bytes
        )
        yield _counter(
            "backplane_problems",
            "Messages lost between processes, by kind; see get_stats().backplane.",
            "kind",
            now.backplane,
        )
        if now.backplane_connected is not None:
            yield GaugeMetricFamily(
                _PREFIX + "backplane_connected",
                "Whether Redis is connected (1) or not (0).",
                now.backplane_connected,
            )
        yield GaugeMetricFamily(
            _PREFIX + "suspended_sockets",
            "Sockets that wait for clients that have lost their connections.",
            now.suspended,
        )

    def _by_label(self, counts: Mapping[str, int]) -> Counter[str]:
        """Sum counts of namespaces by their label."""
        sums: Counter[str] = Counter()
        for namespace, count in counts.items():
            sums[self._recorder.labels.label_of_namespace(namespace)] += count
        return sums

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
        yield _counter(
            "suspensions",
            "Connections that were lost and may resume.",
            "namespace",
            recorder.suspensions,
        )
        yield _counter(
            "resumptions", "Connections that have resumed.", "namespace", recorder.resumptions
        )
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


def serve(settings: Any, registry: Any) -> HTTPServer:
    """Start an HTTP server for scrapes only, without pages, sessions and proxies.

    Raises `ListenError` if the address is not available.
    """
    server = HTTPServer.listen(
        settings.metrics_host,
        settings.metrics_port,
        prometheus_client.make_wsgi_app(registry),
        settings,
        purpose="metrics",
        remedy="change SOCKETIO_METRICS_PORT or SOCKETIO_METRICS_HOST: each process needs its own "
        "address",
        log=None,
        error_log=logger,
    )
    server.start()
    return server
