"""Calls and commands of targets, descriptions of sockets, and events between servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent
import orjson
import pytest
import web

from tests.conftest import Journal, Site, gets, socket_of
from tests.raw import Polling, WebSocket, connect
from tests.redis_server import RedisServer, extend_redis_timeouts
from tests.servers import ServerProcess, application_source
from webpy_socketio import (
    BackplaneError,
    CallerError,
    CallTimeout,
    ChannelError,
    EncodeError,
    NoSocket,
    Refused,
    Runtime,
    SocketInfo,
    WrongContext,
    call_later,
    default_runtime,
    emit_to_servers,
    everyone,
    on_connect,
    on_subscribing,
    server_replies,
    server_requests,
    signals,
    socketio_urls,
    sockets,
    to,
    to_sockets,
)
from webpy_socketio.backplane import Topic
from webpy_socketio.backplane import answers as backplane_answers
from webpy_socketio.backplane.envelope import InvalidEnvelope, decode
from webpy_socketio.backplane.requests import Request
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.testing import TestServer

Serve = Callable[..., Site]

#: Identifier of the first call of a target in a test process is 2**30 or more.
FIRST_ID = 2**30


@pytest.fixture
def sites(serve: Serve, shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> list[Site]:
    """Two runtimes with one Redis: each is a process of the cluster."""
    extend_redis_timeouts(monkeypatch)
    found = [
        serve(backplane=shared_redis.url),
        serve(backplane=shared_redis.url, runtime=Runtime()),
    ]
    shared_redis.wait_for_servers(2)
    return found


@pytest.fixture
def worker(shared_redis: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
    """Another process with a server, connected to the same Redis."""
    source = application_source(
        f"""
OPTIONS = {{"backplane": "{shared_redis.url}", "plugins": []}}

@on_connect
def connect(request, socket, context):
    context["name"] = "far"

@signals.cluster_event.connect
def cluster_event(sender, event, args, node):
    return [event, args, os.getpid()]
