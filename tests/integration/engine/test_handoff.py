"""Hand-off of connections between the workers that share an address.

Each worker has its own port here, so that a test chooses which worker accepts a connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.socket
import pytest

from tests import raw
from tests.engines import Http, Recorder, Running, eventually, trust_all
from tests.load_clients import frame
from tests.servers import Process
from webpy_socketio.engine import Engine, PeerWorkers
from webpy_socketio.engine.http.server import take_over_all
from webpy_socketio.engine.workers import handoff as handoff_module
from webpy_socketio.engine.workers.handoff import HandedConnection, _withdraw_offer

QUERY = "/engine.io/?EIO=4&transport=polling"
UNKNOWN = b'{"code":1,"message":"Session ID unknown"}'

Start = Callable[..., Running]


class Page:
    """An application that returns the name of its worker, after `gate` if it is set."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.gate: gevent.event.Event | None = None
        self.called = gevent.event.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/engine.io/":
            return take_over_all("/engine.io/")(environ, start_response)
        self.called.set()
        if self.gate is not None:
            self.gate.wait()
        body = json.dumps([self.name, environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]]).encode()
        body += environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Its path is short enough for a Unix socket.
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def start(run: Callable[..., Running], folder: Path) -> Start:
    """Start a worker: ``start(name)``."""

    def start(name: int, timeout: float = 5.0, pywsgi: Any = None, **config: Any) -> Running:
        peers = PeerWorkers(folder, name, timeout)
        return run(
            Recorder(echo=True),
            Page(name),
            pywsgi={"peers": peers, **(pywsgi or {})},
            **config,
        )

    return start


@pytest.fixture
def one(start: Start) -> Running:
    return start(1)


@pytest.fixture
def two(start: Start) -> Running:
    return start(2)


def worker_of(http: Http) -> Any:
    """Return the worker that serves a page on this connection."""
    status, _, body = http.request("GET", "/page")
    assert status == 200
    return json.loads(body)[0]


def post(http: Http, sid: str, body: bytes) -> tuple[int, bytes]:
    http.send("POST", f"{QUERY}&sid={sid}", f"Content-Length: {len(body)}", body=body)
    status, _, answer = http.response()
    return status, answer


def poll(http: Http, sid: str) -> tuple[int, bytes]:
    status, _, body = http.request("GET", f"{QUERY}&sid={sid}")
    return status, body


def watched() -> set[int]:
    """Return the descriptors in the epoll set of the loop, by their original numbers."""
    text = Path(f"/proc/self/fdinfo/{gevent.get_hub().loop.fileno()}").read_text()
    return {int(line.split()[1]) for line in text.splitlines() if line.startswith("tfd:")}


