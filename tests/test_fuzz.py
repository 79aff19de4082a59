"""What clients may say, at random: the readers by bytes, and sessions by whole state_machines.

By hand and for hours: ``python tests/fuzz/fuzz_codecs.py``. What that finds is kept as a case.
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

from webpy_socketio.engine import Engine, EngineConfig
from webpy_socketio.engine.io.packets import SEPARATOR
from webpy_socketio.engine.io.timeouts import TimeoutQueue

from .fuzz.state_machines import Data, Ledger, Request, Web, settle
from .fuzz.targets import CASES, TARGETS, WORDS, cases

KEPT = [(target, case) for target in TARGETS for case in cases(target)]

#: The suite's share: some seconds for each target.
EXAMPLES = 600
LIVES, STEPS = 200, 40


@st.composite
def mutations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A kept case with some edits, or nothing but words."""
    data = draw(st.sampled_from(seeds) | st.lists(st.sampled_from(WORDS)).map(b"".join))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 6)))
        data = data[:start] + draw(st.sampled_from(WORDS) | st.binary(max_size=4)) + data[end:]
    return data


class TestReaders:
    @pytest.mark.parametrize(("target", "case"), KEPT, ids=[f"{t}-{c.name}" for t, c in KEPT])
    def test_kept_cases(self, target: str, case: Path) -> None:
        TARGETS[target](case.read_bytes())
        assert not case.name.startswith("crash"), "give it a name that says what it is"

    def test_every_folder_of_cases_has_its_target(self) -> None:
        assert {path.name for path in CASES.iterdir()} == set(TARGETS)

    @pytest.mark.patience(60)
    @pytest.mark.parametrize("target", TARGETS)
    def test_nothing_but_documented_errors_escapes(self, target: str) -> None:
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


