"""pytest-xdist: stable test ids, and native locks in a process that gevent has patched.

A worker's main thread runs the tests, and a second thread receives their numbers. gevent's locks
cannot wake the main thread from another thread while no greenlet is waiting for I/O.
"""

from __future__ import annotations

import os
import queue
import re
from typing import Any

import execnet.gateway_base
from gevent import monkey

__all__ = ["escape_surrogates", "stable_id", "use_native_locks"]

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


def stable_id(value: Any) -> str:
    """Return a test id that is the same in every worker: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))


def escape_surrogates(text: str) -> str:
    """Return `text` with lone surrogates written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
