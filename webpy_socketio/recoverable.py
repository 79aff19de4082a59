"""Interfaces of recovery: sockets, claims, and moves between servers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from webpy_socketio.carried_messages import Carried
from webpy_socketio.engine.io.clock import monotonic
from webpy_socketio.engine.socketio.connection import Connection
from webpy_socketio.memberships import Memberships
from webpy_socketio.registry import Member
from webpy_socketio.session_transfer import TransferredSession

__all__ = ["UNKNOWN_OFFSET", "Claim", "Claimant", "Moves", "Recoverable"]

#: In place of the offset of a client that has not reconnected yet.
UNKNOWN_OFFSET: Any = object()


class Recoverable(Member, Protocol):
    """The part of a recoverable socket that recovery uses."""

    #: Secret with which the client resumes the connection.
    pid: str
    #: Number of a message up to which the client has received its messages.
    position: int
    #: Number of the last message when the current connection was accepted.
    accepted_at: int
    memberships: Memberships
    #: The last connection that was lost.
    lost: Connection | None
    #: The CONNECT that resumes the socket, or tried to.
    claim: Claim | None
    is_suspended: bool
    #: Reason of an end that was requested while the session moved here; None without one.
    ending: str | None
    request: dict[str, Any]
    context: dict[str, Any]
    #: Messages of other servers that the client has not confirmed; None if there are none.
    carried: Carried | None
    #: Numbers of messages that are among the carried ones, or older.
    excluded: Collection[int]
    #: Number of the last numbered message of the client; 0 before the first.
    received: int

    def __hash__(self) -> int:
        """Return the hash of the socket's identity."""

    @property
    def namespace(self) -> str:
        """Name of the Socket.IO namespace."""

    @property
    def connection(self) -> Connection:
        """The current connection, or the last one."""

    def is_in_feed(self, name: str) -> bool:
        """Return whether a plugin sends the messages of a channel to the socket."""

    def use(self, connection: Connection) -> None:
        """Make `connection` the current connection."""

    def answers_to_json(self) -> list[Any]:
        """Return recent answers to numbered messages, for another server."""

    def close_receipts(self) -> None:
        """Discard the answers to numbered messages, because the client is gone."""

    def end(self, reason: str) -> None:
        """Remove the socket, and queue its last stages."""

    # -- for moves between servers

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the subscribed channels."""

    @property
    def auth(self) -> Any:
        """The auth payload of the CONNECT."""

    @property
    def is_busy(self) -> bool:
        """Whether handlers are running or queued."""

    def arrive(self, channels: Iterable[str]) -> None:
        """Become a recipient of messages, as a suspended socket; the topics are subscribed."""

    def restore(self, session: TransferredSession, offered: Iterable[str]) -> None:
        """Restore the state of a session that has moved here, with the channels offered first."""

    def depart(self) -> None:
        """Stop to be a recipient of messages; no stage is sent."""

    def forget(self) -> None:
        """Release what belongs to the socket after it has departed."""


class Claimant(Protocol):
    """The connection of a claim, or another server that has received the CONNECT."""

    @property
    def deciding(self) -> bool:
        """Whether it waits for a decision."""

    def refuse(self, reason: str) -> None:
        """Reject the claim."""


class Moves(Protocol):
    """Sessions that move between servers."""

    def fetch(self, pid: str, connection: Connection, offset: object) -> None:
        """Move a session to this server if another one holds it; blocks for a second at most."""

    def close(self) -> None:
        """Stop handling requests of other servers."""

    def start_adopting(self, host: Any) -> None:
        """Adopt the sessions of servers that have stopped, and those of servers that will stop."""

    def stop_adopting(self, host: Any) -> None:
        """Adopt no more sessions, because a server stops."""

    def settle(self) -> None:
        """Wait until the sessions that are moving here have arrived; a second at most."""

    def hand_over(self, find: Callable[[], Sequence[Any]], timeout: float) -> None:
        """Leave suspended sockets to other servers; those that cannot move stay suspended.

        Args:
            find: Returns the suspended sockets. Other servers may add some meanwhile.
            timeout: Seconds for running handlers to finish.
        """

    @property
    def released(self) -> int:
        """Number of sessions that have left this server."""

    def session_ended(self, pid: str) -> None:
        """Handle the end of a session, or of the possibility to resume it."""


@dataclass(eq=False)
class Claim:
    """A CONNECT with the secret of a socket."""

    socket: Any
    connection: Any
    offset: object
    #: Whether the CONNECT was answered, or closed. Otherwise the client gets a new connection.
    is_answered: bool = False
    #: Time of the clock after which the claim of another server is not expected to be used.
    expires: float = math.inf

    @property
    def is_pending(self) -> bool:
        """Whether the client is about to resume the session, here or on another server."""
        return not self.is_answered and self.connection.deciding and monotonic() < self.expires
