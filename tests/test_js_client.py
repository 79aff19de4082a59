"""The stock JavaScript client with the channel extension, in Node.js, against a real server.

``js/client.mjs`` has the scenarios; this module compares their reports.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .servers import Process, ServerProcess, application_source

JS = Path(__file__).resolve().parent / "js"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed"),
    pytest.mark.skipif(
        not (JS / "node_modules" / "socket.io-client").is_dir(),
        reason="the Node.js client is not installed: run npm ci in tests/js (make test does)",
    ),
]

every_transport = pytest.mark.parametrize(
    "transports", ["polling", "websocket", "polling,websocket"]
)

APPLICATION_BODY = """
from pathlib import Path

OPTIONS = {
    "plugins": ["webpy_socketio.plugins.presence"],
    "presence_key": lambda request, socket, context: (socket.auth or {}).get("name"),
}
SEEN = Path(__file__).with_name("seen")

@on_message
def echo(request, socket, context, message):
    context.setdefault("numbers", []).append(message)
    socket.send(message)

@on_message(channel="^room-")
def to_room(request, socket, context, message):
    return "delivered"

@on_event("add")
def add(request, socket, context, one, other):
    return one + other

@on_event("pair")
def pair(request, socket, context):
    return 1, "two"

@on_event("nothing")
def nothing(request, socket, context):
    return None

@on_event("numbers")
def numbers(request, socket, context):
    return context["numbers"]

@on_event("where")
def where(request, socket, context):
    return sorted(socket.channels)

@on_event("ask me")
def ask(request, socket, context, number):
    socket.emit("answered", socket.call("question", number, timeout=20))

@on_event("reverse")
def reverse(request, socket, context, data):
    socket.emit("reversed", data[::-1])
    return data[::-1]

@on_event("reverse all")
def reverse_all(request, socket, context, value):
    return {**value, "parts": [part[::-1] for part in value["parts"]]}

@on_subscribing(channel="^private-")
def members_only(request, socket, context, channel):
    raise Refused("members only")

@on_subscribing(channel="^once$")
def only_once(request, socket, context, channel):
    if SEEN.exists():
        raise Refused("only once")
    SEEN.touch()
