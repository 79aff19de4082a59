"""The headers `X-Forwarded-*` and `Forwarded`."""

from __future__ import annotations

import pytest

from webpy_socketio.engine.forwarding.forwarded import Description, describe
from webpy_socketio.engine.forwarding.proxies import TrustedProxies

TRUSTED = TrustedProxies(["127.0.0.1", "10.0.0.0/8", "fd00::/8"])


def read(host: str = "chat.example", **headers: str) -> Description:
    """Describe the client of a request with these headers, from a trusted peer."""
    fields = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    return describe({"HTTP_HOST": host, **fields}, TRUSTED.trusts)


class TestScheme:
    @pytest.mark.parametrize(
        ("value", "scheme"),
        [
            *(("https", "https"), ("http", "http"), ("wss", "https"), ("ws", "http")),
            *(("WSS", "https"), ("HttpS", "https"), (" https ", "https")),
            *(("http, https", "https"), ("https,http", "http"), ("evil,wss", "https")),
            *(("", None), ("https,", None), ("ftp", None), ("https://", None), ("on", None)),
            *(("https;", None), ("h\u00fcttps", None), ("https\x00", None)),
        ],
    )
    def test_proto_is_the_last_value(self, value: str, scheme: str | None) -> None:
        assert read(x_forwarded_proto=value).scheme == scheme
        if "," not in value:
            assert read(forwarded=f'proto="{value}"').scheme in (scheme, None)

    def test_sources_name_the_value_as_it_came(self) -> None:
        assert read(x_forwarded_proto="http, WSS").sources == ("X-Forwarded-Proto: WSS",)
        assert read(forwarded="proto=WSS").sources == ("Forwarded: proto=WSS",)


class TestHost:
    @pytest.mark.parametrize(
        ("value", "host"),
        [
            ("shop.example", "shop.example"),
            ("shop.example:8443", "shop.example:8443"),
            ("[2001:db8::1]:8443", "[2001:db8::1]:8443"),
            ("evil.example, shop.example", "shop.example"),
            ("shop.example, evil.example/path", None),
            ("shop.example,", None),
            *(
                (bad, None)
                for bad in ("", ":80", "a b", "a@b", "a/b", "[::1", "[1.2]", "a:x", "a:99999")
            ),
            ("x" * 301, None),
            ("<script>", None),
        ],
    )
    def test_host_is_the_last_value(self, value: str, host: str | None) -> None:
        assert read(x_forwarded_host=value).host == host

    @pytest.mark.parametrize(
        ("host", "port", "found"),
        [
            ("shop.example", "8443", "shop.example:8443"),
            ("[::1]", "8443", "[::1]:8443"),
            ("shop.example:9000", "8443", "shop.example:9000"),
            ("shop.example", "80, 8443", "shop.example:8443"),
            *(
                ("shop.example", port, "shop.example")
                for port in ("443", "80", "0", "65536", "x", "")
            ),
            *(
                ("shop.example", port, "shop.example")
                for port in ("8443,", "+8443", "8443.0", "\u0668")
            ),
        ],
    )
    def test_port_completes_a_host_without_one(self, host: str, port: str, found: str) -> None:
        assert read(x_forwarded_host=host, x_forwarded_port=port).host == found
        assert read(host, x_forwarded_port=port).host in (found, None)

    def test_port_completes_the_host_of_the_request(self) -> None:
        assert read("chat.example", x_forwarded_port="8443").host == "chat.example:8443"
        assert read("chat.example:9000", x_forwarded_port="8443").host is None
        assert read("a b", x_forwarded_port="8443").host is None


