"""Pages of docs/: snippets run, their tests pass, and examples behave as described.

The first class applies to every page; the others test the examples of one page each.
"""

from __future__ import annotations

import configparser
import importlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import web

import webpy_socketio
from tests import raw
from tests.conftest import Site
from tests.nginx import running_nginx
from tests.redis_server import RedisServer
from tests.servers import Served, free_port
from tests.snippets import ROOT, Page, all_pages
from webpy_socketio import Refused, SettingsError
from webpy_socketio.testing import TestServer

PAGES = {path.relative_to(ROOT).as_posix(): Page.read(path) for path in all_pages()}
GUIDES = {name: page for name, page in PAGES.items() if name != "README.rst"}


def guide(name: str) -> Page:
    return GUIDES[f"docs/how-to/{name}.rst"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder for a page's files, which can be imported until the test ends."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(web.config, "debug", False)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def run(folder: Path) -> Callable[[Page], dict[str, Any]]:
    """Write a page's files, run its snippets in one module, and return the module's names."""

    def run(page: Page) -> dict[str, Any]:
        page.write_files(folder)
        app = web.application(webpy_socketio.socketio_urls, {}, autoreload=False)
        return page.run({"web": web, "app": app, "__name__": "page"})

    return run


@pytest.fixture
def program(folder: Path) -> Callable[[Page, str], dict[str, Any]]:
    """Import a page's program, and return its names."""

    def program(page: Page, name: str) -> dict[str, Any]:
        page.write_files(folder)
        names: dict[str, Any] = {"__name__": Path(name).stem}
        exec(compile(page.files()[name], name, "exec"), names)
        return names

    return program


class TestEveryPage:
    @pytest.mark.parametrize(
        "name", [name for name, page in GUIDES.items() if page.uncaptioned("python")]
    )
    def test_snippets_run(self, name: str, run: Callable[[Page], dict[str, Any]]) -> None:
        run(GUIDES[name])

    @pytest.mark.time_limit(60)
    @pytest.mark.parametrize(
        "name",
        [
            name
            for name, page in GUIDES.items()
            if any(file.startswith("test_") for file in page.files()) and "tutorial" not in name
        ],
    )
    def test_example_tests_pass(self, name: str, folder: Path) -> None:
        GUIDES[name].write_files(folder)
        expected = sum(text.count("\ndef test_") for text in GUIDES[name].files().values())
        expected += sum(text.startswith("def test_") for text in GUIDES[name].files().values())
        done = subprocess.run(
            # A test file cannot patch once pytest-rerunfailures is loaded; conftest.py can.
            [
                *(sys.executable, "-W", "error", "-m", "pytest", "-q"),
                *("-p", "no:cacheprovider", "-p", "no:rerunfailures"),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"{expected} passed" in done.stdout, done.stdout + done.stderr

    @pytest.mark.parametrize("name", PAGES)
    def test_code_blocks_have_tested_languages(self, name: str) -> None:
        known = {
            *("python", "javascript", "html", "html+mako", "console", "nginx", "ini", "text"),
            *("typescript", "tsx", "json", "yaml", "docker", "sh", "js"),
        }
        page = PAGES[name]
        assert {block.language for block in page.all_blocks()} <= known
        # The parser finds all of them, regardless of indentation.
        assert len(page.all_blocks()) == len(
            re.findall(r"^ *\.\. code-block::", page.text, re.MULTILINE)
        )

    @pytest.mark.parametrize("name", GUIDES)
    def test_python_files_compile(self, name: str) -> None:
        for file, text in GUIDES[name].files().items():
            if file.endswith(".py"):
                compile(text, f"{name}: {file}", "exec")


class TestPlugins:
    @pytest.fixture
    def redis(self, tmp_path: Path) -> Iterator[RedisServer]:
        server = RedisServer(tmp_path)
        yield server.start()
        server.stop()

    def test_prices_of_another_program_are_sent_to_clients(
        self, redis: RedisServer, folder: Path, serve: Callable[..., Site]
    ) -> None:
        guide("plugins").write_files(folder)
        client = serve(plugins=["prices"], backplane=redis.url).connect()
        while not redis.ask("PUBLISH", "prices", '{"tea": 3}'):
            gevent.sleep(0.01)
        assert client.event() == ["prices", {"tea": 3}]
        redis.ask("PUBLISH", "prices", "no JSON")
        redis.ask("PUBLISH", "prices", '{"tea": 4}')
        assert client.event() == ["prices", {"tea": 4}]
        redis.stop()
        assert client.event() == ["prices outdated"]

    def test_prices_without_a_backplane_are_rejected(
        self, folder: Path, serve: Callable[..., Site]
    ) -> None:
        guide("plugins").write_files(folder)
        with pytest.raises(SettingsError, match="SOCKETIO_BACKPLANE"):
            serve(plugins=["prices"])


class TestBackground:
    @pytest.fixture
    def names(self, run: Callable[[Page], dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
        names = run(guide("background"))
        names["database"] = database = web.database(dbn="sqlite", db=str(tmp_path / "members"))
        database.query("CREATE TABLE member (name TEXT)")
        database.insert("member", name="Ann")
        return names

    def test_ticker_ticks_while_the_server_runs(
        self, names: dict[str, Any], serve: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticker = importlib.import_module("ticker")
        monkeypatch.setattr(ticker, "INTERVAL", 0.01)
        site = serve(plugins=["ticker"])
        assert site.connect().event() == ["message", {"tick": 0.01}]
        site.server.stop()
        assert ticker._jobs == []

    def test_report_uses_the_address_of_the_handler(self, names: dict[str, Any]) -> None:
        with TestServer(names["app"]) as server:
            ann = server.connect(address="192.0.2.7")
            assert ann.call("report", "tea") == "You will receive it."
            assert ann.receive("report") == "tea, for 192.0.2.7"

    def test_members_are_read_in_a_thread(
        self, names: dict[str, Any], serve: Callable[..., Site]
    ) -> None:
        assert serve().connect().call("members") == [["Ann"]]

    @pytest.mark.quoted("SQLite objects created in a thread can only be used in that same thread")
    def test_lazy_result_of_a_thread_fails(
        self, names: dict[str, Any], match_quote: Callable[[str], None]
    ) -> None:
        pool = gevent.get_hub().threadpool
        rows = pool.apply(names["database"].select, ("member",))
        with pytest.raises(sqlite3.ProgrammingError) as caught:
            list(rows)
        match_quote(str(caught.value))

    @pytest.mark.quoted("'ThreadedDict' object has no attribute 'env'")
    @pytest.mark.parametrize(
        "use",
        [lambda: web.ctx.env, web.input, web.cookies],
        ids=["web.ctx.env", "web.input", "web.cookies"],
    )
    def test_web_ctx_in_a_greenlet_is_empty(
        self, use: Callable[[], Any], site: Site, match_quote: Callable[[str], None]
    ) -> None:
        @webpy_socketio.on_message
        def ask(request: Any, socket: Any, context: Any, message: Any) -> str:
            assert web.ctx.env is request
            greenlet = gevent.spawn(catch, use)
            return str(greenlet.get())

        def catch(function: Callable[[], Any]) -> Any:
            assert dict(web.ctx) == {}
            try:
                return function()
            except AttributeError as error:
                return error

        (answer,) = site.connect().call("message")
        match_quote(answer)


class TestChannels:
    @pytest.fixture
    def names(self, run: Callable[[Page], dict[str, Any]]) -> dict[str, Any]:
        return run(guide("channels"))

    def test_table_example_exchanges_messages(self, names: dict[str, Any]) -> None:
        with TestServer(names["app"]) as server:
            ann, bob = server.connect(), server.connect()
            with pytest.raises(Refused, match="no such table"):
                ann.subscribe("table-9")
            ann.subscribe("table-7")
            bob.subscribe("table-7")
            assert ann.receive("message") == {"joined": bob.id}
            bob.send({"play": "queen"}, channel="table-7")
            assert ann.receive("message") == {"play": "queen"}
            bob.close()
            assert ann.receive("message") == {"left": bob.id}
            assert ann.call("change table", 8) is True
            assert ann.socket.channels == ("table-8",)
            names["close"]("table-8")
            assert ann.receive("message") == "this table is closed"
            assert ann.receive("score") == {"winner": None}
            names["close"]("table-7")  # which has no subscriber

    def test_user_channel_reaches_all_tabs_of_one_user(self, names: dict[str, Any]) -> None:
        with TestServer(names["app"]) as server:
            tabs = [server.connect(cookies={"player": "ann"}) for _ in range(2)]
            eve = server.connect(cookies={"player": "eve"})
            names["notify"]("ann", "hello")
            for tab in tabs:
                assert tab.received("message") == [{"private": "hello"}]
            assert eve.received() == []


class TestAuthorization:
    def test_token_authorizes_client(self, run: Callable[[Page], dict[str, Any]]) -> None:
        names = run(guide("authorization"))
        with TestServer(names["app"]) as server:
            printer = server.connect(auth={"name": "printer", "token": "7f3e..."})
            assert printer.socket.context["user"] == "printer"
            wrong: list[Any] = [None, {}, {"name": "printer", "token": "7f3e"}]
            wrong += [{"name": "unknown", "token": ""}, {"name": ["printer"], "token": None}]
            for auth in wrong:
                with pytest.raises(Refused, match="invalid token"):
                    server.connect(auth=auth)

    def test_receiving_gate_limits_writers(self, run: Callable[[Page], dict[str, Any]]) -> None:
        names = run(guide("authorization"))
        names["TOKENS"]["ann"] = "secret"
        received: list[Any] = []
        webpy_socketio.on_message(
            lambda request, socket, context, message: received.append(message)
        )
        with TestServer(names["app"]) as server:
            ann = server.connect(auth={"name": "ann", "token": "secret"})
            printer = server.connect(auth={"name": "printer", "token": "7f3e..."})
            assert printer.call("message", "not there yet") is None
            for client in (ann, printer):
                client.subscribe("room-news")
            assert printer.call("message", "hello") == {"error": "only to be read"}
            assert ann.call("message", "x" * 2001) == {"error": "too long"}
            assert ann.call("message", "hello") is None
            assert received == ["not there yet", "hello"]

    def test_rate_limit_applies_to_sockets_and_keys(
        self, run: Callable[[Page], dict[str, Any]], folder: Path
    ) -> None:
        names = run(guide("authorization"))
        guide("rate-limits").write_files(folder)
        webpy_socketio.configure("settings")
        for tab in ("ann", "bob"):
            names["TOKENS"][tab] = "secret"
        webpy_socketio.on_message(lambda request, socket, context, message: None)
        with TestServer(names["app"]) as server:

            def connect(name: str) -> Any:
                return server.connect(auth={"name": name, "token": "secret"})

            tabs = [connect("ann") for _ in range(3)]
            for client in tabs[:2]:
                answers = [client.call("message", "x") for _ in range(21)]
                assert answers == [None] * 20 + [{"error": "rate limit"}]
                notice = client.receive("rate_limit")
                assert set(notice) == {"what", "refused", "retry"}
                assert (notice["what"], notice["refused"]) == ("messages", 1)
            assert tabs[2].call("message", "x") == {"error": "rate limit"}  # all tabs of one user
            assert connect("bob").call("message", "x") is None
            for _ in range(6):  # attempts of this address
                with pytest.raises(Refused, match="invalid token"):
                    server.connect(auth={"name": "ann", "token": "wrong"})
            with pytest.raises(Refused, match="rate limit"):
                connect("ann")
            server.advance(1)
            connect("ann")


class TestPresence:
    def test_members_join_change_and_leave(self, run: Callable[[Page], dict[str, Any]]) -> None:
        names = run(guide("presence"))
        with TestServer(names["app"]) as server:
            phone = {"User-Agent": "Mobile"}
            ann = server.connect(cookies={"name": "Ann"}, headers=phone)
            eve = server.connect()
            eve.socket.context["name"] = None
            ann.subscribe("room-1")
            assert ann.receive("presence_state")["members"] == {"Ann": [{"phone": True}]}
            eve.subscribe("room-1")
            assert names["people"]("room-1") == ["Ann"]
            assert names["how_many"]("room-1") == 1
            ann.call("status", "typing")
            server.advance(1)
            assert eve.receive("presence_diff")["joins"] == {"Ann": [{"status": "typing"}]}
            ann.call("hide")
            assert names["seen"] == ["Ann is in room-1", "Ann left room-1"]


class TestFrom2012:
    def test_program_of_2012_runs(self, program: Callable[[Page, str], dict[str, Any]]) -> None:
        names = program(guide("from-2012"), "old.py")
        with TestServer(names["application"]) as server:
            assert server.get("/").text.count("<script ") == 2
            ann, bob, eve = server.connect(), server.connect(), server.connect()
            for client, channel in ((ann, "room-42"), (bob, "room-42"), (eve, "dashboard")):
                client.subscribe(channel)
            ann.send("hello")
            for client, received in ((ann, ["hello"]), (bob, ["hello"]), (eve, [])):
                assert client.received("message") == received


class TestFromFlaskSocketIO:
    def test_rooms_receive_joins_and_leaves(
        self, program: Callable[[Page, str], dict[str, Any]]
    ) -> None:
        names = program(guide("from-flask-socketio"), "app.py")
        with TestServer(names["app"]) as server:
            ann, bob = server.connect(), server.connect()
            ann.emit("join", {"username": "Ann", "room": "r"})
            bob.emit("join", {"username": "Bob", "room": "r"})
            bob.emit("leave", {"username": "Bob", "room": "r"})
            ann.emit("leave", {"username": "Ann", "room": "r"})
            entered, left = "{} has entered the room.", "{} has left the room."
            expected = [entered.format("Ann"), entered.format("Bob"), left.format("Bob")]
            assert ann.received("message") == [*expected, left.format("Ann")]
            assert bob.received("message") == expected[1:]


class TestFromNode:
    def test_middleware_rejects_invalid_token(
        self, program: Callable[[Page, str], dict[str, Any]]
    ) -> None:
        names = program(guide("from-nodejs"), "server.py")
        with TestServer(names["app"]) as server:
            for auth in (None, {"token": "abcd"}):
                with pytest.raises(Refused, match="not authorized"):
                    server.connect(auth=auth)
            alice = server.connect(auth={"token": "abc"})
            assert alice.socket.channels == ("user:alice",)
            assert alice.call("update item", 7, {}) == {"status": "ok", "id": 7}


class TestPathPrefixes:
    def test_mounted_applications_have_clients_of_their_own(
        self, program: Callable[[Page, str], dict[str, Any]]
    ) -> None:
        names = program(guide("path-prefixes"), "main.py")
        server = webpy_socketio.SocketIOServer(
            ("127.0.0.1", 0), names["site"], log=None, plugins=[], block_warning=None
        )
        server.start()
        try:
            for prefix in ("/team", "/shop"):
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{server.server_port}{prefix}/"
                ) as page:
                    assert f'data-path="{prefix}/socket.io"' in page.read().decode()
                client = raw.WebSocket(server.server_port, f"{prefix}/socket.io/")
                client.connect()
                client.emit("message", "hello")
                assert client.event() == ["message", "hello"]
        finally:
            server.stop()

    @pytest.mark.time_limit(30)
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_nginx_and_setting_mount_the_application(
        self, folder: Path, serve: Callable[..., Site], slash: str
    ) -> None:
        page = guide("path-prefixes")
        page.write_files(folder)
        webpy_socketio.configure("settings")
        site = serve()
        (directives,) = page.blocks("nginx")
        directives = directives.replace(":8000;", f":8000{slash};")
        with running_nginx(directives, {"127.0.0.1:8000": site.port}, folder) as nginx:
            for port in (nginx.plain_port, site.port):
                client = raw.Polling(port, "/team/socket.io/")
                client.connect()


class TestProcesses:
    @pytest.mark.time_limit(60)
    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_each_start_method_works_in_a_server(self, tmp_path: Path, method: str) -> None:
        (block,) = guide("processes").uncaptioned("python")
        text = block.text.replace('"fork")', f'"{method}")')
        text += "import web\nfrom webpy_socketio import socketio_urls\n"
        text += "app = web.application(socketio_urls, globals())\n"
        (tmp_path / "guide.py").write_text(text)
        command = ["webpy_socketio", "serve", "guide:app", "--port", "0", "--quiet"]
        served = Served(command, tmp_path)
        served.ready()
        try:
            clients = [raw.WebSocket(served.port) for _ in range(2)]
            for client in clients:
                client.connect()
                assert client.call("report", 100) == [4950]
        finally:
            served.close()
        assert served.errors == ""


class TestDeployment:
    @pytest.fixture
    def unit(self, folder: Path) -> Any:
        """Write the program of the guide, and return the unit's ``[Service]`` section."""
        guide("deployment").write_files(folder)
        guide("monitoring").write_files(folder)  # the same settings, with metrics
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment]
        unit.read(folder / "chat.service")
        return unit["Service"]

    @pytest.mark.time_limit(30)
    def test_program_starts_serves_and_stops(self, unit: Any, folder: Path) -> None:
        program, *words = unit["ExecStart"].split()
        assert program.endswith("/bin/webpy-socketio")
        scraped = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "webpy_socketio", *words],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PORT": "0",
                "METRICS_PORT": str(scraped),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            served = re.search(r" on http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            assert served is not None, process.stderr.read()
            with urllib.request.urlopen(f"http://127.0.0.1:{served[1]}/") as page:
                assert page.read() == b"hello"
            with urllib.request.urlopen(f"http://127.0.0.1:{scraped}/metrics") as page:
                shown = page.read().decode()
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
        assert "# TYPE webpy_socketio_sessions gauge" in shown

    def test_kill_mode_signals_first_process_only(self, unit: Any) -> None:
        """A second signal would shorten the graceful shutdown of workers."""
        assert unit["KillMode"] == "mixed"

    def test_unit_reloads_with_workers_only(self, unit: Any) -> None:
        """SIGHUP restarts workers one by one, and ends a single process."""
        assert "ExecReload" not in unit
        (lines,) = (text for text in guide("deployment").blocks("ini") if "ExecReload" in text)
        start, reload = lines.splitlines()
        assert start == f"ExecStart={unit['ExecStart']} --workers 4"
        assert reload == "ExecReload=/bin/kill -HUP $MAINPID"

    def test_systemd_verifies_the_unit(self, folder: Path) -> None:
        program = shutil.which("systemd-analyze")
        if program is None:
            pytest.skip("there is no systemd on this machine")
        guide("deployment").write_files(folder)
        unit = folder / "chat.service"
        script = Path(sys.executable).with_name("webpy-socketio")
        assert unit.with_suffix(".socket").exists()
        text = unit.read_text().replace("/srv/chat/.venv/bin/webpy-socketio", str(script))
        unit.write_text(text.replace("/srv/chat", str(folder)).replace("User=chat", "User=root"))
        done = subprocess.run(
            [program, "verify", str(unit), str(unit.with_suffix(".socket"))],
            capture_output=True,
            text=True,
            check=False,
        )
        mine = [
            line for line in done.stderr.splitlines() if re.search(r"chat\.(service|socket)", line)
        ]
        assert mine == [], done.stderr

    def test_stop_times_match_the_code(self) -> None:
        from webpy_socketio.runtime import default_runtime

        assert webpy_socketio.SocketIOServer.stop_timeout == 5
        assert default_runtime.sources.resolve({}, {}).drain_time == 3
        assert "five seconds" in guide("deployment").text
        assert "(3 seconds)" in guide("deployment").text
        assert "TimeoutStopSec=20" in guide("deployment").text


class TestWire:
    def test_dialogue_matches_the_server(self, serve: Callable[..., Site]) -> None:
        """Send and compare the dialogue line by line."""

        @webpy_socketio.on_message(channel="^room-")
        def talk(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send_and_broadcast_channel(message)

        (dialogue,) = (
            block for block in GUIDES["docs/reference/wire.rst"].blocks("text") if "client" in block
        )
        client = serve(ping_interval=0.5).websocket()
        _, opened, *lines = dialogue.splitlines()  # `websocket` has read the open packet
        assert opened.strip().startswith("0{")
        for line in lines:
            if line.startswith(" "):
                expected = re.escape(line.strip()).replace(r"\.\.\.", ".*")
                received = client.receive(pings=expected == "2")
                assert re.fullmatch(expected, received), (
                    f"{received}, where {line.strip()} is expected"
                )
            else:
                client.send(line.strip())
        client.barrier()


class TestNumbers:
    """Numbers in pages that the code defines."""

    def test_defaults_match_the_code(self) -> None:
        from webpy_socketio.plugins.presence import diffs
        from webpy_socketio.runtime import default_runtime

        settings = default_runtime.sources.resolve({}, {})
        deployment = guide("deployment").text
        assert settings.max_sessions == 20_000
        assert "20,000" in deployment
        assert settings.ping_interval + settings.ping_timeout == 45
        assert re.search(r"45\s+seconds", deployment)
        assert settings.max_message_size == 1_000_000
        assert settings.max_body_size == 16 * 2**20
        assert settings.outbox_bytes == 4 * 2**20
        assert diffs.CROWD == 200
        assert "more than 200 members" in guide("presence").text
