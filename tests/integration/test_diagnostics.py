"""Messages about common mistakes; docs/reference/troubleshooting.rst quotes them."""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import json
import logging
import re
import socket as stdlib_socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.pywsgi
import mako.exceptions
import mako.lookup
import pytest
import web

from tests.conftest import Journal, Site, gets, pattern_of, socket_of
from tests.engines import eventually
from tests.integration.test_application import HANDSHAKE, visit, visit_websocket
from tests.integration.test_server import MISTAKES, leaves_a_socket
from tests.raw import WebSocket
from tests.servers import free_port
from webpy_socketio import (
    BackplaneError,
    CallerError,
    ChannelError,
    Disconnected,
    EncodeError,
    EventError,
    ListenError,
    NoSocket,
    PluginError,
    Refused,
    SettingsError,
    SocketIOServer,
    application,
    broadcast,
    broadcast_channel,
    configure,
    connect_redis,
    default_runtime,
    emit,
    handlers,
    on_connect,
    on_connecting,
    on_event,
    on_finish,
    on_message,
    on_subscribe,
    on_subscribing,
    on_unsubscribe,
    send,
    signals,
    socketio_urls,
)
from webpy_socketio.bus.stages import MAX_EVENTS
from webpy_socketio.engine.io import throttled_log
from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.throttled_log import ThrottledLog

TESTS = Path(__file__).parents[1]
DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "troubleshooting.rst"

quoted = pytest.mark.quoted

