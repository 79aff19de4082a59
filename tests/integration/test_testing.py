"""webpy_socketio.testing: events, errors, timers and equality with the real server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
import web
from blinker import Signal

from tests.commands import PYTEST
from tests.conftest import Journal, Site
from tests.load_clients import count_descriptors
from webpy_socketio import (
    CallTimeout,
    NoSocket,
    PatchingError,
    Refused,
    Runtime,
    SettingsError,
    broadcast,
    call_later,
    configure,
    on_connect,
    on_connecting,
    on_disconnect,
    on_error,
    on_event,
    on_finish,
    on_message,
    on_receiving,
    on_subscribe,
    on_subscribing,
    signals,
    socketio_urls,
)
from webpy_socketio.plugins import presence
from webpy_socketio.runtime import default_runtime
from webpy_socketio.testing import (
    Client,
    HandshakeRefused,
    Received,
    StillRunning,
    TestServer,
)

ROOT = Path(__file__).parents[2]
PRESENCE = "webpy_socketio.plugins.presence"


def application(urls: tuple[Any, ...] = (), **names: Any) -> Any:
    return web.application((*urls, *socketio_urls), names, autoreload=False)


@pytest.fixture
def server() -> Iterator[TestServer]:
    with TestServer(application()) as server:
        yield server


def echo(request: Any, socket: Any, context: Any, message: Any) -> None:
    socket.send(message)


class TestMessages:
    def test_sent_message_has_arrived(self, server: TestServer) -> None:
        @on_message(channel="^room-")
        def talk(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.broadcast_channel(message)

        ann, bob, eve = (server.connect() for _ in range(3))
        ann.subscribe("room-1")
        bob.subscribe("room-1")
        ann.send({"text": "hi", "blob": b"\0\1"})
        assert bob.receive("message") == {"text": "hi", "blob": b"\0\1"}
        assert (ann.received(), bob.received(), eve.received()) == ([], [], [])

    def test_messages_arrive_in_order(self, server: TestServer) -> None:
        @on_message
        def many(request: Any, socket: Any, context: Any, count: int) -> None:
            for number in range(count):
                socket.send(number)
                socket.emit("square", number, number**2)
            socket.emit("end")

        ann = server.connect()
        ann.send(2)
        assert ann.received() == [
            ("message", 0),
            ("square", [0, 0]),
            ("message", 1),
            ("square", [1, 1]),
            ("end", None),
        ]
        ann.send(3)
        assert ann.received("square") == [[0, 0], [1, 1], [2, 4]]
        assert ann.receive() == Received("message", 0)
        assert ann.receive("end") is None
        assert ann.received("message") == [1, 2]
        assert ann.received() == []

    def test_large_message_arrives_in_pieces(self, server: TestServer) -> None:
        on_message(echo)
        text = "x" * 500_000
        ann = server.connect()
        ann.send(text)
        assert ann.receive("message") == text

    def test_channel_message_reaches_subscribers(self, server: TestServer) -> None:
        heard: list[Any] = []

        @on_message(channel="room-2")
        def two(request: Any, socket: Any, context: Any, message: Any) -> None:
            heard.append(message)

        ann = server.connect()
        ann.subscribe("room-1")
        ann.subscribe("room-2")
        ann.send("to one", channel="room-1")
        ann.send("to two", channel="room-2")
        assert heard == ["to two"]

    def test_module_functions_reach_clients(self, server: TestServer) -> None:
        with pytest.raises(NoSocket):
            broadcast("nobody")
        ann = server.connect()
        broadcast("news")
        assert ann.receive("message") == "news"

    def test_client_socket_is_the_servers_socket(self, server: TestServer) -> None:
        @on_connect
        def remember(request: Any, socket: Any, context: Any) -> None:
            context["name"] = socket.auth["name"]

        ann = server.connect(auth={"name": "Ann"})
        ann.subscribe("room-1")
        assert ann.socket.context == {"name": "Ann"}
        assert ann.socket.channels == ("room-1",)
        assert ann.id == ann.socket.session_id
        ann.socket.send("directly")
        assert ann.receive("message") == "directly"
        ann.unsubscribe("room-1")
        assert ann.socket.channels == ()

    def test_client_connects_to_namespaces(self) -> None:
        on_message(echo)
        with TestServer(application(), namespaces=["/", "/admin"]) as server:
            admin = server.connect("/admin")
            admin.send(b"x")
            assert admin.receive("message") == b"x"
            assert admin.socket.namespace == "/admin"
            with pytest.raises(Refused, match="Invalid namespace"):
                server.connect("/unknown")


class TestAcknowledgements:
    def test_call_returns_the_handlers_result(self, server: TestServer) -> None:
        @on_event("add")
        def add(request: Any, socket: Any, context: Any, *numbers: int) -> Any:
            return sum(numbers), list(numbers)

        ann = server.connect()
        assert ann.call("add", 1, 2) == [3, [1, 2]]
        with pytest.raises(AssertionError, match="'unknown' was not acknowledged: no handler"):
            ann.call("unknown")

    def test_withheld_acknowledgement_arrives_later(self, server: TestServer) -> None:
        withheld: list[Any] = []

        @on_event("later")
        def later(request: Any, socket: Any, context: Any) -> None:
            withheld.append(socket.withhold_acknowledgement())

        answer = server.connect().ask("later")
        assert not answer.there
        withheld[0]("done")
        assert answer.there
        assert answer.value == "done"

    def test_server_call_is_answered_by_the_client(self, server: TestServer) -> None:
        @on_message
        def ask(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send(socket.call("question", message))

        ann = server.connect()
        ann.on("question", answer=lambda number: number * 2)
        ann.send(21)
        assert ann.received() == [("question", 21), ("message", 42)]
        ann.on("question", answer=b"always")
        ann.send(0)
        assert ann.received("message") == [b"always"]

    def test_server_call_is_answered_later(self, server: TestServer) -> None:
        @on_message
        def ask(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return socket.call("question")

        ann = server.connect()
        answer = ann.ask("message")
        assert not answer.there
        assert ann.receive("question") is None
        with pytest.raises(AssertionError, match=r"not acknowledged(.|\n)*ask, at test_testing"):
            _ = answer.value
        ann.on("question", answer="late")
        assert answer.value == "late"

    def test_server_call_times_out_in_virtual_time(self, server: TestServer) -> None:
        @on_message
        def ask(request: Any, socket: Any, context: Any, message: Any) -> Any:
            try:
                return socket.call("question", timeout=60)
            except CallTimeout:
                return "no answer"

        ann = server.connect()
        answer = ann.ask("message")
        server.advance(59.9)
        assert not answer.there
        server.advance(0.1)
        assert answer.value == "no answer"


class TestRejections:
    """Rejections are raised with their reason."""

    def test_gate_of_connections_rejects_connect(self, server: TestServer) -> None:
        @on_connecting
        def members_only(request: Any, socket: Any, context: Any) -> None:
            if (socket.auth or {}).get("token") != "right":
                raise Refused("who are you?")

        with pytest.raises(Refused, match=r"^who are you\?$"):
            server.connect()
        assert server.connect(auth={"token": "right"}).connected

    def test_gate_of_subscriptions_rejects_subscribe(self, server: TestServer) -> None:
        @on_subscribing(channel="^staff-")
        def staff_only(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("for staff only")

        ann = server.connect()
        with pytest.raises(Refused, match=r"^for staff only$"):
            ann.subscribe("staff-room")
        assert ann.socket.channels == ()

    def test_data_of_a_refusal_is_that_of_the_raised_exception(self, server: TestServer) -> None:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            if socket.auth is None:
                raise Refused("no entry", data={"code": 401})

        @on_subscribing
        def channel_gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("no channel", data=[channel] if channel == "room" else None)

        with pytest.raises(Refused, match="no entry") as refused:
            server.connect()
        assert refused.value.data == {"code": 401}
        ann = server.connect(auth={})
        for channel, data in (("room", ["room"]), ("other", None)):
            with pytest.raises(Refused, match="no channel") as refused:
                ann.subscribe(channel)
            assert refused.value.data == data

    def test_gate_of_messages_rejects_message(self, server: TestServer) -> None:
        @on_receiving
        def polite(request: Any, socket: Any, context: Any, event: str, message: Any) -> None:
            if message == "rude":
                raise Refused("be polite")

        heard: list[Any] = []

        @on_message
        def hear(request: Any, socket: Any, context: Any, message: Any) -> None:
            heard.append(message)

        ann = server.connect()
        ann.send("rude")
        assert ann.call("message", "rude") == {"error": "be polite"}
        ann.send("hello")
        assert heard == ["hello"]

    def test_channel_limits_reject_subscribe(self) -> None:
        with TestServer(application(), max_channels=1) as server:
            ann = server.connect()
            ann.subscribe("one")
            with pytest.raises(Refused, match="may subscribe to 1 channels"):
                ann.subscribe("two")
            with pytest.raises(Refused, match="1 to 255"):
                ann.subscribe("")

    def test_client_disconnected_on_connect_is_reported(self, server: TestServer) -> None:
        @on_connect
        def not_today(request: Any, socket: Any, context: Any) -> None:
            socket.send("come again")
            socket.disconnect()

        ann = server.connect()
        assert ann.receive("message") == "come again"
        assert (ann.connected, ann.reason) == (False, "io server disconnect")
        assert not ann.socket.connected

    def test_foreign_origin_rejects_handshake(self, server: TestServer) -> None:
        with pytest.raises(HandshakeRefused, match="403 Forbidden") as refused:
            server.connect(headers={"Origin": "http://evil.example"})
        assert refused.value.response.json()["code"] == 4
        assert server.connect(headers={"Origin": "http://localhost"}).connected

    def test_allowed_hosts_of_the_settings_are_ignored(self) -> None:
        web.config.SOCKETIO_ALLOWED_HOSTS = ["chat.example"]
        with TestServer(application()) as server:
            assert server.connect().connected
        with (
            TestServer(application(), allowed_hosts=["chat.example"]) as server,
            pytest.raises(HandshakeRefused, match="400 Bad Request"),
        ):
            server.connect()

    def test_missing_urls_are_named(self) -> None:
        app = web.application((), {}, autoreload=False)
        with (
            TestServer(app) as server,
            pytest.raises(HandshakeRefused, match="are socketio_urls in"),
        ):
            server.connect()

    def test_protocol_violation_closes_the_client(self) -> None:
        with TestServer(application(), max_message_size=100) as server:
            ann = server.connect()
            with server.record(signals.disconnect) as sent:
                ann.send("x" * 200)
            assert [record.reason for record in sent] == ["parse error"]
            assert (ann.connected, ann.close_code, ann.reason) == (False, 1009, "transport close")


SESSION_PAGES = ("/login", "Login", "/slow", "Slow", "/fails", "Fails", "/bye", "Bye")


class Login:
    def GET(self) -> str:
        return f"{web.input().get('x', '')} {web.ctx.ip} {web.ctx.session.get('name')}"

    def POST(self) -> None:
        web.ctx.session.name = web.input().name
        raise web.seeother("/")


class Bye:
    def GET(self) -> str:
        web.setcookie("flavour", "", expires=-1)
        return "bye"


class Fails:
    def GET(self) -> None:
        raise web.internalerror("broken")


class Slow:
    def GET(self) -> None:
        gevent.event.Event().wait()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(web.config, "debug", False)  # web.py's error pages leave files open
    app = application(SESSION_PAGES, Login=Login, Slow=Slow, Fails=Fails, Bye=Bye)
    session = web.session.Session(app, web.session.ShelfStore({}))
    app.add_processor(web.loadhook(lambda: setattr(web.ctx, "session", session)))
    return app


class TestPages:
    def test_page_session_is_shared_with_sockets(self, pages: Any) -> None:
        @on_connecting
        def logged_in(request: Any, socket: Any, context: Any) -> None:
            if web.ctx.session.get("name") is None:
                raise Refused("log in first")
            context["name"] = web.ctx.session.name

        with TestServer(pages) as server:
            ann = server.browser()
            with pytest.raises(Refused, match="log in first"):
                ann.connect()
            response = ann.post("/login", {"name": "Änn"})
            assert (response.status, response.headers["location"]) == (303, "http://localhost/")
            assert ann.connect().socket.context == {"name": "Änn"}
            assert ann.get("/login?x=ü").text == "ü 127.0.0.1 Änn"
            with pytest.raises(Refused, match="log in first"):
                server.connect()

    def test_cookie_of_a_handshake_is_kept(self, pages: Any) -> None:
        @on_connect
        def name(request: Any, socket: Any, context: Any) -> None:
            web.ctx.session.name = "by socket"

        with TestServer(pages) as server:
            client = server.connect(address="10.0.0.9")
            assert client.browser.get("/login").text == " 10.0.0.9 by socket"

    def test_cookies_and_headers_reach_handlers(self, server: TestServer) -> None:
        @on_connect
        def who(request: Any, socket: Any, context: Any) -> None:
            context.update(web.cookies(), agent=request["HTTP_USER_AGENT"], **web.input())

        ann = server.connect(
            cookies={"name": "Ann"}, headers={"User-Agent": "mine"}, query={"theme": "dark"}
        )
        assert ann.socket.context["name"] == "Ann"
        assert ann.socket.context["agent"] == "mine"
        assert ann.socket.context["theme"] == "dark"

    def test_expired_cookie_is_removed(self, pages: Any) -> None:
        with TestServer(pages) as server:
            ann = server.browser(cookies={"flavour": "sweet"})
            ann.get("/bye")
            assert "flavour" not in ann.cookies

    def test_page_sends_to_clients(self) -> None:
        class Announce:
            def POST(self) -> str:
                broadcast(json.loads(web.data()))
                return "sent"

        with TestServer(application(("/announce", "Announce"), Announce=Announce)) as server:
            ann = server.connect()
            assert server.post("/announce", json=["news"]).text == "sent"
            assert ann.receive("message") == ["news"]

    def test_response_has_status_and_reason(self, pages: Any) -> None:
        with TestServer(pages) as server:
            assert server.get("/nowhere").status == 404
            assert server.get("/fails").status == 500
            assert server.browser().request("DELETE", "/login").status == 405
            assert server.get("/socket.io/?EIO=3&transport=polling").json()["code"] == 5

    def test_page_that_never_answers_is_named(self, pages: Any) -> None:
        with TestServer(pages) as server, pytest.raises(StillRunning, match=r"GET /slow.*GET, at"):
            server.get("/slow")

    def test_wsgi_application_is_accepted(self) -> None:
        inner = application().wsgifunc()

        def outer(environ: Any, start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/outer":
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [b"out"]
            return inner(environ, start_response)

        on_message(echo)
        with TestServer(outer, resource="chat") as server:
            assert server.get("/outer").body == b"out"
            ann = server.connect()
            ann.send(1)
            assert ann.receive("message") == 1


class TestErrors:
    """All errors of handlers are raised in the test."""

    def test_handler_error_is_raised_by_its_cause(self, server: TestServer) -> None:
        @on_message
        def fail(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise ZeroDivisionError(message)

        ann = server.connect()
        with pytest.raises(ZeroDivisionError, match="first") as raised:
            ann.send("first")
        assert raised.traceback[-1].name == "fail"
        if sys.version_info >= (3, 11):
            assert "'message'" in raised.value.__notes__[0]
            assert "fail" in raised.value.__notes__[0]
        with pytest.raises(ZeroDivisionError, match="second"):
            ann.call("message", "second")
        ann.subscribe("room")  # raised only once

    @pytest.mark.parametrize("decorator", [on_connecting, on_connect, on_disconnect, on_finish])
    def test_handler_error_is_raised_in_every_stage(self, decorator: Any) -> None:
        @decorator
        def fail(request: Any, socket: Any, context: Any) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), TestServer(application()) as server:
            server.connect()
        assert default_runtime.registry.namespace("/").sockets == {}

    def test_error_of_an_error_handler_is_raised(self, server: TestServer) -> None:
        @on_error
        def fail(request: Any, socket: Any, context: Any, exception: Any) -> None:
            raise KeyError("mine")

        with server.errors() as errors:
            server.connect().call("__channel__", "not in it")
        assert [type(error) for error in errors] == [KeyError]

    def test_expected_errors_are_collected(self, server: TestServer) -> None:
        @on_message
        def fail(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise ZeroDivisionError(message)

        ann = server.connect()
        with server.errors() as errors:
            assert ann.call("message", 1) == {"error": "internal error"}
            ann.send(2)
        assert [error.args for error in errors] == [(1,), (2,)]
        with pytest.raises(AssertionError, match="expected a handler to raise"), server.errors():
            ann.emit("other")

    @pytest.mark.parametrize("silence", ["disable", "logger", "level"])
    def test_error_is_raised_when_logging_is_disabled(
        self, silence: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @on_message
        def fail(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise ZeroDivisionError

        logger = logging.getLogger("webpy_socketio")
        if silence == "disable":
            monkeypatch.setattr(logger.manager, "disable", logging.CRITICAL)
        elif silence == "logger":
            monkeypatch.setattr(logger, "disabled", True)
        else:
            monkeypatch.setattr(logger, "level", logging.CRITICAL)
        # A server enables a logger that the configuration of logging disabled.
        expected = (logger.manager.disable, False, logger.level)
        logger._cache.clear()  # type: ignore[attr-defined]
        with pytest.raises(ZeroDivisionError), TestServer(application()) as server:
            server.connect().send("x")
        assert (logger.manager.disable, logger.disabled, logger.level) == expected
        logger._cache.clear()  # type: ignore[attr-defined]

    def test_error_on_the_hub_is_raised(self, server: TestServer) -> None:
        def fail(*args: Any) -> None:
            raise ZeroDivisionError

        @on_message
        def ask(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.call("question")

        call_later(1, fail)
        with pytest.raises(ZeroDivisionError):
            server.advance(1)
        ann = server.connect()
        ann.on("question", answer=fail)
        with pytest.raises(ZeroDivisionError):
            ann.send("x")

    def test_waiting_handler_at_the_end_is_no_error(self) -> None:
        @on_message
        def ask(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.call("question")

        with TestServer(application()) as server:
            server.connect().send("x")

    def test_error_of_a_spawned_greenlet_is_only_a_hint(self, server: TestServer) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        @on_message
        def spawn(request: Any, socket: Any, context: Any, message: Any) -> None:
            with pytest.raises(ZeroDivisionError):
                gevent.spawn(fail).get()
            socket.send("caught")

        ann = server.connect()
        ann.send("x")
        assert ann.received("message") == ["caught"]
        with pytest.raises(AssertionError, match=r"fail(.|\n)*ZeroDivisionError"):
            ann.receive("other")

    def test_error_of_a_wsgi_application_is_raised(self) -> None:
        def broken(environ: Any, start_response: Any) -> Any:
            raise ZeroDivisionError

        with TestServer(broken) as server, pytest.raises(ZeroDivisionError):
            server.get("/")

    def test_base_exception_is_raised_as_assertion_error(self, server: TestServer) -> None:
        @on_message
        def fail(request: Any, socket: Any, context: Any, message: Any) -> None:
            raise gevent.Timeout

        with pytest.raises(AssertionError, match="fail"):
            server.connect().send("x")

    def test_failure_of_the_test_is_raised_first(self) -> None:
        @on_finish
        def fail(request: Any, socket: Any, context: Any) -> None:
            raise ZeroDivisionError

        def test() -> None:
            with TestServer(application()) as server:
                server.connect()
                raise KeyError("the test's")

        with pytest.raises(KeyError) as raised:
            test()
        if sys.version_info >= (3, 11):
            assert "ZeroDivisionError" in raised.value.__notes__[0]

    def test_missing_event_lists_received_events(self, server: TestServer) -> None:
        event = gevent.event.Event()

        @on_message
        def talk(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send({"text": message})
            socket.emit("other", 1, 2)
            event.wait()

        ann = server.connect()
        ann.send("hi", channel="nowhere")
        ann.send("hi")
        ann.received()
        with pytest.raises(AssertionError) as raised:
            ann.receive("message")
        text = str(raised.value)
        assert "no 'message' for <Client 1, connected>" in text
        assert text.index("message: {'text': 'hi'}") < text.index("other: [1, 2]")
        assert (
            "ChannelError('the client sent a message to a channel that it is not subscribed to')"
            in text
        )
        assert "talk, at test_testing.py" in text
        assert "event.wait()" in text
        assert "due in 25 s" in text
        event.set()

    def test_send_after_disconnect_fails(self, server: TestServer) -> None:
        ann = server.connect()
        ann.disconnect()
        with pytest.raises(AssertionError, match="not connected: io client disconnect"):
            ann.send("x")


class TestIdle:
    """Handlers may wait for the test, or for timers, sockets and threads."""

    def test_handler_waiting_for_the_test_is_left_waiting(self, server: TestServer) -> None:
        event = gevent.event.Event()

        @on_message
        def wait(request: Any, socket: Any, context: Any, message: Any) -> None:
            event.wait()
            socket.send("done")

        ann, bob = server.connect(), server.connect()
        ann.send("x")
        assert ann.received() == []
        bob.subscribe("room")
        assert server.get("/").status == 404
        event.set()
        assert ann.receive("message") == "done"

    def test_handler_waiting_for_a_timer_is_awaited(self, server: TestServer) -> None:
        @on_message
        def wait(request: Any, socket: Any, context: Any, message: Any) -> None:
            gevent.sleep(0.01)
            socket.send("slept")
            gevent.get_hub().threadpool.apply(os.getpid)
            socket.send("back from a thread")

        ann = server.connect()
        ann.send("x")
        assert ann.received("message") == ["slept", "back from a thread"]

    def test_greenlet_spawned_by_a_handler_is_awaited(self, server: TestServer) -> None:
        @on_message
        def spawn(request: Any, socket: Any, context: Any, message: Any) -> None:
            gevent.spawn_later(0.01, socket.send, "later")

        ann = server.connect()
        ann.send("x")
        assert ann.receive("message") == "later"

    def test_handler_exceeding_the_timeout_is_named(self) -> None:
        @on_message
        def wait(request: Any, socket: Any, context: Any, message: Any) -> None:
            gevent.sleep(3600)

        where = r"wait, at test_testing\.py:\d+: gevent\.sleep"
        server = TestServer(application(), timeout=0.02)
        with pytest.raises(StillRunning, match=where), server:
            server.connect().send("x")
        assert default_runtime.registry.namespace("/").sockets == {}

    def test_endless_loop_is_reported(self) -> None:
        running = True

        @on_message
        def spin(request: Any, socket: Any, context: Any, message: Any) -> None:
            while running:
                gevent.sleep(0)

        server = TestServer(application(), timeout=0.02).start()
        with pytest.raises(StillRunning, match="repeats endlessly"):
            server.connect().send("x")
        running = False
        server.stop()

    def test_waiting_handler_is_ended_at_the_end(self, journal: Journal) -> None:
        @on_message
        def wait(request: Any, socket: Any, context: Any, message: Any) -> None:
            try:
                gevent.event.Event().wait()
            finally:
                journal.append("ended")

        @on_finish
        def finish(request: Any, socket: Any, context: Any) -> None:
            journal.append("finish")

        with TestServer(application()) as server:
            server.connect().send("x")
        assert journal == ["ended", "finish"]


class TestTime:
    def test_heartbeats_continue_in_virtual_time(self, server: TestServer) -> None:
        ann = server.connect()
        server.advance(100_000)
        assert ann.connected
        assert ann.socket.connected

    def test_client_without_pong_is_closed(self, server: TestServer) -> None:
        ann, bob = server.connect(), server.connect()
        ann.answer_pings = False
        with server.record(signals.disconnect) as sent:
            server.advance(44.9)
            assert sent == []
            server.advance(0.1)
        assert [(record.socket, record.reason) for record in sent] == [(ann.socket, "ping timeout")]
        assert (ann.connected, bob.connected) == (False, True)

    def test_aborted_client_is_detected_by_ping_timeout(self) -> None:
        with TestServer(application(), ping_interval=5, ping_timeout=2) as server:
            ann = server.connect()
            ann.abort()
            broadcast("into the void")
            assert ann.received() == []
            assert ann.socket.connected
            with server.record(signals.finish) as sent:
                server.advance(7)
            assert [record.reason for record in sent] == ["ping timeout"]

    def test_timers_fire_in_order(self, server: TestServer, journal: Journal) -> None:
        call_later(3, journal.append, "c")
        call_later(1, journal.append, "a")
        call_later(1, lambda: call_later(1, journal.append, "b"))
        call_later(2.5, journal.append, "never").close()
        server.advance(0.9)
        assert journal == []
        server.advance(10)
        assert journal == ["a", "b", "c"]

    def test_time_is_real_after_the_server_stops(self, journal: Journal) -> None:
        with TestServer(application()):
            call_later(0.001, journal.append, "virtual")
        call_later(0.001, journal.append, "real")
        journal.wait_for("real")
        assert journal == ["real"]

    def test_presence_grace_uses_virtual_time(self) -> None:
        with TestServer(application(), plugins=[PRESENCE]) as server:
            ann, bob = server.connect(), server.connect()
            ann.subscribe("room")
            bob.subscribe("room")
            assert bob.receive("presence_state")["count"] == 2
            server.advance(0.1)
            assert bob.receive("presence_diff")["joins"].keys() == {ann.id, bob.id}
            with server.record(presence.left) as sent:
                ann.close()
                server.advance(9.9)
                assert sent == []
                server.advance(0.2)
            assert [(record.stage, record.key) for record in sent] == [("left", ann.id)]
            assert bob.receive("presence_diff")["leaves"].keys() == {ann.id}


class TestSignals:
    def test_record_contains_sent_signals(self, server: TestServer) -> None:
        with server.record(signals.subscribe, signals.unsubscribe) as sent:
            ann = server.connect()
            ann.subscribe("room-1")
            ann.disconnect()
        assert [(record.stage, record.channel) for record in sent] == [
            ("subscribe", "room-1"),
            ("unsubscribe", "room-1"),
        ]
        assert sent[0].sender is ann.socket
        assert repr(sent[0]) == "<subscribe {'channel': 'room-1'}>"
        with pytest.raises(AttributeError, match=r"sent with .*channel"):
            _ = sent[0].message
        ann = server.connect()
        ann.subscribe("room-2")
        assert len(sent) == 2

    def test_record_defaults_to_all_stages(self, server: TestServer) -> None:
        with server.record() as sent:
            ann = server.connect()
            ann.send("x")
            ann.close()
        assert [record.stage for record in sent] == [
            *("connecting", "connect", "receiving", "message", "disconnect", "finish")
        ]
        assert sent[-1].reason == "transport close"

    def test_record_accepts_any_signal(self, server: TestServer) -> None:
        mine = Signal("mine")
        with server.record(mine) as sent:
            mine.send("me", value=1)
        assert [(record.stage, record.sender, record.value) for record in sent] == [
            ("mine", "me", 1)
        ]


class TestRuntimes:
    def test_server_with_a_runtime_uses_its_handlers_and_sockets(self) -> None:
        other = Runtime()
        on_message(echo)

        @other.events.on_message
        def shout(request: Any, socket: Any, context: Any, message: str) -> None:
            socket.send(message.upper())

        with TestServer(application(), runtime=other) as server:
            ann = server.connect()
            ann.send("hello")
            assert ann.received() == [("message", "HELLO")]
            other.broadcast("all")
            assert ann.received() == [("message", "all")]
            assert other.sockets() == [ann.socket]
            with pytest.raises(NoSocket):
                broadcast("default")

    def test_record_defaults_to_the_stages_of_the_runtime(self) -> None:
        with TestServer(application(), runtime=Runtime()) as server, server.record() as sent:
            server.connect().subscribe("room")
        assert [record.stage for record in sent] == [
            *("connecting", "connect", "subscribing", "subscribe")
        ]

    def test_error_of_a_handler_explains_a_missing_event(self) -> None:
        other = Runtime()

        @other.events.on_connect
        def fail(request: Any, socket: Any, context: Any) -> None:
            raise OSError("disk full")

        with TestServer(application(), runtime=other) as server:
            with server.errors() as errors:
                ann = server.connect()
            assert str(errors[0]) == "disk full"
            with pytest.raises(AssertionError, match="disk full"):
                ann.receive("news")

    def test_plugins_of_servers_with_different_runtimes_are_independent(self) -> None:
        other = Runtime()
        with (
            TestServer(application(), plugins=[PRESENCE]) as first,
            TestServer(application(), plugins=[PRESENCE], runtime=other) as second,
        ):
            for server, names in ((first, "a"), (second, "ab")):
                for _ in names:
                    server.connect().subscribe("room")
            assert presence.count("room") == 1
            assert presence.count("room", runtime=other) == 2

    def test_stopped_server_leaves_no_receivers(self) -> None:
        other = Runtime()
        with TestServer(application(), plugins=[PRESENCE], runtime=other) as server:
            server.connect()
        assert [stage for stage in other.signals.stages if stage.receivers] == []


class TestIsolation:
    def test_stop_sends_finish_of_every_client(self) -> None:
        seen: list[Any] = []

        @signals.finish.connect
        def finish(sender: Any, reason: str, **extra: Any) -> None:
            seen.append(reason)

        with TestServer(application()) as server:
            ann, bob, eve, joe = (server.connect() for _ in range(4))
            ann.disconnect()
            bob.close()
            eve.abort()
            engine = server._running.engine
        assert seen == [
            *("client namespace disconnect", "transport close"),
            *("server shutting down", "server shutting down"),
        ]
        assert joe.close_code == 1001
        assert not engine.sessions
        assert len(default_runtime.registry.namespace("/").channels) == 0

    def test_consecutive_servers_are_independent(self) -> None:
        on_message(echo)
        for _ in range(3):
            with TestServer(application(), plugins=[PRESENCE]) as server:
                ann = server.connect()
                ann.subscribe("room")
                ann.send("x")
                assert ann.received("message") == ["x"]
                assert presence.count("room") == 1
            with pytest.raises(Exception, match="presence is not installed"):
                presence.count("room")
            left = [stage for stage in signals.STAGES if stage.receivers]
            assert left == [signals.message]  # a receiver of the test

    def test_concurrent_servers_have_separate_clients(self) -> None:
        with TestServer(application()) as one, TestServer(application()) as two:
            ann, bob = one.connect(), two.connect()
            bob.answer_pings = False
            one.advance(1000)
            assert bob.socket.connected
            two.advance(45)
            assert (ann.socket.connected, bob.socket.connected) == (True, False)

    def test_redis_is_not_used_by_default(self) -> None:
        configure({"SOCKETIO_BACKPLANE": "redis://nowhere.invalid:1"})
        with TestServer(application()):
            assert default_runtime.registry.backplane is None

    def test_invalid_settings_are_rejected(self) -> None:
        with pytest.raises(SettingsError, match="did you mean ping_interval"):
            TestServer(application(), ping_intervall=1).start()
        with pytest.raises(Exception, match="cannot be imported"):
            TestServer(application(), plugins=["nowhere"]).start()
        call_later(1000, print).close()  # time is real again

    def test_client_without_start_fails(self) -> None:
        server = TestServer(application())
        server.stop()
        with pytest.raises(AssertionError, match="is not running"):
            server.connect()

    def test_server_opens_no_port_or_descriptor(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # not available on every system
            before = count_descriptors()
            with TestServer(application()) as server:
                server.connect()
                server.get("/")
                assert count_descriptors() == before


class Scenario:
    """A scenario that is run twice; records received events and sent signals."""

    def __init__(self) -> None:
        self.told = Journal()
        self._sockets: dict[Any, int] = {}
        own = {
            "message": "message",
            "error": "exception",
            "disconnect": "reason",
            "finish": "reason",
        }

        def tell(stage: signals.Stage) -> None:
            def receiver(sender: Any, event: str = "", **keywords: Any) -> None:
                number = self._sockets.setdefault(sender, len(self._sockets))
                if event != "barrier":
                    value = keywords.get(own.get(stage.name, "channel"))
                    self.told.append((number, stage.name, repr(value)))

            stage.connect(receiver)

        for stage in signals.STAGES:
            tell(stage)

    def play(self, connect: Callable[..., Any]) -> list[Any]:
        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            if socket.auth == {"bad": True}:
                raise Refused("not you")
            context["name"] = web.cookies().get("name")

        @on_connect
        def welcome(request: Any, socket: Any, context: Any) -> None:
            socket.emit("welcome", context["name"])

        @on_subscribing(channel="^staff")
        def staff(request: Any, socket: Any, context: Any, channel: str) -> None:
            raise Refused("staff only")

        @on_subscribe(channel="^room")
        def joined(request: Any, socket: Any, context: Any, channel: str) -> None:
            socket.broadcast_channel({"joined": channel}, channel)

        @on_message(channel="^room")
        def talk(request: Any, socket: Any, context: Any, message: Any) -> Any:
            socket.send_and_broadcast_channel([context["name"], message])
            return {"got": message}

        @on_event("fail")
        def fail(request: Any, socket: Any, context: Any) -> None:
            socket.send("about to fail")
            raise ZeroDivisionError

        @on_event("kick")
        def kick(request: Any, socket: Any, context: Any) -> None:
            socket.send("bye")
            socket.disconnect()

        told = self.told
        ann, bob, eve = (connect(cookies={"name": name}) for name in ("ann", "bob", "eve"))
        with pytest.raises(Refused) as refused:
            connect(auth={"bad": True})
        told.append(("refused", str(refused.value)))
        for client, channel in [
            *(
                (ann, "room-1"),
                (bob, "room-1"),
                (bob, "room-1"),
                (bob, "staff-1"),
                (bob, "x" * 256),
            ),
            *((bob, "two"), (bob, "three")),
        ]:
            told.append(("subscribe", client.call("__subscribe__", channel)))
            told.append((ann.received(), bob.received()))
        for event, *args in [
            *(("message", "hi"), ("message", 1, None), ("message",), ("fail",)),
            *(("__channel__", "room-1", "to it"), ("__channel__", "elsewhere", "x")),
            ("__unsubscribe__", "two"),
        ]:
            told.append((event, bob.call(event, *args)))
            told.append((ann.received(), bob.received(), eve.received()))
        eve.emit("kick")
        told.append((eve.received(), self.ended(2)))
        bob.disconnect()
        told.append(self.ended(1))
        told.append(ann.received())
        ann.close()
        told.append(self.ended(0))
        return told

    def ended(self, number: int) -> str:
        """Wait for the finish of a socket."""
        self.told.wait(
            lambda told: any(
                item[0] == number and item[1] == "finish" for item in told if len(item) == 3
            )
        )
        return "ended"


class PortClient:
    """A client of the real server on a port, with the interface of the test kit's client."""

    def __init__(self, site: Site, auth: Any = None, cookies: Any = None) -> None:
        cookie = "; ".join(f"{name}={value}" for name, value in (cookies or {}).items())
        self.raw = site.websocket(**({"Cookie": cookie} if cookie else {}))
        self.events: list[Any] = []
        self.raw.send("40" + ("" if auth is None else json.dumps(auth)))
        reply = str(self.raw.receive())
        if reply.startswith("44"):
            raise Refused(json.loads(reply[2:])["message"])

    def call(self, event: str, *args: Any) -> Any:
        self.raw.emit(event, *args, ack=7)
        while not (packet := str(self.raw.receive())).startswith("437"):
            self._handle_packet(packet)
        answer = json.loads(packet[3:])
        return answer[0] if len(answer) == 1 else answer or None

    def emit(self, event: str, *args: Any) -> None:
        self.raw.emit(event, *args)
        while (packet := str(self.raw.receive())) != "41":
            self._handle_packet(packet)

    def received(self) -> list[Any]:
        if not self.events or self.events[-1][1] != "bye":
            self.call("__unsubscribe__", "barrier")
        events, self.events = self.events, []
        return events

    def _handle_packet(self, packet: str) -> None:
        event, *args = json.loads(packet[packet.index("[") :])
        self.events.append((event, args[0] if len(args) == 1 else args or None))

    def disconnect(self) -> None:
        self.raw.send("41")

    def close(self) -> None:
        self.raw.close()


