"""README.rst and the other top-level documents, and the snippets of `docs/` that they link to."""

from __future__ import annotations

import re
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio
import web

import webpy_socketio
from tests import commands
from tests.certificates import trusting
from tests.conftest import Journal, Site
from tests.nginx import Nginx, running_nginx
from tests.python_clients import close_client, python_client
from tests.raw import WebSocket
from tests.servers import free_port
from tests.snippets import DOCS, ROOT, Page
from webpy_socketio import signals
from webpy_socketio.bus.signals import send_robust
from webpy_socketio.config.settings import SETTINGS
from webpy_socketio.plugins import metrics
from webpy_socketio.runtime import default_runtime
from webpy_socketio.testing import Client, TestServer

README = Page.read(ROOT / "README.rst")
CONTRIBUTING = Page.read(ROOT / "CONTRIBUTING.rst")
DESIGN = Page.read(ROOT / "DESIGN.rst")
SECURITY = Page.read(ROOT / "SECURITY.rst")
PACKAGE = Path(webpy_socketio.__file__).parent

(PROGRAM,) = README.blocks("python")

METRICS = "webpy_socketio.plugins.metrics"
RATE_LIMIT = "webpy_socketio.plugins.rate_limit"
ADMIN = "webpy_socketio.plugins.admin"


def how_to(name: str) -> Page:
    return Page.read(DOCS / "how-to" / f"{name}.rst")


def settings_of(page: Page) -> dict[str, Any]:
    """Execute the settings module that a page shows, and return its settings as keywords."""
    names: dict[str, Any] = {}
    exec(compile(page.files()["settings.py"], "settings.py", "exec"), names)
    prefix = "SOCKETIO_"
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in names.items()
        if name.startswith(prefix)
    }


class TestProgram:
    @pytest.mark.time_limit(30)
    def test_readme_program_talks_to_a_client(self, tmp_path: Path, journal: Journal) -> None:
        port = free_port()
        (tmp_path / "chat.py").write_text(PROGRAM.replace("8000", str(port)))
        with python_client(["chat.py"], tmp_path, port, {"PYTHONPATH": str(ROOT)}) as client:
            client.on("message", journal.append)
            assert client.call("__subscribe__", "room-1") == {"ok": True}
            client.send("hello")
            journal.wait_for("hello")
            assert journal == ["hello"]  # once, although web.py's reloader imports it twice

    @pytest.mark.time_limit(60)
    def test_doctor_finds_no_problem_in_readme_program(self, tmp_path: Path) -> None:
        (tmp_path / "chat.py").write_text(PROGRAM.replace("8000", "0"))
        done = commands.run("doctor", "chat.py", "--port", "0", cwd=tmp_path)
        assert "problem " not in done.out
        assert (done.status, done.err) == (0, "")


class TestReadme:
    def test_links_lead_to_files(self) -> None:
        links = re.findall(r"<(docs/[\w./-]*)>`_", README.text)
        links += re.findall(r"\.\. image:: (\S+)", README.text)
        links += re.findall(r"``((?:docs|bench|example|webpy_socketio)/[\w./-]*)``", README.text)
        links += re.findall(r"``([A-Z]+(?:\.rst)?)``", README.text)
        assert len(links) > 12
        for link in links:
            assert (ROOT / link).exists(), link

    def test_commands_are_make_targets(self) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        for page in (README, CONTRIBUTING):
            named = set(re.findall(r"``make ([a-z-]+)``", page.text))
            assert {"demo", "test", "docs"} <= named <= targets

    def test_speed_ratios_are_those_of_the_results(self) -> None:
        results = (ROOT / "bench" / "results" / "bench.rst").read_text(encoding="utf-8")
        rows = {
            "broadcast to 500, one per loop iteration": "broadcast, one a turn, 500 subscribers",
            "broadcast to 500, in bursts of 10": "broadcast, bursts of 10, 500 subscribers",
            "message with acknowledgement": "message with acknowledgement, 50 clients",
            "memory of an idle WebSocket connection": "idle WebSocket connection",
        }
        for named, measured in rows.items():
            row = results.partition(f"* - {measured}\n")[2].splitlines()[:6]
            _, _, gevent, _, node, bun = (line.strip("- ") for line in row)
            (shown,) = re.findall(rf"^{named} +(\S+) +(\S+) +(\S+)$", README.text, re.MULTILINE)
            for cell, ratio in zip((gevent, node, bun), shown, strict=True):
                assert float(cell.partition("×")[2]) == pytest.approx(float(ratio), rel=0.05)


