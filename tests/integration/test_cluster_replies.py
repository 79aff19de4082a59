"""Replies of a Redis Cluster that a real one sends at rare moments only, from a scripted node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest
from gevent.server import StreamServer

from tests.conftest import Journal
from tests.redis_server import LONG_TIMEOUT
from webpy_socketio import BackplaneError, PubSub, connect_redis
from webpy_socketio.backplane.cluster_map import slot_of
from webpy_socketio.backplane.redis import RedisSender
from webpy_socketio.backplane.requests import Request
from webpy_socketio.engine.socketio.packets import encode_ack


class ScriptedNode:
    """The only node of a cluster; `answer` returns the reply to a command, or None for OK."""

    def __init__(self) -> None:
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port = self._server.server_port
        self.url = f"redis+cluster://127.0.0.1:{self.port}"
        self.answer: Callable[[list[bytes]], bytes | None] = lambda command: None
        self.slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % self.port

    def moved(self, topic: bytes) -> bytes:
        """Return a redirection to this node itself."""
        return b"-MOVED %d 127.0.0.1:%d\r\n" % (slot_of(topic), self.port)

    def confirm(self, name: bytes, *topics: bytes) -> bytes:
        """Return the confirmation of a command."""
        kind = name.lower()
        return b"".join(
            b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind, len(topic), topic)
            for topic in topics
        )

    def stop(self) -> None:
        self._server.stop(timeout=1)

    def _serve(self, sock: Any, address: Any) -> None:
        reader = hiredis.Reader()
        while data := sock.recv(65_536):
            reader.feed(data)
            while command := reader.gets():
                sock.sendall(self._reply(command))

    def _reply(self, command: list[bytes]) -> bytes:
        if command[:2] == [b"CLUSTER", b"SLOTS"]:
            return self.slots
        found = self.answer(command)
        if found is not None:
            return found
        name, *words = command
        if name in (b"SSUBSCRIBE", b"SUNSUBSCRIBE"):
            return self.confirm(name, *words)
        if name == b"PING" and words:
            return b"*2\r\n$4\r\npong\r\n$%d\r\n%b\r\n" % (len(words[0]), words[0])
        return b"+OK\r\n"


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    node = ScriptedNode()
    yield node
    node.stop()


@pytest.fixture
def calls() -> Journal:
    return Journal()


@pytest.fixture
def pubsub(node: ScriptedNode, calls: Journal) -> Iterator[PubSub]:
    pubsub = PubSub(
        node.url,
        lambda topic, payload: None,
        on_subscribed=lambda topic: calls.append(("subscribed", topic)),
        on_unsubscribed=lambda topic: calls.append(("unsubscribed", topic)),
    )
    pubsub.attempted.wait(LONG_TIMEOUT)
    yield pubsub
    pubsub.stop()


class TestSubscriptions:
    def test_commands_for_a_slot_that_has_moved_are_each_matched_with_a_reply(
        self, node: ScriptedNode, pubsub: PubSub, calls: Journal
    ) -> None:
        first, second, third = b"{a}1", b"{a}2", b"{b}1"
        received: list[list[bytes]] = []

        def answer(command: list[bytes]) -> bytes | None:
            if command[0] != b"SSUBSCRIBE":
                return None
            received.append(command[1:])
            if len(received) == 1:
                pubsub.subscribe(second)
                return b""
            if len(received) == 2:
                return node.moved(first) + node.moved(second)
            if third in command and received.count([third]) == 1:
                return b"-CLUSTERDOWN Hash slot not served\r\n"
            return None

        node.answer = answer
        pubsub.subscribe(first)
        calls.wait(lambda found: len(found) == 2)
        assert received[:2] == [[first], [second]]
        pubsub.subscribe(third)  # the reply concerns this topic, which is tried again
        calls.wait(lambda found: len(found) == 3)
        assert set(calls) == {("subscribed", topic) for topic in (first, second, third)}

    def test_subscription_that_ends_while_its_slot_moves_is_reported_as_ended(
        self, node: ScriptedNode, pubsub: PubSub, calls: Journal
    ) -> None:
        def answer(command: list[bytes]) -> bytes | None:
            if command[0] != b"SSUBSCRIBE":
                return None
            pubsub.unsubscribe(command[1])
            return node.moved(command[1])

        node.answer = answer
        pubsub.subscribe(b"topic")
        calls.wait(lambda found: len(found) == 1)
        assert list(calls) == [("unsubscribed", b"topic")]

    def test_topic_that_is_subscribed_again_at_once_is_not_ending(
        self, pubsub: Any, calls: Journal
    ) -> None:
        pubsub.subscribe(b"topic")
        calls.wait(lambda found: len(found) == 1)
        pubsub.unsubscribe(b"topic")
        pubsub.subscribe(b"topic")
        calls.wait(lambda found: len(found) == 2)
        assert list(calls) == [("subscribed", b"topic")] * 2
        assert pubsub._ending == {}


class TestRequests:
    def test_request_whose_topic_for_answers_moves_is_incomplete(self, node: ScriptedNode) -> None:
        def answer(command: list[bytes]) -> bytes | None:
            if command[0] == b"SPUBLISH":
                return b":1\r\n"
            if command[0] != b"SSUBSCRIBE":
                return None
            return node.confirm(*command) + node.confirm(b"SUNSUBSCRIBE", *command[1:])

        node.answer = answer
        sender = RedisSender(node.url, "prefix")
        try:
            answers = sender.ask(encode_ack("/", 0, ()), Request("status", timeout=LONG_TIMEOUT))
        finally:
            sender.close()
        assert (answers.processes, answers.is_complete) == (1, False)


class TestMap:
    @pytest.mark.parametrize(
        "slots",
        [
            b"+OK\r\n",
            b"*1\r\n*2\r\n:0\r\n:16383\r\n",
            b"*1\r\n*3\r\n:0\r\n:2000000000\r\n*2\r\n$9\r\n127.0.0.1\r\n:1\r\n",
        ],
    )
    def test_invalid_map_is_an_error_of_the_backplane(
        self, node: ScriptedNode, slots: bytes
    ) -> None:
        node.slots = slots
        with pytest.raises(BackplaneError, match="invalid reply to CLUSTER SLOTS"):
            connect_redis(node.url, LONG_TIMEOUT)

    def test_redirection_of_a_slot_that_does_not_exist_is_an_error_reply(
        self, node: ScriptedNode
    ) -> None:
        node.answer = lambda command: (
            b"-MOVED 16384 127.0.0.1:%d\r\n" % node.port if command[0] == b"GET" else None
        )
        connection = connect_redis(node.url, LONG_TIMEOUT)
        try:
            (reply,) = connection.execute(("GET", "key"))
        finally:
            connection.close()
        assert isinstance(reply, BackplaneError)
