"""The channel extension of the client: one source, built as a classic script and as a module.

The source is the npm package in ``client/``: ES modules in ``src``. The two scripts that the server
serves contain all modules that an entry module imports, in one file, without further changes.
``python build_tools/extension.py`` builds them after a change of the source.
"""

from __future__ import annotations

import re
from pathlib import Path

from client_bundle import ROOT, STATIC, write_file

SOURCE = ROOT / "client" / "src"

#: The scripts in ``webpy_socketio/static``, and the entry module of each.
CLASSIC_SCRIPT, MODULE = "webpy_socketio.js", "webpy_socketio.mjs"
ENTRIES = {CLASSIC_SCRIPT: "classic.js", MODULE: "index.js"}

_GENERATED = "// Built by build_tools/extension.py from client/src: change the source instead.\n"
_HEADER = re.compile(r"/\*.*?\*/\n", re.DOTALL)
_IMPORT = re.compile(r'^import \{ \w+(?:, \w+)* \} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const) )", re.MULTILINE)
_MODULE_SYNTAX = re.compile(r"^\s*(?:import|export)\b.*|.*\bimport(?:\(|\.meta).*", re.MULTILINE)
_DECLARATION = re.compile(
    r"^(?:export )?(?:async )?(?:function|class|const|let|var) (\w+)", re.MULTILINE
)


class SourceError(ValueError):
    """The source uses module syntax that the build does not support; the text names the place."""


def ensure() -> None:
    """Build both scripts in ``webpy_socketio/static``, unless they are up to date.

    Raises:
        SourceError: The source uses module syntax that the build does not support.
    """
    for name in ENTRIES:
        text, path = build(name), STATIC / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_file(path, text)


def build(name: str, source: Path = SOURCE) -> str:
    """Return the text of a script.

    Args:
        name: One of `ENTRIES`.
        source: Folder of the modules.

    Raises:
        SourceError: The source uses module syntax that the build does not support.
    """
    entry = ENTRIES[name]
    modules = _in_order(entry, source)
    _check_names(modules)
    header = _HEADER.match(modules[entry])
    if header is None:
        raise SourceError(f"{entry}: the entry module must begin with a comment, for its script")
    modules[entry] = modules[entry][header.end() :]
    parts = [
        _without_module_syntax(module, text, exports=module == entry and name == MODULE)
        for module, text in modules.items()
    ]
    body = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    if name == CLASSIC_SCRIPT:
        body = f'(function () {{\n"use strict";\n\n{body}}})();\n'
    return f"{header[0]}{_GENERATED}\n{body}"


def _in_order(entry: str, source: Path) -> dict[str, str]:
    """Return the texts of a module and its imports by name, imported modules first."""
    found: dict[str, str] = {}
    pending: list[str] = []

    def visit(module: str) -> None:
        if module in pending:
            raise SourceError(f"{module}: modules must not import each other in a circle")
        if module in found:
            return
        pending.append(module)
        text = (source / module).read_text(encoding="utf-8")
        for imported in _IMPORT.findall(text):
            visit(imported)
        found[module] = text
        pending.pop()

    visit(entry)
    return found


def _check_names(modules: dict[str, str]) -> None:
    """Raise `SourceError` if two modules declare one name: their scripts share a scope."""
    owners: dict[str, str] = {}
    for module, text in modules.items():
        for name in _DECLARATION.findall(text):
            if name in owners:
                raise SourceError(f"{module}: {owners[name]} declares {name} too; rename one")
            owners[name] = module


def _without_module_syntax(module: str, text: str, *, exports: bool) -> str:
    """Remove the imports, and the keyword ``export`` unless `exports` is set."""
    text = _IMPORT.sub("", text)
    bare = _EXPORT.sub("", text)
    for found in _MODULE_SYNTAX.finditer(bare):
        line = found[0].strip()
        if not line.startswith(("*", "//")):  # prose in comments may contain these words
            raise SourceError(
                f"{module}: the build does not support {line!r}: write "
                'import { name } from "./module.js"; on one line, and export a declaration'
            )
    return text if exports else bare


if __name__ == "__main__":
    ensure()
