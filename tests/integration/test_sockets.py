"""The methods and attributes of a socket, observed by real clients."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import gevent.event
import pytest
import web

from tests.conftest import Journal, Site, gets, socket_of
from tests.raw import Closed, WebSocket
from webpy_socketio import (
    CallerError,
    EncodeError,
    on_connect,
    on_connecting,
    on_finish,
    on_message,
    on_subscribe,
    signals,
    sockets,
)
from webpy_socketio.runtime import default_runtime


class Trio:
    """Three clients: two in the room, the first also in the hall, and one in neither."""

    def __init__(self, site: Site) -> None:
        self.ann, self.bob, self.eve = (site.connect() for _ in range(3))
        self.socket = socket_of(self.ann)
        self.socket.subscribe("room")
        self.socket.subscribe("hall")
        socket_of(self.bob).subscribe("room")

    def get(self, *, ann: int, bob: int, eve: int) -> None:
        for client, copies in ((self.ann, ann), (self.bob, bob), (self.eve, eve)):
            gets(client, *["hello"] * copies)


@pytest.fixture
def trio(site: Site) -> Trio:
    return Trio(site)


class TestSending:
    def test_send_reaches_one_client(self, trio: Trio) -> None:
        trio.socket.send("hello")
        trio.get(ann=1, bob=0, eve=0)

    def test_broadcast_reaches_the_others(self, trio: Trio) -> None:
        trio.socket.broadcast("hello")
        trio.get(ann=0, bob=1, eve=1)

    def test_send_and_broadcast_reaches_all(self, trio: Trio) -> None:
        trio.socket.send_and_broadcast("hello")
        trio.get(ann=1, bob=1, eve=1)

    def test_broadcast_channel_reaches_the_other_subscribers(self, trio: Trio) -> None:
        trio.socket.broadcast_channel("hello", "room")
        trio.get(ann=0, bob=1, eve=0)

    def test_broadcast_channel_accepts_keyword(self, trio: Trio) -> None:
        trio.socket.broadcast_channel("hello", channel="hall")
        trio.get(ann=0, bob=0, eve=0)

    def test_broadcast_channel_without_channel_uses_all_channels_of_the_socket(
        self, trio: Trio
    ) -> None:
        socket_of(trio.bob).subscribe("hall")  # in both channels, receives one copy
        socket_of(trio.eve).subscribe("attic")  # the sender is not a member
        trio.socket.broadcast_channel("hello")
        trio.get(ann=0, bob=1, eve=0)

    def test_send_and_broadcast_channel_reaches_all_subscribers(self, trio: Trio) -> None:
        trio.socket.send_and_broadcast_channel("hello", "room")
        trio.get(ann=1, bob=1, eve=0)

    def test_send_and_broadcast_channel_without_channel_uses_all_channels(self, trio: Trio) -> None:
        socket_of(trio.bob).subscribe("hall")
        trio.socket.send_and_broadcast_channel("hello")
        trio.get(ann=1, bob=1, eve=0)

    def test_broadcast_channel_works_without_subscription(self, trio: Trio) -> None:
        socket_of(trio.eve).broadcast_channel("hello", "room")
        trio.get(ann=1, bob=1, eve=0)

    def test_send_and_broadcast_channel_reaches_an_unsubscribed_sender(self, trio: Trio) -> None:
        socket_of(trio.eve).send_and_broadcast_channel("hello", "room")
        trio.get(ann=1, bob=1, eve=1)

    def test_broadcast_without_recipients_is_not_an_error(self, trio: Trio) -> None:
        trio.socket.broadcast_channel("hello", "empty")
        socket_of(trio.eve).broadcast_channel("hello")
        trio.get(ann=0, bob=0, eve=0)

    def test_send_to_disconnected_socket_has_no_effect(self, trio: Trio) -> None:
        trio.socket.disconnect()
        trio.socket.send("hello")
        trio.socket.emit("custom")
        trio.socket.send_and_broadcast_channel("hello", "room")
        trio.socket.broadcast("hello")
        gets(trio.bob, "hello", "hello")
        gets(trio.eve, "hello")

    def test_broadcast_is_limited_to_the_namespace(self, serve: Callable[..., Site]) -> None:
        site = serve(namespaces=["/", "/chat"])
        client = site.connect()
        client.connect(namespace="/chat,")
        socket_of(client).send_and_broadcast("hello")
        assert client.receive() == '42/chat,["message","hello"]'
        gets(site.connect())

    @pytest.mark.parametrize(
        "message",
        ["text", "", "žluťoučký 🐎 \u2028 </script>", 0, 1.5, True, None, [], [1, [2]], {"a": {}}],
        ids=repr,
    )
    def test_send_accepts_all_json_values(self, message: Any, trio: Trio) -> None:
        trio.socket.send_and_broadcast(message)
        gets(trio.ann, message)
        gets(trio.bob, message)

    def test_messages_arrive_in_the_order_of_sending(self, trio: Trio) -> None:
        for number in range(100):
            trio.socket.send_and_broadcast(number)
        gets(trio.ann, *range(100))
        gets(trio.eve, *range(100))

    def test_send_over_polling_arrives(self, site: Site) -> None:
        client = site.polling()
        client.connect()
        socket = default_runtime.registry.find(client.id)
        assert socket is not None
        socket.send("one")
        socket.send_and_broadcast("two")
        assert client.poll() == ['42["message","one"]', '42["message","two"]']


class TestEmit:
    @pytest.mark.parametrize("args", [(), (1,), ("a", [1], {"b": None})], ids=repr)
    def test_emit_sends_a_custom_event(self, args: tuple[Any, ...], trio: Trio) -> None:
        trio.socket.emit("custom event", *args)
        assert trio.ann.event() == ["custom event", *args]
        trio.get(ann=0, bob=0, eve=0)

    @pytest.mark.parametrize(
        "name",
        [
            *("connect", "connect_error", "disconnect", "disconnecting"),
            *("newListener", "removeListener"),
            *("__subscribe__", "__unsubscribe__", "__channel__"),
        ],
    )
    def test_emit_with_reserved_name_raises_encode_error(self, name: str, trio: Trio) -> None:
        with pytest.raises(EncodeError, match=name):
            trio.socket.emit(name, 1)
        with pytest.raises(EncodeError, match=name):
            trio.socket.call(name, 1)
        trio.get(ann=0, bob=0, eve=0)

    def test_emit_with_name_that_is_not_text_raises_encode_error(self, trio: Trio) -> None:
        with pytest.raises(EncodeError, match="int"):
            trio.socket.emit(5)  # type: ignore[arg-type]
        trio.get(ann=0, bob=0, eve=0)


UNSENDABLE: dict[str, Any] = {
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "minus Infinity": float("-inf"),
    "NaN deep inside": {"a": [1, {"b": float("nan")}]},
    "NaN as a key": {float("nan"): 1},
    "NaN beside None": [None, float("nan")],
    "an object": object(),
    "a set": {1, 2},
    "a function": len,
    "a key that is no text": {("a", "tuple"): 1},
    "a huge integer": 2**64,
    "a lone surrogate": "a\ud800b",
    "a lone surrogate as a key": {"\udfff": 1},
    "a placeholder beside bytes": [b"x", {"_placeholder": True, "num": 0}],
}


class TestEncodeErrors:
    @pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE)
    def test_unencodable_value_raises_and_sends_nothing(self, value: Any, trio: Trio) -> None:
        socket = trio.socket
        for send in (
            socket.send,
            socket.broadcast,
            socket.send_and_broadcast,
            socket.broadcast_channel,
            socket.send_and_broadcast_channel,
            lambda value: socket.broadcast_channel(value, "room"),
            lambda value: socket.emit("custom", 1, value),
            lambda value: socket.call("custom", value),
        ):
            with pytest.raises(EncodeError):
                send(value)
        trio.get(ann=0, bob=0, eve=0)

    def test_circular_value_raises_encode_error(self, trio: Trio) -> None:
        loop: list[Any] = []
        loop.append(loop)
        with pytest.raises(EncodeError):
            trio.socket.send(loop)
        trio.get(ann=0, bob=0, eve=0)

    def test_message_larger_than_the_outbox_raises_encode_error(
        self, serve: Callable[..., Site]
    ) -> None:
        client = serve(outbox_bytes=10_000).connect()
        with pytest.raises(EncodeError, match="10000"):
            socket_of(client).send("x" * 10_000)
        gets(client)

    def test_encode_error_in_a_handler_is_sent_as_one_error(
        self, site: Site, stages: Journal
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send_and_broadcast(object())

        client = site.connect()
        assert client.call("message") == [{"error": "internal error"}]
        assert [type(value) for name, value in stages if name == "error"] == [EncodeError]
        gets(client)


class TestBinary:
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_bytes_are_sent_as_attachments(self, kind: Any, site: Site) -> None:
        client = site.connect()
        socket_of(client).send({"picture": kind(b"\0\xff" * 10), "name": "x"})
        assert client.receive() == (
            '451-["message",{"picture":{"_placeholder":true,"num":0},"name":"x"}]'
        )
        assert client.receive() == b"\0\xff" * 10
        gets(client)

    def test_bytes_are_broadcast_as_attachments(self, trio: Trio) -> None:
        trio.socket.send_and_broadcast([b"one", b"two"])
        for client in (trio.ann, trio.bob, trio.eve):
            head = client.receive()
            assert isinstance(head, str)
            assert head.startswith('452-["message"')
            assert [client.receive(), client.receive()] == [b"one", b"two"]

    def test_attachments_of_the_client_arrive_as_bytes(self, site: Site, journal: Journal) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)

        client = site.connect()
        client.send('451-["message",{"picture":{"_placeholder":true,"num":0}}]')
        client.send(b"\1\2")
        journal.wait(len)
        assert journal == [{"picture": b"\1\2"}]

    def test_bytes_over_polling_arrive_in_both_directions(
        self, site: Site, journal: Journal
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(message)
            socket.send(message)

        client = site.polling()
        client.connect()
        client.send('451-["message",{"_placeholder":true,"num":0}]', "bAQI=")
        journal.wait(len)
        assert journal == [b"\1\2"]
        assert client.poll() == ['451-["message",{"_placeholder":true,"num":0}]', "bAQI="]


class TestAttributes:
    def test_session_id_differs_from_the_engine_io_sid(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        assert socket.session.session_id == socket.session_id == client.id
        assert client.open["sid"] != client.id
        assert client.open["sid"] not in repr(socket)
        assert not hasattr(socket.session, "id")

    def test_session_ids_are_unique(self, site: Site) -> None:
        assert len({site.connect().id for _ in range(20)}) == 20

    def test_request_is_the_environ_of_the_handshake(self, site: Site) -> None:
        socket = socket_of(site.connect(Cookie="a=b"))
        assert socket.request["HTTP_COOKIE"] == "a=b"
        assert socket.request["QUERY_STRING"] == "EIO=4&transport=websocket"

    def test_context_is_a_dict_that_lives_with_the_connection(self, site: Site) -> None:
        socket = socket_of(site.connect())
        assert socket.context == {}
        assert type(socket.context) is dict
        socket.context["x"] = 1
        assert socket.context == {"x": 1}

    def test_connected_is_false_after_disconnect(self, site: Site, journal: Journal) -> None:
        @on_connect
        def handler(request: Any, socket: Any, context: Any) -> None:
            journal.append(socket.connected)

        client = site.connect()
        socket = socket_of(client)
        assert socket.connected
        assert journal == [True]
        client.send("1")
        client.wait_closed()
        assert not socket.connected

    @pytest.mark.parametrize(
        ("auth", "value"), [("", None), ("{}", {}), ('{"token":[1]}', {"token": [1]})]
    )
    def test_auth_is_the_value_of_the_connect_packet(
        self, auth: str, value: Any, site: Site
    ) -> None:
        assert socket_of(site.connect(auth)).auth == value

    def test_namespace_is_its_name(self, serve: Callable[..., Site]) -> None:
        client = serve(namespaces=["/", "/chat"]).connect()
        assert socket_of(client).namespace == "/"
        client.id = client.connect(namespace="/chat,")["sid"]
        assert socket_of(client).namespace == "/chat"

    def test_transport_is_the_current_transport(self, site: Site) -> None:
        assert socket_of(site.connect()).transport == "websocket"
        polling = site.polling()
        polling.connect()
        socket = sockets()[-1]
        assert socket.transport == "polling"
        upgrade = WebSocket(site.port, site.path, f"EIO=4&transport=websocket&sid={polling.sid}")
        upgrade.send("2probe")
        assert upgrade.receive() == "3probe"
        polling.poll()
        upgrade.send("5")
        upgrade.barrier()
        assert socket.transport == "websocket"

    def test_channels_are_in_the_order_of_subscribing(self, trio: Trio) -> None:
        assert trio.socket.channels == ("room", "hall")
        assert socket_of(trio.eve).channels == ()

    def test_socket_is_hashable_and_compares_by_identity(self, trio: Trio) -> None:
        assert {trio.socket: 1}[socket_of(trio.ann)] == 1
        assert trio.socket != socket_of(trio.bob)

    def test_repr_contains_session_id_and_address(self, site: Site) -> None:
        client = site.connect()
        assert repr(socket_of(client)) == f"<Socket {client.id} from 127.0.0.1>"


class TestDisconnect:
    def test_disconnect_sends_queued_messages_first(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        socket = socket_of(client)
        socket.send("last")
        socket.disconnect()
        assert not socket.connected
        assert client.event() == ["message", "last"]
        assert client.receive() == "41"
        with pytest.raises(Closed):
            client.receive()
        stages.wait_for(("finish", "server namespace disconnect"))

    def test_disconnect_over_polling_sends_queued_messages_first(
        self, site: Site, stages: Journal
    ) -> None:
        client = site.polling()
        client.connect()
        socket = default_runtime.registry.find(client.id)
        assert socket is not None
        socket.send("last")
        socket.disconnect()
        assert client.poll() == ['42["message","last"]', "41"]
        assert client.poll() == ["1"]
        stages.wait_for(("finish", "server namespace disconnect"))

    def test_second_disconnect_has_no_effect(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        socket = socket_of(client)
        socket.disconnect()
        socket.disconnect()
        stages.wait_for(("finish", "server namespace disconnect"))
        client.wait_closed()
        assert [name for name, _ in stages].count("disconnect") == 1

    def test_messages_received_after_disconnect_are_not_handled(
        self, site: Site, stages: Journal
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.disconnect()

        client = site.polling()
        client.connect()
        client.send(*(f'42["message",{number}]' for number in range(3)))  # in one write
        stages.wait_for(("finish", "server namespace disconnect"))
        assert [value for name, value in stages if name == "message"] == [0]

    def test_disconnect_keeps_other_namespaces(self, serve: Callable[..., Site]) -> None:
        client = serve(namespaces=["/", "/chat"]).connect()
        other = client.connect(namespace="/chat,")["sid"]
        socket = default_runtime.registry.find(other)
        assert socket is not None
        socket.disconnect()
        assert client.receive() == "41/chat,"
        client.barrier()

    def test_disconnect_with_close_sends_the_last_stages_of_all_namespaces_once(
        self, serve: Callable[..., Site], journal: Journal
    ) -> None:
        client = serve(namespaces=["/", "/chat"]).connect()
        client.call("__subscribe__", "room")
        client.connect(namespace="/chat,")
        for stage in (signals.disconnect, signals.unsubscribe, signals.finish):
            stage.connect(
                lambda sender, namespace, reason, name=stage.name, **extra: journal.append(
                    (namespace, name, reason)
                )
            )
        socket_of(client).disconnect(close=True)
        assert {client.receive(), client.receive()} == {"41", "41/chat,"}
        client.wait_closed()
        reason = "server namespace disconnect"
        journal.wait_for(("/", "finish", reason), ("/chat", "finish", reason))
        assert [entry for entry in journal if entry[0] == "/"] == [
            ("/", name, reason) for name in ("disconnect", "unsubscribe", "finish")
        ]
        assert [entry for entry in journal if entry[0] == "/chat"] == [
            ("/chat", name, reason) for name in ("disconnect", "finish")
        ]

    @pytest.mark.parametrize("recovery_time", [0, 60])
    @pytest.mark.parametrize("close", ["a reason", 1, None])
    def test_disconnect_with_another_type_raises_caller_error_and_closes_nothing(
        self, close: Any, recovery_time: int, serve: Callable[..., Site]
    ) -> None:
        client = serve(recovery_time=recovery_time).connect()
        with pytest.raises(CallerError, match="must be a bool"):
            socket_of(client).disconnect(close)
        client.barrier()

    def test_disconnect_in_a_gate_rejects_the_connection(self, site: Site, stages: Journal) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            socket.disconnect()

        client = site.websocket()
        client.send("40")
        packet = client.receive()
        assert isinstance(packet, str)
        assert packet.startswith("44")
        assert json.loads(packet[2:])["message"]
        assert stages == [("connecting", None)]


class TestConcurrentSubscriptions:
    def test_subscribe_from_another_greenlet_sends_signal_in_order(
        self, site: Site, journal: Journal
    ) -> None:
        may_go_on = gevent.event.Event()

        @on_message
        def slow(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(("begun", socket))
            may_go_on.wait()
            journal.append("done")

        @on_subscribe
        def subscribed(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(("subscribed", web.ctx.env is request))

        client = site.connect()
        client.emit("message", "x")
        journal.wait(len)
        socket = journal[0][1]
        assert socket.subscribe("room-1") is True
        assert socket.channels == ("room-1",)
        may_go_on.set()
        journal.wait(lambda journal: len(journal) == 3)
        assert journal[1:] == ["done", ("subscribed", True)]


class TestSignalOrder:
    def test_signals_are_sent_in_the_order_of_changes(self, site: Site, journal: Journal) -> None:
        may_go_on = gevent.event.Event()

        @on_message
        def slow(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append(socket)
            may_go_on.wait()
            socket.unsubscribe("room-1")

        @signals.subscribe.connect
        def subscribed(sender: Any, channel: str, **extra: Any) -> None:
            journal.append("subscribed")

        @signals.unsubscribe.connect
        def unsubscribed(sender: Any, channel: str, **extra: Any) -> None:
            journal.append("unsubscribed")

        client = site.connect()
        client.emit("message", "x")
        journal.wait(len)
        assert journal[0].subscribe("room-1")
        may_go_on.set()
        journal.wait(lambda journal: len(journal) == 3)
        assert journal[1:] == ["subscribed", "unsubscribed"]


class TestGarbageCollection:
    def test_disconnected_socket_is_garbage_collected(self, site: Site, journal: Journal) -> None:
        client = site.connect()
        client.emit("message", "x")
        gone = weakref.ref(socket_of(client))

        @on_finish
        def finished(request: Any, socket: Any, context: Any) -> None:
            journal.append("finish")

        client.vanish()
        journal.wait_for("finish")
        gevent.idle()
        gc.collect()
        assert gone() is None


class TestStopInHandler:
    def test_stop_in_a_handler_does_not_deadlock(self, site: Site, journal: Journal) -> None:
        @on_message
        def stop(request: Any, socket: Any, context: Any, message: Any) -> None:
            site.server.stop()
            journal.append("returned")

        @on_finish
        def finished(request: Any, socket: Any, context: Any) -> None:
            journal.append("finish")

        client = site.connect()
        client.emit("message", "x")
        journal.wait_for("finish")
        assert journal == ["returned", "finish"]
