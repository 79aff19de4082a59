"""Responses of an application: each is framed correctly, or its connection is closed."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import raw
from tests.engines import Http, Running
from webpy_socketio.engine.http.framing import ResponseError, check_head

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

#: A second request on the same connection; it ends the connection.
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Pages:
    """A WSGI application whose page is `page`; every other path answers ``next``."""

    def __init__(self, page: Application) -> None:
        self.page = page

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/page":
            return self.page(environ, start_response)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"next"]


class Client:
    """A connection that returns the raw bytes of responses."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.OPENED.append(self.sock)

    def exchange(
        self, method: str = "GET", version: str = "1.1", connection: str = "keep-alive"
    ) -> bytes:
        """Request the page and pipeline a second request; return all until the server closes."""
        self.sock.sendall(
            f"{method} /page HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n".encode()
            + NEXT
        )
        return self.read_to_end()

    def read_to_end(self) -> bytes:
        received = b""
        while True:
            try:
                data = self.sock.recv(65_536)
            except ConnectionResetError:
                return received
            if not data:
                return received
            received += data


@pytest.fixture
def serve_page(run: Callable[..., Running]) -> Callable[..., Client]:
    """Serve a page and return a client: ``serve_page(application, **config)``."""

    def start(page: Application, **config: Any) -> Client:
        return Client(run(None, Pages(page), **config).port)

    return start


