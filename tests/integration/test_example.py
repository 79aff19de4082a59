"""The demo's pages over HTTP, served by example/main_app.py in a new process."""

import contextlib
import http.cookiejar
import re
import shutil
import signal
import sqlite3
import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.demo import MAIN_APP, PAGES, PASSWORD, Chat, example
from tests.servers import Process


class Visitor:
    """A browser without JavaScript, with cookies and forms."""

    def __init__(self, url):
        self.url = url
        self.cookies = http.cookiejar.CookieJar()
        processor = urllib.request.HTTPCookieProcessor(self.cookies)
        self.opener = urllib.request.build_opener(processor)

    def get(self, path, data=None, headers=None):
        """Send a request and follow redirects; return status, headers, text and URL."""
        request = urllib.request.Request(self.url + path, data, headers or {})
        try:
            response = self.opener.open(request, timeout=20)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return response.status, response.headers, response.read().decode(), response.url

    def post(self, page, path=None, **fields):
        """Submit the form of a page with the page's token."""
        token = re.search(r'name="csrf" value="([^"]+)"', self.get(page)[2])[1]
        return self.get(path or page, urllib.parse.urlencode({"csrf": token, **fields}).encode())


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    chat = Chat(tmp_path_factory.mktemp("chat"))
    yield chat
    chat.stop()


@pytest.fixture
def visitor(chat):
    return Visitor(chat.url)


def test_first_start_creates_rooms(visitor):
    status, headers, text, _ = visitor.get("/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    for name in ("Lobby", "Kaffeeküche", "談話室"):
        assert name in text


def test_room_page_has_channel_and_scripts(visitor):
    status, _, text, _ = visitor.get("/room/lobby")
    assert status == 200
    assert 'data-channel="room-lobby"' in text
    sources = re.findall(r'<script[^>]* src="([^"]+)"', text)
    assert len(sources) == 3
    for source in sources:
        status, headers, _, _ = visitor.get(source)
        assert status == 200
        assert "javascript" in headers["Content-Type"]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Tea & Biscuits!", "tea-biscuits"),
        ("Чайная", "чайная"),
        ("हिन्दी कक्ष", "हिन्दी-कक्ष"),
        ("غرفة الشاي", "غرفة-الشاي"),
        ("喫茶店", "喫茶店"),
        ("ＷＩＤＥ", "wide"),
        ("../../etc", "etc"),
        ("🎉", "room"),
        ("a" * 60, "a" * 60),
    ],
)
def test_room_name_may_use_any_script(visitor, name, slug):
    status, _, text, address = visitor.post("/", name=name)
    assert status == 200
    assert urllib.parse.unquote(address) == f"{visitor.url}/room/{slug}"
    assert name.replace("&", "&amp;") in text
    assert f'href="/room/{urllib.parse.quote(slug)}"' in visitor.get("/")[2]


def test_rooms_of_the_same_name_get_numbers(visitor):
    addresses = [visitor.post("/", name=name)[3] for name in ("Twins", "twins", " TWINS! ")]
    assert [a.rpartition("/")[2] for a in addresses] == ["twins", "twins-2", "twins-3"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "needs at least one character"),
        (" \t\N{ZERO WIDTH SPACE} ", "needs at least one character"),
        ("b" * 61, "at most 60 characters; this one has 61"),
    ],
)
def test_invalid_room_name_is_reported_and_kept(visitor, name, message):
    status, _, text, _ = visitor.post("/", name=name)
    assert status == 400
    assert message in text
    assert f'value="{name.strip()}"' in text


def test_names_are_escaped_in_html(visitor):
    name = "<script>alert('x')</script>\""
    _, _, _, address = visitor.post("/", name=name)
    visitor.post("/login", password=PASSWORD)
    pages = ["/", "/sysmsg", urllib.parse.urlsplit(address).path]
    for page in pages:
        text = visitor.get(page)[2]
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;" in text
    text = visitor.post("/", name=name + "x" * 60)[2]
    assert 'value="&lt;script&gt;' in text


@pytest.mark.parametrize("path", ["/", "/sysmsg", "/login", "/logout"])
@pytest.mark.parametrize("token", [{}, {"csrf": ""}, {"csrf": "wrong"}, {"csrf": "é"}])
def test_form_without_valid_token_is_rejected(visitor, path, token):
    visitor.get("/")
    data = {**token, "name": "Sneaky", "text": "Sneaky", "password": PASSWORD}
    data = urllib.parse.urlencode(data).encode()
    status, _, text, _ = visitor.get(path, data)
    assert status == 403
    assert "reload the page" in text
    assert "Sneaky" not in visitor.get("/")[2]
    assert "Sign out" not in visitor.get("/")[2]


