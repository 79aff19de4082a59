"""A real Redis for the tests, on a port of its own, with nothing kept on disk."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from .servers import Process

__all__ = ["RedisServer", "unhurried"]

#: Seconds that are waited for Redis, a second otherwise: a busy machine is not what is tested.
UNHURRIED = 20.0


def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process wait for Redis as long as it takes."""
    for where in (
        "backplane.redis.TIMEOUT",
        "backplane.subscriber.CONFIRM_TIMEOUT",
        "plugins.presence.tracker.TIMEOUT",
    ):
        monkeypatch.setattr(f"webpy_socketio.{where}", UNHURRIED)


class RedisServer:
    """Runs from `start` on; keeps its port when it is started again."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            pytest.skip(
                "there is no redis-server on this machine, and make test found none on PyPI"
            )
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
        """Start, and wait until it can be connected to."""
        self.process = Process(self._command, self._log)
        while "Ready to accept connections" not in self.process.next_line():
            pass
        return self

    def keep(self) -> None:
        """From now on keep all data, whatever happens to it."""
        self._command[self._command.index("--appendonly") + 1] = "yes"
        self._command += ["--appendfsync", "always"]
        self.stop()
        self.start()

    def stop(self) -> None:
        """Kill it, as a machine that fails would."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def ask(self, *words: Any) -> Any:
        """The answer to one command."""
        with self.redis.Redis(port=self.port) as client:
            return client.execute_command(*words)

    def topics(self) -> set[str]:
        """What anybody listens to."""
        return {name.decode() for name in self.ask("PUBSUB", "CHANNELS")}
