"""nginx for tests: a real process with the directives of the documentation."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gevent
import pytest

from .certificates import make_certificate
from .servers import free_port

__all__ = ["Nginx", "free_port", "running_nginx"]


class Nginx(NamedTuple):
    """A running nginx: port with TLS, port without TLS, and the certificate."""

    port: int
    plain_port: int
    certificate: Path


@contextlib.contextmanager
def running_nginx(directives: str, servers: dict[str, int | Path], folder: Path) -> Iterator[Nginx]:
    """Run nginx with these directives, after replacing addresses and certificates.

    `servers` maps the addresses in the directives to ports or Unix sockets on this machine.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no nginx on this machine")
    certificate, key = make_certificate(folder)
    port, plain_port = free_port(), free_port()
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl; listen 127.0.0.1:{plain_port};",
        "# ssl_certificate and ssl_certificate_key here": (
            f"ssl_certificate {certificate}; ssl_certificate_key {key};"
        ),
        **{
            address: f"127.0.0.1:{place}" if isinstance(place, int) else f"unix:{place}:"
            for address, place in servers.items()
        },
    }
    for before, after in changes.items():
        assert before in directives
        directives = directives.replace(before, after)
    temporary = "".join(
        f"{name}_temp_path {folder / name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 2; pid {folder / 'pid'}; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}{directives}\n}}\n"
    )
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=log
        )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", plain_port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, (folder / "nginx.log").read_text()
                gevent.sleep(0.01)
        yield Nginx(port, plain_port, certificate)
    finally:
        process.terminate()
        process.wait()
