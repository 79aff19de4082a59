"""The status of a server as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from webpy_socketio.cli.running_servers import Sample, printable
from webpy_socketio.version import __version__

__all__ = ["add_rates", "as_json", "report"]

Process = dict[str, Any]

#: Columns of the table: heading, and the text of a process. The first two are aligned left.
_COLUMNS: tuple[tuple[str, Callable[[Process], str]], ...] = (
    ("worker", lambda each: "-" if each["worker"] is None else str(each["worker"])),
    ("host", lambda each: str(each["host"])),
    ("pid", lambda each: str(each["pid"])),
    ("state", lambda each: "draining" if each["draining"] else "serving"),
    ("uptime", lambda each: _duration(each["uptime"])),
    ("sessions", lambda each: f"{_sessions(each):,}"),
    ("sockets", lambda each: f"{_sum(each, 'sockets'):,}"),
    ("channels", lambda each: f"{_sum(each, 'channels'):,}"),
    ("received/s", lambda each: _rate(each, "received")),
    ("sent/s", lambda each: _rate(each, "sent")),
    ("backlog", lambda each: _bytes(each["outbox_bytes"])),
    ("suspended", lambda each: "-" if each["recovery"] is None else _suspended(each)),
    ("Redis", lambda each: _redis(each["redis"])),
)


def add_rates(sample: Sample, before: Sample) -> None:
    """Add the messages per second since an earlier sample to each process that was in it."""
    earlier = {_key(each): each for each in before.processes}
    for each in sample.processes:
        old = earlier.get(_key(each))
        each["rates"] = None
        if old is not None and each["time"] > old["time"]:
            seconds = each["time"] - old["time"]
            each["rates"] = {
                name: round(max(0, count - old["messages"][name]) / seconds, 1)
                for name, count in each["messages"].items()
            }


def as_json(title: str, sample: Sample) -> dict[str, Any]:
    """Return the status as a value for JSON."""
    return {
        "version": __version__,
        "server": title,
        "supervisor": sample.supervisor,
        "processes": [
            {name: value for name, value in each.items() if name not in ("messages", "time")}
            for each in sample.processes
        ],
        "silent": sample.silent,
        "totals": {
            "processes": len(sample.processes),
            "sessions": sum(map(_sessions, sample.processes)),
            "sockets": sum(_sum(each, "sockets") for each in sample.processes),
            "outbox_bytes": sum(each["outbox_bytes"] for each in sample.processes),
            "rates": {
                name: round(
                    sum((each.get("rates") or {}).get(name, 0) for each in sample.processes)
                )
                for name in ("received", "sent")
            },
        },
    }


def report(title: str, sample: Sample) -> str:
    """Return the status as text."""
    lines = [f"webpy_socketio: {title}"]
    supervisor = sample.supervisor
    if supervisor is not None:
        restarts = ", ".join(f"{count} {name}" for name, count in supervisor["restarts"].items())
        lines.append(
            f"  supervisor {supervisor['pid']} of {supervisor['application']}, up "
            f"{_duration(supervisor['uptime'])}; restarts: {restarts}"
        )
    addresses = dict.fromkeys(url for each in sample.processes for url in each["addresses"])
    if addresses:
        lines.append(f"  address: {', '.join(addresses)}")
    lines += [f"  versions: {text}" for text in dict.fromkeys(map(_versions, sample.processes))]
    plugins = dict.fromkeys(name for each in sample.processes for name in each["plugins"])
    if plugins:
        lines.append(f"  plugins: {', '.join(name.rpartition('.')[2] for name in plugins)}")
    lines += [f"  {text}" for text in _redis_lines(sample.processes)]
    lines += ["", *_table(sample.processes)]
    for worker in (supervisor or {}).get("workers", ()):
        if worker["state"] == "starting":
            lines.append(f"worker {worker['label']} (pid {worker['pid']}) is starting")
    lines += [f"{_name(each)}: {each['error']}" for each in sample.silent]
    return "".join(f"{printable(line)}\n" for line in lines)


def _table(processes: Sequence[Process]) -> list[str]:
    if not processes:
        return ["no process has answered"]
    has_host = len({each["host"] for each in processes}) > 1
    columns = [column for column in _COLUMNS if has_host or column[0] != "host"]
    rows = [[text(each) for _, text in columns] for each in processes]
    if len(rows) > 1:
        rows.append(_totals(columns, processes))
    table = [[heading for heading, _ in columns], *rows]
    widths = [max(len(row[number]) for row in table) for number in range(len(columns))]
    return [
        "  ".join(
            text.ljust(width) if heading in ("worker", "host") else text.rjust(width)
            for text, width, (heading, _) in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in table
    ]


def _totals(columns: Sequence[tuple[str, Any]], processes: Sequence[Process]) -> list[str]:
    rates = [each.get("rates") or {} for each in processes]
    totals = {
        "worker": "all",
        "sessions": f"{sum(map(_sessions, processes)):,}",
        "sockets": f"{sum(_sum(each, 'sockets') for each in processes):,}",
        "received/s": f"{sum(each.get('received', 0) for each in rates):,.1f}",
        "sent/s": f"{sum(each.get('sent', 0) for each in rates):,.1f}",
        "backlog": _bytes(sum(each["outbox_bytes"] for each in processes)),
        "suspended": str(sum((each["recovery"] or {}).get("suspended", 0) for each in processes)),
    }
    return [totals.get(heading, "") for heading, _ in columns]


def _redis_lines(processes: Sequence[Process]) -> list[str]:
    found = [each["redis"] for each in processes if each["redis"] is not None]
    if not found:
        return []
    lost = ", ".join(
        f"{sum(each[name] for each in found)} {name}" for name in ("dropped", "ignored", "gaps")
    )
    addresses = ", ".join(dict.fromkeys(each["address"] for each in found))
    connected = sum(each["connected"] for each in found)
    lines = [f"Redis: {addresses}; {connected} of {len(found)} connected; lost messages: {lost}"]
    parked = [
        each["recovery"]["parked_bundles"]
        for each in processes
        if each["recovery"] is not None and each["recovery"]["parked_bundles"] is not None
    ]
    if parked:
        lines.append(f"recovery: {max(parked)} parked bundles of up to 100 sessions")
    return lines


def _key(process: Process) -> tuple[Any, ...]:
    return process["host"], process["pid"], process["started"]


def _name(silent: dict[str, Any]) -> str:
    if silent["worker"] is None:
        return "a server"
    pid = "" if silent["pid"] is None else f" (pid {silent['pid']})"
    return f"worker {silent['worker']}{pid}"


def _versions(process: Process) -> str:
    core = "native core" if process["native"] else "pure Python"
    return (
        f"webpy_socketio {process['version']} ({core}), Python {process['python']}, "
        f"gevent {process['gevent']}"
    )


def _sessions(process: Process) -> int:
    return _sum(process, "sessions")


def _sum(process: Process, name: str) -> int:
    return sum(process[name].values())


def _rate(process: Process, name: str) -> str:
    rates = process.get("rates")
    return "-" if rates is None else f"{rates[name]:,.1f}"


def _suspended(process: Process) -> str:
    return str(process["recovery"]["suspended"])


def _redis(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if not found["connected"] or found["latency"] is None:
        return "unreachable"
    return f"{found['latency'] * 1000:.1f} ms"


def _bytes(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def _duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