class TestRealServer:
    def test_events_and_signals_equal_those_of_the_real_server(
        self, serve: Callable[..., Site]
    ) -> None:
        limits = {"max_channels": 2}
        site = serve(**limits)
        real = Scenario().play(lambda **keywords: PortClient(site, **keywords))
        for stage in signals.STAGES:
            stage._clear_state()
        with (
            TestServer(application(), **limits) as server,
            server.errors(),
        ):
            ours = Scenario().play(server.connect)
        assert len(real) > 60
        assert ours == real


SAMPLE = """\
from gevent import monkey; monkey.patch_all()
import unittest
import web
from webpy_socketio import on_message, signals, socketio_urls
from webpy_socketio.testing import TestServer

@on_message
def shout(request, socket, context, message):
    socket.send_and_broadcast(message.upper())

app = web.application(socketio_urls, globals())

class WithSetUp(unittest.TestCase):
    def setUp(self):
        self.server = TestServer(app).start()
        self.addCleanup(self.server.stop)

    def test_it(self):
        ann, bob = self.server.connect(), self.server.connect()
        ann.send("hi")
        self.assertEqual(bob.receive("message"), "HI")
        self.assertEqual(bob.received(), [])

    @unittest.expectedFailure
    def test_a_handler_that_fails(self):
        self.server.connect().emit("message", 1)

def test_a_function():
    with TestServer(app) as server:
        ann = server.connect()
        ann.send("x")
        assert ann.received() == [("message", "X")]

if __name__ == "__main__":
    unittest.main()
"""


