"""`EngineServer`: stopping, and TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests import raw
from tests.engines import Recorder, Running, eventually, trust_all
from webpy_socketio.engine import Engine, EngineServer

POLLING = "/engine.io/?EIO=4&transport=polling"


class TestStop:
    def test_stopped_server_does_not_listen(self, server: Running) -> None:
        server.server.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))

    def test_stop_notifies_every_client(self, server: Running) -> None:
        polling = server.polling()
        poll = server.start_poll(polling)
        client = server.websocket()
        candidate = server.websocket(f"&sid={polling.sid}")
        eventually(lambda: server.engine.sessions[polling.sid].upgrading)
        server.server.stop()
        assert poll.get() == (200, "1")
        assert client.wait_closed() == 1001
        assert candidate.wait_closed() == 1001
        assert server.receiver.endings == ["server shutting down"] * 2

    def test_stop_answers_waiting_polls_before_it_returns(self, server: Running) -> None:
        polls = [server.start_poll(server.polling()) for _ in range(20)]
        server.server.stop()
        assert server.engine._pending_responses == 0
        assert [poll.get() for poll in polls] == [(200, "1")] * 20

    def test_stop_leaves_no_sessions_and_timers(self, server: Running) -> None:
        server.polling()
        server.websocket()
        server.server.stop()
        assert server.engine.sessions == {}
        engine = server.engine
        for deadlines in (
            engine.upgrades._pending,
            engine._lingering,
            engine._heartbeat._idle,
            engine._heartbeat._pending,
        ):
            assert len(deadlines) == 0
            assert deadlines._timer is None

    def test_stop_twice_is_harmless(self, server: Running) -> None:
        server.websocket()
        server.server.stop()
        server.server.stop()
        assert server.receiver.endings == ["server shutting down"]

    def test_stop_is_not_delayed_by_an_unread_response(self, run: Callable[..., Running]) -> None:
        running = run(outbox_bytes=64 << 20)
        sid = running.polling().sid
        running.session.send("x" * (16 << 20))
        http = running.http()
        http.send("GET", f"{POLLING}&sid={sid}")
        eventually(lambda: not running.session.outbox)
        running.server.stop(timeout=0.01)
        assert running.receiver.endings == ["server shutting down"]
        http.sock.close()

    def test_serve_forever_returns_after_stop(self) -> None:
        receiver = Recorder()
        server = EngineServer(("127.0.0.1", 0), Engine(receiver), log=None)
        serving = gevent.spawn(server.serve_forever)
        eventually(lambda: server.started)
        client = raw.WebSocket(server.server_port, "/engine.io/")
        server.stop()
        serving.get()
        assert client.wait_closed() == 1001

    def test_keep_alive_connection_gets_no_session_while_stopping(self, server: Running) -> None:
        http = server.http()
        assert http.request("GET", "/")[0] == 404
        server.server.stop()
        assert http.request("GET", POLLING)[0] == 503
        assert http.read_to_end() == b""


class TestTLS:
    """A server with a certificate behaves as one without."""

    @pytest.fixture
    def server(self, run: Callable[..., Running], certificate: Path) -> Running:
        return run(
            Recorder(echo=True), pywsgi={"certfile": str(certificate), "keyfile": str(certificate)}
        )

    @pytest.mark.parametrize(
        "junk", [b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05hello"], ids=repr
    )
    def test_client_without_tls_is_closed_and_others_are_served(
        self, server: Running, junk: bytes
    ) -> None:
        http = server.http()
        http.sock.sendall(junk)
        http.sock.shutdown(socket.SHUT_WR)
        http.read_to_end()
        with (
            socket.create_connection(("127.0.0.1", server.port)) as tcp,
            trust_all().wrap_socket(tcp) as client,
        ):
            client.sendall(f"GET {POLLING} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")

    def test_tls_request_has_scheme_https(self, server: Running) -> None:
        with (
            socket.create_connection(("127.0.0.1", server.port)) as tcp,
            trust_all().wrap_socket(tcp) as client,
        ):
            own = f"127.0.0.1:{server.port}"
            head = f"GET {POLLING} HTTP/1.1\r\nHost: {own}\r\nOrigin: https://{own}\r\n\r\n"
            client.sendall(head.encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")

    def test_missing_certificate_raises_immediately(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            EngineServer(("127.0.0.1", 0), Engine(Recorder()), certfile=str(tmp_path / "none.pem"))

    def test_tls_keywords_of_pywsgi_are_supported(self, certificate: Path) -> None:
        keywords: dict[str, Any] = {
            "certfile": str(certificate),
            "ca_certs": str(certificate),
            "cert_reqs": ssl.CERT_REQUIRED,
            "ciphers": "ECDHE+AESGCM",
        }
        server = EngineServer(("127.0.0.1", 0), Engine(Recorder()), log=None, **keywords)
        server.start()
        try:
            with (
                socket.create_connection(("127.0.0.1", server.server_port)) as tcp,
                pytest.raises((ssl.SSLError, ConnectionError)),
                trust_all().wrap_socket(tcp) as client,
            ):
                client.recv(1)  # without a client certificate
        finally:
            server.stop()
