"""The supervisor of several workers: starts, replaces and restarts them.

Each worker is a separate program, not a fork: it inherits the listening socket, but no state of
gevent or the application. The supervisor holds this socket, so connections in the backlog survive
the end of a worker. It does not import the application.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
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
from webpy_socketio.cli.running_servers import SUPERVISOR
from webpy_socketio.cli.systemd import Notifier
from webpy_socketio.cli.worker_metrics import MetricsEndpoint, WorkerState
from webpy_socketio.engine.workers.runtime_folder import make_runtime_folder
from webpy_socketio.engine.workers.status_socket import StatusSocket
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.server import SocketIOServer, listen_error
from webpy_socketio.version import __version__

__all__ = ["run"]

logger = logging.getLogger("webpy_socketio.supervisor")

#: Seconds before a worker that ended early is replaced: the first delay, doubled up to the second.
_MIN_DELAY, _MAX_DELAY = 0.5, 30.0

#: Seconds of running after which the end of a worker is not early.
_STABLE_TIME = 10.0

#: Seconds within which a replacement must accept connections.
_START_TIMEOUT = 60.0

#: Seconds between attempts to start a process while the system has no resources for one.
_RETRY_INTERVAL = 5.0

#: Seconds between two checks of the workers' heartbeats.
_WATCH_INTERVAL = 0.5

#: Seconds between two checks above which the supervisor itself was suspended.
_LATE_THRESHOLD = 1.0

#: Seconds for a worker to end after SIGABRT. A stopped worker does not end.
_ABORT_TIMEOUT = 1.0

#: Seconds for which a worker that stops may continue after a session has moved to another one.
_MOVE_TIMEOUT = 10.0

#: Seconds between two checks of the source files.
_RELOAD_INTERVAL = 0.5


def run(arguments: argparse.Namespace, listener: Any, notifier: Notifier) -> int:
    """Run the workers until a signal ends the supervisor; return the exit status.

    `listener` is a listening socket, or None for that of the settings.
    """
    folder = make_runtime_folder()
    try:
        return Supervisor(arguments, str(folder.path), listener, notifier).run()
    finally:
        folder.close()
        shutil.rmtree(folder.path, ignore_errors=True)


class Worker:
    """A worker process, as seen by the supervisor."""

    def __init__(self, name: int, slot: int, folder: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self.since = time.time_ns()
        #: The settings that it reported.
        self.settings: dict[str, Any] = {}
        self.serving = gevent.event.Event()
        self.ended = gevent.event.Event()
        #: Seconds since its last heartbeat, without the time in which the supervisor was suspended.
        self.silence = 0.0
        #: Number of sessions that it has left to other workers, and when the number has changed.
        self.released = 0
        self.released_at = 0.0
        #: Whether it was aborted because its event loop was blocked.
        self.is_aborted = False
        #: Set once it accepts connections or has ended.
        self.decided = gevent.event.Event()
        own_end, worker_end = pair()
        self.control = ControlChannel(own_end)
        descriptor = worker_end.fileno()
        with worker_end:
            self._process = subprocess.Popen(
                patched([*sys.argv[1:], "--as-worker", f"{descriptor}:{name}:{slot}:{folder}"]),
                pass_fds=[descriptor],
                # Ctrl-C must reach the supervisor only.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    def is_stopped(self) -> bool:
        """Return whether it was stopped by a signal; False if the system does not report it."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in ("T", "t")

    def signal(self, number: int) -> None:
        """Send it a signal if it still runs."""
        if not self.ended.is_set():
            self._process.send_signal(number)

    def wait(self) -> str:
        """Wait until it has ended, and return a description of how."""
        status: int = self._process.wait()
        self.control.close()
        self.ended.set()
        self.decided.set()
        if status >= 0:
            return f"ended with status {status}"
        return f"was killed by {signal.Signals(-status).name}"


