"""The loss checker across restarts under load: no message is missing or doubled.

The clients follow a service of two workers that is reloaded as its service manager does it.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from tests.integration.test_gunicorn import WORKER, WSGI, Gunicorn
from tests.integration.test_service import Service
from tests.integration.test_workers import children
from tests.load_clients import raise_descriptor_limit, scaled
from tests.redis_server import RedisServer
from tests.restart_check import SERVICE, Crowd, service_environment
from tests.servers import Served, module_source

pytestmark = [pytest.mark.time_limit(180), pytest.mark.slow, pytest.mark.torture]

#: Number of clients; a full load is that of ``make torture``.
CLIENTS = scaled(1000, 40)


@pytest.fixture
def gather(redis: RedisServer) -> Iterator[Callable[[int], Crowd]]:
    """Return a function that connects the clients to a port."""
    raise_descriptor_limit(4 * CLIENTS + 100)
    crowds: list[Crowd] = []

    def gather(port: int) -> Crowd:
        crowds.append(Crowd(port, redis.url, CLIENTS))
        return crowds[-1]

    yield gather
    for crowd in crowds:
        crowd.close()


def check(crowd: Crowd, log: str) -> None:
    """Check that nothing was lost, and that at least 99 % of the connections were recovered."""
    assert crowd.wrong == []
    assert crowd.losses >= CLIENTS, "some connections were not closed"
    assert crowd.fresh <= crowd.losses // 100, f"{crowd.fresh} of {crowd.losses}; {log}"
    assert "Traceback" not in log


def await_replacement(served: Served, before: set[int]) -> None:
    """Wait until all former workers have ended."""
    while children(served) & before:
        gevent.sleep(0.02)


@pytest.fixture
def workers(redis: RedisServer, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "site_of_ours.py").write_text(module_source(SERVICE), encoding="utf-8")
    command = ["webpy_socketio", "serve", "site_of_ours:application", "--port", "0", "--quiet"]
    served = Served([*command, "--workers", "2"], tmp_path, service_environment(redis.url, CLIENTS))
    try:
        served.ready()
        yield served
    finally:
        served.close()


def test_rolling_restart_loses_and_doubles_nothing(
    workers: Served, gather: Callable[[int], Crowd]
) -> None:
    crowd = gather(workers.port)
    with crowd.following():
        before = children(workers)
        workers.signal(signal.SIGHUP)
        await_replacement(workers, before)
    check(crowd, workers.errors)


def test_reload_by_systemd_loses_no_connection(
    tmp_path: Path, redis: RedisServer, gather: Callable[[int], Crowd]
) -> None:
    """``systemctl reload`` with socket activation, as in the guide to deployment."""
    service = Service(tmp_path, SERVICE)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        try:
            service.start(
                *("--workers", "2"),
                listener=listener,
                LISTEN_FDS="1",
                **service_environment(redis.url, CLIENTS),
            )
            assert service.next() == ["READY=1"]
            crowd = gather(listener.getsockname()[1])
            with crowd.following():
                service.process.send_signal(signal.SIGHUP)  # ExecReload=
                assert service.next()[0] == "RELOADING=1"
                assert service.next() == ["READY=1"]
            check(crowd, (tmp_path / "log").read_text())
            assert crowd.fresh == 0
            service.stop()
        finally:
            service.close()


#: Seconds that new workers of gunicorn take to import the application.
IMPORT_TIMES = [0.0, 5.0]


@pytest.mark.parametrize("import_time", IMPORT_TIMES)
def test_reload_of_gunicorn_loses_and_doubles_nothing(
    tmp_path: Path, redis: RedisServer, gather: Callable[[int], Crowd], import_time: float
) -> None:
    delay = tmp_path / "delay"
    delay.write_text("0.0")
    source = "__import__('time').sleep(float(open('delay').read()))\n" + module_source(SERVICE)
    (tmp_path / "site_of_ours.py").write_text(source + WSGI, encoding="utf-8")
    command = ["gunicorn", "-k", WORKER, "-b", "127.0.0.1:0", "-w", "2"]
    command += ["--graceful-timeout", "120", "site_of_ours:wsgi"]
    env = {"HOME": str(tmp_path), **service_environment(redis.url, CLIENTS)}
    served = Gunicorn(command, tmp_path, env)
    try:
        served.ready()
        while len(children(served)) < 2:
            gevent.sleep(0.02)
        crowd = gather(served.port)
        with crowd.following():
            before = children(served)
            delay.write_text(str(import_time))
            served.signal(signal.SIGHUP)
            await_replacement(served, before)
        check(crowd, served.errors)
    finally:
        served.close()
