"""The import layers of the package: read from the source and compared with the tables below."""

from __future__ import annotations

import ast
import functools
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
    "addresses": set(),
    "loggers": set(),
    "thread_locals": set(),
    "web_sessions": set(),
    "main_script": {"exceptions"},
    "timers": {"engine", "thread_locals"},
    "bus": {"exceptions", "loggers"},
    "channels": {"exceptions"},
    "namespaces": {"bus"},
    "config": {"exceptions", "backplane", "bus", "engine"},
    "assets": {"exceptions"},
    "backplane": {"exceptions", "engine"},
    "publication": {"backplane", "engine"},
    "registry": {"exceptions", "bus", "channels", "engine", "backplane", "publication"},
    "feeds": {"engine", "publication", "registry"},
    "message_index": set(),
    "message_log": {"backplane", "engine", "memberships", "message_index", "offsets"},
    "memberships": set(),
    "offsets": set(),
    "recoverable_namespace": {
        *("backplane", "bus", "engine", "memberships", "message_log", "registry"),
    },
    "receipts": {"exceptions", "engine"},
    "carried_messages": {"engine", "offsets"},
    "message_cut": {"backplane"},
    "topic_cut": {"backplane"},
    "topic_markers": {"backplane"},
    "late_copies": {"backplane", "topic_cut"},
    "session_transfer": {"carried_messages", "engine"},
    "detached_connection": {"engine"},
    "suspensions": {"config", "engine"},
    "recoverable": {"carried_messages", "engine", "memberships", "registry", "session_transfer"},
    "missed_messages": {"carried_messages", "message_log", "recoverable"},
    "recovery": {
        *("backplane", "carried_messages", "config", "engine", "message_cut", "message_log"),
        *("missed_messages", "recoverable", "recoverable_namespace", "registry", "suspensions"),
        *("late_copies", "topic_cut"),
    },
    "recovery_directory": {"backplane", "engine"},
    "released_sessions": {
        *("backplane", "bus", "engine", "exceptions", "move_decisions", "recoverable", "recovery"),
        *("recovery_directory", "registry", "server_replies", "server_requests"),
        *("session_transfer", "topic_cut", "topic_markers"),
    },
    "adopted_sessions": {
        *("backplane", "bus", "detached_connection", "engine", "exceptions", "message_cut"),
        *("move_decisions", "offsets", "parked_sessions", "recoverable", "recovery"),
        *("recovery_directory", "registry", "released_sessions", "server_replies"),
        *("server_requests", "session_transfer", "topic_cut", "topic_markers"),
    },
    "move_decisions": {"backplane", "exceptions"},
    "parked_sessions": {"backplane", "exceptions", "move_decisions", "session_transfer"},
    "session_handover": {
        *("adopted_sessions", "backplane", "engine", "exceptions", "parked_sessions"),
        *("recoverable", "recovery", "recovery_directory", "registry", "released_sessions"),
        "server_requests",
    },
    "session_moves": {
        *("adopted_sessions", "backplane", "config", "engine", "exceptions", "parked_sessions"),
        *("recovery", "recovery_directory", "registry", "released_sessions", "server_requests"),
        *("late_copies", "move_decisions", "session_handover", "topic_markers"),
    },
    "server_replies": {"exceptions", "backplane", "engine"},
    "server_requests": {"exceptions", "registry", "engine", "backplane", "server_replies"},
    "cluster": {
        *("exceptions", "config", "recovery", "registry", "engine", "backplane"),
        *("server_requests", "session_moves"),
    },
    "socket_info": {"exceptions", "engine"},
    "stats": {"registry", "engine", "backplane"},
    "process_status": {
        *("backplane", "bus", "engine", "exceptions", "registry", "stats", "version"),
    },
    "status_service": {"engine"},
    "arguments": {"exceptions"},
    "acknowledgement": {"arguments", "exceptions", "registry", "engine"},
    "volatile": set(),
    "targets": {
        *("exceptions", "backplane", "channels", "cluster", "engine", "server_requests"),
        *("arguments", "socket_info"),
    },
    "socket": {
        *("exceptions", "acknowledgement", "bus", "channels", "registry", "engine", "targets"),
        *("arguments", "backplane", "cluster", "volatile"),
    },
    "recoverable_socket": {
        *("acknowledgement", "backplane", "carried_messages", "engine", "exceptions"),
        *("memberships", "message_log", "receipts", "recoverable", "recovery", "registry"),
        *("arguments", "session_transfer", "socket"),
    },
    "socket_requests": {
        *("exceptions", "registry", "engine", "server_replies", "server_requests", "socket"),
        "socket_info",
    },
    "server_events": {
        *("exceptions", "backplane", "bus", "cluster", "engine", "server_replies"),
        *("server_requests", "targets"),
    },
    "handler_types": {"bus", "socket"},
    "handlers": {"exceptions", "bus", "handler_types"},
    "emitter": {
        *("exceptions", "channels", "registry", "cluster", "socket", "backplane", "targets"),
        "arguments",
    },
    "refusals": {"exceptions", "engine", "socket"},
    "dispatcher": {
        *("refusals", "exceptions", "acknowledgement", "bus", "registry", "socket", "engine"),
        *("cluster", "receipts", "recoverable", "recoverable_socket", "recovery"),
    },
    "runtime": {
        *("bus", "cluster", "config", "emitter", "engine", "exceptions", "handlers", "registry"),
        *("feeds", "process_status", "server_events", "server_replies", "server_requests"),
        *("socket", "socket_requests", "stats"),
    },
    "labels": {"runtime"},
    "log_format": set(),
    "signals": {"bus", "runtime"},
    "events": {"runtime"},
    "misrouted": {"engine"},
    "application": {
        *("exceptions", "assets", "socket", "dispatcher", "engine", "misrouted"),
        *("main_script", "thread_locals", "web_sessions"),
    },
    "plugin_isolation": {"exceptions", "engine", "thread_locals"},
    "plugin_manager": {
        *("exceptions", "config", "plugins", "plugin_isolation", "engine", "runtime"),
    },
    "watchdog": {"bus", "engine"},
    "health": {"backplane", "engine"},
    "server": {
        *("exceptions", "config", "assets", "application", "engine", "cluster", "runtime"),
        *("plugin_manager", "misrouted", "namespaces", "watchdog", "addresses", "loggers"),
        *("main_script", "health", "backplane", "process_status", "status_service"),
    },
    "http_server": {"config", "engine", "exceptions"},
    "testing": {
        *("exceptions", "config", "runtime", "engine", "receipts", "server", "socket"),
    },
    "load": {"exceptions", "engine"},
    "cli": {
        *("exceptions", "version", "bus", "config", "signals", "events", "assets", "engine"),
        *("application", "cluster", "plugin_manager", "plugins", "server", "addresses", "loggers"),
        *("handlers", "runtime", "load", "log_format", "http_server", "backplane"),
    },
    "gunicorn": {"exceptions", "cli", "engine", "server"},
    "__main__": {"cli"},
}

