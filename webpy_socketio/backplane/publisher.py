"""What this process publishes: one greenlet, one connection, one queue with a limit."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import gevent
import gevent.event

from webpy_socketio.backplane import Warnings, counts
from webpy_socketio.backplane.connection import Connector, RedisConnection, pauses
from webpy_socketio.backplane.envelope import Mark, encode
from webpy_socketio.backplane.outage import Outage
from webpy_socketio.backplane.sequence import SequenceCounter
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import BackplaneError

__all__ = ["OutgoingMessage", "Publisher"]

logger = logging.getLogger("webpy_socketio")

#: What may wait for Redis. Beyond it is dropped: in memory it would be kept for people who will not
#: miss it any more.
MAX_WAITING = 16_384
MAX_WAITING_BYTES = 16 * 1024 * 1024

#: What is written at once, before the answers are read.
BATCH = 128
BATCH_BYTES = 512 * 1024

#: Seconds for Redis to answer a PUBLISH.
ANSWER_TIMEOUT = 5.0

#: Seconds after which an idle connection is tried.
PING_INTERVAL = 10.0


@dataclass(slots=True)
class OutgoingMessage:
    """One message for one topic."""

    topic: Topic
    mark: Mark
    message: Message | None
    skip: str | None = None
    group: int | None = None
    channels: tuple[str, ...] = ()
    #: Who waits for how many processes it went to.
    answer: gevent.event.AsyncResult | None = None

    @property
    def size(self) -> int:
        return 0 if self.message is None else self.message.size


class Publisher:
    """Sends parcels in the order they come. For the thread of the hub."""

    def __init__(self, url: str, prefix: str, numbering: SequenceCounter) -> None:
        #: Whether there is a connection, as far as is known.
        self.connected = False
        #: Set when it is known whether there is one.
        self.tried = gevent.event.Event()
        #: Why there is none.
        self.trouble: BackplaneError | None = None
        self._dialer = Connector(url)
        self._prefix = prefix
        self._numbering = numbering
        self._queue: deque[OutgoingMessage] = deque()
        self._bytes = 0
        self._wake = gevent.event.Event()
        self._stopping = False
        #: Topics of which a number was used and may have got lost.
        self._lost: dict[Topic, None] = {}
        self._warnings = Warnings()
        self._outage = Outage("messages to other processes wait until it answers, or are dropped")
        #: Since the last connection was opened.
        self._dropped = 0
        self._greenlet = gevent.spawn(self._run)

    def put(self, parcel: OutgoingMessage) -> None:
        """Send it when it is its turn; dropped when too much waits already."""
        if len(self._queue) >= MAX_WAITING or self._bytes + parcel.size > MAX_WAITING_BYTES:
            self._drop(parcel, BackplaneError("too much waits to be published"))
            return
        self._queue.append(parcel)
        self._bytes += parcel.size
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Send what waits, and end."""
        self._stopping = True
        self._wake.set()
        self._greenlet.join(timeout)
        self._dialer.end(self._greenlet)
        error = self.trouble or BackplaneError("the server stops")
        while self._queue:
            self._drop(self._queue.popleft(), error)

    # -- how

    def _run(self) -> None:
        pause = pauses()
        while not (self._stopping and not self._queue):
            link = None
            failed = True
            try:
                link = self._dialer.open(ANSWER_TIMEOUT)
                link.ping()
                self.connected, self.trouble = True, None
                self.tried.set()
                self._outage.end(
                    link.where, f"{self._dropped} messages to other processes were dropped"
                )
                self._dropped = 0
                pause = pauses()
                self._serve(link)
                failed = False
            except BackplaneError as error:
                if not self._dialer.ended:
                    self._outage.begin(error)
                self.connected, self.trouble = False, error
                self.tried.set()
                self._fail_waiting(error)
            except Exception:  # a mistake of ours must not leave the process mute
                logger.exception("what was to be published could not be")
            finally:
                self.connected = False
                if link is not None:
                    link.close()
            if failed:
                if self._stopping:
                    return
                gevent.sleep(next(pause))

    def _serve(self, link: RedisConnection) -> None:
        """Publish until the end; or until the connection was closed while nothing was under way."""
        while True:
            batch = self._take()
            if batch:
                try:
                    link.check()
                except BackplaneError:
                    self._put_back(batch)  # nothing of it is sent yet: a new connection, at once
                    return
                self._send(link, batch)
            elif self._lost:
                self._mark_losses()
            elif self._stopping:
                return
            else:
                self._wake.clear()
                if not self._wake.wait(PING_INTERVAL):
                    link.ping()

    def _take(self) -> list[OutgoingMessage]:
        batch: list[OutgoingMessage] = []
        size = 0
        while self._queue and len(batch) < BATCH and size < BATCH_BYTES:
            parcel = self._queue.popleft()
            size += parcel.size
            batch.append(parcel)
        self._bytes -= size
        return batch

    def _put_back(self, batch: list[OutgoingMessage]) -> None:
        self._queue.extendleft(reversed(batch))
        self._bytes += sum(parcel.size for parcel in batch)

    def _send(self, link: RedisConnection, batch: list[OutgoingMessage]) -> None:
        link.replies = []
        try:
            results: list[Any] = list(link.publish([self._pack(parcel) for parcel in batch]))
        except BaseException as error:
            self._take_answers(batch, link.replies)
            # At most once: what may have arrived is not sent again.
            for parcel in batch[len(link.replies) :]:
                self._drop(parcel, error)
            raise
        self._take_answers(batch, results)

    def _take_answers(self, batch: list[OutgoingMessage], results: list[Any]) -> None:
        for parcel, result in zip(batch, results, strict=False):
            if isinstance(result, BackplaneError):
                if parcel.message is not None:  # a mark that is refused would be so for ever
                    self._drop(parcel, result)
            elif parcel.answer is not None:
                parcel.answer.set(result)

    def _pack(self, parcel: OutgoingMessage) -> tuple[bytes, bytes]:
        envelope = encode(parcel.mark, parcel.message, parcel.skip, parcel.group, parcel.channels)
        return parcel.topic.address(self._prefix), envelope

    def _mark_losses(self) -> None:
        """Say on each topic which number has been reached, as no other message may follow soon."""
        for topic in list(self._lost)[:BATCH]:
            del self._lost[topic]
            self.put(OutgoingMessage(topic, self._numbering.next(topic), None))

    def _drop(self, parcel: OutgoingMessage, error: BaseException) -> None:
        # A topic of which the numbers are forgotten needs no mark; the limit is the same.
        if len(self._lost) < MAX_WAITING:
            self._lost[parcel.topic] = None
        if parcel.message is not None:
            counts["dropped"] += 1
            self._dropped += 1
            self._warnings.warn("a message did not get to other processes: %s", str(error))
        if parcel.answer is not None:
            parcel.answer.set_exception(
                error if isinstance(error, BackplaneError) else BackplaneError("interrupted")
            )

    def _fail_waiting(self, error: BackplaneError) -> None:
        """Whoever waits for an answer gets one now; the others' messages wait on."""
        waiting = [parcel for parcel in self._queue if parcel.answer is not None]
        if waiting:
            self._queue = deque(parcel for parcel in self._queue if parcel.answer is None)
            self._bytes = sum(parcel.size for parcel in self._queue)
            for parcel in waiting:
                self._drop(parcel, error)
