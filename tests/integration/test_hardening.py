"""Tests of a complete server against invalid and malicious input.

After every error, `Scene.check_ended` checks that:

- the client has received an error of its protocol, and its TCP connection is closed;
- ``disconnect`` and ``finish`` were sent once with the same reason;
- all resources are released, another client is not affected, and no traceback is printed.

Tests that take long are in `test_hardening_load`; the folders ``engine`` test single parts.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import itertools
import json
import logging
import signal
import socket as stdlib_socket
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.util
import pytest
import web

from tests import raw
from tests.conftest import Journal, Site, socket_of
from tests.engines import Http, eventually
from tests.integration.engine.test_websocket import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    frame,
)
from tests.load_clients import HELD, CountedServer, count_descriptors, counts, scaled
from webpy_socketio import (
    ContentError,
    Disconnected,
    broadcast,
    on_error,
    on_message,
    signals,
)
from webpy_socketio.engine.io import throttled_log
from webpy_socketio.runtime import default_runtime
from webpy_socketio.testing.records import recording

ENGINE = "/socket.io/?EIO=4&transport=polling"
RESET = struct.pack("ii", 1, 0)


class Page:
    """A page of the application that records its requests and returns their bodies."""

    visits: list[bytes]

    def GET(self) -> bytes:
        data: bytes = web.data() or b"hello"
        self.visits.append(data)
        return data

    POST = GET


class Scene:
    """A server with a page, records of its signals, and a well-behaved client (bystander)."""

    def __init__(self, serve: Callable[..., Site], **options: Any) -> None:
        self.handled = Journal()
        self.errors = Journal()
        #: Ended sockets as ``(session id, stage, reason)``.
        self.endings = Journal()
        self.visits: list[bytes] = []

        @signals.message.connect
        def handled(sender: Any, event: str, args: Any, **extra: Any) -> Any:
            if event != "here":
                self.handled.append([event, *args])
            return tuple(args)

        @signals.error.connect
        def failed(sender: Any, exception: BaseException, **extra: Any) -> None:
            self.errors.append((sender.session_id, exception))

        for stage in (signals.disconnect, signals.finish):

            def ended(sender: Any, reason: str, name: str = stage.name, **extra: Any) -> None:
                self.endings.append((sender.session_id, name, reason))

            stage.connect(ended)
        self.site = serve(("/page", "page"), {"page": self.page()}, **options)
        self.bystander = self.site.connect()
        self.bystander.call("__subscribe__", "room")
        self.before = resource_counts(self.site)

    def page(self) -> type[Page]:
        return type("page", (Page,), {"visits": self.visits})

    def http(self) -> Http:
        return Http(self.site.port)

    def check_others_are_served(self) -> None:
        """Check that the bystander and the page are served."""
        assert self.bystander.call("here", 1) == [1]
        status, _, body = self.http().request("GET", "/page", "Connection: close")
        assert (status, body) == (200, b"hello")

    def check_ended(self, session_id: str, reason: str) -> None:
        """Check that this client, and no other, has ended once, and released its resources."""
        self.endings.wait_for((session_id, "finish", reason))
        self.check_released()
        assert self.endings == [(session_id, "disconnect", reason), (session_id, "finish", reason)]

    def check_released(self) -> None:
        self.check_others_are_served()
        while raw.OPENED[1:]:  # all except the bystander
            raw.OPENED.pop().close()
        left: dict[str, int] = {}

        def settled() -> bool:
            now = resource_counts(self.site)
            left.update({name: now[name] - self.before[name] for name in now})
            return not any(number > 0 for number in left.values())

        try:
            eventually(settled)
        except AssertionError as error:
            raise AssertionError(f"more than before: {left}") from error


def resource_counts(site: Site) -> dict[str, int]:
    """Return the numbers of resources that clients use, as far as they can be counted quickly."""
    engine, socketio = site.server.engine, site.server._socketio
    spaces = default_runtime.registry.namespaces()
    deadlines = (
        engine._heartbeat._idle,
        engine._heartbeat._pending,
        engine._heartbeat._since,
        engine._lingering,
        engine.upgrades._pending,
        socketio._unconnected,
        socketio._incomplete,
    )
    return {
        "sessions": len(engine.sessions),
        "sockets": sum(len(space.sockets) for space in spaces),
        "channels": sum(len(space.channels) + len(space.channels._held) for space in spaces),
        "deadlines": sum(map(len, deadlines)),
        "descriptors": count_descriptors(),
        "open": len(site.server._dispatcher._open),
    }


def check_gone(client: raw.WebSocket) -> None:
    """Check that the server has closed the TCP connection, although the client has not."""
    with contextlib.suppress(ConnectionResetError):
        while client.sock.recv(65_536):
            pass


@pytest.fixture(autouse=True)
def _nothing_printed(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Check that no client causes a traceback or an unexpected log line."""
    yield
    assert capfd.readouterr().err == ""
    # test_diagnostics tests the throttled log.
    records = [each for each in caplog.get_records("call") if each.name != throttled_log.__name__]
    lines = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    # Only exceptions that handlers of the tests raise are reported.
    assert [line for line in lines if not line.startswith("a receiver of 'message', ")] == []


@pytest.fixture
def scene(serve: Callable[..., Site]) -> Scene:
    return Scene(serve)


# -- HTTP

SMUGGLED = b"GET /page?smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = (b"Transfer-Encoding: chunked",)

