"""Session handover: suspended sockets of a server that stops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gevent

from webpy_socketio.adopted_sessions import ADOPT, CAN_ADOPT, AdoptedSessions, Readiness
from webpy_socketio.backplane.requests import Request
from webpy_socketio.engine.socketio.packets import encode_ack
from webpy_socketio.exceptions import BackplaneError
from webpy_socketio.parked_sessions import BUNDLE, ParkedSessions
from webpy_socketio.recoverable import Recoverable
from webpy_socketio.recovery import Recovery
from webpy_socketio.recovery_directory import RecoveryDirectory
from webpy_socketio.registry import SocketRegistry, topics_of_socket
from webpy_socketio.released_sessions import ReleasedSessions
from webpy_socketio.server_requests import ServerRequests

__all__ = ["SessionHandover"]

logger = logging.getLogger("webpy_socketio")

#: Seconds for other servers to answer whether they adopt sessions, and for Redis to store some.
ASK_TIMEOUT, PARK_TIMEOUT = 1.0, 3.0

#: Seconds without any progress after which the remaining sessions end. There is no limit for the
#: whole handover: it takes as long as other servers need.
STALL_TIME = 6.0

#: Sessions that one request offers to a server: the first number, and the largest one. It is
#: doubled after a request that took less than `FAST`, and halved after one that took longer than
#: `SLOW`, in seconds.
FIRST_CHUNK, MAX_CHUNK = 16, 128
FAST, SLOW = 0.2, 1.0

#: Seconds for which a server that has failed receives no further offers.
PAUSE = 0.5

#: Seconds between two checks whether handlers have finished, or other servers are ready.
_INTERVAL = 0.02


class Peers(NamedTuple):
    """The other servers of the cluster."""

    #: By node.
    readiness: dict[str, Readiness]
    #: Whether all of them have answered.
    is_complete: bool

    def find_adopters(self, own: str) -> list[str]:
        """Return the servers to which a server that hands over its sessions offers them.

        Args:
            own: The node of that server.
        """
        best = max(self.readiness.values(), default=Readiness.NONE)
        nodes = [node for node, each in self.readiness.items() if each is best]
        if best > Readiness.HANDING_OVER:
            return nodes
        return [max(nodes)] if best and max(nodes) > own else []

    @property
    def have_sessions(self) -> bool:
        """Whether any of them may have sessions: none may be parked before they have arrived."""
        return not self.is_complete or any(self.readiness.values())


class SessionHandover:
    """Hands the sessions of a server that stops to other servers, or parks them in Redis.

    Args:
        recovery: Recovery of this runtime.
        registry: Sockets of this runtime.
        requests: Requests of this runtime.
        released: Sessions that move to other servers.
        adopted: Sessions that move here.
        directory: Entries of sessions that have moved.
        parked: Sessions in Redis.
    """

    def __init__(
        self,
        recovery: Recovery,
        registry: SocketRegistry[Any],
        requests: ServerRequests,
        released: ReleasedSessions,
        adopted: AdoptedSessions,
        directory: RecoveryDirectory,
        parked: ParkedSessions,
    ) -> None:
        self._recovery = recovery
        self._registry = registry
        self._requests = requests
        self._released = released
        self._adopted = adopted
        self._directory = directory
        self._parked = parked
        #: When servers have not adopted sessions in time.
        self._failed_at: dict[str, float] = {}
        #: When a session has moved last.
        self._progress = 0.0
        #: Time after which sessions move while handlers run, or claims of clients are pending.
        self._late = 0.0

    def run(self, find: Callable[[], Sequence[Recoverable]], timeout: float) -> None:
        """Hand over suspended sockets; those for which it is impossible stay suspended.

        Args:
            find: Returns the suspended sockets. Other servers that stop may add some meanwhile.
            timeout: Seconds for the handlers of the sockets to finish.
        """
        self._adopted.readiness = Readiness.HANDING_OVER
        try:
            self._late = time.monotonic() + max(timeout, 0.0)
            self._run(find)
        except BackplaneError as error:
            logger.warning(
                "clients cannot resume their sessions after this server has stopped: %s", str(error)
            )
        finally:
            self._adopted.readiness = Readiness.NONE
        self._released.expire()

    def _run(self, find: Callable[[], Sequence[Recoverable]]) -> None:
        self._progress = time.monotonic()
        is_announced = False
        known = 0
        try:
            while time.monotonic() < max(self._late, self._progress) + STALL_TIME:
                sockets = find()
                if len(sockets) > known:  # another server has handed over some
                    self._progress = time.monotonic()
                known = len(sockets)
                if not sockets:
                    self._adopted.readiness = Readiness.NONE
                    self._adopted.settle(ASK_TIMEOUT)
                    if not find():
                        return
                    continue
                ready = [each for each in sockets if self._is_ready(each)]
                peers = self._find_peers() if ready else None
                if peers is None:
                    gevent.sleep(_INTERVAL)
                elif adopters := peers.find_adopters(self._node):
                    self._offer(ready, adopters)
                elif not is_announced:
                    # Before the last look for other servers: those that start later wait.
                    self._parked.begin(ASK_TIMEOUT)
                    is_announced = True
                elif peers.have_sessions or len(ready) < len(sockets):
                    gevent.sleep(_INTERVAL)
                else:
                    self._adopted.readiness = Readiness.NONE
                    self._adopted.settle(ASK_TIMEOUT)
                    self._park(find())
                    return
            logger.warning(
                "%d sessions end, because no other server has adopted any for %.0f s",
                len(find()),
                STALL_TIME,
            )
        finally:
            if is_announced:
                self._parked.end()

    @property
    def _node(self) -> str:
        return self._recovery.node

    def _is_ready(self, socket: Recoverable) -> bool:
        """Return whether no handler is running, and no client is about to resume the session.

        After the time for both, all sessions are ready.
        """
        if time.monotonic() > self._late:
            return True
        claim = socket.claim
        return not socket.is_busy and (claim is None or not claim.is_pending)

    # -- other servers

    def _find_peers(self) -> Peers:
        """Return the other servers.

        Raises:
            BackplaneError: Redis is unreachable.
        """
        request = Request(CAN_ADOPT, timeout=ASK_TIMEOUT)
        message = encode_ack("/", 0, (self._registry.parser.NAME,))
        answers = self._requests.ask(message, request, to_self=False)
        found = {node: Readiness(value) for node, value in answers.values}
        return Peers(found, answers.is_complete)

    def _offer(self, sockets: Sequence[Recoverable], nodes: Sequence[str]) -> None:
        """Offer sockets to servers; those that were not adopted stay suspended."""
        now = time.monotonic()
        nodes = [node for node in nodes if self._failed_at.get(node, 0.0) + PAUSE <= now]
        if not nodes:
            gevent.sleep(_INTERVAL)
            return
        jobs = [
            gevent.spawn(self._offer_to, node, sockets[start :: len(nodes)])
            for start, node in enumerate(nodes)
        ]
        gevent.joinall(jobs)
        if any(socket.is_suspended for socket in sockets):
            gevent.sleep(_INTERVAL)

    def _offer_to(self, node: str, sockets: Sequence[Recoverable]) -> None:
        """Offer sockets to one server: one request after the other, as fast as it answers."""
        start, size = 0, FIRST_CHUNK
        while start < len(sockets):
            offers = []
            chunk = sockets[start : start + size]
            start += size
            for socket in chunk:
                # A client may have claimed it since: an offer would replace this claim.
                claim = self._released.offer(socket) if self._is_ready(socket) else 0
                if claim:
                    offer = (socket.pid, socket.namespace, claim, socket.session_id)
                    offers.append((*offer, socket.channels))
            began = time.monotonic()
            try:
                if offers:
                    logger.debug("%d sessions are offered to the server %s", len(offers), node)
                    self._requests.ask_node(node, ADOPT, *offers, timeout=STALL_TIME)
            except BackplaneError as error:
                self._failed_at[node] = time.monotonic()
                logger.warning("a server has not adopted sessions: %s", str(error))
                return
            finally:
                if any(not socket.is_suspended for socket in chunk):
                    self._progress = time.monotonic()
            elapsed = time.monotonic() - began
            if elapsed < FAST:
                size = min(2 * size, MAX_CHUNK)
            elif elapsed > SLOW:
                size = max(size // 2, 1)

    # -- Redis

    def _park(self, sockets: Sequence[Recoverable]) -> None:
        """Store sessions in Redis, after the last message to them has arrived.

        Raises:
            BackplaneError: Redis is unreachable; the sockets that are not stored end here.
        """
        backplane: Any = self._registry.backplane
        sockets = [socket for socket in sockets if self._released.offer(socket)]
        if not sockets or backplane is None:
            return
        topics = {
            topic: None
            for socket in sockets
            for topic in topics_of_socket(socket.namespace, socket.session_id, socket.channels)
        }
        # From here on, senders get `NoSocket`.
        backplane.retire(*topics)
        packed: list[tuple[Recoverable, Any]] = []
        for socket in sockets:
            session = self._released.pack(socket)
            if session is not None:
                packed.append((socket, session))
                # No server can claim it any more. Before it is stored, so that clients wait for it.
                self._directory.park(socket.pid)
                self._recovery.forget(socket)
                socket.depart()
        while packed:
            bundle = packed[:BUNDLE]
            until = time.monotonic() + PARK_TIMEOUT
            try:
                self._parked.push([session for _, session in bundle], until)
            except BackplaneError:
                for socket, _ in packed:
                    self._directory.unpark(socket.pid)
                    socket.end("server shutting down")
                raise
            logger.debug("%d sessions are parked in Redis", len(bundle))
            for socket, _ in bundle:
                socket.forget()
            del packed[:BUNDLE]
        self._directory.flush(PARK_TIMEOUT)
