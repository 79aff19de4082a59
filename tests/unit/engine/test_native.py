"""The native core and its twin in pure Python: both pass the same tests, and are compared."""

from __future__ import annotations

import _socket
import contextlib
import errno
import gc
import importlib
import itertools
import logging
import re
import select
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from tests.fuzz.state_machines import MemoryStream, settle
from tests.load_clients import scaled
from tests.unit.engine.test_packets import read_frames
from webpy_socketio.engine import Connection, Engine, EngineConfig, Session, SocketIO
from webpy_socketio.engine.engineio import websocket as websocket_module
from webpy_socketio.engine.engineio.websocket import WebSocket
from webpy_socketio.engine.io import pure
from webpy_socketio.engine.io.json import MAX_DEPTH
from webpy_socketio.engine.io.streams import TCPStream
from webpy_socketio.exceptions import ProtocolError

try:
    _native: Any = importlib.import_module("webpy_socketio.engine.io._native")
except ImportError:
    _native = None

needs_native = pytest.mark.skipif(_native is None, reason="the native core is not built")

MAX_SIZE = 1000

thoroughly = settings(
    max_examples=scaled(3_000, 200),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "pure"])
def core(request: pytest.FixtureRequest) -> Any:
    return _native if request.param == "native" else pure


def masked(payload: bytes, key: bytes = b"\x01\x82\x03\xf4") -> bytes:
    """Return payload as a client sends it in a frame, after the length."""
    size = len(payload)
    keys = (key * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
    return key + number.to_bytes(size, "big")


def frame(payload: str | bytes, first: int = 0x81, length: int = 0) -> bytes:
    """Return a masked frame; the length field has `length` bytes, or as few as possible if 0."""
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data)
    length = length or (1 if size < 126 else 3 if size < 65_536 else 9)
    field = {
        1: lambda: bytes([0x80 | size]),
        3: lambda: b"\xfe" + size.to_bytes(2, "big"),
        9: lambda: b"\xff" + size.to_bytes(8, "big"),
    }[length]()
    return bytes([first]) + field + masked(data)