"""

APPLICATION = application_source(APPLICATION_BODY)


class Client:
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
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(APPLICATION, tmp_path / "server")
    yield server
    server.close()
    assert "Traceback" not in server.errors


@pytest.fixture(params=["node", "browser"])
def run(server: ServerProcess, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    started: list[Process] = []

    def run(scenario: str, transports: str = "polling,websocket") -> Client:
        command = ["node", str(JS / "client.mjs"), scenario, server.url, transports, request.param]
        started.append(Process(command, tmp_path / f"{scenario}.log"))
        return Client(started[-1])

    yield run
    for process in started:
        process.kill()


@every_transport
def test_client_connects_and_disconnects(run: Any, transports: str) -> None:
    client = run("connect", transports)
    assert client.step("made") == {"connected": False, "active": False, "stock": True}
    assert client.step("connected") == {"id": "string", "transport": transports.split(",")[0]}
    assert client.step("disconnected") == {"reason": "io client disconnect", "connected": False}
    client.end()


def test_stock_io_function_has_channel_methods(run: Any) -> None:
    client = run("stock")
    assert client.step("io") == {"subscribed": {"ok": True}, "apart": True, "waits": True}
    client.end()


@every_transport
def test_messages_acknowledgements_and_calls_return_values(run: Any, transports: str) -> None:
    client = run("messages", transports)
    for message in ["text", "שלום 🙂", 7, None, {"nested": [1, {"deep": True}]}, "__subscribe__"]:
        assert client.step("echo") == {"answer": [message]}
    assert client.step("acknowledged") == {"answer": [5]}
    assert client.step("several") == {"answer": [1, "two"]}
    assert client.step("none")["answer"] in ([], [None])
    assert client.step("emitWithAck") == {"answer": 42}
    assert client.step("called") == {"answer": [42]}
    client.end()


@every_transport
def test_binary_data_arrives_in_both_directions(run: Any, transports: str) -> None:
    client = run("binary", transports)
    backwards = [255, 128, 127, 30, 1, 0]
    assert client.step("bytes") == {"event": backwards, "acknowledgement": backwards}
    assert client.step("nested") == {"parts": [backwards, [8, 9]], "text": "kept"}
    client.end()


@every_transport
def test_client_with_force_base64_sends_and_receives_bytes(run: Any, transports: str) -> None:
    client = run("base64", transports)
    backwards = [255, 128, 127, 30, 1, 0]
    assert client.step("bytes") == {
        "transport": transports.rpartition(",")[2],
        "event": backwards,
        "acknowledgement": backwards,
    }
    client.end()


def test_upgrade_keeps_all_messages_in_order(run: Any) -> None:
    client = run("upgrade")
    assert client.step("first") == {"transport": "polling"}
    assert client.step("second") == {"transport": "websocket"}
    order = client.step("order")
    assert len(order["sent"]) >= 200
    assert order["server"] == order["sent"]
    assert order["received"] == order["sent"]
    client.end()


@every_transport
def test_channel_methods_return_results(run: Any, transports: str) -> None:
    client = run("channels", transports)
    ok = {"ok": True}
    subscribed = client.step("subscribed")
    assert subscribed == {"answer": ok, "channels": ["room-1"], "calls": [ok]}
    assert client.step("again") == {"answer": ok, "channels": ["room-1"]}
    refused = {"ok": False, "error": "members only"}
    assert client.step("refused") == {"answer": refused, "channels": ["room-1"]}
    bad_name = client.step("bad name")
    assert bad_name["answer"]["ok"] is False
    assert bad_name["answer"]["error"]
    assert bad_name["channels"] == ["room-1"]
    assert client.step("sent") == {"answer": "delivered"}
    assert client.step("received") == {"message": "hello"}
    not_there = client.step("not there")["answer"]
    assert not_there["ok"] is False
    assert not_there["error"]
    unsubscribed = {"ok": False, "error": "unsubscribed"}
    assert client.step("sequence") == {
        "answers": [unsubscribed, ok, ok],
        "channels": ["room-1", "room-2"],
    }
    assert client.step("off") == {"answer": ok, "channels": ["room-2"]}
    assert client.step("not there any more")["answer"]["ok"] is False
    client.step("not subscribed")
    client.end()


@every_transport
def test_subscription_before_connect_is_sent_after(run: Any, transports: str) -> None:
    client = run("early", transports)
    assert client.step("waiting") == {"channels": [], "left": {"ok": True}}
    assert client.step("kept") == {
        "subscription": {"ok": True},
        "sent": "delivered",
        "channels": ["room-1"],
    }
    client.end()


@every_transport
def test_channels_are_renewed_first_after_restart(
    run: Any, server: ServerProcess, transports: str
) -> None:
    client = run("restart", transports)
    assert client.step("ready") == {}
    server.restart()
    lost = client.step("lost")
    assert lost["channels"] == []
    assert lost["active"] is True, "the client reconnects automatically"
    assert client.step("back") == {
        "answers": {"handler": "delivered", "buffered": "delivered"},
        "late": {"ok": True},
        "channels": ["room-1", "room-3"],
        "refused": {"channel": "once", "error": "only once"},
    }
    assert client.step("where") == {"answer": [["room-1", "room-3"]]}
    client.end()


def test_renewed_channels_bypass_queue_of_retries(run: Any, server: ServerProcess) -> None:
    client = run("queue")
    assert client.step("ready") == {}
    server.restart()
    assert client.step("sent") == {"error": None, "answer": "delivered"}
    client.end()


def test_channels_are_renewed_after_page_removed_all_listeners(
    run: Any, server: ServerProcess
) -> None:
    client = run("cleanup")
    assert client.step("ready") == {}
    server.restart()
    assert client.step("where") == {"answer": [["room-1"]], "channels": ["room-1"]}
    client.end()


def test_channel_methods_work_with_ack_options(run: Any) -> None:
    client = run("options")
    for _ in ("ackTimeout", "retries"):
        assert client.step("subscribed") == {
            "answer": {"ok": True},
            "refused": {"ok": False, "error": "members only"},
        }
        assert client.step("unsubscribed") == {"answer": {"ok": True}, "channels": []}
    assert client.step("outlived") == {"answer": {"ok": True}}
    client.end()


@every_transport
def test_presence_reports_changes(run: Any, transports: str) -> None:
    client = run("presence", transports)
    assert client.step("one tracker") == {"same": True, "channel": "room-1", "count": 0}
    assert client.step("alone") == {"members": {"anna": [{}]}, "count": 1}
    nothing: dict[str, Any] = {"joins": {}, "updates": {}, "leaves": {}}
    assert client.step("joined") == {**nothing, "joins": {"ben": [{}]}}
    assert client.step("late tracker") == {"members": {"anna": [{}], "ben": [{}]}}
    assert client.step("second tab") == {**nothing, "updates": {"ben": [{}, {}]}}
    assert client.step("tab closed") == {**nothing, "updates": {"ben": [{}]}}
    assert client.step("left") == {**nothing, "leaves": {"ben": [{}]}}
    assert client.step("own view") == {"members": {}, "count": 0}
    client.end()


def test_presence_recovers_from_gap(run: Any) -> None:
    client = run("gap")
    assert client.step("missed") == {"members": ["anna"]}
    assert client.step("recovered") == {"members": ["anna", "ben", "cleo"]}
    client.end()


def test_presence_recovers_after_restart(run: Any, server: ServerProcess) -> None:
    client = run("comeback")
    assert client.step("ready") == {}
    server.restart()
    assert client.step("kept") == {"members": ["anna", "ben"]}, (
        "the page keeps its members while disconnected"
    )
    back = client.step("back")
    assert back["left"]["leaves"] == {"ben": [{}]}
    assert back["members"] == ["anna"]
    client.end()
