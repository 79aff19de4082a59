"""Tests of Engine.IO requests: query string, body, and error responses."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from webpy_socketio.engine.engineio.requests import (
    Query,
    RequestError,
    Response,
    read_post_body,
    read_query,
)
from webpy_socketio.exceptions import MessageTooBig, ProtocolError

BOTH = ("polling", "websocket")


def rejection(query: str, transports: tuple[str, ...] = BOTH) -> tuple[int, str]:
    """Return the error code and message with which `query` is rejected."""
    with pytest.raises(RequestError) as caught:
        read_query({"QUERY_STRING": query}, transports)
    response = caught.value.response
    assert response.status == "400 Bad Request"
    assert response.content_type == "application/json"
    content = orjson.loads(response.body)
    assert set(content) == {"code", "message"}
    return content["code"], content["message"]


class TestQuery:
    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("EIO=4&transport=polling", Query("polling", None)),
            ("EIO=4&transport=polling&t=abc123&sid=xyz", Query("polling", "xyz")),
            ("transport=websocket&EIO=4", Query("websocket", None)),
            ("EIO=4&transport=polling&token=a&token=b", Query("polling", None)),
            ("EIO=4&transport=polling&sid=", Query("polling", "")),
        ],
    )
    def test_read_query_of_a_stock_client_returns_query(self, text: str, query: Query) -> None:
        assert read_query({"QUERY_STRING": text}, BOTH) == query

    @pytest.mark.parametrize("version", ["1", "2", "3"])
    def test_read_query_old_version_raises_with_remedy(self, version: str) -> None:
        code, message = rejection(f"EIO={version}&transport=polling")
        assert code == 5
        assert "Engine.IO protocol 4" in message
        assert "socket.io-client" in message

    def test_read_query_jsonp_raises_with_remedy(self) -> None:
        code, message = rejection("EIO=4&transport=polling&j=0")
        assert code == 3
        assert "JSONP" in message
        assert "socket.io-client" in message

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("", 5),
            ("transport=polling", 5),
            ("EIO=&transport=polling", 5),
            ("EIO=5&transport=polling", 5),
            ("EIO=04&transport=polling", 5),
            ("EIO=4", 0),
            ("EIO=4&transport=", 0),
            ("EIO=4&transport=__proto__", 0),
            ("EIO=4&transport=flashsocket", 0),
            ("EIO=4&transport=Polling", 0),
            ("EIO=4&EIO=4&transport=polling", 3),
            ("EIO=4&transport=polling&transport=websocket", 3),
            ("EIO=4&transport=polling&sid=a&sid=b", 3),
            ("EIO=4&transport=polling&x=" + "y" * 5000, 3),
        ],
        ids=lambda value: value[:60] if isinstance(value, str) else "",
    )
    def test_read_query_invalid_raises_with_code(self, query: str, code: int) -> None:
        assert rejection(query)[0] == code

    def test_read_query_disabled_transport_raises_unknown(self) -> None:
        assert rejection("EIO=4&transport=polling", ("websocket",))[0] == 0
        assert rejection("EIO=4&transport=websocket", ("polling",))[0] == 0

    @pytest.mark.parametrize(
        "query",
        [
            "EIO=REFLECT",
            "EIO=4&transport=REFLECT",
            "EIO=4&transport=polling&j=REFLECT",
            "EIO=4&transport=polling&sid=REFLECT&sid=REFLECT",
            "EIO=4&REFLECT=%0d%0aREFLECT",
        ],
    )
    def test_request_error_never_contains_request_text(self, query: str) -> None:
        assert "REFLECT" not in rejection(query)[1]


def body_environ(body: bytes, length: str | None) -> dict[str, Any]:
    environ: dict[str, Any] = {"wsgi.input": io.BytesIO(body)}
    if length is not None:
        environ["CONTENT_LENGTH"] = length
    return environ


class TestBody:
    @pytest.mark.parametrize("length", ["3", "", None])
    def test_read_post_body_returns_body(self, length: str | None) -> None:
        assert read_post_body(body_environ(b"4hi", length), 10) == b"4hi"

    def test_read_post_body_of_the_maximum_size_returns_body(self) -> None:
        assert read_post_body(body_environ(b"x" * 10, "10"), 10) == b"x" * 10

    @pytest.mark.parametrize("length", ["11", "99999999999999999999", "9" * 5000])
    def test_read_post_body_declared_above_the_limit_reads_nothing(self, length: str) -> None:
        environ = body_environ(b"x" * 100, length)
        with pytest.raises(MessageTooBig):
            read_post_body(environ, 10)
        assert environ["wsgi.input"].tell() == 0

    def test_read_post_body_above_the_limit_reads_one_byte_more(self) -> None:
        environ = body_environ(b"x" * 100, None)
        with pytest.raises(MessageTooBig):
            read_post_body(environ, 10)
        assert environ["wsgi.input"].tell() == 11

    @pytest.mark.parametrize("length", ["+3", "1_0", "-1", " 3", "3.0", "0x3", "٣", "three"])
    def test_read_post_body_malformed_length_raises_protocol_error(self, length: str) -> None:
        environ = body_environ(b"4hi", length)
        with pytest.raises(ProtocolError):
            read_post_body(environ, 10)
        assert environ["wsgi.input"].tell() == 0


class TestResponse:
    def test_response_headers_forbid_storing_and_sniffing(self) -> None:
        headers = dict(Response("200 OK", b"ok", headers=[("X-More", "1")]).all_headers())
        assert headers == {
            "Content-Type": "text/plain; charset=UTF-8",
            "Content-Length": "2",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-More": "1",
        }

    def test_request_error_with_close_closes_the_connection(self) -> None:
        response = RequestError(3, "too much", "413 Payload Too Large", close=True).response
        assert response.status == "413 Payload Too Large"
        assert response.close
        assert response.body == b'{"code":3,"message":"too much"}'
