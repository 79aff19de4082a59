"""Functions that send from anywhere: pages, greenlets and threads."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import pytest
import web
from gevent.monkey import get_original

from tests.conftest import Journal, Site, gets, socket_of
from webpy_socketio import (
    CallerError,
    CallTimeout,
    ChannelError,
    Disconnected,
    EncodeError,
    NoSocket,
    Refused,
    broadcast,
    broadcast_channel,
    emit,
    on_connecting,
    on_subscribe,
    on_subscribing,
    on_unsubscribe,
    send,
    sockets,
)
from webpy_socketio.engine.io.outbox import Flusher
from webpy_socketio.runtime import default_runtime


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a native thread, not patched by gevent."""
    return gevent.get_hub().threadpool.spawn(function, *args).get()


def in_greenlet(function: Callable[..., Any], *args: Any) -> Any:
    return gevent.spawn(function, *args).get()


def here(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


anywhere = pytest.mark.parametrize("run", [here, in_greenlet, in_thread])


class TestDelivery:
    @anywhere
    def test_broadcast_reaches_all_sockets(self, run: Callable[..., Any], site: Site) -> None:
        first, second = site.connect(), site.connect()
        run(broadcast, {"to": "all"})
        gets(first, {"to": "all"})
        gets(second, {"to": "all"})

    @anywhere
    def test_broadcast_channel_reaches_its_subscribers(
        self, run: Callable[..., Any], site: Site
    ) -> None:
        inside, outside = site.connect(), site.connect()
        inside.call("__subscribe__", "room")
        run(broadcast_channel, "hello", "room")
        gets(inside, "hello")
        gets(outside)

    @anywhere
    def test_send_reaches_one_socket(self, run: Callable[..., Any], site: Site) -> None:
        first, second = site.connect(), site.connect()
        run(send, socket_of(first).session.session_id, "hello")
        gets(first, "hello")
        gets(second)

    @anywhere
    def test_emit_sends_a_custom_event(self, run: Callable[..., Any], site: Site) -> None:
        inside, outside = site.connect(), site.connect()
        inside.call("__subscribe__", "room")
        run(emit, "tick", 1, b"\2")
        run(lambda: emit("tock", channel="room"))
        for client in (inside, outside):
            assert client.receive() == '451-["tick",1,{"_placeholder":true,"num":0}]'
            assert client.receive() == b"\2"
        assert inside.event() == ["tock"]
        gets(outside)

    def test_messages_arrive_in_the_order_of_sending(self, site: Site) -> None:
        client = site.connect()

        def speak() -> None:
            for number in range(100):
                broadcast(number)

        in_thread(speak)
        gets(client, *range(100))

    def test_broadcast_over_polling_arrives(self, site: Site) -> None:
        client = site.polling()
        client.connect()
        broadcast("hello")
        assert client.poll() == ['42["message","hello"]']

    def test_broadcast_with_namespace_reaches_that_namespace_only(
        self, serve: Callable[..., Site]
    ) -> None:
        client = serve(namespaces=["/", "/chat"]).connect()
        other = client.connect(namespace="/chat,")["sid"]
        broadcast("one", namespace="/chat")
        send(other, "two")
        default_runtime.registry.find(other).subscribe("room")  # type: ignore[union-attr]
        broadcast_channel("three", "room", namespace="/chat")
        for word in ("one", "two", "three"):
            assert client.receive() == f'42/chat,["message","{word}"]'
        with pytest.raises(NoSocket):
            broadcast_channel("four", "room")
        gets(client)

    def test_broadcast_in_a_page_reaches_the_sockets(self, serve: Callable[..., Site]) -> None:
        class Page:
            def GET(self) -> str:
                try:
                    broadcast_channel("from a page", "room")
                except NoSocket as error:
                    return f"no socket: {error}"
                return "sent"

        site = serve(("/page", "page"), {"page": Page})

        def visit() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", site.port)
            try:
                connection.request("GET", "/page")
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        client = site.connect()
        assert visit().startswith("no socket: ")
        client.call("__subscribe__", "room")
        assert visit() == "sent"
        gets(client, "from a page")


class TestNoSocket:
    @anywhere
    def test_broadcast_without_sockets_raises_no_socket(
        self, run: Callable[..., Any], site: Site
    ) -> None:
        for function, args in (
            (broadcast, ("hello",)),
            (broadcast_channel, ("hello", "room")),
            (send, ("some id", "hello")),
            (emit, ("tick",)),
        ):
            with pytest.raises(NoSocket):
                run(function, *args)

    @anywhere
    def test_broadcast_channel_without_subscribers_raises_no_socket(
        self, run: Callable[..., Any], site: Site
    ) -> None:
        client = site.connect()
        client.call("__subscribe__", "room")
        client.call("__unsubscribe__", "room")
        with pytest.raises(NoSocket, match="'room'"):
            run(broadcast_channel, "hello", "room")
        with pytest.raises(NoSocket, match="'room'"):
            run(lambda: emit("tick", channel="room"))
        gets(client)

    def test_send_to_disconnected_session_raises_no_socket(self, site: Site) -> None:
        client, other = site.connect(), site.connect()
        socket_of(client).disconnect()
        with pytest.raises(NoSocket, match=client.id):
            send(client.id, "hello")
        gets(other)

    def test_broadcast_to_empty_namespace_raises_no_socket(self, site: Site) -> None:
        site.connect()
        with pytest.raises(NoSocket):
            broadcast("hello", namespace="/nowhere")

    def test_broadcast_while_a_gate_waits_raises_no_socket(self, site: Site) -> None:
        go = gevent.event.Event()
        begun = Journal()

        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            begun.append(socket.session_id)
            go.wait()

        client = site.websocket()
        client.send("40")
        (session_id,) = begun.wait(len)
        with pytest.raises(NoSocket):
            broadcast("hello")
        with pytest.raises(NoSocket):
            send(session_id, "hello")
        go.set()

    def test_no_socket_is_a_lookup_error(self) -> None:
        assert issubclass(NoSocket, LookupError)


@anywhere
class TestSockets:
    def test_sockets_returns_the_connected_sockets(
        self, run: Callable[..., Any], serve: Callable[..., Site]
    ) -> None:
        assert run(sockets) == []
        site = serve(namespaces=["/", "/chat"])
        one, two = site.connect(), site.connect()
        assert run(sockets) == run(sockets, "/") == [socket_of(one), socket_of(two)]
        id_in_main = one.id
        one.connect(namespace="/chat,")
        (inside,) = run(sockets, "/chat")
        assert (inside.session_id, inside.namespace) == (one.id, "/chat")
        assert len(run(sockets)) == 3
        assert run(sockets, "/nowhere") == []
        one.send("41")
        one.send('42/chat,1["__unsubscribe__","barrier"]')
        one.receive()
        assert id_in_main not in [socket.session_id for socket in run(sockets)]

    def test_sockets_returns_a_copy(self, run: Callable[..., Any], site: Site) -> None:
        site.connect()
        run(sockets).clear()
        assert len(sockets()) == 1


class TestErrors:
    @anywhere
    def test_unencodable_message_raises_encode_error(
        self, run: Callable[..., Any], site: Site
    ) -> None:
        client = site.connect()
        client.call("__subscribe__", "room")
        for function, args in (
            (broadcast, (object(),)),
            (broadcast_channel, (float("nan"), "room")),
            (send, (client.id, {1, 2})),
            (emit, ("tick", object())),
            (emit, ("connect",)),
            (emit, ("__channel__",)),
        ):
            with pytest.raises(EncodeError):
                run(function, *args)
        gets(client)

    @pytest.mark.parametrize("name", ["chat", "", "/a,b", "/a?b", 5, ["/"]])
    def test_invalid_namespace_raises_caller_error(self, name: Any, site: Site) -> None:
        client = site.connect()
        for function in (
            lambda: broadcast("hello", namespace=name),
            lambda: broadcast_channel("hello", "room", namespace=name),
            lambda: emit("hello", namespace=name),
            lambda: sockets(name),
        ):
            with pytest.raises(CallerError, match="starts with a slash"):
                function()
        gets(client)

    @pytest.mark.parametrize("name", ["", "a\nb", 5, "x" * 256])
    def test_invalid_channel_raises_channel_error(self, name: Any, site: Site) -> None:
        with pytest.raises(ChannelError):
            broadcast_channel("hello", name)


class TestThreads:
    """Methods of a socket, called from a native thread."""

    def test_send_in_a_thread_arrives(self, site: Site) -> None:
        first, second = site.connect(), site.connect()
        socket = socket_of(first)

        def work() -> None:
            socket.send("send")
            socket.broadcast("broadcast")
            socket.send_and_broadcast("both")
            socket.emit("custom", 1)

        in_thread(work)
        for message in ("send", "both"):
            assert first.event() == ["message", message]
        assert first.event() == ["custom", 1]
        gets(second, "broadcast", "both")

    def test_subscribe_in_a_thread_returns_whether_it_changed(
        self, site: Site, stages: Journal
    ) -> None:
        socket = socket_of(site.connect())

        def work() -> list[bool]:
            return [
                socket.subscribe("room"),
                socket.subscribe("room"),
                socket.channels == ("room",),
                socket.unsubscribe("room"),
                socket.unsubscribe("room"),
            ]

        assert in_thread(work) == [True, False, True, True, False]
        assert [name for name, _ in stages[2:]] == ["subscribing", "subscribe", "unsubscribe"]

    def test_receivers_after_a_call_in_a_thread_run_in_the_server_thread(
        self, site: Site, journal: Journal
    ) -> None:
        thread = get_original("_thread", "get_ident")

        @on_subscribe
        @on_unsubscribe
        def handler(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(thread())

        socket = socket_of(site.connect())
        elsewhere = in_thread(lambda: (socket.subscribe("a"), socket.unsubscribe("a"), thread()))
        assert journal == [thread(), thread()]
        assert elsewhere[2] != thread()

    def test_broadcast_in_a_thread_writes_outboxes_in_the_server_thread(self, site: Site) -> None:
        thread = get_original("_thread", "get_ident")
        seen = []

        class Watched(Flusher):
            def broadcast(self, message: Any, outboxes: Any, skip: Any = None) -> None:
                seen.append(thread())
                super().broadcast(message, outboxes, skip)

        client = site.connect()
        client.call("__subscribe__", "room")
        socket = socket_of(client)
        socket.outbox.flusher = Watched(gevent.get_hub().loop)

        def work() -> None:
            broadcast(1)
            broadcast_channel(2, "room")
            socket.send_and_broadcast(3)
            socket.send_and_broadcast_channel(4)

        in_thread(work)
        gets(client, 1, 2, 3, 4)
        assert seen == [thread()] * 4

    def test_subscribe_in_a_thread_raises_refused(self, site: Site) -> None:
        @on_subscribing
        def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("no")

        socket = socket_of(site.connect())
        with pytest.raises(Refused, match="no"):
            in_thread(socket.subscribe, "room")
        with pytest.raises(ChannelError):
            in_thread(socket.subscribe, "")

    def test_call_in_a_thread_returns_the_acknowledgement(self, site: Site) -> None:
        client = site.connect()
        waiting = gevent.get_hub().threadpool.spawn(socket_of(client).call, "question", 1)
        assert client.receive() == '420["question",1]'
        client.send('430["answer"]')
        assert waiting.get() == "answer"

    def test_call_in_a_thread_raises_call_timeout(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        with pytest.raises(CallTimeout):
            in_thread(lambda: socket.call("question", timeout=0.01))
        with pytest.raises(EncodeError):
            in_thread(socket.call, "question", object())
        client.receive()
        waiting = gevent.get_hub().threadpool.spawn(socket.call, "question")
        client.receive()
        client.send("1")
        with pytest.raises(Disconnected):
            waiting.get()

    def test_disconnect_in_a_thread_closes_the_connection(
        self, site: Site, stages: Journal
    ) -> None:
        client = site.connect()
        in_thread(socket_of(client).disconnect)
        stages.wait_for(("finish", "server namespace disconnect"))
        assert client.receive() == "41"

    def test_broadcasts_of_many_threads_all_arrive(self, site: Site) -> None:
        client = site.connect()
        pool = gevent.get_hub().threadpool

        def speak(name: int) -> None:
            for number in range(50):
                broadcast([name, number])

        gevent.joinall([pool.spawn(speak, name) for name in range(4)], raise_error=True)
        seen = [client.event()[1] for _ in range(200)]
        for name in range(4):
            assert [number for who, number in seen if who == name] == list(range(50))


class TestWebContext:
    def test_subscribe_in_a_page_keeps_the_web_ctx_of_the_page(
        self, serve: Callable[..., Site]
    ) -> None:
        class Page:
            def GET(self) -> str:
                broadcast("hello")
                for socket in default_runtime.registry.namespace("/").sockets.values():
                    socket.subscribe("room")
                return str(web.ctx.path)

        @on_subscribe
        def handler(request: Any, socket: Any, context: Any, channel: str) -> None:
            socket.send(web.ctx.path)

        site = serve(("/page", "page"), {"page": Page})
        client = site.connect()
        connection = http.client.HTTPConnection("127.0.0.1", site.port)
        connection.request("GET", "/page")
        assert connection.getresponse().read() == b"/page"
        connection.close()
        # The handler had the `web.ctx` of the handshake, although a page subscribed the socket.
        gets(client, "hello", "/socket.io/")
