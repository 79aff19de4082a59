"""Running servers of this machine, found by the folders with their status sockets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gevent

from webpy_socketio.engine.workers.runtime_folder import PREFIX, STATUS_PREFIX, parent_folder
from webpy_socketio.engine.workers.status_socket import QueryError, query
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["SUPERVISOR", "RunningServer", "Sample", "find_server", "printable"]

#: Name of the supervisor's status socket.
SUPERVISOR = "supervisor"

#: Seconds for a process to answer.
TIMEOUT = 3.0


class Sample(NamedTuple):
    """The state of a server at one moment."""

    #: Status of the supervisor; None without one.
    supervisor: dict[str, Any] | None
    #: Status of each process that has answered.
    processes: list[dict[str, Any]]
    #: Name and pid of processes that have not, and the reason.
    silent: list[dict[str, Any]]


class RunningServer:
    """The processes of one server.

    Args:
        folder: The folder with their status sockets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sample(self) -> Sample:
        """Query all processes.

        Raises:
            ConfigurationError: No process has answered.
        """
        supervisor = self._query_supervisor()
        paths = self._sockets()
        tasks = {name: gevent.spawn(self._query, path) for name, path in paths.items()}
        gevent.joinall(list(tasks.values()))
        known = {str(each["name"]): each for each in (supervisor or {}).get("workers", [])}
        processes, silent = [], []
        for name in sorted({*tasks, *known}, key=lambda name: (len(name), name)):
            worker = known.get(name, {})
            if worker.get("state") == "starting":
                continue
            answer = tasks[name].value if name in tasks else "its status socket is missing"
            if isinstance(answer, str):
                silent.append({"worker": name, "pid": worker.get("pid"), "error": answer})
                continue
            if "label" in worker:
                answer["worker"] = worker["label"]
            processes.append(answer)
        if not processes and not supervisor:
            errors = "; ".join(each["error"] for each in silent) or "it has stopped"
            raise ConfigurationError(f"the server in {self.folder} does not answer: {errors}")
        return Sample(supervisor, processes, silent)

    def metrics(self) -> dict[str, str]:
        """Return the metrics of each process as text, by the label of the process.

        Raises:
            ConfigurationError: No process exports metrics.
        """
        supervisor = self._query_supervisor()
        known = {
            str(each["name"]): str(each["label"]) for each in (supervisor or {}).get("workers", [])
        }
        found: dict[str, str] = {}
        error: QueryError | None = None
        for name, path in self._sockets().items():
            if supervisor and name not in known:
                continue  # replaced, and about to end
            try:
                text = query(path, "metrics", TIMEOUT)
            except QueryError as failure:
                error = failure
            else:
                found[known.get(name, name)] = text.decode("utf-8", "replace")
        if not found:
            raise ConfigurationError(
                f"no process of the server in {self.folder} exports metrics ({error}): add "
                "the plugin metrics to SOCKETIO_PLUGINS"
            )
        return found

    def describe(self) -> str:
        """Return a line for a list of servers."""
        try:
            found = self.sample()
        except ConfigurationError:
            return f"{self.folder}  (does not answer)"
        first: dict[str, Any] = found.processes[0] if found.processes else {}
        supervisor = found.supervisor or first
        where = ", ".join(first.get("addresses", ())) or "no address"
        return printable(f"{self.folder}  {where}, pid {supervisor.get('pid')}")

    def _sockets(self) -> dict[str, Path]:
        """Return the status sockets of the processes by their names."""
        return {
            path.name.removeprefix(STATUS_PREFIX): path
            for path in _status_sockets(self.folder)
            if path.name != STATUS_PREFIX + SUPERVISOR
        }

    def _query_supervisor(self) -> dict[str, Any] | None:
        with contextlib.suppress(QueryError, ValueError):
            answer = query(self.folder / f"{STATUS_PREFIX}{SUPERVISOR}", SUPERVISOR, TIMEOUT)
            found: dict[str, Any] = json.loads(answer)
            return found
        return None

    def _query(self, path: Path) -> dict[str, Any] | str:
        """Return the status of a process, or the reason why there is none."""
        try:
            found: dict[str, Any] = json.loads(query(path, "status", TIMEOUT))
        except QueryError as error:
            return printable(str(error))
        except ValueError:
            return "its answer is not JSON"
        return found


def printable(text: str) -> str:
    """Return a text without control characters, which a terminal would execute.

    Args:
        text: What a process has answered, possibly one of another user.
    """
    return "".join(each if each.isprintable() else "?" for each in text)


def find_server(folder: str | None) -> RunningServer:
    """Return the server that runs on this machine.

    Args:
        folder: The folder of the server, or the temporary folder in which it is; None for the
            usual places.

    Raises:
        ConfigurationError: No server runs, several run, or they belong to another user.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError("status needs Unix sockets, which this system does not support")
    places = _places() if folder is None else [Path(folder)]
    found: list[Path] = []
    foreign: list[str] = []
    for path in _candidates(places):
        user = os.geteuid()
        try:
            if user not in (0, path.lstat().st_uid):  # it could show anything
                raise PermissionError
            is_running = any(_accepts(each) for each in _status_sockets(path))
        except PermissionError:
            foreign.append(f"{path} (user {path.lstat().st_uid})")
        else:
            if is_running:
                found.append(path)
    if len(found) == 1:
        return RunningServer(found[0])
    if found:
        lines = "\n".join(f"  {RunningServer(path).describe()}" for path in found)
        raise ConfigurationError(f"several servers run; choose one with --folder:\n{lines}")
    where = ", ".join(map(str, places))
    if foreign:
        raise ConfigurationError(
            f"no permission: the servers in {', '.join(foreign)} may run as other users; run this "
            "command as the user of the server"
        )
    raise ConfigurationError(
        f"no server of this user runs (looked in {where}). If it has another temporary folder "
        "(TMPDIR, or PrivateTmp= of systemd), name it with --folder; to show the servers of a "
        "cluster, name its Redis with --backplane"
    )


def _places() -> list[Path]:
    """Return the folders in which servers create their folders."""
    places = [parent_folder(), Path(f"/run/user/{os.geteuid()}"), Path(tempfile.gettempdir())]
    if os.geteuid() == 0:
        places += sorted(Path("/run/user").glob("*"))
    return list(dict.fromkeys(place for place in places if place.is_dir()))


def _candidates(places: list[Path]) -> Iterator[Path]:
    for place in places:
        try:
            if place.name.startswith(PREFIX):
                place.lstat()
                yield place
            else:
                for path in sorted(place.iterdir()):
                    if path.name.startswith(PREFIX) and stat.S_ISDIR(path.lstat().st_mode):
                        yield path
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise ConfigurationError(
                f"no permission to read {place}: run this command as the user of the server"
            ) from error


def _status_sockets(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.startswith(STATUS_PREFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(str(path))
        except PermissionError:
            raise
        except OSError:
            return False
        return True
