"""The scripts that a page loads: the stock client, and the channel extension.

`asset` gives one to the route that serves it; `socketio_scripts` gives the HTML that loads the two.
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

#: The builds of the stock client, under the names that Socket.IO for Node serves them by.
BUILDS = ("socket.io.js", CLIENT, "socket.io.esm.min.js", "socket.io.msgpack.min.js")

#: What is served: each build has a source map, for the developer tools of browsers.
_SERVED = frozenset((*BUILDS, *(f"{name}.map" for name in BUILDS), EXTENSION))

_JAVASCRIPT, _JSON = "text/javascript; charset=utf-8", "application/json"

#: The environ key under which a server tells its resource to the pages it serves.
RESOURCE_KEY = "webpy_socketio.resource"

_PACKAGE = Path(__file__).resolve().parent

#: The folder of ``socketio_scripts.html``, for the ``directories`` of a Mako ``TemplateLookup``.
template_dir = str(_PACKAGE / "templates")


@dataclass(frozen=True)
class Asset:
    """A script or a source map, ready to be sent."""

    name: str
    body: bytes = field(repr=False)
    content_type: str = _JAVASCRIPT
    #: The body for those who accept gzip.
    gzip: bytes = field(init=False, repr=False)
    #: Of the body's content. A page's address of the script carries it, so a browser may keep what it got for good.
    version: str = field(init=False)
    #: The same as an ``ETag``: weak, for it stands for the body and for its gzip alike.
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        version = hashlib.sha256(self.body).hexdigest()[:16]
        object.__setattr__(self, "gzip", gzip.compress(self.body, mtime=0))
        object.__setattr__(self, "version", version)
        object.__setattr__(self, "etag", f'W/"{version}"')


class Html(str):
    """Text that is HTML already: engines that know MarkupSafe's protocol do not escape it again."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def asset(name: str) -> Asset | None:
    """Return a script or source map, read once; None for any other name, so no path leads elsewhere.

    Raises `SettingsError` when the package was never built and the client is missing.
    """
    return _read(name) if name in _SERVED else None


@functools.cache
def _read(name: str) -> Asset:
    try:
        body = (_PACKAGE / "static" / name).read_bytes()
    except FileNotFoundError:
        raise SettingsError(
            f"webpy_socketio/static/{name} is missing: it is put there when the package is built. "
            "Run `pip install -e .` in the source tree, or install a wheel"
        ) from None
    return Asset(name, body, _JSON if name.endswith(".map") else _JAVASCRIPT)


def socketio_scripts(nonce: str | None = None, resource: str | None = None) -> Html:
    """Return the HTML that loads the client and its extension; put it before your own scripts.

    ``nonce`` is the page's Content-Security-Policy nonce, for a policy that wants one;
    ``script-src 'self'`` needs none. ``resource`` is the server's, and has to be given only where
    the page is served by another server than the one that the client shall connect to.

    Templates that escape by themselves need to be told that this is HTML: ``$:socketio_scripts()``
    in web.py's, ``${socketio_scripts() | n}`` in Mako; Jinja sees it by itself.
    """
    environ = web.ctx.get("env") or {}
    if resource is None:
        resource = str(environ.get(RESOURCE_KEY, "socket.io"))
    # Where the application is mounted; WSGI hands paths over as bytes in disguise (PEP 3333).
    mounted = environ.get("SCRIPT_NAME", "").encode("latin-1").strip(b"/")
    path = "".join(f"/{quote(part)}" for part in (mounted, resource.strip("/")) if part)
    nonce_attribute = f' nonce="{escape(nonce)}"' if nonce else ""
    tags = [
        f'<script src="{escape(path)}/{script.name}?v={script.version}"'
        f' data-path="{escape(path)}"{nonce_attribute}></script>'
        for script in (_read(CLIENT), _read(EXTENSION))
    ]
    return Html("\n".join(tags))
