"""Redis backplane, for processes with sockets and for those without.

A topic is a channel of Redis Pub/Sub. Redis stores nothing: a process that is not connected misses
messages. Delivery is at most once, in order for each sending process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import gevent
import gevent.event

from webpy_socketio.backplane import GapCallback, new_counts
from webpy_socketio.backplane.addresses import Kind, is_cluster, parse_address
from webpy_socketio.backplane.answers import Answers
from webpy_socketio.backplane.cluster_connection import ClusterConnection
from webpy_socketio.backplane.cluster_publisher import ClusterPublisher
from webpy_socketio.backplane.connection import RedisConnection
from webpy_socketio.backplane.envelope import Envelope, InvalidEnvelope, Mark, decode, encode
from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.opening import AnyConnection, check_files, open_connection
from webpy_socketio.backplane.publisher import ANSWER_TIMEOUT, OutgoingMessage, Publisher
from webpy_socketio.backplane.requests import Answer, Request, answer_header, request_header
from webpy_socketio.backplane.sequence import SequenceCounter
from webpy_socketio.backplane.subscriber import Subscriber
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import BackplaneError

__all__ = ["RedisBackplane", "RedisConnection", "RedisSender"]

#: Seconds that a caller waits for Redis.
TIMEOUT = 1.0

_SERVERS = Topic.servers()


class RedisBackplane:
    """Backplane of a process with sockets (`webpy_socketio.backplane.Backplane`).

    `deliver` is called in the hub's thread with each message of another process, and `on_gap` when
    such messages may be missing. Neither may block. Redis may be unreachable at the start or at any
    later time.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        deliver: Callable[[Topic, Envelope], None],
        on_gap: GapCallback,
    ) -> None:
        self.counts = new_counts()
        #: Called with the topics and marks of each message of `publish` that is not volatile.
        self.on_published: Callable[[Sequence[Topic], Sequence[Mark]], None] | None = None
        #: Called with the topic and envelope of each further copy of a broadcast, and the number
        #: of the broadcast.
        self.on_copy: Callable[[Topic, Envelope, int], None] | None = None
        self.is_ordered = not is_cluster(url)
        self._sequence = SequenceCounter()
        publisher = ClusterPublisher if is_cluster(url) else Publisher
        self._publisher = publisher(url, prefix, self._sequence, self.counts)
        self._subscriber = Subscriber(
            url, prefix, self._sequence.node, deliver, on_gap, self.counts, self._receive_copy
        )
        deadline = time.monotonic() + TIMEOUT
        for part in (self._publisher, self._subscriber):
            part.attempted.wait(max(0.0, deadline - time.monotonic()))

    def open(self) -> None:
        self.subscribe(Topic.servers(), Topic.node(self.node))

    @property
    def connected(self) -> bool:
        return self._publisher.connected and self._subscriber.connected

    @property
    def node(self) -> str:
        return self._sequence.node

    def subscribe(self, *topics: Topic) -> None:
        for topic in topics:
            self._subscriber.subscribe(topic)

    def unsubscribe(self, *topics: Topic) -> None:
        for topic in topics:
            self._subscriber.unsubscribe(topic)

    def retire(self, *topics: Topic) -> None:
        self._subscriber.retire(topics)

    def wait(self, *topics: Topic) -> None:
        for topic in topics:
            self._subscriber.wait(topic)

    def wait_until_settled(self, topic: Topic) -> None:
        # In this order: a socket whose topic is being subscribed may arrive during the first wait.
        self._publisher.wait_until_attempted(topic)
        self._subscriber.wait_until_settled(topic)

    def is_subscribed(self, topic: Topic) -> bool:
        return self._subscriber.is_subscribed(topic)

    def publish(
        self, message: Message, *topics: Topic, recipients: RecipientFilter = NO_FILTER
    ) -> None:
        group, channels = _group(self._sequence, topics)
        marks = [self._sequence.next(topic) for topic in topics]
        header: dict[str, Any] | None = None
        if group is not None and not self.is_ordered:
            header = _header_of(marks)
        for topic, mark in zip(topics, marks, strict=True):
            outgoing = OutgoingMessage(topic, mark, message, recipients, group, channels)
            outgoing.header = header
            self._publisher.put(outgoing)
        if self.on_published is not None and not recipients.volatile:
            self.on_published(topics, marks)

    def publish_markers(self, topics: Collection[Topic], cut: tuple[str, str]) -> None:
        for topic in topics:
            mark = self._sequence.next(topic)
            self._publisher.put(OutgoingMessage(topic, mark, None, header={"cut": cut}))

    def positions(self, topic: Topic) -> dict[str, tuple[int, int]]:
        positions = self._subscriber.positions(topic)
        own = self._sequence.last(topic)
        return positions if own is None else {**positions, self.node: own}

    @property
    def received_groups(self) -> int:
        return self._subscriber.received_groups

    def _receive_copy(self, topic: Topic, envelope: Envelope, order: int) -> None:
        if self.on_copy is not None:
            self.on_copy(topic, envelope, order)

    def publish_and_count(
        self, message: Message, topic: Topic, recipients: RecipientFilter = NO_FILTER
    ) -> bool:
        if gevent.getcurrent() is gevent.get_hub():  # the hub cannot wait for the reply
            self.publish(message, topic, recipients=recipients)
            return True
        subscriber = self._subscriber
        self.wait_until_settled(topic)
        self._publisher.check_connected(topic)
        own = subscriber.is_subscribed(topic)
        mark = self._sequence.next(topic)
        count = self._publish_and_wait(OutgoingMessage(topic, mark, message, recipients), TIMEOUT)
        # Redis counted this process as well if it was subscribed all the time.
        return count > (1 if own and subscriber.is_subscribed(topic) else 0)

    def send_request(
        self, message: Message, request: Request, recipients: RecipientFilter = NO_FILTER
    ) -> None:
        self._publisher.put(self._outgoing_request(message, request, recipients, _SERVERS))

    def send_request_and_count(
        self,
        message: Message,
        request: Request,
        recipients: RecipientFilter = NO_FILTER,
        topic: Topic = _SERVERS,
    ) -> int:
        self._publisher.wait_until_attempted(topic)
        self._publisher.check_connected(topic)
        answers = Topic.node(self.node)
        self._subscriber.wait_until_settled(answers)
        if not self._subscriber.is_subscribed(answers):
            raise BackplaneError("Redis has not confirmed the subscription to answers yet")
        return self._publish_and_wait(
            self._outgoing_request(message, request, recipients, topic),
            min(TIMEOUT, request.timeout),
        )

    def send_answer(self, message: Message, node: str, answer: Answer) -> None:
        topic = Topic.node(node)
        mark = self._sequence.next(topic)
        header = answer_header(answer)
        self._publisher.put(OutgoingMessage(topic, mark, message, header=header))

    def _outgoing_request(
        self, message: Message, request: Request, recipients: RecipientFilter, topic: Topic
    ) -> OutgoingMessage:
        return OutgoingMessage(
            topic,
            self._sequence.next(topic),
            message,
            recipients,
            header=request_header(request._replace(node=self.node)),
        )

    def _publish_and_wait(self, outgoing: OutgoingMessage, timeout: float) -> int:
        outgoing.result = gevent.event.AsyncResult()
        self._publisher.put(outgoing)
        try:
            count: int = outgoing.result.get(timeout=timeout)
        except gevent.Timeout:
            raise BackplaneError(f"Redis did not reply within {timeout} s") from None
        return count

    def stop(self) -> None:
        self._publisher.stop(TIMEOUT)
        self._subscriber.stop()


