"""Password hashes: scrypt, stored as a PHC string.

The format is ``$scrypt$ln=14,r=8,p=5$<salt>$<key>``. Each check takes 16 MiB and a fifth of a
second; OWASP's password storage cheat sheet recommends these parameters. `hashlib` implements
scrypt, so no dependency is needed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from webpy_socketio import SettingsError

__all__ = ["PasswordHash", "hash_password"]

#: Maximum characters of a password; longer ones are rejected without hashing.
MAX_PASSWORD = 1024

_LN, _R, _P = 14, 8, 5


@dataclass(frozen=True)
class PasswordHash:
    """A parsed password hash."""

    ln: int
    r: int
    p: int
    salt: bytes
    key: bytes

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Parse a result of `hash_password`; the settings have validated its form."""
        _, _, parameters, salt, key = text.split("$")
        ln, r, p = (int(item.partition("=")[2]) for item in parameters.split(","))
        return cls(ln, r, p, _decode(salt), _decode(key))

    def verify(self, password: str) -> bool:
        """Return whether the password matches; slow, so call it in a thread."""
        key = _derive(password, self.salt, self.ln, self.r, self.p, len(self.key))
        return hmac.compare_digest(key, self.key)


def hash_password(password: str, *, ln: int = _LN) -> str:
    """Return the hash of a password, for ``SOCKETIO_ADMIN_PASSWORD``.

    Args:
        password: Text of 1 to 1,024 characters.
        ln: Binary logarithm of scrypt's cost.

    Raises:
        SettingsError: `password` is empty, too long or not a string.

    Example:
        >>> hash_password("correct horse", ln=4).startswith("$scrypt$ln=4,r=8,p=5$")
        True
    """
    if not isinstance(password, str) or not 1 <= len(password) <= MAX_PASSWORD:
        raise SettingsError(f"a password must be a string of 1 to {MAX_PASSWORD} characters")
    salt = secrets.token_bytes(16)
    key = _derive(password, salt, ln, _R, _P, 32)
    return f"$scrypt$ln={ln},r={_R},p={_P}${_encode(salt)}${_encode(key)}"


def _derive(password: str, salt: bytes, ln: int, r: int, p: int, size: int) -> bytes:
    # Clients cannot send lone surrogates, but callers of `hash_password` may pass them.
    data = password.encode("utf-8", "surrogatepass")
    memory = 2 * 128 * r * (2**ln + p)
    return hashlib.scrypt(data, salt=salt, n=2**ln, r=r, p=p, dklen=size, maxmem=memory)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
