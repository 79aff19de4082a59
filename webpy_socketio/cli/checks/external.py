"""What the server needs from outside: its address, its TLS files, Redis."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from webpy_socketio.assets import EXTENSION
from webpy_socketio.cli.checks import CheckContext, Finding, ok, problem, warning
from webpy_socketio.cluster import connect_redis
from webpy_socketio.exceptions import BackplaneError, ConfigurationError
from webpy_socketio.server import listen_error

__all__ = ["address", "redis", "tls"]

#: Seconds for an answer from somewhere else.
_TIMEOUT = 3.0

#: Days that a certificate should still be good for.
_DAYS = 14

#: The part of Redis's memory that may be in use before that is worth a warning.
_FULL = 0.8


def address(patient: CheckContext) -> Iterator[Finding]:
    """Can it be listened on? Nobody listens: it is bound, and given back at once."""
    given = patient.arguments
    host = patient.settings.host if given.host is None else given.host
    port = patient.settings.port if given.port is None else given.port
    # As gevent's servers do: all addresses, of both kinds, are an IPv6 socket's.
    family = socket.AF_INET6 if not host or ":" in host else socket.AF_INET
    name = f"{host or '*'}:{port}"
    try:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except OSError as error:
        if _answers(host, port):
            yield warning(
                "address", f"a server of this kind runs at {name} already", "stop it first"
            )
        else:
            yield problem("address", str(listen_error(error, (host, port))))
        return
    yield ok("address", f"{name} is free")


def _answers(host: str, port: int) -> bool:
    """Whether it is one of our servers that is there."""
    connection = http.client.HTTPConnection(host or "localhost", port, timeout=_TIMEOUT)
    try:
        connection.request("GET", f"/socket.io/{EXTENSION}")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def tls(patient: CheckContext) -> Iterator[Finding]:
    """Can the certificate and its key be read, do they fit, and for how long is it good?"""
    certificate, key = patient.arguments.certfile, patient.arguments.keyfile
    if certificate is None:
        if key is not None:
            yield problem("tls", "--keyfile needs its certificate", "add --certfile")
        return
    for file in filter(None, (certificate, key)):
        if not Path(file).is_file():
            yield problem("tls", f"there is no file {file}", "correct the path")
            return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        files = " and ".join(filter(None, (certificate, key)))
        remedy = "give a PEM certificate (its chain behind it), and the key that belongs to it"
        yield problem("tls", f"{files} cannot be used: {error}", remedy)
        return
    if key is not None and Path(key).stat().st_mode & 0o004:
        yield warning("tls", f"everybody on this machine can read {key}", f"chmod 640 {key}")
    try:
        days = (_last_second(context, certificate) - time.time()) / 86_400
    except ssl.SSLError as error:
        yield problem("tls", f"{certificate}: {error}", "have it renewed")
        return
    if days < _DAYS:
        yield warning("tls", f"{certificate} ends in {days:.0f} days", "have it renewed")
    else:
        yield ok("tls", f"{certificate}, good for {days:.0f} days")


def _last_second(server: ssl.SSLContext, certificate: str) -> float:
    """Until when it is good, in the way a client finds out: by a handshake, here in memory."""
    client = ssl.create_default_context(cafile=certificate)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whoever has signed it
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends: list[Any] = [
        client.wrap_bio(back, there),
        server.wrap_bio(there, back, server_side=True),
    ]
    for end in ends * 2:  # both have said all that they have to say
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return float(ssl.cert_time_to_seconds(ends[0].getpeercert()["notAfter"]))


def redis(patient: CheckContext) -> Iterator[Finding]:
    """Is it there, is it recent enough, and has it room?"""
    if patient.settings.backplane is None:
        return
    try:
        link = connect_redis(patient.settings.backplane, _TIMEOUT)
    except BackplaneError as error:
        yield problem("redis", str(error), "start it, or correct SOCKETIO_BACKPLANE")
        return
    except ConfigurationError as error:  # the library is missing
        yield problem("redis", str(error))
        return
    try:
        server, memory = link.execute(("INFO", "server"), ("INFO", "memory"))
    except BackplaneError as error:
        yield problem("redis", str(error), "see whether it is overloaded")
        return
    finally:
        link.close()
    for reply in (server, memory):
        if isinstance(reply, BackplaneError):
            remedy = "allow this user INFO (ACL SETUSER ... +info) to have it examined"
            yield warning("redis", f"it is there, but {reply}", remedy)
            return
    yield from _version(link.address, _fields(server))
    yield from _memory(_fields(memory))


def _fields(info: bytes) -> dict[str, str]:
    lines = info.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _version(where: str, info: dict[str, str]) -> Iterator[Finding]:
    version = info.get("redis_version", "")  # Valkey's too: of the Redis that it stands for
    if version.split(".")[0].isdecimal() and int(version.split(".")[0]) < 5:
        yield problem("redis", f"{where} is version {version}", "5 or later is needed: update it")
    else:
        yield ok("redis", f"{where}, version {version or 'unknown'}")


def _memory(info: dict[str, str]) -> Iterator[Finding]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    shown = f"{used / 2**20:.0f} MiB in use"
    if not most:
        yield ok("redis", f"{shown}, without a limit of its own")
    elif used > most * _FULL:
        yield warning(
            "redis",
            f"{shown} of {most / 2**20:.0f}: what does not fit any more is refused",
            "raise maxmemory, or find out what fills it",
        )
    else:
        yield ok("redis", f"{shown} of {most / 2**20:.0f}")
