"""``new chat``: the beginning of an application, in a folder of its own."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from webpy_socketio.exceptions import ConfigurationError

__all__ = ["EXAMPLE", "HELP", "NAME", "add_arguments", "run"]

NAME = "new"
HELP = "begin an application: a small chat with its test, to make your own of"
EXAMPLE = "new chat"

STARTER = Path(__file__).parent / "starter"

#: Behind the names of the files there: they are not modules of this package.
SUFFIX = "-tpl"

#: Stands in them for the name that was chosen.
PLACEHOLDER = "{{name}}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what it takes."""
    parser.add_argument(
        "name", help="what it is called: a letter, then letters, digits, - and _; 64 at most"
    )
    parser.add_argument(
        "--dir", help="a folder that is empty, or not there yet; the name, if not given"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files, and say what to do with them."""
    name: str = arguments.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        raise ConfigurationError(
            f"{name!r} is not a name for an application: it begins with a letter, and has letters, "
            "digits, - and _ after it, 64 at most; --dir says where it is to be"
        )
    folder = Path(name if arguments.dir is None else arguments.dir)
    _check_empty(folder)
    written = _write(folder, name)
    files = "".join(f"  {path}\n" for path in written)
    enter = "" if folder.resolve() == Path.cwd() else f"  cd {folder}\n"
    sys.stdout.write(
        f"{files}\nWhat to do next:\n\n{enter}"
        "  python app.py                    # or: webpy-socketio serve app:app\n"
        "  python -m pytest                 # pip install pytest, if it is not there\n"
        "  webpy-socketio doctor app:app\n"
    )
    return 0


def _check_empty(folder: Path) -> None:
    if folder.is_symlink() and not folder.exists():
        raise ConfigurationError(f"{folder} is a link to nowhere: choose another --dir")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file: choose another name, or another --dir")
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if there:
        raise ConfigurationError(
            f"the folder {folder} is not empty ({there[0]} is in it), and nothing is overwritten: "
            "choose another name, or another --dir"
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
    """Leave a folder as it was found."""
    for path in reversed(made):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