class TestSessionOwner:
    def test_session_id_has_the_worker_prefix_and_144_random_bits(self, two: Running) -> None:
        sids = {two.polling().sid for _ in range(20)}
        assert {sid[:2] for sid in sids} == {"2."}
        assert {len(sid) for sid in sids} == {2 + 24}  # 144 bits
        assert len({sid[2:8] for sid in sids}) == 20

    def test_requests_for_a_peers_session_are_handed_off(self, one: Running, two: Running) -> None:
        sid = two.polling().sid
        for number in range(5):  # each accepted by one
            assert post(one.http(), sid, b"4%d" % number) == (200, b"ok")
            assert poll(one.http(), sid) == (200, b"4%d" % number)
        assert len(two.receiver.messages) == 5
        assert one.receiver == []

    def test_handed_off_connection_stays_with_the_peer(self, one: Running, two: Running) -> None:
        """Pages are served by the worker of the connection, sessions by their owner only."""
        mine, theirs, http = one.polling().sid, two.polling().sid, one.http()
        assert worker_of(http) == 1
        for _ in range(3):
            assert post(http, theirs, b"4to two") == (200, b"ok")
            assert worker_of(http) == 2
            assert poll(http, theirs) == (200, b"4to two")
            assert post(http, mine, b"4to one") == (200, b"ok")
            assert worker_of(http) == 1
            assert poll(http, mine) == (200, b"4to one")

    def test_hand_off_includes_the_client_address(self, one: Running, two: Running) -> None:
        http = one.http()
        assert poll(http, "2.unknown")[0] == 400
        assert json.loads(http.request("GET", "/page")[2]) == [2, "127.0.0.1", "http"]

    @pytest.mark.parametrize("bound", [None, "\0of-a-proxy"], ids=["unnamed", "abstract"])
    def test_connection_on_a_unix_socket_is_handed_off(
        self, bound: str | None, start: Start, two: Running, tmp_path: Path
    ) -> None:
        with contextlib.closing(gevent.socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(str(tmp_path / "chat.sock"))
            listener.listen(10)
            start(1, listener=listener)
            http = Http.__new__(Http)
            http.port, http.sock = 0, socket.socket(socket.AF_UNIX)
            raw.OPENED.append(http.sock)
            if bound is not None:
                http.sock.bind(bound)
            http.sock.connect(str(tmp_path / "chat.sock"))
            assert post(http, two.polling().sid, b"4x") == (200, b"ok")
            assert json.loads(http.request("GET", "/page")[2]) == [2, "unix", "http"]

    def test_new_session_opens_in_the_accepting_worker(self, one: Running, two: Running) -> None:
        http = one.http()
        assert post(http, two.polling().sid, b"4x") == (200, b"ok")
        assert json.loads(http.request("GET", QUERY)[2][1:])["sid"].startswith("2.")

    def test_hand_off_includes_pipelined_requests(self, one: Running, two: Running) -> None:
        """The bytes read so far may include the next request."""
        mine, theirs, http = one.polling().sid, two.polling().sid, one.http()
        requests = b""
        for sid, body in ((theirs, b"4a"), (mine, b"4b"), (theirs, b"4c" * 9000), (mine, b"4d")):
            requests += f"POST {QUERY}&sid={sid} HTTP/1.1\r\nHost: a\r\n".encode()
            requests += b"Content-Length: %d\r\n\r\n" % len(body) + body
        http.sock.sendall(requests + b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
        # One file for all responses: a separate one could read into the next response.
        responses = http.sock.makefile("rb")
        heads = []
        for _ in range(5):
            heads.append(responses.readline())
            size = 0
            while (line := responses.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            last = responses.read(size)
        responses.close()
        assert heads == [b"HTTP/1.1 200 OK\r\n"] * 5
        assert json.loads(last)[0] == 1
        assert two.receiver.messages == ["a", "c" + "4c" * 8999]
        assert one.receiver.messages == ["b", "d"]

    @pytest.mark.parametrize("first", [0, 1, 9000])
    def test_hand_off_includes_a_partially_read_body(
        self, one: Running, two: Running, first: int
    ) -> None:
        sid, http, body = two.polling().sid, one.http(), b"4" + bytes(range(97, 123)) * 1000
        http.send("POST", f"{QUERY}&sid={sid}", f"Content-Length: {len(body)}", body=body[:first])
        eventually(lambda: two.session.transport.arriving)
        http.sock.sendall(body[first:])
        assert http.response()[0] == 200
        assert two.receiver.messages == [body[1:].decode()]

    def test_hand_off_with_chunked_body_and_with_100_continue(
        self, one: Running, two: Running
    ) -> None:
        sid, http = two.polling().sid, one.http()
        target = f"{QUERY}&sid={sid}"
        http.send("POST", target, "Transfer-Encoding: chunked", body=b"2\r\n4a\r\n0\r\n\r\n")
        assert http.response()[0] == 200
        http = one.http()
        http.send("POST", target, "Content-Length: 2", "Expect: 100-continue")
        assert http.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        http.sock.sendall(b"4b")
        assert http.response()[0] == 200
        assert two.receiver.messages == ["a", "b"]

    def test_hand_off_includes_a_head_larger_than_the_buffer(
        self, one: Running, two: Running
    ) -> None:
        sid, http = two.polling().sid, one.http()
        headers = [f"X-{number}: {'x' * 600}" for number in range(90)]
        http.send("POST", f"{QUERY}&sid={sid}", "Content-Length: 2", *headers, body=b"4a")
        assert http.response()[0] == 200
        assert two.receiver.messages == ["a"]

    def test_invalid_request_is_rejected_by_either_worker(self, one: Running, two: Running) -> None:
        sid = two.polling().sid
        assert one.http().request("PUT", f"{QUERY}&sid={sid}")[0] == 400
        http = one.http()
        http.send("POST", f"{QUERY}&sid={sid}", "Content-Length: 1000001")
        assert http.response()[0] == 413
        assert two.receiver.wait_closed() == "parse error"
        assert http.read_to_end() == b""

    def test_upgrade_of_a_peers_session_is_handed_off(self, one: Running, two: Running) -> None:
        polling = two.polling()
        websocket = one.websocket(f"&sid={polling.sid}")
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        websocket.send("5")
        websocket.send("4over there")
        assert websocket.receive() == "4over there"
        assert two.session.transport.name == "websocket"
        assert one.engine.sessions == {}

    def test_hand_off_includes_a_frame_after_the_upgrade(self, one: Running, two: Running) -> None:
        sid, http = two.polling().sid, one.http()
        http.send(
            *("GET", f"/engine.io/?EIO=4&transport=websocket&sid={sid}"),
            *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
            body=frame(b"2probe"),
        )
        answer = b""
        while not answer.endswith(b"\x81\x063probe"):
            answer += http.sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 101 ")

    def test_waiting_get_ends_with_its_handed_off_connection(
        self, one: Running, two: Running
    ) -> None:
        sid, http = two.polling().sid, one.http()
        http.send("GET", f"{QUERY}&sid={sid}")
        eventually(lambda: two.session.transport.waiting)
        http.sock.close()
        assert two.receiver.wait_closed() == "transport close"

    def test_concurrent_sessions_are_handed_off(self, one: Running, two: Running) -> None:
        sids = [two.polling().sid for _ in range(200)]

        def talk(sid: str) -> None:
            http = one.http()
            assert post(http, sid, b"4" + sid.encode()) == (200, b"ok")
            assert poll(http, sid) == (200, b"4" + sid.encode())
            http.sock.close()

        gevent.joinall([gevent.spawn(talk, sid) for sid in sids], raise_error=True)
        assert sorted(two.receiver.messages) == sorted(sids)
        assert one.server.peers._semaphores == {}

    def test_handed_off_descriptor_is_removed_from_epoll(
        self, one: Running, tmp_path: Path
    ) -> None:
        """epoll watches the open connection, which continues to exist in the other process."""
        program = (
            "from gevent import monkey; monkey.patch_all()\n"
            "import sys\n"
            "from webpy_socketio.engine import *\n"
            "class Silent:\n"
            "    def opened(self, session): return self\n"
            "    def message(self, data): ...\n"
            "    def closed(self, reason): ...\n"
            "engine = Engine(Silent(), EngineConfig())\n"
            "peers = PeerWorkers(sys.argv[1], 3)\n"
            "server = EngineServer(('127.0.0.1', 0), engine, peers=peers, log=None)\n"
            "server.start()\n"
            "sys.stdout.write(f'{server.server_port}\\n'); sys.stdout.flush()\n"
            "server.serve_forever()\n"
        )
        folder = one.server.peers.folder
        command = [sys.executable, "-c", program, str(folder)]
        process = Process(command, tmp_path / "log", fork=True)
        try:
            sid = raw.Polling(int(process.next_line()), "/engine.io/").sid
            http = one.http()
            assert worker_of(http) == 1
            eventually(lambda: one.server.idle_handlers)
            (handler,) = one.server.idle_handlers
            descriptor = handler.socket.fileno()
            eventually(lambda: descriptor in watched())
            assert post(http, sid, b"4x") == (200, b"ok")
            # The response may arrive before the confirmation of the hand-off.
            eventually(lambda: descriptor not in watched())
        finally:
            process.kill()


class TestUnavailableWorker:
    """The client gets "Session ID unknown" and starts a new session."""

    def test_session_of_a_missing_worker_is_unknown(self, one: Running) -> None:
        assert poll(one.http(), "7.AAAA") == (400, UNKNOWN)
        assert post(one.http(), "7.AAAA", b"4x")[0] == 400
        assert one.websocket("&sid=7.AAAA").status == 400

    def test_session_unknown_to_its_worker_is_unknown(self, one: Running, two: Running) -> None:
        assert poll(one.http(), "2.AAAA") == (400, UNKNOWN)
        assert poll(one.http(), "1.AAAA") == (400, UNKNOWN)

    def test_session_of_a_killed_worker_is_unknown(self, one: Running, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / "7"))
        os.utime(folder / "7", (0, 0))  # a newer socket may not be listening yet
        assert poll(one.http(), "7.AAAA") == (400, UNKNOWN)
        assert not (folder / "7").exists(), "the stale socket is removed"

    def test_hand_off_to_a_blocked_worker_times_out_and_is_withdrawn(
        self, start: Start, folder: Path
    ) -> None:
        """When the worker continues, it does not own the connection."""
        one = start(1, timeout=0.1)
        with socket.socket(socket.AF_UNIX) as blocked:
            blocked.bind(str(folder / "7"))
            blocked.listen(100)
            http = one.http()
            assert poll(http, "7.AAAA") == (400, UNKNOWN)
            received: list[HandedConnection] = []
            continued = PeerWorkers(folder, 8)
            link, _ = blocked.accept()
            with link:
                continued._receive(link, received.append)
            assert received == []
            assert worker_of(http) == 1, "the connection stays with the sender"

    def test_hand_off_to_a_blocked_worker_with_full_backlog_times_out(
        self, start: Start, folder: Path
    ) -> None:
        one = start(1, timeout=0.2)
        with socket.socket(socket.AF_UNIX) as blocked:
            blocked.bind(str(folder / "7"))
            blocked.listen(0)
            gets = [gevent.spawn(poll, one.http(), "7.AAAA") for _ in range(200)]
            gevent.joinall(gets, raise_error=True)
        assert {get.value for get in gets} == {(400, UNKNOWN)}
        assert one.server.peers._semaphores == {}

    def test_withdraw_offer_after_late_confirmation_returns_true(self) -> None:
        """The confirmation has arrived already, or cannot be sent after the withdrawal."""
        link, late = gevent.socket.socketpair()
        with link, late:
            late.sendall(b"\1")
            assert _withdraw_offer(link) is True
        link, late = gevent.socket.socketpair()
        with link, late:
            assert _withdraw_offer(link) is False
            with pytest.raises(BrokenPipeError):
                late.sendall(b"\1")

    def test_hand_off_confirmed_at_the_timeout_succeeds(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A confirmation that arrives with the timeout counts."""
        sender = PeerWorkers(folder, 1, timeout=0.05)
        before: Any = handoff_module._withdraw_offer

        def confirmed_late(link: Any) -> bool:
            receiver_link, _ = late.accept()
            with receiver_link:
                receiver_link.sendall(b"\1")
                return bool(before(link))

        monkeypatch.setattr(handoff_module, "_withdraw_offer", confirmed_late)
        with socket.socket(socket.AF_UNIX) as late, socket.socket() as sock:
            late.bind(str(folder / "7"))
            late.listen(1)
            assert sender.send_connection(7, sock, ["a", 1], b"") is True

    @pytest.mark.parametrize(
        "sid",
        [
            *("../x.A", "..A", ".A", "1e3.A", "-1.A", "+2.A", "%32.A", "\xb2.A", "0x2.A", "2/.A"),
            *("9" * 300, "9999999999.A", "2", "2A.A"),
        ],
    )
    def test_forged_worker_name_is_unknown(self, one: Running, two: Running, sid: str) -> None:
        http = one.http()
        http.send("GET", f"{QUERY}&sid={sid}")
        assert http.response()[0] == 400
        http.sock.close()  # so that the worker need not wait for it when it stops
        assert two.receiver == []

    def test_many_forged_worker_names_leave_no_semaphores(self, one: Running) -> None:
        http = one.http()
        for number in range(2, 300):
            assert poll(http, f"{number}.AAAA") == (400, UNKNOWN)
        assert one.server.peers._semaphores == {}


class TestSecurity:
    def test_folder_accessible_to_others_is_rejected(self, folder: Path) -> None:
        folder.chmod(0o750)
        with pytest.raises(ValueError, match="mode 700"):
            PeerWorkers(folder, 1)

    def test_folder_with_too_long_path_is_rejected(self, folder: Path) -> None:
        deep = folder / ("x" * 90)
        deep.mkdir(mode=0o700)
        with pytest.raises(ValueError, match="TMPDIR"):
            PeerWorkers(deep, 1)

    @pytest.mark.skipif(
        os.name != "posix" or os.geteuid() != 0, reason="only root can change its user"
    )
    def test_process_of_another_user_is_rejected(self, folder: Path) -> None:
        """Even if the folder were accessible."""
        peers, received = PeerWorkers(folder, 1), []
        peers.start(received.append)
        # Only within this test: the parent folders of pytest are private too.
        path = Path("/tmp") / f"webpy_socketio-test-{os.getpid()}"
        (folder / "1").rename(path)
        path.chmod(0o777)
        try:
            program = (
                "import os, socket, struct, sys; os.setuid(65534)\n"
                "ours, theirs = socket.socketpair()\n"
                "link = socket.socket(socket.AF_UNIX); link.connect(sys.argv[1])\n"
                "message = struct.pack('!cII', b'G', 2, 0) + b'[]'\n"
                "try:\n"
                "    socket.send_fds(link, [message], [theirs.fileno()])\n"
                "    reply = link.recv(1)\n"
                "except (BrokenPipeError, ConnectionResetError):\n"
                "    reply = b''\n"
                "sys.exit(0 if reply == b'' else 1)\n"
            )
            process = gevent.subprocess.Popen([sys.executable, "-c", program, str(path)])
            assert process.wait() == 0
            assert received == []
        finally:
            path.unlink()
            peers.stop()

    @pytest.mark.parametrize(
        "message",
        [
            *(b"", b"G", b"G\0\0\0\2\0\0\0\0[]", b"R\xff\xff\xff\xff\0\0\0\0"),
            *(b"X\0\0\0\2\0\0\0\0[]", b"R\0\0\0\2\0\0\0\0[!", b"R\0\0\0\2\0\0\0\5[]half"),
        ],
    )
    def test_invalid_offer_is_closed(self, one: Running, folder: Path, message: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(folder / "1"))
            link.sendall(message)
            link.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert link.recv(1) == b""

    def test_descriptor_that_is_not_a_socket_is_closed(self, one: Running, folder: Path) -> None:
        reading, writing = os.pipe()
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(folder / "1"))
            socket.send_fds(link, [b"G\0\0\0\2\0\0\0\0[]"], [writing])
            os.close(writing)
            with contextlib.suppress(ConnectionResetError):
                assert link.recv(1) == b""
        assert os.read(reading, 1) == b"", "no process has the other end open"
        os.close(reading)


class TestTLSRelay:
    """TLS keys cannot be handed off, so bytes are relayed."""

    @pytest.fixture
    def one(self, start: Start, certificate: Path) -> Running:
        return start(1, pywsgi={"certfile": str(certificate), "keyfile": str(certificate)})

    @pytest.fixture
    def two(self, start: Start, certificate: Path) -> Running:
        return start(2, pywsgi={"certfile": str(certificate), "keyfile": str(certificate)})

    @pytest.fixture
    def https(self) -> Iterator[Callable[[Running], Http]]:
        def connect(running: Running) -> Http:
            http = Http(running.port)
            http.sock = trust_all().wrap_socket(http.sock)
            raw.OPENED.append(http.sock)
            return http

        return connect

    def test_relayed_requests_alternate_between_workers(
        self, one: Running, two: Running, https: Callable[[Running], Http]
    ) -> None:
        mine, theirs = self.open(https(one)), self.open(https(two))
        http = https(one)
        assert worker_of(http) == 1
        for _ in range(3):
            assert post(http, theirs, b"4" + b"a" * 100_000) == (200, b"ok")
            assert poll(http, theirs)[1] == b"4" + b"a" * 100_000
            assert json.loads(http.request("GET", "/page")[2]) == [2, "127.0.0.1", "https"]
            assert post(http, mine, b"4to one") == (200, b"ok")
            assert poll(http, mine) == (200, b"4to one")
            assert worker_of(http) == 1

    def test_relayed_websocket_is_closed(
        self, one: Running, two: Running, https: Callable[[Running], Http]
    ) -> None:
        sid, http = self.open(https(two)), https(one)
        http.send(
            *("GET", f"/engine.io/?EIO=4&transport=websocket&sid={sid}"),
            *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
            body=frame(b"2probe"),
        )
        self.until(http, b"\x81\x063probe")
        http.sock.sendall(frame(b"5") + frame(b"4hello"))
        self.until(http, b"\x81\x064hello")
        two.session.close("forced close", 1000)
        self.until(http, b"\x88\x02\x03\xe8")
        assert http.read_to_end() == b""

    def test_disconnect_of_a_relayed_client_closes_its_session(
        self, one: Running, two: Running, https: Callable[[Running], Http]
    ) -> None:
        sid, http = self.open(https(two)), https(one)
        http.send("GET", f"{QUERY}&sid={sid}")
        eventually(lambda: two.session.transport.waiting)
        http.sock.close()
        assert two.receiver.wait_closed() == "transport close"

    @staticmethod
    def open(http: Http) -> str:
        sid: str = json.loads(http.request("GET", QUERY)[2][1:])["sid"]
        return sid

    @staticmethod
    def until(http: Http, end: bytes) -> None:
        data = b""
        while not data.endswith(end):
            piece = http.sock.recv(1000)
            assert piece, data
            data += piece


class TestStop:
    def test_new_requests_of_a_stopping_worker_go_to_a_newer_one(
        self, one: Running, two: Running
    ) -> None:
        """No client is rejected while the sessions of the worker are closed."""
        sid, page, handshake = one.polling().sid, one.http(), one.http()
        own = one.http()
        for http in (page, handshake, own):
            assert worker_of(http) == 1
        one.engine._stopping = True
        assert worker_of(page) == 2
        assert handshake.request("GET", QUERY)[2].startswith(b'0{"sid":"2.')
        assert post(own, sid, b"4still here") == (200, b"ok")
        assert worker_of(own) == 2

    def test_newest_worker_rejects_sessions_while_it_stops(
        self, one: Running, two: Running
    ) -> None:
        http = two.http()
        assert worker_of(http) == 2
        two.engine._stopping = True
        assert http.request("GET", QUERY)[0] == 503

    def test_idle_connections_of_a_stopping_worker_are_handed_off(
        self, one: Running, two: Running
    ) -> None:
        connections = [one.http() for _ in range(20)]
        for http in connections:
            assert worker_of(http) == 1
        one.server.stop()
        assert not one.server.handlers, "no connection would be closed with the process"
        for http in connections:
            assert worker_of(http) == 2

    def test_connections_of_a_stopping_worker_without_a_request_are_handed_off(
        self, one: Running, two: Running
    ) -> None:
        sid = one.polling().sid
        silent, waiting = one.http(), one.http()
        waiting.send("GET", f"{QUERY}&sid={sid}")
        eventually(lambda: one.engine.sessions[sid].transport.waiting)  # type: ignore[attr-defined]
        eventually(lambda: len(one.server.handlers) == 2)
        one.server.stop()
        assert waiting.response()[2] == b"1"
        assert not one.server.handlers
        assert worker_of(silent) == 2
        assert worker_of(waiting) == 2

    def test_stopping_worker_waits_for_a_slow_newer_one(
        self, one: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hand-off in progress is not requested again."""
        http = one.http()
        assert worker_of(http) == 1
        with socket.socket(socket.AF_UNIX) as slow:
            slow.bind(str(folder / "7"))
            slow.listen(10)
            stopping = gevent.spawn(one.server.stop)
            link, _ = slow.accept()
            with link:
                hand_offs = []
                original: Any = one.server._hand_off
                monkeypatch.setattr(
                    one.server,
                    "_hand_off",
                    lambda handler: (hand_offs.append(1), original(handler)),
                )
                gevent.sleep(0.05)  # several iterations of `leave_peers`
                data, descriptors, _, _ = socket.recv_fds(link, 1000, 1)
                link.sendall(b"\1")
            assert data.startswith(b"G")
            assert hand_offs == [], "the handler is not idle"
            stopping.get()
            for descriptor in descriptors:
                socket.socket(fileno=descriptor).close()

    def test_stopping_worker_completes_current_requests(self, one: Running, two: Running) -> None:
        page = one.server.application
        page.gate = gevent.event.Event()
        http = one.http()
        http.send("GET", "/page")
        page.called.wait()
        stopping = gevent.spawn(one.server.stop, 20)
        eventually(lambda: one.engine.stopping)
        page.gate.set()
        assert json.loads(http.response()[2])[0] == 1
        stopping.get()
        assert worker_of(http) == 2

    def test_stopping_server_without_peers_waits_for_pages(
        self, run: Callable[..., Running]
    ) -> None:
        page = Page(0)
        page.gate = gevent.event.Event()
        alone = run(Recorder(), page)
        http = alone.http()
        http.send("GET", "/page")
        page.called.wait()
        stopping = gevent.spawn(alone.server.stop, 20)
        eventually(lambda: alone.engine.stopping)
        gevent.sleep(0)
        assert not stopping.ready()
        page.gate.set()
        assert http.response()[0] == 200
        stopping.get()

    def test_sessions_of_a_stopping_worker_are_reachable_until_it_ends(
        self, one: Running, two: Running
    ) -> None:
        polling = one.polling()
        one.server.close()  # only the other worker accepts connections
        http = two.http()
        assert post(http, polling.sid, b"4late") == (200, b"ok")
        assert poll(http, polling.sid) == (200, b"4late")
        http.send("GET", f"{QUERY}&sid={polling.sid}")
        eventually(lambda: one.session.transport.waiting)
        one.server.stop()
        assert http.response()[2] == b"1"

    def test_closed_listener_is_removed_from_epoll(self, start: Start) -> None:
        """Peers still listen on the socket, and each connection would wake this process."""
        one = start(1)
        descriptor = one.server.socket.fileno()
        copy = os.dup(descriptor)
        eventually(lambda: descriptor in watched())
        one.server.close()
        assert descriptor not in watched()
        os.close(copy)


@pytest.mark.time_limit(40)  # several hundred handshakes
class TestDrain:
    @pytest.fixture
    def many(self, run: Callable[..., Running]) -> Running:
        running = run()
        for _ in range(350):
            running.polling()
        return running

    def test_sessions_are_closed_in_batches(self, many: Running) -> None:
        """Batches of a hundred, in random order, all within the timeout."""
        open_counts: list[int] = []
        order = list(many.engine.sessions)
        closed_ids: list[str] = []
        engine: Engine = many.engine

        class RecordingEvent(gevent.event.Event):  # type: ignore[misc]
            def wait(self, timeout: Any = None) -> Any:
                open_counts.append(sum(session.open for session in engine.sessions.values()))
                assert 0 < timeout < 0.2
                return super().wait(0)

        closing = many.receiver.closed
        many.receiver.closed = lambda session, reason: (
            closed_ids.append(session.id),
            closing(session, reason),
        )
        engine.drain(60, RecordingEvent())
        assert open_counts == [250, 150, 50]
        assert sorted(closed_ids) == sorted(order)
        assert set(closed_ids[:100]) not in (set(order[:100]), set(order[-100:])), "in random order"
        assert set(many.receiver.endings) == {"server shutting down"}

    def test_batches_are_larger_with_a_short_timeout(self, many: Running) -> None:
        waits: list[Any] = []

        class RecordingEvent(gevent.event.Event):  # type: ignore[misc]
            def wait(self, timeout: Any = None) -> Any:
                waits.append(timeout)
                return super().wait(0)

        many.engine.drain(0.2, RecordingEvent())
        assert len(waits) == 1

    def test_forced_drain_leaves_the_rest_to_close(self, many: Running) -> None:
        force = gevent.event.Event()
        force.set()
        many.engine.drain(60, force)
        assert len(many.receiver.endings) == 100
        many.engine.close()
        assert len(many.receiver.endings) == 350

    def test_draining_server_rejects_new_sessions(self, many: Running) -> None:
        http = many.http()
        force = gevent.event.Event()
        draining = gevent.spawn(many.engine.drain, 60, force)
        eventually(lambda: many.engine.stopping)
        assert http.request("GET", QUERY)[0] == 503
        force.set()
        draining.join()
