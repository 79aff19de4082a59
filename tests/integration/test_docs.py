"""The built documentation: no warnings, no external resources, and a complete reference."""

from __future__ import annotations

import ast
import importlib
import pickle
import pkgutil
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from docutils import core, nodes

import webpy_socketio
from tests.snippets import DOCS, ROOT
from webpy_socketio import Socket, cli, plugins, signals, testing
from webpy_socketio.config.settings import SETTINGS
from webpy_socketio.plugins import presence

#: CSS classes of the boxes in which docutils, Sphinx and the theme show errors.
#: furo marks ".. contents::", which has the class "contents", with a red box of its own.
ERROR_CLASSES = {"system-message", "system-messages", "problematic", "contents"}

#: Folders of the repository that hold no sources.
GENERATED = {".venv", ".git", "node_modules", "build", "dist"}

#: Lines that a merge leaves behind. "=======" alone may be the underline of a heading.
CONFLICT = re.compile(r"^(<{7}|>{7}|\|{7})( |$)", re.MULTILINE)


def sources(*suffixes: str) -> list[Path]:
    """Return the files of the repository with these suffixes, generated ones left out."""
    return sorted(
        path
        for path in ROOT.rglob("*")
        if path.suffix in suffixes and not GENERATED & set(path.relative_to(ROOT).parts)
    )


def messages_of(path: Path) -> list[str]:
    """Parse a page with docutils, and return its system messages."""
    tree = core.publish_doctree(
        path.read_text(encoding="utf-8"),
        source_path=str(path),
        settings_overrides={"report_level": 1, "halt_level": 6, "warning_stream": False},
    )
    return [node.astext() for node in tree.findall(nodes.system_message)]


class ClassParser(HTMLParser):
    """A parser that collects the CSS classes of a page's elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= set((dict(attrs).get("class") or "").split())


class TestSources:
    @pytest.mark.parametrize(
        "path",
        [path for path in sources(".rst") if DOCS not in path.parents],
        ids=lambda path: path.name,
    )
    def test_page_outside_docs_parses_without_system_message(self, path: Path) -> None:
        assert messages_of(path) == []

    def test_pages_in_docs_parse_without_system_message(self, built_docs: Path) -> None:
        trees = sorted((built_docs / "trees").rglob("*.doctree"))
        assert len(trees) == len(list(DOCS.rglob("*.rst")))
        for path in trees:
            tree = pickle.loads(path.read_bytes())
            found = [node.astext() for node in tree.findall(nodes.system_message)]
            assert found == [], path

    def test_source_files_contain_no_conflict_markers(self) -> None:
        suffixes = (".rst", ".py", ".js", ".mjs", ".css", ".html", ".toml", ".conf", ".c", ".lua")
        found = [
            f"{path}: {match[0]}"
            for path in sources(*suffixes)
            for match in CONFLICT.finditer(path.read_text(encoding="utf-8"))
        ]
        assert found == []


class ResourceParser(HTMLParser):
    """A parser that collects the resources that a page loads, without its links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        names = ["src", "srcset", "poster", "data", "action"] + (["href"] if tag == "link" else [])
        self.found += [values[name] or "" for name in names if name in values]


class TestPages:
    def test_pages_and_styles_load_no_external_resource(self, built_docs: Path) -> None:
        pages = list((built_docs / "html").rglob("*.html"))
        assert len(pages) > 20
        for page in pages:
            parser = ResourceParser()
            parser.feed(page.read_text(encoding="utf-8"))
            assert parser.found, page
            for address in parser.found:
                assert not re.match(r"[a-z]+:|//", address), f"{page.name} loads {address}"
        for style in (built_docs / "html").rglob("*.css"):
            text = style.read_text(encoding="utf-8")
            for address in re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(
                r"@import\s+['\"]([^'\"]+)", text
            ):
                assert not re.match(r"(?!data:)[a-z]+:|//", address), f"{style.name}: {address}"

    def test_pages_show_no_error_box(self, built_docs: Path) -> None:
        for page in (built_docs / "html").rglob("*.html"):
            parser = ClassParser()
            parser.feed(page.read_text(encoding="utf-8"))
            assert not parser.found & ERROR_CLASSES, page

    def test_index_links_every_page(self, built_docs: Path) -> None:
        index = (built_docs / "html" / "index.html").read_text(encoding="utf-8")
        for page in DOCS.rglob("*.rst"):
            name = page.relative_to(DOCS).with_suffix(".html").as_posix()
            assert name == "index.html" or f'href="{name}"' in index

    def test_architecture_picture_has_a_description(self, built_docs: Path) -> None:
        page = (built_docs / "html" / "explanation" / "architecture.html").read_text(
            encoding="utf-8"
        )
        (picture,) = re.findall(r"<svg class=.diagram.*?</svg>", page, re.DOTALL)
        assert 'role="img"' in picture
        assert "<desc" in picture

    def test_lifecycle_picture_and_text_name_every_stage(self, built_docs: Path) -> None:
        page = (built_docs / "html" / "explanation" / "lifecycle.html").read_text(encoding="utf-8")
        (picture,) = re.findall(r"<svg class=.lifecycle.*?</svg>", page, re.DOTALL)
        words = page[page.index("In words") :]
        assert 'role="img"' in picture
        assert "<desc" in picture
        (description,) = re.findall(r"<desc.*?>(.*?)</desc>", picture, re.DOTALL)
        drawn = re.findall(r"<text x=.*?>(\w+)</text>", picture)
        for stage in signals.STAGES:
            assert stage.name in drawn
            assert stage.name in description
            assert f">{stage.name}</span>" in words


