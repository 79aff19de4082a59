"""Addresses of Redis: the URL of ``SOCKETIO_BACKPLANE``, parsed.

============================  =====================================================================
scheme                        address
============================  =====================================================================
``redis``, ``rediss``         one server, by TCP or by TLS
``unix``                      one server, by a Unix socket
``redis+sentinel``,           the master of a service that Sentinels watch; with TLS to the
``rediss+sentinel``           Sentinels and to the master
``redis+cluster``,            a Redis Cluster, found by some of its nodes; with TLS to all nodes
``rediss+cluster``
============================  =====================================================================

Errors name the cause without any part of the URL, which may contain passwords.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from webpy_socketio.exceptions import ConfigurationError

__all__ = [
    "URL_FORMS",
    "Credentials",
    "Host",
    "Kind",
    "RedisAddress",
    "TLSOptions",
    "is_cluster",
    "parse_address",
    "parse_url",
]

#: The forms of a URL, for messages.
URL_FORMS = (
    '"redis://[[name]:password@]host[:port][/database]", "rediss://..." for TLS, '
    '"unix://[[name]:password@]/path[?db=database]", '
    '"redis+sentinel://[[name]:password@]host[:port][,host[:port]...]/service[/database]", or '
    '"redis+cluster://[[name]:password@]host[:port][,host[:port]...]"'
)


class Kind(enum.Enum):
    """How the servers of an address are found."""

    SERVER = "server"
    UNIX_SOCKET = "unix socket"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True)
class Host:
    """Host name or IP address, and port."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Credentials:
    """User name and password; each may be None."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TLSOptions:
    """Options of TLS connections, by their names in redis-py without ``ssl_``."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    check_hostname: bool = True
    #: ``"required"`` or ``"none"``.
    cert_reqs: str = "required"


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is, and how to connect to it; the text of it contains no password."""

    kind: Kind
    #: Servers, or Sentinels in the order in which they are queried; empty for a Unix socket.
    hosts: tuple[Host, ...] = ()
    #: Path of the Unix socket.
    path: str = ""
    credentials: Credentials = Credentials()
    database: int = 0
    #: None without TLS.
    tls: TLSOptions | None = None
    #: Name of the master that the Sentinels watch.
    service: str = ""
    sentinel_credentials: Credentials = Credentials()
    #: What the server is, for messages.
    program: str = "Redis"

    def __str__(self) -> str:
        hosts = ", ".join(map(str, self.hosts))
        if self.kind is Kind.SENTINEL:
            return f'Redis master "{self.service}" of the Sentinels at {hosts}'
        if self.kind is Kind.CLUSTER:
            return f"Redis Cluster at {hosts}"
        return f"{self.program} at {self.path or hosts}"

    def server(self, host: Host) -> RedisAddress:
        """Return the address of one server with the credentials, database and TLS of this one.

        Args:
            host: A server that a Sentinel or another server has named.
        """
        return replace(self, kind=Kind.SERVER, hosts=(host,))

    def sentinel(self, host: Host) -> RedisAddress:
        """Return the address of one Sentinel, with its own credentials.

        Args:
            host: One of `hosts`.
        """
        return RedisAddress(
            Kind.SERVER,
            (host,),
            credentials=self.sentinel_credentials,
            tls=self.tls,
            program="Sentinel",
        )


@dataclass(frozen=True)
class _Scheme:
    """What the rest of a URL consists of."""

    kind: Kind
    default_port: int = 6379
    tls: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options after the question mark."""
        return (
            "db",
            *(_TLS_OPTIONS if self.tls else ()),
            *(_SENTINEL_OPTIONS if self.kind is Kind.SENTINEL else ()),
        )


_TLS_OPTIONS = (
    *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    *("ssl_check_hostname", "ssl_cert_reqs"),
)

_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")

_SCHEMES = {
    "redis": _Scheme(Kind.SERVER),
    "rediss": _Scheme(Kind.SERVER, tls=True),
    "unix": _Scheme(Kind.UNIX_SOCKET),
    "redis+sentinel": _Scheme(Kind.SENTINEL, 26_379),
    "rediss+sentinel": _Scheme(Kind.SENTINEL, 26_379, tls=True),
    "redis+cluster": _Scheme(Kind.CLUSTER),
    "rediss+cluster": _Scheme(Kind.CLUSTER, tls=True),
}

_USE_UNIX = "a Unix socket has the form unix:///path"

_USE_SENTINEL = "Sentinel has the form redis+sentinel://host:26379/service"

_USE_CLUSTER = "Redis Cluster has the form redis+cluster://host:6379,host:6379"

#: Explanations for URL schemes that other clients use.
_OTHER_SCHEMES = {
    "redis+unix": _USE_UNIX,
    "redis+socket": _USE_UNIX,
    "redis-sentinel": _USE_SENTINEL,
    "sentinel": _USE_SENTINEL,
    "rediss-sentinel": "Sentinel with TLS has the form rediss+sentinel://host:26379/service",
    "redis-cluster": _USE_CLUSTER,
    "cluster": _USE_CLUSTER,
    "rediss-cluster": "Redis Cluster with TLS has the form rediss+cluster://host:6379",
    "valkey": "Valkey is supported with the scheme redis://",
    "valkeys": "Valkey with TLS is supported with the scheme rediss://",
}

_UNESCAPED = (
    "special characters in a name or password must be percent-encoded, # as %23, / as %2F, @ as "
    '%40, for example by urllib.parse.quote(password, safe="")'
)