class TestReadEvents:
    @pytest.mark.parametrize(
        ("payload", "event"),
        [
            ('42["a"]', ('["a"]', None, 6)),
            ('420["a"]', ('["a"]', 0, 7)),
            ('4217["message","ü€😀"]', ('["message","ü€😀"]', 17, 20)),
            ('42999999999999999["a"]', ('["a"]', 999_999_999_999_999, 21)),
            ("42[", ("[", None, 2)),
        ],
    )
    def test_plain_event_is_returned_with_the_size_of_its_frame(
        self, core: Any, payload: str, event: tuple[str, int | None, int]
    ) -> None:
        data = frame(payload)
        assert core.read_events(data, MAX_SIZE, MAX_DEPTH) == ([event], len(data))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            frame(""),
            frame("4"),
            frame("42"),
            frame("2probe"),
            frame("3"),
            frame('40{"a":1}'),
            frame('4317["a"]'),
            frame('42/custom,["a"]'),
            frame('451-["a"]'),
            frame('4200["a"]'),
            frame('4207["a"]'),
            frame('421234567890123456["a"]'),
            frame('42-1["a"]'),
            frame('42 ["a"]'),
            frame("4217"),
            frame('42{"a":1}'),
            frame(b'42["\xff"]'),
            frame(b'42["\xed\xa0\x80"]'),
            frame(b'42["\xc0\x80"]'),
            frame(b'42["\xf4\x90\x80\x80"]'),
            frame(b'42["\xe2\x82'),
            frame('42["a"]', first=0x01),
            frame('42["a"]', first=0x80),
            frame('42["a"]', first=0x82),
            frame('42["a"]', first=0x88),
            frame('42["a"]', first=0xC1),
            frame('42["a"]', length=3),
            frame('42["a"]', length=9),
            bytes([0x81, 7]) + b'42["a"]',
            b"\x81\xff" + b"\xff" * 8 + masked(b'42["a"]'),
            b"\x81\xff" + b"\x7f" + b"\xff" * 7 + masked(b'42["a"]'),
            b"\x81\xff" + (2**63 - 14).to_bytes(8, "big") + masked(b'42["a"]'),
            b"\x81\xff" + (2**32 + 7).to_bytes(8, "big") + masked(b'42["a"]'),
            frame("42" + "[" * (MAX_DEPTH + 1)),
            frame("42[" + "{" * MAX_DEPTH),
            frame("42[" + "x" * MAX_SIZE),
        ],
        ids=repr,
    )
    def test_all_else_is_left_to_the_library(self, core: Any, data: bytes) -> None:
        assert core.read_events(data, MAX_SIZE, MAX_DEPTH) == ([], 0)

    @pytest.mark.parametrize("size", [7, 125, 126, 300, 65_535, 65_536])
    def test_incomplete_frame_is_left_to_the_library(self, core: Any, size: int) -> None:
        data = frame("42[" + "x" * (size - 3))
        for end in {*range(min(len(data), 20)), len(data) - 1}:
            assert core.read_events(data[:end], 10**6, MAX_DEPTH) == ([], 0)

    def test_size_limit_is_inclusive(self, core: Any) -> None:
        data = frame('42["a"]')
        assert core.read_events(data, 7, MAX_DEPTH)[1] == len(data)
        for limit in (6, 0, -1):
            assert core.read_events(data, limit, MAX_DEPTH) == ([], 0)

    def test_bracket_limit_is_inclusive(self, core: Any) -> None:
        data = frame("42[[{{")
        assert core.read_events(data, MAX_SIZE, 4)[1] == len(data)
        assert core.read_events(data, MAX_SIZE, 3) == ([], 0)

    @needs_native
    def test_native_core_reads_frames_of_all_sizes(self) -> None:
        sizes = [4, 124, 125, 126, 127, 2049, 2050, 5000, 65_535, 65_536, 70_000]
        bodies = ["[" + "€x"[size % 2] * ((size - 3) // (1 if size % 2 else 3)) for size in sizes]
        data = b"".join(frame("42" + body) for body in bodies)
        events, size = _native.read_events(data, 10**6, MAX_DEPTH)
        assert [body for body, _, _ in events] == bodies
        assert size == len(data)

    @needs_native
    def test_native_core_stops_before_the_first_other_frame(self) -> None:
        plain = frame('42["a"]') + frame('421["b"]')
        for other in (frame("3"), frame('42["c"]')[:-1], frame(b"42[\xff"), b"\x81"):
            events, size = _native.read_events(plain + other + plain, MAX_SIZE, MAX_DEPTH)
            assert [body for body, _, _ in events] == ['["a"]', '["b"]']
            assert size == len(plain)

    @pytest.mark.parametrize(
        "args", [(), (b"", 1), ("", 1, 1), (b"", None, 1), (b"", 1, "x"), (b"", 1, 1, 1)], ids=repr
    )
    @needs_native
    def test_native_core_rejects_wrong_types(self, args: tuple[Any, ...]) -> None:
        with pytest.raises(TypeError):
            _native.read_events(*args)


class TestFrames:
    @given(st.none() | st.binary(max_size=300), st.lists(st.binary(max_size=300), max_size=4))
    @settings(max_examples=60, deadline=None, database=None)
    @needs_native
    def test_both_have_the_same_fields(self, text: bytes | None, attachments: list[bytes]) -> None:
        ours, twin = _native.Frames(text, attachments), pure.Frames(text, attachments)
        for name in pure.Frames.__slots__:
            assert getattr(ours, name) == getattr(twin, name)

    @pytest.mark.parametrize("opcode", [1, 2, 0x41, 0x42])
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
    def test_frame_is_that_of_the_library(self, core: Any, opcode: int, size: int) -> None:
        data = b"x" * size
        expected = Frame(Opcode(opcode & 0xF), data).serialize(mask=False)
        expected = bytes([expected[0] | opcode]) + expected[1:]
        assert core.encode(opcode, data) == expected
        if opcode == 1:
            assert core.Frames(data).frames == expected

    def test_attachments_may_be_any_bytes(self, core: Any) -> None:
        message = core.Frames(b"4a", (bytearray(b"b"), memoryview(b"c")))
        assert message.frames == core.Frames(b"4a", [b"b", b"c"]).frames

    @needs_native
    @pytest.mark.parametrize(
        "args", [(), ("text",), (b"4", 1), (b"4", ["text"]), (b"4", [], 1)], ids=repr
    )
    def test_native_core_rejects_wrong_types(self, args: tuple[Any, ...]) -> None:
        with pytest.raises(TypeError):
            _native.Frames(*args)

    @needs_native
    @pytest.mark.parametrize("args", [(), (1,), ("1", b""), (1, ""), (-1, b""), (256, b"")])
    def test_native_core_rejects_wrong_opcodes_and_data(self, args: tuple[Any, ...]) -> None:
        with pytest.raises((TypeError, ValueError)):
            _native.encode(*args)


class TestAddOffset:
    @given(
        st.binary(max_size=70_000),
        st.lists(st.binary(max_size=300), max_size=2),
        st.binary(max_size=300),
        st.integers(-(2**63), 2**63 - 1),
    )
    @example(b"", [], b"e", -(2**63))
    @example(b"", [], b"e", 0)
    @example(b"", [], b"e", 10)
    @example(b"", [], b"e", 2**63 - 1)
    @settings(max_examples=60, deadline=None, database=None)
    @needs_native
    def test_both_return_the_same_message(
        self, data: bytes, attachments: list[bytes], epoch: bytes, number: int
    ) -> None:
        class Message(_native.Frames):  # type: ignore[misc]
            __slots__ = ()

        text = b"42[%b]" % data
        ours = _native.add_offset("/", Message(text, attachments), epoch, number)
        twin = pure.add_offset("/", pure.Frames(text, attachments), epoch, number)
        assert type(ours) is Message
        assert ours.text == b'42[%b,"%b.%d"]' % (data, epoch, number)
        for name in pure.Frames.__slots__:
            assert getattr(ours, name) == getattr(twin, name)

    def test_the_event_is_not_changed(self, core: Any) -> None:
        event = core.Frames(b'42["a"]')
        core.add_offset("/", event, b"epoch", 1)
        assert event.frames == core.Frames(b'42["a"]').frames

    @needs_native
    def test_native_core_rejects_wrong_types(self) -> None:
        event = _native.Frames(b'42["a"]')
        without_fields = _native.Frames(b"4")
        del without_fields.text
        for args, error in (
            ((), TypeError),
            (("/", event, b"e"), TypeError),
            (("/", event, b"e", 1, 2), TypeError),
            (("/", b"4", b"e", 1), TypeError),
            (("/", event, "e", 1), TypeError),
            (("/", event, b"e", "1"), TypeError),
            (("/", event, b"e", 2**63), OverflowError),
            (("/", _native.Frames(None, [b"a"]), b"e", 1), ValueError),
            (("/", _native.Frames(b""), b"e", 1), ValueError),
            (("/", without_fields, b"e", 1), ValueError),
        ):
            with pytest.raises(error):
                _native.add_offset(*args)


class TestMessageRing:
    def ring(self, core: Any, **bounds: Any) -> Any:
        """Return a ring whose clock is its attribute `time`."""

        class Ring(core.MessageRing):  # type: ignore[misc]
            time = 0.0

        values = {"max_age": 1000.0, "max_count": 1000, "max_size": 10**6, **bounds}
        ring = Ring(
            b"e",
            values["max_age"],
            values["max_count"],
            values["max_size"],
            lambda: ring.time,
            values.get("number"),
        )
        return ring

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["add", "add", "add", "skip", "trim", "clear"]),
                st.integers(0, 300),
                st.integers(0, 3),
            ),
            max_size=200,
        ),
        st.integers(1, 70),
    )
    @settings(max_examples=200, deadline=None, database=None)
    @needs_native
    def test_both_retain_the_same(self, steps: list[tuple[str, int, int]], count: int) -> None:
        def states(core: Any) -> Any:
            ring = self.ring(core, max_age=20.0, max_count=count, max_size=5000)
            for name, size, seconds in steps:
                ring.time += seconds
                if name == "add":
                    event = core.Frames(b"42[%b]" % (b"x" * size), [b"y"] * (size % 2))
                    rule = ("/", ("a",) if size % 3 else None, f"{size}", None, None)
                    yield ring.add(event, *rule).frames
                else:
                    getattr(ring, name)()
                assert len(ring) == ring.last - ring.discarded
                yield ring.last, ring.discarded, ring.size
                position = ring.discarded + size % 5
                yield ring.since(position), ring.since(-1)
                for number in range(ring.discarded, ring.last + 2):
                    try:
                        yield ring.at(number)
                    except IndexError:
                        yield "discarded"

        assert list(states(_native)) == list(states(pure))

    def test_another_parser_adds_the_offset(self, core: Any) -> None:
        def number(*args: Any) -> Any:
            calls.append(args)
            return other

        calls: list[Any] = []
        event, other = core.Frames(b"4a"), core.Frames(b"4b")
        ring = self.ring(core, number=number)
        assert ring.add(event, "/", None, None, None, None) is other
        assert calls == [("/", event, b"e", 1)]
        assert ring.at(1) == (other.frames, "/", None, None, None, None)

    def test_failure_leaves_no_gap_in_the_numbers(self, core: Any) -> None:
        def number(namespace: Any, message: Any, epoch: bytes, number: int) -> Any:
            return core.add_offset(namespace, message, epoch, number) if is_valid else 1 / 0

        is_valid = False
        event, rule = core.Frames(b"42[]"), ("/", None, None, None, None)
        ring = self.ring(core, number=number)
        with pytest.raises(ZeroDivisionError):
            ring.add(event, *rule)
        assert (len(ring), ring.last) == (0, 0)
        is_valid = True
        frames = ring.add(event, *rule).frames
        assert b'"e.1"' in frames
        assert ring.at(1)[0] == frames

    @needs_native
    def test_failures_retain_nothing(self) -> None:
        event, rule = _native.Frames(b"42[]"), ("/", None, None, None, None)
        for ring in (
            self.ring(_native, number=lambda *args: 1 / 0),
            self.ring(_native, number=lambda *args: "x"),
        ):
            with pytest.raises((ZeroDivisionError, TypeError)):
                ring.add(event, *rule)
            assert (len(ring), ring.last) == (0, 0)
        ring = self.ring(_native)
        for args in [(), (event,), (event, *rule, None), ("x", *rule)]:
            with pytest.raises(TypeError):
                ring.add(*args)
        with pytest.raises(TypeError):
            ring.add(event, *rule[:-1], excluded=None)
        ring.time = "x"
        for call in (lambda: ring.add(event, *rule), ring.skip, ring.trim):
            with pytest.raises(TypeError):
                call()
        for call in (ring.since, ring.at):
            with pytest.raises(TypeError):
                call("x")
        bare = _native.MessageRing.__new__(_native.MessageRing)
        for call in (lambda: bare.add(event, *rule), bare.skip, bare.trim):
            with pytest.raises(RuntimeError):
                call()
        assert (bare.since(0), len(bare)) == ([], 0)
        with pytest.raises(IndexError):
            bare.at(1)
        for args in [(), (b"e", 1.0, 0, 1, len, None), ("e", 1.0, 1, 1, len, None)]:
            with pytest.raises((TypeError, ValueError)):
                bare.__init__(*args)  # type: ignore[misc]
        with pytest.raises(TypeError):
            ring.__init__(b"e", 1.0, 1, 1, len, None)  # type: ignore[misc]


