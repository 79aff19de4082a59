"""Shared fixtures: gevent's patches, servers, clients, and cleanup after each test."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import contextlib
import re
import resource
import signal as unix_signals
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
import web

from webpy_socketio import Socket, SocketIOServer, backplane, events, signals, socketio_urls
from webpy_socketio.config import settings
from webpy_socketio.registry import registry

from . import builds, load_clients, parallel, raw

parallel.use_native_locks()

# A shell makes background commands ignore SIGINT; processes started by tests would inherit that.
if unix_signals.getsignal(unix_signals.SIGINT) is unix_signals.SIG_IGN:
    unix_signals.signal(unix_signals.SIGINT, unix_signals.default_int_handler)

#: Seconds after which a waiting test fails; see the marker ``time_limit``.
TIMEOUT = 10.0


#: Modules whose tests run in headless Chromium.
BROWSER = {
    *("test_admin_browser", "test_cors_browser", "test_demo_accessibility", "test_demo_browser"),
    *("test_demo_cluster", "test_demo_connection", "test_demo_nginx", "test_diagnostics_browser"),
    *("test_guides_browser", "test_new_browser", "test_readme_browser", "test_tutorial"),
}

#: Modules whose tests start other programs, or take long for another reason.
SLOW = {
    *("test_autobahn", "test_backplane", "test_cli", "test_conformance", "test_delivery"),
    *("test_doctor", "test_docs", "test_example", "test_faults", "test_forking", "test_fuzz"),
    *("test_guides", "test_gunicorn", "test_hardening", "test_hardening_load", "test_js_client"),
    *(
        "test_load",
        "test_machines",
        "test_main_script",
        "test_metrics",
        "test_mounting",
        "test_new",
    ),
    *("test_packaging", "test_presence_cluster", "test_python_client", "test_readme"),
    *("test_standard_streams", "test_soak", "test_typing", "test_workers"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ``make test-fast`` leaves out."""
    for item in items:
        module = item.path.stem
        if module in BROWSER:
            item.add_marker("browser")
        elif module in SLOW:
            item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured output, which cannot be sent to another process."""
    report = yield
    report.sections = [(name, parallel.escape_surrogates(text)) for name, text in report.sections]
    return report


class Site:
    """A running server with a web.py application, and clients for it."""

    def __init__(self, urls: tuple[Any, ...], fvars: dict[str, Any], **keywords: Any) -> None:
        self.app = web.application((*urls, *socketio_urls), fvars, autoreload=False)
        keywords.setdefault("plugins", [])
        keywords.setdefault("log", None)
        keywords.setdefault("block_warning", None)  # some tests block the event loop
        self.server = SocketIOServer(("127.0.0.1", 0), self.app.wsgifunc(), **keywords)
        self.server.start()
        self.port: int = self.server.server_port
        scheme = "https" if self.server.ssl_enabled else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.path = self.server.engine.path

    def websocket(self, **headers: str) -> raw.WebSocket:
        """Open a raw Engine.IO WebSocket and read its handshake packet."""
        return raw.WebSocket(self.port, self.path, headers=headers)

    def polling(self, **headers: str) -> raw.Polling:
        """Open a raw Engine.IO session over long-polling."""
        return raw.Polling(self.port, self.path, headers=headers)

    def connect(self, auth: str = "", **headers: str) -> raw.WebSocket:
        """Open an accepted raw Socket.IO connection over WebSocket; its public id is ``.id``."""
        websocket = self.websocket(**headers)
        websocket.connect(auth)
        return websocket


def socket_of(client: raw.WebSocket) -> Socket:
    """Return the socket of a raw client."""
    socket = registry.find(client.id)
    assert socket is not None
    return socket


def gets(client: raw.WebSocket, *messages: Any) -> None:
    """Assert that a client receives these messages and no other event."""
    for message in messages:
        assert client.event() == ["message", message]
    client.barrier()


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """Start a server: ``serve(urls, fvars, **keywords of SocketIOServer)``; stopped afterwards."""
    sites: list[Site] = []

    def start(
        urls: tuple[Any, ...] = (), fvars: dict[str, Any] | None = None, **keywords: Any
    ) -> Site:
        site = Site(urls, fvars or {}, **keywords)
        sites.append(site)
        return site

    yield start
    for site in sites:
        site.server.stop()
        assert not site.server.engine.sessions
    assert not any(space.sockets or len(space.channels) for space in registry.namespaces())


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    """A server with default settings, no plugins and no pages."""
    return serve()


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Close, unregister and reset everything that a test left."""
    yield
    while raw.OPENED:
        raw.OPENED.pop().close()
    for function, _ in list(events._registered.values()):
        events.off(function)
    for signal in (
        *signals.STAGES,
        signals.handled,
        signals.packet,
        signals.sent,
        backplane.gap,
    ):
        signal._clear_state()
    settings._configured.clear()
    for name in [name for name in web.config if name.startswith("SOCKETIO_")]:
        del web.config[name]


