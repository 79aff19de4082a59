"""The files of the guide to containers: parsed, consistent, and run without containers."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
import socketio

from tests.nginx import Nginx, running_nginx
from tests.python_clients import close_client
from tests.redis_server import RedisServer
from tests.servers import Process, free_port
from tests.snippets import DOCS, Page
from webpy_socketio import SocketIOServer
from webpy_socketio.runtime import default_runtime

yaml = pytest.importorskip("yaml", reason="the library PyYAML is missing")

PAGE = Page.read(DOCS / "how-to" / "containers.rst")
FILES = PAGE.files()

#: Instructions of a Containerfile that the guide uses.
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "CMD"}


def instructions() -> dict[str, str]:
    """Return the instructions of the Containerfile; the last one of each name."""
    lines = [line.partition(" ") for line in FILES["Containerfile"].splitlines()]
    return {name: value for name, _, value in lines}


def settings(folder: Path) -> Any:
    """Return the settings of the guide as a server resolves them."""
    names: dict[str, Any] = {}
    exec(compile(FILES["settings.py"], "settings.py", "exec"), names)
    given = {
        name.removeprefix("SOCKETIO_").lower(): value
        for name, value in names.items()
        if name.startswith("SOCKETIO_")
    }
    return default_runtime.sources.resolve(given, {})


class TestFiles:
    @pytest.fixture
    def services(self) -> dict[str, Any]:
        services: dict[str, Any] = yaml.safe_load(FILES["compose.yaml"])["services"]
        return services

    def test_containerfile_copies_files_of_the_page(self) -> None:
        assert set(instructions()) == INSTRUCTIONS
        copied = re.findall(r"^COPY (.+) \S+$", FILES["Containerfile"], re.MULTILINE)
        names = {name for line in copied for name in line.split()}
        assert names == {"requirements.txt", "main.py", "settings.py"}
        assert names <= set(FILES)

    def test_compose_names_existing_files_and_services(self, services: dict[str, Any]) -> None:
        assert set(services) == {"app", "redis", "nginx"}
        assert services["app"]["build"]["dockerfile"] in FILES
        (volume,) = services["nginx"]["volumes"]
        assert volume.split(":")[0].removeprefix("./") in FILES
        for service in services.values():
            assert set(service.get("depends_on", ())) <= set(services)
            assert "build" in service or "image" in service
        assert services["app"]["environment"]["REDIS_URL"] == "redis://redis:6379"

    def test_addresses_are_consistent(
        self, services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", services["app"]["environment"]["REDIS_URL"])
        monkeypatch.delenv("PORT", raising=False)
        found = settings(tmp_path)
        assert instructions()["EXPOSE"] == str(found.port)
        assert f"proxy_pass http://app:{found.port};" in FILES["nginx.conf"]
        assert f"127.0.0.1:{found.port}/" in services["app"]["healthcheck"]["test"][-1]
        (port,) = services["nginx"]["ports"]
        assert f"listen {port.rpartition(':')[2]};" in FILES["nginx.conf"]
        assert f"http://{port.rpartition(':')[0]}/" in PAGE.text
        (config,) = yaml.safe_load(FILES["compose.yaml"])["networks"]["default"]["ipam"]["config"]
        assert found.trusted_proxies == [config["subnet"]]
        assert ipaddress.ip_network(config["subnet"]).is_private

    def test_grace_period_suffices(
        self, services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://redis:6379")
        found = settings(tmp_path)
        needed = found.drain_time + found.drain_delay + SocketIOServer.stop_timeout + 5
        assert int(services["app"]["stop_grace_period"].rstrip("s")) >= needed


class Running(NamedTuple):
    """The command of the image behind nginx, and its port."""

    process: Process
    port: int
    nginx: Nginx


class TestServices:
    """The command of the image, the health check and nginx, as processes of this machine."""

    @pytest.fixture
    def running(self, tmp_path: Path) -> Iterator[Running]:
        PAGE.write_files(tmp_path)
        redis, port = RedisServer(tmp_path).start(), free_port()
        program, *words = json.loads(instructions()["CMD"])
        assert program == "webpy-socketio"
        text = (tmp_path / "settings.py").read_text()
        # In the container, nginx has an address of the network.
        text = text.replace('"172.28.0.0/24"', '"127.0.0.1"')
        (tmp_path / "settings.py").write_text(text)
        process = Process(
            [sys.executable, "-m", "webpy_socketio", *words],
            tmp_path / "log",
            {"REDIS_URL": redis.url, "PORT": str(port)},
            tmp_path,
        )
        directives = FILES["nginx.conf"].replace(
            "listen 80;", "listen 443 ssl;\n# ssl_certificate and ssl_certificate_key here"
        )
        try:
            process.wait_for("Serving ")
            with running_nginx(directives, {"app:8000": port}, tmp_path) as nginx:
                yield Running(process, port, nginx)
            process.popen.terminate()
            assert process.wait() == 0
        finally:
            process.kill()
            redis.stop()

    @pytest.mark.time_limit(120)
    def test_client_connects_through_nginx(self, running: Running) -> None:
        plain = f"http://127.0.0.1:{running.nginx.plain_port}"
        received = gevent.event.AsyncResult()
        client = socketio.Client()
        client.on("message", received.set)
        client.connect(plain)
        try:
            client.send("hello")
            assert received.get() == "hello"
        finally:
            close_client(client)
        with urllib.request.urlopen(f"{plain}/") as page:
            assert page.read() == b"hello"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{plain}/socket.io/health")
        services = yaml.safe_load(FILES["compose.yaml"])["services"]
        kind, _, *words = services["app"]["healthcheck"]["test"]
        assert kind == "CMD"
        words = [word.replace(":8000", f":{running.port}") for word in words]
        done = subprocess.run([sys.executable, *words], env=os.environ, check=False)
        assert done.returncode == 0
