"""Subscriptions of plugins and of the backplane to Redis Pub/Sub, with a real Redis."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from tests.conftest import Journal
from tests.redis_server import LONG_TIMEOUT, RedisServer
from tests.servers import free_port
from webpy_socketio import ConfigurationError, PubSub, RedisConnector
from webpy_socketio.backplane import connection as connection_module
from webpy_socketio.backplane import pubsub as pubsub_module
from webpy_socketio.backplane.addresses import parse_address
from webpy_socketio.backplane.subscriptions import SUBSCRIBED, UNSUBSCRIBED, Changes, Subscriptions

pytestmark = pytest.mark.time_limit(30)

MakePubSub = Callable[..., PubSub]


@pytest.fixture
def calls() -> Journal:
    """Record the calls of the callbacks as tuples."""
    return Journal()


@pytest.fixture
def make(redis: RedisServer, calls: Journal) -> Iterator[MakePubSub]:
    """Return a function that creates a `PubSub` whose callbacks are recorded."""
    made: list[PubSub] = []

    def make(**keywords: Any) -> PubSub:
        names = ("subscribed", "unsubscribed", "resubscribed", "disconnected")
        callbacks: dict[str, Any] = {
            "url": redis.url,
            "on_message": lambda topic, payload: calls.append(("message", topic, payload)),
            **{
                f"on_{name}": lambda *args, name=name: calls.append((name, *args)) for name in names
            },
        }
        made.append(PubSub(**{**callbacks, **keywords}))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def subscribe(pubsub: PubSub, topic: bytes) -> None:
    """Subscribe, and wait until the subscription is in force."""
    pubsub.attempted.wait()
    pubsub.subscribe(topic)
    while not pubsub.wait(topic, LONG_TIMEOUT):
        gevent.sleep(0.01)


class TestPubSub:
    @pytest.mark.parametrize("parser", ["hiredis", "redis"])
    def test_large_and_small_messages_arrive_with_both_parsers(
        self,
        parser: str,
        make: MakePubSub,
        redis: RedisServer,
        calls: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if parser == "redis":  # installed without hiredis
            monkeypatch.setattr(connection_module, "hiredis", None)
        subscribe(make(), b"news")
        connection = connection_module.RedisConnection(parse_address(redis.url), LONG_TIMEOUT)
        payloads = [b"x" * 300_000, b"\r\n", b""]
        assert connection.publish([(b"news", payload) for payload in payloads]) == [1, 1, 1]
        (error,) = connection.execute(("NOTHING",))
        assert "rejected a command" in str(error)
        connection.close()
        calls.wait_for(("message", b"news", b""))
        assert calls[1:] == [("message", b"news", payload) for payload in payloads]

    def test_pairs_of_a_group_are_published_together(
        self, make: MakePubSub, redis: RedisServer, calls: Journal
    ) -> None:
        subscribe(make(), b"one")
        connection = connection_module.RedisConnection(parse_address(redis.url), LONG_TIMEOUT)
        with redis.redis.Redis(port=redis.port) as link, link.monitor() as monitor:
            groups = [
                [(b"one", b"1"), (b"two", b"1")],
                [(b"one", b"2")],
                [(b"two", b"3"), (b"one", b"3")],
            ]
            assert connection.publish_together(groups) == [1, 0, 1, 0, 1]
            commands = [monitor.next_command() for _ in range(7)]
        words = [command["command"].split()[0] for command in commands]
        assert words == [
            *("EVAL", "PUBLISH", "PUBLISH"),
            "PUBLISH",
            *("EVAL", "PUBLISH", "PUBLISH"),
        ]
        assert [command["client_type"] for command in commands[1:4]] == ["lua", "lua", "tcp"]
        connection.close()
        calls.wait_for(("message", b"one", b"3"))

    def test_message_on_a_subscribed_topic_is_passed_to_on_message(
        self, make: MakePubSub, redis: RedisServer, calls: Journal
    ) -> None:
        subscribe(make(), b"news")
        redis.ask("PUBLISH", "other", "no")
        redis.ask("PUBLISH", "news", b"\xff")
        calls.wait_for(("message", b"news", b"\xff"))
        assert calls == [("subscribed", b"news"), ("message", b"news", b"\xff")]

    def test_topic_with_asterisk_is_no_pattern(
        self, make: MakePubSub, redis: RedisServer, calls: Journal
    ) -> None:
        subscribe(make(), b"n*")
        assert redis.ask("PUBLISH", "news", "no") == 0
        assert redis.ask("PUBLISH", "n*", "yes") == 1
        calls.wait_for(("message", b"n*", b"yes"))

    def test_unsubscribe_ends_messages_and_is_reported(
        self, make: MakePubSub, redis: RedisServer, calls: Journal
    ) -> None:
        pubsub = make()
        subscribe(pubsub, b"news")
        pubsub.unsubscribe(b"news")
        pubsub.unsubscribe(b"news")
        assert pubsub.wait(b"news", LONG_TIMEOUT)
        assert not pubsub.is_subscribed(b"news")
        assert redis.ask("PUBLISH", "news", "no") == 0
        assert calls == [("subscribed", b"news"), ("unsubscribed", b"news")]

    def test_subscribe_again_before_the_command_was_sent_reports_the_subscription(
        self, make: MakePubSub, calls: Journal
    ) -> None:
        pubsub = make()
        subscribe(pubsub, b"news")
        calls.clear()
        pubsub.unsubscribe(b"news")
        pubsub.subscribe(b"news")
        pubsub.subscribe(b"news")
        calls.wait(len)
        assert calls == [("subscribed", b"news")]

    def test_unsubscribe_before_the_command_was_sent_leaves_no_topic(
        self, make: MakePubSub, redis: RedisServer, calls: Journal
    ) -> None:
        pubsub = make()
        pubsub.attempted.wait()
        pubsub.subscribe(b"gone")
        pubsub.unsubscribe(b"gone")
        assert pubsub.wait(b"gone", LONG_TIMEOUT)
        subscribe(pubsub, b"news")
        assert redis.topics() == {"news"}
        assert calls == [("subscribed", b"news")]

    def test_lost_connection_is_replaced_and_reported(
        self, make: MakePubSub, redis: RedisServer, calls: Journal
    ) -> None:
        pubsub = make()
        subscribe(pubsub, b"one")
        subscribe(pubsub, b"two")
        calls.clear()
        redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
        calls.wait_for(("resubscribed",))
        assert calls == [
            ("disconnected",),
            ("subscribed", b"one"),
            ("subscribed", b"two"),
            ("resubscribed",),
        ]
        redis.ask("PUBLISH", "two", "again")
        calls.wait_for(("message", b"two", b"again"))

    def test_outage_is_logged_with_effect_and_consequence(
        self, make: MakePubSub, redis: RedisServer, calls: Journal, caplog: Any
    ) -> None:
        subscribe(make(effect="prices are outdated", consequence="prices are read again"), b"news")
        redis.stop()
        calls.wait_for(("disconnected",))
        redis.start()
        calls.wait_for(("resubscribed",))
        lost, back = [record.message for record in caplog.records]
        assert lost.startswith(f"Redis at 127.0.0.1:{redis.port} is unreachable")
        assert lost.endswith("; prices are outdated")
        assert back.startswith(f"reconnected to Redis at 127.0.0.1:{redis.port} after ")
        assert back.endswith("; prices are read again")

    def test_topic_subscribed_during_an_outage_is_in_force_afterwards(
        self, make: MakePubSub, redis: RedisServer, calls: Journal
    ) -> None:
        redis.stop()
        pubsub = make()
        pubsub.attempted.wait()
        for topic in (b"news", b"gone"):
            pubsub.subscribe(topic)
            assert not pubsub.wait(topic, LONG_TIMEOUT)  # returns at once
        pubsub.unsubscribe(b"gone")
        assert calls == []
        redis.start()
        calls.wait_for(("resubscribed",))
        assert calls == [("subscribed", b"news"), ("resubscribed",)]
        assert redis.topics() == {"news"}

    def test_wait_with_suspended_redis_times_out_once(
        self, make: MakePubSub, redis: RedisServer
    ) -> None:
        pubsub = make(timeout=1000.0)
        subscribe(pubsub, b"news")
        assert redis.process is not None
        redis.process.popen.send_signal(signal.SIGSTOP)
        pubsub.subscribe(b"first")
        assert not pubsub.wait(b"first", 0.1)
        for number in range(100):
            pubsub.subscribe(b"%d" % number)
            assert not pubsub.wait(b"%d" % number, LONG_TIMEOUT)  # returns at once
        redis.process.popen.send_signal(signal.SIGCONT)
        subscribe(pubsub, b"last")
        assert pubsub.wait(b"99", LONG_TIMEOUT)

    def test_failing_callback_is_logged_and_later_ones_run(
        self, make: MakePubSub, redis: RedisServer, calls: Journal, caplog: Any
    ) -> None:
        def fail(*args: Any) -> None:
            calls.append(args)
            raise ZeroDivisionError

        pubsub = make(on_message=fail, on_subscribed=fail)
        subscribe(pubsub, b"news")
        for payload in (b"one", b"two"):
            redis.ask("PUBLISH", "news", payload)
        calls.wait_for((b"news", b"two"))
        assert calls == [(b"news",), (b"news", b"one"), (b"news", b"two")]
        assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"] * 3

    def test_rejected_subscription_is_logged_and_retried_with_increasing_delays(
        self, make: MakePubSub, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: Any
    ) -> None:
        attempts = Journal()
        series = iter(range(1_000))

        def delays() -> Iterator[float]:
            number = next(series)
            while True:
                attempts.append(number)
                yield 0.01

        monkeypatch.setattr(pubsub_module, "reconnect_delays", delays)
        redis.ask("ACL", "SETUSER", "ann", "on", ">secret", "+@all", "resetchannels")
        make(url=f"redis://ann:secret@127.0.0.1:{redis.port}").subscribe(b"news")
        attempts.wait(lambda attempts: len(attempts) == 3)
        assert set(attempts) == {0}  # the delays did not start again
        assert len(caplog.records) == 1
        assert "rejected a command" in caplog.text

    def test_confirmed_subscription_resets_the_delays(
        self, make: MakePubSub, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, calls: Journal
    ) -> None:
        def delays() -> Iterator[float]:
            return iter([0.01])  # a second delay would end the greenlet

        monkeypatch.setattr(pubsub_module, "reconnect_delays", delays)
        subscribe(make(), b"news")
        for _ in range(3):
            calls.clear()
            redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
            calls.wait_for(("resubscribed",))

    def test_stop_closes_the_connection_and_reports_it(
        self, make: MakePubSub, redis: RedisServer, calls: Journal
    ) -> None:
        pubsub = make()
        subscribe(pubsub, b"news")
        calls.clear()
        pubsub.stop()
        assert calls == [("disconnected",)]
        while redis.topics():
            gevent.sleep(0.01)

    def test_invalid_arguments_raise_an_error_at_the_caller(self, make: MakePubSub) -> None:
        for url in (None, "", "localhost", "rediss://:secret@host?a=b", "redis://:se/cret@host"):
            with pytest.raises(ConfigurationError, match="URL of Redis") as failure:
                make(url=url)
            assert "secret" not in str(failure.value)
        for timeout in (0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="timeout"):
                make(timeout=timeout)
        with pytest.raises(TypeError, match="bytes"):
            make().subscribe("news")

    @pytest.mark.slow
    def test_missing_redis_library_raises_error_with_remedy(self) -> None:
        program = (
            "import sys\nfrom webpy_socketio import ConfigurationError, PubSub\n"
            "assert 'redis' not in sys.modules\nsys.modules['redis'] = None\n"
            "try:\n    PubSub('redis://localhost', print)\n"
            "except ConfigurationError as error:\n    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert 'pip install "webpy_socketio[redis]"' in done.stdout


class TestSubscriptions:
    """The requested and confirmed states, without Redis."""

    def test_unsubscribe_while_subscribing_is_sent_after_the_confirmation(self) -> None:
        subscriptions = Subscriptions()
        assert subscriptions.add(b"t")
        assert subscriptions.take_changes() == Changes([b"t"], [], [])
        assert subscriptions.discard(b"t")
        assert subscriptions.take_changes() == Changes([], [], [])
        assert not subscriptions.confirm(b"t", SUBSCRIBED)
        assert subscriptions.take_changes() == Changes([], [b"t"], [])
        assert subscriptions.confirm(b"t", UNSUBSCRIBED)
        assert not subscriptions

    def test_subscribe_while_unsubscribing_is_sent_after_the_confirmation(self) -> None:
        subscriptions = Subscriptions()
        subscriptions.add(b"t")
        subscriptions.take_changes()
        subscriptions.confirm(b"t", SUBSCRIBED)
        subscriptions.discard(b"t")
        assert subscriptions.take_changes() == Changes([], [b"t"], [])
        assert subscriptions.add(b"t")
        assert subscriptions.take_changes() == Changes([], [], [])
        assert not subscriptions.confirm(b"t", UNSUBSCRIBED)
        assert subscriptions.take_changes() == Changes([b"t"], [], [])

    def test_confirmed_topic_is_not_renewed(self) -> None:
        subscriptions = Subscriptions()
        subscriptions.add(b"t")
        subscriptions.take_changes()
        subscriptions.discard(b"t")
        subscriptions.add(b"t")
        assert subscriptions.confirm(b"t", SUBSCRIBED)
        assert subscriptions.take_changes() == Changes([], [], [])

    def test_reset_requests_wanted_topics_again_and_discards_others(self) -> None:
        subscriptions = Subscriptions()
        for topic in (b"a", b"b"):
            subscriptions.add(topic)
        subscriptions.take_changes()
        subscriptions.discard(b"b")
        subscriptions.reset()
        assert list(subscriptions) == [b"a"]
        assert subscriptions.take_changes() == Changes([b"a"], [], [])


class TestRedisConnector:
    def test_ended_connector_does_not_kill_a_greenlet_that_connects(
        self, redis: RedisServer
    ) -> None:
        connector = RedisConnector(redis.url)
        greenlet = gevent.spawn(connector.open, 5.0)
        gevent.sleep(0)
        connector.end(greenlet)
        greenlet.join()
        assert str(greenlet.exception) == "the server is stopping"

    def test_end_kills_a_waiting_greenlet(self) -> None:
        connector = RedisConnector(f"redis://127.0.0.1:{free_port()}")
        greenlet = gevent.spawn(gevent.sleep, 1000)
        connector.end(greenlet)
        assert greenlet.dead
