"""What application code leaves pending for its greenlet, and what it would hit there.

A ``gevent.Timeout`` that was started and never closed raises in the greenlet that started it. In a
greenlet that is reused, that is the next handler or the next request.

Whatever can switch to a greenlet, or raise in it, holds a reference to it: the arguments of a timer,
a waiter, the callback of an event. So the number of references tells whether anything is pending
(measured: 0.06 µs).
"""

from __future__ import annotations

import logging
from sys import getrefcount
from typing import Any

import gevent
from greenlet import getcurrent, greenlet

__all__ = ["UNREFERENCED", "Isolation"]

logger = logging.getLogger(__name__)


class Isolation:
    """Tells whether something is pending for the greenlet that made it.

    To make one takes an iteration of the event loop.
    """

    __slots__ = ("_references",)

    def __init__(self) -> None:
        _resume_from_loop()
        self._references = getrefcount(getcurrent())

    def is_pending(self) -> bool:
        """Return whether something can still switch to this greenlet, or raise in it.

        May take an iteration of the event loop. A timeout that is due raises there, is logged and
        is pending no more.
        """
        if getrefcount(getcurrent()) > self._references:
            # What resumed this greenlet last may refer to it still: let it be the loop.
            _resume_from_loop()
        references = getrefcount(getcurrent())
        if references > self._references:
            return True
        self._references = references
        return False


def _resume_from_loop() -> None:
    """Let the loop resume the current greenlet, which takes exactly one reference to it."""
    hub: Any = gevent.get_hub()
    callback = hub.loop.run_callback(getcurrent().switch)
    try:
        hub.switch()
    except (Exception, gevent.Timeout) as exception:  # noqa: BLE001 - the application's own
        callback.stop()
        log_late(exception)
    except BaseException:
        callback.stop()
        raise


def log_late(exception: BaseException) -> None:
    """Log what was raised in a greenlet after the code that caused it had ended."""
    logger.warning(
        "a %s was raised after the handler or page that caused it had returned, and ignored: %s; "
        "use 'with gevent.Timeout(...):'",
        f"{type(exception).__module__.partition('.')[0]}.{type(exception).__name__}",
        exception,
    )


def _count_unreferenced() -> int:
    waiting = [greenlet(_wait)]
    waiting[0].switch()
    one = waiting.pop()
    return getrefcount(one)


def _wait() -> None:
    parent: Any = getcurrent().parent
    parent.switch()


#: ``sys.getrefcount`` of a waiting greenlet that only a local variable refers to. Which references
#: the interpreter counts differs between its versions.
UNREFERENCED = _count_unreferenced()
