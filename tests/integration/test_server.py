"""`SocketIOServer`: constructor, listening and shutdown."""

from __future__ import annotations

import gc
import http.client
import io
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
import socketio
import web

from tests.certificates import make_certificate, trusting
from tests.conftest import Journal, Site
from tests.python_clients import disconnect_client
from tests.raw import Closed, Polling, WebSocket, crowd
from tests.servers import Process
from webpy_socketio import (
    ConfigurationError,
    ListenError,
    PluginError,
    SettingsError,
    SocketIOServer,
    on_finish,
    on_message,
    socketio_urls,
)


@pytest.fixture
def app() -> Any:
    return web.application(socketio_urls, {}, autoreload=False)


@pytest.fixture
def wsgi(app: Any) -> Any:
    return app.wsgifunc()


class TestConstructor:
    def test_settings_are_accepted_as_lower_case_keywords(self, serve: Callable[..., Site]) -> None:
        site = serve(ping_interval=7, ping_timeout=3, max_message_size=500)
        opened = site.websocket().open
        assert opened["pingInterval"] == 7000
        assert opened["pingTimeout"] == 3000
        assert opened["maxPayload"] == 500
        assert site.server.settings.ping_interval == 7

    def test_pywsgi_keywords_are_passed_on(
        self, serve: Callable[..., Site], journal: Journal
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(request["SHOP"])

        site = serve(environ={"SHOP": "corner"}, backlog=5)
        site.connect().call("message")
        assert journal == ["corner"]
        assert site.server.backlog == 5

    @pytest.mark.parametrize(
        ("keyword", "near"),
        [
            ("ping_intervall", "ping_interval"),
            ("certfle", "certfile"),
            ("PING_INTERVAL", ""),
            ("policy_server", ""),
        ],
    )
    def test_unknown_keyword_raises_settings_error(
        self, keyword: str, near: str, wsgi: Any
    ) -> None:
        with pytest.raises(SettingsError, match=repr(keyword)) as caught:
            SocketIOServer(("127.0.0.1", 0), wsgi, **{keyword: 1})
        assert near in str(caught.value)
        assert ("did you mean" in str(caught.value)) == bool(near)

    def test_invalid_setting_raises_settings_error(self, wsgi: Any) -> None:
        with pytest.raises(SettingsError, match="ping_interval is 'often'"):
            SocketIOServer(("127.0.0.1", 0), wsgi, ping_interval="often")

    def test_missing_application_raises_settings_error(self) -> None:
        with pytest.raises(SettingsError, match="wsgifunc"):
            SocketIOServer(("127.0.0.1", 0))

    def test_application_object_instead_of_wsgi_function_raises_settings_error(
        self, app: Any
    ) -> None:
        with pytest.raises(SettingsError, match=r"app\.wsgifunc\(\)"):
            SocketIOServer(("127.0.0.1", 0), app)

    @pytest.mark.parametrize("resource", ["", "/", "//"])
    def test_empty_resource_raises_settings_error(self, resource: str, wsgi: Any) -> None:
        with pytest.raises(SettingsError, match="resource"):
            SocketIOServer(("127.0.0.1", 0), wsgi, resource)

    def test_positional_arguments_are_those_documented(self, wsgi: Any) -> None:
        server = SocketIOServer(("127.0.0.1", 0), wsgi, "rt")
        assert server.engine.path == "/rt/"


#: gevent leaves a socket that cannot be bound to the garbage collector.
leaves_a_socket = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class TestListening:
    def test_many_simultaneous_connections_wait_in_the_backlog(self, site: Site) -> None:
        """With gevent's backlog of 128 the kernel drops connections, which retry after 1 s."""
        site.server.stop_accepting()
        there = crowd(site.port)
        site.server.start_accepting()
        for sock in there:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert {sock.recv(12) for sock in there} == {b"HTTP/1.1 404"}

    def start(self, listener: Any, wsgi: Any, **keywords: Any) -> SocketIOServer:
        keywords.setdefault("plugins", [])
        server = SocketIOServer(listener, wsgi, log=None, **keywords)
        server.start()
        return server

    def test_server_without_listener_uses_host_and_port_settings(self, wsgi: Any) -> None:
        web.config.SOCKETIO_HOST = "127.0.0.1"
        web.config.SOCKETIO_PORT = 0
        server = self.start(None, wsgi)
        try:
            assert server.server_host == "127.0.0.1"
            assert server.server_port != 0
            assert WebSocket(server.server_port).connect()
        finally:
            server.stop()

    def test_default_address_is_loopback_port_8000(self, wsgi: Any) -> None:
        assert SocketIOServer(None, wsgi).address == ("127.0.0.1", 8000)

    def test_server_listens_on_wildcard_address(self, wsgi: Any) -> None:
        server = self.start(("", 0), wsgi)
        try:
            assert WebSocket(server.server_port).connect()
        finally:
            server.stop()

    def test_server_accepts_a_listening_socket(self, wsgi: Any) -> None:
        listener = gevent.socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = self.start(listener, wsgi)
        try:
            assert WebSocket(listener.getsockname()[1]).connect()
        finally:
            server.stop()

    @leaves_a_socket
    def test_port_in_use_raises_listen_error(self, site: Site, wsgi: Any) -> None:
        with pytest.raises(ListenError) as caught:
            self.start(("127.0.0.1", site.port), wsgi)
        text = str(caught.value)
        assert f"127.0.0.1:{site.port}" in text
        assert "another program is listening there" in text
        assert "SOCKETIO_PORT" in text
        assert isinstance(caught.value, OSError)
        del caught
        gc.collect()

    @leaves_a_socket
    def test_foreign_address_raises_listen_error(self, wsgi: Any) -> None:
        with pytest.raises(ListenError, match=r"192\.0\.2\.1:0: .* SOCKETIO_HOST"):
            self.start(("192.0.2.1", 0), wsgi)
        gc.collect()

    def test_failing_plugin_closes_the_listener(self, wsgi: Any) -> None:
        free = socket.create_server(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        with pytest.raises(ConfigurationError):
            self.start(
                ("127.0.0.1", port),
                wsgi,
                plugins=["webpy_socketio.plugins.message_logger"],
                message_log_format="%(TIME",
            )
        self.start(("127.0.0.1", port), wsgi).stop()

    def test_unknown_plugin_raises_plugin_error(self, wsgi: Any) -> None:
        with pytest.raises(PluginError, match="no_such_plugin"):
            SocketIOServer(("127.0.0.1", 0), wsgi, plugins=["no_such_plugin"])

    def test_access_log_contains_requests(self, serve: Callable[..., Site]) -> None:
        log = io.StringIO()
        site = serve(log=log)
        site.connect().barrier()
        site.polling()
        site.server.stop()
        lines = log.getvalue().splitlines()
        assert '"GET /socket.io/?EIO=4&transport=polling HTTP/1.1" 200' in "\n".join(lines)

    @pytest.mark.parametrize(
        "error",
        [OSError(28, "No space left on device"), ValueError("I/O operation on closed file")],
    )
    def test_unwritable_access_log_does_not_affect_requests(
        self, error: Exception, serve: Callable[..., Site], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Log:
            def write(self, text: str) -> None:
                raise error

        site = serve(log=Log())
        connection = http.client.HTTPConnection("127.0.0.1", site.port)
        for _ in range(3):  # on one connection
            connection.request("GET", "/missing")
            response = connection.getresponse()
            assert response.status == 404
            response.read()
        connection.close()
        site.connect().barrier()
        (record,) = [each for each in caplog.records if "access log" in each.getMessage()]
        assert str(error) in record.getMessage()

    def test_log_none_disables_the_access_log(
        self, site: Site, capfd: pytest.CaptureFixture[str]
    ) -> None:
        site.connect().barrier()
        site.polling()
        site.server.stop()
        assert capfd.readouterr() == ("", "")


class TestStopping:
    def test_stop_closes_sessions_so_that_clients_reconnect(self, site: Site) -> None:
        websocket, polling = site.connect(), site.polling()
        polling.connect()
        poll = gevent.spawn(polling.poll)
        while not site.server.engine.sessions[polling.sid].transport.waiting:  # type: ignore[union-attr]
            gevent.idle()
        site.server.stop()
        with pytest.raises(Closed) as caught:  # no Socket.IO disconnect packet
            websocket.receive()
        assert caught.value.code == 1001
        assert poll.get() == ["1"]

    def test_stop_returns_after_each_finish(self, site: Site) -> None:
        finished = []

        @on_finish
        def finish(request: Any, socket: Any, context: Any) -> None:
            gevent.idle()
            finished.append(socket.session_id)

        ids = [site.connect().id for _ in range(20)]
        site.server.stop()
        assert sorted(finished) == sorted(ids)

    def test_stop_closes_the_listener(self, site: Site) -> None:
        site.server.stop()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", site.port))

    def test_second_stop_has_no_effect(self, site: Site, stages: Journal) -> None:
        site.connect()
        site.server.stop()
        site.server.stop()
        assert [name for name, _ in stages].count("finish") == 1

    def test_concurrent_stops_return_when_the_server_has_stopped(
        self, site: Site, stages: Journal
    ) -> None:
        @on_finish
        def slow(request: Any, socket: Any, context: Any) -> None:
            gevent.idle()

        site.connect()
        done: list[int] = []

        def stop() -> None:
            site.server.stop()
            done.append([name for name, _ in stages].count("finish"))

        gevent.joinall([gevent.spawn(stop) for _ in range(3)], raise_error=True)
        assert done == [1, 1, 1]

    def test_stop_of_a_server_never_started_returns(self, wsgi: Any) -> None:
        server = SocketIOServer(("127.0.0.1", 0), wsgi, plugins=[])
        server.stop()
        assert not server.started

    def test_serve_forever_returns_after_stop(self, wsgi: Any, stages: Journal) -> None:
        server = SocketIOServer(("127.0.0.1", 0), wsgi, plugins=[], log=None)
        server.start()
        serving = gevent.spawn(server.serve_forever)
        client = WebSocket(server.server_port)
        client.connect()
        server.stop()
        serving.get()
        assert [name for name, _ in stages][-1] == "finish"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class TestTLS:
    @pytest.mark.parametrize(
        "transports", [["polling"], ["websocket"], ["polling", "websocket"]], ids="+".join
    )
    def test_tls_server_serves_a_websocket_client(
        self,
        transports: list[str],
        certificate: tuple[Path, Path],
        serve: Callable[..., Site],
        stages: Journal,
    ) -> None:
        @on_message
        def echo(request: Any, socket: Any, context: Any, message: Any) -> Any:
            assert request["wsgi.url_scheme"] == "https"
            socket.send(message)
            return message

        certfile, keyfile = certificate
        site = serve(certfile=str(certfile), keyfile=str(keyfile))
        assert site.url.startswith("https")
        with trusting(certfile) as http:
            client = socketio.Client(http_session=http, reconnection=False)
            got = Journal()
            client.on("message", got.append)
            client.connect(site.url, transports=transports, wait_timeout=5)
            assert client.transport() == transports[-1]
            big = "x" * 300_000
            assert client.call("message", "hello") == "hello"
            assert client.call("message", big) == big
            assert client.call("message", b"\0\xff") == b"\0\xff"
            got.wait(lambda got: got == ["hello", big, b"\0\xff"])
            disconnect_client(client)
            client.wait()
        stages.wait(lambda stages: stages[-1][0] == "finish")
        assert [name for name, _ in stages].count("disconnect") == 1

    def test_stop_of_tls_server_closes_websockets(
        self, certificate: tuple[Path, Path], serve: Callable[..., Site], stages: Journal
    ) -> None:
        certfile, keyfile = certificate
        site = serve(certfile=str(certfile), keyfile=str(keyfile))
        with trusting(certfile) as http:
            client = socketio.Client(http_session=http, reconnection=False)
            gone = Journal()
            client.on("disconnect", gone.append)
            client.connect(site.url, transports=["websocket"])
            site.server.stop()
            gone.wait(len)
            client.wait()
            client.eio.ws.shutdown()  # not closed by the client library
        assert stages[-1] == ("finish", "server shutting down")


PATCH = "from gevent import monkey; monkey.patch_all()"

SERVER = """
from gevent import monkey; monkey.patch_all()
import sys, web
from webpy_socketio import *

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

@on_finish
def finish(request, socket, context):
    say("finish", socket.session_id)

@on_message
def message(request, socket, context, message):
    say("message", message)

web.config.debug = DEBUG
app = web.application(socketio_urls, globals())
server = SocketIOServer(("127.0.0.1", 0), app.wsgifunc(), log=None, block_warning=None)
server.start()
say("port", server.server_port)
server.serve_forever()
say("end")
"""


class Program(Process):
    """A Python program whose output is awaited; it starts by a fork if it first patches."""

    def __init__(self, path: Path, source: str) -> None:
        path.write_text(source)
        fork = source.lstrip().startswith(f"{PATCH}\n")
        super().__init__([sys.executable, str(path)], path.with_suffix(".log"), fork=fork)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit status and the remaining output."""
        status = self.wait()
        lines = iter(self._lines.get, None)
        return status, "".join(f"{line}\n" for line in lines), self.errors


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    programs: list[Program] = []

    def start(source: str) -> Program:
        program = Program(tmp_path / "main_app.py", source)
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.kill()


@pytest.mark.time_limit(30)
class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("times", [1, 2])
    def test_signal_stops_with_every_finish_and_exit_status_0(
        self, number: int, times: int, run: Callable[[str], Program]
    ) -> None:
        program = run(SERVER.replace("DEBUG", "False"))
        port = program.wait_for("port ")
        websockets = [WebSocket(int(port)) for _ in range(3)]
        polling = Polling(int(port))
        ids = {client.connect()["sid"] for client in websockets}
        polling.connect()
        ids.add(polling.id)
        for _ in range(times):
            program.popen.send_signal(number)
        assert [client.wait_closed() for client in websockets] == [1001] * 3
        status, out, errors = program.end()
        assert status == 0, errors
        lines = out.splitlines()
        assert lines[-1] == "end"
        assert sorted(lines[:-1]) == sorted(f"finish {session_id}" for session_id in ids)
        assert errors == ""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_second_signal_during_shutdown_is_ignored(
        self, number: int, run: Callable[[str], Program]
    ) -> None:
        program = run(SERVER.replace("DEBUG", "False") + "sys.stdin.readline()\nsay('done')\n")
        client = WebSocket(int(program.wait_for("port ")))
        client.connect()  # the server is running
        program.popen.send_signal(signal.SIGTERM)
        assert [program.next_line(), program.next_line()] == [f"finish {client.id}", "end"]
        program.popen.send_signal(number)
        program.say("")
        status, out, errors = program.end()
        assert (status, out, errors) == (0, "done\n", "")

    def test_main_script_imported_twice_serves_once(self, run: Callable[[str], Program]) -> None:
        # Like the reloader of web.py with web.config.debug, which is the default.
        program = run(SERVER.replace("DEBUG", "True"))
        # From the second import.
        assert [program.next_line(), program.next_line()] == ["port 0", "end"]
        port = int(program.wait_for("port "))
        client = WebSocket(port)
        client.connect()
        client.call("message", "hello")
        assert program.next_line() == "message hello"  # handlers are registered once
        program.popen.send_signal(signal.SIGTERM)
        status, out, errors = program.end()
        assert (status, out) == (0, f"finish {client.id}\nend\n"), errors


MISTAKES: dict[str, tuple[str, str, str]] = {
    "web.py imported before patching": (
        "import web\nfrom gevent import monkey; monkey.patch_all()\n",
        "",
        "web.py was imported before gevent patched the standard library",
    ),
    "the package imported before patching": (
        "import webpy_socketio\nfrom gevent import monkey; monkey.patch_all()\n",
        "",
        "monkey.patch_all()\n",
    ),
    "never patched": ("", "", "monkey.patch_all()\n"),
    "patched in part": (
        "from gevent import monkey; monkey.patch_all(socket=False)\n",
        "",
        "gevent has not patched the socket module",
    ),
    "a port that is taken": (
        f"{PATCH}\nimport socket; taken = socket.create_server(('127.0.0.1', 0))\n",
        "port=taken.getsockname()[1]",
        "SOCKETIO_PORT",
    ),
    "a bad setting": (
        f"{PATCH}\n",
        "ping_interval=0",
        "ping_interval",
    ),
    "a plugin that cannot be imported": (
        f"{PATCH}\n",
        "plugins=['webpy_socketio.plugins.presense']",
        "did you mean 'webpy_socketio.plugins.presence'",
    ),
}


@pytest.mark.slow
@pytest.mark.time_limit(30)
class TestConfigurationErrors:
    @pytest.mark.parametrize("name", MISTAKES)
    def test_configuration_error_names_the_remedy_and_does_not_start(
        self, name: str, run: Callable[[str], Program]
    ) -> None:
        first, keywords, remedy = MISTAKES[name]
        program = run(
            f"{first}import web\nfrom webpy_socketio import *\n"
            "web.config.debug = False\n"
            "app = web.application(socketio_urls, globals())\n"
            f"SocketIOServer(None, app.wsgifunc(), {keywords}).serve_forever()\n"
        )
        status, _, errors = program.end()
        assert status == 1
        assert remedy in errors
