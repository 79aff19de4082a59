"""The command line, ``python -m webpy_socketio`` or ``webpy-socketio``.

Each command is a module of this package. It defines `NAME`, a `HELP` line, an `EXAMPLE`,
``add_arguments(parser)`` and ``run(arguments)``, which returns the exit status. A
`ConfigurationError` is printed as one line, and the exit status is 1. Invalid arguments are
reported by argparse, with exit status 2.
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

#: The order of ``--help``.
COMMANDS = ("new", "serve", "status", "doctor", "routes", "load")

#: The program of the new process. The process that starts the package has already imported web.py,
#: and gevent must patch before that import.
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

#: Modules that a file in the current folder would hide.
_RESERVED_NAMES = (
    *("web", "gevent", "blinker", "mako", "websockets", "orjson", "redis", "regex"),
    "webpy_socketio",
)


class Command(Protocol):
    """The interface of a command module."""

    NAME: str
    HELP: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command and return the exit status."""


def start() -> NoReturn:
    """Restart as a process that patches first, with the same interpreter options."""
    hiding = [f"{name}.py" for name in _RESERVED_NAMES if Path(f"{name}.py").exists()]
    if hiding:
        sys.stderr.write(
            f"webpy-socketio: {hiding[0]} in this folder hides the package of that name: "
            "rename it\n"
        )
        sys.exit(1)
    os.execv(sys.executable, patched(sys.argv[1:]))


def patched(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a process that patches first and then runs the command.

    The interpreter options of this process are passed on.
    """
    options = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    # The options are followed by "-m webpy_socketio", "-c" and a program, or a script's path.
    options = options[:-2] if options[-2:-1] in (["-m"], ["-c"]) else options[:-1]
    return [sys.executable, *options, "-c", _PATCHED, *arguments]


def main(argv: Sequence[str]) -> int:
    """Run the command given by the arguments, and return the exit status."""
    hub = gevent.get_hub()
    # Ctrl-C is raised in the main greenlet; without this, the hub would print it first.
    hub.NOT_ERROR = tuple({*hub.NOT_ERROR, KeyboardInterrupt})
    try:
        try:
            arguments = _parser().parse_args(argv)
            return cast(int, arguments.run(arguments))
        finally:
            sys.stdout.flush()
    except ConfigurationError as error:
        sys.stderr.write(f"webpy-socketio: {error}\n")
        return 1
    except BrokenPipeError:
        # The reader of the pipe has closed it, as head does. Flushing at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as after SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="webpy-socketio",
        description="Real-time messaging for web.py.",
        epilog="webpy-socketio COMMAND --help describes a command and shows an example.",
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
