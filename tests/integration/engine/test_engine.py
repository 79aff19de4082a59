"""Tests of the engine: handshakes, rejections, origins and stopping."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable
from typing import Any

import orjson
import pytest

import webpy_socketio.engine as package
from tests import raw
from tests.engines import RecordedSession, Recorder, Running
from webpy_socketio.engine import Session
from webpy_socketio.engine.http.server import take_over_all

POLLING = "/engine.io/?EIO=4&transport=polling"
WEBSOCKET = "/engine.io/?EIO=4&transport=websocket"


def error(answer: tuple[int, Any, bytes]) -> tuple[int, int]:
    """Return the status and the error code of a rejection."""
    status, headers, body = answer
    assert headers["Content-Type"] == "application/json"
    content = orjson.loads(body)
    assert set(content) == {"code", "message"}
    return status, content["code"]


class TestDocumentation:
    def test_docstring_example_echoes_messages(self) -> None:
        source = textwrap.dedent((package.__doc__ or "").partition("::\n")[2]).strip()
        assert len(source.splitlines()) <= 15
        source = source.replace("EngineServer((", "server = EngineServer((")
        source = source.replace("3000", "0").replace(".serve_forever()", "")
        source = source.replace("Engine(EchoServer())", "Engine(EchoServer()), log=None")
        namespace: dict[str, Any] = {}
        exec(compile(source, "the docstring", "exec"), namespace)
        server = namespace["server"]
        server.start()
        try:
            client = raw.WebSocket(server.server_port, "/engine.io/")
            client.send("4hello")
            assert client.receive() == "4hello"
            polling = raw.Polling(server.server_port, "/engine.io/")
            polling.send("4hello")
            assert polling.poll() == ["4hello"]
        finally:
            server.stop()


class TestHandshake:
    def test_polling_handshake_matches_the_protocol(self, server: Running) -> None:
        status, headers, body = server.http().request("GET", POLLING)
        assert status == 200
        assert re.fullmatch(
            rb'0\{"sid":"[A-Za-z0-9_-]{24}","upgrades":\["websocket"\],'
            rb'"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000\}',
            body,
        )
        assert headers["Content-Type"] == "text/plain; charset=UTF-8"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Set-Cookie"] is None

    def test_handshake_contains_the_configured_limits(self, run: Callable[..., Running]) -> None:
        running = run(ping_interval=1.5, ping_timeout=0.25, max_message_size=77)
        opened = running.polling().open
        limits = (opened["pingInterval"], opened["pingTimeout"], opened["maxPayload"])
        assert limits == (1500, 250, 77)

    def test_session_ids_are_unique(self, server: Running) -> None:
        ids = {server.polling().sid for _ in range(50)}
        assert len(ids) == 50
        assert ids == set(server.engine.sessions)

    def test_receiver_opened_gets_the_environ_of_the_handshake(self, server: Running) -> None:
        sid = server.polling(x_custom="value").sid
        assert server.receiver == [("opened", sid)]
        environ = server.session.environ
        assert environ["HTTP_X_CUSTOM"] == "value"
        assert environ["QUERY_STRING"] == "EIO=4&transport=polling"
        assert environ["REMOTE_ADDR"] == "127.0.0.1"
        assert isinstance(environ["wsgi.input"], io.BytesIO), "keeps the request's socket alive"

    def test_receiver_sending_in_opened_reaches_the_client(
        self, run: Callable[..., Running]
    ) -> None:
        class Greeter(Recorder):
            def opened(self, session: Session) -> RecordedSession:
                session.send("welcome")
                return super().opened(session)

        running = run(Greeter())
        assert running.polling().poll() == ["4welcome"]
        assert running.websocket().receive() == "4welcome"

    def test_receiver_closing_in_opened_closes_the_session(
        self, run: Callable[..., Running]
    ) -> None:
        class Closing(Recorder):
            def opened(self, session: Session) -> RecordedSession:
                session.send("sorry")
                session.close("full")
                return super().opened(session)

        running = run(Closing())
        client = running.polling()
        assert [client.poll(), client.poll()] == [["4sorry"], ["1"]]
        client = running.websocket()
        assert client.receive() == "4sorry"
        assert client.wait_closed() == 1000
        assert running.receiver.endings == ["full", "full"]

    def test_transports_without_websocket_offers_no_upgrade(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(transports=("polling",))
        assert running.polling().open["upgrades"] == []
        assert running.websocket().status == 400

    def test_transports_without_polling_accepts_websockets(
        self, run: Callable[..., Running]
    ) -> None:
        running = run(Recorder(echo=True), transports=("websocket",))
        assert error(running.http().request("GET", POLLING)) == (400, 0)
        client = running.websocket()
        client.send("4a")
        assert client.receive() == "4a"


class TestRejections:
    @pytest.mark.parametrize(
        ("method", "target", "code"),
        [
            ("GET", "/engine.io/", 5),
            ("GET", "/engine.io/?EIO=4", 0),
            ("GET", "/engine.io/?EIO=3&transport=polling", 5),
            ("GET", "/engine.io/?EIO=4&transport=__proto__", 0),
            ("GET", POLLING + "&transport=polling", 3),
            ("GET", POLLING + "&j=0", 3),
            ("GET", POLLING + "&sid=no-such-sid", 1),
            ("GET", POLLING + "&sid=", 1),
            ("GET", POLLING + "&sid=__proto__", 1),
            ("GET", POLLING + "&sid=a%0d%0aX-Injected:%201", 1),
            ("GET", POLLING + "&sid=" + "x" * 5000, 3),
            ("POST", POLLING + "&sid=no-such-sid", 1),
            ("POST", POLLING, 2),
            ("PUT", POLLING, 2),
            ("DELETE", POLLING, 2),
            ("GET", WEBSOCKET, 3),
        ],
        ids=lambda value: str(value)[-40:],
    )
    def test_invalid_request_is_rejected_with_code_and_without_its_text(
        self, server: Running, method: str, target: str, code: int
    ) -> None:
        answer = server.http().request(method, target)
        assert error(answer) == (400, code)
        assert answer[1]["X-Injected"] is None
        for word in (b"no-such-sid", b"__proto__", b"xxx", b"Injected"):
            assert word not in answer[2]
        assert server.receiver == []

    def test_old_client_is_rejected_with_the_supported_version(self, server: Running) -> None:
        body = server.http().request("GET", "/engine.io/?EIO=3&transport=polling")[2]
        assert b"protocol 4" in body
        assert b"socket.io-client" in body
        body = server.http().request("GET", POLLING + "&j=0")[2]
        assert b"JSONP" in body
        assert b"socket.io-client" in body

    def test_rejected_request_keeps_the_connection_open(self, server: Running) -> None:
        http = server.http()
        assert http.request("GET", POLLING + "&sid=no-such-sid")[0] == 400
        assert http.request("GET", POLLING)[0] == 200

    def test_poll_of_a_websocket_session_is_rejected(self, echo: Running) -> None:
        client = echo.websocket()
        target = f"{POLLING}&sid={client.open['sid']}"
        assert error(echo.http().request("GET", target)) == (400, 3)
        client.send("4still here")
        assert client.receive() == "4still here"


class TestOrigins:
    EVIL = ("http://evil.example", "null", "http://127.0.0.1", "https://127.0.0.1:{port}")

    @pytest.mark.parametrize("origin", EVIL)
    def test_handshake_from_another_origin_is_rejected(self, server: Running, origin: str) -> None:
        origin = origin.format(port=server.port)
        answer = server.http().request("GET", POLLING, f"Origin: {origin}")
        assert error(answer) == (403, 4)
        assert answer[1]["Access-Control-Allow-Origin"] is None
        assert server.websocket(Origin=origin).status == 403
        assert server.receiver == []

    def test_request_of_a_session_from_another_origin_is_rejected(self, server: Running) -> None:
        sid = server.polling().sid
        target = f"{POLLING}&sid={sid}"
        for method in ("GET", "POST"):
            answer = server.http().request(method, target, "Origin: http://evil.example")
            assert error(answer) == (403, 4)
        assert server.websocket(f"&sid={sid}", Origin="http://evil.example").status == 403
        assert server.session.open

    def test_handshake_from_the_same_origin_has_no_cors_headers(self, server: Running) -> None:
        own = f"Origin: http://127.0.0.1:{server.port}"
        status, headers, _ = server.http().request("GET", POLLING, own)
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] is None

    @pytest.mark.parametrize("allowed", [["http://app.example"], ["*"]], ids=["named", "any"])
    def test_handshake_from_an_allowed_origin_has_cors_headers(
        self, run: Callable[..., Running], allowed: list[str]
    ) -> None:
        running = run(allowed_origins=allowed)
        origin = "Origin: http://app.example"
        ok = running.http().request("GET", POLLING, origin)
        bad = running.http().request("GET", POLLING + "&sid=no-such-sid", origin)
        for status, answer in ((200, ok), (400, bad)):
            assert answer[0] == status
            assert answer[1]["Access-Control-Allow-Origin"] == "http://app.example"
            assert answer[1]["Access-Control-Allow-Credentials"] == "true"
            assert answer[1]["Vary"] == "Origin"
        assert running.websocket(Origin="http://app.example").status == 101

    def test_preflight_of_an_allowed_origin_is_accepted(self, run: Callable[..., Running]) -> None:
        running = run(allowed_origins=["http://app.example"])
        http = running.http()
        status, headers, body = http.request("OPTIONS", POLLING, "Origin: http://app.example")
        assert (status, body) == (204, b"")
        assert headers["Access-Control-Allow-Methods"] == "GET, POST"
        assert headers["Access-Control-Allow-Headers"] == "Content-Type"
        assert headers["Access-Control-Allow-Origin"] == "http://app.example"
        assert http.request("GET", POLLING)[0] == 200
        status, headers, _ = http.request("OPTIONS", POLLING, "Origin: http://evil.example")
        assert status == 403
        assert headers["Access-Control-Allow-Origin"] is None

    def test_preflight_allows_the_requested_headers(self, run: Callable[..., Running]) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            assert "HTTP_AUTHORIZATION" in environ, "a preflight reached the application"
            return take_over_all("/engine.io/")(environ, start_response)  # type: ignore[return-value]

        running = run(application=application, allowed_origins=["http://app.example"])
        status, headers, body = running.http().request(
            *("OPTIONS", POLLING, "Origin: http://app.example"),
            "Access-Control-Request-Method: GET",
            "Access-Control-Request-Headers: authorization,x-tenant",
        )
        assert (status, body) == (204, b"")
        assert headers["Access-Control-Allow-Headers"] == "authorization, x-tenant"
        assert headers["Access-Control-Allow-Origin"] == "http://app.example"
        assert headers["Access-Control-Max-Age"] == "600"
        assert headers["Vary"] == "Origin"
        ok = running.http().request(
            "GET", POLLING, "Origin: http://app.example", "Authorization: Bearer x"
        )
        assert ok[0] == 200

    def test_preflight_of_another_origin_is_rejected(self, server: Running) -> None:
        status, headers, _ = server.http().request(
            *("OPTIONS", POLLING, "Origin: http://evil.example"),
            *("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x"),
        )
        assert status == 403
        assert not [name for name in headers if name.lower().startswith("access-control")]

    @pytest.mark.parametrize("origin", ["null", "file://", "capacitor://localhost", "wss://a.b"])
    @pytest.mark.parametrize("named", [True, False], ids=["named", "any"])
    def test_allowed_app_origin_connects_on_both_transports(
        self, origin: str, named: bool, run: Callable[..., Running]
    ) -> None:
        running = run(allowed_origins=[origin if named else "*"])
        status, headers, _ = running.http().request("GET", POLLING, f"Origin: {origin}")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, origin)
        assert running.websocket(Origin=origin).status == 101
        assert run().websocket(Origin=origin).status == 403

    def test_rejection_by_the_application_has_cors_headers_for_an_allowed_origin(
        self, run: Callable[..., Running]
    ) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            own = [("Access-Control-Allow-Origin", "x")] if "HTTP_X_OWN" in environ else []
            start_response("401 Unauthorized", [("Content-Length", "3"), *own])
            return [b"no\n"]

        running = run(application=application, allowed_origins=["http://app.example"])
        origin = "Origin: http://app.example"
        status, headers, body = running.http().request("GET", POLLING, origin)
        assert (status, body) == (401, b"no\n")
        assert headers["Access-Control-Allow-Origin"] == "http://app.example"
        _, headers, _ = running.http().request("GET", POLLING, origin, "X-Own: 1")
        assert headers.get_all("Access-Control-Allow-Origin") == ["x"]
        _, headers, _ = running.http().request("GET", POLLING, "Origin: http://evil.example")
        assert headers["Access-Control-Allow-Origin"] is None
        for target in ("/page", "/page?EIO=4&transport=polling"):
            _, headers, _ = running.http().request("GET", target, origin)
            assert headers["Access-Control-Allow-Origin"] is None

    def test_page_at_the_path_of_the_engine_has_no_cors_headers(
        self, run: Callable[..., Running]
    ) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Length", "7")])
            return [b"private"]

        running = run(application=application, allowed_origins=["http://app.example"])
        origin = "Origin: http://app.example"
        for target in (POLLING, "/more/engine.io/"):
            _, headers, body = running.http().request("GET", target, origin)
            assert body == b"private"
            assert headers["Access-Control-Allow-Origin"] is None


class TestReceivers:
    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_receiver_raising_an_exception_closes_the_session(
        self, run: Callable[..., Running], caplog: pytest.LogCaptureFixture, transport: str
    ) -> None:
        class Failing(Recorder):
            def message(self, session: Session, data: str | bytes) -> None:
                super().message(session, data)
                if data == "fail":
                    raise ZeroDivisionError

        running = run(Failing())
        if transport == "polling":
            running.polling().send("4a", "4fail", "4b")
        else:
            client = running.websocket()
            for packet in ("4a", "4fail", "4b"):
                client.send(packet)
            assert client.wait_closed() == 1011
        running.receiver.wait_closed()
        assert running.receiver.messages == ["a", "fail"]
        (record,) = [record for record in caplog.records if record.exc_info]
        assert "receiver" in record.getMessage()


class TestStopping:
    def test_handshake_after_close_is_rejected(self, server: Running) -> None:
        http = server.http()
        server.engine.close()
        answer = http.request("GET", POLLING)
        assert error(answer)[0] == 503
        assert answer[1]["Connection"] == "close"
        assert server.websocket().status == 503
        assert server.receiver == []

    def test_close_notifies_each_client_once(self, server: Running) -> None:
        polling = server.polling()
        poll = server.start_poll(polling)
        between_polls = server.polling()
        client = server.websocket()
        server.engine.close()
        server.engine.close()
        assert poll.get() == (200, "1")
        assert between_polls.poll() == ["1"]
        assert client.wait_closed() == 1001
        assert server.receiver.endings == ["server shutting down"] * 3
        assert server.engine.sessions == {}

    def test_dispose_removes_sessions_that_wait_for_a_poll(self, server: Running) -> None:
        server.polling()
        server.engine.close()
        assert len(server.engine.sessions) == 1
        server.engine.dispose()
        assert server.engine.sessions == {}


class TestCloseReason:
    def test_close_note_above_123_bytes_is_truncated(self, run: Callable[..., Any]) -> None:
        server = run()
        client = server.websocket()
        server.session.close("bye", 1008, "x" * 500)
        assert client.wait_closed() == 1008
        server.receiver.wait_for(("closed", "bye"))
