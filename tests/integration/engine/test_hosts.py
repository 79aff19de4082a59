"""Allowed hosts of a real server, for pages, long-polling and WebSockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.engines import Running
from webpy_socketio.engine.http.server import take_over_all

POLLING = "/engine.io/?EIO=4&transport=polling"


class TestServer:
    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:{port}@evil", "[::1]", ""]
    )
    @pytest.mark.parametrize("target", ["/page", POLLING, "/engine.io/?EIO=4&transport=websocket"])
    def test_request_for_another_host_is_rejected_before_the_application(
        self, host: str, target: str, run: Callable[..., Running]
    ) -> None:
        called = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            called.append(environ["HTTP_HOST"])
            return take_over_all("/engine.io/")(environ, start_response)

        running = run(application=application, allowed_hosts=["127.0.0.1", "chat.example"])
        http = running.http()
        http.sock.sendall(
            f"POST {target} HTTP/1.1\r\nHost: {host.format(port=running.port)}\r\n"
            "Content-Length: 1000000\r\n\r\n".encode()
        )
        http.sock.shutdown(socket.SHUT_WR)
        answer = http.read_to_end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"evil" not in answer
        assert called == running.receiver == []
        assert running.http().request("GET", "/page")[0] == 404
        assert called == [f"127.0.0.1:{running.port}"]

    def test_request_without_a_host_is_rejected(self, run: Callable[..., Running]) -> None:
        http = run(allowed_hosts=["127.0.0.1"]).http()
        http.sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert http.read_to_end().startswith(b"HTTP/1.1 400 ")

    @pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]], ids=str)
    def test_forwarded_host_counts_only_from_a_trusted_proxy(
        self, trusted: list[str], run: Callable[..., Running]
    ) -> None:
        running = run(allowed_hosts=["chat.example"], trusted_proxies=trusted)
        status, _, _ = running.http().request("GET", POLLING, "X-Forwarded-Host: chat.example")
        assert status == (200 if trusted else 400)

    def test_rejection_is_logged_with_its_remedy(
        self, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
    ) -> None:
        running = run(allowed_hosts=["chat.example"])
        for _ in range(3):
            assert running.http().request("GET", "/")[0] == 400
        (text,) = [
            record.getMessage() for record in caplog.records if record.levelname == "WARNING"
        ]
        assert f"rejected Host '127.0.0.1:{running.port}' of a request from 127.0.0.1" in text
        assert "add it to SOCKETIO_ALLOWED_HOSTS" in text

    def test_several_requests_of_one_connection_are_checked_each(
        self, run: Callable[..., Running]
    ) -> None:
        http = run(allowed_hosts=["chat.example"]).http()
        good = "GET / HTTP/1.1\r\nHost: chat.example\r\n\r\n"
        http.sock.sendall((good * 2 + good.replace("chat", "evil")).encode())
        answer = http.read_to_end()
        assert answer.count(b"HTTP/1.1 404 ") == 2
        assert answer.count(b"HTTP/1.1 400 ") == 1