#: Headers and body after "POST <target> HTTP/1.1", and the correct statuses.
BAD_HEADERS: dict[str, tuple[tuple[bytes, ...], bytes, set[int]]] = {
    "a length and chunks": ((b"Content-Length: 5", *CHUNKED), b"0\r\n\r\n", {400}),
    "chunks and a length": ((*CHUNKED, b"Content-Length: 5"), b"0\r\n\r\n", {400}),
    "two lengths": ((b"Content-Length: 5", b"Content-Length: 0"), b"hello", {400}),
    "a list of lengths": ((b"Content-Length: 5, 0",), b"hello", {400}),
    "length +5": ((b"Content-Length: +5",), b"hello", {400}),
    "length 1_0": ((b"Content-Length: 1_0",), b"helloworld", {400}),
    "xchunked": ((b"Transfer-Encoding: xchunked",), b"0\r\n\r\n", {400}),
    "chunked twice": ((*CHUNKED, *CHUNKED), b"0\r\n\r\n", {400}),
    "gzip, chunked": ((b"Transfer-Encoding: gzip, chunked",), b"0\r\n\r\n", {400}),
    "a space before the colon": ((b"Transfer-Encoding : chunked",), b"0\r\n\r\n", {400}),
    "a folded header": ((b"Content-Length:", b" 5"), b"hello", {400}),
    "a chunk of 2^64 - 1": (CHUNKED, b"FFFFFFFFFFFFFFFF\r\n", {400}),
    "a chunk that is a request": (CHUNKED, b"5\r\nhello\r\n0GET /x HTTP/1.1\r\n\r\n", {400}),
    "a request as the trailer": (CHUNKED, b"5\r\nhello\r\n0\r\nGET /x HTTP/1.1\r\n\r\n", {400}),
    "chunk 0x5": (CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n", {400}),
    "chunk -1": (CHUNKED, b"-1\r\n\r\n", {400}),
    "chunk +5": (CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n", {400}),
    "a chunk longer than it says": (CHUNKED, b"5\r\nhello!\r\n0\r\n\r\n", {400}),
    "a bare LF among chunks": (CHUNKED, b"5\nhello\n0\n\n", {400}),
    "a body on an upgrade": (
        (b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5"),
        b"hello",
        {400},
    ),
    "a body on an upgrade to nothing": (
        (b"Connection: Upgrade", b"Content-Length: 5"),
        b"hello",
        {400},
    ),
    "chunks on an upgrade": (
        (b"Connection: Upgrade", b"Upgrade: websocket", *CHUNKED),
        b"0\r\n\r\n",
        {400},
    ),
    "an impossible length": ((b"Content-Length: 99999999999999999999",), b"", {413}),
    "200 headers": ((b"H: x",) * 200, b"", {431}),
    "a header of 70 KB": ((b"H: " + b"x" * 70_000,), b"", {431}),
    "NUL in a header": ((b"H: a\0b",), b"", {400}),
    "a bare CR in a header": ((b"H: a\rContent-Length: 5",), b"", {400}),
    "two hosts": ((b"Host: b",), b"", {400}),
}

#: Complete requests, and the correct statuses.
BAD_REQUESTS: dict[str, tuple[bytes, set[int]]] = {
    "a request line of 9 KB": (
        b"GET /page?" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        {400, 414},
    ),
    "NUL in the target": (b"GET /page\0 HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "a bare CR in the target": (b"GET /page\rx HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "no host": (b"GET /page HTTP/1.1\r\n\r\n", {400}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", {400}),
}


class TestHTTP:
    """Ambiguous and oversized requests, for the engine and for pages."""

    def exchange(self, scene: Scene, data: bytes) -> tuple[int, bytes]:
        """Send `data`, check that it gets exactly one response, and return status and response."""
        http = scene.http()
        http.sock.sendall(data)
        answer = http.read_to_end()
        assert answer.count(b"HTTP/1.1 ") == 1, "a part of it was parsed as another request"
        assert b"\r\nConnection: close\r\n" in answer
        assert scene.visits == []
        scene.check_released()
        assert scene.endings == []
        return int(answer.split()[1]), answer

    @pytest.mark.parametrize("target", ["/page", ENGINE], ids=["page", "engine"])
    @pytest.mark.parametrize(("headers", "body", "statuses"), BAD_HEADERS.values(), ids=BAD_HEADERS)
    def test_bad_headers_get_one_error_and_a_closed_connection(
        self,
        headers: tuple[bytes, ...],
        body: bytes,
        statuses: set[int],
        target: str,
        scene: Scene,
    ) -> None:
        head = [f"POST {target} HTTP/1.1".encode(), b"Host: a", *headers, b"", b""]
        status, _ = self.exchange(scene, b"\r\n".join(head) + body + SMUGGLED)
        assert status in statuses

    @pytest.mark.parametrize(("data", "statuses"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
    def test_bad_request_gets_one_error_and_a_closed_connection(
        self, data: bytes, statuses: set[int], scene: Scene
    ) -> None:
        assert self.exchange(scene, data + SMUGGLED)[0] in statuses

    def test_rejected_connection_is_released_while_the_client_keeps_its_side_open(
        self, scene: Scene
    ) -> None:
        http = scene.http()
        http.sock.sendall(b"junk\r\n\r\n")
        assert http.read_to_end().startswith(b"HTTP/1.1 400 ")
        # One descriptor more: the client's side of this connection.
        eventually(
            lambda: resource_counts(scene.site)["descriptors"] == scene.before["descriptors"] + 1
        )

    @pytest.mark.parametrize("target", ["/page", "/nowhere", ENGINE, f"{ENGINE}&sid=unknown"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_connection_close_is_confirmed_and_closes(
        self, method: str, target: str, scene: Scene
    ) -> None:
        http = scene.http()
        _, headers, _ = http.request(method, target, "Connection: close", "Content-Length: 0")
        assert headers["Connection"] == "close"
        assert http.read_to_end() == b""

    @pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
    def test_incomplete_body_never_reaches_a_page(self, reset: bool, scene: Scene) -> None:
        http = scene.http()
        http.send("POST", "/page", "Content-Length: 100", body=b"0123456789")
        if reset:
            http.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, RESET)
        http.sock.close()
        scene.check_released()
        assert scene.visits == [b"hello"], "from check_released"

    @pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
    def test_incomplete_body_closes_its_session(self, reset: bool, scene: Scene) -> None:
        client, http = scene.site.polling(), scene.http()
        client.connect()
        body = b'42["message","half'
        http.send("POST", f"{ENGINE}&sid={client.sid}", "Content-Length: 100", body=body)
        if reset:
            http.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, RESET)
        http.sock.close()
        scene.check_ended(client.id, "transport error")
        assert scene.handled == []


class TestSlowSenders:
    """Requests sent byte by byte are closed at a timeout that single bytes do not extend."""

    #: Beginnings of requests that continue byte by byte.
    PLACES: tuple[bytes, ...] = (
        b"GET /pa",
        b"GET /page HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        b"POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
        b"POST /page HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;",
    )

    def test_slow_request_gets_408(self, serve: Callable[..., Site]) -> None:
        scene = Scene(serve, header_timeout=0.5, body_timeout=0.5)
        slow = [scene.http() for _ in range(20 * len(self.PLACES))]
        answers = Journal()

        def trickle(http: Http, beginning: bytes) -> None:
            http.sock.sendall(beginning)
            reading = gevent.spawn(http.read_to_end)
            with contextlib.suppress(OSError):  # the server closes the connection
                while not reading.ready():
                    http.sock.sendall(b"x")
                    reading.join(0.05)
            answers.append(reading.get()[:12])

        for http, beginning in zip(slow, itertools.cycle(self.PLACES), strict=False):
            gevent.spawn(trickle, http, beginning)
        served = 0
        while len(answers) < len(slow):
            scene.check_others_are_served()
            served += 1
        assert served > 1
        assert answers == [b"HTTP/1.1 408"] * len(slow)
        assert scene.visits == [b"hello"] * served
        scene.check_released()


# -- Engine.IO

BAD_PAYLOADS: dict[str, bytes] = {
    "empty": b"",
    "letters": b"abc",
    "open": b"0",
    "ping": b"2",
    "probe": b"2probe",
    "upgrade": b"5",
    "noop": b"6",
    "unknown": b"9",
    "not base64": b"b!!!!",
    "not UTF-8": b"\xff",
    "not UTF-8 in a message": b'42["message","\xff"]',
    "a surrogate in UTF-8": b'42["message","\xed\xa0\x80"]',
    "a separator at the end": b"3\x1e",
    "bad ones behind a good one": b"3\x1eabc\x1e" + b'42["late"]',
    "a million separators": b"\x1e" * 1_000_000,
    "half a million empty messages": b"4\x1e" * 500_000,
}


class TestEngineIO:
    """Invalid and oversized requests of long-polling."""

    @pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
    def test_invalid_packet_closes_the_session_with_one_error(
        self, payload: bytes, scene: Scene
    ) -> None:
        client = scene.site.polling()
        client.connect()
        status, body = client.request("POST", payload)
        assert status == 400
        assert set(json.loads(body)) == {"code", "message"}
        scene.check_ended(client.id, "parse error")
        assert scene.handled == []
        assert len(scene.errors) <= 1
        assert client.request("GET")[0] == 400

    def test_post_of_separators_uses_little_memory(self, scene: Scene) -> None:
        """Splitting the body at once would take eight bytes for each of a million separators."""
        client = scene.site.polling()
        client.connect()
        bomb = b"\x1e" * 1_000_000
        tracemalloc.start()
        try:
            assert client.request("POST", bomb)[0] == 400
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 5 * len(bomb)
        scene.check_ended(client.id, "parse error")

    def test_post_of_many_packets_does_not_block(self, scene: Scene) -> None:
        """Decoding the body at once would block many times longer than the limit of this test."""
        client = scene.site.polling()
        client.connect()
        with measure_blocking() as longest:
            assert client.request("POST", b"3\x1e" * 499_999 + b"3")[0] == 200
        assert longest() < 1.0

    def test_thousands_of_events_in_one_post_are_all_handled(self, scene: Scene) -> None:
        client = scene.site.polling()
        client.connect()
        packets = [f'42["n",{number}]' for number in range(5000)]
        assert client.send(*packets) == (200, "ok")
        scene.handled.wait(lambda handled: len(handled) == 5000)
        assert scene.handled == [["n", number] for number in range(5000)]

    def test_body_of_the_maximum_size_is_accepted(self, scene: Scene) -> None:
        client = scene.site.polling()
        client.connect()
        begin, end = '42["m","', '"]'
        filling = "x" * (1_000_000 - len(begin) - len(end))
        assert client.send(begin + filling + end) == (200, "ok")
        scene.handled.wait(len)

    @pytest.mark.parametrize("how", ["declared", "chunked"])
    def test_body_above_the_maximum_size_is_rejected_unread(self, how: str, scene: Scene) -> None:
        client, http = scene.site.polling(), scene.http()
        client.connect()
        size = b"%x\r\n" % 1_000_001 if how == "chunked" else b""
        length = "Transfer-Encoding: chunked" if size else "Content-Length: 1000001"
        # The body is never sent, so the response cannot depend on it.
        http.send("POST", f"{ENGINE}&sid={client.sid}", length, body=size)
        answer = http.read_to_end()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in answer
        scene.check_ended(client.id, "parse error")

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_many_pongs_have_no_effect(self, transport: str, scene: Scene) -> None:
        if transport == "polling":
            client: Any = scene.site.polling()
            client.connect()
        else:
            client = scene.site.connect()
        before = counts(scene.site.server)
        largest = 0

        def look() -> None:
            nonlocal largest
            while True:
                gevent.sleep(0)
                largest = max(largest, gevent.get_hub().loop.activecnt)

        looking = gevent.spawn(look)
        if transport == "polling":
            assert client.send(*["3"] * 100_000) == (200, "ok")
        else:
            client.send_raw(frame(TEXT, b"3") * 100_000)
            client.call("here")
        looking.kill()
        after = counts(scene.site.server)
        # The connections of both sides need a few; pongs need none.
        assert after["greenlets"] <= before["greenlets"] + 5
        assert max(largest, after["watchers"]) <= before["watchers"] + 20
        assert scene.endings == []

    def test_overlapping_gets_close_the_session(self, scene: Scene) -> None:
        client = scene.site.polling()
        client.connect()
        first = gevent.spawn(client.request, "GET")
        session = scene.site.server.engine.sessions[client.sid]
        eventually(lambda: session.transport.waiting)  # type: ignore[union-attr]
        assert client.request("GET")[0] == 400
        assert first.get() == (200, "1")
        scene.check_ended(client.id, "transport error")

    @pytest.mark.parametrize("passed", [0, 8], ids=["in its head", "in its body"])
    def test_overlapping_posts_close_the_session(self, passed: int, scene: Scene) -> None:
        """The order of the two is unknown, even if only the head of the first has arrived."""
        client, http = scene.site.polling(), scene.http()
        client.connect()
        body = b'42["message","first"]'
        target = f"{ENGINE}&sid={client.sid}"
        http.send("POST", target, f"Content-Length: {len(body)}", body=body[:passed])
        before = gevent.get_hub().loop.activecnt
        scene.check_others_are_served()  # afterwards, the server has read the first request
        assert client.send('42["message","second"]')[0] == 400
        with contextlib.suppress(OSError):
            http.sock.sendall(body[passed:])
            assert http.response()[0] == 400
        scene.check_ended(client.id, "transport error")
        assert scene.handled == []
        assert gevent.get_hub().loop.activecnt <= before

    def test_consecutive_posts_do_not_overlap(self, scene: Scene) -> None:
        client = scene.site.polling()
        client.connect()
        for number in range(50):
            assert client.send(f'42["n",{number}]') == (200, "ok")
        scene.handled.wait_for(["n", 49])
        assert scene.endings == []

    def test_upgrade_during_a_post_closes_the_session(self, scene: Scene) -> None:
        """The remaining packets of the POST would be lost, or mix with those of the WebSocket."""
        client, http = scene.site.polling(), scene.http()
        client.connect()
        http.send("POST", f"{ENGINE}&sid={client.sid}", "Content-Length: 30", body=b'42["message')
        websocket = raw.WebSocket(
            scene.site.port, scene.site.path, f"EIO=4&transport=websocket&sid={client.sid}"
        )
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        websocket.send("5")
        assert websocket.wait_closed() == 1002
        http.sock.close()
        scene.check_ended(client.id, "parse error")

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    @pytest.mark.parametrize(
        "query",
        [
            "EIO=4",
            "EIO=4&transport=",
            "EIO=4&transport=carrier-pigeon",
            "EIO=4&transport=__proto__",
            "EIO=4&transport={}&transport={}",
            "transport={}",
            "EIO=&transport={}",
            "EIO=99&transport={}",
            "EIO=4&EIO=4&transport={}",
            "EIO=4&transport={}&sid=carrier-pigeon",
            "EIO=4&transport={}&sid=",
            "EIO=4&transport={}&sid=__proto__",
            "EIO=4&transport={}&sid=constructor&sid=constructor",
            "EIO=4&transport={}&sid=" + "carrier-pigeon" * 500,
            "EIO=4&transport={}&sid=" + "carrier-pigeon" * 750,  # more than 10 KB
            "EIO=4&transport={}&sid=a%0d%0aX-Pigeon:%201",
            "EIO=4&transport={}&sid=%00",
            "EIO=3&transport={}",
            "EIO=4&transport={}&j=0",
        ],
        ids=lambda query: query[:60],
    )
    def test_invalid_query_is_rejected_without_its_text(
        self, query: str, transport: str, scene: Scene
    ) -> None:
        target = "/socket.io/?" + query.replace("{}", transport)
        headers = HANDSHAKE if transport == "websocket" else ()
        http = scene.http()
        http.send("GET", target, *headers)
        status, answer, body = http.response()
        assert status == 400
        assert answer["Content-Type"] == "application/json"
        content = json.loads(body)
        assert set(content) == {"code", "message"}
        assert type(content["code"]) is int
        for word in ("pigeon", "__proto__", "constructor", "99", "Pigeon"):
            assert word not in str(answer) + body.decode()
        if "EIO=3" in query or "j=0" in query:
            assert "socket.io-client" in content["message"]
        scene.check_released()

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
    @pytest.mark.parametrize("known", [False, True], ids=["without a sid", "with one"])
    def test_other_method_is_rejected(self, method: str, known: bool, scene: Scene) -> None:
        client = scene.site.polling()
        http = scene.http()
        http.send(method, ENGINE + (f"&sid={client.sid}" if known else ""))
        status, answer, _ = http.response(method)
        assert status == 400
        assert answer["Content-Type"] == "application/json"
        assert list(scene.site.server.engine.sessions)[1:] == [client.sid]


class TestSessionIds:
    def test_session_ids_are_random_in_every_bit(self, scene: Scene) -> None:
        """Secret and public ids have at least 96 random bits each, and are independent."""
        secret, public = [], []
        for _ in range(100):
            client = scene.site.connect()
            secret.append(client.open["sid"])
            public.append(client.id)
            client.send("1")
            client.wait_closed()
        for ids in (secret, public, [*secret, *public]):
            assert len(set(ids)) == len(ids)
        numbers = []
        for ids in (secret, public):
            raw_ids = [base64.urlsafe_b64decode(each + "=" * (-len(each) % 4)) for each in ids]
            size = min(map(len, raw_ids))
            assert size * 8 >= 96
            numbers.append([int.from_bytes(each[:12], "big") for each in raw_ids])
            for bit in range(96):
                assert 10 < sum(number >> bit & 1 for number in numbers[-1]) < 90, bit
        for bit in range(96):  # independent: their difference is random as well
            both = zip(*numbers, strict=True)
            assert 10 < sum((one ^ other) >> bit & 1 for one, other in both) < 90, bit

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_session_id_is_not_available_to_handlers(self, transport: str, scene: Scene) -> None:
        if transport == "polling":
            client: Any = scene.site.polling()
            client.connect()
            secret = client.sid
        else:
            client = scene.site.connect()
            secret = client.open["sid"]
        found = socket_of(client)
        for text in (repr(found), repr(found.request), repr(found.session), found.session_id):
            assert secret not in text


# -- WebSocket

BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    "unmasked": (frame(TEXT, b'42["a"]', masked=False), 1002),
    **{f"RSV{n}": (frame(TEXT, b'42["a"]', rsv=0x80 >> n), 1002) for n in (1, 2, 3)},
    **{f"opcode {n:x}": (frame(n, b"a"), 1002) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"a long {n:x}": (frame(n, b"\3\xe8" + b"x" * 126), 1002) for n in (CLOSE, PING, PONG)},
    **{f"a fragmented {n:x}": (frame(n, fin=False), 1002) for n in (CLOSE, PING, PONG)},
    "a continuation of nothing": (frame(CONT, b"a"), 1002),
    "text in a text": (frame(TEXT, b"42", fin=False) + frame(TEXT, b"[]"), 1002),
    "bytes in a text": (frame(TEXT, b"42", fin=False) + frame(BINARY, b"[]"), 1002),
    "no UTF-8": (frame(TEXT, b'42["\xff"]'), 1007),
    "no UTF-8 in fragments": (
        frame(TEXT, b'42["\xe2\x82', fin=False) + frame(CONT, b'"]'),
        1007,
    ),
    "a surrogate": (frame(TEXT, b'42["\xed\xa0\x80"]'), 1007),
    "1 GiB declared": (b"\x81\xff" + struct.pack("!Q", 1 << 30) + b"\0\0\0\0", 1009),
    "2^63 declared": (b"\x81\xff" + struct.pack("!Q", 1 << 63) + b"\0\0\0\0", 1009),
    "1 GiB of bytes declared": (b"\x82\xff" + struct.pack("!Q", 1 << 30) + b"\0\0\0\0", 1009),
    "20 fragments of 100 KB": (
        frame(TEXT, b"42" + b"x" * 99_998, fin=False)
        + frame(CONT, b"x" * 100_000, fin=False) * 18
        + frame(CONT, b"x" * 100_000),
        1009,
    ),
    "a million empty fragments": (
        frame(TEXT, b"42", fin=False) + frame(CONT, fin=False) * 1_000_000,
        1009,
    ),
}


class TestWebSocket:
    """Frames that violate RFC 6455 or exceed limits."""

    @pytest.mark.parametrize(("data", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES)
    def test_invalid_frame_closes_with_its_code(self, data: bytes, code: int, scene: Scene) -> None:
        client = scene.site.connect()
        client.call("__subscribe__", "room")
        sending = gevent.spawn(self.send, client, data)
        # The most significant bit of a 64-bit length must be 0 (RFC 6455 §5.2).
        assert client.wait_closed() in ({code, 1002} if data[2:3] == b"\x80" else {code})
        sending.kill()
        check_gone(client)
        scene.check_ended(client.id, "parse error")
        assert scene.handled == []

    @staticmethod
    def send(client: raw.WebSocket, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the server may close before reading all
            client.send_raw(data)

    @pytest.mark.parametrize(
        "data",
        [BAD_FRAMES["1 GiB declared"][0] + b"x" * 1000, BAD_FRAMES["a million empty fragments"][0]],
        ids=["1 GiB declared", "a million empty fragments"],
    )
    def test_oversized_message_uses_little_memory(self, data: bytes, scene: Scene) -> None:
        client = scene.site.connect()
        tracemalloc.start()
        try:
            sending = gevent.spawn(self.send, client, data)
            assert client.wait_closed() == 1009
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        sending.kill()
        assert peak < 2_000_000
        scene.check_ended(client.id, "parse error")

    def test_closed_websocket_is_released_while_the_client_keeps_its_side_open(
        self, scene: Scene
    ) -> None:
        client = scene.site.connect()
        client.send("4abc")
        assert client.wait_closed() == 1002
        eventually(
            lambda: resource_counts(scene.site)["descriptors"] == scene.before["descriptors"] + 1
        )
        assert scene.endings[-1] == (client.id, "finish", "parse error")

    def test_reset_handshake_leaves_nothing_behind(self, scene: Scene) -> None:
        target = "/socket.io/?EIO=4&transport=websocket"
        for headers in (HANDSHAKE[:-1], [h.replace("13", "12") for h in HANDSHAKE], HANDSHAKE):
            http = scene.http()
            http.send("GET", target, *headers, body=b"junk")
            http.sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, RESET)
            http.sock.close()
        scene.check_released()
        assert scene.endings == []

    def test_pings_without_reading_pongs_use_limited_memory(self, scene: Scene) -> None:
        """Pongs are limited by the kernel's buffer and ``SOCKETIO_OUTBOX_BYTES``."""
        client = scene.site.connect()
        found = socket_of(client)
        session = found._connection.session
        most = 0

        def look() -> None:
            nonlocal most
            while True:
                most = max(most, session.transport.unsent())
                gevent.sleep(0)

        looking = gevent.spawn(look)
        pings = frame(PING, b"x" * 125) * 1000
        sending = gevent.spawn(lambda: [self.send(client, pings) for _ in range(100)])
        eventually(lambda: sending.ready() or not session.open)
        looking.kill()
        sending.kill()
        # Above the limit by at most one read.
        assert most <= scene.site.server.settings.outbox_bytes + 65_536
        client.sock.close()
        scene.endings.wait(lambda endings: len(endings) == 2)
        assert {reason for _, _, reason in scene.endings} <= {"slow reader", "transport close"}

    def test_20_mb_to_a_slow_reader_arrive_intact(self, serve: Callable[..., Site]) -> None:
        scene = Scene(serve, outbox_bytes=32 << 20)
        client = scene.site.connect()
        found = socket_of(client)
        sent = [f"{number}:" + chr(97 + number) * 1_000_000 for number in range(20)]
        for message in sent:
            found.send(message)
        client.send_raw(frame(PING, b"in the middle"))
        found.send("short")
        for message in [*sent, "short"]:
            assert client.event() == ["message", message]
            gevent.sleep(0)
        assert client.call("here") == []


# -- Socket.IO


def placeholder(number: str) -> str:
    return f'{{"_placeholder":true,"num":{number}}}'


#: Messages of a connected client, in order; bytes are attachments.
BAD_PACKETS: dict[str, list[str | bytes]] = {
    "a placeholder beyond the attachments": [f'451-["e",{placeholder("1")}]', b"x"],
    "a negative placeholder": [f'451-["e",{placeholder("-1")}]', b"x"],
    "a placeholder that is no integer": [f'451-["e",{placeholder("0.5")}]', b"x"],
    "a placeholder that is text": [f'451-["e",{placeholder(chr(34) + "0" + chr(34))}]', b"x"],
    "a placeholder that is true": [f'452-["e",{placeholder("0")},{placeholder("true")}]', b"", b""],
    "the same placeholder twice": [
        f'452-["e",{placeholder("0")},{placeholder("0")}]',
        b"x",
        b"y",
    ],
    "an attachment with no place": ['451-["e"]', b"x"],
    "11 attachments": ["4511-" + json.dumps(["e"] * 12)],
    "text among attachments": [f'451-["e",{placeholder("0")}]', '42["late"]'],
    "an attachment of nothing": [b"x"],
    "an event named true": ["42[true]"],
    "a reserved name with half a surrogate behind": ['42["connect",{"a":"\\ud800"}]'],
    "an event named null": ["42[null]"],
    "an event named by a list": ['42[["e"]]'],
    "an event without a name": ["42[]"],
    **{
        f"an event named {name}": [f'42["{name}"]']
        for name in (
            *("connect", "connect_error", "disconnect", "disconnecting"),
            *("newListener", "removeListener"),
        )
    },
    "a reserved name in a binary event": [f'451-["disconnect",{placeholder("0")}]'],
    "abc": ["4abc"],
    "an object for an event": ["42{}"],
    "half a list": ['42["a"'],
    "nothing": ["42"],
    "a binary event of nothing": ["45"],
    "an unknown type": ["47[]"],
    "an empty message": ["4"],
    "a second CONNECT": ["40"],
    "the server's CONNECT_ERROR": ['44{"message":"x"}'],
    "an acknowledgement without a number": ["43[1]"],
    "NaN": ['42["e",NaN]'],
    "Infinity": ['42["e",-Infinity]'],
    "half a surrogate in malformed JSON": ['42["e","\\ud800",]'],
    "100,000 brackets": ['42["e",' + "[" * 100_000],
    "1,000 levels of malformed JSON": ['42["e",' + "[" * 1000 + "nonsense" + "]" * 1000 + "]"],
}

#: Arguments of an event that exceed a content limit.
LARGE_ARGUMENTS: dict[str, str] = {
    "1e400": "1e400",
    "-1e400": "-1e400",
    "an integer of 5,000 digits": "9" * 5000,
    "128 levels": "[" * 128 + "]" * 128,
    "1,000 levels": "[" * 1000 + "]" * 1000,
    "100,000 brackets that close": "[" * 100_000 + "]" * 100_000,
    "100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "brackets in strings beside the levels": "[" * 2000 + r'"[\\"' + "]" * 2000,
    "half a surrogate beside the levels": '"\\ud800",' + "[" * 2000 + "]" * 2000,
}

#: Messages of a client, and the event that Node delivers for them.
DELIVERED: dict[str, tuple[list[str | bytes], list[Any]]] = {
    "a placeholder in a text event": (
        [f'427["e",{placeholder("0")}]'],
        ["e", {"_placeholder": True, "num": 0}],
    ),
    "a placeholder out of range": (
        [f'427["e",{placeholder("99")}]'],
        ["e", {"_placeholder": True, "num": 99}],
    ),
    "a placeholder hidden by an escape": (
        ['427["e",{"\\u005fplaceholder":true,"num":0}]'],
        ["e", {"_placeholder": True, "num": 0}],
    ),
    "an event named 5": (["427[5,1]"], ["5", 1]),
    "an event named -1.50": (["427[-1.50]"], ["-1.5"]),
    "an event named 1e21": (["427[1e21]"], ["1e+21"]),
    "an event named 0.00001": (["427[1e-5]"], ["0.00001"]),
    "an event named -0": (["427[-0.0]"], ["0"]),
    "an integer above 64 bits": (["427[" + '"e",' + "9" * 30 + "]"], ["e", 1e30]),
    "half a surrogate pair": (['427["e","party \\ud83c"]'], ["e", "party \ufffd"]),
    "a low half": (['427["e","\\uDC00 party"]'], ["e", "\ufffd party"]),
    "halves beside a pair": (
        ['427["e","\\ud83c\\ud83c\\udf89\\udf89"]'],
        ["e", "\ufffd\U0001f389\ufffd"],
    ),
    "a backslash before what looks like half a pair": (
        [r'427["e","\\ud83c","\ud83c"]'],
        ["e", r"\ud83c", "\ufffd"],
    ),
    "half a pair in a nested key": (
        ['427["e",{"a":[{"\\udfff":1}]}]'],
        ["e", {"a": [{"\ufffd": 1}]}],
    ),
    "half a pair in the event's name": (['427["e\\ud800"]'], ["e\ufffd"]),
    "half a pair in a binary event": (
        [f'451-7["e","\\ud800",{placeholder("0")}]', b"x"],
        ["e", "\ufffd", b"x"],
    ),
}


def over_websocket(site: Site, packets: list[str | bytes]) -> str:
    """Send invalid packets over a WebSocket, and return the public id of the closed client."""
    client = site.connect()
    client.call("__subscribe__", "room")
    for packet in packets:
        client.send(packet)
    assert client.wait_closed() == 1002
    check_gone(client)
    return client.id


def over_polling(site: Site, packets: list[str | bytes]) -> str:
    """Send invalid packets in one POST, and return the public id of the closed client."""
    client = site.polling()
    client.connect()
    client.send('420["__subscribe__","room"]')
    assert client.poll() == ['430[{"ok":true}]']
    texts = [
        packet if isinstance(packet, str) else "b" + base64.b64encode(packet).decode()
        for packet in packets
    ]
    assert client.send(*texts)[0] == 400
    assert client.request("GET")[0] == 400
    return client.id


class TestSocketIO:
    """Packets that violate the protocol: only the session of their sender is closed."""

    @pytest.mark.parametrize("send", [over_websocket, over_polling])
    @pytest.mark.parametrize("packets", BAD_PACKETS.values(), ids=BAD_PACKETS)
    def test_invalid_packet_closes_the_session_without_calling_handlers(
        self, packets: list[str | bytes], send: Callable[[Site, Any], str], scene: Scene
    ) -> None:
        session_id = send(scene.site, packets)
        scene.check_ended(session_id, "parse error")
        assert scene.handled == []
        (failed,) = scene.errors
        assert failed[0] == session_id
        broadcast("to the others")
        assert scene.bystander.event() == ["message", "to the others"]

    @pytest.mark.parametrize(("packets", "event"), DELIVERED.values(), ids=DELIVERED)
    def test_event_accepted_by_node_is_delivered(
        self, packets: list[str | bytes], event: list[Any], scene: Scene
    ) -> None:
        client = scene.site.connect()
        for packet in packets:
            client.send(packet)
        scene.handled.wait_for(event)
        assert str(client.receive()).startswith(("437", "461-7"))
        assert [scene.errors, scene.endings] == [[], []]

    def test_event_with_half_a_surrogate_pair_is_delivered_over_polling(self, scene: Scene) -> None:
        client = scene.site.polling()
        client.connect()
        assert client.send('42["e","\\ud83c"]', '42["next"]')[0] == 200
        scene.handled.wait_for(["next"])
        assert scene.handled == [["e", "\ufffd"], ["next"]]

    @pytest.mark.parametrize("argument", LARGE_ARGUMENTS.values(), ids=LARGE_ARGUMENTS)
    def test_event_beyond_a_content_limit_is_dropped(self, argument: str, scene: Scene) -> None:
        client = scene.site.connect()
        client.emit("before")
        client.send(f'427["e",{argument}]')
        client.emit("after", 1, ack=8)
        answer = str(client.receive())
        assert answer.startswith('437[{"error":"'), "the acknowledgement has the reason"
        assert client.receive() == "438[1]"
        assert scene.handled == [["before"], ["after", 1]]
        ((session_id, error),) = scene.errors
        assert session_id == client.id
        assert isinstance(error, ContentError)
        assert str(error) in answer
        assert scene.endings == []

    def test_event_beyond_a_content_limit_is_reported_as_client_error(self, scene: Scene) -> None:
        with recording([signals.error]) as records:
            client = scene.site.connect()
            client.send(f'42["e",{LARGE_ARGUMENTS["1,000 levels"]}]')
            client.call("here")
        assert [record.keywords["by_client"] for record in records] == [True]

    def test_binary_event_beyond_a_limit_is_dropped_with_its_attachments(
        self, scene: Scene
    ) -> None:
        client = scene.site.connect()
        deep = LARGE_ARGUMENTS["1,000 levels"]
        client.send(f'452-7["e",{deep},{placeholder("0")},{placeholder("1")}]')
        client.send(b"x")
        client.send(b"y")
        assert str(client.receive()).startswith('437[{"error":')
        client.send('452-8["e",' + "[]," * 20_000 + f"{placeholder('0')},{placeholder('1')}]")
        client.send(b"x")
        client.send(b"y")
        assert str(client.receive()).startswith('438[{"error":')
        assert client.call("here", 1) == [1]
        assert scene.handled == []

    def test_acknowledgement_beyond_a_content_limit_raises_in_call(self, scene: Scene) -> None:
        client = scene.site.connect()
        call = gevent.util.wrap_errors(ContentError, socket_of(client).call)
        waiting = gevent.spawn(call, "question")
        assert client.receive() == '420["question"]'
        client.send(f"430[{LARGE_ARGUMENTS['1,000 levels']}]")
        assert isinstance(waiting.get(), ContentError)
        assert client.call("here", 1) == [1]

    def test_auth_beyond_a_content_limit_rejects_the_connection(
        self, serve: Callable[..., Site]
    ) -> None:
        client = serve(namespaces=["/", "/other"]).connect()
        deep = LARGE_ARGUMENTS["1,000 levels"]
        client.send(f'40/other,{{"a":{deep}}}')
        assert str(client.receive()).startswith('44/other,{"message":"nested')
        client.connect(namespace="/other,")

    def test_auth_with_half_a_surrogate_pair_connects(self, scene: Scene) -> None:
        client = scene.site.websocket()
        client.connect('{"name":"\\ud83c"}')
        assert socket_of(client).auth == {"name": "\ufffd"}

    def test_channel_name_with_half_a_surrogate_pair_is_rejected(self, scene: Scene) -> None:
        client = scene.site.connect()
        client.send('427["__subscribe__","room-\\ud83c"]')
        answer = json.loads(str(client.receive())[3:])[0]
        assert answer["ok"] is False
        assert "surrogate" in answer["error"]
        assert socket_of(client).channels == ()

    @pytest.mark.parametrize(
        "packet",
        [
            '42["e"]',
            '42/,["e"]',
            f'451-["e",{placeholder("0")}]',
            f"461-0[{placeholder('0')}]",
            "430[]",
            "41",
            "44",
            "4abc",
            b"attachment",
        ],
        ids=repr,
    )
    def test_packet_before_connect_closes_the_session(
        self, packet: str | bytes, scene: Scene
    ) -> None:
        client = scene.site.websocket()
        client.send(packet)
        assert client.wait_closed() == 1002
        check_gone(client)
        scene.check_released()
        assert (scene.handled, scene.errors, scene.endings) == ([], [], [])

    def test_missing_attachments_close_the_session(self, serve: Callable[..., Site]) -> None:
        scene = Scene(serve, ping_interval=0.05, ping_timeout=2.0)
        answering = gevent.spawn(self.answer_pings, scene.bystander)
        client = scene.site.connect()
        client.send(f'452-["e",{placeholder("0")},{placeholder("1")}]')
        client.send(b"x" * 100_000)
        assert client.wait_closed() == 1002, "though it answers every ping"
        scene.endings.wait_for((client.id, "finish", "parse error"))
        assert scene.handled == []
        eventually(lambda: resource_counts(scene.site)["deadlines"] <= scene.before["deadlines"])
        answering.kill()

    @staticmethod
    def answer_pings(client: raw.WebSocket) -> None:
        with contextlib.suppress(raw.Closed, OSError):
            while True:
                client.receive()

    def test_invalid_packets_leave_no_objects_behind(self, scene: Scene) -> None:
        """No object of a connection, greenlet, timer or descriptor remains."""
        kinds = ("Session", "Socket", "Connection", "Multiplexer", "WebSocket", "TCPStream")

        def alive() -> dict[str, int]:
            gc.collect()
            names = [type(each).__name__ for each in gc.get_objects() if in_package(each)]
            return {kind: names.count(kind) for kind in kinds}

        def in_package(each: Any) -> bool:
            return str(type(each).__module__).startswith("webpy_socketio")

        over_websocket(scene.site, ["4abc"])
        over_polling(scene.site, ["4abc"])
        scene.endings.wait(lambda endings: len(endings) == 4)
        scene.check_released()
        scene.errors.clear()  # tracebacks keep references to the connection
        before, objects = counts(scene.site.server), alive()
        for packets in BAD_PACKETS.values():
            for send in (over_websocket, over_polling):
                send(scene.site, packets)
        scene.endings.wait(lambda endings: len(endings) == 4 + 4 * len(BAD_PACKETS))
        scene.check_released()
        scene.errors.clear()
        after = counts(scene.site.server)
        assert after["watchers"] <= before["watchers"] + 3, "shared timers may remain"
        for name in ("sessions", "sockets", "channels", "greenlets", "descriptors"):
            assert after[name] <= before[name], name
        assert alive() == objects

    @pytest.mark.parametrize(
        "value",
        [
            "[" * 450_000,
            "[" * 450_000 + "]" * 450_000,
            "[" + "[]," * 300_000 + "[]]",
            "[" + "{}," * 300_000 + "{}]",
            '{"a":' * 150_000 + "1" + "}" * 150_000,
            "9" * 900_000,
            "1e" + "9" * 900_000,
            '"' + "\\ud83d\\ude00" * 75_000 + '"',
            '"' + "_placeholder" * 70_000 + '\\u0041"',
            "[" + '{"_placeholder":1},' * 45_000 + "1]",
        ],
        ids=lambda value: value[:24],
    )
    def test_json_of_a_megabyte_does_not_block(self, value: str, scene: Scene) -> None:
        """The limit of this test is several times the measured duration."""
        client = scene.site.connect()
        with measure_blocking() as longest, contextlib.suppress(raw.Closed, OSError):
            client.send(f'427["e",{value}]')
            client.receive()
        assert longest() < 1.0
        scene.check_others_are_served()

    def test_unexpected_acknowledgements_are_ignored(self, scene: Scene) -> None:
        client = scene.site.connect()
        waiting = gevent.spawn(socket_of(client).call, "question")
        assert client.receive() == '420["question"]'
        connection = socket_of(client)._connection
        total = scaled(100_000, 10_000)
        packets = [frame(TEXT, b"43%d[1]" % number) for number in range(1, total + 1)]
        client.send_raw(b"".join(packets))
        assert client.call("here", 1) == [1]
        assert list(connection._acks or ()) == [0]
        for answer in ('430["first"]', '430["second"]'):
            client.send(answer)
        assert waiting.get() == "first"
        assert client.call("here", 2) == [2]
        assert not connection._acks
        assert scene.endings == []

    def test_pending_acknowledgements_are_released_with_the_client(self, scene: Scene) -> None:
        client = scene.site.connect()
        found = socket_of(client)
        before = counts(scene.site.server)
        waiting = [gevent.spawn(self.call, found) for _ in range(2000)]
        for _ in waiting:
            client.receive()
        assert len(found._connection._acks or ()) == 2000
        client.vanish()
        assert [each.get() for each in waiting] == [Disconnected] * 2000
        assert not found._connection._acks
        waiting.clear()
        after = counts(scene.site.server)
        assert after["greenlets"] <= before["greenlets"]
        assert after["watchers"] <= before["watchers"]

    @staticmethod
    def call(socket: Any) -> type[BaseException] | None:
        try:
            socket.call("question", timeout=3600)
        except Disconnected as error:
            return type(error)
        return None


# -- origins


class TestOrigins:
    """Requests from other origins are rejected on both transports."""

    FOREIGN = (
        "http://evil.example",
        "null",
        "http://127.0.0.1:{port}.evil.example",
        "http://evil-127.0.0.1:{port}",
        "http://127.0.0.1:{port}0",
        "http://127.0.0.1",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:{port}@evil.example",
        "http://127.0.0.1:{port}/",
        "",
    )

    @pytest.fixture
    def scene(self, serve: Callable[..., Site], stages: Journal) -> Scene:
        scene = Scene(serve)
        stages.clear()
        return scene

    def handshake_responses(self, scene: Scene, *headers: str) -> list[tuple[int, Any]]:
        """Return status and headers of a handshake with these headers, for both transports."""
        found = []
        for target, more in (
            (ENGINE, ()),
            ("/socket.io/?EIO=4&transport=websocket", HANDSHAKE),
        ):
            http = scene.http()
            http.send("GET", target, *more, *headers)
            status, answer, _ = http.response()
            found.append((status, answer))
        return found

    @pytest.mark.parametrize("origin", FOREIGN)
    def test_foreign_origin_is_rejected_before_any_signal(
        self, origin: str, scene: Scene, stages: Journal
    ) -> None:
        for status, answer in self.handshake_responses(
            scene, f"Origin: {origin.format(port=scene.site.port)}"
        ):
            assert status == 403
            assert not [name for name in answer if name.lower().startswith("access-control")]
        assert stages == []
        scene.check_released()

    def test_same_origin_or_no_origin_may_connect(self, scene: Scene) -> None:
        own = f"http://127.0.0.1:{scene.site.port}"
        for headers in ({}, {"Origin": own}):
            client = scene.site.connect(**headers)
            assert client.call("here", 1) == [1]
            polling = scene.site.polling(**headers)
            polling.connect()

    @pytest.mark.parametrize("allowed", [["http://app.example"], ["*"]], ids=["named", "any"])
    def test_cors_headers_contain_the_origin_and_no_wildcard(
        self, allowed: list[str], serve: Callable[..., Site]
    ) -> None:
        scene = Scene(serve, allowed_origins=allowed)
        status, answer, _ = scene.http().request("GET", ENGINE, "Origin: http://app.example")
        assert status == 200
        assert answer["Access-Control-Allow-Origin"] == "http://app.example"
        assert answer["Access-Control-Allow-Credentials"] == "true"
        for status, answer in self.handshake_responses(scene, "Origin: http://app.example/path"):
            assert status == 403
            assert answer["Access-Control-Allow-Origin"] is None
        status, answer, _ = scene.http().request("GET", ENGINE, "Origin: null")
        assert (status, answer["Access-Control-Allow-Origin"]) == (
            (403, None) if allowed != ["*"] else (200, "null")
        )

    @pytest.mark.parametrize("trusted", [[], ["127.0.0.1"], ["192.0.2.1"]], ids=str)
    def test_forwarded_host_counts_for_a_trusted_proxy_only(
        self, trusted: list[str], serve: Callable[..., Site]
    ) -> None:
        scene = Scene(serve, trusted_proxies=trusted)
        status, _, _ = scene.http().request(
            "GET",
            ENGINE,
            "Origin: https://shop.example",
            "X-Forwarded-Host: shop.example",
            "X-Forwarded-Proto: https",
        )
        assert status == (200 if "127.0.0.1" in trusted else 403)


# -- handlers


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("__str__ failed")

    __repr__ = __str__


class TestHandlers:
    """Exceptions of handlers cause one error each; other handlers run, the connection stays."""

    @pytest.mark.parametrize(
        "make",
        [ValueError, gevent.GreenletExit, lambda: gevent.Timeout(1), RecursionError, Unprintable],
        ids=["Exception", "GreenletExit", "gevent.Timeout", "RecursionError", "no __str__"],
    )
    def test_failing_handler_leaves_nothing_behind(
        self, make: Callable[[], BaseException], scene: Scene
    ) -> None:
        reported: list[type[BaseException]] = []

        @on_message
        def bad(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise make()

        @on_error
        def failed(request: Any, socket: Any, context: Any, exception: BaseException) -> None:
            reported.append(type(exception))

        client = scene.site.connect()
        client.call("message", 0)
        before = counts(scene.site.server)
        for number in range(1, 100):
            assert client.call("message", number) == [{"error": "internal error"}]
        assert scene.handled == [["message", number] for number in range(100)]
        assert reported == [type(make())] * 100
        scene.errors.clear()
        after = counts(scene.site.server)
        for name in HELD:
            assert after[name] <= before[name], name
        client.send("41")
        scene.check_ended(client.id, "client namespace disconnect")


# -- the clock


class TestClock:
    @pytest.mark.parametrize("jump", [3600, -3600], ids=["forward", "back"])
    def test_clock_jump_of_an_hour_has_no_effect(
        self, jump: float, serve: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Heartbeats continue, responding clients stay open, and silent ones are closed."""
        scene = Scene(serve, ping_interval=0.1, ping_timeout=2.0)
        answering = gevent.spawn(TestSocketIO.answer_pings, scene.bystander)
        client = scene.site.connect()
        polling = scene.site.polling()
        polling.connect()
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        for _ in range(3):
            assert client.receive(pings=True) == "2"
            client.send("3")
            assert polling.poll() == ["2"]
            polling.send("3")
        assert scene.endings == []
        silent = scene.site.connect()
        keeping = gevent.spawn(TestSocketIO.answer_pings, client)
        scene.endings.wait_for((silent.id, "finish", "ping timeout"))
        # The polling client is silent too, and may have been closed.
        assert {client.id, scene.bystander.id}.isdisjoint(each for each, *_ in scene.endings)
        for each in (answering, keeping):
            each.kill()


# -- stopping


@pytest.mark.time_limit(30)
class TestStopping:
    def test_no_connection_is_accepted_after_the_stop_signal(self, tmp_path: Path) -> None:
        """Not even while handlers of connected clients are still running."""
        server = CountedServer(tmp_path)
        try:
            client = raw.WebSocket(server.port, "/socket.io/")
            client.connect()
            assert client.call("gated") == [True]
            kept = Http(server.port)
            kept.request("GET", ENGINE)
            server.process.popen.send_signal(signal.SIGTERM)
            server.wait_for("WAITING")
            assert client.wait_closed() == 1001
            with pytest.raises(OSError, match="refused"):
                stdlib_socket.create_connection(("127.0.0.1", server.port))
            # A keep-alive connection gets status 503.
            assert kept.request("GET", ENGINE)[0] == 503
            server.open_gate()
            assert server.process.wait() == 0
            assert server.errors == ""
        finally:
            server.process.kill()


@contextlib.contextmanager
def measure_blocking() -> Iterator[Callable[[], float]]:
    """Measure the longest time in seconds for which the event loop is blocked.

    Uses the CPU time of the thread, so that other processes do not affect the result.
    """
    longest = 0.0

    def tick() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            gevent.sleep(0)
            now = time.thread_time()
            longest = max(longest, now - last)
            last = now

    ticking = gevent.spawn(tick)
    gevent.sleep(0)
    try:
        yield lambda: longest
    finally:
        ticking.kill()
