"""``serve`` under a service manager: passed sockets, readiness, watchdog and reload.

The tests play the part of systemd: they pass a real listening socket as descriptor 3, and read the
notifications from a real datagram socket.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.redis_server import RedisServer
from tests.servers import module_source

pytestmark = pytest.mark.time_limit(120)

BODY = """
OPTIONS = {"plugins": [], "backplane": os.environ.get("REDIS")}
urls = ("/", "Page")

class Page:
    def GET(self):
        return f"{os.getpid()} {sorted(name for name in os.environ if name in NAMES)}"

NAMES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC")
"""

#: Sets LISTEN_PID to the pid that the program will have, as systemd does.
LAUNCHER = """
import os, sys
descriptor = int(sys.argv[1])
if descriptor >= 0:
    os.dup2(descriptor, 3, inheritable=True)
if "LISTEN_FDS" in os.environ:
    os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "webpy_socketio", *sys.argv[2:]])
"""


class Service:
    """The command, and what it sends to the service manager."""

    def __init__(self, folder: Path, body: str = BODY) -> None:
        (folder / "site_module.py").write_text(module_source(body))
        self.folder = folder
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        self.notified.settimeout(100)
        self.process: Any = None

    def start(self, *words: str, listener: socket.socket | None = None, **env: str) -> None:
        descriptor = -1 if listener is None else listener.fileno()
        command = [sys.executable, "-c", LAUNCHER, str(descriptor), "serve"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "site_module:application", "--quiet", *words],
                cwd=self.folder,
                env={**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify"), **env},
                pass_fds=[] if listener is None else [descriptor],
                stderr=log,
                stdout=subprocess.PIPE,
                text=True,
            )

    def next(self) -> list[str]:
        """Return the lines of the next notification, heartbeats left out."""
        while (text := self.notified.recv(4096).decode()) == "WATCHDOG=1":
            pass
        return text.split("\n")

    def end(self) -> str:
        """Wait until the command has ended with an error, and return the error."""
        self.process.wait()
        assert self.process.returncode == 1
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.next() == ["STOPPING=1"]
        assert self.process.wait() == 0
        assert (self.folder / "log").read_text() == ""

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
        self.notified.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def fetch(listener: socket.socket) -> list[str]:
    """Return the pid and the variables of the service manager in the process that answers."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with urllib.request.urlopen(url) as response:
        pid, _, names = response.read().decode().partition(" ")
        return [pid, names]


class TestSocketActivation:
    def test_passed_socket_is_served(self, service: Service, listener: socket.socket) -> None:
        service.start(listener=listener, LISTEN_FDS="1", LISTEN_FDNAMES="chat.socket")
        # As at activation on demand: the request waits in the backlog until the server runs.
        pid, names = fetch(listener)
        assert int(pid) == service.process.pid
        assert names == "[]"
        assert service.next() == ["READY=1"]
        assert listener.getsockname()[1] == int(
            service.process.stdout.readline().rpartition(":")[2].strip("/\n")
        )
        service.stop()

    def test_workers_share_passed_socket(
        self, service: Service, listener: socket.socket, redis: RedisServer
    ) -> None:
        words = ["--workers", "2"]
        service.start(*words, listener=listener, LISTEN_FDS="1", REDIS=redis.url)
        assert service.next() == ["READY=1"]
        pid, names = fetch(listener)
        assert int(pid) != service.process.pid
        assert names == "[]"
        service.stop()

    def test_unix_socket_is_served(self, service: Service, tmp_path: Path) -> None:
        path = str(tmp_path / "chat.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            service.start(listener=listener, LISTEN_FDS="1")
            assert service.next() == ["READY=1"]
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
            assert f"unix:{path}" in service.process.stdout.readline()
            service.stop()

    def test_socket_of_another_process_is_ignored(
        self, service: Service, listener: socket.socket
    ) -> None:
        words = ["--port", "0"]
        service.start(*words, listener=listener, LISTEN_FDS="1", LISTEN_PID="1")
        assert service.next() == ["READY=1"]
        assert f":{listener.getsockname()[1]}/" not in service.process.stdout.readline()
        service.stop()

    def test_two_sockets_are_rejected(self, service: Service, listener: socket.socket) -> None:
        service.start(listener=listener, LISTEN_FDS="2")
        assert "systemd has passed 2 sockets, and one is supported" in service.end()

    def test_connected_socket_is_rejected(self, service: Service) -> None:
        one, other = socket.socketpair()
        with one, other:
            service.start(listener=one, LISTEN_FDS="1")
            assert "does not listen for connections: use ListenStream=" in service.end()

    def test_descriptor_without_socket_is_rejected(self, service: Service, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w") as file:
            listener: Any = file
            service.start(listener=listener, LISTEN_FDS="1")
            assert "descriptor 3 is not a socket" in service.end()

    def test_port_beside_passed_socket_is_rejected(
        self, service: Service, listener: socket.socket
    ) -> None:
        service.start("--port", "8000", listener=listener, LISTEN_FDS="1")
        assert "so --host and --port have no effect" in service.end()


class TestNotifications:
    def test_heartbeats_are_sent_while_event_loop_runs(self, service: Service) -> None:
        service.start("--port", "0", WATCHDOG_USEC="200000")
        assert service.next() == ["READY=1"]
        for _ in range(3):
            assert service.notified.recv(4096) == b"WATCHDOG=1"
        service.stop()

    def test_no_heartbeat_is_sent_for_another_process(self, service: Service) -> None:
        service.start("--port", "0", WATCHDOG_USEC="1000", WATCHDOG_PID="1")
        assert service.next() == ["READY=1"]
        service.process.send_signal(signal.SIGTERM)
        assert service.notified.recv(4096) == b"STOPPING=1"

    def test_reload_of_workers_is_reported(
        self, service: Service, listener: socket.socket, redis: RedisServer
    ) -> None:
        words = ["--workers", "2"]
        service.start(*words, listener=listener, LISTEN_FDS="1", REDIS=redis.url)
        assert service.next() == ["READY=1"]
        before, _ = fetch(listener)
        service.process.send_signal(signal.SIGHUP)
        state, clock = service.next()
        assert state == "RELOADING=1"
        assert int(clock.removeprefix("MONOTONIC_USEC=")) > 0
        assert service.next() == ["READY=1"]
        assert fetch(listener)[0] != before
        service.stop()

    def test_failed_start_is_not_ready(self, service: Service, tmp_path: Path) -> None:
        (tmp_path / "site_module.py").write_text("raise ValueError('broken')\n")
        service.start("--port", "0")
        assert "broken" in service.end()
        service.notified.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.notified.recv(4096)

    def test_missing_notify_socket_is_logged(self, service: Service, tmp_path: Path) -> None:
        service.start("--port", "0", NOTIFY_SOCKET=str(tmp_path / "missing"))
        assert "Serving" in service.process.stdout.readline()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait() == 0
        log = (tmp_path / "log").read_text()
        assert "systemd cannot be notified at" in log
        assert "check NOTIFY_SOCKET" in log

    def test_abstract_notify_socket_is_used(self, service: Service) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(f"\0webpy-socketio-test-{os.getpid()}")
            sock.settimeout(100)
            service.start("--port", "0", NOTIFY_SOCKET=f"@webpy-socketio-test-{os.getpid()}")
            assert sock.recv(4096) == b"READY=1"
