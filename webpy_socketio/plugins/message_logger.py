"""Message logger: writes one line for each message to the logger ``webpy_socketio.message``.

``SOCKETIO_MESSAGE_LOG_FORMAT`` is a %-format for a dictionary with all keys of the handshake's
environ and three more: ``TIME``, ``TYPE`` ("message", "subscribe", "unsubscribe" or the name of a
custom event) and ``MESSAGE``. A missing key is formatted as ``-``. None disables the log.

Records have level INFO. Nothing is formatted if the logger is not enabled for it.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from webpy_socketio import SettingsError, signals

__all__ = ["install", "uninstall"]

logger = logging.getLogger("webpy_socketio.message")

#: Maximum characters of a logged message; the rest is cut.
MAX_LENGTH = 1000

_format: str | None = None


class _Values:
    """Mapping for the format: values of one message, then the environ."""

    def __init__(self, environ: dict[str, Any], own: dict[str, Any]) -> None:
        self._environ = environ
        self._own = own

    def __getitem__(self, key: str) -> Any:
        value = self._own.get(key)
        return self._environ.get(key, "-") if value is None else value

    def __repr__(self) -> str:
        raise TypeError("a % without a name")  # %s would format this object


def install(settings: Any) -> None:
    """Connect to the signals.

    Args:
        settings: Settings of the server; ``message_log_format`` is used.

    Raises:
        SettingsError: ``SOCKETIO_MESSAGE_LOG_FORMAT`` is not a valid format.
    """
    global _format
    _format = settings.message_log_format
    if _format is None:
        return
    try:
        _format % _Values({}, {})  # all values are strings: %d is rejected, too
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"SOCKETIO_MESSAGE_LOG_FORMAT is {_format!r}, which is not a valid format: {error}; "
            "use %(NAME)s for values and %% for a percent sign"
        ) from None
    signals.message.connect(_message)
    signals.subscribe.connect(_subscribe)
    signals.unsubscribe.connect(_unsubscribe)


def uninstall() -> None:
    """Disconnect from the signals."""
    signals.message.disconnect(_message)
    signals.subscribe.disconnect(_subscribe)
    signals.unsubscribe.disconnect(_unsubscribe)


def _message(sender: Any, request: dict[str, Any], message: Any, event: str, **extra: Any) -> None:
    _log(request, event, message)


def _subscribe(sender: Any, request: dict[str, Any], channel: str, **extra: Any) -> None:
    _log(request, "subscribe", channel)


def _unsubscribe(sender: Any, request: dict[str, Any], channel: str, **extra: Any) -> None:
    _log(request, "unsubscribe", channel)


def _log(request: dict[str, Any], kind: str, message: Any) -> None:
    if _format is None or not logger.isEnabledFor(logging.INFO):
        return
    own = {
        "TIME": datetime.now().replace(microsecond=0),
        "TYPE": _shorten(kind),
        "MESSAGE": _shorten(message if isinstance(message, str) else repr(message)),
    }
    logger.info("%s", _one_line(_format % _Values(request, own)))


def _shorten(text: str) -> str:
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[:MAX_LENGTH]}... ({len(text)} characters)"


def _one_line(text: str) -> str:
    """Escape control characters, so that a message cannot forge log lines or control a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
