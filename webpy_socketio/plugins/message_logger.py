"""Message logger: writes one line for each message to the logger ``webpy_socketio.message``.

``SOCKETIO_MESSAGE_LOG_FORMAT`` is a %-format for a dictionary with all keys of the handshake's
environ and three more: ``TIME``, ``TYPE`` ("message", "subscribe", "unsubscribe" or the name of a
custom event) and ``MESSAGE``. A missing key is formatted as ``-``. None disables the log.

Records have level INFO. Nothing is formatted if the logger is not enabled for it.
"""

from __future__ import annotations

import logging
from datetime import datetime
from functools import partial
from typing import Any

from webpy_socketio import Runtime, SettingsError

__all__ = ["install", "uninstall"]

logger = logging.getLogger("webpy_socketio.message")

#: Maximum characters of a logged message; the rest is cut.
MAX_LENGTH = 1000


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


class MessageLog:
    """The message log of one runtime.

    Raises:
        SettingsError: The format is not valid.
    """

    def __init__(self, form: str, runtime: Runtime) -> None:
        try:
            form % _Values({}, {})  # all values are strings: %d is rejected, too
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"SOCKETIO_MESSAGE_LOG_FORMAT is {form!r}, which is not a valid format: {error}; "
                "use %(NAME)s for values and %% for a percent sign"
            ) from None
        self._format = form
        self._signals = runtime.signals
        enabled = partial(logger.isEnabledFor, logging.INFO)
        self._signals.message.connect(self.on_message, enabled=enabled)
        self._signals.subscribe.connect(self.on_subscribe, enabled=enabled)
        self._signals.unsubscribe.connect(self.on_unsubscribe, enabled=enabled)

    def close(self) -> None:
        """Disconnect from the signals."""
        self._signals.message.disconnect(self.on_message)
        self._signals.subscribe.disconnect(self.on_subscribe)
        self._signals.unsubscribe.disconnect(self.on_unsubscribe)

    def on_message(
        self, sender: Any, request: dict[str, Any], message: Any, event: str, **extra: Any
    ) -> None:
        """Log a message or a custom event."""
        self._log(request, event, message)

    def on_subscribe(
        self, sender: Any, request: dict[str, Any], channel: str, **extra: Any
    ) -> None:
        """Log a subscription."""
        self._log(request, "subscribe", channel)

    def on_unsubscribe(
        self, sender: Any, request: dict[str, Any], channel: str, **extra: Any
    ) -> None:
        """Log the end of a subscription."""
        self._log(request, "unsubscribe", channel)

    def _log(self, request: dict[str, Any], kind: str, message: Any) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        own = {
            "TIME": datetime.now().replace(microsecond=0),
            "TYPE": _shorten(kind),
            "MESSAGE": _shorten(message if isinstance(message, str) else repr(message)),
        }
        logger.info("%s", _one_line(self._format % _Values(request, own)))


#: The message log of each runtime in which the plugin is installed; none if it is turned off.
_installed: dict[Runtime, MessageLog] = {}


def install(settings: Any, runtime: Runtime) -> None:
    """Connect to the signals.

    Args:
        settings: Settings of the server; ``message_log_format`` is used.
        runtime: Runtime of the server.

    Raises:
        SettingsError: ``SOCKETIO_MESSAGE_LOG_FORMAT`` is not a valid format.
    """
    if settings.message_log_format is not None:
        _installed[runtime] = MessageLog(settings.message_log_format, runtime)


def uninstall(runtime: Runtime) -> None:
    """Disconnect from the signals."""
    log = _installed.pop(runtime, None)
    if log is not None:
        log.close()


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
