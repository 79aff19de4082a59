"""The admin plugin, as its protocol has it: who comes in, what they see, what they can do."""

from __future__ import annotations

import gc
import json
import logging
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
import web
from gevent import monkey

from webpy_socketio import (
    ConfigurationError,
    NoSocket,
    Refused,
    SettingsError,
    SocketIOServer,
    broadcast,
    broadcast_channel,
    on_connect,
    on_message,
    on_subscribing,
    signals,
    sockets,
)
from webpy_socketio.engine import Connection
from webpy_socketio.plugins import admin
from webpy_socketio.plugins.admin import auth, reporter, serializers
from webpy_socketio.plugins.admin.passwords import PasswordHash, hash_password

from . import raw
from .conftest import Journal, Site, socket_of

PLUGIN = "webpy_socketio.plugins.admin"
PASSWORD = "open sesame"
#: A cheap one: what it costs is not what is tested.
HASH = hash_password(PASSWORD, ln=4)
SETTINGS: dict[str, Any] = {"plugins": [PLUGIN], "admin_username": "ann", "admin_password": HASH}
CREDENTIALS = {"username": "ann", "password": PASSWORD}

Serve = Callable[..., Site]


class Admin:
    """What the UI is: a client of /admin, that keeps what it is told."""

    def __init__(self, site: Site, auth: Any = CREDENTIALS) -> None:
        self.client = raw.WebSocket(site.port, site.path)
        self.client.send("40/admin," + ("" if auth is None else json.dumps(auth)))
        reply = self.client.receive()
        assert isinstance(reply, str)
        self.refusal: str | None = None
        if reply.startswith("44/admin,"):
            self.refusal = json.loads(reply.partition(",")[2])["message"]
        else:
            assert reply.startswith("40/admin,{"), reply

    def next(self) -> list[Any]:
        event: list[Any] = self.client.event()
        return event

    def until(self, *names: str) -> list[Any]:
        """The next event of one of these names."""
        while True:
            event = self.next()
            if event[0] in names:
                return event

    def command(self, *event: Any) -> tuple[dict[str, Any], list[list[Any]]]:
        """Ask for something; returns the answer, and what was told before it came."""
        self.client.send("42/admin,7" + json.dumps(event))
        told = []
        while True:
            packet = self.client.receive()
            assert isinstance(packet, str)
            if packet.startswith("43/admin,7"):
                return json.loads(packet[10:])[0], told
            told.append(json.loads(packet[packet.index("[") :]))

    def told(self) -> list[list[Any]]:
        """What was told until now; statistics come when they want."""
        return [event for event in self.command("barrier")[1] if event[0] != "server_stats"]


