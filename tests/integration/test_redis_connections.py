"""Redis by TLS, by a Unix socket, and with a user of minimal rights."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import webpy_socketio
from tests.certificates import make_certificate
from tests.redis_scenario import INTERVALS, Node, Servers
from tests.redis_server import RedisServer, extend_redis_timeouts, tls_options
from tests.servers import free_port
from webpy_socketio import BackplaneError, ConfigurationError, PubSub, connect_redis
from webpy_socketio.backplane import connection as connection_module
from webpy_socketio.plugins import presence

pytestmark = pytest.mark.time_limit(60)

PACKAGE = Path(webpy_socketio.__file__).parent
GUIDE = PACKAGE.parent / "docs" / "how-to" / "redis.rst"


class Server(RedisServer):
    """Redis with TLS and a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = make_certificate(folder)
        self.tls_port = free_port()
        self.path = folder / "redis.sock"
        options = tls_options(self.tls_port, self.certificate, self.key)
        super().__init__(folder, *options, "--unixsocket", str(self.path))

    def tls_url(self, host: str = "localhost", options: str = "") -> str:
        return f"rediss://{host}:{self.tls_port}?ssl_ca_certs={self.certificate}{options}"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    extend_redis_timeouts(monkeypatch)
    monkeypatch.setattr(presence, "INTERVALS", INTERVALS)


@pytest.fixture
def run() -> Iterator[Callable[..., Servers]]:
    started: list[Servers] = []

    def start(url: str, **options: Any) -> Servers:
        started.append(Servers(url, **options))
        return started[-1]

    yield start
    for servers in started:
        servers.stop()


def failure(url: str) -> str:
    """Return the error of connecting."""
    with pytest.raises(BackplaneError) as caught:
        connect_redis(url, 5.0)
    assert "secret" not in str(caught.value)
    return str(caught.value)


class TestTLS:
    def test_everything_works_with_tls(self, redis: Server, run: Callable[..., Servers]) -> None:
        run(redis.tls_url(options="&db=1")).check("tls")

    @pytest.mark.parametrize("parser", ["hiredis", "redis"])
    def test_large_messages_and_many_small_ones_arrive(
        self, parser: str, redis: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if parser == "redis":
            monkeypatch.setattr(connection_module, "hiredis", None)
        received: list[bytes] = []
        pubsub = PubSub(redis.tls_url(), lambda topic, payload: received.append(payload))
        pubsub.subscribe(b"news")
        pubsub.attempted.wait()
        assert pubsub.wait(b"news", 20)
        connection = connect_redis(redis.tls_url(), 5.0)
        payloads = [b"x" * 700_000, *(b"%d" % number for number in range(2000)), b"y" * 16_384]
        for _ in range(2):
            connection.check()  # TLS data that is not for Redis, such as tickets, is no reply
            assert connection.publish([(b"news", each) for each in payloads]) == [1] * 2002
        connection.close()
        while len(received) < 2 * len(payloads):
            gevent.sleep(0.005)
        assert received == payloads * 2
        pubsub.stop()

    def test_connection_closed_while_idle_is_detected(self, redis: Server) -> None:
        connection = connect_redis(redis.tls_url(), 5.0)
        assert not connection.has_data()
        (number,) = connection.execute(("CLIENT", "ID"))
        redis.ask("CLIENT", "KILL", "ID", number)
        while not connection.has_data():
            gevent.sleep(0.005)
        with pytest.raises(BackplaneError, match="closed"):
            connection.check()

    def test_unsolicited_data_is_detected(self, redis: Server) -> None:
        connection = connect_redis(redis.tls_url(), 5.0)
        connection.send("PING")
        while not connection.has_data():
            gevent.sleep(0.005)
        with pytest.raises(BackplaneError, match="without a command"):
            connection.check()

    def test_silent_server_times_out(self, redis: Server) -> None:
        connection = connect_redis(redis.tls_url(), 0.3)
        with pytest.raises(BackplaneError, match="unreachable"):
            connection.read()

    def test_certificate_is_verified(self, redis: Server) -> None:
        text = failure(f"rediss://:secret@localhost:{redis.tls_port}")
        assert "certificate verify failed" in text
        assert "ssl_ca_certs" in text
        options = "ssl_cert_reqs=none"
        connect_redis(f"rediss://localhost:{redis.tls_port}?{options}", 5.0).close()

    def test_host_name_is_verified(self, redis: Server, tmp_path: Path) -> None:
        # 127.0.0.2 is the same machine, and not in the certificate.
        redis.ask("CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2")
        assert "host name of the certificate" in failure(redis.tls_url("127.0.0.2"))
        url = redis.tls_url("127.0.0.2", "&ssl_check_hostname=false")
        connect_redis(url, 5.0).close()

    def test_server_that_requires_a_certificate_of_the_client(self, redis: Server) -> None:
        redis.ask("CONFIG", "SET", "tls-auth-clients", "yes")
        try:
            assert "requires a certificate of the client" in failure(redis.tls_url())
            options = f"&ssl_certfile={redis.certificate}&ssl_keyfile={redis.key}"
            connect_redis(redis.tls_url(options=options), 5.0).close()
        finally:
            redis.ask("CONFIG", "SET", "tls-auth-clients", "no")

    def test_port_of_the_other_kind_is_named(
        self, redis: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 0.3)
        text = failure(f"rediss://:secret@localhost:{redis.port}")
        assert "check that this port expects TLS" in text
        assert "use rediss://" in failure(f"redis://:secret@localhost:{redis.tls_port}")

    @pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
    def test_missing_and_invalid_file_is_named_before_connecting(
        self, option: str, redis: Server, tmp_path: Path
    ) -> None:
        empty = tmp_path / "empty.pem"
        empty.touch()
        for file in (tmp_path / "missing.pem", empty):
            url = f"rediss://:secret@localhost:1?{option}={file}"
            with pytest.raises(ConfigurationError, match=f"{option}.* cannot be used") as caught:
                PubSub(url, print)
            assert "secret" not in str(caught.value)


class TestUnixSocket:
    def test_everything_works_by_unix_socket(
        self, redis: Server, run: Callable[..., Servers]
    ) -> None:
        run(f"unix://{redis.path}?db=2").check("unix")
        assert redis.ask("INFO", "keyspace")["db2"]["keys"] > 0

    def test_missing_socket_is_named(self, tmp_path: Path) -> None:
        text = failure(f"unix://:secret@{tmp_path}/redis.sock")
        assert f"Redis at {tmp_path}/redis.sock is unreachable" in text
        assert "No such file" in text


class TestReplica:
    """The role of a server changes without a Sentinel, which would disconnect its clients."""

    @pytest.mark.parametrize(
        "command",
        [("SET", "key", "value"), ("EVAL", "return redis.call('SET', 'key', 'value')", 0)],
        ids=["command", "script"],
    )
    def test_write_that_a_replica_rejects_ends_the_connection(
        self, command: tuple[Any, ...], redis: Server
    ) -> None:
        connection = connect_redis(redis.url, 5.0)
        assert connection.execute(("PING",), ("NOTHING",))[0] == b"PONG"
        redis.ask("REPLICAOF", "127.0.0.1", "1")
        try:
            with pytest.raises(BackplaneError, match="is a replica"):
                connection.execute(("PING",), command, ("PING",))
            assert connection.replies == [b"PONG"]
            assert connection.closed
        finally:
            redis.ask("REPLICAOF", "NO", "ONE")


def rule(name: str, prefix: str) -> list[str]:
    """Return the words of a rule of the guide, for a user and a prefix."""
    guide = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"ACL SETUSER (\w+) (.*?)\n\n", guide, re.DOTALL)
    rules = [words for user, words in blocks if user == name]  # the second one is for clusters
    words = rules[0].replace("\\\n", " ").replace("'", "")
    return words.replace("chat:", f"{prefix}:").split()


