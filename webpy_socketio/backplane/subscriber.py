"""What this process listens to: one connection, a greenlet that reads and one that writes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from webpy_socketio.backplane import Warnings, counts, send_gap
from webpy_socketio.backplane.connection import Connector, RedisConnection, pauses
from webpy_socketio.backplane.envelope import Envelope, InvalidEnvelope, beginning, decode
from webpy_socketio.backplane.outage import Outage
from webpy_socketio.backplane.sequence import Groups, Positions
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.exceptions import BackplaneError

__all__ = ["Subscriber"]

logger = logging.getLogger("webpy_socketio")

#: Seconds between two PINGs, and without a byte before the connection counts as dead: the network
#: may forget it without telling anybody.
PING_INTERVAL = 10.0
READ_TIMEOUT = 15.0

#: Seconds that a subscription is waited for.
CONFIRM_TIMEOUT = 1.0

#: Messages after which others have their turn: what is there already is not waited for.
BATCH_SIZE = 64

_ABSENT, _ASKED, _THERE, _LEAVING = "absent", "asked", "there", "leaving"

#: The PING behind all SUBSCRIBEs of a new connection; its answer comes when they are in force.
_RENEWED = b"renewed"


class _Subscription:
    """One topic. At most one command about it is under way; what is wanted then may change."""

    __slots__ = ("address", "holders", "late", "positions", "settled", "state", "topic")

    def __init__(self, topic: Topic, address: bytes) -> None:
        self.topic = topic
        self.address = address
        #: How many want it.
        self.holders = 0
        self.state = _ABSENT
        #: Whether somebody was told to be subscribed before it was so.
        self.late = False
        self.settled: gevent.event.Event | None = None
        self.positions = Positions()

    def settle(self, state: str) -> None:
        """It is so now; tell who waits."""
        self.state = state
        if self.settled is not None:
            self.settled.set()
            self.settled = None


class Subscriber:
    """Holds topics, and passes on what others say on them. For the thread of the hub."""

    def __init__(
        self, url: str, prefix: str, node: str, deliver: Callable[[Topic, Envelope], None]
    ) -> None:
        #: Set when it is known whether there is a connection.
        self.tried = gevent.event.Event()
        self._dialer = Connector(url)
        self._prefix = prefix
        self._own = beginning(node)
        self._deliver = deliver
        self._topics: dict[Topic, _Subscription] = {}
        self._by_address: dict[bytes, _Subscription] = {}
        self._dirty: dict[_Subscription, None] = {}
        self._wake = gevent.event.Event()
        self._connected = False
        #: Whether Redis let somebody wait in vain; until it answers again, nobody else waits.
        self._slow = False
        #: Whether something may have been missed while there was no connection.
        self._outage = False
        self._groups = Groups()
        self._warnings = Warnings()
        self._log = Outage("messages of other processes are missed until it answers")
        self._greenlet = gevent.spawn(self._run)

    def subscribe(self, topic: Topic) -> None:
        """Somebody wants it."""
        subscription = self._topics.get(topic)
        if subscription is None:
            subscription = _Subscription(topic, topic.address(self._prefix))
            self._topics[topic] = self._by_address[subscription.address] = subscription
        subscription.holders += 1
        if subscription.holders == 1:
            self._change(subscription)

    def unsubscribe(self, topic: Topic) -> None:
        """Somebody wants it no more."""
        subscription = self._topics[topic]
        subscription.holders -= 1
        if not subscription.holders:
            if self._connected:
                self._change(subscription)
            else:
                self._forget(subscription)

    def wait(self, topic: Topic) -> None:
        """Return once it is confirmed; soon in any case, and at once if there is nobody to wait for."""
        subscription = self._topics[topic]
        if not self._settle(subscription, _THERE):
            subscription.late = True

    def settle(self, topic: Topic) -> None:
        """Return once it is as it is wanted; soon in any case."""
        subscription = self._topics.get(topic)
        if subscription is not None:
            self._settle(subscription, _THERE if subscription.holders else _ABSENT)

    def is_subscribed(self, topic: Topic) -> bool:
        """Whether a message to a topic comes to us too."""
        subscription = self._topics.get(topic)
        return subscription is not None and subscription.state is _THERE

    def stop(self) -> None:
        """End."""
        self._dialer.end(self._greenlet)

    # -- what is wanted

    def _change(self, subscription: _Subscription) -> None:
        self._dirty[subscription] = None
        self._wake.set()

    def _settle(self, subscription: _Subscription, state: str) -> bool:
        if subscription.state is state:
            return True
        on_hub = gevent.getcurrent() is gevent.get_hub()
        if not self._connected or self._slow or on_hub:
            return False
        with gevent.Timeout(CONFIRM_TIMEOUT, False):
            while self._connected and subscription.state is not state:
                if subscription.settled is None:
                    subscription.settled = gevent.event.Event()
                subscription.settled.wait()
            return subscription.state is state
        self._slow = True
        return False

    def _forget(self, subscription: _Subscription) -> None:
        del self._topics[subscription.topic]
        del self._by_address[subscription.address]
        self._dirty.pop(subscription, None)

    # -- the connection

    def _run(self) -> None:
        pause = pauses()
        while not self._dialer.ended:
            link = writer = None
            try:
                link = self._dialer.open(READ_TIMEOUT)
                pause = pauses()
                self._begin()
                self.tried.set()
                writer = gevent.spawn(self._write, link)
                self._read(link)
            except BackplaneError as error:
                if not self._dialer.ended:
                    self._log.begin(error)
            except Exception:  # a mistake of ours must not leave the process deaf
                logger.exception("what other processes say could not be read")
            finally:
                if link is not None:
                    link.close()
                if writer is not None:
                    writer.kill()
                self._end()
            self.tried.set()
            if not self._dialer.ended:
                gevent.sleep(next(pause))

    def _begin(self) -> None:
        self._connected, self._slow = True, False
        self._outage = bool(self._topics)
        self._dirty = dict.fromkeys(self._topics.values())

    def _end(self) -> None:
        self._connected = False
        self._groups = Groups()
        for subscription in list(self._topics.values()):
            subscription.positions = Positions()
            subscription.settle(_ABSENT)
            if not subscription.holders:
                self._forget(subscription)
        self._dirty.clear()

    def _write(self, link: RedisConnection) -> None:
        try:
            self._send_changes(link)
            link.send("PING", _RENEWED)
            while True:
                if self._wake.wait(PING_INTERVAL):
                    self._send_changes(link)
                elif not link.has_data():
                    # Sending on a connection that Redis has closed would discard unread data.
                    link.send("PING")
        except BackplaneError:
            pass  # the reader takes what has arrived, fails then, and logs it

    def _send_changes(self, link: RedisConnection) -> None:
        self._wake.clear()
        dirty, self._dirty = self._dirty, {}
        wanted: list[bytes] = []
        unwanted: list[bytes] = []
        for subscription in dirty:
            if subscription.holders and subscription.state is _ABSENT:
                subscription.state = _ASKED
                wanted.append(subscription.address)
            elif not subscription.holders and subscription.state is _THERE:
                subscription.state = _LEAVING
                unwanted.append(subscription.address)
            elif not subscription.holders and subscription.state is _ABSENT:
                self._forget(subscription)  # it was wanted for less than a moment
        link.unsubscribe(unwanted)
        link.subscribe(wanted)

    # -- what comes

    def _read(self, link: RedisConnection) -> None:
        portion = 0
        while True:
            reply = link.read()
            kind = reply[0] if isinstance(reply, list) else None
            if kind == b"message":
                self._receive(reply[1], reply[2])
                portion += 1
                if portion % BATCH_SIZE == 0:
                    gevent.sleep(0)
            elif kind == b"subscribe" or kind == b"unsubscribe":
                self._confirmed(reply[1], _THERE if kind == b"subscribe" else _ABSENT)
            elif reply in (_RENEWED, [b"pong", _RENEWED]):
                self._renewed(link.where)

    def _renewed(self, where: str) -> None:
        """All subscriptions of a new connection are in force."""
        if self._outage:
            self._log.end(where, "an unknown number of messages of other processes may be missing")
            send_gap(self)
            self._outage = False
        else:
            self._log.end(where, "nothing was missed, as no socket was connected")

    def _confirmed(self, address: bytes, state: str) -> None:
        self._slow = False
        subscription = self._by_address[address]
        subscription.settle(state)
        if state is _THERE and subscription.late:
            subscription.late = False
            if not self._outage:
                send_gap(self, topic=subscription.topic)
        if state is _ABSENT:
            subscription.positions = Positions()
            if not subscription.holders:
                self._forget(subscription)
        if bool(subscription.holders) != (state is _THERE):
            self._change(subscription)

    def _receive(self, address: bytes, payload: Any) -> None:
        subscription = self._by_address.get(address)
        if subscription is None or payload.startswith(self._own):
            return
        topic = subscription.topic
        try:
            envelope = decode(payload, topic)
        except InvalidEnvelope as error:
            counts["ignored"] += 1
            self._warnings.warn("ignored what came on %r: %s", address, str(error))
            return
        verdict = subscription.positions.judge(envelope)
        if verdict.gap:
            send_gap(self, envelope.mark.node, verdict.missed, topic)
        if verdict.fresh and envelope.packet is not None and self._groups.is_new(envelope):
            try:
                self._deliver(topic, envelope)
            except Exception:  # one message must not end all others
                logger.exception("a message of another process could not be delivered")
