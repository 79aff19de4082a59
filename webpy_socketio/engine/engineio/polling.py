"""Long-polling: a GET that waits for messages, a POST that brings some.

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

#: Watches the request's connection while it waits: calls back if the client hangs up.
Watch = Callable[[Callable[[], None]], AbstractContextManager[None]]


#: Reasons after which the client does not poll again: it is gone, has lost messages, or broke the
#: protocol on a WebSocket.
_SILENT = frozenset(("transport error", "ping timeout", "slow reader", "parse error"))

#: Packets of one body that are handled before others have their turn.
_BATCH_SIZE = 128


class Polling:
    """The long-polling transport of one session."""

    __slots__ = (
        "_answer",
        "_may_read",
        "_probed",
        "_receiving",
        "_session",
        "_waiting",
        "_wake",
        "arriving",
    )

    name = "polling"

    #: A client waits for an answer, or will ask: there is nothing to write to before.
    try_send = None

    def __init__(self, session: Session) -> None:
        #: Whether a POST is on its way: its head is there, its body perhaps not yet.
        self.arriving = False
        self._session = session
        self._wake = gevent.event.Event()
        self._waiting = False
        self._receiving = False
        self._probed = False
        self._answer: bytes | None = None
        self._may_read: gevent.event.Event | None = None

    @property
    def receiving(self) -> bool:
        """Whether a POST is being read."""
        return self.arriving or self._receiving

    @property
    def waiting(self) -> bool:
        """Whether a GET is waiting."""
        return self._waiting

    @property
    def awaits_poll(self) -> bool:
        """Whether a closed session is kept until the client's next GET has received its end."""
        session = self._session
        if self._waiting:
            return False  # the GET that waits receives it
        if session.rejected:
            # With nothing queued, the response to its POST says everything. The protocol suite of
            # Engine.IO expects 400 for the next GET.
            return bool(session.outbox)
        if session.reason == "transport close":
            # A client that closes by a POST may have sent a GET just before: on two connections,
            # and the second one may be read first.
            return self._receiving
        return session.reason not in _SILENT

    # -- what the session asks of its transport

    def flush(self) -> None:
        if self._session.outbox:
            self._wake.set()

    def close(self, code: int, reason: str) -> None:
        """The GET that waits, or the next one, gets what is left and a close packet."""
        # A client that closed by itself has its last GET ended by a noop, as it waits for no more.
        self._answer = NOOP if self._session.reason == "transport close" else CLOSE
        self._wake.set()
        self.resume()

    def abort(self) -> None:
        """A GET that waits takes nothing but the close packet: the outbox is empty by now."""

    def unsent(self) -> int:
        return 0  # what a GET has taken is its own to write

    def pause(self) -> None:
        self._may_read = gevent.event.Event()

    def resume(self) -> None:
        if self._may_read is not None:
            self._may_read.set()
            self._may_read = None

    # -- an upgrade

    def probed(self, probed: bool) -> None:
        """A WebSocket was probed: let the client's GET go, so that nothing more comes this way.

        Also tells when that WebSocket was lost before it could take over.
        """
        self._probed = probed
        if probed:
            self._wake.set()

    def replaced(self) -> None:
        """A WebSocket took over; a GET that still waits is let go."""
        self._answer = NOOP
        self._wake.set()

    # -- the two requests

    def poll(self, watch: Watch) -> bytes:
        """Wait for something to send and return it as a payload.

        Raises `ProtocolError` if another GET is waiting: a client polls once at a time, and two
        would share the messages between them.
        """
        if self._waiting:
            self._session.reject("transport error")
            raise ProtocolError("two GET requests at once")
        self._waiting = True
        try:
            if not self._ready():
                self._wake.clear()
                with watch(self._hung_up):
                    self._wake.wait()
            return self._take()
        finally:
            self._waiting = False

    def receive(self, body: bytes) -> None:
        """Hand the packets of a POST on; raises `ProtocolError` at the first bad one."""
        if self._receiving:
            self._session.reject("transport error")
            raise ProtocolError("two POST requests at once")
        session = self._session
        self._receiving = True
        try:
            for number, (kind, data) in enumerate(decode_payload(body), 1):
                if not number % _BATCH_SIZE:
                    gevent.sleep(0)
                while self._may_read is not None:  # the handlers are behind: hold the answer back
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
        return self._answer is not None or self._probed or bool(self._session.outbox)

    def _take(self) -> bytes:
        replaced = self._session.transport is not self
        if replaced or (self._probed and self._answer is None):
            return NOOP
        messages = self._session.outbox.take()
        payload = encode_payload(messages)
        if self._answer is None:
            return payload or NOOP
        answer, self._answer = self._answer, None
        if answer == NOOP:
            return payload or NOOP
        return payload + b"\x1e" + answer if payload else answer

    def _hung_up(self) -> None:
        """The client's connection broke while its GET waited: what is sent now would be lost."""
        self._session.close("transport close")
