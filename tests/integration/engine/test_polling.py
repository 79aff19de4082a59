"""Tests of the long-polling transport against a real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from tests import raw
from tests.engines import Http, Recorder, Running, eventually
from webpy_socketio.exceptions import ProtocolError

QUERY = "/engine.io/?EIO=4&transport=polling"


def send_post(http: Http, sid: str, body: bytes, declared: int | None = None) -> None:
    length = len(body) if declared is None else declared
    http.send("POST", f"{QUERY}&sid={sid}", f"Content-Length: {length}", body=body)


class TestMessages:
    def test_posted_message_is_answered_with_ok(self, echo: Running) -> None:
        client = echo.polling()
        assert client.send("4hello") == (200, "ok")
        assert client.poll() == ["4hello"]

    def test_binary_message_is_base64(self, echo: Running) -> None:
        client = echo.polling()
        client.send("bAQIDBA==")
        assert echo.receiver.messages == [b"\1\2\3\4"]
        assert client.poll() == ["bAQIDBA=="]

    @pytest.mark.parametrize("packet", ["bAQ\r\nIDBA==\r\n", "bAQIDBA", "bAQ IDBA="], ids=repr)
    def test_post_of_base64_variant_is_echoed(self, echo: Running, packet: str) -> None:
        """The Java client breaks lines; others omit the padding."""
        client = echo.polling()
        assert client.send("4before", packet, "4behind") == (200, "ok")
        assert client.poll() == ["4before", "bAQIDBA==", "4behind"]

    def test_queued_messages_are_returned_together_in_order(self, server: Running) -> None:
        client = server.polling()
        for number in range(100):
            server.session.send(str(number))
        assert client.poll() == [f"4{number}" for number in range(100)]

    def test_get_with_empty_outbox_waits_for_a_message(self, server: Running) -> None:
        client = server.polling()
        poll = server.start_poll(client)
        server.session.send("late")
        assert poll.get() == (200, "4late")

    def test_post_of_thousands_of_packets_delivers_all(self, server: Running) -> None:
        client = server.polling()
        packets = [f"4{number}" for number in range(5000)]
        assert client.send(*packets) == (200, "ok")
        assert server.receiver.messages == [packet[1:] for packet in packets]

    def test_connection_serves_many_requests(self, echo: Running) -> None:
        sid, http = echo.polling().sid, echo.http()
        for number in range(10):
            send_post(http, sid, b"4%d" % number)
            assert http.response()[0] == 200
            assert http.request("GET", f"{QUERY}&sid={sid}")[2] == b"4%d" % number

    def test_post_with_a_chunked_body_is_delivered(self, echo: Running) -> None:
        http = echo.http()
        body = b"2\r\n4a\r\n1\r\nb\r\n0\r\n\r\n"
        target = f"{QUERY}&sid={echo.polling().sid}"
        status, _, answer = http.request("POST", target, "Transfer-Encoding: chunked", body=body)
        assert (status, answer) == (200, b"ok")
        assert echo.receiver.messages == ["ab"]

    def test_ping_is_polled_and_pong_keeps_the_session_open(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(ping_interval=0.01, ping_timeout=3600)
        client = running.polling()
        for _ in range(3):
            assert client.poll() == ["2"]
            assert client.send("3") == (200, "ok")
        assert running.session.open

    def test_post_of_many_pongs_has_no_effect(self, server: Running) -> None:
        client = server.polling()
        assert client.send(*["3"] * 100_000) == (200, "ok")
        assert server.session.open


class TestOverlappingRequests:
    def test_overlapping_gets_close_the_session(self, server: Running) -> None:
        client = server.polling()
        first = server.start_poll(client)
        assert client.request("GET")[0] == 400
        assert first.get() == (200, "1")
        assert server.receiver.endings == ["transport error"]
        assert server.engine.sessions == {}

    def test_overlapping_posts_close_the_session(self, run: Callable[..., Running]) -> None:
        class Slow(Recorder):
            """Pauses the session at the first message."""

            def message(self, session: Any, data: str | bytes) -> None:
                super().message(session, data)
                session.pause()

        running = run(Slow())
        client = running.polling()
        first = gevent.spawn(client.send, "4a", "4b")
        running.receiver.wait_for(("message", "a"))
        assert client.send("4c")[0] == 400
        assert running.receiver.wait_closed() == "transport error"
        first.get()
        assert running.receiver.messages == ["a"]


class TestBadRequests:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"abc",
            b"0",
            b"2",
            b"5",
            b"6",
            b"9",
            b"b!!!!",
            b"\xff",
            b"4\xff",
            b"4a\x1e",
            b"4a\x1eabc",
        ],
        ids=repr,
    )
    def test_invalid_packet_closes_the_session(self, server: Running, body: bytes) -> None:
        client, http = server.polling(), server.http()
        send_post(http, client.sid, body)
        status, headers, answer = http.response()
        assert status == 400
        assert headers["Connection"] == "close"
        assert answer.startswith(b'{"code":3,"message":')
        assert http.read_to_end() == b""
        assert server.receiver.endings == ["parse error"]
        assert client.request("GET")[0] == 400

    def test_invalid_packet_ends_a_waiting_get(self, server: Running) -> None:
        client = server.polling()
        poll = server.start_poll(client)
        assert client.send("abc")[0] == 400
        assert poll.get() == (200, "1")

    @pytest.mark.parametrize("body", [b"abc", b"4a\x1eabc", b"2", b"b!!!!", b"4" + b"x" * 1001])
    def test_invalid_packet_with_queued_messages_delivers_them_and_a_close_packet(
        self, run: Callable[..., Running], body: bytes
    ) -> None:
        running = run(max_message_size=1000)
        client = running.polling()
        running.session.send("one")
        running.session.send("two")
        assert client.request("POST", body)[0] in (400, 413)
        assert client.send("4late")[0] == 400
        assert client.poll() == ["4one", "4two"]
        assert client.poll() == ["1"]
        assert "Session ID unknown" in client.request("GET")[1]
        assert running.receiver.endings == ["parse error"]
        assert running.engine.sessions == {}

    def test_overlapping_posts_with_queued_messages_deliver_them_and_a_close_packet(
        self, server: Running
    ) -> None:
        client = server.polling()
        server.session.send("queued")
        slow = server.http()
        send_post(slow, client.sid, b"4half", declared=100)
        eventually(lambda: server.session.transport.receiving)
        assert client.send("4b")[0] == 400
        assert client.poll() == ["4queued"]
        assert client.poll() == ["1"]
        assert client.request("GET")[0] == 400
        assert server.receiver.endings == ["transport error"]

    def test_rejected_message_with_queued_messages_delivers_them_and_a_close_packet(
        self, run: Callable[..., Running]
    ) -> None:
        class Rejecting(Recorder):
            def message(self, session: Any, data: str | bytes) -> None:
                session.send("answer")
                raise ProtocolError("not what this receiver expects")

        running = run(Rejecting())
        client = running.polling()
        running.session.send("queued")
        assert client.send("4a")[0] == 400
        assert client.poll() == ["4queued", "4answer"]
        assert client.poll() == ["1"]
        assert "Session ID unknown" in client.request("GET")[1]
        assert running.receiver.endings == ["parse error"]

    def test_rejected_session_without_poll_is_removed(self, run: Callable[..., Running]) -> None:
        running = run(upgrade_timeout=0.05)
        client = running.polling()
        running.session.send("queued")
        assert client.send("abc")[0] == 400
        eventually(lambda: not running.engine.sessions)

    def test_lost_response_discards_queued_messages(self, server: Running) -> None:
        """Later messages are not delivered, because they would follow a gap."""
        client = server.polling()
        server.session.send("queued")
        environ = {"QUERY_STRING": f"EIO=4&sid={client.sid}", "REQUEST_METHOD": "GET"}
        server.engine.response_failed(environ)
        assert client.request("GET")[0] == 400
        assert server.receiver.endings == ["transport error"]

    def test_body_of_the_maximum_size_is_accepted(self, run: Callable[..., Running]) -> None:
        running = run(max_message_size=1000)
        assert running.polling().send("4" + "x" * 999) == (200, "ok")
        assert running.receiver.messages == ["x" * 999]

    @pytest.mark.parametrize("length", ["1001", "99999999999999999999"])
    def test_body_with_a_declared_length_above_the_limit_is_not_read(
        self, run: Callable[..., Running], length: str
    ) -> None:
        running = run(max_message_size=1000)
        http = running.http()
        # The body is never sent, so the response cannot depend on it.
        target = f"{QUERY}&sid={running.polling().sid}"
        status, headers, body = http.request("POST", target, f"Content-Length: {length}")
        assert status == 413
        assert headers["Connection"] == "close"
        assert b"1000 bytes" in body
        assert http.read_to_end() == b""
        assert running.receiver.endings == ["parse error"]

    def test_chunked_body_above_the_limit_is_rejected(self, run: Callable[..., Running]) -> None:
        running = run(max_message_size=1000)
        http = running.http()
        target = f"{QUERY}&sid={running.polling().sid}"
        chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
        http.send("POST", target, "Transfer-Encoding: chunked", body=chunk * 2)
        assert http.response()[0] == 413
        assert http.read_to_end() == b""
        assert running.receiver.endings == ["parse error"]

    @pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
    def test_incomplete_body_closes_the_session(self, server: Running, reset: bool) -> None:
        client, http = server.polling(), server.http()
        send_post(http, client.sid, b"4half", declared=100)
        if reset:
            http.sock.setsockopt(raw.socket.SOL_SOCKET, raw.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        http.sock.close()
        assert server.receiver.wait_closed() == "transport error"
        assert server.receiver.messages == []

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
    def test_other_method_is_rejected(self, server: Running, method: str) -> None:
        http = server.http()
        target = f"{QUERY}&sid={server.polling().sid}"
        assert http.request(method, target)[0] == 400
        assert server.session.open


class TestClosing:
    def test_close_by_the_server_ends_a_waiting_get(self, server: Running) -> None:
        client = server.polling()
        poll = server.start_poll(client)
        server.session.close("enough")
        assert poll.get() == (200, "1")
        assert server.receiver.endings == ["enough"]
        assert server.engine.sessions == {}

    def test_messages_and_close_packet_are_separate_responses(self, server: Running) -> None:
        client = server.polling()
        poll = server.start_poll(client)
        server.session.send("last words")
        server.session.close("enough")
        assert poll.get() == (200, "4last words")
        assert client.poll() == ["1"]
        assert server.engine.sessions == {}

    def test_close_by_the_server_is_delivered_with_the_next_get(self, server: Running) -> None:
        client = server.polling()
        server.session.send("last words")
        server.session.close("enough")
        assert client.send("4late")[0] == 400
        assert client.poll() == ["4last words"]
        assert client.poll() == ["1"]
        assert server.receiver == [("opened", client.sid), ("closed", "enough")]
        assert client.request("GET")[0] == 400

    def test_closed_session_without_poll_is_removed_after_a_timeout(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(upgrade_timeout=0.01)
        running.polling()
        running.session.close("enough")
        assert running.engine.sessions
        eventually(lambda: not running.engine.sessions)

    def test_close_by_the_client_ends_its_waiting_get_with_noop(self, server: Running) -> None:
        client = server.polling()
        poll = server.start_poll(client)
        assert client.send("1") == (200, "ok")
        assert poll.get() == (200, "6")
        assert server.receiver.endings == ["transport close"]

    def test_get_after_close_by_the_client_receives_noop_once(self, server: Running) -> None:
        client = server.polling()
        assert client.send("1") == (200, "ok")
        assert client.request("GET") == (200, "6")
        assert not server.engine.sessions
        assert client.request("GET")[0] == 400

    def test_packets_after_a_close_packet_are_discarded(self, server: Running) -> None:
        client = server.polling()
        assert client.send("4a", "1", "4b")[0] == 200
        assert server.receiver[1:] == [("message", "a"), ("closed", "transport close")]

    @pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
    def test_connection_lost_during_a_get_closes_the_session(
        self, server: Running, reset: bool
    ) -> None:
        client, http = server.polling(), server.http()
        http.send("GET", f"{QUERY}&sid={client.sid}")
        eventually(lambda: server.session.transport.waiting)
        if reset:
            http.sock.setsockopt(raw.socket.SOL_SOCKET, raw.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        http.sock.close()
        assert server.receiver.wait_closed() == "transport close"
        assert server.receiver.endings == ["transport close"]

    def test_connection_closed_after_a_get_keeps_the_session_open(self, server: Running) -> None:
        client = server.polling()
        poll = server.start_poll(client)
        server.session.send("a")
        assert poll.get() == (200, "4a")
        server.session.send("b")
        assert client.poll() == ["4b"]
        assert server.receiver.endings == []

    def test_late_get_closes_the_session_before_the_timer_fires(
        self, server: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = server.polling()
        monkeypatch.setattr(server.engine._heartbeat, "_timeout", -25.0)
        assert client.request("GET")[0] == 400
        assert server.receiver.endings == ["ping timeout"]

    def test_client_that_never_polls_is_closed_by_ping_timeout(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(ping_interval=0.01, ping_timeout=0.01)
        clients = [running.polling() for _ in range(5)]
        running.receiver.wait(lambda journal: len(running.receiver.endings) == len(clients))
        assert running.receiver.endings == ["ping timeout"] * len(clients)
        assert running.engine.sessions == {}


class TestLimits:
    def test_full_outbox_closes_the_session(self, run: Callable[..., Running]) -> None:
        running = run(outbox_packets=10)
        client = running.polling()
        for _ in range(11):
            running.session.send("x")
        assert running.receiver.wait_closed() == "slow reader"
        assert client.request("GET")[0] == 400

    def test_paused_session_delays_the_post(self, server: Running) -> None:
        client = server.polling()
        session = server.session
        session.pause()
        post = gevent.spawn(client.send, "4a", "4b")
        eventually(lambda: session.transport._receiving)
        assert server.receiver.messages == []
        session.resume()
        assert post.get() == (200, "ok")
        assert server.receiver.messages == ["a", "b"]

    def test_delayed_post_ends_when_the_session_is_closed(self, server: Running) -> None:
        client = server.polling()
        session = server.session
        session.pause()
        post = gevent.spawn(client.send, "4a")
        eventually(lambda: session.transport._receiving)
        session.close("enough")
        post.get()
        assert server.receiver.messages == []


class TestFairness:
    """A body of many packets must not block other greenlets."""

    def test_post_of_many_packets_yields_to_other_greenlets(self, server: Running) -> None:
        polling = server.polling()
        turns = 0

        def tick() -> None:
            nonlocal turns
            while True:
                gevent.sleep(0)
                turns += 1

        ticking = gevent.spawn(tick)
        eventually(lambda: turns > 10)
        before = turns
        server.engine.sessions[polling.sid].transport.receive(b"\x1e".join([b"3"] * 100_000))
        assert turns - before > 100
        ticking.kill()
