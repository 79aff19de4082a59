"""The long-polling transport: a GET receives messages, a POST sends them.

Engine.IO protocol v4, "HTTP long-polling". Both run in the greenlet of their HTTP request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import gevent
import gevent.event

from webpy_socketio.engine.engineio.payloads import decode_payload, encode_payload
from webpy_socketio.engine.engineio.session import Session
from webpy_socketio.engine.io.packets import CLOSE, NOOP
from webpy_socketio.exceptions import ProtocolError

__all__ = ["Polling"]

#: Context manager that calls a function if the client closes the connection of a waiting request.
Watch = Callable[[Callable[[], None]], AbstractContextManager[None]]


#: Reasons after which no close packet is kept: the client is gone or cannot continue the session.
_NO_FINAL_POLL = frozenset(("transport error", "ping timeout", "slow reader", "parse error"))

#: Packets of one body handled before yielding to other greenlets.
_BATCH_SIZE = 128


class Polling:
    """The long-polling transport of one session."""

    __slots__ = (
        "_final_packet",
        "_may_read",
        "_probed",
        "_receiving",
        "_session",
        "_waiting",
        "_wake",
        "arriving",
    )

    name = "polling"

    #: Messages are written only in response to a GET.
    try_send = None

    def __init__(self, session: Session) -> None:
        #: Whether the head of a POST has arrived and its packets are not handled yet.
        self.arriving = False
        self._session = session
        self._wake = gevent.event.Event()
        self._waiting = False
        self._receiving = False
        self._probed = False
        #: Last packet of this transport, once it is closed or replaced.
        self._final_packet: bytes | None = None
        self._may_read: gevent.event.Event | None = None

    @property
    def receiving(self) -> bool:
        """Whether a POST is in progress."""
        return self.arriving or self._receiving

    @property
    def waiting(self) -> bool:
        """Whether a GET is waiting for messages."""
        return self._waiting

    @property
    def awaits_poll(self) -> bool:
        """Whether a closed session is kept until the next GET has received the close packet."""
        session = self._session
        if self._waiting:
            return False  # the waiting GET receives the close packet
        if session.rejected:
            # With an empty outbox, the response to the POST is enough. The Engine.IO protocol
            # suite expects status 400 for the next GET.
            return bool(session.outbox)
        if session.reason == "transport close":
            # A client that closes by a POST may have sent a GET before, on another connection,
            # which the server may read later.
            return self._receiving
        return session.reason not in _NO_FINAL_POLL

    # -- Transport: called by the session and its outbox

    def flush(self) -> None:
        if self._session.outbox:
            self._wake.set()

    def close(self, code: int, reason: str) -> None:
        """Send the queued messages and a close packet with the waiting or the next GET."""
        # A client that closed the session itself expects a noop for its pending GET.
        self._final_packet = NOOP if self._session.reason == "transport close" else CLOSE
        self._wake.set()
        self.resume()

    def abort(self) -> None:
        """Do nothing: the outbox is empty, so a waiting GET returns the close packet only."""

    def unsent(self) -> int:
        return 0  # messages taken by a GET are written by the HTTP server

    def pause(self) -> None:
        self._may_read = gevent.event.Event()

    def resume(self) -> None:
        if self._may_read is not None:
            self._may_read.set()
            self._may_read = None

    # -- upgrade

    def probed(self, probed: bool) -> None:
        """Pause or resume long-polling when a WebSocket was probed, or is lost before the upgrade.

        While paused, GETs are answered with a noop at once and messages stay queued.
        """
        self._probed = probed
        if probed:
            self._wake.set()

    def replaced(self) -> None:
        """End a waiting GET with a noop, because a WebSocket has replaced this transport."""
        self._final_packet = NOOP
        self._wake.set()

    # -- requests

    def poll(self, watch: Watch) -> bytes:
        """Wait for messages and return them as a payload.

        Raises:
            ProtocolError: Another GET is waiting. The messages would be split between the two.
        """
        if self._waiting:
            self._session.reject("transport error")
            raise ProtocolError("overlapping GET requests")
        self._waiting = True
        try:
            if not self._ready():
                self._wake.clear()
                with watch(self._connection_lost):
                    self._wake.wait()
            return self._take()
        finally:
            self._waiting = False

    def receive(self, body: bytes) -> None:
        """Pass the packets of a POST to the session.

        Raises:
            ProtocolError: A packet is invalid, or another POST is in progress.
        """
        if self._receiving:
            self._session.reject("transport error")
            raise ProtocolError("overlapping POST requests")
        session = self._session
        self._receiving = True
        try:
            for number, (kind, data) in enumerate(decode_payload(body), 1):
                if not number % _BATCH_SIZE:
                    gevent.sleep(0)
                while self._may_read is not None:  # backpressure: delays the response
                    self._may_read.wait()
                if not session.open:
                    return
                session.receive(kind, data)
        except ProtocolError:
            session.reject()
            raise
        finally:
            self._receiving = False

    def _ready(self) -> bool:
        return self._final_packet is not None or self._probed or bool(self._session.outbox)

    def _take(self) -> bytes:
        replaced = self._session.transport is not self
        if replaced or (self._probed and self._final_packet is None):
            return NOOP
        messages = self._session.outbox.take()
        payload = encode_payload(messages)
        if self._final_packet is None:
            return payload or NOOP
        final, self._final_packet = self._final_packet, None
        if final == NOOP:
            return payload or NOOP
        return payload + b"\x1e" + final if payload else final

    def _connection_lost(self) -> None:
        """Close the session: its client closed the connection of the waiting GET."""
        self._session.close("transport close")
