"""Collect the public names of Socket.IO's server and of Flask-SocketIO into ``names.json``.

``docs/reference/comparison.rst`` has a row for each name;
``tests/integration/test_comparison.py`` checks that. Names are facts of the packages' interfaces;
no text is copied. To compare with another version, install both packages anywhere and run, with the
Python that has Flask-SocketIO::

    npm install --prefix /tmp/compared socket.io@4.8
    python tests/comparison/collect.py /tmp/compared/node_modules

The result has the version of each package and a list of names for each table of the page. A method
ends with ``()``, an argument with ``=``; ``on("x")`` is an event; nested names have a dot.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

NAMES = Path(__file__).with_name("names.json")

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_MEMBER = re.compile(
    r"(?P<modifiers>(?:(?:private|protected|static|readonly|abstract|get|set)\s+)*)"
    r"(?P<name>[A-Za-z]\w*)\??\s*(?P<next>[<(:;])"
)
_EMITTED = re.compile(r'\b(?:this|self)\.emit\("([\w-]+)"')

#: Helper class in engine.io's server.js, whose events are those of an HTTP response.
_HELPER = re.compile(r"^class WebSocketResponse .*?^}", re.DOTALL | re.MULTILINE)

#: Methods that every EventEmitter of Node.js has, used with Socket.IO.
_INHERITED = {"off()"}


# -- Socket.IO


def body_of(source: str, declaration: str) -> str:
    """Return what is between the braces of a class or interface in a declaration file."""
    match = re.search(rf"\b(?:class|interface) {declaration}\b", source)
    if match is None:
        raise LookupError(f"{declaration} is not declared: adapt collect.py to this version")
    # Braces of type parameters and parents come before those of the body.
    depth, start = 0, 0
    angles = 0
    for position in range(match.end(), len(source)):
        character = source[position]
        if character == "<":
            angles += 1
        elif character == ">" and source[position - 1] != "=":
            angles -= 1
        elif character == "{":
            depth += 1
            if depth == 1 and not angles:
                start = position + 1
        elif character == "}":
            depth -= 1
            if depth == 0 and start:
                return source[start:position]
    raise LookupError(f"the declaration of {declaration} has no end")


def statements(body: str) -> list[str]:
    """Split the body of a declaration at the semicolons outside of parentheses and braces."""
    found, depth, start = [], 0, 0
    for position, character in enumerate(body):
        depth += (character in "({[") - (character in ")}]")
        if character == ";" and depth == 0:
            found.append(body[start : position + 1].strip())
            start = position + 1
    return found


def members_of(source: str, declaration: str) -> dict[str, str]:
    """Return the public members of a class or interface, with their declarations."""
    members = {}
    for statement in statements(body_of(_COMMENT.sub("", source), declaration)):
        match = _MEMBER.match(statement)
        if match is None or re.search(r"private|protected|static", match["modifiers"]):
            continue
        name = match["name"]
        if name != "constructor":
            is_property = re.search(r"\b[gs]et\b", match["modifiers"]) or match["next"] not in "<("
            members[name if is_property else f"{name}()"] = statement
    return members


def events_in(source: str) -> set[str]:
    """Return the events that a JavaScript file emits."""
    return {f'on("{name}")' for name in _EMITTED.findall(_HELPER.sub("", source))}


def options_in(source: str, *declarations: str) -> set[str]:
    """Return the options in interfaces, and those nested in them."""
    options = set()
    for declaration in declarations:
        for name, statement in members_of(source, declaration).items():
            option = name.removesuffix("()")
            options.add(option)
            nested = re.search(r"\{(.*)\}", statement, re.DOTALL)
            for inner in statements(nested[1]) if nested and "=>" not in statement else ():
                match = _MEMBER.match(inner)
                if match is not None:
                    options.add(f"{option}.{match['name']}")
    return options


def socketio_version(modules: Path) -> str:
    """Return the version of the package ``socket.io`` in a folder ``node_modules``."""
    package = json.loads((modules / "socket.io" / "package.json").read_text(encoding="utf-8"))
    return str(package["version"])


def socketio_names(modules: Path) -> dict[str, set[str]]:
    """Return the names of Socket.IO's server by table."""

    def read(path: str) -> str:
        return (modules / path).read_text(encoding="utf-8")

    def declared(path: str, *declarations: str) -> set[str]:
        return {name for each in declarations for name in members_of(read(path), each)}

    emitter = declared("socket.io/dist/typed-events.d.ts", "StrictEventEmitter") | _INHERITED
    types = read("socket.io/dist/socket-types.d.ts")
    reasons = re.search(r"type DisconnectReason = ([^;]*);", types)
    assert reasons is not None
    namespaces = read("socket.io/dist/namespace.d.ts")
    engine, ws = read("engine.io/build/server.d.ts"), read("@types/ws/index.d.ts")
    options = options_in(read("socket.io/dist/index.d.ts"), "ServerOptions")
    options |= options_in(engine, "ServerOptions", "AttachOptions")
    options |= {
        f"perMessageDeflate.{name}" for name in members_of(ws, "PerMessageDeflateOptions")
    } | {f"cors.{name}" for name in declared("@types/cors/index.d.ts", "CorsOptions")}
    options |= {
        f"cookie.{name.removesuffix('()')}"
        for name in declared("engine.io/build/contrib/types.cookie.d.ts", "CookieSerializeOptions")
    }
    return {
        "socketio-server": {
            "new Server()",
            *declared("socket.io/dist/index.d.ts", "Server"),
            *declared("socket.io/dist/namespace.d.ts", "Namespace"),
            *declared("socket.io/dist/parent-namespace.d.ts", "ParentNamespace"),
            *emitter,
        },
        "socketio-socket": {
            *declared("socket.io/dist/socket.d.ts", "Socket"),
            *emitter,
            *(f"client.{name}" for name in declared("socket.io/dist/client.d.ts", "Client")),
            *(f"handshake.{name}" for name in members_of(types, "Handshake")),
        },
        "socketio-targets": {
            *declared("socket.io/dist/broadcast-operator.d.ts", "BroadcastOperator"),
            *(
                f"RemoteSocket.{name}"
                for name in declared("socket.io/dist/broadcast-operator.d.ts", "RemoteSocket")
            ),
        },
        "socketio-events": {
            *(
                f'on("{name}")'
                for source, interface in (
                    (namespaces, "NamespaceReservedEventsMap"),
                    (namespaces, "ServerReservedEventsMap"),
                    (types, "SocketReservedEventsMap"),
                    (types, "EventEmitterReservedEventsMap"),
                )
                for name in members_of(source, interface)
            ),
            *re.findall(r'"[^"]+"', reasons[1]),
        },
        "socketio-options": options,
        "socketio-engine": {
            *members_of(engine, "BaseServer"),
            *members_of(engine, "Server"),
            *events_in(read("engine.io/build/server.js")),
            *(f"conn.{name}" for name in declared("engine.io/build/socket.d.ts", "Socket")),
            *(f"conn.{name}" for name in events_in(read("engine.io/build/socket.js"))),
        },
        "socketio-adapter": {
            *declared("socket.io-adapter/dist/in-memory-adapter.d.ts", "Adapter"),
            *events_in(read("socket.io-adapter/dist/in-memory-adapter.js")),
        },
    }