@pytest.fixture
def house(serve: Serve) -> Callable[..., Site]:
    """A server with the plugin."""
    return lambda **more: serve(**{**SETTINGS, **more})


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics come so often that a test may wait for them."""
    monkeypatch.setattr(reporter, "INTERVAL", 0.02)


def come_in(site: Site, auth: Any = CREDENTIALS) -> tuple[Admin, list[Any]]:
    """An admin, and the sockets that are there."""
    one = Admin(site, auth)
    return one, one.until("all_sockets")[1]


def without_times(events: list[list[Any]]) -> list[list[Any]]:
    return [
        event[:-1] if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", str(event[-1])) else event
        for event in events
    ]


class TestStart:
    @pytest.mark.parametrize("missing", ["admin_username", "admin_password"])
    def test_there_is_none_without_credentials(self, missing: str, serve: Serve) -> None:
        with pytest.raises(SettingsError, match="SOCKETIO_ADMIN_PASSWORD") as caught:
            serve(**{**SETTINGS, missing: None})
        assert "hash_password" in str(caught.value)

    def test_the_remedy_works(self, serve: Serve) -> None:
        with pytest.raises(SettingsError) as caught:
            serve(plugins=[PLUGIN])
        (code,) = re.findall(r'python -c "(.*)"', str(caught.value))
        # Without a terminal getpass takes the password from the input, and warns.
        program = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            input=f"{PASSWORD}\n",
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        made = program.stdout.strip().rpartition("Password: ")[2]
        one, _ = come_in(serve(**{**SETTINGS, "admin_password": made}))
        assert one.refusal is None

    @pytest.mark.parametrize(
        "value",
        [PASSWORD, "$2b$10$heqvAkYMez.Va6Et2uXInO", HASH + "$", 7],
        ids=["password", "bcrypt", "trailing character", "number"],
    )
    def test_a_password_that_is_no_hash_is_refused_and_not_shown(
        self, value: Any, serve: Serve
    ) -> None:
        with pytest.raises(SettingsError, match="hash_password") as caught:
            serve(**{**SETTINGS, "admin_password": value})
        assert str(value) not in str(caught.value)

    @pytest.mark.parametrize("ln", [0, 18, 40])
    def test_a_hash_that_would_take_for_ever_is_refused(self, ln: int, serve: Serve) -> None:
        with pytest.raises(SettingsError, match="hash_password"):
            serve(**{**SETTINGS, "admin_password": HASH.replace("ln=4", f"ln={ln}")})

    @pytest.mark.parametrize("password", ["", "x" * 1025, None])
    def test_a_password_has_a_length(self, password: Any) -> None:
        with pytest.raises(SettingsError, match="1 to 1024"):
            hash_password(password)

    def test_a_namespace_of_yours_is_not_taken(self, house: Serve) -> None:
        with pytest.raises(ConfigurationError, match="SOCKETIO_NAMESPACES"):
            house(namespaces=["/", "/admin"])

    def test_a_server_that_does_not_name_it_has_no_such_namespace(
        self, house: Serve, serve: Serve
    ) -> None:
        house()
        assert Admin(serve()).refusal == "Invalid namespace"

    def test_it_is_not_among_the_default_plugins(self) -> None:
        server = SocketIOServer(
            ("127.0.0.1", 0), web.application((), {}, autoreload=False).wsgifunc()
        )
        assert PLUGIN not in server.settings.plugins


class TestPasswords:
    def test_a_hash_is_salted_and_fits_its_password_only(self) -> None:
        one, two = hash_password(PASSWORD, ln=4), hash_password(PASSWORD, ln=4)
        assert one != two
        assert PASSWORD not in one
        for text in (one, two):
            assert PasswordHash.parse(text).fits(PASSWORD)
            assert not PasswordHash.parse(text).fits(PASSWORD + " ")

    def test_by_default_it_costs_what_is_advised(self) -> None:
        # OWASP, Password Storage Cheat Sheet: N=2**14 (16 MiB), r=8, p=5.
        made = PasswordHash.parse(hash_password(PASSWORD))
        assert (made.ln, made.r, made.p, len(made.salt)) == (14, 8, 5, 16)
        assert made.fits(PASSWORD)


class TestLogin:
    def test_with_username_and_password(self, house: Serve) -> None:
        one = Admin(house())
        assert one.next()[0] == "session"
        assert one.next() == [
            "config",
            {"supportedFeatures": ["AGGREGATED_EVENTS", "ALL_EVENTS"]},
        ]
        assert one.next()[0] == "server_stats"
        assert one.next() == ["all_sockets", []]

    @pytest.mark.parametrize(
        "auth",
        [
            None,
            {},
            {"username": "ann"},
            {"username": "ann", "password": None},
            {"username": "ann", "password": ""},
            {"username": "ann", "password": "x" * 2000},
            {"username": "ann", "password": "open Sesame"},
            {"username": "Ann", "password": PASSWORD},
            {"username": ["ann"], "password": PASSWORD},
            {"username": "ann", "password": HASH},
            {"sessionId": None},
            {"sessionId": ""},
            {"sessionId": {"$ne": ""}},
            {"sessionId": "x" * 32},
        ],
    )
    def test_with_nothing_else(self, auth: Any, house: Serve) -> None:
        site = house()
        one = Admin(site, auth)
        assert one.refusal == "invalid credentials"
        # Nor can it do anything: a packet for a namespace it is not in ends it.
        one.client.send('42/admin,7["_disconnect","/",false]')
        with pytest.raises(raw.Closed):
            one.client.receive()

    def test_a_session_id_spares_the_password(self, house: Serve) -> None:
        site = house()
        session = Admin(site).next()[1]
        again = Admin(site, {"sessionId": session})
        assert again.refusal is None
        assert again.next()[0] == "config"  # and not another session

    def test_a_session_is_one_servers(self, house: Serve) -> None:
        session = Admin(house()).next()[1]
        other = house(admin_password=hash_password("another", ln=4))
        assert Admin(other, {"sessionId": session}).refusal == "invalid credentials"

    def test_a_password_is_tried_a_few_times(self, house: Serve) -> None:
        site = house()
        session = Admin(site).next()[1]
        wrong = {**CREDENTIALS, "password": "open barley"}
        for _ in range(auth.TRIES_OF_ONE):
            assert Admin(site, wrong).refusal == "invalid credentials"
        for attempt in (wrong, CREDENTIALS):  # the right one too: or it could be told apart
            assert Admin(site, attempt).refusal == "too many failed tries: wait 60 seconds"
        assert Admin(site, {"sessionId": session}).refusal is None

    def test_many_at_once_are_as_many_as_one_by_one(
        self, house: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And cost as much: one at a time, in a thread, and only those that are not too many."""
        looks: list[tuple[int, int]] = []
        looking: list[int] = []
        fits = PasswordHash.fits

        def look(self: PasswordHash, password: str) -> bool:
            looking.append(1)
            sleep(0.01)  # the thread's own: others would begin meanwhile
            looks.append((ident(), len(looking)))
            looking.pop()
            return fits(self, password)

        ident = monkey.get_original("_thread", "get_ident")
        sleep = monkey.get_original("time", "sleep")
        monkeypatch.setattr(PasswordHash, "fits", look)
        site = house()
        wrong = {**CREDENTIALS, "password": "open barley"}
        greenlets = [gevent.spawn(lambda: Admin(site, wrong).refusal) for _ in range(30)]
        refusals = [greenlet.get() for greenlet in greenlets]
        assert refusals.count("invalid credentials") == auth.TRIES_OF_ONE
        assert len(looks) == auth.TRIES_OF_ONE
        assert ident() not in {thread for thread, _ in looks}
        assert {beside for _, beside in looks} == {1}

    def test_the_right_password_and_none_at_all_are_not_counted(self, house: Serve) -> None:
        site = house()
        for _ in range(auth.TRIES_OF_ONE + 1):
            assert Admin(site).refusal is None
            assert Admin(site, {"sessionId": "old"}).refusal == "invalid credentials"

    def test_the_password_is_neither_kept_nor_logged(
        self, house: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "webpy_socketio")
        site = house()
        one, _ = come_in(site)
        Admin(site, {**CREDENTIALS, "password": "open barley"})
        one.command("emit", "/", None, "secret news", "open rye")
        for session in site.server.engine.sessions.values():
            for connection in session.data._connections.values():
                assert connection.auth is None
        assert "was not let in" in caplog.text
        for word in (PASSWORD, "open barley", "open rye", HASH):
            assert word not in caplog.text
        assert HASH not in repr(site.server.settings)

    def test_a_page_of_another_origin_is_let_in_only_if_it_is_named(self, house: Serve) -> None:
        def status(site: Site) -> int:
            return raw.WebSocket(
                site.port, headers={"Origin": "https://admin.example"}, handshake=False
            ).status

        assert status(house()) == 403
        assert status(house(allowed_origins=["https://admin.example"])) == 101


