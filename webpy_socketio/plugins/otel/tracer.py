"""Spans of connections, messages, subscriptions and rejections."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from webpy_socketio import Labels, Runtime, Socket, __version__, request_id

__all__ = ["MessageTracer"]

#: Stages whose spans begin before their receivers. The kinds are those of OpenTelemetry: the
#: connection is part of the handshake, messages arrive later.
_KINDS = {
    "connect": SpanKind.SERVER,
    "message": SpanKind.CONSUMER,
    "subscribe": SpanKind.CONSUMER,
}

#: Verbs in the names of spans.
_VERBS = {"message": "process", "receiving": "process", "subscribing": "subscribe"}


class _Environ(Getter[dict[str, Any]]):
    """Reads headers of a WSGI environ, for the propagators of OpenTelemetry."""

    def get(self, carrier: dict[str, Any], key: str) -> list[str] | None:
        value = carrier.get("HTTP_" + key.upper().replace("-", "_"))
        return None if value is None else [value]

    def keys(self, carrier: dict[str, Any]) -> list[str]:
        return [name[5:].lower().replace("_", "-") for name in carrier if name.startswith("HTTP_")]


_ENVIRON = _Environ()


class MessageTracer:
    """Makes spans while installed.

    A span is current while the receivers of its stage run, so that spans of libraries become its
    children. Messages of one socket are handled one at a time.
    """

    def __init__(self, provider: Any, runtime: Runtime) -> None:
        self._tracer = trace.get_tracer("webpy_socketio", __version__, provider)
        self._signals = runtime.signals
        self._labels = Labels(runtime)
        #: The span that the messages of a socket are linked to: the handshake or the connection.
        self._origins: dict[Socket, trace.SpanContext] = {}
        #: The spans of running stages and their tokens, innermost last: a handler may subscribe.
        self._active: dict[Socket, list[tuple[str, Span, Any]]] = {}

    def install(self) -> None:
        """Connect to the signals, before the receivers of the application."""
        self._signals.connect.connect(self._begin_connect, first=True)
        self._signals.message.connect(self._begin_message, first=True)
        self._signals.subscribe.connect(self._begin_subscribe, first=True)
        self._signals.handled.connect(self._end)
        self._signals.error.connect(self._on_error)
        self._signals.finish.connect(self._on_finish)
        self._signals.release.connect(self._on_finish)

    def uninstall(self) -> None:
        """Disconnect from the signals."""
        self._signals.connect.disconnect(self._begin_connect)
        self._signals.message.disconnect(self._begin_message)
        self._signals.subscribe.disconnect(self._begin_subscribe)
        self._signals.handled.disconnect(self._end)
        self._signals.error.disconnect(self._on_error)
        self._signals.finish.disconnect(self._on_finish)
        self._signals.release.disconnect(self._on_finish)

    def _begin_connect(self, sender: Socket, request: dict[str, Any], **extra: Any) -> None:
        parent = propagate.extract(request, getter=_ENVIRON)
        span = self._start("connect", sender, None, None, parent)
        handshake = trace.get_current_span(parent).get_span_context()
        self._origins[sender] = handshake if handshake.is_valid else span.get_span_context()
        self._activate("connect", sender, span)

    def _begin_message(self, sender: Socket, event: str, channel: str | None, **extra: Any) -> None:
        self._activate("message", sender, self._start("message", sender, event, channel))

    def _begin_subscribe(self, sender: Socket, channel: str, **extra: Any) -> None:
        self._activate("subscribe", sender, self._start("subscribe", sender, None, channel))

    def _start(
        self,
        stage: str,
        socket: Socket,
        event: str | None,
        channel: str | None,
        parent: context.Context | None = None,
        began: int | None = None,
    ) -> Span:
        label, pattern = self._labels.labels_of(event or "", channel)
        namespace = self._labels.label_of_namespace(socket.namespace)
        attributes: dict[str, Any] = {
            "messaging.system": "socketio",
            "messaging.operation.name": _VERBS.get(stage, stage),
            "webpy_socketio.namespace": namespace,
            "webpy_socketio.session_id": socket.session_id,
        }
        if event is not None:
            attributes["webpy_socketio.event"] = label
            attributes["messaging.operation.type"] = "process"
            attributes["messaging.message.body.size"] = socket.message_size
        if pattern:
            attributes["messaging.destination.template"] = pattern
        if (found := request_id(socket.request)) is not None:
            attributes["webpy_socketio.request_id"] = found
        origin = self._origins.get(socket)
        return self._tracer.start_span(
            f"{_VERBS.get(stage, stage)} {pattern or (label if event is not None else namespace)}",
            # A subscription by a handler belongs to its message.
            parent if parent is not None else self._context_of(socket),
            _KINDS.get(stage, SpanKind.CONSUMER),
            attributes,
            [] if origin is None else [Link(origin)],
            began,
        )

    def _context_of(self, socket: Socket) -> context.Context:
        """Return the context of the running stage of a socket, or an empty one."""
        active = self._active.get(socket)
        return trace.set_span_in_context(active[-1][1]) if active else context.Context()

    def _activate(self, stage: str, socket: Socket, span: Span) -> None:
        token = context.attach(trace.set_span_in_context(span))
        self._active.setdefault(socket, []).append((stage, span, token))

    def _end(
        self,
        sender: Socket,
        stage: str,
        seconds: float,
        failures: int,
        refused: str | None,
        event: str | None = None,
        channel: str | None = None,
        **extra: Any,
    ) -> None:
        if refused is not None:
            self._end_refused(sender, stage, seconds, refused, event, channel)
            return
        active = self._active.get(sender)
        if not active or active[-1][0] != stage:
            return  # another stage, or the plugin was installed while it ran
        _, span, token = active.pop()
        if not active:
            del self._active[sender]
        context.detach(token)
        if failures:
            span.set_status(Status(StatusCode.ERROR, f"{failures} receivers failed"))
        span.end()

    def _end_refused(
        self,
        socket: Socket,
        stage: str,
        seconds: float,
        refused: str,
        event: str | None,
        channel: str | None,
    ) -> None:
        """Make a span for a rejection, whose stage has no other."""
        parent = None
        if stage == "connecting":
            parent = propagate.extract(socket.request, getter=_ENVIRON)
        now = time.time_ns()
        span = self._start(stage, socket, event, channel, parent, now - round(seconds * 1e9))
        span.set_attribute("webpy_socketio.rejected", refused[:200])
        span.set_status(Status(StatusCode.ERROR, "rejected"))
        span.end(now)

    def _on_error(self, sender: Socket, exception: BaseException, **extra: Any) -> None:
        active = self._active.get(sender)
        if active:
            span = active[-1][1]
            span.record_exception(exception)
            span.set_attribute("error.type", type(exception).__qualname__)

    def _on_finish(self, sender: Socket, **extra: Any) -> None:
        self._origins.pop(sender, None)
