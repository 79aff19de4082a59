"""Shared fixtures: gevent's patches, servers, clients, and cleanup after each test."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import contextlib
import gc
import os
import re
import resource
import signal as unix_signals
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import hypothesis
import pytest
import web

from webpy_socketio import Socket, SocketIOServer, signals, socketio_urls
from webpy_socketio.engine.http.wsgi import RequestHandler
from webpy_socketio.runtime import default_runtime

from . import builds, load_clients, parallel, preloaded, raw

parallel.use_native_locks()


def _reject_at_fork(
    *, register: Callable[..., None] = os.register_at_fork, **functions: Callable[[], None]
) -> None:
    """Register functions of the standard library, gevent and this package, but no others.

    They cannot be unregistered. OpenTelemetry's start threads in each child: gevent would switch to
    greenlets of the test, which would read from the connections of the parent.
    """
    name = sys._getframe(1).f_globals["__name__"]
    allowed = {*sys.stdlib_module_names, "gevent", "webpy_socketio"}
    assert name.partition(".")[0] in allowed, f"{name} adds functions to all forks of later tests"
    register(**functions)


os.register_at_fork = _reject_at_fork

# A shell makes background commands ignore SIGINT; processes started by tests would inherit that.
if unix_signals.getsignal(unix_signals.SIGINT) is unix_signals.SIG_IGN:
    unix_signals.signal(unix_signals.SIGINT, unix_signals.default_int_handler)

# A deadline for each example would be a timing assertion.
hypothesis.settings.register_profile("webpy_socketio", deadline=None)
hypothesis.settings.load_profile("webpy_socketio")

#: Seconds after which a waiting test fails; see the marker ``time_limit``.
TIMEOUT = 10.0


#: Folder of the tests that run in headless Chromium.
BROWSER = Path(__file__).with_name("browser")
#: Folder of the tests that start no server.
UNIT = Path(__file__).with_name("unit")

#: Modules whose tests start other programs, or take long for another reason. Single tests that
#: start an interpreter have the marker ``slow``.
SLOW = {
    *("test_autobahn", "test_backplane", "test_cli", "test_conformance", "test_delivery"),
    *("test_doctor", "test_docs", "test_example", "test_faults", "test_forking", "test_fuzz"),
    *("test_guides", "test_gunicorn", "test_hardening", "test_hardening_load", "test_js_client"),
    *("test_load", "test_machines", "test_main_script", "test_mounting", "test_new"),
    *("test_comparison", "test_compression_clients", "test_native_build", "test_npm_client"),
    *("test_packaging", "test_presence_cluster", "test_python_client", "test_readme"),
    "test_redis_cluster",
    *("test_recovery_cluster", "test_recovery_js", "test_recovery_processes"),
    *("test_emitter_js", "test_receipts_js", "test_recovery_properties", "test_routes"),
    *("test_redis_connections", "test_sentinel", "test_server_requests"),
    *("test_deployment_files", "test_health", "test_load_command", "test_log_format"),
    "test_service",
    *("test_admin_cluster", "test_standard_streams", "test_status", "test_soak", "test_typing"),
    *("test_worker_metrics", "test_workers"),
}

#: Approximate seconds of the longest modules on two cores, and of the tests of a browser. Wrong
#: values only make the whole run longer.
DURATIONS = {
    "browser": 180,
    "test_redis_cluster": 105,
    "test_presence_cluster": 95,
    "test_recovery_cluster": 60,
    "test_soak": 60,
    "test_gunicorn": 55,
    "test_machines": 50,
    "test_workers": 45,
    "test_faults": 35,
    "test_hardening_load": 35,
    "test_load_command": 25,
    "test_native_build": 25,
    "test_recovery_restarts": 25,
    "test_service": 25,
    "test_backplane": 20,
    "test_delivery": 20,
    "test_comparison": 15,
    "test_progress": 15,
    "test_sentinel": 15,
    "test_admin_cluster": 10,
    "test_hardening": 10,
    "test_load": 10,
    "test_server_requests": 10,
    "test_status": 10,
}


def pytest_xdist_auto_num_workers() -> int:
    """Return two processes more than there are cores, as tests often wait for other programs."""
    return (os.cpu_count() or 1) + 2


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import modules whose tests ``-m`` excludes: that takes as long as a tenth of a run."""
    expression: str = config.option.markexpr
    excluded = [] if " or " in expression else expression.split(" and ")
    slow = collection_path.stem in SLOW and "not slow" in excluded
    return slow or (collection_path == BROWSER and "not browser" in excluded) or None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    """Mark the tests that ``make test-fast`` leaves out, and start workers with the longest."""
    for item in items:
        if item.path.is_relative_to(BROWSER):
            item.add_marker("browser")
        elif item.path.stem in SLOW:
            item.add_marker("slow")
        if not item.path.is_relative_to(UNIT):
            # Servers, clients and their timeouts share the cores with other tests. A report shows
            # each second run, and why the first failed.
            item.add_marker(pytest.mark.flaky(reruns=1))
    yield  # pytest removes the tests that its options exclude
    if hasattr(config, "workerinput"):
        workers = config.workerinput["workercount"]
        items[:] = parallel.order_tests(items, workers, _group, DURATIONS)


def _group(item: pytest.Item) -> str:
    """Return the key of a test in `DURATIONS`. One worker runs all tests of a browser."""
    return "browser" if item.path.is_relative_to(BROWSER) else item.path.stem


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prepare for tests that start servers, while the first tests run."""
    # Modules and collected tests remain: the garbage collector need not visit them in each test.
    gc.collect()
    gc.freeze()
    if not session.config.option.collectonly and not all(
        item.path.is_relative_to(UNIT) for item in session.items
    ):
        preloaded.prepare()
    gc.freeze()  # later collections would visit all modules and test items


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
    socket = default_runtime.registry.find(client.id)
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
    assert not any(
        space.sockets or len(space.channels) for space in default_runtime.registry.namespaces()
    )


@pytest.fixture
def site(serve: Callable[..., Site]) -> Site:
    """A server with default settings, no plugins and no pages."""
    return serve()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the requests that a greenlet has handled."""
    seen: list[str] = []
    run_application = RequestHandler.run_application

    def recorded(self: RequestHandler) -> None:
        seen.append(self.command)
        run_application(self)

    monkeypatch.setattr(RequestHandler, "run_application", recorded)
    return seen


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Close, unregister and reset everything that a test left."""
    yield
    while raw.OPENED:
        raw.OPENED.pop().close()
    default_runtime.events.clear()
    default_runtime.signals.clear()
    default_runtime.sources.reset()
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
    return parallel.build_once(
        tmp_path_factory, "built", lambda folder: builds.build(source, folder)
    )


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
