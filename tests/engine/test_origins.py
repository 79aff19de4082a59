"""Which pages may connect: the same origin, what is allowed, and nobody else."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from webpy_socketio.engine.origins import Origins


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
    origins = Origins(None, ())

    def test_no_origin_is_no_page(self) -> None:
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
        ],
    )
    def test_our_own_is_allowed(self, origin: str, host: str) -> None:
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
            "*",
        ],
    )
    def test_others_are_refused(self, origin: str) -> None:
        assert not self.origins.allow(environ(origin))

    def test_a_strange_host_is_nobodys_origin(self) -> None:
        for host in ("", "ours.example/path", "ours.example:x", "[", "a@ours.example"):
            assert not self.origins.allow(environ("http://ours.example", host))

    def test_without_a_host_nobody_is_ours(self) -> None:
        request = environ("http://ours.example")
        del request["HTTP_HOST"]
        assert not self.origins.allow(request)


class TestAllowed:
    def test_those_named_are_allowed_besides_our_own(self) -> None:
        origins = Origins(["https://app.example", "http://other.example:8080"], ())
        for origin in ("https://app.example", "https://APP.example:443", "http://ours.example"):
            assert origins.allow(environ(origin))
        for origin in ("http://app.example", "http://other.example", "https://x.app.example"):
            assert not origins.allow(environ(origin))

    def test_only_those_of_others_need_cors(self) -> None:
        origins = Origins(["https://app.example"], ())
        assert origins.cross(environ("https://app.example")) == "https://app.example"
        assert origins.cross(environ("http://ours.example")) is None

    def test_any_means_any_but_null(self) -> None:
        origins = Origins(["*"], ())
        assert origins.allow(environ("http://anybody.example"))
        assert not origins.allow(environ("null"))
        assert not origins.allow(environ("http://anybody.example/path"))

    def test_an_entry_that_is_no_origin_allows_nobody(self) -> None:
        origins = Origins(["app.example", "http://app.example/path"], ())
        for origin in ("http://app.example", "https://app.example", "garbage", "http://"):
            assert not origins.allow(environ(origin))


class TestProxies:
    FORWARDED: ClassVar[dict[str, str]] = {
        "host": "internal:8000",
        "HTTP_X_FORWARDED_HOST": "ours.example",
        "HTTP_X_FORWARDED_PROTO": "https",
    }

    @pytest.mark.parametrize(
        "proxies", [("192.0.2.1",), ("192.0.2.0/24",), ("::1", "192.0.2.9/24")]
    )
    def test_a_trusted_one_is_believed(self, proxies: tuple[str, ...]) -> None:
        origins = Origins(None, proxies)
        assert origins.allow(environ("https://ours.example", **self.FORWARDED))
        assert not origins.allow(environ("http://ours.example", **self.FORWARDED))
        assert not origins.allow(environ("http://internal:8000", **self.FORWARDED))

    @pytest.mark.parametrize("proxies", [(), ("192.0.2.2",), ("198.51.100.0/24", "::/0")])
    def test_others_are_not(self, proxies: tuple[str, ...]) -> None:
        origins = Origins(None, proxies)
        assert not origins.allow(environ("https://ours.example", **self.FORWARDED))
        assert origins.allow(environ("http://internal:8000", **self.FORWARDED))

    def test_of_several_values_the_nearest_proxys_counts(self) -> None:
        origins = Origins(None, ("192.0.2.1",))
        forwarded = {**self.FORWARDED, "HTTP_X_FORWARDED_HOST": "evil.example, ours.example"}
        assert origins.allow(environ("https://ours.example", **forwarded))
        assert not origins.allow(environ("https://evil.example", **forwarded))

    def test_one_that_forwards_nothing_changes_nothing(self) -> None:
        origins = Origins(None, ("192.0.2.1",))
        assert origins.allow(environ("http://ours.example"))

    def test_a_unix_socket_has_no_address(self) -> None:
        origins = Origins(None, ("192.0.2.1",))
        assert not origins.allow(environ("https://ours.example", **self.FORWARDED, REMOTE_ADDR=""))
