"""Runs the test suites of the Socket.IO project against the servers of this folder.

``python tests/conformance/client_suites.py CHECKOUT [SUITE…]``, where CHECKOUT is a clone of the
project's repository. Without a SUITE, all suites run. Requires Node.js 20.6 or later with npm, and
the ports 3000 and 3210. README.rst in this folder lists the tests that are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

#: Folder in CHECKOUT in which suites are copied and installed.
FOLDER = ".webpy_socketio"

#: npm packages that the suites of the clients require, in the versions of CHECKOUT.
CLIENT_TOOLS = (
    *("@sinonjs/fake-timers", "@types/expect.js", "@types/mocha", "@types/node"),
    *("base64-arraybuffer", "expect.js", "has-cors", "mocha", "text-blob-builder", "tsx"),
    "typescript",
)

#: Timeout of a suite in seconds.
TIMEOUT = 300

#: Timeout of a test in milliseconds. Mocha's default of 2,000 is too short for tests that start
#: Node.js on a slow machine.
TEST_TIMEOUT = 10_000

#: Number of retries of failed tests. Some expect a response within 50 ms, including the handshake.
RETRIES = 2


@dataclass(frozen=True)
class Suite:
    """A test suite: its folder, the server that it tests, and how it is started."""

    source: str
    server: str
    port: int
    mocha: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


SUITES = {
    "engine.io-client": Suite(
        "packages/engine.io-client", "engine_client_server.py", 3000, ("test/index.js",)
    ),
    "socket.io-client": Suite(
        "packages/socket.io-client",
        "socketio_client_server.py",
        3210,
        ("test/index.ts",),
        (("NODE_OPTIONS", "--import=tsx"),),  # applies to child processes of the tests too
    ),
    "engine.io-protocol": Suite(
        "docs/engine.io-protocol/v4-test-suite",
        "engine_server.py",
        3000,
        ("test-suite.js",),
        (("SYNCHRONOUS_EVENTS", "1"),),
    ),
    "socket.io-protocol": Suite(
        "docs/socket.io-protocol/v5-test-suite", "socketio_server.py", 3000, ("test-suite.js",)
    ),
}


def exceptions() -> list[str]:
    """Return the titles of skipped tests: the terms of the definition list in README.rst."""
    text = (HERE / "README.rst").read_text(encoding="utf-8")
    return re.findall(r"^``(.+)``$\n +\S", text, re.MULTILINE)


def install(checkout: Path, suite: Suite) -> Path:
    """Copy the suite, install its dependencies, and return its folder."""
    root = checkout / FOLDER / Path(suite.source).parts[0]
    folder = checkout / FOLDER / suite.source
    skipped = shutil.ignore_patterns("node_modules", "package-lock.json")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkout / suite.source, folder, ignore=skipped)
    if suite.source.startswith("packages/"):
        versions = json.loads((checkout / "package.json").read_text())["devDependencies"]
        manifest = {
            "private": True,
            # Use the sources in CHECKOUT, not the published packages of the same name.
            "workspaces": ["*-client"],
            "devDependencies": {name: versions[name] for name in CLIENT_TOOLS},
        }
        (root / "package.json").write_text(json.dumps(manifest))
        shutil.copytree(
            checkout / "packages/engine.io-client",
            root / "engine.io-client",
            ignore=skipped,
            dirs_exist_ok=True,
        )
        npm_install(root)
        for package in dict.fromkeys((root / "engine.io-client", folder)):
            build(package)
    else:
        shutil.copy(HERE / "node_imports.mjs", folder / "node-imports.js")
        npm_install(folder)
    return folder


def npm_install(folder: Path) -> None:
    flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
    subprocess.run(["npm", "install", *flags], cwd=folder, check=True)


def build(package: Path) -> None:
    """Compile the TypeScript of a client without checking types."""
    for project in ("tsconfig.json", "tsconfig.esm.json"):
        subprocess.run(["npx", "tsc", "--noCheck", "-p", project], cwd=package, check=True)
    subprocess.run(["bash", "./postcompile.sh"], cwd=package, check=True)


@contextlib.contextmanager
def serve(suite: Suite) -> Iterator[None]:
    """Run the suite's server."""
    command = [sys.executable, HERE / suite.server, str(suite.port)]
    path = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != f"PORT {suite.port}\n":
                raise SystemExit(f"{suite.server} did not start: see its output above")
            yield
        finally:
            server.terminate()


def mocha(folder: Path, suite: Suite, titles: list[str], *flags: str) -> list[dict[str, Any]]:
    """Run the tests with these titles (or all others with ``--invert``), and return failures."""
    report = folder / "report.json"
    pattern = "|".join(re.escape(title) for title in titles)
    subprocess.run(
        [
            *("npx", "mocha", "--exit", "--reporter=json", f"--reporter-option=output={report}"),
            *(f"--timeout={TEST_TIMEOUT}", f"--grep=^({pattern})$", *flags, *suite.mocha),
        ],
        cwd=folder,
        env={**os.environ, **dict(suite.environment)},
        stdout=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=False,
    )
    result = json.loads(report.read_text(encoding="utf-8"))
    report.unlink()
    sys.stdout.write(f"{result['stats']['passes']} passed, {result['stats']['failures']} failed\n")
    sys.stdout.flush()
    failures: list[dict[str, Any]] = result["failures"]
    return failures


def run(name: str, checkout: Path) -> bool:
    """Run one suite, print its result, and return whether all tests passed."""
    suite = SUITES[name]
    folder = install(checkout, suite)
    sys.stdout.write(f"{name}: ")
    with serve(suite):
        failures = mocha(folder, suite, exceptions(), "--invert")
        for _ in range(RETRIES):
            if failures:
                sys.stdout.write("  again: ")
                failures = mocha(folder, suite, [failure["fullTitle"] for failure in failures])
    for failure in failures:
        sys.stdout.write(f"  {failure['fullTitle']}\n    {failure['err'].get('message', '')}\n")
    sys.stdout.flush()
    return not failures


def main(checkout: str, *names: str) -> int:
    unknown = set(names) - SUITES.keys()
    if unknown:
        raise SystemExit(f"unknown suites: {', '.join(sorted(unknown))}; known: {list(SUITES)}")
    passed = [run(name, Path(checkout).resolve()) for name in names or SUITES]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sys.exit(main(*sys.argv[1:]))
