"""Long-polling requests that are served on the hub.

The connection of a `Client` first sends a POST and a GET. The following ones are plain unless a
test says otherwise.
"""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from tests import raw
from tests.engines import Http, Recorder, Running, eventually
from webpy_socketio.engine import Engine, EngineConfig, EngineServer
from webpy_socketio.engine.http.connection_reader import ConnectionReader
from webpy_socketio.engine.http.hub_connection import HubConnection
from webpy_socketio.engine.http.wsgi import RequestHandler
from webpy_socketio.engine.io.deflate import THRESHOLD

QUERY = "/engine.io/?EIO=4&transport=polling"


class Client:
    """A session whose requests use one connection, after one GET and one POST."""

    def __init__(self, running: Any, *headers: str) -> None:
        self.sid = raw.Polling(running.port, "/engine.io/").sid
        self.http = Http(running.port)
        self.headers = headers
        assert self.post(b"4first") == (200, b"ok")
        assert self.get() == (200, b"4first")

    def target(self, timestamp: str = "") -> str:
        return f"{QUERY}{timestamp}&sid={self.sid}"

    def get(self, timestamp: str = "") -> tuple[int, bytes]:
        status, _, body = self.http.request("GET", self.target(timestamp), *self.headers)
        return status, body

    def start_get(self) -> None:
        self.http.send("GET", self.target(), *self.headers)

    def post(self, body: bytes, timestamp: str = "") -> tuple[int, bytes]:
        length = f"Content-Length: {len(body)}"
        status, _, answer = self.http.request(
            "POST", self.target(timestamp), *self.headers, length, body=body
        )
        return status, answer


def transport_of(running: Running) -> Any:
    return running.session.transport


