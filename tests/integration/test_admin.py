"""Admin plugin: login, reported state and commands, tested through its protocol."""

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

from tests import raw
from tests.conftest import Journal, Site, socket_of
from webpy_socketio import (
    ConfigurationError,
    NoSocket,
    Refused,
    Runtime,
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

PLUGIN = "webpy_socketio.plugins.admin"
PASSWORD = "open sesame"
#: Low cost: the hashing itself is not tested here.
HASH = hash_password(PASSWORD, ln=4)
SETTINGS: dict[str, Any] = {"plugins": [PLUGIN], "admin_username": "ann", "admin_password": HASH}
CREDENTIALS = {"username": "ann", "password": PASSWORD}

Serve = Callable[..., Site]


class Admin:
    """Client of /admin, like the UI, that stores the events it receives."""

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
        """Wait for the next event with one of these names."""
        while True:
            event = self.next()
            if event[0] in names:
                return event

    def command(self, *event: Any) -> tuple[dict[str, Any], list[list[Any]]]:
        """Send a command; return its acknowledgement and the events received before it."""
        self.client.send("42/admin,7" + json.dumps(event))
        received = []
        while True:
            packet = self.client.receive()
            assert isinstance(packet, str)
            if packet.startswith("43/admin,7"):
                return json.loads(packet[10:])[0], received
            received.append(json.loads(packet[packet.index("[") :]))

    def received(self) -> list[list[Any]]:
        """Return the events received until now, without statistics."""
        return [event for event in self.command("barrier")[1] if event[0] != "server_stats"]


@pytest.fixture
def serve_admin(serve: Serve) -> Callable[..., Site]:
    """Return a function that starts a server with the plugin."""
    return lambda **more: serve(**{**SETTINGS, **more})


@pytest.fixture
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the interval of statistics, so that tests can wait for them."""
    monkeypatch.setattr(reporter, "INTERVAL", 0.02)


def log_in(site: Site, auth: Any = CREDENTIALS) -> tuple[Admin, list[Any]]:
    """Connect an admin; return it and the list of sockets."""
    one = Admin(site, auth)
    return one, one.until("all_sockets")[1]


def without_times(events: list[list[Any]]) -> list[list[Any]]:
    return [
        event[:-1] if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", str(event[-1])) else event
        for event in events
    ]


class TestCredentials:
    @pytest.mark.parametrize("missing", ["admin_username", "admin_password"])
    def test_server_without_credentials_does_not_start(self, missing: str, serve: Serve) -> None:
        with pytest.raises(SettingsError, match="SOCKETIO_ADMIN_PASSWORD") as caught:
            serve(**{**SETTINGS, missing: None})
        assert "hash_password" in str(caught.value)

    @pytest.mark.slow
    def test_command_in_the_error_prints_a_valid_hash(self, serve: Serve) -> None:
        with pytest.raises(SettingsError) as caught:
            serve(plugins=[PLUGIN])
        (code,) = re.findall(r'python -c "(.*)"', str(caught.value))
        # Without a terminal, getpass reads the password from stdin and prints a warning.
        program = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            input=f"{PASSWORD}\n",
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
        made = program.stdout.strip().rpartition("Password: ")[2]
        one, _ = log_in(serve(**{**SETTINGS, "admin_password": made}))
        assert one.refusal is None

    @pytest.mark.parametrize(
        "value",
        [PASSWORD, "$2b$10$heqvAkYMez.Va6Et2uXInO", HASH + "$", 7],
        ids=["password", "bcrypt", "trailing character", "number"],
    )
    def test_plain_password_in_the_setting_is_rejected_and_hidden(
        self, value: Any, serve: Serve
    ) -> None:
        with pytest.raises(SettingsError, match="hash_password") as caught:
            serve(**{**SETTINGS, "admin_password": value})
        assert str(value) not in str(caught.value)

    @pytest.mark.parametrize("ln", [0, 18, 40])
    def test_hash_with_excessive_cost_is_rejected(self, ln: int, serve: Serve) -> None:
        with pytest.raises(SettingsError, match="hash_password"):
            serve(**{**SETTINGS, "admin_password": HASH.replace("ln=4", f"ln={ln}")})

    @pytest.mark.parametrize("password", ["", "x" * 1025, None])
    def test_hash_password_of_invalid_length_raises_settings_error(self, password: Any) -> None:
        with pytest.raises(SettingsError, match="1 to 1024"):
            hash_password(password)

    def test_admin_namespace_of_the_application_raises_settings_error(
        self, serve_admin: Serve
    ) -> None:
        with pytest.raises(ConfigurationError, match="SOCKETIO_NAMESPACES"):
            serve_admin(namespaces=["/", "/admin"])

    def test_server_without_the_plugin_rejects_the_admin_namespace(
        self, serve_admin: Serve, serve: Serve
    ) -> None:
        serve_admin()
        assert Admin(serve()).refusal == "Invalid namespace"

    def test_admin_is_not_a_default_plugin(self) -> None:
        server = SocketIOServer(
            ("127.0.0.1", 0), web.application((), {}, autoreload=False).wsgifunc()
        )
        assert PLUGIN not in server.settings.plugins


class TestPasswords:
    def test_hash_is_salted_and_verifies_its_password_only(self) -> None:
        one, two = hash_password(PASSWORD, ln=4), hash_password(PASSWORD, ln=4)
        assert one != two
        assert PASSWORD not in one
        for text in (one, two):
            assert PasswordHash.parse(text).verify(PASSWORD)
            assert not PasswordHash.parse(text).verify(PASSWORD + " ")

    def test_hash_password_default_cost_follows_owasp(self) -> None:
        # OWASP Password Storage Cheat Sheet: N=2**14 (16 MiB), r=8, p=5.
        made = PasswordHash.parse(hash_password(PASSWORD))
        assert (made.ln, made.r, made.p, len(made.salt)) == (14, 8, 5, 16)
        assert made.verify(PASSWORD)


class TestLogin:
    def test_login_with_username_and_password_is_accepted(self, serve_admin: Serve) -> None:
        one = Admin(serve_admin())
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
    def test_login_with_other_credentials_is_rejected(self, auth: Any, serve_admin: Serve) -> None:
        site = serve_admin()
        one = Admin(site, auth)
        assert one.refusal == "invalid credentials"
        # Packets for a namespace that the client has not joined close the connection.
        one.client.send('42/admin,7["_disconnect","/",false]')
        with pytest.raises(raw.Closed):
            one.client.receive()

    def test_login_with_session_id_needs_no_password(self, serve_admin: Serve) -> None:
        site = serve_admin()
        session = Admin(site).next()[1]
        again = Admin(site, {"sessionId": session})
        assert again.refusal is None
        assert again.next()[0] == "config"  # no new session

    def test_session_id_of_another_server_is_rejected(self, serve_admin: Serve) -> None:
        session = Admin(serve_admin()).next()[1]
        other = serve_admin(admin_password=hash_password("another", ln=4))
        assert Admin(other, {"sessionId": session}).refusal == "invalid credentials"

    def test_login_after_several_failures_is_rejected(self, serve_admin: Serve) -> None:
        site = serve_admin()
        session = Admin(site).next()[1]
        wrong = {**CREDENTIALS, "password": "open barley"}
        for _ in range(auth.MAX_FAILURES_PER_ADDRESS):
            assert Admin(site, wrong).refusal == "invalid credentials"
        # The correct password is rejected as well: otherwise it could be guessed further.
        for attempt in (wrong, CREDENTIALS):
            assert Admin(site, attempt).refusal == "too many failed logins: try again in 60 seconds"
        assert Admin(site, {"sessionId": session}).refusal is None

    def test_simultaneous_logins_are_limited_like_sequential_ones(
        self, serve_admin: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Logins are checked one at a time in a thread, and not at all above the limit."""
        looks: list[tuple[int, int]] = []
        looking: list[int] = []
        verify = PasswordHash.verify

        def look(self: PasswordHash, password: str) -> bool:
            looking.append(1)
            sleep(0.01)  # blocks the thread only: other logins would start meanwhile
            looks.append((ident(), len(looking)))
            looking.pop()
            return verify(self, password)

        ident = monkey.get_original("_thread", "get_ident")
        sleep = monkey.get_original("time", "sleep")
        monkeypatch.setattr(PasswordHash, "verify", look)
        site = serve_admin()
        wrong = {**CREDENTIALS, "password": "open barley"}
        greenlets = [gevent.spawn(lambda: Admin(site, wrong).refusal) for _ in range(30)]
        refusals = [greenlet.get() for greenlet in greenlets]
        assert refusals.count("invalid credentials") == auth.MAX_FAILURES_PER_ADDRESS
        assert len(looks) == auth.MAX_FAILURES_PER_ADDRESS
        assert ident() not in {thread for thread, _ in looks}
        assert {beside for _, beside in looks} == {1}

    def test_correct_or_missing_password_is_not_counted_as_failure(
        self, serve_admin: Serve
    ) -> None:
        site = serve_admin()
        for _ in range(auth.MAX_FAILURES_PER_ADDRESS + 1):
            assert Admin(site).refusal is None
            assert Admin(site, {"sessionId": "old"}).refusal == "invalid credentials"

    def test_password_is_neither_stored_nor_logged(
        self, serve_admin: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "webpy_socketio")
        site = serve_admin()
        one, _ = log_in(site)
        Admin(site, {**CREDENTIALS, "password": "open barley"})
        one.command("emit", "/", None, "secret news", "open rye")
        for session in site.server.engine.sessions.values():
            for connection in session.receiver._connections.values():
                assert connection.auth is None
        assert "was rejected" in caplog.text
        for word in (PASSWORD, "open barley", "open rye", HASH):
            assert word not in caplog.text
        assert HASH not in repr(site.server.settings)

    def test_login_from_another_origin_requires_an_allowed_origin(self, serve_admin: Serve) -> None:
        def status(site: Site) -> int:
            return raw.WebSocket(
                site.port, headers={"Origin": "https://admin.example"}, handshake=False
            ).status

        assert status(serve_admin()) == 403
        assert status(serve_admin(allowed_origins=["https://admin.example"])) == 101


class TestLoginThrottle:
    def test_throttle_limits_failures_of_one_address(self) -> None:
        throttle = auth.LoginThrottle()
        for second in range(auth.MAX_FAILURES_PER_ADDRESS):
            throttle.begin("192.0.2.1", second)
        with pytest.raises(Refused, match="too many"):
            throttle.begin("192.0.2.1", 59)
        throttle.begin("192.0.2.2", 59)
        throttle.begin("192.0.2.1", 60)  # the first failure has expired

    def test_throttle_limits_failures_of_all_addresses(self) -> None:
        throttle = auth.LoginThrottle()
        for number in range(auth.MAX_FAILURES):
            throttle.begin(f"192.0.2.{number}", 0)
        with pytest.raises(Refused, match="too many"):
            throttle.begin("192.0.2.99", 1)

    def test_throttle_remove_discards_a_successful_login(self) -> None:
        throttle = auth.LoginThrottle()
        for _ in range(3 * auth.MAX_FAILURES):
            throttle.remove(throttle.begin("192.0.2.1", 0))


class TestSessions:
    def test_session_id_expires_after_a_day(self) -> None:
        sessions = auth.Sessions()
        one = sessions.issue(0)
        assert sessions.is_valid(one, auth.SESSION_SECONDS - 1)
        assert not sessions.is_valid(one, auth.SESSION_SECONDS)
        assert not len(sessions)

    def test_session_beyond_the_limit_replaces_the_oldest(self) -> None:
        sessions = auth.Sessions()
        issued = [sessions.issue(0) for _ in range(auth.MAX_SESSIONS + 1)]
        assert len(sessions) == auth.MAX_SESSIONS
        assert not sessions.is_valid(issued[0], 1)
        assert sessions.is_valid(issued[-1], 1)


class TestReports:
    def test_connected_sockets_are_listed(self, serve_admin: Serve) -> None:
        site = serve_admin(namespaces=["/", "/chat"])
        client = site.connect(User_Agent="Test/1")
        client.call("__subscribe__", "room-1")
        polling = site.polling()
        polling.connect()
        _, (first, second) = log_in(site)
        assert first["id"] == client.id
        assert (first["nsp"], first["transport"], first["rooms"]) == ("/", "websocket", ["room-1"])
        assert first["handshake"]["address"] == "127.0.0.1"
        assert first["handshake"]["headers"]["user-agent"] == "Test/1"
        assert first["handshake"]["query"] == {"EIO": "4", "transport": "websocket"}
        assert second["transport"] == "polling"
        assert first["clientId"] != second["clientId"]
        assert first["handshake"]["issued"] <= second["handshake"]["issued"]

    def test_sockets_of_a_client_share_a_client_id_that_is_not_the_session_id(
        self, serve_admin: Serve
    ) -> None:
        site = serve_admin(namespaces=["/", "/chat"])
        client = site.connect()
        client.connect(namespace="/chat,")
        _, (first, second) = log_in(site)
        assert first["clientId"] == second["clientId"]
        assert client.open["sid"] not in json.dumps([first, second])
        assert first["clientId"] not in client.open["sid"]

    def test_connects_joins_leaves_and_disconnects_are_reported(self, serve_admin: Serve) -> None:
        site = serve_admin()
        site.connect()
        one, _ = log_in(site)
        client = site.connect()
        client.call("__subscribe__", "room-1")
        client.call("__subscribe__", "room-2")
        client.call("__unsubscribe__", "room-1")
        client.send("41")
        connected, *rest = one.received()
        while len(rest) < 5:
            rest += one.received()
        assert connected[:1] == ["socket_connected"]
        assert (connected[1]["id"], connected[1]["rooms"]) == (client.id, [])
        assert without_times(rest) == [
            ["room_joined", "/", "room-1", client.id],
            ["room_joined", "/", "room-2", client.id],
            ["room_left", "/", "room-1", client.id],
            ["socket_disconnected", "/", client.id, "client namespace disconnect"],
            ["room_left", "/", "room-2", client.id],
        ]

    def test_first_socket_is_reported_with_a_list(self, serve_admin: Serve) -> None:
        """The UI selects a namespace when it receives the first list that is not empty."""
        site = serve_admin()
        one, listed = log_in(site)
        assert listed == []
        client = site.connect()
        assert one.next()[0:2] == ["all_sockets", [one.until("socket_connected")[1]]]
        client.barrier()

    def test_received_and_sent_events_are_reported(self, serve_admin: Serve) -> None:
        @on_message
        def answer(request: Any, socket: Any, context: Any, message: Any) -> None:
            socket.send("to you")
            socket.send_and_broadcast_channel("to the room", "room-1")
            socket.emit("bytes", b"\0\1")

        site = serve_admin()
        client, other = site.connect(), site.connect()
        for member in (client, other):
            member.call("__subscribe__", "room-1")
        one, _ = log_in(site)
        client.emit("message", {"text": "hi"}, b"".decode())
        client.emit("__channel__", "room-1", "addressed")
        client.emit("custom")
        client.emit("barrier")
        client.emit("__unsubscribe__", "barrier", ack=9)
        while not str(client.receive()).startswith("439"):
            pass
        received = without_times(one.received())
        sent = [event for event in received if event[0] == "event_sent"][:4]
        assert [event[2:] for event in sent] == [
            [client.id, ["message", "to you"]],
            [client.id, ["message", "to the room"]],
            [other.id, ["message", "to the room"]],
            [client.id, ["bytes", "(bytes)"]],
        ]
        assert [event[2:] for event in received if event[0] == "event_received"] == [
            [client.id, ["message", {"text": "hi"}, ""]],
            [client.id, ["__channel__", "room-1", "addressed"]],
            [client.id, ["custom"]],
            [client.id, ["barrier"]],
        ]

    def test_events_sent_by_module_functions_and_calls_are_reported(
        self, serve_admin: Serve
    ) -> None:
        site = serve_admin()
        client = site.connect()
        one, _ = log_in(site)
        broadcast("news")
        caller = gevent.spawn(socket_of(client).call, "question", 1)
        assert client.event() == ["message", "news"]
        question = client.receive()
        client.send("43" + str(question)[2:3] + '["answer"]')
        assert caller.get() == "answer"
        assert without_times(one.received()) == [
            ["event_sent", "/", client.id, ["message", "news"]],
            ["event_sent", "/", client.id, ["question", 1]],
        ]

    def test_event_sent_by_a_connect_handler_is_reported_after_its_socket(
        self, serve_admin: Serve
    ) -> None:
        """Handlers run before the plugin's receivers, but the socket must be reported first."""

        @on_connect
        def hello(request: Any, socket: Any, context: Any) -> None:
            socket.subscribe("room-1")
            socket.send("hello")

        site = serve_admin()
        one, _ = log_in(site)
        client = site.connect()
        client.event()
        client.emit_and_wait("barrier")
        received = without_times(one.received())
        assert [event[0] for event in received] == [
            *("all_sockets", "socket_connected", "event_sent", "event_received"),
        ]
        assert received[1][1]["rooms"] == ["room-1"]

    def test_upgrade_is_reported(self, serve_admin: Serve, short_interval: None) -> None:
        site = serve_admin()
        polling = site.polling()
        polling.connect()
        one, (described,) = log_in(site)
        upgrade = raw.WebSocket(
            site.port, site.path, f"EIO=4&transport=websocket&sid={polling.sid}"
        )
        upgrade.send("2probe")
        assert upgrade.receive() == "3probe"
        polling.poll()
        upgrade.send("5")
        change = {"id": described["id"], "nsp": "/", "transport": "websocket"}
        assert one.until("socket_updated") == ["socket_updated", change]

    def test_statistics_contain_clients_and_counters(
        self, serve_admin: Serve, short_interval: None
    ) -> None:
        site = serve_admin(namespaces=["/", "/chat", "/empty"])
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

    def test_production_mode_reports_statistics_only(
        self, serve_admin: Serve, short_interval: None
    ) -> None:
        site = serve_admin(admin_mode="production")
        one = Admin(site)
        client = site.connect()
        client.call("__subscribe__", "room-1")
        client.emit_and_wait("message", "hi")
        broadcast("news")
        client.close()
        names = [one.next()[0] for _ in range(20)]
        assert names[:2] == ["session", "config"]
        assert set(names[2:]) == {"server_stats"}

    def test_second_admin_receives_the_same_reports(self, serve_admin: Serve) -> None:
        site = serve_admin()
        client = site.connect()
        one, _ = log_in(site)
        client.call("__subscribe__", "room-1")
        client.emit_and_wait("message", "counted")
        two = Admin(site)
        # The next statistics contain the counters and are sent to both.
        assert two.until("server_stats")[1]["aggregatedEvents"] == []
        (described,) = two.until("all_sockets")[1]
        assert described["rooms"] == ["room-1"]
        client.call("__subscribe__", "room-2")
        joined = ["room_joined", "/", "room-2", client.id]
        assert without_times(two.received()) == [joined]
        assert joined in without_times(one.received())


class TestSecrets:
    def test_handshake_shows_allowed_headers_only(self, serve_admin: Serve) -> None:
        site = serve_admin()
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
        _, (described,) = log_in(site)
        assert "hidden-" not in json.dumps(described)
        assert described["handshake"]["query"]["token"] == "(hidden)"

    def test_values_with_secret_names_are_hidden(self, serve_admin: Serve) -> None:
        site = serve_admin()
        client = site.connect()
        one, _ = log_in(site)
        data = {"user": {"Password": "hidden-1", "author": "Ann", "tokens": ["hidden-2"]}}
        client.emit("login", data, [{"api_key": "hidden-3"}])
        client.emit("set_password", "hidden-4", {"text": "hidden-5"})
        client.emit_and_wait("barrier")
        received = without_times(one.received())
        assert "hidden-" not in json.dumps(received)
        assert [event[3] for event in received[:2]] == [
            [
                "login",
                {"user": {"Password": "(hidden)", "author": "Ann", "tokens": "(hidden)"}},
                [{"api_key": "(hidden)"}],
            ],
            ["set_password", "(hidden)", "(hidden)"],
        ]


class TestLimits:
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
    def test_long_event_is_cut(self, value: Any) -> None:
        text = json.dumps(serializers.describe_event("message", [value, value]))
        assert len(text) < 5000

    def test_cut_text_contains_its_length(self) -> None:
        assert serializers.describe_event("message", ["x" * 300]) == [
            "message",
            "x" * 200 + "... (300 characters)",
        ]

    def test_events_beyond_the_limit_are_counted(
        self, serve_admin: Serve, short_interval: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "MAX_EVENTS", 3)
        monkeypatch.setattr(reporter, "INTERVAL", 0.5)
        site = serve_admin()
        client = site.connect()
        one, _ = log_in(site)
        total = 200
        for number in range(total):
            client.emit("message", number)
        client.emit_and_wait("barrier")
        seen = noted = 0
        while seen + noted < total + 1:
            event = one.until("event_received", "event_sent")
            found = re.fullmatch(r"\((\d+) more events, not shown\)", event[3][0])
            if found:
                noted += int(found[1])
            else:
                seen += 1
        assert seen + noted == total + 1
        assert noted

    def test_broadcast_reports_some_recipients(
        self, serve_admin: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "MAX_RECIPIENTS", 2)
        site = serve_admin()
        for _ in range(5):
            site.connect()
        one, _ = log_in(site)
        broadcast("news")
        assert [event[0] for event in one.received()] == ["event_sent"] * 2

    def test_changes_beyond_the_limit_are_sent_as_a_list(
        self, serve_admin: Serve, short_interval: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "MAX_CHANGES", 2)
        monkeypatch.setattr(reporter, "INTERVAL", 0.5)
        site = serve_admin()
        client = site.connect()
        one, _ = log_in(site)
        rooms = [f"room-{number}" for number in range(50)]
        for room in rooms:
            client.call("__subscribe__", room)
        while True:
            (described,) = one.until("all_sockets")[1]
            if described["rooms"] == rooms:
                break

    def test_sockets_beyond_the_limit_are_listed_after_a_disconnect(
        self, serve_admin: Serve, short_interval: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reporter, "MAX_SOCKETS", 2)
        site = serve_admin()
        clients = [site.connect() for _ in range(4)]
        one, described = log_in(site)
        assert [one["id"] for one in described] == [client.id for client in clients[:2]]
        clients[3].call("__subscribe__", "unseen")
        assert one.until("server_stats")[1]["clientsCount"] == 4
        clients[0].close()
        while True:
            event = one.until("all_sockets", "room_joined")
            assert event[0] == "all_sockets"
            if [one["id"] for one in event[1]] == [client.id for client in clients[1:3]]:
                break

    def test_list_fits_into_an_outbox(
        self, serve_admin: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = serve_admin(outbox_bytes=64 * 1024)
        clients = [site.connect() for _ in range(5)]
        for client in clients:
            for number in range(40):
                client.call("__subscribe__", f"{number}".ljust(255, "x"))
        one, described = log_in(site)
        assert 1 <= len(described) < 5
        assert one.received() == []


class TestSeparation:
    def test_admin_connection_sends_no_signals(self, serve_admin: Serve, stages: Journal) -> None:
        @on_message
        def answer(request: Any, socket: Any, context: Any, message: Any) -> str:
            return "a handler"

        site = serve_admin(plugins=["webpy_socketio.plugins.presence", PLUGIN])
        one, _ = log_in(site)
        for event in (["message", "hi"], ["__subscribe__", "room"], ["__channel__", "room", 1]):
            assert one.command(*event)[0]["ok"] is False
        one.client.send("41/admin,")
        Admin(site, {})
        one.client.vanish()
        client = site.connect()
        assert client.call("message") == ["a handler"]
        names = [name for name, _ in stages]
        assert names == ["connecting", "connect", "receiving", "message"]

    def test_broadcasts_do_not_reach_admins(self, serve_admin: Serve) -> None:
        site = serve_admin()
        one, _ = log_in(site)
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
        assert "message" not in [event[0] for event in one.received()]

    def test_exception_in_the_plugin_is_logged_and_hidden_from_the_client(
        self, serve_admin: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        site = serve_admin()
        one, _ = log_in(site)

        def fail(*args: Any) -> None:
            raise ValueError("the details")

        monkeypatch.setattr("webpy_socketio.plugins.admin.commands.Commands.execute", fail)
        assert one.command("emit")[0] == {"error": "internal error"}
        monkeypatch.setattr("webpy_socketio.plugins.admin.auth.Authenticator.authenticate", fail)
        assert Admin(site).refusal == "not allowed"
        assert caplog.text.count("the plugin of the namespace /admin failed") == 2

        def deny(*args: Any) -> None:
            raise Refused("\ud800")

        monkeypatch.setattr("webpy_socketio.plugins.admin.auth.Authenticator.authenticate", deny)
        assert Admin(site).refusal == "not allowed"


class TestCommands:
    @pytest.fixture
    def serve_writable(self, serve_admin: Serve) -> Callable[..., Site]:
        return lambda **more: serve_admin(admin_readonly=False, **more)

    @pytest.mark.parametrize(
        "command",
        [
            ("emit", "/", None, "message", "hi"),
            ("join", "/", "room-2"),
            ("leave", "/", "room-1"),
            ("_disconnect", "/", True),
        ],
    )
    def test_readonly_server_rejects_commands(
        self, command: tuple[Any, ...], serve_admin: Serve
    ) -> None:
        site = serve_admin()
        client = site.connect()
        client.call("__subscribe__", "room-1")
        one, _ = log_in(site)
        answer, received = one.command(*command)
        assert answer["ok"] is False
        assert "SOCKETIO_ADMIN_READONLY" in answer["error"]
        assert received == []
        client.barrier()  # it is connected and has received nothing
        assert socket_of(client).channels == ("room-1",)

    def test_config_event_lists_supported_features(self, serve_writable: Serve) -> None:
        one = Admin(serve_writable())
        assert one.until("config")[1]["supportedFeatures"] == [
            *("EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT"),
            *("AGGREGATED_EVENTS", "ALL_EVENTS"),
        ]

    def test_dynamic_namespaces_are_shown_while_they_have_sockets(
        self, serve_writable: Serve
    ) -> None:
        site = serve_writable(namespaces=["/", re.compile("/tenant-[0-9]+$")])
        client = site.connect()
        client.connect(namespace="/tenant-1,")
        one, _ = log_in(site)
        client.send("41/tenant-1,")
        while sockets("/tenant-1"):
            gevent.sleep(0.01)
        answer = one.command("emit", "/tenant-1", None, "news")[0]
        assert answer == {"ok": False, "error": "unknown namespace '/tenant-1'"}
        client.connect(namespace="/tenant-2,")
        assert one.command("emit", "/tenant-2", None, "news")[0] == {"ok": True, "sockets": 1}
        assert one.command("emit", ["/"], None, "news")[0]["ok"] is False

    def test_emit_command_sends_to_socket_channel_or_namespace(self, serve_writable: Serve) -> None:
        site = serve_writable(namespaces=["/", "/chat"])
        first, second = site.connect(), site.connect()
        first.call("__subscribe__", "room-1")
        elsewhere = raw.WebSocket(site.port, site.path)
        elsewhere.connect(namespace="/chat,")
        one, _ = log_in(site)
        for where, count in ((None, 2), ("room-1", 1), (second.id, 1)):
            answer, _ = one.command("emit", "/", where, "news", where, 7)
            assert answer == {"ok": True, "sockets": count}
        assert [first.event(), first.event()] == [["news", None, 7], ["news", "room-1", 7]]
        assert [second.event(), second.event()] == [["news", None, 7], ["news", second.id, 7]]
        assert one.command("emit", "/chat", None, "news")[0] == {"ok": True, "sockets": 1}
        assert elsewhere.event() == ["news"]

    def test_join_and_leave_commands_change_subscriptions(self, serve_writable: Serve) -> None:
        site = serve_writable()
        first, second = site.connect(), site.connect()
        one, _ = log_in(site)
        answer, received = one.command("join", "/", "room-1", first.id)
        assert answer == {"ok": True, "sockets": 1}
        assert without_times(received) == [["room_joined", "/", "room-1", first.id]]
        assert one.command("join", "/", "room-2")[0] == {"ok": True, "sockets": 2}
        assert one.command("join", "/", "room-3", "room-1")[0] == {"ok": True, "sockets": 1}
        assert socket_of(first).channels == ("room-1", "room-2", "room-3")
        assert socket_of(second).channels == ("room-2",)
        assert one.command("leave", "/", "room-2", second.id)[0] == {"ok": True, "sockets": 1}
        assert one.command("leave", "/", "room-3")[0] == {"ok": True, "sockets": 1}
        assert socket_of(first).channels == ("room-1", "room-2")
        assert socket_of(second).channels == ()

    def test_disconnect_command_disconnects_sockets_or_clients(self, serve_writable: Serve) -> None:
        site = serve_writable(namespaces=["/", "/chat"])
        first, second, third = (site.connect() for _ in range(3))
        second.call("__subscribe__", "room-1")
        for client in (first, third):
            keep = client.id
            client.connect(namespace="/chat,")
            client.id = keep
        one, _ = log_in(site)
        assert one.command("_disconnect", "/", False, first.id)[0] == {"ok": True, "sockets": 1}
        assert first.receive() == "41"
        first.send('42/chat,7["__unsubscribe__","room"]')
        assert first.receive() == '43/chat,7[{"ok":true}]'
        assert one.command("_disconnect", "/", False, "room-1")[0] == {"ok": True, "sockets": 1}
        assert second.wait_closed() == 1000
        assert one.command("_disconnect", "/", True, third.id)[0] == {"ok": True, "sockets": 2}
        assert third.wait_closed() == 1000

    def test_join_command_rejected_by_a_gate_reports_the_reason(
        self, serve_writable: Serve
    ) -> None:
        site = serve_writable()
        first, second = site.connect(), site.connect()
        staff = socket_of(second)

        @on_subscribing(channel="staff")
        def gate(request: Any, socket: Any, context: Any, channel: str) -> None:
            if socket is not staff:
                raise Refused("for staff only")

        one, _ = log_in(site)
        answer, _ = one.command("join", "/", "staff")
        assert answer == {
            "ok": False,
            "error": "1 of 2 sockets rejected the change: for staff only",
        }
        assert staff.channels == ("staff",)
        assert socket_of(first).channels == ()

    @pytest.mark.parametrize(
        ("command", "error"),
        [
            (("nonsense",), "unknown command"),
            (("join",), "arguments"),
            (("join", "/", "a", "b", "c", "d"), "arguments"),
            (("join", "/nowhere", "room"), "unknown namespace"),
            (("join", "/admin", "room"), "unknown namespace"),
            (("join", ["/"], "room"), "unknown namespace"),
            (("join", "/", 7), "text"),
            (("join", "/", ""), "1 to 255"),
            (("join", "/", "room", {"a": 1}), "must be a string"),
            (("emit", "/", None, "connect"), "connect"),
            (("emit", "/", None, 7), "name"),
            (("emit", "/", "unknown-target", "news"), "no client"),
        ],
    )
    def test_invalid_command_is_acknowledged_with_its_error(
        self, command: tuple[Any, ...], error: str, serve_writable: Serve
    ) -> None:
        site = serve_writable()
        client = site.connect()
        one, _ = log_in(site)
        answer, _ = one.command(*command)
        assert answer["ok"] is False
        assert error in answer["error"]
        client.barrier()

    def test_channel_named_like_a_session_id_does_not_match_the_socket(
        self, serve_writable: Serve
    ) -> None:
        site = serve_writable()
        victim, other = site.connect(), site.connect()
        other.call("__subscribe__", victim.id)
        one, _ = log_in(site)
        assert one.command("emit", "/", victim.id, "news")[0] == {"ok": True, "sockets": 1}
        assert victim.event() == ["news"]
        other.barrier()

    def test_command_is_logged_with_the_address_of_the_admin(
        self, serve_writable: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "webpy_socketio.admin")
        site = serve_writable()
        one, _ = log_in(site)
        one.command("_disconnect", "/", False, "room\n1")
        one.command("_disconnect", "/nowhere", False)
        messages = [record.getMessage() for record in caplog.records]
        assert messages[-2] == (
            "an admin from 127.0.0.1: ['_disconnect', '/', False, 'room\\n1']: 0 sockets"
        )
        assert messages[-1].endswith("failed: unknown namespace '/nowhere'")


def receivers() -> int:
    return sum(len(signal.receivers) for signal in (*signals.STAGES, signals.sent))


class TestRuntimes:
    def test_admin_sees_and_changes_only_sockets_of_the_runtime(
        self, serve_admin: Callable[..., Site]
    ) -> None:
        other = Runtime()
        first = serve_admin(admin_readonly=False)
        second = serve_admin(admin_readonly=False, admin_username="bob", runtime=other)
        client, other_client = first.connect(), second.connect()
        assert Admin(second).refusal == "invalid credentials"
        ann, listed = log_in(first)
        assert [one["id"] for one in listed] == [client.id]
        bob, listed = log_in(second, {**CREDENTIALS, "username": "bob"})
        assert [one["id"] for one in listed] == [other_client.id]
        broadcast("hello")
        other.broadcast("other")
        assert [event[:3] for event in ann.received()] == [["event_sent", "/", client.id]]
        assert [event[:3] for event in bob.received()] == [["event_sent", "/", other_client.id]]
        assert client.event() == ["message", "hello"]
        assert other_client.event() == ["message", "other"]
        answer, _ = bob.command("emit", "/", None, "news", 1)
        assert answer == {"ok": True, "sockets": 1}
        assert other_client.event() == ["news", 1]
        answer, _ = bob.command("join", "/", "room", client.id)
        assert answer == {"ok": True, "sockets": 0}
        answer, _ = bob.command("_disconnect", "/", True)
        assert answer == {"ok": True, "sockets": 1}
        client.barrier()


class TestCost:
    def test_receivers_are_disconnected_without_admins(self, serve_admin: Serve) -> None:
        site = serve_admin()
        assert receivers() == 1  # records when clients connect
        one, _ = log_in(site)
        two, _ = log_in(site)
        assert receivers() == 8
        one.client.close()
        two.received()
        two.client.vanish()
        while receivers() > 1:
            gevent.sleep(0.01)
        site.server.stop()
        assert receivers() == 0

    @pytest.mark.parametrize("end", ["close", "vanish", "leave", "stop"])
    def test_disconnected_admin_leaves_no_state(self, end: str, serve_admin: Serve) -> None:
        site = serve_admin()
        client = site.connect()
        one, _ = log_in(site)
        client.call("__subscribe__", "room")
        one.received()
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
        left = [watching._listed, watching._polling, watching._stats, watching._timer]
        assert not any(left)
        assert not signals.sent.receivers
        client.close()
        while socket() is not None or any(
            isinstance(kept, Connection) and kept.namespace == "/admin" for kept in gc.get_objects()
        ):
            gevent.sleep(0.01)
            gc.collect()

    def test_slow_admin_is_closed_without_affecting_others(
        self, serve_admin: Serve, short_interval: None
    ) -> None:
        site = serve_admin(outbox_bytes=16 * 1024, write_timeout=60)
        client = site.connect()
        one, _ = log_in(site)
        (watching,) = {receiver.__self__ for receiver in signals.sent.receivers_for("/")}
        (connection,) = watching._admins
        outbox = connection.session.outbox
        while not outbox:  # it does not read: first the kernel's buffers fill up,
            connection.emit("filler", "x" * 10_000)
            gevent.sleep(0)
        while signals.sent.receivers:  # then its outbox, which closes the admin
            client.emit_and_wait("message", "x" * 2000)
        client.barrier()
        one.client.vanish()

    def test_disconnect_during_the_password_check_leaves_no_state(
        self, serve_admin: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, answer = gevent.event.Event(), gevent.event.Event()

        def verify(self: Any, auth: Any, address: str) -> None:
            asked.set()
            answer.wait()

        monkeypatch.setattr(auth.Authenticator, "authenticate", verify)
        site = serve_admin()
        client = raw.WebSocket(site.port, site.path)
        client.send("40/admin,")
        asked.wait()
        client.close()
        while site.server.engine.sessions:
            gevent.sleep(0.01)
        answer.set()
        site.connect().barrier()
        assert not signals.sent.receivers


def test_public_names() -> None:
    assert admin.NAMESPACE == "/admin"
    assert set(admin.__all__) == {
        *("NAMESPACE", "hash_password", "install", "namespaces", "uninstall"),
    }
