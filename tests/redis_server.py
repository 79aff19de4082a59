"""Redis server for tests: a real process on a free port, without persistence."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from .servers import Process

__all__ = ["RedisServer", "extend_redis_timeouts"]

#: Seconds that calls wait for Redis in tests (default: 1), as a busy machine may be slow.
LONG_TIMEOUT = 20.0


def extend_redis_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Increase the timeouts of calls that wait for Redis in this process."""
    for where in (
        "backplane.redis.TIMEOUT",
        "backplane.subscriber.CONFIRM_TIMEOUT",
        "plugins.presence.tracker.TIMEOUT",
    ):
        monkeypatch.setattr(f"webpy_socketio.{where}", LONG_TIMEOUT)


class RedisServer:
    """Redis process; keeps its port after a restart."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            pytest.skip("no redis-server on PATH")
        self.redis: Any = pytest.importorskip("redis", reason="the library redis is missing")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._log = folder / "redis.log"
        self.process: Process | None = None

    def start(self) -> RedisServer:
        """Start it, and wait until it accepts connections."""
        self.process = Process(self._command, self._log)
        while "Ready to accept connections" not in self.process.next_line():
            pass
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
        with self.redis.Redis(port=self.port) as client:
            return client.execute_command(*words)

    def topics(self) -> set[str]:
        """Return all topics that have subscribers."""
        return {name.decode() for name in self.ask("PUBSUB", "CHANNELS")}
