"""Several machines behind a real nginx, with the configuration ``docs/nginx/machines.conf``.

Two processes, "a" and "b", with one Redis represent the machines.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
import socketio

from tests.certificates import trusting
from tests.conftest import Journal
from tests.integration.test_js_client import APPLICATION_BODY
from tests.integration.test_workers import children, until_gone
from tests.nginx import Nginx, running_nginx
from tests.node_clients import JS, needs_stock_client
from tests.python_clients import close_client
from tests.raw import Polling, WebSocket
from tests.redis_server import RedisServer
from tests.servers import Process, Served, ServerProcess, application_source, module_source
from tests.snippets import DOCS, ROOT, Page

pytestmark = pytest.mark.time_limit(60)

CONFIGURATION = ROOT / "docs" / "nginx" / "machines.conf"
DEPLOYMENT = Page.read(DOCS / "how-to" / "deployment.rst")

MACHINES = ("a", "b")

BODY = (
    APPLICATION_BODY
    + """
OPTIONS["machine"] = os.environ["MACHINE"]
OPTIONS["backplane"] = os.environ["BACKPLANE"]
OPTIONS["trusted_proxies"] = ["127.0.0.1"]

@on_event("machine")
def machine(request, socket, context):
    return os.environ["MACHINE"]

@on_event("forwarded")
def forwarded(request, socket, context):
    return {name: value for name, value in request.items() if name.startswith("HTTP_X_F")}

@on_event("full")
def limit_sessions(request, socket, context):
    server.engine.config = __import__("dataclasses").replace(server.engine.config, max_sessions=1)

@on_event("broadcast")
def send_to_all(request, socket, context, message):
    broadcast(message)

@on_event("pid")
def pid(request, socket, context):
    return os.getpid()
