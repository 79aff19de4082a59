"""The web.py integration: URLs, `web.ctx`, sessions and processors."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import gevent.event
import gevent.pywsgi
import pytest
import web

import webpy_socketio
from tests.conftest import Journal, Site
from tests.raw import Polling, WebSocket
from webpy_socketio import (
    Refused,
    events,
    on_connect,
    on_connecting,
    on_disconnect,
    on_error,
    on_event,
    on_finish,
    on_message,
    on_subscribe,
    on_subscribing,
    on_unsubscribe,
    signals,
    socketio_urls,
)
from webpy_socketio.assets import CLIENT, EXTENSION, MODULE, asset
from webpy_socketio.runtime import default_runtime

HANDSHAKE = "/socket.io/?EIO=4&transport=polling"


class Response:
    """A complete response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = b"" if response.status == 101 else response.read()

    @property
    def cookie(self) -> str:
        """The ``Cookie`` header that a browser would send after this response."""
        cookies = self.headers.get_all("Set-Cookie") or []
        return "; ".join(cookie.partition(";")[0] for cookie in cookies)


def visit(port: int, path: str, method: str = "GET", **headers: str) -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        return Response(connection.getresponse())
    finally:
        connection.close()


def visit_websocket(port: int, **headers: str) -> Response:
    """Open a WebSocket and return its handshake response, for the headers."""
    return visit(
        port,
        "/socket.io/?EIO=4&transport=websocket",
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key=base64.b64encode(os.urandom(16)).decode(),
        **headers,
    )


class TestUrls:
    def test_socketio_urls_in_urls_serve_socketio(self) -> None:
        urls: tuple[Any, ...] = ("/", "index")
        urls += socketio_urls
        assert len(urls) == 4

    def test_pages_and_sockets_are_served_by_one_application(
        self, serve: Callable[..., Site]
    ) -> None:
        class Index:
            def GET(self) -> str:
                return "a page"

        site = serve(("/", "index"), {"index": Index})
        client = site.connect()
        assert visit(site.port, "/").body == b"a page"
        assert visit(site.port, "/nothing").status == 404
        client.barrier()

    def test_star_import_provides_every_public_name(self) -> None:
        names: dict[str, Any] = {}
        exec("from webpy_socketio import *", names)
        documented = {
            *("SocketIOServer", "socketio_urls", "broadcast", "broadcast_channel", "send", "emit"),
            *("NoSocket", "Refused", "EventError", "ChannelError", "SettingsError", "EncodeError"),
            *("CallTimeout", "Disconnected", "PluginError", "PatchingError", "ListenError"),
            *("configure", "socketio_import_map", "socketio_scripts", "template_dir"),
            *("signals", "Socket"),
            *("on_connecting", "on_connect", "on_message", "on_subscribing", "on_subscribe"),
            *("on_unsubscribe", "on_error", "on_disconnect", "on_finish", "on_event"),
        }
        assert documented <= names.keys()
        assert all(names[name] is getattr(webpy_socketio, name) for name in webpy_socketio.__all__)
        assert len(set(webpy_socketio.__all__)) == len(webpy_socketio.__all__)

    def test_documented_modules_export_the_public_names(self) -> None:
        assert events.on_message is on_message
        assert signals.message.name == "message"

    def test_resource_keyword_changes_the_path(self, serve: Callable[..., Site]) -> None:
        site = serve(resource="rt")
        assert site.path == "/rt/"
        site.connect().barrier()
        assert site.polling().open["sid"]
        assert visit(site.port, f"/rt/{EXTENSION}").status == 200
        answer = visit(site.port, HANDSHAKE)
        assert (answer.status, b"/rt/" in answer.body) == (404, True)

    @pytest.mark.parametrize("resource", ["/rt/", "a/b", "with.dots+and(brackets"])
    def test_resource_with_special_characters_is_served(
        self, resource: str, serve: Callable[..., Site]
    ) -> None:
        site = serve(resource=resource)
        assert site.path == f"/{resource.strip('/')}/"
        site.connect().barrier()

    def test_two_servers_with_different_resources_serve_their_own_path_only(
        self, serve: Callable[..., Site]
    ) -> None:
        first, second = serve(resource="one"), serve(resource="two")
        assert first.connect().id
        assert second.connect().id
        assert visit(first.port, "/two/?EIO=4&transport=polling").status == 404

    def test_scripts_in_a_page_use_the_resource_of_the_server(
        self, serve: Callable[..., Site]
    ) -> None:
        class Index:
            def GET(self) -> str:
                return webpy_socketio.socketio_scripts()

        site = serve(("/", "index"), {"index": Index}, resource="rt")
        assert b'src="/rt/socket.io.min.js?v=' in visit(site.port, "/").body

    def test_subapplication_beside_socketio_urls_is_served(
        self, serve: Callable[..., Site]
    ) -> None:
        class Page:
            def GET(self) -> str:
                return "a page of the blog"

        blog = web.application(("/page", "page"), {"page": Page}, autoreload=False)
        site = serve(("/blog", blog))
        assert visit(site.port, "/blog/page").body == b"a page of the blog"
        site.connect().barrier()

    def test_socketio_urls_in_a_subapplication_serve_socketio(
        self, serve: Callable[..., Site], journal: Journal
    ) -> None:
        inner = web.application(socketio_urls, {}, autoreload=False)

        def processor(handler: Callable[[], Any]) -> Any:
            journal.append(web.ctx.homepath)
            return handler()

        inner.add_processor(processor)
        site = serve(("/live", inner), resource="live/socket.io")
        site.connect().barrier()
        assert visit(site.port, f"/live/socket.io/{CLIENT}").status == 200
        assert journal == ["/live", "/live", "/live"]  # the handshake, connecting, the script

    def test_request_under_another_server_returns_error_with_remedy(self) -> None:
        app = web.application(socketio_urls, {}, autoreload=False)
        server = gevent.pywsgi.WSGIServer(("127.0.0.1", 0), app.wsgifunc(), log=None)
        server.start()
        try:
            answer = visit(server.server_port, HANDSHAKE)
            assert answer.status == 500
            assert b"SocketIOServer" in answer.body
            assert visit(server.server_port, f"/socket.io/{CLIENT}").status == 200
        finally:
            server.stop()

    def test_unknown_path_below_the_resource_returns_404(self, site: Site) -> None:
        for path in ("/socket.io/nothing", "/socket.io/../setup.py", "/socket.io", "/socket.iox/"):
            assert visit(site.port, path).status == 404


