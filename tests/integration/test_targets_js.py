"""Targets, with the stock JavaScript client on two servers that share one Redis.

``js/targets.mjs`` has the scenarios; this module compares their reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node_clients import JS, needs_stock_client
from tests.redis_server import RedisServer
from tests.servers import Process, ServerProcess, application_source

pytestmark = [needs_stock_client, pytest.mark.time_limit(30)]  # starts Node.js

APPLICATION = application_source(
    """
OPTIONS = {
    "plugins": [],
    "namespaces": ["/", "/chat"],
    "backplane": os.environ["REDIS"],
    "parser": os.environ["PARSER"],
}
FUNCTIONS = {"everyone": everyone, "to": to, "to_sockets": to_sockets}

@on_event("run")
def run(request, socket, context, path):
    found = {**FUNCTIONS, "socket": socket}[path[0][0]]
    for position, (name, *args) in enumerate(path):
        value = getattr(found, name) if position else found
        found = value(*args) if callable(value) else value
    if path[-1][0] == "sockets":
        return [{"id": info.id, "channels": sorted(info.channels)} for info in found]
    return found

@on_event("send bytes")
def send_bytes(request, socket, context, session_id):
    to_sockets(session_id).emit("data", b"\\x00\\xff")
    return True

@on_event("burst")
def burst(request, socket, context):
    socket.send("first")
    socket.volatile.send("dropped")
    everyone.volatile.send("dropped too")
    socket.send("last")
    return True

@on_event("fill")
def fill(request, socket, context, session_id):
    (found,) = (each for each in sockets() if each.session_id == session_id)
    while not found.outbox.unsent:
        found.send("x" * 100_000)
        gevent.sleep(0)
    return True

@on_event("withheld")
def withheld(request, socket, context):
    gevent.spawn(socket.withhold_acknowledgement(timeout=60), "answer")

@on_event("late")
def late(request, socket, context):
    socket.withhold_acknowledgement(timeout=0.01)
"""
)


@pytest.fixture(params=["node", "msgpack"])
def build(request: pytest.FixtureRequest) -> str:
    """The build of the client; "msgpack" is that of Node.js with ``socket.io-msgpack-parser``."""
    return str(request.param)


@pytest.fixture
def servers(shared_redis: RedisServer, build: str, tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """Two servers without clients of earlier tests."""
    parser = "msgpack" if build == "msgpack" else "json"
    environment = {"REDIS": shared_redis.url, "PARSER": parser}
    started = [ServerProcess(APPLICATION, tmp_path / name, environment) for name in ("1", "2")]
    yield started
    for server in started:
        server.close()
        assert "Traceback" not in server.errors


@pytest.fixture(params=["polling", "websocket"])
def run(
    servers: list[ServerProcess], build: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Any]:
    started: list[Process] = []

    def run(scenario: str) -> dict[str, Any]:
        """Return the reports of a scenario, by step."""
        first, second = (server.url for server in servers)
        script = str(JS / "targets.mjs")
        command = ["node", script, scenario, first, request.param, build, second]
        process = Process(command, tmp_path / "log")
        started.append(process)
        reports: dict[str, Any] = {}
        while "end" not in reports:
            found = json.loads(process.next_line())
            reports[found.pop("step")] = found
        assert process.wait() == 0, process.errors
        assert process.errors == ""
        return reports

    yield run
    for process in started:
        process.kill()


def message(*values: Any) -> list[list[Any]]:
    """Return messages as clients receive them."""
    return [["message", value] for value in values]


def test_single_sockets_are_addressed_by_id_in_every_process(run: Any) -> None:
    reports = run("sockets")
    news = ["news", 1]
    assert reports["ids"] == {"received": [message("to itself"), [news], [], [news]]}
    assert reports["combined"] == {
        "received": [
            message("one copy", "local"),
            message("one copy"),
            message("one copy", "not to a"),
            [],
        ]
    }
    assert reports["bytes"] == {"data": [0, 255]}
    assert reports["call"] == {"call": [42, 42]}
    assert reports["subscribed"] == {"found": True}
    assert reports["unsubscribed"] == {"found": True}
    assert reports["disconnected"] == {
        "reason": "io server disconnect",
        "connected": [True, True, False, True],
    }


def test_targets_reach_clients_of_every_process(run: Any) -> None:
    reports = run("targets")
    news = ["news", 1, "two"]
    assert reports["functions"] == {
        "received": [
            [*message("one copy"), news, *message("local")],
            [*message("one copy"), news],
            message("one copy"),
            message("chat"),
        ]
    }
    assert reports["socket"] == {
        "received": [[], message("to", "others"), message("to"), []],
    }
    assert reports["call"] == {"call": [42, 42, 42]}
    assert reports["described"] == {"found": True}
    assert reports["disconnected"] == {
        "reasons": ["io server disconnect", "io server disconnect"],
        "connected": True,
    }


@pytest.mark.parametrize("run", ["polling"], indirect=True)
def test_volatile_event_is_dropped_for_a_client_with_unfetched_messages(run: Any) -> None:
    reports = run("unfetched")
    assert reports["received"] == {"received": message("first", "last", "idle")}


@pytest.mark.parametrize("run", ["websocket"], indirect=True)
def test_volatile_events_of_every_process_are_dropped_for_a_client_that_does_not_read(
    run: Any,
) -> None:
    assert run("unread")["received"] == {"texts": []}


def test_withheld_acknowledgement_arrives_later_or_times_out_with_an_error(run: Any) -> None:
    reports = run("acknowledgement")
    assert reports["withheld"] == {"answer": ["answer"]}
    assert reports["timeout"] == {"answer": [{"error": "timeout"}]}