# -- Flask-SocketIO


def public(owner: Any) -> set[str]:
    """Return the public members of a class; methods end with ``()``."""
    return {
        name + "()" * inspect.isroutine(getattr(owner, name))
        for name in dir(owner)
        if not name.startswith("_")
    }


def arguments(*functions: Any) -> set[str]:
    """Return the arguments of functions, including those taken from ``**kwargs``."""
    found = set()
    for function in functions:
        found |= set(inspect.signature(function).parameters) - {"self", "args", "kwargs"}
        found |= set(re.findall(r"kwargs\.(?:get|pop)\('(\w+)'", inspect.getsource(function)))
    return {f"{name}=" for name in found}


def described(owner: Any) -> set[str]:
    """Return the options in the docstring of a class."""
    found = set(re.findall(r":param (\w+)", owner.__doc__ or ""))
    return {f"{name}=" for name in found - {"kwargs"}}


def flask_socketio_names() -> dict[str, set[str]]:
    """Return the names of Flask-SocketIO by table."""
    import flask_socketio
    import socketio

    main = flask_socketio.SocketIO
    source = inspect.getsource(flask_socketio)
    functions = {
        name: value
        for name, value in vars(flask_socketio).items()
        if inspect.isfunction(value)
        and value.__module__ == "flask_socketio"
        and not name.startswith("_")
    }
    attributes = {name for name in vars(main()) if not name.startswith("_")}
    return {
        "flask-functions": {
            "SocketIO()",
            "ConnectionRefusedError",
            *(f"socketio.{name}" for name in public(main) | attributes),
            *(f"{name}()" for name in functions),
            *(f"request.{name}" for name in re.findall(r"flask\.request\.(\w+) = ", source)),
        },
        "flask-arguments": {
            *arguments(*functions.values()),
            *arguments(main.emit, main.send, main.call, main.close_room, main.on, main.on_event),
        }
        - {"event=", "data=", "message=", "handler="},
        "flask-options": {
            *described(main),
            *described(socketio.Server),
            *(f"run({name})" for name in arguments(main.run)),
        }
        - {"app=", "run(app=)"},
        "flask-namespaces": public(flask_socketio.Namespace) | {"on_*()", "error()"},
        "flask-test-client": {
            *public(flask_socketio.SocketIOTestClient),
            *arguments(main.test_client),
        },
        "python-socketio": public(socketio.Server),
    }


def collect(modules: Path) -> dict[str, Any]:
    """Return versions and names of both packages."""
    tables = socketio_names(modules) | flask_socketio_names()
    return {
        "versions": {
            "socket.io": socketio_version(modules),
            "Flask-SocketIO": importlib.metadata.version("Flask-SocketIO"),
            "python-socketio": importlib.metadata.version("python-socketio"),
        },
        "tables": {table: sorted(names) for table, names in tables.items()},
    }


if __name__ == "__main__":
    NAMES.write_text(json.dumps(collect(Path(sys.argv[1])), indent=2) + "\n", encoding="utf-8")
