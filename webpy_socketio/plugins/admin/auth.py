"""Who may in: the password, what a wrong one costs, and the session ids that spare one to type it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import gevent.lock

from webpy_socketio import Refused
from webpy_socketio.plugins.admin.passwords import MAX_PASSWORD, PasswordHash

__all__ = ["Authenticator", "LoginThrottle", "Sessions"]

#: What the UI knows as the reason to show its form again.
INVALID = "invalid credentials"

#: Tries that fail within a minute: of one address, and of all of them.
TRIES_OF_ONE, TRIES_OF_ALL, TRIES_SECONDS = 5, 20, 60.0

#: A session id is good for a day, as the reference's are in Redis; the oldest beyond these is not.
SESSION_SECONDS, MAX_SESSIONS = 86_400.0, 256


class LoginThrottle:
    """Failed tries of the last minute, bounded: of one address and of all together."""

    def __init__(self) -> None:
        self._failed: deque[tuple[float, str]] = deque()

    def begin(self, address: str, now: float) -> tuple[float, str]:
        """Count a try as failed until it is forgiven. Raises `Refused` for one too many."""
        while self._failed and self._failed[0][0] <= now - TRIES_SECONDS:
            self._failed.popleft()
        own = sum(other == address for _, other in self._failed)
        if own >= TRIES_OF_ONE or len(self._failed) >= TRIES_OF_ALL:
            raise Refused(f"too many failed tries: wait {TRIES_SECONDS:.0f} seconds")
        mark = (now, address)
        self._failed.append(mark)
        return mark

    def forgive(self, mark: tuple[float, str]) -> None:
        """It was right."""
        if mark in self._failed:
            self._failed.remove(mark)


class Sessions:
    """The session ids that were given out; of each only a digest is kept."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def issue(self, now: float) -> str:
        """A new one."""
        if len(self._until) >= MAX_SESSIONS:
            del self._until[next(iter(self._until))]
        session = secrets.token_urlsafe(24)
        self._until[_digest(session)] = now + SESSION_SECONDS
        return session

    def knows(self, session: str, now: float) -> bool:
        """Whether it is one of ours, and still good."""
        # A digest is looked up: how long that takes says nothing about the ids.
        digest = _digest(session)
        until = self._until.get(digest)
        if until is not None and until <= now:
            del self._until[digest]
            return False
        return until is not None


class Authenticator:
    """The door's: a user name, a password's hash, the tries and the sessions of one server."""

    def __init__(self, username: str, password: str, clock: Callable[[], float]) -> None:
        self._username = username.encode()
        self._password = PasswordHash.parse(password)
        self._clock = clock
        self._tries = LoginThrottle()
        self.sessions = Sessions()
        # One at a time: each takes 16 MiB and a core.
        self._one = gevent.lock.BoundedSemaphore(1)

    def open(self, auth: Any, address: str) -> str | None:
        """Let somebody in: a new session id, or None for who has one. Raises `Refused`.

        May wait: for the hash, which is computed in a thread.
        """
        auth = auth if isinstance(auth, dict) else {}
        session = auth.get("sessionId")
        if isinstance(session, str) and self.sessions.knows(session, self._clock()):
            return None
        username, password = auth.get("username"), auth.get("password")
        if (
            not isinstance(username, str)
            or not isinstance(password, str)
            or len(username) > MAX_PASSWORD
            or not 1 <= len(password) <= MAX_PASSWORD
        ):
            raise Refused(
                INVALID
            )  # nothing was tried: the UI asks like this when a session is over
        mark = self._tries.begin(address, self._clock())
        with self._one:
            right = gevent.get_hub().threadpool.apply(self._password.fits, (password,))
        # Both are looked at, whichever is wrong: the time it takes does not tell.
        right &= hmac.compare_digest(username.encode(), self._username)
        if not right:
            raise Refused(INVALID)
        self._tries.forgive(mark)
        return self.sessions.issue(self._clock())


def _digest(session: str) -> bytes:
    return hashlib.sha256(session.encode()).digest()