def respond(
    *headers: tuple[str, str], status: str = "200 OK", body: Any = ()
) -> Callable[..., Any]:
    """Return a page with these headers, whose body is ``body()`` or ``body``."""

    def page(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return body() if callable(body) else body

    return page


def blocks() -> Iterator[bytes]:
    yield b"one"
    yield b""
    yield b"two"


class TestUnknownLength:
    def test_http_1_0_keep_alive_response_ends_with_its_connection(
        self, serve_page: Callable[..., Client]
    ) -> None:
        answer = serve_page(respond(body=blocks)).exchange(version="1.0")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert body == b"onetwo"
        assert b"Connection: close" in head
        assert b"keep-alive" not in head
        assert b"Transfer-Encoding" not in head

    def test_http_1_0_response_of_known_length_keeps_the_connection(
        self, serve_page: Callable[..., Client]
    ) -> None:
        answer = serve_page(respond(body=[b"one", b"two"])).exchange(version="1.0")
        head = answer.partition(b"\r\n\r\n")[0]
        assert b"Content-Length: 6" in head
        assert b"Connection: keep-alive" in head
        assert answer.endswith(b"next")

    def test_http_1_1_response_is_chunked(self, serve_page: Callable[..., Client]) -> None:
        answer = serve_page(respond(body=blocks)).exchange()
        assert b"Transfer-Encoding: chunked" in answer
        assert b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 200 OK" in answer
        assert answer.endswith(b"next")

    def test_large_block_is_chunked_whole(self, serve_page: Callable[..., Client]) -> None:
        data = bytes(range(256)) * 1000
        client = serve_page(respond(body=lambda: iter([data])))
        answer = client.exchange()
        assert b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) in answer

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_write_callable_is_framed(
        self, version: str, serve_page: Callable[..., Client]
    ) -> None:
        def page(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            write = start_response("200 OK", [])
            write(b"one")
            write(b"two")
            return [b"three"]

        answer = serve_page(page).exchange(version=version)
        if version == "1.0":
            assert answer.endswith(b"\r\n\r\nonetwothree")
            assert b"Connection: close" in answer
        else:
            assert b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\nHTTP/1.1 200" in answer

    def test_page_that_fails_in_the_middle_is_cut_off(
        self, serve_page: Callable[..., Client], capfd: pytest.CaptureFixture[str]
    ) -> None:
        def failing() -> Iterator[bytes]:
            yield b"one"
            raise RuntimeError("in the middle")

        answer = serve_page(respond(body=failing)).exchange()
        assert answer.endswith(b"\r\n\r\n3\r\none\r\n")  # without the last chunk
        assert "in the middle" in capfd.readouterr().err

    def test_file_wrapper_is_framed(
        self, serve_page: Callable[..., Client], tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 200_000)

        def page(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [])
            return environ["wsgi.file_wrapper"](path.open("rb"))

        answer = serve_page(page).exchange(version="1.0")
        assert answer.endswith(b"\r\n\r\n" + b"x" * 200_000)


class TestBodyless:
    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize("body", [[b"text"], blocks, []])
    def test_status_without_body_drops_the_body(
        self, status: str, version: str, body: Any, serve_page: Callable[..., Client]
    ) -> None:
        answer = serve_page(respond(status=status, body=body)).exchange(version=version)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status.encode())
        assert b"Content-Length" not in head
        assert b"Transfer-Encoding" not in head
        assert rest.startswith(b"HTTP/1.1 200 OK")

    def test_204_has_no_content_length(self, serve_page: Callable[..., Client]) -> None:
        page = respond(("Content-Length", "4"), status="204 No Content", body=[b"text"])
        head = serve_page(page).exchange().partition(b"\r\n\r\n")[0]
        assert b"Content-Length" not in head

    def test_304_keeps_the_length_that_get_would_have(
        self, serve_page: Callable[..., Client]
    ) -> None:
        page = respond(("Content-Length", "4"), status="304 Not Modified")
        head, _, rest = serve_page(page).exchange().partition(b"\r\n\r\n")
        assert b"Content-Length: 4" in head
        assert rest.startswith(b"HTTP/1.1 200 OK")

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize(
        "page",
        [
            respond(body=blocks),
            respond(body=[b"text"]),
            respond(("Content-Length", "4")),
            respond(("Content-Length", "4"), body=[b"text"]),
        ],
    )
    def test_head_has_no_body(
        self, version: str, page: Any, serve_page: Callable[..., Client]
    ) -> None:
        answer = serve_page(page).exchange("HEAD", version)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert rest.startswith(b"HTTP/1.1 200 OK")

    @pytest.mark.parametrize("status", ["100 Continue", "101 Switching Protocols", "103 Hints"])
    def test_interim_status_of_an_application_is_an_error(
        self, status: str, serve_page: Callable[..., Client], caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = serve_page(respond(status=status)).exchange()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert "GET /page HTTP/1.1: invalid response status" in caplog.text


class TestContentLength:
    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize("body", [[b"ab"], lambda: iter([b"a", b"b"]), []])
    def test_shorter_body_closes_the_connection_after_it(
        self,
        version: str,
        body: Any,
        serve_page: Callable[..., Client],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        answer = serve_page(respond(("Content-Length", "10"), body=body)).exchange(version=version)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.endswith(b"\r\n\r\nab" if body != [] else b"\r\n\r\n")
        assert f"GET /page HTTP/{version}: the body is" in caplog.text
        assert "shorter than its Content-Length" in caplog.text

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize(
        "body",
        [[b"abcdef"], [b"ab", b"cd", b"ef"], lambda: iter([b"abcd", b"ef"]), [b"abcd" + NEXT]],
    )
    def test_longer_body_is_cut_and_closes_the_connection(
        self,
        version: str,
        body: Any,
        serve_page: Callable[..., Client],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        answer = serve_page(respond(("Content-Length", "4"), body=body)).exchange(version=version)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.endswith(b"\r\n\r\nabcd")
        (record,) = [each for each in caplog.records if "longer" in each.getMessage()]
        assert record.levelno == logging.ERROR
        assert "GET /page" in record.getMessage()

    def test_longer_body_stops_an_endless_page(self, serve_page: Callable[..., Client]) -> None:
        closed = []

        def endless() -> Iterator[bytes]:
            try:
                while True:
                    yield b"abc"
            finally:
                closed.append(True)

        answer = serve_page(respond(("Content-Length", "4"), body=endless)).exchange()
        assert answer.endswith(b"\r\n\r\nabca")
        assert closed == [True]

    def test_write_callable_beyond_the_length_raises(
        self, serve_page: Callable[..., Client], caplog: pytest.LogCaptureFixture
    ) -> None:
        def page(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            write = start_response("200 OK", [("Content-Length", "4")])
            write(b"abc")
            with pytest.raises(ResponseError):
                write(b"def")
            return []

        answer = serve_page(page).exchange()
        assert answer.endswith(b"\r\n\r\nabcd")

    @pytest.mark.parametrize("declared", [5, 500_000])
    def test_file_wrapper_of_another_length_closes_the_connection(
        self, declared: int, serve_page: Callable[..., Client], tmp_path: Path
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 200_000)

        def page(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [("Content-Length", str(declared))])
            return environ["wsgi.file_wrapper"](path.open("rb"), 8192)

        answer = serve_page(page).exchange()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.endswith(b"\r\n\r\n" + b"x" * min(declared, 200_000))

    def test_exact_body_keeps_the_connection(self, serve_page: Callable[..., Client]) -> None:
        page = respond(("Content-Length", "4"), body=[b"ab", b"cd"])
        answer = serve_page(page).exchange()
        assert answer.endswith(b"next")
        assert b"\r\n\r\nabcdHTTP/1.1 200 OK" in answer


class TestInvalidHeads:
    @pytest.mark.parametrize(
        ("page", "cause"),
        [
            (respond(("Content-Length", "4"), ("content-length", "4")), "Content-Length"),
            (respond(("Content-Length", "four")), "Content-Length 'four'"),
            (respond(("Content-Length", "-4")), "Content-Length '-4'"),
            (respond(("Content-Length", "")), "Content-Length ''"),
            (respond(("Content-Length", "4, 4")), "Content-Length '4, 4'"),
            (respond(("Content-Length", "\xb2")), "Content-Length"),
            (respond(("Transfer-Encoding", "chunked"), body=blocks), "Transfer-Encoding"),
            (respond(("X-Name", "a\r\nSet-Cookie: b=c")), "header X-Name"),
            (respond(("X-Name", "a\nb")), "header X-Name"),
            (respond(("X-Name", "a\rb")), "header X-Name"),
            (respond(("X-Name", "a\0b")), "header X-Name"),
            (respond(("X-Name", "\u20ac")), "header X-Name"),
            (respond(("X-Name", 4)), "must be str"),  # type: ignore[arg-type]
            (respond(("X-Name\r\nX-Other", "a")), "header name"),
            (respond(("X-Name: a", "a")), "header name"),
            (respond(("", "a")), "header name"),
            (respond(status="200 OK\r\nX-Name: a"), "status"),
            (respond(status="200 OK\n\nbody"), "status"),
            (respond(status="OK"), "status"),
            (respond(status=200), "status"),  # type: ignore[arg-type]
            (lambda environ, start_response: [b"text"], "start_response"),
            (lambda environ, start_response: [], "start_response"),
            (respond(body=["text"]), "str where WSGI requires bytes"),
            (respond(body=lambda: iter(["text"])), "str where WSGI requires bytes"),
            (respond(body="text"), "str where WSGI requires bytes"),
        ],
    )
    def test_invalid_response_is_answered_with_500_and_logged(
        self,
        page: Any,
        cause: str,
        serve_page: Callable[..., Client],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        answer = serve_page(page).exchange()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 500 Internal Server Error")
        assert b"Connection: close" in head
        assert body == b"Internal Server Error"
        assert b"Set-Cookie" not in answer
        (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert record.getMessage().startswith("GET /page HTTP/1.1: ")
        assert cause in record.getMessage()
        assert "\n" not in record.getMessage()

    def test_application_that_raises_broken_pipe_is_answered_with_500(
        self, serve_page: Callable[..., Client], capfd: pytest.CaptureFixture[str]
    ) -> None:
        """pywsgi would interpret this error of the page as a disconnect of the client."""

        def page(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            raise BrokenPipeError(32, "the page's own")

        assert serve_page(page).exchange().startswith(b"HTTP/1.1 500 ")
        assert "the page's own" in capfd.readouterr().err

    def test_start_response_after_the_body_has_begun_raises(
        self, serve_page: Callable[..., Client], caplog: pytest.LogCaptureFixture
    ) -> None:
        def page(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [])
            yield b"one"
            start_response("500 Error", [])

        answer = serve_page(page).exchange()
        assert answer.endswith(b"3\r\none\r\n")
        assert "start_response was called after the body had begun" in caplog.text

    def test_exc_info_replaces_a_head_that_was_not_sent(
        self, serve_page: Callable[..., Client]
    ) -> None:
        def page(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [("Content-Length", "100")])
            try:
                raise RuntimeError
            except RuntimeError as error:
                start_response("503 Busy", [], (RuntimeError, error, error.__traceback__))
            return [b"busy"]

        answer = serve_page(page).exchange()
        assert answer.startswith(b"HTTP/1.1 503 Busy\r\n")
        assert answer.endswith(b"next")

    def test_connection_close_of_the_application_closes(
        self, serve_page: Callable[..., Client]
    ) -> None:
        answer = serve_page(respond(("Connection", "Close"), body=[b"text"])).exchange()
        assert answer.lower().count(b"connection: close") == 1
        assert answer.endswith(b"\r\n\r\ntext")

    def test_keep_alive_header_of_the_application_is_replaced_by_the_servers(
        self, serve_page: Callable[..., Client]
    ) -> None:
        page = respond(("Connection", "keep-alive"), body=[b"text"])
        answer = serve_page(page).exchange(connection="close")
        assert b"keep-alive" not in answer
        assert b"Connection: close" in answer


class TestCheckHead:
    def test_status_without_reason_gets_the_usual_one(self) -> None:
        assert check_head("404", []).status == b"404 Not Found"

    def test_date_of_the_application_is_kept(self, serve_page: Callable[..., Client]) -> None:
        answer = serve_page(respond(("Date", "today"))).exchange()
        assert answer.partition(b"\r\n\r\n")[0].count(b"Date: ") == 1

    def test_bodies_of_other_types_of_bytes_are_sent(self, run: Callable[..., Running]) -> None:
        body = [bytearray(b"one"), memoryview(b"two")]
        server = run(None, respond(body=body))
        assert Http(server.port).request("GET", "/")[2] == b"onetwo"
