"""The connection of this process to other processes: the backplane of its servers, or a sender."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import web

from webpy_socketio.backplane import MAX_BYTES, Topic
from webpy_socketio.config import settings as settings_module
from webpy_socketio.config.settings import Settings
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.exceptions import ConfigurationError
from webpy_socketio.registry import ForkedRegistry, Limits, registry

if TYPE_CHECKING:
    from webpy_socketio.backplane.connection import RedisConnection

__all__ = [
    "configured",
    "connect_redis",
    "is_forked",
    "join",
    "leave",
    "limits",
    "limits_of",
    "publish_and_count",
    "reset_after_fork",
    "serving",
]


class _State:
    """The state of the cluster in this process."""

    #: Number of running servers.
    servers = 0
    #: URL and topic prefix of the backplane of the running servers; the URL is None without one.
    address: tuple[str | None, str] = (None, "")
    #: In a process without servers: backplane address, limits and sender.
    standalone: tuple[tuple[str | None, str], Limits, Any] | None = None
    #: In a process forked from a server: the parent's backplane address.
    inherited: tuple[str | None, str] = (None, "")


def configured() -> Settings:
    """Return the settings that a server created now without keywords would have.

    For processes without a server, such as cron jobs and shells. The ``install`` function of a
    plugin receives the settings of its server.

    Raises:
        SettingsError: A setting has an unknown name or an invalid value.
    """
    return settings_module.resolve({}, web.config)


def connect_redis(url: str, timeout: float) -> RedisConnection:
    """Open a connection to Redis for a plugin.

    The connection closes at its first failure; open another one to reconnect.

    ``connection.execute(*commands)`` returns one reply for each command.
    ``connection.subscribe(topics)``, ``connection.unsubscribe(topics)`` and ``connection.read()``
    are for Pub/Sub, ``connection.send(*words)`` for other commands without a reply, and
    ``connection.close()`` closes it. Each raises `BackplaneError` after the connection has closed.

    Args:
        url: Redis URL, as in ``SOCKETIO_BACKPLANE``.
        timeout: Longest wait for a reply, in seconds.

    Returns:
        The open connection.

    Raises:
        BackplaneError: Redis cannot be reached.
        ConfigurationError: The library ``redis`` is not installed.
    """
    connection: RedisConnection = _import().RedisConnection(url, timeout)
    return connection


def limits_of(settings: Settings) -> Limits:
    """Return the limits of sockets that follow from `settings`."""
    outbox = settings.outbox_bytes
    return Limits(
        settings.max_channels,
        settings.max_channel_length,
        outbox,
        outbox if settings.backplane is None else min(outbox, MAX_BYTES),
    )


def join(settings: Settings) -> None:
    """Register a server that starts; the first one of a process opens the backplane.

    Raises:
        ConfigurationError: Another server of this process uses a different backplane.
    """
    address = (settings.backplane, settings.backplane_prefix)
    if _State.servers and address != _State.address:
        raise ConfigurationError(
            "another server of this process uses a different SOCKETIO_BACKPLANE; servers of one "
            "process share their clients and must use the same backplane"
        )
    if not _State.servers and settings.backplane is not None:
        registry.backplane = _import().RedisBackplane(*address, registry.receive)
    _State.servers += 1
    _State.address = address


def leave() -> None:
    """Unregister a server that has stopped; the last one closes the backplane."""
    _State.servers -= 1
    if not _State.servers and registry.backplane is not None:
        backplane, registry.backplane = registry.backplane, None
        backplane.stop()


def reset_after_fork() -> None:
    """Discard the state of the parent process in a forked child, where its servers do not run."""
    registry.reset_after_fork()
    if _State.servers:
        _State.inherited = _State.address
    _State.servers = 0
    _State.standalone = None


def is_forked() -> bool:
    """Return whether this process was forked from a server process and runs no server itself."""
    return not _State.servers and isinstance(registry, ForkedRegistry)


def serving() -> bool:
    """Return whether a server runs in this process, or a backplane reaches other processes."""
    return bool(_State.servers) or _configured_address()[0] is not None


def limits() -> Limits:
    """Return the limits for messages that are not sent by a socket."""
    if _State.servers:
        return registry.limits
    address = _configured_address()
    if address[0] is None:
        return registry.limits
    return _standalone(address)[1]


def publish_and_count(message: Message, topic: Topic) -> bool:
    """Send to other processes and return whether any of them received the message.

    Raises:
        BackplaneError: Redis did not answer.
    """
    if _State.servers:
        if registry.backplane is None:
            return False
        return bool(registry.run_on_hub(registry.backplane.publish_and_count, message, topic))
    address = _configured_address()
    return address[0] is not None and bool(
        _standalone(address)[2].publish_and_count(message, topic)
    )


def _configured_address() -> tuple[str | None, str]:
    address: tuple[str | None, str] = settings_module.backplane(web.config)
    return _State.inherited if address[0] is None else address


def _standalone(address: tuple[str | None, str]) -> tuple[tuple[str | None, str], Limits, Any]:
    known = _State.standalone
    if known is None or known[0] != address:
        known = (address, limits_of(configured()), _import().RedisSender(*address))
        _State.standalone = known
    return known


def _import() -> Any:
    """Import the Redis module on first use; most processes do not need it."""
    try:
        from webpy_socketio.backplane import redis
    except ImportError as error:
        raise ConfigurationError(
            f'SOCKETIO_BACKPLANE needs the library "redis" ({error}): '
            'pip install "webpy_socketio[redis]"'
        ) from error
    return redis
