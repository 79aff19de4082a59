"""Tests of the origin check: same origin, allowed origins, CORS headers."""

from __future__ import annotations

from typing import Any

import pytest

from webpy_socketio.engine.config.validators import origins as check_origins
from webpy_socketio.engine.engineio.origins import Origins, parse_origin


def environ(origin: str | None, host: str = "ours.example", **more: str) -> dict[str, Any]:
    request: dict[str, Any] = {
        "wsgi.url_scheme": "http",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": host,
        **more,
    }
    if origin is not None:
        request["HTTP_ORIGIN"] = origin
    return request


class TestSameOrigin:
    origins = Origins(None)

    def test_request_without_origin_is_allowed(self) -> None:
        assert self.origins.allow(environ(None))
        assert self.origins.cross(environ(None)) is None

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://ours.example", "ours.example"),
            ("http://ours.example:80", "ours.example"),
            ("http://ours.example", "ours.example:80"),
            ("HTTP://Ours.Example", "ours.example"),
            ("http://ours.example:8000", "ours.example:8000"),
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
            ("http://[::1]:8000", "[::1]:8000"),
            ("http://[::1]", "[0:0:0:0:0:0:0:1]:80"),
            ("ws://ours.example", "ours.example"),
            ("WS://ours.example:80", "ours.example"),
            ("ws://ours.example:8000", "ours.example:8000"),
            ("http://ours.example", "ours.example:"),
        ],
    )
    def test_same_origin_is_allowed(self, origin: str, host: str) -> None:
        assert self.origins.allow(environ(origin, host))
        assert self.origins.cross(environ(origin, host)) is None

    @pytest.mark.parametrize(
        "origin",
        [
            "http://evil.example",
            "null",
            "NULL",
            "",
            "http://",
            "ours.example",
            "//ours.example",
            "http://ours.example.evil.example",
            "http://evil-ours.example",
            "http://sub.ours.example",
            "http://ours.exampl",
            "http://ours.example:8080",
            "http://ours.example:0",
            "http://ours.example:99999",
            "http://ours.example:x",
            "https://ours.example",
            "ftp://ours.example",
            "file://ours.example",
            "http://ours.example/",
            "http://ours.example/path",
            "http://ours.example?q",
            "http://ours.example#f",
            "http://ours.example@evil.example",
            "http://user@ours.example",
            "http://[ours.example",
            "http://ours.example http://evil.example",
            "http://ours.example, http://evil.example",
            "http://ours.example\\.evil.example",
            "http://ours.exam\tple",
            "http:ours.example",
            "wss://ours.example",
            "wss://evil.example",
            "ws://ours.example:443",
            "ws://ours.example/",
            "capacitor://ours.example",
            "capacitor://localhost",
            "file://",
            "://ours.example",
            "1http://ours.example",
            "*",
        ],
    )
    def test_other_origin_is_rejected(self, origin: str) -> None:
        assert not self.origins.allow(environ(origin))

    def test_malformed_host_rejects_every_origin(self) -> None:
        for host in ("", "ours.example/path", "ours.example:x", "[", "a@ours.example"):
            assert not self.origins.allow(environ("http://ours.example", host))

    def test_missing_host_rejects_every_origin(self) -> None:
        request = environ("http://ours.example")
        del request["HTTP_HOST"]
        assert not self.origins.allow(request)


