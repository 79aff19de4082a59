"""The package's loggers: enabled after a configuration disabled them, silenced in extra workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["are_disabled", "enable", "silenced"]

_PACKAGE = "webpy_socketio"

logger = logging.getLogger(_PACKAGE)


def are_disabled() -> bool:
    """Whether a logging configuration has disabled the logger ``webpy_socketio``."""
    return logger.disabled


def enable() -> bool:
    """Enable the package's loggers if a configuration disabled them; return whether it did.

    `logging.config.dictConfig` and `fileConfig` disable every existing logger that they do not
    name, unless ``disable_existing_loggers`` is False. Tracebacks of handlers would then be lost.
    A logger below ``webpy_socketio`` that is disabled alone stays as it is. To silence the package,
    set the level of its logger.
    """
    if not logger.disabled:
        return False
    for found in _package_loggers():
        found.disabled = False
    logger.warning(
        "the logging configuration disabled the logger webpy_socketio, which would lose "
        "tracebacks of handlers; it is enabled again. Set disable_existing_loggers to False in the "
        "configuration"
    )
    return True


@contextmanager
def silenced() -> Iterator[None]:
    """Drop records below ERROR of the package's loggers within the context.

    Workers import the same application, and each of them would log the same warnings at its start.
    """

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    found = _package_loggers()
    for each in found:
        each.addFilter(is_error)
    try:
        yield
    finally:
        for each in found:
            each.removeFilter(is_error)


def _package_loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.items())
    return [
        found
        for name, found in known
        if isinstance(found, logging.Logger) and f"{name}.".startswith(f"{_PACKAGE}.")
    ]
