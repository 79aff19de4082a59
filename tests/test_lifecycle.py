"""The stages of a connection's life: in order, once each, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from webpy_socketio import on_connect, on_message

from .conftest import Journal, Site


class TestOrder:
    def test_a_whole_life(self, site: Site, stages: Journal) -> None:
        client = site.connect()
        assert client.call("__subscribe__", "room-1") == [{"ok": True}]
        client.emit("message", "hello")
        client.send("41")
        stages.wait_for(("finish", "client namespace disconnect"))
        assert stages == [
            ("connecting", None),
            ("connect", None),
            ("subscribing", "room-1"),
            ("subscribe", "room-1"),
            ("message", "hello"),
            ("disconnect", "client namespace disconnect"),
            ("unsubscribe", "room-1"),
            ("finish", "client namespace disconnect"),
        ]

    def test_channels_are_held_until_after_finish(self, site: Site, journal: Journal) -> None:
        from webpy_socketio import on_disconnect, on_finish, on_unsubscribe

        @on_disconnect(channel="^room-")
        def gone(request: Any, socket: Any, context: Any) -> None:
            journal.append(("disconnect", socket.channels, socket.connected))

        @on_unsubscribe(channel="^room-")
        def left(request: Any, socket: Any, context: Any, channel: str) -> None:
            journal.append(("unsubscribe", channel, socket.channels))

        @on_finish(channel="^room-")
        def finished(request: Any, socket: Any, context: Any) -> None:
            journal.append(("finish", socket.channels))

        client = site.connect()
        client.call("__subscribe__", "room-1")
        client.vanish()
        journal.wait(lambda journal: len(journal) == 3)
        assert journal == [
            ("disconnect", ("room-1",), False),
            ("unsubscribe", "room-1", ("room-1",)),
            ("finish", ("room-1",)),
        ]


ENDINGS: dict[str, tuple[Callable[[Any, Site], None], str]] = {
    "client close": (lambda client, site: client.close(), "transport close"),
    "engine packet 1": (lambda client, site: client.send("1"), "transport close"),
    "packet 41": (lambda client, site: client.send("41"), "client namespace disconnect"),
    "FIN": (lambda client, site: client.vanish(), "transport close"),
    "RST": (lambda client, site: client.vanish(reset=True), "transport close"),
    "bad packet": (lambda client, site: client.send("4abc"), "parse error"),
    "server disconnect": (
        lambda client, site: client.emit("message", "kick"),
        "server namespace disconnect",
    ),
    "server stop": (lambda client, site: site.server.stop(), "server shutting down"),
}


class TestEndings:
    @pytest.mark.parametrize("name", ENDINGS)
    def test_each_is_told_once(self, name: str, site: Site, stages: Journal) -> None:
        @on_message
        def kick(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.disconnect()

        end, reason = ENDINGS[name]
        client = site.connect()
        client.call("__subscribe__", "room-1")
        end(client, site)
        stages.wait_for(("finish", reason))
        site.server.stop()
        endings = [stage for stage in stages if stage[0] in ("disconnect", "unsubscribe", "finish")]
        assert endings == [("disconnect", reason), ("unsubscribe", "room-1"), ("finish", reason)]

    def test_ping_timeout(self, serve: Callable[..., Site], stages: Journal) -> None:
        site = serve(ping_interval=0.05, ping_timeout=0.05)
        client = site.connect()
        client.receive(pings=True)
        stages.wait_for(("finish", "ping timeout"))
        assert stages.count(("disconnect", "ping timeout")) == 1


class TestIsolation:
    def test_one_that_raises_stops_no_other(self, site: Site, stages: Journal) -> None:
        error = ZeroDivisionError("oops")

        @on_connect
        def bad(request: Any, socket: Any, context: Any) -> None:
            raise error

        @on_connect
        def good(request: Any, socket: Any, context: Any) -> None:
            socket.send("still here")

        client = site.connect()
        assert client.event() == ["message", "still here"]
        assert stages == [("connecting", None), ("connect", None), ("error", error)]
