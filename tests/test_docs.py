"""The documentation as it is built: without warnings, without a network, and with everything in it."""

from __future__ import annotations

import ast
import importlib
import pickle
import pkgutil
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from docutils import core, nodes

import webpy_socketio
from webpy_socketio import Socket, cli, plugins, signals, testing
from webpy_socketio.config.settings import SETTINGS
from webpy_socketio.plugins import presence

from .snippets import DOCS, ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages, made as ``make docs`` makes them."""
    folder = tmp_path_factory.mktemp("docs")
    command = ["-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [sys.executable, *command, "-d", str(folder / "trees"), str(DOCS), str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


@pytest.fixture(scope="module")
def describe(built: Path) -> set[str]:
    """The name of everything that the reference describes: ``py:class webpy_socketio.Socket``."""
    inventory = (built / "html" / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    return {
        line.split(" ")[0] for line in lines if line.split(" ")[1].startswith(("py:", "std:se"))
    }


#: CSS classes of the boxes that docutils, Sphinx and the theme show for an error in a page's source.
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


class Classes(HTMLParser):
    """Collects the CSS classes of a page's elements."""

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

    def test_pages_in_docs_parse_without_system_message(self, built: Path) -> None:
        trees = sorted((built / "trees").rglob("*.doctree"))
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


