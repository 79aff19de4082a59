"""Bundled plugins. A plugin is a module named in ``SOCKETIO_PLUGINS`` that receives signals.

A plugin module may define any of these functions; one that only decorates handlers needs none:

- ``install(settings)`` is called when a server starts.
- ``uninstall()`` is called after it has stopped.
- ``namespaces(settings)`` is called for each server when it is created, and returns further
  namespaces, each with an application of the engine (`webpy_socketio.engine.Application`).
- ``examine(settings)`` is called by ``webpy-socketio doctor``.

The bundled plugins use public names only. The core imports them by the names in
``SOCKETIO_PLUGINS``:

- `webpy_socketio.plugins.admin`
- `webpy_socketio.plugins.message_logger`
- `webpy_socketio.plugins.metrics`
- `webpy_socketio.plugins.presence`
- `webpy_socketio.plugins.rate_limit`
"""

from __future__ import annotations

__all__: list[str] = []
