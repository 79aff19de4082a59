"""Checks of arguments that several public functions accept."""

from __future__ import annotations

import math
from typing import Any

from webpy_socketio.exceptions import CallerError

__all__ = ["check_close", "check_namespace", "check_seconds"]


def check_namespace(name: Any) -> str:
    """Return the name of a namespace.

    Raises:
        CallerError: It is not text, does not start with a slash, or has a comma or question mark,
            which end the name in a packet.
    """
    if not isinstance(name, str) or not name.startswith("/") or "," in name or "?" in name:
        raise CallerError(
            'the name of a namespace is text that starts with a slash, such as "/chat", without '
            f"comma and question mark, not {name!r:.100}"
        )
    return name


def check_close(close: Any) -> bool:
    """Return the argument of ``disconnect``.

    Raises:
        CallerError: It is not a bool: a reason, for example, must not close the whole session.
    """
    if not isinstance(close, bool):
        raise CallerError(f"the argument of disconnect() must be a bool, not {close!r:.100}")
    return close


def check_seconds(function: str, timeout: Any) -> float:
    """Return the timeout of a function of a socket, in seconds.

    Raises:
        CallerError: It is not a positive, finite number.
    """
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not (is_number and 0 < timeout < math.inf):
        raise CallerError(
            f"the timeout of {function}() must be a positive number of seconds, not "
            f"{timeout!r:.100}"
        )
    return float(timeout)
