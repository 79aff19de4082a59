"""URLs of Redis: what they name, why they are rejected, and that no password is shown."""

from __future__ import annotations

import dataclasses

import pytest

from webpy_socketio import ConfigurationError
from webpy_socketio.backplane.addresses import (
    Credentials,
    Host,
    Kind,
    RedisAddress,
    TLSOptions,
    parse_address,
    parse_url,
)

SERVER = RedisAddress(Kind.SERVER, (Host("host", 6379),))
SENTINELS = RedisAddress(
    Kind.SENTINEL, (Host("a", 26379), Host("b", 1), Host("::1", 2)), service="main"
)
TLS = TLSOptions()


def changed(address: RedisAddress, **fields: object) -> RedisAddress:
    return dataclasses.replace(address, **fields)  # type: ignore[arg-type]


class TestValid:
    @pytest.mark.parametrize(
        ("url", "address"),
        [
            ("redis://host", SERVER),
            ("redis://host/", SERVER),
            ("redis://host:6379/0", SERVER),
            ("redis://host:1/3", changed(SERVER, hosts=(Host("host", 1),), database=3)),
            ("redis://host?db=3", changed(SERVER, database=3)),
            ("redis://[::1]:5", changed(SERVER, hosts=(Host("::1", 5),))),
            ("redis://:pw@host", changed(SERVER, credentials=Credentials(None, "pw"))),
            (
                "redis://me:p%40s%2Fs+@host",
                changed(SERVER, credentials=Credentials("me", "p@s/s+")),
            ),
            ("rediss://host", changed(SERVER, tls=TLS)),
            (
                "rediss://host?ssl_ca_certs=/ca%26.pem&ssl_certfile=c&ssl_keyfile=k"
                "&ssl_check_hostname=False",
                changed(SERVER, tls=TLSOptions("/ca&.pem", "c", "k", False)),
            ),
            (
                "rediss://host/1?ssl_cert_reqs=none",
                changed(SERVER, database=1, tls=TLSOptions(None, None, None, False, "none")),
            ),
            ("unix:///run/redis.sock", RedisAddress(Kind.UNIX_SOCKET, path="/run/redis.sock")),
            (
                "unix://me:pw@/run/a%20b?db=2",
                RedisAddress(
                    Kind.UNIX_SOCKET,
                    path="/run/a b",
                    credentials=Credentials("me", "pw"),
                    database=2,
                ),
            ),
            ("redis+sentinel://a,b:1,[::1]:2/main", SENTINELS),
            ("redis+sentinel://a,b:1,[::1]:2/main/4", changed(SENTINELS, database=4)),
            ("rediss+sentinel://a,b:1,[::1]:2/main", changed(SENTINELS, tls=TLS)),
            (
                "redis+sentinel://me:pw@a,b:1,[::1]:2/main?sentinel_username=s"
                "&sentinel_password=a+b%26",
                changed(
                    SENTINELS,
                    credentials=Credentials("me", "pw"),
                    sentinel_credentials=Credentials("s", "a+b&"),
                ),
            ),
        ],
    )
    def test_url_is_parsed(self, url: str, address: RedisAddress) -> None:
        assert parse_url(url) == address

    def test_text_has_hosts_and_service_but_no_password(self) -> None:
        for url, text in [
            ("redis://me:secret@host", "Redis at host:6379"),
            ("rediss://:secret@[::1]", "Redis at [::1]:6379"),
            ("unix://:secret@/run/redis.sock", "Redis at /run/redis.sock"),
            (
                "redis+sentinel://:secret@a,b/main?sentinel_password=secret",
                'Redis master "main" of the Sentinels at a:26379, b:26379',
            ),
        ]:
            address = parse_url(url)
            assert str(address) == text
            assert "secret" not in repr(address)

    def test_server_of_sentinels_keeps_credentials_database_and_tls(self) -> None:
        url = "rediss+sentinel://me:pw@a/main/4?sentinel_password=x&ssl_ca_certs=ca"
        address = parse_url(url)
        server = address.server(Host("b", 5))
        assert (server.kind, server.hosts) == (Kind.SERVER, (Host("b", 5),))
        assert (server.credentials, server.database) == (Credentials("me", "pw"), 4)
        assert server.tls == TLSOptions("ca")
        sentinel = address.sentinel(address.hosts[0])
        assert (sentinel.credentials, sentinel.database) == (Credentials(None, "x"), 0)
        assert sentinel.tls == TLSOptions("ca")
        assert str(sentinel) == "Sentinel at a:26379"


class TestInvalid:
    @pytest.mark.parametrize(
        ("url", "cause"),
        [
            ("secret", "must start with redis://, rediss://, unix://, redis+sentinel://"),
            ("unix://secret/run", "must start with a slash"),
            ("unix:secret", "must start with"),
            ("redis://a,b", "only one host"),
            ("redis://host/1?db=secret", "given twice"),
            ("redis://host?db=secret", "database must be a number"),
            ("redis://host#secret", "after #"),
            ("redis://host?ssl_ca_certs=secret", "the options are db."),
            ("rediss://host?secret", "ssl_ca_certs, ssl_certfile, ssl_keyfile"),
            ("rediss://host?ssl_ca_certs=", "has no value"),
            ("rediss://host?ssl_certfile=secret&ssl_certfile=secret", "given twice"),
            ("rediss://host?ssl_keyfile=secret", "needs ssl_certfile"),
            ("rediss://host?ssl_check_hostname=secret", "true or false"),
            ("rediss://host?ssl_cert_reqs=secret", "required or none"),
            ("redis+sentinel://host?ssl_ca_certs=secret", "sentinel_username"),
            ("redis+sentinel://:secret@host", "name of the master is missing"),
            ("redis+sentinel://host/main/secret", "database must be a number"),
            ("redis+sentinel://host,/main", "host is missing"),
            ("redis+sentinel://host:secret/main", "host or port is invalid"),
            ("redis+sentinel://host/main?sentinel_username=secret", "needs sentinel_password"),
            ("redis+sentinel://host/main?sentinel_password=secr&et", "percent-encoded"),
            ("redis+sentinel://host/main?sentinel_password=secr@et", "percent-encoded"),
        ],
    )
    def test_cause_is_named_without_parts_of_the_url(self, url: str, cause: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            parse_address(url)
        assert cause in str(caught.value)
        assert "URL of Redis is invalid" in str(caught.value)
        assert "secr" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