MatchQuote = Callable[[str], None]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns the messages logged since its last call."""
    caplog.set_level(logging.INFO, "webpy_socketio")

    def read() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    return read


class TestDocument:
    def quotes(self) -> set[str]:
        """Return the messages in the first column of each table."""
        text = DOCUMENT.read_text(encoding="utf-8")
        cells = re.findall(r"^   \* - (.*(?:\n       .*)*)\n     - ", text, re.MULTILINE)
        return {quote for cell in cells for quote in re.findall(r"``(.+?)``", cell)}

    def marks(self) -> set[str]:
        """Return the messages that tests trigger."""
        found = {remedy for _, _, remedy in MISTAKES.values()}
        texts = (path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
        for text in texts:
            if "quoted(" not in text:
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("quoted"):
                    found.add(ast.literal_eval(node.args[0]))
        return found

    def test_document_has_quotes(self) -> None:
        assert len(self.quotes()) > 40

    def test_every_quoted_message_is_tested(self) -> None:
        assert self.quotes() - self.marks() == set()

    def test_every_tested_message_is_quoted(self) -> None:
        remedies = {remedy for _, _, remedy in MISTAKES.values()}
        assert self.marks() - remedies - self.quotes() == set()

    def test_every_row_has_three_cells(self) -> None:
        text = DOCUMENT.read_text(encoding="utf-8")
        rows = re.split(r"^   \* - ", text, flags=re.MULTILINE)[1:]
        for row in rows:
            assert len(re.findall(r"^     - ", row, re.MULTILINE)) == 2, row

    def test_readme_links_the_document(self) -> None:
        assert (
            "docs/reference/troubleshooting.rst" in (DOCUMENT.parents[2] / "README.rst").read_text()
        )


class TestUnfinishedHandlers:
    @quoted("a handler ended with an open transaction, which is rolled back")
    def test_transaction_left_open_is_logged(
        self, site: Site, match_quote: MatchQuote, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        database = web.database(dbn="sqlite", db=str(tmp_path / "shop.db"))
        database.printing = False
        on_message(lambda request, socket, context, message: bool(database.transaction()))
        assert site.connect().call("message", 1) == [True]
        eventually(lambda: caplog.messages)
        match_quote(caplog.messages[0])

    @quoted("a gevent.Timeout was raised after the handler or page that caused it had returned")
    def test_timeout_left_running_is_logged(
        self, site: Site, match_quote: MatchQuote, caplog: pytest.LogCaptureFixture
    ) -> None:
        on_message(lambda request, socket, context, message: gevent.Timeout.start_new(0.001) and 1)
        assert site.connect().call("message", 1) == [1]
        eventually(lambda: caplog.messages)
        match_quote(caplog.messages[0])


@pytest.fixture
def app() -> Any:
    return web.application(socketio_urls, {}, autoreload=False)


class TestStart:
    @quoted("SocketIOServer needs an application: app.wsgifunc()")
    def test_server_without_application_raises(self, match_quote: MatchQuote) -> None:
        with pytest.raises(SettingsError) as caught:
            SocketIOServer(("127.0.0.1", 0))
        match_quote(str(caught.value))

    @quoted("the application is not callable; pass app.wsgifunc()")
    def test_uncalled_application_object_raises(self, app: Any, match_quote: MatchQuote) -> None:
        with pytest.raises(SettingsError) as caught:
            SocketIOServer(("127.0.0.1", 0), app)
        match_quote(str(caught.value))

    @quoted("the application must be app.wsgifunc(), not app.wsgifunc")
    def test_uncalled_wsgifunc_raises(self, app: Any, match_quote: MatchQuote) -> None:
        with pytest.raises(SettingsError) as caught:
            SocketIOServer(("127.0.0.1", 0), app.wsgifunc)
        match_quote(str(caught.value))

    @leaves_a_socket
    @quoted("cannot listen on …; another program is listening there")
    def test_port_in_use_raises_listen_error(self, app: Any, match_quote: MatchQuote) -> None:
        with stdlib_socket.create_server(("127.0.0.1", 0)) as taken:
            server = SocketIOServer(taken.getsockname(), app.wsgifunc(), plugins=[])
            with pytest.raises(ListenError) as caught:
                server.start()
        match_quote(str(caught.value))
        del caught
        gc.collect()

    @pytest.mark.parametrize(
        "address", [("127.0.0.1", "8000"), ("127.0.0.1", 80_000), ("127.0.0.1", None)]
    )
    @leaves_a_socket
    @quoted("cannot listen on …, which is not an address")
    def test_invalid_address_raises_listen_error(
        self, address: Any, app: Any, match_quote: MatchQuote
    ) -> None:
        server = SocketIOServer(address, app.wsgifunc(), plugins=[])
        with pytest.raises(ListenError) as caught:
            server.start()
        match_quote(str(caught.value))
        assert '("127.0.0.1", 8000)' in str(caught.value)
        del caught
        gc.collect()

    @quoted("… is not a setting; did you mean …?")
    def test_setting_without_prefix_raises(self, match_quote: MatchQuote) -> None:
        with pytest.raises(SettingsError) as caught:
            configure({"PORT": 8001})
        match_quote(str(caught.value))

    @quoted("its name is …, without .py")
    def test_settings_module_given_as_file_raises(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, match_quote: MatchQuote
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "custom_settings.py").write_text("")
        with pytest.raises(SettingsError) as caught:
            configure("custom_settings.py")
        match_quote(str(caught.value))
        monkeypatch.delitem(sys.modules, "custom_settings")

    @quoted("must be at most an hour, in seconds (Socket.IO on Node.js uses milliseconds)")
    def test_interval_in_milliseconds_raises(self, match_quote: MatchQuote) -> None:
        with pytest.raises(SettingsError) as caught:
            configure({"SOCKETIO_PING_INTERVAL": 25_000})
        match_quote(str(caught.value))

    @quoted("special characters in a name or password must be percent-encoded")
    @quoted("the name of the master is missing")
    def test_invalid_backplane_url_names_remedy(self, match_quote: MatchQuote) -> None:
        for url in ("redis://:p@ss/word#@host", "redis+sentinel://10.0.0.5:26379"):
            with pytest.raises(SettingsError) as caught:
                configure({"SOCKETIO_BACKPLANE": url})
            match_quote(str(caught.value))

    @quoted("no Sentinel is reachable")
    def test_unreachable_sentinels_are_named(self, match_quote: MatchQuote) -> None:
        with pytest.raises(BackplaneError) as caught:
            connect_redis(f"redis+sentinel://127.0.0.1:{free_port()}/mymaster", 5.0)
        match_quote(str(caught.value))

    @quoted("there is no setting …; did you mean …?")
    def test_misspelt_setting_raises_with_suggestion(
        self, app: Any, match_quote: MatchQuote
    ) -> None:
        web.config.SOCKETIO_PING_INTERVALL = 10
        with pytest.raises(SettingsError) as caught:
            SocketIOServer(("127.0.0.1", 0), app.wsgifunc())
        match_quote(str(caught.value))

    @quoted("SocketIOServer() takes no keyword …")
    def test_unknown_keyword_raises(self, app: Any, match_quote: MatchQuote) -> None:
        with pytest.raises(SettingsError) as caught:
            SocketIOServer(("127.0.0.1", 0), app.wsgifunc(), certfle="x")
        match_quote(str(caught.value))

    @quoted("SOCKETIO_PLUGINS names …, which cannot be imported")
    def test_misspelt_plugin_raises(self, app: Any, match_quote: MatchQuote) -> None:
        with pytest.raises(PluginError) as caught:
            SocketIOServer(("127.0.0.1", 0), app.wsgifunc(), plugins=["no_such_plugin"])
        match_quote(str(caught.value))

    @quoted("Can't locate template for uri …")
    def test_lookup_without_template_dir_raises(self, match_quote: MatchQuote) -> None:
        lookup = mako.lookup.TemplateLookup()
        lookup.put_string("page", '<%include file="socketio_scripts.html"/>')
        with pytest.raises(mako.exceptions.TemplateLookupException) as caught:
            lookup.get_template("page").render()
        match_quote(str(caught.value))

    @pytest.mark.parametrize("when", ["started", "serving"])
    @quoted("…: set after the server was created, so it has no effect")
    def test_setting_changed_after_creation_is_logged(
        self, when: str, app: Any, log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        web.config.SOCKETIO_PING_TIMEOUT = 5
        server = SocketIOServer(
            ("127.0.0.1", 0), app.wsgifunc(), plugins=[], log=None, block_warning=None
        )
        if when == "serving":
            server.start()
        assert log() == []
        web.config.SOCKETIO_PING_INTERVAL = 10
        configure({"SOCKETIO_PING_TIMEOUT": 6})
        try:
            if when == "serving":
                serving = gevent.spawn(server.serve_forever)
                gevent.idle()
            else:
                server.start()
            text, *more = log()
            assert [line.partition(" on ")[0] for line in more] in ([], ["Serving"])
        finally:
            server.stop()
            if when == "serving":
                serving.get()
        assert text.startswith("SOCKETIO_PING_INTERVAL, SOCKETIO_PING_TIMEOUT: ")
        assert server.settings.ping_timeout == 5
        match_quote(text)

    def test_unchanged_setting_is_not_logged(self, app: Any, log: Callable[[], list[str]]) -> None:
        web.config.SOCKETIO_PING_INTERVAL = 10
        server = SocketIOServer(
            ("127.0.0.1", 0), app.wsgifunc(), plugins=[], log=None, block_warning=None
        )
        web.config.SOCKETIO_PING_INTERVAL = 10  # as the second import of web.py's reloader does
        server.start()
        server.stop()
        assert log() == []


def visit_all(site: Site, *paths: str) -> None:
    for path in paths:
        visit(site.port, path)


class Server:
    """A server with exactly the given urls."""

    def __init__(self, urls: tuple[Any, ...], fvars: dict[str, Any], **keywords: Any) -> None:
        self.app = web.application(urls, fvars, autoreload=False)
        self.server = SocketIOServer(
            ("127.0.0.1", 0),
            self.app.wsgifunc(),
            **{"plugins": [], "log": None, "block_warning": None, **keywords},
        )
        self.server.start()
        self.port = self.server.server_port


class Page:
    def GET(self, *args: str) -> str:
        return "<p>a page</p>"


@pytest.fixture
def serve_exactly() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def serve(*args: Any, **keywords: Any) -> Server:
        servers.append(Server(*args, **keywords))
        return servers[-1]

    yield serve
    for server in servers:
        server.server.stop()


@pytest.mark.usefixtures("log")
class TestRequests:
    """Requests that do not reach the engine."""

    @pytest.mark.parametrize(
        "path", [HANDSHAKE, "/socket.io/socket.io.min.js", "/socket.io/webpy_socketio.js?v=1"]
    )
    @quoted("its urls lack socketio_urls")
    def test_urls_without_socketio_urls_are_logged(
        self,
        path: str,
        serve_exactly: Callable[..., Server],
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
    ) -> None:
        site = serve_exactly(("/", "page"), {"page": Page})
        assert visit(site.port, "/").status == 200
        assert visit(site.port, "/nothing").status == 404
        assert visit(site.port, "/nothing?a=b").status == 404
        assert log() == []
        for _ in range(3):
            assert visit(site.port, path).status == 404
        (text,) = log()  # once only
        match_quote(text)

    def test_websocket_to_urls_without_socketio_urls_is_logged(
        self, serve_exactly: Callable[..., Server], log: Callable[[], list[str]]
    ) -> None:
        site = serve_exactly(("/", "page"), {"page": Page})
        assert visit_websocket(site.port).status == 404
        assert "its urls lack socketio_urls" in "".join(log())

    @quoted("an earlier pattern of its urls matches it")
    def test_earlier_url_pattern_is_logged(
        self,
        serve_exactly: Callable[..., Server],
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
    ) -> None:
        site = serve_exactly(("/(.*)", "page", *socketio_urls), {"page": Page})
        assert visit(site.port, "/anything?a=b").status == 200
        assert log() == []
        assert visit(site.port, HANDSHAKE).body == b"<p>a page</p>"
        (text,) = log()
        match_quote(text)
        remedy = serve_exactly((*socketio_urls, "/(.*)", "page"), {"page": Page})
        assert WebSocket(remedy.port).connect()

    @quoted("Socket.IO needs its own server")
    def test_foreign_wsgi_server_answers_with_remedy(
        self,
        app: Any,
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(application, "_throttled_log", ThrottledLog(current_clock()))
        server = gevent.pywsgi.WSGIServer(("127.0.0.1", 0), app.wsgifunc(), log=None)
        server.start()
        try:
            answers = [visit(server.server_port, HANDSHAKE) for _ in range(3)]
        finally:
            server.stop()
        (text,) = log()
        match_quote(text)
        assert answers[0].status == 500
        assert answers[0].body.decode() == text + "\n"
        assert answers[0].headers["Content-Type"] == "text/plain; charset=utf-8"

    @pytest.mark.parametrize(
        "path", ["/socket.io/?EIO=4&transport=polling", "/chat/?EIO=4&transport=polling"]
    )
    @quoted("a client requested Socket.IO at …, but this server has it at …")
    def test_request_for_another_path_is_logged(
        self,
        path: str,
        serve: Callable[..., Site],
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
    ) -> None:
        site = serve(resource="rt")
        for _ in range(3):
            assert visit(site.port, path).status == 404
        (text,) = log()
        match_quote(text)
        assert 'io({path: "/rt/"})' in text

    def test_path_without_trailing_slash_is_logged(
        self, site: Site, log: Callable[[], list[str]]
    ) -> None:
        assert visit(site.port, "/socket.io?EIO=4&transport=polling").status == 404
        (text,) = log()
        assert "at '/socket.io', but this server has it at /socket.io/" in text

    def test_unrelated_requests_are_not_logged(
        self, site: Site, log: Callable[[], list[str]]
    ) -> None:
        visit_all(site, "/", "/favicon.ico", "/socket.io/nothing", "/socket.io.js", "/x?y=EIO")
        assert log() == []

    def test_path_is_escaped_and_truncated_in_log(
        self, site: Site, log: Callable[[], list[str]]
    ) -> None:
        visit(site.port, "/x%0AERROR%3A%20forged%C2%9B" + "y" * 3000 + "/?EIO=4")
        (text,) = log()
        assert "\n" not in text
        assert text.isascii()
        assert len(text) < 400


def forbidden(site: Site, origin: str, **headers: str) -> None:
    assert visit(site.port, HANDSHAKE, Origin=origin, **headers).status == 403


class TestRejections:
    """Requests rejected by the engine."""

    @pytest.mark.parametrize("version", ["1", "2", "3"])
    @quoted("rejected a client with Engine.IO protocol …")
    def test_old_engineio_protocol_is_logged(
        self, version: str, site: Site, log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        for _ in range(3):
            answer = visit(site.port, f"/socket.io/?EIO={version}&transport=polling")
            assert (answer.status, b"use socket.io-client 3 or 4" in answer.body) == (400, True)
        (text,) = log()
        match_quote(text)
        assert "socket.io-client 3 or 4" in text

    @quoted("rejected a request without Engine.IO protocol version")
    def test_websocket_without_protocol_version_is_logged(
        self, site: Site, log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        for _ in range(2):
            assert WebSocket(site.port, query="", handshake=False).status == 400
        (text,) = log()
        match_quote(text)

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    @quoted("rejected transport …, which SOCKETIO_TRANSPORTS does not allow")
    def test_disabled_transport_is_logged(
        self,
        transport: str,
        serve: Callable[..., Site],
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
    ) -> None:
        (other,) = {"polling", "websocket"} - {transport}
        site = serve(transports=[other])
        assert visit(site.port, f"/socket.io/?EIO=4&transport={transport}").status == 400
        (text,) = log()
        match_quote(text)
        assert f"io({{transports: ['{other}']}})" in text
        assert visit(site.port, "/socket.io/?EIO=4&transport=flashsocket").status == 400
        assert log() == []

    @quoted("rejected a request with an unknown session id")
    def test_unknown_session_is_logged(
        self, site: Site, log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        for _ in range(3):
            assert visit(site.port, HANDSHAKE + "&sid=secret").status == 400
        (text,) = log()
        match_quote(text)
        assert "secret" not in text

    @quoted("rejected a session: the limit of … is reached")
    def test_session_limit_is_logged(
        self, serve: Callable[..., Site], log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        site = serve(max_sessions=1)
        site.connect()
        assert visit(site.port, HANDSHAKE).status == 503
        (text,) = log()
        match_quote(text)

    @quoted("rejected unknown namespace …")
    def test_unknown_namespace_is_logged(
        self, site: Site, log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        client = site.websocket()
        for name in ("/chat", "/chat", "/\x9bforged\u202e"):
            client.send(f"40{name},")
            assert "Invalid namespace" in str(client.receive())
        first, second = log()  # once each
        match_quote(first)
        assert "'/chat'" in first
        assert "SOCKETIO_NAMESPACES" in first
        assert second.isascii()

    @quoted("rejected a connection to a namespace: the client is in … others")
    def test_too_many_namespaces_of_a_session_are_logged_once(
        self,
        serve: Callable[..., Site],
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
    ) -> None:
        client = serve(namespaces=[re.compile("/[0-9]$")], max_namespaces=1).websocket()
        for number in range(3):
            client.send(f"40/{number},")
            client.receive()
        (text,) = log()
        match_quote(text)
        assert text.endswith("(SOCKETIO_MAX_NAMESPACES)")

    def test_unknown_namespaces_in_log_are_limited(
        self, site: Site, log: Callable[[], list[str]]
    ) -> None:
        client = site.websocket()
        for number in range(50):
            client.send(f"40/{number},")
            client.receive()
        assert len(log()) == throttled_log._MAX_NAMES


class TestOrigins:
    """Rejected origins: the log contains the reason, the client receives none."""

    @quoted("rejected Origin … (expected …; from …): …")
    @quoted("to allow the page: SOCKETIO_ALLOWED_ORIGINS = …")
    def test_rejected_origin_of_another_site_is_logged(
        self, site: Site, log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        for _ in range(3):
            forbidden(site, "https://other.example")
        (text,) = log()
        match_quote(text)
        own = f"127.0.0.1:{site.port}"
        assert f"'https://other.example' (expected http://{own}; from Host: {own}): " in text
        assert 'SOCKETIO_ALLOWED_ORIGINS = ["https://other.example"]' in text
        assert "TRUSTED_PROXIES" not in text

    @quoted("the forwarded headers of … match, but it is not a trusted proxy")
    def test_rejection_names_untrusted_proxy(
        self, serve: Callable[..., Site], log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        site = serve()
        headers = {
            "X_Forwarded_Proto": "https",
            "X_Forwarded_Host": "chat.example",
        }
        forbidden(site, "https://chat.example", **headers)
        (text,) = log()
        match_quote(text)
        assert 'SOCKETIO_TRUSTED_PROXIES = ["127.0.0.1"]' in text
        assert "ALLOWED_ORIGINS" not in text
        allowed = serve(trusted_proxies=["127.0.0.1"])
        answer = visit(allowed.port, HANDSHAKE, Origin="https://chat.example", **headers)
        assert answer.status == 200

    def test_headers_of_untrusted_proxy_are_ignored(
        self, site: Site, log: Callable[[], list[str]]
    ) -> None:
        forbidden(site, "https://evil.example", X_Forwarded_Host="chat.example")
        (text,) = log()
        assert "forwarded headers of 127.0.0.1 are ignored, because it is not in" in text
        assert 'SOCKETIO_ALLOWED_ORIGINS = ["https://evil.example"]' in text

    @quoted("a proxy in front must pass Host and the browser's scheme as X-Forwarded-Proto")
    @pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]])
    def test_proxy_without_forwarded_headers_is_logged(
        self,
        trusted: list[str],
        serve: Callable[..., Site],
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
    ) -> None:
        site = serve(trusted_proxies=trusted)
        forbidden(site, "https://chat.example", Host="chat.example")
        (text,) = log()
        match_quote(text)
        assert "expected http://chat.example; from Host: chat.example" in text
        assert ("TRUSTED_PROXIES" in text) == (not trusted)

    @quoted("the page has no origin")
    def test_page_without_origin_is_logged(
        self, site: Site, log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        forbidden(site, "null")
        (text,) = log()
        match_quote(text)
        assert 'SOCKETIO_ALLOWED_ORIGINS = ["null"]' in text

    @quoted("to allow this app: SOCKETIO_ALLOWED_ORIGINS = …")
    @pytest.mark.parametrize("origin", ["capacitor://localhost", "app://-", "file://"])
    def test_rejected_app_origin_names_setting(
        self,
        origin: str,
        serve: Callable[..., Site],
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
    ) -> None:
        forbidden(serve(), origin)
        (text,) = log()
        match_quote(text)
        assert f'SOCKETIO_ALLOWED_ORIGINS = ["{origin}"]' in text
        allowed = serve(allowed_origins=[origin])
        assert visit(allowed.port, HANDSHAKE, Origin=origin).status == 200

    @quoted("rejected Host … of a request …: add it to SOCKETIO_ALLOWED_HOSTS to allow it")
    def test_rejected_host_names_setting(
        self, serve: Callable[..., Site], log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        site = serve(allowed_hosts=["chat.example"])
        for _ in range(3):
            assert visit(site.port, "/").status == 400
        (text,) = [line for line in log() if line.startswith("rejected Host")]
        match_quote(text)
        assert f"Host '127.0.0.1:{site.port}'" in text

    def test_malformed_origin_is_logged(self, site: Site, log: Callable[[], list[str]]) -> None:
        forbidden(site, "http://ours.example/a/path")
        (text,) = log()
        assert "this is not an origin" in text

    def test_rejection_lists_allowed_origins(
        self, serve: Callable[..., Site], log: Callable[[], list[str]]
    ) -> None:
        site = serve(allowed_origins=["https://one.example", "https://two.example:8443"])
        forbidden(site, "https://other.example")
        (text,) = log()
        assert "https://one.example" in text
        assert "https://two.example:8443" in text

    @pytest.mark.parametrize(
        "origin",
        ["http://x\x9b31mred\x85.example", "http://" + "x" * 3000, 'http://"]; evil = ["x'],
    )
    def test_origin_is_escaped_and_truncated_in_log(
        self, origin: str, site: Site, log: Callable[[], list[str]]
    ) -> None:
        client = WebSocket(site.port, headers={"Origin": origin}, handshake=False)
        assert client.status == 403
        (text,) = log()
        assert text.isascii()
        assert "\n" not in text
        assert len(text) < 600

    def test_rejected_client_receives_no_details(self, site: Site) -> None:
        answer = visit(site.port, HANDSHAKE, Origin="https://other.example")
        assert answer.body == b'{"code":4,"message":"Forbidden: this origin is not allowed"}'


class TestThrottledLog:
    class Clock:
        seconds = 0.0

        def now(self) -> float:
            return self.seconds

    def test_throttled_log_counts_suppressed_messages(self, log: Callable[[], list[str]]) -> None:
        clock: Any = self.Clock()
        match_quote = ThrottledLog(clock)
        for second in range(130):
            clock.seconds = float(second)
            match_quote.throttled("one", "one")
            if second == 30:
                match_quote.throttled("other", "other")
        more = "one (59 similar lines suppressed)"
        assert log() == ["one", "other", more, more]


def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
    """A valid handler of messages."""


def channel_handler(request: Any, socket: Any, context: Any, channel: Any) -> None:
    """A valid handler of subscriptions."""


class Callables:
    def method(self, request: Any, socket: Any, context: Any, message: Any) -> None:
        """A bound method."""

    def __call__(self, request: Any, socket: Any, context: Any, message: Any) -> None:
        """A callable object."""


def inject_argument(function: Any) -> Any:
    """Insert an additional argument, as frameworks do."""

    @functools.wraps(function)
    def wrapper(*args: Any, **keywords: Any) -> Any:
        return function("database", *args, **keywords)

    return wrapper


@inject_argument
def injected(database: Any, request: Any, socket: Any, context: Any, message: Any) -> None:
    """A handler with an inserted argument."""


def wrong(decorator: Any, function: Any) -> str:
    """Return the error of registering a handler, and check that it was not registered."""
    before = dict(default_runtime.events._registered)
    with pytest.raises(EventError) as caught:
        decorator(function)
    assert default_runtime.events._registered == before
    return str(caught.value)


class TestArguments:
    @pytest.mark.parametrize(
        ("decorator", "function", "wanted"),
        [
            (
                on_message,
                lambda request, socket, context: None,
                "request, socket, context, message",
            ),
            (on_message, lambda socket, message: None, "request, socket, context, message"),
            (on_message, lambda: None, "request, socket, context, message"),
            (on_message, lambda socket, request, context, message: None, "request, socket"),
            (on_message, lambda request, socket, message, context: None, "request, socket"),
            (on_message, lambda request, socket, context, message, *, key: None, "message"),
            (on_connect, handler, "request, socket, context)"),
            (on_event("x"), lambda request, socket: None, "request, socket, context, *args"),
            (on_event("x"), lambda request, socket, context, *, key: None, "context, *args"),
            (on_event("x"), lambda socket, request, context: None, "request, socket, context"),
            (on_event("message"), lambda request, socket, context: None, "context, message"),
            (on_message, functools.partial(handler, None), "request, socket, context, message"),
        ],
    )
    @quoted("takes (…), and is called with (…), in this order")
    def test_handler_with_wrong_arguments_raises(
        self, decorator: Any, function: Any, wanted: str, match_quote: MatchQuote
    ) -> None:
        text = wrong(decorator, function)
        match_quote(text)
        assert wanted in text.partition("called with")[2]

    def test_error_names_function_file_and_line(self) -> None:
        line = handler.__code__.co_firstlineno
        text = wrong(on_connect, handler)
        assert text.startswith(f"@on_connect: handler (test_diagnostics.py:{line}) takes ")
        assert (
            "(request, socket, context, message), and is called with (request, socket, context)"
            in text
        )

    @quoted("decorate a function, or a bound method")
    def test_unbound_method_raises(self, match_quote: MatchQuote) -> None:
        match_quote(wrong(on_message, Callables.method))

    @pytest.mark.parametrize(
        "function",
        [
            handler,
            lambda *args: None,
            lambda request, *args: None,
            lambda environ, client, data, text: None,
            lambda request, socket, context, message, more=None: None,
            lambda request, socket, context, message, **keywords: None,
            functools.partial(lambda database, *args: None, "database"),
            functools.partial(handler, message="always"),
            injected,
            Callables().method,
            Callables(),
            print,
            max,  # has no signature
        ],
    )
    def test_callable_handler_is_accepted(self, function: Any) -> None:
        if isinstance(function, functools.partial) and function.keywords:
            assert "takes" in wrong(on_message, function)
        else:
            assert on_message(function) is function

    @pytest.mark.parametrize(
        "function",
        [
            lambda request, socket, context: None,
            lambda request, socket, context, one, two, three=3: None,
            lambda request, socket, context, *args, key=None: None,
            lambda *args: None,
            injected,
        ],
    )
    def test_event_handler_with_own_arguments_is_accepted(self, function: Any) -> None:
        assert on_event("x")(function) is function


async def coroutine(*args: Any) -> None:
    """A coroutine function."""


async def asynchronous_generator(*args: Any) -> Any:
    yield


def generator(*args: Any) -> Any:
    yield


class Asynchronous:
    async def __call__(self, *args: Any) -> None:
        """A coroutine method."""


every_way = pytest.mark.parametrize(
    "register",
    [on_message, on_event("x"), on_subscribing(channel="x"), signals.message.connect],
    ids=["on_message", "on_event", "on_subscribing", "connect"],
)


class TestUncallableHandlers:
    @every_way
    @pytest.mark.parametrize(
        "function",
        [coroutine, asynchronous_generator, Asynchronous(), functools.partial(coroutine, 1)],
    )
    @quoted("is a coroutine function")
    def test_coroutine_function_raises(
        self, register: Any, function: Any, match_quote: MatchQuote
    ) -> None:
        match_quote(wrong(register, function))

    @every_way
    @quoted("is a class and would only be instantiated")
    def test_class_raises(self, register: Any, match_quote: MatchQuote) -> None:
        class Chat:
            def __init__(self, request: Any, socket: Any, context: Any, message: Any) -> None:
                """A constructor with the arguments of a handler."""

        text = wrong(register, Chat)
        match_quote(text)
        assert "on_...(Room().talk)" in text

    @every_way
    @quoted("is a generator function (it contains yield)")
    def test_generator_function_raises(self, register: Any, match_quote: MatchQuote) -> None:
        match_quote(wrong(register, generator))

    def test_plain_wrapper_of_coroutine_is_accepted(self) -> None:
        @functools.wraps(coroutine)
        def wrapper(*args: Any) -> None:
            """A plain function."""

        assert on_message(wrapper) is wrapper

    @pytest.mark.parametrize("function", [coroutine, generator])
    @quoted("a receiver returned a coroutine or a generator")
    def test_returned_coroutine_or_generator_is_reported(
        self, function: Any, site: Site, stages: Journal, match_quote: MatchQuote
    ) -> None:
        on_message(lambda *args: function())
        assert site.connect().call("message", 1) == [{"error": "internal error"}]
        match_quote(str(stages[-1][1]))


class TestDecorators:
    @quoted("pass a pattern as keyword")
    def test_positional_pattern_raises(self, match_quote: MatchQuote) -> None:
        match_quote(wrong(on_message, "^room-"))

    @quoted("not a regular expression")
    @pytest.mark.parametrize("pattern", ["(", 5, b"x", re.compile(b"x"), ["one", "two"], ("one",)])
    def test_invalid_pattern_raises(self, pattern: Any, match_quote: MatchQuote) -> None:
        text = wrong(on_message(channel=pattern), handler)
        match_quote(text)
        assert pattern == "(" or '"^(one|two)$"' in text

    @quoted("a connecting socket has no channels yet")
    def test_pattern_for_connect_raises(self, match_quote: MatchQuote) -> None:
        decorator: Any = on_connect
        match_quote(wrong(decorator(channel="x"), lambda request, socket, context: None))

    @quoted("@on_event requires the name of the event")
    def test_event_decorator_without_name_raises(self, match_quote: MatchQuote) -> None:
        match_quote(wrong(on_event, handler))
        with pytest.raises(TypeError, match="'name'"):
            on_event()  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        ("name", "remedy"),
        [
            ("connect", "@on_connect"),
            ("disconnect", "@on_disconnect"),
            ("connect_error", "@on_connecting"),
            ("__subscribe__", "@on_subscribe"),
        ],
    )
    @quoted("clients cannot send this event")
    def test_event_named_like_a_stage_raises(
        self, name: str, remedy: str, match_quote: MatchQuote
    ) -> None:
        text = wrong(on_event, name)
        match_quote(text)
        assert remedy in text

    def test_stage_names_are_all_reserved_events(self) -> None:
        from webpy_socketio.engine.socketio.packets import RESERVED_EVENTS as ENGINE_EVENTS
        from webpy_socketio.targets import RESERVED_EVENTS as SOCKET_EVENTS

        assert set(handlers.RESERVED) == ENGINE_EVENTS | SOCKET_EVENTS


class TestDuplicateNames:
    """Two handlers with one name in one file: the second replaces the first."""

    @quoted("…: use a different name for each handler")
    def test_two_handlers_with_one_name_are_logged(
        self, log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        twin = "@on_message(channel='^{}')\ndef talk(*args): ...\n"
        source = f"{twin.format('a')}\n{twin.format('b')}"
        exec(compile(source, "chat.py", "exec"), {"on_message": on_message})
        (text,) = log()
        match_quote(text)
        assert "talk (chat.py:4) replaces talk (chat.py:1)" in text

    def test_handler_defined_in_a_loop_is_logged(
        self, log: Callable[[], list[str]], site: Site
    ) -> None:
        def make(room: str) -> None:
            @on_message(channel=room)
            def talk(*args: Any) -> str:
                return room

        make("^a")
        make("^a")  # repeated registration is allowed
        assert log() == []
        make("^b")
        (text,) = log()
        assert ".talk (test_diagnostics.py:" in text

    def test_same_function_may_be_decorated_twice(self, log: Callable[[], list[str]]) -> None:
        for _ in range(2):
            on_message(handler)
            on_message(channel="^a")(handler)
            on_message(Callables().method)
        on_event("message")(handler)
        on_event("x")(handler)
        assert log() == []

    def test_reloaded_module_is_not_logged(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        log: Callable[[], list[str]],
    ) -> None:
        source = (
            "from webpy_socketio import on_message\n"
            "@on_message(channel='^a')\ndef talk(*args): ...\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        (tmp_path / "custom_chat.py").write_text(source)
        module = importlib.import_module("custom_chat")
        for again in ("# a line more\n" + source, source.replace("^a", "^b")):
            (tmp_path / "custom_chat.py").write_text(again)
            importlib.invalidate_caches()
            importlib.reload(module)
        monkeypatch.delitem(sys.modules, "custom_chat")
        assert log() == []


class TestReceivers:
    @pytest.mark.parametrize(
        ("stage", "receiver"),
        [
            (signals.message, lambda sender: None),
            (signals.message, lambda sender, message: None),
            (signals.message, lambda sender, message, text, **extra: None),
            (signals.message, lambda *, message, **extra: None),
            (signals.connect, lambda request, socket, context: None),
            (signals.error, lambda sender, request, socket, context: None),
        ],
    )
    @quoted("takes …, and is called with sender and the keywords …")
    def test_receiver_with_wrong_arguments_raises(
        self, stage: Any, receiver: Any, match_quote: MatchQuote
    ) -> None:
        text = wrong(stage.connect, receiver)
        match_quote(text)
        assert text.startswith(f"signals.{stage.name}.connect: ")
        assert "test_diagnostics.py:" in text
        assert "**extra" in text
        assert not stage.receivers

    def test_declared_keywords_are_those_sent(self, serve: Callable[..., Site]) -> None:
        site = serve(recovery_time=60.0)
        sent: dict[str, set[str]] = {}
        suspended = gevent.event.Event()

        def record(name: str) -> Any:
            def receiver(sender: Any, **keywords: Any) -> None:
                sent.setdefault(name, set()).update(keywords)

            return receiver

        for stage in signals.STAGES:
            stage.connect(record(stage.name))
        signals.suspend.connect(lambda sender, **extra: suspended.set())
        lost = site.websocket()
        pid = lost.connect()["pid"]
        lost.vanish()
        suspended.wait()
        client = site.connect(json.dumps({"pid": pid}))
        client.call("__subscribe__", "room")
        client.emit_and_wait("message")
        client.emit_and_wait("__channel__", "nowhere")
        client.call("__unsubscribe__", "room")
        client.close()
        site.server.stop()
        assert sent == {stage.name: set(stage._keywords) for stage in signals.STAGES}

    @pytest.mark.parametrize(
        "receiver",
        [
            lambda sender, **extra: None,
            lambda sender, request, socket, context, namespace, message, event, args, channel: None,
            lambda *args, **keywords: None,
            injected,
        ],
    )
    def test_receiver_with_matching_arguments_is_accepted(self, receiver: Any) -> None:
        assert signals.message.connect(receiver) is receiver

    @pytest.mark.parametrize(
        ("register", "gate"),
        [
            (on_connect, "on_connecting"),
            (on_message, "on_receiving"),
            (on_subscribe, "on_subscribing"),
            (on_unsubscribe, "a gate"),
        ],
    )
    @quoted("which is not a gate and cannot reject (use …)")
    def test_refused_in_a_plain_handler_names_the_gate(
        self,
        register: Any,
        gate: str,
        site: Site,
        log: Callable[[], list[str]],
        match_quote: MatchQuote,
    ) -> None:
        def refuse(*args: Any) -> None:
            raise Refused("no")

        register(refuse)
        client = site.connect()
        client.call("__subscribe__", "room")
        client.emit_and_wait("message")
        client.call("__unsubscribe__", "room")
        (text,) = (each for each in log() if "refuse" in each)
        match_quote(text)
        assert f"(use {gate}), failed" in text

    @pytest.mark.parametrize(
        "use",
        [
            lambda socket: socket.send("hello"),
            lambda socket: socket.emit("hello"),
            lambda socket: socket.call("hello"),
            lambda socket: socket.subscribe("room"),
        ],
        ids=["send", "emit", "call", "subscribe"],
    )
    @pytest.mark.parametrize("watched", [False, True])
    @quoted("the client is not connected yet, because its connecting gate has not returned")
    def test_sending_in_connecting_gate_raises(
        self, watched: bool, use: Any, site: Site, stages: Journal, match_quote: MatchQuote
    ) -> None:
        if watched:
            signals.sent.connect(lambda sender, **extra: None)
        on_connecting(lambda request, socket, context: use(socket))
        client = site.websocket()
        client.send("40")
        assert "not allowed" in str(client.receive())
        match_quote(str(stages[-1][1]))
        assert isinstance(stages[-1][1], CallerError)

    @quoted("'ThreadedDict' object has no attribute …")
    def test_session_in_later_handler_is_reported(
        self, tmp_path: Path, serve: Callable[..., Site], stages: Journal, match_quote: MatchQuote
    ) -> None:
        site = serve()
        store = web.session.DiskStore(str(tmp_path))
        session = web.session.Session(site.app, store, initializer={"count": 0})
        on_message(lambda request, socket, context, message: session.count)
        assert site.connect().call("message") == [{"error": "internal error"}]
        match_quote(str(stages[-1][1]))

    @quoted("a gate returned False")
    def test_gate_returning_false_is_reported(
        self, site: Site, stages: Journal, match_quote: MatchQuote
    ) -> None:
        gate: Any = on_connecting
        gate(lambda request, socket, context: False)
        client = site.websocket()
        client.send("40")
        assert "not allowed" in str(client.receive())
        match_quote(str(stages[-1][1]))

    @quoted("the text of a Refused cannot be sent")
    def test_refused_with_invalid_text_is_reported(
        self, site: Site, stages: Journal, match_quote: MatchQuote
    ) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            raise Refused("\ud800")

        client = site.websocket()
        client.send("40")
        assert client.receive() == '44{"message":"refused"}'
        match_quote(str(stages[-1][1]))


class TestUnhandledEvents:
    @pytest.mark.parametrize("plugins", [[], ["webpy_socketio.plugins.message_logger"]])
    @quoted("no handler for the event …: is the module with its handlers imported?")
    def test_event_without_any_handler_is_logged(
        self,
        plugins: list[str],
        serve: Callable[..., Site],
        caplog: pytest.LogCaptureFixture,
        match_quote: MatchQuote,
    ) -> None:
        client = serve(plugins=plugins).connect()
        for _ in range(3):
            client.emit_and_wait("message", "hello")
        (record,) = (each for each in caplog.records if each.name == "webpy_socketio")
        assert record.levelno == logging.WARNING
        match_quote(record.getMessage())
        assert "'message'" in record.getMessage()

    def test_event_without_handler_suggests_similar_name(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "webpy_socketio")

        @on_event("move")
        def move(request: Any, socket: Any, context: Any) -> None:
            """A handler of another event."""

        client = site.connect()
        for name in ("moved", "moved", "\u202e\x9b" * 200):
            client.emit_and_wait(name)
        client.emit_and_wait("move")
        first, second = caplog.records
        assert (first.levelno, second.levelno) == (logging.INFO, logging.INFO)
        assert "the event 'moved'" in first.getMessage()
        assert "did the client mean 'move'?" in first.getMessage()
        assert second.getMessage().isascii()
        assert len(second.getMessage()) < 1500

    def test_handler_bound_to_another_channel_counts(
        self, site: Site, log: Callable[[], list[str]]
    ) -> None:
        on_message(channel="^room-")(handler)
        on_event("x", channel="^room-")(lambda *args: None)
        client = site.connect()
        client.emit_and_wait("message")
        client.emit_and_wait("x")
        assert log() == []

    def test_plain_receiver_counts_as_handler(
        self, site: Site, log: Callable[[], list[str]]
    ) -> None:
        signals.message.connect(lambda sender, **extra: None)
        site.connect().emit_and_wait("anything")
        assert log() == []

    def test_event_answered_by_plugin_is_not_logged(
        self, serve: Callable[..., Site], log: Callable[[], list[str]]
    ) -> None:
        client = serve(plugins=["webpy_socketio.plugins.presence"]).connect()
        (answer,) = client.call("presence_state", "room")
        assert answer["error"] == "not subscribed to this channel"
        assert log() == []

    def test_unhandled_events_in_log_are_limited(
        self, site: Site, log: Callable[[], list[str]]
    ) -> None:
        client = site.connect()
        for number in range(MAX_EVENTS + 50):
            client.emit_and_wait(f"event-{number}")
        assert len(log()) == MAX_EVENTS


@pytest.mark.time_limit(60)  # a slow machine takes ten times as long
@quoted("matching a channel of … characters was stopped after … ms")
def test_slow_pattern_is_stopped_and_logged(
    site: Site, log: Callable[[], list[str]], match_quote: MatchQuote
) -> None:
    on_subscribing(channel="^(a|a)*$")(channel_handler)
    site.connect().call("__subscribe__", "a" * 60 + "!")
    match_quote("\n".join(log()))


class TestSending:
    @pytest.mark.parametrize(
        ("args", "where"),
        [
            (
                ({"users": [1, {"tags": {2}}]},),
                "in value['users'][1]['tags'], set is not a type that JSON can represent",
            ),
            (
                (1, {"a": [object()]}),
                "in args[1]['a'][0], object is not a type that JSON can represent",
            ),
            (({"a": {("b",): 1}},), "in value['a'], a dict key is not text"),
            (([["\ud800"]],), "in value[0][0], str is not valid UTF-8"),
        ],
    )
    @quoted("cannot send this value: in value[…]")
    def test_unsupported_value_raises_with_its_place(
        self, args: Any, where: str, site: Site, match_quote: MatchQuote
    ) -> None:
        socket = socket_of(site.connect())
        with pytest.raises(EncodeError) as caught:
            socket.emit("x", *args)
        assert str(caught.value).startswith(f"cannot send this value: {where}")
        match_quote(str(caught.value).replace("args[1]", "value"))

    def test_unsupported_top_level_value_raises_without_place(self, site: Site) -> None:
        socket = socket_of(site.connect())
        with pytest.raises(
            EncodeError, match=r"^cannot send this value: set is not a type that JSON can represent"
        ):
            socket.send({1})
        circle: list[Any] = []
        circle.append(circle)
        with pytest.raises(EncodeError, match="nested too deeply or contains itself"):
            socket.send(circle)

    def test_bytes_beside_unsupported_value_are_accepted(self, site: Site) -> None:
        socket = socket_of(site.connect())
        with pytest.raises(
            EncodeError,
            match=re.escape("in value['b'][1], set is not a type that JSON can represent"),
        ):
            socket.send({"a": b"bytes", "b": [b"bytes", {1}]})

    def test_invalid_acknowledgement_is_reported_to_the_log_only(
        self, site: Site, log: Callable[[], list[str]], stages: Journal
    ) -> None:
        on_message(lambda request, socket, context, message: {"secret": {1}})
        assert site.connect().call("message") == [{"error": "internal error"}]
        assert "in value['secret'], set is not a type that JSON can represent" in str(stages[-1][1])

    @quoted("encoding the acknowledgement returned by … failed")
    def test_invalid_acknowledgement_names_its_function(
        self, serve: Callable[..., Site], log: Callable[[], list[str]], match_quote: MatchQuote
    ) -> None:
        @on_message
        def tags(request: Any, socket: Any, context: Any, message: Any) -> set[int]:
            return {1}

        on_message(channel="^other")(handler)
        plugins = ["webpy_socketio.plugins.message_logger"]
        serve(plugins=plugins).connect().call("message")
        (text,) = (each for each in log() if "failed" in each)
        match_quote(text)
        line = tags.__code__.co_firstlineno
        assert re.search(rf"returned by \S*\.tags \(test_diagnostics\.py:{line}\) failed", text)
        assert "handler" not in text
        assert "_message" not in text

    @quoted("cannot send NaN or Infinity")
    def test_nan_raises_with_its_place(self, site: Site, match_quote: MatchQuote) -> None:
        socket = socket_of(site.connect())
        with pytest.raises(EncodeError) as caught:
            socket.send({"x": [1.5, float("nan")]})
        match_quote(str(caught.value))
        assert "in value['x'][1]: " in str(caught.value)

    @quoted("is reserved: choose another name for the event")
    @quoted("is reserved by Socket.IO clients")
    def test_reserved_event_name_raises(self, site: Site, match_quote: MatchQuote) -> None:
        socket = socket_of(site.connect())
        for name in ("__subscribe__", "disconnect"):
            with pytest.raises(EncodeError) as caught:
                socket.emit(name)
            match_quote(str(caught.value))

    @pytest.mark.parametrize("name", [{"text": "hello"}, None, 5, ["x"]])
    @quoted("the name of an event must be text, not …")
    def test_event_decorator_without_name_raises(
        self, name: Any, site: Site, match_quote: MatchQuote
    ) -> None:
        socket = socket_of(site.connect())
        for way in (socket.emit, socket.call, emit):
            with pytest.raises(EncodeError) as caught:
                way(name)
        match_quote(str(caught.value))

    @quoted("a channel name must be text, not …")
    def test_swapped_arguments_of_broadcast_raise(
        self, site: Site, match_quote: MatchQuote
    ) -> None:
        socket = socket_of(site.connect())
        socket.subscribe("room")
        wrong: Any = {"text": "hello"}
        for way in (broadcast_channel, socket.broadcast_channel):
            with pytest.raises(ChannelError) as caught:
                way("room", wrong)
        match_quote(str(caught.value))

    @quoted("the session id of send() must be text, not …")
    def test_send_with_socket_instead_of_id_raises(
        self, site: Site, match_quote: MatchQuote
    ) -> None:
        client = site.connect()
        socket: Any = socket_of(client)
        with pytest.raises(CallerError) as caught:
            send(socket, "hello")
        match_quote(str(caught.value))
        send(socket.session.session_id, "hello")
        gets(client, "hello")

    @quoted("no client is connected: no SocketIOServer runs in this process")
    def test_broadcast_before_server_start_raises_no_socket(self, match_quote: MatchQuote) -> None:
        with pytest.raises(NoSocket) as caught:
            broadcast("hello?")
        match_quote(str(caught.value))

    @quoted("no client is subscribed to the channel …")
    def test_broadcast_to_empty_channel_raises_no_socket(
        self, site: Site, match_quote: MatchQuote
    ) -> None:
        site.connect()
        with pytest.raises(NoSocket) as caught:
            broadcast_channel("hello?", "room-1")
        match_quote(str(caught.value))
        assert "process" not in str(caught.value)

    @quoted("the client is not connected")
    def test_call_on_closed_socket_raises_disconnected(
        self, site: Site, match_quote: MatchQuote
    ) -> None:
        kept = Journal()
        on_finish(lambda request, socket, context: kept.append(socket))
        client, other = site.connect(), site.connect()
        client.close()
        (socket,) = kept.wait(len)
        assert not socket.connected
        socket.send("discarded")
        assert socket.subscribe("room") is False
        assert socket.unsubscribe("room") is False
        assert socket.channels == ()
        socket.disconnect()
        with pytest.raises(Disconnected) as caught:
            socket.call("hello?")
        match_quote(str(caught.value))
        socket.broadcast("to the others")
        assert other.event() == ["message", "to the others"]


class TestQuotes:
    def test_ellipsis_in_quote_matches_anything(self) -> None:
        assert pattern_of("a … (b)").search("before: a x\ny (b)")
        assert not pattern_of("a … (b)").search("a x b")

    def test_changed_settings_are_listed(self) -> None:
        assert default_runtime.sources.changed({}, {}) == []
        assert default_runtime.sources.changed({}, {"SOCKETIO_X": None}) == ["SOCKETIO_X"]
        assert default_runtime.sources.changed({"X": 1}, {}) == ["SOCKETIO_X"]