class TestContributing:
    def test_map_lists_every_module_and_no_other(self) -> None:
        listed = re.findall(r"^- ``([\w./]+(?:\.py|/))``: \S.*\.$", CONTRIBUTING.text, re.MULTILINE)
        modules = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
        packages = [path.parent for path in PACKAGE.rglob("*/__init__.py")]
        existing = ["__init__.py"]
        existing += [path.relative_to(PACKAGE).as_posix() for path in modules]
        existing += [f"{path.relative_to(PACKAGE).as_posix()}/" for path in packages]
        assert sorted(listed) == sorted(existing)

    def test_list_of_client_modules_is_complete(self) -> None:
        listed = re.findall(r"^- ``(\w+\.js)``: \S.*\.$", CONTRIBUTING.text, re.MULTILINE)
        assert listed == sorted(path.name for path in (ROOT / "client" / "src").glob("*.js"))

    def test_places_to_find_things_exist(self) -> None:
        section = CONTRIBUTING.sections()["Where to find things"].text
        places = re.findall(r"``([a-z_/]+\.py)``", section)
        assert len(places) > 10
        for place in places:
            assert (PACKAGE / place).exists() or (ROOT / place).exists(), place


class TestDesign:
    def test_named_files_exist(self) -> None:
        named = re.findall(r"``([a-z_]+(?:/[a-z_]+)*\.(?:py|rst|lua))``", DESIGN.text)
        named += re.findall(r"``([a-z_]+(?:/[a-z_]+)*/)``", DESIGN.text)
        assert len(named) > 30
        for name in named:
            assert (PACKAGE / name).exists() or (ROOT / name).exists(), name


class TestSecurity:
    def test_every_named_setting_exists(self) -> None:
        known = {f"SOCKETIO_{setting.name}" for setting in SETTINGS}
        named = set(re.findall(r"``(SOCKETIO_[A-Z_]+)``", SECURITY.text))
        assert len(named) > 20
        assert named <= known

    def test_every_named_test_exists(self) -> None:
        tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
        named = set(re.findall(r"``(test_\w+)``", SECURITY.text))
        assert len(named) > 20
        assert named <= tests


@pytest.fixture
def run(serve: Callable[..., Site]) -> Callable[..., dict[str, Any]]:
    """Execute a page's snippets in one module, start a server, and return the module's names."""

    def run(page: Page, **keywords: Any) -> dict[str, Any]:
        application = web.application((), {}, autoreload=False)
        names: dict[str, Any] = {"web": web, "app": application, "__name__": "page"}
        page.run(names)
        names["site"] = serve(**keywords)
        return names

    return run


Run = Callable[..., dict[str, Any]]


def connect(names: dict[str, Any], **headers: str) -> WebSocket:
    client: WebSocket = names["site"].connect(**headers)
    return client


def subscribe(client: WebSocket, channel: str) -> None:
    assert client.call("__subscribe__", channel) == [{"ok": True}]