def pair() -> tuple[Any, Any]:
    ours, theirs = _socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def send_on_closed_socket(data: bytes) -> None:
    ours, theirs = pair()
    theirs.close()
    send = _native.open_sender(ours)
    try:
        send(data)
    finally:
        _native.close_sender(send)
        ours.close()


def fill(sock: Any) -> None:
    """Send until the kernel accepts no more bytes."""
    for size in (65_536, 1):
        try:
            while True:
                sock.send(b"x" * size)
        except BlockingIOError:
            pass


class TestSenders:
    def test_sender_sends_and_reports_errors(self, core: Any) -> None:
        ours, theirs = pair()
        send = core.open_sender(ours)
        assert send(b"abc") == 3
        assert theirs.recv(10) == b"abc"
        fill(ours)
        with pytest.raises(BlockingIOError):
            send(b"abc")
        theirs.close()
        with pytest.raises(BrokenPipeError):
            send(b"abc")
        core.close_sender(send)
        ours.close()
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            send(b"abc")
        assert caught.value.errno == errno.EBADF

    def test_closed_sender_does_not_send_to_another_connection(self, core: Any) -> None:
        ours, theirs = pair()
        outbox = state(core, core.open_sender(ours))
        number = ours.fileno()
        core.close_sender(outbox.try_send)
        ours.close()
        theirs.close()
        others = [each for _ in range(4) for each in pair()]
        assert number in [sock.fileno() for sock in others]
        assert list(core.send_to_all([outbox], b"secret", None)) == [(outbox, 0)]
        with pytest.raises(OSError, match="Bad file descriptor"):
            outbox.try_send(b"secret")
        for sock in others:
            with pytest.raises(BlockingIOError):
                sock.recv(10)
        for sock in others:
            sock.close()

    def test_sender_keeps_its_socket_open(self, core: Any) -> None:
        ours, theirs = pair()
        send = core.open_sender(ours)
        del ours
        gc.collect()
        assert send(b"abc") == 3
        theirs.close()
        with pytest.warns(ResourceWarning, match="unclosed"):
            del send

    def test_stream_closes_its_sender_before_its_socket(self) -> None:
        ours, theirs = pair()
        stream = TCPStream(ours, gevent.get_hub().loop, 20.0)
        send = stream.try_send
        assert send is not None
        stream.abort()
        assert stream.try_send is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            send(b"abc")
        theirs.close()

    @needs_native
    @pytest.mark.parametrize("args", [(), (None,), ("x",), (1, 2)], ids=repr)
    def test_native_core_rejects_wrong_types(self, args: tuple[Any, ...]) -> None:
        with pytest.raises(TypeError):
            _native.open_sender(*args)
        ours, theirs = pair()
        send = _native.open_sender(ours)
        for call in (lambda: send("x"), send, lambda: send(data=b"x"), lambda: send(b"x", 1)):
            with pytest.raises(TypeError):
                call()
        with pytest.raises(TypeError):
            _native.close_sender(ours)
        _native.close_sender(send)
        ours.close()
        theirs.close()


