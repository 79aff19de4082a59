"""What went wrong on the server during a test: nothing of it is to be overlooked."""

from __future__ import annotations

import logging
from typing import Any

import gevent
from greenlet import GreenletExit

from webpy_socketio.exceptions import Disconnected

__all__ = ["ErrorCollector"]

_LOGGER = logging.getLogger("webpy_socketio")

#: What a handler is waked with that waits when the server stops.
_ENDS = (GreenletExit, Disconnected)


class ErrorCollector(logging.Handler):
    """Keeps every error that the package logs, to be raised in the test.

    The log is the one place that hears of all of them: of handlers, gates, plugins, and of error
    handlers that fail themselves. It is opened for errors as long as this is installed, whatever the
    application has done to its logging. What fails on the hub, where gevent would only print it, is
    kept too.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._unexpected: list[tuple[BaseException, str]] = []
        self._expected: list[list[BaseException]] = []
        #: What may explain that something is missing, without being an error of its own.
        self.hints: list[str] = []
        #: Whether the server stops: what a handler that still waits is told then is no fault of its.
        self.stopping = False

    def install(self) -> None:
        """Begin to listen."""
        self._before = (_LOGGER.disabled, _LOGGER.level, _LOGGER.manager.disable)
        _LOGGER.disabled = False
        if not _LOGGER.isEnabledFor(logging.ERROR):
            logging.disable(min(_LOGGER.manager.disable, logging.ERROR - 1))
            if not _LOGGER.isEnabledFor(logging.ERROR):
                _LOGGER.setLevel(logging.ERROR)
        _LOGGER.addHandler(self)
        self._hub: Any = gevent.get_hub()
        # gevent's own way to replace it: an attribute of the hub, before the method of its class.
        self._handler_before = vars(self._hub).get("handle_error")
        self._print = self._hub.handle_error
        self._hub.handle_error = self._handle_error

    def uninstall(self) -> None:
        """Leave the log as it was."""
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
        """Take an error; `text` is what failed."""
        if self._expected:
            self._expected[-1].append(exception)
        else:
            self._unexpected.append((exception, text))

    def _handle_error(self, context: Any, kind: Any, exception: Any, traceback: Any) -> None:
        self._print(context, kind, exception, traceback)
        if isinstance(context, gevent.Greenlet):
            # Whoever spawned it may have asked it for its result, and got the exception.
            self.hints.append(f"{context!r} failed: {exception!r}")
        elif isinstance(exception, Exception):
            self.add(exception, "a callback failed")

    @property
    def found(self) -> bool:
        """Whether there is something to raise."""
        return bool(self._unexpected)

    def check(self) -> None:
        """Raise the first error of those that nobody expected, once."""
        if not self._unexpected:
            return
        found, self._unexpected = self._unexpected, []
        exception, text = found[0]
        notes = [f"{text} while the test ran"]
        notes += [f"then {more} {other!r}" for other, more in found[1:]]
        if not isinstance(exception, Exception):  # it would end the whole run
            raise AssertionError(f"{notes[0]}: {exception!r}") from exception
        if hasattr(exception, "add_note"):  # since Python 3.11
            for note in notes:
                exception.add_note(note)
        raise exception

    def expect(self) -> list[BaseException]:
        """Take errors as expected from now on; they are put into the list that is returned."""
        self._expected.append([])
        return self._expected[-1]

    def expected(self) -> None:
        """The end of `expect`."""
        self._expected.pop()