@pytest.fixture(autouse=True)
def _time_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail tests after `TIMEOUT`, or after the seconds of ``@pytest.mark.time_limit(60)``."""
    marker = request.node.get_closest_marker("time_limit")
    seconds = marker.args[0] if marker else TIMEOUT
    with gevent.Timeout(seconds, AssertionError(f"nothing happened for {seconds} s")):
        yield


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree."""
    return builds.copy_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel."""
    return builds.build(source, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture
def start(tmp_path: Path) -> Iterator[load_clients.Start]:
    """Start a server in a separate process, which must not print anything."""
    with contextlib.ExitStack() as servers:
        yield lambda **options: servers.enter_context(load_clients.running(tmp_path, **options))
        load_clients.close_all()


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    """Raise the limit of open files for thousands of clients, also in started servers."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not load_clients.raise_descriptor_limit(10_000):
        pytest.skip(f"10,000 open files are needed, and no more than {before[1]} are allowed")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def match_quote(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Check texts against the messages that the test is marked with; each must be found once."""
    missing = [mark.args[0] for mark in request.node.iter_markers("quoted")]

    def match(text: str) -> None:
        found = [quote for quote in missing if pattern_of(quote).search(text)]
        assert found, f"none of {missing} in {text!r}"
        missing[:] = [quote for quote in missing if quote not in found]

    yield match
    assert missing == [], "quoted, but not logged or raised"


def pattern_of(quote: str) -> re.Pattern[str]:
    """Return a pattern for a message as the documentation quotes it, with … for varying parts."""
    return re.compile(".*?".join(map(re.escape, quote.split("…"))), re.DOTALL)


class Journal(list[Any]):
    """A list that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = gevent.event.Event()

    def append(self, item: Any) -> None:
        super().append(item)
        self._changed.set()

    def wait(self, condition: Callable[[Journal], Any]) -> Journal:
        """Wait until `condition` holds for the list, at most for the time limit of the test."""
        while not condition(self):
            self._changed.clear()
            self._changed.wait()
        return self

    def wait_for(self, *items: Any) -> Journal:
        """Wait until every one of `items` is there."""
        return self.wait(lambda journal: all(item in journal for item in items))


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def stages(journal: Journal) -> Journal:
    """A journal of every stage that is sent, as ``(name, the stage's own value)``."""
    own = {
        "receiving": "message",
        "message": "message",
        "error": "exception",
        "disconnect": "reason",
        "finish": "reason",
    }

    def record(stage: signals.Stage) -> Callable[..., None]:
        key = own.get(stage.name, "channel")

        def receiver(sender: Any, **keywords: Any) -> None:
            journal.append((stage.name, keywords.get(key)))

        return receiver

    for stage in signals.STAGES:
        stage.connect(record(stage), weak=False)
    return journal
