"""Forked child processes: keep them from serving the clients of their parent.

gevent's event loop goes on in a child that `os.fork` made, with all greenlets and all connections of
the parent. A handler that starts a process by multiprocessing would have its clients served twice.
In the child of a process that serves, only the greenlet that forked survives, as only the calling
thread does in POSIX; and every listening socket and every connection of a client is closed there.
"""

from __future__ import annotations

import _socket
import contextlib
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

#: The event loop of the servers that run, and how many they are.
_loops: dict[Any, int] = {}

#: Sockets besides listening ones and those that these accepted.
_sockets: WeakSet[Any] = WeakSet()

#: Signals whose handlers are the parent's.
_signals: set[int] = set()

#: Called in the child, the last one first.
_callbacks: list[Callable[[], None]] = []

#: What must never be freed in a child: to free a greenlet runs its `finally` blocks.
_abandoned: list[Any] = []

_is_registered = False


def watch(loop: Any) -> None:
    """Count a server that starts on `loop`: from now on forked processes are kept from serving."""
    global _is_registered
    if not _is_registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    _is_registered = True
    _loops[loop] = _loops.get(loop, 0) + 1


def unwatch(loop: Any) -> None:
    """Take one `watch` back."""
    count = _loops.pop(loop, 0) - 1
    if count > 0:
        _loops[loop] = count


def close_in_child(sock: Any) -> None:
    """Have a socket closed in forked processes, which is no client's connection."""
    _sockets.add(sock)


def reset_in_child(*numbers: int) -> None:
    """Have signals that the server handles get their default action in forked processes."""
    _signals.update(numbers)


def call_in_child(function: Callable[[], None]) -> None:
    """Have `function`, which must not wait, called in forked processes while a server runs."""
    _callbacks.insert(0, function)


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
            logger.exception("a forked process could not be separated from its parent's clients")


def _disconnect() -> None:
    """Close the child's copies of connections; those of the parent live on.

    Each descriptor is made one of /dev/null rather than closed: the socket objects that own them
    exist in the child too, and would close whatever has the number next.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for descriptor in _inherited():
            os.dup2(null, descriptor, inheritable=False)
    finally:
        os.close(null)


def _inherited() -> Iterator[int]:
    """Yield the descriptors of listening sockets, of what they accepted, and of `_sockets`."""
    for sock in _sockets:
        with contextlib.suppress(OSError, ValueError):
            if sock.fileno() >= 0:
                yield sock.fileno()
    found = {number: names for number in _descriptors() if (names := _names(number))}
    listening = {_place(name) for is_listening, name, _ in found.values() if is_listening}
    listening.discard(None)
    for number, (_, name, peer) in found.items():
        if _place(name) in listening or _place(peer) in listening:
            yield number


def _descriptors() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return [int(path.name) for path in Path(folder).iterdir()]
    return list(range(3, min(os.sysconf("SC_OPEN_MAX"), 65_536)))


def _names(descriptor: int) -> tuple[bool, Any, Any] | None:
    """Return whether a stream socket listens, its name and a Unix socket's peer; None for others."""
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


def _place(name: Any) -> Any:
    """Return what a listening socket has in common with the connections that it accepted."""
    return name[1] if isinstance(name, tuple) else name or None


def _reset_signals() -> None:
    for number in _signals:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


def _replace_hub(old: Any) -> None:
    """Give the greenlet that forked a hub and a loop of its own; no other greenlet ever runs again."""
    current = getcurrent()
    loop = old.loop
    _abandoned.extend((old, loop))
    loop.destroy()  # which closes the child's descriptors of epoll, and frees the default loop
    set_loop(None)
    hub_class = type(old)
    hub = hub_class()
    set_hub(hub)
    # libev keeps count of what keeps the default loop running, even when that is destroyed.
    for _ in range(hub.loop.activecnt):
        hub.loop.unref()
    hub.NOT_ERROR = old.NOT_ERROR
    if current.parent is not None:
        hub.parent = _Last(current, old.parent)
        current.parent = hub
    # Locks and events remember the hub that they were used on, and forget a dead one.
    old.__class__ = type("AbandonedHub", (hub_class,), {"dead": True, "switch": _switch_to_hub})
    old.loop = hub.loop


def _switch_to_hub(self: Any) -> Any:
    return gevent.get_hub().switch()


class _Last(greenlet):
    """Runs when the greenlet that forked has ended, or waits for what cannot happen: ends the process."""

    def __init__(self, forked: Any, parent: Any) -> None:
        super().__init__(parent=parent)
        self._forked = forked
        self.switch(getcurrent())  # into `run`, which has to be there to catch what is thrown

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
                    "a forked process (pid %d) waits for something that only its parent could do, and "
                    "ends. End a process made by os.fork() with os._exit()",
                    os.getpid(),
                )
        except BaseException:  # noqa: BLE001 - nothing is left to handle it
            status = 1
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status if isinstance(status, int) else status is not None)
