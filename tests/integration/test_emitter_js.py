"""``example/emitter.mjs`` under Node.js: clients of a real server receive its events over Redis."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import Journal, Site
from tests.raw import connect
from tests.redis_server import RedisServer, extend_redis_timeouts
from tests.servers import Process
from webpy_socketio import get_stats
from webpy_socketio.backplane import Topic
from webpy_socketio.backplane.warning_log import WarningLog
from webpy_socketio.signals import gap

ROOT = Path(__file__).resolve().parents[2]
EMITTER = ROOT / "example" / "emitter.mjs"
MODULES = ROOT / "tests" / "js" / "node_modules"

pytestmark = [
    pytest.mark.time_limit(60),
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed"),
    pytest.mark.skipif(
        not (MODULES / "redis").is_dir(),
        reason="the npm package redis is not installed: run npm ci in tests/js (make test does)",
    ),
]

#: A program that sends to each kind of topic with the functions of the emitter.
PROGRAM = """
import { createClient } from "redis";
import { channel, emit, namespace, session } from "./emitter.mjs";

const [url, id] = process.argv.slice(2);
const client = await createClient({ url }).connect();
const bytes = Buffer.from([0, 10, 255]);
console.log(JSON.stringify([
  await emit(client, namespace("/"), "message", "to all"),
  await emit(client, namespace("/chat"), "message", "to all of /chat"),
  await emit(client, channel("room, 1:*", "/chat"), "message", "to a channel of /chat"),
  await emit(client, session(id), "picked", 1, "two"),
  await emit(client, channel("room"), "file", { name: "a", parts: [bytes, new Uint8Array(0)] }),
  await emit(client, channel("empty"), "message", "lost"),
]));
await client.close();
"""


@pytest.fixture
def redis(shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    extend_redis_timeouts(monkeypatch)
    return shared_redis


@pytest.fixture
def site(redis: RedisServer, serve: Callable[..., Site]) -> Site:
    return serve(backplane=redis.url, namespaces=["/", "/chat"])


@pytest.fixture
def gaps() -> Iterator[Journal]:
    journal = Journal()

    def record_gap(sender: Any, **extra: Any) -> None:
        journal.append(extra)

    gap.connect(record_gap)
    yield journal
    gap.disconnect(record_gap)


@pytest.fixture
def run_node(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a script next to the emitter, and returns its output."""
    shutil.copy(EMITTER, tmp_path)
    (tmp_path / "program.mjs").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(MODULES)

    def run(script: str, *args: str) -> str:
        process = Process(["node", str(tmp_path / script), *args], tmp_path / "node.log")
        line = process.next_line()
        assert process.wait() == 0, process.errors
        return line

    return run


class TestEmitter:
    def test_emitter_has_about_thirty_lines(self) -> None:
        assert len(EMITTER.read_text(encoding="utf-8").splitlines()) <= 32

    @pytest.mark.parametrize("value", ["hello", {"text": 'č ☃ 😀 \n\0"\\\u2028'}, None, [1, [2.5]]])
    def test_command_sends_an_event_to_a_channel(
        self,
        value: Any,
        site: Site,
        redis: RedisServer,
        gaps: Journal,
        run_node: Callable[..., str],
    ) -> None:
        client, other = connect(site, "room-1"), connect(site)
        for _ in range(2):
            line = run_node("emitter.mjs", redis.url, "room-1", "greeting", json.dumps(value))
            assert line == "received by 1 process(es)"
            assert client.event() == ["greeting", value]
        other.barrier()
        assert gaps == []
        assert redis.topics() >= {"webpy_socketio:1:channel:/,room-1"}

    def test_emit_reaches_namespaces_channels_and_sessions(
        self, site: Site, redis: RedisServer, gaps: Journal, run_node: Callable[..., str]
    ) -> None:
        client, other = connect(site, "room"), connect(site)
        picked = client.connect(namespace="/chat,")["sid"]
        client.send('42/chat,1["__subscribe__","room, 1:*"]')
        assert client.receive() == '43/chat,1[{"ok":true}]'
        assert json.loads(run_node("program.mjs", redis.url, picked)) == [1, 1, 1, 1, 1, 0]
        assert client.receive() == '42["message","to all"]'
        assert client.receive() == '42/chat,["message","to all of /chat"]'
        assert client.receive() == '42/chat,["message","to a channel of /chat"]'
        assert client.receive() == '42/chat,["picked",1,"two"]'
        text = client.receive()
        assert isinstance(text, str)
        assert text.startswith("452-")
        first, second = ({"_placeholder": True, "num": number} for number in (0, 1))
        assert json.loads(text[4:]) == ["file", {"name": "a", "parts": [first, second]}]
        assert client.receive() == b"\0\n\xff"
        assert client.receive() == b""
        assert other.event() == ["message", "to all"]
        for receiver in (client, other):
            receiver.barrier()
        assert gaps == []

    def test_envelope_of_an_unknown_version_is_counted_and_logged_with_remedy(
        self,
        site: Site,
        redis: RedisServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        monkeypatch.setattr(WarningLog, "interval", 1000.0)
        client = connect(site, "room")
        topic = Topic.channel("/", "room").address("webpy_socketio")
        before = get_stats().backplane["ignored"]
        for version in (2, None, 2):
            assert redis.ask("PUBLISH", topic, orjson.dumps({"v": version}) + b'\n["a","no"]') == 1
        redis.ask("PUBLISH", topic, b'{"v":1}\n["a","yes"]')
        assert client.event() == ["a", "yes"]
        assert get_stats().backplane["ignored"] == before + 3
        (line,) = (entry.message for entry in caplog.records if "ignored" in entry.message)
        assert re.search('"v" is 2, but this process reads version 1 .*: change the sender', line)

    def test_invalid_event_of_an_emitter_reaches_no_client(
        self, site: Site, redis: RedisServer, caplog: Any
    ) -> None:
        client = connect(site, "room")
        topic = Topic.channel("/", "room").address("webpy_socketio")
        redis.ask("PUBLISH", topic, b'{"v":1}\n["a",nonsense]')
        redis.ask("PUBLISH", topic, b'{"v":1}\n["a","yes"]')
        assert client.event() == ["a", "yes"]
        assert any("the event is invalid" in entry.message for entry in caplog.records)