class TestReference:
    @pytest.mark.parametrize("name", sorted(webpy_socketio.__all__))
    def test_public_name_is_described(self, name: str, described: set[str]) -> None:
        assert f"webpy_socketio.{name}" in described

    def test_every_setting_is_described(self, described: set[str]) -> None:
        for setting in SETTINGS:
            assert f"SOCKETIO_{setting.name}" in described

    def test_every_stage_is_described(self, described: set[str]) -> None:
        for stage in signals.STAGES:
            assert f"webpy_socketio.signals.{stage.name}" in described
            assert f"webpy_socketio.on_{stage.name}" in described

    def test_every_signal_is_described(self, described: set[str]) -> None:
        assert {f"webpy_socketio.signals.{name}" for name in signals.__all__} <= described

    def test_every_testing_name_is_described(self, described: set[str]) -> None:
        assert {f"webpy_socketio.testing.{name}" for name in testing.__all__} <= described

    def test_every_plugin_is_described(self, described: set[str]) -> None:
        bundled = list(pkgutil.iter_modules(plugins.__path__, f"{plugins.__name__}."))
        assert len(bundled) > 1
        for module in (importlib.import_module(found.name) for found in bundled):
            names = set(module.__all__) - {"install", "uninstall"}
            assert {module.__name__, *(f"{module.__name__}.{name}" for name in names)} <= described

    def test_socket_attributes_named_in_pages_are_described(self, described: set[str]) -> None:
        text = "".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.rst"))
        named = set(re.findall(r"\bsocket\.([a-z_]+)", text)) & set(dir(Socket))
        assert len(named) > 12
        for name in named:
            assert f"webpy_socketio.Socket.{name}" in described


#: Names in the tables that stand for objects of the reader's program.
_PLACEHOLDERS = {
    "app",
    "client",
    "server",
    "gevent",
    "web",
    "request",
    "presence",
    "socket",
    "context",
}

#: Modules and builtins.
_MODULES = {"dict", "logging", "re", "webpy_socketio"}


class TestEquivalents:
    """Tables of equivalents in the migration guides name only existing objects."""

    @pytest.fixture(params=["from-2012", "from-flask-socketio", "from-nodejs"])
    def last_column(self, request: Any, built_docs: Path) -> list[nodes.Node]:
        """Return the cells of the last column, which name objects of this package."""
        tree = pickle.loads(
            (built_docs / "trees" / "how-to" / f"{request.param}.doctree").read_bytes()
        )
        (table,) = (one for one in tree.findall(nodes.table) if "equivalents" in one["classes"])
        rows = list(table.findall(nodes.row))
        assert len(rows) > 5
        return [row.children[-1] for row in rows]

    @pytest.fixture
    def snippets(self, last_column: list[nodes.Node]) -> list[str]:
        """Return the code in these cells."""
        return [code.astext() for cell in last_column for code in cell.findall(nodes.literal)]

    def test_code_is_valid_python(self, snippets: list[str]) -> None:
        for code in snippets:
            ast.parse(_statement(code))

    def test_every_name_exists(self, snippets: list[str]) -> None:
        settings = {f"SOCKETIO_{setting.name}" for setting in SETTINGS}
        for code in snippets:
            for name in _names(ast.parse(_statement(code))):
                assert (
                    name in _PLACEHOLDERS | _MODULES
                    or name in settings
                    or hasattr(webpy_socketio, name)
                    or hasattr(testing, name)
                    or name in {"f", "a", "data", "host", "port", "urls", "session_id", "answer"}
                ), f"{name} in {code}"

    def test_every_module_can_be_imported(self, snippets: list[str]) -> None:
        for code in snippets:
            if code.startswith("webpy_socketio."):
                importlib.import_module(code)

    def test_every_command_can_be_parsed(self, last_column: list[nodes.Node]) -> None:
        commands = [code.astext() for cell in last_column for code in cell.findall(nodes.strong)]
        assert commands
        for command in commands:
            program, *words = command.split()
            if program == "gunicorn":
                assert words[words.index("-k") + 1] == "webpy_socketio.gunicorn.Worker"
            else:
                assert program == "webpy-socketio"
                assert cli._parser().parse_args(words)

    def test_every_method_exists(self, snippets: list[str]) -> None:
        places = {
            "socket": Socket,
            "client": testing.Client,
            "signals": signals,
            "presence": presence,
        }
        for code in snippets:
            for node in ast.walk(ast.parse(_statement(code))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    place = places.get(node.value.id)
                    assert place is None or hasattr(place, node.attr), code


def _statement(code: str) -> str:
    """Complete a lone decorator to a statement."""
    return f"{code}\ndef f(): ..." if code.startswith("@") else code


def _names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that the code reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
