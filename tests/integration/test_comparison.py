"""The comparison with other servers: complete, linked, and correct about this package.

``tests/comparison/names.json`` lists the names of the other packages. `tests.comparison.collect`
makes it, and compares it with packages that are installed.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
import web
from docutils import nodes
from sphinx.addnodes import pending_xref

from tests.comparison import collect
from tests.snippets import ROOT
from webpy_socketio import signals
from webpy_socketio.config.settings import SETTINGS

COMPARED = json.loads(collect.NAMES.read_text(encoding="utf-8"))
TABLES: dict[str, list[str]] = COMPARED["tables"]
VERSIONS: dict[str, str] = COMPARED["versions"]

#: Beginnings of a cell that states a reason in place of an equivalent.
STATES = ("Not available", "Not needed", "Later", "Not yet")

#: Folders in which ``socket.io`` may be installed: for the benchmark, or for tests.
NODE_MODULES = [ROOT / folder / "node_modules" for folder in ("bench", "tests/js")]

#: Objects that code in the last column may name, besides the environ.
OBJECTS = {"gevent": gevent, "web": web, "logging": logging, "signals": signals}


class Row(NamedTuple):
    """A row of a table: the names of the other package, and the cell about this package."""

    names: list[str]
    here: nodes.entry

    @property
    def is_pending(self) -> bool:
        """Whether the equivalent does not exist yet."""
        return self.here.astext().startswith("Not yet")

    @property
    def links(self) -> list[pending_xref]:
        """The links to objects, settings and pages."""
        return list(self.here.findall(pending_xref))

    @property
    def code(self) -> list[str]:
        """The code that is not a link."""
        return [
            _text(code)
            for code in self.here.findall(nodes.literal)
            if not isinstance(code.parent, pending_xref)
        ]


@pytest.fixture(scope="module")
def page(built_docs: Path) -> nodes.document:
    """Return the page, parsed."""
    file = built_docs / "trees" / "reference" / "comparison.doctree"
    tree = pickle.loads(file.read_bytes())
    assert isinstance(tree, nodes.document)
    return tree


@pytest.fixture(params=sorted(TABLES))
def table(request: Any) -> str:
    """Return the name of one of the tables."""
    return str(request.param)


@pytest.fixture
def rows(page: nodes.document, table: str) -> list[Row]:
    """Return the rows of that table."""
    (found,) = (one for one in page.findall(nodes.table) if table in one["names"])
    (body,) = found.findall(nodes.tbody)
    cells = [row.children for row in body.findall(nodes.row)]
    names = [[_text(code) for code in first.findall(nodes.literal)] for first, _ in cells]
    return [Row(row, last) for row, (_, last) in zip(names, cells, strict=True)]


def _text(node: nodes.Node) -> str:
    return " ".join(node.astext().split())  # a name may contain a line break of the source


class TestNames:
    def test_table_has_one_row_for_each_name(self, table: str, rows: list[Row]) -> None:
        counts = Counter(name for row in rows for name in row.names)
        assert set(counts) == set(TABLES[table])
        assert [name for name, count in counts.items() if count > 1] == []

    def test_page_has_no_other_table(self, page: nodes.document) -> None:
        tables = [name for one in page.findall(nodes.table) for name in one["names"]]
        assert sorted(tables) == sorted(TABLES)

    def test_page_names_the_compared_versions(self, page: nodes.document) -> None:
        text = page.astext()
        for package, full in VERSIONS.items():
            assert f"{package} {'.'.join(full.split('.')[:2])}" in text

    def test_names_are_those_of_installed_socketio(self) -> None:
        installed = [folder for folder in NODE_MODULES if (folder / "socket.io").is_dir()]
        if not installed:
            pytest.skip("the npm package socket.io is not installed; make bench installs it")
        found = collect.socketio_version(installed[0])
        if found != VERSIONS["socket.io"]:
            pytest.skip(f"socket.io {found} is installed, {VERSIONS['socket.io']} is compared")
        names = collect.socketio_names(installed[0])
        # Options of engine.io and ws: socket.io allows several versions of these packages.
        assert names.pop("socketio-options") <= set(TABLES["socketio-options"])
        assert {table: sorted(names[table]) for table in names} == {
            table: TABLES[table] for table in names
        }

    def test_names_are_those_of_installed_flask_socketio(self) -> None:
        if importlib.util.find_spec("flask_socketio") is None:
            pytest.skip("Flask-SocketIO is not installed")
        for package in ("Flask-SocketIO", "python-socketio"):
            if version(package) != VERSIONS[package]:
                pytest.skip(f"{package} {version(package)} is installed")
        names = collect.flask_socketio_names()
        assert {table: sorted(names[table]) for table in names} == {
            table: TABLES[table] for table in names
        }


class TestCells:
    def test_cell_links_an_equivalent_or_states_a_reason(self, rows: list[Row]) -> None:
        for row in rows:
            text = row.here.astext()
            state, colon, reason = text.partition(": ")
            if text.startswith(STATES):
                assert colon, f"{row.names}: no reason"
                assert state.startswith(STATES)
                assert reason.endswith("."), row.names
            else:
                assert row.links or row.code, f"{row.names}: nothing is named"

    def test_linked_object_is_described(self, rows: list[Row], described: set[str]) -> None:
        prefixes = ("", "webpy_socketio.", "webpy_socketio.Socket.", "webpy_socketio.signals.")
        for row in rows:
            for link in row.links:
                if link["refdomain"] == "py":
                    found = {prefix + link["reftarget"] for prefix in prefixes}
                    assert found & described, f"{row.names}: {link['reftarget']}"

    def test_setting_exists(self, rows: list[Row]) -> None:
        settings = {f"SOCKETIO_{setting.name}" for setting in SETTINGS}
        for row in rows:
            named = {link["reftarget"] for link in row.links if link["reftype"] == "setting"}
            assert named <= settings

    def test_names_of_this_package_are_links(self, rows: list[Row]) -> None:
        for row in rows:
            for code in () if row.is_pending else row.code:
                assert not code.startswith(("SOCKETIO_", "on_", "socket.", "Socket.", "Target.")), (
                    f"{row.names}: {code}"
                )

    def test_code_names_existing_objects(self, rows: list[Row]) -> None:
        for row in rows:
            for code in () if row.is_pending else row.code:
                root, *attributes = code.removesuffix("()").split(".")
                if root in OBJECTS:
                    found: Any = OBJECTS[root]
                    for name in attributes:
                        found = getattr(found, name)
