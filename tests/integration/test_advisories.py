"""Tests of vulnerabilities published for similar projects; one class for each kind.

The advisories are those of socket.io, engine.io, ws, python-socketio, python-engineio, websockets,
gevent, gunicorn, waitress, uvicorn, daphne, Phoenix and Centrifugo. Kinds that other modules test
as a protocol rule or a limit are not repeated here.
"""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent.event
import pytest

import webpy_socketio
from tests.conftest import Journal, Site
from tests.engines import Http, eventually
from tests.servers import ServerProcess, application_source
from webpy_socketio import SettingsError, on_connect, on_connecting, on_event, signals

POLLING = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
SMUGGLED = b"GET /secret HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Page:
    """A page that rejected requests must not reach."""

    visits = 0

    def GET(self) -> str:
        type(self).visits += 1
        return "a page"


@pytest.fixture
def pages(serve: Callable[..., Site]) -> Site:
    """Run a server with a page at every path except that of the engine."""
    Page.visits = 0
    return serve(("/(?!socket.io).*", "page"), {"page": Page})


def masked(text: str) -> bytes:
    """Encode a short text frame of a client, masked with zeros."""
    data = text.encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data


class TestRejectedUpgrades:
    """An unexpected upgrade request crashes the process, or enables WebSocket smuggling.

    CVE-2023-31125, CVE-2026-59724 (engine.io), CVE-2026-129502 (fastify-http-proxy), CVE-2020-7693
    (sockjs). In WebSocket smuggling, a proxy takes the rejection for an acceptance and forwards
    unfiltered data. A rejected upgrade therefore gets one response and a closed connection.
    """

    @pytest.mark.parametrize(
        "target",
        [
            "/socket.io/",
            WEBSOCKET + "&sid=unknown",
            WEBSOCKET + "&sid=__proto__",
            WEBSOCKET + "&j=1",
            WEBSOCKET + "#fragment",
            WEBSOCKET + "&EIO=4",
            POLLING,
            WEBSOCKET.replace("EIO=4", "EIO=3"),
            WEBSOCKET.replace("=websocket", "=__proto__"),
            WEBSOCKET.replace("=websocket", "=constructor"),
            WEBSOCKET.replace("=websocket", "=webtransport"),
        ],
    )
    def test_upgrade_rejected_by_the_engine_closes_the_connection(
        self, target: str, pages: Site
    ) -> None:
        other = pages.connect()
        http = Http(pages.port)
        http.send("GET", target, *UPGRADE, KEY, body=SMUGGLED)
        answer = http.read_to_end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert Page.visits == 0
        other.barrier()

    @pytest.mark.parametrize("protocol", ["websocket", "h2c", "WebSocket, h2c"])
    def test_upgrade_of_a_page_closes_the_connection(self, protocol: str, pages: Site) -> None:
        http = Http(pages.port)
        http.send("GET", "/", "Connection: Upgrade", f"Upgrade: {protocol}", body=SMUGGLED)
        answer = http.read_to_end()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert Page.visits == 1


class TestPipelinedUpgrades:
    """An upgrade is pipelined after another request, or frames arrive in its segment.

    CVE-2026-130647 (fastify-http-proxy), CVE-2022-21676 (engine.io).
    """

    def test_pipelined_upgrade_is_answered_in_order_and_delivers_frames(
        self, pages: Site, journal: Journal
    ) -> None:
        on_connect(lambda request, socket, context: journal.append("connect"))
        head = "\r\n".join([f"GET {WEBSOCKET} HTTP/1.1", "Host: a", *UPGRADE, KEY, "", ""])
        http = Http(pages.port)
        http.send("GET", "/", body=head.encode() + masked("40"))
        journal.wait_for("connect")
        answer = http.sock.recv(65_536)
        assert answer.index(b"HTTP/1.1 200 ") < answer.index(b"HTTP/1.1 101 ")


class TestLineSeparators:
    """A byte that only one of two parsers treats as a line separator adds a header.

    CVE-2026-44546 (daphne).
    """

    @pytest.mark.parametrize("byte", "\x0b\x0c\x1c\x1d\x1e\x85", ids=ascii)
    def test_line_separator_in_a_header_adds_no_header(self, byte: str, site: Site) -> None:
        http = Http(site.port)
        http.send("GET", POLLING, f"X-Note: a{byte}X-Role: admin", "Connection: close")
        answer = http.read_to_end()
        environs = [session.environ for session in site.server.engine.sessions.values()]
        assert answer.startswith(b"HTTP/1.1 200 " if environs else b"HTTP/1.1 400 ")
        assert all("HTTP_X_ROLE" not in environ for environ in environs)


