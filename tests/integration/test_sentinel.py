"""Redis Sentinel: a real master, a replica and three Sentinels, with failovers in the middle."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent.server
import pytest

from tests.certificates import make_certificate
from tests.conftest import Site
from tests.raw import WebSocket
from tests.redis_scenario import INTERVALS, Client, Servers, eventually
from tests.redis_server import (
    RedisServer,
    Sentinels,
    extend_redis_timeouts,
    find_program,
    tls_options,
)
from tests.servers import Process, ServerProcess, application_source, free_port
from webpy_socketio import BackplaneError, broadcast, connect_redis, emit_to_servers
from webpy_socketio.backplane import connection, sentinel
from webpy_socketio.cli.checks import external
from webpy_socketio.plugins import presence

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "tests" / "js" / "node_modules"

pytestmark = pytest.mark.time_limit(90)


THERE = application_source(
    """
OPTIONS = {"plugins": [], "log": None, "backplane": os.environ["BACKPLANE"]}

@signals.gap.connect
def report_gap(sender, node, missed, **extra):
    say("GAP", missed)

@signals.cluster_event.connect
def answer(sender, event, args, node):
    return "ready"

@on_message
def message(request, socket, context, message):
    broadcast(message)
"""
)


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    sentinels = Sentinels(tmp_path_factory.mktemp("sentinels"))
    try:
        yield sentinels.start()
    finally:
        sentinels.stop()


@pytest.fixture(autouse=True)
def _intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    extend_redis_timeouts(monkeypatch)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 60.0)
    monkeypatch.setattr(sentinel, "TIMEOUT", 20.0)
    monkeypatch.setattr(presence, "INTERVALS", INTERVALS)


@pytest.fixture
def servers(sentinels: Sentinels) -> Iterator[Servers]:
    sentinels.wait_until_healthy()
    sentinels.master().ask("FLUSHALL")
    servers = Servers(sentinels.url)
    yield servers
    servers.stop()


def order_failover(sentinels: Sentinels) -> None:
    sentinels.ask(0, "SENTINEL", "FAILOVER", sentinels.SERVICE)


def kill_master(sentinels: Sentinels) -> None:
    sentinels.master().stop()


def failure(url: str) -> str:
    """Return the error of connecting."""
    with pytest.raises(BackplaneError) as caught:
        connect_redis(url, 5.0)
    assert Sentinels.PASSWORD not in str(caught.value)
    assert Sentinels.SENTINEL_PASSWORD not in str(caught.value).split()
    return str(caught.value)


@contextlib.contextmanager
def outdated_sentinel(port: int) -> Iterator[int]:
    """Run a Sentinel that always names one server as the master; yields its port."""

    def serve(sock: Any, address: Any) -> None:
        while data := sock.recv(65_536):
            for command in re.findall(rb"AUTH|SETINFO|GET-MASTER-ADDR-BY-NAME", data):
                name = b"%d" % port
                answer = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(name), name)
                sock.sendall(answer if command.startswith(b"GET") else b"+OK\r\n")

    server = gevent.server.StreamServer(("127.0.0.1", 0), serve)
    server.start()
    yield server.server_port
    server.stop()


class TestFailover:
    @pytest.mark.parametrize("fail", [order_failover, kill_master])
    def test_everything_works_after_a_failover(
        self,
        fail: Callable[[Sentinels], None],
        sentinels: Sentinels,
        servers: Servers,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        before = sentinels.master()
        servers.check("before")
        stored = servers.nodes[0].stored()
        before.ask("WAIT", 1, 20_000)  # the replica has the history
        away = Client(servers.nodes[0], "room-2")
        away.lose()
        for node in servers.nodes:
            assert node.gaps == []
        with caplog.at_level(logging.WARNING, "webpy_socketio"):
            fail(sentinels)
            for node in servers.nodes:
                node.gaps.wait_for(None)  # an unknown number of messages was lost
        after = sentinels.master()
        assert after is not before
        servers.check("after")
        assert not away.resume(servers.nodes[1])  # it may have missed messages that are lost
        away.raw.close()
        assert servers.nodes[0].stored()[: len(stored)] == stored
        for topic in after.topics():
            assert after.ask("PUBSUB", "NUMSUB", topic)[0][1] >= 1
        reconnections = [text for text in caplog.messages if text.startswith("reconnected to")]
        assert len(reconnections) >= len(servers.nodes)
        assert all(f"Redis at 127.0.0.1:{after.port} after" in text for text in reconnections)
        if before.process is None:
            before.start()

    def test_other_process_receives_and_sends_after_kill_of_the_master(
        self, sentinels: Sentinels, serve: Callable[..., Site], tmp_path: Path
    ) -> None:
        sentinels.wait_until_healthy()
        here = serve(backplane=sentinels.url)
        there = ServerProcess(THERE, tmp_path / "there", {"BACKPLANE": sentinels.url})
        try:
            near, far = here.connect(), WebSocket(there.port)
            far.connect()
            before = sentinels.master()
            before.stop()
            there.wait_for("GAP None")
            eventually(lambda: emit_to_servers("ready", timeout=5.0))
            broadcast("one")
            assert far.event() == near.event() == ["message", "one"]
            far.emit("message", "two")
            assert far.event() == near.event() == ["message", "two"]
            before.start()
        finally:
            there.close()

    def test_connections_to_the_old_master_end(self, sentinels: Sentinels) -> None:
        sentinels.wait_until_healthy()
        before = sentinels.master()
        link = connect_redis(sentinels.url, 60.0)
        assert link.address == f"Redis at 127.0.0.1:{before.port}"
        order_failover(sentinels)
        with pytest.raises(BackplaneError, match=str(before.port)):
            link.read()
        again = eventually(lambda: connect_redis(sentinels.url, 5.0))
        assert again.address == f"Redis at 127.0.0.1:{sentinels.master().port}"
        assert again.execute(("SET", "key", "value")) == [b"OK"]
        again.close()


class TestDiscovery:
    def test_unreachable_and_silent_sentinels_are_skipped(
        self, sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sentinels.wait_until_healthy()
        monkeypatch.setattr(sentinel, "TIMEOUT", 0.5)
        silent = sentinels.sentinels[2].popen
        silent.send_signal(signal.SIGSTOP)
        try:
            ports = [free_port(), *reversed(sentinels.ports)]
            link = connect_redis(sentinels.url_of(*ports), 5.0)
        finally:
            silent.send_signal(signal.SIGCONT)
        assert link.execute(("ROLE",))[0][0] == b"master"
        link.close()

    def test_unknown_master_is_named(self, sentinels: Sentinels) -> None:
        text = failure(sentinels.url_of(*sentinels.ports, service="other"))
        assert 'no Sentinel names a master "other"' in text
        for port in sentinels.ports:
            assert f"Sentinel at 127.0.0.1:{port} knows no such master" in text
        assert "check the service name in SOCKETIO_BACKPLANE" in text

    def test_unreachable_sentinels_are_named(self, sentinels: Sentinels) -> None:
        ports = [free_port(), free_port()]
        text = failure(sentinels.url_of(*ports))
        assert text.startswith("no Sentinel is reachable (")
        for port in ports:
            assert f"Sentinel at 127.0.0.1:{port} is unreachable" in text

    def test_wrong_password_of_sentinels_is_named(self, sentinels: Sentinels) -> None:
        url = sentinels.url.replace("sentinel_password=", "sentinel_password=not")
        assert "rejected the sentinel_username or sentinel_password" in failure(url)

    def test_wrong_password_of_the_master_is_named(self, sentinels: Sentinels) -> None:
        sentinels.wait_until_healthy()
        url = sentinels.url.replace("://:", "://:not")
        assert f"Redis at 127.0.0.1:{sentinels.master().port} rejected the user name" in failure(
            url
        )

    def test_server_that_is_no_sentinel_is_named(self, sentinels: Sentinels) -> None:
        url = sentinels.url_of(sentinels.servers[0].port)
        assert "no Sentinel is reachable" in failure(url)

    def test_doctor_reports_the_master(self, sentinels: Sentinels) -> None:
        sentinels.wait_until_healthy()
        for url, text in [
            (sentinels.url, f"Redis at 127.0.0.1:{sentinels.master().port}"),
            (sentinels.url_of(*sentinels.ports, service="other"), "no Sentinel names a master"),
            (f"rediss+sentinel://a/main?ssl_ca_certs={Path(__file__)}x", "ssl_ca_certs"),
        ]:
            context: Any = SimpleNamespace(settings=SimpleNamespace(backplane=url))
            assert text in next(iter(external.redis(context))).text

    @pytest.mark.skipif(
        shutil.which("node") is None or not (MODULES / "redis").is_dir(),
        reason="Node.js or the modules of tests/js are not installed",
    )
    def test_emitter_of_the_reference_finds_the_master(
        self, sentinels: Sentinels, servers: Servers, tmp_path: Path
    ) -> None:
        """The program is that of the reference, with other hosts and names."""
        reference = (ROOT / "docs" / "reference" / "backplane.rst").read_text(encoding="utf-8")
        block = reference.partition(".. code-block:: js\n\n")[2].partition("\nThe reply")[0]
        for old, new in [
            ('"10.0.0.5", port: 26379', f'"127.0.0.1", port: {sentinels.ports[0]}'),
            ("mymaster", sentinels.SERVICE),
            ('"other"', f'"{sentinels.SENTINEL_PASSWORD}"'),
            ('username: "emitter", ', ""),
            ('"password"', f'"{sentinels.PASSWORD}"'),
        ]:
            assert old in block
            block = block.replace(old, new)
        (tmp_path / "program.mjs").write_text(textwrap.dedent(block), encoding="utf-8")
        shutil.copy(ROOT / "example" / "emitter.mjs", tmp_path)
        (tmp_path / "node_modules").symlink_to(MODULES)
        process = Process(["node", str(tmp_path / "program.mjs")], tmp_path / "node.log")
        assert process.next_line() == "2"
        assert process.wait() == 0, process.errors
        servers.clients[0].wait_for({"text": "hello"})

    def test_outdated_answer_of_a_sentinel_is_not_used(self, sentinels: Sentinels) -> None:
        """A Sentinel may be cut off from the others; a real one corrects itself too soon."""
        sentinels.wait_until_healthy()
        (replica,) = (each for each in sentinels.servers if each is not sentinels.master())
        with outdated_sentinel(replica.port) as port:
            text = failure(sentinels.url_of(port))
            assert f"Redis at 127.0.0.1:{replica.port} is a replica" in text
            link = connect_redis(sentinels.url_of(port, *sentinels.ports), 5.0)
        assert link.address == f"Redis at 127.0.0.1:{sentinels.master().port}"
        link.close()

    def test_role_is_checked_by_each_ping(self, tmp_path: Path) -> None:
        """The role changes without a Sentinel, which would disconnect the clients."""
        server = RedisServer(tmp_path).start()
        try:
            with outdated_sentinel(server.port) as port:
                link = connect_redis(f"redis+sentinel://127.0.0.1:{port}/main", 5.0)
            link.ping()
            server.ask("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(BackplaneError, match='is a replica and not the master "main"'):
                link.ping()
            assert link.closed
        finally:
            server.stop()


class TestTLS:
    def test_sentinel_and_master_with_tls(self, tmp_path: Path) -> None:
        certificate, key = make_certificate(tmp_path)
        tls_port, port = free_port(), free_port()
        files = tls_options(tls_port, certificate, key)
        server = RedisServer(tmp_path, *files).start()
        options = tls_options(port, certificate, key)
        lines = [
            f"{name[2:]} {value}" for name, value in zip(options[::2], options[1::2], strict=True)
        ]
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(
            "\n".join(
                [
                    *("port 0", "bind 127.0.0.1", f"dir {tmp_path}", "tls-replication yes"),
                    *(*lines, f"sentinel monitor main 127.0.0.1 {tls_port} 1\n"),
                ]
            )
        )
        command = [find_program(), str(configuration), "--sentinel"]
        watcher = Process(command, tmp_path / "sentinel.log")
        try:
            while "+monitor master" not in watcher.next_line():
                pass
            url = f"rediss+sentinel://localhost:{port}/main?ssl_ca_certs={certificate}"
            link = connect_redis(url, 5.0)
            assert link.address == f"Redis at 127.0.0.1:{tls_port}"
            assert link.execute(("PING",)) == [b"PONG"]
            link.close()
            text = failure(f"rediss+sentinel://localhost:{port}/main")
            assert "no Sentinel is reachable" in text
            assert "ssl_ca_certs" in text
        finally:
            watcher.kill()
            server.stop()
