"""Who is measured: the servers, how each is started, and which versions they are."""

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

__all__ = ["CONTESTANTS", "Contestant", "Entrant", "enter"]

SERVERS = HERE / "servers"


@dataclass(frozen=True)
class Entrant:
    """A server that is ready to run: its command, without arguments, and its versions."""

    command: tuple[str, ...]
    versions: str


@dataclass(frozen=True)
class Contestant:
    """A server: its short name, its title in the table, and what makes it ready to run."""

    name: str
    title: str
    prepare: Callable[[], Entrant]


def _ours() -> Entrant:
    names = ["webpy_socketio", "gevent", "web.py", "blinker", "websockets", "orjson", "redis"]
    return Entrant(
        (sys.executable, str(SERVERS / "ours.py")), _joined((name, version(name)) for name in names)
    )


def _gevent() -> Entrant:
    return _python("python_gevent.py", ["python-socketio", "gevent", "gevent-websocket", "redis"])


def _uvicorn() -> Entrant:
    return _python(
        "python_uvicorn.py", ["python-socketio", "uvicorn", "uvloop", "websockets", "redis"]
    )


def _python(program: str, names: list[str]) -> Entrant:
    install_python()
    ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    command = [str(VENV_PYTHON), "-c", ask, *names]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Entrant(
        (str(VENV_PYTHON), str(SERVERS / program)), _joined(zip(names, found, strict=True))
    )


def _node() -> Entrant:
    with contextlib.suppress(SetupError):  # Node.js may be there all the same; install_node tells
        install_python()  # which brings Node.js where there is none
    node = install_node()
    ask = [node, "--version"]
    versions = [("Node.js", subprocess.run(ask, check=True, capture_output=True, text=True).stdout)]
    for package in ("socket.io", "ws", "@socket.io/redis-adapter", "redis"):
        text = (HERE / "node_modules" / package / "package.json").read_text(encoding="utf-8")
        versions.append((package, json.loads(text)["version"]))
    return Entrant((node, "--expose-gc", str(SERVERS / "node.js")), _joined(versions))


def _c() -> Entrant:
    build_c()
    libc = " ".join(platform.libc_ver())
    return Entrant((str(BUILD / "c_sends"),), f"cc -O2, {libc}")


def _joined(versions: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {number.strip()}" for name, number in versions)


#: All of them, ours first, in the order of the table's columns.
CONTESTANTS = (
    Contestant("ours", "webpy_socketio", _ours),
    Contestant("gevent", "python-socketio, gevent", _gevent),
    Contestant("uvicorn", "python-socketio, uvicorn", _uvicorn),
    Contestant("node", "Socket.IO, Node.js", _node),
    Contestant("c", "C, only the sends", _c),
)


def enter(names: Iterable[str]) -> tuple[dict[str, Entrant], dict[str, str]]:
    """Make the named ones ready; returns them, and why the others of them cannot take part."""
    entrants: dict[str, Entrant] = {}
    missing: dict[str, str] = {}
    for contestant in CONTESTANTS:
        if contestant.name in names:
            try:
                entrants[contestant.name] = contestant.prepare()
            except (SetupError, OSError, subprocess.CalledProcessError) as error:
                missing[contestant.name] = str(error)
    return entrants, missing