class TestForgedHeaders:
    """A client sets a header reserved for proxies, in another spelling or in its payload.

    CVE-2015-0219 (Django and its servers), CVE-2026-71485 (Centrifugo).
    """

    def test_header_with_underscore_is_ignored(self, serve: Callable[..., Site]) -> None:
        site = serve(trusted_proxies=["127.0.0.1"])
        http = Http(site.port)
        forged = ("X_Forwarded_Host: evil.example", "X_Role: admin", "Origin: http://evil.example")
        assert http.request("GET", POLLING, *forged)[0] == 403
        assert Http(site.port).request("GET", POLLING, *forged[:2])[0] == 200
        (session,) = site.server.engine.sessions.values()
        assert session.environ.keys().isdisjoint({"HTTP_X_FORWARDED_HOST", "HTTP_X_ROLE"})

    def test_auth_payload_does_not_change_the_request(self, site: Site, journal: Journal) -> None:
        @on_connect
        def connected(request: Any, socket: Any, context: Any) -> None:
            journal.append((request.get("HTTP_X_ROLE"), request["REMOTE_ADDR"], socket.auth))

        auth = {"headers": {"X-Role": "admin"}, "HTTP_X_ROLE": "admin", "REMOTE_ADDR": "192.0.2.1"}
        site.connect(json.dumps(auth))
        assert journal == [(None, "127.0.0.1", auth)]


class TestTwoHosts:
    """Proxy and server take different hosts from a request line and a header that differ.

    Similar to CVE-2024-1135 and CVE-2024-6827 (gunicorn).
    """

    @pytest.mark.parametrize(
        "authority", ["evil.example", "ours.example:8080", "user@ours.example", ""]
    )
    def test_conflicting_hosts_are_rejected(self, authority: str, pages: Site) -> None:
        http = Http(pages.port)
        request = f"GET http://{authority}/ HTTP/1.1\r\nHost: ours.example\r\n\r\n"
        http.sock.sendall(request.encode() + SMUGGLED)
        answer = http.read_to_end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert Page.visits == 0

    def test_equal_hosts_are_accepted(self, pages: Site) -> None:
        http = Http(pages.port)
        http.sock.sendall(b"GET http://ours.example/ HTTP/1.1\r\nHost: Ours.Example\r\n\r\n")
        assert http.response()[0] == 200


class TestWildcardOrigins:
    """A pattern in the allowed origins matches unintended origins: CVE-2022-42975 (Phoenix).

    Patterns are not supported: the server does not start with one.
    """

    @pytest.mark.parametrize(
        "origin", ["https://*.ours.example", "https://*", "*.ours.example", "https://ours.*:443"]
    )
    def test_origin_pattern_is_rejected_at_startup(
        self, origin: str, serve: Callable[..., Site]
    ) -> None:
        with pytest.raises(SettingsError, match="origins"):
            serve(allowed_origins=[origin])


class TestBodyLimit:
    """A large body of long-polling takes memory and time: CVE-2020-36048 (engine.io).

    The limit applies to every spelling of the engine's path.
    """

    @pytest.mark.parametrize("path", ["/socket.io/", "/socket%2eio/", "/%73ocket.io%2F"])
    def test_body_limit_applies_to_every_spelling_of_the_path(self, path: str, site: Site) -> None:
        sid = site.polling().sid
        target = f"{path}?EIO=4&transport=polling&sid={sid}"
        answer = Http(site.port).request("POST", target, "Content-Length: 1000001")
        assert answer[0] == 413


class TestNoAttachments:
    """A binary packet without attachments is never completed, and all messages are stored.

    CVE-2026-69185 (socket.io-parser).
    """

    def test_binary_packet_without_attachments_is_delivered(
        self, site: Site, journal: Journal
    ) -> None:
        on_event("none")(lambda request, socket, context, value: journal.append(value))
        client = site.connect()
        client.send('450-["none","complete"]')
        journal.wait_for("complete")
        client.send(b"unexpected")
        assert client.wait_closed() == 1002


