"""Prometheus metrics: connections, messages, bytes, handler durations and errors.

Add the plugin to ``SOCKETIO_PLUGINS``; it needs ``pip install "webpy_socketio[metrics]"``. The
metrics are registered in ``prometheus_client.REGISTRY``, or in ``SOCKETIO_METRICS_REGISTRY``. With
``SOCKETIO_METRICS_PORT`` they are also served on a separate port, by default on the loopback
interface only. Runtimes need a registry and a port each.

Labels are names of handlers: an event's label is its registered name, a channel's label is the
pattern that it matches. Names chosen by clients are labelled "other", so that clients cannot create
new time series.

Each process counts its own events. With ``serve --workers``, the supervisor listens on
``SOCKETIO_METRICS_PORT`` and returns the metrics of all workers, with the label ``worker``.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio import ConfigurationError, Runtime, default_runtime
from webpy_socketio.plugins.metrics.recorder import Recorder

__all__ = ["install", "port", "uninstall"]

#: Query of the supervisor, which serves the metrics of all workers.
QUERY = "metrics"


class _Metrics:
    """State of the plugin in one runtime."""

    def __init__(self, settings: Any, runtime: Runtime) -> None:
        exposition = _import()
        self.endpoint: Any = None
        self._recorder = Recorder(runtime)
        self._collector = exposition.Collector(self._recorder, runtime)
        self.registry = settings.metrics_registry
        if self.registry is None:
            self.registry = exposition.default_registry()
        if any(other.registry is self.registry for other in list(_installed.values())):
            raise ConfigurationError(
                "the metrics of another runtime are in the same registry, which cannot distinguish "
                "them: set SOCKETIO_METRICS_REGISTRY for this server to a separate "
                "CollectorRegistry of prometheus_client"
            )
        self.registry.register(self._collector)
        self._runtime = runtime
        if settings.metrics_port is not None and not runtime.is_supervised:
            try:
                self.endpoint = exposition.serve(settings, self.registry)
            except BaseException:
                self.registry.unregister(self._collector)
                raise
        runtime.answer_query(QUERY, lambda: exposition.as_text(self.registry))
        self._recorder.install()

    def close(self) -> None:
        self._runtime.answer_query(QUERY, None)
        self._recorder.uninstall()
        self.registry.unregister(self._collector)
        if self.endpoint is not None:
            self.endpoint.stop(timeout=0)  # without waiting for pending responses


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


#: The metrics of each runtime in which the plugin is installed.
_installed: dict[Runtime, _Metrics] = {}


def install(settings: Any, runtime: Runtime) -> None:
    """Start counting at zero; called when the server starts.

    Args:
        settings: Settings of the server.
        runtime: Runtime of the server, whose events are counted.

    Raises:
        ConfigurationError: prometheus_client is not installed, or another runtime uses the
            registry.
        ListenError: The address of the endpoint is not available.
    """
    _installed[runtime] = _Metrics(settings, runtime)


def uninstall(runtime: Runtime) -> None:
    """Stop counting and close the endpoint; called after the server has stopped."""
    metrics = _installed.pop(runtime, None)
    if metrics is not None:
        metrics.close()


def port(*, runtime: Runtime = default_runtime) -> int | None:
    """Return the port of the endpoint, or None without one; for a configured port of 0.

    None in a worker of ``serve``, whose supervisor has the endpoint and prints its address.

    Args:
        runtime: Runtime of the server.
    """
    metrics = _installed.get(runtime)
    return None if metrics is None or metrics.endpoint is None else metrics.endpoint.server_port
