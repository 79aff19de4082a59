"""Health checks: readiness and liveness, without a session and beside the application."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests import raw
from tests.conftest import Site
from tests.redis_server import RedisServer
from tests.servers import Served, ServerProcess, application_source, module_source
from webpy_socketio.exceptions import SettingsError

Serve = Callable[..., Site]
Answer = tuple[int, dict[str, str]]

READY: Answer = (200, {"status": "ready"})
DRAINING: Answer = (503, {"status": "draining"})
ALIVE: Answer = (200, {"status": "alive"})


def check(port: int, path: str = "/socket.io/health", method: str = "GET") -> Answer:
    """Send a health check on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Cache-Control"] == "no-store"
        return response.status, json.loads(body) if body else {}
    finally:
        connection.close()


def wait_until(port: int, answer: Answer) -> None:
    """Check until the server answers so; the time limit of the test applies."""
    while check(port) != answer:
        gevent.sleep(0.01)


class TestPaths:
    def test_health_without_setting_is_unknown_path(self, site: Site) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        connection.request("GET", "/socket.io/health")
        assert connection.getresponse().status == 404
        connection.close()

    def test_health_answers_readiness_and_liveness(self, serve: Serve) -> None:
        port = serve(health=True).port
        assert check(port) == READY
        assert check(port, "/socket.io/health/live") == ALIVE
        assert check(port, method="HEAD") == (200, {})
        assert check(port, "/socket.io/health?probe=1") == READY

    def test_health_follows_path_prefix(self, serve: Serve) -> None:
        port = serve(health=True, path_prefix="/app").port
        assert check(port, "/app/socket.io/health") == READY

    def test_health_with_post_is_rejected(self, serve: Serve) -> None:
        status, body = check(serve(health=True).port, method="POST")
        assert (status, body) == (405, {"error": "a health check is a GET or HEAD request"})

    def test_health_leaves_other_paths_to_application(self, serve: Serve) -> None:
        class Page:
            def GET(self) -> str:
                return "page"

        site = serve(("/socket.io/healthy", "Page", "/health", "Page"), {"Page": Page}, health=True)
        for path in ("/socket.io/healthy", "/health"):
            connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
            connection.request("GET", path)
            assert connection.getresponse().read() == b"page"
            connection.close()

    @pytest.mark.parametrize("value", ["/health", 1, None])
    def test_health_with_invalid_value_is_rejected(self, serve: Serve, value: Any) -> None:
        with pytest.raises(SettingsError, match=r"health is .* must be True or False"):
            serve(health=value)

    def test_health_keeps_connection_open(self, serve: Serve) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", serve(health=True).port, timeout=10)
        connection.request("GET", "/socket.io/health")
        connection.getresponse().read()
        sock = connection.sock
        connection.request("GET", "/socket.io/health")
        assert json.loads(connection.getresponse().read()) == READY[1]
        assert connection.sock is sock
        connection.close()


class TestLoad:
    def test_health_of_full_server_answers_without_session(self, serve: Serve) -> None:
        site = serve(health=True, max_sessions=1)
        site.connect()
        with pytest.raises(raw.Closed):
            site.connect()
        assert check(site.port) == READY
        assert len(site.server.engine.sessions) == 1

    def test_health_does_not_run_application(self, serve: Serve) -> None:
        site = serve(health=True)
        calls = []
        site.app.add_processor(lambda handler: calls.append(1) or handler())
        assert check(site.port) == READY
        assert calls == []


class TestDraining:
    def test_health_of_stopping_server_reports_draining_before_it_closes(
        self, serve: Serve
    ) -> None:
        site = serve(health=True, drain_delay=60.0)
        client = site.connect()
        stopping = gevent.spawn(site.server.stop)
        wait_until(site.port, DRAINING)
        assert check(site.port, "/socket.io/health/live") == ALIVE
        site.connect()  # still accepted
        client.barrier()
        site.server.force_close()
        stopping.join()
        with pytest.raises(OSError, match="refused"):
            check(site.port)

    def test_kept_connection_reports_draining_without_delay(self, serve: Serve) -> None:
        site = serve(health=True)
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        connection.request("GET", "/socket.io/health")
        connection.getresponse().read()
        site.server.stop()
        connection.request("GET", "/socket.io/health")
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == DRAINING
        assert response.headers["Connection"] == "close"

    @pytest.mark.time_limit(60)
    def test_signals_drain_then_end_delay(self, tmp_path: Path) -> None:
        body = 'OPTIONS = {"health": True, "drain_delay": 600.0, "plugins": []}'
        server = ServerProcess(application_source(body), tmp_path)
        try:
            server.process.popen.send_signal(signal.SIGTERM)
            wait_until(server.port, DRAINING)
            server.process.popen.send_signal(signal.SIGTERM)
            assert server.process.wait() == 0
        finally:
            server.process.kill()

    @pytest.mark.time_limit(60)
    def test_all_workers_report_draining(self, tmp_path: Path, redis: RedisServer) -> None:
        options = {"health": True, "drain_delay": 600.0, "plugins": [], "backplane": redis.url}
        (tmp_path / "site_module.py").write_text(module_source(f"OPTIONS = {options!r}"))
        command = ["webpy_socketio", "serve", "site_module:application", "--port", "0"]
        served = Served([*command, "--workers", "2", "--quiet"], tmp_path)
        served.ready()
        try:
            wait_until(served.port, (200, {"status": "ready", "backplane": "connected"}))
            served.signal(signal.SIGTERM)
            wait_until(served.port, (503, {"status": "draining", "backplane": "connected"}))
            served.signal(signal.SIGTERM)
            assert served.process.wait() == 0
        finally:
            served.close()


class TestBackplane:
    @pytest.mark.time_limit(60)
    def test_unreachable_redis_is_reported_and_server_stays_ready(
        self, serve: Serve, redis: RedisServer
    ) -> None:
        site = serve(health=True, backplane=redis.url)
        wait_until(site.port, (200, {"status": "ready", "backplane": "connected"}))
        redis.stop()
        wait_until(site.port, (200, {"status": "ready", "backplane": "unreachable"}))
        assert check(site.port, "/socket.io/health/live") == ALIVE
        redis.start()
        wait_until(site.port, (200, {"status": "ready", "backplane": "connected"}))
