"""The web.py side: the urls, the view behind them, and what `web.ctx` is in a handler."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, ClassVar

import gevent
import gevent.local
import web
from gevent import monkey
from gevent.event import AsyncResult

from webpy_socketio import signals
from webpy_socketio.assets import RESOURCE_KEY, asset
from webpy_socketio.dispatcher import Dispatcher
from webpy_socketio.engine.engineio.origins import CORS_PREFIX, ORIGINS_KEY
from webpy_socketio.engine.engineio.takeover import ACCEPT_KEY, find_mark, is_serving
from webpy_socketio.engine.io.clock import current_clock
from webpy_socketio.engine.io.throttled_log import ThrottledLog
from webpy_socketio.exceptions import PatchingError, Refused, WrongContext
from webpy_socketio.main_script import check_guards
from webpy_socketio.socket import Socket
from webpy_socketio.thread_locals import release
from webpy_socketio.web_sessions import LoadedSessions

__all__ = ["SocketIOView", "WebDispatcher", "add_resource", "check_patching", "socketio_urls"]

#: Key of the environ under which the view leaves the application that routed the handshake.
_APPLICATION = "webpy_socketio.application"

#: The same for the headers of the handshake's answer, which processors may still add to.
_HEADERS = "webpy_socketio.headers"

_WRONG_SERVER = (
    "Socket.IO needs its own server: start the application with "
    'SocketIOServer(("127.0.0.1", 8000), app.wsgifunc()).serve_forever(), not with app.run() or another '
    "WSGI server"
)

_NO_MARK = (
    "a WSGI wrapper around the application calls it in another greenlet or thread, with an environ "
    "that lacks webpy_socketio.mark: Socket.IO cannot connect. Let the wrapper pass on the environ "
    "that it got, or a copy of all of it (environ.copy())"
)

#: What is told where no server of ours could.
_notices = ThrottledLog(current_clock())

_REMEDY = (
    "web.py was imported before gevent patched the standard library: all visitors would share one "
    "web.ctx. Make these the first lines of the program, before any other import:\n\n"
    "    from gevent import monkey\n"
    "    monkey.patch_all()\n"
)


def check_patching() -> None:
    """Raise `PatchingError` if web.py was imported before gevent patched."""
    if not issubclass(web.utils.ThreadedDict, gevent.local.local):
        raise PatchingError(_REMEDY)
    if not monkey.is_module_patched("socket"):
        raise PatchingError(
            "gevent has not patched the socket module: a handler that uses the network would stop "
            "the whole server. Call gevent.monkey.patch_all() without leaving anything out"
        )


class _Resource(str):
    """The url pattern of all resources that servers were given, known when a request comes.

    `socketio_urls` is put into an application's urls before a server says where Socket.IO is to
    live; web.py formats its patterns into a regular expression at each match.
    """

    names: ClassVar[set[str]] = {"socket.io"}

    def __format__(self, spec: str) -> str:
        return "/(?:" + "|".join(map(re.escape, sorted(self.names))) + ")/(.*)"

    def __str__(self) -> str:
        return format(self)


def add_resource(name: str) -> None:
    """Let `socketio_urls` match another resource too."""
    _Resource.names.add(name)


class SocketIOView:
    """Behind `socketio_urls`: the scripts for the browser, and the door to the engine."""

    def GET(self, path: str) -> Any:
        mark = find_mark(web.ctx.env)
        if mark is not None:
            mark.is_reached = True
        if path:
            return _serve_script(path)
        job = web.ctx.get("socketio_job")
        if job is not None:
            return job.run()
        if mark is None:
            return _explain_no_mark()
        resource = mark.request.get(RESOURCE_KEY, "socket.io")
        if web.ctx.env["PATH_INFO"] != f"/{resource}/":  # the urls match every server's
            raise web.notfound(f"Socket.IO is at /{resource}/ on this server.\n")
        web.ctx.env[_APPLICATION] = web.ctx.app_stack[0]
        web.ctx.env[_HEADERS] = web.ctx.headers
        web.ctx.env[ACCEPT_KEY] = True
        mark.take_over(web.ctx.env)
        return ""

    POST = OPTIONS = PUT = DELETE = PATCH = GET


#: Add this to an application's urls: ``urls += socketio_urls``.
socketio_urls = (_Resource(), SocketIOView)


def _explain_no_mark() -> str:
    """Return the body of an error that names why the engine cannot be reached, and log it."""
    web.ctx.status = "500 Internal Server Error"
    web.header("Content-Type", "text/plain; charset=utf-8")
    if is_serving():
        _notices.throttled("no mark", _NO_MARK, logging.ERROR)
        return _NO_MARK + "\n"
    _notices.throttled("another server", _WRONG_SERVER, logging.ERROR)
    return _WRONG_SERVER + "\n"


def _has_socketio(application: Any) -> bool:
    """Whether an application, or one that is mounted in it, has `socketio_urls`."""
    return any(
        what is SocketIOView or (isinstance(what, web.application) and _has_socketio(what))
        for _, what in application.mapping
    )


check_guards(_has_socketio)


def _serve_script(name: str) -> bytes:
    script = asset(name) if web.ctx.method in ("GET", "HEAD", "OPTIONS") else None
    if script is None:
        raise web.notfound()
    if web.ctx.method == "OPTIONS":
        web.ctx.status = "204 No Content"
        _add_cors_headers()
        return b""
    web.header("Content-Type", script.content_type)
    web.header("X-Content-Type-Options", "nosniff")
    web.header("ETag", script.etag)
    web.header("Vary", "Accept-Encoding")
    _add_cors_headers()
    # An address with the version in it never changes its content; one without may. Private, since
    # the application's processors may have put a visitor's cookie beside it.
    lasting = web.ctx.env.get("QUERY_STRING") == f"v={script.version}"
    web.header("Cache-Control", "private, max-age=31536000, immutable" if lasting else "no-cache")
    if script.etag in web.ctx.env.get("HTTP_IF_NONE_MATCH", ""):
        web.ctx.status = "304 Not Modified"
        return b""
    body: bytes = script.body
    if "gzip" in web.ctx.env.get("HTTP_ACCEPT_ENCODING", ""):
        web.header("Content-Encoding", "gzip")
        body = script.gzip
    web.header("Content-Length", str(len(body)))
    return body


def _add_cors_headers() -> None:
    """Let the pages that may connect load a script, in every mode of ``crossorigin``."""
    origins = web.ctx.env.get(ORIGINS_KEY)
    if origins is None:  # another server's
        return
    found = origins.cors(web.ctx.env)
    if found:
        # A processor may have set some for all pages; browsers reject a header that is there twice.
        web.ctx.headers[:] = [
            header for header in web.ctx.headers if not header[0].lower().startswith(CORS_PREFIX)
        ]
    web.ctx.headers += found or [("Vary", "Origin")]


class _Job:
    """Something to be run where the view would run: inside all of the application's processors."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.ran = False
        self.refused: BaseException | None = None

    def run(self) -> str:
        self.ran = True
        sessions = LoadedSessions()
        try:
            self._function()
        except Refused as refusal:
            # Told by way of here: web.py would make an internal error of it.
            self.refused = refusal
        finally:
            sessions.settle()
        return ""


