"""History of several processes with a real Redis, including its loss."""

from __future__ import annotations

import functools
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest

from tests.conftest import Site
from tests.history_client import HistoryClient
from tests.redis_server import RedisServer
from tests.servers import ServerProcess, application_source
from webpy_socketio import BackplaneError, Runtime, default_runtime, emit
from webpy_socketio.plugins import history
from webpy_socketio.plugins.history.followers import Request
from webpy_socketio.plugins.history.store import Channel, Page

pytestmark = [pytest.mark.time_limit(60), pytest.mark.usefixtures("long_redis_timeouts")]

PLUGIN = "webpy_socketio.plugins.history"
RULES = {"^room-": {"size": 5, "ttl": 3600}}

PROGRAM = application_source(
    f"""
OPTIONS = {{"plugins": [{PLUGIN!r}], "history": {RULES!r}, "log": None}}
OPTIONS["backplane"] = os.environ["BACKPLANE"]

@on_event("publish")
def publish(request, socket, context, *messages):
    for message in messages:
        to("room-1").send(message)
    return len(messages)
"""
)


@pytest.fixture
def process(redis: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(PROGRAM, tmp_path / "other", {"BACKPLANE": redis.url})
    yield server
    server.close()


@pytest.fixture
def here(redis: RedisServer, serve: Callable[..., Site]) -> Site:
    return serve(plugins=[PLUGIN], history=RULES, backplane=redis.url)


def eventually(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        gevent.sleep(0.01)
    raise AssertionError("the condition was never met")


def stored(channel: str = "room-1", **keywords: Any) -> list[Any]:
    return [message["args"][0] for message in history.messages(channel, **keywords).messages]


def publish(*messages: Any, channel: str = "room-1") -> None:
    for message in messages:
        default_runtime.to(channel).send(message)


class TestTwoProcesses:
    def test_subscriber_receives_messages_of_other_process_in_order(
        self, here: Site, process: ServerProcess
    ) -> None:
        sender, client = HistoryClient(process.port), HistoryClient(here.port)
        assert sender.call("publish", "one", "two") == 2
        eventually(lambda: stored() == ["one", "two"])
        assert client.subscribe("room-1", 1)
        assert sender.call("publish", "three") == 1
        client.wait_for("room-1", "three")
        assert client.events == [["message", "two"], ["message", "three"]]
        assert client.others == []

    def test_client_continues_in_other_process(self, here: Site, process: ServerProcess) -> None:
        client = HistoryClient(here.port)
        client.subscribe("room-1", 5)
        publish("one")
        client.wait_for("room-1", "one")
        publish("two")
        client.reconnect(process.port)
        client.wait_for("room-1", "two")
        assert client.gaps == []
        assert client.events == [["message", "one"], ["message", "two"]]

    def test_ordinary_subscriber_receives_ordinary_events(
        self, here: Site, process: ServerProcess
    ) -> None:
        plain, follower = HistoryClient(process.port), HistoryClient(process.port)
        assert plain.call("__subscribe__", "room-1") == {"ok": True}
        follower.subscribe("room-1", 5)
        publish("one")
        emit("two", channel="room-1")
        follower.wait_for("room-1", "one")
        while len(plain.events) < 2:
            plain.process_next()
        assert plain.events == [["message", "one"], ["two"]]
        assert follower.others == []

    def test_client_that_is_ahead_of_process_receives_each_message_once(
        self, serve: Callable[..., Site], redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = Runtime(), Runtime()
        options: dict[str, Any] = {"plugins": [PLUGIN], "history": RULES, "backplane": redis.url}
        ports = [serve(runtime=runtime, **options).port for runtime in (one, two)]
        slow, client = HistoryClient(ports[1]), HistoryClient(ports[0])
        slow.subscribe("room-1", 5)
        client.subscribe("room-1", 5)
        (followers,) = history._installed[two]._followers.values()
        with monkeypatch.context() as patch:
            patch.setattr(followers, "wake", lambda: None)  # it does not read new messages
            one.to("room-1").send("one")
            client.wait_for("room-1", "one")
            client.reconnect(ports[1])
            client.sync()
        one.to("room-1").send("two")
        for each in (slow, client):
            each.wait_for("room-1", "two")
            assert each.events == [["message", "one"], ["message", "two"]]
        assert client.gaps == []

    @pytest.mark.parametrize("is_silent", [True, False], ids=["moved", "subscribed"])
    def test_follower_that_asks_again_while_it_joins_receives_each_message_once(
        self, here: Site, monkeypatch: pytest.MonkeyPatch, is_silent: bool
    ) -> None:
        client = HistoryClient(here.port)
        client.subscribe("room-1", 5)
        plugin = history._installed[default_runtime]
        (followers,) = plugin._followers.values()
        (socket,) = followers._live
        since = client.positions["room-1"]
        followers.remove(socket)
        publish("missed")
        eventually(lambda: stored() == ["missed"])
        client.started.clear()

        has_read, may_continue = gevent.event.Event(), gevent.event.Event()

        def read(channel: Channel, *args: int, original: Any) -> Page:
            page: Page = original(channel, *args)
            has_read.set()
            may_continue.wait()
            return page

        with monkeypatch.context() as patch:
            for name in ("read", "read_last"):
                original = getattr(plugin.store, name)
                patch.setattr(plugin.store, name, functools.partial(read, original=original))
            if is_silent:
                followers.add_silently(socket)
            else:
                followers.add(socket, Request(5, since))
            has_read.wait()
        may_continue.set()  # the first greenlet continues before it can be killed
        followers.add(socket, Request(5, since))
        publish("newer")
        client.wait_for("room-1", "newer")
        assert client.events == [["message", "missed"], ["message", "newer"]]
        assert client.gaps == []

    def test_process_without_server_reads_and_does_not_store(
        self, redis: RedisServer, process: ServerProcess
    ) -> None:
        cron = Runtime()
        cron.configure({"SOCKETIO_BACKPLANE": redis.url, "SOCKETIO_HISTORY": RULES})
        client = HistoryClient(process.port)
        client.subscribe("room-1", 5)
        assert client.call("publish", "stored") == 1
        client.wait_for("room-1", "stored")
        cron.to("room-1").send("not stored")
        while ["message", "not stored"] not in client.events:
            client.process_next()
        assert stored(runtime=cron) == ["stored"]
        position = history.messages("room-1", runtime=cron)
        assert position.recovered
        history.clear("room-1", runtime=cron)
        found = history.messages("room-1", since=(position.epoch, 0), runtime=cron)
        assert (found.messages, found.recovered) == ([], False)


class TestLimits:
    def test_size_and_number_of_channels_are_limited(
        self, serve: Callable[..., Site], redis: RedisServer
    ) -> None:
        serve(plugins=[PLUGIN], history=RULES, backplane=redis.url, history_channels=2)
        publish(*range(8))
        assert stored() == [3, 4, 5, 6, 7]
        publish("other", channel="room-2")
        eventually(lambda: stored("room-2"))
        gevent.sleep(0.002)  # Redis orders channels by milliseconds
        publish("again")
        publish("third", channel="room-3")
        eventually(lambda: stored("room-3"))
        assert stored("room-2") == []
        assert redis.ask("HGET", "webpy_socketio:1:history:store", "removed") == b"1"

    def test_bytes_are_limited(self, serve: Callable[..., Site], redis: RedisServer) -> None:
        serve(plugins=[PLUGIN], history=RULES, backplane=redis.url, history_bytes=1024)
        publish("a" * 500, "b" * 400, "c" * 300)
        assert [text[0] for text in stored()] == ["b", "c"]
        total = int(redis.ask("HGET", "webpy_socketio:1:history:store", "bytes"))
        assert 700 < total <= 1024

    def test_ttl_removes_messages(self, serve: Callable[..., Site], redis: RedisServer) -> None:
        rules = {"^room-": {"size": 5, "ttl": 0.2}}
        serve(plugins=[PLUGIN], history=rules, backplane=redis.url)
        publish("one")
        found = history.messages("room-1")
        eventually(lambda: not redis.ask("EXISTS", "webpy_socketio:1:history:log:/,room-1"))
        assert stored() == []
        after = history.messages("room-1", since=(found.epoch, 1))
        assert after.recovered, "nothing was missed"

    def test_bytes_arrive_from_redis(self, here: Site) -> None:
        publish({"data": b"\0\n\xff"}, [b"1", b"2"])
        assert stored() == [{"data": b"\0\n\xff"}, [b"1", b"2"]]


class TestLoss:
    def test_lost_store_starts_epoch_and_is_not_recovered(
        self, here: Site, redis: RedisServer
    ) -> None:
        client = HistoryClient(here.port)
        client.subscribe("room-1", 5)
        publish("one")
        client.wait_for("room-1", "one")
        redis.ask("FLUSHALL")
        client.reconnect(here.port)
        assert client.started == {"room-1": False}
        assert client.gaps == ["room-1"]
        publish("two")
        client.wait_for("room-1", "two")

    def test_connected_follower_is_notified_of_lost_store(
        self, here: Site, redis: RedisServer
    ) -> None:
        client = HistoryClient(here.port)
        client.subscribe("room-1", 5)
        publish("one")
        client.wait_for("room-1", "one")
        redis.ask("FLUSHALL")
        publish("two")
        client.wait_for("room-1", "two")
        assert client.gaps == ["room-1"]
        assert client.events == [["message", "one"], ["message", "two"]]

    def test_restart_of_redis_with_its_data_starts_epoch(
        self, here: Site, redis: RedisServer
    ) -> None:
        redis.keep()  # the queue keeps the message until the store is connected again
        publish("one")
        eventually(lambda: stored() == ["one"])
        before = history.messages("room-1")
        redis.stop()
        redis.start()

        def after() -> Any:
            try:
                return history.messages("room-1", since=(before.epoch, before.offset))
            except BackplaneError:
                return None

        assert not eventually(after).recovered
        assert stored() == ["one"]

    def test_without_redis_messages_arrive_and_history_is_empty(
        self,
        here: Site,
        redis: RedisServer,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        client = HistoryClient(here.port)
        client.subscribe("room-1", 5)
        publish("one")
        client.wait_for("room-1", "one")
        redis.stop()
        store: Any = history._installed[default_runtime].store
        publish("two")  # Redis does not reply
        eventually(lambda: store._error is not None)
        with caplog.at_level(logging.WARNING):
            late = HistoryClient(here.port)
            assert not late.subscribe("room-1", 5)
        assert sum("is not available" in line for line in caplog.messages) == 1
        publish("three")
        for each, expected in ((client, ["one", "two", "three"]), (late, ["three"])):
            while len(each.events) < len(expected):
                each.process_next()
            assert each.events == [["message", text] for text in expected]
        assert late.call("history", {"channel": "room-1"}) == {
            "ok": False,
            "error": "history is not available",
        }
        with pytest.raises(BackplaneError):
            history.messages("room-1")
        redis.start()
        eventually(lambda: store._error is None)
        publish("four")
        for each in (client, late):
            each.wait_for("room-1", "four")
            assert each.gaps[0] == "room-1", "some messages were not stored"

    def test_subscription_does_not_hang_while_redis_is_suspended(
        self, here: Site, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webpy_socketio.plugins.history.redis.TIMEOUT", 0.3)
        monkeypatch.setattr("webpy_socketio.backplane.subscriber.CONFIRM_TIMEOUT", 0.3)
        assert redis.process is not None
        redis.process.popen.send_signal(signal.SIGSTOP)
        try:
            client = HistoryClient(here.port)
            assert not client.subscribe("room-1", 5)
        finally:
            redis.process.popen.send_signal(signal.SIGCONT)
        publish("one")
        client.wait_for("room-1", "one")

    def test_message_that_was_not_stored_leaves_a_gap(self, here: Site, redis: RedisServer) -> None:
        publish("one")
        eventually(lambda: stored() == ["one"])
        position = history.messages("room-1")
        store: Any = history._installed[default_runtime].store
        real, store._error = store._error, BackplaneError("as if Redis did not reply")
        publish("two")
        store._error = real
        publish("three")
        eventually(lambda: stored()[-1] == "three")
        found = history.messages("room-1", since=(position.epoch, 1))
        assert not found.recovered

    def test_values_of_other_programs_are_a_gap(self, here: Site, redis: RedisServer) -> None:
        publish("one")
        eventually(lambda: stored() == ["one"])
        key = "webpy_socketio:1:history:log:/,room-1"
        redis.ask("XADD", key, "2-0", "d", json.dumps({"not": "a record"}), "t", 2**52)
        redis.ask("HSET", "webpy_socketio:1:history:channel:/,room-1", "tail", 2)
        found = history.messages("room-1", since=(history.messages("room-1").epoch, 0))
        assert [each["args"] for each in found.messages] == [["one"]]