def state(core: Any, try_send: Any = len, **fields: Any) -> Any:
    """Return the state of an outbox without queued or unsent data."""

    class Outbox(core.OutboxState):  # type: ignore[misc]
        __slots__ = ()

    outbox = Outbox()
    outbox.try_send = try_send
    outbox.pending, outbox.unsent, outbox.closed = (), 0, False
    for name, value in fields.items():
        setattr(outbox, name, value)
    return outbox


def flush_to_closed_socket(data: bytes) -> Any:
    ours, theirs = pair()
    send = _native.open_sender(ours)
    _native.close_sender(send)
    ours.close()
    theirs.close()
    messages = [_native.Frames(data), _native.Frames(data)]
    return _native.flush_all([state(_native, send, pending=messages)])


def readable(sockets: list[_socket.socket]) -> list[_socket.socket]:
    """Return the sockets that have data."""
    poll = select.poll()
    by_descriptor = {sock.fileno(): sock for sock in sockets}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(0)]


def has_data(sock: _socket.socket) -> bool:
    """Return whether a socket has data, without a switch to another greenlet."""
    with contextlib.suppress(BlockingIOError):
        return bool(sock.recv(1, _socket.MSG_PEEK))
    return False


def received(sock: _socket.socket) -> bytes:
    """Return the data that has arrived."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := sock.recv(1 << 20):
            data += part
    return data


class TestSendToAll:
    def test_only_idle_outboxes_are_sent_to(self, core: Any) -> None:
        sockets = [pair() for _ in range(7)]
        fields = [{}, {"pending": ["x"]}, {"unsent": 1}, {"closed": True}, {"pending": []}, {}, {}]
        outboxes = [
            state(core, core.open_sender(ours), **each)
            for (ours, _), each in zip(sockets, fields, strict=True)
        ]
        outboxes[5].try_send = None
        result = list(core.send_to_all(outboxes, b"abc", outboxes[6]))
        assert result == [(outboxes[index], -1) for index in (1, 2, 3, 5)]
        arrived = []
        for index, (ours, theirs) in enumerate(sockets):
            try:
                assert theirs.recv(10) == b"abc"
                arrived.append(index)
            except BlockingIOError:
                pass
            ours.close()
            theirs.close()
        assert arrived == [0, 4]

    def test_full_and_lost_connections_are_returned(self, core: Any) -> None:
        (good, peer), (full, slow), (lost, gone) = pair(), pair(), pair()
        gone.close()
        fill(full)
        outboxes = [state(core, core.open_sender(sock)) for sock in (good, full, lost)]
        data = b"x" * (1 << 22)
        (_, sent), *others = core.send_to_all(outboxes, data, None)
        assert 0 < sent < len(data)
        assert others == [(outboxes[1], 0), (outboxes[2], 0)]
        for sock in (good, peer, full, slow, lost):
            sock.close()

    def test_function_may_change_the_recipients(self, core: Any) -> None:
        def shrink(data: bytes) -> int:
            outboxes.clear()
            gc.collect()
            return 0

        outboxes = [state(core, shrink), state(core), state(core)]
        first = outboxes[0]
        assert list(core.send_to_all(outboxes, b"abc", None)) == [(first, 0)]

    @needs_native
    @pytest.mark.parametrize("field", ["pending", "unsent", "closed"])
    def test_reading_a_field_may_change_the_outbox(self, field: str) -> None:
        class Treacherous:
            def __bool__(self) -> bool:
                del outbox.try_send, outbox.pending, outbox.unsent, outbox.closed
                gc.collect()
                return False

        outbox = state(_native, lambda data: 0, **{field: Treacherous()})
        assert list(_native.send_to_all([outbox], b"abc", None)) == [(outbox, -1)]

    @pytest.mark.parametrize(
        "error", [KeyError, ZeroDivisionError], ids=lambda error: error.__name__
    )
    def test_other_errors_are_raised(self, core: Any, error: type[Exception]) -> None:
        def fail(data: bytes) -> int:
            raise error

        with pytest.raises(error):
            core.send_to_all([state(core), state(core, fail)], b"abc", None)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["none", "all", "part", "nothing", "full", "fail"]),
                st.sampled_from([(), [], ["x"]]),
                st.sampled_from([0, 1, False, 10**30]),
                st.sampled_from([False, True, 0, 1]),
            ),
            max_size=8,
        ),
        st.integers(0, 8),
        st.booleans(),
    )
    @thoroughly
    @needs_native
    def test_both_return_the_same(
        self, fields: list[tuple[str, Any, Any, Any]], skipped: int, empty: bool
    ) -> None:
        data = b"" if empty else b"abc"

        def result(core: Any) -> Any:
            calls: list[int] = []

            def try_send(index: int, kind: str) -> Any:
                def send(data: bytes) -> int:
                    calls.append(index)
                    if kind == "full":
                        raise BlockingIOError
                    if kind == "fail":
                        raise ZeroDivisionError
                    return {"all": len(data), "part": min(1, len(data)), "nothing": 0}[kind]

                return None if kind == "none" else send

            outboxes = [
                state(core, try_send(index, kind), pending=pending, unsent=unsent, closed=closed)
                for index, (kind, pending, unsent, closed) in enumerate(fields)
            ]
            skip = outboxes[skipped] if skipped < len(outboxes) else None
            try:
                pairs = list(core.send_to_all(outboxes, data, skip))
            except ZeroDivisionError:
                return calls, "failed"
            return calls, [(outboxes.index(outbox), sent) for outbox, sent in pairs]

        assert result(_native) == result(pure)

    @needs_native
    def test_native_core_rejects_wrong_types_and_unset_fields(self) -> None:
        for args in [(), ((), b"", None), ([], "", None), ([1], b"", None)]:
            with pytest.raises(TypeError):
                _native.send_to_all(*args)
        bare = _native.OutboxState()
        assert list(_native.send_to_all([bare], b"x", None)) == [(bare, -1)]
        negative = state(_native, lambda data: -1)
        with pytest.raises(ValueError, match="negative"):
            _native.send_to_all([negative], b"x", None)
        text = state(_native, lambda data: "x")
        with pytest.raises(TypeError):
            _native.send_to_all([text], b"x", None)


class TestFlushAll:
    def test_messages_of_each_outbox_are_sent_together(self, core: Any) -> None:
        sockets = [pair() for _ in range(3)]
        messages = [core.Frames(b"4a"), core.Frames(b"4b", [b"c"])]
        outboxes = [
            state(core, core.open_sender(ours), pending=pending, pending_size=9, pending_count=3)
            for (ours, _), pending in zip(sockets, (messages, messages[:1], ()), strict=True)
        ]
        assert list(core.flush_all(outboxes)) == []
        first, second = (message.frames for message in messages)
        assert [sockets[index][1].recv(99) for index in (0, 1)] == [first + second, first]
        with pytest.raises(BlockingIOError):
            sockets[2][1].recv(99)
        for outbox in outboxes[:2]:
            assert (outbox.pending, outbox.pending_size, outbox.pending_count) == ((), 0, 0)
        for sock in itertools.chain.from_iterable(sockets):
            sock.close()

    def test_unaccepted_frames_are_returned(self, core: Any) -> None:
        (good, peer), (full, slow), (lost, gone), (closed, other) = (pair() for _ in range(4))
        gone.close()
        fill(full)
        large, small = core.Frames(b"x" * (1 << 22)), core.Frames(b"4")
        senders = [core.open_sender(sock) for sock in (good, full, lost, closed)]
        core.close_sender(senders[3])
        closed.close()
        outboxes = [
            state(core, sender, pending=[message])
            for sender, message in zip(senders, (large, small, small, small), strict=True)
        ]
        left = dict(core.flush_all(outboxes))
        rest = left.pop(outboxes[0])
        assert large.frames.endswith(rest)
        assert 0 < len(rest) < large.size
        assert left == dict.fromkeys(outboxes[1:], small.frames)
        assert [outbox.pending for outbox in outboxes] == [()] * 4
        for sock in (good, peer, full, slow, lost, other):
            sock.close()

    def test_transports_that_cannot_send_directly_are_left(self, core: Any) -> None:
        ours, theirs = pair()
        message = core.Frames(b"4")
        outboxes = [
            state(core, None, pending=[message]),
            state(core, core.open_sender(ours), pending=[message], unsent=1),
        ]
        assert list(core.flush_all(outboxes)) == [(outbox, None) for outbox in outboxes]
        assert [outbox.pending for outbox in outboxes] == [[message]] * 2
        ours.close()
        theirs.close()

    @needs_native
    def test_native_core_leaves_outboxes_that_it_cannot_send(self) -> None:
        ours, theirs = pair()
        send = _native.open_sender(ours)
        bare = _native.OutboxState()
        broken = state(_native, send, pending=["text"])
        outboxes = [bare, broken, state(_native, send, pending=[]), state(_native, len)]
        assert list(_native.flush_all(outboxes)) == [(outbox, None) for outbox in outboxes]
        assert broken.pending == ["text"]
        for wrong in ((), [1]):
            with pytest.raises(TypeError):
                _native.flush_all(wrong)
        ours.close()
        theirs.close()


def fill_ring(count: int) -> None:
    """Fill a ring, read it, and cause errors."""
    ring = _native.MessageRing(b"e", 1.0, count // 2, 10**6, float, None)
    for _ in range(count):
        ring.add(_native.Frames(b"42[%b]" % bytes(100)), "/", ("a",), "b", None, None)
    ring.since(0)
    ring.at(ring.last)
    ring.skip()
    with contextlib.suppress(TypeError):
        ring.add("x", "/", None, None, None, None)


@pytest.mark.usefixtures("_many_descriptors")
class TestBatches:
    """Many sends: the native core submits them to io_uring in one call, if that is available."""

    #: More than one batch.
    COUNT = 700

    @pytest.fixture
    def sockets(self) -> Iterator[list[tuple[_socket.socket, _socket.socket]]]:
        sockets = [pair() for _ in range(self.COUNT)]
        yield sockets
        for sock in itertools.chain.from_iterable(sockets):
            sock.close()

    def outboxes(self, core: Any, sockets: Any) -> list[Any]:
        """Return outboxes of which half cannot accept frames, for five different reasons."""
        outboxes = []
        for number, (ours, theirs) in enumerate(sockets):
            outbox = state(core, core.open_sender(ours))
            outboxes.append(outbox)
            match number % 10:
                case 1:
                    fill(ours)
                case 2:
                    theirs.close()
                case 3:
                    core.close_sender(outbox.try_send)
                    ours.close()
                case 4:
                    outbox.try_send = None
                case 5:
                    outbox.unsent = 1
        return outboxes

    def test_all_receive_the_frames_once(self, core: Any, sockets: Any) -> None:
        outboxes = [state(core, core.open_sender(ours)) for ours, _ in sockets]
        assert list(core.send_to_all(outboxes, b"4abc", outboxes[-1])) == []
        for _, theirs in sockets[:-1]:
            assert theirs.recv(99) == b"4abc"
        assert sockets[-1][1] not in readable([theirs for _, theirs in sockets])

    def test_outboxes_that_did_not_accept_the_frames_are_returned(
        self, core: Any, sockets: Any
    ) -> None:
        outboxes = self.outboxes(core, sockets)
        left = dict(core.send_to_all(outboxes, b"4abc", None))
        expected = {1: 0, 2: 0, 3: 0, 4: -1, 5: -1}
        assert len(left) == self.COUNT // 2
        for number, (outbox, (_, theirs)) in enumerate(zip(outboxes, sockets, strict=True)):
            if number % 10 in expected:
                assert left[outbox] == expected[number % 10]
            else:
                assert theirs.recv(99) == b"4abc"

    def test_messages_that_were_not_accepted_are_returned(self, core: Any, sockets: Any) -> None:
        outboxes = self.outboxes(core, sockets)
        message = core.Frames(b"4abc")
        frames = message.frames * 2
        for outbox in outboxes:
            outbox.pending = [message, message]
        left = dict(core.flush_all(outboxes))
        expected = {1: frames, 2: frames, 3: frames, 4: None, 5: None}
        assert len(left) == self.COUNT // 2
        for number, (outbox, (_, theirs)) in enumerate(zip(outboxes, sockets, strict=True)):
            if number % 10 in expected:
                assert left[outbox] == expected[number % 10]
            else:
                assert theirs.recv(99) == frames
            assert bool(outbox.pending) == (number % 10 in (4, 5))

    def test_garbage_collection_does_not_run_before_the_sends(self, sockets: Any) -> None:
        outboxes = [state(_native, _native.open_sender(ours)) for ours, _ in sockets[:8]]
        closed = state(_native, _native.open_sender(sockets[8][0]), pending=[])
        _native.close_sender(closed.try_send)
        others = [closed, *(state(_native, None) for _ in range(20))]
        for outbox in [*outboxes, closed]:
            outbox.pending = [_native.Frames(b"4abc")]
        others[-1].try_send = outboxes[0].try_send
        others[-1].pending = [object()]  # its frames cannot be joined
        collections = []

        def check(*_: Any) -> None:
            """Note the outboxes whose messages are neither queued nor sent."""
            pairs = zip(outboxes, sockets, strict=False)
            collections.append(
                [outbox for outbox, (_, to) in pairs if not outbox.pending and not has_data(to)]
            )

        # Otherwise the pairs of the result are objects that were allocated before.
        in_use = [tuple([number] * 2) for number in range(5000)]
        threshold = gc.get_threshold()
        gc.callbacks.append(check)
        gc.set_threshold(1)
        try:
            left = _native.flush_all([*outboxes, *others])
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(check)
        del in_use
        assert [outbox for outbox, _ in left] == others
        assert not any(collections)

    def test_left_outboxes_are_returned_in_their_order(self, core: Any, sockets: Any) -> None:
        outboxes = self.outboxes(core, sockets)
        for outbox in outboxes:
            outbox.pending = [core.Frames(b"4abc")]
        left = [outbox for outbox, _ in core.flush_all(outboxes)]
        assert left == [outbox for outbox in outboxes if outbox in left]

    def test_part_of_a_large_message_is_accepted(self, core: Any, sockets: Any) -> None:
        data = bytes(range(256)) * (1 << 14)
        outboxes = [state(core, core.open_sender(ours)) for ours, _ in sockets[:8]]
        left = dict(core.send_to_all(outboxes, data, None))
        for outbox, (_, theirs) in zip(outboxes, sockets, strict=False):
            assert 0 < left[outbox] < len(data)
            assert received(theirs) == data[: left[outbox]]

    def test_invalid_outbox_after_others_is_an_error(self, core: Any, sockets: Any) -> None:
        outboxes = [state(core, core.open_sender(ours)) for ours, _ in sockets[:8]]
        with pytest.raises((AttributeError, TypeError)):
            core.send_to_all([*outboxes, object()], b"4abc", None)
        assert list(core.send_to_all(outboxes, b"4d", None)) == []
        for _, theirs in sockets[:8]:
            assert received(theirs) == b"4abc4d"


@needs_native
class TestMemory:
    """No path of the native core leaks, neither of results nor of errors."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda: _native.read_events(frame('4217["a"]') * 3 + b"x", MAX_SIZE, MAX_DEPTH),
            lambda: _native.read_events(frame("42[" + "x" * 5000), 10**6, MAX_DEPTH),
            lambda: _native.read_events(frame(b"42[" + b"\xff" * 5000), 10**6, MAX_DEPTH),
            lambda: _native.read_events(frame(b"42[\xff"), MAX_SIZE, MAX_DEPTH),
            lambda: _native.read_events(frame("42" + "[" * 5000), 10**6, MAX_DEPTH),
            lambda: _native.read_events("x", 1, 1),
            lambda: _native.encode(1, b"x" * 1000),
            lambda: _native.Frames(b"4" + b"x" * 1000, [b"y" * 1000, bytearray(1000)]),
            lambda: _native.Frames(b"4", [b"y" * 1000, "text"]),
            lambda: _native.Frames("4"),
            lambda: _native.add_offset("/", _native.Frames(b"4" * 1000, [b"y" * 1000]), b"e", 1),
            lambda: _native.add_offset("/", _native.Frames(b"4" * 1000), b"e", "1"),
            lambda: fill_ring(200),
            lambda: send_on_closed_socket(b"x" * 1000),
            lambda: _native.open_sender("x"),
            lambda: flush_to_closed_socket(b"x" * 1000),
            lambda: _native.flush_all([state(_native), 1]),
            lambda: _native.send_to_all([state(_native), state(_native, None)], b"x" * 9, None),
            lambda: _native.send_to_all([state(_native, None), 1], b"x", None),
            lambda: _native.send_to_all([state(_native, lambda data: 1 / 0)], b"x", None),
        ],
    )
    def test_repeated_calls_keep_no_memory(self, call: Callable[[], object]) -> None:
        def repeat(times: int) -> None:
            for _ in range(times):
                with contextlib.suppress(OSError, TypeError, ZeroDivisionError):
                    call()
            gc.collect()

        repeat(50)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            repeat(200)
            assert tracemalloc.get_traced_memory()[0] - before < 20_000  # 100 bytes a call
        finally:
            tracemalloc.stop()

    def test_cycles_are_collected(self) -> None:
        class Outbox(_native.OutboxState):  # type: ignore[misc]
            __slots__ = ("__weakref__", "me")

        def count() -> int:
            gc.collect()
            return sum(type(each) is Outbox for each in gc.get_objects())

        for _ in range(10):
            outbox = Outbox()
            outbox.try_send = outbox.pending = outbox
            message = _native.Frames(b"4")
            message.text = message
        del outbox, message
        assert count() == 0
        assert sum(type(each) is _native.Frames for each in gc.get_objects()) == 0


