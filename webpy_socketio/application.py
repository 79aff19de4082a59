"""The integration with web.py: URLs, the view behind them, and `web.ctx` in handlers."""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Callable
from typing import Any, ClassVar

import gevent
import gevent.local
import web
from gevent import monkey
from gevent.event import AsyncResult

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

#: Environ key of the application that routed the handshake.
_APPLICATION = "webpy_socketio.application"

#: Environ key that is present if the application has no processors. The value is the content of
#: `web.ctx` until it is used.
_CONTEXT = "webpy_socketio.context"

#: Environ key that is True if no code of the application has run in the handshake.
_IS_PLAIN = "webpy_socketio.is_plain"

#: Environ key of the response headers of the handshake; processors may still add to them.
_HEADERS = "webpy_socketio.headers"

_WRONG_SERVER = (
    'Socket.IO needs its own server: start the application with SocketIOServer(("127.0.0.1", '
    "8000), app.wsgifunc()).serve_forever(), not with app.run() or another WSGI server"
)

_NO_MARK = (
    "a WSGI wrapper around the application calls it in another greenlet or thread, with an environ "
    "that lacks webpy_socketio.mark: Socket.IO cannot connect. Pass the original environ to the "
    "application, or a complete copy of it (environ.copy())"
)

#: Throttles errors that are logged when no `SocketIOServer` is running.
_throttled_log = ThrottledLog(current_clock())

_PATCH_FIRST = (
    "web.py was imported before gevent patched the standard library: all requests would share one "
    "web.ctx. Make these the first lines of the program, before any other import:\n\n"
    "    from gevent import monkey\n"
    "    monkey.patch_all()\n"
)


def check_patching() -> None:
    """Raise `PatchingError` if web.py was imported before gevent patched the standard library."""
    if not issubclass(web.utils.ThreadedDict, gevent.local.local):
        raise PatchingError(_PATCH_FIRST)
    if not monkey.is_module_patched("socket"):
        raise PatchingError(
            "gevent has not patched the socket module: a handler that uses the network would block "
            "the whole server. Call gevent.monkey.patch_all() without arguments"
        )


class _Resource(str):
    """The URL pattern of the resources of all servers in this process.

    `socketio_urls` becomes part of an application's URLs before a server defines its resource. The
    pattern is therefore formatted on every match, when web.py builds its regular expression.
    """

    names: ClassVar[set[str]] = {"socket.io"}

    def __format__(self, spec: str) -> str:
        return "/(?:" + "|".join(map(re.escape, sorted(self.names))) + ")/(.*)"

    def __str__(self) -> str:
        return format(self)


def add_resource(name: str) -> None:
    """Make `socketio_urls` match another resource as well."""
    _Resource.names.add(name)


class SocketIOView:
    """The view of `socketio_urls`: serves the client scripts and hands requests to the engine."""

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
        # The pattern matches the resources of all servers.
        if web.ctx.env["PATH_INFO"] != f"/{resource}/":
            raise web.notfound(f"Socket.IO is at /{resource}/ on this server.\n")
        application = web.ctx.app_stack[0]
        web.ctx.env[_APPLICATION] = application
        if len(web.ctx.app_stack) == 1 and not _has_processors(application):
            web.ctx.env[_CONTEXT] = context = dict(web.ctx.__dict__)
            context["env"] = context["environ"] = None  # no reference to itself
            context["app_stack"] = []
            # A subclass may run code of the application.
            web.ctx.env[_IS_PLAIN] = type(self) is SocketIOView
        web.ctx.env[_HEADERS] = web.ctx.headers
        web.ctx.env[ACCEPT_KEY] = True
        mark.take_over(web.ctx.env)
        return ""

    POST = OPTIONS = PUT = DELETE = PATCH = GET


#: Methods that an attribute of one application may replace.
_METHODS = frozenset(dir(web.application))


