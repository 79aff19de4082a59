"""The ``Date`` of HTTP responses (RFC 9110 §5.6.7), formatted once per second."""

from __future__ import annotations

import time
from email.utils import formatdate

__all__ = ["http_date"]

_second = 0
_date = b""


def http_date() -> bytes:
    """Return the current date and time, as in ``Sun, 06 Nov 1994 08:49:37 GMT``."""
    global _second, _date
    second = int(time.time())
    if second != _second:
        _date = formatdate(second, usegmt=True).encode()
        _second = second
    return _date
