"""Who imports whom: the layers of the design, read from the source and held against this table."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import webpy_socketio

ROOT = Path(webpy_socketio.__file__).parent
PACKAGE = "webpy_socketio"

#: Core module (or package): what of the core it may import. What is not here may not be.
LAYERS: dict[str, set[str]] = {
    "exceptions": set(),
    "version": set(),
    "addresses": set(),
    "loggers": set(),
    "main_script": {"exceptions"},
    "engine": {"exceptions"},
    "receivers": {"exceptions"},
    "functions": set(),
    "signals": {"exceptions", "functions", "loggers", "receivers"},
    "handlers": set(),
    "matcher": set(),
    "patterns": {"exceptions", "handlers", "matcher"},
    "events": {"exceptions", "functions", "handlers", "patterns", "receivers", "signals"},
    "channels": {"exceptions"},
    "values": set(),
    "settings": {"exceptions", "values"},
    "assets": {"exceptions"},
    "backplane": {"exceptions", "receivers", "engine"},
    "clients": {"exceptions", "signals", "channels", "engine", "backplane"},
    "cluster": {"exceptions", "settings", "clients", "engine", "backplane"},
    "population": {"clients", "engine", "backplane"},
    "acknowledgement": {"exceptions", "clients", "engine"},
    "socket": {
        "acknowledgement",
        "exceptions",
        "receivers",
        "signals",
        "channels",
        "clients",
        "engine",
    },
    "outofband": {"exceptions", "channels", "clients", "cluster", "socket", "backplane"},
    "dispatcher": {
        "acknowledgement",
        "exceptions",
        "functions",
        "signals",
        "clients",
        "socket",
        "engine",
    },
    "application": {
        "exceptions",
        "signals",
        "assets",
        "settings",
        "socket",
        "dispatcher",
        "engine",
        "main_script",
        "strays",
        "thread_locals",
        "web_sessions",
    },
    "strays": {"engine"},
    "thread_locals": set(),
    "web_sessions": set(),
    "timers": {"engine", "thread_locals"},
    "confined": {"exceptions", "engine", "thread_locals"},
    "loader": {"exceptions", "settings", "plugins", "confined", "engine"},
    "server": {
        *("exceptions", "settings", "assets", "clients", "application", "dispatcher", "engine"),
        *("addresses", "cluster", "loader", "loggers", "main_script", "population", "strays"),
        "watchdog",
    },
    "http_server": {"engine", "server", "settings"},
    "watchdog": {"engine", "functions", "patterns", "signals"},
    "testing": {"exceptions", "signals", "engine", "server"},
    "cli": {
        *("exceptions", "version", "settings", "signals", "events", "assets", "loader", "plugins"),
        *("addresses", "application", "cluster", "engine", "functions", "loggers", "server"),
    },
    "gunicorn": {"exceptions", "engine", "server", "cli"},
    "__main__": {"cli"},
}

#: What only a type checker sees, besides.
FOR_TYPES: dict[str, set[str]] = {
    "handlers": {"socket"},
    "signals": {"socket"},
    "clients": {"socket"},
    "testing": {"socket"},
}

#: The engine's own layers, from the bottom; a module imports only from above itself in this list.
ENGINE = [
    *("hosts", "forwarded", "proxies"),
    *("clock", "config", "json", "frames", "packets", "flusher", "deadlines", "isolation"),
    *("workers", "progress", "notices", "streams", "quotas", "closing"),
    *("origins", "headers", "refusals", "http", "patience"),
    *("takeover", "forking", "runtime_folder"),
    *("framing", "standard_streams", "spool", "response", "strict", "strict_server"),
    *("payloads", "outbox", "socketio_packets", "requests", "handshake"),
    *("replay", "relay", "peers", "shares"),
    *("session", "tls", "heartbeat", "inbox", "polling", "websocket", "upgrades"),
    *("engine", "handler", "server", "connection", "multiplexer"),
]

#: Modules that decide and never wait: bytes, packets and rules, no I/O.
PURE = [
    *(
        "exceptions",
        "events",
        "channels",
        "functions",
        "handlers",
        "matcher",
        "patterns",
        "strays",
        "values",
    ),
    *("backplane.topics", "backplane.envelope", "backplane.numbering"),
    *("engine.config", "engine.json", "engine.packets", "engine.payloads"),
    *("engine.socketio_packets", "engine.outbox", "engine.session", "engine.requests"),
    *("engine.origins", "engine.deadlines", "engine.flusher", "engine.notices"),
    *("engine.hosts", "engine.forwarded", "engine.proxies", "engine.headers", "engine.refusals"),
]

#: Who may know of which third party.
THIRD_PARTIES: dict[str, set[str]] = {
    "web": {
        "application",
        "assets",
        "cli",
        "cluster",
        "main_script",
        "server",
        "testing",
        "thread_locals",
        "web_sessions",
    },
    "blinker": {"receivers", "plugins", "testing", "cli"},
    "mako": set(),
    "gunicorn": {"gunicorn"},
    "redis": {"backplane"},
    "regex": {"matcher"},
    "prometheus_client": {"plugins"},
}


class Import(NamedTuple):
    target: str
    #: Only under ``if TYPE_CHECKING:``.
    for_types: bool
    #: Inside a function: not when the module is imported.
    late: bool


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(name: str) -> list[Import]:
    """What a module imports, by whole names (``webpy_socketio.signals``, ``gevent.event``)."""
    return list(_imports(ast.parse(MODULES[name].read_text(encoding="utf-8")), False, False))


def _imports(node: ast.AST, for_types: bool, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, for_types, late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute here"
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                target = whole if _is_module(whole) else str(child.module)
                yield Import(target, for_types, late)
        else:
            types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(child, for_types or types, late or function)


def _is_module(whole: str) -> bool:
    return whole.startswith(PACKAGE + ".") and whole[len(PACKAGE) + 1 :] in MODULES


def ours(name: str) -> list[Import]:
    """The imports of our own package, without its name in front; the package itself is ""."""
    return [
        found._replace(target=found.target[len(PACKAGE) + 1 :])
        for found in imports(name)
        if found.target.split(".")[0] == PACKAGE
    ]


def layer(name: str) -> str:
    return name.split(".")[0]


CORE = [name for name in MODULES if name and layer(name) != "plugins"]
PLUGINS = [name for name in MODULES if layer(name) == "plugins"]


class TestLayers:
    def test_every_module_has_its_place(self) -> None:
        assert {layer(name) for name in CORE} <= set(LAYERS), "a new module: add it to LAYERS"
        inside = {name.partition(".")[2] for name in CORE if name.startswith("engine.")}
        assert inside == set(ENGINE), "a new module of the engine: add it to ENGINE"
        assert set(PURE) <= set(MODULES)

    @pytest.mark.parametrize("name", CORE)
    def test_a_module_imports_only_what_its_layer_may(self, name: str) -> None:
        own = layer(name)
        for found in ours(name):
            allowed = LAYERS[own] | (FOR_TYPES.get(own, set()) if found.for_types else set())
            assert layer(found.target) in allowed | {own}, f"{name} imports {found.target}"

    @pytest.mark.parametrize("name", [name for name in CORE if name.startswith("engine.")])
    def test_the_engine_has_layers_too(self, name: str) -> None:
        for found in ours(name):
            if layer(found.target) == "engine" and not found.for_types:
                below = ENGINE[: ENGINE.index(name.partition(".")[2])]
                assert found.target.partition(".")[2] in below, f"{name} imports {found.target}"

    @pytest.mark.parametrize("name", PURE)
    def test_what_decides_does_no_io(self, name: str) -> None:
        forbidden = {"gevent", "socket", "_socket", "select", "selectors", "ssl", "threading"}
        assert forbidden.isdisjoint(found.target.split(".")[0] for found in imports(name))

    @pytest.mark.parametrize("party", THIRD_PARTIES)
    def test_a_third_party_is_known_only_where_it_belongs(self, party: str) -> None:
        users = {
            layer(name)
            for name in MODULES
            for found in imports(name)
            if found.target.split(".")[0] == party
        }
        assert users <= THIRD_PARTIES[party]

    def test_no_module_is_imported_in_a_circle(self) -> None:
        graph = {
            name: {
                found.target
                for found in ours(name)
                if not found.for_types and not found.late and found.target != name
            }
            for name in MODULES
        }
        order = list(graphlib.TopologicalSorter(graph).static_order())
        assert order.index("signals") < order.index("server")


class TestPlugins:
    @pytest.mark.parametrize("name", PLUGINS)
    def test_they_use_public_names_only(self, name: str) -> None:
        package = ".".join(name.split(".")[:2])
        for found in ours(name):
            own = package != "plugins" and f"{found.target}.".startswith(f"{package}.")
            assert found.target in ("", "signals") or own, f"{name} imports {found.target}"

    @pytest.mark.parametrize("name", PLUGINS)
    def test_the_names_are_those_that_the_package_exports(self, name: str) -> None:
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
                public = {alias.name for alias in node.names} - {"signals"}
                assert public <= set(webpy_socketio.__all__)

    @pytest.mark.parametrize("name", ["", *CORE])
    def test_the_core_names_none_of_them(self, name: str) -> None:
        tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
        prose = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        named = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and f"{PACKAGE}.plugins." in node.value
            and node not in prose
        }
        default = {"webpy_socketio.plugins.message_logger"} if name == "settings" else set()
        assert named == default
        assert not any(
            layer(found.target) == "plugins" and "." in found.target for found in ours(name)
        )
