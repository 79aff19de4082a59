"""Requests that concern the sockets of this process: call, disconnect, subscribe, describe."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import gevent
from gevent.pool import Pool

from webpy_socketio.engine.io.clock import call_later
from webpy_socketio.engine.socketio.packets import decode_body
from webpy_socketio.exceptions import ChannelError, Refused
from webpy_socketio.registry import SocketRegistry
from webpy_socketio.server_replies import Reply
from webpy_socketio.server_requests import Incoming, ServerRequests
from webpy_socketio.socket import Socket
from webpy_socketio.socket_info import describe

__all__ = ["SocketRequests"]

logger = logging.getLogger("webpy_socketio")

#: First acknowledgement id of events that several sockets share; those of `Socket.call` start at
#: 0. Below 2**31, as clients in Java and C++ store an id in 32 bits with a sign.
FIRST_ID = 2**30

#: Greenlets that run the gates of one request.
GATES = 32

#: Sockets that are described before other greenlets run.
BATCH = 50


class SocketRequests:
    """Handles the requests of targets in this process, also those of other processes."""

    def __init__(self, registry: SocketRegistry[Socket], requests: ServerRequests) -> None:
        self._registry = registry
        self._numbers = itertools.count()
        requests.handle("call", self._call)
        requests.handle("disconnect", self._disconnect)
        requests.handle("subscribe", self._subscribe, may_wait=True)
        requests.handle("unsubscribe", self._unsubscribe, may_wait=True)
        requests.handle("sockets", self._describe, may_wait=True)

    def _select(self, incoming: Incoming) -> list[Socket]:
        request = incoming.request
        return self._registry.select(
            request.namespace, request.channels, request.session_ids, incoming.recipients
        )

    def _call(self, incoming: Incoming, reply: Reply) -> None:
        sockets = self._select(incoming)
        if not sockets:
            reply.finish()
            return
        number = FIRST_ID + next(self._numbers) % FIRST_ID
        reply.expect(len(sockets))
        answers = _Acknowledgements(number, sockets, reply, incoming.request.timeout)
        for socket in sockets:
            socket.expect_acknowledgement(number, answers)
        for name in dict.fromkeys(socket.namespace for socket in sockets):
            message = incoming.packet.message(name, self._registry.parser, number)
            members = [socket for socket in sockets if socket.namespace == name]
            self._registry.namespace(name).deliver(message, members)

    def _disconnect(self, incoming: Incoming, reply: Reply) -> None:
        close = decode_body(incoming.packet.body, ()) == [True]
        for socket in self._select(incoming):
            socket.disconnect(close)
        reply.finish()

    def _subscribe(self, incoming: Incoming, reply: Reply) -> None:
        channel = _argument(incoming)
        refused = 0

        def subscribe(socket: Socket) -> None:
            nonlocal refused
            try:
                socket.subscribe(channel)
            except Refused:
                refused += 1
            except ChannelError as error:
                socket.report_error(error, "subscribing the socket by a target")

        sockets = self._select(incoming)
        if self._registry.signals.subscribing.receivers:
            Pool(GATES).map(subscribe, sockets)  # gates may wait
        else:
            for socket in sockets:
                subscribe(socket)
        if refused:
            logger.info(
                "%d of %d sockets of a target were not subscribed to %s: a gate refused",
                refused,
                len(sockets),
                ascii(channel),
            )
        reply.finish()

    def _unsubscribe(self, incoming: Incoming, reply: Reply) -> None:
        channel = _argument(incoming)
        for socket in self._select(incoming):
            socket.unsubscribe(channel)
        reply.finish()

    def _describe(self, incoming: Incoming, reply: Reply) -> None:
        for count, socket in enumerate(self._select(incoming), 1):
            if socket.connected:
                reply.add(describe(socket, socket.opened_at))
            if count % BATCH == 0:
                gevent.sleep(0)
        reply.finish()


class _Acknowledgements:
    """Receives the acknowledgements of one event that several sockets share."""

    def __init__(self, number: int, sockets: list[Socket], reply: Reply, timeout: float) -> None:
        self._number = number
        self._sockets = sockets
        self._reply = reply
        self._waiting = len(sockets)
        self._timer = call_later(timeout, self._expire)

    def set(self, args: list[Any]) -> None:
        """Add the answer of one socket."""
        self._reply.add(args[0] if len(args) == 1 else args or None)
        self._remove_one()

    def set_exception(self, exception: BaseException) -> None:
        """Handle that one socket has disconnected, or that its answer exceeds a limit."""
        self._remove_one()

    def _remove_one(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._timer.close()
            self._reply.finish()

    def _expire(self) -> None:
        for socket in self._sockets:
            socket.forget_acknowledgement(self._number)
        self._reply.expire()


def _argument(incoming: Incoming) -> Any:
    return decode_body(incoming.packet.body, ())[0]
