"""History: the last messages of channels, for new subscribers and after a lost connection.

Add the plugin to ``SOCKETIO_PLUGINS``, and set the channels whose messages are stored::

    SOCKETIO_HISTORY = {"^room-": {"size": 100, "ttl": 3600}}

A message that the server sends to such a channel is stored with its event and arguments, unless it
is volatile or sent with ``local=True``. Messages of processes without this plugin, such as cron
jobs and emitters in other languages, are delivered but not stored. Each stored message has an
offset; the numbering has an epoch, which changes when stored messages were lost or removed before
their time. A position is an epoch with an offset.

A page of the browser extension subscribes with ``socket.subscribe("room-1", {history: 50})``. It
receives the last messages before newer ones, and continues from its last position after a
reconnect. Other clients send the event ``history``. The server reads with `messages`::

    from webpy_socketio.plugins import history

    history.messages("room-1", limit=20)
    history.clear("room-1")

Without a backplane the messages are stored in memory, with ``SOCKETIO_BACKPLANE`` in Redis. Only
then `messages` and `clear` work in processes without a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webpy_socketio import (
    CallerError,
    ConfigurationError,
    Runtime,
    connect_redis,
    default_runtime,
)
from webpy_socketio.plugins.history.runtime_history import (
    Rules,
    RuntimeHistory,
    check_since,
    describe,
    limits_of,
)
from webpy_socketio.plugins.history.scripts import Names, parse_page, run_call
from webpy_socketio.plugins.history.store import Page

__all__ = ["Messages", "clear", "install", "messages", "uninstall"]

#: Seconds that a process without a server waits for Redis.
_TIMEOUT = 1.0

#: The history of each runtime in which the plugin is installed.
_installed: dict[Runtime, RuntimeHistory] = {}


@dataclass(frozen=True)
class Messages:
    """Stored messages of a channel."""

    #: The messages in their order: dicts with ``offset``, ``time`` (Unix time in seconds),
    #: ``event`` and ``args``.
    messages: list[dict[str, Any]]
    #: Epoch of the offsets.
    epoch: str
    #: Offset of the last message, for the next ``since``.
    offset: int
    #: Whether no message after ``since`` is missing.
    recovered: bool


def install(settings: Any, runtime: Runtime) -> None:
    """Connect to the signals and open the store; called when the server starts.

    Args:
        settings: Settings of the server.
        runtime: Runtime of the server, whose messages are stored.
    """
    _installed[runtime] = RuntimeHistory(settings, runtime)


def uninstall(runtime: Runtime) -> None:
    """Disconnect from the signals and close the store; called after the server has stopped."""
    history = _installed.pop(runtime, None)
    if history is not None:
        history.close()


def messages(
    channel: str,
    *,
    limit: int = 100,
    since: tuple[str, int] | None = None,
    namespace: str = "/",
    runtime: Runtime = default_runtime,
) -> Messages:
    """Return stored messages of a channel.

    May be called in any greenlet or thread, but with a backplane not on the hub.

    Args:
        channel: Name of the channel.
        limit: Maximum number of messages.
        since: Epoch and offset: return the first messages after this position. Default: the last
            ones. If the position is not valid any more, the last ones are returned, and
            ``recovered`` is False.
        namespace: Socket.IO namespace.
        runtime: Runtime whose messages are stored.

    Raises:
        BackplaneError: Redis did not reply within a second.
        CallerError: `limit` is not an integer from 0 to 10,000.
        ConfigurationError: Neither this plugin nor a backplane is configured in this process.
    """
    if type(limit) is not int or not 0 <= limit <= 10_000:
        raise CallerError(f"limit is {limit!r}, but must be an integer from 0 to 10,000")
    target = (namespace, channel)
    history = _installed.get(runtime)
    if history is not None:
        page, recovered = runtime.run_on_hub(history.fetch, target, limit, since)
    else:
        page, recovered = _read(runtime, target, limit, since)
    entries = [describe(entry) for entry in page.entries]
    offset = entries[-1]["offset"] if entries else page.tail
    return Messages(entries, page.epoch, offset, recovered)


def clear(channel: str, *, namespace: str = "/", runtime: Runtime = default_runtime) -> None:
    """Remove the stored messages of a channel; clients that follow it learn about a gap.

    May be called in any greenlet or thread, but with a backplane not on the hub.

    Args:
        channel: Name of the channel.
        namespace: Socket.IO namespace.
        runtime: Runtime whose messages are stored.

    Raises:
        BackplaneError: Redis did not reply within a second.
        ConfigurationError: Neither this plugin nor a backplane is configured in this process.
    """
    target = (namespace, channel)
    history = _installed.get(runtime)
    if history is not None:
        runtime.run_on_hub(history.store.clear, target)
    else:
        _call(runtime, lambda names: names.clear(target))


def _read(
    runtime: Runtime, target: tuple[str, str], limit: int, since: tuple[str, int] | None
) -> tuple[Page, bool]:
    rule = Rules(runtime.configured().history).find(target)
    if rule is None:
        return Page("", 0), since is None

    def read_last() -> Page:
        return parse_page(_call(runtime, lambda names: names.read_last(target, limit, rule.ttl)))

    if since is None:
        return read_last(), True
    offset = since[1]
    answer = _call(runtime, lambda names: names.read(target, offset, limit, rule.ttl))
    return check_since(parse_page(answer), since, read_last)


def _call(runtime: Runtime, call: Any) -> Any:
    """Call the script in a process in which the plugin is not installed."""
    settings = runtime.configured()
    if settings.backplane is None:
        raise ConfigurationError(
            "history is not installed: add webpy_socketio.plugins.history to SOCKETIO_PLUGINS, and "
            "start the server in this process; or set SOCKETIO_BACKPLANE to read from other "
            "processes"
        )
    redis = connect_redis(settings.backplane, _TIMEOUT)
    try:
        names = Names(settings.backplane, settings.backplane_prefix, limits_of(settings))
        return run_call(redis, call(names))
    finally:
        redis.close()
