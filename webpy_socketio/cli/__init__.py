"""The command line, ``python -m webpy_socketio`` or ``webpy-socketio``.

A command is a module of this package with a `NAME`, a `HELP` line, an `EXAMPLE`,
``add_arguments(parser)`` and ``run(arguments)``, which returns the exit status. What is wrong with what it
was given is a `ConfigurationError`, which becomes one line and the status 1. Words that make no sense are
argparse's to refuse, with the status 2.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol, cast

import gevent

from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.version import __version__

__all__ = ["main", "patched", "start"]

#: In the order in which ``--help`` shows them.
COMMANDS = ("new", "serve", "doctor", "routes")

#: What the process becomes. Whoever starts the package has imported web.py by then, and the patches
#: have to come before that: with the command line nobody can get the order wrong.
_PATCHED = """\
import sys
try:
    from gevent import monkey; monkey.patch_all()
    from webpy_socketio.cli import main
    status = main(sys.argv[1:])
except KeyboardInterrupt:
    status = 130
sys.exit(status)
"""

#: What a file of the application's own must not be called, as it would be imported for the real one.
_TAKEN = (
    *("web", "gevent", "blinker", "mako", "websockets", "orjson", "redis", "regex"),
    "webpy_socketio",
)


class Command(Protocol):
    """What a module has to have to be a command."""

    NAME: str
    HELP: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


def start() -> NoReturn:
    """Begin again as a process whose first act is to patch, with the interpreter's own options."""
    hiding = [f"{name}.py" for name in _TAKEN if Path(f"{name}.py").exists()]
    if hiding:
        sys.stderr.write(
            f"webpy-socketio: {hiding[0]} in this folder hides the package of that name: rename it\n"
        )
        sys.exit(1)
    given = sys.argv[1:]
    os.execv(sys.executable, patched(given))


def patched(given: Sequence[str]) -> list[str]:
    """The command of a process that patches first and then runs what the words name.

    It has the interpreter's options that this one has, which was started with `sys.argv`.
    """
    options = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    # Behind the options stands how this one was started: "-m webpy_socketio", "-c" and a program, or
    # a script's path.
    options = options[:-2] if options[-2:-1] in (["-m"], ["-c"]) else options[:-1]
    return [sys.executable, *options, "-c", _PATCHED, *given]


def main(given: Sequence[str]) -> int:
    """Run the command that the words name; returns the exit status."""
    hub = gevent.get_hub()
    # Ctrl-C ends the main greenlet wherever it comes; where that waits, the hub would print it first.
    hub.NOT_ERROR = tuple({*hub.NOT_ERROR, KeyboardInterrupt})
    try:
        try:
            arguments = _parser().parse_args(given)
            return cast(int, arguments.run(arguments))
        finally:
            sys.stdout.flush()
    except ConfigurationError as error:
        sys.stderr.write(f"webpy-socketio: {error}\n")
        return 1
    except BrokenPipeError:
        # Who reads has read enough, as head does. What is left is not to fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a program that SIGPIPE ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="webpy-socketio",
        description="Real-time messaging for web.py.",
        epilog="webpy-socketio COMMAND --help tells more about a command, and shows an example.",
    )
    versions = f"webpy-socketio {__version__} (Python {platform.python_version()})"
    parser.add_argument("--version", action="version", version=versions)
    choices = parser.add_subparsers(metavar="command", required=True)
    for name in COMMANDS:
        command = cast(Command, importlib.import_module(f"{__name__}.{name}"))
        chosen = choices.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.HELP,
            epilog=f"example: webpy-socketio {command.EXAMPLE}",
        )
        command.add_arguments(chosen)
        chosen.set_defaults(run=command.run)
    return parser
