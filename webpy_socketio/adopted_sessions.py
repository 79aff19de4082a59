"""Adopted sessions: those that move from another server to this one."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import gevent
import gevent.event
from gevent.lock import BoundedSemaphore
from gevent.pool import Group

from webpy_socketio.backplane import Topic
from webpy_socketio.backplane.warning_log import WarningLog
from webpy_socketio.bus.signals import send_robust
from webpy_socketio.detached_connection import DetachedHost
from webpy_socketio.engine.socketio.connection import Application, Connection
from webpy_socketio.engine.socketio.packets import decode_body
from webpy_socketio.exceptions import BackplaneError
from webpy_socketio.message_cut import MessageCut
from webpy_socketio.move_decisions import MoveDecisions
from webpy_socketio.offsets import MAX_LENGTH
from webpy_socketio.parked_sessions import ParkedSessions
from webpy_socketio.recoverable import Recoverable
from webpy_socketio.recovery import Recovery
from webpy_socketio.recovery_directory import PARKED, RecoveryDirectory, digest
from webpy_socketio.registry import SocketRegistry, topics_of, topics_of_socket
from webpy_socketio.released_sessions import CLAIM, CONFIRM, MOVE, MOVE_BY_TOPICS, move_name
from webpy_socketio.server_replies import Reply
from webpy_socketio.server_requests import Incoming, ServerRequests
from webpy_socketio.session_transfer import TransferredSession, decode
from webpy_socketio.topic_cut import Seen, TopicCut
from webpy_socketio.topic_markers import END, START, TopicMarkers

__all__ = ["ADOPT", "CAN_ADOPT", "AdoptedSessions", "AdoptingHost", "Offer", "Readiness"]

logger = logging.getLogger("webpy_socketio")

#: Kinds of requests of a server that stops: whether this one adopts sessions, and to adopt some.
CAN_ADOPT, ADOPT = "can adopt sessions", "adopt sessions"

#: Seconds between two checks whether a parked session was adopted.
_PARKED_INTERVAL = 0.05

#: Seconds for all requests of one move.
TIMEOUT = 1.0

#: Seconds for the other server to answer a confirmation, which only shortens its wait.
CONFIRM_TIMEOUT = 5.0

#: Seconds between two claims of a session whose handlers run on the other server.
_BUSY_INTERVAL = 0.1

_TOO_SLOW = f"moving it has taken more than {TIMEOUT} s"

#: Clients whose sessions move here at the same time; further ones wait. With more of them, each
#: would take longer than a second on a busy machine.
MAX_MOVES = 8

#: Attempts to find and move one session.
MAX_ATTEMPTS = 8

#: A pid: the secret, and the server that has created it.
_PID = re.compile(r"[A-Za-z0-9_-]{32}\.([0-9a-f]{16})")


class AdoptingHost(Application, Protocol):
    """The dispatcher of a server, which creates the sockets of adopted sessions."""

    def restore(self, connection: Connection) -> Recoverable:
        """Create a socket with a closed connection."""

    def restore_context(self, socket: Any) -> None:
        """Restore what handlers need, after the request of a socket has changed."""


class Readiness(IntEnum):
    """Whether a server adopts sessions of servers that stop; the greatest one is preferred."""

    #: It has not started, or has handed over its own sessions.
    NONE = 0
    #: It hands over its own sessions. Among several such servers, sessions move to the one with the
    #: greatest node, which parks those of all.
    HANDING_OVER = 1
    #: It closes connections.
    DRAINING = 2
    RUNNING = 3


class Offer(NamedTuple):
    """A session that another server gives up when it is asked."""

    pid: str
    namespace: str
    #: Number of the claim on the other server.
    claim: int
    session_id: str
    channels: Sequence[str]


class Superseded(Exception):
    """A newer connection has claimed the session."""


class HandlersRunning(Exception):
    """The session cannot move yet: its handlers run on the other server.

    Args:
        number: Number of the claim there.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class AdoptedSessions:
    """Moves sessions to this server; for the hub's thread only.

    Args:
        recovery: Recovery of this runtime.
        registry: Sockets of this runtime.
        requests: Requests of this runtime.
        directory: Entries of sessions that have moved.
        parked: Sessions of servers that have stopped.
        decisions: Decide which server keeps a session.
        on_adopted: Called with the pid of a session that has moved here.
        find_new_server: Returns the server to which a session has moved from here, or None.
        markers: Markers of other servers.
    """

    def __init__(
        self,
        recovery: Recovery,
        registry: SocketRegistry[Any],
        requests: ServerRequests,
        directory: RecoveryDirectory,
        parked: ParkedSessions,
        decisions: MoveDecisions,
        on_adopted: Callable[[str], None],
        find_new_server: Callable[[str], str | None],
        markers: TopicMarkers,
    ) -> None:
        self._parked = parked
        self._decisions = decisions
        self._adopting_parked = BoundedSemaphore(1)
        #: Bundles of parked sessions that have caused an exception.
        self._unusable: set[str] = set()
        self._recovery = recovery
        self._registry = registry
        self._requests = requests
        self._directory = directory
        self._on_adopted = on_adopted
        self._find_new_server = find_new_server
        self._markers = markers
        self._detached = DetachedHost(registry.parser)
        self._limit = BoundedSemaphore(MAX_MOVES)
        #: Sessions that clients wait for, and sessions that are moving here, with or without a
        #: client; each event is set at the end.
        self._fetching: dict[str, gevent.event.Event] = {}
        self._moving: dict[str, gevent.event.Event] = {}
        #: Greenlets that confirm moves.
        self._confirming = Group()
        #: When Redis was unreachable at the beginning of a move, and when servers did not answer.
        self._failed_at = -math.inf
        self._silent_at: dict[str, float] = {}
        self._warnings = WarningLog()
        #: The dispatchers of the running servers.
        self.hosts: list[AdoptingHost] = []
        #: The dispatcher that adopts sessions while the last server stops.
        self.last_host: AdoptingHost | None = None
        #: What other servers that stop may expect of this one.
        self.readiness = Readiness.NONE
        requests.handle(CAN_ADOPT, self._answer_can_adopt)
        requests.handle(ADOPT, self._handle_adopt, may_wait=True)

    def close(self) -> None:
        """Release the greenlets."""
        for kind in (CAN_ADOPT, ADOPT):
            self._requests.forget(kind)
        self._detached.dispose()

    def settle(self, timeout: float) -> None:
        """Wait until the sessions that are moving here have arrived."""
        gevent.wait(list(self._moving.values()), timeout)
        self._confirming.join(timeout)

    def wait(self, pid: str, timeout: float) -> None:
        """Wait until a session has arrived, if it is moving here."""
        for events in (self._fetching, self._moving):
            if pid in events:
                events[pid].wait(timeout)

    def fetch(self, pid: str, connection: Connection, offset: object) -> None:
        """Move the session of a CONNECT here, if another server holds it."""
        found = _PID.fullmatch(pid)
        if found is None:
            return
        until = time.monotonic() + TIMEOUT
        while pid in self._fetching or pid in self._moving:
            self.wait(pid, max(0.0, until - time.monotonic()))
            if time.monotonic() > until:
                return
        if self._recovery.find(pid, connection.namespace) is not None:
            return
        if not isinstance(offset, str) or len(offset) > MAX_LENGTH:
            offset = None
        earlier = 0
        try:
            with _marking(self._fetching, [pid]):
                # The client may give up, or its time to connect ends (SOCKETIO_CONNECT_TIMEOUT).
                while connection.deciding:
                    try:
                        self._fetch_in_time(pid, found[1], connection, offset, earlier)
                        break
                    except HandlersRunning as running:
                        earlier = running.number
                    gevent.sleep(_BUSY_INTERVAL)
        except BackplaneError as error:
            self._warnings.warn(
                "a client could not resume its session, which another server holds: %s", str(error)
            )
        except Superseded:
            connection.refuse("the session was resumed by another connection")
        except Exception:  # a bug, or an answer of another version: the client must get an answer
            logger.exception("moving a session from another server failed")

    def _fetch_in_time(
        self, pid: str, node: str, connection: Connection, offset: object, earlier: int
    ) -> None:
        """Move a session here, after earlier clients that wait.

        Raises:
            BackplaneError: Redis or the other server did not answer in time.
            HandlersRunning: The session cannot move yet.
            Superseded: A newer connection has claimed it.
        """
        queued_at = time.monotonic()
        with self._limit:
            if self._failed_at > queued_at:  # Redis was unreachable for an earlier client
                return
            if not connection.deciding:  # a newer connection of the client may have claimed it
                return
            until = time.monotonic() + TIMEOUT
            with gevent.Timeout(TIMEOUT, BackplaneError(_TOO_SLOW)):
                self._fetch(pid, node, connection, offset, queued_at, until, earlier)

    def _fetch(
        self,
        pid: str,
        node: str,
        connection: Connection,
        offset: object,
        queued_at: float,
        until: float,
        earlier: int,
    ) -> None:
        host: Any = connection.application
        backplane = self._registry.backplane
        try:
            node = self._directory.find(pid, _remaining(until)) or node
        except BackplaneError:
            self._failed_at = time.monotonic()
            raise
        for _ in range(MAX_ATTEMPTS):
            if pid in self._moving:
                self._moving[pid].wait(_remaining(until))
            if self._recovery.find(pid, connection.namespace) is not None:
                return
            while node == PARKED:  # another server may be about to adopt it
                # In another greenlet: a timeout here must not lose what was taken from Redis.
                gevent.spawn(self._try_to_adopt_parked, host, until).join(_remaining(until))
                gevent.sleep(_PARKED_INTERVAL)
                node = self._directory.find(pid, _remaining(until)) or ""
            if backplane is not None and node == backplane.node:
                if pid in self._moving:
                    continue
                node = self._find_new_server(pid) or ""
            if backplane is None or not node:
                return
            if self._silent_at.get(node, -math.inf) > queued_at:  # others have waited in vain
                return
            if not connection.deciding:
                return
            answer, error = self._claim(node, pid, connection.namespace, offset, until, earlier)
            status = next(iter(answer), error or "not found")
            logger.debug("claim of session %s on %s: %s", digest(pid), node, status)
            earlier = 0
            if not connection.deciding:  # as this server may stop, the session must not move here
                return
            if pid in self._moving:  # the other server stops, and has offered it
                continue
            if "claim" in answer:
                session_id, channels = answer["session_id"], answer["channels"]
                offer = Offer(pid, connection.namespace, answer["claim"], session_id, channels)
                (status,) = self.adopt(node, [offer], host, until)
                logger.debug("move of session %s from %s: %s", digest(pid), node, status)
                if status == "superseded":
                    raise Superseded
                if status != "changed":
                    return
            elif "busy" in answer:
                raise HandlersRunning(answer["busy"])
            elif "superseded" in answer:
                raise Superseded
            elif "moved" in answer:
                node = answer["moved"]
            else:  # the session may have moved since
                known, node = node, self._directory.find(pid, _remaining(until)) or ""
                if node in ("", known):
                    if error is not None:
                        raise error
                    return

    def _claim(
        self, node: str, pid: str, namespace: str, offset: object, until: float, earlier: int
    ) -> tuple[dict[str, Any], BackplaneError | None]:
        """Claim a session, and return the answer; empty if the server does not hold it.

        The error is the reason why there is no answer.
        """
        timeout = _remaining(until)
        try:
            answers = self._requests.ask_node(
                *(node, CLAIM, pid, namespace, offset, self._registry.parser.NAME, earlier),
                timeout=timeout,
            )
        except BackplaneError as error:  # it may have stopped meanwhile
            if len(self._silent_at) >= MAX_MOVES:  # clients may choose the names of servers
                self._silent_at.clear()
            self._silent_at[node] = time.monotonic()
            return {}, error
        return (answers[0] if answers else {}), None

    # -- sessions of servers that stop, or have stopped

    def _answer_can_adopt(self, incoming: Incoming, reply: Reply) -> None:
        (parser,) = decode_body(incoming.packet.body, ())
        is_same = parser == self._registry.parser.NAME
        reply.add(int(self.readiness if is_same else Readiness.NONE))
        reply.finish()

    def _handle_adopt(self, incoming: Incoming, reply: Reply) -> None:
        """Adopt the sessions that a server offers because it stops."""
        offers = [Offer(*fields) for fields in decode_body(incoming.packet.body, ())]
        # A client that waits here moves its session itself.
        offers = [offer for offer in offers if offer.pid not in self._fetching]
        until = time.monotonic() + incoming.request.timeout
        try:
            host = self.hosts[0] if self.hosts else self.last_host
            if host is None or self.readiness is Readiness.NONE:
                raise BackplaneError("this server is stopping as well")
            if offers:
                self.adopt(incoming.node, offers, host, until)
            self._directory.flush(_remaining(until))
        except BackplaneError as error:
            logger.warning("sessions of a server that stops were not adopted: %s", str(error))
            reply.finish(has_failed=True)
        else:
            reply.finish()

    def _try_to_adopt_parked(self, host: AdoptingHost, until: float) -> None:
        with contextlib.suppress(BackplaneError):  # the caller reports it as well
            self.adopt_parked(host, until)

    def adopt_parked(self, host: AdoptingHost, until: float) -> None:
        """Adopt all parked sessions, one bundle after another.

        Args:
            host: Creates the sockets.
            until: Deadline, in seconds of `time.monotonic`.

        Raises:
            BackplaneError: Redis did not reply in time.
        """
        with self._adopting_parked:
            for number, sessions in self._parked.read(until):
                if number in self._unusable:
                    continue
                try:
                    self._adopt_bundle(number, sessions, host)
                except BackplaneError:
                    raise
                except Exception:  # one bundle, possibly of another version, must not stop a server
                    self._unusable.add(number)
                    logger.exception("adopting parked sessions failed; they are ignored")

    def _adopt_bundle(
        self, number: str, sessions: Sequence[TransferredSession], host: AdoptingHost
    ) -> None:
        offers = [
            Offer(*(each.pid, each.namespace, 0, each.session_id, each.channels))
            for each in sessions
        ]
        topics = _topics(offers)
        backplane: Any = self._registry.backplane
        with _marking(self._moving, [offer.pid for offer in offers]):
            backplane.subscribe(*topics)
            backplane.wait(*topics)
            sockets = self._prepare_all(offers, host)
            is_taken = False
            try:
                is_taken = self._parked.take(number)
            finally:
                for socket, offer, session in zip(sockets, offers, sessions, strict=True):
                    if is_taken:
                        seen = Seen.from_json(session.seen)
                        self._deliver_late_copies(socket, _topics([offer]), seen)
                        self._complete(socket, offer, session, host)
                    else:
                        self._discard(socket)

    # -- moves

    def adopt(
        self, node: str, offers: Sequence[Offer], host: AdoptingHost, until: float
    ) -> list[str]:
        """Move offered sessions here.

        Args:
            node: The server that has offered them.
            offers: The sessions.
            host: Creates the sockets.
            until: Deadline, in seconds of `time.monotonic`.

        Returns:
            For each session "moved", "ended", "changed" (its channels have changed meanwhile, or
            its server has offered it to another one), or "superseded" (a newer connection has
            claimed it).

        Raises:
            BackplaneError: Redis is unreachable, or the server did not answer in time. No session
                has moved.
        """
        with _marking(self._moving, [offer.pid for offer in offers]):
            return self._move(node, offers, host, until)

    def _move(
        self, node: str, offers: Sequence[Offer], host: AdoptingHost, until: float
    ) -> list[str]:
        topics = _topics(offers)
        backplane: Any = self._registry.backplane
        backplane.subscribe(*topics)
        is_subscribed = False
        try:
            backplane.wait(*topics)
            is_subscribed = all(map(backplane.is_subscribed, topics))
            if not is_subscribed:
                raise BackplaneError("Redis has not confirmed the subscriptions of a session")
        finally:
            if not is_subscribed:
                backplane.unsubscribe(*topics)
        sockets = self._prepare_all(offers, host)
        moved: list[tuple[Recoverable, Offer]] = []
        try:
            statuses, sessions = self._request(node, offers, sockets, until)
            moved = [
                (socket, offer)
                for socket, offer, status in zip(sockets, offers, statuses, strict=True)
                if status == "moved"
            ]
        finally:
            kept = {socket for socket, _ in moved}
            for socket in sockets:
                if socket not in kept:
                    self._discard(socket)
        if moved:
            # In another greenlet: a client may give up, but one of the servers must keep the
            # sessions, and send their last stages.
            job = self._confirming.spawn(self._finish, node, moved, sessions, host)
            job.join(_remaining(until))
            if not job.ready():
                raise BackplaneError(_TOO_SLOW)
        return statuses

    def _finish(
        self,
        node: str,
        moved: Sequence[tuple[Recoverable, Offer]],
        sessions: Sequence[TransferredSession],
        host: AdoptingHost,
    ) -> None:
        """Keep the sessions that the other server has not ended meanwhile."""
        decided = [False] * len(moved)
        try:
            decided = self._decide(node, [offer for _, offer in moved])
        except BackplaneError as error:
            self._warnings.warn("sessions of another server have ended: %s", str(error))
        confirmed = []
        for (socket, offer), session, is_kept in zip(moved, sessions, decided, strict=True):
            if is_kept:
                self._complete(socket, offer, session, host)
                confirmed.append(offer.pid)
            else:
                self._discard(socket)
        if confirmed:
            self._confirming.spawn(self._confirm, node, confirmed)

    def _prepare_all(self, offers: Sequence[Offer], host: AdoptingHost) -> list[Recoverable]:
        """Create the sockets of sessions whose topics are subscribed.

        After an exception, none of them exists, and the topics are not subscribed any more.
        """
        sockets: list[Recoverable] = []
        try:
            for offer in offers:
                socket = self._prepare(offer, host)
                sockets.append(socket)
        except BaseException:
            for prepared in sockets:
                self._discard(prepared)
            backplane: Any = self._registry.backplane
            backplane.unsubscribe(*_topics(offers[len(sockets) + 1 :]))
            raise
        return sockets

    def _prepare(self, offer: Offer, host: AdoptingHost) -> Recoverable:
        """Create the socket of a session and make it a recipient of messages."""
        backplane: Any = self._registry.backplane
        connection = self._detached.create(
            host, offer.namespace, offer.session_id, "transport close"
        )
        socket = host.restore(connection)
        socket.pid = offer.pid
        try:
            socket.arrive(offer.channels)
        except BaseException:  # such as a channel in the format of another version
            left = offer.channels[len(socket.channels) :]
            self._discard(socket)
            backplane.unsubscribe(*topics_of(offer.namespace, left))
            raise
        if self._recovery.late_copies is not None:
            self._recovery.late_copies.expect(socket, backplane.received_groups)
        return socket

    def _request(
        self,
        node: str,
        offers: Sequence[Offer],
        sockets: Sequence[Recoverable],
        until: float,
    ) -> tuple[list[str], list[TransferredSession]]:
        """Make the other server give up sessions, and return its answer."""
        backplane: Any = self._registry.backplane
        if not backplane.is_ordered:
            return self._request_by_topics(node, offers, sockets, until)
        cut = MessageCut(node)
        cuts = self._recovery.cuts
        cuts.append(cut)
        fields = [(offer.pid, offer.namespace, offer.claim, offer.channels) for offer in offers]
        try:
            answers = self._requests.ask_node(
                node,
                MOVE,
                *fields,
                timeout=_remaining(until),
                on_copy=cut.copy_arrived,
                on_answered=lambda: cuts.remove(cut),
            )
        finally:
            if cut in cuts:
                cuts.remove(cut)
        statuses, sessions = _read_answers(node, offers, answers)
        for socket in sockets:
            socket.excluded = cut.excluded
        return statuses, sessions

    def _request_by_topics(
        self,
        node: str,
        offers: Sequence[Offer],
        sockets: Sequence[Recoverable],
        until: float,
    ) -> tuple[list[str], list[TransferredSession]]:
        """Do the same with a backplane that keeps the order on each topic only."""
        backplane: Any = self._registry.backplane
        topics = list(dict.fromkeys(_topics(offers)))
        name = secrets.token_hex(8)
        cut = TopicCut()
        cuts = self._recovery.cuts
        cuts.append(cut)
        try:
            backplane.publish_markers(topics, (name, START))
            answers = self._requests.ask_node(
                node,
                MOVE_BY_TOPICS,
                *(name, [list(topic) for topic in topics]),
                *((offer.pid, offer.namespace, offer.claim, offer.channels) for offer in offers),
                timeout=_remaining(until),
            )
            if not self._markers.wait((name, END), topics, _remaining(until)):
                raise BackplaneError(_TOO_SLOW)
        finally:
            cuts.remove(cut)
        statuses, sessions = _read_answers(node, offers, answers[1:])
        positions = dict(zip(topics, answers[0], strict=True))
        left = iter(sessions)
        found: list[TransferredSession] = []
        for index, (socket, (status, *fields)) in enumerate(zip(sockets, answers[1], strict=True)):
            if status != "moved":
                continue
            session = next(left)
            kept = {(sender, Topic(*topic), epoch, last) for sender, topic, epoch, last in fields}
            own = topics_of_socket(socket.namespace, socket.session_id, session.channels)
            seen = Seen({topic: positions[topic] for topic in own if topic in positions}, kept)
            seen = seen.with_earlier(Seen.from_json(session.seen))
            excluded = cut.excluded(own, seen)
            if excluded is None:  # the other server ends it
                statuses[index] = "ended"
            else:
                socket.excluded = excluded
                self._deliver_late_copies(socket, own, seen)
                found.append(session)
        return statuses, found

    def _deliver_late_copies(
        self,
        socket: Recoverable,
        topics: Collection[Topic],
        seen: Seen,
    ) -> None:
        if self._recovery.late_copies is not None:
            self._recovery.late_copies.arrived(socket, topics, seen)

    def _decide(self, node: str, offers: Sequence[Offer]) -> list[bool]:
        """Return for each session whether this server keeps it; the other one ends the rest."""
        return self._decisions.decide([move_name(node, offer.claim) for offer in offers])

    def _confirm(self, node: str, pids: Sequence[str]) -> None:
        """Notify the other server that it can forget sessions; otherwise it queries Redis."""
        with contextlib.suppress(BackplaneError):
            self._requests.ask_node(node, CONFIRM, *pids, timeout=CONFIRM_TIMEOUT)

    def _discard(self, socket: Recoverable) -> None:
        """Discard a socket whose session has not moved here."""
        if self._recovery.late_copies is not None:
            self._recovery.late_copies.discard(socket)
        socket.depart()
        socket.forget()

    def _complete(
        self, socket: Recoverable, offer: Offer, session: TransferredSession, host: AdoptingHost
    ) -> None:
        """Make an arrived session that of its socket."""
        try:
            socket.restore(session, offer.channels)
            host.restore_context(socket)
            address = session.environ.get("REMOTE_ADDR", "")
        except Exception:  # one session must not stop the others
            logger.exception("restoring a session of another server failed; it has ended")
            self._discard(socket)
            return
        self._recovery.adopt(socket, address, session.remaining)
        self._directory.add(socket.pid)
        self._on_adopted(socket.pid)
        signals = self._registry.signals
        send_robust(signals.adopt, socket, socket=socket, state=session.state)
        if socket.ending is not None:
            self._recovery.end(socket, socket.ending)