class TestScripts:
    @pytest.mark.parametrize("name", [CLIENT, EXTENSION, MODULE])
    def test_scripts_are_served(self, name: str, site: Site) -> None:
        script = asset(name)
        assert script is not None
        answer = visit(site.port, f"/socket.io/{name}")
        assert (answer.status, answer.body) == (200, script.body)
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["ETag"] == script.etag
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "Content-Encoding" not in answer.headers
        assert answer.headers["Vary"] == "Accept-Encoding"

    @pytest.mark.parametrize(
        ("name", "content_type"),
        [
            ("socket.io.js", "text/javascript; charset=utf-8"),
            ("socket.io.esm.min.js", "text/javascript; charset=utf-8"),
            ("socket.io.msgpack.min.js", "text/javascript; charset=utf-8"),
            ("socket.io.msgpack.mjs", "text/javascript; charset=utf-8"),
            ("socket.io.js.map", "application/json"),
            ("socket.io.min.js.map", "application/json"),
            ("socket.io.esm.min.js.map", "application/json"),
            ("socket.io.msgpack.min.js.map", "application/json"),
        ],
    )
    def test_client_is_served_under_its_conventional_names(
        self, name: str, content_type: str, site: Site
    ) -> None:
        script = asset(name)
        assert script is not None
        answer = visit(site.port, f"/socket.io/{name}")
        assert (answer.status, answer.body) == (200, script.body)
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["Cache-Control"] == "no-cache"
        compressed = visit(site.port, f"/socket.io/{name}", Accept_Encoding="gzip")
        assert compressed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(compressed.body) == script.body
        again = visit(site.port, f"/socket.io/{name}", If_None_Match=script.etag)
        assert (again.status, again.body) == (304, b"")

    @pytest.mark.parametrize("name", [CLIENT, MODULE])
    def test_script_url_with_version_is_immutable(self, name: str, site: Site) -> None:
        script = asset(name)
        assert script is not None
        lasting = visit(site.port, f"/socket.io/{name}?v={script.version}")
        assert lasting.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        other = visit(site.port, f"/socket.io/{name}?v=of-an-older-page")
        assert other.headers["Cache-Control"] == "no-cache"

    @pytest.mark.parametrize("name", [CLIENT, MODULE])
    def test_script_request_with_matching_etag_returns_304(self, name: str, site: Site) -> None:
        script = asset(name)
        assert script is not None
        answer = visit(site.port, f"/socket.io/{name}", If_None_Match=script.etag)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == script.etag
        changed = visit(site.port, f"/socket.io/{name}", If_None_Match='W/"another"')
        assert changed.status == 200

    def test_script_request_accepting_gzip_returns_gzip(self, site: Site) -> None:
        script = asset(CLIENT)
        assert script is not None
        answer = visit(site.port, f"/socket.io/{CLIENT}", Accept_Encoding="gzip, deflate")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert len(answer.body) < len(script.body) / 2
        assert gzip.decompress(answer.body) == script.body

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
    @pytest.mark.parametrize("allowed", ["https://app.example", "*"])
    def test_script_has_cors_headers_for_allowed_origins(
        self, allowed: str, method: str, serve: Callable[..., Site]
    ) -> None:
        site = serve(allowed_origins=[allowed])
        for headers in ({}, {"If_None_Match": asset(CLIENT).etag}):  # type: ignore[union-attr]
            origin = "https://app.example"
            answer = visit(site.port, f"/socket.io/{CLIENT}", method, Origin=origin, **headers)
            expected = 204 if method == "OPTIONS" else 304 if headers else 200
            assert answer.status == expected
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert "Origin" in answer.headers.get_all("Vary")

    def test_script_has_no_cors_headers_for_other_origins(self, serve: Callable[..., Site]) -> None:
        site = serve(allowed_origins=["https://app.example"])
        for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": site.url}):
            answer = visit(site.port, f"/socket.io/{CLIENT}", **headers)
            assert answer.status == 200
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Origin" in answer.headers.get_all("Vary")  # required for caches

    def test_script_with_cors_headers_of_a_processor_has_no_duplicates(
        self, serve: Callable[..., Site]
    ) -> None:
        def processor(handler: Callable[[], Any]) -> Any:
            web.header("Access-Control-Allow-Origin", "*")
            return handler()

        site = serve(allowed_origins=["https://app.example"])
        site.app.add_processor(processor)
        path = f"/socket.io/{CLIENT}"
        answer = visit(site.port, path, Origin="https://app.example")
        assert answer.headers.get_all("Access-Control-Allow-Origin") == ["https://app.example"]
        answer = visit(site.port, path, Origin="https://other.example")
        assert answer.headers.get_all("Access-Control-Allow-Origin") == ["*"]

    def test_script_request_with_other_method_returns_404(self, site: Site) -> None:
        assert visit(site.port, f"/socket.io/{CLIENT}", "POST").status == 404


