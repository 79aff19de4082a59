"""Prevent forked child processes from serving the clients of their parent.

In a child made by `os.fork`, the event loop of gevent continues with all greenlets and connections
of the parent. If a handler started a process with multiprocessing, clients would be served twice.
In the child of a serving process, therefore only the greenlet that forked survives, as only the
calling thread does in POSIX. All listening sockets and client connections are closed.
"""

from __future__ import annotations

import _socket
import contextlib
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import gevent
from gevent.exceptions import LoopExit
from gevent.hub import _get_hub, set_hub, set_loop
from greenlet import getcurrent, greenlet

__all__ = ["call_in_child", "close_in_child", "reset_in_child", "unwatch", "watch"]

logger = logging.getLogger(__name__)

#: Number of running servers by event loop.
_loops: dict[Any, int] = {}

#: Sockets to close in children besides listening sockets and the connections they accepted.
_sockets: WeakSet[Any] = WeakSet()

#: Signals that get their default action in children.
_signals: set[int] = set()

#: Functions called in children, the last registered first.
_callbacks: list[Callable[[], None]] = []

#: Objects that must never be freed in a child: freeing a greenlet runs its `finally` blocks.
_abandoned: list[Any] = []

_is_registered = False


def watch(loop: Any) -> None:
    """Register a server that starts on `loop`; processes forked from now on do not serve."""
    global _is_registered
    if not _is_registered and hasattr(os, "register_at_fork"):
        _register()
    _is_registered = True
    _loops[loop] = _loops.get(loop, 0) + 1


def unwatch(loop: Any) -> None:
    """Undo one call of `watch`."""
    count = _loops.pop(loop, 0) - 1
    if count > 0:
        _loops[loop] = count


def close_in_child(sock: Any) -> None:
    """Close a socket in forked processes; not needed for listeners and accepted connections."""
    _sockets.add(sock)


def reset_in_child(*numbers: int) -> None:
    """Restore the default action of signals in forked processes."""
    _signals.update(numbers)


def call_in_child(function: Callable[[], None]) -> None:
    """Call `function` in processes forked while a server runs; it must not block."""
    _callbacks.insert(0, function)


def _register() -> None:
    """Call `_after_fork` in children before all functions that other libraries register.

    A function that starts a thread, as those of OpenTelemetry's SDK do, would switch to the hub of
    the parent, and the child would serve its clients. `os` has no way to register a function first.
    CPython keeps the functions, in the order of their calls, in a list that `gc` finds.
    """
    os.register_at_fork(after_in_child=_after_fork)
    is_frozen = gc.get_freeze_count() > 0
    if is_frozen:  # `gc` does not search frozen objects
        gc.unfreeze()
    for functions in gc.get_referrers(_after_fork):
        if isinstance(functions, list) and functions[-1] is _after_fork:
            functions.insert(0, functions.pop())
    if is_frozen:
        gc.freeze()


def _after_fork() -> None:
    if not _loops:
        return
    loops = dict(_loops)
    _loops.clear()
    steps: list[Callable[[], None]] = [_disconnect, _reset_signals, *_callbacks]
    hub = _get_hub()  # None where this thread has none
    if hub is not None and hub.loop in loops and getcurrent() is not hub:
        steps.append(lambda: _replace_hub(hub))
    for step in steps:
        try:
            step()
        except Exception:
            logger.exception("failed to detach a forked process from the connections of its parent")


def _disconnect() -> None:
    """Close the child's copies of connections; those of the parent stay open.

    Each descriptor is redirected to /dev/null instead of being closed. The socket objects that own
    it exist in the child too and would close an unrelated descriptor with the same number.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for descriptor in _inherited_descriptors():
            os.dup2(null, descriptor, inheritable=False)
    finally:
        os.close(null)


def _inherited_descriptors() -> Iterator[int]:
    """Yield the descriptors of listening sockets, accepted connections and `_sockets`."""
    for sock in _sockets:
        with contextlib.suppress(OSError, ValueError):
            if sock.fileno() >= 0:
                yield sock.fileno()
    found = {number: names for number in _descriptors() if (names := _names(number))}
    listening = {_endpoint(name) for is_listening, name, _ in found.values() if is_listening}
    listening.discard(None)
    for number, (_, name, peer) in found.items():
        if _endpoint(name) in listening or _endpoint(peer) in listening:
            yield number


def _descriptors() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return [int(path.name) for path in Path(folder).iterdir()]
    return list(range(3, min(os.sysconf("SC_OPEN_MAX"), 65_536)))


def _names(descriptor: int) -> tuple[bool, Any, Any] | None:
    """Return whether a stream socket listens, its name and its Unix peer; None for others."""
    try:
        sock = _socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        if sock.type != _socket.SOCK_STREAM:
            return None
        listens = bool(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))
        name, peer = sock.getsockname(), None
        if not listens and sock.family == getattr(_socket, "AF_UNIX", None):
            peer = sock.getpeername()
        return listens, name, peer
    except OSError:
        return None
    finally:
        sock.detach()


def _endpoint(name: Any) -> Any:
    """Return the part of a name that a listener shares with its accepted connections."""
    return name[1] if isinstance(name, tuple) else name or None


def _reset_signals() -> None:
    for number in _signals:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


def _replace_hub(old: Any) -> None:
    """Create a new hub and loop for the greenlet that forked; no other greenlet runs again."""
    current = getcurrent()
    loop = old.loop
    _abandoned.extend((old, loop))
    loop.destroy()  # closes the epoll descriptor of the child, and frees the default loop
    set_loop(None)
    hub_class = type(old)
    hub = hub_class()
    set_hub(hub)
    # libev keeps the count of active watchers of the default loop even when it is destroyed.
    for _ in range(hub.loop.activecnt):
        hub.loop.unref()
    hub.NOT_ERROR = old.NOT_ERROR
    if current.parent is not None:
        hub.parent = _ExitGreenlet(current, old.parent)
        current.parent = hub
    # Locks and events keep a reference to their hub and replace it if it is dead.
    old.__class__ = type("AbandonedHub", (hub_class,), {"dead": True, "switch": _switch_to_hub})
    old.loop = hub.loop


def _switch_to_hub(self: Any) -> Any:
    return gevent.get_hub().switch()


class _ExitGreenlet(greenlet):
    """Ends the process when the greenlet that forked ends or never finishes."""

    def __init__(self, forked: Any, parent: Any) -> None:
        super().__init__(parent=parent)
        self._forked = forked
        self.switch(getcurrent())  # enter `run`, so that it can catch exceptions thrown into it

    def run(self, back: Any) -> None:
        status: Any = 0
        try:
            back.switch()
        except SystemExit as end:
            status = end.code
        except LoopExit:
            if not self._forked.dead:
                status = 1
                logger.error(
                    "the forked process %d waits for a greenlet of its parent, which cannot run, "
                    "and ends. End a process made by os.fork() with os._exit()",
                    os.getpid(),
                )
        except BaseException:  # noqa: BLE001 - printed, then the process ends
            status = 1
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status if isinstance(status, int) else status is not None)