class TestACL:
    @pytest.fixture
    def url(self, redis: Server) -> Iterator[str]:
        """Return the URL of a user with exactly the rights of the guide."""
        redis.ask("ACL", "SETUSER", "chat", *rule("chat", "p"))
        # Sent by the library on connecting, and unknown before Redis 7.2.
        with contextlib.suppress(redis.redis.ResponseError):
            redis.ask("ACL", "SETUSER", "chat", "+client|setinfo")
        redis.ask("ACL", "LOG", "RESET")
        yield f"redis://chat:password@127.0.0.1:{redis.port}"
        redis.ask("ACL", "DELUSER", "chat")

    def test_everything_works_with_the_rights_of_the_guide(
        self,
        redis: Server,
        url: str,
        run: Callable[..., Servers],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        servers = run(url, backplane_prefix="p")
        with caplog.at_level(logging.WARNING, "webpy_socketio"):
            servers.check("acl")
            # A session that waits in Redis until a server starts.
            client = servers.clients[0]
            client.lose()
            servers.stop()
            servers.nodes = [Node(url, **servers.options)]
            assert client.resume(servers.nodes[0])
        assert redis.ask("ACL", "LOG") == []
        assert caplog.records == []

    def test_user_has_no_other_rights(self, redis: Server, url: str) -> None:
        connection = connect_redis(url, 5.0)
        for command in (
            *(("GET", "other:1:key"), ("PUBLISH", "other:1:topic", "x"), ("SUBSCRIBE", "*")),
            *(("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("CLIENT", "LIST")),
            *(("SCRIPT", "FLUSH"), ("EVAL", "return redis.call('KEYS', '*')", 0)),
            *(("ACL", "LIST"), ("SHUTDOWN",), ("MONITOR",)),
        ):
            (reply,) = connection.execute(command)
            assert re.search("permission|can't run this command", str(reply)), command
        connection.close()

    def test_commands_in_the_sources_are_allowed(self) -> None:
        """Some run rarely, such as those that take over the sessions of a process that died."""
        words = [word for word in rule("chat", "p") if word.startswith("+")]
        allowed = {word[1:].partition("|")[0] for word in words}
        used: set[str] = set()
        for file in PACKAGE.rglob("*.lua"):
            text = file.read_text(encoding="utf-8")
            used |= set(re.findall(r"call\('([A-Z]+)'", text))
            used |= set(re.findall(r"\{'([A-Z]+)', name", text))
        for file in PACKAGE.rglob("*.py"):
            if not file.stem.startswith(("cluster_", "sentinel")):
                text = file.read_text(encoding="utf-8")
                used |= set(re.findall(r"""(?:execute|put)\(\s*\(?"([A-Z]{3,})",""", text))
        assert {"XADD", "SSCAN", "PUBSUB"} <= used
        assert {word.lower() for word in used} <= allowed

    def test_emitter_needs_only_to_publish(
        self, redis: Server, run: Callable[..., Servers]
    ) -> None:
        redis.ask("ACL", "SETUSER", "emitter", *rule("emitter", "p"))
        servers = run(redis.url, backplane_prefix="p")
        connection = connect_redis(f"redis://emitter:password@127.0.0.1:{redis.port}", 5.0)
        envelope = b'{"v":1}\n["message","hello"]'
        (count,) = connection.publish([(b"p:1:channel:/,room-1", envelope)])
        assert count == 2
        servers.clients[0].wait_for("hello")
        connection.close()
        redis.ask("ACL", "DELUSER", "emitter")
