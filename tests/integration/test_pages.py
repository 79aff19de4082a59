"""Pages of a web.py application on `SocketIOServer`, byte by byte."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import web

from tests.conftest import Site
from tests.engines import Http


@pytest.fixture
def get(serve: Callable[..., Site]) -> Callable[..., Any]:
    """Serve a function as a page and return the response bytes: ``get(function, version)``.

    A second page is requested on the same connection; everything until the server closes is
    returned.
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
    def test_page_without_length_for_http_1_0_closes_the_connection(
        self, get: Callable[..., bytes]
    ) -> None:
        head, _, body = get(lambda: "text", "1.0").partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert body == b"text"

    def test_page_with_length_keeps_the_http_1_0_connection(
        self, get: Callable[..., bytes]
    ) -> None:
        def page() -> str:
            web.header("Content-Length", "4")
            return "text"

        head, _, rest = get(page, "1.0").partition(b"\r\n\r\n")
        assert b"Connection: keep-alive" in head
        assert rest.startswith(b"textHTTP/1.1 200 OK")

    @pytest.mark.parametrize(("length", "body"), [("2", b"te"), ("9", b"text")])
    def test_page_with_wrong_length_closes_the_connection(
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
    def test_control_character_in_headers_returns_500(
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


quoted = pytest.mark.quoted


class TestMessages:
    """Log lines that docs/reference/troubleshooting.rst explains."""

    @pytest.fixture
    def logged(
        self,
        get: Callable[..., bytes],
        caplog: pytest.LogCaptureFixture,
        match_quote: Callable[[str], None],
    ) -> Callable[[Callable[[], Any]], None]:
        def check(page: Callable[[], Any]) -> None:
            get(page)
            match_quote(caplog.text)

        return check

    @quoted("the body is … bytes shorter than its Content-Length")
    def test_shorter_body_is_logged(self, logged: Callable[..., None]) -> None:
        logged(lambda: web.header("Content-Length", "9"))

    @quoted("the body is at least … bytes longer than its Content-Length")
    def test_longer_body_is_logged(self, logged: Callable[..., None]) -> None:
        logged(lambda: web.header("Content-Length", "1"))

    @quoted("invalid response status …")
    def test_status_without_number_is_logged(self, logged: Callable[..., None]) -> None:
        logged(lambda: setattr(web.ctx, "status", "OK"))

    @quoted("invalid value … of header …")
    def test_line_break_in_a_header_is_logged(self, logged: Callable[..., None]) -> None:
        logged(lambda: web.ctx.headers.append(("X-Name", "a\nb")))

    @quoted("the application set Transfer-Encoding …")
    def test_transfer_encoding_is_logged(self, logged: Callable[..., None]) -> None:
        logged(lambda: web.header("Transfer-Encoding", "chunked"))

    @quoted("the body cannot be stored in a temporary file")
    def test_body_that_cannot_be_stored_is_logged(
        self,
        site: Site,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        match_quote: Callable[[str], None],
    ) -> None:
        body = b"x" * 400_000
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
            answer = Http(site.port).request("POST", "/", f"Content-Length: {len(body)}", body=body)
        assert answer[0] == 503
        match_quote(caplog.text)

    @quoted("the access log cannot be written")
    def test_access_log_that_is_closed_is_logged(
        self,
        serve: Callable[..., Site],
        caplog: pytest.LogCaptureFixture,
        match_quote: Callable[[str], None],
    ) -> None:
        log = io.StringIO()
        site = serve(log=log)
        log.close()
        assert Http(site.port).request("GET", "/")[0] == 404
        match_quote(caplog.text)
