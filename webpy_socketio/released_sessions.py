"""Released sessions: those of this server that move to another one."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gevent

from webpy_socketio.backplane.topics import Topic
from webpy_socketio.backplane.warning_log import WarningLog
from webpy_socketio.bus.signals import send_robust
from webpy_socketio.engine.io.clock import Timer, call_later, current_clock, monotonic
from webpy_socketio.engine.io.timeouts import TimeoutQueue
from webpy_socketio.engine.socketio.packets import decode_body
from webpy_socketio.exceptions import BackplaneError
from webpy_socketio.move_decisions import MoveDecisions
from webpy_socketio.recoverable import UNKNOWN_OFFSET, Claim, Recoverable
from webpy_socketio.recovery import Recovery
from webpy_socketio.recovery_directory import RecoveryDirectory, digest
from webpy_socketio.registry import SocketRegistry, topics_of_socket
from webpy_socketio.server_replies import Reply
from webpy_socketio.server_requests import Incoming, ServerRequests
from webpy_socketio.session_transfer import (
    NotPortable,
    TransferredSession,
    encode,
    portable_environ,
    to_json,
)
from webpy_socketio.topic_cut import Positions, Seen
from webpy_socketio.topic_markers import END, START, TopicMarkers

__all__ = ["CLAIM", "CONFIRM", "MOVE", "MOVE_BY_TOPICS", "ReleasedSessions", "move_name"]

logger = logging.getLogger("webpy_socketio")

#: Kinds of requests: another server claims a session, moves claimed ones, and confirms the move.
CLAIM, MOVE, CONFIRM = "claim session", "move sessions", "confirm sessions"

#: `MOVE` for a backplane that is not ordered.
MOVE_BY_TOPICS = "move sessions by topics"

#: Seconds for the other server to confirm. Afterwards Redis decides which of both keeps a session.
CONFIRM_TIMEOUT = 3.0

#: Seconds between two checks for confirmations, before this server stops.
CONFIRM_INTERVAL = 0.02

#: Seconds in which another server moves a session that it has claimed.
CLAIM_TIME = 2.0

#: Seconds of the time for a claim that remain for the answer: a server that has not answered in
#: time is not asked for the sessions of other clients that wait.
ANSWER_TIME = 0.2

#: Seconds for which a claim waits for running handlers before the other server must repeat it.
BUSY_TIME = 0.1

#: Seconds for which claims of a moved session are redirected: the entry in the directory may not
#: be written yet.
REDIRECT_TIME = 10.0

#: Bytes of one part of an answer.
PART_BYTES = 500_000


#: Seconds for the decision about sessions that are not confirmed when this server has stopped.
LAST_DECISION_TIME = 1.0


def move_name(node: str, number: int) -> str:
    """Return the name of the decision about a move, from a server and the number of the claim."""
    return f"{node}:{number}"


class _RemoteClaimant:
    """Another server that has received the CONNECT of a claim, or adopts the session.

    Args:
        number: Number of the claim.
        is_for_client: Whether a client waits for the session.
    """

    def __init__(self, number: int, is_for_client: bool) -> None:
        self.number = number
        self.is_for_client = is_for_client
        #: Whether the other server may still move the session.
        self.deciding = True

    def refuse(self, reason: str) -> None:
        """Reject the claim; the other server is notified when it moves the session."""
        self.deciding = False


class ReleasedSessions:
    """Handles the requests of servers to which clients have reconnected.

    Args:
        recovery: Recovery of this runtime.
        registry: Sockets of this runtime.
        requests: Requests of this runtime.
        directory: Entries of sessions that have moved before.
        decisions: Decide which server keeps a session.
        wait: Waits until a session has arrived, if it is moving here.
        markers: Markers of other servers.
    """

    def __init__(
        self,
        recovery: Recovery,
        registry: SocketRegistry[Any],
        requests: ServerRequests,
        directory: RecoveryDirectory,
        decisions: MoveDecisions,
        wait: Callable[[str, float], None],
        markers: TopicMarkers,
    ) -> None:
        self._recovery = recovery
        self._registry = registry
        self._requests = requests
        self._directory = directory
        self._decisions = decisions
        self._wait = wait
        self._markers = markers
        self._numbers = itertools.count(1)
        #: Number of sessions that have left this server.
        self.count = 0
        #: Sockets that have moved, until the other server confirms: the number of the claim, and
        #: the timer of the decision.
        self._unconfirmed: dict[str, tuple[Recoverable, int, Timer]] = {}
        #: The servers to which sessions have moved recently.
        self._moved: dict[str, str] = {}
        self._redirects = TimeoutQueue[str](
            current_clock(), REDIRECT_TIME, lambda pid: self.returned(pid)
        )
        self._warnings = WarningLog()
        requests.handle(CLAIM, self._claim, may_wait=True)
        requests.handle(MOVE, self._move)
        requests.handle(MOVE_BY_TOPICS, self._move_by_topics, may_wait=True)
        requests.handle(CONFIRM, self._confirm)

    def close(self) -> None:
        """Stop handling requests."""
        for kind in (CLAIM, MOVE, MOVE_BY_TOPICS, CONFIRM):
            self._requests.forget(kind)
        self._redirects.clear()
        for _, _, timer in self._unconfirmed.values():
            timer.close()

    def find_new_server(self, pid: str) -> str | None:
        """Return the server to which a session has moved recently, or None."""
        return self._moved.get(pid)

    def returned(self, pid: str) -> None:
        """Handle that a session is here again, or has ended here."""
        self._moved.pop(pid, None)
        self._redirects.discard(pid)

    # -- requests

    def _claim(self, incoming: Incoming, reply: Reply) -> None:
        pid, namespace, offset, parser, earlier = decode_body(incoming.packet.body, ())
        answer: dict[str, Any] = {}
        if parser == self._registry.parser.NAME:  # it has encoded the missed messages
            answer = self._answer_claim(pid, namespace, offset, incoming.request.timeout, earlier)
        status = next(iter(answer), "not found")
        logger.debug("claim of session %s by %s: %s", digest(pid), incoming.node, status)
        reply.add(answer)
        reply.finish()

    def _answer_claim(
        self, pid: str, namespace: str, offset: object, timeout: float, earlier: int
    ) -> dict[str, Any]:
        """Return the answer to a claim.

        Args:
            pid: The secret.
            namespace: Its namespace.
            offset: The last offset of the client.
            timeout: Seconds for the answer.
            earlier: Number of a claim of the same client, which the handlers of the socket have
                delayed; 0 without one.
        """
        node = self._moved.get(pid)
        if node is not None:
            return {"moved": node}
        until = monotonic() + timeout - ANSWER_TIME
        self._wait(pid, max(0.0, until - monotonic()))
        socket: Any = self._recovery.find(pid, namespace)
        if socket is None:
            return {}
        if earlier and self._is_superseded(socket, earlier):
            return {"superseded": True}
        claim = self._create_claim(socket, offset)
        if claim is None:
            return {}
        number = claim.connection.number
        if self._wait_for(claim, max(0.0, min(BUSY_TIME, until - monotonic()))):
            return {"claim": number, "session_id": socket.session_id, "channels": socket.channels}
        if self._is_superseded(socket, number):
            return {"superseded": True}
        if pid in self._moved:
            return {"moved": self._moved[pid]}
        # The handlers may have finished just now, or this server stops, and has offered the session
        # to another one: the other server repeats the claim as well.
        is_here = socket.is_suspended and self._recovery.find(pid, namespace) is socket
        return {"busy": number} if is_here else {}

    @staticmethod
    def _is_superseded(socket: Any, number: int) -> bool:
        """Return whether another client has claimed a socket since the claim with a number."""
        claimant = None if socket.claim is None else socket.claim.connection
        if isinstance(claimant, _RemoteClaimant):
            return claimant.is_for_client and claimant.number != number
        return claimant is not None

    def offer(
        self, socket: Recoverable, offset: object = UNKNOWN_OFFSET, timeout: float = 0.0
    ) -> int:
        """Claim a socket for another server, after its handlers have finished.

        Returns:
            The number of the claim; 0 if the session cannot move.
        """
        claim = self._create_claim(socket, offset)
        return claim.connection.number if claim and self._wait_for(claim, timeout) else 0

    def _create_claim(self, socket: Recoverable, offset: object) -> Claim | None:
        """Return the claim of another server; None if the session is moving here."""
        if self._recovery.find(socket.pid, socket.namespace) is not socket:
            return None
        is_for_client = offset is not UNKNOWN_OFFSET
        claim = Claim(socket, _RemoteClaimant(next(self._numbers), is_for_client), offset)
        claim.expires = monotonic() + (CLAIM_TIME if is_for_client else 0.0)
        return claim

    def _wait_for(self, claim: Claim, timeout: float) -> bool:
        """Make a claim that of its socket, and return whether its handlers finish in time."""
        return self._recovery.take_over(claim, timeout) and self._recovery.is_current(claim)

    def _move(self, incoming: Incoming, reply: Reply) -> None:
        """Give up claimed sessions, and answer with them.

        Does not switch greenlets: the answer divides the messages of this process into those that
        the sessions contain, and those that the other server receives.
        """
        self._give_up_sessions(incoming.node, decode_body(incoming.packet.body, ()), reply)
        reply.finish()

    def _move_by_topics(self, incoming: Incoming, reply: Reply) -> None:
        """Give up claimed sessions after all messages before the markers of the other server.

        The answer contains the last messages that the sessions may contain, for each topic. The
        markers that follow it show the other server that it has received them too.
        """
        backplane: Any = self._registry.backplane
        cut, names, *fields = decode_body(incoming.packet.body, ())
        topics = [Topic(*name) for name in names]
        own = [topic for topic in topics if backplane.is_subscribed(topic)]
        timeout = max(0.0, incoming.request.timeout - ANSWER_TIME)
        if not self._markers.wait((cut, START), own, timeout):
            reply.finish(has_failed=True)
            return
        # Without a switch of greenlets from here on, as in `_move`.
        positions = {topic: backplane.positions(topic) for topic in topics}
        reply.add(
            [{node: list(last) for node, last in positions[topic].items()} for topic in topics]
        )
        self._give_up_sessions(incoming.node, fields, reply, positions)
        backplane.publish_markers(topics, (cut, END))
        reply.finish()

    def _give_up_sessions(
        self,
        node: str,
        fields: Sequence[Any],
        reply: Reply,
        positions: Positions | None = None,
    ) -> None:
        answers: list[list[Any]] = []
        sessions: list[TransferredSession] = []
        sockets: list[Recoverable] = []
        for pid, namespace, number, channels in fields:
            socket: Any = self._recovery.find(pid, namespace)
            claim = None if socket is None else socket.claim
            if claim is None or getattr(claim.connection, "number", None) != number:
                is_superseded = socket is not None and self._is_superseded(socket, number)
                # Otherwise this server stops, and offers the session to another one, or has moved
                # it there.
                has_ended = socket is None and pid not in self._moved
                answers.append(
                    ["ended" if has_ended else "superseded" if is_superseded else "changed"]
                )
            elif not self._recovery.is_current(claim):
                answers.append(["ended"])
            elif socket.is_busy or not set(socket.channels) <= set(channels):
                answers.append(["changed"])
            else:
                kept = () if positions is None else self._exclude_late_copies(socket, positions)
                session = self.pack(socket, positions)
                answers.append(["ended" if session is None else "moved", *kept])
                if session is not None:
                    sessions.append(session)
                    sockets.append(socket)
        for (pid, *_), (status, *_) in zip(fields, answers, strict=True):
            logger.debug("move of session %s to %s: %s", digest(pid), node, status)
        reply.add(answers)
        data = encode(sessions)
        for start in range(0, len(data), PART_BYTES):
            reply.add(data[start : start + PART_BYTES])
        for socket in sockets:
            self._give_up(socket, node)

    def _exclude_late_copies(self, socket: Recoverable, positions: Positions) -> list[list[Any]]:
        """Leave broadcasts to the other server whose copy for the session has not arrived here.

        Returns:
            Those that this server keeps: the session has subscribed to the topic that decides after
            the broadcast. Its copy may have passed before this server was subscribed.
        """
        topics = topics_of_socket(socket.namespace, socket.session_id, socket.channels)
        own = {topic: positions[topic] for topic in topics if topic in positions}
        seen = Seen(own).with_earlier(self._seen_before(socket))
        held = socket.memberships.index()
        late, kept = set(), []
        for note in self._recovery.recent_groups:
            if note.is_seen(topics, seen) is not False:
                continue
            topic = note.find_topic(topics)
            names = [each.name for each in note.marks if each.namespace == socket.namespace]
            if topic is None or held((topic.name,), note.number) or not held(names, note.number):
                late.add(note.number)
            else:
                kept.append([note.node, list(topic), *note.marks[topic]])
        if late:
            socket.excluded = {*socket.excluded, *late}
        return kept

    def _seen_before(self, socket: Recoverable) -> Seen:
        """Return what the earlier servers of a session have seen."""
        late_copies = self._recovery.late_copies
        return Seen() if late_copies is None else late_copies.seen(socket)

    def pack(
        self, socket: Recoverable, positions: Positions | None = None
    ) -> TransferredSession | None:
        """Return a claimed session for another server; end its socket if that is impossible.

        Args:
            socket: The socket.
            positions: Those of this server, if they are sent as well.
        """
        assert socket.claim is not None
        topics = topics_of_socket(socket.namespace, socket.session_id, socket.channels)
        seen = self._seen_before(socket).not_in(positions or {}, topics)
        carried = self._recovery.missed.carry(socket, socket.claim.offset)
        remaining = self._recovery.suspensions.remaining(socket)
        if carried is None:
            logger.debug("%s ends: messages that its client missed are not retained", str(socket))
            self._recovery.end(socket)
            return None
        state: dict[str, Any] = {}
        release = self._registry.signals.release
        try:
            context, auth = to_json(socket.context), to_json({"auth": socket.auth})["auth"]
            send_robust(release, socket, socket=socket, state=state, remaining=remaining)
            state = to_json(state, exactly=False)
        except NotPortable as error:
            self._warnings.warn(
                "%s cannot move to another server, and has ended: its context, or a value that a "
                "plugin has added, cannot be sent: %s",
                str(socket),
                str(error),
            )
            self._recovery.end(socket)
            return None
        self.count += 1
        return TransferredSession(
            socket.pid,
            socket.session_id,
            socket.namespace,
            list(socket.channels),
            context,
            portable_environ(socket.request),
            auth,
            socket.connection.reason or "transport close",
            remaining,
            socket.received,
            socket.answers_to_json(),
            carried,
            state,
            seen.to_json(),
        )

    def _give_up(self, socket: Recoverable, node: str) -> None:
        assert socket.claim is not None
        self._directory.release(socket.pid)
        self._recovery.forget(socket)
        socket.depart()
        timer = call_later(CONFIRM_TIMEOUT, gevent.spawn, self._expire, [socket.pid])
        self._unconfirmed[socket.pid] = socket, socket.claim.connection.number, timer
        self._moved[socket.pid] = node
        self._redirects.add(socket.pid)

    def _expire(self, pids: Sequence[str], seconds: float | None = None) -> None:
        """End sockets here, unless the other server has taken them over."""
        found = [self._unconfirmed[pid] for pid in pids if pid in self._unconfirmed]
        backplane = self._registry.backplane
        if not found or backplane is None:
            return
        names = [move_name(backplane.node, number) for _, number, _ in found]
        try:
            decided = self._decisions.decide(names, seconds)
        except BackplaneError:  # most likely, the other server could not decide either
            decided = [True] * len(found)
        for (socket, _, timer), is_own in zip(found, decided, strict=True):
            if self._unconfirmed.pop(socket.pid, None) is None:  # confirmed in the meantime
                continue
            timer.close()
            logger.debug(
                "session %s was not confirmed, and %s",
                digest(socket.pid),
                "ends" if is_own else "has moved",
            )
            if is_own:
                self.returned(socket.pid)
                socket.end(socket.connection.reason or "transport close")
            else:
                socket.forget()

    def _confirm(self, incoming: Incoming, reply: Reply) -> None:
        """Leave sessions to the other server, which has decided to keep them."""
        for pid in decode_body(incoming.packet.body, ()):
            unconfirmed = self._unconfirmed.pop(pid, None)
            if unconfirmed is not None:
                socket, _, timer = unconfirmed
                timer.close()
                socket.forget()
        reply.finish()

    def expire(self) -> None:
        """End the sockets that no server has taken over, before this server stops."""
        # Those that have moved just now are about to be confirmed: do not decide before.
        until = monotonic() + CONFIRM_TIMEOUT
        while self._unconfirmed and monotonic() < until:
            gevent.sleep(CONFIRM_INTERVAL)
        self._expire(list(self._unconfirmed), LAST_DECISION_TIME)
