"""What this process hears of presence: one connection to Redis that listens, channel by channel."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event

from webpy_socketio import BackplaneError, Outage
from webpy_socketio.plugins.presence.dialer import Connector

__all__ = ["PubSub"]

logger = logging.getLogger("webpy_socketio")

#: Seconds between two PINGs, and without a byte before the connection counts as dead.
PING_INTERVAL = 5.0
READ_TIMEOUT = 8.0

#: Seconds before the next attempt to connect, at most.
INTERVAL = 1.0

#: Messages after which others have their turn.
BATCH_SIZE = 64


class PubSub:
    """Listens to topics. For the thread of the hub.

    `heard` is called with what was published on one, and `ready` when one is listened to from now on:
    what was published before may have been missed. `lost` is called when the connection has ended.
    None of them may wait.
    """

    def __init__(
        self,
        url: str,
        heard: Callable[[bytes, bytes], None],
        ready: Callable[[bytes], None],
        lost: Callable[[], None],
    ) -> None:
        self._dialer = Connector(url, READ_TIMEOUT)
        self._heard = heard
        self._ready = ready
        self._lost = lost
        self._wanted: dict[bytes, None] = {}
        #: What Redis was asked for on this connection.
        self._asked: set[bytes] = set()
        self._dirty: dict[bytes, None] = {}
        self._wake = gevent.event.Event()
        self._stopping = False
        self._outage = Outage(
            "changes of presence in other processes are not shown until it answers"
        )
        self._greenlet = gevent.spawn(self._run)

    def subscribe(self, topic: bytes) -> None:
        """Begin; `ready` follows."""
        self._wanted[topic] = None
        self._dirty[topic] = None
        self._wake.set()

    def unsubscribe(self, topic: bytes) -> None:
        """End."""
        self._wanted.pop(topic, None)
        self._dirty[topic] = None
        self._wake.set()

    def stop(self) -> None:
        """End all."""
        self._stopping = True
        self._dialer.end(self._greenlet)

    def _run(self) -> None:
        while not self._stopping:
            link = writer = None
            try:
                link = self._dialer.open()
                if self._stopping:
                    return
                self._outage.end(link.where, "presence is read again")
                self._asked.clear()
                self._dirty = dict(self._wanted)
                writer = gevent.spawn(self._write, link)
                self._read(link)
            except BackplaneError as error:
                self._outage.begin(error)
            except Exception:  # a mistake of ours must not leave the process deaf
                logger.exception("presence: what other processes say could not be read")
            finally:
                if link is not None:
                    link.close()
                if writer is not None:
                    writer.kill()
                self._lost()
            gevent.sleep(random.uniform(INTERVAL / 2, INTERVAL))

    def _write(self, link: Any) -> None:
        try:
            self._send_changes(link)
            while True:
                if self._wake.wait(PING_INTERVAL):
                    self._send_changes(link)
                elif not link.has_data():
                    # Sending on a connection that Redis has closed would discard unread data.
                    link.send("PING")
        except BackplaneError:
            pass  # the reader takes what has arrived, fails then, and logs it

    def _send_changes(self, link: Any) -> None:
        self._wake.clear()
        dirty, self._dirty = self._dirty, {}
        wanted = [topic for topic in dirty if topic in self._wanted and topic not in self._asked]
        unwanted = [topic for topic in dirty if topic not in self._wanted and topic in self._asked]
        self._asked.update(wanted)
        self._asked.difference_update(unwanted)
        link.unsubscribe(unwanted)
        link.subscribe(wanted)

    def _read(self, link: Any) -> None:
        portion = 0
        while True:
            reply = link.read()
            kind = reply[0] if isinstance(reply, list) else None
            if kind == b"message":
                self._heard(reply[1], reply[2])
            elif kind == b"subscribe":
                self._ready(reply[1])
            portion += 1
            if portion % BATCH_SIZE == 0:
                gevent.sleep(0)
