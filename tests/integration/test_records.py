"""Log records contain text only, so that stored records keep no connection alive."""

from __future__ import annotations

import ast
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from tests import raw
from tests.conftest import Journal, Site, socket_of
from tests.unit.test_layering import MODULES, tree_of
from webpy_socketio import on_finish
from webpy_socketio.engine.engineio.session import Session


def send_invalid_subscription(client: raw.WebSocket) -> None:
    assert client.call("__subscribe__", "")[0]["ok"] is False
    client.vanish()


def send_invalid_channel(client: raw.WebSocket) -> None:
    assert client.call("__channel__", "not mine", 1)[0]["ok"] is False
    client.vanish()


def send_invalid_packet(client: raw.WebSocket) -> None:
    client.send("4not a packet")
    client.wait_closed()


def send_invalid_frame(client: raw.WebSocket) -> None:
    client.send_raw(b"\xff\xff")
    client.wait_closed()


def reset(client: raw.WebSocket) -> None:
    client.vanish(reset=True)


@pytest.mark.parametrize(
    "spoil",
    [
        send_invalid_subscription,
        send_invalid_channel,
        send_invalid_packet,
        send_invalid_frame,
        reset,
    ],
)
def test_logged_violation_keeps_no_connection_alive(
    spoil: Callable[[raw.WebSocket], None],
    site: Site,
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    client = site.connect()
    socket = weakref.ref(socket_of(client))
    own = socket_of(client)._connection.session.id

    @on_finish
    def finished(request: Any, socket: Any, context: Any) -> None:
        journal.append("finish")

    spoil(client)
    journal.wait_for("finish")
    while socket() is not None or any(
        type(kept) is Session and kept.id == own for kept in gc.get_objects()
    ):
        gevent.sleep(0.01)
        gc.collect()
    assert caplog.records


def logger_calls(name: str) -> Iterator[tuple[ast.Call, set[str]]]:
    """Yield each call of a logger in a module, and the names bound to exceptions there."""
    nodes = list(ast.walk(tree_of(name)))
    caught = {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    given = {
        node.arg
        for node in nodes
        if isinstance(node, ast.arg)
        and node.annotation is not None
        and ast.unparse(node.annotation).endswith(("Exception", "Error", "Refused", "Socket"))
    }
    for node in nodes:
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, (ast.Name, ast.Attribute))
            and ast.unparse(node.func.value) in ("logger", "self._warnings")
        ):
            yield node, caught | given


def test_log_arguments_are_no_exceptions_or_sockets() -> None:
    for name in MODULES:
        for call, names in logger_calls(name):
            kept = {each.id for each in call.args if isinstance(each, ast.Name)} & names
            # DEBUG records may be formatted later.
            permitted = not kept or ast.unparse(call.func) == "logger.debug"
            assert permitted, f"{name}: {ast.unparse(call)}"
