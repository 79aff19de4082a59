"""Applications below a path: WSGI wrappers, the setting, proxies and gunicorn's SCRIPT_NAME."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import web

from tests import load_clients, raw
from tests.integration.test_workers import children, serving
from tests.nginx import running_nginx
from tests.redis_server import RedisServer
from tests.servers import module_source
from webpy_socketio import SocketIOServer, on_connect, on_message, socketio_scripts, socketio_urls
from webpy_socketio.engine.engineio.takeover import MARK

pytestmark = pytest.mark.time_limit(60)

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]
Wrap = Callable[[Wsgi], Wsgi]
Mount = Callable[..., "Mounted"]


def moving(application: Wsgi) -> Wsgi:
    """Move /team from PATH_INFO to SCRIPT_NAME in the environ itself (PEP 3333)."""

    def wrapper(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        move(environ)
        return application(environ, start_response)

    return wrapper


def copying(application: Wsgi) -> Wsgi:
    """Pass a shallow copy of the environ."""
    return lambda environ, start_response: application(move(environ.copy()), start_response)


def rebuilding(application: Wsgi) -> Wsgi:
    """Pass a new environ with the keys of PEP 3333 only."""

    def wrapper(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return application(move(standard(environ)), start_response)

    return wrapper


def generating(application: Wsgi) -> Wsgi:
    """Call the application on the first iteration of the body."""

    def wrapper(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield from application(move(dict(environ)), start_response)

    return wrapper


def threaded(application: Wsgi) -> Wsgi:
    """Call the application in a new thread, with a copy of the environ."""
    return in_thread(application, dict)


def in_thread(application: Wsgi, copy: Callable[[dict[str, Any]], dict[str, Any]]) -> Wsgi:
    def wrapper(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        result: list[Any] = []
        moved = move(copy(environ))
        thread = threading.Thread(target=lambda: result.extend(application(moved, start_response)))
        thread.start()
        thread.join()
        return result

    return wrapper


def standard(environ: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in environ.items() if key.isupper() or key.startswith("wsgi.")
    }


def move(environ: dict[str, Any]) -> dict[str, Any]:
    if environ["PATH_INFO"].startswith("/team/"):
        environ["SCRIPT_NAME"] += "/team"
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/team")
    return environ


WRAPPERS = [moving, copying, rebuilding, generating, threaded]


class Index:
    def GET(self) -> str:
        return str(socketio_scripts())


class Where:
    def GET(self) -> str:
        return json.dumps([web.ctx.home, web.ctx.path])


class Mounted:
    """A server whose application is mounted, and the paths that its processors saw."""

    def __init__(self, wrap: Wrap | None, **keywords: Any) -> None:
        self.seen: list[str] = []
        self.app = self.make()
        wsgi = self.app.wsgifunc()
        keywords = {"plugins": [], "log": None, "block_warning": None, **keywords}
        application = wsgi if wrap is None else wrap(wsgi)
        self.server = SocketIOServer(("127.0.0.1", 0), application, **keywords)
        self.server.start()
        self.port: int = self.server.server_port

    def make(self) -> web.application:
        urls = ("/", Index, "/where", Where, *socketio_urls)
        app = web.application(urls, {}, autoreload=False)
        app.add_processor(self._record)
        return app

    def _record(self, handler: Callable[[], Any]) -> Any:
        self.seen.append(f"{web.ctx.method} {web.ctx.homepath}{web.ctx.path}")
        return handler()

    def get(self, path: str) -> str:
        return get(self.port, path)


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as response:
        return str(response.read().decode())


@pytest.fixture
def mount() -> Iterator[Mount]:
    mounted: list[Mounted] = []

    def mount(wrap: Wrap | None = None, **keywords: Any) -> Mounted:
        mounted.append(Mounted(wrap, **keywords))
        return mounted[-1]

    yield mount
    for each in mounted:
        each.server.stop()


@pytest.fixture(autouse=True)
def _echo() -> None:
    on_message(lambda request, socket, context, message: message)


def talk(port: int, path: str, seen: list[str] | None = None) -> None:
    """Connect, send and upgrade; the application must receive the handshakes only.

    `seen` are the requests that its processors saw.
    """
    seen = [] if seen is None else seen
    polling = raw.Polling(port, path)
    polling.connect()
    handshake = len(seen)
    assert polling.send('421["message","hello"]') == (200, "ok")
    assert polling.poll() == ['431["hello"]']
    websocket = raw.WebSocket(
        port, path, query=f"EIO=4&transport=websocket&sid={polling.sid}", handshake=False
    )
    assert websocket.status == 101
    websocket.send("2probe")
    assert websocket.receive() == "3probe"
    assert polling.poll() == ["6"]
    websocket.send("5")
    assert websocket.call("message", "again") == ["again"]
    assert len(seen) == handshake
    direct = raw.WebSocket(port, path)
    direct.connect()
    assert direct.call("message", "direct") == ["direct"]


class TestWrappers:
    @pytest.mark.parametrize("wrap", WRAPPERS)
    def test_server_below_wrapper_serves_both_transports(self, mount: Mount, wrap: Wrap) -> None:
        mounted = mount(wrap)
        talk(mounted.port, "/team/socket.io/", mounted.seen)
        assert mounted.seen
        assert set(mounted.seen) == {"GET /team/socket.io/"}
        talk(mounted.port, "/socket.io/")

    @pytest.mark.parametrize("wrap", WRAPPERS)
    def test_scripts_below_wrapper_have_its_path(self, mount: Mount, wrap: Wrap) -> None:
        mounted = mount(wrap)
        html = mounted.get("/team/")
        assert html.count('data-path="/team/socket.io"') == 2
        for source in re.findall(r'src="([^"]+)"', html):
            assert "function" in mounted.get(source)

    @pytest.mark.parametrize("wrap", WRAPPERS)
    def test_handler_below_wrapper_has_the_mounted_context(self, mount: Mount, wrap: Wrap) -> None:
        mounted = mount(wrap)
        seen: list[Any] = []
        on_connect(
            lambda request, socket, context: seen.append(
                (web.ctx.homepath, web.ctx.path, request["REMOTE_ADDR"])
            )
        )
        raw.Polling(mounted.port, "/team/socket.io/").connect()
        assert seen == [("/team", "/socket.io/", "127.0.0.1")]

    def test_wrapper_that_renames_the_path_is_followed(self, mount: Mount) -> None:
        def renaming(application: Wsgi) -> Wsgi:
            def wrapper(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
                if environ["PATH_INFO"] == "/live":
                    environ = {**environ, "PATH_INFO": "/socket.io/"}
                return application(environ, start_response)

            return wrapper

        mounted = mount(renaming)
        talk(mounted.port, "/live", mounted.seen)

    def test_percent_encoded_mount_path_is_recognized(self, mount: Mount) -> None:
        mounted = mount(moving)
        talk(mounted.port, "/te%61m/socket%2eio/", mounted.seen)

    def test_environ_rebuilt_in_another_thread_is_named_in_the_log(
        self, mount: Mount, caplog: pytest.LogCaptureFixture
    ) -> None:
        mounted = mount(lambda application: in_thread(application, standard))
        with caplog.at_level(logging.WARNING, "webpy_socketio"):
            connection = raw.http.client.HTTPConnection("127.0.0.1", mounted.port)
            connection.request("GET", "/team/socket.io/?EIO=4&transport=polling")
            response = connection.getresponse()
            assert response.status == 500
            body = response.read().decode()
            connection.close()
        for text in (body, caplog.text):
            assert "lacks webpy_socketio.mark" in text
            assert "environ.copy()" in text

    def test_request_made_within_another_request_is_not_taken_over(self, mount: Mount) -> None:
        """Requests with the same query differ by their path."""

        def calling(application: Wsgi) -> Wsgi:
            def wrapper(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
                inner = {**standard(environ), "PATH_INFO": "/socket.io/"}
                statuses: list[str] = []
                list(application(inner, lambda status, headers: statuses.append(status)))
                start_response("200 OK", [])
                return [statuses[0].encode()]

            return wrapper

        mounted = mount(calling)
        assert mounted.get("/inner?EIO=4&transport=polling").startswith("500")
        assert not mounted.server.engine.sessions

    def test_page_with_a_session_id_in_its_query_reaches_the_application(
        self, mount: Mount
    ) -> None:
        mounted = mount(moving)
        sid = raw.Polling(mounted.port, "/team/socket.io/").sid
        mounted.seen.clear()
        mounted.get(f"/team/where?EIO=4&transport=polling&sid={sid}")
        assert mounted.seen == ["GET /team/where"]

    @pytest.mark.parametrize("path", ["/team/", "/team/socket.io/?EIO=4&transport=polling"])
    def test_environ_has_no_reference_cycle_after_the_request(
        self, mount: Mount, path: str
    ) -> None:
        """A reference cycle would be freed by the garbage collector only."""
        environs: list[dict[str, Any]] = []

        def keeping(application: Wsgi) -> Wsgi:
            def wrapper(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
                environs.append(environ)
                return moving(application)(environ, start_response)

            return wrapper

        mounted = mount(keeping)
        mounted.get(path)
        sessions = mounted.server.engine.sessions.values()
        for environ in (*environs, *(session.environ for session in sessions)):
            assert MARK not in environ


class TestSeveralApplications:
    def test_two_applications_below_one_server_have_separate_clients(self, mount: Mount) -> None:
        other: list[Mounted] = []

        def dispatching(application: Wsgi) -> Wsgi:
            second = Mounted.__new__(Mounted)
            second.seen = []
            other.append(second)
            applications = {"/a": application, "/b": second.make().wsgifunc()}

            def wrapper(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
                _, first, rest = environ["PATH_INFO"].split("/", 2)
                environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/" + first, "/" + rest
                return applications["/" + first](environ, start_response)

            return wrapper

        mounted = mount(dispatching)
        talk(mounted.port, "/a/socket.io/", mounted.seen)
        assert not other[0].seen
        talk(mounted.port, "/b/socket.io/", other[0].seen)
        assert set(other[0].seen) == {"GET /b/socket.io/"}
        for name in ("a", "b"):
            assert f'data-path="/{name}/socket.io"' in mounted.get(f"/{name}/")


class TestPrefix:
    @pytest.mark.parametrize("sent", ["/team", ""])
    def test_prefix_sent_or_removed_by_the_proxy_is_the_mount_path(
        self, mount: Mount, sent: str
    ) -> None:
        mounted = mount(path_prefix="/team")
        talk(mounted.port, sent + "/socket.io/", mounted.seen)
        assert set(mounted.seen) == {"GET /team/socket.io/"}
        home, path = json.loads(mounted.get(sent + "/where"))
        assert home == f"http://127.0.0.1:{mounted.port}/team"
        assert path == "/where"
        assert 'src="/team/socket.io/socket.io.min.js' in mounted.get(sent + "/")

    def test_path_that_starts_with_the_prefix_text_is_kept(self, mount: Mount) -> None:
        mounted = mount(path_prefix="/where"[:4])
        assert json.loads(mounted.get("/where"))[1] == "/where"

    def test_prefix_alone_is_the_root(self, mount: Mount) -> None:
        mounted = mount(path_prefix="/team")
        assert "/team/socket.io" in mounted.get("/team")

    def test_prefix_beyond_ascii_is_encoded_on_pages(self, mount: Mount) -> None:
        mounted = mount(path_prefix="/café")
        assert 'data-path="/caf%C3%A9/socket.io"' in mounted.get("/caf%C3%A9/")
        talk(mounted.port, "/caf%C3%A9/socket.io/", mounted.seen)

    def test_unknown_prefix_is_named_in_the_log(
        self, mount: Mount, caplog: pytest.LogCaptureFixture
    ) -> None:
        mounted = mount()
        with caplog.at_level(logging.WARNING, "webpy_socketio"), contextlib.suppress(OSError):
            mounted.get("/team/socket.io/?EIO=4&transport=polling")
        assert "SOCKETIO_PATH_PREFIX = '/team'" in caplog.text


WORKERS = (
    """
