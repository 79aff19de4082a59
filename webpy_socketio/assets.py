"""The scripts that a page loads: the stock client and the channel extension.

`asset` returns a file to serve. `socketio_scripts` returns the HTML that loads both as classic
scripts; `socketio_import_map` returns an import map, for pages whose scripts are modules.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

import web

from webpy_socketio.exceptions import SettingsError

__all__ = [
    "BUILDS",
    "CLIENT",
    "EXTENSION",
    "MODULE",
    "PARSER_KEY",
    "RESOURCE_KEY",
    "Asset",
    "Html",
    "asset",
    "client_of",
    "socketio_import_map",
    "socketio_scripts",
    "template_dir",
]

CLIENT = "socket.io.min.js"
EXTENSION = "webpy_socketio.js"

#: The client and the extension as ES modules.
CLIENT_MODULE, MODULE = "socket.io.esm.min.js", "webpy_socketio.mjs"

#: The builds of the stock client, named as Socket.IO for Node.js serves them.
BUILDS = ("socket.io.js", CLIENT, CLIENT_MODULE, "socket.io.msgpack.min.js")

#: The builds with the parser "msgpack". There is no ES module of it, so ours loads the script.
_MSGPACK_CLIENT, _MSGPACK_MODULE = "socket.io.msgpack.min.js", "socket.io.msgpack.mjs"

#: The client as classic script and as ES module, by SOCKETIO_PARSER.
_CLIENTS = {
    "json": (CLIENT, CLIENT_MODULE),
    "msgpack": (_MSGPACK_CLIENT, _MSGPACK_MODULE),
}

#: All files that are served. Each build has a source map for browsers' developer tools.
_SERVED = frozenset(
    (*BUILDS, *(f"{name}.map" for name in BUILDS), EXTENSION, MODULE, _MSGPACK_MODULE)
)

_JAVASCRIPT, _JSON = "text/javascript; charset=utf-8", "application/json"

#: Environ key of the server's resource, for `socketio_scripts`.
RESOURCE_KEY = "webpy_socketio.resource"

#: Environ key of the server's parser, for the same.
PARSER_KEY = "webpy_socketio.parser"

_PACKAGE = Path(__file__).resolve().parent

#: The folder of ``socketio_scripts.html``, for the ``directories`` of a Mako ``TemplateLookup``.
template_dir = str(_PACKAGE / "templates")


@dataclass(frozen=True)
class Asset:
    """A script or a source map, ready to serve."""

    name: str
    body: bytes = field(repr=False)
    content_type: str = _JAVASCRIPT
    #: The body, compressed with gzip.
    gzip: bytes = field(init=False, repr=False)
    #: Hash of the body. Script URLs contain it, so that browsers may cache the file indefinitely.
    version: str = field(init=False)
    #: ``ETag`` with the version: weak, because it applies to the plain and the compressed body.
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        version = hashlib.sha256(self.body).hexdigest()[:16]
        object.__setattr__(self, "gzip", gzip.compress(self.body, mtime=0))
        object.__setattr__(self, "version", version)
        object.__setattr__(self, "etag", f'W/"{version}"')


class Html(str):
    """Text that is HTML; template engines that support ``__html__`` do not escape it again."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def asset(name: str) -> Asset | None:
    """Return a script or source map, or None for any other name.

    Files are read once; only known names are opened, so a path cannot lead elsewhere.

    Raises:
        SettingsError: The client is missing, because the package has not been built.
    """
    return _read(name) if name in _SERVED else None


def client_of(parser: str) -> str:
    """Return the name of the client script for a value of SOCKETIO_PARSER."""
    return _CLIENTS[parser][0]


