"""Tests of the WebSocket transport against a real server: frames, limits, upgrades."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from websockets.frames import Frame, Opcode

from tests import raw
from tests.engines import Recorder, Running, eventually
from tests.load_clients import scaled
from tests.raw import Closed, WebSocket
from webpy_socketio.engine import Session
from webpy_socketio.engine.engineio.websocket import MAX_FRAGMENTS
from webpy_socketio.engine.io.packets import Message

TARGET = "/engine.io/?EIO=4&transport=websocket"
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def frame(
    opcode: int, data: bytes = b"", fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """Encode a frame, valid or not; masked with zeros."""
    head = bytes([(0x80 if fin else 0) | rsv | opcode])
    mask = 0x80 if masked else 0
    if len(data) < 126:
        head += bytes([mask | len(data)])
    elif len(data) < 65_536:
        head += bytes([mask | 126]) + struct.pack("!H", len(data))
    else:
        head += bytes([mask | 127]) + struct.pack("!Q", len(data))
    return head + (b"\0\0\0\0" if masked else b"") + data


CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class TestMessages:
    def test_frames_in_arbitrary_segments_are_delivered(self, echo: Running) -> None:
        # A short text frame alone in a segment takes a fast path, which must not affect others.
        texts = ["4a", "4" + "b" * 124, "4" + "c" * 125, "4", "4d" * 40_000, "4e", "4grüße"]
        frames = [frame(TEXT, text.encode()) for text in texts]
        overlong = bytes([0x81, 0x80 | 126, 0, 2]) + bytes(4) + b"4l"  # a longer header than needed
        pieces = [
            *frames,
            frames[0] + frames[5],
            frames[0][:1],
            frames[0][1:] + frames[5],
            frames[2] + frames[0][:5],
            frames[0][5:],
            frame(PING, b"x"),
            frames[0],
            frame(TEXT, b"4f", fin=False),
            frame(CONT, b"g"),
            frames[5],
            overlong,
            frames[0],
        ]
        expected = [
            *texts,
            *("4a", "4e", "4a", "4e", texts[2], "4a", "4a", "4fg", "4e", "4l", "4a"),
        ]
        client = echo.websocket()
        for piece in pieces:
            client.send_raw(piece)
            gevent.sleep(0)
        assert [client.receive() for _ in expected] == expected

    def test_short_text_frame_between_fragments_closes_with_1002(self, echo: Running) -> None:
        client = echo.websocket()
        client.send_raw(frame(TEXT, b"4a", fin=False))
        eventually(lambda: echo.session.transport._fragments)  # type: ignore[union-attr]
        client.send_raw(frame(TEXT, b"4b"))
        assert client.wait_closed() == 1002
        assert echo.receiver.messages == []

    @pytest.mark.parametrize("masked", [True, False])
    def test_short_text_frame_unmasked_or_too_large_is_rejected(
        self, run: Callable[..., Running], masked: bool
    ) -> None:
        client = run(max_message_size=10).websocket()
        client.send_raw(frame(TEXT, b"4" + b"a" * (10 if masked else 9), masked=masked))
        assert client.wait_closed() == (1009 if masked else 1002)

    def test_text_and_binary_messages_are_delivered(self, echo: Running) -> None:
        client = echo.websocket()
        client.send("4grüße")
        assert client.receive() == "4grüße"
        client.send(b"\1\2")
        assert client.receive() == b"\1\2"
        assert echo.receiver.messages == ["grüße", b"\1\2"]

    def test_handshake_packet_contains_session_and_limits(self, server: Running) -> None:
        client = server.websocket()
        assert client.open == {
            "sid": server.session.id,
            "upgrades": [],
            "pingInterval": 25000,
            "pingTimeout": 20000,
            "maxPayload": 1000000,
        }

    def test_frame_sent_with_the_handshake_is_delivered(self, echo: Running) -> None:
        http = echo.http()
        http.send("GET", TARGET, *HANDSHAKE, body=frame(TEXT, b"4early"))
        echo.receiver.wait_for(("message", "early"))

    def test_invalid_data_sent_with_the_handshake_closes(self, echo: Running) -> None:
        http = echo.http()
        http.send("GET", TARGET, *HANDSHAKE, body=b"GET / HTTP/1.1\r\n\r\n")
        assert http.read_to_end().startswith(b"HTTP/1.1 101 ")
        assert echo.receiver.wait_closed() == "parse error"

    def test_character_split_over_fragments_is_delivered(self, echo: Running) -> None:
        client = echo.websocket()
        text = "4ü€😀".encode()
        for number, byte in enumerate(text):
            opcode, last = CONT if number else TEXT, number == len(text) - 1
            for piece in frame(opcode, bytes([byte]), fin=last):
                client.send_raw(bytes([piece]))
                gevent.sleep(0)
        assert client.receive() == "4ü€😀"

    def test_ping_between_fragments_is_accepted(self, echo: Running) -> None:
        client = echo.websocket()
        client.send_raw(
            frame(TEXT, b"4a", fin=False) + frame(PING, b"?") + frame(CONT, b"b", fin=True)
        )
        assert client.receive() == "4ab"

    def test_fragmented_binary_message_is_delivered(self, echo: Running) -> None:
        client = echo.websocket()
        client.send_raw(frame(BINARY, b"a", fin=False) + frame(CONT) + frame(CONT)[:0])
        client.send_raw(frame(CONT, b"b"))
        assert client.wait_closed() == 1002, "a continuation frame without a first frame"
        assert echo.receiver.messages == [b"a"]

    def test_thousands_of_messages_are_delivered_in_order(self, echo: Running) -> None:
        client = echo.websocket()
        client.send_raw(b"".join(frame(TEXT, b"4%d" % number) for number in range(5000)))
        assert [client.receive() for _ in range(5000)] == [f"4{n}" for n in range(5000)]

    def test_handshake_offering_extensions_accepts_none(self, server: Running) -> None:
        http = server.http()
        http.send(
            "GET",
            TARGET,
            *HANDSHAKE,
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        )
        answer = http.sock.recv(65_536).lower()
        assert answer.startswith(b"http/1.1 101 ")
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in answer
        assert b"extensions" not in answer
        assert b"sec-websocket-protocol" not in answer


class TestBase64:
    """The client's option ``forceBase64``."""

    @pytest.mark.parametrize("query", ["", "&b64=1"], ids=["binary", "base64"])
    def test_websocket_base64_text_is_delivered_as_bytes(self, server: Running, query: str) -> None:
        client = server.websocket(query)
        client.send("bAQIDBA==")
        client.send("b" + "-_" * 400)
        client.send("4text")
        server.receiver.wait(lambda journal: len(journal) == 4)
        assert server.receiver.messages == [b"\1\2\3\4", b"\xfb\xff\xbf" * 200, "text"]

    def test_websocket_fragmented_base64_text_is_delivered_as_bytes(self, server: Running) -> None:
        client = server.websocket()
        client.send_raw(frame(TEXT, b"bAQ", fin=False) + frame(CONT, b"IDBA=="))
        server.receiver.wait(lambda journal: len(journal) == 2)
        assert server.receiver.messages == [b"\1\2\3\4"]

    @pytest.mark.parametrize(
        ("data", "code"), [(b"b!!!!", 1002), (b"bYWJjZ", 1002), (b"bYQ\xff", 1007)], ids=repr
    )
    def test_websocket_malformed_base64_closes_with_code(
        self, server: Running, data: bytes, code: int
    ) -> None:
        client = server.websocket()
        client.send_raw(frame(TEXT, data))
        assert client.wait_closed() == code
        assert server.receiver.wait_closed() == "parse error"

    def test_websocket_with_b64_query_receives_bytes_as_text(self, echo: Running) -> None:
        client = echo.websocket("&b64=1")
        client.send("bAQIDBA==")
        assert client.receive() == "bAQIDBA=="
        client.send(b"\1\2")
        assert client.receive() == "bAQI="
        client.send("4text")
        assert client.receive() == "4text"

    @pytest.mark.parametrize("query", ["", "&b64=", "&sb64=1"])
    def test_websocket_without_b64_query_receives_bytes_as_binary(
        self, echo: Running, query: str
    ) -> None:
        client = echo.websocket(query)
        client.send("bAQIDBA==")
        assert client.receive() == b"\1\2\3\4"

    def test_websocket_after_upgrade_sends_base64(self, echo: Running) -> None:
        polling = echo.polling()
        client = echo.websocket(f"&b64=1&sid={polling.sid}")
        probe(client)
        echo.session.send(b"\0")  # queued while neither transport may send it
        client.send("5")
        assert client.receive() == "bAA=="
        client.send("bAQIDBA==")
        assert client.receive() == "bAQIDBA=="

    def test_websocket_candidate_sending_base64_is_dropped(self, echo: Running) -> None:
        polling = echo.polling()
        client = echo.websocket(f"&sid={polling.sid}")
        client.send("bAQIDBA==")
        assert client.wait_closed() == 1002
        polling.send("4a")
        assert polling.poll() == ["4a"]

    def test_websocket_server_close_sends_queued_bytes_as_text(self, server: Running) -> None:
        client = server.websocket("&b64=1")
        server.session.send(b"\1\2")
        server.session.close("forced close")
        assert client.receive() == "bAQI="
        assert client.wait_closed() == 1000

    def test_broadcast_to_base64_and_binary_clients_keeps_order(self, server: Running) -> None:
        clients = [server.websocket("&b64=1"), server.websocket()]
        outboxes = [session.outbox for session in server.engine.sessions.values()]
        for number in range(3):
            server.engine.flusher.broadcast(
                Message(b"451-[%d]" % number, [bytes([number])]), outboxes
            )
        assert [clients[0].receive() for _ in range(6)] == [
            "451-[0]", "bAA==", "451-[1]", "bAQ==", "451-[2]", "bAg==",
        ]  # fmt: skip
        assert [clients[1].receive() for _ in range(6)] == [
            "451-[0]", b"\0", "451-[1]", b"\1", "451-[2]", b"\2",
        ]  # fmt: skip


