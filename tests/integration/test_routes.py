"""``routes``: the receivers of each stage, their order and their places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import APP, run
from tests.redis_server import RedisServer
from webpy_socketio import signals

pytestmark = pytest.mark.time_limit(90)

HANDLERS = """\
import functools, re
from webpy_socketio import *

@on_connecting
def members(request, socket, context): ...

@on_message(channel="^room-")
def talk(request, socket, context, message): ...

@on_event("join")
def join(request, socket, context): ...

@on_event("leave", channel="a-pattern-that-takes-more-room-than-there-is")
def leave(request, socket, context): ...

@on_disconnect(namespace="/chat")
def left(request, socket, context): ...

@on_disconnect(namespace=re.compile("/tenant-[0-9]+$"))
def tenant_left(request, socket, context): ...

class Counter:
    def __call__(self, sender, **extra): ...
    def count(self, sender, **extra): ...

signals.message.connect(Counter().count)
signals.finish.connect(Counter())
signals.finish.connect(functools.partial(Counter.count, None))
"""

PLUGIN = """\
from pathlib import Path
from webpy_socketio import signals
def receive(sender, **extra): ...
def note(word):
    with Path("journal").open("a") as journal:
        journal.write(word + "\\n")
def install(settings):
    note(f"on {settings.backplane}")
    signals.error.connect(receive)
def uninstall():
    note("off")
    signals.error.disconnect(receive)
"""

PLUGINS = ["webpy_socketio.plugins.presence", "mine"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "chat.py").write_text(
        f"{APP}import handlers\nconfigure({{'SOCKETIO_PLUGINS': {PLUGINS}}})\n"
    )
    return tmp_path


def shown(folder: Path, *words: str) -> Any:
    done = run("routes", "chat:app", "--json", *words, cwd=folder)
    assert (done.status, done.err) == (0, "")
    return json.loads(done.out)


class TestText:
    def test_text_is_aligned_and_fits_80_columns(self, folder: Path) -> None:
        done = run("routes", "chat:app", cwd=folder)
        assert (done.status, done.err) == (0, "")
        lines = done.out.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[:3] == ["URLs", "  /                index", "  /socket.io/(.*)  Socket.IO"]
        stages = [line for line in lines[3:] if not line.startswith(" ")]
        gates = [stage.name for stage in signals.GATES]
        assert stages == [
            f"{stage.name} (gate)" if stage.name in gates else stage.name
            for stage in signals.STAGES
        ]
        places = [line.index("handlers.py:") for line in lines if "  handlers.py:" in line[20:]]
        assert len(places) >= 3
        assert len({place for place in places if place > 40}) == 1
        start = lines.index("  leave")  # too long for one line
        assert lines[start + 1].strip().startswith("event 'leave', channel 'a-pattern")
        assert lines[start + 2] == "      handlers.py:13"
        (named,) = (line for line in lines if line.startswith("  left "))
        assert named.split() == ["left", "namespace", "'/chat'", "handlers.py:16"]
        (matched,) = (line for line in lines if line.startswith("  tenant_left "))
        assert matched.split()[1:] == ["namespace", "'/tenant-[0-9]+$'", "handlers.py:19"]


class TestJson:
    def test_json_lists_receivers_in_order_with_details(self, folder: Path) -> None:
        report = shown(folder)
        assert [one["stage"] for one in report["stages"]] == [one.name for one in signals.STAGES]
        stages = {one["stage"]: one for one in report["stages"]}
        assert [name for name in stages if stages[name]["gate"]] == [
            stage.name for stage in signals.GATES
        ]
        received = {
            (stage, one["name"]): (one["event"], one["channel"], one["place"], one["plugin"])
            for stage in stages
            for one in stages[stage]["receivers"]
        }
        assert received["connecting", "members"] == (None, None, "handlers.py:4", None)
        assert received["message", "talk"] == (None, "^room-", "handlers.py:7", None)
        assert received["message", "join"] == ("join", None, "handlers.py:10", None)
        assert received["message", "Counter.count"][2] == "handlers.py:24"
        assert received["finish", "Counter"][2] == "handlers.py:23"
        assert received["finish", "partial"][2] == "handlers.py:24"
        assert received["error", "receive"] == (None, None, "mine.py:3", "mine")
        assert received["message", "Presence._on_state_request"][3] == PLUGINS[0]
        namespaces = {one["name"]: one["namespace"] for one in stages["disconnect"]["receivers"]}
        assert namespaces["left"] == "/chat"
        assert namespaces["tenant_left"] == "/tenant-[0-9]+$"
        assert {one["namespace"] for one in stages["message"]["receivers"]} == {None}
        names = [one["name"] for one in stages["message"]["receivers"]]
        assert names == ["talk", "join", "leave", "Counter.count", "Presence._on_state_request"]

    def test_shadowing_url_pattern_is_reported(self, folder: Path) -> None:
        program = (folder / "chat.py").read_text()
        (folder / "chat.py").write_text(program.replace('("/", "index")', '("/(.*)", "index")'))
        report = shown(folder)
        assert report["hidden_by"] == "/(.*)"
        assert [(one["pattern"], one["socketio"]) for one in report["urls"]] == [
            ("/(.*)", False),
            ("/socket.io/(.*)", True),
        ]
        assert "! '/(.*)' comes before socketio_urls" in run("routes", "chat", cwd=folder).out


class TestIsolation:
    def test_routes_has_no_effect_outside_the_process(self, folder: Path) -> None:
        redis = RedisServer(folder).start()
        try:
            more = (
                f"configure({{'SOCKETIO_PLUGINS': {PLUGINS}, 'SOCKETIO_BACKPLANE': {redis.url!r}}})"
            )
            with (folder / "chat.py").open("a") as program:
                program.write(more)
            report = shown(folder)
            assert any(one["receivers"] for one in report["stages"])
            # The connection of this command is the only one.
            assert redis.ask("INFO", "stats")["total_connections_received"] == 1
        finally:
            redis.stop()
        assert (folder / "journal").read_text() == "on None\noff\n"

    def test_missing_plugin_is_reported(self, folder: Path) -> None:
        (folder / "mine.py").unlink()
        done = run("routes", "chat", cwd=folder)
        assert (done.status, done.out) == (1, "")
        assert "SOCKETIO_PLUGINS names 'mine', which cannot be imported" in done.err


def test_docstrings_of_gates_say_so() -> None:
    gates = [stage for stage in signals.STAGES if str(stage.__doc__).startswith("Gate:")]
    assert gates == list(signals.GATES)
