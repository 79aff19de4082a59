"""The stock JavaScript client with both forms of the extension, in Node.js, and a real server.

``js/client.mjs`` has the scenarios; this module compares their reports.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node_clients import JS, needs_stock_client
from tests.servers import Process, ServerProcess, application_source

pytestmark = [needs_stock_client, pytest.mark.time_limit(30)]  # a test may start Node.js

BUILDS = ["node", "browser", "module", "msgpack"]
TRANSPORTS = ["polling", "websocket", "polling,websocket"]

#: Each build with each selection of transports.
every_combination = pytest.mark.parametrize(
    ("build", "transports"), list(itertools.product(BUILDS, TRANSPORTS))
)
#: Each transport with one build, and each build with both transports.
every_transport = pytest.mark.parametrize(
    ("build", "transports"),
    [
        *(("node", transports) for transports in TRANSPORTS),
        *((build, "polling,websocket") for build in BUILDS if build != "node"),
    ],
)

APPLICATION_BODY = """
import re
from pathlib import Path

TENANTS = re.compile(r"/tenant-[0-9]+$")

OPTIONS = {
    "namespaces": ["/", TENANTS],
    "plugins": ["webpy_socketio.plugins.presence", "webpy_socketio.plugins.history"],
    "history": {"^log-": {"size": 100, "ttl": 3600}},
    "presence_key": lambda request, socket, context: (socket.auth or {}).get("name"),
    "parser": os.environ.get("PARSER", "json"),
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

@on_event("publish")
def publish(request, socket, context, messages):
    for message in messages:
        to("log-1").send(message)
    return len(messages)

@on_event("numbers")
def numbers(request, socket, context):
    return context["numbers"]

@on_event("where")
def where(request, socket, context):
    return sorted(socket.channels)

@on_event("ask me")
def ask(request, socket, context, number):
    socket.emit("answered", socket.call("question", number, timeout=20))

@on_event("ask all")
def ask_all(request, socket, context, number):
    socket.emit("answered", everyone.call("question", number, timeout=20))

@on_event("reverse")
def reverse(request, socket, context, data):
    socket.emit("reversed", data[::-1])
    return data[::-1]

@on_event("reverse all")
def reverse_all(request, socket, context, value):
    return {**value, "parts": [part[::-1] for part in value["parts"]]}

@on_event("tenant", namespace=TENANTS)
def tenant(request, socket, context):
    return socket.namespace, web.input().token

@on_event("close all")
def close_all(request, socket, context):
    socket.send("last")
    broadcast("last too", namespace="/tenant-1")
    socket.disconnect(close=True)

@on_event("tell", namespace=TENANTS)
def tell(request, socket, context, namespace, message):
    broadcast(message, namespace=namespace)

@on_subscribing(channel="^(private-|log-private)")
def members_only(request, socket, context, channel):
    raise Refused("members only")

@on_subscribing(channel="^once$")
def only_once(request, socket, context, channel):
    if SEEN.exists():
        raise Refused("only once", data=[1, "two"])
    SEEN.touch()

@on_connecting
def no_nobody(request, socket, context):
    if (socket.auth or {}).get("name") == "nobody":
        raise Refused("no entry", data={"code": 401})

@on_subscribing(channel="^data-")
def no_data(request, socket, context, channel):
    raise Refused("no channel", data={"code": 403})

@on_receiving
def no_guarded(request, socket, context, event, message):
    if event == "guarded":
        raise Refused("no message", data=0)
"""

APPLICATION = application_source(APPLICATION_BODY)


class Client:
    """A scenario that runs in a Node.js process, which may run others afterwards."""

    def __init__(self, process: Process, *, exits: bool = True) -> None:
        self.process = process
        self.has_ended = False
        self._exits = exits

    def step(self, name: str) -> dict[str, Any]:
        """Return the next report of the scenario, which must be that of the step `name`."""
        reported: dict[str, Any] = json.loads(self.process.next_line())
        assert reported.pop("step") == name, reported
        return reported

    def end(self) -> None:
        """Check that the scenario is complete, and that its process exits if it runs no other."""
        assert self.step("end") == {}
        if self._exits:
            assert self.process.wait() == 0, self.process.errors
        assert self.process.errors == ""
        self.has_ended = True


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> str:
    """The build of the client; "msgpack" is that of Node.js with ``socket.io-msgpack-parser``."""
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path, build: str) -> Iterator[ServerProcess]:
    parser = "msgpack" if build == "msgpack" else "json"
    server = ServerProcess(APPLICATION, tmp_path / "server", {"PARSER": parser})
    yield server
    server.close()
    assert "Traceback" not in server.errors


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """The process of each build, which runs scenarios; it must exit at the end of its input."""
    processes: dict[str, Process] = {}
    yield processes
    for process in processes.values():
        try:
            process.popen.stdin.close()
            assert process.wait() == 0, process.errors
            assert process.errors == ""
        finally:
            process.kill()


@pytest.fixture
def run(
    server: ServerProcess,
    processes: dict[str, Process],
    tmp_path_factory: pytest.TempPathFactory,
    build: str,
) -> Iterator[Any]:
    clients: list[Client] = []

    def start(scenario: str, transports: str) -> Process:
        command = ["node", str(JS / "client.mjs"), scenario, server.url, transports, build]
        return Process(command, tmp_path_factory.mktemp("client") / "log")

    def run(scenario: str, transports: str = "polling,websocket", own: bool = False) -> Client:
        if own:
            clients.append(Client(start(scenario, transports)))
            return clients[-1]
        if build not in processes:
            processes[build] = start("-", transports)
        processes[build].say(f"{scenario} {server.url} {transports}")
        clients.append(Client(processes[build], exits=False))
        return clients[-1]

    yield run
    for client in clients:
        if not client.has_ended:  # the next test needs another process
            client.process.kill()
            processes.pop(build, None)


@every_combination
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
def test_client_connects_to_dynamic_namespaces(run: Any, transports: str) -> None:
    client = run("namespaces", transports)
    tenants = {"one": ["/tenant-1", "secret"], "two": ["/tenant-2", "secret"]}
    assert client.step("tenants") == tenants
    assert client.step("unknown") == {"message": "Invalid namespace", "active": False}
    assert client.step("told") == {"received": ["hello"]}
    client.end()


@every_transport
def test_disconnect_with_close_ends_all_namespaces_without_reconnection(
    run: Any, transports: str
) -> None:
    client = run("closed", transports)
    assert client.step("messages") == {"first": "last", "second": "last too"}
    reason = "io server disconnect"
    assert client.step("reasons") == {"reasons": [reason, reason], "active": [False, False]}
    assert client.step("over") == {"attempts": [], "connected": [False, False]}
    client.end()


@every_combination
def test_messages_acknowledgements_and_calls_return_values(run: Any, transports: str) -> None:
    client = run("messages", transports)
    for message in ["text", "שלום 🙂", 7, None, {"nested": [1, {"deep": True}]}, "__subscribe__"]:
        assert client.step("echo") == {"answer": [message]}
    assert client.step("acknowledged") == {"answer": [5]}
    assert client.step("several") == {"answer": [1, "two"]}
    assert client.step("none")["answer"] in ([], [None])
    assert client.step("emitWithAck") == {"answer": 42}
    assert client.step("called") == {"answer": [42]}
    assert client.step("called all") == {"answer": [[42]]}
    client.end()


@every_combination
def test_binary_data_arrives_in_both_directions(run: Any, transports: str) -> None:
    client = run("binary", transports)
    backwards = [255, 128, 127, 30, 1, 0]
    assert client.step("bytes") == {"event": backwards, "acknowledgement": backwards}
    assert client.step("nested") == {"parts": [backwards, [8, 9]], "text": "kept"}
    client.end()


@every_combination
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
def test_refusals_arrive_with_their_data(run: Any, server: ServerProcess, transports: str) -> None:
    client = run("refusals", transports)
    rejection = {"message": "no entry", "data": {"code": 401}, "active": False}
    assert client.step("connection") == rejection
    subscription = {"ok": False, "error": "no channel", "data": {"code": 403}}
    assert client.step("subscription") == {"answer": subscription}
    assert client.step("message") == {"answer": [{"error": "no message", "data": 0}]}
    assert client.step("ready") == {}
    server.restart()
    assert client.step("renewal") == {"args": ["once", "only once", [1, "two"]]}
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


@every_transport
def test_history_continues_and_reports_gap(
    run: Any, server: ServerProcess, transports: str
) -> None:
    client = run("history", transports, own=True)  # a page logs a message only once
    assert client.step("subscribed") == {"answer": {"ok": True, "recovered": True}}
    assert client.step("received") == {"messages": ["two", "three", "four"]}
    continued = ["two", "three", "four", "five", "six"]
    assert client.step("continued") == {"messages": continued, "gaps": [], "channels": ["log-1"]}
    assert client.step("again") == {"answer": {"ok": True, "recovered": True}}
    assert client.step("without") == {
        "answer": {"ok": True, "recovered": False},
        "logged": ['webpy_socketio: "room-1" has no history: this channel has no history'],
    }
    assert client.step("refused") == {"answer": {"ok": False, "error": "members only"}}
    assert client.step("off") == {"answer": {"ok": True}}
    assert client.step("anew") == {"answer": {"ok": True, "recovered": True}}
    assert client.step("ready") == {}
    server.restart()
    assert client.step("gap") == {"args": ["log-1"]}
    assert client.step("end of history") == {"messages": [*continued, "nine", "ten"]}
    client.end()
