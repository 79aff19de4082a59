"""Subscriptions to the changes of presence: one connection to Redis."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from webpy_socketio import BackplaneError, Outage
from webpy_socketio.plugins.presence.connector import Connector

__all__ = ["PubSub"]

logger = logging.getLogger("webpy_socketio")

#: Seconds between two PINGs, and seconds without a byte after which the connection is dead.
PING_INTERVAL = 5.0
READ_TIMEOUT = 8.0

#: Maximum seconds before the next attempt to connect.
INTERVAL = 1.0

#: Messages read before other greenlets run.
BATCH_SIZE = 64


class PubSub:
    """Subscribes to topics; for the hub's thread only.

    `on_message` is called with each message. `on_subscribed` is called when a subscription is in
    force; earlier messages may have been missed. `on_disconnected` is called when the connection
    has ended. None of them may block.
    """

    def __init__(
        self,
        url: str,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
        on_disconnected: Callable[[], None],
    ) -> None:
        self._connector = Connector(url, READ_TIMEOUT)
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_disconnected = on_disconnected
        self._wanted: dict[bytes, None] = {}
        #: Topics for which SUBSCRIBE was sent on this connection.
        self._requested: set[bytes] = set()
        self._dirty: dict[bytes, None] = {}
        self._wake = gevent.event.Event()
        self._stopping = False
        self._outage = Outage("changes of presence in other processes are not reported")
        self._greenlet = gevent.spawn(self._run)

    def subscribe(self, topic: bytes) -> None:
        """Subscribe to a topic; `on_subscribed` follows."""
        self._wanted[topic] = None
        self._dirty[topic] = None
        self._wake.set()

    def unsubscribe(self, topic: bytes) -> None:
        """Unsubscribe from a topic."""
        self._wanted.pop(topic, None)
        self._dirty[topic] = None
        self._wake.set()

    def stop(self) -> None:
        """Close the connection."""
        self._stopping = True
        self._connector.end(self._greenlet)

    def _run(self) -> None:
        while not self._stopping:
            redis = writer = None
            try:
                redis = self._connector.open()
                if self._stopping:
                    return
                self._outage.end(redis.address, "presence is being read again")
                self._requested.clear()
                self._dirty = dict(self._wanted)
                writer = gevent.spawn(self._write, redis)
                self._read(redis)
            except BackplaneError as error:
                self._outage.begin(error)
            except Exception:  # a bug must not stop the subscriptions
                logger.exception(
                    "presence: reading changes of other processes failed; it reconnects"
                )
            finally:
                if redis is not None:
                    redis.close()
                if writer is not None:
                    writer.kill()
                self._on_disconnected()
            gevent.sleep(random.uniform(INTERVAL / 2, INTERVAL))

    def _write(self, redis: Any) -> None:
        try:
            self._send_changes(redis)
            while True:
                if self._wake.wait(PING_INTERVAL):
                    self._send_changes(redis)
                elif not redis.has_data():
                    # Writing to a connection that Redis has closed would discard unread data.
                    redis.send("PING")
        except BackplaneError:
            pass  # the reader drains the connection, fails and logs the error

    def _send_changes(self, redis: Any) -> None:
        self._wake.clear()
        dirty, self._dirty = self._dirty, {}
        wanted = [
            topic for topic in dirty if topic in self._wanted and topic not in self._requested
        ]
        unwanted = [
            topic for topic in dirty if topic not in self._wanted and topic in self._requested
        ]
        self._requested.update(wanted)
        self._requested.difference_update(unwanted)
        redis.unsubscribe(unwanted)
        redis.subscribe(wanted)

    def _read(self, redis: Any) -> None:
        count = 0
        while True:
            reply = redis.read()
            kind = reply[0] if isinstance(reply, list) else None
            if kind == b"message":
                self._on_message(reply[1], reply[2])
            elif kind == b"subscribe":
                self._on_subscribed(reply[1])
            count += 1
            if count % BATCH_SIZE == 0:
                gevent.sleep(0)
