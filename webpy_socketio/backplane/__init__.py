"""Backplane interface: how a broadcast reaches the sockets of other processes.

Without ``SOCKETIO_BACKPLANE`` this package is unused: a single process needs no backplane. With
``"redis://..."`` or another URL of Redis, broadcasts reach every process with the same Redis and
the same ``SOCKETIO_BACKPLANE_PREFIX``; see `webpy_socketio.backplane.redis` and
`webpy_socketio.backplane.addresses`.

A backplane is independent of sockets. The registry subscribes to topics (`Backplane.subscribe`).
The backplane calls the `deliver` callback for each message published on one of them, and `on_gap`
when messages of other processes may be missing (`webpy_socketio.signals.gap`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from webpy_socketio.backplane.envelope import Envelope, Mark
from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.requests import Answer, Request
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.engine.io.packets import Message

__all__ = ["MAX_BYTES", "Backplane", "GapCallback", "Topic", "new_counts"]

#: Bytes of a message that may be published. Redis buffers published messages for each subscriber,
#: and disconnects a subscriber whose buffer reaches 32 MB.
MAX_BYTES = 1_000_000

#: Called with the node that sent missing messages, their number and their topic. All three are None
#: if the messages are unknown, as after an outage.
GapCallback = Callable[[str | None, int | None, Topic | None], None]


def new_counts() -> Counter[str]:
    """Return counters of problems between processes, at zero.

    ``"dropped"`` counts messages that were not published because Redis was unreachable or too slow.
    ``"ignored"`` counts invalid messages received on a topic, ``"gaps"`` calls of `GapCallback`.
    """
    return Counter(dropped=0, ignored=0, gaps=0)


class Backplane(Protocol):
    """Interface that the registry uses to reach other processes; for the hub's thread only."""

    #: Problems since the backplane was opened; see `new_counts`.
    counts: Counter[str]

    #: Called with the topics and marks of each message of `publish` that is not volatile, unless
    #: None. For a backplane that is not ordered.
    on_published: Callable[[Sequence[Topic], Sequence[Mark]], None] | None

    #: Called with the topic and envelope of each further copy of a broadcast on several topics,
    #: which is not delivered, and the number of the broadcast in the order of first copies, unless
    #: None. For a backplane that is not ordered.
    on_copy: Callable[[Topic, Envelope, int], None] | None

    #: Whether messages on all topics arrive in one order, the same in all processes. Otherwise only
    #: those on one topic do, as in a Redis Cluster.
    is_ordered: bool

    def open(self) -> None:
        """Subscribe to requests of other servers, and to answers; does not block."""

    def subscribe(self, *topics: Topic) -> None:
        """Add a reference to each topic, and subscribe to new ones; does not block."""

    def unsubscribe(self, *topics: Topic) -> None:
        """Remove a reference to each topic; the last one ends the subscription; does not block."""

    def retire(self, *topics: Topic) -> None:
        """Unsubscribe, and wait until all earlier messages have arrived; `unsubscribe` follows.

        Raises:
            BackplaneError: Redis has not confirmed it within a second.
        """

    def wait(self, *topics: Topic) -> None:
        """Wait until Redis has confirmed the subscriptions, or return if waiting is impossible."""

    def wait_until_settled(self, topic: Topic) -> None:
        """Wait until messages on a topic can be published, and its subscription is confirmed.

        It waits for a second at most for each of both. Directly after it, `publish_and_count` does
        not wait before it publishes.
        """

    def is_subscribed(self, topic: Topic) -> bool:
        """Return whether messages on a topic reach this process, as Redis has confirmed."""

    def publish(
        self, message: Message, *topics: Topic, recipients: RecipientFilter = NO_FILTER
    ) -> None:
        """Send one copy to each other process subscribed to any of the topics; does not block.

        `recipients` excludes sockets in those processes.
        """

    def publish_markers(self, topics: Collection[Topic], cut: tuple[str, str]) -> None:
        """Publish an envelope without an event on topics; does not block.

        It has a place in the order of each topic; see `Envelope.cut`.
        """

    def positions(self, topic: Topic) -> dict[str, tuple[int, int]]:
        """Return epoch and number of the last envelope of each node on a topic, own included."""

    @property
    def received_groups(self) -> int:
        """Number of the last received broadcast on several topics, if they are not ordered."""

    def publish_and_count(
        self, message: Message, topic: Topic, recipients: RecipientFilter = NO_FILTER
    ) -> bool:
        """Publish, wait for the reply, and return whether another process received the message.

        Raises:
            BackplaneError: Redis is unreachable or did not reply in time.
        """

    @property
    def connected(self) -> bool:
        """Whether messages can be sent to other processes and received from them."""

    @property
    def node(self) -> str:
        """Id of this process in the cluster; new for each start."""

    def send_request(
        self, message: Message, request: Request, recipients: RecipientFilter = NO_FILTER
    ) -> None:
        """Send a request to all servers; does not block."""

    def send_request_and_count(
        self,
        message: Message,
        request: Request,
        recipients: RecipientFilter = NO_FILTER,
        topic: Topic = ...,
    ) -> int:
        """Send a request, wait, and return the number of processes that received it.

        This process is one of them if its own copy is delivered to it.

        Raises:
            BackplaneError: Redis is unreachable or did not reply in time.
        """

    def send_answer(self, message: Message, node: str, answer: Answer) -> None:
        """Send an answer to a node; does not block."""

    def stop(self) -> None:
        """Send queued messages for at most one second, then close the connections."""
