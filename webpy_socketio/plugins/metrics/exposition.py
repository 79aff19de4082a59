"""The numbers in prometheus_client's words, and the endpoint that shows them; only this knows it."""

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

#: The bounds as they are written, and the one above all.
_BOUNDS = [*map(str, BUCKETS), "+Inf"]

_PREFIX = "webpy_socketio_"


def default_registry() -> Any:
    """Where everything of a process is, unless somebody wants otherwise."""
    return prometheus_client.REGISTRY


class Collector:
    """What a registry asks at a scrape."""

    def __init__(self, tally: Recorder) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Any]:
        """All families of metrics, as they are now."""
        yield from self._gauges()
        yield from self._counters()
        yield self._durations()

    def _gauges(self) -> Iterator[Any]:
        now = get_stats()
        yield _gauge("sessions", "Engine.IO sessions that are open.", "transport", now.sessions)
        yield _gauge("sockets", "Sockets that are connected.", "namespace", now.sockets)
        yield _gauge("channels", "Channels that somebody is in.", "namespace", now.channels)
        yield _gauge("memberships", "Members of all channels.", "namespace", now.memberships)
        yield GaugeMetricFamily(
            _PREFIX + "outbox_bytes", "Bytes that wait to be written.", now.outbox_bytes
        )
        yield _counter(
            "backplane_problems", "Between processes: see backplane.counts.", "kind", now.backplane
        )

    def _counters(self) -> Iterator[Any]:
        tally = self._tally
        yield _counter("connections", "Accepted.", "namespace", tally.connections)
        yield _counter("disconnects", "Connections that ended.", "reason", tally.disconnects)
        messages = CounterMetricFamily(
            _PREFIX + "messages", "Messages of clients.", labels=("event", "channel")
        )
        for labels, count in list(tally.messages.items()):
            messages.add_metric(labels, count)
        yield messages
        yield CounterMetricFamily(
            _PREFIX + "received_bytes", "Of these messages; of text, characters.", tally.received
        )
        yield _counter(
            "sent_messages", "Events to clients, one for each recipient.", "namespace", tally.sent
        )
        yield CounterMetricFamily(
            _PREFIX + "sent_bytes", "Of these, in WebSocket frames.", tally.sent_bytes
        )
        yield _counter("subscriptions", "Begun.", "channel", tally.subscriptions)
        yield _counter("unsubscriptions", "Ended.", "channel", tally.unsubscriptions)
        yield _counter("refused", "Denied by a gate.", "gate", tally.refused)
        errors = CounterMetricFamily(
            _PREFIX + "errors", "Error events.", labels=("fault", "exception")
        )
        for labels, count in list(tally.errors.items()):
            errors.add_metric(labels, count)
        yield errors

    def _durations(self) -> Any:
        family = HistogramMetricFamily(
            _PREFIX + "handler_seconds",
            "What all receivers of a signal took, waiting included.",
            labels=("stage", "event"),
        )
        for labels, histogram in list(self._tally.durations.items()):
            family.add_metric(labels, *_of(histogram))
        return family


def _of(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
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
    """A server of its own, for Prometheus only: no page, no session and no proxy is in its way.

    Raises `ListenError` if the address cannot be had.
    """

    def __init__(self, settings: Any, registry: Any) -> None:
        host, port = settings.metrics_host, settings.metrics_port
        try:
            listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
            )
        except OSError as error:
            raise ListenError(
                f"cannot show metrics on {host}:{port}: {error.strerror or error}; change "
                "SOCKETIO_METRICS_PORT or SOCKETIO_METRICS_HOST: each process needs an address of its own"
            ) from error
        show = prometheus_client.make_wsgi_app(registry)
        self._server = HTTPServer(listener, show, settings, log=None, error_log=logger)
        self._server.start()
        #: The port it listens on.
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Listen no more; who is being answered is not waited for."""
        self._server.stop(timeout=0)