"""
    )
    server = ServerProcess(source, tmp_path / "worker")
    yield server
    if server.process.popen.poll() is None:
        server.process.popen.send_signal(signal.SIGCONT)
    server.close()


@pytest.fixture
def clustered(
    serve: Serve, shared_redis: RedisServer, worker: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> Site:
    """A server in this process, next to `worker`."""
    extend_redis_timeouts(monkeypatch)
    site = serve(backplane=shared_redis.url)
    shared_redis.wait_for_servers(2)
    return site


def answer(client: Any, *args: str) -> None:
    """Receive an event that requests an acknowledgement, and answer with JSON values."""
    packet = client.receive()
    digits = packet[2 : packet.index("[")]
    assert int(digits) >= FIRST_ID
    client.send(f"43{digits}[{','.join(args)}]")


def answering(*clients: Any) -> list[gevent.Greenlet]:
    return [gevent.spawn(answer, client, str(number)) for number, client in enumerate(clients, 1)]


def on_hub(function: Callable[[], Any]) -> Any:
    """Call a function on the hub of gevent; return its result or exception."""
    result = gevent.event.AsyncResult()

    def run() -> None:
        try:
            result.set(function())
        except Exception as error:  # noqa: BLE001 - the result
            result.set(error)

    call_later(0, run)
    return result.get()


class TestCall:
    def test_call_returns_the_answers_of_all_recipients(self, site: Site) -> None:
        clients = [connect(site, "a") for _ in range(3)]
        other = connect(site)
        answering(*clients)
        assert sorted(to("a").call("vote")) == [1, 2, 3]
        gets(other)

    def test_answers_have_the_form_of_socket_call(self, site: Site) -> None:
        client = site.connect()
        results = []
        for args in ([], ["1"], ["1", '"two"'], ["[]"]):
            gevent.spawn(answer, client, *args)
            results += everyone.call("vote")
        assert results == [None, 1, [1, "two"], []]

    def test_event_is_one_message_with_one_id_for_all_recipients(self, site: Site) -> None:
        first, second = site.connect(), site.connect()
        asking = gevent.spawn(everyone.call, "vote", {"x": b"\x01"})
        packets = [[client.receive(), client.receive()] for client in (first, second)]
        assert packets[0] == packets[1]
        head, attachment = packets[0]
        assert head.startswith("451-")
        assert attachment == b"\x01"
        for client in (first, second):
            client.send(f"43{head[4 : head.index('[')]}[1]")
        assert asking.get() == [1, 1]

    def test_ids_do_not_collide_with_those_of_socket_call(self, site: Site) -> None:
        client = site.connect()
        one = gevent.spawn(socket_of(client).call, "one")
        assert client.receive() == '420["one"]'
        answering(client)
        assert everyone.call("all") == [1]
        client.send('430["one"]')
        assert one.get() == "one"

    def test_call_without_recipients_returns_nothing_at_once(self, site: Site) -> None:
        site.connect()
        assert to("empty").call("vote", timeout=3600) == []
        assert everyone.namespace("/unknown").call("vote", timeout=3600) == []

    def test_disconnected_recipient_does_not_answer(self, site: Site) -> None:
        stays, leaves = site.connect(), site.connect()
        asking = gevent.spawn(everyone.call, "vote", timeout=3600)
        leaves.receive()
        leaves.close()
        answer(stays, "1")
        assert asking.get() == [1]

    def test_answer_that_exceeds_a_limit_counts_as_none(self, site: Site) -> None:
        client = site.connect()
        gevent.spawn(answer, client, "[" * 200 + "]" * 200)
        assert everyone.call("vote", timeout=3600) == []

    def test_timeout_raises_with_the_answers_that_arrived(self, site: Site) -> None:
        quick, slow = site.connect(), site.connect()
        answering(quick)
        with pytest.raises(CallTimeout, match="1 of 2 clients acknowledged 'vote'") as caught:
            everyone.call("vote", timeout=1.5)
        assert (caught.value.answers, caught.value.silent_processes) == ([1], 0)
        while socket_of(slow)._connection._acks:  # nothing is left of the call
            gevent.sleep(0)
        answer(slow, "2")  # too late
        gets(slow)

    def test_volatile_call_does_not_ask_clients_with_unsent_data(self, site: Site) -> None:
        slow, fast = Polling(site.port), site.connect()
        slow.connect()
        everyone.send("first")
        fast.event()
        answering(fast)
        assert everyone.volatile.call("vote") == [1]

    def test_call_from_another_thread_returns_the_answers(self, site: Site) -> None:
        client = site.connect()
        answering(client)
        assert gevent.get_hub().threadpool.apply(everyone.call, ("vote",)) == [1]

    def test_call_on_the_hub_raises_wrong_context(self, site: Site) -> None:
        site.connect()
        for function in (
            lambda: everyone.call("vote"),
            everyone.sockets,
            lambda: emit_to_servers("x", timeout=1),
        ):
            assert isinstance(on_hub(function), WrongContext)

    def test_signal_sent_lists_the_recipients(self, site: Site, journal: Journal) -> None:
        client = site.connect()
        signals.sent.connect(
            lambda sender, sockets, read, **extra: journal.append(
                ([each.session_id for each in sockets], read())
            )
        )
        answering(client)
        everyone.call("vote", 5)
        assert journal == [([client.id], ["vote", 5])]

    @pytest.mark.parametrize("timeout", [0, -1, None, "1", float("nan"), float("inf"), 3601, True])
    def test_invalid_timeout_raises_caller_error(self, site: Site, timeout: Any) -> None:
        with pytest.raises(CallerError, match="timeout of call"):
            everyone.call("vote", timeout=timeout)
        with pytest.raises(CallerError, match="timeout of sockets"):
            everyone.sockets(timeout=timeout)

    def test_invalid_event_raises_encode_error(self, site: Site) -> None:
        site.connect()
        for function in (
            lambda: everyone.call("vote", object()),
            lambda: everyone.call("__subscribe__", "a"),
            lambda: emit_to_servers("load", object()),
            lambda: emit_to_servers("load", float("nan"), timeout=1),
            lambda: emit_to_servers(5),  # type: ignore[call-overload]
        ):
            with pytest.raises(EncodeError):
                function()

    def test_process_without_server_and_backplane_raises_no_socket(self) -> None:
        for function in (
            lambda: everyone.call("vote"),
            everyone.disconnect,
            everyone.sockets,
            lambda: to("a").subscribe("b"),
            lambda: emit_to_servers("x"),
            lambda: emit_to_servers("x", timeout=1),
        ):
            with pytest.raises(NoSocket, match="no SocketIOServer runs in this process"):
                function()


class TestTestingKit:
    def test_call_of_a_target_runs_in_virtual_time(self) -> None:
        app = web.application(socketio_urls, {}, autoreload=False)
        with TestServer(app) as server:
            first, second = server.connect(), server.connect()
            first.on("vote", answer=1)
            second.on("vote", answer=2)
            runtime = Runtime.of(first.socket)
            assert sorted(runtime.everyone.call("vote")) == [1, 2]
            runtime.everyone.subscribe("a")
            assert {info.channels for info in runtime.to("a").sockets()} == {("a",)}
            assert runtime.emit_to_servers("load", timeout=1) == {}
            asking = gevent.spawn(runtime.everyone.call, "unanswered", timeout=3600)
            while not asking.ready():
                server.advance(3600)
            with pytest.raises(CallTimeout):
                asking.get()


class TestCommands:
    def test_subscribe_and_unsubscribe_change_all_members(
        self, site: Site, stages: Journal
    ) -> None:
        first, second, other = connect(site, "a"), connect(site, "a"), connect(site)
        to("a").subscribe("b")
        to("b").send("hello")
        gets(first, "hello")
        gets(second, "hello")
        gets(other)
        stages.wait(lambda journal: journal.count(("subscribe", "b")) == 2)
        to("a").except_(socket_of(first)).unsubscribe("b")
        to("b").send("again")
        gets(first, "again")
        gets(second)

    def test_gate_refuses_some_sockets_and_admits_the_others(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        clients = [connect(site, "a") for _ in range(3)]

        @on_subscribing(channel="^b$")
        def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            gevent.sleep(0)
            if socket.session_id == clients[1].id:
                raise Refused("no")

        with caplog.at_level("INFO", "webpy_socketio"):
            to("a").subscribe("b")
        assert [("b" in socket_of(client).channels) for client in clients] == [True, False, True]
        assert "1 of 3 sockets of a target were not subscribed to 'b'" in caplog.text

    def test_timeout_of_the_caller_interrupts_a_command(self, site: Site) -> None:
        connect(site, "a")

        @on_subscribing(channel="^b$")
        def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            gevent.sleep(3600)

        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            to("a").subscribe("b")

    def test_channel_limit_is_sent_as_error_and_not_raised(
        self, serve: Serve, stages: Journal
    ) -> None:
        client = connect(serve(max_channels=1), "a")
        to("a").subscribe("b")
        (error,) = [value for name, value in stages if name == "error"]
        assert isinstance(error, ChannelError)
        gets(client)

    def test_command_on_the_hub_runs_later(self, site: Site, stages: Journal) -> None:
        connect(site, "a")
        assert on_hub(lambda: to("a").subscribe("b")) is None
        stages.wait_for(("subscribe", "b"))
        assert on_hub(lambda: to("a").unsubscribe("b")) is None
        stages.wait_for(("unsubscribe", "b"))

    def test_command_from_another_thread_has_run_when_it_returns(self, site: Site) -> None:
        client = connect(site, "a")
        gevent.get_hub().threadpool.apply(to("a").subscribe, ("b",))
        assert socket_of(client).channels == ("a", "b")

    def test_disconnect_closes_the_sockets(self, site: Site, stages: Journal) -> None:
        gone, stays = connect(site, "a"), connect(site)
        to("a").disconnect()
        assert gone.receive() == "41"
        stages.wait_for(("finish", "server namespace disconnect"))
        gets(stays)

    @pytest.mark.parametrize("close", [False, True])
    def test_disconnect_closes_other_namespaces_only_with_close(
        self, serve: Callable[..., Site], close: bool
    ) -> None:
        client = serve(namespaces=["/", "/chat"]).connect()
        client.connect(namespace="/chat,")
        everyone.disconnect(close)
        assert client.receive() == "41"
        if close:
            assert client.receive() == "41/chat,"
            assert client.wait_closed() is not None
        else:
            client.send('42/chat,1["__unsubscribe__","a"]')
            assert client.receive() == '43/chat,1[{"ok":true}]'

    def test_disconnect_with_another_type_raises(self) -> None:
        with pytest.raises(CallerError, match="must be a bool, not 'room'"):
            everyone.disconnect("room")  # type: ignore[arg-type]

    def test_volatile_does_not_limit_commands(self, site: Site) -> None:
        client = site.connect()
        socket = socket_of(client)
        while not socket.outbox.unsent:
            socket.send("x" * 100_000)
            gevent.sleep(0)
        everyone.volatile.subscribe("b")
        assert socket.channels == ("b",)
        assert len(everyone.volatile.sockets()) == 1

    @pytest.mark.parametrize("channel", [5, "", None])
    def test_invalid_channel_raises_channel_error(self, site: Site, channel: Any) -> None:
        for method in (everyone.subscribe, everyone.unsubscribe):
            with pytest.raises(ChannelError):
                method(channel)


class TestSockets:
    def test_sockets_are_described(self, serve: Serve) -> None:
        @on_connect
        def connect(request: Any, socket: Any, context: Any) -> None:
            context.update(name="Anna", tags=("x",), lock=object(), data=b"", nan=float("nan"))

        site = serve()
        client = site.connect(**{"X-Test": "yes"})
        client.call("__subscribe__", "a")
        (info,) = to("a").sockets()
        assert isinstance(info, SocketInfo)
        assert (info.id, info.session_id) == (client.id, client.id)
        assert (info.namespace, info.channels, info.transport) == ("/", ("a",), "websocket")
        assert info.context == {"name": "Anna", "tags": ["x"]}
        assert info.omitted == ("lock", "data", "nan")
        handshake = info.handshake
        assert (handshake.address, handshake.secure) == ("127.0.0.1", False)
        assert handshake.headers["x-test"] == "yes"
        assert handshake.query["EIO"] == "4"
        assert handshake.time == socket_of(client).opened_at
        with pytest.raises(AttributeError):
            info.id = "x"  # type: ignore[misc]

    def test_context_above_the_limit_is_left_out(self, site: Site) -> None:
        client = site.connect()
        socket_of(client).context.update(big="x" * 70_000, small=1)
        (info,) = everyone.sockets()
        assert (info.context, info.omitted) == ({"small": 1}, ("big",))

    def test_description_can_be_excluded(self, site: Site) -> None:
        first, second = site.connect(), site.connect()
        (info,) = [each for each in everyone.sockets() if each.id == first.id]
        everyone.except_(info).send("hello")
        gets(second, "hello")
        gets(first)


class TestCluster:
    """Two runtimes in this process, and one Redis."""

    def test_call_returns_the_answers_of_all_processes(self, sites: list[Site]) -> None:
        near, far, other = connect(sites[0], "a"), connect(sites[1], "a"), connect(sites[1])
        answering(near, far)
        assert sorted(to("a").call("vote")) == [1, 2]
        gets(other)

    def test_call_excludes_recipients_in_other_processes(self, sites: list[Site]) -> None:
        far, muted = connect(sites[1], "a"), connect(sites[1], "a", "muted")
        answering(far)
        assert to("a").except_("muted").call("vote") == [1]
        gets(muted)

    def test_call_in_a_namespace_reaches_other_processes(
        self, serve: Serve, shared_redis: RedisServer
    ) -> None:
        for runtime in (Runtime(), Runtime()):
            site = serve(backplane=shared_redis.url, runtime=runtime, namespaces=["/", "/chat"])
        shared_redis.wait_for_servers(2)
        client = site.websocket()
        client.connect(namespace="/chat,")
        asking = gevent.spawn(site.server.runtime.everyone.namespace("/chat").call, "vote", 1)
        packet = client.receive()
        assert packet.startswith("42/chat,1")
        assert packet.endswith('["vote",1]')
        client.send(f"43/chat,{packet[8 : packet.index('[')]}[2]")
        assert asking.get() == [2]

    def test_binary_and_similar_answers_arrive_unchanged(self, sites: list[Site]) -> None:
        binary, text = site_clients = [sites[1].connect(), sites[1].connect()]
        asking = gevent.spawn(everyone.call, "vote", timeout=60)
        digits = {client: client.receive()[2:12] for client in site_clients}
        text.send(f'43{digits[text]}[{{"_placeholder":true,"num":0}}]')
        binary.send(f'461-{digits[binary]}[{{"_placeholder":true,"num":0}}]')
        binary.send(b"\x00\x01")
        found = asking.get()
        assert b"\x00\x01" in found
        assert {"_placeholder": True, "num": 0} in found

    def test_many_answers_arrive_in_several_messages(
        self, sites: list[Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_replies, "BATCH_BYTES", 1000)
        clients = [sites[1].connect() for _ in range(20)]
        for client in clients:
            gevent.spawn(answer, client, f'"{"x" * 300}"')
        assert everyone.call("vote", timeout=60) == ["x" * 300] * 20

    def test_answer_above_the_limit_is_dropped_and_reported(
        self, sites: list[Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_replies, "MAX_BYTES", 1000)
        monkeypatch.setattr(server_replies, "BATCH_BYTES", 1000)
        big, small = sites[1].connect(), sites[1].connect()
        gevent.spawn(answer, big, f'"{"x" * 2000}"')
        gevent.spawn(answer, small, "1")
        with pytest.raises(CallTimeout, match="1 of 2 processes did not answer") as caught:
            everyone.call("vote", timeout=3600)
        assert caught.value.answers == [1]

    def test_total_size_of_answers_is_limited(
        self, sites: list[Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backplane_answers, "MAX_ANSWER_BYTES", 1000)
        client = sites[1].connect()
        gevent.spawn(answer, client, f'"{"x" * 2000}"')
        with pytest.raises(CallTimeout) as caught:
            everyone.call("vote", timeout=3600)
        assert (caught.value.answers, caught.value.silent_processes) == ([], 1)

    def test_timeout_returns_partial_answers_of_another_process(self, sites: list[Site]) -> None:
        quick, slow = sites[1].connect(), sites[1].connect()
        asking = gevent.spawn(everyone.call, "vote", timeout=1.5)
        answer(quick, "1")
        slow.receive()
        with pytest.raises(CallTimeout, match="1 of 2 clients") as caught:
            asking.get()
        assert (caught.value.answers, caught.value.silent_processes) == ([1], 0)

    def test_local_call_and_sockets_leave_out_other_processes(self, sites: list[Site]) -> None:
        near, far = (connect(site, "a") for site in sites)
        answering(near)
        assert to("a").local.call("vote") == [1]
        assert [info.id for info in everyone.local.sockets()] == [near.id]
        everyone.local.subscribe("b")
        to("b").send("hello")
        gets(near, "hello")
        gets(far)

    def test_commands_reach_other_processes(self, sites: list[Site]) -> None:
        near, far = (connect(site, "a") for site in sites)
        to("a").subscribe("b")
        registry = sites[1].server.runtime.registry
        far_socket = registry.find(far.id)
        while "b" not in far_socket.channels:
            gevent.sleep(0)
        to("a").unsubscribe("b")
        while "b" in far_socket.channels:
            gevent.sleep(0)
        to("a").disconnect()
        assert (near.receive(), far.receive()) == ("41", "41")

    @pytest.mark.parametrize("close", [False, True])
    def test_disconnect_with_close_ends_sessions_of_other_processes(
        self, serve: Serve, shared_redis: RedisServer, close: bool
    ) -> None:
        for runtime in (default_runtime, Runtime()):
            site = serve(backplane=shared_redis.url, runtime=runtime, namespaces=["/", "/chat"])
        shared_redis.wait_for_servers(2)
        client = site.connect()
        session_id = client.id
        client.connect(namespace="/chat,")
        to_sockets(session_id).disconnect(close=close)
        assert client.receive() == "41"
        if close:
            assert client.receive() == "41/chat,"
            assert client.wait_closed() is not None
        else:
            client.send('42/chat,1["__unsubscribe__","a"]')
            assert client.receive() == '43/chat,1[{"ok":true}]'

    def test_sockets_of_all_processes_are_described(self, sites: list[Site]) -> None:
        clients = [connect(site, "a") for site in sites]
        connect(sites[1])
        assert {info.id for info in to("a").sockets()} == {client.id for client in clients}
        assert len(everyone.sockets()) == 3
        assert len(sockets()) == 1

    def test_many_sockets_are_described_in_several_messages(
        self, sites: list[Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_replies, "FLUSH_COUNT", 3)
        clients = [sites[1].connect() for _ in range(10)]
        assert {info.id for info in everyone.sockets()} == {client.id for client in clients}

    def test_cluster_event_is_sent_to_other_servers_only(
        self, sites: list[Site], journal: Journal
    ) -> None:
        runtimes = [site.server.runtime for site in sites]
        for number, runtime in enumerate(runtimes):
            runtime.signals.cluster_event.connect(
                lambda sender, event, args, node, number=number: journal.append(
                    (number, sender, event, args, node)
                )
            )
        runtimes[0].emit_to_servers("clear", {"x": b"\x01"}, 2)
        runtimes[1].emit_to_servers("other")
        node = runtimes[0].registry.backplane.node
        journal.wait_for((1, runtimes[1], "clear", [{"x": b"\x01"}, 2], node))
        journal.wait(len)
        while len(journal) < 2:
            gevent.sleep(0)
        assert {each[:3] for each in journal} == {
            (1, runtimes[1], "clear"),
            (0, runtimes[0], "other"),
        }

    def test_first_value_is_the_answer_of_a_server(self, sites: list[Site]) -> None:
        far = sites[1].server.runtime
        for value in (None, {"load": 5}, "later"):
            far.signals.cluster_event.connect(lambda sender, value=value, **extra: value)
        assert emit_to_servers("load", timeout=60) == {far.registry.backplane.node: {"load": 5}}

    def test_failing_receiver_does_not_stop_others_and_leaks_nothing(
        self, sites: list[Site], journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        far = sites[1].server.runtime

        def fail(sender: Any, **extra: Any) -> None:
            raise ValueError("secret")

        def later(sender: Any, event: str, **extra: Any) -> str:
            journal.append(event)
            return "value"

        far.signals.cluster_event.connect(fail)
        far.signals.cluster_event.connect(later)
        assert emit_to_servers("load", timeout=60) == {
            far.registry.backplane.node: {"error": "internal error"}
        }
        assert journal == ["load"]
        assert "a receiver of 'cluster_event'" in caplog.text
        assert "secret" in caplog.text

    def test_receivers_of_another_server_may_wait(self, sites: list[Site]) -> None:
        far = sites[1].server.runtime
        client = sites[1].connect()

        def ask(sender: Any, **extra: Any) -> Any:
            return far.everyone.local.call("vote")

        far.signals.cluster_event.connect(ask)
        answering(client)
        assert list(emit_to_servers("ask", timeout=60).values()) == [[1]]

    def test_server_alone_gets_no_answers(self, serve: Serve, shared_redis: RedisServer) -> None:
        serve(backplane=shared_redis.url)
        shared_redis.wait_for_servers(1)
        assert emit_to_servers("load", timeout=3600) == {}

    def test_unknown_request_is_answered_with_an_error_at_once(
        self, sites: list[Site], caplog: pytest.LogCaptureFixture
    ) -> None:
        del sites[1].server.runtime.cluster.requests._handlers["event"]
        with pytest.raises(CallTimeout, match="1 of 1 servers did not answer 'load'"):
            emit_to_servers("load", timeout=3600)
        assert "is unknown to this version" in caplog.text

    def test_too_many_requests_of_this_process_raise_backplane_error(
        self, sites: list[Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_requests, "MAX_PENDING", 1)
        client = sites[1].connect()
        asking = gevent.spawn(everyone.call, "vote", timeout=60)
        packet = client.receive()
        with pytest.raises(BackplaneError, match="1 requests wait for answers"):
            everyone.sockets()
        client.send(f"43{packet[2:12]}[1]")
        assert asking.get() == [1]

    def test_too_many_requests_of_other_processes_are_rejected(
        self, sites: list[Site], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_requests, "MAX_RUNNING", 1)
        client = sites[1].connect()
        asking = gevent.spawn(everyone.call, "vote", timeout=60)
        packet = client.receive()
        with pytest.raises(CallTimeout, match="1 of 2 processes did not answer"):
            everyone.sockets(timeout=3600)
        client.send(f"43{packet[2:12]}[1]")
        assert asking.get() == [1]
        assert len(everyone.sockets()) == 1

    def test_stopping_server_fails_calls_of_others_at_once(self, sites: list[Site]) -> None:
        done = gevent.event.Event()
        sites[1].server.runtime.signals.cluster_event.connect(lambda sender, **extra: done.wait())
        asking = gevent.spawn(emit_to_servers, "load", timeout=3600)
        while not sites[1].server.runtime.cluster.requests._running:
            gevent.sleep(0)
        sites[1].server.stop()
        with pytest.raises(CallTimeout):
            asking.get()
        done.set()

    def test_stopping_server_fails_its_own_calls(self, sites: list[Site]) -> None:
        sites[1].connect()
        asking = gevent.spawn(everyone.call, "vote", timeout=3600)
        while not sites[1].server.runtime.cluster.requests._running:
            gevent.sleep(0)
        sites[0].server.stop()
        with pytest.raises(BackplaneError, match="the server is stopping"):
            asking.get()


class TestInvalidRequests:
    """Messages on the internal topics that this package has not sent."""

    NUMBERED: ClassVar = {"v": 1, "node": "n", "epoch": 1, "number": 1}

    @pytest.mark.parametrize(
        ("topic", "fields"),
        [
            (Topic.servers(), {}),
            (Topic.servers(), {"request": []}),
            (Topic.servers(), {"request": {}}),
            (Topic.servers(), {"request": {"kind": 5}}),
            (Topic.servers(), {"request": {"kind": "call", "namespace": None}}),
            (Topic.servers(), {"request": {"kind": "call", "id": "1"}}),
            (Topic.servers(), {"request": {"kind": "call", "reply": 1}}),
            (Topic.servers(), {"request": {"kind": "call", "timeout": -1}}),
            (Topic.servers(), {"request": {"kind": "call", "timeout": True}}),
            (Topic.servers(), {"request": {"kind": "call", "channels": "a"}}),
            (Topic.servers(), {"request": {"kind": "call", "channels": [1]}}),
            (Topic.node("n"), {}),
            (Topic.node("n"), {"request": {}}),
            (Topic.node("n"), {"request": {"kind": "claim", "to": 7}}),
            (Topic.node("n"), {"answer": {}}),
            (Topic.node("n"), {"answer": {"id": True}}),
            (Topic.node("n"), {"answer": {"id": 1, "asked": "1"}}),
        ],
    )
    def test_invalid_header_raises_invalid_envelope(
        self, topic: Topic, fields: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidEnvelope):
            decode(orjson.dumps({**self.NUMBERED, **fields}) + b"\n[]", topic)

    def test_request_of_an_emitter_raises_invalid_envelope(self) -> None:
        payload = orjson.dumps({"v": 1, "request": {"kind": "disconnect"}}) + b"\n[]"
        with pytest.raises(InvalidEnvelope, match="emitter"):
            decode(payload, Topic.servers())

    def test_timeout_of_a_request_is_limited(self) -> None:
        fields = {**self.NUMBERED, "request": {"kind": "call", "timeout": 1e30}}
        payload = orjson.dumps(fields)
        request = decode(payload + b"\n[]", Topic.servers()).request
        assert request is not None
        assert request.timeout == 3600

    def test_request_with_an_invalid_body_is_answered_with_an_error(
        self, sites: list[Site], shared_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = sites[0].connect()
        backplane = sites[0].server.runtime.registry.backplane
        assert backplane is not None
        request = Request("subscribe", "/", None, 60.0, 5)
        backplane.send_request(Message(b"42[]"), request)
        while "a request 'subscribe' failed" not in caplog.text:
            gevent.sleep(0)
        gets(client)


class TestProcessWithoutServer:
    @pytest.fixture
    def shell(self, shared_redis: RedisServer) -> Runtime:
        runtime = Runtime()
        runtime.configure({"SOCKETIO_BACKPLANE": shared_redis.url})
        return runtime

    def test_call_and_sockets_reach_all_servers(self, sites: list[Site], shell: Runtime) -> None:
        clients = [connect(site, "a") for site in sites]
        answering(*clients)
        assert sorted(shell.to("a").call("vote")) == [1, 2]
        assert {info.id for info in shell.everyone.sockets()} == {each.id for each in clients}
        assert shell.to("empty").call("vote", timeout=3600) == []
        assert shell.everyone.local.sockets() == []

    def test_timeout_returns_partial_answers(self, sites: list[Site], shell: Runtime) -> None:
        quick, slow = sites[0].connect(), sites[1].connect()
        asking = gevent.spawn(shell.everyone.call, "vote", timeout=1.5)
        answer(quick, "1")
        slow.receive()
        with pytest.raises(CallTimeout, match="1 of 2 clients") as caught:
            asking.get()
        assert caught.value.answers == [1]

    def test_commands_reach_all_servers(self, sites: list[Site], shell: Runtime) -> None:
        clients = [connect(site, "a") for site in sites]
        shell.to("a").disconnect()
        assert [client.receive() for client in clients] == ["41", "41"]

    def test_cluster_event_reaches_all_servers(self, sites: list[Site], shell: Runtime) -> None:
        for site in sites:
            signals_of = site.server.runtime.signals
            signals_of.cluster_event.connect(lambda sender, event, **extra: event)
        assert list(shell.emit_to_servers("load", timeout=60).values()) == ["load"] * 2

    def test_program_without_gevent_receives_answers(
        self, sites: list[Site], shared_redis: RedisServer, tmp_path: Path
    ) -> None:
        client = sites[0].connect()
        answering(client)
        script = f"""