class RecordingApplication:
    """Accepts every connection and records events."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connect(self, connection: Connection) -> None:
        connection.accept()

    def event(self, connection: Connection, name: str, args: list[Any], ack: int | None) -> None:
        self.calls.append((connection.namespace, name, args, ack, connection.inbox.handling))
        if ack is not None:
            connection.acknowledge(ack, args)

    def closing(self, connection: Connection) -> None:
        pass

    def disconnected(self, connection: Connection, reason: str) -> None:
        self.calls.append((connection.namespace, reason))

    def failed(self, connection: Connection, error: Exception) -> None:
        self.calls.append((type(error), str(error)))


def replay(chunks: list[bytes], read_events: Callable[..., Any]) -> Any:
    """Return everything that a client can observe, and what the application receives."""
    application = RecordingApplication()
    socketio = SocketIO(application, namespaces=("/", "/custom"))
    engine = Engine(socketio, EngineConfig(max_message_size=MAX_SIZE))
    session = Session("sid", {}, engine, 1 << 20, 1000)
    session.attach(socketio.opened(session))
    engine.sessions[session.id] = session
    stream = MemoryStream()
    original = websocket_module.read_events
    websocket_module.read_events = read_events
    try:
        websocket = WebSocket(session, stream, MAX_SIZE, 1 << 20)
        session.use(websocket)
        websocket.start()
        for chunk in [frame("40"), *chunks]:
            stream.send(chunk)
            settle()
        session.close("forced close")
        settle()
    finally:
        websocket_module.read_events = original
        engine.dispose()
        socketio.dispose()
    frames = read_frames(re.sub(rb'{"sid":"[\w-]+"}', b"{}" + b" " * 28, stream.arrived))
    if any(call[0] is ProtocolError for call in application.calls):
        # More frames may follow in the same chunk. The library has then read them already, and its
        # close code and pongs are sent instead.
        frames = [each for each in frames if each[0] in (Opcode.TEXT, Opcode.BINARY)]
    return application.calls, frames, session.reason, session.client_left, stream.closed


PAYLOADS = st.sampled_from(
    [
        *(
            '42["message","a"]',
            '4217["message","ü€😀"]',
            '420["x",{"a":[1,2]}]',
            '42["a",1.5,null]',
        ),
        *('42["connect"]', "42[]", "42[1]", '42["a"', "42[true]", '42["\\ud83c"]', "42[1e999]"),
        *("3", "1", "2", "6", "40", "41", '40/custom,{"a":1}', '42/custom,["a"]', '430["a"]'),
        *('451-["a",{"_placeholder":true,"num":0}]', "42" + "[" * 140 + "]" * 140),
        *('42["' + "x" * 118 + '"]', '42["' + "x" * 300 + '"]', '42["' + "x" * MAX_SIZE + '"]'),
        *('4207["a"]', '421234567890123456["a"]', "42 []", "4", ""),
    ]
).map(str.encode)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Generate the bytes of a client, mutated and split."""
    plain = st.just(b'42["message","a"]') | st.just(b'4217["b","\xc3\xbc"]')
    payloads = draw(st.lists(plain | PAYLOADS | st.binary(max_size=8), min_size=1, max_size=8))
    first = st.sampled_from([0x81] * 8 + [0x01, 0x80, 0x82, 0x88, 0x89, 0x8A, 0xC1])
    length = st.sampled_from([0] * 8 + [3, 9])
    data = b"".join(frame(payload, draw(first), draw(length)) for payload in payloads)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 4)))
        data = data[:start] + draw(st.binary(max_size=4)) + data[end:]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class TestDifferential:
    """The same bytes lead to the same calls and answers, whichever code reads them."""

    @pytest.fixture(autouse=True)
    def _quiet(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.CRITICAL)

    @pytest.mark.time_limit(120)
    def test_streams_are_read_alike(self) -> None:
        outcomes: set[str] = set()
        counts = {"pure": 0, "native": 0}

        def counting(name: str, core: Any) -> Callable[..., Any]:
            def read_events(*args: Any) -> Any:
                events, size = core.read_events(*args)
                counts[name] += len(events)
                return events, size

            return read_events

        @given(streams())
        @thoroughly
        def compare(chunks: list[bytes]) -> None:
            expected = replay(chunks, lambda *_: ([], 0))  # the library reads everything
            assert replay(chunks, counting("pure", pure)) == expected
            if _native is not None:
                assert replay(chunks, counting("native", _native)) == expected
            outcomes.add(expected[2])

        compare()
        assert {"forced close", "parse error"} <= outcomes
        assert counts["pure"] > 0
        assert counts["native"] > counts["pure"] or _native is None
