"""The command line, ``python -m webpy_socketio`` or ``webpy-socketio``.

A command is a module of this package with a `NAME`, a `HELP` line, ``add_arguments(parser)`` and
``run(arguments)``, which returns the exit status. What is wrong with what it was given is a
`ConfigurationError`, which becomes one line and the status 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from webpy_socketio.exceptions import ConfigurationError

__all__ = ["main", "patched", "start"]

#: In the order in which ``--help`` shows them.
COMMANDS = ("serve",)

#: What the process becomes. Whoever starts the package has imported web.py by then, and the patches
#: have to come before that: with the command line nobody can get the order wrong.
_PATCHED = (
    "from gevent import monkey; monkey.patch_all()\n"
    "import sys; from webpy_socketio.cli import main; sys.exit(main(sys.argv[1:]))"
)


class Command(Protocol):
    """What a module has to have to be a command."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


def start() -> NoReturn:
    """Begin again as a process whose first act is to patch, with the interpreter's own options."""
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
    parser = argparse.ArgumentParser(
        prog="webpy-socketio", description="Real-time messaging for web.py."
    )
    choices = parser.add_subparsers(metavar="command", required=True)
    for name in COMMANDS:
        command = cast(Command, importlib.import_module(f"{__name__}.{name}"))
        chosen = choices.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(chosen)
        chosen.set_defaults(run=command.run)
    arguments = parser.parse_args(given)
    try:
        return cast(int, arguments.run(arguments))
    except ConfigurationError as error:
        sys.stderr.write(f"webpy-socketio: {error}\n")
        return 1
