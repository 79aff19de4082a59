"""Connection state recovery of the stock JavaScript client, in Node.js, with a real server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Proxy
from tests.node_clients import JS, needs_stock_client
from tests.redis_server import RedisServer
from tests.servers import Process, ServerProcess, application_source

pytestmark = [needs_stock_client, pytest.mark.time_limit(30)]  # starts Node.js

APPLICATION = application_source(
    """
RULES = {"^stored$": {"size": 10, "ttl": 60}}
OPTIONS = {"recovery_time": 60, "history": RULES, "plugins": ["webpy_socketio.plugins.history"]}

@on_event("settle")
def settle(request, socket, context):
    return "settled"

@on_event("send")
def send_number(request, socket, context, number):
    socket.emit("n", number)
    emit("n", number + 100, channel="room")

@on_event("send on suspend")
def send_on_suspend(request, socket, context, count):
    context["count"] = count
    return True

@on_suspend
def suspended(request, socket, context):
    for number in range(context.pop("count", 0)):
        emit("n", number, channel="room")

@on_event("speak")
def speak(request, socket, context):
    socket.emit("n", 1)
    socket.emit("text", "hello")
    socket.emit("n", [2])
    return True

@on_event("store")
def store(request, socket, context, text):
    emit("stored", text, channel="stored")
    return True

@on_event("where")
def where(request, socket, context):
    return sorted(socket.channels)

@on_event("forget me")
def forget(request, socket, context):
    socket.disconnect()
"""
)


@pytest.mark.parametrize("build", ["node", "browser", "module", "msgpack"])
def test_extension_removes_offsets_and_leaves_channels_after_a_recovery(
    tmp_path: Path, build: str
) -> None:
    parser = "msgpack" if build == "msgpack" else "json"
    application = APPLICATION.replace(
        '{"recovery_time": 60', f'{{"parser": "{parser}", "recovery_time": 60'
    )
    server = ServerProcess(application, tmp_path / "server")
    command = ["node", str(JS / "client.mjs"), "recovery", server.url, "websocket", build]
    client = Process(command, tmp_path / "client.log")
    try:
        assert json.loads(client.next_line()) == {"step": "stored", "args": ["first"]}
        assert json.loads(client.next_line()) == {
            "step": "recovered",
            "recovered": True,
            "where": [["room", "stored"]],
            "seen": [[1], ["hello"], [[2]]],
            "any": [["n", 1], ["text", "hello"], ["n", [2]], ["stored", "first"]],
        }
        assert json.loads(client.next_line()) == {"step": "end"}
        assert client.wait() == 0, client.errors
    finally:
        client.kill()
        server.close()
    assert "Traceback" not in server.errors


class AlternatingProxy(Proxy):
    """A proxy that leads each connection to the next of several servers, like a load balancer."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = itertools.cycle(ports)
        super().__init__(0)

    @property
    def _target(self) -> int:
        return next(self._ports)

    @_target.setter
    def _target(self, target: int) -> None:
        pass


def test_stock_client_recovers(tmp_path: Path) -> None:
    server = ServerProcess(APPLICATION, tmp_path / "server")
    try:
        check_recovery(server.url, tmp_path)
    finally:
        server.close()
    assert "Traceback" not in server.errors


def test_stock_client_recovers_on_another_server_each_time(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path).start()
    application = APPLICATION.replace("OPTIONS = {", f'OPTIONS = {{"backplane": "{redis.url}", ')
    servers = [ServerProcess(application, tmp_path / name) for name in ("one", "two", "three")]
    proxy = AlternatingProxy([server.port for server in servers])
    try:
        check_recovery(f"http://127.0.0.1:{proxy.port}", tmp_path)
    finally:
        proxy.close()
        for server in servers:
            server.close()
        redis.stop()
    assert not [server.errors for server in servers if "Traceback" in server.errors]


def check_recovery(url: str, tmp_path: Path) -> None:
    """Run the stock client, and check what it reports."""
    client = Process(["node", str(JS / "recovery.mjs"), url], tmp_path / "client.log")

    def step(name: str) -> dict[str, Any]:
        reported: dict[str, Any] = json.loads(client.next_line())
        assert reported.pop("step") == name, reported
        return reported

    try:
        assert step("before the first event") == {
            "recovered": [False, True],
            "same": True,
            "received": [],
        }
        assert step("several losses") == {
            "recovered": True,
            "received": [0, 100, 1, 101, 2, 102],
        }
        assert step("missed") == {"recovered": True, "received": [0, 1, 2, 3, 4]}
        assert step("ended") == {"recovered": False, "same": False}
        assert step("end") == {}
        assert client.wait() == 0, client.errors
    finally:
        client.kill()
