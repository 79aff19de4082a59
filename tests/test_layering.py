"""The import layers of the package: read from the source and compared with the tables below."""

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

#: Core modules and folders, with the core modules and folders that each may import.
LAYERS: dict[str, set[str]] = {
    "exceptions": set(),
    "version": set(),
    "engine": {"exceptions"},
    "handler_types": set(),
    "addresses": set(),
    "loggers": set(),
    "thread_locals": set(),
    "web_sessions": set(),
    "main_script": {"exceptions"},
    "timers": {"engine", "thread_locals"},
    "bus": {"exceptions", "handler_types"},
    "signals": {"exceptions", "bus", "loggers"},
    "events": {"exceptions", "bus", "handler_types", "signals"},
    "channels": {"exceptions"},
    "config": {"exceptions"},
    "assets": {"exceptions"},
    "backplane": {"exceptions", "bus", "engine"},
    "registry": {"exceptions", "signals", "channels", "engine", "backplane"},
    "cluster": {"exceptions", "config", "registry", "engine", "backplane"},
    "stats": {"registry", "engine", "backplane"},
    "acknowledgement": {"exceptions", "registry", "engine"},
    "socket": {
        *("exceptions", "acknowledgement", "bus", "signals", "channels", "registry", "engine"),
    },
    "emitter": {"exceptions", "channels", "registry", "cluster", "socket", "backplane"},
    "dispatcher": {
        *("exceptions", "acknowledgement", "bus", "signals", "registry", "socket", "engine"),
    },
    "misrouted": {"engine"},
    "application": {
        *("exceptions", "signals", "assets", "socket", "dispatcher", "engine", "misrouted"),
        *("main_script", "thread_locals", "web_sessions"),
    },
    "plugin_isolation": {"exceptions", "engine", "thread_locals"},
    "plugin_manager": {"exceptions", "config", "plugins", "plugin_isolation", "engine"},
    "watchdog": {"bus", "signals", "engine"},
    "server": {
        *("exceptions", "config", "assets", "registry", "application", "engine", "cluster"),
        *("plugin_manager", "stats", "misrouted", "watchdog", "addresses", "dispatcher", "loggers"),
        "main_script",
    },
    "http_server": {"config", "engine", "server"},
    "testing": {"exceptions", "signals", "engine", "server"},
    "cli": {
        *("exceptions", "version", "bus", "config", "signals", "events", "assets", "engine"),
        *("application", "cluster", "plugin_manager", "plugins", "server", "addresses", "loggers"),
    },
    "gunicorn": {"exceptions", "cli", "engine", "server"},
    "__main__": {"cli"},
}

#: Imports that only a type checker executes, in addition.
FOR_TYPES: dict[str, set[str]] = {
    "handler_types": {"socket"},
    "signals": {"socket"},
    "registry": {"socket"},
    "testing": {"socket"},
}

#: Layers of the engine, lowest first. A module imports from its own layer and from lower ones.
ENGINE = ["forwarding", "config", "io", "workers", "engineio", "socketio", "engine", "http"]

#: Modules that do no I/O and never block: bytes, packets and rules.
PURE = [
    *("exceptions", "events", "channels", "handler_types", "misrouted"),
    *("bus.introspection", "bus.matcher", "bus.patterns", "bus.receivers", "config.validators"),
    *("backplane.topics", "backplane.envelope", "backplane.sequence"),
    *("engine.config", "engine.io.json", "engine.io.packets", "engine.io.frames"),
    *("engine.io.outbox", "engine.io.timeouts", "engine.io.throttled_log"),
    *("engine.engineio.payloads", "engine.engineio.session", "engine.engineio.requests"),
    *("engine.engineio.origins", "engine.engineio.rejections", "engine.socketio.packets"),
    *("engine.forwarding.hosts", "engine.forwarding.forwarded", "engine.forwarding.proxies"),
    *("engine.http.headers", "engine.http.framing", "engine.http.pywsgi_internals"),
]

