"""One flush a turn: what is sent in one turn of the event loop is written together at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Flushable", "Flusher"]

logger = logging.getLogger(__name__)


class Flushable(Protocol):
    """What has something to write: an outbox."""

    def flush(self) -> None:
        """Write it. Called on the hub: must not wait."""


class Flusher:
    """Flushes, once, everything that is `dirty` when all that runs in this turn has run."""

    __slots__ = ("_loop", "dirty")

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        #: What is to be flushed at the end of the turn. Whoever appends the first one calls `wake`;
        #: `add` does both.
        self.dirty: list[Flushable] = []

    def add(self, flushable: Flushable) -> None:
        """Have `flushable` flushed at the end of the turn."""
        if not self.dirty:
            self.wake()
        self.dirty.append(flushable)

    def wake(self) -> None:
        """See to it that the turn ends with a flush."""
        # Callbacks run in the order they were asked for: greenlets that are ready now run, and
        # send, before this one does.
        self._loop.run_callback(self._run)

    def later(self, function: Callable[[], None]) -> None:
        """Have `function` called on the hub, behind all that is asked for already."""
        self._loop.run_callback(function)

    def _run(self) -> None:
        dirty, self.dirty = self.dirty, []
        for flushable in dirty:
            try:
                flushable.flush()
            except Exception:  # one connection's trouble is not to reach the others
                logger.exception("a flush failed")
