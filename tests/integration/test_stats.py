"""Counts of sessions, sockets and channels in a process."""

from __future__ import annotations

from typing import Any

import gevent.event
import gevent.threadpool
import pytest
from gevent import monkey

from tests.conftest import Callable, Journal, Site, socket_of
from webpy_socketio import call_later, get_stats, monotonic
from webpy_socketio.runtime import default_runtime

get_ident = monkey.get_original("_thread", "get_ident")


class TestStats:
    def test_stats_without_server_are_zero(self) -> None:
        found = get_stats()
        assert found.sessions == {"polling": 0, "websocket": 0}
        assert not any(found.sockets.values())
        assert found.outbox_bytes == 0
        assert not default_runtime.engines

    def test_stats_count_sessions_sockets_and_channels(self, serve: Callable[..., Site]) -> None:
        site = serve(namespaces=["/", "/staff"])
        silent = site.websocket()  # connected to no namespace
        first, second = site.connect(), site.connect()
        second.connect(namespace="/staff,")
        polling = site.polling()
        polling.connect()
        for client in (first, second):
            client.call("__subscribe__", "room")
        first.call("__subscribe__", "hall")
        found = get_stats()
        assert found.sessions == {"polling": 1, "websocket": 3}
        assert (found.sockets["/"], found.sockets["/staff"]) == (3, 1)
        assert (found.channels["/"], found.memberships["/"]) == (2, 3)
        assert (found.channels["/staff"], found.memberships["/staff"]) == (0, 0)
        assert silent.open

    def test_stats_do_not_count_closed_connections(self, site: Site, stages: Journal) -> None:
        client, polling = site.connect(), site.polling()
        polling.connect()
        client.call("__subscribe__", "room")
        client.vanish()
        stages.wait_for(("finish", "transport close"))
        polling.send("1")
        stages.wait(lambda stages: [name for name, _ in stages].count("finish") == 2)
        found = get_stats()
        assert found.sessions == {"polling": 0, "websocket": 0}
        assert (found.sockets["/"], found.channels["/"], found.memberships["/"]) == (0, 0, 0)

    def test_stats_include_all_servers_of_the_process(self, serve: Callable[..., Site]) -> None:
        first, second = serve(), serve()
        clients = [first.connect(), second.connect()]
        assert get_stats().sessions["websocket"] == 2
        first.server.stop()
        assert get_stats().sessions["websocket"] == 1
        assert default_runtime.engines == [second.server.engine]
        assert len(clients) == 2

    def test_stats_count_outbox_bytes(self, site: Site) -> None:
        polling = site.polling()
        polling.connect()
        client = site.connect()
        assert get_stats().outbox_bytes == 0
        socket_of(client).broadcast("x" * 1000)  # no poll is open
        gevent.idle()
        assert 1000 < get_stats().outbox_bytes < 1100

    def test_stats_from_another_thread_are_counted_in_the_socket_thread(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted_in: list[int] = []

        class Watched:
            """An engine that records the thread that reads its sessions."""

            @property
            def sessions(self) -> dict[str, Any]:
                counted_in.append(get_ident())
                return {}

        monkeypatch.setattr(default_runtime, "engines", [Watched()])
        client = site.connect()
        pool = gevent.threadpool.ThreadPool(1)
        assert pool.apply(get_stats).sockets["/"] == 1
        pool.kill()
        assert counted_in == [get_ident()]  # the thread of the sockets
        assert client.id

    def test_stats_without_backplane_have_zero_counts(self) -> None:
        assert get_stats().backplane == {"dropped": 0, "ignored": 0, "gaps": 0}


class TestMonotonic:
    def test_monotonic_is_the_clock_of_timers(self) -> None:
        done = gevent.event.Event()
        began = monotonic()
        call_later(0.01, done.set)
        done.wait()
        assert monotonic() >= began + 0.01
