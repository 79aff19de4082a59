"""`TestServer`: the application with the real server around it, on no port."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gevent
import web
from blinker import Signal

from webpy_socketio import signals
from webpy_socketio.engine.io.clock import Clock, replace_clock
from webpy_socketio.exceptions import PatchingError
from webpy_socketio.testing.browser import Browser
from webpy_socketio.testing.client import Client
from webpy_socketio.testing.clock import VirtualClock
from webpy_socketio.testing.errors import ErrorCollector
from webpy_socketio.testing.idle import IdleWaiter, StillRunning, indent, place
from webpy_socketio.testing.memory import MemoryHandler, MemoryServer, MemorySocket
from webpy_socketio.testing.records import Record, recording
from webpy_socketio.testing.response import Response

if TYPE_CHECKING:
    from webpy_socketio.socket import Socket

__all__ = ["TestServer"]

_PATCHING = (
    "gevent has to patch the standard library before web.py is imported, in tests too. For pytest "
    "put these into a conftest.py beside the tests, for unittest into the __init__.py of their "
    "package; as the very first lines:\n\n"
    "    from gevent import monkey\n"
    "    monkey.patch_all()\n"
)

#: Seconds that handlers have to end by themselves when a test is over and they wait for it.
_MERCY = 0.05


class TestServer:
    """An application with everything around it that it has in production, but the network.

    ``with TestServer(app) as server:`` begins and ends it; `start` and `stop` do so without a
    ``with``. `application` is the ``web.application``, or any WSGI application that contains it.
    Settings are keywords as for `SocketIOServer`; others are taken from ``web.config`` and
    ``configure`` as ever, but for SOCKETIO_BACKPLANE, SOCKETIO_BLOCK_WARNING and SOCKETIO_ALLOWED_HOSTS
    (requests are for the host ``localhost``). `timeout` is for how
    many real seconds handlers are waited for that wait for a timer of gevent's, a socket or a thread.

    What a handler raised is raised again by whatever the test does next, or at the end.
    """

    __test__ = False  # pytest takes classes of this name for tests

    def __init__(
        self,
        application: Any,
        *,
        resource: str = "socket.io",
        timeout: float = 1.0,
        **settings: Any,
    ) -> None:
        wsgi = isinstance(application, web.application)
        self._application = application.wsgifunc() if wsgi else application
        self._resource = resource
        self._patience = timeout
        self._settings = {
            "backplane": None,
            "block_warning": None,
            "allowed_hosts": None,
            **settings,
        }
        self._numbers = itertools.count(1)
        self._failures = ErrorCollector()
        self._sockets: dict[str, Socket] = {}
        self._clock = VirtualClock()
        self._quiet: IdleWaiter
        self._server: MemoryServer | None = None
        self._before: Clock

    # -- its life

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
        except Exception as last:
            if exception is None:
                raise
            if hasattr(exception, "add_note"):  # what failed first is what is raised
                exception.add_note(f"and at the end of the test: {last!r}")

    def start(self) -> TestServer:
        """Begin: plugins are switched on. Raises `ConfigurationError` as the server does."""
        self._quiet = IdleWaiter(self._patience)
        self._before = replace_clock(self._clock)
        try:
            server = MemoryServer(
                self._application, self._resource, self._quiet.workers, self._settings
            )
            server.start()
        except BaseException as error:
            replace_clock(self._before)
            if isinstance(error, PatchingError):
                raise PatchingError(_PATCHING) from error
            raise
        self._server = server
        self._failures.install()
        signals.connecting.connect(self._meet)
        signals.error.connect(self._note)
        return self

    def stop(self) -> None:
        """End every connection with all its stages, switch the plugins off, forget everything.

        Raises what a handler raised and was not raised yet. Done twice it does nothing.
        """
        server, self._server = self._server, None
        if server is None:
            return
        try:
            self._quiet.settle()
        finally:
            self._failures.stopping = True
            try:
                server.stop(_MERCY if self._quiet.running else self._patience)
                self._quiet.settle()
            finally:
                signals.connecting.disconnect(self._meet)
                signals.error.disconnect(self._note)
                self._failures.uninstall()
                replace_clock(self._before)
        self._failures.check()

    # -- visitors

    def browser(
        self,
        *,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Browser:
        """A new visitor, whose pages and sockets share their cookies."""
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
        """A new visitor's socket; see `Browser.connect`."""
        browser = self.browser(cookies=cookies, headers=headers, address=address)
        return browser.connect(namespace, auth=auth, query=query)

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Response:
        """A new visitor's look at a page; see `Browser.get`."""
        return self.browser().get(path, headers=headers)

    def post(self, path: str, data: Mapping[str, Any] | str | bytes = b"", **more: Any) -> Response:
        """The same with something to send; see `Browser.post`."""
        return self.browser().post(path, data, **more)

    # -- what happens

    def settle(self) -> None:
        """Return when everything has happened: handlers have run, what was sent has arrived.

        Handlers that wait for the test are left waiting. Raises what a handler raised, and
        `StillRunning` for one that does not come to its end. Everything that sends does this by itself;
        a test needs it after it did something else, as setting an Event that a handler waits for.
        """
        self._quiet.settle()
        self.check()

    def advance(self, seconds: float) -> None:
        """Let time pass: heartbeats, timeouts, presence's grace, and ``call_later``; all in order.

        ``gevent.sleep`` and ``time.sleep`` in handlers are real, and not touched by this.
        """
        until = self._clock.now() + seconds
        self.settle()
        while (call := self._clock.turn(until)) is not None:
            gevent.get_hub().loop.run_callback(call)
            self.settle()

    @contextmanager
    def record(self, *which: Signal) -> Iterator[list[Record]]:
        """Keep the signals that are sent within; without any given, those of all stages."""
        self.settle()
        with recording(which or signals.STAGES) as records:
            yield records
            self.settle()

    @contextmanager
    def errors(self) -> Iterator[list[BaseException]]:
        """Expect that handlers raise; the list has what they raised. Fails if they do not."""
        self.settle()
        raised = self._failures.expect()
        try:
            yield raised
            self.settle()
        finally:
            self._failures.expected()
        if not raised:
            raise AssertionError("no handler raised anything, where an error was expected")

    # -- for clients and browsers

    @property
    def path(self) -> str:
        """Where Socket.IO is."""
        return str(self._running.engine.path)

    def number(self) -> int:
        """The next client's number."""
        return next(self._numbers)

    def find(self, session_id: str) -> Socket | None:
        """The socket of a client that was let in, whether it is still there or not."""
        return self._sockets.get(session_id)

    def handle(self, sock: MemorySocket, address: str, what: str) -> None:
        """Let the server answer a request."""
        handler = MemoryHandler(sock, (address, 0), self._running)
        greenlet = gevent.spawn(handler.handle)
        if not self._quiet.wait(lambda: greenlet.dead):
            where = place(greenlet)
            greenlet.kill()
            raise StillRunning(f"{what} was not answered: {where}")
        self.check()

    def wait(self, until: Callable[[], bool]) -> None:
        """Return when a condition holds, or when nothing moves any more."""
        self._quiet.wait(lambda: until() or self._failures.found)

    def check(self) -> None:
        """Raise what a handler raised."""
        self._failures.check()

    def explain(self) -> str:
        """What may be the reason that something did not happen."""
        text = ""
        if self._failures.hints:
            text += f"\nWhat else went wrong:\n{indent(self._failures.hints)}"
        if self._quiet.running:
            text += f"\nHandlers that still wait:\n{indent(self._quiet.running)}"
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
            raise AssertionError("the server does not run: with TestServer(app) as server")
        return self._server

    def _meet(self, sender: Socket, **extra: Any) -> None:
        self._sockets[sender.session_id] = sender

    def _note(self, sender: Any, exception: BaseException, **extra: Any) -> None:
        self._failures.hints.append(f"{sender!r}: {exception!r}")
