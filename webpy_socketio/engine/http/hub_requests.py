"""Handshakes, and first long-polling requests of open sessions, on the hub.

A handshake passes all checks of the HTTP server and the engine. It is served here if the server
knows that the application would pass it on (`EngineServer.find_route`).
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import gevent

from webpy_socketio.engine.engine import Engine, Upgrade, sid_in
from webpy_socketio.engine.engineio import handshake
from webpy_socketio.engine.engineio.takeover import RAW_PATH
from webpy_socketio.engine.http.parser import find_head

__all__ = ["serve"]


def serve(handler: Any, connection: Any, data: bytes) -> int | None:
    """Serve a handshake, or check a long-polling request of an open session.

    Args:
        handler: The `RequestHandler` of the connection.
        connection: Its `HubConnection`.
        data: Received bytes, which begin with the request.

    Returns:
        Bytes of the request; 0 if it must be left to a greenlet; None if it is a long-polling
        request that has passed all checks and is now plain.
    """
    end = find_head(data)
    if not end or b"EIO=" not in data[:end]:
        return 0
    head = handler.read_on_hub(data[:end])
    if head is None or head.version != "1.1" or "%" in head.target:
        return 0
    handler.environ = environ = handler.get_environ()
    engine: Engine = handler.server.engine
    query = environ["QUERY_STRING"]
    if engine.stopping or not engine.serves(environ[RAW_PATH], query):
        return 0
    sid = sid_in(query)
    is_websocket = handshake.is_requested(environ)
    if sid:
        if sid not in engine.sessions:
            return 0
        if not is_websocket:  # also with another Upgrade header, such as "h2c"
            if not engine.may_repeat(environ):
                return 0
            handler.learn(environ)
            return None
    elif head.method != "GET" or not handler.server.find_route(environ):
        return 0
    if head.has_body:
        return 0
    handler.begin_log(data[: data.find(b"\r\n")], handler.remote_address)
    if not is_websocket:
        _open(handler, connection)
        return end
    upgrade = engine.upgrade(environ)
    if not isinstance(upgrade, Upgrade):
        connection.call_in_greenlet(partial(handler.answer_late, upgrade))
        return end
    _start_websocket(handler, connection, upgrade, data[end:])
    return len(data)


def _open(handler: Any, connection: Any) -> None:
    """Respond to a handshake of long-polling."""
    response = handler.server.engine.respond(handler.environ, nullcontext)  # does not wait
    if response.status != "200 OK" or handler.server.keeps_log:
        connection.call_in_greenlet(partial(handler.answer_late, response))
    else:
        handler.close_connection = handler.close_connection or response.close
        data = handler.encode(response.status, response.all_headers(), response.body)
        connection.send(data, handler.close_connection)


def _start_websocket(handler: Any, connection: Any, upgrade: Upgrade, first_bytes: bytes) -> None:
    connection.leave()
    handler.release()
    handler.rfile.add(first_bytes)
    handler.start_websocket(handler.server.engine, upgrade)
    if handler.server.keeps_log:
        handler.response_length = 0
        handler.time_finish = time.time()
        gevent.spawn(handler.log_request)  # which may wait
