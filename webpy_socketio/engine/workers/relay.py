"""Bytes passed on between a connection that is ours and a peer who answers on it."""

from __future__ import annotations

import contextlib
import socket as stdlib_socket
from typing import Any

import gevent

from webpy_socketio.engine.io.progress import send_all

__all__ = ["relay"]

_CHUNK = 65_536


def relay(client: Any, peer: Any, write_timeout: float) -> None:
    """Pass bytes on in both directions, until the peer ends it or either side is gone.

    A side that makes no progress in reading for `write_timeout` seconds is gone (see `Progress`). All
    other deadlines are the peer's, who has the session.
    """
    client.settimeout(None)
    inbound = gevent.spawn(_bring_in, client, peer, write_timeout)
    try:
        _pass_on(peer, client, write_timeout)
    finally:
        inbound.kill()
    # Let the client read to the end what came last (see `TLSStream`).
    with contextlib.suppress(OSError), gevent.Timeout(min(1.0, write_timeout), False):
        client.shutdown(stdlib_socket.SHUT_WR)
        while client.recv(_CHUNK):
            pass


def _bring_in(client: Any, peer: Any, write_timeout: float) -> None:
    _pass_on(client, peer, write_timeout)
    with contextlib.suppress(OSError):
        peer.shutdown(stdlib_socket.SHUT_WR)


def _pass_on(source: Any, target: Any, write_timeout: float) -> None:
    with contextlib.suppress(OSError):  # gone, on one side or the other
        while data := source.recv(_CHUNK):
            send_all(target, data, write_timeout)
            gevent.sleep(0)  # gevent reads without a pause what is there already
