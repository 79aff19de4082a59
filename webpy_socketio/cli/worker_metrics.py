"""The metrics of all workers at one address, served by the supervisor.

The supervisor imports neither the application nor prometheus_client. Each worker answers with its
metrics in the text format; a label ``worker`` is added to each sample, and samples of the same
metric are put together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gevent

from webpy_socketio.cli.text_format import Families, Family
from webpy_socketio.config.settings import Settings
from webpy_socketio.engine.workers.runtime_folder import STATUS_PREFIX
from webpy_socketio.engine.workers.status_socket import QueryError, query
from webpy_socketio.http_server import HTTPServer

__all__ = ["METRICS_LIMITS", "TIMEOUT", "MetricsEndpoint", "WorkerState"]

logger = logging.getLogger("webpy_socketio.supervisor")

#: Settings of the application that apply to the endpoint as well.
METRICS_LIMITS = (
    *("allowed_hosts", "body_timeout", "header_timeout", "idle_timeout", "write_timeout"),
)

#: Seconds for a worker to answer; it is then left out. Prometheus waits 10 seconds.
TIMEOUT = 2.0

_PREFIX = "webpy_socketio_"

_HEADERS = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")]


class WorkerState:
    """A place for a worker, and its current worker."""

    def __init__(self, slot: int, name: int, is_serving: bool) -> None:
        #: Label of the worker, from 1. A worker that replaces another one has the same.
        self.label = str(slot + 1)
        self.name = name
        self.is_serving = is_serving


class MetricsEndpoint:
    """HTTP server that returns the metrics of all workers and of the supervisor.

    Args:
        settings: Host, port and limits, as reported by a worker.
        folder: The folder with the status sockets of the workers.
        workers: Returns the state of each place for a worker.
        restarts: Number of replaced workers, by reason.

    Raises:
        ListenError: The address is not available.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: str,
        workers: Callable[[], list[WorkerState]],
        restarts: Mapping[str, int],
    ) -> None:
        self._folder = folder
        self._workers = workers
        self._restarts = restarts
        self._began = time.time()
        #: The scrape that runs now; others wait for its result.
        self._scrape: Any = None
        self._server = HTTPServer.listen(
            settings["host"],
            settings["port"],
            self._respond,
            Settings(**settings["limits"]),
            purpose="metrics",
            remedy="change SOCKETIO_METRICS_PORT or SOCKETIO_METRICS_HOST",
            log=None,
            error_log=logger,
        )
        self._server.start()
        #: Address of the listener.
        self.address = self._server.address

    def close(self) -> None:
        """Close the listener without waiting for pending responses."""
        self._server.stop(timeout=0)

    def _respond(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), *_HEADERS])
            return [b""]
        if self._scrape is None:
            self._scrape = gevent.spawn(self._collect)
            self._scrape.rawlink(self._end_scrape)
        text: bytes = self._scrape.get()
        start_response("200 OK", _HEADERS)
        return [text]

    def _end_scrape(self, greenlet: Any) -> None:
        self._scrape = None

    def _collect(self) -> bytes:
        """Return the metrics of all workers; at most `TIMEOUT` seconds."""
        workers = self._workers()
        asked = [
            (worker, gevent.spawn(self._ask, worker)) for worker in workers if worker.is_serving
        ]
        gevent.joinall([greenlet for _, greenlet in asked])
        families = Families()
        up = {worker.label: 0 for worker in workers}
        for worker, greenlet in asked:
            text = greenlet.value
            if text is not None:
                families.add(text, "worker", worker.label)
                up[worker.label] = 1
        for family in self._own(up, sum(worker.is_serving for worker in workers)):
            families.append(family)
        return families.text()

    def _ask(self, worker: WorkerState) -> str | None:
        path = Path(self._folder) / f"{STATUS_PREFIX}{worker.name}"
        try:
            return query(path, "metrics", TIMEOUT).decode("utf-8", "replace")
        except QueryError as error:
            logger.debug("worker %d is left out of the metrics: %s", worker.name, str(error))
            return None

    def _own(self, up: Mapping[str, int], serving: int) -> Iterator[Family]:
        yield Family.of(_PREFIX + "workers", "gauge", "Requested workers.", {(): len(up)})
        yield Family.of(
            _PREFIX + "workers_serving",
            "gauge",
            "Workers that accept connections.",
            {(): serving},
        )
        yield Family.of(
            _PREFIX + "worker_up",
            "gauge",
            "Whether the worker has answered this scrape (1) or is left out (0).",
            {(("worker", label),): value for label, value in up.items()},
        )
        yield Family.of(
            _PREFIX + "worker_restarts_total",
            "counter",
            "Replaced workers: ended on their own, with a blocked event loop, or on request.",
            {(("reason", reason),): count for reason, count in self._restarts.items()},
        )
        yield Family.of(
            _PREFIX + "supervisor_start_time_seconds",
            "gauge",
            "Start of the supervisor, in seconds since the epoch.",
            {(): round(self._began, 3)},
        )