class TestSubprotocol:
    def negotiate(self, server: Running, *headers: str) -> tuple[int, list[str]]:
        """Return the status of a handshake and the subprotocols in its response."""
        http = server.http()
        http.send("GET", TARGET, *HANDSHAKE, *headers)
        status, answer, _ = http.response()
        return status, answer.get_all("Sec-WebSocket-Protocol", [])

    @pytest.mark.parametrize(
        "headers",
        [
            ["Sec-WebSocket-Protocol: chat"],
            ["Sec-WebSocket-Protocol: chat, superchat"],
            ["sec-websocket-protocol: chat,superchat"],
            ["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: superchat"],
        ],
        ids=["one", "two", "no space", "two headers"],
    )
    def test_handshake_offering_subprotocols_accepts_the_first(
        self, server: Running, headers: list[str]
    ) -> None:
        assert self.negotiate(server, *headers) == (101, ["chat"])

    def test_handshake_offering_none_answers_none(self, server: Running) -> None:
        assert self.negotiate(server) == (101, [])

    def test_handshake_upgrading_a_session_accepts_the_first(self, server: Running) -> None:
        polling = server.polling()
        http = server.http()
        target = f"{TARGET}&sid={polling.sid}"
        http.send("GET", target, *HANDSHAKE, "Sec-WebSocket-Protocol: token.abc, other")
        status, answer, _ = http.response()
        assert (status, answer["Sec-WebSocket-Protocol"]) == (101, "token.abc")

    @pytest.mark.parametrize("value", ["a b", "chat;q=1", '"chat"', "ch\xe4t"])
    def test_handshake_offering_a_malformed_subprotocol_is_rejected(
        self, server: Running, value: str
    ) -> None:
        assert self.negotiate(server, f"Sec-WebSocket-Protocol: {value}") == (400, [])
        assert server.engine.sessions == {}


