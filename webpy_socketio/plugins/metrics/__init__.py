"""Prometheus metrics: connections, messages, bytes, handler durations and errors.

Add the plugin to ``SOCKETIO_PLUGINS``; it needs ``pip install "webpy_socketio[metrics]"``. The
metrics are registered in ``prometheus_client.REGISTRY``, or in ``SOCKETIO_METRICS_REGISTRY``. With
``SOCKETIO_METRICS_PORT`` they are also served on a separate port, by default on the loopback
interface only.

Labels are names of handlers: an event's label is its registered name, a channel's label is the
pattern that it matches. Names chosen by clients are labelled "other", so that clients cannot create
new time series.

Each process counts its own events and must be scraped separately.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio import ConfigurationError
from webpy_socketio.plugins.metrics.recorder import Recorder

__all__ = ["install", "port", "uninstall"]


class _Metrics:
    """State of the plugin while it is installed."""

    def __init__(self, settings: Any) -> None:
        exposition = _import()
        self.endpoint: Any = None
        self._recorder = Recorder()
        self._collector = exposition.Collector(self._recorder)
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
        self._recorder.install()

    def close(self) -> None:
        self._recorder.uninstall()
        self._registry.unregister(self._collector)
        if self.endpoint is not None:
            self.endpoint.close()


def _import() -> Any:
    """Import the module that needs prometheus_client."""
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
    """Start counting at zero; called when the server starts.

    Args:
        settings: Settings of the server.

    Raises:
        ConfigurationError: prometheus_client is not installed.
        ListenError: The address of the endpoint is not available.
    """
    global _metrics
    _metrics = _Metrics(settings)


def uninstall() -> None:
    """Stop counting and close the endpoint; called after the server has stopped."""
    global _metrics
    if _metrics is not None:
        _metrics.close()
        _metrics = None


def port() -> int | None:
    """Return the port of the endpoint, or None without one; for a configured port of 0."""
    return None if _metrics is None or _metrics.endpoint is None else _metrics.endpoint.port
