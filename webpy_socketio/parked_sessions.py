"""Parked sessions: those of servers that have stopped, in Redis until a server starts."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Iterator, Sequence

import gevent
import orjson

from webpy_socketio.backplane.commands import READ_TIMEOUT, RedisCommands
from webpy_socketio.exceptions import BackplaneError
from webpy_socketio.move_decisions import MoveDecisions
from webpy_socketio.session_transfer import TransferredSession, decode, encode

__all__ = ["BUNDLE", "ParkedSessions"]

logger = logging.getLogger("webpy_socketio")

#: Sessions in one bundle.
BUNDLE = 100

#: Seconds for which a bundle is kept after the time of its sessions is over: their last stages
#: still follow when a server starts.
EXTRA_TIME = 3600

#: Seconds to wait for the number of bundles.
COUNT_TIMEOUT = 0.5

#: Seconds for which servers that start wait for one that is parking sessions.
PARKING_TIME = 30.0

#: Seconds for which it is known which server has taken a bundle.
DECISION_LIFETIME = 24 * 3600

#: Seconds between two attempts to store a bundle, and the shortest time for one.
_INTERVAL = 0.1


class ParkedSessions:
    """Bundles of several sessions each in a hash of Redis, by id.

    A bundle stays in Redis until a server has taken it: a connection that fails loses none.

    Args:
        commands: Executes the commands.
        decisions: Decide which server takes a bundle.
        prefix: ``SOCKETIO_BACKPLANE_PREFIX``.
        parser: Name of the parser that has encoded the messages.
        node: This server.
    """

    def __init__(
        self,
        commands: RedisCommands,
        decisions: MoveDecisions,
        prefix: str,
        parser: str,
        node: str,
    ) -> None:
        self._commands = commands
        self._decisions = decisions
        self._key = f"{prefix}:1:recovery:parked:{parser}"
        self._parking_key = f"{prefix}:1:recovery:parking"
        self._node = node
        #: The bundles that this server has taken.
        self._taken: set[str] = set()

    # -- servers that stop

    def begin(self, timeout: float) -> None:
        """Announce that this server may park sessions; servers that start wait for it.

        Raises:
            BackplaneError: Redis did not reply in time.
        """
        self._commands.execute(
            "HSET", self._parking_key, self._node, str(time.time()), timeout=timeout
        )
        self._commands.put("EXPIRE", self._parking_key, int(PARKING_TIME))

    def end(self) -> None:
        """Withdraw the announcement; does not block."""
        self._commands.put("HDEL", self._parking_key, self._node)

    def push(self, sessions: Sequence[TransferredSession], until: float) -> None:
        """Store sessions as a bundle.

        Args:
            sessions: The sessions, at most `BUNDLE`.
            until: Deadline, in seconds of `time.monotonic`.

        Raises:
            BackplaneError: Redis did not reply in time. The sessions are not stored, unless Redis
                remains unreachable.
        """
        number = secrets.token_hex(8)
        longest = max((session.remaining for session in sessions), default=0.0)
        bundle = orjson.dumps({"time": time.time()}) + b"\n" + encode(sessions)
        while True:
            try:
                # Another attempt has the same result. The pause before it may have been longer.
                timeout = max(_INTERVAL, until - time.monotonic())
                self._commands.execute("HSET", self._key, number, bundle, timeout=timeout)
                break
            except BackplaneError:
                if time.monotonic() + 2 * _INTERVAL > until:  # the pause, and another attempt
                    self._withdraw(number)
                    raise
                gevent.sleep(_INTERVAL)
        self._commands.put("EXPIRE", self._key, int(longest) + EXTRA_TIME)

    def _withdraw(self, number: str) -> None:
        """Prevent other servers from taking a bundle that may be stored."""
        try:
            (is_withdrawn,) = self._decisions.decide([number], _INTERVAL, DECISION_LIFETIME)
        except BackplaneError:
            return  # the caller ends the sessions
        if is_withdrawn:
            self._commands.put("HDEL", self._key, number)

    # -- servers that run

    def is_being_filled(self, timeout: float) -> bool:
        """Return whether another server is about to park sessions.

        Raises:
            BackplaneError: Redis did not reply in time.
        """
        reply = self._commands.execute("HVALS", self._parking_key, timeout=timeout)
        oldest = time.time() - PARKING_TIME
        return any(float(began) > oldest for began in reply or ())

    def read(self, until: float) -> Iterator[tuple[str, list[TransferredSession]]]:
        """Yield the sessions of one bundle after another, with its id; all of them stay in Redis.

        Args:
            until: Time of `time.monotonic` after which no further bundle is read.

        Raises:
            BackplaneError: Redis did not reply in time.
        """
        reply = self._commands.execute("HKEYS", self._key, timeout=READ_TIMEOUT)
        numbers = [number.decode("ascii", "replace") for number in reply or ()]
        random.shuffle(numbers)  # several servers may start at once
        for number in numbers:
            if time.monotonic() > until:
                return
            if number in self._taken:
                self._commands.put("HDEL", self._key, number)
                continue
            bundle = self._commands.execute("HGET", self._key, number, timeout=READ_TIMEOUT)
            if not isinstance(bundle, bytes):  # another server has taken it
                continue
            try:
                yield number, _read(bundle)
            except (ValueError, LookupError, TypeError) as error:
                self._commands.put("HDEL", self._key, number)
                logger.warning(
                    "ignored parked sessions in %s, which this version cannot read: %s",
                    self._key,
                    str(error),
                )

    def take(self, number: str) -> bool:
        """Take a bundle, and return whether no other server has taken it before.

        Raises:
            BackplaneError: Redis did not reply in time.
        """
        (is_taken,) = self._decisions.decide([number], lifetime=DECISION_LIFETIME)
        if is_taken:
            self._taken.add(number)
        self._commands.put("HDEL", self._key, number)
        return is_taken

    # -- status

    def count_bundles(self) -> int:
        """Return the number of bundles.

        Raises:
            BackplaneError: Redis did not reply in time.
        """
        return int(self._commands.execute("HLEN", self._key, timeout=COUNT_TIMEOUT))


def _read(bundle: bytes) -> list[TransferredSession]:
    """Return the sessions of a bundle, with the time that remains now."""
    header, _, data = bundle.partition(b"\n")
    elapsed = max(0.0, time.time() - orjson.loads(header)["time"])
    sessions = decode(data)
    for session in sessions:
        session.remaining = max(0.0, session.remaining - elapsed)
    return sessions
