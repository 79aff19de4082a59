"""Bundled plugins. A plugin is a module named in ``SOCKETIO_PLUGINS`` that receives signals.

A plugin module may define any of these functions; one that only decorates handlers needs none:

- ``install(settings, runtime)`` is called when the first server of a runtime starts.
- ``uninstall(runtime)`` is called after the last one has stopped.
- ``namespaces(settings, runtime)`` is called for each server when it is created, and returns
  further namespaces, each with an application of the engine (`webpy_socketio.engine.Application`).
- ``examine(settings)`` is called by ``webpy-socketio doctor``.

A plugin whose functions take no runtime serves the default runtime only. The bundled plugins have
separate state and settings in each runtime, and use public names only. The core imports them by the
names in ``SOCKETIO_PLUGINS``:

- `webpy_socketio.plugins.admin`
- `webpy_socketio.plugins.history`
- `webpy_socketio.plugins.message_logger`
- `webpy_socketio.plugins.metrics`
- `webpy_socketio.plugins.otel`
- `webpy_socketio.plugins.presence`
- `webpy_socketio.plugins.rate_limit`
"""

from __future__ import annotations

__all__: list[str] = []
