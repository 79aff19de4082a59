"""Fixtures of several modules: Redis, gaps between processes, and the built documentation."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Journal
from tests.parallel import build_once
from tests.redis_server import RedisServer, extend_redis_timeouts
from tests.snippets import DOCS, ROOT
from webpy_socketio import signals


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Yield a Redis that belongs to one test."""
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Yield a Redis that all tests of a module share."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def long_redis_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Increase the timeouts of calls that wait for Redis in this process."""
    extend_redis_timeouts(monkeypatch)


@pytest.fixture
def gaps() -> Iterator[Journal]:
    """Record the number of missed messages of each gap signalled in this process."""
    journal = Journal()

    def record_gap(sender: Any, missed: int | None, **extra: Any) -> None:
        journal.append(missed)

    signals.gap.connect(record_gap)
    yield journal
    signals.gap.disconnect(record_gap)


@pytest.fixture(scope="session")
def built_docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation as ``make docs`` does, and return the folder."""
    return build_once(tmp_path_factory, "docs", build_docs)


def build_docs(folder: Path) -> None:
    command = ["-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [sys.executable, *command, "-d", str(folder / "trees"), str(DOCS), str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.fixture(scope="session")
def described(built_docs: Path) -> set[str]:
    """Return the qualified names that the reference describes."""
    inventory = (built_docs / "html" / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    return {
        line.split(" ")[0] for line in lines if line.split(" ")[1].startswith(("py:", "std:se"))
    }