#: Layers of the engine, lowest first. A module imports from its own layer and from lower ones.
ENGINE = ["forwarding", "config", "io", "workers", "engineio", "socketio", "engine", "http"]

#: Modules that do no I/O and never block: bytes, packets and rules.
PURE = [
    *("exceptions", "channels", "handler_types", "handlers", "misrouted", "namespaces"),
    *("memberships", "message_log", "carried_messages", "message_cut", "offsets", "topic_cut"),
    "session_transfer",
    *(
        "bus.introspection",
        "bus.matcher",
        "bus.patterns",
        "bus.receivers",
        "bus.stages",
    ),
    *("config.settings", "config.validation", "config.validators", "config.keywords"),
    "backplane.addresses",
    *("backplane.topics", "backplane.filters", "backplane.envelope", "backplane.sequence"),
    *("backplane.answers", "backplane.hash_tags", "backplane.requests", "socket_info"),
    *("engine.config", "engine.config.fields", "engine.config.validators"),
    *(
        "engine.io.json",
        "engine.io.msgpack",
        "engine.io.notepack",
        "engine.io.packets",
        "engine.io.frames",
    ),
    *("engine.io.deflate", "engine.io.outbox", "engine.io.timeouts", "engine.io.throttled_log"),
    *("engine.engineio.payloads", "engine.engineio.session", "engine.engineio.requests"),
    *("engine.engineio.origins", "engine.engineio.rejections", "engine.socketio.packets"),
    *("engine.socketio.parser", "engine.socketio.msgpack"),
    *("engine.forwarding.hosts", "engine.forwarding.forwarded", "engine.forwarding.proxies"),
    *("engine.http.headers", "engine.http.framing", "engine.http.pywsgi_internals"),
]