class TestHandshake:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ([h for h in HANDSHAKE if "Key" not in h], 400),
            ([h.replace("dGhl", "x") for h in HANDSHAKE], 400),
            ([h.replace("13", "12") for h in HANDSHAKE], 400),
            ([h for h in HANDSHAKE if "Version" not in h], 400),
            ([h.replace("Connection: Upgrade", "Connection: keep-alive") for h in HANDSHAKE], 426),
            ([*HANDSHAKE, "Content-Length: 5"], 400),
            ([*HANDSHAKE, "Transfer-Encoding: chunked"], 400),
        ],
        ids=["no key", "bad key", "version 12", "no version", "no upgrade", "body", "chunked body"],
    )
    def test_invalid_handshake_is_rejected_and_the_connection_closed(
        self, server: Running, headers: list[str], status: int
    ) -> None:
        http = server.http()
        http.send("GET", TARGET, *headers)
        got, answer, _ = http.response()
        assert got == status
        assert answer["Connection"] == "close"
        assert http.read_to_end() == b""
        assert server.engine.sessions == {}

    @pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
    def test_handshake_with_another_method_is_rejected(self, server: Running, method: str) -> None:
        http = server.http()
        http.send(method, TARGET, *HANDSHAKE)
        assert http.response(method)[0] == 405
        assert server.engine.sessions == {}

    def test_handshake_without_headers_is_rejected(self, server: Running) -> None:
        status, _, body = server.http().request("GET", TARGET)
        assert status == 400
        assert b"WebSocket handshake was expected" in body

    def test_request_pipelined_after_a_rejected_body_is_not_read(self, server: Running) -> None:
        http = server.http()
        second = b"GET /engine.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n"
        body = b"x" * 5 + second
        http.send("POST", TARGET, *HANDSHAKE, "Content-Length: 5", body=body)
        answer = http.read_to_end()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert server.engine.sessions == {}

    def test_reset_of_a_rejected_handshake_is_handled(self, server: Running) -> None:
        for _ in range(20):
            http = server.http()
            http.send("GET", TARGET, *HANDSHAKE[:-1])
            http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            http.sock.close()
        assert server.polling().sid in server.engine.sessions

    def test_reset_of_an_accepted_handshake_is_handled(self, server: Running) -> None:
        for _ in range(20):
            http = server.http()
            http.send("GET", TARGET, *HANDSHAKE)
            http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            http.sock.close()
        assert server.polling().sid in server.engine.sessions
        eventually(lambda: len(server.engine.sessions) == 1)


