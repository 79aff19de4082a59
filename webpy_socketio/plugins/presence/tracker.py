"""Tracker: this process as a node in Redis, with a lease, a task queue and the sweep."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gevent
import gevent.event

from webpy_socketio import BackplaneError, Outage, WrongContext
from webpy_socketio.plugins.presence.connector import Connector
from webpy_socketio.plugins.presence.periodic import Intervals, PeriodicTask
from webpy_socketio.plugins.presence.scripts import (
    Answer,
    Call,
    Names,
    load_commands,
    parse_changes,
    run_call,
    unwrap_result,
)
from webpy_socketio.plugins.presence.store import Change

__all__ = ["Owner", "Task", "Tracker", "parse_info"]

logger = logging.getLogger("webpy_socketio")

#: Seconds that a caller waits for Redis; and seconds without a byte after which it is unreachable.
TIMEOUT = 1.0
READ_TIMEOUT = 5.0

#: Maximum number of tasks queued during an outage. Beyond it all are dropped, and the next
#: comparison finds the differences.
MAX_WAITING = 16_384

#: Tasks sent at once, and connections of a dead node that one script call takes over.
BATCH = 128
BATCH_SIZE = 100


@dataclass(slots=True)
class Task:
    """A queued script call."""

    kind: Literal["join", "leave", "read"]
    #: Returns the call for a node id, which may change while the task is queued.
    call: Callable[[str], Call]
    done: Callable[[Answer], None]
    #: Set for a caller that waits for the result.
    waiting: gevent.event.AsyncResult | None = None


class Owner(Protocol):
    """The store that uses a tracker."""

    def join_tasks(self) -> Iterable[Task]:
        """Return tasks that join all connections of this process again."""

    def on_connected(self) -> None:
        """Handle the first connection to Redis."""

    def on_rejoined(self) -> None:
        """Handle a restart of Redis, which may have lost data."""

    def reconcile(self, redis: Any, node: str) -> None:
        """Compare the entries in Redis with local presence, and queue corrections."""

    def on_local_change(self, changes: list[Change]) -> None:
        """Handle changes made by this process."""


class Tracker:
    """Executes tasks in order, with one connection and one greenlet; for the hub's thread only."""

    def __init__(
        self, url: str, names: Names, intervals: Intervals, grace: float, owner: Owner
    ) -> None:
        #: Node id: new for each start and after each lost lease, as a fencing token.
        self.id = _new_id()
        #: Reason why calls fail; None while connected.
        self.error: BackplaneError | None = BackplaneError("Redis has not replied yet")
        self._attempted = gevent.event.Event()
        self._connector = Connector(url, READ_TIMEOUT)
        self._names = names
        self._intervals = intervals
        self._grace = grace
        self._owner = owner
        self._outage = Outage("changes of presence in this process are queued")
        self._registered = False
        self._run_id = ""
        self._cold = 0.0
        self._life: bytes | None = None
        self._tasks: deque[Task] = deque()
        self._wake = gevent.event.Event()
        self._stopping = False
        self._renewal = PeriodicTask(lambda: intervals.heartbeat, self._renew)
        self._sweeping = PeriodicTask(self._pause, self._sweep)
        self._comparing = PeriodicTask(lambda: intervals.reconcile, self._compare)
        self._periodic_tasks = (self._renewal, self._sweeping, self._comparing)
        self._greenlet = gevent.spawn(self._run)

    def put(self, task: Task) -> None:
        """Queue a task."""
        if len(self._tasks) >= MAX_WAITING:
            logger.warning(
                "presence: the task queue is full; all entries are compared after the outage"
            )
            self._fail_waiting(BackplaneError("the task queue of presence is full"))
            self._tasks.clear()
            self._comparing.due = 0.0
        self._tasks.append(task)
        self._wake.set()

    def fetch(self, call: Call) -> Answer:
        """Execute a call after all queued tasks, and return its result; blocks.

        Raises:
            BackplaneError: Redis did not reply within a second.
        """
        if gevent.getcurrent() is gevent.get_hub():
            raise WrongContext(
                "presence is read from Redis: call this from a greenlet, not from the hub"
            )
        self._attempted.wait(TIMEOUT)
        if self.error is not None:
            raise self.error
        waiting = gevent.event.AsyncResult()
        self.put(Task("read", lambda node: call, waiting.set, waiting))
        try:
            return waiting.get(timeout=TIMEOUT)
        except gevent.Timeout:
            raise BackplaneError(f"Redis did not reply within {TIMEOUT} s") from None

    def compare_soon(self) -> None:
        """Schedule a comparison within one heartbeat, as a value in Redis was damaged."""
        due = time.monotonic() + self._intervals.heartbeat
        self._comparing.due = min(self._comparing.due, due)
        self._wake.set()

    def stop(self) -> None:
        """Execute queued tasks for at most one second, and end the lease."""
        self._stopping = True
        self._wake.set()
        self._greenlet.join(TIMEOUT)
        self._connector.end(self._greenlet)

    # -- connection

    def _run(self) -> None:
        while True:
            redis = None
            try:
                redis = self._connector.open()
                self._begin(redis)
                self.error = None
                self._attempted.set()
                self._outage.end(
                    redis.address, f"{len(self._tasks)} changes of presence were queued"
                )
                self._serve(redis)
                return
            except BackplaneError as error:
                self._outage.begin(error)
                self.error = error
                self._fail_waiting(error)
            except Exception as error:  # a bug must not stop presence
                logger.exception("updating presence in Redis failed; it reconnects")
                self.error = BackplaneError(f"updating presence in Redis failed: {error}")
                self._fail_waiting(self.error)
            finally:
                if redis is not None:
                    redis.close()
            self._attempted.set()
            if self._stopping:
                return
            gevent.sleep(self._pause())

    def _begin(self, redis: Any) -> None:
        (info, *_) = redis.execute(("INFO", "server"), *load_commands())
        if isinstance(info, BackplaneError):
            raise info
        self._run_id, uptime = parse_info(info)
        self._cold = max(0.0, self._intervals.settle - uptime)
        self._check_life(redis)
        self._renew(redis)
        self._comparing.due = 0.0

    def _check_life(self, redis: Any) -> None:
        remembered = (self._life or b"").decode(errors="replace")
        begin = self._names.begin(self._run_id, remembered, self._intervals.settle, self._cold)
        life = run_call(redis, begin)
        if self._life is None:
            self._owner.on_connected()
        elif self._life != life:
            self._owner.on_rejoined()
        self._life = life

    def _serve(self, redis: Any) -> None:
        while True:
            now = time.monotonic()
            for periodic in self._periodic_tasks:
                # Queued tasks are newer than the state that would be compared.
                if periodic.due <= now and not (periodic is self._comparing and self._tasks):
                    periodic.run(redis)
            if self._tasks:
                self._send(redis)
            elif self._stopping:
                run_call(redis, self._names.finish(self.id))
                return
            else:
                self._wake.clear()
                due = min(periodic.due for periodic in self._periodic_tasks)
                self._wake.wait(max(0.0, due - time.monotonic()))

    def _pause(self) -> float:
        """Return seconds with jitter, so that processes do not run simultaneously."""
        return random.uniform(self._intervals.sweep / 2, self._intervals.sweep)

    # -- tasks

    def _send(self, redis: Any) -> None:
        batch = deque(self._tasks.popleft() for _ in range(min(BATCH, len(self._tasks))))
        fenced = False
        try:
            answers = redis.execute(*(task.call(self.id).command() for task in batch))
            for answer in answers:
                if isinstance(answer, BackplaneError):  # Redis has not cached the script
                    answer = self._send_source(redis, batch[0])
                task = batch.popleft()
                answer = unwrap_result(answer)
                if answer == b"fenced":
                    fenced = True
                elif answer is not None:
                    task.done(answer)
        finally:
            # Scripts are idempotent: repeating a task that was executed changes nothing.
            self._tasks.extendleft(reversed(batch))
        if fenced:
            self._register(redis)

    def _send_source(self, redis: Any, task: Task) -> Answer:
        (answer,) = redis.execute(task.call(self.id).command(with_source=True))
        if not isinstance(answer, BackplaneError):
            return answer
        logger.error("presence: %s", str(answer))
        if task.waiting is not None:
            task.waiting.set_exception(answer)
        return None

    def _fail_waiting(self, error: BackplaneError) -> None:
        """Raise the error in waiting callers; other tasks stay queued."""
        tasks, self._tasks = self._tasks, deque()
        for task in tasks:
            if task.waiting is None:
                self._tasks.append(task)
            else:
                task.waiting.set_exception(error)

    # -- periodic tasks

    def _renew(self, redis: Any) -> None:
        if not self._registered or not run_call(
            redis, self._names.renew(self.id, self._intervals.lease)
        ):
            self._register(redis)

    def _register(self, redis: Any) -> None:
        """Register the node, with a new id if another node may have taken over its connections."""
        if self._registered:
            logger.warning(
                "presence: the lease of this process has expired (it was suspended, or Redis was "
                "unreachable or lost data); its sockets are joined again"
            )
            self.id = _new_id()
            self._check_life(redis)
        run_call(redis, self._names.enter(self.id, self._intervals.lease))
        if not self._registered:
            self._registered = True
            return
        # Queued leaves come first, as the same connection may have joined again.
        left = [task for task in self._tasks if task.kind == "leave"]
        asked = [task for task in self._tasks if task.kind == "read"]
        self._tasks = deque([*left, *self._owner.join_tasks(), *asked])

    def _sweep(self, redis: Any) -> bool:
        claim = self._intervals.heartbeat
        sweep = self._names.sweep(self.id, self._grace, claim, BATCH_SIZE)
        more, changes, known = run_call(redis, sweep)
        self._owner.on_local_change(parse_changes(changes))
        if not known:
            # Redis may have been emptied: other processes wait for this one to register again.
            self._register(redis)
        return bool(more)

    def _compare(self, redis: Any) -> None:
        self._owner.reconcile(redis, self.id)


def _new_id() -> str:
    return secrets.token_hex(8)


def parse_info(info: bytes) -> tuple[str, float]:
    """Return Redis's run id and its uptime in seconds, from INFO."""
    fields = dict(line.partition(":")[::2] for line in info.decode(errors="replace").splitlines())
    uptime = fields.get("uptime_in_seconds", "")
    return fields.get("run_id", ""), float(uptime) if uptime.isdecimal() else 0.0