def test_token_of_another_session_is_rejected(chat, visitor):
    theirs = re.search(r'name="csrf" value="([^"]+)"', Visitor(chat.url).get("/")[2])[1]
    visitor.get("/")
    data = urllib.parse.urlencode({"csrf": theirs, "name": "Sneaky"}).encode()
    assert visitor.get("/", data)[0] == 403


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"csrf=\xff&name=x", "application/x-www-form-urlencoded"),
        (b"junk", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="csrf"; filename="a"\r\n\r\n1'
            b"\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_unreadable_form_is_rejected(visitor, data, kind):
    status, _, text, _ = visitor.get("/", data, {"Content-Type": kind})
    assert status in {400, 403}
    assert "All rooms" in text


def test_system_message_without_recipients_is_reported_and_kept(visitor):
    visitor.post("/login", password=PASSWORD)
    for room in ("", "lobby"):
        status, _, text, _ = visitor.post("/sysmsg", text="Is <anyone> there?", room=room)
        assert status == 200
        assert "No user is connected" in text
        assert "Is &lt;anyone&gt; there?</textarea>" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": " ", "room": ""}, "needs at least one character"),
        ({"text": "x" * 2001, "room": ""}, "at most 2000 characters"),
        ({"text": "Hello", "room": "no-such-room"}, "There is no such room."),
    ],
)
def test_invalid_system_message_is_reported(visitor, fields, message):
    visitor.post("/login", password=PASSWORD)
    status, _, text, _ = visitor.post("/sysmsg", **fields)
    assert status == 400
    assert message in text


@pytest.mark.parametrize(
    "path", ["/nowhere", "/room/nowhere", "/room/%ff", "/static/none.css", "/static/chat.py"]
)
def test_missing_page_links_to_the_rooms(visitor, path):
    status, headers, text, _ = visitor.get(path)
    assert status == 404
    assert headers.get_all("Content-Type") == ["text/html; charset=utf-8"]
    assert 'href="/"' in text


@pytest.mark.parametrize("path", [*PAGES, "/nowhere", "/static/chat.js"])
def test_every_page_has_strict_headers(visitor, path):
    _, headers, text, _ = visitor.get(path)
    (policy,) = headers.get_all("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"<style|<[^>]+ style=|<[^>]+ on\w+=|<script(?![^>]* src=)", text)


def test_session_cookie_is_same_site_and_http_only(visitor):
    cookie = visitor.get("/")[1]["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


@pytest.mark.parametrize(
    ("name", "kind"),
    [("chat.css", "text/css"), ("chat.js", "text/javascript"), ("icon.svg", "image/svg+xml")],
)
def test_static_file_is_revalidated(visitor, name, kind):
    status, headers, text, _ = visitor.get(f"/static/{name}")
    assert status == 200
    assert text
    assert headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["Set-Cookie"] is None
    status, _, text, _ = visitor.get(f"/static/{name}", headers={"If-None-Match": headers["ETag"]})
    assert (status, text) == (304, "")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../main_app.py",
        "/static/%2e%2e/main_app.py",
        "/static/..%2fmain_app.py",
        "/static//etc/passwd",
        "/static/..%5cmain_app.py",
        "/static/",
    ],
)
def test_files_outside_static_are_not_served(visitor, path):
    status, _, text, _ = visitor.get(path)
    assert status == 404
    assert "monkey" not in text


def cookie(visitor):
    (cookie,) = visitor.cookies
    return cookie.value


def test_admin_page_redirects_to_login_and_back(visitor):
    assert visitor.get("/sysmsg")[3].endswith("/login?to=sysmsg")
    token = re.search(r'csrf" value="([^"]+)"', visitor.get("/login?to=sysmsg")[2])[1]
    data = urllib.parse.urlencode({"csrf": token, "text": "Sneaky", "room": ""}).encode()
    assert visitor.get("/sysmsg", data)[3].endswith("/login?to=sysmsg")
    status, _, _, address = visitor.post("/login?to=sysmsg", password=PASSWORD, to="sysmsg")
    assert (status, address) == (200, f"{visitor.url}/sysmsg")


