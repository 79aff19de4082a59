"""The application named on the command line: ``module:name``, or ``file.py:name``."""

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
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.runtime import default_runtime

__all__ = [
    "NamedApplication",
    "add_settings",
    "applications",
    "find",
    "load",
    "use_settings",
    "wsgi",
]


class NamedApplication(NamedTuple):
    """A named application, and where it was found."""

    module: ModuleType
    name: str
    application: Any


def load(text: str) -> Any:
    """Import the application ``module:name``; the name defaults to ``app``.

    Raises:
        ConfigurationError: The module or the name does not exist, or the module raised; then the
            message includes its traceback.
    """
    return find(text).application


def find(text: str, settings: str | None = None) -> NamedApplication:
    """Import an application, and return it with its module.

    The settings of the module `settings` override those that the application configures.
    """
    written, _, name = text.partition(":")
    name = name or "app"
    folder, module_name = _enter(written)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError:
        raise ConfigurationError(_missing(folder, module_name)) from None
    file = folder.joinpath(*module_name.split(".")).with_suffix(".py")
    if file.exists() and not file.samefile(getattr(module, "__file__", None) or "/"):
        raise ConfigurationError(
            f"{module_name!r} is the name of a module of Python or of a package: rename {file.name}"
        )
    use_settings(settings)
    try:
        found = NamedApplication(module, name, getattr(module, name))
    except AttributeError:
        known = [key for key, value in vars(module).items() if isinstance(value, web.application)]
        near = known or difflib.get_close_matches(name, vars(module), 1)
        hint = f"; did you mean {written}:{near[0]}?" if near else f": name it as {written}:name"
        raise ConfigurationError(f"the module {module_name!r} has no {name!r}{hint}") from None
    for application in applications(found):
        _check_urls(application)
    return found


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--settings`` to a command."""
    parser.add_argument("--settings", metavar="MODULE", help="module of SOCKETIO_* settings")


def use_settings(module: str | None) -> None:
    """Apply the settings of a module, if one was named."""
    if module is not None:
        default_runtime.sources.configure(module)


def applications(named: NamedApplication) -> list[Any]:
    """Return the ``web.application`` named, or those in the module of another WSGI callable."""
    if isinstance(named.application, web.application):
        return [named.application]
    return [one for one in vars(named.module).values() if isinstance(one, web.application)]


def wsgi(application: Any) -> Any:
    """Return the WSGI callable of an application.

    Raises:
        ConfigurationError: It is neither a ``web.application`` nor a WSGI callable.
    """
    if isinstance(application, web.application):
        return application.wsgifunc()
    if not callable(application):
        raise ConfigurationError(
            f"expected a web.application, not an object of type {type(application).__name__}: "
            "name what web.application(urls, globals()) returned",
        )
    wrong = check_positional(application, ("environ", "start_response"))
    if wrong is not None:
        raise ConfigurationError(
            f"{describe(application)} is no WSGI application: it {wrong}; "
            "name what web.application(urls, globals()) returned"
        )
    return application


def _check_urls(application: Any) -> None:
    """Reject URLs that are not pairs; web.py would fail on the first request."""
    nested = any(isinstance(part, tuple) for pair in application.mapping for part in pair)
    if nested or any(len(pair) != 2 for pair in application.mapping):
        raise ConfigurationError(
            "the urls of the application are not pairs of a pattern and a class"
            + ("; add a tuple to them, urls = (...) + socketio_urls" if nested else "")
        )


def _enter(written: str) -> tuple[Path, str]:
    """Add the module's folder to the import path; return the folder and the module's name."""
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
        # The first entry, as when the file is run as a program.
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