class Supervisor:
    """Keeps the requested number of workers running."""

    def __init__(
        self, arguments: argparse.Namespace, folder: str, listener: Any, notifier: Notifier
    ) -> None:
        self._arguments = arguments
        self._folder = folder
        self._notifier = notifier
        self._names = itertools.count(1)
        self._slots: list[Worker] = []
        self._alive: set[Worker] = set()
        self._started = time.monotonic()
        #: The listening socket; None until the first worker has reported the address.
        self._listener = listener
        self._sources = Sources()
        self._failure: str | None = None
        #: Failures of workers that were printed since the last attempt.
        self._printed: set[str] = set()
        self._has_served = False
        self._stopping = False
        #: Serves the metrics of all workers, if SOCKETIO_METRICS_PORT is set.
        self._metrics: MetricsEndpoint | None = None
        #: Replaced workers, by reason.
        self._restarts = {"ended": 0, "blocked": 0, "requested": 0}
        #: Set when the supervisor should stop.
        self._stop_event = gevent.event.Event()
        #: Set to retry workers that could not be started.
        self._retry_event = gevent.event.Event()
        self._restarting = False
        self._restart_requested = False

    def run(self) -> int:
        """Start the workers, and return once all have ended."""
        watchers = [
            gevent.signal_handler(signal.SIGINT, self._request_stop),
            gevent.signal_handler(signal.SIGTERM, self._request_stop),
            gevent.signal_handler(signal.SIGHUP, self._request_restart),
        ]
        greenlets = []
        status = None
        try:
            status = StatusSocket(self._folder, SUPERVISOR, self._answer)
            self._slots = [self._spawn(slot) for slot in range(self._arguments.workers)]
            greenlets = [gevent.spawn(self._keep, slot) for slot in range(len(self._slots))]
            greenlets.append(gevent.spawn(self._announce))
            greenlets.append(gevent.spawn(self._watch))
            if self._arguments.reload:
                greenlets.append(gevent.spawn(self._watch_sources))
            self._stop_event.wait()
            return self._finish()
        finally:
            gevent.killall(greenlets)
            if self._metrics is not None:
                self._metrics.close()
            if status is not None:
                status.close()
            for worker in list(self._alive):
                worker.signal(signal.SIGKILL)
            for watcher in watchers:
                watcher.cancel()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # while the interpreter shuts down
            if self._listener is not None:
                self._listener.close()

    # -- one worker

    def _spawn(self, slot: int) -> Worker:
        worker = Worker(next(self._names), slot, self._folder)
        self._alive.add(worker)
        gevent.spawn(self._read_messages, worker)
        gevent.spawn(self._await_end, worker)
        return worker

    def _read_messages(self, worker: Worker) -> None:
        while (message := worker.control.receive()) is not None:
            worker.silence = 0.0
            if "alive" in message:
                if message["released"] != worker.released:
                    worker.released, worker.released_at = message["released"], time.monotonic()
                continue
            if "files" in message:
                self._sources.add(message["files"], worker.since)
            elif "failure" in message:
                if message["failure"] not in self._printed:
                    self._printed.add(message["failure"])
                    _print(message["failure"])
                worker.control.send()
            elif "serving" in message:
                try:
                    self._serve_metrics(message.get("metrics"))
                except ConfigurationError as error:
                    self._fail(str(error))
                    return
                self._has_served = True
                worker.serving.set()
                worker.decided.set()
            else:
                worker.settings = message
                try:
                    listener = self._listen(message["host"], message["port"])
                except ConfigurationError as error:
                    self._fail(str(error))
                    return
                worker.control.send([listener.fileno()])

    def _listen(self, host: str, port: int) -> Any:
        """Return the listening socket; the first worker's settings determine the address."""
        if self._listener is None:
            server = StreamServer(
                (host, port), lambda sock, address: None, backlog=SocketIOServer.backlog
            )
            try:
                server.init_socket()
            except OSError as error:
                raise listen_error(error, (host, port)) from error
            self._listener = server.socket
        return self._listener

    def _serve_metrics(self, settings: dict[str, Any] | None) -> None:
        """Listen for scrapes of all workers; the first worker's settings determine the address."""
        if settings is not None and self._metrics is None and not self._stopping:
            self._metrics = MetricsEndpoint(
                settings, self._folder, self._worker_states, self._restarts
            )

    def _answer(self, name: str) -> bytes:
        """Answer a query on the status socket."""
        return json.dumps({SUPERVISOR: self._describe}[name]()).encode()

    def _describe(self) -> dict[str, Any]:
        workers = [
            {
                "label": slot,
                "name": worker.name,
                "pid": worker.pid,
                "state": "serving" if worker.serving.is_set() else "starting",
            }
            for slot, worker in enumerate(self._slots, 1)
            if not worker.ended.is_set()
        ]
        return {
            "version": __version__,
            "pid": os.getpid(),
            "application": self._arguments.application,
            "uptime": round(time.monotonic() - self._started, 3),
            "requested": self._arguments.workers,
            "workers": workers,
            "restarts": self._restarts,
        }

    def _worker_states(self) -> list[WorkerState]:
        return [
            WorkerState(slot, worker.name, worker.serving.is_set() and not worker.ended.is_set())
            for slot, worker in enumerate(self._slots)
        ]

    def _await_end(self, worker: Worker) -> None:
        how = worker.wait()
        self._alive.discard(worker)
        if not self._stopping and worker in self._slots:
            self._restarts["blocked" if worker.is_aborted else "ended"] += 1
            _print(f"worker {worker.name} (pid {worker.pid}) {how}")

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
                        self._fail("no worker could be started; the cause is printed above")
                        return
                    self._retry_event.wait()  # until a source file changes
                    pause = 0.0
                elif worker.serving.is_set() and time.monotonic() - worker.started > _STABLE_TIME:
                    pause = 0.0
                else:
                    pause = min(pause * 2 or _MIN_DELAY, _MAX_DELAY)
                    _print(f"the worker is replaced in {pause:g} s")
                    self._retry_event.wait(pause)
            if self._stopping:
                return
            if self._slots[slot] is worker:
                try:
                    self._slots[slot] = self._spawn(slot)
                except OSError as error:  # out of processes, memory or descriptors
                    _print(f"no worker can be started: {error.strerror or error}")
                    self._retry_event.wait(_RETRY_INTERVAL)
                    continue
            worker = self._slots[slot]

    def _watch(self) -> None:
        """Replace workers whose event loop is blocked."""
        last = time.monotonic()
        while True:
            gevent.sleep(_WATCH_INTERVAL)
            now = time.monotonic()
            elapsed, last = now - last, now
            # A late supervisor was stopped, or the machine was suspended or overloaded, and so
            # were the workers: their time restarts.
            is_late = elapsed > _LATE_THRESHOLD
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
        _print(
            f"worker {worker.name} (pid {worker.pid}) is replaced: {cause} for more than "
            f"{timeout:g} s (SOCKETIO_WORKER_TIMEOUT)"
        )
        worker.signal(signal.SIGABRT)
        if not worker.ended.wait(_ABORT_TIMEOUT):
            worker.signal(signal.SIGKILL)

    def _announce(self) -> None:
        """Print the banner once all workers accept connections."""
        while not all(worker.serving.is_set() for worker in self._slots):
            for worker in self._slots:
                worker.decided.wait()
            gevent.sleep(0.05)
        assert self._listener is not None
        self._notifier.ready()
        address = self._listener.getsockname()
        plugins = self._slots[0].settings["plugins"]
        metrics = None if self._metrics is None else self._metrics.address
        sys.stdout.write(app_factory.banner(self._arguments, address, plugins, metrics))
        sys.stdout.flush()

    # -- all workers

    def _request_restart(self) -> None:
        self._restart_requested = True
        if not self._restarting and not self._stopping:
            self._restarting = True
            gevent.spawn(self._restart)

    def _restart(self) -> None:
        self._notifier.reloading()
        try:
            while self._restart_requested:
                self._restart_requested = False
                # Workers that wait for a retry are started at once.
                self._printed.clear()
                self._retry_event.set()
                self._retry_event.clear()
                for slot, old in enumerate(list(self._slots)):
                    if self._stopping or not self._replace(slot, old):
                        break
        finally:
            self._restarting = False
            if self._has_served and not self._stopping:
                self._notifier.ready()

    def _replace(self, slot: int, old: Worker) -> bool:
        """Replace a worker; return False if the new one does not start and the old one stays."""
        if old.ended.is_set():
            return True
        try:
            new = self._spawn(slot)
        except OSError as error:
            _print(f"no worker can be started: {error.strerror or error}")
            return False
        if not new.decided.wait(_START_TIMEOUT) or not new.serving.is_set():
            new.signal(signal.SIGKILL)
            _print(f"worker {new.name} could not be started; worker {old.name} continues")
            return False
        if self._slots[slot] is not old:  # it ended meanwhile, and was replaced
            old = new
        else:
            self._slots[slot] = new
            self._restarts["requested"] += 1
        self._terminate(old, time.monotonic() + self._time_to_stop())
        return True

    def _terminate(self, worker: Worker, until: float) -> bool:
        """Stop a worker; return whether it ended before `until`.

        A worker that leaves its sessions to others has more time.
        """
        worker.signal(signal.SIGTERM)
        if _wait_for_end(worker, until):
            return True
        _print(f"worker {worker.name} (pid {worker.pid}) does not end, and is killed")
        worker.signal(signal.SIGKILL)
        worker.ended.wait()
        return False

    def _watch_sources(self) -> None:
        while True:
            gevent.sleep(_RELOAD_INTERVAL)
            changed = self._sources.changed()
            if changed is not None:
                _print(f"{changed} has changed")
                self._request_restart()

    # -- stop

    def _fail(self, why: str) -> None:
        if self._failure is None:
            self._failure = why
        self._stop()

    def _request_stop(self) -> None:
        """Stop; for SOCKETIO_DRAIN_DELAY, the workers first report that they drain."""
        delays = [worker.settings.get("drain_delay", 0.0) for worker in self._alive]
        delay = max(delays, default=0.0)
        if self._stopping or not delay:
            self._stop()
            return
        self._begin_stop()
        for worker in list(self._alive):
            worker.control.send(draining=True)
        gevent.spawn_later(delay, self._stop_once)

    def _stop_once(self) -> None:
        if not self._stop_event.is_set():
            self._stop()

    def _begin_stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._notifier.stopping()

    def _stop(self) -> None:
        self._begin_stop()
        self._stop_event.set()
        self._retry_event.set()
        for worker in list(self._alive):
            worker.signal(signal.SIGTERM)  # a second SIGTERM makes them stop at once

    def _finish(self) -> int:
        until = time.monotonic() + self._time_to_stop()
        ended = [self._wait_or_terminate(worker, until) for worker in list(self._alive)]
        if self._failure is not None:
            raise ConfigurationError(self._failure)
        return 0 if all(ended) else 1

    def _wait_or_terminate(self, worker: Worker, until: float) -> bool:
        if _wait_for_end(worker, until):
            return True
        return self._terminate(worker, until)

    def _time_to_stop(self) -> float:
        drains = [worker.settings.get("drain", 0.0) for worker in self._alive]
        # Draining, then the handlers, then interrupted handlers and the interpreter's shutdown.
        return float(max(drains, default=0.0)) + SocketIOServer.stop_timeout + 10.0


def _wait_for_end(worker: Worker, until: float) -> bool:
    """Wait until a worker has ended, or no sessions move any more; return whether it has ended."""
    while True:
        seconds = max(until, worker.released_at + _MOVE_TIMEOUT) - time.monotonic()
        if worker.ended.wait(max(0.0, seconds)):
            return True
        if seconds <= 0:
            return False


def _print(text: str) -> None:
    if logger.hasHandlers():  # --log-format json
        logger.warning("%s", text)
        return
    sys.stderr.write(f"webpy-socketio: {text}\n")
    sys.stderr.flush()
