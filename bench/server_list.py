"""The measured servers: how each is started, and its versions."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version

from environment import BUILD, HERE, VENV_PYTHON, SetupError, build_c, install_node, install_python

__all__ = ["SERVERS", "ReadyServer", "Server", "prepare"]

FOLDER = HERE / "servers"


@dataclass(frozen=True)
class ReadyServer:
    """A server that is ready to run: its command without arguments, and its versions."""

    command: tuple[str, ...]
    versions: str


@dataclass(frozen=True)
class Server:
    """A server: its short name, its title in the table, and the function that installs it."""

    name: str
    title: str
    prepare: Callable[[], ReadyServer]


def _ours() -> ReadyServer:
    names = ["webpy_socketio", "gevent", "web.py", "blinker", "websockets", "orjson", "redis"]
    return ReadyServer(
        (sys.executable, str(FOLDER / "ours.py")), _joined((name, version(name)) for name in names)
    )


def _gevent() -> ReadyServer:
    return _python("python_gevent.py", ["python-socketio", "gevent", "gevent-websocket", "redis"])


def _uvicorn() -> ReadyServer:
    return _python(
        "python_uvicorn.py", ["python-socketio", "uvicorn", "uvloop", "websockets", "redis"]
    )


def _python(script: str, names: list[str]) -> ReadyServer:
    install_python()
    program = (
        "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    )
    command = [str(VENV_PYTHON), "-c", program, *names]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return ReadyServer(
        (str(VENV_PYTHON), str(FOLDER / script)), _joined(zip(names, found, strict=True))
    )


def _node() -> ReadyServer:
    with contextlib.suppress(SetupError):  # Node.js may be installed; install_node checks
        install_python()  # which also installs Node.js if it is missing
    node = install_node()
    command = [node, "--version"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    packages = ("socket.io", "ws", "@socket.io/redis-adapter", "redis")
    versions = [("Node.js", found), *map(_node_package, packages)]
    return ReadyServer((node, "--expose-gc", str(FOLDER / "node.js")), _joined(versions))


def _bun() -> ReadyServer:
    _node()  # installs the packages
    # The package "bun" would find this program only after an installation with scripts.
    programs = sorted((HERE / "node_modules" / "@oven").glob("bun-*/bin/bun"))
    if not programs:
        raise SetupError("npm has no build of Bun for this machine")
    versions = map(_node_package, ("bun", "socket.io", "@socket.io/bun-engine"))
    return ReadyServer((str(programs[0]), str(FOLDER / "bun.js")), _joined(versions))


def _node_package(name: str) -> tuple[str, str]:
    """Return the name and the installed version."""
    text = (HERE / "node_modules" / name / "package.json").read_text(encoding="utf-8")
    return name, json.loads(text)["version"]


def _c() -> ReadyServer:
    build_c()
    libc = " ".join(platform.libc_ver())
    return ReadyServer((str(BUILD / "c_sends"),), f"cc -O2, {libc}")


def _joined(versions: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {number.strip()}" for name, number in versions)


#: In the order of the table's columns.
SERVERS = (
    Server("ours", "webpy_socketio", _ours),
    Server("gevent", "python-socketio, gevent", _gevent),
    Server("uvicorn", "python-socketio, uvicorn", _uvicorn),
    Server("node", "Socket.IO, Node.js", _node),
    Server("bun", "Socket.IO, Bun", _bun),
    Server("c", "C, only the sends", _c),
)


def prepare(names: Iterable[str]) -> tuple[dict[str, ReadyServer], dict[str, str]]:
    """Install the named servers; return them, and the causes of failures by name."""
    ready: dict[str, ReadyServer] = {}
    missing: dict[str, str] = {}
    for server in SERVERS:
        if server.name in names:
            try:
                ready[server.name] = server.prepare()
            except (SetupError, OSError, subprocess.CalledProcessError) as error:
                missing[server.name] = str(error)
    return ready, missing