class TestHowTo:
    """Snippets of the how-to guides, on a real server."""

    def test_mako_template_includes_the_scripts(self, run: Run) -> None:
        page = how_to("pages")
        names = run(page)
        lookup = names["lookup"]
        lookup.put_string("page", page.blocks("html+mako")[0])
        assert lookup.get_template("page").render().count("<script src=") == 3
        assert "<script" in names["head"]

    def test_echo_handler_answers_and_acknowledges(self, run: Run) -> None:
        client = connect(run(how_to("handlers")), Cookie="name=Ann")
        client.emit("message", "hello", ack=1)
        assert client.event() == ["message", {"to": "Ann", "text": "hello"}]
        assert client.receive() == '431["received"]'

    def test_handler_in_thread_pool_returns_factors(self, run: Run) -> None:
        assert connect(run(how_to("handlers"))).call("factor", 6) == [[1, 2, 3, 6]]

    def test_bound_handler_announces_new_subscriber(self, run: Run) -> None:
        names = run(how_to("handlers"))
        first, second = connect(names), connect(names)
        subscribe(first, "room-1")
        subscribe(second, "room-1")
        assert first.event() == ["message", {"joined": second.id}]

    def test_receiver_counts_messages(self, run: Run) -> None:
        names = run(how_to("handlers"))
        client = connect(names)
        client.emit("message", "x", ack=1)
        assert client.event()[0] == "message"
        assert client.receive().startswith("431")
        assert names["seen"]["message"] == 1

    def test_handler_moves_socket_to_another_channel(self, run: Run) -> None:
        client = connect(run(how_to("channels")))
        subscribe(client, "table-7")
        client.emit("change table", 8, ack=1)
        assert client.receive() == "431[true]"
        socket = default_runtime.registry.find(client.id)
        assert socket is not None
        assert socket.channels == ("table-8",)

    def test_gate_rejects_subscription_with_reason(self, run: Run) -> None:
        client = connect(run(how_to("channels")))
        rejected = [{"ok": False, "error": "there is no such table"}]
        assert client.call("__subscribe__", "kitchen") == rejected

    def test_functions_without_socket_reach_clients(self, run: Run) -> None:
        names = run(how_to("sending"))
        assert names["announce"]("news") == "no client is connected"
        client = connect(names)
        subscribe(client, "room-1")
        assert names["announce"]("news") == "sent"
        names["announce_to"](client.id, "room-1", "more")
        assert [client.event() for _ in range(4)] == [
            ["message", {"text": "news"}],
            ["message", {"text": "more"}],
            ["message", {"text": "more"}],
            ["news", "more"],
        ]

    def test_message_above_rate_limit_notifies_client(self, serve: Callable[..., Site]) -> None:
        given = settings_of(how_to("rate-limits"))
        names = {"site": serve(**{**given, "plugins": [RATE_LIMIT]})}
        client = connect(names)
        _, at_once = given["rate_limit_messages"]
        for number in range(at_once + 1):
            client.emit("unknown", number)
        event, notice = client.event()
        assert (event, notice["what"], notice["refused"]) == ("rate_limit", "messages", 1)

    def test_connection_above_rate_limit_is_rejected(self, serve: Callable[..., Site]) -> None:
        given = settings_of(how_to("rate-limits"))
        names = {"site": serve(**{**given, "plugins": [RATE_LIMIT]})}
        _, at_once = given["rate_limit_key_connections"]
        for _ in range(at_once):
            connect(names)
        late = names["site"].websocket()
        late.send("40")
        assert late.receive() == '44{"message":"rate limit"}'

    def test_admin_settings_reject_a_wrong_password(self, serve: Callable[..., Site]) -> None:
        given = settings_of(how_to("admin-ui"))
        client = serve(**{**given, "plugins": [ADMIN]}).websocket()
        client.send('40/admin,{"username":"ann","password":"a guess"}')
        assert client.receive() == '44/admin,{"message":"invalid credentials"}'

    def test_settings_of_several_processes_are_valid(self) -> None:
        given = settings_of(how_to("machines"))
        assert default_runtime.sources.resolve(given, {}).backplane == given["backplane"]

    def test_settings_of_metrics_are_valid(self) -> None:
        given = settings_of(how_to("monitoring"))
        assert default_runtime.sources.resolve(given, {}).metrics_port == given["metrics_port"]

    def test_gap_receiver_asks_clients_to_reload(self, run: Run) -> None:
        client = connect(run(how_to("machines")))
        send_robust(signals.gap, None, node="node", missed=3, topic=None)
        assert client.event() == ["reload"]

    def test_testing_guide_names_existing_methods(self) -> None:
        section = how_to("testing").sections()["Overview"].text
        terms = "\n".join(re.findall(r"^``.*$", section, re.MULTILINE))
        named = set(re.findall(r"``(?:server\.|client\.)?([a-z]+)(?:\(.*?\))?``", terms))
        methods = {name for name in vars(Client) if not name.startswith("_")}
        assert {"send", "receive", "received", "abort"} <= named & methods
        helpers = {"connect", "browser", "advance", "record", "errors", "settle"}
        assert helpers <= named & set(vars(TestServer))
        assert named <= methods | set(vars(TestServer))


class TestMetricsReference:
    def test_table_lists_every_metric(self, serve: Callable[..., Site]) -> None:
        serve(plugins=[METRICS], metrics_port=0).connect()
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port()}/metrics") as response:
            shown = response.read().decode()
        # Metrics of supervisors and backplanes: tests/integration/test_monitoring_files.py.
        table = Page.read(DOCS / "reference" / "metrics.rst").text.partition("the supervisor")[0]
        listed = set(re.findall(r"^``([a-z_]+)``", table, re.MULTILINE)) - {"send"}
        listed |= set(re.findall(r"^``\w+``, ``([a-z_]+)``", table, re.MULTILINE))
        families = set(re.findall(r"^# TYPE webpy_socketio_(\S+)", shown, re.MULTILINE))
        assert listed - {"backplane_connected"} == families


class TestNginx:
    """The directives of the deployment guide, in a real nginx."""

    @pytest.fixture
    def nginx(self, tmp_path: Path, serve: Callable[..., Site]) -> Iterator[Nginx]:
        site = serve(trusted_proxies=["127.0.0.1"])
        directives = how_to("deployment").blocks("nginx")[0]
        with running_nginx(directives, {"127.0.0.1:8000": site.port}, tmp_path) as nginx:
            yield nginx

    @pytest.mark.time_limit(30)
    @pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
    def test_client_connects_with_every_transport(
        self, transports: list[str], nginx: Nginx
    ) -> None:
        port = nginx.port
        client = socketio.Client(http_session=trusting(nginx.certificate))
        # With WebSockets this client sends an Origin itself, as a browser does.
        origin = {} if "websocket" in transports else {"Origin": f"https://localhost:{port}"}
        client.connect(f"https://localhost:{port}", origin, transports=transports)
        try:
            assert client.call("__subscribe__", "room-1") == {"ok": True}
        finally:
            close_client(client)

    def test_other_origin_is_rejected(self, nginx: Nginx) -> None:
        port = nginx.port
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as sock:
            sock.sendall(
                f"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost:{port}\r\n"
                f"Origin: http://localhost:{port}\r\nConnection: close\r\n\r\n".encode()
            )
            assert sock.recv(1000).startswith(b"HTTP/1.1 403")
