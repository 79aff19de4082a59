"""Mistakes of clients are logged once a minute for each kind, at every level."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests import raw
from tests.conftest import Journal, Site
from tests.engines import Http, eventually
from webpy_socketio.engine.http import base_server
from webpy_socketio.engine.io.throttled_log import _MAX_KINDS, ThrottledLog
from webpy_socketio.plugins.admin import hash_password

#: Repetitions of each mistake.
TIMES = 30


def bad_request(site: Site) -> None:
    assert Http(site.port).request("GET", "/", "Bad Header: x")[0] == 400


def bad_packet(site: Site) -> None:
    client = site.websocket()
    client.send("9")
    client.wait_closed()


def bad_json(site: Site) -> None:
    client = site.connect()
    client.send("42[" + "1," * next(NUMBERS))
    client.wait_closed()


def bad_channel(site: Site) -> None:
    site.connect().call("__subscribe__", "")


def bad_origin(site: Site) -> None:
    assert raw.WebSocket(site.port, headers={"Origin": "http://a.example"}, handshake=False)


def half_a_body(site: Site) -> None:
    http = Http(site.port)
    http.send("POST", "/", "Content-Length: 100", body=b"x")
    http.sock.shutdown(socket.SHUT_WR)
    http.read_to_end()


def reset(site: Site) -> None:
    site.connect().vanish(reset=True)


def unknown_session(site: Site) -> None:
    Http(site.port).request("GET", "/socket.io/?EIO=4&transport=polling&sid=x")


def wrong_password(site: Site) -> None:
    client = site.websocket()
    client.send('40/admin,{"username":"a","password":"b"}')
    assert "44/admin" in str(client.receive())


NUMBERS = iter(range(1, 10_000))

MISTAKES = [
    bad_request,
    bad_packet,
    bad_json,
    bad_channel,
    bad_origin,
    half_a_body,
    reset,
    unknown_session,
    wrong_password,
]


@pytest.mark.time_limit(30)
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_mistake_is_logged_once_a_minute_at_every_level(
    mistake: Callable[[Site], None], serve: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site = serve(
        plugins=["webpy_socketio.plugins.admin"],
        admin_username="ann",
        admin_password=hash_password("right", ln=4),
    )
    caplog.set_level(logging.DEBUG, "webpy_socketio")
    for _ in range(TIMES):
        mistake(site)
    eventually(lambda: not site.server._addresses or len(site.server.engine.sessions) <= TIMES)
    lines = [each.getMessage() for each in caplog.records if each.name.startswith("webpy_socketio")]
    assert len(lines) <= 3, lines


def test_omitted_lines_are_counted_by_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    notices = ThrottledLog(Clock())
    for number in range(_MAX_KINDS * 3):
        notices.throttled(f"kind {number}", "line")
        notices.throttled(f"kind {number}", "line")
    assert len(notices._due) <= _MAX_KINDS + 1
    assert len(caplog.records) == _MAX_KINDS + 1


def test_connections_that_cannot_be_accepted_are_logged_once_a_minute(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    def fail(*args: Any) -> None:
        journal.append("tried")
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(base_server, "_RETRY_DELAY", 0.001)
    monkeypatch.setattr(base_server.WSGIServer, "do_read", fail)
    raw.OPENED.append(socket.create_connection(("127.0.0.1", site.port)))
    journal.wait(lambda tried: len(tried) > 5)
    monkeypatch.undo()
    lines = [each.getMessage() for each in caplog.records if "cannot accept" in each.getMessage()]
    assert lines == ["cannot accept connections for now: Too many open files"]


class Clock:
    def now(self) -> float:
        return 0.0