OPTIONS = {"backplane": os.environ["BACKPLANE"], "plugins": []}
urls = ("/", "Index", "/seen", "Seen")
seen = []

class Index:
    def GET(self):
        return str(socketio_scripts())

class Seen:
    def GET(self):
        return "\\n".join(seen)

@on_event("pid")
def pid(request, socket, context):
    return os.getpid()

@on_event("seen")
def look(request, socket, context):
    return seen

@on_message
def echo(request, socket, context, message):
    return message
""",
    """
def watch(handler):
    seen.append(web.ctx.method + " " + web.ctx.homepath + web.ctx.path)
    return handler()

application.add_processor(watch)
inner = application.wsgifunc()

def application(environ, start_response):
    environ = dict(environ)
    if environ["PATH_INFO"].startswith("/team/"):
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/team", environ["PATH_INFO"][5:]
    return inner(environ, start_response)
""",
)


class TestWorkers:
    def test_clients_below_wrapper_reach_their_sessions_in_each_worker(
        self, shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        source = module_source(WORKERS[0]) + WORKERS[1]
        with serving(
            tmp_path, "--workers", "3", source=source, BACKPLANE=shared_redis.url
        ) as served:
            pids = set()
            while len(pids) < 3:
                talk(served.port, "/team/socket.io/")
                websocket = raw.WebSocket(served.port, "/team/socket.io/")
                websocket.connect()
                pids.add(websocket.call("pid")[0])
                # Processors run again when a namespace is connected.
                (seen,) = websocket.call("seen")
                assert set(seen) == {"GET /team/socket.io/"}
            assert pids == children(served)
        assert served.errors == ""
        load_clients.close_all()


NGINX = """
map $http_upgrade $connection_upgrade {{
    default upgrade;
    ''      '';
}}
server {{
    listen 443 ssl;
    # ssl_certificate and ssl_certificate_key here
    location /team/ {{
        proxy_pass http://127.0.0.1:8000{slash};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_buffering off;
    }}
}}
"""


class TestNginx:
    @pytest.mark.parametrize("slash", ["/", ""])
    def test_application_behind_nginx_location_works(
        self, mount: Mount, tmp_path: Path, slash: str
    ) -> None:
        mounted = mount(path_prefix="/team")
        directives = NGINX.format(slash=slash)
        with running_nginx(directives, {"127.0.0.1:8000": mounted.port}, tmp_path) as nginx:
            talk(nginx.plain_port, "/team/socket.io/", mounted.seen)
            html = get(nginx.plain_port, "/team/")
            assert 'data-path="/team/socket.io"' in html
            script = re.findall(r'src="([^"]+)"', html)[0]
            assert "Socket.IO" in get(nginx.plain_port, script)
