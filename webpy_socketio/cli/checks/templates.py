"""Check of Mako templates: whether ``socketio_scripts.html`` is found where it is included."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from webpy_socketio.cli.checks import CheckContext, Finding, ok, problem
from webpy_socketio.cli.importer import shorten

__all__ = ["templates"]

_SCRIPTS = "socketio_scripts.html"
_INCLUDE = re.compile(rb"""<%include\s[^>]*file\s*=\s*["']([^"'$]*socketio_scripts\.html)["']""")

#: Suffixes of Mako templates.
_SUFFIXES = (".html", ".htm", ".mako", ".mak", ".tmpl", ".xhtml")

#: Folders without templates of the application.
_EXCLUDED = ("node_modules", "site-packages", "__pycache__")

_DIRECTORY = "add webpy_socketio.template_dir to the directories of the TemplateLookup"
_ABSOLUTE = f'write file="/{_SCRIPTS}": without the slash the name is relative to the template'


def templates(context: CheckContext) -> Iterator[Finding]:
    """Check that every template that includes the scripts can find them."""
    mako = sys.modules.get("mako.lookup")
    if context.named is None or mako is None:
        return
    # The application may keep its lookup in a module, an object or a closure.
    lookups = [each for each in gc.get_objects() if issubclass(type(each), mako.TemplateLookup)]
    folder = Path(getattr(context.named.module, "__file__", None) or ".").parent
    found = list(chain(*map(_of_lookup, lookups))) if lookups else list(_of_folder(folder))
    yield from (finding for finding in found if finding is not None)
    if found and not any(found):
        yield ok("templates", f"{_SCRIPTS} is found")


def _of_lookup(lookup: Any) -> Iterator[Finding | None]:
    """Yield a problem for each template that cannot include the scripts, None for others."""
    for directory in lookup.directories:
        for file, included in _including(Path(directory)):
            uri = f"/{file.relative_to(directory).as_posix()}"
            if _has(lookup, lookup.adjust_uri(included, uri)):
                yield None
                continue
            yield problem(
                "templates",
                f"{shorten(str(file))} includes {included}, which its TemplateLookup does not find",
                _ABSOLUTE if _has(lookup, _SCRIPTS) else _DIRECTORY,
            )


def _has(lookup: Any, uri: str) -> bool:
    return any(Path(directory, uri.lstrip("/")).is_file() for directory in lookup.directories)


def _of_folder(folder: Path) -> Iterator[Finding | None]:
    """Do the same for an application that creates its lookup later, from its source."""
    for file, _ in _including(folder):
        if _names_our_folder():
            yield None
        else:
            yield problem(
                "templates",
                f"{shorten(str(file))} includes {_SCRIPTS}, and no module names template_dir",
                _DIRECTORY,
            )
        return


def _including(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each template that includes the scripts, and the URI that it includes."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in _EXCLUDED)
        for file in (Path(parent, name) for name in sorted(files)):
            if file.suffix in _SUFFIXES and (found := _INCLUDE.search(_without_comments(file))):
                yield file, found[1].decode()


def _without_comments(file: Path) -> bytes:
    return re.sub(rb"(?m)^\s*##.*$", b"", file.read_bytes())


def _names_our_folder() -> bool:
    """Return whether a module of the application names the package's template folder."""
    return any(
        b"template_dir" in source or b"webpy_socketio/templates" in source
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in ("webpy_socketio", *sys.stdlib_module_names)
        and (file := getattr(module, "__file__", None) or "").endswith(".py")
        and (source := Path(file).read_bytes())
    )
