"""Sink: the events of a reporter, sent to other processes in numbered batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import orjson

from webpy_socketio import call_later, monotonic
from webpy_socketio.plugins.admin.reporter import Reporter

__all__ = ["ClusterSink"]

#: Seconds for which events are collected.
DELAY = 0.1

#: Approximate bytes of a batch, as JSON. A message between processes has at most 1,000,000.
MAX_BATCH = 200_000

#: Seconds between two complete lists that other processes request.
RESEND_INTERVAL = 1.0


class ClusterSink:
    """Takes the place of an admin, and sends what it would receive.

    Args:
        process: Id of this process.
        send: Sends a message to all other processes.
    """

    def __init__(self, process: str, send: Callable[..., None]) -> None:
        self._process = process
        self._send = send
        self._numbers = itertools.count()
        self._events: list[list[Any]] = []
        self._bytes = 0
        self._timer: Any = None
        self._next_restart = 0.0

    def emit(self, event: str, *args: Any) -> None:
        """Queue an event."""
        if event == "all_sockets":
            self._put_list(args[0])
        else:
            self._put([event, *args])

    def restart(self, reporter: Reporter) -> None:
        """Send the complete state, for a process that does not know it."""
        if monotonic() >= self._next_restart:
            self._next_restart = monotonic() + RESEND_INTERVAL
            reporter.resend(self)

    def close(self) -> None:
        """Discard queued events."""
        self._events = []
        self._bytes = 0
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _put_list(self, descriptions: list[dict[str, Any]]) -> None:
        """Queue a list in parts."""
        part: list[dict[str, Any]] = []
        size = 0
        self._put(["list_begins"])
        for description in descriptions:
            part.append(description)
            size += len(orjson.dumps(description))
            if size >= MAX_BATCH // 2:
                self._put(["list_part", part])
                part, size = [], 0
        if part:
            self._put(["list_part", part])
        self._put(["list_ends"])

    def _put(self, event: list[Any]) -> None:
        try:
            size = len(orjson.dumps(event))
        except TypeError:  # a value of the application, which would drop the whole batch
            return
        if self._bytes + size > MAX_BATCH:
            self._flush()
        self._events.append(event)
        self._bytes += size
        if self._timer is None:
            self._timer = call_later(DELAY, self._flush)

    def _flush(self) -> None:
        events = self._events
        self.close()
        if events:
            self._send("report", self._process, next(self._numbers), events)
