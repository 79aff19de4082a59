"""Redis for tests: real servers on free ports, without persistence, and Sentinels."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from webpy_socketio import BackplaneError

from .servers import Process, free_port

__all__ = [
    "RedisServer",
    "Sentinels",
    "extend_redis_timeouts",
    "retry_until_reachable",
    "tls_options",
]

#: Seconds that calls wait for Redis in tests (default: 1), as a busy machine may be slow.
LONG_TIMEOUT = 20.0

#: Topic of requests to all servers of a cluster; every server subscribes to it.
SERVERS_TOPIC = "webpy_socketio:1:servers:,"


def extend_redis_timeouts(monkeypatch: pytest.MonkeyPatch, seconds: float = LONG_TIMEOUT) -> None:
    """Increase the timeouts of calls that wait for Redis in this process.

    Where Redis does not reply, call it again with the default of the package, 1 s.
    """
    for where in (
        "adopted_sessions.TIMEOUT",
        "backplane.redis.TIMEOUT",
        "backplane.subscriber.CONFIRM_TIMEOUT",
        "plugins.presence.tracker.TIMEOUT",
        "plugins.history.redis.TIMEOUT",
        "plugins.history.redis.READ_TIMEOUT",
    ):
        monkeypatch.setattr(f"webpy_socketio.{where}", seconds)


def retry_until_reachable(function: Callable[..., Any], *args: Any) -> None:
    """Repeat a call until Redis is reachable."""
    while True:
        try:
            function(*args)
            return
        except BackplaneError:
            time.sleep(0.01)


def find_program() -> str:
    """Return the path of the server program; skip the test without one."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no redis-server on PATH")
    return program


def tls_options(port: int, certificate: Path, key: Path) -> list[str]:
    """Return options of a server that also listens with TLS, without certificates of clients."""
    return [
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-ca-cert-file", str(certificate)),
    ]


class RedisServer:
    """Redis process; keeps its port after a restart.

    `options` are further options of its command line. A password among them is used by `ask`.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        program = find_program()
        self.redis: Any = pytest.importorskip("redis", reason="the library redis is missing")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--save", "", "--appendonly", "no", "--dir", str(folder), *options]
        self._password = dict(itertools.pairwise(options)).get("--requirepass")
        self._log = folder / "redis.log"
        self.process: Process | None = None

    def start(self) -> RedisServer:
        """Start it, and wait until it accepts connections."""
        self.process = Process(self._command, self._log)
        line = ""
        try:
            while "Ready to accept connections" not in line:
                line = self.process.next_line()
        except AssertionError as error:
            if "'tls-" in str(error) or "TLS support" in line:
                pytest.skip("this redis-server was built without TLS")
            raise
        return self

    def keep(self) -> None:
        """Restart it with persistence enabled."""
        self._command[self._command.index("--appendonly") + 1] = "yes"
        self._command += ["--appendfsync", "always"]
        self.stop()
        self.start()

    def stop(self) -> None:
        """Kill it without a shutdown."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def ask(self, *words: Any) -> Any:
        """Execute one command and return the reply."""
        with self.redis.Redis(port=self.port, password=self._password) as client:
            return client.execute_command(*words)

    def wait_for_servers(self, count: int) -> None:
        """Wait until this number of servers receive the requests of their cluster."""
        while self.ask("PUBSUB", "NUMSUB", SERVERS_TOPIC)[1] != count:
            time.sleep(0)

    def topics(self) -> set[str]:
        """Return all topics that have subscribers, except those that every server subscribes to."""
        names = {name.decode() for name in self.ask("PUBSUB", "CHANNELS")}
        return {name for name in names if not re.search(r":1:(servers|node):,", name)}