class TestTries:
    def test_of_one_address_a_few_in_a_minute(self) -> None:
        tries = auth.LoginThrottle()
        for second in range(auth.TRIES_OF_ONE):
            tries.begin("192.0.2.1", second)
        with pytest.raises(Refused, match="too many"):
            tries.begin("192.0.2.1", 59)
        tries.begin("192.0.2.2", 59)
        tries.begin("192.0.2.1", 60)  # the first of them is a minute old

    def test_of_all_addresses_together_not_many(self) -> None:
        tries = auth.LoginThrottle()
        for number in range(auth.TRIES_OF_ALL):
            tries.begin(f"192.0.2.{number}", 0)
        with pytest.raises(Refused, match="too many"):
            tries.begin("192.0.2.99", 1)

    def test_a_right_one_leaves_nothing_behind(self) -> None:
        tries = auth.LoginThrottle()
        for _ in range(3 * auth.TRIES_OF_ALL):
            tries.forgive(tries.begin("192.0.2.1", 0))


class TestSessions:
    def test_one_is_good_for_a_day(self) -> None:
        sessions = auth.Sessions()
        one = sessions.issue(0)
        assert sessions.knows(one, auth.SESSION_SECONDS - 1)
        assert not sessions.knows(one, auth.SESSION_SECONDS)
        assert not len(sessions)

    def test_there_are_not_too_many_and_the_oldest_goes(self) -> None:
        sessions = auth.Sessions()
        issued = [sessions.issue(0) for _ in range(auth.MAX_SESSIONS + 1)]
        assert len(sessions) == auth.MAX_SESSIONS
        assert not sessions.knows(issued[0], 1)
        assert sessions.knows(issued[-1], 1)