class PlainRoute:
    """The route of handshakes through an application without processors.

    Such an application runs no code of its own in a handshake. It therefore passes on each one that
    has the path of the first, as long as it is not changed.

    Args:
        wsgi: The WSGI application of the server: the ``wsgifunc()`` of `application`.
        application: The application.
        path: PATH_INFO of the first handshake.
    """

    __slots__ = ("_application", "_mapping", "_path", "_wsgi")

    def __init__(self, wsgi: Any, application: Any, path: str) -> None:
        self._wsgi = wsgi
        self._application = application
        self._mapping = list(map(copy.copy, application.mapping))
        self._path = path

    def accept(self, wsgi: Any, environ: dict[str, Any]) -> bool:
        """Pass on a handshake like `SocketIOView`; return False if `wsgi` must be called."""
        application = self._application
        if (
            wsgi is not self._wsgi
            or environ["PATH_INFO"] != self._path
            or _has_processors(application)
            or not _METHODS.isdisjoint(vars(application))
            or application.mapping != self._mapping
        ):
            return False
        environ[_APPLICATION] = application
        environ[_CONTEXT] = None
        environ[ACCEPT_KEY] = True
        return True


def learn_route(wsgi: Any, environ: dict[str, Any]) -> PlainRoute | None:
    """Return the route of a handshake that the application has passed on; None if it may vary.

    Args:
        wsgi: The WSGI application of the server.
        environ: The environ of the handshake, as the application has left it.
    """
    application = environ.get(_APPLICATION)
    if not environ.pop(_IS_PLAIN, False) or _find_application(wsgi) is not application:
        return None
    return PlainRoute(wsgi, application, environ["PATH_INFO"])


#: The code of the functions that ``wsgifunc()`` returns. Wrappers have other code.
_WSGI_CODE = web.application((), {}, autoreload=False).wsgifunc().__code__


def _find_application(wsgi: Any) -> Any:
    """Return the application whose ``wsgifunc()`` a WSGI application is; None for a wrapper."""
    if getattr(wsgi, "__code__", None) is not _WSGI_CODE:
        return None
    return inspect.getclosurevars(wsgi).nonlocals["self"]


#: URLs of Socket.IO; add them to those of the application: ``urls += socketio_urls``.
socketio_urls = (_Resource(), SocketIOView)


def _explain_no_mark() -> str:
    """Log why the engine cannot be reached, and return the text as the response body."""
    web.ctx.status = "500 Internal Server Error"
    web.header("Content-Type", "text/plain; charset=utf-8")
    if is_serving():
        _throttled_log.throttled("no mark", _NO_MARK, logging.ERROR)
        return _NO_MARK + "\n"
    _throttled_log.throttled("another server", _WRONG_SERVER, logging.ERROR)
    return _WRONG_SERVER + "\n"


