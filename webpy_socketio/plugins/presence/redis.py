"""Presence of several processes, stored in Redis.

A `Tracker` executes the changes of this process in order. A `PubSub` receives the changes of all
processes, including its own, for the channels with subscribers in this process. Clients are
notified of the received changes only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import gevent

from webpy_socketio import BackplaneError, NodeUnavailable, PubSub, call_later, connect_redis
from webpy_socketio.plugins.presence.damage import log_damage
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.reconcile import Item, LocalEntry, extra, missing
from webpy_socketio.plugins.presence.replica import Replica, Verdict
from webpy_socketio.plugins.presence.scripts import (
    Answer,
    Call,
    Names,
    Reading,
    encode_channel,
    parse_change,
    parse_changes,
    parse_state,
    run_call,
)
from webpy_socketio.plugins.presence.store import Change, Channel, Listener, State
from webpy_socketio.plugins.presence.tracker import (
    BATCH_SIZE,
    READ_TIMEOUT,
    TIMEOUT,
    Task,
    Tracker,
    parse_info,
)

__all__ = ["PresenceReader", "RedisStore"]

logger = logging.getLogger("webpy_socketio")

#: Seconds without a byte after which the connection that receives changes is lost.
PUBSUB_TIMEOUT = 8.0

#: Maximum number of changes that wait for slow signal receivers; older ones are dropped.
MAX_PENDING = 16_384

#: Channels counted by one script call; Lua limits the number of arguments to some thousands.
COUNT_BATCH = 1_000

#: Seconds for which a released connection may still leave here, and by which it outlives its
#: session.
RELEASE_TIME = 10.0

#: Damaged keys and connections removed at once.
REPAIR_BATCH = 500

T = TypeVar("T")


class RedisStore:
    """Store of one of several processes; Redis may be unreachable at any time."""

    lasting = True

    def __init__(
        self, url: str, prefix: str, listener: Listener, grace: float, intervals: Intervals
    ) -> None:
        self._listener = listener
        self._names = Names(url, prefix)
        self._intervals = intervals
        #: Connections of this process that should be registered in Redis.
        self._local: dict[Item, LocalEntry] = {}
        #: Connections that have moved to another process recently.
        self._released: set[Item] = set()
        self._watchers: dict[Channel, set[str]] = {}
        self._replicas: dict[Channel, Replica] = {}
        self._pending: deque[Change] = deque()
        self._notifier: Any = None
        #: Whether changes were dropped since the queue was last empty.
        self._dropping = False
        #: Channels to read again after processes had time to register.
        self._unsettled: set[Channel] = set()
        self._settling: Any = None
        self._control_topics = {topic.encode() for topic in self._names.control_topics()}
        self.tracker = Tracker(url, self._names, intervals, grace, self)
        self._pubsub = PubSub(
            url,
            self._apply,
            on_subscribed=self._on_subscribed,
            on_lost=self._on_lost,
            effect="changes of presence in other processes are not reported",
            consequence="presence is being read again",
            timeout=PUBSUB_TIMEOUT,
        )

    def join(self, channel: Channel, connection: str, key: str, meta: dict[str, Any]) -> None:
        # Sorted, as scripts compare the text to detect changes.
        entry = LocalEntry(key, json.dumps(meta, ensure_ascii=False, sort_keys=True))
        self._local[channel, connection] = entry
        self.tracker.put(self._join((channel, connection), entry))

    def leave(self, channel: Channel, connection: str, grace: float) -> None:
        item = channel, connection
        is_released = item in self._released
        if self._local.pop(item, None) is not None or is_released:
            at_once = is_released and not grace
            self.tracker.put(self._leave(item, grace, only_own=is_released, at_once=at_once))

    def release(self, channel: Channel, connection: str, seconds: float) -> tuple[str, str] | None:
        item = channel, connection
        entry = self._local.pop(item, None)
        if entry is None:
            return None
        self.tracker.put(self._leave(item, seconds + RELEASE_TIME, only_own=True))
        # If the session does not move, the connection leaves within a few seconds.
        self._released.add(item)
        call_later(RELEASE_TIME, self._released.discard, item)
        return entry.key, entry.meta

    def adopt(self, channel: Channel, connection: str, key: str, meta: str) -> None:
        self._released.discard((channel, connection))
        entry = self._local[channel, connection] = LocalEntry(key, meta)
        self.tracker.put(self._join((channel, connection), entry))

    def is_present(self, channel: Channel, connection: str) -> bool:
        return (channel, connection) in self._local

    def watch(self, channel: Channel, connection: str) -> None:
        watchers = self._watchers.setdefault(channel, set())
        watchers.add(connection)
        if channel not in self._replicas:
            self._replicas[channel] = Replica()
            self._pubsub.subscribe(self._topic(channel))

    def unwatch(self, channel: Channel, connection: str) -> None:
        watchers = self._watchers.get(channel)
        if watchers is None:
            return
        watchers.discard(connection)
        if not watchers:
            del self._watchers[channel], self._replicas[channel]
            self._pubsub.unsubscribe(self._topic(channel))

    def state(self, channel: Channel) -> State | None:
        replica = self._replicas.get(channel)
        return replica.state if replica is not None and replica.current else None

    def request_reset(self, channel: Channel) -> None:
        if channel in self._replicas:
            self._replicas[channel].reset_requested = True

    def fetch(self, channel: Channel) -> State:
        deadline = time.monotonic() + self._intervals.settle + TIMEOUT
        while True:
            reading = self._parse(channel, self.tracker.fetch(self._names.read(channel)))
            replica = self._replicas.get(channel)
            if reading.unsettled and replica is not None and replica.known:
                # The last known state, and members registered since.
                members = {**reading.state.members, **replica.members}
                return State(replica.epoch, replica.rev, members)
            if not reading.unsettled:
                return reading.state
            gevent.sleep(_pause(reading.unsettled, deadline))

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        counts: dict[Channel, int] = {}
        for batch, call in _count_calls(self._names, channels):
            answer = self.tracker.fetch(call)
            if _is_incomplete(answer):
                answer = [len(self.fetch(channel).members) for channel in batch]
            counts |= zip(batch, answer, strict=True)
        return [counts[channel] for channel in channels]

    def close(self) -> None:
        if self._settling is not None:
            self._settling.close()
        self.tracker.stop()
        self._pubsub.stop()
        if self._notifier is not None:
            self._notifier.join(TIMEOUT)
            self._notifier.kill()

    # -- changes in Redis

    def _join(self, item: Item, entry: LocalEntry) -> Task:
        channel, connection = item

        def done(answer: Answer) -> None:
            quiet, entry.quiet, entry.joined = entry.quiet, False, True
            if not quiet:
                self.on_local_change(parse_changes(answer))

        return Task(
            "join",
            lambda node: self._names.join(node, channel, connection, entry.key, entry.meta),
            done,
        )

    def _leave(
        self, item: Item, grace: float, only_own: bool = False, at_once: bool = False
    ) -> Task:
        """Return the task of a leave.

        Args:
            item: Channel and connection.
            grace: Seconds before the connection is removed.
            only_own: Whether to ignore a connection of another process.
            at_once: Whether to remove a connection that is leaving already.
        """
        return Task(
            "leave",
            lambda node: self._names.leave(*item, grace, node if only_own else "", at_once),
            lambda answer: self.on_local_change(parse_changes(answer)),
        )

    def join_tasks(self) -> Iterable[Task]:
        return [self._join(item, entry) for item, entry in self._local.items()]

    def on_connected(self) -> None:
        for topic in self._control_topics:
            self._pubsub.subscribe(topic)

    def on_rejoined(self) -> None:
        # Redis has lost the entries: no member has joined.
        for entry in self._local.values():
            entry.quiet = entry.joined

    def reconcile(self, redis: Any, node: str) -> None:
        for item in missing(redis, self._names, node, self._local):
            entry = self._local.get(item)
            if entry is not None:
                self.tracker.put(self._join(item, entry))
        registered = set(extra(redis, self._names, node))
        for item in registered - self._local.keys():
            self.tracker.put(self._leave(item, 0.0, only_own=True))
        for item, entry in list(self._local.items()):
            if entry.joined and item not in registered:
                self.tracker.put(self._join(item, entry))
        for channel in list(self._replicas):
            self._read(channel)

    def on_local_change(self, changes: list[Change]) -> None:
        """Signal changes of this process from a separate greenlet, as receivers may block."""
        self._pending.extend(changes)
        while len(self._pending) > MAX_PENDING:
            self._pending.popleft()
            if not self._dropping:
                logger.warning("presence signals are dropped: their receivers are too slow")
            self._dropping = True
        if self._pending and not self._notifier:
            self._notifier = gevent.spawn(self._notify)

    def _notify(self) -> None:
        while self._pending:
            self._listener.on_local_change(self._pending.popleft())
        self._dropping = False

    # -- received changes

    def _topic(self, channel: Channel) -> bytes:
        return self._names.of("diffs", encode_channel(channel)).encode()

    def _channel(self, topic: bytes) -> Channel:
        return self._names.channel_of(topic)

    def _on_lost(self, topics: Collection[bytes]) -> None:
        for topic in topics:
            replica = self._replicas.get(self._channel(topic))
            if replica is not None:
                replica.invalidate()

    def _on_subscribed(self, topic: bytes) -> None:
        if topic in self._control_topics:
            return
        channel = self._channel(topic)
        replica = self._replicas.get(channel)
        if replica is not None:
            replica.invalidate()
            self._read(channel)

    def _apply(self, topic: bytes, diff: bytes) -> None:
        if topic in self._control_topics:
            self.tracker.compare_soon()
            return
        channel = self._channel(topic)
        replica = self._replicas.get(channel)
        if replica is None:
            return
        try:
            change = parse_change(channel, diff)
        except ValueError as error:
            # If it replaced a change, the next change reveals the gap.
            log_damage(topic.decode(errors="replace"), f"a published message ({error})")
            return
        verdict = replica.apply(change)
        if verdict is Verdict.APPLIED:
            self._listener.on_change(change)
        elif verdict is Verdict.GAP:
            self._read(channel)

    def _read(self, channel: Channel, full: bool = False) -> None:
        replica = self._replicas[channel]
        position = ("", 0) if full else (replica.epoch, replica.rev)
        call = self._names.read(channel, position)
        self.tracker.put(
            Task("read", lambda node: call, lambda answer: self._on_read(channel, replica, answer))
        )

    def _on_read(self, channel: Channel, replica: Replica, answer: Answer) -> None:
        missed: list[Change] = []
        replaced = len(answer) == 5
        if replaced:
            reading = self._parse(channel, answer)
            if reading.unsettled:
                replica.invalidate()
                self._read_later(channel, reading.unsettled)
                return
            replaced = replica.replace(reading.state)
        else:
            try:
                missed = [parse_change(channel, diff) for diff in answer[2]]
            except ValueError as error:
                log_damage(self._topic(channel).decode(), f"an entry of the stream ({error})")
                if self._replicas.get(channel) is replica:
                    self._read(channel, full=True)
                return
        if self._replicas.get(channel) is not replica:
            return  # no subscribers are left
        replaced = replaced or not replica.known or replica.reset_requested
        applied, gap = replica.sync(missed)
        replica.reset_requested = replaced and gap
        if replaced and not gap:
            self._listener.on_reset(channel)
        elif not replaced:
            for change in applied:
                self._listener.on_change(change)
        if gap:
            self._read(channel)

    def _read_later(self, channel: Channel, seconds: float) -> None:
        """Schedule another read after all processes had time to register."""
        self._unsettled.add(channel)
        if self._settling is None:
            self._settling = call_later(seconds, self._read_unsettled)

    def _read_unsettled(self) -> None:
        self._settling = None
        channels, self._unsettled = self._unsettled, set()
        for channel in channels & self._replicas.keys():
            self._read(channel)

    def _parse(self, channel: Channel, answer: Answer) -> Reading:
        reading = parse_state(answer, gevent.sleep)
        if damaged := reading.damaged[:REPAIR_BATCH]:
            name = encode_channel(channel)
            log_damage(self._names.of("connections", name), f"a member such as {damaged[0][:80]!r}")
            call = self._names.repair(channel, damaged)
            self.tracker.put(Task("read", lambda node: call, lambda answer: None))
        return reading


class PresenceReader:
    """Reader for processes without a server; each call opens and closes a connection."""

    def __init__(self, url: str, prefix: str, grace: float) -> None:
        self._url = url
        self._names = Names(url, prefix)
        self._grace = grace

    def fetch(self, channel: Channel) -> State:
        return self._read_complete(lambda redis: self._read(redis, channel))

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        def count(redis: Any) -> tuple[list[int], float]:
            counts: dict[Channel, int] = {}
            for batch, call in _count_calls(self._names, channels):
                answer = run_call(redis, call)
                if _is_incomplete(answer):
                    return [], answer[1] / 1000
                counts |= zip(batch, answer, strict=True)
            return [counts[channel] for channel in channels], 0.0

        return self._read_complete(count)

    def _read(self, redis: Any, channel: Channel) -> tuple[State, float]:
        reading = parse_state(run_call(redis, self._names.read(channel)))
        return reading.state, reading.unsettled

    def _read_complete(self, read: Callable[[Any], tuple[T, float]]) -> T:
        """Read until the result is complete."""
        intervals = Intervals()
        deadline = time.monotonic() + intervals.settle + TIMEOUT
        redis = connect_redis(self._url, READ_TIMEOUT)
        try:
            for part in self._names.parts:
                # In a cluster, the node of another part may be unavailable.
                with contextlib.suppress(NodeUnavailable):
                    self._update(redis, part, intervals)
            while True:
                answer, unsettled = read(redis)
                if not unsettled:
                    return answer
                time.sleep(_pause(unsettled, deadline))
        finally:
            redis.close()

    def _update(self, redis: Any, part: str, intervals: Intervals) -> None:
        """Remove expired nodes of a part: possibly no other process does."""
        try:
            run, uptime = parse_info(redis.server_info(part))
        except NodeUnavailable:
            raise
        except BackplaneError:  # INFO is not allowed
            pass
        else:
            cold = max(0.0, intervals.settle - uptime)
            run_call(redis, self._names.begin(part, run, "", intervals.settle, cold))
        more = 1
        while more:
            words = "reader", self._grace, intervals.heartbeat, BATCH_SIZE
            more, *_ = run_call(redis, self._names.sweep(part, *words))


def _pause(unsettled: float, deadline: float) -> float:
    """Return the seconds until the next attempt; raise `BackplaneError` beyond the deadline."""
    if time.monotonic() + unsettled > deadline:
        raise BackplaneError(
            "Redis has lost data, and other processes have not registered again yet"
        )
    return unsettled


def _is_incomplete(answer: Answer) -> bool:
    return bool(answer[:1] == [b"unsettled"])


def _count_calls(names: Names, channels: Sequence[Channel]) -> Iterator[tuple[list[Channel], Call]]:
    """Yield calls that count channels, each for channels of one part."""
    parts: defaultdict[str, list[Channel]] = defaultdict(list)
    for channel in channels:
        parts[names.part(encode_channel(channel))].append(channel)
    for found in parts.values():
        for begin in range(0, len(found), COUNT_BATCH):
            batch = found[begin : begin + COUNT_BATCH]
            yield batch, names.count(batch)
