"""Errors on the server during a test, which are raised in the test."""

from __future__ import annotations

import logging
from typing import Any

import gevent
from greenlet import GreenletExit

from webpy_socketio.exceptions import Disconnected

__all__ = ["ErrorCollector"]

_LOGGER = logging.getLogger("webpy_socketio")

#: Exceptions that end a waiting handler when the server stops.
_ENDS = (GreenletExit, Disconnected)


class ErrorCollector(logging.Handler):
    """Collects the errors that the package logs, in order to raise them in the test.

    All errors of handlers, gates, plugins and failing error handlers are logged. While installed,
    the collector enables the logger for errors regardless of the application's configuration. It
    also collects errors on the hub, which gevent would only print.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._unexpected: list[tuple[BaseException, str]] = []
        self._expected: list[list[BaseException]] = []
        #: Other failures that may explain a missing event.
        self.hints: list[str] = []
        #: Whether the server stops: exceptions that end waiting handlers are no errors then.
        self.stopping = False

    def install(self) -> None:
        """Start to collect errors."""
        self._before = (_LOGGER.disabled, _LOGGER.level, _LOGGER.manager.disable)
        _LOGGER.disabled = False
        if not _LOGGER.isEnabledFor(logging.ERROR):
            logging.disable(min(_LOGGER.manager.disable, logging.ERROR - 1))
            if not _LOGGER.isEnabledFor(logging.ERROR):
                _LOGGER.setLevel(logging.ERROR)
        _LOGGER.addHandler(self)
        self._hub: Any = gevent.get_hub()
        # An attribute of the hub overrides the method of its class, and can be removed again.
        self._handler_before = vars(self._hub).get("handle_error")
        self._print = self._hub.handle_error
        self._hub.handle_error = self._handle_error

    def uninstall(self) -> None:
        """Restore the logging configuration and the hub."""
        _LOGGER.removeHandler(self)
        if self._handler_before is None:
            del self._hub.handle_error
        else:
            self._hub.handle_error = self._handler_before
        _LOGGER.disabled, level, disabled = self._before
        _LOGGER.setLevel(level)
        logging.disable(disabled)

    def emit(self, record: logging.LogRecord) -> None:
        exception = record.exc_info[1] if record.exc_info else None
        if exception is None:
            exception = AssertionError(record.getMessage())
        if not (self.stopping and isinstance(exception, _ENDS)):
            self.add(exception, record.getMessage())

    def add(self, exception: BaseException, text: str) -> None:
        """Add an error; `text` describes what failed."""
        if self._expected:
            self._expected[-1].append(exception)
        else:
            self._unexpected.append((exception, text))

    def _handle_error(self, context: Any, kind: Any, exception: Any, traceback: Any) -> None:
        self._print(context, kind, exception, traceback)
        if isinstance(context, gevent.Greenlet):
            # The code that spawned the greenlet may have received the exception from `get`.
            self.hints.append(f"{context!r} failed: {exception!r}")
        elif isinstance(exception, Exception):
            self.add(exception, "a callback failed")

    @property
    def found(self) -> bool:
        """Whether there is an error to raise."""
        return bool(self._unexpected)

    def check(self) -> None:
        """Raise the first unexpected error; each error is raised once."""
        if not self._unexpected:
            return
        found, self._unexpected = self._unexpected, []
        exception, text = found[0]
        notes = [f"{text} while the test ran"]
        notes += [f"then {more} {other!r}" for other, more in found[1:]]
        if not isinstance(exception, Exception):  # it would end the test run
            raise AssertionError(f"{notes[0]}: {exception!r}") from exception
        if hasattr(exception, "add_note"):  # since Python 3.11
            for note in notes:
                exception.add_note(note)
        raise exception

    def expect(self) -> list[BaseException]:
        """Collect errors as expected from now on, into the returned list."""
        self._expected.append([])
        return self._expected[-1]

    def expected(self) -> None:
        """End the innermost `expect`."""
        self._expected.pop()