class RedisSender:
    """Backplane of a process without sockets, such as a worker, a cron job or a shell.

    Thread-safe, with or without gevent. Each call waits for Redis; all share one connection.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._address = parse_address(url)
        check_files(self._address)
        self._prefix = prefix
        self._lock = threading.Lock()
        self._reset()

    def publish_and_count(
        self, message: Message, *topics: Topic, recipients: RecipientFilter = NO_FILTER
    ) -> bool:
        """Publish, and return whether any process received the message.

        Raises:
            BackplaneError: Redis is unreachable or did not reply in time.
        """
        with self._lock:
            connection = self._connected()
            group, channels = _group(self._sequence, topics)
            marks = [self._sequence.next(topic) for topic in topics]
            header = None
            if group is not None and self._address.kind is Kind.CLUSTER:
                header = _header_of(marks)
            envelopes = [
                (
                    topic.address(self._prefix),
                    encode(topic, mark, message, recipients, group, channels, header),
                )
                for topic, mark in zip(topics, marks, strict=True)
            ]
            counts = connection.publish_together([envelopes])
        for count in counts:
            if isinstance(count, BackplaneError):
                raise count
        return any(counts)

    def send_request(
        self, message: Message, request: Request, recipients: RecipientFilter = NO_FILTER
    ) -> int:
        """Send a request to all servers, and return the number of processes that received it.

        Raises:
            BackplaneError: Redis is unreachable or did not reply in time.
        """
        topic = Topic.servers()
        header = request_header(request)
        with self._lock:
            connection = self._connected()
            mark = self._sequence.next(topic)
            envelope = encode(topic, mark, message, recipients, header=header)
            (count,) = connection.publish([(topic.address(self._prefix), envelope)])
        if isinstance(count, BackplaneError):
            raise count
        return count

    def ask(
        self, message: Message, request: Request, recipients: RecipientFilter = NO_FILTER
    ) -> Answers:
        """Send a request to all servers, and wait for their answers until its timeout.

        Each call opens a connection of its own for the answers.

        Raises:
            BackplaneError: Redis is unreachable or did not reply in time.
        """
        deadline = time.monotonic() + request.timeout
        answers = Answers(None)
        node = secrets.token_hex(8)
        topic = Topic.node(node)
        connection = self._subscribe(topic.address(self._prefix))
        try:
            request = request._replace(number=1, node=node)
            answers.expect(self.send_request(message, request, recipients))
            while not answers.is_complete:
                reply = connection.read_before(deadline)
                if reply is None or not reply[0].endswith(b"message"):
                    break  # the time is over, or the hash slot of the topic has moved
                with contextlib.suppress(InvalidEnvelope):
                    answers.receive(decode(reply[2], topic))
        finally:
            connection.close()
        return answers

    def _subscribe(self, topic: bytes) -> RedisConnection:
        """Open a connection of its own that is subscribed to a topic."""
        connection = open_connection(self._address, ANSWER_TIMEOUT)
        if isinstance(connection, ClusterConnection):
            return connection.open_subscribed(topic)
        try:
            connection.subscribe([topic])
            connection.read()  # the confirmation
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._sequence = SequenceCounter()
        self._connection: Any = None

    def _connected(self) -> AnyConnection:
        """Return the open connection; call with the lock."""
        if self._pid != os.getpid():  # forked: connection and sequence belong to the parent
            self._reset()
        connection: AnyConnection | None = self._connection
        if connection is not None and not connection.closed:
            try:
                connection.check()
                return connection
            except BackplaneError:  # closed while idle: no message was lost
                pass
        self._connection = connection = open_connection(self._address, ANSWER_TIMEOUT)
        return connection


def _header_of(marks: Sequence[Mark]) -> dict[str, Any]:
    """Return the field with the numbers of all copies, for topics that are not ordered."""
    return {"marks": [(mark.epoch, mark.number) for mark in marks]}


def _group(
    sequence: SequenceCounter, topics: Sequence[Topic]
) -> tuple[int | None, tuple[str, ...]]:
    """Return the number of a broadcast on several topics, and the names of their channels."""
    if len(topics) < 2:
        return None, ()
    return sequence.next_group(), tuple(topic.name for topic in topics)
