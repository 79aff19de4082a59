"""Messages that the extension of the client sends around a loss, in Node.js, with a real server.

``js/receipts.mjs`` has the scenarios; this module compares their reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node_clients import JS, needs_stock_client
from tests.servers import Process, ServerProcess, application_source

pytestmark = [needs_stock_client, pytest.mark.time_limit(30)]  # starts Node.js

APPLICATION = application_source(
    """
from gevent.event import Event

OPTIONS = {
    "plugins": [],
    "recovery_time": int(os.environ.get("RECOVERY_TIME", 60)),
    "parser": os.environ.get("PARSER", "json"),
}
seen, pending, sockets = [], [], []
changed = Event()

def wait_until(condition):
    while not condition():
        changed.clear()
        changed.wait()

@on_connect
def connected(request, socket, context):
    sockets.append(socket)  # of this scenario, which begins with "reset"

@on_suspend
def suspended(request, socket, context):
    changed.set()

@on_event("add")
def add(request, socket, context, value):
    seen.append(value if not isinstance(value, dict) else list(value["bytes"]))
    changed.set()
    return len(seen)

@on_event("later")
def later(request, socket, context, value):
    pending.append(socket.withhold_acknowledgement(timeout=20))
    return add(request, socket, context, value)

@on_message(channel="room")
def to_room(request, socket, context, message):
    add(request, socket, context, message)

@on_event("release")
def release(request, socket, context):
    for acknowledge in pending:
        acknowledge("released")
    return True

@on_event("wait")
def wait(request, socket, context, count):
    wait_until(lambda: len(seen) >= count)
    return seen

@on_event("suspended")
def wait_for_loss(request, socket, context):
    wait_until(lambda: any(each.suspended for each in sockets))
    return True

@on_event("forget")
def forget(request, socket, context):
    for each in sockets:
        if each.suspended:
            each.disconnect()
    return True

@on_event("kick")
def kick(request, socket, context):
    socket.others.disconnect()
    return True

@on_event("reset")
def reset(request, socket, context):
    for values in (seen, pending, sockets):
        values.clear()
    return True

@on_event("where")
def where(request, socket, context):
    return sorted(socket.channels)
"""
)


class Run:
    """A scenario that runs in a Node.js process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def step(self, name: str) -> dict[str, Any]:
        """Return the next report of the scenario, which must be that of the step `name`."""
        reported: dict[str, Any] = json.loads(self.process.next_line())
        assert reported.pop("step") == name, reported
        return reported

    def end(self) -> None:
        """Check that the scenario is complete and its process exits."""
        assert self.step("end") == {}
        assert self.process.wait() == 0, self.process.errors
        assert self.process.errors == ""


@pytest.fixture
def build() -> str:
    """The build of the client: "browser" is minified, as pages load it."""
    return "browser"


