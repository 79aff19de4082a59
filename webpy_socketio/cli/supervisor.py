"""The supervisor of several workers: starts them, replaces who dies, and restarts them one by one.

Each worker is a program of its own, not a fork: nothing of gevent's and nothing of the application's is
inherited but the listening socket. The supervisor holds that one, so that no connection that waits
to be accepted is lost with a worker; it imports nothing of the application.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import gevent.event
from gevent.server import StreamServer

from webpy_socketio.cli import app_factory, patched
from webpy_socketio.cli.ipc import ControlChannel, pair
from webpy_socketio.cli.reload import Sources
from webpy_socketio.engine.workers.runtime_folder import make_runtime_folder
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.server import SocketIOServer, listen_error

__all__ = ["run"]

#: Seconds before another worker follows one that died at once: doubled each time, up to the second.
_MIN_DELAY, _MAX_DELAY = 0.5, 30.0

#: Seconds after which a worker did not die at once.
_SETTLED = 10.0

#: Seconds that a worker has to serve when it is to replace another one.
_START_TIMEOUT = 60.0

#: Seconds before another attempt, when the system has no room for another process.
_RETRY = 5.0

#: Seconds between two looks at the heartbeats of workers.
_TICK = 0.5

#: Seconds between two looks beyond which the supervisor itself did not run.
_LATE = 1.0

#: Seconds that a worker has to end by SIGABRT. A stopped one does not.
_TO_ABORT = 1.0

#: Seconds between two looks at the source files.
_LOOK = 0.5


def run(arguments: argparse.Namespace) -> int:
    """Run the workers until a signal comes; returns the exit status."""
    folder = make_runtime_folder()
    try:
        return Supervisor(arguments, str(folder.path)).run()
    finally:
        folder.close()
        shutil.rmtree(folder.path, ignore_errors=True)


class Worker:
    """A worker's process, as the supervisor sees it."""

    def __init__(self, name: int, slot: int, folder: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self.since = time.time_ns()
        #: What it told of its settings.
        self.settings: dict[str, Any] = {}
        self.serving = gevent.event.Event()
        self.ended = gevent.event.Event()
        #: Seconds since its last heartbeat, as far as the supervisor itself ran in that time.
        self.silence = 0.0
        #: Whether it was ended as its event loop stood still.
        self.is_aborted = False
        #: Set when it serves or has ended.
        self.decided = gevent.event.Event()
        ours, theirs = pair()
        self.control = ControlChannel(ours)
        descriptor = theirs.fileno()
        with theirs:
            self._process = subprocess.Popen(
                patched([*sys.argv[1:], "--as-worker", f"{descriptor}:{name}:{slot}:{folder}"]),
                pass_fds=[descriptor],
                # Ctrl-C is for the supervisor, who tells them.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    def is_stopped(self) -> bool:
        """Return whether it was stopped by a signal, as far as this system can tell."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in ("T", "t")

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if not self.ended.is_set():
            self._process.send_signal(number)

    def wait(self) -> str:
        """Wait until it has ended; returns how, in words."""
        status: int = self._process.wait()
        self.control.close()
        self.ended.set()
        self.decided.set()
        if status >= 0:
            return f"ended with status {status}"
        return f"was ended by {signal.Signals(-status).name}"


class Supervisor:
    """Keeps as many workers as were asked for."""

    def __init__(self, arguments: argparse.Namespace, folder: str) -> None:
        self._arguments = arguments
        self._folder = folder
        self._names = itertools.count(1)
        self._slots: list[Worker] = []
        self._alive: set[Worker] = set()
        self._listener: StreamServer | None = None
        self._sources = Sources()
        self._failure: str | None = None
        #: Failures of workers that were printed since the last attempt to start them.
        self._printed: set[str] = set()
        self._has_served = False
        self._stopping = False
        #: Set when it is over.
        self._over = gevent.event.Event()
        #: Set when somebody waits in vain for a worker that cannot be started.
        self._again = gevent.event.Event()
        self._restarting = False
        self._restart_asked = False

    def run(self) -> int:
        """Start the workers, and return when all have ended."""
        watchers = [
            gevent.signal_handler(signal.SIGINT, self._stop),
            gevent.signal_handler(signal.SIGTERM, self._stop),
            gevent.signal_handler(signal.SIGHUP, self._ask_restart),
        ]
        greenlets = []
        try:
            self._slots = [self._begin(slot) for slot in range(self._arguments.workers)]
            greenlets = [gevent.spawn(self._keep, slot) for slot in range(len(self._slots))]
            greenlets.append(gevent.spawn(self._announce))
            greenlets.append(gevent.spawn(self._watch))
            if self._arguments.reload:
                greenlets.append(gevent.spawn(self._look))
            self._over.wait()
            return self._end()
        finally:
            gevent.killall(greenlets)
            for worker in list(self._alive):
                worker.signal(signal.SIGKILL)
            for watcher in watchers:
                watcher.cancel()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # the interpreter shuts down
            if self._listener is not None:
                self._listener.close()

    # -- a worker's life

    def _begin(self, slot: int) -> Worker:
        worker = Worker(next(self._names), slot, self._folder)
        self._alive.add(worker)
        gevent.spawn(self._converse, worker)
        gevent.spawn(self._await_end, worker)
        return worker

    def _converse(self, worker: Worker) -> None:
        while (told := worker.control.receive()) is not None:
            worker.silence = 0.0
            if "alive" in told:
                continue
            if "files" in told:
                self._sources.add(told["files"], worker.since)
            elif "failure" in told:
                if told["failure"] not in self._printed:
                    self._printed.add(told["failure"])
                    _say(told["failure"])
                worker.control.send()
            elif "serving" in told:
                self._has_served = True
                worker.serving.set()
                worker.decided.set()
            else:
                worker.settings = told
                try:
                    listener = self._listen(told["host"], told["port"])
                except ConfigurationError as error:
                    self._fail(str(error))
                    return
                worker.control.send([listener.fileno()])

    def _listen(self, host: str, port: int) -> Any:
        """The listening socket, which the first worker's settings decide."""
        if self._listener is None:
            server = StreamServer(
                (host, port), lambda sock, address: None, backlog=SocketIOServer.backlog
            )
            try:
                server.init_socket()
            except OSError as error:
                raise listen_error(error, (host, port)) from error
            self._listener = server
        return self._listener.socket

    def _await_end(self, worker: Worker) -> None:
        how = worker.wait()
        self._alive.discard(worker)
        if not self._stopping and worker in self._slots:
            _say(f"worker {worker.name} (pid {worker.pid}) {how}")

    def _keep(self, slot: int) -> None:
        pause = 0.0
        worker = self._slots[slot]
        while True:
            worker.ended.wait()
            if self._stopping:
                return
            if self._slots[slot] is worker:
                if not worker.serving.is_set() and not self._has_served:
                    if not self._arguments.reload:
                        self._fail("no worker could be started: what is above says why")
                        return
                    self._again.wait()  # until a file has changed
                    pause = 0.0
                elif worker.serving.is_set() and time.monotonic() - worker.started > _SETTLED:
                    pause = 0.0
                else:
                    pause = min(pause * 2 or _MIN_DELAY, _MAX_DELAY)
                    _say(f"another worker follows in {pause:g} s")
                    self._again.wait(pause)
            if self._stopping:
                return
            if self._slots[slot] is worker:
                try:
                    self._slots[slot] = self._begin(slot)
                except OSError as error:  # no process, memory or descriptor is left
                    _say(f"no worker can be started: {error.strerror or error}")
                    self._again.wait(_RETRY)
                    continue
            worker = self._slots[slot]

    def _watch(self) -> None:
        """Replace workers whose event loop stands still."""
        last = time.monotonic()
        while True:
            gevent.sleep(_TICK)
            now = time.monotonic()
            elapsed, last = now - last, now
            # A supervisor that comes late was stopped, or the machine was suspended or overloaded;
            # so were the workers. Their time begins anew.
            is_late = elapsed > _LATE
            for worker in self._slots:
                timeout = worker.settings.get("timeout")
                if timeout is None or not worker.serving.is_set() or worker.is_aborted:
                    continue
                worker.silence = 0.0 if is_late else worker.silence + elapsed
                if worker.silence > timeout and not self._stopping:
                    worker.is_aborted = True
                    gevent.spawn(self._abort, worker, timeout)

    def _abort(self, worker: Worker, timeout: float) -> None:
        cause = (
            "it is stopped (SIGSTOP)" if worker.is_stopped() else "a handler blocks its event loop"
        )
        _say(
            f"worker {worker.name} (pid {worker.pid}) is replaced: {cause} for more than {timeout:g} s "
            "(SOCKETIO_WORKER_TIMEOUT)"
        )
        worker.signal(signal.SIGABRT)
        if not worker.ended.wait(_TO_ABORT):
            worker.signal(signal.SIGKILL)

    def _announce(self) -> None:
        """Say that it serves, when all do."""
        while not all(worker.serving.is_set() for worker in self._slots):
            for worker in self._slots:
                worker.decided.wait()
            gevent.sleep(0.05)
        assert self._listener is not None
        address = self._listener.socket.getsockname()
        plugins = self._slots[0].settings["plugins"]
        sys.stdout.write(app_factory.banner(self._arguments, address, plugins))
        sys.stdout.flush()

    # -- all of them

    def _ask_restart(self) -> None:
        self._restart_asked = True
        if not self._restarting and not self._stopping:
            self._restarting = True
            gevent.spawn(self._restart)

    def _restart(self) -> None:
        try:
            while self._restart_asked:
                self._restart_asked = False
                # Those who could not be started, or wait for their turn, begin at once.
                self._printed.clear()
                self._again.set()
                self._again.clear()
                for slot, old in enumerate(list(self._slots)):
                    if self._stopping or not self._replace(slot, old):
                        break
        finally:
            self._restarting = False

    def _replace(self, slot: int, old: Worker) -> bool:
        """Let a new worker take over; False if it cannot, and the old one goes on."""
        if old.ended.is_set():
            return True
        try:
            new = self._begin(slot)
        except OSError as error:
            _say(f"no worker can be started: {error.strerror or error}")
            return False
        if not new.decided.wait(_START_TIMEOUT) or not new.serving.is_set():
            new.signal(signal.SIGKILL)
            _say(f"worker {new.name} could not be started; worker {old.name} goes on as it was")
            return False
        if self._slots[slot] is not old:  # it died meanwhile, and has its successor
            old = new
        else:
            self._slots[slot] = new
        self._await(old, time.monotonic() + self._time_to_stop())
        return True

    def _await(self, worker: Worker, until: float) -> bool:
        """Have a worker end; True if it did so by itself."""
        worker.signal(signal.SIGTERM)
        if worker.ended.wait(max(0.0, until - time.monotonic())):
            return True
        _say(f"worker {worker.name} (pid {worker.pid}) does not end, and is killed")
        worker.signal(signal.SIGKILL)
        worker.ended.wait()
        return False

    def _look(self) -> None:
        while True:
            gevent.sleep(_LOOK)
            changed = self._sources.changed()
            if changed is not None:
                _say(f"{changed} has changed")
                self._ask_restart()

    # -- the end

    def _fail(self, why: str) -> None:
        if self._failure is None:
            self._failure = why
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._over.set()
        self._again.set()
        for worker in list(self._alive):
            worker.signal(signal.SIGTERM)  # again, if it comes again: then they hurry

    def _end(self) -> int:
        until = time.monotonic() + self._time_to_stop()
        ended = [self._await_last(worker, until) for worker in list(self._alive)]
        if self._failure is not None:
            raise ConfigurationError(self._failure)
        return 0 if all(ended) else 1

    def _await_last(self, worker: Worker, until: float) -> bool:
        if worker.ended.wait(max(0.0, until - time.monotonic())):
            return True
        return self._await(worker, until)

    def _time_to_stop(self) -> float:
        drains = [worker.settings.get("drain", 0.0) for worker in self._alive]
        # Telling clients, then handlers, then those who had to be interrupted and the interpreter.
        return float(max(drains, default=0.0)) + SocketIOServer.stop_timeout + 10.0


def _say(text: str) -> None:
    sys.stderr.write(f"webpy-socketio: {text}\n")
    sys.stderr.flush()
