"""Everything that uses Redis, on two servers with runtimes of their own, for any URL."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent

from webpy_socketio import BackplaneError, Runtime
from webpy_socketio.plugins import history, presence
from webpy_socketio.plugins.presence.periodic import Intervals

from .conftest import Journal, Site
from .recovery_client import RecoveringClient

__all__ = ["INTERVALS", "Client", "Node", "Servers", "eventually"]

ROOM = "room-1"

#: Short intervals, but a long lease: a busy machine must not let it expire.
INTERVALS = Intervals(heartbeat=0.2, lease=30.0, sweep=0.1, reconcile=60.0, settle=0.3)

PLUGINS = ["webpy_socketio.plugins.presence", "webpy_socketio.plugins.history"]


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until a condition is true; one that raises `BackplaneError` is not."""
    deadline = time.monotonic() + seconds
    while True:
        failure: object = None
        try:
            if result := condition():
                return result
        except BackplaneError as error:
            failure = error
        assert time.monotonic() < deadline, f"the condition was never met; {failure}"
        gevent.sleep(0.02)


class Node(Site):
    """A server with a runtime of its own, as a process."""

    def __init__(self, url: str, **options: Any) -> None:
        self.runtime = Runtime()
        #: Number of missed messages of each gap.
        self.gaps = Journal()
        self.runtime.signals.gap.connect(self._record_gap)
        self.runtime.signals.cluster_event.connect(self._answer)
        values: dict[str, Any] = {
            "plugins": PLUGINS,
            "history": {"^room-": {"size": 100, "ttl": 600}},
            "presence_grace": 0.5,
            "recovery_time": 120,
        }
        super().__init__((), {}, runtime=self.runtime, backplane=url, **{**values, **options})

    def _record_gap(self, sender: Any, missed: int | None, **extra: Any) -> None:
        self.gaps.append(missed)

    def _answer(self, sender: Any, **extra: Any) -> int:
        return self.port

    def members(self) -> set[str]:
        return set(presence.members(ROOM, runtime=self.runtime))

    def stored(self) -> list[Any]:
        page = history.messages(ROOM, runtime=self.runtime)
        return [message["args"][0] for message in page.messages]


class Client(RecoveringClient):
    """A client in a channel, which skips events of presence."""

    def __init__(self, node: Node, channel: str = ROOM) -> None:
        super().__init__(node)
        self.node = node
        self.subscribe(channel)

    def message(self) -> Any:
        """Return the next message."""
        while True:
            event = self.raw.event()
            if event[0] == "message":
                self.offset = event[-1]
                return event[1]

    def wait_for(self, message: Any) -> None:
        """Skip messages until one has arrived."""
        while self.message() != message:
            pass

    def lose(self) -> None:
        """Lose the connection, and wait until the server has detected it."""
        socket = self.node.runtime.registry.find(self.id)
        assert socket is not None
        self.raw.vanish(True)
        while not socket.suspended:
            gevent.sleep(0.001)

    def resume(self, server: Node) -> bool:  # type: ignore[override]
        self.node = server
        return super().resume(server)


class Servers:
    """Two servers, and a process without a server."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.options = options
        self.nodes = [Node(url, **options) for _ in range(2)]
        self.clients = [Client(node) for node in self.nodes]
        self.standalone = Runtime()
        names = {"backplane": url, "history": {"^room-": {"size": 100, "ttl": 600}}, **options}
        names.pop("plugins", None)
        self.standalone.configure(
            {f"SOCKETIO_{name.upper()}": value for name, value in names.items()}
        )

    def check(self, name: str) -> None:
        """Check messages, requests, presence, history and recovery; `name` marks the messages."""
        one, two = self.nodes
        first, second = self.clients
        for number, runtime in enumerate([one.runtime, two.runtime, self.standalone]):
            eventually(lambda runtime=runtime: self._reaches_all(runtime))
            runtime.broadcast_channel(f"{name} {number}", ROOM)
            runtime.to(ROOM, "room-2").send(f"{name} twice {number}")
            for client in self.clients:
                client.wait_for(f"{name} {number}")
                assert client.message() == f"{name} twice {number}"
        for node in self.nodes:
            eventually(lambda node=node: node.members() == {first.id, second.id})
            eventually(lambda node=node: f"{name} twice 1" in node.stored())
        assert presence.count(ROOM, runtime=self.standalone) == 2
        stored = history.messages(ROOM, runtime=self.standalone).messages
        assert f"{name} twice 1" in [message["args"][0] for message in stored]
        first.lose()
        two.runtime.broadcast_channel(f"{name} missed", ROOM)
        other = one if first.node is two else two
        assert first.resume(other)
        assert first.message() == f"{name} missed"

    def _reaches_all(self, runtime: Runtime) -> bool:
        ports = {node.port for node in self.nodes if node.runtime is not runtime}
        return ports == set(runtime.emit_to_servers("port", timeout=5.0).values())

    def stop(self) -> None:
        for node in self.nodes:
            node.server.stop()
