"""Checks of what the server needs from outside the process: address, TLS files, Redis."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from webpy_socketio.assets import EXTENSION
from webpy_socketio.backplane.addresses import is_cluster
from webpy_socketio.cli.checks import CheckContext, Finding, ok, problem, warning
from webpy_socketio.cluster import connect_redis
from webpy_socketio.exceptions import BackplaneError, ConfigurationError
from webpy_socketio.server import listen_error

__all__ = ["address", "redis", "tls"]

#: Seconds to wait for an answer.
_TIMEOUT = 3.0

#: Oldest versions of Redis: of a single server, and of a Redis Cluster (sharded Pub/Sub).
VERSION, CLUSTER_VERSION = 5, 7

#: Days of validity below which a certificate is reported.
_EXPIRY_WARNING_DAYS = 14

#: Fraction of Redis's memory limit above which its use is reported.
_MEMORY_THRESHOLD = 0.8


def address(context: CheckContext) -> Iterator[Finding]:
    """Check that the address is free, by binding it briefly."""
    given = context.arguments
    host = context.settings.host if given.host is None else given.host
    port = context.settings.port if given.port is None else given.port
    # As in gevent's servers: all IPv4 and IPv6 addresses are bound by one IPv6 socket.
    family = socket.AF_INET6 if not host or ":" in host else socket.AF_INET
    name = f"{host or '*'}:{port}"
    try:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except OSError as error:
        if _answers(host, port):
            yield warning(
                "address", f"a webpy_socketio server already runs at {name}", "stop it first"
            )
        else:
            yield problem("address", str(listen_error(error, (host, port))))
        return
    yield ok("address", f"{name} is free")


def _answers(host: str, port: int) -> bool:
    """Return whether a webpy_socketio server answers there."""
    connection = http.client.HTTPConnection(host or "localhost", port, timeout=_TIMEOUT)
    try:
        connection.request("GET", f"/socket.io/{EXTENSION}")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def tls(context: CheckContext) -> Iterator[Finding]:
    """Check that the certificate and its key are readable, match, and remain valid."""
    certificate, key = context.arguments.certfile, context.arguments.keyfile
    if certificate is None:
        if key is not None:
            yield problem("tls", "--keyfile needs its certificate", "add --certfile")
        return
    for file in filter(None, (certificate, key)):
        if not Path(file).is_file():
            yield problem("tls", f"there is no file {file}", "correct the path")
            return
    tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls_context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        files = " and ".join(filter(None, (certificate, key)))
        remedy = "use a PEM certificate, followed by its chain, and its private key"
        yield problem("tls", f"{files} cannot be used: {error}", remedy)
        return
    if key is not None and Path(key).stat().st_mode & 0o004:
        yield warning("tls", f"every user of this machine can read {key}", f"chmod 640 {key}")
    try:
        days = (_expiry(tls_context, certificate) - time.time()) / 86_400
    except ssl.SSLError as error:
        yield problem("tls", f"{certificate}: {error}", "renew it")
        return
    if days < _EXPIRY_WARNING_DAYS:
        yield warning("tls", f"{certificate} expires in {days:.0f} days", "renew it")
    else:
        yield ok("tls", f"{certificate}, valid for {days:.0f} days")


def _expiry(server: ssl.SSLContext, certificate: str) -> float:
    """Return when the certificate expires, from a TLS handshake in memory."""
    client = ssl.create_default_context(cafile=certificate)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # any issuer
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends: list[Any] = [
        client.wrap_bio(back, there),
        server.wrap_bio(there, back, server_side=True),
    ]
    for end in ends * 2:  # two flights each
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return float(ssl.cert_time_to_seconds(ends[0].getpeercert()["notAfter"]))


def redis(context: CheckContext) -> Iterator[Finding]:
    """Check that Redis is reachable, recent enough and not nearly full."""
    if context.settings.backplane is None:
        return
    try:
        link = connect_redis(context.settings.backplane, _TIMEOUT)
    except BackplaneError as error:
        yield problem("redis", str(error), "start it, or correct SOCKETIO_BACKPLANE")
        return
    except ConfigurationError as error:  # the library or a file of certificates is missing
        yield problem("redis", str(error))
        return
    try:
        server, memory = link.execute(("INFO", "server"), ("INFO", "memory"))
    except BackplaneError as error:
        yield problem("redis", str(error), "check whether Redis is overloaded")
        return
    finally:
        link.close()
    for reply in (server, memory):
        if isinstance(reply, BackplaneError):
            remedy = "allow this user to run INFO (ACL SETUSER ... +info)"
            yield warning("redis", f"reachable, but {reply}", remedy)
            return
    oldest = CLUSTER_VERSION if is_cluster(context.settings.backplane) else VERSION
    yield from _version(link.address, _fields(server), oldest)
    yield from _memory(_fields(memory))


def _fields(info: bytes) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _version(where: str, info: dict[str, str], oldest: int) -> Iterator[Finding]:
    version = info.get("redis_version", "")  # Valkey reports the Redis version that it implements
    if version.split(".")[0].isdecimal() and int(version.split(".")[0]) < oldest:
        remedy = f"update it to version {oldest} or later"
        yield problem("redis", f"{where} is version {version}", remedy)
    else:
        yield ok("redis", f"{where}, version {version or 'unknown'}")


def _memory(info: dict[str, str]) -> Iterator[Finding]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    shown = f"{used / 2**20:.0f} MiB in use"
    if not most:
        yield ok("redis", f"{shown}, without a limit")
    elif used > most * _MEMORY_THRESHOLD:
        yield warning(
            "redis",
            f"{shown} of {most / 2**20:.0f}: Redis rejects writes that exceed the limit",
            "raise maxmemory, or find out what uses the memory",
        )
    else:
        yield ok("redis", f"{shown} of {most / 2**20:.0f}")
