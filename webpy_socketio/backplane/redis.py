"""Redis backplane, for processes with sockets and for those without.

A topic is a channel of Redis Pub/Sub. Redis stores nothing: a process that is not connected misses
messages. Delivery is at most once, in order for each sending process.
`webpy_socketio.backplane.gap` reports messages that may be missing.
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

#: Seconds that a caller waits for Redis.
TIMEOUT = 1.0


class RedisBackplane:
    """Backplane of a process with sockets (`webpy_socketio.backplane.Backplane`).

    `deliver` is called in the hub's thread with each message of another process, and must not
    block. Redis may be unreachable at the start or at any later time.
    """

    def __init__(self, url: str, prefix: str, deliver: Callable[[Topic, Envelope], None]) -> None:
        self._sequence = SequenceCounter()
        self._publisher = Publisher(url, prefix, self._sequence)
        self._subscriber = Subscriber(url, prefix, self._sequence.node, deliver)
        deadline = time.monotonic() + TIMEOUT
        for part in (self._publisher, self._subscriber):
            part.attempted.wait(max(0.0, deadline - time.monotonic()))

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
            group = self._sequence.next_group()
            channels = tuple(topic.name for topic in topics)
        for topic in topics:
            mark = self._sequence.next(topic)
            self._publisher.put(OutgoingMessage(topic, mark, message, skip, group, channels))

    def publish_and_count(self, message: Message, topic: Topic) -> bool:
        if gevent.getcurrent() is gevent.get_hub():  # the hub cannot wait for the reply
            self.publish(message, topic)
            return True
        publisher, subscriber = self._publisher, self._subscriber
        subscriber.wait_until_settled(topic)
        if not publisher.connected:
            raise publisher.error or BackplaneError("Redis has not replied yet")
        own = subscriber.is_subscribed(topic)
        result = gevent.event.AsyncResult()
        publisher.put(OutgoingMessage(topic, self._sequence.next(topic), message, result=result))
        try:
            count: int = result.get(timeout=TIMEOUT)
        except gevent.Timeout:
            raise BackplaneError(f"Redis did not reply within {TIMEOUT} s") from None
        # Redis counted this process as well if it was subscribed all the time.
        return count > (1 if own and subscriber.is_subscribed(topic) else 0)

    def stop(self) -> None:
        self._publisher.stop(TIMEOUT)
        self._subscriber.stop()


class RedisSender:
    """Backplane of a process without sockets, such as a worker, a cron job or a shell.

    Thread-safe, with or without gevent. Each call waits for Redis; all share one connection.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._lock = threading.Lock()
        self._reset()

    def publish_and_count(self, message: Message, topic: Topic) -> bool:
        """Publish, and return whether any process received the message.

        Raises:
            BackplaneError: Redis is unreachable or did not reply in time.
        """
        with self._lock:
            if self._pid != os.getpid():  # forked: connection and sequence belong to the parent
                self._reset()
            connection = self._open()
            envelope = encode(self._sequence.next(topic), message)
            (count,) = connection.publish([(topic.address(self._prefix), envelope)])
        if isinstance(count, BackplaneError):
            raise count
        return count > 0

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._sequence = SequenceCounter()
        self._connection: Any = None

    def _open(self) -> RedisConnection:
        connection: RedisConnection | None = self._connection
        if connection is not None and not connection.closed:
            try:
                connection.check()
                return connection
            except BackplaneError:  # closed while idle: no message was lost
                pass
        self._connection = connection = RedisConnection(self._url, ANSWER_TIMEOUT)
        return connection
