"""Presence of several processes, kept in Redis.

What a process does to presence goes through its `Node`, one thing after the other; what it tells its
clients comes in by its `Ear`, which hears the changes of everybody, its own among them, on the topics of
the channels that somebody here is subscribed to.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import gevent

from webpy_socketio import BackplaneError, call_later, connect_redis
from webpy_socketio.plugins.presence.damage import log_damage
from webpy_socketio.plugins.presence.periodic import Intervals
from webpy_socketio.plugins.presence.pubsub import PubSub
from webpy_socketio.plugins.presence.reconcile import Held, Item, extra, missing
from webpy_socketio.plugins.presence.replica import Replica, Verdict
from webpy_socketio.plugins.presence.scripts import (
    Answer,
    Call,
    Names,
    Reading,
    changes_of,
    channel_of,
    parse_change,
    parse_state,
    run_call,
    text_of,
)
from webpy_socketio.plugins.presence.store import Change, Channel, Listener, State
from webpy_socketio.plugins.presence.tracker import (
    BATCH_SIZE,
    READ_TIMEOUT,
    TIMEOUT,
    Task,
    Tracker,
    identity_of,
)

__all__ = ["PresenceReader", "RedisStore"]

logger = logging.getLogger("webpy_socketio")

#: Changes that may wait for slow receivers of signals.
MAX_PENDING = 16_384

#: Channels that one script counts; Lua has a limit of some thousand arguments.
COUNTED = 1_000

#: Damaged keys and connections that are removed at once.
REPAIRED = 500

T = TypeVar("T")


class RedisStore:
    """The store of one of several processes. Redis may be away when it begins, as at any later time."""

    lasting = True

    def __init__(
        self, url: str, prefix: str, listener: Listener, grace: float, times: Intervals
    ) -> None:
        self._listener = listener
        self._names = Names(prefix)
        self._times = times
        #: What this process wants to be in Redis.
        self._here: dict[Item, Held] = {}
        self._watchers: dict[Channel, set[str]] = {}
        self._replicas: dict[Channel, Replica] = {}
        self._pending: deque[Change] = deque()
        self._teller: Any = None
        #: Whether some were left out since it had nothing to do.
        self._slow = False
        #: Channels that are read again when Redis is complete.
        self._unsettled: set[Channel] = set()
        self._settling: Any = None
        self._here_topic = self._names.here().encode()
        self.node = Tracker(url, self._names, times, grace, self)
        self._ear = PubSub(url, self._apply, self._ready, self._lose)

    def join(self, channel: Channel, connection: str, key: str, meta: dict[str, Any]) -> None:
        # Sorted, as scripts tell by the text whether something changed.
        held = Held(key, json.dumps(meta, ensure_ascii=False, sort_keys=True))
        self._here[channel, connection] = held
        self.node.put(self._join((channel, connection), held))

    def leave(self, channel: Channel, connection: str, grace: float) -> None:
        if self._here.pop((channel, connection), None) is not None:
            self.node.put(self._leave((channel, connection), grace))

    def knows(self, channel: Channel, connection: str) -> bool:
        return (channel, connection) in self._here

    def watch(self, channel: Channel, connection: str) -> None:
        watchers = self._watchers.setdefault(channel, set())
        watchers.add(connection)
        if channel not in self._replicas:
            self._replicas[channel] = Replica()
            self._ear.subscribe(self._topic(channel))

    def unwatch(self, channel: Channel, connection: str) -> None:
        watchers = self._watchers.get(channel)
        if watchers is None:
            return
        watchers.discard(connection)
        if not watchers:
            del self._watchers[channel], self._replicas[channel]
            self._ear.unsubscribe(self._topic(channel))

    def state(self, channel: Channel) -> State | None:
        replica = self._replicas.get(channel)
        return replica.state if replica is not None and replica.current else None

    def owe(self, channel: Channel) -> None:
        if channel in self._replicas:
            self._replicas[channel].owed = True

    def ask(self, channel: Channel) -> State:
        deadline = time.monotonic() + self._times.settle + TIMEOUT
        while True:
            reading = self._parse(channel, self.node.ask(self._names.read(channel)))
            replica = self._replicas.get(channel)
            if reading.unsettled and replica is not None and replica.known:
                # What was known last, and who has registered since.
                members = {**reading.state.members, **replica.members}
                return State(replica.epoch, replica.rev, members)
            if not reading.unsettled:
                return reading.state
            gevent.sleep(_pause(reading.unsettled, deadline))

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        counts: list[int] = []
        for portion, call in _counting(self._names, channels):
            answer = self.node.ask(call)
            if _is_unsettled(answer):
                counts += [len(self.ask(channel).members) for channel in portion]
            else:
                counts += answer
        return counts

    def close(self) -> None:
        if self._settling is not None:
            self._settling.close()
        self.node.stop()
        self._ear.stop()
        if self._teller is not None:
            self._teller.join(TIMEOUT)
            self._teller.kill()

    # -- what is to be done in Redis

    def _join(self, item: Item, held: Held) -> Task:
        channel, connection = item

        def done(answer: Answer) -> None:
            quiet, held.quiet, held.joined = held.quiet, False, True
            if not quiet:
                self.on_local_change(changes_of(answer))

        return Task(
            "join",
            lambda node: self._names.join(node, channel, connection, held.key, held.meta),
            done,
        )

    def _leave(self, item: Item, grace: float) -> Task:
        call = self._names.leave(*item, grace)
        return Task(
            "leave", lambda node: call, lambda answer: self.on_local_change(changes_of(answer))
        )

    def joins(self) -> Iterable[Task]:
        return [self._join(item, held) for item, held in self._here.items()]

    def begun(self) -> None:
        self._ear.subscribe(self._here_topic)

    def on_rejoined(self) -> None:
        # Redis forgot them; nobody came.
        for held in self._here.values():
            held.quiet = held.joined

    def reconcile(self, link: Any, node: str) -> None:
        for item in missing(link, self._names, node, self._here):
            held = self._here.get(item)
            if held is not None:
                self.node.put(self._join(item, held))
        registered = set(extra(link, self._names, node))
        for item in registered - self._here.keys():
            self.node.put(self._leave(item, 0.0))
        for item, held in list(self._here.items()):
            if held.joined and item not in registered:
                self.node.put(self._join(item, held))
        for channel in list(self._replicas):
            self._read(channel)

    def on_local_change(self, changes: list[Change]) -> None:
        """Tell what this process changed, from a greenlet of its own: receivers may wait."""
        self._pending.extend(changes)
        while len(self._pending) > MAX_PENDING:
            self._pending.popleft()
            if not self._slow:
                logger.warning("presence signals are left out: their receivers are too slow")
            self._slow = True
        if self._pending and not self._teller:
            self._teller = gevent.spawn(self._tell)

    def _tell(self) -> None:
        while self._pending:
            self._listener.on_local_change(self._pending.popleft())
        self._slow = False

    # -- what is heard of it

    def _topic(self, channel: Channel) -> bytes:
        return self._names.of("diffs", text_of(channel)).encode()

    def _channel(self, topic: bytes) -> Channel:
        return channel_of(topic[len(self._names.of("diffs", "")) :])

    def _lose(self) -> None:
        for replica in self._replicas.values():
            replica.invalidate()

    def _ready(self, topic: bytes) -> None:
        if topic == self._here_topic:
            return
        channel = self._channel(topic)
        replica = self._replicas.get(channel)
        if replica is not None:
            replica.invalidate()
            self._read(channel)

    def _apply(self, topic: bytes, diff: bytes) -> None:
        if topic == self._here_topic:
            self.node.compare_soon()
            return
        channel = self._channel(topic)
        replica = self._replicas.get(channel)
        if replica is None:
            return
        try:
            change = parse_change(channel, diff)
        except ValueError as error:
            # If it stood in the place of a change, the next one shows the gap.
            log_damage(topic.decode(errors="replace"), f"a published message ({error})")
            return
        verdict = replica.apply(change)
        if verdict is Verdict.APPLIED:
            self._listener.on_change(change)
        elif verdict is Verdict.GAP:
            self._read(channel)

    def _read(self, channel: Channel, whole: bool = False) -> None:
        replica = self._replicas[channel]
        place = ("", 0) if whole else (replica.epoch, replica.rev)
        call = self._names.read(channel, place)
        self.node.put(
            Task("ask", lambda node: call, lambda answer: self._caught_up(channel, replica, answer))
        )

    def _caught_up(self, channel: Channel, replica: Replica, answer: Answer) -> None:
        missed: list[Change] = []
        renewed = len(answer) == 5
        if renewed:
            reading = self._parse(channel, answer)
            if reading.unsettled:
                replica.invalidate()
                self._read_later(channel, reading.unsettled)
                return
            renewed = replica.replace(reading.state)
        else:
            try:
                missed = [parse_change(channel, diff) for diff in answer[2]]
            except ValueError as error:
                log_damage(self._topic(channel).decode(), f"an entry of the stream ({error})")
                if self._replicas.get(channel) is replica:
                    self._read(channel, whole=True)
                return
        if self._replicas.get(channel) is not replica:
            return  # nobody here is subscribed any more
        renewed = renewed or not replica.known or replica.owed
        news, gap = replica.sync(missed)
        replica.owed = renewed and gap
        if renewed and not gap:
            self._listener.on_reset(channel)
        elif not renewed:
            for change in news:
                self._listener.on_change(change)
        if gap:
            self._read(channel)

    def _read_later(self, channel: Channel, seconds: float) -> None:
        """Read a channel again when all processes had time to register."""
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
        if damaged := reading.damaged[:REPAIRED]:
            where = text_of(channel)
            log_damage(
                self._names.of("connections", where), f"a member such as {damaged[0][:80]!r}"
            )
            call = self._names.repair(channel, damaged)
            self.node.put(Task("ask", lambda node: call, lambda answer: None))
        return reading


class PresenceReader:
    """Presence for a process that has no server: each call opens a connection, and closes it again."""

    def __init__(self, url: str, prefix: str, grace: float) -> None:
        self._url = url
        self._names = Names(prefix)
        self._grace = grace

    def ask(self, channel: Channel) -> State:
        return self._complete(lambda link: self._read(link, channel))

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        def count(link: Any) -> tuple[list[int], float]:
            counts: list[int] = []
            for _, call in _counting(self._names, channels):
                answer = run_call(link, call)
                if _is_unsettled(answer):
                    return [], answer[1] / 1000
                counts += answer
            return counts, 0.0

        return self._complete(count)

    def _read(self, link: Any, channel: Channel) -> tuple[State, float]:
        reading = parse_state(run_call(link, self._names.read(channel)))
        return reading.state, reading.unsettled

    def _complete(self, read: Callable[[Any], tuple[T, float]]) -> T:
        """Read until the answer is complete."""
        times = Intervals()
        deadline = time.monotonic() + times.settle + TIMEOUT
        link = connect_redis(self._url, READ_TIMEOUT)
        try:
            (info,) = link.execute(("INFO", "server"))
            if not isinstance(info, BackplaneError):
                run, uptime = identity_of(info)
                cold = max(0.0, times.settle - uptime)
                run_call(link, self._names.begin(run, "", times.settle, cold))
            more = 1
            while more:  # nobody else may be there who lets the dead go
                sweep = self._names.sweep("stranger", self._grace, times.heartbeat, BATCH_SIZE)
                more, *_ = run_call(link, sweep)
            while True:
                answer, unsettled = read(link)
                if not unsettled:
                    return answer
                time.sleep(_pause(unsettled, deadline))
        finally:
            link.close()


def _pause(unsettled: float, deadline: float) -> float:
    """Seconds until Redis is asked again; raises `BackplaneError` if that is too late."""
    if time.monotonic() + unsettled > deadline:
        raise BackplaneError("Redis has lost data, and not all processes have registered again")
    return unsettled


def _is_unsettled(answer: Answer) -> bool:
    return bool(answer[:1] == [b"unsettled"])


def _counting(names: Names, channels: Sequence[Channel]) -> Iterator[tuple[list[Channel], Call]]:
    for begin in range(0, len(channels), COUNTED):
        portion = list(channels[begin : begin + COUNTED])
        yield portion, names.count(portion)