class TestAllowed:
    def test_named_origins_are_allowed_in_addition_to_the_same_origin(self) -> None:
        origins = Origins(["https://app.example", "http://other.example:8080"])
        for origin in ("https://app.example", "https://APP.example:443", "http://ours.example"):
            assert origins.allow(environ(origin))
        for origin in ("http://app.example", "http://other.example", "https://x.app.example"):
            assert not origins.allow(environ(origin))

    def test_cross_returns_other_origins_only(self) -> None:
        origins = Origins(["https://app.example"])
        assert origins.cross(environ("https://app.example")) == "https://app.example"
        assert origins.cross(environ("http://ours.example")) is None

    @pytest.mark.parametrize(
        "origin", ["http://any.example", "wss://any.example", "null", "file://", "app://any"]
    )
    def test_allow_with_a_wildcard_allows_every_origin(self, origin: str) -> None:
        assert Origins(["*"]).allow(environ(origin))
        assert not Origins(["*"]).allow(environ(f"{origin}/path"))

    @pytest.mark.parametrize(
        ("named", "same", "others"),
        [
            ("capacitor://localhost", "Capacitor://LOCALHOST", ["ionic://localhost"]),
            ("ionic://localhost", "ionic://localhost", ["ionic://localhost.evil", "ionic://"]),
            ("tauri://localhost", "tauri://localhost", ["tauri://localhost:1", "http://localhost"]),
            ("app://-", "app://-", ["app://", "app://-.evil", "app://-/"]),
            ("app://shop:1", "app://shop:1", ["app://shop", "app://shop:2"]),
            ("chrome-extension://abcdef", "chrome-extension://abcdef", ["chrome-extension://abc"]),
            ("moz-extension://0-a", "moz-extension://0-a", ["chrome-extension://0-a"]),
            ("file://", "file://", ["null", "file://host", "file:///"]),
            ("null", "null", ["file://", "NULL", "http://null"]),
            ("wss://ours.example", "https://ours.example", ["https://ours.example:80"]),
            ("https://ours.example", "wss://ours.example:443", ["wss://ours.example.evil"]),
        ],
    )
    def test_allow_with_a_named_origin_matches_exactly(
        self, named: str, same: str, others: list[str]
    ) -> None:
        origins = Origins([named])
        assert check_origins([named]) is None
        assert origins.allow(environ(same, "elsewhere.example"))
        for other in others:
            assert not origins.allow(environ(other, "elsewhere.example")), other

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("WSS://Chat.example:443", "https://chat.example"),
            ("http://[0::1]:80", "http://[::1]"),
            ("https://chat.example:8443", "https://chat.example:8443"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("file://", "file://"),
            ("null", "null"),
        ],
    )
    def test_origin_as_text_is_normalized(self, text: str, shown: str) -> None:
        assert str(parse_origin(text)) == shown

    def test_malformed_entry_allows_no_origin(self) -> None:
        origins = Origins(["app.example", "http://app.example/path"])
        for origin in ("http://app.example", "https://app.example", "garbage", "http://"):
            assert not origins.allow(environ(origin))


class TestCors:
    def preflight(self, origins: Origins, origin: str, **headers: str) -> dict[str, str]:
        request = environ(origin, **headers) | {"REQUEST_METHOD": "OPTIONS"}
        return dict(origins.cors(request))

    @pytest.mark.parametrize("origin", ["null", "capacitor://localhost", "https://App.example"])
    @pytest.mark.parametrize("named", [True, False], ids=["named", "any"])
    def test_cors_for_an_allowed_origin_echoes_it(self, origin: str, named: bool) -> None:
        origins = Origins([origin] if named else ["*"])
        headers = dict(origins.cors(environ(origin) | {"REQUEST_METHOD": "GET"}))
        assert headers == {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Vary": "Origin",
        }

    @pytest.mark.parametrize("origin", ["null", "http://ours.example", "wss://evil.example", "*"])
    def test_cors_for_a_rejected_or_same_origin_is_empty(self, origin: str) -> None:
        assert self.preflight(Origins(["https://app.example"]), origin) == {}

    @pytest.mark.parametrize(
        ("asked", "allowed"),
        [
            ("authorization", "authorization"),
            ("Authorization, X-Api-Key ,content-type", "Authorization, X-Api-Key, content-type"),
            ("", "Content-Type"),
            (", ,", "Content-Type"),
            ("x bad, good, b\u00e4d, x:y, *", "good, *"),
            ("x" * 129 + ",y", "y"),
            (",".join(f"x{number}" for number in range(500)), "x0, x1, "),
        ],
    )
    def test_preflight_allows_the_requested_names(self, asked: str, allowed: str) -> None:
        origins = Origins(["https://app.example"])
        headers = self.preflight(
            origins, "https://app.example", HTTP_ACCESS_CONTROL_REQUEST_HEADERS=asked
        )
        found = headers["Access-Control-Allow-Headers"]
        assert found.startswith(allowed)
        assert len(found) < 1000
        assert found == allowed or found.count(",") == 63
        assert headers["Access-Control-Allow-Methods"] == "GET, POST"

    def test_preflight_without_names_allows_content_type(self) -> None:
        headers = self.preflight(Origins(["*"]), "https://app.example")
        assert headers["Access-Control-Allow-Headers"] == "Content-Type"

    @pytest.mark.parametrize(
        ("allowed", "answered"), [(["https://app.example"], True), (["*"], False)]
    )
    def test_preflight_for_a_private_network_is_granted_to_named_origins(
        self, allowed: list[str], answered: bool
    ) -> None:
        headers = self.preflight(
            Origins(allowed),
            "https://app.example",
            HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK="true",
        )
        assert ("Access-Control-Allow-Private-Network" in headers) == answered