@pytest.mark.slow
@pytest.mark.time_limit(60)
class TestFrameworks:
    """Test files of users in several frameworks."""

    def run(self, folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_unittest_runs_tests_with_the_kit(self, tmp_path: Path) -> None:
        (tmp_path / "test_shout.py").write_text(SAMPLE)
        for command in (["-m", "unittest"], ["test_shout.py"]):
            done = self.run(tmp_path, *command)
            assert done.returncode == 0, done.stderr
            assert "OK (expected failures=1)" in done.stderr

    def test_pytest_runs_tests_with_the_kit(self, tmp_path: Path) -> None:
        (tmp_path / "conftest.py").write_text(
            "from gevent import monkey; monkey.patch_all()\n"
            "import pytest\nfrom webpy_socketio.testing import TestServer\n\n"
            "@pytest.fixture\ndef server():\n    import test_shout\n"
            "    with TestServer(test_shout.app) as server:\n        yield server\n"
        )
        (tmp_path / "test_shout.py").write_text(
            SAMPLE + "\ndef test_a_fixture(server):\n    assert server.connect().connected\n"
        )
        done = self.run(tmp_path, *PYTEST)
        assert "3 passed, 1 xfailed" in done.stdout, done.stdout + done.stderr

    def test_libuv_is_rejected(self, tmp_path: Path) -> None:
        (tmp_path / "test_shout.py").write_text(SAMPLE)
        done = self.run(tmp_path, "test_shout.py", GEVENT_LOOP="libuv")
        assert "unset GEVENT_LOOP" in done.stderr

    def test_late_patching_is_rejected(self, tmp_path: Path) -> None:
        (tmp_path / "test_shout.py").write_text(SAMPLE.partition("\n")[2])
        done = self.run(tmp_path, *PYTEST)
        assert PatchingError.__name__ in done.stdout
        assert "conftest.py" in done.stdout
        assert "__init__.py" in done.stdout


def test_client_repr_contains_its_number(server: TestServer) -> None:
    ann, bob = server.connect(), server.connect()
    assert isinstance(ann, Client)
    assert [repr(ann), repr(bob)] == ["<Client 1, connected>", "<Client 2, connected>"]
