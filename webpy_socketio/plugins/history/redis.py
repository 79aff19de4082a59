"""Store of several processes, in Redis."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
import gevent.event

from webpy_socketio import (
    BackplaneError,
    NodeUnavailable,
    Outage,
    PubSub,
    RedisConnector,
    WrongContext,
)
from webpy_socketio.plugins.history.scripts import (
    Call,
    Names,
    command,
    encode_record,
    parse_page,
    parse_run,
)
from webpy_socketio.plugins.history.store import Channel, Limits, Listener, Page, Record, Rule

__all__ = ["RedisStore"]

logger = logging.getLogger("webpy_socketio")

#: Seconds that a caller waits for Redis; and seconds without a byte after which it is unreachable.
TIMEOUT = 1.0
READ_TIMEOUT = 1.0

#: Seconds between attempts to connect.
PAUSE = 0.25

#: Maximum number of queued calls; further messages are not stored.
MAX_WAITING = 4_096

#: Maximum number of channels whose unrecorded messages are remembered during an outage.
MAX_HOLES = 10_000

#: Seconds between two log lines about nodes of a cluster that are unavailable.
WARNING_INTERVAL = 10.0

#: Calls sent at once.
BATCH = 64


@dataclass(slots=True)
class _Task:
    call: Call
    #: Receives the result of a caller that waits.
    waiting: gevent.event.AsyncResult | None = None
    #: A message to store.
    channel: Channel | None = None
    record: Record | None = None
    #: A channel with messages that were not stored, whose next offset is skipped.
    hole: Channel | None = None


def _is_rejected(answer: Any) -> bool:
    """Return whether Redis has rejected a call, most likely as it has not cached the script."""
    return isinstance(answer, BackplaneError) and not isinstance(answer, NodeUnavailable)


class _IdleConnectionClosed(BackplaneError):
    """The connection was closed while it was idle: no queued call was sent."""


class RedisStore:
    """Store of several processes; one greenlet and one connection execute the calls in order."""

    waits = True

    def __init__(
        self,
        url: str,
        prefix: str,
        listener: Listener,
        limits: Limits,
        rule_of: Callable[[Channel], Rule | None],
    ) -> None:
        self._listener = listener
        self._limits = limits
        self._rule_of = rule_of
        self._names = Names(url, prefix, limits)
        self._error: BackplaneError | None = BackplaneError("Redis has not replied yet")
        self._attempted = gevent.event.Event()
        self._wake = gevent.event.Event()
        self._tasks: deque[_Task] = deque()
        #: Channels with messages that were not stored: their next offset is skipped, so that
        #: clients learn about the gap.
        self._holes: dict[Channel, None] = {}
        #: Runs of Redis by what INFO has returned.
        self._runs: dict[bytes, str] = {}
        #: In a Redis Cluster: whether a node was unavailable, when the next offsets are skipped,
        #: and when the next log line about it follows.
        self._is_incomplete = False
        self._holes_due = self._next_warning = 0.0
        self._stopping = False
        self._outage = Outage("messages are not stored in the history of their channels")
        self._connector = RedisConnector(url)
        self._pubsub = PubSub(
            url,
            self._on_message,
            on_subscribed=lambda topic: listener.on_change(self._names.channel(topic)),
            effect="subscribers with history receive messages of other processes later",
            consequence="subscribers with history receive missed messages now",
        )
        self._greenlet = gevent.spawn(self._run)
        self._attempted.wait(TIMEOUT)  # messages of the first handlers are stored

    # -- store

    def append(self, channel: Channel, rule: Rule, record: Record) -> bool:
        data = encode_record(record)
        limit = min(self._limits.channel_bytes, self._limits.total_bytes)
        too_large = len(data) > limit
        if self._error is not None or too_large or len(self._tasks) >= MAX_WAITING:
            self._add_hole(channel)
            return False
        self._flush_hole(channel)
        self._put(_Task(self._names.append(channel, rule, data), None, channel, record))
        return True

    def read(self, channel: Channel, after: int, limit: int) -> Page:
        return parse_page(self._fetch(self._names.read(channel, after, limit, self._ttl(channel))))

    def read_last(self, channel: Channel, limit: int) -> Page:
        return parse_page(self._fetch(self._names.read_last(channel, limit, self._ttl(channel))))

    def clear(self, channel: Channel) -> None:
        self._fetch(self._names.clear(channel))

    def watch(self, channel: Channel) -> None:
        self._pubsub.subscribe(self._names.topic(channel))

    def unwatch(self, channel: Channel) -> None:
        self._pubsub.unsubscribe(self._names.topic(channel))

    def close(self) -> None:
        """Store queued messages for at most one second, and close the connections."""
        self._stopping = True
        self._wake.set()
        self._greenlet.join(TIMEOUT)
        self._connector.end(self._greenlet)
        self._pubsub.stop()

    # -- calls

    def _ttl(self, channel: Channel) -> float:
        rule = self._rule_of(channel)
        return 0.0 if rule is None else rule.ttl

    def _put(self, task: _Task) -> None:
        self._tasks.append(task)
        self._wake.set()

    def _fetch(self, call: Call) -> Any:
        """Execute a call after all queued ones, and return its result; blocks.

        Raises:
            BackplaneError: Redis did not reply within a second.
        """
        if gevent.getcurrent() is gevent.get_hub():
            raise WrongContext(
                "history is read from Redis: call this from a greenlet, not from the hub"
            )
        self._attempted.wait(TIMEOUT)
        if self._error is not None:
            raise self._error
        waiting = gevent.event.AsyncResult()
        self._put(_Task(call, waiting))
        try:
            return waiting.get(timeout=TIMEOUT)
        except gevent.Timeout:
            raise BackplaneError(f"Redis did not reply within {TIMEOUT} s") from None

    def _add_hole(self, channel: Channel) -> None:
        if len(self._holes) < MAX_HOLES:
            self._holes[channel] = None
            self._wake.set()
        elif channel not in self._holes:
            logger.warning(
                "history: messages of more than %d channels were not stored; clients of the "
                "channel %r are not notified",
                MAX_HOLES,
                channel[1],
            )

    def _flush_hole(self, channel: Channel) -> None:
        """Skip an offset for messages that were not stored, before the next one."""
        if channel in self._holes:
            del self._holes[channel]
            rule = self._rule_of(channel)
            if rule is not None:
                self._put(_Task(self._names.append(channel, rule, b""), hole=channel))

    # -- connection

    def _run(self) -> None:
        while True:
            redis = None
            try:
                redis = self._connector.open(READ_TIMEOUT)
                self._runs.clear()
                if not self._names.is_cluster:
                    redis.server_info("")
                self._error = None
                for channel in list(self._holes):
                    self._flush_hole(channel)
                self._outage.end(redis.address, "messages are stored again")
                self._attempted.set()
                self._listener.on_reconnected()
                self._serve(redis)
                return
            except _IdleConnectionClosed:
                continue
            except BackplaneError as error:
                if not self._connector.ended:
                    self._outage.begin(error)
                self._fail(error)
            except Exception as error:  # a bug must not stop the plugin
                logger.exception("storing messages in Redis failed; history reconnects")
                self._fail(BackplaneError(f"storing messages in Redis failed: {error}"))
            finally:
                if redis is not None:
                    redis.close()
            self._attempted.set()
            if self._stopping:
                return
            gevent.sleep(PAUSE)

    def _serve(self, redis: Any) -> None:
        idle = 0.0
        while True:
            if self._tasks:
                self._send(redis)
                idle = 0.0
            elif self._stopping:
                return
            else:
                if time.monotonic() >= self._holes_due:
                    for channel in list(self._holes):
                        self._flush_hole(channel)
                if self._tasks:
                    continue
                self._wake.clear()
                if not self._wake.wait(TIMEOUT):
                    idle += TIMEOUT
                    if idle >= 10 * TIMEOUT:  # detects a dead connection before the next message
                        redis.ping()
                        idle = 0.0

    def _send(self, redis: Any) -> None:
        try:
            redis.check()
        except BackplaneError as error:
            raise _IdleConnectionClosed(str(error)) from error
        batch = [self._tasks.popleft() for _ in range(min(BATCH, len(self._tasks)))]
        done = 0
        try:
            runs = [self._run_of(redis, task.call) for task in batch]
            answers = redis.execute(*map(command, (task.call for task in batch), runs))
            if any(map(_is_rejected, answers)):
                # Redis has not cached the script, and has executed none of the rejected calls.
                sources = (
                    command(task.call, run, with_source=True)
                    for task, run in zip(batch, runs, strict=True)
                )
                answers = [
                    again if _is_rejected(answer) else answer
                    for answer, again in zip(
                        answers, self._repeat(redis, answers, list(sources)), strict=True
                    )
                ]
            self._check_nodes(answers)
            for task, answer in zip(batch, answers, strict=True):
                done += 1
                self._finish(task, answer)
        finally:
            self._tasks.extendleft(reversed(batch[done:]))

    @staticmethod
    def _repeat(redis: Any, answers: list[Any], sources: list[Any]) -> list[Any]:
        """Execute the rejected calls again with the source of the script, in their order."""
        rejected = [number for number, each in enumerate(answers) if _is_rejected(each)]
        again = iter(redis.execute(*(sources[number] for number in rejected)))
        return [next(again) if _is_rejected(each) else each for each in answers]

    def _run_of(self, redis: Any, call: Call) -> str:
        """Return the run of the server that executes a call."""
        try:
            info = redis.server_info(call.keys[0])
        except NodeUnavailable:  # the call fails as well
            return ""
        run = self._runs.get(info)
        if run is None:
            run = self._runs[info] = parse_run(info)
        return run

    def _check_nodes(self, answers: list[Any]) -> None:
        """Handle that nodes of a cluster have become unavailable, or are available again."""
        unavailable = next((each for each in answers if isinstance(each, NodeUnavailable)), None)
        now = time.monotonic()
        if unavailable is not None:
            self._is_incomplete = True
            self._holes_due = now + TIMEOUT
            if now >= self._next_warning:
                self._next_warning = now + WARNING_INTERVAL
                logger.warning(
                    "%s; messages are not stored in the history of its channels", str(unavailable)
                )
        elif self._is_incomplete and now >= self._holes_due:
            self._is_incomplete = False
            self._listener.on_reconnected()

    def _finish(self, task: _Task, answer: Any) -> None:
        if task.waiting is not None:
            if isinstance(answer, BackplaneError):
                task.waiting.set_exception(answer)
            else:
                task.waiting.set(answer)
        elif task.channel is None:
            if isinstance(answer, NodeUnavailable) and task.hole is not None:
                self._add_hole(task.hole)
        elif isinstance(answer, BackplaneError):
            if not isinstance(answer, NodeUnavailable):
                logger.error("history: %s", str(answer))
            self._give_up(task)
        else:
            self._listener.on_change(task.channel)

    def _fail(self, error: BackplaneError) -> None:
        """Raise the error in waiting callers, and deliver queued messages without storing them."""
        self._error = error
        tasks, self._tasks = self._tasks, deque()
        for task in tasks:
            if task.waiting is not None:
                task.waiting.set_exception(error)
            else:
                self._give_up(task)

    def _give_up(self, task: _Task) -> None:
        if task.channel is not None and task.record is not None:
            self._add_hole(task.channel)
            self._listener.on_unrecorded(task.channel, task.record)

    def _on_message(self, topic: bytes, payload: bytes) -> None:
        self._listener.on_change(self._names.channel(topic))