#: Third-party package: the core modules and folders that may import it.
THIRD_PARTIES: dict[str, set[str]] = {
    "web": {
        *("application", "assets", "cli", "cluster", "main_script", "server", "testing"),
        *("thread_locals", "web_sessions"),
    },
    "blinker": {"bus", "plugins", "testing", "cli"},
    "mako": set(),
    "gunicorn": {"gunicorn"},
    "redis": {"backplane"},
    "regex": {"bus"},
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
    """Return the modules that a module imports, such as ``webpy_socketio.signals``."""
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
    """Return the imports of this package without its prefix; the package itself is ""."""
    return [
        found._replace(target=found.target[len(PACKAGE) + 1 :])
        for found in imports(name)
        if found.target.split(".")[0] == PACKAGE
    ]


def layer(name: str) -> str:
    return name.split(".")[0]


CORE = [name for name in MODULES if name and layer(name) != "plugins"]
PLUGINS = [name for name in MODULES if layer(name) == "plugins"]


def engine_layer(name: str) -> str:
    """Return the layer of a module of the engine: its folder, or its name outside folders."""
    return name.split(".")[1]


class TestLayers:
    def test_layer_tables_name_every_module(self) -> None:
        assert {layer(name) for name in CORE} <= set(LAYERS), "a new module: add it to LAYERS"
        inside = {engine_layer(name) for name in CORE if name.startswith("engine.")}
        assert inside == set(ENGINE), "a new folder of the engine: add it to ENGINE"
        assert set(PURE) <= set(MODULES)

    @pytest.mark.parametrize("name", CORE)
    def test_core_module_imports_only_lower_layers(self, name: str) -> None:
        own = layer(name)
        for found in ours(name):
            allowed = LAYERS[own] | (FOR_TYPES.get(own, set()) if found.for_types else set())
            assert layer(found.target) in allowed | {own}, f"{name} imports {found.target}"

    @pytest.mark.parametrize("name", [name for name in CORE if name.startswith("engine.")])
    def test_engine_module_imports_only_lower_engine_layers(self, name: str) -> None:
        allowed = ENGINE[: ENGINE.index(engine_layer(name)) + 1]
        for found in ours(name):
            if layer(found.target) == "engine" and not found.for_types:
                assert engine_layer(found.target) in allowed, f"{name} imports {found.target}"

    @pytest.mark.parametrize("name", PURE)
    def test_pure_module_imports_no_io(self, name: str) -> None:
        forbidden = {"gevent", "socket", "_socket", "select", "selectors", "ssl", "threading"}
        assert forbidden.isdisjoint(found.target.split(".")[0] for found in imports(name))

    @pytest.mark.parametrize("party", THIRD_PARTIES)
    def test_third_party_package_is_imported_only_where_allowed(self, party: str) -> None:
        users = {
            layer(name)
            for name in MODULES
            for found in imports(name)
            if found.target.split(".")[0] == party
        }
        assert users <= THIRD_PARTIES[party]

    def test_imports_have_no_cycle(self) -> None:
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
    def test_plugin_imports_only_public_modules(self, name: str) -> None:
        package = ".".join(name.split(".")[:2])
        for found in ours(name):
            own = package != "plugins" and f"{found.target}.".startswith(f"{package}.")
            assert found.target in ("", "signals") or own, f"{name} imports {found.target}"

    @pytest.mark.parametrize("name", PLUGINS)
    def test_plugin_imports_only_exported_names(self, name: str) -> None:
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
                public = {alias.name for alias in node.names} - {"signals"}
                assert public <= set(webpy_socketio.__all__)

    @pytest.mark.parametrize("name", ["", *CORE])
    def test_core_names_no_plugin(self, name: str) -> None:
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
        default = {"webpy_socketio.plugins.message_logger"} if name == "config.settings" else set()
        assert named == default
        assert not any(
            layer(found.target) == "plugins" and "." in found.target for found in ours(name)
        )
