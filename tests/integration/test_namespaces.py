"""Handlers that are bound to a namespace."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Journal, Site
from webpy_socketio import EventError, on_event, on_message, on_subscribing
from webpy_socketio.bus.patterns import is_anchored

Serve = Callable[..., Site]


@pytest.fixture
def site(serve: Serve) -> Site:
    return serve(namespaces=["/", "/chat", "/tenant-1"])


def open_client(site: Site, namespace: str) -> Any:
    """Connect a raw client to a namespace; `call` sends an event there."""
    client = site.websocket()
    client.connect(namespace=f"{namespace},")
    return client


def call(client: Any, namespace: str, text: str) -> Any:
    client.send(f"42{namespace},7{text}")
    return client.receive()


class TestBoundHandler:
    def test_name_selects_one_namespace(self, site: Site, journal: Journal) -> None:
        @on_message(namespace="/chat")
        def message(request: Any, socket: Any, context: Any, message: Any) -> str:
            journal.append(message)
            return "chat"

        site.connect().emit("message", "default")
        tenant = open_client(site, "/tenant-1")
        tenant.send('42/tenant-1,["message","tenant"]')
        chat = open_client(site, "/chat")
        assert call(chat, "/chat", '["message","chat"]') == '43/chat,7["chat"]'
        assert journal == ["chat"]

    def test_pattern_selects_matching_namespaces(self, site: Site, journal: Journal) -> None:
        @on_event("join", namespace=re.compile(r"/tenant-\d+$"))
        def join(request: Any, socket: Any, context: Any) -> str:
            journal.append(socket.namespace)
            return "joined"

        tenant = open_client(site, "/tenant-1")
        assert call(tenant, "/tenant-1", '["join"]') == '43/tenant-1,7["joined"]'
        chat = open_client(site, "/chat")
        chat.send('42/chat,["join"]')
        chat.send('42/chat,8["__unsubscribe__","x"]')
        assert chat.receive() == '43/chat,8[{"ok":true}]'
        assert journal == ["/tenant-1"]

    def test_channel_and_namespace_must_both_match(self, site: Site, journal: Journal) -> None:
        @on_message(channel="^room-", namespace="/chat")
        def message(request: Any, socket: Any, context: Any, message: Any) -> str:
            journal.append((socket.namespace, message))
            return "ok"

        for namespace in ("/tenant-1", "/chat"):
            client = open_client(site, namespace)
            for channel in ("room-1", "lobby"):
                call(client, namespace, f'["__subscribe__","{channel}"]')
                client.send(f'42{namespace},["__channel__","{channel}","{channel}"]')
            call(client, namespace, '["__unsubscribe__","x"]')
        assert journal == [("/chat", "room-1")]

    def test_gate_bound_to_a_namespace_does_not_reject_in_others(self, site: Site) -> None:
        @on_subscribing(namespace="/chat")
        def subscribing(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise ValueError("always")

        chat, tenant = open_client(site, "/chat"), open_client(site, "/tenant-1")
        assert '"ok":false' in call(chat, "/chat", '["__subscribe__","a"]')
        assert '"ok":true' in call(tenant, "/tenant-1", '["__subscribe__","a"]')

    def test_same_function_may_handle_two_namespaces(self, site: Site) -> None:
        def message(request: Any, socket: Any, context: Any, message: Any) -> str:
            return str(socket.namespace)

        on_message(namespace="/chat")(message)
        on_message(namespace="/tenant-1")(message)
        for namespace in ("/chat", "/tenant-1"):
            client = open_client(site, namespace)
            answer = call(client, namespace, '["message","hello"]')
            assert answer == f'43{namespace},7["{namespace}"]'


class TestInvalidNamespace:
    @pytest.mark.parametrize(
        ("namespace", "error"),
        [
            ("chat", 'starts with a slash: "/chat"'),
            ("^/chat$", r"starts with a slash.*re\.compile"),
            (re.compile("/tenant-"), r"does not end with \$: use re.compile\('/tenant-\$'\)"),
            (re.compile(b"/chat$"), "not a namespace"),
            (5, "not a namespace"),
        ],
    )
    def test_decorator_raises_event_error(self, namespace: Any, error: str) -> None:
        with pytest.raises(EventError, match=error):
            on_message(namespace=namespace)(lambda request, socket, context, message: None)

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("/a$", True),
            (r"/a\Z", True),
            ("/a|/b$", False),
            ("/a$|/b$", True),
            ("/(a|b)$", True),
            (r"/a\$", False),
            ("/[|(]$", True),
            ("/[]|]$", True),
            ("", False),
        ],
    )
    def test_is_anchored_checks_every_alternative(self, pattern: str, expected: bool) -> None:
        assert is_anchored(re.compile(pattern)) is expected
