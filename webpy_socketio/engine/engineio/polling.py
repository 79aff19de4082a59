"""The long-polling transport: a GET receives messages, a POST sends them.

Engine.IO protocol v4, "HTTP long-polling". `Polling.poll`, `Polling.receive` and
`Polling.end_receive` may wait, and need a greenlet. The other methods do not wait and may run on
the hub, as for `HubConnection`.

The maximum size of a POST is enforced before: by the HTTP parser, with the limit of
`RequestHandler.body_limit`, and by `read_post_body`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

#: The types and data of the packets of a POST.
Packets = Iterator[tuple[bytes, "bytes | str"]]

#: Reasons after which no close packet is kept: the client is gone or cannot continue the session.
_NO_FINAL_POLL = frozenset(("transport error", "ping timeout", "slow reader", "parse error"))

#: Packets of one body handled before yielding to other greenlets.
_BATCH_SIZE = 128


class Polling:
    """The long-polling transport of one session."""

    __slots__ = (
        "_final_packet",
        "_may_read",
        "_on_ready",
        "_probed",
        "_receiving",
        "_session",
        "_waiting",
        "arriving",
    )

    name = "polling"

    #: Messages are written only in response to a GET.
    try_send = None

    def __init__(self, session: Session) -> None:
        #: Whether the head of a POST has arrived and its packets are not handled yet.
        self.arriving = False
        self._session = session
        self._waiting = False
        #: Called when the waiting GET can be answered.
        self._on_ready: Callable[[], object] | None = None
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
    def paused(self) -> bool:
        """Whether packets must not be read for now."""
        return self._may_read is not None

    @property
    def waiting(self) -> bool:
        """Whether a GET is waiting for messages."""
        return self._waiting

    @property
    def awaits_poll(self) -> bool:
        """Whether a closed session is kept until the next GET has received the close packet."""
        session = self._session
        if self._waiting:
            # The waiting GET receives the close packet, unless it receives queued messages.
            return bool(session.outbox) and session.reason != "transport close"
        if session.rejected:
            # With an empty outbox, the response to the POST is enough. The Engine.IO protocol
            # suite expects status 400 for the next GET.
            return bool(session.outbox)
        if session.reason == "transport close":
            # After a close by POST, the server may still receive a GET that the client sent
            # earlier, on another connection.
            return self._receiving
        return session.reason not in _NO_FINAL_POLL

    # -- Transport: called by the session and its outbox

    def flush(self) -> None:
        if self._session.outbox:
            self._notify()

    @property
    def is_closing(self) -> bool:
        """Whether the close packet is not sent yet."""
        return self._final_packet == CLOSE

    def close(self, code: int, reason: str) -> None:
        """Send the queued messages with the waiting or the next GET, then a close packet."""
        # A client that closed the session itself expects a noop for its pending GET.
        self._final_packet = NOOP if self._session.reason == "transport close" else CLOSE
        self._notify()
        self.resume()
        if not self._waiting and not self.awaits_poll:
            self._session.transport_ended()  # otherwise a GET ends it

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

    def set_probed(self, probed: bool) -> None:
        """Pause or resume long-polling when a WebSocket was probed, or is lost before the upgrade.

        While paused, GETs are answered with a noop at once and messages stay queued.
        """
        self._probed = probed
        if probed:
            self._notify()

    def end_for_upgrade(self) -> None:
        """End a waiting GET with a noop, because a WebSocket has replaced this transport."""
        self._final_packet = NOOP
        self._notify()

    # -- requests

    def poll(self, watch: Watch) -> bytes:
        """Wait for messages and return them as a payload.

        Raises:
            ProtocolError: Another GET is waiting. The messages would be split between the two.
        """
        wake = gevent.event.Event()
        payload = self.begin_poll(wake.set)
        if payload is not None:
            return payload
        try:
            with watch(self.connection_lost):
                wake.wait()
            return self._take_payload()
        finally:
            self.cancel_poll()

    def begin_poll(self, on_ready: Callable[[], object]) -> bytes | None:
        """Return the payload of a GET, or None if there are no messages yet.

        If None is returned, `on_ready` is called once when the payload is ready. Call `end_poll`
        then.

        Raises:
            ProtocolError: Another GET is waiting.
        """
        if self._waiting:
            self._session.reject("transport error")
            raise ProtocolError("overlapping GET requests")
        if self._final_packet is not None or self._probed or self._session.outbox:
            return self._take_payload()
        self._waiting = True
        self._on_ready = on_ready
        return None

    def cancel_poll(self) -> None:
        """Clear the waiting GET."""
        self._waiting = False
        self._on_ready = None

    def end_poll(self) -> bytes:
        """Return the payload of the GET that has waited."""
        self.cancel_poll()
        return self._take_payload()

    def receive(self, body: bytes) -> None:
        """Pass the packets of a POST to the session; waits while reading is paused.

        Raises:
            ProtocolError: A packet is invalid, or another POST is in progress.
        """
        if self._receiving:
            self._session.reject("transport error")
            raise ProtocolError("overlapping POST requests")
        self.end_receive(decode_payload(body))

    def begin_receive(self, body: bytes) -> Packets | None:
        """Pass the packets of a POST to the session until one of them pauses reading.

        Call only if no POST is in progress and reading is not paused.

        Returns:
            The remaining packets, which `end_receive` must handle; None if reading is not paused.

        Raises:
            ProtocolError: A packet is invalid.
        """
        session = self._session
        packets = decode_payload(body)
        self._receiving = True
        paused = False
        try:
            for kind, data in packets:
                session.receive(kind, data)
                if not session.open:
                    break
                if self._may_read is not None:
                    paused = True
                    return packets
        except ProtocolError:
            session.reject()
            raise
        finally:
            self._receiving = paused
        return None

    def end_receive(self, packets: Packets) -> None:
        """Pass packets of a POST to the session; waits while reading is paused.

        Raises:
            ProtocolError: A packet is invalid.
        """
        session = self._session
        self._receiving = True
        try:
            for number, (kind, data) in enumerate(packets, 1):
                if not number % _BATCH_SIZE:
                    gevent.sleep(0)
                # Backpressure: delays the response. Nothing resumes the transport of a closed
                # session.
                while self._may_read is not None and session.open:
                    self._may_read.wait()
                if not session.open:
                    return
                session.receive(kind, data)
        except ProtocolError:
            session.reject()
            raise
        finally:
            self._receiving = False

    def _notify(self) -> None:
        """Notify the waiting GET that its payload is ready."""
        on_ready, self._on_ready = self._on_ready, None
        if on_ready is not None:
            on_ready()

    def _take_payload(self) -> bytes:
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
        if payload:
            # The close packet has a response of its own: the stock client handles messages in the
            # next turn of its event loop, and closing discards those of the same response.
            self._final_packet = final
        return payload or final

    def connection_lost(self) -> None:
        """Close the session: its client closed the connection of the waiting GET."""
        self._session.close("transport close")