class TestProtocolErrors:
    """Invalid frames and their close codes (RFC 6455 §5 and §7.4.1)."""

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (frame(TEXT, b"4a", masked=False), 1002),
            (frame(TEXT, b"4a", rsv=0x40), 1002),
            (frame(TEXT, b"4a", rsv=0x10), 1002),
            (frame(0x3), 1002),
            (frame(0xB), 1002),
            (frame(PING, b"x" * 126), 1002),
            (frame(PING, b"x", fin=False), 1002),
            (frame(CONT, b"a"), 1002),
            (frame(TEXT, b"4a", fin=False) + frame(TEXT, b"4b"), 1002),
            (frame(CLOSE, b"x"), 1002),
            (frame(CLOSE, struct.pack("!H", 1005)), 1002),
            (frame(TEXT, b"4\xff"), 1007),
            (frame(TEXT, b"\xff"), 1007),
            (frame(TEXT, b"4\xed\xa0\x80"), 1007),
            (frame(TEXT, b"4\xe2\x82", fin=False) + frame(CONT, b"a"), 1007),
            (frame(TEXT, b"4\xe2\x82", fin=False) + frame(CONT, b""), 1007),
            (b"\x81\xff" + struct.pack("!Q", 1 << 30) + b"\0\0\0\0", 1009),
            (frame(TEXT, b"4" + b"x" * 1_000_000), 1009),
            (
                frame(TEXT, b"4" + b"x" * 99_999, fin=False)
                + frame(CONT, b"x" * 100_000, fin=False) * 10,
                1009,
            ),
            (
                frame(TEXT, b"4", fin=False) + frame(CONT, b"", fin=False) * (MAX_FRAGMENTS + 1),
                1009,
            ),
            (frame(TEXT), 1002),
            (frame(TEXT, b"abc"), 1002),
            (frame(TEXT, b"2"), 1002),
            (frame(TEXT, b"2probe"), 1002),
            (frame(TEXT, b"5"), 1002),
            (frame(TEXT, b"b!!!!"), 1002),
        ],
        ids=[
            *("unmasked", "rsv1", "rsv3", "opcode 3", "opcode b", "long ping", "fragmented ping"),
            *("lone continuation", "text in text", "short close", "close 1005"),
            *("utf-8 data", "utf-8 type", "surrogate", "split utf-8", "cut utf-8"),
            *("1 GiB declared", "one byte too many", "fragments too large", "too many fragments"),
            *("empty", "no packet", "ping", "probe", "upgrade", "base64"),
        ],
    )
    def test_protocol_error_closes_with_its_code(
        self, echo: Running, data: bytes, code: int
    ) -> None:
        other = echo.websocket()
        client = echo.websocket()
        gevent.spawn(client.send_raw, data)
        assert client.wait_closed() == code
        client.sock.close()
        assert echo.receiver.wait_closed() == "parse error"
        assert echo.receiver.messages == []
        other.send("4still here")
        assert other.receive() == "4still here"

    def test_message_of_the_maximum_size_is_accepted(self, echo: Running) -> None:
        client = echo.websocket()
        message = "4" + "x" * 999_999
        client.send(message)
        assert client.receive() == message

    def test_message_of_the_maximum_number_of_fragments_is_accepted(self, echo: Running) -> None:
        client = echo.websocket()
        data = frame(TEXT, b"4a", fin=False) + frame(CONT, fin=False) * (MAX_FRAGMENTS - 2)
        client.send_raw(data + frame(CONT, b"b"))
        assert client.receive() == "4ab"