class Life(RuleBasedStateMachine):
    """One session from its beginning to its end, with a client that does right and wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.engine = Engine(self.ledger, EngineConfig(outbox_packets=20))
        self.web: Web | None = None
        self.candidate: Web | None = None
        self.probed = False
        self.gets: list[Request] = []
        self.posts: list[Request] = []
        self.said: list[Data] = []
        self.told: list[Data] = []
        self.heard: list[Data] = []
        self.count = 0
        self.age = 0

    # -- how it begins

    @initialize(polling=st.booleans(), lifespan=st.integers(0, 24))
    def begin(self, polling: bool, lifespan: int) -> None:
        self.lifespan = lifespan  # steps; or most of them would come after the end
        if polling:
            request = Request(self.engine, "GET", None)
            (packet,) = request.packets()
        else:
            self.web = Web(self.engine, None)
            settle()
            (packet,) = self.web.read()
        assert isinstance(packet, str)
        assert packet.startswith("0{")
        (self.session,) = self.ledger.opens

    # -- what the server does

    @rule(binary=st.booleans(), times=st.integers(1, 3))
    def tell(self, binary: bool, times: int) -> None:
        self._tell(times, binary)

    @rule()
    def pause(self) -> None:
        self.session.pause()

    @precondition(lambda self: self.session.paused)
    @rule()
    def resume(self) -> None:
        self.session.resume()

    @rule()
    def ping(self) -> None:
        self._fall_due(self.engine._heartbeat._resting)

    # -- what a client does

    @precondition(lambda self: self._polls)
    @rule()
    def get(self) -> None:
        self.gets.append(Request(self.engine, "GET", self.session.id))

    @precondition(lambda self: self._polls and not self.posts)
    @rule(binary=st.lists(st.booleans(), min_size=1, max_size=3))
    def post(self, binary: list[bool]) -> None:
        data = [self._say(each) for each in binary]
        self.posts.append(Request(self.engine, "POST", self.session.id, payload(*data)))

    @precondition(lambda self: self.web)
    @rule(binary=st.lists(st.booleans(), min_size=1, max_size=3))
    def send(self, binary: list[bool]) -> None:
        assert self.web is not None
        self.web.send(*(typed(self._say(each)) for each in binary))

    @rule()
    def pong(self) -> None:
        self._packet("3")

    @rule()
    def late_get(self) -> None:
        if self.web is not None:
            assert Request(self.engine, "GET", self.session.id).response.status.startswith("400")

    @precondition(lambda self: self.web or self.candidate)
    @rule()
    def stop_reading(self) -> None:
        (self.web or self.candidate).stream.full = True  # type: ignore[union-attr]

    @precondition(lambda self: self.web or self.candidate)
    @rule()
    def read_on(self) -> None:
        (self.web or self.candidate).stream.drain()  # type: ignore[union-attr]

    # -- the upgrade

    @precondition(lambda self: self._polls and not self.candidate and self.session.open)
    @rule()
    def upgrade(self) -> None:
        self.candidate, self.probed = Web(self.engine, self.session.id), False

    @precondition(lambda self: self.candidate and not self.probed)
    @rule()
    def probe(self) -> None:
        assert self.candidate is not None
        self.candidate.send("2probe")
        self.probed = True

    @precondition(lambda self: self.candidate and self.probed and not self.posts)
    @rule(binary=st.lists(st.booleans(), max_size=2))
    def complete(self, binary: list[bool]) -> None:
        """As a client has to: its POST is answered, and its GET has been let go."""
        assert self.candidate is not None
        settle()
        self._collect()
        candidate, self.candidate = self.candidate, None
        if not self.session.open:  # it never took over, and ends when it has read its farewell
            candidate.stream.drain()
            settle()
            assert candidate.stream.ended
            return
        self.web = candidate
        self.web.send("5", *(typed(self._say(each)) for each in binary))

    @precondition(lambda self: self._polls and not self.candidate and not self.posts)
    @rule(times=st.lists(st.integers(0, 2), min_size=4, max_size=4), waits=st.booleans())
    def change_over(self, times: list[int], waits: bool) -> None:
        """The whole way, while the server goes on sending."""
        self._tell(times[0])
        settle()
        if not self.session.open:
            return
        if waits and not self.gets:
            self.get()
        self.upgrade()
        self._tell(times[1])
        self.probe()
        self._tell(times[2])
        self.complete([False] * times[3])

    @precondition(lambda self: self.candidate)
    @rule(how=st.sampled_from(["5", "lost", "goodbye", "too late", "message", "bytes"]))
    def drop(self, how: str) -> None:
        assert self.candidate is not None
        if how == "too late":
            self._fall_due(self.engine.upgrades._pending)
        elif how == "lost":
            self.candidate.stream.break_off("transport close")
        elif how == "goodbye":
            self.candidate.goodbye()
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
        if self.session.id in self.engine.sessions and (self.web or self.candidate):
            other = Web(self.engine, self.session.id)
            other.send("2probe", "5", "4not mine")
            assert other.stream.ended

    # -- how it ends

    @precondition(lambda self: self._old)
    @rule(packet=st.sampled_from(["0", "2", "5", "6", "9", "", "4!fail", "4!close", "1"]))
    def end_by_packet(self, packet: str) -> None:
        if self._packet(packet) and not self.session.paused:
            assert not self.session.open

    @precondition(lambda self: self._old)
    @rule(how=st.sampled_from(["deadline", "server", "engine", "overflow", "lost"]))
    def end(self, how: str) -> None:
        if how == "deadline":
            self._fall_due(self.engine._heartbeat._resting)
            self._fall_due(self.engine._heartbeat._awaited)
        elif how == "server":
            self.session.close("forced close")
        elif how == "engine":
            self.engine.close()
        elif how == "overflow":
            self._tell(21)
        elif self.web is not None:
            self.web.stream.break_off("transport error")

    @precondition(lambda self: self._old and self.gets)
    @rule()
    def end_by_hanging_up(self) -> None:
        if self.gets[-1].hang_up():
            assert not self.session.open

    @precondition(lambda self: self._old and self.web)
    @rule()
    def end_by_goodbye(self) -> None:
        assert self.web is not None
        self.web.goodbye()

    # -- what is always true

    @invariant()
    def nothing_is_lost_or_swapped(self) -> None:
        if not self.ledger.opens:
            return
        self.age += 1
        settle()
        self._collect()
        assert self.heard == self.told[: len(self.heard)]
        assert self.ledger.messages == self.said[: len(self.ledger.messages)]

    @invariant()
    def it_ends_once_and_leaves_nothing(self) -> None:
        if not self.ledger.opens:
            return
        engine, session = self.engine, self.session
        heartbeat = engine._heartbeat
        waits = (session in heartbeat._resting) + (session in heartbeat._awaited)
        if session.open:
            assert self.ledger.closes == []
            assert waits == 1
            assert engine.sessions == {session.id: session}
            assert len(engine._lingering) == 0
        else:
            assert self.ledger.closes == [session.reason]
            assert waits == 0
            assert len(engine._lingering) == len(engine.sessions)
            assert session.upgrading is None
            assert not heartbeat._since
        assert len(engine.upgrades._pending) == (session.upgrading is not None)
        assert not session.open or bool(self.candidate) == (session.upgrading is not None)

    def teardown(self) -> None:
        """Whatever happened: a client that reads gets all there is, and then nothing is left."""
        if not self.ledger.opens:
            return
        while self.session.paused:
            self.session.resume()
        settle()
        for web in (self.web, self.candidate):
            if web is not None:
                web.stream.drain()
        if self.session.open:
            if self.candidate is not None:
                self.drop("lost")
            while self._polls and (self.session.outbox or self.gets):
                if not self.gets:
                    self.get()
                settle()
                self._collect()
                if not self.session.outbox:
                    break
            settle()
            self._collect()
            assert self.heard == self.told
            assert self.ledger.messages == self.said
            self.session.close("forced close")
        settle()
        self._collect()
        assert self.gets == []
        assert self.posts == []
        self._fall_due(self.engine._lingering)
        self.it_ends_once_and_leaves_nothing()
        assert self.engine.sessions == {}
        for web in (self.web, self.candidate):
            assert web is None or web.stream.ended
        self.engine.dispose()

    # -- how

    @property
    def _polls(self) -> bool:
        return self.web is None and bool(self.ledger.opens)

    @property
    def _old(self) -> bool:
        return self.age >= self.lifespan

    def _next(self, binary: bool) -> Data:
        self.count += 1
        return b"%d" % self.count if binary else str(self.count)

    def _tell(self, times: int, binary: bool = False) -> None:
        for _ in range(times):
            data = self._next(binary)
            if self.session.open:
                self.told.append(data)
            self.session.send(data)

    def _say(self, binary: bool) -> Data:
        """The next message of the client, which counts if the session is there to hear it."""
        data = self._next(binary)
        self.said.append(data)
        return data

    def _packet(self, packet: str) -> bool:
        """Send one packet by whatever carries the session; False if nothing can."""
        if self.web is not None:
            self.web.send(packet)
        elif not self.posts:
            self.posts.append(Request(self.engine, "POST", self.session.id, packet.encode()))
        else:
            return False
        return True

    def _fall_due(self, deadlines: TimeoutQueue[Any]) -> None:
        """Let pass the time that what is in `deadlines` has."""
        for item in list(deadlines._due):
            deadlines.discard(item)
            deadlines._on_due(item)

    def _collect(self) -> None:
        """Take what arrived."""
        for request in [each for each in self.gets if each.done]:
            self.gets.remove(request)
            self._hear(request.packets())
        self.posts = [each for each in self.posts if not each.done]
        for web in (self.web, self.candidate):
            if web is not None:
                self._hear(web.read())

    def _hear(self, items: list[Data]) -> None:
        for item in items:
            if isinstance(item, bytes):
                self.heard.append(item)
            elif item[0] == "4":
                self.heard.append(item[1:])
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
    def test_one_that_was_found(self) -> None:
        """Closed while its second half of an upgrade waits for a client that does not read."""
        life = Life()
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
            life.nothing_is_lost_or_swapped()
            life.it_ends_once_and_leaves_nothing()
        life.teardown()

    @pytest.mark.patience(90)
    def test_every_life_ends_once_and_in_order(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.CRITICAL)  # "!fail" is logged each time
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=LIVES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
        assert caplog.records == []