class TestSeen:
    def test_who_is_there_already(self, house: Serve) -> None:
        site = house(namespaces=["/", "/chat"])
        client = site.connect(User_Agent="Test/1")
        client.call("__subscribe__", "room-1")
        polling = site.polling()
        polling.connect()
        _, (first, second) = come_in(site)
        assert first["id"] == client.id
        assert (first["nsp"], first["transport"], first["rooms"]) == ("/", "websocket", ["room-1"])
        assert first["handshake"]["address"] == "127.0.0.1"
        assert first["handshake"]["headers"]["user-agent"] == "Test/1"
        assert first["handshake"]["query"] == {"EIO": "4", "transport": "websocket"}
        assert second["transport"] == "polling"
        assert first["clientId"] != second["clientId"]
        assert first["handshake"]["issued"] <= second["handshake"]["issued"]

    def test_the_sockets_of_a_client_have_one_name_that_is_not_its_secret(
        self, house: Serve
    ) -> None:
        site = house(namespaces=["/", "/chat"])
        client = site.connect()
        client.connect(namespace="/chat,")
        _, (first, second) = come_in(site)
        assert first["clientId"] == second["clientId"]
        assert client.open["sid"] not in json.dumps([first, second])
        assert first["clientId"] not in client.open["sid"]

    def test_who_comes_joins_leaves_and_goes(self, house: Serve) -> None:
        site = house()
        site.connect()
        one, _ = come_in(site)
        client = site.connect()
        client.call("__subscribe__", "room-1")
        client.call("__subscribe__", "room-2")
        client.call("__unsubscribe__", "room-1")
        client.send("41")
        connected, *rest = one.told()
        while len(rest) < 5:
            rest += one.told()
        assert connected[:1] == ["socket_connected"]
        assert (connected[1]["id"], connected[1]["rooms"]) == (client.id, [])
        assert without_times(rest) == [
            ["room_joined", "/", "room-1", client.id],
            ["room_joined", "/", "room-2", client.id],
            ["room_left", "/", "room-1", client.id],
            ["socket_disconnected", "/", client.id, "client namespace disconnect"],
            ["room_left", "/", "room-2", client.id],
        ]

    def test_the_first_one_brings_a_list(self, house: Serve) -> None:
        """The UI chooses the namespace it shows when it is given a list that is not empty."""
        site = house()
        one, nobody = come_in(site)
        assert nobody == []
        client = site.connect()
        assert one.next()[0:2] == ["all_sockets", [one.until("socket_connected")[1]]]
        client.barrier()

    def test_what_they_send_and_are_sent(self, house: Serve) -> None:
        @on_message
        def answer(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send("to you")
            socket.send_and_broadcast_channel("to the room", "room-1")
            socket.emit("bytes", b"\0\1")

        site = house()
        client, other = site.connect(), site.connect()
        for member in (client, other):
            member.call("__subscribe__", "room-1")
        one, _ = come_in(site)
        client.emit("message", {"text": "hi"}, b"".decode())
        client.emit("__channel__", "room-1", "addressed")
        client.emit("custom")
        client.emit("barrier")
        client.emit("__unsubscribe__", "barrier", ack=9)
        while not str(client.receive()).startswith("439"):
            pass
        told = without_times(one.told())
        sent = [event for event in told if event[0] == "event_sent"][:4]
        assert [event[2:] for event in sent] == [
            [client.id, ["message", "to you"]],
            [client.id, ["message", "to the room"]],
            [other.id, ["message", "to the room"]],
            [client.id, ["bytes", "(bytes)"]],
        ]
        assert [event[2:] for event in told if event[0] == "event_received"] == [
            [client.id, ["message", {"text": "hi"}, ""]],
            [client.id, ["__channel__", "room-1", "addressed"]],
            [client.id, ["custom"]],
            [client.id, ["barrier"]],
        ]

    def test_what_goes_out_of_band_and_by_call(self, house: Serve) -> None:
        site = house()
        client = site.connect()
        one, _ = come_in(site)
        broadcast("news")
        caller = gevent.spawn(socket_of(client).call, "question", 1)
        assert client.event() == ["message", "news"]
        question = client.receive()
        client.send("43" + str(question)[2:3] + '["answer"]')
        assert caller.get() == "answer"
        assert without_times(one.told()) == [
            ["event_sent", "/", client.id, ["message", "news"]],
            ["event_sent", "/", client.id, ["question", 1]],
        ]

    def test_what_a_handler_sends_to_a_new_one(self, house: Serve) -> None:
        """Handlers run before the plugin's receivers: the socket is told first all the same."""

        @on_connect
        def hello(request: Any, socket: Any, context: Any) -> None:
            socket.subscribe("room-1")
            socket.send("hello")

        site = house()
        one, _ = come_in(site)
        client = site.connect()
        client.event()
        client.emit_and_wait("barrier")
        told = without_times(one.told())
        assert [event[0] for event in told] == [
            *("all_sockets", "socket_connected", "event_sent", "event_received"),
        ]
        assert told[1][1]["rooms"] == ["room-1"]

    def test_an_upgrade(self, house: Serve, often: None) -> None:
        site = house()
        polling = site.polling()
        polling.connect()
        one, (described,) = come_in(site)
        upgrade = raw.WebSocket(
            site.port, site.path, f"EIO=4&transport=websocket&sid={polling.sid}"
        )
        upgrade.send("2probe")
        assert upgrade.receive() == "3probe"
        polling.poll()
        upgrade.send("5")
        change = {"id": described["id"], "nsp": "/", "transport": "websocket"}
        assert one.until("socket_updated") == ["socket_updated", change]

    def test_statistics(self, house: Serve, often: None) -> None:
        site = house(namespaces=["/", "/chat", "/empty"])
        client = site.connect()
        client.connect(namespace="/chat,")
        site.polling().connect()
        one = Admin(site)
        first = one.until("server_stats")[1]
        assert first["clientsCount"] == 2
        assert first["pollingClientsCount"] == 1
        assert first["namespaces"] == [
            {"name": "/", "socketsCount": 2},
            {"name": "/chat", "socketsCount": 1},
            {"name": "/empty", "socketsCount": 0},
        ]
        assert first["serverId"] == f"{first['hostname']}#{first['pid']}"
        counts: dict[str, int] = {}
        newcomer = site.connect()
        newcomer.emit_and_wait("message", "12345")
        broadcast("67890")
        newcomer.send("41")
        while "rawDisconnection" not in counts:
            for event in one.until("server_stats")[1]["aggregatedEvents"]:
                counts[event["type"]] = counts.get(event["type"], 0) + event["count"]
                if event["type"] == "rawDisconnection":
                    assert event["subType"] == "client namespace disconnect"
        assert counts["rawConnection"] == counts["packetsIn"] == 1
        assert counts["packetsOut"] == 3
        assert counts["bytesIn"] >= len('["message","12345"]')
        assert counts["bytesOut"] >= 3 * len('42["message","67890"]')

    def test_in_production_nothing_but_statistics(self, house: Serve, often: None) -> None:
        site = house(admin_mode="production")
        one = Admin(site)
        client = site.connect()
        client.call("__subscribe__", "room-1")
        client.emit_and_wait("message", "hi")
        broadcast("news")
        client.close()
        names = [one.next()[0] for _ in range(20)]
        assert names[:2] == ["session", "config"]
        assert set(names[2:]) == {"server_stats"}

    def test_the_second_admin_sees_the_same(self, house: Serve) -> None:
        site = house()
        client = site.connect()
        one, _ = come_in(site)
        client.call("__subscribe__", "room-1")
        client.emit_and_wait("message", "counted")
        two = Admin(site)
        # What was counted so far is told to both, at the next turn.
        assert two.until("server_stats")[1]["aggregatedEvents"] == []
        (described,) = two.until("all_sockets")[1]
        assert described["rooms"] == ["room-1"]
        client.call("__subscribe__", "room-2")
        joined = ["room_joined", "/", "room-2", client.id]
        assert without_times(two.told()) == [joined]
        assert joined in without_times(one.told())


class TestSecrets:
    def test_of_a_handshake_only_what_is_harmless_is_shown(self, house: Serve) -> None:
        site = house()
        client = raw.WebSocket(
            site.port,
            site.path,
            "EIO=4&transport=websocket&token=hidden-1",
            {
                "Cookie": "session=hidden-2",
                "Authorization": "Bearer hidden-3",
                "X-Api-Key": "hidden-4",
                "Cf-Access-Jwt": "hidden-5",
                "Referer": "http://127.0.0.1/?token=hidden-6",
            },
        )
        client.connect('{"token":"hidden-7"}')
        context = socket_of(client).context
        context["password"] = "hidden-8"
        _, (described,) = come_in(site)
        assert "hidden-" not in json.dumps(described)
        assert described["handshake"]["query"]["token"] == "(hidden)"

    def test_of_messages_not_what_is_called_a_secret(self, house: Serve) -> None:
        site = house()
        client = site.connect()
        one, _ = come_in(site)
        data = {"user": {"Password": "hidden-1", "author": "Ann", "tokens": ["hidden-2"]}}
        client.emit("login", data, [{"api_key": "hidden-3"}])
        client.emit("set_password", "hidden-4", {"text": "hidden-5"})
        client.emit_and_wait("barrier")
        told = without_times(one.told())
        assert "hidden-" not in json.dumps(told)
        assert [event[3] for event in told[:2]] == [
            [
                "login",
                {"user": {"Password": "(hidden)", "author": "Ann", "tokens": "(hidden)"}},
                [{"api_key": "(hidden)"}],
            ],
            ["set_password", "(hidden)", "(hidden)"],
        ]


class TestBounds:
    @pytest.mark.parametrize(
        "value",
        [
            "x" * 100_000,
            ["x" * 150] * 1000,
            {str(number): "x" * 150 for number in range(1000)},
            [[[[[[[[[["deep"]]]]]]]]]],
            [[1] * 50] * 50,
            b"\0" * 100_000,
            {"x" * 10_000: 1},
        ],
    )
    def test_an_event_is_cut(self, value: Any) -> None:
        text = json.dumps(serializers.describe_event("message", [value, value]))
        assert len(text) < 5000

    def test_a_long_text_tells_its_length(self) -> None:
        assert serializers.describe_event("message", ["x" * 300]) == [
            "message",
            "x" * 200 + "... (300 characters)",
        ]

    def test_so_many_events_and_the_rest_is_counted(
        self, house: Serve, often: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "MAX_EVENTS", 3)
        monkeypatch.setattr(reporter, "INTERVAL", 0.5)
        site = house()
        client = site.connect()
        one, _ = come_in(site)
        total = 200
        for number in range(total):
            client.emit("message", number)
        client.emit_and_wait("barrier")
        seen = noted = 0
        while seen + noted < total + 1:
            event = one.until("event_received", "event_sent")
            found = re.fullmatch(r"\((\d+) more events, which are not shown\)", event[3][0])
            if found:
                noted += int(found[1])
            else:
                seen += 1
        assert seen + noted == total + 1
        assert noted

    def test_of_a_broadcast_some_recipients(
        self, house: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "MAX_RECIPIENTS", 2)
        site = house()
        for _ in range(5):
            site.connect()
        one, _ = come_in(site)
        broadcast("news")
        assert [event[0] for event in one.told()] == ["event_sent"] * 2

    def test_too_many_changes_become_a_list(
        self, house: Serve, often: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "MAX_CHANGES", 2)
        monkeypatch.setattr(reporter, "INTERVAL", 0.5)
        site = house()
        client = site.connect()
        one, _ = come_in(site)
        rooms = [f"room-{number}" for number in range(50)]
        for room in rooms:
            client.call("__subscribe__", room)
        while True:
            (described,) = one.until("all_sockets")[1]
            if described["rooms"] == rooms:
                break

    def test_so_many_sockets_and_the_next_when_one_goes(
        self, house: Serve, often: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "MAX_SOCKETS", 2)
        site = house()
        clients = [site.connect() for _ in range(4)]
        one, described = come_in(site)
        assert [one["id"] for one in described] == [client.id for client in clients[:2]]
        clients[3].call("__subscribe__", "unseen")
        assert one.until("server_stats")[1]["clientsCount"] == 4
        clients[0].close()
        while True:
            event = one.until("all_sockets", "room_joined")
            assert event[0] == "all_sockets"
            if [one["id"] for one in event[1]] == [client.id for client in clients[1:3]]:
                break

    def test_the_list_fits_into_an_outbox(
        self, house: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = house(outbox_bytes=64 * 1024)
        clients = [site.connect() for _ in range(5)]
        for client in clients:
            for number in range(40):
                client.call("__subscribe__", f"{number}".ljust(255, "x"))
        one, described = come_in(site)
        assert 1 <= len(described) < 5
        assert one.told() == []


class TestConfined:
    def test_nobody_else_hears_of_an_admin(self, house: Serve, stages: Journal) -> None:
        @on_message
        def answer(request: Any, socket: Any, context: Any, message: Any) -> str:
            return "a handler"

        site = house(plugins=["webpy_socketio.plugins.presence", PLUGIN])
        one, _ = come_in(site)
        for event in (["message", "hi"], ["__subscribe__", "room"], ["__channel__", "room", 1]):
            assert one.command(*event)[0]["ok"] is False
        one.client.send("41/admin,")
        Admin(site, {})
        one.client.vanish()
        client = site.connect()
        assert client.call("message") == ["a handler"]
        names = [name for name, _ in stages]
        assert names == ["connecting", "connect", "receiving", "message"]

    def test_no_broadcast_reaches_one(self, house: Serve) -> None:
        site = house()
        one, _ = come_in(site)
        assert sockets() == []
        for send in (
            lambda: broadcast("news"),
            lambda: broadcast("news", namespace="/admin"),
            lambda: broadcast_channel("news", "room"),
        ):
            with pytest.raises(NoSocket):
                send()
        client = site.connect()
        socket_of(client).broadcast("news")
        assert "message" not in [event[0] for event in one.told()]

    def test_a_failure_of_the_plugin_is_not_told(
        self, house: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = house()
        one, _ = come_in(site)

        def fail(*args: Any) -> None:
            raise ValueError("the details")

        monkeypatch.setattr("webpy_socketio.plugins.admin.commands.Commands.perform", fail)
        assert one.command("emit")[0] == {"error": "internal error"}
        monkeypatch.setattr("webpy_socketio.plugins.admin.auth.Authenticator.open", fail)
        assert Admin(site).refusal == "not allowed"
        assert caplog.text.count("the plugin of the namespace /admin failed") == 2

        def deny(*args: Any) -> None:
            raise Refused("\ud800")

        monkeypatch.setattr("webpy_socketio.plugins.admin.auth.Authenticator.open", deny)
        assert Admin(site).refusal == "not allowed"


class TestCommands:
    @pytest.fixture
    def open_house(self, house: Serve) -> Callable[..., Site]:
        return lambda **more: house(admin_readonly=False, **more)

    @pytest.mark.parametrize(
        "command",
        [
            ("emit", "/", None, "message", "hi"),
            ("join", "/", "room-2"),
            ("leave", "/", "room-1"),
            ("_disconnect", "/", True),
        ],
    )
    def test_none_is_done_unless_the_settings_say_so(
        self, command: tuple[Any, ...], house: Serve
    ) -> None:
        site = house()
        client = site.connect()
        client.call("__subscribe__", "room-1")
        one, _ = come_in(site)
        answer, told = one.command(*command)
        assert answer["ok"] is False
        assert "SOCKETIO_ADMIN_READONLY" in answer["error"]
        assert told == []
        client.barrier()  # it got nothing before, and is there
        assert socket_of(client).channels == ("room-1",)

    def test_the_ui_is_told_which_there_are(self, open_house: Serve) -> None:
        one = Admin(open_house())
        assert one.until("config")[1]["supportedFeatures"] == [
            *("EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT"),
            *("AGGREGATED_EVENTS", "ALL_EVENTS"),
        ]

    def test_emit(self, open_house: Serve) -> None:
        site = open_house(namespaces=["/", "/chat"])
        first, second = site.connect(), site.connect()
        first.call("__subscribe__", "room-1")
        elsewhere = raw.WebSocket(site.port, site.path)
        elsewhere.connect(namespace="/chat,")
        one, _ = come_in(site)
        for where, count in ((None, 2), ("room-1", 1), (second.id, 1)):
            answer, _ = one.command("emit", "/", where, "news", where, 7)
            assert answer == {"ok": True, "sockets": count}
        assert [first.event(), first.event()] == [["news", None, 7], ["news", "room-1", 7]]
        assert [second.event(), second.event()] == [["news", None, 7], ["news", second.id, 7]]
        assert one.command("emit", "/chat", None, "news")[0] == {"ok": True, "sockets": 1}
        assert elsewhere.event() == ["news"]

    def test_join_and_leave(self, open_house: Serve) -> None:
        site = open_house()
        first, second = site.connect(), site.connect()
        one, _ = come_in(site)
        answer, told = one.command("join", "/", "room-1", first.id)
        assert answer == {"ok": True, "sockets": 1}
        assert without_times(told) == [["room_joined", "/", "room-1", first.id]]
        assert one.command("join", "/", "room-2")[0] == {"ok": True, "sockets": 2}
        assert one.command("join", "/", "room-3", "room-1")[0] == {"ok": True, "sockets": 1}
        assert socket_of(first).channels == ("room-1", "room-2", "room-3")
        assert socket_of(second).channels == ("room-2",)
        assert one.command("leave", "/", "room-2", second.id)[0] == {"ok": True, "sockets": 1}
        assert one.command("leave", "/", "room-3")[0] == {"ok": True, "sockets": 1}
        assert socket_of(first).channels == ("room-1", "room-2")
        assert socket_of(second).channels == ()

    def test_disconnect(self, open_house: Serve) -> None:
        site = open_house(namespaces=["/", "/chat"])
        first, second, third = (site.connect() for _ in range(3))
        second.call("__subscribe__", "room-1")
        for client in (first, third):
            keep = client.id
            client.connect(namespace="/chat,")
            client.id = keep
        one, _ = come_in(site)
        assert one.command("_disconnect", "/", False, first.id)[0] == {"ok": True, "sockets": 1}
        assert first.receive() == "41"
        first.send('42/chat,7["__unsubscribe__","room"]')
        assert first.receive() == '43/chat,7[{"ok":true}]'
        assert one.command("_disconnect", "/", False, "room-1")[0] == {"ok": True, "sockets": 1}
        assert second.wait_closed() == 1000
        assert one.command("_disconnect", "/", True, third.id)[0] == {"ok": True, "sockets": 2}
        assert third.wait_closed() == 1000

    def test_gates_hold(self, open_house: Serve) -> None:
        site = open_house()
        first, second = site.connect(), site.connect()
        staff = socket_of(second)

        @on_subscribing(channel="staff")
        def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            if socket is not staff:
                raise Refused("for staff only")

        one, _ = come_in(site)
        answer, _ = one.command("join", "/", "staff")
        assert answer == {"ok": False, "error": "1 of 2 may not: for staff only"}
        assert staff.channels == ("staff",)
        assert socket_of(first).channels == ()

    @pytest.mark.parametrize(
        ("command", "error"),
        [
            (("nonsense",), "no such command"),
            (("join",), "arguments"),
            (("join", "/", "a", "b", "c", "d"), "arguments"),
            (("join", "/nowhere", "room"), "no namespace"),
            (("join", "/admin", "room"), "no namespace"),
            (("join", ["/"], "room"), "no namespace"),
            (("join", "/", 7), "text"),
            (("join", "/", ""), "1 to 255"),
            (("join", "/", "room", {"a": 1}), "text"),
            (("emit", "/", None, "connect"), "connect"),
            (("emit", "/", None, 7), "name"),
            (("emit", "/", "nobody-there", "news"), "no client"),
        ],
    )
    def test_a_mistake_is_told(
        self, command: tuple[Any, ...], error: str, open_house: Serve
    ) -> None:
        site = open_house()
        client = site.connect()
        one, _ = come_in(site)
        answer, _ = one.command(*command)
        assert answer["ok"] is False
        assert error in answer["error"]
        client.barrier()

    def test_a_channel_with_the_name_of_a_session_id_is_not_its_socket(
        self, open_house: Serve
    ) -> None:
        site = open_house()
        victim, other = site.connect(), site.connect()
        other.call("__subscribe__", victim.id)
        one, _ = come_in(site)
        assert one.command("emit", "/", victim.id, "news")[0] == {"ok": True, "sockets": 1}
        assert victim.event() == ["news"]
        other.barrier()

    def test_who_did_it_is_in_the_log(
        self, open_house: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "webpy_socketio.admin")
        site = open_house()
        one, _ = come_in(site)
        one.command("_disconnect", "/", False, "room\n1")
        one.command("_disconnect", "/nowhere", False)
        messages = [record.getMessage() for record in caplog.records]
        assert messages[-2] == (
            "an admin from 127.0.0.1: ['_disconnect', '/', False, 'room\\n1']: 0 sockets"
        )
        assert messages[-1].endswith("was not done: there is no namespace '/nowhere'")


def receivers() -> int:
    return sum(len(signal.receivers) for signal in (*signals.STAGES, signals.sent))


class TestCost:
    def test_nothing_is_connected_while_nobody_watches(self, house: Serve) -> None:
        site = house()
        assert receivers() == 1  # when a client came
        one, _ = come_in(site)
        two, _ = come_in(site)
        assert receivers() == 7
        one.client.close()
        two.told()
        two.client.vanish()
        while receivers() > 1:
            gevent.sleep(0.01)
        site.server.stop()
        assert receivers() == 0

    @pytest.mark.parametrize("end", ["close", "vanish", "leave", "stop"])
    def test_an_admin_that_leaves_leaves_nothing(self, end: str, house: Serve) -> None:
        site = house()
        client = site.connect()
        one, _ = come_in(site)
        client.call("__subscribe__", "room")
        one.told()
        (watching,) = {receiver.__self__ for receiver in signals.sent.receivers_for("/")}
        socket = weakref.ref(socket_of(client))
        if end == "leave":
            one.client.send("41/admin,")
        elif end == "stop":
            site.server.stop()
        else:
            getattr(one.client, end)()
        while watching._admins:
            gevent.sleep(0.01)
        left = [watching._shown, watching._polling, watching._figures, watching._timer]
        assert not any(left)
        assert not signals.sent.receivers
        client.close()
        while socket() is not None or any(
            isinstance(kept, Connection) and kept.namespace == "/admin" for kept in gc.get_objects()
        ):
            gevent.sleep(0.01)
            gc.collect()

    def test_a_slow_admin_ends_alone(self, house: Serve, often: None) -> None:
        site = house(outbox_bytes=16 * 1024, write_timeout=60)
        client = site.connect()
        one, _ = come_in(site)
        (watching,) = {receiver.__self__ for receiver in signals.sent.receivers_for("/")}
        (connection,) = watching._admins
        outbox = connection.session.outbox
        while not outbox:  # it does not read: the kernel's buffers first,
            connection.emit("filler", "x" * 10_000)
            gevent.sleep(0)
        while signals.sent.receivers:  # and then its own, in the middle of what is told
            client.emit_and_wait("message", "x" * 2000)
        client.barrier()
        one.client.vanish()

    def test_one_that_goes_while_the_password_is_looked_at(
        self, house: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, answer = gevent.event.Event(), gevent.event.Event()

        def fits(self: Any, auth: Any, address: str) -> None:
            asked.set()
            answer.wait()

        monkeypatch.setattr(auth.Authenticator, "open", fits)
        site = house()
        client = raw.WebSocket(site.port, site.path)
        client.send("40/admin,")
        asked.wait()
        client.close()
        while site.server.engine.sessions:
            gevent.sleep(0.01)
        answer.set()
        site.connect().barrier()
        assert not signals.sent.receivers


def test_the_names_that_are_public() -> None:
    assert admin.NAMESPACE == "/admin"
    assert set(admin.__all__) == {
        *("NAMESPACE", "hash_password", "install", "namespaces", "uninstall"),
    }
