"""Relay the bytes of a client connection to the worker that serves it."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import Any

import gevent

from webpy_socketio.engine.io.progress import send_all

__all__ = ["relay"]

_CHUNK = 65_536


def relay(client: Any, peer: Any, write_timeout: float) -> None:
    """Copy bytes in both directions, until the peer closes or either side is lost.

    All other timeouts are enforced by the peer, which owns the session.

    Args:
        client: Connection of the client.
        peer: Connection to the other worker.
        write_timeout: Seconds without progress after which a side counts as lost (see `Progress`).
    """
    client.settimeout(None)
    inbound = gevent.spawn(_copy_and_shut_down, client, peer, write_timeout)
    try:
        _copy(peer, client, write_timeout)
    finally:
        inbound.kill()
    # Let the client read the last bytes (see `TLSStream`).
    with contextlib.suppress(OSError), gevent.Timeout(min(1.0, write_timeout), False):
        client.shutdown(stdlib_socket.SHUT_WR)
        while client.recv(_CHUNK):
            pass


def _copy_and_shut_down(client: Any, peer: Any, write_timeout: float) -> None:
    _copy(client, peer, write_timeout)
    with contextlib.suppress(OSError):
        peer.shutdown(stdlib_socket.SHUT_WR)


def _copy(source: Any, target: Any, write_timeout: float) -> None:
    with contextlib.suppress(OSError):  # either side is lost
        while data := source.recv(_CHUNK):
            send_all(target, data, write_timeout)
            gevent.sleep(0)  # gevent does not yield while data is available