def _read_answers(
    node: str, offers: Sequence[Offer], answers: Sequence[Any]
) -> tuple[list[str], list[TransferredSession]]:
    """Return the status of each offered session, and the sessions that have moved."""
    if not answers:
        raise BackplaneError(f"the server {node} has ended")
    statuses = [status for status, *_ in answers[0]]
    try:
        sessions = decode(b"".join(answers[1:]))
    except ValueError as error:
        raise BackplaneError(f"the server {node} sent invalid sessions: {error}") from error
    if len(statuses) != len(offers) or statuses.count("moved") != len(sessions):
        raise BackplaneError(f"the server {node} sent an incomplete answer")
    return statuses, sessions


@contextlib.contextmanager
def _marking(events: dict[str, gevent.event.Event], pids: Sequence[str]) -> Iterator[None]:
    """Add an event for these sessions, which is set at the end."""
    event = gevent.event.Event()
    added = [pid for pid in pids if events.setdefault(pid, event) is event]
    try:
        yield
    finally:
        for pid in added:
            del events[pid]
        event.set()


def _topics(offers: Sequence[Offer]) -> list[Topic]:
    return [
        topic
        for offer in offers
        for topic in topics_of_socket(offer.namespace, offer.session_id, offer.channels)
    ]


def _remaining(until: float) -> float:
    """Return the seconds until a deadline; raise `BackplaneError` after it."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise BackplaneError(_TOO_SLOW)
    return seconds