#: Third-party package: the core modules and folders that may import it.
THIRD_PARTIES: dict[str, set[str]] = {
    "web": {
        *("application", "assets", "cli", "cluster", "main_script", "server", "testing"),
        *("thread_locals", "web_sessions", "log_format"),
    },
    "blinker": {"bus", "plugins", "testing", "cli"},
    "mako": set(),
    "gunicorn": {"gunicorn"},
    "redis": {"backplane"},
    "hiredis": {"backplane"},
    "msgpack": {"engine", "testing"},
    "regex": {"bus"},
    "prometheus_client": {"plugins"},
    "opentelemetry": {"plugins"},
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


def tree_of(name: str) -> ast.Module:
    """Return the syntax tree of a module; not cached, as a million nodes slow down later tests."""
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@functools.cache
def imports(name: str) -> tuple[Import, ...]:
    """Return the modules that a module imports, such as ``webpy_socketio.signals``."""
    return tuple(_imports(tree_of(name), False, False))


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

    def test_core_module_imports_only_lower_layers(self) -> None:
        for name in CORE:
            own = layer(name)
            for found in ours(name):
                assert layer(found.target) in LAYERS[own] | {own}, f"{name} imports {found.target}"

    def test_engine_module_imports_only_lower_engine_layers(self) -> None:
        for name in [name for name in CORE if name.startswith("engine.")]:
            allowed = ENGINE[: ENGINE.index(engine_layer(name)) + 1]
            for found in ours(name):
                if layer(found.target) == "engine" and not found.for_types:
                    assert engine_layer(found.target) in allowed, f"{name} imports {found.target}"

    def test_engine_module_imports_nothing_for_types_only(self) -> None:
        """A lower module that needs the type of a higher one declares a protocol."""
        for name in [name for name in CORE if layer(name) == "engine"]:
            assert [found.target for found in ours(name) if found.for_types] == [], name

    def test_pure_module_imports_no_io(self) -> None:
        for name in PURE:
            forbidden = {"gevent", "socket", "_socket", "select", "selectors", "ssl", "threading"}
            assert forbidden.isdisjoint(found.target.split(".")[0] for found in imports(name)), name

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
        """Imports for types count: a cycle of types shows that two modules are one."""
        graph = {
            name: {found.target for found in ours(name) if not found.late and found.target != name}
            for name in MODULES
        }
        order = list(graphlib.TopologicalSorter(graph).static_order())
        assert order.index("signals") < order.index("server")


class TestPlugins:
    def test_plugin_imports_only_public_modules(self) -> None:
        for name in PLUGINS:
            package = ".".join(name.split(".")[:2])
            for found in ours(name):
                own = package != "plugins" and f"{found.target}.".startswith(f"{package}.")
                assert found.target in ("", "signals") or own, f"{name} imports {found.target}"

    def test_plugin_imports_only_exported_names(self) -> None:
        for name in PLUGINS:
            for node in ast.walk(tree_of(name)):
                if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
                    public = {alias.name for alias in node.names} - {"signals"}
                    assert public <= set(webpy_socketio.__all__), name

    def test_core_names_no_plugin(self) -> None:
        for name in ["", *CORE]:
            nodes = list(ast.walk(tree_of(name)))
            prose = {
                node.body[0].value
                for node in nodes
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            named = {
                node.value
                for node in nodes
                if isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and f"{PACKAGE}.plugins." in node.value
                and node not in prose
            }
            default = (
                {"webpy_socketio.plugins.message_logger"} if name == "config.settings" else set()
            )
            assert named == default, name
            assert not any(
                layer(found.target) == "plugins" and "." in found.target for found in ours(name)
            ), name
