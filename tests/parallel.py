"""pytest-xdist: order of tests, stable ids, builds shared by all workers, and native locks.

A worker's main thread runs the tests, and a second thread receives their numbers. gevent's locks
cannot wake the main thread from another thread while no greenlet is waiting for I/O.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import queue
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import execnet.gateway_base
import pytest
from gevent import monkey

__all__ = ["build_once", "escape_surrogates", "order_tests", "stable_id", "use_native_locks"]

_SimpleQueue: Any = monkey.get_original("queue", "SimpleQueue")
_RLock: Any = monkey.get_original("_thread", "RLock")


class _Event:
    """The part of `threading.Event` that pytest-xdist uses; `wait` may return early."""

    def __init__(self) -> None:
        self._tokens = _SimpleQueue()

    def set(self) -> None:
        self._tokens.put(None)

    def clear(self) -> None:
        """Do nothing: the caller of `wait` checks its condition again."""

    def wait(self, timeout: float | None = None) -> bool:
        try:
            self._tokens.get(timeout=timeout)
        except queue.Empty:
            return False
        return True


def use_native_locks() -> None:
    """Make execnet create native locks in a worker; call it after gevent has patched."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    model: Any = execnet.gateway_base.MainThreadOnlyExecModel
    model.Event = lambda self: _Event()
    model.RLock = lambda self: _RLock()


def order_tests(
    items: Iterable[pytest.Item],
    workers: int,
    name: Callable[[pytest.Item], str],
    durations: Mapping[str, float],
) -> list[pytest.Item]:
    """Order tests so that each worker starts with long groups, and short tests fill its share.

    The workers receive equal numbers of consecutive tests. Idle workers take tests from the ends of
    other shares, so that the run does not end with long tests, and few groups are divided.

    Args:
        items: All tests, in the same order in all workers.
        workers: Number of workers.
        name: Returns the group of a test.
        durations: Seconds of the long groups. All other tests are short.
    """
    groups: dict[str, list[pytest.Item]] = {group: [] for group in durations}
    short = []
    for item in items:
        groups.get(name(item), short).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(workers)]
    loads = [0.0] * workers
    for group in sorted(groups, key=lambda group: -durations[group]):
        if groups[group]:
            least = loads.index(min(loads))
            shares[least] += groups[group]
            loads[least] += durations[group]
    total = len(short) + sum(map(len, shares))
    rest = iter(short)
    ordered: list[pytest.Item] = []
    for number, share in enumerate(shares, 1):
        ordered += share
        ordered += itertools.islice(rest, max(0, total * number // workers - len(ordered)))
    return ordered


def build_once(paths: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder of the whole run, which the first worker that needs it has built.

    Other workers wait meanwhile. ``build`` receives the folder, which is empty.
    """
    run = paths.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent
    folder, complete = run / name, run / f"{name}.complete"
    with (run / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            complete.touch()
    return folder


def stable_id(value: Any) -> str:
    """Return a test id that is the same in every worker: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))


def escape_surrogates(text: str) -> str:
    """Return `text` with lone surrogates written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