@pytest.mark.parametrize("to", ["", "//evil.example", "https://evil.example/", "/sysmsg", "é"])
def test_login_redirects_to_known_pages_only(visitor, to):
    assert visitor.post("/login", password=PASSWORD, to=to)[3] == f"{visitor.url}/"


@pytest.mark.parametrize("password", ["", "Let me in", "é", "x" * 10_000])
def test_wrong_password_is_rejected(visitor, password):
    status, _, text, _ = visitor.post("/login", password=password)
    assert status == 403
    assert "That is not the password." in text
    assert visitor.get("/sysmsg")[3].endswith("/login?to=sysmsg")


def test_login_changes_session_id_and_logout_ends_session(chat, visitor):
    visitor.get("/")
    before = cookie(visitor)
    visitor.post("/login", password=PASSWORD)
    inside = cookie(visitor)
    assert inside != before
    assert "Sign out" in visitor.get("/")[2]
    visitor.post("/", path="/logout")
    assert "Sign out" not in visitor.get("/")[2]
    store = {path.name for path in (chat.folder / "data" / "sessions").iterdir()}
    assert not store & {before, inside}  # both sessions are deleted
    for known in (before, inside):
        text = Visitor(chat.url).get("/", headers={"Cookie": f"chat_session={known}"})[2]
        assert "Sign out" not in text


def test_default_password_is_shown_until_changed(visitor, tmp_path):
    assert f"<code>{PASSWORD}</code>" in visitor.get("/login")[2]
    chat = Chat(tmp_path, CHAT_PASSWORD="another")
    try:
        other = Visitor(chat.url)
        assert PASSWORD not in other.get("/login")[2]
        assert "another" not in other.get("/login")[2]
        assert other.post("/login", password=PASSWORD)[0] == 403
        assert other.post("/login", password="another")[0] == 200
    finally:
        chat.stop()


def test_internal_error_page_has_no_details(tmp_path):
    chat = Chat(tmp_path)
    try:
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "chat.sqlite")) as database:
            database.execute("DROP TABLE room")
        status, headers, text, _ = Visitor(chat.url).get("/")
        assert status == 500
        assert "That went wrong on our side." in text
        assert "All rooms" in text
        assert "script-src 'self';" in headers["Content-Security-Policy"]
        assert not re.search("Traceback|sqlite|OperationalError|main_app", text)
    finally:
        chat.process.kill()


def test_lost_connection_keeps_presence_for_two_minutes(tmp_path):
    """Other users must not notice interruptions."""
    told = example(
        tmp_path,
        """
        import main_app
        from webpy_socketio.plugins import presence
        from webpy_socketio.testing import TestServer
        with TestServer(main_app.app) as server:
            browser = server.browser()
            for end in ("lose", "close", "leave"):
                tab = browser.connect()
                tab.subscribe("room-lobby")
                assert tab.call("join", "Ann") == {"ok": True, "name": "Ann"}
                tab.emit("leave") if end == "leave" else getattr(tab, end)()
                for seconds in (0, 119.9, 0.2):
                    server.advance(seconds)
                    say(list(presence.members("room-lobby")))
        """,
    )
    assert told == ["['ann']", "['ann']", *["[]"] * 7]


def test_closed_connections_are_removed(tmp_path):
    """Memory must not grow with the number of past visitors."""
    told = example(
        tmp_path,
        """
        import main_app, people
        from webpy_socketio.testing import TestServer
        with TestServer(main_app.app) as server:
            browser = server.browser()
            tabs = [browser.connect() for _ in range(2)]
            other = server.connect()
            say(sorted(len(sockets) for sockets in people.sockets.values()))
            tabs[0].close()
            say(sorted(len(sockets) for sockets in people.sockets.values()))
            tabs[1].close()
            other.close()
            say(people.sockets)
        """,
    )
    assert told == ["[1, 2]", "[1, 1]", "{}"]


def test_number_of_rooms_is_limited(tmp_path):
    told = example(
        tmp_path,
        """
        import rooms
        rooms.create()
        rooms.create()
        rooms.MOST_ROOMS = len(rooms.everything()) + 1
        say(rooms.add("One more"), [room.slug for room in rooms.everything()])
        try:
            rooms.add("And one")
        except ValueError as error:
            say(error)
        """,
    )
    assert told == [
        "one-more ['lobby', 'kaffeeküche', '談話室', 'admins', 'one-more']",
        "There are 5 rooms already, which is the limit.",
    ]


