"""Tests of compressed long-polling: content codings, and a real server."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import gevent
import pytest

from tests.engines import Running
from webpy_socketio.engine.engineio.encodings import compress_body, select_encoding
from webpy_socketio.engine.io.deflate import THRESHOLD

QUERY = "/engine.io/?EIO=4&transport=polling"
TEXT = "lorem ipsum " * 200

DECODERS: dict[str | None, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    None: bytes,
}


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("deflate, gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("br", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0.5, deflate;q=0.9", "deflate"),
        ("gzip ; q=0.5,deflate\t;Q=0.4", "gzip"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("*;q=0, deflate", "deflate"),
        ("gzip;q=0, *", "deflate"),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("gzip;q=0.1, identity;q=0", "gzip"),
        ("gzip;q=0, gzip", None),
        ("gzip;q=2", None),
        ("gzip;q=-1", None),
        ("gzip;q=abc", None),
        ("gzip;level=9", None),
        (", ,gzip,", "gzip"),
        ("gzipped", None),
        ("br," * 1000 + "gzip", None),
    ],
)
def test_encoding_with_the_highest_weight_is_selected(
    accepted: str | None, encoding: str | None
) -> None:
    assert select_encoding(accepted) == encoding


def test_compress_body_yields_to_other_greenlets() -> None:
    turns = []
    other = gevent.spawn(lambda: [turns.append(gevent.sleep(0)) for _ in range(10)])
    body, _ = compress_body(bytes(300_000), "gzip")
    assert len(turns) >= 3
    assert gzip.decompress(body) == bytes(300_000)
    other.join()


class TestPolling:
    @pytest.mark.parametrize(
        ("accepted", "encoding"),
        [
            ("gzip, deflate, br", "gzip"),
            ("deflate", "deflate"),
            ("gzip;q=0.1, deflate;q=0.2", "deflate"),
            ("gzip;q=0", None),
            ("br", None),
            (None, None),
        ],
    )
    @pytest.mark.parametrize("size", [THRESHOLD - 1, THRESHOLD])  # the packet has one byte more
    def test_payload_above_the_threshold_is_compressed_if_accepted(
        self, server: Running, size: int, accepted: str | None, encoding: str | None
    ) -> None:
        sid = server.polling().sid
        server.session.send("a" * size)
        headers = [] if accepted is None else [f"Accept-Encoding: {accepted}"]
        status, fields, body = server.http().request("GET", f"{QUERY}&sid={sid}", *headers)
        assert status == 200
        if size < THRESHOLD:
            encoding = None
        assert fields["Content-Encoding"] == encoding
        assert fields["Vary"] == (None if size < THRESHOLD else "Accept-Encoding")
        assert fields["Content-Length"] == str(len(body))
        assert fields["Content-Type"] == "text/plain; charset=UTF-8"
        assert fields["Cache-Control"] == "no-store"
        assert DECODERS[encoding](body) == b"4" + b"a" * size
        assert (len(body) < 100) == (encoding is not None)

    def test_response_to_another_origin_varies_by_both_headers(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(allowed_origins=["http://a.example"])
        sid = running.polling().sid
        running.session.send(TEXT)
        _, fields, body = running.http().request(
            "GET", f"{QUERY}&sid={sid}", "Accept-Encoding: gzip", "Origin: http://a.example"
        )
        assert fields.get_all("Vary") == ["Accept-Encoding", "Origin"]
        assert gzip.decompress(body).decode() == "4" + TEXT

    def test_handshake_and_posts_are_not_compressed(self, server: Running) -> None:
        http = server.http()
        _, fields, body = http.request("GET", QUERY, "Accept-Encoding: gzip")
        assert body.startswith(b'0{"sid"')
        target = f"{QUERY}&sid={server.session.id}"
        _, more, answer = http.request(
            "POST", target, "Accept-Encoding: gzip", "Content-Length: 2", body=b"4a"
        )
        assert answer == b"ok"
        assert fields["Content-Encoding"] is None
        assert more["Content-Encoding"] is None

    def test_payload_of_several_megabytes_arrives_complete(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(outbox_bytes=8_000_000)
        sid = running.polling().sid
        texts = [f"{number}:{TEXT * 100}" for number in range(16)]
        for text in texts:
            running.session.send(text)
        _, _, body = running.http().request("GET", f"{QUERY}&sid={sid}", "Accept-Encoding: gzip")
        assert gzip.decompress(body).decode() == "\x1e".join("4" + text for text in texts)


class TestRequests:
    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "GZIP"])
    def test_compressed_post_is_rejected_with_415(self, server: Running, encoding: str) -> None:
        """A decompression bomb is never decompressed."""
        sid = server.polling().sid
        # Members follow one another (RFC 1952 §2.2): 100 MB in all.
        body = gzip.compress(b"4" + bytes(999_999)) + gzip.compress(bytes(1_000_000)) * 99
        status, _, answer = server.http().request(
            "POST",
            f"{QUERY}&sid={sid}",
            f"Content-Encoding: {encoding}",
            f"Content-Length: {len(body)}",
            body=body,
        )
        assert status == 415
        assert b"Content-Encoding is not supported" in answer
        assert server.receiver.wait_closed() == "parse error"
        assert server.receiver.messages == []
        assert not server.engine.sessions

    @pytest.mark.parametrize("encoding", ["identity", "Identity ", ""])
    def test_post_with_identity_encoding_is_delivered(self, server: Running, encoding: str) -> None:
        sid = server.polling().sid
        status, _, _ = server.http().request(
            "POST",
            f"{QUERY}&sid={sid}",
            f"Content-Encoding: {encoding}",
            "Content-Length: 2",
            body=b"4a",
        )
        assert status == 200
        assert server.receiver.messages == ["a"]
