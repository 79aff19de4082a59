"""Presence of several processes, kept in Redis.

What a process does to presence goes through its `Node`, one thing after the other; what it tells its
clients comes in by its `Ear`, which hears the changes of everybody, its own among them, on the topics of
the channels that somebody here is subscribed to.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import gevent

from webpy_socketio import redis_link
from webpy_socketio.plugins.presence.audit import Held, Item, extra, missing
from webpy_socketio.plugins.presence.chores import Times
from webpy_socketio.plugins.presence.ear import Ear
from webpy_socketio.plugins.presence.node import PATIENCE, PORTION, SILENCE, Node, Task
from webpy_socketio.plugins.presence.replica import Replica, Verdict
from webpy_socketio.plugins.presence.scripts import (
    Answer,
    Call,
    Names,
    changes_of,
    channel_of,
    parse_change,
    parse_state,
    run_call,
    text_of,
)
from webpy_socketio.plugins.presence.store import Change, Channel, Listener, State

__all__ = ["RedisStore", "Stranger"]

logger = logging.getLogger("webpy_socketio")

#: Changes that may wait for slow receivers of signals.
MAX_UNTOLD = 16_384

#: Channels that one script counts; Lua has a limit of some thousand arguments.
COUNTED = 1_000


class RedisStore:
    """The store of one of several processes. Redis may be away when it begins, as at any later time."""

    lasting = True

    def __init__(
        self, url: str, prefix: str, listener: Listener, grace: float, times: Times
    ) -> None:
        self._listener = listener
        self._names = Names(prefix)
        #: What this process wants to be in Redis.
        self._here: dict[Item, Held] = {}
        self._watchers: dict[Channel, set[str]] = {}
        self._replicas: dict[Channel, Replica] = {}
        self._untold: deque[Change] = deque()
        self._teller: Any = None
        #: Whether some were left out since it had nothing to do.
        self._slow = False
        self.node = Node(url, self._names, times, grace, self)
        self._ear = Ear(url, self._hear, self._ready)

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
            self._ear.listen(self._topic(channel))

    def unwatch(self, channel: Channel, connection: str) -> None:
        watchers = self._watchers.get(channel)
        if watchers is None:
            return
        watchers.discard(connection)
        if not watchers:
            del self._watchers[channel], self._replicas[channel]
            self._ear.ignore(self._topic(channel))

    def state(self, channel: Channel) -> State | None:
        replica = self._replicas.get(channel)
        return replica.state if replica is not None and replica.known else None

    def ask(self, channel: Channel) -> State:
        return parse_state(self.node.ask(self._names.read(channel)), gevent.sleep)

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        return [n for call in _counting(self._names, channels) for n in self.node.ask(call)]

    def close(self) -> None:
        self.node.stop()
        self._ear.stop()
        if self._teller is not None:
            self._teller.join(PATIENCE)
            self._teller.kill()

    # -- what is to be done in Redis

    def _join(self, item: Item, held: Held) -> Task:
        channel, connection = item

        def done(answer: Answer) -> None:
            quiet, held.quiet, held.joined = held.quiet, False, True
            if not quiet:
                self.made(changes_of(answer))

        return Task(
            "join",
            lambda node: self._names.join(node, channel, connection, held.key, held.meta),
            done,
        )

    def _leave(self, item: Item, grace: float) -> Task:
        call = self._names.leave(*item, grace)
        return Task("leave", lambda node: call, lambda answer: self.made(changes_of(answer)))

    def joins(self) -> Iterable[Task]:
        return [self._join(item, held) for item, held in self._here.items()]

    def reborn(self) -> None:
        # Redis forgot them; nobody came.
        for held in self._here.values():
            held.quiet = held.joined

    def reconcile(self, link: Any, node: str) -> None:
        for item in missing(link, self._names, node, self._here):
            held = self._here.get(item)
            if held is not None:
                self.node.put(self._join(item, held))
        for item in extra(link, self._names, node):
            if item not in self._here:
                self.node.put(self._leave(item, 0.0))
        for channel in list(self._replicas):
            self._read(channel)

    def made(self, changes: list[Change]) -> None:
        """Tell what this process changed, from a greenlet of its own: receivers may wait."""
        self._untold.extend(changes)
        while len(self._untold) > MAX_UNTOLD:
            self._untold.popleft()
            if not self._slow:
                logger.warning("presence signals are left out: their receivers are too slow")
            self._slow = True
        if self._untold and not self._teller:
            self._teller = gevent.spawn(self._tell)

    def _tell(self) -> None:
        while self._untold:
            self._listener.made(self._untold.popleft())
        self._slow = False

    # -- what is heard of it

    def _topic(self, channel: Channel) -> bytes:
        return self._names.of("diffs", text_of(channel)).encode()

    def _channel(self, topic: bytes) -> Channel:
        return channel_of(topic[len(self._names.of("diffs", "")) :])

    def _ready(self, topic: bytes) -> None:
        channel = self._channel(topic)
        replica = self._replicas.get(channel)
        if replica is not None:
            replica.lose()
            self._read(channel)

    def _hear(self, topic: bytes, diff: bytes) -> None:
        channel = self._channel(topic)
        replica = self._replicas.get(channel)
        if replica is None:
            return
        change = parse_change(channel, diff)
        verdict = replica.hear(change)
        if verdict is Verdict.NEWS:
            self._listener.seen(change)
        elif verdict is Verdict.GAP:
            self._read(channel)

    def _read(self, channel: Channel) -> None:
        replica = self._replicas[channel]
        call = self._names.read(channel, (replica.epoch, replica.rev))
        self.node.put(
            Task("ask", lambda node: call, lambda answer: self._caught_up(channel, replica, answer))
        )

    def _caught_up(self, channel: Channel, replica: Replica, answer: Answer) -> None:
        missed: list[Change] = []
        renewed = len(answer) == 4
        if renewed:
            state = parse_state(answer, gevent.sleep)
            renewed = replica.replace(state)
        else:
            missed = [parse_change(channel, diff) for diff in answer[2]]
        if self._replicas.get(channel) is not replica:
            return  # nobody here is subscribed any more
        first = not replica.known
        news, gap = replica.settle(missed)
        if renewed or first:
            self._listener.renewed(channel)
        else:
            for change in news:
                self._listener.seen(change)
        if gap:
            self._read(channel)


class Stranger:
    """Presence for a process that has no server: each call opens a connection, and closes it again."""

    def __init__(self, url: str, prefix: str, grace: float) -> None:
        self._url = url
        self._names = Names(prefix)
        self._grace = grace

    def ask(self, channel: Channel) -> State:
        return parse_state(self._ask(self._names.read(channel)))

    def counts(self, channels: Sequence[Channel]) -> list[int]:
        return [n for call in _counting(self._names, channels) for n in self._ask(call)]

    def _ask(self, call: Any) -> Answer:
        link = redis_link(self._url, SILENCE)
        try:
            more = 1
            while more:  # nobody else may be there who lets the dead go
                sweep = self._names.sweep("stranger", self._grace, Times().heartbeat, PORTION)
                more, _ = run_call(link, sweep)
            return run_call(link, call)
        finally:
            link.close()


def _counting(names: Names, channels: Sequence[Channel]) -> list[Call]:
    portions = range(0, len(channels), COUNTED)
    return [names.count(channels[begin : begin + COUNTED]) for begin in portions]
