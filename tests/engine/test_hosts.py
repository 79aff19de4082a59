"""Host names: parsing, and the hosts that a server allows."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from webpy_socketio.config.validators import hosts_or_none
from webpy_socketio.engine.forwarding.hosts import AllowedHosts, parse_host
from webpy_socketio.engine.http.server import take_over_all

from .conftest import Running

POLLING = "/engine.io/?EIO=4&transport=polling"


class TestParseHost:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("Chat.Example", ("chat.example", None)),
            ("chat.example.:80", ("chat.example", 80)),
            ("[0::1]:8000", ("[::1]", 8000)),
            ("chat.example:", ("chat.example", None)),
            ("", ("", None)),
        ],
    )
    def test_host_is_normalized(self, text: str, found: tuple[str, int | None]) -> None:
        assert parse_host(text) == found

    @pytest.mark.parametrize(
        "text", ["a b", "a/b", "a@b", "a:b", "a:65536", "[::1", "[::g]", "\u00e4", "a\n", "x" * 400]
    )
    def test_malformed_host_is_none(self, text: str) -> None:
        assert parse_host(text) is None


class TestAllowedHosts:
    @pytest.mark.parametrize(
        ("allowed", "hosts", "others"),
        [
            (None, ["any.example", ""], []),
            (["*"], ["any.example", ""], []),
            (
                ["chat.example"],
                ["chat.example", "CHAT.example:8000", "chat.example."],
                [
                    "evil.example",
                    "chat.example.evil",
                    "xchat.example",
                    "www.chat.example",
                    "",
                    "a b",
                ],
            ),
            (["chat.example:8000"], ["chat.example:8000"], ["chat.example", "chat.example:80"]),
            (["chat.example:80"], ["chat.example", "chat.example:80"], ["chat.example:8000"]),
            (
                ["*.chat.example"],
                ["a.chat.example", "a.b.chat.example:1"],
                ["chat.example", "xchat.example", "a.chat.example.evil", ".chat.example:x"],
            ),
            (["*.a.example:1"], ["b.a.example:1"], ["b.a.example:2", "b.a.example"]),
            (
                ["[::1]", "127.0.0.1"],
                ["[0:0::1]:8000", "127.0.0.1:1"],
                ["[::2]", "127.0.0.2", "::1"],
            ),
        ],
    )
    def test_host_outside_the_list_is_not_allowed(
        self, allowed: list[str] | None, hosts: list[str], others: list[str]
    ) -> None:
        found = AllowedHosts(allowed)
        assert hosts_or_none(allowed) is None
        assert [host for host in hosts if not found.allows(host)] == []
        assert [host for host in others if found.allows(host)] == []

    def test_default_port_follows_the_scheme(self) -> None:
        assert AllowedHosts(["chat.example:443"]).allows("chat.example", "https")
        assert not AllowedHosts(["chat.example:443"]).allows("chat.example", "http")


class TestServer:
    """Allowed hosts of a real server, for pages, long-polling and WebSockets."""

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
