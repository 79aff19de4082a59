"""Requests from one server to the servers of a cluster, and the answers to them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent
import gevent.event
from gevent.hub import Hub

from webpy_socketio.backplane.answers import LOCAL, Answers
from webpy_socketio.backplane.envelope import Envelope, Packet
from webpy_socketio.backplane.filters import NO_FILTER, RecipientFilter
from webpy_socketio.backplane.requests import MAX_TIMEOUT, Answer, Request
from webpy_socketio.backplane.topics import Topic
from webpy_socketio.engine.io.clock import call_later
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio.packets import encode_ack, event_body
from webpy_socketio.exceptions import BackplaneError, CallerError, WrongContext
from webpy_socketio.registry import SocketRegistry
from webpy_socketio.server_replies import RemoteReply, Reply

__all__ = ["Incoming", "ServerRequests", "check_can_wait", "check_timeout"]

logger = logging.getLogger("webpy_socketio")

#: Requests of this process that wait for answers of others. Further ones raise `BackplaneError`.
MAX_PENDING = 1000

#: Requests of other processes that are being answered. Further ones are answered with an error.
MAX_RUNNING = 1000


class Incoming(NamedTuple):
    """A request to the server of this process."""

    request: Request
    packet: Packet
    recipients: RecipientFilter
    #: The process that sent it.
    node: str


#: Handles a request: adds the answers to the reply, and finishes it now or later.
Handler = Callable[[Incoming, Reply], None]


class _Pending(NamedTuple):
    answers: Answers
    done: gevent.event.Event
    #: Called when the own copy of the request arrives.
    on_copy: Callable[[], object] = bool


class ServerRequests:
    """Sends requests to servers, this one included, and handles those of other processes.

    For processes with a server.
    """

    def __init__(self, registry: SocketRegistry[Any]) -> None:
        self._registry = registry
        registry.receive_request = self.receive
        #: The handler of each kind of request, and whether it may wait.
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        #: Unfinished replies to other processes.
        self._running: set[Reply] = set()

    def handle(self, kind: str, handler: Handler, may_wait: bool = False) -> None:
        """Set the handler of a kind of request.

        A handler that may wait runs in a greenlet of its own for requests of other processes.
        """
        self._handlers[kind] = (handler, may_wait)

    def forget(self, kind: str) -> None:
        """Remove the handler of a kind of request."""
        self._handlers.pop(kind, None)

    # -- requests of this process

    def send(
        self,
        message: Message,
        request: Request,
        recipients: RecipientFilter = NO_FILTER,
        is_local: bool = False,
        to_self: bool = True,
    ) -> None:
        """Send a request without answers; safe to call from any greenlet and thread.

        Returns when this process has handled it. On gevent's hub, a handler that may wait runs
        later.
        """
        registry = self._registry
        handler, may_wait = self._handlers[request.kind]
        if not registry.on_hub_thread:
            run = registry.run_on_hub if may_wait else registry.call_soon
            run(self.send, message, request, recipients, is_local, to_self)
            return
        if registry.backplane is not None and not is_local:
            registry.backplane.send_request(message, request, recipients)
        if to_self:
            incoming = _incoming(message, request, recipients)
            if may_wait and isinstance(gevent.getcurrent(), Hub):
                gevent.spawn(handler, incoming, Reply())
            else:
                handler(incoming, Reply())

    def ask(
        self,
        message: Message,
        request: Request,
        recipients: RecipientFilter = NO_FILTER,
        is_local: bool = False,
        to_self: bool = True,
    ) -> Answers:
        """Send a request, and wait for the answers until its timeout.

        Returns:
            The answers, which are not complete if the timeout has passed.

        Raises:
            BackplaneError: Redis is unreachable, and nothing was sent; or the server is stopping.
            WrongContext: Called on the hub of gevent.
        """
        answers: Answers = self._registry.run_on_hub(
            self._ask, message, request, recipients, is_local, to_self
        )
        return answers

    def _ask(
        self,
        message: Message,
        request: Request,
        recipients: RecipientFilter,
        is_local: bool,
        to_self: bool,
    ) -> Answers:
        check_can_wait()
        backplane = None if is_local else self._registry.backplane
        number = next(self._numbers)
        done = gevent.event.Event()
        answers = Answers(None, done.set)
        timer = call_later(request.timeout, done.set)
        try:
            processes = int(to_self)
            if backplane is not None:
                if len(self._pending) >= MAX_PENDING:
                    raise BackplaneError(
                        f"{MAX_PENDING} requests wait for answers of other processes: use a "
                        "shorter timeout"
                    )
                self._pending[number] = _Pending(answers, done)
                request = request._replace(number=number)
                processes += backplane.send_request_and_count(message, request, recipients)
            answers.expect(processes)
            if to_self:
                reply = Reply(lambda answer, values: answers.add(LOCAL, answer, values))
                handler, _ = self._handlers[request.kind]
                handler(_incoming(message, request, recipients), reply)
            done.wait()
            if backplane is not None and number not in self._pending:
                raise BackplaneError("the server is stopping")
        finally:
            timer.close()
            self._pending.pop(number, None)
        return answers

    # -- requests to one other server

    def ask_node(
        self,
        node: str,
        kind: str,
        *args: Any,
        timeout: float,
        on_copy: Callable[[], object] | None = None,
        on_answered: Callable[[], object] = bool,
    ) -> list[Any]:
        """Send a request to another server, and wait for its answers.

        Args:
            node: The server.
            kind: Kind of the request.
            *args: JSON-serializable values, or ``bytes``.
            timeout: Longest wait, in seconds.
            on_copy: With it, the request is published on the topic of all servers. Called when this
                process receives its own copy: the other server has received the same messages
                before the request as this process has until now.
            on_answered: Called when the last answer has arrived, before any later message.

        Returns:
            The answers; empty if the server has ended.

        Raises:
            BackplaneError: Redis is unreachable, or the server did not answer in time, or could
                not.
        """
        backplane = self._registry.backplane
        if backplane is None or len(self._pending) >= MAX_PENDING:
            raise BackplaneError("the server is stopping, or has too many requests")
        number = next(self._numbers)
        done = gevent.event.Event()

        def complete() -> None:
            if not answers.silent:
                on_answered()
            done.set()

        answers = Answers(None, complete)
        timer = call_later(timeout, done.set)
        self._pending[number] = _Pending(answers, done, on_copy or bool)
        message = encode_ack("/", 0, args)
        request = Request(kind, timeout=timeout, number=number, target=node)
        try:
            if on_copy is None:
                answers.expect(1)
                topic = Topic.node(node)
                if not backplane.send_request_and_count(message, request, topic=topic):
                    return []
            else:
                answers.expect(2)  # with the own copy
                backplane.send_request(message, request)  # without a switch of greenlets
            done.wait()
        finally:
            timer.close()
            self._pending.pop(number, None)
        if not answers.is_complete or answers.silent:
            raise BackplaneError(
                f"the server {node} did not answer {kind!r} within {timeout:.1f} s"
            )
        return [value for _, value in answers.values]

    # -- messages of other processes

    def receive(self, envelope: Envelope) -> None:
        """Handle a request or answer of another process, or the own copy of a request."""
        backplane, packet, mark = self._registry.backplane, envelope.packet, envelope.mark
        if backplane is None or packet is None or mark is None:
            return
        if envelope.answer is not None:
            pending = self._pending.get(envelope.answer.number)
            if pending is not None:
                pending.answers.receive(envelope)
        elif envelope.request is not None:
            number = envelope.request.number
            if mark.node == backplane.node:
                pending = None if number is None else self._pending.get(number)
                if pending is not None:
                    pending.on_copy()
                    pending.answers.receive_own()
            elif envelope.request.target in ("", backplane.node):
                self._receive_request(
                    Incoming(envelope.request, packet, envelope.recipients, mark.node)
                )

    def _receive_request(self, incoming: Incoming) -> None:
        request = incoming.request
        reply: Reply
        if request.number is None:
            reply = Reply(on_end=self._running.discard)
        else:
            reply = RemoteReply(self._send_answer, request, self._running.discard)
        found = self._handlers.get(request.kind)
        if found is None or len(self._running) >= MAX_RUNNING:
            reason = "is unknown to this version" if found is None else "exceeds the limit"
            logger.warning(
                "a request %r of the process %s %s and was rejected",
                request.kind[:100],
                incoming.node,
                reason,
            )
            reply.finish(has_failed=True)
            return
        self._running.add(reply)
        if found[1]:
            gevent.spawn(_run, found[0], incoming, reply)
        else:
            _run(found[0], incoming, reply)

    def _send_answer(self, message: Message, node: str, answer: Answer) -> None:
        if self._registry.backplane is not None:
            self._registry.backplane.send_answer(message, node, answer)

    # -- end

    def close(self) -> None:
        """Fail all requests before the backplane stops."""
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.done.set()
        for reply in list(self._running):
            reply.finish(has_failed=True)

    def reset_after_fork(self) -> None:
        """Discard the requests of the parent process in a forked child."""
        self._pending, self._running = {}, set()


def _run(handler: Handler, incoming: Incoming, reply: Reply) -> None:
    """Run the handler for a request of another process; an exception is an answer."""
    try:
        handler(incoming, reply)
    except BaseException as error:
        logger.exception("a request %r failed", incoming.request.kind)
        reply.finish(has_failed=True)
        if not isinstance(error, (Exception, gevent.Timeout)):
            raise


def check_timeout(name: str, timeout: Any) -> float:
    """Return a timeout in seconds.

    Raises:
        CallerError: It is not a number, not positive, or longer than `MAX_TIMEOUT`.
    """
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not (is_number and 0 < timeout <= MAX_TIMEOUT):
        raise CallerError(
            f"the timeout of {name}() must be a number of seconds above 0, at most "
            f"{MAX_TIMEOUT:.0f}, not {timeout!r:.100}"
        )
    return float(timeout)


def check_can_wait() -> None:
    """Raise `WrongContext` on gevent's hub, which must not wait."""
    if isinstance(gevent.getcurrent(), Hub):
        raise WrongContext(
            "this call waits for answers and cannot run on gevent's hub: use a greenlet, such as "
            "gevent.spawn(...)"
        )


def _incoming(message: Message, request: Request, recipients: RecipientFilter) -> Incoming:
    """Return a request of this process to itself."""
    packet = Packet(event_body("/", message), list(message.attachments))
    return Incoming(request, packet, recipients, LOCAL)
