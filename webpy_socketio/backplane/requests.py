"""Requests to the servers of a cluster, and their answers, as fields of an envelope's header.

A request is published on the topic of all servers, or on that of one node. Each server publishes
its answers on the topic of the node that sent the request, in any number of envelopes; the last one
is marked.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

__all__ = [
    "MAX_TIMEOUT",
    "Answer",
    "Request",
    "answer_header",
    "decode_answer",
    "decode_request",
    "request_header",
]

#: Longest timeout of a request, in seconds.
MAX_TIMEOUT = 3600.0


class Request(NamedTuple):
    """A request to all servers, or to one. Its arguments are the body of the envelope."""

    #: What is requested. A server that does not know the kind answers with an error.
    kind: str
    #: Sockets of this namespace; empty if the request concerns no sockets.
    namespace: str = ""
    #: Members of these channels; None for all sockets.
    channels: tuple[str, ...] | None = None
    #: Seconds in which answers are expected.
    timeout: float = 0.0
    #: Number of the request among those of the node; None if no answer is expected.
    number: int | None = None
    #: The node that receives the answers.
    node: str = ""
    #: The node that handles the request; empty for all servers.
    target: str = ""
    #: Further sockets, of any namespace, each by its session id.
    session_ids: tuple[str, ...] = ()


class Answer(NamedTuple):
    """A part of the answers of one server. The answers are the body of the envelope."""

    #: Number of the request.
    number: int
    #: Whether the server sends no further answers.
    is_last: bool
    #: Number of sockets that the server has asked.
    asked: int = 0
    #: Whether the server could not complete the request.
    has_failed: bool = False


def request_header(request: Request) -> dict[str, Any]:
    """Return the fields of a request in an envelope's header."""
    fields: dict[str, Any] = {"kind": request.kind}
    if request.namespace:
        fields["namespace"] = request.namespace
        fields["channels"] = request.channels
    if request.session_ids:
        fields["sockets"] = request.session_ids
    if request.number is not None:
        fields |= {"id": request.number, "reply": request.node, "timeout": request.timeout}
    if request.target:
        fields["to"] = request.target
    return {"request": fields}


def decode_request(fields: Any) -> Request:
    """Decode the field ``request``. Raises `ValueError` if it is invalid."""
    if not isinstance(fields, dict):
        raise ValueError('"request" is missing')
    kind, namespace = fields.get("kind"), fields.get("namespace", "")
    number, node = fields.get("id"), fields.get("reply", "")
    timeout, channels = fields.get("timeout", 0.0), fields.get("channels")
    target, session_ids = fields.get("to", ""), fields.get("sockets", [])
    if not (isinstance(kind, str) and isinstance(namespace, str) and isinstance(node, str)):
        raise ValueError('"kind", "namespace" or "reply" of the request is not a string')
    if not isinstance(target, str):
        raise ValueError('"to" of the request is not a string')
    if not (number is None or type(number) is int):
        raise ValueError('"id" of the request is not an integer')
    if type(timeout) not in (int, float) or not 0 <= timeout < math.inf:
        raise ValueError('"timeout" of the request is not a positive number')
    if channels is not None:
        if not isinstance(channels, list) or not all(isinstance(each, str) for each in channels):
            raise ValueError('"channels" of the request is not a list of strings')
        channels = tuple(channels)
    if not isinstance(session_ids, list) or not all(isinstance(each, str) for each in session_ids):
        raise ValueError('"sockets" of the request is not a list of strings')
    timeout = min(timeout, MAX_TIMEOUT)
    return Request(kind, namespace, channels, timeout, number, node, target, tuple(session_ids))


def answer_header(answer: Answer) -> dict[str, Any]:
    """Return the fields of an answer in an envelope's header."""
    fields: dict[str, Any] = {"id": answer.number}
    if answer.is_last:
        fields["last"] = True
    if answer.asked:
        fields["asked"] = answer.asked
    if answer.has_failed:
        fields["failed"] = True
    return {"answer": fields}


def decode_answer(fields: Any) -> Answer:
    """Decode the field ``answer``. Raises `ValueError` if it is invalid."""
    if not isinstance(fields, dict):
        raise ValueError('"answer" is missing')
    number, asked = fields.get("id"), fields.get("asked", 0)
    if type(number) is not int or type(asked) is not int:
        raise ValueError('"id" or "asked" of the answer is not an integer')
    return Answer(number, fields.get("last") is True, max(0, asked), fields.get("failed") is True)