class TestPlain:
    def test_repeated_requests_need_no_greenlet(self, echo: Running, slow: list[str]) -> None:
        client = Client(echo)
        slow.clear()
        for number in range(20):
            body = b"4" + b"x" * number
            assert client.post(body) == (200, b"ok")
            assert client.get() == (200, body)
        assert slow == []

    def test_timestamps_may_differ(self, echo: Running, slow: list[str]) -> None:
        client = Client(echo)
        client.post(b"4a", "&t=p8x3")
        client.get("&t=p8x4")
        slow.clear()
        assert client.post(b"4b", "&t=p8x5.1") == (200, b"ok")
        assert client.get("&t=p-8_x6") == (200, b"4b")
        assert slow == []

    def test_response_headers_are_those_of_the_greenlet(self, echo: Running) -> None:
        client = Client(echo, f"Origin: http://127.0.0.1:{echo.port}")
        headers: list[Any] = []
        for other in ("", "&other=1"):
            client.post(b"4a")
            target = client.target() + other
            headers.append(client.http.request("GET", target, *client.headers)[1].items())
        plain, other_headers = ([pair for pair in each if pair[0] != "Date"] for each in headers)
        assert plain == other_headers

    def test_get_waits_for_a_message(self, server: Running) -> None:
        client = Client.__new__(Client)
        client.sid, client.http, client.headers = server.polling().sid, server.http(), ()
        server.session.send("first")
        assert client.get() == (200, b"4first")
        client.start_get()
        eventually(lambda: transport_of(server).waiting)
        server.session.send("a")
        server.session.send("b")
        assert client.http.response()[2] == b"4a\x1e4b"

    def test_pipelined_requests_are_answered_in_order(self, echo: Running, slow: list[str]) -> None:
        client = Client(echo)
        slow.clear()
        end = f"HTTP/1.1\r\nHost: 127.0.0.1:{echo.port}\r\n"
        post = f"POST {client.target()} {end}Content-Length: 2\r\n\r\n4a"
        client.http.sock.sendall(f"{post}GET {client.target()} {end}\r\n".encode())
        answers = b""
        while not answers.endswith(b"4a"):
            answers += client.http.sock.recv(65_536)
        assert re.findall(rb"\r\n\r\n(ok|4a)", answers) == [b"ok", b"4a"]
        assert slow == []

    def test_request_that_arrives_during_a_get_is_served_after_it(self, echo: Running) -> None:
        client = Client(echo)
        client.start_get()
        eventually(lambda: transport_of(echo).waiting)
        client.start_get()
        gevent.sleep(0.01)
        echo.session.send("a")
        assert client.http.response()[2] == b"4a"
        eventually(lambda: transport_of(echo).waiting)
        echo.session.send("b")
        assert client.http.response()[2] == b"4b"

    def test_pipelined_requests_are_read_as_they_are_served(
        self, echo: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes = []
        add = ConnectionReader.add

        def recorded(self: ConnectionReader, data: bytes) -> None:
            add(self, data)
            sizes.append(len(self.buffered))

        monkeypatch.setattr(ConnectionReader, "add", recorded)
        client = Client(echo)
        request = f"GET {client.target()} HTTP/1.1\r\nHost: 127.0.0.1:{echo.port}\r\n\r\n"
        sending = gevent.spawn(client.http.sock.sendall, request.encode() * 1000)
        for _ in range(50):
            eventually(lambda: transport_of(echo).waiting)
            echo.session.send("a")
            assert client.http.response()[2] == b"4a"
        sending.kill()
        assert max(sizes) <= 16_384

    def test_long_payload_is_compressed(self, echo: Running) -> None:
        client = Client(echo, "Accept-Encoding: gzip")
        body = b"4" + b"x" * THRESHOLD
        for _ in range(2):
            assert client.post(body) == (200, b"ok")
            _, headers, _ = client.http.request("GET", client.target(), *client.headers)
            assert headers["Content-Encoding"] == "gzip"
            assert headers["Vary"] == "Accept-Encoding"
        client.post(b"4a")
        assert client.get() == (200, b"4a")


class TestFirst:
    """Connections begin without a greenlet."""

    def test_first_requests_of_a_session_need_no_greenlet(
        self, echo: Running, slow: list[str]
    ) -> None:
        Client(echo)
        assert slow == ["GET"]  # the handshake, for the application

    def test_first_get_waits_for_a_message(self, server: Running, slow: list[str]) -> None:
        client = Client.__new__(Client)
        client.sid, client.http, client.headers = server.polling().sid, server.http(), ()
        client.start_get()
        eventually(lambda: transport_of(server).waiting)
        server.session.send("a")
        assert client.http.response()[2] == b"4a"
        assert slow == ["GET"]

    def test_websocket_of_an_open_session_needs_no_greenlet(
        self, server: Running, slow: list[str]
    ) -> None:
        polling = server.polling()
        client = server.websocket(f"&sid={polling.sid}")
        client.send("2probe")
        assert client.receive() == "3probe"
        assert slow == ["GET"]

    @pytest.mark.parametrize(
        "headers", [("Upgrade: h2c",), ("Upgrade:",), ("Connection: Upgrade", "Upgrade: h2c")]
    )
    def test_get_with_another_upgrade_waits_for_a_message(
        self, headers: tuple[str, ...], server: Running, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = Client.__new__(Client)
        client.sid, client.http, client.headers = server.polling().sid, server.http(), headers
        client.start_get()
        eventually(lambda: transport_of(server).waiting)
        server.session.send("a")
        assert client.http.response()[2] == b"4a"
        assert caplog.records == []

    def test_other_requests_get_a_greenlet(self, server: Running, slow: list[str]) -> None:
        http = server.http()
        assert http.request("GET", "/page")[0] == 404
        assert slow == ["GET"]

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            (("Content-Encoding: gzip",), 415),
            (("Expect: nothing",), 417),
            (("Content-Length: 2",), 400),
            (("Origin: https://elsewhere.example",), 403),
            (("Transfer-Encoding: chunked",), 400),
        ],
        ids=["encoding", "expect", "length", "origin", "smuggling"],
    )
    def test_first_request_is_checked(
        self, headers: tuple[str, ...], status: int, server: Running
    ) -> None:
        target = f"{QUERY}&sid={server.polling().sid}"
        http = server.http()
        found = http.request("POST", target, *headers, "Content-Length: 2", body=b"4a")
        assert found[0] == status
        assert ("message", "a") not in server.receiver

    @pytest.mark.parametrize("target", [f"{QUERY}&sid=unknown", f"{QUERY}&sid=%75nknown"])
    def test_unknown_session_is_rejected(self, target: str, server: Running) -> None:
        assert server.http().request("GET", target)[0] == 400

    def test_head_that_arrives_later_is_received(
        self, server: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = []
        start_greenlet = server.server.start_greenlet

        def recorded(handler: Any) -> None:
            started.append(handler)
            start_greenlet(handler)

        monkeypatch.setattr(server.server, "start_greenlet", recorded)
        http = server.http()
        head = f"GET {QUERY} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
        http.sock.sendall(head[:20])
        eventually(lambda: started)
        http.sock.sendall(head[20:])
        assert http.response()[0] == 200

    def test_connection_without_a_request_is_closed_after_the_timeout(
        self, run: Callable[..., Running]
    ) -> None:
        assert run(header_timeout=0.05).http().sock.recv(1) == b""

    def test_connection_is_closed_after_the_idle_timeout(
        self, run: Callable[..., Running], slow: list[str]
    ) -> None:
        running = run(Recorder(echo=True), idle_timeout=0.5)
        client = Client(running)
        assert client.http.sock.recv(1) == b""
        assert slow == ["GET"]

    def test_idle_timeout_applies_after_a_response_of_the_greenlet(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(header_timeout=0.1, idle_timeout=60.0)
        client = Client.__new__(Client)
        client.sid, client.http = running.polling().sid, running.http()
        client.headers = ("Accept-Encoding: gzip",)
        running.session.send("x" * THRESHOLD)  # compressed by a greenlet
        assert client.get()[0] == 200
        gevent.sleep(0.3)
        running.session.send("a")
        assert client.get() == (200, b"4a")

    def test_idle_timeout_may_be_shorter_than_that_of_the_head(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(header_timeout=60.0, idle_timeout=0.05)
        client = Client.__new__(Client)
        client.sid, client.http, client.headers = running.polling().sid, running.http(), ()
        gevent.sleep(0.01)  # the connection begins before the request arrives
        running.session.send("a")
        assert client.get() == (200, b"4a")
        assert client.http.sock.recv(1) == b""

    def test_connection_whose_handler_fails_is_released(
        self, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running = run(max_connections_per_address=5)

        def fail(*_: Any) -> None:
            raise OSError("invalid socket")  # as TCP_NODELAY of a closed connection on macOS

        monkeypatch.setattr(RequestHandler, "__init__", fail)
        assert running.http().sock.recv(1) == b""
        assert not len(running.server._addresses)

    @pytest.mark.parametrize("reset", [False, True])
    def test_connection_closed_by_the_client_is_released(
        self, reset: bool, run: Callable[..., Running]
    ) -> None:
        running = run(max_connections_per_address=5)
        http = running.http()
        eventually(lambda: len(running.server._addresses))
        if reset:
            http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        http.sock.close()
        eventually(lambda: not len(running.server._addresses))


class TestNotPlain:
    @pytest.mark.parametrize(
        ("line", "status"),
        [
            ("Content-Length: 2\r\nContent-Length: 2", 400),
            ("Content-Length: +2", 400),
            ("Content-Length: 2\r\nTransfer-Encoding: chunked", 400),
            ("CONTENT-LENGTH: 2\r\nContent-Length: 2", 400),
            ("Content-Length : 2", 400),
            ("Content-Length: 2\r\n folded", 400),
            ("Content-Length: 2\r\nX: \x01", 400),
            ("Content-Length: 2\r\nHost: other", 400),
            ("Content-Length: 2\r\nOrigin: http://evil.example", 403),
            ("Content-Length: 2\r\nContent-Encoding: gzip", 415),
            ("Content-Length: 9999999", 413),
            ("Content-Length: 99999999999999999999", 413),
        ],
    )
    def test_other_headers_are_checked(self, line: str, status: int, echo: Running) -> None:
        client = Client(echo)
        assert client.post(b"4a") == (200, b"ok")
        client.http.send("POST", client.target(), *line.split("\r\n"), body=b"4b")
        answer = client.http.read_to_end()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1") == 1
        assert "b" not in echo.receiver.messages

    def test_second_length_beside_one_in_capitals_is_rejected(self, echo: Running) -> None:
        client = Client(echo)
        length = "CONTENT-LENGTH: 2"
        for _ in range(2):
            assert client.http.request("POST", client.target(), length, body=b"4a")[0] == 200
        client.http.send("POST", client.target(), length, "Content-Length: 2", body=b"4b")
        assert client.http.read_to_end().startswith(b"HTTP/1.1 400 ")
        assert "b" not in echo.receiver.messages

    @pytest.mark.parametrize(
        ("line", "status"), [("Origin: http://evil.example", 403), ("Host: other", 400)]
    )
    def test_other_headers_of_a_get_are_checked(
        self, line: str, status: int, echo: Running
    ) -> None:
        client = Client(echo)
        client.post(b"4a")
        assert client.get() == (200, b"4a")
        client.post(b"4a")
        client.http.send("GET", client.target(), line)
        assert client.http.read_to_end().startswith(b"HTTP/1.1 %d " % status)

    @pytest.mark.parametrize(
        ("target", "status"),
        [
            (f"{QUERY}&sid=unknown", 400),
            ("/engine.io/?EIO=3&transport=polling&sid={sid}", 400),
            (f"{QUERY}&sid={{sid}}&EIO=4", 400),
            ("/engine.io/?EIO=4&transport=websocket&sid={sid}", 400),
            ("/elsewhere", 404),
        ],
    )
    def test_other_targets_are_checked(self, target: str, status: int, echo: Running) -> None:
        client = Client(echo)
        client.http.send("GET", target.format(sid=client.sid))
        assert client.http.response()[0] == status

    @pytest.mark.parametrize("timestamp", ["&t=a\x01", "&t=\x7f", "&t=a\tb"], ids=repr)
    def test_control_characters_in_the_timestamp_are_rejected(
        self, timestamp: str, echo: Running
    ) -> None:
        client = Client(echo)
        client.post(b"4a")
        client.http.send("GET", client.target(timestamp))
        assert client.http.read_to_end().startswith(b"HTTP/1.1 400 ")

    def test_timestamp_in_the_method_is_rejected(self, echo: Running) -> None:
        client = Client(echo)
        assert client.post(b"4a") == (200, b"ok")
        client.http.send("POST&t=a", client.target(), "Content-Length: 2", body=b"4b")
        assert client.http.read_to_end().startswith(b"HTTP/1.1 400 ")
        assert "b" not in echo.receiver.messages

    def test_body_that_arrives_later_is_received(self, echo: Running) -> None:
        client = Client(echo)
        for _ in range(2):
            client.http.send("POST", client.target(), "Content-Length: 6")
            gevent.sleep(0.01)
            client.http.sock.sendall(b"4late!")
            assert client.http.response()[2] == b"ok"
            assert client.get() == (200, b"4late!")

    def test_head_that_arrives_later_is_received(self, echo: Running) -> None:
        client = Client(echo)
        client.post(b"4a")
        request = f"GET {client.target()} HTTP/1.1\r\nHost: 127.0.0.1:{echo.port}\r\n\r\n".encode()
        client.http.sock.sendall(request[:30])
        gevent.sleep(0.01)
        client.http.sock.sendall(request[30:])
        assert client.http.response()[2] == b"4a"

    def test_many_packets_are_left_to_the_greenlet(self, echo: Running, slow: list[str]) -> None:
        client = Client(echo)
        slow.clear()
        packets = [f"4{number}" for number in range(1000)]
        assert client.post("\x1e".join(packets).encode()) == (200, b"ok")
        assert slow == ["POST"]
        assert client.get() == (200, "\x1e".join(packets).encode())

    def test_connection_with_two_sessions_serves_both(self, echo: Running) -> None:
        client, other = Client(echo), Client(echo)
        other.http = client.http
        for _ in range(3):
            assert client.post(b"4a") == (200, b"ok")
            assert other.post(b"4b") == (200, b"ok")
            assert client.get() == (200, b"4a")
            assert other.get() == (200, b"4b")

    def test_pages_are_served_on_the_same_connection(self, run: Callable[..., Running]) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            if environ["PATH_INFO"] == "/engine.io/":
                environ["webpy_socketio.take_over"] = True
            start_response("200 OK", [])
            return [environ["PATH_INFO"].encode()]

        client = Client(run(Recorder(echo=True), application))
        for _ in range(2):
            assert client.http.request("GET", "/page")[2] == b"/page"
            client.post(b"4a")
            assert client.get() == (200, b"4a")


class TestEndings:
    @pytest.mark.parametrize("body", [b"", b"9", b"4\xff", b"b!!!!", b"4a\x1e"], ids=repr)
    def test_invalid_packet_closes_session_and_connection(self, body: bytes, echo: Running) -> None:
        client = Client(echo)
        client.http.send("POST", client.target(), f"Content-Length: {len(body)}", body=body)
        answer = client.http.read_to_end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert echo.receiver.endings == ["parse error"]

    def test_closing_the_session_ends_a_waiting_get(self, echo: Running) -> None:
        client = Client(echo)
        client.start_get()
        eventually(lambda: transport_of(echo).waiting)
        echo.session.close("forced close")
        assert client.http.response()[2] == b"1"
        assert client.get()[0] == 400
        assert echo.engine.sessions == {}

    def test_connection_lost_during_a_get_closes_the_session(self, echo: Running) -> None:
        client = Client(echo)
        client.start_get()
        eventually(lambda: transport_of(echo).waiting)
        client.http.sock.close()
        assert echo.receiver.wait_closed() == "transport close"

    def test_overlapping_gets_close_the_session(self, echo: Running) -> None:
        client = Client(echo)
        client.start_get()
        eventually(lambda: transport_of(echo).waiting)
        other = Http(echo.port)
        status, _, body = other.request("GET", client.target())
        assert (status, b"overlapping GET" in body) == (400, True)
        assert client.http.response()[2] == b"1"
        assert echo.receiver.endings == ["transport error"]

    def test_overlapping_gets_on_two_used_connections_close_the_session(
        self, echo: Running
    ) -> None:
        client = Client(echo)
        used, client.http = client.http, Http(echo.port)
        client.post(b"4a")
        assert client.get() == (200, b"4a")
        client.start_get()
        eventually(lambda: transport_of(echo).waiting)
        status, _, body = used.request("GET", client.target())
        assert (status, b"overlapping GET" in body) == (400, True)
        assert client.http.response()[2] == b"1"

    def test_upgrade_ends_a_waiting_get(self, echo: Running) -> None:
        client = Client(echo)
        client.start_get()
        eventually(lambda: transport_of(echo).waiting)
        websocket = echo.websocket(f"&sid={client.sid}")
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        assert client.http.response()[2] == b"6"
        websocket.send("5")
        websocket.send("4a")
        assert websocket.receive() == "4a"
        assert client.get()[0] == 400

    def test_paused_session_delays_the_response(self, run: Callable[..., Running]) -> None:
        running = run(Recorder(echo=True))
        client = Client(running)
        running.session.pause()
        post = gevent.spawn(client.post, b"4a")
        eventually(lambda: transport_of(running).receiving)
        assert not post.ready()
        running.session.resume()
        assert post.get() == (200, b"ok")

    def test_session_paused_by_a_packet_delays_the_rest_and_the_response(
        self, run: Callable[..., Running]
    ) -> None:
        class Pausing(Recorder):
            def message(self, session: Any, data: str | bytes) -> None:
                super().message(session, data)
                if data == "pause":
                    session.pause()

        running = run(Pausing())
        running.server.idle_handlers = {}
        client = Client.__new__(Client)
        client.sid, client.http, client.headers = running.polling().sid, running.http(), ()
        assert client.post(b"4first") == (200, b"ok")
        post = gevent.spawn(client.post, b"4pause\x1e4a\x1e4b")
        eventually(lambda: running.session.paused)
        gevent.sleep(0.01)
        assert not post.ready()
        assert running.receiver.messages == ["first", "pause"]
        assert not running.server.idle_handlers  # a hand-off would interrupt the response
        running.session.resume()
        assert post.get() == (200, b"ok")
        assert running.receiver.messages == ["first", "pause", "a", "b"]
        eventually(lambda: running.server.idle_handlers)
        assert client.post(b"4c") == (200, b"ok")

    def test_idle_connection_times_out_after_the_last_request(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(Recorder(echo=True), idle_timeout=0.2)
        client = Client(running)
        for _ in range(8):
            gevent.sleep(0.05)
            client.post(b"4a")
            client.get()
        client.start_get()
        gevent.sleep(0.3)  # a waiting GET is not idle
        running.session.send("b")
        assert client.http.response()[2] == b"4b"
        assert client.http.read_to_end() == b""
        assert running.session.open

    def test_stopping_server_answers_a_waiting_get_and_closes(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(Recorder(echo=True))
        client = Client(running)
        client.start_get()
        eventually(lambda: transport_of(running).waiting)
        stop = gevent.spawn(running.server.stop)
        answer = client.http.read_to_end()
        stop.get()
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\n1")

    def test_failing_receiver_closes_the_connection(
        self, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Failing(Recorder):
            def message(self, session: Any, data: str | bytes) -> None:
                super().message(session, data)
                if data == "fail":
                    raise KeyError(data)

        running = run(Failing(echo=True))
        client = Client(running)
        client.post(b"4fail")
        assert running.receiver.wait_closed() == "forced close"
        assert "its receiver raised an exception" in caplog.text


def start_logged(log: io.StringIO) -> Any:
    """Start a server with an access log, whose receiver echoes."""
    server: Any = EngineServer(
        ("127.0.0.1", 0), Engine(Recorder(echo=True), EngineConfig()), log=log
    )
    server.start()
    server.port = server.server_port
    return server


def test_access_log_has_a_line_for_each_request() -> None:
    log = io.StringIO()
    server = start_logged(log)
    client = Client(server)
    for _ in range(2):
        client.post(b"4hello")
        client.get()
    client.http.sock.close()
    server.stop()
    lines = [re.sub(r" - - \[.*?\]| [0-9.]+$", "", line) for line in log.getvalue().splitlines()]
    posts = [line for line in lines if '"POST' in line]
    assert len(posts) == 3
    assert posts[1] == posts[2]
    gets = [line for line in lines if '"GET' in line and "sid=" in line]
    assert len(gets) == 3
    assert gets[1] == gets[2]
    assert gets[1].startswith('127.0.0.1 "GET /engine.io/?EIO=4')
    assert " 200 " in gets[1]


def test_connections_with_tls_are_not_served_on_the_hub(slow: list[str]) -> None:
    class Handler:
        socket = object()

    assert not HubConnection.supports(Handler())


def test_access_log_may_wait() -> None:
    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            gevent.sleep(0.001)
            return super().write(text)

    log = Slow()
    server = start_logged(log)
    client = Client(server)
    for _ in range(2):
        assert client.post(b"4hello") == (200, b"ok")
        assert client.get() == (200, b"4hello")
    client.start_get()
    (session,) = server.engine.sessions.values()
    transport: Any = session.transport
    eventually(lambda: transport.waiting)
    session.send("later")
    assert client.http.response()[2] == b"4later"
    assert client.post(b"4hello") == (200, b"ok")
    eventually(lambda: log.getvalue().count("\n") == 9)
    client.http.sock.close()
    server.stop()
