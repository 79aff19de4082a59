"""Checks of Python, the packages, gevent's loop, open files and the client script."""

from __future__ import annotations

import os
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
from webpy_socketio.engine.io.native import NATIVE, VARIABLE
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["client", "loop", "native", "open_files", "versions"]

_PACKAGE = "webpy_socketio"

#: Open files besides the sockets of sessions.
_OTHER_FILES = 100

Version = tuple[int, ...]


class _KnownDefect(NamedTuple):
    """Versions of a package with a known defect that the requirements accept."""

    package: str
    #: The first version without the defect.
    until: Version
    #: The first Python version with which it matters.
    python: Version
    text: str


_KNOWN_DEFECTS = [
    # gevent issue 2119
    _KnownDefect(
        "gevent", (25, 8), (3, 13, 4), "fork() fails with it on this Python: subprocesses too"
    ),
    _KnownDefect(
        "orjson", (3, 11, 6), (), "sending deeply nested data crashes it (CVE-2025-67221)"
    ),
]


def versions(context: CheckContext) -> Iterator[Finding]:
    """Check that Python and the dependencies are recent enough, and have no known defects."""
    try:
        package = metadata.metadata(_PACKAGE)
    except metadata.PackageNotFoundError:
        yield warning(
            "versions",
            f"{_PACKAGE} is not installed, so its requirements are unknown",
            "pip install . in its source tree",
        )
        return
    yield ok("versions", f"{_PACKAGE} {package['Version']}")
    yield _python(package.get_all("Classifier") or [])
    settings = context.settings
    extras = {
        None,
        "redis" if settings.backplane else None,
        "msgpack" if settings.parser == "msgpack" else None,
    }
    for text in metadata.requires(_PACKAGE) or []:
        needed = re.match(r'([\w.-]+)(?:\[[\w,]+\])?\s*>=\s*([\d.]+)(?:.*extra == "(\w+)")?', text)
        if needed and needed[3] in extras:
            yield _version(needed[1], needed[2])


def _python(classifiers: list[str]) -> Finding:
    tested = [_parse(text.rpartition(" ")[2]) for text in classifiers if ":: 3." in text]
    text = f"Python {platform.python_version()}"
    if sys.version_info[:2] in tested:
        return ok("versions", text)
    known = [".".join(map(str, version)) for version in sorted(tested)]
    return warning("versions", f"{text} is not a tested version", f"use {known[0]} to {known[-1]}")


def _version(name: str, least: str) -> Finding:
    remedy = f'pip install "{name}>={least}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return problem("versions", f"{name} is not installed", remedy)
    if _parse(version) < _parse(least):
        return problem("versions", f"{name} {version} is older than {least}", remedy)
    for defect in _KNOWN_DEFECTS:
        if (
            defect.package == name
            and _parse(version) < defect.until
            and sys.version_info >= defect.python
        ):
            good = ".".join(map(str, defect.until))
            remedy = f'pip install "{name}>={good}"'
            return warning("versions", f"{name} {version}: {defect.text}", remedy)
    return ok("versions", f"{name} {version}")


def _parse(text: str) -> Version:
    numbers = re.match(r"[\d.]*", text)
    return tuple(int(part) for part in (numbers[0] if numbers else "").split(".") if part)


def loop(context: CheckContext) -> Iterator[Finding]:
    """Check that gevent runs on libev, with which the package is tested."""
    running = gevent.get_hub().loop
    name = type(running).__module__.rpartition(".")[2]
    if "libuv" in type(running).__module__:
        yield warning(
            "loop",
            f"gevent runs on libuv ({name}); libev is tested, and webpy_socketio.testing needs it",
            "unset GEVENT_LOOP, or set it to libev-cext",
        )
    elif running.backend in ("select", "poll"):
        yield warning(
            "loop",
            f"libev uses {running.backend}, which is slow for many clients, or fails",
            "unset LIBEV_FLAGS and GEVENT_BACKEND",
        )
    else:
        yield ok("loop", f"libev, {running.backend}")


def native(context: CheckContext) -> Iterator[Finding]:
    """Report whether the native core is in use; both are correct."""
    if NATIVE:
        yield ok("native core", "in use")
    elif os.environ.get(VARIABLE) == "1":
        yield ok("native core", f"off, because {VARIABLE} is 1: pure Python, which is slower")
    else:
        yield ok(
            "native core",
            "not built: pure Python, which is slower. Install a C compiler and the headers of "
            "Python, then `pip install --force-reinstall --no-cache-dir webpy_socketio`",
        )


def open_files(context: CheckContext) -> Iterator[Finding]:
    """Check that the limit of open files is sufficient for SOCKETIO_MAX_SESSIONS."""
    sessions = context.settings.max_sessions
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sessions + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        yield ok("open files", f"{soft} for SOCKETIO_MAX_SESSIONS = {sessions}")
        return
    enough = hard == resource.RLIM_INFINITY or hard >= needed
    yield warning(
        "open files",
        f"the limit is {soft}; SOCKETIO_MAX_SESSIONS = {sessions} needs {needed}",
        (f"`ulimit -n {needed}` before the start" if enough else "raise the hard limit")
        + f", LimitNOFILE={needed} in a systemd unit, or a lower SOCKETIO_MAX_SESSIONS",
    )


def client(context: CheckContext) -> Iterator[Finding]:
    """Check that the client script is installed, and implements Socket.IO 4's protocol."""
    try:
        build = assets.client_of(context.settings.parser)
        served = (build, assets.EXTENSION, assets.MODULE)
        scripts = [assets.asset(name) for name in served]
    except (ConfigurationError, OSError) as error:
        yield problem("client", str(error))
        return
    found = re.search(rb"Socket\.IO v([\d.]+)", scripts[0].body[:500] if scripts[0] else b"")
    version = found[1].decode() if found else "of an unknown version"
    name = f"{build} {version}"
    if version.startswith("4."):
        yield ok("client", name)
    else:
        yield problem(
            "client",
            f"{name} does not implement the protocol of Socket.IO 4",
            f"remove webpy_socketio/static/{build}, and reinstall",
        )