class TestWebContext:
    """`web.ctx` in handlers."""

    def test_web_ctx_in_all_handlers_is_that_of_the_handshake(
        self, site: Site, journal: Journal
    ) -> None:
        def look(name: str, request: Any) -> None:
            journal.append(
                (
                    name,
                    web.ctx.env is request,
                    web.ctx.ip,
                    web.ctx.path,
                    web.cookies().get("name"),
                    web.input().get("room"),
                )
            )

        def record(name: str) -> Callable[..., None]:
            def handler(request: Any, *args: Any) -> None:
                look(name, request)

            return handler

        decorators: list[Any] = [
            *(on_connecting, on_connect, on_message, on_subscribing, on_subscribe),
            *(on_unsubscribe, on_error, on_disconnect, on_finish),
        ]
        for decorator in decorators:
            decorator(record(decorator.__name__))
        on_event("custom")(record("on_event"))
        client = WebSocket(
            site.port,
            query="EIO=4&transport=websocket&room=7",
            headers={"Cookie": "name=Ann"},
        )
        client.connect()
        client.call("__subscribe__", "room")
        client.call("message")
        client.call("custom")
        client.call("__channel__", "nowhere")
        client.send("1")
        journal.wait(lambda journal: journal[-1][0] == "on_finish")
        assert {name for name, *_ in journal} == {
            "on_event",
            *(decorator.__name__ for decorator in decorators),
        }
        assert {tuple(seen) for _, *seen in journal} == {
            (True, "127.0.0.1", "/socket.io/", "Ann", "7")
        }

    def test_web_ctx_differs_between_connections(self, site: Site) -> None:
        @on_message
        def who(request: Any, socket: Any, context: Any, message: Any) -> Any:
            gevent.idle()
            return web.cookies().get("name")

        ann, bob = site.connect(Cookie="name=Ann"), site.connect(Cookie="name=Bob")
        for client in (ann, bob, ann, bob):
            client.emit("message", ack=1)
        assert [ann.receive(), ann.receive()] == ['431["Ann"]'] * 2
        assert [bob.receive(), bob.receive()] == ['431["Bob"]'] * 2

    def test_cookies_set_by_the_handshake_are_in_the_request(self, site: Site) -> None:
        def processor(handler: Callable[[], Any]) -> Any:
            web.setcookie("seen", "yes")
            web.setcookie("name", "changed", path="/", httponly=True)
            return handler()

        @on_message
        def look(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return [web.cookies().get(name) for name in ("seen", "name", "other")]

        site.app.add_processor(processor)
        client = site.connect(Cookie="name=Ann; other=1")
        assert client.call("message") == [["yes", "changed", "1"]]

    def test_headers_set_by_a_processor_are_in_the_handshake_response(self, site: Site) -> None:
        def processor(handler: Callable[[], Any]) -> Any:
            web.header("X-Tenant", "north")
            web.header("Content-Type", "text/html")
            web.setcookie("seen", "yes")
            return handler()

        site.app.add_processor(processor)
        for answer in (visit(site.port, HANDSHAKE), visit_websocket(site.port)):
            assert answer.status in (200, 101)
            assert answer.headers["X-Tenant"] == "north"
            assert answer.headers["Set-Cookie"].startswith("seen=yes")
            assert answer.headers["Content-Type"] != "text/html"

    def test_changes_of_web_ctx_are_discarded_after_the_handler(self, site: Site) -> None:
        @on_message
        def spoil(request: Any, socket: Any, context: Any, message: Any) -> Any:
            before = (web.ctx.get("spoilt"), len(web.ctx.headers))
            web.ctx.spoilt = True
            web.header("X-Spoilt", "yes")
            return list(before)

        client = site.connect()
        assert client.call("message") == [[None, 0]]
        assert client.call("message") == [[None, 0]]

    def test_web_ctx_over_polling_is_that_of_the_handshake(self, site: Site) -> None:
        @on_message
        def who(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return [web.cookies().get("name"), web.ctx.query]

        client = site.polling(Cookie="name=Ann")
        client.connect()
        client.send('421["message"]')
        assert client.poll() == ['431[["Ann","?EIO=4&transport=polling"]]']

    def test_web_data_in_a_handler_is_empty(self, site: Site) -> None:
        @on_message
        def read(request: Any, socket: Any, context: Any, message: Any) -> Any:
            return [web.data().decode(), request["wsgi.input"].read().decode()]

        assert site.connect().call("message") == [["", ""]]


Sites = tuple[Site, Any]


@pytest.fixture
def shop(serve: Callable[..., Site], tmp_path: pathlib.Path) -> Sites:
    """A site with web.py sessions on disk, and pages that write and read them."""

    class Put:
        def GET(self, name: str, value: str) -> str:
            session[name] = value
            return "ok"

    class Show:
        def GET(self) -> str:
            return json.dumps({key: session.get(key) for key in ("page", "socket", "visits")})

    class Kill:
        def GET(self) -> str:
            session.kill()
            return "ok"

    urls = ("/put/(.*)/(.*)", "put", "/show", "show", "/kill", "kill")
    site = serve(urls, {"put": Put, "show": Show, "kill": Kill})
    store = web.session.DiskStore(str(tmp_path))
    session = web.session.Session(site.app, store, initializer={"visits": 0})
    return site, session


def shown(site: Site, cookie: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(visit(site.port, "/show", Cookie=cookie).body)
    return values


def open_client(site: Site, transport: str, cookie: str) -> WebSocket | Polling:
    if transport == "websocket":
        return site.connect(Cookie=cookie)
    client = site.polling(Cookie=cookie)
    client.connect()
    return client


every_transport = pytest.mark.parametrize("transport", ["websocket", "polling", "upgrade"])


class TestSessions:
    @pytest.mark.parametrize("decorator", [on_connecting, on_connect])
    @pytest.mark.parametrize("transport", ["websocket", "polling"])
    def test_session_in_connect_handler_is_loaded_and_saved_after_it(
        self, decorator: Any, transport: str, shop: Sites
    ) -> None:
        site, session = shop
        seen = []

        @decorator
        def handler(request: Any, socket: Any, context: Any) -> None:
            seen.append(session.page)
            session.socket = "was here"
            session.visits += 1

        cookie = visit(site.port, "/put/page/hello").cookie
        open_client(site, transport, cookie)
        assert seen == ["hello"]
        assert shown(site, cookie) == {"page": "hello", "socket": "was here", "visits": 1}

    def test_session_is_available_to_a_gate(self, shop: Sites) -> None:
        site, session = shop

        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            if "page" not in session:
                raise Refused("visit the page first")
            context["page"] = session.page

        client = site.websocket()
        client.send("40")
        assert client.receive() == '44{"message":"visit the page first"}'
        cookie = visit(site.port, "/put/page/hello").cookie
        socket = default_runtime.registry.find(site.connect(Cookie=cookie).id)
        assert socket is not None
        assert socket.context == {"page": "hello"}

    @pytest.mark.parametrize("changes", [True, False])
    def test_session_killed_while_connecting_stays_killed(
        self, changes: bool, shop: Sites, journal: Journal
    ) -> None:
        site, session = shop
        go = gevent.event.Event()

        @on_connect
        def handler(request: Any, socket: Any, context: Any) -> None:
            journal.append(session.session_id)
            go.wait()
            if changes:
                session.socket = "was here"
            journal.append("left")

        cookie = visit(site.port, "/put/page/hello").cookie
        site.connect(Cookie=cookie)
        (session_id,) = journal.wait(len)
        visit(site.port, "/kill", Cookie=cookie)
        go.set()
        journal.wait_for("left")
        gevent.idle()
        assert session_id not in session.store

    @pytest.mark.parametrize("changes", [True, False])
    @pytest.mark.parametrize("decorator", [on_connecting, on_connect])
    def test_session_saved_by_a_page_while_connecting_is_not_overwritten(
        self, decorator: Any, changes: bool, shop: Sites, journal: Journal
    ) -> None:
        site, session = shop
        go = gevent.event.Event()

        @decorator
        def handler(request: Any, socket: Any, context: Any) -> None:
            journal.append("entered")
            go.wait()
            if changes:
                session.socket = "was here"
                del session.visits
            journal.append("left")

        cookie = visit(site.port, "/put/page/old").cookie
        client = site.websocket(Cookie=cookie)
        client.send("40")
        journal.wait_for("entered")
        visit(site.port, "/put/page/new", Cookie=cookie)
        go.set()
        journal.wait_for("left")
        client.receive()
        client.barrier()
        after = {"page": "new", "socket": None, "visits": 0}
        if changes:
            after |= {"socket": "was here", "visits": None}
        assert shown(site, cookie) == after

    def test_session_that_no_handler_changed_is_not_written(
        self, shop: Sites, tmp_path: pathlib.Path
    ) -> None:
        site, session = shop
        on_connect(lambda request, socket, context: session.page)
        cookie = visit(site.port, "/put/page/hello").cookie
        (file,) = tmp_path.iterdir()
        client = site.websocket(Cookie=cookie)  # web.py saves the session after the handshake
        os.utime(file, (1, 1))
        client.connect()
        client.barrier()
        assert file.stat().st_mtime == 1

    def test_session_changed_in_place_is_written(self, shop: Sites) -> None:
        site, session = shop
        session._initializer = {"visits": [1]}
        on_connect(lambda request, socket, context: session.visits.append(2))
        cookie = visit(site.port, "/put/page/hello").cookie
        site.connect(Cookie=cookie).barrier()
        assert shown(site, cookie)["visits"] == [1, 2]

    def test_session_of_a_wrapped_processor_is_not_written_unchanged(
        self, serve: Callable[..., Site], tmp_path: pathlib.Path
    ) -> None:
        site = serve()
        session = web.session.Session(None, web.session.DiskStore(str(tmp_path)))
        site.app.add_processor(lambda handler: session._processor(handler))
        client = site.websocket()
        (file,) = tmp_path.iterdir()
        os.utime(file, (1, 1))
        client.connect()
        client.barrier()
        assert file.stat().st_mtime == 1

    @every_transport
    def test_session_saved_by_a_page_is_kept_at_disconnect(
        self, transport: str, shop: Sites, stages: Journal
    ) -> None:
        site, session = shop

        @on_connect
        def handler(request: Any, socket: Any, context: Any) -> None:
            session.socket = "was here"

        cookie = visit(site.port, "/put/page/old").cookie
        client: Any
        if transport == "upgrade":
            polling = site.polling(Cookie=cookie)
            polling.connect()
            client = WebSocket(
                site.port,
                query=f"EIO=4&transport=websocket&sid={polling.sid}",
                headers={"Cookie": cookie},
            )
            client.send("2probe")
            assert client.receive() == "3probe"
            client.send("5")
        else:
            client = open_client(site, transport, cookie)
        visit(site.port, "/put/page/new", Cookie=cookie)
        assert shown(site, cookie)["page"] == "new"
        for number in range(3):
            client.send(f'42["message",{number}]')
        visit(site.port, "/put/page/newer", Cookie=cookie)
        client.send("1")
        stages.wait_for(("finish", "transport close"))
        site_sessions = site.server.engine.sessions
        assert not [session for session in site_sessions.values() if session.open]
        assert shown(site, cookie) == {"page": "newer", "socket": "was here", "visits": 0}

    def test_session_is_not_saved_by_a_poll_request(self, shop: Sites) -> None:
        site, _ = shop
        cookie = visit(site.port, "/put/page/old").cookie
        client = site.polling(Cookie=cookie)
        client.connect()
        poll = gevent.spawn(client.poll)
        session = site.server.engine.sessions[client.sid]
        while not session.transport.waiting:  # type: ignore[union-attr]
            gevent.idle()
        visit(site.port, "/put/page/new", Cookie=cookie)
        default_runtime.registry.find(client.id).send("end of the poll")  # type: ignore[union-attr]
        assert poll.get() == ['42["message","end of the poll"]']
        assert shown(site, cookie)["page"] == "new"

    def test_session_started_by_the_handshake_is_loaded_in_connect(self, shop: Sites) -> None:
        site, session = shop

        @on_connect
        def handler(request: Any, socket: Any, context: Any) -> None:
            session.socket = "was here"

        answer = visit(site.port, HANDSHAKE)
        client = Polling.__new__(Polling)
        client.port, client.path, client.headers = site.port, "/socket.io/", {}
        client.sid = json.loads(answer.body[1:])["sid"]
        client.connect()
        assert shown(site, answer.cookie)["socket"] == "was here"

    def test_session_cookie_is_in_the_handshake_response(self, shop: Sites) -> None:
        site, _ = shop
        assert "webpy_session_id=" in visit(site.port, HANDSHAKE).cookie
        answer = visit_websocket(site.port)
        assert answer.status == 101
        assert "webpy_session_id=" in answer.cookie


class TestProcessors:
    def test_application_without_processors_handles_a_connection_once(
        self, site: Site, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = site.app.handle

        def counted() -> Any:
            journal.append("handle")
            return handle()

        monkeypatch.setattr(site.app, "handle", counted)

        @on_connect
        def connected(request: Any, socket: Any, context: Any) -> None:
            journal.append(web.ctx.app_stack == [site.app] and web.ctx.path)

        site.connect().barrier()
        assert journal == ["handle", "/socket.io/"]
        site.app.add_processor(lambda handler: handler())
        site.connect().barrier()
        assert journal[2:] == ["handle", "handle", "/socket.io/"]

    def test_processors_run_around_handshake_and_connect(
        self, site: Site, journal: Journal
    ) -> None:
        def processor(handler: Callable[[], Any]) -> Any:
            journal.append("before")
            try:
                return handler()
            finally:
                journal.append("after")

        @on_connecting
        def gate(request: Any, socket: Any, context: Any) -> None:
            journal.append("connecting")

        @on_connect
        def connected(request: Any, socket: Any, context: Any) -> None:
            journal.append("connect")

        @on_message
        def message(request: Any, socket: Any, context: Any, message: Any) -> None:
            journal.append("message")

        site.app.add_processor(processor)
        client = site.websocket()
        assert journal == ["before", "after"]
        client.connect()
        client.call("message")
        assert journal[2:] == ["before", "connecting", "connect", "after", "message"]

    def test_processors_do_not_run_for_requests_of_an_open_session(
        self, site: Site, journal: Journal
    ) -> None:
        # Each request of long-polling would load and save a web session.
        def processor(handler: Callable[[], Any]) -> Any:
            journal.append(web.ctx.method)
            return handler()

        site.app.add_processor(processor)
        client = site.polling()
        client.connect()
        assert journal == ["GET", "GET"]  # the handshake, and connecting
        client.send('421["__unsubscribe__","room"]')
        assert client.poll() == ['431[{"ok":true}]']
        websocket = WebSocket(site.port, query=f"EIO=4&transport=websocket&sid={client.sid}")
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        websocket.send("5")
        websocket.barrier()
        assert journal == ["GET", "GET"]

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            (lambda: web.seeother("/login"), 303),
            (lambda: web.forbidden(), 403),
            (lambda: web.unauthorized(), 401),
            (lambda: web.notfound(), 404),
        ],
    )
    def test_processor_returning_a_response_rejects_the_handshake(
        self, answer: Callable[[], Any], status: int, site: Site, stages: Journal
    ) -> None:
        def login(handler: Callable[[], Any]) -> Any:
            if web.cookies().get("user") is None:
                raise answer()
            return handler()

        site.app.add_processor(login)
        assert visit(site.port, HANDSHAKE).status == status
        assert visit_websocket(site.port).status == status
        assert not stages
        assert not site.server.engine.sessions
        assert site.connect(Cookie="user=Ann").id

    def test_processor_rejecting_after_the_handshake_rejects_the_connection(
        self, site: Site, stages: Journal
    ) -> None:
        banned = False

        def ban(handler: Callable[[], Any]) -> Any:
            if banned:
                raise web.forbidden()
            return handler()

        site.app.add_processor(ban)
        client = site.websocket()
        banned = True
        client.send("40")
        assert client.receive() == '44{"message":"the application answered 403 Forbidden"}'
        assert not stages

    def test_processor_not_calling_the_handler_rejects_the_connection(
        self, site: Site, stages: Journal
    ) -> None:
        away = False
        site.app.add_processor(lambda handler: "closed today" if away else handler())
        client = site.websocket()
        away = True
        client.send("40")
        packet = client.receive()
        assert isinstance(packet, str)
        assert packet.startswith("44")
        assert not stages
        answer = visit(site.port, HANDSHAKE)
        assert (answer.status, answer.body) == (200, b"closed today")

    def test_processor_raising_before_connect_rejects_without_details(
        self, site: Site, stages: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(web.config, "debug", False)

        broken = False

        def fail(handler: Callable[[], Any]) -> Any:
            if broken:
                raise KeyError("the password is 12345")
            return handler()

        site.app.add_processor(fail)
        client = site.websocket()
        broken = True
        client.send("40")
        assert client.receive() == '44{"message":"not allowed"}'
        assert [name for name, _ in stages] == ["error"]
        assert visit(site.port, HANDSHAKE).status == 500

    def test_processor_raising_after_connect_sends_error_and_keeps_the_connection(
        self, site: Site, stages: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(web.config, "debug", False)

        def fail(handler: Callable[[], Any]) -> Any:
            result = handler()
            if web.ctx.get("socketio_job"):
                raise KeyError("too late")
            return result

        site.app.add_processor(fail)
        client = site.connect()
        client.barrier()
        assert [name for name, _ in stages] == ["connecting", "connect", "error"]

    def test_load_and_unload_hooks_run_around_connect(self, site: Site, journal: Journal) -> None:
        site.app.add_processor(web.loadhook(lambda: journal.append("load")))
        site.app.add_processor(web.unloadhook(lambda: journal.append("unload")))
        site.connect()
        assert journal == ["load", "unload"] * 2
