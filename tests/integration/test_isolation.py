"""State that a handler or page leaves in its greenlet does not reach other code."""

from __future__ import annotations

import contextvars
import gc
import sqlite3
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
import web

from tests.conftest import Journal, Site, socket_of
from tests.engines import Http, eventually
from webpy_socketio import (
    Refused,
    call_later,
    on_connect,
    on_connecting,
    on_disconnect,
    on_error,
    on_event,
    on_finish,
    on_message,
    on_receiving,
    on_subscribe,
    on_subscribing,
    on_unsubscribe,
    signals,
)

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Connection(sqlite3.Connection):
    """A connection that supports weak references, which show whether it is alive."""

    def __del__(self) -> None:
        self.close()  # sqlite3 warns of open connections since Python 3.13


class Database:
    """A database, and the state of its connections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with sqlite3.connect(path) as setup:
            setup.execute("create table stock (name text)")
        setup.close()
        self.database = web.database(dbn="sqlite", db=str(path), timeout=0.1, factory=Connection)
        self.database.printing = False
        self._connections: list[weakref.ref[Any]] = []

    def use(self) -> None:
        """Read, with the connection that web.py keeps."""
        list(self.database.select("stock"))
        self._connections.append(weakref.ref(self.database.ctx.db))

    def begin(self, *unused: Any, **also: Any) -> None:
        """Write within a transaction that stays open."""
        self.database.transaction()
        self.database.insert("stock", name="apple")
        self._connections.append(weakref.ref(self.database.ctx.db))

    @property
    def used(self) -> int:
        return len(self._connections)

    @property
    def open(self) -> int:
        """Return the number of used connections that are alive."""
        gc.collect()  # connections of sqlite3 are part of a reference cycle
        return sum(reference() is not None for reference in self._connections)

    def check_unlocked(self) -> None:
        """Assert that another program can write, and that uncommitted data is not visible."""
        other = sqlite3.connect(self.path, timeout=0.1)
        try:
            assert other.execute("select * from stock").fetchall() == []
            other.execute("insert into stock values ('plum')")
            other.rollback()
        finally:
            other.close()


@pytest.fixture
def shop(tmp_path: Path) -> Database:
    return Database(tmp_path / "shop.db")


class TestDatabase:
    def test_connections_of_handlers_at_the_same_time_are_released(
        self, site: Site, shop: Database
    ) -> None:
        go = gevent.event.Event()

        @on_message
        def count(request: Any, socket: Any, context: Any, message: Any) -> str:
            shop.use()
            go.wait()
            return "counted"

        clients = [site.connect() for _ in range(5)]
        for client in clients:
            client.emit("message", ack=1)
        eventually(lambda: shop.used == 5)
        assert shop.open == 5
        go.set()
        for client in clients:
            client.receive()
        eventually(lambda: shop.open == 0)

    @pytest.mark.parametrize("fails", [True, False])
    @pytest.mark.parametrize(
        "decorator",
        [
            *(on_connecting, on_connect, on_receiving, on_message, on_event("message")),
            *(on_subscribing, on_subscribe, on_unsubscribe, on_error, on_disconnect, on_finish),
        ],
        ids=lambda decorator: decorator.__name__,
    )
    def test_transaction_left_open_by_a_handler_is_rolled_back(
        self, site: Site, shop: Database, stages: Journal, decorator: Any, fails: bool
    ) -> None:
        kept: list[BaseException] = []

        def handler(request: Any, socket: Any, context: Any, *rest: Any) -> None:
            if shop.used:
                return
            shop.begin()
            if fails:
                raise RuntimeError("with the transaction open")

        if decorator in (on_connecting, on_connect, on_disconnect, on_finish):
            decorator(lambda request, socket, context: handler(request, socket, context))
        elif decorator is on_receiving:
            decorator(lambda request, socket, context, event, message: handler(request, socket, 0))
        else:
            decorator(lambda request, socket, context, one: handler(request, socket, context))

        @signals.error.connect
        def keep(sender: Any, exception: BaseException, **extra: Any) -> None:
            kept.append(exception)  # keeps the frames of its traceback alive

        client = site.websocket()
        client.send("40")
        client.receive()
        if decorator not in (on_connecting, on_connect):
            client.send('421["__subscribe__","room"]')
            client.send('422["message","hello"]')
            client.send('42["__subscribe__",5]')  # an error
            client.send('423["__unsubscribe__","room"]')
        if decorator not in (on_disconnect, on_finish):
            eventually(lambda: shop.used == 1)
        client.send("1")
        eventually(lambda: shop.used == 1)
        eventually(lambda: not site.server.engine.sessions)
        eventually(lambda: not site.server._dispatcher._open)
        shop.check_unlocked()
        assert bool(kept) >= fails * (decorator is not on_error)

    def test_transaction_left_open_in_another_greenlet_is_rolled_back(
        self, site: Site, shop: Database
    ) -> None:
        on_subscribing(lambda request, socket, context, channel: shop.begin())
        client = site.connect()
        assert socket_of(client).subscribe("room")
        shop.check_unlocked()

    def test_transaction_left_open_by_a_timer_is_rolled_back(self, shop: Database) -> None:
        call_later(0, shop.begin)
        eventually(lambda: shop.used)
        shop.check_unlocked()

    def test_transaction_left_open_is_logged(
        self, site: Site, shop: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        on_message(lambda request, socket, context, message: (shop.begin(), "done")[1])
        assert site.connect().call("message", 1) == ["done"]
        eventually(lambda: caplog.records)
        assert "with db.transaction()" in caplog.records[0].getMessage()

    def test_committed_transaction_stays(self, site: Site, shop: Database) -> None:
        @on_message
        def sell(request: Any, socket: Any, context: Any, message: Any) -> str:
            with shop.database.transaction():
                shop.database.insert("stock", name="pear")
            return "sold"

        assert site.connect().call("message", 1) == ["sold"]
        assert [row.name for row in shop.database.select("stock")] == ["pear"]


def forget_timeout() -> None:
    gevent.Timeout(0.01).start()


def answers(site: Site, *packets: str) -> list[str]:
    """Send packets in one request, so that the second is queued; return the acknowledgements."""
    client = site.polling()
    client.connect()
    client.send(*packets)
    received: list[str] = []
    while len(received) < len(packets):
        received += client.poll()
    return received


class TestTimeouts:
    @pytest.fixture
    def late(self, caplog: pytest.LogCaptureFixture) -> Callable[[], None]:
        """Wait until the log reports a timeout that fired too late."""

        def fired() -> bool:
            return any("after the handler or page" in text for text in caplog.messages)

        return lambda: eventually(fired)

    def test_timeout_of_a_handler_spares_the_next_message(
        self, site: Site, late: Callable[[], None]
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> str:
            if message == "forget":
                forget_timeout()
            else:
                late()
            return "fine"

        assert answers(site, '420["message","forget"]', '421["message","next"]') == [
            '430["fine"]',
            '431["fine"]',
        ]

    def test_timeout_after_waiting_spares_the_next_message(
        self, site: Site, late: Callable[[], None]
    ) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> str:
            if message == "forget":
                forget_timeout()
                gevent.sleep(0.001)
            else:
                late()
            return "fine"

        assert answers(site, '420["message","forget"]', '421["message","next"]') == [
            '430["fine"]',
            '431["fine"]',
        ]

    def test_timeout_of_a_handler_spares_other_connections(
        self, site: Site, late: Callable[[], None]
    ) -> None:
        on_event("forget")(lambda request, socket, context: (forget_timeout(), "fine")[1])
        on_event("wait")(lambda request, socket, context: (late(), "fine")[1])
        assert site.connect().call("forget") == ["fine"]
        assert site.connect().call("wait") == ["fine"]

    @pytest.mark.parametrize("decorator", [on_connecting, on_connect])
    def test_timeout_of_connecting_spares_the_first_message(
        self, site: Site, late: Callable[[], None], decorator: Any
    ) -> None:
        decorator(lambda request, socket, context: forget_timeout())
        on_message(lambda request, socket, context, message: (late(), "fine")[1])
        assert site.connect().call("message", 1) == ["fine"]

    def test_timeout_of_a_page_spares_the_next_request(self, serve: Callable[..., Site]) -> None:
        class Forget:
            def GET(self) -> str:
                forget_timeout()
                return "forgotten"

        site = serve(("/forget", "forget", "/plain", "plain"), {"forget": Forget, "plain": Plain})
        http = Http(site.port)
        for _ in range(3):
            status, headers, body = http.request("GET", "/plain")
            assert (status, body, headers["Connection"]) == (200, b"plain", None)
        status, headers, body = http.request("GET", "/forget")
        assert (status, body, headers["Connection"]) == (200, b"forgotten", "close")
        assert http.read_to_end() == b""

    def test_timeout_of_a_generator_page_spares_the_next_request(
        self, serve: Callable[..., Site]
    ) -> None:
        timeout = gevent.Timeout(60)

        class Forget:
            def GET(self) -> Any:
                yield "first "
                timeout.start()
                yield "last"

        site = serve(("/forget", "forget"), {"forget": Forget})
        http = Http(site.port)
        assert http.request("GET", "/forget")[2] == b"first last"
        assert http.read_to_end() == b"", "the server closes the connection"
        timeout.close()

    def test_connection_of_a_page_that_waits_is_kept_alive(
        self, serve: Callable[..., Site]
    ) -> None:
        class Slow:
            def POST(self) -> bytes:
                with gevent.Timeout(5):
                    gevent.sleep(0.001)
                gevent.spawn(gevent.sleep).join()
                data: bytes = web.data()
                return data

        http = Http(serve(("/slow", "slow"), {"slow": Slow}).port)
        for _ in range(5):
            http.send("POST", "/slow", "Content-Length: 4")
            gevent.sleep(0)  # so that the server waits for the body
            http.sock.sendall(b"data")
            status, headers, body = http.response()
            assert (status, body, headers["Connection"]) == (200, b"data", None)


class Plain:
    def GET(self) -> str:
        return "plain"


class TestContextVariables:
    def test_variable_of_a_handler_spares_the_next_message(self, site: Site) -> None:
        @on_message
        def handler(request: Any, socket: Any, context: Any, message: Any) -> str:
            value = variable.get()
            variable.set("mine")
            return value

        assert answers(site, '420["message",1]', '421["message",2]') == [
            '430["unset"]',
            '431["unset"]',
        ]
        assert site.connect().call("message", 3) == ["unset"]

    def test_variable_of_a_gate_is_seen_by_the_handlers_of_its_message(self, site: Site) -> None:
        on_receiving(lambda request, socket, context, event, message: variable.set("ours") and None)
        on_message(lambda request, socket, context, message: variable.get())
        assert site.connect().call("message", 1) == ["ours"]

    def test_variable_of_a_page_spares_the_next_request(self, serve: Callable[..., Site]) -> None:
        class Page:
            def GET(self) -> str:
                value = variable.get()
                variable.set("mine")
                return value

        http = Http(serve(("/page", "page"), {"page": Page}).port)
        assert [http.request("GET", "/page")[2] for _ in range(2)] == [b"unset", b"unset"]

    def test_variable_of_a_timer_spares_the_next_one(self, journal: Journal) -> None:
        call_later(0, variable.set, "mine")
        call_later(0, lambda: journal.append(variable.get()))
        assert journal.wait(len) == ["unset"]


def test_gate_raising_refused_releases_connections(site: Site, shop: Database) -> None:
    @on_subscribing
    def refuse(request: Any, socket: Any, context: Any, channel: str) -> None:
        shop.begin()
        raise Refused("not here")

    client = site.connect()
    assert client.call("__subscribe__", "room") == [{"ok": False, "error": "not here"}]
    shop.check_unlocked()
