"""What an Engine.IO request may say, and what it is told if it says else."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from webpy_socketio.engine.engineio.requests import (
    Query,
    RequestError,
    Response,
    read_body,
    read_query,
)
from webpy_socketio.exceptions import MessageTooBig, ProtocolError

BOTH = ("polling", "websocket")


def refusal(query: str, transports: tuple[str, ...] = BOTH) -> tuple[int, str]:
    """The code and the message that `query` is refused with."""
    with pytest.raises(RequestError) as caught:
        read_query({"QUERY_STRING": query}, transports)
    response = caught.value.response
    assert response.status == "400 Bad Request"
    assert response.content_type == "application/json"
    told = orjson.loads(response.body)
    assert set(told) == {"code", "message"}
    return told["code"], told["message"]


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
    def test_the_stock_clients_are_understood(self, text: str, query: Query) -> None:
        assert read_query({"QUERY_STRING": text}, BOTH) == query

    @pytest.mark.parametrize("version", ["1", "2", "3"])
    def test_an_old_client_is_told_what_to_use(self, version: str) -> None:
        code, message = refusal(f"EIO={version}&transport=polling")
        assert code == 5
        assert "Engine.IO protocol 4" in message
        assert "socket.io-client" in message

    def test_a_jsonp_client_is_told_what_to_use(self) -> None:
        code, message = refusal("EIO=4&transport=polling&j=0")
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
    def test_others_are_refused_with_the_references_codes(self, query: str, code: int) -> None:
        assert refusal(query)[0] == code

    def test_a_transport_that_is_switched_off_is_unknown(self) -> None:
        assert refusal("EIO=4&transport=polling", ("websocket",))[0] == 0
        assert refusal("EIO=4&transport=websocket", ("polling",))[0] == 0

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
    def test_nothing_of_a_request_is_reflected(self, query: str) -> None:
        assert "REFLECT" not in refusal(query)[1]


def body_environ(body: bytes, length: str | None) -> dict[str, Any]:
    environ: dict[str, Any] = {"wsgi.input": io.BytesIO(body)}
    if length is not None:
        environ["CONTENT_LENGTH"] = length
    return environ


class TestBody:
    @pytest.mark.parametrize("length", ["3", "", None])
    def test_it_is_read(self, length: str | None) -> None:
        assert read_body(body_environ(b"4hi", length), 10) == b"4hi"

    def test_the_limit_itself_is_allowed(self) -> None:
        assert read_body(body_environ(b"x" * 10, "10"), 10) == b"x" * 10

    @pytest.mark.parametrize("length", ["11", "99999999999999999999", "9" * 5000])
    def test_one_that_says_it_is_too_long_is_not_read(self, length: str) -> None:
        environ = body_environ(b"x" * 100, length)
        with pytest.raises(MessageTooBig):
            read_body(environ, 10)
        assert environ["wsgi.input"].tell() == 0

    def test_one_that_turns_out_too_long_is_read_no_further(self) -> None:
        environ = body_environ(b"x" * 100, None)
        with pytest.raises(MessageTooBig):
            read_body(environ, 10)
        assert environ["wsgi.input"].tell() == 11

    @pytest.mark.parametrize("length", ["+3", "1_0", "-1", " 3", "3.0", "0x3", "٣", "three"])
    def test_a_length_that_is_no_number_is_refused(self, length: str) -> None:
        environ = body_environ(b"4hi", length)
        with pytest.raises(ProtocolError):
            read_body(environ, 10)
        assert environ["wsgi.input"].tell() == 0


class TestResponse:
    def test_it_is_not_to_be_stored_or_guessed_at(self) -> None:
        headers = dict(Response("200 OK", b"ok", headers=[("X-More", "1")]).all_headers())
        assert headers == {
            "Content-Type": "text/plain; charset=UTF-8",
            "Content-Length": "2",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-More": "1",
        }

    def test_an_error_may_end_the_connection(self) -> None:
        response = RequestError(3, "too much", "413 Payload Too Large", close=True).response
        assert response.status == "413 Payload Too Large"
        assert response.close
        assert response.body == b'{"code":3,"message":"too much"}'
