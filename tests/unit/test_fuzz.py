"""Fuzzing: parsers with mutated bytes, and sessions with a random state machine.

``python tests/fuzz/fuzz_codecs.py`` fuzzes the parsers for longer and saves failing inputs.
"""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fuzz.state_machines import Data, MemoryWebSocket, RecordingReceiver, Request, settle
from tests.fuzz.targets import CASES, TARGETS, WORDS, cases
from tests.load_clients import scaled
from webpy_socketio.engine import Engine, EngineConfig
from webpy_socketio.engine.io.packets import SEPARATOR
from webpy_socketio.engine.io.timeouts import TimeoutQueue

SAVED_CASES = [(target, case) for target in TARGETS for case in cases(target)]

#: Number of inputs per target, and of random sessions with their steps; more in `make torture`.
EXAMPLES = scaled(2_000, 150)
MACHINES, STEPS = scaled(500, 100), 40


@st.composite
def mutations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Generate a saved case with some edits, or a sequence of words."""
    data = draw(st.sampled_from(seeds) | st.lists(st.sampled_from(WORDS)).map(b"".join))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 6)))
        data = data[:start] + draw(st.sampled_from(WORDS) | st.binary(max_size=4)) + data[end:]
    return data


class TestParsers:
    @pytest.mark.parametrize(
        ("target", "case"), SAVED_CASES, ids=[f"{t}-{c.name}" for t, c in SAVED_CASES]
    )
    def test_saved_case_passes(self, target: str, case: Path) -> None:
        TARGETS[target](case.read_bytes())
        assert not case.name.startswith("crash"), "rename it to describe the case"

    def test_every_case_folder_has_a_target(self) -> None:
        assert {path.name for path in CASES.iterdir()} == set(TARGETS)

    @pytest.mark.torture
    @pytest.mark.time_limit(60)
    @pytest.mark.parametrize("target", TARGETS)
    def test_mutated_cases_raise_documented_errors_only(self, target: str) -> None:
        seeds = [case.read_bytes() for case in cases(target)]
        tried: list[int] = []

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(mutations(seeds))
        def fuzz(data: bytes) -> None:
            TARGETS[target](data)
            tried.append(len(data))

        fuzz()
        assert len(tried) >= EXAMPLES // 2


class SessionMachine(RuleBasedStateMachine):
    """One session from handshake to end, with valid and invalid actions of client and server."""

    def __init__(self) -> None:
        super().__init__()
        self.receiver = RecordingReceiver()
        self.engine = Engine(self.receiver, EngineConfig(outbox_packets=20))
        self.websocket: MemoryWebSocket | None = None
        self.candidate: MemoryWebSocket | None = None
        self.probed = False
        self.gets: list[Request] = []
        self.posts: list[Request] = []
        self.client_messages: list[Data] = []
        self.server_messages: list[Data] = []
        self.received: list[Data] = []
        self.count = 0
        self.age = 0

    # -- handshake

    @initialize(polling=st.booleans(), lifespan=st.integers(0, 24))
    def begin(self, polling: bool, lifespan: int) -> None:
        self.lifespan = lifespan  # minimum number of steps before the session may end
        if polling:
            request = Request(self.engine, "GET", None)
            (packet,) = request.packets()
        else:
            self.websocket = MemoryWebSocket(self.engine, None)
            settle()
            (packet,) = self.websocket.read()
        assert isinstance(packet, str)
        assert packet.startswith("0{")
        (self.session,) = self.receiver.opens

    # -- actions of the server

    @rule(binary=st.booleans(), times=st.integers(1, 3))
    def server_send(self, binary: bool, times: int) -> None:
        self._server_send(times, binary)

    @rule()
    def pause(self) -> None:
        self.session.pause()

    @precondition(lambda self: self.session.paused)
    @rule()
    def resume(self) -> None:
        self.session.resume()

    @rule()
    def ping(self) -> None:
        self._expire(self.engine._heartbeat._idle)

    # -- actions of the client

    @precondition(lambda self: self._is_polling)
    @rule()
    def get(self) -> None:
        self.gets.append(Request(self.engine, "GET", self.session.id))

    @precondition(lambda self: self._is_polling and not self.posts)
    @rule(binary=st.lists(st.booleans(), min_size=1, max_size=3))
    def post(self, binary: list[bool]) -> None:
        data = [self._next_client_message(each) for each in binary]
        self.posts.append(Request(self.engine, "POST", self.session.id, payload(*data)))

    @precondition(lambda self: self.websocket)
    @rule(binary=st.lists(st.booleans(), min_size=1, max_size=3))
    def send(self, binary: list[bool]) -> None:
        assert self.websocket is not None
        self.websocket.send(*(typed(self._next_client_message(each)) for each in binary))

    @rule()
    def pong(self) -> None:
        self._send_packet("3")

    @rule()
    def late_get(self) -> None:
        if self.websocket is not None:
            assert Request(self.engine, "GET", self.session.id).response.status.startswith("400")

    @precondition(lambda self: self.websocket or self.candidate)
    @rule()
    def stop_reading(self) -> None:
        (self.websocket or self.candidate).stream.full = True  # type: ignore[union-attr]

    @precondition(lambda self: self.websocket or self.candidate)
    @rule()
    def resume_reading(self) -> None:
        (self.websocket or self.candidate).stream.drain()  # type: ignore[union-attr]

    # -- upgrade

    @precondition(lambda self: self._is_polling and not self.candidate and self.session.open)
    @rule()
    def upgrade(self) -> None:
        self.candidate, self.probed = MemoryWebSocket(self.engine, self.session.id), False

    @precondition(lambda self: self.candidate and not self.probed)
    @rule()
    def probe(self) -> None:
        assert self.candidate is not None
        self.candidate.send("2probe")
        self.probed = True

    @precondition(lambda self: self.candidate and self.probed and not self.posts)
    @rule(binary=st.lists(st.booleans(), max_size=2))
    def complete(self, binary: list[bool]) -> None:
        """Complete the upgrade as clients must: no POST is pending, and the GET has ended."""
        assert self.candidate is not None
        settle()
        self._collect_responses()
        candidate, self.candidate = self.candidate, None
        if not self.session.open:  # the candidate closes once its close frame is read
            candidate.stream.drain()
            settle()
            assert candidate.stream.closed
            return
        self.websocket = candidate
        self.websocket.send("5", *(typed(self._next_client_message(each)) for each in binary))

    @precondition(lambda self: self._is_polling and not self.candidate and not self.posts)
    @rule(times=st.lists(st.integers(0, 2), min_size=4, max_size=4), waits=st.booleans())
    def upgrade_while_sending(self, times: list[int], waits: bool) -> None:
        """Upgrade completely while the server is sending."""
        self._server_send(times[0])
        settle()
        if not self.session.open:
            return
        if waits and not self.gets:
            self.get()
        self.upgrade()
        self._server_send(times[1])
        self.probe()
        self._server_send(times[2])
        self.complete([False] * times[3])

    @precondition(lambda self: self.candidate)
    @rule(how=st.sampled_from(["5", "lost", "send_close", "too late", "message", "bytes"]))
    def drop(self, how: str) -> None:
        assert self.candidate is not None
        if how == "too late":
            self._expire(self.engine.upgrades._pending)
        elif how == "lost":
            self.candidate.stream.lose("transport close")
        elif how == "send_close":
            self.candidate.send_close()
        elif how == "message":
            self.candidate.send("4too early")
        elif how == "bytes":
            self.candidate.send(b"too early")
        elif not self.probed:
            self.candidate.send("5")
        else:
            return
        settle()
        assert self.session.upgrading is None
        self.candidate = None

    @rule()
    def second_websocket(self) -> None:
        if self.session.id in self.engine.sessions and (self.websocket or self.candidate):
            other = MemoryWebSocket(self.engine, self.session.id)
            other.send("2probe", "5", "4not mine")
            assert other.stream.closed

    # -- end of the session

    @precondition(lambda self: self._may_end)
    @rule(packet=st.sampled_from(["0", "2", "5", "6", "9", "", "4!fail", "4!close", "1"]))
    def end_by_packet(self, packet: str) -> None:
        if self._send_packet(packet) and not self.session.paused:
            assert not self.session.open

    @precondition(lambda self: self._may_end)
    @rule(how=st.sampled_from(["deadline", "server", "engine", "overflow", "lost"]))
    def end(self, how: str) -> None:
        if how == "deadline":
            self._expire(self.engine._heartbeat._idle)
            self._expire(self.engine._heartbeat._pending)
        elif how == "server":
            self.session.close("forced close")
        elif how == "engine":
            self.engine.close()
        elif how == "overflow":
            self._server_send(21)
        elif self.websocket is not None:
            self.websocket.stream.lose("transport error")

    @precondition(lambda self: self._may_end and self.gets)
    @rule()
    def end_by_closing_the_poll(self) -> None:
        if self.gets[-1].close_connection():
            assert not self.session.open

    @precondition(lambda self: self._may_end and self.websocket)
    @rule()
    def end_by_close_frame(self) -> None:
        assert self.websocket is not None
        self.websocket.send_close()

    # -- invariants

    @invariant()
    def messages_are_in_order(self) -> None:
        if not self.receiver.opens:
            return
        self.age += 1
        settle()
        self._collect_responses()
        assert self.received == self.server_messages[: len(self.received)]
        assert self.receiver.messages == self.client_messages[: len(self.receiver.messages)]

    @invariant()
    def session_ends_once_and_is_removed(self) -> None:
        if not self.receiver.opens:
            return
        engine, session = self.engine, self.session
        heartbeat = engine._heartbeat
        waits = (session in heartbeat._idle) + (session in heartbeat._pending)
        if session.open:
            assert self.receiver.closes == []
            assert waits == 1
            assert engine.sessions == {session.id: session}
            assert len(engine._lingering) == 0
        else:
            assert self.receiver.closes == [session.reason]
            assert waits == 0
            assert len(engine._lingering) == len(engine.sessions)
            assert session.upgrading is None
            assert not heartbeat._since
        assert len(engine.upgrades._pending) == (session.upgrading is not None)
        assert not session.open or bool(self.candidate) == (session.upgrading is not None)

    def teardown(self) -> None:
        """Check that a reading client receives all messages, and that nothing remains."""
        if not self.receiver.opens:
            return
        while self.session.paused:
            self.session.resume()
        settle()
        for websocket in (self.websocket, self.candidate):
            if websocket is not None:
                websocket.stream.drain()
        if self.session.open:
            if self.candidate is not None:
                self.drop("lost")
            while self._is_polling and (self.session.outbox or self.gets):
                if not self.gets:
                    self.get()
                settle()
                self._collect_responses()
                if not self.session.outbox:
                    break
            settle()
            self._collect_responses()
            assert self.received == self.server_messages
            assert self.receiver.messages == self.client_messages
            self.session.close("forced close")
        settle()
        self._collect_responses()
        assert self.gets == []
        assert self.posts == []
        self._expire(self.engine._lingering)
        self.session_ends_once_and_is_removed()
        assert self.engine.sessions == {}
        for websocket in (self.websocket, self.candidate):
            assert websocket is None or websocket.stream.closed
        self.engine.dispose()

    # -- helpers

    @property
    def _is_polling(self) -> bool:
        return self.websocket is None and bool(self.receiver.opens)

    @property
    def _may_end(self) -> bool:
        return self.age >= self.lifespan

    def _next_message(self, binary: bool) -> Data:
        self.count += 1
        return b"%d" % self.count if binary else str(self.count)

    def _server_send(self, times: int, binary: bool = False) -> None:
        for _ in range(times):
            data = self._next_message(binary)
            if self.session.open:
                self.server_messages.append(data)
            self.session.send(data)

    def _next_client_message(self, binary: bool) -> Data:
        """Return the next message of the client, and record it."""
        data = self._next_message(binary)
        self.client_messages.append(data)
        return data

    def _send_packet(self, packet: str) -> bool:
        """Send one packet by the current transport; return False if a POST is pending."""
        if self.websocket is not None:
            self.websocket.send(packet)
        elif not self.posts:
            self.posts.append(Request(self.engine, "POST", self.session.id, packet.encode()))
        else:
            return False
        return True

    def _expire(self, deadlines: TimeoutQueue[Any]) -> None:
        """Let all timeouts in `deadlines` expire."""
        for item in list(deadlines._due):
            deadlines.discard(item)
            deadlines._on_due(item)

    def _collect_responses(self) -> None:
        """Read completed responses and frames."""
        for request in [each for each in self.gets if each.done]:
            self.gets.remove(request)
            self._receive(request.packets())
        self.posts = [each for each in self.posts if not each.done]
        for websocket in (self.websocket, self.candidate):
            if websocket is not None:
                self._receive(websocket.read())

    def _receive(self, items: list[Data]) -> None:
        for item in items:
            if isinstance(item, bytes):
                self.received.append(item)
            elif item[0] == "4":
                self.received.append(item[1:])
            else:
                assert item in ("1", "2", "3probe", "6"), item


def typed(data: Data) -> Data:
    return "4" + data if isinstance(data, str) else data


def payload(*items: Data) -> bytes:
    return SEPARATOR.join(
        b"4" + item.encode() if isinstance(item, str) else b"b" + base64.b64encode(item)
        for item in items
    )


class TestSessions:
    def test_close_during_an_upgrade_of_a_slow_client(self) -> None:
        """The session is closed while an upgrade waits for a client that does not read."""
        life = SessionMachine()
        for step in (
            lambda: life.begin(polling=True, lifespan=0),
            life.upgrade,
            life.probe,
            life.stop_reading,
            lambda: life.end("server"),
            lambda: life.complete([]),
            life.late_get,
        ):
            step()
            life.messages_are_in_order()
            life.session_ends_once_and_is_removed()
        life.teardown()

    @pytest.mark.torture
    @pytest.mark.time_limit(90)
    def test_random_sessions_end_once_with_messages_in_order(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL)  # each "!fail" is logged
        run_state_machine_as_test(
            SessionMachine,
            settings=settings(
                max_examples=MACHINES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
        assert caplog.records == []