def parse_address(url: str) -> RedisAddress:
    """Return the address that a URL names.

    Args:
        url: Redis URL, as in ``SOCKETIO_BACKPLANE``.

    Raises:
        ConfigurationError: The URL is invalid.
    """
    try:
        return parse_url(url)
    except ValueError as error:
        text = f"the URL of Redis is invalid: {error}; use {URL_FORMS}"
    raise ConfigurationError(text)  # without the cause, whose traceback shows the URL


def is_cluster(url: str) -> bool:
    """Return whether a URL names a Redis Cluster."""
    scheme = _SCHEMES.get(url.partition("://")[0])
    return scheme is not None and scheme.kind is Kind.CLUSTER


def parse_url(url: str) -> RedisAddress:
    """Return the address that a URL names.

    Args:
        url: Redis URL, as in ``SOCKETIO_BACKPLANE``.

    Raises:
        ValueError: The URL is invalid; the text is the cause.
    """
    if not isinstance(url, str):
        raise ValueError("it is not a str")
    name, separator, rest = url.partition("://")
    scheme = _SCHEMES.get(name)
    if not separator or scheme is None:
        known = ", ".join(f"{each}://" for each in _SCHEMES)
        raise ValueError(_OTHER_SCHEMES.get(name.lower(), f"it must start with {known}"))
    credentials, at, location = rest.rpartition("@")
    if re.search(r"[/?#\[\]\s\x00-\x1f\x7f]", credentials):
        raise ValueError(_UNESCAPED)
    if re.search(r"[\s\x00-\x1f\x7f]", location):
        raise ValueError("there is a space or a control character after the password")
    location, _, fragment = location.partition("#")
    if fragment:
        raise ValueError("options after # are not supported")
    location, _, query = location.partition("?")
    options = _parse_options(query, scheme)
    address = RedisAddress(
        scheme.kind,
        credentials=_parse_credentials(credentials),
        tls=_parse_tls(options) if scheme.tls else None,
    )
    if scheme.kind is Kind.UNIX_SOCKET:
        if not location.startswith("/"):
            raise ValueError("the path must start with a slash, as in unix:///run/redis.sock")
        address, database = replace(address, path=unquote(location)), ""
    else:
        hosts, _, path = location.partition("/")
        address = replace(address, hosts=_parse_hosts(hosts, scheme, bool(at)))
        if scheme.kind is Kind.SENTINEL:
            service, _, database = path.partition("/")
            address = _with_sentinel(address, service, options)
        else:
            database = path
    address = replace(address, database=_parse_database(database, options))
    if address.database and scheme.kind is Kind.CLUSTER:
        raise ValueError("a Redis Cluster has no databases but 0")
    return address


def _parse_credentials(text: str) -> Credentials:
    username, _, password = text.partition(":")
    return Credentials(unquote(username) or None, unquote(password) or None)


def _parse_hosts(text: str, scheme: _Scheme, has_credentials: bool) -> tuple[Host, ...]:
    """Return the hosts; without credentials, an invalid port may be part of a password."""
    hosts = []
    for each in text.split(","):
        try:
            parts = urlsplit(f"//{each}")
            name, port = parts.hostname, parts.port
        except ValueError:
            hint = "" if has_credentials else f"; {_UNESCAPED}"
            raise ValueError(f"host or port is invalid{hint}") from None
        if not name or port == 0:
            raise ValueError(
                "the host is missing" if not name else "the port must be from 1 to 65535"
            )
        hosts.append(Host(name, scheme.default_port if port is None else port))
    if scheme.kind is Kind.SERVER and len(hosts) > 1:
        raise ValueError(f"there can be only one host; {_USE_SENTINEL}. {_USE_CLUSTER}")
    return tuple(hosts)


def _with_sentinel(address: RedisAddress, service: str, options: Mapping[str, str]) -> RedisAddress:
    if not service:
        raise ValueError(f"the name of the master is missing; {_USE_SENTINEL}")
    username, password = (options.get(name) for name in _SENTINEL_OPTIONS)
    if username and not password:
        raise ValueError("sentinel_username needs sentinel_password")
    return replace(
        address, service=unquote(service), sentinel_credentials=Credentials(username, password)
    )


def _parse_database(text: str, options: Mapping[str, str]) -> int:
    if text and "db" in options:
        raise ValueError("the database is given twice, in the path and as the option db")
    text = options.get("db", text)
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError("the database must be a number")
    return int(text or 0)


def _parse_options(query: str, scheme: _Scheme) -> dict[str, str]:
    """Return the options; a plus sign is not a space, as passwords contain it."""
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in scheme.options or name in options or not value:
            # Without the name: it may be part of a password.
            raise ValueError(
                "an option after ? is unknown, given twice or has no value; the options are "
                f"{', '.join(scheme.options)}. In values, & must be percent-encoded as %26"
            )
        options[name] = unquote(value)
    return options


def _parse_tls(options: Mapping[str, str]) -> TLSOptions:
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError("ssl_check_hostname must be true or false")
    cert_reqs = options.get("ssl_cert_reqs", "required").lower()
    if cert_reqs not in ("required", "none"):
        raise ValueError("ssl_cert_reqs must be required or none")
    return TLSOptions(
        options.get("ssl_ca_certs"),
        options.get("ssl_certfile"),
        options.get("ssl_keyfile"),
        check in ("true", "yes", "1") and cert_reqs == "required",
        cert_reqs,
    )
