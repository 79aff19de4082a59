"""Metrics for Prometheus: connections, messages and bytes both ways, what stages took, what went wrong.

Switched on by naming it in ``SOCKETIO_PLUGINS``; needs ``pip install "webpy_socketio[metrics]"``. They are
put into ``prometheus_client.REGISTRY``, or into ``SOCKETIO_METRICS_REGISTRY``, and shown wherever that
is shown; with ``SOCKETIO_METRICS_PORT`` on a port of their own, by default for this machine only.

Labels have names that handlers have: of an event by which it is registered, of a channel the pattern that
it matches. What clients make up is "other", so that nobody can make more series than there are handlers.

Each process counts for itself, and is scraped for itself.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio import ConfigurationError
from webpy_socketio.plugins.metrics.recorder import Recorder

__all__ = ["install", "port", "uninstall"]


class _Metrics:
    """The plugin, while it is switched on."""

    def __init__(self, settings: Any) -> None:
        exposition = _import()
        self.endpoint: Any = None
        self._tally = Recorder()
        self._collector = exposition.Collector(self._tally)
        self._registry = settings.metrics_registry
        if self._registry is None:
            self._registry = exposition.default_registry()
        self._registry.register(self._collector)
        if settings.metrics_port is not None:
            try:
                self.endpoint = exposition.Endpoint(settings, self._registry)
            except BaseException:
                self._registry.unregister(self._collector)
                raise
        self._tally.install()

    def close(self) -> None:
        self._tally.uninstall()
        self._registry.unregister(self._collector)
        if self.endpoint is not None:
            self.endpoint.close()


def _import() -> Any:
    """The module that knows prometheus_client; only now, to say how it is installed."""
    try:
        from webpy_socketio.plugins.metrics import exposition
    except ImportError as error:
        raise ConfigurationError(
            f'webpy_socketio.plugins.metrics needs the library "prometheus_client" ({error}): '
            'pip install "webpy_socketio[metrics]"'
        ) from error
    return exposition


_metrics: _Metrics | None = None


def install(settings: Any) -> None:
    """Begin at zero; called when the server starts.

    Raises `ConfigurationError` if prometheus_client is not there, or the port cannot be had.
    """
    global _metrics
    _metrics = _Metrics(settings)


def uninstall() -> None:
    """End; called when the server has stopped."""
    global _metrics
    if _metrics is not None:
        _metrics.close()
        _metrics = None


def port() -> int | None:
    """The port on which they are shown, if there is one: to be asked if the setting says 0."""
    return None if _metrics is None or _metrics.endpoint is None else _metrics.endpoint.port
