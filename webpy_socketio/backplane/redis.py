"""The way through Redis: for a process with sockets, and for one without.

Topics are Redis's channels (PUBLISH and SUBSCRIBE), and nothing is stored: who is not there misses
it, as in one process. At most once, in order for each process that sends; what may be missing is
told by `webpy_socketio.backplane.gap`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from webpy_socketio.backplane.connection import RedisConnection
from webpy_socketio.backplane.envelope import Envelope, encode
from webpy_socketio.backplane.publisher import ANSWER_TIMEOUT, OutgoingMessage, Publisher
from webpy_socketio.backplane.sequence import SequenceCounter
from webpy_socketio.backplane.subscriber import Subscriber
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import BackplaneError

__all__ = ["RedisBackplane", "RedisConnection", "RedisSender"]

#: Seconds that something of ours waits for Redis, at most.
TIMEOUT = 1.0


class RedisBackplane:
    """The backplane of a process with sockets (`webpy_socketio.backplane.Backplane`).

    `deliver` is called with what others send, in the thread of the hub, and must not wait. Redis may
    be away when this begins, as at any later time.
    """

    def __init__(self, url: str, prefix: str, deliver: Callable[[Topic, Envelope], None]) -> None:
        self._numbering = SequenceCounter()
        self._publisher = Publisher(url, prefix, self._numbering)
        self._subscriber = Subscriber(url, prefix, self._numbering.node, deliver)
        deadline = time.monotonic() + TIMEOUT
        for part in (self._publisher, self._subscriber):
            part.tried.wait(max(0.0, deadline - time.monotonic()))

    def subscribe(self, *topics: Topic) -> None:
        for topic in topics:
            self._subscriber.subscribe(topic)

    def unsubscribe(self, *topics: Topic) -> None:
        for topic in topics:
            self._subscriber.unsubscribe(topic)

    def wait(self, *topics: Topic) -> None:
        for topic in topics:
            self._subscriber.wait(topic)

    def publish(self, message: Message, *topics: Topic, skip: str | None = None) -> None:
        group: int | None = None
        channels: tuple[str, ...] = ()
        if len(topics) > 1:
            group = self._numbering.next_group()
            channels = tuple(topic.name for topic in topics)
        for topic in topics:
            mark = self._numbering.next(topic)
            self._publisher.put(OutgoingMessage(topic, mark, message, skip, group, channels))

    def publish_and_count(self, message: Message, topic: Topic) -> bool:
        if gevent.getcurrent() is gevent.get_hub():  # where nothing can wait for the answer
            self.publish(message, topic)
            return True
        publisher, subscriber = self._publisher, self._subscriber
        subscriber.settle(topic)
        if not publisher.connected:
            raise publisher.trouble or BackplaneError("Redis has not answered yet")
        ours = subscriber.is_subscribed(topic)
        answer = gevent.event.AsyncResult()
        publisher.put(OutgoingMessage(topic, self._numbering.next(topic), message, answer=answer))
        try:
            count: int = answer.get(timeout=TIMEOUT)
        except gevent.Timeout:
            raise BackplaneError(f"Redis does not answer within {TIMEOUT} s") from None
        # Redis counted us as well, if we listened all the time.
        return count > (1 if ours and subscriber.is_subscribed(topic) else 0)

    def stop(self) -> None:
        self._publisher.stop(TIMEOUT)
        self._subscriber.stop()


class RedisSender:
    """The way out of a process without sockets: a worker, a cron job, a shell.

    For any thread, with or without gevent: each call waits for Redis, over one connection.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._lock = threading.Lock()
        self._begin()

    def publish_and_count(self, message: Message, topic: Topic) -> bool:
        """Publish, and return whether anybody is there. Raises `BackplaneError`."""
        with self._lock:
            if self._pid != os.getpid():  # forked: the connection and the numbers are the parent's
                self._begin()
            link = self._open()
            envelope = encode(self._numbering.next(topic), message)
            (count,) = link.publish([(topic.address(self._prefix), envelope)])
        if isinstance(count, BackplaneError):
            raise count
        return count > 0

    def close(self) -> None:
        """Close the connection; the next call opens one again."""
        with self._lock:
            if self._link is not None:
                self._link.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._numbering = SequenceCounter()
        self._link: Any = None

    def _open(self) -> RedisConnection:
        link: RedisConnection | None = self._link
        if link is not None and not link.closed:
            try:
                link.check()
                return link
            except BackplaneError:  # closed while nothing was sent: nothing is lost
                pass
        self._link = link = RedisConnection(self._url, ANSWER_TIMEOUT)
        return link
