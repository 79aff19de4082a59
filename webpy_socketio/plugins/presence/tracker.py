"""This process in Redis: a lease that is renewed, a queue of what is to be done there, and the sweep."""

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
from webpy_socketio.plugins.presence.dialer import Connector
from webpy_socketio.plugins.presence.periodic import Intervals, PeriodicTask
from webpy_socketio.plugins.presence.scripts import (
    Answer,
    Call,
    Names,
    changes_of,
    loading,
    result_of,
    run_call,
)
from webpy_socketio.plugins.presence.store import Change

__all__ = ["Owner", "Task", "Tracker", "identity_of"]

logger = logging.getLogger("webpy_socketio")

#: Seconds that somebody waits for Redis, at most; and without a byte before it counts as away.
TIMEOUT = 1.0
READ_TIMEOUT = 5.0

#: Tasks that may wait while Redis is away. Beyond it all are dropped: what there is to be done is found
#: out anew when it is back, by comparing.
MAX_WAITING = 16_384

#: Tasks that are sent at once, and connections of a dead node that one script takes over.
BATCH = 128
BATCH_SIZE = 100


@dataclass(slots=True)
class Task:
    """One thing to be done in Redis."""

    kind: Literal["join", "leave", "ask"]
    #: The call, for a node of that name: it may be another one before it is this task's turn.
    call: Callable[[str], Call]
    done: Callable[[Answer], None]
    #: Who waits for it.
    waiting: gevent.event.AsyncResult | None = None


class Owner(Protocol):
    """Whose node it is: what is to be in Redis."""

    def joins(self) -> Iterable[Task]:
        """Everybody of this process, to be joined again."""

    def begun(self) -> None:
        """The first connection to Redis is ready."""

    def on_rejoined(self) -> None:
        """Redis lives another life: it may have forgotten what it knew."""

    def reconcile(self, link: Any, node: str) -> None:
        """Compare what is in Redis with what is to be there, and put what has to be done."""

    def on_local_change(self, changes: list[Change]) -> None:
        """Changes that this process has made."""