@functools.cache
def _read(name: str) -> Asset:
    if name == _MSGPACK_MODULE:
        return Asset(name, _WRAPPER.replace("VERSION", _read(_MSGPACK_CLIENT).version).encode())
    try:
        body = (_PACKAGE / "static" / name).read_bytes()
    except FileNotFoundError:
        raise SettingsError(
            f"webpy_socketio/static/{name} is missing: the build of the package installs it. "
            "Run `pip install -e .` in the source tree, or install a wheel"
        ) from None
    return Asset(name, body, _JSON if name.endswith(".map") else _JAVASCRIPT)


#: An ES module with the exports of the stock client's one.
_WRAPPER = """\
import "./socket.io.msgpack.min.js?v=VERSION";
const { io } = globalThis;
export const { Manager, Socket, connect } = io;
export const protocol = 5;
export { io, io as default };
"""


def socketio_scripts(nonce: str | None = None, resource: str | None = None) -> Html:
    """Return the HTML that loads the client and its extension; put it before your own scripts.

    The client is the build for the parser of the server that serves the page (SOCKETIO_PARSER).

    Template engines that escape values need a mark for HTML: ``$:socketio_scripts()`` in web.py,
    ``${socketio_scripts() | n}`` in Mako. Jinja recognizes the returned type.

    Args:
        nonce: Nonce of the page's Content-Security-Policy, if the policy requires one;
            ``script-src 'self'`` does not.
        resource: Resource of the server to connect to. Default: that of the server that serves
            the page.

    Returns:
        Two ``<script>`` tags, as a `str` that supports ``__html__``.

    Raises:
        SettingsError: The client is missing, because the package has not been built.
    """
    path = _path_of(resource)
    tags = [
        f'<script src="{escape(_url_of(path, name))}"'
        f' data-path="{escape(path)}"{_nonce_attribute(nonce)}></script>'
        for name in (client_of(_parser()), EXTENSION)
    ]
    return Html("\n".join(tags))


def socketio_import_map(nonce: str | None = None, resource: str | None = None) -> Html:
    """Return an import map of the client and its extension, for a page whose scripts are modules.

    It names the modules as npm does: ``socket.io-client`` exports ``io``, and
    ``webpy-socketio-client`` exports ``withChannels``. Put it before the first module of the page.
    Template engines that escape values need a mark for HTML, as for `socketio_scripts`.

    Args:
        nonce: Nonce of the page's Content-Security-Policy. An import map is an inline script:
            ``script-src 'self'`` alone blocks it.
        resource: Resource of the server that serves the modules. Default: that of the server that
            serves the page.

    Returns:
        A ``<script type="importmap">``, as a `str` that supports ``__html__``.

    Raises:
        SettingsError: The client is missing, because the package has not been built.
    """
    path = _path_of(resource)
    modules = {"socket.io-client": _CLIENTS[_parser()][1], "webpy-socketio-client": MODULE}
    imports = {specifier: _url_of(path, name) for specifier, name in modules.items()}
    text = json.dumps({"imports": imports})  # the URLs are percent-encoded: no "<"
    return Html(f'<script type="importmap"{_nonce_attribute(nonce)}>{text}</script>')


def _path_of(resource: str | None) -> str:
    """Return the URL path of a resource, by default that of the current request's server."""
    environ = web.ctx.get("env") or {}
    if resource is None:
        resource = str(environ.get(RESOURCE_KEY, "socket.io"))
    # Mount path of the application. WSGI decodes paths as Latin-1 (PEP 3333).
    mounted = environ.get("SCRIPT_NAME", "").encode("latin-1").strip(b"/")
    return "".join(f"/{quote(part)}" for part in (mounted, resource.strip("/")) if part)


def _parser() -> str:
    """Return SOCKETIO_PARSER of the current request's server."""
    environ = web.ctx.get("env") or {}
    return str(environ.get(PARSER_KEY, "json"))


def _url_of(path: str, name: str) -> str:
    """Return the URL of a script, with its version."""
    return f"{path}/{name}?v={_read(name).version}"


def _nonce_attribute(nonce: str | None) -> str:
    return f' nonce="{escape(nonce)}"' if nonce else ""
