"""Tracker: this process as a node in Redis, with a lease, a task queue and the sweep.

The sweep detects processes that have crashed: their lease has expired. It takes over their
connections, which leave after the grace period (``sweep`` in ``lua/node.lua``).
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gevent
import gevent.event

from webpy_socketio import (
    BackplaneError,
    NodeUnavailable,
    Outage,
    RedisConnector,
    WrongContext,
)
from webpy_socketio.plugins.presence.periodic import Intervals, PeriodicTask
from webpy_socketio.plugins.presence.scripts import (
    Answer,
    Call,
    Names,
    is_rejected,
    parse_changes,
    run_calls,
    unwrap_result,
)
from webpy_socketio.plugins.presence.store import Change

__all__ = ["Owner", "Task", "Tracker", "parse_info"]

logger = logging.getLogger("webpy_socketio")

#: Seconds that a caller waits for Redis; and seconds without a byte after which it is unreachable.
TIMEOUT = 1.0
READ_TIMEOUT = 5.0

#: Seconds between two log lines about nodes of a cluster that are unavailable.
WARNING_INTERVAL = 10.0

#: Maximum number of tasks queued during an outage. Beyond it all are dropped, and the next
#: comparison finds the differences.
MAX_WAITING = 16_384

#: Tasks sent at once, and connections of an expired node that one script call takes over.
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
        self._connector = RedisConnector(url)
        self._names = names
        self._intervals = intervals
        self._grace = grace
        self._owner = owner
        self._outage = Outage("changes of presence in this process are queued")
        self._registered = False
        #: The life of each part of the keys, and the run of Redis with which it was checked.
        self._lives: dict[str, bytes] = {}
        self._runs: dict[str, str] = {}
        #: In a Redis Cluster: parts that were unavailable, and when the next log line follows.
        self._missing: set[str] = set()
        self._next_warning = 0.0
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
                redis = self._connector.open(READ_TIMEOUT)
                self._begin(redis)
                self.error = None
                self._attempted.set()
                self._outage.end(
                    redis.address, f"{len(self._tasks)} changes of presence were queued"
                )
                self._serve(redis)
                return
            except BackplaneError as error:
                if not self._connector.ended:
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
        if commands := self._names.load_commands():
            redis.execute(*commands)
        self._check_lives(redis, self._names.parts)
        self._renew(redis)
        self._comparing.due = 0.0

    def _check_lives(self, redis: Any, parts: Collection[str]) -> None:
        """Find out whether Redis has restarted, and may have lost data."""
        is_first = not self._lives
        calls: dict[str, Call] = {}
        settle = self._intervals.settle
        for part in parts:
            try:
                run, uptime = parse_info(redis.server_info(part))
            except NodeUnavailable as error:
                self._miss(part, error)
                continue
            remembered = self._lives.get(part, b"").decode(errors="replace")
            cold = max(0.0, settle - uptime)
            calls[part] = self._names.begin(part, run, remembered, settle, cold)
            self._runs[part] = run
        has_changed = False
        for part, life in self._call_parts(redis, calls).items():
            has_changed = has_changed or self._lives.get(part, life) != life
            self._lives[part] = life
        if is_first:
            self._owner.on_connected()
        elif has_changed:
            self._owner.on_rejoined()

    def _call_parts(self, redis: Any, calls: Mapping[str, Call]) -> dict[str, Answer]:
        """Call a script for parts of the keys, and return the results of those available."""
        answers = {}
        for part, answer in zip(calls, run_calls(redis, list(calls.values())), strict=True):
            if isinstance(answer, NodeUnavailable):
                self._miss(part, answer)
            elif isinstance(answer, BackplaneError):
                raise answer
            else:
                answers[part] = answer
        return answers

    def _miss(self, part: str, error: NodeUnavailable) -> None:
        """Handle that a part of the keys is unavailable; a comparison follows when it returns."""
        self._missing.add(part)
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + WARNING_INTERVAL
            logger.warning("%s; changes of presence in its channels follow later", str(error))

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
                parts = self._names.parts
                self._call_parts(redis, {p: self._names.finish(p, self.id) for p in parts})
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
                if is_rejected(answer):  # Redis has not cached the script
                    answer = self._send_source(redis, batch[0])
                task = batch.popleft()
                answer = unwrap_result(answer)
                if isinstance(answer, NodeUnavailable):
                    self._miss(task.call(self.id).keys[0], answer)
                    if task.waiting is not None:
                        task.waiting.set_exception(answer)
                elif answer == b"fenced":
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
        if not is_rejected(answer):
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
        if not self._registered:
            self._register(redis)
            return
        known, self._missing = self._missing, set()
        lease = self._intervals.lease
        parts = self._names.parts
        answers = self._call_parts(
            redis, {part: self._names.renew(part, self.id, lease) for part in parts}
        )
        if self._names.is_cluster:
            # A part is on another server after a failover, and after its slot has moved.
            changed = {part for part in answers if part in known or self._is_moved(redis, part)}
            if changed:
                self._check_lives(redis, changed)
                self._comparing.due = 0.0
        if not all(answers.values()):
            self._register(redis)

    def _is_moved(self, redis: Any, part: str) -> bool:
        try:
            return parse_info(redis.server_info(part))[0] != self._runs.get(part)
        except NodeUnavailable:
            return False

    def _register(self, redis: Any) -> None:
        """Register the node, with a new id if another node may have taken over its connections."""
        if self._registered:
            logger.warning(
                "presence: the lease of this process has expired (it was suspended, or Redis was "
                "unreachable or lost data); its sockets are joined again"
            )
            self.id = _new_id()
            self._check_lives(redis, self._names.parts)
        lease = self._intervals.lease
        parts = self._names.parts
        self._call_parts(redis, {part: self._names.enter(part, self.id, lease) for part in parts})
        if not self._registered:
            self._registered = True
            return
        # Queued leaves come first, as the same connection may have joined again.
        left = [task for task in self._tasks if task.kind == "leave"]
        asked = [task for task in self._tasks if task.kind == "read"]
        self._tasks = deque([*left, *self._owner.join_tasks(), *asked])

    def _sweep(self, redis: Any) -> bool:
        claim = self._intervals.heartbeat
        answers = self._call_parts(
            redis,
            {
                part: self._names.sweep(part, self.id, self._grace, claim, BATCH_SIZE)
                for part in self._names.parts
            },
        )
        for _, changes, _ in answers.values():
            self._owner.on_local_change(parse_changes(changes))
        if self._missing & answers.keys():
            self._renewal.due = 0.0
        elif not all(known for *_, known in answers.values()):
            # Redis may have been emptied: other processes wait for this one to register again.
            self._register(redis)
        return any(more for more, *_ in answers.values())

    def _compare(self, redis: Any) -> None:
        self._owner.reconcile(redis, self.id)


def _new_id() -> str:
    return secrets.token_hex(8)


def parse_info(info: bytes) -> tuple[str, float]:
    """Return Redis's run id and its uptime in seconds, from INFO."""
    fields = dict(line.partition(":")[::2] for line in info.decode(errors="replace").splitlines())
    uptime = fields.get("uptime_in_seconds", "")
    return fields.get("run_id", ""), float(uptime) if uptime.isdecimal() else 0.0