class TestQueuedMessages:
    """Small messages are large in memory, so that a limit of their number is not enough.

    CVE-2020-36049 (socket.io-parser), CVE-2026-48779 (ws). The inbox limits messages and bytes.
    """

    def test_queued_events_are_limited_in_bytes(
        self, serve: Callable[..., Site], journal: Journal
    ) -> None:
        site = serve(max_message_size=100_000)
        release = gevent.event.Event()

        @on_event("large")
        def large(request: Any, socket: Any, context: Any, number: int, value: Any) -> None:
            journal.append(number)
            release.wait()

        client = site.connect()
        (session,) = site.server.engine.sessions.values()
        count = 100  # SOCKETIO_INBOX_EVENTS is 256
        dicts = ",".join(["{}"] * 10_000)
        sending = gevent.spawn(
            lambda: [client.send(f'42["large",{number},[{dicts}]]') for number in range(count)]
        )
        journal.wait_for(0)
        eventually(lambda: session.paused)
        assert len(session.receiver.inbox("/")) <= 5
        release.set()
        journal.wait_for(count - 1)
        assert journal == list(range(count))
        sending.get()
        assert not session.paused

    def test_queued_attachments_are_limited_in_bytes(
        self, serve: Callable[..., Site], journal: Journal
    ) -> None:
        site = serve(max_message_size=100_000)
        release = gevent.event.Event()

        @on_event("large")
        def large(request: Any, socket: Any, context: Any, value: bytes) -> None:
            journal.append(len(value))
            release.wait()

        client = site.connect()
        (session,) = site.server.engine.sessions.values()
        for _ in range(5):
            client.send('451-["large",{"_placeholder":true,"num":0}]')
            client.send(bytes(60_000))
        eventually(lambda: session.paused)
        release.set()
        journal.wait(lambda journal: len(journal) == 5)
        assert journal == [60_000] * 5

    def test_queued_auth_payloads_are_limited_in_bytes(
        self, serve: Callable[..., Site], journal: Journal
    ) -> None:
        site = serve(max_message_size=100_000)
        release = gevent.event.Event()

        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            journal.append("asked")
            release.wait()

        client = site.websocket()
        (session,) = site.server.engine.sessions.values()
        auth = json.dumps({"a": "x" * 60_000})
        client.send("40" + auth)
        journal.wait_for("asked")
        for _ in range(5):  # each auth payload is queued
            client.send("41")
            client.send("40" + auth)
        eventually(lambda: session.paused)
        assert len(session.receiver.inbox("/")) <= 3
        release.set()
        eventually(lambda: not session.paused)


class TestEventNames:
    """An event has a name that the server uses internally, such as "error".

    CVE-2024-38355 (socket.io), CVE-2023-32695 (socket.io-parser).
    """

    @pytest.mark.parametrize(
        "name",
        [
            *(
                stage.name
                for stage in signals.STAGES
                if stage.name not in ("connect", "disconnect")
            ),
            *(
                "__class__",
                "__proto__",
                "constructor",
                "toString",
                "emit",
                "",
                "0",
                "close",
                "open",
            ),
        ],
    )
    def test_event_named_like_a_stage_calls_no_other_receiver(
        self, name: str, site: Site, stages: Journal
    ) -> None:
        other = site.connect()
        client = site.connect()
        del stages[:]
        client.emit(name, "argument")
        client.barrier()
        assert [stage for stage, _ in stages] == ["receiving", "message"]
        other.barrier()


class TestExhaustion:
    """Connections exhaust the file descriptors of the process.

    CVE-2026-59725 (engine.io), CVE-2024-49769 (waitress). The server logs a warning and recovers.
    """

    APPLICATION = application_source(
        """
import logging, resource

class Index:
    def GET(self):
        return "a page"

class LogToParent(logging.Handler):
    def emit(self, record):
        say(record.levelname, record.getMessage())

logging.getLogger("webpy_socketio").addHandler(LogToParent())
urls = ("/", "Index")
OPTIONS = {"log": None, "plugins": []}
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
"""
    )

    @pytest.mark.time_limit(60)
    def test_exhausted_descriptors_are_logged_and_the_server_recovers(self, tmp_path: Path) -> None:
        server = ServerProcess(self.APPLICATION, tmp_path)
        try:
            many = [Http(server.port) for _ in range(80)]
            assert "Too many open files" in server.wait_for("WARNING")
            for http in many:
                http.sock.close()
            http = Http(server.port)
            assert http.request("GET", "/", "Connection: close")[2] == b"a page"
            server.stop()
            assert server.errors == ""
        finally:
            server.close()


class TestAccessLog:
    """Control characters of a URL in the log control the terminal that shows it.

    CVE-2020-7694 (uvicorn), CVE-2009-4492 (WEBrick).
    """

    @pytest.mark.parametrize("character", ["\x9b31m", "\x85", "\x90", "é", "%1b[31m"])
    def test_access_log_has_no_control_characters(
        self, character: str, serve: Callable[..., Site]
    ) -> None:
        log = io.StringIO()
        site = serve(log=log)
        Http(site.port).request("GET", f"/a{character}b", "Connection: close")
        (line,) = log.getvalue().splitlines()
        assert line.isascii()
        assert line.isprintable()
        assert '"GET /a' in line


class TestDeserialization:
    """Messages of other processes are unpickled, so that access to the queue executes code.

    CVE-2025-61765 (python-socketio).
    """

    def test_package_never_executes_data(self) -> None:
        dangerous = {"pickle", "cPickle", "marshal", "shelve", "dill", "yaml", "jsonpickle"}
        for path in Path(webpy_socketio.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names: set[str] = set()
                if isinstance(node, ast.Import):
                    names = {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names = {str(node.module).split(".")[0]}
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("eval", "exec", "compile"), path
                assert names.isdisjoint(dangerous), path