@pytest.fixture
def recovery_time() -> int:
    return 60


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the server for a parser and a recovery time; each is started once."""
    started: dict[tuple[str, int], ServerProcess] = {}

    def server(parser: str, recovery_time: int) -> ServerProcess:
        key = (parser, recovery_time)
        if key not in started:
            environment = {"PARSER": parser, "RECOVERY_TIME": str(recovery_time)}
            started[key] = ServerProcess(
                APPLICATION, tmp_path_factory.mktemp("server"), environment
            )
        return started[key]

    yield server
    for each in started.values():
        each.close()
        assert "Traceback" not in each.errors


@pytest.fixture
def run(servers: Any, tmp_path: Path, build: str, recovery_time: int) -> Iterator[Any]:
    server = servers("msgpack" if build == "msgpack" else "json", recovery_time)
    started: list[Process] = []

    def run(scenario: str) -> Run:
        command = ["node", str(JS / "receipts.mjs"), scenario, server.url, "websocket", build]
        started.append(Process(command, tmp_path / f"{scenario}.log"))
        return Run(started[-1])

    yield run
    for process in started:
        process.kill()


every_build = pytest.mark.parametrize("build", ["browser", "module", "msgpack", "node"])


@every_build
def test_messages_lost_before_arrival_are_repeated_in_order(run: Any) -> None:
    client = run("lost")
    assert client.step("arrived") == {
        "seen": ["before", "one", [1, 2], "three", "four", "five"],
        "recovered": True,
    }
    # A repetition is no new event for listeners of onAnyOutgoing().
    assert client.step("answered") == {"answer": 3, "outgoing": 6}
    client.end()


@every_build
def test_messages_that_arrived_are_handled_once_and_answered_afterwards(run: Any) -> None:
    client = run("arrived")
    assert client.step("answered") == {
        "answers": [1, "released", 4, 5],
        "seen": ["one", "two", "three", "four", "five"],
    }
    client.end()


def test_deferred_answer_that_is_sent_during_a_loss_reaches_the_client(run: Any) -> None:
    client = run("away")
    assert client.step("answered") == {"answer": "released", "seen": ["one"]}
    client.end()


def test_messages_around_several_losses_are_handled_once_and_in_order(run: Any) -> None:
    client = run("twice")
    numbers = [10 * round_ + each for round_ in range(6) for each in range(1, 6)]
    assert client.step("each once") == {"seen": [0, *numbers], "answers": list(range(2, 32))}
    client.end()


def test_messages_of_a_connection_that_was_not_recovered_are_reported(run: Any) -> None:
    client = run("forgotten")
    assert client.step("not repeated") == {
        "recovered": False,
        "answers": ["socket has been disconnected", "socket has been disconnected", "answered"],
        "seen": ["arrived", "buffered"],
        "unconfirmed": [["add", "arrived"], ["add", "lost"], ["add", "lost too"]],
    }
    assert client.step("anew") == {"again": 5, "seen": ["arrived", "buffered", "numbered anew"]}
    client.end()


def test_messages_before_a_disconnect_by_the_server_are_reported(run: Any) -> None:
    client = run("kicked")
    assert client.step("disconnected") == {
        "reason": "io server disconnect",
        "answer": "socket has been disconnected",
        "unconfirmed": [[["add", "lost"], ["add", "lost too"]]],
    }
    assert client.step("again") == {"seen": ["first", "second"]}
    client.end()


def test_confirmations_are_batched_and_hidden_from_the_page(run: Any) -> None:
    client = run("confirmed")
    assert client.step("nothing repeated") == {
        "confirmations": 4,  # 3 batches of 64, and the rest after a second
        "sent": ["__numbered__"],
        "count": 201,
        "any": [],
    }
    client.end()


def test_volatile_events_retried_events_and_subscriptions_are_not_numbered(run: Any) -> None:
    client = run("plain")
    assert client.step("not numbered") == {
        "events": ["add", "add", "__subscribe__"],
        "seen": ["retried", "volatile"],
    }
    client.end()


def test_message_whose_acknowledgement_timed_out_is_not_repeated(run: Any) -> None:
    client = run("timeout")
    assert client.step("timed out") == {
        "answer": "operation has timed out",
        "seen": ["first", "second"],
    }
    client.end()


def test_subscriptions_and_repeated_messages_keep_their_order(run: Any) -> None:
    client = run("order")
    assert client.step("subscribed first") == {"answer": {"ok": True}, "seen": ["first", "hello"]}
    assert client.step("unsubscribed last") == {
        "answer": {"ok": True},
        "seen": ["first", "hello", "bye"],
    }
    assert client.step("left") == {"where": []}
    client.end()


def test_more_than_the_limit_of_unconfirmed_messages_repeats_the_newest(run: Any) -> None:
    client = run("limit")
    newest = client.step("newest")
    assert (newest["count"], newest["first"], newest["last"]) == (4097, 5, 4100)
    (text,) = newest["logged"]
    assert "more than 4096 messages" in text
    client.end()


def test_answers_beyond_the_limit_are_reported_as_lost(run: Any) -> None:
    client = run("evicted")
    lost = "socket has been disconnected"
    assert client.step("answers") == {"failed": [lost] * 6, "count": 70, "seen": 70}
    client.end()


@pytest.mark.parametrize("recovery_time", [0])
def test_extension_is_that_of_the_stock_client_without_recovery(run: Any) -> None:
    client = run("off")
    assert client.step("as the stock client") == {
        "events": ["add", "add", "add", "add"],
        "answer": "socket has been disconnected",
        "seen": ["one", "buffered"],
    }
    client.end()