class TestAddress:
    @pytest.mark.parametrize(
        ("value", "address"),
        [
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.9:4711", "203.0.113.9"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
            ("6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
            ("203.0.113.9, 10.0.0.2, fd00::2, 127.0.0.1", "203.0.113.9"),
            ("10.0.0.7, 10.0.0.2", "10.0.0.7"),
            ("unknown, 10.0.0.2", "10.0.0.2"),
            ("203.0.113.9,, 10.0.0.2", "10.0.0.2"),
            ("203.0.113.9, _hidden, 10.0.0.2", "10.0.0.2"),
            *(
                (bad, None)
                for bad in ("", "unknown", "_secret", "203.0.113.9,", "1.2.3", "1.2.3.4.5")
            ),
            *(
                (bad, None)
                for bad in ("010.0.0.1", "fe80::1%eth0", "[203.0.113.9", "localhost", "1")
            ),
        ],
    )
    def test_address_is_the_last_that_is_not_a_proxy(self, value: str, address: str | None) -> None:
        assert read(x_forwarded_for=value).address == address

    def test_a_long_list_is_read_from_its_end(self) -> None:
        assert read(x_forwarded_for="6.6.6.6," * 8000 + "10.0.0.2").address == "6.6.6.6"
        assert read(x_forwarded_for="10.0.0.2," * 8000 + "10.0.0.3").address == "10.0.0.2"

    def test_at_most_32_addresses_are_read(self) -> None:
        client = "203.0.113.9"
        for header in ("x_forwarded_for", "forwarded"):
            name = "for=" if header == "forwarded" else ""
            proxy = f",{name}10.0.0.2"
            assert read(**{header: name + client + proxy * 31}).address == client
            assert read(**{header: name + client + proxy * 32}).address != client


class TestForwarded:
    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (
                "for=203.0.113.9;proto=https;host=chat.example",
                ("https", "chat.example", "203.0.113.9"),
            ),
            ('For="[2001:db8::1]:4711";Proto=WSS', ("https", None, "2001:db8::1")),
            ('host="chat.example:8443" ; proto=https', ("https", "chat.example:8443", None)),
            ('for="203.0.113.9:_port"', (None, None, "203.0.113.9")),
            ('for="\\2\\03.0.113.9"', (None, None, "203.0.113.9")),
            ("for=6.6.6.6;host=evil, for=203.0.113.9;proto=https", ("https", None, "203.0.113.9")),
            (
                "for=203.0.113.9;proto=https;host=chat.example, for=10.0.0.2;proto=http;host=inner",
                ("https", "chat.example", "203.0.113.9"),
            ),
            (
                "for=6.6.6.6;host=evil, for=203.0.113.9;proto=http, for=10.0.0.2;proto=https",
                ("http", None, "203.0.113.9"),
            ),
            ("for=unknown;proto=https, for=10.0.0.2;proto=http", ("https", None, "10.0.0.2")),
            ("for=_hidden;proto=https", ("https", None, None)),
            ("proto=https;secret=1;for=203.0.113.9", ("https", None, "203.0.113.9")),
            (";proto=https;", ("https", None, None)),
            ("for=10.0.0.7, for=10.0.0.2", (None, None, "10.0.0.7")),
        ],
    )
    def test_elements_of_one_hop_belong_together(
        self, value: str, found: tuple[str | None, ...]
    ) -> None:
        assert read(forwarded=value)[:3] == found

    def test_value_without_required_quotes_is_accepted(self) -> None:
        found = read(forwarded="for=[2001:db8::1]:4711;host=chat.example:8443")
        assert found[:3] == (None, "chat.example:8443", "2001:db8::1")

    @pytest.mark.parametrize(
        "value",
        [
            "for=" + "a" * 60_000 + " x",
            'for="' + "\\\\" * 30_000,
            "a=b;" * 255 + " x",
            " " * 60_000 + "x",
            "a=b" + " " * 60_000 + "x",
        ],
    )
    def test_long_malformed_value_is_read_in_linear_time(self, value: str) -> None:
        assert read(forwarded=value) == Description()

    @pytest.mark.parametrize(
        "value",
        [
            *("", ",", "for", "for=", "=1.2.3.4", 'for="1.2.3.4', 'for="1.2.3.4"x', "for=1 .2"),
            *("proto=https,", "proto=https;proto=http", "proto = https", "proto=https proto=http"),
            *('for="x, for=203.0.113.9;proto=https', "proto=https" + ",for=10.0.0.2" * 40),
            *(
                "proto=https;host=a/b;proto=https",
                "\u00e4=1;proto=https",
                ";" * 500 + "proto=https",
            ),
        ],
    )
    def test_malformed_value_counts_as_absent(self, value: str) -> None:
        assert read(forwarded=value) == Description()

    def test_forwarded_beside_x_forwarded_is_ignored(self) -> None:
        forwarded = "for=6.6.6.6;proto=https;host=evil.example"
        assert read(forwarded=forwarded, x_forwarded_proto="http")[:3] == ("http", None, None)
        assert read(forwarded=forwarded, x_forwarded_for="203.0.113.9")[:3] == (
            *(None, None, "203.0.113.9"),
        )
