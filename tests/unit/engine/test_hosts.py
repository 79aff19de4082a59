"""Host names: parsing, and the hosts that are allowed."""

from __future__ import annotations

import pytest

from webpy_socketio.engine.config.validators import hosts_or_none
from webpy_socketio.engine.forwarding.hosts import AllowedHosts, parse_host


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
