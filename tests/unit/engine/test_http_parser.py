"""The HTTP parser: ambiguous requests are rejected."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webpy_socketio.engine.http.parser import (
    BadRequest,
    Truncated,
    parse_head,
    read_body,
    read_head,
)


def head(*lines: str, first: str = "GET / HTTP/1.1") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


def body(data: bytes, length: int | None, limit: int = 100) -> bytes:
    into = io.BytesIO()
    size = read_body(io.BytesIO(data), length, limit, into, lambda size: None)
    assert size == len(into.getvalue())
    return into.getvalue()


class TestReadHead:
    def test_head_ends_with_the_empty_line(self) -> None:
        file = io.BytesIO(head("Host: a") + b"body")
        assert read_head(file) == head("Host: a")
        assert file.read() == b"body"

    def test_read_head_at_end_of_file_returns_empty_bytes(self) -> None:
        assert read_head(io.BytesIO()) == b""

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", "414"),
            (head(*[f"H{i}: x" for i in range(200)]), "431"),
            (head("H: " + "x" * 70_000), "431"),
            (b"GET / HTTP/1.1\nHost: a\n\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a", "400"),
        ],
        ids=["line", "many", "long", "bare LF", "end in the middle"],
    )
    def test_read_head_of_invalid_data_raises(self, data: bytes, status: str) -> None:
        with pytest.raises(BadRequest) as caught:
            read_head(io.BytesIO(data))
        assert caught.value.status.startswith(status)


class TestParseHead:
    def test_parse_head_returns_method_target_and_headers(self) -> None:
        parsed = parse_head(
            head("Host: a:80", "X-Y:  z ", "Content-Length: 5", first="POST /p?q HTTP/1.1")
        )
        assert (parsed.method, parsed.target, parsed.version) == ("POST", "/p?q", "1.1")
        assert parsed.headers == [("Host", "a:80"), ("X-Y", "z"), ("Content-Length", "5")]
        assert (parsed.length, parsed.close, parsed.has_body) == (5, False, True)

    def test_chunked_request_has_no_length(self) -> None:
        parsed = parse_head(head("Host: a", "Transfer-Encoding: Chunked"))
        assert parsed.length is None
        assert parsed.has_body

    @pytest.mark.parametrize(
        ("first", "lines", "close"),
        [
            ("GET / HTTP/1.1", ["Host: a", "Connection: keep-alive, Close"], True),
            ("GET / HTTP/1.0", [], True),
            ("GET / HTTP/1.0", ["Connection: Keep-Alive"], False),
        ],
    )
    def test_close_follows_version_and_connection_header(
        self, first: str, lines: list[str], close: bool
    ) -> None:
        assert parse_head(head(*lines, first=first)).close is close

    def test_repeated_headers_are_not_parsed_again(self) -> None:
        lines = ("Host: a", "Content-Length: 5")
        before = parse_head(head(*lines, first="POST /p HTTP/1.1"))
        again = parse_head(head(*lines, first="PUT /q HTTP/1.1"), before)
        assert again == parse_head(head(*lines, first="PUT /q HTTP/1.1"))
        assert again.headers is before.headers

    @pytest.mark.parametrize(
        ("first", "lines"),
        [
            ("GET /q HTTP/1.1", ["Host: a", "Content-Length: 6"]),
            ("GET /q HTTP/1.0", ["Host: a", "Content-Length: 5"]),
            ("GET http://a/q HTTP/1.1", ["Host: a", "Content-Length: 5"]),
            ("GET /q HTTP/1.1", ["Host: a"]),
        ],
    )
    def test_different_headers_are_parsed_again(self, first: str, lines: list[str]) -> None:
        before = parse_head(head("Host: a", "Content-Length: 5", first="GET /p HTTP/1.1"))
        assert parse_head(head(*lines, first=first), before) == parse_head(
            head(*lines, first=first)
        )

    @pytest.mark.parametrize(
        "first",
        ["GET http://b/q HTTP/1.1", "GET q HTTP/1.1", "GET /q  HTTP/1.1", "GET /q HTTP/1.2"],
    )
    def test_bad_request_line_with_repeated_headers_raises(self, first: str) -> None:
        before = parse_head(head("Host: a"))
        with pytest.raises(BadRequest):
            parse_head(head("Host: a", first=first), before)

    def test_absolute_target_is_reduced_to_its_path(self) -> None:
        assert parse_head(head("Host: a", first="GET http://a/b?c HTTP/1.1")).target == "/b?c"
        assert parse_head(head("Host: a", first="GET http://a?c HTTP/1.1")).target == "/?c"

    @pytest.mark.parametrize(
        "first",
        [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/2.0",
            "GET / HTTP/1.10",
            "G(T / HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /\x00 HTTP/1.1",
            "GET a HTTP/1.1",
            "GET * HTTP/1.1",
            "CONNECT a:80 HTTP/1.1",
            "",
        ],
    )
    def test_bad_request_line_raises(self, first: str) -> None:
        with pytest.raises(BadRequest):
            parse_head(head("Host: a", first=first))

    @pytest.mark.parametrize(
        "lines",
        [
            ["Host: a", "Host: a"],
            [],
            ["Host: a/b"],
            ["Host: a b"],
            ["Host: a", "Content-Length: 5", "Transfer-Encoding: chunked"],
            ["Host: a", "Content-Length: 5", "Content-Length: 6"],
            ["Host: a", "Content-Length: 5", "Content-Length: 5"],
            ["Host: a", "Content-Length: 5, 5"],
            ["Host: a", "Content-Length: +5"],
            ["Host: a", "Content-Length: -5"],
            ["Host: a", "Content-Length: 1_0"],
            ["Host: a", "Content-Length: 0x5"],
            ["Host: a", "Content-Length: "],
            ["Host: a", "Content-Length: \xb2"],
            ["Host: a", "Transfer-Encoding: xchunked"],
            ["Host: a", "Transfer-Encoding: gzip, chunked"],
            ["Host: a", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            ["Host: a", "Transfer-Encoding : chunked"],
            ["Host: a", " folded: x"],
            ["Host: a", "no colon"],
            ["Host: a", "X: a\x00b"],
            ["Host: a", "X: a\rb"],
            ["Host: a", ": x"],
            ["Host: a", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 3"],
            ["Host: a", "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked"],
            ["Host: a", "Expect: 200-ok"],
        ],
    )
    def test_bad_headers_raise(self, lines: list[str]) -> None:
        with pytest.raises(BadRequest):
            parse_head(head(*lines))

    def test_body_with_connection_upgrade_but_no_protocol_closes(self) -> None:
        parsed = parse_head(head("Host: a", "Connection: upgrade", "Content-Length: 3"))
        assert (parsed.length, parsed.close, parsed.suspicious) == (3, True, True)

    def test_transfer_encoding_in_http_1_0_raises(self) -> None:
        with pytest.raises(BadRequest):
            parse_head(head("Transfer-Encoding: chunked", first="POST / HTTP/1.0"))

    def test_huge_content_length_is_accepted_as_large(self) -> None:
        assert parse_head(head("Host: a", "Content-Length: " + "9" * 20)).length == 10**18

    @given(st.binary(max_size=200))
    def test_parse_head_of_random_data_raises_only_bad_request(self, data: bytes) -> None:
        try:
            parsed = parse_head(data + b"\r\n\r\n")
        except BadRequest:
            return
        assert parsed.target.startswith(("/", "*"))


class TestReadBody:
    def test_read_body_with_content_length(self) -> None:
        assert body(b"helloGET /", 5) == b"hello"

    def test_read_body_in_chunks(self) -> None:
        assert body(b"3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\n\r\nGET /", None) == b"hello"

    @pytest.mark.parametrize(
        "data",
        [
            b"FFFFFFFFFFFFFFFF\r\nx",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"-1\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\n0\n\n",
            b"5\r\nhello!\r\n0\r\n\r\n",
            b"0\r\nGET /x HTTP/1.1\r\n",
            b"0\r\nTrailer: x\r\n\r\n",
            b"\r\n",
            b"g\r\n",
            b"11111111111111111\r\n",
            b"5;\x00\r\nhello\r\n0\r\n\r\n",
            b"1;" + b"x" * 1000 + b"\r\na\r\n" + (b"1;" + b"x" * 1000 + b"\r\na\r\n") * 30,
        ],
    )
    def test_read_body_with_bad_chunks_raises(self, data: bytes) -> None:
        with pytest.raises(BadRequest):
            body(data, None)

    @pytest.mark.parametrize(
        ("data", "length"), [(b"x" * 101, 101), (b"65\r\n" + b"x" * 101, None)]
    )
    def test_read_body_above_the_limit_raises(self, data: bytes, length: int | None) -> None:
        file = io.BytesIO(data)
        with pytest.raises(BadRequest, match="exceeds 100 bytes") as caught:
            read_body(file, length, 100, io.BytesIO(), lambda size: None)
        assert caught.value.status.startswith("413")
        assert len(file.read()) == 101  # none of it was read

    @pytest.mark.parametrize(
        ("data", "length"),
        [(b"1234", 5), (b"5\r\n1234", None), (b"5\r\n12345\r\n", None), (b"", None)],
    )
    def test_read_body_at_early_end_raises(self, data: bytes, length: int | None) -> None:
        with pytest.raises(Truncated):
            body(data, length)
