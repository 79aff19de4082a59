"""The other processes of a cluster: their reports to admins here, and this one's to theirs.

Processes exchange events (`Runtime.emit_to_servers`). A process with an admin renews its lease
every few seconds; the others report to it until the lease has expired. Without an admin anywhere,
nothing is sent.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from webpy_socketio import (
    BackplaneError,
    CallTimeout,
    EncodeError,
    NoSocket,
    Runtime,
    call_later,
    monotonic,
)
from webpy_socketio.plugins.admin.commands import Commands
from webpy_socketio.plugins.admin.remote import RemoteProcess
from webpy_socketio.plugins.admin.reporter import Reporter
from webpy_socketio.plugins.admin.sink import ClusterSink

__all__ = ["EVENT", "AdminCluster", "cluster_of", "clusters"]

logger = logging.getLogger("webpy_socketio.admin")

#: Name of the events between processes.
EVENT = "webpy_socketio.admin"

#: Seconds between two renewals of a lease, and those after which a process is forgotten.
RENEWAL, LEASE = 3.0, 10.0

#: Seconds for other processes to execute a command.
COMMAND_TIMEOUT = 5.0

#: Session ids of other processes that are remembered.
MAX_SESSIONS = 256

#: Processes that are shown, and that may watch. Further ones are ignored.
MAX_PROCESSES = 256


class AdminCluster:
    """The plugin in one process of a cluster; for the hub's thread only.

    Args:
        settings: Settings of the server that installs the plugin.
        runtime: Its runtime.
    """

    def __init__(self, settings: Any, runtime: Runtime) -> None:
        names = tuple(name for name in settings.namespaces if isinstance(name, str))
        self._runtime = runtime
        self._is_enabled = settings.backplane is not None
        #: Identifies this process in events; new for each start.
        self._id = secrets.token_hex(8)
        self._commands = Commands(names, settings.admin_readonly, runtime)
        #: Reports to the admins of other processes.
        self._reporter = Reporter(
            names, settings.admin_mode == "development", settings.outbox_bytes, runtime
        )
        self._sink = ClusterSink(self._id, lambda *args: self._send(*args))
        #: Other processes with admins, and the times at which their leases expire.
        self._watchers: dict[str, float] = {}
        self._lease_timer: Any = None
        #: Reporters of this process that have admins.
        self._local: dict[Reporter, None] = {}
        self._renewal_timer: Any = None
        #: Other processes, by their ids.
        self._processes: dict[str, RemoteProcess] = {}
        #: Digests of session ids that other processes have issued: signature and expiry.
        self._sessions: OrderedDict[str, tuple[str, float]] = OrderedDict()
        runtime.signals.cluster_event.connect(self._receive)

    def close(self) -> None:
        """Stop reporting and watching."""
        self._runtime.signals.cluster_event.disconnect(self._receive)
        self._unwatch()
        self._stop_reporting()

    def _send(self, *args: Any) -> None:
        if not self._is_enabled:
            return
        try:
            self._runtime.emit_to_servers(EVENT, *args)
        except (NoSocket, BackplaneError, EncodeError) as error:
            logger.debug("admins of other processes are not informed: %s", str(error))

    # -- session ids

    def publish_session(self, digest: str, signature: str, seconds: float) -> None:
        """Make a session id valid in all processes; they receive only its digest."""
        self._send("session", self._id, digest, signature, seconds)

    def find_session(self, digest: str) -> str | None:
        """Return the signature of a session id that another process has issued, or None."""
        signature, expires = self._sessions.get(digest, ("", 0.0))
        return signature if expires > monotonic() else None

    def _add_session(self, digest: str, signature: str, seconds: float) -> None:
        self._sessions[digest] = signature, monotonic() + seconds
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    # -- admins of this process

    def watch(self, reporter: Reporter) -> None:
        """Show other processes to the admins of a reporter."""
        if not self._is_enabled or reporter in self._local:
            return
        self._local[reporter] = None
        if self._renewal_timer is None:
            self._renew()
        else:
            reporter.refresh()

    def unwatch(self, reporter: Reporter) -> None:
        """Handle that a reporter has no more admins."""
        self._local.pop(reporter, None)
        if not self._local:
            self._unwatch()

    def descriptions(self, limit: int, max_bytes: int) -> list[dict[str, Any]]:
        """Return the sockets of other processes, an equal share of each process.

        Args:
            limit: Maximum number of sockets.
            max_bytes: Maximum of their approximate bytes.
        """
        count = max(1, len(self._processes))
        return [
            description
            for process in self._processes.values()
            for description in process.descriptions(max(1, limit // count), max_bytes // count)
        ]

    def _renew(self) -> None:
        self._renewal_timer = call_later(RENEWAL, self._renew)
        now = monotonic()
        for process in [each for each in self._processes.values() if each.expires <= now]:
            self._forget(process, "the process has ended")
        self._send("watch", self._id, LEASE)

    def _unwatch(self) -> None:
        if self._renewal_timer is not None:
            self._renewal_timer.close()
            self._renewal_timer = None
            self._send("unwatch", self._id)
        self._processes.clear()
        self._local.clear()

    def _forget(self, process: RemoteProcess, reason: str) -> None:
        del self._processes[process.id]
        process.close(reason, list(self._local))

    def _receive_report(self, sender: str, number: int, events: list[Any]) -> None:
        if not self._local:
            return
        process = self._processes.get(sender)
        if process is None:
            if len(self._processes) >= MAX_PROCESSES:
                return
            process = self._processes[sender] = RemoteProcess(sender)
        process.expires = monotonic() + LEASE
        if not process.receive(number, events, list(self._local)):
            self._send("resend", self._id, sender)

    # -- admins of other processes

    def _add_watcher(self, sender: str, lease: float) -> None:
        is_new = sender not in self._watchers
        if is_new and len(self._watchers) >= MAX_PROCESSES:
            return
        self._watchers[sender] = monotonic() + lease
        if self._lease_timer is None:
            self._lease_timer = call_later(RENEWAL, self._check_leases)
            self._reporter.add(self._sink)
        elif is_new:
            self._sink.restart(self._reporter)

    def _remove_watcher(self, sender: str) -> None:
        if self._watchers.pop(sender, None) is not None and not self._watchers:
            self._stop_reporting()

    def _check_leases(self) -> None:
        now = monotonic()
        for sender in [each for each, expires in self._watchers.items() if expires <= now]:
            del self._watchers[sender]
        if self._watchers:
            self._lease_timer = call_later(RENEWAL, self._check_leases)
        else:
            self._stop_reporting()

    def _stop_reporting(self) -> None:
        if self._lease_timer is not None:
            self._lease_timer.close()
            self._lease_timer = None
            self._reporter.remove(self._sink)
            self._sink.close()
            self._send("end", self._id)
        self._watchers.clear()

    # -- commands

    def command(self, mode: str, name: str, args: Sequence[Any]) -> tuple[int, list[str]]:
        """Execute a command in all other processes; waits for them.

        Args:
            mode: See `Commands.execute_for`.
            name: Name of the command.
            args: Its arguments.

        Returns:
            The number of sockets, and errors.
        """
        if not self._is_enabled:
            return 0, []
        errors: list[str] = []
        try:
            answers = self._runtime.emit_to_servers(
                EVENT, "command", self._id, mode, name, list(args), timeout=COMMAND_TIMEOUT
            )
        except CallTimeout as timeout:
            answers = timeout.answers
            count = timeout.silent_processes
            noun = "process" if count == 1 else "processes"
            errors.append(f"{count} {noun} did not answer within {COMMAND_TIMEOUT:g} s")
        except (BackplaneError, EncodeError) as error:
            return 0, [f"other processes cannot be reached: {error}"]
        count = 0
        for answer in answers.values():
            if isinstance(answer, dict):  # None without the plugin
                count += answer.get("sockets", 0)
                if answer.get("error"):
                    errors.append(str(answer["error"]))
        return count, errors

    # -- events of other processes

    def _receive(self, sender: Any, event: str, args: list[Any], **extra: Any) -> Any:
        if event != EVENT:
            return None
        try:
            kind, process, *rest = args
            if kind == "command":
                return self._commands.execute_for(*rest)
            if kind == "report":
                self._receive_report(process, *rest)
            elif kind == "watch":
                self._add_watcher(process, *rest)
            elif kind == "unwatch":
                self._remove_watcher(process)
            elif kind == "end" and process in self._processes:
                self._forget(self._processes[process], "the process has stopped")
            elif kind == "resend" and rest == [self._id] and self._lease_timer is not None:
                self._sink.restart(self._reporter)
            elif kind == "session":
                self._add_session(*rest)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            logger.debug("ignored an event of another version: %r", error)
        return None


def cluster_of(runtime: Runtime) -> AdminCluster | None:
    """Return the cluster of a runtime in which the plugin is installed."""
    return clusters.get(runtime)


#: The cluster of each runtime in which the plugin is installed.
clusters: dict[Runtime, AdminCluster] = {}
