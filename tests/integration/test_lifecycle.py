"""The stages of a connection: in order, once each, for every kind of disconnect."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import pytest

from tests.conftest import Journal, Site
from tests.engines import eventually
from webpy_socketio import (
    on_connect,
    on_connecting,
    on_disconnect,
    on_error,
    on_finish,
    on_message,
    on_subscribe,
    on_unsubscribe,
)
from webpy_socketio.runtime import default_runtime

ENDING = ("disconnect", "unsubscribe", "finish")


class TestStageOrder:
    def test_connection_sends_all_stages_in_order(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        assert client.call("__subscribe__", "room-1") == [{"ok": True}]
        client.emit("message", "hello")
        client.send("41")
        stages.wait_for(("finish", "client namespace disconnect"))
        assert stages == [
            ("connecting", None),
            ("connect", None),
            ("subscribing", "room-1"),
            ("subscribe", "room-1"),
            ("receiving", "hello"),
            ("message", "hello"),
            ("disconnect", "client namespace disconnect"),
            ("unsubscribe", "room-1"),
            ("finish", "client namespace disconnect"),
        ]

    def test_connection_over_polling_sends_all_stages_in_order(
        self, site: Site, stages: Journal
    ) -> None:
        client = site.polling()
        client.connect()
        client.send('420["__subscribe__","room-1"]', '42["message","hello"]')
        assert client.poll() == ['430[{"ok":true}]']
        client.send("1")
        stages.wait_for(("finish", "transport close"))
        assert [name for name, _ in stages] == [
            "connecting",
            "connect",
            "subscribing",
            "subscribe",
            "receiving",
            "message",
            "disconnect",
            "unsubscribe",
            "finish",
        ]

    def test_channels_are_kept_until_after_finish(self, site: Site, journal: Journal) -> None:
        @on_disconnect(channel="^room-")
        def gone(request: Any, socket: Any, context: Any) -> None:
            journal.append(("disconnect", socket.channels, socket.connected))

        @on_unsubscribe(channel="^room-")
        def left(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(("unsubscribe", channel, socket.channels))

        @on_finish(channel="^room-")
        def finished(request: Any, socket: Any, context: Any) -> None:
            journal.append(("finish", socket.channels))
            socket.send("too late")

        client = site.connect()
        client.call("__subscribe__", "room-1")
        socket = default_runtime.registry.find(client.id)
        assert socket is not None
        client.vanish()
        journal.wait(lambda journal: len(journal) == 3)
        assert journal == [
            ("disconnect", ("room-1",), False),
            ("unsubscribe", "room-1", ("room-1",)),
            ("finish", ("room-1",)),
        ]
        gevent.idle()
        assert socket.channels == ()

    def test_disconnect_sends_unsubscribe_once_for_each_channel(
        self, site: Site, stages: Journal
    ) -> None:
        client = site.connect()
        for channel in ("a", "b", "c"):
            client.call("__subscribe__", channel)
        client.call("__unsubscribe__", "b")
        client.call("__unsubscribe__", "b")
        client.vanish()
        stages.wait_for(("finish", "transport close"))
        assert [stage for stage in stages if stage[0] in ENDING] == [
            ("unsubscribe", "b"),
            ("disconnect", "transport close"),
            ("unsubscribe", "a"),
            ("unsubscribe", "c"),
            ("finish", "transport close"),
        ]

    def test_subscribe_is_sent_once_for_each_change(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        client.call("__subscribe__", "a")
        client.call("__subscribe__", "a")
        client.call("__unsubscribe__", "a")
        client.call("__subscribe__", "a")
        changes = [stage for stage in stages if stage[0] in ("subscribe", "unsubscribe")]
        assert changes == [("subscribe", "a"), ("unsubscribe", "a"), ("subscribe", "a")]

    def test_socket_is_a_member_when_subscribe_is_sent(self, site: Site, journal: Journal) -> None:
        @on_subscribe
        def joined(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(("subscribe", socket.channels))

        @on_unsubscribe
        def left(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(("unsubscribe", socket.channels))

        client = site.connect()
        client.call("__subscribe__", "a")
        client.call("__unsubscribe__", "a")
        journal.wait(lambda journal: len(journal) == 2)
        assert journal == [("subscribe", ("a",)), ("unsubscribe", ())]

    def test_context_is_shared_within_a_connection_only(self, site: Site) -> None:
        @on_connect
        def begin(request: Any, socket: Any, context: Any) -> None:
            context["messages"] = []
            assert socket.context is context

        @on_message
        def collect(request: Any, socket: Any, context: Any, message: Any) -> Any:
            context["messages"].append(message)
            return context["messages"]

        first, second = site.connect(), site.connect()
        first.call("message", 1)
        assert second.call("message", 2) == [[2]]
        assert first.call("message", 3) == [[1, 3]]
        assert type(default_runtime.registry.find(first.id).context) is dict  # type: ignore[union-attr]

    def test_messages_of_a_connection_are_handled_one_at_a_time_in_order(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message
        def slow(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(("begin", message))
            gevent.idle()
            journal.append(("end", message))

        client = site.connect()
        for number in range(5):
            client.emit("message", number)
        journal.wait_for(("end", 4))
        assert journal == [(word, number) for number in range(5) for word in ("begin", "end")]

    def test_messages_of_different_connections_are_handled_concurrently(
        self, site: Site, journal: Journal
    ) -> None:
        go = gevent.event.Event()

        @on_message
        def wait(request: Any, socket: Any, context: Any, message: Any) -> Any:
            if message == "wait":
                journal.append("waiting")
                go.wait()
            return message

        first, second = site.connect(), site.connect()
        first.emit("message", "wait", ack=7)
        journal.wait_for("waiting")
        assert second.call("message", "quick") == ["quick"]
        go.set()
        assert first.receive() == '437["wait"]'


class TestConnecting:
    def test_client_lost_while_the_gate_waits_sends_no_stages(
        self, site: Site, stages: Journal
    ) -> None:
        go = gevent.event.Event()
        passed = Journal()

        @on_connecting
        def wait(request: Any, socket: Any, context: Any) -> None:
            passed.append("waiting")
            go.wait()
            passed.append("passed")

        client = site.websocket()
        client.send("40")
        passed.wait_for("waiting")
        client.send("1")
        client.wait_closed()
        go.set()
        passed.wait_for("passed")
        site.server.stop()
        assert stages == [("connecting", None)]
        assert not default_runtime.registry.namespace("/").sockets

    def test_client_leaving_the_namespace_while_the_gate_waits_sends_no_stages(
        self, site: Site, stages: Journal
    ) -> None:
        go = gevent.event.Event()
        passed = Journal()

        @on_connecting
        def wait(request: Any, socket: Any, context: Any) -> None:
            passed.append("waiting")
            go.wait()

        client = site.websocket()
        client.send("40")
        passed.wait_for("waiting")
        client.send("41")
        client.send("40")  # connects again: another connection, queued behind the first
        (session,) = site.server.engine.sessions.values()
        while not len(session.receiver.inbox("/")):
            gevent.sleep(0.001)
        go.set()
        reply = client.receive()
        assert isinstance(reply, str)
        assert list(default_runtime.registry.namespace("/").sockets) == [
            json.loads(reply[2:])["sid"]
        ]
        assert [name for name, _ in stages].count("connect") == 1
        assert passed == ["waiting", "waiting"]

    def test_repeated_connects_of_a_client_are_handled_in_one_queue(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(inbox_events=8)
        go = gevent.event.Event()
        asked = Journal()

        @on_connecting
        def wait(request: Any, socket: Any, context: Any) -> None:
            asked.append(socket)
            go.wait()

        client = site.websocket()
        client.send("40")
        asked.wait(len)
        for _ in range(100):
            client.send("41")
            client.send("40")
        client.send("41")
        (session,) = site.server.engine.sessions.values()
        while not session.paused:
            gevent.sleep(0.001)
        assert len(asked) == 1
        go.set()
        client.connect()
        assert len(asked) == 2  # gates do not run for connections that have closed

    def test_connect_is_sent_before_messages_sent_at_once(
        self, site: Site, stages: Journal
    ) -> None:
        @on_connect
        def slow(request: Any, socket: Any, context: Any) -> None:
            gevent.idle()

        client = site.websocket()
        client.connect()
        client.emit("message", "early")
        stages.wait_for(("message", "early"))
        assert stages == [
            ("connecting", None),
            ("connect", None),
            ("receiving", "early"),
            ("message", "early"),
        ]

    def test_client_lost_while_connect_is_handled_sends_disconnect(
        self, site: Site, stages: Journal
    ) -> None:
        go = gevent.event.Event()

        @on_connect
        def wait(request: Any, socket: Any, context: Any) -> None:
            go.wait()
            socket.send("without recipients")
            assert socket.subscribe("late") is False

        client = site.connect()
        client.send("1")
        client.wait_closed()
        go.set()
        stages.wait_for(("finish", "transport close"))
        assert stages == [
            ("connecting", None),
            ("connect", None),
            ("disconnect", "transport close"),
            ("finish", "transport close"),
        ]


class TestNamespaces:
    def test_namespaces_of_a_session_are_separate_connections(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        seen = Journal()

        @on_connect
        def connected(request: Any, socket: Any, context: Any) -> None:
            seen.append((socket.namespace, socket, request))

        site = serve(namespaces=["/", "/chat"])
        client = site.connect()
        client.connect(namespace="/chat,")
        (one, first, request), (other, second, same) = seen.wait(lambda seen: len(seen) == 2)
        assert (one, other) == ("/", "/chat")
        assert first is not second
        assert first.session_id != second.session_id
        assert first.context is not second.context
        assert request is same
        client.send("41/chat,")
        stages.wait_for(("finish", "client namespace disconnect"))
        assert (first.connected, second.connected) == (True, False)
        client.barrier()
        client.vanish()
        stages.wait_for(("finish", "transport close"))
        assert [name for name, _ in stages].count("disconnect") == 2

    def test_end_of_the_session_disconnects_each_namespace_once(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        site = serve(namespaces=["/", "/chat"])
        client = site.connect()
        client.connect(namespace="/chat,")
        client.vanish()
        stages.wait(lambda stages: stages.count(("finish", "transport close")) == 2)
        assert stages.count(("disconnect", "transport close")) == 2

    def test_channels_of_the_same_name_in_two_namespaces_are_separate(
        self, serve: Callable[..., Site]
    ) -> None:
        site = serve(namespaces=["/", "/chat"])
        client = site.connect()
        client.connect(namespace="/chat,")
        client.call("__subscribe__", "room")
        client.send('42/chat,8["__subscribe__","room"]')
        assert client.receive() == '43/chat,8[{"ok":true}]'
        (socket,) = default_runtime.registry.namespace("/chat").sockets.values()
        socket.send_and_broadcast_channel("hello", "room")
        assert client.receive() == '42/chat,["message","hello"]'
        client.barrier()


def _give_up(client: Any, site: Site, socket: Any) -> None:
    site.server.engine._heartbeat._on_timeout(socket._connection.session)


Trigger = tuple[Callable[[Any, Site, Any], Any], str]

#: Disconnects after which the client can still send.
SAID: dict[str, Trigger] = {
    "packet 41": (lambda client, site, socket: client.send("41"), "client namespace disconnect"),
    "engine packet 1": (lambda client, site, socket: client.send("1"), "transport close"),
    "bad packet": (lambda client, site, socket: client.send("4abc"), "parse error"),
}
#: Disconnects after which it cannot.
LAST_WORDS: dict[str, Trigger] = {
    "close frame": (lambda client, site, socket: client.close(), "transport close"),
    "FIN": (lambda client, site, socket: client.vanish(), "transport close"),
    "RST": (lambda client, site, socket: client.vanish(reset=True), "transport close"),
}
SERVER: dict[str, Trigger] = {
    "server disconnect": (
        lambda client, site, socket: socket.disconnect(),
        "server namespace disconnect",
    ),
    "ping timeout": (_give_up, "ping timeout"),
    "server stop": (lambda client, site, socket: site.server.stop(), "server shutting down"),
}
ENDINGS = {**SAID, **LAST_WORDS, **SERVER}


class TestDisconnects:
    @pytest.mark.parametrize("name", ENDINGS)
    def test_each_way_to_disconnect_sends_disconnect_and_finish_once(
        self, name: str, site: Site, stages: Journal
    ) -> None:
        end, reason = ENDINGS[name]
        client = site.connect()
        client.call("__subscribe__", "room-1")
        end(client, site, default_runtime.registry.find(client.id))
        stages.wait_for(("finish", reason))
        site.server.stop()
        assert [stage for stage in stages if stage[0] in ENDING] == [
            ("disconnect", reason),
            ("unsubscribe", "room-1"),
            ("finish", reason),
        ]

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            *itertools.product(SAID, ENDINGS),
            *itertools.product(LAST_WORDS, SERVER),
            *itertools.product(SERVER, ENDINGS),
        ],
    )
    def test_concurrent_disconnects_keep_the_first_reason(
        self, first: str, second: str, site: Site, stages: Journal
    ) -> None:
        client = site.connect()
        client.call("__subscribe__", "room-1")
        socket = default_runtime.registry.find(client.id)
        for name in (first, second):
            ENDINGS[name][0](client, site, socket)
        # Actions of the server take effect at once; packets of the client are read later.
        winner = second if first not in SERVER and second in SERVER else first
        reason = ENDINGS[winner][1]
        stages.wait(lambda stages: any(name == "finish" for name, _ in stages))
        site.server.stop()
        assert [stage for stage in stages if stage[0] in ENDING] == [
            ("disconnect", reason),
            ("unsubscribe", "room-1"),
            ("finish", reason),
        ]

    @pytest.mark.parametrize("name", ["packet 41", "engine packet 1", "bad packet"])
    def test_disconnects_over_polling_send_disconnect_and_finish_once(
        self, name: str, site: Site, stages: Journal
    ) -> None:
        packet, reason = {
            "packet 41": ("41", "client namespace disconnect"),
            "engine packet 1": ("1", "transport close"),
            "bad packet": ("4abc", "parse error"),
        }[name]
        client = site.polling()
        client.connect()
        client.send(packet)
        stages.wait_for(("finish", reason))
        site.server.stop()
        assert [stage for stage in stages if stage[0] in ENDING] == [
            ("disconnect", reason),
            ("finish", reason),
        ]

    def test_ping_timeout_sends_disconnect_with_reason(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        site = serve(ping_interval=0.05, ping_timeout=0.05)
        client = site.connect()
        client.receive(pings=True)
        stages.wait_for(("finish", "ping timeout"))
        assert stages.count(("disconnect", "ping timeout")) == 1

    def test_slow_reader_is_disconnected_with_reason(
        self, serve: Callable[..., Site], stages: Journal
    ) -> None:
        site = serve(outbox_bytes=100_000)
        client = site.connect()
        socket = default_runtime.registry.find(client.id)
        assert socket is not None
        while socket.connected:
            socket.send("x" * 50_000)
            gevent.idle()
        stages.wait_for(("finish", "slow reader"))
        assert stages.count(("disconnect", "slow reader")) == 1

    def test_socket_is_removed_before_disconnect_is_sent(
        self, site: Site, journal: Journal
    ) -> None:
        go = gevent.event.Event()

        @on_disconnect
        def wait(request: Any, socket: Any, context: Any) -> None:
            journal.append("gone")
            go.wait()

        client, other = site.connect(), site.connect()
        for each in (client, other):
            each.call("__subscribe__", "room")
        client.vanish()
        journal.wait_for("gone")
        assert list(default_runtime.registry.namespace("/").channels.members("room")) == [
            default_runtime.registry.find(other.id)
        ]
        assert default_runtime.registry.find(client.id) is None
        go.set()


class TestServerStop:
    def test_stop_raises_greenlet_exit_in_waiting_handlers_and_sends_finish(
        self, site: Site, stages: Journal
    ) -> None:
        ended = Journal()

        @on_message
        def wait(request: Any, socket: Any, context: Any, message: Any) -> None:
            ended.append("waiting")
            try:
                gevent.event.Event().wait()
            except gevent.GreenletExit:
                ended.append("GreenletExit")
                raise

        client = site.connect()
        client.call("__subscribe__", "room")
        client.emit("message", "wait")
        client.emit("message", "not begun any more")
        ended.wait_for("waiting")
        site.server.stop(timeout=0.01)
        assert ended == ["waiting", "GreenletExit"]
        assert [stage for stage in stages if stage[0] in ENDING] == [
            ("disconnect", "server shutting down"),
            ("unsubscribe", "room"),
            ("finish", "server shutting down"),
        ]

    def test_stop_waits_for_handlers_that_finish_in_time(self, site: Site) -> None:
        ended = Journal()

        @on_message
        def work(request: Any, socket: Any, context: Any, message: Any) -> None:
            ended.append("begun")
            gevent.idle()
            ended.append("done")

        client = site.connect()
        client.emit("message", "work")
        ended.wait_for("begun")
        site.server.stop()
        assert ended == ["begun", "done"]

    @pytest.mark.parametrize("stage", ["disconnect", "finish"])
    def test_stop_interrupts_waiting_disconnect_handlers(
        self, stage: str, site: Site, stages: Journal
    ) -> None:
        @{"disconnect": on_disconnect, "finish": on_finish}[stage]
        def wait(request: Any, socket: Any, context: Any) -> None:
            gevent.event.Event().wait()

        for _ in range(3):
            site.connect()
        site.server.stop(timeout=0.01)
        assert stages.count(("finish", "server shutting down")) == 3


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even its text")

    __repr__ = __str__


def _recurse() -> None:
    _recurse()


FAILURES = [
    ValueError("an ordinary one"),
    gevent.GreenletExit(),
    gevent.Timeout(1),
    RecursionError(),
    Unprintable(),
    GeneratorExit(),
    AssertionError(),
]


class TestExceptions:
    @pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
    def test_exception_does_not_stop_other_receivers_and_sends_one_error(
        self, error: BaseException, site: Site, stages: Journal
    ) -> None:
        @on_message
        def bad(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise error

        @on_message
        def good(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send("still here")

        client = site.connect()
        client.emit("message", "hello")
        assert client.event() == ["message", "still here"]
        client.barrier()  # the connection still handles events
        assert [value for name, value in stages if name == "error"] == [error]

    def test_recursion_error_is_sent_as_error(self, site: Site, stages: Journal) -> None:
        @on_message
        def bad(request: Any, socket: Any, context: Any, message: Any) -> None:
            _recurse()

        client = site.connect()
        assert client.call("message", 1) == [{"error": "internal error"}]
        (error,) = [value for name, value in stages if name == "error"]
        assert isinstance(error, RecursionError)

    @pytest.mark.parametrize(
        "decorator",
        [on_connect, on_subscribe, on_unsubscribe, on_disconnect, on_finish],
        ids=lambda decorator: decorator.__name__,
    )
    def test_exception_in_any_stage_is_sent_as_error(
        self, decorator: Any, site: Site, stages: Journal
    ) -> None:
        error = ZeroDivisionError("oops")

        @decorator
        def bad(*args: Any) -> None:
            raise error

        client = site.connect()
        assert client.call("__subscribe__", "room") == [{"ok": True}]
        client.send("41")
        stages.wait_for(("finish", "client namespace disconnect"))
        site.server.stop()
        assert stages.count(("error", error)) == 1
        assert [name for name, _ in stages if name in ENDING] == list(ENDING)

    def test_each_exception_is_sent_as_separate_error(self, site: Site, stages: Journal) -> None:
        errors = [ValueError(1), ValueError(2)]

        @on_connect
        def first(request: Any, socket: Any, context: Any) -> None:
            raise errors[0]

        @on_connect
        def second(request: Any, socket: Any, context: Any) -> None:
            raise errors[1]

        client = site.connect()
        client.barrier()
        assert [value for name, value in stages if name == "error"] == errors

    def test_error_handler_receives_the_exception(self, site: Site, journal: Journal) -> None:
        error = KeyError("x")

        @on_error
        def failed(request: Any, socket: Any, context: Any, exception: Any) -> None:
            journal.append((request is socket.request, context is socket.context, exception))

        @on_message
        def bad(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise error

        site.connect().emit("message")
        journal.wait_for((True, True, error))

    def test_exception_of_error_handler_is_logged_only(
        self, site: Site, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        @on_error
        def worse(request: Any, socket: Any, context: Any, exception: Any) -> None:
            journal.append(("worse", str(exception)))
            raise RuntimeError("from the error handler")

        @on_error
        def other(request: Any, socket: Any, context: Any, exception: Any) -> None:
            journal.append(("other", str(exception)))

        @on_message
        def bad(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise ValueError("the first")

        client = site.connect()
        assert client.call("message") == [{"error": "internal error"}]
        assert journal == [("worse", "the first"), ("other", "the first")]
        logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert [str(record.exc_info[1]) for record in logged if record.exc_info] == [
            "the first",
            "from the error handler",
        ]

    def test_invalid_data_of_a_client_is_sent_as_error(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        client.send("4abc")
        stages.wait_for(("finish", "parse error"))
        assert [name for name, _ in stages] == [
            "connecting",
            "connect",
            "error",
            "disconnect",
            "finish",
        ]

    def test_exception_does_not_affect_other_connections(self, site: Site) -> None:
        @on_message
        def bad(request: Any, socket: Any, context: Any, message: Any) -> Any:
            if message == "bad":
                raise ValueError(message)
            return message

        first, second = site.connect(), site.connect()
        first.call("message", "bad")
        assert second.call("message", "good") == ["good"]
        assert first.call("message", "good") == ["good"]

    def test_post_that_fills_the_inbox_of_a_closed_session_is_answered(
        self, serve: Callable[..., Site]
    ) -> None:
        """The job of the disconnect pauses a session whose transport is released before it ends."""
        resumed = gevent.event.Event()

        @on_message
        def wait(*_: Any) -> None:
            resumed.wait()

        site = serve(inbox_events=32)
        client = site.polling()
        client.connect()
        waiting = gevent.spawn(client.poll)
        (session,) = site.server.engine.sessions.values()
        eventually(lambda: session.transport.waiting)  # type: ignore[union-attr]
        post = gevent.spawn(client.send, *['42["message",1]'] * 31, "1", "3")
        assert waiting.get() == ["6"]
        resumed.set()
        assert post.get() == (200, "ok")
