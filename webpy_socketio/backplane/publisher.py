"""Publisher: a bounded queue, one greenlet and one connection to Redis."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gevent
import gevent.event

from webpy_socketio.backplane.addresses import RedisAddress
from webpy_socketio.backplane.connection import RedisConnection
from webpy_socketio.backplane.connector import RedisConnector, reconnect_delays
from webpy_socketio.backplane.envelope import Mark, encode
from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.outage import Outage
from webpy_socketio.backplane.sequence import SequenceCounter
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.backplane.warning_log import WarningLog
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import BackplaneError

__all__ = ["OutgoingMessage", "Publisher"]

logger = logging.getLogger("webpy_socketio")

#: Messages and bytes in the queue. Further messages are dropped.
MAX_WAITING = 16_384
MAX_WAITING_BYTES = 16 * 1024 * 1024

#: Messages and bytes in one write, before the replies are read.
BATCH = 128
BATCH_BYTES = 512 * 1024

#: Seconds for Redis to reply to a PUBLISH.
ANSWER_TIMEOUT = 5.0

#: Seconds without messages before a PING.
PING_INTERVAL = 10.0


@dataclass(slots=True)
class OutgoingMessage:
    """One message for one topic."""

    topic: Topic
    mark: Mark
    message: Message | None
    recipients: RecipientFilter = NO_FILTER
    group: int | None = None
    channels: tuple[str, ...] = ()
    #: Set to the number of processes that received the message.
    result: gevent.event.AsyncResult | None = None
    #: Further fields of the envelope's header.
    header: Mapping[str, Any] | None = None
    #: How often nodes of a Redis Cluster have redirected it.
    redirects: int = 0

    @property
    def size(self) -> int:
        return 0 if self.message is None else self.message.size


class Publisher:
    """Publishes messages in the order of `put`; for the hub's thread only."""

    def __init__(
        self,
        url: str | RedisAddress,
        prefix: str,
        sequence: SequenceCounter,
        counts: Counter[str],
    ) -> None:
        #: Whether the last attempt to connect succeeded.
        self.connected = False
        #: Set after the first attempt to connect.
        self.attempted = gevent.event.Event()
        #: Reason why there is no connection.
        self.error: BackplaneError | None = None
        self._connector = RedisConnector(url)
        self._prefix = prefix
        self._sequence = sequence
        self._counts = counts
        self._queue: deque[OutgoingMessage] = deque()
        self._bytes = 0
        self._wake = gevent.event.Event()
        self._stopping = False
        #: Topics on which a sequence number was used whose message may be lost.
        self._lost_topics: dict[Topic, None] = {}
        self._warnings = WarningLog()
        self._outage = Outage(
            "messages to other processes are queued, and dropped when the queue is full"
        )
        #: Messages dropped since the connection was opened.
        self._dropped = 0
        self._greenlet = gevent.spawn(self._run)

    def put(self, outgoing: OutgoingMessage) -> None:
        """Queue a message; drop it if the queue is full."""
        if len(self._queue) >= MAX_WAITING or self._bytes + outgoing.size > MAX_WAITING_BYTES:
            self._drop(outgoing, BackplaneError("the queue of messages to other processes is full"))
            return
        self._queue.append(outgoing)
        self._bytes += outgoing.size
        self._wake.set()

    def wait_until_attempted(self, topic: Topic) -> None:
        """Do nothing: the only connection was attempted when the backplane was opened."""

    def check_connected(self, topic: Topic) -> None:
        """Raise `BackplaneError` if a message on the topic cannot be sent now."""
        if not self.connected:
            raise self.error or BackplaneError("Redis has not replied yet")

    def stop(self, timeout: float) -> None:
        """Send queued messages for at most `timeout` seconds, then stop."""
        self._stopping = True
        self._wake.set()
        self._greenlet.join(timeout)
        self._connector.end(self._greenlet)
        error = self.error or BackplaneError("the server is stopping")
        while self._queue:
            self._drop(self._queue.popleft(), error)

    # -- greenlet

    def _run(self) -> None:
        delays = reconnect_delays()
        while not (self._stopping and not self._queue):
            connection = None
            failed = True
            try:
                connection = self._connector.open(ANSWER_TIMEOUT)
                connection.ping()
                self.connected, self.error = True, None
                self.attempted.set()
                self._outage.end(
                    connection.address, f"{self._dropped} messages to other processes were dropped"
                )
                self._dropped = 0
                delays = reconnect_delays()
                self._serve(connection)
                failed = False
            except BackplaneError as error:
                if not self._connector.ended:
                    self._outage.begin(error)
                self.connected, self.error = False, error
                self.attempted.set()
                self._fail_waiting(error)
            except Exception:  # a bug must not stop the publisher
                logger.exception("the publisher of the backplane failed; it reconnects")
            finally:
                self.connected = False
                if connection is not None:
                    connection.close()
            if failed:
                if self._stopping:
                    return
                gevent.sleep(next(delays))

    def _serve(self, connection: RedisConnection) -> None:
        """Publish until `stop`, or until the connection was closed while idle."""
        while True:
            batch = self._next_batch()
            if batch:
                try:
                    connection.check()
                except BackplaneError:
                    self._put_back(batch)  # none was sent: reconnect and send them again
                    return
                self._send(connection, batch)
            elif self._lost_topics:
                self._publish_markers()
            elif self._stopping:
                return
            else:
                self._wake.clear()
                if not self._wake.wait(PING_INTERVAL):
                    connection.ping()

    def _next_batch(self) -> list[OutgoingMessage]:
        batch: list[OutgoingMessage] = []
        size = 0
        while self._queue and (
            (len(batch) < BATCH and size < BATCH_BYTES) or _is_same_group(batch[-1], self._queue[0])
        ):
            outgoing = self._queue.popleft()
            size += outgoing.size
            batch.append(outgoing)
        self._bytes -= size
        return batch

    def _put_back(self, batch: list[OutgoingMessage]) -> None:
        self._queue.extendleft(reversed(batch))
        self._bytes += sum(outgoing.size for outgoing in batch)

    def _send(self, connection: RedisConnection, batch: list[OutgoingMessage]) -> None:
        connection.replies = []
        try:
            results = self._publish(connection, batch)
        except BaseException as error:
            self._set_results(batch, connection.replies)
            # At most once: messages that may have arrived are not sent again.
            for outgoing in batch[len(connection.replies) :]:
                self._drop(outgoing, error)
            raise
        self._set_results(batch, results)

    def _publish(self, connection: RedisConnection, batch: list[OutgoingMessage]) -> list[Any]:
        if all(outgoing.group is None for outgoing in batch):
            return connection.publish([self._encode(outgoing) for outgoing in batch])
        groups: list[list[tuple[bytes, bytes]]] = []
        last: OutgoingMessage | None = None
        for outgoing in batch:
            if last is None or not _is_same_group(last, outgoing):
                groups.append([])
            groups[-1].append(self._encode(outgoing))
            last = outgoing
        return connection.publish_together(groups)

    def _set_results(self, batch: list[OutgoingMessage], results: list[Any]) -> None:
        for outgoing, result in zip(batch, results, strict=False):
            if isinstance(result, BackplaneError):
                if outgoing.message is not None:  # a rejected marker would be rejected again
                    self._drop(outgoing, result)
            elif outgoing.result is not None:
                outgoing.result.set(result)

    def _encode(self, outgoing: OutgoingMessage) -> tuple[bytes, bytes]:
        topic, mark, message = outgoing.topic, outgoing.mark, outgoing.message
        envelope = encode(
            topic,
            mark,
            message,
            outgoing.recipients,
            outgoing.group,
            outgoing.channels,
            outgoing.header,
        )
        return topic.address(self._prefix), envelope

    def _publish_markers(self) -> None:
        """Publish the last sequence number of topics with losses; no message may follow soon."""
        for topic in list(self._lost_topics)[:BATCH]:
            del self._lost_topics[topic]
            self.put(OutgoingMessage(topic, self._sequence.next(topic), None))

    def _drop(self, outgoing: OutgoingMessage, error: BaseException) -> None:
        # A topic whose sequence was discarded needs no marker; the limit is the same.
        if len(self._lost_topics) < MAX_WAITING:
            self._lost_topics[outgoing.topic] = None
        if outgoing.message is not None:
            self._counts["dropped"] += 1
            self._dropped += 1
            self._warnings.warn("a message to other processes was dropped: %s", str(error))
        if outgoing.result is not None:
            outgoing.result.set_exception(
                error if isinstance(error, BackplaneError) else BackplaneError("interrupted")
            )

    def _fail_waiting(self, error: BackplaneError) -> None:
        """Raise the error in waiting callers; messages without a caller stay in the queue."""
        waiting = [outgoing for outgoing in self._queue if outgoing.result is not None]
        if waiting:
            self._queue = deque(outgoing for outgoing in self._queue if outgoing.result is None)
            self._bytes = sum(outgoing.size for outgoing in self._queue)
            for outgoing in waiting:
                self._drop(outgoing, error)


def _is_same_group(one: OutgoingMessage, other: OutgoingMessage) -> bool:
    """Return whether two messages are copies of one broadcast.

    They are published together: a session that moves between two servers at the same time must not
    find one copy before its move and another one after it.
    """
    return one.group is not None and one.group == other.group