class Tracker:
    """One connection, and a greenlet that does one thing after the other. For the thread of the hub."""

    def __init__(
        self, url: str, names: Names, times: Intervals, grace: float, owner: Owner
    ) -> None:
        #: Fresh for each start, and after each lease that was lost: the token that fences us off.
        self.id = _new_id()
        #: Why nothing can be asked; None if it can.
        self.trouble: BackplaneError | None = BackplaneError("Redis has not answered yet")
        self._tried = gevent.event.Event()
        self._dialer = Connector(url, READ_TIMEOUT)
        self._names = names
        self._times = times
        self._grace = grace
        self._owner = owner
        self._outage = Outage("changes of presence in this process wait until it answers")
        self._entered = False
        self._run_id = ""
        self._cold = 0.0
        self._life: bytes | None = None
        self._tasks: deque[Task] = deque()
        self._wake = gevent.event.Event()
        self._stopping = False
        self._renewal = PeriodicTask(lambda: times.heartbeat, self._renew)
        self._sweeping = PeriodicTask(self._pause, self._sweep)
        self._comparing = PeriodicTask(lambda: times.reconcile, self._compare)
        self._chores = (self._renewal, self._sweeping, self._comparing)
        self._greenlet = gevent.spawn(self._run)

    def put(self, task: Task) -> None:
        """Do it when it is its turn."""
        if len(self._tasks) >= MAX_WAITING:
            logger.warning(
                "presence: Redis is away for so long that all is compared when it is back"
            )
            self._fail_waiting(BackplaneError("too much waits to be done"))
            self._tasks.clear()
            self._comparing.due = 0.0
        self._tasks.append(task)
        self._wake.set()

    def ask(self, call: Call) -> Answer:
        """Make a call, after all that was put before, and wait for the answer.

        Raises `BackplaneError` if there is none within a second.
        """
        if gevent.getcurrent() is gevent.get_hub():
            raise WrongContext("presence is asked of Redis: call this from a greenlet, not the hub")
        self._tried.wait(TIMEOUT)
        if self.trouble is not None:
            raise self.trouble
        waiting = gevent.event.AsyncResult()
        self.put(Task("ask", lambda node: call, waiting.set, waiting))
        try:
            return waiting.get(timeout=TIMEOUT)
        except gevent.Timeout:
            raise BackplaneError(f"Redis does not answer within {TIMEOUT} s") from None

    def compare_soon(self) -> None:
        """Compare within a heartbeat, as something in Redis was damaged."""
        due = time.monotonic() + self._times.heartbeat
        self._comparing.due = min(self._comparing.due, due)
        self._wake.set()

    def stop(self) -> None:
        """Do what waits, for a second at most, and end the lease."""
        self._stopping = True
        self._wake.set()
        self._greenlet.join(TIMEOUT)
        self._dialer.end(self._greenlet)

    # -- the connection

    def _run(self) -> None:
        while True:
            link = None
            try:
                link = self._dialer.open()
                self._begin(link)
                self.trouble = None
                self._tried.set()
                self._outage.end(link.where, f"{len(self._tasks)} changes of presence waited")
                self._serve(link)
                return
            except BackplaneError as error:
                self._outage.begin(error)
                self.trouble = error
                self._fail_waiting(error)
            except Exception as error:  # a mistake of ours must not end presence
                logger.exception("presence cannot be kept in Redis")
                self.trouble = BackplaneError(f"presence cannot be kept in Redis: {error}")
                self._fail_waiting(self.trouble)
            finally:
                if link is not None:
                    link.close()
            self._tried.set()
            if self._stopping:
                return
            gevent.sleep(self._pause())

    def _begin(self, link: Any) -> None:
        (info, *_) = link.execute(("INFO", "server"), *loading())
        if isinstance(info, BackplaneError):
            raise info
        self._run_id, uptime = identity_of(info)
        self._cold = max(0.0, self._times.settle - uptime)
        self._live(link)
        self._renew(link)
        self._comparing.due = 0.0

    def _live(self, link: Any) -> None:
        remembered = (self._life or b"").decode(errors="replace")
        begin = self._names.begin(self._run_id, remembered, self._times.settle, self._cold)
        life = run_call(link, begin)
        if self._life is None:
            self._owner.begun()
        elif self._life != life:
            self._owner.on_rejoined()
        self._life = life

    def _serve(self, link: Any) -> None:
        while True:
            now = time.monotonic()
            for chore in self._chores:
                # What waits is newer than what is compared.
                if chore.due <= now and not (chore is self._comparing and self._tasks):
                    chore.run(link)
            if self._tasks:
                self._send(link)
            elif self._stopping:
                run_call(link, self._names.finish(self.id))
                return
            else:
                self._wake.clear()
                due = min(chore.due for chore in self._chores)
                self._wake.wait(max(0.0, due - time.monotonic()))

    def _pause(self) -> float:
        """Seconds, with jitter: not everybody at once."""
        return random.uniform(self._times.sweep / 2, self._times.sweep)

    # -- tasks

    def _send(self, link: Any) -> None:
        batch = deque(self._tasks.popleft() for _ in range(min(BATCH, len(self._tasks))))
        fenced = False
        try:
            answers = link.execute(*(task.call(self.id).words() for task in batch))
            for answer in answers:
                if isinstance(answer, BackplaneError):  # Redis does not know the script any more
                    answer = self._repeat(link, batch[0])
                task = batch.popleft()
                answer = result_of(answer)
                if answer == b"fenced":
                    fenced = True
                elif answer is not None:
                    task.done(answer)
        finally:
            # Whatever was done of these, doing it again changes nothing.
            self._tasks.extendleft(reversed(batch))
        if fenced:
            self._enter(link)

    def _repeat(self, link: Any, task: Task) -> Answer:
        (answer,) = link.execute(task.call(self.id).words(whole=True))
        if not isinstance(answer, BackplaneError):
            return answer
        logger.error("presence: %s", str(answer))
        if task.waiting is not None:
            task.waiting.set_exception(answer)
        return None

    def _fail_waiting(self, error: BackplaneError) -> None:
        """Whoever waits for an answer gets one now; the other tasks wait on."""
        tasks, self._tasks = self._tasks, deque()
        for task in tasks:
            if task.waiting is None:
                self._tasks.append(task)
            else:
                task.waiting.set_exception(error)

    # -- chores

    def _renew(self, link: Any) -> None:
        if not self._entered or not run_call(link, self._names.renew(self.id, self._times.lease)):
            self._enter(link)

    def _enter(self, link: Any) -> None:
        """Begin, or begin again: others may have taken over what we had."""
        if self._entered:
            logger.warning(
                "presence: the lease of this process is over (it stood still, or Redis was away for "
                "too long or has forgotten it); its sockets are joined again"
            )
            self.id = _new_id()
            self._live(link)
        run_call(link, self._names.enter(self.id, self._times.lease))
        if not self._entered:
            self._entered = True
            return
        # What was left is left before that; it may have been joined again.
        left = [task for task in self._tasks if task.kind == "leave"]
        asked = [task for task in self._tasks if task.kind == "ask"]
        self._tasks = deque([*left, *self._owner.joins(), *asked])

    def _sweep(self, link: Any) -> bool:
        claim = self._times.heartbeat
        sweep = self._names.sweep(self.id, self._grace, claim, BATCH_SIZE)
        more, changes, known = run_call(link, sweep)
        self._owner.on_local_change(changes_of(changes))
        if not known:  # Redis was emptied, perhaps: the others wait for what this process has there
            self._enter(link)
        return bool(more)

    def _compare(self, link: Any) -> None:
        self._owner.reconcile(link, self.id)


def _new_id() -> str:
    return secrets.token_hex(8)


def identity_of(info: bytes) -> tuple[str, float]:
    """What Redis calls this run of its process, and for how many seconds it has lasted."""
    fields = dict(line.partition(":")[::2] for line in info.decode(errors="replace").splitlines())
    uptime = fields.get("uptime_in_seconds", "")
    return fields.get("run_id", ""), float(uptime) if uptime.isdecimal() else 0.0
