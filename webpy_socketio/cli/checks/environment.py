"""The machine and the packages on it: versions, gevent's loop, open files, the browser's client."""

from __future__ import annotations

import platform
import re
import resource
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

import gevent

from webpy_socketio import assets
from webpy_socketio.cli.checks import CheckContext, Finding, ok, problem, warning
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["client", "loop", "open_files", "versions"]

_PACKAGE = "webpy_socketio"

#: Files that a server has open besides its sessions' sockets.
_OTHER_FILES = 100

Version = tuple[int, ...]


class _Bad(NamedTuple):
    """Versions of a package that are known to do harm, though they would be accepted."""

    package: str
    #: The first one that is good again.
    until: Version
    #: Python's, from which on it matters.
    python: Version
    text: str


_BAD = [
    # gevent issue 2119
    _Bad("gevent", (25, 8), (3, 13, 4), "fork() fails with it on this Python: subprocesses too"),
    _Bad("orjson", (3, 11, 6), (), "sending deeply nested data crashes it (CVE-2025-67221)"),
]


def versions(patient: CheckContext) -> Iterator[Finding]:
    """Are they new enough, and none of those known to be bad?"""
    try:
        package = metadata.metadata(_PACKAGE)
    except metadata.PackageNotFoundError:
        yield warning(
            "versions",
            f"{_PACKAGE} is not installed here, so nothing tells what it needs",
            "pip install . in its source tree",
        )
        return
    yield ok("versions", f"{_PACKAGE} {package['Version']}")
    yield _python(package.get_all("Classifier") or [])
    for text in metadata.requires(_PACKAGE) or []:
        needed = re.match(r'([\w.-]+)(?:\[[\w,]+\])?\s*>=\s*([\d.]+)(?:.*extra == "(\w+)")?', text)
        if needed and needed[3] in (None, "redis" if patient.settings.backplane else None):
            yield _version(needed[1], needed[2])


def _python(classifiers: list[str]) -> Finding:
    tested = [_parse(text.rpartition(" ")[2]) for text in classifiers if ":: 3." in text]
    text = f"Python {platform.python_version()}"
    if sys.version_info[:2] in tested:
        return ok("versions", text)
    known = [".".join(map(str, version)) for version in sorted(tested)]
    return warning(
        "versions", f"{text} is not one that this was tested with", f"use {known[0]} to {known[-1]}"
    )


def _version(name: str, least: str) -> Finding:
    remedy = f'pip install "{name}>={least}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return problem("versions", f"{name} is not installed", remedy)
    if _parse(version) < _parse(least):
        return problem("versions", f"{name} {version} is older than {least}", remedy)
    for bad in _BAD:
        if bad.package == name and _parse(version) < bad.until and sys.version_info >= bad.python:
            good = ".".join(map(str, bad.until))
            remedy = f'pip install "{name}>={good}"'
            return warning("versions", f"{name} {version}: {bad.text}", remedy)
    return ok("versions", f"{name} {version}")


def _parse(text: str) -> Version:
    numbers = re.match(r"[\d.]*", text)
    return tuple(int(part) for part in (numbers[0] if numbers else "").split(".") if part)


def loop(patient: CheckContext) -> Iterator[Finding]:
    """Is gevent's loop the one that this is made and tested for?"""
    running = gevent.get_hub().loop
    name = type(running).__module__.rpartition(".")[2]
    if "libuv" in type(running).__module__:
        yield warning(
            "loop",
            f"gevent runs on libuv ({name}); this is tested with libev, and the testing kit needs it",
            "take GEVENT_LOOP out of the environment, or set it to libev-cext",
        )
    elif running.backend in ("select", "poll"):
        yield warning(
            "loop",
            f"libev uses {running.backend}, which is slow for many clients, or fails",
            "take LIBEV_FLAGS and GEVENT_BACKEND out of the environment",
        )
    else:
        yield ok("loop", f"libev, {running.backend}")


def open_files(patient: CheckContext) -> Iterator[Finding]:
    """May the process have a socket for each session that the settings allow?"""
    sessions = patient.settings.max_sessions
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sessions + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        yield ok("open files", f"{soft} for SOCKETIO_MAX_SESSIONS = {sessions}")
        return
    enough = hard == resource.RLIM_INFINITY or hard >= needed
    yield warning(
        "open files",
        f"{soft} are allowed, and SOCKETIO_MAX_SESSIONS = {sessions} needs {needed}",
        (f"`ulimit -n {needed}` before the start" if enough else "have the hard limit raised")
        + f", LimitNOFILE={needed} in a systemd unit, or a lower SOCKETIO_MAX_SESSIONS",
    )


def client(patient: CheckContext) -> Iterator[Finding]:
    """Is the browser's side in the package, and one that speaks our protocol?"""
    try:
        scripts = [assets.asset(name) for name in (assets.CLIENT, assets.EXTENSION)]
    except (ConfigurationError, OSError) as error:
        yield problem("client", str(error))
        return
    found = re.search(rb"Socket\.IO v([\d.]+)", scripts[0].body[:500] if scripts[0] else b"")
    version = found[1].decode() if found else "of an unknown version"
    name = f"{assets.CLIENT} {version}"
    if version.startswith("4."):
        yield ok("client", name)
    else:
        yield problem(
            "client",
            f"{name} does not speak Socket.IO 4's protocol",
            f"remove webpy_socketio/static/{assets.CLIENT}, and install again",
        )
