"""Limits for each address, and for all clients together."""

from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import pytest
import web

from tests import raw
from tests.conftest import Site
from tests.engines import eventually
from webpy_socketio.engine.io.quotas import AddressQuota, network_of

HANDSHAKE = "/socket.io/?EIO=4&transport=polling"


def ask(site: Site, address: str = "", path: str = HANDSHAKE) -> tuple[int, str]:
    """Request a page or a session; behind a trusted proxy, for a client at `address`."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port)
    try:
        connection.request("GET", path, headers={"X-Forwarded-For": address} if address else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def dial(site: Site, source: str = "127.0.0.1") -> socket.socket:
    """Open an idle connection from another address of this machine."""
    sock = socket.create_connection(("127.0.0.1", site.port), source_address=(source, 0))
    raw.OPENED.append(sock)
    return sock


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    def read() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]

    return read


class TestSessions:
    def test_session_beyond_the_limit_of_its_address_is_rejected(
        self, serve: Callable[..., Site], warnings: Callable[[], list[str]]
    ) -> None:
        site = serve(max_sessions_per_address=2)
        first, _ = site.websocket(), site.polling()
        for _ in range(3):
            status, body = ask(site)
            assert status == 429
            assert "Too many sessions" in body
        refused = raw.WebSocket(site.port, handshake=False)
        assert refused.status == 429
        (line,) = warnings()
        assert "127.0.0.1" in line
        assert "SOCKETIO_MAX_SESSIONS_PER_ADDRESS" in line
        first.close()
        eventually(lambda: len(site.server.engine.sessions) == 1)
        assert ask(site)[0] == 200

    def test_clients_of_a_trusted_proxy_are_counted_by_their_own_address(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(max_sessions_per_address=1, trusted_proxies=["127.0.0.1"])
        assert [ask(site, "192.0.2.1")[0] for _ in range(2)] == [200, 429]
        assert [ask(site, "192.0.2.2")[0] for _ in range(2)] == [200, 429]

    def test_addresses_of_an_ipv6_network_are_counted_together(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(max_sessions_per_address=2, trusted_proxies=["127.0.0.1"])
        statuses = [ask(site, f"2001:db8:1:2::{number:x}")[0] for number in range(1, 4)]
        assert statuses == [200, 200, 429]
        assert ask(site, "2001:db8:1:3::1")[0] == 200

    def test_upgrade_is_not_counted_as_session(self, serve: Callable[..., Site]) -> None:
        site = serve(max_sessions_per_address=1)
        polling = site.polling()
        websocket = raw.WebSocket(
            site.port, query=f"EIO=4&transport=websocket&sid={polling.sid}", handshake=False
        )
        assert websocket.status == 101


class TestConnections:
    def test_connection_beyond_the_limit_of_its_address_is_rejected(
        self, serve: Callable[..., Site], warnings: Callable[[], list[str]]
    ) -> None:
        site = serve(max_connections_per_address=3)
        held = [dial(site) for _ in range(3)]
        eventually(lambda: len(site.server._addresses) == 3)
        for _ in range(3):
            status, body = ask(site)
            assert status == 503
            assert "Too many connections" in body
        (line,) = warnings()
        assert "127.0.0.1" in line
        assert "SOCKETIO_MAX_CONNECTIONS_PER_ADDRESS" in line
        held[0].close()
        eventually(lambda: len(site.server._addresses) == 2)
        assert ask(site)[0] == 200

    def test_other_addresses_are_not_affected(self, serve: Callable[..., Site]) -> None:
        site = serve(max_connections_per_address=1)
        dial(site, "127.0.0.2")
        eventually(lambda: len(site.server._addresses) == 1)
        assert ask(site)[0] == 200

    def test_trusted_proxy_has_no_limit(self, serve: Callable[..., Site]) -> None:
        site = serve(max_connections_per_address=1, trusted_proxies=["127.0.0.1"])
        for _ in range(3):
            dial(site)
        assert ask(site, "192.0.2.1")[0] == 200
        assert len(site.server._addresses) == 0

    def test_websockets_are_counted_as_sessions_only(self, serve: Callable[..., Site]) -> None:
        site = serve(max_connections_per_address=1)
        clients = []
        for _ in range(3):
            clients.append(site.connect())
            eventually(lambda: len(site.server._addresses) == 0)
        assert [client.call("__subscribe__", "x") for client in clients] == [[{"ok": True}]] * 3

    def test_flood_beyond_the_limit_leaves_no_connections(self, serve: Callable[..., Site]) -> None:
        site = serve(max_connections_per_address=2)
        flood = [dial(site) for _ in range(300)]
        eventually(lambda: len(site.server._addresses) == 2)
        for sock in flood:
            sock.close()
        eventually(lambda: len(site.server._addresses) == 0 and site.server._rejecting == 0)
        assert ask(site)[0] == 200


class Upload:
    """A page that keeps the body of a request until the test continues."""

    may_go_on = gevent.event.Event()

    def POST(self) -> str:
        size = len(web.data())
        self.may_go_on.wait()
        return str(size)


@pytest.fixture
def uploads(serve: Callable[..., Site]) -> Iterator[Site]:
    Upload.may_go_on = gevent.event.Event()
    yield serve(("/upload", "Upload"), {"Upload": Upload}, max_bodies_size=1_000_000)
    Upload.may_go_on.set()


def upload(site: Site, size: int, chunked: bool = False) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port)
    body: Any = iter([b"x" * 1000] * (size // 1000)) if chunked else b"x" * size
    try:
        connection.request("POST", "/upload", body, encode_chunked=chunked)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class TestBodies:
    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("size", [100_000, 400_000])
    def test_bodies_beyond_the_total_limit_are_rejected(
        self, size: int, chunked: bool, uploads: Site, warnings: Callable[[], list[str]]
    ) -> None:
        count = 1_000_000 // size
        held = [gevent.spawn(upload, uploads, size, chunked) for _ in range(count)]
        eventually(lambda: uploads.server.bodies.used == size * count)
        for _ in range(2):
            status, _ = upload(uploads, 300_000, chunked)
            assert status == 503
        (line,) = warnings()
        assert "SOCKETIO_MAX_BODIES_SIZE" in line
        assert uploads.server.bodies.used == size * count
        Upload.may_go_on.set()
        for one in held:
            assert one.get() == (200, str(size).encode())
        eventually(lambda: uploads.server.bodies.used == 0)
        assert upload(uploads, 300_000, chunked)[0] == 200

    def test_incomplete_body_is_subtracted_from_the_total(self, uploads: Site) -> None:
        sock = dial(uploads)
        sock.sendall(
            b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + b"x" * 300_000
        )
        eventually(lambda: uploads.server.bodies.used == 300_000)
        sock.close()
        eventually(lambda: uploads.server.bodies.used == 0)

    def test_post_of_a_session_beyond_the_total_limit_is_rejected(self, uploads: Site) -> None:
        client = uploads.polling()
        client.connect()
        held = gevent.spawn(upload, uploads, 900_000)
        eventually(lambda: uploads.server.bodies.used == 900_000)
        status, _ = client.send(f'42["{"x" * 200_000}"]')
        assert status == 503
        Upload.may_go_on.set()
        assert held.get()[0] == 200


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", None),
        ("unix", None),
        ("1" * 100_000, None),
    ],
)
def test_network_of_an_address(address: str, network: str | None) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "", "unix"]
)
def test_address_quota_exempts_loopback_addresses(address: str) -> None:
    quota, given = AddressQuota(None, 1), AddressQuota(1, 5)
    for owner in range(3):
        quota.add(owner, address)
        given.add(owner, address)
    assert quota.has_room(address)
    assert len(quota) == 0
    assert given.has_room(address) == (address in ("", "unix"))
    quota.add("other", "::1:2:3:4:5")
    assert not quota.has_room("::1:2:3:4:5")


def test_address_quota_removes_addresses_without_owners() -> None:
    quota = AddressQuota(None, 1)
    for number in range(1000):
        quota.add(number, f"192.0.2.{number % 250}")
        quota.remove(number)
        quota.remove(number)
    assert len(quota) == 0
    assert not quota._counts
