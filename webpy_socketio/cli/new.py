"""``new chat``: creates the files of a small application in a new folder."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from webpy_socketio.exceptions import ConfigurationError

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "new"
HELP = "create an application to start from: a small chat with its tests"
EXAMPLE = "new chat"

STARTER = Path(__file__).parent / "starter"

#: Suffix of the template files, which are not modules of this package.
SUFFIX = "-tpl"

#: Replaced by the name of the application.
PLACEHOLDER = "{{name}}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "name", help="name of the application: a letter, then letters, digits, - and _; 64 at most"
    )
    parser.add_argument(
        "--dir", help="folder to create; must be empty if it exists (default: the name)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files and print the next steps."""
    name: str = arguments.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        raise ConfigurationError(
            f"{name!r} is not a valid application name: use a letter, then letters, digits, "
            "- and _, 64 at most; --dir sets the folder"
        )
    folder = Path(name if arguments.dir is None else arguments.dir)
    _check_empty(folder)
    written = _write(folder, name)
    files = "".join(f"  {path}\n" for path in written)
    enter = "" if folder.resolve() == Path.cwd() else f"  cd {folder}\n"
    sys.stdout.write(
        f"{files}\nNext steps:\n\n{enter}"
        "  python app.py                    # or: webpy-socketio serve app:app\n"
        "  python -m pytest                 # pip install pytest, if it is not installed\n"
        "  webpy-socketio doctor app:app\n"
    )
    return 0


def _check_empty(folder: Path) -> None:
    if folder.is_symlink() and not folder.exists():
        raise ConfigurationError(f"{folder} is a broken symbolic link: choose another --dir")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file: choose another name, or another --dir")
    existing = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if existing:
        raise ConfigurationError(
            f"the folder {folder} is not empty (it contains {existing[0]}), and nothing is "
            "overwritten: choose another name, or another --dir"
        )


def _write(folder: Path, name: str) -> list[Path]:
    made: list[Path] = []
    try:
        for source, path in _files(folder):
            for parent in reversed(path.parents):
                if not parent.exists():
                    parent.mkdir()
                    made.append(parent)
            made.append(path)
            text = source.read_text(encoding="utf-8").replace(PLACEHOLDER, name)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        _remove(made)
        raise ConfigurationError(
            f"{folder} cannot be written: {error}; choose another --dir"
        ) from None
    return [path for path in made if path.is_file()]


def _files(folder: Path) -> Iterator[tuple[Path, Path]]:
    for source in sorted(STARTER.rglob(f"*{SUFFIX}")):
        yield source, folder / str(source.relative_to(STARTER)).removesuffix(SUFFIX)


def _remove(made: list[Path]) -> None:
    """Remove created files and folders after a failure."""
    for path in reversed(made):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