"""
)

EVERY_TRANSPORT = [["polling"], ["websocket"], ["polling", "websocket"]]
every_transport = pytest.mark.parametrize("transports", EVERY_TRANSPORT, ids="+".join)


class Machines(NamedTuple):
    """Two servers, Redis and nginx."""

    nginx: Nginx
    servers: dict[str, ServerProcess | Served]

    @property
    def port(self) -> int:
        """Port of nginx without TLS."""
        return self.nginx.plain_port

    @property
    def url(self) -> str:
        return f"https://localhost:{self.nginx.port}"


def one_process(folder: Path, env: dict[str, str]) -> ServerProcess:
    return ServerProcess(application_source(BODY + 'OPTIONS["log"] = None\n'), folder, env)


def two_workers(folder: Path, env: dict[str, str]) -> Served:
    folder.mkdir()
    (folder / "site_module.py").write_text(module_source(BODY), encoding="utf-8")
    command = ["webpy_socketio", "serve", "site_module:application", "--port", "0", "--quiet"]
    served = Served([*command, "--workers", "2"], folder, env)
    served.ready()
    return served


@contextlib.contextmanager
def running_machines(
    folder: Path, begin: Callable[[Path, dict[str, str]], ServerProcess | Served] = one_process
) -> Iterator[Machines]:
    redis = RedisServer(folder)
    servers: dict[str, ServerProcess | Served] = {}
    try:
        redis.start()
        for name in MACHINES:
            servers[name] = begin(folder / name, {"MACHINE": name, "BACKPLANE": redis.url})
        addresses = {
            f"10.0.0.{number}:8000": server.port
            for number, server in enumerate(servers.values(), 1)
        }
        with running_nginx(CONFIGURATION.read_text(), addresses, folder) as nginx:
            yield Machines(nginx, servers)
    finally:
        for server in servers.values():
            server.close()
        redis.stop()


@pytest.fixture(scope="module")
def shared_machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with running_machines(tmp_path_factory.mktemp("machines")) as machines:
        yield machines


@pytest.fixture
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machines]:
    """Start machines for one test, which may stop them."""
    if request.cls is TestMachineDown:
        with running_machines(tmp_path) as machines:
            yield machines
    else:
        yield request.getfixturevalue("shared_machines")


class PythonClient:
    """Client of python-socketio, connected through nginx with TLS."""

    def __init__(self, machines: Machines, transports: list[str], reconnection: bool) -> None:
        self.io = socketio.Client(
            http_session=trusting(machines.nginx.certificate),
            reconnection=reconnection,
            reconnection_delay=0.1,
        )
        self.received = Journal()
        self.io.on("message", self.received.append)
        self.io.on("connect", lambda: self.received.append("connected"))
        # WebSocket connections of this client send an Origin header themselves, as browsers do.
        origin = {} if "websocket" in transports else {"Origin": machines.url}
        self.io.connect(machines.url, origin, transports=transports)
        assert self.io.transport() == transports[-1]

    @property
    def machine(self) -> Any:
        """Name of the machine that owns the session."""
        return self.io.call("machine")


Connect = Callable[..., PythonClient]


@pytest.fixture
def connect(machines: Machines) -> Iterator[Connect]:
    clients: list[PythonClient] = []

    def connect(transports: list[str], reconnection: bool = False) -> PythonClient:
        clients.append(PythonClient(machines, transports, reconnection))
        return clients[-1]

    yield connect
    for client in clients:
        close_client(client.io)


def connect_one_per_machine(
    connect: Callable[[], Any], name: Callable[[Any], str]
) -> dict[str, Any]:
    """Connect until each machine has a client: nginx prefers the one with fewer connections."""
    found: dict[str, Any] = {}
    while len(found) < len(MACHINES):
        client = connect()
        found.setdefault(name(client), client)
    return found


def machine_of(client: Polling) -> str:
    return client.sid.rpartition(".")[2]


class TestStickiness:
    @every_transport
    def test_python_client_stays_on_its_machine(
        self, transports: list[str], connect: Connect
    ) -> None:
        clients = connect_one_per_machine(
            lambda: connect(transports), lambda client: client.machine
        )
        for name, client in clients.items():
            for number in range(20):  # with long-polling, each event is a request
                assert client.io.call("add", (number, 1)) == number + 1
            assert client.machine == name
        clients["a"].io.emit("broadcast", "hello")
        for client in clients.values():
            client.received.wait_for("hello")

    @needs_stock_client
    @pytest.mark.parametrize(
        ("scenario", "transports"),
        [
            *itertools.product(["messages", "channels", "binary"], EVERY_TRANSPORT),
            ("upgrade", EVERY_TRANSPORT[-1]),
        ],
    )
    def test_js_client_stays_on_its_machine(
        self, scenario: str, transports: list[str], machines: Machines, tmp_path: Path
    ) -> None:
        url = f"http://127.0.0.1:{machines.port}"
        command = ["node", str(JS / "client.mjs"), scenario, url, ",".join(transports), "node"]
        process = Process(command, tmp_path / "client.log")
        try:
            while json.loads(process.next_line())["step"] != "end":
                pass
            assert process.wait() == 0
            assert process.errors == ""
        finally:
            process.kill()

    def test_polling_requests_on_new_connections_reach_the_machine(
        self, machines: Machines
    ) -> None:
        clients = connect_one_per_machine(lambda: Polling(machines.port), machine_of)
        for client in clients.values():
            client.connect()
            for number in range(20):
                packet = f'420["add",{number},1]'
                assert client.send(packet) == (200, "ok")
                assert client.poll() == [f"430[{number + 1}]"]
            # Other tests use the same servers, and their clients call all sockets.
            assert client.send("41") == (200, "ok")

    def test_new_sessions_are_distributed(self, machines: Machines) -> None:
        sockets = [WebSocket(machines.port) for _ in range(20)]
        names = [client.open["sid"].rpartition(".")[2] for client in sockets]
        assert set(names) == set(MACHINES)

    def test_unknown_session_id_is_rejected(self, machines: Machines) -> None:
        client = Polling(machines.port)
        for sid in (f"{client.sid[:-1]}c", "c", "10.0.0.1", "machine_a"):
            client.sid = sid
            status, body = client.request("GET")
            assert (status, json.loads(body)["code"]) == (400, 1)


class TestMachineDown:
    @every_transport
    def test_clients_of_a_stopped_machine_reconnect_to_the_other(
        self, transports: list[str], machines: Machines, connect: Connect
    ) -> None:
        clients = connect_one_per_machine(
            lambda: connect(transports, True), lambda client: client.machine
        )
        lost, other = clients["a"], clients["b"]
        lost.received.clear()
        other.received.clear()
        machines.servers["a"].process.kill()
        lost.received.wait_for("connected")
        assert lost.machine == "b"
        lost.io.emit("broadcast", "hello")
        lost.received.wait_for("hello")
        other.received.wait_for("hello")
        assert "connected" not in other.received
        assert other.machine == "b"

    def test_new_sessions_succeed_while_a_machine_is_down(self, machines: Machines) -> None:
        machines.servers["a"].process.kill()
        for _ in range(10):
            assert machine_of(Polling(machines.port)) == "b"

    def test_requests_for_a_stopped_machine_fail_at_once(self, machines: Machines) -> None:
        clients = connect_one_per_machine(lambda: Polling(machines.port), machine_of)
        machines.servers["a"].process.kill()
        assert clients["a"].request("GET")[0] == 502
        clients["b"].connect()

    def test_restarted_machine_receives_new_sessions(self, machines: Machines) -> None:
        clients = connect_one_per_machine(lambda: Polling(machines.port), machine_of)
        machines.servers["a"].process.kill()
        machines.servers["a"].start()
        assert clients["a"].request("GET")[0] == 400  # the session belongs to the other machine
        while machine_of(Polling(machines.port)) != "a":
            pass

    def test_full_machine_receives_no_new_sessions(self, machines: Machines) -> None:
        """A full server, like one that is stopping, responds with 503."""
        control = WebSocket(machines.servers["a"].port)
        control.connect()
        assert control.call("full") == []
        for _ in range(5):
            assert machine_of(Polling(machines.port)) == "b"


@pytest.fixture
def machines_of_two(tmp_path: Path) -> Iterator[Machines]:
    """Start two machines with two workers each, which a test may stop."""
    with running_machines(tmp_path, two_workers) as machines:
        yield machines


class TestWorkersOfMachines:
    """A session id starts with the name of its worker and ends with that of its machine."""

    def test_every_request_reaches_its_worker(self, machines_of_two: Machines) -> None:
        machines = machines_of_two
        pids = {name: children(served) for name, served in machines.servers.items()}
        polling = self.connect_one_per_worker(machines, pids)
        assert {client.sid.partition(".")[0] for client in polling.values()} == {"1", "2"}
        for pid, client in polling.items():
            # Each call consists of two requests on new connections, which any worker may accept.
            assert [self.pid(client) for _ in range(20)] == [pid] * 20
        polling[pid].send('42["broadcast","hello"]')
        for client in polling.values():
            assert self.next_packet(client) == '42["message","hello"]'
        for transports in EVERY_TRANSPORT:
            for _ in range(4):
                stock = PythonClient(machines, transports, reconnection=False)
                try:
                    found = {stock.io.call("pid", timeout=30) for _ in range(10)}
                    assert len(found) == 1
                    assert found <= pids[stock.machine]
                finally:
                    close_client(stock.io)
        assert all(served.errors == "" for served in machines.servers.values())

    def test_death_of_a_worker_and_of_a_machine_ends_only_their_sessions(
        self, machines_of_two: Machines
    ) -> None:
        machines = machines_of_two
        pids = {name: children(served) for name, served in machines.servers.items()}
        clients = self.connect_one_per_worker(machines, pids)
        victim, mate = pids["a"]
        os.kill(victim, signal.SIGKILL)
        until_gone(victim)
        status, body = clients.pop(victim).request("GET")
        assert (status, json.loads(body)["code"]) == (400, 1)
        for pid, client in clients.items():
            assert self.pid(client) == pid
        while len(children(machines.servers["a"])) < 2:  # a new worker is started
            gevent.sleep(0.02)
        machines.servers["a"].stop()
        assert clients.pop(mate).request("GET")[0] == 502
        for pid, client in clients.items():
            assert self.pid(client) == pid
        assert machine_of(Polling(machines.port)) == "b"

    @classmethod
    def connect_one_per_worker(cls, machines: Machines, pids: dict[str, Any]) -> dict[int, Polling]:
        """Return a client of every worker, by the process id of the worker."""
        clients: dict[int, Polling] = {}
        while len(clients) < 4:
            client = Polling(machines.port)
            client.connect()
            pid = cls.pid(client)
            assert pid in pids[machine_of(client)]
            clients.setdefault(pid, client)
        return clients

    @classmethod
    def pid(cls, client: Polling) -> int:
        assert client.send('420["pid"]') == (200, "ok")
        return int(cls.next_packet(client).removeprefix("430[").removesuffix("]"))

    @staticmethod
    def next_packet(client: Polling) -> str:
        """Return the next packet that is not a ping, which a busy machine may send first."""
        while True:
            packets = client.poll()
            if "2" in packets:
                packets.remove("2")
                assert client.send("3") == (200, "ok")
            if packets:
                (packet,) = packets
                return packet


class TestConfiguration:
    def test_configuration_contains_that_of_one_machine(self) -> None:
        section = DEPLOYMENT.blocks("nginx")[0]
        directives = set(re.findall(r"^ *(proxy_(?!pass).*?);", section, re.MULTILINE))
        assert len(directives) >= 6
        assert directives <= set(
            re.findall(r"^ *(proxy_(?!pass).*?);", CONFIGURATION.read_text(), re.MULTILINE)
        )

    def test_configuration_names_each_machine_three_times(self) -> None:
        text = CONFIGURATION.read_text()
        for number, name in enumerate(MACHINES, 1):
            assert text.count(f"server 10.0.0.{number}:8000") == 2
            assert re.search(rf"~\\\.{name}\$ +machine_{name};", text)


class TestForwarding:
    @every_transport
    def test_https_page_is_accepted_as_same_origin(
        self, transports: list[str], machines: Machines, connect: Connect
    ) -> None:
        found = connect(transports).io.call("forwarded")
        assert found == {
            "HTTP_X_FORWARDED_PROTO": "https",
            "HTTP_X_FORWARDED_HOST": f"localhost:{machines.nginx.port}",
            "HTTP_X_FORWARDED_FOR": "127.0.0.1",
        }

    @pytest.mark.parametrize("path", ["transport=polling", "transport=websocket"])
    @pytest.mark.parametrize("origin", ["http://localhost:{}", "https://elsewhere:{}", "null"])
    def test_other_origin_is_rejected(self, origin: str, path: str, machines: Machines) -> None:
        port = machines.nginx.port
        headers = {
            "Origin": origin.format(port),
            # Headers that a client sends to mislead nginx.
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": f"elsewhere:{port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version": "13",
        }
        context = ssl.create_default_context(cafile=str(machines.nginx.certificate))
        connection = http.client.HTTPSConnection("localhost", port, context=context)
        with contextlib.closing(connection):
            connection.request("GET", f"/socket.io/?EIO=4&{path}", headers=headers)
            assert connection.getresponse().status == 403