def _keep_cookies(environ: dict[str, Any]) -> None:
    """Let the cookies that the handshake was answered with count as if they had come with it.

    Otherwise a session that began with it would be lost at once: the processors, run again to let
    the client in, would not know it and begin another.
    """
    cookies = [
        value.partition(";")[0]
        for name, value in environ.pop(_HEADERS, ())
        if name.lower() == "set-cookie"
    ]
    if cookies:
        sent = environ.get("HTTP_COOKIE")
        environ["HTTP_COOKIE"] = "; ".join([sent, *cookies] if sent else cookies)


class WebDispatcher(Dispatcher):
    """A dispatcher whose handlers find the handshake's `web.ctx`."""

    def admit(self, socket: Socket, job: Callable[[], None]) -> None:
        """Run the gate and the connect handlers as if they were a page of the application.

        Its processors run around them: a web.py session is loaded, can be changed and is saved,
        when all this is done, and not when the connection ends.
        """
        application = socket.request.get(_APPLICATION)
        if application is None:
            job()
            return
        _keep_cookies(socket.request)
        application.load(socket.request)
        socket.web_context = dict(web.ctx.__dict__)
        web.ctx.socketio_job = inner = _Job(job)
        self._run_processors(application, socket, inner)

    def _run_processors(self, application: Any, socket: Socket, inner: _Job) -> None:
        try:
            application.handle_with_processors()
        except web.HTTPError as error:
            # A processor's answer to a browser, such as a redirect to a login page; or what
            # web.py makes of a processor that failed, after it has logged it.
            if inner.ran:
                signals.report_error(socket, error, "a processor of the application")
            elif str(error).startswith("500"):
                raise
            else:
                raise Refused(f"the application answered {error}") from None
        if inner.refused is not None:
            raise inner.refused
        if not inner.ran:
            raise Refused("the application did not let this request through")

    def enter_context(self, socket: Socket) -> None:
        """Make `web.ctx` what it was at the handshake."""
        saved = socket.web_context
        if saved is not None:
            context = web.ctx.__dict__
            context.update(saved)
            context["headers"] = []  # a handler may append to it; nobody would ever take it away

    def release(self) -> None:
        """Release what web.py keeps for the greenlet, which is reused for other connections."""
        release()

    def run_in_context(self, socket: Socket, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` where `web.ctx` is the handshake's, and return or raise what it does."""
        if socket.web_context is None or web.ctx.__dict__.get("env") is socket.request:
            return function(*args)
        if gevent.getcurrent() is gevent.get_hub():
            raise WrongContext("handlers may wait, which cannot be done on gevent's hub")
        # In a greenlet of its own: this one may be a page's, with its web.ctx and its session.
        done = AsyncResult()

        def run() -> None:
            self.enter_context(socket)
            try:
                done.set(function(*args))
            except BaseException as exception:  # noqa: BLE001 - raised again where it is awaited
                done.set_exception(exception)
            finally:
                release()

        # Not spawn_raw: a timeout that a handler left running would be raised on the hub.
        gevent.spawn(run)
        return done.get()
