"""Logging configurations that disable existing loggers do not hide the package's messages."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Site
from webpy_socketio import loggers, on_message

MESSAGES = logging.getLogger("webpy_socketio.message")
PACKAGE = logging.getLogger("webpy_socketio")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = {
        logger: logger.disabled
        for logger in logging.root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)
    }
    yield
    for logger, disabled in before.items():
        logger.disabled = disabled


def disable_existing() -> None:
    """Configure logging as in the example of the Python documentation."""
    logging.config.dictConfig({"version": 1, "loggers": {"chat": {"level": "INFO"}}})
    assert PACKAGE.disabled


@pytest.mark.quoted("the logging configuration disabled the logger webpy_socketio")
def test_server_start_enables_disabled_loggers_with_a_warning(
    serve: Callable[..., Site], caplog: pytest.LogCaptureFixture, match_quote: Callable[[str], None]
) -> None:
    disable_existing()
    serve()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    match_quote(record.getMessage())
    assert not PACKAGE.disabled
    assert not MESSAGES.disabled


def test_traceback_after_disabling_loggers_of_a_running_server_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @on_message
    def fail(request: object, socket: object, context: object, message: object) -> None:
        raise ZeroDivisionError

    disable_existing()
    assert site.connect().call("message", "hello") == [{"error": "internal error"}]
    warning, error = caplog.records
    assert warning.levelno == logging.WARNING
    assert error.exc_info is not None


def test_single_disabled_logger_stays_disabled(serve: Callable[..., Site]) -> None:
    MESSAGES.disabled = True
    serve()
    assert MESSAGES.disabled


def test_silenced_drops_warnings_and_keeps_errors(caplog: pytest.LogCaptureFixture) -> None:
    with loggers.silenced():
        PACKAGE.warning("dropped")
        MESSAGES.warning("dropped")
        PACKAGE.error("kept")
    PACKAGE.warning("kept too")
    assert [record.getMessage() for record in caplog.records] == ["kept", "kept too"]
