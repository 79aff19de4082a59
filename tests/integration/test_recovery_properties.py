"""Recovery as a property: each message once and in order, or `recovered` is False."""

from __future__ import annotations

from typing import Any

import pytest
import web
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.load_clients import scaled
from webpy_socketio import Runtime, socketio_urls
from webpy_socketio.testing import Client, TestServer

pytestmark = [pytest.mark.time_limit(120), pytest.mark.torture]

#: Settings of the server: few messages, so that positions leave the log.
TIME, MESSAGES = 60, 6

CHANNELS = ("a", "b")


class Model:
    """A client, what it must have received, and since when its connection is lost."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.received: list[int] = []
        self.expected: list[int] = []
        self.channels: set[str] = set()
        self.is_lost = False
        #: Time of the loss.
        self.lost_at = 0
        #: Number of a message up to which the client has certainly received its messages.
        self.position = 0

    def read(self) -> None:
        self.received += [event.data for event in self.client.received()]
        self.position = max([self.position, *self.received[-1:]])


class RecoveryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runtime = Runtime()
        self.server = TestServer(
            web.application(socketio_urls, {}),
            runtime=self.runtime,
            plugins=[],
            recovery_time=TIME,
            recovery_messages=MESSAGES,
        ).start()
        self.models: list[Model] = []
        self.sent = self.now = 0

    def teardown(self) -> None:
        self.server.stop()

    @initialize()
    def first(self) -> None:
        self.connect()

    def pick(self, number: int) -> Model:
        return self.models[number % len(self.models)]

    @precondition(lambda self: len(self.models) < 3)
    @rule()
    def connect(self) -> None:
        self.models.append(Model(self.server.connect()))
        self.models[-1].position = self.sent

    # -- messages

    def message(self) -> int:
        self.sent += 1
        return self.sent

    @rule()
    def send_to_all(self) -> None:
        number = self.message()
        self.runtime.everyone.emit("n", number)
        for model in self.models:
            model.expected.append(number)

    @rule(channels=st.sets(st.sampled_from(CHANNELS), min_size=1))
    def send_to_channels(self, channels: set[str]) -> None:
        number = self.message()
        self.runtime.to(*channels).emit("n", number)
        for model in self.models:
            if channels & model.channels:
                model.expected.append(number)

    @rule(channel=st.sampled_from(CHANNELS), who=st.integers(0, 2))
    def send_except(self, channel: str, who: int) -> None:
        number = self.message()
        excluded = self.pick(who)
        self.runtime.everyone.except_(channel, excluded.client.socket).emit("n", number)
        for model in self.models:
            if channel not in model.channels and model is not excluded:
                model.expected.append(number)

    @rule(channel=st.sampled_from(CHANNELS), who=st.integers(0, 2))
    def send_from_socket(self, channel: str, who: int) -> None:
        number = self.message()
        sender = self.pick(who)
        if not self.is_alive(sender):
            self.sent -= 1
            return
        sender.client.socket._namespace.send(
            sender.client.socket._encode("n", (number,)), (channel,), also=sender.client.socket
        )
        for model in self.models:
            if channel in model.channels or model is sender:
                model.expected.append(number)

    @rule(who=st.integers(0, 2))
    def send_to_one(self, who: int) -> None:
        number = self.message()
        self.pick(who).client.socket.emit("n", number)
        self.pick(who).expected.append(number)

    # -- channels

    def is_alive(self, model: Model) -> bool:
        return model.client.socket.connected or model.client.socket.suspended

    @rule(channel=st.sampled_from(CHANNELS), who=st.integers(0, 2))
    def join(self, channel: str, who: int) -> None:
        model = self.pick(who)
        assert model.client.socket.subscribe(channel) is (
            channel not in model.channels and self.is_alive(model)
        )
        if self.is_alive(model):
            model.channels.add(channel)

    @rule(channel=st.sampled_from(CHANNELS), who=st.integers(0, 2))
    def leave(self, channel: str, who: int) -> None:
        model = self.pick(who)
        model.client.socket.unsubscribe(channel)
        model.channels.discard(channel)

    # -- connections

    @rule(who=st.integers(0, 2), is_detected=st.booleans())
    def lose(self, who: int, is_detected: bool) -> None:
        model = self.pick(who)
        if model.is_lost:
            return
        model.read()
        model.is_lost = True
        model.lost_at = self.now
        if is_detected:
            model.client.lose()
        else:
            model.client.abort()

    @rule(seconds=st.sampled_from([1, 10, 50]))
    def advance(self, seconds: int) -> None:
        self.server.advance(seconds)
        self.now += seconds
        for model in self.models:
            if not self.is_alive(model):
                model.channels.clear()

    @rule(who=st.integers(0, 2))
    def resume(self, who: int) -> None:
        model = self.pick(who)
        if not model.is_lost:
            return
        old = model.client.socket
        recovered = model.client.resume()
        model.is_lost = False
        if self.now - model.lost_at < TIME and self.sent - model.position <= MESSAGES:
            assert recovered, "nothing prevented the recovery"
        assert (model.client.socket is old) is recovered
        if recovered:
            assert set(old.channels) == model.channels
        else:
            assert not old.connected
            assert not old.suspended
            model.received, model.expected, model.channels = [], [], set()
            model.position = self.sent

    @invariant()
    def connected_clients_have_received_each_message_once_and_in_order(self) -> None:
        for model in self.models:
            if not model.is_lost:
                model.read()
                assert model.received == model.expected


RecoveryMachine.TestCase.settings = settings(
    max_examples=scaled(200, 20), stateful_step_count=40, deadline=None
)


class TestRecoveryMachine(RecoveryMachine.TestCase):  # type: ignore[misc,valid-type]
    """The state machine as a test."""

    def runTest(self) -> Any:
        super().runTest()
