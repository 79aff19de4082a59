"""Outboxes and their flusher: order, one flush per iteration, limits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Journal
from webpy_socketio.engine.io.native import OutboxState
from webpy_socketio.engine.io.outbox import MAX_PENDING_BROADCASTS, Flusher, Outbox
from webpy_socketio.engine.io.packets import Message


@pytest.fixture
def flusher() -> Flusher:
    return Flusher(gevent.get_hub().loop)


class Client:
    """An outbox and a transport that records what it writes."""

    try_send: Callable[[bytes], int] | None = None

    def __init__(
        self,
        flusher: Flusher,
        journal: Journal,
        max_bytes: int = 1000,
        max_packets: int = 100,
        unsent: int = 0,
    ) -> None:
        self.journal = journal
        self.left = unsent
        self.outbox = Outbox(flusher, max_bytes, max_packets, self.overflow)
        self.outbox.use(self)
        self.outbox.unsent = 0

    def unsent(self) -> int:
        return self.left

    def flush(self) -> None:
        self.journal.append([message.payload for message in self.outbox.take()])
        self.outbox.unsent = self.left

    def overflow(self) -> None:
        self.journal.append("overflow")


class Flush(OutboxState):
    """Replaces an outbox in the flusher."""

    def __init__(self, flush: Callable[[], object]) -> None:
        self.flush = flush
        self.try_send = None


class TestFlusher:
    def test_flusher_flushes_each_outbox_once(self, flusher: Flusher, journal: Journal) -> None:
        flusher.add(Flush(lambda: journal.append("a")))
        flusher.add(Flush(lambda: journal.append("b")))
        assert journal == []
        journal.wait_for("b")
        flusher.add(Flush(lambda: journal.append("c")))
        journal.wait_for("c")
        assert journal == ["a", "b", "c"]

    def test_flush_runs_after_ready_greenlets(self, flusher: Flusher, journal: Journal) -> None:
        gevent.spawn(journal.append, "greenlet")
        flusher.add(Flush(lambda: journal.append("flush")))
        journal.wait_for("flush")
        assert journal == ["greenlet", "flush"]

    def test_outbox_added_during_a_flush_is_flushed(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        later = Flush(lambda: journal.append("later"))
        flusher.add(Flush(lambda: flusher.add(later)))
        journal.wait_for("later")
        assert journal == ["later"]

    def test_failing_flush_does_not_block_others(
        self, flusher: Flusher, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        flusher.add(Flush(fail))
        flusher.add(Flush(lambda: journal.append("b")))
        journal.wait_for("b")
        (record,) = caplog.records
        assert record.levelno == logging.ERROR

    def test_silenced_flusher_never_flushes(self, flusher: Flusher, journal: Journal) -> None:
        flusher.silence()
        flusher.add(Flush(lambda: journal.append("flush")))
        flusher.call_after_flush(lambda: journal.append("call"))
        gevent.idle()
        assert journal == []


class TestOutbox:
    def test_messages_of_one_iteration_are_flushed_together(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        outbox = Client(flusher, journal).outbox
        gevent.spawn(outbox.push, Message(b"4c"))
        outbox.push(Message(b"4a"))
        outbox.push(Message(b"4b"))
        assert outbox
        assert journal == []
        journal.wait(len)
        assert journal == [[b"4a", b"4b", b"4c"]]
        assert not outbox

    def test_messages_of_the_next_iteration_are_flushed_again(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        outbox = Client(flusher, journal).outbox
        outbox.push(Message(b"4a"))
        journal.wait_for([b"4a"])
        outbox.push(Message(b"4b"))
        journal.wait_for([b"4b"])
        assert journal == [[b"4a"], [b"4b"]]

    def test_size_counts_queued_and_unsent_bytes(self, flusher: Flusher, journal: Journal) -> None:
        outbox = Client(flusher, journal, unsent=7).outbox
        message = Message(b"4a")
        outbox.push(message)
        assert outbox.size == message.size
        journal.wait_for([b"4a"])
        assert outbox.size == 7
        outbox.push(message)
        assert outbox.size == 7 + message.size

    @pytest.mark.parametrize(
        ("limits", "fitting"),
        [({"max_bytes": 3 * Message(b"4a").size}, 3), ({"max_packets": 5}, 5)],
        ids=["bytes", "packets"],
    )
    def test_outbox_beyond_a_limit_drops_messages_and_calls_overflow(
        self, flusher: Flusher, journal: Journal, limits: dict[str, int], fitting: int
    ) -> None:
        full = Client(flusher, Journal(), **limits)
        for _ in range(fitting):
            full.outbox.push(Message(b"4a"))
        full.journal.wait(len)
        assert full.journal == [[b"4a"] * fitting]
        too_full = Client(flusher, journal, **limits)
        for _ in range(fitting + 1):
            too_full.outbox.push(Message(b"4a"))
        assert "overflow" not in journal, "overflow must not be called inside push"
        assert not too_full.outbox
        journal.wait_for("overflow")
        assert journal == [[], "overflow"]

    def test_attachments_count_as_packets(self, flusher: Flusher, journal: Journal) -> None:
        outbox = Client(flusher, journal, max_packets=2).outbox
        outbox.push(Message(b"451-", [b"1", b"2"]))
        journal.wait_for("overflow")
        assert not outbox

    def test_unsent_bytes_count_towards_the_limit(self, flusher: Flusher, journal: Journal) -> None:
        outbox = Client(flusher, journal, max_bytes=100, unsent=99).outbox
        outbox.push(Message(b"4a"))
        journal.wait_for([b"4a"])
        outbox.push(Message(b"4b"))
        journal.wait_for("overflow")
        assert not outbox

    def test_overflow_is_called_once(self, flusher: Flusher, journal: Journal) -> None:
        outbox = Client(flusher, journal, max_packets=1).outbox
        for _ in range(10):
            outbox.push(Message(b"4a"))
        journal.wait_for("overflow")
        outbox.push(Message(b"4a"))
        flusher.call_after_flush(lambda: journal.append("end"))
        journal.wait_for("end")
        assert journal == [[], "overflow", "end"]

    def test_sealed_outbox_ignores_messages_and_flushes_the_rest(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        outbox = Client(flusher, journal).outbox
        outbox.push(Message(b"4a"))
        outbox.seal()
        outbox.push(Message(b"4b"))
        journal.wait(len)
        assert journal == [[b"4a"]]

    def test_closed_outbox_drops_the_rest(self, flusher: Flusher, journal: Journal) -> None:
        outbox = Client(flusher, journal).outbox
        outbox.push(Message(b"4a"))
        outbox.close()
        outbox.push(Message(b"4b"))
        journal.wait(len)
        assert journal == [[]]
        assert outbox.size == 0


class Kernel(Client):
    """A client with `try_send`, whose kernel accepts `room` bytes per call."""

    def __init__(self, flusher: Flusher, journal: Journal, room: int, error: Any = None) -> None:
        super().__init__(flusher, journal)
        self.room = room
        self.error = error
        self.outbox.try_send = self.accept

    def accept(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        self.journal.append(data[: self.room])
        return min(self.room, len(data))

    def flush(self) -> None:
        self.journal.append(("rest", b"".join(one.frames for one in self.outbox.take())))
        self.outbox.unsent = 1


class TestTrySend:
    TWO = Message(b"4a").frames + Message(b"4b").frames

    @staticmethod
    def push_two(client: Client) -> None:
        for text in (b"4a", b"4b"):
            client.outbox.push(Message(text))

    def test_frames_accepted_by_the_kernel_bypass_the_transport(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        client = Kernel(flusher, journal, room=100)
        self.push_two(client)
        journal.wait(len)
        assert journal == [self.TWO]
        assert client.outbox.size == 0

    @pytest.mark.parametrize("room", [1, 5])
    def test_frames_accepted_in_part_leave_the_rest_to_the_transport(
        self, flusher: Flusher, journal: Journal, room: int
    ) -> None:
        self.push_two(Kernel(flusher, journal, room))
        journal.wait(lambda journal: len(journal) == 2)
        assert journal == [self.TWO[:room], ("rest", self.TWO[room:])]

    @pytest.mark.parametrize("error", [BlockingIOError(), BrokenPipeError()], ids=repr)
    def test_frames_rejected_by_the_kernel_go_to_the_transport(
        self, flusher: Flusher, journal: Journal, error: OSError
    ) -> None:
        self.push_two(Kernel(flusher, journal, 100, error))
        journal.wait(len)
        assert journal == [("rest", self.TWO)]

    def test_try_send_is_not_used_while_bytes_are_unsent(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        client = Kernel(flusher, journal, room=1)
        self.push_two(client)
        journal.wait(lambda journal: len(journal) == 2)
        client.outbox.push(Message(b"4c"))
        journal.wait(lambda journal: len(journal) == 3)
        assert journal[2] == ("rest", Message(b"4c").frames)


class TestBroadcasts:
    """Pending broadcasts behave as if they were in the outboxes."""

    @staticmethod
    def clients_with_room(flusher: Flusher, *rooms: int) -> list[Kernel]:
        return [Kernel(flusher, Journal(), room) for room in rooms]

    @staticmethod
    def sent_data(clients: list[Kernel]) -> list[list[Any]]:
        """Return what kernel and transport of each client received, after the iteration."""
        done = gevent.event.Event()
        clients[0].outbox.flusher.call_after_flush(done.set)
        done.wait()
        return [list(client.journal) for client in clients]

    def test_broadcasts_of_one_iteration_are_sent_together(self, flusher: Flusher) -> None:
        clients = self.clients_with_room(flusher, 100, 100)
        outboxes = [client.outbox for client in clients]
        for text in (b"4a", b"4b"):
            flusher.broadcast(Message(text), outboxes)
        assert self.sent_data(clients) == [[TestTrySend.TWO]] * 2
        flusher.broadcast(Message(b"4c"), outboxes)
        assert self.sent_data(clients)[0][1:] == [Message(b"4c").frames]

    def test_single_message_between_broadcasts_keeps_its_order(self, flusher: Flusher) -> None:
        clients = self.clients_with_room(flusher, 100, 100)
        outboxes = [client.outbox for client in clients]
        outboxes[0].push(Message(b"41"))
        flusher.broadcast(Message(b"4a"), outboxes)
        outboxes[0].push(Message(b"42"))
        flusher.broadcast(Message(b"4b"), outboxes)
        own = b"".join(Message(text).frames for text in (b"41", b"4a", b"42", b"4b"))
        assert self.sent_data(clients) == [[own], [TestTrySend.TWO]]

    def test_broadcasts_reach_their_recipients_only(self, flusher: Flusher) -> None:
        clients = self.clients_with_room(flusher, 100, 100, 100)
        outboxes = [client.outbox for client in clients]
        flusher.broadcast(Message(b"4a"), outboxes[:2])
        flusher.broadcast(Message(b"4b"), outboxes[1:])
        one, other = Message(b"4a").frames, Message(b"4b").frames
        assert self.sent_data(clients) == [[one], [one + other], [other]]

    def test_broadcast_accepted_in_part_is_completed(self, flusher: Flusher) -> None:
        clients = self.clients_with_room(flusher, 100, 3, 100, 100)
        clients[2].outbox.try_send = None
        clients[3].error = BlockingIOError()
        outboxes = [client.outbox for client in clients]
        for text in (b"4a", b"4b"):
            flusher.broadcast(Message(text), outboxes)
        two = TestTrySend.TWO
        assert self.sent_data(clients) == [
            [two],
            [two[:3], ("rest", two[3:])],
            [("rest", two)],
            [("rest", two)],
        ]
        assert clients[1].outbox.unsent
        flusher.broadcast(Message(b"4c"), outboxes[:2])
        third = Message(b"4c").frames
        assert [journal[-1] for journal in self.sent_data(clients[:2])] == [third, ("rest", third)]

    def test_closed_outbox_leaves_broadcasts_whole(self, flusher: Flusher) -> None:
        clients = self.clients_with_room(flusher, 100, 100)
        outboxes = [client.outbox for client in clients]
        flusher.broadcast(Message(b"4a"), outboxes)
        outboxes[0].push(Message(b"41"))
        outboxes[0].close()
        assert not outboxes[0]
        assert not outboxes[1]
        assert self.sent_data(clients) == [[], [Message(b"4a").frames]]

    @pytest.mark.parametrize("end", ["seal", "close"])
    def test_broadcast_after_the_end_is_not_sent(self, flusher: Flusher, end: str) -> None:
        clients = self.clients_with_room(flusher, 100, 100)
        outboxes = [client.outbox for client in clients]
        flusher.broadcast(Message(b"4a"), outboxes)
        getattr(outboxes[0], end)()
        flusher.broadcast(Message(b"4b"), outboxes)
        before = [Message(b"4a").frames] if end == "seal" else []
        assert self.sent_data(clients) == [before, [TestTrySend.TWO]]

    @pytest.mark.parametrize("read", [bool, lambda outbox: outbox.size], ids=["bool", "size"])
    def test_reading_an_outbox_leaves_broadcasts_pending(
        self, flusher: Flusher, read: Callable[[Outbox], object]
    ) -> None:
        (client,) = self.clients_with_room(flusher, 100)
        message = Message(b"4a")
        flusher.broadcast(message, [client.outbox])
        assert not read(client.outbox)
        assert flusher.pending_broadcasts == [(message, [client.outbox], None)]

    def test_distribute_moves_broadcasts_to_the_outboxes(self, flusher: Flusher) -> None:
        (client,) = self.clients_with_room(flusher, 100)
        message = Message(b"4a")
        flusher.broadcast(message, [client.outbox])
        flusher.distribute()
        assert client.outbox
        assert client.outbox.size == message.size
        assert client.outbox.take() == [message]

    def test_take_returns_pending_broadcasts(self, flusher: Flusher) -> None:
        (client,) = self.clients_with_room(flusher, 100)
        before, broadcast, after = (Message(text) for text in (b"41", b"4a", b"42"))
        client.outbox.push(before)
        flusher.broadcast(broadcast, [client.outbox])
        client.outbox.push(after)
        assert client.outbox.take() == [before, broadcast, after]

    def test_message_to_the_sender_leaves_the_broadcast_whole(self, flusher: Flusher) -> None:
        """A handler broadcasts to a room, then acknowledges."""
        sender, *others = clients = self.clients_with_room(flusher, 100, 100, 100)
        broadcast, answer = Message(b"4a"), Message(b"41")
        outboxes = [client.outbox for client in clients]
        flusher.broadcast(broadcast, outboxes)
        sender.outbox.push(answer)
        assert flusher.pending_broadcasts == [(broadcast, outboxes, None)]
        assert [bool(outbox) for outbox in outboxes] == [True, False, False]
        received = self.sent_data(clients)
        assert received == [[broadcast.frames + answer.frames]] + [[broadcast.frames]] * 2
        assert others[0].journal[0] is others[1].journal[0], "both got the same buffer"

    def test_message_to_a_sender_outside_the_room_leaves_the_broadcast_whole(
        self, flusher: Flusher
    ) -> None:
        sender, *others = clients = self.clients_with_room(flusher, 100, 100, 100)
        broadcast, answer = Message(b"4a"), Message(b"41")
        flusher.broadcast(broadcast, [client.outbox for client in others])
        sender.outbox.push(answer)
        assert [bool(client.outbox) for client in clients] == [True, False, False]
        assert self.sent_data(clients) == [[answer.frames]] + [[broadcast.frames]] * 2
        assert sender.outbox.size == 0

    def test_broadcast_skips_its_sender(self, flusher: Flusher) -> None:
        sender, *others = clients = self.clients_with_room(flusher, 100, 100, 100)
        outboxes = [client.outbox for client in clients]
        flusher.broadcast(Message(b"4a"), outboxes, sender.outbox)
        assert self.sent_data(clients) == [[], *[[Message(b"4a").frames]] * 2]
        for text in (b"4a", b"4b"):
            flusher.broadcast(Message(text), outboxes, sender.outbox)
        sender.outbox.push(Message(b"41"))
        self.sent_data(clients)
        assert sender.journal == [Message(b"41").frames]
        assert others[0].journal[1:] == others[1].journal[1:] == [TestTrySend.TWO]

    def test_broadcasts_of_several_senders_stay_whole_for_the_other_recipients(
        self, flusher: Flusher
    ) -> None:
        """Handlers of two clients broadcast to one room, then acknowledge."""
        clients = self.clients_with_room(flusher, 100, 100, 100, 100)
        first, second, *others = clients
        one, two, answer = (Message(text) for text in (b"4a", b"4b", b"41"))
        for sender, message in ((first, one), (second, two)):
            outboxes = [client.outbox for client in clients]  # equal, but another object
            flusher.broadcast(message, outboxes, sender.outbox)
            sender.outbox.push(answer)
        assert self.sent_data(clients) == [
            [answer.frames + two.frames],
            [one.frames + answer.frames],
            *[[one.frames + two.frames]] * 2,
        ]
        assert others[0].journal[0] is others[1].journal[0], "both got the same buffer"

    def test_messages_of_several_senders_count_towards_the_outbox_limits(
        self, flusher: Flusher
    ) -> None:
        clients = self.clients_with_room(flusher, 100, 100, 1000)
        outboxes = [client.outbox for client in clients]
        for _ in range(101):
            flusher.broadcast(Message(b"4a"), outboxes, outboxes[0])
        flusher.broadcast(Message(b"4b"), outboxes, outboxes[1])
        assert self.sent_data(clients)[1] == ["overflow"]
        assert [outbox.closed for outbox in outboxes] == [False, True, False]
        assert clients[0].journal == [Message(b"4b").frames]

    def test_broadcasts_and_a_message_after_them_count_towards_the_outbox_limits(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        client = Kernel(flusher, journal, 0)
        for _ in range(100):
            flusher.broadcast(Message(b"4a"), [client.outbox])
        client.outbox.push(Message(b"41"))
        assert self.sent_data([client]) == [["overflow"]]
        assert client.outbox.closed

    def test_messages_after_a_broadcast_count_towards_the_outbox_limits(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        client = Kernel(flusher, journal, 100)
        flusher.broadcast(Message(b"4a"), [client.outbox])
        for _ in range(101):
            client.outbox.push(Message(b"41"))
        assert client.outbox.closed
        assert not client.outbox
        assert self.sent_data([client]) == [["overflow"]]

    def test_message_after_a_broadcast_counts_once_towards_the_outbox_limits(
        self, flusher: Flusher
    ) -> None:
        (client,) = self.clients_with_room(flusher, 2000)
        broadcast, answer = Message(b"4a"), Message(b"4" + b"x" * 600)
        flusher.broadcast(broadcast, [client.outbox])
        client.outbox.push(answer)
        flusher.distribute()
        assert client.outbox.size == broadcast.size + answer.size
        for _ in range(60):
            client.outbox.push(Message(b"41"))
        flusher.broadcast(broadcast, [client.outbox])
        client.outbox.push(Message(b"41"))
        assert len(self.sent_data([client])[0]) == 1
        for _ in range(98):
            flusher.broadcast(broadcast, [client.outbox])
        for _ in range(2):
            client.outbox.push(Message(b"41"))
        assert len(self.sent_data([client])[0]) == 2
        assert not client.outbox.closed

    def test_overflow_of_one_recipient_keeps_the_messages_of_the_sender(
        self, flusher: Flusher, journal: Journal
    ) -> None:
        sender, full = clients = self.clients_with_room(flusher, 100, 0)
        for _ in range(100):
            full.outbox.push(Message(b"40"))
        flusher.broadcast(Message(b"4a"), [client.outbox for client in clients])
        sender.outbox.push(Message(b"41"))
        both = Message(b"4a").frames + Message(b"41").frames
        assert self.sent_data(clients) == [[both], ["overflow"]]

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.one_of(
                st.tuples(
                    st.just("broadcast"),
                    st.sampled_from([{0, 1, 2, 3}, {0, 1, 2}, {1, 3}, {0}]),
                    st.sampled_from([None, 0, 1, 2, 3]),
                ),
                st.tuples(st.sampled_from(["push", "take", "seal", "close"]), st.integers(0, 3)),
                st.just(("flush", range(4))),
            )
        )
    )
    def test_any_sequence_of_messages_keeps_its_order(
        self, flusher: Flusher, steps: list[tuple[Any, ...]]
    ) -> None:
        """Compare with outboxes to which each broadcast is copied at once."""
        clients = self.clients_with_room(flusher, 100_000, 100_000, 3, 100_000)
        clients[3].outbox.try_send = None
        sent, queued = [b""] * 4, [b""] * 4
        for number, (step, target, *skips) in enumerate([*steps, ("flush", range(4))]):
            message = Message(b"4%d" % number)
            chosen = sorted(target) if step in ("broadcast", "flush") else [target]
            outboxes = [clients[index].outbox for index in chosen]
            for index, outbox in zip(chosen, outboxes, strict=True):
                if step in ("broadcast", "push") and index not in skips:
                    queued[index] += b"" if outbox.closed else message.frames
                elif step in ("take", "flush"):
                    sent[index] += queued[index]
                if step in ("take", "flush", "close"):
                    queued[index] = b""
            if step == "broadcast":
                (skip,) = skips
                flusher.broadcast(message, outboxes, None if skip is None else clients[skip].outbox)
            elif step == "push":
                outboxes[0].push(message)
            elif step == "take":
                clients[target].flush()
            elif step == "flush":
                self.sent_data(clients)
            else:
                getattr(outboxes[0], step)()
            clients[0].outbox.unsent = 0  # the others are blocked after their first rest
        for client, data in zip(clients, sent, strict=True):
            written = [entry[1] if isinstance(entry, tuple) else entry for entry in client.journal]
            assert b"".join(written) == data

    def test_large_broadcasts_count_towards_the_outbox_limits(self, flusher: Flusher) -> None:
        clients = self.clients_with_room(flusher, 0)
        message = Message(b"4" + b"x" * 99)
        for _ in range(2 * MAX_PENDING_BROADCASTS // 100):
            flusher.broadcast(message, [clients[0].outbox])
        assert clients[0].outbox.closed
        assert self.sent_data(clients)[0][-1] == "overflow"

    def test_unsent_rest_beyond_the_limit_calls_overflow(self, flusher: Flusher) -> None:
        (client,) = self.clients_with_room(flusher, 1)
        client.left = 1001
        client.flush = lambda: setattr(client.outbox, "unsent", 1001)  # type: ignore[method-assign]
        flusher.broadcast(Message(b"4a"), [client.outbox])
        assert self.sent_data([client]) == [[TestTrySend.TWO[:1], "overflow"]]

    def test_failing_recipient_does_not_block_others(
        self, flusher: Flusher, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        clients = self.clients_with_room(flusher, 1, 100, 1)
        clients[0].flush = fail  # type: ignore[method-assign]
        flusher.broadcast(Message(b"4a"), [client.outbox for client in clients])
        frame = Message(b"4a").frames
        assert self.sent_data(clients)[1:] == [[frame], [frame[:1], ("rest", frame[1:])]]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]

    def test_callback_of_a_lost_connection_may_send(self, flusher: Flusher) -> None:
        clients = self.clients_with_room(flusher, 1, 100, 100)
        outboxes = [client.outbox for client in clients]
        outboxes[1].try_send = None

        def lost() -> None:
            clients[0].outbox.close()
            flusher.broadcast(Message(b"4b"), outboxes[1:])
            outboxes[1].push(Message(b"4c"))

        clients[0].flush = lost  # type: ignore[method-assign]
        flusher.broadcast(Message(b"4a"), outboxes)
        self.sent_data(clients)
        first, second, third = (Message(text).frames for text in (b"4a", b"4b", b"4c"))
        assert b"".join(rest for _, rest in clients[1].journal) == first + second + third
        assert b"".join(clients[2].journal) == first + second

    def test_callback_of_a_lost_connection_may_send_after_a_broadcast(
        self, flusher: Flusher
    ) -> None:
        clients = self.clients_with_room(flusher, 1, 100, 100)
        outboxes = [client.outbox for client in clients]

        def lost() -> None:
            clients[0].outbox.close()
            flusher.broadcast(Message(b"4b"), outboxes[1:])
            outboxes[1].push(Message(b"4c"))

        clients[0].flush = lost  # type: ignore[method-assign]
        for client, text in zip(clients, (b"41", b"42", b"43"), strict=True):
            client.outbox.push(Message(text))
        self.sent_data(clients)
        second, third, broadcast, own = (
            Message(text).frames for text in (b"42", b"43", b"4b", b"4c")
        )
        assert b"".join(clients[1].journal) == second + broadcast + own
        assert b"".join(clients[2].journal) == third + broadcast

    def test_callback_of_a_lost_connection_keeps_unsent_frames_first(
        self, flusher: Flusher
    ) -> None:
        """The second recipient has sent a part of the frame that the callback follows."""
        clients = self.clients_with_room(flusher, 1, 3)
        first, second = clients

        def lost() -> None:
            first.outbox.close()
            second.outbox.push(Message(b"4b"))

        first.flush = lost  # type: ignore[method-assign]
        flusher.broadcast(Message(b"4a"), [client.outbox for client in clients])
        self.sent_data(clients)
        frames = Message(b"4a").frames
        assert second.journal[:2] == [frames[:3], ("rest", frames[3:] + Message(b"4b").frames)]
