"""systemd: listening sockets, readiness and watchdog (sd_listen_fds(3), sd_notify(3)).

Without systemd, or another manager with the same protocol, nothing happens.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import gevent
from gevent import socket

from webpy_socketio.exceptions import ConfigurationError

__all__ = ["Notifier", "take_listener"]

logger = logging.getLogger("webpy_socketio")

#: The first descriptor that systemd passes.
_FIRST_DESCRIPTOR = 3


def take_listener() -> Any:
    """Return the listening socket that systemd has passed to this process, or None.

    The variables are removed, so that child processes do not use them.

    Raises:
        ConfigurationError: There are several sockets, or one that does not listen for connections.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal() or int(count) == 0:
        return None
    if int(count) > 1:
        raise ConfigurationError(
            f"systemd has passed {count} sockets, and one is supported: keep one ListenStream= in "
            "the socket unit"
        )
    os.set_inheritable(_FIRST_DESCRIPTOR, False)
    try:
        sock = socket.socket(fileno=_FIRST_DESCRIPTOR)
        listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError as error:
        raise ConfigurationError(
            f"LISTEN_FDS is set, but descriptor {_FIRST_DESCRIPTOR} is not a socket: "
            f"{error.strerror}"
        ) from error
    if not listens:
        raise ConfigurationError(
            "systemd has passed a socket that does not listen for connections: use ListenStream= "
            "and Accept=no in the socket unit"
        )
    return sock


class Notifier:
    """Sends the state of the service to ``NOTIFY_SOCKET``, and heartbeats for ``WatchdogSec=``.

    The variables are removed from the environment, as only this process may notify.
    """

    def __init__(self) -> None:
        path = os.environ.pop("NOTIFY_SOCKET", "")
        # An abstract socket is named with "@" instead of NUL.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._interval = _watchdog_interval() if path else None
        self._greenlet: Any = None

    def ready(self) -> None:
        """Report that connections are accepted, and start the heartbeats."""
        self._send("READY=1")
        if self._interval is not None and self._greenlet is None:
            self._greenlet = gevent.spawn(self._beat, self._interval)

    def reloading(self) -> None:
        """Report a restart of the workers, which `ready` ends."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(_CLOCK) // 1000}")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._send("STOPPING=1")

    def _beat(self, interval: float) -> None:
        """Send heartbeats while the event loop runs."""
        while True:
            self._send("WATCHDOG=1")
            gevent.sleep(interval)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(state.encode(), self._address)
        except OSError as error:
            logger.warning(
                "systemd cannot be notified at %r: %s; check NOTIFY_SOCKET",
                self._address,
                str(error),
            )


_CLOCK = getattr(time, "CLOCK_MONOTONIC", 1)


def _watchdog_interval() -> float | None:
    """Return the seconds between two heartbeats: half of ``WatchdogSec=``."""
    pid, text = os.environ.pop("WATCHDOG_PID", ""), os.environ.pop("WATCHDOG_USEC", "")
    if pid not in ("", str(os.getpid())) or not text.isdecimal() or int(text) == 0:
        return None
    return int(text) / 2e6
