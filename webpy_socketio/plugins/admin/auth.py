"""Authentication of admins: password check, login throttling and session ids."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import gevent.lock

from webpy_socketio import Refused
from webpy_socketio.plugins.admin.passwords import MAX_PASSWORD, PasswordHash

__all__ = ["Authenticator", "LoginThrottle", "Sessions"]

#: Error message for which the UI shows its login form again.
INVALID = "invalid credentials"

#: Failed logins within `FAILURE_WINDOW` seconds: for one address, and in total. Further ones are
#: rejected.
MAX_FAILURES_PER_ADDRESS, MAX_FAILURES, FAILURE_WINDOW = 5, 20, 60.0

#: Lifetime of a session id in seconds, as in the reference server with Redis. The oldest session
#: ends when there are more than `MAX_SESSIONS`.
SESSION_SECONDS, MAX_SESSIONS = 86_400.0, 256


class LoginThrottle:
    """Bounded log of recent failed logins, for each address and in total."""

    def __init__(self) -> None:
        self._failed: deque[tuple[float, str]] = deque()

    def begin(self, address: str, now: float) -> tuple[float, str]:
        """Count a login as failed until `remove` is called.

        Raises:
            Refused: Too many logins have failed.
        """
        while self._failed and self._failed[0][0] <= now - FAILURE_WINDOW:
            self._failed.popleft()
        own = sum(other == address for _, other in self._failed)
        if own >= MAX_FAILURES_PER_ADDRESS or len(self._failed) >= MAX_FAILURES:
            raise Refused(f"too many failed logins: try again in {FAILURE_WINDOW:.0f} seconds")
        mark = (now, address)
        self._failed.append(mark)
        return mark

    def remove(self, mark: tuple[float, str]) -> None:
        """Remove a login that succeeded."""
        if mark in self._failed:
            self._failed.remove(mark)


class Sessions:
    """Valid session ids; only their digests are stored."""

    def __init__(self) -> None:
        self._expiry: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._expiry)

    def issue(self, now: float) -> str:
        """Return a new session id."""
        if len(self._expiry) >= MAX_SESSIONS:
            del self._expiry[next(iter(self._expiry))]
        session = secrets.token_urlsafe(24)
        self._expiry[_digest(session)] = now + SESSION_SECONDS
        return session

    def is_valid(self, session: str, now: float) -> bool:
        """Return whether a session id was issued and has not expired."""
        # Looking up a digest leaks no timing information about session ids.
        digest = _digest(session)
        expires = self._expiry.get(digest)
        if expires is not None and expires <= now:
            del self._expiry[digest]
            return False
        return expires is not None


class SharedSessions(Protocol):
    """Session ids of other processes."""

    def publish_session(self, digest: str, signature: str, seconds: float) -> None:
        """Make a session id valid in all processes."""

    def find_session(self, digest: str) -> str | None:
        """Return the signature of a session id that another process has issued, or None."""


class Authenticator:
    """Checks the credentials of one server's admins."""

    def __init__(self, username: str, password: str, clock: Callable[[], float]) -> None:
        self._username = username.encode()
        #: Signs session ids for other processes, which have the same settings. Without it, any
        #: program that can write to Redis could issue them.
        self._key = hashlib.sha256(f"{username}\0{password}".encode()).digest()
        #: Returns the session ids of other processes, or None without any.
        self.find_cluster: Callable[[], SharedSessions | None] = lambda: None
        self._password = PasswordHash.parse(password)
        self._clock = clock
        self._throttle = LoginThrottle()
        self.sessions = Sessions()
        # One at a time: each hash uses 16 MiB and one CPU core.
        self._hashing = gevent.lock.BoundedSemaphore(1)

    def authenticate(self, auth: Any, address: str) -> str | None:
        """Check credentials, and return a new session id, or None for a valid session id.

        Blocks while the password is hashed in a thread.

        Raises:
            Refused: The credentials are invalid, or too many logins have failed.
        """
        auth = auth if isinstance(auth, dict) else {}
        session = auth.get("sessionId")
        if isinstance(session, str) and (
            self.sessions.is_valid(session, self._clock()) or self._is_valid_elsewhere(session)
        ):
            return None
        username, password = auth.get("username"), auth.get("password")
        if (
            not isinstance(username, str)
            or not isinstance(password, str)
            or len(username) > MAX_PASSWORD
            or not 1 <= len(password) <= MAX_PASSWORD
        ):
            raise Refused(INVALID)  # not counted: the UI sends this when a session has expired
        mark = self._throttle.begin(address, self._clock())
        with self._hashing:
            is_correct = gevent.get_hub().threadpool.apply(self._password.verify, (password,))
        # Both are compared in any case, so that the duration does not reveal which one is wrong.
        is_correct &= hmac.compare_digest(username.encode(), self._username)
        if not is_correct:
            raise Refused(INVALID)
        self._throttle.remove(mark)
        session = self.sessions.issue(self._clock())
        cluster = self.find_cluster()
        if cluster is not None:
            digest = _digest(session).hex()
            cluster.publish_session(digest, self._sign(digest), SESSION_SECONDS)
        return session

    def _is_valid_elsewhere(self, session: str) -> bool:
        """Return whether another process with the same settings has issued a session id."""
        cluster = self.find_cluster()
        digest = _digest(session).hex()
        signature = None if cluster is None else cluster.find_session(digest)
        return signature is not None and hmac.compare_digest(signature, self._sign(digest))

    def _sign(self, digest: str) -> str:
        return hmac.new(self._key, digest.encode(), hashlib.sha256).hexdigest()


def _digest(session: str) -> bytes:
    return hashlib.sha256(session.encode()).digest()
