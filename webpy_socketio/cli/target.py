"""The application that a command line names: ``module:name``, or ``file.py:name``."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import web

from webpy_socketio.bus.introspection import check_positional, describe
from webpy_socketio.cli.importer import import_module
from webpy_socketio.config.settings import configure
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["Target", "add_settings", "applications", "find", "load", "use_settings", "wsgi"]


class Target(NamedTuple):
    """What a command line named."""

    module: ModuleType
    name: str
    application: Any


def load(target: str) -> Any:
    """Import what ``module:name`` names; the name may be left out, and is ``app`` then.

    Raises `ConfigurationError` if there is no such module, no such name in it, or if the module fails,
    with the traceback that says where.
    """
    return find(target).application


def find(target: str, settings: str | None = None) -> Target:
    """The same with where it was found; `settings` names a module whose settings are nearer than what
    the application says itself.
    """
    written, _, name = target.partition(":")
    name = name or "app"
    folder, module_name = _enter(written)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError:
        raise ConfigurationError(_missing(folder, module_name)) from None
    file = folder.joinpath(*module_name.split(".")).with_suffix(".py")
    if file.exists() and not file.samefile(getattr(module, "__file__", None) or "/"):
        raise ConfigurationError(
            f"{module_name!r} is a module of Python's or of a package: rename {file.name}"
        )
    use_settings(settings)
    try:
        found = Target(module, name, getattr(module, name))
    except AttributeError:
        known = [key for key, value in vars(module).items() if isinstance(value, web.application)]
        near = known or difflib.get_close_matches(name, vars(module), 1)
        hint = f"; did you mean {written}:{near[0]}?" if near else f": name it as {written}:name"
        raise ConfigurationError(f"the module {module_name!r} has no {name!r}{hint}") from None
    for application in applications(found):
        _check_urls(application)
    return found


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Let a command take ``--settings``."""
    parser.add_argument("--settings", metavar="MODULE", help="module of SOCKETIO_* settings")


def use_settings(module: str | None) -> None:
    """Let the settings of a module be in force, if one was named."""
    if module is not None:
        configure(module)


def applications(target: Target) -> list[Any]:
    """The web.py applications behind a target: itself, or those of its module if it wraps one."""
    if isinstance(target.application, web.application):
        return [target.application]
    return [one for one in vars(target.module).values() if isinstance(one, web.application)]


def wsgi(application: Any) -> Any:
    """What a server serves: a web.py application's own function, or a WSGI callable as it is.

    Raises `ConfigurationError` for what is neither.
    """
    if isinstance(application, web.application):
        return application.wsgifunc()
    if not callable(application):
        raise ConfigurationError(
            f"what was named is of type {type(application).__name__}, where a web.application belongs: "
            "name what web.application(urls, globals()) returned"
        )
    wrong = check_positional(application, ("environ", "start_response"))
    if wrong is not None:
        raise ConfigurationError(
            f"{describe(application)} is no WSGI application: it {wrong}; "
            "name what web.application(urls, globals()) returned"
        )
    return application


def _check_urls(application: Any) -> None:
    """Refuse urls that are not pairs, which web.py would find out at a request."""
    nested = any(isinstance(part, tuple) for pair in application.mapping for part in pair)
    if nested or any(len(pair) != 2 for pair in application.mapping):
        raise ConfigurationError(
            "the urls of the application are not pairs of a pattern and a class"
            + ("; add a tuple to them, urls = (...) + socketio_urls" if nested else "")
        )


def _enter(written: str) -> tuple[Path, str]:
    """Make a module importable as it is for its own program; returns its folder and its name."""
    path = Path(written)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        hint = _near(path.parent, path.stem)
        raise ConfigurationError(f"there is no file {written}{hint}")
    if not is_file and not all(part.isidentifier() for part in written.split(".")):
        raise ConfigurationError(
            f"{written!r} is not the name of a module: name the application as module:name, "
            "chat:app for the `app` in chat.py"
        )
    folder = path.parent.resolve() if is_file else Path.cwd()
    if str(folder) not in sys.path:
        # Where the program itself would look for what it imports.
        sys.path.insert(0, str(folder))
    return folder, path.stem if is_file else written


def _missing(folder: Path, name: str) -> str:
    parent, _, last = name.rpartition(".")
    if hasattr(sys.modules.get(parent), last):
        return f"there is no module {name!r}; did you mean {parent}:{last}?"
    hint = _near(folder, name)
    return f"there is no module {name!r} here" + (
        hint or ": name the application as module:name, in the folder that the module is in"
    )


def _near(folder: Path, name: str) -> str:
    near = difflib.get_close_matches(name, [path.stem for path in folder.glob("*.py")], 1)
    return f"; did you mean {near[0]}?" if near else ""
