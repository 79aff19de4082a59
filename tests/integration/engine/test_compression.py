"""Tests of permessage-deflate (RFC 7692) against a real server, with a client that uses zlib."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode

from tests.engines import Http, Recorder, Running, eventually, trust_all
from tests.integration.engine.test_websocket import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    PING,
    PONG,
    TARGET,
    TEXT,
    frame,
)
from webpy_socketio.engine import Session
from webpy_socketio.engine.engineio.compression import CompressedWebSocket, Inflater
from webpy_socketio.engine.io.deflate import THRESHOLD, deflate
from webpy_socketio.engine.io.packets import Message

RSV1, RSV2 = 0x40, 0x20
OFFER = "permessage-deflate; client_max_window_bits"
ACCEPTED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

#: A message that is long enough to be compressed, and becomes much smaller.
LONG = "4" + "lorem ipsum " * 200


def compress(data: bytes, level: int = 6) -> bytes:
    """Compress one message without context (RFC 7692 §7.2.1)."""
    compressor = zlib.compressobj(level, wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def compress_zeros(megabytes: int) -> bytes:
    """Compress a message of null bytes: the same megabyte again and again."""
    compressor = zlib.compressobj(9, wbits=-15)
    block = compressor.compress(bytes(1_000_000)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (block * megabytes)[:-4]


def decompress(data: bytes) -> bytes:
    decompressor = zlib.decompressobj(-15)
    content = decompressor.decompress(data + b"\0\0\xff\xff")
    assert decompressor.unused_data == b""
    return content


def noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)


class Client:
    """A WebSocket client that offers compression and sees the frames as they are."""

    def __init__(self, server: Running, offer: str | None = OFFER, query: str = "") -> None:
        http = Http(server.port)
        self.sock = http.sock
        headers = [] if offer is None else [f"Sec-WebSocket-Extensions: {offer}"]
        http.send("GET", TARGET + query, *HANDSHAKE, *headers)
        self._data = b""
        head = self._read_until(b"\r\n\r\n").decode("latin-1")
        self.status = int(head.split()[1])
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        #: The ``Sec-WebSocket-Extensions`` of the response, or None.
        self.extensions = fields.get("Sec-WebSocket-Extensions")
        #: Bytes received after the handshake.
        self.received = 0
        if self.status == 101 and "sid=" not in query:
            assert self.receive_raw()[1][:1] == b"0"

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive_raw(self) -> tuple[int, bytes]:
        """Return the next frame: the first byte of its header, and its data."""
        first, size = self._take(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return first, self._take(size)

    def receive(self) -> str | bytes:
        """Return the next message; compressed or not."""
        first, data = self.receive_raw()
        if first & RSV1:
            data = decompress(data)
        return data.decode() if first & 0x0F == TEXT else data

    def wait_closed(self) -> int:
        """Skip frames up to a close frame, and return its code."""
        while True:
            first, data = self.receive_raw()
            if first == 0x80 | CLOSE:
                return int.from_bytes(data[:2], "big")

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            self._fill()
        taken, self._data = self._data[:size], self._data[size:]
        self.received += size
        return taken

    def _read_until(self, end: bytes) -> str | Any:
        while end not in self._data:
            self._fill()
        head, _, self._data = self._data.partition(end)
        return head

    def _fill(self) -> None:
        data = self.sock.recv(65_536)
        assert data, "the server has closed the connection"
        self._data += data


@pytest.fixture
def server(run: Callable[..., Running]) -> Running:
    """An engine with compression, whose receiver records its calls."""
    return run(compression=True)


@pytest.fixture
def echo(run: Callable[..., Running]) -> Running:
    """An engine with compression, whose receiver echoes."""
    return run(Recorder(echo=True), compression=True)


class TestNegotiation:
    @pytest.mark.parametrize(
        ("offer", "answer"),
        [
            ("permessage-deflate", ACCEPTED),
            (OFFER, ACCEPTED),
            (
                "permessage-deflate; client_max_window_bits=10",
                f"{ACCEPTED}; client_max_window_bits=10",
            ),
            ("permessage-deflate; client_no_context_takeover", ACCEPTED),
            ("permessage-deflate; server_no_context_takeover", ACCEPTED),
            (
                "permessage-deflate; server_max_window_bits=15",
                f"{ACCEPTED}; server_max_window_bits=15",
            ),
            ("permessage-deflate; server_max_window_bits=10, permessage-deflate", ACCEPTED),
            ("x-other, permessage-deflate", ACCEPTED),
            ("permessage-deflate, permessage-deflate", ACCEPTED),
            ("permessage-deflate; server_max_window_bits=14", None),
            ("permessage-deflate; server_max_window_bits=8", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=015", None),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
            ("permessage-deflate; other", None),
            ("x-webkit-deflate-frame", None),
            ("x-other," * 125 + "permessage-deflate", ACCEPTED),
            ("x-other," * 126 + "permessage-deflate", None),
        ],
    )  # fmt: skip
    def test_offer_is_accepted_or_declined_as_in_rfc_7692(
        self, echo: Running, offer: str, answer: str | None
    ) -> None:
        client = Client(echo, offer)
        assert client.extensions == answer
        client.send(frame(TEXT, LONG.encode()))  # declined: the connection is uncompressed
        first, data = client.receive_raw()
        assert first == 0x80 | TEXT | (RSV1 if answer else 0)
        assert (decompress(data) if answer else data) == LONG.encode()

    def test_malformed_extensions_header_is_rejected_with_400(self, server: Running) -> None:
        assert Client(server, "permessage-deflate; =").status == 400
        assert not server.engine.sessions

    def test_handshake_without_the_setting_accepts_none(self, run: Callable[..., Running]) -> None:
        client = Client(run(Recorder(echo=True)))
        assert client.extensions is None
        client.send(frame(TEXT, LONG.encode()))
        assert client.receive_raw() == (0x80 | TEXT, LONG.encode())

    def test_handshake_with_base64_accepts_none(self, echo: Running) -> None:
        client = Client(echo, query="&b64=1")
        assert client.extensions is None
        client.send(frame(BINARY, bytes(3000)))
        assert client.receive_raw() == (0x80 | TEXT, b"b" + b"A" * 4000)

    @pytest.mark.parametrize("offer", [None, "permessage-deflate; server_max_window_bits=9"])
    def test_compressed_frame_without_negotiation_closes_with_1002(
        self, server: Running, offer: str | None
    ) -> None:
        client = Client(server, offer)
        client.send(frame(TEXT, compress(b"4a"), rsv=RSV1))
        assert client.wait_closed() == 1002
        assert server.receiver.messages == []

    def test_upgrade_from_polling_negotiates_compression(self, echo: Running) -> None:
        polling = echo.polling()
        client = Client(echo, query=f"&sid={polling.sid}")
        assert client.extensions == ACCEPTED
        client.send(frame(TEXT, compress(b"2probe"), rsv=RSV1))
        assert client.receive() == "3probe"
        echo.session.send(LONG[1:])  # queued while neither transport may send it
        client.send(frame(TEXT, compress(b"5"), rsv=RSV1))
        assert client.receive_raw()[0] == 0x80 | TEXT | RSV1
        client.send(frame(TEXT, compress(b"4hello"), rsv=RSV1))
        assert client.receive() == "4hello"


class TestOutgoing:
    def test_only_messages_above_the_threshold_are_compressed(self, server: Running) -> None:
        client = Client(server)
        for size in (THRESHOLD - 1, THRESHOLD):  # of the data; the packet has one byte more
            server.session.send("a" * size)
            first, data = client.receive_raw()
            assert bool(first & RSV1) == (size == THRESHOLD)
            content = decompress(data) if first & RSV1 else data
            assert content == b"4" + b"a" * size

    @pytest.mark.parametrize("size", [2000, 65_536, 65_537, 300_000, 1_000_000])
    def test_compressed_message_decompresses_to_the_original(
        self, server: Running, size: int
    ) -> None:
        client = Client(server)
        text = "".join(f"{number}, " for number in range(size // 4))[:size]
        server.session.send(text)
        first, data = client.receive_raw()
        assert first == 0x80 | TEXT | RSV1
        assert decompress(data) == b"4" + text.encode()
        assert len(data) < size * 0.6

    @pytest.mark.parametrize("size", [2000, 65_537, 300_000])
    def test_message_that_does_not_shrink_is_sent_uncompressed(
        self, server: Running, size: int
    ) -> None:
        client = Client(server)
        server.session.send(noise(size))
        assert client.receive_raw() == (0x80 | BINARY, noise(size))

    def test_each_message_is_compressed_without_context(self, server: Running) -> None:
        client = Client(server)
        server.session.send(LONG[1:])
        server.session.send(LONG[1:])
        assert client.receive_raw() == client.receive_raw()

    def test_each_attachment_is_compressed_separately(self, server: Running) -> None:
        client = Client(server)
        parts = [bytes(5000), b"short", noise(5000)]
        server.session.outbox.push(Message(b"453-[]", parts))
        frames = [client.receive_raw() for _ in range(4)]
        assert [first for first, _ in frames] == [
            0x80 | TEXT, 0x80 | BINARY | RSV1, 0x80 | BINARY, 0x80 | BINARY,
        ]  # fmt: skip
        assert decompress(frames[1][1]) == parts[0]
        assert [data for _, data in frames[2:]] == parts[1:]

    def test_control_frames_are_not_compressed(self, server: Running) -> None:
        client = Client(server)
        client.send(frame(PING, b"a" * 125))
        assert client.receive_raw() == (0x80 | PONG, b"a" * 125)
        server.session.close("forced close", note="b" * 120)
        assert client.receive_raw() == (0x80 | CLOSE, b"\x03\xe8" + b"b" * 120)

    def test_broadcast_is_compressed_once_for_all_recipients(self, server: Running) -> None:
        """Every connection writes the same bytes object, which was therefore made once."""
        streams = [_Stream() for _ in range(20)]
        environ = {
            "REQUEST_METHOD": "GET",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "QUERY_STRING": "EIO=4&transport=websocket",
            "HTTP_CONNECTION": "Upgrade",
            "HTTP_UPGRADE": "websocket",
            "HTTP_SEC_WEBSOCKET_VERSION": "13",
            "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
            "HTTP_SEC_WEBSOCKET_EXTENSIONS": OFFER,
        }
        for stream in streams:
            upgrade = server.engine.upgrade(environ)
            upgrade.start(stream, b"")  # type: ignore[union-attr,arg-type]
        sessions = list(server.engine.sessions.values())
        assert {type(session.transport) for session in sessions} == {CompressedWebSocket}
        gevent.sleep(0)
        for stream in streams:
            stream.written.clear()
        message = Message(LONG.encode())
        server.engine.flusher.broadcast(message, [session.outbox for session in sessions])
        gevent.sleep(0)
        written = [data for stream in streams for data in stream.written]
        assert len(written) == 20
        assert {id(data) for data in written} == {id(message.compressed_frames)}
        assert decompress(written[0][2:]) == LONG.encode()

    def test_broadcast_to_all_kinds_of_clients_keeps_order(self, server: Running) -> None:
        clients = [Client(server), Client(server, None), Client(server, query="&b64=1")]
        polling = server.polling()
        outboxes = [session.outbox for session in server.engine.sessions.values()]
        texts = [f"4{number}" + "text " * 300 * (number % 2) for number in range(6)]
        for text in texts:
            server.engine.flusher.broadcast(Message(text.encode()), outboxes)
        for client in clients:
            assert [client.receive() for _ in texts] == texts
        assert polling.poll() == texts

    def test_outbox_counts_compressed_bytes_once_they_are_written(
        self, run: Callable[..., Running]
    ) -> None:
        """A client that does not read is closed, though its messages are compressed."""
        running = run(compression=True, outbox_bytes=400_000)
        client = Client(running)
        session = running.session
        transport: Any = session.transport
        text = noise(30_000).hex()
        while not transport.unsent():
            session.send(text)
            gevent.sleep(0)
        assert session.outbox.size == transport.unsent() < len(text)
        session.send(text)
        assert session.outbox.size == transport.unsent() + len(text) + 1 + 4
        for _ in range(8):
            session.send(text)
        assert running.receiver.wait_closed() == "slow reader"
        client.sock.close()

    def test_unread_compressed_messages_arrive_complete(self, server: Running) -> None:
        client = Client(server)
        session, count = server.session, 0
        transport: Any = session.transport
        while not transport.unsent() or count % 3:
            session.send(f"{count}:{noise(30_000).hex()}")
            gevent.sleep(0)
            count += 1
        for number in range(count):
            received = client.receive()
            assert received == f"4{number}:{noise(30_000).hex()}"


class _Stream:
    """A stream that keeps what is written."""

    unsent = 0
    try_send = None

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def start(self, user: Any, first: bytes = b"") -> None:
        pass

    def write(self, data: bytes) -> int:
        self.written.append(data)
        return 0

    def close(self) -> None:
        pass

    abort = end = pause = resume = close


class TestIncoming:
    def test_compressed_messages_are_delivered(self, echo: Running) -> None:
        client = Client(echo)
        long = "4" + "grüße " * 20_000
        client.send(frame(TEXT, compress(b"4short"), rsv=RSV1))
        client.send(frame(TEXT, compress(long.encode()), rsv=RSV1))
        client.send(frame(BINARY, compress(noise(100_000)), rsv=RSV1))
        client.send(frame(TEXT, b"4plain"))
        client.send(frame(BINARY, compress(b""), rsv=RSV1))
        assert [client.receive() for _ in range(5)] == [
            "4short", long, noise(100_000), "4plain", b"",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "data",
        [
            b"\xf2\x48\xcd\xc9\xc9\x07\x00",
            b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        ],
        ids=["compressed", "stored", "final block", "two blocks"],
    )
    def test_examples_of_rfc_7692_are_decompressed(self, data: bytes) -> None:
        inflater = Inflater(5)
        assert inflater.decode(Frame(Opcode.TEXT, data, rsv1=True)).data == b"Hello"
        first = inflater.decode(Frame(Opcode.TEXT, data[:3], fin=False, rsv1=True))
        last = inflater.decode(Frame(Opcode.CONT, data[3:]))
        assert bytes(first.data) + bytes(last.data) == b"Hello"

    def test_fragments_with_a_ping_between_are_joined(self, echo: Running) -> None:
        client = Client(echo)
        data = compress(LONG.encode())
        client.send(frame(TEXT, data[:10], fin=False, rsv=RSV1))
        client.send(frame(PING, b"?"))
        client.send(frame(CONT, data[10:20], fin=False) + frame(CONT, data[20:]))
        assert client.receive_raw() == (0x80 | PONG, b"?")
        assert client.receive() == LONG
        client.send(frame(TEXT, b"4a", fin=False) + frame(CONT, b"b"))  # uncompressed
        assert client.receive() == "4ab"

    def test_short_frame_within_a_frame_is_not_a_message(self, echo: Running) -> None:
        """The fast path of short frames must know that a frame is incomplete."""
        client = Client(echo)
        packed = frame(TEXT, compress(LONG.encode()), rsv=RSV1)
        growth = len(frame(TEXT, LONG.encode())) - len(packed)
        inner = frame(TEXT, b"4inner")
        outer = frame(BINARY, bytes(growth - 8) + inner)
        assert len(outer) - len(inner) == growth
        client.send(packed)
        assert client.receive() == LONG
        client.send(outer[:growth])
        eventually(lambda: echo.session.transport._unparsed == growth)  # type: ignore[union-attr]
        client.send(inner)
        assert client.receive() == bytes(growth - 8) + inner
        client.send(inner)
        assert client.receive() == "4inner"
        assert echo.session.transport._unparsed == 0  # type: ignore[union-attr]

    def test_connection_keeps_no_state_between_messages(self, echo: Running) -> None:
        client = Client(echo)
        client.send(frame(TEXT, compress(LONG.encode()), rsv=RSV1))
        assert client.receive() == LONG
        assert echo.session.transport._inflater._decompressor is None  # type: ignore[union-attr]
        # A client that uses its context after all refers to data that the server does not have.
        compressor = zlib.compressobj(wbits=-15)
        compressor.compress(LONG.encode())
        compressor.flush(zlib.Z_SYNC_FLUSH)
        data = compressor.compress(LONG.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH)
        client.send(frame(TEXT, data[:-4], rsv=RSV1))
        assert client.wait_closed() == 1002

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (frame(TEXT, b"\xff\xff\xff", rsv=RSV1), 1002),
            (frame(TEXT, compress(b"4a"), rsv=RSV1 | RSV2), 1002),
            (frame(PING, compress(b"a"), rsv=RSV1), 1002),
            (frame(CLOSE, compress(b"\x03\xe8"), rsv=RSV1), 1002),
            (frame(TEXT, compress(b"4a"), fin=False, rsv=RSV1) + frame(CONT, rsv=RSV1), 1002),
            (frame(TEXT, b"4a", fin=False) + frame(CONT, rsv=RSV1), 1002),
            (frame(CONT, compress(b"4a"), rsv=RSV1), 1002),
            (frame(TEXT, compress(b"4a"), fin=False, rsv=RSV1) * 2, 1002),
            (frame(TEXT, compress(b"4\xff"), rsv=RSV1), 1007),
            (frame(TEXT, compress(b"9"), rsv=RSV1), 1002),
        ],
        ids=[
            *("not deflate", "RSV2", "ping", "close", "RSV1 in continuation"),
            *("RSV1 in plain continuation", "no start", "two starts", "not UTF-8", "bad packet"),
        ],
    )
    def test_invalid_compressed_frame_closes_with_code(
        self, server: Running, data: bytes, code: int
    ) -> None:
        client = Client(server)
        client.send(data)
        assert client.wait_closed() == code
        assert server.receiver.wait_closed() == "parse error"
        assert server.receiver.messages == []


class TestLimits:
    LIMIT = 50_000

    @pytest.fixture
    def small(self, run: Callable[..., Running]) -> Iterator[Running]:
        """An engine with a low limit of the size of messages."""
        return run(compression=True, max_message_size=self.LIMIT)

    @pytest.mark.parametrize("content", [bytes(LIMIT), noise(LIMIT)], ids=["zeros", "noise"])
    @pytest.mark.parametrize("level", [0, 1, 9])
    def test_message_of_the_largest_size_is_delivered(
        self, small: Running, content: bytes, level: int
    ) -> None:
        """Data that cannot be compressed is longer than the limit on the wire."""
        client = Client(small)
        client.send(frame(BINARY, compress(content, level), rsv=RSV1))
        small.receiver.wait(lambda journal: len(journal) == 2)
        assert small.receiver.messages == [content]

    @pytest.mark.parametrize("content", [bytes(LIMIT + 1), noise(LIMIT + 1)], ids=["0", "noise"])
    @pytest.mark.parametrize("compressed", [True, False])
    def test_message_above_the_limit_closes_with_1009(
        self, small: Running, content: bytes, compressed: bool
    ) -> None:
        client = Client(small)
        data = compress(content) if compressed else content
        client.send(frame(BINARY, data, rsv=RSV1 if compressed else 0))
        assert client.wait_closed() == 1009
        assert small.receiver.wait_closed() == "parse error"
        assert small.receiver.messages == []

    def test_fragments_above_the_limit_close_with_1009(self, small: Running) -> None:
        """Also once the limit is reached exactly, where zlib's limit of 0 would mean none."""
        client = Client(small)
        compressor = zlib.compressobj(wbits=-15)
        pieces = [
            compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH)
            for size in (self.LIMIT - 1, 1, 0, 1)
        ]
        client.send(frame(BINARY, pieces[0], fin=False, rsv=RSV1))
        for piece in pieces[1:3]:
            client.send(frame(CONT, piece, fin=False))
        websocket: Any = small.session.transport
        eventually(lambda: len(websocket._fragments) == 3)
        client.send(frame(CONT, pieces[3]))
        assert client.wait_closed() == 1009
        assert small.receiver.messages == []

    def test_decompression_bomb_closes_with_1009_and_uses_no_memory(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(compression=True)
        client = Client(running)
        bomb = compress_zeros(500)
        assert len(bomb) < 1_000_000
        tracemalloc.start()
        client.send(frame(BINARY, bomb, rsv=RSV1))
        assert client.wait_closed() == 1009
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10_000_000, "500 MB decompressed"
        assert running.receiver.messages == []

    def test_decompression_stops_one_byte_above_the_limit(self) -> None:
        inflater = Inflater(1000)
        bomb = compress_zeros(100)
        inflater._decompressor = zlib.decompressobj(-15)
        assert len(inflater._inflate(bomb, True)) == 1001

    def test_decompression_beyond_the_time_limit_closes_with_1009(self) -> None:
        empty_blocks = b"\x00\x00\x00\xff\xff" * 10_000
        with pytest.raises(PayloadTooBig):
            Inflater(1000, max_time=0.0).decode(Frame(Opcode.TEXT, empty_blocks, rsv1=True))
        frame = Inflater(1000, max_time=60.0).decode(Frame(Opcode.TEXT, empty_blocks, rsv1=True))
        assert frame.data == b""

    def test_data_behind_a_final_block_is_not_stored(self) -> None:
        compressor = zlib.compressobj(wbits=-15)
        ended = compressor.compress(b"4a") + compressor.flush()
        inflater = Inflater(100_000)
        first = inflater.decode(Frame(Opcode.TEXT, ended, fin=False, rsv1=True))
        for _ in range(100):
            assert inflater.decode(Frame(Opcode.CONT, bytes(50_000), fin=False)).data == b""
        assert first.data == b"4a"
        assert len(inflater._decompressor.unused_data) < 20_000


class TestDeflate:
    @pytest.mark.parametrize("size", [THRESHOLD + 1, 10_000, 65_536, 65_537, 262_145])
    def test_deflate_is_the_inverse_of_inflate(self, size: int) -> None:
        data = b"".join(b"%d;" % number for number in range(size))[:size]
        compressed = deflate(data)
        assert compressed is not None
        assert decompress(compressed) == data

    def test_deflate_of_short_or_random_data_returns_none(self) -> None:
        assert deflate(bytes(THRESHOLD)) is None
        assert deflate(noise(2000)) is None
        assert deflate(noise(70_000) + bytes(70_000)) is None

    def test_session_of_compressed_client_is_an_ordinary_one(self, server: Running) -> None:
        Client(server)
        session: Session = server.session
        assert session.transport is not None
        assert session.transport.name == "websocket"
        assert session.outbox.try_send is None


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_client_of_the_websockets_library_exchanges_compressed_messages(
    run: Callable[..., Running], certificate: Path, secure: bool
) -> None:
    from websockets.sync.client import connect

    files = {"certfile": str(certificate), "keyfile": str(certificate)} if secure else {}
    running = run(Recorder(echo=True), pywsgi=files, compression=True)
    scheme, context = ("wss", trust_all()) if secure else ("ws", None)
    url = f"{scheme}://127.0.0.1:{running.port}/engine.io/?EIO=4&transport=websocket"
    messages = ["4short", "4" + "ü" * 400_000, noise(100_000), "4" + noise(100_000).hex()]
    with connect(url, ssl=context, proxy=None, max_size=None) as client:
        assert str(client.recv()).startswith('0{"sid":')
        assert isinstance(running.session.transport, CompressedWebSocket)
        for message in messages:
            client.send(message)
            assert client.recv() == message