def _has_socketio(application: Any) -> bool:
    """Return whether an application, or one mounted in it, includes `socketio_urls`."""
    return any(
        target is SocketIOView or (isinstance(target, web.application) and _has_socketio(target))
        for _, target in application.mapping
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
    # Content at a URL with a version never changes. "private", because processors of the
    # application may add a cookie for one visitor.
    is_versioned = web.ctx.env.get("QUERY_STRING") == f"v={script.version}"
    web.header(
        "Cache-Control", "private, max-age=31536000, immutable" if is_versioned else "no-cache"
    )
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
    """Add CORS headers, so that allowed origins can load a script with ``crossorigin``."""
    origins = web.ctx.env.get(ORIGINS_KEY)
    if origins is None:  # not served by SocketIOServer
        return
    found = origins.cors(web.ctx.env)
    if found:
        # Browsers reject duplicate CORS headers; a processor may have set some for all pages.
        web.ctx.headers[:] = [
            header for header in web.ctx.headers if not header[0].lower().startswith(CORS_PREFIX)
        ]
    web.ctx.headers += found or [("Vary", "Origin")]


#: The code of the processors that web.py makes of hooks, and the hooks that it adds to every
#: application. The hooks are private; if they are renamed, all processors run twice.
_HOOK_CODES = (web.loadhook(release).__code__, web.unloadhook(release).__code__)
_OWN_HOOKS = [getattr(web.application, name, None) for name in ("_load", "_unload")]


def _has_processors(application: Any) -> bool:
    """Return whether an application has processors, or a way of handling requests, of its own."""
    return type(application) is not web.application or not all(
        map(_is_own_processor, application.processors)
    )


def _is_own_processor(processor: Any) -> bool:
    """Return whether web.py added a processor, to keep ``web.ctx.app_stack``."""
    if getattr(processor, "__code__", None) not in _HOOK_CODES:
        return False
    return getattr(processor.__closure__[0].cell_contents, "__func__", processor) in _OWN_HOOKS


class _ConnectJob:
    """A call of the connect handlers within all processors of the application."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.ran = False
        self.refusal: BaseException | None = None

    def run(self) -> str:
        self.ran = True
        sessions = LoadedSessions()
        try:
            self._function()
        except Refused as refusal:
            # Kept here, because web.py would turn the exception into an internal error.
            self.refusal = refusal
        finally:
            sessions.save_changes()
        return ""


def _keep_cookies(environ: dict[str, Any]) -> None:
    """Add the cookies of the handshake's response to the handshake's request.

    The processors run again when the client connects. Without its cookie, they would not find a
    web.py session that began with the handshake, and would start another one.
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
    """A dispatcher that provides the handshake's `web.ctx` to handlers."""

    def run_connect(self, socket: Socket, connect: Callable[[], None]) -> None:
        """Run the gate and the connect handlers within the processors of the application.

        A web.py session is loaded before them and saved after them, not at the end of the
        connection.
        """
        application = socket.request.get(_APPLICATION)
        if application is None:
            connect()
            return
        _keep_cookies(socket.request)
        saved = None
        is_plain = _CONTEXT in socket.request
        if is_plain:  # one namespace takes it: the environ must not refer to itself
            saved, socket.request[_CONTEXT] = socket.request[_CONTEXT], None
        if saved is None:
            application.load(socket.request)
            saved = dict(web.ctx.__dict__)
        else:
            saved["env"] = saved["environ"] = socket.request
        socket.web_context = saved
        if is_plain:
            # Routing the request to the view again would change nothing.
            self.enter_context(socket)
            web.ctx.app_stack = [application]
            connect()
            return
        web.ctx.socketio_job = inner = _ConnectJob(connect)
        self._run_processors(application, socket, inner)

    def _run_processors(self, application: Any, socket: Socket, inner: _ConnectJob) -> None:
        try:
            application.handle_with_processors()
        except web.HTTPError as error:
            # The response of a processor, such as a redirect to a login page. Or the error page of
            # web.py, which has logged an exception of a processor.
            if inner.ran:
                self._signals.report_error(socket, error, "a processor of the application")
            elif str(error).startswith("500"):
                raise
            else:
                raise Refused(f"the application answered {error}") from None
        if inner.refusal is not None:
            raise inner.refusal
        if not inner.ran:
            raise Refused("the application rejected this request")

    def enter_context(self, socket: Socket) -> None:
        """Restore the `web.ctx` of the handshake."""
        saved = socket.web_context
        if saved is not None:
            context = web.ctx.__dict__
            context.update(saved)
            context["headers"] = []  # handlers may append to it; a shared list would grow

    def restore_context(self, socket: Socket) -> None:
        """Make a `web.ctx` from the environ of a handshake that another process has handled."""
        try:
            web.application((), {}, autoreload=False).load(socket.request)
            socket.web_context = dict(web.ctx.__dict__)
        finally:
            release()

    def release(self) -> None:
        """Release the thread-locals of web.py; the greenlet is reused for other connections."""
        release()

    def run_in_context(self, socket: Socket, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` with the `web.ctx` of the handshake; return or raise its result."""
        if socket.web_context is None or web.ctx.__dict__.get("env") is socket.request:
            return function(*args)
        if gevent.getcurrent() is gevent.get_hub():
            raise WrongContext(
                "handlers may wait, which is not possible on the hub of gevent: call this from a "
                "greenlet"
            )
        # In a new greenlet: the current one may be serving a page, with its own web.ctx and
        # session.
        done = AsyncResult()

        def run() -> None:
            self.enter_context(socket)
            try:
                done.set(function(*args))
            except BaseException as exception:  # noqa: BLE001 - raised again by done.get()
                done.set_exception(exception)
            finally:
                release()

        # Not spawn_raw: a gevent.Timeout left running by a handler would be raised on the hub.
        gevent.spawn(run)
        return done.get()
