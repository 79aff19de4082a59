"""Logs as JSON, and the request id of a proxy in the lines of a connection."""

from __future__ import annotations

import io
import json
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests import raw
from tests.conftest import Site
from tests.redis_server import RedisServer
from tests.servers import Served, module_source
from webpy_socketio import JSONFormatter, RequestIdFilter, on_event, on_finish, request_id

logger = logging.getLogger("chat")


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Log as JSON to memory, and return a function that returns the lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter())
    for name in ("chat", "webpy_socketio"):
        logging.getLogger(name).addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for name in ("chat", "webpy_socketio"):
        logging.getLogger(name).removeHandler(handler)


class TestRequestId:
    @pytest.mark.parametrize(
        "value", ["a", "0" * 128, "0af7651916cd43dd8448eb211c80319c", "f058ebd6-02f7.1:x=@~+/_"]
    )
    def test_valid_id_is_returned(self, value: str) -> None:
        assert request_id({"HTTP_X_REQUEST_ID": value}) == value

    @pytest.mark.parametrize(
        "value", ["", "0" * 129, "a b", "a,b", 'a"b', "a\nb", "a\n", "é", "{}", None, 7]
    )
    def test_invalid_id_is_none(self, value: Any) -> None:
        assert request_id({"HTTP_X_REQUEST_ID": value}) is None

    def test_missing_id_is_none(self) -> None:
        assert request_id({}) is None


class TestJSONFormatter:
    def test_lines_of_connection_have_request_id_of_handshake(
        self, site: Site, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        @on_event("say")
        def say(request: Any, socket: Any, context: Any, text: str) -> None:
            logger.info("said %s", text)
            if text == "fail":
                raise ValueError("no")

        @on_finish
        def finish(request: Any, socket: Any, context: Any) -> None:
            logger.info("left")

        clients = [site.connect(**{"X-Request-ID": name}) for name in ("one", "two")]
        for client in clients:
            client.call("say", "hello")
        clients[0].call("say", "fail")
        clients[1].close()
        site.server.stop()
        found = [(line["message"].split(" ")[0], line.get("request_id")) for line in lines()]
        assert found[:3] == [("said", "one"), ("said", "two"), ("said", "one")]
        assert sorted(found[-2:]) == [("left", "one"), ("left", "two")]
        (failure,) = (line for line in lines() if line["level"] == "ERROR")
        assert failure["request_id"] == "one"
        assert failure["exception"].endswith("ValueError: no")

    def test_page_has_id_of_its_request(
        self, serve: Callable[..., Site], lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        class Page:
            def GET(self) -> str:
                logger.info("page")
                return ""

        site = serve(("/", "Page"), {"Page": Page})
        request = urllib.request.Request(site.url + "/", headers={"X-Request-ID": "three"})
        urllib.request.urlopen(request).close()
        urllib.request.urlopen(site.url + "/").close()
        assert [line.get("request_id") for line in lines()] == ["three", None]

    def test_invalid_id_of_client_is_not_logged(
        self, site: Site, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        @on_event("say")
        def say(request: Any, socket: Any, context: Any) -> None:
            logger.info("said")

        client: raw.WebSocket = site.connect(**{"X-Request-ID": '"}{'})
        client.call("say")
        assert "request_id" not in lines()[0]

    def test_record_has_keys_and_is_one_line(self) -> None:
        record = logging.makeLogRecord(
            {
                "name": "chat",
                "levelname": "INFO",
                "msg": "two\nlines of %s",
                "args": ("\ud83c",),
                "created": 1_700_000_000.5,
                "user": "ann",
                "level": "shadowed",
                "size": float("nan"),
                "path": Path("/x"),
            }
        )
        text = JSONFormatter().format(record)
        assert "\n" not in text
        assert json.loads(text) == {
            "time": "2023-11-14T22:13:20.500Z",
            "level": "INFO",
            "logger": "chat",
            "message": "two\nlines of \\ud83c".replace("\\ud83c", "\ud83c"),
            "user": "ann",
            "size": "nan",
            "path": "/x",
        }

    def test_filter_adds_request_id_to_text(self, site: Site) -> None:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("[%(request_id)s] %(message)s"))
        handler.addFilter(RequestIdFilter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)

        @on_event("say")
        def say(request: Any, socket: Any, context: Any) -> None:
            logger.info("said")

        try:
            site.connect(**{"X-Request-ID": "four"}).call("say")
            logger.info("alone")
        finally:
            logger.removeHandler(handler)
        assert stream.getvalue() == "[four] said\n[-] alone\n"


class TestServe:
    @pytest.mark.time_limit(60)
    def test_workers_and_supervisor_write_json(self, tmp_path: Path) -> None:
        redis = RedisServer(tmp_path).start()
        body = """
import logging
OPTIONS = {"plugins": ["webpy_socketio.plugins.message_logger"], "backplane": os.environ["REDIS"]}
urls = ("/", "Page")

class Page:
    def GET(self):
        logging.getLogger("chat").info("page", extra={"user": "ann"})
        return "page"

@on_event("end")
def end(request, socket, context):
    os._exit(3)
"""
        (tmp_path / "site_module.py").write_text(module_source(body))
        command = ["webpy_socketio", "serve", "site_module:application", "--port", "0"]
        command += ["--workers", "2", "--log-format", "json"]
        served = Served(command, tmp_path, {**os.environ, "REDIS": redis.url})
        served.ready()
        try:
            request = urllib.request.Request(
                f"{served.url}/?secret=1", headers={"X-Request-ID": "five"}
            )
            urllib.request.urlopen(request).close()
            client = raw.WebSocket(served.port, headers={"X-Request-ID": "six"})
            client.connect()
            client.call("__subscribe__", "room")
            client.emit("end")
            client.wait_closed()
            while "ended with status 3" not in served.errors:  # read by the supervisor
                gevent.sleep(0.05)
            served.stop()
        finally:
            served.close()
            redis.stop()
        found = [json.loads(line) for line in served.errors.splitlines()]
        by_logger: dict[str, list[dict[str, Any]]] = {}
        for line in found:
            by_logger.setdefault(line["logger"], []).append(line)
        (page,) = by_logger["chat"]
        assert (page["request_id"], page["user"]) == ("five", "ann")
        access = by_logger["webpy_socketio.access"][0]
        assert access["message"] == "GET / 200"
        assert access["request_id"] == "five"
        assert (access["method"], access["path"], access["status"]) == ("GET", "/", 200)
        assert access["bytes"] > 0
        assert access["seconds"] >= 0
        assert access["client"] == "127.0.0.1"
        (subscription,) = by_logger["webpy_socketio.message"]
        assert subscription["request_id"] == "six"
        assert any(
            "ended with status 3" in line["message"]
            for line in by_logger["webpy_socketio.supervisor"]
        )
        assert "secret" not in served.errors
