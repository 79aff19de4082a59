"""Targets: `to`, `everyone`, `Socket.to` and `Socket.others`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import web

from tests.conftest import Journal, Site, gets, socket_of
from tests.raw import Polling, connect
from tests.recovery_client import RecoveringClient
from tests.redis_server import RedisServer, extend_redis_timeouts
from webpy_socketio import (
    CallerError,
    ChannelError,
    EncodeError,
    NoSocket,
    Runtime,
    Socket,
    default_runtime,
    everyone,
    on_message,
    signals,
    socketio_urls,
    sockets,
    to,
    to_sockets,
)
from webpy_socketio.testing import TestServer

Serve = Callable[..., Site]


class TestRecipients:
    def test_everyone_sends_to_all_sockets(self, site: Site) -> None:
        first, second = site.connect(), site.connect()
        everyone.send("hello")
        gets(first, "hello")
        gets(second, "hello")

    def test_member_of_several_channels_receives_one_copy(self, site: Site) -> None:
        both, one, none = connect(site, "a", "b"), connect(site, "b"), connect(site)
        to("a", "b").send("hello")
        to("a").to("b", "a").send("again")
        for client in (both, one):
            gets(client, "hello", "again")
        gets(none)

    def test_except_excludes_channels_and_sockets(self, site: Site) -> None:
        first, muted, second = connect(site, "a"), connect(site, "a", "muted"), connect(site, "a")
        to("a").except_("muted", socket_of(second)).send("hello")
        gets(first, "hello")
        gets(muted)
        gets(second)

    def test_socket_to_excludes_the_socket(self, site: Site) -> None:
        first, second = connect(site, "a"), connect(site, "a")
        socket_of(first).to("a").emit("news", 1, "2")
        assert second.event() == ["news", 1, "2"]
        gets(first)

    def test_socket_to_may_exclude_further_sockets(self, site: Site) -> None:
        clients = [connect(site, "a") for _ in range(3)]
        socket_of(clients[0]).to("a").except_(socket_of(clients[1])).send("hello")
        for client, messages in zip(clients, ([], [], ["hello"]), strict=True):
            gets(client, *messages)

    def test_socket_others_excludes_the_socket(self, site: Site) -> None:
        first, second = site.connect(), site.connect()
        socket_of(first).others.send("hello")
        gets(second, "hello")
        gets(first)

    def test_namespace_selects_other_sockets(self, serve: Serve) -> None:
        site = serve(namespaces=["/", "/chat"])
        default, chat = site.connect(), site.websocket()
        chat.connect(namespace="/chat,")
        everyone.namespace("/chat").send("hello")
        assert chat.receive() == '42/chat,["message","hello"]'
        gets(default)

    def test_target_without_sockets_has_no_effect(self, site: Site) -> None:
        client = site.connect()
        to("empty").send("hello")
        everyone.namespace("/unknown").send("hello")
        gets(client)

    def test_targets_of_another_runtime_reach_its_sockets(self, serve: Serve) -> None:
        runtime = Runtime()
        first, second = serve().connect(), serve(runtime=runtime).connect()
        runtime.everyone.send("second")
        everyone.send("first")
        gets(first, "first")
        gets(second, "second")

    def test_modifiers_leave_the_target_unchanged(self, site: Site) -> None:
        first, second = connect(site, "a"), connect(site, "b")
        target = to("a")
        target.to("b").except_("a").local.volatile.namespace("/chat")
        target.send("hello")
        gets(first, "hello")
        gets(second)

    def test_target_sends_from_another_thread_and_keeps_order(self, site: Site) -> None:
        client = connect(site, "a")
        pool = gevent.get_hub().threadpool
        pool.apply(lambda: [to("a").send(number) for number in range(20)])
        gets(client, *range(20))

    def test_signal_sent_lists_the_recipients(self, site: Site, journal: Journal) -> None:
        clients = [connect(site, "a"), connect(site, "a", "b")]
        signals.sent.connect(
            lambda sender, sockets, **extra: journal.append([each.session_id for each in sockets])
        )
        to("a").except_("b").send("hello")
        assert journal == [[clients[0].id]]


class TestSockets:
    """Targets that contain single sockets."""

    def test_socket_is_found_by_id_in_any_namespace(self, serve: Serve) -> None:
        site = serve(namespaces=["/", "/chat"])
        first, second = site.connect(), site.connect()
        first.send("40/chat,")
        chat = json.loads(str(first.receive()).removeprefix("40/chat,"))["sid"]
        to_sockets(chat).emit("news", b"1")
        assert first.receive() == '451-/chat,["news",{"_placeholder":true,"num":0}]'
        assert first.receive() == b"1"
        everyone.namespace("/chat").to_sockets(second.id).emit("news", 2)
        assert second.event() == ["news", 2]
        gets(first)

    def test_member_that_is_also_named_receives_one_copy(self, site: Site) -> None:
        inside, outside, other = connect(site, "a", "b"), connect(site), connect(site)
        target = to("a").to_sockets(inside.id, outside.id, outside.id, "unknown")
        target.to("b").send("hello")
        target.except_("a").send("excluded by a channel")
        target.except_(socket_of(outside)).send("excluded by id")
        gets(inside, "hello", "excluded by id")
        gets(outside, "hello", "excluded by a channel")
        gets(other)

    def test_volatile_event_to_id_is_dropped_for_a_client_with_unfetched_messages(
        self, site: Site
    ) -> None:
        client, other = Polling(site.port), site.connect()
        client.connect()
        (session_id,) = {socket.session_id for socket in sockets()} - {other.id}
        to_sockets(session_id).send("first")
        other.barrier()
        to_sockets(session_id).volatile.send("dropped")
        to_sockets(session_id).send("last")
        assert client.poll() == ['42["message","first"]', '42["message","last"]']

    def test_volatile_event_to_id_is_not_retained_for_recovery(self, serve: Serve) -> None:
        site = serve(recovery_time=60)
        client = RecoveringClient(site)
        target = to_sockets(client.id)
        target.send("first")
        assert client.event() == ["message", "first"]
        socket = default_runtime.registry.find(client.id)
        assert socket is not None
        client.raw.vanish(True)
        while not socket.suspended:
            gevent.sleep(0.001)
        target.volatile.send("dropped")
        target.send("missed")
        assert client.resume(site)
        assert client.event() == ["message", "missed"]
        client.barrier()

    def test_commands_and_calls_reach_the_named_sockets_only(self, site: Site) -> None:
        first, second = site.connect(), site.connect()
        target = to_sockets(socket_of(first))
        target.subscribe("a")
        assert (socket_of(first).channels, socket_of(second).channels) == (("a",), ())
        (info,) = target.sockets()
        assert (info.id, info.channels) == (first.id, ("a",))
        answers = gevent.spawn(to_sockets(info).call, "ask")
        packet = str(first.receive())
        first.send("43" + packet[2 : packet.index("[")] + "[7]")
        assert answers.get() == [7]
        target.unsubscribe("a")
        assert socket_of(first).channels == ()
        target.disconnect()
        assert first.receive() == "41"
        gets(second)


def test_client_of_the_testing_kit_is_addressed_by_its_id() -> None:
    with TestServer(web.application(socketio_urls, {}, autoreload=False)) as server:
        client, other = server.connect(), server.connect()
        to_sockets(client.socket.session_id).emit("private", 1)
        assert client.receive("private") == 1
        assert other.received() == []


def test_targets_reach_clients_of_the_testing_kit() -> None:
    app = web.application(socketio_urls, {}, autoreload=False)
    with TestServer(app, namespaces=["/", "/chat"]) as server:
        ann, bob, muted = server.connect(), server.connect(), server.connect()
        chat = server.connect("/chat")
        for client in (ann, bob, muted):
            client.subscribe("a")
        muted.subscribe("muted")
        to("a").except_("muted").send(1)
        everyone.local.except_(ann.socket).send(2)
        ann.socket.to("a").volatile.send(3)
        ann.socket.others.namespace("/chat").send(4)
        received = [client.received("message") for client in (ann, bob, muted, chat)]
        assert received == [[1], [1, 2, 3], [2, 3], [4]]
        to("muted").disconnect(close=True)
        server.settle()
        assert [client.connected for client in (ann, bob, muted)] == [True, True, False]
        assert muted.reason == "io server disconnect"


class TestVolatile:
    def test_event_is_dropped_for_a_client_with_unfetched_messages(self, site: Site) -> None:
        slow, fast = Polling(site.port), site.connect()
        slow.connect()
        everyone.send("first")
        fast.event()
        everyone.volatile.emit("position", 1)
        everyone.send("last")
        assert fast.event() == ["position", 1]
        assert slow.poll() == ['42["message","first"]', '42["message","last"]']

    def test_socket_volatile_drops_the_event_for_a_client_with_unfetched_messages(
        self, site: Site
    ) -> None:
        client = Polling(site.port)
        client.connect()
        (socket,) = sockets()
        socket.volatile.emit("position", 1)
        socket.volatile.emit("position", 2)
        socket.send("last")
        assert client.poll() == ['42["position",1]', '42["message","last"]']
        socket.volatile.send("again")
        assert client.poll() == ['42["message","again"]']

    def test_event_is_sent_to_a_client_without_unsent_data(self, site: Site) -> None:
        client = Polling(site.port)
        client.connect()
        everyone.volatile.emit("position", 1)
        assert client.poll() == ['42["position",1]']

    def test_event_is_dropped_while_the_client_does_not_read(self, site: Site) -> None:
        client, other = site.connect(), site.connect()
        outbox = socket_of(client).outbox
        while not outbox.unsent:
            socket_of(client).send("x" * 100_000)
            gevent.sleep(0)
        everyone.volatile.emit("position", 1)
        assert other.event() == ["position", 1]
        socket_of(client).send("last")
        while (event := client.event()) != ["message", "last"]:
            assert event[1] == "x" * 100_000


#: Pairs of calls with a socket and a message that must be equivalent.
equivalent = pytest.mark.parametrize(
    ("send", "send_to_target"),
    [
        pytest.param(Socket.broadcast, lambda socket, text: socket.others.send(text), id="all"),
        pytest.param(
            lambda socket, text: socket.broadcast_channel(text, "a"),
            lambda socket, text: socket.to("a").emit("message", text),
            id="channel",
        ),
        pytest.param(
            Socket.broadcast_channel,
            lambda socket, text: socket.to(*socket.channels).send(text),
            id="channels",
        ),
    ],
)


class TestEquivalence:
    """Methods of a socket and its targets."""

    @equivalent
    def test_same_sockets_receive_the_same_bytes(
        self, send: Callable[..., None], send_to_target: Callable[..., None], site: Site
    ) -> None:
        clients = [
            connect(site, "a", "b"),
            connect(site, "a"),
            connect(site, "a", "b"),
            connect(site),
        ]
        received: list[list[Any]] = []
        for function in (send, send_to_target):
            function(socket_of(clients[0]), "hello")
            everyone.send("end")
            received.append([])
            for client in clients:
                packets = [client.receive()]
                while packets[-1] != '42["message","end"]':
                    packets.append(client.receive())
                received[-1].append(packets)
        assert received[0] == received[1]
        assert '42["message","hello"]' in received[0][1]
        assert '42["message","hello"]' not in received[0][0]

    @equivalent
    def test_same_messages_are_rejected(
        self, send: Callable[..., None], send_to_target: Callable[..., None], serve: Serve
    ) -> None:
        socket = socket_of(connect(serve(outbox_bytes=1_000_000), "a"))
        for message in (object(), "x" * 1_000_001):
            errors = []
            for function in (send, send_to_target):
                with pytest.raises(EncodeError) as caught:
                    function(socket, message)
                errors.append(str(caught.value))
            assert errors[0] == errors[1]

    @pytest.mark.parametrize("channel", ["", "a\n", "x" * 11])
    def test_same_channels_are_rejected(self, channel: str, serve: Serve) -> None:
        socket = socket_of(serve(max_channel_length=10).connect())
        with pytest.raises(ChannelError) as first:
            socket.broadcast_channel("hello", channel)
        with pytest.raises(ChannelError) as second:
            socket.to(channel)
        assert str(first.value) == str(second.value)


class TestInvalidTarget:
    def test_to_without_channel_raises_caller_error(self) -> None:
        with pytest.raises(CallerError, match="use everyone for all sockets"):
            to()

    @pytest.mark.parametrize("channel", [5, "", "a\n", None])
    def test_invalid_channel_raises_channel_error(self, channel: Any) -> None:
        with pytest.raises(ChannelError):
            to(channel)
        if channel not in (5, None):
            with pytest.raises(ChannelError):
                everyone.except_(channel)

    @pytest.mark.parametrize("arguments", [(), (7,), (["id"],)])
    def test_invalid_sockets_raise_caller_error(self, arguments: tuple[Any, ...]) -> None:
        with pytest.raises(CallerError, match=r"to_sockets\(\)"):
            to_sockets(*arguments)

    def test_except_of_another_type_raises_caller_error(self) -> None:
        with pytest.raises(CallerError, match="names of channels and sockets, not int"):
            everyone.except_(5)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["chat", "", "/a,b", "/a?b", 5])
    def test_invalid_namespace_raises_caller_error(self, name: Any) -> None:
        with pytest.raises(CallerError, match="starts with a slash"):
            everyone.namespace(name)

    def test_value_without_json_form_raises_encode_error(self, site: Site) -> None:
        site.connect()
        with pytest.raises(EncodeError):
            everyone.send(object())
        with pytest.raises(EncodeError, match="reserved"):
            everyone.emit("__subscribe__", "a")

    def test_process_without_server_and_backplane_raises_no_socket(self) -> None:
        with pytest.raises(NoSocket, match="no SocketIOServer runs in this process"):
            everyone.send("hello")

    def test_repr_shows_the_target(self) -> None:
        target = to("a", "b").except_("c").namespace("/chat").local.volatile
        text = "<Target to('a', 'b').namespace('/chat').except_('c').local.volatile>"
        assert repr(target) == text
        assert repr(everyone) == "<Target everyone>"
        assert repr(to_sockets("x")) == "<Target to_sockets('x')>"
        assert repr(to("a").to_sockets("x").local) == "<Target to('a').to_sockets('x').local>"


class TestProcesses:
    """Two runtimes with one Redis exchange messages like two processes."""

    @pytest.fixture
    def sites(
        self, serve: Serve, shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> list[Site]:
        extend_redis_timeouts(monkeypatch)
        return [
            serve(backplane=shared_redis.url),
            serve(backplane=shared_redis.url, runtime=Runtime()),
        ]

    def test_target_reaches_sockets_of_other_processes(self, sites: list[Site]) -> None:
        near, far = (connect(site, "a", "b") for site in sites)
        to("a", "b").send("channels")
        everyone.send("everyone")
        everyone.local.send("local")
        gets(near, "channels", "everyone", "local")
        gets(far, "channels", "everyone")

    def test_filter_applies_in_other_processes(self, sites: list[Site]) -> None:
        other = sites[1].server.runtime
        near, far, muted = (
            connect(sites[0], "a"),
            connect(sites[1], "a"),
            connect(sites[1], "a", "muted"),
        )
        far_socket = other.registry.find(far.id)
        assert far_socket is not None
        to("a").except_("muted").send("one")
        to("a").except_(far_socket).send("two")
        far_socket.to("a").except_("muted").send("three")
        gets(near, "one", "two", "three")
        gets(far, "one")
        gets(muted, "two")

    def test_sockets_of_other_processes_are_found_by_id(
        self, sites: list[Site], shared_redis: RedisServer
    ) -> None:
        near, far = connect(sites[0], "a"), connect(sites[1], "a", "muted")
        script = Runtime()
        script.configure({"SOCKETIO_BACKPLANE": shared_redis.url})
        for make in (to_sockets, script.to_sockets):
            target = make(far.id)
            target.send("to an id")
            target.local.send("local")
            target.except_("muted").send("excluded")
            target.to("a").send("to a channel")
            gets(far, "to an id", "to a channel")
            gets(near, "to a channel")
            (info,) = target.sockets()
            assert info.channels == ("a", "muted")
        to_sockets(far.id).disconnect()
        assert far.receive() == "41"
        gets(near)

    def test_volatile_event_is_dropped_by_the_receiving_process(self, sites: list[Site]) -> None:
        slow, fast = Polling(sites[1].port), sites[1].connect()
        slow.connect()
        everyone.send("first")
        assert fast.event() == ["message", "first"]
        everyone.volatile.emit("position", 1)
        everyone.send("last")
        assert fast.event() == ["position", 1]
        assert fast.event() == ["message", "last"]
        assert slow.poll() == ['42["message","first"]', '42["message","last"]']

    def test_process_without_server_sends_one_copy(
        self, sites: list[Site], shared_redis: RedisServer
    ) -> None:
        client = connect(sites[0], "a", "b")
        runtime = Runtime()
        runtime.configure({"SOCKETIO_BACKPLANE": shared_redis.url})
        runtime.to("a", "b").send("hello")
        runtime.to("a").except_("b").send("excluded")
        runtime.everyone.send("last")
        gets(client, "hello", "last")


def test_handler_sends_to_room_before_its_acknowledgement(site: Site) -> None:
    @on_message
    def message(request: Any, socket: Any, context: Any, message: Any) -> str:
        socket.to("a").send(message)
        return "sent"

    first, second = connect(site, "a"), connect(site, "a")
    assert first.call("message", "hello") == ["sent"]
    gets(second, "hello")