import sys
import webpy_socketio as w
w.configure({{"SOCKETIO_BACKPLANE": "{shared_redis.url}"}})
print(w.everyone.call("vote"), len(w.everyone.sockets()))
"""
        process = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert (process.stdout, process.stderr) == (b"[1] 1\n", b"")

    def test_redis_away_raises_backplane_error(self, tmp_path: Path) -> None:
        server = RedisServer(tmp_path)
        runtime = Runtime()
        runtime.configure({"SOCKETIO_BACKPLANE": server.url})
        for function in (
            lambda: runtime.everyone.call("vote"),
            runtime.everyone.disconnect,
            lambda: runtime.emit_to_servers("x", timeout=1),
        ):
            with pytest.raises(BackplaneError, match="unreachable"):
                function()


@pytest.mark.time_limit(60)
class TestOtherProcess:
    """A server in another process."""

    def test_call_sockets_and_events_cross_processes(
        self, clustered: Site, worker: ServerProcess
    ) -> None:
        near, far = clustered.connect(), WebSocket(worker.port, clustered.path)
        far.connect()
        answering(near, far)
        assert sorted(everyone.call("vote", timeout=30)) == [1, 2]
        contexts = {info.id: info.context for info in everyone.sockets(30)}
        assert contexts == {near.id: {}, far.id: {"name": "far"}}
        (found,) = emit_to_servers("load", 1, timeout=30).values()
        assert found == ["load", [1], worker.process.popen.pid]

    def test_suspended_process_costs_the_timeout_only(
        self, clustered: Site, worker: ServerProcess
    ) -> None:
        near, far = clustered.connect(), WebSocket(worker.port, clustered.path)
        far.connect()
        worker.process.popen.send_signal(signal.SIGSTOP)
        answering(near)
        with pytest.raises(CallTimeout, match="1 of 2 processes did not answer") as caught:
            everyone.call("vote", timeout=1)
        assert (caught.value.answers, caught.value.silent_processes) == ([1], 1)
        with pytest.raises(CallTimeout) as caught:
            everyone.sockets(timeout=1)
        assert [info.id for info in caught.value.answers] == [near.id]
        with pytest.raises(CallTimeout, match="1 of 1 servers") as caught:
            emit_to_servers("load", timeout=1)
        assert caught.value.answers == {}
        worker.process.popen.send_signal(signal.SIGCONT)
        assert len(everyone.sockets(30)) == 2

    def test_killed_process_costs_the_timeout_only(
        self, clustered: Site, worker: ServerProcess, shared_redis: RedisServer
    ) -> None:
        far = WebSocket(worker.port, clustered.path)
        far.connect()
        asking = gevent.spawn(everyone.call, "vote", timeout=2)
        far.receive()
        os.kill(worker.process.popen.pid, signal.SIGKILL)
        with pytest.raises(CallTimeout) as caught:
            asking.get()
        assert caught.value.answers == []
        shared_redis.wait_for_servers(1)
        assert everyone.sockets(timeout=3600) == []  # it is not expected any more


class TestRedisAway:
    def test_call_raises_backplane_error_and_sends_nothing(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        redis = RedisServer(tmp_path).start()
        client = serve(backplane=redis.url).connect()
        redis.stop()
        for _ in range(2):  # before and after the loss is noticed
            with pytest.raises(BackplaneError):
                everyone.call("vote")
        with pytest.raises(BackplaneError):
            emit_to_servers("x", timeout=1)
        everyone.subscribe("a")  # this process only
        assert socket_of(client).channels == ("a",)
        answering(client)
        assert everyone.local.call("vote") == [1]
