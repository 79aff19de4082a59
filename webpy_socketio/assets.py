"""The scripts that a page loads: the stock client and the channel extension.

`asset` returns a file to serve; `socketio_scripts` returns the HTML that loads the two scripts.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
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
    "RESOURCE_KEY",
    "Asset",
    "Html",
    "asset",
    "socketio_scripts",
    "template_dir",
]

CLIENT = "socket.io.min.js"
EXTENSION = "webpy_socketio.js"

#: The builds of the stock client, named as Socket.IO for Node.js serves them.
BUILDS = ("socket.io.js", CLIENT, "socket.io.esm.min.js", "socket.io.msgpack.min.js")

#: All files that are served. Each build has a source map for browsers' developer tools.
_SERVED = frozenset((*BUILDS, *(f"{name}.map" for name in BUILDS), EXTENSION))

_JAVASCRIPT, _JSON = "text/javascript; charset=utf-8", "application/json"

#: Environ key of the server's resource, for `socketio_scripts`.
RESOURCE_KEY = "webpy_socketio.resource"

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


@functools.cache
def _read(name: str) -> Asset:
    try:
        body = (_PACKAGE / "static" / name).read_bytes()
    except FileNotFoundError:
        raise SettingsError(
            f"webpy_socketio/static/{name} is missing: the build of the package installs it. "
            "Run `pip install -e .` in the source tree, or install a wheel"
        ) from None
    return Asset(name, body, _JSON if name.endswith(".map") else _JAVASCRIPT)


def socketio_scripts(nonce: str | None = None, resource: str | None = None) -> Html:
    """Return the HTML that loads the client and its extension; put it before your own scripts.

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
    environ = web.ctx.get("env") or {}
    if resource is None:
        resource = str(environ.get(RESOURCE_KEY, "socket.io"))
    # Mount path of the application. WSGI decodes paths as Latin-1 (PEP 3333).
    mounted = environ.get("SCRIPT_NAME", "").encode("latin-1").strip(b"/")
    path = "".join(f"/{quote(part)}" for part in (mounted, resource.strip("/")) if part)
    nonce_attribute = f' nonce="{escape(nonce)}"' if nonce else ""
    tags = [
        f'<script src="{escape(path)}/{script.name}?v={script.version}"'
        f' data-path="{escape(path)}"{nonce_attribute}></script>'
        for script in (_read(CLIENT), _read(EXTENSION))
    ]
    return Html("\n".join(tags))
