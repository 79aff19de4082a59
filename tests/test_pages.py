"""Pages of a web.py application on `SocketIOServer`, byte by byte."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import web

from .conftest import Site
from .engine.conftest import Http


@pytest.fixture
def get(serve: Callable[..., Site]) -> Callable[..., Any]:
    """Serve a function as a page and return an answer: ``get(function, version)``.

    A second page is requested behind it on the same connection: all that comes until the server
    closes is the answer.
    """

    def request(function: Callable[[], Any], version: str = "1.1", method: str = "GET") -> bytes:
        class Page:
            def GET(self) -> Any:
                return function()

        class Next:
            def GET(self) -> str:
                return "next"

        site = serve(("/page", "Page", "/next", "Next"), {"Page": Page, "Next": Next})
        client = Http(site.port)
        client.sock.sendall(
            f"{method} /page HTTP/{version}\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
            "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
        )
        return client.read_to_end()

    return request


def fail(error: Callable[[], Exception]) -> Callable[[], Any]:
    def page() -> Any:
        raise error()

    return page


class TestStatuses:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (web.nocontent, b"204 No Content"),
            (web.notmodified, b"304 Not Modified"),
        ],
    )
    def test_status_without_body_has_none(
        self, error: Any, status: bytes, method: str, get: Callable[..., bytes]
    ) -> None:
        answer = get(fail(error), method=method)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert b"Transfer-Encoding" not in head
        assert b"Content-Length" not in head
        assert rest.startswith(b"HTTP/1.1 200 OK")
        assert b"next" in rest

    @pytest.mark.parametrize("error", [web.created, web.accepted, web.gone])
    def test_status_with_body_keeps_it(self, error: Any, get: Callable[..., bytes]) -> None:
        answer = get(fail(error))
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"0\r\n\r\nHTTP/1.1 200 OK" in answer


class TestFraming:
    def test_page_for_http_1_0_keep_alive_ends_with_the_connection(
        self, get: Callable[..., bytes]
    ) -> None:
        head, _, body = get(lambda: "text", "1.0").partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert body == b"text"

    def test_page_with_its_length_keeps_an_http_1_0_connection(
        self, get: Callable[..., bytes]
    ) -> None:
        def page() -> str:
            web.header("Content-Length", "4")
            return "text"

        head, _, rest = get(page, "1.0").partition(b"\r\n\r\n")
        assert b"Connection: keep-alive" in head
        assert rest.startswith(b"textHTTP/1.1 200 OK")

    @pytest.mark.parametrize(("length", "body"), [("2", b"te"), ("9", b"text")])
    def test_page_of_another_length_closes_the_connection(
        self, length: str, body: bytes, get: Callable[..., bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        def page() -> str:
            web.header("Content-Length", length)
            return "text"

        assert get(page).partition(b"\r\n\r\n")[2] == body
        assert "GET /page HTTP/1.1: the body is" in caplog.text


class TestInjection:
    @pytest.mark.parametrize("text", ["a\r\nX-Injected: b", "a\nX-Injected: b", "a\0b"])
    @pytest.mark.parametrize("where", ["header", "name", "status"])
    def test_control_character_in_a_head_is_answered_with_500(
        self,
        text: str,
        where: str,
        get: Callable[..., bytes],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def page() -> str:
            if where == "header":
                web.ctx.headers.append(("X-Name", text))
            elif where == "name":
                web.ctx.headers.append((text, "a"))
            else:
                web.ctx.status = f"200 {text}"
            return "text"

        answer = get(page)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"X-Injected" not in answer
        assert [each.levelno for each in caplog.records].count(logging.ERROR) == 1
