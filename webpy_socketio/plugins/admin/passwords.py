"""A password's hash: scrypt, as a PHC string; pure functions, some of which take a while.

``$scrypt$ln=14,r=8,p=5$<salt>$<key>``: 16 MiB and a fifth of a second for each try (OWASP's password
storage cheat sheet has these among its choices). hashlib has it, so it costs no dependency.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from webpy_socketio import SettingsError

__all__ = ["PasswordHash", "hash_password"]

#: Characters of a password; a longer one is wrong without a look at it.
MAX_PASSWORD = 1024

_LN, _R, _P = 14, 8, 5


@dataclass(frozen=True)
class PasswordHash:
    """A hash as it is kept in the settings, taken apart."""

    ln: int
    r: int
    p: int
    salt: bytes
    key: bytes

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Read what `hash_password` returned; the settings have checked its form."""
        _, _, parameters, salt, key = text.split("$")
        ln, r, p = (int(item.partition("=")[2]) for item in parameters.split(","))
        return cls(ln, r, p, _decode(salt), _decode(key))

    def fits(self, password: str) -> bool:
        """Whether it is the password: in constant time, off gevent's hub as it computes for long."""
        key = _derive(password, self.salt, self.ln, self.r, self.p, len(self.key))
        return hmac.compare_digest(key, self.key)


def hash_password(password: str, *, ln: int = _LN) -> str:
    """The hash of a password, for ``SOCKETIO_ADMIN_PASSWORD``.

    `ln` is the binary logarithm of scrypt's cost. Raises `SettingsError` for an empty password, or one of
    more than 1,024 characters.
    """
    if not isinstance(password, str) or not 1 <= len(password) <= MAX_PASSWORD:
        raise SettingsError(f"a password is text of 1 to {MAX_PASSWORD} characters")
    salt = secrets.token_bytes(16)
    key = _derive(password, salt, ln, _R, _P, 32)
    return f"$scrypt$ln={ln},r={_R},p={_P}${_encode(salt)}${_encode(key)}"


def _derive(password: str, salt: bytes, ln: int, r: int, p: int, size: int) -> bytes:
    # Lone surrogates cannot come from a client, but from whoever calls hash_password.
    data = password.encode("utf-8", "surrogatepass")
    memory = 2 * 128 * r * (2**ln + p)
    return hashlib.scrypt(data, salt=salt, n=2**ln, r=r, p=p, dklen=size, maxmem=memory)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
