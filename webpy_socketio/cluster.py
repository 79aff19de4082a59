"""This process's way to the others, if it has one: through its servers' backplane, or without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import web

from webpy_socketio.backplane import MAX_BYTES, Topic
from webpy_socketio.config import settings as settings_module
from webpy_socketio.config.settings import Settings
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.registry import ForkedClients, Limits, registry

if TYPE_CHECKING:
    from webpy_socketio.backplane.connection import RedisConnection

__all__ = [
    "abandon",
    "configured",
    "connect_redis",
    "is_forked",
    "join",
    "leave",
    "limits",
    "limits_of",
    "publish_and_count",
    "serving",
]


class _State:
    """What there is one of in a process."""

    #: Servers that run.
    servers = 0
    #: Where and under which prefix, as they were told; (None, ...) for nowhere.
    place: tuple[str | None, str] = (None, "")
    #: For a process without servers: its own place, limits and connection.
    alone: tuple[tuple[str | None, str], Limits, Any] | None = None
    #: For a process that was forked from one with servers: their place.
    inherited: tuple[str | None, str] = (None, "")


def configured() -> Settings:
    """The settings that a server made now without keywords would have; raises `SettingsError`.

    For a process without a server: a cron job, a shell. A plugin's ``install`` is given the server's.
    """
    return settings_module.resolve({}, web.config)


def connect_redis(url: str, timeout: float) -> RedisConnection:
    """Open a connection to Redis for a plugin's own use, which is open until its first failure.

    `timeout` is in seconds, the longest that an answer is waited for. ``link.execute(*commands)`` returns
    a reply to each; ``link.subscribe(topics)``, ``link.unsubscribe(topics)`` and ``link.read()`` are for
    listening, ``link.send(*words)`` for whatever else is not answered at once; ``link.close()`` ends it.
    Each raises `BackplaneError` once it has ended, and it never comes back: open another.
    """
    link: RedisConnection = _import().RedisConnection(url, timeout)
    return link


def limits_of(settings: Settings) -> Limits:
    """What sockets may do under these settings."""
    outbox = settings.outbox_bytes
    return Limits(
        settings.max_channels,
        settings.max_channel_length,
        outbox,
        outbox if settings.backplane is None else min(outbox, MAX_BYTES),
    )


def join(settings: Settings) -> None:
    """A server starts: the first one of a process opens the way to the others.

    Raises `ConfigurationError` if another one of this process has another way.
    """
    place = (settings.backplane, settings.backplane_prefix)
    if _State.servers and place != _State.place:
        raise ConfigurationError(
            "another server of this process has another SOCKETIO_BACKPLANE; they share their clients"
        )
    if not _State.servers and settings.backplane is not None:
        registry.backplane = _import().RedisBackplane(*place, registry.receive)
    _State.servers += 1
    _State.place = place


def leave() -> None:
    """A server has stopped; the last one closes it."""
    _State.servers -= 1
    if not _State.servers and registry.backplane is not None:
        backplane, registry.backplane = registry.backplane, None
        backplane.stop()


def abandon() -> None:
    """Forget the servers, in a forked process: they run in its parent."""
    registry.abandon()
    if _State.servers:
        _State.inherited = _State.place
    _State.servers = 0
    _State.alone = None


def is_forked() -> bool:
    """Return whether this process was forked from one that serves, and does not serve itself."""
    return not _State.servers and isinstance(registry, ForkedClients)


def serving() -> bool:
    """Whether a server runs in this process, or others are reached without one."""
    return bool(_State.servers) or _place()[0] is not None


def limits() -> Limits:
    """The limits for what comes from no socket."""
    if _State.servers:
        return registry.limits
    place = _place()
    if place[0] is None:
        return registry.limits
    return _alone(place)[1]


def publish_and_count(message: Message, topic: Topic) -> bool:
    """Send to other processes; returns whether anybody is there. Raises `BackplaneError`."""
    if _State.servers:
        if registry.backplane is None:
            return False
        return bool(registry.run_on_hub(registry.backplane.publish_and_count, message, topic))
    place = _place()
    return place[0] is not None and bool(_alone(place)[2].publish_and_count(message, topic))


def _place() -> tuple[str | None, str]:
    place: tuple[str | None, str] = settings_module.backplane(web.config)
    return _State.inherited if place[0] is None else place


def _alone(place: tuple[str | None, str]) -> tuple[tuple[str | None, str], Limits, Any]:
    known = _State.alone
    if known is None or known[0] != place:
        known = (place, limits_of(configured()), _import().RedisSender(*place))
        _State.alone = known
    return known


def _import() -> Any:
    """The module that knows Redis; only now, as most processes do without."""
    try:
        from webpy_socketio.backplane import redis
    except ImportError as error:
        raise ConfigurationError(
            f'SOCKETIO_BACKPLANE needs the library "redis" ({error}): '
            'pip install "webpy_socketio[redis]"'
        ) from error
    return redis