def test_room_is_found_by_its_own_channel_only(tmp_path):
    told = example(
        tmp_path,
        """
        import rooms
        rooms.create()
        for channel in (
            "room-lobby", "admin-admins", "room-admins", "admin-lobby", "lobby", "room-"
        ):
            say(channel, rooms.at(channel) and rooms.at(channel).name)
        """,
    )
    assert told == [
        "room-lobby Lobby",
        "admin-admins Admins",
        *[f"{channel} None" for channel in ("room-admins", "admin-lobby", "lobby", "room-")],
    ]


def test_messages_are_numbered_deduplicated_and_limited(tmp_path):
    told = example(
        tmp_path,
        """
        import messages
        messages.create()
        messages.KEPT, messages.ANSWERED = 4, 3
        for text in "abcdef":
            messages.keep("one", "ann", "Ann", text, f"token {text}")
        say(messages.keep("one", "ann", "Ann", "f again", "token f"))
        say(messages.keep("one", "bob", "Bob", "g", "token f")["id"])
        say(messages.keep("other", "ann", "Ann", "h", "token f")["id"])
        first = messages.keep("one", "ann", "Ann", "i", None)["id"]
        say(first, messages.keep("one", "ann", "Ann", "j", None)["id"])
        for number in (0, 7, 8, 9, -1, True, None, "8", 2 ** 70, float("nan")):
            say(*[said["text"] for said in messages.since("one", number)])
        from rooms import database
        say(database.query("SELECT COUNT(*) AS n FROM message WHERE room = 'one'")[0].n)
        """,
    )
    assert told == ["None", "7", "1", "8 9", *["g i j"] * 1, "i j", "j", "", *["g i j"] * 6, "4"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "ANN"),
        ("Ann", "A\N{ZERO WIDTH JOINER}nn"),
        ("Ann", "An\N{COMBINING GRAPHEME JOINER}n"),
        ("Ann", "Ann\N{HANGUL FILLER}"),
        ("Ann", "Ann\N{VARIATION SELECTOR-16}"),
        ("Ann", "\N{FULLWIDTH LATIN CAPITAL LETTER A}nn"),
        ("Ann", "\N{MATHEMATICAL BOLD CAPITAL A}nn"),
        ("É", "E\N{COMBINING ACUTE ACCENT}"),
        ("Straße", "STRASSE"),
    ],
)
def test_similar_names_are_equal(tmp_path, one, other):
    assert example(
        tmp_path, f"import texts; say(texts.fold({one!r}) == texts.fold({other!r}))"
    ) == ["True"]


def test_mixed_alphabets_are_detected(tmp_path):
    names = {
        "Ann": False,
        "\N{CYRILLIC CAPITAL LETTER A}nn": True,
        "Ann\N{GREEK SMALL LETTER OMICRON}": True,
        "Анна": False,
        "Άννα": False,
        "山田 Taro": False,
        "فاطمة Ann": False,
        "Ann 2 🌷": False,
    }
    told = example(
        tmp_path, f"import texts; say([texts.mixes_alphabets(n) for n in {list(names)!r}])"
    )
    assert told == [str(list(names.values()))]


def test_rooms_and_sessions_survive_restart(tmp_path):
    chat = Chat(tmp_path)
    try:
        visitor = Visitor(chat.url)
        visitor.post("/", name="Lasting")
        token = re.search(r'csrf" value="([^"]+)"', visitor.get("/")[2])[1]
        chat.stop()
        chat.start()
        text = visitor.get("/")[2]
        assert "Lasting" in text
        assert token in text
        assert text.count("Lobby") == 1
    finally:
        chat.stop()


@pytest.mark.time_limit(60)  # Redis and three interpreters start
def test_cluster_demo_shares_rooms_and_sessions(tmp_path):
    """`make cluster-demo`: both workers share rooms, pages and sessions, and stop together."""
    if not (shutil.which("redis-server") or shutil.which("valkey-server")):
        pytest.skip("there is no redis-server on this machine")
    env = {"PORT": "0", "CHAT_DATA": str(tmp_path / "data")}
    program = MAIN_APP.with_name("cluster.py")
    process = Process([sys.executable, str(program)], tmp_path / "cluster.log", env)
    try:
        port = process.wait_for("Serving main_app:app on http://127.0.0.1:").strip("/")
        for _ in range(4):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/room/lobby") as answer:
                assert "Lobby" in answer.read().decode()
        process.popen.send_signal(signal.SIGINT)
        assert process.wait() == 0
    finally:
        process.kill()
    assert process.errors == ""
