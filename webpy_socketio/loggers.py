"""The loggers of the package: re-enable them, or silence them in additional workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["are_disabled", "enable", "silenced"]

_PACKAGE = "webpy_socketio"

logger = logging.getLogger(_PACKAGE)


def are_disabled() -> bool:
    """Return whether a logging configuration disabled the logger ``webpy_socketio``."""
    return logger.disabled


def enable() -> bool:
    """Enable the loggers of the package if a configuration disabled them.

    `logging.config.dictConfig` and `fileConfig` disable every existing logger that they do not
    name, unless ``disable_existing_loggers`` is False. Tracebacks of handlers would be lost. A
    single disabled logger below ``webpy_socketio`` stays disabled. To silence the package, set the
    level of its logger.

    Returns:
        Whether the loggers were disabled.
    """
    if not logger.disabled:
        return False
    for found in _package_loggers():
        found.disabled = False
    logger.warning(
        "the logging configuration disabled the logger webpy_socketio, so that tracebacks of "
        "handlers would be lost; it was enabled again. Set disable_existing_loggers to False in "
        "the configuration"
    )
    return True


@contextmanager
def silenced() -> Iterator[None]:
    """Drop records below ERROR of the package's loggers within the context.

    Workers import the same application; each would log the same warnings at its start.
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
