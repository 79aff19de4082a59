"""`TestServer`: the real server around the application, without a port."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gevent
import web
from blinker import Signal

from webpy_socketio.config.keywords import SettingKeywords
from webpy_socketio.engine.io.clock import Clock, replace_clock
from webpy_socketio.engine.socketio.parser import Parser
from webpy_socketio.exceptions import PatchingError
from webpy_socketio.runtime import Runtime, default_runtime
from webpy_socketio.socket import Socket
from webpy_socketio.testing.client import Browser, Client
from webpy_socketio.testing.clock import VirtualClock
from webpy_socketio.testing.errors import ErrorCollector
from webpy_socketio.testing.idle import IdleWaiter, StillRunning, indent, place
from webpy_socketio.testing.memory import MemoryHandler, MemoryServer, MemorySocket
from webpy_socketio.testing.records import Record, recording
from webpy_socketio.testing.response import Response

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["TestServer"]

_PATCHING = (
    "gevent must patch the standard library before web.py is imported, in tests too. Put these "
    "lines first in a conftest.py beside the tests (pytest), or in the __init__.py of their "
    "package (unittest):\n\n"
    "    from gevent import monkey\n"
    "    monkey.patch_all()\n"
)

#: Seconds for waiting handlers to finish when the test ends.
_STOP_TIMEOUT = 0.05


class TestServer:
    """An application with everything it has in production except the network.

    Use it as a context manager, or call `start` and `stop`. Settings that are not passed as
    keywords come from ``web.config`` and ``configure``, except SOCKETIO_BACKPLANE,
    SOCKETIO_BLOCK_WARNING and SOCKETIO_ALLOWED_HOSTS, which are unset (requests are for the host
    ``localhost``).

    An error raised by a handler is raised again by the next call of the test, or at its end.

    Args:
        application: A ``web.application``, or a WSGI application that contains one.
        resource: Path of Socket.IO, as for `SocketIOServer`.
        timeout: Real seconds to wait for handlers that wait for a gevent timer, a socket or a
            thread. Default: 1.
        runtime: Runtime of the server, as for `SocketIOServer`.
        **settings: Settings as keywords of `SocketIOServer`.

    Example:
        >>> with TestServer(app) as server:
        ...     client = server.connect()
        ...     client.send("hello")
    """

    __test__ = False  # pytest must not collect it

    def __init__(
        self,
        application: Any,
        *,
        resource: str = "socket.io",
        timeout: float = 1.0,
        runtime: Runtime = default_runtime,
        **settings: Unpack[SettingKeywords],
    ) -> None:
        wsgi = isinstance(application, web.application)
        self._application = application.wsgifunc() if wsgi else application
        self._resource = resource
        self._timeout = timeout
        self._runtime = runtime
        self._settings = {
            "backplane": None,
            "block_warning": None,
            "allowed_hosts": None,
            **settings,
        }
        self._numbers = itertools.count(1)
        self._errors = ErrorCollector()
        self._sockets: dict[str, Socket] = {}
        self._clock = VirtualClock()
        self._idle: IdleWaiter
        self._server: MemoryServer | None = None
        self._before: Clock

    # -- lifecycle

    def __enter__(self) -> TestServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except Exception as error:
            if exception is None:
                raise
            if hasattr(exception, "add_note"):  # the first failure is raised
                exception.add_note(f"and at the end of the test: {error!r}")

    def start(self) -> TestServer:
        """Start the server and install its plugins.

        Raises:
            ConfigurationError: As on the start of `SocketIOServer`.
            PatchingError: gevent did not patch before web.py was imported.
        """
        self._idle = IdleWaiter(self._timeout)
        self._before = replace_clock(self._clock)
        try:
            server = MemoryServer(
                self._application,
                self._resource,
                self._idle.workers,
                self._settings,
                self._runtime,
            )
            server.start()
        except BaseException as error:
            replace_clock(self._before)
            if isinstance(error, PatchingError):
                raise PatchingError(_PATCHING) from error
            raise
        self._server = server
        self._errors.install()
        self._runtime.signals.connecting.connect(self._add_socket)
        self._runtime.signals.error.connect(self._add_hint)
        return self

    def stop(self) -> None:
        """Close all connections with their stages, uninstall the plugins, and restore global state.

        Raises the pending error of a handler, if there is one. Further calls have no effect.
        """
        server, self._server = self._server, None
        if server is None:
            return
        try:
            self._idle.settle()
        finally:
            self._errors.stopping = True
            try:
                server.stop(_STOP_TIMEOUT if self._idle.running else self._timeout)
                self._idle.settle()
            finally:
                self._runtime.signals.connecting.disconnect(self._add_socket)
                self._runtime.signals.error.disconnect(self._add_hint)
                self._errors.uninstall()
                replace_clock(self._before)
        self._errors.check()

    # -- clients

    def browser(
        self,
        *,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Browser:
        """Create a browser, whose pages and sockets share their cookies."""
        return Browser(self, cookies=cookies, headers=headers, address=address)

    def connect(
        self,
        namespace: str = "/",
        *,
        auth: dict[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Client:
        """Open a socket from a new browser; see `Browser.connect`."""
        browser = self.browser(cookies=cookies, headers=headers, address=address)
        return browser.connect(namespace, auth=auth, query=query)

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Response:
        """Send a GET request from a new browser; see `Browser.get`."""
        return self.browser().get(path, headers=headers)

    def post(self, path: str, data: Mapping[str, Any] | str | bytes = b"", **more: Any) -> Response:
        """Send a POST request from a new browser; see `Browser.post`."""
        return self.browser().post(path, data, **more)

    # -- progress

    def settle(self) -> None:
        """Return once the server is idle: handlers have run, and their messages have arrived.

        Methods of clients and browsers that send call this themselves. A test needs it after other
        actions, such as setting an Event that a handler waits for. Handlers that wait for the test
        remain waiting.

        Raises:
            StillRunning: A handler did not finish within the timeout.
        """
        self._idle.settle()
        self.check()

    def advance(self, seconds: float) -> None:
        """Advance virtual time, and fire due timers in order.

        This covers heartbeats, timeouts, presence's grace period and ``call_later``.
        ``gevent.sleep`` and ``time.sleep`` in handlers use real time.

        Args:
            seconds: Virtual seconds to advance.
        """
        until = self._clock.now() + seconds
        self.settle()
        while (call := self._clock.turn(until)) is not None:
            gevent.get_hub().loop.run_callback(call)
            self.settle()

    @contextmanager
    def record(self, *which: Signal) -> Iterator[list[Record]]:
        """Record the signals that are sent in this context; by default those of all stages."""
        self.settle()
        with recording(which or self._runtime.signals.stages) as records:
            yield records
            self.settle()

    @contextmanager
    def errors(self) -> Iterator[list[BaseException]]:
        """Expect handlers to raise; yields the list of errors, and fails if there are none."""
        self.settle()
        raised = self._errors.expect()
        try:
            yield raised
            self.settle()
        finally:
            self._errors.expected()
        if not raised:
            raise AssertionError("expected a handler to raise an error, but none did")

    # -- internal, for clients and browsers

    @property
    def path(self) -> str:
        """The path of Socket.IO."""
        return str(self._running.engine.path)

    @property
    def parser(self) -> Parser:
        """The parser of the server."""
        return self._runtime.registry.parser

    def number(self) -> int:
        """Return the number of the next client."""
        return next(self._numbers)

    def find(self, session_id: str) -> Socket | None:
        """Return the socket with this ID, whether it is still connected or not."""
        return self._sockets.get(session_id)

    def handle(self, sock: MemorySocket, address: str, what: str) -> None:
        """Let the server handle a request."""
        handler = MemoryHandler(sock, (address, 0), self._running)
        greenlet = gevent.spawn(handler.handle)
        if not self._idle.wait(lambda: greenlet.dead):
            where = place(greenlet)
            greenlet.kill()
            raise StillRunning(f"{what} was not answered: {where}")
        self.check()

    def wait(self, until: Callable[[], bool]) -> None:
        """Return when a condition holds, an error was found, or the server is idle."""
        self._idle.wait(lambda: until() or self._errors.found)

    def check(self) -> None:
        """Raise the first error of a handler."""
        self._errors.check()

    def explain(self) -> str:
        """Describe what may explain a missing event."""
        text = ""
        if self._errors.hints:
            text += f"\nOther failures:\n{indent(self._errors.hints)}"
        if self._idle.running:
            text += f"\nHandlers that still wait:\n{indent(self._idle.running)}"
        due = self._clock.due
        if due is not None:
            text += (
                f"\nThe next timer is due in {due - self._clock.now():g} s of virtual time: "
                "server.advance(seconds)"
            )
        return text

    @property
    def _running(self) -> MemoryServer:
        if self._server is None:
            raise AssertionError("the server is not running: use 'with TestServer(app) as server:'")
        return self._server

    def _add_socket(self, sender: Socket, **extra: Any) -> None:
        self._sockets[sender.session_id] = sender

    def _add_hint(self, sender: Any, exception: BaseException, **extra: Any) -> None:
        self._errors.hints.append(f"{sender!r}: {exception!r}")