class Loads(HTMLParser):
    """What a page loads by itself, as against what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        names = ["src", "srcset", "poster", "data", "action"] + (["href"] if tag == "link" else [])
        self.found += [values[name] or "" for name in names if name in values]


class TestPages:
    def test_nothing_is_loaded_from_elsewhere(self, built: Path) -> None:
        pages = list((built / "html").rglob("*.html"))
        assert len(pages) > 20
        for page in pages:
            loads = Loads()
            loads.feed(page.read_text(encoding="utf-8"))
            assert loads.found, page
            for address in loads.found:
                assert not re.match(r"[a-z]+:|//", address), f"{page.name} loads {address}"
        for style in (built / "html").rglob("*.css"):
            text = style.read_text(encoding="utf-8")
            for address in re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(
                r"@import\s+['\"]([^'\"]+)", text
            ):
                assert not re.match(r"(?!data:)[a-z]+:|//", address), f"{style.name}: {address}"

    def test_pages_show_no_error_box(self, built: Path) -> None:
        for page in (built / "html").rglob("*.html"):
            classes = Classes()
            classes.feed(page.read_text(encoding="utf-8"))
            assert not classes.found & ERROR_CLASSES, page

    def test_every_page_can_be_reached(self, built: Path) -> None:
        index = (built / "html" / "index.html").read_text(encoding="utf-8")
        for page in DOCS.rglob("*.rst"):
            name = page.relative_to(DOCS).with_suffix(".html").as_posix()
            assert name == "index.html" or f'href="{name}"' in index

    def test_the_picture_is_told_in_words_too(self, built: Path) -> None:
        page = (built / "html" / "lifecycle.html").read_text(encoding="utf-8")
        (picture,) = re.findall(r"<svg class=.lifecycle.*?</svg>", page, re.DOTALL)
        words = page[page.index("The same in words") :]
        assert 'role="img"' in picture
        assert "<desc" in picture
        (told,) = re.findall(r"<desc.*?>(.*?)</desc>", picture, re.DOTALL)
        drawn = re.findall(r"<text x=.*?>(\w+)</text>", picture)
        for stage in signals.STAGES:
            assert stage.name in drawn
            assert stage.name in told
            assert f">{stage.name}</span>" in words


class TestReference:
    @pytest.mark.parametrize("name", sorted(webpy_socketio.__all__))
    def test_every_public_name(self, name: str, describe: set[str]) -> None:
        assert f"webpy_socketio.{name}" in describe

    def test_every_setting(self, describe: set[str]) -> None:
        for setting in SETTINGS:
            assert f"SOCKETIO_{setting.name}" in describe

    def test_every_stage(self, describe: set[str]) -> None:
        for stage in signals.STAGES:
            assert f"webpy_socketio.signals.{stage.name}" in describe
            assert f"webpy_socketio.on_{stage.name}" in describe

    def test_every_signal(self, describe: set[str]) -> None:
        assert {f"webpy_socketio.signals.{name}" for name in signals.__all__} <= describe

    def test_the_testing_kit(self, describe: set[str]) -> None:
        assert {f"webpy_socketio.testing.{name}" for name in testing.__all__} <= describe

    def test_every_plugin(self, describe: set[str]) -> None:
        bundled = list(pkgutil.iter_modules(plugins.__path__, f"{plugins.__name__}."))
        assert len(bundled) > 1
        for module in (importlib.import_module(found.name) for found in bundled):
            names = set(module.__all__) - {"install", "uninstall"}
            assert {module.__name__, *(f"{module.__name__}.{name}" for name in names)} <= describe

    def test_what_a_socket_can_do(self, describe: set[str]) -> None:
        section = (ROOT / "README.rst").read_text(encoding="utf-8")
        told = set(re.findall(r"``socket\.([a-z_]+)", section)) & set(dir(Socket))
        assert len(told) > 12
        for name in told:
            assert f"webpy_socketio.Socket.{name}" in describe


#: What stands in the tables for something that the reader has.
_READERS = {"app", "client", "server", "gevent", "web", "request", "presence", "socket", "context"}

#: What is there anyway.
_OTHERS = {"dict", "logging", "webpy_socketio"}


class TestEquivalents:
    """The tables for those who come from elsewhere name only what is there."""

    @pytest.fixture(params=["from-2012", "from-flask-socketio", "from-nodejs"])
    def last_column(self, request: Any, built: Path) -> list[nodes.Node]:
        """The cells of the tables that have what is here."""
        tree = pickle.loads((built / "trees" / "guides" / f"{request.param}.doctree").read_bytes())
        (table,) = (one for one in tree.findall(nodes.table) if "equivalents" in one["classes"])
        rows = list(table.findall(nodes.row))
        assert len(rows) > 5
        return [row.children[-1] for row in rows]

    @pytest.fixture
    def ours(self, last_column: list[nodes.Node]) -> list[str]:
        """The code of these."""
        return [code.astext() for cell in last_column for code in cell.findall(nodes.literal)]

    def test_they_are_python(self, ours: list[str]) -> None:
        for code in ours:
            ast.parse(_whole(code))

    def test_every_name_is_there(self, ours: list[str]) -> None:
        settings = {f"SOCKETIO_{setting.name}" for setting in SETTINGS}
        for code in ours:
            for name in _used(ast.parse(_whole(code))):
                assert (
                    name in _READERS | _OTHERS
                    or name in settings
                    or hasattr(webpy_socketio, name)
                    or hasattr(testing, name)
                    or name in {"f", "a", "data", "host", "port", "urls", "session_id", "answer"}
                ), f"{name} in {code}"

    def test_every_module_is_there(self, ours: list[str]) -> None:
        for code in ours:
            if code.startswith("webpy_socketio."):
                importlib.import_module(code)

    def test_every_command_is_one(self, last_column: list[nodes.Node]) -> None:
        commands = [code.astext() for cell in last_column for code in cell.findall(nodes.strong)]
        assert commands
        for command in commands:
            program, *words = command.split()
            if program == "gunicorn":
                assert words[words.index("-k") + 1] == "webpy_socketio.gunicorn.Worker"
            else:
                assert program == "webpy-socketio"
                assert cli._parser().parse_args(words)

    def test_every_method_is_there(self, ours: list[str]) -> None:
        places = {
            "socket": Socket,
            "client": testing.Client,
            "signals": signals,
            "presence": presence,
        }
        for code in ours:
            for node in ast.walk(ast.parse(_whole(code))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    place = places.get(node.value.id)
                    assert place is None or hasattr(place, node.attr), code


def _whole(code: str) -> str:
    """A decorator alone, as a statement."""
    return f"{code}\ndef f(): ..." if code.startswith("@") else code


def _used(tree: ast.AST) -> Iterator[str]:
    """The names that are read, but for a function's own parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
