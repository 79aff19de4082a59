"""Events between servers: `Runtime.emit_to_servers` and the signal ``cluster_event``."""

from __future__ import annotations

from typing import Any

from webpy_socketio.backplane.requests import Request
from webpy_socketio.bus.signals import collect_robust
from webpy_socketio.cluster import Cluster
from webpy_socketio.engine.socketio import packets
from webpy_socketio.engine.socketio.packets import decode_body
from webpy_socketio.exceptions import CallTimeout, NoSocket
from webpy_socketio.server_replies import Reply
from webpy_socketio.server_requests import Incoming, check_timeout
from webpy_socketio.targets import encode

__all__ = ["ServerEvents"]

#: The answer of a server on which a receiver raised; it contains no details.
FAILED = {"error": "internal error"}


class ServerEvents:
    """Sends events to the other servers, and those of other servers to receivers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cluster.requests.handle("event", self._receive, may_wait=True)

    def emit(self, event: str, args: tuple[Any, ...]) -> None:
        """Send an event; see `Runtime.emit_to_servers`."""
        message = encode(packets, "/", event, args, self._cluster.limits().broadcast_bytes)
        self._check_serving()
        self._cluster.command(message, Request("event"), to_self=False)

    def call(self, event: str, args: tuple[Any, ...], timeout: float) -> dict[str, Any]:
        """Send an event and return the answers by node; see `Runtime.emit_to_servers`."""
        request = Request("event", timeout=check_timeout("emit_to_servers", timeout))
        message = encode(packets, "/", event, args, self._cluster.limits().broadcast_bytes)
        self._check_serving()
        answers = self._cluster.ask(message, request, to_self=False)
        values = dict(answers.values)
        if not answers.is_complete or answers.silent:
            raise CallTimeout(
                f"{answers.silent} of {answers.processes} servers did not answer {event!r} within "
                f"{timeout} s: check whether they are running",
                values,
                answers.silent,
            )
        return values

    def _check_serving(self) -> None:
        if not self._cluster.serving():
            raise NoSocket(f"no server can be reached{self._cluster.explain_no_server()}")

    def _receive(self, incoming: Incoming, reply: Reply) -> None:
        event, *args = decode_body(incoming.packet.body, incoming.packet.attachments)
        registry = self._cluster.registry
        keywords = {"event": event, "args": args, "node": incoming.node}
        values, failures = collect_robust(
            registry.signals.cluster_event, registry.owner, **keywords
        )
        reply.add(FAILED if failures else values[0] if values else None)
        reply.finish()
