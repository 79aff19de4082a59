"""Metrics of all workers at one address: real workers, Redis and scrapes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import load_clients
from tests.integration.test_metrics import Scrape, get
from tests.integration.test_workers import children, one_in_each
from tests.redis_server import RedisServer
from tests.servers import Served, module_source

pytestmark = pytest.mark.time_limit(120)

BODY = """
OPTIONS = {
    "backplane": os.environ.get("BACKPLANE"),
    "plugins": ["webpy_socketio.plugins.metrics"],
    "metrics_port": int(os.environ.get("METRICS_PORT", "0")),
    "header_timeout": 1,
    "worker_timeout": None,
    "allowed_hosts": ["127.0.0.1"],
    "drain_time": 0,
}

@on_event("pid")
def pid(request, socket, context):
    return os.getpid()
"""


class Workers(Served):
    """Two workers with metrics."""

    metrics_port = 0

    def ready(self) -> None:
        super().ready()
        line = self.process.wait_for("  metrics: ")
        assert line.startswith("http://127.0.0.1:")  # the loopback interface by default
        self.metrics_port = int(line.rpartition(":")[2].partition("/")[0])

    def scrape(self) -> Scrape:
        status, text = get(self.metrics_port)
        assert status == 200
        return Scrape(text)


def start(folder: Path, redis: RedisServer, **env: str) -> Workers:
    (folder / "site_of_ours.py").write_text(module_source(BODY), encoding="utf-8")
    command = ["webpy_socketio", "serve", "site_of_ours:application", "--port", "0"]
    return Workers([*command, "--quiet", "--workers", "2"], folder, {"BACKPLANE": redis.url, **env})


@pytest.fixture
def workers(shared_redis: RedisServer, tmp_path: Path) -> Iterator[Workers]:
    served = start(tmp_path, shared_redis)
    try:
        served.ready()
        yield served
    finally:
        load_clients.close_all()
        served.close()


def test_metrics_of_all_workers_and_restarts_are_at_one_address(workers: Workers) -> None:
    clients = one_in_each(workers, 2, lambda: load_clients.WebSocket(workers.port))
    found = workers.scrape()
    connected = found["webpy_socketio_connections_total"]
    assert sorted(dict(key)["worker"] for key in connected) == ["1", "2"]
    for name in ("sessions", "messages_total", "handler_seconds_bucket", "outbox_bytes"):
        keys = found[f"webpy_socketio_{name}"]
        assert {dict(key)["worker"] for key in keys} == {"1", "2"}, name
    assert found.of("workers") == found.of("workers_serving") == 2
    assert found.all("worker_up") == {"1": 1, "2": 1}
    assert found.all("worker_restarts_total") == {"ended": 0, "blocked": 0, "requested": 0}
    # The text is valid: the parser rejects repeated and scattered metrics.
    _, text = get(workers.metrics_port)
    families = [family.name for family in text_string_to_metric_families(text)]
    assert len(families) == len(set(families))

    os.kill(next(iter(clients)), signal.SIGKILL)
    workers_found = workers.scrape()
    while workers_found.of("worker_restarts_total", reason="ended") != 1 or (
        workers_found.of("workers_serving") != 2
    ):
        gevent.sleep(0.05)
        workers_found = workers.scrape()
    workers.signal(signal.SIGHUP)
    while not workers.scrape().of("worker_restarts_total", reason="requested"):
        gevent.sleep(0.05)
    assert workers.scrape().of("workers") == 2


def test_worker_that_does_not_answer_is_left_out(workers: Workers) -> None:
    stopped = min(children(workers))
    os.kill(stopped, signal.SIGSTOP)
    try:
        found = workers.scrape()  # within the timeout for a worker
        assert sorted(found.all("worker_up").values()) == [0, 1]
        (up,) = (key for key, value in found.all("worker_up").items() if value)
        for name in ("sessions", "outbox_bytes"):
            keys = found[f"webpy_socketio_{name}"]
            assert {dict(key)["worker"] for key in keys} == {up}
    finally:
        os.kill(stopped, signal.SIGCONT)
    while set(workers.scrape().all("worker_up").values()) != {1}:
        gevent.sleep(0.05)


def test_slow_and_invalid_clients_do_not_hold_the_endpoint(workers: Workers) -> None:
    with socket.create_connection(("127.0.0.1", workers.metrics_port)) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n")  # and nothing more
        assert workers.scrape().of("workers") == 2
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")  # after SOCKETIO_HEADER_TIMEOUT
        while slow.recv(100):
            pass
    with socket.create_connection(("127.0.0.1", workers.metrics_port)) as other:
        other.sendall(b"POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 405 ")
    with socket.create_connection(("127.0.0.1", workers.metrics_port)) as other:
        # The settings of the application apply: SOCKETIO_ALLOWED_HOSTS, SOCKETIO_HEADER_TIMEOUT.
        other.sendall(b"GET /metrics HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 400 ")


def test_used_address_of_the_metrics_ends_the_supervisor(
    shared_redis: RedisServer, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        served = start(tmp_path, shared_redis, METRICS_PORT=str(port))
        assert served.process.wait() == 1
        assert f"cannot listen for metrics on 127.0.0.1:{port}" in served.errors
        assert "SOCKETIO_METRICS_PORT" in served.errors


def test_supervisor_does_not_import_prometheus_client() -> None:
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, webpy_socketio.cli.supervisor\n"
        "sys.exit('prometheus_client' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
