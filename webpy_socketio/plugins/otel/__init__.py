"""Traces for OpenTelemetry: a span for each message, linked to the handshake.

Add the plugin to ``SOCKETIO_PLUGINS``; it needs ``pip install "webpy_socketio[otel]"``, and an SDK
that the application configures. Spans are made by the global tracer provider, or by
``SOCKETIO_OTEL_TRACER_PROVIDER``.

Names and attributes are labels of handlers: the pattern of a channel, never its name.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio import ConfigurationError, Runtime

__all__ = ["install", "uninstall"]

#: The tracer of each runtime in which the plugin is installed.
_installed: dict[Runtime, Any] = {}


def install(settings: Any, runtime: Runtime) -> None:
    """Start tracing; called when the server starts.

    Args:
        settings: Settings of the server.
        runtime: Runtime of the server, whose messages are traced.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
    """
    try:
        from webpy_socketio.plugins.otel.tracer import MessageTracer
    except ImportError as error:
        raise ConfigurationError(
            f'webpy_socketio.plugins.otel needs the library "opentelemetry-api" ({error}): '
            'pip install "webpy_socketio[otel]"'
        ) from error
    tracer = _installed[runtime] = MessageTracer(settings.otel_tracer_provider, runtime)
    tracer.install()


def uninstall(runtime: Runtime) -> None:
    """Stop tracing; called after the server has stopped."""
    tracer = _installed.pop(runtime, None)
    if tracer is not None:
        tracer.uninstall()