class Sentinels:
    """A master, a replica, and three Sentinels that elect another master within a second or two.

    All have passwords.
    """

    SERVICE = "main"
    PASSWORD = "sesame"
    SENTINEL_PASSWORD = "open"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports: list[int] = []
        self.servers: list[RedisServer] = []
        self.sentinels: list[Process] = []

    def start(self) -> Sentinels:
        """Start everything, and wait until a failover is possible."""
        for number in range(2):
            folder = self._folder / f"server{number}"
            folder.mkdir()
            options = ["--requirepass", self.PASSWORD, "--masterauth", self.PASSWORD]
            options += ["--repl-diskless-sync-delay", "0"]
            if self.servers:
                options += ["--replicaof", f"127.0.0.1 {self.servers[0].port}"]
            self.servers.append(RedisServer(folder, *options).start())
        replica = self.servers[1]
        self._until(lambda: replica.ask("INFO")["master_link_status"] == "up")
        for number in range(3):
            self._ports.append(free_port())
            file = self._folder / f"sentinel{number}.conf"
            file.write_text(
                f"port {self._ports[-1]}\nbind 127.0.0.1\ndir {self._folder}\n"
                f"requirepass {self.SENTINEL_PASSWORD}\n"
                f"sentinel sentinel-pass {self.SENTINEL_PASSWORD}\n"
                f"sentinel monitor {self.SERVICE} 127.0.0.1 {self.servers[0].port} 2\n"
                f"sentinel auth-pass {self.SERVICE} {self.PASSWORD}\n"
                f"sentinel down-after-milliseconds {self.SERVICE} 1000\n"
                f"sentinel failover-timeout {self.SERVICE} 2000\n"
            )
            command = [find_program(), str(file), "--sentinel"]
            self.sentinels.append(Process(command, self._folder / f"sentinel{number}.log"))
            while "+monitor master" not in self.sentinels[-1].next_line():
                pass
            # By default, Sentinels publish every 2 s and read INFO every 10 s.
            self.ask(number, "SENTINEL", "DEBUG", "PUBLISH-PERIOD", 200, "INFO-PERIOD", 500)
        self.wait_until_healthy()
        return self

    @property
    def url(self) -> str:
        """URL for SOCKETIO_BACKPLANE."""
        return self.url_of(*self._ports)

    def url_of(self, *ports: int, service: str = SERVICE) -> str:
        """Return the URL with Sentinels on these ports."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return (
            f"redis+sentinel://:{self.PASSWORD}@{hosts}/{service}"
            f"?sentinel_password={self.SENTINEL_PASSWORD}"
        )

    @property
    def ports(self) -> list[int]:
        """Ports of the Sentinels."""
        return list(self._ports)

    def master(self) -> RedisServer:
        """Return the server that the Sentinels name as the master, once they agree."""
        while True:
            names = {
                self.ask(number, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.SERVICE)[1]
                for number in range(len(self._ports))
            }
            if len(names) == 1:
                (port,) = names
                (server,) = (each for each in self.servers if each.port == int(port))
                return server
            time.sleep(0.02)

    def wait_until_healthy(self) -> None:
        """Wait until all Sentinels know each other, the master and a connected replica."""
        for number in range(len(self._ports)):
            self._until(lambda number=number: self._is_healthy(number))  # type: ignore[misc]

    def _is_healthy(self, number: int) -> bool:
        master = _fields(self.ask(number, "SENTINEL", "MASTER", self.SERVICE))
        replicas = self.ask(number, "SENTINEL", "REPLICAS", self.SERVICE)
        return (
            master["flags"] == "master"
            and master["num-other-sentinels"] == "2"
            and [(each["flags"], each["master-link-status"]) for each in map(_fields, replicas)]
            == [("slave", "ok")]
        )

    def ask(self, number: int, *words: Any) -> Any:
        """Execute one command of a Sentinel, and return its reply without a conversion."""
        redis = self.servers[0].redis
        connection = redis.Connection(
            port=self._ports[number], password=self.SENTINEL_PASSWORD, protocol=2
        )
        try:
            connection.connect()
            connection.send_command(*words)
            return connection.read_response()
        finally:
            connection.disconnect()

    def stop(self) -> None:
        """Kill everything."""
        for sentinel in self.sentinels:
            sentinel.kill()
        for server in self.servers:
            server.stop()

    @staticmethod
    def _until(condition: Callable[[], Any]) -> None:
        while not condition():
            time.sleep(0.05)


def _fields(flat: list[bytes]) -> dict[str, str]:
    words = [word.decode() for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
