"""Bytes passed on between a connection that is ours and a neighbour who answers on it."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import Any

import gevent

__all__ = ["relay"]

_CHUNK = 65_536


def relay(client: Any, neighbour: Any, write_timeout: float) -> None:
    """Pass bytes on in both directions, until the neighbour ends it or either side is gone.

    Whoever does not take what is written to it for `write_timeout` seconds is gone. All other
    deadlines are the neighbour's, who has the session.
    """
    client.settimeout(None)
    inbound = gevent.spawn(_pass_on, client, neighbour, write_timeout)
    try:
        _pass_on(neighbour, client, write_timeout)
        with contextlib.suppress(OSError):
            client.shutdown(stdlib_socket.SHUT_WR)  # and let it be read to its end
            inbound.join(1.0)
    finally:
        inbound.kill()


def _pass_on(source: Any, target: Any, write_timeout: float) -> None:
    with contextlib.suppress(OSError):  # gone, on one side or the other
        while data := source.recv(_CHUNK):
            with gevent.Timeout(write_timeout, TimeoutError("no progress")):
                target.sendall(data)
            gevent.sleep(0)  # gevent reads without a pause what is there already
    with contextlib.suppress(OSError):
        target.shutdown(stdlib_socket.SHUT_WR)