class TestClosing:
    def test_close_frame_of_the_client_is_echoed(self, server: Running) -> None:
        client = server.websocket()
        client.send_raw(frame(CLOSE, struct.pack("!H", 1000)))
        assert client.wait_closed() == 1000
        assert server.receiver.endings == ["transport close"]

    @pytest.mark.parametrize(
        ("payload", "code"),
        [
            (b"", None),
            (b"\x03", 1002),
            (struct.pack("!H", 1000), 1000),
            (struct.pack("!H", 1005), 1002),
            (struct.pack("!H", 3000) + "é".encode(), 3000),
            (struct.pack("!H", 3000) + b"\xff", 1007),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("used", [False, True], ids=["short frames", "library"])
    def test_close_frame_behind_messages_is_answered(
        self, server: Running, payload: bytes, code: int | None, used: bool
    ) -> None:
        """The library parses the frames if it has parsed another one before."""
        client = server.websocket()
        if used:
            client.send_raw(frame(PING, b""))
            server.session.send("ready")
            client.receive()
        messages = frame(TEXT, b"4a") + frame(TEXT, b"4b")
        client.send_raw(messages + frame(CLOSE, payload) + frame(TEXT, b"4c"))
        assert client.wait_closed() == code
        assert server.receiver.messages == ["a", "b"]
        assert len(server.receiver.endings) == 1

    @pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
    def test_lost_connection_closes_the_session(self, server: Running, reset: bool) -> None:
        server.websocket().vanish(reset)
        assert server.receiver.wait_closed() == "transport close"
        assert server.engine.sessions == {}

    def test_close_packet_of_the_client_closes_the_session(self, server: Running) -> None:
        client = server.websocket()
        client.send("1")
        assert client.wait_closed() == 1000
        assert server.receiver.endings == ["transport close"]

    def test_close_by_the_server_follows_all_queued_messages(self, server: Running) -> None:
        client = server.websocket()
        session = server.session
        big = "x" * 1_000_000
        for _ in range(3):
            session.send(big)
        session.close("enough", 1000)
        session.send("too late")
        for _ in range(3):
            assert client.receive() == "4" + big
        with pytest.raises(Closed) as closed:
            client.receive()
        assert closed.value.code == 1000
        assert server.receiver.endings == ["enough"]

    def test_unanswered_ping_closes_the_session(self, run: Callable[..., Running]) -> None:
        running = run(ping_interval=0.01, ping_timeout=0.01)
        client = running.websocket()
        assert client.receive(pings=True) == "2"
        assert running.receiver.wait_closed() == "ping timeout"

    def test_answered_pings_keep_the_session_open(self, run: Callable[..., Running]) -> None:
        running = run(ping_interval=0.005, ping_timeout=3600)
        client = running.websocket()
        for _ in range(5):
            assert client.receive(pings=True) == "2"
            client.send("3")
        assert running.receiver.endings == []


class TestSlowReaders:
    def test_large_messages_with_pings_in_between_arrive_intact(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(Recorder(echo=True), outbox_bytes=32 << 20)
        client = running.websocket()
        session = running.session
        sent = [f"{number}:" + chr(97 + number) * 1_000_000 for number in range(20)]
        for message in sent:
            session.send(message)
        client.send_raw(frame(PING, b"in the middle") + frame(TEXT, b"4short"))
        running.receiver.wait_for(("message", "short"))
        assert [client.receive() for _ in range(21)] == ["4" + m for m in [*sent, "short"]]

    def test_slow_reader_is_closed_and_others_are_not(self, run: Callable[..., Running]) -> None:
        running = run(outbox_bytes=500_000)
        slow = running.websocket()
        quick = [running.websocket() for _ in range(5)]
        message = "x" * 1000
        sessions = list(running.engine.sessions.values())
        rounds = 0
        while not running.receiver.endings:
            for session in sessions:
                session.send(message)
            for client in quick:
                assert client.receive() == "4" + message
            rounds += 1
        assert running.receiver.endings == ["slow reader"]
        assert len(running.engine.sessions) == 5
        received = 0
        with contextlib.suppress(Closed):
            while slow.receive() == "4" + message:
                received += 1
        assert 0 < received < rounds

    def test_slow_reader_is_closed_after_the_write_timeout(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(write_timeout=0.05, outbox_bytes=64 << 20)
        running.websocket()
        running.session.send("x" * (16 << 20))
        assert running.receiver.wait_closed() == "transport error"

    def test_pings_without_reading_pongs_close_the_session(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(outbox_bytes=100_000)
        client = running.websocket()
        pings = frame(PING, b"x" * 125) * 1000

        def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client.send_raw(pings)

        flooding = gevent.spawn(flood)
        assert running.receiver.wait_closed() == "slow reader"
        flooding.get()

    def test_paused_session_reads_nothing(self, server: Running) -> None:
        client = server.websocket()
        session = server.session
        client.send("4a")
        server.receiver.wait_for(("message", "a"))
        session.pause()
        sending = gevent.spawn(client.send_raw, frame(TEXT, b"4" + b"x" * 1000) * 20_000)
        for _ in range(50):
            gevent.idle()
        assert server.receiver.messages == ["a"]
        assert not sending.ready(), "TCP holds the sender back"
        session.resume()
        server.receiver.wait(lambda journal: len(journal) == 20_002)
        sending.get()

    def test_paused_session_has_no_ping_timeout(self, run: Callable[..., Running]) -> None:
        running = run(ping_interval=0.005, ping_timeout=0.005)
        paused = running.websocket()
        session = running.session
        session.pause()
        assert paused.receive(pings=True) == "2"
        running.websocket()
        assert running.receiver.wait_closed() == "ping timeout"
        assert session.open
        paused.send("3")
        session.resume()
        assert paused.receive(pings=True) == "2"


def probe(client: WebSocket) -> None:
    client.send("2probe")
    assert client.receive() == "3probe"


class TestUpgrade:
    def candidate(self, running: Running, sid: str) -> WebSocket:
        return running.websocket(f"&sid={sid}")

    def test_upgrade_moves_the_session_to_the_websocket(self, echo: Running) -> None:
        polling = echo.polling()
        assert polling.open["upgrades"] == ["websocket"]
        poll = echo.start_poll(polling)
        client = self.candidate(echo, polling.sid)
        probe(client)
        assert poll.get() == (200, "6"), "ends the pending GET"
        assert polling.poll() == ["6"], "ends every new GET"
        client.send("5")
        client.send("4hello")
        assert client.receive() == "4hello"
        assert polling.request("GET")[0] == 400
        assert polling.send("4late")[0] == 400
        assert echo.receiver == [("opened", polling.sid), ("message", "hello")]

    def test_messages_queued_during_the_upgrade_are_sent_by_the_websocket(
        self, server: Running
    ) -> None:
        polling = server.polling()
        client = self.candidate(server, polling.sid)
        server.session.send("before")
        probe(client)
        server.session.send("between")
        assert polling.poll() == ["6"]
        client.send("5")
        assert [client.receive(), client.receive()] == ["4before", "4between"]

    def test_waiting_get_at_the_upgrade_receives_noop(self, echo: Running) -> None:
        polling = echo.polling()
        poll = echo.start_poll(polling)
        client = self.candidate(echo, polling.sid)
        # In one segment: the GET is still waiting when the upgrade completes.
        client.send_raw(frame(TEXT, b"2probe") + frame(TEXT, b"5") + frame(TEXT, b"4now"))
        assert poll.get() == (200, "6")
        assert [client.receive(), client.receive()] == ["3probe", "4now"]

    def test_polling_continues_before_the_probe(self, echo: Running) -> None:
        polling = echo.polling()
        self.candidate(echo, polling.sid)
        polling.send("4a")
        assert polling.poll() == ["4a"]

    @pytest.mark.parametrize("probed", [False, True], ids=["before the probe", "after it"])
    @pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
    def test_lost_candidate_resumes_polling(self, echo: Running, probed: bool, reset: bool) -> None:
        polling = echo.polling()
        client = self.candidate(echo, polling.sid)
        session = echo.session
        if probed:
            probe(client)
            assert polling.poll() == ["6"]
        eventually(lambda: session.upgrading)
        client.vanish(reset)
        eventually(lambda: not session.upgrading)
        polling.send("4a")
        assert polling.poll() == ["4a"]
        again = self.candidate(echo, polling.sid)
        probe(again)
        again.send("5")
        again.send("4b")
        assert again.receive() == "4b"
        assert echo.receiver.endings == []

    @pytest.mark.parametrize("code", [1000, 1001])
    def test_candidate_of_a_closed_page_marks_its_session(self, echo: Running, code: int) -> None:
        polling = echo.polling()
        client = self.candidate(echo, polling.sid)
        client.send_raw(frame(CLOSE, struct.pack("!H", code)))
        assert client.wait_closed() == code
        assert echo.session.client_left == (code == 1001)
        polling.send("4a")
        assert polling.poll() == ["4a"], "the session goes on until its poll ends"

    @pytest.mark.parametrize("code", [1000, 1001])
    def test_page_closed_after_the_probe_ends_its_session(self, echo: Running, code: int) -> None:
        """Its client has paused long-polling, so that no GET ends with the page."""
        polling = echo.polling()
        client = self.candidate(echo, polling.sid)
        probe(client)
        client.send_raw(frame(CLOSE, struct.pack("!H", code)))
        assert client.wait_closed() == code
        if code == 1001:
            assert echo.receiver.wait_closed() == "transport close"
            assert polling.request("GET")[0] == 400
        else:
            polling.send("4a")
            assert polling.poll() == ["4a"]

    @pytest.mark.parametrize("probed", [False, True], ids=["before the probe", "after it"])
    def test_stalled_candidate_is_closed_after_the_upgrade_timeout(
        self, run: Callable[..., Running], probed: bool
    ) -> None:
        running = run(Recorder(echo=True), upgrade_timeout=0.05)
        polling = running.polling()
        client = self.candidate(running, polling.sid)
        if probed:
            probe(client)
        assert client.wait_closed() == 1008
        polling.send("4a")
        assert polling.poll() == ["4a"]
        assert running.receiver.endings == []

    @pytest.mark.parametrize(
        "packet",
        ["5", "2", "2other", "4hello", "3", "1", "", "abc", b"bytes"],
        ids=repr,
    )
    def test_protocol_error_of_a_candidate_closes_it_and_resumes_polling(
        self, echo: Running, packet: str | bytes
    ) -> None:
        polling = echo.polling()
        client = self.candidate(echo, polling.sid)
        client.send(packet)
        assert client.wait_closed() == 1002
        polling.send("4a")
        assert polling.poll() == ["4a"]
        assert echo.receiver.messages == ["a"]

    def test_second_probe_closes_the_candidate(self, echo: Running) -> None:
        polling = echo.polling()
        client = self.candidate(echo, polling.sid)
        probe(client)
        client.send("2probe")
        assert client.wait_closed() == 1002
        polling.send("4a")
        assert polling.poll() == ["4a"]

    def test_candidate_receives_no_messages_of_the_session(
        self, run: Callable[..., Running]
    ) -> None:
        """Also after it stopped reading and reads again."""
        running = run(outbox_bytes=64 << 20, max_message_size=64 << 20)
        polling = running.polling()
        client = self.candidate(running, polling.sid)
        session = running.session
        eventually(lambda: session.upgrading)
        pings = 0
        while not session.upgrading._stream.unsent:
            client.send_raw(frame(PING, b"x" * 125) * 1000)
            pings += 1000
            gevent.sleep(0)
        session.send("a")
        pongs = 0
        while pongs < pings:
            client._read()
            pongs += len(client._frames)
            assert all(one.opcode is Opcode.PONG for one in client._frames)
            client._frames.clear()
        assert polling.poll() == ["4a"]

    @pytest.mark.parametrize("carried", ["by polling", "by a candidate", "by a websocket"])
    def test_second_websocket_is_closed_and_the_first_continues(
        self, echo: Running, carried: str
    ) -> None:
        if carried == "by a websocket":
            first = echo.websocket()
            sid = first.open["sid"]
        else:
            polling = echo.polling()
            sid = polling.sid
            first = self.candidate(echo, sid)
            if carried == "by polling":
                probe(first)
        eventually(lambda: echo.session.transport)
        eventually(lambda: echo.session.upgrading or carried == "by a websocket")
        second = self.candidate(echo, sid)
        assert second.status == 101
        assert second.wait_closed() == 1008
        if carried == "by a candidate":
            probe(first)
        if carried != "by a websocket":
            first.send("5")
        first.send("4hello")
        assert first.receive() == "4hello"

    def test_upgrade_during_a_post_closes_the_session(self, server: Running) -> None:
        polling = server.polling()
        session = server.session
        session.pause()
        transport = session.transport
        post = gevent.spawn(polling.send, "4posted")
        eventually(lambda: transport._receiving)
        client = self.candidate(server, polling.sid)
        probe(client)
        client.send("5")  # the remaining packets of the POST would mix with the WebSocket's
        assert client.wait_closed() == 1002
        assert post.get()[0] in (200, 400)
        assert session.reason == "parse error"

    def test_upgrade_of_an_unknown_session_is_rejected(self, server: Running) -> None:
        client = server.websocket("&sid=unknown")
        assert client.status == 400

    def test_close_of_the_session_closes_the_candidate(self, server: Running) -> None:
        polling = server.polling()
        client = self.candidate(server, polling.sid)
        probe(client)
        server.session.close("enough")
        assert client.wait_closed() == 1000
        assert polling.poll() == ["1"]

    @pytest.mark.time_limit(30)
    def test_upgrade_under_load_keeps_all_messages_in_order(self, server: Running) -> None:
        """Both sides send numbered messages during the upgrade."""
        for _ in range(scaled(10, 5)):
            self.upgrade_while_both_send(server)

    def upgrade_while_both_send(self, running: Running) -> None:
        polling = running.polling()
        session: Session = running.engine.sessions[polling.sid]
        inbound: list[str | bytes] = []
        running.receiver.message = lambda session, data: inbound.append(data)
        going = True
        outbound = 0

        def send() -> None:
            nonlocal outbound
            while going and session.open:
                if session.outbox.size < 50_000:  # prevents "slow reader" on a busy machine
                    session.send(str(outbound))
                    outbound += 1
                gevent.sleep(0)

        sender = gevent.spawn(send)
        received: list[Any] = []
        count = 0

        def post() -> None:
            nonlocal count
            assert polling.send(f"4{count}", f"4{count + 1}") == (200, "ok")
            count += 2

        def poll() -> bool:
            packets = polling.poll()
            received.extend(packet for packet in packets if packet != "6")
            return packets != ["6"]

        for _ in range(3):
            posting = gevent.spawn(post)
            assert poll()
            posting.get()
        polling_on = gevent.spawn(lambda: [None for _ in iter(poll, False)])
        client = self.candidate(running, polling.sid)
        probe(client)
        post()
        polling_on.get()
        client.send("5")
        for _ in range(20):
            client.send(f"4{count}")
            count += 1
            received.append(client.receive())
        going = False
        sender.get()
        while len(received) < outbound:
            received.append(client.receive())
        assert received == [f"4{number}" for number in range(outbound)]
        eventually(lambda: len(inbound) == count)
        assert inbound == [str(number) for number in range(count)]
        client.close()


def test_frame_helper_matches_the_library() -> None:
    data = b"x" * 300
    ours = frame(TEXT, data, masked=False)
    assert ours == Frame(Opcode.TEXT, data).serialize(mask=False)
    assert raw.SEPARATOR == "\x1e"
